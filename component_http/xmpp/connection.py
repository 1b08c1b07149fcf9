"""
One connection to the XMPP server, from the handshake to its end.

Source: XEP-0114, RFC 6120 section 4.4 (closing).
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPushProducer
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure
from twisted.words.protocols.jabber import xmlstream
from twisted.words.protocols.jabber.component import ConnectComponentAuthenticator
from twisted.words.protocols.jabber.error import StreamError
from twisted.words.protocols.jabber.jid import JID
from twisted.words.xish.domish import Element, ParserError
from twisted.words.xish.xmlstream import STREAM_ERROR_EVENT
from zope.interface import implementer

from component_http.contract.stanza import STANZA_KINDS
from component_http.contract.xml import StreamParser
from component_http.errors import CertificateInvalid
from component_http.tls import OF_SERVER, tls_failure
from component_http.xmpp.servers import Known, known_server
from component_http.xmpp.troubles import SERVED, UNTRUSTED

if TYPE_CHECKING:
    from component_http.xmpp.stream import ComponentStream

HANDSHAKE_TIMEOUT = 10.0
"""Seconds from the connection to the server's answer to our handshake; a healthy server needs milliseconds."""

CLOSE_TIMEOUT = 2.0
"""Seconds the server has to answer our closing tag before the connection is dropped."""

READ_BYTES = 8192
"""
Bytes read at once: some forty stanzas, hardly more than the answers of the webhook that come in the same turn of the
reactor. So a server that writes as fast as it can does not fill the gateway; half of it would cost a stanza 5 % more.
"""

LONG_READ_BYTES = 16384
"""The same after a read in which no stanza ended, for a long one costs little until it ends."""

KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
"""A peer that vanished is noticed after two minutes by the kernel (its default is two hours)."""


@implementer(IPushProducer)
class Connection(xmlstream.XmlStream):
    """
    One connection to the server: our parser and serializer in place of domish's, and the check of all that leaves.

    Attributes:
        closed: Fires with the reason, in words, when the connection is gone.
        header_namespace: The default namespace of the server's stream header; None before it has come.
        server: The server, if it is one that we know.
        authenticated: The server has accepted our handshake.
        held: The transport takes no more for now.
        leaving: It will be closed, within `CLOSE_TIMEOUT`.
        ending: Nothing more is sent: one side has closed the stream, or it broke.
        complaint: Why the stream broke in the server's own word (a stream error's condition) or ours; None if it
            just ended.
        error: The server's stream error, if there was one.
    """

    transport: Any

    def __init__(self, owner: ComponentStream) -> None:
        self._owner = owner
        self._limit: IDelayedCall | None = None
        self._socket: Any = None
        self._one_is_in = False
        self.closed: Deferred[str] = Deferred()
        self.header_namespace: str | None = None
        self.server: Known | None = None
        self.authenticated = False
        self.held = False
        self.leaving = False
        self.ending = False
        self.complaint: str | None = None
        self.error: StreamError | None = None
        super().__init__(ConnectComponentAuthenticator(owner.domain, owner.secret))
        self.addObserver(STREAM_ERROR_EVENT, self._broken)
        self.addObserver(xmlstream.INIT_FAILED_EVENT, self._broken)

    # -- what Twisted calls --

    def _initializeStream(self) -> None:
        self.stream = StreamParser(self._owner.limits, self._skipped)
        self.stream.DocumentStartEvent = self.onDocumentStart
        self.stream.ElementEvent = self.onElement
        self.stream.DocumentEndEvent = self.onDocumentEnd

    def _callLater(self, *args: Any, **kwargs: Any) -> Any:
        return self._owner.clock.callLater(*args, **kwargs)

    def connectionMade(self) -> None:
        self._limit_to(HANDSHAKE_TIMEOUT, self._handshake_timed_out)
        self._socket = _socket_of(self.transport)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        if self.complaint is None:
            self._one_is_in = False
            super().dataReceived(data)
            if self._socket is not None:
                self._socket.bufferSize = READ_BYTES if self._one_is_in else LONG_READ_BYTES
            self._owner.was_read()

    def pauseProducing(self) -> None:
        if not self.held:
            self.held = True
            self._owner.writing_held()

    def resumeProducing(self) -> None:
        self.held = False
        self._owner.writing_resumed()

    def stopProducing(self) -> None:
        """Do nothing: `connectionLost` follows."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ending = True
        self._no_limit()
        failure = tls_failure(reason.value, self._owner.address, OF_SERVER)
        if failure is not None and self.complaint is None:
            refused = isinstance(failure, CertificateInvalid)
            self.complaint = f"{UNTRUSTED} ({failure})" if refused else str(failure)
        super().connectionLost(reason)
        self.closed.callback(reason.getErrorMessage())

    def onDocumentStart(self, rootElement: Element) -> None:
        self.header_namespace = rootElement.defaultUri
        self.server = known_server(rootElement.getAttribute("id") or "")
        if self.header_namespace in SERVED:
            # The handshake would give a digest of the secret to whoever listens there.
            self.complaint = f"the server's stream is of {self.header_namespace}"
            self.close()
            self.transport.loseConnection()
        else:
            super().onDocumentStart(rootElement)

    def onElement(self, element: Element) -> None:
        self._one_is_in = True
        if self.authenticated and element.name in STANZA_KINDS:
            if not self._owner.takes(element):
                return
            # wokkel's handlers ask for it, and would else find a child of that name.
            element.handled = False  # type: ignore[attr-defined]
        super().onElement(element)

    def onDocumentEnd(self) -> None:
        if not self.ending:
            self.close()
        self.transport.loseConnection()

    def send(self, obj: Any) -> None:
        """Send an element or XML text; once authenticated only what passes the check of `contract.outgoing`."""
        if self.authenticated:
            self._owner.send(obj)
        else:
            super().send(obj)

    # -- what ComponentStream calls --

    @property
    def ready(self) -> bool:
        """Stanzas can be sent."""
        return self.authenticated and not self.ending

    def write(self, xml: bytes) -> None:
        """Send XML that was checked before."""
        if self.rawDataOutFn is not None:
            self.rawDataOutFn(xml)
        self.transport.write(xml)

    def accepted(self) -> None:
        """The server has accepted the handshake."""
        self.authenticated = True
        self.thisEntity = JID(self._owner.domain)  # type: ignore[assignment]
        self._no_limit()
        self.transport.registerProducer(self, True)

    def leave(self) -> None:
        """Be gone in `CLOSE_TIMEOUT` at the latest; until it is closed it can be written to."""
        if not self.leaving:
            self.leaving = True
            self._limit_to(CLOSE_TIMEOUT, self.transport.abortConnection)

    def close(self) -> None:
        """Close the stream politely (RFC 6120 section 4.4), and for good after `CLOSE_TIMEOUT`."""
        if not self.ending:
            self.leave()
            self.ending = True
            if self.authenticated:
                self.transport.unregisterProducer()  # a transport that has one does not close
            if self._headerSent:
                self.write(b"</stream:stream>")

    # -- the rest --

    def _broken(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, StreamError):
            self.complaint = error.condition
            self.error = error
            self.server = self.server or known_server("", error.text or "")
        elif isinstance(error, ParserError):
            self.complaint = f"the server sent what is not XML we can read ({error})"
        else:
            self.complaint = f"the server did not take part in the handshake ({error})"
        self.close()
        self.transport.loseConnection()

    def _handshake_timed_out(self) -> None:
        self.complaint = f"the server did not answer the handshake within {HANDSHAKE_TIMEOUT:g} s"
        self.transport.abortConnection()

    def _skipped(self, start: Element, reason: str) -> None:
        if self.authenticated:
            self._owner.skipped(start, reason)

    def _limit_to(self, seconds: float, strike: Callable[[], object]) -> None:
        """Let the connection reach its next state in time; there is one such limit at a time."""
        self._no_limit()
        self._limit = self._callLater(seconds, strike)

    def _no_limit(self) -> None:
        cancel(self._limit)
        self._limit = None


def _socket_of(transport: Any) -> Any:
    """
    Find the transport that reads a socket, if there is one: in memory there is none, and TLS runs over another one.

    Have it read little at a time, notice a peer that vanished, and send small stanzas at once.
    """
    while transport is not None:
        handle = transport.getHandle() if hasattr(transport, "getHandle") else None
        if isinstance(handle, socket.socket):
            transport.bufferSize = READ_BYTES
            if handle.family in (socket.AF_INET, socket.AF_INET6):
                handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in KEEPALIVE:
                    if hasattr(socket, option):
                        handle.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
            return transport
        transport = getattr(transport, "transport", None)
    return None


def cancel(call: IDelayedCall | None) -> None:
    """Cancel a call that may have run already, or was never planned."""
    if call is not None and call.active():
        call.cancel()


def cancel_after(result: Any, call: IDelayedCall) -> Any:
    """Cancel a call when a Deferred fires."""
    cancel(call)
    return result
