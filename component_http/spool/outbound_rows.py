"""The table `departures`: outbound stanzas that the server is not known to have."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Collection, Container, Iterable, Sequence
from contextlib import suppress

from component_http.contract.outbound import Head, OutboundStanza
from component_http.contract.stanza import STANZA_KINDS, Stanza
from component_http.contract.xml import Limits, parse_stanzas
from component_http.errors import SpoolError, XmlRefused
from component_http.spool.rows import (
    AT_ONCE,
    UNREADABLE,
    Moment,
    Report,
    Row,
    checked,
    chunks,
    facts_of,
    file_sizes,
    json_of,
    number,
    octets,
    or_none,
    runs,
    stanza_of,
    text,
    values,
    write,
)

PAGE = 500
PAGE_BYTES = 1024 * 1024
"""Outbound stanzas that are read at once, and their bytes."""

CROWD = 10_000
"""Answers of deliveries that may wait for the server before no more are asked for."""

MAX_OUTBOUND = 100_000
"""Outbound stanzas in the file, above which nothing more is pushed."""

MAX_BYTES = 2 * 1024 * 1024 * 1024
"""Bytes in use in the file, above which nothing more is pushed: twice as much as may be pending."""

_COLUMNS = "delivery_id, kind, stored, expires, verbatim, asked, domain, head, xml"
_ADD = {n: f"INSERT INTO departures ({_COLUMNS}) VALUES {values(n, 9)}" for n in AT_ONCE}
_SUSPECT = {n: f"UPDATE departures SET suspect = 1 WHERE number IN {values(1, n)}" for n in AT_ONCE}
_KEPT = {n: f"SELECT number FROM departures WHERE number IN {values(1, n)}" for n in AT_ONCE}
DOMAIN = 6
"""The place of the domain in a row."""

_REMOVE = "DELETE FROM departures WHERE number BETWEEN ? AND ?"
_MOVE = f"INSERT INTO departures ({_COLUMNS}) SELECT {_COLUMNS} FROM departures WHERE number = ?"
_PAGE = (
    f"SELECT number, suspect, {_COLUMNS} FROM departures"
    " WHERE number > ? AND (domain = ? OR domain IS NULL OR ? IS NULL) ORDER BY number"
)


def rows_of(outbound_stanzas: Sequence[OutboundStanza]) -> list[Row]:
    """The rows of outbound stanzas, without their numbers; their times are still the reactor's."""
    return [
        (
            outbound.delivery_id,
            outbound.kind,
            outbound.stored,
            outbound.expires,
            outbound.verbatim,
            None if outbound.asked is None else _asked_text(outbound.asked),
            outbound.head.domain,
            json_of([*outbound.head]),
            outbound.xml,
        )
        for outbound in outbound_stanzas
    ]


def _asked_text(asked: Stanza) -> str:
    *facts, _, uri = facts_of(asked)
    return json_of([*facts, uri])


def _asked(asked: object) -> Stanza | None:
    """The stanza whose sender is told if the server refuses the answer; None where that cannot be read."""
    try:
        if asked is None:
            return None
        kind, stanza_type, stanza_id, sender, recipient, uri = json.loads(text(asked))
        return stanza_of(kind, stanza_type, stanza_id, sender, recipient, False, uri)
    except UNREADABLE:
        return None


def head_of(head: object, xml: bytes) -> Head:
    """The facts of a stanza; those of its XML where they were not kept, and none where that cannot be read either."""
    with suppress(*UNREADABLE):
        stanza_type, stanza_id, sender, recipient, enters = json.loads(text(head))
        return Head(or_none(text, stanza_type), or_none(text, stanza_id), text(sender), text(recipient), bool(enters))
    with suppress(XmlRefused, *UNREADABLE):
        [stanza] = parse_stanzas(xml.decode("utf-8"), Limits(max_bytes=len(xml)))
        return Head.of(stanza)
    return Head()


def _domain(domain: object, head: object, xml: object) -> str:
    """The domain of the component that sends a stanza; its head says it where the column does not."""
    if domain is None:
        return head_of(head, xml if isinstance(xml, bytes) else b"").domain
    return text(domain)


def add(connection: sqlite3.Connection, rows: Sequence[Row], ahead: float) -> int:
    """
    Insert outbound stanzas, in this order; `ahead` is how far the spool's clock is ahead of the reactor's.

    Returns the number of the first; the others follow it one by one.
    """
    rows = [(*row[:2], row[2] + ahead, row[3] + ahead, *row[4:]) for row in rows]
    return write(connection, _ADD, rows) - len(rows) + 1


def remove(connection: sqlite3.Connection, numbers: Iterable[int]) -> None:
    """Delete outbound stanzas; those that follow one another, as most that are confirmed do, by one statement."""
    for first, last in runs(sorted(numbers)):
        connection.execute(_REMOVE, (first, last))


def set_suspect(connection: sqlite3.Connection, numbers: Iterable[int]) -> None:
    write(connection, _SUSPECT, [(number,) for number in numbers])


def still_kept(connection: sqlite3.Connection, numbers: Sequence[int], settled: Container[int]) -> set[int]:
    """The numbers that are still in the table, without those that are settled and only not deleted yet."""
    found: set[int] = set()
    for chunk in chunks(numbers):
        found.update(number for (number,) in connection.execute(_KEPT[len(chunk)], chunk) if number not in settled)
    return found


def move_to_the_end(connection: sqlite3.Connection, number: str) -> None:
    """Give an outbound stanza, if it is there, a number beyond all others."""
    connection.execute(_MOVE, (number,))
    connection.execute(_REMOVE, (number, number))


def page(
    connection: sqlite3.Connection,
    after: int,
    domain: str | None,
    at: Moment,
    settled: Container[int],
    suspected: Container[int],
    report: Report,
) -> list[OutboundStanza]:
    """
    Read the next outbound stanzas behind the number `after`, some of them if there are many.

    Args:
        domain: Only those of this component; None for all.
        settled: Numbers that are left out: they are settled and only not deleted yet.
        suspected: Numbers of suspects that the file may not have marked yet.
    """
    outbound_stanzas: list[OutboundStanza] = []
    size = 0
    for row in connection.execute(_PAGE, (after, domain, domain)):
        if row[0] in settled or (domain is not None and _domain(*row[8:]) != domain):
            continue
        outbound = checked("departures", row[0], report, _outbound, row, at, row[0] in suspected)
        if outbound is None:
            continue
        outbound_stanzas.append(outbound)
        size += len(row[-1])
        if len(outbound_stanzas) == PAGE or size > PAGE_BYTES:
            break
    return outbound_stanzas


def _outbound(row: Row, at: Moment, suspected: bool) -> OutboundStanza:
    position, suspect, delivery_id, kind, stored, expires, verbatim, asked, _, head, xml = row
    if kind not in STANZA_KINDS:
        raise ValueError("it is no stanza")
    # The wall clock may have been set back since.
    left = min(number(expires) - at.now, expires - number(stored))
    return OutboundStanza(
        xml=octets(xml),
        kind=kind,
        head=head_of(head, xml),
        expires=at.seconds + left,
        stored=at.seconds - max(0.0, at.now - stored),
        verbatim=bool(verbatim),
        delivery_id=or_none(text, delivery_id),
        number=position,
        asked=_asked(asked),
        suspect=bool(suspect) or suspected,
    )


def foreign(connection: sqlite3.Connection, domains: Collection[str]) -> list[tuple[int, str]]:
    """Read the numbers and the domains of outbound stanzas that none of some components sends."""
    served = values(1, len(domains))
    found = connection.execute(
        f"SELECT number, domain, head, xml FROM departures WHERE domain NOT IN {served} OR domain IS NULL", [*domains]
    )
    of_each = [(number, _domain(domain, head, xml)) for number, domain, head, xml in found]
    return [(number, domain) for number, domain in of_each if domain not in domains]


def may_be_full(connection: sqlite3.Connection, most: int) -> bool:
    """Tell whether so many outbound stanzas may be in the file; it takes no time to find out."""
    # SQLite finds each of the two at once, but reads the whole table for both together.
    [span] = connection.execute(
        "SELECT coalesce((SELECT max(number) FROM departures) - (SELECT min(number) FROM departures) + 1, 0)"
    ).fetchone()
    return bool(span >= most)


def waiting(connection: sqlite3.Connection) -> Counter[str]:
    """Count the outbound stanzas of each component, by its domain; "" for those whose head would have to be asked."""
    return Counter(dict(connection.execute("SELECT coalesce(domain, ''), count(*) FROM departures GROUP BY domain")))


def refusal(counts: Counter[str], domain: str, most: int) -> SpoolError | None:
    """
    The error of a push where `most` stanzas are in the file; answers are not refused for that.

    What one component has there keeps the others from nothing: each may have its part of half of them.
    """
    if counts.total() < most or counts[domain] < most / (2 * len(counts)):
        return None
    return SpoolError(f"{counts.total()} stanzas wait for the server")


def too_large(connection: sqlite3.Connection) -> SpoolError | None:
    """The error of a push where too many bytes are in the file."""
    if file_sizes(connection)[1] > MAX_BYTES:
        return SpoolError(f"the spool holds more than {MAX_BYTES} bytes")
    return None
