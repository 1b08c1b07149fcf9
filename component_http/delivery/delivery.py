"""One stanza on its way to the webhook."""

from __future__ import annotations

from attrs import define, field, frozen

from component_http.contract.reply import Response
from component_http.contract.stanza import Stanza
from component_http.errors import WebhookError

__all__ = ["Delivery", "Letter"]


@define(eq=False)
class Delivery:
    """
    A stanza that was accepted, and how far it has come. Its request body is in the spool.

    Attributes:
        id: The `webhook-id`: unique per stanza, the same on every attempt.
        stanza: What arrived; only its facts.
        size: Bytes of the request body.
        deadline: When it is given up, in seconds of the relay's clock.
        tries: POSTs that were begun, but for the repetition of one that met a dead connection.
        attempts: Those of them that failed by the webhook's fault, and so count against `max_attempts`.
        failure: What came of the last one, without any content; None before the first has ended.
        conversation: `stanza.conversation`, which is asked for at each turn.
    """

    id: str
    stanza: Stanza
    size: int
    deadline: float
    tries: int = 0
    attempts: int = 0
    failure: Response | WebhookError | None = None
    conversation: tuple[str, str, bool] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.conversation = self.stanza.conversation


@frozen
class Letter:
    """
    What became of a delivery that was given up, for its dead letter; the rest is in the spool.

    Attributes:
        outcome: How it ended: `bounced`, `expired` or `refused_reply`.
        note: Why, for a person.
        tries: POSTs that were made of it.
        status: The HTTP status that came last, or None.
        media_type: Its media type, or None.
        response: Its body, or the beginning of it; None where none is known.
    """

    outcome: str
    note: str
    tries: int
    status: int | None = None
    media_type: str | None = None
    response: bytes | None = None
