"""Namespaces, the limits for one stanza, and the escaping of text: reading and writing share them."""

from __future__ import annotations

import re

from attrs import frozen

NS_COMPONENT = "jabber:component:accept"
NS_CLIENT = "jabber:client"
NS_DISCO_INFO = "http://jabber.org/protocol/disco#info"
NS_DISCO_ITEMS = "http://jabber.org/protocol/disco#items"
NS_LAST = "jabber:iq:last"
NS_MUC = "http://jabber.org/protocol/muc"
NS_MUC_USER = "http://jabber.org/protocol/muc#user"
NS_PING = "urn:xmpp:ping"
NS_TIME = "urn:xmpp:time"
NS_VERSION = "jabber:iq:version"
NS_XML = "http://www.w3.org/XML/1998/namespace"
NS_XMLNS = "http://www.w3.org/2000/xmlns/"
STANZA_NAMESPACES: frozenset[str | None] = frozenset({NS_COMPONENT, NS_CLIENT, "", None})
"""Names of "the stream's own namespace" on a stanza, and on the children that share it."""

_ESCAPED_CHARS = 64
"""Characters by which escaping may lengthen a text before shorter ways to write it are looked for."""

_FORBIDDEN = "\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff"
_ANY_FORBIDDEN = re.compile(f"[{_FORBIDDEN}]")
_UTF_8_NONCHARACTERS = (b"\xef\xbf\xbe", b"\xef\xbf\xbf")
_MAY_END_CDATA = re.compile(r"(?<=\])>|\A>")
_TEXT_SPECIAL = bytes(byte in b"<>&" or (byte < 32 and byte not in b"\t\n") for byte in range(256))
_ATTRIBUTE_SPECIAL = re.compile(f"[<&'\t\n\r{_FORBIDDEN}]")


@frozen
class Limits:
    """
    The limits of one stanza's XML.

    Attributes:
        max_bytes: From the `<` of its start tag to the `>` of its end tag, in UTF-8. Servers cut a component's
            stream at 512 KiB; RFC 6120 section 13.12 wants 10000 accepted.
        max_depth: Elements inside each other, the stanza itself included. Real stanzas stay below 20; code that
            walks a tree recursively fails at about 900.
        max_attributes: Attributes and namespace declarations of one element. No protocol comes near it.
        max_elements: Elements, the stanza itself included. They are what costs most memory for each byte sent:
            330 bytes for `<a/>`.
    """

    max_bytes: int = 262144
    max_depth: int = 64
    max_attributes: int = 128
    max_elements: int = 10_000


def replace_forbidden(text: str) -> str:
    """Put U+FFFD in the place of each character that XML forbids, and of each lone surrogate."""
    return _ANY_FORBIDDEN.sub("\ufffd", text)


def escaped(text: str) -> str:
    """Write text between tags, hardly longer than any peer can have written it."""
    if not _has_special(text):
        return text
    text = replace_forbidden(text)
    needed = text.replace("&", "&amp;").replace("<", "&lt;").replace("\r", "&#13;")
    usual = needed.replace(">", "&gt;")
    if len(usual) <= len(text) + _ESCAPED_CHARS:
        return usual
    # A peer can have written `>` as it is, and each of the others, too, in a CDATA section.
    sparing = _MAY_END_CDATA.sub("&gt;", needed)
    if len(sparing) <= len(text) + len(text) // 8 + _ESCAPED_CHARS:
        return sparing
    section = text.replace("]]>", "]]]]><![CDATA[>").replace("\r", "]]>&#13;<![CDATA[")
    return min(sparing, f"<![CDATA[{section}]]>", key=len)


def _has_special(text: str) -> bool:
    """Tell whether text between tags cannot be written as it is; five times as fast as a regular expression."""
    try:
        data = text.encode()
    except UnicodeEncodeError:
        return True  # a lone surrogate
    return 1 in data.translate(_TEXT_SPECIAL) or (
        not text.isascii() and any(each in data for each in _UTF_8_NONCHARACTERS)
    )


def needs_escaping(value: str) -> bool:
    """Tell whether an attribute's value cannot be written as it is."""
    return _ATTRIBUTE_SPECIAL.search(value) is not None


def quoted(value: str) -> str:
    """
    Write an attribute's value, hardly longer than any peer can have written it.

    That is why the quotation marks are those that it holds fewer of, and why `>` stays as it is.
    """
    if not needs_escaping(value):
        return f"'{value}'"
    value = replace_forbidden(value).replace("&", "&amp;").replace("<", "&lt;")
    value = value.replace("\t", "&#9;").replace("\n", "&#10;").replace("\r", "&#13;")
    if value.count("'") > value.count('"'):
        return '"' + value.replace('"', "&quot;") + '"'
    return "'" + value.replace("'", "&apos;") + "'"
