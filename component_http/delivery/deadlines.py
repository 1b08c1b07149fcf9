"""When each pending delivery has to have ended."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from operator import itemgetter

__all__ = ["Deadlines"]


class Deadlines:
    """
    The deadlines of all that is pending, earliest first.

    Deliveries of one kind have the same time to live, so their deadlines come in order. Each lane is therefore a plain
    queue: no operation takes longer the more is pending, and a delivery that ends early, as nearly all do, leaves
    nothing behind. One that comes too early for its lane, restored from a spool or because the time to live was made
    shorter, goes to a sorted list instead: among 10 000 of them that is still a few microseconds.
    """

    def __init__(self) -> None:
        # A lane, of which there are a few, is there only while something is in it.
        self._lanes: dict[str, OrderedDict[str, float]] = {}
        self._early: list[tuple[float, str]] = []
        self._early_at: dict[str, float] = {}

    def add(self, delivery_id: str, lane: str, at: float) -> None:
        """
        Note a deadline.

        Args:
            delivery_id: Has no deadline yet, else ValueError.
            lane: Name of those whose deadlines come in order, such as the kind of stanza.
            at: Seconds of the caller's clock.
        """
        if delivery_id in self._early_at or any(delivery_id in queue for queue in self._lanes.values()):
            raise ValueError(f"{delivery_id} has a deadline already")
        queue = self._lanes.get(lane)
        if queue is not None and next(reversed(queue.values())) > at:
            insort(self._early, (at, delivery_id))
            self._early_at[delivery_id] = at
            return
        if queue is None:
            queue = self._lanes[lane] = OrderedDict()
        queue[delivery_id] = at

    def remove(self, delivery_id: str) -> None:
        """Forget a deadline, if it is still there."""
        for lane, queue in self._lanes.items():
            if queue.pop(delivery_id, None) is not None:
                if not queue:
                    del self._lanes[lane]
                return
        at = self._early_at.pop(delivery_id, None)
        if at is not None:
            del self._early[bisect_left(self._early, (at, delivery_id))]

    def next(self) -> float | None:
        """Say when the earliest deadline is; None if there is none."""
        firsts = [next(iter(queue.values())) for queue in self._lanes.values()]
        if self._early:
            firsts.append(self._early[0][0])
        return min(firsts, default=None)

    def due(self, now: float) -> list[str]:
        """Forget all deadlines that have come, those at `now` included, and give their ids in order of time."""
        found = self._early[: bisect_right(self._early, now, key=itemgetter(0))]
        for queue in self._lanes.values():
            for delivery_id, at in queue.items():
                if at > now:
                    break
                found.append((at, delivery_id))
        found.sort(key=itemgetter(0))
        for _, delivery_id in found:
            self.remove(delivery_id)
        return [delivery_id for _, delivery_id in found]
