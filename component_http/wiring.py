"""The parts of a gateway, made from the settings and connected: those that last, and those of one run."""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from os import urandom
from random import Random
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from attrs import frozen
from twisted.words.xish.domish import Element
from wokkel.subprotocols import StreamManager, XMPPHandler

from component_http import __version__
from component_http.contract import composing, reply
from component_http.contract.address import Address
from component_http.contract.composing import MAX_REPLIES, Composed
from component_http.contract.conditions import StanzaError, error_of_status
from component_http.contract.delivery import Delivery
from component_http.contract.outbound import OutboundStanza
from component_http.contract.reply import Response, Verdict
from component_http.contract.stanza import Stanza
from component_http.contract.xml import Limits
from component_http.delivery.backlog import Backlog, Budget
from component_http.delivery.bounces import Bounces
from component_http.delivery.breaker import Breaker
from component_http.delivery.deadlines import LATE_SECONDS, Times
from component_http.delivery.dispatch import Dispatch
from component_http.delivery.fates import Fates
from component_http.delivery.forwarder import Forwarder
from component_http.delivery.health import Health
from component_http.delivery.load import Load, Quota
from component_http.delivery.loop_brake import LoopBrake
from component_http.delivery.loop_guard import LoopGuard
from component_http.delivery.loops import Loops
from component_http.delivery.outbox import Outbox
from component_http.delivery.outcomes import Outcomes
from component_http.delivery.pushes import Pushes
from component_http.delivery.relay import Relay
from component_http.delivery.retry import RetryPolicy
from component_http.delivery.stanza_maker import StanzaMaker
from component_http.errors import SettingsError
from component_http.interfaces import Observer, Spool, Stream, Webhook
from component_http.operations.metrics import Counters, Durations
from component_http.settings import Settings, WebhookSettings
from component_http.sizing import backlog_limits, deadlines, lifetimes, webhook_connections
from component_http.spool.memory import MemorySpool
from component_http.tls import TlsFiles, client_endpoint
from component_http.webhook.client import WebhookClient
from component_http.webhook.function import FixedWebhook, response_of
from component_http.xmpp.borrowed import BorrowedStream
from component_http.xmpp.entrances import Entrances
from component_http.xmpp.intake import StanzaIntake
from component_http.xmpp.iq_requests import IqRequests
from component_http.xmpp.own_stanzas import MAX_UNCONFIRMED
from component_http.xmpp.presence import AlwaysAvailable
from component_http.xmpp.rooms import Rooms
from component_http.xmpp.stream import ComponentStream
from component_http.xmpp.subscribers import Subscribers
from component_http.xmpp.wellknown import WellKnown

if TYPE_CHECKING:
    from component_http.spool.database import SpoolLock


@frozen(eq=False)
class Lasting:
    """
    The parts of a gateway that outlive a stop and serve the next start.

    Attributes:
        settings: Those of this component.
        budget: The room for what is pending, which all components share.
        webhooks: The webhooks of all components, which share the files that the process may open.
        lifetimes: Seconds until an outbound stanza expires, by its kind; a reload changes them.
        reactor: A reactor whose timers do not follow the wall clock.
        stream: The stream that handlers are added to.
        outlet: The same stream as a way out; it also pauses reading.
        webhook: The webhook of an embedding application; None for that of the settings, or for none.
        has_api: There is an API.
        rooms: The rooms that the component is in.
        subscribers: The users who are told that the component is online.
        pushes: Takes what the application sends.
        durations: The histograms; None where the operator does not want them.
    """

    settings: Settings
    limits: Limits
    budget: Budget
    webhooks: int
    lifetimes: dict[str, float]
    reactor: Any
    counters: Counters
    stream: Stream
    outlet: ComponentStream | BorrowedStream
    webhook: Webhook | None
    has_api: bool
    rooms: Rooms
    subscribers: Subscribers
    pushes: Pushes
    durations: Durations | None = None

    @property
    def domain(self) -> str:
        return self.settings.component.domain

    @property
    def has_webhook(self) -> bool:
        """Deliveries have somewhere to go."""
        component = self.settings.component
        return self.webhook is not None or component.component_post_url is not None or bool(component.route)


def lasting_parts(
    settings: Settings,
    reactor: Any,
    manager: StreamManager | None,
    webhook: Webhook | None,
    *,
    counters: Counters,
    budget: Budget,
    webhooks: int,
    sent: Callable[[OutboundStanza], object],
    first: Callable[[], Iterable[Element | OutboundStanza]],
    durations: Durations | None = None,
) -> Lasting:
    """
    Make the parts that outlive a stop.

    Args:
        reactor: As in `Lasting`, and so is `webhook`.
        manager: The stream of an embedding application; None to make ours.
        counters: Told what happens; those of all components, as is the budget.
        budget: As in `Lasting`, and so are the webhooks.
        sent: Told each stanza that leaves.
        first: The stanzas that open each new stream.
        durations: As in `Lasting`.
    """
    component, domain = settings.component, settings.component.domain
    limits, rooms = Limits(max_bytes=component.max_stanza_bytes), Rooms()
    lasting = lifetimes(settings.delivery)
    stream: Stream
    outlet: ComponentStream | BorrowedStream
    if manager is not None:
        stream, outlet = manager, BorrowedStream(manager, domain, limits, counters, sent=sent)
    else:
        stream = outlet = ComponentStream(
            client_endpoint(reactor, component.server),
            domain,
            component.secret,
            address=component.server_address,
            limits=limits,
            observer=counters,
            clock=reactor,
            random=Random(),
            sent=sent,
            first=first,
            marked=rooms.marked,
            confirm=component.write_barrier,
            fallback=component.write_barrier_fallback,
            most_unconfirmed=MAX_UNCONFIRMED if settings.spool.kind == "memory" else sys.maxsize,
            lifetimes=lasting,
        )
    sender = Address.parse(component.default_sender)

    def compose(objects: Sequence[Mapping[str, object]], kind: str) -> Composed:
        return composing.push(objects, domain=domain, limits=limits, new_id=new_id, sender=sender, kind=kind)

    return Lasting(
        settings,
        limits,
        budget,
        webhooks,
        lasting,
        reactor,
        counters,
        stream=stream,
        outlet=outlet,
        webhook=webhook,
        has_api=settings.api.listen is not None,
        rooms=rooms,
        subscribers=Subscribers(domain),
        pushes=Pushes(compose),
        durations=durations,
    )


@frozen(eq=False)
class Parts:
    """
    The parts of a component in one run; `clients` are those of the webhooks at a URL, by the names of their routes.
    """

    clients: dict[str | None, WebhookClient]
    backlog: Backlog
    relay: Relay
    outbox: Outbox
    bounces: Bounces
    entrances: Entrances
    iq_requests: IqRequests
    sender: Dispatch


def assemble(
    lasting: Lasting,
    spool: Spool,
    *,
    ask: Callable[[Element, float], Awaitable[Element]],
    link: Callable[[Delivery], str | None],
) -> Parts:
    """
    Make the parts of a component for one run, and connect them.

    Args:
        spool: That of all components.
        ask: Asks an iq, and waits for its answer so many seconds.
        link: Makes the link for a late reply to a delivery.
    """
    settings, reactor, counters, outlet = lasting.settings, lasting.reactor, lasting.counters, lasting.outlet
    component = settings.component
    fates = Fates()
    bounces = Bounces(spool, counters, reactor.seconds, fates)
    entrances = Entrances(
        outlet, counters, clock=reactor, new_id=new_id, ask=ask, nick=component.nick, create=component.create_rooms
    )

    def pushed(number: int, outbound: OutboundStanza) -> None:
        bounces.pushed(number, outbound)
        if outbound.delivery_id is None:
            entrances.expect(outbound)

    outbox = Outbox(
        spool,
        outlet,
        counters,
        clock=reactor,
        domain=component.domain,
        maker=StanzaMaker(counters, reactor, component.domain, lasting.limits, lasting.lifetimes),
        fates=fates,
        pushed=pushed,
    )
    link_of = link if lasting.has_api else None
    webhooks = new_webhooks(None, lasting)
    clients = {name: each for name, each in webhooks.items() if isinstance(each, WebhookClient)}
    own = _forwarder(lasting, settings, webhooks.pop(None, None), link_of)
    forwarders = {name: _forwarder(lasting, one, webhooks[name], link_of) for name, one in settings.of_routes.items()}
    backlog = Backlog(backlog_limits(settings), _most_running(lasting), lasting.budget)
    relay = Relay(
        own,
        spool,
        backlog,
        outlet,
        outbox,
        outlet,
        counters,
        Loops(*_loops(settings), counters, reactor),
        clock=reactor,
        new_id=new_id,
        wall=time.time,
        times=_times(settings),
        once=settings.delivery.max_attempts == 1 and spool.durable,
        routes=component.routes,
        forwarders=forwarders,
        took=None if lasting.durations is None else lasting.durations.delivery.add,
    )
    sender = Dispatch(
        spool, outbox, relay, bounces, ask=ask, enter=entrances.enter, when_sent=outlet.when_sent, clock=reactor
    )
    iq_requests = IqRequests(outlet, reactor, lambda: token_hex(16))
    return Parts(clients, backlog, relay, outbox, bounces, entrances, iq_requests, sender)


def make_spool(
    settings: Settings,
    components: Mapping[str, Lasting],
    lock: SpoolLock | None,
    reactor: Any,
    observer: Observer,
    durations: Durations | None = None,
) -> Spool:
    """
    Make the spool of all components.

    Args:
        settings: Those of all.
        components: Each of them by its domain; the spool asks it for those that are there later, too.
        lock: The lock of the spool's file; None for a spool in memory.
    """
    if lock is None:
        # Room for an answer to all that can be pending, beside all that the POSTs under way can bring.
        waiting = sum(
            backlog_limits(each).most_pending + each.webhook.max_connections * MAX_REPLIES for each in settings.each
        )
        return MemorySpool(reactor.seconds, max_kept=len(settings.each) * MAX_UNCONFIRMED + waiting, observer=observer)
    from component_http.spool.sqlite import SqliteSpool

    def delivery_settings(domain: str) -> tuple[Mapping[str, float], float]:
        found = (components[domain].settings if domain in components else settings).delivery
        return deadlines(found), found.outage_grace

    lock.note_process()
    return SqliteSpool(
        lock.path,
        reactor,
        allowance=delivery_settings,
        synchronous=settings.spool.synchronous,
        letter_days=settings.spool.letter_days,
        max_letters=settings.spool.max_letters,
        observer=observer,
        took=None if durations is None else durations.spool_commit.add,
    )


def _connections(settings: Settings, lasting: Lasting) -> int:
    return webhook_connections(settings, lasting.webhooks)


def _most_running(lasting: Lasting) -> int:
    """The deliveries that may run at once: as many as there can be connections to all webhooks together."""
    settings = lasting.settings
    return sum(_connections(each, lasting) for each in (settings, *settings.of_routes.values()))


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
        client = webhook_client(settings, lasting.reactor, _connections(settings, lasting))
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
        client = webhook_client(one, lasting.reactor, _connections(one, lasting))
        made[route.name] = client or FixedWebhook(response_of(route.reply))
    return made


def _posting(settings: Settings) -> tuple[str | None, WebhookSettings]:
    return settings.component.component_post_url, settings.webhook


def _forwarder(
    lasting: Lasting, settings: Settings, webhook: Webhook | None, link: Callable[[Delivery], str | None] | None
) -> Forwarder:
    """Make the forwarder of a webhook; `settings` are those of the component, or of one of its routes."""
    delivery = settings.delivery
    retries = delivery.max_attempts > 1
    counters, reactor, rate = lasting.counters, lasting.reactor, settings.webhook.rate
    durations = lasting.durations
    health = Health(
        counters,
        Load(_connections(settings, lasting), learns=retries, quota=None if rate is None else Quota(*rate)),
        Breaker() if retries else Breaker(in_a_row=sys.maxsize, requests=sys.maxsize),  # it never opens
        reactor,
    )
    return Forwarder(
        webhook,
        health,
        Outcomes(*_judgement(lasting), health, counters, reactor),
        counters,
        policy=_policy(settings),
        clock=reactor,
        wall=time.time,
        draw=Random().random,
        link=link,
        took=None if durations is None else durations.attempt.add,
        waited=None if durations is None else durations.queue_wait.add,
    )


def _times(settings: Settings) -> Times:
    delivery = settings.delivery
    late_seconds = max(LATE_SECONDS, settings.webhook.timeout)
    return Times(deadlines(delivery), grace=delivery.outage_grace, late_seconds=late_seconds)


def _policy(settings: Settings) -> RetryPolicy:
    return RetryPolicy(max_attempts=settings.delivery.max_attempts, cap=settings.delivery.retry_cap)


def _loops(settings: Settings) -> tuple[LoopGuard | None, LoopBrake | None]:
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
            new[name] = _forwarder(lasting, one, webhook, link if lasting.has_api else None)
            continue
        forwarder = relay.lanes[name].forwarder
        forwarder.outcomes.use(*_judgement(lasting))
        forwarder.policy = _policy(settings)
        former = before if name is None else before.of_routes.get(name)
        if webhook is not None:
            forwarder.use(webhook)
        moved = former is None or _posting(former)[0] != _posting(one)[0]
        if moved or former is None or former.webhook != one.webhook:
            rate = one.webhook.rate
            quota = None if rate is None else Quota(*rate)
            forwarder.health.adapt(_connections(one, lasting), quota, moved=moved)
    relay.times.use(_times(settings))
    if before.delivery.loop_guard != settings.delivery.loop_guard:
        relay.loops.use(*_loops(settings))
    lasting.lifetimes.update(lifetimes(settings.delivery))
    parts.backlog.use(backlog_limits(settings), _most_running(lasting))
    if before.component.route != settings.component.route:
        relay.use_routes(settings.component.routes, new)
    relay.adapt()
    gone = [name for name in parts.clients if name in webhooks or (name is not None and name not in settings.of_routes)]
    unused = [parts.clients.pop(name) for name in gone]
    parts.clients.update({name: each for name, each in webhooks.items() if isinstance(each, WebhookClient)})
    return unused


def handlers(lasting: Lasting, parts: Parts) -> list[XMPPHandler]:
    """Make the handlers of one run, in the order in which they join the stream."""
    component = lasting.settings.component
    found: list[XMPPHandler] = [
        StanzaIntake(
            parts.relay.accept if lasting.has_webhook else None,
            domain=component.domain,
            kinds=component.component_post_stanzas,
            observer=lasting.counters,
            rooms=lasting.rooms,
            entrances=parts.entrances,
            returned=parts.bounces.returned,
            shown=parts.bounces.shown,
            forward_history=component.forward_history,
            forward_bodyless=component.forward_bodyless,
            forward_errors=component.forward_errors,
        )
    ]
    if "presence" not in component.component_post_stanzas or not lasting.has_webhook:
        found.append(
            AlwaysAvailable(
                component.domain,
                lasting.subscribers,
                outlet=lasting.outlet,
                observer=lasting.counters,
                clock=lasting.reactor,
            )
        )
    if component.answer_wellknown_iq:
        found.append(WellKnown(component.domain, __version__, time.time))
    found.append(parts.entrances)
    if lasting.has_api:
        found.append(parts.iq_requests)
    return found


def webhook_client(settings: Settings, reactor: Any, connections: int = 1) -> WebhookClient | None:
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
        )
    except ValueError as error:
        raise SettingsError(
            f"component.component_post_url (--post-url) or the [webhook] table cannot be used: {error}"
        ) from error


def _ids() -> Iterator[str]:
    """
    Ids of 32 hexadecimal digits: the time in milliseconds, so that an index grows at its end, and chance.

    The kernel is asked for many random bytes at once.
    """
    while True:
        chance = urandom(4000)
        for begin in range(0, len(chance), 10):
            yield f"{time.time_ns() // 1_000_000:012x}{chance[begin : begin + 10].hex()}"


new_id: Callable[[], str] = _ids().__next__
"""Makes an id that nobody else has, and that nobody can guess."""
