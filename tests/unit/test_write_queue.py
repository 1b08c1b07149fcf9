"""What leaves, in order, through whatever happens to the stream."""

from __future__ import annotations

from functools import partial

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from component_http.contract.outbound import Fate, Refused
from component_http.operations.metrics import Counters
from component_http.xmpp.write_queue import MAX_BYTES, Loss, Queued, WriteQueue

WHY = Refused("policy-violation", "a remedy")

STEPS = st.lists(st.sampled_from(["add", "add", "write", "write", "ask", "answer", "stale", "lose"]), max_size=60)


def numbered(number: int) -> Queued:
    return Queued(b"%d" % number, 1.0, True)


class WriteQueueTests(SynchronousTestCase):
    """What is neither lost nor turned round."""

    @given(STEPS)
    def test_what_is_unconfirmed_comes_again_in_order(self, steps: list[str]) -> None:
        """
        A barrier confirms what was written on its own stream before it, and nothing else; the rest comes in order.
        """
        queue = WriteQueue(Counters())
        added = 0
        confirmed = -1
        on_stream: list[int] = []
        asked: list[tuple[int, int | None]] = []
        stale: list[int] = []
        for step in steps:
            if step == "add":
                self.assertTrue(queue.add(numbered(added)))
                added += 1
            elif step == "write" and queue:
                stanza = queue.take(0.0)
                assert stanza is not None
                queue.note(stanza)
                on_stream.append(int(stanza.xml))
                self.assertEqual(list(range(on_stream[0], on_stream[-1] + 1)), on_stream)
            elif step == "ask":
                asked.append((queue.written, on_stream[-1] if on_stream else None))
            elif step == "answer" and asked:
                written, last = asked.pop(0)
                queue.confirm(written)
                confirmed = confirmed if last is None else max(confirmed, last)
            elif step == "stale" and stale:
                queue.confirm(stale.pop(0))
            elif step == "lose":
                queue.lost()
                stale += [written for written, _ in asked]
                asked, on_stream = [], []
        queue.lost()
        left = []
        while queue:
            stanza = queue.take(0.0)
            assert stanza is not None
            left.append(int(stanza.xml))
        self.assertEqual(list(range(confirmed + 1, added)), left)

    @given(st.lists(st.sampled_from(["add", "keep", "keep", "write", "write", "ask", "answer", "lose"]), max_size=60))
    def test_every_keeper_is_told(self, steps: list[str]) -> None:
        """
        Whoever keeps a stanza is told exactly one fate of it, in order, and it is never written afterwards.
        """
        queue = WriteQueue(Counters())
        fates: dict[int, list[Fate]] = {}
        asked: list[int] = []
        added = 0
        for step in [*steps, "write", "lose"]:
            if step == "add":
                queue.add(numbered(added))
                added += 1
            elif step == "keep":
                fates[added] = []
                queue.add(evolve(numbered(added), tell=fates[added].append, kept=True))
                added += 1
            elif step == "write" and queue:
                stanza = queue.take(0.0)
                assert stanza is not None
                self.assertEqual([], fates.get(int(stanza.xml), []))
                queue.note(stanza)
            elif step == "ask":
                asked.append(queue.written)
            elif step == "answer" and asked:
                queue.confirm(asked.pop(0))
                confirmed = [number for number, told in fates.items() if told == ["confirmed"]]
                self.assertEqual(sorted(confirmed), confirmed)
            elif step == "lose":
                queue.lost()
                asked.clear()
                self.assertTrue(all(len(told) == 1 for told in fates.values()), fates)
                self.assertEqual(0, queue.unconfirmed)

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
        queue = WriteQueue(Counters())
        rows: dict[int, Queued] = {}
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
            queue.add(made_of_it)
            if how == "kept":
                rows[number] = made_of_it
        while queue and streams < 100:
            streams += 1
            dead = False
            while queue and not dead:
                for _ in range(batch):
                    if not queue or queue.on_trial or dead:
                        break
                    stanza = queue.take(0.0)
                    assert stanza is not None
                    queue.note(stanza)
                    number = int(stanza.xml)
                    dead = number in refused
                    if not dead:
                        taken.append(number)
                if not dead:
                    queue.confirm(queue.written)
            if dead:
                loss = queue.lost(WHY, certain=certain)
                if loss.untold is not None:
                    untold.add(int(loss.untold.xml))
                for _, row in sorted(rows.items()):
                    self.assertTrue(queue.add(row))
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
        queue = WriteQueue(Counters())
        queue.note(numbered(1))
        self.assertTrue(queue.lost(WHY, certain=True).suspected)
        self.assertTrue(queue.on_trial)
        self.assertEqual(Loss(0), queue.lost(WHY, certain=True))
        queue.confirm(queue.written)
        queue.note(queue.take(0.0) or numbered(-1))
        self.assertEqual(Loss(1), queue.lost())
        self.assertEqual((1, True), (len(queue), queue.on_trial))

    def test_streams_that_end(self) -> None:
        """
        A stream that just ends makes nothing suspect, nor do two where something was confirmed on the second.
        """
        queue = WriteQueue(Counters())
        queue.note(numbered(1))
        self.assertFalse(queue.lost(WHY).suspected)
        queue.note(queue.take(0.0) or numbered(-1))
        queue.confirm(queue.written)
        queue.note(numbered(2))
        self.assertFalse(queue.lost(WHY).suspected)
        queue.note(queue.take(0.0) or numbered(-1))
        self.assertTrue(queue.lost(WHY).suspected)

    def test_keeper_of_what_expired(self) -> None:
        """
        What is taken too late is told as expired.
        """
        queue = WriteQueue(Counters())
        told: list[Fate] = []
        queue.add(Queued(b"x", 1.0, True, tell=told.append))
        self.assertIsNone(queue.take(1.0))
        self.assertEqual(["expired"], told)

    def test_give_back(self) -> None:
        """
        What waits and somebody keeps can be given back; the rest goes on waiting.
        """
        queue = WriteQueue(Counters())
        told: list[Fate] = []
        written = Queued(b"w", 1.0, True, tell=told.append, kept=True)
        queue.note(written)
        queue.add(evolve(written, xml=b"x"))
        queue.add(numbered(1))
        queue.give_back()
        self.assertEqual((["lost"], 1, 1), (told, len(queue), queue.unconfirmed))

    def test_drop(self) -> None:
        """
        What is dropped at the end is lost only where nobody else keeps it.
        """
        queue = WriteQueue(Counters())
        queue.add(numbered(1))
        queue.add(evolve(numbered(2), tell=[].append, kept=True))
        self.assertEqual(1, queue.drop())

    def test_what_comes_again_has_room(self) -> None:
        """
        What was written waits again though the room is full; only what is new finds none.
        """
        queue = WriteQueue(Counters(), 2)
        for number in range(2):
            queue.note(numbered(number))
            queue.add(numbered(number + 2))
        queue.lost()
        self.assertEqual(4, len(queue))
        self.assertFalse(queue.add(numbered(4)))
        self.assertEqual([b"0", b"1", b"2", b"3"], [(queue.take(0.0) or numbered(-1)).xml for _ in range(4)])
        self.assertTrue(queue.add(Queued(b"x" * MAX_BYTES, 1.0, True)))
