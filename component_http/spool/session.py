"""A spool's file while the spool's thread has it open: each group of orders is one transaction on it."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_bytes

from attrs import define, evolve, frozen

from component_http.contract.delivery import DeadLetter, Delivery
from component_http.contract.ended import EndedDelivery, WhichEnded
from component_http.contract.idempotency import IdempotencyRecord
from component_http.contract.link import KEY_BYTES
from component_http.contract.outbound import OutboundStanza
from component_http.errors import SpoolError
from component_http.interfaces import Found
from component_http.spool import dead_letter_rows, delivery_rows, ended_rows, other_rows, outbound_rows
from component_http.spool.database import Synchronous
from component_http.spool.delivery_rows import Allowance
from component_http.spool.emergency import Emergency
from component_http.spool.ended_rows import Log
from component_http.spool.orders import Arrears, Call, Dead, End, Order, Push, Store
from component_http.spool.rows import LEAD, Damaged, SpoolClock, lead, set_aside
from component_http.spool.shelf import Shelf
from component_http.spool.transaction import Patience, whole

_DAY = 86_400.0

_NUMBER = re.compile("[0-9]{1,18}")
"""A number of a row, as another program writes it: SQLite has no larger ones than those of 64 bits."""

TIDY = 3600.0
"""Seconds between two searches for dead letters and idempotency records that are too old."""

COUNT_AGAIN = 1.0
"""Seconds after which outbound stanzas are counted again while there may be too many: that reads the whole table."""

CLOCK_SET = 1.0
"""Seconds by which the wall clock must be off to count as set; clocks are adjusted by less all the time."""


@frozen
class Setup:
    """
    The file, how it is used, and the state that outlives a session.

    Attributes:
        seconds: The reactor's clock.
        wall: The wall clock.
        dead_letters: The table of dead letters, which is kept within limits; `records` is that of idempotency records.
        max_outbound: As `outbound_rows.MAX_OUTBOUND`.
        log: The log of deliveries.
    """

    path: Path
    synchronous: Synchronous
    seconds: Callable[[], float]
    wall: Callable[[], float]
    allowance: Allowance
    letter_days: float
    dead_letters: Shelf
    records: Shelf
    max_outbound: int
    arrears: Arrears
    emergency: Emergency
    patience: Patience
    log: Log


@define
class _Restoring:
    """A restore that has begun: the number of the last delivery that was read, and of the last that was there."""

    read: int
    last: int


class Session:
    """A spool's file that is open, as `database.opened` gives it, and what is known of it meanwhile."""

    def __init__(self, connection: sqlite3.Connection, setup: Setup) -> None:
        self.connection = connection
        self._setup = setup
        self._clock = SpoolClock(setup.seconds, setup.wall, lead(connection))
        self._facts: dict[str, str] = {}
        # Numbers of outbound stanzas that this transaction gives numbers beyond all others.
        self._behind: list[str] = []
        self._tidied = float("-inf")
        # The outbound stanzas of each component, and when they were counted.
        self._waiting: tuple[float, Counter[str]] = float("-inf"), Counter()
        self._restoring: _Restoring | None = None
        setup.dead_letters.look_again()
        setup.records.look_again()
        setup.log.look_again()

    def close(self) -> None:
        """Empty the log into the file, and close it."""
        try:
            with suppress(sqlite3.Error):  # the log keeps the rest, and is read when the file is opened again
                self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self.connection.close()

    def carry_out(self, group: Sequence[Order], arrears: int) -> bool:
        """
        Do all of a group in one transaction, and give each order its value or its error; or raise, and have done
        nothing.

        Orders are not carried out in the order of asking, but for each delivery it is the same: stored, tried, read,
        ended.

        Args:
            arrears: So much of each sort of the arrears is written with them at most.

        Returns:
            Whether anything was written.
        """
        part = self._setup.arrears.part(arrears)
        stored = [order.row for order in group if isinstance(order, Store)]
        pushes = [order for order in group if isinstance(order, Push)]
        ends = [order for order in pushes if isinstance(order, End)]
        ended = part.overdue | {order.delivery_id: (order.dead_letter, order.now) for order in ends}
        dead_letters = {name: (dead, now) for name, (dead, now) in ended.items() if dead is not None}
        tried = [(name, *tries) for name, tries in part.tried.items() if name not in ended]
        if self._setup.emergency.going_on:
            self._check_room(ends, dead_letters)
        connection = self.connection
        self._behind.clear()
        try:
            with whole(connection):
                if stored or ended or any(part.sorts()):
                    self._begin()
                delivery_rows.add(connection, stored, self._clock.ahead)
                delivery_rows.note_tries(connection, tried)
                self._settle(part.settled)
                outbound_rows.set_suspect(connection, part.suspected)
                for row in part.damaged.values():
                    set_aside(connection, row, self._clock.wall())
                other_rows.set_subscribers(connection, part.subscribed)
                for order in group:
                    if isinstance(order, Call):
                        order.value = order.method(self, *order.arguments)
                if pushes:
                    self._push(pushes)
                # These get numbers beyond all that the reactor's thread knows of by then.
                for number in self._behind:
                    outbound_rows.move_to_the_end(connection, number)
                dead_letter_rows.keep_deliveries(connection, dead_letters, self._clock.lead())
                self._write_log(ends, part.fates)
                delivery_rows.remove(connection, ended)
                wrote = connection.in_transaction
        except BaseException:
            self._facts.clear()
            self._setup.dead_letters.look_again()
            self._setup.records.look_again()
            self._setup.log.look_again()
            raise
        for _ in dead_letters:
            self._setup.dead_letters.grew()
        self._setup.arrears.written(part, ended)
        return wrote

    def _check_room(self, ends: Sequence[End], dead_letters: Mapping[str, tuple[DeadLetter, float]]) -> None:
        """Refuse to end deliveries on a full disk where there is no room for what is kept of them."""
        # The log gives way, so it needs none.
        growth = sum(order.size - (0 if order.life is None else order.life.size) for order in ends)
        growth += sum(len(dead.response or b"") for dead, _ in dead_letters.values())
        if dead_letters:
            growth += delivery_rows.size_of(self.connection, dead_letters.keys())
        self._setup.emergency.check(self.connection, growth)

    def _write_log(self, ends: Sequence[End], fates: Mapping[int, tuple[float, str, str | None]]) -> None:
        lives = [(order, order.life) for order in ends if order.life is not None]
        if not lives and not fates:
            return
        if self._setup.emergency.going_on:
            self._setup.emergency.log_gives_way(len(lives))
            return
        ended_rows.add_fates(self.connection, fates)
        rows = []
        for order, life in lives:
            numbers = order.value if isinstance(order.value, range) else range(0)
            about = (life.note, life.attempts, life.stanzas, life.size)
            rows.append((order.delivery_id, life.outcome, order.now, life.tries, numbers.start, *about))
        self._setup.log.add(self.connection, rows, self._clock.lead())

    def _push(self, pushes: Sequence[Push]) -> None:
        """Insert the outbound stanzas of a group, in order, with their records."""
        if any(push.is_new for push in pushes):
            for push in pushes:
                push.error = self._refusal(push) if push.is_new else None
            pushes = [push for push in pushes if push.error is None]
            if any(push.is_new for push in pushes):
                self._begin()
        number = outbound_rows.add(self.connection, [row for push in pushes for row in push.rows], self._clock.ahead)
        for push in pushes:
            numbers = range(number, number + len(push.rows))
            number = numbers.stop
            if push.record is not None:
                now = self._clock.moment(push.seconds).now
                self._setup.records.grew(other_rows.remember(self.connection, push.record, numbers, now))
            push.value = numbers

    def _refusal(self, push: Push) -> SpoolError | None:
        """The error of a push for which there is no room; None if there is."""
        most = self._setup.max_outbound
        if not outbound_rows.may_be_full(self.connection, most):
            return outbound_rows.too_large(self.connection)
        counted, counts = self._waiting
        if not 0 <= push.seconds - counted < COUNT_AGAIN:
            counts = outbound_rows.waiting(self.connection)
            self._waiting = push.seconds, counts
        domain = push.rows[0][outbound_rows.DOMAIN] if push.rows else ""
        return outbound_rows.refusal(counts, domain, most) or outbound_rows.too_large(self.connection)

    def _settle(self, settled: Mapping[int, Dead | None]) -> None:
        """Delete outbound stanzas, and keep their dead letters."""
        for number, dead in settled.items():
            if dead is not None:
                dead_letter_rows.keep_outbound(self.connection, number, dead, self._clock)
                self._setup.dead_letters.grew()
        outbound_rows.remove(self.connection, settled)

    def _begin(self) -> None:
        self._setup.patience.begin(self.connection)

    def _report(self, damaged: Damaged) -> None:
        """Set a row aside with the next transaction, at the latest with that of `look`."""
        if self._setup.arrears.report(damaged):
            self._setup.emergency.tell_of(damaged)

    # -- calls --

    def wake(self) -> None:
        """Do nothing: the order is there for the notes that are written with it."""

    def begun(self, delivery_id: str, tries: int, attempts: int) -> None:
        self._begin()
        delivery_rows.note_tries(self.connection, [(delivery_id, tries, attempts)])

    def body(self, delivery_id: str) -> bytes | None:
        return delivery_rows.body(self.connection, delivery_id)

    def amend(self, delivery_id: str, body: bytes) -> None:
        self._begin()
        delivery_rows.amend(self.connection, delivery_id, body)

    def recall(self, owner: str, key: str, seconds: float) -> IdempotencyRecord | None:
        return other_rows.recall(self.connection, owner, key, self._clock.moment(seconds).now, self._report)

    def subscribers(self) -> list[tuple[str, str]]:
        return other_rows.subscribers(self.connection, self._report)

    def still_kept(self, numbers: Sequence[int]) -> set[int]:
        return outbound_rows.still_kept(self.connection, numbers, self._setup.arrears.rest.settled)

    def foreign(self, domains: Sequence[str]) -> list[tuple[int, str]]:
        return outbound_rows.foreign(self.connection, domains)

    def page(self, after: int, domain: str | None, seconds: float) -> list[OutboundStanza]:
        rest, at = self._setup.arrears.rest, self._clock.moment(seconds)
        return outbound_rows.page(self.connection, after, domain, at, rest.settled, rest.suspected, self._report)

    def look(self, facts: Mapping[str, str], room: int, seconds: float, wall: float) -> Found:
        """Carry out the commands of other programs, write the facts that changed, and delete old rows."""
        at = self._clock.moment(seconds)
        found = Found()
        outbound_stanzas = wake = False
        for number, verb, value in other_rows.commands(self.connection, room):
            argument = str(value)
            self._begin()
            if verb == "deliver":
                delivery = delivery_rows.one(self.connection, argument, at, self._setup.allowance, self._report)
                if delivery is not None:
                    found.deliveries.append(delivery)
            elif verb == "depart":
                outbound_stanzas = True
                self._behind.append(argument)
            elif verb == "drop_delivery":
                found.dropped_deliveries.append(argument)
            elif verb == "drop_departure" and _NUMBER.fullmatch(argument):
                found.dropped_outbound.append(int(argument))
                outbound_rows.remove(self.connection, [int(argument)])
            elif verb == "wake":
                wake = True
            elif verb == "explain":
                found.questions.append((number, argument))
            elif verb == "replay":
                found.replays.append((number, argument))
            self.connection.execute("DELETE FROM commands WHERE number = ?", (number,))
        self._write_facts(facts, at.now - wall)
        self._tidy(at.now, wall)
        return evolve(found, outbound_stanzas=outbound_stanzas, wake=wake)

    def _write_facts(self, facts: Mapping[str, str], ahead: float) -> None:
        changed = {name: value for name, value in facts.items() if self._facts.get(name) != value}
        if abs(ahead - float(self._facts.get(LEAD, self._clock.written_lead))) > CLOCK_SET:
            changed[LEAD] = f"{ahead:.3f}"
        if changed:
            self._begin()
            query = "INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)"
            self.connection.executemany(query, list(changed.items()))
            self._facts.update(changed)

    def _tidy(self, now: float, wall: float) -> None:
        """Delete rows that are too old or too many; `now` is the spool's clock."""
        if not 0 <= now - self._tidied < TIDY:
            self._tidied = now
            oldest = wall - self._setup.letter_days * _DAY
            for table, too_old, limit in ("memos", "expires <= ?", now), ("letters", "ended < ?", oldest):
                if self.connection.execute(f"SELECT 1 FROM {table} WHERE {too_old} LIMIT 1", (limit,)).fetchone():
                    self._begin()
                    self.connection.execute(f"DELETE FROM {table} WHERE {too_old}", (limit,))
        self._setup.dead_letters.trim(self.connection, self._begin)
        self._setup.records.trim(self.connection, self._begin)
        self._setup.log.prune(self.connection, self._begin, wall)

    def ended(self, which: WhichEnded, before: int | None, limit: int) -> tuple[list[EndedDelivery], int | None]:
        return ended_rows.newest(self.connection, which, self._report, before, limit)

    def ended_one(self, number: int) -> EndedDelivery | None:
        return ended_rows.one(self.connection, number, self._report)

    def ended_body(self, number: int) -> bytes | None:
        return ended_rows.body(self.connection, number)

    def record_replay(self, replay: EndedDelivery, attempts: str, stanzas: str) -> int:
        self._begin()
        self._setup.log.look_again()
        return ended_rows.add_replay(self.connection, replay, attempts, stanzas)

    def restore(self, seconds: float) -> list[Delivery]:
        """Read the next of the deliveries that were in the file at the first call; empty if there are no more."""
        at, restoring = self._clock.moment(seconds), self._restoring
        if restoring is None:
            [[last]] = self.connection.execute("SELECT coalesce(max(number), 0) FROM deliveries").fetchall()
            if self.connection.execute(
                "SELECT 1 FROM commands WHERE verb IN ('depart', 'wake', 'replay') LIMIT 1"
            ).fetchone():
                # At the start all outbound stanzas are read, and the webhook is asked, without being told. Nobody waits
                # for a replay any more.
                self._begin()
                self.connection.execute("DELETE FROM commands WHERE verb IN ('depart', 'wake', 'replay')")
            restoring = self._restoring = _Restoring(0, last)
        while restoring.read < restoring.last:
            deliveries, read = delivery_rows.pending(
                self.connection, restoring.read, restoring.last, at, self._setup.allowance, self._report
            )
            restoring.read = restoring.last if read is None else read
            if deliveries:
                return deliveries
        self._restoring = None
        return []

    def key(self) -> bytes:
        """Read the key that nobody else knows; the first time it is made."""
        damaged: list[Damaged] = []
        key = other_rows.key(self.connection, damaged.append)
        if key is None:
            key = token_bytes(KEY_BYTES)
            self._begin()
            for row in damaged:
                # At once and not with the arrears: the new key may get its rowid.
                set_aside(self.connection, row, self._clock.wall())
                self._setup.emergency.tell_of(row)
            other_rows.set_key(self.connection, key)
        return key
