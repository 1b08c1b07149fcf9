"""One stanza on its way to the webhook."""

from __future__ import annotations

from attrs import define, field

from component_http.contract.reply import Response
from component_http.contract.stanza import Stanza
from component_http.errors import WebhookError

__all__ = ["Delivery"]


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
