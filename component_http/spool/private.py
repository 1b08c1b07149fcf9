"""The files of a spool belong to one user: nobody else reads them, writes to them or puts others in their place."""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Callable
from pathlib import Path

from component_http.errors import SettingsError

PRIVATE = 0o600
"""The mode of each file."""

_OTHERS = 0o077
"""The bits of a mode that let other users do something with a file."""

_MAX_HOPS = 40
"""The number of links to links that are followed, as in Linux."""

Warn = Callable[[str], None]
"""Told a sentence about something that was mended, or should be."""


def no_warning(sentence: str) -> None:
    """A `Warn` for a caller whose user was told already."""


def located(path: Path) -> Path:
    """
    Find the file that a spool's path leads to, so that the files beside it have one place whatever the path is.

    An operator may put the file on another disk by a symbolic link, also before the file is there. A link that another
    user than root or the file's owner made is refused with a `SettingsError`. The folders of the path may be links of
    anybody.
    """
    try:
        owner = path.stat().st_uid
    except OSError:
        owner = os.geteuid()
    link = path
    for _ in range(_MAX_HOPS):
        try:
            found = link.lstat()
            if not stat.S_ISLNK(found.st_mode):
                break
            if found.st_uid not in (0, owner):
                raise SettingsError(
                    f"spool.path is {path}, but {link} is a symbolic link of the user {_name(found.st_uid)}: only links"
                    " of root and of the file's own user are followed"
                )
            link = link.parent / os.readlink(link)
        except OSError:
            break
    return Path(os.path.realpath(path))


def user_or_own(user: int | None) -> int:
    return os.geteuid() if user is None else user


def open_private(path: Path, flags: int, *, user: int | None = None, warn: Warn = no_warning) -> int:
    """
    Open a file beside a spool that only the gateway uses, and make it private.

    The open file is checked, so nobody can exchange it in between.

    Args:
        flags: Those of `os.open`; with `O_CREAT` it is made for the user if there is none.
        user: The user that it must belong to; None for the user of this process.
        warn: Told that others could read or write it.

    Raises:
        SettingsError: The file is a symbolic link, is no file, has a second name, or belongs to another user.
        OSError: The file cannot be opened.
    """
    user = user_or_own(user)
    try:
        descriptor = _opened(path, flags, user)
    except OSError as error:
        if error.errno == errno.ELOOP and path.is_symlink():
            raise _is_link(path) from None
        raise
    try:
        found = os.fstat(descriptor)
        _see_owner(path, found, user)
        if found.st_nlink > 1:
            raise SettingsError(f"the spool's file {path} has a second name, which is a hard link: remove it")
        _see_mode(path, found, descriptor, warn)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _opened(path: Path, flags: int, user: int) -> int:
    if flags & os.O_CREAT:
        try:
            return made(path, user)
        except FileExistsError:
            flags &= ~os.O_CREAT
    # Without O_NONBLOCK opening a pipe could wait for ever.
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)


def made(path: Path, user: int) -> int:
    """
    Make a private file where nothing is yet, not even a link; returns its descriptor, for reading and writing.

    Its owner may be the user that root is to become (`twistd --uid`).
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE)
    try:
        if user != os.geteuid():
            os.fchown(descriptor, user, -1)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def see_private(path: Path, *, user: int, warn: Warn = no_warning) -> None:
    """
    Check a file that SQLite opens by its name, and make it private; do nothing if it is not there.

    A file that is private already is not opened: closing it would end the locks that SQLite has on it.

    Raises:
        SettingsError: The file is a symbolic link, is no file, or belongs to another user.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISLNK(found.st_mode):
        raise _is_link(path)
    _see_owner(path, found, user)
    if found.st_mode & _OTHERS:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        except OSError:
            return  # the next to open it says why it cannot be opened
        try:
            found = os.fstat(descriptor)
            _see_owner(path, found, user)
            _see_mode(path, found, descriptor, warn)
        finally:
            os.close(descriptor)


def see_folder(folder: Path, *, user: int, warn: Warn) -> None:
    """
    Warn where another user can put own files in the place of the spool's.

    It is no error: volumes of containers are often such folders.
    """
    found = folder.stat()
    if found.st_uid not in (0, user):
        warn(
            f"the spool's folder {folder} belongs to the user {_name(found.st_uid)}, who can replace the files in it:"
            f" give it to {_name(user)}, or name a file elsewhere as spool.path"
        )
    elif found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
        warn(
            f"every user of this machine can replace the files in the spool's folder {folder}: chmod o-w it, or name a"
            " file elsewhere as spool.path"
        )


def _is_link(path: Path) -> SettingsError:
    return SettingsError(
        f"the spool's file {path} is a symbolic link, which no gateway makes there: remove it; only spool.path itself"
        " may be one"
    )


def _see_owner(path: Path, found: os.stat_result, user: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise SettingsError(f"the spool's file {path} is not a file: remove it")
    if found.st_uid != user:
        raise SettingsError(
            f"the spool's file {path} belongs to the user {_name(found.st_uid)}, but must belong to {_name(user)}: give"
            " it to that user with chown, or name another file as spool.path"
        )


def _see_mode(path: Path, found: os.stat_result, descriptor: int, warn: Warn) -> None:
    if found.st_mode & _OTHERS:
        could = f"other users could use the spool's file {path}, whose mode was {stat.S_IMODE(found.st_mode):04o}"
        try:
            os.fchmod(descriptor, PRIVATE)
        except OSError as error:
            warn(f"{could}, and it cannot be made private: {error.strerror}")
        else:
            warn(f"{could}; it is {PRIVATE:04o} now")


def _name(user: int) -> str:
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return str(user)
