"""A spool on disk, which outlives the process."""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from attrs import define, frozen
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.words.xish.domish import Element

from component_http.contract.address import Address, NotAnAddress
from component_http.contract.stanza import Stanza
from component_http.delivery.delivery import Delivery
from component_http.errors import ComponentHttpError, SpoolError
from component_http.spool.database import Synchronous, is_damage, is_full, opened

__all__ = ["GRACE", "MAX_GROUP", "SqliteSpool"]

T = TypeVar("T")

MAX_GROUP = 1000
"""Operations of one transaction at most: what came first should not wait for all that came after it."""

GRACE = 60.0
"""
Seconds that a message gets which was never tried and whose time is over, or nearly, when it is restored.

A gateway that was down for an hour still asks the webhook once about what it had accepted before: that takes its turn
in the backlog, and the time of one POST.
"""

_AT_ONCE = (64, 8, 1)
"""Rows of one statement: for each statement, and not for each row, the reactor's thread is asked for Python's lock."""

_COLUMNS = (
    "id, kind, type, stanza_id, sender, recipient, through_room, uri, accepted, deadline, tries, attempts, size, body"
)


def _rows(number: int, columns: int) -> str:
    row = f"({', '.join('?' * columns)})"
    return ", ".join([row] * number)


_INSERT = {n: f"INSERT INTO deliveries ({_COLUMNS}) VALUES {_rows(n, _COLUMNS.count(',') + 1)}" for n in _AT_ONCE}
_NOTE = {
    n: "UPDATE deliveries SET tries = noted.column2, attempts = noted.column3"
    f" FROM (VALUES {_rows(n, 3)}) AS noted WHERE deliveries.id = noted.column1"
    for n in _AT_ONCE
}
_DELETE = {n: f"DELETE FROM deliveries WHERE id IN {_rows(1, n)}" for n in _AT_ONCE}
_BODY = "SELECT body FROM deliveries WHERE id = ?"
_RESTORE = (
    "SELECT id, kind, type, stanza_id, sender, recipient, through_room, uri, deadline, tries, attempts, size"
    " FROM deliveries ORDER BY number"
)


# What the thread is asked to do. `done` fires in the reactor's thread.


@define(eq=False)
class _Store:
    done: Deferred[None]
    row: tuple[Any, ...]


@define(eq=False)
class _End:
    done: Deferred[None]
    delivery_id: str


@define(eq=False)
class _Read:
    done: Deferred[bytes]
    delivery_id: str


@define(eq=False)
class _Restore:
    """`now` and `seconds` are one moment, by the wall clock and by the reactor's."""

    done: Deferred[list[Delivery]]
    now: float
    seconds: float


@define(eq=False)
class _Wake:
    """Nothing but a reason to write what was noted."""


class _Close:
    """Nothing comes after it."""


_Operation = _Store | _End | _Read | _Restore | _Wake


@frozen
class _Fired:
    """What an operation came to: a value, or what was raised."""

    operation: _Operation
    value: object = None
    error: Exception | None = None


class SqliteSpool:
    """
    A `Spool` in an SQLite file.

    One thread does all that the file is asked for; it is begun by the first call, and ends with `close`, after which
    another call begins it again. When it is idle it carries out and commits at once what comes; what comes meanwhile
    is the next transaction. So under load many deliveries share one wait for the disk, and without load none waits for
    another.

    When SQLite fails, the transaction is undone, its operations fail with `SpoolError`, and the next one is tried as if
    nothing had happened. If only the disk is full, what is stored fails alone, where the rest can be done without it.
    A delivery whose end could not be written is deleted with a later transaction.

    Args:
        path: The file, which `component_http.spool.database.prepare` has prepared.
        reactor: Its thread is the one that calls, and where Deferreds fire.
        deadlines: Seconds a delivery may take, by the kind of its stanza: a restored one gets no more.
        synchronous: `FULL`: what is committed survives a loss of power. `NORMAL`: it survives the end of the process.
        now: The wall clock.
        window: Bodies that are kept in memory too, so that they need not be read.
        window_bytes: The same in bytes.
        max_bytes: Bytes that the database may have; None for what the disk holds.

    Attributes:
        commits: Transactions so far that changed something.
    """

    _log = Logger()

    durable = True

    def __init__(
        self,
        path: Path,
        reactor: Any,
        *,
        deadlines: Mapping[str, float],
        synchronous: Synchronous = "FULL",
        now: Callable[[], float] = time.time,
        window: int = 1000,
        window_bytes: int = 64 * 1024 * 1024,
        max_bytes: int | None = None,
    ) -> None:
        self._path = path
        self._reactor = reactor
        self._seconds = deadlines
        self._synchronous = synchronous
        self._now = now
        self._max_bytes = max_bytes
        self.commits = 0
        # Of the reactor's thread.
        self._window = window
        self._window_bytes = window_bytes
        self._bodies: dict[str, bytes] = {}
        self._thread: Thread | None = None
        self._closed: Deferred[None] | None = None
        # What goes from that thread to the other.
        self._queue: SimpleQueue[_Operation | _Close] = SimpleQueue()
        self._notes: deque[tuple[str, int, int]] = deque()
        # Of the other thread: the file, and what has ended and is still in it because SQLite failed.
        self._connection: sqlite3.Connection | None = None
        self._overdue: dict[str, None] = {}

    # -- in the reactor's thread --

    def store(self, delivery: Delivery, body: bytes) -> Deferred[None]:
        """See `component_http.interfaces.Spool.store`."""
        stanza, now = delivery.stanza, self._now()
        row = (
            delivery.id,
            stanza.kind,
            stanza.type,
            stanza.id,
            str(stanza.sender),
            str(stanza.recipient),
            stanza.through_room,
            stanza.element.uri,
            now,
            now + delivery.deadline - self._reactor.seconds(),
            delivery.tries,
            delivery.attempts,
            delivery.size,
            body,
        )
        if len(self._bodies) < self._window and len(body) <= self._window_bytes:
            self._bodies[delivery.id] = body
            self._window_bytes -= len(body)
        return self._ask(_Store(Deferred(), row))

    def note(self, delivery: Delivery) -> None:
        """
        See `component_http.interfaces.Spool.note`.

        The beginning of a first attempt alone is no reason for a transaction: it would delay the end of the delivery.
        """
        self._notes.append((delivery.id, delivery.tries, delivery.attempts))
        if delivery.failure is not None and self._closed is None:
            self._put(_Wake())

    def body(self, delivery_id: str) -> Deferred[bytes]:
        """See `component_http.interfaces.Spool.body`."""
        body = self._bodies.get(delivery_id)
        return succeed(body) if body is not None else self._ask(_Read(Deferred(), delivery_id))

    def end(self, delivery_id: str, replies: Sequence[Element]) -> Deferred[None]:
        """See `component_http.interfaces.Spool.end`."""
        self._forget_body(delivery_id)
        return self._ask(_End(Deferred(), delivery_id))

    def restore(self) -> Deferred[list[Delivery]]:
        """See `component_http.interfaces.Spool.restore`."""
        return self._ask(_Restore(Deferred(), self._now(), self._reactor.seconds()))

    def close(self) -> Deferred[None]:
        """See `component_http.interfaces.Spool.close`."""
        if self._thread is None:
            return succeed(None)
        closed: Deferred[None] = Deferred()
        if self._closed is None:
            self._closed = Deferred()
            self._put(_Close())
        self._closed.chainDeferred(closed)
        return closed

    def _ask(self, operation: Any) -> Deferred[Any]:
        if self._closed is not None:
            return fail(SpoolError("the spool is being closed"))
        self._put(operation)
        done: Deferred[Any] = operation.done
        return done

    def _put(self, operation: _Operation | _Close) -> None:
        if self._thread is None:
            self._thread = Thread(target=self._run, name="spool", daemon=True)
            self._thread.start()
        self._queue.put(operation)

    def _forget_body(self, delivery_id: str) -> None:
        body = self._bodies.pop(delivery_id, None)
        if body is not None:
            self._window_bytes += len(body)

    def _fire(self, group: Sequence[_Fired]) -> None:
        for fired in group:
            operation = fired.operation
            if isinstance(operation, _Wake):
                continue
            if fired.error is None:
                operation.done.callback(fired.value)  # type: ignore[arg-type]
            else:
                if isinstance(operation, _Store):
                    self._forget_body(operation.row[0])
                operation.done.errback(Failure(fired.error))

    def _ended(self) -> None:
        assert self._thread is not None and self._closed is not None
        self._thread.join()  # calling this was its last deed
        self._thread = None
        closed, self._closed = self._closed, None
        closed.callback(None)

    # -- in the spool's own thread --

    def _run(self) -> None:
        while True:
            group, closing = self._next_group()
            fired = self._done(group)
            if fired:
                self._reactor.callFromThread(self._fire, fired)
            if closing:
                break
        self._close_file()
        self._reactor.callFromThread(self._ended)

    def _next_group(self) -> tuple[list[_Operation], bool]:
        """Wait for something to do; what waits by then is done with it. And whether it is the last."""
        group: list[_Operation] = []
        try:
            while len(group) < MAX_GROUP:
                operation = self._queue.get(block=not group)
                if isinstance(operation, _Close):
                    return group, True
                group.append(operation)
        except Empty:
            pass
        return group, False

    def _done(self, group: Sequence[_Operation]) -> list[_Fired]:
        """Carry out a group. Where that fails for some of it, the rest is done without them."""
        parts: list[list[_Operation]]
        try:
            return self._carry_out(group, self._take_notes())
        except Exception as error:
            if is_full(error):
                # What has ended makes room, and reading needs none.
                ends: list[_Operation] = [one for one in group if isinstance(one, _End)]
                stores: list[_Operation] = [one for one in group if isinstance(one, _Store)]
                parts = [ends, [one for one in group if not isinstance(one, (_End, _Store))], stores]
            elif len(group) > 1 and not isinstance(error, (sqlite3.OperationalError, ComponentHttpError)):
                parts = [[one] for one in group]
            else:
                return self._failed(group, error)
        fired = {outcome.operation: outcome for part in parts for outcome in self._part_done(part)}
        return [fired[operation] for operation in group]

    def _part_done(self, part: Sequence[_Operation]) -> list[_Fired]:
        try:
            return self._carry_out(part, ())
        except Exception as error:
            return self._failed(part, error)

    def _failed(self, group: Sequence[_Operation], error: Exception) -> list[_Fired]:
        self._overdue.update((operation.delivery_id, None) for operation in group if isinstance(operation, _End))
        if isinstance(error, (sqlite3.OperationalError, ComponentHttpError)) or is_damage(error):
            error = SpoolError(str(error))
        return [_Fired(operation, error=error) for operation in group]

    def _take_notes(self) -> list[tuple[str, int, int]]:
        notes = []
        try:
            while True:
                notes.append(self._notes.popleft())
        except IndexError:
            return notes

    def _carry_out(self, group: Sequence[_Operation], notes: Sequence[tuple[str, int, int]]) -> list[_Fired]:
        """Do all of it in one transaction, or raise and have done nothing."""
        connection = self._connection
        if connection is None:
            connection = self._connection = self._open()
        # Another order than they were asked for, but the same to each delivery: stored, noted, read, ended.
        rows = [operation.row for operation in group if isinstance(operation, _Store)]
        ends = [operation.delivery_id for operation in group if isinstance(operation, _End)]
        if self._overdue:
            ends = [*dict.fromkeys([*self._overdue, *ends])]
        latest = {note[0]: note for note in notes}
        for delivery_id in ends:
            latest.pop(delivery_id, None)
        fired: list[_Fired] = []
        writes = bool(rows or ends or latest)
        try:
            if writes:
                connection.execute("BEGIN IMMEDIATE")
            _write(connection, _INSERT, rows)
            _write(connection, _NOTE, list(latest.values()))
            for operation in group:
                if isinstance(operation, _Read):
                    fired.append(self._body(connection, operation))
                elif isinstance(operation, _Restore):
                    fired.append(_Fired(operation, self._restored(connection, operation)))
                else:
                    fired.append(_Fired(operation))
            _write(connection, _DELETE, [(delivery_id,) for delivery_id in ends])
            if writes:
                connection.execute("COMMIT")
                self.commits += 1
        except BaseException:
            _roll_back(connection)
            raise
        self._overdue.clear()
        return fired

    def _open(self) -> sqlite3.Connection:
        connection = opened(self._path, synchronous=self._synchronous)
        if self._max_bytes is not None:
            [page_bytes] = connection.execute("PRAGMA page_size").fetchone()
            connection.execute(f"PRAGMA max_page_count = {max(1, self._max_bytes // page_bytes)}")
        return connection

    def _close_file(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error:
            pass  # the log keeps what it has, and is read when the file is opened again
        finally:
            connection.close()

    def _body(self, connection: sqlite3.Connection, operation: _Read) -> _Fired:
        row = connection.execute(_BODY, (operation.delivery_id,)).fetchone()
        if row is None:
            return _Fired(operation, error=KeyError(operation.delivery_id))
        return _Fired(operation, row[0])

    def _restored(self, connection: sqlite3.Connection, operation: _Restore) -> list[Delivery]:
        deliveries = []
        for row in connection.execute(_RESTORE):
            try:
                deliveries.append(self._delivery(row, operation))
            except (KeyError, NotAnAddress) as error:
                self._reactor.callFromThread(
                    self._log.error,
                    "{id}: it stays in the spool, for this version cannot read it: {reason}",
                    id=row[0],
                    reason=repr(error),
                )
        return deliveries

    def _delivery(self, row: Sequence[Any], at: _Restore) -> Delivery:
        delivery_id, kind, stanza_type, stanza_id, sender, recipient, through_room, uri, deadline = row[:9]
        tries, attempts, size = row[9:]
        left = max(0.0, deadline - at.now)
        if kind == "message" and tries == 0:
            left = max(left, GRACE)
        stanza = Stanza(
            kind=kind,
            type=stanza_type,
            id=stanza_id,
            sender=Address.parse(sender),
            recipient=Address.parse(recipient),
            through_room=bool(through_room),
            element=Element((uri, kind)),
        )
        # The wall clock may have been set back since.
        left = min(left, self._seconds[kind])
        return Delivery(delivery_id, stanza, size, at.seconds + left, tries, attempts)


def _chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    begin = 0
    for size in _AT_ONCE:
        while len(items) - begin >= size:
            yield items[begin : begin + size]
            begin += size


def _write(connection: sqlite3.Connection, statements: Mapping[int, str], rows: Sequence[Sequence[Any]]) -> None:
    for chunk in _chunks(rows):
        connection.execute(statements[len(chunk)], [value for row in chunk for value in row])


def _roll_back(connection: sqlite3.Connection) -> None:
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        pass  # SQLite has done it already
