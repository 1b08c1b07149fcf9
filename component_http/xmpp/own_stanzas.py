"""Stanzas that handlers have sent, kept until the server has them, for nobody else keeps them."""

from __future__ import annotations

from itertools import count

from component_http.contract.outbound import OutboundStanza

MAX_UNCONFIRMED = 10_000
MAX_UNCONFIRMED_BYTES = 16 * 1024 * 1024
"""
What handlers have sent, was written and may have to be written again; the oldest is forgotten beyond it.

A server that works confirms a hundred stanzas at a time.
"""


class OwnStanzas:
    """The stanzas by their numbers, oldest first."""

    def __init__(self) -> None:
        self._kept: dict[int, OutboundStanza] = {}
        self._bytes = 0
        self._numbers = count()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, outbound: OutboundStanza) -> int:
        """Keep one more; returns its number."""
        number = next(self._numbers)
        self._kept[number] = outbound
        self._bytes += len(outbound.xml)
        return number

    def let_go(self, number: int) -> OutboundStanza | None:
        """Keep one no longer; None if it was forgotten."""
        outbound = self._kept.pop(number, None)
        if outbound is not None:
            self._bytes -= len(outbound.xml)
        return outbound

    def make_room(self, more: int, more_bytes: int) -> int:
        """Forget the oldest beyond the limits, which are so much wider; returns how many."""
        forgotten = 0
        while len(self._kept) > MAX_UNCONFIRMED + more or self._bytes > MAX_UNCONFIRMED_BYTES + more_bytes:
            self.let_go(next(iter(self._kept)))
            forgotten += 1
        return forgotten

    def clear(self) -> None:
        """Keep none."""
        self._kept.clear()
        self._bytes = 0
