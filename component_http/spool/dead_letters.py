"""
Dead letters: looked at, dropped and delivered again by another program than the gateway.

Such a program has not the gateway's lock, so a gateway may be running. What it should know is told by rows of the table
`commands`, which it reads once a second, carries out in order and deletes:

| verb | argument | what it means |
|---|---|---|
| `deliver` | an id | a delivery of this id was put into `deliveries`: it goes to the end of its conversation |
| `depart` | a number | a departure of this number was put into `departures`: it leaves behind all others |
| `drop_delivery` | an id | the delivery of this id is to be dropped |
| `drop_departure` | a number | so is the departure of this number |
| `explain` | ids of deliveries, as JSON | the gateway says why they wait (see `component_http.spool.facts`) |
| `wake` | nothing | the webhook is back: it is asked at once (see `component_http.spool.visit.wake`) |

A gateway that starts finds departures in their table and needs no `depart`, and it asks the webhook without `wake`; the
others are carried out as they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from math import isfinite
from pathlib import Path

from attrs import field, frozen

from component_http.contract.address import Address
from component_http.spool.database import BUSY
from component_http.spool.private import Warn, no_warning
from component_http.spool.rows import Damaged, lead, set_aside
from component_http.spool.visit import explained, transaction, visit

__all__ = ["AT_ONCE", "OUTCOMES", "DeadLetter", "Letters", "Moved", "Refused", "Which"]

OUTCOMES = (
    "bounced",
    "expired",
    "refused_reply",
    "reply_expired",
    "reply_unsendable",
    "reply_refused",
    "reply_bounced",
)
"""How what became a dead letter has ended."""

AT_ONCE = 100
"""Letters of one transaction at most: meanwhile the gateway cannot write."""

DELIVERY_LIFETIME = 86_400.0
"""Seconds that a delivery gets once more; the gateway makes them fewer where its own settings say so."""

LIFETIMES = {"message": 86_400.0, "presence": 60.0}
"""Seconds that a stanza gets once more to leave, by its kind; what is about a subscription has those of a message."""

_SUBSCRIPTION = ("subscribe", "subscribed", "unsubscribe", "unsubscribed")

_NAMELESS = "departure"
"""What the id of a letter begins with that is about a stanza which answered no delivery."""


@frozen
class DeadLetter:
    """
    A dead letter.

    Attributes:
        id: That of the delivery, or one of its own for a stanza that did not leave.
        outcome: One of `OUTCOMES`.
        note: Why, for a person.
        kind: That of the stanza, as its type and its id: of the one that was given up.
        type: "" for none.
        stanza_id: None for none.
        sender: Who wrote the delivery; for a stanza that did not leave, who would have got it.
        recipient: The component's side of it.
        accepted: When it began, in seconds since the epoch.
        ended: When it was given up.
        tries: POSTs that were made of it.
        size: Bytes of what was to be sent.
        status: The HTTP status that came last, or None.
        media_type: Its media type, or None.
        body: The request; None for a stanza that did not leave.
        response: What came last, or the beginning of it, or None.
        reply: The XML of a stanza that did not leave, or None.
    """

    id: str
    outcome: str
    note: str
    kind: str
    type: str
    stanza_id: str | None
    sender: str
    recipient: str
    accepted: float
    ended: float
    tries: int
    size: int
    status: int | None
    media_type: str | None
    body: bytes | None = field(repr=False)
    response: bytes | None = field(repr=False)
    reply: bytes | None = field(repr=False)


_COLUMNS = (
    "id, outcome, note, kind, type, stanza_id, sender, recipient, accepted, ended, tries, size, status, media_type,"
    " body, response, reply"
)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and (value.isascii() or value.encode("utf-8", "replace").decode("utf-8") == value)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and isfinite(value)


def _is_count(value: object) -> bool:
    return isinstance(value, int)


def _or_none(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or fits(value)


_FITTING: Mapping[str, Callable[[object], bool]] = {
    **dict.fromkeys(("id", "outcome", "note", "kind", "type", "sender", "recipient"), _is_text),
    **dict.fromkeys(("stanza_id", "media_type"), _or_none(_is_text)),
    **dict.fromkeys(("accepted", "ended"), _is_number),
    **dict.fromkeys(("tries", "size"), _is_count),
    "status": _or_none(_is_count),
    **dict.fromkeys(("body", "response", "reply"), _or_none(lambda value: isinstance(value, bytes))),
}
"""What a gateway writes into the columns of a letter."""


@frozen
class Which:
    """
    Which letters are meant: those that fit all of it.

    Attributes:
        ids: Their ids; empty for any.
        outcomes: Their outcomes; empty for any.
        kinds: The kinds of their stanzas; empty for any.
        sender: Who wrote them: a bare address is all of its resources, a full one only itself.
        recipient: To whom, likewise.
        since: When they were given up at the earliest, in seconds since the epoch.
        until: When at the latest.
    """

    ids: Collection[str] = ()
    outcomes: Collection[str] = ()
    kinds: Collection[str] = ()
    sender: Address | None = None
    recipient: Address | None = None
    since: float | None = None
    until: float | None = None


@frozen
class Refused:
    """A letter that was left alone, and why: completes "it is not retried"."""

    id: str
    reason: str


@frozen
class Moved:
    """What became of letters: the ids of those that it was done to, and the others."""

    done: Sequence[str]
    refused: Sequence[Refused] = ()


class Letters:
    """
    The dead letters of a spool's file; a context manager.

    Each call is a short transaction, so a slow reader of what it gives is in nobody's way.

    Args:
        path: The file.
        patience: Seconds to wait for another program that writes.
        now: The wall clock.
        warn: As for `component_http.spool.visit.visit`.

    Attributes:
        set_aside: A sentence about each row that could not be read and was moved to the table of that name.

    Raises:
        SettingsError: From the constructor, as by `component_http.spool.visit.visit`.
        SpoolError: From the constructor and each call: it cannot be done now, and nothing of it was.
    """

    def __init__(
        self,
        path: Path,
        *,
        patience: float = BUSY,
        now: Callable[[], float] = time.time,
        warn: Warn = no_warning,
    ) -> None:
        self._path = path
        self._patience = patience
        self._now = now
        self._connection = visit(path, patience=patience, warn=warn)
        self.set_aside: list[str] = []

    def __enter__(self) -> Letters:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        with explained(self._path, self._patience):
            self._connection.close()

    def named(self, beginning: str) -> list[str]:
        """The ids that the beginning of one may mean: that of a letter whose whole id it is, or else all."""
        with explained(self._path, self._patience):
            found = self._connection.execute(
                "SELECT id FROM letters WHERE substr(id, 1, ?) = ? ORDER BY id", (len(beginning), beginning)
            ).fetchall()
        ids = [str(row[0]) for row in found]
        return [beginning] if beginning in ids else ids

    def ids(self, which: Which | None = None) -> list[str]:
        """The ids of the letters that are meant, oldest first; None for all."""
        which = which or Which()
        clauses: list[str] = []
        values: list[object] = []
        for column, wanted in (("outcome", which.outcomes), ("kind", which.kinds)):
            if wanted:
                clauses.append(f"{column} IN ({', '.join('?' * len(wanted))})")
                values += wanted
        for column, address in (("sender", which.sender), ("recipient", which.recipient)):
            if address is not None and address.resource is None:
                clauses.append(f"({column} = ? OR substr({column}, 1, ?) = ?)")
                values += (str(address), len(f"{address}/"), f"{address}/")
            elif address is not None:
                clauses.append(f"{column} = ?")
                values.append(str(address))
        if which.since is not None:
            clauses.append("ended >= ?")
            values.append(which.since)
        if which.until is not None:
            clauses.append("ended <= ?")
            values.append(which.until)
        where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
        with explained(self._path, self._patience):
            query = f"SELECT number, id FROM letters {where} ORDER BY number"
            found = self._connection.execute(query, values).fetchall()
        wanted = set(which.ids)
        ids = []
        for number, one in found:
            if not isinstance(one, str):
                self._set_aside(number, "its id is no text")
            elif not wanted or one in wanted:
                ids.append(one)
        return ids

    def read(self, ids: Sequence[str]) -> Iterator[DeadLetter]:
        """The letters of these ids, in the same order, but for those that are gone or cannot be read."""
        for one in ids:
            with explained(self._path, self._patience):
                query = f"SELECT number, {_COLUMNS} FROM letters WHERE id = ?"
                row = self._connection.execute(query, (one,)).fetchone()
            if row is None:
                continue
            letter = DeadLetter(*row[1:])
            wrong = [name for name, fits in _FITTING.items() if not fits(getattr(letter, name))]
            if wrong:
                self._set_aside(row[0], f"wrong values of {', '.join(wrong)}")
            else:
                yield letter

    def _set_aside(self, number: int, reason: str) -> None:
        """Move a row that cannot be read out of the way, and let `set_aside` know."""
        with explained(self._path, self._patience), transaction(self._connection):
            set_aside(self._connection, Damaged("letters", number, reason), self._now())
        self.set_aside.append(f"letter {number} cannot be read, so it is moved to the table set_aside: {reason}")

    def drop(self, ids: Sequence[str]) -> Moved:
        """
        Delete letters.

        Args:
            ids: `AT_ONCE` at most.
        """
        done = []
        with explained(self._path, self._patience), transaction(self._connection):
            for one in ids:
                if self._connection.execute("DELETE FROM letters WHERE id = ?", (one,)).rowcount:
                    done.append(one)
        return Moved(done, [Refused(one, "it is gone") for one in ids if one not in done])

    def retry(self, ids: Sequence[str]) -> Moved:
        """
        Let what was given up be delivered, or leave, once more: all of it, but for what is refused.

        Args:
            ids: `AT_ONCE` at most.
        """
        done, refused = [], []
        with explained(self._path, self._patience), transaction(self._connection):
            for one in ids:
                reason = self._retry(one)
                if reason is None:
                    done.append(one)
                else:
                    refused.append(Refused(one, reason))
        return Moved(done, refused)

    def _retry(self, letter_id: str) -> str | None:
        """Move one back; or say why not."""
        execute = self._connection.execute
        ahead = lead(self._connection)
        row = execute(
            "SELECT kind, type, body IS NULL, reply IS NULL FROM letters WHERE id = ?", (letter_id,)
        ).fetchone()
        if row is None:
            return "it is gone"
        kind, stanza_type, bodiless, replyless = row
        if kind == "iq":
            return "an iq has one answer, and who asked has had it or waits no more"
        if bodiless and replyless:
            return "nothing of it was kept"
        if bodiless:
            self._depart(letter_id, LIFETIMES["message" if stanza_type in _SUBSCRIPTION else kind])
        elif execute("SELECT 1 FROM deliveries WHERE id = ?", (letter_id,)).fetchone():
            return "it is under way already"
        else:
            execute(
                "INSERT INTO deliveries (id, kind, type, stanza_id, sender, recipient, through_room, uri, accepted,"
                " deadline, tries, attempts, size, body)"
                " SELECT id, kind, type, stanza_id, sender, recipient, through_room, uri,"
                " accepted + ?, ?, 0, 0, size, body FROM letters WHERE id = ?",
                (ahead, self._now() + ahead + DELIVERY_LIFETIME, letter_id),
            )
            execute("INSERT INTO commands (verb, argument) VALUES ('deliver', ?)", (letter_id,))
        execute("DELETE FROM letters WHERE id = ?", (letter_id,))
        return None

    def _depart(self, letter_id: str, lifetime: float) -> None:
        now = self._now() + lead(self._connection)
        # The id of such a letter is that of the delivery, and a number.
        delivery_id = letter_id.rpartition(".")[0] or _NAMELESS
        # What was kept is what is to leave: nobody knows any more whether something may be added to it.
        number = self._connection.execute(
            "INSERT INTO departures (delivery_id, kind, stored, expires, verbatim, xml, suspect)"
            " SELECT ?, kind, ?, ?, 1, reply, outcome = 'reply_refused' FROM letters WHERE id = ?",
            (None if delivery_id == _NAMELESS else delivery_id, now, now + lifetime, letter_id),
        ).lastrowid
        self._connection.execute("INSERT INTO commands (verb, argument) VALUES ('depart', ?)", (str(number),))
