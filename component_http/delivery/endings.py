"""The end of a delivery: its outbound stanzas, its dead letter, and its count."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from component_http.contract import conditions, reply
from component_http.contract.delivery import DeadLetter, Delivery
from component_http.contract.idempotency import IdempotencyRecord
from component_http.contract.outbound import OutboundStanza
from component_http.contract.reply import Outcome, Response, Verdict
from component_http.delivery.backlog import Backlog
from component_http.delivery.expiry import Expiry
from component_http.delivery.life import ENDING, Lives
from component_http.delivery.loops import Loops
from component_http.delivery.outbox import Outbox
from component_http.errors import SpoolError
from component_http.interfaces import DeliverySpool, Observer
from component_http.interfaces.tracer import Tracers
from component_http.log import Logger
from component_http.throttle import LOG_INTERVAL, Throttle
from component_http.waiters import follow

MAX_RESPONSE_BYTES = 64 * 1024
"""Bytes of a response that are kept in a dead letter: enough to see what was wrong with it."""

MAX_ENDING = 100
"""
Deliveries that wait for the spool to keep their ends, beyond which each keeps its place, so that no more begin.

After a kill -9 so many, and those that were running, are POSTed again.
"""


@frozen
class _Ending:
    """
    The end of a delivery while the spool keeps it.

    Attributes:
        told: Fires with the numbers of the stanzas.
    """

    delivery: Delivery
    outcome: Outcome
    stanzas: Sequence[OutboundStanza]
    dead_letter: DeadLetter | None
    told: Deferred[Sequence[int]] | None


@define(eq=False)
class Endings:
    """
    Ends deliveries, each in one way: its outbound stanzas leave when the spool has them and has forgotten it.

    Args:
        deliveries: At which stage each of them is.
        backlog: Knows them no longer when they have ended.
        expiry: Has no deadline for them from then on.
        spool: Keeps the outbound stanzas and the dead letters.
        outbox: Lets it leave.
        loops: May hold an answer back; told those that are given.
        observer: Told one of `replied`, `silent`, `bounced`, `expired`, `refused_reply` for each; `spool_failed`.
        clock: Says when the same was logged last.
        when_place_is_free: Called when another delivery may run, although the spool has not kept the end of this one.
        when_ended: Called when one has ended.
        tracers: Told how each ends.
        took: Told the seconds from its acceptance to its end; None where nobody wants to know.
    """

    _log = Logger()

    _deliveries: Lives
    _backlog: Backlog
    _expiry: Expiry
    _spool: DeliverySpool
    _outbox: Outbox
    _loops: Loops
    _observer: Observer
    _clock: IReactorTime
    _when_place_is_free: Callable[[], object]
    _when_ended: Callable[[], object]
    _tracers: Tracers
    _took: Callable[[float], object] | None = None
    _throttle: Throttle = field(init=False, factory=lambda: Throttle(LOG_INTERVAL))

    def end(
        self,
        delivery: Delivery,
        verdict: Verdict,
        record: IdempotencyRecord | None = None,
        *,
        told: Deferred[Sequence[int]] | None = None,
        keep: bool = True,
    ) -> None:
        """
        End a delivery, whatever it is at; only the first time counts.

        Args:
            verdict: How, and with which stanzas.
            record: To be remembered with them.
            told: Fires with their numbers when they are kept.
            keep: If it was given up, it becomes a dead letter.
        """
        if not self._deliveries.may(delivery, ENDING):
            return
        self._expiry.remove(delivery)
        was_running = delivery.stage.name == "running"
        self._deliveries.stop(delivery, ENDING)
        verdict = self._loops.guarded(delivery, verdict)
        if verdict.outcome == "replied":
            self._loops.said(verdict.stanzas, delivery.id)
        stanzas = self._outbox.maker.make(
            verdict.stanzas,
            verdict.xml,
            verbatim=verdict.verbatim,
            delivery_id=delivery.id,
            deadline=delivery.deadline,
            asked=delivery.stanza if delivery.stanza.bounceable else None,
        )
        dead_letter = _dead_letter(delivery, verdict) if keep else None
        if self._tracers.told is not None:
            self._tracers.told.ended(delivery, verdict.outcome, verdict.note, stanzas)
        ended = self._spool.end(delivery.id, stanzas, dead_letter, record)
        ending = _Ending(delivery, verdict.outcome, stanzas, dead_letter, told)
        if not ended.called and was_running and len(self._deliveries.at("ending")) <= MAX_ENDING:
            # The webhook need not wait for the disk.
            self._backlog.back_off(delivery.id)
            self._when_place_is_free()
        follow(ended, self._ended, self._not_kept, self._broken, ending)

    def failed(self, failure: Failure, delivery: Delivery) -> None:
        """End a delivery for an internal error, which is not silence for whoever waits for an answer."""
        self.log_internal_error(failure, delivery)
        self.end(delivery, reply.give_up(delivery.stanza, conditions.INTERNAL, "an internal error"))

    def log_internal_error(self, failure: Failure, delivery: Delivery) -> None:
        """Log the delivery that an internal error has met."""
        self._log.failure("{id}: internal error", failure=failure, id=delivery.id)

    def spool_failed(self, failure: Failure, effect: str) -> None:
        """The spool could not do something, with this effect."""
        self._observer.count("spool_failed")
        if self._throttle.may_tell(effect, self._clock.seconds()):
            self._log.error("the spool fails: {effect}: {reason}", effect=effect, reason=failure.getErrorMessage())

    def _not_noted(self, failure: Failure, delivery: Delivery) -> None:
        """Log that the spool has not noted an end: without it the delivery is delivered again after a restart."""
        if failure.check(SpoolError):
            self.spool_failed(failure, "what ends now may be delivered again after a restart")
        else:
            self.log_internal_error(failure, delivery)

    def _not_kept(self, failure: Failure, ending: _Ending) -> None:
        self._not_noted(failure, ending.delivery)
        self._ended(None, ending)

    def _ended(self, numbers: Sequence[int] | None, ending: _Ending) -> None:
        """Let the stanzas leave; `numbers` is None where the spool could not keep them."""
        delivery = ending.delivery
        self._deliveries.end(delivery)
        if delivery.id in self._backlog:
            self._backlog.remove(delivery.id)
        else:
            self._backlog.release(delivery.conversation, delivery.size)  # it was open
        self._observer.count(ending.outcome)
        if self._took is not None and delivery.accepted is not None:
            self._took(self._clock.seconds() - delivery.accepted)
        if numbers is not None:
            self._outbox.depart(ending.stanzas, numbers)
        else:
            self._outbox.depart_unkept(ending.stanzas, partial(self._gone_at_last, delivery, ending.dead_letter))
        self._when_ended()
        if ending.told is not None:
            ending.told.callback(numbers or ())

    def _broken(self, failure: Failure, ending: _Ending) -> None:
        self.log_internal_error(failure, ending.delivery)
        if ending.told is not None:
            ending.told.callback(())

    def _gone_at_last(self, delivery: Delivery, dead_letter: DeadLetter | None) -> None:
        """The server has what the spool could not keep; before, the delivery had to be in the spool for a restart."""
        self._spool.end(delivery.id, (), dead_letter).addErrback(self._not_noted, delivery)


def _dead_letter(delivery: Delivery, verdict: Verdict) -> DeadLetter | None:
    """Make the dead letter of a delivery that was given up; None if it was not."""
    if verdict.outcome in ("replied", "silent"):
        return None
    note, failure = verdict.note or "", delivery.failure
    if not isinstance(failure, Response):
        return DeadLetter(verdict.outcome, note, delivery.tries)
    media_type = failure.headers.get("content-type")
    body = None if failure.body is None else failure.body[:MAX_RESPONSE_BYTES]
    return DeadLetter(verdict.outcome, note, delivery.tries, failure.status, media_type, body)
