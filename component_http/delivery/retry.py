"""
After one attempt: retry, and when, or give up.

`outcome_class` is the table, `RetryPolicy` the waiting.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

from attrs import field, frozen, validators

from component_http.contract.reply import Response
from component_http.errors import CertificateInvalid, ConnectionCut, ConnectionFailed, TimedOut, WebhookError

AttemptResult = Response | WebhookError
"""How an attempt ended: the response, or the error that took its place."""

OutcomeClass = Literal["final", "uncounted", "counted", "slow", "stale"]

_UNCOUNTED = frozenset({429, 502, 503, 504})
"""The webhook is not there or has no time: that says nothing about the stanza."""

_COUNTED = frozenset({408, 421, 423, 425, 500, 507, *range(520, 600)})
"""The statuses that may be due to the stanza, so an attempt with one of them counts."""

_AWAY = frozenset({502, 503, 504})
"""The webhook is not there, says a proxy before it or the webhook itself."""

_REJECTIONS = frozenset({429, 503})
"""The webhook gets more requests than it takes."""

_REJECTED_CAP = 10.0
"""
Seconds: the longest wait after a 429 that names no time. What spares the webhook is the pace (see `Pace`); a longer
wait would only hold up the conversation.
"""

_LONGEST_RETRY_AFTER = 86_400.0
"""Seconds; a webhook that asks for more has miscounted."""


def is_rejection(result: AttemptResult) -> bool:
    """Tell whether the webhook may have had too many requests: at once, or in a second."""
    return isinstance(result, Response) and result.status in _REJECTIONS


def outcome_class(result: AttemptResult) -> OutcomeClass:
    """
    Say what the result of an attempt means for a retry.

    Returns:
        `final`: it is not tried again, whether it is a success or not. `uncounted`: again until the deadline.
        `counted`: again, at most as often as attempts are allowed. `slow`: only a person can mend it, so again now and
        then. `stale`: the webhook closed an idle connection just when we used it, so again at once on a new one
        (RFC 9112 section 9.3.1; a webhook knows a second POST by its `webhook-id`).
    """
    if isinstance(result, Response):
        if result.status in _UNCOUNTED:
            return "uncounted"
        return "counted" if result.status in _COUNTED else "final"
    if isinstance(result, ConnectionFailed):
        return "uncounted"
    if isinstance(result, CertificateInvalid):
        return "slow"
    if isinstance(result, ConnectionCut) and result.reused and not result.started:
        return "stale"
    return "counted"


@frozen
class Retry:
    """
    There is to be another attempt.

    Attributes:
        seconds: How long to wait for it, 0 or more and less than what is left to the deadline.
        counted: The attempt that failed is one of those that are allowed.
        fresh: At once, on a connection that has carried nothing before, with the same `webhook-attempt`.
        pause: Seconds for which nothing at all is to be POSTed to this webhook.
        firm: It must not be sooner, also if the webhook is known to be back: the webhook has asked for it.
    """

    seconds: float
    counted: bool
    fresh: bool = False
    pause: float = 0.0
    firm: bool = False


@frozen
class GiveUp:
    """
    There is to be no other attempt.

    Attributes:
        reason: `final`: the result stands, also where it is a success. `attempts`: no more are allowed.
            `deadline`: the next one would begin too late.
        pause: Seconds for which nothing at all is to be POSTed to this webhook.
        ban: Seconds for which nothing of the same conversation is.
    """

    reason: Literal["final", "attempts", "deadline"]
    pause: float = 0.0
    ban: float = 0.0


FINAL = GiveUp("final")
"""The result stands."""


@frozen
class RetryPolicy:
    """
    The rule for retries: after which wait, and how often.

    Attributes:
        max_attempts: Counted attempts, 1 or more. 1 is exactly one POST whatever happens.
        base: Seconds, more than 0: the longest wait after the first attempt; it doubles with each further one. With
            less than this left to the deadline there is no other attempt.
        cap: Seconds, more than 0: the longest wait that the webhook did not ask for.
        away: Seconds, more than 0: the longest wait for a webhook that is away, so that it is found soon when it is
            back.
        longest_pause: Seconds: the longest pause of all POSTs that one answer can ask for.
    """

    max_attempts: int = field(default=10, validator=validators.ge(1))
    base: float = field(default=0.5, validator=validators.gt(0))
    cap: float = field(default=60.0, validator=validators.gt(0))
    away: float = field(default=2.0, validator=validators.gt(0))
    longest_pause: float = field(default=60.0, validator=validators.ge(0))

    def after(
        self,
        result: AttemptResult,
        *,
        attempts: int,
        tries: int,
        fresh: bool,
        cut_short: bool = False,
        left: float,
        now: datetime,
        draw: float,
    ) -> Retry | GiveUp:
        """
        Decide what follows one attempt.

        Args:
            result: The response, or the error that took its place.
            attempts: Counted attempts of this delivery that failed before this one.
            tries: Attempts so far, those that found no connection and this one included, 1 or more.
            fresh: It was made on a connection that had to be new, so it cannot have been stale.
            cut_short: It had less time than an attempt has, so that it is not counted where that was over.
            left: Seconds to the deadline; negative when it has passed.
            now: Current time with a zone; read only when the webhook named a date.
            draw: A random number, 0 <= draw < 1.

        Source:
            Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
            RFC 9110 section 10.2.3 (Retry-After): nothing sooner than that, for any result that is tried again.
        """
        outcome = outcome_class(result)
        if outcome == "final":
            return FINAL
        if self.max_attempts == 1:
            return GiveUp("attempts")
        if outcome == "stale" and not fresh:
            return Retry(0.0, counted=False, fresh=True) if left > 0 else GiveUp("deadline")
        asked = pause = 0.0
        if isinstance(result, Response):
            asked = min(_LONGEST_RETRY_AFTER, _retry_after(result.headers.get("retry-after", ""), now))
            if result.status == 503:
                pause = min(asked, self.longest_pause)
        counted = outcome in ("counted", "stale") and not (cut_short and isinstance(result, TimedOut))
        if counted and attempts + 1 >= self.max_attempts:
            return GiveUp("attempts", ban=asked)
        if outcome == "slow":
            drawn = self.cap / 2 * (1 + draw)
        else:
            cap = min(self.cap, self._longest_wait(result))
            # Nobody waits for the 64th doubling, and a float has no room for the 1100th.
            drawn = draw * min(cap, self.base * 2.0 ** min(tries - 1, 64), left)
        seconds = max(drawn, asked)
        if left < self.base or seconds >= left:
            return GiveUp("deadline", pause, asked)
        return Retry(seconds, counted, pause=pause, firm=asked > 0 or outcome == "slow")

    def _longest_wait(self, result: AttemptResult) -> float:
        """Seconds after which a result of this kind is retried at the latest."""
        if isinstance(result, ConnectionFailed) or (isinstance(result, Response) and result.status in _AWAY):
            return self.away
        return _REJECTED_CAP if is_rejection(result) else self.cap


def _retry_after(value: str, now: datetime) -> float:
    """
    Seconds that a Retry-After field asks to wait.

    Args:
        value: The field's value, "" where there is none. Of a repeated field (joined with ",") the first one counts.
        now: Current time with a zone.

    Returns:
        0.0 or more, up to infinity; 0.0 also for a date in the past and for what is neither a number nor a date.

    Source: RFC 9110 sections 10.2.3 and 5.6.7 (HTTP-date, all three forms; only the form without zone has none, and
        it is in UTC).
    """
    number = value.partition(",")[0].strip()
    if number.isascii() and number.isdigit():
        return float(number)  # Not int(), which is slow for many digits and refuses more than 4300.
    first, zone, _ = value.partition("GMT")
    try:
        date = parsedate_to_datetime(first + zone)
    except (ValueError, OverflowError):
        return 0.0
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - now).total_seconds())
