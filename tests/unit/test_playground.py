"""How the playground tells its user what happens."""

from __future__ import annotations

import tracemalloc
from io import StringIO

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from component_http.contract.reply import Response
from component_http.contract.stanza import Stanza
from component_http.contract.xml import Limits, parse_stanzas
from component_http.errors import ConnectionFailed
from component_http.operations.terminal import printable
from component_http.playground.lines import LineEditor
from component_http.playground.narrated import NarratedWebhook
from component_http.playground.screen import MAX_SHOWN, Screen
from component_http.playground.words import in_words
from component_http.testing import ScriptedWebhook, json_response


def a_stanza(xml: str) -> Stanza:
    (element,) = parse_stanzas(xml, Limits())
    for name, value in (("from", "bot@bot.localhost/default"), ("to", "you@localhost/playground")):
        if not element.hasAttribute(name):
            element[name] = value
    return Stanza.from_element(element)


class ScreenTests(SynchronousTestCase):
    """What reaches the terminal."""

    def setUp(self) -> None:
        self.out = StringIO()

    def test_a_bot_cannot_steer_the_terminal(self) -> None:
        """
        Control characters and characters that turn the text around are written out instead of sent.
        """
        self.assertEqual("\\x1b[31mred\\x07 \\u202egnp.exe \\x9b2J", printable("\x1b[31mred\x07 \u202egnp.exe \x9b2J"))

    def test_an_address_cannot_steer_the_terminal(self) -> None:
        """
        Nor can the address of who speaks: characters that turn the text around are written out in it, too.
        """
        stanza = a_stanza("<message from='a\u2066b@bot.localhost'><body>\u2067x</body></message>")
        text, style, first = in_words(stanza)
        Screen(self.out).show(text, style, first=first)
        self.assertEqual("a\\u2066b@bot.localhost> \\u2067x\n", self.out.getvalue())

    def test_letters_of_every_language_stay_as_they_are(self) -> None:
        """
        Accents, narrow spaces and families of emoji look as they should.
        """
        for text in ("h\u00e9llo\u202f!", "\u4f60\u597d", "\U0001f468\u200d\U0001f469", "a\n\tb"):
            self.assertEqual(text, printable(text))

    def test_what_is_too_long_is_cut_and_says_so(self) -> None:
        """
        An answer of a megabyte does not scroll everything away.
        """
        Screen(self.out).show("x" * (MAX_SHOWN + 5))
        self.assertTrue(self.out.getvalue().endswith("\n... and 5 more characters\n"))
        self.assertLess(len(self.out.getvalue()), MAX_SHOWN + 100)

    def test_lines_after_the_first_are_indented(self) -> None:
        """
        A reply of two lines reads as one reply.
        """
        Screen(self.out).show("one\ntwo", first="bot> ")
        self.assertEqual("bot> one\n     two\n", self.out.getvalue())

    def test_no_colour_unless_asked_for(self) -> None:
        """
        A file or a pipe gets text and nothing else.
        """
        Screen(self.out).show("oops", "bad")
        self.assertEqual("oops\n", self.out.getvalue())

    def test_colour_where_asked_for(self) -> None:
        """
        On a terminal an error is red.
        """
        Screen(self.out, colour=True).show("oops", "bad")
        self.assertEqual("\x1b[31moops\x1b[0m\n", self.out.getvalue())

    def test_the_row_that_is_typed_stays_below(self) -> None:
        """
        What comes while the user types stands above his line, which is there again as it was.
        """
        screen = Screen(self.out)
        screen.keep_last("you> hel")
        screen.show("one\ntwo", first="bot> ")
        self.assertEqual("\r\x1b[Jyou> hel\r\x1b[Jbot> one\n     two\nyou> hel", self.out.getvalue())
        screen.keep_last("")
        screen.show("three")
        self.assertTrue(self.out.getvalue().endswith("you> hel\r\x1b[Jthree\n"))


UP, DOWN, RIGHT, LEFT = (f"\x1b[{letter}" for letter in "ABCD")


class LineEditorTests(SynchronousTestCase):
    """Typing at a terminal."""

    def setUp(self) -> None:
        self.editor = LineEditor()

    def type(self, *keys: str) -> list[str | None]:
        return [line for part in keys for line in self.editor.press(part)]

    def assertTyped(self, expected: str, *keys: str) -> None:
        """These keys in an empty line leave that; | is the cursor."""
        self.type("\x05\x15", *keys)
        text, cursor = self.editor.text, self.editor.cursor
        self.assertEqual(expected, f"{text[:cursor]}|{text[cursor:]}")

    def test_lines(self) -> None:
        """
        Return finishes a line, and a text of several lines that is pasted is several.
        """
        self.assertEqual(["hello"], self.type("hel", "lo\r"))
        self.assertEqual(["a", "", "\u4f60 b"], self.type("a\n\n\u4f60\tb\nrest"))
        self.assertTyped("rest|", "rest")

    def test_moving(self) -> None:
        """
        Arrows, Home, End and the keys of readline move the cursor, within the line.
        """
        self.assertTyped("he|llo", "hello", LEFT, LEFT, LEFT)
        self.assertTyped("|hello", "hello", LEFT * 9)
        self.assertTyped("hello|", "hello", LEFT, RIGHT * 9)
        for home, end in (("\x1b[H", "\x1b[F"), ("\x1bOH", "\x1bOF"), ("\x1b[1~", "\x1b[4~"), ("\x01", "\x05")):
            self.assertTyped("|hello", "hello", home)
            self.assertTyped("hello|", "hello", home, end)
        self.assertTyped("one |two", "one two", "\x1bb")
        self.assertTyped("|one two", "one two", "\x1b[1;5D" * 2)
        self.assertTyped("one| two", "one two", "\x01\x1bf")

    def test_erasing(self) -> None:
        """
        Backspace, Delete and the keys of readline take away characters, words and ends of the line.
        """
        self.assertTyped("hell|", "hello", "\x7f")
        self.assertTyped("|hello", "hello", "\x01\x7f")
        self.assertTyped("|ello", "hello", "\x01\x1b[3~")
        self.assertTyped("|ello", "hello", "\x01\x04")
        self.assertTyped("one |", "one two", "\x17")
        self.assertTyped("| two", "one two", "\x01\x1bd")
        self.assertTyped("on|", "one two", "\x01" + RIGHT * 2 + "\x0b")
        self.assertTyped("|e two", "one two", "\x01" + RIGHT * 2 + "\x15")

    def test_history(self) -> None:
        """
        The arrows bring back earlier lines, each only once in a row, and then the unfinished one again.
        """
        self.type("one\n", "two\n", "two\n", "  \n", "thr")
        for expected, key in (("two", UP), ("one", UP), ("one", UP), ("two", DOWN), ("thr", DOWN), ("thr", DOWN)):
            self.type(key)
            self.assertEqual(expected, self.editor.text)
        self.assertEqual(["two!"], self.type(UP + "!\n"))
        self.type(UP)
        self.assertEqual("two!", self.editor.text)

    def test_end(self) -> None:
        """
        Ctrl-D leaves where nothing was typed, and nowhere else.
        """
        self.assertEqual([None], self.type("\x04"))
        self.assertEqual([], self.type("a\x04"))

    def test_keys_that_mean_nothing(self) -> None:
        """
        Function keys and control characters leave no trace, nor what a text hides from the eye.
        """
        self.assertTyped("ab|", "a", "\x1b[15~", "\x1bOP", "\x1b[200~", "\x00\x07\x1bz", "\u202e", "b")

    def test_keys_in_pieces(self) -> None:
        """
        A key arrives in as many pieces as it likes.
        """
        self.assertTyped("|ab", "ab", "\x1b", "[", "D", "\x1b[1;", "5D")

    def test_no_line_without_end(self) -> None:
        """
        A text without a line's end that is pasted comes in lines that a stanza can hold, and nothing of it is lost.
        """
        text = "".join(str(number % 10) for number in range(60_000))
        lines = self.type(text, "\n")
        self.assertEqual(text, "".join(line or "" for line in lines))
        self.assertGreater(len(lines), 1)

    def test_a_line_longer_than_the_terminal(self) -> None:
        """
        The part around the cursor is seen, wide characters counted as two columns.
        """
        self.type("0123456789")
        self.assertEqual(("6789", 0), self.editor.visible(4))
        self.type("\x01")
        self.assertEqual(("0123", 4), self.editor.visible(4))
        self.type("\x05\x15", "\u4f60\u597d", LEFT)
        self.assertEqual(("\u4f60\u597d", 2), self.editor.visible(4))
        self.assertEqual(("\u4f60", 0), self.editor.visible(3))


class InWordsTests(SynchronousTestCase):
    """A stanza as a chat client shows it."""

    def assertWords(self, expected: str, xml: str) -> None:
        text, _, first = in_words(a_stanza(xml))
        self.assertEqual(expected, first + text)

    def test_message(self) -> None:
        """
        A reply is its sender and its text.
        """
        self.assertWords("bot@bot.localhost> hi", "<message type='chat'><body>hi</body></message>")

    def test_message_with_more_than_a_text(self) -> None:
        """
        Type, correction, subject and attachment of a message are told.
        """
        self.assertWords(
            "bot@bot.localhost> (headline) (instead of an earlier message) [News] hi (attached: http://a/b.png)",
            "<message type='headline'><subject>News</subject><body>hi</body><replace xmlns='urn:xmpp:message-correct:0'"
            " id='1'/><x xmlns='jabber:x:oob'><url>http://a/b.png</url></x></message>",
        )

    def test_message_without_text(self) -> None:
        """
        A chat state is shown in brackets.
        """
        self.assertWords(
            "bot@bot.localhost> (composing)",
            "<message><composing xmlns='http://jabber.org/protocol/chatstates'/></message>",
        )

    def test_message_to_somebody_else(self) -> None:
        """
        A reply that goes to another address says so.
        """
        self.assertWords(
            "bot@bot.localhost (to bob@localhost)> hi", "<message to='bob@localhost'><body>hi</body></message>"
        )

    def test_error(self) -> None:
        """
        A stanza error is its condition and its text.
        """
        self.assertWords(
            "You would see an error: remote-server-timeout - Connection failure",
            "<message type='error'><error type='wait'><remote-server-timeout"
            " xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/><text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>"
            "Connection failure</text></error></message>",
        )

    def test_presence(self) -> None:
        """
        Presence is told as a sentence, with what the bot says about itself.
        """
        self.assertWords("bot@bot.localhost is online", "<presence/>")
        self.assertWords(
            "bot@bot.localhost is online: away, lunch", "<presence><show>away</show><status>lunch</status></presence>"
        )
        self.assertWords("bot@bot.localhost is in your contacts now", "<presence type='subscribed'/>")

    def test_iq(self) -> None:
        """
        An answer to an iq is its content, or that there is none.
        """
        self.assertWords(
            "bot@bot.localhost answers: <query xmlns='urn:a'>1</query>",
            "<iq type='result' id='1'><query xmlns='urn:a'>1</query></iq>",
        )
        self.assertWords("bot@bot.localhost answers: (an empty result)", "<iq type='result' id='1'/>")


class NarratedWebhookTests(SynchronousTestCase):
    """Watching a POST."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.out = StringIO()

    def post(self, answer: Response | Exception | Deferred[Response]) -> Deferred[Response]:
        self.narrated = NarratedWebhook(
            ScriptedWebhook([answer]), "http://127.0.0.1:8080/", Screen(self.out), self.clock
        )
        headers = {"webhook-id": "d1", "webhook-timestamp": "1700000000", "webhook-attempt": "1"}
        return Deferred.fromCoroutine(self.narrated.post(b'{"body":"hello"}', headers))

    def test_request_is_shown_before_the_answer_is_there(self) -> None:
        """
        While the bot thinks, its author sees what it thinks about.
        """
        self.assertNoResult(self.post(Deferred()))
        self.assertEqual(
            "  --> POST http://127.0.0.1:8080/\n"
            "      Content-Type: application/json\n"
            "      webhook-id: d1\n"
            "      {\n"
            '        "body": "hello"\n'
            "      }\n",
            self.out.getvalue(),
        )
        self.assertEqual(1, self.narrated.under_way)

    def test_answer_is_shown_with_the_time_it_took(self) -> None:
        """
        Status, media type, milliseconds and the JSON over several lines.
        """
        answer: Deferred[Response] = Deferred()
        posted = self.post(answer)
        self.clock.advance(0.012)
        answer.callback(json_response('{"body":"hi"}'))
        self.assertEqual(200, self.successResultOf(posted).status)
        self.assertTrue(
            self.out.getvalue().endswith(
                "  <-- 200 OK (after 12 ms)\n"
                "      Content-Type: application/json\n"
                "      {\n"
                '        "body": "hi"\n'
                "      }\n"
            ),
            self.out.getvalue(),
        )
        self.assertEqual(0, self.narrated.under_way)

    def test_answer_that_is_no_json_is_shown_as_it_is(self) -> None:
        """
        The page of an error is seen by whoever has to mend it.
        """
        self.successResultOf(self.post(Response(299, {"content-type": "text/html"}, b"<p>no\xff</p>")))
        self.assertIn(
            "  <-- 299 (after 0 ms)\n      Content-Type: text/html\n      <p>no\ufffd</p>\n", self.out.getvalue()
        )

    def test_json_of_any_shape_is_shown(self) -> None:
        """
        Numbers too long and lists too deep for a JSON parser are shown as they came.
        """
        for body in (b"9" * 5000, b"[" * 5000 + b"]" * 5000):
            self.successResultOf(self.post(Response(200, {"content-type": "application/json"}, body)))
            self.assertIn(body[:4000].decode(), self.out.getvalue())

    def test_indentation_takes_little_room(self) -> None:
        """
        Lists in lists that would be megabytes of white space are shown as they came, in a moment.
        """
        for depth in (100, 400, 900):
            body = b"[" * depth + b",".join([b"0"] * 2000) + b"]" * depth
            tracemalloc.start()
            self.successResultOf(self.post(Response(200, {"content-type": "application/json"}, body)))
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            self.assertIn(body.decode(), self.out.getvalue())
            self.assertLess(peak, 1 << 20)

    def test_answer_that_was_too_large_to_read_is_told(self) -> None:
        """
        A body over the cap is not shown as an empty one.
        """
        self.successResultOf(self.post(Response(200, {}, None)))
        self.assertIn("larger than the gateway reads", self.out.getvalue())

    def test_no_answer_is_told_and_passed_on(self) -> None:
        """
        The gateway hears of a refused connection as ever, and the user too.
        """
        self.failureResultOf(self.post(ConnectionFailed("connection refused")), ConnectionFailed)
        self.assertIn("  <-- no answer: connection refused (after 0 ms)\n", self.out.getvalue())
        self.assertEqual(0, self.narrated.under_way)

    def test_somebody_can_wait_for_the_end_of_a_post(self) -> None:
        """
        The next line waits until the answer to the one before it is there.
        """
        answer: Deferred[Response] = Deferred()
        self.post(answer)
        ended = Deferred.fromCoroutine(self.narrated.all_ended())
        self.assertNoResult(ended)
        answer.callback(Response(204))
        self.successResultOf(ended)
