"""The table [api], and the tables [[api.token]] and [[api.hook]] in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import ClassVar

from attrs import frozen

from component_http.contract.address import Address, any_of
from component_http.contract.endpoint import Endpoint
from component_http.contract.stanza import STANZA_KINDS
from component_http.errors import SettingsError
from component_http.settings.declaration import Table, read_text, rows, secret, secret_file, setting
from component_http.settings.ports import asks_nobody, client_ca_file
from component_http.settings.values.addresses import DOMAINS, PATTERNS, RECIPIENTS, SENDER
from component_http.settings.values.endpoints import LISTEN
from component_http.settings.values.http import BASE_URL, CREDENTIAL, SECRET
from component_http.settings.values.plain import NAME, RATE, STANZAS, SWITCH, choice, file_path, number, whole
from component_http.settings.values.value_type import shown

_NO_SECRET = "{key} is missing: it names the file with the secret"


_MAX_TEMPLATE_BYTES = 65_536
"""Bytes of a template's file that are read; a template has some hundred."""


def _template_text(value: object, owner: HookSettings) -> str | None:
    path = owner.template_file
    if path is None:
        return None if value is None else str(value)
    return read_text(f"api.hook.template_file {shown(path)}", path, _MAX_TEMPLATE_BYTES)


@frozen
class TokenSettings(Table):
    """
    One user of the API, and what that user may do: each [[api.token]] is one.

    Once constructed, `token` is the token itself.
    """

    TABLE: ClassVar[str] = "api.token"

    name: str = setting(NAME, "its name in the log, and the user's name in Basic auth", example='"ops"')
    token_file: str | None = secret_file(
        "the token",
        "the file that holds the token in one line",
        '"ops-token"',
        "a token in the settings file would be in every copy of that file",
    )
    token: str = secret(CREDENTIAL, "the token itself", "token_file", missing=_NO_SECRET)
    may_send_as: tuple[str, ...] = setting(
        PATTERNS,
        "the addresses of the component that it may send from; * stands for any characters",
        default=("*",),
        why="a stanza that names no sender comes from sender, or else from the first of these without a *, or else from"
        " component.sender",
        example='["alerts@bot.example.org"]',
    )
    sender: str | None = setting(
        SENDER,
        "the address of the component that sends its stanzas which name no sender",
        default=None,
        why="it must match may_send_as",
        example='"alerts@bot.example.org"',
    )
    may_send_to: tuple[str, ...] = setting(
        PATTERNS,
        "the addresses, without their resources, that it may send to; * stands for any characters",
        default=("*",),
        why="a monitoring script has no business with strangers",
        example='["*@example.org"]',
    )
    components: tuple[str, ...] = setting(
        DOMAINS,
        "the components that it is for, by their domains; all of them if there are none",
        default=(),
        why="a script of one bot has no business with the others",
        example='["bot.example.org"]',
    )
    kinds: tuple[str, ...] = setting(
        STANZAS,
        "the kinds of stanza that it may send",
        default=STANZA_KINDS,
        why="a script that only sends messages needs nothing else",
    )
    admin: bool = setting(
        SWITCH,
        "allow it to control the gateway itself too: /v1/webhook/wake and /v1/deliveries",
        default=False,
        why="a script that sends messages need not be able to do that",
    )
    rate: tuple[int, float] = setting(
        RATE,
        "the most requests within a time; any other gets 429, and each stanza of an array counts as one",
        default=(100, 10.0),
        why="a script that runs wild does not take the server's capacity from users",
    )

    def __attrs_post_init__(self) -> None:
        if self.sender is not None and not any_of(self.may_send_as).fullmatch(str(Address.parse(self.sender).bare)):
            raise SettingsError(
                f"api.token {self.name} has {shown(self.sender)} as sender, but that does not match its may_send_as"
            )


@frozen
class HookSettings(Table):
    """
    A URL for a program that knows nothing of XMPP: each [[api.hook]] is one.

    Once constructed, `secret` is the secret itself, and `template_text` the text of `template_file`, or None.
    """

    TABLE: ClassVar[str] = "api.hook"

    name: str = setting(NAME, "its name in the log", example='"alerts"')
    secret_file: str | None = secret_file(
        "the secret",
        "the file that holds the last part of its URL, /hooks/SECRET, in one line",
        '"alerts-secret"',
        "anybody who has the URL can send",
    )
    secret: str = secret(CREDENTIAL, "the secret itself", "secret_file", missing=_NO_SECRET)
    to: tuple[str, ...] = setting(
        RECIPIENTS,
        "the recipients of its messages",
        why="they are fixed here, so that somebody who has the URL cannot write to others",
        example='"oncall@example.org"',
    )
    send_as: str | None = setting(
        SENDER,
        "the address of the component that sends its messages; component.sender unless set",
        default=None,
        example='"alerts@bot.example.org"',
    )
    type: str = setting(
        choice("chat", "normal", "headline", "groupchat"),
        "the type of its messages",
        default="chat",
        why="groupchat is for chat rooms: the address enters a room that it is not in",
    )
    template: str | None = setting(
        choice("alertmanager", "generic", "gitea", "github", "grafana"),
        "a template of the gateway's own, for the webhooks of this program; generic finds the text in most JSON."
        " Without a template the hook accepts messages for Slack",
        default=None,
        example='"alertmanager"',
    )
    template_file: str | None = setting(
        file_path("a file with a Jinja2 template"),
        "a template of your own, which makes the text of a message from any JSON",
        default=None,
        example='"build.j2"',
    )
    template_text: str | None = setting(
        SECRET, "the text of the template", default=None, show=False, resolve=_template_text, hidden=True
    )
    rate: tuple[int, float] = setting(
        RATE,
        "the most requests within a time; any other gets 429",
        default=(100, 10.0),
        why="a program that runs wild does not take the server's capacity from users",
    )

    def __attrs_post_init__(self) -> None:
        problems = []
        if self.template is not None and self.template_text is not None:
            problems.append(f"api.hook {self.name} has template and template_file: remove one of the two")
        if "/" in self.secret:
            problems.append(f"the secret of api.hook {self.name} must not have a /, because it is one part of a URL")
        if problems:
            raise SettingsError(*problems)


def _mixed_up(rows: Sequence[TokenSettings | HookSettings], secrets: Sequence[str]) -> Iterator[str]:
    """Write a sentence for each name, and one for secrets, that two rows share."""
    names = Counter(row.name for row in rows)
    for name, count in names.items():
        if count > 1:
            yield f"[[{rows[0].TABLE}]] is there twice with the name {shown(name)}: give each its own"
    if len(set(secrets)) < len(secrets):
        yield f"two of [[{rows[0].TABLE}]] hold the same secret: give each its own"


@frozen
class ApiSettings(Table):
    """The HTTP API, by which other programs send."""

    TABLE: ClassVar[str] = "api"

    listen: str | None = setting(
        LISTEN,
        "the address where the API listens, as a Twisted server endpoint; there is no API unless it is set",
        default=None,
        why="over plain HTTP others on the network can read the tokens, so use it on one machine only; ssl: endpoints"
        " speak TLS",
        example='"tcp:8347:interface=127.0.0.1"',
    )
    client_ca_file: str | None = client_ca_file("a token alone can be copied")
    url: str | None = setting(
        BASE_URL,
        "the URL where the webhook reaches the API, for the links to reply by; the gateway works it out if listen names"
        " an interface",
        default=None,
        why="only you know the URL of a proxy in front",
        example='"https://bot.example.org/xmpp"',
    )
    max_connections: int = setting(
        whole(1, 10_000, "connections"),
        "the most connections at once; beyond it the oldest one without a token, or else the oldest idle one, makes"
        " room, or the new one gets 503",
        default=100,
        why="a process has a limited number of sockets, and the stream to the server needs one of them",
    )
    max_body_bytes: int = setting(
        whole(1024, 67_108_864, "bytes"),
        "the largest request body that is read, before and after decompression; a larger one gets 413",
        default=1_048_576,
        why="memory may have to hold the bodies of max_connections requests at once",
    )
    request_timeout: float = setting(
        number(1, 600, "seconds"),
        "the time in which a request has to arrive in full, and for which a connection may be idle",
        default=30.0,
        why="a client that sends a byte now and then must not keep a connection for ever",
    )
    max_wait: float = setting(
        number(1, 600, "seconds"),
        "the longest time that a request may ask to wait for the answer to an iq, or until a stanza is sent",
        default=60.0,
        why="proxies give up after about a minute",
    )
    reply_links: str = setting(
        choice("conversation", "wide"),
        "the stanzas that a link to reply by may send: conversation allows only those within its conversation, wide"
        " allows whatever the webhook could have answered at once, to anybody",
        default="conversation",
        why="a link needs no token and is good for a day, so somebody who finds one in a log should not be able to do"
        " more with it",
    )
    token: tuple[TokenSettings, ...] = rows(TokenSettings, "the users of the API")
    hook: tuple[HookSettings, ...] = rows(HookSettings, "URLs for programs that know nothing of XMPP")

    def __attrs_post_init__(self) -> None:
        problems = [
            *_mixed_up(self.token, [row.token for row in self.token]),
            *_mixed_up(self.hook, [row.secret for row in self.hook]),
            *asks_nobody(self),
        ]
        if problems:
            raise SettingsError(*problems)

    @property
    def base_url(self) -> str | None:
        """The URL where the webhook reaches the API, without a slash at the end; None if it is not known."""
        if self.url is not None or self.listen is None:
            return self.url
        endpoint = Endpoint.parse(self.listen)
        host, port = endpoint.interface_and_port
        if endpoint.kind not in ("tcp", "tcp6", "ssl") or host in ("", "0.0.0.0", "::"):
            return None
        return f"{'https' if endpoint.kind == 'ssl' else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
