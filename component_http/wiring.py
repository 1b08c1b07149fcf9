"""The parts of a gateway, made from the settings and connected: those that last, and those of one run."""

from __future__ import annotations

import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from random import Random
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from attrs import field, frozen
from twisted.words.xish.domish import Element
from wokkel.subprotocols import StreamManager, XMPPHandler

from component_http import __version__
from component_http.certificates import client_endpoint
from component_http.contract import composing
from component_http.contract.address import Address
from component_http.contract.composing import MAX_REPLIES, Composed
from component_http.contract.delivery import Delivery
from component_http.contract.outbound import OutboundStanza
from component_http.contract.xml import Limits
from component_http.delivery.backlog import Backlog, Budget
from component_http.delivery.bounces import Bounces
from component_http.delivery.dispatch import Dispatch
from component_http.delivery.fates import Fates
from component_http.delivery.loops import Loops
from component_http.delivery.outbox import Outbox
from component_http.delivery.pushes import Pushes
from component_http.delivery.relay import Relay
from component_http.delivery.stanza_maker import StanzaMaker
from component_http.ids import new_id
from component_http.interfaces import Observer, Spool, Stream, Webhook
from component_http.interfaces.tracer import Tracers
from component_http.operations.metrics import Counters, Durations
from component_http.settings import Settings
from component_http.sizing import backlog_limits, deadlines, lifetimes
from component_http.spool.memory import MemorySpool
from component_http.webhook.client import WebhookClient
from component_http.webhooks import loops_of, make_forwarder, most_running, new_webhooks, times_of
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
        tracers: Everybody who follows deliveries, of all components.
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
    tracers: Tracers = field(factory=Tracers)

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
    tracers: Tracers | None = None,
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
        durations: As in `Lasting`, and so are the tracers.
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
            took=None if durations is None else durations.confirm.add,
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
        tracers=Tracers() if tracers is None else tracers,
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
    bounces = Bounces(spool, counters, reactor.seconds, fates, lasting.tracers)
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
        tracers=lasting.tracers,
    )
    link_of = link if lasting.has_api else None
    webhooks = new_webhooks(None, lasting)
    clients = {name: each for name, each in webhooks.items() if isinstance(each, WebhookClient)}
    own = make_forwarder(lasting, settings, webhooks.pop(None, None), link_of)
    forwarders = {
        name: make_forwarder(lasting, one, webhooks[name], link_of) for name, one in settings.of_routes.items()
    }
    backlog = Backlog(backlog_limits(settings), most_running(lasting), lasting.budget)
    relay = Relay(
        own,
        spool,
        backlog,
        outlet,
        outbox,
        outlet,
        counters,
        Loops(*loops_of(settings), counters, reactor),
        clock=reactor,
        new_id=new_id,
        wall=time.time,
        times=times_of(settings),
        once=settings.delivery.max_attempts == 1 and spool.durable,
        routes=component.routes,
        forwarders=forwarders,
        took=None if lasting.durations is None else lasting.durations.delivery.add,
        tracers=lasting.tracers,
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

    from component_http.spool.ended_rows import Log

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
        log=Log(
            settings.spool.max_ended,
            settings.spool.max_ended_bytes,
            settings.spool.ended_days,
            settings.spool.keep_ended == "bodies",
        )
        if settings.spool.keep_ended != "nothing"
        else None,
    )


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
