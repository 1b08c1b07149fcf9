"""Addresses of XMPP: taken apart, checked and normalised once, compared by value ever after."""

from __future__ import annotations

import re
import stringprep
from collections.abc import Iterable
from functools import lru_cache
from unicodedata import ucd_3_2_0 as unicode_3_2

from attrs import frozen

_MAX_PART_BYTES = 1023
_MAX_LABELS = 127  # so many fit into the 255 bytes of RFC 1035
_MAX_CHARS = 3 * _MAX_PART_BYTES + 2

# Longer ones exist only where somebody tries to fill our memory; a few of them are remembered, because one stanza asks
# for the same address several times.
_LONG_CHARS = 256
_REMEMBERED = 4096
_REMEMBERED_LONG = 32

# Host names as they are in use: underscores are no host name by STD 3, but servers accept and containers have them.
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_ASCII_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\]", re.ASCII)
_DOTS = re.compile("[.\u3002\uff0e\uff61]")  # RFC 3490 section 3.1

# What stringprep leaves as it is, but for the case of the local part.
_ASCII_LOCAL = re.compile(r"[!#-%(-.0-9;=?A-Z\[-~]+", re.ASCII)
_ASCII_RESOURCE = re.compile(r"[ -~]+", re.ASCII)

# The tables of RFC 3454, each applied to a whole text at once: character by character, as Twisted does it, one part of
# 1023 bytes can take 13 ms. Characters newer than its Unicode 3.2 (most emoji in room nicks) are let through, as
# servers do: section 7 forbids them only to whoever hands out a name.
_MAPPED_TO_NOTHING = re.compile("[\xad\u034f\u1806\u180b-\u180d\u200b-\u200d\u2060\ufe00-\ufe0f\ufeff]")  # B.1
_FOLDED = {**stringprep.b3_exceptions, 0x3A3: "\u03c3"}  # B.3, and what str.lower() does by context
_PROHIBITED = (
    "\xa0\u1680\u2000-\u200b\u202f\u205f\u3000"  # C.1.2
    "\x80-\x9f\u06dd\u070f\u180e\u200c\u200d\u2028\u2029\u2060-\u2063\u206a-\u206f\ufeff\ufff9-\ufffc"
    "\U0001d173-\U0001d17a"  # C.2.2
    "\ue000-\uf8ff\U000f0000-\U000ffffd\U00100000-\U0010fffd"  # C.3
    "\ufdd0-\ufdef"
    + "".join(f"{chr(end - 1)}{chr(end)}" for end in range(0xFFFF, 0x110000, 0x10000))  # C.4
    + "\ud800-\udfff"  # C.5
    "\ufffd"  # C.6, with those of C.2.2
    "\u2ff0-\u2ffb"  # C.7
    "\u0340\u0341\u200e\u200f\u202a-\u202e"  # C.8, with those of C.2.2
    "\U000e0001\U000e0020-\U000e007f"  # C.9
)
_NOT_IN_LOCAL = re.compile(f"[\0- \x7f\"&'/:<>@{_PROHIBITED}]")  # RFC 6122 appendix A.5
_NOT_IN_RESOURCE = re.compile(f"[\0-\x1f\x7f{_PROHIBITED}]")  # appendix B.5
_NOT_IN_LABEL = re.compile(f"[\0-,./:-@\\[-`{{-\x7f{_PROHIBITED}]")  # RFC 3491 section 5, and the host names of STD 3

_RIGHT_TO_LEFT = {"R", "AL"}  # D.1; D.2 is "L"


class NotAnAddress(ValueError):
    """The text is not an XMPP address; the message says which part is wrong and never repeats it."""


@frozen(eq=False, weakref_slot=False)
class Address:
    """
    One XMPP address, normalised: two that mean the same are equal, and so are their strings.

    It is only its string, for there are as many of them in memory as there are deliveries.

    Attributes:
        text: All of it, as `str` gives it.

    Source: RFC 7622 section 3, with the normalisation of RFC 6122 (stringprep), as the servers have it.
    """

    text: str

    def __str__(self) -> str:
        return self.text

    def __eq__(self, other: object) -> bool:
        return self.text == other.text if isinstance(other, Address) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.text)

    @property
    def local(self) -> str | None:
        """The text before the `@`, or None."""
        local, at, _ = self.text.partition("/")[0].partition("@")
        return local if at else None

    @property
    def domain(self) -> str:
        """The host, without a trailing dot."""
        return self.text.partition("/")[0].rpartition("@")[2]

    @property
    def resource(self) -> str | None:
        """The text after the first `/`, or None."""
        _, slash, resource = self.text.partition("/")
        return resource if slash else None

    @property
    def bare(self) -> Address:
        """The same without its resource."""
        bare, slash, _ = self.text.partition("/")
        return Address(bare) if slash else self

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address; `NotAnAddress` if a part is empty, over 1023 bytes, or holds what may not be in it."""
        found = _remembered(text) if len(text) <= _LONG_CHARS else _remembered_long(text)
        if isinstance(found, str):
            raise NotAnAddress(found)
        return found


def exceeds_limit(part: str) -> bool:
    """Say whether a part of an address is over 1023 bytes, as it is or when it is prepared; quick for any text."""
    return _is_long(part) or _is_long(unicode_3_2.normalize("NFKC", part))


def _is_long(part: str) -> bool:
    if len(part) > _MAX_PART_BYTES or part.isascii():
        return len(part) > _MAX_PART_BYTES
    return len(part.encode("utf-8", "replace")) > _MAX_PART_BYTES


def _parse(text: str) -> Address | str:
    """Read an address, or say why it is none: that is remembered, too."""
    if len(text) > _MAX_CHARS:
        return "it is too long"
    bare, slash, resource = text.partition("/")
    before, at, after = bare.partition("@")
    try:
        parts = [_local(before), at, _domain(after)] if at else [_domain(before)]
        if slash:
            parts += slash, _resource(resource)
    except NotAnAddress as error:
        return str(error)
    found = "".join(parts)
    return Address(text if found == text else found)


_remembered = lru_cache(_REMEMBERED)(_parse)
_remembered_long = lru_cache(_REMEMBERED_LONG)(_parse)


def _local(text: str) -> str:
    _check_size(text, "local part")
    return text.lower() if _ASCII_LOCAL.fullmatch(text) else _prepared(text, "local part", _NOT_IN_LOCAL, fold=True)


def _resource(text: str) -> str:
    _check_size(text, "resource")
    return text if _ASCII_RESOURCE.fullmatch(text) else _prepared(text, "resource", _NOT_IN_RESOURCE, fold=False)


def _domain(text: str) -> str:
    lowered = text.lower().removesuffix(".")
    if text.isascii() and _ASCII_DOMAIN.fullmatch(lowered) and len(lowered) <= _MAX_PART_BYTES:
        return lowered
    _check_size(text, "domain")
    labels = _DOTS.split(text)
    if len(labels) > 1 and not labels[-1]:
        labels.pop()
    if len(labels) > _MAX_LABELS:
        raise _not_allowed("domain")
    prepared = [_prepared(label, "domain", _NOT_IN_LABEL, fold=True) for label in labels]
    if any(label.startswith("-") or label.endswith("-") for label in prepared):
        raise _not_allowed("domain")
    domain = ".".join(prepared)
    _check_size(domain, "domain")
    return domain


def _prepared(text: str, part: str, prohibited: re.Pattern[str], *, fold: bool) -> str:
    """Prepare a part, or a label of the domain, by a profile of stringprep (RFC 3454)."""
    text = _MAPPED_TO_NOTHING.sub("", text)
    if fold:
        # Table B.2 is B.3 and NFKC, once and once more.
        for _ in range(2):
            text = unicode_3_2.normalize("NFKC", text.translate(_FOLDED).lower())
            _check_size(text, part)
    else:
        text = unicode_3_2.normalize("NFKC", text)
        _check_size(text, part)
    if prohibited.search(text):
        raise _not_allowed(part)
    directions = {unicode_3_2.bidirectional(char) for char in set(text)}
    if not directions.isdisjoint(_RIGHT_TO_LEFT) and (
        "L" in directions or any(unicode_3_2.bidirectional(text[end]) not in _RIGHT_TO_LEFT for end in (0, -1))
    ):
        raise _not_allowed(part)  # section 6
    return text


def _check_size(text: str, part: str) -> None:
    """
    Refuse a part that is empty or too long, before and after it is prepared: some characters become 18 (RFC 7622
    section 3).
    """
    if not text:
        raise NotAnAddress(f"its {part} is empty")
    if _is_long(text):
        raise NotAnAddress(f"its {part} is longer than {_MAX_PART_BYTES} bytes")


def _not_allowed(part: str) -> NotAnAddress:
    return NotAnAddress(f"its {part} holds what may not be in one")


def any_of(patterns: Iterable[str]) -> re.Pattern[str]:
    """Compile a pattern of the addresses that match one of these in full, in which a * stands for any characters."""
    return re.compile("|".join(re.escape(pattern).replace(r"\*", ".*") for pattern in patterns), re.DOTALL)
