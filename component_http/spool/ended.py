"""The log of deliveries, for another program than the gateway, which looks at it and has deliveries replayed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from component_http.contract.ended import EndedDelivery, WhichEnded
from component_http.spool import ended_rows
from component_http.spool.database import BUSY
from component_http.spool.facts import replay_argument
from component_http.spool.private import Warn, no_warning
from component_http.spool.rows import UNREADABLE, Damaged
from component_http.spool.visit import Visit, holder

LOOK_AGAIN = 0.1
"""Seconds between two looks whether a replay is over."""

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

    def replay(self, number: int, *, send: bool, pause: Callable[[float], None]) -> dict[str, Any]:
        """
        Have the gateway replay a delivery, and wait for the result.

        Args:
            number: Its number in the log.
            send: Send the stanzas that the webhook answers.
            pause: Waits so many seconds.

        Returns:
            As `component_http.contract.ended.result_as_json` makes it.
        """
        began_with = holder(self.path)
        if began_with.running is False:
            return _refused(NOBODY)
        execute = self.connection.execute
        with self.explained():
            with self.transaction():
                command = execute(
                    "INSERT INTO commands (verb, argument) VALUES ('replay', ?)", (replay_argument(number, send=send),)
                ).lastrowid
            try:
                for _ in range(round(REPLAYED_WITHIN / LOOK_AGAIN)):
                    pause(LOOK_AGAIN)
                    result = _result(execute("SELECT value FROM facts WHERE name = 'replays'").fetchone(), command)
                    if result is not None:
                        return result
                    now = holder(self.path)
                    if now.running is False or now.process != began_with.process:
                        return _refused("the gateway has stopped before the webhook answered")
                return _refused(f"the gateway has not said what came of it within {REPLAYED_WITHIN:g} s")
            finally:
                execute("DELETE FROM commands WHERE number = ?", (command,))

    def _report(self, damaged: Damaged) -> None:
        self.unreadable.append(f"row {damaged.row} of the log cannot be read: {damaged.reason}")


def _refused(reason: str) -> dict[str, Any]:
    return {"refused": reason, "sent": False, "replay": None}


def _result(row: Any, command: int | None) -> dict[str, Any] | None:
    try:
        found = None if row is None else json.loads(row[0]).get(str(command))
    except UNREADABLE:
        return None
    return found if isinstance(found, dict) else None
