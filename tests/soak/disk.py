"""A real file system that is small enough to be filled."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from tests.integration.closing import Closing
from tests.integration.counterparts import unusable

__all__ = ["SmallDisk"]

CHUNK = bytes(65536)


class SmallDisk(Closing):
    """
    A tmpfs of its own; only root may mount one.

    Args:
        mib: Its size.

    Attributes:
        path: Where it is mounted.
    """

    def __init__(self, mib: int) -> None:
        if os.geteuid() != 0:
            unusable("only root can mount a small file system")
        self.path = Path(tempfile.mkdtemp(prefix="component-http-disk-"))
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "tmpfs", str(self.path)],
            capture_output=True,
            text=True,
        )
        if mounted.returncode:
            self.path.rmdir()
            unusable(f"no file system can be mounted here: {mounted.stderr.strip()}")
        self._filler = self.path / "filler"

    def fill(self) -> int:
        """Write another file until nothing more fits; returns its size."""
        with suppress(OSError), open(self._filler, "ab", buffering=0) as file:
            while file.write(CHUNK) == len(CHUNK):
                pass
        with suppress(OSError), open(self._filler, "ab", buffering=0) as file:
            while file.write(bytes(512)) == 512:
                pass
        return self._filler.stat().st_size

    def free(self) -> None:
        """Delete that file."""
        self._filler.unlink(missing_ok=True)

    def room(self) -> int:
        """Bytes that are free."""
        return shutil.disk_usage(self.path).free

    def close(self) -> None:
        """Unmount it, whoever still uses it."""
        for how in ([], ["-l"]):
            if subprocess.run(["umount", *how, str(self.path)], capture_output=True).returncode == 0:
                break
        with suppress(OSError):
            self.path.rmdir()
