"""What leaves for the server, in one queue: until it is written, and until the server is known to have it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from attrs import frozen
from twisted.internet.defer import Deferred, succeed

from component_http.delivery.departure import Fate
from component_http.interfaces import Observer
from component_http.waiters import Waiters

__all__ = ["CROWDED_BYTES", "CROWDED_STANZAS", "MAX_BYTES", "MAX_STANZAS", "MAX_UNCONFIRMED", "Outbox", "Outgoing"]

MAX_STANZAS = 10_000
MAX_BYTES = 64 * 1024 * 1024
"""What is kept for sending while there is no stream or the server does not read."""

CROWDED_STANZAS = 1000
CROWDED_BYTES = 8 * 1024 * 1024
"""What waits when it begins to be crowded; it is so until half of it waits."""

MAX_UNCONFIRMED = 10_000
MAX_UNCONFIRMED_BYTES = 16 * 1024 * 1024
"""
What was written and may have to be written again from here; the oldest is forgotten beyond it.

A server that works confirms a hundred stanzas at a time.
"""


@frozen
class Outgoing:
    """
    A stanza that leaves, or several as one text.

    Attributes:
        xml: As it is written.
        expires: When it is of no use any more, in seconds of the stream's clock.
        again: It is written again if the stream is lost before the server is known to have it.
        since: When it was made, likewise, where its receiver should know if that is long ago; None where not.
        tell: Told its fate, by whom somebody else keeps it: after a lost stream he brings it again, so that nothing of
            it is remembered here once it is written. None for what nobody else keeps.
    """

    xml: bytes
    expires: float
    again: bool
    since: float | None = None
    tell: Callable[[Fate], None] | None = None


class Outbox:
    """
    First come, first served; and after a lost stream, first of all what nobody knows the fate of.

    Args:
        observer: Told `outgoing_expired` and `unconfirmed_forgotten`.
        max_stanzas: Stanzas that may wait.

    Attributes:
        crowded: `CROWDED_STANZAS` or `CROWDED_BYTES` waited, and more than half of that still does.
    """

    def __init__(self, observer: Observer, max_stanzas: int = MAX_STANZAS) -> None:
        self.crowded = False
        self._observer = observer
        self._max_stanzas = max_stanzas
        self._waiting: deque[Outgoing] = deque()
        self._waiting_bytes = 0
        # What was written, and which it was of all that was: what is kept here, and of what is kept elsewhere.
        self._unconfirmed: deque[tuple[int, Outgoing]] = deque()
        self._unconfirmed_bytes = 0
        self._kept: deque[tuple[int, Callable[[Fate], None]]] = deque()
        self._written = 0
        self._excused = 0
        self._until_clear = Waiters()
        self._until_sent = Waiters()

    def __len__(self) -> int:
        """Stanzas that wait to be written."""
        return len(self._waiting)

    @property
    def unconfirmed(self) -> int:
        """Stanzas that were written, and that the server is not known to have."""
        return len(self._unconfirmed) + len(self._kept)

    @property
    def written(self) -> int:
        """How many were ever noted as unconfirmed; what a barrier confirms is up to here."""
        return self._written

    @property
    def awaited(self) -> bool:
        """Somebody waits until all is sent."""
        return bool(self._until_sent)

    def add(self, stanza: Outgoing) -> bool:
        """Let one more wait; False if there is no room."""
        size = len(stanza.xml)
        if len(self._waiting) >= self._max_stanzas or self._waiting_bytes + size > MAX_BYTES:
            return False
        self._waiting.append(stanza)
        self._waiting_bytes += size
        self._see_whether_crowded()
        return True

    def take(self, now: float) -> Outgoing | None:
        """Give the first that is still of use, to be written; None if there is none. Afterwards `settle`."""
        while self._waiting:
            stanza = self._waiting.popleft()
            self._waiting_bytes -= len(stanza.xml)
            if stanza.expires > now:
                return stanza
            self._observer.count("outgoing_expired")
            if stanza.tell is not None:
                stanza.tell("expired")
        return None

    def note(self, stanza: Outgoing) -> None:
        """Remember what is written, as far as it would be written again."""
        if not stanza.again:
            if stanza.tell is not None:
                stanza.tell("confirmed")
            return
        serial = self._written
        self._written += 1
        if stanza.tell is not None:
            self._kept.append((serial, stanza.tell))
            return
        self._unconfirmed.append((serial, stanza))
        self._unconfirmed_bytes += len(stanza.xml)
        while len(self._unconfirmed) > MAX_UNCONFIRMED or self._unconfirmed_bytes > MAX_UNCONFIRMED_BYTES:
            self._forget()
            self._observer.count("unconfirmed_forgotten")

    def confirm(self, written: int) -> None:
        """The server has what was written up to here (see `written`). Afterwards `settle`."""
        while self._unconfirmed and self._unconfirmed[0][0] < written:
            self._forget()
        while self._kept and self._kept[0][0] < written:
            self._kept.popleft()[1]("confirmed")

    def excuse(self, written: int) -> None:
        """Who waits until all is sent does not wait until what was written up to here is confirmed. Then `settle`."""
        self._excused = max(self._excused, written)

    def lost(self) -> None:
        """
        The stream is gone: what is unconfirmed waits again, before all others.

        What somebody else keeps, written or not, leaves the queue, for he brings all of it again.
        """
        told = [tell for _, tell in self._kept] + [stanza.tell for stanza in self._waiting if stanza.tell is not None]
        self._kept.clear()
        self._waiting = deque(stanza for _, stanza in self._unconfirmed) + deque(
            stanza for stanza in self._waiting if stanza.tell is None
        )
        self._waiting_bytes = sum(len(stanza.xml) for stanza in self._waiting)
        self._unconfirmed.clear()
        self._unconfirmed_bytes = 0
        self._see_whether_crowded()
        for tell in told:
            tell("lost")

    def forgo(self) -> None:
        """Nothing that was written is written again from here; what somebody else keeps he may still bring."""
        self._unconfirmed.clear()
        self._unconfirmed_bytes = 0

    def drop(self) -> int:
        """Empty it; returns how many waited to be written and are kept nowhere else."""
        count = sum(stanza.tell is None for stanza in self._waiting)
        self._waiting.clear()
        self._unconfirmed.clear()
        self._kept.clear()
        self._waiting_bytes = self._unconfirmed_bytes = 0
        return count

    def settle(self) -> None:
        """See whether it is still crowded, or empty, and tell those who waited; they may send, or stop the stream."""
        if self.crowded and len(self._waiting) <= CROWDED_STANZAS // 2 and self._waiting_bytes <= CROWDED_BYTES // 2:
            self.crowded = False
            self._until_clear.tell(lambda: not self.crowded)
        self._until_sent.tell(lambda: self._all_sent)

    def when_clear(self) -> Deferred[None]:
        """See `component_http.interfaces.Outlet.when_clear`."""
        return self._until_clear.one_more() if self.crowded else succeed(None)

    def when_sent(self) -> Deferred[None]:
        """See `component_http.interfaces.Outlet.when_sent`."""
        return succeed(None) if self._all_sent else self._until_sent.one_more()

    @property
    def _all_sent(self) -> bool:
        if self._waiting:
            return False
        return all(serials[-1][0] < self._excused for serials in (self._unconfirmed, self._kept) if serials)

    def _forget(self) -> None:
        self._unconfirmed_bytes -= len(self._unconfirmed.popleft()[1].xml)

    def _see_whether_crowded(self) -> None:
        if len(self._waiting) >= CROWDED_STANZAS or self._waiting_bytes >= CROWDED_BYTES:
            self.crowded = True
