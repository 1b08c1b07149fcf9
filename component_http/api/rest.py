"""
The shape of Prosody's mod_rest: `/rest` with JSON, XML, a form or text, and with the kind of stanza in the path.

Its properties are those of the contract, which took their names from there; beside these it has `html`, `muc` and the
questions of `questions`. Its callback is what the webhook is here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from twisted.words.xish.domish import Element

from component_http.api.desk import Desk
from component_http.api.exchange import FORM, JSON, TEXT, XMPP_XML, Answer, Call, Problem, error_body, json_answer
from component_http.api.post_msg import html_element
from component_http.api.questions import QUESTIONS, answer_properties, question
from component_http.api.reading import form_of, is_json, json_of, text_of, unsupported
from component_http.api.tokens import Caller
from component_http.contract.reply import JsonNumber
from component_http.contract.stanza import TYPES, Stanza
from component_http.contract.xml import serialize

__all__ = ["get", "post", "problem"]

NS_MUC = "http://jabber.org/protocol/muc"
NS_STREAMS = "http://etherx.jabber.org/streams"
NS_STREAM_ERRORS = "urn:ietf:params:xml:ns:xmpp-streams"

_UNSUPPORTED = ("archive", "command", "dataform", "extdisco", "gateway", "oob", "payload", "register", "stats")
"""What mod_rest turns into an iq and we do not; it can be sent as XML."""

_KIND_OF_TYPE = {
    **dict.fromkeys(("get", "set", "result"), "iq"),
    **dict.fromkeys(("normal", "chat", "headline", "groupchat"), "message"),
    **dict.fromkeys(("available", *(TYPES["presence"] - {"error"})), "presence"),
}
_KIND_OF_PROPERTY = {
    **dict.fromkeys(QUESTIONS, "iq"),
    **dict.fromkeys(("body", "html", "replace", "state", "subject", "thread", "oob_url"), "message"),
    **dict.fromkeys(("join", "muc", "priority", "show", "status"), "presence"),
}


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
            given.setdefault(stanza_type, True)
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
        return {} if kind == "iq" else {"kind": "message", "body": text}
    raise unsupported(call, JSON, XMPP_XML, FORM, TEXT)


def _wanted(desk: Desk, given: Mapping[str, Any]) -> tuple[dict[str, object], list[Element]]:
    """A reply object, and the elements for what it has no words for."""
    # `stanza` is a word of ours and not of mod_rest; unknown words are ignored there too.
    wanted = {name: value for name, value in given.items() if name != "stanza" and value is not None}
    stanza_type = wanted.get("type")
    kind = wanted.get("kind") or (_KIND_OF_TYPE.get(stanza_type) if isinstance(stanza_type, str) else None)
    if kind is None:
        kind = next((_KIND_OF_PROPERTY[name] for name in wanted if name in _KIND_OF_PROPERTY), "message")
    wanted["kind"] = kind
    children = []
    if kind == "iq":
        wanted.setdefault("type", "get")
        for name in QUESTIONS:
            if name in wanted:
                children.append(question(name, _node(wanted[name])))
        for name in _UNSUPPORTED:
            if name in wanted:
                raise Problem(422, f"{name}: send it as XML, for it has no words here", condition="bad-format")
    elif kind == "message" and "html" in wanted:
        wanted.setdefault("body", "")
        children.append(html_element(wanted["html"], desk.limits))
    elif kind == "presence" and (wanted.get("join") is True or "muc" in wanted):
        children.append(_muc(wanted.get("muc")))
    return wanted, children


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
    composed = desk.with_children(desk.compose([wanted], caller=caller), children)
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
