"""While nothing gets through to a webhook, ask it now and then with one request instead of with all of them."""

from __future__ import annotations

from collections.abc import Hashable
from math import ceil, inf, log
from typing import Literal

from component_http.contract.reply import Response
from component_http.delivery.retry import AttemptResult
from component_http.delivery.window import Window

Probe = Literal["patient", "short"]
"""
A request that asks whether the webhook is back.

The patient one may take as long as any request, because bots may be slow. While it hangs a short one may begin beside
it, which is cut off soon: a webhook that is back may know nothing of the requests from before.
"""

_FAILURES = frozenset({500, 502, 503, 504, 507, *range(520, 600)})

_CHANCE = 1e-6
"""If some requests always fail, only a row of failures opens that chance makes as rarely as this."""

_MOST_KNOWN = 1000
"""Conversations that are remembered to have failed: as many as can be asked for."""

_LONGEST_ROW = 100
"""Failures in a row that open it whatever was before."""


def is_failure(result: AttemptResult) -> bool:
    """
    Tell whether the webhook, or the way to it, is out of order.

    Any complete response that does not say so is a sign of life, also one that refuses the stanza. A stale connection
    is a failure too, but no result to tell a `Breaker`: the attempt goes on, on a new connection.
    """
    return not isinstance(result, Response) or result.status in _FAILURES


class Breaker:
    """
    Says when an attempt may begin, by how those before it ended.

    Closed, attempts begin as they like. It opens when nothing succeeds any more: neither one conversation alone, whose
    stanza may be to blame, nor a webhook that answers some requests and fails others opens it. Open, an attempt begins
    once in `probe_interval`, as a probe. Any sign of life closes it, also one from an attempt that began before it
    opened. There are never more than two probes under way, and of these only one is patient.

    Every `now` is in seconds on one clock that does not go back.

    Attributes:
        failing_since: When the first failure after the last sign of life ended; None while the webhook is well.
    """

    def __init__(
        self,
        in_a_row: int = 5,
        share: float = 1.0,
        requests: int = 20,
        window: float = 10.0,
        probe_interval: float = 2.0,
    ) -> None:
        """
        Args:
            in_a_row: Conversations of which nothing but failures came since the last sign of life, 1 or more: so many
                open it. If some requests failed before, it takes a longer row of failures.
            share: Part of the results in the window that, failed, opens it too; more than 0, at most 1.
            requests: Results of two conversations or more that there must be for that, 1 or more.
            window: Seconds, more than 0.
            probe_interval: Seconds from its opening to the first probe, and between the beginnings of probes.
        """
        self._in_a_row = in_a_row
        self._share = share
        self._requests = requests
        self._probe_interval = probe_interval
        self._window = Window(window)
        self.paused_until = -inf
        self.forget()

    def forget(self) -> None:
        """Begin anew: it is another webhook. A pause goes on."""
        self._window.clear()
        self._open = False
        self._probes: set[Probe] = set()
        self._probe_at = -inf
        self._asked_until = -inf
        self._held_until = self.paused_until
        # What has failed since the last sign of life, how many failures that were, and how many of them rejections.
        self._failed: set[Hashable] = set()
        self._row = self._rejected = 0
        self._alive_at = -inf
        self.failing_since: float | None = None

    @property
    def state(self) -> Literal["closed", "open", "half_open"]:
        """The state: attempts begin (closed), wait for the next probe (open), or wait for one under way (half open)."""
        if not self._open:
            return "closed"
        return "half_open" if self._probes else "open"

    def wait(self, now: float) -> float:
        """Seconds until an attempt may begin: 0.0 for now, infinity while that depends on probes under way."""
        if not self._open:
            return max(0.0, self._held_until - now)
        if len(self._probes) == 2:
            return inf
        return max(0.0, self._held_until - now, self._probe_at - now)

    def begin(self, now: float) -> Probe | None:
        """
        Note that an attempt begins.

        Returns:
            What kind of probe it is, None if it is none; `end` wants to know.

        Raises:
            RuntimeError: `wait` was not over.
        """
        if self.wait(now) > 0:
            raise RuntimeError("no attempt may begin while the breaker says to wait")
        if not self._open:
            return None
        probe: Probe = "short" if "patient" in self._probes else "patient"
        self._probes.add(probe)
        self._probe_at = now + self._probe_interval
        return probe

    def end(
        self,
        failed: bool | None,
        now: float,
        conversation: Hashable,
        *,
        began: float,
        probe: Probe | None = None,
        rejected: bool = False,
    ) -> None:
        """
        Note how an attempt ended.

        Args:
            failed: See `is_failure`. None: it was cancelled, so nobody knows.
            now: The present.
            conversation: Whose attempt it was.
            began: When it began. A failure of what began before the last sign of life does not count for a row.
            probe: What `begin` said of it.
            rejected: The webhook says that it has too much to do. That may pass within a second, so if nothing else
                comes, it opens only `probe_interval` after the last sign of life.
        """
        if probe is not None:
            self._probes.discard(probe)
        if failed is None:
            return
        if not failed:
            if self._open:
                self._window.clear()
            else:
                self._window.add(False, now)
            self._open = False
            self._alive_at = now
            self._failed.clear()
            self._row = self._rejected = 0
            self.failing_since = None
            return
        if self.failing_since is None:
            self.failing_since = now
        if self._open:
            return
        self._window.add(True, now)
        if began >= self._alive_at:
            if len(self._failed) < min(self._in_a_row, _MOST_KNOWN):
                self._failed.add(conversation)
            self._row += 1
            self._rejected += rejected
        if self._nothing_succeeds(now):
            self._open = True
            self._probe_at = now + self._probe_interval

    def hold(self, seconds: float, now: float) -> None:
        """
        Let nothing begin for a while, whatever the state; of several such wishes the longest counts.

        Args:
            seconds: 0 or more; what the webhook asked for, see `Retry.pause`.
        """
        self._asked_until = max(self._asked_until, now + seconds)
        self._held_until = max(self._asked_until, self.paused_until)

    def pause(self, seconds: float, now: float) -> None:
        """Let nothing begin for so many seconds, in place of any pause before: an operator says so."""
        self.paused_until = now + seconds
        self._held_until = max(self._asked_until, self.paused_until)

    def ask_now(self) -> None:
        """Let the next attempt begin at once, whatever was asked for: somebody knows that the webhook is back."""
        self.paused_until = self._asked_until = self._held_until = self._probe_at = -inf

    def _nothing_succeeds(self, now: float) -> bool:
        window = self._window
        if self._rejected == self._row and now < self._alive_at + self._probe_interval:
            return False
        if len(self._failed) >= self._in_a_row and self._row >= self._least_row():
            return True
        return (
            len(self._failed) > 1
            and window.results >= self._requests
            and window.failures >= self._share * window.results
        )

    def _least_row(self) -> int:
        """Failures in a row that are no chance, where so many of the results before them were failures."""
        before = self._window.results - self._row
        failed = (self._window.failures - self._row) / before if before > 0 else 0.0
        if failed <= 0.0:
            return 1
        return _LONGEST_ROW if failed >= 1.0 else min(_LONGEST_ROW, ceil(log(_CHANCE) / log(failed)))
