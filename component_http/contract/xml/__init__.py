"""
The only XML parser and serializer of the project.

`StreamParser` takes the place of `domish.elementStream()` under Twisted's XmlStream, `parse_stanzas` reads the XML
that a webhook hands us, `serialize` writes every element that leaves. Elements are `domish.Element` throughout,
because wokkel's handlers expect them.

Source: RFC 6120 section 11 (XML usage), XML 1.0, Namespaces in XML 1.0.
"""

from component_http.contract.xml.parsing import StreamParser, parse_stanzas
from component_http.contract.xml.vocabulary import (
    NS_CLIENT,
    NS_COMPONENT,
    NS_DISCO_INFO,
    NS_DISCO_ITEMS,
    NS_LAST,
    NS_MUC,
    NS_MUC_USER,
    NS_PING,
    NS_TIME,
    NS_VERSION,
    STANZA_NAMESPACES,
    Limits,
)
from component_http.contract.xml.writer import serialize

__all__ = [
    "NS_CLIENT",
    "NS_COMPONENT",
    "NS_DISCO_INFO",
    "NS_DISCO_ITEMS",
    "NS_LAST",
    "NS_MUC",
    "NS_MUC_USER",
    "NS_PING",
    "NS_TIME",
    "NS_VERSION",
    "STANZA_NAMESPACES",
    "Limits",
    "StreamParser",
    "parse_stanzas",
    "serialize",
]
