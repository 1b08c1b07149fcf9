"""
The shape of Prosody's mod_rest: `/rest` with JSON, XML, a form or text, and with the kind of stanza in the path.

Its properties are those of the contract, which took their names from there; beside these it has `html`, `muc`, the
questions of `questions`, and those in `_EXTENSIONS`. Any other property of mod_rest is refused, never left out.
Its callback is what the webhook is here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from attrs import frozen
from twisted.words.xish.domish import Element

from component_http.api.desk import Desk
from component_http.api.exchange import Answer, Call, Problem, error_body, json_answer
from component_http.api.iq_requests import QUESTIONS, answer_properties, question
from component_http.api.post_msg import html_element
from component_http.api.reading import form_of, json_of, text_of, unsupported
from component_http.api.tokens import Caller
from component_http.contract.http import FORM, JSON, TEXT, XMPP_XML, is_json
from component_http.contract.objects import JsonNumber
from component_http.contract.request import NS_OOB
from component_http.contract.stanza import TYPES, Stanza
from component_http.contract.xml import NS_COMPONENT, NS_MUC, serialize

__all__ = ["get", "post", "problem"]

NS_STREAMS = "http://etherx.jabber.org/streams"
NS_STREAM_ERRORS = "urn:ietf:params:xml:ns:xmpp-streams"


@frozen
class _Extension:
    """
    A property that is one element.

    Attributes:
        kinds: The kinds of stanza that may have it.
        uri: The namespace of the element.
        name: The name of the element.
        make: Fills the element with the property's value.
        flag: The property is true or false: the element is there or not.
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
"""The properties of mod_rest that we do not send; what they make can be sent as XML."""

_FLAGS = frozenset({"join", *QUESTIONS, *(name for name, extension in _EXTENSIONS.items() if extension.flag)})
"""The properties that say nothing if they are false."""

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
"""What a property is of, in a stanza that does not say its kind; what a message may have makes a message."""


async def post(desk: Desk, call: Call, caller: Caller, kind: str = "", stanza_type: str = "", to: str = "") -> Answer:
    """
    `POST /rest`, and `POST /rest/{kind}/{type}/{to}`.

    Args:
        desk: Sends and asks.
        call: The request.
        caller: Who wants it.
        kind: From the path; "" where it is not there.
        stanza_type: Likewise; for an iq it may be the name of a question.
        to: Likewise.
    """
    if call.media_type == XMPP_XML:
        return await _carried_out(desk, call, caller, {"stanza": text_of(call), "to": to or None}, [])
    given = _given(call, kind)
    if kind:
        given = {**given, "kind": kind, "to": to}
        if kind == "iq" and stanza_type in QUESTIONS:
            given.setdefault(stanza_type, {"node": given.pop("node", None)})
        else:
            given["type"] = stanza_type
    return await _carried_out(desk, call, caller, *_wanted(desk, given))


async def get(desk: Desk, call: Call, caller: Caller, name: str, to: str) -> Answer:
    """`GET /rest/{query}/{to}`: ask a question that has a name."""
    if name not in QUESTIONS:
        known = ", ".join(QUESTIONS)
        raise Problem(422, f"there is no question {name[:40]!r} here; there are {known}", condition="bad-request")
    wanted = {"kind": "iq", "type": "get", "to": to}
    return await _carried_out(desk, call, caller, wanted, [question(name, call.argument("node"))])


def _given(call: Call, kind: str) -> dict[str, object]:
    """The properties that the body has."""
    if is_json(call.media_type):
        value = json_of(call)
        if not isinstance(value, dict):
            raise Problem(400, "the JSON is not an object")
        return dict(value)
    if call.media_type == FORM:
        return dict(form_of(call))
    if call.media_type == TEXT or (kind and not call.media_type and not call.body):
        text = text_of(call)
        if kind == "presence":
            return {"show": text} if text else {}
        if kind == "iq":
            if text.strip():
                raise Problem(422, "an iq has no text: send it as JSON or XML", condition="bad-format")
            return {}
        return {"kind": "message", "body": text}
    raise unsupported(call, JSON, XMPP_XML, FORM, TEXT)


def _wanted(desk: Desk, given: Mapping[str, Any]) -> tuple[dict[str, object], list[Element]]:
    """A reply object, and the elements for what it has no words for."""
    # `stanza` is a word of ours and not of mod_rest; unknown words are ignored there too.
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
    _see_all_sent(wanted, kind)
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
    """Whether a property is there that is true or false; in a form these are words."""
    if value in (False, "false", "0"):
        return False
    if name in QUESTIONS or value in (True, "true", "1"):
        return True
    raise _bad(name, "neither true nor false")


def _see_all_sent(wanted: Mapping[str, object], kind: str) -> None:
    """
    See that no property of mod_rest is left out.

    Raises:
        Problem: One would be.
    """
    sent = _SENT[kind]
    if wanted.get("type") == "error" or ("type" not in wanted and "error" in wanted):
        # An error says nothing but what it is; a message's body is its text.
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
    desk: Desk, call: Call, caller: Caller, wanted: Mapping[str, object], children: list[Element]
) -> Answer:
    # mod_rest's statuses: 403 for a sender that is not the caller's, 422 for one that is no address.
    foreign = Problem(403, f"from: not an address of {desk.domain}", condition="not-authorized")
    composed = desk.compose([wanted], caller=caller, children=children, foreign_sender=foreign)
    if len(composed.stanzas) > 1:
        raise Problem(422, "one stanza can be sent at a time")
    if composed.stanzas[0].name == "iq":
        return _told(call, await desk.ask(composed, _timeout(desk, call)))
    await desk.push(caller.token.name, call, composed)
    return Answer(202)


def _timeout(desk: Desk, call: Call) -> float:
    """The time-out that mod_rest takes from a header, as long as may be; else the one in the query."""
    seconds = call.headers.get("prosody-rest-timeout", "").strip()
    if not re.fullmatch(r"[0-9]{1,6}(?:\.[0-9]{1,6})?", seconds) or not float(seconds):
        return desk.timeout(call)
    return min(float(seconds), desk.max_timeout)


def _told(call: Call, answer: Stanza) -> Answer:
    """Tell the answer to an iq in the type that was asked for first; also an error, with status 200."""
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
    """What stands first in Accept, and after it in Content-Type; the first of all where none does."""
    said = f"{call.headers.get('accept', '')},{call.headers.get('content-type', '')}".lower()
    places = [(said.find(media_type), media_type) for media_type in media_types]
    return min([place for place in places if place[0] >= 0], default=(0, media_types[0]))[1]


def problem(call: Call, problem: Problem) -> Answer:
    """Tell a problem as mod_rest does: in JSON, or as a stream error to who wants XML."""
    body = error_body(problem)
    if _first_of(Call("", "", "", {"accept": call.headers.get("accept", "")}), (JSON, XMPP_XML)) == JSON:
        return Answer(problem.status, json.dumps(body, ensure_ascii=False).encode("utf-8"), JSON, problem.headers)
    error: Any = body["error"]
    element = Element((NS_STREAMS, "error"))
    element.addElement((NS_STREAM_ERRORS, error["condition"]))
    element.addElement((NS_STREAM_ERRORS, "text"), content=error["text"])
    return Answer(problem.status, serialize(element).encode("utf-8"), XMPP_XML, problem.headers)
