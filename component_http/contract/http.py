"""The parts of HTTP that both directions read alike: tokens, media types, charsets, and the mark before a text."""

from __future__ import annotations

import re

JSON = "application/json"
PROBLEM_JSON = "application/problem+json"
XMPP_XML = "application/xmpp+xml"
FORM = "application/x-www-form-urlencoded"
TEXT = "text/plain"

TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
"""The pattern of a token, such as the name of a header field. Source: RFC 9110 section 5.6.2."""

BEARER = r"[!-~]+"
"""The pattern of a bearer token. RFC 6750 section 2.1 allows fewer characters; a blank would break the header."""

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MEDIA_TYPE = re.compile(r"[!#$&^_.+a-z0-9-]{1,60}/[!#$&^_.+a-z0-9-]{1,60}")
_JSON_MEDIA_TYPE = re.compile(r"application/(?:json|[!#$&^_.+a-z0-9-]+\+json)")
_CHARSET = re.compile(r';\s*charset\s*=\s*"?([\w.:-]+)', re.IGNORECASE)


def is_token(text: str) -> bool:
    return re.fullmatch(TOKEN, text) is not None


def is_field_value(text: str) -> bool:
    """Say whether a text can be a header's value that we send: printable ASCII without a blank at either end."""
    return text.isascii() and text.isprintable() and text == text.strip()


def media_type(content_type: str) -> str:
    """Take the media type from the value of a Content-Type: in lower case, without parameters, "" if there is none."""
    return content_type.partition(";")[0].strip().lower()


def charset(content_type: str) -> str | None:
    """Take the charset from the value of a Content-Type, in lower case; None if it names none."""
    named = _CHARSET.search(content_type)
    return named and named[1].lower()


def is_media_type(text: str) -> bool:
    """Say whether the result of `media_type` is a media type, and a short one."""
    return _MEDIA_TYPE.fullmatch(text) is not None


def is_json(media_type: str) -> bool:
    """Say whether the result of `media_type` is `application/json` or `application/*+json`."""
    return _JSON_MEDIA_TYPE.fullmatch(media_type) is not None


def without_mark(text: bytes) -> bytes:
    """Remove the byte order mark that some editors put before UTF-8 text (RFC 8259 section 8.1 lets a reader do so)."""
    return text.removeprefix(_BYTE_ORDER_MARK)
