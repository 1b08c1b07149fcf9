"""The waits between the attempts of a delivery."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from typing import Literal

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

from component_http.contract.delivery import Delivery
from component_http.delivery.alarm import Alarm
from component_http.delivery.backlog import Backlog
from component_http.delivery.health import Health
from component_http.delivery.life import READY, WAITS, Lives, Wait
from component_http.delivery.rounds import Conversation
from component_http.delivery.slices import SLICE


@define(eq=False)
class BackOffs:
    """
    Lets deliveries wait for their next attempt: all have one timer, and the conversation of each waits with it.

    Args:
        deliveries: At which stage each of them is.
        backlog: Knows that they wait.
        health: Knows how the webhook is, and how often it was found to be back.
        clock: Runs the timer.
        when_ready: Called when some have waited long enough, and wait for their turns again.
        route: Only deliveries of this route wait here.
    """

    _deliveries: Lives
    _backlog: Backlog
    _health: Health
    _clock: IReactorTime
    _when_ready: Callable[[], object]
    _route: str | None = None
    # Those that back off, the longest first; also some that have ended, or wait for something else by now.
    _waiting: dict[str, Delivery] = field(init=False, factory=dict)
    # The ends of waits, earliest first, also of some waits that have ended early; numbers make all of them different.
    _ends: list[tuple[float, int, Delivery]] = field(init=False, factory=list)
    _numbers: count[int] = field(init=False, factory=count)
    _alarm: Alarm = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._alarm = Alarm(self._clock, self._rings)

    def __bool__(self) -> bool:
        """Tell whether some delivery backs off whose wait may end early."""
        return bool(self._waiting) and self._longest() is not None

    def _longest(self) -> Delivery | None:
        """The delivery that backs off longest."""
        waiting = self._waiting
        while waiting:
            delivery = next(iter(waiting.values()))
            if delivery.stage.name == "backing_off" and delivery.route == self._route:
                return delivery
            del waiting[delivery.id]
        return None

    def begin(
        self, delivery: Delivery, seconds: float, how: Literal["backing_off", "asleep", "held"] = "backing_off"
    ) -> None:
        """
        Let a delivery wait whose turn it was.

        Args:
            how: `backing_off`: less long if the webhook is found to be back. `asleep`: so long as the webhook has asked
                for, or until somebody says that it is back. `held`: so long as the loop brake wants.
        """
        until = self._clock.seconds() + seconds
        self._backlog.back_off(delivery.id)
        self._deliveries.move(delivery, Wait(how, until, self._health.awakenings))
        self._waiting.pop(delivery.id, None)
        if how == "backing_off":
            self._waiting[delivery.id] = delivery
        self._ring_at(until, delivery)
        self._alarm.set(seconds)

    def end_one(self) -> bool:
        """
        End the wait of the delivery that backs off longest, if nothing else is ready; returns whether it did.

        That is right while the webhook is probed, whatever each delivery waits for; one that is alone may itself be
        what the webhook fails on. And it is right for all that backed off before the webhook was back.
        """
        delivery = self._longest()
        if delivery is None or self._backlog.ready:
            return False
        stage = delivery.stage
        assert isinstance(stage, Wait)
        probing = self._health.breaker_state != "closed" and self._backlog.conversations > 1
        if not probing and stage.awakenings == self._health.awakenings:
            return False
        self._deliveries.stop(delivery, READY)
        self._backlog.ready_again(delivery.id)
        return True

    def wake(self) -> None:
        """Let nobody sleep on: somebody knows that the webhook is back."""
        for delivery in list(self._deliveries.at("asleep").values()):
            stage = delivery.stage
            if delivery.route == self._route and isinstance(stage, Wait):
                self._deliveries.move(delivery, Wait("backing_off", stage.until, stage.awakenings))
                self._waiting[delivery.id] = delivery

    def let_go(self, conversation: Conversation) -> None:
        """Hold nothing of a conversation any longer: it turns out to be no loop."""
        for delivery in self._deliveries.at("held").values():
            stage = delivery.stage
            if delivery.conversation == conversation and delivery.route == self._route and isinstance(stage, Wait):
                stage.until = self._clock.seconds()
                self._ring_at(stage.until, delivery)
                self._alarm.set(0.0)

    def stop(self) -> None:
        """End no more waits."""
        self._alarm.cancel()
        self._ends.clear()

    def _ring_at(self, until: float, delivery: Delivery) -> None:
        if len(self._ends) > 2 * sum(len(self._deliveries.at(name)) for name in WAITS) + SLICE:
            self._ends = [each for each in self._ends if _waits_until(each[0], each[2])]
            heapify(self._ends)
            self._waiting = {name: each for name, each in self._waiting.items() if each.stage.name == "backing_off"}
        heappush(self._ends, (until, next(self._numbers), delivery))

    def _rings(self) -> None:
        now, ended = self._clock.seconds(), 0
        while self._ends and self._ends[0][0] <= now and ended < SLICE:
            until, _, delivery = heappop(self._ends)
            if _waits_until(until, delivery):
                self._deliveries.move(delivery, READY)
                self._backlog.ready_again(delivery.id)
                ended += 1
        self._alarm.set(self._ends[0][0] - now if self._ends else inf)
        if ended:
            self._when_ready()


def _waits_until(until: float, delivery: Delivery) -> bool:
    return isinstance(delivery.stage, Wait) and delivery.stage.until == until
