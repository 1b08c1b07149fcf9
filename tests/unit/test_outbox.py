"""What leaves, in order, through whatever happens to the stream."""

from __future__ import annotations

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from component_http.delivery.departure import Fate
from component_http.operations.metrics import Counters
from component_http.xmpp.outbox import MAX_BYTES, Outbox, Outgoing

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
                outbox.add(evolve(numbered(added), tell=fates[added].append))
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

    def test_keeper_of_what_expired(self) -> None:
        """
        What is taken too late is told as expired.
        """
        outbox = Outbox(Counters())
        told: list[Fate] = []
        outbox.add(Outgoing(b"x", 1.0, True, tell=told.append))
        self.assertIsNone(outbox.take(1.0))
        self.assertEqual(["expired"], told)

    def test_drop(self) -> None:
        """
        What is dropped at the end is lost only where nobody else keeps it.
        """
        outbox = Outbox(Counters())
        outbox.add(numbered(1))
        outbox.add(evolve(numbered(2), tell=[].append))
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
