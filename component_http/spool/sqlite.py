"""A spool on disk, which outlives the process."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from queue import Empty, SimpleQueue
from secrets import token_bytes
from threading import Thread
from typing import Any, TypeVar

from attrs import define, frozen
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.words.xish.domish import Element

from component_http.contract.address import Address, NotAnAddress
from component_http.contract.link import KEY_BYTES
from component_http.contract.memo import LIFETIME, Memo
from component_http.contract.stanza import Stanza
from component_http.contract.xml import Limits, parse_stanzas
from component_http.delivery.delivery import Delivery, Letter
from component_http.delivery.departure import Departure
from component_http.errors import ComponentHttpError, DiskFull, SpoolError, XmlRefused
from component_http.interfaces import Found, Observer
from component_http.notices import LOG_INTERVAL, Notices
from component_http.spool.database import (
    BUSY,
    INDEX_REGION,
    OPENING_BYTES,
    Synchronous,
    is_damage,
    is_full,
    make_private,
    may_be_full,
    opened,
)
from component_http.spool.room import BALLAST_BYTES, Ballast, allocate_index

__all__ = [
    "GRACE",
    "MAX_BYTES",
    "MAX_DEPARTURES",
    "MAX_GROUP",
    "MAX_LETTERS_BYTES",
    "MAX_MEMOS",
    "MAX_MEMOS_BYTES",
    "PAGE",
    "PAGE_BYTES",
    "SqliteSpool",
]

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

GRACE = 60.0
"""
Seconds that a message gets which was never tried and whose time is over, or nearly, when it is restored.

A gateway that was down for an hour still asks the webhook once about what it had accepted before: that takes its turn
in the backlog, and the time of one POST.
"""

PAGE = 500
PAGE_BYTES = 1024 * 1024
"""Departures that are read at once."""

MAX_DEPARTURES = 100_000
"""Stanzas that wait for the server, with which nothing more is pushed."""

MAX_BYTES = 2 * 1024 * 1024 * 1024
"""Bytes in use in the file, above which nothing more is pushed: as much as all that may be pending, and once more."""

MAX_LETTERS_BYTES = 256 * 1024 * 1024
"""Bytes of requests and responses in dead letters; the oldest go beyond it, so that they leave room for what lives."""

MAX_MEMOS = 100_000
MAX_MEMOS_BYTES = 64 * 1024 * 1024
"""Answers that are remembered by their keys, and bytes of them; the oldest are forgotten beyond it."""

TIDY = 3600.0
"""Seconds between two looks for dead letters that are too old."""

_DAY = 86_400.0

_PASSING = (sqlite3.OperationalError, ComponentHttpError, OSError)
"""What is the fault of the file or of its disk, and not of what was asked for."""

_LOG_OF_REGION = 4096 * 4096
"""Bytes of the log, a little fewer, that one region of its index is for."""

_REGIONS_AHEAD = 3
"""So many of them have blocks before the log needs them: a transaction may add more than one."""

_AT_ONCE = (64, 32, 16, 8, 4, 2, 1)
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
_DEPARTURE_COLUMNS = "number, delivery_id, kind, stored, expires, verbatim, xml"
_DEPART = {n: f"INSERT INTO departures ({_DEPARTURE_COLUMNS}) VALUES {_rows(n, 7)}" for n in _AT_ONCE}
_CONFIRM = {n: f"DELETE FROM departures WHERE number IN {_rows(1, n)}" for n in _AT_ONCE}
_SUBSCRIBE = {n: f"INSERT OR IGNORE INTO subscribers (component, user) VALUES {_rows(n, 2)}" for n in _AT_ONCE}
_UNSUBSCRIBE = {n: f"DELETE FROM subscribers WHERE (component, user) IN (VALUES {_rows(n, 2)})" for n in _AT_ONCE}
_SUBSCRIBERS = "SELECT component, user FROM subscribers ORDER BY number"
_BEHIND = (
    "INSERT INTO departures (delivery_id, kind, stored, expires, verbatim, xml)"
    " SELECT delivery_id, kind, stored, expires, verbatim, xml FROM departures WHERE number = ?"
)
_BODY = "SELECT body FROM deliveries WHERE id = ?"
_FACTS = "id, kind, type, stanza_id, sender, recipient, through_room, uri, deadline, tries, attempts, size"
_RESTORE = f"SELECT {_FACTS} FROM deliveries ORDER BY number"
_RESTORE_ONE = f"SELECT {_FACTS} FROM deliveries WHERE id = ?"
_PAGE = f"SELECT {_DEPARTURE_COLUMNS} FROM departures WHERE number > ? ORDER BY number"
_LAST_DEPARTURE = "SELECT seq FROM sqlite_sequence WHERE name = 'departures'"
_LETTER = (
    "INSERT OR REPLACE INTO letters (id, outcome, kind, type, stanza_id, sender, recipient, through_room, uri,"
    " accepted, ended, tries, size, body, note, status, media_type, response)"
    " SELECT id, ?, kind, type, stanza_id, sender, recipient, through_room, uri,"
    " accepted, ?, ?, size, body, ?, ?, ?, ? FROM deliveries WHERE id = ?"
)
_DEPARTURE_LETTER = (
    "INSERT OR REPLACE INTO letters (id, outcome, kind, type, stanza_id, sender, recipient, through_room, uri,"
    " accepted, ended, tries, size, note, reply) VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, 0, ?, ?, ?)"
)
_RESPONSE = 6
"""The place of the response in what fills `_LETTER`."""

_LETTER_SIZE = "coalesce(length(body), 0) + coalesce(length(response), 0) + coalesce(length(reply), 0)"
_MEMO_SIZE = "length(owner) + length(key) + length(fingerprint) + length(body) + length(numbers)"

_NOTES_ON_DEPARTURES = {
    "reply_expired": "it could not leave for the server in time",
    "reply_unsendable": "the server would not take it, or it does not fit the settings any more",
}


# What the thread is asked to do. `done` fires in the reactor's thread.


@define(eq=False)
class _Store:
    done: Deferred[None]
    row: tuple[Any, ...]


@define(eq=False)
class _Push:
    """`rows` are those of departures, but for their numbers; `memo` is remembered with these, from `now` on."""

    done: Deferred[Sequence[int]]
    rows: Sequence[tuple[Any, ...]]
    memo: Memo | None
    now: float


@define(eq=False)
class _End(_Push):
    """The same at the end of a delivery; `letter` is what fills `_LETTER`."""

    delivery_id: str
    letter: tuple[Any, ...] | None


@define(eq=False)
class _Recall:
    done: Deferred[Memo | None]
    owner: str
    key: str
    now: float


@define(eq=False)
class _Key:
    done: Deferred[bytes]


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
class _Page:
    """As `_Restore`; what is beyond the number `after`."""

    done: Deferred[list[Departure]]
    after: int
    now: float
    seconds: float


@define(eq=False)
class _Subscribers:
    done: Deferred[list[tuple[str, str]]]


@define(eq=False)
class _Look:
    """As `_Restore`; `facts` are to be written down."""

    done: Deferred[Found]
    facts: Mapping[str, str]
    now: float
    seconds: float


@define(eq=False)
class _Wake:
    """Nothing but a reason to write what was noted."""


class _Close:
    """Nothing comes after it."""


_Operation = _Store | _Push | _Recall | _Key | _Read | _Restore | _Page | _Subscribers | _Look | _Wake


@define(eq=False)
class _Shelf:
    """
    A table of things of the past, of which the oldest go when there are too many.

    What is put there is counted, and the table looked through only when there may be too much in it: that reads all of
    it.

    Args:
        table: Its name; the order of its rows is that in which they came.
        size: The bytes of a row, in SQL.
        most: Rows that may stay.
        most_bytes: Bytes of them.
    """

    table: str
    size: str
    most: int
    most_bytes: int
    # What may still come until it is looked through again; nothing is known before the first time.
    _room: float = -1.0
    _room_bytes: float = -1.0

    def grew(self, size: float = float("inf")) -> None:
        """A row of so many bytes has come, or of nobody knows how many."""
        self._room -= 1
        self._room_bytes -= size

    def look_again(self) -> None:
        """Nothing is known any more of what is there."""
        self._room = -1.0

    def trim(self, transaction: _Transaction) -> None:
        """Let the oldest go that are too many."""
        if self._room >= 0 and self._room_bytes >= 0:
            return
        connection = transaction.connection
        # One row comes of it, whatever there is: for each the reactor's thread would be asked for Python's lock.
        [[last]] = connection.execute(
            "SELECT max(rowid) FROM (SELECT rowid, row_number() OVER newest AS rows, sum(size) OVER newest AS bytes"
            f" FROM (SELECT rowid, {self.size} AS size FROM {self.table})"
            " WINDOW newest AS (ORDER BY rowid DESC)) WHERE rows > ? OR bytes > ?",
            (self.most, self.most_bytes),
        ).fetchall()
        if last is not None:
            transaction.begin()
            connection.execute(f"DELETE FROM {self.table} WHERE rowid <= ?", (last,))
        [[rows, size]] = connection.execute(f"SELECT count(*), total({self.size}) FROM {self.table}").fetchall()
        # A little more may come, for who is at the limit would have all of it looked through every time.
        self._room = self.most + self.most // 64 - rows
        self._room_bytes = self.most_bytes + self.most_bytes // 64 - size


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
    nothing had happened. A delivery whose end could not be written is deleted with a later transaction.

    When the disk is full, the ballast beside the file is released. From then on nothing is stored, and the rest is done
    in the room that this gave; until there is room for the ballast again, for which `look` looks.

    Args:
        path: The file, which `component_http.spool.database.prepare` has prepared.
        reactor: Its thread is the one that calls, and where Deferreds fire.
        deadlines: Seconds a delivery may take, by the kind of its stanza: a restored one gets no more.
        synchronous: `FULL`: what is committed survives a loss of power. `NORMAL`: it survives the end of the process.
        now: The wall clock.
        window: Bodies that are kept in memory too, so that they need not be read.
        window_bytes: The same in bytes.
        ballast_bytes: Bytes that are kept for when the disk is full; fewer on a small disk.
        max_log_bytes: As `MAX_LOG_BYTES`.
        letter_days: Days for which a dead letter is kept.
        max_letters: Dead letters that are kept.
        max_departures: As `MAX_DEPARTURES`.
        max_memos: As `MAX_MEMOS`.
        max_memos_bytes: As `MAX_MEMOS_BYTES`.
        observer: Told `disk_full`; None for nobody.

    Attributes:
        commits: Transactions so far that changed something.
        trouble: Why nothing is stored now, as a phrase; None if it is.
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
        ballast_bytes: int = BALLAST_BYTES,
        max_log_bytes: int = MAX_LOG_BYTES,
        letter_days: float = 7.0,
        max_letters: int = 10_000,
        max_departures: int = MAX_DEPARTURES,
        max_memos: int = MAX_MEMOS,
        max_memos_bytes: int = MAX_MEMOS_BYTES,
        observer: Observer | None = None,
    ) -> None:
        self._path = path
        self._reactor = reactor
        self._seconds = deadlines
        self._synchronous = synchronous
        self._now = now
        self._max_log_bytes = max_log_bytes
        self._letter_days = letter_days
        self._max_departures = max_departures
        self._observer = observer
        self.commits = 0
        # Of the reactor's thread.
        self._window = window
        self._window_bytes = window_bytes
        self._bodies: dict[str, bytes] = {}
        self._begun_first: dict[str, int] = {}
        self.trouble: str | None = None
        self._notices = Notices(LOG_INTERVAL)
        self._thread: Thread | None = None
        self._closed: Deferred[None] | None = None
        # What goes from that thread to the other.
        self._queue: SimpleQueue[_Operation | _Close] = SimpleQueue()
        self._notes: deque[tuple[str, int, int]] = deque()
        self._settlements: deque[tuple[int, str | None]] = deque()
        self._subscriptions: deque[tuple[tuple[str, str], bool]] = deque()  # whether the pair is to be kept
        # Of the other thread: the file, the bytes of its log's index that have blocks of their own, and why nothing is
        # stored.
        self._connection: sqlite3.Connection | None = None
        self._begun = False
        self._index_bytes = 0
        self._group_bytes = MAX_GROUP_BYTES
        self._wait_for_readers = float("-inf")
        self._ballast = Ballast(path, ballast_bytes)
        self._refusal: SpoolError | None = None
        # What is still to be written: deliveries that have ended, with what fills `_LETTER`, because SQLite failed;
        # departures that are confirmed or, with an outcome, have failed; how often deliveries were tried; and pairs of
        # subscribers with whether they are still some.
        self._overdue: dict[str, tuple[Any, ...] | None] = {}
        self._overdue_bytes = 0
        self._settled: dict[int, str | None] = {}
        self._noted: dict[str, tuple[str, int, int]] = {}
        self._subscribed: dict[tuple[str, str], bool] = {}
        # What is known to stand in the table of facts, and what is let go of in others.
        self._facts: dict[str, str] = {}
        self._behind: list[str] = []
        self._letters = _Shelf("letters", _LETTER_SIZE, max_letters, MAX_LETTERS_BYTES)
        self._memos = _Shelf("memos", _MEMO_SIZE, max_memos, max_memos_bytes)
        self._tidied = float("-inf")

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

    def body(self, delivery_id: str) -> Deferred[bytes]:
        """See `component_http.interfaces.Spool.body`."""
        body = self._bodies.get(delivery_id)
        return succeed(body) if body is not None else self._ask(_Read(Deferred(), delivery_id))

    def end(
        self,
        delivery_id: str,
        departures: Sequence[Departure],
        letter: Letter | None = None,
        memo: Memo | None = None,
    ) -> Deferred[Sequence[int]]:
        """See `component_http.interfaces.Spool.end`."""
        self._forget_body(delivery_id)
        self._begun_first.pop(delivery_id, None)
        now = self._now()
        fields = None
        if letter is not None:
            last = (letter.status, letter.media_type, letter.response)
            fields = (letter.outcome, now, letter.tries, letter.note, *last, delivery_id)
        return self._ask(_End(Deferred(), self._departure_rows(departures, now), memo, now, delivery_id, fields))

    def push(self, departures: Sequence[Departure], memo: Memo | None = None) -> Deferred[Sequence[int]]:
        """See `component_http.interfaces.Spool.push`."""
        now = self._now()
        return self._ask(_Push(Deferred(), self._departure_rows(departures, now), memo, now))

    def recall(self, owner: str, key: str) -> Deferred[Memo | None]:
        """See `component_http.interfaces.Spool.recall`."""
        return self._ask(_Recall(Deferred(), owner, key, self._now()))

    def key(self) -> Deferred[bytes]:
        """See `component_http.interfaces.Spool.key`."""
        return self._ask(_Key(Deferred()))

    def _departure_rows(self, departures: Sequence[Departure], now: float) -> list[tuple[Any, ...]]:
        """The rows but for their numbers."""
        ahead = now - self._reactor.seconds()
        return [
            (
                departure.delivery_id,
                departure.kind,
                departure.stored + ahead,
                departure.expires + ahead,
                departure.verbatim,
                departure.xml.encode("utf-8"),
            )
            for departure in departures
        ]

    def departures(self, after: int) -> Deferred[list[Departure]]:
        """See `component_http.interfaces.Spool.departures`."""
        return self._ask(_Page(Deferred(), after, self._now(), self._reactor.seconds()))

    def confirmed(self, number: int) -> None:
        """
        See `component_http.interfaces.Spool.confirmed`.

        That is no reason for a transaction: it is written with the next one, at the latest when it is looked after.
        """
        self._settlements.append((number, None))

    def failed(self, number: int, outcome: str) -> None:
        """See `component_http.interfaces.Spool.failed`; like `confirmed`."""
        self._settlements.append((number, outcome))

    def subscribe(self, component: str, user: str) -> None:
        """See `component_http.interfaces.Spool.subscribe`; like `confirmed`."""
        self._subscriptions.append(((component, user), True))

    def unsubscribe(self, component: str, user: str) -> None:
        """See `component_http.interfaces.Spool.unsubscribe`; like `confirmed`."""
        self._subscriptions.append(((component, user), False))

    def subscribers(self) -> Deferred[list[tuple[str, str]]]:
        """See `component_http.interfaces.Spool.subscribers`."""
        return self._ask(_Subscribers(Deferred()))

    def look(self, facts: Mapping[str, str]) -> Deferred[Found]:
        """See `component_http.interfaces.Spool.look`."""
        self._note_first()
        return self._ask(_Look(Deferred(), facts, self._now(), self._reactor.seconds()))

    def restore(self) -> Deferred[list[Delivery]]:
        """See `component_http.interfaces.Spool.restore`."""
        return self._ask(_Restore(Deferred(), self._now(), self._reactor.seconds()))

    def close(self) -> Deferred[None]:
        """See `component_http.interfaces.Spool.close`."""
        closed: Deferred[None] = Deferred()
        if self._closed is None:
            self._note_first()
            if self._thread is None and not (self._notes or self._settlements or self._subscriptions):
                return succeed(None)
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

    def _disk_is_full(self, released: int) -> None:
        self.trouble = "the spool's disk is full"
        if self._observer is not None:
            self._observer.count("disk_full")
        if self._notices.may_tell("full", self._reactor.seconds()):
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
        if self._notices.may_tell("well", self._reactor.seconds()):
            self._log.info("{what} {path}: stanzas are accepted again", what=what, path=str(self._path))

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
                if self._refusal is not None:
                    self._clear_arrears()
                break
        self._close_file()
        self._reactor.callFromThread(self._ended)

    def _next_group(self) -> tuple[list[_Operation], bool]:
        """Wait for something to do; what waits by then is done with it. And whether it is the last."""
        group: list[_Operation] = []
        size = 0
        try:
            while not group or (len(group) < MAX_GROUP and size < self._group_bytes):
                operation = self._queue.get(block=not group)
                if isinstance(operation, _Close):
                    return group, True
                group.append(operation)
                size += _size(operation)
        except Empty:
            pass
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
        refused = [_Fired(one, error=self._refusal) for one in group if isinstance(one, _Store) or _is_pushed(one)]
        reads = [one for one in group if isinstance(one, (_Read, _Page, _Recall))]
        ends = [one for one in group if isinstance(one, (_End, _Wake))]
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
        while size and (self._overdue or self._settled or self._noted or self._subscribed):
            try:
                self._carry_out((), size)
            except Exception as error:
                if not self._is_full(error):
                    return
                size //= 8
                self._checkpoint()

    def _failed(self, group: Sequence[_Operation], error: Exception) -> list[_Fired]:
        for operation in group:
            if isinstance(operation, _End):
                self._postpone(operation)
        if self._is_full(error):
            error = _disk_full(self._path)
        elif isinstance(error, _PASSING) or is_damage(error):
            error = SpoolError(str(error))
        return [_Fired(operation, error=error) for operation in group]

    def _postpone(self, end: _End) -> None:
        letter = end.letter
        if letter is not None and letter[_RESPONSE] is not None:
            self._overdue_bytes += len(letter[_RESPONSE])
            if self._overdue_bytes > MAX_OVERDUE_BYTES:
                letter = (*letter[:_RESPONSE], None, *letter[_RESPONSE + 1 :])
        self._overdue[end.delivery_id] = letter

    def _take_notes(self) -> None:
        try:
            while True:
                note = self._notes.popleft()
                self._noted[note[0]] = note
        except IndexError:
            pass
        try:
            while True:
                pair, kept = self._subscriptions.popleft()
                self._subscribed[pair] = kept
        except IndexError:
            pass

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
        self, connection: sqlite3.Connection, ends: Iterable[_End], letters: Mapping[str, tuple[Any, ...] | None]
    ) -> bool:
        """
        Whether there is room on a full disk for what is to be kept of deliveries that end.

        It needs as much in the log, and then once more in the file as far as nothing is unused there. If the second
        were not there, the log could not be emptied any more, and nothing at all be written.
        """
        kept = {delivery_id: letter for delivery_id, letter in letters.items() if letter is not None}
        growth = sum(map(_size, ends)) + sum(len(letter[_RESPONSE] or b"") for letter in kept.values())
        if kept:
            query = f"SELECT total(size) FROM deliveries WHERE id IN {_rows(1, len(kept))}"
            [[size]] = connection.execute(query, list(kept)).fetchall()
            growth += int(size)
        if not growth:
            return True
        [[_, written, moved]] = connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        room = self._ballast.free() + (self._log_size() if written == moved else 0)
        lacking = max(0, growth - self._unused(connection)[0])
        return room >= growth + lacking + self._ballast.need() // 8

    def _unused(self, connection: sqlite3.Connection) -> tuple[int, int]:
        """Bytes of the file's pages that hold nothing, and of those that do."""
        [[page_bytes]] = connection.execute("PRAGMA page_size").fetchall()
        [[pages]] = connection.execute("PRAGMA page_count").fetchall()
        [[unused]] = connection.execute("PRAGMA freelist_count").fetchall()
        return unused * page_bytes, (pages - unused) * page_bytes

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
            unused, used = self._unused(connection)
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
                connection.execute(f"PRAGMA busy_timeout = {BUSY * 1000:.0f}")
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
        rows = [operation.row for operation in group if isinstance(operation, _Store)]
        ends = [operation for operation in group if isinstance(operation, _End)]
        self._take_settlements()
        overdue = dict(islice(self._overdue.items(), arrears))
        settled = dict(islice(self._settled.items(), arrears))
        noted = list(islice(self._noted.values(), arrears))
        subscriptions = dict(islice(self._subscribed.items(), arrears))
        letters = overdue | {operation.delivery_id: operation.letter for operation in ends}
        latest = [note for note in noted if note[0] not in letters]
        fired: list[_Fired] = []
        transaction = _Transaction(connection)
        try:
            if rows or letters or latest or settled or subscriptions:
                if isinstance(self._refusal, DiskFull) and not self._fits(connection, ends, letters):
                    raise _disk_full(self._path)
                self._reserve_index()
                transaction.begin()
            _write(connection, _INSERT, rows)
            _write(connection, _NOTE, latest)
            self._settle(connection, settled)
            _write(connection, _SUBSCRIBE, [pair for pair, kept in subscriptions.items() if kept])
            _write(connection, _UNSUBSCRIBE, [pair for pair, kept in subscriptions.items() if not kept])
            for operation in group:
                if isinstance(operation, _Read):
                    fired.append(self._body(connection, operation))
                elif isinstance(operation, _Restore):
                    fired.append(_Fired(operation, self._restored(transaction, operation)))
                elif isinstance(operation, _Page):
                    fired.append(_Fired(operation, _page(connection, operation, self._settled)))
                elif isinstance(operation, _Subscribers):
                    fired.append(_Fired(operation, connection.execute(_SUBSCRIBERS).fetchall()))
                elif isinstance(operation, _Look):
                    fired.append(_Fired(operation, self._looked(transaction, operation)))
                elif isinstance(operation, _Recall):
                    fired.append(_Fired(operation, _recalled(connection, operation)))
                elif isinstance(operation, _Key):
                    fired.append(_Fired(operation, _key(transaction)))
                else:
                    fired.append(_Fired(operation))
            pushes = [operation for operation in group if isinstance(operation, _Push)]
            if len(pushes) > len(ends):
                refusal = _too_much(connection, self._max_departures)
                if refusal is not None:
                    pushes = [operation for operation in pushes if not _is_pushed(operation)]
                    fired = [
                        _Fired(one.operation, error=refusal) if _is_pushed(one.operation) else one for one in fired
                    ]
                elif pushes:
                    self._reserve_index()
                    transaction.begin()
            if pushes:
                numbers = self._depart(connection, pushes)
                fired = [_Fired(one.operation, numbers.get(one.operation, one.value), one.error) for one in fired]
            # What another program put there gets a number beyond all that the reactor's thread knows of by then.
            for moved in self._behind:
                connection.execute(_BEHIND, (moved,))
                connection.execute(_CONFIRM[1], (moved,))
            kept = [letter for letter in letters.values() if letter is not None]
            for letter in kept:
                connection.execute(_LETTER, letter)
            _write(connection, _DELETE, [(delivery_id,) for delivery_id in letters])
            if transaction.commit():
                self.commits += 1
        except BaseException:
            _roll_back(connection)
            self._facts.clear()
            self._behind.clear()
            self._letters.look_again()
            self._memos.look_again()
            raise
        self._behind.clear()
        for _ in kept:
            self._letters.grew()
        for delivery_id in letters:
            self._overdue.pop(delivery_id, None)
            self._noted.pop(delivery_id, None)
        for number in settled:
            del self._settled[number]
        for note in latest:
            del self._noted[note[0]]
        for pair in subscriptions:
            del self._subscribed[pair]
        if not self._overdue:
            self._overdue_bytes = 0
        return fired

    def _depart(self, connection: sqlite3.Connection, pushes: Iterable[_Push]) -> dict[_Operation, Sequence[int]]:
        """Write what is to leave, in order, and what is remembered with it; returns the numbers of each."""
        found = connection.execute(_LAST_DEPARTURE).fetchone()
        last: int = found[0] if found else 0
        numbers: dict[_Operation, Sequence[int]] = {}
        rows: list[tuple[Any, ...]] = []
        for push in pushes:
            numbers[push] = range(last + 1, last + 1 + len(push.rows))
            rows += [(number, *row) for number, row in zip(numbers[push], push.rows, strict=True)]
            last += len(push.rows)
            if push.memo is not None:
                self._remember(connection, push.memo, numbers[push], push.now)
        _write(connection, _DEPART, rows)
        return numbers

    def _remember(self, connection: sqlite3.Connection, memo: Memo, numbers: Sequence[int], now: float) -> None:
        row = (memo.owner, memo.key, memo.fingerprint, memo.body, json.dumps([*numbers]))
        connection.execute(
            "INSERT OR REPLACE INTO memos (owner, key, fingerprint, body, numbers, expires) VALUES (?, ?, ?, ?, ?, ?)",
            (*row, now + LIFETIME),
        )
        self._memos.grew(sum(map(len, row)))

    def _take_settlements(self) -> None:
        try:
            while True:
                number, outcome = self._settlements.popleft()
                self._settled[number] = outcome
        except IndexError:
            return

    def _settle(self, connection: sqlite3.Connection, settled: Mapping[int, str | None]) -> None:
        """Delete the departures that are over, and keep what has failed as a dead letter."""
        for number, outcome in settled.items():
            if outcome is not None:
                self._letters.grew()
                self._keep_departure(connection, number, outcome)
        _write(connection, _CONFIRM, [(number,) for number in settled])

    def _keep_departure(self, connection: sqlite3.Connection, number: int, outcome: str) -> None:
        row = connection.execute(
            "SELECT delivery_id, kind, stored, xml FROM departures WHERE number = ?", (number,)
        ).fetchone()
        if row is None:
            return
        delivery_id, kind, stored, xml = row
        try:
            [element] = parse_stanzas(xml.decode("utf-8", "replace"), Limits())
        except (XmlRefused, ValueError):
            element = Element((None, kind))
        facts = [element.getAttribute(name) for name in ("id", "to", "from")]
        stanza_id, sender, recipient = facts[0], facts[1] or "", facts[2] or ""
        # The letter is about the conversation that it belongs to, so its sender is who would have got this.
        connection.execute(
            _DEPARTURE_LETTER,
            (
                f"{delivery_id or 'departure'}.{number}",
                outcome,
                kind,
                element.getAttribute("type", ""),
                stanza_id,
                sender,
                recipient,
                element.uri or "",
                stored,
                self._now(),
                len(xml),
                _NOTES_ON_DEPARTURES.get(outcome, outcome),
                xml,
            ),
        )

    def _looked(self, transaction: _Transaction, operation: _Look) -> Found:
        """Carry out what others have asked for, write the facts down, and let go of dead letters that are too many."""
        connection = transaction.connection
        deliveries: list[Delivery] = []
        departures = False
        commands = connection.execute("SELECT number, verb, argument FROM commands ORDER BY number").fetchall()
        for number, verb, argument in commands:
            transaction.begin()
            if verb == "deliver":
                deliveries += self._readable(connection.execute(_RESTORE_ONE, (argument,)), operation)
            elif verb == "depart":
                departures = True
                self._behind.append(argument)
            connection.execute("DELETE FROM commands WHERE number = ?", (number,))
        changed = {name: value for name, value in operation.facts.items() if self._facts.get(name) != value}
        if changed:
            transaction.begin()
            connection.executemany("INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)", list(changed.items()))
            self._facts.update(changed)
        self._tidy(transaction, operation.now)
        return Found(deliveries, departures)

    def _tidy(self, transaction: _Transaction, now: float) -> None:
        connection = transaction.connection
        if not 0 <= now - self._tidied < TIDY:
            self._tidied = now
            oldest = now - self._letter_days * _DAY
            if connection.execute("SELECT 1 FROM memos WHERE expires <= ? LIMIT 1", (now,)).fetchone():
                transaction.begin()
                connection.execute("DELETE FROM memos WHERE expires <= ?", (now,))
            if connection.execute("SELECT 1 FROM letters WHERE ended < ? LIMIT 1", (oldest,)).fetchone():
                transaction.begin()
                connection.execute("DELETE FROM letters WHERE ended < ?", (oldest,))
        self._letters.trim(transaction)
        self._memos.trim(transaction)

    def _open(self) -> sqlite3.Connection:
        if not self._begun:
            make_private(self._path)  # if there was no room for it before
        if not self._ballast.has_room(OPENING_BYTES):
            raise _disk_full(self._path)
        connection = opened(self._path, synchronous=self._synchronous)
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

    def _restored(self, transaction: _Transaction, operation: _Restore) -> list[Delivery]:
        connection = transaction.connection
        if connection.execute("SELECT 1 FROM commands LIMIT 1").fetchone():
            # What they are about is restored as everything else is.
            transaction.begin()
            connection.execute("DELETE FROM commands")
        return self._readable(connection.execute(_RESTORE), operation)

    def _readable(self, rows: Iterable[Sequence[Any]], operation: _Restore | _Look) -> list[Delivery]:
        deliveries = []
        for row in rows:
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

    def _delivery(self, row: Sequence[Any], at: _Restore | _Look) -> Delivery:
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


def _disk_full(path: Path) -> DiskFull:
    return DiskFull(f"the disk is full, that of {path}")


def _size(operation: _Operation) -> int:
    """Bytes of what is to be written for it, roughly."""
    if isinstance(operation, _Store):
        return len(operation.row[-1])
    if isinstance(operation, _Push):
        return sum(len(row[-1]) for row in operation.rows)
    return 0


class _Transaction:
    """
    One that is begun where there is something to write, and not before.

    Args:
        connection: It begins none by itself.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self._begun = False

    def begin(self) -> None:
        """Something is to be written."""
        if not self._begun:
            self._begun = True
            self.connection.execute("BEGIN IMMEDIATE")

    def commit(self) -> bool:
        """Keep what was written; whether anything was."""
        if self._begun:
            self.connection.execute("COMMIT")
        return self._begun


def _is_pushed(operation: _Operation) -> bool:
    """It is something to leave that ends no delivery."""
    return isinstance(operation, _Push) and not isinstance(operation, _End)


def _too_much(connection: sqlite3.Connection, most: int) -> SpoolError | None:
    """Where very much waits to leave nothing more is pushed; answers are not refused for that."""
    [waiting] = connection.execute("SELECT coalesce(max(number) - min(number) + 1, 0) FROM departures").fetchone()
    if waiting >= most:
        return SpoolError(f"{waiting} stanzas wait for the server")
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    if (pages - free) * size > MAX_BYTES:
        return SpoolError(f"the spool holds more than {MAX_BYTES} bytes")
    return None


def _recalled(connection: sqlite3.Connection, operation: _Recall) -> Memo | None:
    query = "SELECT fingerprint, body, numbers FROM memos WHERE owner = ? AND key = ? AND expires > ?"
    row = connection.execute(query, (operation.owner, operation.key, operation.now)).fetchone()
    if row is None:
        return None
    fingerprint, body, numbers = row
    return Memo(operation.owner, operation.key, fingerprint, body, tuple(json.loads(numbers)))


def _key(transaction: _Transaction) -> bytes:
    connection = transaction.connection
    row = connection.execute("SELECT value FROM facts WHERE name = 'key'").fetchone()
    if row is not None:
        return bytes.fromhex(row[0])
    key = token_bytes(KEY_BYTES)
    transaction.begin()
    connection.execute("INSERT INTO facts (name, value) VALUES ('key', ?)", (key.hex(),))
    return key


def _page(connection: sqlite3.Connection, at: _Page, settled: Container[int]) -> list[Departure]:
    """The next ones, but for those that are still there only because they could not be deleted yet."""
    departures: list[Departure] = []
    size = 0
    for number, delivery_id, kind, stored, expires, verbatim, xml in connection.execute(_PAGE, (at.after,)):
        if number in settled:
            continue
        # The wall clock may have been set back since.
        left = min(expires - at.now, expires - stored)
        departures.append(
            Departure(
                xml=xml.decode("utf-8", "replace"),
                kind=kind,
                expires=at.seconds + left,
                stored=at.seconds - max(0.0, at.now - stored),
                verbatim=bool(verbatim),
                delivery_id=delivery_id,
                number=number,
            )
        )
        size += len(xml)
        if len(departures) == PAGE or size > PAGE_BYTES:
            break
    return departures


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
