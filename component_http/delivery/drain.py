"""The stages of a stop: deliveries may end, then the others are given up, and outbound stanzas are sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from component_http.delivery.alarm import Alarm
from component_http.delivery.outbox import Outbox

FLUSH = 1.0
"""Seconds that what is answered at the very end of a drain has to leave, and to be confirmed."""

DRAIN_FOLLOWS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "running": ("draining",),
        "draining": ("giving_up", "flushing"),
        "giving_up": ("flushing",),
        "flushing": ("over",),
        "over": ("flushing",),
    }
)
"""Which stages of a stop may follow each of them, by name; docs/architecture.md says what each of them is."""


@frozen
class _Stage:
    """
    The stage of the stop.

    Attributes:
        name: One of `DRAIN_FOLLOWS`.
        sent: While flushing: fires when nothing waits to leave any more.
    """

    name: str
    sent: Deferred[None] | None = None


class Drain:
    """
    Leads a gateway through its stop.

    Args:
        clock: Runs the time limits.
        under_way: How many deliveries have not ended, nor been left for the next start.
        outbox: Knows what waits to leave; lets nothing more leave when all is done.
        hurry: Called when the time for the drain has passed.
        give_up: Called then if something is under way: it has to end.
        over: Called when all is done; for another drain it is called again.
    """

    def __init__(
        self,
        clock: IReactorTime,
        *,
        under_way: Callable[[], int],
        outbox: Outbox,
        hurry: Callable[[], object],
        give_up: Callable[[], object],
        over: Callable[[], object],
    ) -> None:
        self._under_way = under_way
        self._outbox = outbox
        self._hurry = hurry
        self._give_up = give_up
        self._when_over = over
        self._end = Alarm(clock, self._rings)
        self._stage = _Stage("running")
        self._waiting: list[Deferred[None]] = []

    @property
    def stage(self) -> str:
        """The stage of the stop, one of `DRAIN_FOLLOWS`."""
        return self._stage.name

    @property
    def begun(self) -> bool:
        """The gateway is stopping, or has stopped."""
        return self._stage.name != "running"

    def begin(self, timeout: float) -> Deferred[None]:
        """Stop within so many seconds; fires when all is done. A second one may end the first earlier, not later."""
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        if not self.begun:
            self._go(_Stage("draining"))
        self._end.set(timeout)
        self.look()
        return waiting

    def look(self) -> None:
        """Flush when all deliveries have ended: wait for the outbound stanzas, a moment at least."""
        if not self._waiting or self.stage == "flushing" or self._under_way():
            return
        sent = self._outbox.when_sent()
        self._go(_Stage("flushing", sent))
        sent.addCallbacks(lambda _: self._over(), _forget)
        if self.stage == "flushing" and not self._end.is_set:
            self._end.set(FLUSH)

    def _rings(self) -> None:
        self._hurry()
        if self.stage == "flushing":
            self._over()
        elif self.stage == "draining":
            self._go(_Stage("giving_up"))
            self._give_up()

    def _over(self) -> None:
        sent = self._stage.sent
        self._go(_Stage("over"))
        self._end.cancel()
        if sent is not None:
            sent.cancel()
        self._outbox.stop()
        self._when_over()
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    def _go(self, stage: _Stage) -> None:
        if stage.name not in DRAIN_FOLLOWS[self.stage]:
            raise ValueError(f"a stop cannot be {stage.name} after it was {self.stage}")
        self._stage = stage


def _forget(failure: Failure) -> None:
    """Nobody waits for it any more."""
    failure.trap(CancelledError)
