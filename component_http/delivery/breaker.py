"""While a webhook is out of order, ask it now and then with one request instead of with all of them."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import Literal

from attrs import define

from component_http.contract.reply import Response
from component_http.delivery.retry import AttemptResult

__all__ = ["Breaker", "is_failure"]

_FAILURES = frozenset({500, 502, 503, 504, 507, *range(520, 600)})

_SLICES = 100
"""Parts that a window of time is counted in."""


def is_failure(result: AttemptResult) -> bool:
    """
    Whether the webhook, or the way to it, is out of order.

    Any complete response that does not say so is a sign of life, also one that refuses the stanza. A stale connection
    is a failure too, but no result to tell a `Breaker`: the attempt goes on, on a new connection.
    """
    return not isinstance(result, Response) or result.status in _FAILURES


class Breaker:
    """
    Says when an attempt may begin, by how those before it ended.

    Closed, attempts begin as they like. Open, none does but a probe now and then; half open, that one is under way.
    Any sign of life closes it, with all failures forgotten: also one from an attempt that began before it opened.
    Only a failure opens it. There is never more than one probe under way, nor one that begins sooner than
    `probe_interval` after the one before; one that was overtaken by another's sign of life is still under way.

    Every `now` is in seconds on one clock that does not go back.
    """

    def __init__(
        self,
        in_a_row: int = 5,
        share: float = 0.5,
        requests: int = 20,
        window: float = 10.0,
        probe_interval: float = 2.0,
    ) -> None:
        """
        Args:
            in_a_row: Failures one after the other that open it, 1 or more.
            share: Part of the results in the window that, failed, opens it too; more than 0, at most 1.
            requests: Results that there must be for that, 1 or more.
            window: Seconds, more than 0. A hundredth less may count, never more: results are counted in a hundred
                slices of it, which is all the memory that any number of them takes.
            probe_interval: Seconds from its opening to the first probe, and from the end of one that failed to the
                next.
        """
        self._in_a_row = in_a_row
        self._share = share
        self._requests = requests
        self._probe_interval = probe_interval
        self._row = 0
        self._window = _Window(window)
        self._open = False
        self._probing = False
        self._probe_at = -inf
        self._held_until = -inf

    @property
    def state(self) -> Literal["closed", "open", "half_open"]:
        """Whether attempts begin (closed), wait for the next probe (open), or wait for the one under way."""
        if not self._open:
            return "closed"
        return "half_open" if self._probing else "open"

    def wait(self, now: float) -> float:
        """Seconds until an attempt may begin: 0.0 for now, infinity while that depends on the probe under way."""
        if self._open and self._probing:
            return inf
        begins = max(self._held_until, self._probe_at) if self._open else self._held_until
        return max(0.0, begins - now)

    def begin(self, now: float) -> bool:
        """
        Note that an attempt begins.

        Returns:
            True if it is the probe; `end` wants to know.

        Raises:
            RuntimeError: `wait` was not over.
        """
        if self.wait(now) > 0:
            raise RuntimeError("no attempt may begin while the breaker says to wait")
        if self._open:
            self._probing = True
            self._probe_at = now + self._probe_interval
        return self._open

    def end(self, failed: bool | None, now: float, *, probe: bool) -> None:
        """
        Note how an attempt ended.

        Args:
            failed: See `is_failure`. None: it was cancelled, so nobody knows.
            probe: What `begin` said of it. After a probe of which nobody knows, the next may begin as soon as the
                interval since its beginning is over.
        """
        if probe:
            self._probing = False
        if failed is None:
            return
        if self._open:
            if not failed:
                self._close()
            elif probe:
                self._probe_at = now + self._probe_interval
            return
        self._window.add(failed, now)
        self._row = self._row + 1 if failed else 0
        if failed and (self._row >= self._in_a_row or self._window.failed(self._requests, self._share)):
            self._open = True
            self._probe_at = now + self._probe_interval

    def hold(self, seconds: float, now: float) -> None:
        """
        Let nothing begin for a while, whatever the state; of several such wishes the longest counts.

        Args:
            seconds: 0 or more; what the webhook asked for, see `Retry.pause`.
        """
        self._held_until = max(self._held_until, now + seconds)

    def _close(self) -> None:
        self._open = False
        self._row = 0
        self._window.clear()


@define
class _Slice:
    number: int
    results: int = 0
    failures: int = 0


class _Window:
    """Counts the results of the last seconds, in slices of time."""

    def __init__(self, seconds: float) -> None:
        self._slice_seconds = seconds / _SLICES
        self._slices: deque[_Slice] = deque()
        self.clear()

    def clear(self) -> None:
        self._slices.clear()
        self._results = self._failures = 0

    def add(self, failed: bool, now: float) -> None:
        number = int(now // self._slice_seconds)
        while self._slices and self._slices[0].number <= number - _SLICES:
            old = self._slices.popleft()
            self._results -= old.results
            self._failures -= old.failures
        if not self._slices or self._slices[-1].number < number:
            self._slices.append(_Slice(number))
        self._slices[-1].results += 1
        self._slices[-1].failures += failed
        self._results += 1
        self._failures += failed

    def failed(self, requests: int, share: float) -> bool:
        """There are so many results, and so large a share of them are failures."""
        return self._results >= requests and self._failures >= share * self._results
