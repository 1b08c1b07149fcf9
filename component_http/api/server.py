"""
The API on a socket: twisted.web's HTTP, with a bound for all that a stranger can do to it.

A request becomes a `Call`, and what comes of it an `Answer`; what is between is `routes.Api`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel, Request

from component_http.api.exchange import Answer, Call, Problem, problem_json
from component_http.interfaces import Observer

__all__ = ["MAX_HEADERS", "ApiServer"]

MAX_HEADERS = 64
"""Header fields of a request; their bytes are bounded by twisted.web, at 16 KiB."""

BUSY_TIME = 2.0
"""Seconds that a connection beyond the bound has to say something, and to read that there is no place for it."""

CLOSE_TIME = 5.0
"""Seconds that requests under way get to end when the server stops."""

_Handle = Callable[[Call], Awaitable[Answer]]

_BUSY = problem_json(Problem(503, "too many connections: try again later"))
_STOPPING = problem_json(
    Problem(503, "the gateway is stopping: try again later", headers={"Retry-After": "5", "Connection": "close"})
)


class _Request(Request):
    """One request; its body is read up to a limit, and what is beyond that is thrown away as it comes."""

    def __init__(self, channel: Any, queued: object = False) -> None:
        super().__init__(channel, parsePOSTFormSubmission=False)
        self._site: ApiServer = channel.site
        self._body: list[bytes] | None = []
        self._size = 0

    def gotLength(self, length: int | None) -> None:
        super().gotLength(0)
        if length is not None and length > self._site.max_body_bytes and self.requestHeaders.hasHeader(b"expect"):
            # It asks before it sends: say no instead of "100 Continue", which this header would call forth.
            self.requestHeaders.removeHeader(b"expect")
            self._body = None

    def handleContentChunk(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._site.max_body_bytes:
            self._body = None
        if self._body is not None:
            self._body.append(data)

    def parseCookies(self) -> None:
        """There are none here."""

    def process(self) -> None:
        """Hand it to the API; called by twisted.web when all of it is in."""
        if self._site.stopping:
            self.channel.persistent = False
            self.send(_STOPPING)
            return
        path, _, query = self.uri.partition(b"?")
        headers = {
            name.decode("latin-1").lower(): ", ".join(value.decode("utf-8", "replace") for value in values)
            for name, values in self.requestHeaders.getAllRawHeaders()
        }
        body = None if self._body is None else b"".join(self._body)
        self._body = None
        call = Call(
            self.method.decode("latin-1"),
            path.decode("utf-8", "replace"),
            query.decode("utf-8", "replace"),
            headers,
            body,
        )
        gone = self.notifyFinish()
        running = Deferred.fromCoroutine(self._answer(call))
        self._site.under_way(running)
        gone.addErrback(lambda _: running.cancel())

    async def _answer(self, call: Call) -> None:
        try:
            answer = await self._site.handle(call)
        except CancelledError:
            return
        self.send(answer)

    def send(self, answer: Answer) -> None:
        """Write the answer and end the request."""
        # twisted.web has no words for some, 422 and 429 among them.
        self.setResponseCode(answer.status, HTTPStatus(answer.status).phrase.encode("ascii"))
        for name, value in answer.headers.items():
            self.responseHeaders.setRawHeaders(name, [value])
        if answer.body:
            self.responseHeaders.setRawHeaders("Content-Type", [answer.media_type])
        if answer.status != 204:
            self.responseHeaders.setRawHeaders("Content-Length", [str(len(answer.body))])
        self.responseHeaders.setRawHeaders("Cache-Control", ["no-store"])
        self.write(answer.body)
        self.finish()


class _Channel(HTTPChannel):
    """One connection; a request has to be in within a time that no single byte prolongs."""

    maxHeaders = MAX_HEADERS
    requestFactory: Any = _Request
    site: ApiServer

    def __init__(self) -> None:
        super().__init__()
        self._receiving = False

    def connectionMade(self) -> None:
        super().connectionMade()
        self.site.channels.add(self)

    def resetTimeout(self) -> None:
        """Begin the time of a request with its first byte; twisted.web would begin it anew with each."""
        if not self._receiving and self.timeOut is not None:
            self._receiving = True
            super().resetTimeout()

    def lineLengthExceeded(self, line: bytes) -> None:
        """Say so; twisted.web would only close."""
        transport: Any = self.transport
        transport.write(
            b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        )
        transport.loseConnection()

    def requestDone(self, request: Request) -> None:
        self._receiving = False
        super().requestDone(request)

    def connectionLost(self, reason: Any = None) -> None:
        self.site.channels.discard(self)
        super().connectionLost(reason)


class _Busy(Protocol):
    """A connection for which there is no place: whatever it says, it is told so and closed."""

    def __init__(self, site: ApiServer) -> None:
        self._site = site
        self._answered = False

    def connectionMade(self) -> None:
        self._site.turned_away.add(self)
        self._end = self._site.clock.callLater(BUSY_TIME, self._abort)

    def dataReceived(self, data: bytes) -> None:
        if self._answered:
            return
        self._answered = True
        assert self.transport is not None
        head = (
            "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\n"
            f"Content-Type: {_BUSY.media_type}\r\nContent-Length: {len(_BUSY.body)}\r\n\r\n"
        )
        self.transport.write(head.encode("ascii") + _BUSY.body)
        self.transport.loseConnection()

    def _abort(self) -> None:
        transport: Any = self.transport
        transport.abortConnection()

    def connectionLost(self, reason: Any = None) -> None:
        self._site.turned_away.discard(self)
        if self._end.active():
            self._end.cancel()


class _Factory(Factory):
    """Makes the connections, as many as there may be."""

    noisy = False

    def __init__(self, site: ApiServer, timeout: float) -> None:
        self._site = site
        self._timeout = timeout

    def buildProtocol(self, address: Any) -> Any:
        if len(self._site.channels) >= self._site.max_connections:
            self._site.observer.count("api_busy")
            # The same number of them may wait to be told; who is beyond even that finds the door closed.
            return _Busy(self._site) if len(self._site.turned_away) < self._site.max_connections else None
        channel: Any = _Channel()
        channel.site = self._site
        channel.factory = self
        channel.callLater = self._site.clock.callLater
        channel.timeOut = self._timeout
        return channel

    def logPrefix(self) -> str:
        """How Twisted calls it in the log, where it says that the port is open."""
        return "the API"

    def log(self, request: Request) -> None:
        """Nothing, where twisted.web wants a line for each request: the path of one may hold a secret."""


class ApiServer(Service):
    """
    Serves the API.

    Args:
        handle: Makes the answer of a request.
        finish: Waits until all is kept that was begun to be kept (`Desk.finish`).
        endpoint: Where.
        observer: Told `api_busy`.
        clock: Runs the time limits.
        max_connections: At once.
        max_body_bytes: Of a request that are read.
        request_timeout: Seconds that a request has to come in, and that a connection may be idle.

    Attributes:
        listening: Fires with the port when it is open, or with None if it cannot be opened. None before the start.
        stopping: It stops or has stopped, so that no request is begun any more.
    """

    _log = Logger()

    def __init__(
        self,
        handle: _Handle,
        finish: Callable[[], Awaitable[None]],
        endpoint: IStreamServerEndpoint,
        observer: Observer,
        *,
        clock: Any,
        max_connections: int,
        max_body_bytes: int,
        request_timeout: float,
    ) -> None:
        self.handle = handle
        self.observer = observer
        self.clock = clock
        self.max_connections = max_connections
        self.max_body_bytes = max_body_bytes
        self.channels: set[_Channel] = set()
        self.turned_away: set[_Busy] = set()
        self.listening: Deferred[IListeningPort | None] | None = None
        self.stopping = False
        self._finish = finish
        self._endpoint = endpoint
        self._request_timeout = request_timeout
        self._under_way: set[Deferred[None]] = set()
        self._port: IListeningPort | None = None
        self._idle: list[Deferred[None]] = []

    def factory(self) -> Factory:
        """What makes the connections; for those who listen themselves."""
        return _Factory(self, self._request_timeout)

    def startService(self) -> None:
        """Open the port; that it could not be opened is logged, and the gateway goes on without."""
        super().startService()
        self.stopping = False
        self.listening = Deferred()
        self._endpoint.listen(self.factory()).addCallbacks(self._opened, self._not_opened)

    def _opened(self, port: IListeningPort) -> None:
        self._port = port
        address = port.getHost()
        where = f"{address.host}:{address.port}" if isinstance(address, IPv4Address | IPv6Address) else str(address)
        self._log.info("the API listens on {where}", where=where)
        assert self.listening is not None
        self.listening.callback(port)

    def _not_opened(self, failure: Failure) -> None:
        self._log.critical("the API cannot listen: {reason}", reason=failure.getErrorMessage())
        assert self.listening is not None
        self.listening.callback(None)

    def under_way(self, running: Deferred[None]) -> None:
        """Own a request until it has ended, and log it if it fails."""
        self._under_way.add(running)

        def ended(result: Any) -> None:
            self._under_way.discard(running)
            if isinstance(result, Failure):
                self._log.failure("a request to the API failed", failure=result)
            if not self._under_way:
                idle, self._idle = self._idle, []
                for waiting in idle:
                    waiting.callback(None)

        running.addBoth(ended)

    def stopService(self) -> Deferred[None]:
        """Take no more, give what is under way a moment to end, and close what is left."""
        super().stopService()
        self.stopping = True
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            await (port.stopListening() or succeed(None))
        if self._under_way:
            waiting: Deferred[None] = Deferred()
            self._idle.append(waiting)
            end = self.clock.callLater(CLOSE_TIME, self._cut_short)
            await waiting
            if end.active():
                end.cancel()
        await self._finish()
        for connection in (*self.channels, *self.turned_away):
            transport: Any = connection.transport
            transport.loseConnection()

    def _cut_short(self) -> None:
        for running in list(self._under_way):
            running.cancel()
