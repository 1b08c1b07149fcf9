"""Twisted's descriptions of endpoints, such as `tcp:127.0.0.1:5347`, taken apart."""

from __future__ import annotations

import re
from collections.abc import Mapping

from attrs import frozen

__all__ = ["Endpoint"]

_PARTS = re.compile(r"(?:^|:)((?:\\.|[^\\:=])*)(?:(=)((?:\\.|[^\\:])*))?", re.DOTALL)


@frozen
class Endpoint:
    """
    A description taken apart; it may still be one that makes no endpoint.

    Attributes:
        kind: What stands before the first colon, in lower case.
        positional: The other parts without a name.
        named: The parts with a name. Where two have the same name, the last counts.
    """

    kind: str
    positional: tuple[str, ...]
    named: Mapping[str, str]

    @classmethod
    def parse(cls, description: str) -> Endpoint:
        """
        Take a description apart. A backslash makes the character after it an ordinary one.

        Source: `twisted.internet.endpoints.clientFromString`.
        """
        positional: list[str] = []
        named: dict[str, str] = {}
        for name, equals, value in _PARTS.findall(description):
            if equals:
                named[_plain(name)] = _plain(value)
            else:
                positional.append(_plain(name))
        kind, *others = positional or [""]
        return cls(kind.lower(), tuple(others), named)

    @property
    def host_and_port(self) -> tuple[str, str]:
        """The host and the port of a client endpoint that has them; "" for one that is not there."""
        unnamed = iter(self.positional)
        host = self.named.get("host") or next(unnamed, "")
        return host, self.named.get("port") or next(unnamed, "")


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)
