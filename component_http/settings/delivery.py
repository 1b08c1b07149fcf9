"""The table [delivery]."""

from __future__ import annotations

from typing import ClassVar, Literal

from attrs import frozen

from component_http.errors import SettingsError
from component_http.settings.declaration import Table, retired, setting
from component_http.settings.values.plain import LOOP_GUARD, choice, number, whole
from component_http.settings.values.value_type import accepted

MESSAGE_DEADLINE = 900.0

OUTAGE_GRACE = 86_400.0

_GRACE = number(0, 604_800, "seconds")


def _grace(value: object, owner: DeliverySettings) -> float:
    """Take the grace given, or else a day; or no grace if somebody has decided how long a message may take."""
    if value is None:
        return OUTAGE_GRACE if owner.message_deadline == MESSAGE_DEADLINE else 0.0
    grace: float = accepted("delivery.outage_grace", value, _GRACE)
    return grace


_NO_BUDGET = "there is no retry budget"
_BREAKER = "POSTs always stop when all of 20 or more requests within 10 seconds have failed"
_READING = "reading always pauses at 75 percent of max_pending, and goes on at 50 percent"


@frozen
class DeliverySettings(Table):
    """The delivery of stanzas to the webhook."""

    TABLE: ClassVar[str] = "delivery"

    max_attempts: int = setting(
        whole(1, 100, "attempts"),
        "the most attempts at one stanza that may fail by the webhook's fault; 1 means exactly one POST, whatever"
        " happens",
        default=10,
        why="attempts do not count while the webhook cannot be reached or is busy: then only the deadline ends them",
    )
    message_deadline: float = setting(
        number(1, 86_400, "seconds"),
        "the time in which a message has to be answered; after it the sender gets a stanza error",
        default=MESSAGE_DEADLINE,
        why="long enough to restart or redeploy a bot, short enough for a person to remember the question",
    )
    iq_deadline: float = setting(
        number(1, 86_400, "seconds"),
        "the time in which an iq has to be answered; after it the sender gets a stanza error",
        default=25.0,
        why="clients stop waiting for an answer after about 30 seconds",
    )
    presence_deadline: float = setting(
        number(1, 86_400, "seconds"),
        "the time in which a presence has to be delivered; after it the gateway gives it up, and tells nobody",
        default=60.0,
        why="an older presence no longer says anything",
    )
    outage_grace: float = setting(
        _GRACE,
        "the time after its acceptance for which a message waits if the webhook could not be asked about it before"
        " message_deadline; 0 lets it wait no longer than message_deadline",
        default=None,
        resolve=_grace,
        why="unless set it is 86400, or 0 if message_deadline differs from its default: so every message reaches a"
        " webhook that was away for hours, and who asks for an error after minutes gets one",
        example="86400.0",
    )
    retry_base: object = retired("the first back-off is always up to half a second")
    retry_cap: float = setting(
        number(0.01, 3600, "seconds"),
        "the longest back-off before any attempt, unless the webhook asks for more by Retry-After; while the webhook"
        " cannot be reached the longest is 2 seconds, and after a 429 it is 10",
        default=60.0,
        why="a stanza at which a webhook fails should not keep it busy",
    )
    retry_budget_percent: object = retired(_NO_BUDGET)
    retry_budget_per_second: object = retired(_NO_BUDGET)
    longest_pause: object = retired("a 503 with Retry-After always stops all POSTs for a minute at most")
    breaker_in_a_row: object = retired("POSTs always stop after 5 conversations have failed in a row")
    breaker_requests: object = retired(_BREAKER)
    breaker_percent: object = retired(_BREAKER)
    breaker_window: object = retired(_BREAKER)
    breaker_probe_interval: object = retired("a webhook that fails is always probed every 2 seconds")
    on_gone: str = setting(
        choice("bounce", "disable"),
        "the meaning of a 410 Gone: an error for the one stanza, or no more POSTs until the next start",
        default="bounce",
        why="some webhook hosts answer 410 for an address that was deleted on purpose",
    )
    loop_guard: tuple[int, float] | Literal["off"] | None = setting(
        LOOP_GUARD,
        "the most replies in one conversation within a time, such as 20/10s; the gateway sends none beyond it, except"
        " for iqs. Unless it is set, a conversation in which two programs clearly answer each other is slowed down to"
        " one request a second; off switches that off as well",
        default=None,
        why="two bots that answer each other never stop; a fixed limit would hit healthy load",
        example='"20/10s"',
    )
    max_pending: int | None = setting(
        whole(10, 1_000_000, "stanzas"),
        "the most accepted stanzas that are not yet done; the sender of any other gets a wait error. Where other"
        " domains have used up the limit, a domain that holds little may exceed it by fair_share_percent. Unless set,"
        " 140000 with an sqlite spool, or 10000 with one in memory",
        default=None,
        why="it bounds memory while the webhook is slow or away: each takes about 1.4 KB of it, and in a memory spool"
        " its request body too",
        example="20000",
    )
    max_pending_bytes: int | None = setting(
        whole(1_048_576, 4_294_967_296, "bytes"),
        "the most bytes in the request bodies of these stanzas; unless set 1 GiB with an sqlite spool, or 64 MiB with"
        " one in memory",
        default=None,
        why="it bounds the file, or the memory, when the stanzas are large; a single large one would not fit into less"
        " than 1 MiB",
        example="268435456",
    )
    max_per_conversation: int = setting(
        whole(1, 1_000_000, "stanzas"),
        "the most of these stanzas in one conversation, which is from one bare address to another; iqs do not count",
        default=1000,
        why="a conversation is delivered one by one, and nobody waits for the thousandth answer",
    )
    fair_above_percent: object = retired("a sender's share always counts from half of max_pending on")
    fair_share_percent: float = setting(
        number(0.1, 100, "percent"),
        "the share of max_pending that one sender may hold once half of it is used, and that one domain leaves to"
        " others while these have something pending; 100 switches both off",
        default=10.0,
        why="so a flood from one account, or from many of one domain, takes no room from others",
    )
    pause_above_percent: object = retired(_READING)
    resume_below_percent: object = retired(_READING)
    drain_timeout: float = setting(
        number(0, 600, "seconds"),
        "the time that accepted stanzas have to be done when the gateway stops; after it their senders get a wait"
        " error",
        default=20.0,
        why="service managers usually kill a service that has not stopped after 90 seconds",
    )

    def __attrs_post_init__(self) -> None:
        if 0 < self.outage_grace < self.message_deadline:
            raise SettingsError(
                f"delivery.outage_grace is {self.outage_grace:g}, but must be 0 or not below delivery.message_deadline,"
                f" which is {self.message_deadline:g}: a message waits that long in any case"
            )
