"""One component while it is served: in a run of the gateway, from its start or from when it was added."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.words.xish.domish import Element
from wokkel.subprotocols import XMPPHandler

from component_http.contract.address import Address
from component_http.contract.delivery import Delivery
from component_http.contract.link import LIFETIME as LINK_LIFETIME
from component_http.contract.link import link_path
from component_http.delivery.status import Status
from component_http.interfaces import Origin, Spool, Webhook
from component_http.log import Logger
from component_http.operations.view import ComponentView, WebhookView
from component_http.webhooks import adapt
from component_http.wiring import Lasting, assemble, handlers
from component_http.xmpp.intake import LateHandler


class Serving:
    """
    One component of a gateway that runs; made when it is to be served, and dropped when `finish` is over.

    Args:
        spool: That of all components.
        link_key: Returns the key of links for late replies; None while there is none.

    Attributes:
        lasting: The parts that outlive it.
        parts: Its own; `relay` and `outbox` are among them.
    """

    _log = Logger()

    def __init__(self, lasting: Lasting, spool: Spool, link_key: Callable[[], bytes | None]) -> None:
        self.lasting = lasting
        self._spool = spool
        self._link_key = link_key
        self.parts = assemble(lasting, spool, ask=self._ask, link=self._link)
        self.relay, self.outbox = self.parts.relay, self.parts.outbox
        self._handlers = handlers(lasting, self.parts)

    @property
    def domain(self) -> str:
        return self.lasting.domain

    @property
    def connected(self) -> bool:
        return self.lasting.outlet.connected

    # -- start --

    def add(self, handler: XMPPHandler) -> None:
        """Put one more handler on the stream; before `begin`."""
        self._handlers.append(handler)

    def begin(self) -> None:
        """Let pushes wait, and hear what a stream brings that somebody else owns: it is stored behind what is kept."""
        self.lasting.pushes.start()
        for handler in self._handlers:
            handler.setHandlerParent(self.lasting.stream)

    def restore(self, subscribers: Iterable[tuple[str, str]], *, is_empty: bool = False) -> None:
        """Let what the spool has kept leave, unless it is empty, and know these subscribers."""
        if not is_empty:
            self.outbox.read_all()
        self.lasting.subscribers.restore(subscribers, self._spool)

    def restore_deliveries(self, deliveries: Sequence[Delivery]) -> None:
        """Take in charge what the spool has kept."""
        if not self.lasting.has_webhook:
            self._log.warn(
                "{domain} has no webhook, so these deliveries become dead letters: {number}",
                domain=self.domain,
                number=len(deliveries),
            )
        self.relay.restore(deliveries)

    def open(self) -> None:
        """Take what the application pushes."""
        self.lasting.pushes.open(self.parts.sender)

    # -- while it runs --

    @property
    def origin(self) -> Origin:
        """The component, as one of those that stanzas of the API come from."""
        component, limits = self.lasting.settings.component, self.lasting.limits
        return Origin(self.parts.sender, Address.parse(component.default_sender), limits)

    def status(self) -> Status:
        """Tell the state between the stream and the webhooks."""
        ends = [each.certificate_ends for each in self.parts.clients.values()]
        return evolve(
            self.relay.status(), certificate_ends=min([each for each in ends if each is not None], default=None)
        )

    def view(self, status: Status | None) -> ComponentView:
        """Show it to those who watch the gateway, with this status."""
        webhooks = {
            route or "": WebhookView(health.state, health.failing_for, health.last_failure)
            for route, lane in self.relay.lanes.items()
            for health in [lane.forwarder.health]
        }
        unsent = self.lasting.outlet.unsent + self.outbox.waiting
        return ComponentView(status, self.connected, unsent, webhooks, self.lasting.outlet.certificate_ends)

    def wake(self) -> str:
        """Ask the webhook at once; returns its state."""
        self.relay.wake()
        return self.relay.status().webhook

    async def _ask(self, iq: Element, timeout: float) -> Element:
        """Ask an iq. Without an API that is rare, so only the first one adds the handler that hears the answers."""
        iq_requests = self.parts.iq_requests
        if iq_requests.parent is None:
            self._handlers.append(iq_requests)
            iq_requests.setHandlerParent(self.lasting.stream)
        return await iq_requests.ask(iq, timeout)

    def _link(self, delivery: Delivery) -> str | None:
        """Make the link for a late reply; None if there can be none."""
        key = self._link_key()
        if key is None:
            return None
        now = time.time()
        expires = now + LINK_LIFETIME
        if delivery.stanza.kind == "iq":
            expires = now + delivery.deadline - self.lasting.reactor.seconds()
        path = link_path(key, delivery.id, delivery.stanza, expires)
        return None if path is None else f"{self.lasting.settings.api.base_url or ''}{path}"

    def reload(self, lasting: Lasting, webhooks: Mapping[str | None, Webhook]) -> None:
        """
        Go by other settings from now on.

        Args:
            lasting: Has them.
            webhooks: Those that differ from before, as `wiring.new_webhooks` makes them.
        """
        before, self.lasting = self.lasting.settings, lasting
        for client in adapt(self.parts, before, lasting, webhooks, self._link):
            # Attempts that are under way end over its connections.
            closed = Deferred.fromCoroutine(client.close())
            closed.addErrback(lambda failure: self._log.failure("cannot close a webhook's client", failure=failure))

    # -- stop --

    async def drain(self, timeout: float | None) -> None:
        for handler in self._handlers:
            if isinstance(handler, LateHandler):
                handler.pause()
        await self.relay.drain(self.lasting.settings.delivery.drain_timeout if timeout is None else timeout)

    async def close(self) -> None:
        """After the drain: take nothing more from the application, leave the rooms, and close the webhook's client."""
        self.lasting.pushes.close()
        self.parts.entrances.leave()
        for client in self.parts.clients.values():
            await client.close()

    async def finish(self, *, lost: bool) -> None:
        """After the stream: leave it, count what is lost if it is, and give the room that is shared back."""
        for handler in self._handlers:
            handler.disownHandlerParent(self.lasting.stream)
        if lost:
            await self.outbox.count_lost()
        self.parts.backlog.close()
