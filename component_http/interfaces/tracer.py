"""The life of deliveries, told step by step to whoever wants to follow it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, Protocol

from attrs import define, frozen

from component_http.contract.delivery import Delivery
from component_http.contract.outbound import OutboundStanza
from component_http.contract.reply import Response

Follows = Literal[
    "replied",
    "silent",
    "bounced",
    "expired",
    "refused_reply",
    "retry",
    "left_open",
    "cut_off",
    "internal_error",
]
"""What follows an attempt: the end of its delivery, a retry, an answer that comes later, or none of these."""

Settlement = Literal["confirmed", "expired", "unsendable", "refused", "lost", "dropped", "bounced"]
"""The end of an outbound stanza. One that is `lost` leaves once more, unless it is an iq request."""

ANSWER_BYTES = 1024
"""Bytes of a response's body that are told in an `AttemptReport`."""

_SHOWN = frozenset(
    {
        "accept",
        "accept-encoding",
        "content-type",
        "user-agent",
        "webhook-attempt",
        "webhook-id",
        "webhook-signature",
        "webhook-timestamp",
    }
)

Headers = Sequence[tuple[str, str]]


def without_secrets(headers: Iterable[tuple[str, str]]) -> Headers:
    """Hide the values of all headers of a request that may be secrets: those that are not ours, and reply links."""
    return [(name, value if name.lower() in _SHOWN else "(hidden)") for name, value in headers]


@define
class Marks:
    """
    The moments of one POST, in seconds of the reactor's clock.

    A webhook that measures them puts them into the attribute `marks` of the Deferred that `Webhook.post` returns.

    Attributes:
        turn: When it had its turn, so that it looked for a connection.
        connected: When its connection was there; None where one was used again, or none came about.
        first_byte: When the first of the response was there; None before.
    """

    turn: float
    connected: float | None = None
    first_byte: float | None = None


class AttemptReport(NamedTuple):
    """
    The end of an attempt.

    Attributes:
        number: 1 for the first attempt of the delivery.
        began: When it began, in seconds of the reactor's clock.
        seconds: Its time, from then to its end.
        connecting: The time that its connection took; None where one was used again, or nobody measured it.
        first_byte: The time until the response began; None where there was none, or nobody measured it.
        status: The HTTP status; None without a response.
        failure: Why there was no response, as a phrase; None if there was one.
        answer: The beginning of the response's body (`ANSWER_BYTES`); empty where it was too large to be read.
        follows: What follows.
        again: Seconds until the retry; None if that is not what follows.
    """

    number: int
    began: float
    seconds: float
    connecting: float | None
    first_byte: float | None
    status: int | None
    failure: str | None
    answer: bytes
    follows: Follows
    again: float | None = None


class Tracer(Protocol):
    """
    Is told the life of each delivery, and of each stanza that is pushed.

    It is called where the thing happens, so it has to be quick, and raises nothing.
    """

    def accepted(self, delivery: Delivery, *, restored: bool) -> None:
        """Note that a delivery is pending: it was accepted, or the spool had kept it and its stanza has facts only."""
        ...  # pragma: no cover

    def posted(self, delivery: Delivery, body: bytes, headers: Headers) -> None:
        """
        Note that the request body of a delivery is POSTed.

        Args:
            headers: Those of the request, without secrets. A webhook that adds some to those that it is given puts all
                into the attribute `headers` of the Deferred that `Webhook.post` returns.
        """
        ...  # pragma: no cover

    def attempted(self, delivery: Delivery, report: AttemptReport, response: Response | None) -> None:
        """Note that an attempt has ended; whoever keeps its response keeps up to `webhook.max_body_bytes` of it."""
        ...  # pragma: no cover

    def ended(self, delivery: Delivery, outcome: str, note: str | None, stanzas: Sequence[OutboundStanza]) -> None:
        """
        Note that a delivery ends; the spool is asked to keep that next.

        Args:
            outcome: As it is counted: `replied`, `silent`, `bounced`, `expired` or `refused_reply`.
            note: Why, for a person; None where there is nothing to say.
            stanzas: The stanzas that it sends; they have no numbers yet.
        """
        ...  # pragma: no cover

    def pushed(self, number: int, outbound: OutboundStanza) -> None:
        """Note that a stanza which ends no delivery is kept, and about to leave."""
        ...  # pragma: no cover

    def settled(self, number: int, delivery_id: str | None, settlement: Settlement, why: str | None = None) -> None:
        """
        Note the end of an outbound stanza.

        Args:
            number: Its number in the spool; 0 where the spool could not keep it.
            delivery_id: The delivery that it answers; None for none, and where that is not known any more.
            why: Why it did not arrive, for a person; None where the settlement says it.
        """
        ...  # pragma: no cover


class Tracers:
    """
    Everybody who follows deliveries, in one place that all parts share.

    Attributes:
        told: Who is to be told; None while nobody wants to know, as nearly always.
    """

    __slots__ = ("_all", "told")

    def __init__(self) -> None:
        self.told: Tracer | None = None
        self._all: tuple[Tracer, ...] = ()

    def add(self, tracer: Tracer) -> None:
        """Tell this one, too."""
        self._use((*self._all, tracer))

    def remove(self, tracer: Tracer) -> None:
        """Tell this one nothing more."""
        self._use(tuple(each for each in self._all if each is not tracer))

    def _use(self, tracers: tuple[Tracer, ...]) -> None:
        self._all = tracers
        self.told = None if not tracers else tracers[0] if len(tracers) == 1 else _Several(tracers)


@frozen
class _Several:
    """Several tracers as one."""

    tracers: Sequence[Tracer]

    def accepted(self, delivery: Delivery, *, restored: bool) -> None:
        for each in self.tracers:
            each.accepted(delivery, restored=restored)

    def posted(self, delivery: Delivery, body: bytes, headers: Headers) -> None:
        for each in self.tracers:
            each.posted(delivery, body, headers)

    def attempted(self, delivery: Delivery, report: AttemptReport, response: Response | None) -> None:
        for each in self.tracers:
            each.attempted(delivery, report, response)

    def ended(self, delivery: Delivery, outcome: str, note: str | None, stanzas: Sequence[OutboundStanza]) -> None:
        for each in self.tracers:
            each.ended(delivery, outcome, note, stanzas)

    def pushed(self, number: int, outbound: OutboundStanza) -> None:
        for each in self.tracers:
            each.pushed(number, outbound)

    def settled(self, number: int, delivery_id: str | None, settlement: Settlement, why: str | None = None) -> None:
        for each in self.tracers:
            each.settled(number, delivery_id, settlement, why)
