"""A request and its answer as values, and the ways to tell an error."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Protocol
from urllib.parse import parse_qsl

from attrs import field, frozen

from component_http.contract.http import JSON, PROBLEM_JSON, TEXT, charset, media_type

MAX_FIELDS = 100
"""The most fields of a form or a query; ten are usual."""

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@frozen
class Call:
    """
    One HTTP request.

    Attributes:
        path: The path as it came, percent-encoded, without the query.
        headers: Field values by lower-case name.
        body: The body's bytes; None when it was larger than is read.
    """

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(factory=dict)
    body: bytes | None = b""

    @property
    def media_type(self) -> str:
        """The media type of the body, in lower case and without parameters; "" if the request names none."""
        return media_type(self.headers.get("content-type", ""))

    @property
    def charset(self) -> str:
        """The charset of the body; UTF-8 if the request names none."""
        return charset(self.headers.get("content-type", "")) or "utf-8"

    def argument(self, name: str) -> str | None:
        """Read a field of the query, or None. Raises `Problem` if the query is malformed, or has the field twice."""
        try:
            found = [value for key, value in fields(self.query) if key == name]
        except ValueError as error:
            raise Problem(400, f"the query cannot be read: {error}") from None
        if len(found) > 1:
            raise Problem(400, f"{name} is in the query twice")
        return found[0] if found else None


def fields(text: str, charset: str = "utf-8") -> list[tuple[str, str]]:
    """Read a form or a query. Raises `ValueError` if it has too many fields, or they are not in the charset."""
    return parse_qsl(text, keep_blank_values=True, encoding=charset, errors="strict", max_num_fields=MAX_FIELDS)


@frozen
class Answer:
    """
    One HTTP response.

    Attributes:
        media_type: The media type of the body; not sent without a body.
    """

    status: int
    body: bytes = b""
    media_type: str = JSON
    headers: Mapping[str, str] = field(factory=dict)


class Feed(Protocol):
    """The body of a response that goes on until somebody ends it."""

    def begin(self, write: Callable[[bytes], object]) -> None:
        """Write from now on, whatever comes and whenever."""

    def pause(self) -> None:
        """Write nothing until `resume`, because the client does not read."""

    def resume(self) -> None:
        """Write again."""

    def stop(self) -> None:
        """Write nothing any more: the client is gone, or the connection is closed."""


@frozen
class Live:
    """A response of status 200 to a client with a secret of ours, whose body goes on."""

    feed: Feed
    media_type: str


@frozen
class Admitted:
    """
    A request that is let in, judged by its head.

    Attributes:
        carry_out: Makes the answer from the body, or from None if the body is larger than is read.
        known: Whether the client has shown a secret of ours: a token, a hook's URL, or a link to reply by. If not, its
            body is not read.
        by_url: Whether that secret is a part of the URL, and no token: many programs may have it.
    """

    carry_out: Callable[[bytes | None], Awaitable[Answer]]
    known: bool
    by_url: bool = False


class Problem(Exception):
    """
    A request that is not carried out.

    Args:
        status: The HTTP status of the answer.
        detail: A sentence for the person who wrote the client; nothing of a secret is in it.
        condition: The condition in mod_rest's shape, if another one fits better than the status's.
        members: Further members of the JSON, for machines.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        condition: str = "",
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.condition = condition
        self.headers = dict(headers or {})
        self.members = dict(members or {})


def json_answer(status: int, value: object, headers: Mapping[str, str] | None = None) -> Answer:
    """Make an answer with JSON in its body."""
    return Answer(status, _encode(value).encode("utf-8", "replace"), JSON, headers or {})


def problem_json(problem: Problem) -> Answer:
    """Tell a problem as RFC 9457 says (`application/problem+json`)."""
    status, title = problem.status, HTTPStatus(problem.status).phrase
    value = {"type": "about:blank", "title": title, "status": status, "detail": problem.detail, **problem.members}
    return Answer(status, _encode(value).encode("utf-8", "replace"), PROBLEM_JSON, problem.headers)


def plain_text(problem: Problem) -> Answer:
    """Tell a problem in one line of text, for a person with curl."""
    text = f"{problem.detail}\n".encode("utf-8", "replace")
    return Answer(problem.status, text, f"{TEXT}; charset=utf-8", problem.headers)


_CONDITIONS: Mapping[int, tuple[str, str]] = {
    400: ("modify", "not-well-formed"),
    401: ("auth", "not-authorized"),
    403: ("auth", "forbidden"),
    404: ("cancel", "item-not-found"),
    405: ("cancel", "not-allowed"),
    409: ("wait", "conflict"),
    413: ("modify", "resource-constraint"),
    415: ("cancel", "bad-format"),
    422: ("modify", "bad-request"),
    429: ("wait", "resource-constraint"),
    503: ("wait", "resource-constraint"),
    504: ("wait", "remote-server-timeout"),
}


def error_body(problem: Problem) -> dict[str, object]:
    """Tell a problem as mod_rest does: as a stanza error, with the HTTP status in it."""
    error_type, condition = _CONDITIONS.get(problem.status, ("cancel", "internal-server-error"))
    error = {"type": error_type, "condition": problem.condition or condition, "text": problem.detail}
    return {"type": "error", "error": {**error, "code": problem.status}, "code": problem.status}
