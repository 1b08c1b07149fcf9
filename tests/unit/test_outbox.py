"""What leaves, in order, through whatever happens to the stream."""

from __future__ import annotations

from functools import partial

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from component_http.delivery.departure import Fate, Refused
from component_http.operations.metrics import Counters
from component_http.xmpp.outbox import MAX_BYTES, Loss, Outbox, Outgoing

WHY = Refused("policy-violation", "a remedy")

STEPS = st.lists(st.sampled_from(["add", "add", "write", "write", "ask", "answer", "stale", "lose"]), max_size=60)


def numbered(number: int) -> Outgoing:
    return Outgoing(b"%d" % number, 1.0, True)


class OutboxTests(SynchronousTestCase):
    """What is neither lost nor turned round."""

    @given(STEPS)
    def test_what_is_unconfirmed_comes_again_in_order(self, steps: list[str]) -> None:
        """
        A barrier confirms what was written on its own stream before it, and nothing else; the rest comes in order.
        """
        outbox = Outbox(Counters())
        added = 0
        confirmed = -1
        on_stream: list[int] = []
        asked: list[tuple[int, int | None]] = []
        stale: list[int] = []
        for step in steps:
            if step == "add":
                self.assertTrue(outbox.add(numbered(added)))
                added += 1
            elif step == "write" and outbox:
                stanza = outbox.take(0.0)
                assert stanza is not None
                outbox.note(stanza)
                on_stream.append(int(stanza.xml))
                self.assertEqual(list(range(on_stream[0], on_stream[-1] + 1)), on_stream)
            elif step == "ask":
                asked.append((outbox.written, on_stream[-1] if on_stream else None))
            elif step == "answer" and asked:
                written, last = asked.pop(0)
                outbox.confirm(written)
                confirmed = confirmed if last is None else max(confirmed, last)
            elif step == "stale" and stale:
                outbox.confirm(stale.pop(0))
            elif step == "lose":
                outbox.lost()
                stale += [written for written, _ in asked]
                asked, on_stream = [], []
        outbox.lost()
        left = []
        while outbox:
            stanza = outbox.take(0.0)
            assert stanza is not None
            left.append(int(stanza.xml))
        self.assertEqual(list(range(confirmed + 1, added)), left)

    @given(st.lists(st.sampled_from(["add", "keep", "keep", "write", "write", "ask", "answer", "lose"]), max_size=60))
    def test_every_keeper_is_told(self, steps: list[str]) -> None:
        """
        Whoever keeps a stanza is told exactly one fate of it, in order, and it is never written afterwards.
        """
        outbox = Outbox(Counters())
        fates: dict[int, list[Fate]] = {}
        asked: list[int] = []
        added = 0
        for step in [*steps, "write", "lose"]:
            if step == "add":
                outbox.add(numbered(added))
                added += 1
            elif step == "keep":
                fates[added] = []
                outbox.add(evolve(numbered(added), tell=fates[added].append, kept=True))
                added += 1
            elif step == "write" and outbox:
                stanza = outbox.take(0.0)
                assert stanza is not None
                self.assertEqual([], fates.get(int(stanza.xml), []))
                outbox.note(stanza)
            elif step == "ask":
                asked.append(outbox.written)
            elif step == "answer" and asked:
                outbox.confirm(asked.pop(0))
                confirmed = [number for number, told in fates.items() if told == ["confirmed"]]
                self.assertEqual(sorted(confirmed), confirmed)
            elif step == "lose":
                outbox.lost()
                asked.clear()
                self.assertTrue(all(len(told) == 1 for told in fates.values()), fates)
                self.assertEqual(0, outbox.unconfirmed)

    @given(
        st.lists(st.sampled_from(["own", "told", "kept"]), max_size=20),
        st.sets(st.integers(0, 19), max_size=4),
        st.integers(1, 10),
        st.booleans(),
    )
    def test_what_the_server_refuses(self, made: list[str], refused: set[int], batch: int, certain: bool) -> None:
        """
        Exactly the stanzas over which the server ends the stream are not sent; all others are, each at most as often
        as streams ended while it was unconfirmed.
        """
        outbox = Outbox(Counters())
        rows: dict[int, Outgoing] = {}
        fates: dict[int, Fate] = {}
        untold: set[int] = set()
        taken: list[int] = []
        streams = 0

        def tell(number: int, fate: Fate) -> None:
            if fate == "suspected":
                rows[number] = evolve(rows[number], suspect=True)
            elif fate != "lost":
                fates[number] = fate
                rows.pop(number, None)

        for number, how in enumerate(made):
            made_of_it = numbered(number)
            if how != "own":
                made_of_it = evolve(made_of_it, tell=partial(tell, number), kept=how == "kept")
            outbox.add(made_of_it)
            if how == "kept":
                rows[number] = made_of_it
        while outbox and streams < 100:
            streams += 1
            dead = False
            while outbox and not dead:
                for _ in range(batch):
                    if not outbox or outbox.on_trial or dead:
                        break
                    stanza = outbox.take(0.0)
                    assert stanza is not None
                    outbox.note(stanza)
                    number = int(stanza.xml)
                    dead = number in refused
                    if not dead:
                        taken.append(number)
                if not dead:
                    outbox.confirm(outbox.written)
            if dead:
                loss = outbox.lost(WHY, certain=certain)
                if loss.untold is not None:
                    untold.add(int(loss.untold.xml))
                for _, row in sorted(rows.items()):
                    self.assertTrue(outbox.add(row))
        to_be_refused = refused & set(range(len(made)))
        self.assertEqual({n for n in to_be_refused if made[n] == "own"}, untold)
        told = {n: WHY if n in refused else "confirmed" for n, how in enumerate(made) if how != "own"}
        self.assertEqual(told, fates)
        self.assertEqual(set(range(len(made))) - refused, set(taken))
        self.assertLessEqual(streams, 1 + len(to_be_refused) * (2 if certain else 4))

    def test_a_server_that_ends_every_stream(self) -> None:
        """
        No stanza is blamed by a server that has answered nothing on that stream, nor where the stream ended for
        another reason.
        """
        outbox = Outbox(Counters())
        outbox.note(numbered(1))
        self.assertTrue(outbox.lost(WHY, certain=True).suspected)
        self.assertTrue(outbox.on_trial)
        self.assertEqual(Loss(0), outbox.lost(WHY, certain=True))
        outbox.confirm(outbox.written)
        outbox.note(outbox.take(0.0) or numbered(-1))
        self.assertEqual(Loss(1), outbox.lost())
        self.assertEqual((1, True), (len(outbox), outbox.on_trial))

    def test_streams_that_end(self) -> None:
        """
        A stream that just ends makes nothing suspect, nor do two where something was confirmed on the second.
        """
        outbox = Outbox(Counters())
        outbox.note(numbered(1))
        self.assertFalse(outbox.lost(WHY).suspected)
        outbox.note(outbox.take(0.0) or numbered(-1))
        outbox.confirm(outbox.written)
        outbox.note(numbered(2))
        self.assertFalse(outbox.lost(WHY).suspected)
        outbox.note(outbox.take(0.0) or numbered(-1))
        self.assertTrue(outbox.lost(WHY).suspected)

    def test_keeper_of_what_expired(self) -> None:
        """
        What is taken too late is told as expired.
        """
        outbox = Outbox(Counters())
        told: list[Fate] = []
        outbox.add(Outgoing(b"x", 1.0, True, tell=told.append))
        self.assertIsNone(outbox.take(1.0))
        self.assertEqual(["expired"], told)

    def test_give_back(self) -> None:
        """
        What waits and somebody keeps can be given back; the rest goes on waiting.
        """
        outbox = Outbox(Counters())
        told: list[Fate] = []
        written = Outgoing(b"w", 1.0, True, tell=told.append, kept=True)
        outbox.note(written)
        outbox.add(evolve(written, xml=b"x"))
        outbox.add(numbered(1))
        outbox.give_back()
        self.assertEqual((["lost"], 1, 1), (told, len(outbox), outbox.unconfirmed))

    def test_drop(self) -> None:
        """
        What is dropped at the end is lost only where nobody else keeps it.
        """
        outbox = Outbox(Counters())
        outbox.add(numbered(1))
        outbox.add(evolve(numbered(2), tell=[].append, kept=True))
        self.assertEqual(1, outbox.drop())

    def test_what_comes_again_has_room(self) -> None:
        """
        What was written waits again though the room is full; only what is new finds none.
        """
        outbox = Outbox(Counters(), 2)
        for number in range(2):
            outbox.note(numbered(number))
            outbox.add(numbered(number + 2))
        outbox.lost()
        self.assertEqual(4, len(outbox))
        self.assertFalse(outbox.add(numbered(4)))
        self.assertEqual([b"0", b"1", b"2", b"3"], [(outbox.take(0.0) or numbered(-1)).xml for _ in range(4)])
        self.assertTrue(outbox.add(Outgoing(b"x" * MAX_BYTES, 1.0, True)))
