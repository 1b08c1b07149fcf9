"""The API's own shape: what is sent, what is refused and how, without a socket."""

from __future__ import annotations

import gzip
import json
import tracemalloc
import zlib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.words.xish.domish import Element

from component_http.api.exchange import Admitted, Answer, Call, Problem
from component_http.api.links import MAX_LINKS, PER_MINUTE, ReplyLinks
from component_http.api.rate import Rate
from component_http.api.tokens import Token
from component_http.contract.address import Address
from component_http.contract.composing import MAX_REPLIES
from component_http.contract.conditions import StanzaError, error_stanza
from component_http.contract.idempotency import IdempotencyRecord
from component_http.contract.link import link_path
from component_http.contract.stanza import Stanza
from component_http.contract.xml import Limits
from component_http.errors import Bounced, RoomRefused, SpoolError
from component_http.interfaces import Origin
from component_http.testing import RecordingSender
from tests.unit.api_world import (
    BEARER,
    DOMAIN,
    EPOCH,
    GENERIC,
    JSON,
    LINK_KEY,
    MAX_BODY_BYTES,
    NARROW,
    SLACK,
    TOKEN,
    ApiTestCase,
    basic,
)
from tests.unit.test_link import OLD_SEAL, a_stanza

HELLO = {"to": "alice@example.org", "body": "hello"}


def result(iq: Element) -> Element:
    return Stanza.from_element(iq).response("result")


class WakeTests(ApiTestCase):
    """POST /v1/webhook/wake."""

    def test_admin(self) -> None:
        """
        A token that may do so has the webhook asked at once, and hears how it is.
        """
        answer = self.post("/v1/webhook/wake", b"")
        self.assertEqual((200, {"webhook": "half_open"}), (answer.status, json.loads(answer.body)))
        self.assertEqual(1, self.woken)

    def test_others(self) -> None:
        """
        No other token may, and nobody without one.
        """
        detail = self.refused(403, self.post("/v1/webhook/wake", b"", token=NARROW))
        self.assertIn("admin = true", detail)
        self.refused(401, self.post("/v1/webhook/wake", b"", token=None))
        self.assertEqual(0, self.woken)


class PushTests(ApiTestCase):
    """POST /v1/messages, /v1/presences and /v1/stanzas."""

    def test_message(self) -> None:
        """
        A line of curl sends a message, and says which id it has.
        """
        answer = self.post("/v1/messages", HELLO)
        self.assertEqual((202, {"ids": ["fresh1"]}), (answer.status, json.loads(answer.body)))
        [xml] = self.sent()
        self.assertEqual(
            "<message type='chat' from='bot.example.org' to='alice@example.org' id='fresh1'>"
            "<body>hello</body></message>",
            xml,
        )

    def test_array(self) -> None:
        """
        An array is sent in its order.
        """
        answer = self.post("/v1/messages", [{**HELLO, "body": text} for text in "abc"])
        self.assertEqual(["fresh1", "fresh2", "fresh3"], json.loads(answer.body)["ids"])
        self.assertEqual(["a", "b", "c"], self.bodies())

    def test_xml(self) -> None:
        """
        XML is taken as it is, by its media type or as a property.
        """
        xml = "<message to='alice@example.org' id='m1'><body>hello</body></message>"
        for headers, body in (({"content-type": "application/xmpp+xml; charset=utf-8"}, xml), (JSON, {"stanza": xml})):
            self.assertEqual({"ids": ["m1"]}, json.loads(self.post("/v1/messages", body, headers).body))
        self.assertEqual(1, len(set(self.sent())))

    def test_presence(self) -> None:
        """
        Presence has a path of its own, where nothing has to say that it is one.
        """
        self.post("/v1/presences", {"to": "alice@example.org", "type": "subscribe"})
        self.assertEqual("subscribe", self.sender.pushed[0]["type"])

    def test_any_kind(self) -> None:
        """
        /v1/stanzas takes every kind, and what names none is a message.
        """
        self.post(
            "/v1/stanzas", [HELLO, {"kind": "presence", "to": "a@b"}, {"kind": "iq", "type": "result", "to": "a@b"}]
        )
        self.assertEqual(["message", "presence", "iq"], [element.name for element in self.sender.pushed])

    def test_other_kind(self) -> None:
        """
        Each of the other paths takes its own kind, in XML too.
        """
        for body in ({"kind": "presence", "to": "a@b"}, [HELLO, {"stanza": "<presence to='a@b'/>"}]):
            self.assertIn("only message is taken here", self.refused(422, self.post("/v1/messages", body)))
        self.assertEqual([], self.sent())

    def test_wait_until_sent(self) -> None:
        """
        With wait=sent the answer comes when the server has it.
        """
        self.sender.confirming = False
        waiting = self.ask("POST", "/v1/messages?wait=sent", HELLO)
        self.assertNoResult(waiting)
        self.sender.confirm()
        answer = self.successResultOf(waiting)
        self.assertEqual((200, {"ids": ["fresh1"], "sent": True}), (answer.status, json.loads(answer.body)))

    def test_waits_for_so_long(self) -> None:
        """
        When the time to wait is over, the answer says that it is kept and not yet sent.
        """
        self.sender.confirming = False
        for target, seconds in (("/v1/messages?wait=sent", 30), ("/v1/messages?wait=sent&timeout=2.5", 2.5)):
            waiting = self.ask("POST", target, HELLO)
            self.clock.advance(seconds - 0.1)
            self.assertNoResult(waiting)
            self.clock.advance(0.2)
            answer = self.successResultOf(waiting)
            self.assertEqual((202, False), (answer.status, json.loads(answer.body)["sent"]))

    def test_never_sent(self) -> None:
        """
        Who waits for what could not be sent in its time is told so.
        """
        self.sender.confirming = False
        waiting = self.ask("POST", "/v1/messages?wait=sent", HELLO)
        self.sender.confirm(False)
        self.assertIn("it was kept, but the test says so", self.refused(502, self.successResultOf(waiting)))

    def test_came_back(self) -> None:
        """
        Whoever waits for what comes back is told what it came back with.
        """
        self.sender.confirming = False
        waiting = self.ask("POST", "/v1/messages?wait=sent", HELLO)
        self.sender.confirm(Bounced("item-not-found", "cancel", "no such user"))
        answer = self.successResultOf(waiting)
        self.assertIn("item-not-found (no such user)", self.refused(502, answer))
        problem = json.loads(answer.body)
        self.assertEqual(
            ({"type": "cancel", "condition": "item-not-found", "text": "no such user"}, ["fresh1"]),
            (problem["error"], problem["ids"]),
        )

    def test_closed_rooms(self) -> None:
        """
        A room that does not let us in is answered by what is wrong and what helps, and nothing is sent.
        """
        room, ours = "room@rooms.example.org", "bot.example.org"
        for condition, type_, status, remedy in (
            ("registration-required", "auth", 403, f"can make {ours} a member"),
            ("not-authorized", "auth", 403, "has a password"),
            ("forbidden", "auth", 403, "lift the ban"),
            ("item-not-found", "cancel", 404, "component.create_rooms"),
            ("not-allowed", "cancel", 404, "may not make it"),
            ("service-unavailable", "cancel", 404, "no chat room service"),
            ("service-unavailable", "wait", 503, "try again later"),
            ("remote-server-not-found", "cancel", 404, "no server"),
            ("remote-server-timeout", "wait", 503, "try again later"),
            ("conflict", "cancel", 409, "set component.nick"),
            ("not-acceptable", "modify", 409, "set component.nick"),
            ("undefined-condition", "cancel", 502, "does not let"),
        ):
            with self.subTest(condition=condition, type=type_):
                self.sender.closed[room] = RoomRefused(room, ours, condition, type_, "why")
                answer = self.post("/v1/messages", {"to": room, "type": "groupchat", "body": "hi"})
                detail = self.refused(status, answer)
                self.assertIn(remedy, detail)
                self.assertIn(room, detail)
                self.assertIn(f"{condition} (why)", detail)
                self.assertEqual(condition, json.loads(answer.body)["condition"])
                self.assertEqual(status == 503, "Retry-After" in answer.headers)
        self.assertEqual([], self.sent())

    def test_wrong_arguments(self) -> None:
        """
        A query that cannot be understood is refused before anything is sent.
        """
        for query in ("wait=later", "wait=sent&wait=sent", "timeout=x", "timeout=0", "timeout=61", "wait=%ff"):
            self.refused(400, self.post(f"/v1/messages?{query}", HELLO))
        self.assertEqual([], self.sent())

    def test_full(self) -> None:
        """
        Where there is no room the answer says when to come again.
        """
        self.sender.full = True
        answer = self.post("/v1/messages", HELLO)
        self.refused(503, answer)
        self.assertEqual("5", answer.headers["Retry-After"])
        self.assertEqual(1, self.counters["api_full"])

    def test_disconnected_client(self) -> None:
        """
        What was begun to be kept is kept, also if the client has gone meanwhile.
        """
        held: Deferred[None] = Deferred()

        class Slow(RecordingSender):
            async def push(self, *arguments: Any, **options: Any) -> tuple[int, ...]:
                await held
                return await super().push(*arguments, **options)

        self.sender = Slow()
        self.api = self.an_api()
        waiting = self.ask("POST", "/v1/messages", HELLO, {"idempotency-key": "k1"})
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertIn("under way", self.refused(409, self.post("/v1/messages", HELLO, {"idempotency-key": "k1"})))
        held.callback(None)
        self.assertEqual(["hello"], self.bodies())


class SeveralComponentsTests(ApiTestCase):
    """Two components, of which the sender of a stanza chooses one."""

    def setUp(self) -> None:
        super().setUp()
        self.other = RecordingSender()
        self.api = self.an_api(
            origins={
                DOMAIN: Origin(self.sender, Address.parse(DOMAIN), Limits()),
                "other.example.org": Origin(self.other, Address.parse("bot@other.example.org"), Limits()),
            }
        )

    def test_the_sender_chooses(self) -> None:
        """
        What has a sender is sent by his component, and an idempotency key is the same for all of them.
        """
        self.assertEqual(202, self.post("/v1/messages", {**HELLO, "from": "x@other.example.org"}).status)
        self.assertEqual(202, self.post("/v1/messages", {**HELLO, "from": f"x@{DOMAIN}"}).status)
        self.assertEqual((1, 1), (len(self.sender.pushed), len(self.other.pushed)))

    def test_no_sender(self) -> None:
        """
        What has none has to say which one it is; a token with a sender of its own need not.
        """
        detail = self.refused(422, self.post("/v1/messages", HELLO))
        self.assertIn(f"{DOMAIN}, other.example.org", detail)
        self.assertEqual(202, self.post("/v1/messages", HELLO, token=NARROW).status)

    def test_both_at_once(self) -> None:
        """
        One request is for one component.
        """
        two = [{**HELLO, "from": "x@other.example.org"}, {**HELLO, "from": f"x@{DOMAIN}"}]
        self.refused(422, self.post("/v1/messages", two))
        self.assertEqual((0, 0), (len(self.sender.pushed), len(self.other.pushed)))


class IdempotencyTests(ApiTestCase):
    """The same request again, because nobody knows what became of the first."""

    KEY = {"idempotency-key": "k-1"}

    def test_same_answer(self) -> None:
        """
        A second request with the same key gets the answer of the first, and nothing is sent again.
        """
        first = self.post("/v1/messages", HELLO, self.KEY)
        self.assertEqual(first, self.post("/v1/messages", HELLO, self.KEY))
        self.assertEqual(first, self.post("/v1/messages", HELLO, {"idempotency-key": '"k-1"'}))
        self.assertEqual(["hello"], self.bodies())

    def test_wait_again(self) -> None:
        """
        A second request may wait until what the first one sent has arrived.
        """
        self.post("/v1/messages", HELLO, self.KEY)
        answer = self.post("/v1/messages?wait=sent", HELLO, self.KEY)
        self.assertEqual({"ids": ["fresh1"], "sent": True}, json.loads(answer.body))

    def test_other_body(self) -> None:
        """
        The same key with another body is a mistake, and nothing is sent.
        """
        self.post("/v1/messages", HELLO, self.KEY)
        self.assertIn("make a new one", self.refused(422, self.post("/v1/messages", {**HELLO, "body": "x"}, self.KEY)))
        self.assertIn("make a new one", self.refused(422, self.post("/v1/stanzas", HELLO, self.KEY)))
        self.assertEqual(["hello"], self.bodies())

    def test_other_sender(self) -> None:
        """
        Who comes with the same key as another user of the same token means another sender, and is told.
        """
        for user, status in (("a@bot.example.org", 202), ("b@bot.example.org", 422), ("a@bot.example.org", 202)):
            headers = {**self.KEY, **basic(user, TOKEN)}
            self.assertEqual(status, self.post("/v1/messages", HELLO, headers, token=None).status)
        self.assertEqual(["a@bot.example.org"], [element["from"] for element in self.sender.pushed])

    def test_other_token(self) -> None:
        """
        Another client's key is another key.
        """
        self.post("/v1/messages", HELLO, self.KEY)
        self.post("/v1/messages", HELLO, self.KEY, token=NARROW)
        self.assertEqual(2, len(self.sent()))

    def test_after_a_day(self) -> None:
        """
        After a day a key is a new one.
        """
        self.post("/v1/messages", HELLO, self.KEY)
        self.clock.advance(86_400)
        self.post("/v1/messages", HELLO, self.KEY)
        self.assertEqual(2, len(self.sent()))

    def test_refused_is_not_remembered(self) -> None:
        """
        What was refused or had no room may be tried again with the same key.
        """
        self.sender.full = True
        self.refused(503, self.post("/v1/messages", HELLO, self.KEY))
        self.refused(422, self.post("/v1/messages", {"body": "x"}, self.KEY))
        self.sender.full = False
        self.assertEqual(202, self.post("/v1/messages", HELLO, self.KEY).status)

    def test_memory_that_cannot_be_read(self) -> None:
        """
        Where nobody can say whether it was sent already, nothing is sent.
        """

        class Forgetful(RecordingSender):
            async def recall(self, owner: str, key: str) -> IdempotencyRecord | None:
                raise SpoolError

        self.sender = Forgetful()
        self.api = self.an_api()
        self.refused(503, self.post("/v1/messages", HELLO, self.KEY))
        self.assertEqual([], self.sent())

    def test_keys_that_are_none(self) -> None:
        """
        A key has 1 to 255 visible characters.
        """
        for key in ("", "x" * 256, "\u2603", '"', "a\tb"):
            self.refused(400, self.post("/v1/messages", HELLO, {"idempotency-key": key}))
        self.assertEqual(202, self.post("/v1/messages", HELLO, {"idempotency-key": "x" * 255}).status)


class TokenTests(ApiTestCase):
    """Who is let in, and for what."""

    def test_no_token(self) -> None:
        """
        Without a token there is a challenge, and a sentence that says what to do.
        """
        answer = self.post("/v1/messages", HELLO, token=None)
        self.assertIn("send a token", self.refused(401, answer))
        self.assertRegex(answer.headers["WWW-Authenticate"], r'^Bearer realm=".*", Basic realm=')

    def test_unknown_tokens(self) -> None:
        """
        Nobody gets in with something else, and is told nothing about those that there are.
        """
        for authorization in (
            "Bearer",
            "Bearer x",
            f"Bearer {TOKEN}x",
            f"Digest {TOKEN}",
            "Basic %%%",
            "Basic /w==",
            TOKEN,
        ):
            answer = self.post("/v1/messages", HELLO, {"authorization": authorization}, token=None)
            self.refused(401, answer)
            self.assertNotIn(b"narrow", answer.body)
        self.assertEqual([], self.sent())
        self.assertEqual(7, self.counters["api_unauthorized"])

    def test_schemes(self) -> None:
        """
        The token may come as Bearer, in any case, or as the password of Basic.
        """
        for headers in (BEARER, {"authorization": f"bearer  {TOKEN} "}, basic("", TOKEN), basic("anybody", TOKEN)):
            self.assertEqual(202, self.post("/v1/messages", HELLO, headers, token=None).status)

    def test_user_is_the_sender(self) -> None:
        """
        With Basic, a user that is an address of ours is the sender; another address is not.
        """
        self.post("/v1/messages", HELLO, basic("me@bot.example.org", TOKEN), token=None)
        self.post("/v1/messages", HELLO, basic("me@example.org", TOKEN), token=None)
        self.post("/v1/messages", HELLO, basic("@@@", TOKEN), token=None)
        self.assertEqual(["me@bot.example.org", DOMAIN, DOMAIN], [element["from"] for element in self.sender.pushed])

    def test_own_sender(self) -> None:
        """
        A token that may not send as the domain sends from the first address that it has.
        """
        self.post("/v1/messages", HELLO, token=NARROW)
        self.post("/v1/messages", {**HELLO, "from": "news-1@bot.example.org/x"}, token=NARROW)
        self.assertEqual(
            ["alerts@bot.example.org", "news-1@bot.example.org/x"], [element["from"] for element in self.sender.pushed]
        )

    def test_sender_of_a_token(self) -> None:
        """
        What names no sender comes from the token's own one; then from the first address that it may send from; then
        from that of the gateway, if the token may send from there.
        """
        bot, alerts = Address.parse("bot@bot.example.org/x"), Address.parse("alerts@bot.example.org")
        for may_send_as, own, expected in (
            (["*"], alerts, alerts),
            (["first@bot.example.org", "alerts@bot.example.org"], alerts, alerts),
            (["first@bot.example.org"], None, Address.parse("first@bot.example.org")),
            (["*"], None, bot),
            (["b*@bot.example.org"], None, bot),
            (["c*@bot.example.org"], None, None),
        ):
            with self.subTest(may_send_as=may_send_as):
                token = Token("t", TOKEN, may_send_as=may_send_as, sender=own)
                self.assertEqual(expected, token.default_sender(bot))

    def test_sender_of_the_gateway(self) -> None:
        """
        Where the gateway has a sender, what is pushed and asked comes from there and not from the bare domain.
        """
        self.api = self.an_api(default_sender=Address.parse("bot@bot.example.org"))
        self.post("/v1/messages", HELLO)
        self.post("/msg/alice@example.org", b"hello", {"content-type": "text/plain"})
        self.post("/v1/messages", HELLO, basic("me@bot.example.org", TOKEN), token=None)
        self.post("/v1/messages", HELLO, token=NARROW)
        self.assertEqual(
            ["bot@bot.example.org", "bot@bot.example.org", "me@bot.example.org", "alerts@bot.example.org"],
            [element["from"] for element in self.sender.pushed],
        )

    def test_forbidden(self) -> None:
        """
        What a token may not do is refused with the reason, also in the midst of an array or in XML.
        """
        for body, reason in (
            ({**HELLO, "from": "root@bot.example.org"}, "may_send_as"),
            ({**HELLO, "from": DOMAIN}, "may_send_as"),
            ({**HELLO, "to": "eve@evil.example"}, "may_send_to"),
            ({**HELLO, "to": "eve@evil.example/x@example.org"}, "may_send_to"),
            ([HELLO, {"stanza": "<message to='eve@evil.example'/>"}], "may_send_to"),
            ({"kind": "presence", "to": "alice@example.org"}, "its kinds are message"),
        ):
            self.assertIn(reason, self.refused(403, self.post("/v1/stanzas", body, token=NARROW)))
        answer = self.answer_to("GET", "/v1/ping/alice@example.org", token=NARROW)
        self.assertIn("may not send iq", self.refused(403, answer))
        self.assertEqual([], self.sent())

    def test_foreign_sender(self) -> None:
        """
        Nobody sends from another domain, whatever his token.
        """
        for sender in ("alice@example.org", "x@bot.example.org.evil.example", "sub.bot.example.org"):
            self.refused(422, self.post("/v1/messages", {**HELLO, "from": sender}))
        self.assertEqual([], self.sent())

    def test_rate(self) -> None:
        """
        Who comes too often is told when to come again, and then he may.
        """
        self.api = self.an_api(rate=Rate(2, 10.0))
        for _ in range(2):
            self.assertEqual(202, self.post("/v1/messages", HELLO).status)
        answer = self.post("/v1/messages", HELLO)
        self.refused(429, answer)
        self.assertEqual("5", answer.headers["Retry-After"])
        self.clock.advance(5)
        self.assertEqual(202, self.post("/v1/messages", HELLO).status)
        self.assertEqual(1, self.counters["api_limited"])

    def test_array_counts(self) -> None:
        """
        An array counts as many as it has.
        """
        self.api = self.an_api(rate=Rate(2, 10.0))
        self.assertEqual(202, self.post("/v1/messages", [HELLO] * 4).status)
        self.assertEqual("15", self.post("/v1/messages", HELLO).headers["Retry-After"])


class BodyTests(ApiTestCase):
    """Bodies that are compressed, or in another charset than UTF-8."""

    def packed(self, body: bytes, coding: str) -> Answer:
        return self.post("/v1/messages", body, {**JSON, "content-encoding": coding})

    def test_compressed(self) -> None:
        """
        A body may come compressed by gzip or deflate, and every shape takes it so.
        """
        plain = json.dumps(HELLO).encode()
        bare = zlib.compressobj(wbits=-15)
        for coding, body in (
            ("gzip", gzip.compress(plain)),
            ("X-GZip", gzip.compress(plain)),
            ("deflate", zlib.compress(plain)),
            ("deflate", bare.compress(plain) + bare.flush()),
            ("identity", plain),
        ):
            with self.subTest(coding=coding):
                self.assertEqual(202, self.packed(body, coding).status)
        encoded = {**JSON, "content-encoding": "gzip"}
        self.assertEqual(202, self.post("/rest", gzip.compress(plain), encoded).status)
        self.assertEqual(201, self.post("/msg", gzip.compress(plain), encoded).status)
        self.assertEqual(200, self.post(f"/hooks/{SLACK}", gzip.compress(b'{"text": "hello"}'), encoded).status)
        self.assertEqual({"hello"}, set(self.bodies()))

    def test_bomb(self) -> None:
        """
        A body that unpacks to more than max_body_bytes is too large, and no more of it is unpacked than that.
        """
        self.packed(gzip.compress(b"x"), "gzip")
        bomb = gzip.compress(b" " * 100_000_000, 1)
        self.assertLess(len(bomb), MAX_BODY_BYTES)
        tracemalloc.start()
        try:
            self.refused(413, self.packed(bomb, "gzip"))
            self.assertLess(tracemalloc.get_traced_memory()[1], 3 * MAX_BODY_BYTES)
        finally:
            tracemalloc.stop()
        full = json.dumps(HELLO).encode().ljust(MAX_BODY_BYTES)
        self.assertEqual(202, self.packed(gzip.compress(full), "gzip").status)
        self.refused(413, self.packed(gzip.compress(full + b" "), "gzip"))

    def test_bad_coding(self) -> None:
        """
        A coding that is not read is refused with those that are, and a body that is not in its coding is refused.
        """
        for coding in ("br", "zstd", "gzip, gzip", "utf-8"):
            answer = self.packed(b"{}", coding)
            self.refused(415, answer)
            self.assertEqual("gzip, deflate", answer.headers["Accept-Encoding"])
        whole = gzip.compress(json.dumps(HELLO).encode())
        for body in (b"{}", whole[:-1], whole + b"x", whole[:9], b"\x1f"):
            self.refused(400, self.packed(body, "gzip"))
        for body in (b"{}", b"\xff" * 99, zlib.compress(b"{}")[:-1]):
            self.refused(400, self.packed(body, "deflate"))
        self.assertEqual([], self.sent())

    def test_charsets(self) -> None:
        """
        A text is read in the charset that it names, and so are XML and a form.
        """
        for charset in ("iso-8859-1", "ISO-8859-15", '"windows-1252"', "utf-16", "UTF-8", "gb18030"):
            media_type = f"text/plain; charset={charset}"
            body = "hé".encode(charset.strip('"'))
            self.assertEqual(201, self.post("/msg/alice@example.org", body, {"content-type": media_type}).status)
        xml = "<message to='alice@example.org'><body>hé</body></message>".encode("latin-1")
        self.post("/v1/messages", xml, {"content-type": "application/xmpp+xml; charset=latin-1"})
        form = {"content-type": "application/x-www-form-urlencoded; charset=latin-1"}
        self.post("/msg/alice@example.org", b"body=h%E9", form)
        self.assertEqual(["hé"] * 8, self.bodies())

    def test_bad_charset(self) -> None:
        """
        A charset that is not read is refused, and so is a text that is not in its charset.
        """
        for charset in ("klingon", "hex", "punycode", "utf-7", "unicode_escape", "idna", "undefined", "os", "x" * 9999):
            media_type = f"text/plain; charset={charset}"
            self.refused(415, self.post("/msg/a@b", "x", {"content-type": media_type}))
        for charset in ("utf-8", "us-ascii", "shift_jis", "utf-16le"):
            media_type = f"text/plain; charset={charset}"
            self.assertIn("byte 0", self.refused(400, self.post("/msg/a@b", b"\xff", {"content-type": media_type})))
        self.assertEqual([], self.sent())


class BadInputTests(ApiTestCase):
    """Whatever comes gets a clear status, and nothing is sent."""

    def tearDown(self) -> None:
        self.assertEqual([], self.sent())
        self.assertEqual(0, self.counters["api_failed"])

    def test_bodies(self) -> None:
        """
        Bodies that are none are told apart: those that cannot be read, and those that cannot be done.
        """
        for status, body in (
            (400, b""),
            (400, b"{"),
            (400, b"\xff{}"),
            (400, b'"text"'),
            (400, b"[1]"),
            (400, b"[" * 100),
            (400, b'{"body": NaN}'),
            (422, b"{}"),
            (422, b"[]"),
            (422, b"null"),
            (422, b'{"to": "alice@example.org"}'),
            (422, b'{"to": "alice@example.org", "body": []}'),
            (422, b'{"to": "@", "body": "x"}'),
            (422, b'{"stanza": "<message"}'),
            (422, b'{"stanza": "<!DOCTYPE x><message to=\'a@b\'/>"}'),
            (422, json.dumps([HELLO] * (MAX_REPLIES + 1)).encode()),
            (422, json.dumps({**HELLO, "body": "x" * 300_000}).encode()),
        ):
            with self.subTest(body=body[:60]):
                self.refused(status, self.post("/v1/messages", body, JSON))

    def test_media_types(self) -> None:
        """
        A body of another type is refused, and who forgot to say it to curl is told how.
        """
        form = {"content-type": "application/x-www-form-urlencoded"}
        self.assertIn("-H 'Content-Type: application/json'", self.refused(415, self.post("/v1/messages", "{}", form)))
        self.refused(415, self.post("/v1/messages", "{}", {}))
        self.refused(415, self.post("/v1/messages", "hello", {"content-type": "text/plain"}))

    def test_large_body(self) -> None:
        """
        A body that was too large to be read is told so.
        """
        self.assertIn("max_body_bytes", self.refused(413, self.post("/v1/messages", None, JSON)))

    def test_paths(self) -> None:
        """
        Paths that are none are told so.
        """
        for path in (
            "/",
            "",
            "/v1",
            "/v1/",
            "/v1/message",
            "/v1/messages/x",
            "/v2/messages",
            "/../v1/x",
            "//v1//messages",
        ):
            self.refused(404, self.post(path, HELLO))
        self.refused(400, self.post("/v1/%ff", HELLO))

    def test_methods(self) -> None:
        """
        A path with another method says which it takes; OPTIONS asks for just that, and needs no token.
        """
        for method in ("GET", "PUT", "DELETE", "PATCH", "HEAD", "get", "x"):
            answer = self.answer_to(method, "/v1/messages")
            self.assertEqual((405, "OPTIONS, POST"), (answer.status, answer.headers["Allow"]))
        answer = self.answer_to("OPTIONS", "/v1/ping/a@b", token=None)
        self.assertEqual((204, "GET, HEAD, OPTIONS"), (answer.status, answer.headers["Allow"]))
        self.refused(405, self.post("/v1/ping/a@b", b""))
        answer = self.answer_to("OPTIONS", "*", token=None)
        self.assertEqual((204, "GET, HEAD, OPTIONS, POST"), (answer.status, answer.headers["Allow"]))
        answer = self.answer_to("CONNECT", "example.org:443", token=None)
        self.assertEqual((405, "GET, HEAD, OPTIONS, POST"), (answer.status, answer.headers["Allow"]))

    def test_judged_before_the_body(self) -> None:
        """
        Whatever is wrong with a request beside its body is told before the body is in; so is a rate, which counts once.
        """
        self.api = self.an_api(rate=Rate(1, 60.0))
        hook = f"/hooks/{GENERIC}"
        for status, method, path, headers in (
            (401, "POST", "/v1/messages", {}),
            (401, "POST", "/msg/a@example.org", {}),
            (401, "POST", "/rest", {}),
            (404, "POST", "/v2", BEARER),
            (404, "POST", "/hooks/none", {}),
            (404, "POST", "/v1/deliveries/d1/reply", BEARER),
            (405, "PUT", "/v1/messages", BEARER),
            (400, "POST", "/v1/%ff", BEARER),
            (0, "POST", "/v1/messages", BEARER),
            (429, "POST", "/v1/messages", BEARER),
            (0, "POST", hook, {}),
            (0, "POST", hook, {}),
            (0, "POST", hook, {}),
            (429, "POST", hook, {}),
        ):
            admitted = self.api.admit(Call(method, path, headers=headers))
            self.assertEqual(status, admitted.status if isinstance(admitted, Answer) else 0, (method, path))

    def test_known_clients(self) -> None:
        """
        A client is known by a token or by a hook's URL, and not by asking for what is open to all.
        """
        for known, method, path, headers in (
            (True, "POST", "/v1/messages", BEARER),
            (True, "POST", f"/hooks/{SLACK}", {}),
            (False, "GET", "/v1/openapi.json", BEARER),
        ):
            admitted = self.api.admit(Call(method, path, headers=headers))
            assert isinstance(admitted, Admitted)
            self.assertEqual(known, admitted.known, path)

    def test_description_is_written_once(self) -> None:
        """
        The description of the API is the same bytes for each who asks.
        """
        first, second = (self.answer_to("GET", "/v1/openapi.json", token=None) for _ in range(2))
        self.assertIs(first.body, second.body)

    def test_token_first(self) -> None:
        """
        Who has no token learns nothing about what he sends.
        """
        for body in (b"{", None, b"\xff"):
            self.refused(401, self.post("/v1/messages", body, JSON, token=None))

    def test_internal_error(self) -> None:
        """
        An internal error is a 500 that says nothing more, a line in the log, and a count.
        """

        class Mistaken(RecordingSender):
            async def push(self, *arguments: Any, **options: Any) -> tuple[int, ...]:
                raise RuntimeError("boo")

        self.sender = Mistaken()
        self.api = self.an_api()
        self.assertNotIn("boo", self.refused(500, self.post("/v1/messages", HELLO)))
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))
        self.assertEqual(1, self.counters["api_failed"])
        self.counters["api_failed"] = 0

    @given(
        st.sampled_from(
            ["/v1/messages", "/v1/iq", "/msg", "/msg/a@b", "/rest", "/rest/iq/ping/a@b", "/hooks/x", "/v1/disco/a"]
        ),
        st.sampled_from(["GET", "POST", "OPTIONS", "HEAD", "PUT"]),
        st.sampled_from(
            ["application/json", "application/xmpp+xml", "text/plain", "application/x-www-form-urlencoded", ""]
        ),
        st.one_of(st.binary(max_size=30), st.sampled_from([b'{"to":7}', b"to=%ff&body=x", b"<iq", b"[{}]", b"null"])),
        st.sampled_from(["", "timeout=1", "wait=x", "%", "a=%ff", "&&=", "seal=x"]),
    )
    def test_whatever_comes(self, path: str, method: str, media_type: str, body: bytes, query: str) -> None:
        """
        Whatever comes is answered, by a mistake of the client's where it is one, and never by one of ours.
        """
        self.sender.pushed.clear()
        answer = self.answer_to(method, f"{path}?{query}", body, {"content-type": media_type})
        self.assertNotEqual(500, answer.status)
        self.sender.pushed.clear()


class AskTests(ApiTestCase):
    """POST /v1/iq, and the questions that have a path of their own."""

    QUESTION = "<iq type='get' to='alice@example.org/phone'><query xmlns='urn:example'/></iq>"

    def asked(self, body: object = None, target: str = "/v1/iq", **options: Any) -> Answer:
        return self.post(target, {"stanza": self.QUESTION} if body is None else body, **options)

    def test_result(self) -> None:
        """
        The answer comes as JSON with the XML in it.
        """

        def answer(iq: Element) -> Element:
            element = result(iq)
            element.addElement(("urn:example", "query"))["n"] = "1"
            return element

        self.answer = answer
        told = self.asked()
        properties = json.loads(told.body)
        self.assertIn("<query xmlns='urn:example' n='1'/>", properties.pop("stanza"))
        self.assertEqual(
            {"kind": "iq", "type": "result", "id": "fresh1", "to": DOMAIN, "from": "alice@example.org/phone"},
            properties,
        )

    def test_id_on_the_way(self) -> None:
        """
        On its way the iq has an id that nobody can guess; who asked sees the one he gave.
        """
        self.answer = result
        body = {"stanza": self.QUESTION.replace("<iq", "<iq id='mine'")}
        self.assertEqual("mine", json.loads(self.asked(body).body)["id"])
        self.assertNotEqual("mine", self.sender.asked[0]["id"])

    def test_as_xml(self) -> None:
        """
        Who wants XML gets the stanza itself.
        """
        self.answer = result
        told = self.asked(headers={"accept": "application/xmpp+xml"})
        self.assertEqual("application/xmpp+xml", told.media_type)
        self.assertRegex(told.body.decode(), r"^<iq .*/>$")

    def test_addresses_beside_the_xml(self) -> None:
        """
        The recipient may stand beside the XML of the question.
        """
        self.answer = result
        self.asked({"to": "alice@example.org", "stanza": "<iq type='set'><query xmlns='urn:example'/></iq>"})
        self.assertEqual("alice@example.org", self.sender.asked[0]["to"])

    def test_no_answer(self) -> None:
        """
        Without an answer in time there is 504.
        """
        self.assertIn("within 7 s", self.refused(504, self.asked(target="/v1/iq?timeout=7")))
        self.assertEqual(1, self.counters["api_unanswered"])

    def test_error(self) -> None:
        """
        An error is 502 with its condition.
        """
        self.answer = lambda iq: error_stanza(Stanza.from_element(iq), StanzaError("cancel", "item-not-found", "No"))
        told = self.asked()
        self.assertIn("item-not-found", self.refused(502, told))
        problem = json.loads(told.body)
        self.assertEqual(
            ("item-not-found", {"type": "cancel", "condition": "item-not-found", "text": "No"}),
            (problem["condition"], problem["error"]),
        )

    def test_offline(self) -> None:
        """
        While the server is away the answer says when to come again.
        """
        self.sender.offline = True
        told = self.asked()
        self.refused(503, told)
        self.assertEqual("5", told.headers["Retry-After"])
        self.assertEqual((1, 1), (self.counters["api_asked"], self.counters["api_unanswered"]))

    def test_no_question(self) -> None:
        """
        What is no question is refused: another kind, two at once, an answer, nothing in it or too much.
        """
        for body in (
            {"kind": "message", **HELLO},
            {"stanza": self.QUESTION * 2},
            {"stanza": self.QUESTION.replace("get", "result")},
            {"stanza": "<iq type='get' to='a@b'/>"},
            {"stanza": "<iq type='get' to='a@b'><a xmlns='x'/><b xmlns='x'/></iq>"},
            {"to": "a@b", "type": "get"},
            {"to": "a@b"},
        ):
            self.refused(422, self.asked(body))
        self.assertEqual([], self.sender.asked)

    def test_client_gone(self) -> None:
        """
        When the client has gone nobody waits for the answer any more.
        """
        cancelled: list[object] = []
        never: Deferred[Element] = Deferred(cancelled.append)
        self.answer = lambda iq: never
        waiting = self.ask("POST", "/v1/iq", {"stanza": self.QUESTION})
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.assertEqual([never], cancelled)

    def test_ping(self) -> None:
        """
        A ping says how long it took.
        """
        pong: Deferred[Element] = Deferred()
        self.answer = lambda iq: pong
        waiting = self.ask("GET", "/v1/ping/alice@example.org/phone%202?from=echo@bot.example.org")
        self.clock.advance(0.25)
        [iq] = self.sender.asked
        self.assertEqual(("alice@example.org/phone 2", "echo@bot.example.org"), (iq["to"], iq["from"]))
        self.assertIsNotNone(iq.ping)
        pong.callback(result(iq))
        self.assertEqual(0.25, json.loads(self.successResultOf(waiting).body)["seconds"])

    def test_disco(self) -> None:
        """
        What somebody is comes as JSON that needs no XML parser.
        """

        def answer(iq: Element) -> Element:
            element = result(iq)
            query = element.addElement((iq.query.uri, "query"))
            query["node"] = iq.query["node"]
            query.addElement("identity").attributes.update(category="client", type="bot", name="echo")
            query.addElement("feature")["var"] = "urn:xmpp:ping"
            form = query.addElement(("jabber:x:data", "x"))
            for var, value in (("FORM_TYPE", "urn:f"), ("os", "x")):
                field = form.addElement("field")
                field["var"] = var
                field.addElement("value", content=value)
            return element

        self.answer = answer
        told = json.loads(self.answer_to("GET", "/v1/disco/alice@example.org?node=n").body)
        self.assertEqual(
            {
                "node": "n",
                "identities": [{"category": "client", "type": "bot", "name": "echo"}],
                "features": ["urn:xmpp:ping"],
                "extensions": {"urn:f": {"os": ["x"]}},
            },
            told["disco"],
        )

    def test_items_and_version(self) -> None:
        """
        So do the things that somebody has, and his software.
        """

        def answer(iq: Element) -> Element:
            element = result(iq)
            query = element.addElement((iq.query.uri, "query"))
            if iq.query.uri == "jabber:iq:version":
                query.addElement("name", content="Prosody")
                query.addElement("os", content="Linux")
            else:
                query.addElement("item").attributes.update(jid="room@rooms.example.org", name="Room")
            return element

        self.answer = answer
        self.assertEqual(
            [{"jid": "room@rooms.example.org", "name": "Room"}],
            json.loads(self.answer_to("GET", "/v1/items/rooms.example.org").body)["items"],
        )
        self.assertEqual(
            {"name": "Prosody", "os": "Linux"},
            json.loads(self.answer_to("GET", "/v1/version/example.org").body)["version"],
        )

    def test_nobody(self) -> None:
        """
        Who is no address is not asked.
        """
        for jid in ("@", "a@b%00", "%20"):
            self.refused(422, self.answer_to("GET", f"/v1/ping/{jid}"))
        self.refused(404, self.answer_to("GET", "/v1/ping/"))


class LateReplyTests(ApiTestCase):
    """What a webhook answers later, by the link that came with the request."""

    def link(self, seconds: float = 60.0, **facts: Any) -> str:
        path = link_path(LINK_KEY, "d1", a_stanza(**facts), EPOCH + seconds)
        assert path is not None
        return path

    def reply(self, path: str, body: object, headers: dict[str, str] | None = None) -> Answer:
        return self.post(path, body, headers, token=None)

    def test_defaults(self) -> None:
        """
        A late reply goes where the answer would have gone, without a token and as often as one likes.
        """
        for text in ("one", "two"):
            answer = self.reply(self.link(), {"body": text})
            self.assertEqual(202, answer.status)
        self.assertEqual(["one", "two"], self.bodies())
        self.assertEqual(["d1", "d1"], self.sender.deliveries)
        [element, _] = self.sender.pushed
        self.assertEqual(
            ("alice@example.org/phone", "echo@bot.example.org", "chat"),
            (element["to"], element["from"], element["type"]),
        )

    def test_room(self) -> None:
        """
        A late reply to a room goes to the room.
        """
        self.reply(self.link(type_="groupchat", sender="room@rooms.example.org/al"), {"body": "hi"})
        self.assertEqual(
            ("room@rooms.example.org", "groupchat"), (self.sender.pushed[0]["to"], self.sender.pushed[0]["type"])
        )

    def test_iq(self) -> None:
        """
        A late answer to an iq has the id of its request; `{}` is an empty result.
        """
        self.sender.open = {"d1"}
        link = self.link(kind="iq", type_="get", id="i1")
        self.assertEqual({"ids": ["i1"]}, json.loads(self.reply(link, {}).body))
        self.assertEqual("result", self.sender.pushed[0]["type"])
        self.assertIn("answered already", self.refused(410, self.reply(link, {})))
        self.assertEqual(202, self.reply(link, {"kind": "message", "body": "by the way"}).status)

    def test_error(self) -> None:
        """
        An error may come late too, with the id of what it is about.
        """
        self.reply(self.link(id="m7"), {"error": {"condition": "gone"}})
        self.assertEqual(("error", "m7"), (self.sender.pushed[0]["type"], self.sender.pushed[0]["id"]))

    def test_too_late(self) -> None:
        """
        When its time is over a link is of no use any more.
        """
        link = self.link(60)
        self.clock.advance(59)
        self.assertEqual(202, self.reply(link, {"body": "x"}).status)
        self.clock.advance(2)
        self.assertIn("too late", self.refused(410, self.reply(link, {"body": "y"})))

    def test_forged(self) -> None:
        """
        A link that was changed, or invented, is none.
        """
        link = self.link()
        for path in (
            link.replace("/d1/", "/d2/"),
            link[:-2],
            link.partition("?")[0],
            "/v1/deliveries/d1/reply?seal=x",
            "/v1/deliveries/d1/reply?seal=%C3%BF.x",
        ):
            self.refused(404, self.reply(path, {"body": "x"}))
        self.assertEqual([], self.sent())

    def test_nothing(self) -> None:
        """
        A late reply that says nothing is a mistake; what is refused in an answer is refused here.
        """
        for body in ({}, [], {"from": "alice@example.org", "body": "x"}, {"body": []}):
            self.refused(422, self.reply(self.link(), body))
        detail = self.refused(422, self.reply(self.link(), {"text": "x"}))
        self.assertEqual("a message needs `body`, and `text` is not read", detail)
        self.refused(422, self.reply(self.link(kind="iq", type_="get"), {"result": "x"}))
        self.assertEqual([], self.sent())

    def test_elsewhere(self) -> None:
        """
        A link sends nothing to others and nothing from another address, however it is written: 403 names the setting.
        """
        xml = "<message to='bob@example.org'><body>x</body></message>"
        for body in (
            {"to": "bob@example.org", "body": "x"},
            {"from": "boss@bot.example.org", "body": "x"},
            {"to": "room@rooms.example.org", "type": "groupchat", "body": "x"},
            {"kind": "presence", "type": "subscribe", "to": "bob@example.org"},
            {"kind": "iq", "type": "set", "to": "example.org"},
            {"stanza": xml},
            {"stanza": xml.replace("to='bob@example.org'", "from='boss@bot.example.org'")},
            {"stanza": "<presence to='room@rooms.example.org/echo'/>"},
            {"stanza": f"<message><body>x</body></message>{xml}"},
            [{"body": "x"}, {"to": "bob@example.org", "body": "x"}],
        ):
            with self.subTest(body=body):
                self.assertIn('reply_links = "wide"', self.refused(403, self.reply(self.link(), body)))
        answer = self.reply(self.link(), xml, {"content-type": "application/xmpp+xml"})
        self.refused(403, answer)
        self.assertEqual([], self.sent())
        self.assertEqual(11, self.counters["api_refused"])

    def test_conversation(self) -> None:
        """
        What honest bots send late goes through: chat states, several parts, a correction, another resource.
        """
        bodies = [
            {"state": "composing"},
            [{"id": "n1", "body": "one"}, {"body": "two"}],
            {"to": "alice@example.org", "body": "three", "replace": "n1"},
            {"to": "alice@example.org/laptop", "from": "echo@bot.example.org/x", "body": "four"},
            {"to": "echo@bot.example.org", "from": "alice@example.org/phone", "body": "five"},
            {"stanza": "<message from='echo@bot.example.org' to='alice@example.org'><body>six</body></message>"},
        ]
        self.assertEqual({202}, {self.reply(self.link(), body).status for body in bodies})

    def test_wide(self) -> None:
        """
        With `reply_links = "wide"` a link sends whatever the webhook could have answered at once.
        """
        self.api = self.an_api(wide=True)
        self.assertEqual(
            202, self.reply(self.link(), {"to": "bob@example.org", "from": "b@bot.example.org", "body": "x"}).status
        )
        self.assertEqual(["bob@example.org"], [element["to"] for element in self.sender.pushed])

    def test_earlier_version(self) -> None:
        """
        A link from before an upgrade keeps what it could do, until it expires.
        """
        link = f"/v1/deliveries/d1/reply?seal={OLD_SEAL}"
        self.assertEqual(202, self.reply(link, {"to": "bob@example.org", "body": "x"}).status)
        self.clock.advance(60)
        self.refused(410, self.reply(link, {"body": "x"}))

    def test_too_many(self) -> None:
        """
        Sixty requests of one link come through at once, and then one a second; other links are not concerned.
        """
        for _ in range(PER_MINUTE):
            self.assertEqual(202, self.reply(self.link(), {"body": "x"}).status)
        self.clock.advance(0.25)
        answer = self.reply(self.link(), {"body": "x"})
        self.refused(429, answer)
        self.assertEqual("1", answer.headers["Retry-After"])
        other = link_path(LINK_KEY, "d2", a_stanza(), EPOCH + 60)
        assert other is not None
        self.assertEqual(202, self.reply(other, {"body": "x"}).status)
        self.clock.advance(0.75)
        self.assertEqual(202, self.reply(self.link(), {"body": "x"}).status)
        self.assertEqual((1, 0), (self.counters["api_limited"], self.counters["api_refused"]))

    def test_made_up_links(self) -> None:
        """
        What is no link of ours is not counted against the one that it was made from.
        """
        for _ in range(PER_MINUTE + 1):
            self.refused(404, self.reply("/v1/deliveries/d1/reply?seal=x", {"body": "x"}))
        self.assertEqual(202, self.reply(self.link(), {"body": "x"}).status)

    def test_many_links(self) -> None:
        """
        The counting of requests has an end: where too many links are used, the one used longest ago counts afresh.
        """
        links = ReplyLinks(LINK_KEY, wide=False, seconds=lambda: 0.0, now=lambda: EPOCH)

        def use(number: int) -> None:
            path = link_path(LINK_KEY, f"d{number}", a_stanza(), EPOCH + 60)
            assert path is not None
            links.open(f"d{number}", path.partition("seal=")[2])

        for _ in range(PER_MINUTE):
            use(0)
        self.assertRaises(Problem, use, 0)
        for number in range(1, MAX_LINKS):
            use(number)
        self.assertRaises(Problem, use, 0)
        for number in range(1, MAX_LINKS + 1):
            use(number)
        use(0)

    def test_key(self) -> None:
        """
        An idempotency key holds here too.
        """
        for _ in range(2):
            self.assertEqual(202, self.reply(self.link(), {"body": "x"}, {"idempotency-key": "k"}).status)
        self.assertEqual(1, len(self.sent()))
