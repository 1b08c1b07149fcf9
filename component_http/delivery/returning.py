"""Deliveries that somebody retries, until there is room to spare for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from twisted.internet.interfaces import IReactorTime

from component_http.contract.delivery import Delivery
from component_http.delivery.alarm import Alarm
from component_http.delivery.backlog import Backlog
from component_http.delivery.deadlines import Times

MAX_RETURNING = 500
"""Deliveries that somebody retries and that wait, in memory, until there is room to spare; more wait in the spool."""

RETURN_INTERVAL = 0.1
"""Seconds between two looks whether there is."""


class Returning:
    """
    Lets retried deliveries in beside what comes live, which is not refused for them.

    Args:
        backlog: Knows whether there is room to spare.
        times: Has the time of each, which begins when it is taken.
        clock: Runs the waits.
        take: Takes one in charge.
        taken: Called when some may have been taken.
    """

    def __init__(
        self,
        backlog: Backlog,
        times: Times,
        clock: IReactorTime,
        take: Callable[[Delivery], object],
        taken: Callable[[], object],
    ) -> None:
        self._backlog = backlog
        self._times = times
        self._clock = clock
        self._take = take
        self._taken = taken
        self._waiting: dict[str, Delivery] = {}
        self._next = Alarm(clock, self._look)
        self._stopped = False

    def __contains__(self, delivery_id: object) -> bool:
        return delivery_id in self._waiting

    @property
    def room(self) -> int:
        """Deliveries that may be added."""
        return 0 if self._stopped else MAX_RETURNING - len(self._waiting)

    def add(self, deliveries: Iterable[Delivery]) -> None:
        """Let some more wait, none that somebody has in charge; after the stop they are left for the next start."""
        if not self._stopped:
            self._waiting.update((delivery.id, delivery) for delivery in deliveries)
            if self._waiting and not self._next.is_set:
                self._look()

    def drop(self, delivery_id: str) -> None:
        """Let one wait no longer, if it does."""
        self._waiting.pop(delivery_id, None)

    def stop(self) -> None:
        """Let nothing more in."""
        self._stopped = True
        self._next.cancel()

    def _look(self) -> None:
        for delivery in list(self._waiting.values()):
            if self._backlog.has_room_to_spare(delivery.conversation):
                del self._waiting[delivery.id]
                self._times.begin_again(delivery, self._clock.seconds())
                self._take(delivery)
        if self._waiting:
            self._next.set(RETURN_INTERVAL)
        self._taken()
