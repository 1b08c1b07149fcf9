"""
A webhook for the benchmark: `python webhook.py PORT LATENCY JITTER ERRORS`.

Answers each POST with the text that it got, after LATENCY seconds and up to JITTER more; of ERRORS (a share from 0 to
1) it answers 503. It counts, for GET: the requests, and the connections.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys

counts = {"requests": 0, "connections": 0}


class Webhook(asyncio.Protocol):
    """One connection."""

    def __init__(self, latency: float, jitter: float, errors: float) -> None:
        self._latency, self._jitter, self._errors = latency, jitter, errors
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        counts["connections"] += 1

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        if self._buffer.startswith(b"GET "):
            counts["connections"] -= 1  # this one
            self._answer(200, json.dumps(counts).encode())
            self._transport.close()
            return
        at = self._buffer.lower().find(b"content-length:")
        length = int(self._buffer[at + 15 : self._buffer.find(b"\r", at)])
        if len(self._buffer) < head + 4 + length:
            return
        body = self._buffer[head + 4 :]
        self._buffer = b""
        counts["requests"] += 1
        if random.random() < self._errors:
            self._later(503, b"")
        else:
            self._later(200, json.dumps({"body": json.loads(body)["body"]}).encode())

    def _later(self, status: int, body: bytes) -> None:
        if self._latency or self._jitter:
            wait = self._latency + self._jitter * random.random()
            asyncio.get_running_loop().call_later(wait, self._answer, status, body)
        else:
            self._answer(status, body)

    def _answer(self, status: int, body: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(
                b"HTTP/1.1 %d x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (status, len(body), body)
            )


async def main(port: int, latency: float, jitter: float, errors: float) -> None:
    """Serve until the process is ended."""
    server = await asyncio.get_running_loop().create_server(
        lambda: Webhook(latency, jitter, errors), "127.0.0.1", port, backlog=1000
    )
    print("ready", flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), *(float(argument) for argument in sys.argv[2:5])))
