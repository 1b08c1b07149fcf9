"""The log of deliveries, for another program than the gateway, which looks at it and has deliveries replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from component_http.contract.ended import EndedDelivery, ReplayResult, WhichEnded
from component_http.spool import ended_rows
from component_http.spool.database import BUSY
from component_http.spool.facts import read_replay_result, replay_argument
from component_http.spool.private import Warn, no_warning
from component_http.spool.rows import Damaged
from component_http.spool.visit import Holder, Visit, holder

LOOK_AGAIN = 0.1
"""Seconds between two looks whether a replay is over."""

AT_ONCE = 20
"""Replays that are asked for together; the gateway tells the last `caretaker.RESULTS`."""

REPLAYED_WITHIN = 900.0
"""Seconds for which the gateway may take for a replay: its turn behind others, and the time of one POST."""

NOBODY = "no gateway has this spool now, so nobody can replay it: start it first"


class Ended(Visit):
    """
    The log of deliveries in a spool's file; a context manager. Arguments and errors are those of `Visit`.

    It is read by pages, each in a transaction of its own, so a slow reader of the results is in nobody's way.

    Attributes:
        unreadable: A sentence about each row that cannot be read.
    """

    def __init__(self, path: Path, *, patience: float = BUSY, warn: Warn = no_warning) -> None:
        super().__init__(path, patience=patience, warn=warn)
        self.unreadable: list[str] = []

    def read(self, which: WhichEnded, *, newest: int = 0, after: int | None = None) -> Iterator[EndedDelivery]:
        """
        Read the deliveries that fit a filter, oldest first, without the fates of their stanzas.

        Args:
            newest: Only the newest of them, so many; 0 for all.
            after: Only those with a larger number instead.
        """
        if after is None:
            after = self.start_of_newest(which, newest) if newest else 0
        last: int | None = after
        while last is not None:
            with self.explained():
                page, last = ended_rows.page(self.connection, which, self._report, last)
            yield from page

    def start_of_newest(self, which: WhichEnded, newest: int) -> int:
        """Find the number behind which the newest deliveries are that fit a filter, so many at most."""
        with self.explained():
            return ended_rows.start_of_newest(self.connection, which, newest)

    def last_number(self) -> int:
        """The number of the newest delivery in the log; 0 where there is none."""
        with self.explained():
            [number] = self.connection.execute("SELECT coalesce(max(number), 0) FROM ended").fetchone()
        return int(number)

    def one(self, number: int) -> EndedDelivery | None:
        """Read a delivery by its number, with the fates of its stanzas; None if it is gone, or cannot be read."""
        with self.explained():
            return ended_rows.one(self.connection, number, self._report)

    def body(self, number: int) -> bytes | None:
        """Read the request body of a delivery; None if it was not kept."""
        with self.explained():
            return ended_rows.body(self.connection, number)

    def replay(
        self, numbers: Sequence[int], *, send: bool, pause: Callable[[float], None]
    ) -> Iterator[tuple[int, ReplayResult]]:
        """
        Have the gateway replay deliveries, one after the other, and wait for each result.

        Args:
            numbers: Their numbers in the log.
            send: Send the stanzas that the webhook answers.
            pause: Waits so many seconds.

        Returns:
            Each number with what came of it, as soon as that is known.
        """
        for begin in range(0, len(numbers), AT_ONCE):
            some, process = numbers[begin : begin + AT_ONCE], holder(self.path)
            if process.running is False:
                for number in numbers[begin:]:
                    yield number, ReplayResult(NOBODY)
                return
            execute, query = self.connection.execute, "INSERT INTO commands (verb, argument) VALUES ('replay', ?)"
            with self.transaction():
                commands = [execute(query, (replay_argument(number, send=send),)).lastrowid or 0 for number in some]
            try:
                for number, command in zip(some, commands, strict=True):
                    yield number, self._waited(command, process, pause)
            finally:
                # Those that the gateway has not taken, because nobody waits for them any more.
                with self.transaction():
                    execute("DELETE FROM commands WHERE number BETWEEN ? AND ?", (commands[0], commands[-1]))

    def _waited(self, command: int, process: Holder, pause: Callable[[float], None]) -> ReplayResult:
        for _ in range(round(REPLAYED_WITHIN / LOOK_AGAIN)):
            result = self._result(command)
            if result is not None:
                return result
            now = holder(self.path)
            if now.running is False or now.process != process.process:
                return ReplayResult("the gateway has stopped before the webhook answered")
            pause(LOOK_AGAIN)
        return ReplayResult(f"the gateway has not said what came of it within {REPLAYED_WITHIN:g} s")

    def _result(self, command: int) -> ReplayResult | None:
        with self.explained():
            row = self.connection.execute("SELECT value FROM facts WHERE name = 'replays'").fetchone()
        found = None if row is None else read_replay_result(row[0], command)
        if found is None:
            return None
        number, refused, sent = found
        replay = None if number is None else self.one(number)
        if replay is None and refused is None:
            refused = "it was POSTed, but is not in the log any more"
        return ReplayResult(refused, replay, sent)

    def _report(self, damaged: Damaged) -> None:
        self.unreadable.append(f"row {damaged.row} of the log cannot be read: {damaged.reason}")
