"""What is said once in a while."""

from __future__ import annotations

import weakref

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from component_http.throttle import Folded, Throttle
from tests.unit.test_backlog import ALICE, BOB, Watched, remembered


class ThrottleTests(SynchronousTestCase):
    """A sender whose stanzas are refused is told once in a while."""

    def test_once_per_second(self) -> None:
        """
        A sender is told once in a second, and again when the second is over.
        """
        throttle = Throttle(1.0)
        self.assertEqual([True, False, False, True], [throttle.may_tell(ALICE, now) for now in (5.0, 5.0, 5.9, 6.0)])

    def test_senders_are_told_apart(self) -> None:
        """
        That one sender was told does not keep another from being told.
        """
        throttle = Throttle(1.0)
        self.assertEqual([True, True], [throttle.may_tell(sender, 5.0) for sender in (ALICE, BOB)])

    def test_not_told_does_not_count(self) -> None:
        """
        A sender who keeps asking is still told once a second: only what was told counts.
        """
        throttle = Throttle(1.0)
        self.assertEqual(3, sum(throttle.may_tell(ALICE, tenth / 10) for tenth in range(30)))

    def test_clock_set_back(self) -> None:
        """
        A clock that was set back by an hour does not silence anybody for an hour.
        """
        throttle = Throttle(1.0)
        self.assertEqual([True, True], [throttle.may_tell(ALICE, now) for now in (4000.0, 400.0)])

    def test_forgotten(self) -> None:
        """
        Who was told longer ago than the interval is not remembered.
        """
        throttle = Throttle(2.0)
        told = [Watched(f"guest-{number}@example.org") for number in range(100)]
        for sender in told:
            throttle.may_tell(sender, 5.0)
        watched = [weakref.ref(sender) for sender in told]
        del told, sender
        throttle.may_tell(ALICE, 7.0)
        self.assertEqual([], remembered(watched))

    @given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9))))
    def test_any_schedule(self, questions) -> None:
        """
        Whoever asks when: each is told exactly if it was not told within the interval before.
        """
        throttle, now, told = Throttle(10.0), 0, {}
        for sender, later in questions:
            now += later
            may = now - told.get(sender, -10) >= 10
            self.assertEqual(may, throttle.may_tell(sender, now))
            if may:
                told[sender] = now


class FoldedTests(SynchronousTestCase):
    """Log lines that a stranger can cause with each stanza."""

    def setUp(self) -> None:
        self.now = 5.0
        self.lines: list[str] = []
        self.folded = Folded(lambda: self.now, interval=60.0)

    def write(self, about: str = "malformed", reason: str = "no 'to'") -> None:
        self.folded.write(
            about, lambda line, **fields: self.lines.append(line.format(**fields)), "ignored: {reason}", reason=reason
        )

    def test_one_in_an_interval(self) -> None:
        """
        The first is written at once, and the first after the interval says how many were left out.
        """
        for self.now in (5.0, 5.0, 30.0, 64.9, 65.0, 66.0, 200.0, 300.0):
            self.write()
        self.assertEqual(
            [
                "ignored: no 'to'",
                "ignored: no 'to' (3 more left out before)",
                "ignored: no 'to' (1 more left out before)",
                "ignored: no 'to'",
            ],
            self.lines,
        )

    def test_told_apart(self) -> None:
        """
        A flood of one sort does not hide another.
        """
        for _ in range(3):
            self.write()
        self.write("oversized", reason="{reason}")
        self.assertEqual(["ignored: no 'to'", "ignored: {reason}"], self.lines)
