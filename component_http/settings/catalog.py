"""Every setting with its names, and guesses at the setting that a wrong name was meant to be."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Literal

from attrs import NOTHING, Attribute, AttrsInstance, Factory, fields, frozen

from component_http.settings.api import ApiSettings
from component_http.settings.component import SECRET_VARIABLE, ComponentSettings
from component_http.settings.declaration import About, Table, about, key_of, setting, settings_in
from component_http.settings.delivery import DeliverySettings
from component_http.settings.log import LogSettings
from component_http.settings.operations import OperationsSettings
from component_http.settings.spool import SpoolSettings
from component_http.settings.values.http import STATUS_ERRORS
from component_http.settings.values.plain import RATE
from component_http.settings.values.value_type import hint, nearest, shown
from component_http.settings.webhook import WebhookSettings

TABLES: Mapping[str, type[AttrsInstance]] = {
    table.TABLE: table
    for table in (
        ComponentSettings,
        WebhookSettings,
        DeliverySettings,
        SpoolSettings,
        ApiSettings,
        OperationsSettings,
        LogSettings,
    )
}

CONDITIONS: Any = setting(
    STATUS_ERRORS,
    "the stanza error of an HTTP status, if it should differ from the contract's",
    default=Factory(dict),
    why="types and conditions are those of RFC 6120 section 8.3",
    example='404 = "cancel item-not-found No such bot"',
)
"""The table [conditions]: the field of one setting, whose keys are HTTP statuses."""

Applies = Literal["at once", "reconnect", "restart"]
"""
How a new value comes to a gateway that reads its settings again: at once; by another stream of that component, after a
drain; or by another gateway in the same process.
"""

_APPLIES: Mapping[str, Applies] = {
    "component": "reconnect",
    "component.component_post_url": "at once",
    "component.route": "at once",
    "spool": "restart",
    "api": "restart",
    "operations": "restart",
    "operations.admin_jids": "at once",
    "operations.alert_after": "at once",
}
"""The settings, and the tables, that do not apply at once, but for one."""

OLD_NAMES = {"component.post_stanza_types": "component.component_post_stanzas"}
"""Other names of settings: the code of mod_component_http reads this one, but its README has ours."""


@frozen
class Setting:
    """
    One setting and its names.

    Attributes:
        table: Its table: "" for [conditions], which is a table itself, and "api.token" for each [[api.token]].
        key: Its name in the table.
        default: Its default as TOML, "required", or "none".
    """

    table: str
    key: str
    about: About
    default: str

    @property
    def name(self) -> str:
        """Its key with its table in front."""
        return f"{self.table}.{self.key}" if self.table else self.key

    @property
    def applies(self) -> Applies:
        """Tell how a new value comes to a gateway that reads its settings again."""
        return _APPLIES.get(self.name) or _APPLIES.get(self.table, "at once")

    @property
    def flags(self) -> tuple[str, ...]:
        """Its flags with their dashes, the shortest first; none if a flag cannot give it."""
        if self.about.value_type.from_flag is None or "." in self.table:
            return ()
        prefix = "" if self.table == "component" else f"{self.table}-"
        return tuple(f"--{name}".replace("_", "-") for name in (*self.about.aliases, f"{prefix}{self.key}"))

    @property
    def example(self) -> str:
        """A value to start from, as TOML."""
        return self.about.example or self.default


def _setting(table: str, key: str, known: About, default: Any) -> Setting:
    if default is NOTHING or known.required:
        default = "required"
    elif default is None or isinstance(default, type(Factory(dict))):
        default = "none"
    else:
        default = json.dumps("{}/{:g}s".format(*default) if known.value_type is RATE else default)
    return Setting(table, key, known, default)


def _settings_of(table: Any, name: str) -> Iterator[Setting]:
    """List the settings of a table, and after them those of the tables that may stand in it."""
    inner: list[type[Table]] = []
    for attribute in settings_in(table):
        known = about(attribute)
        if known.rows is None:
            yield _setting(name, key_of(attribute), known, attribute.default)
        else:
            inner.append(known.rows)
    for rows in inner:
        yield from _settings_of(rows, rows.TABLE)


ROWS: Mapping[str, type[Table]] = {
    rows.TABLE: rows
    for table in TABLES.values()
    for attribute in settings_in(table)
    for rows in [about(attribute).rows]
    if rows is not None
}
"""Each table that may be there any number of times, by its name."""

_ALL = (
    *(setting for name, table in TABLES.items() for setting in _settings_of(table, name)),
    _setting("", "conditions", about(CONDITIONS), None),
)
_HIDDEN = {setting.name for setting in _ALL if setting.about.hidden}

SETTINGS = {setting.name: setting for setting in _ALL if not setting.about.hidden}
"""Each setting that a file may give, by its name; the retired ones are among them."""

_IN_USE = [setting for setting in SETTINGS.values() if not setting.about.retired]
_FLAGS = {flag.removeprefix("--"): setting for setting in SETTINGS.values() for flag in setting.flags}

_NAMES_BY_KEY: dict[str, str] = {
    **{alias.replace("-", "_"): setting.name for setting in _IN_USE for alias in setting.about.aliases},
    **{setting.key: setting.name for setting in reversed(_IN_USE)},
}
"""The name of a setting by its key, or by a short name of its flag; for guesses."""


def is_in(name: str, table: str) -> bool:
    return name.rpartition(".")[0] == table


def setting_of_flag(flag: str) -> Setting | None:
    """Find the setting of a flag, given without its dashes."""
    return _FLAGS.get(flag)


def retired_flags() -> frozenset[str]:
    """The flags, without dashes in front, that are accepted and do nothing."""
    return frozenset(flag for flag, setting in _FLAGS.items() if setting.about.retired)


def reference() -> list[Setting]:
    """List every setting that a file can give and that is not retired, in the order of a settings file."""
    return list(_IN_USE)


# Sentences about settings that are missing.


def missing(table: str, attribute: Attribute[Any], source: str | None) -> str:
    """
    Write the sentence about a required setting that was not given.

    The source is the settings file, or the one of several tables in it; None for the command line.
    """
    key, example = attribute.name, about(attribute).example
    if table in ROWS:
        return f"{source}: {key} is missing: add {key} = {example}"
    if source is not None:
        heading = f"[[{table}]]" if f"[[{table}]]" in source else f"[{table}]"
        return f"{source}: {table}.{key} is missing: add {key} = {example} below {heading}"
    flag = SETTINGS[f"{table}.{key}"].flags[0]
    return f"{flag} is missing: add {flag}={json.loads(example)}, or --config=FILE with {key} below [{table}]"


def no_webhook(source: str | None) -> str:
    """Write the sentence about settings without a webhook, where a webhook is needed."""
    return missing(ComponentSettings.TABLE, fields(ComponentSettings).component_post_url, source)


def nothing_to_do(source: str | None) -> str:
    """Write the sentence about settings with neither a webhook nor an API."""
    instead = "listen below [api]" if source is not None else "--api-listen"
    return f"{no_webhook(source)}; only a gateway that just sends does not need it, with {instead}"


# Sentences about names that are none, and guesses at the setting that was meant.


def bare(key: object) -> str:
    """Write a key as a sentence may show it: TOML, and an application, can have anything as a key."""
    return key if isinstance(key, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,60}", key) else shown(key)


def misplaced_secret(name: str) -> str | None:
    """Write the remedy for a secret in a settings file; None if `name` is not the name of a secret."""
    if name not in _HIDDEN:
        return None
    file = f"put it into a file of its own and name that file in {name.rpartition('.')[2].removesuffix('_text')}_file"
    return f"{file}, or into the environment variable {SECRET_VARIABLE}" if name == "component.secret" else file


def meant_setting(name: str) -> str | None:
    """Find the setting that `name` names, or was most likely meant to name: in its table, or else in another."""
    table, key = _split(name)
    if name in SETTINGS or name in _HIDDEN:
        return name
    if name in OLD_NAMES:
        return OLD_NAMES[name]
    others = {} if table in ROWS else _NAMES_BY_KEY
    if key in others:
        return others[key]
    if near := nearest(key, _keys_of(table)):
        return f"{table}.{near}"
    near = nearest(key, others)
    return None if near is None else others[near]


def meant_by(table: object, content: object) -> list[str]:
    """Find the settings that were most likely meant by an unknown table, or by a key above the first table."""
    if isinstance(content, Mapping):
        meant = _meant_table(table)
        return [name for name in SETTINGS if meant is not None and is_in(name, meant)]
    setting = meant_setting(f"{ComponentSettings.TABLE}.{table}")
    return [] if setting is None else [setting]


def unknown_key(name: str, content: object) -> str:
    """Write the end of the sentence about a setting that does not exist."""
    table, _ = _split(name)
    near = _meant_rows(name, content) or meant_setting(name)
    heading = f"[[{table}]]" if table in ROWS else f"[{table}]"
    if near and table in ROWS:
        near = near.removeprefix(f"{table}.")
    return f"is not a setting{hint(near) or f'; {heading} has ' + ', '.join(_keys_of(table))}"


def unknown_table(name: str, content: object) -> str:
    """Write the sentence about a table that does not exist, or about a key above the first table."""
    if isinstance(content, Mapping):
        tables = [f"[{table}]" for table in (*TABLES, "conditions")]
        near = _meant_table(name)
        return f"[{name}] is not a table of settings" + (
            hint(near and f"[{near}]") or f"; there are {', '.join(tables)}"
        )
    table = "component" if f"component.{name}" in (*_HIDDEN, *OLD_NAMES) else None
    if name in _NAMES_BY_KEY and _NAMES_BY_KEY[name].endswith(f".{name}"):
        table = _NAMES_BY_KEY[name].partition(".")[0]
    if table is not None:
        return f"{name} stands above the first table, but belongs below [{table}]"
    near = nearest(name, _NAMES_BY_KEY)
    return f"{name} is not a setting{hint(_meant_rows(name, content) or (_NAMES_BY_KEY[near] if near else None))}"


def unknown_flag(flag: str, others: Collection[str] = ()) -> str:
    """
    Write the sentence about a flag, without the dashes in front, that does not exist.

    The others are the flags that exist beside those of settings.
    """
    key = flag.replace("-", "_")
    if key in ("secret", "bearer_token", "webhook_bearer_token"):
        instead = "--webhook-bearer-token-file"
        if key == "secret":
            instead = f"--secret-file or the environment variable {SECRET_VARIABLE}"
        return f"--{flag} is not a flag, because every user of the machine would see it: use {instead}"
    meant = SETTINGS[_NAMES_BY_KEY[key]].flags if key in _NAMES_BY_KEY else ()
    near = meant[0] if meant else nearest(f"--{flag}", [f"--{name}" for name in {*_FLAGS, *others} - retired_flags()])
    return f"--{flag} is not a flag{hint(near) or '; --help lists them all'}"


def _split(name: str) -> tuple[str, str]:
    """Split a name, whose key may be anything that somebody wrote, into its table and the key."""
    table = next((row for row in ROWS if name.startswith(f"{row}.")), name.partition(".")[0])
    return table, name.removeprefix(f"{table}.")


def _keys_of(table: str) -> list[str]:
    return [setting.key for setting in _IN_USE if setting.table == table]


def _meant_table(name: object) -> str | None:
    return nearest(name, [*TABLES, "conditions"])


def _meant_rows(name: str, content: object) -> str | None:
    """Find the [[...]] that was meant by `name`, if its content is a table or several."""
    if not isinstance(content, (Mapping, list)) or not all(isinstance(row, (Mapping, str)) for row in content):
        return None
    by_key = {row.rpartition(".")[2]: row for row in ROWS}
    near = nearest(name.rpartition(".")[2], by_key)
    return None if near is None else f"[[{by_key[near]}]]"
