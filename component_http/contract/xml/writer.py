"""Writes every element that leaves, and everything that a webhook reads."""

from __future__ import annotations

import re
from xml.parsers import expat

from twisted.words.xish.domish import Element, SerializedXML

from component_http.contract.xml.parsing import parse_elements
from component_http.contract.xml.vocabulary import (
    NS_CLIENT,
    NS_COMPONENT,
    NS_XML,
    NS_XMLNS,
    STANZA_NAMESPACES,
    Limits,
    escaped,
    needs_escaping,
    quoted,
    replace_forbidden,
)
from component_http.errors import XmlRefused

_REPEATED_CHARS = 256
"""
Characters of repeated namespace declarations that one stanza may have however short it is.

If there are more, and they are more than a quarter of its markup, each namespace is declared once, with a prefix.
Otherwise a peer that declares one long name once, with a prefix, would have it written for each element.
"""

_MOST_REPEATED_CHARS = 16384
"""The same for a stanza of any length."""

_RAW_START = re.compile(r"<[^\s/>]+")
_ASCII_NAME = re.compile("[A-Za-z_][A-Za-z0-9_.-]*")

_USUAL_ATTRIBUTES: dict[str | tuple[str | None, str], str] = {
    (NS_XML, "lang"): "xml:lang",
    **{name: name for name in ("to", "from", "type", "id", "node", "var", "stamp", "by", "jid", "name", "code")},
}
"""As they are written; these are all that most stanzas have."""


_NOT_SIMPLE = (NS_CLIENT, NS_XML, NS_XMLNS)


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
        if default_namespace == NS_COMPONENT:
            text = _simply_written(element)
            if text is not None:
                return text
        try:
            return _Serializer(default_namespace, standalone, shared_prefixes=False).write(element)
        except _PrefixesNeeded:
            return _Serializer(default_namespace, standalone, shared_prefixes=True).write(element)
    except (TypeError, AttributeError, ValueError) as error:
        raise XmlRefused(f"something in it is not XML: {error}") from error


def _simply_written(top: Element) -> str | None:
    """
    Write a stanza of the usual shape; None for any other one.

    Nearly all stanzas have it: no prefixes, no child of a child, and each foreign namespace once. The result is that of
    `_Serializer`, in less than half the time.
    """
    if top.uri != NS_COMPONENT or top.localPrefixes:
        return None
    start = _simple_start(top, "")
    if start is None or not top.children:
        return start and f"{start}/>"
    parts = [start, ">"]
    declared: list[str] = []
    for child in top.children:
        if child.__class__ is str:
            parts.append(escaped(child))
            continue
        if child.__class__ is not Element or child.localPrefixes:
            return None
        uri = child.uri
        declaration = ""
        if uri != NS_COMPONENT:
            if not uri or uri in declared or uri in _NOT_SIMPLE:
                return None
            declared.append(uri)
            declaration = f" xmlns={quoted(uri)}"
        start = _simple_start(child, declaration)
        if start is None:
            return None
        children = child.children
        if not children:
            parts.append(f"{start}/>")
        elif len(children) == 1 and children[0].__class__ is str:
            parts.append(f"{start}>{escaped(children[0])}</{child.name}>")
        else:
            return None
    parts.append(f"</{top.name}>")
    return "".join(parts)


def _simple_start(element: Element, declaration: str) -> str | None:
    """Write a start tag without its end; None where a name is not of the usual ones."""
    name = element.name
    if not (name.isascii() and name.isidentifier()):
        return None
    tag = f"<{name}{declaration}"
    attributes = element.attributes
    if attributes:
        plain = not needs_escaping("".join(attributes.values()))  # one search for all of them
        for key, value in attributes.items():
            written = _USUAL_ATTRIBUTES.get(key)
            if written is None:
                return None
            tag += f" {written}='{value}'" if plain else f" {written}={quoted(value)}"
    return tag


class _PrefixesNeeded(Exception):
    """The element cannot, or not in fair length, be written with a default namespace on each foreign element."""


class _Serializer:
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
            if not _USUAL_ATTRIBUTES.keys() >= attributes.keys():
                attributes = self._qualify_attributes(attributes, declarations)

            tag = f"<{name}"
            for key, value in declarations.items():
                tag += f" {key}={quoted(value)}"
            for key, value in attributes.items():
                tag += f" {_USUAL_ATTRIBUTES.get(key, key)}={quoted(value)}"
            children = element.children
            if not children:
                out.append(f"{tag}/>")
            elif len(children) == 1 and children[0].__class__ is str:
                out.append(f"{tag}>{escaped(children[0])}</{name}>")
            else:
                out.append(f"{tag}>")
                stack.append(f"</{name}>")
                shares = shares and namespace is None
                for child in reversed(children):
                    if isinstance(child, Element):
                        stack.append((child, shares, written, default))
                    elif isinstance(child, SerializedXML):
                        for part in reversed(_raw_parts(child, default)):
                            stack.append(escaped(part) if isinstance(part, str) else (part, shares, written, default))
                    elif isinstance(child, str):
                        stack.append(escaped(child))
                    else:
                        raise XmlRefused(f"a child of <{name}/> is a {type(child).__name__}")
        if self._shared:
            declared = "".join(f" xmlns:{prefix}={quoted(uri)}" for uri, prefix in self._shared.items())
            out[0] = _RAW_START.sub(lambda start: start[0] + declared, out[0], count=1)
        text = "".join(out)
        if self._repeated_chars > _REPEATED_CHARS and 4 * self._repeated_chars > len(text) - _text_chars(top):
            raise _PrefixesNeeded
        return text

    def _qualify(
        self, name: str, namespace: str | None, written: str | None, declarations: dict[str, str]
    ) -> tuple[str, str | None]:
        """The name as it is to be written, and the default namespace inside of the element."""
        if namespace == NS_XML:
            return f"xml:{name}", written
        if namespace == NS_XMLNS:
            raise XmlRefused(f"no element can be in {NS_XMLNS}")
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
            if prefix in ("xml", "xmlns") or not uri or uri in (NS_XML, NS_XMLNS) or uri in self._always_own:
                continue
            if _is_name(prefix):
                self._charge(uri)
                declarations[f"xmlns:{prefix}"] = replace_forbidden(uri)

    def _qualify_attributes(
        self, attributes: dict[str | tuple[str | None, str], str], declarations: dict[str, str]
    ) -> dict[str, str]:
        """The attributes by the names that are to be written, for an element with more than plain ASCII names."""
        prefixes = {uri: key[6:] for key, uri in declarations.items() if key != "xmlns"}
        qualified: dict[str, str] = {}
        for key, value in attributes.items():
            uri, name = key if isinstance(key, tuple) else (None, key)
            if not uri and name.startswith("xml:"):
                uri, name = NS_XML, name[4:]
            _check_name(name)
            if self._standalone and uri and uri in self._always_own:
                if name in attributes:
                    continue
                uri = None
            if uri == NS_XMLNS or (not uri and name == "xmlns"):
                raise XmlRefused("a namespace declaration is not an attribute")
            if uri == NS_XML:
                name = f"xml:{name}"
            elif uri:
                uri = replace_forbidden(uri)
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
            uri = replace_forbidden(uri)
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
    """Count the characters of the text in an element."""
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
    holders = parse_elements(f"<_>{raw}</_>", NS_COMPONENT if default is None else default, Limits())
    if len(holders) != 1:
        raise XmlRefused("raw XML with an end tag too many")
    return list(holders[0].children)


def _check_name(name: str) -> None:
    if not _is_name(name):
        raise XmlRefused(f"{name[:80]!r} is not a name")


def _is_name(name: str) -> bool:
    """Tell whether expat, which Prosody and ejabberd read with, takes this for a name without prefix."""
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
