"""The lag of the reactor: how much later than asked it calls."""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from component_http.operations.metrics import Histogram

INTERVAL = 0.5
"""Seconds between two measurements: rare enough to cost nothing, often enough to meet what holds a user up."""


class Lag:
    """
    Measures the lag from `start` to `stop`.

    Args:
        histogram: Counts it.

    Attributes:
        last: Seconds that the last measurement has found.
    """

    def __init__(self, clock: IReactorTime, histogram: Histogram) -> None:
        self._clock = clock
        self._histogram = histogram
        self._next: IDelayedCall | None = None
        self.last = 0.0

    def start(self) -> None:
        self._next = self._clock.callLater(INTERVAL, self._measure, self._clock.seconds() + INTERVAL)

    def _measure(self, due: float) -> None:
        self.last = max(0.0, self._clock.seconds() - due)
        self._histogram.add(self.last)
        self.start()

    def stop(self) -> None:
        if self._next is not None and self._next.active():
            self._next.cancel()
