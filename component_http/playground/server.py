"""
An XMPP server in a box: one user, one component, one loopback port.

It speaks XEP-0114 with the gateway over a real connection and does for its user what a server does: it routes between
the two and nothing else. It keeps no roster and has no other side.
"""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_hex
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure
from twisted.words.protocols.jabber import xmlstream
from twisted.words.protocols.jabber.component import ListenComponentAuthenticator
from twisted.words.protocols.jabber.error import StreamError
from twisted.words.xish.domish import Element

from component_http.contract.address import Address
from component_http.contract.xml import NS_COMPONENT, Limits, StreamParser, serialize

__all__ = ["USER", "BoxedServer"]

USER = Address("you", "localhost", "playground")
"""Whoever sits at the terminal."""

_NS_PING = "urn:xmpp:ping"


class _Connection(xmlstream.XmlStream):
    """A component's connection, read by the project's own parser."""

    def _initializeStream(self) -> None:
        self.stream = StreamParser(Limits(), lambda start, reason: None)
        self.stream.DocumentStartEvent = self.onDocumentStart
        self.stream.ElementEvent = self.onElement
        self.stream.DocumentEndEvent = self.onDocumentEnd


class _Authenticator(ListenComponentAuthenticator):
    """Lets in who knows the secret and comes for our domain."""

    def __init__(self, secret: str, domain: str) -> None:
        super().__init__(secret)
        self._domain = domain

    def onHandshake(self, handshake: str) -> None:
        stream: Any = self.xmlstream
        if stream.thisEntity.full() == self._domain:
            super().onHandshake(handshake)
        else:
            stream.sendStreamError(StreamError("host-unknown"))


class BoxedServer:
    """
    The XMPP side of a conversation with a gateway.

    Args:
        domain: The component's.
        reactor: Listens.
        arrived: Called with each stanza that the component sends, in order.

    Attributes:
        secret: The component's, made up anew each time: the port is open to everyone on this machine.
    """

    def __init__(self, domain: str, reactor: Any, arrived: Callable[[Element], None]) -> None:
        self.secret = token_hex(16)
        self._domain = domain
        self._reactor = reactor
        self._arrived = arrived
        self._port: Any = None
        self._component: Any = None
        self._waiting: list[Deferred[None]] = []
        self._pings: dict[str, Deferred[None]] = {}

    def listen(self) -> int:
        """Take connections from this machine, and say at which port."""
        self._port = self._reactor.listenTCP(0, self.factory(), interface="127.0.0.1")
        port: int = self._port.getHost().port
        return port

    def factory(self) -> xmlstream.XmlStreamServerFactory:
        """What makes the connections; for those who listen themselves."""
        factory = xmlstream.XmlStreamServerFactory(lambda: _Authenticator(self.secret, self._domain))
        factory.protocol = _Connection
        factory.noisy = False
        factory.addBootstrap(xmlstream.STREAM_AUTHD_EVENT, self._authenticated)
        return factory

    async def connected(self) -> None:
        """Wait until the component is there."""
        if self._component is None:
            waiting: Deferred[None] = Deferred()
            self._waiting.append(waiting)
            await waiting

    def send(self, element: Element) -> None:
        """
        Send one stanza to the component, as the server of its sender does.

        Raises:
            ConnectionLost: The component is not there.
        """
        if self._component is None:
            raise ConnectionLost("the component is not connected")
        self._component.send(serialize(element))

    async def round_trip(self) -> None:
        """
        Wait until the component has dealt with all that was sent to it, and all it sent meanwhile has arrived.

        This is a ping from the server itself (XEP-0199), for a stream keeps its order. A POST that is under way is not
        waited for.

        Raises:
            ConnectionLost: The component went away.
        """
        ping = Element((NS_COMPONENT, "iq"))
        ping.attributes.update(type="get", id=token_hex(8), to=self._domain)
        ping["from"] = USER.domain
        ping.addElement((_NS_PING, "ping"))
        answered: Deferred[None] = Deferred()
        self._pings[ping["id"]] = answered
        try:
            self.send(ping)
            await answered
        finally:
            self._pings.pop(ping["id"], None)

    async def close(self) -> None:
        """Take no more connections and end the one there is."""
        if self._component is not None:
            self._component.transport.loseConnection()
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)

    def _authenticated(self, connection: Any) -> None:
        if self._component is not None:
            connection.sendStreamError(StreamError("conflict"))
            return
        self._component = connection
        connection.addObserver(xmlstream.STREAM_END_EVENT, self._lost)
        connection.addObserver("/*", self._received)
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    def _lost(self, reason: Failure) -> None:
        self._component = None
        for deferred in list(self._pings.values()):
            deferred.errback(ConnectionLost("the component went away"))

    def _received(self, element: Element) -> None:
        if element.name == "iq" and element.getAttribute("to") == USER.domain:
            answered = self._pings.pop(element.getAttribute("id", ""), None)
            if answered is not None:
                answered.callback(None)
                return
        self._arrived(element)
