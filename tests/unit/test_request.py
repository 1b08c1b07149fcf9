"""What the webhook is told of a stanza."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.xish.domish import Element

from component_http.contract.request import MAX_THREAD, request_body, request_properties, thread_of
from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_COMPONENT, Limits, parse_stanzas

ADDRESSES = "from='alice@example.org/phone' to='bot@bot.localhost'"


def properties(xml: str) -> dict[str, object]:
    [element] = parse_stanzas(xml, Limits())
    return request_properties(Stanza.from_element(element))


def of_message(payload: str, attributes: str = "") -> dict[str, object]:
    found = properties(f"<message {ADDRESSES} {attributes}>{payload}</message>")
    return {name: found[name] for name in found if name not in ("to", "from", "kind", "stanza")}


def of_presence(payload: str) -> dict[str, object]:
    found = properties(f"<presence {ADDRESSES}>{payload}</presence>")
    return {name: found[name] for name in found if name not in ("to", "from", "kind", "stanza")}


class AlwaysThereTests(SynchronousTestCase):
    """What the README of mod_component_http promises."""

    def test_four_properties(self) -> None:
        """
        Every stanza comes with its addresses, its kind and its XML, and with nothing it does not have.
        """
        xml = f"<presence {ADDRESSES}/>"
        found = properties(xml)
        self.assertEqual(
            {"to": "bot@bot.localhost", "from": "alice@example.org/phone", "kind": "presence"},
            {name: found[name] for name in found if name != "stanza"},
        )

    def test_xml_is_a_document_of_its_own(self) -> None:
        """
        Any XML parser reads `stanza`, and finds the namespaces of the extensions and none of the stream's.
        """
        xml = str(properties(f"<message {ADDRESSES}><body>x</body><x xmlns='urn:example'/></message>")["stanza"])
        self.assertNotIn(NS_COMPONENT, xml)
        self.assertIn("urn:example", xml)

    def test_order(self) -> None:
        """
        A person reading the JSON sees who, to whom and what first, and the XML last.
        """
        names = list(properties(f"<message {ADDRESSES} type='chat' id='1'><thread>T</thread><body>x</body></message>"))
        self.assertEqual(["to", "from", "kind", "body", "type", "id", "thread", "stanza"], names)


class BodyTests(SynchronousTestCase):
    """The text that was written."""

    def test_empty_body(self) -> None:
        """
        A body without text is an empty one, not a missing one.
        """
        self.assertEqual({"body": ""}, of_message("<body/>"))

    def test_all_of_its_text(self) -> None:
        """
        A body in several pieces is whole.
        """
        [element] = parse_stanzas(f"<message {ADDRESSES}/>", Limits())
        body = element.addElement((NS_COMPONENT, "body"))
        body.children.extend(["one ", "two ", Element(("urn:example", "i")), "three"])
        self.assertEqual("one two three", request_properties(Stanza.from_element(element))["body"])

    def test_first_of_its_own_namespace(self) -> None:
        """
        Of several bodies the first counts, and another protocol's does not.
        """
        self.assertEqual(
            {"body": "one"},
            of_message("<body xmlns='urn:other'>no</body><body>one</body><body xml:lang='de'>zwei</body>"),
        )

    def test_only_a_message_has_one(self) -> None:
        """
        A presence with a body in it has no `body`, a message with a show in it no `show`.
        """
        self.assertEqual({}, of_presence("<body>x</body><thread>x</thread>"))
        self.assertEqual({}, of_message("<show>away</show><priority>1</priority>"))


class ExtensionTests(SynchronousTestCase):
    """Everyday bots need no XML parser; the names are those of mod_rest."""

    def test_attributes(self) -> None:
        """
        Type, id and language are told when they are there.
        """
        self.assertEqual(
            {"type": "chat", "id": "m1", "lang": "fr"}, of_message("", "type='chat' id='m1' xml:lang='fr'")
        )

    def test_message_extensions(self) -> None:
        """
        Each extension of a message has its property.
        """
        for name, value, payload in (
            ("subject", "S", "<subject>S</subject>"),
            ("thread", "T", "<thread parent='P'>T</thread>"),
            ("nick", "N", "<nick xmlns='http://jabber.org/protocol/nick'>N</nick>"),
            ("delay", "2024-01-02T03:04:05Z", "<delay xmlns='urn:xmpp:delay' stamp='2024-01-02T03:04:05Z'/>"),
            (
                "oob_url",
                "https://example.org/a?b&c",
                "<x xmlns='jabber:x:oob'><url>https://example.org/a?b&amp;c</url></x>",
            ),
            ("state", "composing", "<composing xmlns='http://jabber.org/protocol/chatstates'/>"),
            ("replace", "m0", "<replace xmlns='urn:xmpp:message-correct:0' id='m0'/>"),
            ("reply", {"id": "m0", "to": "a@b"}, "<reply xmlns='urn:xmpp:reply:0' id='m0' to='a@b'/>"),
            ("reply", {"id": "m0"}, "<reply xmlns='urn:xmpp:reply:0' id='m0'/>"),
            ("stanza_ids", [{"id": "1", "by": "a@b"}], "<stanza-id xmlns='urn:xmpp:sid:0' id='1' by='a@b'/>"),
        ):
            self.assertEqual({name: value}, of_message(payload))

    def test_every_archive_gives_its_id(self) -> None:
        """
        A message that two archives have stored comes with both ids.
        """
        ids = "<stanza-id xmlns='urn:xmpp:sid:0' id='1' by='a@b'/><stanza-id xmlns='urn:xmpp:sid:0' id='2' by='c@d'/>"
        self.assertEqual({"stanza_ids": [{"id": "1", "by": "a@b"}, {"id": "2", "by": "c@d"}]}, of_message(ids))

    def test_presence(self) -> None:
        """
        Availability, its text and its priority are told; the priority is a number.
        """
        self.assertEqual(
            {"show": "away", "status": "Lunch", "priority": -5},
            of_presence("<show>away</show><status>Lunch</status><priority> -5 </priority>"),
        )

    def test_error(self) -> None:
        """
        An error that came back says what is wrong.
        """
        error = (
            "<error type='cancel'><gone xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
            "<text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>Moved</text><x xmlns='urn:example'/></error>"
        )
        self.assertEqual(
            {"type": "error", "error": {"type": "cancel", "condition": "gone", "text": "Moved"}},
            of_message(error, "type='error'"),
        )
        self.assertEqual({"type": "error", "error": {}}, of_message("<error/>", "type='error'"))
        self.assertEqual({}, of_message(error))

    def test_malformed_extensions_are_left_out(self) -> None:
        """
        An extension in a shape its specification does not know is no property, and no trouble.
        """
        for payload in (
            "<delay xmlns='urn:xmpp:delay'/>",
            "<x xmlns='jabber:x:oob'/>",
            "<dancing xmlns='http://jabber.org/protocol/chatstates'/>",
            "<replace xmlns='urn:xmpp:message-correct:0'/>",
            "<reply xmlns='urn:xmpp:reply:0' to='a@b'/>",
            "<stanza-id xmlns='urn:xmpp:sid:0' id='1'/>",
            "<nick>N</nick>",
        ):
            self.assertEqual({}, of_message(payload))
        for text in ("high", "", "1.5", "128", "-129", "9" * 5000, "\N{ARABIC-INDIC DIGIT ONE}"):
            self.assertEqual({}, of_presence(f"<priority>{text}</priority>"))


class BytesTests(SynchronousTestCase):
    """What goes over the wire."""

    def test_utf_8(self) -> None:
        """
        The JSON is UTF-8 that a person can read.
        """
        [element] = parse_stanzas(f"<message {ADDRESSES}><body>héllo 😀</body></message>", Limits())
        self.assertIn("héllo 😀".encode(), request_body(Stanza.from_element(element)))

    @given(st.text(st.characters(blacklist_categories=())), st.text(st.characters(blacklist_categories=())))
    def test_any_text(self, body: str, id: str) -> None:
        """
        Whatever is written, the body is UTF-8 and JSON, and says it again.
        """
        element = Element((NS_COMPONENT, "message"))
        element.attributes.update({"from": "alice@example.org", "to": "bot.localhost", "id": id})
        element.addElement((NS_COMPONENT, "body"), content=body)
        found = json.loads(request_body(Stanza.from_element(element)).decode("utf-8"))
        if not any("\ud800" <= character <= "\udfff" for character in body):
            self.assertEqual(body, found["body"])


class ThreadTests(SynchronousTestCase):
    """The thread that replies keep, as it is found in the bytes of a request."""

    def thread_of(self, payload: str) -> str | None:
        [element] = parse_stanzas(f"<message {ADDRESSES}>{payload}</message>", Limits())
        return thread_of(request_body(Stanza.from_element(element)))

    def test_thread(self) -> None:
        """
        The thread is that of the message, whatever characters are in it; one that is empty or very long is none.
        """
        for payload, thread in (
            ("<body>x</body>", None),
            ('<thread>t\u2603"\\\\&lt;</thread>', 't\u2603"\\\\<'),
            ("<thread parent='t0'>t1</thread><thread>t2</thread>", "t1"),
            ("<thread/>", None),
            (f"<thread>{'t' * MAX_THREAD}</thread>", "t" * MAX_THREAD),
            (f"<thread>{'t' * (MAX_THREAD + 1)}</thread>", None),
        ):
            self.assertEqual(thread, self.thread_of(payload))

    def test_text_that_looks_like_a_thread(self) -> None:
        """
        What somebody writes about threads is no thread.
        """
        for text in ('"thread":"t1"', ',"thread":', '\\"thread":"t1"'):
            self.assertEqual(None, self.thread_of(f"<body>{text}</body><subject>{text}</subject>"))
