"""The gateway, put together: every door ends here."""

from __future__ import annotations

import resource
import sys
import time
from functools import partial
from random import Random
from secrets import token_bytes, token_hex
from typing import Any
from uuid import uuid4

from attrs import evolve
from twisted.application.service import MultiService
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.endpoints import clientFromString
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from wokkel.subprotocols import StreamManager, XMPPHandler

from component_http import __version__
from component_http.api.server import ApiServer
from component_http.api_service import api_hooks, api_server, see_port
from component_http.contract import reply
from component_http.contract.conditions import error_of_status
from component_http.contract.link import KEY_BYTES, link_path
from component_http.contract.link import LIFETIME as LINK_LIFETIME
from component_http.contract.reply import MAX_REPLIES
from component_http.contract.xml import Limits
from component_http.delivery.backlog import Backlog, BacklogLimits
from component_http.delivery.breaker import Breaker
from component_http.delivery.delivery import Delivery
from component_http.delivery.departure import LIFETIMES
from component_http.delivery.departures import Departures
from component_http.delivery.dispatch import Dispatch
from component_http.delivery.forwarder import Forwarder
from component_http.delivery.load import Load
from component_http.delivery.loop_guard import LoopGuard
from component_http.delivery.relay import LATE_SECONDS, Relay, Status
from component_http.delivery.retry import RetryPolicy
from component_http.errors import SettingsError, SpoolError, SpoolUnusable
from component_http.interfaces import Found, Spool, Webhook
from component_http.notices import LOG_INTERVAL, Notices
from component_http.operations.metrics import Counters
from component_http.settings import DeliverySettings, Settings
from component_http.spool import database
from component_http.spool.memory import MemorySpool
from component_http.spool.sqlite import SqliteSpool
from component_http.webhook.client import WebhookClient
from component_http.xmpp.intake import LateHandler, StanzaIntake
from component_http.xmpp.presence import AlwaysAvailable
from component_http.xmpp.questions import Questions
from component_http.xmpp.rooms import Rooms
from component_http.xmpp.stream import BorrowedStream, ComponentStream
from component_http.xmpp.subscribers import Subscribers
from component_http.xmpp.wellknown import WellKnown

__all__ = ["Gateway"]

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

    Attributes:
        counters: How often each thing happened so far.
        stream: The StreamManager that the handlers are on.
    """

    _log = Logger()

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        *,
        manager: StreamManager | None = None,
        webhook: Webhook | None = None,
    ) -> None:
        super().__init__()
        self.counters = Counters()
        self._settings = settings
        self._reactor = reactor
        self._webhook = webhook
        self._random = Random()
        self._limits = Limits(max_bytes=settings.component.max_stanza_bytes)
        self._rooms = Rooms()
        self._subscribers = Subscribers(settings.component.domain)
        self._client = None if webhook is not None else _webhook_client(settings, reactor)
        self._relay: Relay | None = None
        self._departures: Departures | None = None
        self._spool: Spool | None = None
        self._spool_lock: database.SpoolLock | None = None
        self._restoring: Deferred[None] | None = None
        self._looking: LoopingCall | None = None
        self._hooks = None if settings.api.listen is None else api_hooks(settings)
        self._questions: Questions | None = None
        self._link_key: bytes | None = None
        self._prepared = False
        self._api: ApiServer | None = None
        self._handlers: list[XMPPHandler] = []
        self._stopping: list[Deferred[None]] = []
        self._outlet: ComponentStream | BorrowedStream
        if manager is None:
            self.stream: StreamManager = _component_stream(settings, reactor, self._limits, self.counters, self._rooms)
            self.stream.setServiceParent(self)
            self._outlet = self.stream
        else:
            self.stream = manager
            self._outlet = BorrowedStream(
                manager, settings.component.domain, self._limits, self.counters, sent=self._rooms.sent
            )

    def addHandler(self, handler: XMPPHandler) -> None:
        """Put a wokkel protocol handler on the gateway's stream; it sees each stanza before the webhook does."""
        handler.setHandlerParent(self.stream)

    def prepare(self, *, set_aside: bool = False) -> None:
        """
        Take the spool's file, see that it can be used, and bring it up to date; nothing for a spool in memory.

        `startService` does it where it has not been done. Do it before, where an error should come early: before the
        process goes into the background, or before the reactor runs, for the file is read once.

        Args:
            set_aside: A file that cannot be used is renamed, and an empty one takes its place.

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
        lock = database.lock(path)
        try:
            see_port(self._settings)
            try:
                database.prepare(path)
            except SpoolUnusable as error:
                if not set_aside:
                    raise
                self._log.error("{error}; it is {aside} now", error=str(error), aside=database.quarantine(path))
                database.prepare(path)
        except BaseException:
            lock.release()
            raise
        self._spool_lock = lock
        self._prepared = True

    def startService(self) -> None:
        if self._stopping:
            raise RuntimeError("the gateway is stopping: wait for stopService before starting it again")
        self.prepare()
        for warning in self._settings.warnings():
            self._log.warn("{warning}", warning=warning)
        self._see_how_many_files()
        self._say_what_is_served()
        self._spool = spool = self._new_spool()
        self._departures = departures = self._new_departures(spool)
        self._relay = relay = self._new_relay(spool, departures)
        # On a stream of somebody else's they may hear at once. What comes before all is restored is stored behind it.
        self._handlers = self._new_handlers(relay)
        if self._hooks is not None:
            self._questions = Questions(self._outlet, self._reactor, lambda: token_hex(16))
            self._handlers.append(self._questions)
        for handler in self._handlers:
            handler.setHandlerParent(self.stream)
        if spool.durable:
            self._restoring = Deferred.fromCoroutine(self._restore(spool, relay, departures))
            self._restoring.addErrback(self._not_restored)
        else:
            self._subscribers.restore((), spool)
            super().startService()
            spool.key().addCallback(self._serve_api)

    def _say_what_is_served(self) -> None:
        """For the top of a log: what somebody who reads it at night would ask first."""
        component = self._settings.component
        self._log.info(
            "component-http {version} serves {domain}: {kinds} to {url}; the spool is {spool}",
            version=__version__,
            domain=component.domain,
            kinds=", ".join(component.component_post_stanzas),
            url=component.displayed_url if self._webhook is None else "a webhook of the application",
            spool="in memory" if self._spool_lock is None else self._spool_lock.path,
        )

    def _see_how_many_files(self) -> None:
        settings = self._settings
        found = [("webhook", settings.webhook.max_connections, _connections(settings))]
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

    async def _restore(self, spool: Spool, relay: Relay, departures: Departures) -> None:
        notices = Notices(LOG_INTERVAL)
        while True:
            try:
                # Both are asked for at once, so that what is stored meanwhile is stored behind them.
                asked, others, key = spool.restore(), spool.subscribers(), spool.key()
                for each in (others, key):
                    each.addErrback(_nothing_there)
                deliveries, subscribers, self._link_key = await asked, await others or (), await key
                break
            except SpoolError as error:
                if notices.may_tell(str(error), self._reactor.seconds()):
                    self._log.error("nothing is served until the spool can be read: {reason}", reason=str(error))
            await deferLater(self._reactor, RESTORE_AGAIN)
        self._restoring = None
        if deliveries:
            self._log.info("{number} deliveries from the spool", number=len(deliveries))
        departures.read_all()
        self._subscribers.restore(subscribers, spool)
        relay.restore(deliveries)
        super().startService()
        self._serve_api(self._link_key)
        self._looking = LoopingCall(self._look, spool, relay, departures)
        self._looking.clock = self._reactor
        self._looking.start(LOOK_INTERVAL)

    def _serve_api(self, link_key: bytes | None) -> None:
        """Open the API, where there is to be one."""
        self._link_key = link_key
        if self._hooks is None or self._questions is None:
            return
        assert self._spool is not None and self._departures is not None and self._relay is not None
        sender = Dispatch(self._spool, self._departures, self._relay, self._questions.ask)
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

    def _look(self, spool: Spool, relay: Relay, departures: Departures) -> Deferred[None]:
        found = spool.look({"webhook": relay.status().webhook})
        return found.addCallback(self._found, relay, departures).addErrback(self._not_looked)

    def _found(self, found: Found, relay: Relay, departures: Departures) -> None:
        relay.restore(found.deliveries)
        if found.departures:
            departures.read_all()
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
        if self._looking is not None and self._looking.running:
            self._looking.stop()
        if self._client is not None:
            await self._client.close()
        if self.running:
            await super().stopService()
        for handler in self._handlers:
            handler.disownHandlerParent(self.stream)
        self._handlers = []
        if self._spool is not None:
            await self._spool.close()
        if self._spool_lock is not None:
            self._spool_lock.release()
        self._log.info("stopped; in all: {summary}", summary=self.counters.summary())

    def _stopped(self, result: Any) -> None:
        self._relay = self._departures = self._client = self._spool = self._spool_lock = None
        self._restoring = self._looking = self._api = self._questions = None
        self._prepared = False
        stopping, self._stopping = self._stopping, []
        for stopped in stopping:
            stopped.callback(result)

    def _new_spool(self) -> Spool:
        if self._spool_lock is None:
            return MemorySpool()
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

    def _new_departures(self, spool: Spool) -> Departures:
        return Departures(
            spool,
            self._outlet,
            self.counters,
            clock=self._reactor,
            domain=self._settings.component.domain,
            limits=self._limits,
            lifetimes=_lifetimes(self._settings.delivery),
        )

    def _new_relay(self, spool: Spool, departures: Departures) -> Relay:
        settings, delivery = self._settings, self._settings.delivery
        webhook = self._webhook
        if webhook is None:
            if self._client is None:
                self._client = _webhook_client(settings, self._reactor)
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
            now=time.time,
            draw=self._random.random,
            link=None if self._hooks is None else self._link,
        )
        return Relay(
            forwarder,
            spool,
            Backlog(backlog_limits(settings), _connections(settings)),
            self._outlet,
            departures,
            self._outlet,
            self.counters,
            clock=self._reactor,
            new_id=_new_id,
            wall=time.time,
            deadlines=_deadlines(delivery),
            grace=delivery.outage_grace,
            late_seconds=max(LATE_SECONDS, settings.webhook.timeout),
            loop_guard=LoopGuard(*delivery.loop_guard) if delivery.loop_guard else None,
        )

    def _new_handlers(self, relay: Relay) -> list[XMPPHandler]:
        component = self._settings.component
        handlers: list[XMPPHandler] = [
            StanzaIntake(
                relay.accept,
                domain=component.domain,
                kinds=component.component_post_stanzas,
                observer=self.counters,
                rooms=self._rooms,
                forward_history=component.forward_history,
                forward_bodyless=component.forward_bodyless,
                forward_errors=component.forward_errors,
            )
        ]
        if "presence" not in component.component_post_stanzas:
            handlers.append(
                AlwaysAvailable(
                    component.domain,
                    self._subscribers,
                    outlet=self._outlet,
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


def _webhook_client(settings: Settings, reactor: Any) -> WebhookClient:
    webhook = settings.webhook
    try:
        return WebhookClient(
            settings.component.component_post_url,
            reactor=reactor,
            timeout=webhook.timeout,
            connect_timeout=webhook.connect_timeout,
            max_connections=_connections(settings),
            max_body_bytes=webhook.max_body_bytes,
            headers=webhook.headers,
            bearer_token=webhook.bearer_token,
        )
    except ValueError as error:
        raise SettingsError(f"component.component_post_url or the [webhook] table cannot be used: {error}") from error


def _component_stream(
    settings: Settings, reactor: Any, limits: Limits, counters: Counters, rooms: Rooms
) -> ComponentStream:
    component = settings.component
    return ComponentStream(
        clientFromString(reactor, component.server),
        component.domain,
        component.secret,
        limits=limits,
        observer=counters,
        clock=reactor,
        random=Random(),
        sent=rooms.sent,
        confirm=component.write_barrier,
        fallback=component.write_barrier_fallback,
        lifetimes=_lifetimes(settings.delivery),
        # Room for an answer to all that can be pending, beside all that the POSTs under way can bring.
        max_waiting=settings.delivery.max_pending + settings.webhook.max_connections * MAX_REPLIES,
    )
