"""
What stands in a spool's file: values to rows, rows to values, and the statements between.

Whoever writes has begun a transaction; none is begun or ended here. Rows go in and out by dozens in one statement:
around each the thread gives Python's lock away, and has to ask a busy reactor for it.

SQLite keeps any value in any column, so a row may hold what no gateway has written. Such a row is reported as `Damaged`
and left out, so that it stops nothing else.
"""

from __future__ import annotations

import json
import sqlite3
from base64 import b64encode
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from math import isfinite
from typing import Any, TypeVar

from attrs import define, frozen
from twisted.words.xish.domish import Element

from component_http.contract.address import Address
from component_http.contract.delivery import DeadLetter, Delivery
from component_http.contract.idempotency import LIFETIME, IdempotencyRecord
from component_http.contract.link import KEY_BYTES
from component_http.contract.outbound import OutboundStanza
from component_http.contract.stanza import STANZA_KINDS, Stanza, name_only
from component_http.contract.xml import Limits, parse_stanzas
from component_http.errors import SpoolError, XmlRefused

__all__ = [
    "CROWD",
    "GRACE",
    "LEAD",
    "MAX_BYTES",
    "MAX_DEPARTURES",
    "MAX_LETTERS_BYTES",
    "MAX_RECORDS",
    "MAX_RECORDS_BYTES",
    "PAGE",
    "PAGE_BYTES",
    "RESTORED_AT_ONCE",
    "Damaged",
    "Moment",
    "Report",
    "Row",
    "Shelf",
    "add_deliveries",
    "add_outbound",
    "amend",
    "body",
    "commands",
    "delivery_row",
    "keep_bounce_as_letter",
    "keep_letters",
    "keep_outbound_as_letter",
    "key",
    "lead",
    "letters_shelf",
    "move_to_the_end",
    "note_tries",
    "one_pending",
    "outbound_rows",
    "page",
    "pending",
    "recall",
    "records_shelf",
    "remember",
    "remove_deliveries",
    "remove_outbound",
    "set_aside",
    "set_key",
    "set_subscribers",
    "set_suspect",
    "size_of_deliveries",
    "sizes",
    "still_kept",
    "subscribers",
    "text_of",
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

CROWD = 10_000
"""Answers of deliveries that wait for the server when no more should be made; less than half of that is all right."""

MAX_DEPARTURES = 100_000
"""Stanzas that wait for the server, above which nothing more is pushed."""

MAX_BYTES = 2 * 1024 * 1024 * 1024
"""Bytes in use in the file, above which nothing more is pushed: as much as all that may be pending, and once more."""

LEAD = "clock"
"""The name of the fact that says how many seconds the spool's clock is ahead of the wall clock."""

MAX_RECORDS = 100_000
MAX_RECORDS_BYTES = 64 * 1024 * 1024
"""
Answers that are remembered by their keys, and bytes of them; beyond it the oldest are forgotten of the owner that has
most.
"""

MAX_LETTERS_BYTES = 256 * 1024 * 1024
"""
Bytes of requests and responses in dead letters, so that they leave room for what lives; beyond it the oldest go of the
sender that has most.
"""

RESTORED_AT_ONCE = 500
"""Deliveries that are restored at once."""

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
    "SELECT number, typeof(body), id, kind, type, stanza_id, sender, recipient, through_room, uri, accepted, deadline,"
    " tries, attempts, size FROM deliveries"
)
# A dead letter that somebody retries comes in when there is room (`SqliteSpool.look`).
_RESTORE = (
    f"{_PENDING} WHERE number > ? AND number <= ?"
    " AND id NOT IN (SELECT argument FROM commands WHERE verb IN ('deliver', 'drop_delivery'))"
    " ORDER BY number LIMIT ?"
)

_LEAVING = "delivery_id, kind, stored, expires, verbatim, asked, xml"
_DEPART = {n: f"INSERT INTO departures ({_LEAVING}) VALUES {_values(n, 7)}" for n in _AT_ONCE}
_SUSPECT = {n: f"UPDATE departures SET suspect = 1 WHERE number IN {_values(1, n)}" for n in _AT_ONCE}
_KEPT = {n: f"SELECT number FROM departures WHERE number IN {_values(1, n)}" for n in _AT_ONCE}
_GONE = {n: f"DELETE FROM departures WHERE number IN {_values(1, n)}" for n in _AT_ONCE}
_MOVE = f"INSERT INTO departures ({_LEAVING}) SELECT {_LEAVING} FROM departures WHERE number = ?"
_PAGE = f"SELECT number, suspect, {_LEAVING} FROM departures WHERE number > ? ORDER BY number"

_SUBSCRIBE = {n: f"INSERT OR IGNORE INTO subscribers (component, user) VALUES {_values(n, 2)}" for n in _AT_ONCE}
_UNSUBSCRIBE = {n: f"DELETE FROM subscribers WHERE (component, user) IN (VALUES {_values(n, 2)})" for n in _AT_ONCE}

_LETTER = (
    "INSERT OR REPLACE INTO letters (id, outcome, kind, type, stanza_id, sender, recipient, through_room, uri,"
    " accepted, ended, tries, size, body, note, status, media_type, response)"
    " SELECT id, ?, kind, type, stanza_id, sender, recipient, through_room, uri,"
    " accepted - ?, ?, ?, size, body, ?, ?, ?, ? FROM deliveries WHERE id = ?"
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
class Damaged:
    """
    A row that cannot be read.

    Attributes:
        table: Its table.
        row: Its rowid.
        reason: Why, as a phrase that repeats little of it.
    """

    table: str
    row: int
    reason: str


Report = Callable[[Damaged], None]
"""Told of rows that are left out."""

_UNREADABLE = (ValueError, TypeError, KeyError, AttributeError, RecursionError)
"""What is raised where a value is not what a gateway writes."""


def text_of(value: bytes) -> str:
    """For `Connection.text_factory`: text that is not UTF-8 must not keep the other rows from being read."""
    return value.decode("utf-8", "surrogateescape")


def _text(value: object) -> str:
    """A value that has to be text, of whole characters."""
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where text belongs")
    if not value.isascii():
        value.encode("utf-8")
    return value


def _text_or_none(value: object) -> str | None:
    return None if value is None else _text(value)


def _number(value: object) -> float:
    """A value that has to be a number, and finite."""
    if not isinstance(value, (int, float)) or not isfinite(value):
        raise TypeError(f"{type(value).__name__} where a number belongs")
    return value


def _count(value: object) -> int:
    """A value that has to be a whole number, 0 or more."""
    if not isinstance(value, int) or value < 0:
        raise TypeError(f"{type(value).__name__} where a count belongs")
    return value


def _bytes(value: object) -> bytes:
    """A value that has to be bytes."""
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} where bytes belong")
    return value


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]


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


@frozen
class Moment:
    """
    One moment, by two clocks.

    The file's times of what lives for a while are those of the spool's clock. It goes as the reactor's does, whatever
    becomes of the wall clock; over a restart it goes on by the wall clock. How far it is ahead of that is a fact in the
    file (`LEAD`), and 0 unless somebody has set the wall clock while a gateway ran.

    Attributes:
        now: Seconds of the spool's clock.
        seconds: Seconds of the reactor's.
    """

    now: float
    seconds: float


@define(eq=False)
class Shelf:
    """
    A table of things of the past, of which some go when there are too many.

    First the owner loses that has most; where owners are equal, the domain of theirs that has most; and there the
    oldest go.

    What is put there is counted, and the table looked through only when there may be too much in it: that reads all of
    it.

    Args:
        table: Its name; the order of its rows is that in which they came.
        size: The bytes of a row, in SQL.
        owner: Whose it is, in SQL.
        by_domain: An owner is a bare address, so that it has a domain.
        most: Rows that may stay.
        most_bytes: Bytes of them.
    """

    table: str
    size: str
    owner: str
    by_domain: bool
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
        Let go what is too much.

        Args:
            connection: To the file.
            begin: Begins a transaction on it, unless there is one.
        """
        if self._room >= 0 and self._room_bytes >= 0:
            return
        # No rows come of all this but one: for each the reactor's thread would be asked for Python's lock.
        count = f"SELECT count(*), total({self.size}) FROM {self.table}"
        [[rows, size]] = connection.execute(count).fetchall()
        for measure, held, most in ("1", rows, self.most), (self.size, size, self.most_bytes):
            if held > most:
                begin()
                connection.execute(self._trimming(measure), (most,))
        [[rows, size]] = connection.execute(count).fetchall()
        # A little more may come, for who is at the limit would have all of it looked through every time.
        self._room = self.most + self.most // 64 - rows
        self._room_bytes = self.most_bytes + self.most_bytes // 64 - size

    def _trimming(self, measure: str) -> str:
        """The statement that deletes what is too much by a measure, as `shares.fairest_first` has it."""
        rows = f"SELECT rowid AS id, {measure} AS held, {self.owner} AS owner FROM {self.table}"
        rows = f"SELECT *, sum(held) OVER (PARTITION BY owner ORDER BY id DESC) AS by_owner FROM ({rows})"
        ranks = "by_owner"
        if self.by_domain:
            # Where there is no @, all of it is the domain.
            domain = "substr(owner, instr(owner, '@') + 1)"
            in_domain = f"PARTITION BY {domain} ORDER BY by_owner, id DESC"
            rows = f"SELECT *, sum(held) OVER ({in_domain}) AS by_domain FROM ({rows})"
            ranks = "by_owner, by_domain"
        rows = f"SELECT id, sum(held) OVER (ORDER BY {ranks}, id DESC) AS in_all FROM ({rows})"
        return f"DELETE FROM {self.table} WHERE rowid IN (SELECT id FROM ({rows}) WHERE in_all > ?)"


# -- deliveries --


def lead(connection: sqlite3.Connection) -> float:
    """Seconds that the spool's clock was ahead of the wall clock when a gateway looked last."""
    row = connection.execute(f"SELECT value FROM facts WHERE name = '{LEAD}'").fetchone()
    try:
        return 0.0 if row is None else _number(float(_text(row[0])))
    except _UNREADABLE:
        return 0.0


def delivery_row(delivery: Delivery, body: bytes, seconds: float) -> Row:
    """What is kept of a delivery that is accepted now; its times are still the reactor's."""
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
        seconds,
        delivery.deadline,
        delivery.tries,
        delivery.attempts,
        delivery.size,
        body,
    )


def add_deliveries(connection: sqlite3.Connection, rows: Sequence[Row], ahead: float) -> None:
    """Keep deliveries, in this order; the spool's clock is so far ahead of the reactor's."""
    _write(connection, _ADD, [(*row[:8], row[8] + ahead, row[9] + ahead, *row[10:]) for row in rows])


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


def pending(
    connection: sqlite3.Connection,
    after: int,
    last: int,
    at: Moment,
    deadlines: Mapping[str, float],
    report: Report,
    grace: float = 0.0,
) -> tuple[list[Delivery], int | None]:
    """
    Some deliveries as they go on after a restart, in the order in which they were stored.

    Args:
        connection: To the file.
        after: The number before the first.
        last: The number of the last.
        at: The present.
        deadlines: Seconds one may take at most, by the kind of its stanza.
        report: Told of rows that are left out.
        grace: Seconds since its acceptance for which a message waits that the webhook has not seen, or 0.0.

    Returns:
        They, and the number of the last row that was read; None if there was none.
    """
    rows = connection.execute(_RESTORE, (after, last, RESTORED_AT_ONCE)).fetchall()
    found = [each for row in rows if (each := _delivery(row, at, deadlines, report, grace)) is not None]
    return found, rows[-1][0] if rows else None


def one_pending(
    connection: sqlite3.Connection,
    delivery_id: str,
    at: Moment,
    deadlines: Mapping[str, float],
    report: Report,
    grace: float = 0.0,
) -> Delivery | None:
    """One of them by its id; None if it is not there, or cannot be read."""
    row = connection.execute(f"{_PENDING} WHERE id = ?", (delivery_id,)).fetchone()
    return None if row is None else _delivery(row, at, deadlines, report, grace)


def _delivery(row: Row, at: Moment, deadlines: Mapping[str, float], report: Report, grace: float) -> Delivery | None:
    try:
        return _readable_delivery(row[1:], at, deadlines, grace)
    except _UNREADABLE as error:
        report(Damaged("deliveries", row[0], _why(error)))
        return None


def _readable_delivery(row: Row, at: Moment, deadlines: Mapping[str, float], grace: float) -> Delivery:
    body, delivery_id, kind, stanza_type, stanza_id, sender, recipient, through_room, uri, accepted, deadline = row[:11]
    tries, attempts, size = map(_count, row[11:])
    if body != "blob":
        raise TypeError(f"{body} where the request body belongs")
    left = max(0.0, _number(deadline) - at.now)
    age = max(0.0, at.now - _number(accepted))
    last = at.seconds + grace - age if kind == "message" else 0.0
    if kind == "message" and tries == 0 and last <= at.seconds + left:
        left = max(left, GRACE)
    stanza = _facts(kind, stanza_type, stanza_id, sender, recipient, through_room, uri)
    # The wall clock may have been set back since.
    left = min(left, deadlines[kind])
    return Delivery(
        _text(delivery_id), stanza, size, at.seconds + left, tries, attempts, last=last, accepted=at.seconds - age
    )


# -- departures --


def outbound_rows(outbound_stanzas: Sequence[OutboundStanza]) -> list[Row]:
    """What is kept of departures, but for their numbers; their times are still the reactor's."""
    return [
        (
            outbound.delivery_id,
            outbound.kind,
            outbound.stored,
            outbound.expires,
            outbound.verbatim,
            None if outbound.asked is None else _asked_text(outbound.asked),
            outbound.xml,
        )
        for outbound in outbound_stanzas
    ]


def _asked_text(asked: Stanza) -> str:
    return json.dumps(
        [asked.kind, asked.type, asked.id, str(asked.sender), str(asked.recipient), asked.element.uri],
        ensure_ascii=False,
    )


def _asked(text: str) -> Stanza:
    kind, stanza_type, stanza_id, sender, recipient, uri = json.loads(text)
    return _facts(kind, stanza_type, stanza_id, sender, recipient, False, uri)


def _facts(
    kind: object,
    stanza_type: object,
    stanza_id: object,
    sender: object,
    recipient: object,
    through_room: object,
    uri: object,
) -> Stanza:
    name = _text(kind)
    if name not in STANZA_KINDS:
        raise ValueError("it is no stanza")
    return Stanza(
        kind=name,
        type=_text(stanza_type),
        id=_text_or_none(stanza_id),
        sender=Address.parse(_text(sender)),
        recipient=Address.parse(_text(recipient)),
        through_room=bool(through_room),
        element=name_only(_text(uri), name),
    )


def add_outbound(connection: sqlite3.Connection, rows: Sequence[Row], ahead: float) -> int:
    """
    Keep departures, in this order; the spool's clock is so far ahead of the reactor's.

    Returns:
        The number of the first; the others follow it one by one.
    """
    rows = [(*row[:2], row[2] + ahead, row[3] + ahead, *row[4:]) for row in rows]
    return _write(connection, _DEPART, rows) - len(rows) + 1


def remove_outbound(connection: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Keep them no longer."""
    _write(connection, _GONE, [(number,) for number in numbers])


def set_suspect(connection: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Remember of departures that they are suspects."""
    _write(connection, _SUSPECT, [(number,) for number in numbers])


def still_kept(connection: sqlite3.Connection, numbers: Sequence[int], settled: Container[int]) -> set[int]:
    """Those of some departures that are still there, but for those that could not be deleted yet."""
    found: set[int] = set()
    for chunk in _chunks(numbers):
        found.update(number for (number,) in connection.execute(_KEPT[len(chunk)], chunk) if number not in settled)
    return found


def move_to_the_end(connection: sqlite3.Connection, number: str) -> None:
    """Give a departure, if it is there, a number beyond all others."""
    connection.execute(_MOVE, (number,))
    connection.execute(_GONE[1], (number,))


def page(
    connection: sqlite3.Connection,
    after: int,
    at: Moment,
    settled: Container[int],
    suspects: Container[int],
    report: Report,
) -> list[OutboundStanza]:
    """
    The next ones, but for those that are still there only because they could not be deleted yet.

    Args:
        after: The number before the first.
        at: The present.
        settled: The numbers of those.
        suspects: The numbers of suspects that may not be known as such in the file yet.
        report: Told of rows that are left out.
    """
    outbound_stanzas: list[OutboundStanza] = []
    size = 0
    for row in connection.execute(_PAGE, (after,)):
        number = row[0]
        if number in settled:
            continue
        try:
            outbound_stanzas.append(_outbound(row, at, number in suspects))
        except _UNREADABLE as error:
            report(Damaged("departures", number, _why(error)))
            continue
        size += len(row[-1])
        if len(outbound_stanzas) == PAGE or size > PAGE_BYTES:
            break
    return outbound_stanzas


def _outbound(row: Row, at: Moment, suspected: bool) -> OutboundStanza:
    number, suspect, delivery_id, kind, stored, expires, verbatim, asked, xml = row
    if kind not in STANZA_KINDS:
        raise ValueError("it is no stanza")
    # The wall clock may have been set back since.
    left = min(_number(expires) - at.now, expires - _number(stored))
    try:
        question = None if asked is None else _asked(asked)
    except _UNREADABLE:
        question = None  # who asked is not told where this is refused
    return OutboundStanza(
        xml=_bytes(xml),
        kind=kind,
        expires=at.seconds + left,
        stored=at.seconds - max(0.0, at.now - stored),
        verbatim=bool(verbatim),
        delivery_id=_text_or_none(delivery_id),
        number=number,
        asked=question,
        suspect=bool(suspect) or suspected,
    )


def too_much(connection: sqlite3.Connection, most: int) -> SpoolError | None:
    """Where so much waits to leave nothing more is pushed; answers are not refused for that."""
    # Each of the two alone is found at once, both together only by reading all of the table.
    [waiting] = connection.execute(
        "SELECT coalesce((SELECT max(number) FROM departures) - (SELECT min(number) FROM departures) + 1, 0)"
    ).fetchone()
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


def keep_letters(connection: sqlite3.Connection, letters: Mapping[str, tuple[DeadLetter, float]], ahead: float) -> None:
    """
    Keep deliveries, which are still there, as dead letters.

    Args:
        letters: By their ids, with when they ended by the wall clock.
        ahead: Seconds that the spool's clock is ahead of the wall clock: a letter's times are for people.
    """
    for delivery_id, (letter, ended) in letters.items():
        last = (letter.status, letter.media_type, letter.response)
        connection.execute(_LETTER, (letter.outcome, ahead, ended, letter.tries, letter.note, *last, delivery_id))


def keep_outbound_as_letter(
    connection: sqlite3.Connection, number: int, outcome: str, note: str | None, now: float, ahead: float
) -> None:
    """Keep a departure as a dead letter, if it is still there and can be read; `now` and `ahead` as `keep_letters`."""
    row = connection.execute(
        "SELECT delivery_id, kind, stored, xml FROM departures WHERE number = ?", (number,)
    ).fetchone()
    if row is not None:
        note = note or _NOTES_ON_DEPARTURES.get(outcome, outcome)
        _keep_as_letter(connection, number, row, outcome, note, now, ahead)


def keep_bounce_as_letter(
    connection: sqlite3.Connection, number: int, row: Row, note: str, now: float, ahead: float
) -> None:
    """Keep a departure that came back as a dead letter, with its row as `departure_rows` gives it."""
    _keep_as_letter(connection, number, (*row[:3], row[-1]), "reply_bounced", note, now, ahead)


def _keep_as_letter(
    connection: sqlite3.Connection, number: int, row: Row, outcome: str, note: str, now: float, ahead: float
) -> None:
    delivery_id, kind, stored, xml = row
    if not isinstance(xml, bytes) or not isinstance(stored, (int, float)):
        return
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
            stored - ahead,
            now,
            len(xml),
            note,
            xml,
        ),
    )


def letters_shelf(most: int) -> Shelf:
    """Dead letters, so many at most."""
    size = "coalesce(length(body), 0) + coalesce(length(response), 0) + coalesce(length(reply), 0)"
    bare_sender = "substr(sender, 1, instr(sender || '/', '/') - 1)"
    return Shelf("letters", size, bare_sender, True, most, MAX_LETTERS_BYTES)


def records_shelf(most: int, most_bytes: int) -> Shelf:
    """What is remembered by keys, so much at most."""
    size = "length(owner) + length(key) + length(fingerprint) + length(body) + length(numbers)"
    return Shelf("memos", size, "owner", False, most, most_bytes)


# -- the rest --


def set_subscribers(connection: sqlite3.Connection, changed: Mapping[tuple[str, str], bool]) -> None:
    """Keep pairs, or keep them no longer."""
    _write(connection, _SUBSCRIBE, [pair for pair, kept in changed.items() if kept])
    _write(connection, _UNSUBSCRIBE, [pair for pair, kept in changed.items() if not kept])


def subscribers(connection: sqlite3.Connection, report: Report) -> list[tuple[str, str]]:
    """The pairs that are kept, oldest first; `report` is told of rows that are left out."""
    pairs = []
    for number, component, user in connection.execute(
        "SELECT number, component, user FROM subscribers ORDER BY number"
    ):
        try:
            pairs.append((_text(component), _text(user)))
        except _UNREADABLE as error:
            report(Damaged("subscribers", number, _why(error)))
    return pairs


def commands(connection: sqlite3.Connection, deliveries: int) -> list[tuple[int, str, str]]:
    """What other programs want, in order: number, verb, argument; so many that are about deliveries, and all others."""
    query = "SELECT number, verb, argument FROM commands WHERE verb"
    others = connection.execute(f"{query} != 'deliver'").fetchall()
    return sorted([*others, *connection.execute(f"{query} = 'deliver' ORDER BY number LIMIT ?", (deliveries,))])


def recall(
    connection: sqlite3.Connection, owner: str, key: str, now: float, report: Report
) -> IdempotencyRecord | None:
    """What is remembered of a key, if it is not too old; `report` is told of a row that cannot be read."""
    query = "SELECT rowid, fingerprint, body, numbers FROM memos WHERE owner = ? AND key = ? AND expires > ?"
    found = connection.execute(query, (owner, key, now)).fetchone()
    if found is None:
        return None
    row, fingerprint, body, numbers = found
    try:
        return IdempotencyRecord(
            owner, key, _text(fingerprint), _bytes(body), tuple(map(_count, json.loads(_text(numbers))))
        )
    except _UNREADABLE as error:
        report(Damaged("memos", row, _why(error)))
        return None


def remember(connection: sqlite3.Connection, record: IdempotencyRecord, numbers: Sequence[int], now: float) -> int:
    """Keep a memo, with the numbers of what leaves with it; returns its bytes."""
    row = (record.owner, record.key, record.fingerprint, record.body, json.dumps([*numbers]))
    connection.execute(
        "INSERT OR REPLACE INTO memos (owner, key, fingerprint, body, numbers, expires) VALUES (?, ?, ?, ?, ?, ?)",
        (*row, now + LIFETIME),
    )
    return sum(map(len, row))


def key(connection: sqlite3.Connection, report: Report) -> bytes | None:
    """The key that nobody else knows, if there is one yet; `report` is told of one that cannot be read."""
    row = connection.execute("SELECT rowid, value FROM facts WHERE name = 'key'").fetchone()
    if row is None:
        return None
    try:
        found = bytes.fromhex(_text(row[1]))
        if len(found) != KEY_BYTES:
            raise ValueError("it has another length")
    except _UNREADABLE as error:
        report(Damaged("facts", row[0], _why(error)))
        return None
    return found


def set_key(connection: sqlite3.Connection, key: bytes) -> None:
    """Keep it."""
    connection.execute("INSERT OR REPLACE INTO facts (name, value) VALUES ('key', ?)", (key.hex(),))


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
