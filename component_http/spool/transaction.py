"""Transactions on a spool's file, and the patience with other programs that write."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from component_http.spool.database import BUSY, is_busy

BUSY_SLICE = 0.1
"""Seconds for which SQLite waits at once for another program; in between it is checked whether the process ends."""

BUSY_AGAIN = 0.5
"""Seconds to wait instead of `database.BUSY` after a wait that was in vain: an early refusal is better then."""

BUSY_AT_THE_END = 0.25
"""The same when the process is about to end."""


class Patience:
    """
    Begins the transactions of the spool's thread, and decides how long they wait for another program that writes.

    Attributes:
        hurries: The process is about to end; set by the reactor's thread.
    """

    def __init__(self) -> None:
        self.hurries = False
        self._was_busy = False

    def begin(self, connection: sqlite3.Connection) -> None:
        """Begin a transaction, unless one has begun: something is to be written."""
        since = time.monotonic()
        while not connection.in_transaction:
            try:
                connection.execute("BEGIN IMMEDIATE")
                self._was_busy = False
            except sqlite3.OperationalError as error:
                if not is_busy(error):
                    raise
                limit = BUSY_AT_THE_END if self.hurries else BUSY_AGAIN if self._was_busy else BUSY
                if time.monotonic() - since >= limit:
                    self._was_busy = True
                    raise


@contextmanager
def whole(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what is written in the `with`, if a transaction was begun, or roll it back where something is raised."""
    try:
        yield
        if connection.in_transaction:
            connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite may have rolled it back already
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise
