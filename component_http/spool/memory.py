"""A spool that forgets with the process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twisted.internet.defer import Deferred, succeed

from component_http.delivery.delivery import Delivery, Letter
from component_http.delivery.departure import Departure
from component_http.interfaces import Found

__all__ = ["MemorySpool"]


class MemorySpool:
    """A `Spool` in memory: nothing in it outlives the process, and everything in it is there at once."""

    durable = False
    trouble: str | None = None

    def __init__(self) -> None:
        self._bodies: dict[str, bytes] = {}
        self._next = 1

    def store(self, delivery: Delivery, body: bytes) -> Deferred[None]:
        """See `component_http.interfaces.Spool.store`."""
        self._bodies[delivery.id] = body
        return succeed(None)

    def note(self, delivery: Delivery) -> None:
        """See `component_http.interfaces.Spool.note`; the delivery itself is all there is."""

    def body(self, delivery_id: str) -> Deferred[bytes]:
        """See `component_http.interfaces.Spool.body`."""
        return succeed(self._bodies[delivery_id])

    def end(
        self, delivery_id: str, departures: Sequence[Departure], letter: Letter | None = None
    ) -> Deferred[Sequence[int]]:
        """See `component_http.interfaces.Spool.end`; what leaves is the outlet's to keep, and letters are not kept."""
        del self._bodies[delivery_id]
        first = self._next
        self._next += len(departures)
        return succeed(range(first, self._next))

    def departures(self, after: int) -> Deferred[list[Departure]]:
        """See `component_http.interfaces.Spool.departures`; there is nothing."""
        return succeed([])

    def confirmed(self, number: int) -> None:
        """See `component_http.interfaces.Spool.confirmed`; it is not kept anyway."""

    def failed(self, number: int, outcome: str) -> None:
        """See `component_http.interfaces.Spool.failed`; it is not kept anyway."""

    def subscribe(self, component: str, user: str) -> None:
        """See `component_http.interfaces.Spool.subscribe`; who asks knows it, for as long as there is a process."""

    def unsubscribe(self, component: str, user: str) -> None:
        """See `component_http.interfaces.Spool.unsubscribe`."""

    def subscribers(self) -> Deferred[list[tuple[str, str]]]:
        """See `component_http.interfaces.Spool.subscribers`; there are none."""
        return succeed([])

    def restore(self) -> Deferred[list[Delivery]]:
        """See `component_http.interfaces.Spool.restore`; there is nothing."""
        return succeed([])

    def look(self, facts: Mapping[str, str]) -> Deferred[Found]:
        """See `component_http.interfaces.Spool.look`; nobody else can look into it."""
        return succeed(Found())

    def close(self) -> Deferred[None]:
        """See `component_http.interfaces.Spool.close`."""
        return succeed(None)
