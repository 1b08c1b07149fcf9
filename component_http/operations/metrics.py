"""The counters of the gateway's events."""

from __future__ import annotations

from collections import Counter


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
