"""
The work that the reactor's thread asks the spool's thread for: orders, and notes that nobody waits for.

The orders of a group are written together, in few statements, so those that insert rows are values. All others are
calls of a method of `session.Session`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any

from attrs import define, evolve, field, frozen
from twisted.internet.defer import Deferred

from component_http.contract.delivery import DeadLetter
from component_http.contract.idempotency import IdempotencyRecord
from component_http.spool.journal import Life
from component_http.spool.rows import Damaged, Row

MAX_OVERDUE_BYTES = 4 * 1024 * 1024
"""Bytes of responses that stay in memory for the dead letters of overdue ends."""


@define(eq=False)
class Order:
    """
    A piece of work.

    Attributes:
        done: Fires in the reactor's thread with the result; None where nobody waits.
        size: Bytes that are written for it, roughly.
        value: The result, once it was carried out.
        error: Why it was not.
    """

    done: Deferred[Any] | None
    size: int
    value: object = field(init=False, default=None)
    error: Exception | None = field(init=False, default=None)

    @property
    def is_new(self) -> bool:
        """The order takes room, and ends nothing that was accepted."""
        return not isinstance(self, End) and (self.size > 0 or not isinstance(self, Call))


@define(eq=False)
class Store(Order):
    """Insert a delivery: a row of `delivery_rows.row_of`."""

    row: Row


@define(eq=False)
class Push(Order):
    """Insert rows of `outbound_rows.rows_of`, and keep a record with their numbers; asked at `seconds`."""

    rows: Sequence[Row]
    record: IdempotencyRecord | None
    seconds: float


@define(eq=False)
class End(Push):
    """Do the same at the end of a delivery, which is `now` by the wall clock; its life is for a log that is kept."""

    delivery_id: str
    dead_letter: DeadLetter | None
    now: float
    life: Life | None = None


@define(eq=False)
class Call(Order):
    """Call a method of the session with these arguments."""

    method: Callable[..., object]
    arguments: tuple[Any, ...] = ()


@frozen
class Dead:
    """The dead letter of an outbound stanza; one that came back has its row (`outbound_rows.rows_of`), too."""

    outcome: str
    note: str | None
    row: Row | None = None


@define(eq=False)
class Part:
    """
    Notes of each sort, for one transaction, each under a key of which only the last note counts.

    Attributes:
        overdue: Dead letter, and end by the wall clock, of deliveries whose end could not be written, by their ids.
        settled: Dead letters of outbound stanzas, by their numbers; None where the server has the stanza.
        suspected: Numbers of suspects.
        damaged: Rows to set aside, by table and rowid.
        tried: `tries` and `attempts` of deliveries, by their ids.
        subscribed: Pairs of subscribers, with whether they are kept.
        fates: For the log: when the fate of an outbound stanza was known, the fate, and why, by their numbers.
    """

    overdue: dict[str, tuple[DeadLetter | None, float]] = field(factory=dict)
    settled: dict[int, Dead | None] = field(factory=dict)
    suspected: dict[int, None] = field(factory=dict)
    damaged: dict[tuple[str, int], Damaged] = field(factory=dict)
    tried: dict[str, tuple[int, int]] = field(factory=dict)
    subscribed: dict[tuple[str, str], bool] = field(factory=dict)
    fates: dict[int, tuple[float, str, str | None]] = field(factory=dict)

    def sorts(self) -> tuple[dict[Any, Any], ...]:
        return self.overdue, self.settled, self.suspected, self.damaged, self.tried, self.subscribed, self.fates


class Arrears:
    """
    Everything that the spool's thread still has to write, and that nobody waits for.

    Attributes:
        notes: Methods of this class with their arguments, appended by the reactor's thread at any time. All else
            belongs to the spool's thread.
        rest: Everything that was noted; the outbound stanzas that are settled are in the file only because they are
            not deleted yet.
    """

    def __init__(self) -> None:
        self.notes: deque[tuple[Callable[..., None], Any, Any]] = deque()
        self.rest = Part()
        self._overdue_bytes = 0

    def __bool__(self) -> bool:
        return any((self.notes, *self.rest.sorts()))

    def settle(self, number: int, dead: Dead | None) -> None:
        """Delete an outbound stanza, and keep its dead letter; the server may confirm one that came back already."""
        if dead is not None or number not in self.rest.settled:
            self.rest.settled[number] = dead

    def suspect(self, number: int, _: None) -> None:
        self.rest.suspected[number] = None

    def tried(self, delivery_id: str, tries: tuple[int, int]) -> None:
        self.rest.tried[delivery_id] = tries

    def subscribe(self, pair: tuple[str, str], kept: bool) -> None:
        self.rest.subscribed[pair] = kept

    def fate(self, number: int, fate: tuple[float, str, str | None]) -> None:
        self.rest.fates[number] = fate

    def postpone(self, end: End, dead_letter: DeadLetter | None) -> None:
        """Delete a delivery whose end could not be written; its dead letter may lose the response."""
        if dead_letter is not None and dead_letter.response is not None:
            self._overdue_bytes += len(dead_letter.response)
            if self._overdue_bytes > MAX_OVERDUE_BYTES:
                dead_letter = evolve(dead_letter, response=None)
        self.rest.overdue[end.delivery_id] = dead_letter, end.now

    def report(self, damaged: Damaged) -> bool:
        """Set a row aside; False where that is known already."""
        place = damaged.table, damaged.row
        known = place in self.rest.damaged
        self.rest.damaged[place] = damaged
        return not known

    def part(self, most: int) -> Part:
        """The oldest of each sort, and so many of it at most."""
        while self.notes:
            method, subject, value = self.notes.popleft()
            method(self, subject, value)
        return Part(*[dict(islice(sort.items(), most)) if sort else {} for sort in self.rest.sorts()])

    def written(self, part: Part, ended: Iterable[str]) -> None:
        """Forget a part that was written, and all that was to be written of deliveries that have ended."""
        for sort, done in zip(self.rest.sorts(), part.sorts(), strict=True):
            for key in done:
                del sort[key]
        overdue, tried = self.rest.overdue, self.rest.tried
        if overdue or tried:
            for delivery_id in ended:
                overdue.pop(delivery_id, None)
                tried.pop(delivery_id, None)
        if not overdue:
            self._overdue_bytes = 0
