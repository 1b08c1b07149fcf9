"""Send stanzas that are no answer to a POST: pushes, iq requests, and late replies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.words.xish.domish import Element

from component_http.contract.address import Address
from component_http.contract.composing import Composed
from component_http.contract.idempotency import IdempotencyRecord
from component_http.delivery.bounces import Bounces
from component_http.delivery.outbox import Outbox
from component_http.delivery.relay import Relay
from component_http.errors import DeliveryEnded
from component_http.interfaces import RecordSpool
from component_http.waiters import abandon

GRACE = 1.0
"""
Seconds for which a room may show a message, or refuse it, when the server has it. The server's own users and rooms
answer within milliseconds, and some gateways to other networks never do.
"""

T = TypeVar("T")


class Dispatch:
    """
    A `component_http.interfaces.Sender`.

    What it sends leaves in one order with the answers of deliveries: that in which the spool has kept it.

    Args:
        spool: Remembers answers by their keys.
        outbox: Keeps pushed stanzas and sends them.
        relay: Has the iqs that may be answered late; told what is pushed.
        bounces: Knows which pushed stanzas came back.
        ask: Sends an iq with a fresh id, and waits for its answer so many seconds (see `Sender.ask`).
        enter: Lets the first address enter the second one, a room, and waits for that for some seconds; it raises
            `RoomRefused` where the room does not let it in.
        when_sent: Fires when nothing waits to be written or confirmed (see `Outlet.when_sent`): asking for that makes
            the outlet ask the server at once what it has.
        clock: Runs the waits.
    """

    def __init__(
        self,
        spool: RecordSpool,
        outbox: Outbox,
        relay: Relay,
        bounces: Bounces,
        *,
        ask: Callable[[Element, float], Awaitable[Element]],
        enter: Callable[[Address, Address], Coroutine[Any, Any, None]],
        when_sent: Callable[[], Deferred[None]],
        clock: IReactorTime,
    ) -> None:
        self._spool = spool
        self._outbox = outbox
        self._relay = relay
        self._bounces = bounces
        self._ask = ask
        self._enter = enter
        self._when_sent = when_sent
        self._clock = clock

    async def push(
        self, composed: Composed, *, delivery_id: str | None = None, record: IdempotencyRecord | None = None
    ) -> tuple[int, ...]:
        """See `component_http.interfaces.Sender.push`."""
        if delivery_id is None:
            await self._enter_rooms(composed)
        kept: Deferred[Sequence[int]]
        if not composed.answers:

            def note(numbers: Sequence[int]) -> Sequence[int]:
                self._relay.loops.said(composed.stanzas, delivery_id)
                return numbers

            # What was not kept is not said, and is no evidence of a loop.
            kept = self._outbox.push(composed, delivery_id=delivery_id, record=record).addCallback(note)
        elif delivery_id is None:
            raise DeliveryEnded
        else:
            kept = self._relay.answer_late(delivery_id, composed, record)
        numbers: Sequence[int] = await _shielded(kept)
        return tuple(numbers)

    async def _enter_rooms(self, composed: Composed) -> None:
        """Enter all the rooms that something is said in, at the same time."""
        rooms = {
            (Address.parse(stanza["from"]), Address.parse(stanza["to"]))
            for stanza in composed.stanzas
            if stanza.name == "message" and stanza.getAttribute("type") == "groupchat"
        }
        entering = [Deferred.fromCoroutine(self._enter(ours, room)) for ours, room in rooms if room.resource is None]
        try:
            for entered in entering:
                await entered
        finally:
            abandon(*entering)

    async def recall(self, owner: str, key: str) -> IdempotencyRecord | None:
        """See `component_http.interfaces.Sender.recall`."""
        return await self._spool.recall(owner, key)

    async def sent(self, numbers: Sequence[int]) -> None:
        """See `component_http.interfaces.Sender.sent`."""
        hurry = self._when_sent()
        try:
            await self._outbox.sent(numbers)
            # A room may answer a moment later than the server.
            with suppress(TimeoutError):
                await self._bounces.when_shown(numbers).addTimeout(GRACE, self._clock)
        finally:
            abandon(hurry)

    async def ask(self, iq: Element, timeout: float) -> Element:
        """See `component_http.interfaces.Sender.ask`."""
        return await self._ask(iq, timeout)


def _shielded(deferred: Deferred[T]) -> Deferred[T]:
    """The same for somebody who may go away, without cancelling it."""
    shield: Deferred[T] = Deferred()
    deferred.addBoth(shield.callback)
    return shield
