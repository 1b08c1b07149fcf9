"""
Turns any JSON into the text of a message, by a template.

Templates are Jinja2's, in its sandbox. An operator writes them, and strangers POST the data. Nothing else runs while a
template does, so its time and its memory are limited: every loop, call, filter and operation is checked here.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from functools import wraps
from importlib.resources import files
from typing import Any

from jinja2 import ChainableUndefined, TemplateError, nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from component_http.api.exchange import Problem
from component_http.api.slack import shortened
from component_http.contract.objects import JsonNumber
from component_http.errors import SettingsError

SHIPPED: Mapping[str, tuple[str, ...]] = {
    "alertmanager": ("alertmanager",),
    "generic": ("generic",),
    "gitea": ("forge",),
    "github": ("forge",),
    "grafana": ("alertmanager", "grafana"),
}
"""The shipped templates, and the files in `templates/` that each consists of."""

MAX_CHARACTERS = 10_000
"""The most characters of a message; the rest is cut off. A person reads some hundred."""

MAX_SECONDS = 0.5
"""The most seconds for one message; nothing else runs meanwhile."""

MAX_VALUES = 50_000
"""The most strings, numbers, lists and objects in the JSON; a single filter goes through all of them."""

_MAX_SIZE = 2_000_000
"""The most characters or elements of the result of one operation, and characters that a template writes."""

_MAX_FACTOR = 1000
"""The largest number that a template may raise, or raise by."""

_MAX_BITS = 10_000
"""The most bits of a number that a template calculates with."""

_WIDENING = frozenset({"batch", "center", "expandtabs", "indent", "ljust", "rjust", "slice", "tojson", "zfill"})
"""Filters and methods of strings whose result is as large as a number among their arguments."""

_MULTIPLYING = frozenset({"format", "format_map", "join", "replace", "translate"})
"""Filters and methods of strings whose result can be as large as one text times another."""

_SLOW = frozenset({"urlize", "wordwrap"})
"""Filters that take a second for a million characters."""

_COMPARING = frozenset(
    {"==", "eq", "equalto", "!=", "ne", ">", "gt", "greaterthan", ">=", "ge", "<", "lt", "lessthan", "<=", "le", "in"}
)
"""Tests that look at each element of their right side."""

_WIDTH = re.compile(r"[0-9]{4}|%[^a-zA-Z%]*\*|:[^{}]*\{")
"""In a format: a width of thousands, or one that comes with the data."""


class TemplateFailed(Problem):
    """A template could not use its JSON; the sentence says why, without any of the JSON."""

    def __init__(self, detail: str) -> None:
        super().__init__(422, detail)


class _Bounding(NodeTransformer):
    """Leads the loops of a template, and its operator `~`, through its sandbox."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        node.iter = _through("each", [node.iter], node)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        self.generic_visit(node)
        return _through("joined", node.nodes, node)


def _through(name: str, arguments: list[Any], node: nodes.Node) -> nodes.Expr:
    return nodes.Call(nodes.EnvironmentAttribute(name), arguments, [], None, None, lineno=node.lineno)


class _Sandbox(ImmutableSandboxedEnvironment):
    """
    A sandbox in which nothing takes long, and nothing becomes large.

    The time is checked in each round of a loop, and before each call, filter and operation. The size of a result is
    checked before it is made.
    """

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self, seconds: Callable[[], float]) -> None:
        # Something missing is empty, however deep, because payloads leave things out as they like.
        super().__init__(autoescape=False, undefined=ChainableUndefined, finalize=self._written)
        # Jinja2's own writes for a browser: "\u003c" for "<", and for every letter that is not ASCII.
        self.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
        self.filters = {name: self._bounded(name, made) for name, made in self.filters.items()}
        # The filters `select` and `reject` run one of these for each element.
        self.tests = {name: self._bounded(name, made) for name, made in self.tests.items()}
        # lipsum makes as much nonsense as it is told to.
        del self.globals["lipsum"]
        self._seconds = seconds
        self._end = float("inf")
        self._size_left = _MAX_SIZE

    def begin(self) -> None:
        """Begin the time of one rendering."""
        self._end = self._seconds() + MAX_SECONDS
        self._size_left = _MAX_SIZE

    def check_time(self) -> None:
        """Raise `TemplateFailed` if the time limit has passed."""
        if self._seconds() > self._end:
            raise TemplateFailed("the template takes too long")

    def each(self, values: Iterable[Any]) -> Iterator[Any]:
        """Go through the values of a loop."""
        for value in values:
            self.check_time()
            yield value

    def joined(self, *values: object) -> str:
        """Join values, as the operator `~` does."""
        pieces = [str(value) for value in values]
        _check_size(sum(map(len, pieces)))
        return "".join(pieces)

    def _written(self, value: object) -> str:
        text = str(value)
        self._size_left -= len(text)
        _check_size(-self._size_left)
        return text

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Work out an operation, unless it would become large."""
        self.check_time()
        if isinstance(left, str) and operator == "%":
            _check_growth("format", left, right if isinstance(right, tuple) else (right,))
        elif isinstance(left, int | float) and isinstance(right, int | float):
            largest = max(abs(left), abs(right))
            if largest > _MAX_FACTOR and (operator == "**" or largest >= 1 << _MAX_BITS):
                raise TemplateFailed("the template calculates with too large a number")
        elif operator == "*":
            _check_size(_size(left, count=True) * _size(right, count=True))
        elif operator == "+":
            _check_size(_size(left) + _size(right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call something, unless it is a method of a string that would make a large string."""
        __self.check_time()
        # The sandbox wraps `format`; the method inside the wrapper knows its string.
        method = getattr(__obj, "__wrapped__", __obj)
        subject = getattr(method, "__self__", None)
        if isinstance(subject, str):
            _check_growth(method.__name__, subject, (*args, *kwargs.values()))
        return super().call(__context, __obj, *args, **kwargs)

    def _bounded(self, name: str, made: Any) -> Callable[..., Any]:
        """Wrap a filter or a test, so that it is checked too."""
        first = 1 if hasattr(made, "jinja_pass_arg") else 0

        @wraps(made)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            self.check_time()
            _check_growth(name, args[first], (*args[first + 1 :], *kwargs.values()))
            return made(*args, **kwargs)

        return bounded

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        """Change a template before Jinja2 compiles it."""
        return super()._generate(_Bounding().visit(source), *args, **kwargs)


def _check_growth(name: str, subject: Any, arguments: Iterable[Any]) -> None:
    """Check that a filter or a method makes nothing large of a subject, and that a test looks at nothing large."""
    if name in _WIDENING:
        _check_size(_size(subject) * max((_size(argument, count=True) for argument in arguments), default=1))
    elif name in _MULTIPLYING:
        if name.startswith("format") and _WIDTH.search(str(subject)):
            raise TemplateFailed("the template formats to a width that may be large")
        _check_size(_size(subject) * max(1, sum(map(_size, arguments))))
    elif name in _SLOW:
        _check_size(_size(subject) * 10)
    elif name in _COMPARING:
        # Its length only: to count what is in it would take longer than the test.
        _check_size(sum(len(argument) for argument in arguments if isinstance(argument, Sized)))
    elif name == "sum" and any(isinstance(argument, list | tuple) for argument in arguments):
        # Each list is added to a copy of all before it.
        _check_size(_size(subject) ** 2)


def _check_size(size: float) -> None:
    if size > _MAX_SIZE:
        raise TemplateFailed("the template makes too large a text or list")


def _size(value: Any, *, count: bool = False) -> float:
    """Measure a value, at least 1: its characters, its elements with their characters, or with `count` a number."""
    if isinstance(value, str):
        return max(1, len(value))
    if isinstance(value, int | float):
        return max(1, abs(value) if count else 20)
    if isinstance(value, Mapping):
        return 1 + sum(len(key) + _size_within(member) for key, member in value.items() if isinstance(key, str))
    if isinstance(value, list | tuple):
        return 1 + sum(map(_size_within, value))
    return 1


def _size_within(value: Any) -> int:
    return len(value) + 1 if isinstance(value, str) else 1


class Template:
    """
    One template.

    In it `payload` is the JSON that was POSTed. A missing member is empty, and so are the members of that.

    Args:
        name: The template's name in an error.

    Raises:
        SettingsError: The text is not a template of Jinja2.
    """

    def __init__(self, text: str, name: str, seconds: Callable[[], float] = time.monotonic) -> None:
        self._sandbox = _Sandbox(seconds)
        try:
            self._template = self._sandbox.from_string(text)
        except TemplateError as error:
            line = getattr(error, "lineno", None)
            where = f", line {line}" if line else ""
            raise SettingsError(f"{name}{where}: not a Jinja2 template: {error.message}") from None

    def render(self, payload: object) -> str:
        """
        Make the text of a message.

        Returns:
            The text without white space at its ends, cut to `MAX_CHARACTERS`; it may be "".

        Raises:
            TemplateFailed: The template cannot use this payload.
        """
        pieces: list[str] = []
        size = 0
        self._sandbox.begin()
        try:
            for piece in self._template.generate(payload=_Plain().made(payload)):
                pieces.append(piece)
                size += len(piece)
                if size > 2 * MAX_CHARACTERS:
                    break
        except TemplateFailed:
            raise
        except Exception as error:  # whatever Python raises where a payload is not as the template expects it
            raise TemplateFailed(f"the template cannot do with this: {type(error).__name__}") from error
        return shortened("".join(pieces).strip(), MAX_CHARACTERS)


def shipped(name: str) -> str:
    """Read a shipped template, by one of the names in `SHIPPED`."""
    folder = files("component_http.api").joinpath("templates")
    return "".join(folder.joinpath(f"{part}.j2").read_text("utf-8") for part in SHIPPED[name])


class _Plain:
    """Copies JSON with Python's numbers; a number that is too long for Python stays a text."""

    def __init__(self) -> None:
        self._left = MAX_VALUES

    def made(self, value: object) -> object:
        self._left -= 1
        if self._left < 0:
            raise TemplateFailed(f"the JSON has more than {MAX_VALUES} values in it, too many for a template")
        if isinstance(value, JsonNumber):
            return _number(value.text)
        if isinstance(value, Mapping):
            return {key: self.made(member) for key, member in value.items()}
        if isinstance(value, list):
            return [self.made(member) for member in value]
        return value


def _number(text: str) -> int | float | str:
    if len(text) > 30:
        return text
    return float(text) if set(text) & set(".eE") else int(text)
