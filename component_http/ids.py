"""The ids of deliveries, and of stanzas that have none."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from os import urandom


def _ids() -> Iterator[str]:
    """
    Ids of 32 hexadecimal digits: the time in milliseconds, so that an index grows at its end, and chance.

    The kernel is asked for many random bytes at once.
    """
    while True:
        chance = urandom(4000)
        for begin in range(0, len(chance), 10):
            yield f"{time.time_ns() // 1_000_000:012x}{chance[begin : begin + 10].hex()}"


new_id: Callable[[], str] = _ids().__next__
"""Makes an id that nobody else has, and that nobody can guess."""
