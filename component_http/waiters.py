"""Waits for something to come about, and for work to end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred


def abandon(*deferreds: Deferred[Any]) -> None:
    """Cancel some Deferreds whose outcome nobody wants any more, and ignore how they end."""
    for deferred in deferreds:
        deferred.addErrback(lambda _: None)
        deferred.cancel()


class Waiters:
    """Deferreds in the order in which they were asked for; one that is cancelled is forgotten."""

    def __init__(self) -> None:
        self._waiting: list[Deferred[None]] = []

    def __bool__(self) -> bool:
        """Whether somebody waits."""
        return bool(self._waiting)

    def one_more(self) -> Deferred[None]:
        """Wait until `tell`."""
        waiter: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiter)
        return waiter

    def tell(self, still: Callable[[], bool] = lambda: True) -> None:
        """
        Fire the Deferreds one after the other, but none that is asked for meanwhile.

        Args:
            still: Whether the event still holds. Whoever is told may change it, and then the others go on waiting.
        """
        for waiter in list(self._waiting):
            if not still():
                return
            if waiter in self._waiting:
                self._waiting.remove(waiter)
                waiter.callback(None)


class Ongoing:
    """The work that is under way, which can be waited for and cancelled."""

    def __init__(self) -> None:
        self._works: set[Deferred[Any]] = set()
        self._waiters = Waiters()

    def __bool__(self) -> bool:
        """Whether work is under way."""
        return bool(self._works)

    def own(self, work: Deferred[Any]) -> None:
        """
        Own some work until it has ended.

        Args:
            work: Fires at the end of the work. It must have an errback already that deals with every failure.
        """
        self._works.add(work)

        def ended(_: object) -> None:
            self._works.discard(work)
            if not self._works:
                self._waiters.tell(lambda: not self._works)

        work.addBoth(ended)

    async def ended(self) -> None:
        """Wait until no work is under way."""
        while self._works:
            await self._waiters.one_more()

    def cancel(self) -> None:
        """Cancel all work that is under way."""
        for work in list(self._works):
            work.cancel()
