"""
The interfaces between the parts of the gateway.

Every edge of the gateway (the XMPP stream, the HTTP client) is used through one of these, so that a test
or an embedding application can put something else in its place.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

from attrs import field, frozen
from twisted.internet.defer import Deferred
from twisted.words.xish.domish import Element

from component_http.contract.composing import Composed
from component_http.contract.delivery import DeadLetter, Delivery
from component_http.contract.idempotency import IdempotencyRecord
from component_http.contract.outbound import Fate, OutboundStanza
from component_http.contract.reply import Response

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


@frozen
class Found:
    """
    The commands that other programs have put into a spool.

    Attributes:
        deliveries: Deliveries to be delivered once more, behind all others and when there is room.
        outbound_stanzas: There are more outbound stanzas than were handed over.
        dropped_deliveries: The ids of deliveries that are to be dropped.
        dropped_outbound: The numbers of outbound stanzas that were dropped.
        wake: The webhook is to be asked at once.
        questions: Commands that ask why something waits: the number of each, and its argument (see `spool.facts`).
    """

    deliveries: list[Delivery] = field(factory=list)
    outbound_stanzas: bool = False
    dropped_deliveries: list[str] = field(factory=list)
    dropped_outbound: list[int] = field(factory=list)
    wake: bool = False
    questions: list[tuple[int, str]] = field(factory=list)


class DeliverySpool(Protocol):
    """
    The spool for the relay: accepted deliveries, until they have ended.

    Attributes:
        durable: Its content outlives the process.
        trouble: Why it stores nothing now, as a phrase; None if it does.
    """

    @property
    def durable(self) -> bool: ...  # pragma: no cover

    @property
    def trouble(self) -> str | None: ...  # pragma: no cover

    def store(self, delivery: Delivery, body: bytes) -> Deferred[None]:
        """
        Keep a delivery with its request body.

        Returns:
            Fires when it is kept: from then on it is accepted.
        """
        ...  # pragma: no cover

    def note(self, delivery: Delivery) -> None:
        """Keep how often a delivery was tried, some time soon; if that fails, nobody hears of it."""
        ...  # pragma: no cover

    def begun(self, delivery: Delivery) -> Deferred[None]:
        """Keep how often a delivery was tried, and fire when it is kept: before a POST that must not be made twice."""
        ...  # pragma: no cover

    def body(self, delivery_id: str) -> Deferred[bytes]:
        """Fire with the request body of a delivery that is kept."""
        ...  # pragma: no cover

    def amend(self, delivery_id: str, body: bytes) -> Deferred[None]:
        """Replace the request body of a delivery that is kept; fires when the new one is."""
        ...  # pragma: no cover

    def end(
        self,
        delivery_id: str,
        outbound_stanzas: Sequence[OutboundStanza],
        letter: DeadLetter | None = None,
        record: IdempotencyRecord | None = None,
    ) -> Deferred[Sequence[int]]:
        """
        Delete a delivery, and keep the outbound stanzas that answer it.

        Where that fails and there are no outbound stanzas, the delivery is deleted later. Where there are some, it
        stays: the caller sends them itself, and then ends the delivery once more without any.

        Args:
            delivery_id: The delivery.
            outbound_stanzas: The outbound stanzas, in their order.
            letter: The dead letter of a delivery that was given up, where dead letters are kept; None if it was not.
            record: Kept with the outbound stanzas, and with their numbers.

        Returns:
            The numbers of the outbound stanzas, when all of this is kept; each is larger than any before.
        """
        ...  # pragma: no cover

    def hurry(self) -> None:
        """Wait for nobody from now on: the process is about to end."""
        ...  # pragma: no cover


class OutboundSpool(Protocol):
    """
    The spool for the outbox: outbound stanzas, until the server has them.

    Attributes:
        durable: Its content outlives the process.
        crowd: Answers of deliveries that may wait in it before no more should be asked for; 0 where that is so as soon
            as the outlet is crowded.
    """

    @property
    def durable(self) -> bool: ...  # pragma: no cover

    @property
    def crowd(self) -> int: ...  # pragma: no cover

    def push(
        self, outbound_stanzas: Sequence[OutboundStanza], record: IdempotencyRecord | None = None
    ) -> Deferred[Sequence[int]]:
        """
        Keep outbound stanzas that answer no delivery.

        Args:
            outbound_stanzas: The outbound stanzas, in their order.
            record: Kept with them, and with their numbers.

        Returns:
            Their numbers, when they are kept; each is larger than any before.
        """
        ...  # pragma: no cover

    def still_kept(self, numbers: Collection[int]) -> Deferred[set[int]]:
        """Fire with the numbers, of these, whose outbound stanzas are still kept."""
        ...  # pragma: no cover

    def outbound_stanzas(self, after: int) -> Deferred[list[OutboundStanza]]:
        """
        Fire with the outbound stanzas that were neither confirmed nor failed, in order; some of them, if they are many.

        Args:
            after: The number before the first; 0 for all.

        Returns:
            Outbound stanzas with the times of the reactor's clock. An empty list means that there are no more.
        """
        ...  # pragma: no cover

    def confirmed(self, number: int) -> None:
        """Delete an outbound stanza, some time soon: the server has it. If that fails, nobody hears of it."""
        ...  # pragma: no cover

    def failed(self, number: int, outcome: str, note: str | None = None) -> None:
        """
        Keep an outbound stanza as a dead letter from now on, some time soon; if that fails, nobody hears of it.

        Args:
            number: Its number.
            outcome: `reply_expired`, `reply_unsendable` or `reply_refused`.
            note: Why, for a person; None where the outcome says it.
        """
        ...  # pragma: no cover

    def bounced(self, number: int, outbound: OutboundStanza, note: str) -> None:
        """
        Keep an outbound stanza that came back as a dead letter, some time soon, also if it was confirmed before.

        If that fails, nobody hears of it.

        Args:
            number: Its number.
            outbound: The outbound stanza.
            note: The error that it came back with, for a person.
        """
        ...  # pragma: no cover

    def suspect(self, number: int) -> None:
        """Mark an outbound stanza as suspect, some time soon; `outbound_stanzas` knows it from now on."""
        ...  # pragma: no cover


class RecordSpool(Protocol):
    """The spool for those who answer requests: idempotency records, and the key of links."""

    def recall(self, owner: str, key: str) -> Deferred[IdempotencyRecord | None]:
        """Fire with the record of a key, if it is not older than `contract.idempotency.LIFETIME`, or None."""
        ...  # pragma: no cover

    def key(self) -> Deferred[bytes]:
        """Fire with a key of `contract.link.KEY_BYTES` that nobody else knows, the same as long as the spool lasts."""
        ...  # pragma: no cover


class SubscriberSpool(Protocol):
    """The spool for the users who are told that the component is there."""

    def subscribe(self, component: str, user: str) -> None:
        """
        Keep a user who wants to know that an address of the component is there; some time soon.

        If that fails, nobody hears of it. Both addresses are bare; a pair that is kept already stays where it is.
        """
        ...  # pragma: no cover

    def unsubscribe(self, component: str, user: str) -> None:
        """Delete a pair, some time soon; if that fails, nobody hears of it."""
        ...  # pragma: no cover

    def subscribers(self) -> Deferred[list[tuple[str, str]]]:
        """Fire with the pairs that are kept, oldest first."""
        ...  # pragma: no cover


class Spool(DeliverySpool, OutboundSpool, RecordSpool, SubscriberSpool, Protocol):
    """
    A place that keeps accepted deliveries until they have ended, and all else that a gateway must not forget.

    It carries out calls in the order of asking, and its Deferreds fire in that order. Each of them fails with
    `component_http.errors.SpoolError` if the spool cannot do it now.
    """

    def restore(self) -> Deferred[list[Delivery]]:
        """
        Fire with the next deliveries that were kept at the start, in the order of storing; empty if that was all.

        The first time before anything else is asked of the spool; after the empty list it begins anew. Their deadlines
        are those of the reactor's clock.
        """
        ...  # pragma: no cover

    def look(self, facts: Mapping[str, str], room: int) -> Deferred[Found]:
        """
        Do the work of each second: carry out the commands of other programs, and delete old rows.

        Args:
            facts: Facts that such a program can read, by name.
            room: Deliveries that may be found; the others wait where they are.
        """
        ...  # pragma: no cover

    def close(self) -> Deferred[None]:
        """Do what was asked, and fire when all is closed; the spool may be used again then."""
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
