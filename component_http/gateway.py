"""The gateway as a Twisted service: the door for applications, and for `twistd`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, DeferredLock, succeed
from twisted.python.failure import Failure
from twisted.words.xish.domish import Element
from wokkel.subprotocols import StreamManager, XMPPHandler

from component_http import __version__
from component_http.clock import steady_reactor
from component_http.contract.address import Address, NotAnAddress
from component_http.contract.explanation import Explanation
from component_http.contract.objects import first_sender
from component_http.contract.outbound import OutboundStanza
from component_http.delivery.backlog import Budget
from component_http.delivery.status import Status, least_well
from component_http.errors import SettingsError, SpoolUnusable
from component_http.interfaces import AnswerFunction, Outlet, ReplyObjects, Stream, Webhook
from component_http.log import Logger
from component_http.operations.metrics import Counters
from component_http.oversight import Oversight
from component_http.running import Running
from component_http.settings import Settings
from component_http.settings.reloading import Changes
from component_http.sizing import most_of_all, too_few_files, webhooks_of
from component_http.webhook.function import FunctionWebhook
from component_http.webhooks import new_webhooks, webhook_client
from component_http.wiring import Lasting, lasting_parts, make_spool
from component_http.xmpp.stream import ComponentStream

if TYPE_CHECKING:
    from component_http.api.hooks import Hook
    from component_http.api.secrets import BySecret
    from component_http.operations.view import ComponentView
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

    Of several components (`Settings.others`) `stream` and `outlet` are those of the first.

    Attributes:
        counters: How often each thing happened so far, of all components.
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
        if manager is not None and settings.others:
            raise TypeError("a StreamManager is for one component, and the settings have several")
        super().__init__()
        if (webhook, answer, settings.api.listen) == (None, None, None):
            for each in settings.each:
                if each.component.component_post_url is None and not each.component.route:
                    raise SettingsError(
                        "component.component_post_url is missing, and so is api.listen: without a webhook and without"
                        f" an API there is nothing to do for {each.component.domain}"
                    )
        # Setting the machine's clock moves no timer of this one.
        self._reactor = reactor = steady_reactor(reactor)
        if answer is not None:
            webhook = FunctionWebhook(answer, timeout=settings.webhook.timeout, clock=reactor)
        self._webhook = webhook
        self._manager = manager
        self._settings = settings
        self._prepared: _Prepared | None = None
        self._run: Running | None = None
        self._handlers: list[tuple[str, XMPPHandler]] = []
        # Components that come, go, or have another stream.
        self._changing = DeferredLock()
        self.counters = Counters()
        self._budget = Budget(*most_of_all(settings))
        self._check(settings)
        self._hooks = _hooks(settings)
        self._components: dict[str, Lasting] = {}
        self._oversight = Oversight(settings, reactor, self._components, self.counters, self._view, self._explain)
        self._oversight.use(settings)
        self._components.update({each.component.domain: self._component(each) for each in settings.each})
        for lasting in self._components.values():
            self._adopt(lasting)

    def _check(self, settings: Settings) -> None:
        """Raise `SettingsError` if a webhook's client cannot be made; each start makes another one."""
        if self._webhook is None:
            for each in settings.each:
                for one in (each, *each.of_routes.values()):
                    webhook_client(one, self._reactor)

    def _component(self, settings: Settings) -> Lasting:
        """Make the parts of a component that outlive a stop."""
        domain = settings.component.domain
        return lasting_parts(
            settings,
            self._reactor,
            self._manager,
            self._webhook,
            counters=self.counters,
            budget=self._budget,
            webhooks=webhooks_of(self._settings),
            sent=partial(self._sent, domain),
            first=partial(self._first_of_stream, domain),
            durations=self._oversight.durations,
            tracers=self._oversight.tracers,
        )

    def _adopt(self, lasting: Lasting) -> None:
        """Let a component's stream start and stop with this service, unless it does."""
        if isinstance(lasting.outlet, ComponentStream) and lasting.outlet.parent is None:
            lasting.outlet.setServiceParent(self)

    def _lasting(self, domain: str | None) -> Lasting:
        try:
            return self._components[next(iter(self._components)) if domain is None else domain]
        except KeyError:
            raise ValueError(f"{domain} is not served here") from None

    @property
    def domains(self) -> tuple[str, ...]:
        """The domains of the components that are served."""
        return tuple(self._components)

    @property
    def stream(self) -> Stream:
        """The stream that the handlers of the first component are on."""
        return self._lasting(None).stream

    @property
    def outlet(self) -> Outlet:
        """This stream as a way out: it keeps what cannot be sent now, and says when it is crowded."""
        return self._lasting(None).outlet

    def addHandler(self, handler: XMPPHandler, domain: str | None = None) -> None:
        """Put a wokkel protocol handler on a component's stream; it sees each stanza before the webhook does."""
        lasting = self._lasting(domain)
        self._handlers.append((lasting.domain, handler))
        handler.setHandlerParent(lasting.stream)

    def _sent(self, domain: str, outbound: OutboundStanza) -> None:
        """Note a stanza that leaves, whoever sends it."""
        if domain in self._components:
            self._components[domain].rooms.sent(outbound)
        if outbound.kind == "presence" and self._run is not None and domain in self._run.served:
            self._run.served[domain].parts.entrances.sent(outbound)

    def _first_of_stream(self, domain: str) -> Iterable[Element | OutboundStanza]:
        served = {} if self._run is None else self._run.served
        return served[domain].parts.entrances.first() if domain in served else ()

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
        settings = self._settings
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
        settings, lock = self._settings, self._prepared.lock
        has_webhook = any(lasting.has_webhook for lasting in self._components.values())
        for warning in (*settings.warnings(), *too_few_files(settings, has_webhook=has_webhook)):
            self._warn(warning)
        for lasting in self._components.values():
            self._adopt(lasting)
            self._say_what_is_served(lasting, lock)
        spool = make_spool(settings, self._components, lock, self._reactor, self.counters, self._oversight.durations)
        self._run = Running(
            settings,
            self._hooks,
            self._components.values(),
            spool,
            lock,
            self._reactor,
            self.counters,
            self._oversight.operators.handler,
            self._oversight.tracers,
        )
        self._run.start(super().startService)
        self._oversight.start()

    def _say_what_is_served(self, lasting: Lasting, lock: SpoolLock | None) -> None:
        """Begin the log with what somebody who reads it at night would ask first."""
        component = lasting.settings.component
        kinds = ", ".join(component.component_post_stanzas)
        self._log.info(
            "component-http {version} serves {domain}: {posted}; the spool is {spool}",
            version=__version__,
            domain=component.domain,
            posted=component.posted if lasting.webhook is None else f"{kinds} to the application itself",
            spool="in memory" if lock is None else lock.path,
        )

    # -- while it runs --

    def status(self, domain: str | None = None) -> Status | None:
        """Tell the state between a component's stream and its webhook; None before the start and after the stop."""
        domain = self._lasting(domain).domain
        if self._run is None or domain not in self._run.served:
            return None
        status = self._run.served[domain].status()
        if not self._run.is_restoring:
            return status
        return evolve(status, obstacles=(*status.obstacles, "the spool has not been read yet"))

    def _explain(self, delivery_id: str) -> Explanation | None:
        return None if self._run is None else self._run.explain(delivery_id)

    def _view(self) -> dict[str, ComponentView]:
        from component_http.operations.view import ComponentView

        served = {} if self._run is None else self._run.served
        return {
            domain: served[domain].view(self.status(domain))
            if domain in served
            else ComponentView(None, lasting.outlet.connected, 0, {})
            for domain, lasting in self._components.items()
        }

    def in_a_sentence(self) -> str:
        """Describe the state of all components in one sentence, as the service manager is told it."""
        from component_http.operations.service_manager import sentence

        return sentence(self._view())

    def spool_answers(self) -> Deferred[None]:
        """Fire when the spool has answered, be it that it can do nothing now; never while its thread hangs."""
        return succeed(None) if self._run is None else self._run.spool_answers()

    async def push(self, objects: ReplyObjects, *, kind: str = "message", until_sent: bool = False) -> list[str]:
        """
        Send stanzas that answer nothing, as `POST /v1/stanzas` of the API does.

        They are kept by the spool when this returns, all of them or none, and leave in their order. Cancelling it ends
        the waiting, and nothing else. A push between `startService` and the moment when the spool has been read waits
        for that moment.

        Args:
            objects: One reply object, or several; each with `to`. Without `from` it comes from `component.sender`, or
                else from the bare domain. With several components the first `from` says which one sends all of them;
                without one it is the first.
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
        lasting = self._components.get(_domain_of_first(objects)) or self._lasting(None)
        return await lasting.pushes.push(objects, kind, until_sent=until_sent)

    def wake(self) -> str:
        """
        Ask all webhooks at once, and end all waits for them: somebody knows that they are back.

        Returns:
            How the least well one is, as in `Status.webhook`; `stopping` if they are not asked any more.
        """
        return "stopping" if self._run is None else least_well(self._run.wake().values())

    def reload(self, settings: Settings) -> list[str]:
        """
        Go by other settings from now on, as SIGHUP does for a settings file.

        New attempts go by those of webhook and delivery, with its URL, and by [conditions]; tokens, hooks and the log's
        level change at once. Where another setting of a component differs, it drains, and has another stream. What is
        added is served, and what is removed drains; what is left of it in a spool on disk becomes dead letters. If an
        error is raised, nothing has changed.

        Returns:
            The names of the settings that differ and that only another gateway can apply.

        Raises:
            SettingsError: A webhook's settings, or a template, cannot be used.
        """
        changes = Changes.between(self._settings, settings)
        left = list(changes.left)
        if self._manager is not None and (changes.removed or changes.replaced):
            # The stream is the application's, so another one is the application's business too.
            left += chain(*changes.replaced.values()) if changes.replaced else ["component.domain"]
            return left
        before = {domain: lasting.settings for domain, lasting in self._components.items()}
        self._check(changes.settings)
        hooks = _hooks(changes.settings)
        after = {each.component.domain: each for each in changes.settings.each}
        adapted = {
            domain: evolve(self._components[domain], settings=after[domain], webhooks=webhooks_of(changes.settings))
            for domain in before.keys() & after.keys() - changes.replaced.keys()
        }
        webhooks = {domain: new_webhooks(before[domain], lasting) for domain, lasting in adapted.items()}
        # From here on nothing can fail.
        self._settings, self._hooks = changes.settings, hooks
        self._oversight.use(changes.settings)
        self._budget.use(*most_of_all(changes.settings))
        self._components.update(adapted)
        for domain, lasting in adapted.items():
            if self._run is not None and domain in self._run.served:
                self._run.served[domain].reload(lasting, webhooks[domain])
        if self._run is not None:
            self._run.reload(changes.settings, hooks)
        self.counters.count("reloaded")
        for each in changes.settings.each:
            component = each.component
            self._log.info(
                "the settings were read again: {domain}: {posted}", domain=component.domain, posted=component.posted
            )
        for domain in (*changes.removed, *changes.replaced, *changes.added):
            changing: Deferred[None] = self._changing.run(self._change, domain)
            changing.addErrback(self._not_changed, domain)
        return left

    def _change(self, domain: str) -> Deferred[None]:
        return Deferred.fromCoroutine(self._changed(domain))

    async def _changed(self, domain: str) -> None:
        """Serve a component by the settings of now, with a new stream; or no longer, if they do not have it."""
        former, run, settings = self._components.get(domain), self._run, self._settings.of(domain)
        if (run is not None and run.stops) or (former is not None and former.settings is settings):
            return  # it is as it should be, or nothing changes any more
        if former is not None:
            if settings is None:
                self._log.info("{domain} is not served any more: it drains", domain=domain)
            else:
                self._log.info("{domain} drains, and then has another stream", domain=domain)
            for handler in self._handlers_of(domain):
                handler.disownHandlerParent(former.stream)
            if run is not None:
                await run.remove(domain, partial(_leave, former), for_good=settings is None)
            else:
                await _leave(former)
            del self._components[domain]
            settings = self._settings.of(domain)  # they may have changed meanwhile
        if settings is None:
            return
        lasting = self._components[domain] = self._component(settings)
        for handler in self._handlers_of(domain):
            handler.setHandlerParent(lasting.stream)
        if run is not None and not run.stops:
            self._say_what_is_served(lasting, None if self._prepared is None else self._prepared.lock)
            await run.add(lasting, partial(self._adopt, lasting))

    def _handlers_of(self, domain: str) -> list[XMPPHandler]:
        """The handlers of the application on a component's stream."""
        return [handler for name, handler in self._handlers if name == domain]

    def _not_changed(self, failure: Failure, domain: str) -> None:
        self._log.failure("cannot serve {domain} by its new settings", failure=failure, domain=domain)

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
        self._oversight.operators.stop()
        # A component that is just being changed is left in order.
        await self._changing.run(lambda: Deferred.fromCoroutine(run.stop(self._close_stream)))
        await self._oversight.stop()
        self._log.info("stopped; in all: {summary}", summary=self.counters.summary())

    async def _close_stream(self) -> None:
        if self.running:
            await super().stopService()

    def _stopped(self, result: Any, run: Running) -> None:
        self._run = self._prepared = None
        for stopped in run.stops:
            stopped.callback(result)


def _hooks(settings: Settings) -> BySecret[Hook] | None:
    if settings.api.listen is None:
        return None
    from component_http.api_service import api_hooks

    return api_hooks(settings)


async def _leave(lasting: Lasting) -> None:
    """Stop a component's stream."""
    if isinstance(lasting.outlet, ComponentStream):
        await (lasting.outlet.disownServiceParent() or succeed(None))


def _domain_of_first(objects: ReplyObjects) -> str:
    """Find the domain of the first sender that reply objects name; "" where none does, or where that is no address."""
    named = first_sender([objects] if isinstance(objects, Mapping) else objects)
    with suppress(NotAnAddress):
        return "" if named is None else Address.parse(named).domain
    return ""


def _check_port(settings: Settings) -> None:
    for port in (settings.api, settings.operations):
        if port.listen is not None:
            from component_http.api_service import check_port

            check_port(port.TABLE, port.listen, port.client_ca_file)
