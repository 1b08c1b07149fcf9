"""The port for those who watch the gateway: on the server of the API, with its limits, but with pages of its own."""

from __future__ import annotations

import os
import platform
import shutil
import stat
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import twisted
from attrs import evolve, field, frozen
from twisted.internet.defer import Deferred

from component_http import __version__
from component_http.api.exchange import Answer, Call, Live, Problem, plain_text
from component_http.api.secrets import BySecret
from component_http.api.server import ApiServer
from component_http.certificates import end_of, server_endpoint
from component_http.contract.address import Address, NotAnAddress
from component_http.contract.endpoint import Endpoint
from component_http.contract.explanation import Explanation
from component_http.contract.pseudonym import Pseudonyms
from component_http.interfaces.tracer import Tracers
from component_http.log import Logger
from component_http.operations.catch_up import CatchUp
from component_http.operations.exposition import Exposition
from component_http.operations.lag import Lag
from component_http.operations.metrics import Counters, Durations
from component_http.operations.pages import WATCH, Pages
from component_http.operations.view import ComponentView, View, ended
from component_http.operations.watch import Watch, Which
from component_http.settings import OperationsSettings, Settings
from component_http.sizing import WATCHERS, operations_connections
from component_http.throttle import Folded

REQUEST_TIMEOUT = 10.0
"""Seconds that a request may take to come in, and that a connection may be idle between two of them."""

PER_SECOND = 20
"""
Requests that are answered in a second, and connections that are accepted: many more than those who watch need, and so
few that a thousand in a second hold no delivery up.
"""

MAX_BODY_BYTES = 1024
"""Bytes of a request's body that are read; none has one."""

NOT_PRIVATE = (
    "/watch shows what people write, and here every user of this machine could read it: name a token by"
    " operations.token_file, or listen at unix:PATH:mode=660"
)

_VERSIONS = {"version": __version__, "python": platform.python_version(), "twisted": twisted.__version__}


@frozen
class _Watcher:
    """Whoever has the token."""

    secret: str = field(repr=False)


class Operations:
    """
    Serves the pages from `start` to `stop`.

    Args:
        components: Shows each component that is served, by its domain.
        counters: Those of the gateway; a request without its token, or a connection too many, is among them.
        durations: Those of the gateway; the lag of the reactor is measured here.
        tracers: Tell watchers what happens to deliveries.
        explain: Says why a delivery waits, by its id; None where it does not.
        pseudonyms: Makes the names of addresses, for watchers who want names.
        certificates: Lists the files with certificates of ours, each behind the name of its setting.
        endpoint: The endpoint to listen at, instead of `operations.listen`.
    """

    _log = Logger()

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        components: Callable[[], Mapping[str, ComponentView]],
        counters: Counters,
        durations: Durations,
        tracers: Tracers,
        explain: Callable[[str], Explanation | None],
        pseudonyms: Callable[[], Pseudonyms],
        certificates: Callable[[], Sequence[tuple[str, str]]],
        *,
        endpoint: Any = None,
    ) -> None:
        self._components = components
        self._counters = counters
        self._certificates = certificates
        self._reactor = reactor
        self._began = reactor.seconds()
        self._spool = settings.spool.file()
        self._lag = Lag(reactor, durations.reactor_lag)
        self._catch_up = CatchUp(reactor, lambda: ended(counters))
        exposition = Exposition(self.view, durations, self._lag, reactor.seconds)
        token = settings.operations.token
        watchers = BySecret([] if token is None else [_Watcher(token)])
        is_token = None if token is None else lambda given: watchers.find(given) is not None
        self._pages = Pages(self.view, exposition, is_token)
        self._lines = Folded(reactor.seconds)
        self._settings = settings.operations
        self._pseudonyms = pseudonyms
        self._watch = Watch(tracers, explain, reactor, time.time, WATCHERS)
        listen = settings.operations.listen
        assert listen is not None
        self.server = ApiServer(
            self._admit,
            _nothing_to_finish,
            endpoint or server_endpoint(reactor, listen, settings.operations.client_ca_file, "operations"),
            counters,
            clock=reactor,
            max_connections=operations_connections(settings),
            max_body_bytes=MAX_BODY_BYTES,
            request_timeout=REQUEST_TIMEOUT,
            name="the port for operations",
            per_second=PER_SECOND,
        )

    def start(self) -> None:
        self._lag.start()
        self._catch_up.start()
        self.server.startService()

    def stop(self) -> Deferred[None]:
        self._lag.stop()
        self._catch_up.stop()
        return self.server.stopService()

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
            self._reactor.seconds() - self._began,
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

    def _admit(self, call: Call) -> Answer | Live:
        page = self._pages.answer(call.method, call.path, call.headers)
        if page is WATCH:
            try:
                return self._live(call)
            except Problem as problem:
                return plain_text(problem)
        if page.status == 401:
            self._counters.count("api_unauthorized")
            self._lines.write(
                "token", self._log.warn, "the port for operations was asked without its token, so nothing is told"
            )
        return Answer(page.status, page.body, page.media_type, page.headers)

    def _live(self, call: Call) -> Live:
        """Begin to tell a client of the conversations that it wants to watch."""
        if not _is_private(self._settings):
            raise Problem(403, NOT_PRIVATE)
        which = Which(_address(call, "from"), _address(call, "to"))
        raw, hashed = call.argument("raw") == "1", call.argument("hash") == "1"
        if raw and hashed:
            raise Problem(400, "raw shows what people write, with their addresses in it: ask for raw or for hash")
        watcher = self._watch.enter(which, raw=raw, show=self._pseudonyms().hide_value if hashed else None)
        if watcher is None:
            raise Problem(503, f"{WATCHERS} programs watch already, as many as may: end one of them")
        return Live(watcher, "application/x-ndjson")


def _address(call: Call, name: str) -> Address | None:
    given = call.argument(name)
    try:
        return None if given is None else Address.parse(given)
    except NotAnAddress as error:
        raise Problem(400, f"{name} is not an address: {error}") from None


def _is_private(operations: OperationsSettings) -> bool:
    """Say whether only those can ask whom the operator has given leave, and not every user of this machine."""
    if operations.token is not None or operations.client_ca_file is not None:
        return True
    endpoint = Endpoint.parse(operations.listen or "")
    try:
        return endpoint.kind == "unix" and not os.stat(endpoint.socket_path).st_mode & stat.S_IWOTH
    except OSError:
        return False


async def _nothing_to_finish() -> None:
    """Nothing that was begun goes on after its answer."""
