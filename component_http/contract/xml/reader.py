"""Expat, fed so that no peer can slow or fill it, builds an element of each child of a document's root."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from xml.parsers import expat

from attrs import frozen
from twisted.words.xish.domish import Element, ParserError

from component_http.contract.xml.long_names import NAMESPACE_BYTES, TOO_LONG, long_namespace
from component_http.contract.xml.skipper import Skipper, start_tag
from component_http.contract.xml.vocabulary import Limits, quoted

# Put by expat between namespace name and local name. XML 1.0 cannot write this character, not even as a reference,
# so what a peer sends always splits where we expect it.
_SEPARATOR = "\x01"

PIECE_BYTES = 16384
"""Input is taken in pieces of at most this, so that no more than this is built of a stanza beyond `max_bytes`."""

_WHITE = " \t\r\n"
_BOM_AND_WHITE = b"\xef\xbb\xbf \t\r\n"
_RAW_NAME = re.compile(rb"<[^\s/>]+")
_RAW_ATTRIBUTES = re.compile(rb"""<[^\s/>]+(?:\s+[^\s=]+\s*=\s*(?:"[^"<]*"|'[^'<]*'))*""")


@frozen
class WornOut(Exception):
    """An expat parser has lived long enough; `rest` begins with the next stanza."""

    rest: bytes


@frozen
class Oversized(Exception):
    """A stanza is over a limit; `rest` are the bytes from there on, which the `skipper` gets instead of expat."""

    rest: bytes
    skipper: Skipper

    def __str__(self) -> str:
        return self.skipper.reason


@frozen
class Header:
    """The start tag of a document's root, and the default namespace in it; no bytes where it is still to come."""

    tag: bytes = b""
    default_uri: str = ""


def ignore(*_: object) -> None:
    """Nobody has asked for this event."""


def refuse(_: object, reason: str) -> None:
    """Accept no child that is too long."""
    raise ParserError(reason)


@frozen
class Listener:
    """
    Called with what is read.

    Attributes:
        finished: With each child of the root when its end tag is in.
        oversized: With a child's start tag and a reason when only its end tag showed that it is too long.
        started: With the root's start tag, unless a header is given.
        ended: When the root's end tag is in.
    """

    finished: Callable[[Element], object]
    oversized: Callable[[Element, str], object] = refuse
    started: Callable[[Element], object] = ignore
    ended: Callable[[], object] = ignore


class _Names(dict[str, tuple[str, str]]):
    """Expat's names, split into namespace name and local name; they live as long as their parser."""

    def __init__(self) -> None:
        super().__init__()
        self._uris: dict[str, str] = {}

    def __missing__(self, name: str) -> tuple[str, str]:
        uri, _, local = name.rpartition(_SEPARATOR)
        self[name] = qualified = self._uris.setdefault(uri, uri), local
        return qualified


class _Input:
    """
    The bytes that expat has not finished.

    Attributes:
        unread: The bytes; the first `given` of them were given to expat.
        base: Expat's index of the first of them.
        begun: Expat's index of the current child of the root.
    """

    def __init__(self, base: int) -> None:
        self.unread = bytearray()
        self.given = 0
        self.base = self.begun = base

    def give(self, parser: expat.XMLParserType, end: int) -> None:
        """Let expat have all up to here, and forget what it has finished."""
        data = self.unread[self.given : end]
        self.given = end
        parser.Parse(data)
        done = parser.CurrentByteIndex - self.base
        del self.unread[:done]
        self.base += done
        self.given -= done


class Reader:
    """
    One expat parser, which builds an Element for every child of a document's root.

    Args:
        header: The root's start tag, when it was read before or is made up.
        lifetime: Bytes after which the next child is not begun: `WornOut` is raised.

    Attributes:
        elements: How many elements of the current child are read; it is one of them.
    """

    # Expat calls back for every tag: these methods are kept lean, and `list.append` and `dict.__setitem__` are
    # handlers in their own right, because then no Python code runs for them.

    def __init__(self, limits: Limits, listener: Listener, header: Header, lifetime: int = sys.maxsize) -> None:
        self._limits = limits
        self._listener = listener
        self.header = header
        self._renew_at = lifetime + len(header.tag)
        self.elements = 0
        self._open: list[Element] = []
        self._text: list[str] = []
        self._declared: dict[str | None, str | None] = {}
        self._names = _Names()
        self._within_cdata = False
        self._input = _Input(len(header.tag))
        self._parser = parser = expat.ParserCreate("UTF-8", _SEPARATOR)
        if hasattr(parser, "SetReparseDeferralEnabled"):
            # Otherwise a tag that came in three pieces can stay inside expat until the next stanza.
            parser.SetReparseDeferralEnabled(False)
        parser.buffer_text = True
        parser.buffer_size = PIECE_BYTES
        if header.tag:
            parser.Parse(header.tag)
        parser.StartElementHandler = self._start if header.tag else self._start_root
        parser.EndElementHandler = self._end
        parser.StartNamespaceDeclHandler = self._declared.__setitem__
        parser.CharacterDataHandler = self._text.append
        parser.StartCdataSectionHandler = self._start_cdata
        parser.EndCdataSectionHandler = self._end_cdata
        parser.StartDoctypeDeclHandler = _refuser("a document type declaration")
        parser.ProcessingInstructionHandler = _refuser("a processing instruction")

    def close(self) -> None:
        """Free expat's memory now; the cycle through its handlers would keep it until a garbage collection."""
        del self._parser

    def feed(self, data: bytes) -> None:
        """
        Take the next bytes of a document.

        Raises:
            Oversized: A child of the root is over a limit.
            WornOut: The parser's lifetime has ended.
            ParserError, expat.ExpatError: Not well-formed, or not what a stream may hold.
        """
        unread = self._input.unread
        unread += data
        too_long = None
        last = data.rfind(b">")
        if last >= 0:
            # No tag ends without ">". Given only whole tags, expat does not read one from its beginning again for
            # each piece of it that comes in.
            end = len(unread) - len(data) + last + 1
            if end > NAMESPACE_BYTES:
                too_long = long_namespace(unread, end, self._within_cdata)
                if too_long is not None:
                    end = max(self._input.given, too_long.start())
            self._input.give(self._parser, end)
        if too_long is not None:
            raise self._skipping_rest(TOO_LONG)
        child_bytes = len(unread)
        if self._open:
            child_bytes += self._input.base - self._input.begun
        else:
            self._text.clear()
            if unread and not self._input.given:
                # White space between stanzas keeps connections alive, for ever.
                begin = unread.find(b"<")
                between = unread[: begin if begin >= 0 else len(unread)]
                if not self.header.tag and between.strip(_BOM_AND_WHITE):
                    raise ParserError("this is not XML")
                del unread[: len(between)]
                child_bytes = len(unread)
        if child_bytes > self._limits.max_bytes:
            raise self._skipping_rest(self._too_many_bytes)

    def _start_root(self, name: str, attributes: dict[str, str]) -> None:
        tag = _RAW_NAME.match(self._from_here())
        assert tag is not None
        declarations = "".join(
            f" xmlns{':' if prefix else ''}{prefix or ''}={quoted(uri or '')}" for prefix, uri in self._declared.items()
        )
        root = self._element(name, attributes, "")
        self.header = Header(tag[0] + declarations.encode() + b">", root.defaultUri)
        self._parser.StartElementHandler = self._start
        self._listener.started(root)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if self._text:
            self._flush_text()
        open_ = self._open
        limits = self._limits
        if open_:
            parent = open_[-1]
            element = self._element(name, attributes, parent.defaultUri)
            self.elements += 1
            if len(open_) >= limits.max_depth:
                raise self._over_limit(element, "levels of nesting", limits.max_depth)
            if self.elements > limits.max_elements:
                raise self._over_limit(element, "elements", limits.max_elements)
            element.parent = parent
            parent.children.append(element)
        else:
            self._input.begun = self._parser.CurrentByteIndex
            if self._input.begun >= self._renew_at:
                raise WornOut(self._from_here())
            self.elements = 1
            element = self._element(name, attributes, self.header.default_uri)
        if len(attributes) + len(element.localPrefixes) > limits.max_attributes:
            raise self._over_limit(element, "attributes", limits.max_attributes)
        open_.append(element)

    def _element(self, name: str, attributes: dict[str, str], default: str) -> Element:
        names = self._names
        declared = self._declared
        prefixes = None
        if declared:
            if None in declared:
                default = declared.pop(None) or ""
            if declared:
                prefixes = dict(declared)
                declared.clear()
        for key in attributes:
            if _SEPARATOR in key:
                qualified = {names[k] if _SEPARATOR in k else k: value for k, value in attributes.items()}
                return Element(names[name], default, qualified, prefixes)
        return Element(names[name], default, attributes, prefixes)

    def _end(self, _name: str) -> None:
        if self._text:
            self._flush_text()
        if not self._open:
            self._listener.ended()
            return
        element = self._open.pop()
        if self._open:
            return
        max_bytes = self._limits.max_bytes
        if self._input.base + self._input.given - self._input.begun > max_bytes and self._size(element) > max_bytes:
            self._listener.oversized(start_tag(element), self._too_many_bytes)
        else:
            self._listener.finished(element)

    def _flush_text(self) -> None:
        text = self._text
        if self._open:
            self._open[-1].children.append(text[0] if len(text) == 1 else "".join(text))
        text.clear()

    def _start_cdata(self) -> None:
        self._within_cdata = True

    def _end_cdata(self) -> None:
        self._within_cdata = False

    def _from_here(self) -> bytes:
        """The bytes that are in from the tag on that expat is telling us about."""
        return bytes(self._input.unread[self._parser.CurrentByteIndex - self._input.base :])

    def _size(self, element: Element) -> int:
        """Bytes of a child whose end expat is telling us about: for `<a/>` it points behind it, else at the end tag."""
        at = self._parser.CurrentByteIndex - self._input.base
        if element.children or self._input.unread[at - 2 : at] != b"/>":
            at = self._input.unread.index(b">", at) + 1
        return self._input.base + at - self._input.begun

    @property
    def _too_many_bytes(self) -> str:
        return f"more than {self._limits.max_bytes} bytes"

    def _over_limit(self, element: Element, what: str, limit: int) -> Oversized:
        """The stanza cannot go on with this element."""
        return self._skipping(self._from_here(), self._open[0] if self._open else element, f"more than {limit} {what}")

    def _skipping_rest(self, reason: str) -> Exception:
        """Expat must not have the next token, which may be a stanza's start tag."""
        rest = bytes(self._input.unread)
        if self._open:
            return self._skipping(rest, self._open[0], reason)
        tag = rest.lstrip()
        if not self.header.tag or not tag.startswith(b"<") or tag.startswith((b"</", b"<!", b"<?")):
            return ParserError(f"{reason}, outside of a stanza")
        return self._skipping(tag, self._salvaged(tag), reason)

    def _skipping(self, rest: bytes, start: Element, reason: str) -> Oversized:
        return Oversized(rest, Skipper(start, reason, len(self._open), self._within_cdata))

    def _salvaged(self, tag: bytes) -> Element:
        """Whom a stanza is from, and what it is, as far as that comes before what makes its start tag endless."""
        known = _RAW_ATTRIBUTES.match(tag)
        beginning = known[0] if known else b"<_"
        too_long = long_namespace(beginning, len(beginning), within_cdata=False)
        if too_long:
            beginning = beginning[: too_long.start("long")]
        generous = Limits(max_bytes=sys.maxsize, max_attributes=sys.maxsize)
        found: list[Element] = []
        reader = Reader(generous, Listener(found.append), self.header)
        try:
            reader.feed(beginning + b"/>")
        except expat.ExpatError:
            # Its prefix is declared further on.
            return Element((self.header.default_uri, "_"), self.header.default_uri)
        finally:
            reader.close()
        return found[0]


class DocumentReader(Reader):
    """Reads a whole document, in which comments, and text between the root's children, are refused."""

    def __init__(self, limits: Limits, listener: Listener, header: Header) -> None:
        super().__init__(limits, listener, header)
        self._parser.CommentHandler = _refuser("a comment")

    def parse(self, document: bytes) -> None:
        """Take the document, its header left out; raises as `feed`."""
        if long_namespace(document, len(document), within_cdata=False):
            raise ParserError(TOO_LONG)
        self._input.unread += document
        self._input.given = len(document)
        self._parser.Parse(document, True)

    def _flush_text(self) -> None:
        if not self._open and "".join(self._text).strip(_WHITE):
            raise ParserError("text outside of a stanza")
        super()._flush_text()


def _refuser(what: str) -> Callable[..., None]:
    def refuse_it(*_: object) -> None:
        raise ParserError(f"{what} is not accepted")

    return refuse_it
