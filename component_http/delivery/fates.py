"""The fates of pushed stanzas, for whoever waits for them."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import define
from twisted.internet.defer import Deferred

from component_http.errors import NotSent
from component_http.shares import Latest

MAX_FATES = 10_000
"""Stanzas that did not arrive and are remembered for whoever asks late; the oldest are forgotten beyond it."""


@define(eq=False)
class _Wait:
    """Somebody waits for these numbers; `over` fires when all have arrived, and fails when one never does."""

    left: set[int]
    over: Deferred[None]


class Fates:
    """
    Knows, by their numbers in the spool, which stanzas did not arrive, and tells whoever waits for one.

    One has arrived when the server has it, or when its room has shown it.
    """

    def __init__(self) -> None:
        self._failed: Latest[int, NotSent] = Latest(MAX_FATES)
        self._waiting: dict[int, list[_Wait]] = {}

    def arrived(self, number: int) -> None:
        """Tell who waits for it; it is not remembered."""
        if number in self._waiting:
            for wait in self._waiting.pop(number):
                wait.left.discard(number)
                if not wait.left:
                    wait.over.callback(None)

    def failed(self, number: int, error: NotSent) -> None:
        """Note that a stanza never arrives, or came back: tell who waits for it, and who asks later."""
        self._failed[number] = error
        for wait in self._waiting.get(number, [])[:]:
            self._forget(wait)
            wait.over.errback(error)

    def has_failed(self, number: int) -> bool:
        """Tell whether a stanza is known not to have arrived."""
        return number in self._failed

    def wait(self, numbers: Iterable[int]) -> Deferred[None]:
        """
        Wait until all of these have arrived, beginning now; at once if there are none.

        Returns:
            It fails with `NotSent` as soon as one of them has failed. Cancelling it ends the waiting only.
        """
        wait = _Wait(set(numbers), Deferred(lambda _: self._forget(wait)))
        for number in wait.left:
            if number in self._failed:
                wait.over.errback(self._failed[number])
                return wait.over
        if not wait.left:
            wait.over.callback(None)
        for number in wait.left:
            self._waiting.setdefault(number, []).append(wait)
        return wait.over

    def _forget(self, wait: _Wait) -> None:
        for number in wait.left:
            waiting = self._waiting[number]
            waiting.remove(wait)
            if not waiting:
                del self._waiting[number]
