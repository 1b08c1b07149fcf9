"""Carry one delivery through its attempts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Literal, NoReturn

from attrs import evolve, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from component_http.contract import conditions, reply
from component_http.contract.conditions import StanzaError
from component_http.contract.delivery import Delivery
from component_http.contract.link import HEADER
from component_http.contract.reply import Outcome, Response, Verdict, is_open
from component_http.contract.request import thread_of
from component_http.contract.stanza import Stanza
from component_http.delivery.breaker import Breaker, Probe, is_failure
from component_http.delivery.load import Admission, Load
from component_http.delivery.retry import FINAL, AttemptResult, GiveUp, Retry, RetryPolicy, is_rejection, outcome_class
from component_http.errors import CertificateInvalid, ConnectionFailed, TimedOut, WebhookError
from component_http.interfaces import Observer, Webhook
from component_http.throttle import LOG_INTERVAL, Throttle

__all__ = ["LATER", "NO_WEBHOOK", "Attempted", "Forwarder", "Later", "NoMore", "in_words"]

HANGING = 10.0
"""
Seconds without an answer after which an attempt that the delivery's deadline cuts off is the webhook's failure.

An iq has less time than an attempt may take, so a webhook that hangs on iqs would else never be found out. Where the
delivery had waited long, and the webhook had less time than this, it is not to blame.
"""

PROBE_SECONDS = 5.0
"""
Seconds for the answer to a probe that runs beside one that hangs.

A webhook that was started again knows nothing of the requests from before, so the one that hangs is no way to find it.
"""


@frozen
class NoMore:
    """
    Nothing is POSTed any more.

    Attributes:
        error: What the senders of what is pending are told.
        note: Why, for the log.
    """

    error: StanzaError
    note: str


NO_WEBHOOK = NoMore(conditions.SERVICE_UNAVAILABLE, "there is no webhook")
"""Nothing ever is: what the spool has kept of an earlier start is given up."""


@frozen
class Later:
    """The webhook will answer this iq when it can; nothing more is POSTed for it."""


LATER = Later()


@frozen
class Attempted:
    """
    What an attempt came to.

    Attributes:
        next: The end of the delivery, when to try again, or that its answer comes later.
        ban: Seconds that the webhook wants no other delivery of the same conversation for, where this one ended.
    """

    next: Verdict | Retry | Later
    ban: float = 0.0


class _Attempt:
    """
    An attempt that is under way.

    Attributes:
        delivery: The delivery.
        began: When it began.
        probe: As what the breaker let it through.
        admission: As what the load let it through.
        body: Fires with the request body.
        waits_for: Fires with what the attempt waits for now: its body, or the response.
        fresh: Its connection had to be new.
        ended: Load and breaker know what came of it.
        cancelled: Nobody waits for it any more.
        done: Fires with what it came to.
    """

    __slots__ = (
        "admission",
        "began",
        "body",
        "cancelled",
        "delivery",
        "done",
        "ended",
        "fresh",
        "probe",
        "waits_for",
    )

    def __init__(
        self, delivery: Delivery, began: float, probe: Probe | None, admission: Admission, body: Deferred[bytes]
    ) -> None:
        self.delivery = delivery
        self.began = began
        self.probe = probe
        self.admission = admission
        self.body = self.waits_for = body
        self.fresh = self.ended = self.cancelled = False
        self.done: Deferred[Attempted] = Deferred(self._cancel)

    def _cancel(self, _done: Deferred[Attempted]) -> None:
        self.cancelled = True
        self.waits_for.cancel()


class Forwarder:
    """
    POST a delivery, read what comes back, and decide whether to retry.

    Everything it knows is about the webhook; what becomes of deliveries that wait is the relay's.

    Args:
        webhook: Where to; None where there is no webhook.
        judge: What a response means for a stanza (`contract.reply.judge` with everything but these two given).
        observer: Told `attempted`, then `attempt_failed`, `attempt_timed_out`, `redirected` or `body_ignored` where it
            applies; `left_open`, `retried`, `retried_stale`, `webhook_paused`, `breaker_opened`, `breaker_closed`,
            `gone`.
        policy: Whether and when to retry.
        load: How much the webhook is asked for.
        breaker: Whether it is asked at all.
        on_gone: After a 410 nothing is POSTed any more, and senders are told this; None: a 410 is about one stanza.
        clock: The reactor's clock.
        wall: The wall clock, seconds since the epoch.
        draw: A random number from 0 to 1, for the jitter.
        link: Makes what the webhook can reply to late, for a header of the request; then a 202 in answer to an iq
            leaves it open. None where there is no such thing.

    Attributes:
        no_more: Why nothing is POSTed: there is no webhook, or it said 410 and is gone; None while something is.
        untrusted: The webhook's certificate was not valid when it was last asked.
        last_failure: Why the last attempt that failed did, for a person; None if none did.
        awakenings: How often the webhook was found to be back, or somebody said so: what backs off since before one of
            these need not wait any longer.
    """

    _log = Logger()

    def __init__(
        self,
        webhook: Webhook | None,
        judge: Callable[[Stanza, Response], Verdict],
        observer: Observer,
        *,
        policy: RetryPolicy,
        load: Load,
        breaker: Breaker,
        on_gone: StanzaError | None,
        clock: IReactorTime,
        wall: Callable[[], float],
        draw: Callable[[], float],
        link: Callable[[Delivery], str | None] | None = None,
    ) -> None:
        self._webhook = webhook
        self._judge = judge
        self._observer = observer
        self._policy = policy
        self._load = load
        self._breaker = breaker
        self._on_gone = on_gone
        self._clock = clock
        self._wall = wall
        self._draw = draw
        self._link = link
        self._throttle = Throttle(LOG_INTERVAL)
        self._debug = self._log.debug  # made once, for each asking makes it anew
        self.no_more = NO_WEBHOOK if webhook is None else None
        self.untrusted = False
        self.last_failure: str | None = None
        self.awakenings = 0

    @property
    def gone(self) -> StanzaError | None:
        """What senders are told since the webhook has said that it is gone; None while it has not."""
        return self.no_more.error if self.no_more is not None and self.no_more is not NO_WEBHOOK else None

    @property
    def state(self) -> Literal["closed", "open", "half_open", "gone", "none"]:
        """How the webhook is: `none`: there is none. `gone`: it said so. Else the state of the breaker."""
        if self.no_more is None:
            return self._breaker.state
        return "none" if self.no_more is NO_WEBHOOK else "gone"

    @property
    def breaker_state(self) -> Literal["closed", "open", "half_open"]:
        """Whether the webhook is asked as usual, not at all, or by one delivery that probes."""
        return self._breaker.state

    @property
    def failing_for(self) -> float | None:
        """Seconds for which nothing but failures came from the webhook; None while it is well."""
        since = self._breaker.failing_since
        return None if since is None else self._clock.seconds() - since

    @property
    def places(self) -> int:
        """Attempts that may be under way now."""
        return self._load.places(self._clock.seconds())

    def away(self) -> float:
        """Seconds for which the webhook is not asked, because it fails or wants it so; infinite during probes."""
        return self._breaker.wait(self._clock.seconds())

    def wait(self) -> float:
        """Seconds until an attempt may begin: 0 for now, infinite while it depends on one that is under way."""
        now = self._clock.seconds()
        return max(self._breaker.wait(now), self._load.wait(now))

    def ask_now(self) -> None:
        """Let attempts begin at once: somebody knows that the webhook is back."""
        self._breaker.ask_now()
        self._awake()

    def attempt(self, delivery: Delivery, read: Callable[[], Deferred[bytes]]) -> Deferred[Attempted]:
        """
        Make one attempt; only when `wait` says 0.

        Args:
            delivery: What to carry; it takes note of the attempt.
            read: Gives its request body; called when the delivery has taken note, so that a spool can know of the
                attempt before it is made.

        Returns:
            Fires with what it came to, whatever the webhook does; it may be cancelled. It fails with what `read` fails
            with; any other exception is a mistake.
        """
        began = self._clock.seconds()
        probe, admission = self._breaker.begin(began), self._load.begin(began)
        delivery.tries += 1
        body = read()
        attempt = _Attempt(delivery, began, probe, admission, body)
        body.addCallback(self._have_body, attempt).addErrback(self._broken, attempt)
        return attempt.done

    def _have_body(self, content: bytes, attempt: _Attempt) -> None:
        thread = thread_of(content)
        if thread is not None:
            attempt.delivery.stanza = evolve(attempt.delivery.stanza, thread=thread)
        self._post(attempt, content)

    def _post(self, attempt: _Attempt, content: bytes) -> None:
        delivery = attempt.delivery
        headers = {
            "webhook-id": delivery.id,
            "webhook-timestamp": str(int(self._wall())),
            "webhook-attempt": str(delivery.tries),
        }
        link = None if self._link is None else self._link(delivery)
        if link is not None:
            headers[HEADER] = link
        self._observer.count("attempted")
        assert self._webhook is not None
        answer = self._webhook.post(content, headers, fresh=attempt.fresh)
        post: Deferred[Any] = answer if isinstance(answer, Deferred) else Deferred.fromCoroutine(_awaited(answer))
        attempt.waits_for = post
        if attempt.probe == "short":
            post.addTimeout(PROBE_SECONDS, self._clock, _cut_short)
        post.addCallbacks(self._answered, self._failed, (attempt, content), errbackArgs=(attempt, content))
        post.addErrback(self._broken, attempt)

    def _failed(self, failure: Failure, attempt: _Attempt, content: bytes) -> Failure | None:
        error = failure.value
        if not isinstance(error, WebhookError):
            return failure
        self._observer.count("attempt_timed_out" if isinstance(error, TimedOut) else "attempt_failed")
        self._answered(error, attempt, content)
        return None

    def _answered(self, result: AttemptResult, attempt: _Attempt, content: bytes) -> None:
        delivery, now = attempt.delivery, self._clock.seconds()
        step = FINAL if outcome_class(result) == "final" else self._next_step(delivery, result, attempt)
        if isinstance(step, Retry) and step.fresh:
            self._observer.count("retried_stale")
            attempt.fresh = True
            self._post(attempt, content)
            return
        attempt.ended = True
        self._load.end(attempt.admission, _accepted(result), now)
        self._breaker_learns(is_failure(result), delivery, attempt.began, attempt.probe, result)
        if isinstance(result, _UNREACHED) and not attempt.fresh:
            delivery.tries -= 1
            delivery.unreached += 1
        else:
            delivery.unreached = 0
        if step.pause and not self._load.is_known(now):
            self._observer.count("webhook_paused")
            self._breaker.hold(step.pause, now)
            self._load.pause(step.pause, now)
        self._look_at_certificate(result)
        if isinstance(step, Retry):
            self._note_failure(delivery, step, result)
            attempted = Attempted(step)
        elif self._link is not None and isinstance(result, Response) and is_open(delivery.stanza, result):
            attempted = Attempted(self._left_open(delivery, result))
        else:
            attempted = Attempted(self._verdict(delivery, result, step), step.ban)
        attempt.done.callback(attempted)

    def _left_open(self, delivery: Delivery, response: Response) -> Later:
        self._observer.count("left_open")
        self._log.debug("{id}: the webhook will answer later", id=delivery.id)
        delivery.failure = None
        verdict = self._judge(delivery.stanza, response)
        if verdict.ignored_body:
            self._tell_ignored(delivery, verdict)
        return LATER

    def _broken(self, failure: Failure, attempt: _Attempt) -> None:
        """End an attempt that was cancelled, whose body cannot be read, or that met a mistake."""
        delivery = attempt.delivery
        cancelled = failure.check(CancelledError) is not None
        if not attempt.ended:
            attempt.ended = True
            if not cancelled and attempt.waits_for is attempt.body:
                delivery.tries -= 1
            self._load.end(attempt.admission, None, self._clock.seconds())
            hangs = cancelled and self._hangs(delivery, attempt.began)
            self._breaker_learns(hangs or None, delivery, attempt.began, attempt.probe)
        if not attempt.done.called and not attempt.cancelled:
            attempt.done.errback(failure)

    def expire(self, delivery: Delivery) -> Verdict:
        """End a delivery whose deadline has come."""
        return self._given_up(delivery, "expired")

    def _hangs(self, delivery: Delivery, began: float) -> bool:
        """An attempt that is cut off now was cut off by the deadline, and had its time."""
        now = self._clock.seconds()
        if now < delivery.deadline or now - began < HANGING:
            return False
        self._observer.count("attempt_timed_out")
        return True

    def _next_step(self, delivery: Delivery, result: AttemptResult, attempt: _Attempt) -> Retry | GiveUp:
        unseen = delivery.tries == 1 and not attempt.fresh and isinstance(result, _UNREACHED)
        return self._policy.after(
            result,
            attempts=delivery.attempts,
            tries=delivery.tries + delivery.unreached,
            fresh=attempt.fresh,
            cut_short=attempt.probe == "short",
            left=(delivery.last if unseen else delivery.deadline) - self._clock.seconds(),
            now=datetime.fromtimestamp(self._wall(), UTC),
            draw=self._draw(),
        )

    def _breaker_learns(
        self,
        failed: bool | None,
        delivery: Delivery,
        began: float,
        probe: Probe | None,
        result: AttemptResult | None = None,
    ) -> None:
        before = self._breaker.state
        now = self._clock.seconds()
        self._breaker.end(
            failed,
            now,
            conversation=delivery.conversation,
            began=began,
            probe=probe,
            rejected=result is not None and is_rejection(result),
        )
        after = self._breaker.state
        if failed:
            self.last_failure = "it did not answer in time" if result is None else in_words(result)
        if after == "open" and before == "closed":
            self._observer.count("breaker_opened")
            self._log.warn(
                "the webhook fails ({reason}): it is asked by one stanza at a time until it answers, the others wait",
                reason=self.last_failure,
            )
        elif after == "closed" and before != "closed":
            self._observer.count("breaker_closed")
            self._log.info("the webhook answers again")
            self._awake()

    def _awake(self) -> None:
        self.awakenings += 1
        self._load.restart(self._clock.seconds())

    def _look_at_certificate(self, result: AttemptResult) -> None:
        if isinstance(result, CertificateInvalid):
            self.untrusted = True
            if self._throttle.may_tell("certificate", self._clock.seconds()):
                self._log.error("the webhook's certificate cannot be trusted: {reason}", reason=str(result))
        elif isinstance(result, Response):
            self.untrusted = False

    def _note_failure(self, delivery: Delivery, step: Retry, result: AttemptResult) -> None:
        delivery.attempts += step.counted
        delivery.failure = _without_content(result)
        self._observer.count("retried")
        self._log.debug(
            "{id}: attempt {number} failed, the next in {seconds:.1f} s: {reason}",
            id=delivery.id,
            number=delivery.tries + delivery.unreached,
            seconds=step.seconds,
            reason=in_words(result),
        )

    def _verdict(self, delivery: Delivery, result: AttemptResult, step: GiveUp) -> Verdict:
        delivery.failure = result
        if step.reason == "deadline":
            return self._given_up(delivery, "expired")
        if step.reason == "attempts" or not isinstance(result, Response):
            return self._given_up(delivery, "bounced")
        verdict = self._judge(delivery.stanza, result)
        if result.status == 410 and self._on_gone is not None and self.no_more is None:
            self.no_more = NoMore(self._on_gone, "the webhook is gone")
            self._observer.count("gone")
            self._log.error(
                "the webhook answered 410 Gone: nothing is POSTed until the gateway is started again"
                ' (delivery.on_gone is "disable")'
            )
        self._tell(delivery, verdict, result)
        return verdict

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
            self._debug("{id}: {kind} {outcome}", id=delivery.id, kind=delivery.stanza.kind, outcome=verdict.outcome)

    def _tell_ignored(self, delivery: Delivery, verdict: Verdict) -> None:
        """Say that a body was not read as a reply: once a minute, and each time at debug level."""
        self._observer.count("body_ignored")
        tell = self._log.warn if self._throttle.may_tell("ignored body", self._clock.seconds()) else self._log.debug
        tell("{id}: {note}", id=delivery.id, note=verdict.note)


_UNREACHED = (ConnectionFailed, CertificateInvalid)
"""The webhook has seen nothing of the request."""


async def _awaited(answer: Awaitable[Response]) -> Response:
    return await answer


def _accepted(result: AttemptResult) -> bool | None:
    """Whether the webhook took a request, or rejected it as one too many; None where nobody knows."""
    return not is_rejection(result) if isinstance(result, Response) else None


def _cut_short(_result: object, seconds: float) -> NoReturn:
    raise TimedOut(f"no complete answer to a probe within {seconds:g} s")


def in_words(result: AttemptResult) -> str:
    """Say why an attempt failed, for a person: nothing of a response but its status."""
    return f"HTTP status {result.status}" if isinstance(result, Response) else str(result)


def _without_content(result: AttemptResult) -> AttemptResult:
    """What is kept of a failure while the delivery backs off: not a response's body, nor what a traceback holds."""
    if isinstance(result, Response):
        return Response(result.status)
    return TimedOut(str(result)) if isinstance(result, TimedOut) else WebhookError(str(result))
