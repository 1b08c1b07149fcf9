"""What stands between a gateway and a real server: a connection that loses what it is told to."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from tests.integration.closing import Closing

__all__ = ["PingEater"]

_PING = re.compile(rb"<iq\b[^>]*>\s*<ping\b[^>]*?(?:/>|></ping>)\s*</iq>")


class PingEater(Closing):
    """
    Carries everything between a component and its server, but for the component's pings to itself that come back.

    Args:
        port: The server's component port.
        domain: The component.

    Attributes:
        endpoint: Where the component connects instead.
        eaten: Pings that the component did not get.
    """

    def __init__(self, port: int, domain: str) -> None:
        self._port = port
        self._address = domain.encode()
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
                held = _PING.sub(self._eat, held + data)
                cut = self._where_one_may_begin(held)
                target.sendall(held[:cut])
                held = held[cut:]
        _end(source, target)

    def _eat(self, ping: re.Match[bytes]) -> bytes:
        if ping[0].count(self._address) < 2:
            return ping[0]
        self.eaten += 1
        return b""

    def _where_one_may_begin(self, data: bytes) -> int:
        """Where a ping begins of which the rest has not come yet; the end if there is none."""
        begin = data.rfind(b"<iq")
        if begin < 0 or b"</iq>" in data[begin:]:
            return len(data)
        tag = data[begin:].partition(b">")
        return len(data) if tag[1] and tag[0].count(self._address) < 2 else begin

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


def _end(*connections: socket.socket) -> None:
    for connection in connections:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()
