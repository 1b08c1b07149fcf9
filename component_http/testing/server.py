"""An XMPP server for one component."""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_hex
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import ConnectionLost
from twisted.words.protocols.jabber import xmlstream
from twisted.words.protocols.jabber.component import ListenComponentAuthenticator
from twisted.words.protocols.jabber.error import StreamError
from twisted.words.xish.domish import Element

from component_http.contract.xml import NS_COMPONENT, NS_PING, Limits, StreamParser, serialize
from component_http.waiters import Waiters

_HOST = "localhost"
"""The address of the server itself."""


class ComponentServer:
    """
    The server's side of XEP-0114 without a server, for an application with a real gateway in it.

    It lets one component in and does for it what a server does: it routes between the component and the test, and
    nothing else. On request it does what a server should not.

    Args:
        domain: The component's domain.
        reactor: Listens.
        arrived: Called with each stanza that the component sends, in order.

    Attributes:
        secret: The component's secret, a new one each time, because the port is open to everyone on this machine.
        refusal: Set it to a condition of a stream error (RFC 6120 section 4.9.3), such as `conflict`, and every
            component is refused with that; None to let in a component that knows the secret.
    """

    def __init__(self, domain: str, reactor: Any, arrived: Callable[[Element], object]) -> None:
        self.secret = token_hex(16)
        self.refusal: str | None = None
        self._domain = domain
        self._reactor = reactor
        self._arrived = arrived
        self._port: Any = None
        self._component: Any = None
        self._open: dict[Any, Deferred[None]] = {}
        self._waiting = Waiters()
        self._pings: dict[str, Deferred[None]] = {}

    def listen(self) -> int:
        """Take connections from this machine, and return the port."""
        self._port = self._reactor.listenTCP(0, self.factory(), interface="127.0.0.1")
        port: int = self._port.getHost().port
        return port

    def factory(self) -> xmlstream.XmlStreamServerFactory:
        """Return the factory of the connections, for callers who listen themselves."""
        factory = xmlstream.XmlStreamServerFactory(lambda: _Authenticator(self.secret, self._objection))
        factory.protocol = _Connection
        factory.noisy = False
        factory.addBootstrap(xmlstream.STREAM_CONNECTED_EVENT, self._opened)
        factory.addBootstrap(xmlstream.STREAM_AUTHD_EVENT, self._authenticated)
        return factory

    async def connected(self) -> None:
        """Wait until the component is connected."""
        if self._component is None:
            await self._waiting.one_more()

    def send(self, element: Element) -> None:
        """Send one stanza to the component. Raises `ConnectionLost` if the component is not connected."""
        self._connection().send(serialize(element))

    async def round_trip(self) -> None:
        """
        Wait until the component has read all stanzas that were sent to it, and its own up to then have arrived.

        The server pings the component (XEP-0199), because a stream keeps its order. This does not wait for a POST that
        is under way.

        Raises:
            ConnectionLost: The component went away.
        """
        ping = Element((NS_COMPONENT, "iq"))
        ping.attributes.update(type="get", id=token_hex(8), to=self._domain)
        ping["from"] = _HOST
        ping.addElement((NS_PING, "ping"))
        answered: Deferred[None] = Deferred()
        self._pings[ping["id"]] = answered
        try:
            self.send(ping)
            await answered
        finally:
            self._pings.pop(ping["id"], None)

    def pause(self) -> None:
        """
        Read nothing more from the component that is connected now.

        Until `resume` the server may not notice that the component has gone: then `connected` still fires at once, and
        a component that connects again is refused with `conflict`.

        Raises:
            ConnectionLost: The component is not connected.
        """
        self._connection().transport.pauseProducing()

    def resume(self) -> None:
        """Read again. Raises `ConnectionLost` if the component is not connected any more."""
        self._connection().transport.resumeProducing()

    def cut(self) -> None:
        """Abort the connection, as a dying server does. Raises `ConnectionLost` if the component is not connected."""
        connection = self._connection()
        self._forget(connection)
        connection.transport.abortConnection()

    async def close(self) -> None:
        """Take no more connections, and abort the open ones."""
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)
        for connection, gone in list(self._open.items()):
            connection.transport.abortConnection()
            await gone

    def _connection(self) -> Any:
        if self._component is None:
            raise ConnectionLost("the component is not connected")
        return self._component

    def _objection(self, domain: str, knows_the_secret: bool) -> str | None:
        """Return the condition to refuse a component with, or None."""
        if self.refusal is not None:
            return self.refusal
        if domain != self._domain:
            return "host-unknown"
        if not knows_the_secret:
            return "not-authorized"
        return "conflict" if self._component is not None else None

    def _opened(self, connection: Any) -> None:
        self._open[connection] = Deferred()
        connection.addObserver(xmlstream.STREAM_END_EVENT, lambda reason: self._ended(connection))

    def _ended(self, connection: Any) -> None:
        self._forget(connection)
        self._open.pop(connection).callback(None)

    def _authenticated(self, connection: Any) -> None:
        self._component = connection
        connection.addObserver("/*", self._received)
        self._waiting.tell()

    def _forget(self, connection: Any) -> None:
        if self._component is connection:
            self._component = None
            for deferred in list(self._pings.values()):
                deferred.errback(ConnectionLost("the component went away"))

    def _received(self, element: Element) -> None:
        if element.name == "iq" and element.getAttribute("to") == _HOST:
            answered = self._pings.pop(element.getAttribute("id", ""), None)
            if answered is not None:
                answered.callback(None)
                return
        if element.getAttribute("to") == self._domain:
            self.send(element)  # to itself
        else:
            self._arrived(element)


class _Connection(xmlstream.XmlStream):
    """A component's connection, read by the project's own parser."""

    def _initializeStream(self) -> None:
        self.stream = StreamParser(Limits(), lambda start, reason: None)
        self.stream.DocumentStartEvent = self.onDocumentStart
        self.stream.ElementEvent = self.onElement
        self.stream.DocumentEndEvent = self.onDocumentEnd

    def onDocumentEnd(self) -> None:
        self.sendFooter()
        super().onDocumentEnd()


class _Authenticator(ListenComponentAuthenticator):
    """Lets a component in, unless there is an objection."""

    def __init__(self, secret: str, objection: Callable[[str, bool], str | None]) -> None:
        super().__init__(secret)
        self._objection = objection

    def onHandshake(self, handshake: str) -> None:
        stream: Any = self.xmlstream
        expected = xmlstream.hashPassword(stream.sid, self.secret)
        condition = self._objection(stream.thisEntity.full(), handshake == expected)
        if condition is None:
            super().onHandshake(handshake)
        else:
            stream.sendStreamError(StreamError(condition))
