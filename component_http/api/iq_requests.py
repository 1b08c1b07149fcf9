"""The iqs that have a name, as elements, and their answers as JSON, with the names of mod_rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from twisted.words.xish.domish import Element

from component_http.contract.request import request_properties
from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_DISCO_INFO, NS_DISCO_ITEMS, NS_LAST, NS_PING, NS_TIME, NS_VERSION

NS_FORMS = "jabber:x:data"

QUESTIONS: Mapping[str, tuple[str, str]] = {
    "disco": (NS_DISCO_INFO, "query"),
    "items": (NS_DISCO_ITEMS, "query"),
    "lastactivity": (NS_LAST, "query"),
    "ping": (NS_PING, "ping"),
    "time": (NS_TIME, "time"),
    "version": (NS_VERSION, "query"),
}
"""Namespace and name of the element that asks, by the question's name."""


def question(name: str, node: str | None = None) -> Element:
    """Make the element that asks one of `QUESTIONS`, for disco and items about a node."""
    element = Element(QUESTIONS[name])
    if node is not None and name in ("disco", "items"):
        element["node"] = node
    return element


def answer_properties(answer: Stanza) -> dict[str, object]:
    """
    Make the properties of the answer to an iq: those that every stanza has, and those of the content that we know.

    Source: XEP-0030 (disco, items), XEP-0128 (extensions), XEP-0092 (version), XEP-0012 (lastactivity), XEP-0202.
    """
    properties = request_properties(answer)
    if answer.type == "result":
        for child in answer.element.elements():
            for name, qualified in QUESTIONS.items():
                if (child.uri, child.name) == qualified and name in _READ and name not in properties:
                    properties[name] = _READ[name](child)
    return properties


def _text(element: Element) -> str:
    return "".join(child for child in element.children if isinstance(child, str))


def _attributes(element: Element, *names: str) -> dict[str, str]:
    return {name: element[name] for name in names if element.hasAttribute(name)}


def _children(element: Element, *names: str) -> dict[str, str]:
    return {
        child.name: _text(child) for child in element.elements() if child.uri == element.uri and child.name in names
    }


def _disco(query: Element) -> dict[str, object]:
    found: dict[str, object] = {
        **_attributes(query, "node"),
        "identities": [
            _attributes(child, "category", "type", "name") for child in query.elements(query.uri, "identity")
        ],
        "features": [child["var"] for child in query.elements(query.uri, "feature") if child.hasAttribute("var")],
    }
    extensions = {}
    for form in query.elements(NS_FORMS, "x"):
        fields = {
            child.getAttribute("var", ""): [_text(value) for value in child.elements(NS_FORMS, "value")]
            for child in form.elements(NS_FORMS, "field")
        }
        # FORM_TYPE has one value, which names the form (XEP-0068); each further name would repeat all fields.
        form_types = fields.pop("FORM_TYPE", [])
        if form_types:
            extensions[form_types[0]] = fields
    if extensions:
        found["extensions"] = extensions
    return found


def _seconds(query: Element) -> dict[str, object]:
    text = query.getAttribute("seconds", "")
    found: dict[str, object] = {"seconds": int(text)} if text.isascii() and text.isdigit() and len(text) < 12 else {}
    return {**found, "status": _text(query)} if _text(query) else found


_READ: Mapping[str, Callable[[Element], object]] = {
    "disco": _disco,
    "items": lambda query: [_attributes(child, "jid", "node", "name") for child in query.elements(query.uri, "item")],
    "lastactivity": _seconds,
    "time": lambda query: _children(query, "tzo", "utc"),
    "version": lambda query: _children(query, "name", "version", "os"),
}
