"""What leaves, in order, through whatever happens to the stream."""

from __future__ import annotations

from functools import partial

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from component_http.contract.outbound import Fate, Head, OutboundStanza, Refused
from component_http.operations.metrics import Counters
from component_http.xmpp.write_queue import MAX_BYTES, Loss, WriteQueue

WHY = Refused("policy-violation", "a remedy")

STEPS = st.lists(st.sampled_from(["add", "add", "write", "write", "ask", "answer", "stale", "lose"]), max_size=60)


def numbered(number: int) -> OutboundStanza:
    return OutboundStanza(b"%d" % number, "message", 1.0, 0.0)


class Keeper:
    """
    Somebody who keeps stanzas, and brings them again where the stream was lost: at once, or when the test says so.

    Attributes:
        rows: What he still keeps, by number.
        fates: How those ended that he does not, and every fate that he was told, by number.
    """

    def __init__(self, queue: WriteQueue, *, patient: bool = False) -> None:
        self.rows: dict[int, OutboundStanza] = {}
        self.fates: dict[int, Fate] = {}
        self.told: dict[int, list[Fate]] = {}
        self._queue = queue
        self._patient = patient

    def add(self, number: int, *, again: bool = False) -> bool:
        row = self.rows.setdefault(number, numbered(number))
        self.told[number] = []
        return self._queue.add(row, partial(self.tell, number), again=again)

    def tell(self, number: int, fate: Fate) -> None:
        self.told[number].append(fate)
        if fate == "suspected":
            self.rows[number] = evolve(self.rows[number], suspect=True)
        if fate not in ("lost", "suspected"):
            self.fates[number] = fate
            del self.rows[number]
        elif not self._patient:
            self.add(number, again=True)

    def bring_again(self) -> None:
        for number in sorted(self.rows):
            self.add(number, again=True)


def write(queue: WriteQueue) -> int:
    """Write the first that waits; returns its number."""
    taken = queue.take(0.0)
    assert taken is not None
    queue.note(*taken)
    return int(taken[0].xml)


class WriteQueueTests(SynchronousTestCase):
    """What is neither lost nor turned round."""

    @given(STEPS, st.booleans())
    def test_what_is_unconfirmed_comes_again_in_order(self, steps: list[str], patient: bool) -> None:
        """
        A barrier confirms what was written on its own stream before it, and nothing else; the rest comes in order.
        """
        queue = WriteQueue(Counters())
        keeper = Keeper(queue, patient=patient)
        added = 0
        confirmed = -1
        on_stream: list[int] = []
        asked: list[tuple[int, int | None]] = []
        stale: list[int] = []
        for step in [*steps, "lose"]:
            if step == "add":
                self.assertTrue(keeper.add(added))
                added += 1
            elif step == "write" and queue:
                on_stream.append(write(queue))
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
                if patient:
                    keeper.bring_again()
                stale += [written for written, _ in asked]
                asked, on_stream = [], []
        left = [write(queue) for _ in range(len(queue))]
        self.assertEqual(list(range(confirmed + 1, added)), left)

    @given(st.lists(st.sampled_from(["add", "add", "write", "write", "ask", "answer", "lose"]), max_size=60))
    def test_every_keeper_is_told(self, steps: list[str]) -> None:
        """
        Whoever keeps a stanza is told exactly one fate of it, in order, and it is never written afterwards.
        """
        queue = WriteQueue(Counters())
        keeper = Keeper(queue, patient=True)
        asked: list[int] = []
        for step in [*steps, "write", "lose"]:
            if step == "add":
                keeper.add(len(keeper.told))
            elif step == "write" and queue:
                self.assertEqual([], keeper.told[write(queue)])
            elif step == "ask":
                asked.append(queue.written)
            elif step == "answer" and asked:
                queue.confirm(asked.pop(0))
                confirmed = [number for number, told in keeper.told.items() if told == ["confirmed"]]
                self.assertEqual(sorted(confirmed), confirmed)
            elif step == "lose":
                queue.lost()
                asked.clear()
                self.assertTrue(all(len(told) == 1 for told in keeper.told.values()), keeper.told)
                self.assertEqual((0, 0), (queue.unconfirmed, len(queue)))

    @given(
        st.integers(0, 20),
        st.booleans(),
        st.sets(st.integers(0, 19), max_size=4),
        st.integers(1, 10),
        st.booleans(),
    )
    def test_what_the_server_refuses(
        self, made: int, patient: bool, refused: set[int], batch: int, certain: bool
    ) -> None:
        """
        Exactly the stanzas over which the server ends the stream are not sent; all others are, each at most as often
        as streams ended while it was unconfirmed.
        """
        queue = WriteQueue(Counters())
        keeper = Keeper(queue, patient=patient)
        taken: list[int] = []
        streams = 0
        for number in range(made):
            keeper.add(number)
        while queue and streams < 100:
            streams += 1
            dead = False
            while queue and not dead:
                for _ in range(batch):
                    if not queue or queue.on_trial or dead:
                        break
                    number = write(queue)
                    dead = number in refused
                    if not dead:
                        taken.append(number)
                if not dead:
                    queue.confirm(queue.written)
            if dead:
                queue.lost(WHY, certain=certain)
                if patient:
                    keeper.bring_again()
        to_be_refused = refused & set(range(made))
        self.assertEqual({n: WHY if n in refused else "confirmed" for n in range(made)}, keeper.fates)
        self.assertEqual(set(range(made)) - refused, set(taken))
        self.assertLessEqual(streams, 1 + len(to_be_refused) * (2 if certain else 4))

    def test_a_server_that_ends_every_stream(self) -> None:
        """
        No stanza is blamed by a server that has answered nothing on that stream, nor where the stream ended for
        another reason.
        """
        queue = WriteQueue(Counters())
        Keeper(queue).add(1)
        write(queue)
        self.assertTrue(queue.lost(WHY, certain=True).suspected)
        self.assertTrue(queue.on_trial)
        self.assertEqual(Loss(0), queue.lost(WHY, certain=True))
        queue.confirm(queue.written)
        write(queue)
        self.assertEqual(Loss(1), queue.lost())
        self.assertEqual((1, True), (len(queue), queue.on_trial))

    def test_streams_that_end(self) -> None:
        """
        A stream that just ends makes nothing suspect, nor do two where something was confirmed on the second.
        """
        queue = WriteQueue(Counters())
        keeper = Keeper(queue)
        keeper.add(1)
        write(queue)
        self.assertFalse(queue.lost(WHY).suspected)
        write(queue)
        queue.confirm(queue.written)
        keeper.add(2)
        write(queue)
        self.assertFalse(queue.lost(WHY).suspected)
        write(queue)
        self.assertTrue(queue.lost(WHY).suspected)

    def test_keeper_of_what_expired(self) -> None:
        """
        What is taken too late is told as expired.
        """
        queue = WriteQueue(Counters())
        keeper = Keeper(queue)
        keeper.add(1)
        self.assertIsNone(queue.take(1.0))
        self.assertEqual({1: "expired"}, keeper.fates)

    def test_question(self) -> None:
        """
        What must not be written twice is over as soon as it is written.
        """
        queue = WriteQueue(Counters())
        told: list[Fate] = []
        queue.note(OutboundStanza(b"?", "iq", 1.0, 0.0, Head("get")), told.append)
        self.assertEqual((["confirmed"], 0), (told, queue.unconfirmed))

    def test_give_back(self) -> None:
        """
        What waits can be given back to who keeps it; what was written stays.
        """
        queue = WriteQueue(Counters())
        keeper = Keeper(queue, patient=True)
        keeper.add(1)
        write(queue)
        keeper.add(2)
        queue.give_back()
        self.assertEqual(({1: [], 2: ["lost"]}, 0, 1), (keeper.told, len(queue), queue.unconfirmed))

    def test_drop(self) -> None:
        """
        At the end it is told of what waits that it never leaves, and nothing of what was written.
        """
        queue = WriteQueue(Counters())
        keeper = Keeper(queue)
        keeper.add(1)
        write(queue)
        keeper.add(2)
        queue.drop()
        self.assertEqual(({2: "stopped"}, 0, 0), (keeper.fates, len(queue), queue.unconfirmed))

    def test_what_comes_again_has_room(self) -> None:
        """
        What was taken comes again though the room is full; only what is new finds none.
        """
        queue = WriteQueue(Counters(), 2)
        keeper = Keeper(queue)
        for number in range(2):
            keeper.add(number)
            write(queue)
        for number in range(2, 4):
            keeper.add(number)
        queue.lost()
        self.assertEqual(4, len(queue))
        self.assertFalse(keeper.add(4))
        self.assertEqual([0, 1, 2, 3], [write(queue) for _ in range(4)])
        self.assertTrue(queue.add(OutboundStanza(b"x" * MAX_BYTES, "message", 1.0, 0.0), [].append))

    def test_too_many_unconfirmed(self) -> None:
        """
        Of more unconfirmed stanzas than are remembered the oldest count as sent; the others are written again.
        """
        counters = Counters()
        queue = WriteQueue(counters, most_unconfirmed=2)
        keeper = Keeper(queue)
        for number in range(5):
            keeper.add(number)
            write(queue)
        self.assertEqual(dict.fromkeys(range(3), "confirmed"), keeper.fates)
        self.assertEqual(3, counters["unconfirmed_forgotten"])
        queue.confirm(4)
        self.assertEqual("confirmed", keeper.fates[3])
        queue.lost()
        self.assertEqual([4], [write(queue) for _ in range(len(queue))])
