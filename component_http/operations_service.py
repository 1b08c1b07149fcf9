"""The port for those who watch the gateway: on the server of the API, with its limits, but with pages of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import field, frozen
from twisted.internet.defer import Deferred

from component_http.api.exchange import Answer, Call
from component_http.api.secrets import BySecret
from component_http.api.server import ApiServer
from component_http.certificates import server_endpoint
from component_http.log import Logger
from component_http.operations.exposition import Exposition
from component_http.operations.lag import Lag
from component_http.operations.metrics import Counters, Durations
from component_http.operations.pages import Pages
from component_http.operations.view import View
from component_http.settings import Settings
from component_http.sizing import operations_connections
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

    def _admit(self, call: Call) -> Answer:
        page = self._pages.answer(call.method, call.path, call.headers)
        if page.status == 401:
            self._counters.count("api_unauthorized")
            self._lines.write(
                "token", self._log.warn, "the port for operations was asked without its token, so nothing is told"
            )
        return Answer(page.status, page.body, page.media_type, page.headers)


async def _nothing_to_finish() -> None:
    """Nothing that was begun goes on after its answer."""
