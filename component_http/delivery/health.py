"""The health of the webhook: whether it is asked, how much of it, and since when it fails."""

from __future__ import annotations

from math import inf
from typing import Literal

from attrs import define, field, frozen
from twisted.internet.interfaces import IReactorTime

from component_http.contract import conditions
from component_http.contract.conditions import StanzaError
from component_http.contract.reply import Response
from component_http.delivery.breaker import Breaker, Probe, is_failure
from component_http.delivery.life import Attempt
from component_http.delivery.load import Load, Quota
from component_http.delivery.retry import AttemptResult, is_rejection
from component_http.errors import CertificateInvalid, CertificateRefused, ConnectionFailed
from component_http.interfaces import Observer
from component_http.log import Logger
from component_http.throttle import LOG_INTERVAL, Throttle

SILENCE = 5.0
"""Seconds without any result of an attempt after which the webhook is not counted on for now."""


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


@define(eq=False)
class Health:
    """
    Knows how the webhook is, and says whether the next attempt may begin.

    Args:
        observer: Told `breaker_opened`, `breaker_closed`, `webhook_paused` and `gone`.
        load: How much the webhook is asked for.
        breaker: Whether it is asked at all.
        clock: The reactor's clock.

    Attributes:
        no_more: Why nothing is POSTed: there is no webhook, or it said 410 and is gone; None while something is.
        untrusted: The webhook's certificate was not valid when it was last asked.
        last_failure: Why the last attempt that failed did, for a person; None if none did.
        awakenings: How often the webhook was found to be back, or somebody said so: a back-off that began before one of
            these may end early.
    """

    _log = Logger()

    _observer: Observer
    _load: Load
    _breaker: Breaker
    _clock: IReactorTime
    no_more: NoMore | None = field(init=False, default=None)
    untrusted: bool = field(init=False, default=False)
    last_failure: str | None = field(init=False, default=None)
    awakenings: int = field(init=False, default=0)
    _throttle: Throttle = field(init=False, factory=lambda: Throttle(LOG_INTERVAL))
    _heard_at: float = field(init=False, default=-inf)

    @property
    def answers(self) -> bool:
        """The webhook is asked, and attempts have ended or begun lately: what waits will have its turn."""
        return not self.away() and self._clock.seconds() - self._heard_at <= SILENCE

    @property
    def gone(self) -> StanzaError | None:
        """The error for senders since the webhook has said that it is gone; None while it has not."""
        return self.no_more.error if self.no_more is not None and self.no_more is not NO_WEBHOOK else None

    @property
    def state(self) -> Literal["closed", "open", "half_open", "paused", "gone", "none"]:
        """
        The state of the webhook: `none`: there is none. `gone`: it said so. `paused`: an operator has paused it. Else
        the state of the breaker.
        """
        if self.no_more is None:
            return "paused" if self.paused else self._breaker.state
        return "none" if self.no_more is NO_WEBHOOK else "gone"

    @property
    def breaker_state(self) -> Literal["closed", "open", "half_open"]:
        """Tell whether the webhook is asked as usual, not at all, or by one delivery that probes."""
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

    @property
    def has_place(self) -> bool:
        """One more attempt may be under way now."""
        return self._load.under_way < self.places

    def away(self) -> float:
        """Seconds for which the webhook is not asked, because it fails or wants it so; infinite during probes."""
        return self._breaker.wait(self._clock.seconds())

    def wait(self) -> float:
        """Seconds until an attempt may begin: 0 for now, infinite while it depends on one that is under way."""
        now = self._clock.seconds()
        return max(self._breaker.wait(now), self._load.wait(now))

    def quota_wait(self) -> float:
        """Seconds until the operator's limit (`webhook.rate`) lets an attempt begin: 0 for now."""
        return self._load.quota_wait(self._clock.seconds())

    def begin(self, now: float) -> tuple[Probe | None, int]:
        """Note that an attempt begins; returns the kind of probe, if it is one, and the number of others under way."""
        probe, others = self._breaker.begin(now), self._load.begin(now)
        if not others:
            self._heard_at = now
        return probe, others

    @property
    def paused_until(self) -> float:
        """When the pause ends that an operator has asked for; infinite for one that only `ask_now` ends."""
        return self._breaker.paused_until

    @property
    def paused(self) -> bool:
        """An operator has paused the webhook."""
        return self.paused_until > self._clock.seconds()

    def hold(self, seconds: float) -> None:
        """Let nothing begin for so many seconds, because an operator says so; infinite means until `ask_now`."""
        self._breaker.pause(seconds, self._clock.seconds())

    def ask_now(self) -> None:
        """Let attempts begin at once: somebody knows that the webhook is back."""
        self._breaker.ask_now()
        self._awake()

    def adapt(self, most: int, quota: Quota | None, *, moved: bool) -> None:
        """
        Go by other settings from now on.

        Args:
            most: The most requests at once.
            quota: The operator's limit, or None.
            moved: It is another webhook, so nothing is known of it.
        """
        self._load.adapt(most, quota, moved=moved)
        if moved:
            self._breaker.forget()
            self.untrusted = False
            self.last_failure = None
            self.awakenings += 1

    def learn(self, attempt: Attempt, result: AttemptResult | None, *, hangs: bool = False) -> None:
        """
        Note how an attempt ended.

        Args:
            attempt: The attempt, as `begin` let it through.
            result: The response or failure; None where it was cut off by us.
            hangs: It was cut off because the webhook did not answer in time.
        """
        now = self._clock.seconds()
        if result is not None:
            self._heard_at = now
        breaker = self._breaker
        responded = isinstance(result, Response)
        rejected = result is not None and is_rejection(result)
        self._load.end(attempt.others, not rejected if responded else None, attempt.began, now)
        failed = (hangs or None) if result is None else is_failure(result)
        before = breaker.state
        breaker.end(
            failed, now, attempt.delivery.conversation, began=attempt.began, probe=attempt.probe, rejected=rejected
        )
        if failed:
            self.last_failure = "it did not answer in time" if result is None else in_words(result)
        if breaker.state != before:
            self._changed(before, breaker.state)
        if responded:
            self.untrusted = False
        elif isinstance(result, CertificateInvalid):
            self.untrusted = True
            if self._throttle.may_tell(str(result), now):
                self._log.error("the webhook's certificate cannot be trusted: {reason}", reason=str(result))
        elif isinstance(result, ConnectionFailed) and self._throttle.may_tell(str(result), now):
            log = self._log.error if isinstance(result, CertificateRefused) else self._log.info
            log("the webhook cannot be asked: {reason}", reason=str(result))

    def _changed(self, before: str, after: str) -> None:
        if after == "open" and before == "closed":
            self._observer.count("breaker_opened")
            self._log.warn(
                "the webhook fails ({reason}): it is asked by one stanza at a time until it answers, the others wait",
                reason=self.last_failure,
            )
        elif after == "closed":
            self._observer.count("breaker_closed")
            self._log.info("the webhook answers again")
            self._awake()

    def _awake(self) -> None:
        self.awakenings += 1
        self._load.restart(self._clock.seconds())

    def pause(self, seconds: float) -> None:
        """The webhook wants nothing for so many seconds, unless it is known how much it takes."""
        now = self._clock.seconds()
        if not self._load.is_known(now):
            self._observer.count("webhook_paused")
            self._breaker.hold(seconds, now)
            self._load.pause(seconds, now)

    def is_gone(self, error: StanzaError) -> None:
        """The webhook has said that it is gone; senders are told this."""
        self.no_more = NoMore(error, "the webhook is gone")
        self._observer.count("gone")
        self._log.error(
            "the webhook answered 410 Gone: nothing is POSTed until the gateway is started again"
            ' (delivery.on_gone is "disable")'
        )


def in_words(result: AttemptResult) -> str:
    """Say why an attempt failed, for a person: nothing of a response but its status."""
    return f"HTTP status {result.status}" if isinstance(result, Response) else str(result)
