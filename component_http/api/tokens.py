"""The tokens of the API: what a client with a token may send, and how often."""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Container, Iterable, Sequence
from math import ceil

from attrs import evolve, field, frozen
from twisted.words.xish.domish import Element

from component_http.api.exchange import Problem
from component_http.api.rate import Rate
from component_http.api.secrets import BySecret
from component_http.contract.address import Address, NotAnAddress, any_of

REALM = "component-http"

_CHALLENGE = f'Bearer realm="{REALM}", Basic realm="{REALM}", charset="UTF-8"'


@frozen
class Token:
    """
    A token, and what a client that shows it may do.

    Attributes:
        may_send_as: Patterns of the addresses that it may send from; a * stands for any characters.
        may_send_to: Patterns of the addresses that it may send to.
        components: The domains of the components that it is for; all of them if there are none.
        admin: Whether it may control the gateway itself.
        sender: The sender of its stanzas that name none; None for the choice of `default_sender`.
    """

    name: str
    secret: str = field(repr=False)
    may_send_as: Sequence[str] = ("*",)
    may_send_to: Sequence[str] = ("*",)
    kinds: Sequence[str] = ("message", "presence", "iq")
    components: Sequence[str] = ()
    admin: bool = False
    rate: Rate = field(factory=lambda: Rate(100, 10.0), eq=False)
    sender: Address | None = None
    _from: re.Pattern[str] = field(init=False, eq=False, repr=False)
    _to: re.Pattern[str] = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_from", any_of(self.may_send_as))
        object.__setattr__(self, "_to", any_of(self.may_send_to))

    @property
    def own_sender(self) -> Address | None:
        """The token's own sender, or its first address that is no pattern; None if there is none."""
        if self.sender is not None:
            return self.sender
        return next((Address.parse(pattern) for pattern in self.may_send_as if "*" not in pattern), None)

    def default_sender(self, everybodys: Address) -> Address | None:
        """
        Choose the sender of stanzas that name none: the token's own, or else the one of all tokens.

        Returns:
            None if it may not send from that one either.
        """
        own = self.own_sender
        if own is not None:
            return own
        return everybodys if self._from.fullmatch(str(everybodys.bare)) else None

    def check_admin(self) -> None:
        """Raise `Problem` if it may not control the gateway itself."""
        if not self.admin:
            raise Problem(403, f"the token {self.name} may not do this: only one with admin = true may")

    def check_allowed(self, stanzas: Iterable[Element]) -> None:
        """Raise `Problem` if it may not send one of some stanzas, which have their addresses."""
        for stanza in stanzas:
            if stanza.name not in self.kinds:
                allowed = ", ".join(self.kinds)
                raise Problem(403, f"the token {self.name} may not send {stanza.name}: its kinds are {allowed}")
            for allowed_ones, attribute, setting in (
                (self._from, "from", "may_send_as"),
                (self._to, "to", "may_send_to"),
            ):
                address = str(Address.parse(stanza[attribute]).bare)
                if not allowed_ones.fullmatch(address):
                    raise Problem(
                        403, f"the token {self.name} may not send {attribute} this address: see its {setting}"
                    )
            if self.components and Address.parse(stanza["from"]).domain not in self.components:
                raise Problem(403, f"the token {self.name} is not for this component: see its components")


class Tokens:
    """
    The tokens of the settings.

    Args:
        tokens: The tokens, each with a secret of its own.
        domains: Those of the components, normalised.

    Source: RFC 6750 section 2.1 (Bearer), RFC 7617 (Basic), RFC 9110 section 11.6.1 (the challenge).
    """

    def __init__(self, tokens: Iterable[Token], domains: Container[str]) -> None:
        self._tokens = BySecret(tokens)
        self._domains = domains

    def identify(self, authorization: str | None) -> Token:
        """
        Find the token in an Authorization header.

        Args:
            authorization: The header of that name, or None. With Basic the token is the password; the user may be
                the token's name, an address of the component to send from, or anything else.

        Raises:
            Problem: There is no token of ours in it.
        """
        if not authorization:
            raise _unknown("the request has no Authorization header: send a token of [[api.token]] as Bearer or Basic")
        scheme, _, value = authorization.strip().partition(" ")
        value, user = value.strip(), ""
        if scheme.lower() == "basic":
            try:
                user, _, value = b64decode(value, validate=True).decode("utf-8").partition(":")
            except ValueError:
                raise _unknown("the Basic credentials cannot be read") from None
        elif scheme.lower() != "bearer":
            raise _unknown("the Authorization header has another scheme than Bearer or Basic")
        token = self._tokens.find(value)
        if token is None:
            raise _unknown("there is no such token")
        address = self._own_address(user)
        return token if address is None else evolve(token, sender=address)

    def _own_address(self, user: str) -> Address | None:
        if "@" not in user:
            return None
        try:
            address = Address.parse(user)
        except NotAnAddress:
            return None
        return address if address.domain in self._domains else None


def _unknown(detail: str) -> Problem:
    return Problem(401, detail, headers={"WWW-Authenticate": _CHALLENGE})


def check_rate(rate: Rate, now: float) -> None:
    """Count a request; raise `Problem` if it is one too many."""
    seconds = rate.wait(now)
    if seconds > 0:
        retry_after = str(ceil(seconds))
        raise Problem(429, f"too many requests: try again in {retry_after} s", headers={"Retry-After": retry_after})
