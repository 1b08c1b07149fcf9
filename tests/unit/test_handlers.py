"""What happens to a stanza between the stream and the webhook."""

from __future__ import annotations

from random import Random

from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.xish.domish import Element
from twisted.words.xish.utility import EventDispatcher
from twisted.words.xish.xmlstream import BootstrapMixin
from wokkel.disco import DiscoHandler
from wokkel.generic import FallbackHandler
from wokkel.subprotocols import StreamManager, XMPPHandler
from wokkel.xmppim import MessageProtocol

from component_http.contract.address import Address
from component_http.contract.xml import NS_COMPONENT, Limits, parse_stanzas
from component_http.operations.metrics import Counters
from component_http.testing import RecordingOutlet
from component_http.xmpp.borrowed import BorrowedStream
from component_http.xmpp.entrances import Entrances
from component_http.xmpp.intake import StanzaIntake
from component_http.xmpp.presence import AlwaysAvailable
from component_http.xmpp.rooms import Rooms
from component_http.xmpp.stream import ComponentStream
from component_http.xmpp.subscribers import Subscribers
from component_http.xmpp.wellknown import WellKnown
from tests.unit.outbound import outbound


class ABorrowedManager(StreamManager):
    """A StreamManager of somebody else's, with a stream that exists already."""

    def __init__(self):
        super().__init__(BootstrapMixin(), Clock())
        self.sent = []
        stream = EventDispatcher()
        stream.send = self.sent.append
        self._connected(stream)
        self._authd(stream)

    def receive(self, xml):
        for element in parse_stanzas(xml, Limits()):
            self.xmlstream.dispatch(element)

    def answers(self):
        """All that was sent, as elements."""
        found = []
        for item in self.sent:
            found.extend([item] if isinstance(item, Element) else parse_stanzas(item, Limits()))
        return found


class HandlerTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.manager = ABorrowedManager()
        self.counters = Counters()
        self.accepted = []

    def add_intake(self, *kinds, webhook=True, **settings):
        intake = StanzaIntake(
            self.accepted.append if webhook else None,
            domain="bot.example.org",
            kinds=kinds or ("message",),
            observer=self.counters,
            **settings,
        )
        intake.setHandlerParent(self.manager)
        return intake

    def add_presence(self):
        """Let presence be answered as the gateway does."""
        AlwaysAvailable(
            "bot.example.org",
            Subscribers("bot.example.org"),
            outlet=RecordingOutlet(),
            observer=self.counters,
            clock=Clock(),
        ).setHandlerParent(self.manager)

    def receive(self, kind, inside="", to="bot@bot.example.org", **attributes):
        given = "".join(f" {name.rstrip('_')}='{value}'" for name, value in attributes.items())
        sender = "" if "from_" in attributes else " from='alice@example.org/phone'"
        self.manager.receive(f"<{kind}{sender} to='{to}'{given}>{inside}</{kind}>")

    def answers(self):
        return [
            (answer.name, answer.getAttribute("type"), answer["from"], answer["to"])
            for answer in self.manager.answers()
        ]


class IntakeTests(HandlerTestCase):
    """Which stanzas become deliveries."""

    def test_listed_kinds_are_taken(self) -> None:
        """
        With the default only messages are forwarded.
        """
        self.add_intake()
        self.receive("message")
        self.receive("presence")
        self.receive("iq", type="result", id="1")
        self.assertEqual(["message"], [stanza.kind for stanza in self.accepted])
        self.assertEqual([], self.answers())

    def test_what_is_taken_is_in_no_cycle(self) -> None:
        """
        A stanza that was handed on is freed as soon as nobody needs it, also a large one.
        """
        self.add_intake("message")
        self.receive("message", "<x xmlns='x'><y/></x>")
        [x] = self.accepted[0].element.elements()
        [y] = x.elements()
        self.assertEqual([None, None], [x.parent, y.parent])

    def test_errors_are_shown_to_whoever_pushed(self) -> None:
        """
        An error that comes back is looked at by whoever pushed what it is about, and forwarded all the same.
        """
        returned = []
        self.add_intake("message", "presence", returned=returned.append)
        for kind in ("message", "presence"):
            self.receive(kind, type="error", id="1")
            self.receive(kind, id="1")
        self.receive("iq", type="error", id="1")
        self.assertEqual(["message", "presence"], [stanza.kind for stanza in returned])
        self.assertEqual(4, len(self.accepted))

    def test_rooms_that_only_the_gateway_is_in(self) -> None:
        """
        What happens in a room that the gateway has entered for a push stays there, but for what is said to it alone.
        """
        outlet = RecordingOutlet()
        entrances = Entrances(outlet, self.counters, clock=Clock(), new_id=lambda: "j1", ask=fail)
        entrances.setHandlerParent(self.manager)
        rooms, shown = Rooms(), []
        self.add_intake("message", "presence", rooms=rooms, entrances=entrances, shown=shown.append)
        Deferred.fromCoroutine(entrances.enter(Address.parse("bot@bot.example.org"), Address.parse("room@example.org")))
        [join] = outlet.sent
        rooms.sent(outbound(join))
        mine = "<x xmlns='http://jabber.org/protocol/muc#user'><status code='110'/></x>"
        other = "<x xmlns='http://jabber.org/protocol/muc#user'/>"
        self.receive("presence", other, from_="room@example.org/carol")
        self.receive("presence", mine, from_="room@example.org/bot")
        self.receive("presence", "<x xmlns='vcard-temp:x:update'/>", from_="room@example.org")
        self.receive("message", "<body>mine</body>", from_="room@example.org/bot", type="groupchat", id="m1")
        self.receive("message", "<body>all</body>", from_="room@example.org/carol", type="groupchat")
        self.receive("message", "<body>you</body>", from_="room@example.org/carol", type="chat")
        self.receive("message", from_="room@example.org", type="error")
        self.assertEqual(["chat", "error"], [stanza.type for stanza in self.accepted])
        self.assertEqual(["m1"], [stanza.id for stanza in shown])

    def test_a_flood_of_malformed_stanzas_does_not_fill_the_log(self) -> None:
        """
        Of stanzas that are ignored there is one line in a minute, with the number of those left out before.
        """
        clock = Clock()
        self.add_intake("iq", monotonic=clock.seconds)
        with capturedLogs() as logs:
            for _ in range(2):
                for _ in range(50):
                    self.receive("iq", type="nonsense", id="1")
                clock.advance(61)
        self.assertEqual(
            ["ignored a iq: an iq of an unknown type" + more for more in ("", " (49 more left out before)")],
            [formatEvent(event) for event in logs if event["log_level"] is LogLevel.warn],
        )
        self.assertEqual(100, self.counters["malformed"])

    def test_unlisted_iq_is_answered(self) -> None:
        """
        An iq get or set that is not forwarded gets service-unavailable, with its id.
        """
        self.add_intake()
        self.receive("iq", "<query xmlns='urn:example'/>", type="get", id="i1")
        [answer] = self.manager.answers()
        self.assertEqual(("error", "i1"), (answer["type"], answer["id"]))
        self.assertEqual("service-unavailable", answer.error.firstChildElement().name)

    def test_no_webhook(self) -> None:
        """
        Where there is no webhook each message is told service-unavailable, and each iq; none of those that must not be
        told anything.
        """
        self.add_intake("message", "presence", "iq", webhook=False)
        self.receive("message", "<body>hello</body>", type="chat", id="m1")
        self.receive("message", "<body>hello</body>", id="m2")
        self.receive("iq", "<query xmlns='urn:example'/>", type="set", id="i1")
        for silent in ("error", "groupchat", "headline"):
            self.receive("message", "<body>hello</body>", type=silent, id="m3")
        self.receive("message", "<x xmlns='http://jabber.org/protocol/muc#user'/>", type="chat", id="m4")
        self.receive("iq", type="result", id="i2")
        self.receive("presence", type="subscribe")
        self.assertEqual(
            [("m1", "cancel"), ("m2", "cancel"), ("i1", "cancel")],
            [(answer["id"], answer.error["type"]) for answer in self.manager.answers()],
        )
        conditions = {answer.error.firstChildElement().name for answer in self.manager.answers()}
        self.assertEqual({"service-unavailable"}, conditions)
        self.assertEqual(([], 9), (self.accepted, self.counters["not_forwarded"]))

    def test_handled_is_left_alone(self) -> None:
        """
        What another handler marked as handled is not forwarded, however late that handler was added.
        """
        self.add_intake()

        class Greedy(MessageProtocol):
            def onMessage(self, message):
                message.handled = True

        Greedy().setHandlerParent(self.manager)
        self.receive("message", "<body>x</body>", type="chat")
        self.assertEqual([], self.accepted)

    def test_a_child_named_handled_is_no_mark(self) -> None:
        """
        Nobody can hide a stanza from the webhook by what is in it.
        """
        self.add_intake()
        self.receive("message", "<handled/><body>x</body>", type="chat")
        self.assertEqual(1, len(self.accepted))

    def test_fallback_of_the_application_is_not_heard(self) -> None:
        """
        With wokkel's FallbackHandler on the same stream an iq still has one answer.
        """
        FallbackHandler().setHandlerParent(self.manager)
        self.add_intake()
        self.receive("iq", "<query xmlns='urn:example'/>", type="get", id="i1")
        self.assertEqual(1, len(self.answers()))

    def test_off_the_stream_it_is_silent(self) -> None:
        """
        Taken off a stream that goes on, the intake leaves everything to those who stay.
        """
        intake = self.add_intake()
        intake.disownHandlerParent(self.manager)
        self.receive("message", "<body>x</body>", type="chat")
        self.receive("iq", "<query xmlns='urn:example'/>", type="get", id="i1")
        self.assertEqual([], self.accepted)
        self.assertEqual([], self.answers())

    def test_bodyless_and_errors_can_be_spared(self) -> None:
        """
        A bot that does not want chat states and errors does not get them.
        """
        self.add_intake("message", forward_bodyless=False, forward_errors=False)
        self.receive("message", "<active xmlns='http://jabber.org/protocol/chatstates'/>")
        self.receive("message", "<body>x</body>", type="error")
        self.receive("message", "<body>x</body>", id="wanted")
        self.assertEqual(["wanted"], [stanza.id for stanza in self.accepted])
        self.assertEqual(2, self.counters["not_forwarded"])

    def test_other_domains_are_left_alone(self) -> None:
        """
        On a stream that serves more than our domain, the rest is not ours.
        """
        self.add_intake()
        self.receive("message", to="someone@other.example.org")
        self.assertEqual([], self.accepted)
        self.assertEqual(1, self.counters["foreign"])

    def test_bad_address_is_ignored(self) -> None:
        """
        A borrowed stream checks no addresses, so the intake does.
        """
        self.add_intake()
        self.receive("message", to="a@b..c")
        self.assertEqual([], self.accepted)
        self.assertEqual(1, self.counters["malformed"])


class RoomTests(HandlerTestCase):
    """What comes from a room and never reaches the webhook."""

    OWN = "<x xmlns='http://jabber.org/protocol/muc#user'><status code='110'/></x>"
    PAST = "<body>x</body><delay xmlns='urn:xmpp:delay' from='room@rooms.example.org' stamp='2024-05-01T12:00:00Z'/>"

    def from_room(self, kind, inside="", nick="alice", **attributes):
        given = "".join(f" {name.rstrip('_')}='{value}'" for name, value in attributes.items())
        self.manager.receive(
            f"<{kind} from='room@rooms.example.org/{nick}' to='bot@bot.example.org'{given}>{inside}</{kind}>"
        )

    def test_private_messages_without_a_mark(self) -> None:
        """
        What an occupant says to the bot alone comes from a room, also where nothing in it says so.
        """
        self.add_intake()
        self.add_presence()
        self.from_room("presence", self.OWN, nick="echo")
        self.from_room("message", "<body>psst</body>", type="chat")
        self.receive("message", "<body>psst</body>", type="chat")
        self.assertEqual([True, False], [stanza.through_room for stanza in self.accepted])
        self.assertEqual([False, True], [stanza.bounceable for stanza in self.accepted])

    def test_our_own_messages(self) -> None:
        """
        A bot that wrote into a room does not get its own message; others' messages it does.
        """
        rooms = Rooms()
        self.add_intake(rooms=rooms)
        rooms.sent(outbound(self.a_message("room@rooms.example.org", id="ours")))
        self.from_room("message", "<body>x</body>", nick="echo", type="groupchat", id="ours")
        self.from_room("message", "<body>x</body>", type="groupchat", id="theirs")
        self.assertEqual(["theirs"], [stanza.id for stanza in self.accepted])
        self.assertEqual(1, self.counters["reflection"])

    def test_our_nick_is_known_where_presence_is_not_forwarded(self) -> None:
        """
        The room's word on who we are is heeded though presence is answered by the gateway itself.
        """
        self.add_intake("message")
        self.add_presence()
        self.from_room("presence", self.OWN, nick="echo")
        self.from_room("message", "<body>x</body>", nick="echo", type="groupchat")
        self.assertEqual([], self.accepted)
        self.assertEqual([], self.answers())

    def test_our_nick_is_known_where_a_handler_takes_presence(self) -> None:
        """
        So it is though a handler of the application has taken it.
        """
        self.add_intake("message", "presence")

        class Greedy(XMPPHandler):
            def connectionInitialized(self):
                self.xmlstream.addObserver("/presence", lambda element: setattr(element, "handled", True))

        Greedy().setHandlerParent(self.manager)
        self.from_room("presence", self.OWN, nick="echo")
        self.from_room("message", "<body>x</body>", nick="echo", type="groupchat")
        self.assertEqual([], self.accepted)

    def test_presence_of_ours_is_forwarded(self) -> None:
        """
        A bot that wants presence is told that it is in the room.
        """
        self.add_intake("presence")
        self.from_room("presence", self.OWN, nick="echo")
        self.assertEqual(["presence"], [stanza.kind for stanza in self.accepted])

    def test_history(self) -> None:
        """
        What was said before we came is not forwarded.
        """
        self.add_intake()
        self.from_room("message", self.PAST, type="groupchat")
        self.assertEqual([], self.accepted)
        self.assertEqual(1, self.counters["history"])

    def test_history_can_be_asked_for(self) -> None:
        """
        A bot that wants to know what was said gets it, its own messages still left out.
        """
        self.add_intake("message", "presence", forward_history=True)
        self.from_room("presence", self.OWN, nick="echo")
        self.from_room("message", self.PAST, nick="echo", type="groupchat", id="ours")
        self.from_room("message", self.PAST, type="groupchat", id="theirs")
        self.assertEqual([None, "theirs"], [stanza.id for stanza in self.accepted])

    def test_nobody_after_the_intake_gets_it(self) -> None:
        """
        What was kept from the webhook is dealt with.
        """
        self.add_intake()
        left = []
        self.manager.xmlstream.addObserver("/message", lambda element: left.append(element.handled), -1)
        self.from_room("message", self.PAST, type="groupchat")
        self.assertEqual([True], left)

    def test_malformed_presence_is_ignored_once(self) -> None:
        """
        Presence without a usable address is counted once.
        """
        self.add_intake()
        self.receive("presence", to="a@b..c")
        self.assertEqual(1, self.counters["malformed"])

    def a_message(self, to, **attributes):
        message = Element((NS_COMPONENT, "message"), attribs={"type": "groupchat", **attributes})
        message["from"], message["to"] = "bot@bot.example.org", to
        return message


class BorrowedStreamTests(HandlerTestCase):
    """Sending on a stream that somebody else owns."""

    def test_what_leaves_our_own_stream_is_told(self) -> None:
        """
        Whoever asked is told each stanza that leaves, also of those that a handler sends as one text.
        """
        told = []
        stream = ComponentStream(
            None,
            "bot.example.org",
            "s3cret",
            limits=Limits(),
            observer=self.counters,
            clock=Clock(),
            random=Random(),
            sent=told.append,
        )
        stream.send("<message to='alice@example.org'/><presence to='bob@example.org'/>")
        self.assertEqual(["alice@example.org", "bob@example.org"], [one.head.recipient for one in told])

    def test_what_leaves_is_told(self) -> None:
        """
        Whoever asked is told each stanza that leaves, with its sender, and none that is refused.
        """
        told = []
        outlet = BorrowedStream(self.manager, "bot.example.org", Limits(), self.counters, sent=told.append)
        for to in ("alice@example.org", "a@b..c"):
            message = Element((NS_COMPONENT, "message"))
            message["to"] = to
            outlet.send(message)
        self.assertEqual(
            [("bot.example.org", "alice@example.org")], [(one.head.sender, one.head.recipient) for one in told]
        )

    def test_what_we_send_is_checked_there_too(self) -> None:
        """
        A foreign sender is refused before it reaches the owner's stream.
        """
        outlet = BorrowedStream(self.manager, "bot.example.org", Limits(), self.counters)
        message = Element((NS_COMPONENT, "message"))
        message["to"] = "alice@example.org"
        self.assertTrue(outlet.send(message))
        message["from"] = "bot@elsewhere.example"
        self.assertFalse(outlet.send(message))
        self.assertEqual([("message", None, "bot.example.org", "alice@example.org")], self.answers())


class PresenceTests(HandlerTestCase):
    """A bot that is always there."""

    def setUp(self) -> None:
        super().setUp()
        self.add_presence()

    def test_subscribe(self) -> None:
        """
        Whoever subscribes is accepted from the bare address and sees the bot online.
        """
        self.receive("presence", type="subscribe")
        self.assertEqual(
            [
                ("presence", "subscribed", "bot@bot.example.org", "alice@example.org"),
                ("presence", None, "bot@bot.example.org/default", "alice@example.org"),
            ],
            self.answers(),
        )

    def test_probe(self) -> None:
        """
        A user who logs in again is told that the bot is online, whichever of its addresses is asked.
        """
        for address, online in (
            ("bot@bot.example.org/some", "bot@bot.example.org/default"),
            ("bot.example.org", "bot.example.org/default"),
        ):
            self.receive("presence", to=address, type="probe")
            self.assertEqual(("presence", None, online, "alice@example.org/phone"), self.answers()[-1])

    def test_unsubscribe(self) -> None:
        """
        Whoever unsubscribes sees the bot go.
        """
        self.receive("presence", type="unsubscribe")
        self.assertEqual("unavailable", self.answers()[0][1])

    def test_the_rest_is_not_answered(self) -> None:
        """
        Presence that asks nothing gets no answer.
        """
        for type_ in ("subscribed", "unsubscribed", "unavailable", "error"):
            self.receive("presence", type=type_)
        self.receive("presence")
        self.assertEqual([], self.answers())

    def test_handled_is_left_alone(self) -> None:
        """
        A handler that takes presence itself answers alone.
        """

        class Mine(XMPPHandler):
            def connectionInitialized(self):
                self.xmlstream.addObserver("/presence", self.take)

            def take(self, element):
                element.handled = True

        Mine().setHandlerParent(self.manager)
        self.receive("presence", type="subscribe")
        self.assertEqual([], self.answers())


class WellKnownTests(HandlerTestCase):
    """Questions that the gateway answers itself."""

    def setUp(self) -> None:
        super().setUp()
        self.time = 1_700_000_000.0
        WellKnown("bot.example.org", "1.2.3", lambda: self.time).setHandlerParent(self.manager)
        self.add_intake("message", "iq")

    def ask(self, inside, to="bot@bot.example.org"):
        self.receive("iq", inside, to=to, type="get", id="q1")
        [answer] = self.manager.answers()
        self.manager.sent.clear()
        self.assertEqual(("result", "q1", to), (answer["type"], answer["id"], answer["from"]))
        return answer.firstChildElement()

    def test_none_is_forwarded(self) -> None:
        """
        A well-known question never reaches the webhook, even where iqs are forwarded.
        """
        self.ask("<ping xmlns='urn:xmpp:ping'/>")
        self.assertEqual([], self.accepted)

    def test_disco_info(self) -> None:
        """
        The domain is a component, an address in it a bot, and both list what they understand.
        """
        info = "<query xmlns='http://jabber.org/protocol/disco#info'/>"
        for address, identity in (("bot.example.org", "component"), ("bot@bot.example.org", "client")):
            query = self.ask(info, address)
            self.assertEqual(identity, query.identity["category"])
            features = {child["var"] for child in query.elements() if child.name == "feature"}
            self.assertEqual(
                {
                    "http://jabber.org/protocol/disco#info",
                    "http://jabber.org/protocol/disco#items",
                    "urn:xmpp:ping",
                    "jabber:iq:version",
                    "jabber:iq:last",
                    "urn:xmpp:time",
                },
                features,
            )

    def test_disco_items(self) -> None:
        """
        There are no items, which is an answer too.
        """
        self.assertEqual([], list(self.ask("<query xmlns='http://jabber.org/protocol/disco#items'/>").elements()))

    def test_version(self) -> None:
        """
        The version is that of the gateway.
        """
        query = self.ask("<query xmlns='jabber:iq:version'/>")
        self.assertEqual(("component-http", "1.2.3"), (str(query.firstChildElement()), str(query.version)))

    def test_last_activity(self) -> None:
        """
        The domain tells its uptime; a bot is always active.
        """
        self.time += 90
        last = "<query xmlns='jabber:iq:last'/>"
        self.assertEqual("90", self.ask(last, "bot.example.org")["seconds"])
        self.assertEqual("0", self.ask(last)["seconds"])

    def test_time(self) -> None:
        """
        The time is told in UTC.
        """
        time = self.ask("<time xmlns='urn:xmpp:time'/>")
        self.assertEqual(("+00:00", "2023-11-14T22:13:20Z"), (str(time.tzo), str(time.utc)))

    def test_two_questions_in_one_iq_get_one_answer(self) -> None:
        """
        An iq must hold one question (RFC 6120 section 8.2.3); with two of them it is nobody's and answered once.
        """
        two = "<ping xmlns='urn:xmpp:ping'/><query xmlns='http://jabber.org/protocol/disco#info'/>"
        self.receive("iq", two, type="get", id="q1")
        self.assertEqual([], self.answers())
        self.assertEqual(["iq"], [stanza.kind for stanza in self.accepted])

    def test_unknown_node(self) -> None:
        """
        A node that nobody has is item-not-found.
        """
        self.receive("iq", "<query xmlns='http://jabber.org/protocol/disco#info' node='n'/>", type="get", id="q1")
        [answer] = self.manager.answers()
        self.assertEqual("item-not-found", answer.error.firstChildElement().name)

    def test_addresses_that_only_servers_know(self) -> None:
        """
        A resource with characters newer than stringprep is answered like any other.
        """
        self.manager.receive(
            "<iq from='alice@example.org/\U0001f980' to='bot.example.org' type='get' id='q1'>"
            "<query xmlns='http://jabber.org/protocol/disco#info'/></iq>"
        )
        [answer] = self.manager.answers()
        self.assertEqual(("result", "alice@example.org/\U0001f980"), (answer["type"], answer["to"]))

    def test_a_handler_of_usual_priority_comes_first(self) -> None:
        """
        An application with a disco handler of its own answers alone, and our features are in its answer.
        """
        DiscoHandler().setHandlerParent(self.manager)
        query = self.ask("<query xmlns='http://jabber.org/protocol/disco#info'/>")
        self.assertIn("urn:xmpp:time", {child.getAttribute("var") for child in query.elements()})

    def test_strangers_are_forgotten(self) -> None:
        """
        Questions from ever new addresses do not fill the memory: Twisted's table of addresses is bounded.
        """
        from twisted.words.protocols.jabber.jid import internJID

        from component_http.compat import MAX_INTERNED_JIDS

        first = internJID("first@example.org")
        for number in range(MAX_INTERNED_JIDS + 1):
            internJID(f"stranger{number}@example.org")
        self.assertIsNot(first, internJID("first@example.org"))
