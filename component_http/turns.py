"""Long work in pieces, so that the reactor does everything else in between."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall


class Turns:
    """
    Does one piece of work in each turn of the reactor, in the order of asking.

    Args:
        pause: Seconds after a piece in which no other one is done, for work that has to leave the time to others.
    """

    def __init__(self, clock: Any, pause: float = 0.0) -> None:
        self._clock = clock
        self._pause = pause
        self._waiting: deque[Callable[[], bool]] = deque()
        self._next: IDelayedCall | None = None

    def ask(self, work: Callable[[], bool]) -> None:
        """
        Do one piece of work in its turn: at once if no other piece was done in this turn of the reactor.

        Args:
            work: Does the piece. Returns False if there was nothing to do; then the next piece has this turn.
        """
        self._waiting.append(work)
        if self._next is None:
            self._take()

    def next(self) -> Deferred[None]:
        """Fire when it is the caller's turn. A Deferred that is cancelled takes no turn."""
        turn: Deferred[None] = Deferred()

        def take() -> bool:
            if turn.called:
                return False
            turn.callback(None)
            return True

        self.ask(take)
        return turn

    def drop(self) -> None:
        """Forget what waits for its turn."""
        self._waiting.clear()
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _take(self) -> None:
        self._next = None
        if self._waiting:
            self._next = self._clock.callLater(self._pause, self._take)
            while self._waiting and not self._waiting.popleft()():
                pass
