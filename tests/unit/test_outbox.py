"""What leaves, in order, through whatever happens to the stream."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

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
