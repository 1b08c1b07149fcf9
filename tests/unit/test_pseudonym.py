"""Addresses behind names, and the log in which they are hidden."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import LogLevel, globalLogPublisher
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from component_http.contract.address import Address
from component_http.contract.pseudonym import Pseudonyms
from component_http.log import Logger, hide_addresses
from component_http.operations.log_lines import WRITERS, Line

NAMES = Pseudonyms("secret", ["bot.example.org"])
JULIET = NAMES.of("juliet@example.org")


class NameTests(SynchronousTestCase):
    """The names themselves."""

    def test_name(self) -> None:
        """
        A name is short, the same for each spelling of an address, and another one with another secret.
        """
        self.assertRegex(JULIET, r"^<[a-z2-7]{10}>$")
        self.assertEqual(JULIET, NAMES.of(Address.parse("Juliet@EXAMPLE.org.")))
        self.assertEqual(JULIET, Pseudonyms("secret", []).of("juliet@example.org"))
        self.assertNotEqual(JULIET, Pseudonyms("other", []).of("juliet@example.org"))
        self.assertNotEqual(JULIET, NAMES.of("juliet@example.com"))

    def test_parts(self) -> None:
        """
        A resource has a name behind that of its bare address; our own domains and those of servers stay readable.
        """
        self.assertRegex(NAMES.of("juliet@example.org/my phone"), rf"^{JULIET}/<[a-z2-7]{{6}}>$")
        self.assertRegex(NAMES.of("echo@bot.example.org"), r"^<[a-z2-7]{10}>@bot\.example\.org$")
        self.assertEqual(["bot.example.org", "example.org"], [NAMES.of("bot.example.org"), NAMES.of("example.org")])

    def test_sentences(self) -> None:
        """
        In a sentence the address is hidden, and what is around it stays.
        """
        phone = NAMES.of("juliet@example.org/my phone")
        balcony = NAMES.of("juliet@example.org/balcony")
        for text, shown in (
            ("juliet@example.org: no", f"{JULIET}: no"),
            ("to (juliet@example.org).", f"to ({JULIET})."),
            ("is juliet@example.org/balcony, or not", f"is {balcony}, or not"),
            ("<message from='juliet@example.org/my phone' to=\"a\">", f"<message from='{phone}' to=\"a\">"),
            ("GET /v1/rooms/juliet%40example.org?x=y", f"GET /v1/rooms/{JULIET}?x=y"),
            ("JID('juliet@example.org')", f"JID('{JULIET}')"),
            ("xmpp:juliet@example.org", f"xmpp:{JULIET}"),
            ("no address: a @ b, 5@, @home, https://example.org/x", None),
        ):
            self.assertEqual(shown or text, NAMES.hide(text))

    @given(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
        st.sampled_from(["juliet@example.org", "jul.iet+x@example.org/balcony", "j%a@[::1]/x", "ü@exämple.org/ü"]),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    )
    def test_any_text(self, before: str, address: str, after: str) -> None:
        """
        Whatever is around an address, its local part is not read; to hide twice changes nothing.
        """
        local = address.partition("@")[0]
        shown = NAMES.hide(f"{before} {address} {after}")
        self.assertNotIn(f"{local}@", shown)
        self.assertEqual(shown, NAMES.hide(shown))


class LogTests(SynchronousTestCase):
    """The log with hidden addresses."""

    def setUp(self) -> None:
        hide_addresses(NAMES)
        self.addCleanup(hide_addresses, None)
        self.events: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self.events.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.events.append)

    def lines(self) -> str:
        """Everything that was logged, in each format."""
        lines = [Line.of(event) for event in self.events]
        return "\n".join(
            write(line).decode("utf-8", "replace") for line in lines if line is not None for write in WRITERS.values()
        )

    def test_own_lines(self) -> None:
        """
        A line of the gateway has no address, whoever writes it: in no field, no sentence, and no failure.
        """
        Logger("x").warn("{who}, {why}", who=Address.parse("juliet@example.org/my phone"), why="not juliet@example.org")
        Logger("x").info("{who}", who="juliet@example.org/my phone", number=5)
        self.assertNotIn("juliet", repr([{**event, "log_logger": None} for event in self.events]))
        self.assertEqual(5, self.events[-1]["number"])
        try:
            raise ValueError("about juliet@example.org/balcony")
        except ValueError:
            Logger("x").failure("{id}: it fails", failure=Failure(), id="d1")
        self.flushLoggedErrors(ValueError)
        text = self.lines()
        self.assertNotIn("juliet@", text)
        self.assertNotIn("phone", text)
        self.assertIn(JULIET, text)
        self.assertIn("about", text)

    def test_lines_of_libraries(self) -> None:
        """
        A library's line has no address either where the gateway writes it, whatever is in its fields.
        """

        class Odd:
            def __str__(self) -> str:
                return "juliet@example.org"

        globalLogPublisher(
            {
                "log_time": 1.0,
                "log_level": LogLevel.info,
                "log_namespace": "library",
                "log_format": "juliet@example.org said {what}",
                "what": Odd(),
            }
        )
        text = self.lines()
        self.assertNotIn("juliet", text)
        self.assertEqual(3, len(re.findall(re.escape(f"{JULIET} said {JULIET}"), text)))
