"""Settings that cannot be used together, and those that work but should be better."""

from __future__ import annotations

import os
import re
import stat
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from attrs import fields

from component_http.certificates import ENDS_SOON, days_left, ssl_files
from component_http.contract.address import Address
from component_http.contract.endpoint import Endpoint
from component_http.contract.url import WebhookUrl, is_loopback
from component_http.settings.api import ApiSettings
from component_http.settings.catalog import TABLES
from component_http.settings.component import SECRET_VARIABLE, ComponentSettings
from component_http.settings.declaration import about
from component_http.settings.values.value_type import shown
from component_http.settings.webhook import WebhookSettings

if TYPE_CHECKING:
    from component_http.settings import Settings

_SECRET_HEADER = re.compile("auth|cookie|key|pass|secret|token", re.IGNORECASE)
"""Finds the names of headers that usually hold a secret."""


_FOR_TLS = ("ca_file", "client_certificate", "crl_file", "server_name")
"""Settings of a webhook that mean nothing without TLS."""


def conflicts(
    component: ComponentSettings | None,
    webhook: WebhookSettings | None,
    where: str = "component.component_post_url",
) -> Iterator[str]:
    """
    Find settings of several tables that cannot be used together.

    Args:
        component: The table, or None if it could not be made; and so is `webhook`.
        where: The setting that has the webhook's URL.
    """
    if component is None or webhook is None:
        return
    sources = [] if webhook.bearer_token is None else ["webhook.bearer_token_file"]
    sources += [f"webhook.headers.{name}" for name in webhook.headers if name.lower() == "authorization"]
    if component.url_holds_credentials:
        sources.append(f"the user in {where}")
    if len(sources) > 1:
        yield f"{sources[0]} and {sources[1]} both set the Authorization header: remove one of them"
    url = component.component_post_url and WebhookUrl.parse(component.component_post_url)
    if webhook.require_tls and url and _in_the_open(url, webhook):
        proxy = "" if webhook.proxy is None else ", and no proxy on another one for that"
        yield (
            f"{where} is at {url.origin}, but webhook.require_tls allows only https:// there, or http:// on this"
            f" machine{proxy}"
        )


def _in_the_open(url: WebhookUrl, webhook: WebhookSettings) -> bool:
    """Tell whether others on the network can read what is POSTed there."""
    if url.secure or url.socket is not None:
        return False
    hosts = [url.host] if webhook.proxy is None else [url.host, WebhookUrl.parse(webhook.proxy).host]
    return not all(map(is_loopback, hosts))


def domain_conflicts(domains: Sequence[str]) -> Iterator[str]:
    """Find domains that several components have."""
    for domain, times in Counter(domains).items():
        if times > 1:
            yield f"{times} components have the domain {domain}: each must have one of its own"


def own_operators(domains: Sequence[str], operators: Sequence[str]) -> Iterator[str]:
    """Find operators whose address is one of a component."""
    for address in operators:
        if Address.parse(address).domain in domains:
            yield f"operations.admin_jids has {shown(address)}, but that is an address of the component itself"


def foreign_senders(domains: Sequence[str], api: ApiSettings) -> Iterator[str]:
    """Find what the API is to send from where none of the components is."""
    served = domains[0] if len(domains) == 1 else f"one of {', '.join(domains)}"
    only = f"but the component can only send from {served} and addresses in it"
    for token in api.token:
        for domain in token.components:
            if domain not in domains:
                yield f"api.token {token.name} has {shown(domain)} in components, but there is no such component"
        for pattern in token.may_send_as:
            if pattern != "*" and pattern.rpartition("@")[2] not in domains:
                yield f"api.token {token.name} has {shown(pattern)} in may_send_as, {only}"
        if token.sender is not None and Address.parse(token.sender).domain not in domains:
            yield f"api.token {token.name} has {shown(token.sender)} as sender, {only}"
    for hook in api.hook:
        if hook.send_as is None and len(domains) > 1:
            yield f"api.hook {hook.name} needs send_as, because there are several components"
        elif hook.send_as is not None and Address.parse(hook.send_as).domain not in domains:
            yield f"api.hook {hook.name} has {shown(hook.send_as)} as send_as, {only}"


def _webhooks(settings: Settings) -> Iterator[WebhookSettings]:
    """The settings of every webhook: of each component, and of its routes."""
    for each in settings.each:
        yield each.webhook
        yield from (one.webhook for one in each.of_routes.values())


def _ports(settings: Settings) -> Iterator[tuple[str, str]]:
    """The ports of ours, each behind the name of its setting."""
    for key, listen in (("api.listen", settings.api.listen), ("operations.listen", settings.operations.listen)):
        if listen is not None:
            yield key, listen


def _tls_ports(settings: Settings) -> Iterator[tuple[str, Endpoint]]:
    """The ports of ours that speak TLS, each behind the name of its setting."""
    for key, listen in _ports(settings):
        endpoint = Endpoint.parse(listen)
        if endpoint.kind == "ssl":
            yield key, endpoint


def secret_files(settings: Settings) -> list[tuple[str, str]]:
    """List the files with secrets, each behind the name of its setting."""
    signing = (path for each in _webhooks(settings) for path in each.signing_secret_files or ())
    servers = (Endpoint.parse(each.component.server).named for each in settings.each)
    files = (
        *(("component.secret_file", each.component.secret_file) for each in settings.each),
        *(("component.server", named.get("privateKey") or named.get("certificate")) for named in servers),
        *((key, ssl_files(endpoint)[0]) for key, endpoint in _tls_ports(settings)),
        *(("webhook.client_key", each.client_key or each.client_certificate) for each in _webhooks(settings)),
        *(("webhook.bearer_token_file", each.bearer_token_file) for each in _webhooks(settings)),
        *(("webhook.signing_secret_files", path) for path in signing),
        *(("api.token.token_file", token.token_file) for token in settings.api.token),
        *(("api.hook.secret_file", hook.secret_file) for hook in settings.api.hook),
        ("operations.token_file", settings.operations.token_file),
    )
    return list(dict.fromkeys((key, path) for key, path in files if path is not None))


def own_certificates(settings: Settings) -> list[tuple[str, str]]:
    """List the files with certificates of ours, each behind the name of its setting."""
    files = (
        *(
            ("component.server", Endpoint.parse(each.component.server).named.get("certificate"))
            for each in settings.each
        ),
        *(("webhook.client_certificate", each.client_certificate) for each in _webhooks(settings)),
        *((key, ssl_files(endpoint)[1]) for key, endpoint in _tls_ports(settings)),
    )
    return list(dict.fromkeys((key, path) for key, path in files if path is not None))


def warnings(settings: Settings) -> Iterator[str]:
    """Write a sentence for each setting that should be better; it looks at the modes of the secrets' files."""
    for each in settings.each:
        prefix = f"{each.component.domain}: " if settings.others else ""
        yield from (f"{prefix}{sentence}" for sentence in _of_component(each))
    yield from _retired(settings)
    yield from _of_all(settings)


def _of_component(settings: Settings) -> Iterator[str]:
    component = settings.component
    server = Endpoint.parse(component.server)
    if server.kind == "tcp" and not is_loopback(server.host_and_port[0]):
        yield (
            f"component.server is {shown(component.server)}, on another machine: others on the network can read the"
            " stanzas and the proof of the component's secret; take a tls: endpoint, unless you trust the network"
        )
    for where, one in _urls(settings):
        url = WebhookUrl.parse(one.component.component_post_url or "")
        if _in_the_open(url, one.webhook):
            yield (
                f"{where} is at {one.component.post_origin}, on another machine: others on the network can"
                f" read {', '.join(_sent_to_webhook(one, url))}; take https://, unless you trust the network"
            )
        if one.component.url_holds_credentials:
            yield (
                f"{where} holds a user or a password: they are sent as Basic auth and stay out of the"
                " log, but a file named by webhook.bearer_token_file keeps a secret better"
            )
    yield from _unused(settings)
    yield from _idle_routes(component)


def _unused(settings: Settings) -> Iterator[str]:
    """Find what is set of the webhook and means nothing for any of the URLs."""
    urls = [WebhookUrl.parse(one.component.component_post_url or "") for _, one in _urls(settings)]
    secure = any(url.secure for url in urls)
    for name in _FOR_TLS:
        if urls and not secure and getattr(settings.webhook, name) is not None:
            yield f"webhook.{name} does nothing without an https:// URL: take one, or remove it"
    if urls and settings.webhook.proxy is not None and all(url.socket is not None for url in urls):
        yield "webhook.proxy does nothing for a webhook on a Unix socket: remove it"


def _urls(settings: Settings) -> Iterator[tuple[str, Settings]]:
    """The settings of each webhook of a component that has a URL, behind the name of the setting with that."""
    for where, one in (
        ("component.component_post_url", settings),
        *((of_route(name), one) for name, one in settings.of_routes.items()),
    ):
        if one.component.component_post_url is not None:
            yield where, one


def of_route(name: str) -> str:
    """Name the setting with the URL of a route."""
    return f"the url of component.route {name}"


def _ends_soon(key: str, path: str) -> Iterator[str]:
    """Write a sentence about a certificate of ours that ends soon."""
    days = days_left(path, time.time())
    if days is not None and days < ENDS_SOON[0]:
        when = "has ended" if days < 0 else f"ends in {days:.0f} days"
        yield f"the certificate in {key} {shown(path)} {when}: renew it"


def _idle_routes(component: ComponentSettings) -> Iterator[str]:
    """Write a sentence for each route that can never take anything."""
    own = Address.parse(component.domain)
    for route in component.route:
        conditions = route.route.conditions
        if conditions.recipient and not any(each.may_match_domain(own.domain) for each in conditions.recipient):
            yield f"component.route {route.name} never takes anything: its to is outside of {component.domain}"
        elif conditions.kinds and not set(conditions.kinds) & set(component.component_post_stanzas):
            yield (
                f"component.route {route.name} never takes anything: its kind is not among component_post_stanzas,"
                f" which is {', '.join(component.component_post_stanzas)}"
            )
        elif conditions.body is not None and conditions.kinds and "message" not in conditions.kinds:
            yield f"component.route {route.name} never takes anything: only a message has a body"
    for name, earlier in component.routes.idle():
        yield f"component.route {name} never takes anything: {earlier}, which stands before it, takes all of it"


def _of_all(settings: Settings) -> Iterator[str]:
    api = settings.api
    if settings.secret_in_environment:
        yield (
            f"{SECRET_VARIABLE} gives the secret, and other processes of the same user can read it there: a file that"
            " component.secret_file names keeps it better"
        )
    if api.listen is None and (api.token or api.hook):
        yield "there are tokens or hooks for the API, but it is off: set api.listen, or remove them"
    for key, listen in _ports(settings):
        endpoint = Endpoint.parse(listen)
        if endpoint.kind in ("tcp", "tcp6") and not is_loopback(endpoint.interface_and_port[0]):
            yield (
                f"{key} is {shown(listen)}, where others on the network can read the tokens: take an ssl: endpoint, or"
                " interface=127.0.0.1 behind a proxy that speaks TLS"
            )
    for key, path in own_certificates(settings):
        yield from _ends_soon(key, path)
    for key, path in secret_files(settings):
        if may := _everyone_may(path):
            yield f"{key} {shown(path)} can be {may} by every user of this machine: chmod o-rwx it"
    inside = [name for each in settings.each for name in _secrets_inside(each)]
    if settings.file is not None and inside and (may := _everyone_may(settings.file)):
        yield (
            f"the settings file {shown(settings.file)} has a secret in it ({inside[0]}), and can be {may} by every user"
            " of this machine: chmod o-rwx it"
        )


def _retired(settings: Settings) -> Iterator[str]:
    for name, table in TABLES.items():
        for attribute in fields(table):
            if about(attribute).retired and any(
                getattr(getattr(each, name), attribute.name) is not None for each in settings.each
            ):
                yield f"{name}.{attribute.name} is not used any more, because {about(attribute).retired}: remove it"


def _secrets_inside(settings: Settings) -> list[str]:
    """Name the settings that hold a secret themselves."""
    found = [f"the user in {where}" for where, one in _urls(settings) if one.component.url_holds_credentials]
    for each in (settings.webhook, *(one.webhook for one in settings.of_routes.values())):
        if each.proxy is not None and WebhookUrl.parse(each.proxy).authorization is not None:
            found.append("the user in webhook.proxy")
        found += [f"webhook.headers.{name}" for name in each.headers if _SECRET_HEADER.search(name)]
    return found


def _sent_to_webhook(settings: Settings, url: WebhookUrl) -> list[str]:
    """Name everything that each POST shows to whoever can read it."""
    sent = ["stanzas"]
    if url.target != b"/":
        sent.append("the path of the URL")
    if settings.component.url_holds_credentials:
        sent.append("the user and the password in it")
    if settings.webhook.bearer_token is not None:
        sent.append("the bearer token")
    if settings.webhook.headers:
        sent.append("webhook.headers")
    return sent


def _everyone_may(path: str) -> str | None:
    """Complete "can be ..." for a file, or for the file that a link leads to; None if not every user can use it."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return None
    if not stat.S_ISREG(mode) or not mode & (stat.S_IROTH | stat.S_IWOTH):
        return None
    return "changed" if mode & stat.S_IWOTH else "read"
