"""Copies of a spool's file: a backup while its gateway runs, and its way back."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from component_http.errors import SettingsError, SpoolError, SpoolUnusable
from component_http.spool.database import BUSY, files, is_busy, is_damage, is_full, lock, quarantine
from component_http.spool.private import PRIVATE, Warn, located, no_warning
from component_http.spool.room import Ballast, is_no_room
from component_http.spool.schema import SCHEMA, Schema, version_of
from component_http.spool.visit import Visit, holder


def back_up(path: Path, target: Path, *, patience: float = BUSY, warn: Warn = no_warning) -> int:
    """
    Write a copy of a spool as it is at one moment, while its gateway goes on writing; returns the copy's bytes.

    Nobody waits for it: only the gateway's log grows until the copy is whole. What was deleted is not in the copy.

    Args:
        path: The spool, of whatever version.
        target: A file that is not there. It has this name when it is whole, and belongs to the user of this process.

    Raises:
        SettingsError: The target is there already, or cannot be made; or as `Visit`.
        SpoolError: There is no room for the copy, or the spool cannot be read now.
    """
    if os.path.lexists(target):
        raise _is_there(target)
    with Visit(path, patience=patience, warn=warn, any_version=True) as found:
        ballast = Ballast(found.path)
        # A copy that took the last room would have the gateway refuse stanzas.
        _check_room(found.path, target, ballast.held() if _on_one_disk(found.path, target) else 0)
        with _partial(target) as partial:
            with _explained(found.path, target):
                found.connection.execute("VACUUM INTO ?", (str(partial),))
                _reach_disk(partial)
            try:
                _name(partial, target)
            except FileExistsError:
                raise _is_there(target) from None
        _reach_disk(target.parent)
    return target.stat().st_size


def restore(source: Path, path: Path, *, schema: Schema = SCHEMA, warn: Warn = no_warning) -> Path | None:
    """
    Put a backup into the place of a spool that no gateway uses. Nothing is lost of the one that was there.

    Args:
        source: The backup, of this version or of an earlier one.
        path: The spool, which need not be there. If this process is root, the copy belongs to the user of the spool
            that was there, or else to that of the folder.

    Returns:
        The new name of the spool that was there; None if there was none.

    Raises:
        SpoolUnusable: The backup is damaged, is no spool, or comes from a later version.
        SettingsError: The backup cannot be read, a gateway uses the spool, or the folder cannot be written to.
        SpoolError: There is no room for the copy.
    """
    path = located(path)
    found = holder(path)
    if found.running:
        who = "" if found.process is None else f" (process {found.process})"
        raise SettingsError(f"the spool {path} is in use by a gateway{who}: stop that one, and then restore")
    _check_readable(source)
    user = _user_of(path)
    held = lock(path, user=user, warn=warn)
    try:
        _check_room(source, path, 0)
        with _partial(path) as partial:
            with _explained(source, path):
                _copy(source, partial, schema)
                if user != os.geteuid():
                    os.chown(partial, user, -1)
                _reach_disk(partial)
            aside = quarantine(path, mark="replaced") if any(map(os.path.lexists, files(path)[:4])) else None
            os.rename(partial, path)
        _reach_disk(path.parent)
    finally:
        held.release()
    return aside


def _copy(source: Path, target: Path, schema: Schema) -> None:
    with closing(sqlite3.connect(f"file:{quote(str(source))}?mode=ro", uri=True, isolation_level=None)) as connection:
        version = version_of(connection)
        if version is None:
            raise SpoolUnusable(f"{source} is a database of another program, and no backup of a spool")
        if not version:
            raise SpoolUnusable(f"{source} is empty, and no backup of a spool")
        if version > max(schema):
            raise SpoolUnusable(f"{source} was written by a later version of component-http: restore it with that one")
        [[verdict]] = connection.execute("PRAGMA quick_check(1)").fetchall()
        if verdict != "ok":
            raise sqlite3.DatabaseError(verdict)
        connection.execute("VACUUM INTO ?", (str(target),))


def _check_readable(source: Path) -> None:
    try:
        with open(source, "rb"):
            pass
    except OSError as error:
        raise SettingsError(f"the backup {source} cannot be read: {error.strerror}") from None


def _user_of(path: Path) -> int:
    """Find the user that a spool must belong to."""
    own = os.geteuid()
    for place in (path, path.parent) if own == 0 else ():
        with suppress(OSError):
            return place.stat().st_uid
    return own


def _check_room(source: Path, target: Path, beside: int) -> None:
    """Raise SpoolError if the disk of the target lacks the room that the copy may need, with some bytes beside it."""
    needed = beside + sum(place.stat().st_size for place in files(source)[:2] if place.exists())
    free = Ballast(target).free() if target.parent.is_dir() else needed
    if free < needed:
        raise SpoolError(
            f"{target} cannot be written: it may take {needed} bytes, and its disk has room for {free}; make room, or"
            " name a file on another disk"
        )


def _on_one_disk(path: Path, target: Path) -> bool:
    try:
        return path.stat().st_dev == target.parent.stat().st_dev
    except OSError:
        return False


@contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """Make a private file beside a target, which is gone at the end if it was not renamed."""
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise _unwritten(target, error) from None
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        with suppress(OSError):
            os.unlink(name)


def _name(partial: Path, target: Path) -> None:
    """Give a file its name. Raises FileExistsError if that is taken."""
    try:
        os.link(partial, target)
    except FileExistsError:
        raise
    except OSError:  # the file system has no hard links
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE))
        os.replace(partial, target)


@contextmanager
def _explained(source: Path, target: Path) -> Iterator[None]:
    """Turn what can go wrong with a copy into a sentence for the user of a command."""
    try:
        yield
    except sqlite3.Error as error:
        if is_full(error):
            raise SpoolError(f"{target} cannot be written: the disk is full") from None
        if is_busy(error):
            raise SpoolError(f"{source} is busy: another program writes to it; try again") from None
        if is_damage(error) or type(error) is sqlite3.DatabaseError:
            raise SpoolUnusable(f"{source} is damaged, or is no spool ({error})") from None
        raise SpoolError(f"{target} cannot be written: {error}") from None
    except OSError as error:
        raise _unwritten(target, error) from None


def _unwritten(target: Path, error: OSError) -> SpoolError | SettingsError:
    if is_no_room(error):
        return SpoolError(f"{target} cannot be written: the disk is full")
    return SettingsError(f"{target} cannot be written: {error.strerror}")


def _is_there(target: Path) -> SettingsError:
    return SettingsError(f"{target} is there already, and a backup replaces nothing: name another file")


def _reach_disk(place: Path) -> None:
    """Wait until a file, or the names in a folder, have reached the disk."""
    descriptor = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
