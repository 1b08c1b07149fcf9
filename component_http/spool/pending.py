"""
Deliveries and outbound stanzas that wait, for another program than the gateway, which looks at them and drops them.

A running gateway has them in memory, too, so it is asked to drop them by rows of the table `commands` (see
`component_http.spool.dead_letters`). Where none runs they are deleted at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from attrs import evolve, field, frozen

from component_http.spool.dead_letters import AT_ONCE, Moved
from component_http.spool.facts import Answer, answer_for_others, question, read_answer
from component_http.spool.outbound_rows import head_of
from component_http.spool.rows import lead
from component_http.spool.visit import Visit, holder

NAME = re.compile(r"[dsDS][0-9]{1,18}")
"""The name of a waiting entry: `d` for a delivery or `s` for an outbound stanza, and its number."""

ANSWER_WITHIN = 2.0
"""Seconds in which a gateway answers: it looks once a second."""

LOOK_AGAIN = 0.05
"""Seconds between two looks for its answer."""


@frozen
class Waiting:
    """
    A delivery, or a stanza on its way to the server.

    Attributes:
        name: As `NAME` says.
        id: The id of the delivery, or of the one that a stanza answers; None for a stanza that answers none.
        since: The time since which it waits, in seconds since the epoch; None where that cannot be read.
        size: Bytes of the request or of the stanza.
        tries: POSTs that reached the webhook so far; None for a stanza.
        suspect: The server may have closed the stream because of this stanza.
        content: The request, or the stanza's XML.
    """

    name: str
    id: str | None
    kind: str
    type: str
    sender: str
    recipient: str
    since: float | None
    size: int
    tries: int | None
    suspect: bool
    content: bytes = field(repr=False)


class Pending(Visit):
    """The waiting entries of a spool's file; a context manager. Arguments and errors are those of `Letters`."""

    def names(self) -> list[str]:
        """The names of all entries: deliveries, then outbound stanzas, each oldest first."""
        with self.explained():
            query = "SELECT 'd' || number FROM deliveries ORDER BY number"
            deliveries = self.connection.execute(query).fetchall()
            query = "SELECT 's' || number FROM departures ORDER BY number"
            return [name for (name,) in deliveries + self.connection.execute(query).fetchall()]

    def read(self, names: Sequence[str]) -> Iterator[Waiting]:
        """Read the entries of these names, in the same order, without those that are gone."""
        for name in names:
            table, number = _place(name)
            with self.explained():
                cursor = self.connection.execute(f"SELECT * FROM {table} WHERE number = ?", (number,))
                columns = [column[0] for column in cursor.description]
                row = cursor.fetchone()
                ahead = lead(self.connection)
            if row is not None:
                values = dict(zip(columns, row, strict=True))
                one = _delivery(name, values) if table == "deliveries" else _stanza(name, values)
                yield one if one.since is None else evolve(one, since=one.since - ahead)

    def explain(self, delivery_ids: Sequence[str], pause: Callable[[float], None]) -> Answer | None:
        """
        Ask the gateway that runs why deliveries wait; None if it does not answer within `ANSWER_WITHIN`.

        Only the first `component_http.spool.facts.MOST_EXPLAINED` are asked about; `pause` waits so many seconds.
        """
        execute = self.connection.execute
        with self.explained():
            with self.transaction():
                query = "INSERT INTO commands (verb, argument) VALUES ('explain', ?)"
                number = execute(query, (question(delivery_ids),)).lastrowid
            for _ in range(round(ANSWER_WITHIN / LOOK_AGAIN)):
                pause(LOOK_AGAIN)
                row = execute("SELECT value FROM facts WHERE name = 'pending'").fetchone()
                found = None if row is None else read_answer(row[0])
                if found is not None and number in found.commands:
                    others = answer_for_others(row[0], number)
                    if others is None:
                        execute("DELETE FROM facts WHERE name = 'pending' AND value = ?", row)
                    else:
                        execute("UPDATE facts SET value = ? WHERE name = 'pending' AND value = ?", (others, *row))
                    return found
            execute("DELETE FROM commands WHERE number = ?", (number,))
        return None

    def name_of(self, delivery_id: str) -> str | None:
        with self.explained():
            row = self.connection.execute("SELECT number FROM deliveries WHERE id = ?", (delivery_id,)).fetchone()
        return None if row is None else f"d{row[0]}"

    def drop(self, names: Sequence[str]) -> Moved:
        """Drop entries, `AT_ONCE` at most; only the sender of an iq is told, who waits for its answer."""
        assert len(names) <= AT_ONCE
        runs = holder(self.path).running is not False
        with self.transaction():
            return {name: None if self._drop(*_place(name), runs) else "it is gone" for name in names}

    def _drop(self, table: str, number: int, runs: bool) -> bool:
        execute = self.connection.execute
        if not runs:
            return bool(execute(f"DELETE FROM {table} WHERE number = ?", (number,)).rowcount)
        verb, argument = ("drop_delivery", "id") if table == "deliveries" else ("drop_departure", "number")
        query = f"INSERT INTO commands (verb, argument) SELECT ?, {argument} FROM {table} WHERE number = ?"
        return bool(execute(query, (verb, number)).rowcount)


def _place(name: str) -> tuple[str, int]:
    return "deliveries" if name[0] in "dD" else "departures", int(name[1:])


def _delivery(name: str, values: dict[str, Any]) -> Waiting:
    content = _bytes(values["body"])
    return Waiting(
        name=name,
        id=str(values["id"]),
        kind=str(values["kind"]),
        type=str(values["type"]),
        sender=str(values["sender"]),
        recipient=str(values["recipient"]),
        since=_number(values["accepted"]),
        size=len(content),
        tries=values["tries"] if isinstance(values["tries"], int) else 0,
        suspect=False,
        content=content,
    )


def _stanza(name: str, values: dict[str, Any]) -> Waiting:
    content = _bytes(values["xml"])
    head, delivery_id = head_of(values["head"], content), values["delivery_id"]
    return Waiting(
        name=name,
        id=None if delivery_id is None else str(delivery_id),
        kind=str(values["kind"]),
        type=head.type or "",
        sender=head.sender,
        recipient=head.recipient,
        since=_number(values["stored"]),
        size=len(content),
        tries=None,
        suspect=bool(values["suspect"]),
        content=content,
    )


def _bytes(value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "backslashreplace")


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None
