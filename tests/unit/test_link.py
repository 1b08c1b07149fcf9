"""The link by which a webhook replies later."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.xish.domish import Element

from component_http.contract.address import Address
from component_http.contract.link import KEY_BYTES, MAX_LENGTH, ForgedLink, LateReply, link_path, open_link
from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_COMPONENT

KEY = bytes(range(KEY_BYTES))

OLD_SEAL = (
    "WyJtZXNzYWdlIiwiY2hhdCIsIm0xIiwiYWxpY2VAZXhhbXBsZS5vcmcvcGhvbmUiLCJlY2hvQGJvdC5leGFtcGxlLm9yZyIsMCwxNzAwMDAwMDYwXQ"
    ".ocjXElssqTC5vdc2rgx6haNf0tXHeWZoUXy9qOaiO20"
)
"""Of a link that the version before made: with this key, for the delivery d1, until 60 s after 1700000000."""


def a_stanza(**facts: Any) -> Stanza:
    kind = facts.get("kind", "message")
    return Stanza(
        kind=kind,
        type=facts.get("type_", "chat"),
        id=facts.get("id", "m1"),
        sender=Address.parse(facts.get("sender", "alice@example.org/phone")),
        recipient=Address.parse(facts.get("recipient", "echo@bot.example.org")),
        through_room=facts.get("through_room", False),
        element=Element((NS_COMPONENT, kind)),
    )


def seal_of(path: str | None) -> str:
    assert path is not None
    [seal] = parse_qs(urlsplit(path).query)["seal"]
    return seal


class LinkTests(SynchronousTestCase):
    """Facts that come back as they went out, or not at all."""

    def a_seal(self, delivery_id: str = "d1", **facts: Any) -> str:
        return seal_of(link_path(KEY, delivery_id, a_stanza(**facts), 1000.2))

    def test_path(self) -> None:
        """
        The link names the delivery, so that a person can tell which one it is about.
        """
        path = link_path(KEY, "d1", a_stanza(), 1000)
        assert path is not None
        self.assertEqual("/v1/deliveries/d1/reply", urlsplit(path).path)

    def test_facts(self) -> None:
        """
        What the link says is what the stanza was; its time is rounded in the webhook's favour.
        """
        for stanza in (
            a_stanza(),
            a_stanza(kind="iq", type_="get", id="i1"),
            a_stanza(type_="groupchat", id=None, sender="room@rooms.example.org/nick with \u2603", through_room=True),
        ):
            self.assertEqual(
                LateReply(stanza, 1001), open_link(KEY, "d1", seal_of(link_path(KEY, "d1", stanza, 1000.2)))
            )

    def test_thread(self) -> None:
        """
        A late reply stays in the thread of its message, unless that would make the link too long.
        """
        for thread, kept in (("t1", "t1"), ("\u2603" * 1024, None)):
            path = link_path(KEY, "d1", evolve(a_stanza(), thread=thread), 1000)
            self.assertEqual(kept, open_link(KEY, "d1", seal_of(path)).stanza.thread)
        long = evolve(a_stanza(id="m" * (MAX_LENGTH // 2)), thread="t" * 1024)
        self.assertEqual(long.id, open_link(KEY, "d1", seal_of(link_path(KEY, "d1", long, 1000))).stanza.id)

    def test_earlier_version(self) -> None:
        """
        A link that the version before made says the same, and that it is not bound to its conversation.
        """
        self.assertEqual(LateReply(a_stanza(), 1_700_000_060, bound=False), open_link(KEY, "d1", OLD_SEAL))
        self.assertRaises(ForgedLink, open_link, KEY, "d2", OLD_SEAL)

    def test_nothing_to_reply_to(self) -> None:
        """
        What may not be answered has no link.
        """
        self.assertIsNone(link_path(KEY, "d1", a_stanza(type_="error"), 1000))
        self.assertIsNone(link_path(KEY, "d1", a_stanza(kind="iq", type_="result"), 1000))

    def test_too_long(self) -> None:
        """
        A stanza with an absurdly long id has no link, for its request would not be taken by most HTTP servers.
        """
        self.assertIsNone(link_path(KEY, "d1", a_stanza(id="x" * MAX_LENGTH), 1000))
        self.assertIsNotNone(link_path(KEY, "d1", a_stanza(id="x" * 2000), 1000))

    def test_other_key(self) -> None:
        """
        A link that another gateway made is none.
        """
        with self.assertRaises(ForgedLink):
            open_link(bytes(KEY_BYTES), "d1", self.a_seal())

    def test_other_delivery(self) -> None:
        """
        A link cannot be bent to another delivery.
        """
        with self.assertRaises(ForgedLink):
            open_link(KEY, "d2", self.a_seal())

    @given(st.data())
    def test_changed(self, data: st.DataObject) -> None:
        """
        Whatever is changed in a link, it is none any more.
        """
        seal = data.draw(st.sampled_from([self.a_seal(), OLD_SEAL]))
        at = data.draw(st.integers(0, len(seal)))
        until = data.draw(st.integers(at, min(len(seal), at + 3)))
        changed = seal[:at] + data.draw(st.text("AB.c-_\0\ud800é", max_size=3)) + seal[until:]
        if changed != seal:
            with self.assertRaises(ForgedLink):
                open_link(KEY, "d1", changed)

    @given(st.text("AB.c-_=\0\ud800é", max_size=40), st.text("d1/\0\ud800", max_size=5))
    def test_invented(self, seal: str, delivery_id: str) -> None:
        """
        Whatever somebody thinks up is none.
        """
        with self.assertRaises(ForgedLink):
            open_link(KEY, delivery_id, seal)


class ConversationTests(SynchronousTestCase):
    """What belongs to the conversation of a link."""

    def covered(self, late: Stanza, kind: str, type_: str, sender: str, recipient: str) -> bool:
        element = Element((NS_COMPONENT, kind))
        element["from"], element["to"] = sender, recipient
        if type_:
            element["type"] = type_
        return LateReply(late, 0).covers(element)

    def assert_covered(self, late: Stanza, table: str) -> None:
        for line in table.strip().splitlines():
            said, kind, type_, sender, recipient = line.split()
            with self.subTest(line=line):
                found = self.covered(late, kind, type_.strip("-"), sender, recipient)
                self.assertEqual(said == "yes", found)

    def test_user(self) -> None:
        """
        What a user wrote is answered from the address that was written to, with any resource, to any of the user's.
        """
        self.assert_covered(
            a_stanza(),
            """
            yes message  chat      echo@bot.example.org       alice@example.org/phone
            yes message  chat      echo@bot.example.org/x     alice@example.org
            yes message  headline  echo@bot.example.org       alice@example.org/laptop
            yes presence -         echo@bot.example.org       alice@example.org/phone
            yes iq       get       echo@bot.example.org       alice@example.org/phone
            no  message  chat      other@bot.example.org      alice@example.org/phone
            no  message  chat      bot.example.org            alice@example.org/phone
            no  message  chat      echo@bot.example.org       bob@example.org
            no  message  chat      echo@bot.example.org       example.org
            no  message  chat      echo@bot.example.org       alice@example.org.evil.example
            no  presence subscribe echo@bot.example.org       bob@example.org
            no  iq       set       echo@bot.example.org       example.org
            no  message  groupchat echo@bot.example.org       alice@example.org
            """,
        )

    def test_groupchat(self) -> None:
        """
        What was said in a room is answered to the room or to the occupant; not to another one.
        """
        self.assert_covered(
            a_stanza(type_="groupchat", sender="room@rooms.example.org/al"),
            """
            yes message  groupchat   echo@bot.example.org  room@rooms.example.org
            yes message  chat        echo@bot.example.org  room@rooms.example.org/al
            yes message  normal      echo@bot.example.org  room@rooms.example.org
            yes presence unavailable echo@bot.example.org  room@rooms.example.org/bot
            no  message  chat        echo@bot.example.org  room@rooms.example.org/bo
            no  message  groupchat   echo@bot.example.org  other@rooms.example.org
            no  message  groupchat   other@bot.example.org room@rooms.example.org
            """,
        )

    def test_private_message(self) -> None:
        """
        What an occupant wrote in private is answered to the occupant, and not in front of the room.
        """
        self.assert_covered(
            a_stanza(sender="room@rooms.example.org/al", through_room=True),
            """
            yes message  chat        echo@bot.example.org  room@rooms.example.org/al
            no  message  chat        echo@bot.example.org  room@rooms.example.org/bo
            no  message  groupchat   echo@bot.example.org  room@rooms.example.org
            no  message  normal      echo@bot.example.org  room@rooms.example.org
            """,
        )

    def test_presence_in_a_room(self) -> None:
        """
        An occupant who comes may be greeted by a private message or in front of the room.
        """
        self.assert_covered(
            a_stanza(kind="presence", type_="", sender="room@rooms.example.org/al", through_room=True),
            """
            yes message  chat        echo@bot.example.org  room@rooms.example.org/al
            yes message  groupchat   echo@bot.example.org  room@rooms.example.org
            no  message  chat        echo@bot.example.org  room@rooms.example.org/bo
            """,
        )

    def test_invitation(self) -> None:
        """
        An invitation of a room is answered by entering it.
        """
        self.assert_covered(
            a_stanza(type_="", sender="room@rooms.example.org", through_room=True),
            """
            yes presence -           echo@bot.example.org  room@rooms.example.org/bot
            yes message  -           echo@bot.example.org  room@rooms.example.org
            no  message  chat        echo@bot.example.org  room@rooms.example.org/al
            """,
        )
