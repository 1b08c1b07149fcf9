"""
What the operator decides: the settings, their limits, and one good sentence for each way they can be wrong.

One set of names serves three doors. A settings file has `[webhook] timeout`, the command line `--webhook-timeout`,
an application `WebhookSettings(timeout=...)`. Values are checked on the way in, also by the constructors, so that
whoever holds a `Settings` need not ask again. Reading them opens no socket and installs no reactor.

`values` knows what one value may be, `tables` which settings there are, `sources` how they are written down.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, Self

from attrs import Factory, field, frozen

from component_http.contract.address import Address
from component_http.contract.conditions import StanzaError
from component_http.contract.url import WebhookUrl
from component_http.errors import SettingsError
from component_http.settings.sources import (
    CONDITIONS,
    TABLES,
    Given,
    Reading,
    ReferenceRow,
    from_file,
    from_flags,
    from_tables,
    no_webhook,
    nothing_to_do,
    reference,
    unknown_flag,
)
from component_http.settings.tables import (
    SECRET_VARIABLE,
    ApiSettings,
    ComponentSettings,
    DeliverySettings,
    HookSettings,
    SpoolSettings,
    Table,
    TokenSettings,
    WebhookSettings,
    setting,
    without_line_end,
)
from component_http.settings.values import shown

__all__ = [
    "SECRET_VARIABLE",
    "ApiSettings",
    "ComponentSettings",
    "DeliverySettings",
    "HookSettings",
    "ReferenceRow",
    "Settings",
    "SpoolSettings",
    "TokenSettings",
    "WebhookSettings",
    "reference",
    "spool_from_toml",
    "unknown_flag",
]


_SECRET_HEADER = re.compile("auth|cookie|key|pass|secret|token", re.IGNORECASE)
"""Finds the names of headers that usually hold a secret."""


@frozen
class Settings(Table):
    """
    Everything a gateway needs to know.

    `Settings(component=ComponentSettings(...), webhook=WebhookSettings(...))` for an application; `from_toml` and
    `from_flags` for an operator.

    Attributes:
        conditions: The stanza error of an HTTP status, where it is another than the contract's.
        file: The settings file that they were read from, or None.

    Raises:
        SettingsError: From every way to make one: something cannot be used. `str()` of it is one sentence.
    """

    component: ComponentSettings = field(kw_only=True)
    webhook: WebhookSettings = field(kw_only=True, factory=WebhookSettings)
    delivery: DeliverySettings = field(kw_only=True, factory=DeliverySettings)
    spool: SpoolSettings = field(kw_only=True, factory=SpoolSettings)
    api: ApiSettings = field(kw_only=True, factory=ApiSettings)
    conditions: Mapping[int, StanzaError] = setting(CONDITIONS, default=Factory(dict))
    file: str | None = field(kw_only=True, default=None, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        problems = [*_conflicts(self.component, self.webhook), *_foreign_senders(self.component, self.api)]
        if problems:
            raise SettingsError(*problems)

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str], env: Mapping[str, str] = os.environ) -> Self:
        """
        Read a settings file.

        Args:
            path: The file; relative paths in it start at its folder.
            env: Where `COMPONENT_HTTP_SECRET` and the folder of credentials are looked up.
        """
        return cls.from_flags({}, path, env)

    @classmethod
    def from_flags(
        cls,
        flags: Mapping[str, str],
        config: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] = os.environ,
        leave_out: Collection[str] = (),
        needs_webhook: bool = False,
    ) -> Self:
        """
        Read a command line, and below it a settings file.

        Args:
            flags: The text of each flag that was given, by its name without the dashes in front (see `reference`).
            config: The settings file whose values the flags override, or None for none.
            env: Where `COMPONENT_HTTP_SECRET` and the folder of credentials are looked up.
            leave_out: Settings that are not taken from the file, such as `component.secret_file`.
            needs_webhook: An API alone is not enough.
        """
        reading = Reading(env)
        if config is not None:
            from_file(config, reading)
            for name in leave_out:
                reading.given.pop(name, None)
        from_flags(flags, reading)
        source = None if config is None else str(config)
        if needs_webhook and reading.lacks("component.component_post_url"):
            reading.problems.append(no_webhook(source))
        return cls._from_reading(reading, source, source, must_serve=not needs_webhook)

    @classmethod
    def from_mapping(
        cls,
        mapping: Mapping[str, object],
        *,
        source: str = "settings",
        env: Mapping[str, str] = MappingProxyType({}),
    ) -> Self:
        """
        Take settings in the shape of a settings file.

        Args:
            mapping: By its name, each table: its values by key.
            source: How errors call them.
            env: Where `COMPONENT_HTTP_SECRET` and the folder of credentials are looked up; nowhere unless given.
        """
        reading = Reading(env)
        from_tables(mapping, source, reading)
        return cls._from_reading(reading, source)

    @classmethod
    def _from_reading(
        cls, reading: Reading, source: str | None, file: str | None = None, *, must_serve: bool = False
    ) -> Self:
        if reading.env.get(SECRET_VARIABLE):
            secret = without_line_end(reading.env[SECRET_VARIABLE])
            reading.given["component.secret"] = Given(secret, SECRET_VARIABLE)
        parts: dict[str, Any] = {name: reading.made(table, source) for name, table in TABLES.items()}
        if must_serve and reading.lacks("component.component_post_url") and reading.lacks("api.listen"):
            reading.problems.append(nothing_to_do(source))
        if "conditions" in reading.given:
            parts["conditions"] = reading.given["conditions"].value
        if not reading.problems:
            with _naming(source):
                return cls(**parts, file=file)
        component, webhook, api = parts["component"], parts["webhook"], parts["api"]
        with reading.collecting(), _naming(source):
            raise SettingsError(*_conflicts(component, webhook), *_foreign_senders(component, api))
        raise SettingsError(*reading.problems)

    def warnings(self) -> tuple[str, ...]:
        """What works but should be better, a sentence each, for the log; looks at the modes of the secrets' files."""
        found = []
        if self.component.is_server_exposed:
            found.append(
                f"component.server is {shown(self.component.server)}, on another machine: stanzas pass in the open, and"
                " so does the proof of the component's secret; take a tls: endpoint, unless you trust the network"
            )
        if self.component.is_webhook_exposed:
            found.append(
                f"component.component_post_url is at {self.component.post_origin}, on another machine:"
                f" {', '.join(self._sent_to_webhook())} pass in the open; take https://, unless you trust the network"
            )
        if self.component.url_holds_credentials:
            found.append(
                "component.component_post_url holds a user or a password: they go out as Basic auth and stay out of"
                " the log, but a file named by webhook.bearer_token_file keeps a secret better"
            )
        for key in ("retry_budget_percent", "retry_budget_per_second"):
            if getattr(self.delivery, key) is not None:
                found.append(f"delivery.{key} is not used any more, for there is no retry budget: remove it")
        if self.api.listen is None and (self.api.token or self.api.hook):
            found.append("there are tokens or hooks for the API, but it is off: api.listen is not set")
        if self.api.is_exposed:
            found.append(
                f"api.listen is {shown(self.api.listen)}, where tokens pass in the open: take an ssl: endpoint, or"
                " interface=127.0.0.1 behind a proxy that speaks TLS"
            )
        for key, path in self.secret_files():
            may = _everyone_may(path)
            if may is not None:
                found.append(f"{key} {shown(path)} can be {may} by every user of this machine: chmod o-rwx it")
        inside = self._secrets_inside()
        may = None if self.file is None or not inside else _everyone_may(self.file)
        if may is not None:
            found.append(
                f"the settings file {shown(self.file)} has a secret in it ({inside[0]}), and can be {may} by every user"
                " of this machine: chmod o-rwx it"
            )
        return tuple(found)

    def secret_files(self) -> list[tuple[str, str]]:
        """The files with secrets, each with the name of its setting in front."""
        files = (
            ("component.secret_file", self.component.secret_file),
            ("webhook.bearer_token_file", self.webhook.bearer_token_file),
            *(("api.token.token_file", token.token_file) for token in self.api.token),
            *(("api.hook.secret_file", hook.secret_file) for hook in self.api.hook),
        )
        return [(key, path) for key, path in files if path is not None]

    def _secrets_inside(self) -> list[str]:
        """The settings that hold a secret themselves."""
        url = ["the user in component.component_post_url"] if self.component.url_holds_credentials else []
        return url + [f"webhook.headers.{name}" for name in self.webhook.headers if _SECRET_HEADER.search(name)]

    def _sent_to_webhook(self) -> list[str]:
        """What each POST shows to whoever can read it."""
        sent = ["stanzas"]
        if WebhookUrl.parse(self.component.component_post_url or "").target != b"/":
            sent.append("the path of the URL")
        if self.component.url_holds_credentials:
            sent.append("the user and the password in it")
        if self.webhook.bearer_token is not None:
            sent.append("the bearer token")
        if self.webhook.headers:
            sent.append("webhook.headers")
        return sent


def spool_from_toml(path: str | os.PathLike[str]) -> SpoolSettings:
    """
    Read where the spool of a settings file is, for a program that needs neither its other settings nor its secrets.

    Args:
        path: The file; relative paths in it start at its folder.

    Raises:
        SettingsError: Something in it cannot be used, or the file cannot.
    """
    reading = Reading({})
    from_file(path, reading, SpoolSettings.TABLE)
    spool: SpoolSettings | None = reading.made(SpoolSettings, str(path))
    if spool is None or reading.problems:
        raise SettingsError(*reading.problems)
    return spool


def _conflicts(component: ComponentSettings | None, webhook: WebhookSettings | None) -> Iterator[str]:
    """What in two tables does not go together; None for one that could not be made."""
    if component is None or webhook is None:
        return
    sources = webhook.authorization_sources()
    if component.url_holds_credentials:
        sources.append("the user in component.component_post_url")
    if len(sources) > 1:
        yield f"{sources[0]} and {sources[1]} both set the Authorization header: remove one of them"


def _foreign_senders(component: ComponentSettings | None, api: ApiSettings | None) -> Iterator[str]:
    """A sentence for each address that the API is to send from and the component cannot."""
    if component is None or api is None:
        return
    domain = component.domain
    only = f"but the component can only send from {domain} and addresses in it"
    for token in api.token:
        for pattern in token.may_send_as:
            if pattern != "*" and pattern.rpartition("@")[2] != domain:
                yield f"api.token {token.name} has {shown(pattern)} in may_send_as, {only}"
        if token.sender is not None and Address.parse(token.sender).domain != domain:
            yield f"api.token {token.name} has {shown(token.sender)} as sender, {only}"
    for hook in api.hook:
        if hook.send_as is not None and Address.parse(hook.send_as).domain != domain:
            yield f"api.hook {hook.name} has {shown(hook.send_as)} as send_as, {only}"


def _everyone_may(path: str) -> str | None:
    """What every user may do with a file, as the end of "can be ..."; None for nothing. A link is what it leads to."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return None
    if not stat.S_ISREG(mode) or not mode & (stat.S_IROTH | stat.S_IWOTH):
        return None
    return "changed" if mode & stat.S_IWOTH else "read"


@contextmanager
def _naming(source: str | None) -> Iterator[None]:
    """Let the sentences of an error name the file."""
    try:
        yield
    except SettingsError as error:
        if source is None:
            raise
        raise SettingsError(*(f"{source}: {sentence}" for sentence in error.sentences)) from None
