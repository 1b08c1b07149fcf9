"""A spool's file with dead letters in it, as a gateway leaves it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from component_http.spool.database import prepare

__all__ = ["REPLY", "add", "changing", "look", "new_spool"]

REPLY = b"<message to='alice@example.org/x' from='bot@bot.example.org' type='chat'><body>hi</body></message>"

_LETTER = {
    "outcome": "bounced",
    "kind": "message",
    "type": "chat",
    "stanza_id": "m1",
    "sender": "alice@example.org/x",
    "recipient": "bot@bot.example.org",
    "through_room": 0,
    "uri": "jabber:component:accept",
    "accepted": 1000.0,
    "ended": 1900.0,
    "tries": 3,
    "size": 20,
    "body": json.dumps({"from": "alice@example.org/x", "body": "hello"}).encode(),
    "note": "the webhook said 404",
    "status": 404,
    "media_type": "text/plain",
    "response": b"no such bot",
    "reply": None,
}

_UNSENT = {"body": None, "status": None, "media_type": None, "response": None, "tries": 0, "reply": REPLY}


def new_spool(path: Path) -> Path:
    """Make a spool's file."""
    prepare(path)
    return path


@contextmanager
def changing(path: Path) -> Iterator[sqlite3.Connection]:
    """Another program's connection."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        yield connection


def add(path: Path, letter_id: str, *, unsent: bool = False, **columns: Any) -> None:
    """
    Put a letter in.

    Args:
        path: The file.
        letter_id: Its id.
        unsent: It is about a stanza that did not leave.
        columns: What is not as usual.
    """
    row = {"id": letter_id, **_LETTER, **(_UNSENT if unsent else {}), **columns}
    with changing(path) as connection:
        connection.execute(
            f"INSERT INTO letters ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", list(row.values())
        )


def look(path: Path, query: str) -> list[tuple[Any, ...]]:
    """What another program reads."""
    with changing(path) as connection:
        return connection.execute(query).fetchall()
