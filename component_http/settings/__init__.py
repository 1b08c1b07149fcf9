"""
What the operator decides: the settings, their limits, and one good sentence for each way they can be wrong.

One set of names serves three doors. A settings file has `[webhook] timeout`, the command line `--webhook-timeout`,
an application `WebhookSettings(timeout=...)`. Values are checked on the way in, also by the constructors, so that
whoever holds a `Settings` need not ask again. Reading them opens no socket and installs no reactor.

`values` knows what one value may be, `tables` which settings there are, `sources` how they are written down.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Self

from attrs import NOTHING, Factory, field, fields, frozen

from component_http.contract.address import Address
from component_http.contract.conditions import StanzaError
from component_http.errors import SettingsError
from component_http.settings.sources import (
    CONDITIONS,
    TABLES,
    Given,
    ReferenceRow,
    from_file,
    from_flags,
    from_tables,
    missing,
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


@frozen
class Settings(Table):
    """
    Everything a gateway needs to know.

    `Settings(component=ComponentSettings(...), webhook=WebhookSettings(...))` for an application; `from_toml` and
    `from_flags` for an operator.

    Attributes:
        conditions: The stanza error of an HTTP status, where it is another than the contract's.

    Raises:
        SettingsError: From every way to make one: something cannot be used. `str()` of it is one sentence.
    """

    component: ComponentSettings = field(kw_only=True)
    webhook: WebhookSettings = field(kw_only=True, factory=WebhookSettings)
    delivery: DeliverySettings = field(kw_only=True, factory=DeliverySettings)
    spool: SpoolSettings = field(kw_only=True, factory=SpoolSettings)
    api: ApiSettings = field(kw_only=True, factory=ApiSettings)
    conditions: Mapping[int, StanzaError] = setting(CONDITIONS, default=Factory(dict))

    def __attrs_post_init__(self) -> None:
        sources = self.webhook.authorization_sources()
        if self.component.url_holds_credentials:
            sources.append("the user in component.component_post_url")
        if len(sources) > 1:
            raise SettingsError(f"{sources[0]} and {sources[1]} both set the Authorization header: remove one of them")

        domain = self.component.domain
        for token in self.api.token:
            for pattern in token.may_send_as:
                if pattern != "*" and pattern.rpartition("@")[2] != domain:
                    raise SettingsError(
                        f"api.token {token.name} has {shown(pattern)} in may_send_as, but the component can only send"
                        f" from {domain} and addresses in it"
                    )
        for hook in self.api.hook:
            if hook.send_as is not None and Address.parse(hook.send_as).domain != domain:
                raise SettingsError(
                    f"api.hook {hook.name} has {shown(hook.send_as)} as send_as, but the component can only send from"
                    f" {domain} and addresses in it"
                )

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str], env: Mapping[str, str] = os.environ) -> Self:
        """
        Read a settings file.

        Args:
            path: The file; relative paths in it start at its folder.
            env: Where `COMPONENT_HTTP_SECRET` is looked up.
        """
        return cls._from_given(from_file(path), env, str(path))

    @classmethod
    def from_flags(
        cls,
        flags: Mapping[str, str],
        config: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] = os.environ,
    ) -> Self:
        """
        Read a command line, and below it a settings file.

        Args:
            flags: The text of each flag that was given, by its name without the dashes in front (see `reference`).
            config: The settings file whose values the flags override, or None for none.
            env: Where `COMPONENT_HTTP_SECRET` is looked up.
        """
        given = {} if config is None else from_file(config)
        return cls._from_given({**given, **from_flags(flags)}, env, None if config is None else str(config))

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
            env: Where `COMPONENT_HTTP_SECRET` is looked up; nowhere unless given.
        """
        return cls._from_given(from_tables(mapping, source), env, source)

    @classmethod
    def _from_given(cls, given: Mapping[str, Given], env: Mapping[str, str], source: str | None) -> Self:
        parts: dict[str, Any] = {}
        for name, table in TABLES.items():
            values: dict[str, Any] = {}
            for attribute in fields(table):
                found = given.get(f"{name}.{attribute.name}")
                if found is not None:
                    values[attribute.name] = found.value
                elif attribute.default is NOTHING:
                    raise SettingsError(missing(name, attribute, source))
            if name == ComponentSettings.TABLE and env.get(SECRET_VARIABLE):
                values["secret"] = without_line_end(env[SECRET_VARIABLE])
            parts[name] = _naming(source, table, values)
        if "conditions" in given:
            parts["conditions"] = given["conditions"].value
        settings: Self = _naming(source, cls, parts)
        return settings

    def warnings(self) -> tuple[str, ...]:
        """What works but should be better, a sentence each, for the log; looks at the modes of the secrets' files."""
        found = []
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
        for key, path in (
            ("component.secret_file", self.component.secret_file),
            ("webhook.bearer_token_file", self.webhook.bearer_token_file),
            *(("api.token.token_file", token.token_file) for token in self.api.token),
            *(("api.hook.secret_file", hook.secret_file) for hook in self.api.hook),
        ):
            if path is not None and _everyone_can_read(path):
                found.append(f"{key} {shown(path)} can be read by every user of this machine: chmod o-rwx it")
        return tuple(found)


def spool_from_toml(path: str | os.PathLike[str]) -> SpoolSettings:
    """
    Read where the spool of a settings file is, for a program that needs neither its other settings nor its secrets.

    Args:
        path: The file; relative paths in it start at its folder.

    Raises:
        SettingsError: Something in it cannot be used, or the file cannot.
    """
    prefix = f"{SpoolSettings.TABLE}."
    values = {
        name.removeprefix(prefix): given.value for name, given in from_file(path).items() if name.startswith(prefix)
    }
    spool: SpoolSettings = _naming(str(path), SpoolSettings, values)
    return spool


def _everyone_can_read(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and bool(mode & stat.S_IROTH)


def _naming(source: str | None, table: Callable[..., object], values: Mapping[str, Any]) -> Any:
    """Make a table; where its values do not go together, the sentence names the file."""
    try:
        return table(**values)
    except SettingsError as error:
        if source is None:
            raise
        raise SettingsError(f"{source}: {error}") from None
