"""The body of a request -> reply objects, whatever it is written in."""

from __future__ import annotations

import re

from component_http.api.exchange import FORM, JSON, TEXT, XMPP_XML, Call, Problem, fields
from component_http.contract.reply import read_json, reply_objects
from component_http.errors import ReplyRefused

__all__ = ["body_of", "form_of", "is_json", "json_of", "objects_of", "text_of", "unsupported"]

_XML = (XMPP_XML, "application/xml", "text/xml")
_JSON = re.compile(r"application/(?:json|[!#$&^_.+a-z0-9-]+\+json)")


def body_of(call: Call) -> bytes:
    """
    The body, as it is.

    Raises:
        Problem: It is too large, or packed in a way that we do not unpack.
    """
    if call.body is None:
        raise Problem(413, "the body is larger than max_body_bytes")
    if call.headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
        raise Problem(415, "the body has a Content-Encoding: send it as it is", headers={"Accept-Encoding": "identity"})
    return call.body


def text_of(call: Call) -> str:
    """The body as text. Raises `Problem` where it is not UTF-8."""
    body = body_of(call)
    if call.charset not in ("utf-8", "utf8", "us-ascii"):
        raise Problem(415, "the body is in another charset than UTF-8")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Problem(400, f"the body is not UTF-8, see byte {error.start}") from None


def json_of(call: Call) -> object:
    """The body as JSON, with `JsonNumber`s. Raises `Problem` where it is none."""
    body = body_of(call).removeprefix(b"\xef\xbb\xbf")
    if not body.strip():
        raise Problem(400, "the body is empty, but should be JSON")
    try:
        return read_json(body)
    except ReplyRefused as refused:
        raise Problem(400, str(refused)) from None


def form_of(call: Call) -> dict[str, str]:
    """The body as the fields of a form, the last of each name. Raises `Problem` where it is none."""
    try:
        return dict(fields(text_of(call)))
    except ValueError as error:
        raise Problem(400, f"the form cannot be read: {error}") from None


def is_json(media_type: str) -> bool:
    """`application/json` and `application/*+json`."""
    return bool(_JSON.fullmatch(media_type))


def objects_of(call: Call) -> list[dict[str, object]]:
    """
    Read reply objects from JSON; or from XML, which makes one with nothing but `stanza`.

    Raises:
        Problem: There are none, or they cannot be read.
    """
    if call.media_type in _XML:
        return [{"stanza": text_of(call)}]
    if not is_json(call.media_type):
        raise unsupported(call, JSON, XMPP_XML)
    try:
        return reply_objects(json_of(call))
    except ReplyRefused as refused:
        raise Problem(400, str(refused)) from None


def unsupported(call: Call, *readable: str) -> Problem:
    """Nobody here reads this media type."""
    body_of(call)
    if call.media_type in (FORM, "") and FORM not in readable:
        hint = f": with curl, add -H 'Content-Type: {readable[0]}'"
    elif call.media_type == TEXT or not call.media_type:
        hint = ": say what it is by a Content-Type"
    else:
        hint = ""
    return Problem(415, f"the body must be {' or '.join(readable)}{hint}", headers={"Accept": ", ".join(readable)})
