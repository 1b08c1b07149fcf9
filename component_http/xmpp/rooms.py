"""
Messages that a chat room sends back: our own, and on joining those from before.

Source: XEP-0045 sections 7.1 and 7.2 (entering a room), 7.4 (messages to all), 7.6 (changing the nick) and 7.14
(leaving); XEP-0203 (delayed delivery).
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from typing import Literal

from attrs import evolve, frozen
from twisted.words.xish.domish import Element

from component_http.contract.address import Address, NotAnAddress
from component_http.contract.outbound import OutboundStanza
from component_http.contract.outgoing import NS_DELAY
from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_MUC_USER
from component_http.shares import Latest, fairest_first

MAX_DELAYS = 8
"""Authors of a message's delays that are read as addresses; a server and a room make two of them."""

MAX_IDS = 16_384
"""Messages to rooms that are known by their id, the latest; in 5 MiB."""

MAX_OCCUPANTS = 4096
"""
Occupants of rooms that are known to be ours; 2 MiB, however long their addresses are.

Strangers can claim to be rooms, and invite us to more of them than there is room for. Beyond this number a sixteenth is
forgotten: first those that we never asked to let us in, and of these as of the others first those of the domain that
has most of them. Messages of an occupant that is forgotten are still recognised by their ids.
"""


@frozen
class _Occupant:
    """
    The role of one of our addresses in one room.

    Attributes:
        nick: The fingerprint of the resource of its occupant address; empty as long as nothing has told it.
        asked: We asked to enter; else the room says so unasked, as it does where others share the stream.
        confirmed: The room said so; else it is what we asked for.
        entering: The room may still send what was said before we came.
        domain: The hash of the room's domain.
    """

    nick: bytes
    asked: bool
    confirmed: bool
    entering: bool
    domain: int

    @property
    def settled(self) -> bool:
        """A message under another nick is not ours: a stream is in order, so all of the time before has come."""
        return self.confirmed and not self.entering


class Rooms:
    """
    Knows which messages of a room are our own, which are of the past, and which are from its occupants.

    It learns from all that leaves, from presence and from what comes back, and forgets the oldest first. Bots are
    told apart by their bare address: two of one component hear each other in a room.

    Who says goodbye to a room is known until the room has confirmed it: what was said before may still come back. To
    know an occupant for longer than it is one does no harm, for a room sends nothing to those who left.

    Two things look the same: a delayed message that a room sends from its past under the author's address, as Openfire
    does, and a new one that its author's client had to send twice. They are of the past from our request to enter until
    an occupant says something without delay, or the room tells its subject under its own address or without delay.
    So the first new one is taken for the past in a room that tells its subject with a delay under a person's address;
    and where we ask to enter once more, what is said before the room has read it ends that time too early.
    """

    def __init__(self) -> None:
        # By the message, who of us sent it; by who of us it is in which room, what it is there. All are fingerprints.
        self._ids: Latest[bytes, bytes] = Latest(MAX_IDS)
        self._occupants: OrderedDict[bytes, _Occupant] = OrderedDict()

    def sent(self, outbound: OutboundStanza) -> None:
        """A stanza leaves for the server."""
        head = outbound.head
        if outbound.kind == "message" and head.type == "groupchat" and head.id:
            ours, room = Address.parse(head.sender), Address.parse(head.recipient)
            self._ids[_message_key(ours, room, head.id)] = _occupant_key(ours, room)
        elif head.enters:
            self._asked(Address.parse(head.sender), Address.parse(head.recipient))

    def _asked(self, ours: Address, occupant: Address) -> None:
        """We ask to enter; one who is in the room already keeps the nick until the room confirms another."""
        if occupant.resource is not None:
            key = _occupant_key(ours, occupant)
            known = self._occupants.get(key)
            if known is not None and known.confirmed:
                self._know(key, evolve(known, asked=True, entering=True))
            else:
                nick = _fingerprint(occupant.resource)
                domain = hash(occupant.domain)
                self._know(key, _Occupant(nick, asked=True, confirmed=False, entering=True, domain=domain))

    def presence_arrived(self, presence: Stanza) -> None:
        """Learn from presence who of a room's occupants we are, or that we are none any more."""
        nick = presence.sender.resource
        if nick is None:
            return
        key = _occupant_key(presence.recipient, presence.sender)
        known = self._occupants.get(key)
        if presence.type == "error":
            if known is not None and not known.confirmed and known.nick == _fingerprint(nick):
                del self._occupants[key]
        elif presence.through_room and "110" in (codes := status_codes(presence.element)):
            if presence.type == "":
                asked, entering = (False, True) if known is None else (known.asked, known.entering or not known.nick)
                occupant = _Occupant(
                    _fingerprint(nick),
                    asked=asked,
                    confirmed=True,
                    entering=entering,
                    domain=hash(presence.sender.domain),
                )
                self._know(key, occupant)
            elif known is not None and presence.type == "unavailable" and "303" not in codes:
                del self._occupants[key]
        elif presence.through_room and known is None:
            self._know(key, _unnamed(presence.sender))

    def marked(self, stanza: Stanza) -> Stanza:
        """
        Mark a message that an occupant of a room sends to one of us who is there, where it has no mark of its own.

        Source: XEP-0045 section 7.5 (the mark is not to be relied on) and 9.6 (an error gets an occupant thrown out).
        """
        if not self._occupants or stanza.kind != "message" or stanza.type == "groupchat" or stanza.through_room:
            return stanza
        if not stanza.sender.resource or _occupant_key(stanza.recipient, stanza.sender) not in self._occupants:
            return stanza
        return evolve(stanza, through_room=True)

    def repeated(self, stanza: Stanza) -> Literal["reflection", "history"] | None:
        """
        Decide on a stanza that arrived.

        Returns:
            `reflection` for a message that we said in a room ourselves, now or before; `history` for one that was said
            before we came, unless it is the room's subject; None for all that is new. An error is always new.
        """
        if stanza.kind != "message" or stanza.type == "error":
            return None
        groupchat = stanza.type == "groupchat"
        if not groupchat and not self._occupants:
            return None
        ours, room = stanza.recipient, stanza.sender.bare
        key = _occupant_key(ours, room)
        known = self._occupants.get(key)
        delays = list(stanza.element.elements(NS_DELAY, "delay"))
        if groupchat and known is not None and known.entering and _ends_the_past(stanza, delays):
            known = evolve(known, entering=False)
            self._know(key, known)
        # What is not said to all comes from persons, too, and a webhook can be made to enter a person's address. From a
        # room it cannot be our own before the room has confirmed us (section 7.2.2: always, by status 110).
        if known is not None and (known.confirmed or groupchat) and known.nick == _fingerprint(stanza.sender.resource):
            self._know(key, known)
            return "reflection"
        if not groupchat:
            return None
        # People choose ids, too, and not always rare ones. Another resource of ours has a nick of its own.
        author = self._ids.get(_message_key(ours, room, stanza.id)) if stanza.id else None
        if author is not None and known is None:
            # Only a room sends back what we said. That it sends `groupchat` proves nothing, because anybody can.
            self._know(key, _unnamed(stanza.sender))
        if author is not None and not (author == key and known is not None and known.settled):
            return "reflection"
        if not delays or _is_subject(stanza):
            return None
        # A person's client marks what it had to send twice as delayed, too; and Openfire writes not the room's address
        # into what is of the past, but the person's.
        if (known is not None and known.entering) or _is_delayed_by(room, delays):
            return "history"
        return None

    def _know(self, key: bytes, occupant: _Occupant) -> None:
        """Remember; of those that we asked for, the one that was heard of last is last, and before them the others."""
        is_new = key not in self._occupants
        self._occupants[key] = occupant
        if is_new or occupant.asked:
            self._occupants.move_to_end(key, last=occupant.asked)
        if len(self._occupants) > MAX_OCCUPANTS:
            fairest = fairest_first(reversed(self._occupants.items()), _asked_and_domain)
            fairest.sort(key=lambda item: not item[1].asked)
            for each, _ in fairest[MAX_OCCUPANTS - MAX_OCCUPANTS // 16 :]:
                del self._occupants[each]


def _unnamed(room: Address) -> _Occupant:
    """An address of ours that gets what only occupants get. It entered before our start, so its nick is not known."""
    return _Occupant(b"", asked=False, confirmed=False, entering=False, domain=hash(room.domain))


def _asked_and_domain(item: tuple[bytes, _Occupant]) -> tuple[bool, int]:
    return item[1].asked, item[1].domain


def tells_of_rooms(presence: Element) -> bool:
    """Tell whether `Rooms.presence_arrived` can learn anything from a presence."""
    return presence.getAttribute("type") == "error" or any(child.uri == NS_MUC_USER for child in presence.elements())


def _message_key(ours: Address, room: Address, id: str) -> bytes:
    """A message in a room, whichever of a bot's resources sent it."""
    return _fingerprint(f"{ours.bare}\n{room.bare}\n{id}")


def _occupant_key(ours: Address, room: Address) -> bytes:
    """One of our addresses, with its resource, in one room."""
    return _fingerprint(f"{ours}\n{room.bare}")


def _fingerprint(text: str | None) -> bytes:
    """Make 16 bytes of a text, however long it is."""
    return blake2b((text or "").encode("utf-8", "surrogatepass"), digest_size=16).digest()


def status_codes(presence: Element) -> set[str]:
    """Read the status codes of a room's presence: 110 for our own, 303 for a nick that was changed."""
    return {
        status.getAttribute("code", "")
        for child in presence.elements(NS_MUC_USER, "x")
        for status in child.elements(NS_MUC_USER, "status")
    }


def _is_subject(message: Stanza) -> bool:
    """Tell whether a message tells the room's subject (section 7.2.15), which was not said before, but is so now."""
    return not message.has_body and message.own("subject") is not None


def _ends_the_past(message: Stanza, delays: list[Element]) -> bool:
    """
    Note that the room's history has ended: only history comes before the subject (section 7.1).

    An old subject may be of the past itself, and a room may greet us before its past, from its bare address.
    """
    if _is_subject(message):
        return not delays or _is_delayed_by(message.sender.bare, delays)
    return not delays and message.sender.resource is not None


def _is_delayed_by(room: Address, delays: list[Element]) -> bool:
    """Tell whether a delay is the room's own; of those not written as we write the address the last few count."""
    authors = [delay.getAttribute("from", "").partition("/")[0] for delay in delays]
    if str(room) in authors:
        return True
    for author in authors[-MAX_DELAYS:]:
        try:
            if Address.parse(author) == room:
                return True
        except NotAnAddress:
            continue
    return False
