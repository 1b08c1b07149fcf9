"""The starts of attempts: as many as may run, in the order of the backlog."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from component_http.delivery.alarm import Alarm
from component_http.delivery.back_off import BackOffs
from component_http.delivery.backlog import Backlog
from component_http.delivery.health import Health
from component_http.delivery.outbox import Outbox
from component_http.delivery.slices import SLICE


class Starts:
    """
    Begins attempts: while some delivery is ready, the webhook may be asked, and the outbox is not crowded.

    Args:
        backlog: Whose turn it is.
        health: Whether the webhook may be asked, and how much of it.
        outbox: While it is crowded no attempt begins.
        back_offs: Whose wait may end early.
        clock: Runs the waits.
        begin: Begins an attempt of the delivery with this id, and returns False if it has ended instead.
    """

    def __init__(
        self,
        backlog: Backlog,
        health: Health,
        outbox: Outbox,
        back_offs: BackOffs,
        clock: IReactorTime,
        begin: Callable[[str], bool],
    ) -> None:
        self._backlog = backlog
        self._health = health
        self._outbox = outbox
        self._back_offs = back_offs
        self._begin = begin
        self._next = Alarm(clock, self.go)
        self._clear: Deferred[None] | None = None
        self._busy = False
        self._stopped = False

    def go(self) -> None:
        """Begin as many attempts as may begin now."""
        # What begins may end at once and call this again: a loop, because a long queue would nest too deep.
        if self._busy or not (self._backlog.ready or self._back_offs):
            return
        self._busy = True
        ended = 0
        try:
            while self._may_begin():
                if ended == SLICE:
                    self._next.set(0.0)
                    break
                delivery_id = self._backlog.next(self._health.places)
                if delivery_id is not None:
                    ended += not self._begin(delivery_id)
                    if not (self._backlog.ready or self._back_offs):
                        break  # as mostly
                elif not self._back_offs.end_one():
                    break
        finally:
            self._busy = False

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Begin nothing meanwhile, and nothing afterwards before `go` is called again."""
        busy, self._busy = self._busy, True
        try:
            yield
        finally:
            self._busy = busy

    def stop(self) -> None:
        """Begin nothing more."""
        self._stopped = True

    def forget(self) -> None:
        """Wait for nothing any more."""
        self._next.cancel()
        if self._clear is not None:
            self._clear.cancel()
        self._clear = None

    def _may_begin(self) -> bool:
        if self._stopped:
            return False
        if self._outbox.crowded:
            if self._clear is None:
                self._clear = self._outbox.when_clear()
                self._clear.addCallbacks(self._cleared, _forget)
            return False
        wait = self._health.wait()
        if wait:
            self._next.set(wait)
        return not wait

    def _cleared(self, _: None) -> None:
        self._clear = None
        self.go()


def _forget(failure: Failure) -> None:
    """Nobody waits for it any more."""
    failure.trap(CancelledError)
