"""How much work something is, counted instead of timed, and a reactor whose turns are counted: the same everywhere."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

from twisted.internet.task import Clock

__all__ = ["Reactor", "calls"]


class Reactor(Clock):
    """A clock that can turn as a reactor does: what is to be done at once is done in the next turn, not in this one."""

    def turn(self, times: int = 1) -> None:
        """Do what is due."""
        for _ in range(times):
            for call in [call for call in self.calls if call.getTime() <= self.seconds()]:
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)


def calls(work: Callable[[], object]) -> int:
    """Count the calls of functions, Python's and built-in ones, that something makes."""
    count = 0

    def called(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before, collects = sys.getprofile(), gc.isenabled()
    gc.disable()  # what other tests have left would be counted, too
    sys.setprofile(called)
    try:
        work()
    finally:
        sys.setprofile(before)
        if collects:
            gc.enable()
    return count
