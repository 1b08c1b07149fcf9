"""The log of deliveries: the whole life of each that has ended."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

from attrs import frozen

from component_http.contract.address import Address
from component_http.contract.stanza import Stanza, name_only

OUTCOMES = ("replied", "silent", "bounced", "expired", "refused_reply", "failed")
"""The outcomes of deliveries; a replay that had no answer has `failed`."""


@frozen
class EndedAttempt:
    """
    One attempt, as `component_http.interfaces.tracer.AttemptReport` has it; but `began` is in seconds since the epoch,
    and the answer is text.
    """

    number: int
    began: float
    seconds: float
    connecting: float | None
    first_byte: float | None
    status: int | None
    failure: str | None
    answer: str
    follows: str
    again: float | None


@frozen
class EndedStanza:
    """
    A stanza that the end of a delivery has sent.

    Attributes:
        number: Its number in the spool; None where it was not sent, as with most replays.
        fate: As `component_http.interfaces.tracer.Settlement`; None while nobody knows it.
        at: When its fate was known, in seconds since the epoch.
        why: Why it did not arrive, for a person.
        xml: Its beginning; only of a replay.
    """

    kind: str
    type: str | None
    id: str | None
    recipient: str
    size: int
    xml: str | None = None
    number: int | None = None
    fate: str | None = None
    at: float | None = None
    why: str | None = None


@frozen
class EndedDelivery:
    """
    A delivery that has ended, or a replay of one.

    Attributes:
        number: Its place in the log.
        replay: It is the replay of a delivery that ended before.
        accepted: When it was accepted, in seconds since the epoch; `ended` is when it ended. Those of a replay are its
            own begin and end.
        tries: POSTs that were made of it; those before a restart of the gateway are counted here, and not among the
            attempts.
        size: Bytes of the request body.
        has_body: The request body was kept, so it can be replayed.
    """

    number: int
    id: str
    replay: bool
    outcome: str
    note: str | None
    kind: str
    type: str
    stanza_id: str | None
    sender: str
    recipient: str
    through_room: bool
    uri: str
    route: str | None
    accepted: float
    ended: float
    tries: int
    size: int
    has_body: bool
    attempts: Sequence[EndedAttempt] = ()
    stanzas: Sequence[EndedStanza] = ()

    @property
    def stanza(self) -> Stanza:
        """The facts of its stanza. Raises `NotAnAddress` where an address cannot be read."""
        return Stanza(
            self.kind,
            self.type,
            self.stanza_id,
            Address.parse(self.sender),
            Address.parse(self.recipient),
            self.through_room,
            name_only(self.uri, self.kind),
        )

    @property
    def last(self) -> EndedAttempt | None:
        """Its last attempt; None where none is known."""
        return self.attempts[-1] if self.attempts else None


@frozen(kw_only=True)
class WhichEnded:
    """
    A filter: the deliveries that fit all of it; what is empty or None fits any.

    Attributes:
        id: The id, or its beginning.
        sender: A bare address means all of its resources, a full one only itself; `recipient` likewise. Both together
            are a conversation.
        since: The earliest time of acceptance, in seconds since the epoch; `until` is the latest.
        replays: False for no replays.
    """

    id: str = ""
    outcomes: Collection[str] = ()
    kinds: Collection[str] = ()
    sender: Address | None = None
    recipient: Address | None = None
    since: float | None = None
    until: float | None = None
    replays: bool = True


@frozen
class ReplayResult:
    """
    What came of a replay.

    Attributes:
        refused: Why there was no POST, as a sentence; None if there was one.
        delivery: The replay as it was recorded, with the stanzas that the webhook answered; None without a POST.
        sent: These stanzas were sent.
    """

    refused: str | None = None
    delivery: EndedDelivery | None = None
    sent: bool = False


def result_as_json(result: ReplayResult) -> dict[str, Any]:
    """Describe what came of a replay for another program."""
    replay = None if result.delivery is None else as_json(result.delivery)
    return {"refused": result.refused, "sent": result.sent, "replay": replay}


def stamp(seconds: float | None) -> str | None:
    """Write a moment, given in seconds since the epoch, for another program: `2026-11-22T12:30:45.123Z`."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError, OSError):
        return None


def as_json(ended: EndedDelivery, *, whole: bool = True) -> dict[str, Any]:
    """Describe a delivery for another program; a whole one with its attempts and its stanzas."""
    last = ended.last
    described: dict[str, Any] = {
        "number": ended.number,
        "id": ended.id,
        "replay": ended.replay,
        "outcome": ended.outcome,
        "note": ended.note,
        "kind": ended.kind,
        "type": ended.type or None,
        "stanza_id": ended.stanza_id,
        "from": ended.sender,
        "to": ended.recipient,
        "route": ended.route,
        "accepted": stamp(ended.accepted),
        "ended": stamp(ended.ended),
        "tries": ended.tries,
        "bytes": ended.size,
        "status": None if last is None else last.status,
        "can_be_replayed": ended.has_body,
    }
    if whole:
        described["attempts"] = [
            {
                "number": each.number,
                "began": stamp(each.began),
                "milliseconds": _milliseconds(each.seconds),
                "connecting_milliseconds": _milliseconds(each.connecting),
                "first_byte_milliseconds": _milliseconds(each.first_byte),
                "status": each.status,
                "failure": each.failure,
                "answer": each.answer,
                "follows": each.follows,
                "again_seconds": each.again,
            }
            for each in ended.attempts
        ]
        described["stanzas"] = [
            {
                "number": each.number,
                "kind": each.kind,
                "type": each.type,
                "id": each.id,
                "to": each.recipient,
                "bytes": each.size,
                "fate": each.fate,
                "at": stamp(each.at),
                "why": each.why,
                **({} if each.xml is None else {"xml": each.xml}),
            }
            for each in ended.stanzas
        ]
    return described


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
