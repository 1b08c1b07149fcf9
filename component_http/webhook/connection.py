"""One connection to the webhook: a request written, its response read, and then closed or kept."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Protocol, connectionDone
from zope.interface import implementer  # type: ignore[import-untyped, unused-ignore]

from component_http.contract.reply import Response
from component_http.errors import CertificateInvalid, CertificateRefused, ConnectionCut, WebhookError
from component_http.tls import tls_failure
from component_http.waiters import Waiters
from component_http.webhook.response import ResponseReader, read_at_once

if TYPE_CHECKING:
    from component_http.webhook.pool import Pool

FAREWELL_SECONDS = 1.0
"""Seconds a server has to close with us; a TLS peer that never answers would else hold the socket for ever."""

READ_BYTES = 8192
"""
Bytes read at once from one connection. Small chunks and short header lines cost most for each byte, and everything else
waits until all connections that have something were read once.
"""

BODY_BYTES = 65_536
"""The same while a body of known length is read, which costs little for each byte."""


@implementer(IHandshakeListener)
class Connection(Protocol):
    """
    One connection to the origin.

    Args:
        pool: The pool it belongs to.

    Attributes:
        ready: Fires with None when requests may be sent, which is after the TLS handshake; fails with what the
            transport gave as the reason.
        reused: It has carried a request before.
        leaving: It was told to close; it is gone when `when_gone` fires.
        first_byte: When the response under way began, by the reactor's clock; None where none has, or where it came as
            a whole.
    """

    transport: Any

    def __init__(self, pool: Pool) -> None:
        self.ready: Deferred[None] = Deferred()
        self.reused = False
        self.leaving = False
        self.first_byte: float | None = None
        self._pool = pool
        self._lost = False
        # Told of the response that is awaited; None while none is. And its reader, once some of it has arrived.
        self._told: Callable[[Response | WebhookError], None] | None = None
        self._reader: ResponseReader | None = None
        # The transport of the socket, also under TLS; whether it took every request as a whole; and a poll object that
        # tells whether the socket can be read.
        self._lowest: Any = None
        self._at_once = False
        self._poll: Any = None
        self._farewell: Any = None
        self._until_gone = Waiters()

    def connectionMade(self) -> None:
        self._lowest = getattr(self.transport, "transport", self.transport)
        self._lowest.bufferSize = READ_BYTES
        if hasattr(self._lowest, "fileno"):
            self._poll = select.poll()
            self._poll.register(self._lowest.fileno(), select.POLLIN)
        if not self._pool.secure:
            self._at_once = hasattr(self.transport, "writeSomeData")
            self.ready.callback(None)

    def handshakeCompleted(self) -> None:
        # A renegotiation ends here too; and nobody may be waiting any more.
        if not self.ready.called:
            self.ready.callback(None)

    def exchange(self, request: bytes, told: Callable[[Response | WebhookError], None]) -> None:
        """
        Send a request and read the whole response. One at a time; `abort` ends it.

        Args:
            request: All of it, head and body.
            told: Called with the outcome, when the connection has found its place; not after `abort`.
        """
        self._told = told
        self.first_byte = None
        if self._at_once:
            # `write` would wait until the reactor says that the socket can be written: two system calls and an event.
            sent = self.transport.writeSomeData(request)
            if sent == len(request):
                return
            # The remainder waits in the transport, so later requests have to wait there as well.
            self._at_once = False
            request = request[sent:] if isinstance(sent, int) else request
        self.transport.write(request)

    def dataReceived(self, data: bytes) -> None:
        if self._told is None:
            # Nobody asked: out of step, or a server's last words (408) before it closes.
            self.abort()
            return
        reader = self._reader
        if reader is None:
            if not self._pool.secure:
                whole = read_at_once(data, self._pool.body_limit)
                if whole is not None:
                    self._settle(*whole)
                    return
            reader = self._reader = ResponseReader(self._pool.body_limit)
            self.first_byte = self._pool.clock.seconds()
        reader.feed(data)
        if reader.response is None and reader.broken is None:
            if reader.reads_known_length:
                self._lowest.bufferSize = BODY_BYTES
            return
        if self._pool.secure:
            # The TLS layer may hold a goodbye that came with the response, and tells only after this returns.
            self._pool.clock.callLater(0, self._read, reader)
        else:
            self._read(reader)

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
            self._read(reader)
        elif self._told is not None:
            self._settle(self._unanswered(reason), 0.0)
        if not self.ready.called:
            self.ready.errback(reason)
        self._until_gone.tell()

    def _unanswered(self, reason: Any) -> WebhookError:
        """Make the error for a connection that ended before anything of a response was there."""
        if reason.check(ConnectionDone):
            return ConnectionCut("closed without an answer", reused=self.reused, started=False)
        failure = tls_failure(reason.value, self._pool.where) if self._pool.secure else None
        # With TLS 1.3 the other side looks at our certificate when the request is on its way already.
        if isinstance(failure, CertificateInvalid) or (isinstance(failure, CertificateRefused) and not self.reused):
            return failure
        return ConnectionCut(str(failure or "the connection broke"), reused=self.reused, started=False)

    def stale(self) -> bool:
        """
        Tell whether the peer has closed, or said something unasked, and the reactor has not come to that yet.

        Without this look a request that follows the last one closely goes into a connection that is already closed.
        """
        return bool(self._lowest.disconnecting or (self._poll is not None and self._poll.poll(0)))

    def leave(self) -> None:
        """Close politely, and abort if the peer does not do the same soon."""
        if not self.leaving:
            self.leaving = True
            self._farewell = self._pool.clock.callLater(FAREWELL_SECONDS, self._leave_at_once)
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

    def _read(self, reader: ResponseReader) -> None:
        """End the exchange of a reader, unless that is done."""
        if self._reader is not reader:
            return
        # A response that was complete before the connection broke is one.
        if reader.response is not None:
            self._settle(reader.response, reader.keep)
        else:
            why = reader.broken or "the connection was closed"
            self._settle(ConnectionCut(why, reused=self.reused, started=True), 0.0)

    def _settle(self, outcome: Response | WebhookError, keep: float) -> None:
        """End an exchange, but first let the connection find its place: whoever acts on the outcome may need it."""
        told = self._told
        assert told is not None
        if self._reader is not None:
            self._lowest.bufferSize = READ_BYTES
        self._reader = self._told = None
        self.reused = True
        if not self._lost:
            if keep > 0 and not self.leaving:
                self._pool.park(self, keep)
            elif isinstance(outcome, Response) and outcome.body is not None:
                self.leave()
            else:
                self.abort()
        told(outcome)
