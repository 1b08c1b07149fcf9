"""
After one attempt: try again, and when, or give up.

`outcome_class` is the table, `RetryPolicy` the waiting, `RetryBudget` what keeps many retries from drowning a webhook.
"""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from math import exp
from typing import Literal

from attrs import field, frozen, validators

from component_http.contract.reply import Response
from component_http.errors import CertificateInvalid, ConnectionCut, ConnectionFailed, WebhookError

__all__ = ["AttemptResult", "GiveUp", "OutcomeClass", "Retry", "RetryBudget", "RetryPolicy", "outcome_class"]

AttemptResult = Response | WebhookError
"""How an attempt ended: the response, or the error that took its place."""

OutcomeClass = Literal["final", "uncounted", "counted", "slow", "stale"]

_UNCOUNTED = frozenset({429, 502, 503, 504})
"""The webhook is not there or has no time: that says nothing about the stanza."""

_COUNTED = frozenset({408, 421, 423, 425, 500, 507, *range(520, 600)})
"""It may be the stanza that it fails on, so not for ever."""

_BUDGET_SECONDS = 10.0
"""How far back unused parts of the budget reach: a burst of retries after a calm time is no larger than this allows."""

_LONGEST_REST = 86_400.0
"""Seconds; a webhook that asks for more has miscounted."""

_SHORTEST_WAIT = 0.001
"""Seconds; any shorter one is lost in the rounding of a clock, and whoever waits would ask again at the same time."""


def outcome_class(result: AttemptResult) -> OutcomeClass:
    """
    What an attempt's result means for trying again.

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
    """

    seconds: float
    counted: bool
    fresh: bool = False
    pause: float = 0.0


@frozen
class GiveUp:
    """
    There is to be no other attempt.

    Attributes:
        reason: `final`: the result stands, also where it is a success. `attempts`: no more are allowed.
            `deadline`: the next one would begin too late.
        pause: Seconds for which nothing at all is to be POSTed to this webhook.
        rest: Seconds for which nothing of the same conversation is.
    """

    reason: Literal["final", "attempts", "deadline"]
    pause: float = 0.0
    rest: float = 0.0


@frozen
class RetryPolicy:
    """
    When to try again, and how often.

    Attributes:
        max_attempts: Counted attempts, 1 or more. 1 is exactly one POST whatever happens.
        base: Seconds, more than 0: the longest wait after the first attempt; it doubles with each further one. With
            less than this left to the deadline there is no other attempt.
        cap: Seconds, more than 0: the longest wait that the webhook did not ask for.
        longest_pause: Seconds: the longest rest of the whole webhook that one answer can ask for.
    """

    max_attempts: int = field(default=10, validator=validators.ge(1))
    base: float = field(default=0.5, validator=validators.gt(0))
    cap: float = field(default=60.0, validator=validators.gt(0))
    longest_pause: float = field(default=60.0, validator=validators.ge(0))

    def after(
        self,
        result: AttemptResult,
        *,
        attempts: int,
        tries: int,
        fresh: bool,
        probe: bool,
        left: float,
        now: datetime,
        draw: float,
    ) -> Retry | GiveUp:
        """
        Decide what follows one attempt.

        Args:
            result: The response, or the error that took its place.
            attempts: Counted attempts of this delivery that failed before this one.
            tries: The number of this attempt (`webhook-attempt`), 1 or more.
            fresh: It was made on a connection that had to be new, so it cannot have been stale.
            probe: It was the breaker's probe, which is never counted.
            left: Seconds to the deadline; negative when it has passed.
            now: Current time with a zone; read only when the webhook named a date.
            draw: A random number, 0 <= draw < 1.

        Source:
            Full jitter: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
            RFC 9110 section 10.2.3 (Retry-After): nothing sooner than that, for any result that is tried again.
        """
        outcome = outcome_class(result)
        if outcome == "final":
            return GiveUp("final")
        if self.max_attempts == 1:
            return GiveUp("attempts")
        if outcome == "stale" and not fresh:
            return Retry(0.0, counted=False, fresh=True) if left > 0 else GiveUp("deadline")
        asked = pause = 0.0
        if isinstance(result, Response):
            asked = min(_LONGEST_REST, _retry_after(result.headers.get("retry-after", ""), now))
            if result.status == 503:
                pause = min(asked, self.longest_pause)
        counted = outcome in ("counted", "stale") and not probe
        if counted and attempts + 1 >= self.max_attempts:
            return GiveUp("attempts", rest=asked)
        if outcome == "slow":
            drawn = self.cap / 2 * (1 + draw)
        else:
            # Nobody waits for the 64th doubling, and a float has no room for the 1100th.
            drawn = draw * min(self.cap, self.base * 2.0 ** min(tries - 1, 64), left)
        seconds = max(drawn, asked)
        if left < self.base or seconds >= left:
            return GiveUp("deadline", pause, asked)
        return Retry(seconds, counted, pause=pause)


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


class RetryBudget:
    """
    Keeps retries a small part of all requests: used up, it delays a retry, it never ends a delivery.

    It is a bucket of tokens, one for each retry, with two inlets. The steady part fills at `per_second` and holds ten
    seconds of that (one token at least); it is full at first. The earned part gets `percent` of a token with each
    request and loses what is not used, all but 37 % in ten seconds, so a calm webhook with much traffic holds what
    about its last ten seconds of requests earned.

    Between any two moments no more tokens are taken than both parts held at the first, and both got in between.
    """

    def __init__(self, percent: float = 20, per_second: float = 3) -> None:
        """
        Args:
            percent: Retries per hundred requests, 0 or more.
            per_second: Retries per second that are always allowed, more than 0.

        Raises:
            ValueError: Out of these ranges.
        """
        if percent < 0 or per_second <= 0:
            raise ValueError(f"no retry budget: {percent} percent, {per_second} per second")
        self._per_request = percent / 100
        self._per_second = per_second
        self._capacity = max(1.0, per_second * _BUDGET_SECONDS)
        self._steady = self._capacity
        self._earned = 0.0
        self._at: float | None = None

    def request_made(self, now: float) -> None:
        """
        Note a request, and what it earns.

        Args:
            now: Seconds on a clock that does not go back.
        """
        self._advance(now)
        self._earned += self._per_request

    def withdraw(self, now: float) -> float:
        """
        Take a token for a retry, if there is one.

        Returns:
            0.0 if it was taken. Else nothing was, and it is the seconds, 0.001 or more, until the steady part alone
            has one; who comes first gets it, so ask again then.
        """
        self._advance(now)
        if self._steady + self._earned < 1:
            return max(_SHORTEST_WAIT, (1 - self._steady) / self._per_second)
        self._take()
        return 0.0

    def spend(self, now: float) -> None:
        """Take a token for a retry that is made at once whatever is left; an empty budget owes nothing later."""
        self._advance(now)
        self._take()

    def _take(self) -> None:
        """One token or what there is of it, of the earned part first, for that does not keep."""
        earned = min(1.0, self._earned)
        self._earned -= earned
        self._steady = max(0.0, self._steady - (1 - earned))

    def _advance(self, now: float) -> None:
        elapsed = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        self._steady = min(self._capacity, self._steady + elapsed * self._per_second)
        self._earned *= exp(-elapsed / _BUDGET_SECONDS)
