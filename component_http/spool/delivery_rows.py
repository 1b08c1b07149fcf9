"""The table `deliveries`: deliveries that were accepted and have not ended."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from component_http.contract.delivery import Delivery
from component_http.spool.rows import (
    AT_ONCE,
    Moment,
    Report,
    Row,
    checked,
    count,
    facts_of,
    number,
    or_none,
    stanza_of,
    text,
    values,
    write,
)

GRACE = 60.0
"""
Seconds that a restored message gets at least where the webhook has not seen it and its deadline and its grace are over.

A gateway that was down for an hour still asks the webhook once about what it had accepted before; the minute is for the
turn in the backlog and the time of one POST.
"""

RESTORED_AT_ONCE = 500
"""Deliveries that are restored at once."""

_COLUMNS = (
    "id, kind, type, stanza_id, sender, recipient, through_room, uri, accepted, deadline, tries, attempts, size, route,"
    " body"
)
_ADD = {n: f"INSERT INTO deliveries ({_COLUMNS}) VALUES {values(n, _COLUMNS.count(',') + 1)}" for n in AT_ONCE}
_NOTE = {
    n: "UPDATE deliveries SET tries = noted.column2, attempts = noted.column3"
    f" FROM (VALUES {values(n, 3)}) AS noted WHERE deliveries.id = noted.column1"
    for n in AT_ONCE
}
_REMOVE = {n: f"DELETE FROM deliveries WHERE id IN {values(1, n)}" for n in AT_ONCE}
_PENDING = (
    "SELECT number, typeof(body), route, id, accepted, deadline, tries, attempts, size,"
    " kind, type, stanza_id, sender, recipient, through_room, uri FROM deliveries"
)
# A dead letter that somebody retries comes in when there is room (`Spool.look`).
_RESTORE = (
    f"{_PENDING} WHERE number > ? AND number <= ?"
    " AND id NOT IN (SELECT argument FROM commands WHERE verb IN ('deliver', 'drop_delivery'))"
    " ORDER BY number LIMIT ?"
)


Allowance = Callable[[str], tuple[Mapping[str, float], float]]
"""
Says how long the restored deliveries of a component may take, by its domain: seconds by the kind of the stanza, and
seconds since its acceptance for which a message waits that the webhook has not seen, or 0.0.
"""


def row_of(delivery: Delivery, body: bytes, seconds: float) -> Row:
    """The row of a delivery that is accepted now; its times are still the reactor's."""
    return (
        delivery.id,
        *facts_of(delivery.stanza),
        seconds,
        delivery.deadline,
        delivery.tries,
        delivery.attempts,
        delivery.size,
        delivery.route,
        body,
    )


def add(connection: sqlite3.Connection, rows: Sequence[Row], ahead: float) -> None:
    """Insert deliveries, in this order; `ahead` is how far the spool's clock is ahead of the reactor's."""
    write(connection, _ADD, [(*row[:8], row[8] + ahead, row[9] + ahead, *row[10:]) for row in rows])


def note_tries(connection: sqlite3.Connection, notes: Sequence[tuple[str, int, int]]) -> None:
    """Write id, `tries` and `attempts` of deliveries."""
    write(connection, _NOTE, notes)


def remove(connection: sqlite3.Connection, ids: Iterable[str]) -> None:
    write(connection, _REMOVE, [(each,) for each in ids])


def size_of(connection: sqlite3.Connection, ids: Collection[str]) -> int:
    """Bytes of the request bodies of deliveries."""
    query = f"SELECT total(size) FROM deliveries WHERE id IN {values(1, len(ids))}"
    [[size]] = connection.execute(query, list(ids)).fetchall()
    return int(size)


def body(connection: sqlite3.Connection, delivery_id: str) -> bytes | None:
    row = connection.execute("SELECT body FROM deliveries WHERE id = ?", (delivery_id,)).fetchone()
    found: bytes | None = None if row is None else row[0]
    return found


def amend(connection: sqlite3.Connection, delivery_id: str, body: bytes) -> None:
    connection.execute("UPDATE deliveries SET body = ?, size = ? WHERE id = ?", (body, len(body), delivery_id))


def pending(
    connection: sqlite3.Connection, after: int, last: int, at: Moment, allowance: Allowance, report: Report
) -> tuple[list[Delivery], int | None]:
    """
    Read deliveries as they go on after a restart, in the order in which they were stored: those with a number beyond
    `after`, up to `last`.

    Returns:
        The deliveries, `RESTORED_AT_ONCE` at most, and the number of the last row that was read; None for no row.
    """
    rows = connection.execute(_RESTORE, (after, last, RESTORED_AT_ONCE)).fetchall()
    read = [checked("deliveries", row[0], report, _delivery, row[1:], at, allowance) for row in rows]
    return [each for each in read if each is not None], rows[-1][0] if rows else None


def one(
    connection: sqlite3.Connection, delivery_id: str, at: Moment, allowance: Allowance, report: Report
) -> Delivery | None:
    """Read one delivery by its id; None if it is not there, or cannot be read."""
    row = connection.execute(f"{_PENDING} WHERE id = ?", (delivery_id,)).fetchone()
    return None if row is None else checked("deliveries", row[0], report, _delivery, row[1:], at, allowance)


def _delivery(row: Row, at: Moment, allowance: Allowance) -> Delivery:
    body, route, delivery_id, accepted, deadline, *counts = row[:8]
    tries, attempts, size = map(count, counts)
    if body != "blob":
        raise TypeError(f"{body} where the request body belongs")
    stanza = stanza_of(*row[8:])
    deadlines, grace = allowance(stanza.recipient.domain)
    message = stanza.kind == "message"
    left = max(0.0, number(deadline) - at.now)
    age = max(0.0, at.now - number(accepted))
    last = at.seconds + grace - age if message else 0.0
    if message and tries == 0 and last <= at.seconds + left:
        left = max(left, GRACE)
    # The wall clock may have been set back since.
    left = min(left, deadlines[stanza.kind])
    return Delivery(
        text(delivery_id),
        stanza,
        size,
        at.seconds + left,
        tries,
        attempts,
        last=last,
        accepted=at.seconds - age,
        route=or_none(text, route),
    )
