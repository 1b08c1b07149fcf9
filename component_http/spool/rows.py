"""
What stands in a spool's file: values to rows, rows to values, and the statements between.

Whoever writes has begun a transaction; none is begun or ended here. Rows go in and out by dozens in one statement:
around each the thread gives Python's lock away, and has to ask a busy reactor for it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from attrs import define, frozen
from twisted.words.xish.domish import Element

from component_http.contract.address import Address
from component_http.contract.memo import LIFETIME, Memo
from component_http.contract.stanza import Stanza
from component_http.contract.xml import Limits, parse_stanzas
from component_http.delivery.delivery import Delivery, Letter
from component_http.delivery.departure import Departure
from component_http.errors import SpoolError, XmlRefused

__all__ = [
    "GRACE",
    "MAX_BYTES",
    "MAX_DEPARTURES",
    "MAX_LETTERS_BYTES",
    "MAX_MEMOS",
    "MAX_MEMOS_BYTES",
    "PAGE",
    "PAGE_BYTES",
    "Moment",
    "Row",
    "Shelf",
    "add_deliveries",
    "add_departures",
    "amend",
    "body",
    "delivery",
    "delivery_row",
    "departure_rows",
    "keep_departure_as_letter",
    "keep_letters",
    "key",
    "letters_shelf",
    "memos_shelf",
    "move_to_the_end",
    "note_tries",
    "page",
    "pending",
    "recall",
    "remember",
    "remove_deliveries",
    "remove_departures",
    "set_key",
    "set_subscribers",
    "size_of_deliveries",
    "sizes",
    "subscribers",
    "too_much",
]

T = TypeVar("T")

Row = Sequence[Any]
"""The values of a row, as SQLite has them."""

GRACE = 60.0
"""
Seconds that a message gets which was never tried and whose time is over, or nearly, when it is restored, and its grace
too where there is one.

A gateway that was down for an hour still asks the webhook once about what it had accepted before: that takes its turn
in the backlog, and the time of one POST.
"""

PAGE = 500
PAGE_BYTES = 1024 * 1024
"""Departures that are read at once."""

MAX_DEPARTURES = 100_000
"""Stanzas that wait for the server, above which nothing more is pushed."""

MAX_BYTES = 2 * 1024 * 1024 * 1024
"""Bytes in use in the file, above which nothing more is pushed: as much as all that may be pending, and once more."""

MAX_MEMOS = 100_000
MAX_MEMOS_BYTES = 64 * 1024 * 1024
"""Answers that are remembered by their keys, and bytes of them; the oldest are forgotten beyond it."""

MAX_LETTERS_BYTES = 256 * 1024 * 1024
"""Bytes of requests and responses in dead letters; the oldest go beyond it, so that they leave room for what lives."""

_AT_ONCE = (64, 32, 16, 8, 4, 2, 1)
"""Rows of one statement."""


def _values(number: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return ", ".join([row] * number)


_COLUMNS = (
    "id, kind, type, stanza_id, sender, recipient, through_room, uri, accepted, deadline, tries, attempts, size, body"
)
_ADD = {n: f"INSERT INTO deliveries ({_COLUMNS}) VALUES {_values(n, _COLUMNS.count(',') + 1)}" for n in _AT_ONCE}
_NOTE = {
    n: "UPDATE deliveries SET tries = noted.column2, attempts = noted.column3"
    f" FROM (VALUES {_values(n, 3)}) AS noted WHERE deliveries.id = noted.column1"
    for n in _AT_ONCE
}
_REMOVE = {n: f"DELETE FROM deliveries WHERE id IN {_values(1, n)}" for n in _AT_ONCE}
_PENDING = (
    "SELECT id, kind, type, stanza_id, sender, recipient, through_room, uri, accepted, deadline, tries, attempts, size"
    " FROM deliveries"
)

_LEAVING = "delivery_id, kind, stored, expires, verbatim, xml"
_DEPART = {n: f"INSERT INTO departures ({_LEAVING}) VALUES {_values(n, 6)}" for n in _AT_ONCE}
_GONE = {n: f"DELETE FROM departures WHERE number IN {_values(1, n)}" for n in _AT_ONCE}
_MOVE = f"INSERT INTO departures ({_LEAVING}) SELECT {_LEAVING} FROM departures WHERE number = ?"
_PAGE = f"SELECT number, {_LEAVING} FROM departures WHERE number > ? ORDER BY number"

_SUBSCRIBE = {n: f"INSERT OR IGNORE INTO subscribers (component, user) VALUES {_values(n, 2)}" for n in _AT_ONCE}
_UNSUBSCRIBE = {n: f"DELETE FROM subscribers WHERE (component, user) IN (VALUES {_values(n, 2)})" for n in _AT_ONCE}

_LETTER = (
    "INSERT OR REPLACE INTO letters (id, outcome, kind, type, stanza_id, sender, recipient, through_room, uri,"
    " accepted, ended, tries, size, body, note, status, media_type, response)"
    " SELECT id, ?, kind, type, stanza_id, sender, recipient, through_room, uri,"
    " accepted, ?, ?, size, body, ?, ?, ?, ? FROM deliveries WHERE id = ?"
)
_DEPARTURE_LETTER = (
    "INSERT OR REPLACE INTO letters (id, outcome, kind, type, stanza_id, sender, recipient, through_room, uri,"
    " accepted, ended, tries, size, note, reply) VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, 0, ?, ?, ?)"
)

_NOTES_ON_DEPARTURES = {
    "reply_expired": "it could not leave for the server in time",
    "reply_unsendable": "the server would not take it, or it does not fit the settings any more",
}


@frozen
class Moment:
    """One moment: by the wall clock, as the file has it, and by the reactor's."""

    now: float
    seconds: float


@define(eq=False)
class Shelf:
    """
    A table of things of the past, of which the oldest go when there are too many.

    What is put there is counted, and the table looked through only when there may be too much in it: that reads all of
    it.

    Args:
        table: Its name; the order of its rows is that in which they came.
        size: The bytes of a row, in SQL.
        most: Rows that may stay.
        most_bytes: Bytes of them.
    """

    table: str
    size: str
    most: int
    most_bytes: int
    # What may still come until it is looked through again; nothing is known before the first time.
    _room: float = -1.0
    _room_bytes: float = -1.0

    def grew(self, size: float = float("inf")) -> None:
        """A row of so many bytes has come, or of nobody knows how many."""
        self._room -= 1
        self._room_bytes -= size

    def look_again(self) -> None:
        """Nothing is known any more of what is there."""
        self._room = -1.0

    def trim(self, connection: sqlite3.Connection, begin: Callable[[], None]) -> None:
        """
        Let the oldest go that are too many.

        Args:
            connection: To the file.
            begin: Begins a transaction on it, unless there is one.
        """
        if self._room >= 0 and self._room_bytes >= 0:
            return
        # One row comes of it, whatever there is: for each the reactor's thread would be asked for Python's lock.
        [[last]] = connection.execute(
            "SELECT max(rowid) FROM (SELECT rowid, row_number() OVER newest AS rows, sum(size) OVER newest AS bytes"
            f" FROM (SELECT rowid, {self.size} AS size FROM {self.table})"
            " WINDOW newest AS (ORDER BY rowid DESC)) WHERE rows > ? OR bytes > ?",
            (self.most, self.most_bytes),
        ).fetchall()
        if last is not None:
            begin()
            connection.execute(f"DELETE FROM {self.table} WHERE rowid <= ?", (last,))
        [[rows, size]] = connection.execute(f"SELECT count(*), total({self.size}) FROM {self.table}").fetchall()
        # A little more may come, for who is at the limit would have all of it looked through every time.
        self._room = self.most + self.most // 64 - rows
        self._room_bytes = self.most_bytes + self.most_bytes // 64 - size


# -- deliveries --


def delivery_row(delivery: Delivery, body: bytes, at: Moment) -> Row:
    """What is kept of a delivery."""
    stanza = delivery.stanza
    return (
        delivery.id,
        stanza.kind,
        stanza.type,
        stanza.id,
        str(stanza.sender),
        str(stanza.recipient),
        stanza.through_room,
        stanza.element.uri,
        at.now,
        at.now + delivery.deadline - at.seconds,
        delivery.tries,
        delivery.attempts,
        delivery.size,
        body,
    )


def add_deliveries(connection: sqlite3.Connection, rows: Sequence[Row]) -> None:
    """Keep deliveries, in this order."""
    _write(connection, _ADD, rows)


def note_tries(connection: sqlite3.Connection, notes: Sequence[tuple[str, int, int]]) -> None:
    """Keep how often deliveries were tried, by their ids: `tries` and `attempts`."""
    _write(connection, _NOTE, notes)


def remove_deliveries(connection: sqlite3.Connection, ids: Iterable[str]) -> None:
    """Keep them no longer."""
    _write(connection, _REMOVE, [(each,) for each in ids])


def size_of_deliveries(connection: sqlite3.Connection, ids: Collection[str]) -> int:
    """Bytes of their bodies."""
    query = f"SELECT total(size) FROM deliveries WHERE id IN {_values(1, len(ids))}"
    [[size]] = connection.execute(query, list(ids)).fetchall()
    return int(size)


def body(connection: sqlite3.Connection, delivery_id: str) -> bytes:
    """The request body of a delivery; raises KeyError if there is no such delivery."""
    row = connection.execute("SELECT body FROM deliveries WHERE id = ?", (delivery_id,)).fetchone()
    if row is None:
        raise KeyError(delivery_id)
    found: bytes = row[0]
    return found


def amend(connection: sqlite3.Connection, delivery_id: str, body: bytes) -> None:
    """Replace the request body of a delivery, if it is there."""
    connection.execute("UPDATE deliveries SET body = ?, size = ? WHERE id = ?", (body, len(body), delivery_id))


def pending(connection: sqlite3.Connection, delivery_id: str | None = None) -> Iterable[Row]:
    """For `delivery`: the rows of all, in the order in which they were stored, or that of one."""
    if delivery_id is None:
        return connection.execute(f"{_PENDING} ORDER BY number")
    return connection.execute(f"{_PENDING} WHERE id = ?", (delivery_id,))


def delivery(row: Row, at: Moment, deadlines: Mapping[str, float], grace: float = 0.0) -> Delivery:
    """
    A delivery as it goes on after a restart.

    Args:
        row: As `pending` gives it.
        at: The present.
        deadlines: Seconds it may take at most, by the kind of its stanza.
        grace: Seconds since its acceptance for which a message waits that the webhook has not seen, or 0.0.

    Raises:
        KeyError: Its kind is none.
        NotAnAddress: It has no addresses.
    """
    delivery_id, kind, stanza_type, stanza_id, sender, recipient, through_room, uri = row[:8]
    accepted, deadline, tries, attempts, size = row[8:]
    left = max(0.0, deadline - at.now)
    age = max(0.0, at.now - accepted)
    last = at.seconds + grace - age if kind == "message" else 0.0
    if kind == "message" and tries == 0 and last <= at.seconds + left:
        left = max(left, GRACE)
    stanza = Stanza(
        kind=kind,
        type=stanza_type,
        id=stanza_id,
        sender=Address.parse(sender),
        recipient=Address.parse(recipient),
        through_room=bool(through_room),
        element=Element((uri, kind)),
    )
    # The wall clock may have been set back since.
    left = min(left, deadlines[kind])
    return Delivery(delivery_id, stanza, size, at.seconds + left, tries, attempts, last=last, accepted=at.seconds - age)


# -- departures --


def departure_rows(departures: Sequence[Departure], at: Moment) -> list[Row]:
    """What is kept of departures, but for their numbers."""
    ahead = at.now - at.seconds
    return [
        (
            departure.delivery_id,
            departure.kind,
            departure.stored + ahead,
            departure.expires + ahead,
            departure.verbatim,
            departure.xml.encode("utf-8"),
        )
        for departure in departures
    ]


def add_departures(connection: sqlite3.Connection, rows: Sequence[Row]) -> int:
    """Keep departures, in this order; returns the number of the first, and the others follow it one by one."""
    return _write(connection, _DEPART, rows) - len(rows) + 1


def remove_departures(connection: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Keep them no longer."""
    _write(connection, _GONE, [(number,) for number in numbers])


def move_to_the_end(connection: sqlite3.Connection, number: str) -> None:
    """Give a departure, if it is there, a number beyond all others."""
    connection.execute(_MOVE, (number,))
    connection.execute(_GONE[1], (number,))


def page(connection: sqlite3.Connection, after: int, at: Moment, settled: Container[int]) -> list[Departure]:
    """The next ones, but for those that are still there only because they could not be deleted yet."""
    departures: list[Departure] = []
    size = 0
    for number, delivery_id, kind, stored, expires, verbatim, xml in connection.execute(_PAGE, (after,)):
        if number in settled:
            continue
        # The wall clock may have been set back since.
        left = min(expires - at.now, expires - stored)
        departures.append(
            Departure(
                xml=xml.decode("utf-8", "replace"),
                kind=kind,
                expires=at.seconds + left,
                stored=at.seconds - max(0.0, at.now - stored),
                verbatim=bool(verbatim),
                delivery_id=delivery_id,
                number=number,
            )
        )
        size += len(xml)
        if len(departures) == PAGE or size > PAGE_BYTES:
            break
    return departures


def too_much(connection: sqlite3.Connection, most: int) -> SpoolError | None:
    """Where so much waits to leave nothing more is pushed; answers are not refused for that."""
    [waiting] = connection.execute("SELECT coalesce(max(number) - min(number) + 1, 0) FROM departures").fetchone()
    if waiting >= most:
        return SpoolError(f"{waiting} stanzas wait for the server")
    if sizes(connection)[1] > MAX_BYTES:
        return SpoolError(f"the spool holds more than {MAX_BYTES} bytes")
    return None


def sizes(connection: sqlite3.Connection) -> tuple[int, int]:
    """Bytes of the file's pages that hold nothing, and of those that do."""
    pages, unused, page_bytes = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_count", "freelist_count", "page_size")
    )
    return unused * page_bytes, (pages - unused) * page_bytes


# -- dead letters --


def keep_letters(connection: sqlite3.Connection, letters: Mapping[str, tuple[Letter, float]]) -> None:
    """Keep deliveries as dead letters, by their ids, with when they ended; they are still there."""
    for delivery_id, (letter, ended) in letters.items():
        last = (letter.status, letter.media_type, letter.response)
        connection.execute(_LETTER, (letter.outcome, ended, letter.tries, letter.note, *last, delivery_id))


def keep_departure_as_letter(connection: sqlite3.Connection, number: int, outcome: str, now: float) -> None:
    """Keep a departure as a dead letter, if it is still there."""
    row = connection.execute(
        "SELECT delivery_id, kind, stored, xml FROM departures WHERE number = ?", (number,)
    ).fetchone()
    if row is None:
        return
    delivery_id, kind, stored, xml = row
    try:
        [element] = parse_stanzas(xml.decode("utf-8", "replace"), Limits())
    except (XmlRefused, ValueError):
        element = Element((None, kind))
    facts = [element.getAttribute(name) for name in ("id", "to", "from")]
    stanza_id, sender, recipient = facts[0], facts[1] or "", facts[2] or ""
    # The letter is about the conversation that it belongs to, so its sender is who would have got this.
    connection.execute(
        _DEPARTURE_LETTER,
        (
            f"{delivery_id or 'departure'}.{number}",
            outcome,
            kind,
            element.getAttribute("type", ""),
            stanza_id,
            sender,
            recipient,
            element.uri or "",
            stored,
            now,
            len(xml),
            _NOTES_ON_DEPARTURES.get(outcome, outcome),
            xml,
        ),
    )


def letters_shelf(most: int) -> Shelf:
    """Dead letters, so many at most."""
    size = "coalesce(length(body), 0) + coalesce(length(response), 0) + coalesce(length(reply), 0)"
    return Shelf("letters", size, most, MAX_LETTERS_BYTES)


def memos_shelf(most: int, most_bytes: int) -> Shelf:
    """What is remembered by keys, so much at most."""
    size = "length(owner) + length(key) + length(fingerprint) + length(body) + length(numbers)"
    return Shelf("memos", size, most, most_bytes)


# -- the rest --


def set_subscribers(connection: sqlite3.Connection, changed: Mapping[tuple[str, str], bool]) -> None:
    """Keep pairs, or keep them no longer."""
    _write(connection, _SUBSCRIBE, [pair for pair, kept in changed.items() if kept])
    _write(connection, _UNSUBSCRIBE, [pair for pair, kept in changed.items() if not kept])


def subscribers(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """The pairs that are kept, oldest first."""
    return connection.execute("SELECT component, user FROM subscribers ORDER BY number").fetchall()


def recall(connection: sqlite3.Connection, owner: str, key: str, now: float) -> Memo | None:
    """What is remembered of a key, if it is not too old."""
    query = "SELECT fingerprint, body, numbers FROM memos WHERE owner = ? AND key = ? AND expires > ?"
    row = connection.execute(query, (owner, key, now)).fetchone()
    if row is None:
        return None
    fingerprint, body, numbers = row
    return Memo(owner, key, fingerprint, body, tuple(json.loads(numbers)))


def remember(connection: sqlite3.Connection, memo: Memo, numbers: Sequence[int], now: float) -> int:
    """Keep a memo, with the numbers of what leaves with it; returns its bytes."""
    row = (memo.owner, memo.key, memo.fingerprint, memo.body, json.dumps([*numbers]))
    connection.execute(
        "INSERT OR REPLACE INTO memos (owner, key, fingerprint, body, numbers, expires) VALUES (?, ?, ?, ?, ?, ?)",
        (*row, now + LIFETIME),
    )
    return sum(map(len, row))


def key(connection: sqlite3.Connection) -> bytes | None:
    """The key that nobody else knows, if there is one yet."""
    row = connection.execute("SELECT value FROM facts WHERE name = 'key'").fetchone()
    return None if row is None else bytes.fromhex(row[0])


def set_key(connection: sqlite3.Connection, key: bytes) -> None:
    """Keep it."""
    connection.execute("INSERT INTO facts (name, value) VALUES ('key', ?)", (key.hex(),))


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    begin = 0
    for size in _AT_ONCE:
        while len(items) - begin >= size:
            yield items[begin : begin + size]
            begin += size


def _write(connection: sqlite3.Connection, statements: Mapping[int, str], rows: Sequence[Row]) -> int:
    """Returns the number of the last row, where it inserts some."""
    last = 0
    for chunk in _chunks(rows):
        last = connection.execute(statements[len(chunk)], [value for row in chunk for value in row]).lastrowid or 0
    return last
