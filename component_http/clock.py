"""The clock that waits and deadlines go by."""

from __future__ import annotations

import time
from typing import Any

__all__ = ["use_steady_clock"]


def use_steady_clock(reactor: Any) -> bool:
    """
    Let a reactor count seconds by a clock that nobody sets.

    Twisted's reactors take the wall clock: when that is set forward, every wait is over at once and every deadline has
    come; when it is set back by an hour, whatever waits does so for an hour more. Stamps in the log and in requests are
    not concerned: they are read from the wall clock itself.

    Call it before anything is scheduled, and before anybody keeps the reactor's `seconds`. A reactor that has a clock
    of its own already keeps it.

    Args:
        reactor: The reactor of the process.

    Returns:
        False if something was scheduled already, by the wall clock, which therefore stays.
    """
    if reactor.seconds is not time.time:
        return True
    if reactor.getDelayedCalls():
        return False
    reactor.seconds = time.monotonic
    return True
