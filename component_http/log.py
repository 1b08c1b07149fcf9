"""The log of the gateway: Twisted's, with lines below a level left out before anything is made of them."""

from __future__ import annotations

from typing import Any

from twisted.logger import Logger as TwistedLogger
from twisted.logger import LogLevel

from component_http.contract.address import Address
from component_http.contract.pseudonym import Pseudonyms

LEVELS = ("debug", "info", "warn", "error")
"""The levels that can be set, from the one that writes most."""

_left_out = frozenset({LogLevel.debug})


def set_level(level: str) -> None:
    """
    Leave out the lines of the gateway below a level, for the whole process. `Gateway` does it with its settings.

    Args:
        level: One of `LEVELS`.
    """
    global _left_out
    _left_out = frozenset(LogLevel.levelWithName(name) for name in LEVELS[: LEVELS.index(level)])


_pseudonyms: Pseudonyms | None = None


def hide_addresses(pseudonyms: Pseudonyms | None) -> None:
    """
    Hide addresses in the lines that follow, for the whole process; None to show them. `Gateway` does it with its
    settings.

    In the lines of the gateway it is done here, whoever writes them; in those of libraries it is the writer's part.
    """
    global _pseudonyms
    _pseudonyms = pseudonyms


def hidden(value: object) -> object:
    """Hide addresses in a field of a line, if that is wanted."""
    if _pseudonyms is None:
        return value
    if isinstance(value, Address):
        return _pseudonyms.of(value)
    return _pseudonyms.hide_value(value) if isinstance(value, str) else value


def hidden_in(text: str) -> str:
    """Hide addresses in a sentence, if that is wanted."""
    return text if _pseudonyms is None else _pseudonyms.hide(text)


class Logger(TwistedLogger):
    """
    Twisted's logger for the lines of one class or module.

    It differs in two ways, because there is a debug line for each stanza. A line that is left out costs only the call.
    All instances of a class share one logger, so an event has no `log_source`.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self.namespace = f"{owner.__module__}.{owner.__qualname__}"

    def __get__(self, instance: object, owner: type | None = None) -> Logger:
        return self

    def emit(self, level: Any, format: str | None = None, **fields: object) -> None:
        if level not in _left_out:
            if _pseudonyms is not None:
                fields = {name: hidden(value) for name, value in fields.items()}
            super().emit(level, format, **fields)
