"""A spool's file while the spool's thread has it open: each group of orders is one transaction on it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from secrets import token_bytes

from attrs import define, evolve, frozen

from component_http.contract.delivery import DeadLetter, Delivery
from component_http.contract.idempotency import IdempotencyRecord
from component_http.contract.link import KEY_BYTES
from component_http.contract.outbound import OutboundStanza
from component_http.interfaces import Found
from component_http.spool import dead_letter_rows, delivery_rows, other_rows, outbound_rows
from component_http.spool.arrears import Arrears, Dead
from component_http.spool.database import Synchronous
from component_http.spool.delivery_rows import Allowance
from component_http.spool.emergency import Emergency
from component_http.spool.orders import Call, End, Order, Push, Result, Store
from component_http.spool.rows import LEAD, Damaged, lead, set_aside
from component_http.spool.shelf import Shelf
from component_http.spool.spool_clock import SpoolClock
from component_http.spool.transaction import Patience, Transaction, whole

__all__ = ["CLOCK_SET", "TIDY", "Session", "Setup"]

_DAY = 86_400.0

TIDY = 3600.0
"""Seconds between two searches for dead letters and idempotency records that are too old."""

CLOCK_SET = 1.0
"""Seconds by which the wall clock must be off to count as set; clocks are adjusted by less all the time."""


@frozen
class Setup:
    """
    The file, how it is used, and the state that outlives a session.

    Attributes:
        path: The file.
        synchronous: As in `database.opened`.
        seconds: The reactor's clock.
        wall: The wall clock.
        allowance: The time that a restored delivery may have.
        letter_days: Days for which a dead letter is kept.
        dead_letters: The dead letters, so many at most.
        records: The idempotency records, so many at most.
        max_outbound: As `outbound_rows.MAX_OUTBOUND`.
        arrears: Everything that is still to be written.
        emergency: Whether the disk is full.
        patience: How long another program that writes is waited for.
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


@define
class _Restoring:
    """A restore that has begun: the number of the last delivery that was read, and of the last that was there."""

    read: int
    last: int


class Session:
    """
    A spool's file that is open, and what is known of it meanwhile.

    Args:
        connection: To the file, as `database.opened` gives it.
        setup: As `Setup`.
        report: Told of rows to set aside.
        log_damaged: Told of a row that was set aside at once.

    Attributes:
        connection: The connection.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        setup: Setup,
        *,
        report: Callable[[Damaged], None],
        log_damaged: Callable[[Damaged], None],
    ) -> None:
        self.connection = connection
        self._setup = setup
        self._report = report
        self._log_damaged = log_damaged
        self._clock = SpoolClock(setup.seconds, setup.wall, lead(connection))
        self._facts: dict[str, str] = {}
        # Numbers of outbound stanzas that this transaction gives numbers beyond all others.
        self._behind: list[str] = []
        self._tidied = float("-inf")
        self._restoring: _Restoring | None = None
        setup.dead_letters.look_again()
        setup.records.look_again()

    def close(self) -> None:
        """Empty the log into the file, and close it."""
        try:
            with suppress(sqlite3.Error):  # the log keeps the rest, and is read when the file is opened again
                self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self.connection.close()

    def carry_out(self, group: Sequence[Order], arrears: int) -> tuple[list[Result], bool]:
        """
        Do all of a group in one transaction, or raise and have done nothing.

        Orders are not carried out in the order of asking, but for each delivery it is the same: stored, tried, read,
        ended.

        Args:
            group: The orders.
            arrears: So much of each sort of the arrears is written with them at most.

        Returns:
            The results, in the order of the group, and whether anything was written.
        """
        part = self._setup.arrears.part(arrears)
        stored = [order.row for order in group if isinstance(order, Store)]
        ends = [order for order in group if isinstance(order, End)]
        ended = part.overdue | {order.delivery_id: (order.dead_letter, order.now) for order in ends}
        dead_letters = {name: (dead, now) for name, (dead, now) in ended.items() if dead is not None}
        tried = [each for each in part.tried if each[0] not in ended]
        if self._setup.emergency.going_on:
            self._check_room(ends, dead_letters)
        connection = self.connection
        transaction = Transaction(connection, self._setup.patience)
        self._behind.clear()
        try:
            with whole(connection):
                if stored or ended or tried or part.settled or part.suspected or part.damaged or part.subscribed:
                    transaction.begin()
                delivery_rows.add(connection, stored, self._clock.ahead)
                delivery_rows.note_tries(connection, tried)
                self._settle(part.settled)
                outbound_rows.set_suspect(connection, part.suspected)
                for row in part.damaged:
                    set_aside(connection, row, self._clock.wall())
                other_rows.set_subscribers(connection, part.subscribed)
                results = {
                    order: Result(order, order.method(self, transaction, *order.arguments))
                    if isinstance(order, Call)
                    else Result(order)
                    for order in group
                }
                results.update(self._push(transaction, group))
                # These get numbers beyond all that the reactor's thread knows of by then.
                for number in self._behind:
                    outbound_rows.move_to_the_end(connection, number)
                dead_letter_rows.keep_deliveries(connection, dead_letters, self._clock.lead())
                delivery_rows.remove(connection, ended)
        except BaseException:
            self._facts.clear()
            self._setup.dead_letters.look_again()
            self._setup.records.look_again()
            raise
        for _ in dead_letters:
            self._setup.dead_letters.grew()
        if transaction.begun:
            self._setup.patience.ended_well()
        self._setup.arrears.written(part, ended)
        return list(results.values()), transaction.begun

    def _check_room(self, ends: Sequence[End], dead_letters: Mapping[str, tuple[DeadLetter, float]]) -> None:
        """Refuse to end deliveries on a full disk where there is no room for what is kept of them."""
        growth = sum(order.size for order in ends)
        growth += sum(len(dead.response or b"") for dead, _ in dead_letters.values())
        if dead_letters:
            growth += delivery_rows.size_of(self.connection, dead_letters.keys())
        self._setup.emergency.check(self.connection, growth)

    def _push(self, transaction: Transaction, group: Sequence[Order]) -> dict[Order, Result]:
        """Insert the outbound stanzas of a group, in order, with their records."""
        pushes = [order for order in group if isinstance(order, Push)]
        results: dict[Order, Result] = {}
        if any(push.is_new for push in pushes):
            refusal = outbound_rows.refusal(self.connection, self._setup.max_outbound)
            if refusal is not None:
                results = {push: Result(push, error=refusal) for push in pushes if push.is_new}
                pushes = [push for push in pushes if push not in results]
            else:
                transaction.begin()
        number = outbound_rows.add(self.connection, [row for push in pushes for row in push.rows], self._clock.ahead)
        for push in pushes:
            numbers = range(number, number + len(push.rows))
            number = numbers.stop
            if push.record is not None:
                now = self._clock.moment(push.seconds).now
                self._setup.records.grew(other_rows.remember(self.connection, push.record, numbers, now))
            results[push] = Result(push, numbers)
        return results

    def _settle(self, settled: Mapping[int, Dead | None]) -> None:
        """Delete outbound stanzas, and keep the dead letters of those that have one."""
        for number, dead in settled.items():
            if dead is not None:
                dead_letter_rows.keep_outbound(self.connection, number, dead, self._clock)
                self._setup.dead_letters.grew()
        outbound_rows.remove(self.connection, settled)

    # -- calls --

    def wake(self, _: Transaction) -> None:
        """Do nothing: the order is there for the notes that are written with it."""

    def begun(self, transaction: Transaction, delivery_id: str, tries: int, attempts: int) -> None:
        """Write how often a delivery was tried."""
        transaction.begin()
        delivery_rows.note_tries(self.connection, [(delivery_id, tries, attempts)])

    def body(self, _: Transaction, delivery_id: str) -> bytes | None:
        """Read a request body, if there is such a delivery."""
        return delivery_rows.body(self.connection, delivery_id)

    def amend(self, transaction: Transaction, delivery_id: str, body: bytes) -> None:
        """Replace a request body."""
        transaction.begin()
        delivery_rows.amend(self.connection, delivery_id, body)

    def recall(self, _: Transaction, owner: str, key: str, seconds: float) -> IdempotencyRecord | None:
        """Read an idempotency record."""
        return other_rows.recall(self.connection, owner, key, self._clock.moment(seconds).now, self._report)

    def subscribers(self, _: Transaction) -> list[tuple[str, str]]:
        """Read the subscribers."""
        return other_rows.subscribers(self.connection, self._report)

    def still_kept(self, _: Transaction, numbers: Sequence[int]) -> set[int]:
        """Say which outbound stanzas are still kept."""
        return outbound_rows.still_kept(self.connection, numbers, self._setup.arrears.settled)

    def page(self, _: Transaction, after: int, seconds: float) -> list[OutboundStanza]:
        """Read the next outbound stanzas."""
        arrears, at = self._setup.arrears, self._clock.moment(seconds)
        return outbound_rows.page(self.connection, after, at, arrears.settled, arrears.suspected, self._report)

    def look(self, transaction: Transaction, facts: Mapping[str, str], room: int, seconds: float, wall: float) -> Found:
        """Carry out the commands of other programs, write the facts that changed, and delete old rows."""
        at = self._clock.moment(seconds)
        found = Found()
        outbound_stanzas = wake = False
        for number, verb, value in other_rows.commands(self.connection, room):
            argument = str(value)
            transaction.begin()
            if verb == "deliver":
                delivery = delivery_rows.one(self.connection, argument, at, self._setup.allowance, self._report)
                if delivery is not None:
                    found.deliveries.append(delivery)
            elif verb == "depart":
                outbound_stanzas = True
                self._behind.append(argument)
            elif verb == "drop_delivery":
                found.dropped_deliveries.append(argument)
            elif verb == "drop_departure" and argument.isdecimal():
                found.dropped_outbound.append(int(argument))
                outbound_rows.remove(self.connection, [int(argument)])
            elif verb == "wake":
                wake = True
            elif verb == "explain":
                found.questions.append((number, argument))
            self.connection.execute("DELETE FROM commands WHERE number = ?", (number,))
        self._write_facts(transaction, facts, at.now - wall)
        self._tidy(transaction, at.now, wall)
        return evolve(found, outbound_stanzas=outbound_stanzas, wake=wake)

    def _write_facts(self, transaction: Transaction, facts: Mapping[str, str], ahead: float) -> None:
        changed = {name: value for name, value in facts.items() if self._facts.get(name) != value}
        if abs(ahead - float(self._facts.get(LEAD, self._clock.written_lead))) > CLOCK_SET:
            changed[LEAD] = f"{ahead:.3f}"
        if changed:
            transaction.begin()
            query = "INSERT OR REPLACE INTO facts (name, value) VALUES (?, ?)"
            self.connection.executemany(query, list(changed.items()))
            self._facts.update(changed)

    def _tidy(self, transaction: Transaction, now: float, wall: float) -> None:
        """Delete rows that are too old or too many; `now` is the spool's clock."""
        if not 0 <= now - self._tidied < TIDY:
            self._tidied = now
            oldest = wall - self._setup.letter_days * _DAY
            for table, too_old, limit in ("memos", "expires <= ?", now), ("letters", "ended < ?", oldest):
                if self.connection.execute(f"SELECT 1 FROM {table} WHERE {too_old} LIMIT 1", (limit,)).fetchone():
                    transaction.begin()
                    self.connection.execute(f"DELETE FROM {table} WHERE {too_old}", (limit,))
        self._setup.dead_letters.trim(self.connection, transaction.begin)
        self._setup.records.trim(self.connection, transaction.begin)

    def restore(self, transaction: Transaction, seconds: float) -> list[Delivery]:
        """Read the next of the deliveries that were in the file at the first call; empty if there are no more."""
        at, restoring = self._clock.moment(seconds), self._restoring
        if restoring is None:
            [[last]] = self.connection.execute("SELECT coalesce(max(number), 0) FROM deliveries").fetchall()
            if self.connection.execute("SELECT 1 FROM commands WHERE verb IN ('depart', 'wake') LIMIT 1").fetchone():
                # At the start all outbound stanzas are read, and the webhook is asked, without being told.
                transaction.begin()
                self.connection.execute("DELETE FROM commands WHERE verb IN ('depart', 'wake')")
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

    def key(self, transaction: Transaction) -> bytes:
        """Read the key that nobody else knows; the first time it is made."""
        damaged: list[Damaged] = []
        key = other_rows.key(self.connection, damaged.append)
        if key is None:
            key = token_bytes(KEY_BYTES)
            transaction.begin()
            for row in damaged:
                # At once and not with the arrears: the new key may get its rowid.
                set_aside(self.connection, row, self._clock.wall())
                self._log_damaged(row)
            other_rows.set_key(self.connection, key)
        return key
