"""The gateway as a Twisted service: the door for applications, and for `twistd`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, succeed
from twisted.words.xish.domish import Element
from wokkel.subprotocols import StreamManager, XMPPHandler

from component_http import __version__
from component_http.clock import steady_reactor
from component_http.contract.outbound import OutboundStanza
from component_http.delivery.status import Status
from component_http.errors import SettingsError, SpoolUnusable
from component_http.interfaces import AnswerFunction, Outlet, ReplyObjects, Webhook
from component_http.log import Logger, set_level
from component_http.running import Running
from component_http.settings import Settings
from component_http.settings.reloading import left_for_start, taken_over
from component_http.sizing import too_few_files
from component_http.webhook.function import FunctionWebhook
from component_http.wiring import lasting_parts, webhook_client
from component_http.xmpp.stream import ComponentStream

if TYPE_CHECKING:
    from component_http.api.hooks import Hook
    from component_http.api.secrets import BySecret
    from component_http.spool.database import SpoolLock


@frozen(eq=False)
class _Prepared:
    """Everything that a start needs was checked; `lock` is that of the spool's file, None for a spool in memory."""

    lock: SpoolLock | None


class Gateway(MultiService):
    """
    XMPP on one side, a webhook on the other; a Twisted service.

    `Gateway(settings, reactor).setServiceParent(parent)` is all an application needs. Nothing is opened before
    `startService`.

    Args:
        settings: The settings, already checked.
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
        # Setting the machine's clock moves no timer of this one.
        reactor = steady_reactor(reactor)
        if answer is not None:
            webhook = FunctionWebhook(answer, timeout=settings.webhook.timeout, clock=reactor)
        if webhook is None:
            webhook_client(settings, reactor)  # a start makes another one; this one shows that it can be made
        self._prepared: _Prepared | None = None
        self._run: Running | None = None
        self._lasting = lasting_parts(settings, reactor, manager, webhook, sent=self._sent, first=self._first_of_stream)
        set_level(settings.log.level)
        self.counters = self._lasting.counters
        self.stream = self._lasting.stream
        self.outlet: Outlet = self._lasting.outlet
        if isinstance(self._lasting.outlet, ComponentStream):
            self._lasting.outlet.setServiceParent(self)

    def addHandler(self, handler: XMPPHandler) -> None:
        """Put a wokkel protocol handler on the gateway's stream; it sees each stanza before the webhook does."""
        handler.setHandlerParent(self.stream)

    def _sent(self, outbound: OutboundStanza) -> None:
        """Note a stanza that leaves, whoever sends it."""
        self._lasting.rooms.sent(outbound)
        if outbound.kind == "presence" and self._run is not None:
            self._run.entrances.sent(outbound)

    def _first_of_stream(self) -> Iterable[Element | OutboundStanza]:
        return () if self._run is None else self._run.entrances.first()

    # -- start --

    def prepare(self, *, set_aside: bool = False, user: int | None = None) -> None:
        """
        Take the spool's file, check that it can be used, and bring it up to date; check the API's port.

        `startService` does it if it has not been done. Do it before, where an error should come early: before the
        process goes into the background, or before the reactor runs, for the file is read once.

        Args:
            set_aside: Rename a file that cannot be used, and put an empty one in its place.
            user: The user that this process will run as when it starts, and that the spool's files must belong to; None
                for its user.

        Raises:
            SettingsError: The file cannot be used, or another gateway has it; or the API's port is in use.
        """
        if self._prepared is None:
            self._prepared = _Prepared(self._locked(set_aside, user))

    def _locked(self, set_aside: bool, user: int | None) -> SpoolLock | None:
        settings = self._lasting.settings
        path = settings.spool.file()
        if path is None:
            _check_port(settings)
            return None
        from component_http.spool import database

        # First the lock: another gateway with these settings has the port as well, and the lock knows who that is.
        lock = database.lock(path, user=user, warn=self._warn)
        try:
            _check_port(settings)
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
        return lock

    def _warn(self, warning: str) -> None:
        self._log.warn("{warning}", warning=warning)

    def startService(self) -> None:
        if self._run is not None and self._run.stops:
            raise RuntimeError("the gateway is stopping: wait for stopService before starting it again")
        self.prepare()
        assert self._prepared is not None
        lasting, lock = self._lasting, self._prepared.lock
        for warning in (
            *lasting.settings.warnings(),
            *too_few_files(lasting.settings, has_webhook=lasting.has_webhook),
        ):
            self._warn(warning)
        self._say_what_is_served(lock)
        self._run = Running(lasting, lock)
        self._run.start(super().startService)

    def _say_what_is_served(self, lock: SpoolLock | None) -> None:
        """Begin the log with what somebody who reads it at night would ask first."""
        component = self._lasting.settings.component
        kinds = ", ".join(component.component_post_stanzas)
        self._log.info(
            "component-http {version} serves {domain}: {posted}; the spool is {spool}",
            version=__version__,
            domain=component.domain,
            posted=component.posted if self._lasting.webhook is None else f"{kinds} to the application itself",
            spool="in memory" if lock is None else lock.path,
        )

    # -- while it runs --

    def status(self) -> Status | None:
        """Tell the state between the stream and the webhook; None before the start and after the stop."""
        return None if self._run is None else self._run.status()

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
        return await self._lasting.pushes.push(objects, kind, until_sent=until_sent)

    def wake(self) -> str:
        """
        Ask the webhook at once, and end all waits for it: somebody knows that it is back.

        Returns:
            How it is, as in `Status.webhook`; `stopping` if it is not asked any more.
        """
        return "stopping" if self._run is None else self._run.wake()

    def reload(self, settings: Settings) -> list[str]:
        """
        Go by other settings from now on, as SIGHUP does for a settings file; the stream stays as it is.

        New attempts go by those of the webhook, with its URL, and by [conditions]; tokens, hooks and the log's level
        change at once. If an error is raised, nothing has changed.

        Returns:
            The names of the settings that differ and that only another gateway can apply.

        Raises:
            SettingsError: The webhook's settings, or a template, cannot be used.
        """
        before, lasting = self._lasting.settings, self._lasting
        left = list(left_for_start(before, settings))
        taken = taken_over(before, settings)
        same = (before.webhook, before.component) == (taken.webhook, taken.component)
        client = None if same or lasting.webhook is not None else webhook_client(taken, lasting.reactor)
        hooks = None if lasting.hooks is None else _hooks(taken)
        self._lasting = evolve(lasting, settings=taken, hooks=hooks)
        set_level(taken.log.level)
        if self._run is not None:
            self._run.reload(self._lasting, client)
        self.counters.count("reloaded")
        self._log.info("the settings were read again: {posted}", posted=taken.component.posted)
        return left

    # -- stop --

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
        return succeed(None) if self._run is None else Deferred.fromCoroutine(self._run.drain(timeout))

    def stopService(self) -> Deferred[None]:
        """Drain, then close the stream and the spool; fires when all is done."""
        run = self._run
        if run is None:
            return succeed(None)
        stopped: Deferred[None] = Deferred()
        run.stops.append(stopped)
        if len(run.stops) == 1:
            Deferred.fromCoroutine(self._stop(run)).addBoth(self._stopped, run)
        return stopped

    async def _stop(self, run: Running) -> None:
        await run.stop(self._close_stream)
        self._log.info("stopped; in all: {summary}", summary=self.counters.summary())

    async def _close_stream(self) -> None:
        if self.running:
            await super().stopService()

    def _stopped(self, result: Any, run: Running) -> None:
        self._run = self._prepared = None
        for stopped in run.stops:
            stopped.callback(result)


def _hooks(settings: Settings) -> BySecret[Hook]:
    from component_http.api_service import api_hooks

    return api_hooks(settings)


def _check_port(settings: Settings) -> None:
    if settings.api.listen is not None:
        from component_http.api_service import check_port

        check_port(settings)
