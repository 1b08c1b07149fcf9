"""What is said once in a while, however often there is a reason to."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from math import inf

__all__ = ["LOG_INTERVAL", "Folded", "Throttle"]

LOG_INTERVAL = 60.0
"""Seconds between two log lines about the same, where what is wrong may be wrong for every stanza."""


class Throttle:
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


class Folded:
    """
    Log lines, of which one about the same is written in an interval, with the number of those left out before it.

    Without it whoever can cause a line with each stanza can fill the disk, and hide what else is in the log.

    Args:
        now: The time, in seconds of a clock that is not set.
        interval: Seconds between two lines of the same kind.
    """

    def __init__(self, now: Callable[[], float], interval: float = LOG_INTERVAL) -> None:
        self._now = now
        self._interval = interval
        # By what they are about: when its line was written, and how many were left out since.
        self._last: dict[str, tuple[float, int]] = {}

    def write(self, about: str, log: Callable[..., object], line: str, /, **fields: object) -> None:
        """
        Write a line, or count it as left out.

        Args:
            about: What the line is about: one of a fixed few, for each is remembered.
            log: Writes it, as `Logger.warn` does.
            line: A template.
            fields: What goes into it.
        """
        now = self._now()
        last, left_out = self._last.get(about, (-inf, 0))
        if now - last < self._interval:
            self._last[about] = last, left_out + 1
            return
        self._last[about] = now, 0
        if left_out:
            line, fields = f"{line} ({{left_out}} more left out before)", {**fields, "left_out": left_out}
        log(line, **fields)
