"""When each delivery has to have ended."""

from __future__ import annotations

import weakref

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from component_http.delivery.deadlines import Deadlines


class Watched(str):
    """A string that can be seen to be forgotten."""

    __slots__ = ("__weakref__",)


def some_deadlines(*entries):
    deadlines = Deadlines()
    for delivery_id, lane, at in entries:
        deadlines.add(delivery_id, lane, at)
    return deadlines


class DeadlinesTests(SynchronousTestCase):
    """Each deadline is noticed in time, and one that is not needed any more costs nothing."""

    def test_none(self) -> None:
        """
        With nothing pending there is no next deadline, and nothing is due.
        """
        self.assertEqual((None, []), (Deadlines().next(), Deadlines().due(1e9)))

    def test_earliest_of_all_lanes(self) -> None:
        """
        The next deadline is the earliest of all kinds, whatever came first.
        """
        deadlines = some_deadlines(("m", "message", 900.0), ("i", "iq", 25.0), ("p", "presence", 60.0))
        self.assertEqual(25.0, deadlines.next())

    def test_due_in_order_of_time(self) -> None:
        """
        What is due comes in order of time, across kinds; a deadline has come at its very moment.
        """
        deadlines = some_deadlines(("m1", "message", 10.0), ("m2", "message", 30.0), ("i1", "iq", 20.0))
        self.assertEqual(["m1", "i1", "m2"], deadlines.due(30.0))

    def test_later_ones_stay(self) -> None:
        """
        What is not due yet is still there afterwards.
        """
        deadlines = some_deadlines(("m1", "message", 10.0), ("m2", "message", 30.1))
        self.assertEqual((["m1"], 30.1), (deadlines.due(30.0), deadlines.next()))

    def test_due_once(self) -> None:
        """
        What was due once is not due again.
        """
        deadlines = some_deadlines(("m", "message", 10.0))
        deadlines.due(10.0)
        self.assertEqual(([], None), (deadlines.due(10.0), deadlines.next()))

    def test_removed(self) -> None:
        """
        A delivery that has ended before its deadline is not due, be it the first, the last or between.
        """
        for ended in ("m1", "m2", "m3"):
            deadlines = some_deadlines(*((f"m{number}", "message", float(number)) for number in (1, 2, 3)))
            deadlines.remove(ended)
            self.assertEqual(sorted({"m1", "m2", "m3"} - {ended}), deadlines.due(3.0))

    def test_removed_twice(self) -> None:
        """
        Removing one that is gone, or was due, is no error.
        """
        deadlines = some_deadlines(("m1", "message", 1.0), ("m2", "message", 2.0))
        deadlines.remove("m1")
        deadlines.remove("m1")
        deadlines.due(2.0)
        deadlines.remove("m2")
        self.assertIsNone(deadlines.next())

    def test_early_for_its_lane(self) -> None:
        """
        One that comes earlier than the last of its kind, restored with little time left, is due in its time.
        """
        deadlines = some_deadlines(*((str(at), "message", float(at)) for at in (10, 30, 20, 5, 40)))
        self.assertEqual((5.0, ["5", "10", "20"]), (deadlines.next(), deadlines.due(29.0)))

    def test_early_and_removed(self) -> None:
        """
        Of those that came early for their kind, exactly the one that has ended is not due.
        """
        deadlines = some_deadlines(*((str(at), "message", float(at)) for at in (30, 10, 20)))
        deadlines.remove("20")
        self.assertEqual(["10", "30"], deadlines.due(30.0))

    def test_known_id_again(self) -> None:
        """
        An id that has a deadline cannot get another.
        """
        with self.assertRaisesRegex(ValueError, "m has a deadline already"):
            some_deadlines(("m", "message", 1.0), ("m", "iq", 2.0))

    def test_forgotten_at_once(self) -> None:
        """
        A delivery that has ended is not remembered until its deadline, be it in order or early for its kind.
        """
        deadlines = some_deadlines(("first", "message", 900.0))
        ended = [Watched(f"m{number}") for number in range(100)]
        for number, delivery_id in enumerate(ended):
            deadlines.add(delivery_id, "message", 901.0 - number // 50)
        deadlines.add("last", "message", 902.0)
        for delivery_id in ended:
            deadlines.remove(delivery_id)
        watched = [weakref.ref(delivery_id) for delivery_id in ended]
        del ended, delivery_id
        self.assertEqual([None] * 100, [reference() for reference in watched])

    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("add"), st.sampled_from(["message", "iq"]), st.integers(0, 100)),
                st.tuples(st.just("add"), st.sampled_from(["message", "iq"]), st.integers(0, 100)),
                st.tuples(st.just("remove"), st.integers(0, 60)),
                st.tuples(st.just("due"), st.integers(0, 50)),
            ),
            min_size=10,
            max_size=60,
        )
    )
    def test_any_schedule(self, steps) -> None:
        """
        Whatever is added and removed in whatever order: the same is due as in a plain list, in order of time.
        """
        deadlines, expected = Deadlines(), {}
        for number, step in enumerate(steps):
            match step:
                case "add", lane, at:
                    deadlines.add(f"d{number}", lane, at)
                    expected[f"d{number}"] = at
                case "remove", which:
                    ended = [*expected, "gone"][which % (len(expected) + 1)]
                    deadlines.remove(ended)
                    expected.pop(ended, None)
                case "due", now:
                    due = deadlines.due(now)
                    self.assertEqual({d for d, at in expected.items() if at <= now}, set(due))
                    self.assertEqual(sorted(expected[d] for d in due), [expected.pop(d) for d in due])
            self.assertEqual(min(expected.values(), default=None), deadlines.next())
        self.assertEqual(sorted(expected.values()), [expected[d] for d in deadlines.due(100)])
