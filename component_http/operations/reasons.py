"""Why something waits, and how an attempt ended, in a sentence for a person."""

from __future__ import annotations

from attrs import frozen

from component_http.operations.terminal import age

SENTENCES = {
    "running": "its POST is under way",
    "ending": "it has ended, which is being stored",
    "open_iq": "the webhook has said that it answers this iq later",
    "conversation": "it waits behind {behind} of the same conversation",
    "backing_off": "it backs off before the next attempt",
    "retry_after": "the webhook has asked for a pause (Retry-After)",
    "loop_brake": "its sender and the webhook answer each other, so its conversation is slowed down",
    "webhook_away": "the webhook fails, so one delivery at a time probes it",
    "webhook_probed": "the webhook fails, and a probe is under way",
    "webhook_gone": "the webhook is gone: it answered 410",
    "paused": "an operator has paused the webhook",
    "pace": "the webhook takes only so many requests per second",
    "rate": "the limit of webhook.rate is reached",
    "outbox_full": "too many answers wait for the XMPP server, so no POST begins",
    "no_room": "it is retried, and waits until there is room beside what comes live",
    "stopping": "the gateway is stopping; it is tried at the next start",
    "turn": "it waits for its turn: as many POSTs are under way as may be",
    "stream_away": "there is no stream to the XMPP server now",
    "suspect": "the server may have closed the stream because of it, so it is written alone",
    "server": "it waits until it is written and the XMPP server has confirmed it",
    "no_gateway": "no gateway runs; it is tried at the next start",
    "not_known": "the gateway has not said why",
}
"""A sentence for each name: first those of `Explanation`, then those of stanzas, then those of both."""


@frozen
class Reason:
    """
    Why something waits.

    Attributes:
        held_by: The name of what it waits for: one of `Explanation`, or another one of `SENTENCES`.
        behind: The name of the delivery that it waits behind; its id if that is not in the spool.
        next_attempt: When it is tried next, in seconds since the epoch.
        last_failure: Why its last attempt failed.
    """

    held_by: str
    behind: str | None = None
    next_attempt: float | None = None
    last_failure: str | None = None

    def sentence(self, now: float) -> str:
        words = SENTENCES[self.held_by].format(behind=self.behind)
        if self.next_attempt is None:
            return words
        then = next_try(self.next_attempt, now)
        # Which delivery probes the webhook next is not known.
        return f"{words}; {then.replace('try', 'probe') if self.held_by == 'webhook_away' else then}"

    def in_a_list(self, now: float, known: str | None) -> str:
        """Say the same, and why the last attempt failed, unless that is known already."""
        failure = None if self.last_failure == known else self.last_failure
        return "; last failure: ".join(filter(None, (self.sentence(now), failure)))


def next_try(at: float | None, now: float) -> str:
    """Say when the webhook is asked next; `at` is None while it is being probed."""
    if at is None:
        return "a probe is under way"
    return f"next try in {age(at - now)}" if at - now >= 1 else "next try now"


_FOLLOWS = {
    "retry": "the next attempt in {again:.1f} s",
    "left_open": "the webhook answers later",
    "cut_off": "it was cut off",
    "internal_error": "an internal error, which the log has",
}
"""What follows an attempt that ends no delivery."""


def attempt_in_words(
    number: int,
    status: int | None,
    failure: str | None,
    seconds: float,
    connecting: float | None,
    first_byte: float | None,
    follows: str,
    again: float | None,
) -> str:
    """Say how an attempt ended; the arguments are as in `interfaces.tracer.AttemptReport`."""
    times = [duration(seconds)]
    if connecting is not None:
        times.append(f"connected in {duration(connecting)}")
    if first_byte is not None:
        times.append(f"first byte after {duration(first_byte)}")
    result = f"status {status}" if status is not None else f"failed: {failure}"
    then = f"; {_FOLLOWS[follows].format(again=again or 0.0)}" if follows in _FOLLOWS else ""
    return f"attempt {number}: {result} ({', '.join(times)}){then}"


def duration(seconds: float) -> str:
    """Write how long something took: `12.3 ms`."""
    return f"{seconds * 1000:.1f} ms" if abs(seconds) < 1 else f"{seconds:.1f} s"
