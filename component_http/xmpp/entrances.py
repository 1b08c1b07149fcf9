"""
Rooms that our addresses are in: those that the gateway enters because something is to be said there, and those that the
webhook has entered itself.

Source: XEP-0045 sections 7.2 (entering a room), 7.14 (leaving), 9.1 and 8.2 (bans and kicks), 10.1 (making a room) and
10.9 (destroying it).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator

from attrs import define, evolve, field
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.words.xish.domish import Element
from wokkel.subprotocols import XMPPHandler

from component_http.contract.address import Address
from component_http.contract.conditions import StanzaError, read_error
from component_http.contract.outbound import LIFETIMES, OutboundStanza
from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_COMPONENT, NS_MUC
from component_http.errors import Offline, RoomRefused, Unanswered
from component_http.interfaces import Observer, Outlet
from component_http.log import Logger
from component_http.throttle import LOG_INTERVAL, Throttle
from component_http.xmpp.rooms import status_codes
from component_http.xmpp.stays import Key, Stay, is_destroyed, new_nick, why_out

PATIENCE = 5.0
"""Seconds that a room has to let us in; a room of the own server needs milliseconds."""

MAX_STAYS = 500
"""
Rooms that we are in at once, or want to be, counted for each of our addresses. Beyond them we leave the one in which
nothing was said for the longest time; where a webhook has entered it itself, it is only no longer entered again.
"""

MAX_NICKS = 5
"""Nicks that are tried in a room where each is somebody else's."""

NS_MUC_OWNER = "http://jabber.org/protocol/muc#owner"


@define(slots=False, eq=False)
class Entrances(XMPPHandler):
    """
    Enters rooms, again after each lost stream, and knows when we are out of one.

    A room that the gateway has entered hears from us only: what is said there to all, and who comes and goes, is not
    for the webhook. Where the webhook has entered a room itself, its own presence stands, and all is forwarded as
    usual; such a room is entered again after a lost stream by the same presence.

    Args:
        observer: Told `room_entered`, `room_refused` and `room_lost`.
        ask: Sends an iq and waits for its answer so many seconds (see `Sender.ask`).
        nick: What we are called in rooms; None for the local part of the address that enters.
        create: Make a room that does not exist, with the default configuration of its service.
    """

    _log = Logger()

    _outlet: Outlet
    _observer: Observer
    _clock: IReactorTime = field(kw_only=True)
    _new_id: Callable[[], str] = field(kw_only=True)
    _ask: Callable[[Element, float], Awaitable[Element]] = field(kw_only=True)
    _nick: str | None = field(default=None, kw_only=True)
    _create: bool = field(default=False, kw_only=True)
    _throttle: Throttle = field(init=False, factory=lambda: Throttle(LOG_INTERVAL))
    _connected: bool = field(init=False, default=False)
    # The one in which something was said last is last.
    _stays: OrderedDict[Key, Stay] = field(init=False, factory=OrderedDict)
    # Where we have said goodbye, and the room has not confirmed it.
    _leaving: OrderedDict[Key, None] = field(init=False, factory=OrderedDict)

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    # -- what is to be said in a room --

    async def enter(self, ours: Address, room: Address) -> None:
        """
        See that one of our addresses is in a room (a bare address), and wait for that, at most `PATIENCE` seconds.

        While there is no stream, nobody waits for it: the room is entered when the stream is there, before anything
        else is sent. Cancelling it ends the waiting only. Raises `RoomRefused` where the room does not let it in.
        """
        stay = self._expected(ours, room)
        if stay.stage == "inside" or not self._connected:
            return
        waiting: Deferred[None] = Deferred(stay.waiting.remove)
        stay.waiting.append(waiting)
        try:
            await waiting.addTimeout(PATIENCE, self._clock)
        except TimeoutError:
            self._warn_of(stay, "silent", f"has not answered within {PATIENCE:g} s whether it lets us in")

    def expect(self, message: OutboundStanza) -> None:
        """Ask to be let in where that is needed for a message that leaves behind this."""
        if message.kind == "message" and message.head.type == "groupchat":
            room = Address.parse(message.head.recipient)
            if room.resource is None:
                self._expected(Address.parse(message.head.sender), room)

    def _expected(self, ours: Address, room: Address) -> Stay:
        key = str(ours), str(room)
        stay = self._stays.get(key)
        if stay is None:
            stay = self._begun(Stay(ours, room, self._nick_of(ours, 1)))
        else:
            self._stays.move_to_end(key)
        is_late = stay.asked_at is not None and self._clock.seconds() - stay.asked_at >= PATIENCE
        if self._connected and (stay.stage == "wanted" or (stay.stage == "entering" and is_late)):
            self._send(self._asking(stay))
        return stay

    def _begun(self, stay: Stay) -> Stay:
        """The same stay, kept from now on; if there are too many, we leave the room that was silent longest."""
        self._stays[stay.key] = stay
        if len(self._stays) > MAX_STAYS:
            self._leave(self._stays.popitem(last=False)[1])
        return stay

    def _send(self, presence: Element | OutboundStanza) -> None:
        if isinstance(presence, OutboundStanza):
            now = self._clock.seconds()
            self._outlet.depart(evolve(presence, stored=now, expires=now + LIFETIMES["presence"]), lambda fate: None)
        else:
            self._outlet.send(presence)

    def _asking(self, stay: Stay) -> Element | OutboundStanza:
        """The presence that asks the room to let us in; from now on we wait for its answer."""
        stay.stage = "entering"
        stay.asked_at = self._clock.seconds()
        if stay.by_webhook is not None:
            return stay.by_webhook
        stay.id = self._new_id()
        presence = stay.presence()
        presence["id"] = stay.id
        # What was said before is not for us (section 7.2.14).
        presence.addElement((NS_MUC, "x")).addElement("history")["maxchars"] = "0"
        return presence

    def _nick_of(self, ours: Address, number: int) -> str:
        nick = self._nick or ours.local or ours.domain.partition(".")[0]
        return nick if number == 1 else f"{nick}-{number}"

    # -- the stream --

    def first(self) -> Iterator[Element | OutboundStanza]:
        """The presences to be written first on a new stream: to enter all rooms again."""
        self._connected = True
        for stay in list(self._stays.values()):
            if stay.stage == "wanted":
                yield self._asking(stay)

    def connectionInitialized(self) -> None:
        # On our own stream `first` came before.
        if not self._connected:
            for presence in self.first():
                self._send(presence)

    def connectionLost(self, reason: object) -> None:
        self._connected = False
        self._leaving.clear()
        for stay in list(self._stays.values()):
            if stay.stage == "entering" and stay.asked_at is None:
                # The webhook's presence is not confirmed, so whoever keeps it sends it again.
                del self._stays[stay.key]
            stay.stage = "wanted"
            stay.tell()
        super().connectionLost(reason)

    def leave(self) -> None:
        """Leave all rooms that the gateway has entered: it stops."""
        while self._stays:
            self._leave(self._stays.popitem(last=False)[1])

    def _leave(self, stay: Stay) -> None:
        self._say_goodbye(stay)
        stay.tell()

    def _say_goodbye(self, stay: Stay) -> None:
        if stay.by_webhook is None and stay.stage != "wanted" and self._connected:
            self._leaving[stay.key] = None
            if len(self._leaving) > MAX_STAYS:
                self._leaving.popitem(last=False)
            presence = stay.presence()
            presence["type"] = "unavailable"
            self._outlet.send(presence)

    # -- outbound and incoming stanzas --

    def sent(self, presence: OutboundStanza) -> None:
        """A presence leaves, ours or the webhook's."""
        head = presence.head
        if head.type not in (None, "unavailable"):
            return
        ours, occupant = Address.parse(head.sender), Address.parse(head.recipient)
        key = str(ours), str(occupant.bare)
        known = self._stays.get(key)
        if head.type == "unavailable":
            if known is not None:
                del self._stays[key]
                known.tell()
        elif occupant.resource is not None and head.enters:
            if known is None:
                known = self._begun(Stay(ours, occupant.bare, occupant.resource))
            elif (known.id and head.id == known.id) or (known.by_webhook and known.by_webhook.xml == presence.xml):
                return
            # The webhook's own presence stands.
            known.by_webhook = presence
            known.nick = occupant.resource
            known.stage = "entering"
            known.asked_at = None

    def arrived(self, presence: Stanza) -> bool:
        """Look at a presence from a room, or an error; True if it is between the room and the gateway alone."""
        key = str(presence.recipient), str(presence.sender.bare)
        stay = self._stays.get(key)
        if stay is None:
            return self._is_about_leaving(key, presence)
        is_ours = stay.by_webhook is None
        codes = status_codes(presence.element)
        nick = presence.sender.resource
        if presence.type == "error":
            answers = presence.id == stay.id if is_ours else nick in (None, stay.nick)
            if stay.stage == "entering" and answers:
                self._refused(stay, read_error(presence))
        elif nick is None or not ("110" in codes or nick == stay.nick):
            pass
        elif presence.type == "":
            stay.nick = nick
            self._let_in(stay, is_new="201" in codes)
        elif presence.type == "unavailable" and "303" in codes:
            stay.nick = new_nick(presence.element) or stay.nick
        elif presence.type == "unavailable" and stay.stage == "inside":
            self._put_out(stay, codes, presence.element)
        return is_ours

    def returned(self, error: Stanza) -> None:
        """A message came back: where the room says that we are not in it, we are not."""
        stay = self._stays.get((str(error.recipient), str(error.sender.bare)))
        if stay is not None and stay.stage == "inside" and read_error(error).condition == "not-acceptable":
            self._observer.count("room_lost")
            self._warn_of(stay, "forgot", "does not know us any more: it is entered again for the next message")
            stay.stage = "wanted"

    def unheard(self, stanza: Stanza) -> bool:
        """
        Tell whether a stanza is for all in a room that the gateway has entered, and the webhook has not.

        A room's own presence, with its avatar, has no mark of a room.
        """
        is_for_all = stanza.type == "groupchat" if stanza.kind == "message" else stanza.kind == "presence"
        if not is_for_all or stanza.type == "error":
            return False
        key = str(stanza.recipient), str(stanza.sender.bare)
        stay = self._stays.get(key)
        return key in self._leaving if stay is None else stay.by_webhook is None

    # -- what follows --

    def _let_in(self, stay: Stay, *, is_new: bool) -> None:
        if stay.stage != "entering":
            return
        if not is_new or stay.by_webhook is not None:
            self._is_in(stay)
        elif self._create:
            # Until this the room is locked (section 10.1.2).
            form = Element(("jabber:x:data", "x"))
            form["type"] = "submit"
            self._ask_owner(stay, form, lambda: self._is_in(stay), lambda: self._not_made(stay))
        else:
            self._unmake(stay)

    def _is_in(self, stay: Stay) -> None:
        if self._stays.get(stay.key) is stay:
            stay.stage = "inside"
            self._leaving.pop(stay.key, None)
            if stay.by_webhook is None:
                self._observer.count("room_entered")
                self._log.info("entered the room {room} as {nick}", room=str(stay.room), nick=stay.nick)
            stay.tell()

    def _not_made(self, stay: Stay) -> None:
        self._say_goodbye(stay)
        self._turn_away(stay, StanzaError("cancel", "not-allowed", "the room could not be opened"))

    def _unmake(self, stay: Stay) -> None:
        """Destroy a room that our entering has created."""
        destroy = Element((NS_MUC_OWNER, "destroy"))
        destroy.addElement("reason", content="nobody had made this room")
        del self._stays[stay.key]
        self._leaving[stay.key] = None

        def is_gone() -> None:
            self._turn_away(stay, StanzaError("cancel", "item-not-found", "the room did not exist"))

        def is_there() -> None:
            self._say_goodbye(stay)
            is_gone()

        # The waiting sender is told afterwards, so that he does not create the room while we destroy it.
        self._ask_owner(stay, destroy, is_gone, is_there)

    def _ask_owner(self, stay: Stay, child: Element, done: Callable[[], object], failed: Callable[[], object]) -> None:
        iq = Element((NS_COMPONENT, "iq"))
        iq.attributes.update({"type": "set", "from": str(stay.ours), "to": str(stay.room)})
        iq.addElement((NS_MUC_OWNER, "query")).addChild(child)
        asked = Deferred.fromCoroutine(_answered(self._ask, iq))
        asked.addCallback(lambda is_done: done() if is_done else failed())
        asked.addErrback(self._mistaken)

    def _mistaken(self, failure: Failure) -> None:
        self._log.failure("cannot make or unmake a room: internal error", failure=failure)

    def _refused(self, stay: Stay, error: StanzaError) -> None:
        if stay.by_webhook is None and error.condition == "conflict" and stay.nicks < MAX_NICKS:
            stay.nicks += 1
            stay.nick = self._nick_of(stay.ours, stay.nicks)
            self._send(self._asking(stay))
        else:
            self._turn_away(stay, error)

    def _turn_away(self, stay: Stay, error: StanzaError) -> None:
        if self._stays.get(stay.key) is stay:
            del self._stays[stay.key]
        refused = RoomRefused(str(stay.room), str(stay.ours), error.condition, error.type, error.text or "")
        self._observer.count("room_refused")
        self._warn_of(stay, "refused", f"does not let us in: {refused}")
        stay.tell(refused)

    def _put_out(self, stay: Stay, codes: set[str], presence: Element) -> None:
        del self._stays[stay.key]
        self._observer.count("room_lost")
        self._warn_of(stay, "out", f"is left: we are {why_out(codes, presence)}")
        stay.tell()

    def _is_about_leaving(self, key: Key, presence: Stanza) -> bool:
        """A room that we leave may tell us of others until it confirms that we have left."""
        if key not in self._leaving:
            return False
        if presence.type == "unavailable" and (
            "110" in status_codes(presence.element) or is_destroyed(presence.element)
        ):
            del self._leaving[key]
        return True

    def _warn_of(self, stay: Stay, event: str, what: str) -> None:
        if self._throttle.may_tell(f"{event} {stay.key}", self._clock.seconds()):
            self._log.warn("the room {room} {what}", room=str(stay.room), what=what)


async def _answered(ask: Callable[[Element, float], Awaitable[Element]], iq: Element) -> bool:
    """Tell whether an iq was answered by a result."""
    try:
        answer = await ask(iq, PATIENCE)
        return str(answer.getAttribute("type")) == "result"
    except (Offline, Unanswered):
        return False
