"""Rooms that the gateway enters because something is to be said there, and those that the webhook has entered."""

from __future__ import annotations

from itertools import count

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.xish.domish import Element

from component_http.contract.address import Address
from component_http.contract.outbound import OutboundStanza
from component_http.contract.stanza import Stanza
from component_http.contract.xml import Limits, parse_stanzas, serialize
from component_http.errors import Offline, RoomRefused
from component_http.operations.metrics import Counters
from component_http.testing import RecordingOutlet
from component_http.xmpp.entrances import MAX_NICKS, MAX_STAYS, PATIENCE, Entrances
from tests.unit.outbound import outbound

OURS = Address.parse("alerts@bot.example.org")
ROOM = Address.parse("oncall@rooms.example.org")


class EntrancesCase(SynchronousTestCase):
    """Entrances on a stream that is there, with rooms that the test plays."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.outlet = RecordingOutlet()
        self.counters = Counters()
        self.asked: list[Element] = []
        self.answers = "result"
        self.entrances = self.some_entrances()
        self.entrances.connectionInitialized()

    def some_entrances(self, nick: str | None = None, *, create: bool = False) -> Entrances:
        ids = count(1)
        return Entrances(
            self.outlet,
            self.counters,
            clock=self.clock,
            new_id=lambda: f"join{next(ids)}",
            ask=self.ask,
            nick=nick,
            create=create,
        )

    async def ask(self, iq: Element, timeout: float) -> Element:
        self.asked.append(iq)
        if self.answers == "offline":
            raise Offline
        answer = Element((None, "iq"))
        answer["type"] = self.answers
        return answer

    def enter(self, room: Address = ROOM, ours: Address = OURS) -> Deferred[None]:
        return Deferred.fromCoroutine(self.entrances.enter(ours, room))

    def inside(self, room: Address = ROOM) -> None:
        """Enter a room that lets us in."""
        entering = self.enter(room)
        self.shows("<status code='110'/>", room=f"{room}/alerts")
        self.successResultOf(entering)
        self.outlet.sent.clear()

    def by_webhook(self, nick: str = "helper", ours: Address = OURS) -> OutboundStanza:
        """The webhook's own presence leaves."""
        presence = outbound(
            f"<presence from='{ours}' to='{ROOM}/{nick}'><x xmlns='http://jabber.org/protocol/muc'>"
            "<password>sesame</password></x></presence>"
        )
        self.entrances.sent(presence)
        return presence

    def arrives(self, xml: str) -> bool:
        [element] = parse_stanzas(xml, Limits())
        return self.entrances.arrived(Stanza.from_element(element))

    def shows(self, inside: str, room: str = f"{ROOM}/alerts", type_: str = "", to: Address = OURS) -> bool:
        """A room shows us an occupant."""
        kind = f" type='{type_}'" if type_ else ""
        return self.arrives(
            f"<presence from='{room}' to='{to}'{kind}>"
            f"<x xmlns='http://jabber.org/protocol/muc#user'>{inside}</x></presence>"
        )

    def refuses(self, condition: str, type_: str = "auth", text: str = "") -> bool:
        """A room refuses what we asked last."""
        asked = self.outlet.sent[-1]
        return self.arrives(
            f"<presence from='{asked['to']}' to='{OURS}' type='error' id='{asked.getAttribute('id', '')}'>"
            f"<error type='{type_}'><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
            f"<text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>{text}</text></error></presence>"
        )

    def sent(self) -> list[str]:
        """What left since the last question, in short."""
        found = [f"{element.getAttribute('type') or 'join'} {element['to']}" for element in self.outlet.sent]
        self.outlet.sent.clear()
        return found

    def lose_stream(self) -> list[str]:
        """Lose the stream, and say what is written first on the next one."""
        self.entrances.connectionLost(None)
        first = [
            each.xml.decode() if isinstance(each, OutboundStanza) else serialize(each)
            for each in self.entrances.first()
        ]
        self.entrances.connectionInitialized()
        return first


class EnteringTests(EntrancesCase):
    """Entering a room before something is said there."""

    def test_enters_once(self) -> None:
        """
        A room is entered without its past, under the local part of the address, and not again while we are in it.
        """
        entering = self.enter()
        [join] = self.outlet.sent
        self.assertEqual((f"{ROOM}/alerts", str(OURS)), (join["to"], join["from"]))
        self.assertIn("<history maxchars='0'/>", serialize(join))
        self.assertNoResult(entering)
        self.shows("<status code='110'/>")
        self.successResultOf(entering)
        self.successResultOf(self.enter())
        self.assertEqual(1, len(self.outlet.sent))
        self.assertEqual(1, self.counters["room_entered"])

    def test_bare_domain(self) -> None:
        """
        The component's own domain is called by its first label.
        """
        self.enter(ours=Address.parse("bot.example.org"))
        self.assertEqual([f"join {ROOM}/bot"], self.sent())

    def test_those_who_write_at_once_share_a_request(self) -> None:
        """
        Several messages to one room that come at once wait for one request to enter it.
        """
        entering = [self.enter(), self.enter()]
        self.assertEqual([f"join {ROOM}/alerts"], self.sent())
        self.shows("<status code='110'/>")
        for each in entering:
            self.successResultOf(each)

    def test_silent_room(self) -> None:
        """
        A room that does not answer is waited for a few seconds, and asked again for the next message.
        """
        entering = self.enter()
        self.clock.advance(PATIENCE)
        self.successResultOf(entering)
        self.enter()
        self.assertEqual([f"join {ROOM}/alerts"] * 2, self.sent())

    def test_whoever_goes_away_stops_nothing(self) -> None:
        """
        The room is entered for the others if one of those who wait goes away.
        """
        first, second = self.enter(), self.enter()
        first.addErrback(lambda _: None)
        first.cancel()
        self.shows("<status code='110'/>")
        self.successResultOf(second)

    def test_taken_nick(self) -> None:
        """
        Where somebody has the nick, others are tried, and the one that works is kept after a lost stream.
        """
        entering = self.enter()
        self.refuses("conflict")
        self.refuses("conflict")
        self.assertEqual([f"join {ROOM}/alerts", f"join {ROOM}/alerts-2", f"join {ROOM}/alerts-3"], self.sent())
        self.shows("<status code='110'/>", room=f"{ROOM}/alerts-3")
        self.successResultOf(entering)
        [again] = self.lose_stream()
        self.assertIn(f"to='{ROOM}/alerts-3'", again)

    def test_nick_of_the_settings(self) -> None:
        """
        The nick of the settings is used, and so many others like it; then the room refuses us.
        """
        self.entrances = self.some_entrances("watch")
        self.entrances.connectionInitialized()
        entering = self.enter()
        for _ in range(MAX_NICKS):
            self.refuses("conflict", text="taken")
        self.assertEqual(f"join {ROOM}/watch", self.sent()[0])
        refused = self.failureResultOf(entering, RoomRefused).value
        self.assertEqual(("conflict", "taken", str(ROOM)), (refused.condition, refused.text, refused.room))

    def test_refused(self) -> None:
        """
        A room for members says so to whoever waits; the log says it, and the next message asks again.
        """
        entering = self.enter()
        self.assertTrue(self.refuses("registration-required"))
        refused = self.failureResultOf(entering, RoomRefused).value
        self.assertEqual(
            ("registration-required", "auth", str(OURS)), (refused.condition, refused.error_type, refused.ours)
        )
        self.assertEqual(1, self.counters["room_refused"])
        self.outlet.sent.clear()
        self.enter()
        self.assertEqual([f"join {ROOM}/alerts"], self.sent())

    def test_other_errors(self) -> None:
        """
        An error that answers something else does not end the waiting.
        """
        entering = self.enter()
        self.arrives(
            f"<presence from='{ROOM}/alerts' to='{OURS}' type='error' id='other'><error type='auth'>"
            "<forbidden xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></presence>"
        )
        self.shows("<status code='110'/>", room=f"{ROOM}/somebody", to=Address.parse("other@bot.example.org"))
        self.assertNoResult(entering)

    def test_most_rooms(self) -> None:
        """
        Beyond so many rooms the one that was written to longest ago is left.
        """
        rooms = [Address.parse(f"r{number}@rooms.example.org") for number in range(MAX_STAYS)]
        for room in rooms:
            self.inside(room)
        self.successResultOf(self.enter(rooms[0]))
        self.enter()
        self.assertEqual([f"unavailable {rooms[1]}/alerts", f"join {ROOM}/alerts"], sorted(self.sent(), reverse=True))


class NewRoomTests(EntrancesCase):
    """Rooms that do not exist."""

    def test_not_made(self) -> None:
        """
        A room that came about by our entering is destroyed, and whoever wrote hears that there is none.
        """
        entering = self.enter()
        self.shows("<status code='110'/><status code='201'/>")
        self.assertEqual("item-not-found", self.failureResultOf(entering, RoomRefused).value.condition)
        [destroy] = self.asked
        self.assertEqual((str(ROOM), "set"), (destroy["to"], destroy["type"]))
        self.assertIn("<destroy>", serialize(destroy))
        self.assertTrue(self.shows("<item affiliation='none' role='none'/><destroy/>", type_="unavailable"))

    def test_left_where_it_cannot_be_destroyed(self) -> None:
        """
        Where the room cannot be destroyed it is left.
        """
        self.answers = "error"
        entering = self.enter()
        self.outlet.sent.clear()
        self.shows("<status code='110'/><status code='201'/>")
        self.failureResultOf(entering, RoomRefused)
        self.assertEqual([f"unavailable {ROOM}/alerts"], self.sent())

    def test_made(self) -> None:
        """
        With the setting for it the room is opened with the defaults of its service.
        """
        self.entrances = self.some_entrances(create=True)
        self.entrances.connectionInitialized()
        entering = self.enter()
        self.shows("<status code='110'/><status code='201'/>")
        self.successResultOf(entering)
        [opened] = self.asked
        self.assertIn("<x xmlns='jabber:x:data' type='submit'/>", serialize(opened))

    def test_not_opened(self) -> None:
        """
        A room that could not be opened is left, and whoever wrote hears it.
        """
        self.answers = "error"
        self.entrances = self.some_entrances(create=True)
        self.entrances.connectionInitialized()
        entering = self.enter()
        self.outlet.sent.clear()
        self.shows("<status code='110'/><status code='201'/>")
        self.assertEqual("not-allowed", self.failureResultOf(entering, RoomRefused).value.condition)
        self.assertEqual([f"unavailable {ROOM}/alerts"], self.sent())

    def test_webhook_may_make_rooms(self) -> None:
        """
        A room that the webhook makes by entering it is its own.
        """
        self.by_webhook()
        self.shows("<status code='110'/><status code='201'/>", room=f"{ROOM}/helper")
        self.assertEqual([], self.asked)


class StreamTests(EntrancesCase):
    """Lost streams."""

    def test_entered_again(self) -> None:
        """
        After a lost stream the rooms that we were in are entered again before anything else is sent.
        """
        self.inside()
        [again] = self.lose_stream()
        self.assertIn(f"to='{ROOM}/alerts'", again)
        self.shows("<status code='110'/>")
        self.successResultOf(self.enter())
        self.assertEqual([], self.sent())

    def test_without_a_stream(self) -> None:
        """
        While there is no stream nobody waits for a room; it is entered with the next one.
        """
        self.entrances.connectionLost(None)
        self.successResultOf(self.enter())
        self.assertEqual([], self.sent())
        self.assertEqual(1, len(list(self.entrances.first())))

    def test_lost_while_entering(self) -> None:
        """
        Whoever waits for a room when the stream is lost waits no longer.
        """
        entering = self.enter()
        self.entrances.connectionLost(None)
        self.successResultOf(entering)

    def test_stop(self) -> None:
        """
        A gateway that stops says goodbye to the rooms that it has entered, and not to those of the webhook.
        """
        self.inside()
        self.by_webhook(ours=Address.parse("bot@bot.example.org"))
        self.entrances.leave()
        self.assertEqual([f"unavailable {ROOM}/alerts"], self.sent())


class OutTests(EntrancesCase):
    """Being put out of a room."""

    def test_kicked(self) -> None:
        """
        Whoever was kicked out is not in the room after the next stream, and enters it again to say something.
        """
        self.inside()
        self.assertTrue(self.shows("<status code='110'/><status code='307'/>", type_="unavailable"))
        self.assertEqual(1, self.counters["room_lost"])
        self.assertEqual([], self.lose_stream())
        self.enter()
        self.assertEqual([f"join {ROOM}/alerts"], self.sent())

    def test_renamed(self) -> None:
        """
        A room may give us another nick.
        """
        self.inside()
        self.shows("<item nick='other'/><status code='303'/><status code='110'/>", type_="unavailable")
        [again] = self.lose_stream()
        self.assertIn(f"to='{ROOM}/other'", again)

    def test_forgotten(self) -> None:
        """
        A room that was restarted knows nothing of us: the message that comes back shows it, and the next one enters.
        """
        self.inside()
        [error] = parse_stanzas(
            f"<message from='{ROOM}' to='{OURS}' type='error'><error type='cancel'>"
            "<not-acceptable xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></message>",
            Limits(),
        )
        self.entrances.returned(Stanza.from_element(error))
        self.enter()
        self.assertEqual([f"join {ROOM}/alerts"], self.sent())

    def test_others_come_and_go(self) -> None:
        """
        What others do in the room changes nothing for us.
        """
        self.inside()
        self.assertTrue(self.shows("", room=f"{ROOM}/carol"))
        self.assertTrue(self.shows("", room=f"{ROOM}/carol", type_="unavailable"))
        self.successResultOf(self.enter())
        self.assertEqual([], self.sent())


class WebhookTests(EntrancesCase):
    """What the webhook does itself stands."""

    def test_its_own_presence(self) -> None:
        """
        A room that the webhook is in is not entered, all from it is forwarded, and it is entered again as it was.
        """
        presence = self.by_webhook()
        self.assertFalse(self.shows("<status code='110'/>", room=f"{ROOM}/helper"))
        self.successResultOf(self.enter())
        self.assertFalse(self.entrances.unheard(self.said()))
        self.assertEqual([], self.sent())
        self.assertEqual([presence.xml.decode()], self.lose_stream())

    def test_while_it_enters(self) -> None:
        """
        A message waits until the webhook's own request to enter is answered, and hears what the room says.
        """
        self.by_webhook()
        entering = self.enter()
        self.assertEqual([], self.sent())
        self.arrives(
            f"<presence from='{ROOM}/helper' to='{OURS}' type='error'><error type='auth'>"
            "<not-authorized xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error></presence>"
        )
        self.failureResultOf(entering, RoomRefused)

    def test_unconfirmed(self) -> None:
        """
        Its request to enter that was lost with the stream is sent again by whoever keeps it, and not twice.
        """
        self.by_webhook()
        self.assertEqual([], self.lose_stream())

    def test_takes_a_room_over(self) -> None:
        """
        Where it enters a room that the gateway is in, it hears the room from then on.
        """
        self.inside()
        self.assertTrue(self.entrances.unheard(self.said()))
        self.by_webhook()
        self.assertFalse(self.entrances.unheard(self.said()))

    def test_its_goodbye(self) -> None:
        """
        A room that it has left is not entered again after a lost stream.
        """
        self.by_webhook()
        self.shows("<status code='110'/>", room=f"{ROOM}/helper")
        self.entrances.sent(outbound(f"<presence from='{OURS}' to='{ROOM}/helper' type='unavailable'/>"))
        self.assertEqual([], self.lose_stream())

    def said(self) -> Stanza:
        """Somebody says something to all."""
        [message] = parse_stanzas(f"<message from='{ROOM}/carol' to='{OURS}' type='groupchat'/>", Limits())
        return Stanza.from_element(message)


class ExpectTests(EntrancesCase):
    """Messages that were kept before, and leave now."""

    def message(self, to: str, type_: str = "groupchat") -> OutboundStanza:
        return outbound(f"<message from='{OURS}' to='{to}' type='{type_}'/>")

    def test_room_is_entered_before(self) -> None:
        """
        Before a message that was kept over a restart leaves for a room, the room is asked to let us in.
        """
        self.entrances.expect(self.message(str(ROOM)))
        self.assertEqual([f"join {ROOM}/alerts"], self.sent())

    def test_nothing_else_is_entered(self) -> None:
        """
        What is said to a person, or to one occupant of a room, enters nothing.
        """
        self.entrances.expect(self.message(str(ROOM), "chat"))
        self.entrances.expect(self.message(f"{ROOM}/carol"))
        self.assertEqual([], self.sent())
