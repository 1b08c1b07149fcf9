"""
Waiting for something to become true, never longer than a deadline and never by a fixed sleep.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

__all__ = ["PATIENCE", "eventually"]

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds after which a test gives up on something that takes milliseconds on an idle machine: few machines are."""


def eventually(
    look: Callable[[], T], what: str, *, seconds: float = PATIENCE, detail: Callable[[], str] | None = None
) -> T:
    """
    Look again and again until there is something to see.

    Args:
        look: Called every 10 ms; anything true ends the wait.
        what: What was waited for, for the failure's sentence.
        seconds: The deadline.
        detail: What to show with the failure (a log, what arrived instead).

    Returns:
        What `look` returned.

    Raises:
        AssertionError: The deadline passed.
    """
    deadline = time.monotonic() + seconds
    while True:
        seen = look()
        if seen:
            return seen
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s for {what}" + (f"\n{detail()}" if detail else ""))
        time.sleep(0.01)
