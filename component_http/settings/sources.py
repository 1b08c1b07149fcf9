"""Where settings are written down, files and flags, and under which names."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import NOTHING, Attribute, AttrsInstance, Factory, field, fields, frozen

from component_http.errors import SettingsError
from component_http.settings.tables import (
    SECRET_VARIABLE,
    About,
    ApiSettings,
    ComponentSettings,
    DeliverySettings,
    SpoolSettings,
    Table,
    WebhookSettings,
    about,
    read_text,
    secret_problems,
)
from component_http.settings.values import ANSWERS, RATE, accepted, accepted_from_flag, hint, nearest, shown

__all__ = [
    "CONDITIONS",
    "TABLES",
    "Given",
    "Reading",
    "ReferenceRow",
    "from_file",
    "from_flags",
    "from_tables",
    "no_webhook",
    "nothing_to_do",
    "reference",
    "unknown_flag",
]

_MAX_FILE_BYTES = 1024 * 1024
"""Bytes of a settings file that are read; a real one has a few hundred, a device has no end."""

_STANZAS = "component.component_post_stanzas"
_OLD_STANZAS = "component.post_stanza_types"
"""What mod_component_http's code reads; its README has the other name."""

TABLES: Mapping[str, type[AttrsInstance]] = {
    table.TABLE: table for table in (ComponentSettings, WebhookSettings, DeliverySettings, SpoolSettings, ApiSettings)
}

_PATHS = ("secret_file", "bearer_token_file", "path", "token_file", "template_file")
"""Keys whose value is a path that starts at the folder of the settings file."""

CONDITIONS = About(
    ANSWERS,
    "the stanza error of an HTTP status, where it should be another than the contract's",
    "types and conditions are those of RFC 6120 section 8.3",
    example='404 = "cancel item-not-found No such bot"',
)
"""The table [conditions], which is one setting: its keys are HTTP statuses."""


@frozen
class _Setting:
    """One setting and its names; `table` is "" for [conditions], and "api.token" for those of an [[api.token]]."""

    table: str
    key: str
    about: About
    default: Any

    @property
    def name(self) -> str:
        return f"{self.table}.{self.key}" if self.table else self.key

    @property
    def flags(self) -> tuple[str, ...]:
        """Its flags without dashes in front, the shortest first."""
        if self.about.kind.from_flag is None or "." in self.table:
            return ()
        prefix = "" if self.table == "component" else f"{self.table}-"
        return (*self.about.aliases, f"{prefix}{self.key}".replace("_", "-"))


def _settings_of(table: Any, name: str) -> Iterator[_Setting]:
    """Those of a table; behind them, for each that holds tables, the settings of these."""
    inner: list[type[Table]] = []
    for attribute in fields(table):
        known = about(attribute)
        if known.rows is None:
            yield _Setting(name, attribute.name, known, attribute.default)
        else:
            inner.append(known.rows)
    for rows in inner:
        yield from _settings_of(rows, rows.TABLE)


_ROWS: Mapping[str, type[Table]] = {
    known.rows.TABLE: known.rows
    for table in TABLES.values()
    for attribute in fields(table)
    if (known := about(attribute)).rows is not None
}
"""Each table that may be there any number of times, by its name."""

_ALL = (
    *(setting for name, table in TABLES.items() for setting in _settings_of(table, name)),
    _Setting("", "conditions", CONDITIONS, Factory(dict)),
)
_HIDDEN = {setting.name for setting in _ALL if setting.about.hidden}
_SETTINGS = {setting.name: setting for setting in _ALL if not setting.about.hidden}
_FLAGS = {flag: setting for setting in _SETTINGS.values() for flag in setting.flags}

_FILE_MAY_GIVE = tuple(_SETTINGS)
"""The settings that a file which cannot be read may have given."""

_NAMES_BY_KEY: dict[str, str] = {
    **{alias.replace("-", "_"): setting.name for setting in _SETTINGS.values() for alias in setting.about.aliases},
    **{setting.key: setting.name for setting in reversed(_SETTINGS.values())},
}
"""For guessing what somebody meant: the name of a setting by its key, or by a short name of its flag."""


@frozen
class ReferenceRow:
    """
    One setting, for a reader.

    Attributes:
        table: The table in a settings file; "" for `conditions`, which is a table itself.
        key: Its name there.
        flags: Its flags with their dashes, the shortest first; none where a flag cannot give it.
        allowed: What it may be; completes "must be".
        default: The default as TOML, "required", or "none".
        example: A value to start from, as TOML.
        help: What it is for.
        reason: Why it has this default and these limits.
    """

    table: str
    key: str
    flags: tuple[str, ...]
    allowed: str
    default: str
    example: str
    help: str
    reason: str


def reference() -> list[ReferenceRow]:
    """Every setting that a file can give, and that does something, in the order of a settings file."""
    rows = []
    for setting in _SETTINGS.values():
        if setting.about.retired:
            continue
        if setting.default is NOTHING or setting.about.required:
            default = "required"
        elif setting.default is None or isinstance(setting.default, type(Factory(dict))):
            default = "none"
        elif setting.about.kind is RATE:
            default = json.dumps("{}/{:g}s".format(*setting.default))
        else:
            default = json.dumps(setting.default)
        known = setting.about
        flags = tuple(f"--{flag}" for flag in setting.flags)
        example = known.example or default
        rows.append(
            ReferenceRow(
                setting.table, setting.key, flags, known.kind.allowed, default, example, known.help, known.reason
            )
        )
    return rows


@frozen
class Given:
    """A value that was accepted, and where it stood."""

    value: Any = field(repr=False)
    label: str


class Reading:
    """
    What was given so far, and what is wrong with it.

    Args:
        env: The environment, where credentials are looked up.

    Attributes:
        given: The values that can be used, by the names of their settings.
        problems: A sentence for each thing that cannot be used.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.given: dict[str, Given] = {}
        self.problems: list[str] = []
        self._spoilt: set[str] = set()

    @contextmanager
    def collecting(self, *names: str) -> Iterator[None]:
        """Collect what is wrong, and remember that these settings were given, but cannot be used."""
        try:
            yield
        except SettingsError as error:
            self.problems += error.sentences
            self._spoilt.update(names)

    def lacks(self, name: str) -> bool:
        """Whether a setting was not given, neither well nor badly."""
        return name not in self.given and name not in self._spoilt

    def made(self, table: Any, source: str | None) -> Any:
        """
        Make a table of what was given.

        Args:
            table: Its class.
            source: The settings file, or None where there is none.

        Returns:
            The table, or None where it cannot be made: `problems` says why.
        """
        prefix = f"{table.TABLE}."
        values = {
            name.removeprefix(prefix): given.value for name, given in self.given.items() if _is_in(name, table.TABLE)
        }
        spoilt = {name.removeprefix(prefix) for name in self._spoilt if _is_in(name, table.TABLE)} - values.keys()
        made, problems = _made(table, values, spoilt, lambda attribute: missing(table.TABLE, attribute, source))
        self.problems += [
            problem if source is None or problem.startswith(f"{source}: ") else f"{source}: {problem}"
            for problem in problems
        ]
        return made


def _is_in(name: str, table: str) -> bool:
    return name.rpartition(".")[0] == table


def _made(
    table: Any,
    values: Mapping[str, Any],
    spoilt: Collection[str],
    missing: Callable[[Attribute[Any]], str],
) -> tuple[Table | None, list[str]]:
    """
    Make a table of values that are right one by one, or else say all that is wrong.

    Args:
        table: Its class.
        values: By key.
        spoilt: The keys whose values cannot be used; somebody was told already.
        missing: Makes the sentence about a required setting that is not there.
    """
    required = {attribute.name: attribute for attribute in fields(table) if attribute.default is NOTHING}
    problems = [missing(required[key]) for key in required if key not in values and key not in spoilt]
    if not problems and not spoilt:
        try:
            return table(**values), []
        except SettingsError as error:
            problems += error.sentences
    problems += (problem for problem in secret_problems(table, values, spoilt) if problem not in problems)
    return None, problems


# Files.


def from_file(path: str | os.PathLike[str], reading: Reading, only: str | None = None) -> None:
    """
    Read a settings file; relative paths in it start at its folder.

    Args:
        path: The file.
        reading: Takes what is in it.
        only: The one table to look at, beside those that there are not; None for all.
    """
    with reading.collecting(*_FILE_MAY_GIVE):
        text = read_text(f"{path}", path, _MAX_FILE_BYTES)
        try:
            tables = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"{path}, {_toml_problem(text, str(error))}") from None
        except (ValueError, RecursionError):
            raise SettingsError(f"{path} has a number that is too long, or is nested too deep") from None
        others = set() if only is None else {*TABLES, "conditions"} - {only}
        wanted = {name: table for name, table in tables.items() if name not in others}
        from_tables(wanted, str(path), reading, Path(path).parent)


def _toml_problem(text: str, message: str) -> str:
    """The place and the problem, from the one text in which `tomllib` gives both."""
    parts = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message, re.DOTALL)
    if parts is None:
        return f"not valid TOML: {message}"
    lines = text.splitlines()
    line, column = parts[2] or len(lines), parts[3] or len(lines[-1]) + 1 if lines else 1
    return f"line {line}, column {column}: not valid TOML: {parts[1]}"


def from_tables(tables: Mapping[str, object], source: str, reading: Reading, folder: Path | None = None) -> None:
    """
    The same for tables that were read already.

    Args:
        tables: By its name, each table: its values by key.
        source: How errors call them.
        reading: Takes what is in them.
        folder: Where relative paths start; None leaves them as they are.
    """
    for table, content in tables.items():
        if table == "conditions":
            label = f"{source}: {table}"
            with reading.collecting(table):
                reading.given[table] = Given(accepted(label, content, CONDITIONS.kind), label)
        elif table not in TABLES:
            with reading.collecting(*_meant_by(table, content)):
                raise SettingsError(f"{source}: {_unknown_table(_bare(table), content)}")
        elif not isinstance(content, Mapping):
            with reading.collecting(*(name for name in _SETTINGS if _is_in(name, table))):
                raise SettingsError(f"{source}: {table} is {shown(content)}, but must be a table: [{table}]")
        else:
            for key, value in content.items():
                name = f"{table}.{_bare(key)}"
                with reading.collecting(name if name in _ROWS else _meant_setting(name) or name):
                    _take(reading, source, name, value, folder)


def _bare(key: object) -> str:
    """A key as a sentence may show it: TOML, and an application, can have anything for one."""
    return key if isinstance(key, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,60}", key) else shown(key)


def _take(reading: Reading, source: str, name: str, value: Any, folder: Path | None) -> None:
    label = f"{source}: {name}"
    if name in _ROWS:
        reading.given[name] = Given(_rows(source, name, value, folder, reading.env), label)
        return
    if name in _HIDDEN:
        raise SettingsError(f"{label} must not stand in the open: {_secret_remedy(name)}")
    setting = _SETTINGS.get(_STANZAS if name == _OLD_STANZAS else name)
    if setting is None:
        raise SettingsError(f"{label} is not a setting{hint(_meant_rows(name, value)) or _meant(name)}")
    value = _accepted(label, value, setting, folder, reading.env)
    before = reading.given.get(setting.name)
    if before is not None and before.value != value:
        raise SettingsError(
            f"{before.label} is {shown(before.value)} and {name} is {shown(value)}, but they are two names of one"
            " setting: remove one of the two"
        )
    reading.given[setting.name] = Given(value, label)


def _accepted(label: str, value: Any, setting: _Setting, folder: Path | None, env: Mapping[str, str]) -> Any:
    """A value from a settings file; a relative path starts at its folder."""
    value = accepted(label, value, setting.about.kind, env)
    return str(folder / value) if folder is not None and setting.key in _PATHS else value


def _rows(source: str, name: str, content: object, folder: Path | None, env: Mapping[str, str]) -> tuple[Table, ...]:
    """Take all tables of a name that may be there any number of times."""
    if isinstance(content, Mapping):
        raise SettingsError(f"{source}: [{name}] must be written as [[{name}]], for there may be several")
    if not isinstance(content, (list, tuple)) or not all(isinstance(row, (Mapping, _ROWS[name])) for row in content):
        raise SettingsError(f"{source}: {name} is {shown(content)}, but must be tables: [[{name}]]")
    problems: list[str] = []
    rows = []
    for number, row in enumerate(content, 1):
        try:
            where = f"{source}: [[{name}]] number {number}"
            rows.append(row if isinstance(row, Table) else _row(where, name, row, folder, env))
        except SettingsError as error:
            problems += error.sentences
    if problems:
        raise SettingsError(*problems)
    return tuple(rows)


def _row(where: str, name: str, content: Mapping[str, Any], folder: Path | None, env: Mapping[str, str]) -> Table:
    """Take one of them."""
    known = {setting.key: setting for setting in _ALL if setting.table == name}
    keys = [key for key, setting in known.items() if not setting.about.hidden]
    taken: dict[str, Any] = {}
    spoilt: set[str] = set()
    problems: list[str] = []
    for key, value in content.items():
        setting = known.get(key)
        label = f"{where}: {_bare(key)}"
        try:
            if setting is None:
                there_are = f"; there are {', '.join(keys)}"
                raise SettingsError(f"{label} is not a setting{hint(nearest(key, keys)) or there_are}")
            if setting.about.hidden:
                raise SettingsError(f"{label} must not stand in the open: {_secret_remedy(f'.{key}')}")
            taken[key] = _accepted(label, value, setting, folder, env)
        except SettingsError as error:
            problems += error.sentences
            spoilt.add(key if setting is not None else nearest(key, keys) or str(key))
    row, others = _made(
        _ROWS[name], taken, spoilt, lambda attribute: f"{attribute.name} is missing: add {_example(attribute)}"
    )
    problems += [f"{where}: {problem}" for problem in others]
    if row is None:
        raise SettingsError(*problems)
    return row


def _example(attribute: Attribute[Any]) -> str:
    return f"{attribute.name} = {about(attribute).example}"


def _secret_remedy(name: str) -> str:
    file = f"put it into a file of its own and name that in {name.partition('.')[2]}_file"
    return f"{file}, or into the environment variable {SECRET_VARIABLE}" if name == "component.secret" else file


def _meant_setting(name: str) -> str | None:
    """The setting that somebody who wrote `name` most likely meant, in this table or in another."""
    table, _, key = name.partition(".")
    if name in _SETTINGS or name in _HIDDEN:
        return name
    if name == _OLD_STANZAS:
        return _STANZAS
    if key in _NAMES_BY_KEY:
        return _NAMES_BY_KEY[key]
    if near := nearest(key, [setting.key for setting in _SETTINGS.values() if setting.table == table]):
        return f"{table}.{near}"
    near = nearest(key, _NAMES_BY_KEY)
    return None if near is None else _NAMES_BY_KEY[near]


def _meant_rows(name: str, content: object) -> str | None:
    """The table that there can be several of which somebody meant by `name`, if it holds a table or several."""
    if not isinstance(content, (Mapping, list)) or not all(isinstance(row, (Mapping, str)) for row in content):
        return None
    by_key = {row.rpartition(".")[2]: row for row in _ROWS}
    near = nearest(name.rpartition(".")[2], by_key)
    return None if near is None else f"[[{by_key[near]}]]"


def _meant(name: str) -> str:
    """The end of the sentence about a setting that there is not."""
    table = name.partition(".")[0]
    keys_here = [setting.key for setting in _SETTINGS.values() if setting.table == table]
    return hint(_meant_setting(name)) or f"; [{table}] has {', '.join(keys_here)}"


def _meant_by(table: object, content: object) -> list[str]:
    """The settings that somebody most likely meant by a table, or a key above the first one, that there is not."""
    if isinstance(content, Mapping):
        meant = _meant_table(table)
        return [name for name in _SETTINGS if meant is not None and _is_in(name, meant)]
    setting = _meant_setting(f"{ComponentSettings.TABLE}.{table}")
    return [] if setting is None else [setting]


def _meant_table(name: object) -> str | None:
    return nearest(name, [*TABLES, "conditions"])


def _unknown_table(name: str, content: object) -> str:
    if isinstance(content, Mapping):
        tables = [f"[{table}]" for table in (*TABLES, "conditions")]
        near = _meant_table(name)
        return f"[{name}] is not a table of settings" + (
            hint(near and f"[{near}]") or f"; there are {', '.join(tables)}"
        )
    if f"component.{name}" in (*_HIDDEN, _OLD_STANZAS):
        return f"{name} stands above the first table, but belongs below [component]"
    if name in _NAMES_BY_KEY and _NAMES_BY_KEY[name].endswith(f".{name}"):
        return f"{name} stands above the first table, but belongs below [{_NAMES_BY_KEY[name].partition('.')[0]}]"
    near = nearest(name, _NAMES_BY_KEY)
    return f"{name} is not a setting{hint(_meant_rows(name, content) or (_NAMES_BY_KEY[near] if near else None))}"


# Flags.


def from_flags(flags: Mapping[str, str], reading: Reading) -> None:
    """
    Read flags; what they say counts more than what was given before.

    Args:
        flags: The text of each flag that was given, by its name without the dashes in front.
        reading: Takes what they say.
    """
    for flag, text in flags.items():
        setting = _FLAGS.get(flag)
        with reading.collecting(*([] if setting is None else [setting.name])):
            if setting is None:
                raise SettingsError(unknown_flag(flag))
            label = f"--{flag}"
            value = accepted_from_flag(label, text, setting.about.kind, reading.env)
            reading.given[setting.name] = Given(value, label)


def unknown_flag(flag: str, others: tuple[str, ...] = ()) -> str:
    """
    The sentence about a flag that does not exist.

    Args:
        flag: What was written, without the dashes in front.
        others: Flags that there are beside those of settings.
    """
    key = flag.replace("-", "_")
    if key in ("secret", "bearer_token", "webhook_bearer_token"):
        name = "component.secret" if key == "secret" else "webhook.bearer_token"
        instead = "--secret-file" if key == "secret" else "--webhook-bearer-token-file"
        variable = f" or the environment variable {SECRET_VARIABLE}" if name == "component.secret" else ""
        return f"--{flag} is not a flag, as every user of the machine would see it: use {instead}{variable}"
    meant = _SETTINGS[_NAMES_BY_KEY[key]].flags if key in _NAMES_BY_KEY else ()
    near = meant[0] if meant else nearest(flag, [*_FLAGS, *others])
    return f"--{flag} is not a flag" + (hint(f"--{near}") if near else "; --help lists them all")


def missing(table: str, attribute: Attribute[Any], source: str | None) -> str:
    """
    The sentence about a required setting that was not given.

    Args:
        table: Its table.
        attribute: Its field.
        source: The settings file, or None where there is none.
    """
    if source is not None:
        return f"{source}: {table}.{attribute.name} is missing: add {_example(attribute)} below [{table}]"
    key, flag = attribute.name, _SETTINGS[f"{table}.{attribute.name}"].flags[0]
    example = json.loads(about(attribute).example)
    return f"--{flag} is missing: add --{flag}={example}, or --config=FILE with {key} below [{table}]"


def no_webhook(source: str | None) -> str:
    """The sentence about settings without a webhook, where there must be one."""
    return missing(ComponentSettings.TABLE, fields(ComponentSettings).component_post_url, source)


def nothing_to_do(source: str | None) -> str:
    """The sentence about settings with neither a webhook nor an API."""
    instead = "listen below [api]" if source is not None else "--api-listen"
    return f"{no_webhook(source)}; only a gateway that just sends needs none, with {instead}"
