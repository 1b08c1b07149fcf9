"""Messages for Slack as text."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from component_http.api.exchange import Problem
from component_http.api.slack import MAX_CHARACTERS, slack_text
from component_http.contract.objects import read_json


def text_of(**payload: object) -> str:
    return slack_text(read_json(json.dumps(payload).encode()))


def plain(text: str) -> dict[str, object]:
    return {"type": "plain_text", "text": text}


def marked(text: str) -> dict[str, object]:
    return {"type": "mrkdwn", "text": text}


class MarkTests(SynchronousTestCase):
    """Slack's marks in a text."""

    def test_mentions(self) -> None:
        """
        People, groups and channels are written as a person would.
        """
        for mark, written in (
            ("<!channel>", "@channel"),
            ("<!here|here>", "@here"),
            ("<!everyone>", "@everyone"),
            ("<@U012AB3CD>", "@U012AB3CD"),
            ("<@U012AB3CD|bob>", "@bob"),
            ("<#C123ABC456|general>", "#general"),
            ("<#C123ABC456|>", "#C123ABC456"),
            ("<!subteam^SAZ94GDB8|@ops>", "@ops"),
            ("<!subteam^SAZ94GDB8>", "@SAZ94GDB8"),
        ):
            self.assertEqual(f"x {written} y", text_of(text=f"x {mark} y"))

    def test_dates(self) -> None:
        """
        A date is what the sender says that it is for who cannot show it, or else the time in UTC.
        """
        for mark, written in (
            ("<!date^1392734382^Posted {date_num}|Posted 2014-02-18>", "Posted 2014-02-18"),
            ("<!date^1392734382^{date}^https://x.example/|then>", "then (https://x.example/)"),
            ("<!date^1392734382^{date}>", "2014-02-18 14:39 UTC"),
            ("<!date^99999999999^{date}>", "5138-11-16 09:46 UTC"),
            ("<!date^soon^{date}|soon>", "soon"),
        ):
            self.assertEqual(written, text_of(text=mark))

    def test_links(self) -> None:
        """
        A link is written with its label, and once where that is the same.
        """
        self.assertEqual(
            "log (https://x.example/?a=1&b=2), https://x.example, Bob (bob@x.example), https://y.example",
            text_of(
                text="<https://x.example/?a=1&amp;b=2|log>, <https://x.example>, <mailto:bob@x.example|Bob>,"
                " <https://y.example|https://y.example>"
            ),
        )

    def test_no_marks(self) -> None:
        """
        What only looks like a mark stays.
        """
        self.assertEqual("load < 5 and > 3, a <", text_of(text="load < 5 and > 3, a <"))
        self.assertEqual("<b> & <", text_of(blocks=[{"type": "header", "text": plain("<b> &amp; &lt;")}]))


class BlockTests(SynchronousTestCase):
    """`blocks`."""

    def test_instead_of_the_text(self) -> None:
        """
        The blocks are the message and the text is not said as well, unless they say nothing.
        """
        section = {"type": "section", "text": marked("built\nhttps://x.example/1")}
        self.assertEqual("built\nhttps://x.example/1", text_of(text="built", blocks=[section]))
        for blocks in ([], [{"type": "divider"}], [{"type": "section"}], [7], None):
            self.assertEqual("built", text_of(text="built", blocks=blocks))

    def test_each(self) -> None:
        """
        Each block says what a person would read in it.
        """
        image = {"type": "image", "image_url": "https://x.example/i.png", "alt_text": "a graph"}
        button = {"type": "button", "text": plain("Open"), "url": "https://x.example"}
        rich = {
            "type": "rich_text",
            "elements": [{"type": "rich_text_section", "elements": [{"type": "text", "text": "r"}]}],
        }
        for block, text in (
            ({"type": "header", "text": plain("Head")}, "Head"),
            ({"type": "section", "text": marked("a"), "fields": [marked("*b*\nc"), plain("d")]}, "a\n*b*\nc\nd"),
            ({"type": "section", "text": marked("a"), "accessory": button}, "a\nOpen (https://x.example)"),
            ({"type": "section", "text": marked("a"), "accessory": image}, "a\na graph (https://x.example/i.png)"),
            ({"type": "context", "elements": [image, marked("<@U1|bob>"), plain("now")]}, "a graph @bob now"),
            ({**image, "title": plain("CPU")}, "CPU\na graph (https://x.example/i.png)"),
            ({"type": "image", "slack_file": {"url": "https://f.example"}, "alt_text": "f"}, "f (https://f.example)"),
            ({"type": "markdown", "text": "**bold** <https://x.example>"}, "**bold** <https://x.example>"),
            (
                {"type": "actions", "elements": [button, {"type": "button", "text": plain("No")}]},
                "Open (https://x.example)",
            ),
            ({"type": "input", "label": plain("Name?")}, "Name?"),
            (
                {"type": "video", "title": plain("T"), "title_url": "https://v.example", "description": plain("d")},
                "T (https://v.example)\nd",
            ),
            (
                {"type": "table", "rows": [[{"type": "raw_text", "text": "a"}, rich], [], 7, [{"text": "b"}]]},
                "a | r\nb",
            ),
            ({"type": "of the future", "text": marked("new")}, "new"),
        ):
            with self.subTest(block=block):
                self.assertEqual(text, text_of(blocks=[block]))

    def test_rich_text(self) -> None:
        """
        Rich text, as Slack's own editor writes it, is read with its lists, quotes and code.
        """

        def part(kind: str, *elements: object, **more: object) -> dict[str, object]:
            return {"type": f"rich_text_{kind}", "elements": list(elements), **more}

        def word(text: str) -> dict[str, object]:
            return {"type": "text", "text": text}

        one, two = part("section", word("one")), part("section", word("two"))
        self.assertEqual(
            "see log (https://x.example) https://y.example \N{PARTY POPPER} :nope: @U1 @S1 #C1 @here then #fff\n"
            "• one\n• two\n"
            "    3. one\n    4. two\n"
            "> one\n> two\n"
            "```\n{code}\n```",
            text_of(
                blocks=[
                    {
                        "type": "rich_text",
                        "elements": [
                            part(
                                "section",
                                word("see "),
                                {"type": "link", "url": "https://x.example", "text": "log"},
                                word(" "),
                                {"type": "link", "url": "https://y.example"},
                                word(" "),
                                {"type": "emoji", "name": "tada", "unicode": "1f389"},
                                word(" "),
                                {"type": "emoji", "name": "nope", "unicode": "ffffff"},
                                word(" "),
                                {"type": "user", "user_id": "U1"},
                                word(" "),
                                {"type": "usergroup", "usergroup_id": "S1"},
                                word(" "),
                                {"type": "channel", "channel_id": "C1"},
                                word(" "),
                                {"type": "broadcast", "range": "here"},
                                word(" "),
                                {"type": "date", "timestamp": 1, "format": "{date}", "fallback": "then"},
                                word(" "),
                                {"type": "color", "value": "#fff"},
                            ),
                            part("list", one, two, style="bullet"),
                            part("list", one, two, style="ordered", indent=2, offset=2),
                            part("quote", word("one\ntwo")),
                            part("preformatted", word("{code}")),
                        ],
                    }
                ]
            ),
        )


class AttachmentTests(SynchronousTestCase):
    """`attachments`."""

    def test_each_part(self) -> None:
        """
        Of an attachment all is said that a person would read, in the order of Slack.
        """
        self.assertEqual(
            "head\npre\nbob (https://bob.example)\nTitle\nhttps://t.example\ntext\nhost: db1\nload: 2.5\nonly a title\n"
            "block\nView (https://v.example)\nhttps://x.example/i.png\nfoot",
            text_of(
                text="head",
                attachments=[
                    {
                        "fallback": "not said",
                        "footer": "foot",
                        "image_url": "https://x.example/i.png",
                        "actions": [{"type": "button", "text": "View", "url": "https://v.example"}, {"text": "No"}],
                        "blocks": [{"type": "section", "text": marked("block")}],
                        "fields": [
                            {"title": "host", "value": "db1"},
                            {"title": "load", "value": 2.5},
                            {"title": "only a title", "value": None},
                            {},
                        ],
                        "text": "text",
                        "title": "Title",
                        "title_link": "https://t.example",
                        "author_name": "bob",
                        "author_link": "https://bob.example",
                        "pretext": "pre",
                        "color": "danger",
                        "ts": 1671148800,
                    }
                ],
            ),
        )

    def test_alone(self) -> None:
        """
        Each part makes a message by itself, and the fallback where there is no other.
        """
        for name in ("fallback", "pretext", "author_name", "title", "title_link", "text", "image_url", "footer"):
            self.assertEqual(f"x-{name}", text_of(attachments=[{name: f"x-{name}"}]))

    def test_title_that_is_its_link(self) -> None:
        """
        A title that is its own link is said once.
        """
        url = "https://x.example"
        self.assertEqual(url, text_of(attachments=[{"title": url, "title_link": url}]))

    def test_as_a_string(self) -> None:
        """
        Attachments and blocks may be JSON in a string, as in the arguments of Slack's API.
        """
        self.assertEqual("t\ninner", text_of(text="t", attachments='[{"text": "inner"}]', blocks=""))


class BadMessageTests(SynchronousTestCase):
    """What is no message, and what is too much of one."""

    def test_refused(self) -> None:
        """
        A message that says nothing, or in no way that Slack has, is refused.
        """
        for payload in (
            {},
            {"text": ""},
            {"text": 5},
            {"text": ["a"]},
            {"attachments": [None]},
            {"attachments": [{}]},
            {"text": "x", "attachments": {"text": "x"}},
            {"text": "x", "attachments": "[{"},
            {"text": "x", "attachments": '"y"'},
            {"text": "x", "blocks": 7},
            {"blocks": ["x"]},
        ):
            error = self.assertRaises(Problem, text_of, **payload)
            self.assertEqual(422, error.status)

    def test_long(self) -> None:
        """
        A text is cut where Slack cuts it.
        """
        for payload in (
            {"text": "x" * 99_999},
            {"username": "u" * 99_999, "text": "x"},
            {"blocks": [{"type": "section", "text": marked("x" * 99)}] * 9999},
        ):
            text = text_of(**payload)
            self.assertEqual((MAX_CHARACTERS, "…"), (len(text), text[-1]))
        self.assertEqual(MAX_CHARACTERS, len(text_of(text="x" * MAX_CHARACTERS)))

    @given(
        st.recursive(
            st.one_of(
                st.none(),
                st.booleans(),
                st.integers(-9, 10**7),
                st.sampled_from(
                    ["", "x", "<!date^1^x>", "<!", "<@|>", "1f389", "rich_text", "section", "rich_text_list"]
                ),
            ),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(
                    st.sampled_from(
                        [
                            *("text", "attachments", "blocks", "fields", "elements", "type", "title", "rows"),
                            *("accessory", "unicode", "indent", "offset", "style", "username", "actions", "url"),
                        ]
                    ),
                    inner,
                    max_size=5,
                ),
            ),
            max_leaves=20,
        )
    )
    def test_whatever_comes(self, payload: Any) -> None:
        """
        Whatever comes makes a text, or is refused.
        """
        try:
            self.assertTrue(slack_text(read_json(json.dumps(payload).encode())))
        except Problem as problem:
            self.assertIn(problem.status, (400, 422))
