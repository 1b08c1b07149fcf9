"""Addresses: what is one, and when two are the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.protocols.jabber.xmpp_stringprep import nodeprep, resourceprep

from component_http.contract.address import Address, NotAnAddress


class ShortcutTests(SynchronousTestCase):
    """Addresses in ASCII, which need no stringprep."""

    def test_same_as_stringprep(self) -> None:
        """
        Every ASCII character is let through, folded or refused as stringprep does.
        """
        for character in map(chr, range(128)):
            for profile, whole, part in (
                (nodeprep, "a{}b@example.org", "local"),
                (resourceprep, "example.org/a{}b", "resource"),
            ):
                if part == "local" and character in "@/":
                    continue  # these end the local part
                try:
                    expected = profile.prepare(f"a{character}b")
                except UnicodeError:
                    self.assertRaises(NotAnAddress, Address.parse, whole.format(character))
                else:
                    self.assertEqual(expected, getattr(Address.parse(whole.format(character)), part))


class ReadingTests(SynchronousTestCase):
    """An address is taken apart the way servers do it."""

    def test_three_parts(self) -> None:
        """
        user@host/resource has all three parts.
        """
        self.assertEqual(Address("alice", "example.org", "phone"), Address.parse("alice@example.org/phone"))

    def test_host_alone(self) -> None:
        """
        A component's own domain is an address too.
        """
        self.assertEqual(Address(None, "bot.localhost", None), Address.parse("bot.localhost"))

    def test_resource_may_hold_the_separators(self) -> None:
        """
        A room nick with @ and / in it stays whole.
        """
        self.assertEqual(Address("room", "muc.example", "a@b/c"), Address.parse("room@muc.example/a@b/c"))
        self.assertEqual(Address(None, "muc.example", "a@b/c"), Address.parse("muc.example/a@b/c"))

    def test_bare(self) -> None:
        """
        The bare address is the same one without its resource.
        """
        self.assertEqual("room@muc.example", str(Address.parse("room@muc.example/nick").bare))
        self.assertEqual("muc.example", str(Address.parse("muc.example").bare))

    def test_case_and_width_do_not_matter(self) -> None:
        """
        Names and hosts are compared without case, resources with it.
        """
        self.assertEqual("bot@bot.localhost/Res", str(Address.parse("BoT@Bot.LocalHost/Res")))
        self.assertEqual(Address.parse("bücher@exämple.org"), Address.parse("BÜCHER@EXÄMPLE.ORG"))

    def test_trailing_dot_does_not_matter(self) -> None:
        """
        A host with the dot of the root is the same host.
        """
        self.assertEqual(Address.parse("a@example.org"), Address.parse("a@example.org."))
        self.assertEqual(Address.parse("a@exämple.org"), Address.parse("a@exämple.org."))

    def test_hosts_as_they_are_in_use(self) -> None:
        """
        Container names with an underscore and bracketed IPv6 addresses are hosts.
        """
        for text in ("bot@xmpp_server", "bot@[::1]", "bot@127.0.0.1", "bot@a-b.c"):
            self.assertEqual(text, str(Address.parse(text)))

    def test_new_emoji_in_a_nick(self) -> None:
        """
        A room nick may hold characters that are younger than stringprep.
        """
        self.assertEqual("\N{FOX FACE}", Address.parse("room@muc.example/\N{FOX FACE}").resource)


class RefusingTests(SynchronousTestCase):
    """What is no address is said to be none, whatever it is."""

    def assert_refused(self, text: str) -> None:
        with self.assertRaises(NotAnAddress):
            Address.parse(text)

    def test_empty_parts(self) -> None:
        """
        A separator promises a part.
        """
        for text in ("", "@example.org", "a@", "example.org/", "a@/r", "/", "@", "a@b..c", "a@.b", ".", "a@ä..c"):
            self.assert_refused(text)

    def test_parts_that_vanish(self) -> None:
        """
        A part of nothing but soft hyphens is an empty one.
        """
        for text in ("\xad@example.org", "a@\xad", "a@example.org/\xad"):
            self.assert_refused(text)

    def test_characters_that_may_not_be(self) -> None:
        """
        Blanks, quotes, control characters and what only looks like a separator are refused.
        """
        for text in (
            "a b@example.org",
            "a'b@example.org",
            "a@b@example.org",
            "a@exa mple.org",
            "a@-b",
            "a@b-",
            "a@exa\N{FULLWIDTH SOLIDUS}mple.org",
            "a@exa\N{FULLWIDTH COMMERCIAL AT}mple.org",
            "a@example.org/a\x00b",
            "a@example.org/\n",
            "a@example.org/\ud800",
            "a@example.org/\ufffe",
            "a@example.org/\ufffd",
        ):
            self.assert_refused(text)

    def test_parts_that_are_too_long(self) -> None:
        """
        A part has 1023 bytes at most, and an address of 4000 bytes is none.
        """
        longest = f"{'a' * 1023}@{'b' * 1023}/{'c' * 1023}"
        self.assertEqual(longest, str(Address.parse(longest)))
        for text in (
            "a" * 4000,
            "a" * 1024 + "@example.org",
            "a@" + "b" * 1024,
            "a@example.org/" + "c" * 1024,
            "a@example.org/" + "ß" * 512,
            "a@example.org/" + "c" * 1_000_000,
        ):
            self.assert_refused(text)

    def test_the_text_is_not_repeated(self) -> None:
        """
        What is wrong is said without the address, which may be private or hostile.
        """
        with self.assertRaises(NotAnAddress) as caught:
            Address.parse("sec ret@example.org")
        self.assertNotIn("ret", str(caught.exception))


class AnyTextTests(SynchronousTestCase):
    """Whatever the text is."""

    @given(st.one_of(st.text(), st.text("aA@/.-_[]:\xad\N{FULLWIDTH SOLIDUS}\N{IDEOGRAPHIC FULL STOP}ßİ")))
    def test_normal_form_is_stable(self, text: str) -> None:
        """
        An address is read or refused, and what is read means the same when it is read again.
        """
        try:
            address = Address.parse(text)
        except NotAnAddress:
            return
        self.assertEqual(address, Address.parse(str(address)))
        self.assertEqual(address.bare, Address.parse(str(address.bare)))
