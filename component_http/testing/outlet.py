"""A stream that keeps the stanzas that are sent over it, and a valve that knows whether it is closed."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from twisted.words.xish.domish import Element

from component_http.contract.outbound import Fate, OutboundStanza
from component_http.contract.xml import Limits, parse_stanzas
from component_http.waiters import Waiters


class RecordingOutlet:
    """
    An `Outlet` that keeps the stanzas that are sent.

    Attributes:
        sent: The stanzas, in order.
        departed: The outbound stanzas among them, which wait for their fate.
        full: Set it to True, and nothing more is taken.
        crowded: Set it to True, and no more stanzas should be made; set it to False, and everybody who waits is told.
    """

    def __init__(self) -> None:
        self.sent: list[Element] = []
        self.departed: list[OutboundStanza] = []
        self.full = False
        self._untold: list[Callable[[Fate], None]] = []
        self._crowded = False
        self._waiting = Waiters()

    @property
    def crowded(self) -> bool:
        return self._crowded

    @crowded.setter
    def crowded(self, crowded: bool) -> None:
        self._crowded = crowded
        self._waiting.tell(lambda: not self._crowded)

    def give_back(self) -> None:
        """Do nothing, for nothing waits."""

    def when_clear(self) -> Deferred[None]:
        return self._waiting.one_more() if self._crowded else succeed(None)

    def when_sent(self) -> Deferred[None]:
        """See `component_http.interfaces.Outlet.when_sent`; something waits to be sent while it is crowded."""
        return self.when_clear()

    def send(self, element: Element) -> bool:
        if not self.full:
            self.sent.append(element)
        return not self.full

    def depart(self, outbound: OutboundStanza, tell: Callable[[Fate], None]) -> bool:
        """See `component_http.interfaces.Outlet.depart`; nobody is told before `end`."""
        if self.full:
            return False
        self.sent += parse_stanzas(outbound.xml.decode("utf-8"), Limits())
        self.departed.append(outbound)
        self._untold.append(tell)
        return True

    def end(self, fate: Fate) -> None:
        """Give this fate to all outbound stanzas that had none so far."""
        untold, self._untold = self._untold, []
        for tell in untold:
            tell(fate)


class RecordingValve:
    """
    A `Valve` that knows whether it is closed. Unlike a stream's, it stays closed until somebody opens it.

    Attributes:
        paused: Whether reading is held back now.
    """

    def __init__(self) -> None:
        self.paused = False

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False
