"""The state of a gateway between the stream and the webhook."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import frozen

STATES = ("gone", "stopping", "paused", "open", "half_open", "closed", "none")
"""The states of a webhook, the least well first."""


def least_well(states: Iterable[str]) -> str:
    """Find the least well of some webhooks' states; `none` if there are none."""
    return min(states, key=STATES.index, default="none")


@frozen
class Status:
    """
    The state of a gateway.

    Attributes:
        pending: Deliveries accepted and not ended; `pending_bytes` are their request bodies.
        running: Deliveries with a POST under way.
        webhook: `closed`: it is asked as usual. `open`: it failed, so deliveries wait. `half_open`: some of them probe
            it.
            `paused`: an operator has paused it. `gone`: it said 410 and is not asked any more. `none`: there is none.
        obstacles: Why no more should be sent here now, a phrase each; none means that all is well.
        failing_for: Seconds for which nothing but failures came from the webhook; None while it is well.
        last_failure: Why the last attempt that failed did; None if none did.
        certificate_ends: The earliest end of a certificate that a webhook has shown, or that we show one, in seconds
            since the epoch; None before a connection with TLS.
        oldest: Seconds since the delivery was accepted that is pending longest; None if none is. A dead letter that is
            retried counts as the newest.
        next_attempt: Seconds until the webhook may be asked, 0.0 for now; None while that depends on what is under way.
    """

    pending: int
    pending_bytes: int
    running: int
    webhook: str
    obstacles: tuple[str, ...]
    failing_for: float | None = None
    last_failure: str | None = None
    next_attempt: float | None = None
    certificate_ends: float | None = None
    oldest: float | None = None
