"""
Any JSON -> the text of a message, by a template.

Templates are Jinja2's, in its sandbox. An operator writes them, and strangers POST the data; nothing else runs while a
template does, so neither may make it long or large: every loop, call, filter and operation is bounded here.
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

from component_http.contract.objects import JsonNumber
from component_http.errors import ComponentHttpError, SettingsError

__all__ = ["MAX_CHARACTERS", "MAX_SECONDS", "MAX_VALUES", "SHIPPED", "Template", "TemplateFailed", "shipped"]

SHIPPED: Mapping[str, tuple[str, ...]] = {
    "alertmanager": ("alertmanager",),
    "generic": ("generic",),
    "gitea": ("forge",),
    "github": ("forge",),
    "grafana": ("alertmanager", "grafana"),
}
"""The templates that come along, and the files in `templates/` that each consists of."""

MAX_CHARACTERS = 10_000
"""Of a message that a template makes; the rest is cut off. A person reads some hundred."""

MAX_SECONDS = 0.5
"""For one message; nothing else runs meanwhile."""

MAX_VALUES = 50_000
"""Strings, numbers, lists and objects in what is POSTed to a template; a single filter goes through all of them."""

_MAX_SIZE = 2_000_000
"""Characters or elements of what one operation makes, and characters that a template writes into its variables."""

_MAX_FACTOR = 1000
"""The largest number that a template may raise, or raise by."""

_MAX_BITS = 10_000
"""Of a number that a template calculates with."""

_CUT = "…"

_WIDENING = frozenset({"batch", "center", "expandtabs", "indent", "ljust", "rjust", "slice", "tojson", "zfill"})
"""Filters and methods of strings whose result is as large as a number says."""

_MULTIPLYING = frozenset({"format", "format_map", "join", "replace", "translate"})
"""Those whose result can be as large as one text times another."""

_SLOW = frozenset({"urlize", "wordwrap"})
"""Filters that take a second for a million characters."""

_COMPARING = frozenset(
    {"==", "eq", "equalto", "!=", "ne", ">", "gt", "greaterthan", ">=", "ge", "<", "lt", "lessthan", "<=", "le", "in"}
)
"""Tests that look at each element of what stands on their right."""

_WIDTH = re.compile(r"[0-9]{4}|%[^a-zA-Z%]*\*|:[^{}]*\{")
"""In a format: a width of thousands, or one that comes with the data."""


class TemplateFailed(ComponentHttpError):
    """A template could not do with what it was given; the message says why, without any of it."""


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

    The time is looked at wherever a template can come by often: in each round of a loop, and before each call, filter
    and operation. The size of a result is known before it is made.

    Args:
        seconds: A clock.
    """

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def __init__(self, seconds: Callable[[], float]) -> None:
        # What is missing is empty, however deep: the payloads of others leave things out as they like.
        super().__init__(autoescape=False, undefined=ChainableUndefined, finalize=self._written)
        # Jinja2's own writes for a browser: "\u003c" for "<", and for every letter that is not ASCII.
        self.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
        self.filters = {name: self._bounded(name, made) for name, made in self.filters.items()}
        # The filters `select` and `reject` run one of these for each element.
        self.tests = {name: self._bounded(name, made) for name, made in self.tests.items()}
        # It makes nonsense, as much as it is told to.
        del self.globals["lipsum"]
        self._seconds = seconds
        self._end = float("inf")
        self._size_left = _MAX_SIZE

    def begin(self) -> None:
        """Begin the time of one rendering."""
        self._end = self._seconds() + MAX_SECONDS
        self._size_left = _MAX_SIZE

    def see_time(self) -> None:
        """Raise `TemplateFailed` if the time is over."""
        if self._seconds() > self._end:
            raise TemplateFailed("the template takes too long")

    def each(self, values: Iterable[Any]) -> Iterator[Any]:
        """What a loop goes through."""
        for value in values:
            self.see_time()
            yield value

    def joined(self, *values: object) -> str:
        """What `~` makes."""
        pieces = [str(value) for value in values]
        _see_size(sum(map(len, pieces)))
        return "".join(pieces)

    def _written(self, value: object) -> str:
        text = str(value)
        self._size_left -= len(text)
        _see_size(-self._size_left)
        return text

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Work out an operation, unless it would become large."""
        self.see_time()
        if isinstance(left, str) and operator == "%":
            _see_growth("format", left, right if isinstance(right, tuple) else (right,))
        elif isinstance(left, int | float) and isinstance(right, int | float):
            largest = max(abs(left), abs(right))
            if largest > _MAX_FACTOR and (operator == "**" or largest >= 1 << _MAX_BITS):
                raise TemplateFailed("the template calculates with too large a number")
        elif operator == "*":
            _see_size(_size(left, count=True) * _size(right, count=True))
        elif operator == "+":
            _see_size(_size(left) + _size(right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call something, unless it is a method of a string that would make a large one."""
        __self.see_time()
        # The sandbox wraps `format`; what it wraps has the string.
        method = getattr(__obj, "__wrapped__", __obj)
        subject = getattr(method, "__self__", None)
        if isinstance(subject, str):
            _see_growth(method.__name__, subject, (*args, *kwargs.values()))
        return super().call(__context, __obj, *args, **kwargs)

    def _bounded(self, name: str, made: Any) -> Callable[..., Any]:
        """A filter or a test that is bounded too."""
        first = 1 if hasattr(made, "jinja_pass_arg") else 0

        @wraps(made)
        def bounded(*args: Any, **kwargs: Any) -> Any:
            self.see_time()
            _see_growth(name, args[first], (*args[first + 1 :], *kwargs.values()))
            return made(*args, **kwargs)

        return bounded

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        """Jinja2's hook for what is done to a template before code is made of it."""
        return super()._generate(_Bounding().visit(source), *args, **kwargs)


def _see_growth(name: str, subject: Any, arguments: Iterable[Any]) -> None:
    """See that a filter or a method of strings makes nothing large of a subject, and a test looks at nothing large."""
    if name in _WIDENING:
        _see_size(_size(subject) * max((_size(argument, count=True) for argument in arguments), default=1))
    elif name in _MULTIPLYING:
        if name.startswith("format") and _WIDTH.search(str(subject)):
            raise TemplateFailed("the template formats to a width that may be large")
        _see_size(_size(subject) * max(1, sum(map(_size, arguments))))
    elif name in _SLOW:
        _see_size(_size(subject) * 10)
    elif name in _COMPARING:
        # Its length only: to count what is in it would take longer than the test.
        _see_size(sum(len(argument) for argument in arguments if isinstance(argument, Sized)))
    elif name == "sum" and any(isinstance(argument, list | tuple) for argument in arguments):
        # Each list is added to a copy of all before it.
        _see_size(_size(subject) ** 2)


def _see_size(size: float) -> None:
    if size > _MAX_SIZE:
        raise TemplateFailed("the template makes too large a text or list")


def _size(value: Any, *, count: bool = False) -> float:
    """How large a value is, at least 1: characters, or elements with their characters; a number itself if it counts."""
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

    In it `payload` is the JSON that was POSTed. What is missing in it is empty, and so is what is missing in that.

    Args:
        text: The template's source.
        name: How an error calls it.
        seconds: A clock.

    Raises:
        SettingsError: It is none.
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

        Args:
            payload: JSON, as `contract.objects.read_json` gives it.

        Returns:
            The text without white space at its ends, cut to `MAX_CHARACTERS`; "" where there is nothing to say.

        Raises:
            TemplateFailed: It cannot do with this payload.
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
        text = "".join(pieces).strip()
        return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + _CUT


def shipped(name: str) -> str:
    """The text of a template that comes along, by one of the names in `SHIPPED`."""
    folder = files("component_http.api").joinpath("templates")
    return "".join(folder.joinpath(f"{part}.j2").read_text("utf-8") for part in SHIPPED[name])


class _Plain:
    """Makes JSON with numbers to calculate with; a number that is none for Python stays as it was written."""

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
