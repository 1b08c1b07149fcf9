"""Addresses: what is one, and when two are the same."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.protocols.jabber import jid
from twisted.words.protocols.jabber.xmpp_stringprep import Profile, nameprep, nodeprep, resourceprep

from component_http.contract.address import Address, NotAnAddress
from tests.examples import examples
from tests.unit.work import calls

EXPANDS = "\ufdfa"
"""A ligature that becomes 18 characters when it is prepared."""


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


class StringprepTests(SynchronousTestCase):
    """Addresses beyond ASCII are prepared as Twisted prepares them, but for characters newer than Unicode 3.2."""

    PROFILES = (
        (
            "{}@example.org",
            "local",
            Profile(nodeprep.mappings, prohibiteds=nodeprep.prohibiteds, check_unassigneds=False),
        ),
        (
            "example.org/{}",
            "resource",
            Profile(resourceprep.mappings, prohibiteds=resourceprep.prohibiteds, check_unassigneds=False),
        ),
        ("{}", "domain", nameprep),
    )

    def assert_same(self, text: str) -> None:
        for whole, part, profile in self.PROFILES:
            self.assertEqual(
                _or_none(lambda profile=profile: profile.prepare(text) or None),
                _or_none(lambda whole=whole, part=part: getattr(Address.parse(whole.format(text)), part)),
                f"{part} {text!a}",
            )

    def test_each_character(self) -> None:
        """
        Every character of the scripts and blocks that stringprep treats apart is mapped or refused alike.
        """
        characters = [*range(0x80, 0x3100), *range(0xD7F0, 0xE010), *range(0xF8F0, 0x10000), *range(0xE0000, 0xE0100)]
        characters += [end + last for end in range(0x10000, 0x110000, 0x10000) for last in (0, 0xFFFD, 0xFFFE, 0xFFFF)]
        for code in characters:
            if chr(code) not in "\u3002\uff0e\uff61":  # dots: a domain of nothing but a dot is none
                self.assert_same(chr(code))

    @examples(300)
    @given(
        st.text(
            st.sampled_from("aAiI1\u0130\u0307\u03a3\u03c2\u0345\u1fb3\xdf\u0301\u0316\u05d0\u0661\ufdfa\xad")
            | st.characters(min_codepoint=0xA1, max_codepoint=0x3000),
            min_size=1,
            max_size=6,
        )
    )
    def test_characters_side_by_side(self, text: str) -> None:
        """
        What depends on neighbours does, too: accents, a final sigma, writing from right to left.
        """
        self.assert_same(text)


def _or_none(prepare: Callable[[], str | None]) -> str | None:
    try:
        return prepare()
    except (UnicodeError, IndexError, NotAnAddress):
        return None


class WorkTests(SynchronousTestCase):
    """A hostile address costs little, wherever it is read."""

    def test_long_parts_are_not_prepared(self) -> None:
        """
        A part over 1023 bytes is refused before anything is done with it, and one that becomes so soon after.
        """
        for whole in ("{}@example.org", "example.org/{}", "{}.org"):
            for times in (400, 341, 3000):
                self.assertLess(calls(lambda whole=whole, times=times: refusal(whole.format(EXPANDS * times))), 60)

    def test_longest_part_costs_little(self) -> None:
        """
        The longest parts there may be are prepared with few calls for each character.
        """
        for text in ("\xe9" * 511, "".join(map(chr, range(0x4E00, 0x4E00 + 341))), "a" + "\u0301\u0316" * 255):
            for whole in ("{}@example.org", "example.org/{}"):
                self.assertLess(calls(lambda whole=whole, text=text: refusal(whole.format(text))), 3 * len(text))

    def test_many_labels(self) -> None:
        """
        A host has at most as many labels as DNS can hold; one of five hundred is refused at once.
        """
        self.assertLess(calls(lambda: refusal("\xe9." * 340 + "org")), 60)
        self.assertEqual("org", Address.parse("\xe9." * 126 + "org").domain.rpartition(".")[2])

    def test_asked_again(self) -> None:
        """
        A long address that was read, or refused, a moment ago is not worked out again.
        """
        for text in ("example.org/" + "\xe9" * 500, "example.org/" + "\xe9" * 300 + "\ue000"):
            refusal(text)
            self.assertLess(calls(lambda text=text: refusal(text)), 10)

    def test_addresses_of_wokkels_handlers(self) -> None:
        """
        Twisted's own addresses, which wokkel's handlers read, refuse a part that is too long.
        """
        for text in ("a@b.c/" + EXPANDS * 3000, "a@b.c/" + EXPANDS * 341, "a@b.c/" + "x" * 1024, "\xe9" * 512 + "@b.c"):
            for read in (jid.JID, jid.internJID):
                self.assertLess(
                    calls(lambda text=text, read=read: self.assertRaises(jid.InvalidFormat, read, text)), 60
                )
        self.assertEqual("a@b.c/" + "x" * 1023, jid.JID("a@b.c/" + "x" * 1023).full())


def refusal(text: str) -> str | None:
    """Why it is no address, or None."""
    try:
        Address.parse(text)
    except NotAnAddress as error:
        return str(error)
    return None


def parts_of(address: Address) -> tuple[str | None, str, str | None]:
    return address.local, address.domain, address.resource


class ReadingTests(SynchronousTestCase):
    """An address is taken apart the way servers do it."""

    def test_three_parts(self) -> None:
        """
        user@host/resource has all three parts.
        """
        self.assertEqual(("alice", "example.org", "phone"), parts_of(Address.parse("alice@example.org/phone")))

    def test_host_alone(self) -> None:
        """
        A component's own domain is an address too.
        """
        self.assertEqual((None, "bot.localhost", None), parts_of(Address.parse("bot.localhost")))

    def test_resource_may_hold_the_separators(self) -> None:
        """
        A room nick with @ and / in it stays whole.
        """
        self.assertEqual(("room", "muc.example", "a@b/c"), parts_of(Address.parse("room@muc.example/a@b/c")))
        self.assertEqual((None, "muc.example", "a@b/c"), parts_of(Address.parse("muc.example/a@b/c")))

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
