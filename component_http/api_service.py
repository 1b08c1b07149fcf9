"""
Make the HTTP API from the settings.

Its modules and Jinja2 take 5 MiB of memory, so this module is imported only where `api.listen` is set.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from component_http import __version__
from component_http.api.deliveries import NO_LOG, Deliveries
from component_http.api.desk import Desk
from component_http.api.hooks import Hook
from component_http.api.links import ReplyLinks
from component_http.api.rate import Rate
from component_http.api.routes import Api
from component_http.api.secrets import BySecret
from component_http.api.server import ApiServer
from component_http.api.template import Template, shipped
from component_http.api.tokens import Token, Tokens
from component_http.certificates import FilesUnusable, is_renewed, server_endpoint
from component_http.contract.address import Address
from component_http.contract.endpoint import Endpoint
from component_http.errors import SettingsError
from component_http.interfaces import Observer, Origin
from component_http.settings import HookSettings, Settings

_PORT_REMEDIES = {
    errno.EADDRINUSE: "stop what listens there, or name another port",
    errno.EADDRNOTAVAIL: "name an interface by an address that this machine has",
    errno.EACCES: "name a port from 1024 on, because those below are root's",
}


def check_certificates(table: str, listen: str, clients: str | None) -> None:
    """Raise `SettingsError` if the files for the TLS of a port cannot be used; the arguments are as in `check_port`."""
    if is_renewed(listen):
        try:
            server_endpoint(None, listen, clients, table)
        except FilesUnusable as error:
            raise SettingsError(str(error)) from None


def check_port(table: str, listen: str, clients: str | None) -> None:
    """
    Raise `SettingsError` if the port of a table of the settings cannot be opened.

    Some endpoints are only checked at the start. `clients` is as in `server_endpoint`.
    """
    endpoint = Endpoint.parse(listen)
    check_certificates(table, listen, clients)
    if endpoint.kind == "unix":
        folder = Path(endpoint.socket_path).absolute().parent
        if not os.access(folder, os.W_OK | os.X_OK):
            raise SettingsError(
                f"{table}.listen is {listen}, but that cannot be opened: there is no folder {folder}, or it cannot be"
                " written to; make it, for the user that the gateway runs as, or name another path"
            )
    if endpoint.kind not in ("tcp", "tcp6", "ssl"):
        return
    interface, port = endpoint.interface_and_port
    if endpoint.kind == "tcp6":
        interface = interface or "::"
    with socket.socket(socket.AF_INET6 if ":" in interface else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((interface, int(port)))
        except OSError as error:
            raise SettingsError(
                f"{table}.listen is {listen}, but that cannot be opened: {error.strerror};"
                f" {_PORT_REMEDIES.get(error.errno or 0, 'name another port')}"
            ) from None


def api_hooks(settings: Settings) -> BySecret[Hook]:
    """Make the hooks, with their templates. Raises `SettingsError` if a template cannot be used."""
    hooks: list[Hook] = []
    problems: list[str] = []
    for hook in settings.api.hook:
        try:
            template = _template(hook)
        except SettingsError as error:
            problems += error.sentences
            continue
        hooks.append(
            Hook(
                name=hook.name,
                secret=hook.secret,
                to=hook.to,
                sender=Address.parse(hook.send_as or settings.component.default_sender),
                type=hook.type,
                template=template,
                rate=Rate(*hook.rate),
            )
        )
    if problems:
        raise SettingsError(*problems)
    return BySecret(hooks)


def _template(hook: HookSettings) -> Template | None:
    if hook.template_text is not None:
        return Template(hook.template_text, f"the template of api.hook {hook.name}")
    return None if hook.template is None else Template(shipped(hook.template), hook.template)


def api_tokens(settings: Settings) -> Tokens:
    """Make the tokens."""
    tokens = [
        Token(
            name=token.name,
            secret=token.token,
            may_send_as=token.may_send_as,
            may_send_to=token.may_send_to,
            kinds=token.kinds,
            components=token.components,
            admin=token.admin,
            rate=Rate(*token.rate),
            sender=None if token.sender is None else Address.parse(token.sender),
        )
        for token in settings.api.token
    ]
    return Tokens(tokens, {each.component.domain for each in settings.each})


def api_server(
    settings: Settings,
    reactor: Any,
    origins: dict[str, Origin],
    observer: Observer,
    hooks: BySecret[Hook],
    link_key: bytes,
    wake: Callable[[], Mapping[str, object]],
    deliveries: Deliveries = NO_LOG,
    *,
    new_id: Callable[[], str],
    max_connections: int | None = None,
    endpoint: str | None = None,
) -> tuple[Api, ApiServer]:
    """
    Make the HTTP API and its server, which serves it once it is started.

    Args:
        origins: Each component, by its domain; it may change later.
        wake: Asks the webhook at once, and returns what its client is told.
        deliveries: Those that have ended.
        max_connections: The most connections at once, instead of `api.max_connections`.
        endpoint: The endpoint to listen at, instead of `api.listen`.
    """
    api = settings.api
    listen = endpoint or api.listen
    assert listen is not None
    desk = Desk(
        origins,
        observer,
        new_id=new_id,
        clock=reactor,
        max_timeout=api.max_wait,
    )
    served = Api(
        desk,
        api_tokens(settings),
        hooks,
        observer,
        links=ReplyLinks(link_key, wide=api.reply_links == "wide", seconds=reactor.seconds, now=time.time),
        wake=wake,
        deliveries=deliveries,
        version=__version__,
        max_body_bytes=api.max_body_bytes,
        seconds=reactor.seconds,
    )
    server = ApiServer(
        served.admit,
        desk.finish,
        server_endpoint(reactor, listen, api.client_ca_file, "api"),
        observer,
        clock=reactor,
        max_connections=max_connections or api.max_connections,
        max_body_bytes=api.max_body_bytes,
        request_timeout=api.request_timeout,
    )
    return served, server
