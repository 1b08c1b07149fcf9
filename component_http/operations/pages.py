"""The pages for those who watch a gateway."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from attrs import field, frozen

from component_http.operations.exposition import MEDIA_TYPE, Exposition
from component_http.operations.view import View

_TEXT = "text/plain; charset=utf-8"


@frozen
class Page:
    """The answer to a request."""

    status: int
    body: bytes
    media_type: str = _TEXT
    headers: Mapping[str, str] = field(factory=dict)


_ALIVE = Page(200, b"alive\n")
_READY = Page(200, b"ready\n")
WATCH = Page(200, b"")
"""The answer goes on; whoever answers requests has it."""

_NOT_FOUND = Page(404, b"there are /metrics, /healthz, /readyz, /status and /watch\n")
_NOT_ALLOWED = Page(405, b"only GET and HEAD\n", headers={"Allow": "GET, HEAD"})
_UNAUTHORIZED = Page(
    401, b"the token of [operations] is needed: Authorization: Bearer ...\n", headers={"WWW-Authenticate": "Bearer"}
)


class Pages:
    """
    Answers requests.

    Args:
        view: Gives the state of now.
        exposition: Writes the metrics.
        is_token: Tells the token that must come with each request but for `/healthz`; None if none is needed.
    """

    def __init__(
        self, view: Callable[[], View], exposition: Exposition, is_token: Callable[[str], bool] | None
    ) -> None:
        self._view = view
        self._exposition = exposition
        self._is_token = is_token

    def answer(self, method: str, path: str, headers: Mapping[str, str]) -> Page:
        """Answer a request; the names of header fields are in lower case."""
        if method not in ("GET", "HEAD"):
            return _NOT_ALLOWED
        if path == "/healthz":
            return _ALIVE
        if not self._may(headers.get("authorization", "")):
            return _UNAUTHORIZED
        if path == "/metrics":
            return Page(200, self._exposition.text(), MEDIA_TYPE)
        if path == "/readyz":
            obstacles = self._view().obstacles
            return Page(503, "".join(f"{each}\n" for each in obstacles).encode()) if obstacles else _READY
        if path == "/status":
            return Page(200, json.dumps(self._view().as_json(), indent=2).encode() + b"\n", "application/json")
        return WATCH if (method, path) == ("GET", "/watch") else _NOT_FOUND

    def _may(self, authorization: str) -> bool:
        scheme, _, given = authorization.partition(" ")
        return self._is_token is None or (scheme.lower() == "bearer" and self._is_token(given.strip()))
