"""The schema of a spool's file: its versions, how one follows from another, and how a file's version is read."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from types import MappingProxyType

Schema = Mapping[int, Sequence[str]]

SCHEMA: Schema = MappingProxyType(
    {
        1: (
            # Deliveries that have not ended. `accepted` and `deadline` are seconds of `rows.SpoolClock`, `uri` is the
            # namespace of the stanza's element, `tries`, `attempts` and `size` are those of `Delivery`.
            """
            CREATE TABLE deliveries (
                number INTEGER PRIMARY KEY AUTOINCREMENT,
                id TEXT NOT NULL UNIQUE,
                kind TEXT NOT NULL,
                type TEXT NOT NULL,
                stanza_id TEXT,
                sender TEXT NOT NULL,
                recipient TEXT NOT NULL,
                through_room INTEGER NOT NULL,
                uri TEXT NOT NULL,
                accepted REAL NOT NULL,
                deadline REAL NOT NULL,
                tries INTEGER NOT NULL,
                attempts INTEGER NOT NULL,
                size INTEGER NOT NULL,
                body BLOB NOT NULL
            )
            """,
        ),
        2: (
            # Outbound stanzas that the server is not known to have, in their order. `delivery_id` is that of the
            # delivery that one answers, NULL where it answers none; `verbatim` is 1 where a webhook wrote the XML.
            """
            CREATE TABLE departures (
                number INTEGER PRIMARY KEY AUTOINCREMENT,
                delivery_id TEXT,
                kind TEXT NOT NULL,
                stored REAL NOT NULL,
                expires REAL NOT NULL,
                verbatim INTEGER NOT NULL,
                xml BLOB NOT NULL
            )
            """,
            # Dead letters, oldest first. `outcome` is that of the delivery, whose columns follow; `body` is its
            # request; `status` (NULL where there was no response), `media_type` and `response` are of the last
            # response. For an outbound stanza `outcome` begins with `reply_`, `body` is NULL, `reply` is its XML, and
            # sender and recipient are those of the delivery that it answers.
            """
            CREATE TABLE letters (
                number INTEGER PRIMARY KEY AUTOINCREMENT,
                id TEXT NOT NULL UNIQUE,
                outcome TEXT NOT NULL,
                kind TEXT NOT NULL,
                type TEXT NOT NULL,
                stanza_id TEXT,
                sender TEXT NOT NULL,
                recipient TEXT NOT NULL,
                through_room INTEGER NOT NULL,
                uri TEXT NOT NULL,
                accepted REAL NOT NULL,
                ended REAL NOT NULL,
                tries INTEGER NOT NULL,
                size INTEGER NOT NULL,
                body BLOB,
                note TEXT NOT NULL,
                status INTEGER,
                media_type TEXT,
                response BLOB,
                reply BLOB
            )
            """,
            # Commands of other programs to the gateway that runs; see `component_http.spool.dead_letters`.
            """
            CREATE TABLE commands (
                number INTEGER PRIMARY KEY AUTOINCREMENT,
                verb TEXT NOT NULL,
                argument TEXT NOT NULL
            )
            """,
            # Users who are to be told that the component is there; both columns are bare addresses.
            """
            CREATE TABLE subscribers (
                number INTEGER PRIMARY KEY AUTOINCREMENT,
                component TEXT NOT NULL,
                user TEXT NOT NULL,
                UNIQUE (component, user)
            )
            """,
            # Facts for the gateway's next start, or for a program that looks at the file: `webhook` (as in `Status`),
            # `clock` (`rows.LEAD`), `key`.
            "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
        ),
        3: (
            # Answers of the API that are given again for the same key (`IdempotencyRecord`); `numbers` is JSON.
            """
            CREATE TABLE memos (
                owner TEXT NOT NULL,
                key TEXT NOT NULL,
                fingerprint TEXT NOT NULL,
                body BLOB NOT NULL,
                numbers TEXT NOT NULL,
                expires REAL NOT NULL,
                PRIMARY KEY (owner, key)
            )
            """,
        ),
        4: (
            # The facts of the stanza whose sender is told if the server refuses this one, as JSON.
            "ALTER TABLE departures ADD COLUMN asked TEXT",
            # The server may have closed a stream because of it.
            "ALTER TABLE departures ADD COLUMN suspect INTEGER NOT NULL DEFAULT 0",
            # Rows of other tables that could not be read: `source` is the table, `content` is the row as JSON.
            """
            CREATE TABLE set_aside (
                number INTEGER PRIMARY KEY AUTOINCREMENT,
                source TEXT NOT NULL,
                row INTEGER NOT NULL,
                reason TEXT NOT NULL,
                since REAL NOT NULL,
                content TEXT NOT NULL
            )
            """,
        ),
        5: (
            # The facts of the stanza (`contract.outbound.Head`), as JSON; NULL where another program than a gateway of
            # this version has put the row there.
            "ALTER TABLE departures ADD COLUMN head TEXT",
        ),
        6: (
            # The domain of the component that sends the stanza; NULL where the head has to be asked for it.
            "ALTER TABLE departures ADD COLUMN domain TEXT",
            # The route that took the stanza; NULL for the component's own webhook.
            "ALTER TABLE deliveries ADD COLUMN route TEXT",
        ),
        7: (
            # The log of deliveries that have ended, in the order of their ends. `bytes` is the row's size, roughly;
            # `accepted` and `ended` are seconds of the wall clock; `replay` is 1 for a replay; `first` is the number of
            # the first of its stanzas, 0 where they were not sent; `attempts` and `stanzas` are JSON, as
            # `component_http.spool.ended_rows` reads it; `size` and `body` are of the request body.
            """
            CREATE TABLE ended (
                number INTEGER PRIMARY KEY AUTOINCREMENT,
                id TEXT NOT NULL,
                bytes INTEGER NOT NULL,
                ended REAL NOT NULL,
                accepted REAL NOT NULL,
                outcome TEXT NOT NULL,
                replay INTEGER NOT NULL DEFAULT 0,
                kind TEXT NOT NULL,
                type TEXT NOT NULL,
                stanza_id TEXT,
                sender TEXT NOT NULL,
                recipient TEXT NOT NULL,
                through_room INTEGER NOT NULL,
                uri TEXT NOT NULL,
                route TEXT,
                tries INTEGER NOT NULL,
                first INTEGER NOT NULL,
                note TEXT,
                attempts TEXT NOT NULL,
                stanzas TEXT NOT NULL,
                size INTEGER NOT NULL,
                body BLOB
            )
            """,
            # The ends of stanzas that answer deliveries, by their numbers in `departures`.
            "CREATE TABLE fates (number INTEGER PRIMARY KEY, at REAL NOT NULL, fate TEXT NOT NULL, why TEXT)",
        ),
    }
)
"""The statements that make each version of the schema, by its number, from the one before; 0 is an empty file."""

APPLICATION_ID = 0x63487470
"""The number in a file's header by which a spool is told from other programs' databases."""


def version_of(connection: sqlite3.Connection) -> int | None:
    """
    Read which version of the schema a file has: 0 for an empty file, None for a database of another program.

    Raises `sqlite3.DatabaseError` where the file cannot be read.
    """
    version, application_id = _number(connection, "user_version"), _number(connection, "application_id")
    [tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application_id != APPLICATION_ID and (version or application_id or tables):
        return None
    return version


def upgrade(connection: sqlite3.Connection, schema: Schema) -> None:
    """Make each version from the one before it, in a transaction of its own."""
    for version in range(_number(connection, "user_version") + 1, max(schema) + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            if _number(connection, "user_version") < version:  # else another program has just done it
                for statement in schema[version]:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {version}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    [number] = connection.execute(f"PRAGMA {pragma}").fetchone()
    return int(number)
