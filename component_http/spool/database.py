"""The file of a spool on disk: its lock, its first check, and how it is opened."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Literal
from urllib.parse import quote

from component_http.errors import DiskFull, SettingsError, SpoolError, SpoolUnusable
from component_http.spool.private import (
    Warn,
    located,
    made,
    no_warning,
    open_private,
    see_folder,
    see_private,
    user_or_own,
)
from component_http.spool.room import Ballast, is_no_room
from component_http.spool.schema import SCHEMA, Schema, upgrade, version_of

Synchronous = Literal["FULL", "NORMAL"]

LEAST_SQLITE = (3, 33)
"""The first version of SQLite that has UPDATE ... FROM."""

MAX_WAL_BYTES = 16 * 1024 * 1024
"""The length to which SQLite cuts the file of the write-ahead log after it was longer."""

OPENING_BYTES = 256 * 1024
"""Room that there must be to open a file: for the log and its index, and for an upgrade of the schema."""

BUSY = 5.0
"""Seconds to wait for another program that writes."""

INSTANT = 0.05
"""Seconds after which the lock is tried again: `visit.holder`, which only looks at it, has let go by then."""

COMPANIONS = ("-wal", "-shm", "-journal")
"""The ends of the names of the files that SQLite puts beside a database; it reads a journal whoever made it."""


def files(path: Path) -> tuple[Path, ...]:
    """The spool's file, and all files that may lie beside it."""
    return tuple(Path(f"{path}{end}") for end in ("", *COMPANIONS, ".lock", ".ballast"))


_REMEDY = "start with --quarantine-spool to set it aside and begin with an empty one"


class SpoolLock:
    """
    The right to use a spool's file.

    An open file beside the spool holds it, so it survives a fork and ends with the last process that has that open.

    Attributes:
        path: The spool's file itself, also where a symbolic link led to it.
    """

    def __init__(self, path: Path, file: IO[str]) -> None:
        self.path = path
        self._file = file

    def note_process(self) -> None:
        """Write this process's number into the lock, for the error that a second gateway gets; again after a fork."""
        descriptor = self._file.fileno()
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        except OSError:
            pass  # on a full disk the error lacks the number

    def release(self) -> None:
        self._file.close()


def lock(path: Path, *, user: int | None = None, warn: Warn = no_warning) -> SpoolLock:
    """
    Keep other gateways from a spool's file, which need not be there yet; but its folder must.

    Args:
        user: The user that the spool belongs to; None for the user of this process.
        warn: Told what other users could do with the lock or the folder.

    Raises:
        SettingsError: Another gateway has the lock, the folder cannot be written to, or the lock is not the user's.
    """
    path = located(path)
    _see_folder(path)
    see_folder(path.parent, user=user_or_own(user), warn=warn)
    try:
        descriptor = open_private(Path(f"{path}.lock"), os.O_RDWR | os.O_CREAT, user=user, warn=warn)
    except OSError as error:
        remedy = "make room" if is_no_room(error) else "give both to the user that the gateway runs as"
        raise SettingsError(
            f"spool.path is {path}, but {path}.lock cannot be written: {error.strerror}; {remedy}"
        ) from None
    file = os.fdopen(descriptor, "r+", encoding="ascii", errors="replace")
    try:
        _take(file)
    except OSError as error:
        holder = file.read(20).strip()
        file.close()
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise SettingsError(
                f"spool.path is {path}, but its file system has no locks: {error.strerror}; name a file on another one"
            ) from None
        who = f" (process {holder})" if holder.isdecimal() else ""
        raise SettingsError(
            f"the spool {path} is in use by another gateway{who}: stop that one, or give this one a spool.path of its"
            " own"
        ) from None
    held = SpoolLock(path, file)
    held.note_process()
    return held


def _take(file: IO[str]) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(INSTANT)
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _see_folder(path: Path) -> None:
    folder = path.parent
    if not folder.is_dir():
        raise SettingsError(f"spool.path is {path}, but there is no folder {folder}: make it, or name another file")
    if not os.access(folder, os.W_OK | os.X_OK):
        if os.statvfs(folder).f_flag & os.ST_RDONLY:
            why, remedy = "is on a file system that is read-only", "name a file elsewhere"
        else:
            why = "cannot be written to"
            remedy = "give it to the user that the gateway runs as, or name a file elsewhere"
        raise SettingsError(f"spool.path is {path}, but the folder {folder} {why}: {remedy}")


def prepare(
    path: Path,
    *,
    schema: Schema = SCHEMA,
    sqlite: tuple[int, ...] = sqlite3.sqlite_version_info,
    user: int | None = None,
    warn: Warn = no_warning,
) -> None:
    """
    Check that a spool's file can be used, make it if there is none, and bring its schema up to date.

    The whole file is read. Trouble that may pass by itself, such as a full disk, is not reported here: where there is
    no room to open the file, nothing is done.

    Args:
        path: The file, and no link to it; this process has its lock.
        user: The user that the spool belongs to; None for the user of this process.
        warn: Told what other users could do with the file, or with those beside it.

    Raises:
        SpoolUnusable: The file is corrupt, is something else than a spool, or comes from a later version.
        SettingsError: The file cannot be read and written, or is not the user's.
    """
    if sqlite < LEAST_SQLITE:
        raise SettingsError(
            f'spool.kind is "sqlite", but that needs SQLite {_dotted(LEAST_SQLITE)} or later, and this Python has'
            f' {_dotted(sqlite)}: take another Python, or "memory"'
        )
    try:
        make_private(path, user=user, warn=warn)
        _see_companions(path, user_or_own(user), warn)
        if Ballast(path).free() < OPENING_BYTES:
            return
        with closing(opened(path, schema=schema)) as connection:
            [[verdict]] = connection.execute("PRAGMA quick_check(1)").fetchall()
    except SpoolError:
        return
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            raise _damaged(path, error) from None
        return
    if verdict != "ok":
        raise _damaged(path, verdict)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def make_private(path: Path, *, user: int | None = None, warn: Warn = no_warning) -> None:
    """
    Make the file if there is none, for its owner only; SQLite gives the files beside it the same owner and mode.

    Raises:
        SettingsError: The file cannot be made, or not be read and written, or belongs to another user.
        DiskFull: The file cannot be made now.
    """
    user = user_or_own(user)
    try:
        descriptor = made(path, user)
    except FileExistsError:
        if not path.is_file():
            raise SettingsError(f"spool.path is {path}, but that is not a file: name another one") from None
        see_private(path, user=user, warn=warn)
        if not os.access(path, os.R_OK | os.W_OK):
            raise SettingsError(
                f"spool.path is {path}, but that file cannot be read and written: give it, and those beside it, to the"
                " user that the gateway runs as"
            ) from None
        return
    except OSError as error:
        if is_no_room(error):
            raise DiskFull(f"the disk of {path} is full: make room") from None
        raise SettingsError(
            f"spool.path is {path}, but that file cannot be made: {error.strerror}; name a file elsewhere"
        ) from None
    os.close(descriptor)
    # SQLite writes what is in the file to the disk, but not the new file's name in its folder.
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _see_companions(path: Path, user: int, warn: Warn) -> None:
    """Refuse another user's files beside the spool: SQLite would read a log that somebody made up."""
    for companion in (*(Path(f"{path}{end}") for end in COMPANIONS), Ballast(path).path):
        see_private(companion, user=user, warn=warn)
        if companion.exists() and not os.access(companion, os.R_OK | os.W_OK):
            raise SettingsError(
                f"spool.path is {path}, but {companion} cannot be read and written: give it to the user that the"
                " gateway runs as, like the file itself"
            )


def opened(path: Path, *, synchronous: Synchronous = "FULL", schema: Schema = SCHEMA) -> sqlite3.Connection:
    """
    Open a spool's file, and bring its schema up to date.

    The connection begins no transaction by itself. It is for the thread that made it.

    Args:
        synchronous: Whether a commit waits until the disk has it, or only keeps the order.

    Raises:
        SpoolUnusable: The file is corrupt, is something else than a spool, or comes from a later version.
        SettingsError: SQLite cannot use its file system.
        DiskFull: There is no room for the log or its index, or for the upgrade.
        SpoolError: SQLite cannot open it now.
    """
    try:
        name = f"file:{quote(str(path))}?mode=rw"
        # The statements of `rows` for many rows are compiled once.
        connection = sqlite3.connect(name, uri=True, timeout=BUSY, isolation_level=None, cached_statements=256)
        try:
            _see_version(connection, path, schema)
            [mode] = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise SettingsError(f"spool.path is {path}, but SQLite cannot use that file system: name a local disk")
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            connection.execute(f"PRAGMA journal_size_limit = {MAX_WAL_BYTES}")
            connection.execute("PRAGMA temp_store = MEMORY")
            # Some builds write over whatever is deleted: then to delete takes as much of the log as to write.
            connection.execute("PRAGMA secure_delete = FAST").fetchall()
            upgrade(connection, schema)
        except BaseException:
            connection.close()
            raise
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            raise _damaged(path, error) from None
        if is_full(error):
            raise DiskFull(f"the disk of {path} is full: make room") from error
        raise SpoolError(f"the spool {path} cannot be opened: {error}") from error
    return connection


def _see_version(connection: sqlite3.Connection, path: Path, schema: Schema) -> None:
    version = version_of(connection)
    if version is None:
        raise SpoolUnusable(
            f"the spool {path} is a database of another program: name another file as spool.path, or {_REMEDY}"
        )
    if version > max(schema):
        raise SpoolUnusable(
            f"the spool {path} was written by a later version of component-http: start that version again, or {_REMEDY}"
        )


def is_full(error: BaseException) -> bool:
    return isinstance(error, DiskFull) or _code(error) == sqlite3.SQLITE_FULL


def may_be_full(error: BaseException) -> bool:
    """Say whether the reason of an error may be that there is no room, though SQLite does not say so."""
    return is_full(error) or _code(error) in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)


def is_busy(error: BaseException) -> bool:
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_damage(error: BaseException) -> bool:
    """Say whether an error means that the file itself is damaged, so that waiting does not help."""
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _code(error: BaseException) -> int:
    """SQLite's code of an error, or of the error that `opened` made of it; 0 for other errors."""
    for each in (error, error.__cause__):
        code = getattr(each, "sqlite_errorcode", None)
        if code is not None:
            return int(code) & 0xFF
    return 0


def _damaged(path: Path, reason: object) -> SpoolUnusable:
    first = " ".join(str(reason).split())[:200]
    return SpoolUnusable(f"the spool {path} is damaged, or is no spool ({first}): {_REMEDY}")


def quarantine(path: Path, now: datetime | None = None, *, mark: str = "quarantined") -> Path:
    """Rename a spool's file, with those that SQLite put beside it; nothing is lost. Returns the new name."""
    stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%S")
    aside = Path(f"{path}.{mark}-{stamp}")
    number = 1
    while os.path.lexists(aside):
        number += 1
        aside = Path(f"{path}.{mark}-{stamp}-{number}")
    # Last the file itself: a log without its file is nothing, but a new file beside an old log would be filled from it.
    for end in (*COMPANIONS, ""):
        if os.path.lexists(f"{path}{end}"):
            os.rename(f"{path}{end}", f"{aside}{end}")
    return aside
