"""A reactor whose timers do not mind who sets the clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.internet.base import DelayedCall, ReactorBase
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from component_http.clock import steady_reactor


class WallClockReactor(ReactorBase):
    """A reactor as Twisted's are, that never runs."""

    def installWaker(self) -> None:
        """There is no other thread."""


class OtherLoopReactor(WallClockReactor):
    """A reactor in a loop that is not Twisted's: it looks at its timers when one is made."""

    def __init__(self) -> None:
        super().__init__()
        self.looks: list[float | None] = []

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object, **kw: object) -> DelayedCall:
        call = super().callLater(delay, callable, *args, **kw)
        self.looks.append(self.timeout())
        self.runUntilCurrent()
        self.looks.append(self.timeout())
        return call


class SteadyReactorTests(SynchronousTestCase):
    """Waiting by a clock that nobody sets."""

    def setUp(self) -> None:
        self.reactor = WallClockReactor()
        self.steady = steady_reactor(self.reactor)

    def test_timers(self) -> None:
        """
        What is scheduled, moved or asked for goes by the steady clock, and runs in the reactor's own loop.
        """
        ran: list[str] = []
        before = time.monotonic()
        soon = self.steady.callLater(3600, ran.append, "soon")
        later = self.steady.callLater(60, ran.append, "later")
        self.assertTrue(before + 3600 <= soon.getTime() <= time.monotonic() + 3600)
        soon.reset(0)
        later.delay(60)
        self.assertTrue(before + 120 <= later.getTime() <= time.monotonic() + 120)
        self.assertEqual(0, self.reactor.timeout())
        self.reactor.runUntilCurrent()
        self.assertEqual(["soon"], ran)
        remaining = self.reactor.timeout()
        assert remaining is not None
        self.assertTrue(100 < remaining <= 120)
        later.cancel()

    def test_others_keep_their_clock(self) -> None:
        """
        Whoever has the reactor itself, such as a web site beside the gateway, reads the time of day and waits by it.
        """
        self.assertIs(time.time, self.reactor.seconds)
        ran: list[str] = []
        before = time.time()
        call = self.reactor.callLater(60, ran.append, "theirs")
        self.assertTrue(before + 60 <= call.getTime() <= time.time() + 60)
        self.steady.callLater(3600, ran.append, "ours").cancel()
        remaining = self.reactor.timeout()
        assert remaining is not None
        self.assertTrue(50 < remaining <= 60)
        call.reset(0)
        self.reactor.runUntilCurrent()
        self.assertEqual(["theirs"], ran)

    def test_sleeping_until_the_first_timer(self) -> None:
        """
        The loop sleeps until the first timer of either clock, and without any timer as long as it likes.
        """
        self.assertIsNone(self.reactor.timeout())
        for first, second in ((self.steady, self.reactor), (self.reactor, self.steady)):
            calls = [first.callLater(10, list), second.callLater(100, list)]
            remaining = self.reactor.timeout()
            assert remaining is not None
            self.assertTrue(5 < remaining <= 10)
            for call in calls:
                call.cancel()
            self.reactor.runUntilCurrent()

    def test_what_was_left_behind(self) -> None:
        """
        A test of the application sees the timers of both clocks among those of its reactor.
        """
        calls = [self.reactor.callLater(1, list), self.steady.callLater(1, list)]
        self.assertEqual(calls, self.reactor.getDelayedCalls())
        self.assertEqual(calls, self.steady.getDelayedCalls())

    def test_the_rest_is_the_reactors(self) -> None:
        """
        It can be given to whoever wants the reactor itself: all else is the reactor's.
        """
        self.assertTrue(IReactorTime.providedBy(self.steady))
        self.assertEqual(self.reactor.callWhenRunning, self.steady.callWhenRunning)
        self.reactor.running = True
        self.assertTrue(self.steady.running)

    def test_again(self) -> None:
        """
        However many gateways a process has, they share one.
        """
        self.assertIs(self.steady, steady_reactor(self.reactor))
        self.assertIs(self.steady, steady_reactor(self.steady))

    def test_clock_of_its_own(self) -> None:
        """
        A clock that is not the wall clock is taken as it is.
        """
        clock = Clock()
        self.assertIs(clock, steady_reactor(clock))
        self.reactor.seconds = time.monotonic
        self.assertIs(self.reactor, steady_reactor(self.reactor))

    def test_another_loop(self) -> None:
        """
        The loop of asyncio or GLib hears of each timer that is made, and of each that is moved to an earlier time.
        """
        reactor = OtherLoopReactor()
        steady = steady_reactor(reactor)
        ran: list[str] = []
        call = steady.callLater(60, ran.append, "ours")
        woken, remaining = reactor.looks
        self.assertEqual(0, woken)
        assert remaining is not None
        self.assertTrue(50 < remaining <= 60)
        reactor.runUntilCurrent()
        call.reset(0)
        self.assertEqual(["ours"], ran)
