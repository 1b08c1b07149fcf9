"""Every iq is answered, once, and within the limit for a stanza."""

from __future__ import annotations

import re
from typing import Any

from twisted.logger import capturedLogs
from twisted.words.protocols.jabber import error as jabber_error
from twisted.words.xish.domish import Element
from wokkel.disco import DiscoHandler
from wokkel.generic import FallbackHandler, VersionHandler
from wokkel.ping import PingHandler
from wokkel.subprotocols import IQHandlerMixin, XMPPHandler

from component_http.contract.conditions import INTERNAL, StanzaError, error_stanza
from component_http.contract.stanza import Stanza
from component_http.contract.xml import Limits, parse_stanzas
from component_http.xmpp.intake import StanzaIntake
from component_http.xmpp.wellknown import WellKnown
from tests.unit.test_stream import LARGE, StreamTestCase

DOMAIN = "bot.example.org"
DISCO_INFO = "http://jabber.org/protocol/disco#info"
DISCO_ITEMS = "http://jabber.org/protocol/disco#items"

GROWING = {"x": "x", "&": "&amp;", "<": "&lt;", "'": "'", "'\"": "&apos;&quot;", "\t": "&#9;", ">": ">", "é": "é"}
"""What a giant is made of, and how a peer writes it; some of it is longer when it is written another way."""


def fill(template: str, character: str, size: int = LARGE) -> str:
    """Put so much of a character into a template that it has as many bytes as there may be, or a few less."""
    written = GROWING[character]
    times = (size - len(template.encode())) // len(written.encode())
    return template.replace("FILL", written * times)


class Refusing(XMPPHandler, IQHandlerMixin):
    """A handler that says no the way wokkel's do: by repeating the question."""

    iqHandlers = {"/iq[@type='get']/ask[@xmlns='urn:example']": "refuse"}

    def connectionInitialized(self) -> None:
        self.xmlstream.addObserver("/iq[@type='get']/ask[@xmlns='urn:example']", self.handleRequest)

    def refuse(self, iq: Element) -> None:
        raise jabber_error.StanzaError("forbidden", text="Not you.")


class Answering(XMPPHandler, IQHandlerMixin):
    """A handler that answers what the test says."""

    iqHandlers = {"/iq[@type='get']/ask[@xmlns='urn:example']": "answer"}

    content: Any = None

    def connectionInitialized(self) -> None:
        self.xmlstream.addObserver("/iq[@type='get']/ask[@xmlns='urn:example']", self.handleRequest)

    def answer(self, iq: Element) -> Element:
        answer = Element(("urn:example", "answer"))
        answer.children.append(self.content)
        return answer


class AnsweringCase(StreamTestCase):
    def setUp(self) -> None:
        super().setUp()
        WellKnown(DOMAIN, "1", lambda: 0.0).setHandlerParent(self.stream)
        intake = StanzaIntake(self.refuse, domain=DOMAIN, kinds=("message", "iq"), observer=self.counters)
        intake.setHandlerParent(self.stream)
        self.server.authenticate()

    def refuse(self, stanza: Stanza) -> None:
        """Do what a relay does that is full."""
        if stanza.is_request:
            self.stream.send(error_stanza(stanza, INTERNAL))

    def answers(self) -> list[Element]:
        """What the server got, none of it over the limit."""
        heard = self.server.heard
        self.server.wire.clear()
        found = parse_stanzas(heard, Limits()) if heard else []
        for one in re.findall(r"<(?:iq|message) .*?</(?:iq|message)>|<iq [^>]*/>", heard, re.DOTALL):
            self.assertLessEqual(len(one.encode()), LARGE)
        return found

    def ask(self, inside: str, type_: str = "get", id_: str = "q1") -> list[Element]:
        self.server.says(f"<iq from='a@example.org/x' to='bot@{DOMAIN}' type='{type_}' id='{id_}'>{inside}</iq>")
        return self.answers()

    def giant(self, inside: str, character: str) -> str:
        """Something inside an iq that makes that one as large as it may be."""
        around = f"<iq from='a@example.org/x' to='bot@{DOMAIN}' type='get' id='q1'>{inside}</iq>"
        filled = fill(around, character)
        return filled[filled.index(">") + 1 : -len("</iq>")]


class GiantQuestionTests(AnsweringCase):
    """Questions that are as large as they may be, so that there is no room to repeat them."""

    def test_giant_nodes_of_disco(self) -> None:
        """
        Whatever a node of disco is made of, the answer is that there is none.
        """
        for namespace, condition in ((DISCO_INFO, "item-not-found"), (DISCO_ITEMS, None)):
            for character in GROWING:
                [answer] = self.ask(self.giant(f'<query xmlns="{namespace}" node="FILL"/>', character))
                self.assertEqual("q1", answer["id"])
                if condition is not None:
                    self.assertEqual(condition, answer.error.firstChildElement().name)
        self.assertEqual((0, 0), (self.counters["unsendable"], self.counters["unanswered"]))

    def test_giants_are_not_repeated(self) -> None:
        """
        What nobody knows, or the gateway has no room for, is refused without a word of it.
        """
        for character in GROWING:
            [answer] = self.ask(self.giant("<query xmlns='urn:unknown'>FILL</query>", character))
            self.assertEqual(["error"], [child.name for child in answer.elements()])

    def test_giants_for_handlers_of_wokkel(self) -> None:
        """
        Handlers of an application that answer by repeating the question get their answer through without it.
        """
        handlers = (Refusing(), DiscoHandler(), PingHandler(), VersionHandler("app", "1"), FallbackHandler())
        for handler in handlers:
            handler.setHandlerParent(self.stream)
        for inside in (
            "<ask xmlns='urn:example' of='FILL'/>",
            f"<query xmlns='{DISCO_INFO}' node='FILL'/>",
            f"<query xmlns='{DISCO_ITEMS}' node='FILL'/>",
            "<ping xmlns='urn:xmpp:ping'>FILL</ping>",
            "<query xmlns='jabber:iq:version'>FILL</query>",
        ):
            for character in ("x", "&", "\t"):
                [answer] = self.ask(self.giant(inside, character))
                self.assertEqual("q1", answer["id"])
        [answer] = self.ask(self.giant("<ask xmlns='urn:example' of='FILL'/>", "x"))
        self.assertEqual(("forbidden", "Not you."), (answer.error.firstChildElement().name, str(answer.error.text)))
        self.assertEqual(0, self.counters["unsendable"])

    def test_small_questions_may_be_repeated(self) -> None:
        """
        Where there is room an application's handler may repeat the question.
        """
        Refusing().setHandlerParent(self.stream)
        [answer] = self.ask("<ask xmlns='urn:example'/>")
        self.assertEqual(["ask", "error"], [child.name for child in answer.elements()])

    def test_over_the_limit(self) -> None:
        """
        A question over the limit is refused with policy-violation.
        """
        [answer] = self.ask(f"<query xmlns='urn:unknown'>{'x' * LARGE}</query>")
        self.assertEqual("policy-violation", answer.error.firstChildElement().name)


class UnknownTypeTests(AnsweringCase):
    """An iq that says neither what it asks nor what it answers."""

    def test_unknown_types(self) -> None:
        """
        An iq of an unknown type, or without one, gets bad-request, whatever else is on the stream.
        """
        FallbackHandler().setHandlerParent(self.stream)
        for number, given in enumerate(("", "type=''", "type='ask'", "type='GET'", "type='get '")):
            self.server.says(f"<iq from='a@example.org/x' to='bot@{DOMAIN}' {given} id='q{number}'><a xmlns='b'/></iq>")
            [answer] = self.answers()
            self.assertEqual((f"q{number}", "error", "a@example.org/x"), (answer["id"], answer["type"], answer["to"]))
            self.assertEqual("modify", answer.error["type"])
            self.assertEqual("bad-request", answer.error.firstChildElement().name)
        self.assertEqual(5, self.counters["malformed"])

    def test_whatever_is_in_it(self) -> None:
        """
        What is inside of a question, be it nothing, text or two of them, does not keep it from being answered.
        """
        for inside in ("", "text", "<a xmlns='b'/><a xmlns='b'/>", "<error/>", "<iq type='get' id='q2'/>"):
            [answer] = self.ask(inside, "set")
            self.assertEqual(("q1", "error"), (answer["id"], answer["type"]))

    def test_answers_are_not_answered(self) -> None:
        """
        A result or an error, however wrong it is, gets no answer.
        """
        for type_ in ("result", "error"):
            self.assertEqual([], self.ask("", type_))
            self.server.says(f"<iq from='a@example.org/x' to='bot@{DOMAIN}' type='{type_}'/>")
            self.assertEqual([], self.answers())

    def test_without_an_id(self) -> None:
        """
        Nobody could know the answer to an iq without an id; it is counted and logged.
        """
        with capturedLogs() as logs:
            self.server.says(f"<iq from='a@example.org/x' to='bot@{DOMAIN}' type='get'><a xmlns='b'/></iq>")
        self.assertEqual(([], 1), (self.answers(), self.counters["malformed"]))
        self.assertIn("without an id", str(logs))


class UnsendableAnswerTests(AnsweringCase):
    """Answers that the server would not take."""

    def test_results(self) -> None:
        """
        Whoever asked is told of an internal error where a handler's answer is too large, or no XML.
        """
        handler = Answering()
        handler.setHandlerParent(self.stream)
        for content in ("x" * LARGE, "&]]>" * (LARGE // 8), 7, Element(("urn:example", "no name"))):
            handler.content = content
            [answer] = self.ask("<ask xmlns='urn:example'/>")
            self.assertEqual(("q1", "error"), (answer["id"], answer["type"]))
            self.assertEqual("internal-server-error", answer.error.firstChildElement().name)

    def test_a_long_text(self) -> None:
        """
        An error whose text is too long is sent without it.
        """
        iq = Stanza.from_element(parse_stanzas(f"<iq from='a@b' to='{DOMAIN}' type='get' id='1'/>", Limits())[0])
        self.assertTrue(self.stream.send(error_stanza(iq, StanzaError("auth", "gone", "x" * LARGE))))
        [answer] = self.answers()
        self.assertEqual("auth", answer.error["type"])
        self.assertEqual(["gone"], [child.name for child in answer.error.elements()])

    def test_errors_of_messages(self) -> None:
        """
        The error of a message that repeats too much of it is sent without.
        """
        text = f"<message from='a@example.org' to='bot@{DOMAIN}' id='m1'><body>FILL</body></message>"
        [message] = parse_stanzas(fill(text, "x"), Limits())
        self.stream.send(jabber_error.StanzaError("item-not-found").toResponse(message))
        [answer] = self.answers()
        self.assertEqual(("m1", ["error"]), (answer["id"], [child.name for child in answer.elements()]))

    def test_from_somewhere_else(self) -> None:
        """
        An answer from an address that is not ours would end the stream, whatever is in it; it is counted.
        """
        self.stream.send("<iq from='bot@elsewhere.example' to='a@example.org' type='result' id='1'/>")
        self.stream.send("<iq from='bot@elsewhere.example' to='a@example.org' type='get' id='1'/>")
        self.assertEqual([], self.answers())
        self.assertEqual((1, 1), (self.counters["unanswered"], self.counters["unsendable"]))


class GiantIdTests(AnsweringCase):
    """An id must stand in the answer, however long it is."""

    def giant_id(self, size: int) -> str:
        return f"<iq from='a@example.org/x' to='bot@{DOMAIN}' type='get' id='{'i' * size}'><a xmlns='b'/></iq>"

    def test_as_long_as_there_is_room(self) -> None:
        """
        The longest id with which an error is within the limit is answered; a longer one is counted, and logged.
        """
        answered = 0
        for size in range(LARGE - 300, LARGE - 50):
            self.server.says(self.giant_id(size))
            found = self.answers()
            if found:
                self.assertEqual(answered, size - (LARGE - 300), "a longer id was answered than one that was not")
                self.assertEqual("i" * size, found[0]["id"])
                answered += 1
        self.assertLess(100, answered)
        self.assertEqual(250 - answered, self.counters["unanswered"])
        self.assertEqual(0, self.counters["unsendable"])

    def test_over_the_limit(self) -> None:
        """
        An id that is over the limit itself cannot be repeated; the stream goes on.
        """
        self.server.says(self.giant_id(3 * LARGE))
        self.assertEqual(([], 1, 1), (self.answers(), self.counters["unanswered"], self.counters["oversized"]))
        [answer] = self.ask("<ping xmlns='urn:xmpp:ping'/>")
        self.assertEqual("result", answer["type"])
