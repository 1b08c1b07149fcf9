"""One stanza on its way to the server."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

from attrs import frozen
from twisted.words.xish.domish import Element

from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_MUC


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


Fate = Literal["confirmed", "expired", "lost", "suspected", "stopped"] | Refused
"""
The end of an outbound stanza: the server has it; it expired before it could be written; the stream was lost before
the server was known to have it; the same, and the server may have closed the stream because of it; it still waited when
the outlet was stopped; or it was found that the server closes the stream over it.
"""

LIFETIMES: Mapping[str, float] = MappingProxyType({"message": 86_400.0, "presence": 60.0, "iq": 25.0})
"""
Seconds until a stanza expires, by its kind. The answer to an iq expires soon, because nobody waits for it longer. An iq
request, and presence about a subscription, lives as long as a message.
"""

_REQUESTS = ("get", "set")
_SUBSCRIPTION = ("subscribe", "subscribed", "unsubscribe", "unsubscribed")


class Head(NamedTuple):
    """
    The facts of an outbound stanza for those who are told of it on its way.

    Attributes:
        type: Its `type`; None for none.
        id: Its `id`; None for none.
        sender: Its `from`; empty where the stanza cannot be read any more.
        recipient: Its `to`.
        enters: It is a presence that asks a room to let us in (XEP-0045 section 7.2).
    """

    type: str | None = None
    id: str | None = None
    sender: str = ""
    recipient: str = ""
    enters: bool = False

    @property
    def domain(self) -> str:
        """The domain of the component that sends it; empty where the stanza cannot be read any more."""
        return self.sender.partition("/")[0].rpartition("@")[2]

    @classmethod
    def of(cls, stanza: Element) -> Head:
        """The facts of a stanza that was checked, so that it has both addresses."""
        given = stanza.attributes.get
        asks = stanza.name == "presence" and "type" not in stanza.attributes
        enters = asks and next(stanza.elements(NS_MUC, "x"), None) is not None
        return cls(given("type"), given("id"), given("from", ""), given("to", ""), enters)


_UNKNOWN = Head()


@frozen(eq=False)
class OutboundStanza:
    """
    A stanza on its way to the server: its XML is written once, and never read again.

    Attributes:
        xml: Its XML, checked (`contract.outgoing.sendable`).
        kind: `message`, `presence` or `iq`.
        expires: When it is of no use any more, in seconds of the reactor's clock.
        stored: When it was made, likewise; before the start of the process for what a spool has kept.
        head: Its facts.
        verbatim: A webhook wrote the XML itself, so nothing is added to it.
        delivery_id: The delivery that it answers; None where it answers none.
        asked: The stanza of that delivery (only its facts), where its sender is told if the server refuses this one.
        suspect: The server may have closed a stream because of it, so it is written alone.
        number: Its number in the spool, ascending in the order of leaving; None while the spool has not given one.
    """

    xml: bytes
    kind: str
    expires: float
    stored: float
    head: Head = _UNKNOWN
    verbatim: bool = False
    delivery_id: str | None = None
    number: int | None = None
    asked: Stanza | None = None
    suspect: bool = False

    @property
    def again(self) -> bool:
        """Tell whether it may be written twice if nobody knows whether the server has it; an iq request may not."""
        return self.kind != "iq" or self.head.type not in _REQUESTS


def outbound_stanza(
    stanza: Element,
    xml: bytes,
    now: float,
    lifetimes: Mapping[str, float] = LIFETIMES,
    *,
    deadline: float | None = None,
    verbatim: bool = False,
    delivery_id: str | None = None,
    asked: Stanza | None = None,
) -> OutboundStanza:
    """
    Make the outbound stanza of one that was checked.

    Args:
        stanza: The stanza.
        xml: Its XML.
        now: The time, in seconds of the reactor's clock.
        lifetimes: As `LIFETIMES`.
        deadline: The time until which somebody waits for the answer to an iq, likewise; None where nobody waits.
        verbatim: As in `OutboundStanza`, like the others.
    """
    kind, head = stanza.name, Head.of(stanza)
    expires = now + lifetime(kind, head.type, lifetimes)
    if deadline is not None and kind == "iq" and head.type not in _REQUESTS:
        # What comes of a deadline comes a moment after it.
        expires = max(deadline, now + 1.0)
    # Nobody is told by an error of an error.
    asked = None if head.type == "error" else asked
    return OutboundStanza(xml, kind, expires, now, head, verbatim, delivery_id, None, asked)


def lifetime(kind: str, type_: str | None, lifetimes: Mapping[str, float] = LIFETIMES) -> float:
    """
    Say after how many seconds a stanza expires.

    Args:
        kind: `message`, `presence` or `iq`.
        type_: Its `type`.
        lifetimes: As `LIFETIMES`.
    """
    lives_long = (kind == "iq" and type_ in _REQUESTS) or (kind == "presence" and type_ in _SUBSCRIPTION)
    return lifetimes["message" if lives_long else kind]
