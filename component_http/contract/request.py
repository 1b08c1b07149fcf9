"""Stanza -> the JSON object that is POSTed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import orjson
from twisted.words.xish.domish import Element

from component_http.contract.conditions import NS_STANZAS
from component_http.contract.outgoing import NS_DELAY
from component_http.contract.stanza import Stanza
from component_http.contract.xml import STANZA_NAMESPACES, serialize

XML_LANG = ("http://www.w3.org/XML/1998/namespace", "lang")
NS_CHAT_STATES = "http://jabber.org/protocol/chatstates"
NS_CORRECTION = "urn:xmpp:message-correct:0"
NS_NICK = "http://jabber.org/protocol/nick"
NS_OOB = "jabber:x:oob"
NS_REPLY = "urn:xmpp:reply:0"
NS_STANZA_ID = "urn:xmpp:sid:0"

CHAT_STATES = ("active", "composing", "gone", "inactive", "paused")

MAX_THREAD = 1024
"""Characters of a thread that replies keep: up to a thousand replies may repeat it. Clients write about 40."""

RESERVED_HEADERS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
    }
)
"""Headers of the POST that HTTP itself or the contract decides; nobody else can set them. Nor any `webhook-` one."""


def request_body(stanza: Stanza) -> bytes:
    """Write the JSON object for one stanza, as UTF-8."""
    return _json(request_properties(stanza))


def _json(properties: Mapping[str, object]) -> bytes:
    # Not ASCII only: PHP, Node and Python all read UTF-8, and it is what people see in their own logs.
    try:
        # A copy, because orjson leaves unused room of a few kibibytes behind what it has written.
        return bytes(memoryview(orjson.dumps(properties)))
    except orjson.JSONEncodeError:  # for a lone surrogate, which only another handler can have put there
        return json.dumps(properties, ensure_ascii=False, separators=(",", ":")).encode("utf-8", errors="replace")


def delayed_body(body: bytes, accepted: float) -> bytes:
    """
    Say in a request when its stanza arrived (seconds since the epoch), because it is POSTed late.

    A stanza that says so itself stays as it is.

    Source: XEP-0203 for the meaning, XEP-0082 for the shape of the time.
    """
    properties = json.loads(body)
    if "delay" in properties:
        return body
    stanza = properties.pop("stanza")
    properties["delay"] = datetime.fromtimestamp(accepted, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    properties["stanza"] = stanza
    return _json(properties)


def thread_of(body: bytes) -> str | None:
    """
    Read the thread that replies to a request keep; None where the stanza has none, or one longer than `MAX_THREAD`.
    """
    # Quotes inside a string are escaped, so only a property looks like this, and most bodies need not be parsed.
    if b'"thread":' not in body:
        return None
    thread: str | None = json.loads(body).get("thread")
    return thread if thread and len(thread) <= MAX_THREAD else None


def request_properties(stanza: Stanza) -> dict[str, object]:
    """
    Say what is in a stanza, so that a bot for everyday work needs no XML parser.

    Returns `to`, `from`, `kind` and `stanza` (its XML as a document of its own), `body` for a message that has one, and
    what else the stanza has. What it lacks, or has in a shape its specification does not know, is left out.

    Source: mod_component_http for the first five; the names and shapes of the others are those of Prosody's mod_rest.
    """
    element = stanza.element
    found = _extensions(stanza)
    # Its addresses are written into it, normalised.
    addresses = element.attributes
    properties: dict[str, object] = {"to": addresses["to"], "from": addresses["from"], "kind": stanza.kind}
    if "body" in found:
        properties["body"] = found.pop("body")
    if stanza.type:
        properties["type"] = stanza.type
    for name, value in (("id", stanza.id), ("lang", element.getAttribute(XML_LANG))):
        if value is not None:
            properties[name] = value
    properties.update(found)
    properties["stanza"] = serialize(element, standalone=True)
    return properties


def _extensions(stanza: Stanza) -> dict[str, object]:
    """Read the children; of several that give the same property the first counts."""
    own = _OWN[stanza.kind]
    found: dict[str, object] = {}
    stanza_ids: list[dict[str, str]] = []
    for child in stanza.element.children:
        if not isinstance(child, Element):
            continue
        if child.uri in STANZA_NAMESPACES:
            name = child.name
            read = own.get(name)
        elif child.uri == NS_STANZA_ID:
            if child.name == "stanza-id" and child.hasAttribute("id") and child.hasAttribute("by"):
                stanza_ids.append({"id": child["id"], "by": child["by"]})
            continue
        else:
            name, read = _FOREIGN.get((child.uri, child.name), ("", None))
        if read is not None and name not in found:
            value = read(child)
            if value is not None:
                found[name] = value
    if stanza.type != "error":
        found.pop("error", None)
    if stanza_ids:
        found["stanza_ids"] = stanza_ids
    return found


def body_of(stanza: Stanza) -> str | None:
    """Read the body of a message, as `request_properties` does."""
    if stanza.kind == "message":
        for child in stanza.element.children:
            if isinstance(child, Element) and child.name == "body" and child.uri in STANZA_NAMESPACES:
                return _text(child)
    return None


def body_of_request(body: bytes) -> str | None:
    """Read the body of the message in a request body; None if it has none."""
    found = json.loads(body).get("body")
    return found if isinstance(found, str) else None


def _text(element: Element) -> str:
    return "".join(child for child in element.children if isinstance(child, str))


def _priority(element: Element) -> int | None:
    text = _text(element).strip()
    if re.fullmatch(r"[+-]?[0-9]{1,3}", text) and -128 <= int(text) <= 127:
        return int(text)
    return None


def _attribute(name: str) -> Callable[[Element], str | None]:
    return lambda element: element.getAttribute(name)


def _oob_url(element: Element) -> str | None:
    return next((_text(child) for child in element.elements(NS_OOB, "url")), None)


def _reply(element: Element) -> dict[str, str] | None:
    if not element.hasAttribute("id"):
        return None
    return {name: element[name] for name in ("id", "to") if element.hasAttribute(name)}


def _error(element: Element) -> dict[str, str]:
    error = {}
    if element.hasAttribute("type"):
        error["type"] = element["type"]
    for child in element.elements():
        if child.uri == NS_STANZAS:
            if child.name == "text":
                error.setdefault("text", _text(child))
            else:
                error.setdefault("condition", child.name)
    return error


_Read = Callable[[Element], object]

_OWN: Mapping[str, Mapping[str, _Read]] = {
    "message": {"body": _text, "subject": _text, "thread": _text, "error": _error},
    "presence": {"show": _text, "status": _text, "priority": _priority, "error": _error},
    "iq": {"error": _error},
}

_FOREIGN: Mapping[tuple[str, str], tuple[str, _Read]] = {
    (NS_NICK, "nick"): ("nick", _text),
    (NS_DELAY, "delay"): ("delay", _attribute("stamp")),
    (NS_OOB, "x"): ("oob_url", _oob_url),
    (NS_CORRECTION, "replace"): ("replace", _attribute("id")),
    (NS_REPLY, "reply"): ("reply", _reply),
    **{(NS_CHAT_STATES, state): ("state", lambda child: child.name) for state in CHAT_STATES},
}
