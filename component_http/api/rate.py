"""A limit for requests in a time."""

from __future__ import annotations


class Rate:
    """
    A limit for one client: a bucket that fills steadily, and from which each request takes one.

    Args:
        requests: The requests that fit into the bucket, and so may come all at once.
        seconds: The time in which the bucket fills.
    """

    def __init__(self, requests: int, seconds: float) -> None:
        self._size = float(requests)
        self._per_second = requests / seconds
        self._left = self._size
        self._at = float("-inf")

    def wait(self, now: float) -> float:
        """Take one request out, and return 0; if there is none, return the seconds until there is one."""
        self._left = min(self._size, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1.0:
            return (1.0 - self._left) / self._per_second
        self._left -= 1.0
        return 0.0

    def charge(self, requests: int) -> None:
        """Take more requests out, even more than there are; then the next request has to wait longer."""
        self._left -= requests
