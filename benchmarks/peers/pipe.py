"""
The limit: what a pipe between the two sockets costs in Python, written by hand for nothing but these bytes.

It finds the parts of a stanza with one regular expression, does not look whether any of it is XML or JSON, keeps no
order, no limits and no time, and retries nothing.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections import deque
from urllib.parse import urlsplit

PORT, URL = int(sys.argv[1]), urlsplit(sys.argv[2])
STANZA = re.compile(
    rb"<message xmlns='jabber:component:accept' from='([^']*)' to='([^']*)' type='chat' id='([^']*)'>"
    rb"<body>([^<]*)</body></message>"
)
HEAD = (
    f"POST {URL.path} HTTP/1.1\r\nHost: {URL.netloc}\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
).encode()
JSON = b'{"to":"%s","from":"%s","kind":"message","type":"chat","id":"%s","body":"%s","stanza":%s}'


class Http(asyncio.Protocol):
    """One connection to the webhook, with one request at a time."""

    def __init__(self, pool):
        self.pool = pool
        self.buffer = b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.buffer += data
        head = self.buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self.buffer.lower().find(b"content-length:")
        length = int(self.buffer[at + 15 : self.buffer.find(b"\r", at)])
        if len(self.buffer) < head + 4 + length:
            return
        body = json.loads(self.buffer[head + 4 : head + 4 + length])["body"]
        self.buffer = b""
        sender, recipient = self.asked
        self.pool.xmpp.write(
            b"<message from='%s' to='%s' type='chat'><body>%s</body></message>" % (recipient, sender, body.encode())
        )
        self.pool.free(self)


class Xmpp(asyncio.Protocol):
    """The component's stream."""

    def __init__(self):
        self.buffer = b""
        self.idle = []
        self.waiting = deque()
        self.connections = 0

    def connection_made(self, transport):
        self.transport = transport
        self.write = transport.write
        transport.write(
            b"<stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams'"
            b" to='bot.localhost'>"
        )

    @property
    def xmpp(self):
        return self

    def data_received(self, data):
        if b"<stream:stream" in data:
            self.write(b"<handshake>0</handshake>")
        self.buffer += data
        end = 0
        for found in STANZA.finditer(self.buffer):
            end = found.end()
            sender, recipient, number, body = found.groups()
            stanza = json.dumps(found[0].decode()).encode()
            content = JSON % (recipient, sender, number, body, stanza)
            self.ask(HEAD % len(content) + content, (sender, recipient))
        self.buffer = self.buffer[end:]

    def ask(self, request, asked):
        if self.idle:
            http = self.idle.pop()
            http.asked = asked
            http.transport.write(request)
            return
        self.waiting.append((request, asked))
        if self.connections < 100:
            self.connections += 1
            asyncio.get_running_loop().create_task(self.connect())

    async def connect(self):
        _, http = await asyncio.get_running_loop().create_connection(lambda: Http(self), URL.hostname, URL.port)
        self.free(http)

    def free(self, http):
        if self.waiting:
            request, http.asked = self.waiting.popleft()
            http.transport.write(request)
        else:
            self.idle.append(http)


async def main():
    await asyncio.get_running_loop().create_connection(Xmpp, "127.0.0.1", PORT)
    await asyncio.Event().wait()


asyncio.run(main())
