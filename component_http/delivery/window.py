"""Counts over the last seconds."""

from __future__ import annotations

from collections import deque

from attrs import define

_SLICES = 100
"""Parts that a window of time is counted in."""


@define
class _Slice:
    number: int
    results: int = 0
    failures: int = 0


class Window:
    """
    Counts results and the failures among them over the last seconds.

    They are counted in a hundred slices of time, which is all the memory that any number of them takes. So up to a
    hundredth of the window less may count, never more.

    Args:
        seconds: Its length, more than 0.

    Attributes:
        results: Results in the window, as of the last `add` or `advance`.
        failures: Those of them that failed.
    """

    def __init__(self, seconds: float) -> None:
        self._slice_seconds = seconds / _SLICES
        self._slices: deque[_Slice] = deque()
        self.clear()

    def clear(self) -> None:
        """Forget all results."""
        self._slices.clear()
        self.results = self.failures = 0

    def advance(self, now: float) -> None:
        """Forget the results that are too old at `now`."""
        oldest = int(now // self._slice_seconds) - _SLICES
        while self._slices and self._slices[0].number <= oldest:
            old = self._slices.popleft()
            self.results -= old.results
            self.failures -= old.failures

    def add(self, failed: bool, now: float) -> None:
        """Count a result."""
        number = int(now // self._slice_seconds)
        if not self._slices or self._slices[-1].number < number:
            self.advance(now)
            self._slices.append(_Slice(number))
        latest = self._slices[-1]
        latest.results += 1
        latest.failures += failed
        self.results += 1
        self.failures += failed
