"""The spool, as each of its users sees it, and as a whole."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from attrs import field, frozen
from twisted.internet.defer import Deferred

from component_http.contract.delivery import DeadLetter, Delivery
from component_http.contract.ended import EndedDelivery, WhichEnded
from component_http.contract.idempotency import IdempotencyRecord
from component_http.contract.outbound import OutboundStanza
from component_http.interfaces.tracer import Tracer


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
        replays: Commands that ask for a replay: the number of each, and its argument (see `spool.facts`).
    """

    deliveries: list[Delivery] = field(factory=list)
    outbound_stanzas: bool = False
    dropped_deliveries: list[str] = field(factory=list)
    dropped_outbound: list[int] = field(factory=list)
    wake: bool = False
    questions: list[tuple[int, str]] = field(factory=list)
    replays: list[tuple[int, str]] = field(factory=list)


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

    def outbound_stanzas(self, after: int, domain: str | None = None) -> Deferred[list[OutboundStanza]]:
        """
        Fire with the outbound stanzas that were neither confirmed nor failed, in order; some of them, if they are many.

        Args:
            after: The number before the first; 0 for all.
            domain: The domain of the component that sends them; None for those of all.

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


class DeliveryLog(Protocol):
    """
    The log of deliveries that have ended.

    Attributes:
        tracer: Has to be told of all deliveries, for that is what is written.
    """

    @property
    def tracer(self) -> Tracer: ...  # pragma: no cover

    def newest(
        self, which: WhichEnded, before: int | None, limit: int
    ) -> Deferred[tuple[list[EndedDelivery], int | None]]:
        """
        Fire with deliveries that fit a filter, newest first, without the fates of their stanzas.

        Args:
            before: Those with a smaller number; None for all.
            limit: So many of them at most; fewer do not mean that there are no more.

        Returns:
            Beside them `before` for the next call; None if there are no more.
        """
        ...  # pragma: no cover

    def one(self, number: int) -> Deferred[EndedDelivery | None]:
        """Fire with a delivery by its number, and with the fates of its stanzas; None if it is not there."""
        ...  # pragma: no cover

    def body(self, number: int) -> Deferred[bytes | None]:
        """Fire with the request body of a delivery by its number; None if it was not kept."""
        ...  # pragma: no cover

    def record(self, replay: EndedDelivery) -> Deferred[int]:
        """Add a replay to the log; fires with its number."""
        ...  # pragma: no cover


class Spool(DeliverySpool, OutboundSpool, RecordSpool, SubscriberSpool, Protocol):
    """
    A place that keeps accepted deliveries until they have ended, and all else that a gateway must not forget.

    It carries out calls in the order of asking, and its Deferreds fire in that order. Each of them fails with
    `component_http.errors.SpoolError` if the spool cannot do it now.

    Attributes:
        log: The log of deliveries; None where none is kept.
    """

    @property
    def log(self) -> DeliveryLog | None: ...  # pragma: no cover

    def restore(self) -> Deferred[list[Delivery]]:
        """
        Fire with the next deliveries that were kept at the start, in the order of storing; empty if that was all.

        The first time before anything else is asked of the spool; after the empty list it begins anew. Their deadlines
        are those of the reactor's clock.
        """
        ...  # pragma: no cover

    def foreign(self, domains: Collection[str]) -> Deferred[list[tuple[int, str]]]:
        """Fire with the number and the domain of each outbound stanza of another component than those of domains."""
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
