"""The names of all events, so that one that never happened is told as 0."""

from __future__ import annotations

OUTCOMES = ("replied", "silent", "bounced", "expired", "refused_reply")
"""The ways in which a delivery can end."""

EVENTS = (
    # The stream.
    *("connected", "connection_failed", "stream_lost", "barrier_sent", "barrier_returned", "barrier_ignored"),
    *("reading_paused", "writing_held"),
    # Stanzas that come.
    *("oversized", "malformed", "foreign", "not_forwarded", "reflection", "history"),
    *("refused_full", "refused_conversation_full", "refused_unfair", "refused_gone", "refused_stopping"),
    *("refused_unstored", "refusals_untold", "spool_failed", "disk_full", "unlogged"),
    # Deliveries.
    *("accepted", "restored", *OUTCOMES, "left", "not_served"),
    *("loop_guarded", "loop_slowed", "reply_lost"),
    # The webhook.
    *("attempted", "retried", "left_open", "retried_stale", "throttled", "webhook_paused"),
    *(
        "breaker_opened",
        "breaker_closed",
        "replayed",
        "gone",
        "attempt_timed_out",
        "attempt_failed",
        "redirected",
        "body_ignored",
    ),
    # The settings.
    *("reloaded", "reload_refused"),
    # Stanzas that leave.
    *("unsendable", "unanswered", "outgoing_full", "announced", "outgoing_lost", "outgoing_refused"),
    *("outgoing_expired", "unconfirmed_forgotten", "push_bounced", "room_entered", "room_refused", "room_lost"),
    # The API.
    *("api_pushed", "api_asked", "api_unanswered", "api_full", "api_refused", "api_unauthorized", "api_limited"),
    *("api_failed", "api_busy", "api_evicted"),
    # The operator in the chat.
    *("operator_told", "operator_asked", "operator_refused"),
)
"""The table of counters in `docs/architecture.md` says what each of them is."""
