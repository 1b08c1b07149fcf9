"""The load on a webhook: the number of requests at once, and how fast they follow one another."""

from __future__ import annotations

from component_http.delivery.limit import Limit
from component_http.delivery.pace import Pace


class Load:
    """
    The load that a webhook takes, learned from the requests that it rejects; see `Limit` and `Pace`.

    Every `now` is in seconds on one clock that does not go back.

    Args:
        most: Requests at once while nothing is rejected, 1 or more.
        learns: False: there is no other limit, whatever the webhook says.
    """

    def __init__(self, most: int, *, learns: bool = True) -> None:
        self._most = most
        self._limit = Limit(most)
        self._pace = Pace()
        self._learns = learns

    def places(self, now: float) -> int:
        """Say how many requests may be under way."""
        return self._limit.value(now)

    def is_known(self, now: float) -> bool:
        """Tell whether it is known by now how much the webhook takes, so that a rejection is about one request only."""
        return self._pace.is_known or self._limit.value(now) < self._most

    def wait(self, now: float) -> float:
        """Seconds until the next request may begin, 0.0 for now."""
        return self._pace.wait(now)

    def begin(self, now: float) -> int:
        """Note that a request begins; returns the number of others that are under way."""
        self._pace.begin(now)
        return self._limit.begin()

    def end(self, others: int, accepted: bool | None, began: float, now: float) -> None:
        """
        Note how a request ended.

        Args:
            others: The number that `begin` returned.
            accepted: The webhook took it (True), or rejected it as one too many (False); None if nobody knows.
            began: When it began.
            now: The present.
        """
        if not self._learns:
            accepted = None
        explained = self._limit.end(others, accepted, now)
        if accepted is not None and not explained:
            self._pace.end(accepted, began, now)

    def pause(self, seconds: float, now: float) -> None:
        """The webhook wants nothing for so many seconds."""
        self._pace.pause(seconds, now)

    def restart(self, now: float) -> None:
        """The webhook is back: ask it slowly at first, and soon as fast as it can."""
        if self._learns:
            self._pace.restart(now)
