"""Twisted's descriptions of endpoints, such as `tcp:127.0.0.1:5347`, taken apart."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping

from attrs import evolve, frozen

_PARTS = re.compile(r"(?:^|:)((?:\\.|[^\\:=])*)(?:(=)((?:\\.|[^\\:])*))?", re.DOTALL)

_FILES = ("certificate", "privateKey", "certKey", "extraCertChain", "dhParameters", "trustRoots")
"""The options that name a file, or a folder of files."""

_FILES_OF_SSL = slice(1, 3)
"""The parts without a name that are files, where a server's endpoint is `ssl:`: its key and its certificate."""

_SOCKETS = ("path", "address")
"""The options of `unix:` that name the socket, for a client and for a server."""


@frozen
class Endpoint:
    """
    A description taken apart. It need not be one that Twisted accepts.

    Attributes:
        kind: The word before the first colon, in lower case.
        positional: The other parts without a name.
        named: The parts with a name. Where two have the same name, the last counts.
    """

    kind: str
    positional: tuple[str, ...]
    named: Mapping[str, str]

    @classmethod
    def parse(cls, description: str) -> Endpoint:
        """
        Take a description apart as `clientFromString` does: a backslash makes the character after it an ordinary one.
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

    def __str__(self) -> str:
        options = (f"{escaped(name)}={escaped(value)}" for name, value in self.named.items())
        return ":".join([self.kind, *map(escaped, self.positional), *options])

    @property
    def host_and_port(self) -> tuple[str, str]:
        """The host and the port that a client connects to; "" for one that is not there."""
        unnamed = iter(self.positional)
        host = self.named.get("host") or next(unnamed, "")
        return host, self.named.get("port") or next(unnamed, "")

    @property
    def interface_and_port(self) -> tuple[str, str]:
        """The interface and the port where a server listens on TCP; "" for one that is not there."""
        unnamed = iter(self.positional)
        port = self.named.get("port") or next(unnamed, "")
        interface = next(unnamed, "") if self.kind == "tcp" else ""
        return self.named.get("interface", interface), port

    @property
    def socket_path(self) -> str:
        """The path of a Unix socket, for a client or a server; "" if it is not there."""
        return self.named.get("path") or self.named.get("address") or next(iter(self.positional), "")

    def files(self) -> Iterator[str]:
        """The paths of the files and folders that the endpoint reads when it is made: keys and certificates."""
        if self.kind == "ssl":
            yield from self.positional[_FILES_OF_SSL]
        yield from (value for name, value in self.named.items() if name in _FILES)

    def with_paths(self, moved: Callable[[str], str]) -> Endpoint:
        """Make the same endpoint with other paths: `moved` is given each path of a file, a folder or a socket."""
        positional = list(self.positional)
        paths = {"unix": slice(0, 1), "ssl": _FILES_OF_SSL}.get(self.kind, slice(0))
        positional[paths] = map(moved, positional[paths])
        named = {name: moved(value) if name in (*_FILES, *_SOCKETS) else value for name, value in self.named.items()}
        if "endpoint" in named:
            named["endpoint"] = str(Endpoint.parse(named["endpoint"]).with_paths(moved))
        return evolve(self, positional=tuple(positional), named=named)


def escaped(text: str) -> str:
    """Write a text as a part of a description: each colon, equals sign and backslash gets a backslash in front."""
    return re.sub(r"[\\:=]", r"\\\g<0>", text)


def _plain(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)
