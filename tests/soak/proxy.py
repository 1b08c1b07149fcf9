"""
What lies between the gateway and its server: a wire that can be cut, and one that swallows what is put in.

    python -m tests.soak.proxy '{"port": 5347}'
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
import time
from contextlib import suppress
from typing import Any

from tests.soak.control import obey


class Proxy:
    """
    Carries connections to a port of loopback.

    Args:
        port: Whose.
    """

    def __init__(self, port: int) -> None:
        self.target = port
        self._port = 0
        self._server: asyncio.Server | None = None
        self.ends: set[End] = set()
        self._accepted: list[float] = []

    async def listen(self) -> int:
        """Take connections, always on the same port; returns it."""
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(self._accept, "127.0.0.1", self._port, reuse_address=True)
            self._port = self._server.sockets[0].getsockname()[1]
        return self._port

    def _accept(self) -> End:
        self._accepted.append(time.monotonic())
        return End(self)

    def away(self) -> bool:
        """Take no more connections, and reset those there are."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.cut()
        return True

    def cut(self) -> bool:
        """Reset the connections there are."""
        for end in list(self.ends):
            end.reset()
        return True

    def swallow(self) -> bool:
        """Carry nothing more on the connections there are, in neither direction, and never close them."""
        for end in self.ends:
            end.hole = True
        return True

    def accepted(self) -> list[float]:
        """When connections were made, by this machine's monotonic clock."""
        return self._accepted


class End(asyncio.Protocol):
    """
    One end of a connection through the proxy; whoever comes first makes the other.

    Args:
        proxy: Whose it is.
        other: The other end, if it is there.
    """

    def __init__(self, proxy: Proxy, other: End | None = None) -> None:
        self._proxy = proxy
        self._other = other
        self._early: list[bytes] = []
        self._lost = False
        self._transport: Any = None
        self._connecting: asyncio.Task[Any] | None = None
        self.hole = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._proxy.ends.add(self)
        if self._other is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
        else:
            self._other.joined(self)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.create_connection(lambda: End(self._proxy, self), "127.0.0.1", self._proxy.target)
        except OSError:
            self.reset()

    def joined(self, other: End) -> None:
        """The other end is there."""
        self._other = other
        if self._lost:
            other.reset()
        for data in self._early:
            other.carry(data)
        self._early.clear()

    def data_received(self, data: bytes) -> None:
        if self.hole:
            return
        if self._other is None:
            self._early.append(data)
        else:
            self._other.carry(data)

    def carry(self, data: bytes) -> None:
        """Give it to who is at this end."""
        self._transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._proxy.ends.discard(self)
        if self._other is not None and not self.hole:
            self._other.close()

    def close(self) -> None:
        """Close it when all is carried."""
        self._transport.close()

    def reset(self) -> None:
        """Cut it so that who is at this end sees a reset."""
        handle = self._transport.get_extra_info("socket")
        with suppress(OSError):
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


async def _main(port: int) -> None:
    proxy = Proxy(port)
    await obey(
        {
            "listen": proxy.listen,
            "away": proxy.away,
            "cut": proxy.cut,
            "swallow": proxy.swallow,
            "accepted": proxy.accepted,
        }
    )


if __name__ == "__main__":
    asyncio.run(_main(**json.loads(sys.argv[1])))
