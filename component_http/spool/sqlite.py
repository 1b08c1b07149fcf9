"""A spool on disk, which outlives the process: the reactor's side of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from component_http.contract.delivery import DeadLetter, Delivery
from component_http.contract.idempotency import IdempotencyRecord
from component_http.contract.outbound import OutboundStanza
from component_http.errors import SpoolError
from component_http.interfaces import Found, Observer
from component_http.spool import dead_letter_rows, other_rows, outbound_rows
from component_http.spool.database import Synchronous
from component_http.spool.delivery_rows import row_of
from component_http.spool.emergency import Alarm, Emergency
from component_http.spool.ended_rows import Log
from component_http.spool.journal import Journal
from component_http.spool.log import SqliteLog
from component_http.spool.orders import Arrears, Call, Dead, End, Order, Push, Store
from component_http.spool.room import BALLAST_BYTES, Ballast
from component_http.spool.rows import Row
from component_http.spool.session import Session, Setup
from component_http.spool.transaction import Patience
from component_http.spool.writer import Writer


class _Bodies:
    """
    Request bodies of deliveries before their first attempt, so that those need not be read.

    So many at most, of so many bytes: else the oldest go, for a delivery that does not wait for its turn is the newest.
    Later attempts are few, and read the file.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._bytes = 0
        self._bodies: dict[str, bytes] = {}

    def keep(self, delivery_id: str, body: bytes) -> None:
        if len(body) > self._most_bytes:
            return
        self._bodies[delivery_id] = body
        self._bytes += len(body)
        while len(self._bodies) > self._most or self._bytes > self._most_bytes:
            self.take(next(iter(self._bodies)))

    def take(self, delivery_id: str) -> bytes | None:
        """Give a body away, or forget it; None if it is not here."""
        body = self._bodies.pop(delivery_id, None)
        if body is not None:
            self._bytes -= len(body)
        return body


class SqliteSpool:
    """
    A `Spool` in an SQLite file; `component_http.interfaces.Spool` describes its methods.

    One thread (`Writer`) does all work on the file; the first call begins it, `close` ends it, and another call begins
    it again. When the thread is idle it carries out and commits at once what one turn of the reactor asks for; what is
    asked meanwhile is the next transaction. So under load many deliveries share one wait for the disk, and without load
    none waits for another.

    When SQLite fails, the transaction is rolled back, its orders fail with `SpoolError`, and the next transaction is
    tried as if nothing had happened. A delivery whose end could not be written is deleted with a later transaction, if
    nothing is to leave for it.

    On a full disk nothing is stored, and what was accepted goes on: see `Emergency`.

    Args:
        path: The file, which `component_http.spool.database.prepare` has prepared.
        reactor: Calls come in its thread, and Deferreds fire there.
        allowance: Says by the domain of a component how long its restored deliveries may take: seconds by the kind of
            the stanza, and seconds since its acceptance for which a message waits that the webhook has not seen, or
            0.0. It is called in the spool's thread.
        synchronous: `FULL`: what is committed survives a loss of power. `NORMAL`: it survives the end of the process.
        window: Bodies that are in memory too until their first attempt; `window_bytes` the same in bytes.
        ballast_bytes: Bytes that are kept for when the disk is full; fewer on a small disk.
        letter_days: Days for which a dead letter is kept, `max_letters` of them at most.
        observer: Told `disk_full`; None for nobody.
        took: Told the seconds of each transaction that changed something, in the spool's thread; None for nobody.
        log: The limits of the log of deliveries; None to keep none.

    Attributes:
        commits: Transactions so far that changed something.
        trouble: Why nothing is stored now, as a phrase; None if it is.
        log: The log of deliveries; None where none is kept.
    """

    durable = True
    crowd = outbound_rows.CROWD

    def __init__(
        self,
        path: Path,
        reactor: Any,
        *,
        allowance: Callable[[str], tuple[Mapping[str, float], float]],
        synchronous: Synchronous = "FULL",
        now: Callable[[], float] = time.time,
        window: int = 1000,
        window_bytes: int = 16 * 1024 * 1024,
        ballast_bytes: int = BALLAST_BYTES,
        letter_days: float = 7.0,
        max_letters: int = 10_000,
        max_letters_bytes: int = dead_letter_rows.MAX_BYTES,
        max_outbound: int = outbound_rows.MAX_OUTBOUND,
        max_records: int = other_rows.MAX_RECORDS,
        max_records_bytes: int = other_rows.MAX_RECORDS_BYTES,
        observer: Observer | None = None,
        took: Callable[[float], object] | None = None,
        log: Log | None = None,
    ) -> None:
        alarm = Alarm(path, reactor.seconds, observer)
        self._setup = Setup(
            path,
            synchronous,
            reactor.seconds,
            now,
            allowance,
            letter_days,
            dead_letter_rows.shelf(max_letters, max_letters_bytes),
            other_rows.records_shelf(max_records, max_records_bytes),
            max_outbound,
            Arrears(),
            Emergency(path, Ballast(path, ballast_bytes), alarm, reactor.callFromThread),
            Patience(),
            log or Log(),
        )
        self._reactor = reactor
        self._bodies = _Bodies(window, window_bytes)
        # The tries of deliveries whose first attempt has begun and is not noted yet, by their ids.
        self._begun_first: dict[str, int] = {}
        # The orders of this turn of the reactor; None ends the thread.
        self._asked: list[Order | None] = []
        self._writer: Writer | None = None
        self._closed: Deferred[None] | None = None
        self.commits = 0
        self._took = took
        self.log = None
        if log is not None:
            journal = Journal(reactor.seconds, now, bodies=log.bodies, settled=partial(self._note, Arrears.fate))
            self.log = SqliteLog(journal, self._call)

    @property
    def trouble(self) -> str | None:
        return self._setup.emergency.alarm.reason

    def store(self, delivery: Delivery, body: bytes) -> Deferred[None]:
        self._bodies.keep(delivery.id, body)
        return self._ask(Store(Deferred(), len(body), row_of(delivery, body, self._reactor.seconds())))

    def note(self, delivery: Delivery) -> None:
        # That a first attempt has begun is written at the next `look`, if the delivery has not ended by then.
        if delivery.tries <= 1 and delivery.failure is None:
            self._begun_first[delivery.id] = delivery.tries
            return
        self._begun_first.pop(delivery.id, None)
        self._note(Arrears.tried, delivery.id, (delivery.tries, delivery.attempts))
        if delivery.failure is not None:
            self._write_soon()

    def _note_first(self) -> None:
        for delivery_id, tries in self._begun_first.items():
            self._note(Arrears.tried, delivery_id, (tries, 0))
        self._begun_first.clear()

    def begun(self, delivery: Delivery) -> Deferred[None]:
        return self._call(Session.begun, delivery.id, delivery.tries, delivery.attempts)

    def body(self, delivery_id: str) -> Deferred[bytes]:
        kept = self._bodies.take(delivery_id)
        if kept is not None:
            return succeed(kept)

        def read(body: bytes | None) -> bytes:
            if body is None:
                raise KeyError(delivery_id)
            return body

        return self._call(Session.body, delivery_id).addCallback(read)

    def amend(self, delivery_id: str, body: bytes) -> Deferred[None]:
        self._bodies.take(delivery_id)
        return self._call(Session.amend, delivery_id, body, size=len(body))

    def end(
        self,
        delivery_id: str,
        outbound_stanzas: Sequence[OutboundStanza],
        letter: DeadLetter | None = None,
        record: IdempotencyRecord | None = None,
    ) -> Deferred[Sequence[int]]:
        self._bodies.take(delivery_id)
        self._begun_first.pop(delivery_id, None)
        rows = outbound_rows.rows_of(outbound_stanzas)
        seconds, now = self._reactor.seconds(), self._setup.wall()
        size, life = _size(rows), None
        if self.log is not None:
            life = self.log.tracer.take(delivery_id)
            size += 0 if life is None else life.size
        return self._ask(End(Deferred(), size, rows, record, seconds, delivery_id, letter, now, life))

    def push(
        self, outbound_stanzas: Sequence[OutboundStanza], record: IdempotencyRecord | None = None
    ) -> Deferred[Sequence[int]]:
        rows = outbound_rows.rows_of(outbound_stanzas)
        return self._ask(Push(Deferred(), _size(rows), rows, record, self._reactor.seconds()))

    def recall(self, owner: str, key: str) -> Deferred[IdempotencyRecord | None]:
        return self._call(Session.recall, owner, key, self._reactor.seconds())

    def key(self) -> Deferred[bytes]:
        return self._call(Session.key)

    def still_kept(self, numbers: Collection[int]) -> Deferred[set[int]]:
        return self._call(Session.still_kept, list(numbers))

    def outbound_stanzas(self, after: int, domain: str | None = None) -> Deferred[list[OutboundStanza]]:
        return self._call(Session.page, after, domain, self._reactor.seconds())

    def foreign(self, domains: Collection[str]) -> Deferred[list[tuple[int, str]]]:
        return self._call(Session.foreign, sorted(domains))

    def confirmed(self, number: int) -> None:
        # It is no reason for a transaction: it is written with the next one, at the latest with that of `look`.
        self._note(Arrears.settle, number, None)

    def failed(self, number: int, outcome: str, note: str | None = None) -> None:
        self._note(Arrears.settle, number, Dead(outcome, note))
        self._write_soon()

    def suspect(self, number: int) -> None:
        self._note(Arrears.suspect, number, None)
        self._write_soon()

    def bounced(self, number: int, outbound: OutboundStanza, note: str) -> None:
        [row] = outbound_rows.rows_of([outbound])
        self._note(Arrears.settle, number, Dead("reply_bounced", note, row))

    def subscribe(self, component: str, user: str) -> None:
        self._note(Arrears.subscribe, (component, user), True)

    def unsubscribe(self, component: str, user: str) -> None:
        self._note(Arrears.subscribe, (component, user), False)

    def subscribers(self) -> Deferred[list[tuple[str, str]]]:
        return self._call(Session.subscribers)

    def look(self, facts: Mapping[str, str], room: int) -> Deferred[Found]:
        self._note_first()
        return self._call(Session.look, facts, room, self._reactor.seconds(), self._setup.wall())

    def restore(self) -> Deferred[list[Delivery]]:
        return self._call(Session.restore, self._reactor.seconds())

    def hurry(self) -> None:
        self._setup.patience.hurries = True

    def close(self) -> Deferred[None]:
        self.hurry()
        self._note_first()
        if self._writer is None and not self._setup.arrears.notes:
            return succeed(None)
        closed: Deferred[None] = Deferred()
        if self._closed is None:
            self._closed = Deferred()
            self._put(None)
        self._closed.chainDeferred(closed)
        return closed

    # -- to the spool's thread and back --

    def _note(self, method: Callable[..., None], subject: object, value: object) -> None:
        self._setup.arrears.notes.append((method, subject, value))

    def _write_soon(self) -> None:
        """Make a transaction for the notes, unless an order of this turn makes one."""
        if self._closed is None and not self._asked:
            self._put(Call(None, 0, Session.wake))

    def _call(self, method: Callable[..., object], *arguments: object, size: int = 0) -> Deferred[Any]:
        return self._ask(Call(Deferred(), size, method, arguments))

    def _ask(self, order: Order) -> Deferred[Any]:
        if self._closed is not None:
            return fail(SpoolError("the spool is being closed"))
        self._put(order)
        assert order.done is not None
        return order.done

    def _put(self, order: Order | None) -> None:
        """Hand an order over at the end of this turn of the reactor, in one group with all others of this turn."""
        if self._writer is None:
            self._writer = Writer(
                self._setup,
                call=self._reactor.callFromThread,
                answer=self._answer,
                committed=self._committed,
                ended=self._ended,
            )
        if not self._asked:
            self._reactor.callLater(0, self._hand_over)
        self._asked.append(order)

    def _hand_over(self) -> None:
        assert self._writer is not None
        asked, self._asked = self._asked, []
        self._writer.put(asked)

    def _answer(self, group: Sequence[Order]) -> None:
        for order in group:
            done = order.done
            if done is None:
                continue
            if order.error is None:
                done.callback(order.value)
            else:
                if isinstance(order, Store):
                    self._bodies.take(order.row[0])
                done.errback(Failure(order.error))

    def _committed(self, seconds: float) -> None:
        self.commits += 1  # in the spool's thread
        if self._took is not None:
            self._took(seconds)

    def _ended(self) -> None:
        assert self._writer is not None and self._closed is not None
        self._writer.join()
        self._writer = None
        self._setup.patience.hurries = False
        closed, self._closed = self._closed, None
        closed.callback(None)


def _size(rows: Sequence[Row]) -> int:
    return sum([len(row[-1]) for row in rows])
