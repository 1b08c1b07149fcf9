"""A relay among fakes, as all tests and benchmarks of it have it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from types import MappingProxyType
from typing import Any

from attrs import define
from twisted.internet.task import Clock

from component_http.contract import reply
from component_http.contract.conditions import StanzaError
from component_http.contract.outbound import LIFETIMES
from component_http.contract.routes import Routes
from component_http.contract.xml import Limits
from component_http.delivery.backlog import Backlog, BacklogLimits
from component_http.delivery.breaker import Breaker
from component_http.delivery.deadlines import Times
from component_http.delivery.forwarder import Forwarder
from component_http.delivery.health import Health
from component_http.delivery.load import Load
from component_http.delivery.loop_brake import LoopBrake
from component_http.delivery.loop_guard import LoopGuard
from component_http.delivery.loops import Loops
from component_http.delivery.outbox import Outbox
from component_http.delivery.outcomes import Outcomes
from component_http.delivery.relay import NO_ROUTES, Relay
from component_http.delivery.retry import RetryPolicy
from component_http.delivery.stanza_maker import StanzaMaker
from component_http.interfaces import Spool, Webhook
from component_http.interfaces.tracer import Tracers
from component_http.operations.metrics import Counters
from component_http.spool.memory import MemorySpool
from component_http.testing import RecordingOutlet, RecordingValve

__all__ = ["DOMAIN", "RelayWorld", "relay_world"]

DOMAIN = "bot.example.org"
"""The component's."""

SECONDS = {"message": 900.0, "iq": 25.0, "presence": 60.0}
"""The time of a delivery, by kind."""


@define
class RelayWorld:
    """
    A relay, and what is around it.

    Attributes:
        clock: Moved by the test.
        forwarder: Makes one more, with a webhook.
    """

    relay: Relay
    clock: Clock
    counters: Counters
    outlet: RecordingOutlet
    valve: RecordingValve
    spool: Spool
    outbox: Outbox
    forwarder: Callable[[Webhook | None], Forwarder]


def relay_world(
    webhook: Webhook | None,
    clock: Clock,
    *,
    counters: Counters | None = None,
    outlet: RecordingOutlet | None = None,
    valve: RecordingValve | None = None,
    spool: Spool | None = None,
    limits: BacklogLimits | None = None,
    max_running: int = 32,
    max_attempts: int = 10,
    breaker: Breaker | None = None,
    on_gone: StanzaError | None = None,
    loop_guard: LoopGuard | None = None,
    loop_brake: LoopBrake | None = None,
    draw: Callable[[], float] = lambda: 0.5,
    new_id: Callable[[], str] | None = None,
    link: Any = None,
    grace: float = 0.0,
    once: bool = False,
    routes: Routes = NO_ROUTES,
    webhooks: Mapping[str, Webhook] = MappingProxyType({}),
    tracers: Tracers | None = None,
    **outbox: Any,
) -> RelayWorld:
    """
    Make a relay.

    Args:
        webhook: None where there is none.
        clock: For all that needs the time, the wall clock's included.
        new_id: Makes the ids of deliveries; None for d1, d2 and so on.
        webhooks: Those of the routes, by their names.
        tracers: Those who follow deliveries.
        **outbox: More options of the outbox.
    """
    numbers = count(1)
    counters = Counters() if counters is None else counters
    outlet = RecordingOutlet() if outlet is None else outlet
    valve = RecordingValve() if valve is None else valve
    spool = MemorySpool() if spool is None else spool
    judge = partial(reply.judge, domain=DOMAIN, limits=Limits(), new_id=lambda: "fresh")

    def forwarder(webhook: Webhook | None) -> Forwarder:
        health = Health(counters, Load(max_running, learns=max_attempts > 1), breaker or Breaker(), clock)
        return Forwarder(
            webhook,
            health,
            Outcomes(judge, on_gone, health, counters, clock),
            counters,
            policy=RetryPolicy(max_attempts=max_attempts),
            clock=clock,
            wall=clock.seconds,
            draw=draw,
            link=link,
            tracers=tracers,
        )

    maker = StanzaMaker(counters, clock, DOMAIN, Limits(), LIFETIMES)
    made = Outbox(spool, outlet, counters, clock=clock, maker=maker, tracers=tracers, **outbox)
    relay = Relay(
        forwarder(webhook),
        spool,
        Backlog(limits or BacklogLimits(), max_running * (1 + len(webhooks))),
        outlet,
        made,
        valve,
        counters,
        Loops(loop_guard, loop_brake, counters, clock),
        clock=clock,
        new_id=new_id or (lambda: f"d{next(numbers)}"),
        wall=clock.seconds,
        times=Times(SECONDS, grace),
        once=once,
        routes=routes,
        forwarders={name: forwarder(each) for name, each in webhooks.items()},
        tracers=tracers,
    )
    return RelayWorld(relay, clock, counters, outlet, valve, spool, made, forwarder)
