"""Those who wait until something has come about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

__all__ = ["Waiters", "abandon"]


def abandon(*deferreds: Deferred[Any]) -> None:
    """Cancel some Deferreds whose outcome nobody wants any more; those that have fired already stay unheard."""
    for deferred in deferreds:
        deferred.addErrback(lambda _: None)
        deferred.cancel()


class Waiters:
    """Deferreds in the order in which they were asked for; one that is cancelled is forgotten."""

    def __init__(self) -> None:
        self._waiting: list[Deferred[None]] = []

    def __bool__(self) -> bool:
        """Somebody waits."""
        return bool(self._waiting)

    def one_more(self) -> Deferred[None]:
        """Somebody waits until `tell`."""
        waiter: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiter)
        return waiter

    def tell(self, still: Callable[[], bool] = lambda: True) -> None:
        """
        Fire them, one after the other; not those who come meanwhile.

        Args:
            still: Whether what they wait for is still so: who is told may change it, and then the others go on waiting.
        """
        for waiter in list(self._waiting):
            if not still():
                return
            if waiter in self._waiting:
                self._waiting.remove(waiter)
                waiter.callback(None)
