"""Looks at all of a gateway that runs, for those who watch it."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import twisted
from attrs import evolve
from twisted.internet.interfaces import IReactorTime

from component_http import __version__
from component_http.certificates import end_of
from component_http.operations.catch_up import CatchUp
from component_http.operations.metrics import Counters
from component_http.operations.view import ComponentView, View, ended

_VERSIONS = {"version": __version__, "python": platform.python_version(), "twisted": twisted.__version__}


class Lookout:
    """
    Looks from `start` to `stop`.

    Args:
        spool: The spool's file; None for a spool in memory.
        components: Shows each component that is served, by its domain.
        counters: Those of the gateway.
        certificates: Lists the files with certificates of ours, each behind the name of its setting.
    """

    def __init__(
        self,
        spool: Path | None,
        clock: IReactorTime,
        components: Callable[[], Mapping[str, ComponentView]],
        counters: Counters,
        certificates: Callable[[], Sequence[tuple[str, str]]],
    ) -> None:
        self._spool = spool
        self._clock = clock
        self._components = components
        self._counters = counters
        self._certificates = certificates
        self._began = clock.seconds()
        self._catch_up = CatchUp(clock, lambda: ended(counters))

    def start(self) -> None:
        self._catch_up.start()

    def stop(self) -> None:
        self._catch_up.stop()

    def view(self) -> View:
        """Look at all of the gateway."""
        spool_bytes = disk_free_bytes = None
        if self._spool is not None:
            from component_http.spool.database import files as spool_files

            with suppress(OSError):
                spool_bytes = sum(os.stat(file).st_size for file in spool_files(self._spool) if file.exists())
                disk_free_bytes = shutil.disk_usage(self._spool.parent).free
        view = View(
            self._components(),
            self._counters,
            spool_bytes,
            disk_free_bytes,
            self._clock.seconds() - self._began,
            _VERSIONS,
            certificates=self._own_certificates(),
        )
        return evolve(view, catch_up=self._catch_up.seconds_left(view.pending))

    def _own_certificates(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for key, path in self._certificates():
            ends = end_of(path)
            if ends is not None:
                found[key] = min(ends, found.get(key, ends))
        return found
