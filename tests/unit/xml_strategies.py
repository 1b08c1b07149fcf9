"""
What the XML tests are made of: strategies for trees with everything a peer or a bot may put into them, and the two
ways to say what a tree means, so that trees can be compared.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

from hypothesis import strategies as st
from twisted.words.xish.domish import Element

from component_http.contract.xml import NS_CLIENT, NS_COMPONENT, Limits, StreamParser

__all__ = [
    "HEADER",
    "NS_XML",
    "Reading",
    "cuts",
    "hostile_text",
    "meaning",
    "pieces",
    "shape",
    "trees",
    "written_stanzas",
]

NS_XML = "http://www.w3.org/XML/1998/namespace"
HEADER = (
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:component:accept' "
    b"xmlns:stream='http://etherx.jabber.org/streams' id='1'>"
)

_SPECIAL = "<>&'\"]\r\n\t /=:!?-x\x00\x01\x0b\x1f\x7f\x85\xa0\xe9\u2028\ud800\udfff\ufeff\ufffd\ufffe\uffff\U0001f600"

hostile_text = st.text(st.sampled_from(_SPECIAL) | st.characters(), max_size=12) | st.sampled_from(
    ["]]>", "<!--", "&amp;", "&#0;", "<![CDATA[", "\r\n", "a" * 100, "''\"", '\'""']
)
_names = st.sampled_from(
    ["a", "b", "body", "x-y", "_1.2", "ns0", "xmlfoo", "xml", "\xe9l\xe9ment", "\u540d", "type", "class"]
)
_uris = st.sampled_from([NS_COMPONENT, NS_CLIENT, "", "urn:a", "urn:b", "a b", 'it\'s "<&>"', "\t\n", "\x01", "ns0"])
_prefixes = st.sampled_from(["p", "q", "ns0", "ns1", "xml", "xmlns", "xmlfoo", "", "a:b", "1", "\xe9", "p p", "p='"])
_attribute_names: st.SearchStrategy[Any] = (
    _names
    | st.tuples(st.none() | st.just(""), _names)
    | st.tuples(st.just(NS_XML), st.sampled_from(["lang", "space"]))
    | st.tuples(_uris.filter(bool), _names)
)


@st.composite
def _elements(draw: st.DrawFn, children: st.SearchStrategy[list[Any]]) -> Element:
    uri = draw(st.none() | _uris)
    element = Element((uri, draw(_names)), draw(st.none() | st.just(uri) | _uris))
    taken = set()
    for key, value in draw(st.dictionaries(_attribute_names, hostile_text, max_size=4)).items():
        name = ("", key) if isinstance(key, str) else (_clean(key[0] or ""), key[1])
        if name not in taken:
            taken.add(name)
            element.attributes[key] = value
    element.localPrefixes = draw(st.dictionaries(_prefixes, _uris, max_size=2))
    for child in draw(children):
        if isinstance(child, Element):
            child.parent = element
        element.children.append(child)
    return element


def trees() -> st.SearchStrategy[Element]:
    """Elements that can be written, with hostile namespaces, prefixes, attributes and text."""
    return st.recursive(
        _elements(st.lists(hostile_text, max_size=2)),
        lambda inner: _elements(st.lists(inner | hostile_text, max_size=4)),
        max_leaves=8,
    )


def cuts(length: int) -> st.SearchStrategy[list[int]]:
    """Places to cut that many bytes at."""
    return st.lists(st.integers(0, length), max_size=12).map(sorted)


def pieces(data: bytes, places: list[int]) -> list[bytes]:
    """The bytes, cut at these places."""
    ends = [0, *places, len(data)]
    return [data[begin:end] for begin, end in pairwise(ends)]


def _clean(text: str) -> str:
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)


def meaning(element: Element, shares: bool = True, default: str | None = None) -> Any:
    """
    What an element says, as nested tuples: namespace (None is the stream's own), name, attributes, children.

    Args:
        element: The element.
        shares: Its parent is of the stream's own namespace.
        default: The default namespace around it.
    """
    if element.defaultUri is not None:
        default = element.defaultUri
    uri = default if element.uri is None else element.uri
    if uri == NS_COMPONENT or (shares and uri in (NS_CLIENT, "")):
        uri = None
    attributes = {
        (_clean(key[0] or ""), key[1]) if isinstance(key, tuple) else ("", key): _clean(value)
        for key, value in element.attributes.items()
    }
    children: list[Any] = []
    for child in element.children:
        if isinstance(child, Element):
            children.append(meaning(child, shares and uri is None, default))
        elif children and isinstance(children[-1], str):
            children[-1] += _clean(child)
        elif child:
            children.append(_clean(child))
    return (uri if uri is None else _clean(uri), element.name, tuple(sorted(attributes.items())), tuple(children))


def shape(element: Element) -> Any:
    """Every field of an element that a parser sets, as nested tuples; checks `parent` on the way."""
    for child in element.children:
        assert isinstance(child, str) or child.parent is element
    return (
        element.uri,
        element.name,
        element.defaultUri,
        dict(element.attributes),
        dict(element.localPrefixes),
        [child if isinstance(child, str) else shape(child) for child in element.children],
    )


class Reading:
    """
    A stream being read.

    Attributes:
        events: What happened, in order: `("start", root)`, `("element", stanza)`, `("skipped", start, reason)`,
            `("end",)`.
    """

    def __init__(self, limits: Limits | None = None, header: bytes = HEADER) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.parser = StreamParser(
            Limits() if limits is None else limits,
            lambda start, reason: self.events.append(("skipped", start, reason)),
        )
        self.parser.DocumentStartEvent = lambda root: self.events.append(("start", root))
        self.parser.ElementEvent = lambda element: self.events.append(("element", element))
        self.parser.DocumentEndEvent = lambda: self.events.append(("end",))
        if header:
            self.parser.parse(header)
            self.events.clear()

    @property
    def stanzas(self) -> list[Element]:
        """The stanzas so far."""
        return [event[1] for event in self.events if event[0] == "element"]

    @property
    def skipped(self) -> list[tuple[Element, str]]:
        """The start tags and reasons so far."""
        return [event[1:] for event in self.events if event[0] == "skipped"]

    @property
    def shapes(self) -> list[Any]:
        """The events in a form that can be compared."""
        return [(kind, *(shape(x) if isinstance(x, Element) else x for x in rest)) for kind, *rest in self.events]


_written_uris = st.sampled_from(
    [
        NS_COMPONENT,
        NS_CLIENT,
        "urn:a",
        "urn:b",
        "urn:it's",
        "urn:a&b",
        "urn:xmpp:sid:0",
        "urn:xmpp:forward:0",
        "urn:l" * 80,
    ]
)
_written_names = st.sampled_from(["a", "b", "body", "message", "stanza-id", "forwarded", "id", "by", "\xe9"])
_written_text = st.text(st.sampled_from("<>&'\"]\n x\xe9\U0001f600\x85"), max_size=6) | st.tuples(
    st.text(st.sampled_from("<>&'\"]\nx"), min_size=1, max_size=3), st.integers(1, 120)
).map(lambda given: given[0] * given[1])


@st.composite
def written_stanzas(draw: st.DrawFn) -> str:
    """
    Messages as somebody may write them into the stream of `HEADER`.

    Namespaces and prefixes are declared anywhere, over and over, and used or not; text is escaped or in CDATA sections.
    """
    prefix, default = draw(st.sampled_from([(None, None), (None, NS_CLIENT), (None, NS_COMPONENT), ("p", None)]))
    declared = {} if prefix is None else {prefix: draw(st.sampled_from([NS_CLIENT, NS_COMPONENT]))}
    inside = draw(_written_element(0, declared, "message", prefix, default))
    return inside.replace("message", "message from='a@b' to='c@bot.localhost'", 1)


@st.composite
def _written_element(
    draw: st.DrawFn,
    depth: int,
    around: dict[str, str],
    name: str | None = None,
    prefix: str | None = None,
    default: str | None = None,
) -> str:
    declared = dict(around) if depth == 0 else {}
    if depth:
        declared.update(draw(st.dictionaries(st.sampled_from("pqr"), _written_uris, max_size=2)))
        default = draw(st.none() | st.none() | st.just("") | _written_uris)
    scope = {**around, **declared}
    if depth:
        name, prefix = draw(_written_names), draw(st.none() | st.sampled_from(sorted(scope)) if scope else st.none())
    tag = f"{prefix}:{name}" if prefix else f"{name}"
    parts = [tag]
    if default is not None:
        parts.append(f"xmlns={_in_quotes(default)}")
    parts += [f"xmlns:{key}={_in_quotes(uri)}" for key, uri in declared.items()]
    taken = {("", "from"), ("", "to")} if depth == 0 else set()
    for key in draw(st.lists(_written_names, max_size=2)):
        of = draw(st.none() | st.sampled_from(sorted(scope)) if scope else st.none())
        expanded = (scope[of] if of else "", key)
        if expanded not in taken:
            taken.add(expanded)
            parts.append(
                f"{of}:{key}={_in_quotes(draw(_written_text))}" if of else f"{key}={_in_quotes(draw(_written_text))}"
            )
    inside = ""
    for _ in range(draw(st.integers(0, 3 if depth < 4 else 0))):
        if draw(st.booleans()):
            again = draw(st.sampled_from([1, 1, 1, 2, 30])) if depth == 0 else 1
            inside += draw(_written_element(depth + 1, scope)) * again
        else:
            text = draw(_written_text)
            cdata = draw(st.booleans()) and "]]" not in text and not text.endswith("]")
            inside += f"<![CDATA[{text}]]>" if cdata else _as_text(text)
    return f"<{' '.join(parts)}>{inside}</{tag}>" if inside else f"<{' '.join(parts)}/>"


def _as_text(text: str) -> str:
    """No longer than it has to be; brackets at its beginning may go on from the text before."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace("\x85", "&#x85;")
    return re.sub(r"(\A\]*|\]\])>", r"\1&gt;", escaped)


def _in_quotes(value: str) -> str:
    mark = "'" if value.count('"') > value.count("'") else '"'
    escaped = value.replace("&", "&amp;").replace("<", "&lt;").replace("\n", "&#10;")
    return mark + escaped.replace(mark, "&#39;" if mark == "'" else "&#34;") + mark
