"""The gateway as an application of its own, with what a run adds to it: a lag meter, and an end that was ordered."""

from __future__ import annotations

import os
from typing import Any

from twisted.application.service import Application
from twisted.internet import reactor as _reactor
from twisted.internet.task import LoopingCall

from component_http.clock import steady_reactor
from component_http.gateway import Gateway
from component_http.settings import Settings
from component_http.tap import collect_rarely, exit_on_settings_error, heed_signals
from component_http.webhook.client import WebhookClient
from tests.soak.doom import DOOM, Doom, DoomedWebhook
from tests.soak.lag import LagMeter

__all__ = ["assemble"]

reactor: Any = steady_reactor(_reactor)


def assemble() -> Any:
    """
    Put it together, for a `.tac`; `gateway.toml` is in the current folder.

    It ends with whoever started it, even if that was killed.
    """
    collect_rarely()
    application = Application("component-http")
    with exit_on_settings_error():
        settings = Settings.from_toml("gateway.toml")
        gateway = _gateway(settings)
        gateway.prepare()
    gateway.setServiceParent(application)
    meter = LagMeter(reactor, "status.json", lambda: gateway.counters)
    reactor.callWhenRunning(meter.start)
    reactor.callWhenRunning(heed_signals, gateway, reactor, lambda: Settings.from_toml("gateway.toml"))
    reactor.addSystemEventTrigger("after", "shutdown", meter.write)
    parent = os.getppid()

    def stop_if_orphaned() -> None:
        if os.getppid() != parent and reactor.running:
            reactor.stop()

    LoopingCall(stop_if_orphaned).start(1.0)
    return application


def _gateway(settings: Settings) -> Gateway:
    order = os.environ.get(DOOM)
    if order is None:
        return Gateway(settings, reactor)
    doom = Doom.from_order(order)
    webhook = settings.webhook
    client = WebhookClient(
        settings.component.component_post_url,
        reactor=reactor,
        timeout=webhook.timeout,
        connect_timeout=webhook.connect_timeout,
        max_connections=webhook.max_connections,
        max_body_bytes=webhook.max_body_bytes,
    )
    gateway = Gateway(settings, reactor, webhook=DoomedWebhook(client, doom))
    doom.watch(gateway.counters, reactor)
    return gateway
