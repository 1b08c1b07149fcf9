"""What stands between a gateway and a real server: a connection that loses what it is told to."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from tests.integration.closing import Closing

__all__ = ["MarkEater", "PingEater"]

_MARK = re.compile(rb"""<x xmlns=['"]http://jabber\.org/protocol/muc#user['"]\s*(?:/>|></x>)""")
_PING = re.compile(rb"<iq\b[^>]*>\s*<ping\b[^>]*?(?:/>|></ping>)\s*</iq>")


class _Eater(Closing):
    """
    Carries everything between a component and its server, but for something that the server sends.

    Args:
        port: The server's component port.

    Attributes:
        endpoint: Where the component connects instead.
        eaten: How often the component did not get it.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._closed = False
        self.endpoint = f"tcp:host=127.0.0.1:port={self._listener.getsockname()[1]}"
        self.eaten = 0
        self._start(self._accept)

    def _start(self, work: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                component, _ = self._listener.accept()
            except OSError:
                return
            if self._closed:
                component.close()
                return
            server = socket.create_connection(("127.0.0.1", self._port), 10.0)
            server.settimeout(None)
            self._open += [component, server]
            self._start(self._carry, component, server)
            self._start(self._carry_back, server, component)

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        _end(source, target)

    def _carry_back(self, source: socket.socket, target: socket.socket) -> None:
        held = b""
        with suppress(OSError):
            while data := source.recv(65536):
                held = self._without(held + data)
                cut = self._where_one_may_begin(held)
                target.sendall(held[:cut])
                held = held[cut:]
        _end(source, target)

    def _without(self, data: bytes) -> bytes:
        """The data without what is eaten."""
        raise NotImplementedError

    def _where_one_may_begin(self, data: bytes) -> int:
        """Where something begins that may have to be eaten, and has not come whole; the end if there is none."""
        raise NotImplementedError

    def cut(self) -> None:
        """End the connections that there are."""
        taken, self._open = self._open, []
        _end(*taken)

    def close(self) -> None:
        """End everything."""
        self._closed = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(10.0)


class PingEater(_Eater):
    """
    Eats the component's pings to itself that come back.

    Args:
        port: The server's component port.
        domain: The component.
    """

    def __init__(self, port: int, domain: str) -> None:
        self._address = domain.encode()
        super().__init__(port)

    def _without(self, data: bytes) -> bytes:
        return _PING.sub(self._eat, data)

    def _eat(self, ping: re.Match[bytes]) -> bytes:
        if ping[0].count(self._address) < 2:
            return ping[0]
        self.eaten += 1
        return b""

    def _where_one_may_begin(self, data: bytes) -> int:
        begin = data.rfind(b"<iq")
        if begin < 0 or b"</iq>" in data[begin:]:
            return len(data)
        tag = data[begin:].partition(b">")
        return len(data) if tag[1] and tag[0].count(self._address) < 2 else begin


class MarkEater(_Eater):
    """Eats the mark of private messages in chat rooms: today's servers add it, and not all did or do."""

    def _without(self, data: bytes) -> bytes:
        without, number = _MARK.subn(b"", data)
        self.eaten += number
        return without

    def _where_one_may_begin(self, data: bytes) -> int:
        begin = data.rfind(b"<x")
        return len(data) if begin < 0 or b">" in data[begin:] else begin


def _end(*connections: socket.socket) -> None:
    for connection in connections:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()
