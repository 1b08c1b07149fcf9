"""
The interfaces between the parts of the gateway.

Every edge of the gateway (the XMPP stream, the HTTP client) is used through one of these, so that a test
or an embedding application can put something else in its place.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.words.xish.domish import Element

from component_http.contract.address import Address
from component_http.contract.composing import Composed
from component_http.contract.idempotency import IdempotencyRecord
from component_http.contract.outbound import Fate, OutboundStanza
from component_http.contract.reply import Response
from component_http.contract.xml import Limits
from component_http.interfaces.spools import (
    DeliverySpool,
    Found,
    OutboundSpool,
    RecordSpool,
    Spool,
    SubscriberSpool,
)

__all__ = [
    "AnswerFunction",
    "DeliverySpool",
    "Found",
    "Observer",
    "OutboundSpool",
    "Outlet",
    "RecordSpool",
    "ReplyObjects",
    "Response",
    "Sender",
    "Spool",
    "Stream",
    "SubscriberSpool",
    "Valve",
    "Webhook",
]

ReplyObjects = Mapping[str, object] | Sequence[Mapping[str, object]]
"""One reply object of the contract with the webhook, or several; their values are those of JSON."""

AnswerFunction = Callable[[dict[str, Any]], Awaitable[ReplyObjects | Response | None]]
"""
A function of the application in the place of the webhook: it gets the object that a POST would have for its body.

It returns reply objects, None for no reply, or a response with any other status and its header fields, by lower-case
name. An exception of it is a failed attempt: like the response 500, or like what a `WebhookError` says.
"""


class Webhook(Protocol):
    """Answers HTTP POSTs, as the webhook does."""

    def post(self, body: bytes, headers: Mapping[str, str], *, fresh: bool = False) -> Awaitable[Response]:
        """
        Make one POST and wait for the whole response; cancelling ends it.

        Args:
            body: The JSON object, UTF-8.
            headers: What is particular to this attempt (`webhook-id` and so on).
            fresh: Use a connection that has carried no request before.

        Returns:
            The response, whatever its status; redirects are not followed.

        Raises:
            component_http.errors.WebhookError: There was no complete response; the subclass says why.
        """
        ...  # pragma: no cover


class Outlet(Protocol):
    """
    Sends stanzas to the XMPP server.

    Attributes:
        crowded: So many stanzas wait, because the server does not read or is not there, that no more should be
            made.
    """

    @property
    def crowded(self) -> bool: ...  # pragma: no cover

    def send(self, element: Element) -> bool:
        """
        Send one stanza, or keep it until the stream is back.

        Returns:
            False if it was neither sent nor kept (it is counted and logged there).
        """
        ...  # pragma: no cover

    def depart(self, outbound: OutboundStanza, tell: Callable[[Fate], None]) -> bool:
        """
        Send one stanza that was checked before, or keep it until the stream is back.

        Args:
            outbound: The stanza.
            tell: Told its fate, once; nothing more is done about the stanza then. An outlet that stops says nothing of
                what was written.

        Returns:
            False if it was neither sent nor kept.
        """
        ...  # pragma: no cover

    def give_back(self) -> None:
        """Tell `lost` of every stanza that waits to be written, so that its owner brings it again."""
        ...  # pragma: no cover

    def when_clear(self) -> Deferred[None]:
        """Fire as soon as it is not crowded; at once if it is not now. Cancelling it forgets it."""
        ...  # pragma: no cover

    def when_sent(self) -> Deferred[None]:
        """Fire as soon as no stanza waits; at once if none does. Cancelling it forgets it."""
        ...  # pragma: no cover


class Stream(Protocol):
    """The component's stream, for an application with wokkel handlers: what wokkel's `StreamManager` offers."""

    def addHandler(self, handler: Any) -> None:
        """Put an `XMPPHandler` on the stream."""
        ...  # pragma: no cover

    def removeHandler(self, handler: Any) -> None:
        """Take it off again."""
        ...  # pragma: no cover

    def send(self, obj: Element | str) -> object:
        """Send a stanza, or XML text of some."""
        ...  # pragma: no cover

    def request(self, request: Any) -> Deferred[Element]:
        """
        Send an iq, and wait for its answer.

        Args:
            request: A `wokkel.generic.Request`.

        Returns:
            Fires with the result. It fails with a `StanzaError` of Twisted for an error, and with its `TimeoutError`
            where the request's `timeout` is over.
        """
        ...  # pragma: no cover


class Sender(Protocol):
    """
    Sends stanzas that do not answer a POST: pushed ones, and late replies.

    It goes on to keep stanzas when the caller is cancelled meanwhile.
    """

    async def push(
        self, composed: Composed, *, delivery_id: str | None = None, record: IdempotencyRecord | None = None
    ) -> tuple[int, ...]:
        """
        Keep stanzas until the server has them, all of them or none; they leave in this order.

        Args:
            composed: The stanzas. If one of them answers an iq (`Composed.answers`), its delivery ends by that.
            delivery_id: The delivery that they answer late; None if they answer none.
            record: Stored with them in the same transaction, with their numbers, for `idempotency.LIFETIME`.

        Returns:
            A number for each, in the same order, when they are kept.

        Raises:
            component_http.errors.SpoolError: They cannot be kept now, so none is.
            component_http.errors.DeliveryEnded: The iq that they would answer was answered already.
            component_http.errors.RoomRefused: A room that one of them is for does not let its sender in, so none
                is kept.
        """
        ...  # pragma: no cover

    async def recall(self, owner: str, key: str) -> IdempotencyRecord | None:
        """
        Say what is remembered of a key, or None.

        Raises:
            component_http.errors.SpoolError: That cannot be read now.
        """
        ...  # pragma: no cover

    async def sent(self, numbers: Sequence[int]) -> None:
        """
        Wait until the server has pushed stanzas; cancelling it ends the waiting only.

        A message to a room has arrived when the room shows it, or after `dispatch.GRACE` seconds.

        Args:
            numbers: The numbers of the stanzas, as `push` returned them.

        Raises:
            component_http.errors.NotSent: One of them will never be with the server, which is told as soon as it is
                known; `Bounced` where it came back.
        """
        ...  # pragma: no cover

    async def ask(self, iq: Element, timeout: float) -> Element:
        """
        Send an iq of type get or set at once, and once, and wait for its answer; cancelling it ends the waiting only.

        Args:
            iq: The iq, with its addresses; it gets an id that nobody can guess.
            timeout: Seconds to wait.

        Returns:
            The result, or the error, from the address that was asked.

        Raises:
            component_http.errors.Unanswered: None came in time.
            component_http.errors.Offline: It cannot be sent now.
        """
        ...  # pragma: no cover


@frozen
class Origin:
    """
    A component that stanzas are sent from.

    Attributes:
        sender: Sends them.
        address: The sender of those that name none.
        limits: The limits of each.
    """

    sender: Sender
    address: Address
    limits: Limits


class Valve(Protocol):
    """The way in for stanzas, which can be held back for a moment."""

    def pause(self) -> None:
        """Stop reading, never for longer than the server allows."""
        ...  # pragma: no cover

    def resume(self) -> None:
        """Read again."""
        ...  # pragma: no cover


class Observer(Protocol):
    """Is told how often things happen."""

    def count(self, event: str) -> None:
        """
        Note that something happened once.

        Args:
            event: A name of the list in `docs/architecture.md`, in the past tense: `accepted`, `refused_reply`, ...
        """
        ...  # pragma: no cover
