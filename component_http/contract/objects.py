"""From bytes to reply objects: JSON that somebody handed us."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from json import JSONDecoder
from typing import NoReturn

from attrs import frozen

from component_http.errors import ReplyRefused

MAX_JSON_DEPTH = 64
"""Arrays and objects inside each other; a reply needs three. Beyond some hundred the JSON parser itself gives in."""


@frozen
class JsonNumber:
    """A JSON number as it was written: no digit of a long one is lost, and no huge one is worked out."""

    text: str


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decoder = JSONDecoder(parse_int=JsonNumber, parse_float=JsonNumber, parse_constant=_no_constant)

_STRING_OR_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)


def says_nothing(given: Mapping[str, object]) -> bool:
    """Say whether no property of a reply object has a value."""
    return all(value is None or value == {} for value in given.values())


def reply_objects(value: object) -> list[dict[str, object]]:
    """
    Take the reply objects out of what `read_json` gave; those that say nothing are left out.

    Raises:
        ReplyRefused: It is none, and no array of them.
    """
    members = value if isinstance(value, list) else [value]
    if not all(member is None or isinstance(member, dict) for member in members):
        raise ReplyRefused("the JSON is not an object, an array of objects or null")
    return [member for member in members if isinstance(member, dict) and member]


def first_sender(objects: Iterable[Mapping[str, object]]) -> str | None:
    """Return the first `from` that is in one of some reply objects; None if none has one."""
    for one in objects:
        named = one.get("from") if isinstance(one, Mapping) else None
        if isinstance(named, str):
            return named
    return None


def read_json(body: bytes) -> object:
    """
    Read JSON that somebody handed us; its numbers come as `JsonNumber`.

    Raises:
        ReplyRefused: It is none, is not UTF-8, or is nested too deep.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise ReplyRefused("the JSON is not UTF-8") from None
    if _is_deep(text):
        raise ReplyRefused(f"the JSON is nested deeper than {MAX_JSON_DEPTH}")
    try:
        return _decoder.decode(text)
    except ValueError:
        raise ReplyRefused("the JSON does not parse") from None


def _is_deep(text: str) -> bool:
    if text.find("{", 1) < 0 and "[" not in text:
        return False  # by far the fastest for a long one
    if text.count("[") + text.count("{") <= MAX_JSON_DEPTH:
        return False
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        first = text[match.start()]
        if first in "[{":
            depth += 1
            if depth > MAX_JSON_DEPTH:
                return True
        elif first != '"':
            depth -= 1
    return False
