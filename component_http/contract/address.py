"""Addresses of XMPP: taken apart, checked and normalised once, compared by value ever after."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from sys import intern

from attrs import evolve, frozen
from twisted.words.protocols.jabber.xmpp_stringprep import Profile, nameprep, nodeprep, resourceprep

__all__ = ["Address", "NotAnAddress"]

_MAX_PART_BYTES = 1023
_MAX_BYTES = 3 * _MAX_PART_BYTES + 2

# Longer ones exist only where somebody tries to fill our memory; they are worked out each time.
_MAX_REMEMBERED_LENGTH = 256
_REMEMBERED = 4096

# Host names as they are in use: underscores are no host name by STD 3, but servers accept and containers have them.
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_ASCII_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*|\[[0-9a-f:.]+\]", re.ASCII)

# What stringprep leaves as it is, but for the case of the local part; it takes 2 ms for 1000 characters.
_ASCII_LOCAL = re.compile(r"[!#-%(-.0-9;=?A-Z\[-~]+", re.ASCII)
_ASCII_RESOURCE = re.compile(r"[ -~]+", re.ASCII)

# Characters newer than stringprep's Unicode 3.2 (most emoji in room nicks) are let through, as servers do: RFC 3454
# section 7 forbids them only to whoever hands out a name.
_local_profile = Profile(nodeprep.mappings, prohibiteds=nodeprep.prohibiteds, check_unassigneds=False)
_resource_profile = Profile(resourceprep.mappings, prohibiteds=resourceprep.prohibiteds, check_unassigneds=False)


class NotAnAddress(ValueError):
    """The text is not an XMPP address; the message says which part is wrong and never repeats it."""


@frozen
class Address:
    """
    One XMPP address, normalised: two that mean the same are equal, and so are their strings.

    Attributes:
        local: What stands before the `@`, or None.
        domain: The host, without a trailing dot.
        resource: What stands after the first `/`, or None.

    Source: RFC 7622 section 3, with the normalisation of RFC 6122 (stringprep), as the servers have it.
    """

    local: str | None
    domain: str
    resource: str | None

    def __str__(self) -> str:
        local = "" if self.local is None else f"{self.local}@"
        resource = "" if self.resource is None else f"/{self.resource}"
        return f"{local}{self.domain}{resource}"

    @property
    def bare(self) -> Address:
        """The same without its resource."""
        return self if self.resource is None else evolve(self, resource=None)

    @classmethod
    def parse(cls, text: str) -> Address:
        """
        Read an address.

        Raises:
            NotAnAddress: It is none: a part is empty, over 1023 bytes, or holds what may not be in it.
        """
        return _remembered(text) if len(text) <= _MAX_REMEMBERED_LENGTH else _parse(text)


def _parse(text: str) -> Address:
    if len(text) > _MAX_BYTES:
        raise NotAnAddress("it is too long")
    bare, slash, resource = text.partition("/")
    before, at, after = bare.partition("@")
    local, domain = (before, after) if at else (None, before)
    return Address(
        local=None if local is None else _prepared(_local, local, "local part"),
        domain=intern(_domain(domain)),  # of a few servers come the users of one component
        resource=_prepared(_resource, resource, "resource") if slash else None,
    )


_remembered = lru_cache(_REMEMBERED)(_parse)


def _local(text: str) -> str:
    return text.lower() if _ASCII_LOCAL.fullmatch(text) else _local_profile.prepare(text)


def _resource(text: str) -> str:
    return text if _ASCII_RESOURCE.fullmatch(text) else _resource_profile.prepare(text)


def _domain(text: str) -> str:
    lowered = text.lower().removesuffix(".")
    if text.isascii() and _ASCII_DOMAIN.fullmatch(lowered) and len(lowered) <= _MAX_PART_BYTES:
        return lowered
    return _prepared(lambda domain: nameprep.prepare(domain).removesuffix("."), text, "domain")


def _prepared(prepare: Callable[[str], str], text: str, part: str) -> str:
    try:
        prepared = prepare(text)
        size = len(prepared.encode("utf-8"))
    except (UnicodeError, IndexError) as error:  # IndexError: an empty label, a..b
        raise NotAnAddress(f"its {part} holds what may not be in one") from error
    if not 0 < size <= _MAX_PART_BYTES:
        raise NotAnAddress(f"its {part} has {size} bytes instead of 1 to {_MAX_PART_BYTES}")
    return prepared
