"""
A bounded pool of connections to one origin, as an agent that treq can use.

Twisted's own agent bounds idle connections but not requests, hides whether a connection was used before, reads
headers and bodies without end, and lets a peer that never says goodbye hold a TLS socket for ever.

The path of a request: `PooledAgent` makes bytes of it; it waits for its turn, gets an idle `Connection` or a new one,
and ends with a `WholeResponse` or one `WebhookError`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from io import BytesIO
from typing import Any, Literal

from attrs import field, frozen
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer
from zope.interface import implementer  # type: ignore[import-untyped, unused-ignore]

from component_http.errors import ConnectionCut, ConnectionFailed, TimedOut, WebhookError
from component_http.tls import tls_failure
from component_http.turns import Turns
from component_http.webhook.connection import Connection
from component_http.webhook.response import WholeResponse

AT_ONCE_BYTES = 16_384
"""
The largest body that is handed over as soon as it is there; to make stanzas of 1 MiB can take 0.4 s, so larger ones
are handed over one in each turn of the reactor.
"""


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


class _Request:
    """
    A request, from being asked for to its outcome.

    Attributes:
        data: As it is written.
        fresh: It wants a connection that has carried no request before.
        done: Fires with the response or fails with a `WebhookError`; cancelling it ends the request.
        stage: How far it has come: it waits for its turn; the Deferred of the connection that is made for it; the
            connection that it was sent over; it has its outcome, which may still wait to be handed over.
        deadline: When it is given up, once it has its turn.
    """

    __slots__ = ("data", "deadline", "done", "fresh", "stage")

    def __init__(self, data: bytes, fresh: bool, cancel: Callable[[_Request], None]) -> None:
        self.data = data
        self.fresh = fresh
        self.done: Deferred[WholeResponse] = Deferred(lambda _: cancel(self))
        self.stage: Literal["waiting", "over"] | Deferred[Any] | Connection = "waiting"
        self.deadline = 0.0


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
            origin: The start of every URL, such as b"http://127.0.0.1:8080".
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
        self._factory = _ConnectionFactory(lambda: Connection(clock, self, secure=secure))
        # In arrival order; a dictionary, because one that is cancelled must leave without a search.
        self._waiting: dict[_Request, None] = {}
        # Those that had their turn, in the order of their deadlines; the first of them is what the timer is for.
        self._under_way: OrderedDict[_Request, None] = OrderedDict()
        self._timer: Any = None
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
        headers: Headers | bytes | None = None,
        bodyProducer: Any = None,
        *,
        fresh: bool = False,
    ) -> Deferred[Any]:
        """
        Make a request and read the whole response; cancelling ends it at any point and frees what it held.

        Args:
            uri: Absolute and percent-encoded; sent byte for byte from the path on.
            headers: Or their lines, as they are written. The Host header is ours.
            bodyProducer: Must have written everything when its `startProducing` returns, as `BytesProducer` has.
            fresh: Use a connection that has carried no request before.

        Returns:
            Fires with a `WholeResponse`, or fails with a `WebhookError`, nothing else.

        Source: `twisted.web.iweb.IAgent`.
        """
        target = uri[len(self._origin) :]
        if not uri.startswith(self._origin) or not target.startswith(b"/"):
            return fail(ValueError("this agent is for another origin"))
        if self._closed:
            return fail(ConnectionFailed("closed"))
        lines = headers if isinstance(headers, bytes) else header_lines(headers or Headers())
        body = b"" if bodyProducer is None else _written(bodyProducer)
        data = b"%s %s HTTP/1.1\r\nHost: %s\r\n%sContent-Length: %d\r\n\r\n%s" % (
            method,
            target,
            self._host,
            lines,
            len(body),
            body,
        )
        request = _Request(data, fresh, self._cancel)
        self._waiting[request] = None
        self._serve()
        return request.done

    async def close(self) -> None:
        """
        Drop the idle connections and refuse every request from now on, waiting ones too, with `ConnectionFailed`.

        Running requests go on, and their connections close after them; cancel them first to have everything gone
        when this returns.
        """
        self._closed = True
        while self._waiting:
            self._fail(next(iter(self._waiting)), ConnectionFailed("closed"))
        for connection in tuple(self._idle):
            self._dismiss(connection)
        for connection in [each for each in self._connections if each.leaving]:
            await connection.when_gone()

    def _cancel(self, request: _Request) -> None:
        """Free what a request holds that nobody waits for any more."""
        self._release(request)
        # The next one may not be as choosy about its connection.
        self._serve()

    def _release(self, request: _Request) -> None:
        stage = request.stage
        self._waiting.pop(request, None)
        self._end(request)
        if isinstance(stage, Deferred):
            stage.cancel()
        elif isinstance(stage, Connection):
            stage.abort()

    def _fail(self, request: _Request, error: WebhookError) -> None:
        self._release(request)
        request.done.errback(Failure(error))

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
        request = next(iter(self._waiting))
        if self._idle and not request.fresh:
            connection, timer = self._idle.popitem()
            timer.cancel()
            if connection.stale():
                connection.leave()
            else:
                self._begin(request)
                self._send(request, connection)
        elif len(self._connections) + self._connecting < self._max_connections:
            self._begin(request)
            self._connect(request)
        elif self._idle and not any(connection.leaving for connection in self._connections):
            self._dismiss(next(iter(self._idle)))
        else:
            return False
        return True

    def _begin(self, request: _Request) -> None:
        """Let the time limit of a request begin."""
        del self._waiting[request]
        request.deadline = self._clock.seconds() + self._timeout
        self._under_way[request] = None
        if self._timer is None:
            self._timer = self._clock.callLater(self._timeout, self._look_at_deadlines)

    def _look_at_deadlines(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        while self._under_way:
            first = next(iter(self._under_way))
            if first.deadline > now:
                self._timer = self._clock.callLater(first.deadline - now, self._look_at_deadlines)
                return
            if isinstance(first.stage, Deferred):
                self._fail(first, _no_connection(self._connect_timeout))
            else:
                self._fail(first, TimedOut(f"no complete answer within {self._timeout:g} s"))

    def _end(self, request: _Request) -> None:
        """Forget a request that has its outcome, and the timer with the last one."""
        request.stage = "over"
        self._under_way.pop(request, None)
        if not self._under_way and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _send(self, request: _Request, connection: Connection) -> None:
        request.stage = connection
        connection.exchange(request.data, self._body_limit, lambda outcome: self._exchanged(request, outcome))

    def _exchanged(self, request: _Request, outcome: WholeResponse | ConnectionCut) -> None:
        self._end(request)
        if isinstance(outcome, ConnectionCut):
            request.done.errback(Failure(outcome))
        elif len(outcome.body) > AT_ONCE_BYTES:
            self._turns.ask(lambda: self._hand_over(request, outcome))
        else:
            request.done.callback(outcome)

    def _hand_over(self, request: _Request, response: WholeResponse) -> bool:
        """Give a long response to who waits for it; False if it was cancelled meanwhile."""
        if request.done.called:
            return False
        request.done.callback(response)
        return True

    # -- connections --

    def _connect(self, request: _Request) -> None:
        self._connecting += 1
        connecting = Deferred.fromCoroutine(self._connected())
        request.stage = connecting
        connecting.addTimeout(self._connect_timeout, self._clock, lambda _, seconds: Failure(_no_connection(seconds)))
        connecting.addCallbacks(
            lambda connection: self._send(request, connection), lambda reason: self._not_connected(request, reason)
        )

    def _not_connected(self, request: _Request, reason: Failure) -> None:
        if request.stage != "over":
            error = reason.value
            self._end(request)
            assert isinstance(error, WebhookError)
            request.done.errback(reason)

    async def _connected(self) -> Connection:
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
            connection = await _endpoint_connected(self._endpoint, self._factory)
        except Exception:
            self._connecting -= 1
            self._serve()
            raise
        self._connecting -= 1
        self._connections.add(connection)
        return connection

    def park(self, connection: Connection, seconds: float) -> None:
        """See `component_http.webhook.connection.Pool.park`."""
        if self._closed:
            connection.leave()
            return
        self._idle[connection] = self._clock.callLater(seconds, self._dismiss, connection)
        self._serve()

    def gone(self, connection: Connection) -> None:
        """See `component_http.webhook.connection.Pool.gone`."""
        timer = self._idle.pop(connection, None)
        if timer is not None:
            timer.cancel()
        self._connections.discard(connection)
        self._serve()

    def _dismiss(self, connection: Connection) -> None:
        timer = self._idle.pop(connection)
        if timer.active():
            timer.cancel()
        connection.leave()


def header_lines(headers: Headers) -> bytes:
    """Write header fields, except Host."""
    return b"".join(
        b"%s: %s\r\n" % (name, value)
        for name, values in headers.getAllRawHeaders()
        if name.lower() != b"host"
        for value in values
    )


def _written(producer: Any) -> bytes:
    """Take the whole body from a producer that has it in memory."""
    if isinstance(producer, BytesProducer):
        return producer.body
    body = BytesIO()
    producer.startProducing(body)
    return body.getvalue()


def _no_connection(seconds: float) -> ConnectionFailed:
    return ConnectionFailed(f"no connection within {seconds:g} s")


def _endpoint_connected(endpoint: Any, factory: Factory) -> Deferred[Connection]:
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
