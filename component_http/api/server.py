"""The API on a socket, with a limit for everything that a stranger can do to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IListeningPort, IProtocolNegotiationFactory, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from zope.interface import implementer

from component_http.api.connection import CLOSE_TIME, Site
from component_http.api.exchange import Admitted, Answer, Call, Live
from component_http.api.gate import Gate
from component_http.api.places import Places
from component_http.interfaces import Observer
from component_http.log import Logger
from component_http.turns import Turns
from component_http.waiters import Ongoing


@implementer(IProtocolNegotiationFactory)
class _Factory(Factory):
    """Makes the connections, as many as there may be."""

    noisy = False

    def __init__(self, places: Places, gate: Gate | None, name: str) -> None:
        self._places = places
        self._gate = gate
        self._name = name

    def buildProtocol(self, address: Any) -> Any:
        return self._places.enter() if self._gate is None or self._gate.lets_in() else None

    def acceptableProtocols(self) -> list[bytes]:
        """Name what TLS may agree on with a client that names protocols; with none Twisted would refuse it."""
        return [b"http/1.1", b"http/1.0"]

    def logPrefix(self) -> str:
        """Name the server for Twisted's log line about the open port."""
        return self._name


class ApiServer(Service):
    """
    Serves the API from its start to its stop.

    Args:
        admit: Judges a request before its body is in (`Api.admit`).
        finish: Waits until everything is kept that was begun to be kept (`Desk.finish`).
        observer: Told `api_busy`, `api_evicted`, and `api_refused` for what is no HTTP.
        max_body_bytes: The largest body of a request that is read.
        request_timeout: Seconds that a request may take to come in, and that a connection may be idle.
        name: Names the server in the log.
        per_second: The requests that are answered in a second, while others wait for their turn; and the connections
            that `Gate` accepts. None where the requests have limits of their own.

    Attributes:
        listening: Fires with the port when it is open, or with None if it cannot be opened. None before the start.
    """

    _log = Logger()

    def __init__(
        self,
        admit: Callable[[Call], Admitted | Answer | Live],
        finish: Callable[[], Awaitable[None]],
        endpoint: IStreamServerEndpoint,
        observer: Observer,
        *,
        clock: Any,
        max_connections: int,
        max_body_bytes: int,
        request_timeout: float,
        name: str = "the API",
        per_second: int | None = None,
    ) -> None:
        self._ongoing = Ongoing()
        turns = Turns(clock, 0.0 if per_second is None else 1 / per_second)
        self.site = Site(admit, observer, clock, turns, self._ongoing, max_body_bytes, request_timeout, name)
        self.places = Places(self.site, max_connections)
        self._gate = None if per_second is None else Gate(self.site, per_second)
        self.listening: Deferred[IListeningPort | None] | None = None
        self._finish = finish
        self._endpoint = endpoint
        self._clock = clock
        self._port: IListeningPort | None = None

    def factory(self) -> Factory:
        """Return the factory of the connections, for callers who listen themselves."""
        return _Factory(self.places, self._gate, self.site.name)

    def startService(self) -> None:
        """Open the port. If it cannot be opened, that is logged, and the gateway goes on without it."""
        super().startService()
        self.places.closing = False
        self.listening = self._endpoint.listen(self.factory()).addCallbacks(self._opened, self._not_opened)

    def _opened(self, port: IListeningPort) -> IListeningPort:
        self._port = port
        if self._gate is not None:
            self._gate.port = port
        address = port.getHost()
        where = f"{address.host}:{address.port}" if isinstance(address, IPv4Address | IPv6Address) else str(address)
        self._log.info("{name} listens on {where}", name=self.site.name, where=where)
        return port

    def _not_opened(self, failure: Failure) -> None:
        self._log.critical("{name} cannot listen: {reason}", name=self.site.name, reason=failure.getErrorMessage())

    def stopService(self) -> Deferred[None]:
        """Take no more requests, give those under way a moment to end, and close all connections."""
        super().stopService()
        self.places.closing = True
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        port, self._port = self._port, None
        if self._gate is not None:
            self._gate.close()
        if port is not None:
            await (port.stopListening() or succeed(None))
        if self._ongoing:
            end = self._clock.callLater(CLOSE_TIME, self._ongoing.cancel)
            await self._ongoing.ended()
            if end.active():
                end.cancel()
        await self._finish()
        self.places.close()
        self.site.turns.drop()
