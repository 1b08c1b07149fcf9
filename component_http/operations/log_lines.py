"""The lines of the log: what is in each, and how it is written."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from attrs import frozen
from twisted.logger import formatEvent, formatTime

from component_http.log import hidden, hidden_in
from component_http.operations.terminal import printable

MAX_CHARACTERS = 16_384
"""Characters of a text, of a field and of a traceback; the rest is cut off. A line must fit into one datagram."""

_PRIORITIES = {"critical": 2, "error": 3, "warn": 4, "info": 6, "debug": 7}
"""The levels of syslog(3)."""

_OWN = frozenset(("failure", "format", "id", "isError", "message", "system", "time", "why"))
"""Fields of an event that are in its line already, or that Twisted keeps for old observers."""


@frozen
class Line:
    """
    One line.

    Attributes:
        time: Seconds since the epoch.
        level: As in `component_http.log.LEVELS`, or `critical`.
        system: The part of the program that it is from, as Twisted writes it.
        text: For a person; it may hold any characters.
        traceback: That of an internal error, or "".
        delivery: The id of the delivery that it is about, or None.
        template: The text without what differs from line to line.
        fields: What differs.
    """

    time: float
    level: str
    system: str
    text: str
    traceback: str
    delivery: str | None
    template: str
    fields: Mapping[str, object]

    @classmethod
    def of(cls, event: dict[str, Any]) -> Line | None:
        """Make the line of an event of Twisted's log; None for one without any text."""
        # Old events of Twisted have another name for it, and the traceback in their text.
        failure = event.get("log_failure", event.get("failure"))
        text = formatEvent(event) if failure is None else formatEvent(event).partition("\n")[0]
        if not text and failure is None:
            return None
        level = event.get("log_level")
        name = "info" if level is None else str(level.name)
        delivery = event.get("id")
        return cls(
            time=event["log_time"],
            level=name,
            system=event.get("log_system") or f"{event.get('log_namespace', '-')}#{'-' if level is None else name}",
            text=_cut(hidden_in(text)),
            traceback="" if failure is None else _cut(hidden_in(failure.getTraceback())),
            delivery=delivery if isinstance(delivery, str) else None,
            template=hidden_in(event.get("log_format") or ""),
            fields={name: value for name, value in event.items() if not name.startswith("log_") and name not in _OWN},
        )

    @property
    def same(self) -> object:
        """Lines are the same if this is."""
        return self.system, self.text, self.traceback


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]}… ({len(text)} characters)"


def escaped(text: str) -> str:
    """Write a text as one line that cannot control a terminal, or look like another line."""
    if text.isprintable():
        return text
    return printable(text.replace("\n", "\\n").replace("\t", "\\t"))


def as_text(line: Line) -> bytes:
    """Write a line as Twisted does, with what follows its first one moved to the right."""
    traceback = "".join(f"\n\t{escaped(each)}" for each in line.traceback.splitlines())
    first = f"{formatTime(line.time)} [{escaped(line.system)}] {escaped(line.text)}"
    return f"{first}{traceback}\n".encode("utf-8", "replace")


def as_json(line: Line) -> bytes:
    """Write a line as one JSON object, in ASCII."""
    told: dict[str, object] = {
        "time": datetime.fromtimestamp(line.time, UTC).isoformat(timespec="milliseconds"),
        "level": line.level,
        "logger": line.system.partition("#")[0],
        "message": line.text,
    }
    if line.delivery is not None:
        told["delivery"] = line.delivery
    if line.template and line.template != line.text and "{log_" not in line.template:
        told["template"] = line.template
    if line.fields:
        told["fields"] = {name: _plain(value) for name, value in line.fields.items()}
    if line.traceback:
        told["traceback"] = line.traceback
    return json.dumps(told).encode() + b"\n"


def _plain(value: object) -> object:
    """A value of JSON, with addresses hidden if that is wanted."""
    return value if value is None or isinstance(value, bool | int | float) else _cut(str(hidden(str(value))))


def as_journal(line: Line) -> bytes:
    """
    Write a line as a datagram for journald, escaped: journalctl shows no text that has control characters in it.

    Source: systemd's Native Journal Protocol: a value with a line end has its length in front.
    """
    return b"".join(_journal_fields(line))


def _journal_fields(line: Line) -> Iterator[bytes]:
    fields = {
        "MESSAGE": "\n".join(map(escaped, (line.text, *line.traceback.splitlines()))),
        "PRIORITY": str(_PRIORITIES.get(line.level, 6)),
        "SYSLOG_IDENTIFIER": "component-http",
        "COMPONENT_HTTP_LOGGER": line.system.partition("#")[0],
        "COMPONENT_HTTP_DELIVERY": line.delivery or "",
    }
    for name, value in fields.items():
        if not value:
            continue
        content = value.encode("utf-8", "replace")
        if b"\n" in content:
            yield name.encode() + b"\n" + struct.pack("<Q", len(content)) + content + b"\n"
        else:
            yield name.encode() + b"=" + content + b"\n"


WRITERS: Mapping[str, Callable[[Line], bytes]] = {"text": as_text, "json": as_json, "journald": as_journal}
"""How a line is written, by the format."""
