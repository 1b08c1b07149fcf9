"""
Any JSON -> the text of a message, by a template.

Templates are Jinja2's, in its sandbox. An operator writes them and not who POSTs; the limits here are for what a POST
can do to a template that is meant well.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from importlib.resources import files
from typing import Any

from jinja2 import ChainableUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from component_http.contract.reply import JsonNumber
from component_http.errors import ComponentHttpError, SettingsError

__all__ = ["MAX_CHARACTERS", "MAX_SECONDS", "Template", "TemplateFailed", "shipped"]

MAX_CHARACTERS = 10_000
"""Of a message that a template makes; the rest is cut off. A person reads some hundred."""

MAX_SECONDS = 0.5
"""For one message; nothing else runs meanwhile. It is looked at wherever the template writes something."""

_MAX_FACTOR = 1000
"""The largest number that a template may multiply or raise by: "a" * 1000000000 is a gigabyte."""

_CUT = "…"


class TemplateFailed(ComponentHttpError):
    """A template could not do with what it was given; the message says why, without any of it."""


class _Sandbox(ImmutableSandboxedEnvironment):
    """A sandbox whose arithmetic cannot fill the memory."""

    intercepted_binops = frozenset({"*", "**"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Work it out, unless it would become large."""
        numbers = [value for value in (left, right) if isinstance(value, (int, float))]
        if (operator == "**" or len(numbers) < 2) and any(abs(number) > _MAX_FACTOR for number in numbers):
            raise TemplateFailed("the template multiplies by too large a number")
        return super().call_binop(context, operator, left, right)


def _environment() -> _Sandbox:
    # What is missing is empty, however deep: the payloads of others leave things out as they like.
    environment = _Sandbox(autoescape=False, undefined=ChainableUndefined, keep_trailing_newline=False)
    # Jinja2's own writes for a browser: "\u003c" for "<", and for every letter that is not ASCII.
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    return environment


class Template:
    """
    One template.

    In it `payload` is the JSON that was POSTed. What is missing in it is empty, and so is what is missing in that.

    Args:
        text: It.
        name: How an error calls it.
        seconds: A clock.

    Raises:
        SettingsError: It is none.
    """

    def __init__(self, text: str, name: str, seconds: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        try:
            self._template = _environment().from_string(text)
        except TemplateError as error:
            line = getattr(error, "lineno", None)
            where = f", line {line}" if line else ""
            raise SettingsError(f"{name}{where}: not a Jinja2 template: {error.message}") from None

    def render(self, payload: object) -> str:
        """
        Make the text of a message.

        Args:
            payload: JSON, as `contract.reply.read_json` gives it.

        Returns:
            The text without white space at its ends, cut to `MAX_CHARACTERS`; "" where there is nothing to say.

        Raises:
            TemplateFailed: It cannot do with this payload.
        """
        pieces: list[str] = []
        size = 0
        end = self._seconds() + MAX_SECONDS
        try:
            for piece in self._template.generate(payload=_plain(payload)):
                pieces.append(piece)
                size += len(piece)
                if size > 2 * MAX_CHARACTERS:
                    break
                if self._seconds() > end:
                    raise TemplateFailed("the template takes too long")
        except TemplateFailed:
            raise
        except Exception as error:  # whatever Python raises where a payload is not as the template expects it
            raise TemplateFailed(f"the template cannot do with this: {type(error).__name__}") from error
        text = "".join(pieces).strip()
        return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + _CUT


def shipped(name: str) -> str:
    """The text of a template that comes along: `alertmanager` or `generic`."""
    return files("component_http.api").joinpath("templates", f"{name}.j2").read_text("utf-8")


def _plain(value: object) -> object:
    """JSON with numbers to calculate with; a number that is none for Python stays as it was written."""
    if isinstance(value, JsonNumber):
        return _number(value.text)
    if isinstance(value, Mapping):
        return {key: _plain(member) for key, member in value.items()}
    if isinstance(value, list):
        return [_plain(member) for member in value]
    return value


def _number(text: str) -> int | float | str:
    if len(text) > 30:
        return text
    return float(text) if set(text) & set(".eE") else int(text)
