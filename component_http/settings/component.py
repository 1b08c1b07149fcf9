"""The table [component]."""

from __future__ import annotations

import re
from collections import Counter
from copy import copy
from typing import ClassVar

from attrs import frozen

from component_http.contract.address import Address
from component_http.contract.endpoint import Endpoint
from component_http.contract.routes import Routes
from component_http.contract.url import WebhookUrl
from component_http.errors import SettingsError
from component_http.settings.declaration import Table, retired, rows, secret, secret_file, setting
from component_http.settings.route import RouteSettings
from component_http.settings.values.addresses import DOMAIN, NICK, SENDER
from component_http.settings.values.endpoints import SERVER
from component_http.settings.values.http import SECRET, URL
from component_http.settings.values.plain import STANZAS, SWITCH, whole
from component_http.settings.values.value_type import accepted, shown

SECRET_VARIABLE = "COMPONENT_HTTP_SECRET"
"""The environment variable that may hold the component's secret; empty is the same as not set."""


def _fallback(value: object, owner: ComponentSettings) -> str | None:
    """Take the domain given, or else the one above the component's, if it has one."""
    if value is not None:
        domain: str = accepted("component.write_barrier_fallback", value, DOMAIN)
        return domain
    parent = owner.domain.partition(".")[2]
    is_ip_address = owner.domain.rpartition(".")[2].isdigit()
    return None if is_ip_address else parent or None


@frozen
class ComponentSettings(Table):
    """
    The XMPP side: the component, its server, and which of its stanzas the webhook gets.

    Once constructed, `secret` is the secret to use, whatever place it came from.
    """

    TABLE: ClassVar[str] = "component"

    domain: str = setting(
        DOMAIN, "the component's own domain, as the XMPP server knows it", example='"bot.example.org"'
    )
    server: str = setting(
        SERVER,
        "the address where the XMPP server accepts components, as a Twisted client endpoint",
        default="tcp:127.0.0.1:5347",
        why="5347 is the component port of Prosody and ejabberd; it speaks plain TCP, so both ends belong on one"
        " machine or one trusted network",
    )
    secret_file: str | None = secret_file(
        "the secret",
        "the file that holds the component's secret in one line",
        '"secret"',
        f"every user of a machine sees its command lines; the environment variable {SECRET_VARIABLE} may give the"
        " secret instead, and if both give it they must be the same",
    )
    secret: str = secret(
        SECRET,
        "the secret itself",
        "secret_file",
        missing=f"{{key}} (--secret-file) is missing and {SECRET_VARIABLE} is not in the environment: one of them must"
        " give the secret that the XMPP server has for the component",
        otherwise=f"the one given directly or in the environment variable {SECRET_VARIABLE}",
    )
    component_post_url: str | None = setting(
        URL,
        "the webhook to which stanzas are POSTed; a gateway that only sends, by its API, does not need one",
        default=None,
        required=True,
        why="user:password in it is sent as Basic auth; a flag must not hold them. The log shows only scheme, host and"
        " port, because the rest may be a secret",
        example='"http://127.0.0.1:8080/"',
        aliases=("post-url",),
        show=lambda url: repr(url and WebhookUrl.parse(url).origin),
    )
    sender: str | None = setting(
        SENDER,
        "the address of the component that sends pushed stanzas which name no sender; the bare domain unless set",
        default=None,
        why="people know the bot by this address; they have never written to the bare domain",
        example='"bot@bot.example.org"',
    )
    component_post_stanzas: tuple[str, ...] = setting(
        STANZAS,
        "the kinds of stanza that are POSTed; the gateway looks after the others",
        default=("message",),
        why="the default is mod_component_http's, and so is the older name post_stanza_types, which works too",
        aliases=("stanzas",),
    )
    profile: object = retired("there is only one shape of requests and responses, mod_component_http's")
    answer_wellknown_iq: bool = setting(
        SWITCH,
        "answer disco, ping, version, last activity and time in place of the webhook, even if iqs are POSTed",
        default=True,
        why="clients and servers ask these of every address, and a bot rarely cares",
    )
    forward_bodyless: bool = setting(
        SWITCH,
        "POST messages without a body too: chat states, receipts, markers",
        default=True,
        why="mod_component_http does; a simple bot may do without them",
    )
    forward_history: bool = setting(
        SWITCH,
        "POST the old messages too that a room shows to a bot that joins it",
        default=False,
        why="they were answered long ago, and an echo bot would answer all of them again",
    )
    forward_errors: bool = setting(
        SWITCH,
        "POST stanzas of type error too; they are never answered",
        default=True,
        why="mod_component_http does; a simple bot may do without them",
    )
    nick: str | None = setting(
        NICK,
        "the nick of the gateway in a chat room that it enters because the API or a hook writes there; the local part"
        " of the sending address unless set",
        default=None,
        why="if somebody else has that nick, the gateway appends -2, -3 and so on",
        example='"alerts"',
    )
    create_rooms: bool = setting(
        SWITCH,
        "create a chat room that the API or a hook writes to, if it does not exist, with its service's own settings",
        default=False,
        why="by default a misspelt room is an error, and not a new room that nobody reads",
    )
    route: tuple[RouteSettings, ...] = rows(RouteSettings, "the routes, which take some stanzas to other webhooks")
    max_stanza_bytes: int = setting(
        whole(10_000, 524_288, "bytes"),
        "the largest stanza that is accepted from the server or sent to it",
        default=262_144,
        why="RFC 6120 section 13.12 asks for 10000 at least; servers close the stream over a stanza beyond 512 KiB",
    )
    write_barrier: bool = setting(
        SWITCH,
        "ping the component's own address to learn what the server has received, and write the rest again after a lost"
        " stream",
        default=True,
        why="the component protocol has no acknowledgements; the same ping shows within 45 s that a server has gone",
    )
    write_barrier_fallback: str | None = setting(
        DOMAIN,
        "the domain that is pinged too if the first ping does not come back; the component's own domain switches this"
        " off",
        default=None,
        resolve=_fallback,
        why="any answer shows that the server has read everything before the ping; unless set it is the component's"
        " domain without its first label, which is usually the server's own domain",
        example='"example.org"',
    )

    def __attrs_post_init__(self) -> None:
        for name, times in Counter(route.name for route in self.route).items():
            if times > 1:
                raise SettingsError(f"{times} of [[component.route]] have the name {name}: each must have its own")
        if self.sender is not None and Address.parse(self.sender).domain != self.domain:
            raise SettingsError(
                f"component.sender is {shown(self.sender)}, but the component can only send from {self.domain} and"
                " addresses in it"
            )

    def with_post_url(self, url: str | None) -> ComponentSettings:
        """Make the same settings with another webhook; the secret is that of these, and its file is not read again."""
        other = copy(self)
        object.__setattr__(other, "component_post_url", url)  # a usual copy would make, and so read, all of it anew
        return other

    @property
    def routes(self) -> Routes:
        """The routes, in order."""
        return Routes([route.route for route in self.route])

    @property
    def default_sender(self) -> str:
        """The sender of pushed stanzas that name no sender."""
        return self.sender or self.domain

    @property
    def post_origin(self) -> str | None:
        """The part of `component_post_url` that may be logged: scheme, host and port; None without a webhook."""
        return self.component_post_url and WebhookUrl.parse(self.component_post_url).origin

    @property
    def posted(self) -> str:
        """The kinds of stanza that are POSTed and the webhook that gets them, for the log."""
        if self.post_origin is None:
            return "no webhook"
        return f"{', '.join(self.component_post_stanzas)} to {self.post_origin}"

    @property
    def server_address(self) -> str:
        """The address of the server, for the log: host and port, or the path of a socket."""
        endpoint = Endpoint.parse(self.server)
        if endpoint.kind not in ("tcp", "tls"):
            return endpoint.socket_path or self.server
        host, port = endpoint.host_and_port
        return f"{f'[{host}]' if ':' in host else host}:{port}"

    @property
    def url_holds_credentials(self) -> bool:
        """Say whether `component_post_url` has a user or a password in it."""
        return bool(re.match("[a-z]+://[^/?]*@", self.component_post_url or "", re.IGNORECASE))
