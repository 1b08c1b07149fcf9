"""What becomes of a webhook's answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import count
from typing import Any

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.xish.domish import Element

from component_http.contract.address import Address
from component_http.contract.composing import MAX_ELEMENTS, MAX_REPLIES
from component_http.contract.conditions import (
    CONNECTION_FAILURE,
    NS_STANZAS,
    STOPPING,
    StanzaError,
)
from component_http.contract.objects import MAX_JSON_DEPTH
from component_http.contract.reply import Response, Verdict, give_up, judge
from component_http.contract.request import XML_LANG, request_properties
from component_http.contract.stanza import TYPES, Stanza
from component_http.contract.xml import NS_COMPONENT, Limits, parse_stanzas, serialize
from tests.unit.work import calls

ALICE = "alice@example.org/phone"
BOT = "bot@bot.localhost"
JSON = {"content-type": "application/json"}


def a_stanza(xml: str) -> Stanza:
    [element] = parse_stanzas(xml, Limits())
    return Stanza.from_element(element)


def a_message(type: str = "chat", payload: str = "<body>hello</body>", sender: str = ALICE) -> Stanza:
    return a_stanza(f"<message from='{sender}' to='{BOT}' type='{type}' id='m1'>{payload}</message>")


def an_iq(type: str = "get") -> Stanza:
    return a_stanza(f"<iq from='{ALICE}' to='{BOT}' type='{type}' id='i1'><query xmlns='urn:example'/></iq>")


def a_presence(type: str = "subscribe") -> Stanza:
    return a_stanza(f"<presence from='{ALICE}' to='{BOT}' type='{type}' id='p1'/>")


def verdict_of(
    stanza: Stanza,
    body: bytes | None = b"",
    status: int = 200,
    headers: Mapping[str, str] = JSON,
    limits: Limits | None = None,
    **more: Any,
) -> Verdict:
    ids = count()
    return judge(
        stanza,
        Response(status, headers, body),
        domain="bot.localhost",
        limits=limits or Limits(),
        new_id=lambda: f"fresh-{next(ids)}",
        **more,
    )


def answered(stanza: Stanza, reply: object) -> Verdict:
    """The webhook answers 200 with this as JSON."""
    return verdict_of(stanza, json.dumps(reply).encode())


def sent(verdict: Verdict) -> list[str]:
    """What a server reads, in a form that can be compared: attributes in order."""
    written = []
    for element in verdict.stanzas:
        [read] = parse_stanzas(serialize(element), Limits())
        read.attributes = dict(sorted(read.attributes.items(), key=str))
        written.append(serialize(read))
    return written


def reply_to(stanza: Stanza, reply: object) -> str:
    """The one stanza that an answer makes."""
    verdict = answered(stanza, reply)
    [only] = sent(verdict)
    return only if verdict.outcome == "replied" else f"{verdict.outcome}: {only}"


def error_of(verdict: Verdict) -> tuple[str, str, str | None]:
    """Type, condition and text of the error that is sent."""
    [stanza] = verdict.stanzas
    [error] = stanza.elements(NS_COMPONENT, "error")
    children = {child.name: "".join(map(str, child.children)) for child in error.elements() if child.uri == NS_STANZAS}
    text = children.pop("text", None)
    [condition] = children
    return error["type"], condition, text


class ReadingTestCase(SynchronousTestCase):
    """How the tests below say what they expect."""

    def assert_silent(self, verdict: Verdict) -> None:
        self.assertEqual(("silent", (), None), (verdict.outcome, verdict.stanzas, verdict.note))

    def assert_refused(self, verdict: Verdict, about: str = "") -> None:
        self.assertEqual(("refused_reply", ()), (verdict.outcome, verdict.stanzas))
        self.assertIn(about, verdict.note or "")


class MediaTypeTests(ReadingTestCase):
    """Only JSON is read as a reply."""

    def test_json_by_any_of_its_names(self) -> None:
        """
        Case and parameters of the media type do not matter, and application/*+json is JSON.
        """
        for media_type in (
            "application/json",
            "Application/JSON",
            "application/json; charset=utf-8",
            "application/json;charset=latin-1",
            " application/vnd.example.bot+json ",
        ):
            verdict = verdict_of(a_message(), b'{"body": "x"}', headers={"content-type": media_type})
            self.assertEqual("replied", verdict.outcome)

    def test_anything_else_is_ignored_with_a_note(self) -> None:
        """
        A bot that forgot the media type, or shows an error page with status 200, finds out from the log.
        """
        for media_type, named in (
            ("text/html; charset=utf-8", "of text/html"),
            ("application/jsonp", "of application/jsonp"),
            ("", "without a media type"),
            ("<body>", "of a media type that is none"),
        ):
            verdict = verdict_of(a_message(), b'{"body": "x"}', headers={"content-type": media_type})
            self.assertEqual(("silent", ()), (verdict.outcome, verdict.stanzas))
            self.assertEqual(f"ignored 13 bytes {named}: only application/json is read as a reply", verdict.note)

    def test_no_headers_at_all(self) -> None:
        """
        A body without any header is ignored too.
        """
        self.assertEqual("silent", verdict_of(a_message(), b"{}", headers={}).outcome)

    def test_empty_body(self) -> None:
        """
        A response with nothing in it, or nothing but white space, is no reply, whatever its media type.
        """
        for body in (b"", b"\n", b" \r\n\t", b"\xef\xbb\xbf"):
            self.assert_silent(verdict_of(a_message(), body))
            self.assert_silent(verdict_of(a_message(), body, headers={"content-type": "text/html"}))

    def test_reply_with_another_status(self) -> None:
        """
        A reply with 201, which some frameworks give to every POST, is not sent, and the log names the status.
        """
        for status in (201, 202, 203, 205, 206, 299):
            for body, size in ((b'{"body": "x"}', 13), (b'[{"stanza": "<a/>"}]', 20)):
                verdict = verdict_of(a_message(), body, status=status)
                self.assertEqual(("silent", (), True), (verdict.outcome, verdict.stanzas, verdict.ignored_body))
                self.assertIn(f"ignored {size} bytes of application/json with status {status}: ", verdict.note or "")
                self.assertIn("only application/json with status 200 is read as a reply", verdict.note or "")
        large = verdict_of(a_message(), None, status=201)
        self.assertIn("a large body of application/json with status 201", large.note or "")
        text = verdict_of(a_message(), b"hi", status=201, headers={"content-type": "text/html"})
        self.assertIn("2 bytes of text/html with status 201", text.note or "")

    def test_no_reply_with_another_status(self) -> None:
        """
        A status of success without a reply in its body accepts the stanza and says no more.
        """
        for status in (201, 202, 203, 204, 205, 206, 299):
            for body in (b"", b"{}", b"[]", b"null", b'{"body": null}'):
                self.assert_silent(verdict_of(a_message(), body, status=status))
        for body in (b'{"status": "accepted"}', b'{"body": null, "id": 7}', b"{", b"[1]"):
            self.assert_silent(verdict_of(a_message(), body, status=202))
        self.assert_silent(verdict_of(a_message(), b"Accepted", status=202, headers={"content-type": "text/plain"}))
        self.assert_silent(verdict_of(a_message(), b'{"body": "x"}', status=204))

    def test_xml(self) -> None:
        """
        The bot of mod_rest's README, which answers with the XML of a stanza, is understood.
        """
        headers = {"content-type": "application/xmpp+xml; charset=utf-8"}
        for body in (
            "<message><body>\xe9</body></message>",
            "\ufeff<?xml version='1.0' encoding='utf-8'?>\n<message><body>\xe9</body></message>\n",
        ):
            verdict = verdict_of(a_message(), body.encode(), headers=headers)
            self.assertEqual(
                [f"<message from='{BOT}' id='fresh-0' to='{ALICE}'><body>\xe9</body></message>"], sent(verdict)
            )
            self.assertEqual(("replied", {0}, None), (verdict.outcome, verdict.verbatim, verdict.note))
        result = verdict_of(an_iq(), b"<iq type='result'/>", headers=headers)
        self.assertEqual([f"<iq from='{BOT}' id='i1' to='{ALICE}' type='result'/>"], sent(result))
        self.assert_silent(verdict_of(a_message(), b"", headers=headers))

    def test_refused_xml(self) -> None:
        """
        XML that cannot be sent is refused as it is in `stanza`, and so is what is too large, compressed or not UTF-8.
        """
        headers = {"content-type": "application/xmpp+xml"}
        for body, about in (
            (b"<message>", "stanza: "),
            (b"<html/>", "stanza: not a message, presence, iq"),
            (b"<message><body>\xe9</body></message>", "not UTF-8"),
            (None, "max_body_bytes"),
        ):
            self.assert_refused(verdict_of(a_message(), body, headers=headers), about)
        packed = verdict_of(a_message(), b"<message/>", headers={**headers, "content-encoding": "gzip"})
        self.assert_refused(packed, "compressed")
        created = verdict_of(a_message(), b"<message/>", status=201, headers=headers)
        self.assertIn("application/xmpp+xml with status 201", created.note or "")

    def test_byte_order_mark(self) -> None:
        """
        A byte order mark before the JSON does not matter.
        """
        verdict = verdict_of(a_message(), b'\xef\xbb\xbf{"body": "x"}')
        self.assertEqual("replied", verdict.outcome)

    def test_too_large(self) -> None:
        """
        A JSON body over the limit is refused; another one is ignored as ever.
        """
        self.assert_refused(verdict_of(a_message(), None), "max_body_bytes")
        ignored = verdict_of(a_message(), None, headers={"content-type": "text/html"})
        self.assertEqual(("silent", ()), (ignored.outcome, ignored.stanzas))
        self.assertIn("a large body of text/html", ignored.note or "")

    def test_compressed(self) -> None:
        """
        A compressed body was not asked for and is not read.
        """
        for coding in ("gzip", "br", "identity, gzip"):
            self.assert_refused(verdict_of(a_message(), b"\x1f\x8b", headers={**JSON, "content-encoding": coding}))
        plain = verdict_of(a_message(), b'{"body": "x"}', headers={**JSON, "content-encoding": "Identity"})
        self.assertEqual("replied", plain.outcome)


class JsonTests(ReadingTestCase):
    """JSON is read strictly where it matters and kindly where it can be."""

    def test_no_reply(self) -> None:
        """
        {}, [], null, and what holds nothing else, mean that there is no reply.
        """
        nothing: tuple[object, ...] = ({}, [], None, [{}], [None, {}], {"body": None}, {"to": None}, {"reply": {}})
        for reply in nothing:
            self.assert_silent(answered(a_message(), reply))

    def assert_not_sent(self, note: str, verdict: Verdict) -> None:
        self.assertEqual(
            ("silent", (), True, note), (verdict.outcome, verdict.stanzas, verdict.ignored_body, verdict.note)
        )

    def test_nothing_that_a_reply_has(self) -> None:
        """
        A framework's own {"ok": true} or {"status": "done"} is no message to anybody, and the log says so.
        """
        note = "nothing to send: a message needs `body`; to send nothing, answer {} or 204"
        others: tuple[object, ...] = (
            {"id": "7"},
            {"to": "bob@example.org", "type": "normal"},
            {"nick": "B"},
            [{}, {"x": 1}],
        )
        for reply in ({"ok": True}, {"status": "done"}, {"priority": 1}, {"thread": "t"}, *others):
            self.assert_not_sent(note, answered(a_message(), reply))

    def test_a_body_under_another_name(self) -> None:
        """
        Who writes `text` for `body` is told so, also where something else is sent; `body` itself is enough.
        """
        for name in ("text", "message", "content", "msg", "answer", "response", "Body", "TEXT"):
            note = f"a message needs `body`, and `{name}` is not read"
            for value in ("hi", 7):
                verdict = answered(a_message(), {"type": "chat", "to": ALICE, "nick": "B", name: value})
                self.assert_not_sent(f"{note}; to send nothing, answer {{}} or 204", verdict)
            verdict = answered(a_message(), {"oob_url": "https://example.org/", name: "hi"})
            self.assertEqual((1, True, note), (len(verdict.stanzas), verdict.ignored_body, verdict.note))
        for fine in ({"body": "x", "text": "y"}, {"oob_url": "https://example.org/", "content": ["x"]}):
            verdict = answered(a_message(), fine)
            self.assertEqual(("replied", False, None), (verdict.outcome, verdict.ignored_body, verdict.note))
        self.assert_refused(
            answered(a_message(), {"reply": "hi"}), "reply: not an object (the text of a message is `body`)"
        )

    def test_an_explicit_silence(self) -> None:
        """
        A bot whose `body` is null has nothing to say and knows it, whatever addresses it fills in.
        """
        self.assert_silent(answered(a_message(), {"to": ALICE, "from": BOT, "kind": "message", "body": None}))

    def test_half_of_several_replies(self) -> None:
        """
        Of several replies those with something in them are sent, and the note is about the other.
        """
        verdict = answered(a_message(), [{"ok": True}, {"body": "x"}])
        self.assertEqual(("replied", 1, True), (verdict.outcome, len(verdict.stanzas), verdict.ignored_body))
        self.assertEqual("nothing to send: a message needs `body`", verdict.note)

    def test_not_an_object(self) -> None:
        """
        A string, a number or a boolean is no reply, alone or among others.
        """
        others: tuple[object, ...] = ("hi", 1, True, ["hi"], [{"body": "x"}, 1], [[]], [[{"body": "x"}]])
        for reply in others:
            self.assert_refused(answered(a_message(), reply), "not an object")

    def test_not_json(self) -> None:
        """
        What does not parse is refused: cut off, followed by more, NaN, Infinity, not UTF-8.
        """
        for body in (
            b'{"body":',
            b'{"body": "x"} {"body": "y"}',
            b"<html>",
            b'{"body": NaN}',
            b'{"body": Infinity}',
            b'{"body": -Infinity}',
            b'{"body": "\xff"}',
            b'{"body": "\xed\xa0\x80"}',
            '{"body": "x"}'.encode("utf-16"),
            b"{'body': 'x'}",
            b'{"body": "a\nb"}',
            b'{"body": 01}',
        ):
            self.assert_refused(verdict_of(a_message(), body), "the JSON")

    def test_nesting(self) -> None:
        """
        64 arrays inside each other are read, 65 are refused, a hundred thousand as well.
        """
        for opening, closing in (("[", "]"), ('{"a":', "}")):
            for depth, expected in ((MAX_JSON_DEPTH - 1, "replied"), (MAX_JSON_DEPTH, "refused_reply")):
                inner = opening * depth + "1" + closing * depth
                verdict = verdict_of(a_message(), b'{"body": "x", "more": %s}' % inner.encode())
                self.assertEqual(expected, verdict.outcome)
            for body in (opening * 100_000, opening * 100_000 + "1" + closing * 100_000):
                self.assert_refused(verdict_of(a_message(), body.encode()), "deeper")

    def test_brackets_in_text_are_no_nesting(self) -> None:
        """
        A message full of brackets and quotes is a message.
        """
        text = '[{"\\' * 1000
        self.assertEqual([text], [str(answered(a_message(), {"body": text}).stanzas[0].body)])
        many = answered(a_message(), [{"body": "x"}] * 100)
        self.assertEqual(100, len(many.stanzas))

    def test_unfinished_text_does_not_take_long(self) -> None:
        """
        A megabyte of quotes that never end is refused like anything else that does not parse.
        """
        for tail in (rb"\"" * 500_000, rb'"\\' * 300_000, b"\\" * 999_999):
            self.assert_refused(verdict_of(a_message(), b"[" * 65 + b'"' + tail))

    def test_last_of_duplicate_keys_wins(self) -> None:
        """
        A key given twice has its last value, be that null.
        """
        self.assertEqual("two", str(verdict_of(a_message(), b'{"body": "one", "body": "two"}').stanzas[0].body))
        self.assert_silent(verdict_of(a_message(), b'{"body": "one", "body": null}'))

    def test_lone_surrogates(self) -> None:
        """
        Half a character becomes U+FFFD; both halves are the character.
        """
        verdict = verdict_of(a_message(), rb'{"body": "\ud800 \udc00 \ud83d\ude00", "id": "\udfff"}')
        self.assertEqual("\ufffd \ufffd 😀", str(verdict.stanzas[0].body))
        self.assertEqual("\ufffd", verdict.stanzas[0]["id"])

    def test_several_replies(self) -> None:
        """
        An array is sent in its order; members that say nothing are passed over.
        """
        verdict = answered(a_message(), [{"body": "1"}, None, {"body": "2"}, {}, {"body": "3"}])
        self.assertEqual(["1", "2", "3"], [str(element.body) for element in verdict.stanzas])

    def test_one_bad_member_refuses_all(self) -> None:
        """
        Nothing of an answer is sent when a part of it cannot be.
        """
        self.assert_refused(answered(a_message(), [{"body": "1"}, {"body": "2", "type": "bogus"}]))

    def test_too_many_replies(self) -> None:
        """
        A thousand stanzas may answer one, and no more.
        """
        self.assertEqual(MAX_REPLIES, len(answered(a_message(), [{"body": "x"}] * MAX_REPLIES).stanzas))
        self.assert_refused(answered(a_message(), [{"body": "x"}] * (MAX_REPLIES + 1)), "more than")
        self.assert_refused(answered(a_message(), {"stanza": "<message/>" * (MAX_REPLIES + 1)}), "more than")
        pairs = [{"stanza": "<message/><message/>"}] * (MAX_REPLIES // 2)
        self.assertEqual(MAX_REPLIES, len(answered(a_message(), pairs).stanzas))
        self.assert_refused(answered(a_message(), [*pairs, {"body": "x"}]), "more than")
        self.assert_refused(answered(a_message(), [{"body": "x"}, *pairs]), "more than")

    def test_too_many_elements(self) -> None:
        """
        The stanzas of one answer may be of thirty thousand elements in all, and of no more.
        """
        full = "<message>" + "<a/>" * 9999 + "</message>"
        self.assertEqual(MAX_ELEMENTS // 10_000, len(answered(a_message(), {"stanza": full * 3}).stanzas))
        self.assert_refused(answered(a_message(), {"stanza": f"{full * 3}<message/>"}), "elements in one answer")
        self.assert_refused(answered(a_message(), [{"stanza": full}] * 4), "elements in one answer")

    def test_long_addresses_are_taken_apart_once(self) -> None:
        """
        A hundred replies with long addresses of their own cost as much each as twenty.
        """

        def work(replies: int, prefix: str) -> int:
            objects = [{"from": f"{prefix * 300}{number}@bot.localhost", "body": "x"} for number in range(replies)]
            return calls(lambda: self.assertEqual("replied", answered(a_message(), objects).outcome))

        self.assertLess(work(100, "\u03b1"), 5.5 * work(20, "\u03b2"))

    def test_what_is_too_much_is_not_read(self) -> None:
        """
        Of an answer with too many stanzas no more are read than may be in it.
        """

        def reading(stanzas: int) -> int:
            xml = "".join(f"<message to='a@b.c/{'é' * 15}{number}'><a/></message>" for number in range(stanzas))
            return calls(lambda: self.assert_refused(answered(a_message(), {"stanza": xml}), "more than"))

        self.assertLess(reading(8 * MAX_REPLIES), 1.2 * reading(MAX_REPLIES + 1))


class PropertyTests(ReadingTestCase):
    """Each property has its type and its place."""

    def test_defaults(self) -> None:
        """
        A body is enough: it goes back as a chat message with an id of its own.
        """
        self.assertEqual(
            f"<message from='{BOT}' id='fresh-0' to='{ALICE}' type='chat'><body>pong</body></message>",
            reply_to(a_message(), {"body": "pong"}),
        )

    def test_numbers_and_booleans_as_body(self) -> None:
        """
        A number or boolean is sent as it was written, to the last digit.
        """
        for written in ("42", "-0", "1e5", "1.0", "12345678901234567890123", "1" * 10_000, "1E400", "true", "false"):
            verdict = verdict_of(a_message(), b'{"body": %s}' % written.encode())
            self.assertEqual(written, str(verdict.stanzas[0].body))

    def test_message_properties(self) -> None:
        """
        Everything a message can have, as XML.
        """
        self.assertEqual(
            f"<message from='{BOT}' id='x1' to='{ALICE}' type='normal' xml:lang='fr'><subject>S</subject>"
            "<body>B &lt;&amp;&gt;</body><thread>T</thread>"
            "<nick xmlns='http://jabber.org/protocol/nick'>Bot</nick><paused xmlns='http://jabber.org/protocol/chatstates'/>"
            "<x xmlns='jabber:x:oob'><url>https://example.org/?a&amp;b</url></x>"
            "<replace xmlns='urn:xmpp:message-correct:0' id='m0'/>"
            "<reply xmlns='urn:xmpp:reply:0' id='m1' to='alice@example.org'/></message>",
            reply_to(
                a_message(),
                {
                    "kind": "message",
                    "type": "normal",
                    "id": "x1",
                    "lang": "fr",
                    "subject": "S",
                    "body": "B <&>",
                    "thread": "T",
                    "nick": "Bot",
                    "state": "paused",
                    "oob_url": "https://example.org/?a&b",
                    "replace": "m0",
                    "reply": {"id": "m1", "to": "Alice@example.org"},
                    "unknown": [1],
                },
            ),
        )

    def test_presence_properties(self) -> None:
        """
        Everything a presence can have; `available` is the presence without a type.
        """
        reply = {
            "kind": "presence",
            "type": "available",
            "show": "dnd",
            "status": "Busy",
            "priority": -128,
            "nick": "B",
        }
        self.assertEqual(
            f"<presence from='{BOT}' id='fresh-0' to='{ALICE}'><show>dnd</show><status>Busy</status>"
            "<priority>-128</priority><nick xmlns='http://jabber.org/protocol/nick'>B</nick></presence>",
            reply_to(a_presence(), reply),
        )

    def test_wrong_types(self) -> None:
        """
        A property of the wrong type refuses the answer, and the note names it.
        """
        texts = (
            "to",
            "from",
            "kind",
            "type",
            "id",
            "subject",
            "thread",
            "lang",
            "show",
            "status",
            "state",
            "oob_url",
            "nick",
        )
        wrong: list[tuple[tuple[str, ...], str, tuple[object, ...]]] = [
            ((*texts, "replace", "stanza"), "a string", (1, True, [], ["x"], {}, {"x": "y"})),
            (("body",), "a string, a number or a boolean", ([], ["x"], {}, {"text": "x"})),
            (("priority",), "a number", ("1", True, [], {})),
            (("reply", "error"), "an object", ("m1", 1, ["m1"], [])),
        ]
        for names, wanted, values in wrong:
            for name in names:
                for value in values:
                    self.assert_refused(answered(a_message(), {"body": "x", name: value}), f"{name}: not {wanted}")
        self.assert_refused(answered(a_message(), {"reply": {"id": 1}}), "reply.id: not a string")
        self.assert_refused(answered(a_message(), {"error": {"condition": 1}}), "error.condition: not a string")

    def test_unknown_values(self) -> None:
        """
        A kind, type, state, show, priority or condition that XMPP does not have refuses the answer.
        """
        for reply, name in (
            ({"kind": "bogus"}, "kind"),
            ({"kind": ""}, "kind"),
            ({"type": "bogus"}, "type"),
            ({"type": ""}, "type"),
            ({"type": "available"}, "type"),
            ({"kind": "presence", "type": "chat"}, "type"),
            ({"kind": "presence", "show": "online"}, "show"),
            ({"kind": "presence", "priority": 128}, "priority"),
            ({"kind": "presence", "priority": 1.0}, "priority"),
            ({"kind": "iq", "type": "chat"}, "type"),
            ({"kind": "iq"}, "type"),
            ({"state": "dancing"}, "state"),
            ({"state": "a><b"}, "state"),
            ({"reply": {"to": "a@b"}}, "reply.id"),
            ({"reply": {"id": "1", "to": "a@b..c"}}, "reply.to"),
            ({"error": {"condition": "teapot"}}, "error.condition"),
            ({"error": {"type": "fatal"}}, "error.type"),
        ):
            self.assert_refused(answered(a_message(), reply), f"{name}: ")
        huge = b'{"kind": "presence", "priority": 1%s}' % (b"0" * 5000)
        self.assert_refused(verdict_of(a_message(), huge), "priority: ")

    def test_what_a_kind_lacks_is_left_out(self) -> None:
        """
        A show in a message, and a body in a presence or in an iq, are passed over.
        """
        self.assertEqual(
            f"<message from='{BOT}' id='fresh-0' to='{ALICE}' type='chat'><body>x</body></message>",
            reply_to(a_message(), {"body": "x", "show": "away", "status": "s", "priority": 1}),
        )
        self.assertEqual(
            f"<presence from='{BOT}' id='fresh-0' to='{ALICE}'/>",
            reply_to(a_message(), {"kind": "presence", "body": "x", "subject": "s"}),
        )

    def test_notes_keep_quiet(self) -> None:
        """
        What a note says of an answer holds nothing out of it.
        """
        for reply in (
            {"body": {"secret": 1}},
            {"type": "secret"},
            {"kind": "secret"},
            {"to": "secret@secret..secret"},
            {"from": "secret@secret.example", "body": "secret"},
            {"state": "secret"},
            {"error": {"condition": "secret"}},
            {"stanza": "<message><body>secret</message>"},
            {"stanza": "<message type='secret'/>"},
            {"secret": "secret", "text": "secret"},
            "secret",
        ):
            self.assertNotIn("secret", answered(a_message(), reply).note or "")


class ThreadTests(ReadingTestCase):
    """A reply stays in the thread of its message (XEP-0201 section 3.2)."""

    def thread_of(self, reply: object, **message: str) -> str | None:
        stanza = evolve(a_message(**message), thread="t1")
        [element] = answered(stanza, reply).stanzas
        thread = next(element.elements(NS_COMPONENT, "thread"), None)
        return None if thread is None else str(thread)

    def test_kept(self) -> None:
        """
        A reply to whoever wrote is in the thread of the message, in a room too, and so is a chat state.
        """
        for reply in (
            {"body": "x"},
            {"body": "x", "thread": None},
            {"body": "x", "to": "alice@example.org"},
            {"body": "x", "from": f"{BOT}/default"},
            {"body": "x", "type": "normal"},
            {"state": "composing"},
        ):
            self.assertEqual("t1", self.thread_of(reply), reply)
        room = {"type": "groupchat", "sender": "room@rooms.example.org/alice"}
        for reply in ({"body": "x"}, {"body": "x", "type": "chat"}, {"body": "x", "subject": "s"}):
            self.assertEqual("t1", self.thread_of(reply, **room), reply)

    def test_own(self) -> None:
        """
        A reply can name another thread, and with "" none.
        """
        self.assertEqual("t2", self.thread_of({"body": "x", "thread": "t2"}))
        self.assertEqual(None, self.thread_of({"body": "x", "thread": ""}))

    def test_not_kept(self) -> None:
        """
        What goes to somebody else, or comes from another address, is in no thread; nor is XML, or an error.
        """
        for reply in (
            {"body": "x", "to": "bob@example.org"},
            {"body": "x", "from": "other@bot.localhost"},
            {"stanza": "<message><body>x</body></message>"},
            {"error": {"condition": "gone"}},
        ):
            self.assertEqual(None, self.thread_of(reply), reply)

    def test_subject_of_a_room(self) -> None:
        """
        A bot can change the subject of a room in answer to a message in a thread, which a thread would prevent.
        """
        reply = {"subject": "Lunch"}
        self.assertEqual(None, self.thread_of(reply, type="groupchat", sender="room@rooms.example.org/alice"))


class AddressTests(ReadingTestCase):
    """Who a reply goes to, and who it comes from."""

    def test_given_addresses(self) -> None:
        """
        A reply may go to anybody, from any address of the component; both are normalised.
        """
        self.assertEqual(
            "<message from='x@bot.localhost/R' id='fresh-0' to='bob@example.org' type='chat'><body>x</body></message>",
            reply_to(a_message(), {"to": "BOB@example.org", "from": "x@BOT.localhost/R", "body": "x"}),
        )

    def test_foreign_sender(self) -> None:
        """
        Nothing is sent in the name of another domain, however similar.
        """
        for sender in (
            "evil@elsewhere.example",
            ALICE,
            "bot@sub.bot.localhost",
            "bot@localhost",
            "bot.localhost@evil.example",
            "bot@evil.example/bot.localhost",
        ):
            for reply in ({"from": sender, "body": "x"}, {"stanza": f"<message from='{sender}'/>"}):
                self.assert_refused(answered(a_message(), reply), "from: not an address of bot.localhost")

    def test_not_an_address(self) -> None:
        """
        What is no address refuses the answer, in properties and in XML.
        """
        for text in ("", "a@b..c", "@", "a" * 4000, "a b@c", "a@b/\x00", "a@b/\ud800"):
            for name in ("to", "from"):
                self.assert_refused(answered(a_message(), {name: text, "body": "x"}), f"{name}: not an address")
        for text in ("", "a@b..c"):
            for name in ("to", "from"):
                reply = {"stanza": f"<message {name}='{text}'/>"}
                self.assert_refused(answered(a_message(), reply), f"stanza: {name}: not an address")

    def test_echo(self) -> None:
        """
        A bot that gives back the addresses it got means its sender; they are compared normalised.
        """
        expected = f"<message from='{BOT}' id='fresh-0' to='{ALICE}' type='chat'><body>x</body></message>"
        self.assertEqual(expected, reply_to(a_message(), {"to": BOT, "from": ALICE, "body": "x"}))
        echo = {"to": "BOT@Bot.Localhost", "from": "Alice@Example.Org/phone", "body": "x"}
        self.assertEqual(expected, reply_to(a_message(), echo))

    def test_half_an_echo(self) -> None:
        """
        One echoed address alone is taken at its word.
        """
        self.assertIn(f"to='{BOT}'", reply_to(a_message(), {"to": BOT, "body": "x"}))
        self.assert_refused(answered(a_message(), {"from": ALICE, "body": "x"}))

    def test_echo_of_everything(self) -> None:
        """
        A bot that gives back the whole request talks to its sender, and its XML is no forgery.
        """
        for stanza in (a_message(), a_message("groupchat", sender="room@muc.example/nick"), a_presence("probe")):
            verdict = answered(stanza, request_properties(stanza))
            self.assertEqual("replied", verdict.outcome)
            self.assertEqual(BOT, verdict.stanzas[0]["from"])
            self.assertEqual(str(stanza.sender.bare), str(Address.parse(verdict.stanzas[0]["to"]).bare))

    def test_domain_is_compared_normalised(self) -> None:
        """
        A component whose settings write its domain in capitals is still that component.
        """
        verdict = judge(
            a_message(),
            Response(200, JSON, b'{"body": "x"}'),
            domain="Bot.Localhost",
            limits=Limits(),
            new_id=lambda: "1",
        )
        self.assertEqual("replied", verdict.outcome)


PRIVATE = (
    f"<message from='{BOT}' id='fresh-0' to='room@muc.example/nick' type='chat'><body>x</body>"
    "<x xmlns='http://jabber.org/protocol/muc#user'/></message>"
)


class RoomTests(ReadingTestCase):
    """A bot in a room talks to the room, and never sends an error into it."""

    def setUp(self) -> None:
        self.said = a_message("groupchat", sender="room@muc.example/nick")
        self.whispered = a_message(
            "chat", "<body>psst</body><x xmlns='http://jabber.org/protocol/muc#user'/>", "room@muc.example/nick"
        )

    def test_answer_goes_to_the_room(self) -> None:
        """
        A groupchat message is answered to the bare address of the room, as groupchat.
        """
        expected = f"<message from='{BOT}' id='fresh-0' to='room@muc.example' type='groupchat'><body>x</body></message>"
        for reply in (
            {"body": "x"},
            {"body": "x", "type": "groupchat"},
            {"body": "x", "to": "room@muc.example/nick"},
            {"body": "x", "to": "room@muc.example", "from": BOT},
            {"body": "x", "to": BOT, "from": "room@muc.example/nick"},
        ):
            self.assertEqual(expected, reply_to(self.said, reply))

    def test_whisper_to_an_occupant(self) -> None:
        """
        With type chat the answer goes to the occupant alone, marked as a private message.
        """
        self.assertEqual(PRIVATE, reply_to(self.said, {"body": "x", "type": "chat"}))

    def test_answer_to_a_whisper(self) -> None:
        """
        A private message in a room is answered to the occupant it came from, marked likewise.
        """
        self.assertEqual(PRIVATE, reply_to(self.whispered, {"body": "x"}))

    def test_which_answers_are_marked(self) -> None:
        """
        A mark is on what goes to an occupant of the room by properties, and on nothing else.
        """
        came = a_stanza(
            f"<presence from='room@muc.example/nick' to='{BOT}'><x xmlns='http://jabber.org/protocol/muc#user'/></presence>"
        )
        for stanza in (self.said, self.whispered, came):
            for reply in (
                {"body": "x", "type": "chat", "to": "room@muc.example/other"},
                {"body": "x", "type": "normal", "to": "room@muc.example/other"},
                {"kind": "message", "state": "composing", "type": "chat"},
            ):
                self.assertIn("muc#user", reply_to(stanza, reply))
            for reply in (
                {"body": "x", "type": "groupchat", "to": "room@muc.example"},
                {"body": "x", "type": "chat", "to": "room@muc.example"},
                {"body": "x", "type": "chat", "to": "alice@example.org/phone"},
                {"kind": "presence", "status": "x", "to": "room@muc.example/other"},
                {"stanza": "<message type='chat'><body>x</body></message>"},
            ):
                self.assertNotIn("muc#user", reply_to(stanza, reply))
        self.assertNotIn("muc#user", reply_to(a_message(), {"body": "x"}))

    def test_message_to_somebody_else(self) -> None:
        """
        What is sent elsewhere because of a room's message is a chat message.
        """
        self.assertEqual(
            f"<message from='{BOT}' id='fresh-0' to='admin@example.org' type='chat'><body>x</body></message>",
            reply_to(self.said, {"body": "x", "to": "admin@example.org"}),
        )

    def test_xml_to_the_room(self) -> None:
        """
        XML of type groupchat without an address goes to the room; an address it has is kept.
        """
        self.assertIn("to='room@muc.example'", reply_to(self.said, {"stanza": "<message type='groupchat'/>"}))
        other = "<message type='groupchat' to='other@muc.example'/>"
        self.assertIn("to='other@muc.example'", reply_to(self.said, {"stanza": other}))

    def test_no_error_into_a_room(self) -> None:
        """
        An error that would get the bot thrown out is refused, however it is written.
        """
        for stanza in (self.said, self.whispered, a_message("headline"), a_presence("probe")):
            kind = stanza.kind
            for reply in (
                {"kind": kind, "type": "error"},
                {"kind": kind, "error": {"condition": "forbidden"}},
                {"kind": kind, "type": "error", "to": str(stanza.sender.bare)},
                {"stanza": f"<{kind} type='error'/>"},
            ):
                self.assert_refused(answered(stanza, reply), "type: ")
            self.assertEqual((), verdict_of(stanza, status=500).stanzas)


class ErrorReplyTests(ReadingTestCase):
    """A bot says no the XMPP way."""

    def test_body_is_the_text(self) -> None:
        """
        An error that says no more is an undefined one, with the body as its text and the id of the request.
        """
        verdict = answered(a_message(), {"type": "error", "body": 42, "id": "other", "subject": "S"})
        self.assertEqual(("cancel", "undefined-condition", "42"), error_of(verdict))
        self.assertEqual("m1", verdict.stanzas[0]["id"])
        self.assertEqual(1, len(verdict.stanzas[0].children))

    def test_condition(self) -> None:
        """
        A condition brings its type with it; both and the text can be said.
        """
        for error, expected in (
            ({"condition": "not-authorized"}, ("auth", "not-authorized", "body")),
            ({"condition": "gone", "type": "modify", "text": "T <&>"}, ("modify", "gone", "T <&>")),
            ({"type": "wait", "by": "a@b"}, ("wait", "undefined-condition", "body")),
        ):
            reply = {"error": error, "body": "body"}
            self.assertEqual(expected, error_of(answered(a_message(), reply)))
            self.assertEqual(expected, error_of(answered(a_message(), {**reply, "type": "error"})))

    def test_type_decides(self) -> None:
        """
        With another type the error is passed over, and null or {} is none.
        """
        others: tuple[dict[str, object], ...] = (
            {"type": "chat", "error": {"condition": "gone"}},
            {"error": None},
            {"error": {}},
        )
        for reply in others:
            self.assertIn("type='chat'><body>x</body></message>", reply_to(a_message(), {"body": "x", **reply}))

    def test_error_for_somebody_else(self) -> None:
        """
        An error that goes elsewhere has the id it was given.
        """
        self.assertIn("id='z'", reply_to(a_message(), {"type": "error", "to": "bob@example.org", "id": "z"}))

    def test_no_id_to_answer(self) -> None:
        """
        The error for a message without an id has none.
        """
        stanza = a_stanza(f"<message from='{ALICE}' to='{BOT}'/>")
        self.assertFalse(answered(stanza, {"type": "error"}).stanzas[0].hasAttribute("id"))


class XmlTests(ReadingTestCase):
    """`stanza` is sent as it is."""

    def test_as_it_is(self) -> None:
        """
        XML that says everything is sent unchanged, and everything beside it is passed over.
        """
        payload = "<body>raw</body><x xmlns='urn:example'/>"
        xml = f"<message from='x@bot.localhost' id='z' to='b@b' type='headline'>{payload}</message>"
        reply = {"stanza": xml, "body": "no", "to": "a@b..c", "kind": "bogus", "type": "bogus"}
        self.assertEqual(xml, reply_to(a_message(), reply))

    def test_what_is_missing_is_filled_in(self) -> None:
        """
        Addresses and id are added, a type is not.
        """
        self.assertEqual(
            f"<message from='{BOT}' id='fresh-0' to='{ALICE}'><body>raw</body></message>",
            reply_to(a_message(), {"stanza": "<message><body>raw</body></message>"}),
        )

    def test_namespaces_of_stanzas(self) -> None:
        """
        No namespace, jabber:client and the component's own are the same.
        """
        for namespace in ("", " xmlns='jabber:client'", " xmlns='jabber:component:accept'"):
            xml = f"<message{namespace}><body>x</body></message>"
            self.assertEqual(
                f"<message from='{BOT}' id='fresh-0' to='{ALICE}'><body>x</body></message>",
                reply_to(a_message(), {"stanza": xml}),
            )

    def test_several(self) -> None:
        """
        Several stanzas are sent in order, each with an id of its own.
        """
        verdict = answered(a_message(), {"stanza": " <message/>\n<presence/><iq type='get'><q xmlns='urn:x'/></iq> "})
        self.assertEqual(
            [("message", "fresh-0"), ("presence", "fresh-1"), ("iq", "fresh-2")],
            [(element.name, element["id"]) for element in verdict.stanzas],
        )

    def test_refused_xml(self) -> None:
        """
        XML that is broken, is no stanza, or holds what a stream may not, is refused.
        """
        declaration = "<!DOCTYPE message><message/>"
        for xml in (
            "",
            " ",
            "text",
            "<message>",
            "<message/>text",
            "<foo/>",
            "<message xmlns='urn:other'/>",
            "<message/><foo/>",
            "<message type='bogus'/>",
            "<message type=''/>",
            "<presence type='available'/>",
            "<iq/>",
            "<iq type='chat'/>",
            "<message><!-- x --></message>",
            "<message><?x y?></message>",
            "<message>&undefined;</message>",
            declaration,
            "<message>" + "<a>" * 64 + "</a>" * 64 + "</message>",
            "<a:message/>",
        ):
            self.assert_refused(answered(a_message(), {"stanza": xml}), "stanza: ")

    def test_forbidden_characters(self) -> None:
        """
        Characters that XML forbids become U+FFFD, in text and in attributes, composed and written.
        """
        self.assertIn("<body>a\ufffdb</body>", reply_to(a_message(), {"body": "a\x0bb"}))
        self.assertIn("id='a\ufffdb'", reply_to(a_message(), {"id": "a\x0bb", "body": "x"}))
        written = reply_to(a_message(), {"stanza": "<message id='a\x0bb'><body>a\ufffeb</body></message>"})
        self.assertIn("id='a\ufffdb'", written)
        self.assertIn("<body>a\ufffdb</body>", written)


class SizeTests(ReadingTestCase):
    """No stanza leaves that is larger than the server takes."""

    def test_largest_that_fits(self) -> None:
        """
        A stanza of exactly the limit is sent, one byte more is refused.
        """
        for text in ("x", "é", "x" * 19 + "&"):
            empty = len(reply_to(a_message(), {"body": ""}).encode()) - len("<body/>") + len("<body></body>")
            fits = Limits(max_bytes=empty + 40 * len(text.replace("&", "&amp;").encode()))
            for length, outcome in ((40, "replied"), (41, "refused_reply")):
                body = json.dumps({"body": text * length}).encode()
                self.assertEqual(outcome, verdict_of(a_message(), body, limits=fits).outcome)

    def test_large_xml(self) -> None:
        """
        The same holds for XML, and for the last of many.
        """
        large = {"stanza": f"<message><body>{'x' * 300_000}</body></message>"}
        self.assert_refused(answered(a_message(), large), "stanza: ")
        self.assert_refused(answered(a_message(), [{"body": "x"}, {"body": "x" * 300_000}]), "larger than 262144 bytes")


class IqTests(ReadingTestCase):
    """An iq get or set is always answered, once, with its id."""

    RESULT = f"<iq from='{BOT}' id='i1' to='{ALICE}' type='result'/>"
    UNAVAILABLE = ("cancel", "service-unavailable", None)
    INTERNAL = ("cancel", "internal-server-error", None)

    def test_empty_result(self) -> None:
        """
        No content, {}, [], null and what says nothing of its own are a result with nothing in it.
        """
        self.assertEqual([self.RESULT], sent(verdict_of(an_iq("set"), status=204)))
        empty: tuple[object, ...] = ({}, [], None, [{}], {"ok": True}, {"body": "ignored"})
        for reply in (
            *empty,
            {"kind": "iq"},
            {"type": "result"},
            {"id": "other"},
            {"from": "other@bot.localhost/x"},
            {"to": BOT, "from": ALICE},
        ):
            self.assertEqual(self.RESULT, reply_to(an_iq(), reply))

    def test_written_result(self) -> None:
        """
        A result as XML gets the id of the request whatever it says, and its addresses.
        """
        xml = "<iq type='result' id='zzz'><query xmlns='urn:example'><item/></query></iq>"
        self.assertEqual(
            f"<iq from='{BOT}' id='i1' to='{ALICE}' type='result'><query xmlns='urn:example'><item/></query></iq>",
            reply_to(an_iq(), {"stanza": xml}),
        )

    def test_error(self) -> None:
        """
        An error answers too, in both ways of writing it; the body is not its text.
        """
        reply = {"error": {"condition": "item-not-found", "text": "T"}, "body": "no"}
        self.assertEqual(("cancel", "item-not-found", "T"), error_of(answered(an_iq(), reply)))
        self.assertEqual(
            ("cancel", "undefined-condition", None), error_of(answered(an_iq(), {"type": "error", "body": "x"}))
        )
        written = answered(an_iq(), {"stanza": f"<iq type='error' to='{ALICE}'/>"})
        self.assertEqual(["replied", "i1"], [written.outcome, written.stanzas[0]["id"]])

    def test_no_usable_answer(self) -> None:
        """
        Success without an answer is a service that is not available.
        """
        html = {"content-type": "text/html"}
        for verdict in (
            verdict_of(an_iq(), b""),
            verdict_of(an_iq(), b"<html>", headers=html),
            verdict_of(an_iq(), None, headers=html),
            verdict_of(an_iq(), b'{"type": "result"}', status=201),
            verdict_of(an_iq(), b"", status=202),
        ):
            self.assertEqual(("bounced", self.UNAVAILABLE), (verdict.outcome, error_of(verdict)))
            self.assertTrue(verdict.note)

    def test_refused_answer(self) -> None:
        """
        An answer that cannot be used is the bot's own fault, and the asker is told that much.
        """
        for reply in (
            "x",
            {"type": "bogus"},
            {"from": "a@b"},
            {"stanza": "<"},
            [{"type": "result"}, {"type": "error"}],
        ):
            verdict = answered(an_iq(), reply)
            self.assertEqual(("refused_reply", self.INTERNAL), (verdict.outcome, error_of(verdict)))
            self.assertEqual("i1", verdict.stanzas[0]["id"])

    def test_others_may_accompany_the_answer(self) -> None:
        """
        Messages, and iqs to others or of type set, are sent along in their place.
        """
        verdict = answered(
            an_iq(),
            [
                {"kind": "message", "body": "1"},
                {},
                {"type": "result"},
                {"type": "set"},
                {"type": "result", "to": "bob@b"},
            ],
        )
        self.assertEqual("replied", verdict.outcome)
        self.assertEqual(
            [("message", "fresh-0"), ("iq", "i1"), ("iq", "fresh-1"), ("iq", "fresh-2")],
            [(element.name, element["id"]) for element in verdict.stanzas],
        )

    def test_only_others(self) -> None:
        """
        When nothing of what is sent answers the iq, an error does, at the end.
        """
        verdict = answered(an_iq(), [{"kind": "message", "body": "1"}, {"type": "result", "to": "alice@example.org"}])
        self.assertEqual(("bounced", 3), (verdict.outcome, len(verdict.stanzas)))
        self.assertEqual(self.UNAVAILABLE, error_of(Verdict("bounced", verdict.stanzas[-1:])))

    def test_failed_delivery(self) -> None:
        """
        A status of failure is told like to anybody else.
        """
        self.assertEqual(("cancel", "item-not-found", None), error_of(verdict_of(an_iq(), status=404)))

    def test_results_are_never_answered(self) -> None:
        """
        What a webhook says to a result or an error goes nowhere; JSON that does not parse is still a mistake.
        """
        for stanza in (an_iq("result"), an_iq("error"), a_message("error"), a_presence("error")):
            for body in (b'{"body": "x"}', b'{"type": "bogus"}'):
                self.assert_silent(verdict_of(stanza, body))
            unreadable = verdict_of(stanza, b"{")
            self.assertEqual(("refused_reply", ()), (unreadable.outcome, unreadable.stanzas))
            self.assertEqual(
                ("bounced", ()), (verdict_of(stanza, status=500).outcome, verdict_of(stanza, status=500).stanzas)
            )


class FailureTests(ReadingTestCase):
    """What the sender is told when delivery fails."""

    def test_status(self) -> None:
        """
        The status decides, the body does not matter, and the settings come first.
        """
        verdict = verdict_of(a_message(), b'{"body": "x"}', status=503)
        self.assertEqual("bounced", verdict.outcome)
        self.assertEqual(("wait", "remote-server-timeout", "Service temporarily unavailable"), error_of(verdict))
        mine = {503: StanzaError("wait", "recipient-unavailable", "Asleep")}
        changed = verdict_of(a_message(), status=503, status_errors=mine)
        self.assertEqual(("wait", "recipient-unavailable", "Asleep"), error_of(changed))

    def test_redirect(self) -> None:
        """
        A redirect is an error, and the note says that the URL is wrong without saying where it leads.
        """
        verdict = verdict_of(a_message(), status=303, headers={"location": "http://secret.example/"})
        self.assertEqual(("cancel", "service-unavailable", None), error_of(verdict))
        self.assertIn("303", verdict.note or "")
        self.assertIn("the URL is wrong", verdict.note or "")
        self.assertNotIn("secret", verdict.note or "")

    def test_odd_statuses(self) -> None:
        """
        Any number can be a status.
        """
        for status in (-1, 0, 100, 199, 300, 600, 999, 10**9):
            self.assertEqual("bounced", verdict_of(a_message(), status=status).outcome)

    def test_no_response(self) -> None:
        """
        Whoever may be told is told, an iq always.
        """
        self.assertEqual(
            ("wait", "remote-server-timeout", "Connection failure"),
            error_of(give_up(a_message(), CONNECTION_FAILURE, "refused")),
        )
        self.assertEqual(("wait", "service-unavailable", None), error_of(give_up(an_iq(), STOPPING, "stopping")))
        silent = give_up(a_message("headline"), STOPPING, "stopping")
        self.assertEqual(("bounced", (), "stopping"), (silent.outcome, silent.stanzas, silent.note))


TEXTS = st.one_of(
    st.text(st.characters(blacklist_categories=())),
    st.sampled_from(
        [
            ALICE,
            BOT,
            "bot.localhost",
            "a@b..c",
            "error",
            "result",
            "chat",
            "iq",
            "message",
            "presence",
            "composing",
            "gone",
        ]
    ),
)
XML = st.one_of(
    TEXTS,
    st.builds(
        "<{0} type='{1}' to='{2}' from='{3}'>{4}</{0}>".format,
        st.sampled_from(["message", "presence", "iq", "foo"]),
        st.sampled_from([*sorted(set().union(*TYPES.values())), "bogus"]),
        st.sampled_from([ALICE, BOT, "bob@example.org", "a@b..c"]),
        st.sampled_from([ALICE, BOT, "x@bot.localhost/r"]),
        st.sampled_from(["", "<body>x</body>", "<a xmlns='urn:x' b='c'/>", "<", "&#0;"]),
    ),
    st.sampled_from(["<iq type='result'/>", "<iq type='error'/><message/>", "<message/>", "<iq type='result'/>" * 2]),
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(TEXTS, inner)),
    max_leaves=5,
)
KNOWN_VALUES: dict[str, st.SearchStrategy[object]] = {
    "kind": st.sampled_from(["message", "presence", "iq"]),
    "type": st.sampled_from(sorted(set().union(*TYPES.values()))),
    "to": st.sampled_from([ALICE, BOT, "bob@example.org"]),
    "from": st.sampled_from([ALICE, BOT, "x@bot.localhost/r"]),
    "stanza": XML,
    "reply": st.fixed_dictionaries({}, optional={"id": TEXTS, "to": st.sampled_from([ALICE, "a@b..c"])}),
    "error": st.fixed_dictionaries({}, optional={"type": TEXTS, "condition": TEXTS, "text": TEXTS}),
    "state": st.sampled_from(["composing", "paused"]),
    "show": st.sampled_from(["away", "dnd"]),
    "priority": st.integers(-130, 130),
    **dict.fromkeys(["body", "id", "subject", "thread", "lang", "status", "oob_url", "replace"], TEXTS),
}
MOSTLY_RIGHT = st.fixed_dictionaries({}, optional=KNOWN_VALUES)
ANYTHING_KNOWN = st.fixed_dictionaries(
    {}, optional={name: st.one_of(known, VALUES) for name, known in KNOWN_VALUES.items()}
)
REPLIES = st.one_of(MOSTLY_RIGHT, ANYTHING_KNOWN, st.lists(MOSTLY_RIGHT, max_size=4), VALUES)
BODIES = st.one_of(REPLIES.map(lambda reply: json.dumps(reply).encode()), st.binary(), st.none())
STANZAS = st.sampled_from(
    [
        a_message(),
        a_message("groupchat", sender="room@muc.example/nick"),
        a_message("error"),
        a_message("headline"),
        a_presence(),
        a_presence("error"),
        an_iq("get"),
        an_iq("set"),
        an_iq("result"),
    ]
)
STATUSES = st.one_of(st.just(200), st.sampled_from([201, 204, 302, 404, 500]))
HEADERS = st.sampled_from([JSON, JSON, {}, {"content-type": "text/html"}, {**JSON, "content-encoding": "gzip"}])


class AnyAnswerTests(SynchronousTestCase):
    """Whatever a webhook says, the stream lives and the asker is answered."""

    @given(STANZAS, BODIES, STATUSES, HEADERS)
    def test_verdicts_can_be_sent(
        self, stanza: Stanza, body: bytes | None, status: int, headers: Mapping[str, str]
    ) -> None:
        """
        Every answer ends in a verdict, and all it sends is from our domain, to an address, and reads back as it is.
        """
        verdict = verdict_of(stanza, body, status, headers)
        for element in verdict.stanzas:
            self.assert_fit(element)
        if verdict.outcome in ("silent", "refused_reply") and not stanza.is_request:
            self.assertEqual((), verdict.stanzas)
        if not stanza.answerable:
            self.assertEqual((), verdict.stanzas)

    @given(st.sampled_from([an_iq("get"), an_iq("set")]), BODIES, STATUSES, HEADERS)
    def test_every_request_is_answered_once(
        self, stanza: Stanza, body: bytes | None, status: int, headers: Mapping[str, str]
    ) -> None:
        """
        One result or error goes back to the full address that asked, from the one it asked, with the id it gave.
        """
        answers = [
            (element["to"], element["from"], element["id"])
            for element in verdict_of(stanza, body, status, headers).stanzas
            if element.name == "iq" and element["type"] in ("result", "error") and element["to"] == ALICE
        ]
        self.assertEqual([(ALICE, BOT, "i1")], answers)

    def assert_fit(self, element: Element) -> None:
        self.assertEqual("bot.localhost", Address.parse(element["from"]).domain)
        self.assertEqual(element["to"], str(Address.parse(element["to"])))
        self.assertIn(element.name, TYPES)
        self.assertIn(element.getAttribute("type"), {None, *TYPES[element.name]})
        text = serialize(element)
        [again] = parse_stanzas(text, Limits())
        self.assertEqual(text, serialize(again))
        self.assertEqual((element.name, element["to"]), (again.name, again["to"]))
        self.assertTrue(XML_LANG not in element.attributes or again.hasAttribute(XML_LANG))
