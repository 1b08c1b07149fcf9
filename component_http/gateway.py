"""The gateway, put together: every door ends here."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from random import Random
from secrets import token_bytes, token_hex
from typing import Any
from uuid import uuid4

from attrs import evolve
from twisted.application.service import MultiService
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.words.xish.domish import Element
from wokkel.subprotocols import StreamManager, XMPPHandler

from component_http import __version__
from component_http.api.server import ApiServer
from component_http.api_service import api_hooks, api_server, see_port
from component_http.clock import steady_reactor
from component_http.contract import composing, reply
from component_http.contract.address import Address
from component_http.contract.composing import MAX_REPLIES, Composed
from component_http.contract.conditions import error_of_status
from component_http.contract.delivery import Delivery
from component_http.contract.link import KEY_BYTES, link_path
from component_http.contract.link import LIFETIME as LINK_LIFETIME
from component_http.contract.outbound import LIFETIMES, OutboundStanza
from component_http.contract.xml import Limits
from component_http.delivery.backlog import Backlog, BacklogLimits
from component_http.delivery.bounces import Bounces
from component_http.delivery.breaker import Breaker
from component_http.delivery.deadlines import LATE_SECONDS, Times
from component_http.delivery.dispatch import Dispatch
from component_http.delivery.fates import Fates
from component_http.delivery.forwarder import Forwarder
from component_http.delivery.load import Load
from component_http.delivery.loop_brake import LoopBrake
from component_http.delivery.loop_guard import LoopGuard
from component_http.delivery.loops import Loops
from component_http.delivery.outbox import Outbox
from component_http.delivery.pushes import Pushes
from component_http.delivery.relay import Relay, Status
from component_http.delivery.retry import RetryPolicy
from component_http.errors import SettingsError, SpoolError, SpoolUnusable
from component_http.interfaces import AnswerFunction, Found, Outlet, ReplyObjects, Spool, Stream, Valve, Webhook
from component_http.operations.metrics import Counters
from component_http.settings import DeliverySettings, Settings
from component_http.spool import database
from component_http.spool.memory import MemorySpool
from component_http.spool.sqlite import SqliteSpool
from component_http.throttle import LOG_INTERVAL, Throttle
from component_http.tls import client_endpoint
from component_http.webhook.client import WebhookClient
from component_http.webhook.function import FunctionWebhook
from component_http.xmpp.entrances import Entrances
from component_http.xmpp.intake import LateHandler, StanzaIntake
from component_http.xmpp.iq_requests import IqRequests
from component_http.xmpp.presence import AlwaysAvailable
from component_http.xmpp.rooms import Rooms
from component_http.xmpp.stream import BorrowedStream, ComponentStream
from component_http.xmpp.subscribers import Subscribers
from component_http.xmpp.wellknown import WellKnown
from component_http.xmpp.writer import MAX_UNCONFIRMED

__all__ = ["Gateway", "webhook_client"]

RESTORE_AGAIN = 5.0
"""Seconds after which a spool that could not be read is read again."""

FILES_BESIDE = 24
"""
Files that the process may open beside connections to the webhook and to the API: the stream, the spool's, the log, and
what Python and Twisted need. Without them a lost stream could not be connected again while these are busy.
"""


LOOK_INTERVAL = 1.0
"""Seconds between two looks after a spool on disk: whoever retries a dead letter does not want to wait."""


class Gateway(MultiService):
    """
    XMPP on one side, a webhook on the other; a Twisted service.

    `Gateway(settings, reactor).setServiceParent(parent)` is all an application needs. Nothing is opened before
    `startService`.

    Args:
        settings: What to serve and how, already checked.
        reactor: The reactor the application runs.
        manager: A StreamManager with a component's stream of your own to serve instead of opening one. Such a stream
            keeps the contract with the webhook, but not the protections of ours (see `BorrowedStream`).
        webhook: Where deliveries go, instead of `component_post_url`; it is not closed by the gateway.
        answer: A function that answers deliveries, instead of either. Each attempt may take `webhook.timeout`.

    Raises:
        SettingsError: There is neither a webhook nor an API, or the webhook's settings cannot be used.

    Attributes:
        counters: How often each thing happened so far.
        stream: The stream that the handlers are on.
        outlet: The stream as a way out: it keeps what cannot be sent now, and says when it is crowded.
    """

    _log = Logger()

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        *,
        manager: StreamManager | None = None,
        webhook: Webhook | None = None,
        answer: AnswerFunction | None = None,
    ) -> None:
        if webhook is not None and answer is not None:
            raise TypeError("a gateway has a webhook or an answer function, not both")
        super().__init__()
        if (webhook, answer, settings.component.component_post_url, settings.api.listen) == (None, None, None, None):
            raise SettingsError(
                "component.component_post_url is missing, and so is api.listen: without a webhook and without an API"
                " there is nothing to do"
            )
        self.counters = Counters()
        self._settings = settings
        # Setting the machine's clock moves no timer of this one.
        self._reactor = reactor = steady_reactor(reactor)
        if answer is not None:
            webhook = FunctionWebhook(answer, timeout=settings.webhook.timeout, clock=reactor)
        self._webhook = webhook
        self._random = Random()
        self._limits = Limits(max_bytes=settings.component.max_stanza_bytes)
        self._rooms = Rooms()
        self._subscribers = Subscribers(settings.component.domain)
        self._client = None if webhook is not None else webhook_client(settings, reactor)
        self._has_webhook = webhook is not None or self._client is not None
        self._relay: Relay | None = None
        self._outbox: Outbox | None = None
        self._spool: Spool | None = None
        self._spool_lock: database.SpoolLock | None = None
        self._restoring: Deferred[None] | None = None
        self._looking: LoopingCall | None = None
        self._hooks = None if settings.api.listen is None else api_hooks(settings)
        self._pushes = Pushes(self._composed)
        self._iq_requests: IqRequests | None = None
        self._bounces: Bounces | None = None
        self._entrances: Entrances | None = None
        self._link_key: bytes | None = None
        self._prepared = False
        self._api: ApiServer | None = None
        self._handlers: list[XMPPHandler] = []
        self._stopping: list[Deferred[None]] = []
        self.stream: Stream
        self.outlet: Outlet
        self._valve: Valve
        if manager is None:
            stream = _component_stream(
                settings,
                reactor,
                self._limits,
                self.counters,
                self._rooms,
                sent=self._has_left,
                first=self._first_of_stream,
            )
            stream.setServiceParent(self)
            self.stream = self.outlet = self._valve = stream
        else:
            borrowed = BorrowedStream(
                manager, settings.component.domain, self._limits, self.counters, sent=self._has_left
            )
            self.stream, self.outlet, self._valve = manager, borrowed, borrowed

    def addHandler(self, handler: XMPPHandler) -> None:
        """Put a wokkel protocol handler on the gateway's stream; it sees each stanza before the webhook does."""
        handler.setHandlerParent(self.stream)

    def prepare(self, *, set_aside: bool = False, user: int | None = None) -> None:
        """
        Take the spool's file, see that it can be used, and bring it up to date; nothing for a spool in memory.

        `startService` does it where it has not been done. Do it before, where an error should come early: before the
        process goes into the background, or before the reactor runs, for the file is read once.

        Args:
            set_aside: A file that cannot be used is renamed, and an empty one takes its place.
            user: Who this process will run as when it starts, and whose the spool's files must be; None for its user.

        Raises:
            SettingsError: It cannot be used, or another gateway has it; or the API's port is in use.
        """
        if self._prepared:
            return
        path = self._settings.spool.file()
        if path is None:
            see_port(self._settings)
            self._prepared = True
            return
        # First the lock: another gateway with these settings has the port as well, and who that is the lock knows.
        lock = database.lock(path, user=user, warn=self._warn)
        try:
            see_port(self._settings)
            try:
                database.prepare(lock.path, user=user, warn=self._warn)
            except SpoolUnusable as error:
                if not set_aside:
                    raise
                self._log.error("{error}; it is {aside} now", error=str(error), aside=database.quarantine(lock.path))
                database.prepare(lock.path, user=user, warn=self._warn)
        except BaseException:
            lock.release()
            raise
        self._spool_lock = lock
        self._prepared = True

    def _warn(self, warning: str) -> None:
        self._log.warn("{warning}", warning=warning)

    def startService(self) -> None:
        if self._stopping:
            raise RuntimeError("the gateway is stopping: wait for stopService before starting it again")
        self.prepare()
        for warning in self._settings.warnings():
            self._warn(warning)
        self._see_how_many_files()
        self._say_what_is_served()
        self._spool = spool = self._new_spool()
        self._pushes.start()
        self._iq_requests = IqRequests(self.outlet, self._reactor, lambda: token_hex(16))
        fates = Fates()
        self._bounces = Bounces(spool, self.counters, self._reactor.seconds, fates)
        self._entrances = entrances = self._new_entrances()
        self._outbox = outbox = self._new_outbox(spool, fates)
        self._relay = relay = self._new_relay(spool, outbox)
        # On a stream of somebody else's they may hear at once. What comes before all is restored is stored behind it.
        self._handlers = [*self._new_handlers(relay, self._bounces, entrances), entrances]
        if self._hooks is not None:
            self._handlers.append(self._iq_requests)
        for handler in self._handlers:
            handler.setHandlerParent(self.stream)
        if spool.durable:
            self._restoring = Deferred.fromCoroutine(self._restore(spool, relay, outbox))
            self._restoring.addErrback(self._not_restored)
        else:
            self._subscribers.restore((), spool)
            super().startService()
            spool.key().addCallback(self._open)

    def _has_left(self, outbound: OutboundStanza) -> None:
        """A stanza leaves, whoever sends it."""
        self._rooms.sent(outbound)
        if outbound.kind == "presence" and self._entrances is not None:
            self._entrances.sent(outbound)

    def _first_of_stream(self) -> Iterable[Element | OutboundStanza]:
        return () if self._entrances is None else self._entrances.first()

    async def _ask(self, iq: Element, timeout: float) -> Element:
        """Ask, and listen for answers from now on: without the API they are rarely waited for."""
        assert self._iq_requests is not None
        if self._iq_requests.parent is None:
            self._handlers.append(self._iq_requests)
            self._iq_requests.setHandlerParent(self.stream)
        return await self._iq_requests.ask(iq, timeout)

    def _is_pushed(self, number: int, outbound: OutboundStanza) -> None:
        """A stanza that nobody has asked for is about to leave."""
        if self._bounces is not None:
            self._bounces.pushed(number, outbound)
        if outbound.delivery_id is None and self._entrances is not None:
            self._entrances.expect(outbound)

    def _say_what_is_served(self) -> None:
        """For the top of a log: what somebody who reads it at night would ask first."""
        component = self._settings.component
        kinds = ", ".join(component.component_post_stanzas)
        self._log.info(
            "component-http {version} serves {domain}: {posted}; the spool is {spool}",
            version=__version__,
            domain=component.domain,
            posted=component.posted if self._webhook is None else f"{kinds} to the application itself",
            spool="in memory" if self._spool_lock is None else self._spool_lock.path,
        )

    def _see_how_many_files(self) -> None:
        settings = self._settings
        found = [("webhook", settings.webhook.max_connections, _connections(settings))] if self._has_webhook else []
        if settings.api.listen is not None:
            found.append(("api", settings.api.max_connections, _api_connections(settings)))
        for table, wanted, affordable in found:
            if affordable < wanted:
                self._log.warn(
                    "{table}.max_connections is {wanted}, but this process may have {files} files open (ulimit -n, or"
                    " LimitNOFILE of its unit): there are at most {affordable} connections at once",
                    table=table,
                    wanted=wanted,
                    files=_open_files(),
                    affordable=affordable,
                )

    async def _restore(self, spool: Spool, relay: Relay, outbox: Outbox) -> None:
        # The first are asked for at once, so that what is stored meanwhile is stored behind them.
        deliveries = await self._patiently(spool.restore)
        others, key = spool.subscribers(), spool.key()
        for each in (others, key):
            each.addErrback(_nothing_there)
        subscribers, self._link_key = await others or (), await key
        outbox.read_all()
        self._subscribers.restore(subscribers, spool)
        number = 0
        while deliveries:
            # They are POSTed from now on; but the stream waits, for what comes is behind all of them.
            number += len(deliveries)
            relay.restore(deliveries)
            deliveries = await self._patiently(spool.restore)
        if number:
            self._log.info("{number} deliveries from the spool", number=number)
            if not self._has_webhook:
                self._log.warn("there is no webhook, so they become dead letters")
        self._restoring = None
        super().startService()
        self._open(self._link_key)
        self._looking = LoopingCall(self._look, spool, relay, outbox)
        self._looking.clock = self._reactor
        self._looking.start(LOOK_INTERVAL)

    async def _patiently(self, restore: Callable[[], Deferred[list[Delivery]]]) -> list[Delivery]:
        """Read the next from the spool, again and again until that works."""
        throttle = Throttle(LOG_INTERVAL)
        while True:
            try:
                return await restore()
            except SpoolError as error:
                if throttle.may_tell(str(error), self._reactor.seconds()):
                    self._log.error("nothing is served until the spool can be read: {reason}", reason=str(error))
            await deferLater(self._reactor, RESTORE_AGAIN)

    def _open(self, link_key: bytes | None) -> None:
        """Take what is pushed: by the application, and by the API where there is to be one."""
        self._link_key = link_key
        assert self._spool is not None and self._outbox is not None and self._relay is not None
        assert self._iq_requests is not None and self._bounces is not None and self._entrances is not None
        sender = Dispatch(
            self._spool,
            self._outbox,
            self._relay,
            self._bounces,
            ask=self._iq_requests.ask,
            enter=self._entrances.enter,
            when_sent=self.outlet.when_sent,
            clock=self._reactor,
        )
        self._pushes.open(sender)
        if self._hooks is None:
            return
        # Where the key could not be read, no link is ours.
        key = link_key or token_bytes(KEY_BYTES)
        self._api = api_server(
            self._settings,
            self._reactor,
            sender,
            self.counters,
            self._hooks,
            key,
            self.wake,
            max_connections=_api_connections(self._settings),
        )
        self._api.startService()

    def _link(self, delivery: Delivery) -> str | None:
        """By what the webhook can reply to a delivery late."""
        if self._link_key is None:
            return None
        now = time.time()
        expires = now + LINK_LIFETIME
        if delivery.stanza.kind == "iq":
            expires = now + delivery.deadline - self._reactor.seconds()
        path = link_path(self._link_key, delivery.id, delivery.stanza, expires)
        return None if path is None else f"{self._settings.api.base_url or ''}{path}"

    def _look(self, spool: Spool, relay: Relay, outbox: Outbox) -> Deferred[None]:
        found = spool.look({"webhook": relay.status().webhook}, relay.room_to_return)
        return found.addCallback(self._found, relay, outbox).addErrback(self._not_looked)

    def _found(self, found: Found, relay: Relay, outbox: Outbox) -> None:
        relay.take_back(found.deliveries)
        relay.drop(found.dropped_deliveries)
        if found.dropped_outbound:
            outbox.dropped(found.dropped_outbound)
        if found.outbound_stanzas:
            outbox.read_all()
        if found.wake:
            self.wake()

    def _not_looked(self, failure: Failure) -> None:
        """What a full disk keeps from being done now is done when there is room; the relay says what comes of it."""
        if not failure.check(SpoolError):
            self._log.failure("cannot look after the spool", failure=failure)

    def _not_restored(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("nothing is served", failure=failure)

    def status(self) -> Status | None:
        """How things stand between the stream and the webhook; None before the start and after the stop."""
        if self._relay is None:
            return None
        status = self._relay.status()
        if self._restoring is None:
            return status
        return evolve(status, obstacles=(*status.obstacles, "the spool has not been read yet"))

    async def push(self, objects: ReplyObjects, *, kind: str = "message", until_sent: bool = False) -> list[str]:
        """
        Send stanzas that answer nothing, as `POST /v1/stanzas` of the API does.

        They are kept by the spool when this returns, all of them or none, and leave in their order. Cancelling it ends
        the waiting, and nothing else. A push between `startService` and the moment when the spool has been read waits
        for that moment.

        Args:
            objects: One reply object, or several; each with `to`. Without `from` it comes from `component.sender`, or
                else from the bare domain.
            kind: The kind of a stanza whose object does not name one.
            until_sent: Wait until the server is known to have them, not only until they are kept.

        Returns:
            The ids of the stanzas, in order.

        Raises:
            component_http.errors.ReplyRefused: One of the objects cannot be used, so none is.
            component_http.errors.SpoolError: They cannot be kept now: the disk is full, too much waits to be sent, or
                the gateway is not running.
            component_http.errors.RoomRefused: A chat room that one is to be said in does not let its sender in, so none
                is kept.
            component_http.errors.Bounced: One came back as an error; this is a `NotSent`.
            component_http.errors.NotSent: They were kept, but could not be sent in their time; or the gateway was
                stopped before that was known, and a spool on disk still has them.
        """
        return await self._pushes.push(objects, kind, until_sent=until_sent)

    def _composed(self, objects: Iterable[Mapping[str, object]], kind: str) -> Composed:
        component = self._settings.component
        return composing.push(
            objects,
            domain=component.domain,
            limits=self._limits,
            new_id=_new_id,
            sender=Address.parse(component.default_sender),
            kind=kind,
        )

    def wake(self) -> str:
        """
        Ask the webhook at once, whatever was to be waited for: somebody knows that it is back.

        Returns:
            How it is, as in `Status.webhook`; `stopping` if it is not asked any more.
        """
        if self._relay is None or self._stopping:
            return "stopping"
        self._log.info("somebody says that the webhook is back: it is asked at once")
        self._relay.wake()
        return self._relay.status().webhook

    def drain(self, timeout: float | None = None) -> Deferred[None]:
        """
        Accept nothing more, and let what is accepted end; `stopService` begins with this.

        Until the gateway is stopped it stays connected and refuses what comes.

        Args:
            timeout: Seconds after which what has not ended is answered with a wait error, or stays in a spool on disk,
                but for iqs; None for `drain_timeout`. Of several drains the earliest end counts, so that `drain(0)`
                cuts one short.

        Returns:
            Fires when nothing is under way any more.
        """
        if self._relay is None:
            return succeed(None)
        for handler in self._handlers:
            if isinstance(handler, LateHandler):
                handler.rest()
        seconds = self._settings.delivery.drain_timeout if timeout is None else timeout
        return Deferred.fromCoroutine(self._relay.drain(seconds))

    def stopService(self) -> Deferred[None]:
        """Drain, then close the stream and the spool; fires when all is done."""
        if self._relay is None:
            return succeed(None)
        stopped: Deferred[None] = Deferred()
        self._stopping.append(stopped)
        if len(self._stopping) == 1:
            Deferred.fromCoroutine(self._stop()).addBoth(self._stopped)
        return stopped

    async def _stop(self) -> None:
        if self._restoring is not None:
            self._restoring.cancel()
        await self.drain()
        if self._api is not None:
            await self._api.stopService()
        self._pushes.close()
        if self._entrances is not None:
            self._entrances.leave()
        if self._looking is not None and self._looking.running:
            self._looking.stop()
        if self._client is not None:
            await self._client.close()
        if self.running:
            await super().stopService()
        for handler in self._handlers:
            handler.disownHandlerParent(self.stream)
        self._handlers = []
        if self._outbox is not None:
            await self._outbox.count_lost()
        if self._spool is not None:
            await self._spool.close()
        if self._spool_lock is not None:
            self._spool_lock.release()
        self._log.info("stopped; in all: {summary}", summary=self.counters.summary())

    def _stopped(self, result: Any) -> None:
        self._relay = self._outbox = self._client = self._spool = self._spool_lock = None
        self._restoring = self._looking = self._api = self._iq_requests = None
        self._bounces = self._entrances = None
        self._prepared = False
        stopping, self._stopping = self._stopping, []
        for stopped in stopping:
            stopped.callback(result)

    def _new_spool(self) -> Spool:
        if self._spool_lock is None:
            settings = self._settings
            # Room for an answer to all that can be pending, beside all that the POSTs under way can bring.
            waiting = backlog_limits(settings).most_pending + settings.webhook.max_connections * MAX_REPLIES
            return MemorySpool(self._reactor.seconds, max_kept=MAX_UNCONFIRMED + waiting, observer=self.counters)
        self._spool_lock.note_process()
        return SqliteSpool(
            self._spool_lock.path,
            self._reactor,
            deadlines=_deadlines(self._settings.delivery),
            grace=self._settings.delivery.outage_grace,
            synchronous=self._settings.spool.synchronous,
            letter_days=self._settings.spool.letter_days,
            max_letters=self._settings.spool.max_letters,
            observer=self.counters,
        )

    def _new_outbox(self, spool: Spool, fates: Fates) -> Outbox:
        return Outbox(
            spool,
            self.outlet,
            self.counters,
            clock=self._reactor,
            domain=self._settings.component.domain,
            limits=self._limits,
            lifetimes=_lifetimes(self._settings.delivery),
            fates=fates,
            pushed=self._is_pushed,
        )

    def _new_entrances(self) -> Entrances:
        component = self._settings.component
        return Entrances(
            self.outlet,
            self.counters,
            clock=self._reactor,
            new_id=_new_id,
            ask=self._ask,
            nick=component.nick,
            create=component.create_rooms,
        )

    def _new_relay(self, spool: Spool, outbox: Outbox) -> Relay:
        settings, delivery = self._settings, self._settings.delivery
        webhook = self._webhook
        if webhook is None:
            if self._client is None:
                self._client = webhook_client(settings, self._reactor)
            webhook = self._client
        judge = partial(
            reply.judge,
            domain=settings.component.domain,
            limits=self._limits,
            new_id=_new_id,
            status_errors=settings.conditions,
        )
        forwarder = Forwarder(
            webhook,
            judge,
            self.counters,
            policy=RetryPolicy(
                max_attempts=delivery.max_attempts,
                base=delivery.retry_base,
                cap=delivery.retry_cap,
                longest_pause=delivery.longest_pause,
                away=delivery.breaker_probe_interval,
            ),
            load=Load(_connections(settings), learns=delivery.max_attempts > 1),
            breaker=_breaker(delivery),
            on_gone=error_of_status(410, settings.conditions) if delivery.on_gone == "disable" else None,
            clock=self._reactor,
            wall=time.time,
            draw=self._random.random,
            link=None if self._hooks is None else self._link,
        )
        return Relay(
            forwarder,
            spool,
            Backlog(backlog_limits(settings), _connections(settings)),
            self.outlet,
            outbox,
            self._valve,
            self.counters,
            Loops(
                LoopGuard(*delivery.loop_guard) if isinstance(delivery.loop_guard, tuple) else None,
                LoopBrake() if delivery.loop_guard is None else None,
                self.counters,
                self._reactor,
            ),
            clock=self._reactor,
            new_id=_new_id,
            wall=time.time,
            times=Times(
                _deadlines(delivery),
                grace=delivery.outage_grace,
                late_seconds=max(LATE_SECONDS, settings.webhook.timeout),
            ),
            once=delivery.max_attempts == 1 and spool.durable,
        )

    def _new_handlers(self, relay: Relay, bounces: Bounces, entrances: Entrances) -> list[XMPPHandler]:
        component = self._settings.component
        handlers: list[XMPPHandler] = [
            StanzaIntake(
                relay.accept if self._has_webhook else None,
                domain=component.domain,
                kinds=component.component_post_stanzas,
                observer=self.counters,
                rooms=self._rooms,
                entrances=entrances,
                returned=bounces.returned,
                shown=bounces.shown,
                forward_history=component.forward_history,
                forward_bodyless=component.forward_bodyless,
                forward_errors=component.forward_errors,
            )
        ]
        if "presence" not in component.component_post_stanzas or not self._has_webhook:
            handlers.append(
                AlwaysAvailable(
                    component.domain,
                    self._subscribers,
                    outlet=self.outlet,
                    observer=self.counters,
                    clock=self._reactor,
                )
            )
        if component.answer_wellknown_iq:
            handlers.append(WellKnown(component.domain, __version__, time.time))
        return handlers


def _nothing_there(failure: Failure) -> None:
    """Whoever subscribed is known again when he asks again; without a key there are no links to reply by."""
    failure.trap(SpoolError)


def _new_id() -> str:
    return uuid4().hex


def _deadlines(delivery: DeliverySettings) -> dict[str, float]:
    """Seconds that a delivery may take, by the kind of its stanza."""
    return {
        "message": delivery.message_deadline,
        "iq": delivery.iq_deadline,
        "presence": delivery.presence_deadline,
    }


def _lifetimes(delivery: DeliverySettings) -> dict[str, float]:
    """Seconds for which what leaves is of use, by the kind of the stanza."""
    return {**LIFETIMES, "iq": delivery.iq_deadline}


def _breaker(delivery: DeliverySettings) -> Breaker:
    """A breaker as set; with one attempt only there is none, so it is one that never opens."""
    return Breaker(
        in_a_row=delivery.breaker_in_a_row if delivery.max_attempts > 1 else sys.maxsize,
        share=delivery.breaker_percent / 100,
        requests=delivery.breaker_requests if delivery.max_attempts > 1 else sys.maxsize,
        window=delivery.breaker_window,
        probe_interval=delivery.breaker_probe_interval,
    )


MOST_PENDING_BYTES = {"memory": 64 * 1024 * 1024, "sqlite": 1024 * 1024 * 1024}
"""Bytes of the request bodies of what may be pending, by the kind of the spool, unless it is set."""


def backlog_limits(settings: Settings) -> BacklogLimits:
    """The limits as the backlog has them, with fractions for percents."""
    delivery = settings.delivery
    return BacklogLimits(
        max_pending=delivery.max_pending,
        max_pending_bytes=delivery.max_pending_bytes or MOST_PENDING_BYTES[settings.spool.kind],
        max_per_conversation=delivery.max_per_conversation,
        fair_above=delivery.fair_above_percent / 100,
        fair_share=delivery.fair_share_percent / 100,
        pause_above=delivery.pause_above_percent / 100,
        resume_below=delivery.resume_below_percent / 100,
    )


def _open_files() -> int:
    """Files that this process may have open at once."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def _api_connections(settings: Settings) -> int:
    """Connections to the API at once: as many as are wanted, or as a quarter of the files is for; 0 without an API."""
    if settings.api.listen is None:
        return 0
    return max(1, min(settings.api.max_connections, (_open_files() - FILES_BESIDE) // 4))


def _connections(settings: Settings) -> int:
    """Connections to the webhook at once: as many as are wanted, or as there can be files for."""
    # As many of the API's clients again may wait to be told that there are too many.
    beside = FILES_BESIDE + 2 * _api_connections(settings)
    return max(1, min(settings.webhook.max_connections, _open_files() - beside))


def webhook_client(settings: Settings, reactor: Any) -> WebhookClient | None:
    """
    Make the client for the webhook of the settings; None where there is none.

    Raises:
        SettingsError: The webhook's settings cannot be used.
    """
    webhook, url = settings.webhook, settings.component.component_post_url
    if url is None:
        return None
    try:
        return WebhookClient(
            url,
            reactor=reactor,
            timeout=webhook.timeout,
            connect_timeout=webhook.connect_timeout,
            max_connections=_connections(settings),
            max_body_bytes=webhook.max_body_bytes,
            headers=webhook.headers,
            bearer_token=webhook.bearer_token,
        )
    except ValueError as error:
        raise SettingsError(
            f"component.component_post_url (--post-url) or the [webhook] table cannot be used: {error}"
        ) from error


def _component_stream(
    settings: Settings,
    reactor: Any,
    limits: Limits,
    counters: Counters,
    rooms: Rooms,
    *,
    sent: Callable[[OutboundStanza], object],
    first: Callable[[], Iterable[Element | OutboundStanza]],
) -> ComponentStream:
    component = settings.component
    return ComponentStream(
        client_endpoint(reactor, component.server),
        component.domain,
        component.secret,
        address=component.server_address,
        limits=limits,
        observer=counters,
        clock=reactor,
        random=Random(),
        sent=sent,
        first=first,
        marked=rooms.marked,
        confirm=component.write_barrier,
        fallback=component.write_barrier_fallback,
        lifetimes=_lifetimes(settings.delivery),
    )
