"""Make one attempt to deliver, and decide what follows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, NoReturn

from attrs import evolve, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from component_http.contract.delivery import Delivery
from component_http.contract.link import HEADER
from component_http.contract.reply import Response, Verdict, is_open
from component_http.contract.request import thread_of
from component_http.delivery.health import NO_WEBHOOK, Health, in_words
from component_http.delivery.life import Attempt
from component_http.delivery.outcomes import Outcomes
from component_http.delivery.reports import report_of
from component_http.delivery.retry import FINAL, AttemptResult, GiveUp, Retry, RetryPolicy, outcome_class
from component_http.errors import CertificateInvalid, ConnectionFailed, TimedOut, WebhookError
from component_http.interfaces import Observer, Webhook
from component_http.interfaces.tracer import Follows, Tracers, without_secrets
from component_http.log import Logger

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
class Later:
    """The webhook will answer this iq when it can; nothing more is POSTed for it."""


LATER = Later()


AttemptOver = Callable[[Attempt, "Verdict | Retry | Later | Failure", float], object]
"""
Called once for each attempt, with the attempt, what follows it, and a ban.

What follows is the end of the delivery, a retry, an answer that comes later, or a failure: a `SpoolError` if the
request body could not be read, else an internal error. The ban is the seconds for which the webhook wants no other
delivery of the conversation of one that has ended; mostly 0.0.
"""


class Forwarder:
    """
    POST a delivery, read what comes back, and decide whether to retry.

    Everything it knows is about the webhook; what becomes of deliveries that wait is the relay's.

    Args:
        webhook: Where to; None where there is no webhook.
        health: Told how the attempts end.
        outcomes: Says how a delivery ends that is not tried again.
        observer: Told `attempted`, then `attempt_failed` or `attempt_timed_out` where it applies; `left_open`,
            `retried`, `retried_stale`.
        policy: Whether and when to retry.
        clock: The reactor's clock.
        wall: The wall clock, seconds since the epoch.
        draw: A random number from 0 to 1, for the jitter.
        link: Makes what the webhook can reply to late, for a header of the request; then a 202 in answer to an iq
            leaves it open. None where there is no such thing.
        took: Told the seconds that an attempt took, and `waited` those from an acceptance to the first attempt; None
            where nobody wants to know.
        tracers: Told of each POST, and of the end of each attempt.

    Attributes:
        health: As above.
        outcomes: As above.
        policy: As above.
    """

    _log = Logger()

    def __init__(
        self,
        webhook: Webhook | None,
        health: Health,
        outcomes: Outcomes,
        observer: Observer,
        *,
        policy: RetryPolicy,
        clock: IReactorTime,
        wall: Callable[[], float],
        draw: Callable[[], float],
        link: Callable[[Delivery], str | None] | None = None,
        took: Callable[[float], object] | None = None,
        waited: Callable[[float], object] | None = None,
        tracers: Tracers | None = None,
    ) -> None:
        self._webhook = webhook
        self.health = health
        self.outcomes = outcomes
        self._observer = observer
        self.policy = policy
        self._clock = clock
        self._wall = wall
        self._draw = draw
        self._link = link
        self._took = took
        self._waited = waited
        self._tracers = Tracers() if tracers is None else tracers
        if webhook is None:
            health.no_more = NO_WEBHOOK

    def use(self, webhook: Webhook) -> None:
        """POST to this webhook from now on; attempts that are under way end where they began."""
        self._webhook = webhook

    def begin(self, delivery: Delivery, over: AttemptOver) -> Attempt:
        """
        Begin an attempt; only when `Health.wait` says 0. The delivery takes note of it, and `post` is to follow.

        Args:
            delivery: The delivery to be POSTed.
            over: Called whatever the webhook does, also when the attempt was cancelled.
        """
        began = self._clock.seconds()
        probe, others = self.health.begin(began)
        if self._waited is not None and not delivery.tries and delivery.accepted is not None:
            self._waited(began - delivery.accepted)
        delivery.tries += 1
        return Attempt(delivery, began, probe, others, over)

    def post(self, content: bytes, attempt: Attempt) -> None:
        """POST the request body of an attempt."""
        thread = thread_of(content)
        if thread is not None:
            attempt.delivery.stanza = evolve(attempt.delivery.stanza, thread=thread)
        self._post(content, attempt)

    def no_body(self, failure: Failure, attempt: Attempt) -> None:
        """End an attempt without a POST: its body could not be read, or it was cancelled before."""
        if not failure.check(CancelledError):
            attempt.delivery.tries -= 1
        self.broken(failure, attempt)

    def broken(self, failure: Failure, attempt: Attempt) -> None:
        """End an attempt that was cancelled, or that met an internal error."""
        if not attempt.learned:
            cancelled = failure.check(CancelledError) is not None
            self._learn(attempt, None, hangs=cancelled and self._hangs(attempt.delivery, attempt.began))
            if self._tracers.told is not None:
                self._report(attempt, failure.value, "cut_off" if cancelled else "internal_error")
        attempt.over(attempt, failure, 0.0)

    def _post(self, content: bytes, attempt: Attempt) -> None:
        delivery = attempt.delivery
        headers = self._headers(delivery.id, delivery.tries)
        link = None if self._link is None else self._link(delivery)
        if link is not None:
            headers[HEADER] = link
        self._observer.count("attempted")
        assert self._webhook is not None
        answer = self._webhook.post(content, headers, fresh=attempt.fresh)
        post: Deferred[Any] = answer if isinstance(answer, Deferred) else Deferred.fromCoroutine(_awaited(answer))
        attempt.waits_for = post
        if self._tracers.told is not None:
            self._tracers.told.posted(
                delivery, content, getattr(post, "headers", None) or without_secrets(headers.items())
            )
        if attempt.probe == "short":
            post.addTimeout(PROBE_SECONDS, self._clock, _cut_short)
        post.addCallbacks(self._answered, self._failed, (content, attempt), errbackArgs=(content, attempt))
        post.addErrback(self.broken, attempt)

    def _headers(self, delivery_id: str, tries: int) -> dict[str, str]:
        return {
            "webhook-id": delivery_id,
            "webhook-timestamp": str(int(self._wall())),
            "webhook-attempt": str(tries),
        }

    def replay(self, delivery: Delivery, content: bytes) -> Deferred[Response] | None:
        """
        POST the request body of a delivery that has ended once more: no attempt, and nothing is learned of it.

        Returns:
            As `Webhook.post`; None where there is no webhook.
        """
        if self._webhook is None:
            return None
        answer = self._webhook.post(content, self._headers(delivery.id, delivery.tries + 1))
        return answer if isinstance(answer, Deferred) else Deferred.fromCoroutine(_awaited(answer))

    def _failed(self, failure: Failure, content: bytes, attempt: Attempt) -> Failure | None:
        error = failure.value
        if not isinstance(error, WebhookError):
            return failure
        self._observer.count("attempt_timed_out" if isinstance(error, TimedOut) else "attempt_failed")
        self._answered(error, content, attempt)
        return None

    def _answered(self, result: AttemptResult, content: bytes, attempt: Attempt) -> None:
        delivery = attempt.delivery
        step = FINAL if outcome_class(result) == "final" else self._next_step(delivery, result, attempt)
        if isinstance(step, Retry) and step.fresh:
            self._observer.count("retried_stale")
            attempt.fresh = True
            self._post(content, attempt)
            return
        self._learn(attempt, result)
        if isinstance(result, _UNREACHED) and not attempt.fresh:
            delivery.tries -= 1
            delivery.unreached += 1
        else:
            delivery.unreached = 0
        if step.pause:
            self.health.pause(step.pause)
        following: Verdict | Retry | Later
        ban = 0.0
        if isinstance(step, Retry):
            self._note_failure(delivery, step, result)
            following = step
        elif self._link is not None and isinstance(result, Response) and is_open(delivery.stanza, result):
            following = self._left_open(delivery, result)
        else:
            following, ban = self.outcomes.of(delivery, result, step), step.ban
        if self._tracers.told is not None:
            self._report_end(attempt, result, following)
        attempt.over(attempt, following, ban)

    def _report_end(self, attempt: Attempt, result: AttemptResult, following: Verdict | Retry | Later) -> None:
        if isinstance(following, Retry):
            self._report(attempt, result, "retry", following.seconds)
        else:
            self._report(attempt, result, "left_open" if isinstance(following, Later) else following.outcome)

    def _report(
        self, attempt: Attempt, result: Response | BaseException | None, follows: Follows, again: float | None = None
    ) -> None:
        """Tell those who follow deliveries of the end of an attempt."""
        assert self._tracers.told is not None
        delivery, seconds = attempt.delivery, self._clock.seconds() - attempt.began
        number, marks = delivery.tries + delivery.unreached, getattr(attempt.waits_for, "marks", None)
        report = report_of(number, attempt.began, seconds, marks, result, follows, again)
        self._tracers.told.attempted(delivery, report, result if isinstance(result, Response) else None)

    def _left_open(self, delivery: Delivery, response: Response) -> Later:
        self._observer.count("left_open")
        delivery.failure = None
        self.outcomes.open(delivery, response)
        return LATER

    def _learn(self, attempt: Attempt, result: AttemptResult | None, *, hangs: bool = False) -> None:
        attempt.learned = True
        if self._took is not None:
            self._took(self._clock.seconds() - attempt.began)
        self.health.learn(attempt, result, hangs=hangs)

    def _hangs(self, delivery: Delivery, began: float) -> bool:
        """An attempt that is cut off now was cut off by the deadline, and had its time."""
        now = self._clock.seconds()
        if now < delivery.deadline or now - began < HANGING:
            return False
        self._observer.count("attempt_timed_out")
        return True

    def _next_step(self, delivery: Delivery, result: AttemptResult, attempt: Attempt) -> Retry | GiveUp:
        unseen = delivery.tries == 1 and not attempt.fresh and isinstance(result, _UNREACHED)
        return self.policy.after(
            result,
            attempts=delivery.attempts,
            tries=delivery.tries + delivery.unreached,
            fresh=attempt.fresh,
            cut_short=attempt.probe == "short",
            left=(delivery.last if unseen else delivery.deadline) - self._clock.seconds(),
            now=datetime.fromtimestamp(self._wall(), UTC),
            draw=self._draw(),
        )

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


_UNREACHED = (ConnectionFailed, CertificateInvalid)
"""The webhook has seen nothing of the request."""


async def _awaited(answer: Awaitable[Response]) -> Response:
    return await answer


def _cut_short(_result: object, seconds: float) -> NoReturn:
    raise TimedOut(f"no complete answer to a probe within {seconds:g} s")


def _without_content(result: AttemptResult) -> AttemptResult:
    """Reduce a failure to the part that is kept during the back-off: no body of a response, no traceback."""
    if isinstance(result, Response):
        return Response(result.status)
    return TimedOut(str(result)) if isinstance(result, TimedOut) else WebhookError(str(result))
