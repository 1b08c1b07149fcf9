"""
The values in the tables of a spool's file: statements for many rows, readers that check, and rows set aside.

Whoever writes has begun a transaction; none is begun or ended here or in the modules of the single tables. Rows go in
and out by dozens in one statement: around each statement the thread gives Python's lock away, and has to ask a busy
reactor for it.

SQLite keeps any value in any column, so a row may hold values that no gateway has written. Such a row is reported as
`Damaged` and left out, so that all others can still be used.
"""

from __future__ import annotations

import json
import sqlite3
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import isfinite
from typing import Any, TypeVar

import orjson
from attrs import frozen

from component_http.contract.address import Address
from component_http.contract.stanza import STANZA_KINDS, Stanza, name_only

T = TypeVar("T")

Row = Sequence[Any]
"""The values of a row, as SQLite has them."""

LEAD = "clock"
"""The name of the fact that says how many seconds the spool's clock (`SpoolClock`) is ahead of the wall clock."""

AT_ONCE = (64, 32, *range(16, 0, -1))
"""The numbers of rows for which there is a statement."""


# -- statements --


def values(rows: int, columns: int) -> str:
    """The placeholders of so many rows."""
    row = f"({', '.join('?' * columns)})"
    return ", ".join([row] * rows)


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut a list into parts for which there is a statement."""
    begin, left = 0, len(items)
    while left:
        size = left if left in AT_ONCE else next(each for each in AT_ONCE if each < left)
        yield items[begin : begin + size]
        begin += size
        left -= size


def runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Give the first and the last of each run of numbers that follow one another; they are in order."""
    if not numbers:
        return
    first = last = numbers[0]
    for each in numbers[1:]:
        if each != last + 1:
            yield first, last
            first = each
        last = each
    yield first, last


def write(connection: sqlite3.Connection, statements: Mapping[int, str], rows: Sequence[Row]) -> int:
    """
    Execute a statement for rows, many at once; returns the number of the last row, where the statement inserts some.
    """
    last = 0
    for chunk in chunks(rows):
        last = connection.execute(statements[len(chunk)], [value for row in chunk for value in row]).lastrowid or 0
    return last


def file_sizes(connection: sqlite3.Connection) -> tuple[int, int]:
    """Bytes of the file's pages that are unused, and of those that are used."""
    pages, unused, page_bytes = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return unused * page_bytes, (pages - unused) * page_bytes


def address_clause(column: str, address: Address, given: list[object]) -> str:
    """The condition that a column has an address, a bare one with any resource; its values are added to `given`."""
    if address.resource is not None:
        given.append(str(address))
        return f"{column} = ?"
    given += (str(address), len(f"{address}/"), f"{address}/")
    return f"({column} = ? OR substr({column}, 1, ?) = ?)"


# -- readers: each checks that a column has such a value, and raises one of `UNREADABLE` else --

UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""The errors of a reader that meets a value which no gateway writes."""


def json_of(found: Sequence[object]) -> str:
    """Write strings, numbers and the like as a JSON array."""
    try:
        return orjson.dumps(found).decode()
    except orjson.JSONEncodeError:  # for a lone surrogate
        return json.dumps(found)


def text_of(value: bytes) -> str:
    """For `Connection.text_factory`: text that is not UTF-8 must not keep other rows from being read."""
    return value.decode("utf-8", "surrogateescape")


def text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where text belongs")
    if not value.isascii():
        value.encode("utf-8")
    return value


def number(value: object) -> float:
    if not isinstance(value, (int, float)) or not isfinite(value):
        raise TypeError(f"{type(value).__name__} where a number belongs")
    return value


def count(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise TypeError(f"{type(value).__name__} where a count belongs")
    return value


def octets(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} where bytes belong")
    return value


def or_none(check: Callable[[object], T], value: object) -> T | None:
    return None if value is None else check(value)


def facts_of(stanza: Stanza) -> tuple[str, str, str | None, str, str, bool, str | None]:
    """The columns of a stanza's facts: kind, type, stanza_id, sender, recipient, through_room, uri."""
    return (
        stanza.kind,
        stanza.type,
        stanza.id,
        stanza.sender.text,
        stanza.recipient.text,
        stanza.through_room,
        stanza.element.uri,
    )


def stanza_of(
    kind: object,
    stanza_type: object,
    stanza_id: object,
    sender: object,
    recipient: object,
    through_room: object,
    uri: object,
) -> Stanza:
    """Check the columns that `facts_of` makes, and make a stanza of them."""
    name = text(kind)
    if name not in STANZA_KINDS:
        raise ValueError("it is no stanza")
    return Stanza(
        kind=name,
        type=text(stanza_type),
        id=or_none(text, stanza_id),
        sender=Address.parse(text(sender)),
        recipient=Address.parse(text(recipient)),
        through_room=bool(through_room),
        element=name_only(text(uri), name),
    )


# -- damaged rows --


@frozen
class Damaged:
    """
    A row that cannot be read.

    Attributes:
        row: Its rowid.
        reason: Why, as a phrase that repeats little of its content.
    """

    table: str
    row: int
    reason: str


Report = Callable[[Damaged], None]
"""Told of each row that is left out."""


def checked(table: str, row: int, report: Report, read: Callable[..., T], *arguments: object) -> T | None:
    """Read one row by a function that may raise `UNREADABLE`; such a row is reported, and None is returned."""
    try:
        return read(*arguments)
    except UNREADABLE as error:
        report(Damaged(table, row, f"{type(error).__name__}: {error}"[:200]))
        return None


def set_aside(connection: sqlite3.Connection, damaged: Damaged, now: float) -> None:
    """Move a row that cannot be read to the table `set_aside`, if it is still there; `now` is the wall clock's."""
    cursor = connection.execute(f"SELECT * FROM {damaged.table} WHERE rowid = ?", (damaged.row,))
    names = [column[0] for column in cursor.description]
    row = cursor.fetchone()
    if row is None:
        return
    content = {
        name: {"base64": b64encode(value).decode("ascii")} if isinstance(value, bytes) else value
        for name, value in zip(names, row, strict=True)
    }
    connection.execute(
        "INSERT INTO set_aside (source, row, reason, since, content) VALUES (?, ?, ?, ?, ?)",
        (damaged.table, damaged.row, damaged.reason, now, json.dumps(content)),
    )
    connection.execute(f"DELETE FROM {damaged.table} WHERE rowid = ?", (damaged.row,))


def lead(connection: sqlite3.Connection) -> float:
    """Seconds that the spool's clock was ahead of the wall clock when a gateway last wrote that down."""
    row = connection.execute(f"SELECT value FROM facts WHERE name = '{LEAD}'").fetchone()
    try:
        return 0.0 if row is None else number(float(text(row[0])))
    except UNREADABLE:
        return 0.0


# -- times --


@frozen
class Moment:
    """One moment: `now` in seconds of the spool's clock, `seconds` in those of the reactor's."""

    now: float
    seconds: float


class SpoolClock:
    """
    The clock of the times of deliveries, outbound stanzas and idempotency records.

    While a gateway runs it goes as the reactor's clock does, also when somebody sets the wall clock; over a restart it
    goes on by the wall clock. How far it is ahead of the wall clock is a fact in the file (`LEAD`).

    Attributes:
        ahead: Seconds that it is ahead of the reactor's clock.
        written_lead: Seconds that it was ahead of the wall clock when a gateway last wrote that down.
    """

    def __init__(self, seconds: Callable[[], float], wall: Callable[[], float], written_lead: float) -> None:
        self._seconds = seconds
        self.wall = wall
        self.written_lead = written_lead
        self.ahead = wall() + written_lead - seconds()

    def moment(self, seconds: float) -> Moment:
        return Moment(seconds + self.ahead, seconds)

    def lead(self) -> float:
        """Seconds that it is ahead of the wall clock now."""
        return self._seconds() + self.ahead - self.wall()
