"""Addresses that are not to be read, each under a name of its own that stays the same."""

from __future__ import annotations

import re
from base64 import b32encode
from collections.abc import Collection
from functools import lru_cache
from hashlib import pbkdf2_hmac, sha256
from hmac import digest

from component_http.contract.address import Address, NotAnAddress

ROUNDS = 50_000
"""They take some hundredths of a second, once, and whoever guesses the secret needs as long for each guess."""

_OF_ADDRESS = 10
_OF_RESOURCE = 6
"""Characters of a name; each has five bits."""

# A text has addresses in sentences, in quotes, and in URLs. What begins a local part stands behind one of these.
_LOCAL = r"""(?<![^\s"&'/:<>@(\[{])[^\s"&'/:<>@(\[{][^\s"&'/:<>@]*"""
_DOMAIN = r"""(?:\[[0-9a-fA-F:.]+\]|[^\s"&'/:<>@,;()\[\]{}%|!?]*[^\s"&'/:<>@,;()\[\]{}%|!?.])"""
_IN_TEXT = re.compile(
    rf"""(?<='){_LOCAL}@{_DOMAIN}/[^']*(?=')|(?<="){_LOCAL}@{_DOMAIN}/[^"]*(?=")"""
    rf"""|{_LOCAL}(?:@|%40){_DOMAIN}(?:/[^\s"'<>]*[^\s"'<>,;:.)])?"""
)


class Pseudonyms:
    """
    Hides addresses behind names, such as `<k3x9q2m7ab>/<x4tq2a>`: one for the bare address, and one for the resource.

    No address has these characters, so a name is never taken for one. The domains of our components stay readable, as
    in `<k3x9q2m7ab>@bot.example.org`, and so does a domain that stands alone: it is a server.

    Args:
        secret: Of this installation; without it nobody can find out whose name it is by trying addresses.
        domains: Of our components.
    """

    def __init__(self, secret: str, domains: Collection[str]) -> None:
        self._key = _key(secret)
        self._domains = frozenset(domains)

    def of(self, address: Address | str) -> str:
        """Return the name of an address; a text that is none has a name, too."""
        text = _normalised(str(address))
        bare, slash, _ = text.partition("/")
        _, at, domain = bare.rpartition("@")
        if not at:
            shown = bare
        elif domain in self._domains:
            shown = f"<{self._name(bare, _OF_ADDRESS)}>@{domain}"
        else:
            shown = f"<{self._name(bare, _OF_ADDRESS)}>"
        return f"{shown}/<{self._name(text, _OF_RESOURCE)}>" if slash else shown

    def hide(self, text: str) -> str:
        """
        Hide all addresses in a text. In a sentence an address ends with the first blank, unless it stands in quotes.
        """
        if "@" not in text and "%40" not in text:
            return text
        return _IN_TEXT.sub(lambda found: self.of(found[0].replace("%40", "@")), text)

    def hide_value(self, value: str) -> str:
        """Hide a text that may be an address as a whole, with blanks in its resource; else all that are in it."""
        return self.of(value) if _is_address(value) else self.hide(value)

    def _name(self, text: str, length: int) -> str:
        found = b32encode(digest(self._key, text.encode("utf-8", "replace"), sha256))
        return found[:length].decode("ascii").lower()


@lru_cache(4)
def _key(secret: str) -> bytes:
    return pbkdf2_hmac("sha256", secret.encode("utf-8", "replace"), b"component-http: addresses in the log", ROUNDS)


def _normalised(text: str) -> str:
    try:
        return Address.parse(text).text
    except NotAnAddress:
        return text.lower()


def _is_address(text: str) -> bool:
    """Say whether all of a text is one address, perhaps with blanks in its resource."""
    bare = text.partition("/")[0]
    if "@" not in bare or len(bare.split()) != 1 or ":" in bare:
        return False
    try:
        Address.parse(text)
    except NotAnAddress:
        return False
    return True
