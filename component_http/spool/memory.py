"""A spool that forgets with the process."""

from __future__ import annotations

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import islice
from secrets import token_bytes

from attrs import evolve
from twisted.internet.defer import Deferred, fail, succeed

from component_http.contract.delivery import DeadLetter, Delivery
from component_http.contract.idempotency import LIFETIME, IdempotencyRecord
from component_http.contract.link import KEY_BYTES
from component_http.contract.outbound import OutboundStanza
from component_http.errors import SpoolError
from component_http.interfaces import Found, Observer

MAX_RECORDS = 10_000
MAX_RECORDS_BYTES = 16 * 1024 * 1024
"""
Answers that are remembered by their keys, and bytes of them; beyond it the oldest are forgotten of the owner that has
most.
"""

MAX_OUTBOUND = 10_000
MAX_OUTBOUND_BYTES = 16 * 1024 * 1024
"""Stanzas that are kept until the server has them, and their bytes, above which nothing more is pushed."""

MAX_KEPT = 100_000
MAX_KEPT_BYTES = 80 * 1024 * 1024
"""
The same beyond which the oldest are forgotten, so that they are not written again. What waits to be written is less,
for POSTs pause then; a server that works confirms a hundred stanzas at a time.
"""

PAGE = 500
"""Outbound stanzas that are given at once."""


class MemorySpool:
    """
    A `Spool` in memory: nothing in it outlives the process, and everything in it is there at once.

    Attributes:
        outbound: The outbound stanzas that are kept, by number and in its order.
    """

    durable = False
    crowd = 0
    trouble: str | None = None
    log = None

    def __init__(
        self,
        now: Callable[[], float] = time.monotonic,
        *,
        max_records: int = MAX_RECORDS,
        max_records_bytes: int = MAX_RECORDS_BYTES,
        max_outbound: int = MAX_OUTBOUND,
        max_kept: int = MAX_KEPT,
        observer: Observer | None = None,
    ) -> None:
        """
        Args:
            now: Seconds of a clock that nobody sets.
            max_records: As `MAX_RECORDS`.
            max_records_bytes: As `MAX_RECORDS_BYTES`.
            max_outbound: As `MAX_OUTBOUND`.
            max_kept: As `MAX_KEPT`.
            observer: Told `unconfirmed_forgotten`; None for nobody.
        """
        self._now = now
        self._max_records = max_records
        self._max_records_bytes = max_records_bytes
        self._key = token_bytes(KEY_BYTES)
        # With when they are forgotten, by owner and key; what is remembered last is last.
        self._records: dict[str, OrderedDict[str, tuple[IdempotencyRecord, float]]] = {}
        self._records_bytes: Counter[str] = Counter()
        self._bodies: dict[str, bytes] = {}
        self.outbound: dict[int, OutboundStanza] = {}
        self._outbound_bytes = 0
        self._max_outbound = max_outbound
        self._max_kept = max_kept
        self._observer = observer
        self._next = 1

    def store(self, delivery: Delivery, body: bytes) -> Deferred[None]:
        """See `component_http.interfaces.Spool.store`."""
        self._bodies[delivery.id] = body
        return succeed(None)

    def note(self, delivery: Delivery) -> None:
        """See `component_http.interfaces.Spool.note`; the delivery itself is all there is."""

    def begun(self, delivery: Delivery) -> Deferred[None]:
        """See `component_http.interfaces.Spool.begun`; the delivery itself is all there is."""
        return succeed(None)

    def body(self, delivery_id: str) -> Deferred[bytes]:
        """See `component_http.interfaces.Spool.body`."""
        return succeed(self._bodies[delivery_id])

    def amend(self, delivery_id: str, body: bytes) -> Deferred[None]:
        """See `component_http.interfaces.Spool.amend`."""
        self._bodies[delivery_id] = body
        return succeed(None)

    def end(
        self,
        delivery_id: str,
        outbound_stanzas: Sequence[OutboundStanza],
        letter: DeadLetter | None = None,
        record: IdempotencyRecord | None = None,
    ) -> Deferred[Sequence[int]]:
        """See `component_http.interfaces.Spool.end`; letters are not kept."""
        del self._bodies[delivery_id]
        return succeed(self._keep(outbound_stanzas, record))

    def push(
        self, outbound_stanzas: Sequence[OutboundStanza], record: IdempotencyRecord | None = None
    ) -> Deferred[Sequence[int]]:
        """See `component_http.interfaces.Spool.push`."""
        if len(self.outbound) >= self._max_outbound or self._outbound_bytes >= MAX_OUTBOUND_BYTES:
            counts = Counter(outbound.head.domain for outbound in self.outbound.values())
            # What one component has here keeps the others from nothing: each may have its part of half the room.
            own = counts[outbound_stanzas[0].head.domain] if outbound_stanzas else 0
            if own >= self._max_outbound / (2 * len(counts)):
                return fail(SpoolError("too much waits for the server"))
        return succeed(self._keep(outbound_stanzas, record))

    def _keep(self, outbound_stanzas: Sequence[OutboundStanza], record: IdempotencyRecord | None) -> Sequence[int]:
        numbers = range(self._next, self._next + len(outbound_stanzas))
        self._next = numbers.stop
        for number, outbound in zip(numbers, outbound_stanzas, strict=True):
            self.outbound[number] = outbound
            self._outbound_bytes += len(outbound.xml)
        while len(self.outbound) > self._max_kept or self._outbound_bytes > MAX_KEPT_BYTES:
            self._let_go(next(iter(self.outbound)))
            if self._observer is not None:
                self._observer.count("unconfirmed_forgotten")
        if record is not None:
            self._remember(evolve(record, numbers=tuple(numbers)))
        return numbers

    def _let_go(self, number: int) -> None:
        outbound = self.outbound.pop(number, None)
        if outbound is not None:
            self._outbound_bytes -= len(outbound.xml)

    def recall(self, owner: str, key: str) -> Deferred[IdempotencyRecord | None]:
        """See `component_http.interfaces.Spool.recall`."""
        self._forget_old()
        found = self._records[owner].get(key) if owner in self._records else None
        return succeed(None if found is None else found[0])

    def key(self) -> Deferred[bytes]:
        """See `component_http.interfaces.Spool.key`."""
        return succeed(self._key)

    def _remember(self, record: IdempotencyRecord) -> None:
        self._forget_old()
        if record.key in self._records.get(record.owner, ()):
            self._forget(record.owner, record.key)
        self._records.setdefault(record.owner, OrderedDict())[record.key] = record, self._now() + LIFETIME
        self._records_bytes[record.owner] += record.size
        # Owners are tokens of the settings, so there are not many.
        while sum(map(len, self._records.values())) > self._max_records:
            self._forget(max(self._records, key=lambda owner: len(self._records[owner])))
        while self._records_bytes.total() > self._max_records_bytes:
            self._forget(max(self._records, key=lambda owner: self._records_bytes[owner]))

    def _forget_old(self) -> None:
        for owner, records in list(self._records.items()):
            while records and next(iter(records.values()))[1] <= self._now():
                self._forget(owner)

    def _forget(self, owner: str, key: str | None = None) -> None:
        """Forget what an owner has by a key, or its oldest."""
        records = self._records[owner]
        record, _ = records.pop(next(iter(records)) if key is None else key)
        self._records_bytes[owner] -= record.size
        if not records:
            del self._records[owner], self._records_bytes[owner]

    def still_kept(self, numbers: Collection[int]) -> Deferred[set[int]]:
        """See `component_http.interfaces.Spool.still_kept`."""
        return succeed(self.outbound.keys() & numbers)

    def foreign(self, domains: Collection[str]) -> Deferred[list[tuple[int, str]]]:
        """See `component_http.interfaces.Spool.foreign`."""
        of_each = [(number, outbound.head.domain) for number, outbound in self.outbound.items()]
        return succeed([(number, domain) for number, domain in of_each if domain not in domains])

    def outbound_stanzas(self, after: int, domain: str | None = None) -> Deferred[list[OutboundStanza]]:
        """See `component_http.interfaces.Spool.outbound_stanzas`."""
        numbers = (
            number
            for number in range(after + 1, self._next)
            if number in self.outbound and domain in (None, self.outbound[number].head.domain)
        )
        return succeed([evolve(self.outbound[number], number=number) for number in islice(numbers, PAGE)])

    def confirmed(self, number: int) -> None:
        """See `component_http.interfaces.Spool.confirmed`."""
        self._let_go(number)

    def failed(self, number: int, outcome: str, note: str | None = None) -> None:
        """See `component_http.interfaces.Spool.failed`; letters are not kept."""
        self._let_go(number)

    def suspect(self, number: int) -> None:
        """See `component_http.interfaces.Spool.suspect`."""
        if number in self.outbound:
            self.outbound[number] = evolve(self.outbound[number], suspect=True)

    def bounced(self, number: int, outbound: OutboundStanza, note: str) -> None:
        """See `component_http.interfaces.Spool.bounced`; letters are not kept."""

    def subscribe(self, component: str, user: str) -> None:
        """See `component_http.interfaces.Spool.subscribe`; who asks knows it, for as long as there is a process."""

    def unsubscribe(self, component: str, user: str) -> None:
        """See `component_http.interfaces.Spool.unsubscribe`."""

    def subscribers(self) -> Deferred[list[tuple[str, str]]]:
        """See `component_http.interfaces.Spool.subscribers`; there are none."""
        return succeed([])

    def restore(self) -> Deferred[list[Delivery]]:
        """See `component_http.interfaces.Spool.restore`; there is nothing."""
        return succeed([])

    def look(self, facts: Mapping[str, str], room: int) -> Deferred[Found]:
        """See `component_http.interfaces.Spool.look`; nobody else can look into it."""
        return succeed(Found())

    def hurry(self) -> None:
        """See `component_http.interfaces.Spool.hurry`."""

    def close(self) -> Deferred[None]:
        """See `component_http.interfaces.Spool.close`."""
        return succeed(None)
