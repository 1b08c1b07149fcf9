"""What a spool's file holds, by the numbers of the load's stanzas."""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from attrs import frozen

__all__ = ["Kept", "left_behind", "rows"]

_NUMBER = re.compile(rb"<body>(P?)(\d+)x*</body>|\bid=['\"](L)(\d+)['\"]")


@frozen
class Kept:
    """
    What a file holds.

    Attributes:
        deliveries: Accepted and not ended.
        outbox: The stanzas whose answers are not known to be at the server, in the order of leaving; for the push `n`
            it is `-n - 1`.
        letters: Dead letters.
        sound: SQLite finds nothing wrong with it.
    """

    deliveries: frozenset[int]
    outbox: tuple[int, ...]
    letters: int
    sound: bool


def left_behind(path: Path) -> Kept:
    """
    Look at what a gateway left that was killed.

    It is a copy that is looked at, so that the next gateway finds the files as they were left.
    """
    with tempfile.TemporaryDirectory(prefix="component-http-kept-") as folder:
        for end in ("", "-wal"):
            if Path(f"{path}{end}").exists():
                shutil.copy(f"{path}{end}", folder)
        with closing(sqlite3.connect(Path(folder) / path.name)) as connection:
            verdict = connection.execute("PRAGMA integrity_check").fetchall()
            deliveries = connection.execute("SELECT stanza_id FROM deliveries").fetchall()
            outbox = connection.execute("SELECT xml FROM departures ORDER BY number").fetchall()
            [letters] = connection.execute("SELECT count(*) FROM letters").fetchone()
    return Kept(
        deliveries=frozenset(int(stanza_id[1:]) for (stanza_id,) in deliveries),
        outbox=tuple(map(_number, (xml for (xml,) in outbox))),
        letters=letters,
        sound=verdict == [("ok",)],
    )


def _number(xml: bytes | str) -> int:
    found = _NUMBER.search(xml.encode() if isinstance(xml, str) else xml)
    assert found is not None, xml
    number = int(found[2] or found[4])
    return -number - 1 if found[1] else number


def rows(path: Path) -> dict[str, int]:
    """How much a file holds that a gateway is using."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
        return {
            table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("deliveries", "departures", "letters")
        }
