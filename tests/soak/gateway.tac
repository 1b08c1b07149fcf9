# The gateway as an application of its own, with a lag meter beside it: `twistd -n -y gateway.tac`, in a folder that
# holds gateway.toml. The signals are twistd's here; scenarios about signals run `twistd component-http`.

import os

from twisted.application.service import Application
from twisted.internet import reactor
from twisted.internet.task import LoopingCall

from component_http.gateway import Gateway
from component_http.settings import Settings
from tests.soak.lag import LagMeter

application = Application("component-http")
gateway = Gateway(Settings.from_toml("gateway.toml"), reactor)
gateway.setServiceParent(application)
meter = LagMeter(reactor, "status.json", lambda: gateway.counters)
reactor.callWhenRunning(meter.start)
reactor.addSystemEventTrigger("after", "shutdown", meter.write)


parent = os.getppid()


def stop_if_orphaned():
    """End with whoever started it, even if that was killed."""
    if os.getppid() != parent and reactor.running:
        reactor.stop()


LoopingCall(stop_if_orphaned).start(1.0)
