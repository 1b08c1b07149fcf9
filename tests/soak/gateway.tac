# The gateway as an application of its own, with a lag meter beside it: `twistd -n -y gateway.tac`, in a folder that
# holds gateway.toml.

import os

from twisted.application.service import Application
from twisted.internet import reactor
from twisted.internet.task import LoopingCall

from component_http.clock import use_steady_clock
from component_http.gateway import Gateway
from component_http.settings import Settings
from component_http.tap import heed_signals
from tests.soak.lag import LagMeter

application = Application("component-http")
use_steady_clock(reactor)
gateway = Gateway(Settings.from_toml("gateway.toml"), reactor)
gateway.setServiceParent(application)
meter = LagMeter(reactor, "status.json", lambda: gateway.counters)
reactor.callWhenRunning(meter.start)
reactor.callWhenRunning(heed_signals, gateway, reactor)
reactor.addSystemEventTrigger("after", "shutdown", meter.write)


parent = os.getppid()


def stop_if_orphaned():
    """End with whoever started it, even if that was killed."""
    if os.getppid() != parent and reactor.running:
        reactor.stop()


LoopingCall(stop_if_orphaned).start(1.0)
