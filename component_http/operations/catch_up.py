"""The time until all is through that is pending, estimated by the pace of the last minute."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

INTERVAL = 2.0
"""Seconds between two looks at how many deliveries have ended."""

WINDOW = 60.0
"""Seconds by which the pace is measured: long enough for a webhook that takes twenty seconds for each request."""


class CatchUp:
    """
    Measures from `start` to `stop` how fast deliveries end.

    Args:
        ended: Tells how many deliveries have ended so far.
    """

    def __init__(self, clock: IReactorTime, ended: Callable[[], int]) -> None:
        self._clock = clock
        self._ended = ended
        self._seen = deque([(clock.seconds(), ended())], maxlen=int(WINDOW / INTERVAL) + 1)
        self._next: IDelayedCall | None = None

    def start(self) -> None:
        self._seen.append((self._clock.seconds(), self._ended()))
        # A time without any end, an outage for instance, says nothing of the pace after it.
        while len(self._seen) > 1 and self._seen[0][1] == self._seen[1][1]:
            self._seen.popleft()
        self._next = self._clock.callLater(INTERVAL, self.start)

    def stop(self) -> None:
        if self._next is not None and self._next.active():
            self._next.cancel()

    def seconds_left(self, pending: int) -> float | None:
        """
        Estimate when so many deliveries will have ended.

        Returns:
            Seconds; 0.0 if none is pending, and None if none has ended lately.
        """
        if not pending:
            return 0.0
        since, before = self._seen[0]
        ended = self._ended() - before
        return pending * (self._clock.seconds() - since) / ended if ended > 0 else None
