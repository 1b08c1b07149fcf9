"""
The component's stream to its XMPP server, as a wokkel StreamManager.

Source: XEP-0114 (Jabber Component Protocol), RFC 6120 sections 4.4 (closing), 4.9 (stream errors) and 11 (XML usage).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import ISSLTransport, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.words.xish.domish import Element
from twisted.words.xish.xmlstream import STREAM_CONNECTED_EVENT, XmlStreamFactoryMixin
from wokkel.subprotocols import StreamManager

from component_http.contract.outbound import LIFETIMES, Fate, OutboundStanza
from component_http.contract.stanza import Stanza
from component_http.contract.xml import Limits
from component_http.interfaces import Observer
from component_http.log import Logger
from component_http.throttle import Folded
from component_http.xmpp.arrivals import Arrivals
from component_http.xmpp.connecting import ConnectLoop
from component_http.xmpp.connection import Connection, cancel_after
from component_http.xmpp.reading import Reading
from component_http.xmpp.troubles import BY_A_STANZA, Troubles, refusal
from component_http.xmpp.write_queue import MAX_STANZAS
from component_http.xmpp.writer import Writer

STABLE_AFTER = 30.0
"""Seconds authenticated after which a stream counts as good and the next wait starts small again."""


class _ConnectionFactory(XmlStreamFactoryMixin, Factory):
    """Makes connections, each with the StreamManager's observers (`addBootstrap`)."""

    protocol = Connection
    noisy = False


class ComponentStream(StreamManager, Service):
    """
    Keeps one authenticated component stream to an XMPP server; an `Outlet` and a `Valve`.

    Handlers are added with `addHandler` as with any StreamManager. What they send, like everything else, passes the
    check of `contract.outgoing`; what fails it is dropped, counted as `unsendable` and logged.

    What cannot be written now, for there is no stream or its transport takes no more, waits in one queue. While that is
    crowded, reading pauses as well: what the server sends makes more to be sent. It does not pause while suspects are
    written one by one, for each waits for the server's answer to a ping.

    Args:
        endpoint: Where the server listens for components.
        domain: The component's own domain, normalised.
        address: The host and the port of the server, or the path of its socket, for the log.
        observer: Told `connected`, `stream_lost`, `connection_failed`, `oversized`, `malformed`, `foreign`,
            `unsendable`, `unanswered`, `unconfirmed_forgotten`, `outgoing_full`, `outgoing_lost`, `outgoing_refused`,
            `reading_paused`, `writing_held`.
        random: Source of the jitter between two connections.
        sent: Told each stanza that leaves, whoever sends it (`Rooms.sent`).
        first: Gives what is written first on each new stream, before all that waits (`Entrances.first`).
        marked: Marks what comes from a room that we are in (`Rooms.marked`).
        max_waiting: Stanzas that may wait to be written.
        most_unconfirmed: As for `WriteQueue`.
        confirm: Ask the server whether it has what we wrote, and write again what it has not when a stream was lost.
        fallback: The domain to ask where pings to ourselves do not come back; None for none.
        now: The wall clock, seconds since the epoch, for stanzas that are sent late.
        took: As for `Writer`.
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
        sent: Callable[[OutboundStanza], object] = lambda outbound: None,
        first: Callable[[], Iterable[Element | OutboundStanza]] = tuple,
        marked: Callable[[Stanza], Stanza] = lambda stanza: stanza,
        max_waiting: int = MAX_STANZAS,
        most_unconfirmed: int = sys.maxsize,
        confirm: bool = True,
        fallback: str | None = None,
        lifetimes: Mapping[str, float] = LIFETIMES,
        now: Callable[[], float] = time.time,
        took: Callable[[float], object] | None = None,
    ) -> None:
        self.domain = domain
        self.secret = secret
        self.address = address
        self.limits = limits
        self.clock = clock
        self._endpoint = endpoint
        self._observer = observer
        self._first = first
        self._new_loop = lambda: ConnectLoop(self._one_connection, clock, random)
        self._loop: ConnectLoop | None = None
        self._reading: Reading | None = None
        self._troubles = Troubles(domain, address)
        self._arrivals = Arrivals(domain, observer, marked, self.send, Folded(clock.seconds))
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
            most_unconfirmed=most_unconfirmed,
            confirm=confirm,
            fallback=fallback,
            lifetimes=lifetimes,
            took=took,
        )
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
        stopped = self._loop.stopped.one_more()
        if not self._loop.stopping:
            self._loop.stop(self._close, self._closed)
        return stopped

    def _begin(self) -> None:
        self._loop = self._new_loop()
        self._loop.begin()

    def _close(self) -> bool:
        if self._reading is None:
            return False
        self._reading.resume()
        connection = self._reading.connection
        if connection.ready:
            connection.leave()
            self._writer.drain()
        else:
            connection.close()
        return True

    def _closed(self) -> None:
        self._writer.stop()
        loop, self._loop = self._loop, None
        assert loop is not None
        loop.stopped.tell()
        if self.running and self._loop is None:
            self._begin()

    async def _one_connection(self) -> None:
        """Connect, stay until the connection ends, and say why it ended."""
        loop = self._loop
        assert loop is not None
        try:
            connection: Any = await self._endpoint.connect(self.factory)
        except CancelledError:
            raise
        except Exception as error:
            self._observer.count("connection_failed")
            self._troubles.tell(self._troubles.unreachable(error))
            return
        reason = await connection.closed
        if not loop.stopping:
            self._observer.count("stream_lost" if connection.authenticated else "connection_failed")
            complaint = connection.complaint or f"the server closed the stream ({reason})"
            self._troubles.tell(self._troubles.lost(complaint, connection.header_namespace))

    # -- stream --

    def _connection_made(self, connection: Connection) -> None:
        self._reading = Reading(connection, self._writer, self._observer, self.clock)
        connection.closed.addCallback(self._connection_closed, self._reading)

    def _connection_closed(self, reason: str, reading: Reading) -> str:
        self._reading = None
        reading.end()
        loop, connection = self._loop, reading.connection
        assert loop is not None
        why = None if loop.stopping else refusal(connection.complaint, connection.error)
        certain = connection.complaint in BY_A_STANZA
        loss = self._writer.lost(why, certain=certain, for_good=loop.stopping)
        if loss.suspected or loss.refused:
            # The server works, but for what is found out now.
            loop.failures = 0
        return reason

    def _authd(self, xs: Connection) -> None:
        """The stream is ready: send what waited, then let the handlers know (wokkel calls this)."""
        if xs.ending:
            return
        xs.accepted()
        self._observer.count("connected")
        self._log.info("connected and authenticated as {domain}", domain=self.domain)
        stable = self.clock.callLater(STABLE_AFTER, self._all_is_well)
        xs.closed.addCallback(cancel_after, stable)
        self._writer.connected(xs, self._first())
        super()._authd(xs)

    def _all_is_well(self) -> None:
        if self._loop is not None:
            self._loop.failures = 0
        self._troubles.mended()

    def send(self, obj: Any) -> bool:
        """See `component_http.interfaces.Outlet.send`; XML text of stanzas is parsed and checked like an element."""
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
        return self._reading is not None and self._reading.connection.ready

    @property
    def certificate_ends(self) -> float | None:
        """The end of the certificate that the server shows, in seconds since the epoch; None without TLS."""
        transport: Any = None if self._reading is None else self._reading.connection.transport
        if not ISSLTransport.providedBy(transport):
            return None
        shown: Any = transport.getPeerCertificate()
        return None if shown is None else float(shown.to_cryptography().not_valid_after_utc.timestamp())

    @property
    def unsent(self) -> int:
        """Stanzas that wait to be written, or that the server is not known to have."""
        queue = self._writer.queue
        return len(queue) + queue.unconfirmed

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

    def _dead(self, reason: str) -> None:
        if self._reading is not None:
            connection = self._reading.connection
            connection.complaint = reason
            connection.transport.abortConnection()

    # -- what the connection calls --

    def writing_held(self) -> None:
        """The transport takes no more for now."""
        self._observer.count("writing_held")

    def writing_resumed(self) -> None:
        """The transport takes more."""
        self._writer.drain()

    def was_read(self) -> None:
        """Something came; if too much waits to leave, let it be all for a moment."""
        self._writer.barrier.heard()
        if self.crowded:
            self._crowd_changed(True)

    def takes(self, element: Element) -> bool:
        """Tell whether the handlers see a stanza: it can be answered, and is no ping of ours that came back."""
        return self._arrivals.takes(element) and not (element.name == "iq" and self._writer.barrier.returned(element))

    def skipped(self, start: Element, reason: str) -> None:
        """A stanza over the limits arrived and was not built; its sender is told."""
        self._arrivals.skipped(start, reason)

    # -- valve --

    def pause(self) -> None:
        """Stop reading for a moment, at most `MAX_PAUSE` seconds."""
        if self._reading is not None:
            self._reading.pause_as_asked()

    def resume(self) -> None:
        """Read again, unless too much waits to leave."""
        if self._reading is not None:
            self._reading.asked = False
            self._crowd_changed(self.crowded)

    def _crowd_changed(self, crowded: bool) -> None:
        if self._reading is not None:
            if crowded:
                self._reading.pause()
            elif not self._reading.asked:
                self._reading.resume()
