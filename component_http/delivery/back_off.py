"""The waits between the attempts of a delivery."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from attrs import define
from twisted.internet.interfaces import IReactorTime

from component_http.contract.delivery import Delivery
from component_http.delivery.backlog import Backlog
from component_http.delivery.health import Health
from component_http.delivery.life import READY, Lives, Wait
from component_http.delivery.rounds import Conversation


@define(eq=False)
class BackOffs:
    """
    Lets deliveries wait for their next attempt: each has a timer, and its conversation waits with it.

    Args:
        deliveries: At which stage each of them is.
        backlog: Knows that they wait.
        health: Knows how the webhook is, and how often it was found to be back.
        clock: Runs the timers.
        when_ready: Called when one has waited long enough, and waits for its turn again.
    """

    _deliveries: Lives
    _backlog: Backlog
    _health: Health
    _clock: IReactorTime
    _when_ready: Callable[[], object]

    def __bool__(self) -> bool:
        """Tell whether some delivery backs off whose wait may end early."""
        return bool(self._deliveries.at("backing_off"))

    def begin(
        self, delivery: Delivery, seconds: float, how: Literal["backing_off", "asleep", "held"] = "backing_off"
    ) -> None:
        """
        Let a delivery wait whose turn it was.

        Args:
            how: `backing_off`: less long if the webhook is found to be back. `asleep`: so long as the webhook has asked
                for, or until somebody says that it is back. `held`: so long as the loop brake wants.
        """
        self._backlog.back_off(delivery.id)
        call = self._clock.callLater(seconds, self._over, delivery)
        self._deliveries.move(delivery, Wait(how, call, self._health.awakenings))

    def end_one(self) -> bool:
        """
        End the wait of the delivery that backs off longest, if nothing else is ready; returns whether it did.

        That is right while the webhook is probed, whatever each delivery waits for; one that is alone may itself be
        what the webhook fails on. And it is right for all that backed off before the webhook was back.
        """
        delivery = next(iter(self._deliveries.at("backing_off").values()), None)
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
            assert isinstance(stage, Wait)
            self._deliveries.move(delivery, Wait("backing_off", stage.call, stage.awakenings))

    def let_go(self, conversation: Conversation) -> None:
        """Hold nothing of a conversation any longer: it turns out to be no loop."""
        for delivery in self._deliveries.at("held").values():
            stage = delivery.stage
            if delivery.conversation == conversation and isinstance(stage, Wait):
                stage.call.reset(0)

    def _over(self, delivery: Delivery) -> None:
        self._deliveries.move(delivery, READY)
        self._backlog.ready_again(delivery.id)
        self._when_ready()
