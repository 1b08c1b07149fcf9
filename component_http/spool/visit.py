"""A spool's file for another program than its gateway, which may be running."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self
from urllib.parse import quote

from attrs import frozen

from component_http.errors import SettingsError, SpoolError, SpoolUnusable
from component_http.spool.database import BUSY, files, is_busy, is_damage, is_full
from component_http.spool.facts import Trouble, read_each, read_trouble
from component_http.spool.private import Warn, located, no_warning, see_private
from component_http.spool.rows import lead, text_of
from component_http.spool.schema import SCHEMA, version_of
from component_http.spool.transaction import whole


@frozen
class Holder:
    """The holder of a spool's lock: whether it runs (None if that cannot be found out), and its process, if known."""

    running: bool | None
    process: int | None = None


@frozen
class Kept:
    """
    The rows of one sort: their number, their bytes, and the time since which the oldest is there (epoch), or None.
    """

    count: int
    size: int
    oldest: float | None


@frozen
class SpoolStatus:
    """
    The state of a spool's file.

    Attributes:
        webhook: The state of the webhook that the gateway wrote last, as in `component_http.delivery.status.Status`;
            None if it has written none yet.
        trouble: The trouble with the webhook at that time; None if there was none.
        of_each: The same two of each component's webhook, by its domain, if there are several; the other two are of the
            one that is least well.
        set_aside: Rows of any table that could not be read.
        log_bytes: Bytes of its write-ahead log.
        ballast_bytes: Bytes of the ballast, which is released when the disk is full; None if there is none.
    """

    schema: int
    holder: Holder
    webhook: str | None
    trouble: Trouble | None
    of_each: Mapping[str, tuple[str, Trouble | None]]
    deliveries: Kept
    outbound_stanzas: Kept
    letters: Kept
    set_aside: Kept
    file_bytes: int
    log_bytes: int
    ballast_bytes: int | None


class Visit:
    """
    A spool's file that is open without the gateway's lock; a context manager.

    No file is made, and no schema changed. A long read lets the gateway's log grow until its end, and a long write
    keeps the gateway from writing.

    Args:
        path: The file, or a link to it.
        patience: Seconds to wait for another program that writes.
        warn: Told that other users could read or write the file, or those beside it.
        any_version: Open a file of an earlier or later version, too, whose tables may be others.

    Attributes:
        path: The file itself.
        connection: To the file, for the thread that made it; it begins no transaction by itself.

    Raises:
        SpoolUnusable: The file is corrupt, is something else than a spool, or comes from a later version.
        SettingsError: The file is not there, cannot be read and written, is not the gateway's alone, or comes from an
            earlier version.
        SpoolError: SQLite cannot open it now.
    """

    def __init__(
        self, path: Path, *, patience: float = BUSY, warn: Warn = no_warning, any_version: bool = False
    ) -> None:
        self.path = located(path)
        self._patience = patience
        _check(self.path, warn)
        with self.explained():
            uri = f"file:{quote(str(self.path))}?mode=rw"
            self.connection = sqlite3.connect(uri, uri=True, timeout=patience, isolation_level=None)
            self.connection.text_factory = text_of
            try:
                _check_version(self.connection, self.path, any_version=any_version)
            except BaseException:
                self.connection.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        with self.explained():
            self.connection.close()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """
        Turn an error of SQLite into a sentence for the user of a command: a `SpoolError`, or `SpoolUnusable` for a
        damaged file.
        """
        try:
            yield
        except sqlite3.Error as error:
            if is_damage(error):
                raise SpoolUnusable(f"the spool {self.path} is damaged, or is no spool ({error})") from None
            if is_busy(error):
                raise SpoolError(
                    f"the spool {self.path} is busy: another program has been writing to it for {self._patience:g}"
                    " seconds; try again"
                ) from None
            if is_full(error):
                raise SpoolError(f"the spool {self.path} cannot be written to: the disk is full") from None
            raise SpoolError(f"the spool {self.path} cannot be used now: {error}") from None

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Keep all that is written in the `with`, or nothing of it; errors are `explained`."""
        with self.explained(), whole(self.connection):
            self.connection.execute("BEGIN IMMEDIATE")
            yield


def _check(path: Path, warn: Warn) -> None:
    remedy = "do this as the user that the gateway runs as, or as root"
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        raise SettingsError(
            f"there is no spool {path}: name the gateway's settings file with --config, or the spool's own with"
            " --spool; a service of systemd has it in the folder of its StateDirectory"
        ) from None
    except OSError as error:
        raise SettingsError(f"the spool {path} cannot be looked at: {error.strerror}; {remedy}") from None
    if not stat.S_ISREG(found.st_mode):
        raise SettingsError(f"the spool {path} is not a file")
    if os.geteuid() not in (0, found.st_uid):
        raise SettingsError(f"the spool {path} cannot be used, for it belongs to another user; {remedy}")
    # SQLite has files of its own beside it.
    if not os.access(path, os.R_OK | os.W_OK) or not os.access(path.parent, os.W_OK | os.X_OK):
        raise SettingsError(f"the spool {path} cannot be read and written; {remedy}")
    for file in files(path):
        see_private(file, user=found.st_uid, warn=warn)


def _check_version(connection: sqlite3.Connection, path: Path, *, any_version: bool) -> None:
    version = version_of(connection)
    if version is None:
        raise SpoolUnusable(f"the file {path} is a database of another program, and no spool")
    if not version:
        raise SettingsError(f"the spool {path} is an empty file: no gateway has used it yet")
    if any_version:
        return
    if version > max(SCHEMA):
        raise SpoolUnusable(f"the spool {path} was written by a later version of component-http: use that version")
    if version < max(SCHEMA):
        raise SettingsError(
            f"the spool {path} was written by an earlier version of component-http: start the gateway of this version"
            " once, which brings it up to date"
        )


def holder(path: Path) -> Holder:
    """Find out who has a spool's lock, without keeping anybody from it. The path is no link."""
    try:
        with open(f"{path}.lock", encoding="ascii", errors="replace", opener=_open_lock) as file:
            try:
                # A shared lock, so that two programs may look at once; it ends when the file is closed.
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    return Holder(None)
            else:
                return Holder(False)
            number = file.read(20).strip()
    except FileNotFoundError:
        return Holder(False)
    except OSError:
        return Holder(None)
    return Holder(True, int(number) if number.isdecimal() else None)


def _open_lock(path: str, flags: int) -> int:
    """Open the lock's file; a link to another file is refused, and a pipe does not block."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def wake(path: Path, *, patience: float = BUSY, warn: Warn = no_warning) -> None:
    """Tell the gateway that has a spool to ask its webhook at once; arguments and errors are those of `Visit`."""
    with Visit(path, patience=patience, warn=warn) as found, found.transaction():
        found.connection.execute("INSERT INTO commands (verb, argument) VALUES ('wake', '')")


def status(path: Path, *, patience: float = BUSY, warn: Warn = no_warning) -> SpoolStatus:
    """Read the state of a spool; arguments and errors are those of `Visit`."""
    with Visit(path, patience=patience, warn=warn) as found, found.explained():
        path, connection = found.path, found.connection
        connection.execute("BEGIN")  # all of it at one moment
        facts = dict(connection.execute("SELECT name, value FROM facts WHERE name LIKE 'webhook%'").fetchall())
        ahead = f"({lead(connection):.3f})"
        return SpoolStatus(
            schema=version_of(connection) or 0,
            holder=holder(path),
            webhook=None if "webhook" not in facts else str(facts["webhook"]),
            trouble=read_trouble(facts.get("webhook_trouble")),
            of_each=read_each(facts),
            deliveries=_kept(connection, "deliveries", f"accepted - {ahead}", "size"),
            outbound_stanzas=_kept(connection, "departures", f"stored - {ahead}", "length(xml)"),
            letters=_kept(
                connection,
                "letters",
                "ended",
                "coalesce(length(body), 0) + coalesce(length(response), 0) + coalesce(length(reply), 0)",
            ),
            set_aside=_kept(connection, "set_aside", "since", "length(content)"),
            file_bytes=_size(path) or 0,
            log_bytes=_size(Path(f"{path}-wal")) or 0,
            ballast_bytes=_size(Path(f"{path}.ballast")),
        )


def _kept(connection: sqlite3.Connection, table: str, since: str, size: str) -> Kept:
    # A column with a wrong value is left out, so that the rest of the status can be told.
    column = since.partition(" ")[0]
    query = (
        f"SELECT count(*), CAST(total({size}) AS INTEGER),"
        f" min(CASE WHEN typeof({column}) IN ('real', 'integer') THEN {since} END) FROM {table}"
    )
    return Kept(*connection.execute(query).fetchone())


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None
