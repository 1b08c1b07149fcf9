"""The settings of a gateway in the playground."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from secrets import token_hex

from attrs import evolve

from component_http.settings import SECRET_VARIABLE, DeliverySettings, Settings, SpoolSettings, TokenSettings

DOMAIN = "bot.localhost"
"""The component's domain, unless a flag or a settings file names one."""

TOKEN = "playground"
"""The name of the playground's own token for the API."""


def playground_settings(
    post_url: str | None = None,
    *,
    config: str | None = None,
    domain: str | None = None,
    stanzas: Iterable[str] | None = None,
) -> Settings:
    """
    Make the settings of a gateway in the playground.

    Args:
        post_url: The bot's URL; None for that of the settings file.
        config: A settings file. Its server, its secret, its spool and its retries are not used.
        domain: The component's domain; None for that of the settings file, or `DOMAIN`.
        stanzas: The kinds of stanza that are POSTed; None for those of the settings file, or the gateway's default.

    Raises:
        SettingsError: No gateway can run with these arguments.
    """
    given = {"post-url": post_url, "domain": domain, "stanzas": None if stanzas is None else ",".join(stanzas)}
    if config is None and domain is None:
        given["domain"] = DOMAIN
    settings = Settings.from_flags(
        {name: value for name, value in given.items() if value is not None},
        config,
        # The server's address and secret are not known before it listens; this only passes the check.
        env={SECRET_VARIABLE: "unused"},
        leave_out=("component.server", "component.secret_file"),
        needs_webhook=True,
    )
    token = TokenSettings(name=TOKEN, token=token_hex(16))
    others = tuple(other for other in settings.api.token if other.name != TOKEN)
    listen = f"tcp:{_free_port()}:interface=127.0.0.1"
    return evolve(
        settings,
        api=evolve(settings.api, listen=listen, url=None, token=(token, *others)),
        # A user who leaves does not want to wait for a slow bot.
        delivery=DeliverySettings(max_attempts=1, drain_timeout=0),
        spool=SpoolSettings(kind="memory"),
    )


def _free_port() -> int:
    """Find a free port for the API, because its URL has to be known before it listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
