"""Secrets and other texts that settings keep in files of their own."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from attrs import fields

from component_http.contract.http import without_mark
from component_http.errors import SettingsError
from component_http.settings.declaration import about, label_of, setting
from component_http.settings.values.plain import secret_path
from component_http.settings.values.value_type import ValueType, accepted, shown

_MAX_SECRET_BYTES = 4096
"""Bytes of a secret's file that are read, so that a wrong path cannot fill the memory."""


def secret_file(what: str, help: str, example: str, why: str = "") -> Any:
    """Declare the setting that names the file with a secret."""
    return setting(secret_path(f"a file with {what}"), help, default=None, why=why, example=example)


def secret(type: ValueType, help: str, file: str, *, missing: str | None = None, otherwise: str | None = None) -> Any:
    """
    Declare the hidden setting that holds a secret, once the table is made.

    Args:
        type: The type of the secret.
        help: Says what the secret is for.
        file: The key of the setting that names its file.
        missing: The sentence about a secret that is not given; None if it need not be given.
        otherwise: Names the other places that may give the secret.
    """

    def resolve(value: object, owner: Any) -> str | None:
        key, path = label_of(owner, file), getattr(owner, file)
        hidden = key.removesuffix("_file")
        given = None if value is None else accepted(hidden, value, type)
        found = given if path is None else _read_secret(f"{key} {shown(path)}", path)
        if given is not None and given != found:
            # Of two secrets one is old, and nobody could say which.
            raise SettingsError(
                f"{key} {shown(path)} holds another secret than {otherwise or hidden}: remove one of the two"
            )
        if found is None and missing is not None:
            raise SettingsError(missing.format(key=key))
        return None if found is None else accepted(f"the secret in {key} {shown(path)}", found, type)

    return setting(type, help, default=None, show=False, resolve=resolve, hidden=True)


def secret_problems(table: Any, given: Mapping[str, Any], spoilt: Collection[str]) -> Iterator[str]:
    """
    Check the secrets of a table that cannot be made.

    Args:
        table: The class of the table, a `Table`.
        given: The values that can be used, by key.
        spoilt: The keys of values that cannot be used.

    Returns:
        A sentence for each secret that is missing or cannot be read.
    """
    values: dict[str, Any] = {known.name: given.get(known.name, known.default) for known in fields(table)}
    owner = SimpleNamespace(**values, TABLE=table.TABLE)
    for attribute in fields(table):
        names = {attribute.name, f"{attribute.name.removesuffix('_text')}_file"}
        if about(attribute).hidden and not names & set(spoilt):
            try:
                attribute.metadata["resolve"](values[attribute.name], owner)
            except SettingsError as error:
                yield from error.sentences


def read_text(label: str, path: str | os.PathLike[str], limit: int) -> str:
    """
    Read the text of a small file.

    Args:
        label: Names the file in an error.
        path: The file.
        limit: The most bytes that it may have.

    Raises:
        SettingsError: The file cannot be read, is larger, or is not UTF-8.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(limit + 1)
    except OSError as error:
        raise SettingsError(f"{label} cannot be read: {error.strerror or error}") from None
    if len(content) > limit:
        raise SettingsError(f"{label} has more than {limit} bytes, so it must be another file than the one meant")
    try:
        return without_mark(content).decode("utf-8")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{label} is not UTF-8 text, see byte {error.start}") from None


def without_line_end(text: str) -> str:
    """Remove the end of the last line, which editors and shells add to a secret."""
    return text.removesuffix("\n").removesuffix("\r")


def _read_secret(label: str, path: str) -> str:
    found = without_line_end(read_text(label, path, _MAX_SECRET_BYTES))
    if not found:
        raise SettingsError(f"{label} is empty, but must hold the secret in one line")
    if not found.isprintable():
        raise SettingsError(f"{label} must hold the secret in one line, and nothing else")
    return found
