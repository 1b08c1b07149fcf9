"""A timer that rings at the earliest of the times it was set for."""

from __future__ import annotations

import math
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime


class Alarm:
    """
    Calls a function once, at the earliest time that it was set for; then it may be set again.

    Args:
        clock: Runs the timer.
        ring: Called when it is time.
    """

    def __init__(self, clock: IReactorTime, ring: Callable[[], object]) -> None:
        self._clock = clock
        self._ring = ring
        self._call: IDelayedCall | None = None

    @property
    def is_set(self) -> bool:
        """Tell whether it is going to ring."""
        return self._call is not None

    def set(self, wait: float) -> None:
        """Ring after so many seconds, or earlier if it is set for that; infinite seconds set nothing."""
        if math.isinf(wait):
            return
        if self._call is None:
            self._call = self._clock.callLater(max(0.0, wait), self._rings)
        elif self._clock.seconds() + wait < self._call.getTime():
            self._call.reset(max(0.0, wait))

    def cancel(self) -> None:
        """Do not ring."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    def _rings(self) -> None:
        self._call = None
        self._ring()
