"""Types of plain values: numbers, switches, words, lists of words, rates, and paths."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from component_http.contract.stanza import STANZA_KINDS
from component_http.settings.values.value_type import CREDENTIAL_MARK, Unfit, ValueType, did_you_mean


def number(low: float, high: float, unit: str) -> ValueType:
    """A number with both ends allowed; the settings hold a float."""
    return _number(float, (int, float), low, high, f"a number from {low:g} to {high:g} ({unit})")


def whole(low: int, high: int, unit: str) -> ValueType:
    return _number(int, int, low, high, f"a whole number from {low} to {high} ({unit})")


def _number(held: type, given: Any, low: float, high: float, allowed: str) -> ValueType:
    def accept(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, given) or not low <= value <= high:
            raise Unfit
        return held(value)

    def from_flag(text: str) -> Any:
        try:
            return held(text)
        except ValueError:
            return text

    return ValueType(allowed, accept, from_flag)


def _accept_switch(value: Any) -> bool:
    if not isinstance(value, bool):
        raise Unfit
    return value


SWITCH = ValueType("true or false", _accept_switch, lambda text: {"true": True, "false": False}.get(text.lower(), text))


def one_of(names: Collection[str]) -> str:
    """Write the names with "or" before the last one."""
    *first, last = [f'"{name}"' for name in names]
    return f"{', '.join(first)} or {last}" if first else last


def choice(*names: str) -> ValueType:
    def accept(value: Any) -> str:
        if not isinstance(value, str) or value not in names:
            raise Unfit(remedy=did_you_mean(value, names))
        return value

    return ValueType(one_of(names), accept)


def words(names: Collection[str]) -> ValueType:
    """One of some words, or a list of them; the settings hold a tuple."""

    def accept(value: Any) -> tuple[str, ...]:
        given = (value,) if isinstance(value, str) else value
        if not isinstance(given, Collection) or isinstance(given, Mapping) or not given:
            raise Unfit
        for word in given:
            if not isinstance(word, str) or word not in names:
                raise Unfit(remedy=did_you_mean(word, names))
        return tuple(given)

    return ValueType(f"a list of {one_of(names)}", accept, None)


def _accept_text(value: Any) -> str:
    if not isinstance(value, str) or not value or len(value) > 1000:
        raise Unfit
    return value


TEXT = ValueType("a text of up to 1000 characters", _accept_text, None)


def _accept_name(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", value):
        raise Unfit
    return value


NAME = ValueType("a name of up to 40 letters, digits, dots, - and _", _accept_name, None)


def _accept_stanzas(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        raise Unfit(meant=value.split(",") if "," in value else [value])
    if not isinstance(value, Collection) or isinstance(value, Mapping) or not value:
        raise Unfit
    for name in value:
        if not isinstance(name, str) or name not in STANZA_KINDS:
            raise Unfit(remedy=did_you_mean(name, STANZA_KINDS))
    return tuple(kind for kind in STANZA_KINDS if kind in value)


STANZAS = ValueType(
    'a list of one or more of "message", "presence" and "iq"',
    _accept_stanzas,
    lambda text: [name.strip() for name in text.split(",")],
)


def _accept_rate(value: Any) -> tuple[int, float]:
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d{1,6})\s*/\s*(\d{1,6}(?:\.\d{1,3})?)\s*s\s*", value, re.ASCII)
        value = (int(match[1]), float(match[2])) if match else None
    if not isinstance(value, tuple) or len(value) != 2:
        raise Unfit
    count, seconds = value
    if not isinstance(count, int) or not 1 <= count <= 10_000 or not 1 <= seconds <= 3600:
        raise Unfit
    return count, float(seconds)


RATE = ValueType('requests and seconds, such as "100/10s": from 1 to 10000 within 1 to 3600 s', _accept_rate, None)

LOOP_GUARD = ValueType(
    'replies and seconds, such as "20/10s": from 1 to 10000 within 1 to 3600 s; or "off"',
    lambda value: value if value == "off" else _accept_rate(value),
)


def _accept_path(value: Any) -> str:
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else None
    if not isinstance(text, str) or not text or "\0" in text:
        raise Unfit
    return text


def path_in(text: str, folder: Path) -> str:
    """Make a relative path start at a folder; an empty one stays, because it is no path."""
    return str(folder / text) if text else text


def file_path(what: str) -> ValueType:
    """The path of a file. The type does not ask whether the file exists."""
    return ValueType(f"the path of {what}", _accept_path, in_folder=path_in)


def secret_paths(what: str) -> ValueType:
    """The paths of files with a secret each, or `credential:NAME`; at most four."""

    def accept(value: Any) -> tuple[str, ...]:
        given = (value,) if isinstance(value, str) else value
        if not isinstance(given, Collection) or isinstance(given, Mapping) or not 0 < len(given) <= MOST_SECRETS:
            raise Unfit
        return tuple(map(_accept_path, given))

    allowed = f'a list of up to {MOST_SECRETS} paths of {what}, or "{CREDENTIAL_MARK}NAME" for one that systemd passes'
    return ValueType(allowed, accept, None, in_folder=path_in, credential=True)


MOST_SECRETS = 4
"""Secrets of one purpose: while one takes the place of another there are two."""


def secret_path(what: str) -> ValueType:
    """The path of a file with a secret, or `credential:NAME`."""
    allowed = f'the path of {what}, or "{CREDENTIAL_MARK}NAME" for one that systemd passes'
    return ValueType(allowed, _accept_path, in_folder=path_in, credential=True)
