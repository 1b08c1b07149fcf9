"""The load on a webhook: the number of requests at once, and how fast they follow one another."""

from __future__ import annotations

from collections import deque

from component_http.delivery.limit import Limit
from component_http.delivery.pace import Pace


class Quota:
    """
    A limit that somebody has set: so many requests may begin within any time of this length.

    Args:
        requests: 1 or more.
        seconds: The length, more than 0.
    """

    def __init__(self, requests: int, seconds: float) -> None:
        self._begun: deque[float] = deque(maxlen=requests)
        self._requests = requests
        self._seconds = seconds

    def wait(self, now: float) -> float:
        """Seconds until the next request may begin, 0.0 for now."""
        return max(0.0, self._begun[0] + self._seconds - now) if len(self._begun) == self._requests else 0.0

    def begin(self, now: float) -> None:
        """Note that a request begins."""
        self._begun.append(now)


class Load:
    """
    The load that a webhook takes, learned from the requests that it rejects; see `Limit` and `Pace`.

    Every `now` is in seconds on one clock that does not go back.

    Args:
        most: Requests at once while nothing is rejected, 1 or more.
        learns: False: nothing is learned, whatever the webhook says.
        quota: The limit that the operator has set; None for none.
    """

    def __init__(self, most: int, *, learns: bool = True, quota: Quota | None = None) -> None:
        self._most = most
        self._limit = Limit(most)
        self._pace = Pace()
        self._learns = learns
        self._quota = quota

    def adapt(self, most: int, quota: Quota | None, *, moved: bool) -> None:
        """Go by another limit and another quota; `moved`: nothing is known of the webhook, for it is another one."""
        if moved or most != self._most:
            self._limit.forget(most)
        if moved:
            self._pace = Pace()
        self._most = most
        self._quota = quota

    @property
    def under_way(self) -> int:
        """Requests that are under way."""
        return self._limit.under_way

    def places(self, now: float) -> int:
        """Say how many requests may be under way."""
        return self._limit.value(now)

    def is_known(self, now: float) -> bool:
        """Tell whether it is known by now how much the webhook takes, so that a rejection is about one request only."""
        return self._pace.is_known or self._limit.value(now) < self._most

    def wait(self, now: float) -> float:
        """Seconds until the next request may begin, 0.0 for now."""
        return max(self._pace.wait(now), self.quota_wait(now))

    def quota_wait(self, now: float) -> float:
        """Seconds until the operator's limit lets the next request begin, 0.0 for now."""
        return 0.0 if self._quota is None else self._quota.wait(now)

    def begin(self, now: float) -> int:
        """Note that a request begins; returns the number of others that are under way."""
        if self._quota is not None:
            self._quota.begin(now)
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
