"""The table [operations]."""

from __future__ import annotations

from typing import ClassVar

from attrs import frozen

from component_http.contract.endpoint import Endpoint
from component_http.contract.url import is_loopback
from component_http.errors import SettingsError
from component_http.settings.declaration import Table, secret, secret_file, setting
from component_http.settings.ports import asks_nobody, client_ca_file
from component_http.settings.values.addresses import OPERATORS
from component_http.settings.values.endpoints import LISTEN
from component_http.settings.values.http import CREDENTIAL
from component_http.settings.values.plain import number
from component_http.settings.values.value_type import shown


@frozen
class OperationsSettings(Table):
    """
    The port for those who watch the gateway.

    Once constructed, `token` is the token itself, or None.
    """

    TABLE: ClassVar[str] = "operations"

    listen: str | None = setting(
        LISTEN,
        "the address of /metrics, /healthz, /readyz, /status and /watch, as a Twisted server endpoint; there is none"
        " unless it is set",
        default=None,
        why="a gateway that nobody watches needs no port, and measures no times",
        example='"tcp:9347:interface=127.0.0.1"',
    )
    token_file: str | None = secret_file(
        "the token",
        "the file that holds in one line the token that each request has to bring, but for /healthz",
        '"operations-token"',
        "others on the network should not see what goes on here; on this machine it may be left out, but"
        " not for /watch",
    )
    token: str | None = secret(CREDENTIAL, "the token itself", "token_file")

    client_ca_file: str | None = client_ca_file("with it no token is needed, and a token alone can be copied")

    admin_jids: tuple[str, ...] = setting(
        OPERATORS,
        "the addresses of the operators, who are told in the chat what is wrong, and may use the gateway's commands",
        default=(),
        why="whoever has one of these accounts can pause the webhook and read who writes to it",
        example='["admin@example.org"]',
    )
    alert_after: float = setting(
        number(5, 86_400, "seconds"),
        "the time that a trouble has to last before the operators are told; some are told at once",
        default=300.0,
        why="a webhook that is started again, or a server, should wake nobody up",
    )

    def __attrs_post_init__(self) -> None:
        problems = list(asks_nobody(self))
        endpoint = Endpoint.parse(self.listen or "")
        if self.token is None and self.client_ca_file is None and not _is_local(endpoint):
            problems.append(
                f"operations.listen is {shown(self.listen)}, where others on the network can ask: name a token by"
                " operations.token_file, or the authority of their certificates by operations.client_ca_file, or"
                " listen at interface=127.0.0.1"
            )
        if problems:
            raise SettingsError(*problems)


def _is_local(endpoint: Endpoint) -> bool:
    """Say whether only this machine can connect; a `systemd:` endpoint does not say where it listens."""
    if endpoint.kind in ("", "unix"):
        return True
    return endpoint.kind in ("tcp", "tcp6", "ssl") and is_loopback(endpoint.interface_and_port[0])
