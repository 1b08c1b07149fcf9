"""Finds the namespace names that are too long for expat to be given."""

from __future__ import annotations

import re

NAMESPACE_BYTES = 512
"""
The longest namespace name, as written; no protocol comes near it.

Expat puts the namespace name in front of every name with that prefix before anybody is asked: 256 KiB of one start
tag would become 2 GiB.
"""
TOO_LONG = f"a namespace name of more than {NAMESPACE_BYTES} bytes"

_LONG_NAME = rb"""xmlns(?::[^\s=<>"':]*)?\s*=\s*(?:"[^"<]{%d}|'[^'<]{%d})""" % ((NAMESPACE_BYTES + 1,) * 2)
_LONG = re.compile(_LONG_NAME)
_LOOKED_AT = 8
"""Places that are looked at one by one; where there are more, one search for all of them takes less time."""
# A "<" only ever begins a token, and no token can be read in two ways, so one search takes time in proportion to the
# length. Only single characters are repeated possessively: Python 3.11.0 to 3.11.4 get groups wrong.
_LONG_OR_OPAQUE = re.compile(
    rb"""<(?:!--|!\[CDATA\[|[^\s/<>=!?"']++"""
    rb"""(?:\s++[^\s/<>="']++\s*+=\s*+(?:"[^"<]*+"|'[^'<]*+'))*?\s++(?P<long>%s))""" % _LONG_NAME
)
_ENDS = {b"<!--": b"-->", b"<![CDATA[": b"]]>"}


def _has_long(data: bytes | bytearray, end: int) -> bool:
    """Tell whether there is a long one anywhere, be it in text; hardly a stanza holds one, and this is much faster."""
    at = 0
    for _ in range(_LOOKED_AT):
        at = data.find(b"mlns", at, end)  # most texts have fewer of these letters than of those of "xmlns"
        if at < 0:
            return False
        if _LONG.match(data, max(0, at - 1), end):
            return True
        at += 4
    return _LONG.search(data, at, end) is not None


def long_namespace(data: bytes | bytearray, end: int, within_cdata: bool) -> re.Match[bytes] | None:
    """
    Find the first start tag, complete or not, that declares too long a namespace name in the first `end` bytes.

    The match ends where the name is too long; its group "long" begins with the declaration. The data begins with a
    token, in text, or inside of a CDATA section.
    """
    if not _has_long(data, end):
        return None
    at = data.find(b"]]>", 0, end) if within_cdata else 0
    while at >= 0 and (found := _LONG_OR_OPAQUE.search(data, at, end)):
        if found["long"]:
            return found
        at = data.find(_ENDS[found[0]], found.end(), end)
    return None
