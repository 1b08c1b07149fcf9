"""The XMPP side of the benchmark: one component, and users who write to it. Lean, so that it leaves the CPU to it."""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

DOMAIN = "bot.localhost"

_MESSAGE = rb"<message\b[^>]*?\bto=['\"]u(\d+)@localhost[^>]*>.*?</message>"
_IQ = rb"<iq\b([^>]*?)(?:/>|>.*?</iq>)"
_TAGS = re.compile(_MESSAGE + rb"|" + _IQ, re.DOTALL)
_ATTRIBUTE = re.compile(rb"\b(to|from|id|type)=['\"]([^'\"]*)['\"]")
_HANDSHAKE = re.compile(rb"<handshake\b[^>]*(?:/>|>[^<]*</handshake>)")
_NUMBER = re.compile(rb"<body\b[^>]*>(\d+)")
_ID = re.compile(rb"<message\b[^>]*\bid=['\"]m(\d+)['\"]")
_ERROR = re.compile(rb"<message\b[^>]*\btype=['\"]error['\"]")


class Side(asyncio.Protocol):
    """
    A server with one component (XEP-0114), and users who write to it.

    Attributes:
        replies: Messages that came back, without those of type error.
        refused: Messages that came back as errors.
        wrong_order: Replies that came after the reply to a later message of the same sender, where they say which.
        latencies: Seconds from each message to its reply.
        times: The moments of the replies, by `time.perf_counter`.
        outstanding: Messages that nothing came back for.
    """

    def __init__(self, domain: str = DOMAIN) -> None:
        self.ready = asyncio.Event()
        self.domain = domain.encode()
        self.outstanding = 0
        self.reset()
        self.on_reply: Callable[[int], None] = lambda user: None
        self._sent: dict[int, deque[tuple[int, float]]] = {}
        self._latest: dict[int, int] = {}
        self._next = 0
        self._buffer = b""
        self._accepted = False
        self._writable = asyncio.Event()
        self._writable.set()

    def __call__(self) -> Side:
        """Take the connection that comes; there is one at a time."""
        return self

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._buffer = b""
        self._accepted = False

    def connection_lost(self, error: Exception | None) -> None:
        self.ready.clear()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._accepted:
            self._shake_hands()
            return
        end = 0
        for found in _TAGS.finditer(self._buffer):
            end = found.end()
            if found[1] is not None:
                self._replied(int(found[1]), found[0])
            else:
                self._iq(found[0], found[2])
        self._buffer = self._buffer[end:]

    def _shake_hands(self) -> None:
        if b"<handshake" in self._buffer:
            found = _HANDSHAKE.search(self._buffer)
            if found is not None:
                self._buffer = self._buffer[found.end() :]
                self._accepted = True
                self.transport.write(b"<handshake/>")
                self.ready.set()
        elif b"<stream:stream" in self._buffer and self._buffer.rstrip().endswith(b">"):
            self._buffer = b""
            self.transport.write(
                b"<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept'"
                b" xmlns:stream='http://etherx.jabber.org/streams' from='%s' id='s1'>" % self.domain
            )

    def _iq(self, stanza: bytes, head: bytes) -> None:
        """Bring an iq to the component itself back, as a server does; answer one to the server."""
        names = dict(_ATTRIBUTE.findall(head))
        if names.get(b"to", b"").rpartition(b"@")[2].partition(b"/")[0] == self.domain:
            self.transport.write(stanza)
        elif names.get(b"type") in (b"get", b"set"):
            self.transport.write(
                b"<iq type='result' from='%s' to='%s' id='%s'/>"
                % (names.get(b"to", b"localhost"), names.get(b"from", self.domain), names.get(b"id", b""))
            )

    def _replied(self, user: int, stanza: bytes) -> None:
        now, waiting = time.perf_counter(), self._sent[user]
        failed = b"error" in stanza and _ERROR.match(stanza)
        said = _ID.search(stanza) if failed else _NUMBER.search(stanza)
        number = int(said[1]) if said is not None else waiting[0][0] if waiting else 0
        if said is not None and not failed:
            self.wrong_order += number < self._latest.get(user, 0)
            self._latest[user] = max(number, self._latest.get(user, 0))
        sent = next((each for each in waiting if each[0] == number), None)
        if sent is None:
            return  # nothing waits for it: something came back for this message before
        waiting.remove(sent)
        self.outstanding -= 1
        if failed:
            self.refused += 1
        else:
            self.latencies.append(now - sent[1])
            self.times.append(now)
            self.replies += 1
        self.on_reply(user)

    def say(self, user: int, padding: bytes = b"") -> None:
        """Let a user write one message, whose text is its number."""
        if self.transport.is_closing():
            return  # the component has gone; what it had not answered stays outstanding
        self._next += 1
        self.outstanding += 1
        self._sent.setdefault(user, deque()).append((self._next, time.perf_counter()))
        self.transport.write(
            b"<message xmlns='jabber:component:accept' from='u%d@localhost/phone' to='echo@%s' type='chat' id='m%d'>"
            b"<body>%d %s</body></message>" % (user, self.domain, self._next, self._next, padding)
        )

    def reset(self) -> None:
        """Forget what was measured."""
        self.replies = self.refused = self.wrong_order = 0
        self.latencies: list[float] = []
        self.times: list[float] = []

    async def keep(
        self, window: int, seconds: float, padding: bytes = b"", users: int = 0, patience: float = 10.0
    ) -> float:
        """
        Keep so many messages unanswered for some seconds, then wait for the last replies.

        Args:
            users: So many of them write, in turn; 0: each has one message.
            patience: Seconds without a reply after which the others are lost.

        Returns:
            Seconds until the last reply, or until patience ended.
        """
        began = time.perf_counter()
        turn = window
        going = True

        def again(user: int) -> None:
            nonlocal turn
            if not going or time.perf_counter() - began >= seconds:
                return
            turn += 1
            self.say(turn % users if users else user, padding)

        self.on_reply = again
        for user in range(window):
            self.say(user % users if users else user, padding)
        while time.perf_counter() - began < seconds:
            await asyncio.sleep(0.05)
        going = False
        await self.settle(patience)
        return time.perf_counter() - began

    async def settle(self, patience: float) -> None:
        """Wait until all is answered, or nothing was for so long."""
        since, last = time.perf_counter(), self.replies
        while self.outstanding and time.perf_counter() - since < patience:
            await asyncio.sleep(0.02)
            if self.replies != last:
                since, last = time.perf_counter(), self.replies

    async def flood(self, count: int, users: int, patience: float = 30.0) -> None:
        """Write so many messages as fast as the socket takes them, and wait for all replies."""
        self.on_reply = lambda user: None
        for number in range(count):
            self.say(number % users)
            if number % 50 == 0:
                await self._writable.wait()
                await asyncio.sleep(0)
        await self.settle(patience)

    def rate(self, since: float, until: float) -> float:
        """Replies per second between two moments, by `time.perf_counter`."""
        return sum(since <= each < until for each in self.times) / (until - since)

    async def greed(self, seconds: float, users: int) -> float:
        """
        Write as fast as the socket takes it for some seconds, and leave the rest.

        Returns:
            Replies per second meanwhile, without the first second.
        """
        self.on_reply = lambda user: None
        until = time.perf_counter() + seconds + 1.0
        number = 0
        while time.perf_counter() < until:
            for _ in range(50):
                number += 1
                self.say(number % users)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._writable.wait(), max(0.0, until - time.perf_counter()))
            await asyncio.sleep(0)
        return self.rate(until - seconds, until)
