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
from component_http.delivery.breaker import Probe
from component_http.delivery.health import NO_WEBHOOK, Health, in_words
from component_http.delivery.load import Admission
from component_http.delivery.outcomes import Outcomes
from component_http.delivery.retry import FINAL, AttemptResult, GiveUp, Retry, RetryPolicy, outcome_class
from component_http.errors import CertificateInvalid, ConnectionFailed, TimedOut, WebhookError
from component_http.interfaces import Observer, Webhook
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

    Attributes:
        health: As above.
        outcomes: As above.
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
    ) -> None:
        self._webhook = webhook
        self.health = health
        self.outcomes = outcomes
        self._observer = observer
        self._policy = policy
        self._clock = clock
        self._wall = wall
        self._draw = draw
        self._link = link
        if webhook is None:
            health.no_more = NO_WEBHOOK

    def attempt(self, delivery: Delivery, read: Callable[[], Deferred[bytes]]) -> Deferred[Attempted]:
        """
        Make one attempt; only when `Health.wait` says 0.

        Args:
            delivery: What to carry; it takes note of the attempt.
            read: Gives its request body; called when the delivery has taken note, so that a spool can know of the
                attempt before it is made.

        Returns:
            Fires with what it came to, whatever the webhook does; it may be cancelled. It fails with what `read` fails
            with; any other exception is a mistake.
        """
        began = self._clock.seconds()
        probe, admission = self.health.begin(began)
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
        delivery = attempt.delivery
        step = FINAL if outcome_class(result) == "final" else self._next_step(delivery, result, attempt)
        if isinstance(step, Retry) and step.fresh:
            self._observer.count("retried_stale")
            attempt.fresh = True
            self._post(attempt, content)
            return
        attempt.ended = True
        self._learn(attempt, result)
        if isinstance(result, _UNREACHED) and not attempt.fresh:
            delivery.tries -= 1
            delivery.unreached += 1
        else:
            delivery.unreached = 0
        if step.pause:
            self.health.pause(step.pause)
        if isinstance(step, Retry):
            self._note_failure(delivery, step, result)
            attempted = Attempted(step)
        elif self._link is not None and isinstance(result, Response) and is_open(delivery.stanza, result):
            attempted = Attempted(self._left_open(delivery, result))
        else:
            attempted = Attempted(self.outcomes.of(delivery, result, step), step.ban)
        attempt.done.callback(attempted)

    def _left_open(self, delivery: Delivery, response: Response) -> Later:
        self._observer.count("left_open")
        delivery.failure = None
        self.outcomes.open(delivery, response)
        return LATER

    def _broken(self, failure: Failure, attempt: _Attempt) -> None:
        """End an attempt that was cancelled, whose body cannot be read, or that met a mistake."""
        delivery = attempt.delivery
        cancelled = failure.check(CancelledError) is not None
        if not attempt.ended:
            attempt.ended = True
            if not cancelled and attempt.waits_for is attempt.body:
                delivery.tries -= 1
            self._learn(attempt, None, hangs=cancelled and self._hangs(delivery, attempt.began))
        if not attempt.done.called and not attempt.cancelled:
            attempt.done.errback(failure)

    def _learn(self, attempt: _Attempt, result: AttemptResult | None, *, hangs: bool = False) -> None:
        self.health.learn(
            attempt.delivery,
            result,
            began=attempt.began,
            probe=attempt.probe,
            admission=attempt.admission,
            hangs=hangs,
        )

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
