"""The room on a spool's disk: what is kept in reserve for when it is full, and whether there is some."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from component_http.errors import SettingsError
from component_http.spool.private import open_private

__all__ = ["BALLAST_BYTES", "LEAST_BYTES", "Ballast", "allocate_index", "is_no_room"]

BALLAST_BYTES = 16 * 1024 * 1024
"""The ballast of a disk that is large enough."""

LEAST_BYTES = 128 * 1024
"""A smaller ballast is of no use."""

SHARE = 4
"""The ballast is at most this part of what is free when it is made, so that a small disk is not filled by it."""

BESIDE = 2
"""
After a release, so many times the room of the ballast must be free before it is made again: else it would take what
the end of the emergency leaves, and be released again at once.
"""


class Ballast:
    """
    A file beside the spool that is there only to be given up.

    SQLite's log can neither be written nor emptied on a full disk, so not even what is over could be deleted.
    When that happens the ballast's room is given back, and what was accepted can end in it.

    Args:
        spool: The spool's file; this process has its lock.
        most: Bytes of it at most.

    Attributes:
        path: The file; of its blocks, not of its content, is its use.
    """

    def __init__(self, spool: Path, most: int = BALLAST_BYTES) -> None:
        self.path = Path(f"{spool}.ballast")
        self._most = most
        self._least = min(most, LEAST_BYTES)
        self._released = 0
        self._made = False

    def held(self) -> int:
        """Bytes that it has now."""
        try:
            found = self.path.lstat()
        except OSError:
            return 0
        return found.st_size if stat.S_ISREG(found.st_mode) else 0

    def need(self) -> int:
        """Bytes that must be free before it can be made again."""
        return max(self._released * BESIDE, self._least * SHARE)

    def hold(self) -> bool:
        """
        See that the file is there, and make it if not; the first time make it larger if it could be.

        Returns:
            Whether it is there: False means that the disk is as good as full.
        """
        held = self.held()
        if held >= self._least and self._made:
            return True
        free = self.free()
        least = max(self._least, self._released)
        # As much beside it shows that there is room for more than it, also where a quota is the limit and not the disk.
        size = max(least, min(self._most, (free + held) // SHARE))
        if held < least and free + held < self.need():
            return False
        while size > held and size >= least:
            if self._has(held, 2 * size, keep=size):
                held = size
                break
            size //= 2
        self._made = held >= least
        if self._made:
            self._released = 0
        return self._made

    def release(self) -> int:
        """
        Give its room back.

        Returns:
            The bytes it had.
        """
        held = self.held()
        try:
            descriptor = open_private(self.path, os.O_WRONLY)
            try:
                # Not removed: making a file again may need room, too.
                os.ftruncate(descriptor, 0)
            finally:
                os.close(descriptor)
        except (OSError, SettingsError):
            return 0
        self._released = max(self._released, held)
        self._made = False
        return held

    def has_room(self, size: int) -> bool:
        """Whether so many bytes can be written beside it; True as well where that cannot be found out."""
        held = self.held()
        return self._has(held, held + size, keep=held)

    def free(self) -> int:
        """Bytes that the file system has for this user; no quota is in that."""
        try:
            found = os.statvfs(self.path.parent)
        except OSError:
            return 0
        return found.f_bavail * found.f_frsize

    def _has(self, held: int, size: int, *, keep: int) -> bool:
        """Whether the file, which has so many bytes, can have `size`; then it is left with `keep`."""
        try:
            descriptor = open_private(self.path, os.O_RDWR | os.O_CREAT)
            try:
                try:
                    _allocate(descriptor, held, size - held)
                except OSError:
                    os.ftruncate(descriptor, held)
                    raise
                os.ftruncate(descriptor, keep)
            finally:
                os.close(descriptor)
        except OSError as error:
            return not is_no_room(error)
        except SettingsError:
            return True  # somebody has put something else in its place
        return True


def is_no_room(error: OSError) -> bool:
    """The disk is full, or what this user may have of it is."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def allocate_index(spool: Path, size: int) -> None:
    """
    Give SQLite's `-shm` file all the blocks of its first bytes; it is open, and stays as it is otherwise.

    SQLite writes to that file through memory. It sees to it that there are blocks, but for one byte in 4096: on a file
    system with smaller blocks the others are given when they are first written to, and if the disk is full then the
    process ends by SIGBUS.

    Args:
        spool: The spool's file, which a connection of this thread has open and has read.
        size: Bytes from the beginning.

    Raises:
        OSError: There is no room for it (`is_no_room`).
    """
    allocate = getattr(os, "posix_fallocate", None)
    if allocate is None:
        return
    with _own_descriptor(Path(f"{spool}-shm")) as descriptor:
        if descriptor is not None:
            try:
                allocate(descriptor, 0, size)
            except OSError as error:
                if is_no_room(error):
                    raise


@contextmanager
def _own_descriptor(path: Path) -> Iterator[int | None]:
    """
    The descriptor that this process has of a file already; None if it cannot be found.

    To open and close the file once more would end the locks that SQLite has on it.
    """
    found = None
    try:
        status = path.stat()
        for name in os.listdir("/proc/self/fd"):
            try:
                other = os.fstat(int(name))
            except OSError:
                continue
            if (other.st_dev, other.st_ino) == (status.st_dev, status.st_ino):
                found = int(name)
                break
    except OSError:
        pass
    yield found


def _allocate(descriptor: int, start: int, length: int) -> None:
    """Give a file blocks of its own, not only a length."""
    if length <= 0:
        return
    allocate = getattr(os, "posix_fallocate", None)
    if allocate is not None:
        try:
            allocate(descriptor, start, length)
            return
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
    # As random as possible, for a file system may leave zeros out.
    block = os.urandom(64 * 1024)
    for at in range(start, start + length, len(block)):
        os.pwrite(descriptor, block[: start + length - at], at)
