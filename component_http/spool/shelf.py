"""Tables of the past whose oldest rows are deleted when there are too many."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from attrs import define


@define(eq=False)
class Shelf:
    """
    A table whose rows are deleted when there are too many.

    The owner that has most loses rows first; where owners are equal, the owner in the domain that has most. Of an
    owner's rows the oldest go first.

    Added rows are counted, and the table is searched only when it may be over a limit: the search reads all of it.

    Args:
        table: Its name; a newer row has a larger rowid.
        size: The bytes of a row, in SQL.
        owner: The owner of a row, in SQL.
        by_domain: An owner is a bare address, so that it has a domain.
        most: Rows that may stay; `most_bytes` is the same in bytes.
    """

    table: str
    size: str
    owner: str
    by_domain: bool
    most: int
    most_bytes: int
    # Rows and bytes that may still come until the table is searched again; negative: search it the next time.
    _room: float = -1.0
    _room_bytes: float = -1.0

    def grew(self, size: float = float("inf")) -> None:
        """Count a row that was added, with its bytes; without them the table is searched the next time."""
        self._room -= 1
        self._room_bytes -= size

    def look_again(self) -> None:
        """Search the table the next time: what was counted is wrong."""
        self._room = -1.0

    def trim(self, connection: sqlite3.Connection, begin: Callable[[], None]) -> None:
        """Delete the rows that are over the limits; `begin` begins a transaction, unless there is one."""
        if self._room >= 0 and self._room_bytes >= 0:
            return
        # Each statement returns one row only: for each row the reactor's thread would be asked for Python's lock.
        count = f"SELECT count(*), total({self.size}) FROM {self.table}"
        [[rows, size]] = connection.execute(count).fetchall()
        for measure, held, most in ("1", rows, self.most), (self.size, size, self.most_bytes):
            if held > most:
                begin()
                connection.execute(self._trimming(measure), (most,))
        [[rows, size]] = connection.execute(count).fetchall()
        # Without some slack a table at its limit would be searched for each new row.
        self._room = self.most + self.most // 64 - rows
        self._room_bytes = self.most_bytes + self.most_bytes // 64 - size

    def _trimming(self, measure: str) -> str:
        """The statement that deletes rows over a limit, in the order of `shares.fairest_first`."""
        rows = f"SELECT rowid AS id, {measure} AS held, {self.owner} AS owner FROM {self.table}"
        rows = f"SELECT *, sum(held) OVER (PARTITION BY owner ORDER BY id DESC) AS by_owner FROM ({rows})"
        ranks = "by_owner"
        if self.by_domain:
            # Where there is no @, the whole owner is the domain.
            domain = "substr(owner, instr(owner, '@') + 1)"
            in_domain = f"PARTITION BY {domain} ORDER BY by_owner, id DESC"
            rows = f"SELECT *, sum(held) OVER ({in_domain}) AS by_domain FROM ({rows})"
            ranks = "by_owner, by_domain"
        rows = f"SELECT id, sum(held) OVER (ORDER BY {ranks}, id DESC) AS in_all FROM ({rows})"
        return f"DELETE FROM {self.table} WHERE rowid IN (SELECT id FROM ({rows}) WHERE in_all > ?)"
