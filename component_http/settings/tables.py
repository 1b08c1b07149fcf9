"""
The settings themselves: what there is, the defaults, the limits and the reason for each.

The reader of settings files, the flags, `--help` and the configuration reference are made from these fields.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

from attrs import NOTHING, Attribute, Converter, Factory, field, fields, frozen

from component_http.contract.address import Address, any_of
from component_http.contract.endpoint import Endpoint
from component_http.contract.stanza import STANZA_KINDS
from component_http.contract.url import WebhookUrl, is_loopback
from component_http.errors import SettingsError
from component_http.settings import values
from component_http.settings.values import (
    ValueType,
    accepted,
    file_path,
    listening_at,
    number,
    secret_path,
    shown,
    whole,
)

__all__ = [
    "SECRET_VARIABLE",
    "About",
    "ApiSettings",
    "ComponentSettings",
    "DeliverySettings",
    "HookSettings",
    "SpoolSettings",
    "Table",
    "TokenSettings",
    "WebhookSettings",
    "about",
    "read_text",
    "secret_problems",
    "setting",
    "without_line_end",
]

SECRET_VARIABLE = "COMPONENT_HTTP_SECRET"
"""The environment variable that may hold the component's secret; empty is the same as not set."""

STATE_VARIABLE = "STATE_DIRECTORY"
"""The environment variable that may name the folder for an sqlite spool."""

SPOOL_FILE = "component-http.sqlite3"
"""The name of an sqlite spool's file, unless it is set."""

_FILE_OF = {
    "secret": "secret_file",
    "bearer_token": "bearer_token_file",
    "token": "token_file",
    "template_text": "template_file",
}
"""By the key of what only an application may give itself, the key of the file that it else comes from."""

_MAX_TEMPLATE_BYTES = 65_536
"""Bytes of a template's file that are read; a message has some hundred."""

_MAX_SECRET_BYTES = 4096
"""Bytes of a secret's file that are read, so that a wrong path cannot fill the memory."""


@frozen
class About:
    """
    What a field knows beside its name and its default.

    Attributes:
        kind: The values it takes.
        help: What it is for; a phrase that starts in lower case.
        reason: Why it has this default and these limits.
        example: A value to start from, as TOML, where there is no default.
        aliases: Other names of its flag, shorter ones.
        hidden: Only an application may give it, neither a file nor a flag.
        required: Without it there is no gateway, unless the application has something in its place.
        retired: It does nothing any more, and stands in no reference.
        rows: Its value is any number of such tables, one for each [[...]] in a settings file.
    """

    kind: ValueType
    help: str
    reason: str = ""
    example: str = ""
    aliases: tuple[str, ...] = ()
    hidden: bool = False
    required: bool = False
    retired: bool = False
    rows: type[Table] | None = None


def about(attribute: Attribute[Any]) -> About:
    """What is known about a field made by `setting`."""
    known: About = attribute.metadata["about"]
    return known


def secret_problems(table: Any, given: Mapping[str, Any], spoilt: Collection[str]) -> Iterator[str]:
    """
    Check the secrets of a table that cannot be made, for another reason perhaps.

    Args:
        table: The class of the table, a `Table`.
        given: The values that can be used, by key.
        spoilt: The keys of values that cannot.

    Returns:
        A sentence for each secret that is missing or cannot be read.
    """
    values: dict[str, Any] = {known.name: given.get(known.name, known.default) for known in fields(table)}
    owner = SimpleNamespace(**values, TABLE=table.TABLE)
    for attribute in fields(table):
        if about(attribute).hidden and not {attribute.name, _FILE_OF[attribute.name]} & set(spoilt):
            try:
                attribute.metadata["resolve"](values[attribute.name], owner)
            except SettingsError as error:
                yield from error.sentences


def _check(value: object, owner: Any, attribute: Attribute[Any]) -> object:
    if value is None and attribute.default is None:
        return None
    label = f"{owner.TABLE}.{attribute.name}" if owner.TABLE else attribute.name
    return accepted(label, value, about(attribute).kind)


def setting(
    known: About,
    *,
    default: Any = NOTHING,
    show: bool | Callable[[Any], str] = True,
    resolve: Callable[[Any, Any], object] | None = None,
) -> Any:
    """
    A field that checks what it is given.

    Args:
        known: What it takes and what it is for.
        default: Its default; None also means that None is allowed. Without one the field is required.
        show: Whether, or how, `repr` shows it.
        resolve: Makes the value from the one given and the instance, whose earlier fields are set; instead of checking.
    """
    converter: Any = (
        Converter(_check, takes_self=True, takes_field=True) if resolve is None else Converter(resolve, takes_self=True)
    )
    metadata = {"about": known, "resolve": resolve}
    return field(default=default, kw_only=True, repr=show, converter=converter, metadata=metadata)


class Table:
    """
    Settings that belong together.

    Attributes:
        TABLE: Its name in a settings file.
    """

    TABLE: ClassVar[str] = ""
    __slots__ = ()


def rows(table: type[Table], help: str) -> Any:
    """A field that holds any number of tables of one kind; without any unless they are given."""

    def accept(value: Any) -> tuple[Table, ...]:
        given = tuple(value)
        if not all(isinstance(row, table) for row in given):
            raise TypeError(f"every {table.TABLE} must be a {table.__name__}")
        return given

    return setting(About(ValueType(f"tables: [[{table.TABLE}]]", accept, None), help, rows=table), default=())


# Secrets come from files.


def read_text(label: str, path: str | os.PathLike[str], limit: int) -> str:
    """
    The text of a small file.

    Args:
        label: How an error calls the file.
        path: The file.
        limit: Bytes it may have.

    Raises:
        SettingsError: It cannot be read, is larger, or is not UTF-8.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise SettingsError(f"{label} cannot be read: {error.strerror or error}") from None
    if len(content) > limit:
        raise SettingsError(f"{label} has more than {limit} bytes, so it must be another file than the one meant")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{label} is not UTF-8 text, see byte {error.start}") from None


def without_line_end(text: str) -> str:
    """A text without the end of its line, which editors and shells add to what is only a secret."""
    return text.removesuffix("\n").removesuffix("\r")


def _read_secret(label: str, path: str) -> str:
    """The one line in a secret's file, without its end."""
    secret = without_line_end(read_text(label, path, _MAX_SECRET_BYTES))
    if not secret:
        raise SettingsError(f"{label} is empty, but must hold the secret in one line")
    if not secret.isprintable():
        raise SettingsError(f"{label} must hold the secret in one line, and nothing else")
    return secret


def _one_secret(given: str | None, key: str, path: str | None, besides: str) -> str | None:
    """The secret given directly or by a file; given both ways it must be the same, lest an old one stay in use."""
    if path is None:
        return given
    label = f"{key} {shown(path)}"
    from_file = _read_secret(label, path)
    if given is not None and given != from_file:
        raise SettingsError(f"{label} holds another secret than {besides}: remove one of the two")
    return from_file


def _resolve_secret(value: object, owner: ComponentSettings) -> str:
    given = None if value is None else accepted("component.secret", value, values.SECRET)
    besides = f"the one given directly or in the environment variable {SECRET_VARIABLE}"
    secret = _one_secret(given, "component.secret_file", owner.secret_file, besides)
    if secret is None:
        raise SettingsError(
            f"component.secret_file (--secret-file) is missing and {SECRET_VARIABLE} is not in the environment:"
            " one of them must give the secret that the XMPP server has for the component"
        )
    return secret


def _resolve_token(value: object, owner: WebhookSettings) -> str | None:
    key = "webhook.bearer_token_file"
    given = None if value is None else accepted("webhook.bearer_token", value, values.TOKEN)
    token = _one_secret(given, key, owner.bearer_token_file, "webhook.bearer_token")
    return None if token is None else accepted(f"what {key} holds", token, values.TOKEN)


def _resolve_fallback(value: object, owner: ComponentSettings) -> str | None:
    """The domain given; else the one above the component's, if it has one."""
    if value is not None:
        domain: str = accepted("component.write_barrier_fallback", value, values.DOMAIN)
        return domain
    parent = owner.domain.partition(".")[2]
    is_of_numbers = parent.rpartition(".")[2].isdigit()  # the component's is an IP address
    return None if is_of_numbers else parent or None


def _resolve_credential(key: str, hidden: str) -> Callable[[object, Any], str]:
    """Makes what `setting` resolves a secret by that comes from the file in `key`, or directly as `hidden`."""

    def resolve(value: object, owner: Any) -> str:
        given = None if value is None else accepted(f"{owner.TABLE}.{hidden}", value, values.CREDENTIAL)
        name = f"{owner.TABLE}.{key}"
        secret = _one_secret(given, name, getattr(owner, key), f"{owner.TABLE}.{hidden}")
        if secret is None:
            raise SettingsError(f"{name} is missing: it names the file with the secret")
        credential: str = accepted(f"what {name} {shown(getattr(owner, key))} holds", secret, values.CREDENTIAL)
        return credential

    return resolve


def _origin(url: str) -> str:
    return WebhookUrl.parse(url).origin.decode("ascii")


def _resolve_template(value: object, owner: HookSettings) -> str | None:
    path = owner.template_file
    if path is None:
        return None if value is None else str(value)
    return read_text(f"api.hook.template_file {shown(path)}", path, _MAX_TEMPLATE_BYTES)


# The tables, in the order of a settings file.


@frozen
class ComponentSettings(Table):
    """
    The XMPP side: which component, on which server, and what of its stanzas the webhook gets.

    `secret` is the secret to use, once constructed, wherever it came from.
    """

    TABLE: ClassVar[str] = "component"

    domain: str = setting(
        About(
            values.DOMAIN,
            "the component's own domain, as the XMPP server knows it",
            example='"bot.example.org"',
        )
    )
    server: str = setting(
        About(
            values.SERVER,
            "where the XMPP server takes component connections, as a Twisted client endpoint",
            "5347 is the component port of Prosody and ejabberd; it speaks plain TCP, so both ends belong on one"
            " machine or one trusted network",
        ),
        default="tcp:127.0.0.1:5347",
    )
    secret_file: str | None = setting(
        About(
            secret_path("a file with the secret"),
            "the file that holds the component's secret in one line; in a settings file a relative path starts at its"
            " folder",
            f"every user of a machine sees its command lines; the environment variable {SECRET_VARIABLE} may give the"
            " secret instead, and where both are given they must be the same",
            example='"secret"',
        ),
        default=None,
    )
    secret: str = setting(
        About(values.SECRET, "the secret itself", hidden=True), default=None, show=False, resolve=_resolve_secret
    )
    component_post_url: str | None = setting(
        About(
            values.URL,
            "the webhook: stanzas are POSTed there; a gateway that only sends, by its API, does without",
            "user:password in it goes out as Basic auth; the log shows no more than scheme, host and port, for the rest"
            " may be a secret; a flag must not hold user or password",
            example='"http://127.0.0.1:8080/"',
            aliases=("post-url",),
            required=True,
        ),
        default=None,
        show=lambda url: repr(url and _origin(url)),
    )
    sender: str | None = setting(
        About(
            values.SENDER,
            "the address of the component that pushed stanzas come from, where nothing else says it; the bare domain"
            " unless set",
            "people know the bot by this address; they have never written to the bare domain",
            example='"bot@bot.example.org"',
        ),
        default=None,
    )
    component_post_stanzas: tuple[str, ...] = setting(
        About(
            values.STANZAS,
            "the kinds of stanza that are POSTed; the gateway looks after the others",
            "the default is mod_component_http's, and so is the older name post_stanza_types that is understood too",
            aliases=("stanzas",),
        ),
        default=("message",),
    )
    profile: str = setting(
        About(
            values.choice("mod_component_http"),
            "the shape of requests and responses",
            "there is one so far, that of Prosody's module",
        ),
        default="mod_component_http",
    )
    answer_wellknown_iq: bool = setting(
        About(
            values.SWITCH,
            "answer disco, ping, version, last activity and time in the webhook's place, also when iq is POSTed",
            "clients and servers ask these of every address, and a bot rarely cares",
        ),
        default=True,
    )
    forward_bodyless: bool = setting(
        About(
            values.SWITCH,
            "POST messages without a body too: chat states, receipts, markers",
            "mod_component_http does; false spares a simple bot those",
        ),
        default=True,
    )
    forward_history: bool = setting(
        About(
            values.SWITCH,
            "POST what a room shows of its past when a bot joins it, too",
            "it is long answered, and an echo bot would answer all of it again",
        ),
        default=False,
    )
    forward_errors: bool = setting(
        About(
            values.SWITCH,
            "POST stanzas of type error too; they are never answered",
            "mod_component_http does; false spares a simple bot those",
        ),
        default=True,
    )
    nick: str | None = setting(
        About(
            values.NICK,
            "what the gateway is called in a chat room that it enters because the API or a hook writes there; the local"
            " part of the address that writes unless set",
            "where somebody else has that nick, it is tried with -2, -3, ... behind it",
            example='"alerts"',
        ),
        default=None,
    )
    create_rooms: bool = setting(
        About(
            values.SWITCH,
            "make a chat room that the API or a hook writes to and that does not exist, as its service makes them",
            "without it a misspelt room is an error, and not a new room that nobody reads",
        ),
        default=False,
    )
    max_stanza_bytes: int = setting(
        About(
            whole(10_000, 524_288, "bytes"),
            "the largest stanza that is taken from the server or sent to it",
            "RFC 6120 section 13.12 asks for 10000 at least; over a stanza beyond 512 KiB servers close the stream",
        ),
        default=262_144,
    )

    write_barrier: bool = setting(
        About(
            values.SWITCH,
            "ask the server by a ping to ourselves what it has received, and write the rest again after a lost stream",
            "the component protocol has no acknowledgements; the same ping shows within 45 s that a server has gone",
        ),
        default=True,
    )
    write_barrier_fallback: str | None = setting(
        About(
            values.DOMAIN,
            "the domain that is asked too where a ping to ourselves does not come back; the component's own for none",
            "whoever answers, the server has read all that was before the ping; without the setting it is the domain"
            " without its first label, which is usually the server's own",
            example='"example.org"',
        ),
        default=None,
        resolve=_resolve_fallback,
    )

    def __attrs_post_init__(self) -> None:
        if self.sender is not None and Address.parse(self.sender).domain != self.domain:
            raise SettingsError(
                f"component.sender is {shown(self.sender)}, but the component can only send from {self.domain} and"
                " addresses in it"
            )

    @property
    def default_sender(self) -> str:
        """Where pushed stanzas come from that nothing else gives a sender."""
        return self.sender or self.domain

    @property
    def post_origin(self) -> str | None:
        """What of `component_post_url` may be logged: scheme, host and port; None without a webhook."""
        return self.component_post_url and _origin(self.component_post_url)

    @property
    def posted(self) -> str:
        """What is POSTed and where to, for the log."""
        if self.post_origin is None:
            return "no webhook"
        return f"{', '.join(self.component_post_stanzas)} to {self.post_origin}"

    @property
    def server_address(self) -> str:
        """Where `server` leads to, for the log: host and port, or the path of a socket."""
        endpoint = Endpoint.parse(self.server)
        if endpoint.kind not in ("tcp", "tls"):
            return endpoint.named.get("path") or next(iter(endpoint.positional), self.server)
        host, port = endpoint.host_and_port
        return f"{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def is_server_exposed(self) -> bool:
        """What passes between the gateway and the XMPP server is in the open, on a network."""
        endpoint = Endpoint.parse(self.server)
        return endpoint.kind == "tcp" and not is_loopback(endpoint.host_and_port[0])

    @property
    def is_webhook_exposed(self) -> bool:
        """What passes between the gateway and the webhook is in the open, on a network."""
        if self.component_post_url is None:
            return False
        url = WebhookUrl.parse(self.component_post_url)
        return not url.secure and not is_loopback(url.host)

    @property
    def url_holds_credentials(self) -> bool:
        """`component_post_url` has a user or a password in it."""
        return bool(re.match("[a-z]+://[^/?]*@", self.component_post_url or "", re.IGNORECASE))


@frozen
class WebhookSettings(Table):
    """
    The HTTP side.

    `bearer_token` is the token to use, once constructed, or None for none.
    """

    TABLE: ClassVar[str] = "webhook"

    timeout: float = setting(
        About(
            number(0.1, 3600, "seconds"),
            "the time one POST may take in all, from connecting to the last byte of the response",
            "a bot that thinks for 20 seconds is normal",
        ),
        default=60.0,
    )
    connect_timeout: float = setting(
        About(
            number(0.1, 300, "seconds"),
            "the part of timeout that connecting may take, TLS included",
            "a webhook that is there answers in milliseconds, and one that is not should be found out soon",
        ),
        default=5.0,
    )
    max_connections: int = setting(
        About(
            whole(1, 1000, "connections"),
            "connections to the webhook at once; more POSTs wait in order",
            "32 is what small webhooks bear; with more than 1000 a process runs out of sockets",
        ),
        default=32,
    )
    headers: Mapping[str, str] = setting(
        About(
            values.HEADERS,
            "headers for every POST, such as an API key",
            "what HTTP itself or the contract with the webhook decides cannot be set; the values stay out of the log",
            example='X-Api-Key = "..."',
        ),
        default=Factory(dict),
        show=lambda headers: f"<{len(headers)} headers>",
    )
    bearer_token_file: str | None = setting(
        About(
            secret_path("a file with a token"),
            "the file that holds a bearer token for the webhook in one line; in a settings file a relative path starts"
            " at its folder",
            "a token in the settings file itself would be in every copy of it",
            example='"token"',
        ),
        default=None,
    )
    bearer_token: str | None = setting(
        About(values.TOKEN, "the token itself", hidden=True), default=None, show=False, resolve=_resolve_token
    )
    max_body_bytes: int = setting(
        About(
            whole(1024, 67_108_864, "bytes"),
            "the largest response body that is read; a larger one is refused",
            "bodies are held in memory, max_connections of them at once",
        ),
        default=1_048_576,
    )

    def authorization_sources(self) -> list[str]:
        """The settings here that set the Authorization header."""
        by_token = ["webhook.bearer_token_file"] if self.bearer_token is not None else []
        return by_token + [f"webhook.headers.{name}" for name in self.headers if name.lower() == "authorization"]


MESSAGE_DEADLINE = 900.0

OUTAGE_GRACE = 86_400.0

_IGNORED = About(
    ValueType("anything", lambda value: value),
    "not used any more, for there is no retry budget; settings files of earlier versions have it",
    retired=True,
)


def _resolve_grace(value: object, owner: DeliverySettings) -> float:
    """The grace given; else a day, unless somebody has decided how long a message may take."""
    if value is None:
        return OUTAGE_GRACE if owner.message_deadline == MESSAGE_DEADLINE else 0.0
    grace: float = accepted("delivery.outage_grace", value, number(0, 604_800, "seconds"))
    return grace


@frozen
class DeliverySettings(Table):
    """How stanzas are carried to the webhook."""

    TABLE: ClassVar[str] = "delivery"

    max_attempts: int = setting(
        About(
            whole(1, 100, "attempts"),
            "attempts at one stanza that may fail by the webhook's fault; 1 is exactly one POST, whatever happens",
            "while the webhook cannot be reached or is busy they are not counted: then only the deadline ends them",
        ),
        default=10,
    )
    message_deadline: float = setting(
        About(
            number(1, 86_400, "seconds"),
            "the time a message has to be answered in; after it the sender gets a stanza error",
            "long enough to restart or redeploy a bot, short enough for a person to remember the question",
        ),
        default=MESSAGE_DEADLINE,
    )
    iq_deadline: float = setting(
        About(
            number(1, 86_400, "seconds"),
            "the same for an iq",
            "clients stop waiting for an answer after 30 seconds or so",
        ),
        default=25.0,
    )
    presence_deadline: float = setting(
        About(
            number(1, 86_400, "seconds"),
            "the same for a presence; its sender is never told",
            "presence that is older says nothing any more",
        ),
        default=60.0,
    )
    outage_grace: float = setting(
        About(
            number(0, 604_800, "seconds"),
            "the time, counted from its acceptance, that a message waits which the webhook could not be asked about"
            " before message_deadline; 0 for no longer than that",
            "86400 unless message_deadline is set to another time than its default, then 0: so every message reaches a"
            " webhook that was away for hours, and who wants an error after minutes gets one",
            example="86400.0",
        ),
        default=None,
        resolve=_resolve_grace,
    )
    retry_base: float = setting(
        About(
            number(0.01, 60, "seconds"),
            "the longest wait before the second attempt; it doubles with each, and the wait is drawn from zero to it",
            "full jitter keeps stanzas that failed together from coming back together",
        ),
        default=0.5,
    )
    retry_cap: float = setting(
        About(
            number(0.01, 3600, "seconds"),
            "the longest wait before any attempt, unless the webhook asks for more by Retry-After; while it is away it"
            " is breaker_probe_interval, and after a 429 ten seconds",
            "a stanza that a webhook fails on should not keep it busy",
        ),
        default=60.0,
    )
    retry_budget_percent: object = setting(_IGNORED, default=None)
    retry_budget_per_second: object = setting(_IGNORED, default=None)
    longest_pause: float = setting(
        About(
            number(0, 3600, "seconds"),
            "how long a 503 with Retry-After can stop all POSTs",
            "a webhook that asks for an hour is asked again after a minute",
        ),
        default=60.0,
    )
    breaker_in_a_row: int = setting(
        About(
            whole(1, 1000, "failures"),
            "conversations that failed one after the other, without any success between, after which POSTs stop but"
            " for those that probe",
            "a webhook that is gone is not asked by every stanza; one stanza that it fails on changes nothing",
        ),
        default=5,
    )
    breaker_requests: int = setting(
        About(
            whole(1, 10_000, "responses"),
            "outcomes within breaker_window that are enough to judge by their share of failures",
            "a share of few says nothing",
        ),
        default=20,
    )
    breaker_percent: float = setting(
        About(
            number(1, 100, "percent"),
            "share of failures among them at which POSTs stop likewise",
            "a webhook that answers some of them is better asked for the others too",
        ),
        default=100.0,
    )
    breaker_window: float = setting(
        About(
            number(1, 600, "seconds"),
            "how far back outcomes are judged",
            "older failures say nothing about now",
        ),
        default=10.0,
    )
    breaker_probe_interval: float = setting(
        About(
            number(0.1, 600, "seconds"),
            "the time between two probes while POSTs are stopped",
            "a webhook that is back is found within seconds, and asking is no burden",
        ),
        default=2.0,
    )
    on_gone: str = setting(
        About(
            values.choice("bounce", "disable"),
            "what a 410 Gone means: an error for the one stanza, or that nothing is POSTed until the next start",
            "some webhook hosts say so of an address that was deleted on purpose",
        ),
        default="bounce",
    )
    loop_guard: tuple[int, float] | Literal["off"] | None = setting(
        About(
            values.LOOP_GUARD,
            "replies in one conversation at most within a time, such as 20/10s; none are sent beyond it, iqs excepted."
            " Unless it is set, a conversation in which two programs clearly answer each other is slowed down to one"
            " request a second; off switches that off as well",
            "two bots that answer each other never stop; a fixed limit would hit healthy load",
            example='"20/10s"',
        ),
        default=None,
    )
    max_pending: int = setting(
        About(
            whole(10, 1_000_000, "stanzas"),
            "accepted stanzas that wait for their end at most; more are refused with a wait error. Only a domain that"
            " holds little may go beyond it, by fair_share_percent, where others have used it up",
            "it bounds memory while the webhook is slow or away: each takes about 2 KB of it, and in a memory spool its"
            " request body besides; with a hundred thousand the process is noticeably slower",
        ),
        default=10_000,
    )
    max_pending_bytes: int | None = setting(
        About(
            whole(1_048_576, 4_294_967_296, "bytes"),
            "the same counted in bytes of request bodies, 1 GiB with an sqlite spool and 64 MiB with one in memory"
            " unless it is set",
            "it bounds the file, or the memory, when the stanzas are large; with less than 1 MiB a single large one"
            " would not fit",
            example="268435456",
        ),
        default=None,
    )
    max_per_conversation: int = setting(
        About(
            whole(1, 1_000_000, "stanzas"),
            "the same in one conversation: from one bare address to one bare address, iqs apart",
            "a conversation goes one by one, and nobody waits for the thousandth answer",
        ),
        default=1000,
    )
    fair_above_percent: float = setting(
        About(
            number(0, 100, "percent"),
            "how full max_pending or max_pending_bytes is before a sender's own share is looked at",
            "as long as there is room, nobody is refused for his share",
        ),
        default=50.0,
    )
    fair_share_percent: float = setting(
        About(
            number(0.1, 100, "percent"),
            "the share of the limit that one sender may hold from then on, and that one domain leaves to others while"
            " these have something pending; 100 switches both off",
            "so that one who floods, from one account or from many, takes no room from others",
        ),
        default=10.0,
    )
    pause_above_percent: float = setting(
        About(
            number(1, 100, "percent"),
            "how full either limit is when reading from the XMPP server pauses, at most 5 seconds at a time",
            "what waits at the server needs no refusal; servers cut off who does not read for long",
        ),
        default=75.0,
    )
    resume_below_percent: float = setting(
        About(
            number(0, 100, "percent"),
            "how full both are when it goes on",
            "well below pause_above_percent, so that it does not flutter",
        ),
        default=50.0,
    )
    drain_timeout: float = setting(
        About(
            number(0, 600, "seconds"),
            "the time accepted stanzas get to end when the gateway is stopped; after it senders get a wait error",
            "service managers kill what is still there after 90 seconds or so",
        ),
        default=20.0,
    )

    def __attrs_post_init__(self) -> None:
        problems = []
        if self.resume_below_percent > self.pause_above_percent:
            problems.append(
                f"delivery.resume_below_percent is {self.resume_below_percent:g}, but must not be above"
                f" delivery.pause_above_percent, which is {self.pause_above_percent:g}"
            )
        shortest = min(self.message_deadline, self.iq_deadline, self.presence_deadline)
        if self.retry_base >= shortest:
            problems.append(
                f"delivery.retry_base is {self.retry_base:g}, but must be below the shortest deadline, which is"
                f" {shortest:g}: nothing of that kind would be tried again"
            )
        if 0 < self.outage_grace < self.message_deadline:
            problems.append(
                f"delivery.outage_grace is {self.outage_grace:g}, but must be 0 or not below delivery.message_deadline,"
                f" which is {self.message_deadline:g}: a message waits that long in any case"
            )
        if self.retry_base > self.retry_cap:
            problems.append(
                f"delivery.retry_base is {self.retry_base:g}, but must not be above delivery.retry_cap, which is"
                f" {self.retry_cap:g}"
            )
        if problems:
            raise SettingsError(*problems)


@frozen
class SpoolSettings(Table):
    """Where accepted stanzas are kept until they are done."""

    TABLE: ClassVar[str] = "spool"

    kind: str = setting(
        About(
            values.choice("memory", "sqlite"),
            "where accepted stanzas are kept until they are done",
            "sqlite keeps it in a file, and waits for the disk before a stanza is accepted and before its answer is"
            " sent; memory loses what is under way when the process dies",
        ),
        default="sqlite",
    )
    path: str | None = setting(
        About(
            file_path("the spool's file"),
            f"the file of an sqlite spool, {SPOOL_FILE} in the folder that the environment variable {STATE_VARIABLE}"
            " names, or else in the current folder; in a settings file a relative path starts at its folder",
            "systemd sets that variable for a unit with StateDirectory",
            example='"spool.sqlite3"',
        ),
        default=None,
    )
    synchronous: Literal["FULL", "NORMAL"] = setting(
        About(
            values.choice("FULL", "NORMAL"),
            "whether an sqlite spool waits until the disk has each transaction",
            "after a loss of power NORMAL may lack the last second; a kill -9 costs neither of them anything",
        ),
        default="FULL",
    )
    letter_days: float = setting(
        About(
            number(0.01, 3650, "days"),
            "how long a dead letter is kept in an sqlite spool: what was given up, with the last response",
            "long enough to find out on a Monday what failed on a Friday; it holds what people wrote, so not for ever",
        ),
        default=7.0,
    )
    max_letters: int = setting(
        About(
            whole(0, 1_000_000, "letters"),
            "dead letters that are kept there at most; the oldest go first, and 0 keeps none",
            "a webhook that fails for a day must not fill the disk",
        ),
        default=10_000,
    )

    def file(self, env: Mapping[str, str] = os.environ) -> Path | None:
        """
        The spool's file, as an absolute path; None for a spool in memory.

        Args:
            env: Where `STATE_DIRECTORY` is looked up.
        """
        if self.kind == "memory":
            return None
        if self.path is not None:
            return Path(self.path).absolute()
        # systemd names several folders with colons between them.
        return Path(env.get(STATE_VARIABLE, "").partition(":")[0], SPOOL_FILE).absolute()

    def __attrs_post_init__(self) -> None:
        if self.path is not None and self.kind == "memory":
            raise SettingsError(f'spool.path is {shown(self.path)}, but spool.kind "memory" has no file: remove path')


@frozen
class TokenSettings(Table):
    """
    Who may use the API, and what for: each [[api.token]] is one.

    `token` is the token itself, once constructed.
    """

    TABLE: ClassVar[str] = "api.token"

    name: str = setting(
        About(
            values.NAME,
            "what it is called in the log, and the user's name in Basic auth",
            example='"ops"',
        )
    )
    token_file: str | None = setting(
        About(
            secret_path("a file with the token"),
            "the file that holds the token in one line; in a settings file a relative path starts at its folder",
            "a token in the settings file itself would be in every copy of it",
            example='"ops-token"',
        ),
        default=None,
    )
    token: str = setting(
        About(values.CREDENTIAL, "the token itself", hidden=True),
        default=None,
        show=False,
        resolve=_resolve_credential("token_file", "token"),
    )
    may_send_as: tuple[str, ...] = setting(
        About(
            values.PATTERNS,
            "the addresses of the component that it may send from; * is any characters",
            "what names no sender comes from sender, or else from the first of them without a *, or else from"
            " component.sender",
            example='["alerts@bot.example.org"]',
        ),
        default=("*",),
    )
    sender: str | None = setting(
        About(
            values.SENDER,
            "the address of the component that its stanzas come from that name none",
            "it must be one of may_send_as",
            example='"alerts@bot.example.org"',
        ),
        default=None,
    )
    may_send_to: tuple[str, ...] = setting(
        About(
            values.PATTERNS,
            "the addresses that it may send to, resources left aside; * is any characters",
            "a monitoring script has no business with strangers",
            example='["*@example.org"]',
        ),
        default=("*",),
    )
    kinds: tuple[str, ...] = setting(
        About(
            values.STANZAS,
            "the kinds of stanza that it may send",
            "who only sends messages needs nothing else",
        ),
        default=STANZA_KINDS,
    )
    admin: bool = setting(
        About(
            values.SWITCH,
            "it may also do what is about the gateway itself: POST /v1/webhook/wake",
            "who sends messages need not be able to do that",
        ),
        default=False,
    )
    rate: tuple[int, float] = setting(
        About(
            values.RATE,
            "requests at most within a time; what comes beyond gets 429, and each stanza of an array counts as one",
            "a script that runs wild does not take the server's place from users",
        ),
        default=(100, 10.0),
    )

    def __attrs_post_init__(self) -> None:
        if self.sender is not None and not any_of(self.may_send_as).fullmatch(str(Address.parse(self.sender).bare)):
            raise SettingsError(
                f"api.token {self.name} has {shown(self.sender)} as sender, but that is none of its may_send_as"
            )


@frozen
class HookSettings(Table):
    """
    A URL of its own for a program that knows nothing of XMPP: each [[api.hook]] is one.

    `secret` is the secret itself, once constructed, and `template_text` the template, where there is a file for it.
    """

    TABLE: ClassVar[str] = "api.hook"

    name: str = setting(About(values.NAME, "what it is called in the log", example='"alerts"'))
    secret_file: str | None = setting(
        About(
            secret_path("a file with the secret"),
            "the file that holds the last part of its URL, /hooks/SECRET, in one line; in a settings file a relative"
            " path starts at its folder",
            "who has the URL can send",
            example='"alerts-secret"',
        ),
        default=None,
    )
    secret: str = setting(
        About(values.CREDENTIAL, "the secret itself", hidden=True),
        default=None,
        show=False,
        resolve=_resolve_credential("secret_file", "secret"),
    )
    to: tuple[str, ...] = setting(
        About(
            values.RECIPIENTS,
            "who gets the messages",
            "it is fixed here, so that who has the URL cannot write to others",
            example='"oncall@example.org"',
        )
    )
    send_as: str | None = setting(
        About(
            values.SENDER,
            "the address of the component that they come from; component.sender unless set",
            example='"alerts@bot.example.org"',
        ),
        default=None,
    )
    type: str = setting(
        About(
            values.choice("chat", "normal", "headline", "groupchat"),
            "the type of the messages",
            "groupchat is for chat rooms: the address enters a room that it is not in",
        ),
        default="chat",
    )
    template: str | None = setting(
        About(
            values.choice("alertmanager", "generic", "gitea", "github", "grafana"),
            "a template that the gateway brings along, for the webhooks of this program; generic finds the text in most"
            " things; without any template the hook takes what Slack's takes",
            example='"alertmanager"',
        ),
        default=None,
    )
    template_file: str | None = setting(
        About(
            file_path("a file with a Jinja2 template"),
            "a template of your own that makes the text of a message from any JSON; in a settings file a relative path"
            " starts at its folder",
            example='"build.j2"',
        ),
        default=None,
    )
    template_text: str | None = setting(
        About(values.SECRET, "the text of a template of your own", hidden=True),
        default=None,
        show=False,
        resolve=_resolve_template,
    )
    rate: tuple[int, float] = setting(
        About(
            values.RATE,
            "requests at most within a time; what comes beyond gets 429",
            "a program that runs wild does not take the server's place from users",
        ),
        default=(100, 10.0),
    )

    def __attrs_post_init__(self) -> None:
        problems = []
        if self.template is not None and self.template_text is not None:
            problems.append(f"api.hook {self.name} has template and template_file: remove one of the two")
        if "/" in self.secret:
            problems.append(f"the secret of api.hook {self.name} must not have a /, for it is one part of a URL")
        if problems:
            raise SettingsError(*problems)


def _mixed_up(rows: Sequence[TokenSettings | HookSettings], secrets: Sequence[str]) -> Iterator[str]:
    """Check that each has a name and a secret of its own; a sentence for what is not so."""
    names = Counter(row.name for row in rows)
    for name, count in names.items():
        if count > 1:
            yield f"[[{rows[0].TABLE}]] is there twice with the name {shown(name)}: give each its own"
    if len(set(secrets)) < len(secrets):
        yield f"two of [[{rows[0].TABLE}]] hold the same secret: give each its own"


@frozen
class ApiSettings(Table):
    """The HTTP API, by which others send."""

    TABLE: ClassVar[str] = "api"

    listen: str | None = setting(
        About(
            values.LISTEN,
            "where the API is served, as a Twisted server endpoint; nowhere unless set",
            "tokens pass in the open over plain HTTP, so that is for one machine; ssl: endpoints speak TLS",
            example='"tcp:8347:interface=127.0.0.1"',
        ),
        default=None,
    )
    url: str | None = setting(
        About(
            values.BASE_URL,
            "where the webhook reaches it, for the links to reply by; worked out from a listen that names an interface",
            "behind a proxy only you know it",
            example='"https://bot.example.org/xmpp"',
        ),
        default=None,
    )
    max_connections: int = setting(
        About(
            whole(1, 10_000, "connections"),
            "connections at once; beyond, the oldest without a token or idle makes room, or the new one is told 503",
            "a process has so many sockets, and the stream to the server needs one of them",
        ),
        default=100,
    )
    max_body_bytes: int = setting(
        About(
            whole(1024, 67_108_864, "bytes"),
            "the largest request body that is read, before and after decompression; a larger one gets 413",
            "bodies are held in memory, max_connections of them at once",
        ),
        default=1_048_576,
    )
    request_timeout: float = setting(
        About(
            number(1, 600, "seconds"),
            "the time a request has to arrive in whole, and a connection may be idle",
            "a client that sends a byte now and then must not keep a connection for ever",
        ),
        default=30.0,
    )
    max_wait: float = setting(
        About(
            number(1, 600, "seconds"),
            "the longest time that a request can ask to wait for the answer to an iq, or until a stanza is sent",
            "proxies give up after a minute or so",
        ),
        default=60.0,
    )
    reply_links: str = setting(
        About(
            values.choice("conversation", "wide"),
            "what a link to reply by may send: only within the conversation it came from, or whatever the webhook could"
            " have answered at once, to anybody",
            "a link needs no token and is good for a day, so whoever finds one in a log should get no further with it",
        ),
        default="conversation",
    )
    token: tuple[TokenSettings, ...] = rows(TokenSettings, "who may use it")
    hook: tuple[HookSettings, ...] = rows(HookSettings, "URLs for programs that know nothing of XMPP")

    def __attrs_post_init__(self) -> None:
        problems = [
            *_mixed_up(self.token, [row.token for row in self.token]),
            *_mixed_up(self.hook, [row.secret for row in self.hook]),
        ]
        if problems:
            raise SettingsError(*problems)

    @property
    def base_url(self) -> str | None:
        """Where the webhook reaches it, without a slash at the end; None where that is not known."""
        if self.url is not None or self.listen is None:
            return self.url
        kind = self.listen.partition(":")[0]
        if kind not in ("tcp", "tcp6", "ssl"):
            return None
        host, port = listening_at(self.listen)
        if host in ("", "0.0.0.0", "::"):
            return None
        return f"{'https' if kind == 'ssl' else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def is_exposed(self) -> bool:
        """Others than those on this machine can reach it, and what passes is in the open."""
        if self.listen is None or not self.listen.startswith(("tcp:", "tcp6:")):
            return False
        return not is_loopback(listening_at(self.listen)[0])
