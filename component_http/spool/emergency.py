"""The room on the spool's disk, and what is done when there is none."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from component_http.errors import DiskFull
from component_http.interfaces import Observer
from component_http.log import Logger
from component_http.spool.database import OPENING_BYTES, is_full, make_private, may_be_full
from component_http.spool.room import Ballast
from component_http.spool.rows import Damaged, file_sizes
from component_http.spool.transaction import BUSY_SLICE
from component_http.throttle import LOG_INTERVAL, Throttle

MAX_GROUP_BYTES = 4 * 1024 * 1024
"""Bytes of one transaction, beyond which no order is added to it: the log has to hold all of it at once."""

LOG_PAGES = 1000
"""Pages of the log at which it is emptied; SQLite's own number."""

BALLAST_SHARE = 4
"""
Each transaction, and the log before it, may take at most this part of the ballast: on a full disk the ballast must have
room for both, and for the part of the file that they are written to.
"""

PROBE_BYTES = 64 * 1024
"""Bytes that must fit on the disk where SQLite only says that it cannot write; else the disk is taken for full."""


class Alarm:
    """Tells the reactor's side of trouble with the file; `reason` is why nothing is stored now, or None."""

    _log = Logger()

    def __init__(self, path: Path, seconds: Callable[[], float], observer: Observer | None) -> None:
        self._path = path
        self._seconds = seconds
        self._observer = observer
        self._throttle = Throttle(LOG_INTERVAL)
        self.reason: str | None = None

    def disk_is_full(self, released: int) -> None:
        self.reason = "the spool's disk is full"
        if self._observer is not None:
            self._observer.count("disk_full")
        if self._throttle.may_tell("full", self._seconds()):
            effect = f"what was accepted goes on in a reserve of {released // 1024} KiB"
            if not released:
                effect = "there is no reserve, so a delivery that ends may be made again after a restart"
            self._log.error(
                "the disk of {path} is full: make room; stanzas are refused, and {effect}",
                path=str(self._path),
                effect=effect,
            )

    def disk_has_room(self) -> None:
        self.reason = None
        if self._throttle.may_tell("well", self._seconds()):
            self._log.info(
                "there is room again on the disk of {path}: stanzas are accepted again", path=str(self._path)
            )

    def log_gives_way(self, rows: int) -> None:
        for _ in range(rows if self._observer is not None else 0):
            self._observer.count("unlogged")  # type: ignore[union-attr]
        if self._throttle.may_tell("unlogged", self._seconds()):
            self._log.warn(
                "deliveries that end are not in the log while the disk of {path} is full", path=str(self._path)
            )

    def is_damaged(self, damaged: Damaged) -> None:
        self._log.error(
            "row {row} of the table {table} in {path} cannot be read: it is moved to the table set_aside: {reason}",
            row=damaged.row,
            table=damaged.table,
            path=str(self._path),
            reason=damaged.reason,
        )


class Emergency:
    """
    The full disk: when it begins, what is written meanwhile, and when it is over.

    When the disk is full the ballast is released, and from then on nothing is stored. What was accepted goes on in the
    room of the ballast, until `look` finds room for the ballast again.

    Args:
        alarm: Told in the reactor's thread.
        call: Calls a function in the reactor's thread.

    Attributes:
        going_on: The disk is full.
        group_bytes: Bytes of one transaction for which the ballast has room.
    """

    def __init__(self, path: Path, ballast: Ballast, alarm: Alarm, call: Callable[..., Any]) -> None:
        self._path = path
        self._ballast = ballast
        self._missing = not path.exists()
        self._call = call
        self.alarm = alarm
        self.going_on = False
        self.group_bytes = MAX_GROUP_BYTES

    def refusal(self) -> DiskFull:
        return DiskFull(f"the disk of {self._path} is full: make room")

    def is_full(self, error: Exception) -> bool:
        """Say whether the disk was full where an error was raised."""
        return is_full(error) or (may_be_full(error) and not self._ballast.has_room(PROBE_BYTES))

    def begin(self, connection: sqlite3.Connection | None) -> None:
        """Release the ballast, and empty the log as far as that has room."""
        self.going_on = True
        self._call(self.alarm.disk_is_full, self._ballast.release())
        self.empty_log(connection)

    def tell_of(self, damaged: Damaged) -> None:
        """Log that a row cannot be read."""
        self._call(self.alarm.is_damaged, damaged)

    def log_gives_way(self, rows: int) -> None:
        """Count, and tell once in a while, that the log of deliveries lacks some."""
        self._call(self.alarm.log_gives_way, rows)

    def before_opening(self) -> None:
        """Make the file if there was no room for it at the start, and raise `DiskFull` if there is none to open it."""
        if self._missing:
            make_private(self._path)
            self._missing = False
        if not self._ballast.has_room(OPENING_BYTES):
            raise self.refusal()

    def opened(self, connection: sqlite3.Connection) -> None:
        """Hold the ballast for a file that was opened; without room for it the emergency begins."""
        if not self.going_on and not self._ballast.hold():
            self.begin(connection)
        self._measure(connection)

    def look(self, connection: sqlite3.Connection | None) -> None:
        """Check whether there is still room, or room again."""
        with suppress(sqlite3.Error, OSError):  # the next look tries again
            if not self.going_on:
                if not self._ballast.hold():
                    self.begin(connection)
            elif self._ballast.hold() or (self._make_room(connection) and self._ballast.hold()):
                self.going_on = False
                if connection is not None:
                    self._measure(connection)
                self._call(self.alarm.disk_has_room)

    def check(self, connection: sqlite3.Connection, growth: int) -> None:
        """
        Raise `DiskFull` if, on a full disk, there is no room for so many bytes of dead letters and outbound stanzas.

        They need it in the log, and once more in the file as far as that has no unused pages. Without the second the
        log could never be emptied again, and nothing at all could be written.
        """
        if not growth:
            return
        [[_, written, moved]] = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        room = self._ballast.free() + (self._log_size() if written == moved else 0)
        lacking = max(0, growth - file_sizes(connection)[0])
        if room < growth + lacking + self._ballast.need() // 8:
            raise self.refusal()

    def empty_log(self, connection: sqlite3.Connection | None) -> None:
        """Move the log into the file, as far as there is room and nobody reads from it; it is written anew then."""
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _measure(self, connection: sqlite3.Connection) -> None:
        """Let a transaction, and the log, never be longer than the ballast has room for."""
        share = self._ballast.held() // BALLAST_SHARE
        self.group_bytes = min(MAX_GROUP_BYTES, share)
        [[page_bytes]] = connection.execute("PRAGMA page_size").fetchall()
        connection.execute(f"PRAGMA wal_autocheckpoint = {max(1, min(LOG_PAGES, share // page_bytes))}")

    def _make_room(self, connection: sqlite3.Connection | None) -> bool:
        """
        Make the file and its log shorter, if that gives room for the ballast; returns whether they are shorter.

        A spool that has filled its disk by itself would refuse everything for ever without this: rows that are deleted
        leave unused pages in the file, and none of them to the disk.
        """
        if connection is None:
            return False
        try:
            unused, used = file_sizes(connection)
            room = self._ballast.free() + self._log_size()
            if room + (unused if used < room else 0) < self._ballast.need():
                return False
            if room < self._ballast.need():
                connection.execute("VACUUM")
            connection.execute("PRAGMA busy_timeout = 0")
            try:
                [[busy, *_]] = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                connection.execute(f"PRAGMA busy_timeout = {BUSY_SLICE * 1000:.0f}")
        except sqlite3.Error:
            return False
        return not busy

    def _log_size(self) -> int:
        try:
            return os.stat(f"{self._path}-wal").st_size
        except OSError:
            return 0
