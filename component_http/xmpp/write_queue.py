"""What leaves for the server, in one queue: until it is written, and until the server is known to have it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from attrs import evolve, frozen
from twisted.internet.defer import Deferred, succeed

from component_http.contract.outbound import Fate, Refused
from component_http.interfaces import Observer
from component_http.waiters import Waiters

__all__ = [
    "CROWDED_BYTES",
    "CROWDED_STANZAS",
    "MAX_BYTES",
    "MAX_STANZAS",
    "MAX_UNCONFIRMED",
    "Loss",
    "Queued",
    "WriteQueue",
]

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
class Queued:
    """
    A stanza that leaves, or several as one text.

    Attributes:
        xml: As it is written.
        expires: When it is of no use any more, in seconds of the stream's clock.
        again: It is written again if the stream is lost before the server is known to have it.
        since: When it was made, likewise, where its receiver should know if that is long ago; None where not.
        tell: Told its fate; None where nobody wants to know.
        kept: Whoever is told keeps it and brings it again after a lost stream, so that nothing of it is remembered here
            once it is written. Only then is it told `lost` and `suspected`.
        suspect: The server may close the stream because of it: see `Outbox.may_write`.
    """

    xml: bytes
    expires: float
    again: bool
    since: float | None = None
    tell: Callable[[Fate], None] | None = None
    kept: bool = False
    suspect: bool = False


@frozen
class Loss:
    """
    What a lost stream leaves.

    Attributes:
        again: Stanzas that were written and will be written again, from here or by whoever keeps them.
        suspected: They are suspects.
        refused: The server refuses one stanza; it is not written again.
        untold: That stanza, where nobody wants to be told its fate.
    """

    again: int
    suspected: bool = False
    refused: bool = False
    untold: Queued | None = None


class WriteQueue:
    """
    First come, first served; and after a lost stream, first of all what nobody knows the fate of.

    One stanza that the server refuses would end each stream anew. So when the server may have ended a stream because of
    what was written, all of that is suspect: it is written one stanza at a time, until the server is known to have it
    or ends the stream again. Then that stanza is to blame, and is not written any more.

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
        self._waiting: deque[Queued] = deque()
        self._waiting_bytes = 0
        # What was written, and which it was of all that was: what is kept here, and of what is kept elsewhere.
        self._unconfirmed: deque[tuple[int, Queued]] = deque()
        self._unconfirmed_bytes = 0
        self._kept: deque[tuple[int, Callable[[Fate], None]]] = deque()
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
        return len(self._unconfirmed) + len(self._kept)

    @property
    def written(self) -> int:
        """How many were ever noted as unconfirmed; what a barrier confirms is up to here."""
        return self._written

    @property
    def awaited(self) -> bool:
        """Somebody waits until all is sent."""
        return bool(self._until_sent)

    @property
    def on_trial(self) -> bool:
        """Nothing can be written until a barrier returns: a suspect is out, or is the next to be written."""
        return self._suspect_is_out or (bool(self._waiting) and not self.may_write(self._waiting[0]))

    def may_write(self, stanza: Queued) -> bool:
        """
        Whether a stanza may be written now, on a stream whose server returns barriers.

        A suspect is written when the server has answered on this stream, so that it is not blamed for a server that
        ends every stream; and with nothing else unconfirmed before it or after it.
        """
        if self._suspect_is_out:
            return False
        return not stanza.suspect or (self._proved and not self.unconfirmed)

    def add(self, stanza: Queued) -> bool:
        """Let one more wait; False if there is no room."""
        size = len(stanza.xml)
        if len(self._waiting) >= self._max_stanzas or self._waiting_bytes + size > MAX_BYTES:
            return False
        self._waiting.append(stanza)
        self._waiting_bytes += size
        self._see_whether_crowded()
        return True

    def take(self, now: float) -> Queued | None:
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

    def note(self, stanza: Queued) -> None:
        """Remember what is written, as far as it would be written again."""
        if not stanza.again:
            if stanza.tell is not None:
                stanza.tell("confirmed")
            return
        serial = self._written
        self._written += 1
        self._suspect_is_out = stanza.suspect
        if stanza.kept and stanza.tell is not None:
            self._kept.append((serial, stanza.tell))
            return
        self._unconfirmed.append((serial, stanza))
        self._unconfirmed_bytes += len(stanza.xml)
        while len(self._unconfirmed) > MAX_UNCONFIRMED or self._unconfirmed_bytes > MAX_UNCONFIRMED_BYTES:
            self._observer.count("unconfirmed_forgotten")
            self._tell_confirmed()

    def confirm(self, written: int) -> None:
        """The server has what was written up to here (see `written`). Afterwards `settle`."""
        before = self.unconfirmed
        self._proved = True
        while self._unconfirmed and self._unconfirmed[0][0] < written:
            self._tell_confirmed()
        while self._kept and self._kept[0][0] < written:
            self._kept.popleft()[1]("confirmed")
        after = self.unconfirmed
        if after < before:
            self._fruitless = 0
        self._suspect_is_out = self._suspect_is_out and bool(after)

    def excuse(self, written: int) -> None:
        """Who waits until all is sent does not wait until what was written up to here is confirmed. Then `settle`."""
        self._excused = max(self._excused, written)

    def lost(self, why: Refused | None = None, *, certain: bool = False) -> Loss:
        """
        The stream is gone: what is unconfirmed waits again, before all others.

        What somebody else keeps, written or not, leaves the queue, for he brings all of it again.

        Args:
            why: How the server ended it, where it may have done so because of what was written. None where it is known
                that it did not.
            certain: It said that it did; else that is believed when the next stream ends in the same way.
        """
        told: list[tuple[Callable[[Fate], None], Fate]] = []
        suspected = refused = False
        untold: Queued | None = None
        if why is not None and self.unconfirmed:
            self._fruitless += 1
            refused = self._suspect_is_out
            suspected = not refused and (certain or self._fruitless > 1)
        if why is not None and refused:
            self._fruitless = 0
            stanza = None if self._kept else self._unconfirmed.popleft()[1]
            tell = self._kept.popleft()[1] if stanza is None else stanza.tell
            if tell is None:
                untold = stanza
            else:
                told.append((tell, why))
        loss = Loss(self.unconfirmed, suspected, refused, untold)
        fate: Fate = "suspected" if suspected else "lost"
        told += [(tell, fate) for _, tell in self._kept]
        told += [(stanza.tell, "lost") for stanza in self._waiting if stanza.kept and stanza.tell is not None]
        self._kept.clear()
        again = deque(evolve(stanza, suspect=stanza.suspect or suspected) for _, stanza in self._unconfirmed)
        self._waiting = again + deque(stanza for stanza in self._waiting if not stanza.kept)
        self._waiting_bytes = sum(len(stanza.xml) for stanza in self._waiting)
        self._unconfirmed.clear()
        self._unconfirmed_bytes = 0
        self._proved = self._suspect_is_out = False
        self._see_whether_crowded()
        for each, its_fate in told:
            each(its_fate)
        return loss

    def give_back(self) -> None:
        """Tell `lost` of what waits and somebody else keeps, who brings it again. Afterwards `settle`."""
        told = [stanza.tell for stanza in self._waiting if stanza.kept and stanza.tell is not None]
        self._waiting = deque(stanza for stanza in self._waiting if not stanza.kept)
        self._waiting_bytes = sum(len(stanza.xml) for stanza in self._waiting)
        for tell in told:
            tell("lost")

    def forgo(self) -> None:
        """Nothing that was written is written again from here; what somebody else keeps he may still bring."""
        self._unconfirmed.clear()
        self._unconfirmed_bytes = 0

    def drop(self) -> int:
        """Empty it; returns how many waited to be written and are kept nowhere else."""
        count = sum(not stanza.kept for stanza in self._waiting)
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

    def _tell_confirmed(self) -> None:
        """The oldest that is kept here only is not written again."""
        _, stanza = self._unconfirmed.popleft()
        self._unconfirmed_bytes -= len(stanza.xml)
        if stanza.tell is not None:
            stanza.tell("confirmed")

    def _see_whether_crowded(self) -> None:
        if len(self._waiting) >= CROWDED_STANZAS or self._waiting_bytes >= CROWDED_BYTES:
            self.crowded = True
