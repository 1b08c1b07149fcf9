"""The number of requests that a webhook takes at once, learned from those that it rejects."""

from __future__ import annotations

_EVIDENCE = 3
"""Rejections that lower the limit: one alone may be about anything."""

_FEWER = 0.25
"""The largest part of the usual share that is accepted of the requests beyond a limit."""

_FADES = 10.0
"""Seconds in which what was seen loses half of its weight."""

_STEADY_SECONDS = 10.0
"""Seconds after a rejection for which the limit stays; then it grows, by one at first, twice as many each second."""


class Limit:
    """
    The number of requests that may be under way at once.

    A webhook with so many workers rejects nearly all requests that begin while all of them are busy, and takes those
    that begin beside fewer. A webhook that rejects for another reason makes no such difference. So a rejection is about
    the number under way if of the requests that began beside as many others, or more, far fewer were accepted than of
    those that began beside fewer. Some such rejections lower the limit to what the webhook took.

    Every `now` is in seconds on one clock that does not go back.

    Args:
        most: The limit while nothing is rejected, 1 or more.
    """

    def __init__(self, most: int) -> None:
        self.under_way = 0
        self.forget(most)

    def forget(self, most: int) -> None:
        """Begin anew, with another limit; what is under way still counts."""
        self._most = most
        self._low = most
        self._cut_at = float("-inf")
        # By the number of others beside which they began: requests that were accepted, and that were rejected.
        self._accepted = [0.0] * most
        self._rejected = [0.0] * most
        self._faded_at: float | None = None

    def value(self, now: float) -> int:
        """Say how many requests may be under way."""
        if self._low >= self._most:
            return self._most
        grown = now - self._cut_at - _STEADY_SECONDS
        # Nobody has 2**20 connections.
        return self._low if grown < 0 else min(self._most, self._low + int(2.0 ** min(grown, 20.0)))

    def begin(self) -> int:
        """
        Note that a request begins.

        Returns:
            The number of others that are under way; `end` wants to know.
        """
        self.under_way += 1
        return self.under_way - 1

    def end(self, others: int, accepted: bool | None, now: float) -> bool:
        """
        Note how a request ended.

        Args:
            others: As `begin` returned it.
            accepted: The webhook took it (True) or rejected it (False); None if nobody knows.
            now: The present.

        Returns:
            Whether it was a rejection that the number of requests under way explains.
        """
        self.under_way -= 1
        if accepted is None:
            return False
        level = min(others, self._most - 1)
        if accepted:
            self._accepted[level] += 1
            return False
        if level >= self.value(now):
            return True  # It began before the limit was lowered, or as an iq beyond it.
        self._fade(now)
        self._rejected[level] += 1
        if not level or not self._are_too_many(level):
            return False
        if sum(self._rejected[level:]) >= _EVIDENCE:
            self._low = level
            self._cut_at = now
        return True

    def _are_too_many(self, level: int) -> bool:
        """Far fewer requests are accepted beside so many others than beside fewer."""
        accepted, rejected = sum(self._accepted[:level]), sum(self._rejected[:level])
        usual = accepted / (accepted + rejected) if accepted + rejected else 1.0
        accepted, rejected = sum(self._accepted[level:]), sum(self._rejected[level:])
        return accepted < _FEWER * usual * (accepted + rejected)

    def _fade(self, now: float) -> None:
        if self._faded_at is None:
            self._faded_at = now
        steps = (now - self._faded_at) / _FADES
        if steps >= 1.0:
            factor = 0.5**steps
            self._accepted = [number * factor for number in self._accepted]
            self._rejected = [number * factor for number in self._rejected]
            self._faded_at = now
