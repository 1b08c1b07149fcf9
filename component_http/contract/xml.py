"""
The only XML parser and serializer of the project.

`StreamParser` takes the place of `domish.elementStream()` under Twisted's XmlStream, `parse_stanzas` reads the XML
that a webhook hands us, `serialize` writes every element that leaves. Elements are `domish.Element` throughout,
because wokkel's handlers expect them.

Source: RFC 6120 section 11 (XML usage), XML 1.0, Namespaces in XML 1.0.
"""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Callable
from typing import ClassVar
from xml.parsers import expat

from attrs import frozen
from twisted.words.xish.domish import Element, ParserError, SerializedXML

from component_http.errors import XmlRefused

__all__ = [
    "NS_CLIENT",
    "NS_COMPONENT",
    "NS_MUC",
    "NS_MUC_USER",
    "NS_PING",
    "STANZA_NAMESPACES",
    "Limits",
    "StreamParser",
    "parse_stanzas",
    "serialize",
]

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
STANZA_NAMESPACES: frozenset[str | None] = frozenset({NS_COMPONENT, NS_CLIENT, "", None})
"""What means "the stream's own namespace" on a stanza, and on the children that share it."""

_MARK_OF_A_ROOM = NS_MUC_USER.encode()

_NS_XML = "http://www.w3.org/XML/1998/namespace"
_NS_XMLNS = "http://www.w3.org/2000/xmlns/"

# Put by expat between namespace name and local name. XML 1.0 cannot write this character, not even as a reference,
# so what a peer sends always splits where we expect it.
_SEPARATOR = "\x01"

_PIECE_BYTES = 16384
"""Input is taken in pieces of at most this, so that no more than this is built of a stanza beyond `max_bytes`."""

_LIFETIME_BYTES = 65536
"""
Input after which an expat parser gives way to a new one, at the next stanza.

Expat keeps every name it has ever seen, at up to 100 times the bytes that a peer spends on it, and a stream lives for
months. A new parser costs as much as one stanza.
"""

_NAMESPACE_BYTES = 512
"""
The longest namespace name, as written; no protocol comes near it.

Expat puts the namespace name in front of every name with that prefix before anybody is asked: 256 KiB of one start
tag would become 2 GiB.
"""

_REPEATED_CHARS = 256
"""
Characters of repeated namespace declarations that one stanza may have however short it is.

If there are more, and they are more than a quarter of its markup, each namespace is declared once, with a prefix.
Otherwise a peer that declares one long name once, with a prefix, would have it written for each element.
"""

_MOST_REPEATED_CHARS = 16384
"""The same for a stanza of any length."""

_ESCAPED_CHARS = 64
"""Characters by which escaping may lengthen a text before shorter ways to write it are looked for."""

_WHITE = " \t\r\n"
_BOM_AND_WHITE = b"\xef\xbb\xbf \t\r\n"
_RAW_START = re.compile(r"<[^\s/>]+")
_RAW_NAME = re.compile(rb"<[^\s/>]+")
_RAW_ATTRIBUTES = re.compile(rb"""<[^\s/>]+(?:\s+[^\s=]+\s*=\s*(?:"[^"<]*"|'[^'<]*'))*""")
_PREAMBLE = re.compile(r"\A[\ufeff \t\r\n]*(?:<\?xml[ \t\r\n][^<>]*\?>)?")
_LONG = rb"""xmlns(?::[^\s=<>"':]*)?\s*=\s*(?:"[^"<]{%d}|'[^'<]{%d})""" % ((_NAMESPACE_BYTES + 1,) * 2)
_LONG_ANYWHERE = re.compile(_LONG)
# A "<" only ever begins a token, and no token can be read in two ways, so one search takes time in proportion to the
# length. Only single characters are repeated possessively: Python 3.11.0 to 3.11.4 get groups wrong.
_LONG_OR_OPAQUE = re.compile(
    rb"""<(?:!--|!\[CDATA\[|[^\s/<>=!?"']++"""
    rb"""(?:\s++[^\s/<>="']++\s*+=\s*+(?:"[^"<]*+"|'[^'<]*+'))*?\s++(?P<long>%s))""" % _LONG
)
_ENDS = {b"<!--": b"-->", b"<![CDATA[": b"]]>"}
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_MAY_END_CDATA = re.compile(r"(?<=\])>|\A>")
_TEXT_SPECIAL = re.compile("[<>&\r\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_ATTRIBUTE_SPECIAL = re.compile("[<&'\t\n\r\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_ASCII_NAME = re.compile("[A-Za-z_][A-Za-z0-9_.-]*")

_USUAL_ATTRIBUTES: dict[str | tuple[str | None, str], str] = {
    (_NS_XML, "lang"): "xml:lang",
    **{name: name for name in ("to", "from", "type", "id", "node", "var", "stamp", "by")},
}
"""As they are written; these are all that most stanzas have."""


@frozen
class Limits:
    """
    How much XML one stanza may be.

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


# ---------------------------------------------------------------------------------------------------------- reading


class _Skipper:
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
        self.start = start
        self.reason = reason
        self._tail = b""
        self._depth = depth
        self._ahead = self._CDATA if within_cdata else self._TEXT
        self._kept = b""

    def feed(self, data: bytes) -> bytes | None:
        """
        Take the next bytes.

        Returns:
            What follows the stanza, or None as long as it goes on.
        """
        seen = self._tail + data
        if _MARK_OF_A_ROOM in seen:
            _mark_room(self.start)
        self._tail = seen[1 - len(_MARK_OF_A_ROOM) :]
        data = self._kept + data
        at = 0
        while found := self._ahead.search(data, at):
            at = found.end()
            mark = found[0]
            if self._ahead is self._TEXT:
                self._ahead = self._INTO[mark]
            elif self._ahead is self._START_TAG:
                if mark in (b'"', b"'"):
                    self._ahead = self._INTO[mark]
                    continue
                self._ahead = self._TEXT
                if mark == b">":
                    self._depth += 1
                elif self._depth == 0:
                    return data[at:]
            elif mark in (b'"', b"'"):
                self._ahead = self._START_TAG
            else:
                if self._ahead is self._END_TAG:
                    self._depth -= 1
                self._ahead = self._TEXT
                if self._depth == 0:
                    return data[at:]
        self._kept = data[max(at, len(data) - 8) :]  # the longest mark is nine bytes
        return None


class _WornOut(Exception):
    """
    An expat parser has lived long enough.

    Attributes:
        rest: The bytes from the next stanza on, as far as they are in.
    """

    def __init__(self, rest: bytes) -> None:
        super().__init__()
        self.rest = rest


class _Oversized(Exception):
    """
    A stanza is over a limit, and expat is not to read more of it.

    Attributes:
        rest: The bytes from there on, as far as they are in.
        skipper: For these and what follows.
    """

    def __init__(self, rest: bytes, skipper: _Skipper) -> None:
        super().__init__(skipper.reason)
        self.rest = rest
        self.skipper = skipper


class _Names(dict[str, tuple[str, str]]):
    """Expat's names, split into namespace name and local name; they live as long as their parser."""

    def __init__(self) -> None:
        super().__init__()
        self._uris: dict[str, str] = {}

    def __missing__(self, name: str) -> tuple[str, str]:
        uri, _, local = name.rpartition(_SEPARATOR)
        self[name] = qualified = self._uris.setdefault(uri, uri), local
        return qualified


class _Reader:
    """
    One expat parser, which builds an Element for every child of a document's root.

    Args:
        limits: For each child of the root.
        finished: Called with each child when its end tag is in.
        oversized: Called with a child's start tag and a reason when only its end tag showed that it is too long.
        started: Called with the root's start tag, unless a header is given.
        ended: Called when the root's end tag is in.
        header: The root's start tag, when it was read before or is made up.
        default_uri: The default namespace in `header`.
        lifetime: Bytes after which the next child is not begun: `_WornOut` is raised.
        strict: Refuse comments, and text between the root's children.

    Attributes:
        elements: How many elements of the current child are read; it is one of them.
    """

    # Expat calls back for every tag: these methods are kept lean, and `list.append` and `dict.__setitem__` are
    # handlers in their own right, because then no Python code runs for them.

    def __init__(
        self,
        limits: Limits,
        finished: Callable[[Element], None],
        oversized: Callable[[Element, str], None],
        *,
        started: Callable[[Element], None] | None = None,
        ended: Callable[[], None] | None = None,
        header: bytes = b"",
        default_uri: str = "",
        lifetime: int = sys.maxsize,
        strict: bool = False,
    ) -> None:
        self._limits = limits
        self._max_bytes = limits.max_bytes
        self._max_depth = limits.max_depth
        self._max_attributes = limits.max_attributes
        self._max_elements = limits.max_elements
        self._finished = finished
        self._oversized = oversized
        self._started = started
        self._ended = ended
        self._renew_at = lifetime + len(header)
        self._strict = strict
        self.header = header
        self.default_uri = default_uri

        self._open: list[Element] = []
        self.elements = 0
        self._text: list[str] = []
        self._declared: dict[str | None, str | None] = {}
        self._names = _Names()
        self._within_cdata = False

        self._unread = bytearray()  # what expat has not finished; the first _given bytes of it were given to expat
        self._given = 0
        self._base = len(header)  # expat's index of the first byte of _unread
        self._fed = len(header)  # expat's index of the end of what it was given
        self._begun = 0  # expat's index of the current child

        self._parser = parser = expat.ParserCreate("UTF-8", _SEPARATOR)
        if hasattr(parser, "SetReparseDeferralEnabled"):
            # Otherwise a tag that came in three pieces can stay inside expat until the next stanza.
            parser.SetReparseDeferralEnabled(False)
        parser.buffer_text = True
        parser.buffer_size = _PIECE_BYTES
        if header:
            parser.Parse(header)
        parser.StartElementHandler = self._start if header else self._start_root
        parser.EndElementHandler = self._end
        parser.StartNamespaceDeclHandler = self._declared.__setitem__
        parser.CharacterDataHandler = self._text.append
        parser.StartCdataSectionHandler = self._start_cdata
        parser.EndCdataSectionHandler = self._end_cdata
        parser.StartDoctypeDeclHandler = self._refuse_doctype
        parser.ProcessingInstructionHandler = self._refuse_instruction
        if strict:
            parser.CommentHandler = self._refuse_comment

    def close(self) -> None:
        """Free expat's memory now; the cycle through its handlers would keep it until a garbage collection."""
        del self._parser

    def parse(self, document: bytes) -> None:
        """
        Take a whole document, its header left out.

        Raises:
            _Oversized, ParserError, expat.ExpatError: As `feed`.
        """
        if _long_namespace(document, len(document), within_cdata=False):
            raise ParserError(f"a namespace name of more than {_NAMESPACE_BYTES} bytes")
        self._unread += document
        self._fed += len(document)
        self._parser.Parse(document, True)

    def feed(self, data: bytes) -> None:
        """
        Take the next bytes of a document.

        Raises:
            _Oversized: A child of the root is over a limit.
            _WornOut: The parser's lifetime is over.
            ParserError, expat.ExpatError: Not well-formed, or not what a stream may hold.
        """
        unread = self._unread
        unread += data
        too_long = None
        last = data.rfind(b">")
        if last >= 0:
            # No tag ends without ">". Given only whole tags, expat does not read one from its beginning again for
            # each piece of it that comes in.
            end = len(unread) - len(data) + last + 1
            if end > _NAMESPACE_BYTES:
                too_long = _long_namespace(unread, end, self._within_cdata)
                if too_long is not None:
                    end = max(self._given, too_long.start())
            self._fed = self._base + end
            self._parser.Parse(unread[self._given : end])
            done = self._parser.CurrentByteIndex - self._base
            del unread[:done]
            self._base += done
            self._given = end - done
        if too_long is not None:
            raise self._skipping_rest(f"a namespace name of more than {_NAMESPACE_BYTES} bytes")
        if self._open:
            if self._base + len(unread) - self._begun > self._max_bytes:
                raise self._skipping_rest(self._over("bytes", self._max_bytes))
            return
        self._text.clear()
        if unread and not self._given:
            # White space between stanzas keeps connections alive, for ever.
            begin = unread.find(b"<")
            between = unread[: begin if begin >= 0 else len(unread)]
            if not self.header and between.strip(_BOM_AND_WHITE):
                raise ParserError("this is not XML")
            del unread[: len(between)]
        if len(unread) > self._max_bytes:
            raise self._skipping_rest(self._over("bytes", self._max_bytes))

    def _start_root(self, name: str, attributes: dict[str, str]) -> None:
        tag = _RAW_NAME.match(self._from_here())
        assert tag is not None
        declarations = "".join(
            f" xmlns{':' if prefix else ''}{prefix or ''}={_quoted(uri or '')}"
            for prefix, uri in self._declared.items()
        )
        self.header = tag[0] + declarations.encode() + b">"
        root = self._element(name, attributes, "")
        self.default_uri = root.defaultUri
        self._parser.StartElementHandler = self._start
        if self._started is not None:
            self._started(root)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if self._text:
            self._flush_text()
        open_ = self._open
        if open_:
            parent = open_[-1]
            element = self._element(name, attributes, parent.defaultUri)
            self.elements += 1
            if (
                len(open_) >= self._max_depth
                or self.elements > self._max_elements
                or len(attributes) + len(element.localPrefixes) > self._max_attributes
            ):
                raise self._over_limit(element)
            element.parent = parent
            parent.children.append(element)
        else:
            self._begun = self._parser.CurrentByteIndex
            if self._begun >= self._renew_at:
                raise _WornOut(self._from_here())
            self.elements = 1
            element = self._element(name, attributes, self.default_uri)
            if len(attributes) + len(element.localPrefixes) > self._max_attributes:
                raise self._over_limit(element)
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
        open_ = self._open
        if open_:
            element = open_.pop()
            if not open_:
                if self._fed - self._begun > self._max_bytes and self._size(element) > self._max_bytes:
                    self._oversized(_start_tag(element), self._over("bytes", self._max_bytes))
                else:
                    self._finished(element)
        elif self._ended is not None:
            self._ended()

    def _flush_text(self) -> None:
        text = self._text
        if self._open:
            self._open[-1].children.append(text[0] if len(text) == 1 else "".join(text))
        elif self._strict and "".join(text).strip(_WHITE):
            raise ParserError("text outside of a stanza")
        text.clear()

    def _start_cdata(self) -> None:
        self._within_cdata = True

    def _end_cdata(self) -> None:
        self._within_cdata = False

    def _refuse_doctype(self, *_: object) -> None:
        raise ParserError("a document type declaration is not accepted")

    def _refuse_instruction(self, *_: object) -> None:
        raise ParserError("a processing instruction is not accepted")

    def _refuse_comment(self, _: str) -> None:
        raise ParserError("a comment is not accepted")

    def _from_here(self) -> bytes:
        """What is in, from the tag on that expat is telling us about."""
        return bytes(self._unread[self._parser.CurrentByteIndex - self._base :])

    def _size(self, element: Element) -> int:
        """Bytes of a child whose end expat is telling us about: for `<a/>` it points behind it, else at the end tag."""
        index = self._parser.CurrentByteIndex
        at = index - self._base
        if not element.children and self._unread[at - 2 : at] == b"/>":
            return index - self._begun
        return self._base + self._unread.index(b">", at) + 1 - self._begun

    def _over(self, what: str, limit: int) -> str:
        return f"more than {limit} {what}"

    def _over_limit(self, element: Element) -> _Oversized:
        """The stanza cannot go on with this element."""
        if len(self._open) >= self._max_depth:
            reason = self._over("levels of nesting", self._max_depth)
        elif self.elements > self._max_elements:
            reason = self._over("elements", self._max_elements)
        else:
            reason = self._over("attributes", self._max_attributes)
        return self._skipping(self._from_here(), self._open[0] if self._open else element, reason)

    def _skipping_rest(self, reason: str) -> Exception:
        """Expat must not have the next token, which may be a stanza's start tag."""
        rest = bytes(self._unread)
        if self._open:
            return self._skipping(rest, self._open[0], reason)
        tag = rest.lstrip()
        if not self.header or not tag.startswith(b"<") or tag.startswith((b"</", b"<!", b"<?")):
            return ParserError(f"{reason}, outside of a stanza")
        return self._skipping(tag, self._salvaged(tag), reason)

    def _skipping(self, rest: bytes, start: Element, reason: str) -> _Oversized:
        return _Oversized(rest, _Skipper(_start_tag(start), reason, len(self._open), self._within_cdata))

    def _salvaged(self, tag: bytes) -> Element:
        """Whom a stanza is from, and what it is, as far as that comes before what makes its start tag endless."""
        known = _RAW_ATTRIBUTES.match(tag)
        beginning = known[0] if known else b"<_"
        too_long = _long_namespace(beginning, len(beginning), within_cdata=False)
        if too_long:
            beginning = beginning[: too_long.start("long")]
        generous = Limits(max_bytes=sys.maxsize, max_attributes=sys.maxsize)
        found: list[Element] = []
        reader = _Reader(generous, found.append, _refuse_oversized, header=self.header, default_uri=self.default_uri)
        try:
            reader.feed(beginning + b"/>")
        except expat.ExpatError:
            # Its prefix is declared further on.
            return Element((self.default_uri, "_"), self.default_uri)
        finally:
            reader.close()
        return found[0]


def _long_namespace(data: bytes | bytearray, end: int, within_cdata: bool) -> re.Match[bytes] | None:
    """
    Find the first start tag, complete or not, that declares too long a namespace name.

    Args:
        data: Begins with a token, or in text.
        end: Bytes of it to look at.
        within_cdata: It begins inside of a CDATA section.

    Returns:
        The tag up to so much of the name as is too much; its group "long" begins with the declaration.
    """
    # Hardly a stanza holds a long one anywhere, and this is much faster.
    if _LONG_ANYWHERE.search(data, 0, end) is None:
        return None
    at = data.find(b"]]>", 0, end) if within_cdata else 0
    while at >= 0 and (found := _LONG_OR_OPAQUE.search(data, at, end)):
        if found["long"]:
            return found
        at = data.find(_ENDS[found[0]], found.end(), end)
    return None


def _start_tag(element: Element) -> Element:
    tag = Element((element.uri, element.name), element.defaultUri, element.attributes, element.localPrefixes)
    if any(child.uri == NS_MUC_USER for child in element.elements()):
        _mark_room(tag)
    return tag


def _mark_room(tag: Element) -> None:
    """Keep the one fact of a stanza's content that decides whether it may be answered with an error."""
    if not tag.children:
        tag.addElement((NS_MUC_USER, "x"))


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
        self.DocumentStartEvent: Callable[[Element], object] = _ignore
        self.ElementEvent: Callable[[Element], object] = _ignore
        self.DocumentEndEvent: Callable[[], object] = _ignore
        self._limits = limits
        self._skipped = skipped
        self._pieces: deque[bytes] = deque()
        self._events: deque[Element | Callable[[], object]] = deque()
        self._over = False
        self._skipper: _Skipper | None = None
        self._reader = self._new_reader(b"", "")

    def parse(self, data: bytes) -> None:
        """
        Take the next bytes of the stream, cut anywhere.

        Raises:
            ParserError: The server broke the stream.
        """
        self._pieces.extend([data[at : at + _PIECE_BYTES] for at in range(0, len(data), _PIECE_BYTES)])
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
                    events.append(_raiser(ParserError(str(error))))

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
        except _WornOut as end:
            rest = end.rest
        except _Oversized as end:
            rest = end.rest
            self._skipper = end.skipper
        self._reader = self._new_reader(reader.header, reader.default_uri)
        reader.close()
        return rest

    def _new_reader(self, header: bytes, default_uri: str) -> _Reader:
        return _Reader(
            self._limits,
            self._events.append,
            self._report,
            started=self._start,
            ended=self._end,
            header=header,
            default_uri=default_uri,
            lifetime=_LIFETIME_BYTES,
        )

    def _start(self, root: Element) -> None:
        self._events.append(lambda: self.DocumentStartEvent(root))

    def _end(self) -> None:
        self._over = True
        self._events.append(lambda: self.DocumentEndEvent())

    def _report(self, start: Element, reason: str) -> None:
        self._events.append(lambda: self._skipped(start, reason))


def _ignore(*_: object) -> None:
    """Nobody has asked for this event."""


def _raiser(error: Exception) -> Callable[[], object]:
    def raise_it() -> None:
        raise error

    return raise_it


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
    stanzas = _parse_elements(_PREAMBLE.sub("", text, count=1), NS_COMPONENT, limits, charge)
    if not stanzas:
        raise XmlRefused("there is no element in it")
    for stanza in stanzas:
        _use_component_namespace(stanza)
    return stanzas


def _parse_elements(
    text: str, default_uri: str, limits: Limits, charge: Callable[[int], object] | None = None
) -> list[Element]:
    """Elements side by side, of a text without XML declaration; raises `XmlRefused`, and what `charge` raises."""
    elements: list[Element] = []

    def finished(element: Element) -> None:
        if charge is not None:
            charge(reader.elements)
        elements.append(element)

    reader = _Reader(
        limits,
        finished,
        _refuse_oversized,
        header=f"<_ xmlns={_quoted(default_uri)}>".encode(),
        default_uri=default_uri,
        strict=True,
    )
    try:
        reader.parse(_FORBIDDEN.sub("\ufffd", text).encode() + b"</_>")
    except expat.ExpatError as error:
        raise XmlRefused(f"not well-formed: {expat.ErrorString(error.code)}") from error
    except (ParserError, _Oversized) as error:
        raise XmlRefused(str(error)) from error
    finally:
        reader.close()
    return elements


def _refuse_oversized(_: Element, reason: str) -> None:
    raise ParserError(reason)


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


# ---------------------------------------------------------------------------------------------------------- writing


def serialize(element: Element, *, default_namespace: str = NS_COMPONENT, standalone: bool = False) -> str:
    """
    Write an element so that it is right as a child of the stream and as a document of its own (CONTRACT 1).

    The stream's namespace is what `default_namespace` and `jabber:component:accept` name anywhere; on a top-level
    element, and on its descendants down to the first element of another namespace, no namespace and `jabber:client`
    mean it too. It is not written, unless an element of it is inside of one without a namespace. An element whose
    `uri` is None takes the default namespace around it, as with domish.

    Every name, namespace name and text is escaped; characters that XML forbids, and lone surrogates, become U+FFFD.
    Namespaces are declared where they are used; prefixes in `localPrefixes` are declared if that is possible, for
    names in text that use them. Any depth works. The result is at most about twice as long as what the element was
    parsed from; so is its JSON string.

    Args:
        element: A tree of `Element`, `str` and `SerializedXML` (which must be well-formed by itself).
        default_namespace: The stream's default namespace.
        standalone: Write a document for somebody who has no stream. The stream's namespace is never written, and
            `jabber:client` means it only where the top-level element is in `jabber:client`, too.

    Raises:
        XmlRefused: The element cannot be XML: a name that is none, two attributes of the same name, a namespace that
            cannot be used, a child or value of another type, raw XML that `parse_stanzas` would refuse.
    """
    try:
        try:
            return _Writer(default_namespace, standalone, shared_prefixes=False).write(element)
        except _PrefixesNeeded:
            return _Writer(default_namespace, standalone, shared_prefixes=True).write(element)
    except (TypeError, AttributeError, ValueError) as error:
        raise XmlRefused(f"something in it is not XML: {error}") from error


class _PrefixesNeeded(Exception):
    """The element cannot, or not in fair length, be written with a default namespace on each foreign element."""


class _Writer:
    """
    Writes one element, without recursion.

    Args:
        own: The stream's default namespace.
        standalone: Write a document for somebody who has no stream.
        shared_prefixes: Declare each foreign namespace once, with a prefix, at the top. Otherwise each foreign
            element declares its own as the default namespace, which is what people expect to see. But that has no
            way back to the stream's namespace inside of a foreign element, and it can repeat one long name thousands
            of times: `_PrefixesNeeded`.
    """

    # Below, a namespace is None for the stream's own, "" for none, else its name.

    def __init__(self, own: str, standalone: bool, *, shared_prefixes: bool) -> None:
        self._own = own
        self._standalone = standalone
        self._always_own: frozenset[str | None] = frozenset({own, NS_COMPONENT, None})
        self._also_own = STANZA_NAMESPACES | {own}
        self._shared: dict[str, str] | None = {} if shared_prefixes else None
        self._declared: set[str] = set()
        self._repeated_chars = 0

    def write(self, top: Element) -> str:
        """The XML of an element; raises `XmlRefused` and `_PrefixesNeeded`."""
        if self._standalone:
            self._also_own = self._always_own | {"", top.defaultUri if top.uri is None else top.uri}
        out: list[str] = []
        # What is still to be written, last first: markup, or an element with whether all around it is of the stream's
        # namespace, the default namespace as written around it, and as domish has it there.
        stack: list[str | tuple[Element, bool, str | None, str | None]] = [(top, True, None, None)]
        while stack:
            item = stack.pop()
            if isinstance(item, str):
                out.append(item)
                continue
            element, shares, written, default = item
            own = self._also_own if shares else self._always_own
            if element.defaultUri is not None:
                default = element.defaultUri
            uri = default if element.uri is None else element.uri
            namespace = None if uri in own else uri
            name = element.name
            if not (name.isascii() and name.isidentifier()):
                _check_name(name)
            declarations: dict[str, str] = {}
            if namespace != written:
                name, written = self._qualify(name, namespace, written, declarations)
            if element.localPrefixes and self._shared is None:
                self._keep_prefixes(element.localPrefixes, declarations)
            attributes = element.attributes
            for key in attributes:
                if key not in _USUAL_ATTRIBUTES and (
                    key.__class__ is not str or not key.isascii() or not key.isidentifier() or key == "xmlns"
                ):
                    attributes = self._qualify_attributes(attributes, declarations)
                    break

            tag = f"<{name}"
            for key, value in declarations.items():
                tag += f" {key}={_quoted(value)}"
            for key, value in attributes.items():
                quoted = _quoted(value) if _ATTRIBUTE_SPECIAL.search(value) else f"'{value}'"
                tag += f" {_USUAL_ATTRIBUTES.get(key, key)}={quoted}"
            children = element.children
            if not children:
                out.append(f"{tag}/>")
            elif len(children) == 1 and children[0].__class__ is str:
                out.append(f"{tag}>{_escape_text(children[0])}</{name}>")
            else:
                out.append(f"{tag}>")
                stack.append(f"</{name}>")
                shares = shares and namespace is None
                for child in reversed(children):
                    if isinstance(child, Element):
                        stack.append((child, shares, written, default))
                    elif isinstance(child, SerializedXML):
                        for part in reversed(_raw_parts(child, default)):
                            stack.append(
                                _escape_text(part) if isinstance(part, str) else (part, shares, written, default)
                            )
                    elif isinstance(child, str):
                        stack.append(_escape_text(child))
                    else:
                        raise XmlRefused(f"a child of <{name}/> is a {type(child).__name__}")
        if self._shared:
            declared = "".join(f" xmlns:{prefix}={_quoted(uri)}" for uri, prefix in self._shared.items())
            out[0] = _RAW_START.sub(lambda start: start[0] + declared, out[0], count=1)
        text = "".join(out)
        if self._repeated_chars > _REPEATED_CHARS and 4 * self._repeated_chars > len(text) - _text_chars(top):
            raise _PrefixesNeeded
        return text

    def _qualify(
        self, name: str, namespace: str | None, written: str | None, declarations: dict[str, str]
    ) -> tuple[str, str | None]:
        """The name as it is to be written, and the default namespace inside of the element."""
        if namespace == _NS_XML:
            return f"xml:{name}", written
        if namespace == _NS_XMLNS:
            raise XmlRefused(f"no element can be in {_NS_XMLNS}")
        if namespace is None:
            if self._standalone and written == "":
                return name, written
            if self._shared is None:
                raise _PrefixesNeeded
            declarations["xmlns"] = self._own
        elif namespace == "" or self._shared is None:
            self._charge(namespace)
            declarations["xmlns"] = namespace
        else:
            return f"{self._shared_prefix(namespace)}:{name}", written
        return name, namespace

    def _keep_prefixes(self, prefixes: dict[str, str], declarations: dict[str, str]) -> None:
        for prefix, uri in prefixes.items():
            if prefix in ("xml", "xmlns") or not uri or uri in (_NS_XML, _NS_XMLNS) or uri in self._always_own:
                continue
            if _is_name(prefix):
                self._charge(uri)
                declarations[f"xmlns:{prefix}"] = _FORBIDDEN.sub("\ufffd", uri)

    def _qualify_attributes(
        self, attributes: dict[str | tuple[str | None, str], str], declarations: dict[str, str]
    ) -> dict[str, str]:
        """The attributes by the names that are to be written, for an element with more than plain ASCII names."""
        prefixes = {uri: key[6:] for key, uri in declarations.items() if key != "xmlns"}
        qualified: dict[str, str] = {}
        for key, value in attributes.items():
            uri, name = key if isinstance(key, tuple) else (None, key)
            if not uri and name.startswith("xml:"):
                uri, name = _NS_XML, name[4:]
            _check_name(name)
            if self._standalone and uri and uri in self._always_own:
                if name in attributes:
                    continue
                uri = None
            if uri == _NS_XMLNS or (not uri and name == "xmlns"):
                raise XmlRefused("a namespace declaration is not an attribute")
            if uri == _NS_XML:
                name = f"xml:{name}"
            elif uri:
                uri = _FORBIDDEN.sub("\ufffd", uri)
                if self._shared is not None:
                    prefix = self._shared_prefix(uri)
                elif uri in prefixes:
                    prefix = prefixes[uri]
                else:
                    self._charge(uri)
                    prefix = prefixes[uri] = _unused(len(prefixes), declarations)
                    declarations[f"xmlns:{prefix}"] = uri
                name = f"{prefix}:{name}"
            if name in qualified:
                raise XmlRefused(f"two attributes are named {name}")
            qualified[name] = value
        return qualified

    def _shared_prefix(self, uri: str) -> str:
        assert self._shared is not None
        if uri not in self._shared:
            uri = _FORBIDDEN.sub("\ufffd", uri)
        return self._shared.setdefault(uri, f"ns{len(self._shared)}")

    def _charge(self, uri: str) -> None:
        """Count a declaration, if it is not the first of this namespace."""
        if self._shared is not None:
            return
        if uri not in self._declared:
            self._declared.add(uri)
            return
        self._repeated_chars += len(uri) + len(" xmlns=''")
        if self._repeated_chars > _MOST_REPEATED_CHARS:
            raise _PrefixesNeeded


def _text_chars(top: Element) -> int:
    """How long the text in an element is."""
    chars = 0
    elements = [top]
    while elements:
        for child in elements.pop().children:
            if isinstance(child, Element):
                elements.append(child)
            else:
                chars += len(child)
    return chars


def _unused(number: int, declarations: dict[str, str]) -> str:
    while f"xmlns:ns{number}" in declarations:
        number += 1
    return f"ns{number}"


def _raw_parts(raw: SerializedXML, default: str | None) -> list[Element | str]:
    """Somebody's own XML as children, so that it is written like everything else."""
    holders = _parse_elements(f"<_>{raw}</_>", NS_COMPONENT if default is None else default, Limits())
    if len(holders) != 1:
        raise XmlRefused("raw XML with an end tag too many")
    return list(holders[0].children)


def _check_name(name: str) -> None:
    if not _is_name(name):
        raise XmlRefused(f"{name[:80]!r} is not a name")


def _is_name(name: str) -> bool:
    """Whether expat, which Prosody and ejabberd read with, takes this for a name without prefix."""
    if name.isascii():
        return _ASCII_NAME.fullmatch(name) is not None
    seen: list[str] = []
    parser = expat.ParserCreate("UTF-8")
    parser.StartElementHandler = lambda tag, attributes: seen.extend((tag, *attributes))
    try:
        parser.Parse(f"<{name}/>".encode(), True)
    except (expat.ExpatError, UnicodeEncodeError):
        return False
    return seen == [name] and ":" not in name


def _escape_text(text: str) -> str:
    if _TEXT_SPECIAL.search(text) is None:
        return text
    text = _FORBIDDEN.sub("\ufffd", text)
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("\r", "&#13;")
    usual = escaped.replace(">", "&gt;")
    if len(usual) <= len(text) + _ESCAPED_CHARS:
        return usual
    # A peer can have written `>` as it is, and each of the others, too, in a CDATA section.
    sparing = _MAY_END_CDATA.sub("&gt;", escaped)
    if len(sparing) <= len(text) + len(text) // 8 + _ESCAPED_CHARS:
        return sparing
    section = text.replace("]]>", "]]]]><![CDATA[>").replace("\r", "]]>&#13;<![CDATA[")
    return min(sparing, f"<![CDATA[{section}]]>", key=len)


def _quoted(value: str) -> str:
    """
    An attribute's value as it is written, hardly longer than any peer can have written it.

    That is why it stands in the quotation marks that it holds fewer of, and why `>` stays as it is.
    """
    if _ATTRIBUTE_SPECIAL.search(value) is None:
        return f"'{value}'"
    value = _FORBIDDEN.sub("\ufffd", value).replace("&", "&amp;").replace("<", "&lt;")
    value = value.replace("\t", "&#9;").replace("\n", "&#10;").replace("\r", "&#13;")
    apostrophes = value.count("'")
    if apostrophes > value.count('"'):
        return '"' + value.replace('"', "&quot;") + '"'
    return "'" + (value.replace("'", "&apos;") if apostrophes else value) + "'"
