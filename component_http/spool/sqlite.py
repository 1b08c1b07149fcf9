"""A spool on disk, which outlives the process."""

from __future__ import annotations

import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from secrets import token_bytes
from threading import Thread
from typing import Any, TypeVar

from attrs import define, evolve, frozen
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from component_http.contract.delivery import DeadLetter, Delivery
from component_http.contract.idempotency import IdempotencyRecord
from component_http.contract.link import KEY_BYTES
from component_http.contract.outbound import OutboundStanza
from component_http.errors import ComponentHttpError, DiskFull, SpoolError
from component_http.interfaces import Found, Observer
from component_http.spool import rows
from component_http.spool.database import (
    BUSY,
    INDEX_REGION,
    OPENING_BYTES,
    Synchronous,
    is_busy,
    is_damage,
    is_full,
    make_private,
    may_be_full,
    opened,
)
from component_http.spool.room import BALLAST_BYTES, Ballast, allocate_index
from component_http.spool.rows import Moment, Row
from component_http.throttle import LOG_INTERVAL, Throttle

__all__ = ["MAX_GROUP", "SqliteSpool"]

T = TypeVar("T")

MAX_GROUP = 1000
"""Operations of one transaction at most: what came first should not wait for all that came after it."""

MAX_GROUP_BYTES = 4 * 1024 * 1024
"""Bytes of one transaction, beyond which nothing is added to it: the log has to hold all of it at once."""

LOG_PAGES = 1000
"""Pages of the log at which it is emptied; SQLite's own number."""

BALLAST_SHARE = 4
"""
A transaction and what the log has before it are this part of the ballast at most, each: when the disk is full the
ballast must have room for what is still to go from the log into the file.
"""

MAX_LOG_BYTES = 256 * 1024 * 1024
"""
Bytes of the write-ahead log above which nothing more is stored. It is emptied all the time, and gets that long only
while another program goes on reading from one state of the file.
"""

LONG_LOG_BYTES = 32 * 1024 * 1024
LONG_LOG_WAIT = 1.0
LONG_LOG_INTERVAL = 10.0
"""
Bytes of the log above which readers are waited for, seconds of that, and seconds after which they are waited for again
if it was in vain: where one reads after the other there is no moment without any.
"""

PROBE_BYTES = 64 * 1024
"""Where SQLite does not say that the disk is full, but only that it cannot write, this is what is tried to write."""

MAX_OVERDUE_BYTES = 4 * 1024 * 1024
"""Bytes of responses, for dead letters, that are kept in memory for ends that could not be written."""

_DAY = 86_400.0

TIDY = 3600.0
"""Seconds between two looks for dead letters that are too old."""

BUSY_SLICE = 0.1
"""Seconds that SQLite waits at once for another program that writes; in between it is seen whether the process ends."""

BUSY_AGAIN = 0.5
"""
Seconds to wait for it, instead of `database.BUSY`, when that was in vain the last time: then what is to be stored is
better refused at once.
"""

BUSY_AT_THE_END = 0.25
"""The same when the process is about to end."""

CLOCK_SET = 1.0
"""Seconds by which the wall clock is off when it counts as set; less is what a clock is adjusted by all the time."""

_PASSING = (sqlite3.OperationalError, ComponentHttpError, OSError)
"""What is the fault of the file or of its disk."""

_LOG_OF_REGION = 4096 * 4096
"""Bytes of the log, a little fewer, that one region of its index is for."""

_REGIONS_AHEAD = 3
"""So many of them have blocks before the log needs them: a transaction may add more than one."""

# What the thread is asked to do. `done` fires in the reactor's thread, and `seconds` is when it was asked by its clock.


@define(eq=False)
class _Store:
    done: Deferred[None]
    row: Row


@define(eq=False)
class _Push:
    """`rows` are those of departures, but for their numbers; `memo` is remembered with these, from `seconds` on."""

    done: Deferred[Sequence[int]]
    rows: Sequence[Row]
    record: IdempotencyRecord | None
    seconds: float


@define(eq=False)
class _End(_Push):
    """The same at the end of a delivery, which is `now` by the wall clock; `letter` is its dead letter."""

    delivery_id: str
    letter: DeadLetter | None
    now: float


@define(eq=False)
class _Begun:
    """`note` is as in `rows.note_tries`."""

    done: Deferred[None]
    note: tuple[str, int, int]


@define(eq=False)
class _Recall:
    done: Deferred[IdempotencyRecord | None]
    owner: str
    key: str
    seconds: float


@define(eq=False)
class _Key:
    done: Deferred[bytes]


@define(eq=False)
class _Read:
    done: Deferred[bytes]
    delivery_id: str


@define(eq=False)
class _Amend:
    done: Deferred[None]
    delivery_id: str
    body: bytes


@define(eq=False)
class _Restore:
    done: Deferred[list[Delivery]]
    seconds: float


@define(eq=False)
class _Page:
    """What is beyond the number `after`."""

    done: Deferred[list[OutboundStanza]]
    after: int
    seconds: float


@define(eq=False)
class _Kept:
    done: Deferred[set[int]]
    numbers: Sequence[int]


@define(eq=False)
class _Subscribers:
    done: Deferred[list[tuple[str, str]]]


@define(eq=False)
class _Look:
    """`facts` are to be written down; it is `now` by the wall clock."""

    done: Deferred[Found]
    facts: Mapping[str, str]
    room: int
    seconds: float
    now: float


@define(eq=False)
class _Wake:
    """Nothing but a reason to write what was noted."""


_Failed = tuple[str, str | None]
"""Outcome and note of a departure that has failed."""


class _Close:
    """Nothing comes after it."""


@frozen
class _Bounce:
    """A departure that came back, as a row of `rows.departure_rows`, for it may be deleted already; and with what."""

    row: Row
    note: str


_Settlement = _Failed | _Bounce | None
"""What became of a departure: how it has failed, that it came back, or None where the server has it."""

_Operation = (
    _Store | _Push | _Begun | _Recall | _Key | _Read | _Amend | _Restore | _Page | _Kept | _Subscribers | _Look | _Wake
)


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
    another call begins it again. When it is idle it carries out and commits at once what one turn of the reactor asks
    for; what comes meanwhile is the next transaction. So under load many deliveries share one wait for the disk, and
    without load none waits for another.

    When SQLite fails, the transaction is undone, its operations fail with `SpoolError`, and the next one is tried as if
    nothing had happened. A delivery whose end could not be written is deleted with a later transaction, if nothing is
    to leave for it.

    When the disk is full, the ballast beside the file is released. From then on nothing is stored, and the rest is done
    in the room that this gave; until there is room for the ballast again, for which `look` looks.

    Args:
        path: The file, which `component_http.spool.database.prepare` has prepared.
        reactor: Its thread is the one that calls, and where Deferreds fire.
        deadlines: Seconds a delivery may take, by the kind of its stanza: a restored one gets no more.
        grace: Seconds since its acceptance for which a message waits that the webhook has not seen, or 0.0.
        synchronous: `FULL`: what is committed survives a loss of power. `NORMAL`: it survives the end of the process.
        now: The wall clock.
        window: Bodies that are kept in memory too, so that they need not be read.
        window_bytes: The same in bytes.
        ballast_bytes: Bytes that are kept for when the disk is full; fewer on a small disk.
        max_log_bytes: As `MAX_LOG_BYTES`.
        letter_days: Days for which a dead letter is kept.
        max_letters: Dead letters that are kept.
        max_outbound: As `rows.MAX_DEPARTURES`.
        max_records: As `rows.MAX_RECORDS`.
        max_records_bytes: As `rows.MAX_RECORDS_BYTES`.
        observer: Told `disk_full`; None for nobody.

    Attributes:
        commits: Transactions so far that changed something.
        trouble: Why nothing is stored now, as a phrase; None if it is.
    """

    _log = Logger()

    durable = True
    crowd = rows.CROWD

    def __init__(
        self,
        path: Path,
        reactor: Any,
        *,
        deadlines: Mapping[str, float],
        grace: float = 0.0,
        synchronous: Synchronous = "FULL",
        now: Callable[[], float] = time.time,
        window: int = 1000,
        window_bytes: int = 16 * 1024 * 1024,
        ballast_bytes: int = BALLAST_BYTES,
        max_log_bytes: int = MAX_LOG_BYTES,
        letter_days: float = 7.0,
        max_letters: int = 10_000,
        max_outbound: int = rows.MAX_DEPARTURES,
        max_records: int = rows.MAX_RECORDS,
        max_records_bytes: int = rows.MAX_RECORDS_BYTES,
        observer: Observer | None = None,
    ) -> None:
        self._path = path
        self._reactor = reactor
        self._deadlines = deadlines
        self._grace = grace
        self._synchronous = synchronous
        self._now = now
        self._max_log_bytes = max_log_bytes
        self._letter_days = letter_days
        self._max_outbound = max_outbound
        self._observer = observer
        self.commits = 0
        # Of the reactor's thread.
        self._window = window
        self._window_bytes = window_bytes
        self._bodies: dict[str, bytes] = {}
        self._begun_first: dict[str, int] = {}
        self.trouble: str | None = None
        self._throttle = Throttle(LOG_INTERVAL)
        self._thread: Thread | None = None
        self._closed: Deferred[None] | None = None
        self._hurries = False
        self._asked: list[_Operation | _Close] = []
        # What goes from that thread to the other.
        self._queue: SimpleQueue[list[_Operation | _Close]] = SimpleQueue()
        self._notes: deque[tuple[str, int, int]] = deque()
        self._settlements: deque[tuple[int, _Settlement]] = deque()
        self._suspects: deque[int] = deque()
        self._subscriptions: deque[tuple[tuple[str, str], bool]] = deque()  # whether the pair is to be kept
        # Of the other thread: what was asked for and is of no group yet, the file, the bytes of its log's index that
        # have blocks of their own, and why nothing is stored.
        self._to_do: deque[_Operation | _Close] = deque()
        self._connection: sqlite3.Connection | None = None
        self._begun = False
        self._index_bytes = 0
        self._group_bytes = MAX_GROUP_BYTES
        self._wait_for_readers = float("-inf")
        self._ballast = Ballast(path, ballast_bytes)
        self._refusal: SpoolError | None = None
        self._was_busy = False
        # What is still to be written: deliveries that have ended, with their letters and when, because SQLite failed;
        # departures that are confirmed or have failed, and those that are suspects; how often deliveries were tried;
        # and pairs of subscribers with whether they are still some.
        self._overdue: dict[str, tuple[DeadLetter | None, float]] = {}
        self._overdue_bytes = 0
        self._settled: dict[int, _Settlement] = {}
        self._suspected: dict[int, None] = {}
        # Rows that cannot be read, by table and rowid; and up to which delivery, of those that there were at the start,
        # all have been restored.
        self._damaged: dict[tuple[str, int], rows.Damaged] = {}
        # How far the spool's clock is ahead of the reactor's, and was ahead of the wall clock when the file was opened.
        self._ahead = 0.0
        self._lead_at_start = 0.0
        self._restored = 0
        self._last_to_restore: int | None = None
        self._noted: dict[str, tuple[str, int, int]] = {}
        self._subscribed: dict[tuple[str, str], bool] = {}
        # What is known to stand in the table of facts, and what is to be looked after in that of letters.
        self._facts: dict[str, str] = {}
        self._behind: list[str] = []
        self._letters = rows.letters_shelf(max_letters)
        self._records = rows.records_shelf(max_records, max_records_bytes)
        self._tidied = float("-inf")

    # -- in the reactor's thread --

    def store(self, delivery: Delivery, body: bytes) -> Deferred[None]:
        """See `component_http.interfaces.Spool.store`."""
        row = rows.delivery_row(delivery, body, self._reactor.seconds())
        if len(self._bodies) < self._window and len(body) <= self._window_bytes:
            self._bodies[delivery.id] = body
            self._window_bytes -= len(body)
        return self._ask(_Store(Deferred(), row))

    def note(self, delivery: Delivery) -> None:
        """
        See `component_http.interfaces.Spool.note`.

        That a first attempt has begun is written when the spool is looked after, if it has not ended by then.
        """
        if delivery.tries <= 1 and delivery.failure is None:
            self._begun_first[delivery.id] = delivery.tries
            return
        self._begun_first.pop(delivery.id, None)
        self._notes.append((delivery.id, delivery.tries, delivery.attempts))
        if delivery.failure is not None and self._closed is None:
            self._put(_Wake())

    def _note_first(self) -> None:
        self._notes.extend((delivery_id, tries, 0) for delivery_id, tries in self._begun_first.items())
        self._begun_first.clear()

    def begun(self, delivery: Delivery) -> Deferred[None]:
        """See `component_http.interfaces.Spool.begun`."""
        return self._ask(_Begun(Deferred(), (delivery.id, delivery.tries, delivery.attempts)))

    def body(self, delivery_id: str) -> Deferred[bytes]:
        """See `component_http.interfaces.Spool.body`."""
        body = self._bodies.get(delivery_id)
        return succeed(body) if body is not None else self._ask(_Read(Deferred(), delivery_id))

    def amend(self, delivery_id: str, body: bytes) -> Deferred[None]:
        """See `component_http.interfaces.Spool.amend`."""
        return self._ask(_Amend(Deferred(), delivery_id, body)).addCallback(self._amended, delivery_id)

    def _amended(self, _: None, delivery_id: str) -> None:
        """Read it from the file from now on: few are ever amended."""
        self._forget_body(delivery_id)

    def end(
        self,
        delivery_id: str,
        outbound_stanzas: Sequence[OutboundStanza],
        letter: DeadLetter | None = None,
        record: IdempotencyRecord | None = None,
    ) -> Deferred[Sequence[int]]:
        """See `component_http.interfaces.Spool.end`."""
        self._forget_body(delivery_id)
        self._begun_first.pop(delivery_id, None)
        leaving = rows.outbound_rows(outbound_stanzas)
        return self._ask(_End(Deferred(), leaving, record, self._reactor.seconds(), delivery_id, letter, self._now()))

    def push(
        self, outbound_stanzas: Sequence[OutboundStanza], record: IdempotencyRecord | None = None
    ) -> Deferred[Sequence[int]]:
        """See `component_http.interfaces.Spool.push`."""
        return self._ask(_Push(Deferred(), rows.outbound_rows(outbound_stanzas), record, self._reactor.seconds()))

    def recall(self, owner: str, key: str) -> Deferred[IdempotencyRecord | None]:
        """See `component_http.interfaces.Spool.recall`."""
        return self._ask(_Recall(Deferred(), owner, key, self._reactor.seconds()))

    def key(self) -> Deferred[bytes]:
        """See `component_http.interfaces.Spool.key`."""
        return self._ask(_Key(Deferred()))

    def still_kept(self, numbers: Collection[int]) -> Deferred[set[int]]:
        """See `component_http.interfaces.Spool.still_kept`."""
        return self._ask(_Kept(Deferred(), list(numbers)))

    def outbound_stanzas(self, after: int) -> Deferred[list[OutboundStanza]]:
        """See `component_http.interfaces.Spool.outbound_stanzas`."""
        return self._ask(_Page(Deferred(), after, self._reactor.seconds()))

    def confirmed(self, number: int) -> None:
        """
        See `component_http.interfaces.Spool.confirmed`.

        That is no reason for a transaction: it is written with the next one, at the latest when it is looked after.
        """
        self._settlements.append((number, None))

    def failed(self, number: int, outcome: str, note: str | None = None) -> None:
        """See `component_http.interfaces.Spool.failed`; like `confirmed`, but written soon."""
        self._settlements.append((number, (outcome, note)))
        self._write_soon()

    def suspect(self, number: int) -> None:
        """See `component_http.interfaces.Spool.suspect`; like `failed`."""
        self._suspects.append(number)
        self._write_soon()

    def _write_soon(self) -> None:
        """Write what was noted with the next transaction, and let there be one; at most one wake-up for one turn."""
        if self._closed is None and not self._asked:
            self._put(_Wake())

    def bounced(self, number: int, outbound: OutboundStanza, note: str) -> None:
        """See `component_http.interfaces.Spool.bounced`; like `confirmed`."""
        [row] = rows.outbound_rows([outbound])
        self._settlements.append((number, _Bounce(row, note)))

    def subscribe(self, component: str, user: str) -> None:
        """See `component_http.interfaces.Spool.subscribe`; like `confirmed`."""
        self._subscriptions.append(((component, user), True))

    def unsubscribe(self, component: str, user: str) -> None:
        """See `component_http.interfaces.Spool.unsubscribe`; like `confirmed`."""
        self._subscriptions.append(((component, user), False))

    def subscribers(self) -> Deferred[list[tuple[str, str]]]:
        """See `component_http.interfaces.Spool.subscribers`."""
        return self._ask(_Subscribers(Deferred()))

    def look(self, facts: Mapping[str, str], room: int) -> Deferred[Found]:
        """See `component_http.interfaces.Spool.look`."""
        self._note_first()
        return self._ask(_Look(Deferred(), facts, room, self._reactor.seconds(), self._now()))

    def restore(self) -> Deferred[list[Delivery]]:
        """See `component_http.interfaces.Spool.restore`."""
        return self._ask(_Restore(Deferred(), self._reactor.seconds()))

    def hurry(self) -> None:
        """See `component_http.interfaces.Spool.hurry`."""
        self._hurries = True

    def close(self) -> Deferred[None]:
        """See `component_http.interfaces.Spool.close`."""
        self._hurries = True
        self._note_first()
        if self._thread is None and not (self._notes or self._settlements or self._suspects or self._subscriptions):
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
        """Have it done at the end of this turn of the reactor: what one turn asks for is one group, and one wake-up."""
        if self._thread is None:
            self._thread = Thread(target=self._run, name="spool", daemon=True)
            self._thread.start()
        if not self._asked:
            self._reactor.callLater(0, self._hand_over)
        self._asked.append(operation)

    def _hand_over(self) -> None:
        asked, self._asked = self._asked, []
        self._queue.put(asked)

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

    def _disk_is_full(self, released: int) -> None:
        self.trouble = "the spool's disk is full"
        if self._observer is not None:
            self._observer.count("disk_full")
        if self._throttle.may_tell("full", self._reactor.seconds()):
            effect = f"what was accepted goes on in the {released // 1024} KiB that were kept for this"
            if not released:
                effect = "nothing was kept for this, so what ends may be delivered again after a restart"
            self._log.error(
                "the disk of {path} is full: stanzas are refused, and {effect}", path=str(self._path), effect=effect
            )

    def _log_is_long(self, size: int) -> None:
        self.trouble = "another program keeps the spool's log from being emptied"
        self._log.error(
            "another program has been reading {path} for so long that {path}-wal has {mib} MiB: stanzas are refused"
            " until it ends",
            path=str(self._path),
            mib=size // 2**20,
        )

    def _is_well(self, what: str) -> None:
        self.trouble = None
        if self._throttle.may_tell("well", self._reactor.seconds()):
            self._log.info("{what} {path}: stanzas are accepted again", what=what, path=str(self._path))

    def _is_damaged(self, damaged: rows.Damaged) -> None:
        self._log.error(
            "row {row} of the table {table} in {path} cannot be read: it is moved to the table set_aside: {reason}",
            row=damaged.row,
            table=damaged.table,
            path=str(self._path),
            reason=damaged.reason,
        )
        self._write_soon()

    def _ended(self) -> None:
        assert self._thread is not None and self._closed is not None
        self._thread.join()  # calling this was its last deed
        self._thread = None
        self._hurries = False
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
                self._clear_arrears()
                break
        self._close_file()
        self._reactor.callFromThread(self._ended)

    def _next_group(self) -> tuple[list[_Operation], bool]:
        """Wait for something to do; what waits by then is done with it. And whether it is the last."""
        group: list[_Operation] = []
        size = 0
        while not group or (len(group) < MAX_GROUP and size < self._group_bytes):
            if not self._to_do:
                try:
                    self._to_do += self._queue.get(block=not group)
                except Empty:
                    break
            operation = self._to_do.popleft()
            if isinstance(operation, _Close):
                return group, True
            group.append(operation)
            size += _size(operation)
        return group, False

    def _done(self, group: Sequence[_Operation]) -> list[_Fired]:
        """Carry out a group. Where that fails for some of it, the rest is done without them."""
        self._take_notes()
        look = next((operation for operation in group if isinstance(operation, _Look)), None)
        if look is not None:
            with suppress(sqlite3.Error, OSError):  # what cannot be done now is looked after again
                self._look_after_room(look.seconds)
        if self._refusal is None:
            try:
                return self._carry_out(group)
            except Exception as error:
                if self._is_full(error):
                    self._disk_full()
                elif len(group) > 1 and not isinstance(error, _PASSING):
                    return [fired for operation in group for fired in self._part_done([operation])]
                else:
                    return self._failed(group, error)
        return self._done_in_need(group)

    def _part_done(self, part: Sequence[_Operation]) -> list[_Fired]:
        try:
            return self._carry_out(part)
        except Exception as error:
            return self._failed(part, error)

    def _done_in_need(self, group: Sequence[_Operation]) -> list[_Fired]:
        """Store nothing, and do the rest, as far as there is room: reading needs none."""
        refused = [_Fired(one, error=self._refusal) for one in group if _is_new(one)]
        reads = [one for one in group if isinstance(one, (_Read, _Page, _Kept, _Recall))]
        ends = [one for one in group if isinstance(one, (_End, _Begun, _Wake))]
        others = [one for one in group if isinstance(one, (_Restore, _Subscribers, _Look, _Key))]
        parts = (
            refused,
            self._in_parts(reads),
            self._in_parts(ends),
            *(self._in_parts([operation]) for operation in others),
        )
        if any(isinstance(operation, _Look) for operation in others):
            self._clear_arrears()
        fired = {each.operation: each for part in parts for each in part}
        return [fired[operation] for operation in group]

    def _in_parts(self, group: Sequence[_Operation]) -> list[_Fired]:
        """Carry out as much as there is room for: where a transaction finds none, a smaller one may."""
        fired: list[_Fired] = []
        at, size = 0, len(group)
        while at < len(group):
            part = group[at : at + size]
            try:
                fired += self._carry_out(part, 0)
                at += len(part)
            except Exception as error:
                if not self._is_full(error):
                    fired += self._failed(part, error)
                    at += len(part)
                elif size > 1:
                    size //= 2
                    self._checkpoint()
                else:
                    return fired + self._failed(group[at:], _disk_full(self._path))
        return fired

    def _clear_arrears(self) -> None:
        """Write what could not be written before, or as much of it as there is room for."""
        size = MAX_GROUP
        while size and any(
            (self._overdue, self._settled, self._suspected, self._damaged, self._noted, self._subscribed)
        ):
            try:
                self._carry_out((), size)
            except Exception as error:
                if not self._is_full(error):
                    return
                size //= 8
                self._checkpoint()

    def _failed(self, group: Sequence[_Operation], error: Exception) -> list[_Fired]:
        for operation in group:
            if isinstance(operation, _End) and not operation.rows:
                # A letter that is itself what cannot be written would keep from writing whatever comes after it.
                self._postpone(operation, operation.letter if _is_passing(error) else None)
        if self._is_full(error):
            error = _disk_full(self._path)
        elif _is_passing(error):
            error = SpoolError(str(error))
        return [_Fired(operation, error=error) for operation in group]

    def _postpone(self, end: _End, letter: DeadLetter | None) -> None:
        if letter is not None and letter.response is not None:
            self._overdue_bytes += len(letter.response)
            if self._overdue_bytes > MAX_OVERDUE_BYTES:
                letter = evolve(letter, response=None)
        self._overdue[end.delivery_id] = letter, end.now

    def _take_notes(self) -> None:
        for note in _taken(self._notes):
            self._noted[note[0]] = note
        self._subscribed.update(_taken(self._subscriptions))

    # What is done about the room.

    def _is_full(self, error: Exception) -> bool:
        return is_full(error) or (may_be_full(error) and not self._ballast.has_room(PROBE_BYTES))

    def _disk_full(self) -> None:
        """Give up the ballast, and empty the log as long as there is room for that."""
        self._refusal = _disk_full(self._path)
        self._reactor.callFromThread(self._disk_is_full, self._ballast.release())
        self._checkpoint()

    def _checkpoint(self) -> None:
        """Empty the log into the file, so that it is written from its beginning; as far as nobody reads from it."""
        if self._connection is None:
            return
        with suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def _look_after_room(self, seconds: float) -> None:
        """See whether there is still room, or again, and whether the log has an end."""
        was = self._refusal
        if was is None and not self._ballast.hold():
            self._disk_full()
        elif isinstance(was, DiskFull):
            if not self._ballast.hold() and not (self._make_room() and self._ballast.hold()):
                return
            self._refusal = None
            if self._connection is not None:
                self._measure(self._connection)
        size = self._log_size()
        if size > self._max_log_bytes:
            # Nobody may be writing any more, and only who writes empties it.
            self._shorten_log()
            size = self._log_size()
        if size > LONG_LOG_BYTES and seconds >= self._wait_for_readers:
            if not self._shorten_log(LONG_LOG_WAIT):
                self._wait_for_readers = seconds + LONG_LOG_INTERVAL
            size = self._log_size()
        if size > self._max_log_bytes and self._refusal is None:
            self._refusal = SpoolError("another program keeps the log from being emptied")
            self._reactor.callFromThread(self._log_is_long, size)
        elif size <= self._max_log_bytes and not isinstance(self._refusal, DiskFull):
            self._refusal = None
        if was is not None and self._refusal is None:
            full = isinstance(was, DiskFull)
            what = "there is room again on the disk of" if full else "nobody reads any more for so long from"
            self._reactor.callFromThread(self._is_well, what)

    def _fits(
        self, connection: sqlite3.Connection, ends: Iterable[_End], letters: Mapping[str, tuple[DeadLetter, float]]
    ) -> bool:
        """
        Whether there is room on a full disk for what is to be kept of deliveries that end.

        It needs as much in the log, and then once more in the file as far as nothing is unused there. If the second
        were not there, the log could not be emptied any more, and nothing at all be written.
        """
        growth = sum(map(_size, ends)) + sum(len(letter.response or b"") for letter, _ in letters.values())
        if letters:
            growth += rows.size_of_deliveries(connection, letters.keys())
        if not growth:
            return True
        [[_, written, moved]] = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        room = self._ballast.free() + (self._log_size() if written == moved else 0)
        lacking = max(0, growth - rows.sizes(connection)[0])
        return room >= growth + lacking + self._ballast.need() // 8

    def _make_room(self) -> bool:
        """
        Make the files shorter, if that brings the ballast back; else what they have is kept for what has to end.

        Returns:
            Whether they are shorter.
        """
        connection = self._connection
        if connection is None:
            return False
        try:
            unused, used = rows.sizes(connection)
            room = self._ballast.free() + self._log_size()
            if room + (unused if used < room else 0) < self._ballast.need():
                return False
            if room < self._ballast.need():
                connection.execute("VACUUM")
        except sqlite3.Error:
            return False
        return self._shorten_log()

    def _shorten_log(self, wait: float = 0.0) -> bool:
        """Empty the log and cut it off, if nobody reads from it, or not for more than so many seconds."""
        connection = self._connection
        if connection is None:
            return False
        try:
            connection.execute(f"PRAGMA busy_timeout = {wait * 1000:.0f}")
            try:
                [[busy, *_]] = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                connection.execute(f"PRAGMA busy_timeout = {BUSY_SLICE * 1000:.0f}")
        except sqlite3.Error:
            return False
        return not busy

    def _log_size(self) -> int:
        try:
            return os.stat(f"{self._path}-wal").st_size
        except OSError:
            return 0

    def _reserve_index(self) -> None:
        """See that what the log's index grows by with the next transactions has blocks of its own."""
        regions = self._log_size() // _LOG_OF_REGION + _REGIONS_AHEAD
        if regions * INDEX_REGION <= self._index_bytes:
            return
        try:
            allocate_index(self._path, regions * INDEX_REGION)
        except OSError:
            raise _disk_full(self._path) from None
        self._index_bytes = regions * INDEX_REGION

    # What is asked for.

    def _carry_out(self, group: Sequence[_Operation], arrears: int = MAX_GROUP) -> list[_Fired]:
        """
        Do all of it in one transaction, or raise and have done nothing.

        Args:
            group: What was asked for.
            arrears: So much at most of each kind of what is still to be written.
        """
        connection = self._connection or self._open()
        # Another order than they were asked for, but the same to each delivery: stored, noted, read, ended.
        stored = [operation.row for operation in group if isinstance(operation, _Store)]
        ends = [operation for operation in group if isinstance(operation, _End)]
        for number, settlement in _taken(self._settlements):
            # The server may confirm what came back already.
            if settlement is not None or number not in self._settled:
                self._settled[number] = settlement
        self._suspected.update(dict.fromkeys(_taken(self._suspects)))
        overdue = dict(islice(self._overdue.items(), arrears))
        settled = dict(islice(self._settled.items(), arrears))
        suspects = list(islice(self._suspected, arrears))
        damaged = list(islice(self._damaged.items(), arrears))
        noted = list(islice(self._noted.values(), arrears))
        subscriptions = dict(islice(self._subscribed.items(), arrears))
        ended = overdue | {operation.delivery_id: (operation.letter, operation.now) for operation in ends}
        letters = {delivery_id: (letter, now) for delivery_id, (letter, now) in ended.items() if letter is not None}
        latest = [note for note in noted if note[0] not in ended]
        begun = [operation.note for operation in group if isinstance(operation, _Begun)]
        transaction = _Transaction(connection, self._goes_on_waiting)
        try:
            if stored or ended or latest or begun or settled or suspects or damaged or subscriptions:
                if isinstance(self._refusal, DiskFull) and not self._fits(connection, ends, letters):
                    raise _disk_full(self._path)
                self._reserve_index()
                transaction.begin()
            rows.add_deliveries(connection, stored, self._ahead)
            rows.note_tries(connection, latest + begun)
            self._settle(connection, settled)
            rows.set_suspect(connection, suspects)
            for _, row in damaged:
                rows.set_aside(connection, row, self._now())
            rows.set_subscribers(connection, subscriptions)
            fired = {operation: self._answered(transaction, operation) for operation in group}
            fired.update(self._departed(transaction, group))
            # What another program put there gets a number beyond all that the reactor's thread knows of by then.
            for moved in self._behind:
                rows.move_to_the_end(connection, moved)
            rows.keep_letters(connection, letters, self._lead())
            rows.remove_deliveries(connection, ended)
            if transaction.commit():
                self.commits += 1
                self._was_busy = False
        except BaseException:
            _roll_back(connection)
            self._facts.clear()
            self._letters.look_again()
            self._records.look_again()
            self._behind.clear()
            raise
        self._behind.clear()
        for _ in letters:
            self._letters.grew()
        for delivery_id in ended:
            self._overdue.pop(delivery_id, None)
            self._noted.pop(delivery_id, None)
        for number in settled:
            del self._settled[number]
        for number in suspects:
            del self._suspected[number]
        for place, _ in damaged:
            del self._damaged[place]
        for note in latest:
            del self._noted[note[0]]
        for pair in subscriptions:
            del self._subscribed[pair]
        if not self._overdue:
            self._overdue_bytes = 0
        return list(fired.values())

    def _answered(self, transaction: _Transaction, operation: _Operation) -> _Fired:
        """Read what was asked for, or look after what others have; there is nothing to be said of the rest."""
        connection = transaction.connection
        value: object = None
        match operation:
            case _Read():
                try:
                    value = rows.body(connection, operation.delivery_id)
                except KeyError as error:
                    return _Fired(operation, error=error)
            case _Amend():
                self._reserve_index()
                transaction.begin()
                rows.amend(connection, operation.delivery_id, operation.body)
            case _Restore():
                value = self._next_restored(transaction, self._moment(operation.seconds))
            case _Page():
                value = rows.page(
                    connection,
                    operation.after,
                    self._moment(operation.seconds),
                    self._settled,
                    self._suspected,
                    self._report,
                )
            case _Kept():
                value = rows.still_kept(connection, operation.numbers, self._settled)
            case _Subscribers():
                value = rows.subscribers(connection, self._report)
            case _Look():
                value = self._looked(transaction, operation)
            case _Recall():
                now = self._moment(operation.seconds).now
                value = rows.recall(connection, operation.owner, operation.key, now, self._report)
            case _Key():
                value = self._key(transaction)
        return _Fired(operation, value)

    def _departed(self, transaction: _Transaction, group: Sequence[_Operation]) -> dict[_Operation, _Fired]:
        """Write what is to leave, in order, and what is remembered with it; the numbers of each, or why it is not."""
        pushes = [operation for operation in group if isinstance(operation, _Push)]
        fired: dict[_Operation, _Fired] = {}
        if any(map(_is_pushed, pushes)):
            refusal = rows.too_much(transaction.connection, self._max_outbound)
            if refusal is not None:
                fired = {push: _Fired(push, error=refusal) for push in pushes if _is_pushed(push)}
                pushes = [push for push in pushes if push not in fired]
            else:
                self._reserve_index()
                transaction.begin()
        leaving = [row for push in pushes for row in push.rows]
        number = rows.add_outbound(transaction.connection, leaving, self._ahead)
        for push in pushes:
            numbers = range(number, number + len(push.rows))
            number = numbers.stop
            if push.record is not None:
                now = self._moment(push.seconds).now
                self._records.grew(rows.remember(transaction.connection, push.record, numbers, now))
            fired[push] = _Fired(push, numbers)
        return fired

    def _settle(self, connection: sqlite3.Connection, settled: Mapping[int, _Settlement]) -> None:
        """Delete the departures that are over, and keep what has failed as a dead letter."""
        for number, settlement in settled.items():
            if settlement is None:
                continue
            self._letters.grew()
            now, lead = self._now(), self._lead()
            if isinstance(settlement, _Bounce):
                # Its times are still the reactor's.
                ahead = lead - self._ahead
                rows.keep_bounce_as_letter(connection, number, settlement.row, settlement.note, now, ahead)
            else:
                rows.keep_outbound_as_letter(connection, number, *settlement, now, lead)
        rows.remove_outbound(connection, settled)

    def _looked(self, transaction: _Transaction, operation: _Look) -> Found:
        """Carry out what others have asked for, write the facts down, and let go of dead letters that are too many."""
        connection = transaction.connection
        at = self._moment(operation.seconds)
        deliveries: list[Delivery] = []
        outbound_stanzas = wake = False
        dropped: list[str] = []
        dropped_outbound: list[int] = []
        for number, verb, value in rows.commands(connection, operation.room):
            argument = str(value)
            transaction.begin()
            if verb == "deliver":
                found = rows.one_pending(connection, argument, at, self._deadlines, self._report, self._grace)
                if found is not None:
                    deliveries.append(found)
            elif verb == "depart":
                outbound_stanzas = True
                self._behind.append(argument)
            elif verb == "drop_delivery":
                dropped.append(argument)
            elif verb == "drop_departure" and argument.isdecimal():
                dropped_outbound.append(int(argument))
                rows.remove_outbound(connection, [int(argument)])
            elif verb == "wake":
                wake = True
            connection.execute("DELETE FROM commands WHERE number = ?", (number,))
        changed = {name: value for name, value in operation.facts.items() if self._facts.get(name) != value}
        if abs(at.now - operation.now - float(self._facts.get(rows.LEAD, self._lead_at_start))) > CLOCK_SET:
            changed[rows.LEAD] = f"{at.now - operation.now:.3f}"
        if changed:
            transaction.begin()
            connection.executemany("INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)", list(changed.items()))
            self._facts.update(changed)
        self._tidy(transaction, at.now, operation.now)
        return Found(deliveries, outbound_stanzas, dropped, dropped_outbound, wake)

    def _tidy(self, transaction: _Transaction, now: float, wall: float) -> None:
        connection = transaction.connection
        if not 0 <= now - self._tidied < TIDY:
            self._tidied = now
            oldest = wall - self._letter_days * _DAY
            if connection.execute("SELECT 1 FROM memos WHERE expires <= ? LIMIT 1", (now,)).fetchone():
                transaction.begin()
                connection.execute("DELETE FROM memos WHERE expires <= ?", (now,))
            if connection.execute("SELECT 1 FROM letters WHERE ended < ? LIMIT 1", (oldest,)).fetchone():
                transaction.begin()
                connection.execute("DELETE FROM letters WHERE ended < ?", (oldest,))
        self._letters.trim(connection, transaction.begin)
        self._records.trim(connection, transaction.begin)

    def _open(self) -> sqlite3.Connection:
        if not self._begun:
            make_private(self._path)  # if there was no room for it before
        if not self._ballast.has_room(OPENING_BYTES):
            raise _disk_full(self._path)
        connection = opened(self._path, synchronous=self._synchronous)
        connection.text_factory = rows.text_of
        connection.execute(f"PRAGMA busy_timeout = {BUSY_SLICE * 1000:.0f}")
        self._lead_at_start = rows.lead(connection)
        self._ahead = self._now() + self._lead_at_start - self._reactor.seconds()
        self._begun, self._index_bytes = True, 0
        try:
            self._reserve_index()
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        if self._refusal is None and not self._ballast.hold():
            self._disk_full()
        self._measure(connection)
        return connection

    def _measure(self, connection: sqlite3.Connection) -> None:
        """Let no more be between the log and the file than the ballast has room for."""
        share = self._ballast.held() // BALLAST_SHARE
        self._group_bytes = min(MAX_GROUP_BYTES, share)
        [[page_bytes]] = connection.execute("PRAGMA page_size").fetchall()
        pages = max(1, min(LOG_PAGES, share // page_bytes))
        connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")

    def _close_file(self) -> None:
        connection, self._connection = self._connection, None
        self._restored, self._last_to_restore = 0, None
        if connection is None:
            return
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error:
            pass  # the log keeps what it has, and is read when the file is opened again
        finally:
            connection.close()

    def _next_restored(self, transaction: _Transaction, at: Moment) -> list[Delivery]:
        """The next of what was in the file when the first were asked for; what came since is known."""
        connection = transaction.connection
        if self._last_to_restore is None:
            [[last]] = connection.execute("SELECT coalesce(max(number), 0) FROM deliveries").fetchall()
            if connection.execute("SELECT 1 FROM commands WHERE verb IN ('depart', 'wake') LIMIT 1").fetchone():
                # What is to depart is read as everything else is, and a webhook is asked at the start anyway.
                transaction.begin()
                connection.execute("DELETE FROM commands WHERE verb IN ('depart', 'wake')")
            self._last_to_restore = last
        deliveries: list[Delivery] = []
        while not deliveries and self._restored < self._last_to_restore:
            deliveries, last = rows.pending(
                connection, self._restored, self._last_to_restore, at, self._deadlines, self._report, self._grace
            )
            self._restored = self._last_to_restore if last is None else last
        if not deliveries:
            self._restored, self._last_to_restore = 0, None
        return deliveries

    def _key(self, transaction: _Transaction) -> bytes:
        """The key that nobody else knows; the first time it is made."""
        key = rows.key(transaction.connection, self._report)
        if key is None:
            key = token_bytes(KEY_BYTES)
            transaction.begin()
            for place in [place for place in self._damaged if place[0] == "facts"]:
                # First the old one, in whose place the new one goes.
                rows.set_aside(transaction.connection, self._damaged.pop(place), self._now())
            rows.set_key(transaction.connection, key)
        return key

    def _goes_on_waiting(self, waited: float) -> bool:
        """Whether to go on waiting for another program that writes, for which so many seconds were waited."""
        if waited < (BUSY_AT_THE_END if self._hurries else BUSY_AGAIN if self._was_busy else BUSY):
            return True
        self._was_busy = True
        return False

    def _moment(self, seconds: float) -> Moment:
        """A moment of the reactor's clock by that of the spool, too."""
        return Moment(seconds + self._ahead, seconds)

    def _lead(self) -> float:
        """Seconds that the spool's clock is ahead of the wall clock."""
        seconds: float = self._reactor.seconds()
        return seconds + self._ahead - self._now()

    def _report(self, damaged: rows.Damaged) -> None:
        """A row cannot be read: set it aside with the next transaction that there is room for."""
        place = damaged.table, damaged.row
        if place not in self._damaged:
            self._damaged[place] = damaged
            self._reactor.callFromThread(self._is_damaged, damaged)


def _taken(queue: deque[T]) -> Iterator[T]:
    """What is in a queue that another thread fills and only this one empties, taken out one by one."""
    while queue:
        yield queue.popleft()


def _disk_full(path: Path) -> DiskFull:
    return DiskFull(f"the disk is full, that of {path}")


def _is_passing(error: Exception) -> bool:
    """It is the fault of the file or of its disk, and not of what was asked for."""
    return isinstance(error, _PASSING) or is_damage(error)


def _size(operation: _Operation) -> int:
    """Bytes of what is to be written for it, roughly."""
    if isinstance(operation, _Store):
        return len(operation.row[-1])
    if isinstance(operation, _Amend):
        return len(operation.body)
    if isinstance(operation, _Push):
        return sum(len(row[-1]) for row in operation.rows)
    return 0


class _Transaction:
    """
    One that is begun where there is something to write, and not before.

    Args:
        connection: It begins none by itself.
        goes_on_waiting: Whether to wait for another program that writes, for which so many seconds were waited so far.
    """

    def __init__(self, connection: sqlite3.Connection, goes_on_waiting: Callable[[float], bool]) -> None:
        self.connection = connection
        self._goes_on_waiting = goes_on_waiting
        self._begun = False

    def begin(self) -> None:
        """Something is to be written."""
        since = time.monotonic()
        while not self._begun:
            try:
                self.connection.execute("BEGIN IMMEDIATE")
                self._begun = True
            except sqlite3.OperationalError as error:
                if not is_busy(error) or not self._goes_on_waiting(time.monotonic() - since):
                    raise

    def commit(self) -> bool:
        """Keep what was written; whether anything was."""
        if self._begun:
            self.connection.execute("COMMIT")
        return self._begun


def _is_new(operation: _Operation) -> bool:
    """It takes room, and nothing that was accepted ends by it."""
    return isinstance(operation, (_Store, _Amend)) or _is_pushed(operation)


def _is_pushed(operation: _Operation) -> bool:
    """It is something to leave that ends no delivery."""
    return isinstance(operation, _Push) and not isinstance(operation, _End)


def _roll_back(connection: sqlite3.Connection) -> None:
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        pass  # SQLite has done it already
