"""
Requests to one origin over a bounded pool of connections, as an agent that treq can use.

Twisted's own agent bounds idle connections but not requests, hides whether a connection was used before, reads
headers and bodies without end, and lets a peer that never says goodbye hold a TLS socket for ever.

The path of a request: `PooledAgent` gives it its turn, and an idle `Connection` of its `Pool` or a new one; it ends
with a response or one `WebhookError`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any, Literal

from twisted.internet.defer import Deferred, fail
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent
from zope.interface import implementer  # type: ignore[import-untyped, unused-ignore]

from component_http.contract.reply import Response
from component_http.errors import ConnectionFailed, TimedOut, WebhookError
from component_http.interfaces.tracer import Marks, Tracers
from component_http.turns import Turns
from component_http.webhook.connection import Connection
from component_http.webhook.pool import Pool
from component_http.webhook.response import WholeResponse

AT_ONCE_BYTES = 16_384
"""
The largest body that is handed over as soon as it is there; to make stanzas of 1 MiB can take 0.4 s, so larger ones
are handed over one in each turn of the reactor.
"""


class _Request(Deferred[Response]):
    """
    A request, from being asked for to its outcome: the Deferred of that.

    Attributes:
        data: All of it, as it is written.
        fresh: It wants a connection that has carried no request before.
        stage: How far it has come: it waits for its turn; the Deferred of the connection that is made for it; the
            connection that it was sent over; it has its outcome, which may still wait to be handed over.
        marks: Its moments; None where nobody wants to know them.
    """

    marks: Marks | None = None

    def __init__(self, data: bytes, fresh: bool, cancel: Callable[[Any], None]) -> None:
        super().__init__(cancel)
        self.data = data
        self.fresh = fresh
        self.stage: Literal["waiting", "over"] | Deferred[Any] | Connection = "waiting"


@implementer(IAgent)
class PooledAgent:
    """
    Makes requests to one origin over at most so many connections.

    More requests than connections wait, and get their turn in the order they came; the owner of the requests bounds
    how many wait. A waiting request that is cancelled leaves the queue. An idle connection is used again, the last
    one first, and leaves the pool as soon as its peer closes it, and after some seconds (see `IDLE_SECONDS`).

    A fresh request has its turn like any other, but never gets a used connection: it opens one, and where there are as
    many as allowed, the one that has been idle longest makes room first.

    The time limit starts when a request has its turn, not while it waits for one: the limit is about the webhook,
    and the queue of deliveries has deadlines of its own.

    A response with a long body is handed over in a turn of the reactor of its own, so that many of them together keep
    nobody else waiting (`AT_ONCE_BYTES`).
    """

    def __init__(self, origin: bytes, host: bytes, pool: Pool, timeout: float, tracers: Tracers | None = None) -> None:
        """
        Args:
            origin: The start of every URL, such as b"http://127.0.0.1:8080".
            host: The value of the Host header.
            pool: The connections, for this agent alone.
            timeout: Seconds from connecting to the last byte of the body.
            tracers: While somebody follows deliveries, the moments of each request are noted.
        """
        self._origin = origin
        self._host = host
        self._timeout = timeout
        self._tracers = Tracers() if tracers is None else tracers
        self._limits = pool.limits
        self._turns = Turns(pool.clock)
        self._pool = pool
        pool.freed = self._serve
        # In arrival order; a dictionary, because one that is cancelled must leave without a search.
        self._waiting: dict[_Request, None] = {}
        self._serving = False

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
            headers: The Host header is ours.
            bodyProducer: Writes the body, which is sent when all of it is written.
            fresh: Use a connection that has carried no request before.

        Returns:
            Fires with a `WholeResponse`, or fails with a `WebhookError`, nothing else.

        Source: `twisted.web.iweb.IAgent`.
        """

        async def whole() -> WholeResponse:
            body = BytesIO()
            head = self.head(method, uri, headers or Headers())
            if bodyProducer is not None:
                await bodyProducer.startProducing(body)
            return WholeResponse(await self.send(with_body(head, b"", body.getvalue()), fresh))

        return Deferred.fromCoroutine(whole())

    def head(self, method: bytes, uri: bytes, headers: Headers) -> bytes:
        """
        Write the head of requests, without what is particular to each; see `with_body`.

        Raises:
            ValueError: The URI is of another origin.
        """
        target = uri[len(self._origin) :]
        if not uri.startswith(self._origin) or not target.startswith(b"/"):
            raise ValueError("this agent is for another origin")
        lines = b"".join(
            b"%s: %s\r\n" % (name, value)
            for name, values in headers.getAllRawHeaders()
            if name.lower() != b"host"
            for value in values
        )
        return b"%s %s HTTP/1.1\r\nHost: %s\r\n%s" % (method, target, self._host, lines)

    def send(self, data: bytes, fresh: bool = False) -> Deferred[Response]:
        """
        Send a request that is written already, and read the whole response; like `request` in everything else.

        Returns:
            Fires with the response, whose body is None where it is larger than the agent reads.
        """
        if self._pool.closed:
            return fail(ConnectionFailed("closed"))
        request = _Request(data, fresh, self._cancel)
        self._waiting[request] = None
        self._serve()
        return request

    async def close(self) -> None:
        """
        Drop the idle connections and refuse every request from now on, waiting ones too, with `ConnectionFailed`.

        Running requests go on, and their connections close after them; cancel them first to have everything gone
        when this returns.
        """
        self._pool.closed = True
        while self._waiting:
            self._fail(next(iter(self._waiting)), ConnectionFailed("closed"))
        await self._pool.close()

    def _cancel(self, request: _Request) -> None:
        """Free what a request holds that nobody waits for any more."""
        self._release(request)
        # The next one may not be as choosy about its connection.
        self._serve()

    def _release(self, request: _Request) -> None:
        if request.marks is not None:
            _mark_first_byte(request, request.marks)
        stage, request.stage = request.stage, "over"
        self._waiting.pop(request, None)
        self._limits.end(request)
        if isinstance(stage, Deferred):
            stage.cancel()
        elif isinstance(stage, Connection):
            stage.abort()

    def _fail(self, request: _Request, error: WebhookError) -> None:
        self._release(request)
        request.errback(Failure(error))

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
        connection = None if request.fresh else self._pool.take()
        if connection is None and not self._pool.has_room():
            return self._pool.make_room()
        del self._waiting[request]
        if self._tracers.told is not None:
            request.marks = Marks(self._pool.clock.seconds())
        self._limits.begin(request, self._timeout, self._too_late)
        if connection is not None:
            self._limits.end(connection)
            self._send(request, connection)
        else:
            request.stage = opening = self._pool.open()
            opening.addCallbacks(partial(self._opened, request), partial(self._not_connected, request))
        return True

    def _too_late(self, request: _Request) -> None:
        if isinstance(request.stage, Deferred):
            self._fail(request, self._pool.no_connection(self._timeout))
        else:
            self._fail(request, TimedOut(f"no complete answer within {self._timeout:g} s"))

    def _opened(self, request: _Request, connection: Connection) -> None:
        if request.marks is not None:
            request.marks.connected = self._pool.clock.seconds()
        self._send(request, connection)

    def _send(self, request: _Request, connection: Connection) -> None:
        request.stage = connection
        connection.exchange(request.data, partial(self._exchanged, request))

    def _exchanged(self, request: _Request, outcome: Response | WebhookError) -> None:
        if request.marks is not None:
            _mark_first_byte(request, request.marks)
            if request.marks.first_byte is None and isinstance(outcome, Response):
                request.marks.first_byte = self._pool.clock.seconds()  # all of it came at once
        request.stage = "over"
        self._limits.end(request)
        if isinstance(outcome, WebhookError):
            request.errback(Failure(outcome))
        elif outcome.body is not None and len(outcome.body) > AT_ONCE_BYTES:
            self._turns.ask(lambda: self._hand_over(request, outcome))
        else:
            request.callback(outcome)

    def _hand_over(self, request: _Request, response: Response) -> bool:
        """Give a long response to whoever waits for it; False if it was cancelled meanwhile."""
        if request.called:
            return False
        request.callback(response)
        return True

    def _not_connected(self, request: _Request, reason: Failure) -> None:
        if request.stage != "over":
            request.stage = "over"
            self._limits.end(request)
            request.errback(reason)


def _mark_first_byte(request: _Request, marks: Marks) -> None:
    if isinstance(request.stage, Connection):
        marks.first_byte = request.stage.first_byte


def with_body(head: bytes, lines: bytes, body: bytes) -> bytes:
    """Complete a request whose head was begun by `PooledAgent.head`: with more header lines, and with its body."""
    return b"%s%sContent-Length: %d\r\n\r\n%s" % (head, lines, len(body), body)
