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

_LONG = rb"""xmlns(?::[^\s=<>"':]*)?\s*=\s*(?:"[^"<]{%d}|'[^'<]{%d})""" % ((NAMESPACE_BYTES + 1,) * 2)
_LONG_ANYWHERE = re.compile(_LONG)
# A "<" only ever begins a token, and no token can be read in two ways, so one search takes time in proportion to the
# length. Only single characters are repeated possessively: Python 3.11.0 to 3.11.4 get groups wrong.
_LONG_OR_OPAQUE = re.compile(
    rb"""<(?:!--|!\[CDATA\[|[^\s/<>=!?"']++"""
    rb"""(?:\s++[^\s/<>="']++\s*+=\s*+(?:"[^"<]*+"|'[^'<]*+'))*?\s++(?P<long>%s))""" % _LONG
)
_ENDS = {b"<!--": b"-->", b"<![CDATA[": b"]]>"}


def long_namespace(data: bytes | bytearray, end: int, within_cdata: bool) -> re.Match[bytes] | None:
    """
    Find the first start tag, complete or not, that declares too long a namespace name in the first `end` bytes.

    The match ends where the name is too long; its group "long" begins with the declaration. The data begins with a
    token, in text, or inside of a CDATA section.
    """
    # Hardly a stanza holds a long one anywhere, and these are much faster.
    if data.find(b"xmlns", 0, end) < 0 or _LONG_ANYWHERE.search(data, 0, end) is None:
        return None
    at = data.find(b"]]>", 0, end) if within_cdata else 0
    while at >= 0 and (found := _LONG_OR_OPAQUE.search(data, at, end)):
        if found["long"]:
            return found
        at = data.find(_ENDS[found[0]], found.end(), end)
    return None
