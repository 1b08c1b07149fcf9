"""Why a delivery has not ended, for an operator who asks."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

HeldBy = Literal[
    "running",
    "ending",
    "open_iq",
    "conversation",
    "backing_off",
    "retry_after",
    "loop_brake",
    "webhook_away",
    "webhook_probed",
    "webhook_gone",
    "paused",
    "pace",
    "rate",
    "outbox_full",
    "no_room",
    "stopping",
    "turn",
]
"""The names of what a delivery waits for; `component_http.commands.pending` has a sentence for each."""


@frozen
class Explanation:
    """
    The reason why one delivery has not ended.

    Attributes:
        behind: The id of the delivery that it waits behind; None unless `held_by` is `conversation`.
        next_attempt: Seconds until its next attempt may begin; None where that depends on something else than time.
        last_failure: Why its last attempt failed; None if none did since the gateway started.
    """

    held_by: HeldBy
    behind: str | None = None
    next_attempt: float | None = None
    last_failure: str | None = None
