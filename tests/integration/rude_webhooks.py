"""
A webhook on a real socket that says exactly the bytes it is told to, whether they are HTTP or not.

`RawWebhook` counts its sockets and requests, and lets a test wait for them. What it does with a request is a
function; the ones here are servers that misbehave, built piece by piece.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import LoopingCall

__all__ = ["RawConnection", "RawWebhook", "answer", "chunked", "endless", "trickle"]

reactor: Any = _reactor

_HEAD = re.compile(rb"(?s)(.*?)\r\n\r\n")
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")

Behaviour = Callable[["RawConnection"], object]


def answer(body: bytes = b"", *, status: str = "200 OK", length: int | None = None, **headers: str) -> bytes:
    """A response as bytes; `length` may lie, a header's underscores become dashes."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def chunked(*chunks: bytes) -> bytes:
    """A chunked response as bytes."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""])


def trickle(data: bytes, *, seconds: float) -> Behaviour:
    """Say one byte at a time, and start again at the end."""

    def behave(connection: RawConnection) -> None:
        place = 0

        def one() -> None:
            nonlocal place
            connection.say(data[place : place + 1])
            place = (place + 1) % len(data)

        connection.keep_doing(one, seconds)

    return behave


def endless(start: bytes, again: bytes) -> Behaviour:
    """Say `start`, and then `again` as fast as the other side takes it."""

    def behave(connection: RawConnection) -> None:
        connection.say(start)
        connection.flood(again)

    return behave


class RawConnection(Protocol):
    """
    One accepted socket.

    Attributes:
        requests: The requests that came over it, whole, as bytes.
        said: Bytes handed to the operating system or about to be.
        open: It has not been closed by either side.
    """

    transport: Any

    def __init__(self, webhook: RawWebhook) -> None:
        self.requests: list[bytes] = []
        self.said = 0
        self.open = True
        self._webhook = webhook
        self._received = b""
        self._loops: list[LoopingCall] = []
        self._flood: bytes | None = None
        self._carrier: _Carrier | None = None

    def say(self, data: bytes) -> None:
        """Send bytes, as they are."""
        self.said += len(data)
        self.transport.write(data)

    def close(self) -> None:
        """Send what was said and close."""
        self.transport.loseConnection()

    def reset(self) -> None:
        """Break the connection."""
        self.transport.abortConnection()

    def keep_doing(self, act: Callable[[], object], seconds: float) -> None:
        """Do something at once and every so many seconds until the connection ends."""
        loop = LoopingCall(act)
        self._loops.append(loop)
        loop.start(seconds)

    def flood(self, data: bytes) -> None:
        """Say `data` again and again, whenever the operating system takes more."""
        self._flood = data
        self.transport.registerProducer(self, False)

    def carry(self, host: str, port: int) -> None:
        """Be a proxy from now on: connect to a server, say so, and carry everything there and back."""
        self._carrier = carrier = _Carrier(self)
        connecting = connectProtocol(HostnameEndpoint(reactor, host.encode(), port), carrier)
        connecting.addErrback(lambda _: self.close())

    def resumeProducing(self) -> None:
        assert self._flood is not None
        self.say(self._flood)

    def stopProducing(self) -> None:
        """The connection ended."""

    def connectionMade(self) -> None:
        self._webhook.connection_made(self)

    def dataReceived(self, data: bytes) -> None:
        if self._carrier is not None:
            self._carrier.transport.write(data)
            return
        self._received += data
        while (head := _HEAD.match(self._received)) is not None:
            length = _LENGTH.search(head[1])
            end = head.end() + (int(length[1]) if length else 0)
            if len(self._received) < end:
                return
            self.requests.append(self._received[:end])
            self._received = self._received[end:]
            self._webhook.request_received(self)

    def connectionLost(self, reason: Any = connectionDone) -> None:
        self.open = False
        if self._carrier is not None and self._carrier.transport is not None:
            self._carrier.transport.loseConnection()
        for loop in self._loops:
            loop.stop()
        self._webhook.connection_lost()


class _Carrier(Protocol):
    """The other side of a connection that is carried through."""

    transport: Any

    def __init__(self, connection: RawConnection) -> None:
        self._connection = connection

    def connectionMade(self) -> None:
        self._connection.say(b"HTTP/1.1 200 Connection established\r\n\r\n")

    def dataReceived(self, data: bytes) -> None:
        self._connection.say(data)

    def connectionLost(self, reason: Any = connectionDone) -> None:
        self._connection.close()


class RawWebhook(Factory):
    """
    Accepts connections and does what it is told with each request.

    Attributes:
        connections: Every connection ever accepted, in order.
        most_open: The most that were open at the same time.
        requests: Every request, in the order they arrived.
    """

    noisy = False

    def __init__(self, behave: Behaviour, *, greet: Behaviour | None = None) -> None:
        """
        Args:
            behave: Called with the connection when a request has arrived.
            greet: Called with each connection when it was accepted.
        """
        self.connections: list[RawConnection] = []
        self.most_open = 0
        self.requests: list[bytes] = []
        self._behave = behave
        self._greet = greet
        self._watches: list[tuple[Callable[[], object], Deferred[None]]] = []
        self._port: Any = None

    @property
    def open(self) -> int:
        """Connections open now."""
        return sum(connection.open for connection in self.connections)

    @property
    def said(self) -> int:
        """Bytes said on all connections."""
        return sum(connection.said for connection in self.connections)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._port.getHost().port)

    @property
    def url(self) -> str:
        """Where to POST."""
        return f"http://127.0.0.1:{self.port}/"

    def listen(self, interface: str = "127.0.0.1", tls: Any = None) -> RawWebhook:
        """Take a free port; `tls` is a context factory for a server that speaks TLS."""
        if tls is None:
            self._port = reactor.listenTCP(0, self, interface=interface)
        else:
            self._port = reactor.listenSSL(0, self, tls, interface=interface)
        return self

    async def stop(self) -> None:
        """Close everything, and be sure of it."""
        await self._port.stopListening()
        for connection in self.connections:
            if connection.open:
                connection.reset()
        await self.when_all_closed()

    def when(self, condition: Callable[[], object]) -> Deferred[None]:
        """Fire as soon as something has happened that makes the condition true."""
        watch: Deferred[None] = Deferred()
        self._watches.append((condition, watch))
        self._happened()
        return watch

    def when_requested(self, number: int) -> Deferred[None]:
        """Fire when so many requests have arrived in all."""
        return self.when(lambda: len(self.requests) >= number)

    def when_all_closed(self) -> Deferred[None]:
        """Fire when no connection is open."""
        return self.when(lambda: not self.open)

    def buildProtocol(self, addr: object) -> RawConnection:
        return RawConnection(self)

    def connection_made(self, connection: RawConnection) -> None:
        self.connections.append(connection)
        self.most_open = max(self.most_open, self.open)
        if self._greet is not None:
            self._greet(connection)
        self._happened()

    def request_received(self, connection: RawConnection) -> None:
        self.requests.append(connection.requests[-1])
        self._behave(connection)
        self._happened()

    def connection_lost(self) -> None:
        self._happened()

    def _happened(self) -> None:
        fulfilled = [watch for condition, watch in self._watches if condition()]
        self._watches = [(condition, watch) for condition, watch in self._watches if watch not in fulfilled]
        for watch in fulfilled:
            watch.callback(None)
