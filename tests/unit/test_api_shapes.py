"""The shapes that others have made: scripts that were written for them only change a URL."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.words.xish.domish import Element

from component_http.api.exchange import Answer
from component_http.api.hooks import PATIENCE
from component_http.contract.conditions import StanzaError, error_stanza
from component_http.contract.stanza import Stanza
from component_http.errors import Bounced, RoomRefused
from component_http.testing import RecordingSender
from tests.unit.api_world import ALERTS, DOMAIN, GENERIC, JSON, NARROW, SLACK, ApiTestCase, basic
from tests.unit.test_api import result

TEXT = {"content-type": "text/plain"}
FORM = {"content-type": "application/x-www-form-urlencoded"}
XML = {"content-type": "application/xmpp+xml"}


class PostMsgTests(ApiTestCase):
    """mod_post_msg: POST /msg/<jid>."""

    def msg(
        self, body: object, headers: dict[str, str], path: str = "/msg/alice@example.org", **options: Any
    ) -> Answer:
        return self.post(path, body, headers, **options)

    def test_text(self) -> None:
        """
        The line of curl of the module's README sends a chat message, from the user if that is an address of ours.
        """
        answer = self.msg("Server@host has just crashed!", {**TEXT, **basic("me@bot.example.org", NARROW)}, token=None)
        self.refused(403, answer)
        answer = self.msg(
            "Server@host has just crashed!", {**TEXT, **basic("alerts@bot.example.org", NARROW)}, token=None
        )
        self.assertEqual((201, b""), (answer.status, answer.body))
        [element] = self.sender.pushed
        self.assertEqual(
            ("alice@example.org", "alerts@bot.example.org", "chat"), (element["to"], element["from"], element["type"])
        )
        self.assertEqual(["Server@host has just crashed!"], self.bodies())

    def test_charset(self) -> None:
        """
        Parameters of the media type do no harm, though they do with the module.
        """
        self.assertEqual(201, self.msg("h\u00e9", {"content-type": "Text/Plain; charset=UTF-8"}).status)
        self.assertEqual(["h\u00e9"], self.bodies())

    def test_encoded_path(self) -> None:
        """
        An address may be percent-encoded, and may have a resource.
        """
        self.msg("x", TEXT, "/msg/alice%40example.org")
        self.msg("x", TEXT, "/msg/room@rooms.example.org/nick%20name")
        self.assertEqual(
            ["alice@example.org", "room@rooms.example.org/nick name"], [element["to"] for element in self.sender.pushed]
        )

    def test_form(self) -> None:
        """
        A form has the same and more, and its recipient wins over the path's.
        """
        self.msg(urlencode({"to": "bob@example.org", "type": "headline", "body": "a&b"}), FORM)
        [element] = self.sender.pushed
        self.assertEqual(("bob@example.org", "headline", "a&b"), (element["to"], element["type"], str(element.body)))

    def test_json(self) -> None:
        """
        So has JSON; without a recipient in the path too.
        """
        self.msg({"to": "bob@example.org", "body": "x"}, JSON, "/msg")
        self.assertEqual("bob@example.org", self.sender.pushed[0]["to"])

    def test_html(self) -> None:
        """
        `html` is sent beside the text, from a form and from JSON.
        """
        html = "<p>a <b>b</b></p>"
        self.msg(urlencode({"body": "a b", "html": html}), FORM)
        self.msg({"html": f"<body>{html}</body>"}, JSON)
        for xml in self.sent():
            self.assertIn(
                "<html xmlns='http://jabber.org/protocol/xhtml-im'><body xmlns='http://www.w3.org/1999/xhtml'>"
                f"{html}</body></html>",
                xml,
            )

    def test_html_of_its_own_namespace(self) -> None:
        """
        A body that says itself that it is XHTML is taken like one that does not, be it written with a prefix.
        """
        for html in (
            "<body xmlns='http://www.w3.org/1999/xhtml'><p>hi</p></body>",
            " <body><p>hi</p></body> ",
            "<h:body xmlns:h='http://www.w3.org/1999/xhtml'><h:p>hi</h:p></h:body>",
            "<p>hi</p>",
        ):
            self.assertEqual(201, self.msg({"html": html}, JSON).status)
        [html] = {str(element.html.body.p) for element in self.sender.pushed}
        self.assertEqual("hi", html)

    def test_bad_html(self) -> None:
        """
        What is not well-formed, or would be more than the inside of a body, is refused.
        """
        for html in ("<p>", "</body><body>", "</body><presence/>", "<!-- x -->", 7, "x" * 300_000, "<body/><message/>"):
            self.refused(422, self.msg({"body": "x", "html": html}, JSON))
        self.assertEqual([], self.sent())

    def test_refused(self) -> None:
        """
        A problem is told in one line of text with the module's status.
        """
        for status, body, headers, path in (
            (415, "x", {"content-type": "image/png"}, "/msg/a@b"),
            (415, "x", {}, "/msg/a@b"),
            (400, "{", JSON, "/msg/a@b"),
            (400, "[]", JSON, "/msg/a@b"),
            (400, b"\xff", TEXT, "/msg/a@b"),
            (422, "{}", JSON, "/msg/a@b"),
            (422, "to=a@b", FORM, "/msg"),
            (422, "x", TEXT, "/msg"),
            (422, "x", TEXT, "/msg/%00"),
            (413, None, TEXT, "/msg/a@b"),
        ):
            with self.subTest(body=body, headers=headers):
                answer = self.msg(body, headers, path)
                self.assertEqual("text/plain; charset=utf-8", answer.media_type)
                self.assertRegex(self.refused(status, answer), r"^[^\n]+\n$")
        self.assertEqual(405, self.answer_to("GET", "/msg/a@b").status)
        self.assertEqual([], self.sent())

    def test_credentials(self) -> None:
        """
        Without a token there is a challenge; credentials that the module fails over are no more than wrong.
        """
        for headers in ({}, {"authorization": "Basic"}, {"authorization": "Basic eA=="}, {"authorization": "x"}):
            answer = self.msg("x", {**TEXT, **headers}, token=None)
            self.refused(401, answer)
            self.assertIn("Basic realm=", answer.headers["WWW-Authenticate"])

    def test_full(self) -> None:
        """
        Where there is no room nothing says 201.
        """
        self.sender.full = True
        self.refused(503, self.msg("x", TEXT))


class RestTests(ApiTestCase):
    """mod_rest: /rest."""

    def rest(self, body: object = b"", headers: dict[str, str] | None = None, path: str = "/rest") -> Answer:
        return self.post(path, body, headers)

    def error(self, answer: Answer) -> dict[str, Any]:
        told = json.loads(answer.body)
        self.assertEqual(("error", answer.status), (told["type"], told["code"]))
        error: dict[str, Any] = told["error"]
        return error

    def test_readme(self) -> None:
        """
        The module's README has three ways to send a message, and all of them do.
        """
        for body, headers, path in (
            ('<message type="chat" to="user@example.org">\n<body>Hello!</body>\n</message>', XML, "/rest"),
            ({"body": "Hello!", "kind": "message", "to": "user@example.org", "type": "chat"}, JSON, "/rest"),
            ("Hello!", TEXT, "/rest/message/chat/user@example.org"),
        ):
            answer = self.rest(body, headers, path)
            self.assertEqual((202, b""), (answer.status, answer.body))
        self.assertEqual(["Hello!"] * 3, self.bodies())
        self.assertEqual({("user@example.org", "chat")}, {(e["to"], e["type"]) for e in self.sender.pushed})

    def test_form(self) -> None:
        """
        A form says the same, with what the path says.
        """
        self.rest(urlencode({"to": "a@b", "body": "x", "subject": "s"}), FORM)
        self.rest(urlencode({"body": "x"}), FORM, "/rest/message/groupchat/room@rooms.example.org")
        self.assertEqual(["chat", "groupchat"], [element["type"] for element in self.sender.pushed])

    def test_implied_kinds(self) -> None:
        """
        What names no kind is told by its type, or by what is in it.
        """
        self.answer = result
        for body in ({"type": "subscribe"}, {"show": "away"}, {"subject": "x"}, {"type": "available"}, {"ping": True}):
            self.assertLess(self.rest({"to": "a@b", **body}).status, 300)
        self.assertEqual(["presence", "presence", "message", "presence"], [e.name for e in self.sender.pushed])
        self.assertEqual(["get"], [iq["type"] for iq in self.sender.asked])

    def test_path_of_presence(self) -> None:
        """
        Presence has its type in the path, and its text is what it shows.
        """
        self.assertEqual(202, self.rest("away", TEXT, "/rest/presence/available/a@b").status)
        self.assertEqual(202, self.rest("", {}, "/rest/presence/unavailable/a@b").status)
        away, gone = self.sender.pushed
        self.assertEqual(("away", False, "unavailable"), (str(away.show), away.hasAttribute("type"), gone["type"]))

    def test_html_and_rooms(self) -> None:
        """
        A message may have html, and presence may enter a room.
        """
        self.rest({"to": "a@b", "body": "x", "html": "<b>x</b>"})
        self.rest({"to": "room@rooms.example.org/bot", "kind": "presence", "muc": {"history": {"maxstanzas": 5}}})
        self.rest({"to": "room@rooms.example.org/bot", "join": True})
        message, history, join = self.sent()
        self.assertIn("xhtml-im", message)
        self.assertIn("<history maxstanzas='5'/>", history)
        self.assertIn("<x xmlns='http://jabber.org/protocol/muc'/>", join)

    def test_extensions(self) -> None:
        """
        A property that mod_rest makes an element of is sent as that element, with nothing beside it.
        """
        for properties, xml in (
            (
                {"nick": "Bot", "markable": True},
                "<nick xmlns='http://jabber.org/protocol/nick'>Bot</nick><markable xmlns='urn:xmpp:chat-markers:0'/>",
            ),
            (
                {"oob": {"url": "https://x.example/1", "desc": "a picture"}},
                "<x xmlns='jabber:x:oob'><url>https://x.example/1</url><desc>a picture</desc></x>",
            ),
            (
                {"reactions": {"id": "m1", "reactions": ["+", "!"]}},
                (
                    "<reactions xmlns='urn:xmpp:reactions:0' id='m1'>"
                    "<reaction>+</reaction><reaction>!</reaction></reactions>"
                ),
            ),
            ({"reactions": {"id": "m1", "reactions": []}}, "<reactions xmlns='urn:xmpp:reactions:0' id='m1'/>"),
            ({"displayed": "m1"}, "<displayed xmlns='urn:xmpp:chat-markers:0' id='m1'/>"),
            ({"markable": True}, "<markable xmlns='urn:xmpp:chat-markers:0'/>"),
            (
                {"invite": {"jid": "room@rooms.example.org", "reason": "why not", "continue": True, "thread": None}},
                "<x xmlns='jabber:x:conference' jid='room@rooms.example.org' reason='why not' continue='true'/>",
            ),
            ({"attach_to": "m1"}, "<attach-to xmlns='urn:xmpp:message-attaching:1' id='m1'/>"),
            ({"encryption": "urn:xmpp:omemo:2"}, "<encryption xmlns='urn:xmpp:eme:0' namespace='urn:xmpp:omemo:2'/>"),
            ({"fallback": True}, "<fallback xmlns='urn:xmpp:fallback:0'/>"),
            (
                {"reference": {"type": "mention", "uri": "xmpp:bob@example.org", "begin": 0, "end": 3}},
                "<reference xmlns='urn:xmpp:reference:0' type='mention' uri='xmpp:bob@example.org' begin='0' end='3'/>",
            ),
            ({"thread": {"id": "t2", "parent": "t1"}}, "<thread parent='t1'>t2</thread>"),
        ):
            with self.subTest(properties=properties):
                self.assertEqual(202, self.rest({"to": "a@b", **properties}).status)
                self.assertRegex(self.sent()[-1], f"^<message [^>]*>{re.escape(xml)}</message>$")
        for properties, xml in (
            (
                {"caps": {"node": "http://n", "hash": "sha-1", "ver": "v"}},
                "<c xmlns='http://jabber.org/protocol/caps' node='http://n' hash='sha-1' ver='v'/>",
            ),
            ({"idle_since": "2024-05-01T10:00:00Z"}, "<idle xmlns='urn:xmpp:idle:1' since='2024-05-01T10:00:00Z'/>"),
            ({"vcard_update": {"photo": "c0ffee"}}, "<x xmlns='vcard-temp:x:update'><photo>c0ffee</photo></x>"),
            ({"type": "available", "nick": "Bot"}, "<nick xmlns='http://jabber.org/protocol/nick'>Bot</nick>"),
        ):
            with self.subTest(properties=properties):
                self.assertEqual(202, self.rest({"to": "a@b", **properties}).status)
                self.assertRegex(self.sent()[-1], f"^<presence [^>]*>{re.escape(xml)}</presence>$")

    def test_extensions_beside_a_body(self) -> None:
        """
        A form has such properties too, and what else is in it.
        """
        self.assertEqual(
            202, self.rest(urlencode({"to": "a@b", "body": "x", "nick": "N", "markable": "true"}), FORM).status
        )
        self.assertIn("<body>x</body><nick", self.sent()[0])
        self.assertIn("<markable ", self.sent()[0])

    def test_never_left_out(self) -> None:
        """
        A property of mod_rest that is not read here is refused by its name, with how to send it; nothing is sent.
        """
        for name in (
            *("archive", "block", "blocklist", "command", "dataform", "delay", "extdisco", "formdata", "forwarded"),
            *("gateway", "occupant_id", "payload", "register", "result", "rsm", "stanza_ids", "stats"),
            *("upload_request", "upload_slot"),
        ):
            for more in ({"body": "x"}, {"show": "away"}, {"ping": True}):
                error = self.error(self.rest({"to": "a@b", **more, name: {"x": "y"}}))
                self.assertEqual(422, error["code"])
                self.assertRegex(error["text"], f"^{name}: .*application/xmpp[+]xml")
        self.assertEqual(([], []), (self.sender.pushed, self.sender.asked))

    def test_of_another_kind(self) -> None:
        """
        What belongs to another kind of stanza is refused instead of lost.
        """
        for name, body in (
            ("body", {"kind": "presence", "body": "x"}),
            ("show", {"kind": "message", "body": "x", "show": "away"}),
            ("caps", {"body": "x", "caps": {"node": "n"}}),
            ("markable", {"type": "available", "markable": True}),
            ("nick", {"ping": True, "nick": "N"}),
            ("oob", {"kind": "iq", "type": "set", "oob": {"url": "https://x.example"}}),
            ("body", {"ping": True, "body": "x"}),
            ("subject", {"type": "error", "kind": "message", "subject": "x"}),
            ("nick", {"type": "error", "kind": "presence", "nick": "x"}),
            ("error", {"type": "chat", "body": "x", "error": {"condition": "gone"}}),
        ):
            with self.subTest(body=body):
                error = self.error(self.rest({"to": "a@b", **body}))
                self.assertEqual(422, error["code"])
                self.assertTrue(error["text"].startswith(f"{name}: "), error)
        self.assertEqual(422, self.rest("x", TEXT, "/rest/iq/ping/a@b").status)
        self.assertEqual(([], []), (self.sender.pushed, self.sender.asked))

    def test_bad_extensions(self) -> None:
        """
        A property with a value that it cannot have is refused by its name.
        """
        for name, body in (
            ("nick", {"nick": ["N"]}),
            ("oob", {"oob": "https://x.example"}),
            ("oob.url", {"oob": {"desc": "d"}}),
            ("oob.url", {"oob": {"url": {}}}),
            ("reactions.id", {"reactions": {"reactions": []}}),
            ("reactions.reactions", {"reactions": {"id": "m1"}}),
            ("reactions.reactions", {"reactions": {"id": "m1", "reactions": "x"}}),
            ("reactions.reactions", {"reactions": {"id": "m1", "reactions": [{}]}}),
            ("invite.jid", {"invite": {"reason": "r"}}),
            ("markable", {"markable": "m1"}),
            ("join", {"kind": "presence", "join": {}}),
            ("thread.id", {"thread": {"parent": "t1"}}),
            ("kind", {"kind": "pubsub", "body": "x"}),
            ("kind", {"kind": ["message"], "body": "x"}),
        ):
            with self.subTest(body=body):
                error = self.error(self.rest({"to": "a@b", **body}))
                self.assertEqual(422, error["code"])
                self.assertTrue(error["text"].startswith(f"{name}: "), error)
        self.assertEqual([], self.sent())

    def test_false(self) -> None:
        """
        A property that is false, or null, is not there.
        """
        self.assertEqual(
            202, self.rest({"to": "a@b", "body": "x", "markable": False, "ping": False, "nick": None}).status
        )
        self.assertRegex(self.sent()[0], "><body>x</body></message>$")
        self.assertEqual(202, self.rest({"to": "a@b", "kind": "presence", "join": False}).status)
        self.assertEqual(202, self.rest(urlencode({"to": "a@b", "kind": "presence", "join": "true"}), FORM).status)
        self.assertEqual([False, True], ["protocol/muc" in xml for xml in self.sent()[1:]])

    def test_question_in_the_path(self) -> None:
        """
        A question that the path names may have its node in the body.
        """
        self.answer = result
        self.rest({"node": "http://n"}, path="/rest/iq/disco/a@b")
        self.assertEqual("http://n", self.sender.asked[0].query["node"])

    def test_iq(self) -> None:
        """
        An iq waits for its answer, and tells it in the type that was sent or asked for.
        """

        def answer(iq: Element) -> Element:
            element = result(iq)
            query = element.addElement(("jabber:iq:version", "query"))
            query.addElement("name", content="Prosody")
            return element

        self.answer = answer
        xml = '<iq type="get" to="example.net"><query xmlns="jabber:iq:version"/></iq>'
        told = self.rest(xml, XML)
        self.assertEqual("application/xmpp+xml", told.media_type)
        self.assertIn(b"<name>Prosody</name>", told.body)
        told = json.loads(self.rest(xml, {**XML, "accept": "application/json"}).body)
        self.assertEqual({"name": "Prosody"}, told["version"])
        self.assertNotIn("stanza", told)
        told = json.loads(self.rest({"to": "example.net", "version": True, "id": "mine"}).body)
        self.assertEqual(("iq", "result", "mine"), (told["kind"], told["type"], told["id"]))
        form = self.rest(xml, {**XML, "accept": "application/x-www-form-urlencoded"})
        self.assertEqual(["result"], parse_qs(form.body.decode())["type"])

    def test_queries(self) -> None:
        """
        A question that has a name can be asked by GET.
        """
        self.answer = result
        for name in ("disco", "items", "lastactivity", "ping", "time", "version"):
            answer = self.answer_to("GET", f"/rest/{name}/example.com", b"", {"accept": "application/json"})
            self.assertEqual(200, answer.status)
        self.answer_to("GET", f"/rest/disco/alice@example.com/x?node={quote('http://n#1')}")
        self.assertEqual("http://n#1", self.sender.asked[-1].query["node"])
        self.assertEqual("alice@example.com/x", self.sender.asked[-1]["to"])
        self.rest("", {}, "/rest/iq/ping/a@b")
        self.assertIsNotNone(self.sender.asked[-1].ping)

    def test_error_stanza(self) -> None:
        """
        An error that is the answer to an iq is told as the answer, as the module does.
        """
        self.answer = lambda iq: error_stanza(Stanza.from_element(iq), StanzaError("cancel", "gone"))
        answer = self.rest({"to": "a@b", "ping": True})
        told = json.loads(answer.body)
        self.assertEqual((200, "error", "gone"), (answer.status, told["type"], told["error"]["condition"]))

    def test_errors(self) -> None:
        """
        A problem is told in the module's words.
        """
        for status, body, headers in (
            (400, "{", JSON),
            (400, "[]", JSON),
            (415, "x", {"content-type": "image/png"}),
            (422, "<message/>", XML),
            (422, "<message to='a@b'/><message to='a@b'/>", XML),
            (422, "<x/>", XML),
            (403, '{"to": "a@b", "body": "x", "from": "a@b"}', JSON),
            (403, "<message to='a@b' from='a@b'><body>x</body></message>", XML),
            (422, '{"to": "a@b", "body": "x", "from": "@"}', JSON),
            (422, '{"to": "a@b", "kind": "iq", "type": "set", "command": "x"}', JSON),
            (422, '{"to": "a@b", "kind": "iq", "type": "get"}', JSON),
            (413, None, JSON),
        ):
            with self.subTest(body=body):
                answer = self.rest(body, headers)
                self.assertEqual(status, answer.status)
                self.assertTrue(self.error(answer)["text"])
        self.assertEqual("invalid-xml", self.error(self.rest('<iq type="result" to="a@b"/>', XML))["condition"])
        self.assertEqual([], self.sent())

    def test_error_as_xml(self) -> None:
        """
        Who wants XML gets a stream error.
        """
        answer = self.rest("{", {**JSON, "accept": "application/xmpp+xml"})
        self.assertEqual("application/xmpp+xml", answer.media_type)
        self.assertIn(b"<not-well-formed xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>", answer.body)

    def test_time_out(self) -> None:
        """
        Without an answer there is 504, after the time of the module's own header or ours.
        """
        for path, headers in (("/rest", {"prosody-rest-timeout": "3"}), ("/rest?timeout=3", {})):
            answer = self.rest({"to": "a@b", "ping": True}, headers, path)
            self.assertEqual(504, answer.status)
            self.assertIn("within 3 s", self.error(answer)["text"])

    def test_longest_time_out(self) -> None:
        """
        A time-out in the header that is longer than may be, or none at all, is what may be, as with the module.
        """
        self.answer = result
        for seconds in ("120", "soon", "-1"):
            self.assertEqual(
                200, self.answer_to("GET", "/rest/ping/a@b", headers={"prosody-rest-timeout": seconds}).status
            )

    def test_xml_with_a_path(self) -> None:
        """
        XML is sent as it is, and the path says to whom where it does not.
        """
        for xml in ("<message><body>hi</body></message>", "<message to='bob@example.org'><body>hi</body></message>"):
            self.post("/rest/message/chat/alice@example.org", xml, {"content-type": "application/xmpp+xml"})
        self.assertEqual(["alice@example.org", "bob@example.org"], [element["to"] for element in self.sender.pushed])

    def test_unknown_question(self) -> None:
        """
        A question that has no name here is told with those that have one.
        """
        self.assertIn("there are disco, items", self.error(self.answer_to("GET", "/rest/uptime/a@b"))["text"])

    def test_credentials(self) -> None:
        """
        Without a token, and with a wrong one, there is 401 with a challenge.
        """
        for headers in ({}, {"authorization": "Bearer x"}):
            answer = self.post("/rest", {"to": "a@b", "body": "x"}, headers, token=None)
            self.assertEqual((401, "not-authorized"), (answer.status, self.error(answer)["condition"]))
            self.assertIn("WWW-Authenticate", answer.headers)


class SlackTests(ApiTestCase):
    """An incoming webhook as Slack has it: POST /hooks/<secret>."""

    def hook(self, body: object, headers: dict[str, str] | None = None, secret: str = SLACK) -> Answer:
        return self.post(f"/hooks/{secret}", body, headers, token=None)

    def texts(self, *payloads: object) -> list[str]:
        """What the first recipient gets of each payload."""
        for payload in payloads:
            self.assertEqual((200, b"ok"), (self.hook(payload).status, self.hook(payload).body))
        return self.bodies()[::4]

    def test_text(self) -> None:
        """
        A text goes to all that the settings name, from the address that they name, and the answer is ok.
        """
        answer = self.hook({"text": "Deployed.", "channel": "#general"})
        self.assertEqual((200, b"ok"), (answer.status, answer.body))
        self.assertEqual(
            [("team@example.org", "alerts@bot.example.org"), ("boss@example.org", "alerts@bot.example.org")],
            [(element["to"], element["from"]) for element in self.sender.pushed],
        )
        self.assertEqual(["Deployed."] * 2, self.bodies())

    def test_form(self) -> None:
        """
        The JSON may come in the field of a form.
        """
        self.assertEqual(200, self.hook(urlencode({"payload": '{"text": "a & b"}'}), FORM).status)
        self.assertEqual("a & b", self.bodies()[0])

    def test_any_media_type(self) -> None:
        """
        JSON is read whatever it is called, for many programs call it nothing, or something else.
        """
        for media_type in (
            *(
                "application/json",
                "application/vnd.x+json",
                "applications/json",
                "text/json",
                "text/html",
                "text/plain",
            ),
            *("application/x-www-form-urlencoded", "application/octet-stream", "", "nonsense"),
        ):
            for secret in (SLACK, ALERTS):
                body = {SLACK: ' \n{"text": "hello"}', ALERTS: json.dumps(ALERT)}[secret]
                with self.subTest(media_type=media_type, secret=secret):
                    self.assertEqual(200, self.hook(body, {"content-type": media_type}, secret).status)
        self.assertEqual(200, self.hook('{"text": "hello"}', {}).status)
        self.assertEqual(200, self.hook('payload={"text": "hello"}', FORM).status)
        self.assertEqual(2 * (10 + 2), self.bodies().count("hello"))

    def test_declared_charset(self) -> None:
        """
        JSON that is called a text may be in another charset.
        """
        media_type = "text/plain; charset=iso-8859-1"
        self.assertEqual(200, self.hook('{"text": "é"}'.encode("latin-1"), {"content-type": media_type}).status)
        self.assertEqual("é", self.bodies()[0])

    def test_username(self) -> None:
        """
        Who says it stands before what is said.
        """
        self.assertEqual(["ci: done"], self.texts({"username": "ci", "text": "done"}))

    def test_marks(self) -> None:
        """
        Links and names are written as a person would, and nothing else is touched.
        """
        self.assertEqual(
            [
                "see log (https://ci.example.org/7) and https://x.example",
                "@U1 @here #dev: 1 < 2 & 3",
                "mail me@x.example",
            ],
            self.texts(
                {"text": "see <https://ci.example.org/7|log> and <https://x.example>"},
                {"text": "<@U1> <!here> <#C2|dev>: 1 &lt; 2 &amp; 3"},
                {"text": "mail <mailto:me@x.example|me@x.example>"},
            ),
        )

    def test_ampersands(self) -> None:
        """
        Of references only Slack's three are read, so that a URL's query stays what it was.
        """
        self.assertEqual(
            ["https://ci.example.org/?a=1&section=2&copy=3 <b> &lt;"],
            self.texts({"text": "https://ci.example.org/?a=1&section=2&copy=3 &lt;b&gt; &amp;lt;"}),
        )

    def test_attachments_and_blocks(self) -> None:
        """
        Of attachments and blocks the texts are sent.
        """
        self.assertEqual(
            ["head\nTitle\nhttps://t.example\ntext\nhost: db1\nload: 2.5", "fallback", "section\nfield"],
            self.texts(
                {
                    "text": "head",
                    "attachments": [
                        {
                            "fallback": "f",
                            "title": "Title",
                            "title_link": "https://t.example",
                            "text": "text",
                            "fields": [{"title": "host", "value": "db1"}, {"title": "load", "value": 2.5}, {}],
                        }
                    ],
                },
                {"attachments": [{"fallback": "fallback"}, 7]},
                {"blocks": [{"type": "section", "text": {"text": "section"}, "fields": [{"text": "field"}]}, {}]},
            ),
        )

    def test_refused(self) -> None:
        """
        What is no message is refused, and nothing sent.
        """
        for status, body, headers in (
            (400, "{", JSON),
            (400, "[]", JSON),
            (400, "", JSON),
            (400, "", TEXT),
            (400, "", {}),
            (400, "just a line", TEXT),
            (400, "text=x", FORM),
            (400, '{"text"', FORM),
            (400, 'payload={"text": "x"}', JSON),
            (400, "payload=%7B", FORM),
            (422, "{}", JSON),
            (422, '{"text": ""}', JSON),
            (422, '{"text": 7}', JSON),
            (415, "x", {"content-type": "image/png"}),
            (413, None, JSON),
        ):
            with self.subTest(body=body):
                self.refused(status, self.hook(body, headers))
        self.assertEqual([], self.sent())

    def test_secret(self) -> None:
        """
        Another secret is none, and a token does not help.
        """
        for secret in (SLACK[:-1], SLACK + "x", "", "x", "%C3%BF"):
            self.refused(404, self.post(f"/hooks/{secret}", {"text": "x"}))
        self.refused(405, self.answer_to("GET", f"/hooks/{SLACK}"))
        self.assertEqual([], self.sent())

    def test_full(self) -> None:
        """
        Where there is no room the answer is not ok.
        """
        self.sender.full = True
        answer = self.hook({"text": "x"})
        self.refused(503, answer)
        self.assertIn("Retry-After", answer.headers)

    def test_rate(self) -> None:
        """
        A hook that is called too often says when to come again.
        """
        for _ in range(3):
            self.assertEqual(200, self.hook({"text": "x"}, secret=GENERIC).status)
        self.assertEqual("1", self.hook({"text": "x"}, secret=GENERIC).headers["Retry-After"])


_WORDS = (
    *("to", "from", "kind", "type", "id", "body", "html", "stanza", "muc", "join", "ping", "disco", "items", "show"),
    *(
        "text",
        "username",
        "attachments",
        "blocks",
        "fields",
        "title",
        "value",
        "fallback",
        "node",
        "history",
        "seconds",
    ),
    *("alerts", "labels", "annotations", "status", "truncatedAlerts", "summary", "error", "reply", "command"),
    *("nick", "oob", "reactions", "displayed", "markable", "invite", "reference", "caps", "thread", "url", "jid"),
)

ALERT = {
    "version": "4",
    "groupKey": '{}:{alertname="InstanceDown"}',
    "truncatedAlerts": 2,
    "status": "firing",
    "receiver": "xmpp",
    "groupLabels": {"alertname": "InstanceDown"},
    "commonLabels": {"alertname": "InstanceDown", "severity": "critical"},
    "commonAnnotations": {},
    "externalURL": "http://alertmanager.example.org:9093",
    "alerts": [
        {
            "status": "firing",
            "labels": {"alertname": "InstanceDown", "instance": "db1:9100", "severity": "critical"},
            "annotations": {"summary": "db1 is down", "description": "db1 has not answered for 5 minutes."},
            "startsAt": "2024-05-01T12:00:00.000Z",
            "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "http://prometheus.example.org/graph?g0.expr=up",
            "fingerprint": "c1d3",
        },
        {
            "status": "resolved",
            "labels": {"alertname": "InstanceDown", "instance": "db2:9100"},
            "annotations": {},
            "startsAt": "2024-05-01T11:00:00.000Z",
            "endsAt": "2024-05-01T12:01:00.000Z",
            "generatorURL": "http://prometheus.example.org/graph?g0.expr=up",
            "fingerprint": "c1d4",
        },
    ],
}
"""As Alertmanager's documentation of its webhook has it, version 4."""


_JSON = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-9, 9), st.sampled_from(["", "a@b", "get", "<p>x</p>", "iq", "\ud800\0"])
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(_WORDS), inner, max_size=4)),
    max_leaves=8,
)


class WhateverComesTests(ApiTestCase):
    """JSON of any shape, to each that takes some."""

    @given(
        st.sampled_from(
            ["/rest", "/rest/iq/ping/a@b", "/msg/a@b", f"/hooks/{SLACK}", f"/hooks/{ALERTS}", "/v1/stanzas", "/v1/iq"]
        ),
        _JSON,
    )
    def test_json(self, path: str, body: Any) -> None:
        """
        Whatever JSON comes is answered, and never by an internal error.
        """
        self.answer = result
        self.clock.advance(60)
        answer = self.post(path, json.dumps(body).encode(), JSON)
        self.assertNotEqual(500, answer.status)
        for element in self.sender.pushed:
            self.assertEqual(DOMAIN, element["from"].partition("@")[2] or element["from"])
        self.sender.pushed.clear()


class TemplateHookTests(ApiTestCase):
    """A hook with a template."""

    def test_alertmanager(self) -> None:
        """
        What Alertmanager posts arrives in the room as readable text.
        """
        self.assertEqual(200, self.post(f"/hooks/{ALERTS}", ALERT, token=None).status)
        [element] = self.sender.pushed
        self.assertEqual(("room@rooms.example.org", "groupchat"), (element["to"], element["type"]))
        self.assertEqual(
            "CRITICAL: InstanceDown on db1:9100\n"
            "db1 is down\n"
            "db1 has not answered for 5 minutes.\n"
            "http://prometheus.example.org/graph?g0.expr=up\n"
            "\n"
            "RESOLVED: InstanceDown on db2:9100\n"
            "\n"
            "and 2 more",
            str(element.body),
        )

    def test_closed_room(self) -> None:
        """
        A room that does not let the alert in is named to whoever posts it, with what helps.
        """
        room = "room@rooms.example.org"
        self.sender.closed[room] = RoomRefused(room, "alerts@bot.example.org", "forbidden", "auth", "banned")
        detail = self.refused(403, self.post(f"/hooks/{ALERTS}", ALERT, token=None))
        self.assertIn(f"the room {room} has banned alerts@bot.example.org", detail)

    def test_came_back(self) -> None:
        """
        An alert that comes back is not answered with ok.
        """
        self.sender.confirming = False
        posted = self.ask("POST", f"/hooks/{ALERTS}", ALERT, token=None)
        self.assertNoResult(posted)
        self.sender.confirm(Bounced("forbidden", "auth", "no voice"))
        self.assertIn("forbidden (no voice)", self.refused(502, self.successResultOf(posted)))

    def test_server_is_away(self) -> None:
        """
        An alert that the server has not confirmed after some seconds is kept, and the answer says so.
        """
        self.sender.confirming = False
        posted = self.ask("POST", f"/hooks/{ALERTS}", ALERT, token=None)
        self.clock.advance(PATIENCE)
        answer = self.successResultOf(posted)
        self.assertEqual(200, answer.status)
        self.assertTrue(answer.body.startswith(b"ok, but the XMPP server has not confirmed it"), answer.body)

    def test_slow_room(self) -> None:
        """
        The time to enter a room is part of the time that an alert waits.
        """
        entered: Deferred[None] = Deferred()

        class Slow(RecordingSender):
            async def push(self, *arguments: Any, **options: Any) -> tuple[int, ...]:
                await entered
                return await super().push(*arguments, **options)

        self.sender = Slow()
        self.sender.confirming = False
        self.api = self.an_api()
        posted = self.ask("POST", f"/hooks/{ALERTS}", ALERT, token=None)
        self.clock.advance(PATIENCE - 1)
        entered.callback(None)
        self.assertNoResult(posted)
        self.clock.advance(1)
        self.assertTrue(self.successResultOf(posted).body.startswith(b"ok, but the XMPP server has not confirmed it"))

    def test_some_recipients(self) -> None:
        """
        If one of several recipients is not reached the answer says it, and the same request again goes only to those
        who got nothing.
        """
        key = {"idempotency-key": "k1"}
        self.sender.confirming = False
        posted = self.ask("POST", f"/hooks/{SLACK}", {"text": "hi"}, key, token=None)
        self.sender.confirm(True, [1])
        self.sender.confirm(Bounced("item-not-found"))
        detail = self.refused(502, self.successResultOf(posted))
        self.assertIn("1 of 2 recipients were reached: it was sent, and came back", detail)
        self.post(f"/hooks/{SLACK}", {"text": "hi"}, key, token=None)
        self.assertEqual(["team@example.org", "boss@example.org"], [element["to"] for element in self.sender.pushed])

    def test_generic(self) -> None:
        """
        The generic template finds a text in most things, and shows the rest as it is.
        """
        for payload, text in (
            (
                {"title": "Build 7", "message": "failed", "url": "https://ci.example.org/7"},
                "Build 7\nfailed\nhttps://ci.example.org/7",
            ),
            ({"text": "just this"}, "just this"),
            ({"disk": "full", "free": 0, "hosts": ["a", "b"]}, "disk: full\nfree: 0\nhosts: a, b"),
        ):
            self.assertEqual(200, self.post(f"/hooks/{GENERIC}", payload, token=None).status)
            self.assertEqual(text, self.bodies()[-1])

    def test_plain_text(self) -> None:
        """
        A text without JSON is a payload, too: a string.
        """
        self.assertEqual(200, self.post(f"/hooks/{GENERIC}", "just a line", TEXT, token=None).status)
        self.assertEqual(["just a line"], self.bodies())
        self.refused(400, self.post(f"/hooks/{GENERIC}", '{"text": ', TEXT, token=None))
        self.refused(400, self.post(f"/hooks/{GENERIC}", "", TEXT, token=None))

    def test_nothing_to_say(self) -> None:
        """
        Where a template has nothing to say nothing is sent, and the answer says so.
        """
        answer = self.post(f"/hooks/{ALERTS}", {}, token=None)
        self.assertEqual(200, answer.status)
        self.assertIn(b"nothing was sent", answer.body)
        self.assertEqual([], self.sent())

    def test_payload_that_does_not_fit(self) -> None:
        """
        A payload that the template cannot do with is refused without a word of it.
        """
        detail = self.refused(422, self.post(f"/hooks/{ALERTS}", {"alerts": 7}, token=None))
        self.assertEqual("the template cannot do with this: TypeError", detail)

    def test_control_characters(self) -> None:
        """
        Characters that XML forbids are replaced, and do no harm.
        """
        self.post(f"/hooks/{GENERIC}", {"text": "a\x00b\ud800c"}, token=None)
        self.assertEqual(
            ["a\ufffdb\ufffdc"], [xml[xml.index("<body>") + 6 : xml.index("</body>")] for xml in self.sent()]
        )

    def test_domain_unless_set(self) -> None:
        """
        Nothing leaves from elsewhere than the component.
        """
        self.post(f"/hooks/{GENERIC}", {"text": "x", "from": "evil@example.org"}, token=None)
        self.assertTrue(self.sender.pushed[0]["from"].endswith(DOMAIN))
