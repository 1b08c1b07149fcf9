"""What is sent of somebody's own accord: pushes, questions, and replies that come late."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.words.xish.domish import Element

from component_http.contract.memo import Memo
from component_http.contract.reply import Composed
from component_http.delivery.departures import Departures
from component_http.delivery.relay import Relay
from component_http.errors import DeliveryEnded
from component_http.interfaces import Spool

__all__ = ["Dispatch"]

T = TypeVar("T")


class Dispatch:
    """
    A `component_http.interfaces.Sender`.

    What it sends leaves in one order with the answers of deliveries: that in which the spool has kept it.

    Args:
        spool: Remembers answers by their keys.
        departures: Keep what is pushed.
        relay: Has the iqs that may be answered late; told what is pushed.
        ask: Sends an iq with a fresh id, and waits for its answer so many seconds (see `Sender.ask`).
    """

    def __init__(
        self,
        spool: Spool,
        departures: Departures,
        relay: Relay,
        ask: Callable[[Element, float], Awaitable[Element]],
    ) -> None:
        self._spool = spool
        self._departures = departures
        self._relay = relay
        self._ask = ask

    async def push(
        self, composed: Composed, *, delivery_id: str | None = None, memo: Memo | None = None
    ) -> tuple[int, ...]:
        """See `component_http.interfaces.Sender.push`."""
        kept: Deferred[Sequence[int]]
        if not composed.answers:
            self._relay.note_said(composed.stanzas, delivery_id)
            kept = self._departures.push(composed, delivery_id=delivery_id, memo=memo)
        elif delivery_id is None:
            raise DeliveryEnded
        else:
            kept = self._relay.answer_late(delivery_id, composed, memo)
        numbers: Sequence[int] = await _shielded(kept)
        return tuple(numbers)

    async def recall(self, owner: str, key: str) -> Memo | None:
        """See `component_http.interfaces.Sender.recall`."""
        return await self._spool.recall(owner, key)

    async def sent(self, numbers: Sequence[int]) -> None:
        """See `component_http.interfaces.Sender.sent`."""
        await self._departures.sent(numbers)

    async def ask(self, iq: Element, timeout: float) -> Element:
        """See `component_http.interfaces.Sender.ask`."""
        return await self._ask(iq, timeout)


def _shielded(deferred: Deferred[T]) -> Deferred[T]:
    """The same for somebody who may go away, without cancelling it."""
    shield: Deferred[T] = Deferred()
    deferred.addBoth(shield.callback)
    return shield
