"""One run of the gateway, from its start to its stop: the spool, the API, and each component that is served."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from secrets import token_bytes
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredLock
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from wokkel.subprotocols import XMPPHandler

from component_http.contract.delivery import DeadLetter, Delivery, by_domain
from component_http.contract.explanation import Explanation
from component_http.contract.link import KEY_BYTES
from component_http.delivery.relay import Relay
from component_http.delivery.replays import Replays
from component_http.delivery.status import least_well
from component_http.errors import SpoolError
from component_http.ids import new_id
from component_http.interfaces import Observer, Spool
from component_http.interfaces.tracer import Tracers
from component_http.log import Logger
from component_http.serving import Serving
from component_http.settings import Settings
from component_http.sizing import api_connections
from component_http.throttle import LOG_INTERVAL, Throttle
from component_http.wiring import Lasting

if TYPE_CHECKING:
    from component_http.api.hooks import Hook
    from component_http.api.routes import Api
    from component_http.api.secrets import BySecret
    from component_http.api.server import ApiServer
    from component_http.caretaker import Caretaker
    from component_http.spool.database import SpoolLock

RESTORE_AGAIN = 5.0
"""Seconds after which a spool that could not be read is read again."""


class Running:
    """
    The gateway while it runs; made by its start, and dropped when `stop` is over.

    Args:
        settings: Those of all components.
        hooks: The hooks of the API; None without an API.
        components: Each component that is served, by its domain.
        spool: The spool of all of them.
        lock: The lock of the spool's file, which is released by the stop; None for a spool in memory.
        tracers: The spool's log is one of them while this runs.

    Attributes:
        served: Each component that is served, by its domain.
        stops: Fired by the owner when the stop is over; not empty means that it has begun.
    """

    _log = Logger()

    def __init__(
        self,
        settings: Settings,
        hooks: BySecret[Hook] | None,
        components: Iterable[Lasting],
        spool: Spool,
        lock: SpoolLock | None,
        reactor: Any,
        observer: Observer,
        operator: Callable[[Serving], XMPPHandler],
        tracers: Tracers,
    ) -> None:
        self._operator = operator
        self._settings = settings
        self._hooks = hooks
        self._spool = spool
        self._lock = lock
        self._reactor = reactor
        self._observer = observer
        self._tracers = tracers
        self._link_key: bytes | None = None
        self.served = {lasting.domain: self._serving(lasting) for lasting in components}
        self._replays: Replays | None = None
        if spool.log is not None:
            tracers.add(spool.log.tracer)
            self._replays = Replays(spool.log, self.served, observer, reactor, time.time)
        self._restoring: Deferred[None] | None = None
        self._reading = DeferredLock()
        self._caretaker: Caretaker | None = None
        self._api: Api | None = None
        self._api_server: ApiServer | None = None
        self.stops: list[Deferred[None]] = []

    def _serving(self, lasting: Lasting) -> Serving:
        serving = Serving(lasting, self._spool, lambda: self._link_key)
        serving.add(self._operator(serving))
        return serving

    # -- start --

    def start(self, serve: Callable[[], object]) -> None:
        """
        Begin: with a spool on disk its content is read first.

        `serve` starts the streams; it is called as soon as nothing from before can be overtaken.
        """
        for serving in self.served.values():
            serving.begin()
        if self._spool.durable:
            self._restoring = Deferred.fromCoroutine(self._restore(serve))
            self._restoring.addErrback(self._not_restored)
        else:
            for serving in self.served.values():
                serving.restore((), is_empty=True)
            serve()
            self._spool.key().addCallback(self._open)

    async def _restore(self, serve: Callable[[], object]) -> None:
        number = await self._restore_components(self.served)
        if number:
            self._log.info("deliveries from the spool: {number}", number=number)
        self._restoring = None
        serve()
        self._open(self._link_key)
        from component_http.caretaker import Caretaker

        self._caretaker = Caretaker(
            self._spool, self.served, wake=self.wake, clock=self._reactor, replays=self._replays
        )

    async def _restore_components(self, added: Mapping[str, Serving]) -> int:
        """Give components what the spool has kept for them, and return the number of deliveries; one call at a time."""
        number: int = await self._reading.run(lambda: Deferred.fromCoroutine(self._read(added)))
        return number

    async def _read(self, added: Mapping[str, Serving]) -> int:
        # The first are asked for at once, so that what is stored meanwhile is stored behind them.
        deliveries = await self._restored()
        others, key = self._spool.subscribers(), self._spool.key()
        for each in (others, key):
            each.addErrback(_nothing_there)
        subscribers, self._link_key = await others or [], await key
        for serving in added.values():
            serving.restore([pair for pair in subscribers if self._belongs(pair[0], serving)])
        number = 0
        foreign: Counter[str] = Counter()
        while deliveries:
            # They are POSTed from now on; but the stream waits, for what comes is behind all of them.
            for domain, its in by_domain(deliveries).items():
                if domain in added:
                    number += len(its)
                    await self._route_anew(added[domain].relay, its)
                    added[domain].restore_deliveries(its)
                elif domain not in self.served:
                    foreign[domain] += len(its)
                    self._end_foreign(domain, its)
            deliveries = await self._restored()
        try:
            for outbound, domain in await self._spool.foreign(self.served.keys()):
                foreign[domain] += 1
                self._observer.count("not_served")
                self._spool.failed(outbound, "reply_unsendable", _not_served(domain))
        except SpoolError as error:
            self._log.error("stanzas of other domains stay in the spool: {reason}", reason=str(error))
        for domain, number_of in foreign.items():
            self._log.warn(
                "{domain} is not served any more, so what was kept for it becomes dead letters: {number}",
                domain=domain,
                number=number_of,
            )
        return number

    async def _route_anew(self, relay: Relay, deliveries: Iterable[Delivery]) -> None:
        """Find other routes for deliveries whose routes are gone, by their request bodies."""
        for delivery in deliveries:
            if relay.routing.lacks(delivery):
                try:
                    relay.routing.find_again(delivery, await self._spool.body(delivery.id))
                except SpoolError:
                    delivery.route = None

    def _belongs(self, component: str, serving: Serving) -> bool:
        """Say whether an address is of a component; what is of none is the first one's to forget."""
        domain = component.rpartition("@")[2]
        return domain == serving.domain or (domain not in self.served and serving is next(iter(self.served.values())))

    def _end_foreign(self, domain: str, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            self._observer.count("not_served")
            dead_letter = DeadLetter("bounced", _not_served(domain), delivery.tries)
            self._spool.end(delivery.id, (), dead_letter).addErrback(_nothing_there)

    async def _restored(self) -> list[Delivery]:
        """Read the next deliveries from the spool, again and again until that works."""
        throttle = Throttle(LOG_INTERVAL)
        while not self.stops:
            try:
                return await self._spool.restore()
            except SpoolError as error:
                if throttle.may_tell(str(error), self._reactor.seconds()):
                    self._log.error(
                        "nothing is served until the spool can be read: {reason}; the gateway tries again every"
                        " {again:g} seconds",
                        reason=str(error),
                        again=RESTORE_AGAIN,
                    )
            await deferLater(self._reactor, RESTORE_AGAIN)
        return []

    def _not_restored(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("nothing is served", failure=failure)

    def _open(self, link_key: bytes | None) -> None:
        """Take what is pushed, by the application and by the API."""
        self._link_key = link_key
        for serving in self.served.values():
            serving.open()
        if self._hooks is None:
            return
        from component_http.api.deliveries import Deliveries
        from component_http.api_service import api_server

        self._api, self._api_server = api_server(
            self._settings,
            self._reactor,
            {domain: serving.origin for domain, serving in self.served.items()},
            self._observer,
            self._hooks,
            link_key or token_bytes(KEY_BYTES),  # if the key could not be read, no link is ours
            self._woken,
            Deliveries(self._spool.log, None if self._replays is None else self._replays.replay),
            new_id=new_id,
            max_connections=api_connections(self._settings),
        )
        self._api_server.startService()

    # -- while it runs --

    @property
    def is_restoring(self) -> bool:
        """The spool has not been read yet."""
        return self._restoring is not None

    def spool_answers(self) -> Deferred[None]:
        """Fire when the spool has answered a question that costs nothing, be it by an error."""
        return self._spool.still_kept(()).addBoth(lambda _: None)

    def explain(self, delivery_id: str) -> Explanation | None:
        """Say why a delivery has not ended; None if it is not here."""
        found = (serving.relay.explain(delivery_id) for serving in self.served.values())
        return next((each for each in found if each is not None), None)

    def wake(self) -> dict[str, str]:
        """Ask all webhooks at once; returns the state of each by the domain of its component."""
        if self.stops:
            return dict.fromkeys(self.served, "stopping")
        self._log.info("wake requested: the webhook is asked at once")
        return {domain: serving.wake() for domain, serving in self.served.items()}

    def _woken(self) -> dict[str, object]:
        """Ask all webhooks at once, for a client of the API; returns what it is told."""
        states = self.wake()
        told: dict[str, object] = {"webhook": least_well(states.values())}
        return told if len(states) == 1 else {**told, "webhooks": states}

    def reload(self, settings: Settings, hooks: BySecret[Hook] | None) -> None:
        """Go by other tokens and hooks of the API from now on."""
        self._settings, self._hooks = settings, hooks
        if self._api is not None and hooks is not None:
            from component_http.api_service import api_tokens

            self._api.use(api_tokens(settings), hooks)

    async def add(self, lasting: Lasting, serve: Callable[[], object]) -> None:
        """Serve one more component; `serve` starts its stream, when it cannot overtake what the spool has for it."""
        serving = self.served[lasting.domain] = self._serving(lasting)
        serving.begin()
        await self._restore_components({lasting.domain: serving})
        if self.stops:
            return
        serve()
        serving.open()
        if self._api is not None:
            self._api.origins[lasting.domain] = serving.origin

    async def remove(self, domain: str, close_stream: Callable[[], Awaitable[object]], *, for_good: bool) -> None:
        """
        Serve a component no longer: it drains, and `close_stream` stops its stream.

        Args:
            for_good: Nobody will serve that domain, so what is left of it becomes dead letters.
        """
        serving = self.served[domain]
        if for_good and self._api is not None:
            self._api.origins.pop(domain, None)
        await serving.drain(None)
        await serving.close()
        await close_stream()
        await serving.finish(lost=for_good)
        self._count_left(serving)
        del self.served[domain]
        if for_good and not self.stops:
            await self._restore_components({})

    # -- stop --

    async def drain(self, timeout: float | None) -> None:
        await _all([serving.drain(timeout) for serving in self.served.values()])

    async def stop(self, close_streams: Callable[[], Awaitable[object]]) -> None:
        """Drain, then close everything, and release the spool; `close_streams` stops those that were started."""
        if self._restoring is not None:
            self._restoring.cancel()
        await self.drain(None)
        if self._api_server is not None:
            await self._api_server.stopService()
        if self._caretaker is not None:
            self._caretaker.stop()
        if self._replays is not None:
            self._replays.stop()
        await _all([serving.close() for serving in self.served.values()])
        await close_streams()
        await _all([serving.finish(lost=True) for serving in self.served.values()])
        for serving in self.served.values():
            self._count_left(serving)
        await self._spool.close()
        if self._spool.log is not None:
            self._tracers.remove(self._spool.log.tracer)
        if self._lock is not None:
            self._lock.release()

    def _count_left(self, serving: Serving) -> None:
        for _ in range(serving.relay.pending):
            self._observer.count("left")


def _not_served(domain: str) -> str:
    return f"{domain or 'its domain'} is not served any more"


async def _all(works: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of some work at once, to the end of each; then raise the first error of any."""
    for _, result in await DeferredList(list(map(Deferred.fromCoroutine, works)), consumeErrors=True):
        if isinstance(result, Failure):
            result.raiseException()


def _nothing_there(failure: Failure) -> None:
    """Do without: a subscriber is known again when he asks again, and without a key there are no links to reply by."""
    failure.trap(SpoolError)
