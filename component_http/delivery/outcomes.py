"""The outcomes of deliveries, judged by the last answer of the webhook, or by its absence."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, evolve, field
from twisted.internet.interfaces import IReactorTime

from component_http.contract import conditions, reply
from component_http.contract.conditions import StanzaError
from component_http.contract.delivery import Delivery
from component_http.contract.reply import Outcome, Response, Verdict
from component_http.contract.stanza import Stanza
from component_http.delivery.health import Health
from component_http.delivery.retry import AttemptResult, GiveUp
from component_http.errors import TimedOut
from component_http.interfaces import Observer
from component_http.log import Logger
from component_http.throttle import LOG_INTERVAL, Throttle


@define(eq=False)
class Outcomes:
    """
    Judges how deliveries end, and logs what the author of the bot should know.

    Args:
        judge: Says what a response means for a stanza (`contract.reply.judge` with everything but these two given).
        on_gone: After a 410 nothing is POSTed any more, and senders are told this; None: a 410 is about one stanza.
        health: Told when the webhook is gone.
        observer: Told `redirected` and `body_ignored`.
        clock: Says how long ago the same was logged.
    """

    _log = Logger()

    _judge: Callable[[Stanza, Response], Verdict]
    _on_gone: StanzaError | None
    _health: Health
    _observer: Observer
    _clock: IReactorTime
    _throttle: Throttle = field(init=False, factory=lambda: Throttle(LOG_INTERVAL))

    def use(self, judge: Callable[[Stanza, Response], Verdict], on_gone: StanzaError | None) -> None:
        """Judge by other settings from now on; the arguments are those of the constructor."""
        self._judge, self._on_gone = judge, on_gone

    def of(self, delivery: Delivery, result: AttemptResult, step: GiveUp) -> Verdict:
        """Say how a delivery ends by an attempt, after which there is no other one."""
        delivery.failure = result
        if step.reason == "deadline":
            return self._given_up(delivery, "expired")
        if step.reason == "attempts" or not isinstance(result, Response):
            return self._given_up(delivery, "bounced")
        verdict = self._judge(delivery.stanza, result)
        if result.status == 410 and self._on_gone is not None and self._health.no_more is None:
            self._health.is_gone(self._on_gone)
        self._tell(delivery, verdict, result)
        return verdict

    def judge(self, delivery: Delivery, response: Response) -> Verdict:
        """Say what a response would mean for a delivery; nobody is told, and nothing follows."""
        return self._judge(delivery.stanza, response)

    def expired(self, delivery: Delivery) -> Verdict:
        """Say how a delivery ends whose deadline has come."""
        return self._given_up(delivery, "expired")

    def open(self, delivery: Delivery, response: Response) -> None:
        """Log that the webhook answers an iq later, and that what it said now is not read."""
        self._log.debug("{id}: the webhook will answer later", id=delivery.id)
        verdict = self._judge(delivery.stanza, response)
        if verdict.ignored_body:
            self._tell_ignored(delivery, verdict)

    def _given_up(self, delivery: Delivery, outcome: Outcome) -> Verdict:
        failure = delivery.failure
        if isinstance(failure, Response):
            verdict = self._judge(delivery.stanza, failure)
        elif failure is not None:
            error = conditions.TIMEOUT if isinstance(failure, TimedOut) else conditions.CONNECTION_FAILURE
            verdict = reply.give_up(delivery.stanza, error, str(failure))
        elif delivery.tries:
            verdict = reply.give_up(delivery.stanza, conditions.TIMEOUT, "the webhook did not answer in time")
        else:
            verdict = reply.give_up(delivery.stanza, conditions.NEVER_TRIED, "its turn did not come in time")
        never_tried = outcome == "expired" and not delivery.tries
        note = f"never tried: {verdict.note}" if never_tried else verdict.note
        verdict = evolve(verdict, outcome=outcome, note=note)
        self._log.warn(
            "{id}: gave up {when}: {note}",
            id=delivery.id,
            when="for its deadline" if outcome == "expired" else f"after attempt {delivery.tries + delivery.unreached}",
            note=verdict.note,
        )
        return verdict

    def _tell(self, delivery: Delivery, verdict: Verdict, response: Response) -> None:
        """Log what the author of the bot should know; an answer as it should be only at debug level."""
        if 300 <= response.status < 400:
            self._observer.count("redirected")
            self._log.error("{id}: gave up: {note}", id=delivery.id, note=verdict.note)
        elif verdict.ignored_body:
            self._tell_ignored(delivery, verdict)
        elif verdict.outcome == "refused_reply":
            self._log.warn("{id}: the webhook's answer was refused: {note}", id=delivery.id, note=verdict.note)
        elif verdict.outcome == "bounced":
            self._log.warn("{id}: gave up: {note}", id=delivery.id, note=verdict.note)
        else:
            self._log.debug(
                "{id}: {kind} {outcome}", id=delivery.id, kind=delivery.stanza.kind, outcome=verdict.outcome
            )

    def _tell_ignored(self, delivery: Delivery, verdict: Verdict) -> None:
        """Say that a body was not read as a reply: once a minute, and each time at debug level."""
        self._observer.count("body_ignored")
        tell = self._log.warn if self._throttle.may_tell("ignored body", self._clock.seconds()) else self._log.debug
        tell("{id}: {note}", id=delivery.id, note=verdict.note)
