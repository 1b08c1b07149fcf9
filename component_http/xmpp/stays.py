"""One of our addresses in one room, and what a room's presence says of it."""

from __future__ import annotations

from typing import Literal

from attrs import Factory, define
from twisted.internet.defer import Deferred
from twisted.words.xish.domish import Element

from component_http.contract.address import Address, NotAnAddress
from component_http.contract.outbound import OutboundStanza
from component_http.contract.xml import NS_COMPONENT, NS_MUC_USER
from component_http.errors import RoomRefused

_OUT = {
    "301": "banned from it",
    "307": "kicked out of it",
    "321": "no longer allowed in it",
    "322": "no longer allowed in it, for it is for members only now",
    "332": "out of it, for its service shuts down",
    "333": "out of it, for its service has lost us",
}
"""Why somebody is out of a room, by the status code (XEP-0045 section 15.6)."""

Key = tuple[str, str]
Stage = Literal["wanted", "entering", "inside"]


@define(eq=False)
class Stay:
    """
    One of our addresses in one room.

    Attributes:
        ours: The address.
        room: The bare address of the room.
        nick: What it is called there, or asks to be.
        stage: Whether it is in.
        by_webhook: The presence by which the webhook has entered it; None where the gateway enters.
        id: Of the presence by which we asked last.
        asked_at: When that was, in seconds of the clock; None as long as only the webhook has asked.
        nicks: How many nicks were tried.
        waiting: Those who want to say something there.
    """

    ours: Address
    room: Address
    nick: str
    stage: Stage = "wanted"
    by_webhook: OutboundStanza | None = None
    id: str = ""
    asked_at: float | None = None
    nicks: int = 1
    waiting: list[Deferred[None]] = Factory(list)

    @property
    def key(self) -> Key:
        return str(self.ours), str(self.room)

    def presence(self) -> Element:
        """Make a presence from the address to its place in the room."""
        presence = Element((NS_COMPONENT, "presence"))
        presence["from"] = str(self.ours)
        presence["to"] = f"{self.room}/{self.nick}"
        return presence

    def tell(self, refused: RoomRefused | None = None) -> None:
        """Let those who wait go on, or tell them that the room does not let it in."""
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            if refused is None:
                each.callback(None)
            else:
                each.errback(refused)


def why_out(codes: set[str], presence: Element) -> str:
    """Say why somebody is out of a room."""
    if is_destroyed(presence):
        return "out of it, for it was destroyed"
    return next((text for code, text in _OUT.items() if code in codes), "out of it")


def new_nick(presence: Element) -> str | None:
    """Read the nick that an occupant has from now on."""
    for x in presence.elements(NS_MUC_USER, "x"):
        for item in x.elements(NS_MUC_USER, "item"):
            try:
                return Address.parse(f"example/{item.getAttribute('nick', '')}").resource
            except NotAnAddress:
                return None
    return None


def is_destroyed(presence: Element) -> bool:
    """Tell whether a room says that it is no more."""
    return any(next(x.elements(NS_MUC_USER, "destroy"), None) is not None for x in presence.elements(NS_MUC_USER, "x"))
