"""The limits of everything: from the settings, and from the files that the process may open."""

from __future__ import annotations

import resource
import sys

from component_http.contract.outbound import LIFETIMES
from component_http.delivery.backlog import BacklogLimits
from component_http.settings import DeliverySettings, Settings

FILES_BESIDE = 24
"""
Files that the process may open beside connections to the webhook and to the API: the stream, the spool's, the log, and
what Python and Twisted need. Without them a lost stream could not be connected again while these are busy.
"""

OPERATIONS_CONNECTIONS = 10
"""Connections at once to the port for those who watch the gateway: a few programs ask there, every few seconds."""

WATCHERS = 4
"""Watchers of conversations at once, so that others still have places at this port. Each costs time with each step."""

MOST_PENDING = {"memory": 10_000, "sqlite": 100_000}
"""Deliveries that may be pending, by the kind of the spool, unless it is set."""

MOST_PENDING_BYTES = {"memory": 64 * 1024 * 1024, "sqlite": 1024 * 1024 * 1024}
"""Bytes of the request bodies of all pending deliveries, by the kind of the spool, unless it is set."""


def deadlines(delivery: DeliverySettings) -> dict[str, float]:
    """Seconds that a delivery may take, by the kind of its stanza."""
    return {"message": delivery.message_deadline, "iq": delivery.iq_deadline, "presence": delivery.presence_deadline}


def lifetimes(delivery: DeliverySettings) -> dict[str, float]:
    """Seconds until an outbound stanza expires, by its kind."""
    return {**LIFETIMES, "iq": delivery.iq_deadline}


def backlog_limits(settings: Settings) -> BacklogLimits:
    """The limits of a component's backlog: the settings with fractions in place of percents."""
    delivery, kind = settings.delivery, settings.spool.kind
    return BacklogLimits(
        max_pending=delivery.max_pending or MOST_PENDING[kind],
        max_pending_bytes=delivery.max_pending_bytes or MOST_PENDING_BYTES[kind],
        max_per_conversation=delivery.max_per_conversation,
        fair_share=delivery.fair_share_percent / 100,
    )


def most_of_all(settings: Settings) -> tuple[int, int]:
    """
    Deliveries that may be pending of all components together, and bytes of their request bodies.

    They are what one alone may have unless it is set, or the largest that is set.
    """
    kind = settings.spool.kind
    return (
        max([MOST_PENDING[kind], *(each.delivery.max_pending or 0 for each in settings.each)]),
        max([MOST_PENDING_BYTES[kind], *(each.delivery.max_pending_bytes or 0 for each in settings.each)]),
    )


def _open_files() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def api_connections(settings: Settings) -> int:
    """Connections to the API at once: `max_connections`, or a quarter of the files; 0 without an API."""
    if settings.api.listen is None:
        return 0
    return max(1, min(settings.api.max_connections, (_open_files() - FILES_BESIDE) // 4))


def operations_connections(settings: Settings) -> int:
    """Connections at once to the port for those who watch the gateway; 0 without it."""
    return 0 if settings.operations.listen is None else OPERATIONS_CONNECTIONS


def webhooks_of(settings: Settings) -> int:
    """The webhooks of all components: of each its own, and those of its routes."""
    return sum(1 + len(each.of_routes) for each in settings.each)


def webhook_connections(settings: Settings, webhooks: int = 1) -> int:
    """
    Connections to one of so many webhooks at once: `max_connections`, or as many as there can be files for.
    """
    # As many clients again may wait to be told that there are too many.
    clients = api_connections(settings) + operations_connections(settings)
    beside = FILES_BESIDE + webhooks - 1 + 2 * clients
    return max(1, min(settings.webhook.max_connections, (_open_files() - beside) // webhooks))


def too_few_files(settings: Settings, *, has_webhook: bool) -> list[str]:
    """Sentences about each `max_connections` that the process has too few files for."""
    of_each = [
        ("webhook", each.webhook.max_connections, webhook_connections(each, webhooks_of(settings)))
        for each in settings.each
    ]
    found = [max(of_each, key=lambda one: one[1] - one[2])] if has_webhook else []
    if settings.api.listen is not None:
        found.append(("api", settings.api.max_connections, api_connections(settings)))
    return [
        f"{table}.max_connections is {wanted}, but this process may have {_open_files()} files open (ulimit -n, or"
        f" LimitNOFILE of its unit): there are at most {affordable} connections at once"
        for table, wanted, affordable in found
        if affordable < wanted
    ]
