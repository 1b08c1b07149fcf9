"""The port for those who watch the gateway: on the server of the API, with its limits, but with pages of its own."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import twisted
from twisted.internet.defer import Deferred

from component_http import __version__
from component_http.api.exchange import Answer, Call
from component_http.api.server import ApiServer
from component_http.certificates import server_endpoint
from component_http.operations.exposition import Exposition
from component_http.operations.lag import Lag
from component_http.operations.metrics import Counters, Durations
from component_http.operations.pages import Pages
from component_http.operations.view import ComponentView, View
from component_http.settings import Settings
from component_http.sizing import operations_connections

REQUEST_TIMEOUT = 10.0
"""Seconds that a request may take to come in, and that a connection may be idle between two of them."""

MAX_BODY_BYTES = 1024
"""Bytes of a request's body that are read; none has one."""

_VERSIONS = {"version": __version__, "python": platform.python_version(), "twisted": twisted.__version__}


class Operations:
    """
    Serves the pages from `start` to `stop`.

    Args:
        components: Shows each component that is served, by its domain.
        counters: Those of the gateway; a request without its token, or a connection too many, is among them.
        durations: Those of the gateway; the lag of the reactor is measured here.
        endpoint: The endpoint to listen at, instead of `operations.listen`.
    """

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        components: Callable[[], Mapping[str, ComponentView]],
        counters: Counters,
        durations: Durations,
        *,
        endpoint: Any = None,
    ) -> None:
        self._components = components
        self._counters = counters
        self._reactor = reactor
        self._began = reactor.seconds()
        self._spool = settings.spool.file()
        self._lag = Lag(reactor, durations.reactor_lag)
        exposition = Exposition(self.view, durations, self._lag, reactor.seconds)
        self._pages = Pages(self.view, exposition, settings.operations.token)
        listen = settings.operations.listen
        assert listen is not None
        self.server = ApiServer(
            self._admit,
            _nothing_to_finish,
            endpoint or server_endpoint(reactor, listen, None, "operations"),
            counters,
            clock=reactor,
            max_connections=operations_connections(settings),
            max_body_bytes=MAX_BODY_BYTES,
            request_timeout=REQUEST_TIMEOUT,
            name="the port for operations",
        )

    def start(self) -> None:
        self._lag.start()
        self.server.startService()

    def stop(self) -> Deferred[None]:
        self._lag.stop()
        return self.server.stopService()

    def view(self) -> View:
        """Look at all of the gateway."""
        spool_bytes = disk_free_bytes = None
        if self._spool is not None:
            from component_http.spool.database import files as spool_files

            with suppress(OSError):
                spool_bytes = sum(os.stat(file).st_size for file in spool_files(self._spool) if file.exists())
                disk_free_bytes = shutil.disk_usage(self._spool.parent).free
        return View(
            self._components(),
            self._counters,
            spool_bytes,
            disk_free_bytes,
            self._reactor.seconds() - self._began,
            _VERSIONS,
        )

    def _admit(self, call: Call) -> Answer:
        page = self._pages.answer(call.method, call.path, call.headers)
        if page.status == 401:
            self._counters.count("api_unauthorized")
        return Answer(page.status, page.body, page.media_type, page.headers)


async def _nothing_to_finish() -> None:
    """Nothing that was begun goes on after its answer."""
