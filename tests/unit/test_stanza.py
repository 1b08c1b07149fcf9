"""The facts that everything else is decided by."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from twisted.words.xish.domish import Element

from component_http.contract.address import Address
from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_COMPONENT, Limits, parse_stanzas
from component_http.errors import MalformedStanza


def a_stanza(xml: str) -> Stanza:
    [element] = parse_stanzas(xml, Limits())
    return Stanza.from_element(element)


def a_message(type: str = "chat", payload: str = "<body>hello</body>") -> Stanza:
    return a_stanza(f"<message from='alice@example.org/phone' to='bot@bot.localhost' type='{type}'>{payload}</message>")


def an_iq(type: str = "get") -> Stanza:
    return a_stanza(f"<iq from='alice@example.org/phone' to='bot@bot.localhost' type='{type}' id='i1'/>")


def a_presence(type: str = "subscribe") -> Stanza:
    return a_stanza(f"<presence from='alice@example.org/phone' to='bot@bot.localhost' type='{type}'/>")


class ReadingTests(SynchronousTestCase):
    """What comes in is checked once, at the door."""

    def test_facts(self) -> None:
        """
        Kind, type, id and addresses are there to be asked for.
        """
        stanza = a_stanza("<message from='alice@example.org/phone' to='bot.localhost' type='chat' id='m1'/>")
        self.assertEqual(("message", "chat", "m1"), (stanza.kind, stanza.type, stanza.id))
        self.assertEqual(Address.parse("alice@example.org/phone"), stanza.sender)
        self.assertEqual(Address.parse("bot.localhost"), stanza.recipient)

    def test_what_is_not_there(self) -> None:
        """
        A stanza without a type has the empty one, a stanza without an id none.
        """
        stanza = a_stanza("<presence from='alice@example.org' to='bot.localhost'/>")
        self.assertEqual(("", None), (stanza.type, stanza.id))

    def test_addresses_are_written_back(self) -> None:
        """
        The element carries its addresses in the one form they are compared in.
        """
        stanza = a_stanza("<message from='ALICE@Example.ORG/Phone' to='BoT@bot.localhost'/>")
        self.assertEqual("alice@example.org/Phone", stanza.element["from"])
        self.assertEqual("bot@bot.localhost", stanza.element["to"])

    def test_unknown_type_is_kept(self) -> None:
        """
        A message of a type nobody knows is still a message.
        """
        self.assertEqual("shout", a_message("shout").type)

    def test_start_tag_alone(self) -> None:
        """
        A stanza that was too large to be built has all that an error needs.
        """
        start = Element((NS_COMPONENT, "iq"))
        start.attributes.update({"from": "a@b/c", "to": "bot.localhost", "type": "get", "id": "i1"})
        self.assertTrue(Stanza.from_element(start).bounceable)

    def test_malformed(self) -> None:
        """
        What lacks a usable address, or is an iq that nobody could answer, is no stanza.
        """
        for xml in (
            "<message to='bot.localhost'/>",
            "<message from='a@b'/>",
            "<message from='' to='bot.localhost'/>",
            "<message from='a@b..c' to='bot.localhost'/>",
            f"<message from='{'a' * 4000}' to='bot.localhost'/>",
            "<iq from='a@b' to='bot.localhost' type='get'/>",
            "<query from='a@b' to='bot.localhost'/>",
        ):
            with self.assertRaises(MalformedStanza):
                a_stanza(xml)
        foreign = Element(("urn:example", "message"), attribs={"from": "a@b", "to": "bot.localhost"})
        with self.assertRaises(MalformedStanza):
            Stanza.from_element(foreign)


class WhatMayBeAnsweredTests(SynchronousTestCase):
    """Never an error for an error, never one into a room, always an answer to an iq."""

    def test_requests(self) -> None:
        """
        An iq get or set is a request; nothing else is.
        """
        self.assertTrue(an_iq("get").is_request)
        self.assertTrue(an_iq("set").is_request)
        for other in (an_iq("result"), an_iq("error"), a_message("get"), a_presence("get")):
            self.assertFalse(other.is_request)

    def test_unknown_types_of_iq(self) -> None:
        """
        An iq of an unknown type, or without one, is a request that is answered, but a bad one.
        """
        for given in ("", "type=''", "type='ask'"):
            stanza = a_stanza(f"<iq from='a@b' to='bot.localhost' id='1' {given}/>")
            self.assertTrue(stanza.is_request and stanza.is_bad_request and stanza.bounceable)
        for stanza in (an_iq("get"), an_iq("result"), a_message("ask"), a_presence("ask")):
            self.assertFalse(stanza.is_bad_request)

    def test_bounceable(self) -> None:
        """
        Whoever wrote to the bot, or asked it, hears of a failure.
        """
        for stanza in (a_message("chat"), a_message("normal"), a_message("shout"), an_iq("get"), an_iq("set")):
            self.assertTrue(stanza.bounceable)

    def test_not_bounceable(self) -> None:
        """
        Errors, results, rooms, headlines and presence never get an error.
        """
        muc_user = "<body>psst</body><x xmlns='http://jabber.org/protocol/muc#user'/>"
        for stanza in (
            a_message("error"),
            a_message("groupchat"),
            a_message("headline"),
            a_message("chat", muc_user),
            an_iq("result"),
            an_iq("error"),
            a_presence("subscribe"),
            a_presence("error"),
        ):
            self.assertFalse(stanza.bounceable)

    def test_answerable(self) -> None:
        """
        A bot's reply to an error or to a result goes nowhere.
        """
        for stanza in (a_message("groupchat"), a_message("headline"), a_presence("probe"), an_iq("get")):
            self.assertTrue(stanza.answerable)
        for stanza in (a_message("error"), a_presence("error"), an_iq("result"), an_iq("error")):
            self.assertFalse(stanza.answerable)


class BodyTests(SynchronousTestCase):
    """A message with a body is told from one without."""

    def test_has_body(self) -> None:
        """
        An empty body counts, another protocol's element of that name does not.
        """
        self.assertTrue(a_message(payload="<body/>").has_body)
        self.assertFalse(a_message(payload="<body xmlns='urn:other'>x</body>").has_body)


class ConversationTests(SynchronousTestCase):
    """Order is kept where people would notice."""

    def test_devices_share_a_conversation(self) -> None:
        """
        Two devices of one user talking to one bot are one conversation; an iq has its own.
        """
        phone = a_stanza("<message from='alice@example.org/phone' to='bot@bot.localhost/a'/>")
        tablet = a_stanza("<message from='alice@example.org/tablet' to='bot@bot.localhost'/>")
        self.assertEqual(("alice@example.org", "bot@bot.localhost", False), phone.conversation)
        self.assertEqual(phone.conversation, tablet.conversation)
        self.assertEqual(("alice@example.org", "bot@bot.localhost", True), an_iq().conversation)
