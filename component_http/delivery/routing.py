"""The routes of a component at work: which way a delivery goes, and how the webhooks on all ways are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from component_http.contract.delivery import Delivery
from component_http.contract.request import body_of, body_of_request
from component_http.contract.routes import Routes
from component_http.contract.stanza import Stanza
from component_http.delivery.back_off import BackOffs
from component_http.delivery.backlog import Backlog
from component_http.delivery.forwarder import Forwarder
from component_http.delivery.health import NO_WEBHOOK, Health, NoMore
from component_http.delivery.lanes import Lane
from component_http.delivery.life import READY, Lives
from component_http.delivery.status import STATES
from component_http.errors import SpoolError
from component_http.interfaces import DeliverySpool


class Routing:
    """
    Finds the way of each delivery: by a route, or to the component's own webhook.

    Args:
        deliveries: All that are in charge.
        backlog: Whose turn it is, whatever way they go.
        spool: Has the request bodies, for those whose route goes.
        clock: Runs the waits.
        start: Called when some may begin.
        own: Makes the attempts at the component's own webhook.
        routes: The routes, in order.
        forwarders: Make the attempts of each of them, by their names.

    Attributes:
        lanes: The way to each webhook, by the names of the routes; None is the component's own.
    """

    def __init__(
        self,
        deliveries: Lives,
        backlog: Backlog,
        spool: DeliverySpool,
        clock: IReactorTime,
        start: Callable[[], object],
        own: Forwarder,
        routes: Routes,
        forwarders: Mapping[str, Forwarder],
    ) -> None:
        self._deliveries = deliveries
        self._backlog = backlog
        self._spool = spool
        self._clock = clock
        self._start = start
        self._routes = routes
        self.lanes: dict[str | None, Lane] = {None: self._lane(None, own)}
        self.lanes.update({name: self._lane(name, forwarder) for name, forwarder in forwarders.items()})

    def __bool__(self) -> bool:
        """There are routes."""
        return bool(self._routes)

    def _lane(self, route: str | None, forwarder: Forwarder) -> Lane:
        back_offs = BackOffs(self._deliveries, self._backlog, forwarder.health, self._clock, self._start, route)
        return Lane(route, forwarder, back_offs)

    def way(self, stanza: Stanza) -> str | None:
        """Find the route that takes a stanza; None for the component's own webhook."""
        routes = self._routes
        return routes.of(stanza, body_of(stanza) if routes.needs_body else None) if routes else None

    def lacks(self, delivery: Delivery) -> bool:
        """Tell whether a delivery is for a route that is gone."""
        return delivery.route is not None and delivery.route not in self._routes

    def find_again(self, delivery: Delivery, body: bytes) -> None:
        """Find the way of a delivery anew, by its request body."""
        delivery.route = self._routes.of(delivery.stanza, body_of_request(body))

    def use(self, routes: Routes, forwarders: Mapping[str, Forwarder]) -> None:
        """
        Go by other routes from now on. What waits for one that is gone is routed anew; an attempt that is under way
        ends where it began.

        Args:
            forwarders: Make the attempts of routes that are new.
        """
        self._routes = routes
        pause = max(lane.forwarder.health.paused_until for lane in self.lanes.values()) - self._clock.seconds()
        for forwarder in forwarders.values() if pause > 0 else ():
            forwarder.health.hold(pause)
        self.lanes.update({name: self._lane(name, forwarder) for name, forwarder in forwarders.items()})
        for lane in self.lanes.values():
            while (parked := lane.unpark()) is not None:
                self._backlog.ready_again(parked.id)

    def find_lost(self) -> None:
        """Find the way anew of all that wait for a route that is gone."""
        for delivery in [each for each in self._deliveries if self.lacks(each)]:
            self._spool.body(delivery.id).addCallbacks(self._found, _forget_failure, (delivery,))

    def _found(self, body: bytes, delivery: Delivery) -> None:
        self.find_again(delivery, body)
        if delivery.stage is READY and self._backlog.backs_off(delivery.id):
            self._backlog.ready_again(delivery.id)  # it was parked meanwhile
        self._start()

    @property
    def answers(self) -> bool:
        """Some webhook answers, so that what waits will have its turn."""
        return any(lane.forwarder.health.answers for lane in self.lanes.values())

    @property
    def health(self) -> Health:
        """The health of the webhook that is least well."""
        found = [lane.forwarder.health for name, lane in self.lanes.items() if name is None or name in self._routes]
        if len(found) > 1:
            found = [health for health in found if health.no_more is not NO_WEBHOOK]
        return min(found, key=lambda health: STATES.index(health.state))

    @property
    def paused(self) -> bool:
        """An operator has paused some webhook."""
        return any(lane.forwarder.health.paused for lane in self.lanes.values())

    @property
    def no_more(self) -> NoMore | None:
        """Why nothing is POSTed any more, whatever comes; None while something may be."""
        return None if self._routes else self.lanes[None].forwarder.health.no_more

    def stop(self) -> None:
        """End no more waits."""
        for lane in self.lanes.values():
            lane.back_offs.stop()


def _forget_failure(failure: Failure) -> None:
    """Leave a delivery on the way that is gone: its deadline ends it."""
    failure.trap(SpoolError)
