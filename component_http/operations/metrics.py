"""The counters of the gateway's events, and its histograms."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence


class Counters(Counter[str]):
    """
    An `Observer` that keeps a number for each event.

    The names are those of `docs/architecture.md`; an event that never happened reads as 0.
    """

    def count(self, event: str) -> None:
        """Count one more of an event."""
        self[event] += 1

    def summary(self) -> str:
        """Write all counters in alphabetical order, for a log line."""
        return ", ".join(f"{event} {number}" for event, number in sorted(self.items())) or "nothing happened"


class Histogram:
    """
    Counts how long something took.

    Attributes:
        bounds: The upper ends of the buckets in seconds, the smallest first.
        counts: How many fell into each bucket, and into the one above all of them.
        total: The seconds of all together.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """Count one more."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds


_SHORT = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_LONG = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class Durations:
    """
    The histograms of a gateway whose operator wants them.

    Attributes:
        attempt: From the begin of a POST to its end, whatever that is.
        delivery: From the acceptance of a delivery to its end.
        queue_wait: From the acceptance of a delivery to its first POST.
        confirm: From the writing of a stanza to the stream until the server is known to have it, by the write barrier.
        spool_commit: A transaction of the spool that wrote something; the spool's thread counts it.
        reactor_lag: How much later than asked the reactor called.
    """

    def __init__(self) -> None:
        self.attempt = Histogram(_LONG)
        self.delivery = Histogram(_LONG)
        self.queue_wait = Histogram(_LONG)
        self.confirm = Histogram(_LONG)
        self.spool_commit = Histogram(_SHORT)
        self.reactor_lag = Histogram(_SHORT)
