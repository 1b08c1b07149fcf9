"""Explain why deliveries have not ended, for an operator who asks."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf, isinf

from attrs import frozen
from twisted.internet.interfaces import IReactorTime

from component_http.contract.delivery import Delivery
from component_http.contract.explanation import Explanation, HeldBy
from component_http.delivery.backlog import Backlog
from component_http.delivery.health import in_words
from component_http.delivery.lanes import Lane
from component_http.delivery.life import Lives, Wait
from component_http.delivery.outbox import Outbox
from component_http.delivery.returning import Returning

_BY_STAGE: dict[str, HeldBy] = {
    "running": "running",
    "asleep": "retry_after",
    "held": "loop_brake",
    "open": "open_iq",
    "left": "stopping",
    "ending": "ending",
}
"""The name of the wait, where the stage of a delivery alone says it."""


@frozen
class Explanations:
    """Explains deliveries. It only looks, and costs nothing while nobody asks."""

    _deliveries: Lives
    _backlog: Backlog
    _returning: Returning
    _lanes: Mapping[str | None, Lane]
    _outbox: Outbox
    _clock: IReactorTime

    def explain(self, delivery_id: str) -> Explanation | None:
        """Say why a delivery has not ended; None if it is not stored yet, or not here."""
        delivery = self._deliveries.get(delivery_id)
        if delivery is None:
            return Explanation("no_room") if delivery_id in self._returning else None
        if delivery.stage.name == "storing":
            return None
        failure = None if delivery.failure is None else in_words(delivery.failure)
        leader = self._backlog.leader(delivery.conversation)
        if delivery.stage.name == "ready" and leader != delivery_id:
            return Explanation("conversation", leader, last_failure=failure)
        held_by, wait = self._obstacle(delivery)
        return Explanation(held_by, None, None if isinf(wait) else max(0.0, wait), failure)

    def _obstacle(self, delivery: Delivery) -> tuple[HeldBy, float]:
        """Say what a delivery waits for whose turn it could be, and for how many seconds."""
        stage, health = delivery.stage, self._lanes[delivery.route].forwarder.health
        away = health.away()
        wait = stage.until - self._clock.seconds() if isinstance(stage, Wait) else inf
        if stage.name in _BY_STAGE:
            return _BY_STAGE[stage.name], wait if isinf(wait) else max(wait, away)
        if health.no_more is not None:
            return "webhook_gone", inf
        if health.paused:
            return "paused", away
        if isinf(away):
            return "webhook_probed", inf
        if health.breaker_state != "closed":
            return "webhook_away", away
        if away:
            return "retry_after", away
        if stage.name == "backing_off":
            return "backing_off", wait
        if self._outbox.crowded:
            return "outbox_full", inf
        pause = health.wait()
        if pause and pause == health.quota_wait():
            return "rate", pause
        return ("pace", pause) if pause else ("turn", inf)
