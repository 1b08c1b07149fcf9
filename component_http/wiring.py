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
from component_http.delivery.backlog import Backlog
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
from component_http.interfaces import Spool, Stream, Webhook
from component_http.operations.metrics import Counters
from component_http.settings import Settings
from component_http.sizing import backlog_limits, deadlines, lifetimes, webhook_connections
from component_http.spool.memory import MemorySpool
from component_http.tls import client_endpoint
from component_http.webhook.client import WebhookClient
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
    from component_http.api.hooks import Hook
    from component_http.api.secrets import BySecret
    from component_http.spool.database import SpoolLock


@frozen(eq=False)
class Lasting:
    """
    The parts of a gateway that outlive a stop and serve the next start.

    Attributes:
        reactor: A reactor whose timers do not follow the wall clock.
        stream: The stream that handlers are added to.
        outlet: The same stream as a way out; it also pauses reading.
        webhook: The webhook of an embedding application; None for that of the settings, or for none.
        hooks: The hooks of the API; None without an API.
        rooms: The rooms that the component is in.
        subscribers: The users who are told that the component is online.
        pushes: Takes what the application sends.
    """

    settings: Settings
    limits: Limits
    reactor: Any
    counters: Counters
    stream: Stream
    outlet: ComponentStream | BorrowedStream
    webhook: Webhook | None
    hooks: BySecret[Hook] | None
    rooms: Rooms
    subscribers: Subscribers
    pushes: Pushes

    @property
    def has_webhook(self) -> bool:
        """Deliveries have somewhere to go."""
        return self.webhook is not None or self.settings.component.component_post_url is not None


def lasting_parts(
    settings: Settings,
    reactor: Any,
    manager: StreamManager | None,
    webhook: Webhook | None,
    *,
    sent: Callable[[OutboundStanza], object],
    first: Callable[[], Iterable[Element | OutboundStanza]],
) -> Lasting:
    """
    Make the parts that outlive a stop.

    Args:
        reactor: As in `Lasting`, and so is `webhook`.
        manager: The stream of an embedding application; None to make ours.
        sent: Told each stanza that leaves.
        first: The stanzas that open each new stream.
    """
    component, domain = settings.component, settings.component.domain
    counters, limits, rooms = Counters(), Limits(max_bytes=component.max_stanza_bytes), Rooms()
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
            lifetimes=lifetimes(settings.delivery),
        )
    sender = Address.parse(component.default_sender)

    hooks = None
    if settings.api.listen is not None:
        from component_http.api_service import api_hooks

        hooks = api_hooks(settings)

    def compose(objects: Sequence[Mapping[str, object]], kind: str) -> Composed:
        return composing.push(objects, domain=domain, limits=limits, new_id=new_id, sender=sender, kind=kind)

    return Lasting(
        settings,
        limits,
        reactor,
        counters,
        stream=stream,
        outlet=outlet,
        webhook=webhook,
        hooks=hooks,
        rooms=rooms,
        subscribers=Subscribers(domain),
        pushes=Pushes(compose),
    )


@frozen(eq=False)
class Parts:
    """The parts of one run; `client` is None if the application brings its own webhook, or if there is none."""

    spool: Spool
    client: WebhookClient | None
    relay: Relay
    outbox: Outbox
    bounces: Bounces
    entrances: Entrances
    iq_requests: IqRequests
    sender: Dispatch


def assemble(
    lasting: Lasting,
    lock: SpoolLock | None,
    *,
    ask: Callable[[Element, float], Awaitable[Element]],
    link: Callable[[Delivery], str | None],
) -> Parts:
    """
    Make the parts of one run, and connect them.

    Args:
        lock: The lock of the spool's file; None for a spool in memory.
        ask: Asks an iq, and waits for its answer so many seconds.
        link: Makes the link for a late reply to a delivery.
    """
    settings, reactor, counters, outlet = lasting.settings, lasting.reactor, lasting.counters, lasting.outlet
    component, delivery = settings.component, settings.delivery
    spool = _spool(lasting, lock)
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
        maker=StanzaMaker(counters, reactor, component.domain, lasting.limits, lifetimes(delivery)),
        fates=fates,
        pushed=pushed,
    )
    client = None if lasting.webhook is not None else webhook_client(settings, reactor)
    relay = Relay(
        _forwarder(lasting, lasting.webhook or client, None if lasting.hooks is None else link),
        spool,
        Backlog(backlog_limits(settings), webhook_connections(settings)),
        outlet,
        outbox,
        outlet,
        counters,
        Loops(
            LoopGuard(*delivery.loop_guard) if isinstance(delivery.loop_guard, tuple) else None,
            LoopBrake() if delivery.loop_guard is None else None,
            counters,
            reactor,
        ),
        clock=reactor,
        new_id=new_id,
        wall=time.time,
        times=Times(
            deadlines(delivery), grace=delivery.outage_grace, late_seconds=max(LATE_SECONDS, settings.webhook.timeout)
        ),
        once=delivery.max_attempts == 1 and spool.durable,
    )
    sender = Dispatch(
        spool, outbox, relay, bounces, ask=ask, enter=entrances.enter, when_sent=outlet.when_sent, clock=reactor
    )
    iq_requests = IqRequests(outlet, reactor, lambda: token_hex(16))
    return Parts(spool, client, relay, outbox, bounces, entrances, iq_requests, sender)


def _spool(lasting: Lasting, lock: SpoolLock | None) -> Spool:
    settings = lasting.settings
    if lock is None:
        # Room for an answer to all that can be pending, beside all that the POSTs under way can bring.
        waiting = backlog_limits(settings).most_pending + settings.webhook.max_connections * MAX_REPLIES
        return MemorySpool(lasting.reactor.seconds, max_kept=MAX_UNCONFIRMED + waiting, observer=lasting.counters)
    from component_http.spool.sqlite import SqliteSpool

    lock.note_process()
    return SqliteSpool(
        lock.path,
        lasting.reactor,
        deadlines=deadlines(settings.delivery),
        grace=settings.delivery.outage_grace,
        synchronous=settings.spool.synchronous,
        letter_days=settings.spool.letter_days,
        max_letters=settings.spool.max_letters,
        observer=lasting.counters,
    )


def _forwarder(lasting: Lasting, webhook: Webhook | None, link: Callable[[Delivery], str | None] | None) -> Forwarder:
    settings, delivery = lasting.settings, lasting.settings.delivery
    retries = delivery.max_attempts > 1
    counters, reactor, rate = lasting.counters, lasting.reactor, settings.webhook.rate
    health = Health(
        counters,
        Load(webhook_connections(settings), learns=retries, quota=None if rate is None else Quota(*rate)),
        Breaker() if retries else Breaker(in_a_row=sys.maxsize, requests=sys.maxsize),  # it never opens
        reactor,
    )
    return Forwarder(
        webhook,
        health,
        Outcomes(*_judgement(lasting), health, counters, reactor),
        counters,
        policy=RetryPolicy(max_attempts=delivery.max_attempts, cap=delivery.retry_cap),
        clock=reactor,
        wall=time.time,
        draw=Random().random,
        link=link,
    )


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


def adapt(parts: Parts, lasting: Lasting, client: WebhookClient | None, *, moved: bool, changed: bool) -> None:
    """
    Let the parts of a run go by new settings of the webhook.

    Args:
        lasting: Has the new settings.
        client: The client made of them; None to go on with the webhook that there is.
        moved: The webhook is another one than before.
        changed: Something about it is another than before.
    """
    settings, forwarder = lasting.settings, parts.relay.forwarder
    forwarder.outcomes.use(*_judgement(lasting))
    if not changed:
        return
    if client is not None:
        forwarder.use(client)
    most, rate = webhook_connections(settings), settings.webhook.rate
    forwarder.health.adapt(most, None if rate is None else Quota(*rate), moved=moved)
    parts.relay.adapt(most)


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
    if lasting.hooks is not None:
        found.append(parts.iq_requests)
    return found


def webhook_client(settings: Settings, reactor: Any) -> WebhookClient | None:
    """
    Make the client for the webhook of the settings; None if they name none. It opens nothing before its first POST.

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
            max_connections=webhook_connections(settings),
            max_body_bytes=webhook.max_body_bytes,
            headers=webhook.headers,
            bearer_token=webhook.bearer_token,
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
