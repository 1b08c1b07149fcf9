"""
Real small file systems that can be filled to the last byte: a page quota shows nothing of what happens then.

To mount one takes root and a kernel that allows it; without, the test that wants one is skipped, and the summary says
so; with COMPONENT_HTTP_REQUIRE_SERVERS=1 (as in CI) that is a failure.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType

__all__ = ["NoSmallDisk", "SmallDisk"]


class NoSmallDisk(Exception):
    """This machine does not let us mount one."""


class SmallDisk:
    """
    A file system of its own, mounted until the end of the `with`.

    Args:
        kib: Its size.
        block: Bytes of a block: None for a tmpfs, whose pages are those of memory; else an ext4 in a file.

    Attributes:
        folder: Where it is mounted.
    """

    def __init__(self, kib: int, block: int | None = None) -> None:
        self._kib = kib
        self._block = block
        self._place = Path(tempfile.mkdtemp(prefix="component-http-disk-"))
        self._filler = 0
        self.folder = self._place / "disk"

    def __enter__(self) -> SmallDisk:
        self.folder.mkdir()
        try:
            if self._block is None:
                _run("mount", "-t", "tmpfs", "-o", f"size={self._kib}k,mode=700", "tmpfs", str(self.folder))
            else:
                image = self._place / "image"
                with open(image, "wb") as file:
                    file.truncate(self._kib * 1024)
                _run("mkfs.ext4", "-q", "-F", "-m", "0", "-b", str(self._block), str(image))
                _run("mount", "-o", "loop", str(image), str(self.folder))
        except (OSError, subprocess.CalledProcessError) as error:
            shutil.rmtree(self._place)
            raise NoSmallDisk(f"a small disk cannot be mounted: {error}") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(subprocess.CalledProcessError):
            # Lazily: a test that fails may leave a file of it open.
            _run("umount", "-l", str(self.folder))
        shutil.rmtree(self._place, ignore_errors=True)

    def free(self) -> int:
        """Bytes that can still be written."""
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def fill(self, leave: int = 0) -> None:
        """
        Write into one file after another until nothing more fits in.

        Args:
            leave: Bytes that are given back then.
        """
        self._filler += 1
        with open(self.folder / f"filler-{self._filler}", "wb", buffering=0) as file:
            for size in (256 * 1024, 4096, 512, 1):
                with suppress(OSError):
                    while file.write(b"x" * size) == size:
                        pass
            if leave:
                os.ftruncate(file.fileno(), max(0, os.fstat(file.fileno()).st_size - leave))
                os.fsync(file.fileno())

    def clear(self) -> None:
        """Remove what `fill` has written."""
        for file in self.folder.glob("filler-*"):
            file.unlink()


def _run(*command: str) -> None:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PATH": path})
