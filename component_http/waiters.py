"""Waits for something to come about, and for work to end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

P = ParamSpec("P")
T = TypeVar("T")


def abandon(*deferreds: Deferred[Any]) -> None:
    """Cancel some Deferreds whose outcome nobody wants any more, and ignore how they end."""
    for deferred in deferreds:
        deferred.addErrback(lambda _: None)
        deferred.cancel()


def follow(
    deferred: Deferred[T],
    then: Callable[Concatenate[T, P], object],
    failed: Callable[Concatenate[Failure, P], object],
    broken: Callable[Concatenate[Failure, P], object],
    *arguments: P.args,
    **named: P.kwargs,
) -> None:
    """
    Go on when a Deferred fires. Where it has a result already, that costs one plain call.

    Args:
        deferred: A Deferred that nobody else waits for.
        then: Called with its result and the arguments.
        failed: Called with its failure and the arguments.
        broken: Called with the failure and the arguments when `then` or `failed` raises.
        arguments: The arguments for all three.
        named: The same by name.
    """
    if deferred.called and not deferred.paused and not isinstance(deferred.result, Failure):
        result: Any = deferred.result
        try:
            then(result, *arguments, **named)
        except Exception:
            broken(Failure(), *arguments, **named)
    else:
        deferred.addCallbacks(then, failed, arguments, named, arguments, named)
        deferred.addErrback(broken, *arguments, **named)


class Waiters:
    """Deferreds in the order in which they were asked for; one that is cancelled is forgotten."""

    def __init__(self) -> None:
        self._waiting: list[Deferred[None]] = []

    def __bool__(self) -> bool:
        """Tell whether somebody waits."""
        return bool(self._waiting)

    def one_more(self) -> Deferred[None]:
        """Wait until `tell`."""
        waiter: Deferred[None] = Deferred(self._waiting.remove)
        self._waiting.append(waiter)
        return waiter

    def tell(self, still: Callable[[], bool] = lambda: True) -> None:
        """
        Fire the Deferreds in their order, but none that is asked for meanwhile.

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
    """The work that is under way; somebody can wait for its end, or cancel it."""

    def __init__(self) -> None:
        self._works: set[Deferred[Any]] = set()
        self._waiters = Waiters()

    def __bool__(self) -> bool:
        """Tell whether work is under way."""
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
