"""
Dead letters, for another program than the gateway, which looks at them, drops them and has them delivered again.

Such a program does not have the gateway's lock, so a gateway may be running. It tells the gateway by rows of the table
`commands`, which the gateway reads once a second, carries out in order and deletes:

| verb | argument | meaning |
|---|---|---|
| `deliver` | an id | a delivery with this id was put into `deliveries`: it goes to the end of its conversation |
| `depart` | a number | an outbound stanza with this number was put into `departures`: it leaves behind all others |
| `drop_delivery` | an id | the delivery with this id is to be dropped |
| `drop_departure` | a number | the outbound stanza with this number is to be dropped |
| `replay` | as in `component_http.spool.facts` | POST a delivery of the log once more |
| `explain` | ids of deliveries, as JSON | say why they wait (see `component_http.spool.facts`) |
| `wake` | nothing | the webhook is back: ask it at once (see `component_http.spool.visit.wake`) |

A gateway that starts reads all of `departures`, and asks its webhook, without being told; it carries out the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from attrs import field, frozen

from component_http.contract.address import Address
from component_http.contract.delivery import DeadLetter
from component_http.contract.outbound import lifetime
from component_http.spool.database import BUSY
from component_http.spool.dead_letter_rows import NAMELESS
from component_http.spool.private import Warn, no_warning
from component_http.spool.rows import (
    UNREADABLE,
    Damaged,
    address_clause,
    count,
    lead,
    number,
    octets,
    or_none,
    set_aside,
    text,
)
from component_http.spool.visit import Visit

OUTCOMES = (
    "bounced",
    "expired",
    "refused_reply",
    "reply_expired",
    "reply_unsendable",
    "reply_refused",
    "reply_bounced",
)
"""The ends of deliveries and outbound stanzas that leave a dead letter."""

AT_ONCE = 100
"""Dead letters of one transaction at most: meanwhile the gateway cannot write."""

DELIVERY_LIFETIME = 86_400.0
"""Seconds that a retried delivery gets; the gateway makes them fewer where its own settings say so."""


@frozen(kw_only=True)
class KeptDeadLetter(DeadLetter):
    """
    A dead letter as it is kept.

    Attributes:
        id: The id of the delivery; a dead outbound stanza has an id of its own.
        kind: The kind of the stanza that was given up; `type` ("" for none) and `stanza_id` are likewise its own.
        sender: The sender of the delivery; for an outbound stanza its addressee.
        recipient: The component's side of the conversation.
        accepted: When the delivery was accepted, or the stanza was made, in seconds since the epoch.
        ended: When it was given up.
        size: Bytes of the request or of the stanza.
        body: The request; None for an outbound stanza, whose XML is `reply`.
    """

    id: str
    kind: str
    type: str
    stanza_id: str | None
    sender: str
    recipient: str
    accepted: float
    ended: float
    size: int
    body: bytes | None = field(repr=False)
    reply: bytes | None = field(repr=False)


_CHECKS: Mapping[str, Callable[[object], object]] = {
    **dict.fromkeys(("id", "outcome", "note", "kind", "type", "sender", "recipient"), text),
    **dict.fromkeys(("stanza_id", "media_type"), partial(or_none, text)),
    **dict.fromkeys(("accepted", "ended"), number),
    **dict.fromkeys(("tries", "size"), count),
    "status": partial(or_none, count),
    **dict.fromkeys(("body", "response", "reply"), partial(or_none, octets)),
}
"""The columns of a dead letter, and what a gateway writes into them."""


def _fits(check: Callable[[object], object], value: object) -> bool:
    try:
        check(value)
    except UNREADABLE:
        return False
    return True


@frozen
class Which:
    """
    A filter: the dead letters that fit all of it; what is empty or None fits any.

    Attributes:
        sender: A bare address means all of its resources, a full one only itself; `recipient` likewise.
        since: The earliest time of giving up, in seconds since the epoch; `until` is the latest.
    """

    ids: Collection[str] = ()
    outcomes: Collection[str] = ()
    kinds: Collection[str] = ()
    sender: Address | None = None
    recipient: Address | None = None
    since: float | None = None
    until: float | None = None


Moved = Mapping[str, str | None]
"""By each id the reason why it was left alone, which completes "it is not retried"; None where it was done."""


class Letters(Visit):
    """
    The dead letters of a spool's file; a context manager. Arguments and errors are those of `Visit`.

    Each call is a short transaction, so a slow reader of the results is in nobody's way.

    Attributes:
        set_aside: A sentence about each row that could not be read and was moved to the table of that name.
    """

    def __init__(
        self, path: Path, *, patience: float = BUSY, now: Callable[[], float] = time.time, warn: Warn = no_warning
    ) -> None:
        super().__init__(path, patience=patience, warn=warn)
        self._now = now
        self.set_aside: list[str] = []

    def named(self, beginning: str) -> list[str]:
        """The ids that a beginning may mean: the dead letter whose whole id it is, or else all that begin so."""
        with self.explained():
            found = self.connection.execute(
                "SELECT id FROM letters WHERE substr(id, 1, ?) = ? ORDER BY id", (len(beginning), beginning)
            ).fetchall()
        ids = [str(row[0]) for row in found]
        return [beginning] if beginning in ids else ids

    def ids(self, which: Which | None = None) -> list[str]:
        """The ids of the dead letters that fit a filter, oldest first; None for all."""
        which = which or Which()
        clauses: list[str] = []
        values: list[object] = []
        for column, wanted in (("outcome", which.outcomes), ("kind", which.kinds)):
            if wanted:
                clauses.append(f"{column} IN ({', '.join('?' * len(wanted))})")
                values += wanted
        for column, address in (("sender", which.sender), ("recipient", which.recipient)):
            if address is not None:
                clauses.append(address_clause(column, address, values))
        if which.since is not None:
            clauses.append("ended >= ?")
            values.append(which.since)
        if which.until is not None:
            clauses.append("ended <= ?")
            values.append(which.until)
        where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
        with self.explained():
            query = f"SELECT number, id FROM letters {where} ORDER BY number"
            found = self.connection.execute(query, values).fetchall()
        wanted = set(which.ids)
        ids = []
        for row, one in found:
            if not isinstance(one, str):
                self._set_aside(row, "its id is no text")
            elif not wanted or one in wanted:
                ids.append(one)
        return ids

    def read(self, ids: Sequence[str]) -> Iterator[KeptDeadLetter]:
        """Read the dead letters of these ids, in the same order, without those that are gone or cannot be read."""
        for one in ids:
            with self.explained():
                query = f"SELECT number, {', '.join(_CHECKS)} FROM letters WHERE id = ?"
                row = self.connection.execute(query, (one,)).fetchone()
            if row is None:
                continue
            columns = dict(zip(_CHECKS, row[1:], strict=True))
            wrong = [name for name, value in columns.items() if not _fits(_CHECKS[name], value)]
            if wrong:
                self._set_aside(row[0], f"wrong values of {', '.join(wrong)}")
            else:
                yield KeptDeadLetter(**columns)

    def _set_aside(self, number: int, reason: str) -> None:
        """Move a row that cannot be read out of the way, and note a sentence about it."""
        with self.transaction():
            set_aside(self.connection, Damaged("letters", number, reason), self._now())
        self.set_aside.append(f"letter {number} cannot be read, so it is moved to the table set_aside: {reason}")

    def drop(self, ids: Sequence[str]) -> Moved:
        """Delete dead letters, `AT_ONCE` at most."""
        query = "DELETE FROM letters WHERE id = ?"
        with self.transaction():
            return {one: None if self.connection.execute(query, (one,)).rowcount else "it is gone" for one in ids}

    def retry(self, ids: Sequence[str]) -> Moved:
        """Let the gateway deliver, or send, dead letters once more, `AT_ONCE` at most: all but those left alone."""
        with self.transaction():
            return {one: self._retry(one) for one in ids}

    def _retry(self, dead_id: str) -> str | None:
        """Move one back; or say why not."""
        execute = self.connection.execute
        ahead = lead(self.connection)
        row = execute("SELECT kind, type, body IS NULL, reply IS NULL FROM letters WHERE id = ?", (dead_id,)).fetchone()
        if row is None:
            return "it is gone"
        kind, stanza_type, bodiless, replyless = row
        if kind == "iq":
            return "an iq has one answer, and who asked has had it or waits no more"
        if bodiless and replyless:
            return "nothing of it was kept"
        if bodiless:
            self._send(dead_id, lifetime(kind, stanza_type))
        elif execute("SELECT 1 FROM deliveries WHERE id = ?", (dead_id,)).fetchone():
            return "it is under way already"
        else:
            execute(
                "INSERT INTO deliveries (id, kind, type, stanza_id, sender, recipient, through_room, uri, accepted,"
                " deadline, tries, attempts, size, body)"
                " SELECT id, kind, type, stanza_id, sender, recipient, through_room, uri,"
                " accepted + ?, ?, 0, 0, size, body FROM letters WHERE id = ?",
                (ahead, self._now() + ahead + DELIVERY_LIFETIME, dead_id),
            )
            execute("INSERT INTO commands (verb, argument) VALUES ('deliver', ?)", (dead_id,))
        execute("DELETE FROM letters WHERE id = ?", (dead_id,))
        return None

    def _send(self, dead_id: str, lifetime: float) -> None:
        now = self._now() + lead(self.connection)
        # The id is that of the delivery, and a number.
        delivery_id = dead_id.rpartition(".")[0] or NAMELESS
        # It is sent verbatim: nobody knows any more whether something may be added to it.
        number = self.connection.execute(
            "INSERT INTO departures (delivery_id, kind, stored, expires, verbatim, xml, suspect)"
            " SELECT ?, kind, ?, ?, 1, reply, outcome = 'reply_refused' FROM letters WHERE id = ?",
            (None if delivery_id == NAMELESS else delivery_id, now, now + lifetime, dead_id),
        ).lastrowid
        self.connection.execute("INSERT INTO commands (verb, argument) VALUES ('depart', ?)", (str(number),))
