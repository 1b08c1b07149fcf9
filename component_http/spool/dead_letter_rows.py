"""The table `letters`, as the gateway writes it: dead letters of deliveries and of outbound stanzas."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from component_http.contract.delivery import DeadLetter
from component_http.contract.xml import NS_COMPONENT
from component_http.spool import outbound_rows
from component_http.spool.orders import Dead
from component_http.spool.rows import SpoolClock
from component_http.spool.shelf import Shelf

NAMELESS = "departure"
"""The beginning of the id of a dead letter whose stanza answered no delivery."""

MAX_BYTES = 256 * 1024 * 1024
"""
Bytes of requests and responses in dead letters, so that they leave room for deliveries; beyond it the oldest go of the
sender that has most.
"""

_DELIVERY = (
    "INSERT OR REPLACE INTO letters (id, outcome, kind, type, stanza_id, sender, recipient, through_room, uri,"
    " accepted, ended, tries, size, body, note, status, media_type, response)"
    " SELECT id, ?, kind, type, stanza_id, sender, recipient, through_room, uri,"
    " accepted - ?, ?, ?, size, body, ?, ?, ?, ? FROM deliveries WHERE id = ?"
)
_OUTBOUND = (
    "INSERT OR REPLACE INTO letters (id, outcome, kind, type, stanza_id, sender, recipient, through_room, uri,"
    " accepted, ended, tries, size, note, reply) VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?, ?, 0, ?, ?, ?)"
)

_NOTES = {
    "reply_expired": "it could not leave for the server in time",
    "reply_unsendable": "the server would not take it, or it does not fit the settings any more",
}
"""The notes of outcomes that need no other."""


def keep_deliveries(
    connection: sqlite3.Connection, dead_letters: Mapping[str, tuple[DeadLetter, float]], ahead: float
) -> None:
    """
    Keep deliveries, which are still in their table, as dead letters.

    Args:
        dead_letters: By the ids of the deliveries, with when they ended by the wall clock.
        ahead: Seconds that the spool's clock is ahead of the wall clock, whose times dead letters have.
    """
    for delivery_id, (dead, ended) in dead_letters.items():
        last = (dead.status, dead.media_type, dead.response)
        connection.execute(_DELIVERY, (dead.outcome, ahead, ended, dead.tries, dead.note, *last, delivery_id))


def keep_outbound(connection: sqlite3.Connection, number: int, dead: Dead, clock: SpoolClock) -> None:
    """Keep an outbound stanza as a dead letter, if its row is there and can be read."""
    if dead.row is None:
        columns = "SELECT delivery_id, kind, stored, head, xml FROM departures WHERE number = ?"
        row, ahead = connection.execute(columns, (number,)).fetchone(), clock.lead()
    else:
        # The times of this row are still the reactor's.
        row, ahead = (*dead.row[:3], *dead.row[-2:]), clock.lead() - clock.ahead
    if row is None:
        return
    delivery_id, kind, stored, head, xml = row
    if not isinstance(xml, bytes) or not isinstance(stored, (int, float)):
        return
    head = outbound_rows.head_of(head, xml)
    # The dead letter belongs to the conversation of the delivery, so its sender is the stanza's addressee.
    connection.execute(
        _OUTBOUND,
        (
            f"{delivery_id or NAMELESS}.{number}",
            dead.outcome,
            kind,
            head.type or "",
            head.id,
            head.recipient,
            head.sender,
            NS_COMPONENT,
            stored - ahead,
            clock.wall(),
            len(xml),
            dead.note or _NOTES.get(dead.outcome, dead.outcome),
            xml,
        ),
    )


def shelf(most: int, most_bytes: int) -> Shelf:
    """The dead letters, so many at most."""
    size = "coalesce(length(body), 0) + coalesce(length(response), 0) + coalesce(length(reply), 0)"
    bare_sender = "substr(sender, 1, instr(sender || '/', '/') - 1)"
    return Shelf("letters", size, bare_sender, True, most, most_bytes)
