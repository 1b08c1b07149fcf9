"""
The check of outbound stanzas: one bad stanza makes an XMPP server close the component stream for everyone.

Source: XEP-0114 section 3; RFC 6120 sections 8.1 and 11; what Prosody and ejabberd were seen to do (512 KiB, foreign or
missing `from`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime

from twisted.words.xish.domish import Element

from component_http.contract.address import Address, NotAnAddress
from component_http.contract.conditions import INTERNAL, NS_STANZAS, error_child
from component_http.contract.stanza import STANZA_KINDS
from component_http.contract.xml import NS_COMPONENT, STANZA_NAMESPACES, serialize
from component_http.errors import AnswerRefused, XmlRefused

NS_DELAY = "urn:xmpp:delay"

_END = re.compile(rb"/>$|</[^<>]+>$")


def sendable(element: Element, domain: str, max_bytes: int) -> bytes:
    """
    Check one stanza and write it as it may go to the server.

    Args:
        element: A stanza; where it has no `from`, the bare domain is put in.
        domain: The component's own domain, normalised; every `from` must be in it.
        max_bytes: UTF-8 bytes it may have at most.

    Returns:
        Its XML, good inside a component stream.

    Raises:
        XmlRefused: It may not be sent; the message says why.
    """
    if element.name not in STANZA_KINDS:
        raise XmlRefused(f"<{element.name}/> is not a stanza")
    sender = element.getAttribute("from")
    if not sender:
        element["from"] = domain
    elif _address(sender, "from").domain != domain:
        raise XmlRefused(f"'from' is outside the component's own domain {domain}")
    recipient = element.getAttribute("to")
    if not recipient:
        raise XmlRefused("'to' is missing")
    _address(recipient, "to")
    return written(element, max_bytes)


def written(element: Element, max_bytes: int) -> bytes:
    """Write a stanza whose addresses are known to be right; raises `XmlRefused` as `sendable` does."""
    xml = serialize(element).encode("utf-8")
    if len(xml) > max_bytes:
        raise XmlRefused(f"larger than {max_bytes} bytes")
    return xml


def is_ours(sender: str, domain: str) -> bool:
    """Tell whether a `from` is an address of the component's own domain, normalised."""
    try:
        return Address.parse(sender).domain == domain
    except NotAnAddress:
        return False


def fitted(element: Element, domain: str, max_bytes: int) -> tuple[Element, bytes]:
    """
    Check a stanza as `sendable` does; where it may not be sent, make an error or an answer to an iq smaller.

    An error loses first what it repeats of the stanza that it answers, then its text: RFC 6120 section 8.3.1 leaves
    both to the sender. The result of an iq becomes internal-server-error, for every iq must be answered.

    Args:
        element: A stanza; where it has no `from`, the bare domain is put in.
        domain: The component's own domain, normalised.
        max_bytes: UTF-8 bytes it may have at most.

    Returns:
        What is to be sent, and its XML.

    Raises:
        AnswerRefused: It answers an iq, and not even the smallest error may be sent in its place.
        XmlRefused: It may not be sent, and nothing may take its place.
    """
    try:
        return element, sendable(element, domain, max_bytes)
    except XmlRefused as refused:
        for smaller in _smaller(element):
            with suppress(XmlRefused):
                return smaller, sendable(smaller, domain, max_bytes)
        if _answers_iq(element):
            raise AnswerRefused(str(refused)) from refused
        raise


def _answers_iq(element: Element) -> bool:
    return element.name == "iq" and element.getAttribute("type") in ("error", "result")


def _smaller(element: Element) -> Iterator[Element]:
    """Make smaller stanzas that can take the place of an error or of an answer to an iq, the best first."""
    if element.name in STANZA_KINDS and element.getAttribute("type") == "error":
        for error in element.elements():
            if error.name == "error" and error.uri in STANZA_NAMESPACES:
                yield _error_with(element, error)
                yield _error_with(element, _without_text(error))
                break
    if _answers_iq(element):
        yield _error_with(element, error_child(INTERNAL))


def _error_with(element: Element, error: Element) -> Element:
    answer = Element((NS_COMPONENT, element.name))
    answer.attributes.update({name: element[name] for name in ("to", "from", "id") if element.hasAttribute(name)})
    answer["type"] = "error"
    answer.children.append(error)
    return answer


def _without_text(error: Element) -> Element:
    bare = Element((NS_COMPONENT, "error"), attribs=error.attributes)
    for child in error.elements():
        if child.uri == NS_STANZAS and child.name != "text":
            bare.addElement((NS_STANZAS, child.name))
            break
    return bare


def delayed(xml: bytes, domain: str, stamp: datetime, max_bytes: int) -> bytes:
    """
    Say in a stanza when it was made, for who gets it much later.

    Args:
        xml: The stanza, as `sendable` writes it.
        domain: Who says so: the component's own domain, normalised.
        stamp: When it was made, with a zone.
        max_bytes: UTF-8 bytes it may have at most; where there is no room for it nothing is added.

    Source: XEP-0203 section 3; XEP-0082 section 3.2 (the stamp).
    """
    end = _END.search(xml)
    when = stamp.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    delay = f"<delay xmlns='{NS_DELAY}' from='{domain}' stamp='{when}'/>".encode()
    if end is None or len(xml) + len(delay) + 100 > max_bytes:
        return xml
    start = xml[: end.start()]
    if end[0] != b"/>":
        return start + delay + end[0]
    # An empty element: its name stands between the bracket and whatever follows.
    name = re.match(rb"<([^\s/>]+)", xml)
    return xml if name is None else start + b">" + delay + b"</" + name[1] + b">"


def _address(text: str, attribute: str) -> Address:
    try:
        return Address.parse(text)
    except NotAnAddress as error:
        raise XmlRefused(f"'{attribute}' is not an address") from error
