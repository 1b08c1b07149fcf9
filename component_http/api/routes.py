"""The routes of the API: where a request goes, who may make it, and how an error is told there."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping
from functools import partial
from urllib.parse import unquote

from attrs import evolve, frozen
from twisted.internet.defer import CancelledError
from twisted.python.failure import Failure

from component_http.api import hooks, openapi, post_msg, rest, v1
from component_http.api.deliveries import NO_LOG, Deliveries
from component_http.api.desk import Desk
from component_http.api.exchange import Admitted, Answer, Call, Problem, json_answer, plain_text, problem_json
from component_http.api.hooks import Hook
from component_http.api.links import ReplyLinks
from component_http.api.reading import unpacked
from component_http.api.secrets import BySecret
from component_http.api.tokens import Token, Tokens, check_rate
from component_http.interfaces import Observer, Origin
from component_http.log import Logger
from component_http.throttle import Folded

_CarryOut = Callable[[Call], Awaitable[Answer]]
_Endpoint = Callable[[Call, Mapping[str, str]], _CarryOut]

_STANZAS = {"messages": ("message",), "presences": ("presence",), "stanzas": ("message", "presence", "iq")}
_SHORTCUTS = ("disco", "items", "ping", "version")


@frozen
class Route:
    """
    One method of one path.

    Attributes:
        method: `GET` or `POST`.
        path: The path; `{name}` is any one part of it, and as its last part an address that may have slashes.
        endpoint: Judges a request by all but its body, and returns the function that carries it out with the body.
        open_to_all: Whether it needs no secret of ours.
        by_url: Whether its secret is a part of the URL, and no token.
    """

    method: str
    path: str
    endpoint: _Endpoint
    open_to_all: bool = False
    by_url: bool = False

    def match(self, parts: list[str]) -> dict[str, str] | None:
        """Return the named parts of a path; None if the path is not this route's."""
        pattern = self.path.strip("/").split("/")
        if len(parts) > len(pattern) and pattern[-1] in ("{jid}", "{to}"):
            parts = [*parts[: len(pattern) - 1], "/".join(parts[len(pattern) - 1 :])]
        if len(parts) != len(pattern):
            return None
        found = {}
        for name, part in zip(pattern, parts, strict=True):
            if name.startswith("{") and part:
                found[name.strip("{}")] = part
            elif name != part:
                return None
        return found


class Api:
    """
    The whole API, as a function from a request to its answer.

    Args:
        observer: Told `api_refused`, `api_unauthorized`, `api_limited` and `api_failed`.
        wake: Asks the webhook at once, and returns what its client is told.
        deliveries: Those that have ended.
        max_body_bytes: The most bytes that a compressed body may unpack to.
        seconds: A clock that does not go back.
    """

    _log = Logger()

    def __init__(
        self,
        desk: Desk,
        tokens: Tokens,
        hooks: BySecret[Hook],
        observer: Observer,
        *,
        links: ReplyLinks,
        wake: Callable[[], Mapping[str, object]],
        deliveries: Deliveries = NO_LOG,
        version: str,
        max_body_bytes: int,
        seconds: Callable[[], float],
    ) -> None:
        self._desk = desk
        self._tokens = tokens
        self._hooks = hooks
        self._observer = observer
        self._links = links
        self._wake_webhook = wake
        self._deliveries = deliveries
        self._max_body_bytes = max_body_bytes
        self._seconds = seconds
        self._description = json_answer(200, openapi.document(version))
        self._lines = Folded(seconds)
        self.routes = tuple(self._all_routes())

    @property
    def origins(self) -> MutableMapping[str, Origin]:
        """The components that stanzas may come from, by their domains."""
        return self._desk.origins

    def use(self, tokens: Tokens, hooks: BySecret[Hook]) -> None:
        """Let these in from now on, and nobody else."""
        self._tokens, self._hooks = tokens, hooks

    def _all_routes(self) -> Iterator[Route]:
        for name, kinds in _STANZAS.items():
            yield Route("POST", f"/v1/{name}", self._with_token(v1.push, kinds=kinds))
        yield Route("POST", "/v1/iq", self._with_token(v1.ask))
        for name in _SHORTCUTS:
            yield Route("GET", f"/v1/{name}/{{jid}}", self._with_token(v1.ask_by_name, name=name))
        yield Route("POST", "/v1/deliveries/{id}/reply", self._late_reply, by_url=True)
        yield Route("POST", "/v1/webhook/wake", self._for_admins(self._woken))
        yield Route("GET", "/v1/deliveries", self._for_admins(self._deliveries.list))
        yield Route("GET", "/v1/deliveries/{delivery_id}", self._for_admins(self._deliveries.show))
        yield Route("POST", "/v1/deliveries/{delivery_id}/replay", self._for_admins(self._deliveries.post_again))
        yield Route("GET", "/v1/openapi.json", self._openapi, open_to_all=True)
        yield Route("POST", "/hooks/{secret}", self._hook, by_url=True)
        for path in ("/msg", "/msg/{jid}"):
            yield Route("POST", path, self._with_token(post_msg.post))
        for path in ("/rest", "/rest/{kind}/{type}/{to}"):
            yield Route("POST", path, self._with_token(rest.post))
        yield Route("GET", "/rest/{query}/{to}", self._with_token(rest.get))

    def admit(self, call: Call) -> Admitted | Answer:
        """
        Judge a request before its body is in: its path, its method, who makes it, and how often.

        Args:
            call: The request, without its body.

        Returns:
            The admitted request; or the answer that it gets whatever its body is.
        """
        try:
            found = self._route(call)
            if isinstance(found, Answer):
                return found
            route, parts = found
            carry_out = partial(self._carried_out, call, route.endpoint(call, parts))
            return Admitted(carry_out, not route.open_to_all, route.by_url)
        except Exception as error:
            return self._failed(call, error)

    async def _carried_out(self, call: Call, carry_out: _CarryOut, body: bytes | None) -> Answer:
        try:
            return await carry_out(evolve(call, body=unpacked(call, body, self._max_body_bytes)))
        except CancelledError:
            raise
        except Exception as error:
            return self._failed(call, error)

    def _failed(self, call: Call, error: Exception) -> Answer:
        if isinstance(error, Problem):
            self._count(error)
            return _told(call, error)
        self._observer.count("api_failed")
        self._log.failure("a request to the API failed: internal error", failure=Failure(error))
        return _told(call, Problem(500, "internal error: the log of the gateway has it"))

    def _route(self, call: Call) -> tuple[Route, Mapping[str, str]] | Answer:
        """Return the route of a request and the named parts of its path, or the answer to a request of OPTIONS."""
        if call.method == "CONNECT" or call.path == "*":
            # RFC 9110 sections 9.3.6 and 9.3.7: CONNECT asks for a proxy, and * for the methods of the whole server.
            return self._allowing(call, {route.method for route in self.routes})
        parts = _parts(call.path)
        matches = [(route, found) for route in self.routes if (found := route.match(parts)) is not None]
        if not matches:
            raise Problem(404, "there is nothing at this path: see /v1/openapi.json")
        method = "GET" if call.method == "HEAD" else call.method
        for route, found in matches:
            if route.method == method:
                return route, found
        return self._allowing(call, {route.method for route, _ in matches})

    def _allowing(self, call: Call, methods: set[str]) -> Answer:
        allowed = ", ".join(sorted(methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())))
        if call.method == "OPTIONS":
            return Answer(204, headers={"Allow": allowed})
        raise Problem(405, f"this path takes {allowed}", headers={"Allow": allowed})

    def _count(self, problem: Problem) -> None:
        reason = problem.detail
        if problem.status == 401:
            self._observer.count("api_unauthorized")
            self._lines.write("401", self._log.warn, "a request to the API was not let in: {reason}", reason=reason)
        elif problem.status == 429:
            self._observer.count("api_limited")
            self._lines.write("429", self._log.warn, "a client of the API is over its rate, and told to wait")
        elif problem.status < 500:
            self._observer.count("api_refused")
            if problem.status == 403:
                line = "a client of the API asked for something that it may not do: {reason}"
                self._lines.write("403", self._log.warn, line, reason=reason)

    # -- the endpoints --

    def _with_token(self, work: Callable[..., Awaitable[Answer]], **options: object) -> _Endpoint:
        """Make an endpoint for clients with a token; the work takes the named parts of the path as arguments."""

        def endpoint(call: Call, found: Mapping[str, str]) -> _CarryOut:
            caller = self._caller(call)
            return lambda call: work(self._desk, call, caller, **found, **options)

        return endpoint

    def _caller(self, call: Call) -> Token:
        caller = self._tokens.identify(call.headers.get("authorization"))
        check_rate(caller.rate, self._seconds())
        return caller

    def _late_reply(self, call: Call, found: Mapping[str, str]) -> _CarryOut:
        late = self._links.open(found["id"], call.argument("seal") or "")
        return lambda call: v1.late_reply(self._desk, call, self._links, found["id"], late)

    def _openapi(self, call: Call, found: Mapping[str, str]) -> _CarryOut:
        return self._describe

    async def _describe(self, call: Call) -> Answer:
        return self._description

    def _for_admins(self, work: Callable[..., Awaitable[Answer]]) -> _Endpoint:
        """Make an endpoint for clients that may control the gateway itself."""

        def endpoint(call: Call, found: Mapping[str, str]) -> _CarryOut:
            self._caller(call).check_admin()
            return lambda call: work(call, **found)

        return endpoint

    async def _woken(self, call: Call) -> Answer:
        return json_answer(200, self._wake_webhook())

    def _hook(self, call: Call, found: Mapping[str, str]) -> _CarryOut:
        hook = self._hooks.find(found["secret"])
        if hook is None:
            raise Problem(404, "there is no hook with this secret")
        check_rate(hook.rate, self._seconds())
        return lambda call: hooks.post(self._desk, call, hook)


def _parts(path: str) -> list[str]:
    """Split a path, and decode each part."""
    try:
        return [unquote(part, errors="strict") for part in path.strip("/").split("/")]
    except UnicodeDecodeError:
        raise Problem(400, "the path is not UTF-8") from None


def _told(call: Call, problem: Problem) -> Answer:
    """Tell a problem as the clients of the path's shape expect it."""
    first = re.match(r"/*([^/]*)", call.path)
    shape = first[1] if first else ""
    if shape == "rest":
        return rest.problem(call, problem)
    return plain_text(problem) if shape == "msg" else problem_json(problem)
