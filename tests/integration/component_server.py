"""
The stand-in that applications test with, in a process of its own, for tests that talk to it as they talk to a server.

Run as `python -m tests.integration.component_server DOMAIN...`, it serves these components and nobody else.
"""

from __future__ import annotations

import json
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import react
from twisted.words.xish.domish import Element

from component_http.contract.address import Address
from component_http.testing import ComponentServer
from tests.integration.processes import Process, from_checkout

__all__ = ["ComponentServerProcess"]


class ComponentServerProcess(Process):
    """
    A `ComponentServer` for each of some domains, which hand each other what their components send.

    Attributes:
        ports: Of each domain.
        secrets: Of each domain.
    """

    def __init__(self, *domains: str) -> None:
        super().__init__(
            [sys.executable, "-m", __name__, *domains],
            Path(tempfile.mkdtemp(prefix="component-http-server-")),
            from_checkout(),
        )
        try:
            self.wait_for_log("\n")
            listening = json.loads(self.log())
        except BaseException:
            self.remove()
            raise
        self.ports: dict[str, int] = listening["ports"]
        self.secrets: dict[str, str] = listening["secrets"]


def main(reactor: Any, *domains: str) -> Deferred[None]:
    """Serve until the process is ended; ports and secrets are the one line it prints."""

    def route(element: Element) -> None:
        with suppress(ConnectionLost):  # nobody is there
            servers[Address.parse(element["to"]).domain].send(element)

    servers = {domain: ComponentServer(domain, reactor, route) for domain in domains}
    ports = {domain: server.listen() for domain, server in servers.items()}
    secrets = {domain: server.secret for domain, server in servers.items()}
    print(json.dumps({"ports": ports, "secrets": secrets}), flush=True)
    return Deferred()


if __name__ == "__main__":
    react(main, sys.argv[1:])
