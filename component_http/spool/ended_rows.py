"""The tables `ended`, the log of deliveries, and `fates`, the ends of the stanzas that they have sent."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from math import ceil
from typing import Any

from attrs import define, field

from component_http.contract.ended import EndedAttempt, EndedDelivery, EndedStanza, WhichEnded
from component_http.spool.rows import (
    AT_ONCE,
    Report,
    Row,
    address_clause,
    checked,
    chunks,
    count,
    number,
    or_none,
    text,
    values,
    write,
)

PRUNED_AT_ONCE = 500
"""Rows that are deleted in one look, beside twice as many as have come since the last: no transaction is long."""

PAGE = 500
"""Deliveries that are read at once."""

SPAN = 10_000
"""Rows that are looked at in one search of a gateway."""

_DAY = 86_400.0

_FACTS = "id, kind, type, stanza_id, sender, recipient, through_room, uri, route"
_NEW = 9
_ADD = {
    (n, bodies): f"INSERT INTO ended ({_FACTS}, accepted, outcome, ended, tries, first, note, attempts, stanzas,"
    " bytes, size, body)"
    f" SELECT {', '.join(f'd.{name}' for name in _FACTS.split(', '))}, d.accepted - ?, n.column2, n.column3,"
    f" n.column4, n.column5, n.column6, n.column7, n.column8, n.column9, d.size, {'d.body' if bodies else 'NULL'}"
    f" FROM (VALUES {values(n, _NEW)}) AS n CROSS JOIN deliveries AS d ON d.id = n.column1"
    for n in AT_ONCE
    for bodies in (False, True)
}
_FATES = {n: f"INSERT OR REPLACE INTO fates (number, at, fate, why) VALUES {values(n, 4)}" for n in AT_ONCE}
_COLUMNS = (
    "number, id, replay, outcome, note, kind, type, stanza_id, sender, recipient, through_room, uri, route, accepted,"
    " ended, tries, size, body IS NOT NULL, attempts, stanzas, first"
)
_OLDEST = "SELECT number, ended, first FROM ended ORDER BY number LIMIT 1"
_TOO_OLD = "SELECT max(number) FROM (SELECT number, ended FROM ended ORDER BY number LIMIT ?) WHERE ended < ?"


@define(eq=False)
class Log:
    """
    The log of deliveries: how much of it may stay, and how much there is.

    Args:
        most: Rows that may stay; 0 where no log is kept, and what an earlier start has kept goes.
        most_bytes: Bytes that may stay, roughly.
        days: Days for which a row stays.
        bodies: Request bodies are kept.
    """

    most: int = 0
    most_bytes: int = 0
    days: float = 0.0
    bodies: bool = False
    # Rows and bytes in the file; None before they were counted. And the rows that came since the last look.
    _rows: int | None = field(init=False, default=None)
    _bytes: float = field(init=False, default=0.0)
    _grown: int = field(init=False, default=0)

    def look_again(self) -> None:
        """Count the rows the next time: what was counted is wrong."""
        self._rows = None

    def add(self, connection: sqlite3.Connection, rows: Sequence[Row], ahead: float) -> None:
        """
        Insert deliveries that end, and are still in their table.

        Args:
            rows: id, outcome, end by the wall clock, tries, number of the first stanza, note, attempts and stanzas as
                JSON, and bytes, of each.
            ahead: Seconds that the spool's clock is ahead of the wall clock, whose times the log has.
        """
        for chunk in chunks(rows):
            given = [ahead, *[value for row in chunk for value in row]]
            connection.execute(_ADD[len(chunk), self.bodies], given)
        self._grown += len(rows)
        if self._rows is not None:
            self._rows += len(rows)
            self._bytes += sum([row[-1] for row in rows])

    def prune(self, connection: sqlite3.Connection, begin: Callable[[], None], wall: float) -> None:
        """Delete the oldest rows while there are too many or they are too old: some of them in each look."""
        if self._rows is None:
            [[self._rows, self._bytes]] = connection.execute("SELECT count(*), total(bytes) FROM ended").fetchall()
        if not self._rows:
            return
        first, ended, _ = connection.execute(_OLDEST).fetchone()
        batch, self._grown = PRUNED_AT_ONCE + 2 * self._grown, 0
        # Of rows that are too large together so many go as would do if all were of the same size.
        over_bytes = ceil((self._bytes - self.most_bytes) * self._rows / max(1.0, self._bytes))
        last = first - 1 + min(batch, max(0, self._rows - self.most, over_bytes))
        oldest = wall - self.days * _DAY
        if ended < oldest:
            [[too_old]] = connection.execute(_TOO_OLD, (batch, oldest)).fetchall()
            last = max(last, too_old)
        if last >= first:
            begin()
            self._delete(connection, last)

    def _delete(self, connection: sqlite3.Connection, last: int) -> None:
        """Delete the rows up to a number, and the fates of their stanzas."""
        [[size]] = connection.execute("SELECT total(bytes) FROM ended WHERE number <= ?", (last,)).fetchall()
        rows = connection.execute("DELETE FROM ended WHERE number <= ?", (last,)).rowcount
        self._rows, self._bytes = (self._rows or 0) - rows, self._bytes - size
        row = connection.execute(_OLDEST).fetchone()
        if row is None:
            connection.execute("DELETE FROM fates")
        else:
            connection.execute("DELETE FROM fates WHERE number < ?", (row[2],))


def add_fates(connection: sqlite3.Connection, fates: Mapping[int, tuple[float, str, str | None]]) -> None:
    """Insert the fates of stanzas, by their numbers."""
    write(connection, _FATES, [(number, *fate) for number, fate in fates.items()])


def add_replay(connection: sqlite3.Connection, of: EndedDelivery, attempts: str, stanzas: str) -> int:
    """Insert a replay, without its body; returns its number."""
    first = of.stanzas[0].number if of.stanzas else None
    row = connection.execute(
        f"INSERT INTO ended (replay, {_FACTS}, accepted, outcome, ended, tries, first, note, attempts, stanzas,"
        f" bytes, size) VALUES (1, {', '.join('?' * (_FACTS.count(',') + 11))})",
        (
            *(of.id, of.kind, of.type, of.stanza_id, of.sender, of.recipient, of.through_room, of.uri, of.route),
            *(of.accepted, of.outcome, of.ended, of.tries, first or 0, of.note, attempts, stanzas),
            *(len(attempts) + len(stanzas), of.size),
        ),
    )
    return row.lastrowid or 0


# -- reading, by the gateway and by other programs --


def page(
    connection: sqlite3.Connection, which: WhichEnded, report: Report, after: int
) -> tuple[list[EndedDelivery], int | None]:
    """
    Read the next deliveries that fit a filter, behind the number `after`, oldest first.

    Returns:
        The deliveries, `PAGE` at most and without the fates of their stanzas, and the number of the last row; None for
        no row.
    """
    clauses, given = _clauses(which)
    query = f"SELECT {_COLUMNS} FROM ended WHERE {clauses} AND number > ? ORDER BY number LIMIT ?"
    rows = connection.execute(query, (*given, after, PAGE)).fetchall()
    return _read(rows, report), rows[-1][0] if rows else None


def newest(
    connection: sqlite3.Connection, which: WhichEnded, report: Report, before: int | None, limit: int
) -> tuple[list[EndedDelivery], int | None]:
    """
    Read deliveries that fit a filter, newest first; see `component_http.interfaces.spools.DeliveryLog.newest`.

    It looks at `SPAN` rows at most, so that the spool's thread is not long away from its other work.
    """
    [[first, last]] = connection.execute(
        "SELECT (SELECT min(number) FROM ended), (SELECT max(number) FROM ended)"
    ).fetchall()
    if first is None:
        return [], None
    before = last + 1 if before is None else min(before, last + 1)
    clauses, given = _clauses(which)
    query = f"SELECT {_COLUMNS} FROM ended WHERE {clauses} AND number < ? AND number >= ? ORDER BY number DESC LIMIT ?"
    rows = connection.execute(query, (*given, before, before - SPAN, limit)).fetchall()
    before = rows[-1][0] if len(rows) == limit else before - SPAN
    return _read(rows, report), before if before > first else None


def _read(rows: Sequence[Row], report: Report) -> list[EndedDelivery]:
    read = [checked("ended", row[0], report, _delivery, row) for row in rows]
    return [each for each in read if each is not None]


def start_of_newest(connection: sqlite3.Connection, which: WhichEnded, limit: int) -> int:
    """Find the number behind which the newest deliveries are that fit a filter, so many at most."""
    clauses, given = _clauses(which)
    query = f"SELECT number FROM ended WHERE {clauses} ORDER BY number DESC LIMIT 1 OFFSET ?"
    row = connection.execute(query, (*given, limit - 1)).fetchone()
    return 0 if row is None else row[0] - 1


def one(connection: sqlite3.Connection, place: int, report: Report) -> EndedDelivery | None:
    """Read a delivery by its number in the log, with the fates of its stanzas; None if it is not there."""
    row = connection.execute(f"SELECT {_COLUMNS} FROM ended WHERE number = ?", (place,)).fetchone()
    if row is None:
        return None
    first = row[-1]
    query = "SELECT number, at, fate, why FROM fates WHERE number >= ? ORDER BY number LIMIT 1000"
    found = connection.execute(query, (first,)).fetchall() if isinstance(first, int) and first else []
    return checked("ended", row[0], report, _delivery, row, {fate[0]: fate for fate in found})


def body(connection: sqlite3.Connection, place: int) -> bytes | None:
    """Read the request body of a delivery; None if it was not kept."""
    row = connection.execute("SELECT body FROM ended WHERE number = ?", (place,)).fetchone()
    return row[0] if row is not None and isinstance(row[0], bytes) else None


def _clauses(which: WhichEnded) -> tuple[str, list[object]]:
    """The condition of a filter in SQL, and its values."""
    clauses, given = ["1"], list[object]()
    if which.id:
        # No index has the ids: it would cost each delivery more than the rest of the log.
        clauses.append("substr(id, 1, ?) = ?")
        given += (len(which.id), which.id)
    for column, wanted in (("outcome", which.outcomes), ("kind", which.kinds)):
        if wanted:
            clauses.append(f"{column} IN ({', '.join('?' * len(wanted))})")
            given += wanted
    for column, address in (("sender", which.sender), ("recipient", which.recipient)):
        if address is not None:
            clauses.append(address_clause(column, address, given))
    if which.since is not None:
        clauses.append("accepted >= ?")
        given.append(which.since)
    if which.until is not None:
        clauses.append("accepted <= ?")
        given.append(which.until)
    if not which.replays:
        clauses.append("replay = 0")
    return " AND ".join(clauses), given


def _delivery(row: Row, fates: Mapping[int, Row] | None = None) -> EndedDelivery:
    attempts = json.loads(text(row[18]))
    first = count(row[20])
    stanzas = [
        _stanza(first + place if first else None, fates or {}, each)
        for place, each in enumerate(json.loads(text(row[19])))
    ]
    return EndedDelivery(
        count(row[0]),
        text(row[1]),
        bool(row[2]),
        text(row[3]),
        or_none(text, row[4]),
        text(row[5]),
        text(row[6]),
        or_none(text, row[7]),
        text(row[8]),
        text(row[9]),
        bool(row[10]),
        text(row[11]),
        or_none(text, row[12]),
        number(row[13]),
        number(row[14]),
        count(row[15]),
        count(row[16]),
        bool(row[17]),
        [_attempt(each) for each in attempts],
        stanzas,
    )


def _attempt(found: Sequence[Any]) -> EndedAttempt:
    place, began, seconds, connecting, first_byte, status, failure, answer, follows, again = found
    return EndedAttempt(
        count(place),
        count(began) / 1e3,
        number(seconds) / 1e6,
        None if connecting is None else number(connecting) / 1e6,
        None if first_byte is None else number(first_byte) / 1e6,
        or_none(count, status),
        or_none(text, failure),
        text(answer),
        text(follows),
        None if again is None else number(again) / 1e6,
    )


def _stanza(place: int | None, fates: Mapping[int, Row], found: Sequence[Any]) -> EndedStanza:
    kind, stanza_type, stanza_id, recipient, size, *xml = found
    _, at, fate, why = fates.get(place or 0, (None, None, None, None))
    return EndedStanza(
        text(kind),
        or_none(text, stanza_type),
        or_none(text, stanza_id),
        text(recipient),
        count(size),
        text(xml[0]) if xml else None,
        place,
        or_none(text, fate),
        or_none(number, at),
        or_none(text, why),
    )
