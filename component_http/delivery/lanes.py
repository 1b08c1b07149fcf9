"""
The ways to several webhooks of one component: one for each of its routes, and one for its own webhook.

All deliveries of a component have one backlog, so that the order of each conversation is kept across its routes. Where
the turn of a delivery has come, but its webhook may not be asked now, it is parked: its place is another's.
"""

from __future__ import annotations

from collections import deque

from attrs import define, field

from component_http.contract.delivery import Delivery
from component_http.delivery.back_off import BackOffs
from component_http.delivery.forwarder import Forwarder
from component_http.delivery.life import READY


@define(eq=False)
class Lane:
    """
    The way to one webhook.

    Attributes:
        route: The name of its route; None for the component's own webhook.
        forwarder: Makes its attempts.
        back_offs: The waits of its deliveries.
    """

    route: str | None
    forwarder: Forwarder
    back_offs: BackOffs
    # Those whose turn had come, iqs apart; also some that have ended since.
    _iqs: deque[Delivery] = field(init=False, factory=deque)
    _others: deque[Delivery] = field(init=False, factory=deque)

    def park(self, delivery: Delivery) -> None:
        """Let one wait whose turn had come."""
        (self._iqs if delivery.stanza.kind == "iq" else self._others).append(delivery)

    def parked(self) -> Delivery | None:
        """The first that waits; None if none does."""
        for waiting in (self._iqs, self._others):
            while waiting:
                if waiting[0].stage is READY and waiting[0].route == self.route:
                    return waiting[0]
                waiting.popleft()
        return None

    def unpark(self) -> Delivery | None:
        """Let the first that waits go on."""
        delivery = self.parked()
        if delivery is not None:
            (self._iqs if delivery.stanza.kind == "iq" else self._others).popleft()
        return delivery

    @property
    def may_begin(self) -> bool:
        """Tell whether an attempt may begin now."""
        health = self.forwarder.health
        return health.no_more is not None or (health.has_place and not health.wait())
