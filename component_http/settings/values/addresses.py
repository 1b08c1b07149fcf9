"""Types of XMPP addresses, and of parts and patterns of them."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from component_http.contract.address import Address, NotAnAddress
from component_http.settings.values.value_type import Unfit, ValueType


def _address(value: Any, text: str | None = None) -> Address:
    """Parse an address; `text` is parsed instead of a value that is a string."""
    try:
        if isinstance(value, str):
            return Address.parse(value if text is None else text)
    except NotAnAddress:
        pass
    raise Unfit(found=value)


def _accept_domain(value: Any) -> str:
    if not isinstance(value, str):
        raise Unfit
    try:
        address = Address.parse(value)
    except NotAnAddress:
        meant = re.fullmatch(r"(?:[a-z]+://)?([\w.-]+)(?::\d+)?/?", value)
        raise Unfit(meant=meant and meant[1]) from None
    if address.local is not None or address.resource is not None:
        raise Unfit(meant=address.domain)
    if "_" in address.domain or address.domain.startswith("["):
        # Twisted's stream header takes host names only.
        raise Unfit(remedy="it must be a host name: letters, digits, - and dots")
    return address.domain


DOMAIN = ValueType('a domain such as "bot.example.org", without user, port or resource', _accept_domain)


def _accept_domains(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Collection) or isinstance(value, Mapping):
        raise Unfit(meant=[value])
    return tuple(map(_accept_domain, value))


DOMAINS = ValueType('a list of domains such as ["bot.example.org"]', _accept_domains, None)


def _accept_addresses(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, Collection) or isinstance(value, Mapping) or not value:
        raise Unfit
    return tuple(map(_pattern, value))


ADDRESSES = ValueType(
    'addresses without resource, or domains, with * for any characters, such as ["*@example.org"]',
    _accept_addresses,
    None,
)

SENDER = ValueType('an address such as "alerts@bot.example.org"', lambda value: str(_address(value)))


def _accept_nick(value: Any) -> str:
    nick = _address(value, f"room@example.org/{value}").resource
    if nick is None or nick != nick.strip() or len(nick) > 100:
        raise Unfit
    return nick


NICK = ValueType('a nick of up to 100 characters, such as "alerts"', _accept_nick)


def _accept_recipients(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = (value,)
    if not isinstance(value, Collection) or isinstance(value, Mapping) or not value:
        raise Unfit
    return tuple(str(_address(one)) for one in value)


RECIPIENTS = ValueType("an address, or a list of addresses", _accept_recipients, None)


def _accept_patterns(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Collection) or isinstance(value, Mapping) or not value:
        raise Unfit(meant=[value])
    return tuple(map(_pattern, value))


def _pattern(text: Any) -> str:
    if isinstance(text, str) and "/" in text:
        raise Unfit(found=text, remedy="patterns are for addresses without a resource")
    # No host name has a star in it.
    address = _address(text, str(text).replace("*", "0"))
    return text.lower() if "*" in text else str(address)


PATTERNS = ValueType(
    'a list of addresses without resource, with * for any characters, such as ["*@example.org"]', _accept_patterns, None
)


def _accept_operators(value: Any) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Collection) or isinstance(value, Mapping):
        raise Unfit(meant=[value])
    found = []
    for one in value:
        address = _address(one)
        if address.local is None or address.resource is not None or "*" in address.local:
            raise Unfit(found=one, remedy="an operator is one user, without a resource")
        found.append(str(address))
    return tuple(dict.fromkeys(found))


OPERATORS = ValueType('a list of addresses without resource, such as ["admin@example.org"]', _accept_operators, None)
