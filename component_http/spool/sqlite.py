"""A spool on disk, which outlives the process."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from component_http.errors import ComponentHttpError, SpoolError, XmlRefused
from component_http.interfaces import Found
from component_http.spool.database import Synchronous, is_damage, is_full, opened

__all__ = [
    "GRACE",
    "MAX_BYTES",
    "MAX_DEPARTURES",
    "MAX_GROUP",
    "MAX_LETTERS_BYTES",
    "PAGE",
    "PAGE_BYTES",
    "SqliteSpool",
]

T = TypeVar("T")

MAX_GROUP = 1000
"""Operations of one transaction at most: what came first should not wait for all that came after it."""

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
"""Stanzas that wait for the server, above which nothing more is pushed."""

MAX_BYTES = 2 * 1024 * 1024 * 1024
"""Bytes in use in the file, above which nothing more is pushed: as much as all that may be pending, and once more."""

MAX_LETTERS_BYTES = 256 * 1024 * 1024
"""Bytes of requests and responses in dead letters; the oldest go beyond it, so that they leave room for what lives."""

TIDY = 3600.0
"""Seconds between two looks for dead letters that are too old."""

_DAY = 86_400.0

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
_PAGE = f"SELECT {_DEPARTURE_COLUMNS} FROM departures WHERE number > ? ORDER BY number LIMIT {PAGE}"
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
_LETTER_SIZES = (
    "SELECT number, coalesce(length(body), 0) + coalesce(length(response), 0) + coalesce(length(reply), 0)"
    " FROM letters ORDER BY number DESC"
)

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
        letter_days: Days for which a dead letter is kept.
        max_letters: Dead letters that are kept.

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
        letter_days: float = 7.0,
        max_letters: int = 10_000,
    ) -> None:
        self._path = path
        self._reactor = reactor
        self._seconds = deadlines
        self._synchronous = synchronous
        self._now = now
        self._max_bytes = max_bytes
        self._letter_days = letter_days
        self._max_letters = max_letters
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
        self._settlements: deque[tuple[int, str | None]] = deque()
        self._subscriptions: deque[tuple[tuple[str, str], bool]] = deque()  # whether the pair is to be kept
        # Of the other thread: the file; then what is still in it because SQLite failed: deliveries that have ended,
        # with what fills `_LETTER`, and departures that are confirmed or, with an outcome, have failed.
        self._connection: sqlite3.Connection | None = None
        self._overdue: dict[str, tuple[Any, ...] | None] = {}
        self._settled: dict[int, str | None] = {}
        # What is known to stand in the table of facts, and what is to be looked after in that of letters.
        self._facts: dict[str, str] = {}
        self._behind: list[str] = []
        self._letters_grew = True
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

        The beginning of a first attempt alone is no reason for a transaction: it would delay the end of the delivery.
        """
        self._notes.append((delivery.id, delivery.tries, delivery.attempts))
        if delivery.failure is not None and self._closed is None:
            self._put(_Wake())

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
        return self._ask(_Look(Deferred(), facts, self._now(), self._reactor.seconds()))

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
            return self._carry_out(group, self._take_notes(), self._take_subscriptions())
        except Exception as error:
            if is_full(error) or (isinstance(error, SpoolError) and len(group) > 1):
                # What has ended makes room, and reading needs none.
                ends: list[_Operation] = [one for one in group if isinstance(one, _End)]
                stores: list[_Operation] = [one for one in group if isinstance(one, _Store)]
                pushes: list[_Operation] = [one for one in group if isinstance(one, _Push) and one not in ends]
                rest: list[_Operation] = [one for one in group if not isinstance(one, (_Push, _Store))]
                parts = [ends, rest, stores, pushes]
            elif len(group) > 1 and not isinstance(error, (sqlite3.OperationalError, ComponentHttpError)):
                parts = [[one] for one in group]
            else:
                return self._failed(group, error)
        fired = {outcome.operation: outcome for part in parts for outcome in self._part_done(part)}
        return [fired[operation] for operation in group]

    def _part_done(self, part: Sequence[_Operation]) -> list[_Fired]:
        try:
            return self._carry_out(part, (), {})
        except Exception as error:
            return self._failed(part, error)

    def _failed(self, group: Sequence[_Operation], error: Exception) -> list[_Fired]:
        for operation in group:
            if isinstance(operation, _End):
                self._overdue[operation.delivery_id] = operation.letter
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

    def _take_subscriptions(self) -> dict[tuple[str, str], bool]:
        latest: dict[tuple[str, str], bool] = {}
        try:
            while True:
                pair, kept = self._subscriptions.popleft()
                latest[pair] = kept
        except IndexError:
            return latest

    def _carry_out(
        self,
        group: Sequence[_Operation],
        notes: Sequence[tuple[str, int, int]],
        subscriptions: Mapping[tuple[str, str], bool],
    ) -> list[_Fired]:
        """Do all of it in one transaction, or raise and have done nothing."""
        connection = self._connection
        if connection is None:
            connection = self._connection = self._open()
        # Another order than they were asked for, but the same to each delivery: stored, noted, read, ended.
        rows = [operation.row for operation in group if isinstance(operation, _Store)]
        ends = [operation for operation in group if isinstance(operation, _End)]
        letters = dict(self._overdue)
        letters.update((operation.delivery_id, operation.letter) for operation in ends)
        latest = {note[0]: note for note in notes}
        for delivery_id in letters:
            latest.pop(delivery_id, None)
        self._take_settlements()
        fired: list[_Fired] = []
        transaction = _Transaction(connection)
        try:
            if rows or letters or latest or self._settled or subscriptions:
                transaction.begin()
            _write(connection, _INSERT, rows)
            _write(connection, _NOTE, list(latest.values()))
            self._settle(connection)
            _write(connection, _SUBSCRIBE, [pair for pair, kept in subscriptions.items() if kept])
            _write(connection, _UNSUBSCRIBE, [pair for pair, kept in subscriptions.items() if not kept])
            for operation in group:
                if isinstance(operation, _Read):
                    fired.append(self._body(connection, operation))
                elif isinstance(operation, _Restore):
                    fired.append(_Fired(operation, self._restored(transaction, operation)))
                elif isinstance(operation, _Page):
                    fired.append(_Fired(operation, _page(connection, operation)))
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
            if pushes:
                transaction.begin()
                if len(pushes) > len(ends):
                    _see_room(connection)
                numbers = _depart(connection, pushes)
                fired = [_Fired(one.operation, numbers.get(one.operation, one.value), one.error) for one in fired]
            # What another program put there gets a number beyond all that the reactor's thread knows of by then.
            for number in self._behind:
                connection.execute(_BEHIND, (number,))
                connection.execute(_CONFIRM[1], (number,))
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
            raise
        self._behind.clear()
        self._letters_grew = self._letters_grew or bool(kept)
        self._overdue.clear()
        self._settled.clear()
        return fired

    def _take_settlements(self) -> None:
        try:
            while True:
                number, outcome = self._settlements.popleft()
                self._settled[number] = outcome
        except IndexError:
            return

    def _settle(self, connection: sqlite3.Connection) -> None:
        """Delete the departures that are over, and keep what has failed as a dead letter."""
        for number, outcome in self._settled.items():
            if outcome is not None:
                self._letters_grew = True
                self._keep_departure(connection, number, outcome)
        _write(connection, _CONFIRM, [(number,) for number in self._settled])

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
        if not self._letters_grew:
            return
        self._letters_grew = False
        size = 0
        for count, (number, length) in enumerate(connection.execute(_LETTER_SIZES).fetchall(), 1):
            size += length
            if count > self._max_letters or size > MAX_LETTERS_BYTES:
                transaction.begin()
                connection.execute("DELETE FROM letters WHERE number <= ?", (number,))
                break

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


def _see_room(connection: sqlite3.Connection) -> None:
    """Where very much waits to leave nothing more is pushed; answers are not refused for that."""
    [waiting] = connection.execute("SELECT coalesce(max(number) - min(number) + 1, 0) FROM departures").fetchone()
    if waiting > MAX_DEPARTURES:
        raise SpoolError(f"more than {MAX_DEPARTURES} stanzas wait for the server")
    pages, free, size = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
    )
    if (pages - free) * size > MAX_BYTES:
        raise SpoolError(f"the spool holds more than {MAX_BYTES} bytes")


def _recalled(connection: sqlite3.Connection, operation: _Recall) -> Memo | None:
    query = "SELECT fingerprint, body, numbers FROM memos WHERE owner = ? AND key = ? AND expires > ?"
    row = connection.execute(query, (operation.owner, operation.key, operation.now)).fetchone()
    if row is None:
        return None
    fingerprint, body, numbers = row
    return Memo(operation.owner, operation.key, fingerprint, body, tuple(json.loads(numbers)))


def _remember(connection: sqlite3.Connection, memo: Memo, numbers: Sequence[int], now: float) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO memos (owner, key, fingerprint, body, numbers, expires) VALUES (?, ?, ?, ?, ?, ?)",
        (memo.owner, memo.key, memo.fingerprint, memo.body, json.dumps([*numbers]), now + LIFETIME),
    )


def _key(transaction: _Transaction) -> bytes:
    connection = transaction.connection
    row = connection.execute("SELECT value FROM facts WHERE name = 'key'").fetchone()
    if row is not None:
        return bytes.fromhex(row[0])
    key = token_bytes(KEY_BYTES)
    transaction.begin()
    connection.execute("INSERT INTO facts (name, value) VALUES ('key', ?)", (key.hex(),))
    return key


def _depart(connection: sqlite3.Connection, pushes: Iterable[_Push]) -> dict[_Operation, Sequence[int]]:
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
            _remember(connection, push.memo, numbers[push], push.now)
    _write(connection, _DEPART, rows)
    return numbers


def _page(connection: sqlite3.Connection, at: _Page) -> list[Departure]:
    """The next ones; the first is never too large."""
    departures: list[Departure] = []
    size = 0
    for number, delivery_id, kind, stored, expires, verbatim, xml in connection.execute(_PAGE, (at.after,)):
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
        if size > PAGE_BYTES:
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
