"""
The type of a setting's value: which values are allowed, and the sentence about one that is not.

A type knows no names, tables or files. Whoever asks it gives the label that begins the sentence.
"""

from __future__ import annotations

import difflib
import errno
import json
import os
import re
import shlex
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from attrs import define, field, frozen

from component_http.contract.url import without_secrets
from component_http.errors import SettingsError

_MAX_SHOWN = 60
"""Characters of a wrong value that a sentence shows."""

CREDENTIAL_MARK = "credential:"
"""The prefix of the name of a systemd credential, where otherwise the path of a secret's file is given."""

CREDENTIALS_VARIABLE = "CREDENTIALS_DIRECTORY"
"""The environment variable by which systemd names the folder with a service's credentials."""

_REMEDIES = {
    errno.EACCES: "chown or chmod it, or start this as a user who may read it",
    errno.ENOENT: "make the file, or correct its path",
    errno.ENOTDIR: "make the file, or correct its path",
    errno.EISDIR: "name a file",
}
"""Remedies for a file that cannot be read."""


@define(eq=False)
class Unfit(Exception):
    """
    A value is not allowed.

    Args:
        allowed: Completes "must ..."; None for the words of the type.
        remedy: The advice that ends the sentence; None if there is none.
        meant: The value that was most likely meant. The sentence offers it if it would be accepted.
        problem: Replaces "is ..., but must ...".
        part: The name of the wrong entry, if the value is a table.
        found: Shown in place of the value, unless it is an Ellipsis.
    """

    allowed: str | None = None
    remedy: str | None = field(default=None, kw_only=True)
    meant: object = field(default=None, kw_only=True)
    problem: str | None = field(default=None, kw_only=True)
    part: str | None = field(default=None, kw_only=True)
    found: object = field(default=..., kw_only=True)


@frozen
class ValueType:
    """
    A type of value.

    Attributes:
        allowed: Names the allowed values; completes "must be ...".
        accept: Returns the value as the settings hold it, or raises `Unfit`; it accepts its own results.
        from_flag: Makes a value for `accept` from a flag's text; None if a flag cannot give it.
        in_folder: Makes relative paths in a value start at a folder; None if the value holds no path.
        credential: Whether `credential:NAME` stands for the path of a file that systemd passes.
    """

    allowed: str
    accept: Callable[[Any], object]
    from_flag: Callable[[str], object] | None = str
    in_folder: Callable[[str, Path], str] | None = None
    credential: bool = False


def accepted(
    label: str,
    value: object,
    type: ValueType,
    env: Mapping[str, str] = os.environ,
    folder: Path | None = None,
    flag: bool = False,
) -> Any:
    """
    Check a value, and return it as the settings hold it.

    Args:
        label: Names the setting in the sentence.
        env: The environment, for the folder of credentials.
        folder: The folder where relative paths start; None leaves them as they are.
        flag: Whether the value is the text of a flag; the sentence shows it as it was typed.

    Raises:
        SettingsError: The value is not allowed.
    """
    try:
        given = type.from_flag(str(value)) if flag and type.from_flag else value
        return type.accept(_resolved(given, type, env, folder))
    except Unfit as unfit:
        raise SettingsError(_sentence(label, value, type, unfit, _as_typed if flag else _as_toml)) from None


def is_accepted(value: object, type: ValueType) -> bool:
    try:
        type.accept(value)
    except Unfit:
        return False
    return True


def shown(value: object) -> str:
    """Write a value as TOML would, on one short line, without control characters and without the secrets of a URL."""
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, str) and ("://" in value or ("@" in value and "//" in value)):
        value = without_secrets(value)
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=str)
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)
    except (ValueError, RecursionError):
        return "something that cannot be shown"
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 3]}..."


def unreadable(label: str, error: OSError) -> str:
    """Say why a file, which `label` names, cannot be read, and what to do."""
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{label} cannot be read: {error.strerror or error}" + (f"; {remedy}" if remedy else "")


def _resolved(value: object, type: ValueType, env: Mapping[str, str], folder: Path | None) -> object:
    if isinstance(value, (list, tuple)) and type.credential:
        return [_placed(type, each, env, folder) if isinstance(each, str) else each for each in value]
    return _placed(type, value, env, folder) if isinstance(value, str) else value


def _placed(type: ValueType, value: str, env: Mapping[str, str], folder: Path | None) -> Any:
    if type.credential and value.startswith(CREDENTIAL_MARK):
        value = _credential_path(value, env)
    return value if type.in_folder is None or folder is None else type.in_folder(value, folder)


def _credential_path(text: str, env: Mapping[str, str]) -> str:
    name = text.removeprefix(CREDENTIAL_MARK)
    if name in ("", ".", "..") or "/" in name:
        raise Unfit(f"have the name of a credential behind {CREDENTIAL_MARK}, as in LoadCredential=NAME:FILE")
    folder = env.get(CREDENTIALS_VARIABLE)
    if not folder:
        raise Unfit(
            problem=f"is {shown(text)}, but {CREDENTIALS_VARIABLE} is not in the environment: systemd sets it for a"
            f" unit with LoadCredential={name}:FILE; without systemd set it to a folder with a file {name}"
        )
    path = os.path.join(folder, name)
    if not os.path.lexists(path):
        raise Unfit(
            problem=f"is {shown(text)}, but there is no file {name} in {folder}, the folder of the credentials: add"
            f" LoadCredential={name}:FILE to the unit"
        )
    return path


def _sentence(label: str, value: object, type: ValueType, unfit: Unfit, written: Callable[[object], str]) -> str:
    where = label if unfit.part is None else f"{label}.{unfit.part}"
    found = shown(value if unfit.found is ... else unfit.found)
    problem = unfit.problem or f"is {found}, but must {unfit.allowed or f'be {type.allowed}'}"
    remedies = [unfit.remedy] if unfit.remedy else []
    if unfit.meant is not None and is_accepted(unfit.meant, type) and written(unfit.meant).isprintable():
        remedies.append(f"write {written(unfit.meant)}")
    return "; ".join([f"{where} {problem}", *remedies])


def _as_toml(value: object) -> str:
    """Write a text, or a list of texts, for a settings file; Python reads the same."""
    return json.dumps(value, ensure_ascii=False)


def _as_typed(value: object) -> str:
    """Write a text, or a list of texts, for a flag in a shell."""
    text = ",".join(value) if isinstance(value, list) else str(value)
    return shlex.quote(text) if re.search(r"""["$`\\!']""", text) else f'"{text}"'


# Guesses at the name that was meant by a misspelt one.


def nearest(name: object, candidates: Collection[str]) -> str | None:
    """Find the candidate that somebody who wrote `name` most likely meant; None if none is like it."""
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    close = difflib.get_close_matches(str(name)[:200].lower(), by_lower, n=1)
    return by_lower[close[0]] if close else None


def hint(near: str | None) -> str:
    """Write the end of a sentence that offers a name; "" for None."""
    return f"; did you mean {near}?" if near else ""


def did_you_mean(name: object, candidates: Collection[str]) -> str | None:
    """Write a remedy that offers one of several words; None if none is like `name`."""
    near = nearest(name, candidates) if len(candidates) > 1 else None
    return f'did you mean "{near}"?' if near else None
