"""Reading: a stream as it comes in, and the XML that a webhook hands us."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from functools import partial
from xml.parsers import expat

from twisted.words.xish.domish import Element, ParserError

from component_http.contract.xml.reader import (
    PIECE_BYTES,
    DocumentReader,
    Header,
    Listener,
    Oversized,
    Reader,
    WornOut,
    ignore,
)
from component_http.contract.xml.skipper import Skipper
from component_http.contract.xml.vocabulary import NS_COMPONENT, STANZA_NAMESPACES, Limits, quoted, replace_forbidden
from component_http.errors import XmlRefused

_LIFETIME_BYTES = 65536
"""
Input after which an expat parser gives way to a new one, at the next stanza.

Expat keeps every name it has ever seen, at up to 100 times the bytes that a peer spends on it, and a stream lives for
months. A new parser costs as much as one stanza.
"""

_PREAMBLE = re.compile(r"\A[\ufeff \t\r\n]*(?:<\?xml[ \t\r\n][^<>]*\?>)?")


class StreamParser:
    """
    Reads an XML stream: a drop-in for `domish.elementStream()` that no peer of the server can end, slow or fill.

    A stanza over a limit is skipped without being built, and the stream goes on with the next one. Comments are
    ignored. What only the server itself could do wrong (XML that is not well-formed, a document type declaration, an
    entity, a processing instruction) is a `domish.ParserError`; after that, and after the end of the stream, nothing
    more is read.

    The callbacks run in the order of the stream, and never inside of expat: an exception from one leaves `parse` and
    loses nothing, the next `parse` goes on behind it. A callback may call `parse` itself.

    Args:
        limits: For one stanza. The stream header may have `max_bytes` too.
        skipped: Called with the start tag (name, attributes) of a stanza over a limit and the limit as a phrase, when
            its end tag is in. Its only child, if any, is an empty `<x xmlns='http://jabber.org/protocol/muc#user'/>`:
            the stanza may come from a room. If the start tag alone is over `max_bytes`, attributes can be missing.

    Attributes:
        DocumentStartEvent: Called with the root's start tag; `defaultUri` is the stream's default namespace.
        ElementEvent: Called with each stanza; its `parent` is None.
        DocumentEndEvent: Called with nothing at the root's end tag.
    """

    def __init__(self, limits: Limits, skipped: Callable[[Element, str], object]) -> None:
        self.DocumentStartEvent: Callable[[Element], object] = ignore
        self.ElementEvent: Callable[[Element], object] = ignore
        self.DocumentEndEvent: Callable[[], object] = ignore
        self._limits = limits
        self._skipped = skipped
        self._pieces: deque[bytes] = deque()
        self._events: deque[Element | Callable[[], object]] = deque()
        self._over = False
        self._skipper: Skipper | None = None
        self._listener = Listener(self._events.append, self._report, self._start, self._end)
        self._reader = self._new_reader(Header())

    def parse(self, data: bytes) -> None:
        """Take the next bytes of the stream, cut anywhere; raises `ParserError` when the server has broken it."""
        self._pieces.extend([data[at : at + PIECE_BYTES] for at in range(0, len(data), PIECE_BYTES)])
        events = self._events
        while True:
            while events:
                event = events.popleft()
                if isinstance(event, Element):
                    self.ElementEvent(event)
                else:
                    event()
            if not self._pieces:
                return
            piece = self._pieces.popleft()
            try:
                if not self._over:
                    self._take(piece)
            except (expat.ExpatError, ParserError) as error:
                if not self._over:
                    self._over = True
                    events.append(partial(_raise, ParserError(str(error))))

    def _take(self, data: bytes) -> None:
        while data:
            if self._skipper is None:
                data = self._read(data)
            else:
                rest = self._skipper.feed(data)
                if rest is None:
                    return
                data = rest
                self._report(self._skipper.start, self._skipper.reason)
                self._skipper = None

    def _read(self, data: bytes) -> bytes:
        """Give bytes to the parser; returns those that are for its successor."""
        reader = self._reader
        try:
            reader.feed(data)
            return b""
        except WornOut as end:
            rest = end.rest
        except Oversized as end:
            rest = end.rest
            self._skipper = end.skipper
        self._reader = self._new_reader(reader.header)
        reader.close()
        return rest

    def _new_reader(self, header: Header) -> Reader:
        return Reader(self._limits, self._listener, header, _LIFETIME_BYTES)

    # An event looks its callback up when it is told: it may have been replaced by then.

    def _start(self, root: Element) -> None:
        self._events.append(lambda: self.DocumentStartEvent(root))

    def _end(self) -> None:
        self._over = True
        self._events.append(lambda: self.DocumentEndEvent())

    def _report(self, start: Element, reason: str) -> None:
        self._events.append(lambda: self._skipped(start, reason))


def _raise(error: Exception) -> None:
    raise error


def parse_stanzas(text: str, limits: Limits, charge: Callable[[int], object] | None = None) -> list[Element]:
    """
    Read the XML that a webhook wrote: one or several elements side by side, white space around them.

    A byte order mark and an XML declaration at the beginning are skipped, because XML libraries print them.
    No namespace, `jabber:client` and `jabber:component:accept` are the same for a top-level element and for its
    descendants down to the first element of another namespace: they all become `NS_COMPONENT` (`uri` and
    `defaultUri`). Below a foreign element namespaces stay as they are: a forwarded message (XEP-0297) is
    `jabber:client` on purpose. A character that XML forbids, and a lone surrogate, becomes U+FFFD.

    Args:
        text: At least one element.
        limits: For each top-level element.
        charge: Told of each top-level element, as soon as it is read, how many elements it is. If it raises, nothing
            is built of the rest.

    Returns:
        The elements in order, `parent` None.

    Raises:
        XmlRefused: Not well-formed, over a limit, no element, text between elements, an undeclared prefix or entity,
            a document type declaration, a comment or a processing instruction.
    """
    stanzas = parse_elements(_PREAMBLE.sub("", text, count=1), NS_COMPONENT, limits, charge)
    if not stanzas:
        raise XmlRefused("there is no element in it")
    for stanza in stanzas:
        _use_component_namespace(stanza)
    return stanzas


def parse_elements(
    text: str, default_uri: str, limits: Limits, charge: Callable[[int], object] | None = None
) -> list[Element]:
    """Read elements side by side, without XML declaration; raises `XmlRefused`, and what `charge` raises."""
    elements: list[Element] = []

    def finished(element: Element) -> None:
        if charge is not None:
            charge(reader.elements)
        elements.append(element)

    header = Header(f"<_ xmlns={quoted(default_uri)}>".encode(), default_uri)
    reader = DocumentReader(limits, Listener(finished), header)
    try:
        reader.parse(replace_forbidden(text).encode() + b"</_>")
    except expat.ExpatError as error:
        raise XmlRefused(f"not well-formed: {expat.ErrorString(error.code)}") from error
    except (ParserError, Oversized) as error:
        raise XmlRefused(str(error)) from error
    finally:
        reader.close()
    return elements


def _use_component_namespace(stanza: Element) -> None:
    if stanza.uri not in STANZA_NAMESPACES:
        return
    shared = [stanza]
    while shared:
        element = shared.pop()
        element.uri = NS_COMPONENT
        if element.defaultUri in STANZA_NAMESPACES:
            element.defaultUri = NS_COMPONENT
        shared.extend(
            child for child in element.children if isinstance(child, Element) and child.uri in STANZA_NAMESPACES
        )
