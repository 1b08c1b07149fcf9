"""Reads settings from files, from tables and from flags, and collects everything that is wrong with them."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from attrs import NOTHING, Attribute, field, fields, frozen

from component_http.errors import SettingsError
from component_http.settings.catalog import (
    OLD_NAMES,
    ROWS,
    SETTINGS,
    TABLES,
    bare,
    example_of,
    is_in,
    meant_by,
    meant_setting,
    misplaced_secret,
    missing,
    row_settings,
    setting_of_flag,
    unknown_flag,
    unknown_key,
    unknown_table,
)
from component_http.settings.declaration import Table
from component_http.settings.secrets import read_text, secret_problems
from component_http.settings.values.guesses import hint, nearest
from component_http.settings.values.value_type import accepted, accepted_from_flag, shown

__all__ = ["Given", "Reading"]

_MAX_FILE_BYTES = 1024 * 1024
"""Bytes of a settings file that are read; a real one has a few hundred, a device has no end."""


@frozen
class Given:
    """
    A value that was accepted.

    Attributes:
        value: The value.
        label: Says where it was given.
    """

    value: Any = field(repr=False)
    label: str


class Reading:
    """
    The settings that were given so far, and the mistakes in them.

    Args:
        env: The environment, for credentials.

    Attributes:
        given: The values that can be used, by the names of their settings.
        problems: A sentence for each mistake.
    """

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.given: dict[str, Given] = {}
        self.problems: list[str] = []
        self._spoilt: set[str] = set()

    @contextmanager
    def collecting(self, *names: str) -> Iterator[None]:
        """Collect the sentences of an error, and remember that these settings were given but cannot be used."""
        try:
            yield
        except SettingsError as error:
            self.problems += error.sentences
            self._spoilt.update(names)

    def lacks(self, name: str) -> bool:
        """Say whether a setting was not given at all, not even with a mistake."""
        return name not in self.given and name not in self._spoilt

    # Files.

    def add_file(self, path: str | os.PathLike[str], only: str | None = None) -> None:
        """
        Read a settings file; relative paths in it start at its folder.

        Args:
            path: The file.
            only: The one table to read; None for all. Unknown tables are mistakes in any case.
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
        Read tables in the shape of a settings file.

        Args:
            tables: By its name, each table: its values by key.
            source: Names them in errors.
            folder: The folder where relative paths start; None leaves them as they are.
        """
        for table, content in tables.items():
            if table == "conditions":
                with self.collecting(table):
                    self._add(source, table, content, folder)
            elif table not in TABLES:
                with self.collecting(*meant_by(table, content)):
                    raise SettingsError(f"{source}: {unknown_table(bare(table), content)}")
            elif not isinstance(content, Mapping):
                with self.collecting(*(name for name in SETTINGS if is_in(name, table))):
                    raise SettingsError(f"{source}: {table} is {shown(content)}, but must be a table: [{table}]")
            else:
                for key, value in content.items():
                    name = f"{table}.{bare(key)}"
                    with self.collecting(name if name in ROWS else meant_setting(name) or name):
                        self._add(source, name, value, folder)

    def _add(self, source: str, name: str, value: Any, folder: Path | None) -> None:
        label = f"{source}: {name}"
        if name in ROWS:
            self.given[name] = Given(self._rows(source, name, value, folder), label)
            return
        if remedy := misplaced_secret(name):
            raise SettingsError(f"{label} must not stand in the open: {remedy}")
        setting = SETTINGS.get(OLD_NAMES.get(name, name))
        if setting is None:
            raise SettingsError(f"{label} {unknown_key(name, value)}")
        value = accepted(label, value, setting.about.value_type, self.env, folder)
        before = self.given.get(setting.name)
        if before is not None and before.value != value:
            raise SettingsError(
                f"{before.label} is {shown(before.value)} and {name} is {shown(value)}, but they are two names of one"
                " setting: remove one of the two"
            )
        self.given[setting.name] = Given(value, label)

    def _rows(self, source: str, name: str, content: object, folder: Path | None) -> tuple[Table, ...]:
        """Read all tables [[name]]."""
        if isinstance(content, Mapping):
            raise SettingsError(f"{source}: [{name}] must be written as [[{name}]], because there may be several")
        if not isinstance(content, (list, tuple)) or not all(isinstance(row, (Mapping, ROWS[name])) for row in content):
            raise SettingsError(f"{source}: {name} is {shown(content)}, but must be tables: [[{name}]]")
        problems: list[str] = []
        rows = []
        for number, row in enumerate(content, 1):
            try:
                where = f"{source}: [[{name}]] number {number}"
                rows.append(row if isinstance(row, Table) else self._row(where, name, row, folder))
            except SettingsError as error:
                problems += error.sentences
        if problems:
            raise SettingsError(*problems)
        return tuple(rows)

    def _row(self, where: str, table: str, content: Mapping[str, Any], folder: Path | None) -> Table:
        """Read one of them."""
        known = row_settings(table)
        keys = [key for key, setting in known.items() if not setting.about.hidden]
        taken: dict[str, Any] = {}
        spoilt: set[str] = set()
        problems: list[str] = []
        for key, value in content.items():
            label = f"{where}: {bare(key)}"
            try:
                if remedy := misplaced_secret(f"{table}.{key}"):
                    raise SettingsError(f"{label} must not stand in the open: {remedy}")
                if key not in known:
                    there_are = f"; there are {', '.join(keys)}"
                    raise SettingsError(f"{label} is not a setting{hint(nearest(key, keys)) or there_are}")
                taken[key] = accepted(label, value, known[key].about.value_type, self.env, folder)
            except SettingsError as error:
                problems += error.sentences
                spoilt.add(key if key in known else nearest(key, keys) or str(key))
        row, others = _made(
            ROWS[table], taken, spoilt, lambda attribute: f"{attribute.name} is missing: add {example_of(attribute)}"
        )
        problems += [f"{where}: {problem}" for problem in others]
        if row is None:
            raise SettingsError(*problems)
        return row

    # Flags.

    def add_flags(self, flags: Mapping[str, str]) -> None:
        """
        Read flags, which win over everything that was given before.

        Args:
            flags: The text of each flag, by its name without the dashes in front.
        """
        for flag, text in flags.items():
            setting = setting_of_flag(flag)
            with self.collecting(*([] if setting is None else [setting.name])):
                if setting is None:
                    raise SettingsError(unknown_flag(flag))
                label = f"--{flag}"
                self.given[setting.name] = Given(
                    accepted_from_flag(label, text, setting.about.value_type, self.env), label
                )

    # The result.

    def made(self, table: Any, source: str | None) -> Any:
        """
        Make a table of the values that were given.

        Args:
            table: Its class.
            source: The settings file, or None if there is none.

        Returns:
            The table, or None if it cannot be made: then `problems` says why.
        """
        prefix = f"{table.TABLE}."
        values = {
            name.removeprefix(prefix): given.value for name, given in self.given.items() if is_in(name, table.TABLE)
        }
        spoilt = {name.removeprefix(prefix) for name in self._spoilt if is_in(name, table.TABLE)} - values.keys()
        made, problems = _made(table, values, spoilt, lambda attribute: missing(table.TABLE, attribute, source))
        self.problems += [
            problem if source is None or problem.startswith(f"{source}: ") else f"{source}: {problem}"
            for problem in problems
        ]
        return made


def _toml_problem(text: str, message: str) -> str:
    """Split the message of `tomllib` into the place and the problem, and write the place first."""
    parts = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message, re.DOTALL)
    if parts is None:
        return f"not valid TOML: {message}"
    lines = text.splitlines()
    line, column = parts[2] or len(lines), parts[3] or len(lines[-1]) + 1 if lines else 1
    return f"line {line}, column {column}: not valid TOML: {parts[1]}"


def _made(
    table: Any,
    values: Mapping[str, Any],
    spoilt: Collection[str],
    missing: Callable[[Attribute[Any]], str],
) -> tuple[Table | None, list[str]]:
    """
    Make a table, or list everything that is wrong with it.

    Args:
        table: Its class.
        values: The values that were accepted, by key.
        spoilt: The keys whose values cannot be used; their sentences are written already.
        missing: Writes the sentence about a required setting that was not given.
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
