"""Timers that do not move when somebody sets the machine's clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.internet.base import DelayedCall, ReactorBase
from twisted.internet.interfaces import IDelayedCall
from zope.interface import directlyProvides, providedBy


def steady_reactor(reactor: Any) -> Any:
    """
    Give a reactor whose timers do not move when somebody sets the machine's clock.

    Args:
        reactor: The reactor of the process, or a clock for tests.

    Returns:
        A `SteadyReactor`, always the same one for the same reactor; or the reactor itself if its timers do not go by
        the wall clock.
    """
    if isinstance(reactor, SteadyReactor) or not isinstance(reactor, ReactorBase) or reactor.seconds is not time.time:
        return reactor
    owner = getattr(reactor.runUntilCurrent, "__self__", None)
    return owner if isinstance(owner, SteadyReactor) else SteadyReactor(reactor)


class SteadyReactor:
    """
    A reactor whose timers go by the monotonic clock, on top of one whose timers go by the wall clock.

    Twisted's reactors use the wall clock. When that is set forward, all their timers fire at once; when it is set back
    by an hour, every timer fires an hour late. The timers of this object do neither. They run in the same loop, which
    also asks this object how long it may sleep and which timers are due.

    For all other code the reactor below is unchanged: its `seconds()` is the time of day, as the access log of
    twisted.web needs it, and its `callLater` goes by that. Only its `getDelayedCalls()` lists the timers of both, so
    that a test sees every timer that was left behind.

    `seconds` and `callLater` go by the monotonic clock; every other attribute is that of the reactor below. So the
    reactor's own time limit for connecting a TCP socket still goes by the wall clock.

    Args:
        reactor: The reactor below. Get a `SteadyReactor` from `steady_reactor`: each one makes the loop longer.
    """

    def __init__(self, reactor: Any) -> None:
        directlyProvides(self, providedBy(reactor))
        self._reactor = reactor
        # A reactor in another loop than Twisted's has its own `callLater`, because the loop has to hear of new timers.
        is_plain = type(reactor).callLater is ReactorBase.callLater
        self._timers = timers = _Timers() if is_plain else _TimersOfAnotherLoop(reactor)
        self.seconds: Callable[[], float] = timers.seconds
        self.callLater: Callable[..., DelayedCall] = timers.callLater
        self._run_below: Callable[[], None] = reactor.runUntilCurrent
        self._timeout_below: Callable[[], float | None] = reactor.timeout
        self._delayed_below: Callable[[], list[IDelayedCall]] = reactor.getDelayedCalls
        reactor.runUntilCurrent = self._run_until_current
        reactor.timeout = self._timeout
        reactor.getDelayedCalls = self.getDelayedCalls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def getDelayedCalls(self) -> list[IDelayedCall]:
        """The timers of both clocks."""
        return [*self._delayed_below(), *self._timers.getDelayedCalls()]

    def _run_until_current(self) -> None:
        self._timers.runUntilCurrent()
        self._run_below()

    def _timeout(self) -> float | None:
        ours, below = self._timers.timeout(), self._timeout_below()
        if ours is None or below is None:
            return below if ours is None else ours
        return min(ours, below)


class _Timers(ReactorBase):
    """Twisted's own timers, on the monotonic clock; it opens nothing and does not run by itself."""

    seconds = staticmethod(time.monotonic)

    def installWaker(self) -> None:
        """Do nothing: there is no loop to wake."""


class _TimersOfAnotherLoop(_Timers):
    """Timers in the loop of asyncio, GLib and the like, which only hears of a new timer by its own `callLater`."""

    def __init__(self, reactor: Any) -> None:
        super().__init__()
        self._reactor = reactor

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object, **kw: object) -> DelayedCall:
        call = super().callLater(delay, callable, *args, **kw)
        self._tell()
        return call

    def _moveCallLaterSooner(self, delayedCall: DelayedCall) -> None:
        super()._moveCallLaterSooner(delayedCall)
        self._tell()

    def _tell(self) -> None:
        self._reactor.callLater(0, _nothing)


def _nothing() -> None:
    """Have the loop run once."""
