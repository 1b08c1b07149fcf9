"""A reactor whose timers do not mind who sets the clock."""

from __future__ import annotations

import time

from twisted.internet.base import DelayedCall, ReactorBase
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from component_http.clock import use_steady_clock


class WallClockReactor(ReactorBase):
    """A reactor as Twisted's are, that never runs."""

    def installWaker(self) -> None:
        """There is no other thread."""


class SteadyClockTests(SynchronousTestCase):
    """Waiting by a clock that nobody sets."""

    def setUp(self) -> None:
        self.reactor = WallClockReactor()

    def test_timers(self) -> None:
        """
        What is scheduled, moved or asked for goes by the steady clock, and runs.
        """
        self.assertIs(time.time, self.reactor.seconds)
        self.assertTrue(use_steady_clock(self.reactor))
        ran: list[str] = []
        before = time.monotonic()
        soon = self.reactor.callLater(3600, ran.append, "soon")
        later = self.reactor.callLater(60, ran.append, "later")
        assert isinstance(soon, DelayedCall)
        self.assertTrue(before + 3600 <= soon.getTime() <= time.monotonic() + 3600)
        soon.reset(0)
        later.delay(60)
        self.assertTrue(before + 120 <= later.getTime() <= time.monotonic() + 120)
        timeout = self.reactor.timeout()
        self.assertEqual(0, timeout)
        self.reactor.runUntilCurrent()
        self.assertEqual(["soon"], ran)
        remaining = self.reactor.timeout()
        assert remaining is not None
        self.assertTrue(100 < remaining <= 120)
        later.cancel()

    def test_again(self) -> None:
        """
        Asking twice is as good as once.
        """
        self.assertTrue(use_steady_clock(self.reactor))
        self.reactor.callLater(1, list)
        self.assertTrue(use_steady_clock(self.reactor))

    def test_clock_of_its_own(self) -> None:
        """
        A reactor that does not take the wall clock keeps what it has.
        """
        clock = Clock()
        self.assertTrue(use_steady_clock(clock))
        self.assertEqual(0, clock.seconds())

    def test_too_late(self) -> None:
        """
        Where something waits by the wall clock already, that stays, and the answer is no.
        """
        self.reactor.callLater(1, list)
        self.assertFalse(use_steady_clock(self.reactor))
        self.assertIs(time.time, self.reactor.seconds)
