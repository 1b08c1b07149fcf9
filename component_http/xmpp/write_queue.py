"""The queue of stanzas for the server: until they are written, and until the server is known to have them."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable

from attrs import frozen
from twisted.internet.defer import Deferred, succeed

from component_http.contract.outbound import Fate, OutboundStanza, Refused
from component_http.interfaces import Observer
from component_http.waiters import Waiters

MAX_STANZAS = 10_000
MAX_BYTES = 64 * 1024 * 1024
"""Limits for what waits while there is no stream or the server does not read."""

CROWDED_STANZAS = 1000
CROWDED_BYTES = 8 * 1024 * 1024
"""The queue is crowded from here on, until it is half of it."""

Tell = Callable[[Fate], None]
"""Told the fate of a stanza, once: who keeps it brings it again where the stream was lost."""


@frozen
class Loss:
    """
    The stanzas that a lost stream leaves.

    Attributes:
        again: Stanzas that were written and will be written again.
        suspected: They are suspects.
        refused: The server refuses one stanza; it is not written again.
    """

    again: int
    suspected: bool = False
    refused: bool = False


class WriteQueue:
    """
    First come, first served. Of each stanza that is written it remembers only who is told its fate.

    One stanza that the server refuses would end each stream anew. So when the server may have ended a stream because of
    what was written, all of that is suspect: it is written one stanza at a time, until the server is known to have it
    or ends the stream again. Then that stanza is to blame, and is not written any more.

    Args:
        observer: Told `outgoing_expired` and `unconfirmed_forgotten`.
        max_stanzas: Stanzas that may wait.
        most_unconfirmed: Stanzas that are written again after a lost stream; beyond it the oldest counts as confirmed.

    Attributes:
        crowded: `CROWDED_STANZAS` or `CROWDED_BYTES` waited, and more than half of that still does.
        waiting_bytes: Bytes of what waits.
    """

    def __init__(self, observer: Observer, max_stanzas: int = MAX_STANZAS, most_unconfirmed: int = sys.maxsize) -> None:
        self.crowded = False
        self.waiting_bytes = 0
        self._observer = observer
        self._max_stanzas = max_stanzas
        self._waiting: deque[tuple[OutboundStanza, Tell]] = deque()
        # Told the fates of what was written, in the order of writing.
        self._unconfirmed: deque[Tell] = deque()
        self._most_unconfirmed = most_unconfirmed
        self._written = 0
        # The server has answered on this stream; a suspect is out; and how many streams in a row the server has ended
        # with something unconfirmed and nothing confirmed.
        self._proved = False
        self._suspect_is_out = False
        self._fruitless = 0
        self._excused = 0
        self._until_clear = Waiters()
        self._until_sent = Waiters()

    def __len__(self) -> int:
        """Stanzas that wait to be written."""
        return len(self._waiting)

    @property
    def unconfirmed(self) -> int:
        """Stanzas that were written, and that the server is not known to have."""
        return len(self._unconfirmed)

    @property
    def written(self) -> int:
        """The number of stanzas that were ever noted as unconfirmed; a barrier confirms all up to here."""
        return self._written

    @property
    def awaited(self) -> bool:
        """Somebody waits until all is sent."""
        return bool(self._until_sent)

    @property
    def on_trial(self) -> bool:
        """Nothing can be written until a barrier returns: a suspect is out, or is the next to be written."""
        return self._suspect_is_out or (bool(self._waiting) and not self.may_write(self._waiting[0][0]))

    def may_write(self, outbound: OutboundStanza) -> bool:
        """
        Tell whether a stanza may be written now, on a stream whose server returns barriers.

        A suspect is written when the server has answered on this stream, so that it is not blamed for a server that
        ends every stream; and with nothing else unconfirmed before it or after it.
        """
        if self._suspect_is_out:
            return False
        return not outbound.suspect or (self._proved and not self._unconfirmed)

    def add(self, outbound: OutboundStanza, tell: Tell, *, again: bool = False) -> bool:
        """Let one more wait; False if there is no room, which there always is for one that was taken before."""
        size = len(outbound.xml)
        if not again and (len(self._waiting) >= self._max_stanzas or self.waiting_bytes + size > MAX_BYTES):
            return False
        self._waiting.append((outbound, tell))
        self.waiting_bytes += size
        if len(self._waiting) >= CROWDED_STANZAS or self.waiting_bytes >= CROWDED_BYTES:
            self.crowded = True
        return True

    def take(self, now: float) -> tuple[OutboundStanza, Tell] | None:
        """Give the first that has not expired, to be written; None if there is none. Afterwards `settle`."""
        while self._waiting:
            outbound, tell = self._waiting.popleft()
            self.waiting_bytes -= len(outbound.xml)
            if outbound.expires > now:
                return outbound, tell
            self._observer.count("outgoing_expired")
            tell("expired")
        return None

    def note(self, outbound: OutboundStanza, tell: Tell) -> None:
        """Note that a stanza is written; its fate is told at once where it would not be written again."""
        if not outbound.again:
            tell("confirmed")
            return
        self._unconfirmed.append(tell)
        self._written += 1
        self._suspect_is_out = outbound.suspect
        if len(self._unconfirmed) > self._most_unconfirmed:
            self._observer.count("unconfirmed_forgotten")
            self._unconfirmed.popleft()("confirmed")

    def confirm(self, written: int) -> None:
        """The server has what was written up to here (see `written`). Afterwards `settle`."""
        self._proved = True
        unconfirmed = self._unconfirmed
        while unconfirmed and self._written - len(unconfirmed) < written:
            self._fruitless = 0
            unconfirmed.popleft()("confirmed")
        self._suspect_is_out = self._suspect_is_out and bool(unconfirmed)

    def excuse(self, written: int) -> None:
        """Stop `when_sent` from waiting for confirmation of what was written up to here. Then `settle`."""
        self._excused = max(self._excused, written)

    def lost(self, why: Refused | None = None, *, certain: bool = False) -> Loss:
        """
        The stream is gone: the queue is empty, and all are told so in order, those first whose stanzas were written.

        `why` is how the server ended it, if it may have done so because of what was written. If it is not `certain`,
        that is believed when the next stream ends in the same way.
        """
        suspected = refused = False
        told = list(self._unconfirmed)
        self._unconfirmed.clear()
        if why is not None and told:
            self._fruitless += 1
            refused = self._suspect_is_out
            suspected = not refused and (certain or self._fruitless > 1)
        self._proved = self._suspect_is_out = False
        waiting = self._empty()
        if why is not None and refused:
            self._fruitless = 0
            told.pop(0)(why)
        for tell in told:
            tell("suspected" if suspected else "lost")
        for tell in waiting:
            tell("lost")
        return Loss(len(told), suspected, refused)

    def give_back(self) -> None:
        """Tell all who wait to be written that this is lost. Afterwards `settle`."""
        for tell in self._empty():
            tell("lost")

    def drop(self) -> None:
        """Empty it for good: say so to all who wait to be written, and nothing to the others."""
        self._unconfirmed.clear()
        for tell in self._empty():
            tell("stopped")

    def settle(self) -> None:
        """See whether it is still crowded, or empty, and tell those who waited; they may send, or stop the stream."""
        if self.crowded and len(self._waiting) <= CROWDED_STANZAS // 2 and self.waiting_bytes <= CROWDED_BYTES // 2:
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
        return not self._waiting and (not self._unconfirmed or self._written <= self._excused)

    def _empty(self) -> list[Tell]:
        waiting = [tell for _, tell in self._waiting]
        self._waiting.clear()
        self.waiting_bytes = 0
        return waiting
