"""One stanza on its way to the webhook."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf

from attrs import define, field, frozen

from component_http.contract.reply import Response
from component_http.contract.stanza import Stanza
from component_http.errors import WebhookError


class Stage:
    """A stage in the life of a delivery, by its name; `component_http.delivery.life` has them all."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<{self.name}>"

    def cancel(self) -> None:
        """Stop what goes on at this stage; mostly that is nothing."""


NEW = Stage("new")
"""Nobody has it in charge yet."""


@define(eq=False, weakref_slot=False)
class Delivery:
    """
    A stanza that was accepted, and how far it has come. Its request body is in the spool.

    Attributes:
        id: The `webhook-id`: unique per stanza, the same on every attempt.
        stanza: Only the facts of the stanza.
        size: Bytes of the request body.
        deadline: When it is given up, in seconds of the relay's clock.
        last: When it is given up if the webhook has not seen it by then, not before `deadline`.
        accepted: When it was accepted; None where nobody knows.
        tries: POSTs that were begun, but for those that found no connection, and the repetition of one that met a dead
            connection. Without any the webhook has not seen it.
        unreached: Attempts in a row that found no connection.
        attempts: Tries that failed by the webhook's fault, and so count against `max_attempts`.
        failure: The result of the last attempt, without any content; None before the first has ended.
        route: The name of the route that took it; None for the component's own webhook.
        conversation: `stanza.conversation`, which is asked for at each turn.
    """

    id: str
    stanza: Stanza
    size: int
    deadline: float
    tries: int = 0
    attempts: int = 0
    failure: Response | WebhookError | None = None
    last: float = -inf
    accepted: float | None = None
    unreached: int = 0
    route: str | None = None
    conversation: tuple[str, str, bool] = field(init=False)
    stage: Stage = field(init=False, default=NEW)

    def __attrs_post_init__(self) -> None:
        self.conversation = self.stanza.conversation
        self.last = max(self.deadline, self.last)

    @property
    def ends(self) -> float:
        """The time when it is given up, as things are now."""
        return self.deadline if self.tries else self.last


def by_domain(deliveries: Iterable[Delivery]) -> dict[str, list[Delivery]]:
    """Sort deliveries by the components that they are for."""
    found: dict[str, list[Delivery]] = {}
    for delivery in deliveries:
        found.setdefault(delivery.stanza.recipient.domain, []).append(delivery)
    return found


@frozen
class DeadLetter:
    """
    The end of a delivery that was given up, for its dead letter; the rest is in the spool.

    Attributes:
        outcome: `bounced`, `expired` or `refused_reply`.
        note: The reason, for a person.
        tries: POSTs that were made of it.
        status: The HTTP status that came last, with `media_type`; None without a response.
        response: Its body, or the beginning of it; None where none is known.
    """

    outcome: str
    note: str
    tries: int
    status: int | None = None
    media_type: str | None = None
    response: bytes | None = None
