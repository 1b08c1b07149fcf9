"""How often each thing happened, for whoever operates the gateway."""

from __future__ import annotations

from collections import Counter

__all__ = ["Counters"]


class Counters(Counter[str]):
    """
    An `Observer` that keeps a number for each event.

    The names are those of `docs/architecture.md`; an event that never happened reads as 0.
    """

    def count(self, event: str) -> None:
        """Note that `event` happened once."""
        self[event] += 1

    def summary(self) -> str:
        """All that happened, in the order of the alphabet, for a log line."""
        return ", ".join(f"{event} {number}" for event, number in sorted(self.items())) or "nothing happened"
