"""
HTTP/1.1 to one origin over a bounded pool of connections, as an agent that treq can use.

Twisted's own agent bounds idle connections but not requests, hides whether a connection was used before, reads
headers and bodies without end, and lets a peer that never says goodbye hold a TLS socket for ever. This one keeps
all of that within limits and leaves the protocol itself to Twisted.

The path of a request: `PooledAgent` waits for its turn, takes an idle `Connection` or opens one, and hands the
request to it; the connection feeds what arrives to Twisted's protocol, head by head, and ends with a `WholeResponse`
or one `WebhookError`. Callbacks instead of coroutines within a connection, because its events come in any order.
"""

from __future__ import annotations

import re
import select
from collections.abc import Callable
from typing import Any, NoReturn

from attrs import field, frozen
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IAddress, IHandshakeListener
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python import failure

# A private module, but the protocol under Twisted's own agent; this file is the only one that knows it, and the
# private names beside it.
from twisted.web import _newclient, http
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss, _MalformedChunkedDataError
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer  # type: ignore[import-untyped, unused-ignore]

from component_http.contract.http import TOKEN
from component_http.errors import ConnectionCut, ConnectionFailed, TimedOut, WebhookError
from component_http.tls import tls_failure
from component_http.turns import Turns

__all__ = ["BytesProducer", "Connection", "PooledAgent", "WholeResponse"]

IDLE_SECONDS = 4.0
"""Seconds an idle connection is kept: one less than the 5 s after which Node, uvicorn and Apache close theirs, so
that a request does not run into a closing connection."""

MAX_IDLE_SECONDS = 60.0
"""Seconds an idle connection is kept at most where the server announces its own time (`Keep-Alive: timeout=75`)."""

FAREWELL_SECONDS = 1.0
"""Seconds a server has to close with us; a TLS peer that never answers would else hold the socket for ever."""

MAX_HEAD_BYTES = 65_536
"""Bytes of status lines and headers in all, interim responses included: more than any server sends on purpose."""

MAX_INTERIM_RESPONSES = 16
"""Responses of status 1xx before the real one; `100 Continue` is one, a server that shows progress sends a few."""

MAX_HEAD_LINES = 1000
"""Lines of these: each field costs as much as a hundred bytes of a long one, and nobody sends a hundred fields."""

READ_BYTES = 8192
"""
Bytes read at once from one connection. Small chunks and short header lines cost most for each byte, and everything else
waits until all connections that have something were read once.
"""

AT_ONCE_BYTES = 16_384
"""
The largest body that is handed over as soon as it is there; to make stanzas of 1 MiB can take 0.4 s, so larger ones
are handed over one in each turn of the reactor.
"""

# What Twisted types by a zope interface, or not at all, is Any for mypy.
_HTTP11ClientProtocol: Any = _newclient.HTTP11ClientProtocol
_Request: Any = _newclient.Request
_Failure: Any = failure.Failure
_TwistedChunks: Any = http._ChunkedTransferDecoder

_SIZE_LINE = re.compile(rb"[0-9A-Fa-f]{1,16}([ \t]*(?:;[\t -~\x80-\xff]*)?)\r\n")
_FIELD = TOKEN.encode("ascii") + rb":[^\0\n\v\f\r]*"
_TRAILER = re.compile(_FIELD)
_HEAD = re.compile(
    rb"HTTP/[0-9]\.[0-9] [0-9]{3}(?: [^\0\n\v\f\r]*)?\r?\n"
    rb"(?:" + _FIELD + rb"\r?\n(?:[ \t][^\0\n\v\f\r]*\r?\n)*)*\r?\n"
)
_HEAD_END = re.compile(rb"\n\r?\n")
_CLOSE = re.compile(rb"^connection:[^\n]*\bclose\b", re.IGNORECASE | re.MULTILINE)
_KEEP_ALIVE = re.compile(rb"^keep-alive:[^\n]*\btimeout\s*=\s*(\d{1,9})", re.IGNORECASE | re.MULTILINE)


class _Chunks(_TwistedChunks):
    """
    Twisted's decoder of a chunked body, with what it lacks.

    Twisted refuses extensions with a blank before them or a backslash in them, and takes any line for a trailer.

    Source: RFC 9112 sections 7.1.1 (extensions are skipped, up to a limit) and 7.1.2 (a trailer is a field).
    """

    def _dataReceived_CHUNK_LENGTH(self) -> bool:
        line = _SIZE_LINE.match(self._buffer, 0, http.maxChunkSizeLineLength)
        if line is not None:
            del self._buffer[slice(*line.span(1))]
            self._start = 0
        read: bool = super()._dataReceived_CHUNK_LENGTH()
        return read

    def _dataReceived_TRAILER(self) -> bool:
        more: bool = super()._dataReceived_TRAILER()
        if more:
            line = self._trailerHeaders[-1]
            # A line that begins with a blank goes on with the one before (RFC 9112 section 5.2).
            goes_on = len(self._trailerHeaders) > 1 and line[:1] in b" \t"
            if not _TRAILER.fullmatch(b"a:" + line if goes_on else line):
                raise _MalformedChunkedDataError("a trailer is no field")
        return more


def _read_as_we_do(protocol: Any) -> None:
    """Give the parser of a request's response our limit for a line, and our decoder; it has not read anything yet."""
    parser = protocol._parser
    if parser is not None:  # else the connection broke while the request was written
        parser.MAX_LENGTH = MAX_HEAD_BYTES
        parser._transferDecoders = {b"chunked": _Chunks}


@implementer(IBodyProducer)
@frozen
class BytesProducer:
    """A request body that is in memory already, so it is written at once."""

    body: bytes = field(repr=False)

    @property
    def length(self) -> int:
        """Bytes, for Content-Length."""
        return len(self.body)

    def startProducing(self, consumer: Any) -> Deferred[None]:
        consumer.write(self.body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """Nothing to pause."""

    def resumeProducing(self) -> None:
        """Nothing to resume."""

    def stopProducing(self) -> None:
        """Nothing to stop."""


@implementer(IResponse)
class WholeResponse:
    """
    A response whose body has arrived.

    Attributes:
        body: The body as it came, not decoded; empty when there was none or it was too large.
        whole: False when the body was larger than the agent reads.
    """

    phrase: bytes
    request: Any
    previousResponse: Any = None

    def __init__(self, original: Any, body: bytes, *, whole: bool) -> None:
        self.version = original.version
        self.code: int = original.code
        self.phrase = original.phrase
        self.headers: Headers = original.headers
        self.request = original.request
        self.length = len(body)
        self.body = body
        self.whole = whole

    def deliverBody(self, protocol: Any) -> None:
        """Give the body to `protocol` before this returns. It gets no transport: nothing is left to pause or stop."""
        protocol.dataReceived(self.body)
        protocol.connectionLost(_Failure(ResponseDone("the response was read before")))

    def setPreviousResponse(self, response: Any) -> None:
        self.previousResponse = response


class _Exchange(Protocol):
    """
    One request on a connection, and what has come back for it; Twisted's response delivers its body here.

    Attributes:
        done: Fires with the outcome, unless it was cancelled: then the exchange is abandoned.
        outcome: What the exchange came to, None while it runs. The first one counts.
        started: A byte of the response has arrived.
    """

    def __init__(self, done: Deferred[WholeResponse], body_limit: Callable[[int], int], *, reused: bool) -> None:
        self.done = done
        self.abandoned = False
        self.outcome: WholeResponse | WebhookError | None = None
        self.started = False
        self._reused = reused
        self._head = bytearray()
        self._head_complete = False
        self._head_bytes = 0
        self._head_lines = 0
        self._heads = 0
        self._response: Any = None
        self._body_limit = body_limit
        self._body = bytearray()
        self._max_body_bytes = 0

    def next_piece(self, data: bytes) -> bytes:
        """
        Cut off what may be parsed in one go, so that every head is counted and what follows the response is seen.

        That is a head up to its empty line; then the body, its last byte in a piece of its own: if the response ends
        with anything left over, the connection is out of step.
        """
        if self._response is not None:
            return data[:-1] or data
        if self._head_complete:
            # It was an interim response's: no response came of it.
            self._head_complete = False
            self._head.clear()
        known = len(self._head)
        self._head += data
        end = _HEAD_END.search(self._head, max(0, known - 2))
        if end is not None:
            self._head_complete = True
            self._heads += 1
            del self._head[end.end() :]
            if not _HEAD.fullmatch(self._head):
                # Twisted's parser is content with less: a status of "2_00", say, or a line that is no field.
                self.cut("the answer is not HTTP/1")
        piece = data[: len(self._head) - known]
        self._head_bytes += len(piece)
        self._head_lines += piece.count(b"\n")
        if self._head_bytes > MAX_HEAD_BYTES:
            self.cut(f"more than {MAX_HEAD_BYTES} bytes of headers")
        elif self._head_lines > MAX_HEAD_LINES:
            self.cut(f"more than {MAX_HEAD_LINES} lines of headers")
        elif self._heads > MAX_INTERIM_RESPONSES + 1:
            self.cut(f"more than {MAX_INTERIM_RESPONSES} interim responses")
        return piece

    def head_received(self, response: Any) -> None:
        """Take the final status and headers, and ask for the body."""
        self._response = response
        if response.version[:2] != (b"HTTP", 1) or not 200 <= response.code <= 999:
            self.cut("the answer is not HTTP/1")
            return
        self._max_body_bytes = self._body_limit(response.code)
        if isinstance(response.length, int) and response.length > self._max_body_bytes:
            self._too_large()
        else:
            response.deliverBody(self)

    def dataReceived(self, data: bytes) -> None:
        if self.outcome is not None:
            return
        if len(self._body) + len(data) > self._max_body_bytes:
            self._too_large()
        else:
            self._body += data

    def connectionLost(self, reason: Any = connectionDone) -> None:
        """Take the end of the body; `PotentialDataLoss` is the end of one whose length was never told."""
        if self.outcome is not None:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.outcome = WholeResponse(self._response, bytes(self._body), whole=True)
        else:
            self.cut("the body ended early, or is not properly chunked")

    def failed(self, _reason: object) -> None:
        """Take Twisted's word that there will be no response; what it has from the peer stays out of our sentence."""
        self.cut("the answer is not HTTP/1, or ended in its headers" if self.started else "closed without an answer")

    def cut(self, reason: str) -> None:
        """End without a complete response."""
        if self.outcome is None:
            self.outcome = ConnectionCut(reason, reused=self._reused, started=self.started)

    def _too_large(self) -> None:
        self.outcome = WholeResponse(self._response, b"", whole=False)
        self._body.clear()

    def seconds_to_keep(self) -> float:
        """
        Tell how long the connection may be kept for another request; 0 or less if not at all.

        Source: RFC 9112 section 9.3; `Keep-Alive: timeout=` is RFC 2068 section 19.7.1.1.
        """
        if not isinstance(self.outcome, WholeResponse) or not self.outcome.whole:
            return 0.0
        # Twisted's protocol knows only a lone, lower-case "close", and takes HTTP/1.0 for persistent.
        if self._response.version < (b"HTTP", 1, 1) or _CLOSE.search(self._head):
            return 0.0
        announced = _KEEP_ALIVE.search(self._head)
        if announced is None:
            return IDLE_SECONDS
        return min(MAX_IDLE_SECONDS, float(announced[1]) - 1.0)


@implementer(IHandshakeListener)
class Connection(Protocol):
    """
    One connection to the origin: Twisted's protocol, and around it what it does not watch over.

    Attributes:
        ready: Fires with None when requests may be sent, which is after the TLS handshake; fails with what the
            transport gave as the reason.
        reused: It has carried a request before.
        leaving: It was told to close; it is gone when `when_gone` fires.
    """

    transport: Any

    def __init__(
        self,
        clock: Any,
        *,
        secure: bool,
        parked: Callable[[Connection, float], None],
        gone: Callable[[Connection], None],
    ) -> None:
        """
        Args:
            secure: It runs over TLS: the handshake counts as part of connecting.
            parked: Called when a response is complete and the connection may be kept, with the seconds it may.
            gone: Called once when its socket is closed.
        """
        self.ready: Deferred[None] = Deferred()
        self.reused = False
        self.leaving = False
        self._clock = clock
        self._secure = secure
        self._parked = parked
        self._gone = gone
        self._lost = False
        self._quiescent = False
        self._exchange: _Exchange | None = None
        self._farewell: Any = None
        self._watchers: list[Deferred[None]] = []
        self._http = _HTTP11ClientProtocol(self._response_complete)

    def connectionMade(self) -> None:
        self._lowest_transport.bufferSize = READ_BYTES
        self._http.makeConnection(self.transport)
        if not self._secure:
            self.ready.callback(None)

    def handshakeCompleted(self) -> None:
        # A renegotiation ends here too; and nobody may be waiting any more.
        if not self.ready.called:
            self.ready.callback(None)

    def exchange(self, request: Any, body_limit: Callable[[int], int]) -> Deferred[WholeResponse]:
        """
        Send a request and read the whole response. One at a time; cancelling aborts the connection.

        Args:
            request: Twisted's; its body is written by the time its producer's `startProducing` returns.
            body_limit: The bytes of body to read at most, given the status.

        Returns:
            Fires with the response, or fails with `ConnectionCut`.
        """

        def abandon(_done: Deferred[WholeResponse]) -> None:
            exchange.abandoned = True
            self.abort()

        done: Deferred[WholeResponse] = Deferred(abandon)
        exchange = self._exchange = _Exchange(done, body_limit, reused=self.reused)
        self.reused = True
        self._quiescent = False
        answered = self._http.request(request)
        _read_as_we_do(self._http)
        answered.addCallbacks(exchange.head_received, exchange.failed)
        if exchange.outcome is not None:
            self._settle(exchange)
        return done

    def dataReceived(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None or exchange.abandoned:
            # Nobody asked: out of step, or a server's last words (408) before it closes.
            self.abort()
            return
        exchange.started = True
        while data and exchange.outcome is None:
            piece = exchange.next_piece(data)
            if exchange.outcome is None:
                self._http.dataReceived(piece)
                data = data[len(piece) :]
        if data:
            # More than the response.
            self._quiescent = False
        if exchange.outcome is None:
            return
        if self._secure:
            # The TLS layer may hold a goodbye that came with the response, and tells only after this returns.
            self._clock.callLater(0, self._settle, exchange)
        else:
            self._settle(exchange)

    def connectionLost(self, reason: Any = connectionDone) -> None:
        self._lost = self.leaving = True
        if self._farewell is not None:
            self._farewell.cancel()
            self._farewell = None
        if self._exchange is not None and not reason.check(ConnectionDone):
            # A body without a length is complete only if the connection was closed properly (RFC 9112 section 9.8).
            self._exchange.cut("the connection broke")
        self._http.connectionLost(reason)
        self._gone(self)
        if self._exchange is not None:
            self._exchange.cut("the connection was closed")
            self._settle(self._exchange)
        if not self.ready.called:
            self.ready.errback(reason)
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            watcher.callback(None)

    def stale(self) -> bool:
        """
        Tell whether the peer has closed, or said something unasked, and the reactor has not come to that yet.

        Without this look a request that follows the last one closely goes into a connection that is already closed.
        """
        transport = self._lowest_transport
        if transport.disconnecting:
            return True
        if not hasattr(transport, "fileno"):
            return False  # Not a socket.
        number = transport.fileno()
        if number < 0:
            return True
        poll = select.poll()
        poll.register(number, select.POLLIN)
        return bool(poll.poll(0))

    @property
    def _lowest_transport(self) -> Any:
        """The socket's: over TLS, the transport under it."""
        return getattr(self.transport, "transport", self.transport)

    def leave(self) -> None:
        """Close politely, and abort if the peer does not do the same soon."""
        if not self.leaving:
            self.leaving = True
            self._farewell = self._clock.callLater(FAREWELL_SECONDS, self._leave_at_once)
            self.transport.loseConnection()

    def abort(self) -> None:
        """Close at once, whatever is still to be sent or read."""
        self.leaving = True
        if not self._lost:
            self.transport.abortConnection()

    def when_gone(self) -> Deferred[None]:
        """Fire when the socket is closed."""
        if self._lost:
            return succeed(None)
        watcher: Deferred[None] = Deferred()
        self._watchers.append(watcher)
        return watcher

    def _leave_at_once(self) -> None:
        self._farewell = None
        self.abort()

    def _response_complete(self, _protocol: object) -> None:
        self._quiescent = True

    def _settle(self, exchange: _Exchange) -> None:
        """End an exchange, but first let the connection find its place: who acts on the outcome may need it."""
        if self._exchange is not exchange:
            return
        self._exchange = None
        outcome = exchange.outcome
        seconds = exchange.seconds_to_keep()
        if self._lost:
            pass
        elif self._quiescent and not self.leaving and seconds > 0:
            self._parked(self, seconds)
        elif isinstance(outcome, WholeResponse) and outcome.whole:
            self.leave()
        else:
            self.abort()
        if exchange.abandoned:
            pass
        elif isinstance(outcome, WholeResponse):
            exchange.done.callback(outcome)
        else:
            exchange.done.errback(outcome)


class _ConnectionFactory(Factory):
    """Builds a connection for each address that the endpoint tries."""

    noisy = False

    def __init__(self, build: Callable[[], Connection]) -> None:
        self._build = build

    def buildProtocol(self, addr: IAddress | None) -> Connection:
        return self._build()


@implementer(IAgent)
class PooledAgent:
    """
    Makes requests to one origin over at most so many connections.

    More requests than connections wait, and get their turn in the order they came; whoever makes the requests bounds
    how many wait. A waiting request that is cancelled leaves the queue. An idle connection is used again, the last
    one first, and leaves the pool as soon as its peer closes it, and after some seconds (see `IDLE_SECONDS`).

    A fresh request has its turn like any other, but never gets a used connection: it opens one, and where there are as
    many as allowed, the one that has been idle longest makes room first.

    The time limit starts when a request has its turn, not while it waits for one: the limit is about the webhook,
    and whoever queues deliveries has deadlines of its own.

    A response with a long body is handed over in a turn of the reactor of its own, so that many of them together keep
    nobody else waiting (`AT_ONCE_BYTES`).
    """

    def __init__(
        self,
        origin: bytes,
        host: bytes,
        endpoint: Any,
        clock: Any,
        *,
        secure: bool,
        timeout: float,
        connect_timeout: float,
        max_connections: int,
        body_limit: Callable[[int], int],
    ) -> None:
        """
        Args:
            origin: What every URL must start with, such as b"http://127.0.0.1:8080".
            host: The value of the Host header.
            endpoint: An `IStreamClientEndpoint`: connects to the origin; with TLS around it where `secure`.
            clock: An `IReactorTime`.
            timeout: Seconds from connecting to the last byte of the body.
            connect_timeout: Seconds of these that connecting and the TLS handshake may take.
            max_connections: Connections at once, idle and closing ones included.
            body_limit: The bytes of body to read at most, given the status.
        """
        self._origin = origin
        self._host = host
        self._endpoint = endpoint
        self._clock = clock
        self._timeout = timeout
        self._connect_timeout = min(connect_timeout, timeout)
        self._max_connections = max_connections
        self._body_limit = body_limit
        self._factory = _ConnectionFactory(
            lambda: Connection(clock, secure=secure, parked=self._parked, gone=self._connection_gone)
        )
        # In arrival order, True if fresh; a dictionary, because one that is cancelled must leave without a search.
        self._waiting: dict[Deferred[Connection | None], bool] = {}
        self._idle: dict[Connection, Any] = {}
        self._connections: set[Connection] = set()
        self._turns = Turns(clock)
        self._connecting = 0
        self._serving = False
        self._closed = False

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: Any = None,
        *,
        fresh: bool = False,
    ) -> Deferred[Any]:
        """
        Make a request and read the whole response; cancelling ends it at any point and frees what it held.

        Args:
            uri: Absolute and percent-encoded; sent byte for byte from the path on.
            headers: Not changed here; the Host header is ours.
            bodyProducer: Must have written everything when its `startProducing` returns, as `BytesProducer` has.
            fresh: Use a connection that has carried no request before.

        Returns:
            Fires with a `WholeResponse`, or fails with a `WebhookError`, nothing else.

        Source: `twisted.web.iweb.IAgent`.
        """
        target = uri[len(self._origin) :]
        if not uri.startswith(self._origin) or not target.startswith(b"/"):
            return fail(ValueError("this agent is for another origin"))
        sent = Headers() if headers is None else headers.copy()
        sent.setRawHeaders(b"host", [self._host])
        request = _Request(method, target, sent, bodyProducer, persistent=True)
        return Deferred.fromCoroutine(self._carry(request, fresh))

    async def close(self) -> None:
        """
        Drop the idle connections and refuse every request from now on, waiting ones too, with `ConnectionFailed`.

        Running requests go on, and their connections close after them; cancel them first to have everything gone
        when this returns.
        """
        self._closed = True
        while self._waiting:
            self._next_turn().errback(ConnectionFailed("closed"))
        for connection in tuple(self._idle):
            self._dismiss(connection)
        for connection in [each for each in self._connections if each.leaving]:
            await connection.when_gone()

    async def _carry(self, request: Any, fresh: bool) -> WholeResponse:
        connection = await self._turn(fresh)
        began = self._clock.seconds()
        if connection is None:
            connecting = Deferred.fromCoroutine(self._connect())
            connection = await connecting.addTimeout(self._connect_timeout, self._clock, _no_connection)
        left = max(0.0, self._timeout - (self._clock.seconds() - began))
        done = connection.exchange(request, self._body_limit)
        response = await done.addTimeout(left, self._clock, self._too_late)
        if len(response.body) > AT_ONCE_BYTES:
            await self._turns.next()
        return response

    def _turn(self, fresh: bool) -> Deferred[Connection | None]:
        """Fire with an idle connection, or with None for leave to open one, in the order of asking."""
        if self._closed:
            return fail(ConnectionFailed("closed"))
        turn: Deferred[Connection | None] = Deferred(self._turn_cancelled)
        self._waiting[turn] = fresh
        self._serve()
        return turn

    def _turn_cancelled(self, turn: Deferred[Connection | None]) -> None:
        # The next one may not be as choosy about its connection.
        self._waiting.pop(turn, None)
        self._serve()

    def _next_turn(self) -> Deferred[Connection | None]:
        turn = next(iter(self._waiting))
        del self._waiting[turn]
        return turn

    def _serve(self) -> None:
        # What a turn starts may end at once and free the next turn: a loop, because a long queue would nest too deep.
        if self._serving:
            return
        self._serving = True
        try:
            while self._waiting and self._serve_first():
                pass
        finally:
            self._serving = False

    def _serve_first(self) -> bool:
        """Do the next thing for the request that waits longest; False if only time can help it."""
        fresh = next(iter(self._waiting.values()))
        if self._idle and not fresh:
            connection, timer = self._idle.popitem()
            timer.cancel()
            if connection.stale():
                connection.leave()
            else:
                self._next_turn().callback(connection)
        elif self._sockets < self._max_connections:
            self._connecting += 1
            self._next_turn().callback(None)
        elif self._idle and not any(connection.leaving for connection in self._connections):
            self._dismiss(next(iter(self._idle)))
        else:
            return False
        return True

    @property
    def _sockets(self) -> int:
        return len(self._connections) + self._connecting

    async def _connect(self) -> Connection:
        connection = None
        try:
            connection = await self._reach()
            await connection.ready
        except CancelledError:
            if connection is not None:
                connection.abort()
            raise
        except Exception as error:
            raise tls_failure(error) or ConnectionFailed(str(error).rstrip(".") or type(error).__name__) from error
        return connection

    async def _reach(self) -> Connection:
        try:
            connection = await _connected(self._endpoint, self._factory)
        except Exception:
            self._connecting -= 1
            self._serve()
            raise
        self._connecting -= 1
        self._connections.add(connection)
        return connection

    def _too_late(self, _result: object, _left: float) -> NoReturn:
        raise TimedOut(f"no complete answer within {self._timeout:g} s")

    def _parked(self, connection: Connection, seconds: float) -> None:
        if self._closed:
            connection.leave()
            return
        self._idle[connection] = self._clock.callLater(seconds, self._dismiss, connection)
        self._serve()

    def _dismiss(self, connection: Connection) -> None:
        timer = self._idle.pop(connection)
        if timer.active():
            timer.cancel()
        connection.leave()

    def _connection_gone(self, connection: Connection) -> None:
        timer = self._idle.pop(connection, None)
        if timer is not None:
            timer.cancel()
        self._connections.discard(connection)
        self._serve()


def _no_connection(_result: object, seconds: float) -> NoReturn:
    raise ConnectionFailed(f"no connection within {seconds:g} s")


def _connected(endpoint: Any, factory: Factory) -> Deferred[Connection]:
    """Connect; unlike the endpoint's own Deferred, which may say that DNS failed, a cancelled one says so."""
    cancelled = False

    def cancel(_opened: Deferred[Connection]) -> None:
        nonlocal cancelled
        cancelled = True
        connecting.cancel()

    def connected(connection: Any) -> None:
        opened.callback(connection)

    def failed(reason: Any) -> None:
        if not cancelled:
            opened.errback(reason)

    opened: Deferred[Connection] = Deferred(cancel)
    connecting = endpoint.connect(factory)
    connecting.addCallbacks(connected, failed)
    return opened
