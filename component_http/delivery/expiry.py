"""The end of a delivery at its deadline."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from twisted.internet.interfaces import IReactorTime

from component_http.contract.delivery import Delivery
from component_http.delivery.alarm import Alarm
from component_http.delivery.deadlines import Deadlines
from component_http.delivery.slices import SLICE


class Expiry:
    """
    Knows when each delivery has to have ended, and says so then.

    Args:
        clock: Runs the timer.
        expire: Called with the ids of some whose deadlines have come, which are forgotten here; with the time; and with
            whether these are all. If not, it is called again in the next turn of the reactor.
    """

    def __init__(self, clock: IReactorTime, expire: Callable[[list[str], float, bool], object]) -> None:
        self._clock = clock
        self._expire = expire
        self._deadlines = Deadlines()
        self._alarm = Alarm(clock, self._rings)

    def add(self, delivery: Delivery, lane: str, at: float) -> None:
        """
        Note a deadline of a delivery that has none.

        Args:
            lane: As for `Deadlines.add`.
            at: When it is.
        """
        self._deadlines.add(delivery.id, lane, at)
        self._alarm.set(at - self._clock.seconds())

    def remove(self, delivery: Delivery) -> None:
        """Forget the deadline of a delivery, if it has one."""
        self._deadlines.remove(delivery.id)

    def stop(self) -> None:
        """Say nothing more."""
        self._alarm.cancel()

    def _rings(self) -> None:
        now = self._clock.seconds()
        due = self._deadlines.due(now, SLICE)
        self._expire(due, now, len(due) < SLICE)
        earliest = self._deadlines.next()
        self._alarm.set(inf if earliest is None else earliest - self._clock.seconds())
