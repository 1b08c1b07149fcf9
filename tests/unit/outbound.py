"""Stanzas on their way to the server, for tests that only want some."""

from __future__ import annotations

from twisted.words.xish.domish import Element

from component_http.contract.outbound import OutboundStanza, outbound_stanza
from component_http.contract.xml import Limits, parse_stanzas, serialize


def outbound(stanza: Element | str, now: float = 0.0) -> OutboundStanza:
    """An outbound stanza, of an element or of XML, with both addresses."""
    if isinstance(stanza, str):
        [stanza] = parse_stanzas(stanza, Limits())
    return outbound_stanza(stanza, serialize(stanza).encode("utf-8"), now)
