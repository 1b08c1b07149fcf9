"""Conversations that the webhook wants nothing of for a while."""

from __future__ import annotations

from attrs import frozen

from component_http.contract.delivery import Delivery
from component_http.contract.reply import Response
from component_http.delivery.rounds import Conversation
from component_http.errors import WebhookError
from component_http.shares import Latest

MAX_BANS = 10_000
"""Conversations that are known to want a pause beyond the delivery that was told so; the oldest are forgotten."""


@frozen
class Ban:
    """
    The webhook wants nothing of a conversation for a while.

    Attributes:
        until: When it may be asked again.
        response: How it said so; without any content.
    """

    until: float
    response: Response | WebhookError | None


class Bans:
    """The conversations that are to be left alone, as `Retry-After` has asked in answer to a delivery that ended."""

    def __init__(self) -> None:
        self._bans: Latest[Conversation, Ban] = Latest(MAX_BANS)

    def add(self, delivery: Delivery, until: float) -> None:
        """Leave the conversation of a delivery alone that has ended by being told so."""
        failure = delivery.failure
        response = Response(failure.status) if isinstance(failure, Response) else failure
        self._bans[delivery.conversation] = Ban(until, response)

    def of(self, conversation: Conversation, now: float) -> Ban | None:
        """Say whether a conversation is to be left alone now."""
        ban = self._bans.get(conversation)
        if ban is not None and ban.until <= now:
            del self._bans[conversation]
            return None
        return ban

    def clear(self) -> None:
        """Leave nobody alone."""
        self._bans.clear()
