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
    "pace",
    "outbox_full",
    "no_room",
    "stopping",
    "turn",
]
"""
The names of what a delivery waits for.

`running`: its POST is under way. `ending`: its end is being stored. `open_iq`: the webhook answers this iq later.
`conversation`: an earlier delivery of the same conversation. `backing_off`: the time before its next attempt.
`retry_after`: the time that the webhook has asked for. `loop_brake`: its conversation is a loop and is slowed down.
`webhook_away`: the webhook fails, and is probed again later. `webhook_probed`: the end of a probe. `webhook_gone`:
nothing, the webhook said 410. `pace`: the webhook takes only so many requests per second. `outbox_full`: too many
answers wait to be sent. `no_room`: it is retried, and waits for room beside what comes live. `stopping`: the next start
of the gateway. `turn`: a free place, because as many POSTs are under way as may be.
"""


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
