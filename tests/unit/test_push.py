"""Reply objects that answer nothing: what a program sends of its own accord."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.xish.domish import Element

from component_http.contract.address import Address
from component_http.contract.composing import MAX_REPLIES, Composed, push
from component_http.contract.objects import read_json, reply_objects
from component_http.contract.xml import Limits, serialize
from component_http.errors import ReplyRefused

DOMAIN = "bot.example.org"


def pushed(*objects: dict[str, Any], sender: str | None = DOMAIN, kind: str = "message") -> Composed:
    ids = count(1)
    return push(
        reply_objects(read_json(json.dumps(objects).encode())),
        domain=DOMAIN,
        limits=Limits(),
        new_id=lambda: f"fresh{next(ids)}",
        sender=None if sender is None else Address.parse(sender),
        kind=kind,
    )


class PushTests(SynchronousTestCase):
    """What becomes of an object that nobody asked for."""

    def only(self, *objects: dict[str, Any], **facts: Any) -> Element:
        [element] = pushed(*objects, **facts).stanzas
        return element

    def refusal(self, *objects: dict[str, Any], **facts: Any) -> str:
        return str(self.assertRaises(ReplyRefused, pushed, *objects, **facts))

    def test_message(self) -> None:
        """
        Somebody to send to and something to say make a chat message from the component itself.
        """
        element = self.only({"to": "alice@example.org", "body": "hello"})
        self.assertEqual(
            {"to": "alice@example.org", "from": DOMAIN, "type": "chat", "id": "fresh1"}, dict(element.attributes)
        )

    def test_own_words(self) -> None:
        """
        What the object says wins over what would be taken.
        """
        element = self.only(
            {"to": "room@rooms.example.org", "from": "news@bot.example.org", "type": "groupchat", "id": "n1", "body": 7}
        )
        self.assertEqual(
            ["news@bot.example.org", "groupchat", "n1"], [element[name] for name in ("from", "type", "id")]
        )

    def test_no_recipient(self) -> None:
        """
        There is nobody to whom a push would go by itself.
        """
        self.assertEqual("to: it is missing", self.refusal({"body": "hello"}))
        self.assertEqual("to: it is missing", self.refusal({"stanza": "<message><body>hello</body></message>"}))

    def test_no_sender(self) -> None:
        """
        Where no address may be taken in its place, the sender must be given.
        """
        self.assertIn("from: it is missing", self.refusal({"to": "a@b", "body": "hello"}, sender=None))
        self.assertEqual(
            "x@bot.example.org", self.only({"to": "a@b", "body": "", "from": "x@bot.example.org"}, sender=None)["from"]
        )

    def test_foreign_sender(self) -> None:
        """
        Nobody can send in the name of another domain.
        """
        foreign = {"to": "a@b", "from": "root@example.org", "body": "hello"}
        self.assertEqual("from: not an address of bot.example.org", self.refusal(foreign))
        written = {"stanza": "<message to='a@b' from='root@example.org'/>"}
        self.assertEqual("from: not an address of bot.example.org", self.refusal(written))

    def test_no_echo(self) -> None:
        """
        Both addresses are taken as they stand, also when the component writes to itself.
        """
        element = self.only({"to": DOMAIN, "from": DOMAIN, "body": "note"})
        self.assertEqual((DOMAIN, DOMAIN), (element["to"], element["from"]))

    def test_message_that_says_nothing(self) -> None:
        """
        A message that would arrive empty is refused, and where `body` has another name that is named.
        """
        to = {"to": "alice@example.org"}
        self.assertEqual("a message needs `body`, and `text` is not read", self.refusal({**to, "text": "hello"}))
        for nothing in ({}, {"ok": True}, {"body": None}, {"nick": "Bot"}, {"thread": "t1"}):
            self.assertEqual("nothing to send: a message needs `body`", self.refusal({**to, **nothing}))

    def test_presence(self) -> None:
        """
        Presence needs nothing but an address; it is of no type then.
        """
        element = self.only({"to": "alice@example.org"}, kind="presence")
        self.assertEqual(("presence", False), (element.name, element.hasAttribute("type")))
        self.assertEqual("away", str(self.only({"kind": "presence", "to": "a@b", "show": "away"}).show))

    def test_iq_needs_a_type(self) -> None:
        """
        An iq that answers nothing is of no type by itself.
        """
        self.assertIn("type: for this iq it is one of", self.refusal({"kind": "iq", "to": "a@b"}))

    def test_error(self) -> None:
        """
        An error can be pushed, with the id that it is about.
        """
        element = self.only({"to": "a@b", "id": "m1", "error": {"condition": "gone"}})
        self.assertEqual(("error", "m1"), (element["type"], element["id"]))

    def test_written(self) -> None:
        """
        XML goes as it is; what it lacks comes from the properties beside it, then from the defaults.
        """
        xml = "<message type='headline'><body>hello</body></message>"
        element = self.only({"stanza": xml, "to": "alice@example.org", "body": "ignored"})
        self.assertEqual(
            f"<message type='headline' from='{DOMAIN}' to='alice@example.org' id='fresh1'><body>hello</body></message>",
            serialize(element),
        )
        element = self.only(
            {"stanza": "<presence to='c@d' from='x@bot.example.org' id='p'/>", "to": "alice@example.org"}
        )
        self.assertEqual(("c@d", "x@bot.example.org", "p"), (element["to"], element["from"], element["id"]))

    def test_which_are_written(self) -> None:
        """
        It is known which stanzas somebody wrote as XML.
        """
        composed = pushed({"to": "a@b", "body": "1"}, {"stanza": "<presence to='a@b'/><presence to='c@d'/>"})
        self.assertEqual((3, {1, 2}, False), (len(composed.stanzas), composed.verbatim, composed.answers))

    def test_one_bad_refuses_all(self) -> None:
        """
        Nothing is made of an array with something bad in it.
        """
        self.assertIn("body: not a string", self.refusal({"to": "a@b", "body": "good"}, {"to": "a@b", "body": []}))

    def test_too_many(self) -> None:
        """
        There is a limit to what one request makes.
        """
        objects = [{"to": "a@b", "body": ""}] * (MAX_REPLIES + 1)
        self.assertIn(f"more than {MAX_REPLIES} stanzas", self.refusal(*objects))

    def test_nothing(self) -> None:
        """
        Nothing at all makes nothing at all.
        """
        self.assertEqual((), pushed({}).stanzas)

    @given(
        st.dictionaries(
            st.sampled_from(
                ["to", "from", "kind", "type", "id", "body", "stanza", "error", "reply", "show", "priority"]
            ),
            st.one_of(
                st.none(),
                st.text(),
                st.integers(),
                st.sampled_from(["a@b", "iq", "<iq type='get'/>", DOMAIN]),
                st.just({}),
            ),
        )
    )
    def test_whatever_comes(self, given_object: dict[str, Any]) -> None:
        """
        Whatever an object holds, it is refused with a reason or makes stanzas from us to somebody.
        """
        try:
            composed = pushed(given_object)
        except ReplyRefused as refused:
            self.assertTrue(str(refused))
        else:
            for element in composed.stanzas:
                self.assertEqual(DOMAIN, Address.parse(element["from"]).domain)
                Address.parse(element["to"])
