"""One stanza on its way to the server."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from attrs import frozen
from twisted.words.xish.domish import Element

from component_http.contract.stanza import Stanza

__all__ = ["LIFETIMES", "Fate", "OutboundStanza", "Refused", "is_request", "lifetime"]


@frozen
class Refused:
    """
    The server closes the stream over a stanza, so it is never written again.

    Attributes:
        reason: The server's own condition, or what happened where it gave none.
        remedy: What the operator can do about it, as a phrase.
        for_size: It may be because of the stanza's size.
    """

    reason: str
    remedy: str
    for_size: bool = False


Fate = Literal["confirmed", "expired", "lost", "suspected"] | Refused
"""
What became of a departure: the server has it; it expired before it could be written; the stream was lost before the
server was known to have it; the same, and the server may have closed the stream because of it; or it was found that the
server does.
"""

LIFETIMES: Mapping[str, float] = MappingProxyType({"message": 86_400.0, "presence": 60.0, "iq": 25.0})
"""
Seconds for which a stanza is of use, by its kind: an iq that is an answer, for who asked waits no longer. An iq that
asks, and what is about a subscription, lives as long as a message.
"""

_SUBSCRIPTION = ("subscribe", "subscribed", "unsubscribe", "unsubscribed")


@frozen(eq=False)
class OutboundStanza:
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
        asked: The stanza of that delivery (only its facts), where its sender is told if the server refuses this one.
        suspect: The server may have closed a stream because of it, so it is written alone.
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
    asked: Stanza | None = None
    suspect: bool = False


def lifetime(stanza: Element, lifetimes: Mapping[str, float] = LIFETIMES) -> float:
    """
    Say for how many seconds a stanza is of use.

    Args:
        stanza: The stanza.
        lifetimes: As `LIFETIMES`.
    """
    if is_request(stanza) or (stanza.name == "presence" and stanza.getAttribute("type") in _SUBSCRIPTION):
        return lifetimes["message"]
    return lifetimes[stanza.name]


def is_request(stanza: Element) -> bool:
    """It is an iq that asks. Who asked is told that the stream is lost, and asks again if he likes."""
    return stanza.name == "iq" and stanza.getAttribute("type") in ("get", "set")
