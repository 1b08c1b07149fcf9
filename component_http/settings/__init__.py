"""
The settings, their limits, and one sentence for each mistake in them.

A setting has the same name in three places. A settings file has `[webhook] timeout`, the command line
`--webhook-timeout`, an application `WebhookSettings(timeout=...)`. Each of them, and so each constructor, checks the
values, so that nobody who holds a `Settings` need check again. Reading settings opens no socket and installs no
reactor.

Each table of a settings file has its module, and so have the types of `values`. `catalog` knows the names of all
settings, `reading` reads files and flags, `advice` compares the tables with each other.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from itertools import chain
from types import MappingProxyType
from typing import Any, Literal, Self, TypeVar

from attrs import evolve, field, frozen

from component_http.contract.conditions import StanzaError
from component_http.contract.pseudonym import Pseudonyms
from component_http.errors import SettingsError
from component_http.settings.advice import (
    conflicts,
    domain_conflicts,
    foreign_senders,
    of_route,
    own_certificates,
    own_operators,
    secret_files,
    warnings,
)
from component_http.settings.api import ApiSettings, HookSettings, TokenSettings
from component_http.settings.catalog import (
    CONDITIONS,
    Setting,
    no_webhook,
    nothing_to_do,
    reference,
    retired_flags,
    unknown_flag,
)
from component_http.settings.component import SECRET_VARIABLE, ComponentSettings
from component_http.settings.declaration import Table
from component_http.settings.delivery import DeliverySettings
from component_http.settings.log import LogSettings
from component_http.settings.operations import OperationsSettings
from component_http.settings.reading import Reading
from component_http.settings.route import RouteSettings
from component_http.settings.spool import SpoolSettings
from component_http.settings.webhook import WebhookSettings

_OWN = (ComponentSettings, WebhookSettings, DeliverySettings)
"""The tables that each component has for itself, beside [conditions]; the others are for all of them."""

_SHARED = (SpoolSettings, ApiSettings, OperationsSettings, LogSettings)

__all__ = [
    "SECRET_VARIABLE",
    "ApiSettings",
    "ComponentSettings",
    "DeliverySettings",
    "HookSettings",
    "LogSettings",
    "OperationsSettings",
    "RouteSettings",
    "Setting",
    "Settings",
    "SpoolSettings",
    "TokenSettings",
    "WebhookSettings",
    "operations_from_toml",
    "reference",
    "retired_flags",
    "spool_from_toml",
    "unknown_flag",
]


@frozen
class Settings(Table):
    """
    Everything a gateway needs to know.

    An application writes `Settings(component=ComponentSettings(...), webhook=WebhookSettings(...))`; for an operator
    there are `from_toml` and `from_flags`.

    Attributes:
        conditions: The stanza error of an HTTP status, if it differs from the contract's.
        others: The other components that the same gateway serves. Of each its component, webhook, delivery and
            conditions count; it shares the spool, the API and the log of this one.
        secret_in_environment: An operator gave a component's secret in the environment.
        of_routes: For each route, by its name, these settings with its URL and those of its webhook.
        file: The settings file that they were read from, or None.

    Raises:
        SettingsError: In every way to make one: something cannot be used. `str()` of the error is one line.
    """

    component: ComponentSettings = field(kw_only=True)
    webhook: WebhookSettings = field(kw_only=True, factory=WebhookSettings)
    delivery: DeliverySettings = field(kw_only=True, factory=DeliverySettings)
    spool: SpoolSettings = field(kw_only=True, factory=SpoolSettings)
    api: ApiSettings = field(kw_only=True, factory=ApiSettings)
    operations: OperationsSettings = field(kw_only=True, factory=OperationsSettings)
    log: LogSettings = field(kw_only=True, factory=LogSettings)
    conditions: Mapping[int, StanzaError] = CONDITIONS
    others: Sequence[Settings] = field(kw_only=True, default=())
    file: str | None = field(kw_only=True, default=None, eq=False, repr=False)
    secret_in_environment: bool = field(kw_only=True, default=False, eq=False, repr=False)
    of_routes: Mapping[str, Settings] = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "of_routes", {})
        object.__setattr__(self, "of_routes", {each.name: self._of_route(each) for each in self.component.route})
        object.__setattr__(self, "others", tuple(map(self._beside, self.others)))
        domains = [each.component.domain for each in self.each]
        problems = [
            *conflicts(self.component, self.webhook),
            *chain(*(conflicts(one.component, one.webhook, of_route(name)) for name, one in self.of_routes.items())),
            *domain_conflicts(domains),
            *foreign_senders(domains, self.api),
            *own_operators(domains, self.operations.admin_jids),
        ]
        if problems:
            raise SettingsError(*problems)

    def _beside(self, other: Settings) -> Settings:
        """Make the settings of another component, with the tables of this one that it shares."""
        if other.others:
            raise SettingsError(f"{other.component.domain} has other components of its own: name them all in one place")
        shared = copy(other)
        for table in ("spool", "api", "operations", "log", "file"):
            object.__setattr__(shared, table, getattr(self, table))
        return shared

    @property
    def each(self) -> tuple[Settings, ...]:
        """The settings of each component that is served, this one first."""
        return (self, *self.others)

    def of(self, domain: str) -> Settings | None:
        """Return the settings of one of the components; None if it is not served."""
        return next((each for each in self.each if each.component.domain == domain), None)

    def _of_route(self, route: RouteSettings) -> Settings:
        routed = copy(self)
        changed = dict(route.webhook)
        # Those of the component are other ones.
        if "bearer_token_file" in changed:
            changed["bearer_token"] = None
        if "signing_secret_files" in changed:
            changed["signing_secrets"] = None
        object.__setattr__(routed, "webhook", evolve(self.webhook, **changed))
        object.__setattr__(routed, "component", self.component.with_post_url(route.url))
        return routed

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str], env: Mapping[str, str] = os.environ) -> Self:
        """
        Read a settings file.

        Args:
            path: The file; relative paths in it start at its folder.
            env: The environment, for `COMPONENT_HTTP_SECRET` and the folder of credentials.
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
        Read a command line and a settings file.

        Args:
            flags: The text of each flag that was given, by its name without the dashes in front (see `reference`).
            config: The settings file, or None; flags win over it.
            env: The environment, for `COMPONENT_HTTP_SECRET` and the folder of credentials.
            leave_out: Names of settings to ignore in the file, such as `component.secret_file`.
            needs_webhook: Whether an API alone is not enough.
        """
        reading = Reading(env)
        if config is not None:
            reading.add_file(config)
            reading.leave_out(leave_out)
        reading.add_flags(flags)
        source = None if config is None else str(config)
        return cls._from_reading(reading, source, source, serves="webhook" if needs_webhook else "anything")

    @classmethod
    def from_mapping(
        cls, mapping: Mapping[str, object], *, source: str = "settings", env: Mapping[str, str] = MappingProxyType({})
    ) -> Self:
        """
        Read settings in the shape of a settings file.

        Args:
            mapping: By its name, each table: its values by key.
            source: Names them in errors.
            env: The environment, for `COMPONENT_HTTP_SECRET` and the folder of credentials; empty unless given.
        """
        reading = Reading(env)
        reading.add_tables(mapping, source)
        return cls._from_reading(reading, source)

    @classmethod
    def _from_reading(
        cls,
        reading: Reading,
        source: str | None,
        file: str | None = None,
        *,
        serves: Literal["webhook", "anything", "nothing"] = "nothing",
    ) -> Self:
        """Make the settings of what was read; `serves` is what each component has to have something for."""
        shared: dict[str, Any] = {table.TABLE: reading.made(table, source) for table in _SHARED}
        components: list[dict[str, Any]] = []
        for where, one in reading.components(source):
            parts = {table.TABLE: one.made(table, where) for table in _OWN}
            if one.lacks("component.component_post_url") and not one.given.get("component.route"):
                if serves == "webhook":
                    one.problems.append(no_webhook(where))
                elif serves == "anything" and reading.lacks("api.listen"):
                    one.problems.append(nothing_to_do(where))
            one.tell(conflicts(parts["component"], parts["webhook"]), where)
            if "conditions" in one.given:
                parts["conditions"] = one.given["conditions"]
            components.append(parts)
            if one is not reading:
                reading.problems += [each for each in one.problems if each not in reading.problems]
        domains = [parts["component"].domain for parts in components if parts["component"] is not None]
        reading.tell(domain_conflicts(domains), source)
        if len(domains) == len(components) and shared["api"] is not None:
            reading.tell(foreign_senders(domains, shared["api"]), source)
        if shared["operations"] is not None:
            reading.tell(own_operators(domains, shared["operations"].admin_jids), source)
        if reading.problems:
            raise SettingsError(*reading.problems)
        first, *others = components
        return cls(
            **first,
            **shared,
            others=tuple(cls(**parts) for parts in others),
            file=file,
            secret_in_environment=(
                serves == "anything"
                and bool(reading.env.get(SECRET_VARIABLE))
                and any(parts["component"].secret_file is None for parts in components)
            ),
        )

    def pseudonyms(self) -> Pseudonyms:
        """The names of addresses for this installation: those of the first component's secret."""
        return Pseudonyms(self.component.secret, [each.component.domain for each in self.each])

    def warnings(self) -> tuple[str, ...]:
        """Write a sentence, for the log, for each setting that works but should be better."""
        return tuple(warnings(self))

    def secret_files(self) -> list[tuple[str, str]]:
        """List the files with secrets, each behind the name of its setting."""
        return secret_files(self)

    def own_certificates(self) -> list[tuple[str, str]]:
        """List the files with certificates of the gateway, each behind the name of its setting."""
        return own_certificates(self)


def spool_from_toml(path: str | os.PathLike[str]) -> SpoolSettings:
    """
    Read the table [spool] of a settings file, for a program that needs neither other settings nor secrets.

    Args:
        path: The file; relative paths in it start at its folder.

    Raises:
        SettingsError: Something in it cannot be used, or the file cannot.
    """
    return _one_table(SpoolSettings, path, {})


def operations_from_toml(path: str | os.PathLike[str], env: Mapping[str, str] = os.environ) -> OperationsSettings:
    """Read the table [operations] of a settings file likewise; `env` is for the folder of credentials."""
    return _one_table(OperationsSettings, path, env)


_T = TypeVar("_T", bound=Table)


def _one_table(table: type[_T], path: str | os.PathLike[str], env: Mapping[str, str]) -> _T:
    reading = Reading(env)
    reading.add_file(path, table.TABLE)
    made: _T | None = reading.made(table, str(path))
    if made is None or reading.problems:
        raise SettingsError(*reading.problems)
    return made
