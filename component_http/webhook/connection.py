"""One connection to the webhook: a request written, its response read, and then closed or kept."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any
from typing import Protocol as Seam

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol, connectionDone
from zope.interface import implementer  # type: ignore[import-untyped, unused-ignore]

from component_http.errors import ConnectionCut
from component_http.waiters import Waiters
from component_http.webhook.response import ResponseReader, WholeResponse

IDLE_SECONDS = 4.0
"""Seconds an idle connection is kept: one less than the 5 s after which Node, uvicorn and Apache close theirs, so
that a request does not run into a closing connection."""

MAX_IDLE_SECONDS = 60.0
"""Seconds an idle connection is kept at most where the server announces its own time (`Keep-Alive: timeout=75`)."""

FAREWELL_SECONDS = 1.0
"""Seconds a server has to close with us; a TLS peer that never answers would else hold the socket for ever."""

READ_BYTES = 8192
"""
Bytes read at once from one connection. Small chunks and short header lines cost most for each byte, and everything else
waits until all connections that have something were read once.
"""


class Pool(Seam):
    """The pool that a connection belongs to."""

    def park(self, connection: Connection, seconds: float) -> None:
        """Keep a connection whose response is complete for another request, for so long at most."""

    def gone(self, connection: Connection) -> None:
        """Forget a connection, because its socket is closed."""


@implementer(IHandshakeListener)
class Connection(Protocol):
    """
    One connection to the origin.

    Args:
        clock: An `IReactorTime`.
        pool: Where it belongs.
        secure: It runs over TLS: the handshake counts as part of connecting.

    Attributes:
        ready: Fires with None when requests may be sent, which is after the TLS handshake; fails with what the
            transport gave as the reason.
        reused: It has carried a request before.
        leaving: It was told to close; it is gone when `when_gone` fires.
    """

    transport: Any

    def __init__(self, clock: Any, pool: Pool, *, secure: bool) -> None:
        self.ready: Deferred[None] = Deferred()
        self.reused = False
        self.leaving = False
        self._clock = clock
        self._pool = pool
        self._secure = secure
        self._lost = False
        # The response that is awaited, and who is told of it; None while none is.
        self._reader: ResponseReader | None = None
        self._told: Callable[[WholeResponse | ConnectionCut], None] | None = None
        self._farewell: Any = None
        self._until_gone = Waiters()

    def connectionMade(self) -> None:
        self._lowest_transport.bufferSize = READ_BYTES
        if not self._secure:
            self.ready.callback(None)

    def handshakeCompleted(self) -> None:
        # A renegotiation ends here too; and nobody may be waiting any more.
        if not self.ready.called:
            self.ready.callback(None)

    def exchange(
        self,
        request: bytes,
        body_limit: Callable[[int], int],
        told: Callable[[WholeResponse | ConnectionCut], None],
    ) -> None:
        """
        Send a request and read the whole response. One at a time; `abort` ends it.

        Args:
            request: All of it, head and body.
            body_limit: The bytes of body to read at most, given the status.
            told: Called with what came of it, when the connection has found its place; not after `abort`.
        """
        self._reader = ResponseReader(body_limit)
        self._told = told
        self.transport.write(request)

    def dataReceived(self, data: bytes) -> None:
        reader = self._reader
        if reader is None:
            # Nobody asked: out of step, or a server's last words (408) before it closes.
            self.abort()
            return
        reader.feed(data)
        if reader.response is None and reader.broken is None:
            return
        if self._secure:
            # The TLS layer may hold a goodbye that came with the response, and tells only after this returns.
            self._clock.callLater(0, self._settle, reader)
        else:
            self._settle(reader)

    def connectionLost(self, reason: Any = connectionDone) -> None:
        self._lost = self.leaving = True
        if self._farewell is not None:
            self._farewell.cancel()
            self._farewell = None
        self._pool.gone(self)
        reader = self._reader
        if reader is not None:
            if reason.check(ConnectionDone):
                reader.ended()
            elif reader.broken is None:
                # A body without a length is complete only if the connection was closed properly (RFC 9112 section 9.8).
                reader.broken = "the connection broke"
            self._settle(reader)
        if not self.ready.called:
            self.ready.errback(reason)
        self._until_gone.tell()

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
        self._reader = self._told = None
        if not self._lost:
            self.transport.abortConnection()

    def when_gone(self) -> Deferred[None]:
        """Fire when the socket is closed."""
        return succeed(None) if self._lost else self._until_gone.one_more()

    def _leave_at_once(self) -> None:
        self._farewell = None
        self.abort()

    def _settle(self, reader: ResponseReader) -> None:
        """End an exchange, but first let the connection find its place: who acts on the outcome may need it."""
        if self._reader is not reader or self._told is None:
            return
        told, reused = self._told, self.reused
        self._reader = self._told = None
        self.reused = True
        response = reader.response
        seconds = reader.seconds_to_keep(IDLE_SECONDS, MAX_IDLE_SECONDS)
        if not self._lost:
            if seconds > 0 and not self.leaving:
                self._pool.park(self, seconds)
            elif response is not None and response.whole:
                self.leave()
            else:
                self.abort()
        if response is None:
            why = reader.broken or "the connection was closed"
            told(ConnectionCut(why, reused=reused, started=reader.started))
        else:
            told(response)
