"""Time limits of many things, with one timer for all of them. No socket."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any


class TimeLimits:
    """
    Calls a function for each thing that has not ended within its time.

    There is one timer, for the earliest limit. When it fires, most things have ended, so a look at all others costs
    less than a timer for each.

    Args:
        clock: An `IReactorTime`.
    """

    def __init__(self, clock: Any) -> None:
        self._clock = clock
        self._limits: dict[Any, tuple[float, Callable[[Any], None]]] = {}
        self._timer: Any = None
        self._next = 0.0

    def begin(self, thing: Hashable, seconds: float, expired: Callable[[Any], None]) -> None:
        """
        Begin a time limit.

        Args:
            expired: Called with the thing when the seconds are over, unless `end` is called before.
        """
        limit = self._clock.seconds() + seconds
        self._limits[thing] = (limit, expired)
        if self._timer is None or limit < self._next:
            self._look_at(limit)

    def end(self, thing: Hashable) -> None:
        """Forget the time limit of a thing, if it has one."""
        self._limits.pop(thing, None)
        if not self._limits and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_at(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = when
        self._timer = self._clock.callLater(max(0.0, when - self._clock.seconds()), self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        for thing, (limit, expired) in list(self._limits.items()):
            if limit <= now and self._limits.get(thing) == (limit, expired):
                del self._limits[thing]
                expired(thing)
        first = min((limit for limit, _ in self._limits.values()), default=None)
        if first is not None and (self._timer is None or first < self._next):
            self._look_at(first)
