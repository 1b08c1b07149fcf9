"""A spool's file for another program than its gateway, which may be running."""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from attrs import frozen

from component_http.errors import SettingsError, SpoolError, SpoolUnusable
from component_http.spool.database import APPLICATION_ID, BUSY, SCHEMA, files, is_damage, is_full
from component_http.spool.facts import Trouble, read_trouble
from component_http.spool.private import Warn, located, no_warning, see_private
from component_http.spool.rows import lead, text_of

__all__ = ["Holder", "Kept", "SpoolStatus", "explained", "holder", "status", "transaction", "visit", "wake"]


@frozen
class Holder:
    """
    Who has a spool's lock.

    Attributes:
        running: A gateway has it; None if that cannot be seen.
        process: Its number, or None if that is not known.
    """

    running: bool | None
    process: int | None = None


@frozen
class Kept:
    """
    What a spool has of one sort.

    Attributes:
        count: How many.
        size: Their bytes: requests, stanzas, responses.
        oldest: When the oldest began to be there, in seconds since the epoch; None if there is none.
    """

    count: int
    size: int
    oldest: float | None


@frozen
class SpoolStatus:
    """
    How things stand with a spool's file.

    Attributes:
        schema: The version of its schema.
        holder: Who has it.
        webhook: What the gateway said last of the webhook, as in `component_http.delivery.relay.Status`; None if it has
            said nothing yet.
        trouble: What was wrong with the webhook then; None if nothing was.
        deliveries: Accepted and not ended.
        departures: What is to leave for the server and is not known to be there.
        letters: Dead letters.
        set_aside: Rows of any table that could not be read.
        file_bytes: Of the file.
        log_bytes: Of its write-ahead log.
        ballast_bytes: Of the file beside it that is let go of when the disk is full; None if there is none.
    """

    schema: int
    holder: Holder
    webhook: str | None
    trouble: Trouble | None
    deliveries: Kept
    outbound_stanzas: Kept
    letters: Kept
    set_aside: Kept
    file_bytes: int
    log_bytes: int
    ballast_bytes: int | None


def visit(path: Path, *, patience: float = BUSY, warn: Warn = no_warning) -> sqlite3.Connection:
    """
    Open a spool's file without the lock of a gateway; never make one, nor change its schema.

    Whoever reads it should not take long, for until the end the gateway's log can only grow; whoever writes to it keeps
    the gateway from doing so.

    Args:
        path: The file.
        patience: Seconds to wait for another program that writes.
        warn: Told that other users could read or write the file, or those beside it.

    Returns:
        A connection that begins no transaction by itself; for the thread that made it.

    Raises:
        SpoolUnusable: It is corrupt, is something else than a spool, or comes from a later version.
        SettingsError: It is not there, cannot be read and written, is not the gateway's alone, or comes from an
            earlier version.
        SpoolError: SQLite cannot open it now.
    """
    remedy = "do this as the user that the gateway runs as, or as root"
    path = located(path)
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
    with explained(path, patience):
        uri = f"file:{quote(str(path))}?mode=rw"
        connection = sqlite3.connect(uri, uri=True, timeout=patience, isolation_level=None)
        connection.text_factory = text_of
        try:
            _see_version(connection, path)
        except BaseException:
            connection.close()
            raise
    return connection


def _see_version(connection: sqlite3.Connection, path: Path) -> None:
    version, application_id = _number(connection, "user_version"), _number(connection, "application_id")
    [tables] = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not (version or application_id or tables):
        raise SettingsError(f"the spool {path} is an empty file: no gateway has used it yet")
    if application_id != APPLICATION_ID:
        raise SpoolUnusable(f"the file {path} is a database of another program, and no spool")
    if version > max(SCHEMA):
        raise SpoolUnusable(f"the spool {path} was written by a later version of component-http: use that version")
    if version < max(SCHEMA):
        raise SettingsError(
            f"the spool {path} was written by an earlier version of component-http: start the gateway of this version"
            " once, which brings it up to date"
        )


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    [number] = connection.execute(f"PRAGMA {pragma}").fetchone()
    return int(number)


@contextmanager
def explained(path: Path, patience: float = BUSY) -> Iterator[None]:
    """
    Turn what SQLite says into a sentence for who called the command.

    Args:
        path: The spool's file.
        patience: As for `visit`.

    Raises:
        SpoolUnusable: The file is damaged, or is none of SQLite.
        SpoolError: It is busy, or the disk is full or fails.
    """
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if is_damage(error):
            raise SpoolUnusable(f"the spool {path} is damaged, or is no spool ({error})") from None
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            raise SpoolError(
                f"the spool {path} is busy: another program has been writing to it for {patience:g} seconds; try again"
            ) from None
        if is_full(error):
            raise SpoolError(f"the spool {path} cannot be written to: the disk is full") from None
        raise SpoolError(f"the spool {path} cannot be used now: {error}") from None


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Keep all that is written within, or nothing of it."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        raise


def holder(path: Path) -> Holder:
    """
    Look who has a spool, without keeping anybody from it.

    Args:
        path: The spool's file, and no link to it.
    """
    try:
        with open(f"{path}.lock", encoding="ascii", errors="replace", opener=_open_lock) as file:
            try:
                # A shared one, so that two who look are not in each other's way; it goes when the file is closed.
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
    """Open the lock, but no link to another file, and no pipe that holds us for ever."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def wake(path: Path, *, patience: float = BUSY, warn: Warn = no_warning) -> None:
    """
    Tell the gateway that has a spool to ask its webhook at once.

    Args:
        path: The spool's file.
        patience: Seconds to wait for another program that writes.
        warn: As for `visit`.

    Raises:
        SettingsError: As by `visit`.
        SpoolError: It cannot be told now.
    """
    connection = visit(path, patience=patience, warn=warn)
    with explained(path, patience):
        try:
            with transaction(connection):
                connection.execute("INSERT INTO commands (verb, argument) VALUES ('wake', '')")
        finally:
            connection.close()


def status(path: Path, *, patience: float = BUSY, warn: Warn = no_warning) -> SpoolStatus:
    """
    Say how things stand with a spool.

    Args:
        path: Its file.
        patience: As for `visit`.
        warn: As for `visit`.

    Raises:
        SettingsError: As by `visit`.
        SpoolError: As by `visit`.
    """
    path = located(path)
    with closing(visit(path, patience=patience, warn=warn)) as connection, explained(path, patience):
        connection.execute("BEGIN")  # all of it at one moment
        facts = dict(connection.execute("SELECT name, value FROM facts WHERE name LIKE 'webhook%'").fetchall())
        ahead = f"({lead(connection):.3f})"
        return SpoolStatus(
            schema=_number(connection, "user_version"),
            holder=holder(path),
            webhook=None if "webhook" not in facts else str(facts["webhook"]),
            trouble=read_trouble(facts.get("webhook_trouble")),
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
    # Whatever stands in a column: a status is told all the same.
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
