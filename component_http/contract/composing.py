"""
From reply objects to stanzas: in answer to a stanza, or without a request.

Whatever is made here is fit for the stream: from the component's own domain, to an address, well-formed, within the
limits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from sys import intern

from attrs import frozen
from twisted.words.xish.domish import Element

from component_http.contract.address import Address
from component_http.contract.content import (
    NO_CONTENT,
    Checked,
    address,
    check_type,
    checked,
    filled,
    has_content,
    mistake,
)
from component_http.contract.outgoing import written
from component_http.contract.stanza import TYPES, Stanza
from component_http.contract.xml import NS_COMPONENT, NS_MUC_USER, Limits, parse_stanzas
from component_http.errors import ForeignSender, ReplyRefused, XmlRefused

MAX_REPLIES = 1000
"""Stanzas in one answer. A body of 1 MiB could hold a hundred thousand, which would block the reactor for seconds."""

MAX_ELEMENTS = 30_000
"""Elements in the stanzas of one answer that are written as XML: a body of 1 MiB could hold 260,000."""


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
        xml: Each of the stanzas as it is written; empty where that is still to be done.
    """

    stanzas: tuple[Element, ...]
    verbatim: frozenset[int] = frozenset()
    answers: bool = False
    note: str | None = None
    xml: tuple[bytes, ...] = ()


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


class _Allowance:
    """The room that is left in one answer."""

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
        xml: list[bytes] = []
        verbatim: set[int] = set()
        note: str | None = None
        allowance = _Allowance()
        for given in replies:
            before = len(made)
            reply = checked(given)
            if "stanza" in reply:
                elements: Iterable[Element] = self._written(reply, allowance)
            else:
                kind = reply.get("kind", self._default_kind())
                if kind not in TYPES:
                    raise ReplyRefused(f"kind: not one of {', '.join(TYPES)}")
                allowance.charge(1)
                elements = [self._described(kind, reply)]
                note = note or mistake(kind, given, reply)
                if not self._is_sent(kind, reply):
                    self._left_out(note)
                    elements = []
            for element in elements:
                try:
                    xml.append(written(element, self.limits.max_bytes))
                except XmlRefused as error:
                    raise ReplyRefused(str(error)) from None
                made.append(element)
            if "stanza" in reply:
                verbatim.update(range(before, len(made)))
        answers = sum(map(self.is_answer, made))
        if answers > 1:
            raise ReplyRefused("more than one answer to the iq")
        return Composed(tuple(made), frozenset(verbatim), answers > 0, note, tuple(xml))

    def is_answer(self, element: Element) -> bool:
        """The element ends the iq that is answered."""
        raise NotImplementedError

    def _default_kind(self) -> str:
        """The kind of a reply that names none."""
        raise NotImplementedError

    def _is_sent(self, kind: str, reply: Checked) -> bool:
        """Say whether a stanza has any content, so that it is sent."""
        return has_content(kind, reply)

    def _left_out(self, note: str | None) -> None:
        """Called where a reply has no content and is not sent; `note` says so where it is a mistake."""

    def _addresses(
        self, sender: str | None, recipient: str | None, within: str = ""
    ) -> tuple[Address | None, Address | None]:
        """Read the addresses of a reply; None for one that is left to the default."""
        raise NotImplementedError

    def _described(self, kind: str, reply: Checked) -> Element:
        """Make the stanza that properties describe."""
        raise NotImplementedError

    def _complete(self, element: Element, sender: Address | None, recipient: Address | None) -> None:
        """Address a stanza and give it an id, as far as nobody has."""
        raise NotImplementedError

    def _written(self, reply: Checked, allowance: _Allowance) -> Iterator[Element]:
        """Take over the stanzas that were written as XML, and fill in what they lack."""
        try:
            elements = parse_stanzas(reply["stanza"], self.limits, allowance.charge)
        except XmlRefused as error:
            raise ReplyRefused(f"stanza: {error}") from None
        for element in elements:
            if element.name not in TYPES or element.uri != NS_COMPONENT:
                raise ReplyRefused(f"stanza: not a {', '.join(TYPES)}")
            if element.name == "iq" or element.hasAttribute("type"):
                check_type(element.name, element.getAttribute("type"), "stanza: ")
            self._address_written(element, reply)
            yield element

    def _address_written(self, element: Element, reply: Checked) -> None:
        """Complete a stanza that was written as XML in a reply."""
        addresses = self._addresses(element.getAttribute("from"), element.getAttribute("to"), "stanza: ")
        self._complete(element, *addresses)

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

    def _described(self, kind: str, reply: Checked) -> Element:
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
        element = filled(kind, stanza_type, reply)
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
        """Tell whether a message with these addresses (None: the defaults) is in the conversation that it answers."""
        stanza = self.stanza
        return (sender is None or sender.bare == stanza.recipient.bare) and (
            recipient is None or recipient.bare == stanza.sender.bare
        )

    def _is_occupant(self, recipient: Address) -> bool:
        """Tell whether it is somebody in the room that the stanza came from (XEP-0045 section 7.5)."""
        from_room = self.stanza.through_room or self.stanza.type == "groupchat"
        return from_room and recipient.resource is not None and recipient.bare == self.stanza.sender.bare

    def _addresses(
        self, sender: str | None, recipient: str | None, within: str = ""
    ) -> tuple[Address | None, Address | None]:
        """Read the addresses of a reply; those of a bot that echoes the request's count as absent."""
        given = address(sender, f"{within}from"), address(recipient, f"{within}to")
        return (None, None) if given == (self.stanza.sender, self.stanza.recipient) else given

    def _complete(self, element: Element, sender: Address | None, recipient: Address | None) -> None:
        stanza, attributes = self.stanza, element.attributes
        stanza_type = attributes.get("type")
        if sender is None:
            sender = stanza.recipient
        if recipient is None:
            recipient = stanza.sender.bare if stanza_type == stanza.type == "groupchat" else stanza.sender
        self._see_sender(sender)
        is_error = stanza_type == "error" and element.name != "iq"
        if is_error and recipient.bare == stanza.sender.bare and not stanza.bounceable:
            raise ReplyRefused("type: a room, a headline or presence is never answered by an error")
        # What is sent is remembered for a while, and most of it has the same addresses.
        attributes["from"], attributes["to"] = intern(str(sender)), intern(str(recipient))
        if self.is_answer(element):
            # From whom it was asked of: the asker takes it from nobody else (RFC 6120 section 8.1.2.1).
            attributes["from"], attributes["id"] = str(stanza.recipient), stanza.id
        elif not attributes.get("id"):
            if not (is_error and recipient == stanza.sender):
                attributes["id"] = self.new_id()
            elif stanza.id is not None:
                attributes["id"] = stanza.id


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

    def _is_sent(self, kind: str, reply: Checked) -> bool:
        return bool(self.children) or super()._is_sent(kind, reply)

    def _left_out(self, note: str | None) -> None:
        raise ReplyRefused(note or NO_CONTENT["message"])

    def _described(self, kind: str, reply: Checked) -> Element:
        stanza_type = reply.get("type")
        if stanza_type is None:
            if "error" in reply:
                stanza_type = "error"
            elif kind == "message":
                stanza_type = "chat"
        element = filled(kind, stanza_type, reply)
        for child in self.children:
            element.addChild(child)
        if "id" in reply:
            element["id"] = reply["id"]
        self._complete(element, *self._addresses(reply.get("from"), reply.get("to")))
        return element

    def _address_written(self, element: Element, reply: Checked) -> None:
        given = self._addresses(element.getAttribute("from"), element.getAttribute("to"), "stanza: ")
        besides = self._addresses(reply.get("from"), reply.get("to"))
        self._complete(element, given[0] or besides[0], given[1] or besides[1])

    def _addresses(
        self, sender: str | None, recipient: str | None, within: str = ""
    ) -> tuple[Address | None, Address | None]:
        return address(sender, f"{within}from"), address(recipient, f"{within}to")

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
