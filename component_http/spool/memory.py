"""A spool that forgets with the process."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import Deferred, succeed
from twisted.words.xish.domish import Element

from component_http.delivery.delivery import Delivery

__all__ = ["MemorySpool"]


class MemorySpool:
    """A `Spool` in memory: nothing in it outlives the process, and everything in it is there at once."""

    durable = False

    def __init__(self) -> None:
        self._bodies: dict[str, bytes] = {}

    def store(self, delivery: Delivery, body: bytes) -> Deferred[None]:
        """See `component_http.interfaces.Spool.store`."""
        self._bodies[delivery.id] = body
        return succeed(None)

    def note(self, delivery: Delivery) -> None:
        """See `component_http.interfaces.Spool.note`; the delivery itself is all there is."""

    def body(self, delivery_id: str) -> Deferred[bytes]:
        """See `component_http.interfaces.Spool.body`."""
        return succeed(self._bodies[delivery_id])

    def end(self, delivery_id: str, replies: Sequence[Element]) -> Deferred[None]:
        """See `component_http.interfaces.Spool.end`."""
        del self._bodies[delivery_id]
        return succeed(None)

    def restore(self) -> Deferred[list[Delivery]]:
        """See `component_http.interfaces.Spool.restore`; there is nothing."""
        return succeed([])

    def close(self) -> Deferred[None]:
        """See `component_http.interfaces.Spool.close`."""
        return succeed(None)
