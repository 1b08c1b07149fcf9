"""The starts of attempts: as many as may run, in the order of the backlog."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import inf

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from component_http.contract.delivery import Delivery
from component_http.delivery.alarm import Alarm
from component_http.delivery.backlog import Backlog
from component_http.delivery.lanes import Lane
from component_http.delivery.outbox import Outbox
from component_http.delivery.slices import SLICE


class Starts:
    """
    Begins attempts: while some delivery is ready, the webhook may be asked, and the outbox is not crowded.

    Args:
        backlog: Whose turn it is.
        lane: Whether its webhook may be asked, and how much of it; whose wait may end early.
        outbox: While it is crowded no attempt begins.
        clock: Runs the waits.
        begin: Begins an attempt of the delivery with this id, and returns False if it has ended instead.
    """

    def __init__(
        self, backlog: Backlog, lane: Lane, outbox: Outbox, clock: IReactorTime, begin: Callable[[str], bool]
    ) -> None:
        self._backlog = backlog
        self._health = lane.forwarder.health
        self._back_offs = lane.back_offs
        self._outbox = outbox
        self._begin = begin
        self._next = Alarm(clock, self.go)
        self._clear: Deferred[None] | None = None
        self._busy = False
        self._stopped = False

    def go(self) -> None:
        """Begin as many attempts as may begin now."""
        # What begins may end at once and call this again: a loop, because a long queue would nest too deep.
        if self._busy or not self._has_work():
            return
        self._busy = True
        try:
            self._begin_all()
        finally:
            self._busy = False

    def _has_work(self) -> bool:
        return bool(self._backlog.ready or self._back_offs)

    def _begin_all(self) -> None:
        ended = 0
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

    def _may_leave(self) -> bool:
        """Tell whether answers can leave, and nobody has stopped it; else it goes on when they can."""
        if self._stopped:
            return False
        if self._outbox.crowded:
            if self._clear is None:
                self._clear = self._outbox.when_clear()
                self._clear.addCallbacks(self._cleared, _forget)
            return False
        return True

    def _may_begin(self) -> bool:
        if not self._may_leave():
            return False
        wait = self._health.wait()
        if wait:
            self._next.set(wait)
        return not wait

    def _cleared(self, _: None) -> None:
        self._clear = None
        self.go()


class RoutedStarts(Starts):
    """
    The same for a component with routes.

    Args:
        lanes: The lane of each route; it may get more of them.
        find: Finds a delivery by its id.
    """

    def __init__(
        self,
        backlog: Backlog,
        lanes: Mapping[str | None, Lane],
        outbox: Outbox,
        clock: IReactorTime,
        begin: Callable[[str], bool],
        find: Callable[[str], Delivery],
    ) -> None:
        super().__init__(backlog, lanes[None], outbox, clock, begin)
        self._lanes = lanes
        self._find = find

    def _has_work(self) -> bool:
        return True  # some may be parked

    def _begin_all(self) -> None:
        for _ in range(SLICE):
            if not self._may_leave():
                return
            if not self._one():
                waiting = (lane for lane in self._lanes.values() if lane.parked() or lane.back_offs)
                self._next.set(min(filter(None, (lane.forwarder.health.wait() for lane in waiting)), default=inf))
                return
        self._next.set(0.0)

    def _one(self) -> bool:
        """Begin one delivery, let one wait, or end one wait; returns False if there is nothing to do."""
        backlog = self._backlog
        for lane in self._lanes.values():
            if backlog.has_place and lane.may_begin:
                parked = lane.unpark()
                if parked is not None:
                    backlog.run(parked.id)
                    self._begin(parked.id)
                    return True
        delivery_id = backlog.next()
        if delivery_id is not None:
            delivery = self._find(delivery_id)
            lane = self._lanes[delivery.route]
            if lane.may_begin and lane.parked() is None:
                self._begin(delivery_id)
            else:
                backlog.back_off(delivery_id)
                lane.park(delivery)
            return True
        return any(lane.may_begin and lane.back_offs.end_one() for lane in self._lanes.values())


def _forget(failure: Failure) -> None:
    """Nobody waits for it any more."""
    failure.trap(CancelledError)
