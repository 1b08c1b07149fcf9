"""The size from which on the server has refused a stanza."""

from __future__ import annotations

from component_http.contract.outbound import OutboundStanza, Refused

SURELY_TAKEN = 10_000
"""Bytes that every server takes in one stanza (RFC 6120 section 13.12)."""

TOO_LARGE_FOR = 3600.0
"""
Seconds for which no stanza is sent that is as large as one that the server closed the stream over.

Each would cost everybody two streams. After that, or when the operator retries a dead letter, the next one is tried.
"""


class TooLarge:
    """Remembers the smallest stanza that the server has refused for its size, for a while."""

    def __init__(self) -> None:
        self._known: tuple[int, Refused, float] | None = None

    def note(self, refused: Refused, size: int, now: float) -> None:
        """The server has refused a stanza of so many bytes."""
        if refused.for_size and size > SURELY_TAKEN and (self._known is None or size < self._known[0]):
            self._known = size, refused, now + TOO_LARGE_FOR

    def refusal(self, outbound: OutboundStanza, now: float) -> Refused | None:
        """Say why a stanza is not even tried; None if it is."""
        if self._known is None:
            return None
        size, refused, until = self._known
        if now >= until:
            self._known = None
        elif len(outbound.xml) >= size:
            return Refused(f"so it did over one of {size} bytes: {refused.reason}", refused.remedy)
        return None

    def forget(self) -> None:
        """Try the next large one."""
        self._known = None
