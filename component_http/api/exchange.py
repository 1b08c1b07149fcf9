"""What comes in over HTTP and what goes back, as values; and how errors are told."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from attrs import field, frozen

from component_http.contract.http import JSON, TEXT, charset, media_type

__all__ = [
    "MAX_FIELDS",
    "Admitted",
    "Answer",
    "Call",
    "Problem",
    "error_body",
    "json_answer",
    "plain_text",
    "problem_json",
]

MAX_FIELDS = 100
"""Of a form or a query; nobody has more than ten."""

_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@frozen
class Call:
    """
    One HTTP request, whole.

    Attributes:
        method: Its method.
        path: Its path as it came, percent-encoded, without the query.
        query: The query as it came.
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
        """That of the body, without parameters and in lower case; "" where it is not said."""
        return media_type(self.headers.get("content-type", ""))

    @property
    def charset(self) -> str:
        """That of the body; UTF-8 unless it is said."""
        return charset(self.headers.get("content-type", "")) or "utf-8"

    def argument(self, name: str) -> str | None:
        """
        The value of one in the query, or None.

        Raises:
            Problem: The query is none, or has it twice.
        """
        try:
            found = [value for key, value in fields(self.query) if key == name]
        except ValueError as error:
            raise Problem(400, f"the query cannot be read: {error}") from None
        if len(found) > 1:
            raise Problem(400, f"{name} is in the query twice")
        return found[0] if found else None


def fields(text: str, charset: str = "utf-8") -> list[tuple[str, str]]:
    """
    The fields of a form or a query, in their order.

    Args:
        text: The form.
        charset: The charset of its percent-encoded characters, by a name that Python knows.

    Raises:
        ValueError: There are too many of them, or they are not in the charset.
    """
    return parse_qsl(text, keep_blank_values=True, encoding=charset, errors="strict", max_num_fields=MAX_FIELDS)


@frozen
class Answer:
    """
    One HTTP response.

    Attributes:
        status: The status code.
        body: The body's bytes.
        media_type: What they are; not said where there are none.
        headers: Other header fields.
    """

    status: int
    body: bytes = b""
    media_type: str = JSON
    headers: Mapping[str, str] = field(factory=dict)


@frozen
class Admitted:
    """
    A request that is let in, judged by all that it says before its body.

    Attributes:
        carry_out: Makes the answer; given the body, or None for one that is larger than is read.
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
        status: The HTTP status that says so.
        detail: A sentence for the person who wrote the client; nothing of a secret is in it.
        condition: What mod_rest calls it, where another word fits better than the status's.
        headers: Header fields that belong to it.
        members: What else a machine may want to know of it.
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
    """An answer whose body is JSON."""
    return Answer(status, _encode(value).encode("utf-8", "replace"), JSON, headers or {})


def problem_json(problem: Problem) -> Answer:
    """Tell a problem as RFC 9457 says (`application/problem+json`)."""
    value: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        **problem.members,
    }
    return Answer(
        problem.status, _encode(value).encode("utf-8", "replace"), "application/problem+json", problem.headers
    )


def plain_text(problem: Problem) -> Answer:
    """Tell a problem in one line of text, as a person with curl likes it best."""
    return Answer(
        problem.status, f"{problem.detail}\n".encode("utf-8", "replace"), f"{TEXT}; charset=utf-8", problem.headers
    )


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
    """Tell a problem as mod_rest does: what is wrong the XMPP way, and the HTTP status again."""
    error_type, condition = _CONDITIONS.get(problem.status, ("cancel", "internal-server-error"))
    error = {"type": error_type, "condition": problem.condition or condition, "text": problem.detail}
    return {"type": "error", "error": {**error, "code": problem.status}, "code": problem.status}
