"""
The declaration of a setting: its type, its default, and the sentences that explain it.

The reader of settings files, the flags, `--help` and the configuration reference are made from these declarations.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

from attrs import NOTHING, Attribute, Converter, field, fields, frozen

from component_http.contract.http import without_mark
from component_http.errors import SettingsError
from component_http.settings.values.plain import secret_path
from component_http.settings.values.value_type import ValueType, accepted, shown, unreadable


@frozen
class About:
    """
    The properties of a setting beside its name and its default.

    Attributes:
        help: Says what the setting is for; a phrase that starts in lower case.
        why: Gives the reason for the default and the limits.
        example: A value to start from, as TOML, for a setting without a default.
        aliases: Shorter names of its flag.
        hidden: Whether only an application may give it, neither a file nor a flag.
        required: Whether a gateway needs it, unless the application replaces it.
        retired: The reason why it does nothing any more; "" for a setting in use. The reference leaves it out.
        rows: The table that each [[...]] of this name in a settings file makes; None for a single value.
    """

    value_type: ValueType
    help: str
    why: str = ""
    example: str = ""
    aliases: tuple[str, ...] = ()
    hidden: bool = False
    required: bool = False
    retired: str = ""
    rows: type[Table] | None = None


class Table:
    """Settings that belong together; `TABLE` is the name of the table in a settings file."""

    TABLE: ClassVar[str] = ""
    __slots__ = ()


def settings_in(table: Any) -> Iterator[Attribute[Any]]:
    """The fields of a table that are settings of it, and no table."""
    return (attribute for attribute in fields(table) if "about" in attribute.metadata)


def key_of(attribute: Attribute[Any]) -> str:
    """The name of a setting in its table: that of the field, without the _ behind a word of Python such as `from_`."""
    return attribute.name.removesuffix("_")


def about(attribute: Attribute[Any]) -> About:
    known: About = attribute.metadata["about"]
    return known


def label_of(table: Any, key: str) -> str:
    """Name a setting for a sentence: its key, with the name of its table in front."""
    return f"{table.TABLE}.{key}" if table.TABLE else key


def setting(
    type: ValueType,
    help: str,
    *,
    default: Any = NOTHING,
    show: bool | Callable[[Any], str] = True,
    resolve: Callable[[Any, Any], object] | None = None,
    **others: Any,
) -> Any:
    """
    Declare a setting: a field that checks the value it is given.

    Args:
        default: The default; None also means that None is allowed. Without a default the field is required.
        show: Whether, or how, `repr` shows the value.
        resolve: Makes the value from the one given and the instance, whose earlier fields are set. It replaces the
            check of the type.
        others: The other attributes of `About`.
    """
    converter: Any = (
        Converter(_check, takes_self=True, takes_field=True) if resolve is None else Converter(resolve, takes_self=True)
    )
    metadata = {"about": About(type, help, **others), "resolve": resolve}
    return field(default=default, kw_only=True, repr=show, converter=converter, metadata=metadata)


def _check(value: object, owner: Any, attribute: Attribute[Any]) -> object:
    if value is None and attribute.default is None:
        return None
    return accepted(label_of(owner, key_of(attribute)), value, about(attribute).value_type)


def retired(reason: str) -> Any:
    """
    Declare a setting of earlier versions. Any value is accepted and does nothing; `Settings.warnings` tells of it.

    The reason completes "is not used any more, because ...".
    """
    return setting(
        ValueType("anything", lambda value: value), "not used any more", default=None, show=False, retired=reason
    )


def rows(table: type[Table], help: str) -> Any:
    """Declare a field that holds any number of tables of one class; it is empty by default."""

    def accept(value: Any) -> tuple[Table, ...]:
        given = tuple(value)
        if not all(isinstance(row, table) for row in given):
            raise TypeError(f"every {table.TABLE} must be a {table.__name__}")
        return given

    return setting(ValueType(f"tables: [[{table.TABLE}]]", accept, None), help, default=(), rows=table)


# Secrets and other texts that settings keep in files of their own.

_MAX_SECRET_BYTES = 4096
"""Bytes of a secret's file that are read, so that a wrong path cannot fill the memory."""


def secret_file(what: str, help: str, example: str, why: str = "") -> Any:
    """Declare the setting that names the file with a secret."""
    return setting(secret_path(f"a file with {what}"), help, default=None, why=why, example=example)


def secret(type: ValueType, help: str, file: str, *, missing: str | None = None, otherwise: str | None = None) -> Any:
    """
    Declare the hidden setting that holds a secret, once the table is made.

    Args:
        file: The key of the setting that names its file.
        missing: The sentence about a secret that is not given; None if it need not be given.
        otherwise: Names the other places that may give the secret.
    """

    def resolve(value: object, owner: Any) -> str | None:
        key, path = label_of(owner, file), getattr(owner, file)
        hidden = key.removesuffix("_file")
        given = None if value is None else accepted(hidden, value, type)
        found = given if path is None else read_secret(f"{key} {shown(path)}", path)
        if given is not None and given != found:
            # Of two secrets one is old, and nobody could say which.
            raise SettingsError(
                f"{key} {shown(path)} holds another secret than {otherwise or hidden}: remove one of the two"
            )
        if found is None and missing is not None:
            raise SettingsError(missing.format(key=key))
        return None if found is None else accepted(f"the secret in {key} {shown(path)}", found, type)

    return setting(type, help, default=None, show=False, resolve=resolve, hidden=True)


def secrets(type: ValueType, help: str, files: str) -> Any:
    """Declare the hidden setting that holds several secrets, once the table is made; `files` names their files."""

    def resolve(value: Any, owner: Any) -> tuple[str, ...]:
        key = label_of(owner, files)
        given = [accepted(key.removesuffix("_files"), one, type) for one in value or ()]
        labels = {path: f"{key} {shown(path)}" for path in getattr(owner, files) or ()}
        found = [accepted(f"the secret in {label}", read_secret(label, path), type) for path, label in labels.items()]
        if value is not None and labels and given != found:
            raise SettingsError(f"{key} names other secrets than {key.removesuffix('_files')}s: remove one of the two")
        return tuple(map(str, found or given))

    return setting(type, help, default=None, show=False, resolve=resolve, hidden=True)


def secret_problems(table: Any, given: Mapping[str, Any], spoilt: Collection[str]) -> Iterator[str]:
    """
    Check the secrets of a table that cannot be made; returns a sentence for each that is missing or cannot be read.

    Args:
        table: The class of the table, a `Table`.
        given: The values that can be used, by key.
        spoilt: The keys of values that cannot be used.
    """
    values: dict[str, Any] = {known.name: given.get(known.name, known.default) for known in settings_in(table)}
    owner = SimpleNamespace(**values, TABLE=table.TABLE)
    for attribute in settings_in(table):
        names = {attribute.name, f"{attribute.name.removesuffix('_text')}_file", f"{attribute.name[:-1]}_files"}
        if about(attribute).hidden and not names & set(spoilt):
            try:
                attribute.metadata["resolve"](values[attribute.name], owner)
            except SettingsError as error:
                yield from error.sentences


def read_text(label: str, path: str | os.PathLike[str], limit: int) -> str:
    """
    Read the text of a file with `limit` bytes at most.

    Raises:
        SettingsError: The file, which `label` names, cannot be read, is larger, or is not UTF-8.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise SettingsError(unreadable(label, error)) from None
    if len(content) > limit:
        raise SettingsError(f"{label} has more than {limit} bytes, so it must be another file than the one meant")
    try:
        return without_mark(content).decode("utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{label} is not UTF-8 text, see byte {error.start}") from None


def without_line_end(text: str) -> str:
    """Remove the end of the last line, which editors and shells add to a secret."""
    return text.removesuffix("\n").removesuffix("\r")


def read_secret(label: str, path: str) -> str:
    """Read a secret that stands alone in its file. Raises `SettingsError`, with a sentence that `label` begins."""
    found = without_line_end(read_text(label, path, _MAX_SECRET_BYTES))
    if not found:
        raise SettingsError(f"{label} is empty, but must hold the secret in one line")
    if not found.isprintable():
        raise SettingsError(f"{label} must hold the secret in one line, and nothing else")
    return found
