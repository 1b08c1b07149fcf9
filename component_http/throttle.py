"""Limits how often the same thing is told: errors to a sender, lines in the log."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable

LOG_INTERVAL = 60.0
"""Seconds between two log lines about the same problem, because the problem may come with every stanza."""


class Throttle:
    """
    Lets the same thing be told once in an interval, so that no flood is echoed.

    It remembers what was told within one interval, and drops what is older on the next question.

    Args:
        interval: Seconds between two times that the same is told.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._told: OrderedDict[str, float] = OrderedDict()

    def may_tell(self, of: str, now: float) -> bool:
        """
        Say whether something may be told now; if so, it counts as told.

        Args:
            of: The subject, or the one who is told.
            now: Seconds of any clock. If the clock is set back, what was told later than `now` may be told again.
        """
        while self._told and not 0 <= now - next(iter(self._told.values())) < self._interval:
            self._told.popitem(last=False)
        if of in self._told:
            return False
        self._told[of] = now
        return True


class Folded:
    """
    Writes one log line about the same problem in an interval, with the number of lines left out before it.

    Without it whoever can cause a line with each stanza can fill the disk, and hide what else is in the log.

    Args:
        now: The time, in seconds of a clock that is not set.
    """

    def __init__(self, now: Callable[[], float], interval: float = LOG_INTERVAL) -> None:
        self._now = now
        self._throttle = Throttle(interval)
        self._left_out: Counter[str] = Counter()

    def write(self, about: str, log: Callable[..., object], line: str, /, **fields: object) -> None:
        """
        Write a line as `Logger.warn` does, or count it as left out.

        Args:
            about: The problem: one of a fixed few, because each is remembered.
        """
        if not self._throttle.may_tell(about, self._now()):
            self._left_out[about] += 1
            return
        left_out = self._left_out.pop(about, 0)
        if left_out:
            line, fields = f"{line} ({{left_out}} more left out before)", {**fields, "left_out": left_out}
        log(line, **fields)
