"""What a process takes for the time of day, by libfaketime; its monotonic clock stays true."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tests.integration.closing import Closing
from tests.integration.counterparts import need_library

__all__ = ["WallClock"]


class WallClock(Closing):
    """
    A clock that the test sets.

    Attributes:
        environment: What the process needs.
    """

    def __init__(self) -> None:
        library = need_library("*/faketime/libfaketime.so.1", "faketime")
        self._folder = Path(tempfile.mkdtemp(prefix="component-http-clock-"))
        self.environment: Mapping[str, str] = {
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": str(self._folder / "offset"),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",  # its name before version 0.9.10
            "NO_FAKE_STAT": "1",
            # Else a thread that asks for Python's lock, with a time limit by the monotonic clock, waits far longer.
            "FAKETIME_FORCE_MONOTONIC_FIX": "0",
        }
        self.set(0)

    def set(self, hours: float) -> None:
        """Let it be so many hours later than it is."""
        aside = self._folder / "next"
        aside.write_text(f"{hours * 3600:+.0f}\n")
        aside.rename(self._folder / "offset")

    def close(self) -> None:
        """Delete what the process reads."""
        shutil.rmtree(self._folder, ignore_errors=True)
