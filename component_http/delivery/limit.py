"""How many requests a webhook takes at once, learned from those that it rejects."""

from __future__ import annotations

from collections import deque

__all__ = ["Limit"]

_EVIDENCE = 3
"""Rejections that lower the limit: one alone may be about anything."""

_EVIDENCE_SECONDS = 10.0
"""Seconds within which they have to come."""

_PROOF_SECONDS = 60.0
"""Seconds for which a webhook that took so many requests at once is trusted to do so again: bots may be slow."""

_STEADY_SECONDS = 10.0
"""Seconds after a rejection for which the limit stays; then it grows, by one at first and by twice as many each second."""


class Limit:
    """
    The number of requests that may be under way at once.

    A webhook with so many workers rejects the requests that begin while all of them are busy, and takes those that
    begin with fewer under way. So a rejection is about the number under way only if no request that began beside as
    many others was accepted lately. Three such rejections lower the limit to what the webhook took.

    Every `now` is in seconds on one clock that does not go back.

    Args:
        most: The limit while nothing is rejected, 1 or more.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._low = most
        self._cut_at = float("-inf")
        self._under_way = 0
        # The numbers of others beside which requests were accepted, and when; the highest first, each later than it.
        self._proven: deque[tuple[int, float]] = deque()
        self._evidence: deque[tuple[int, float]] = deque(maxlen=_EVIDENCE)

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
        self._under_way += 1
        return self._under_way - 1

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
        self._under_way -= 1
        if accepted is None:
            return False
        while self._proven and self._proven[0][1] <= now - _PROOF_SECONDS:
            self._proven.popleft()
        if accepted:
            while self._proven and self._proven[-1][0] <= others:
                self._proven.pop()
            self._proven.append((others, now))
            return False
        if others >= self.value(now):
            return True  # It began before the limit was lowered.
        if others == 0 or (self._proven and self._proven[0][0] >= others):
            return False
        self._evidence.append((others, now))
        if len(self._evidence) == _EVIDENCE and self._evidence[0][1] > now - _EVIDENCE_SECONDS:
            self._low = min(level for level, _ in self._evidence)
            self._cut_at = now
            self._evidence.clear()
        return True
