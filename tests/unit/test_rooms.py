"""What a room sends back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from component_http.contract.stanza import Stanza
from component_http.contract.xml import Limits, parse_stanzas
from component_http.xmpp.rooms import MAX_DELAYS, MAX_IDS, MAX_OCCUPANTS, Rooms
from tests.unit.outbound import outbound
from tests.unit.work import calls

BOT = "bot@bot.example.org"
OTHER_BOT = "other@bot.example.org"
ROOM = "room@rooms.example.org"

DELAY = "<delay xmlns='urn:xmpp:delay' stamp='2024-05-01T12:00:00Z' from='{}'/>"
BY_THE_ROOM = DELAY.format(ROOM)
BY_A_PERSON = DELAY.format("alice@example.org/phone")
BY_NOBODY = "<delay xmlns='urn:xmpp:delay' stamp='2024-05-01T12:00:00Z'/>"


def element(xml):
    [parsed] = parse_stanzas(xml, Limits())
    return parsed


class RoomsTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.rooms = Rooms()

    def join(self, nick, bot=BOT, room=ROOM):
        self.rooms.sent(
            outbound(
                f"<presence from='{bot}' to='{room}/{nick}'><x xmlns='http://jabber.org/protocol/muc'/></presence>"
            )
        )

    def say(self, id, bot=BOT, room=ROOM):
        self.rooms.sent(
            outbound(f"<message type='groupchat' from='{bot}' to='{room}' id='{id}'><body>x</body></message>")
        )

    def presence(self, nick, *codes, type_="", to=BOT, room=ROOM):
        """Presence of an occupant arrives from the room."""
        status = "".join(f"<status code='{code}'/>" for code in codes)
        given_type = f" type='{type_}'" if type_ else ""
        inside = f"<x xmlns='http://jabber.org/protocol/muc#user'><item role='participant'/>{status}</x>"
        xml = f"<presence from='{room}/{nick}' to='{to}'{given_type}>{inside}</presence>"
        self.rooms.presence_arrived(Stanza.from_element(element(xml)))

    def refuse(self, nick):
        """The room says no to a nick."""
        error = "<error type='cancel'><conflict xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"
        xml = f"<presence type='error' from='{ROOM}/{nick}' to='{BOT}'>{error}</presence>"
        self.rooms.presence_arrived(Stanza.from_element(element(xml)))

    def enter(self, nick, bot=BOT, room=ROOM):
        self.join(nick, bot, room)
        self.presence(nick, 110, to=bot, room=room)

    def heard(self, nick, inside="<body>x</body>", to=BOT, room=ROOM, type_="groupchat", id="theirs"):
        """What is thought of a message that arrives from an occupant."""
        xml = f"<message type='{type_}' from='{room}/{nick}' to='{to}' id='{id}'>{inside}</message>"
        return self.rooms.repeated(Stanza.from_element(element(xml)))


class OccupantTests(RoomsTestCase):
    """Messages of the occupant that we are."""

    def test_the_nick_we_asked_for(self) -> None:
        """
        In a room that confirms nothing, what the nick says that we joined with is our own.
        """
        self.join("echo")
        self.assertEqual(("reflection", None), (self.heard("echo"), self.heard("alice")))

    def test_the_nick_that_the_room_gave(self) -> None:
        """
        When the room gave us another nick than we wanted, that one is ours, and the other is somebody's.
        """
        self.join("echo")
        self.presence("echo2", 110, 210)
        self.assertEqual(("reflection", None), (self.heard("echo2"), self.heard("echo")))

    def test_a_changed_nick(self) -> None:
        """
        After a change of nick the new one is ours.
        """
        self.enter("echo")
        self.presence("echo", 110, 303, type_="unavailable")
        self.presence("echo2", 110)
        self.assertEqual(("reflection", None), (self.heard("echo2"), self.heard("echo")))

    def test_until_the_change_is_done_the_old_nick_is_ours(self) -> None:
        """
        What we said under the old nick is still our own while the change is under way.
        """
        self.enter("echo")
        self.join("echo2")
        self.presence("echo", 110, 303, type_="unavailable")
        self.assertEqual("reflection", self.heard("echo"))

    def test_a_refused_change_changes_nothing(self) -> None:
        """
        Asking for a nick that another has does not make him us.
        """
        self.enter("echo")
        self.join("alice")
        self.refuse("alice")
        self.assertEqual(("reflection", None), (self.heard("echo"), self.heard("alice")))

    def test_a_refused_join_is_forgotten(self) -> None:
        """
        Who has the nick that we were refused is somebody else.
        """
        self.join("alice")
        self.refuse("alice")
        self.assertIsNone(self.heard("alice"))

    def test_who_was_thrown_out_is_forgotten(self) -> None:
        """
        After the room has shown us out, nobody there is us.
        """
        self.enter("echo")
        self.presence("echo", 110, 307, type_="unavailable")
        self.assertIsNone(self.heard("echo"))

    def test_a_goodbye_is_not_the_end(self) -> None:
        """
        What we said before we left is still our own when it comes back after our goodbye.
        """
        self.enter("echo")
        self.rooms.sent(outbound(f"<presence type='unavailable' from='{BOT}' to='{ROOM}/echo'/>"))
        self.assertEqual("reflection", self.heard("echo"))

    def test_a_join_that_was_not_ours_to_send(self) -> None:
        """
        On a stream that others use too, the room's own word is enough.
        """
        self.presence("echo", 110)
        self.assertEqual("reflection", self.heard("echo"))

    def test_presence_of_others_teaches_nothing(self) -> None:
        """
        Another occupant is another, and so is who only pretends to be a room.
        """
        self.enter("echo")
        self.presence("alice")
        self.rooms.presence_arrived(
            Stanza.from_element(element(f"<presence from='{ROOM}/eve' to='{BOT}'><status code='110'/></presence>"))
        )
        self.assertEqual(["reflection", None, None], [self.heard(nick) for nick in ("echo", "alice", "eve")])

    def test_private_messages_to_ourselves(self) -> None:
        """
        A bot that wrote to its own nick does not hear itself either.
        """
        self.enter("echo")
        self.assertEqual("reflection", self.heard("echo", type_="chat"))

    def test_a_person_is_no_room(self) -> None:
        """
        A bot that was made to enter a person's address still gets what that person writes to it.
        """
        self.join("phone", room="alice@example.org")
        for type_ in ("chat", "normal", "headline"):
            self.assertIsNone(self.heard("phone", room="alice@example.org", type_=type_))

    def test_nobody_else_makes_a_person_a_room(self) -> None:
        """
        Nor do others change that, whatever they send.
        """
        self.join("phone", room="alice@example.org")
        self.presence("phone", 110, room="mallory@evil.example")
        self.presence("phone", 110, room="example.org")
        self.assertIsNone(self.heard("phone", room="alice@example.org", type_="chat"))

    def test_errors_are_new(self) -> None:
        """
        What the room could not deliver for us is told, though it comes from our own address and has our id.
        """
        self.enter("echo")
        self.say("ours")
        self.assertIsNone(self.heard("echo", type_="error", id="ours"))

    def test_bots_hear_each_other(self) -> None:
        """
        Two bots of one component in one room are two: each hears what the other says.
        """
        self.enter("one", BOT)
        self.enter("two", OTHER_BOT)
        self.say("ours", BOT)
        self.assertIsNone(self.heard("one", to=OTHER_BOT, id="ours"))
        self.assertEqual("reflection", self.heard("one", to=BOT, id="ours"))

    def test_rooms_are_apart(self) -> None:
        """
        The same nick in another room is somebody else.
        """
        self.enter("echo")
        self.assertIsNone(self.heard("echo", room="other@rooms.example.org"))

    def test_addresses_are_compared_normalised(self) -> None:
        """
        It does not matter how the webhook spelled the room.
        """
        self.join("echo", bot="BOT@bot.example.org", room="Room@ROOMS.example.org")
        self.assertEqual("reflection", self.heard("echo"))

    def test_occupants_are_bounded(self) -> None:
        """
        Beyond the limit the occupant is forgotten that was heard of longest ago.
        """
        self.enter("echo")
        self.enter("echo", room="silent@rooms.example.org")
        for number in range(MAX_OCCUPANTS - 2):
            self.enter("echo", room=f"room{number}@rooms.example.org")
        self.heard("echo")
        self.enter("echo", room="last@rooms.example.org")
        self.assertEqual(
            ("reflection", None), (self.heard("echo"), self.heard("echo", room="silent@rooms.example.org"))
        )

    def test_strangers_push_out_only_strangers(self) -> None:
        """
        However many addresses of ours somebody welcomes, and however much is said there, our rooms stay known.
        """
        self.enter("echo")
        self.presence("echo", 110, room="borrowed@rooms.example.org")
        for number in range(MAX_OCCUPANTS + 1):
            self.presence("x", 110, to=f"x{number}@bot.example.org", room="mallory@evil.example")
            self.heard("x", to=f"x{number}@bot.example.org", room="mallory@evil.example")
        self.enter("echo", room="late@rooms.example.org")
        for room in (ROOM, "borrowed@rooms.example.org", "late@rooms.example.org"):
            self.assertEqual("reflection", self.heard("echo", room=room))

    def test_a_domain_with_many_rooms_pushes_out_only_its_own(self) -> None:
        """
        However many rooms of theirs somebody gets us to enter, or claims that we are in, the others stay known.
        """
        for number in range(5):
            self.enter("echo", room=f"room{number}@rooms.example.org")
        for number in range(MAX_OCCUPANTS):
            self.presence("echo", 110, room=f"claim{number}@evil.example")
        self.presence("echo", 110, room="borrowed@rooms.example.org")
        for number in range(500):
            self.presence("echo", 110, room=f"claim-again{number}@evil.example")
        self.assertEqual("reflection", self.heard("echo", room="borrowed@rooms.example.org"))
        for number in range(MAX_OCCUPANTS + 500):
            self.enter("echo", room=f"trap{number}@evil.example")
        for number in range(5):
            self.assertEqual("reflection", self.heard("echo", room=f"room{number}@rooms.example.org"))

    def test_what_we_asked_for_after_all(self) -> None:
        """
        A room that had us in before we asked is as well known as any from when we ask.
        """
        self.presence("echo", 110)
        self.enter("echo")
        for number in range(MAX_OCCUPANTS - 1):
            self.enter("echo", room=f"room{number}@rooms.example.org")
        self.heard("echo")
        self.enter("echo", room="last@rooms.example.org")
        self.assertEqual("reflection", self.heard("echo"))

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["accept", "rename", "refuse", "leave", "kick", "lose"]),
                st.sampled_from(["a", "b", "c"]),
            )
        )
    )
    def test_whatever_happens_in_a_room(self, story) -> None:
        """
        After any story of joining, changing nicks and leaving, what we say is our own and what others say is not.
        """
        self.rooms = Rooms()
        ours: str | None = None
        for what, nick in story:
            if what in ("accept", "rename", "refuse"):
                self.join(nick)
            if what == "refuse":
                self.refuse(nick)
            elif what in ("accept", "rename"):
                given = nick if what == "accept" else f"{nick}2"
                if ours is not None and ours != given:
                    self.presence(ours, 110, 303, type_="unavailable")
                self.presence(given, 110)
                ours = given
            elif ours is not None:
                if what == "kick":
                    self.presence(ours, 110, 307, type_="unavailable")
                elif what == "leave":
                    self.rooms.sent(outbound(f"<presence type='unavailable' from='{BOT}' to='{ROOM}/{ours}'/>"))
                    self.assertEqual("reflection", self.heard(ours))
                    self.presence(ours, 110, type_="unavailable")
                ours = None
            if ours is not None:
                for occupant in ("a", "b", "c", "a2", "b2", "c2"):
                    self.assertEqual("reflection" if occupant == ours else None, self.heard(occupant))


class IdTests(RoomsTestCase):
    """Messages with an id that we sent."""

    def test_an_id_we_sent(self) -> None:
        """
        Where nobody knows how we are called, as after a restart, our own message is known by its id.
        """
        self.say("ours")
        self.assertEqual(("reflection", None), (self.heard("echo", id="ours"), self.heard("alice", id="theirs")))

    def test_it_counts_in_its_room_only(self) -> None:
        """
        The same id in another room, or in a chat with one person, is another message.
        """
        self.say("ours")
        self.assertIsNone(self.heard("alice", id="ours", room="other@rooms.example.org"))
        self.assertIsNone(self.heard("alice", id="ours", type_="chat"))

    def test_messages_to_persons_are_not_remembered(self) -> None:
        """
        Only a room sends back what it got.
        """
        self.rooms.sent(outbound(f"<message type='chat' from='{BOT}' to='{ROOM}' id='ours'/>"))
        self.rooms.sent(outbound(f"<iq type='get' from='{BOT}' to='{ROOM}' id='ours'/>"))
        self.assertIsNone(self.heard("alice", id="ours"))

    def test_one_bot_with_several_resources(self) -> None:
        """
        What a bot said under one of its resources it does not hear under another.
        """
        self.say("ours", f"{BOT}/one")
        self.assertEqual("reflection", self.heard("echo", id="ours", to=f"{BOT}/two"))

    def test_ids_of_others_are_theirs(self) -> None:
        """
        Where the room has told our nick, a person whose client counts its messages as we do is heard.
        """
        self.enter("echo")
        self.say("1")
        self.heard("alice", "<subject/>", id="subject")
        self.assertEqual((None, "reflection"), (self.heard("alice", id="1"), self.heard("echo", id="1")))

    def test_the_first_word_of_another_may_have_an_id_of_ours(self) -> None:
        """
        What is said without delay is of now, and so by whoever has the nick, though no subject has come.
        """
        self.enter("echo")
        self.say("1")
        self.assertIsNone(self.heard("alice", id="1"))

    def test_an_id_where_nothing_is_confirmed(self) -> None:
        """
        In a room that never confirms a nick, which may have given us another, the id counts.
        """
        self.join("echo")
        self.say("ours")
        self.heard("alice", "<subject/>", id="subject")
        self.assertEqual("reflection", self.heard("echo2", id="ours"))

    def test_an_id_of_our_past(self) -> None:
        """
        While the room tells what was said before, our own messages under another nick are known by the id.
        """
        self.say("ours")
        self.enter("echo2")
        self.assertEqual("reflection", self.heard("echo", f"<body>x</body>{BY_A_PERSON}", id="ours"))
        self.enter("echo2")
        self.assertEqual("reflection", self.heard("echo", f"<body>x</body>{BY_THE_ROOM}", id="ours"))

    def test_an_id_after_a_change_of_nick(self) -> None:
        """
        From then on who has our old nick is somebody else, whatever ids he chooses.
        """
        self.enter("echo")
        self.say("ours")
        self.heard("alice", "<subject/>", id="subject")
        self.presence("echo", 110, 303, type_="unavailable")
        self.assertEqual("reflection", self.heard("echo", id="ours"))
        self.presence("echo2", 110)
        self.assertIsNone(self.heard("echo", id="ours"))

    def test_a_bot_in_a_room_twice(self) -> None:
        """
        A bot that is in a room with two resources, under two nicks, hears itself under neither.
        """
        self.enter("one", f"{BOT}/one")
        self.enter("two", f"{BOT}/two")
        self.say("ours", f"{BOT}/one")
        for resource in ("one", "two"):
            self.heard("alice", "<subject/>", to=f"{BOT}/{resource}", id="subject")
            self.assertEqual("reflection", self.heard("one", to=f"{BOT}/{resource}", id="ours"))

    def test_ids_are_bounded(self) -> None:
        """
        Beyond the limit the id is forgotten that was sent longest ago.
        """
        for number in range(MAX_IDS):
            self.say(f"id{number}")
        self.say("id0")
        self.say("last")
        self.assertEqual(["reflection", None, "reflection"], [self.heard("echo", id=f"id{n}") for n in (0, 1, 2)])

    def test_no_id(self) -> None:
        """
        A message without an id is not taken for another one without.
        """
        self.rooms.sent(outbound(f"<message type='groupchat' from='{BOT}' to='{ROOM}'><body>x</body></message>"))
        xml = f"<message type='groupchat' from='{ROOM}/alice' to='{BOT}'><body>x</body></message>"
        self.assertIsNone(self.rooms.repeated(Stanza.from_element(element(xml))))


class HistoryTests(RoomsTestCase):
    """What was said before we came."""

    def test_what_the_room_delayed(self) -> None:
        """
        A message that the room has kept is of the past; one as it is said is not.
        """
        self.assertEqual("history", self.heard("alice", f"<body>x</body>{BY_THE_ROOM}"))
        self.assertIsNone(self.heard("alice", "<body>x</body>"))

    def test_any_delay_while_we_enter(self) -> None:
        """
        Until the room's subject has come all that is delayed is of the past, by whomever, as with Openfire.
        """
        self.enter("echo")
        for delay in (BY_THE_ROOM, BY_A_PERSON, BY_NOBODY):
            self.assertEqual("history", self.heard("alice", f"<body>x</body>{delay}"))

    def test_what_a_client_delayed(self) -> None:
        """
        What somebody's client had to send twice, and marked as delayed, is new once we are in the room.
        """
        ends = ("<subject/>", "<subject>s</subject>", f"<subject>s</subject>{BY_THE_ROOM}", "<body>x</body>")
        for end in ends:
            self.enter("echo")
            self.heard("alice", end)
            for delay in (BY_A_PERSON, BY_NOBODY):
                self.assertIsNone(self.heard("alice", f"<body>x</body>{delay}"))
            self.assertEqual("history", self.heard("alice", f"<body>x</body>{BY_THE_ROOM}"))

    def test_an_old_subject_within_the_past(self) -> None:
        """
        A subject of former times, as Openfire has them among what was said, does not make new what follows it.
        """
        self.enter("echo")
        said = f"<body>x</body>{BY_A_PERSON}"
        for delay in (BY_A_PERSON, BY_NOBODY):
            story = [self.heard("alice", inside) for inside in (said, f"<subject>old</subject>{delay}", said)]
            self.assertEqual(["history", None, "history"], story)

    def test_a_greeting_before_the_past(self) -> None:
        """
        What the room itself tells who enters, as that all can see his address, does not make new what follows it.
        """
        self.enter("echo")
        xml = f"<message type='groupchat' from='{ROOM}' to='{BOT}'><body>This room is not anonymous.</body></message>"
        self.assertIsNone(self.rooms.repeated(Stanza.from_element(element(xml))))
        self.assertEqual("history", self.heard("alice", f"<body>x</body>{BY_A_PERSON}"))

    def test_our_own_words_are_of_now(self) -> None:
        """
        Once our own message has come back as it was said, or the subject that we set, the past is over.
        """
        for own in ("<body>x</body>", "<subject>ours</subject>", f"<subject>ours</subject>{BY_THE_ROOM}"):
            self.enter("echo")
            self.assertEqual("reflection", self.heard("echo", own))
            self.assertIsNone(self.heard("alice", f"<body>x</body>{BY_A_PERSON}"))

    def test_private_words_end_nothing(self) -> None:
        """
        What somebody whispers while the room tells its past does not make new what follows it.
        """
        self.enter("echo")
        self.heard("alice", type_="chat")
        self.assertEqual("history", self.heard("alice", f"<body>x</body>{BY_A_PERSON}"))

    @given(
        st.lists(st.sampled_from([f"<subject>old</subject>{BY_A_PERSON}", f"<body>x</body>{BY_A_PERSON}"])),
        st.sampled_from(["<subject/>", "<subject>s</subject>", "<body>x</body>"]),
    )
    def test_whatever_was_said(self, past, end) -> None:
        """
        However a room tells its past, nothing with words in it is new until something undelayed has come.
        """
        self.rooms = Rooms()
        self.enter("echo")
        for inside in past:
            self.assertEqual("history" if "body" in inside else None, self.heard("alice", inside))
        self.assertIsNone(self.heard("alice", end))
        self.assertIsNone(self.heard("alice", f"<body>x</body>{BY_A_PERSON}"))

    def test_entering_again(self) -> None:
        """
        Who joins once more gets the past once more.
        """
        self.enter("echo")
        self.heard("alice", "<subject/>")
        self.enter("echo")
        self.assertEqual("history", self.heard("alice", f"<body>x</body>{BY_NOBODY}"))

    def test_the_subject(self) -> None:
        """
        The room's subject is how it is now, however long ago it was set; a message with a subject is a message.
        """
        self.assertIsNone(self.heard("alice", f"<subject>tea</subject>{BY_THE_ROOM}"))
        self.assertEqual("history", self.heard("alice", f"<subject>tea</subject><body>x</body>{BY_THE_ROOM}"))

    def test_our_own_past(self) -> None:
        """
        What we said in the past, or who had our nick then, is our own in the first place.
        """
        self.enter("echo")
        self.assertEqual("reflection", self.heard("echo", f"<body>x</body>{BY_THE_ROOM}"))

    def test_outside_of_rooms(self) -> None:
        """
        A message that waited for us while we were away, and one that tells an error, are new.
        """
        for type_ in ("chat", "normal", "headline", "error"):
            self.assertIsNone(self.heard("alice", f"<body>x</body>{BY_THE_ROOM}", type_=type_))

    def test_strange_addresses_in_a_delay(self) -> None:
        """
        A delay by what is no address is none by the room.
        """
        self.assertIsNone(self.heard("alice", f"<body>x</body>{DELAY.format('a@b..c')}"))
        self.assertEqual("history", self.heard("alice", f"<body>x</body>{BY_NOBODY}{BY_THE_ROOM}"))


class PrivateMessageTests(RoomsTestCase):
    """Private messages that lack the mark of a room."""

    def is_known(self, sender=f"{ROOM}/alice", to=BOT, type_="chat"):
        """Whether such a message is taken for one from a room."""
        xml = f"<message type='{type_}' from='{sender}' to='{to}'><body>psst</body></message>"
        return self.rooms.marked(Stanza.from_element(element(xml))).through_room

    def test_occupants_of_our_rooms(self) -> None:
        """
        What an occupant of a room says to the bot that is there is known to come from a room, of whatever type it is.
        """
        self.enter("echo")
        for type_ in ("chat", "normal", "unheard-of"):
            self.assertTrue(self.is_known(type_=type_))

    def test_a_room_that_confirms_nothing(self) -> None:
        """
        To have asked to enter is enough: an error would get the bot thrown out.
        """
        self.join("echo")
        self.assertTrue(self.is_known())

    def test_everybody_else(self) -> None:
        """
        The room itself, persons, other rooms and what is for another of us are not.
        """
        self.enter("echo")
        self.assertFalse(self.is_known(ROOM))
        self.assertFalse(self.is_known("alice@example.org/phone"))
        self.assertFalse(self.is_known("other@rooms.example.org/alice"))
        self.assertFalse(self.is_known(to=OTHER_BOT))

    def test_after_leaving(self) -> None:
        """
        When the room has shown us out, its address is like any other.
        """
        self.enter("echo")
        self.presence("echo", 110, type_="unavailable")
        self.assertFalse(self.is_known())

    def test_after_a_restart(self) -> None:
        """
        A room that was entered before our start is known again by its first presence, or when it sends our own words
        back; a person who sends a message of type groupchat does not become a room by that.
        """
        self.presence("bob")
        self.assertTrue(self.is_known())
        room = "other@rooms.example.org"
        self.assertIsNone(self.heard("bob", room=room))
        self.assertFalse(self.is_known(f"{room}/alice"))
        self.say("m1", room=room)
        self.assertEqual("reflection", self.heard("echo", id="m1", room=room))
        self.assertTrue(self.is_known(f"{room}/alice"))

    def test_what_was_before_our_start_is_still_found_out(self) -> None:
        """
        A room that is known without our nick takes nothing for ours, and is learned as usual when it tells the nick.
        """
        self.presence("alice")
        self.assertIsNone(self.heard("echo"))
        self.presence("echo", 110)
        self.assertEqual(("history", "reflection"), (self.heard("alice", BY_A_PERSON), self.heard("echo")))

    def test_the_mark_stays(self) -> None:
        """
        A message with a mark of its own is from a room, whether that is known or not.
        """
        xml = f"<message from='{ROOM}/alice' to='{BOT}'><x xmlns='http://jabber.org/protocol/muc#user'/></message>"
        self.assertTrue(self.rooms.marked(Stanza.from_element(element(xml))).through_room)


class ManyDelaysTests(RoomsTestCase):
    """Messages that say of themselves a thousand times that they are late."""

    def message(self, *delays: str) -> Stanza:
        return Stanza.from_element(
            element(f"<message type='groupchat' from='{ROOM}/eve' to='{BOT}'><body>x</body>{''.join(delays)}</message>")
        )

    def test_they_cost_little(self) -> None:
        """
        Of a thousand delays by as many long addresses only a few are read as addresses.
        """
        delays = [DELAY.format(f"{number}{'é' * 80}@example.org/{'é' * 500}") for number in range(100)]
        message = self.message(*delays)
        some = calls(lambda: self.rooms.repeated(self.message(*delays[:MAX_DELAYS])))
        all_of_them = calls(lambda: self.rooms.repeated(message))
        self.assertLess(all_of_them, some + 10 * len(delays))

    def test_the_rooms_own_is_found(self) -> None:
        """
        The room's own delay is found among them wherever it is, and one that is written in another way near the end.
        """
        others = [DELAY.format(f"{number}@example.org") for number in range(100)]
        self.assertEqual("history", self.rooms.repeated(self.message(BY_THE_ROOM, *others)))
        self.assertEqual("history", self.rooms.repeated(self.message(*others, DELAY.format(f"{ROOM}/nick"))))
        self.assertEqual("history", self.rooms.repeated(self.message(*others, DELAY.format(ROOM.upper()))))
        self.assertIsNone(self.rooms.repeated(self.message(*others)))
