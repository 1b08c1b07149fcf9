"""A spool that outlives a restart of the gateway, without a disk."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime

from component_http.contract.delivery import DeadLetter, Delivery
from component_http.contract.idempotency import IdempotencyRecord
from component_http.contract.outbound import OutboundStanza
from component_http.errors import SpoolError
from component_http.spool.memory import MAX_RECORDS, MAX_RECORDS_BYTES, MemorySpool

T = TypeVar("T")


class KeepingSpool(MemorySpool):
    """
    A `Spool` that keeps its content over a restart of the gateway, as one on disk does, and shows it.

    It does its work at once. It can take a moment to say so, and it can fail.

    Args:
        clock: Runs the moments; None to answer at once.
        seconds: The length of each moment.
        now: The time, in seconds, by which it forgets idempotency records.
        durable: False for a spool that forgets with the process, and only takes its time.
        max_records: As for `MemorySpool`.
        max_records_bytes: As for `MemorySpool`.

    Attributes:
        kept: The deliveries, by id.
        bodies: Their request bodies.
        noted: Each note of a delivery: its id, its tries, its attempts.
        letters: The dead letters of deliveries, each with the delivery's id.
        crowd: As in `component_http.interfaces.Spool`.
        failures: The number and the outcome of each outbound stanza that failed, in order.
        dead: The outbound stanzas that failed, by number, each with the note about it.
        bounces: The number, the stanza and the note of each outbound stanza that came back.
        page: The number of outbound stanzas that it gives at a time.
        held: Set it to a list, and each reading of outbound stanzas puts a Deferred there, and waits until it fires.
        broken: Set it to an error, and all storing and reading fails with that; nothing is stored.
        unchanging: Set it to True, and no request body can be replaced.
    """

    def __init__(
        self,
        clock: IReactorTime | None = None,
        seconds: float = 0.01,
        *,
        now: Callable[[], float] = lambda: 0.0,
        durable: bool = True,
        max_records: int = MAX_RECORDS,
        max_records_bytes: int = MAX_RECORDS_BYTES,
    ) -> None:
        super().__init__(now, max_records=max_records, max_records_bytes=max_records_bytes)
        self.durable = durable
        self.crowd = 10_000 if durable else 0
        self.kept: dict[str, Delivery] = {}
        self.bodies: dict[str, bytes] = {}
        self.noted: list[tuple[str, int, int]] = []
        self.letters: list[tuple[str, DeadLetter]] = []
        self.failures: list[tuple[int, str]] = []
        self.dead: dict[int, tuple[OutboundStanza, str | None]] = {}
        self.bounces: list[tuple[int, OutboundStanza, str]] = []
        self.page = 3
        self.held: list[Deferred[None]] | None = None
        self.broken: Exception | None = None
        self.unchanging = False
        self._clock = clock
        self._seconds = seconds
        self._restored = False
        self._subscribers: dict[tuple[str, str], None] = {}

    def store(self, delivery: Delivery, body: bytes) -> Deferred[None]:
        def store() -> None:
            self.kept[delivery.id] = delivery
            self.bodies[delivery.id] = body

        return self._do(store)

    def note(self, delivery: Delivery) -> None:
        self.noted.append((delivery.id, delivery.tries, delivery.attempts))

    def begun(self, delivery: Delivery) -> Deferred[None]:
        self.note(delivery)
        return self._do(lambda: None)

    def body(self, delivery_id: str) -> Deferred[bytes]:
        return self._do(lambda: self.bodies[delivery_id])

    def amend(self, delivery_id: str, body: bytes) -> Deferred[None]:
        def amend() -> None:
            if self.unchanging:
                raise SpoolError("disk I/O error")
            self.bodies[delivery_id] = body

        return self._do(amend)

    def end(
        self,
        delivery_id: str,
        outbound_stanzas: Sequence[OutboundStanza],
        letter: DeadLetter | None = None,
        record: IdempotencyRecord | None = None,
    ) -> Deferred[Sequence[int]]:
        def end() -> Sequence[int]:
            del self.kept[delivery_id], self.bodies[delivery_id]
            if letter is not None:
                self.letters.append((delivery_id, letter))
            return self._keep(outbound_stanzas, record)

        return self._do(end)

    def push(
        self, outbound_stanzas: Sequence[OutboundStanza], record: IdempotencyRecord | None = None
    ) -> Deferred[Sequence[int]]:
        return self._do(lambda: self._keep(outbound_stanzas, record))

    def still_kept(self, numbers: Collection[int]) -> Deferred[set[int]]:
        return self._do(lambda: self.outbound.keys() & numbers)

    def outbound_stanzas(self, after: int, domain: str | None = None) -> Deferred[list[OutboundStanza]]:
        found: list[OutboundStanza] = []
        super().outbound_stanzas(after, domain).addCallback(found.extend)
        page = self._do(lambda: found[: self.page])
        if self.held is None:
            return page
        held: Deferred[None] = Deferred()
        self.held.append(held)
        return held.addCallback(lambda _: page)

    def failed(self, number: int, outcome: str, note: str | None = None) -> None:
        self.failures.append((number, outcome))
        self.dead[number] = self.outbound[number], note
        super().failed(number, outcome, note)

    def bounced(self, number: int, outbound: OutboundStanza, note: str) -> None:
        self.confirmed(number)
        self.bounces.append((number, outbound, note))

    def subscribe(self, component: str, user: str) -> None:
        self._subscribers[component, user] = None

    def unsubscribe(self, component: str, user: str) -> None:
        self._subscribers.pop((component, user), None)

    def subscribers(self) -> Deferred[list[tuple[str, str]]]:
        return self._do(lambda: [*self._subscribers])

    def restore(self) -> Deferred[list[Delivery]]:
        """See `component_http.interfaces.Spool.restore`; it gives all deliveries at once."""

        def restore() -> list[Delivery]:
            self._restored = not self._restored and bool(self.kept)
            return [*self.kept.values()] if self._restored else []

        return self._do(restore)

    def _do(self, work: Callable[[], T]) -> Deferred[T]:
        """Do some work at once, and fire with its result a moment later."""
        try:
            done = succeed(work()) if self.broken is None else fail(self.broken)
        except SpoolError:
            done = fail()
        if self._clock is None:
            return done
        later: Deferred[T] = Deferred()
        self._clock.callLater(self._seconds, done.addCallbacks, later.callback, later.errback)
        return later
