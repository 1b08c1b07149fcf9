"""The deadlines of pending deliveries."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Mapping
from itertools import islice
from sys import maxsize

from attrs import define

from component_http.contract.delivery import Delivery
from component_http.contract.stanza import Stanza

LATE_SECONDS = 60.0
"""Seconds for the attempts of a message whose deadline comes before the webhook has seen it, or soon after."""


@define
class Times:
    """
    The times that deliveries may take.

    Attributes:
        seconds: The time of each, by the kind of its stanza.
        grace: Seconds since its acceptance for which a message waits that the webhook could not be asked about before
            its deadline; 0.0: no longer than that.
        late_seconds: As `LATE_SECONDS`.
    """

    seconds: Mapping[str, float]
    grace: float = 0.0
    late_seconds: float = LATE_SECONDS

    def use(self, other: Times) -> None:
        """Go by other times from now on; what is pending keeps its deadline."""
        self.seconds, self.grace, self.late_seconds = other.seconds, other.grace, other.late_seconds

    def begin(self, delivery_id: str, stanza: Stanza, size: int, now: float) -> Delivery:
        """Make a delivery of a stanza whose time begins now."""
        deadline = now + self.seconds[stanza.kind]
        last = now + self.grace if stanza.kind == "message" else deadline
        return Delivery(delivery_id, stanza.facts(), size, deadline, last=last, accepted=now)

    def begin_again(self, delivery: Delivery, now: float) -> None:
        """Let the time of a delivery that somebody retries begin now."""
        delivery.deadline = now + self.seconds[delivery.stanza.kind]
        delivery.last = max(delivery.last, delivery.deadline)

    def needs_more(self, delivery: Delivery, now: float) -> bool:
        """A delivery whose turn it is, and that the webhook has not seen, has too little time for its attempts."""
        return not delivery.tries and delivery.last > delivery.deadline < now + self.late_seconds

    def give_more(self, delivery: Delivery, now: float) -> None:
        """Let such a delivery have the time for them."""
        delivery.deadline = max(delivery.deadline, min(delivery.last, now + self.late_seconds))

    def is_late(self, delivery: Delivery, now: float) -> bool:
        """Its time was over before the webhook could be asked about it."""
        return delivery.accepted is not None and delivery.accepted + self.seconds[delivery.stanza.kind] <= now


@define(eq=False)
class _Lane:
    """
    Deadlines that come in order.

    Attributes:
        ends: When each is, by id.
        latest: The last that was added.
    """

    ends: dict[str, float]
    latest: float


class Deadlines:
    """
    The deadlines of all that is pending, earliest first.

    Deliveries of one kind have the same time to live, so their deadlines come in order. Each lane is therefore a plain
    queue: to add and to remove take no longer the more is pending, and a delivery that ends early, as nearly all do,
    leaves nothing behind. One that comes too early for its lane, restored from a spool or because the time to live was
    made shorter, goes to a sorted list instead: among 10 000 of them that is still a few microseconds.
    """

    def __init__(self) -> None:
        # A lane, of which there are a few, is there only while something is in it.
        self._lanes: dict[str, _Lane] = {}
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
        taken = delivery_id in self._early_at
        for there in self._lanes.values():
            taken = taken or delivery_id in there.ends
        if taken:
            raise ValueError(f"{delivery_id} has a deadline already")
        found = self._lanes.get(lane)
        if found is None:
            self._lanes[lane] = _Lane({delivery_id: at}, at)
        elif at < found.latest:
            insort(self._early, (at, delivery_id))
            self._early_at[delivery_id] = at
        else:
            found.ends[delivery_id] = found.latest = at

    def remove(self, delivery_id: str) -> None:
        """Forget a deadline, if it is still there."""
        for name, lane in self._lanes.items():
            if lane.ends.pop(delivery_id, None) is not None:
                if not lane.ends:
                    del self._lanes[name]
                return
        at = self._early_at.pop(delivery_id, None)
        if at is not None:
            del self._early[bisect_left(self._early, (at, delivery_id))]

    def next(self) -> float | None:
        """Say when the earliest deadline is; None if there is none."""
        firsts = [next(iter(lane.ends.values())) for lane in self._lanes.values()]
        if self._early:
            firsts.append(self._early[0][0])
        return min(firsts, default=None)

    def due(self, now: float, most: int = maxsize) -> list[str]:
        """
        Forget deadlines that have come, those at `now` included.

        Args:
            now: The present.
            most: So many at once; those that are left are still `next`.

        Returns:
            Their ids in order of time.
        """
        found: list[tuple[float, str]] = []
        for lane in self._lanes.values():
            for delivery_id, at in islice(lane.ends.items(), most):
                if at > now:
                    break
                found.append((at, delivery_id))
        found += [each for each in self._early[:most] if each[0] <= now]
        found.sort(key=lambda each: each[0])
        ids = [delivery_id for _, delivery_id in found[:most]]
        for delivery_id in ids:
            self.remove(delivery_id)
        return ids
