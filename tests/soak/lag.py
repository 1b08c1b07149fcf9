"""How late a process gets to what is due: a tick every 10 ms, inside the gateway's own process."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["LagMeter", "lag_in_ms"]

TICK = 0.01
"""Seconds between two ticks."""

REPORT_INTERVAL = 0.5
"""Seconds between two reports."""

_STEPS_PER_DOUBLING = 8


class LagMeter:
    """
    Measures the reactor's lag and writes it, with the gateway's counters, to a file.

    A lag of many ticks counts for each tick that it swallowed, so that one long block weighs what it takes in time.

    Args:
        reactor: The reactor of the process.
        path: The file, replaced as a whole at each report.
        counters: Asked at each report.
    """

    def __init__(self, reactor: Any, path: str, counters: Callable[[], Mapping[str, int]]) -> None:
        self._reactor = reactor
        self._path = path
        self._counters = counters
        self._histogram: Counter[int] = Counter()
        self._longest = 0.0
        self._due = 0.0
        self._next_report = 0.0

    def start(self) -> None:
        """Tick from the moment that the reactor runs until it is gone."""
        self._due = self._reactor.seconds() + TICK
        self._reactor.callLater(TICK, self._tick)

    def _tick(self) -> None:
        now = self._reactor.seconds()
        lag = max(0.0, now - self._due)
        self._longest = max(self._longest, lag)
        swallowed = lag
        while True:
            self._histogram[_bucket(swallowed)] += 1
            swallowed -= TICK
            if swallowed <= 0:
                break
        if now >= self._next_report:
            self._next_report = now + REPORT_INTERVAL
            self.write()
        self._due = self._reactor.seconds() + TICK
        self._reactor.callLater(TICK, self._tick)

    def write(self) -> None:
        """Write the report now."""
        report = {
            "time": self._reactor.seconds(),
            "lag_ms": lag_in_ms(self._histogram, self._longest),
            "counters": dict(self._counters()),
        }
        with open(f"{self._path}.new", "w") as file:
            json.dump(report, file)
        os.replace(f"{self._path}.new", self._path)


def _bucket(seconds: float) -> int:
    """Tenths of a millisecond, on a scale of eighths of a doubling."""
    return round(_STEPS_PER_DOUBLING * math.log2(1 + seconds * 10_000))


def lag_in_ms(histogram: Mapping[int, int], longest: float) -> dict[str, float]:
    """
    Returns:
        Milliseconds below which 50, 99 and 99.9 percent of the ticks were late, and the longest.
    """
    total = sum(histogram.values())
    marks = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
    result = dict.fromkeys(marks, 0.0)
    for name, share in marks.items():
        seen = 0
        for bucket in sorted(histogram):
            seen += histogram[bucket]
            if seen >= share * total:
                result[name] = round((2 ** (bucket / _STEPS_PER_DOUBLING) - 1) / 10, 2)
                break
    return {**result, "max": round(longest * 1000, 2)}
