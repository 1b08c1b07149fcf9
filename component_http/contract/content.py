"""The content of reply objects: properties checked, and put into a stanza."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from types import UnionType
from typing import Any

from twisted.words.xish.domish import Element

from component_http.contract.address import Address, NotAnAddress
from component_http.contract.conditions import CONDITIONS, ERROR_TYPES, StanzaError, error_child
from component_http.contract.objects import JsonNumber, says_nothing
from component_http.contract.request import (
    CHAT_STATES,
    NS_CHAT_STATES,
    NS_CORRECTION,
    NS_NICK,
    NS_OOB,
    NS_REPLY,
    XML_LANG,
)
from component_http.contract.stanza import TYPES
from component_http.contract.xml import NS_COMPONENT
from component_http.errors import ReplyRefused

Checked = Mapping[str, Any]
"""Properties that are there, each of a type it may have."""

_TYPES: Mapping[str, tuple[type | UnionType, str]] = {
    **dict.fromkeys(("to", "from", "kind", "stanza", "type", "id", "lang"), (str, "a string")),
    **dict.fromkeys(("subject", "thread", "nick", "state", "oob_url", "replace"), (str, "a string")),
    **dict.fromkeys(("show", "status"), (str, "a string")),
    "body": (str | JsonNumber | bool, "a string, a number or a boolean"),
    "priority": (JsonNumber, "a number"),
    "reply": (dict, "an object (the text of a message is `body`)"),
    "error": (dict, "an object"),
}
_STRINGS: Mapping[str, tuple[type | UnionType, str]] = dict.fromkeys(
    ("id", "to", "type", "condition", "text"), (str, "a string")
)

_CONTENT_OF_MESSAGE = frozenset({"body", "subject", "state", "oob_url", "replace", "reply", "error"})
_CONTENT_OF_IQ = frozenset({"to", "from", "kind", "type", "id", "lang", "error", "body"})
NO_CONTENT: Mapping[str, str] = {
    "message": "nothing to send: a message needs `body`",
    "iq": "nothing to send: what the result of an iq holds is given in `stanza`",
}
_MISNOMERS = frozenset({"answer", "body", "content", "message", "msg", "response", "text"})
"""Names that authors of bots give to `body`, in lower case."""

_SHOWS = ("away", "chat", "dnd", "xa")

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def checked(
    given: Mapping[str, object], types: Mapping[str, tuple[type | UnionType, str]] = _TYPES, within: str = ""
) -> Checked:
    """Keep the known properties that have a value."""
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name not in types or value is None:
            continue
        allowed, words = types[name]
        if allowed is dict and value == {}:
            continue
        if not isinstance(value, allowed):
            raise ReplyRefused(f"{within}{name}: not {words}")
        found[name] = value if not isinstance(value, str) or value.isascii() else _LONE_SURROGATE.sub("\ufffd", value)
    return found


def has_content(kind: str, reply: Checked) -> bool:
    """Say whether a stanza is made of a reply. Presence without any content is sent, a message is not."""
    if kind == "message":
        return not _CONTENT_OF_MESSAGE.isdisjoint(reply) or reply.get("type") == "error"
    return kind == "presence" or not _CONTENT_OF_IQ.isdisjoint(reply)


def mistake(kind: str, given: Mapping[str, object], reply: Checked) -> str | None:
    """Find what the author of a reply object has not meant: no content, or a body that has another name."""
    if kind == "message" and "body" not in reply:
        for name, value in given.items():
            if name.lower() in _MISNOMERS and isinstance(value, str | JsonNumber):
                return f"a message needs `body`, and `{name}` is not read"
    # Where `body` is null its author knows that there is none.
    if has_content(kind, reply) or says_nothing(given) or "body" in given:
        return None
    return NO_CONTENT[kind]


def filled(kind: str, stanza_type: str | None, reply: Checked) -> Element:
    """Make a stanza of its kind, its type and its content; addresses and id are still missing."""
    element = Element((NS_COMPONENT, kind))
    if kind == "presence" and stanza_type == "available":
        stanza_type = None
    if stanza_type is not None or kind == "iq":
        element["type"] = check_type(kind, stanza_type)
    if "lang" in reply:
        element[XML_LANG] = reply["lang"]
    if stanza_type == "error":
        text = _json_text(reply["body"]) if kind == "message" and "body" in reply else None
        element.addChild(error_child(_error(reply.get("error", {}), text)))
    else:
        _CONTENT[kind](element, reply)
    return element


def address(text: str | None, name: str) -> Address | None:
    """Read the property of this name that is an address; None where there is none."""
    try:
        return None if text is None else Address.parse(text)
    except NotAnAddress as error:
        raise ReplyRefused(f"{name}: not an address: {error}") from None


def check_type(kind: str, value: str | None, within: str = "") -> str:
    """Refuse a type that no stanza of a kind has."""
    if value not in TYPES[kind]:
        raise ReplyRefused(f"{within}type: for this {kind} it is one of {', '.join(sorted(TYPES[kind]))}")
    return value


def _one_of(name: str, value: str, allowed: Iterable[str]) -> str:
    if value not in allowed:
        raise ReplyRefused(f"{name}: not one of {', '.join(allowed)}")
    return value


def _json_text(value: str | JsonNumber | bool) -> str:
    if isinstance(value, JsonNumber):
        return value.text
    return value if isinstance(value, str) else str(value).lower()


def _error(given: Mapping[str, object], text: str | None) -> StanzaError:
    """Read the `error` property; the message's body is its text unless it has one."""
    error = checked(given, _STRINGS, "error.")
    condition = _one_of("error.condition", error.get("condition", "undefined-condition"), CONDITIONS)
    error_type = _one_of("error.type", error.get("type", CONDITIONS[condition]), ERROR_TYPES)
    return StanzaError(error_type, condition, error.get("text", text))


def _with_text(name: str, text: str) -> Element:
    child = Element((NS_COMPONENT, name))
    if text:
        child.children.append(text)
    return child


def _fill_message(element: Element, reply: Checked) -> None:
    for name in ("subject", "body"):
        if name in reply:
            element.children.append(_with_text(name, _json_text(reply[name])))
    if reply.get("thread"):
        element.children.append(_with_text("thread", reply["thread"]))
    _fill_nick(element, reply)
    if "state" in reply:
        element.addElement((NS_CHAT_STATES, _one_of("state", reply["state"], CHAT_STATES)))
    if "oob_url" in reply:
        element.addElement((NS_OOB, "x")).addElement((NS_OOB, "url"), content=reply["oob_url"])
    if "replace" in reply:
        element.addElement((NS_CORRECTION, "replace"))["id"] = reply["replace"]
    if "reply" in reply:
        given = checked(reply["reply"], _STRINGS, "reply.")
        if "id" not in given:
            raise ReplyRefused("reply.id: it is missing")
        quoted = element.addElement((NS_REPLY, "reply"))
        quoted["id"] = given["id"]
        author = address(given.get("to"), "reply.to")
        if author is not None:
            quoted["to"] = str(author)


def _fill_presence(element: Element, reply: Checked) -> None:
    if "show" in reply:
        _one_of("show", reply["show"], _SHOWS)
    if "priority" in reply:
        number = reply["priority"].text
        if not re.fullmatch(r"-?[0-9]{1,3}", number) or not -128 <= int(number) <= 127:
            raise ReplyRefused("priority: not a whole number from -128 to 127")
    for name in ("show", "status", "priority"):
        if name in reply:
            element.addElement((NS_COMPONENT, name), content=_json_text(reply[name]))
    _fill_nick(element, reply)


def _fill_nick(element: Element, reply: Checked) -> None:
    if "nick" in reply:
        element.addElement((NS_NICK, "nick"), content=reply["nick"])


_CONTENT: Mapping[str, Callable[[Element, Checked], None]] = {
    "message": _fill_message,
    "presence": _fill_presence,
    "iq": lambda element, reply: None,
}
