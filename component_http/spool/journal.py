"""The lives of deliveries, kept in memory until the spool writes them into its log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from component_http.contract.delivery import Delivery
from component_http.contract.outbound import OutboundStanza
from component_http.contract.reply import Response
from component_http.interfaces.tracer import AttemptReport, Headers, Settlement
from component_http.spool.rows import json_of

MOST_ATTEMPTS = 20
"""Attempts that are kept of a delivery: the first, and the last ones."""

MOST_ANSWER_BYTES = 16 * 1024 * 1024
"""Bytes of answers that are kept of all deliveries that have not ended; beyond it only what they came with is."""


ROW_BYTES = 300
"""Bytes of a row of the log beside its attempts, its stanzas and its body, roughly."""


class Life(NamedTuple):
    """
    The life of a delivery that ends.

    Attributes:
        attempts: JSON, as `spool.ended_rows` reads it; `stanzas` likewise.
        size: Bytes of all that is written.
    """

    outcome: str
    note: str | None
    tries: int
    attempts: str
    stanzas: str
    size: int


class Journal:
    """
    A `Tracer` that collects what a spool writes into its log.

    Args:
        seconds: The reactor's clock.
        wall: The wall clock.
        bodies: Request bodies are kept, so that they count for the size.
        settled: Called with a stanza's number, when its fate was known, the fate, and why.
    """

    def __init__(
        self,
        seconds: Callable[[], float],
        wall: Callable[[], float],
        *,
        bodies: bool,
        settled: Callable[[int, tuple[float, str, str | None]], object],
    ) -> None:
        self._seconds = seconds
        self._wall = wall
        self._bodies = bodies
        self._tell_settled = settled
        self._attempts: dict[str, list[AttemptReport]] = {}
        self._answer_bytes = 0
        self._lives: dict[str, Life] = {}

    def accepted(self, delivery: Delivery, *, restored: bool) -> None:
        """Do nothing: the spool knows when it was accepted."""

    def posted(self, delivery: Delivery, body: bytes, headers: Headers) -> None:
        """Do nothing: the spool has the body."""

    def attempted(self, delivery: Delivery, report: AttemptReport, response: Response | None) -> None:
        if self._answer_bytes + len(report.answer) > MOST_ANSWER_BYTES:
            report = report._replace(answer=b"")
        self._answer_bytes += len(report.answer)
        attempts = self._attempts.get(delivery.id)
        if attempts is None:
            self._attempts[delivery.id] = [report]
            return
        attempts.append(report)
        if len(attempts) > MOST_ATTEMPTS:
            self._answer_bytes -= len(attempts.pop(1).answer)

    def ended(self, delivery: Delivery, outcome: str, note: str | None, stanzas: Sequence[OutboundStanza]) -> None:
        attempts = self._forget(delivery.id)
        written = json_of([self._row(each) for each in attempts]) if attempts else "[]"
        sent = json_of([facts_of_stanza(each) for each in stanzas]) if stanzas else "[]"
        size = ROW_BYTES + len(written) + len(sent) + (delivery.size if self._bodies else 0)
        self._lives[delivery.id] = Life(outcome, note, delivery.tries, written, sent, size)

    def _row(self, report: AttemptReport) -> list[object]:
        """An attempt as it is written: whole milliseconds since the epoch, and whole microseconds."""
        number, began, seconds, connecting, first_byte, status, failure, answer, follows, again = report
        return [
            number,
            int((began + self._wall() - self._seconds()) * 1e3),
            int(seconds * 1e6),
            None if connecting is None else int(connecting * 1e6),
            None if first_byte is None else int(first_byte * 1e6),
            status,
            failure,
            answer.decode("utf-8", "replace"),
            follows,
            None if again is None else int(again * 1e6),
        ]

    def pushed(self, number: int, outbound: OutboundStanza) -> None:
        """Do nothing: it ends no delivery."""

    def settled(self, number: int, delivery_id: str | None, settlement: Settlement, why: str | None = None) -> None:
        if number and delivery_id is not None and settlement != "lost":
            self._tell_settled(number, (self._wall(), settlement, why))

    def take(self, delivery_id: str) -> Life | None:
        """Give the life of a delivery away that ends; None where nobody has told of its end."""
        life = self._lives.pop(delivery_id, None)
        if life is None:
            self._forget(delivery_id)
        return life

    def _forget(self, delivery_id: str) -> list[AttemptReport]:
        attempts = self._attempts.pop(delivery_id, [])
        for attempt in attempts:
            self._answer_bytes -= len(attempt.answer)
        return attempts


def facts_of_stanza(outbound: OutboundStanza) -> list[object]:
    """The facts of a stanza that are kept: kind, type, id, recipient and bytes."""
    head = outbound.head
    return [outbound.kind, head.type, head.id, head.recipient, len(outbound.xml)]
