"""
The XMPP side of a run: sends numbered stanzas at an even rate, whatever comes back, and keeps the ledger.

Either it is the server's side of the gateway's stream (XEP-0114), or one more component of a real server. What it
cannot write, because the other side does not read, waits as it would in a server, and its latency counts from when it
was due.

    python -m tests.soak.load '{"domain": "bot.localhost", "secret": "s3cret"}'
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
import time
from array import array
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any
from xml.parsers import expat

from attrs import define, field

from tests.soak.control import obey

COMPONENT = "jabber:component:accept"
STREAMS = "http://etherx.jabber.org/streams"
STANZA_ERRORS = "urn:ietf:params:xml:ns:xmpp-stanzas"

TICK = 0.005
"""Seconds between two moments at which stanzas that are due are written."""

FILLER = "and some more words, as people write them when they talk to a bot about this and that"

NOTHING, REPLY, RESULT, ERROR = range(4)
"""What became of a stanza."""


@define
class Group:
    """
    Some senders who behave alike.

    Attributes:
        name: For the report.
        rate: Stanzas per second of all of them together.
        senders: How many there are; they take turns.
        kind: `message` or `iq`.
        user: How their local parts begin; a number follows.
        burst: So many are due at once, at the same rate.
        patient: What cannot be written waits without limit; else it is not sent once `MAX_QUEUE` wait.
        window: Instead of a rate: so many are always unanswered, until the time is over; 0 for a rate.
        due: How many should have been sent by now.
        sent: How many were written.
        held: How many were not sent for want of patience.
        conditions: Errors that came back.
        error_types: Their types.
    """

    name: str
    rate: float = 0.0
    senders: int = 1
    kind: str = "message"
    user: str = "u"
    burst: int = 1
    patient: bool = True
    window: int = 0
    due: int = 0
    sent: int = 0
    held: int = 0
    conditions: Counter[str] = field(factory=Counter)
    error_types: Counter[str] = field(factory=Counter)


MAX_QUEUE = 5000
"""Stanzas that wait to be written before those of impatient groups are held back."""


class Load:
    """
    Args:
        domain: The gateway's.
        secret: What the gateway has to know, or what we have to know at a real server.
        port: The component port of a real server; None to be the server.
        own_domain: Whose users the senders are.
        limit: Bytes of a stanza above which we, as a server, close the stream; 0 for none.
    """

    def __init__(
        self, domain: str, secret: str, port: int | None = None, own_domain: str = "load.localhost", limit: int = 0
    ) -> None:
        self.domain = domain
        self.secret = secret
        self.own_domain = own_domain
        self.limit = limit
        self._server_port = port
        self._port = 0
        self._listener: asyncio.Server | None = None
        self.stream: Stream | None = None
        self.streams: list[Stream] = []
        self.connections = 0
        self.counts: Counter[str] = Counter()
        self._groups: list[Group] = []
        self._running: list[tuple[Group, float, float]] = []
        self._queue: deque[tuple[int, bytes]] = deque()
        self._generating: asyncio.Task[None] | None = None
        self._held = False
        self.reading = True
        # By the stanza's number.
        self._due_at = array("d")
        self._written = bytearray()
        self._written_on = array("L")
        self._fate = bytearray()
        self._arrivals = bytearray()
        self._latency = array("f")
        self._written_at = array("d")
        self._ended_at = array("d")
        self._conditions: dict[int, str] = {}
        self._pushes: Counter[int] = Counter()
        self._group_of = bytearray()
        self._conversation_of = array("L")
        self._conversations: dict[tuple[str, str, int], int] = {}
        self._last_reply: list[int] = []
        self._may_repeat: Counter[int] = Counter()
        self._last_on_stream: dict[str | int, tuple[int, int]] = {}
        self._outstanding = 0
        self._replies_at: Counter[int] = Counter()
        self._strange: list[str] = []
        self._disorder: list[tuple[int, int]] = []

    # -- commands --

    async def open(self) -> int:
        """Listen, always on the same port, or connect to the real server; returns the port."""
        loop = asyncio.get_running_loop()
        if self._server_port is not None:
            await loop.create_connection(lambda: Stream(self), "127.0.0.1", self._server_port)
            return self._server_port
        if self._listener is None:
            self._listener = await loop.create_server(
                lambda: Stream(self), "127.0.0.1", self._port, reuse_address=True, backlog=16
            )
            self._port = self._listener.sockets[0].getsockname()[1]
        return self._port

    def cut(self, polite: bool) -> bool:
        """
        Stop being a server: close the stream, reading to its end, or drop the connection; listen no more.
        """
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for stream in self.streams:
            stream.cut(polite)
        return True

    def hold(self, on: bool) -> bool:
        """Write no stanza for now, what is due waits; or go on."""
        self._held = on
        self.flush()
        return True

    def read(self, on: bool) -> bool:
        """Read from no stream for now, or go on."""
        self.reading = on
        for stream in self.streams:
            stream.read(on)
        return True

    def start(self, groups: Sequence[dict[str, Any]], seconds: float) -> bool:
        """Begin to send."""
        now = time.monotonic()
        for properties in groups:
            group = Group(**properties)
            self._groups.append(group)
            self._running.append((group, now, now + seconds))
        if self._generating is None or self._generating.done():
            self._generating = asyncio.get_running_loop().create_task(self._generate())
        return True

    def stop(self) -> bool:
        """Send no more; what waits to be written is forgotten, it was never sent."""
        self._running.clear()
        self.counts["forgotten"] += len(self._queue)
        self._queue.clear()
        return True

    def state(self) -> dict[str, Any]:
        """What can be said at any time at little cost."""
        return {
            "ready": self.stream is not None,
            "connections": self.connections,
            "generating": bool(self._running),
            "queued": len(self._queue),
            "due": sum(group.due for group in self._groups),
            "sent": sum(group.sent for group in self._groups),
            "held": sum(group.held for group in self._groups),
            "outstanding": self._outstanding,
            "replied": self.counts["replies"] + self.counts["results"],
            "bounced": self.counts["errors"],
            "duplicates": self.counts["duplicates"],
            "out_of_order": self.counts["out_of_order"],
            "disordered": self.counts["disordered"],
            "refused": self.counts["refused"],
            "strange": self._strange,
            "time": time.monotonic(),
        }

    def report(self) -> dict[str, Any]:
        """Everything in numbers."""
        return {
            **self.state(),
            "disorder": self._disorder,
            "groups": {group.name: self._report(index, group) for index, group in enumerate(self._groups)},
            "second_kinds": {name: number for name, number in self.counts.items() if name.startswith("then_")},
        }

    def replies_at(self) -> dict[int, int]:
        """Replies and results in each second of this machine's monotonic clock."""
        return dict(self._replies_at)

    def answered(self) -> list[int]:
        """The numbers of the stanzas that were answered by a reply or a result."""
        return [number for number, fate in enumerate(self._fate) if fate in (REPLY, RESULT)]

    def ended(self) -> list[int]:
        """The numbers of the stanzas that were answered in any way."""
        return [number for number, fate in enumerate(self._fate) if fate]

    def repeated(self) -> dict[int, int]:
        """How often those stanzas were answered that were answered more than once."""
        return {number: times for number, times in enumerate(self._arrivals) if times > 1}

    def unexplained(self) -> list[int]:
        """Those that were answered again, though we as a server had returned a barrier after the first time."""
        return [number for number, times in enumerate(self._arrivals) if times > 1 + self._may_repeat[number]]

    def ledger(self) -> list[dict[str, Any]]:
        """What is known of each stanza that was written, in the order of the numbers."""
        return [
            {
                "number": number,
                "group": self._groups[self._group_of[number]].name,
                "conversation": self._conversation_of[number],
                "stream": self._written_on[number],
                "written": self._written_at[number],
                "fate": fate,
                "condition": self._conditions.get(number, ""),
                "ended": self._ended_at[number],
            }
            for number, fate in enumerate(self._fate)
            if self._written[number]
        ]

    def pushes(self) -> dict[str, Any]:
        """How often each push came, and which came again though we had returned a barrier after the first time."""
        return {
            "arrived": dict(self._pushes),
            "unexplained": [
                number for number, times in self._pushes.items() if times > 1 + self._may_repeat[-number - 1]
            ],
        }

    def never_taken(self) -> dict[str, Any]:
        """
        What was written and never answered.

        Returns:
            Their numbers; and those of them after which something on the same stream was answered: what stayed behind
            in a lost connection can only be the last of it.
        """
        last: dict[int, int] = {}
        for number, fate in enumerate(self._fate):
            if fate:
                last[self._written_on[number]] = number
        numbers = [number for number, fate in enumerate(self._fate) if self._written[number] and not fate]
        return {
            "numbers": numbers,
            "overtaken": [number for number in numbers if number < last.get(self._written_on[number], -1)],
        }

    def latencies(self, group: str) -> list[float]:
        """Seconds that a group's replies took, in the order of the stanzas."""
        index = [one.name for one in self._groups].index(group)
        return [
            self._latency[number]
            for number, owner in enumerate(self._group_of)
            if owner == index and self._fate[number] in (REPLY, RESULT)
        ]

    def _report(self, index: int, group: Group) -> dict[str, Any]:
        fates: Counter[int] = Counter()
        times: list[float] = []
        for number, owner in enumerate(self._group_of):
            if owner != index or not self._written[number]:
                continue
            fate = self._fate[number]
            fates[fate] += 1
            if fate in (REPLY, RESULT):
                times.append(self._latency[number])
        times.sort()
        return {
            "kind": group.kind,
            "due": group.due,
            "sent": group.sent,
            "held": group.held,
            "replied": fates[REPLY] + fates[RESULT],
            "bounced": fates[ERROR],
            "unanswered": fates[NOTHING],
            "conditions": dict(group.conditions),
            "error_types": dict(group.error_types),
            "p50": _at(times, 0.5),
            "p99": _at(times, 0.99),
            "longest": _at(times, 1.0),
        }

    # -- sending --

    async def _generate(self) -> None:
        while self._running or self._queue:
            now = time.monotonic()
            for entry in list(self._running):
                group, since, until = entry
                if group.window:
                    if now >= until:
                        self._running.remove(entry)
                    elif not group.due:
                        self._refill(group, now)
                    continue
                due = int((min(now, until) - since) * group.rate / group.burst) * group.burst
                while group.due < due:
                    self._make(group, since + (group.due // group.burst + 1) * group.burst / group.rate)
                    group.due += 1
                if now >= until and entry in self._running:
                    self._running.remove(entry)
            self.flush()
            await asyncio.sleep(TICK)

    def _refill(self, group: Group, now: float) -> None:
        """Put the first of a window on their way; each answer brings the next."""
        while group.due < group.window:
            self._make(group, now)
            group.due += 1

    def _next_of_window(self, group: Group, now: float) -> None:
        if any(one is group and now < until for one, _, until in self._running):
            self._make(group, now)
            group.due += 1
            self.flush()

    def _make(self, group: Group, due_at: float) -> None:
        if not group.patient and len(self._queue) >= MAX_QUEUE:
            group.held += 1
            return
        number = len(self._due_at)
        key = (group.user, group.kind, group.due % group.senders)
        conversation = self._conversations.setdefault(key, len(self._conversations))
        if conversation == len(self._last_reply):
            self._last_reply.append(-1)
        self._due_at.append(due_at)
        self._written.append(0)
        self._written_on.append(0)
        self._fate.append(NOTHING)
        self._arrivals.append(0)
        self._latency.append(0.0)
        self._written_at.append(0.0)
        self._ended_at.append(0.0)
        self._group_of.append(self._groups.index(group))
        self._conversation_of.append(conversation)
        sender = f"{group.user}{key[2]}@{self.own_domain}/r"
        if group.kind == "iq":
            text = (
                f"<iq type='get' id='L{number}' from='{sender}' to='bot@{self.domain}'><query xmlns='urn:soak'/></iq>"
            )
        else:
            text = (
                f"<message type='chat' id='L{number}' from='{sender}' to='bot@{self.domain}'>"
                f"<body>{number} {FILLER}</body></message>"
            )
        self._queue.append((number, text.encode()))

    def flush(self) -> None:
        """Write what waits, as far as the other side reads."""
        while self._queue and self.stream is not None and not self.stream.full and not self._held:
            pieces = []
            while self._queue and len(pieces) < 100:
                number, data = self._queue.popleft()
                self._written[number] = 1
                self._written_on[number] = self.stream.number
                self._written_at[number] = time.monotonic()
                self._groups[self._group_of[number]].sent += 1
                self._outstanding += 1
                pieces.append(data)
            self.stream.write(b"".join(pieces))

    # -- what streams tell --

    def opened(self, stream: Stream) -> None:
        """A stream is authenticated."""
        self.connections += 1
        stream.number = self.connections
        self.stream = stream
        self.flush()

    def closed(self, stream: Stream) -> None:
        """A stream is gone."""
        self._may_repeat.update(stream.unconfirmed())
        if self.stream is stream:
            self.stream = None

    def arrived(self, name: str, attributes: dict[str, str], body: str, error: tuple[str, str], on: Stream) -> None:
        """
        A stanza came for one of the senders.

        Args:
            error: Type and condition.
            on: Its stream.
        """
        if body.startswith("P"):
            self._push_arrived(int(body[1:]), attributes["to"], on)
            return
        now = time.monotonic()
        kind = attributes.get("type")
        text = attributes.get("id", "")[1:] if kind in ("error", "result") else body
        try:
            number = int(text)
            due_at = self._due_at[number]
        except (ValueError, IndexError):
            if len(self._strange) < 10:
                self._strange.append(f"{name} {attributes} {body[:50]!r} {error}")
            self.counts["strange"] += 1
            return
        fate = ERROR if kind == "error" else RESULT if kind == "result" else REPLY
        group, conversation = self._groups[self._group_of[number]], self._conversation_of[number]
        self._arrivals[number] = min(255, self._arrivals[number] + 1)
        on.note(number)
        if fate == REPLY:
            self._look_at_order(conversation, on.number, number)
        if self._fate[number]:
            self.counts["duplicates"] += 1
            self.counts[f"then_{self._fate[number]}{fate}"] += 1
            return
        self._fate[number] = fate
        self._ended_at[number] = now
        self._outstanding -= 1
        if group.window:
            self._next_of_window(group, now)
        if fate == ERROR:
            self.counts["errors"] += 1
            group.error_types[error[0]] += 1
            group.conditions[error[1]] += 1
            self._conditions[number] = error[1]
            return
        self._latency[number] = now - due_at
        self._replies_at[int(now)] += 1
        self.counts["results" if fate == RESULT else "replies"] += 1
        if number < self._last_reply[conversation]:
            self.counts["out_of_order"] += 1
        else:
            self._last_reply[conversation] = number

    def _push_arrived(self, number: int, to: str, on: Stream) -> None:
        self._pushes[number] += 1
        on.note(-number - 1)
        self._look_at_order(to, on.number, number)

    def _look_at_order(self, conversation: str | int, stream: int, number: int) -> None:
        """On each stream what belongs together comes in order."""
        last_stream, last = self._last_on_stream.get(conversation, (0, -1))
        self._last_on_stream[conversation] = stream, number
        if last_stream == stream and last >= number:
            self.counts["disordered"] += 1
            self._disorder.append((number, last))


class Stream(asyncio.Protocol):
    """
    One connection that carries a component's stream.

    Args:
        load: Whose it is.
    """

    def __init__(self, load: Load) -> None:
        self._load = load
        self._is_server = load._server_port is None
        self._depth = 0
        self._name = ""
        self._attributes: dict[str, str] = {}
        self._text: list[str] | None = None
        self._body = ""
        self._digest = ""
        self._error_type = self._condition = ""
        self._closing = self._refused = False
        self._began = 0
        self.number = 0
        self._covered: list[int] = []
        self._since: list[int] = []
        self.full = False
        parser = expat.ParserCreate(namespace_separator="}")
        parser.buffer_text = True
        if hasattr(parser, "SetReparseDeferralEnabled"):
            parser.SetReparseDeferralEnabled(False)
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        self._parser = parser

    # -- what asyncio calls --

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._load.streams.append(self)
        transport.set_write_buffer_limits(high=65536)
        if not self._load.reading:
            self.read(False)
        if not self._is_server:
            self.write(
                f"<?xml version='1.0'?><stream:stream xmlns='{COMPONENT}' xmlns:stream='{STREAMS}'"
                f" to='{self._load.own_domain}'>".encode()
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self._load.streams.remove(self)
        self._load.closed(self)

    def data_received(self, data: bytes) -> None:
        if not self._refused:
            self._parser.Parse(data, False)

    def pause_writing(self) -> None:
        self.full = True

    def resume_writing(self) -> None:
        self.full = False
        self._load.flush()

    # -- what the load calls --

    def write(self, data: bytes) -> None:
        """Send raw XML."""
        self._transport.write(data)

    def note(self, number: int) -> None:
        """Remember what arrived, until it is confirmed."""
        self._since.append(number)

    def unconfirmed(self) -> list[int]:
        """
        What arrived and may come again on the next stream, for the gateway may not know that we have it; once.

        The last barrier that we returned may be lost with the stream.
        """
        numbers, self._covered, self._since = self._covered + self._since, [], []
        return numbers

    def read(self, on: bool) -> None:
        """Read, or do not for now."""
        if on:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def cut(self, polite: bool) -> None:
        """Close the stream and read on to its end, or drop the connection."""
        self._load.closed(self)
        if polite:
            self._closing = True
            self.write(b"</stream:stream>")
        else:
            self._transport.abort()

    # -- what expat calls --

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        depth = self._depth
        if self._refused:
            return
        if depth == 2:
            self._began = self._parser.CurrentByteIndex
            self._name = name.partition("}")[2]
            self._attributes = attributes
            self._body = self._error_type = self._condition = ""
            if self._name == "handshake":
                self._text = []
        elif depth == 3:
            if name.endswith("}body"):
                self._text = []
            elif name == "urn:xmpp:ping}ping":
                self._body = "ping"
            elif name.endswith("}error"):
                self._error_type = attributes.get("type", "")
        elif depth == 4 and name.startswith(STANZA_ERRORS) and not name.endswith("}text"):
            self._condition = name.partition("}")[2]
        elif depth == 1:
            self._opened(attributes)

    def _characters(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def _end(self, name: str) -> None:
        self._depth -= 1
        depth = self._depth
        if self._refused:
            return
        if self._text is not None and (depth == 2 or self._name == "handshake"):
            self._body, self._text = "".join(self._text), None
        if depth == 1 and 0 < self._load.limit < self._parser.CurrentByteIndex - self._began:
            self._refuse()
        elif depth == 1:
            self._stanza()
        elif depth == 0:
            self._load.closed(self)
            if not self._closing:
                self.write(b"</stream:stream>")
            self._transport.close()

    # -- the rest --

    def _refuse(self) -> None:
        """A stanza is too large: say so, close the stream, and read no more of it than its end."""
        self._load.counts["refused"] += 1
        self._load.closed(self)
        self._refused = True
        self.write(
            b"<stream:error><policy-violation xmlns='urn:ietf:params:xml:ns:xmpp-streams'/></stream:error>"
            b"</stream:stream>"
        )
        asyncio.get_running_loop().call_later(1.0, self._transport.abort)

    def _opened(self, attributes: dict[str, str]) -> None:
        secret = self._load.secret
        if self._is_server:
            id = f"stream-{time.monotonic_ns()}"
            self._digest = hashlib.sha1((id + secret).encode()).hexdigest()
            self.write(
                f"<?xml version='1.0'?><stream:stream xmlns='{COMPONENT}' xmlns:stream='{STREAMS}'"
                f" from='{self._load.domain}' id='{id}'>".encode()
            )
        else:
            digest = hashlib.sha1((attributes.get("id", "") + secret).encode()).hexdigest()
            self.write(f"<handshake>{digest}</handshake>".encode())

    def _stanza(self) -> None:
        name, attributes = self._name, self._attributes
        if name == "handshake":
            if self._is_server:
                assert self._body.strip() == self._digest, "the gateway's digest is wrong"
                self.write(b"<handshake/>")
            self._load.opened(self)
        elif self._is_server and attributes.get("to", "").partition("/")[0] == self._load.domain:
            # To itself: a server routes it back. Only pings and their answers are ever sent so.
            inside = "<ping xmlns='urn:xmpp:ping'/>" if self._body == "ping" else ""
            given = "".join(f' {key}="{value}"' for key, value in attributes.items() if "}" not in key)
            self._covered, self._since = self._since, []
            self.write(f"<{name}{given}>{inside}</{name}>".encode())
        else:
            self._load.arrived(name, attributes, self._body, (self._error_type, self._condition), self)


def _at(times: Sequence[float], share: float) -> float | None:
    """The value that this share of sorted times does not exceed; None if there are none."""
    return round(times[min(len(times) - 1, int(share * len(times)))], 4) if times else None


async def _main(**arguments: Any) -> None:
    load = Load(**arguments)
    await obey(
        {
            "open": load.open,
            "cut": load.cut,
            "hold": load.hold,
            "read": load.read,
            "start": load.start,
            "stop": load.stop,
            "state": load.state,
            "report": load.report,
            "replies_at": load.replies_at,
            "answered": load.answered,
            "ended": load.ended,
            "repeated": load.repeated,
            "unexplained": load.unexplained,
            "never_taken": load.never_taken,
            "latencies": load.latencies,
            "ledger": load.ledger,
            "pushes": load.pushes,
        }
    )


if __name__ == "__main__":
    asyncio.run(_main(**json.loads(sys.argv[1])))
