"""The facts of one incoming stanza: who it is from and to, and what may be answered to it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

from attrs import field, frozen
from twisted.words.xish.domish import Element

from component_http.contract.address import Address, NotAnAddress
from component_http.contract.xml import NS_COMPONENT, NS_MUC_USER, STANZA_NAMESPACES
from component_http.errors import MalformedStanza

TYPES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "message": frozenset({"chat", "error", "groupchat", "headline", "normal"}),
        "presence": frozenset(
            {"error", "probe", "subscribe", "subscribed", "unavailable", "unsubscribe", "unsubscribed"}
        ),
        "iq": frozenset({"error", "get", "result", "set"}),
    }
)
"""
The kinds of stanza, and the values that `type` can have in each.

Source: RFC 6121 sections 4.7.1 and 5.2.2, RFC 6120 section 8.2.3.
"""

STANZA_KINDS = tuple(TYPES)

_ONE_OF_EACH = {each: each for types in TYPES.values() for each in types}
"""There need not be as many of these strings as there are stanzas in memory."""


@frozen(weakref_slot=False)
class Stanza:
    """
    One stanza from the stream, with the addresses and the type it is decided by.

    Attributes:
        type: As it came, unknown ones too; "" where it has none. A message of an unknown type counts as normal (RFC
            6121 section 5.2.2).
        id: As it came, or None; never None for an iq.
        sender: Its `from`.
        recipient: Its `to`: an address of the component.
        through_room: It carries `<x xmlns='http://jabber.org/protocol/muc#user'/>`, or the sender is known to be an
            occupant of a room that the recipient is in: nobody may rely on the mark (XEP-0045 section 7.5).
        thread: The thread that replies keep (XEP-0201 section 3.2), or None. It is read from the request body at each
            attempt (`request.thread_of`), and is None before.
        element: All of it; its `to` and `from` are normalised. In what `facts` gives: nothing but its name.
    """

    kind: str
    type: str
    id: str | None
    sender: Address
    recipient: Address
    through_room: bool
    element: Element = field(repr=False, eq=False)
    thread: str | None = None

    @classmethod
    def from_element(cls, element: Element) -> Stanza:
        """
        Read the facts of an element, and write its addresses back into it, normalised.

        Raises `MalformedStanza` for what is no stanza, has no usable address, or is an iq without an id.
        """
        kind = element.name
        attributes = element.attributes
        if kind not in TYPES or element.uri not in STANZA_NAMESPACES:
            raise MalformedStanza(f"not a {', '.join(TYPES)}")
        if kind == "iq" and "id" not in attributes:
            raise MalformedStanza("an iq without an id")
        type_ = attributes.get("type", "")
        through_room = False
        for child in element.children:
            if isinstance(child, Element) and child.uri == NS_MUC_USER and child.name == "x":
                through_room = True
                break
        return cls(
            kind,
            _ONE_OF_EACH.get(type_, type_),
            attributes.get("id"),
            _address(attributes, "from"),
            _address(attributes, "to"),
            through_room,
            element,
        )

    def facts(self) -> Stanza:
        """The same without its content: what is needed to answer it, at a price in memory that is known."""
        return Stanza(  # once for each delivery, where `evolve` would take a hundredth of all its time
            self.kind,
            self.type,
            self.id,
            self.sender,
            self.recipient,
            self.through_room,
            name_only(NS_COMPONENT, self.kind),
            self.thread,
        )

    def response(self, response_type: str) -> Element:
        """Make an empty stanza of the same kind back to the sender: the same id, the addresses swapped."""
        element = Element((NS_COMPONENT, self.kind))
        element["type"] = response_type
        if self.id is not None:
            element["id"] = self.id
        element["to"] = str(self.sender)
        element["from"] = str(self.recipient)
        return element

    @property
    def is_request(self) -> bool:
        """The stanza is an iq that must be answered, once (RFC 6120 section 8.2.3)."""
        return self.kind == "iq" and self.type not in ("error", "result")

    @property
    def is_bad_request(self) -> bool:
        """The stanza is an iq of an unknown type, or without one; it gets bad-request (RFC 6120 section 8.2.3)."""
        return self.kind == "iq" and self.type not in TYPES["iq"]

    @property
    def bounceable(self) -> bool:
        """
        Its sender may be told by a stanza error that delivery failed.

        Never in answer to an error or a result (RFC 6120 section 8.3.1). Never into a room, where an error from an
        occupant gets it thrown out (XEP-0045 section 9.6): groupchat, a private message in a room, presence.
        """
        if self.kind == "message":
            return self.type not in ("error", "groupchat", "headline") and not self.through_room
        return self.is_request

    @property
    def answerable(self) -> bool:
        """A webhook's reply to it may be sent: it is neither an error nor the result of an iq."""
        return self.is_request if self.kind == "iq" else self.type != "error"

    @property
    def has_body(self) -> bool:
        """The stanza has a `<body/>` of its own namespace, be it empty (RFC 6121 section 5.2.3)."""
        return self.own("body") is not None

    def own(self, name: str) -> Element | None:
        """The first child of this name in the stanza's own namespace, which other handlers may have taken off."""
        children = self.element.elements()
        return next((child for child in children if child.name == name and child.uri in STANZA_NAMESPACES), None)

    @property
    def conversation(self) -> tuple[str, str, bool]:
        """Its place in the order: the bare sender, the bare recipient, and whether it is an iq."""
        return _conversation(self.sender.text, self.recipient.text, self.kind == "iq")


@lru_cache(1024)
def _conversation(sender: str, recipient: str, is_iq: bool) -> tuple[str, str, bool]:
    """The same object for all of a conversation, as long as it goes on."""
    return sender.partition("/")[0], recipient.partition("/")[0], is_iq


@lru_cache(64)
def name_only(uri: str | None, kind: str) -> Element:
    """The element of a stanza of which only the facts are kept: the same object for all, and not to be changed."""
    return Element((uri, kind))


def _address(attributes: dict[str, str], name: str) -> Address:
    text = attributes.get(name)
    if text is None:
        raise MalformedStanza(f"no '{name}'")
    try:
        address = Address.parse(str(text))  # another handler may have put a JID there
    except NotAnAddress as error:
        raise MalformedStanza(f"'{name}' is not an address: {error}") from error
    attributes[name] = str(address)
    return address
