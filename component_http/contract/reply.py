"""
Webhook response -> replies, nothing, or a refusal; and the same objects without a request: late replies and pushes.

Whatever a webhook answers ends as a `Verdict`, and whatever is made here is fit for the stream: from the component's
own domain, to an address, well-formed, within the limits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from json import JSONDecoder
from types import MappingProxyType, UnionType
from typing import Any, Literal, NoReturn

from attrs import field, frozen
from twisted.words.xish.domish import Element

from component_http.contract.address import Address, NotAnAddress
from component_http.contract.conditions import (
    CONDITIONS,
    ERROR_TYPES,
    INTERNAL,
    SERVICE_UNAVAILABLE,
    StanzaError,
    error_child,
    error_of_status,
    error_stanza,
)
from component_http.contract.http import XMPP_XML, is_json, is_media_type, media_type, without_mark
from component_http.contract.outgoing import sendable
from component_http.contract.request import (
    CHAT_STATES,
    NS_CHAT_STATES,
    NS_CORRECTION,
    NS_NICK,
    NS_OOB,
    NS_REPLY,
    XML_LANG,
)
from component_http.contract.stanza import TYPES, Stanza
from component_http.contract.xml import NS_COMPONENT, NS_MUC_USER, Limits, parse_stanzas
from component_http.errors import ForeignSender, ReplyRefused, XmlRefused

__all__ = [
    "MAX_ELEMENTS",
    "MAX_JSON_DEPTH",
    "MAX_REPLIES",
    "Composed",
    "JsonNumber",
    "Outcome",
    "Response",
    "Verdict",
    "answer",
    "give_up",
    "is_open",
    "judge",
    "push",
    "read_json",
    "reply_objects",
]

MAX_JSON_DEPTH = 64
"""Arrays and objects inside each other; a reply needs three. Beyond some hundred the JSON parser itself gives in."""

MAX_REPLIES = 1000
"""Stanzas in one answer. A body of 1 MiB could hold a hundred thousand, which would block the reactor for seconds."""

MAX_ELEMENTS = 30_000
"""Elements in the stanzas of one answer that are written as XML: a body of 1 MiB could hold 260,000."""

Outcome = Literal["replied", "silent", "bounced", "expired", "refused_reply"]


@frozen
class Response:
    """
    What a webhook answered to one POST.

    Attributes:
        status: The HTTP status code.
        headers: Field values by lower-case name; repeated fields are joined with ", " (RFC 9110 section 5.3).
        body: The body's bytes, or None when it was larger than the client reads.
    """

    status: int
    headers: Mapping[str, str] = field(factory=dict)
    body: bytes | None = b""


@frozen
class Composed:
    """
    Stanzas that were made of reply objects, each checked.

    Attributes:
        stanzas: All of them, complete and in order.
        verbatim: Which of them were written as XML, counted from 0.
        answers: One of them answers the iq that they were made for.
        note: A mistake in a reply object, for its author: it has nothing to send, or `body` under another name. None
            where there is none.
    """

    stanzas: tuple[Element, ...]
    verbatim: frozenset[int] = frozenset()
    answers: bool = False
    note: str | None = None


@frozen
class Verdict:
    """
    What follows from one response, or from none.

    Attributes:
        outcome: How the delivery ends. `replied`: the webhook's own stanzas are sent. `silent`: nothing is to be sent.
            `bounced`: it failed, or left an iq without an answer. `expired`: its deadline came first. `refused_reply`:
            the answer cannot be used.
        stanzas: All that is to be sent, complete and in order; the error of a bounced, expired or refused delivery is
            among them where its sender may have one.
        note: What a person should know (what was ignored, why it was refused, that the URL is wrong), or None.
            Nothing of a body or an address is in it.
        ignored_body: The response had a body that was not read as a reply, or not all of it, by its status, its media
            type or its properties: the mistakes that people make.
        verbatim: Which of the stanzas the webhook wrote as XML, counted from 0.
    """

    outcome: Outcome
    stanzas: tuple[Element, ...] = ()
    note: str | None = None
    ignored_body: bool = False
    verbatim: frozenset[int] = frozenset()


def judge(
    stanza: Stanza,
    response: Response,
    *,
    domain: str,
    limits: Limits,
    new_id: Callable[[], str],
    status_errors: Mapping[int, StanzaError] = MappingProxyType({}),
) -> Verdict:
    """
    Decide what becomes of a stanza by the webhook's response to it. Never raises.

    Args:
        stanza: What was POSTed; its recipient is in `domain`.
        response: What came back, whatever it is.
        domain: The component's own domain; no reply comes from anywhere else.
        limits: What each outgoing stanza keeps to.
        new_id: Makes the id of a stanza that needs a fresh one.
        status_errors: What the settings say about a status, before `conditions.STATUS_ERRORS`.
    """
    if not 200 <= response.status <= 299:
        note = f"the webhook answered with status {response.status}"
        if 300 <= response.status <= 399:
            note += ": the URL is wrong, for a redirect is never followed"
        return give_up(stanza, error_of_status(response.status, status_errors), note)
    try:
        replies, note_or_none = _replies(response)
        composed = answer(stanza, replies or [], domain=domain, limits=limits, new_id=new_id)
    except ReplyRefused as refused:
        return Verdict("refused_reply", (error_stanza(stanza, INTERNAL),) if stanza.is_request else (), str(refused))
    stanzas, verbatim = composed.stanzas, composed.verbatim
    if composed.note is not None:
        remedy = "" if stanzas or stanza.is_request else "; to send nothing, answer {} or 204"
        note_or_none = composed.note + remedy
    ignored = note_or_none is not None
    if not stanza.is_request or composed.answers:
        return Verdict("replied" if stanzas else "silent", stanzas, note_or_none, ignored, verbatim)
    if replies is not None and not stanzas:
        return Verdict("replied", (stanza.response("result"),), note_or_none, ignored)
    return Verdict(
        "bounced",
        (*stanzas, error_stanza(stanza, SERVICE_UNAVAILABLE)),
        note_or_none or "the webhook's response holds no answer to the iq",
        ignored,
        verbatim,
    )


def is_open(stanza: Stanza, response: Response) -> bool:
    """The webhook has taken a question on and will answer it later: status 202 (RFC 9110 section 15.3.3)."""
    return stanza.is_request and response.status == 202


def give_up(stanza: Stanza, error: StanzaError, note: str) -> Verdict:
    """
    End a delivery that failed: no usable response came, or none was waited for.

    Args:
        stanza: What was to be delivered.
        error: What its sender is told, if it may be told.
        note: What happened, for the log.
    """
    return Verdict("bounced", (error_stanza(stanza, error),) if stanza.bounceable else (), note)


def answer(
    stanza: Stanza,
    replies: Iterable[Mapping[str, object]],
    *,
    domain: str,
    limits: Limits,
    new_id: Callable[[], str],
) -> Composed:
    """
    Make the stanzas that reply objects ask for, in answer to a stanza; none where it may not be answered.

    Args:
        stanza: What they answer; its recipient is in `domain`.
        replies: The objects, as `reply_objects` reads them.
        domain: The component's own domain; no stanza comes from anywhere else.
        limits: What each stanza keeps to.
        new_id: Makes the id of a stanza that needs a fresh one.

    Raises:
        ReplyRefused: One of them cannot be used, so none is.
    """
    if not stanza.answerable:
        return Composed(())
    return _Answering(Address.parse(domain).domain, limits, new_id, stanza).compose(replies)


def push(
    replies: Iterable[Mapping[str, object]],
    *,
    domain: str,
    limits: Limits,
    new_id: Callable[[], str],
    sender: Address | None,
    kind: str = "message",
    children: Sequence[Element] = (),
) -> Composed:
    """
    Make the stanzas that reply objects ask for, where there is nothing that they answer.

    Each needs a `to`, a message needs something to say, and an iq its type. What XML in `stanza` lacks of `to` and
    `from` is taken from the properties of these names.

    Args:
        replies: The objects, as `reply_objects` reads them.
        domain: The component's own domain; no stanza comes from anywhere else.
        limits: What each stanza keeps to.
        new_id: Makes the id of a stanza that has none.
        sender: Where they come from unless they say so; None where they have to.
        kind: What they are unless they say so.
        children: Elements to add to the stanza, for what no property expresses. Give one object with them.

    Raises:
        ReplyRefused: One of them cannot be used, so none is.
    """
    return _Pushing(Address.parse(domain).domain, limits, new_id, sender, kind, children).compose(replies)


# --- From bytes to JSON objects


@frozen
class JsonNumber:
    """A JSON number as it was written: no digit of a long one is lost, and no huge one is worked out."""

    text: str


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decoder = JSONDecoder(parse_int=JsonNumber, parse_float=JsonNumber, parse_constant=_no_constant)

_STRING_OR_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[\[\]{}]', re.DOTALL)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def _replies(response: Response) -> tuple[list[dict[str, object]] | None, str | None]:
    """
    Read the reply objects of a 2xx response.

    Returns:
        Those of a JSON body, or one with the XML of an XML body; [] where it says that there is none, or None where
        there is nothing to read as a reply. And a note on what was ignored, or None.
    """
    status = response.status
    if status == 204:
        return [], None
    body = response.body
    if body is not None:
        body = without_mark(body).strip()
        if not body:
            return None, None
    said = media_type(response.headers.get("content-type", ""))
    written_in_json = is_json(said)
    is_xml = said == XMPP_XML
    if status == 200 and (written_in_json or is_xml):
        if body is None:
            raise ReplyRefused("the response is larger than max_body_bytes")
        if response.headers.get("content-encoding", "identity").strip().lower() not in ("identity", ""):
            raise ReplyRefused("the response is compressed, which was not asked for")
        return reply_objects(read_json(body)) if written_in_json else [{"stanza": _xml_text(body)}], None
    if not (_means_a_reply(status, body) if written_in_json and body is not None else is_xml or status != 202):
        return None, None
    size = "a large body" if body is None else f"{len(body)} bytes"
    unnamed = "of a media type that is none" if said else "without a media type"
    known = f"of {said}" if is_media_type(said) else unnamed
    here, there = ("", "") if status == 200 else (f" with status {status}", " with status 200")
    return None, f"ignored {size} {known}{here}: only application/json{there} is read as a reply"


def _means_a_reply(status: int, body: bytes) -> bool:
    """
    Say whether the JSON of a status other than 200 is a reply, so that its author should know that it is ignored.

    With 202 come words such as {"status": "accepted"}, which are for nobody.
    """
    try:
        objects = reply_objects(read_json(body))
    except ReplyRefused:
        return status != 202
    if status == 202:
        return any(given.get(name) is not None for given in objects for name in ("body", "stanza"))
    return not all(map(_is_empty, objects))


def _is_empty(given: Mapping[str, object]) -> bool:
    return all(value is None or value == {} for value in given.values())


def _xml_text(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError:
        raise ReplyRefused("the XML is not UTF-8") from None


def reply_objects(value: object) -> list[dict[str, object]]:
    """
    Take the reply objects out of what `read_json` gave; those that say nothing are left out.

    Raises:
        ReplyRefused: It is none, and no array of them.
    """
    members = value if isinstance(value, list) else [value]
    if not all(member is None or isinstance(member, dict) for member in members):
        raise ReplyRefused("the JSON is not an object, an array of objects or null")
    return [member for member in members if isinstance(member, dict) and member]


def read_json(body: bytes) -> object:
    """
    Read JSON that somebody handed us; its numbers come as `JsonNumber`.

    Raises:
        ReplyRefused: It is none, is not UTF-8, or is nested too deep.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise ReplyRefused("the JSON is not UTF-8") from None
    if _is_deep(text):
        raise ReplyRefused(f"the JSON is nested deeper than {MAX_JSON_DEPTH}")
    try:
        return _decoder.decode(text)
    except ValueError:
        raise ReplyRefused("the JSON does not parse") from None


def _is_deep(text: str) -> bool:
    if text.count("[") + text.count("{") <= MAX_JSON_DEPTH:
        return False
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        first = text[match.start()]
        if first in "[{":
            depth += 1
            if depth > MAX_JSON_DEPTH:
                return True
        elif first != '"':
            depth -= 1
    return False


# --- From JSON objects to stanzas

_Checked = Mapping[str, Any]
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
_NO_CONTENT: Mapping[str, str] = {
    "message": "nothing to send: a message needs `body`",
    "iq": "nothing to send: what the result of an iq holds is given in `stanza`",
}
_MISNOMERS = frozenset({"answer", "body", "content", "message", "msg", "response", "text"})
"""Names that authors of bots give to `body`, in lower case."""

_SHOWS = ("away", "chat", "dnd", "xa")


def _checked(
    given: Mapping[str, object], types: Mapping[str, tuple[type | UnionType, str]] = _TYPES, within: str = ""
) -> _Checked:
    """Keep the known properties that have a value."""
    checked: dict[str, Any] = {}
    for name, value in given.items():
        if name not in types or value is None:
            continue
        allowed, words = types[name]
        if allowed is dict and value == {}:
            continue
        if not isinstance(value, allowed):
            raise ReplyRefused(f"{within}{name}: not {words}")
        checked[name] = _LONE_SURROGATE.sub("\ufffd", value) if isinstance(value, str) else value
    return checked


def _has_content(kind: str, reply: _Checked) -> bool:
    """Say whether a stanza is made of a reply. Presence without any content is of use, a message is not."""
    if kind == "message":
        return not _CONTENT_OF_MESSAGE.isdisjoint(reply) or reply.get("type") == "error"
    return kind == "presence" or not _CONTENT_OF_IQ.isdisjoint(reply)


def _mistake(kind: str, given: Mapping[str, object], reply: _Checked) -> str | None:
    """Find what the author of a reply object has not meant: no content, or a body that has another name."""
    if kind == "message" and "body" not in reply:
        for name, value in given.items():
            if name.lower() in _MISNOMERS and isinstance(value, str | JsonNumber):
                return f"a message needs `body`, and `{name}` is not read"
    # Where `body` is null its author knows that there is none.
    if _has_content(kind, reply) or _is_empty(given) or "body" in given:
        return None
    return _NO_CONTENT[kind]


class _Allowance:
    """What one answer may still hold."""

    def __init__(self) -> None:
        self._stanzas = MAX_REPLIES
        self._elements = MAX_ELEMENTS

    def charge(self, elements: int) -> None:
        """
        Take a stanza of so many elements off it, before anything more is made.

        Raises:
            ReplyRefused: That is too much.
        """
        self._stanzas -= 1
        self._elements -= elements
        if self._stanzas < 0:
            raise ReplyRefused(f"more than {MAX_REPLIES} stanzas in one answer")
        if self._elements < 0:
            raise ReplyRefused(f"more than {MAX_ELEMENTS} elements in one answer")


@frozen
class _Composer:
    """
    Makes the stanzas that reply objects ask for; a subclass for each thing that they may be an answer to.

    Attributes:
        domain: Where they may come from.
        limits: What each of them keeps to.
        new_id: Makes ids.
    """

    domain: str
    limits: Limits
    new_id: Callable[[], str]

    def compose(self, replies: Iterable[Mapping[str, object]]) -> Composed:
        """
        Make all of them, in order.

        Raises:
            ReplyRefused: One of them cannot be sent, so none is.
        """
        made: list[Element] = []
        verbatim: set[int] = set()
        note: str | None = None
        allowance = _Allowance()
        for given in replies:
            before = len(made)
            reply = _checked(given)
            if "stanza" in reply:
                elements: Iterable[Element] = self._written(reply, allowance)
            else:
                kind = reply.get("kind", self._default_kind())
                if kind not in TYPES:
                    raise ReplyRefused(f"kind: not one of {', '.join(TYPES)}")
                allowance.charge(1)
                elements = [self._described(kind, reply)]
                note = note or _mistake(kind, given, reply)
                if not self._is_sent(kind, reply):
                    self._left_out(note)
                    elements = []
            for element in elements:
                # Each at once, as long as its addresses are remembered: to take long ones apart again is dear.
                try:
                    sendable(element, self.domain, self.limits.max_bytes)
                except XmlRefused as error:
                    raise ReplyRefused(str(error)) from None
                made.append(element)
            if "stanza" in reply:
                verbatim.update(range(before, len(made)))
        answers = sum(map(self.is_answer, made))
        if answers > 1:
            raise ReplyRefused("more than one answer to the iq")
        return Composed(tuple(made), frozenset(verbatim), answers > 0, note)

    def is_answer(self, element: Element) -> bool:
        """The element ends the iq that is answered."""
        raise NotImplementedError

    def _default_kind(self) -> str:
        """What a reply is that does not say so."""
        raise NotImplementedError

    def _is_sent(self, kind: str, reply: _Checked) -> bool:
        """Say whether a stanza has any content, so that it is sent."""
        return _has_content(kind, reply)

    def _left_out(self, note: str | None) -> None:
        """Called where a reply has no content and is not sent; `note` says so where it is a mistake."""

    def _addresses(
        self, sender: str | None, recipient: str | None, within: str = ""
    ) -> tuple[Address | None, Address | None]:
        """Read the addresses of a reply; None for one that is left to the default."""
        raise NotImplementedError

    def _described(self, kind: str, reply: _Checked) -> Element:
        """Make the stanza that properties describe."""
        raise NotImplementedError

    def _complete(self, element: Element, sender: Address | None, recipient: Address | None) -> None:
        """Address a stanza and give it an id, as far as nobody has."""
        raise NotImplementedError

    def _written(self, reply: _Checked, allowance: _Allowance) -> Iterator[Element]:
        """Take over the stanzas that were written as XML, and fill in what they lack."""
        try:
            elements = parse_stanzas(reply["stanza"], self.limits, allowance.charge)
        except XmlRefused as error:
            raise ReplyRefused(f"stanza: {error}") from None
        for element in elements:
            if element.name not in TYPES or element.uri != NS_COMPONENT:
                raise ReplyRefused(f"stanza: not a {', '.join(TYPES)}")
            if element.name == "iq" or element.hasAttribute("type"):
                _check_type(element.name, element.getAttribute("type"), "stanza: ")
            self._address_written(element, reply)
            yield element

    def _address_written(self, element: Element, reply: _Checked) -> None:
        """Complete a stanza that was written as XML in a reply."""
        addresses = self._addresses(element.getAttribute("from"), element.getAttribute("to"), "stanza: ")
        self._complete(element, *addresses)

    def _filled(self, kind: str, stanza_type: str | None, reply: _Checked) -> Element:
        """Make a stanza of its kind, its type and its content; addresses and id are still missing."""
        element = Element((NS_COMPONENT, kind))
        if kind == "presence" and stanza_type == "available":
            stanza_type = None
        if stanza_type is not None or kind == "iq":
            element["type"] = _check_type(kind, stanza_type)
        if "lang" in reply:
            element[XML_LANG] = reply["lang"]
        if stanza_type == "error":
            text = _json_text(reply["body"]) if kind == "message" and "body" in reply else None
            element.addChild(error_child(_error(reply.get("error", {}), text)))
        else:
            _CONTENT[kind](element, reply)
        return element

    def _see_sender(self, sender: Address) -> None:
        if sender.domain != self.domain:
            raise ForeignSender(f"from: not an address of {self.domain}")


@frozen
class _Answering(_Composer):
    """
    Makes stanzas in answer to one.

    Attributes:
        stanza: What they answer.
    """

    stanza: Stanza

    def is_answer(self, element: Element) -> bool:
        """The element ends the iq that is answered: a result or an error, to the full address that asked."""
        return (
            self.stanza.is_request
            and element.name == "iq"
            and element.getAttribute("type") in ("error", "result")
            and element.getAttribute("to") == str(self.stanza.sender)
        )

    def _default_kind(self) -> str:
        return "iq" if self.stanza.kind == "iq" else "message"

    def _described(self, kind: str, reply: _Checked) -> Element:
        sender, recipient = self._addresses(reply.get("from"), reply.get("to"))
        asker = self.stanza.sender
        to_room = self.stanza.type == "groupchat" and (recipient is None or recipient.bare == asker.bare)
        stanza_type = reply.get("type")
        if stanza_type is None:
            if "error" in reply:
                stanza_type = "error"
            elif kind == "message":
                stanza_type = "groupchat" if to_room else "chat"
            elif kind == "iq" and self.stanza.is_request and recipient in (None, asker):
                stanza_type = "result"
        # With a thread a message would not change the subject of a room (XEP-0045 section 8.1).
        sets_subject = stanza_type == "groupchat" and "subject" in reply and "body" not in reply
        if self.stanza.thread is not None and not sets_subject and self._continues(sender, recipient):
            reply = {"thread": self.stanza.thread, **reply}
        element = self._filled(kind, stanza_type, reply)
        if to_room and stanza_type == "groupchat":
            recipient = None
        has_id_of_request = stanza_type == "error" and recipient in (None, asker)
        if "id" in reply and not has_id_of_request:
            element["id"] = reply["id"]
        self._complete(element, sender, recipient)
        if kind == "message" and stanza_type not in ("error", "groupchat") and self._is_occupant(recipient or asker):
            element.addElement((NS_MUC_USER, "x"))
        return element

    def _continues(self, sender: Address | None, recipient: Address | None) -> bool:
        """Whether a message with these addresses, None for the defaults, is in the conversation that it answers."""
        stanza = self.stanza
        return (sender is None or sender.bare == stanza.recipient.bare) and (
            recipient is None or recipient.bare == stanza.sender.bare
        )

    def _is_occupant(self, recipient: Address) -> bool:
        """Whether it is somebody in the room that the stanza came from (XEP-0045 section 7.5)."""
        from_room = self.stanza.through_room or self.stanza.type == "groupchat"
        return from_room and recipient.resource is not None and recipient.bare == self.stanza.sender.bare

    def _addresses(
        self, sender: str | None, recipient: str | None, within: str = ""
    ) -> tuple[Address | None, Address | None]:
        """Read the addresses of a reply; those of a bot that echoes the request's count as absent."""
        given = _address(sender, f"{within}from"), _address(recipient, f"{within}to")
        return (None, None) if given == (self.stanza.sender, self.stanza.recipient) else given

    def _complete(self, element: Element, sender: Address | None, recipient: Address | None) -> None:
        stanza = self.stanza
        stanza_type = element.getAttribute("type")
        if sender is None:
            sender = stanza.recipient
        if recipient is None:
            recipient = stanza.sender.bare if stanza_type == stanza.type == "groupchat" else stanza.sender
        self._see_sender(sender)
        is_error = stanza_type == "error" and element.name != "iq"
        if is_error and recipient.bare == stanza.sender.bare and not stanza.bounceable:
            raise ReplyRefused("type: a room, a headline or presence is never answered by an error")
        element["from"], element["to"] = str(sender), str(recipient)
        if self.is_answer(element):
            # From whom it was asked of: the asker takes it from nobody else (RFC 6120 section 8.1.2.1).
            element["from"], element["id"] = str(stanza.recipient), stanza.id
        elif not element.getAttribute("id"):
            if not (is_error and recipient == stanza.sender):
                element["id"] = self.new_id()
            elif stanza.id is not None:
                element["id"] = stanza.id


@frozen
class _Pushing(_Composer):
    """
    Makes stanzas that answer nothing.

    Attributes:
        sender: Where they come from unless they say so, or None.
        kind: What they are unless they say so.
        children: Elements to add to each stanza.
    """

    sender: Address | None
    kind: str
    children: Sequence[Element]

    def is_answer(self, element: Element) -> bool:
        return False

    def _default_kind(self) -> str:
        return self.kind

    def _is_sent(self, kind: str, reply: _Checked) -> bool:
        return bool(self.children) or super()._is_sent(kind, reply)

    def _left_out(self, note: str | None) -> None:
        raise ReplyRefused(note or _NO_CONTENT["message"])

    def _described(self, kind: str, reply: _Checked) -> Element:
        stanza_type = reply.get("type")
        if stanza_type is None:
            if "error" in reply:
                stanza_type = "error"
            elif kind == "message":
                stanza_type = "chat"
        element = self._filled(kind, stanza_type, reply)
        for child in self.children:
            element.addChild(child)
        if "id" in reply:
            element["id"] = reply["id"]
        self._complete(element, *self._addresses(reply.get("from"), reply.get("to")))
        return element

    def _address_written(self, element: Element, reply: _Checked) -> None:
        given = self._addresses(element.getAttribute("from"), element.getAttribute("to"), "stanza: ")
        besides = self._addresses(reply.get("from"), reply.get("to"))
        self._complete(element, given[0] or besides[0], given[1] or besides[1])

    def _addresses(
        self, sender: str | None, recipient: str | None, within: str = ""
    ) -> tuple[Address | None, Address | None]:
        return _address(sender, f"{within}from"), _address(recipient, f"{within}to")

    def _complete(self, element: Element, sender: Address | None, recipient: Address | None) -> None:
        if recipient is None:
            raise ReplyRefused("to: it is missing")
        sender = sender or self.sender
        if sender is None:
            raise ReplyRefused("from: it is missing, and there is no address to take in its place")
        self._see_sender(sender)
        element["from"], element["to"] = str(sender), str(recipient)
        if not element.getAttribute("id"):
            element["id"] = self.new_id()


def _address(text: str | None, name: str) -> Address | None:
    try:
        return None if text is None else Address.parse(text)
    except NotAnAddress as error:
        raise ReplyRefused(f"{name}: not an address: {error}") from None


def _check_type(kind: str, value: str | None, within: str = "") -> str:
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
    error = _checked(given, _STRINGS, "error.")
    condition = _one_of("error.condition", error.get("condition", "undefined-condition"), CONDITIONS)
    error_type = _one_of("error.type", error.get("type", CONDITIONS[condition]), ERROR_TYPES)
    return StanzaError(error_type, condition, error.get("text", text))


def _fill_message(element: Element, reply: _Checked) -> None:
    for name in ("subject", "body"):
        if name in reply:
            element.addElement((NS_COMPONENT, name), content=_json_text(reply[name]))
    if reply.get("thread"):
        element.addElement((NS_COMPONENT, "thread"), content=reply["thread"])
    _fill_nick(element, reply)
    if "state" in reply:
        element.addElement((NS_CHAT_STATES, _one_of("state", reply["state"], CHAT_STATES)))
    if "oob_url" in reply:
        element.addElement((NS_OOB, "x")).addElement((NS_OOB, "url"), content=reply["oob_url"])
    if "replace" in reply:
        element.addElement((NS_CORRECTION, "replace"))["id"] = reply["replace"]
    if "reply" in reply:
        given = _checked(reply["reply"], _STRINGS, "reply.")
        if "id" not in given:
            raise ReplyRefused("reply.id: it is missing")
        quoted = element.addElement((NS_REPLY, "reply"))
        quoted["id"] = given["id"]
        author = _address(given.get("to"), "reply.to")
        if author is not None:
            quoted["to"] = str(author)


def _fill_presence(element: Element, reply: _Checked) -> None:
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


def _fill_nick(element: Element, reply: _Checked) -> None:
    if "nick" in reply:
        element.addElement((NS_NICK, "nick"), content=reply["nick"])


_CONTENT: Mapping[str, Callable[[Element, _Checked], None]] = {
    "message": _fill_message,
    "presence": _fill_presence,
    "iq": lambda element, reply: None,
}
