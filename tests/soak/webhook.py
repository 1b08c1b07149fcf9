"""
The webhook of a run: quick, keeping its connections, and as unreliable as it is told to be.

It answers a message with the first word of its body, which is the stanza's number, and an iq with `{}`; senders of some
names get something else each time (`Connection._choose`). It writes down what the gateway promises to webhooks: one
stanza at a time and in order in each conversation, the same bytes on each attempt, no more connections than are set.

    python -m tests.soak.webhook '{"seed": 1}'
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any, ClassVar
from zlib import crc32

from attrs import define, field

from tests.soak.control import obey

__all__ = ["EVIL", "POISONED", "Faults"]

EVIL = ("slow_headers", "endless_headers", "endless_body", "huge_length", "endless_chunks")
"""What the senders whose names begin with `evil` get, each always the same: evil0 the first, evil1 the second..."""

RUBBISH = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 5\r\n\r\n{not}",
    b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n{"body": [{}]}',
    b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
)
"""What senders whose names begin with `bad` get: the number of the stanza says which."""

POISONED = 7
"""Of the senders `poison0`, `poison1` ... each stanza whose number this divides gets a 500, always."""

LARGE = 60_000
"""Bytes of the reply to each stanza of a sender `big0`, `big1` ..."""

MAX_POURED = 1 << 28
"""Bytes that an endless answer has before it falls silent; the gateway has hung up by then."""

_LENGTH = re.compile(rb"\r\ncontent-length:[ ]*(\d+)", re.IGNORECASE)
_ID = re.compile(rb"\r\nwebhook-id:[ ]*([^\r]+)", re.IGNORECASE)
_STAMP = re.compile(rb"\r\nwebhook-timestamp:[ ]*(\d+)", re.IGNORECASE)
_ATTEMPT = re.compile(rb"\r\nwebhook-attempt:[ ]*(\d+)", re.IGNORECASE)


@define
class Faults:
    """
    How it misbehaves.

    Attributes:
        latency: Seconds before an answer.
        busy: Share of requests that get a 503 at once.
        reset: Share that get their connection reset at once.
        stall: Share that are answered only after `stall_seconds`.
        stall_seconds: See above.
        close_every: Close a connection, without announcing it, after so many answers; 0 is never.
        close_after: Close each connection so many seconds after an answer; None is never.
        stall_sender: All requests of this sender are stalled.
        error: Share that get a 500 at once.
        per_second: Beyond so many requests in a second it says 429 with `Retry-After: 1`; 0 is no limit.
    """

    latency: float = 0.0
    busy: float = 0.0
    reset: float = 0.0
    stall: float = 0.0
    stall_seconds: float = 3.0
    close_every: int = 0
    close_after: float | None = None
    stall_sender: str = ""
    error: float = 0.0
    per_second: int = 0


@define
class Delivery:
    """
    What is known about one `webhook-id`.

    Attributes:
        number: The stanza's.
        conversation: Who to whom, and whether it is an iq.
        checksum: Of the request body.
        requests: How many came.
        attempt: The last `webhook-attempt`.
        answered: It was given a 200.
        answered_at: When, by this machine's monotonic clock; whether the gateway was still there is not known then.
        since: When the last request came.
        failures: How many of them were given a 500.
    """

    number: int
    conversation: str
    checksum: int
    requests: int = 0
    attempt: int = 0
    answered: bool = False
    answered_at: float = 0.0
    since: float = 0.0
    failures: int = 0


@define
class Webhook:
    """All that is kept, and what is done on command."""

    seed: int = 0
    faults: Faults = field(factory=Faults)
    random: Random = field(factory=Random)
    open: set[Connection] = field(factory=set)
    counts: Counter[str] = field(factory=Counter)
    most: Counter[str] = field(factory=Counter)
    deliveries: dict[bytes, Delivery] = field(factory=dict)
    latest: dict[str, Delivery] = field(factory=dict)
    under_way: dict[str, list[Delivery]] = field(factory=dict)
    overlaps: list[str] = field(factory=list)
    answers_in_vain: list[tuple[int, float]] = field(factory=list)
    second: tuple[int, int] = (0, 0)
    clock_ahead: list[float] = field(factory=lambda: [math.inf, -math.inf])
    evil_ended: dict[str, list[float]] = field(factory=dict)
    connected_at: list[float] = field(factory=list)
    requested_at: list[float] = field(factory=list)
    resetting: bool = False
    port: int = 0
    server: asyncio.Server | None = None

    # -- commands --

    async def listen(self) -> int:
        """Listen, always on the same port; and answer again."""
        self.resetting = False
        if self.server is None:
            loop = asyncio.get_running_loop()
            self.server = await loop.create_server(
                lambda: Connection(self), "127.0.0.1", self.port, backlog=512, reuse_address=True
            )
            self.port = self.server.sockets[0].getsockname()[1]
        return self.port

    def away(self, resetting: bool) -> bool:
        """
        Be gone: reset all connections, and refuse new ones, or with `resetting` reset them as soon as they are made.
        """
        self.resetting = resetting
        if not resetting and self.server is not None:
            self.server.close()
            self.server = None
        for connection in list(self.open):
            connection.reset()
        return True

    def fault(self, **changes: Any) -> bool:
        """Behave in another way from now on; what is not named is as at the start."""
        self.faults = Faults(**changes)
        return True

    def report(self) -> dict[str, Any]:
        """All in numbers."""
        attempts = Counter(one.attempt for one in self.deliveries.values())
        requests = Counter(one.requests for one in self.deliveries.values())
        return {
            **self.counts,
            "deliveries": len(self.deliveries),
            "answered": sum(one.answered for one in self.deliveries.values()),
            "most": dict(self.most),
            "by_attempt": dict(sorted(attempts.items())),
            "by_requests": dict(sorted(requests.items())),
            "evil": {
                kind: {"count": len(times), "longest": round(max(times), 3)} for kind, times in self.evil_ended.items()
            },
            "overlaps": self.overlaps,
            "open": len(self.open),
            "clock_ahead": self.clock_ahead,
            "time": time.monotonic(),
        }

    def answered(self) -> list[int]:
        """The numbers of the stanzas that were given a 200."""
        return sorted(one.number for one in self.deliveries.values() if one.answered)

    def seen(self) -> dict[int, int]:
        """How often each stanza was asked for."""
        return {one.number: one.requests for one in self.deliveries.values()}

    def failures(self) -> dict[int, int]:
        """How often each stanza was given a 500, if it was."""
        return {one.number: one.failures for one in self.deliveries.values() if one.failures}

    def connections_since(self, since: float) -> list[float]:
        """When connections were made, by this machine's monotonic clock."""
        return [at for at in self.connected_at if at >= since]

    def requests_since(self, since: float) -> list[float]:
        """When requests came, likewise."""
        return [at for at in self.requested_at if at >= since]

    # -- what connections tell --

    def is_too_many(self) -> bool:
        """Whether a request is beyond the rate of this second; it counts."""
        second, number = int(time.monotonic()), 0
        if self.second[0] == second:
            number = self.second[1]
        self.second = second, number + 1
        return 0 < self.faults.per_second <= number

    def arrived(self, id: bytes, attempt: int, stamp: int, body: bytes) -> tuple[Delivery, dict[str, Any]]:
        """Write down a request."""
        asked = json.loads(body)
        ahead = stamp - time.time()
        self.clock_ahead = [min(ahead, self.clock_ahead[0]), max(ahead, self.clock_ahead[1])]
        self.counts["requests"] += 1
        self.requested_at.append(time.monotonic())
        checksum = crc32(body)
        delivery = self.deliveries.get(id)
        if delivery is None:
            number = int(asked["id"][1:])
            kind = "iq" if asked["kind"] == "iq" else "-"
            bare = asked["from"].partition("/")[0]
            conversation = f"{bare} {asked['to'].partition('/')[0]} {kind}"
            delivery = self.deliveries[id] = Delivery(number, conversation, checksum)
            before = self.latest.get(conversation)
            if before is not None:
                self.counts["out_of_order"] += number < before.number
                self.counts["overtaking"] += not before.answered
            self.latest[conversation] = delivery
        self.counts["changed_bodies"] += checksum != delivery.checksum
        self.counts["attempts_backwards"] += attempt < delivery.attempt
        self.counts["asked_again_after_200"] += delivery.answered
        if delivery.answered:
            self.answers_in_vain.append((delivery.number, delivery.answered_at))
        delivery.attempt = attempt
        delivery.requests += 1
        now = time.monotonic()
        others = self.under_way.setdefault(delivery.conversation, [])
        if others and len(self.overlaps) < 20:
            self.overlaps.append(
                f"attempt {attempt} of L{delivery.number} came while L{others[-1].number} was under way"
                f" for {now - others[-1].since:.4f} s"
            )
        others.append(delivery)
        delivery.since = now
        self.counts["running"] += 1
        self._most("running", self.counts["running"])
        # An attempt that the gateway gave up can still be under way here when the next one at the same stanza comes.
        self._most("in_a_conversation", len({one.number for one in others}))
        self._most("attempts_at_once", len(others))
        return delivery, asked

    def ended(self, delivery: Delivery) -> None:
        """A request was answered, or its connection is gone."""
        others = self.under_way[delivery.conversation]
        others.remove(delivery)
        if not others:
            del self.under_way[delivery.conversation]
        self.counts["running"] -= 1

    def opened(self, connection: Connection) -> None:
        """Write down a connection."""
        self.open.add(connection)
        self.counts["connections"] += 1
        self.connected_at.append(time.monotonic())
        self._most("connections", len(self.open))

    def _most(self, name: str, value: int) -> None:
        if value > self.most[name]:
            self.most[name] = value


class Connection(asyncio.Protocol):
    """
    One connection to the gateway, with one request at a time.

    Args:
        webhook: Whose it is.
    """

    _REFUSAL: ClassVar[bytes] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    _FAILURE: ClassVar[bytes] = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n"
    _TOO_MANY: ClassVar[bytes] = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"

    def __init__(self, webhook: Webhook) -> None:
        self._webhook = webhook
        self._buffer = b""
        self._running: Delivery | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._answers = 0
        self._pouring: Callable[[], bytes] | None = None
        self._pour_interval = 0.0
        self._poured = 0
        self._full = False
        self._evil = ""
        self._evil_since = 0.0

    # -- what asyncio calls --

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._webhook.opened(self)
        if self._webhook.resetting:
            self.reset()

    def connection_lost(self, exc: Exception | None) -> None:
        self._webhook.open.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._end()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._running is not None:
            self._webhook.counts["pipelined"] += 1
            return
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end]
        length = _LENGTH.search(head)
        size = int(length[1]) if length else 0
        if len(self._buffer) < end + 4 + size:
            return
        body, self._buffer = self._buffer[end + 4 : end + 4 + size], self._buffer[end + 4 + size :]
        id, attempt, stamp = _ID.search(head), _ATTEMPT.search(head), _STAMP.search(head)
        assert id is not None and attempt is not None and stamp is not None, head
        self._running, asked = self._webhook.arrived(id[1], int(attempt[1]), int(stamp[1]), body)
        self._choose(asked)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._pouring is not None:
            self._later(self._pour_interval, self._pour)

    # -- the rest --

    def reset(self) -> None:
        """Cut it so that the other side sees a reset."""
        handle = self._transport.get_extra_info("socket")
        with suppress(OSError):
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _later(self, seconds: float, act: Callable[..., None], *arguments: Any) -> None:
        self._timer = self._loop.call_later(seconds, act, *arguments)

    def _choose(self, asked: dict[str, Any]) -> None:
        webhook, faults = self._webhook, self._webhook.faults
        sender = asked["from"].partition("@")[0]
        if sender.startswith("evil"):
            self._be_evil(EVIL[int(sender[4:]) % len(EVIL)])
            return
        running = self._running
        assert running is not None
        lot = webhook.random.random()
        if webhook.is_too_many():
            self._say("answered_429", self._TOO_MANY)
        elif lot > 1 - faults.error or (sender.startswith("poison") and not running.number % POISONED):
            running.failures += 1
            self._say("answered_500", self._FAILURE)
        elif lot < faults.busy:
            self._say("answered_503", self._REFUSAL)
        elif lot < faults.busy + faults.reset:
            webhook.counts["resets"] += 1
            self.reset()
        elif lot < faults.busy + faults.reset + faults.stall or sender == faults.stall_sender:
            webhook.counts["stalls"] += 1
            self._later(faults.stall_seconds, self._answer, asked)
        elif sender.startswith("bad"):
            self._say("answered_rubbish", RUBBISH[running.number % len(RUBBISH)])
        elif faults.latency:
            self._later(faults.latency, self._answer, asked)
        else:
            self._answer(asked)

    def _say(self, what: str, answer: bytes) -> None:
        """Give an answer that is none, and count it."""
        self._webhook.counts[what] += 1
        self._transport.write(answer)
        self._end()

    def _answer(self, asked: dict[str, Any]) -> None:
        faults, delivery = self._webhook.faults, self._running
        assert delivery is not None
        number = asked.get("body", "").partition(" ")[0]
        if asked["from"].startswith("big"):
            number = number.ljust(LARGE, "x")
        body = b"{}" if asked["kind"] == "iq" else b'{"body": "%b"}' % number.encode()
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        self._transport.write(head + body)
        delivery.answered, delivery.answered_at = True, time.monotonic()
        self._answers += 1
        self._end()
        if faults.close_every and self._answers >= faults.close_every:
            self._transport.close()
        elif faults.close_after is not None:
            self._later(faults.close_after, self._transport.close)

    def _end(self) -> None:
        if self._evil:
            self._webhook.evil_ended.setdefault(self._evil, []).append(time.monotonic() - self._evil_since)
            self._evil = ""
        running, self._running = self._running, None
        if running is not None:
            self._webhook.ended(running)

    def _be_evil(self, kind: str) -> None:
        self._evil, self._evil_since = kind, time.monotonic()
        status, json_type = b"HTTP/1.1 200 OK\r\n", b"Content-Type: application/json\r\n"
        start, piece, interval = {
            "slow_headers": (status, b"X", 0.1),
            "endless_headers": (status, b"X-Filler: " + b"x" * 1000 + b"\r\n", 0.0),
            "endless_body": (status + json_type + b"\r\n", b" " * 16384, 0.0),
            "huge_length": (status + json_type + b"Content-Length: 1073741824\r\n\r\n", b" " * 16384, 0.0),
            "endless_chunks": (status + json_type + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", 0.005),
        }[kind]
        self._transport.write(start)
        self._pouring, self._pour_interval = lambda: piece, interval
        self._later(interval, self._pour)

    def _pour(self) -> None:
        if self._pouring is None or self._full or self._transport.is_closing() or self._poured > MAX_POURED:
            return
        piece = self._pouring()
        self._poured += len(piece)
        self._transport.write(piece)
        if not self._full:
            self._later(self._pour_interval, self._pour)


async def _main(seed: int, **faults: Any) -> None:
    webhook = Webhook(seed=seed, faults=Faults(**faults), random=Random(seed))
    await obey(
        {
            "listen": webhook.listen,
            "away": webhook.away,
            "fault": webhook.fault,
            "report": webhook.report,
            "answered": webhook.answered,
            "answers_in_vain": lambda: webhook.answers_in_vain,
            "seen": webhook.seen,
            "failures": webhook.failures,
            "connections_since": webhook.connections_since,
            "requests_since": webhook.requests_since,
        }
    )


if __name__ == "__main__":
    asyncio.run(_main(**json.loads(sys.argv[1])))
