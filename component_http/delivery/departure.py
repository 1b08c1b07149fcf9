"""One stanza on its way to the server."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

__all__ = ["Departure", "Fate"]

Fate = Literal["confirmed", "expired", "lost"]
"""
What became of a departure: the server has it, its time was over before it could be written, or the stream was lost
before the server was known to have it.
"""


@frozen(eq=False)
class Departure:
    """
    A stanza that leaves, as it is written.

    Attributes:
        xml: Its XML, checked (`contract.outgoing.sendable`).
        kind: `message`, `presence` or `iq`.
        expires: When it is of no use any more, in seconds of the reactor's clock.
        stored: When it was made, likewise; before the start of the process for what a spool has kept.
        verbatim: A webhook wrote the XML itself, so nothing is added to it.
        again: It may be written twice, where nobody knows whether the server has it.
        delivery_id: The delivery that it answers; None where it answers none.
        number: Its number in the spool, ascending in the order of leaving; None while the spool has not given one.
    """

    xml: str
    kind: str
    expires: float
    stored: float
    verbatim: bool = False
    again: bool = True
    delivery_id: str | None = None
    number: int | None = None
