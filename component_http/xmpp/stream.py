"""
The component's stream to its XMPP server, as a wokkel StreamManager.

Source: XEP-0114 (Jabber Component Protocol), RFC 6120 sections 4.4 (closing), 4.9 (stream errors) and 11 (XML usage).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Any

from constantly import NamedConstant
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IStreamClientEndpoint
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.task import deferLater
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure
from twisted.words.protocols.jabber import error as jabber_error
from twisted.words.protocols.jabber import xmlstream
from twisted.words.protocols.jabber.component import ConnectComponentAuthenticator
from twisted.words.protocols.jabber.jid import JID
from twisted.words.xish import domish
from twisted.words.xish.xmlstream import STREAM_CONNECTED_EVENT, STREAM_ERROR_EVENT, XmlStreamFactoryMixin
from wokkel.subprotocols import StreamManager
from zope.interface import implementer

from component_http.contract import conditions
from component_http.contract.address import Address, NotAnAddress
from component_http.contract.outbound import LIFETIMES, Fate, OutboundStanza, Refused
from component_http.contract.stanza import STANZA_KINDS, Stanza
from component_http.contract.xml import NS_COMPONENT, Limits, StreamParser
from component_http.errors import CertificateInvalid, MalformedStanza
from component_http.interfaces import Observer
from component_http.throttle import Folded
from component_http.tls import tls_failure
from component_http.xmpp.write_queue import MAX_STANZAS
from component_http.xmpp.writer import OutgoingCheck, Writer, nobody

__all__ = ["BorrowedStream", "ComponentStream"]

HANDSHAKE_TIMEOUT = 10.0
"""Seconds from the connection to the server's answer to our handshake; a healthy server needs milliseconds."""

FIRST_RETRY, LAST_RETRY = 1.0, 60.0
"""Shortest and longest wait between two connections, in seconds."""

STABLE_AFTER = 30.0
"""Seconds authenticated after which a stream counts as good and the next wait starts small again."""

MAX_PAUSE = 5.0
"""Seconds that reading may rest; ejabberd cuts off a component that does not read for 15 s."""

MAX_COMPLAINTS = 100
"""Different things that can be wrong at once before they are told again; rubbish from a server differs each time."""

CLOSE_TIMEOUT = 2.0
"""Seconds the server has to answer our closing tag before the connection is dropped."""

READ_BYTES = 8192
"""Bytes read at once: some dozens of stanzas, so that no webhook's answer waits for hundreds of them."""

KEEPALIVE = (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
"""A peer that vanished is noticed after two minutes by the kernel (its default is two hours)."""

UNTRUSTED = "the server's certificate cannot be trusted"
"""What is said when we refuse the certificate of a `tls:` endpoint."""

WRONG_PORT = "component.server does not name a component port"
"""What is said when somebody else than components is served there."""

_SERVED = {"jabber:client": "clients", "jabber:server": "other servers"}
"""Who is served on a port, by the default namespace of the server's stream header (RFC 6120 section 4.8.2)."""

_USUAL_PORTS = {"5222": "clients", "5223": "clients", "5269": "other servers", "5270": "other servers"}
"""Who is usually served on a port (RFC 6120 section 14.7, XEP-0368)."""

REMEDIES = {
    WRONG_PORT: (
        "name the port for components, which is 5347 unless the server's configuration says otherwise: component_ports"
        " in Prosody, the port of the ejabberd_service listener in ejabberd"
    ),
    UNTRUSTED: (
        "renew it, or give the name that it is for as the host of component.server; the gateway trusts the authorities"
        " that the platform trusts, or those in the folder that trustRoots= names there"
    ),
    "not-authorized": (
        'the secret is not the server\'s: compare it with component_secret of Component "{domain}" in Prosody, or with'
        " the password of {domain} under ejabberd_service in ejabberd, which says the same when {domain} is not among"
        " the hosts there"
    ),
    "host-unknown": (
        'the server has no component {domain}: add Component "{domain}" to Prosody\'s configuration,'
        " or {domain} to the hosts of an ejabberd_service listener"
    ),
    "conflict": (
        "the server has a session for {domain} already: stop the other process that serves it; if there is none the"
        ' server still holds a dead one, and Prosody lets go of it with component_conflict_resolve = "kick_old"'
    ),
}
"""What to do about it, by what we say, or by the condition of the server's stream error (RFC 6120 section 4.9.3)."""

BY_A_STANZA = frozenset(
    {
        "bad-format",
        "bad-namespace-prefix",
        "improper-addressing",
        "invalid-from",
        "invalid-namespace",
        "invalid-xml",
        "not-well-formed",
        "policy-violation",
        "restricted-xml",
        "unsupported-encoding",
        "unsupported-stanza-type",
    }
)
"""Conditions by which a server says that it closes the stream because of what we wrote (RFC 6120 section 4.9.3)."""

FOR_SIZE = frozenset({"not-well-formed", "policy-violation"})
"""Those for a stanza that is too large: Prosody says the first, ejabberd the second. What we write is well-formed."""

BY_NO_STANZA = frozenset(
    {
        "conflict",
        "connection-timeout",
        "host-gone",
        "host-unknown",
        "not-authorized",
        "remote-connection-failed",
        "reset",
        "see-other-host",
        "system-shutdown",
        "unsupported-version",
    }
)
"""Those by which it says that it does so for another reason. The others, and none at all, may mean either."""

IF_TOO_LARGE = (
    "if it is too large, raise the server's limit (component_stanza_size_limit in Prosody's global section,"
    " max_stanza_size of the ejabberd_service listener in ejabberd), or lower component.max_stanza_bytes to it"
)
IF_NOT_ALLOWED = "whoever made it has to write it in another way"
"""What to do about a stanza that the server refuses."""


@implementer(IPushProducer)
class _Connection(xmlstream.XmlStream):
    """
    One connection to the server: our parser and serializer in place of domish's, and the check of all that leaves.

    Attributes:
        closed: Fires with the reason, in words, when the connection is gone.
        header_namespace: The default namespace of the server's stream header; None before it has come.
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
        self.closed: Deferred[str] = Deferred()
        self.header_namespace: str | None = None
        self.authenticated = False
        self.held = False
        self.leaving = False
        self.ending = False
        self.complaint: str | None = None
        self.error: jabber_error.StreamError | None = None
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
        _set_tcp_options(self.transport)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        if self.complaint is None:
            super().dataReceived(data)
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
        failure = tls_failure(reason.value)
        if failure is not None and self.complaint is None:
            refused = isinstance(failure, CertificateInvalid)
            self.complaint = f"{UNTRUSTED} ({failure})" if refused else str(failure)
        super().connectionLost(reason)
        self.closed.callback(reason.getErrorMessage())

    def onDocumentStart(self, rootElement: domish.Element) -> None:
        self.header_namespace = rootElement.defaultUri
        if self.header_namespace in _SERVED:
            # The handshake would give a digest of the secret to whoever listens there.
            self.complaint = f"the server's stream is of {self.header_namespace}"
            self.close()
            self.transport.loseConnection()
        else:
            super().onDocumentStart(rootElement)

    def onElement(self, element: domish.Element) -> None:
        if self.authenticated and element.name in STANZA_KINDS:
            try:
                Address.parse(element.getAttribute("from") or "")
                recipient = Address.parse(element.getAttribute("to") or "")
            except NotAnAddress as error:
                self._owner.ignored("malformed", element.name, str(error))
                return
            if recipient.domain != self._owner.domain:
                self._owner.ignored("foreign", element.name, "it is for another domain")
                return
            if element.name == "iq" and self._owner.is_own_ping(element):
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

    def write(self, xml: str | bytes) -> None:
        """Send what was checked before."""
        super().send(xml)

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
                self.write("</stream:stream>")

    def refusal(self) -> Refused | None:
        """Why the server ended the stream, if that may have been because of what was written."""
        if self.complaint is None:
            return Refused("the connection ended each time it was written", IF_TOO_LARGE, for_size=True)
        if self.error is None or self.complaint in BY_NO_STANZA:
            return None
        text = " ".join((self.error.text or "").split())[:200]
        reason = f"{self.complaint} ({text})" if text else self.complaint
        if self.complaint in BY_A_STANZA - FOR_SIZE:
            return Refused(reason, IF_NOT_ALLOWED)
        return Refused(reason, IF_TOO_LARGE, for_size=True)

    # -- the rest --

    def _broken(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, jabber_error.StreamError):
            self.complaint = error.condition
            self.error = error
        elif isinstance(error, domish.ParserError):
            self.complaint = f"the server sent what is not XML we can read ({error})"
        else:
            self.complaint = f"the server did not take part in the handshake ({error})"
        self.close()
        self.transport.loseConnection()

    def _handshake_timed_out(self) -> None:
        self.complaint = f"the server did not answer the handshake within {HANDSHAKE_TIMEOUT:g} s"
        self.transport.abortConnection()

    def _skipped(self, start: domish.Element, reason: str) -> None:
        if self.authenticated:
            self._owner.skipped(start, reason)

    def _limit_to(self, seconds: float, strike: Callable[[], object]) -> None:
        """Let the connection reach its next state in time; there is one such limit at a time."""
        self._no_limit()
        self._limit = self._callLater(seconds, strike)

    def _no_limit(self) -> None:
        _cancel(self._limit)
        self._limit = None


def _set_tcp_options(transport: Any) -> None:
    """Read little at a time, notice a peer that vanished, and send small stanzas at once; not in memory."""
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
            return
        transport = getattr(transport, "transport", None)  # TLS runs over another one


def _nothing() -> Iterable[domish.Element | OutboundStanza]:
    """Write nothing of its own on a new stream."""
    return ()


def _as_it_is(stanza: Stanza) -> Stanza:
    """Change nothing, where nobody knows of rooms."""
    return stanza


class _ConnectionFactory(XmlStreamFactoryMixin, Factory):
    """Makes connections, each with the StreamManager's observers (`addBootstrap`)."""

    protocol = _Connection
    noisy = False


class ComponentStream(StreamManager, Service):
    """
    Keeps one authenticated component stream to an XMPP server; an `Outlet` and a `Valve`.

    Handlers are added with `addHandler` as with any StreamManager. What they send, like everything else, passes the
    check of `contract.outgoing`; what fails it is dropped, counted as `unsendable` and logged.

    What cannot be written now, for there is no stream or its transport takes no more, waits in one queue. While that is
    crowded, reading rests as well: what the server sends makes more to be sent. It does not rest while suspects are
    written one by one, for each waits for the server's answer to a ping.

    Args:
        endpoint: Where the server listens for components.
        domain: The component's own domain, normalised.
        secret: What the server knows it by.
        address: The host and the port of the server, or the path of its socket, for the log.
        limits: For one stanza, in both directions.
        observer: Told `connected`, `stream_lost`, `connection_failed`, `oversized`, `malformed`, `foreign`,
            `unsendable`, `unanswered`, `outgoing_full`, `outgoing_lost`, `outgoing_refused`, `reading_paused`,
            `writing_held`.
        clock: The reactor, or a clock in tests.
        random: Source of the jitter between two connections.
        sent: Told each stanza that leaves, whoever sends it (`Rooms.sent`).
        first: Gives what is written first on each new stream, before all that waits (`Entrances.first`).
        marked: Marks what comes from a room that we are in (`Rooms.marked`).
        max_waiting: Stanzas that may wait to be sent.
        confirm: Ask the server whether it has what we wrote, and write again what it has not when a stream was lost.
        fallback: The domain to ask where pings to ourselves do not come back; None for none.
        lifetimes: Seconds for which a stanza is of use, by its kind.
        now: The wall clock, seconds since the epoch, for what leaves late.
    """

    _log = Logger()

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        domain: str,
        secret: str,
        *,
        address: str = "the server",
        limits: Limits,
        observer: Observer,
        clock: Any,
        random: Random,
        sent: Callable[[OutboundStanza], object] = nobody,
        first: Callable[[], Iterable[domish.Element | OutboundStanza]] = _nothing,
        marked: Callable[[Stanza], Stanza] = _as_it_is,
        max_waiting: int = MAX_STANZAS,
        confirm: bool = True,
        fallback: str | None = None,
        lifetimes: Mapping[str, float] = LIFETIMES,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.domain = domain
        self.secret = secret
        self.limits = limits
        self.clock = clock
        self._endpoint = endpoint
        self._address = address
        self._observer = observer
        self._random = random
        self._connection: _Connection | None = None
        self._writer = Writer(
            domain,
            limits,
            observer,
            clock=clock,
            now=now,
            crowd=self._crowd_changed,
            dead=self._dead,
            sent=sent,
            max_waiting=max_waiting,
            confirm=confirm,
            fallback=fallback,
            lifetimes=lifetimes,
        )
        self._failures = 0
        self._complaints: set[str] = set()
        self._lines = Folded(clock.seconds)
        self._first = first
        self._marked = marked
        self._loop: Deferred[None] | None = None
        self._stopping: list[Deferred[None]] = []
        self._resuming: IDelayedCall | None = None
        self._asked_to_pause = False
        self._stable: IDelayedCall | None = None
        factory = _ConnectionFactory(self)
        factory.addBootstrap(STREAM_CONNECTED_EVENT, self._connection_made)
        super().__init__(factory, clock)

    # -- service --

    def startService(self) -> None:
        Service.startService(self)
        if self._loop is None:
            self._begin()  # else a stop is under way; the server knows one stream of a component at a time

    def stopService(self) -> Deferred[None]:
        Service.stopService(self)
        if self._loop is None:
            self._writer.stop()
            return succeed(None)
        stopped: Deferred[None] = Deferred()
        self._stopping.append(stopped)
        if len(self._stopping) == 1:
            closed = Deferred.fromCoroutine(self._close(self._loop))
            closed.addErrback(self._loop_ended).addCallback(self._closed)
        return stopped

    def _begin(self) -> None:
        self._loop = Deferred.fromCoroutine(self._stay_connected())
        self._loop.addErrback(self._loop_ended)

    async def _close(self, loop: Deferred[None]) -> None:
        self._read_again()
        if self._connection is None:
            loop.cancel()
        elif self._connection.ready:
            self._connection.leave()
            self._writer.drain()
        else:
            self._connection.close()
        await loop
        self._writer.stop()

    def _closed(self, _: None) -> None:
        self._loop = None
        stopping, self._stopping = self._stopping, []
        for stopped in stopping:
            stopped.callback(None)
        if self.running and self._loop is None:
            self._begin()

    def _loop_ended(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("the stream gave up: internal error", failure=failure)

    async def _stay_connected(self) -> None:
        while not self._stopping:
            lost_because = await self._one_connection()
            if self._stopping:
                return
            delay = self._next_delay()
            self._complain(lost_because, delay)
            await deferLater(self.clock, delay)

    async def _one_connection(self) -> str:
        """Connect and stay until the connection ends; returns why it ended."""
        try:
            connection: Any = await self._endpoint.connect(self.factory)
        except CancelledError:
            raise
        except Exception as error:
            self._observer.count("connection_failed")
            return f"cannot connect to {self._address}: {error}"
        reason = await connection.closed
        if not self._stopping:
            self._observer.count("stream_lost" if connection.authenticated else "connection_failed")
        complaint = connection.complaint or f"the server closed the stream ({reason})"
        served = self._served_instead(connection)
        return complaint if served is None else f"{WRONG_PORT} ({self._address} is for {served}: {complaint})"

    def _served_instead(self, connection: _Connection) -> str | None:
        """Who is served on the server's port instead of components; None where that cannot be told."""
        if connection.header_namespace == NS_COMPONENT:
            return None
        port = self._address.rpartition(":")[2]
        return _SERVED.get(connection.header_namespace or "") or _USUAL_PORTS.get(port)

    def _next_delay(self) -> float:
        self._failures += 1
        longest = min(LAST_RETRY, FIRST_RETRY * 2.0 ** min(self._failures, 10))
        return self._random.uniform(FIRST_RETRY, longest)

    def _complain(self, complaint: str, delay: float) -> None:
        # A complaint may have details in brackets.
        remedy = REMEDIES.get(complaint.partition(" (")[0], "").format(domain=self.domain)
        self._complain_once(
            LogLevel.error if remedy else LogLevel.warn, f"{complaint}: {remedy}" if remedy else complaint
        )
        self._log.debug("connecting again in {delay:.1f} s", delay=delay)

    def _complain_once(self, level: NamedConstant, complaint: str) -> None:
        """Log what is wrong with the stream, once until it is mended or something else is wrong."""
        if len(self._complaints) > MAX_COMPLAINTS:
            self._complaints.clear()
        if complaint not in self._complaints:
            self._complaints.add(complaint)
            self._log.emit(level, "{domain}: {complaint} (still trying)", domain=self.domain, complaint=complaint)

    # -- stream --

    def _connection_made(self, connection: _Connection) -> None:
        self._connection = connection
        connection.closed.addCallback(self._connection_closed)

    def _connection_closed(self, reason: str) -> str:
        connection, self._connection = self._connection, None
        _cancel(self._stable)
        self._stable = None
        _cancel(self._resuming)
        self._resuming = None
        self._asked_to_pause = False
        assert connection is not None
        why = None if self._stopping else connection.refusal()
        certain = connection.complaint in BY_A_STANZA
        loss = self._writer.lost(why, certain=certain, for_good=bool(self._stopping))
        if loss.suspected or loss.refused:
            # The server works, but for what is found out now.
            self._failures = 0
        return reason

    def _authd(self, xs: _Connection) -> None:
        """The stream is ready: send what waited, then let the handlers know (wokkel calls this)."""
        if xs.ending:
            return
        xs.accepted()
        self._observer.count("connected")
        self._log.info("connected and authenticated as {domain}", domain=self.domain)
        self._stable = self.clock.callLater(STABLE_AFTER, self._all_is_well)
        self._writer.connected(xs, self._first())
        super()._authd(xs)

    def is_own_ping(self, element: domish.Element) -> bool:
        """Whether an iq that arrived is a ping of ours that came back, or its answer, which no handler is to see."""
        return self._writer.barrier.returned(element)

    def _all_is_well(self) -> None:
        self._failures = 0
        self._complaints.clear()

    def send(self, obj: Any) -> bool:
        """
        Send one stanza, or keep it until the stream is there and takes it, as long as there is room.

        Args:
            obj: A `domish.Element`; or XML text of stanzas, which is parsed and checked like one.

        Returns:
            False if it was neither sent nor kept.
        """
        return self._writer.send(obj)

    def depart(self, outbound: OutboundStanza, tell: Callable[[Fate], None]) -> bool:
        """See `component_http.interfaces.Outlet.depart`."""
        return self._writer.depart(outbound, tell)

    def give_back(self) -> None:
        """See `component_http.interfaces.Outlet.give_back`."""
        self._writer.give_back()

    @property
    def connected(self) -> bool:
        """There is a stream that stanzas can be sent on."""
        return self._connection is not None and self._connection.ready

    @property
    def crowded(self) -> bool:
        """See `component_http.interfaces.Outlet`."""
        return self._writer.queue.crowded

    def when_clear(self) -> Deferred[None]:
        """See `component_http.interfaces.Outlet.when_clear`; it fires when the stream is stopped, too."""
        return self._writer.queue.when_clear()

    def when_sent(self) -> Deferred[None]:
        """See `component_http.interfaces.Outlet.when_sent`; it fires when the stream is stopped, too."""
        return self._writer.when_sent()

    def writing_held(self) -> None:
        """The transport takes no more for now."""
        self._observer.count("writing_held")

    def writing_resumed(self) -> None:
        """The transport takes more."""
        self._writer.drain()

    def _dead(self, reason: str) -> None:
        if self._connection is not None:
            self._connection.complaint = reason
            self._connection.transport.abortConnection()

    def was_read(self) -> None:
        """Something came; if too much waits to leave, let it be all for a moment."""
        self._writer.barrier.heard()
        if self.crowded:
            self._rest()

    def ignored(self, event: str, kind: str, reason: str) -> None:
        """A stanza arrived that cannot be answered without ending the stream: there is no address to or from."""
        self._observer.count(event)
        self._lines.write(event, self._log.warn, "ignored a {kind}: {reason}", kind=kind, reason=reason)

    def skipped(self, start: domish.Element, reason: str) -> None:
        """A stanza over the limits arrived and was not built; its sender is told."""
        self._observer.count("oversized")
        self._lines.write("oversized", self._log.warn, "refused a {kind}: {reason}", kind=start.name, reason=reason)
        try:
            stanza = self._marked(Stanza.from_element(start))
        except MalformedStanza:
            if start.name == "iq" and start.getAttribute("type") not in ("error", "result"):
                self._observer.count("unanswered")
            return
        if stanza.bounceable:
            self.send(conditions.error_stanza(stanza, conditions.TOO_LARGE))

    # -- valve --

    def pause(self) -> None:
        """Stop reading for a moment, at most `MAX_PAUSE` seconds."""
        self._rest()
        self._asked_to_pause = self._resuming is not None

    def resume(self) -> None:
        """Read again, unless too much waits to leave."""
        self._asked_to_pause = False
        if not self.crowded:
            self._read_again()

    def _crowd_changed(self, crowded: bool) -> None:
        if crowded:
            self._rest()
        elif not self._asked_to_pause:
            self._read_again()

    def _rest(self) -> None:
        """Stop reading for a moment; not while all that leaves waits for a barrier, which is among what is read."""
        connection = self._connection
        if self._writer.on_trial:
            return
        if connection is not None and connection.ready and not connection.leaving and self._resuming is None:
            self._observer.count("reading_paused")
            self._resuming = self.clock.callLater(MAX_PAUSE, self._read_again)
            self._writer.barrier.paused()
            connection.transport.pauseProducing()

    def _read_again(self) -> None:
        """Read, whoever asked for a pause; who still wants one has to ask again."""
        self._asked_to_pause = False
        if self._resuming is not None:
            _cancel(self._resuming)
            self._resuming = None
            self._writer.barrier.resumed()
            if self._connection is not None:
                self._connection.transport.resumeProducing()


def _cancel(call: IDelayedCall | None) -> None:
    """Cancel what may have run already, or never was."""
    if call is not None and call.active():
        call.cancel()


class BorrowedStream:
    """
    The stream of a StreamManager that somebody else owns, as an `Outlet` and a `Valve`.

    What we send there is checked and escaped as on our own stream. Everything else is up to the owner: reading is not
    paused, sending while offline is queued as the owner queues, and nothing is known of a crowd.

    Args:
        manager: Has, or will have, a component's stream.
        domain: The component's own domain, normalised.
        limits: For one stanza.
        observer: Told `unsendable` and `unanswered`.
        sent: Told each stanza that we send (`Rooms.sent`).
    """

    def __init__(
        self,
        manager: StreamManager,
        domain: str,
        limits: Limits,
        observer: Observer,
        sent: Callable[[OutboundStanza], object] = nobody,
    ) -> None:
        self._manager = manager
        self._check = OutgoingCheck(domain, limits, observer, sent, time.monotonic)

    def send(self, element: domish.Element) -> bool:
        """Send one stanza, as the owner's stream sends; False if it may not be sent."""
        passed = self._check.passed(element)
        for outbound in passed:
            self._manager.send(outbound.xml.decode("utf-8"))
        return bool(passed)

    def depart(self, outbound: OutboundStanza, tell: Callable[[Fate], None]) -> bool:
        """Send it, as the owner's stream sends; that counts as confirmed, for nothing more is known of it."""
        self._manager.send(outbound.xml.decode("utf-8"))
        self._check.sent(outbound)
        tell("confirmed")
        return True

    def give_back(self) -> None:
        """Do nothing: what waits is the owner's."""

    @property
    def connected(self) -> bool:
        """There is a stream, as far as that is known."""
        return self._manager.xmlstream is not None

    @property
    def crowded(self) -> bool:
        """Never: how much waits is the owner's to know."""
        return False

    def when_clear(self) -> Deferred[None]:
        """Fire at once."""
        return succeed(None)

    def when_sent(self) -> Deferred[None]:
        """Fire at once."""
        return succeed(None)

    def pause(self) -> None:
        """Do nothing: reading is the owner's."""

    def resume(self) -> None:
        """Do nothing: reading is the owner's."""
