"""
A gateway process with its API open, and a plain client for it.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from contextlib import closing, suppress
from http.client import HTTPConnection
from typing import Any

from attrs import field, frozen

from tests.integration.processes import GatewayProcess
from tests.integration.servers import free_port
from tests.integration.waiting import PATIENCE, eventually

__all__ = ["HOOK", "JSON", "TOKEN", "ApiClient", "ApiGateway", "Told"]

TOKEN = "0123456789abcdef"
HOOK = "fedcba9876543210"
JSON = "application/json"


@frozen
class Told:
    """What the API answered; the names of headers are in small letters."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(factory=dict)

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


class ApiClient:
    """
    Asks an API, with a connection for each request.

    Args:
        token: Sent with each request; None for none.

    Attributes:
        port: Of this machine.
    """

    def __init__(self, port: int, token: str | None = TOKEN) -> None:
        self.port = port
        self._token = token

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        seconds: float = PATIENCE,
    ) -> Told:
        """
        Make a request.

        Args:
            method, path: Of it.
            body: Bytes as they are, or anything else as JSON; None for none.
            headers: More of them, or others than usual.
            seconds: To wait.
        """
        given = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        if body is not None:
            given["Content-Type"] = JSON
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=seconds)) as connection:
            connection.request(method, path, data, {**given, **(headers or {})})
            response = connection.getresponse()
            return Told(response.status, response.read(), {name.lower(): text for name, text in response.getheaders()})

    def get(self, path: str) -> Told:
        return self.ask("GET", path)

    def post(self, path: str, body: object, **headers: str) -> Told:
        """POST; in the names of headers `_` is `-`."""
        return self.ask("POST", path, body, headers={name.replace("_", "-"): text for name, text in headers.items()})

    def say(self, to: str, body: str, **more: object) -> str:
        """
        Push a message.

        Returns:
            Its id.
        """
        told = self.post("/v1/messages", {"to": to, "body": body, **more})
        assert told.status == 202, told
        [id] = told.json["ids"]
        assert isinstance(id, str)
        return id


class ApiGateway(GatewayProcess):
    """
    A gateway whose API listens on a free port.

    Args:
        sections: More settings.
        api: More of the table `[api]`; its one token may do everything.
        port: Where the API listens; None for a free port.
        how: As for `GatewayProcess`.

    Attributes:
        port: Where it listens.
        api: Asks it, with the token.
    """

    def __init__(
        self,
        *,
        sections: Mapping[str, Mapping[str, object]] | None = None,
        api: Mapping[str, object] | None = None,
        port: int | None = None,
        **how: Any,
    ) -> None:
        self.port = port or free_port()
        self.api = ApiClient(self.port)
        table = {
            "listen": f"tcp:{self.port}:interface=127.0.0.1",
            "token": [{"name": "ops", "token_file": "ops-token", "rate": "10000/1s"}],
            **(api or {}),
        }
        super().__init__(
            sections={**(sections or {}), "api": table}, secrets={"ops-token": TOKEN, "hook-secret": HOOK}, **how
        )

    def wait_until_open(self) -> None:
        """Wait until the API listens."""

        def look() -> bool:
            assert self.running, f"it ended before it listened:\n{self.log()}"
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1.0).close()
                return True
            return False

        eventually(look, f"the API on port {self.port}", detail=self.log)
