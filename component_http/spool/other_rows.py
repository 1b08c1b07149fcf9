"""The small tables of a spool: subscribers, commands, idempotency records, and the key among the facts."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence

from component_http.contract.idempotency import LIFETIME, IdempotencyRecord
from component_http.contract.link import KEY_BYTES
from component_http.spool.rows import AT_ONCE, Report, checked, count, octets, text, values, write
from component_http.spool.shelf import Shelf

MAX_RECORDS = 100_000
MAX_RECORDS_BYTES = 64 * 1024 * 1024
"""
Idempotency records that are kept, and bytes of them; beyond it the oldest go of the owner that has most.
"""

_SUBSCRIBE = {n: f"INSERT OR IGNORE INTO subscribers (component, user) VALUES {values(n, 2)}" for n in AT_ONCE}
_UNSUBSCRIBE = {n: f"DELETE FROM subscribers WHERE (component, user) IN (VALUES {values(n, 2)})" for n in AT_ONCE}


def set_subscribers(connection: sqlite3.Connection, changed: Mapping[tuple[str, str], bool]) -> None:
    """Insert the pairs of subscribers whose value is True, and delete the others."""
    write(connection, _SUBSCRIBE, [pair for pair, kept in changed.items() if kept])
    write(connection, _UNSUBSCRIBE, [pair for pair, kept in changed.items() if not kept])


def subscribers(connection: sqlite3.Connection, report: Report) -> list[tuple[str, str]]:
    """Read the pairs of subscribers, oldest first; `report` is told of rows that are left out."""
    rows = connection.execute("SELECT number, component, user FROM subscribers ORDER BY number")
    pairs = [checked("subscribers", number, report, _pair, *pair) for number, *pair in rows]
    return [pair for pair in pairs if pair is not None]


def _pair(component: object, user: object) -> tuple[str, str]:
    return text(component), text(user)


def commands(connection: sqlite3.Connection, deliveries: int) -> list[tuple[int, str, str]]:
    """Read number, verb and argument of the commands of other programs, in order; so many `deliver` at most."""
    query = "SELECT number, verb, argument FROM commands WHERE verb"
    others = connection.execute(f"{query} != 'deliver'").fetchall()
    return sorted([*others, *connection.execute(f"{query} = 'deliver' ORDER BY number LIMIT ?", (deliveries,))])


def recall(
    connection: sqlite3.Connection, owner: str, key: str, now: float, report: Report
) -> IdempotencyRecord | None:
    """Read an idempotency record that has not expired; `report` is told of a row that cannot be read."""
    query = "SELECT rowid, fingerprint, body, numbers FROM memos WHERE owner = ? AND key = ? AND expires > ?"
    found = connection.execute(query, (owner, key, now)).fetchone()
    return None if found is None else checked("memos", found[0], report, _record, owner, key, *found[1:])


def _record(owner: str, key: str, fingerprint: object, body: object, numbers: object) -> IdempotencyRecord:
    return IdempotencyRecord(owner, key, text(fingerprint), octets(body), tuple(map(count, json.loads(text(numbers)))))


def remember(connection: sqlite3.Connection, record: IdempotencyRecord, numbers: Sequence[int], now: float) -> int:
    """Keep an idempotency record with the numbers of the stanzas that were pushed for it; returns its bytes."""
    row = (record.owner, record.key, record.fingerprint, record.body, json.dumps([*numbers]))
    connection.execute(
        "INSERT OR REPLACE INTO memos (owner, key, fingerprint, body, numbers, expires) VALUES (?, ?, ?, ?, ?, ?)",
        (*row, now + LIFETIME),
    )
    return sum(map(len, row))


def records_shelf(most: int, most_bytes: int) -> Shelf:
    """The idempotency records, so many at most."""
    size = "length(owner) + length(key) + length(fingerprint) + length(body) + length(numbers)"
    return Shelf("memos", size, "owner", False, most, most_bytes)


def key(connection: sqlite3.Connection, report: Report) -> bytes | None:
    """Read the key that nobody else knows, if there is one yet; `report` is told of one that cannot be read."""
    row = connection.execute("SELECT rowid, value FROM facts WHERE name = 'key'").fetchone()
    return None if row is None else checked("facts", row[0], report, _key, row[1])


def _key(value: object) -> bytes:
    found = bytes.fromhex(text(value))
    if len(found) != KEY_BYTES:
        raise ValueError("it has another length")
    return found


def set_key(connection: sqlite3.Connection, key: bytes) -> None:
    connection.execute("INSERT OR REPLACE INTO facts (name, value) VALUES ('key', ?)", (key.hex(),))
