"""
The shape of Prosody's mod_rest: `/rest` with JSON, XML, a form or text, and with the kind of stanza in the path.

Its properties are those of the contract with the webhook, which has their names from mod_rest, and `html`, `muc`, the
questions of `iq_requests`, and those in `_EXTENSIONS`. Any other property of mod_rest is refused, never left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from attrs import frozen
from twisted.words.xish.domish import Element

from component_http.api.desk import Desk
from component_http.api.exchange import Answer, Call, Problem, error_body, json_answer
from component_http.api.iq_requests import QUESTIONS, answer_properties, question
from component_http.api.post_msg import html_element
from component_http.api.reading import properties_of, read_seconds, text_of
from component_http.api.tokens import Token
from component_http.contract.http import FORM, JSON, TEXT, XMPP_XML
from component_http.contract.objects import JsonNumber
from component_http.contract.request import NS_OOB
from component_http.contract.stanza import TYPES, Stanza
from component_http.contract.xml import NS_COMPONENT, NS_MUC, serialize

NS_STREAMS = "http://etherx.jabber.org/streams"
NS_STREAM_ERRORS = "urn:ietf:params:xml:ns:xmpp-streams"


@frozen
class _Extension:
    """
    A property that is one element.

    Attributes:
        kinds: The kinds of stanza that may have it.
        make: Fills the element with the property's value.
        flag: Whether the property is true or false: the element is there or not.
    """

    kinds: frozenset[str]
    uri: str
    name: str
    make: Callable[[Element, str, Any], None]
    flag: bool = False


def _no_content(element: Element, name: str, value: object) -> None:
    """A property that is true or false."""


def _text(element: Element, name: str, value: object) -> None:
    """The property is the text in the element."""
    element.addContent(_word(name, value))


def _attribute(attribute: str) -> Callable[[Element, str, Any], None]:
    """The property is one attribute of the element."""

    def make(element: Element, name: str, value: object) -> None:
        element[attribute] = _word(name, value)

    return make


def _members(
    *, attributes: Sequence[str] = (), texts: Sequence[str] = (), required: Sequence[str] = ()
) -> Callable[[Element, str, Any], None]:
    """The property is an object; each member of it is an attribute, or an element with a text."""

    def make(element: Element, name: str, value: object) -> None:
        if not isinstance(value, dict):
            raise _bad(name, "not an object")
        members = {key: member for key, member in value.items() if member is not None}
        for key in required:
            if key not in members:
                raise _bad(f"{name}.{key}", "it is missing")
        for key, member in members.items():
            if key in attributes:
                element[key] = _word(f"{name}.{key}", member)
            elif key in texts:
                element.addElement(key, content=_word(f"{name}.{key}", member))

    return make


def _reactions(element: Element, name: str, value: object) -> None:
    _members(attributes=["id"], required=["id", "reactions"])(element, name, value)
    assert isinstance(value, dict)
    reactions = value["reactions"]
    if not isinstance(reactions, list):
        raise _bad("reactions.reactions", "not a list")
    for reaction in reactions:
        element.addElement("reaction", content=_word("reactions.reactions", reaction))


def _word(name: str, value: object) -> str:
    """A string, a number or a boolean as XML writes it."""
    if isinstance(value, JsonNumber):
        return value.text
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        raise _bad(name, "not a string")
    return value


def _bad(name: str, what: str) -> Problem:
    return Problem(422, f"{name}: {what}", condition="bad-format")


_MESSAGE, _PRESENCE = frozenset({"message"}), frozenset({"presence"})
_MARKERS = "urn:xmpp:chat-markers:0"

_EXTENSIONS: Mapping[str, _Extension] = {
    "attach_to": _Extension(_MESSAGE, "urn:xmpp:message-attaching:1", "attach-to", _attribute("id")),
    "caps": _Extension(
        _PRESENCE, "http://jabber.org/protocol/caps", "c", _members(attributes=["ext", "hash", "node", "ver"])
    ),
    "displayed": _Extension(_MESSAGE, _MARKERS, "displayed", _attribute("id")),
    "encryption": _Extension(_MESSAGE, "urn:xmpp:eme:0", "encryption", _attribute("namespace")),
    "fallback": _Extension(_MESSAGE, "urn:xmpp:fallback:0", "fallback", _no_content, flag=True),
    "idle_since": _Extension(_PRESENCE, "urn:xmpp:idle:1", "idle", _attribute("since")),
    "invite": _Extension(
        _MESSAGE,
        "jabber:x:conference",
        "x",
        _members(attributes=["continue", "jid", "password", "reason", "thread"], required=["jid"]),
    ),
    "markable": _Extension(_MESSAGE, _MARKERS, "markable", _no_content, flag=True),
    "oob": _Extension(_MESSAGE, NS_OOB, "x", _members(texts=["url", "desc"], required=["url"])),
    "reactions": _Extension(_MESSAGE, "urn:xmpp:reactions:0", "reactions", _reactions),
    "reference": _Extension(
        _MESSAGE,
        "urn:xmpp:reference:0",
        "reference",
        _members(attributes=["begin", "end", "type", "uri"], required=["type", "uri"]),
    ),
    "vcard_update": _Extension(_PRESENCE, "vcard-temp:x:update", "x", _members(texts=["photo"])),
}
"""
The properties that are one element each, as mod_rest makes it.

Source: mod_rest, `res/schema-xmpp.json`; XEP-0066, 0115, 0153, 0172, 0249, 0319, 0333, 0367, 0372, 0380, 0428, 0444.
"""

_ONLY_AS_XML = frozenset(
    {
        *("archive", "block", "blocklist", "command", "dataform", "delay", "extdisco", "formdata", "forwarded"),
        *("gateway", "occupant_id", "payload", "register", "result", "rsm", "stanza_ids", "stats"),
        *("upload_request", "upload_slot"),
    }
)
"""The properties of mod_rest that we do not send; their elements can be sent as XML."""

_FLAGS = frozenset({"join", *QUESTIONS, *(name for name, extension in _EXTENSIONS.items() if extension.flag)})
"""The properties that count as missing if they are false."""

_ADDRESSING = frozenset({"to", "from", "kind", "type", "id", "lang"})
_SENT: Mapping[str, frozenset[str]] = {
    kind: _ADDRESSING.union(own, (name for name, extension in _EXTENSIONS.items() if kind in extension.kinds))
    for kind, own in (
        ("message", ("body", "html", "nick", "oob_url", "replace", "reply", "state", "subject", "thread")),
        ("presence", ("join", "muc", "nick", "priority", "show", "status")),
        ("iq", QUESTIONS),
    )
}
"""The properties that are sent, by kind of stanza."""

_KNOWN = _ONLY_AS_XML.union({"error"}, *_SENT.values())

_KIND_OF_TYPE = {
    **dict.fromkeys(("get", "set", "result"), "iq"),
    **dict.fromkeys(("normal", "chat", "headline", "groupchat"), "message"),
    **dict.fromkeys(("available", *(TYPES["presence"] - {"error"})), "presence"),
}
_KIND_OF_PROPERTY = {name: kind for kind in ("iq", "presence", "message") for name in _SENT[kind] - _ADDRESSING}
"""The kind that a property makes of a stanza without a kind; if a message may have it, it makes a message."""


async def post(desk: Desk, call: Call, caller: Token, kind: str = "", type: str = "", to: str = "") -> Answer:
    """
    Carry out `POST /rest` and `POST /rest/{kind}/{type}/{to}`.

    Args:
        kind: The kind in the path; "" if there is none.
        type: The type in the path, likewise; for an iq it may be the name of a question.
        to: The recipient in the path, likewise.
    """
    if call.media_type == XMPP_XML:
        return await _carried_out(desk, call, caller, {"stanza": text_of(call), "to": to or None}, [])
    given = _given(call, kind)
    if kind:
        given = {**given, "kind": kind, "to": to}
        if kind == "iq" and type in QUESTIONS:
            given.setdefault(type, {"node": given.pop("node", None)})
        else:
            given["type"] = type
    return await _carried_out(desk, call, caller, *_wanted(desk, given))


async def get(desk: Desk, call: Call, caller: Token, query: str, to: str) -> Answer:
    """Carry out `GET /rest/{query}/{to}`: make an iq request that has a name."""
    if query not in QUESTIONS:
        known = ", ".join(QUESTIONS)
        raise Problem(422, f"there is no question {query[:40]!r} here; there are {known}", condition="bad-request")
    wanted = {"kind": "iq", "type": "get", "to": to}
    return await _carried_out(desk, call, caller, wanted, [question(query, call.argument("node"))])


def _given(call: Call, kind: str) -> dict[str, object]:
    """Read the properties from the body."""
    if call.media_type == TEXT or (kind and not call.media_type and not call.body):
        text = text_of(call)
        if kind == "presence":
            return {"show": text} if text else {}
        if kind == "iq":
            if text.strip():
                raise Problem(422, "an iq has no text: send it as JSON or XML", condition="bad-format")
            return {}
        return {"kind": "message", "body": text}
    return properties_of(call, JSON, XMPP_XML, FORM, TEXT)


def _wanted(desk: Desk, given: Mapping[str, Any]) -> tuple[dict[str, object], list[Element]]:
    """Make a reply object, and the elements that no property of a reply object expresses."""
    # mod_rest ignores unknown properties, and does not know `stanza`, which is ours.
    wanted = {name: value for name, value in given.items() if name != "stanza" and value is not None}
    for name in _FLAGS & wanted.keys():
        if not _is_set(name, wanted[name]):
            del wanted[name]
    stanza_type = wanted.get("type")
    kind = wanted.get("kind") or (_KIND_OF_TYPE.get(stanza_type) if isinstance(stanza_type, str) else None)
    if kind is None:
        kind = next((_KIND_OF_PROPERTY[name] for name in wanted if name in _KIND_OF_PROPERTY), "message")
    wanted["kind"] = kind
    if not isinstance(kind, str) or kind not in _SENT:
        raise Problem(422, f"kind: not one of {', '.join(_SENT)}")
    _check_all_sent(wanted, kind)
    children = []
    for name, value in wanted.items():
        if name in _EXTENSIONS:
            extension = _EXTENSIONS[name]
            element = Element((extension.uri, extension.name))
            extension.make(element, name, value)
            children.append(element)
    if kind == "iq":
        wanted.setdefault("type", "get")
        children.extend(question(name, _node(wanted[name])) for name in QUESTIONS if name in wanted)
    elif kind == "message":
        if "html" in wanted:
            wanted.setdefault("body", "")
            children.append(html_element(wanted["html"], desk.limits))
        if isinstance(wanted.get("thread"), dict):
            children.append(_thread(wanted.pop("thread")))
    elif "join" in wanted or "muc" in wanted:
        children.append(_muc(wanted.get("muc")))
    return wanted, children


def _is_set(name: str, value: object) -> bool:
    """Say whether a property is true; in a form `true` and `false` are words."""
    if value in (False, "false", "0"):
        return False
    if name in QUESTIONS or value in (True, "true", "1"):
        return True
    raise _bad(name, "neither true nor false")


def _check_all_sent(wanted: Mapping[str, object], kind: str) -> None:
    """Raise `Problem` if a property of mod_rest would be left out."""
    sent = _SENT[kind]
    if wanted.get("type") == "error" or ("type" not in wanted and "error" in wanted):
        # An error has no other properties; the body of a message is the error's text.
        sent = _ADDRESSING | {"error"} | ({"body"} if kind == "message" else set())
    for name in wanted:
        if name in _ONLY_AS_XML:
            raise _bad(name, f"it is not read here: send the stanza as XML, with Content-Type: {XMPP_XML}")
        if name in _KNOWN and name not in sent:
            stanza = "error" if "error" in sent else kind
            raise _bad(name, f"it cannot be in this {stanza}, and would be lost")


def _thread(value: Mapping[str, object]) -> Element:
    element = Element((NS_COMPONENT, "thread"))
    _text(element, "thread.id", value.get("id"))
    if value.get("parent") is not None:
        element["parent"] = _word("thread.parent", value["parent"])
    return element


def _node(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("node")
    return value if isinstance(value, str) and value else None


def _muc(value: object) -> Element:
    element = Element((NS_MUC, "x"))
    history = value.get("history") if isinstance(value, dict) else None
    if isinstance(history, dict):
        child = element.addElement("history")
        for name in ("maxchars", "maxstanzas", "seconds", "since"):
            value = history.get(name)
            if isinstance(value, str | JsonNumber):
                child[name] = value if isinstance(value, str) else value.text
    return element


async def _carried_out(
    desk: Desk, call: Call, caller: Token, wanted: Mapping[str, object], children: list[Element]
) -> Answer:
    # mod_rest's statuses: 403 for a sender that is not the caller's, 422 for one that is no address.
    foreign = Problem(403, f"from: not an address of {' or '.join(desk.origins)}", condition="not-authorized")
    composed = desk.compose([wanted], caller=caller, children=children, foreign_sender=foreign)
    if len(composed.stanzas) > 1:
        raise Problem(422, "one stanza can be sent at a time")
    if composed.stanzas[0].name == "iq":
        return _told(call, await desk.ask(composed, _timeout(desk, call)))
    await desk.push(caller.name, call, composed)
    return Answer(202)


def _timeout(desk: Desk, call: Call) -> float:
    """Return the time-out in mod_rest's header, cut to the longest that is allowed; else the one in the query."""
    seconds = read_seconds(call.headers.get("prosody-rest-timeout", "").strip())
    return min(seconds, desk.max_timeout) if seconds else desk.timeout(call)


def _told(call: Call, answer: Stanza) -> Answer:
    """Tell the answer to an iq, even an error, with status 200 and in the media type that was asked for first."""
    properties = answer_properties(answer)
    media_type = _first_of(call, (XMPP_XML, JSON, FORM))
    if media_type == XMPP_XML:
        return Answer(200, serialize(answer.element, standalone=True).encode("utf-8"), XMPP_XML)
    del properties["stanza"]
    if media_type == JSON:
        return json_answer(200, properties)
    flat = {name: value for name, value in properties.items() if isinstance(value, str)}
    return Answer(200, urlencode(flat).encode("ascii"), FORM)


def _first_of(call: Call, media_types: tuple[str, ...]) -> str:
    """Choose the media type that is first in Accept, then in Content-Type; the first of all if none is there."""
    said = f"{call.headers.get('accept', '')},{call.headers.get('content-type', '')}".lower()
    places = [(said.find(media_type), media_type) for media_type in media_types]
    return min([place for place in places if place[0] >= 0], default=(0, media_types[0]))[1]


def problem(call: Call, problem: Problem) -> Answer:
    """Tell a problem as mod_rest does: in JSON, or as a stream error to a client that wants XML."""
    body = error_body(problem)
    if _first_of(Call("", "", "", {"accept": call.headers.get("accept", "")}), (JSON, XMPP_XML)) == JSON:
        return Answer(problem.status, json.dumps(body, ensure_ascii=False).encode("utf-8"), JSON, problem.headers)
    error: Any = body["error"]
    element = Element((NS_STREAMS, "error"))
    element.addElement((NS_STREAM_ERRORS, error["condition"]))
    element.addElement((NS_STREAM_ERRORS, "text"), content=error["text"])
    return Answer(problem.status, serialize(element).encode("utf-8"), XMPP_XML, problem.headers)
