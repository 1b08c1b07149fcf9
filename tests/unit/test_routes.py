"""Which route of a component takes a stanza."""

from __future__ import annotations

import time
from fnmatch import fnmatchcase

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from component_http.contract.routes import AddressPattern, Conditions, Glob, Route, Routes
from component_http.contract.stanza import Stanza
from component_http.contract.xml import Limits, parse_stanzas


def a_stanza(
    sender: str = "alice@example.org/phone",
    to: str = "bot@bot.example.org",
    *,
    kind: str = "message",
    type_: str | None = "chat",
) -> Stanza:
    type_of = "" if type_ is None else f"type='{type_}'"
    [element] = parse_stanzas(f"<{kind} from='{sender}' to='{to}' id='1' {type_of}/>", Limits())
    return Stanza.from_element(element)


def patterns(*texts: str) -> tuple[AddressPattern, ...]:
    return tuple(map(AddressPattern, texts))


class GlobTests(SynchronousTestCase):
    """Patterns in which a * stands for any characters."""

    @given(st.text("ab*", max_size=8), st.text("ab", max_size=12))
    def test_like_the_standard_library(self, pattern: str, text: str) -> None:
        """
        It matches what `fnmatch` matches.
        """
        self.assertEqual(fnmatchcase(text, pattern), Glob(pattern).matches(text))

    @given(st.text("ab*", max_size=6), st.text("ab*", max_size=6), st.text("ab", max_size=8))
    def test_covers(self, wide: str, narrow: str, text: str) -> None:
        """
        A pattern that covers another one matches all that this one matches.
        """
        if Glob(wide).covers(Glob(narrow)) and Glob(narrow).matches(text):
            self.assertTrue(Glob(wide).matches(text))

    def test_worst_case(self) -> None:
        """
        The worst text for the worst pattern takes a time that grows with its length only.
        """

        def seconds(length: int) -> float:
            glob, text = Glob("*".join(["a" * 20] * 40) + "b"), "a" * length
            began = time.process_time()
            for _ in range(5):
                self.assertFalse(glob.matches(text + "c"))
                self.assertFalse(Glob("*" + "a*" * 200 + "bc").matches(text + "bd"))
            return time.process_time() - began

        seconds(1000)
        self.assertLess(seconds(256_000), 64 * seconds(16_000) + 0.1)


class ConditionTests(SynchronousTestCase):
    """The conditions of one route."""

    def assert_met(self, conditions: Conditions, *stanzas: Stanza, body: str | None = None) -> None:
        for stanza in stanzas:
            self.assertIsNone(conditions.unmet(stanza, body), stanza)

    def assert_unmet(self, name: str, conditions: Conditions, *stanzas: Stanza, body: str | None = None) -> None:
        for stanza in stanzas:
            self.assertEqual(name, conditions.unmet(stanza, body), stanza)

    def test_none(self) -> None:
        """
        Without conditions everything is taken.
        """
        self.assert_met(Conditions(), a_stanza(), a_stanza(kind="iq", type_="get"))

    def test_addresses(self) -> None:
        """
        An address is a bare one, a domain stands for all in it, and * for any characters.
        """
        alice, bob = a_stanza(), a_stanza("bob@sub.example.org/x")
        self.assert_met(Conditions(sender=patterns("alice@example.org")), alice)
        self.assert_met(Conditions(sender=patterns("nobody@example.org", "example.org")), alice)
        self.assert_met(Conditions(sender=patterns("*.example.org")), bob)
        self.assert_met(Conditions(sender=patterns("*@example.org", "bob@*")), alice, bob)
        self.assert_unmet("from", Conditions(sender=patterns("example.org")), bob)
        self.assert_unmet("from", Conditions(sender=patterns("*@example.org")), bob)
        self.assert_met(Conditions(recipient=patterns("bot@bot.example.org")), alice)
        self.assert_unmet("to", Conditions(recipient=patterns("news@bot.example.org")), alice)

    def test_kind_and_type(self) -> None:
        """
        A message without a type is a normal one, a presence without one is available.
        """
        self.assert_met(Conditions(kinds=["message"], types=["normal"]), a_stanza(type_=None))
        self.assert_met(Conditions(types=["available"]), a_stanza(kind="presence", type_=None))
        self.assert_unmet("type", Conditions(types=["normal"]), a_stanza())
        self.assert_unmet("kind", Conditions(kinds=["iq"]), a_stanza())

    def test_body(self) -> None:
        """
        A text is the beginning of the body; with a * it is a pattern for all of it; no body meets neither.
        """
        for body in ("/weather", "/weather in Paris"):
            self.assert_met(Conditions(body="/weather"), a_stanza(), body=body)
        self.assert_met(Conditions(body="*paris*"), a_stanza(), body="in paris?")
        self.assert_unmet("body", Conditions(body="*paris"), a_stanza(), body="in paris?")
        self.assert_unmet("body", Conditions(body="/weather"), a_stanza(), body=" /weather")
        self.assert_unmet("body", Conditions(body="*"), a_stanza())

    def test_room(self) -> None:
        """
        What is said in a room, or comes from an occupant, is of a room.
        """
        said, private = a_stanza(type_="groupchat"), evolve(a_stanza(), through_room=True)
        self.assert_met(Conditions(room=True), said, private)
        self.assert_unmet("room", Conditions(room=False), said, private)
        self.assert_unmet("room", Conditions(room=True), a_stanza())


class RoutesTests(SynchronousTestCase):
    """Several routes, in order."""

    def test_the_first_that_fits(self) -> None:
        """
        The first route whose conditions are all met takes a stanza, and it is told why those before it do not.
        """
        routes = Routes(
            [
                Route("iqs", Conditions(kinds=["iq"])),
                Route("weather", Conditions(body="/weather")),
                Route("alice", Conditions(sender=patterns("alice@example.org"))),
                Route("rest", Conditions()),
            ]
        )
        self.assertEqual("weather", routes.of(a_stanza(), "/weather"))
        self.assertEqual("alice", routes.of(a_stanza(), "hello"))
        self.assertEqual("rest", routes.of(a_stanza("bob@example.org"), None))
        told = [("iqs", "kind"), ("weather", "body"), ("alice", None)]
        self.assertEqual(told, list(routes.explain(a_stanza(), "hello")))
        self.assertIsNone(Routes(routes.routes[:1]).of(a_stanza(), None))

    def test_idle(self) -> None:
        """
        A route is never taken whose stanzas an earlier one takes all; where that is not plain to see, nothing is said.
        """
        narrow = Conditions(kinds=["message"], sender=patterns("alice@example.org"), body="/weather in")
        for wide in (
            Conditions(),
            Conditions(kinds=["message", "iq"]),
            Conditions(body="/weather"),
            Conditions(sender=patterns("example.org")),
            Conditions(sender=patterns("*@example.org", "bob@example.net"), body="/"),
        ):
            routes = Routes([Route("wide", wide), Route("narrow", narrow)])
            self.assertEqual([("narrow", "wide")], list(routes.idle()), wide)
        for other in (Conditions(room=True), Conditions(body="/weather in Paris"), Conditions(types=["chat"])):
            self.assertEqual([], list(Routes([Route("other", other), Route("narrow", narrow)]).idle()), other)
