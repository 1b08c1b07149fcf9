"""Which request goes where, who may make it, and how an error is told there."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Literal
from urllib.parse import unquote

from attrs import frozen
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from component_http.api import hooks, openapi, post_msg, rest, v1
from component_http.api.desk import Desk
from component_http.api.exchange import Answer, Call, Problem, json_answer, plain_text, problem_json
from component_http.api.hooks import Hooks
from component_http.api.tokens import Caller, Tokens, see_rate
from component_http.interfaces import Observer
from component_http.notices import LOG_INTERVAL, Notices

__all__ = ["Api", "Route", "Shape"]

Shape = Literal["v1", "hooks", "msg", "rest"]

_Endpoint = Callable[[Call, Mapping[str, str]], Awaitable[Answer]]

_SHORTCUTS = ("disco", "items", "ping", "version")


@frozen
class Route:
    """
    One method of one path.

    Attributes:
        method: `GET` or `POST`.
        path: The path; `{name}` is any one part of it, and as its last part an address that may have slashes.
        shape: Whose way of telling errors it has.
        endpoint: Carries it out.
    """

    method: str
    path: str
    shape: Shape
    endpoint: _Endpoint

    def match(self, parts: list[str]) -> dict[str, str] | None:
        """The named parts of a path that is this route's, or None."""
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
    All of the API, as a function from a request to its answer.

    Args:
        desk: Sends and asks.
        tokens: Who may.
        hooks: The URLs that need none.
        observer: Told `api_refused`, `api_unauthorized`, `api_limited` and `api_failed`.
        link_key: What the links of late replies are made with.
        wake: Asks the webhook at once, and says how it is.
        version: Of this program.
        seconds: A clock that does not go back.
        now: The wall clock, seconds since the epoch.

    Attributes:
        routes: All that there are.
    """

    _log = Logger()

    def __init__(
        self,
        desk: Desk,
        tokens: Tokens,
        hooks: Hooks,
        observer: Observer,
        *,
        link_key: bytes,
        wake: Callable[[], str],
        version: str,
        seconds: Callable[[], float],
        now: Callable[[], float],
    ) -> None:
        self._desk = desk
        self._tokens = tokens
        self._hooks = hooks
        self._observer = observer
        self._link_key = link_key
        self._wake_webhook = wake
        self._version = version
        self._seconds = seconds
        self._now = now
        self._notices = Notices(LOG_INTERVAL)
        self.routes = tuple(self._all_routes())

    def _all_routes(self) -> Iterator[Route]:
        for path, kinds in (
            ("/v1/messages", ("message",)),
            ("/v1/presences", ("presence",)),
            ("/v1/stanzas", ("message", "presence", "iq")),
        ):
            yield Route("POST", path, "v1", partial(self._push, kinds))
        yield Route("POST", "/v1/iq", "v1", self._ask)
        for name in _SHORTCUTS:
            yield Route("GET", f"/v1/{name}/{{jid}}", "v1", partial(self._ask_by_name, name))
        yield Route("POST", "/v1/deliveries/{id}/reply", "v1", self._late_reply)
        yield Route("POST", "/v1/webhook/wake", "v1", self._wake)
        yield Route("GET", "/v1/openapi.json", "v1", self._openapi)
        yield Route("POST", "/hooks/{secret}", "hooks", self._hook)
        yield Route("POST", "/msg", "msg", self._post_msg)
        yield Route("POST", "/msg/{jid}", "msg", self._post_msg)
        yield Route("POST", "/rest", "rest", self._rest)
        yield Route("POST", "/rest/{kind}/{type}/{to}", "rest", self._rest)
        yield Route("GET", "/rest/{query}/{to}", "rest", self._rest_query)

    async def handle(self, call: Call) -> Answer:
        """Carry out a request, or say what is wrong with it; raises nothing but `CancelledError`."""
        try:
            return await self._handled(call)
        except Problem as problem:
            self._count(problem)
            return _told(call, problem)
        except CancelledError:
            raise
        except Exception:
            self._observer.count("api_failed")
            self._log.failure("a request to the API failed by a mistake of ours")
            return _told(call, Problem(500, "a mistake of ours: the log of the gateway has it"))

    async def _handled(self, call: Call) -> Answer:
        parts = _parts(call.path)
        matches = [(route, found) for route in self.routes if (found := route.match(parts)) is not None]
        if not matches:
            raise Problem(404, "there is nothing at this path: see /v1/openapi.json")
        methods = {route.method for route, _ in matches}
        allowed = ", ".join(sorted(methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())))
        if call.method == "OPTIONS":
            return Answer(204, headers={"Allow": allowed})
        method = "GET" if call.method == "HEAD" else call.method
        for route, found in matches:
            if route.method == method:
                return await route.endpoint(call, found)
        raise Problem(405, f"this path takes {allowed}", headers={"Allow": allowed})

    def _count(self, problem: Problem) -> None:
        if problem.status == 401:
            self._observer.count("api_unauthorized")
            if self._notices.may_tell("api_unauthorized", self._seconds()):
                self._log.warn("a request to the API was not let in: {reason}", reason=problem.detail)
        elif problem.status == 429:
            self._observer.count("api_limited")
            if self._notices.may_tell("api_limited", self._seconds()):
                self._log.warn("a client of the API is over its rate, and told to wait")
        elif problem.status < 500:
            self._observer.count("api_refused")

    # -- the endpoints --

    async def _push(self, kinds: tuple[str, ...], call: Call, found: Mapping[str, str]) -> Answer:
        return await v1.push(self._desk, call, self._caller(call), kinds)

    async def _ask(self, call: Call, found: Mapping[str, str]) -> Answer:
        return await v1.ask(self._desk, call, self._caller(call))

    async def _ask_by_name(self, name: str, call: Call, found: Mapping[str, str]) -> Answer:
        return await v1.ask_by_name(self._desk, call, self._caller(call), name, found["jid"], self._seconds)

    async def _late_reply(self, call: Call, found: Mapping[str, str]) -> Answer:
        return await v1.late_reply(self._desk, call, self._link_key, found["id"], self._now)

    async def _wake(self, call: Call, found: Mapping[str, str]) -> Answer:
        self._caller(call).token.see_admin()
        return json_answer(200, {"webhook": self._wake_webhook()})

    async def _openapi(self, call: Call, found: Mapping[str, str]) -> Answer:
        return json_answer(200, openapi.document(self._version))

    async def _hook(self, call: Call, found: Mapping[str, str]) -> Answer:
        hook = self._hooks.find(found["secret"])
        see_rate(hook.rate, self._seconds())
        return await hooks.post(self._desk, call, hook)

    async def _post_msg(self, call: Call, found: Mapping[str, str]) -> Answer:
        return await post_msg.post(self._desk, call, self._caller(call), found.get("jid"))

    async def _rest(self, call: Call, found: Mapping[str, str]) -> Answer:
        return await rest.post(
            self._desk, call, self._caller(call), found.get("kind", ""), found.get("type", ""), found.get("to", "")
        )

    async def _rest_query(self, call: Call, found: Mapping[str, str]) -> Answer:
        return await rest.get(self._desk, call, self._caller(call), found["query"], found["to"])

    def _caller(self, call: Call) -> Caller:
        caller = self._tokens.identify(call.headers.get("authorization"))
        see_rate(caller.token.rate, self._seconds())
        return caller


def _parts(path: str) -> list[str]:
    """The parts of a path, decoded each for itself."""
    try:
        return [unquote(part, errors="strict") for part in path.strip("/").split("/")]
    except UnicodeDecodeError:
        raise Problem(400, "the path is not UTF-8") from None


def _told(call: Call, problem: Problem) -> Answer:
    """Tell a problem in the way of the shape that the path belongs to."""
    first = re.match(r"/*([^/]*)", call.path)
    shape = first[1] if first else ""
    if shape == "rest":
        return rest.problem(call, problem)
    return plain_text(problem) if shape == "msg" else problem_json(problem)
