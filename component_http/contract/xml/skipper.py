"""Skips a stanza that is over a limit, and keeps of it what is needed to tell its sender."""

from __future__ import annotations

import re
from typing import ClassVar

from twisted.words.xish.domish import Element

from component_http.contract.xml.vocabulary import NS_MUC_USER

_MARK_OF_A_ROOM = NS_MUC_USER.encode()


class Skipper:
    """
    Finds the end of a stanza without reading it: no more than nine bytes of it are kept at a time.

    Expat cannot do this, because it keeps names and open tags, and a whole attribute value, until it has them.

    Args:
        start: The stanza's start tag.
        reason: The limit it is over.
        depth: Elements of it that are open where the skipping begins; none if it begins at its start tag.
        within_cdata: It begins inside of a CDATA section.
    """

    _TEXT = re.compile(rb"<!--|<!\[CDATA\[|<\?|</|<(?=[^!?/])")
    _START_TAG = re.compile(rb"/>|[>\"']")
    _END_TAG = re.compile(rb">")
    _CDATA = re.compile(rb"\]\]>")
    _INTO: ClassVar[dict[bytes, re.Pattern[bytes]]] = {
        b"<": _START_TAG,
        b"</": _END_TAG,
        b"<!--": re.compile(rb"-->"),
        b"<![CDATA[": _CDATA,
        b"<?": re.compile(rb"\?>"),
        b'"': re.compile(rb'"'),
        b"'": re.compile(rb"'"),
    }

    def __init__(self, start: Element, reason: str, depth: int, within_cdata: bool) -> None:
        self.start = start_tag(start)
        self.reason = reason
        self._tail = b""
        self._depth = depth
        self._ahead = self._CDATA if within_cdata else self._TEXT
        self._kept = b""

    def feed(self, data: bytes) -> bytes | None:
        """Take the next bytes; returns those that follow the stanza, or None as long as it goes on."""
        seen = self._tail + data
        if _MARK_OF_A_ROOM in seen:
            _mark_room(self.start)
        self._tail = seen[1 - len(_MARK_OF_A_ROOM) :]
        data = self._kept + data
        at = 0
        while found := self._ahead.search(data, at):
            at, mark, inside = found.end(), found[0], self._ahead
            if inside is self._TEXT:
                self._ahead = self._INTO[mark]
            elif mark in (b'"', b"'"):
                self._ahead = self._INTO[mark] if inside is self._START_TAG else self._START_TAG
            else:
                self._ahead = self._TEXT
                if inside is self._END_TAG:
                    self._depth -= 1
                elif inside is self._START_TAG and mark == b">":
                    self._depth += 1
                if self._depth == 0:
                    return data[at:]
        self._kept = data[max(at, len(data) - 8) :]  # the longest mark is nine bytes
        return None


def start_tag(element: Element) -> Element:
    """Give an element's start tag alone, with a mark if it may come from a room."""
    tag = Element((element.uri, element.name), element.defaultUri, element.attributes, element.localPrefixes)
    if any(child.uri == NS_MUC_USER for child in element.elements()):
        _mark_room(tag)
    return tag


def _mark_room(tag: Element) -> None:
    """Keep the one fact of a stanza's content that decides whether it may be answered with an error."""
    if not tag.children:
        tag.addElement((NS_MUC_USER, "x"))
