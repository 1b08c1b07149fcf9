"""The pace of requests, learned from those that a webhook rejects."""

from __future__ import annotations

from math import inf

from attrs import define

from component_http.delivery.window import Window

_WINDOW = 10.0
"""Seconds over which the rate that a webhook accepts is measured; its own windows may be that long."""

_RECENT = 2.0
"""Seconds over which the share that is accepted is measured while the pace rises."""

_REJECTIONS = 10
_SHARE = 0.05
"""Rejections in the window, and their share of all results, that are enough to look for a limit."""

_BELOW = 0.95
"""The part of the accepted rate that is tried then."""

_RISE = 4.0
_BEYOND = 0.12
"""
Seconds from there back to the whole of it, as the cubic of TCP does; and what part more it is after as many again.
Nothing was rejected until then, so the webhook takes far more by now: each further second doubles the pace.
"""

_BEARABLE = 0.03
"""The share of rejections, of about the last hundred results, that does not lower the pace."""

_MEMORY = 100

_ENOUGH = 10
_SOON = 0.2
_MEASURED = 0.9
_LONGEST_MEASURED = 15.0
"""
Accepted requests, and seconds, by which a rate is roughly known; seconds after which it is known in any case, a little
less than a webhook's window of one; and seconds after which it says nothing about now.
"""

_FALLS = 2
"""Times that the pace is lowered in a row without fewer rejections; after that they are not about the pace."""

_FEWER = 0.6
"""The part of the share of rejections that may be left at most, if a lower pace has made them fewer."""

_HOLD_OFF = 10.0
_LONGEST_HOLD_OFF = 320.0
"""Seconds until a limit is looked for again after that; each time twice as many."""

_BLACKOUT = 40
"""Rejections in a row that no chance explains: the webhook takes nothing for a while, and is asked slowly."""

_ASKED = 200.0
_SLOWEST = 0.5
"""Requests per second meanwhile: this number divided by that of rejections in a row, but no fewer."""

_LONG_BLACKOUT = 12.0
"""Seconds of it after which the pace begins anew: longer than the windows that are measured."""

_RAMP = 20.0
_RAMPED = 7.0
"""Requests per second at which a webhook that is back is asked first, doubled each second for so many seconds."""

_LEAST = 0.5
"""Requests per second, the slowest pace."""

_IDLE = 60.0
"""Seconds without need of it after which a pace is forgotten."""

_GAP = 1.0
"""Seconds without any request after which the rate is measured anew."""

_SLACK = 0.02
"""Seconds that a late request may be made up for by those after it: timers are never early."""


@define
class _Level:
    """
    A pace that is kept, and how it goes.

    Attributes:
        ceiling: Requests per second that the webhook seems to accept.
        began: When it began; what began earlier says nothing about it.
        before: The share of rejections for which it was lowered.
        falls: How often it was lowered in a row, this time included, without fewer rejections.
        synced: When the first request at this pace was accepted; None before. Only then it is judged, for the webhook
            may take nothing until its own window of time ends.
        age: Seconds for which it was needed since.
        accepted: Requests at this pace that were accepted since then.
        rejected: Those that were rejected.
        share: The share of these, of about the last hundred of both.
    """

    ceiling: float
    began: float
    before: float
    falls: int
    synced: float | None = None
    age: float = 0.0
    accepted: int = 0
    rejected: int = 0
    share: float = 0.0

    @property
    def rate(self) -> float:
        """Requests per second now."""
        away = min(self.age / _RISE - 1, 1.0)
        factor = 1 - _BELOW if away < 0 else _BEYOND
        doubled: float = 2.0 ** max(0.0, self.age - 2 * _RISE)
        return max(_LEAST, self.ceiling * (1 + factor * away**3) * doubled)

    def add(self, rejected: bool) -> None:
        """Count a result."""
        self.accepted += not rejected
        self.rejected += rejected
        self.share += (rejected - self.share) / min(_MEMORY, self.accepted + self.rejected)


@define
class _Measurement:
    """
    A measurement of the requests that a webhook accepts.

    Attributes:
        since: When it began.
        accepted: Requests that were accepted since.
        paused: Seconds of these for which the webhook wanted nothing.
    """

    since: float = -inf
    accepted: int = 0
    paused: float = 0.0

    def seconds(self, now: float) -> float:
        """The seconds without the pauses."""
        return now - self.since - self.paused


class Pace:
    """
    The time between two requests.

    A webhook may reject requests (429, 503) because they come too fast. Then it accepts as many per second as it
    can, and with a pace a little below that nothing is rejected any more. Or it rejects some at random, whatever the
    pace; then a slower pace only makes it accept fewer. So the pace is lowered as a trial, below the rate that was
    accepted. If the rejections do not end, they are not about the pace, and there is none. If they do, the pace is
    kept, and rises slowly until the webhook rejects again.

    Every `now` is in seconds on one clock that does not go back.

    Source:
        CUBIC (RFC 9438) for the rise; PCC (Dong et al., NSDI 2015) for judging a rate by what it achieves, because
        losses alone do not say whether there is a limit.
    """

    def __init__(self) -> None:
        self._window = Window(_WINDOW)
        self._recent = Window(_RECENT)
        self._busy_since = -inf
        self._measurement = _Measurement()
        self._last_begun = -inf
        self._needed = -inf
        self._next = -inf
        self._ramp_from = -inf
        self._level: _Level | None = None
        self._run = 0
        self._run_since = -inf
        self._hold_off = _HOLD_OFF
        self._not_before = -inf

    def rate(self, now: float) -> float:
        """Requests that may begin in a second; infinity if there is no limit."""
        rate = inf if self._level is None else self._level.rate
        if self._run >= _BLACKOUT:
            rate = min(rate, max(_SLOWEST, _ASKED / self._run))
        ramped = now - self._ramp_from
        if ramped < _RAMPED:
            rate = min(rate, _RAMP * 2.0**ramped)
        return rate

    @property
    def is_known(self) -> bool:
        """There is a pace, and the webhook accepts something at it."""
        return self._level is not None and self._run < _REJECTIONS

    def wait(self, now: float) -> float:
        """Seconds until a request may begin, 0.0 for now."""
        return max(0.0, self._next - now)

    def begin(self, now: float) -> None:
        """Note that a request begins."""
        since, self._last_begun = max(0.0, now - self._last_begun), now
        rate = self.rate(now)
        if since > max(_GAP, 2 / rate):
            self._busy_since = now
            self._measurement = _Measurement(now)
            self._window.clear()
            self._recent.clear()
        if rate == inf:
            self._next = now
            return
        level = self._level
        if level is not None:
            if since <= 2 / rate:
                self._needed = now
                level.age += since if level.synced is not None else 0.0
            elif now - self._needed > _IDLE:
                self._level = None
        self._next = max(self._next, now - _SLACK) + 1 / rate

    def end(self, accepted: bool, began: float, now: float) -> None:
        """
        Note that a request was answered.

        Args:
            accepted: The webhook did not say that it was one too many.
            began: When it began.
            now: The present.
        """
        self._window.add(not accepted, now)
        self._recent.add(not accepted, now)
        if accepted:
            self._take_acceptance(began, now)
        else:
            self._take_rejection(began, now)

    def pause(self, seconds: float, now: float) -> None:
        """The webhook wants nothing for a while: that is no time in which nobody needs it, nor one that is measured."""
        more = now + seconds - max(self._last_begun, now)
        if more > 0:
            self._last_begun = now + seconds
            self._measurement.paused += more
            if self._level is not None and self._level.synced is not None:
                self._level.synced += more

    def restart(self, now: float) -> None:
        """Begin slowly: the webhook was away."""
        self._ramp_from = now
        self._run = 0
        self._next = now

    def _take_acceptance(self, began: float, now: float) -> None:
        self._measurement.accepted += 1
        blackout, self._run = self._run, 0
        level = self._level
        if blackout >= _BLACKOUT:
            self._next = now
            if now - self._run_since > _LONG_BLACKOUT:
                self._level = None
                self.restart(now)
                return
        if level is None or began < level.began:
            return
        if level.synced is None:
            level.synced = max(now, self._last_begun)  # The latter where there is a pause.
            elapsed = self._measurement.seconds(now)
            if now - level.began >= _SOON and _MEASURED <= elapsed <= _LONGEST_MEASURED:
                # The time for which the webhook took nothing counts too.
                level.ceiling = min(level.ceiling, self._measurement.accepted / elapsed)
            self._measurement = _Measurement(now)
            return
        level.add(False)
        if level.falls and level.age > _RISE / 2 and level.share <= level.before / 2:
            level.falls = 0
            self._hold_off = _HOLD_OFF

    def _take_rejection(self, began: float, now: float) -> None:
        if not self._run:
            self._run_since = now
        self._run += 1
        level = self._level
        if level is None:
            self._look_for_limit(now)
            return
        if began < level.began or level.synced is None:
            return
        level.add(True)
        elapsed = now - level.synced
        known = level.accepted >= _ENOUGH and elapsed >= _SOON
        if not known and (elapsed < _MEASURED or level.accepted + level.rejected < _ENOUGH):
            return
        if level.rejected < 2 or level.share <= _BEARABLE:
            return
        falls = level.falls + (level.share > _FEWER * level.before) if level.falls else 1
        if falls > _FALLS:
            self._level = None
            self._not_before = now + self._hold_off
            self._hold_off = min(_LONGEST_HOLD_OFF, 2 * self._hold_off)
            return
        rate = level.accepted / elapsed
        if elapsed >= _RECENT:
            self._recent.advance(now)
            rate = level.rate * (1 - self._recent.failures / self._recent.results)
        self._lower(min(rate, level.rate), level.share, now, falls)

    def _look_for_limit(self, now: float) -> None:
        """Lower the pace, if so much is rejected that there may be a limit, and it is known how much is accepted."""
        accepted, seconds = self._accepted_lately(now)
        rejected = self._window.failures
        if accepted < _ENOUGH or rejected < _REJECTIONS or rejected < _SHARE * (accepted + rejected):
            return
        if self._run < _BLACKOUT and (now < self._not_before or now - self._busy_since < _MEASURED):
            return
        share = rejected / (accepted + rejected)
        if self._measurement.paused:
            # Too high rather than too low: there are no more pauses as soon as there is a pace.
            accepted, seconds = self._measurement.accepted, max(_SOON, self._measurement.seconds(now))
        self._lower(accepted / seconds, share, now, 1)

    def _lower(self, ceiling: float, share: float, now: float, falls: int) -> None:
        self._level = _Level(ceiling, now, share, falls)
        self._next = now + 1 / self.rate(now)

    def _accepted_lately(self, now: float) -> tuple[int, float]:
        """Requests that were accepted in the window, and the seconds of it for which there were any."""
        self._window.advance(now)
        return self._window.results - self._window.failures, min(_WINDOW, max(_MEASURED, now - self._busy_since))
