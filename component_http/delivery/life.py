"""The stages in the life of a delivery: which may follow one another, and who is at which."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from twisted.internet.defer import Deferred

from component_http.contract.delivery import NEW, Delivery, Stage
from component_http.delivery.breaker import Probe

FOLLOWS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "new": ("storing", "ready"),
        "storing": ("ready", "over"),
        "ready": ("running", "asleep", "held", "ending", "left"),
        "running": ("backing_off", "asleep", "open", "ending", "left"),
        "backing_off": ("ready", "ending", "left"),
        "asleep": ("ready", "backing_off", "ending", "left"),
        "held": ("ready", "ending", "left"),
        "open": ("ending",),
        "left": (),
        "ending": ("over",),
        "over": (),
    }
)
"""Which stages may follow each stage, by name; docs/architecture.md says what each of them is."""

_FOLLOWS = dict(FOLLOWS)  # asked at each step of each delivery

STORING = Stage("storing")
READY = Stage("ready")
OPEN = Stage("open")
LEFT = Stage("left")
ENDING = Stage("ending")
OVER = Stage("over")
"""The stages at which nothing goes on that could be cancelled."""


class Attempt(Stage):
    """
    A POST of a delivery is under way.

    Attributes:
        delivery: The delivery.
        began: When the attempt began.
        probe: The kind of probe that the breaker let through; None for an attempt as usual.
        others: The number of other attempts that were under way.
        fresh: The connection had to be new.
        learned: `Health` knows the end of the attempt.
        over: Called once, with what follows the attempt (`component_http.delivery.forwarder.AttemptOver`).
        waits_for: The Deferred that the attempt waits for now: of its request body, or of the response.
    """

    __slots__ = ("began", "delivery", "fresh", "learned", "others", "over", "probe", "waits_for")

    def __init__(
        self,
        delivery: Delivery,
        began: float,
        probe: Probe | None,
        others: int,
        over: Callable[[Attempt, Any, float], object],
    ) -> None:
        super().__init__("running")
        self.delivery = delivery
        self.began = began
        self.probe = probe
        self.others = others
        self.over = over
        self.fresh = self.learned = False
        self.waits_for: Deferred[Any] | None = None

    def cancel(self) -> None:
        """Cut the POST off."""
        if self.waits_for is not None:
            self.waits_for.cancel()


class Wait(Stage):
    """
    The next attempt is waited for.

    Args:
        name: One of `WAITS`.

    Attributes:
        until: When the wait is over.
        awakenings: Those of the forwarder when it began.
    """

    __slots__ = ("awakenings", "until")

    def __init__(self, name: str, until: float, awakenings: int) -> None:
        super().__init__(name)
        self.until = until
        self.awakenings = awakenings


WAITS = ("backing_off", "asleep", "held")


class Lives:
    """
    The deliveries that somebody has in charge, each at one stage of its life.

    A stage that may not follow the one before it raises ValueError: that is a bug.
    """

    def __init__(self) -> None:
        self._by_id: dict[str, Delivery] = {}
        # Those at each stage, in the order in which they came to it. Most of many are ready, and need no entry.
        self._at: dict[str, dict[str, Delivery]] = {
            name: {} for name in FOLLOWS if name not in ("new", "ready", "over")
        }

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, delivery_id: object) -> bool:
        return delivery_id in self._by_id

    def __iter__(self) -> Iterator[Delivery]:
        """All of them, in the order in which they came."""
        return iter(self._by_id.values())

    def get(self, delivery_id: str) -> Delivery | None:
        """The delivery with this id, at whatever stage; None if nobody has it in charge."""
        return self._by_id.get(delivery_id)

    def get_known(self, delivery_id: str) -> Delivery:
        """The delivery with this id, which somebody has in charge."""
        return self._by_id[delivery_id]

    def at(self, stage: str) -> Mapping[str, Delivery]:
        """The deliveries at a stage, by id, in the order in which they came to it; not for `ready`."""
        return self._at[stage]

    def begin(self, delivery: Delivery, stage: Stage) -> None:
        """Take a delivery in charge, whatever somebody else did with it before."""
        delivery.stage = NEW
        self._by_id[delivery.id] = delivery
        self.move(delivery, stage)

    def move(self, delivery: Delivery, stage: Stage) -> None:
        """A delivery goes on to another stage by itself: what went on at the one before has ended."""
        before, name = delivery.stage.name, stage.name
        if name not in _FOLLOWS[before]:
            raise ValueError(f"{delivery.id} cannot be {name} after it was {before}")
        here, there = self._at.get(before), self._at.get(name)
        if here is not None:
            del here[delivery.id]
        if there is not None:
            there[delivery.id] = delivery
        delivery.stage = stage

    def stop(self, delivery: Delivery, stage: Stage) -> None:
        """Cancel what goes on with a delivery, and let it go on to another stage."""
        before = delivery.stage
        self.move(delivery, stage)
        before.cancel()

    def may(self, delivery: Delivery, stage: Stage) -> bool:
        """Tell whether a delivery can go on to this stage."""
        return stage.name in _FOLLOWS[delivery.stage.name]

    def end(self, delivery: Delivery) -> None:
        """Have a delivery in charge no longer."""
        self.move(delivery, OVER)
        del self._by_id[delivery.id]
