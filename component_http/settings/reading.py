"""Reads settings from files, from tables and from flags, and collects everything that is wrong with them."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from attrs import NOTHING, evolve, fields

from component_http.errors import SettingsError
from component_http.settings import catalog
from component_http.settings.catalog import OLD_NAMES, ROWS, SETTINGS, TABLES
from component_http.settings.component import SECRET_VARIABLE
from component_http.settings.declaration import Table, key_of, read_text, secret_problems, settings_in, without_line_end
from component_http.settings.route import RouteSettings
from component_http.settings.values.value_type import accepted, shown

_OF_EACH_COMPONENT = frozenset({"webhook", "delivery", "conditions"})
"""Tables that each component may have for itself; those at the top of the file are the defaults."""

_MAX_FILE_BYTES = 1024 * 1024
"""Bytes of a settings file that are read; a real one has a few hundred, a device has no end."""


class _OneOfSeveral(NamedTuple):
    """One table [[component]]: the place for sentences, its content, and the folder of its file."""

    where: str
    tables: dict[str, Any]
    folder: Path | None


def _name_of(row: Mapping[str, object], number: int) -> str:
    domain = row.get("domain")
    return domain if isinstance(domain, str) and re.fullmatch("[A-Za-z0-9.-]{1,253}", domain) else f"number {number}"


class Reading:
    """
    The settings that were given so far, and the mistakes in them.

    Attributes:
        env: The environment, for credentials.
        given: The values that can be used, by the names of their settings.
        problems: A sentence for each mistake.

    With several tables [[component]] those of `components` have the settings of each.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.given: dict[str, Any] = {}
        self.problems: list[str] = []
        self._components: list[_OneOfSeveral] = []
        self._spoilt: set[str] = set()

    @contextmanager
    def collecting(self, *names: str) -> Iterator[None]:
        """Collect the sentences of an error, and remember that these settings were given but cannot be used."""
        try:
            yield
        except SettingsError as error:
            self.problems += error.sentences
            self._spoilt.update(names)

    def tell(self, sentences: Iterable[str], source: str | None) -> None:
        """Collect sentences, each with the name of its file in front."""
        self.problems += (
            each if source is None or each.startswith(f"{source}: ") else f"{source}: {each}" for each in sentences
        )

    def lacks(self, name: str) -> bool:
        """Say whether a setting was not given at all, not even with a mistake."""
        return name not in self.given and name not in self._spoilt

    # Files.

    def add_file(self, path: str | os.PathLike[str], only: str | None = None) -> None:
        """
        Read a settings file, or only one table of it; relative paths in it start at its folder.

        Unknown tables are mistakes in any case.
        """
        with self.collecting(*SETTINGS):
            text = read_text(f"{path}", path, _MAX_FILE_BYTES)
            try:
                tables = tomllib.loads(text)
            except tomllib.TOMLDecodeError as error:
                raise SettingsError(f"{path}, {_toml_problem(text, str(error))}") from None
            except (ValueError, RecursionError):
                raise SettingsError(f"{path} has a number that is too long, or is nested too deep") from None
            others = set() if only is None else {*TABLES, "conditions"} - {only}
            wanted = {name: table for name, table in tables.items() if name not in others}
            self.add_tables(wanted, str(path), Path(path).parent)

    def add_tables(self, tables: Mapping[str, object], source: str, folder: Path | None = None) -> None:
        """
        Read tables in the shape of a settings file, which `source` names in errors; without a folder relative paths
        stay.
        """
        for table, content in tables.items():
            if table == "conditions":
                with self.collecting(table):
                    self._add(f"{source}: {table}", table, content, folder)
            elif (
                table == "component" and isinstance(content, list) and all(isinstance(row, Mapping) for row in content)
            ):
                self._components = [
                    _OneOfSeveral(f"{source}: [[component]] {_name_of(row, number)}", dict(row), folder)
                    for number, row in enumerate(content, 1)
                ]
            elif table not in TABLES:
                with self.collecting(*catalog.meant_by(table, content)):
                    raise SettingsError(f"{source}: {catalog.unknown_table(catalog.bare(table), content)}")
            elif not isinstance(content, Mapping):
                with self.collecting(*(name for name in SETTINGS if catalog.is_in(name, table))):
                    raise SettingsError(f"{source}: {table} is {shown(content)}, but must be a table: [{table}]")
            else:
                self._add_table(f"{source}: {table}.", table, content, folder)

    def _add_table(self, prefix: str, table: str, content: Mapping[str, object], folder: Path | None) -> None:
        """Read the settings of a table; `prefix` stands before each key in a sentence."""
        for key, value in content.items():
            name = f"{table}.{catalog.bare(key)}"
            with self.collecting(name if name in ROWS else catalog.meant_setting(name) or name):
                self._add(f"{prefix}{catalog.bare(key)}", name, value, folder)

    def _add(self, label: str, name: str, value: Any, folder: Path | None) -> None:
        if name in ROWS:
            self.given[name] = self._rows(label, name, value, folder)
            return
        if remedy := catalog.misplaced_secret(name):
            raise SettingsError(f"{label} must not stand in the open: {remedy}")
        setting = SETTINGS.get(OLD_NAMES.get(name, name))
        if setting is None:
            raise SettingsError(f"{label} {catalog.unknown_key(name, value)}")
        value = accepted(label, value, setting.about.value_type, self.env, folder)
        before = self.given.setdefault(setting.name, value)
        if before != value:
            raise SettingsError(
                f"{label} is {shown(value)}, but under its other name it is {shown(before)}: remove one of the two"
            )

    def _rows(self, label: str, name: str, content: object, folder: Path | None) -> tuple[Table, ...]:
        """Read all tables [[name]]."""
        source = label.removesuffix(f": {name}").removesuffix(f": {name.rpartition('.')[2]}")
        if isinstance(content, Mapping):
            raise SettingsError(f"{source}: [{name}] must be written as [[{name}]], because there may be several")
        if not isinstance(content, (list, tuple)) or not all(isinstance(row, (Mapping, ROWS[name])) for row in content):
            raise SettingsError(f"{label} is {shown(content)}, but must be tables: [[{name}]]")
        rows, problems = [], []
        for number, row in enumerate(content, 1):
            if isinstance(row, Table):
                rows.append(row)
                continue
            where = f"{source}: [[{name}]] number {number}"
            reading, webhook = Reading(self.env), Reading(self.env)
            table = dict(row)
            if name == RouteSettings.TABLE and "webhook" in table:
                webhook.add_tables({"webhook": table.pop("webhook")}, where, folder)
            reading._add_table(f"{where}: ", name, table, folder)
            made = reading.made(ROWS[name], where)
            if webhook.given and made is not None:
                changed = {setting.rpartition(".")[2]: value for setting, value in webhook.given.items()}
                made = evolve(made, webhook=changed)
            rows.append(made)
            problems += [*webhook.problems, *reading.problems]
        if problems:
            raise SettingsError(*problems)
        return tuple(rows)

    # Several components.

    def leave_out(self, names: Collection[str]) -> None:
        """Forget settings that a file gave."""
        for name in names:
            self.given.pop(name, None)
            for one in self._components:
                one.tables.pop(name.removeprefix("component."), None)

    def components(self, source: str | None) -> Iterator[tuple[str | None, Reading]]:
        """
        Give the settings of each component, with the place where they stand: those of [component], or of each
        [[component]], for which the tables at the top are the defaults.
        """
        if self.env.get(SECRET_VARIABLE):
            self.given["component.secret"] = without_line_end(self.env[SECRET_VARIABLE])
        if not self._components:
            yield source, self
            return
        for name in self.given:
            if catalog.is_in(name, "component") and name != "component.secret":
                flag = SETTINGS[name].flags[0]
                self.problems.append(
                    f"{flag} is for one component, but {source} has several tables [[component]]: write it there"
                )
        for where, tables, folder in self._components:
            one = Reading(self.env)
            one.given = {
                name: value
                for name, value in self.given.items()
                if name.partition(".")[0] in _OF_EACH_COMPONENT or name == "component.secret"
            }
            one._spoilt = {name for name in self._spoilt if name.partition(".")[0] in _OF_EACH_COMPONENT}
            # What is given once more here takes the place of what stands at the top.
            for table in _OF_EACH_COMPONENT & tables.keys():
                own = tables.pop(table)
                one._forget_given(table, own)
                one.add_tables({table: own}, where, folder)
            for table in tables.keys() & (TABLES.keys() | {"conditions"}):
                del tables[table]
                one.problems.append(f"{where}: [{table}] is for all components: write it at the top of the file")
            if tables.get("secret_file") is not None:
                one.given.pop("component.secret", None)  # the environment has that of another one
            one._add_table(f"{where}: ", "component", tables, folder)
            yield where, one

    def _forget_given(self, table: str, content: object) -> None:
        if table == "conditions":
            self.given.pop(table, None)
        if table == "conditions" or not isinstance(content, Mapping):
            return
        for key in content:
            name = f"{table}.{key}"
            self.given.pop(OLD_NAMES.get(name, name), None)
            self._spoilt.discard(name)

    # Flags.

    def add_flags(self, flags: Mapping[str, str]) -> None:
        """Read the texts of flags, without the dashes in front, which win over everything that was given before."""
        for flag, text in flags.items():
            setting = catalog.setting_of_flag(flag)
            with self.collecting(*([] if setting is None else [setting.name])):
                if setting is None:
                    raise SettingsError(catalog.unknown_flag(flag))
                self.given[setting.name] = accepted(f"--{flag}", text, setting.about.value_type, self.env, flag=True)

    # The result.

    def made(self, table: Any, source: str | None) -> Any:
        """
        Make a table of the values that were given; None if it cannot be made: then `problems` says why.

        Args:
            table: Its class.
            source: Where it stands, for the sentences: a settings file, and which of its tables if there are several of
                the name; None for the command line.
        """
        prefix = f"{table.TABLE}."
        values = {
            name.removeprefix(prefix): value for name, value in self.given.items() if catalog.is_in(name, table.TABLE)
        }
        for attribute in settings_in(table):
            if attribute.name != key_of(attribute) in values:
                values[attribute.name] = values.pop(key_of(attribute))
        spoilt = {name.removeprefix(prefix) for name in self._spoilt if catalog.is_in(name, table.TABLE)}
        spoilt -= values.keys()
        problems = [
            catalog.missing(table.TABLE, attribute, source)
            for attribute in fields(table)
            if attribute.default is NOTHING and attribute.name not in values and attribute.name not in spoilt
        ]
        made = None
        if not problems and not spoilt:
            try:
                made = table(**values)
            except SettingsError as error:
                problems += error.sentences
        if made is None:
            problems += (problem for problem in secret_problems(table, values, spoilt) if problem not in problems)
        self.tell(problems, source)
        return made


def _toml_problem(text: str, message: str) -> str:
    """Split the message of `tomllib` into the place and the problem, and write the place first."""
    parts = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message, re.DOTALL)
    if parts is None:
        return f"not valid TOML: {message}"
    lines = text.splitlines()
    line, column = parts[2] or len(lines), parts[3] or len(lines[-1]) + 1 if lines else 1
    return f"line {line}, column {column}: not valid TOML: {parts[1]}"
