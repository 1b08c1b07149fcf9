"""Hands outbound stanzas over to the outlet, and carries out what follows from their fates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from attrs import define
from twisted.internet.interfaces import IReactorTime

from component_http.contract.outbound import Fate, OutboundStanza, Refused
from component_http.contract.stanza import Stanza
from component_http.delivery.fates import Fates
from component_http.errors import NotSent
from component_http.interfaces import Observer, OutboundSpool, Outlet
from component_http.interfaces.tracer import Tracers
from component_http.log import Logger
from component_http.throttle import LOG_INTERVAL, Throttle

SURELY_TAKEN = 10_000
"""Bytes that every server takes in one stanza (RFC 6120 section 13.12)."""

TOO_LARGE_FOR = 3600.0
"""
Seconds for which no stanza is sent that is as large as one that the server closed the stream over.

Each would cost everybody two streams. After that, or when the operator retries a dead letter, the next one is tried.
"""

_REASONS = {
    "reply_expired": "it could not be sent in its time",
    "reply_unsendable": "the server would not take it",
}
"""Why a stanza was not sent, by how it ended, for whoever waits for it."""


@define(eq=False, weakref_slot=False)
class _HandedOver:
    """
    A stanza that the outlet has; called with its fate.

    There may be ten thousand of them, so it has few facts, and no XML: the spool keeps that.

    Attributes:
        ended: Called with this and with the fate.
        number: Its number in the spool; 0 where the spool does not have it.
        size: Bytes of its XML.
    """

    ended: Callable[[_HandedOver, Fate], None]
    number: int
    kind: str
    size: int
    delivery_id: str | None
    asked: Stanza | None

    def __call__(self, fate: Fate) -> None:
        self.ended(self, fate)


class HandingOver:
    """
    Hands stanzas over one by one.

    Args:
        spool: Keeps them until the server has them.
        outlet: The way to the server.
        observer: Told `outgoing_refused`.
        clock: Says when a stanza was refused.
        fates: Told which stanzas the server has, and which it will never have.
        again: Called with a number of the spool: all behind it has to be handed over again, because the stream was
            lost.
        apologise: Called with the stanza whose answer the server refused.
        tracers: Told how stanzas end.
    """

    _log = Logger()

    def __init__(
        self,
        spool: OutboundSpool,
        outlet: Outlet,
        observer: Observer,
        clock: IReactorTime,
        fates: Fates,
        *,
        again: Callable[[int], object],
        apologise: Callable[[Stanza], object],
        tracers: Tracers,
    ) -> None:
        self._spool = spool
        self._outlet = outlet
        self._observer = observer
        self._clock = clock
        self._fates = fates
        self._again = again
        self._apologise = apologise
        self._tracers = tracers
        self._throttle = Throttle(LOG_INTERVAL)
        # The size of the smallest stanza that the server has refused for its size, and until when that counts.
        self._too_large: tuple[int, Refused, float] | None = None
        self._tell_end = self._ended  # one bound method for all of them

    def hand_over(self, outbound: OutboundStanza, number: int) -> bool:
        """Hand a stanza of the spool over; False where the outlet does not take it."""
        tell = self._handed_over(outbound, number)
        refused = self._refusal(outbound)
        if refused is None:
            return self.offer(outbound, tell)
        tell(refused)
        return True

    def offer(self, outbound: OutboundStanza, tell: Callable[[Fate], None]) -> bool:
        """Offer any stanza to the outlet, which tells its fate; False where the outlet does not take it."""
        try:
            return self._outlet.depart(outbound, tell)
        except Exception:
            self._log.failure("cannot send a {kind}", kind=outbound.kind)
            return False

    def fail(self, number: int, delivery_id: str | None, outcome: Literal["reply_expired", "reply_unsendable"]) -> None:
        """Make a dead letter of a stanza that is not sent."""
        if self._tracers.told is not None:
            self._tracers.told.settled(
                number, delivery_id, "expired" if outcome == "reply_expired" else "unsendable", _REASONS[outcome]
            )
        self._spool.failed(number, outcome)
        self._fates.failed(number, NotSent(_REASONS[outcome]))

    def refused(self, fate: Refused, outbound: OutboundStanza) -> None:
        """Tell the operator, and who asked, that the server refused a stanza that the spool does not have."""
        self._tell_refused(fate, self._handed_over(outbound, 0))

    def try_large_ones(self) -> None:
        """Forget how large a stanza the server has refused: try the next one."""
        self._too_large = None

    def _handed_over(self, outbound: OutboundStanza, number: int) -> _HandedOver:
        xml_bytes = len(outbound.xml)
        return _HandedOver(self._tell_end, number, outbound.kind, xml_bytes, outbound.delivery_id, outbound.asked)

    def _ended(self, handed_over: _HandedOver, fate: Fate) -> None:
        number = handed_over.number
        if fate == "confirmed":
            if self._tracers.told is not None:
                self._tracers.told.settled(number, handed_over.delivery_id, "confirmed")
            self._spool.confirmed(number)
            self._fates.arrived(number)
        elif fate == "expired":
            self.fail(number, handed_over.delivery_id, "reply_expired")
        elif isinstance(fate, Refused):
            why = f"the server closes the stream over it: {fate.reason}"
            self._spool.failed(number, "reply_refused", why)
            self._tell_refused(fate, handed_over)
            self._fates.failed(number, NotSent(why))
        else:
            if self._tracers.told is not None and fate != "stopped":
                self._tracers.told.settled(number, handed_over.delivery_id, "lost", "the stream was lost")
            if fate == "suspected":
                self._spool.suspect(number)
            self._again(number - 1)

    def _tell_refused(self, fate: Refused, refused: _HandedOver) -> None:
        self._observer.count("outgoing_refused")
        if self._tracers.told is not None:
            self._tracers.told.settled(refused.number, refused.delivery_id, "refused", fate.reason)
        now, known = self._clock.seconds(), self._too_large
        if fate.for_size and refused.size > SURELY_TAKEN and (known is None or refused.size < known[0]):
            self._too_large = refused.size, fate, now + TOO_LARGE_FOR
        if self._throttle.may_tell(fate.reason, now):
            letter = f".{refused.number}" if refused.number else ""
            self._log.error(
                "{id}: the server closes the stream over this {kind} of {size} bytes, so it is not sent: {reason};"
                " {remedy}",
                id=f"{refused.delivery_id or 'departure'}{letter}",
                kind=refused.kind,
                size=refused.size,
                reason=fate.reason,
                remedy=fate.remedy,
            )
        if refused.asked is not None:
            self._apologise(refused.asked)

    def _refusal(self, outbound: OutboundStanza) -> Refused | None:
        """Say why a stanza is not even tried; None if it is."""
        if self._too_large is None:
            return None
        size, refused, until = self._too_large
        if self._clock.seconds() >= until:
            self._too_large = None
        elif len(outbound.xml) >= size:
            return Refused(f"so it did over one of {size} bytes: {refused.reason}", refused.remedy)
        return None
