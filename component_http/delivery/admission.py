"""The decision whether a stanza may come in, and the reason if it may not."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from attrs import frozen

from component_http.contract import conditions
from component_http.contract.conditions import StanzaError
from component_http.contract.delivery import Delivery
from component_http.delivery.backlog import Backlog
from component_http.delivery.rounds import Conversation

TIGHT = 0.25
"""The part of the backlog's limits from which on it is asked for room before a request body is written."""

MAX_STORING_BYTES = 16 * 1024 * 1024
"""Bytes of request bodies that wait to be stored, in memory, beyond which no more are accepted."""

PAUSE_STORING = 1000
PAUSE_STORING_BYTES = 4 * 1024 * 1024
"""Deliveries that wait to be stored, and their bytes, above which reading pauses until all of them are."""

REASONS: Mapping[str, str] = MappingProxyType(
    {
        "refused_full": "max_pending or max_pending_bytes is reached",
        "refused_conversation_full": "max_per_conversation is reached",
        "refused_unfair": "there is little room, and one sender holds more than fair_share_percent of it, or one domain"
        " all but that",
        "refused_gone": "the webhook is gone",
        "refused_stopping": "the gateway is stopping",
        "refused_unstored": "the spool cannot keep them",
    }
)
"""Why a stanza is refused, in words for the log, by the name of what to count."""


@frozen
class Refused:
    """
    A stanza may not come in.

    Attributes:
        event: What to count, one of `REASONS`.
        error: What its sender is told.
        why: More for the log, or "".
    """

    event: str
    error: StanzaError
    why: str = ""


_TOO_SLOW = Refused("refused_unstored", conditions.FULL, "it does not keep up with what comes")


def closed(*, stopping: bool, gone: StanzaError | None) -> Refused | None:
    """
    Say why nothing may come in at all; None if something may.

    Args:
        stopping: The gateway is stopping.
        gone: What senders are told since the webhook is gone; None while it is not.
    """
    if stopping:
        return Refused("refused_stopping", conditions.STOPPING)
    return None if gone is None else Refused("refused_gone", gone)


class Admission:
    """
    Says whether there is room for one more stanza, and counts what is on its way into the spool.

    The backlog reserves room for what is stored, so that it counts for all limits.

    Args:
        backlog: Knows what is pending.

    Attributes:
        much_to_store: So much waits to be stored that reading should pause, until none of it does.
    """

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        self._storing = 0
        self._storing_bytes = 0
        self.much_to_store = False

    @property
    def is_tight(self) -> bool:
        """So much is pending that a stanza may well be refused."""
        return self._backlog.used > TIGHT

    @property
    def crowded(self) -> bool:
        """So much is pending that reading should pause."""
        return self._backlog.crowded

    @property
    def relieved(self) -> bool:
        """So little is pending that reading should go on."""
        return self._backlog.relieved

    def refusal(self, conversation: Conversation, size: int) -> Refused | None:
        """
        Say why there is no room for a stanza; None if there is.

        Args:
            conversation: The one it belongs to.
            size: Bytes of its request body; 0 to ask before that is written.
        """
        full = self._backlog.refusal(conversation, size)
        if full is not None:
            return Refused(full, conditions.FULL)
        if size and self._storing and self._storing_bytes + size > MAX_STORING_BYTES:
            return _TOO_SLOW
        return None

    def begin(self, delivery: Delivery) -> None:
        """A delivery is about to be stored."""
        self._storing += 1
        self._storing_bytes += delivery.size
        self._backlog.reserve(delivery.conversation, delivery.size)
        if self._storing > PAUSE_STORING or self._storing_bytes > PAUSE_STORING_BYTES:
            self.much_to_store = True

    def stored(self, delivery: Delivery) -> None:
        """Note that a delivery was stored; the backlog uses its reserved room, by `add`."""
        self._storing -= 1
        self._storing_bytes -= delivery.size
        if not self._storing:
            self.much_to_store = False

    def not_stored(self, delivery: Delivery) -> None:
        """Give back the room of a delivery that could not be stored."""
        self.stored(delivery)
        self._backlog.release(delivery.conversation, delivery.size)
