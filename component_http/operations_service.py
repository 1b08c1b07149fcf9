"""The port for those who watch the gateway: on the server of the API, with its limits, but with pages of its own."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from typing import Any

from attrs import field, frozen
from twisted.internet.defer import Deferred

from component_http.api.exchange import Answer, Call, Live, Problem, plain_text
from component_http.api.secrets import BySecret
from component_http.api.server import ApiServer
from component_http.certificates import server_endpoint
from component_http.contract.address import Address, NotAnAddress
from component_http.contract.endpoint import Endpoint
from component_http.contract.explanation import Explanation
from component_http.contract.pseudonym import Pseudonyms
from component_http.interfaces.tracer import Tracers
from component_http.log import Logger
from component_http.operations.exposition import Exposition
from component_http.operations.lag import Lag
from component_http.operations.metrics import Counters, Durations
from component_http.operations.pages import WATCH, Pages
from component_http.operations.view import View
from component_http.operations.watch import Watch, Which
from component_http.settings import OperationsSettings, Settings
from component_http.sizing import WATCHERS, operations_connections
from component_http.throttle import Folded

REQUEST_TIMEOUT = 10.0
"""Seconds that a request may take to come in, and that a connection may be idle between two of them."""

PER_SECOND = 5
"""
Requests that are answered in a second, and connections that are accepted: more than those who watch need, and so few
that a thousand in a second delay no delivery in a hundred.
"""

MAX_BODY_BYTES = 1024
"""Bytes of a request's body that are read; none has one."""

NOT_PRIVATE = (
    "/watch shows what people write, and here every user of this machine could read it: name a token by"
    " operations.token_file, or listen at unix:PATH:mode=660"
)


@frozen
class _Watcher:
    """Whoever has the token."""

    secret: str = field(repr=False)


class Operations:
    """
    Serves the pages from `start` to `stop`.

    Args:
        view: Looks at the gateway.
        counters: Those of the gateway; a request without its token, or a connection too many, is among them.
        durations: Those of the gateway; the lag of the reactor is measured here.
        tracers: Tell watchers what happens to deliveries.
        explain: Says why a delivery waits, by its id; None where it does not.
        pseudonyms: Makes the names of addresses, for watchers who want names.
        endpoint: The endpoint to listen at, instead of `operations.listen`.
    """

    _log = Logger()

    def __init__(
        self,
        settings: Settings,
        reactor: Any,
        view: Callable[[], View],
        counters: Counters,
        durations: Durations,
        tracers: Tracers,
        explain: Callable[[str], Explanation | None],
        pseudonyms: Callable[[], Pseudonyms],
        *,
        endpoint: Any = None,
    ) -> None:
        self._counters = counters
        self._lag = Lag(reactor, durations.reactor_lag)
        exposition = Exposition(view, durations, self._lag, reactor.seconds)
        token = settings.operations.token
        watchers = BySecret([] if token is None else [_Watcher(token)])
        is_token = None if token is None else lambda given: watchers.find(given) is not None
        self._pages = Pages(view, exposition, is_token)
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
        self.server.startService()

    def stop(self) -> Deferred[None]:
        self._lag.stop()
        return self.server.stopService()

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
