"""The table [webhook]."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from attrs import Factory, frozen

from component_http.contract.url import WebhookUrl
from component_http.errors import SettingsError
from component_http.settings.declaration import Table, secret, secret_file, secrets, setting
from component_http.settings.values.addresses import DOMAIN
from component_http.settings.values.http import HEADERS, PROXY, SIGNING_SECRET, TOKEN
from component_http.settings.values.plain import RATE, SWITCH, file_path, number, secret_path, secret_paths, whole


@frozen
class WebhookSettings(Table):
    """
    The HTTP side.

    Once constructed, `bearer_token` is the token to use, or None; `signing_secrets` are those to sign with.
    """

    TABLE: ClassVar[str] = "webhook"

    timeout: float = setting(
        number(0.1, 3600, "seconds"),
        "the time that one POST may take in all, from connecting to the last byte of the response",
        default=60.0,
        why="a bot that thinks for 20 seconds is normal",
    )
    connect_timeout: float = setting(
        number(0.1, 300, "seconds"),
        "the part of timeout that connecting may take, TLS included",
        default=5.0,
        why="a webhook that is there accepts within milliseconds; one that is not should be noticed soon",
    )
    max_connections: int = setting(
        whole(1, 1000, "connections"),
        "the most connections to the webhook at once; other POSTs wait in order",
        default=32,
        why="a small webhook can bear 32; beyond 1000 a process runs out of sockets",
    )
    rate: tuple[int, float] | None = setting(
        RATE,
        "the most POSTs that begin within any time of this length, retries included; the others wait, iqs first, which"
        " is no failure of the webhook",
        default=None,
        why="a host that bills or blocks a bot by requests per second needs a limit that is not found by trying",
        example='"50/1s"',
    )
    headers: Mapping[str, str] = setting(
        HEADERS,
        "headers for every POST, such as an API key",
        default=Factory(dict),
        why="headers that HTTP itself or the webhook contract decides cannot be set; the values stay out of the log",
        example='X-Api-Key = "..."',
        show=lambda headers: f"<{len(headers)} headers>",
    )
    bearer_token_file: str | None = secret_file(
        "a token",
        "the file that holds a bearer token for the webhook in one line",
        '"token"',
        "a token in the settings file would be in every copy of that file",
    )
    signing_secret_files: tuple[str, ...] | None = setting(
        secret_paths("a file with a secret for signatures"),
        "the files with the secrets that sign each POST, one signature by each, as Standard Webhooks has it",
        default=None,
        why="a webhook that checks the signature takes requests from nobody else; while a secret is replaced both sign",
        example='["signing-secret"]',
    )
    signing_secrets: tuple[str, ...] = secrets(SIGNING_SECRET, "the secrets themselves", "signing_secret_files")
    bearer_token: str | None = secret(TOKEN, "the token itself", "bearer_token_file")
    ca_file: str | None = setting(
        file_path("a file with certificates in PEM"),
        "the file with the authorities that may sign the webhook's certificate; unless set those that the machine"
        " trusts",
        default=None,
        why="an authority of your own need not be trusted by the whole machine; like the next three files it is read"
        " again when it changes",
        example='"authorities.pem"',
    )
    client_certificate: str | None = setting(
        file_path("a file with a certificate in PEM"),
        "the file with the gateway's own certificate, for a webhook that asks for one",
        default=None,
        example='"gateway.pem"',
    )
    client_key: str | None = setting(
        secret_path("a file with a key in PEM"),
        "the file with the key of client_certificate, if it is not in the same file",
        default=None,
        example='"gateway.key"',
    )
    crl_file: str | None = setting(
        file_path("a file with a list of revoked certificates (CRL) in PEM"),
        "the file with the certificates that the webhook's authority has revoked",
        default=None,
        why="a certificate whose key was stolen is good until it ends, unless somebody asks",
        example='"revoked.pem"',
    )
    server_name: str | None = setting(
        DOMAIN,
        "the name that the webhook's certificate has to have, and that it is asked for; the host of the URL unless set",
        default=None,
        why="a webhook that is reached by its address, or through a tunnel, has a certificate for its name",
        example='"bot.example.org"',
    )
    require_tls: bool = setting(
        SWITCH,
        "refuse an http:// webhook on another machine",
        default=False,
        why="without it that is a warning, because many have it today",
    )
    proxy: str | None = setting(
        PROXY,
        "the HTTP proxy through which the webhook is reached, by CONNECT; it may have user:password@ in it",
        default=None,
        why="some networks let nothing else out",
        example='"http://proxy.example.org:3128"',
        show=lambda url: repr(url and WebhookUrl.parse(url).origin),
    )
    max_body_bytes: int = setting(
        whole(1024, 67_108_864, "bytes"),
        "the largest response body that is read; a larger one is refused",
        default=1_048_576,
        why="memory may have to hold the bodies of max_connections responses at once",
    )

    def __attrs_post_init__(self) -> None:
        if self.client_key is not None and self.client_certificate is None:
            raise SettingsError("webhook.client_key is there, but not webhook.client_certificate: name the certificate")
