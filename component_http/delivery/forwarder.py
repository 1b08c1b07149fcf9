"""Carry one delivery through its attempts: for now there is one."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen
from twisted.logger import Logger

from component_http.contract import conditions, reply
from component_http.contract.reply import Response, Verdict
from component_http.contract.stanza import Stanza
from component_http.errors import CertificateInvalid, TimedOut, WebhookError
from component_http.interfaces import Observer, Webhook

__all__ = ["Delivery", "Forwarder"]

IGNORED_BODY_LOG_INTERVAL = 60.0
"""Seconds between two log lines about answers that are no JSON; a wrong media type is wrong for every stanza."""


@frozen
class Delivery:
    """
    One stanza on its way to the webhook.

    Attributes:
        id: The `webhook-id`: unique per stanza, the same on every attempt.
        stanza: What arrived; only its facts, for its content is in `body`.
        body: The request body, the same bytes on every attempt.
    """

    id: str
    stanza: Stanza
    body: bytes


class Forwarder:
    """
    POST a delivery and read what comes back.

    Args:
        webhook: Where to.
        judge: What a response means for a stanza (`contract.reply.judge` with everything but these two given).
        observer: Told `attempted`, then `attempt_failed`, `attempt_timed_out`, `redirected` or `body_ignored` where it
            applies.
        now: The wall clock, seconds since the epoch, for `webhook-timestamp`.
    """

    _log = Logger()

    def __init__(
        self,
        webhook: Webhook,
        judge: Callable[[Stanza, Response], Verdict],
        observer: Observer,
        now: Callable[[], float],
    ) -> None:
        self._webhook = webhook
        self._judge = judge
        self._observer = observer
        self._now = now
        self._ignored_body_logged = -IGNORED_BODY_LOG_INTERVAL

    async def forward(self, delivery: Delivery) -> Verdict:
        """
        Carry a delivery to its end.

        Returns:
            What became of it. Whatever the webhook does, this raises nothing but `CancelledError`.
        """
        headers = {
            "webhook-id": delivery.id,
            "webhook-timestamp": str(int(self._now())),
            "webhook-attempt": "1",
        }
        self._observer.count("attempted")
        try:
            response = await self._webhook.post(delivery.body, headers)
        except WebhookError as error:
            verdict = self._failed(delivery, error)
        else:
            verdict = self._judge(delivery.stanza, response)
            if 300 <= response.status < 400:
                self._observer.count("redirected")
                self._log.error("{id}: gave up: {note}", id=delivery.id, note=verdict.note)
            else:
                self._tell(delivery, verdict)
        return verdict

    def _failed(self, delivery: Delivery, error: WebhookError) -> Verdict:
        if isinstance(error, TimedOut):
            self._observer.count("attempt_timed_out")
            condition = conditions.TIMEOUT
        else:
            self._observer.count("attempt_failed")
            condition = conditions.CONNECTION_FAILURE
        verdict = reply.give_up(delivery.stanza, condition, str(error))
        if isinstance(error, CertificateInvalid):
            self._log.error(
                "{id}: gave up: the webhook's certificate cannot be trusted: {note}", id=delivery.id, note=verdict.note
            )
        else:
            self._tell(delivery, verdict)
        return verdict

    def _tell(self, delivery: Delivery, verdict: Verdict) -> None:
        """Log what the author of the bot should know; an answer as it should be only at debug level."""
        if verdict.ignored_body:
            self._observer.count("body_ignored")
            if self._now() - self._ignored_body_logged >= IGNORED_BODY_LOG_INTERVAL:
                self._ignored_body_logged = self._now()
                self._log.warn("{id}: {note}", id=delivery.id, note=verdict.note)
        elif verdict.outcome == "refused_reply":
            self._log.warn("{id}: the webhook's answer was refused: {note}", id=delivery.id, note=verdict.note)
        elif verdict.outcome == "bounced":
            self._log.warn("{id}: gave up: {note}", id=delivery.id, note=verdict.note)
        else:
            self._log.debug(
                "{id}: {kind} {outcome}", id=delivery.id, kind=delivery.stanza.kind, outcome=verdict.outcome
            )
