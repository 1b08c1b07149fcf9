"""
What a chat room sends back: our own messages to us, and on joining what was said before.

Source: XEP-0045 sections 7.1 and 7.2 (entering a room), 7.4 (messages to all), 7.6 (changing the nick) and 7.14
(leaving); XEP-0203 (delayed delivery).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from hashlib import blake2b
from typing import Literal

from attrs import evolve, frozen
from twisted.words.xish.domish import Element

from component_http.contract.address import Address, NotAnAddress
from component_http.contract.request import NS_DELAY
from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_MUC_USER

__all__ = ["MAX_IDS", "MAX_OCCUPANTS", "Rooms"]

NS_MUC = "http://jabber.org/protocol/muc"

MAX_IDS = 16_384
"""Messages to rooms that are known by their id; more than can wait for a stream, in 4 MiB."""

MAX_OCCUPANTS = 4096
"""
Occupants of rooms that are known to be ours; 20 MiB if their addresses are as long as can be.

Strangers can claim rooms and so push out others; what we say there is still known by its ids.
"""


@frozen
class _Occupant:
    """
    What one of our addresses is in one room.

    Attributes:
        nick: The resource of its occupant address.
        confirmed: The room said so; else it is what we asked for.
        entering: The room may still send what was said before we came.
    """

    nick: str
    confirmed: bool
    entering: bool


class Rooms:
    """
    Knows which messages of a room are our own and which are of the past.

    It learns from all that leaves and from presence, and forgets the oldest first. Bots are told apart by their bare
    address: two of one component hear each other in a room.

    Who says goodbye to a room is known until the room has confirmed it: what was said before may still come back. To
    know an occupant for longer than it is one does no harm, for a room sends nothing to those who left.
    """

    def __init__(self) -> None:
        self._ids: OrderedDict[bytes, None] = OrderedDict()
        self._occupants: OrderedDict[tuple[Address, Address], _Occupant] = OrderedDict()

    def sent(self, element: Element) -> None:
        """
        Something leaves for the server.

        Args:
            element: A stanza that passed the check of `contract.outgoing`.
        """
        if element.name == "message" and element.getAttribute("type") == "groupchat" and element.getAttribute("id"):
            sent = _fingerprint(*_addresses(element), element["id"])
            self._ids[sent] = None
            self._ids.move_to_end(sent)
            if len(self._ids) > MAX_IDS:
                self._ids.popitem(last=False)
        elif element.name == "presence" and _asks_to_enter(element):
            self._asked(*_addresses(element))

    def _asked(self, ours: Address, occupant: Address) -> None:
        """We ask to enter; one who is in the room already keeps the nick until the room confirms another."""
        if occupant.resource is not None:
            known = self._occupants.get((ours, occupant.bare))
            if known is not None and known.confirmed:
                self._know(ours, occupant.bare, evolve(known, entering=True))
            else:
                self._know(ours, occupant.bare, _Occupant(occupant.resource, confirmed=False, entering=True))

    def presence_arrived(self, presence: Stanza) -> None:
        """Learn from presence who of a room's occupants we are, or that we are none any more."""
        ours, room, nick = presence.recipient, presence.sender.bare, presence.sender.resource
        known = self._occupants.get((ours, room))
        if presence.type == "error":
            if known is not None and not known.confirmed and nick == known.nick:
                del self._occupants[ours, room]
        elif presence.through_room and nick is not None and "110" in (codes := _status_codes(presence.element)):
            if presence.type == "":
                entering = known is None or known.entering
                self._know(ours, room, _Occupant(nick, confirmed=True, entering=entering))
            elif known is not None and presence.type == "unavailable" and "303" not in codes:
                del self._occupants[ours, room]

    def repeated(self, stanza: Stanza) -> Literal["reflection", "history"] | None:
        """
        Decide on a stanza that arrived.

        Returns:
            `reflection` for a message that we said in a room ourselves, now or before; `history` for one that was said
            before we came, unless it is the room's subject; None for all that is new. An error is always new.
        """
        if stanza.kind != "message" or stanza.type == "error":
            return None
        ours, room = stanza.recipient, stanza.sender.bare
        known = self._occupants.get((ours, room))
        if known is not None and known.nick == stanza.sender.resource:
            self._know(ours, room, known)
            return "reflection"
        if stanza.type != "groupchat":
            return None
        if stanza.id and _fingerprint(ours, room, stanza.id) in self._ids:
            return "reflection"
        delays = list(stanza.element.elements(NS_DELAY, "delay"))
        if not delays or _is_subject(stanza):
            # Only what was said before comes before the subject (section 7.1).
            if known is not None and known.entering:
                self._know(ours, room, evolve(known, entering=False))
            return None
        # A person's client marks what it had to send twice as delayed, too; and Openfire writes not the room's address
        # into what is of the past, but the person's.
        if (known is not None and known.entering) or _is_delayed_by(room, delays):
            return "history"
        return None

    def _know(self, ours: Address, room: Address, occupant: _Occupant) -> None:
        self._occupants[ours, room] = occupant
        self._occupants.move_to_end((ours, room))
        if len(self._occupants) > MAX_OCCUPANTS:
            self._occupants.popitem(last=False)


def _addresses(element: Element) -> tuple[Address, Address]:
    """From whom a stanza of ours is, and to whom."""
    return Address.parse(element["from"]), Address.parse(element["to"])


def _asks_to_enter(presence: Element) -> bool:
    return not presence.hasAttribute("type") and next(presence.elements(NS_MUC, "x"), None) is not None


def _fingerprint(bot: Address, room: Address, id: str) -> bytes:
    """What is kept of an id that was sent: 16 bytes, however long it and the addresses are."""
    text = f"{bot.bare}\n{room.bare}\n{id}"
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _status_codes(presence: Element) -> set[str]:
    """What a room's presence says beside itself: 110 that it is our own, 303 that a nick was changed."""
    return {
        status.getAttribute("code", "")
        for child in presence.elements(NS_MUC_USER, "x")
        for status in child.elements(NS_MUC_USER, "status")
    }


def _is_subject(message: Stanza) -> bool:
    """It tells the room's subject (section 7.2.15), which was not said before, but is so now."""
    return not message.has_body and next(message.element.elements(message.element.uri, "subject"), None) is not None


def _is_delayed_by(room: Address, delays: Iterable[Element]) -> bool:
    for delay in delays:
        try:
            if Address.parse(delay.getAttribute("from", "")).bare == room:
                return True
        except NotAnAddress:
            continue
    return False
