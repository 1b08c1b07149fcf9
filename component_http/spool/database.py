"""The file of a spool on disk: private, of one gateway at a time, and of a schema that is known."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from types import MappingProxyType
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

__all__ = [
    "BUSY",
    "COMPANIONS",
    "INDEX_REGION",
    "OPENING_BYTES",
    "SCHEMA",
    "SpoolLock",
    "Synchronous",
    "files",
    "is_busy",
    "is_damage",
    "is_full",
    "lock",
    "make_private",
    "may_be_full",
    "opened",
    "prepare",
    "quarantine",
]

Synchronous = Literal["FULL", "NORMAL"]

Schema = Mapping[int, Sequence[str]]

SCHEMA: Schema = MappingProxyType(
    {
        1: (
            # Accepted and not ended. `accepted` and `deadline` are seconds since the epoch, `uri` is the namespace of
            # the stanza's element, `tries`, `attempts` and `size` are those of `Delivery`.
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
            # What is to leave for the server and is not known to be there, in its order. `delivery_id` is that of the
            # delivery it answers, NULL for what answers none; `verbatim` is 1 where a webhook wrote the XML itself.
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
            # request, and `status` (NULL where there was no response), `media_type` and `response` are what came last.
            # For a stanza that did not leave `outcome` is `reply_expired` or `reply_unsendable`, `body` is NULL,
            # `reply` is its XML, and sender and recipient are those of the delivery that it answers.
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
            # What another program wants of the gateway that runs; see `component_http.spool.dead_letters`.
            """
            CREATE TABLE commands (
                number INTEGER PRIMARY KEY AUTOINCREMENT,
                verb TEXT NOT NULL,
                argument TEXT NOT NULL
            )
            """,
            # Who is to be told that the component is there; both are bare addresses.
            """
            CREATE TABLE subscribers (
                number INTEGER PRIMARY KEY AUTOINCREMENT,
                component TEXT NOT NULL,
                user TEXT NOT NULL,
                UNIQUE (component, user)
            )
            """,
            # What else a gateway leaves for its next start, or for other programs (`component_http.spool.facts`).
            "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
        ),
        3: (
            # Answers of the API that are given again for the same key (`contract.idempotency`); `numbers` is JSON.
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
    }
)
"""By its number, what makes each version of the schema from the one before; 0 is an empty file."""

APPLICATION_ID = 0x63487470
"""What tells a spool from other programs' SQLite databases."""

LEAST_SQLITE = (3, 33)
"""The first that has UPDATE ... FROM."""

MAX_WAL_BYTES = 16 * 1024 * 1024
"""What is left of the write-ahead log's file after it was longer."""

OPENING_BYTES = 256 * 1024
"""Room that there must be to open a file: for the log and its index, and for an upgrade of the schema."""

INDEX_REGION = 32 * 1024
"""What SQLite adds to the log's index at once; enough for 4096 pages of the log."""

BUSY = 5.0
"""Seconds to wait for another program that writes."""

INSTANT = 0.05
"""Seconds after which a lock is tried again: who only looked whether there is one (`visit.holder`) has let go then."""

COMPANIONS = ("-wal", "-shm", "-journal")
"""What SQLite puts beside a file, by the ends of their names; it reads a journal that is there, whoever made it."""


def files(path: Path) -> tuple[Path, ...]:
    """A spool's file, and all that may lie beside it."""
    return tuple(Path(f"{path}{end}") for end in ("", *COMPANIONS, ".lock", ".ballast"))


_REMEDY = "start with --quarantine-spool to set it aside and begin with an empty one"


class SpoolLock:
    """
    The right to use a spool's file.

    It is held by an open file beside it, so it survives a fork and ends with the last process that has it.

    Attributes:
        path: The spool's file itself, where a symbolic link led to it.
    """

    def __init__(self, path: Path, file: IO[str]) -> None:
        self.path = path
        self._file = file

    def note_process(self) -> None:
        """Write down which process holds it, for the sentence that a second one gets; again after a fork."""
        descriptor = self._file.fileno()
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
        except OSError:
            pass  # on a full disk the sentence lacks it

    def release(self) -> None:
        """Let others use the file."""
        self._file.close()


def lock(path: Path, *, user: int | None = None, warn: Warn = no_warning) -> SpoolLock:
    """
    Keep other gateways from a spool's file.

    Args:
        path: The spool's file; it need not be there yet, but its folder must.
        user: Whose spool it is; None for the user of this process.
        warn: Told what other users could do with the lock or the folder.

    Raises:
        SettingsError: Another gateway has it, the folder cannot be written to, or the lock is not the user's.
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
            raise SettingsError(f"spool.path is {path}, but its file system has no locks: {error.strerror}") from None
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
    See that a spool's file can be used, make it if there is none, and bring its schema up to date.

    It reads all of the file. What may pass by itself, such as a full disk, is not told here: where there is no room to
    open the file, nothing of this is done.

    Args:
        path: The file, and no link to it; this process has its lock.
        schema: As `SCHEMA`.
        sqlite: The version of the library.
        user: Whose spool it is; None for the user of this process.
        warn: Told what other users could do with the file, or with those beside it.

    Raises:
        SpoolUnusable: It is corrupt, is something else than a spool, or comes from a later version.
        SettingsError: It cannot be read and written, or is not the user's.
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
    Make the file if there is none, for its owner only; SQLite gives those beside it the same owner and mode.

    Args:
        path: The file.
        user: Who it must belong to; None for the user of this process.
        warn: Told that others could read or write it.

    Raises:
        SettingsError: It cannot be made, or not be read and written, or belongs to another user.
        DiskFull: It cannot be made now.
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
            raise DiskFull(f"the disk is full, so {path} cannot be made") from None
        raise SettingsError(f"spool.path is {path}, but that file cannot be made: {error.strerror}") from None
    os.close(descriptor)
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _see_companions(path: Path, user: int, warn: Warn) -> None:
    """Refuse what is another user's beside the file: SQLite would take a log for its own that somebody made up."""
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
        path: The file; it is there.
        synchronous: Whether a commit waits until the disk has it, or only keeps the order.
        schema: As `SCHEMA`.

    Raises:
        SpoolUnusable: It is corrupt, is something else than a spool, or comes from a later version.
        SettingsError: Its file system is none for a database.
        DiskFull: There is no room for the log or its index, or for the upgrade.
        SpoolError: SQLite cannot open it now.
    """
    try:
        connection = sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=BUSY, isolation_level=None)
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
            _upgrade(connection, schema)
        except BaseException:
            connection.close()
            raise
    except sqlite3.DatabaseError as error:
        if is_damage(error):
            raise _damaged(path, error) from None
        kind = DiskFull if is_full(error) else SpoolError
        raise kind(f"the spool {path} cannot be opened: {error}") from error
    return connection


def _see_version(connection: sqlite3.Connection, path: Path, schema: Schema) -> None:
    version, application_id = _number(connection, "user_version"), _number(connection, "application_id")
    [tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application_id != APPLICATION_ID and (version or application_id or tables):
        raise SpoolUnusable(
            f"the spool {path} is a database of another program: name another file as spool.path, or {_REMEDY}"
        )
    if version > max(schema):
        raise SpoolUnusable(
            f"the spool {path} was written by a later version of component-http: start that version again, or {_REMEDY}"
        )


def _upgrade(connection: sqlite3.Connection, schema: Schema) -> None:
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


def is_full(error: BaseException) -> bool:
    """There is no room for what was to be written."""
    return isinstance(error, DiskFull) or _code(error) == sqlite3.SQLITE_FULL


def may_be_full(error: BaseException) -> bool:
    """It could not be read, written or opened; that there is no room, or no more for this user, may be why."""
    return is_full(error) or _code(error) in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)


def is_busy(error: BaseException) -> bool:
    """Another program is writing."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def is_damage(error: BaseException) -> bool:
    """The file itself is wrong; waiting does not mend it."""
    return _code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _code(error: BaseException) -> int:
    """SQLite's code, also for what `opened` made of it; 0 for what is none of SQLite's."""
    for each in (error, error.__cause__):
        code = getattr(each, "sqlite_errorcode", None)
        if code is not None:
            return int(code) & 0xFF
    return 0


def _damaged(path: Path, reason: object) -> SpoolUnusable:
    first = " ".join(str(reason).split())[:200]
    return SpoolUnusable(f"the spool {path} is damaged, or is no spool ({first}): {_REMEDY}")


def quarantine(path: Path, now: datetime | None = None) -> Path:
    """
    Set a spool's file aside, with those that SQLite put beside it; nothing of it is lost.

    Args:
        path: The file; this process has its lock.
        now: The time for its new name; None for the present.

    Returns:
        Its new name.
    """
    stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%S")
    aside = Path(f"{path}.quarantined-{stamp}")
    number = 1
    while os.path.lexists(aside):
        number += 1
        aside = Path(f"{path}.quarantined-{stamp}-{number}")
    # Last the file itself: a log without its file is nothing, but a new file beside an old log would be filled from it.
    for end in (*COMPANIONS, ""):
        if os.path.lexists(f"{path}{end}"):
            os.rename(f"{path}{end}", f"{aside}{end}")
    return aside
