"""One run of the gateway, from its start to its stop."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from secrets import token_bytes
from typing import TYPE_CHECKING

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.words.xish.domish import Element

from component_http.contract.delivery import Delivery
from component_http.contract.link import KEY_BYTES, link_path
from component_http.contract.link import LIFETIME as LINK_LIFETIME
from component_http.delivery.status import Status
from component_http.errors import SpoolError
from component_http.log import Logger
from component_http.sizing import api_connections
from component_http.throttle import LOG_INTERVAL, Throttle
from component_http.webhook.client import WebhookClient
from component_http.wiring import Lasting, adapt, assemble, handlers, new_id
from component_http.xmpp.entrances import Entrances
from component_http.xmpp.intake import LateHandler

if TYPE_CHECKING:
    from component_http.api.routes import Api
    from component_http.api.server import ApiServer
    from component_http.caretaker import Caretaker
    from component_http.spool.database import SpoolLock

RESTORE_AGAIN = 5.0
"""Seconds after which a spool that could not be read is read again."""


class Running:
    """
    The gateway while it runs; made by its start, and dropped when `stop` is over.

    Args:
        lock: The lock of the spool's file, which is released by the stop; None for a spool in memory.

    Attributes:
        stops: Fired by the owner when the stop is over; not empty means that it has begun.
    """

    _log = Logger()

    def __init__(self, lasting: Lasting, lock: SpoolLock | None) -> None:
        self._lasting = lasting
        self._lock = lock
        self._parts = assemble(lasting, lock, ask=self._ask, link=self._link)
        self._handlers = handlers(lasting, self._parts)
        self._restoring: Deferred[None] | None = None
        self._caretaker: Caretaker | None = None
        self._link_key: bytes | None = None
        self._client = self._parts.client
        self._api: Api | None = None
        self._api_server: ApiServer | None = None
        self.stops: list[Deferred[None]] = []

    # -- start --

    def start(self, serve: Callable[[], object]) -> None:
        """
        Begin: with a spool on disk its content is read first.

        `serve` starts the stream; it is called as soon as nothing from before can be overtaken.
        """
        lasting, spool = self._lasting, self._parts.spool
        lasting.pushes.start()
        # A stream that somebody else owns may bring stanzas at once; they are stored behind what is restored.
        for handler in self._handlers:
            handler.setHandlerParent(lasting.stream)
        if spool.durable:
            self._restoring = Deferred.fromCoroutine(self._restore(serve))
            self._restoring.addErrback(self._not_restored)
        else:
            lasting.subscribers.restore((), spool)
            serve()
            spool.key().addCallback(self._open)

    async def _restore(self, serve: Callable[[], object]) -> None:
        lasting, spool, relay, outbox = self._lasting, self._parts.spool, self._parts.relay, self._parts.outbox
        # The first are asked for at once, so that what is stored meanwhile is stored behind them.
        deliveries = await self._restored()
        others, key = spool.subscribers(), spool.key()
        for each in (others, key):
            each.addErrback(_nothing_there)
        subscribers, self._link_key = await others or (), await key
        outbox.read_all()
        lasting.subscribers.restore(subscribers, spool)
        number = 0
        while deliveries:
            # They are POSTed from now on; but the stream waits, for what comes is behind all of them.
            number += len(deliveries)
            relay.restore(deliveries)
            deliveries = await self._restored()
        if number:
            self._log.info("deliveries from the spool: {number}", number=number)
            if not lasting.has_webhook:
                self._log.warn("there is no webhook, so they become dead letters")
        self._restoring = None
        serve()
        self._open(self._link_key)
        from component_http.caretaker import Caretaker

        self._caretaker = Caretaker(
            spool, relay, outbox, connected=lambda: lasting.outlet.connected, wake=self.wake, clock=lasting.reactor
        )

    async def _restored(self) -> list[Delivery]:
        """Read the next deliveries from the spool, again and again until that works."""
        throttle = Throttle(LOG_INTERVAL)
        while True:
            try:
                return await self._parts.spool.restore()
            except SpoolError as error:
                if throttle.may_tell(str(error), self._lasting.reactor.seconds()):
                    self._log.error(
                        "nothing is served until the spool can be read: {reason}; the gateway tries again every"
                        " {again:g} seconds",
                        reason=str(error),
                        again=RESTORE_AGAIN,
                    )
            await deferLater(self._lasting.reactor, RESTORE_AGAIN)

    def _not_restored(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("nothing is served", failure=failure)

    def _open(self, link_key: bytes | None) -> None:
        """Take what is pushed, by the application and by the API."""
        self._link_key = link_key
        lasting = self._lasting
        lasting.pushes.open(self._parts.sender)
        if lasting.hooks is None:
            return
        from component_http.api_service import api_server

        self._api, self._api_server = api_server(
            lasting.settings,
            lasting.reactor,
            self._parts.sender,
            lasting.counters,
            lasting.hooks,
            link_key or token_bytes(KEY_BYTES),  # if the key could not be read, no link is ours
            self.wake,
            limits=lasting.limits,
            new_id=new_id,
            max_connections=api_connections(lasting.settings),
        )
        self._api_server.startService()

    # -- while it runs --

    @property
    def entrances(self) -> Entrances:
        return self._parts.entrances

    def status(self) -> Status:
        status = self._parts.relay.status()
        if self._restoring is None:
            return status
        return evolve(status, obstacles=(*status.obstacles, "the spool has not been read yet"))

    def wake(self) -> str:
        if self.stops:
            return "stopping"
        self._log.info("wake requested: the webhook is asked at once")
        self._parts.relay.wake()
        return self._parts.relay.status().webhook

    async def _ask(self, iq: Element, timeout: float) -> Element:
        """Ask an iq. Without an API that is rare, so only the first one adds the handler that hears the answers."""
        iq_requests = self._parts.iq_requests
        if iq_requests.parent is None:
            self._handlers.append(iq_requests)
            iq_requests.setHandlerParent(self._lasting.stream)
        return await iq_requests.ask(iq, timeout)

    def _link(self, delivery: Delivery) -> str | None:
        """Make the link for a late reply; None if there can be none."""
        if self._link_key is None:
            return None
        now = time.time()
        expires = now + LINK_LIFETIME
        if delivery.stanza.kind == "iq":
            expires = now + delivery.deadline - self._lasting.reactor.seconds()
        path = link_path(self._link_key, delivery.id, delivery.stanza, expires)
        return None if path is None else f"{self._lasting.settings.api.base_url or ''}{path}"

    def reload(self, lasting: Lasting, client: WebhookClient | None) -> None:
        """
        Go by other settings from now on.

        Args:
            lasting: Has them.
            client: The client for the webhook, made of them; None where the application has a webhook of its own, or
                nothing about it has changed.
        """
        before, self._lasting = self._lasting.settings, lasting
        moved = before.component.component_post_url != lasting.settings.component.component_post_url
        adapt(self._parts, lasting, client, moved=moved, changed=moved or before.webhook != lasting.settings.webhook)
        if client is not None and self._client is not None:
            # Attempts that are under way end over the connections of the former client.
            closed = Deferred.fromCoroutine(self._client.close())
            closed.addErrback(lambda failure: self._log.failure("cannot close a webhook's client", failure=failure))
            self._client = client
        if self._api is not None and lasting.hooks is not None:
            from component_http.api_service import api_tokens

            self._api.use(api_tokens(lasting.settings), lasting.hooks)

    # -- stop --

    async def drain(self, timeout: float | None) -> None:
        for handler in self._handlers:
            if isinstance(handler, LateHandler):
                handler.pause()
        await self._parts.relay.drain(self._lasting.settings.delivery.drain_timeout if timeout is None else timeout)

    async def stop(self, close_stream: Callable[[], Awaitable[object]]) -> None:
        """Drain, then close everything, and release the spool; `close_stream` stops the stream, if it was started."""
        lasting, parts = self._lasting, self._parts
        if self._restoring is not None:
            self._restoring.cancel()
        await self.drain(None)
        if self._api_server is not None:
            await self._api_server.stopService()
        lasting.pushes.close()
        parts.entrances.leave()
        if self._caretaker is not None:
            self._caretaker.stop()
        if self._client is not None:
            await self._client.close()
        await close_stream()
        for handler in self._handlers:
            handler.disownHandlerParent(lasting.stream)
        await parts.outbox.count_lost()
        await parts.spool.close()
        if self._lock is not None:
            self._lock.release()


def _nothing_there(failure: Failure) -> None:
    """Do without: a subscriber is known again when he asks again, and without a key there are no links to reply by."""
    failure.trap(SpoolError)
