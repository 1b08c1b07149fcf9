"""The room on a spool's disk: how much there is, and the ballast that is kept for when there is none."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

from component_http.errors import SettingsError
from component_http.spool.private import open_private

BALLAST_BYTES = 16 * 1024 * 1024
"""Bytes of the ballast on a disk that is large enough."""

LEAST_BYTES = 128 * 1024
"""A smaller ballast is of no use."""

INDEX_BYTES = 128 * 1024
"""
Bytes of the write-ahead log's index that have blocks of their own: enough for 64 MiB of the log, which is that long
only while another program goes on reading.
"""

SHARE = 4
"""The ballast is at most this part of what is free when it is made, so that a small disk is not filled by it."""

BESIDE = 2
"""
After a release, so many times the room of the ballast must be free before it is made again: else it would take all the
room that is left, and be released again at once.
"""


class Ballast:
    """
    A file beside the spool that is released when the disk is full.

    On a full disk SQLite can neither write its log nor empty it, so not even a delivery that has ended could be
    deleted.
    Deliveries that were accepted end in the room that the ballast gives back.

    Args:
        spool: The spool's file; this process has its lock.
        most: Bytes of the ballast at most.

    Attributes:
        path: The ballast's file; its blocks are needed, its content is not.
    """

    def __init__(self, spool: Path, most: int = BALLAST_BYTES) -> None:
        self.path = Path(f"{spool}.ballast")
        self._most = most
        self._least = min(most, LEAST_BYTES)
        self._released = 0
        self._made = False

    def held(self) -> int:
        try:
            found = self.path.lstat()
        except OSError:
            return 0
        return found.st_size if stat.S_ISREG(found.st_mode) else 0

    def need(self) -> int:
        """Bytes that must be free before the ballast can be made again."""
        return max(self._released * BESIDE, self._least * SHARE)

    def hold(self) -> bool:
        """
        Make the ballast if it is not there, and the first time make it larger if there is room.

        Returns whether the ballast is there: False means that the disk is as good as full.
        """
        held = self.held()
        if held >= self._least and self._made:
            return True
        free = self.free()
        least = max(self._least, self._released)
        # Room for twice as much is tried: a quota may be the limit, which `free` does not know.
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
        """Give the ballast's room back; returns the bytes that it had."""
        held = self.held()
        try:
            descriptor = open_private(self.path, os.O_WRONLY)
            try:
                # The file stays: making it again might need room, too.
                os.ftruncate(descriptor, 0)
            finally:
                os.close(descriptor)
        except (OSError, SettingsError):
            return 0
        self._released = max(self._released, held)
        self._made = False
        return held

    def has_room(self, size: int) -> bool:
        """Say whether so many bytes can be written beside the ballast; True where that cannot be found out."""
        held = self.held()
        return self._has(held, held + size, keep=held)

    def free(self) -> int:
        """Bytes that the file system has for this user; a quota is not taken into account."""
        try:
            found = os.statvfs(self.path.parent)
        except OSError:
            return 0
        return found.f_bavail * found.f_frsize

    def _has(self, held: int, size: int, *, keep: int) -> bool:
        """Say whether the file, which has `held` bytes, can have `size` bytes; afterwards it has `keep`."""
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
    """Say whether an error means that the disk, or this user's quota, is full."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def allocate_index(spool: Path) -> bool:
    """
    Give SQLite's `-shm` file blocks for its first `INDEX_BYTES`; returns whether there was room. Its content stays.

    Without this a full disk ends the process by SIGBUS where a file system has blocks smaller than memory's pages (an
    ext4 below 512 MiB): SQLite writes to that file through memory, and allocates only one block for each 4096 bytes. A
    connection of this thread has the file open and has read it.
    """
    descriptor = _own_descriptor(Path(f"{spool}-shm"))
    if descriptor is not None and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, INDEX_BYTES)
        except OSError as error:
            return not is_no_room(error)
    return True


def _own_descriptor(path: Path) -> int | None:
    """
    Find the descriptor by which this process has a file open: opening and closing it again would end SQLite's locks.
    """
    with suppress(OSError):
        status = path.stat()
        for name in os.listdir("/proc/self/fd"):
            with suppress(OSError):
                if os.path.samestat(os.fstat(int(name)), status):
                    return int(name)
    return None


def _allocate(descriptor: int, start: int, length: int) -> None:
    """Give a file real blocks, not only a length."""
    if length > 0:
        try:
            os.posix_fallocate(descriptor, start, length)
        except (AttributeError, OSError) as error:  # macOS lacks it, and musl on some file systems
            if isinstance(error, OSError) and is_no_room(error):
                raise
            # Random bytes, for a file system may leave zeros out.
            os.pwrite(descriptor, os.urandom(length), start)
