"""Reads the body of a request, in any of its formats."""

from __future__ import annotations

import re
import zlib

from component_http.api.exchange import Call, Problem, fields
from component_http.contract.http import FORM, JSON, TEXT, XMPP_XML, is_json, without_mark
from component_http.contract.objects import read_json, reply_objects
from component_http.errors import ReplyRefused

ENCODINGS = "gzip, deflate"
"""The content codings that are read, as `Accept-Encoding` names them."""

_XML = (XMPP_XML, "application/xml", "text/xml")

_GZIP_WINDOW = 16 + zlib.MAX_WBITS

_CHARSET = re.compile(
    r"utf-?8|us-ascii|ascii|utf-16(?:le|be)?|utf-32(?:le|be)?|latin-?[1-8]|iso-?8859-(?:[1-9]|1[013-6])"
    r"|(?:windows-|cp)125[0-8]|cp(?:437|850|852|855|858|866|874|932|949|950)|koi8-[ru]|macintosh"
    r"|gb2312|gbk|gb18030|big5(?:-hkscs)?|shift[-_]jis|sjis|euc-(?:jp|kr)|iso-2022-(?:jp|kr)|ks_c_5601-1987|tis-620"
)
"""
The charsets that are read.

Python knows more codecs. Some of them take long for a small input (punycode), and some are no charsets (hex).
"""


def unpacked(call: Call, body: bytes | None, max_bytes: int) -> bytes | None:
    """
    Undo the content coding of a body.

    Args:
        body: The body as it came; None if it was larger than is read.
        max_bytes: The most bytes that it may unpack to. Unpacking stops there.

    Returns:
        The body; None if it is larger than `max_bytes`.

    Raises:
        Problem: The coding is not known, or the body does not follow it.

    Source: RFC 9110 section 8.4; RFC 1950 to 1952.
    """
    coding = call.headers.get("content-encoding", "").strip().lower()
    if coding in ("", "identity") or not body:
        return body
    if coding in ("gzip", "x-gzip"):
        window = _GZIP_WINDOW
    elif coding == "deflate":
        # The coding is zlib's format; some clients send the bare data without its header.
        has_header = body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
        window = zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS
    else:
        raise Problem(
            415,
            "the Content-Encoding is not gzip or deflate: use one of these, or none",
            headers={"Accept-Encoding": ENCODINGS},
        )
    unpacking = zlib.decompressobj(window)
    try:
        plain = unpacking.decompress(body, max_bytes + 1)
    except zlib.error:
        raise Problem(400, f"the body is not {coding}, as its Content-Encoding says") from None
    if len(plain) > max_bytes:
        return None
    if not unpacking.eof or unpacking.unused_data:
        raise Problem(400, f"the body is not one whole piece of {coding}, as its Content-Encoding says")
    return plain


def body_of(call: Call) -> bytes:
    """Return the body as it is. Raises `Problem` if it is too large."""
    if call.body is None:
        raise Problem(413, "the body is larger than max_body_bytes")
    return call.body


def text_of(call: Call) -> str:
    """Decode the body from the charset that it names, or from UTF-8. Raises `Problem` if that is not possible."""
    body = body_of(call)
    charset = _charset(call)
    try:
        return body.decode(charset).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        name = "UTF-8" if charset == "utf-8" else charset
        raise Problem(400, f"the body is not {name}, see byte {error.start}") from None


def _charset(call: Call) -> str:
    """Return the charset of the body, by a name that Python knows."""
    if not _CHARSET.fullmatch(call.charset):
        raise Problem(415, "the charset of the Content-Type is not read here: use UTF-8")
    # UTF-8 includes ASCII, and some clients name ASCII and send UTF-8.
    return "utf-8" if call.charset in ("utf8", "us-ascii", "ascii") else call.charset


def json_of(call: Call) -> object:
    """Read the body as JSON, with `JsonNumber`s. Raises `Problem` if it is not JSON."""
    # JSON has no charset but UTF-8 (RFC 8259 section 8.1), whatever its media type says; other types may have one.
    body = body_of(call) if is_json(call.media_type) else text_of(call).encode("utf-8")
    body = without_mark(body)
    if not body.strip():
        raise Problem(400, "the body is empty, but should be JSON")
    try:
        return read_json(body)
    except ReplyRefused as refused:
        raise Problem(400, str(refused)) from None


def form_of(call: Call) -> dict[str, str]:
    """Read the body as a form: the last field of each name. Raises `Problem` if it is no form."""
    try:
        return dict(fields(text_of(call), _charset(call)))
    except ValueError as error:
        raise Problem(400, f"the form cannot be read: {error}") from None


def properties_of(call: Call, *readable: str) -> dict[str, object]:
    """Read the body as an object of JSON or as a form. Raises `Problem` with the readable types for any other type."""
    if call.media_type == FORM:
        return dict(form_of(call))
    if not is_json(call.media_type):
        raise unsupported(call, *readable)
    value = json_of(call)
    if not isinstance(value, dict):
        raise Problem(400, "the JSON is not an object")
    return value


def objects_of(call: Call) -> list[dict[str, object]]:
    """Read reply objects from JSON, or from XML, which makes one object with nothing but `stanza`."""
    if call.media_type in _XML:
        return [{"stanza": text_of(call)}]
    if not is_json(call.media_type):
        raise unsupported(call, JSON, XMPP_XML)
    try:
        return reply_objects(json_of(call))
    except ReplyRefused as refused:
        raise Problem(400, str(refused)) from None


def read_seconds(text: str) -> float | None:
    """Read a number of seconds; None if it is none."""
    return float(text) if re.fullmatch(r"[0-9]{1,6}(?:\.[0-9]{1,6})?", text) else None


def unsupported(call: Call, *readable: str) -> Problem:
    """Make the problem for a media type that is not read here."""
    body_of(call)
    if call.media_type in (FORM, "") and FORM not in readable:
        hint = f": with curl, add -H 'Content-Type: {readable[0]}'"
    elif call.media_type == TEXT or not call.media_type:
        hint = ": say what it is by a Content-Type"
    else:
        hint = ""
    return Problem(415, f"the body must be {' or '.join(readable)}{hint}", headers={"Accept": ", ".join(readable)})
