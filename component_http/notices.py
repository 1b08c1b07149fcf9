"""What is said once in a while, however often there is a reason to."""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["LOG_INTERVAL", "Notices"]

LOG_INTERVAL = 60.0
"""Seconds between two log lines about the same, where what is wrong may be wrong for every stanza."""


class Notices:
    """
    Whether something may be said now: to each sender, or about each thing, once in a while, so no flood is echoed.

    Remembers what was said within one interval, and drops what is older on the next question.

    Args:
        interval: Seconds between two notices of the same.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._told: OrderedDict[str, float] = OrderedDict()

    def may_tell(self, of: str, now: float) -> bool:
        """
        Say whether it may be said now; if so, it counts as said.

        Args:
            of: To whom, or about what.
            now: Seconds of any clock. If it is set back, what was said later than now may be said again.
        """
        while self._told and not 0 <= now - next(iter(self._told.values())) < self._interval:
            self._told.popitem(last=False)
        if of in self._told:
            return False
        self._told[of] = now
        return True
