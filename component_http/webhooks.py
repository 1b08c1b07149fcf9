"""The webhooks of a component, and all that goes by their settings: made at the start, and changed by a reload."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from component_http.certificates import FilesUnusable, TlsFiles
from component_http.contract import reply
from component_http.contract.conditions import StanzaError, error_of_status
from component_http.contract.delivery import Delivery
from component_http.contract.reply import Response, Verdict
from component_http.contract.stanza import Stanza
from component_http.delivery.breaker import Breaker
from component_http.delivery.deadlines import LATE_SECONDS, Times
from component_http.delivery.forwarder import Forwarder
from component_http.delivery.health import Health
from component_http.delivery.load import Load, Quota
from component_http.delivery.loop_brake import LoopBrake
from component_http.delivery.loop_guard import LoopGuard
from component_http.delivery.outcomes import Outcomes
from component_http.delivery.retry import RetryPolicy
from component_http.errors import SettingsError
from component_http.ids import new_id
from component_http.interfaces import Webhook
from component_http.interfaces.tracer import Tracers
from component_http.settings import Settings, WebhookSettings
from component_http.sizing import backlog_limits, deadlines, lifetimes, webhook_connections
from component_http.webhook.client import WebhookClient
from component_http.webhook.function import FixedWebhook, response_of

if TYPE_CHECKING:
    from component_http.wiring import Lasting, Parts


def connections(settings: Settings, lasting: Lasting) -> int:
    return webhook_connections(settings, lasting.webhooks)


def most_running(lasting: Lasting) -> int:
    """The deliveries that may run at once: as many as there can be connections to all webhooks together."""
    settings = lasting.settings
    return sum(connections(each, lasting) for each in (settings, *settings.of_routes.values()))


def new_webhooks(before: Settings | None, lasting: Lasting) -> dict[str | None, Webhook]:
    """
    Make the webhooks of a component: by None its own, if it has one, and by its name that of each route.

    Args:
        before: Settings by which some were made: only those that differ are made.

    Raises:
        SettingsError: The settings of a webhook cannot be used.
    """
    made: dict[str | None, Webhook] = {}
    settings = lasting.settings
    if lasting.webhook is not None:
        made[None] = lasting.webhook
    elif before is None or _posting(before) != _posting(settings):
        client = webhook_client(settings, lasting.reactor, connections(settings, lasting), lasting.tracers)
        if client is not None:
            made[None] = client
    for route in settings.component.route:
        one = settings.of_routes[route.name]
        if (
            before is not None
            and route in before.component.route
            and _posting(before.of_routes[route.name]) == _posting(one)
        ):
            continue
        client = webhook_client(one, lasting.reactor, connections(one, lasting), lasting.tracers)
        made[route.name] = client or FixedWebhook(response_of(route.reply))
    return made


def _posting(settings: Settings) -> tuple[str | None, WebhookSettings]:
    return settings.component.component_post_url, settings.webhook


def make_forwarder(
    lasting: Lasting, settings: Settings, webhook: Webhook | None, link: Callable[[Delivery], str | None] | None
) -> Forwarder:
    """Make the forwarder of a webhook; `settings` are those of the component, or of one of its routes."""
    delivery = settings.delivery
    retries = delivery.max_attempts > 1
    counters, reactor, rate = lasting.counters, lasting.reactor, settings.webhook.rate
    durations = lasting.durations
    health = Health(
        counters,
        Load(connections(settings, lasting), learns=retries, quota=None if rate is None else Quota(*rate)),
        Breaker() if retries else Breaker(in_a_row=sys.maxsize, requests=sys.maxsize),  # it never opens
        reactor,
    )
    return Forwarder(
        webhook,
        health,
        Outcomes(*_judgement(lasting), health, counters, reactor),
        counters,
        policy=policy_of(settings),
        clock=reactor,
        wall=time.time,
        draw=Random().random,
        link=link,
        took=None if durations is None else durations.attempt.add,
        waited=None if durations is None else durations.queue_wait.add,
        tracers=lasting.tracers,
    )


def times_of(settings: Settings) -> Times:
    delivery = settings.delivery
    late_seconds = max(LATE_SECONDS, settings.webhook.timeout)
    return Times(deadlines(delivery), grace=delivery.outage_grace, late_seconds=late_seconds)


def policy_of(settings: Settings) -> RetryPolicy:
    return RetryPolicy(max_attempts=settings.delivery.max_attempts, cap=settings.delivery.retry_cap)


def loops_of(settings: Settings) -> tuple[LoopGuard | None, LoopBrake | None]:
    limit = settings.delivery.loop_guard
    return LoopGuard(*limit) if isinstance(limit, tuple) else None, LoopBrake() if limit is None else None


def _judgement(lasting: Lasting) -> tuple[Callable[[Stanza, Response], Verdict], StanzaError | None]:
    """Make the judge of responses, and the error for senders after a 410 if that ends everything."""
    settings = lasting.settings
    judge = partial(
        reply.judge,
        domain=settings.component.domain,
        limits=lasting.limits,
        new_id=new_id,
        status_errors=settings.conditions,
    )
    return judge, error_of_status(410, settings.conditions) if settings.delivery.on_gone == "disable" else None


def adapt(
    parts: Parts,
    before: Settings,
    lasting: Lasting,
    webhooks: Mapping[str | None, Webhook],
    link: Callable[[Delivery], str | None],
) -> list[WebhookClient]:
    """
    Let the parts of a run go by new settings of webhooks and routes, and of the delivery.

    Args:
        before: The settings until now.
        lasting: Has the new settings.
        webhooks: As `new_webhooks` makes them.
        link: As in `assemble`.

    Returns:
        The clients that are not used any more.
    """
    settings, relay = lasting.settings, parts.relay
    new: dict[str, Forwarder] = {}
    for name, one in ((None, settings), *settings.of_routes.items()):
        webhook = webhooks.get(name)
        if name is not None and name not in relay.lanes:
            assert webhook is not None
            new[name] = make_forwarder(lasting, one, webhook, link if lasting.has_api else None)
            continue
        forwarder = relay.lanes[name].forwarder
        forwarder.outcomes.use(*_judgement(lasting))
        forwarder.policy = policy_of(settings)
        former = before if name is None else before.of_routes.get(name)
        if webhook is not None:
            forwarder.use(webhook)
        moved = former is None or _posting(former)[0] != _posting(one)[0]
        if moved or former is None or former.webhook != one.webhook:
            rate = one.webhook.rate
            quota = None if rate is None else Quota(*rate)
            forwarder.health.adapt(connections(one, lasting), quota, moved=moved)
    relay.times.use(times_of(settings))
    if before.delivery.loop_guard != settings.delivery.loop_guard:
        relay.loops.use(*loops_of(settings))
    lasting.lifetimes.update(lifetimes(settings.delivery))
    parts.backlog.use(backlog_limits(settings), most_running(lasting))
    if before.component.route != settings.component.route:
        relay.use_routes(settings.component.routes, new)
    relay.adapt()
    gone = [name for name in parts.clients if name in webhooks or (name is not None and name not in settings.of_routes)]
    unused = [parts.clients.pop(name) for name in gone]
    parts.clients.update({name: each for name, each in webhooks.items() if isinstance(each, WebhookClient)})
    return unused


def webhook_client(
    settings: Settings, reactor: Any, connections: int = 1, tracers: Tracers | None = None
) -> WebhookClient | None:
    """
    Make the client for the webhook of the settings, with so many connections at most; None if they name none. It opens
    nothing before its first POST.

    Raises:
        SettingsError: The webhook's settings cannot be used.
    """
    webhook, url = settings.webhook, settings.component.component_post_url
    if url is None:
        return None
    try:
        return WebhookClient(
            url,
            reactor=reactor,
            timeout=webhook.timeout,
            connect_timeout=webhook.connect_timeout,
            max_connections=connections,
            max_body_bytes=webhook.max_body_bytes,
            headers=webhook.headers,
            bearer_token=webhook.bearer_token,
            signing_secrets=webhook.signing_secrets,
            tls=TlsFiles(webhook.ca_file, webhook.client_certificate, webhook.client_key, webhook.crl_file),
            server_name=webhook.server_name,
            proxy=webhook.proxy,
            tracers=tracers,
        )
    except FilesUnusable as error:
        raise SettingsError(str(error)) from None
    except ValueError as error:
        raise SettingsError(
            f"component.component_post_url (--post-url) or the [webhook] table cannot be used: {error}"
        ) from error
