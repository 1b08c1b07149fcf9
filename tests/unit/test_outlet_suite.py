"""
What an `Outlet` and a `Valve` promise, asked of each that there is: the streams, and the stand-ins that tests use for
them.
"""

from __future__ import annotations

import re
from random import Random

from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.protocols.jabber.xmlstream import STREAM_AUTHD_EVENT
from twisted.words.xish.domish import Element
from twisted.words.xish.utility import EventDispatcher
from twisted.words.xish.xmlstream import STREAM_CONNECTED_EVENT, BootstrapMixin
from wokkel.subprotocols import StreamManager

from component_http.contract.outbound import Fate, OutboundStanza
from component_http.contract.outgoing import sendable
from component_http.contract.xml import Limits
from component_http.interfaces import Outlet, Valve
from component_http.operations.metrics import Counters
from component_http.testing import RecordingOutlet, RecordingValve
from component_http.xmpp.borrowed import BorrowedStream
from component_http.xmpp.reading import MAX_PAUSE
from component_http.xmpp.stream import ComponentStream
from component_http.xmpp.write_queue import CROWDED_STANZAS, MAX_STANZAS

DOMAIN = "bot.example.org"


def message(id: str) -> Element:
    element = Element((None, "message"))
    element.attributes.update(to="alice@example.org", id=id)
    return element


def ids_of(xml: str) -> list[str]:
    return re.findall(r"\bid='(\w+)'", xml)


class OutletPromises:
    """
    What every outlet promises.

    Attributes:
        outlet: It.
    """

    outlet: Outlet

    def left(self) -> list[str]:
        """The ids of the stanzas that have left, in their order."""
        raise NotImplementedError

    def test_order(self) -> None:
        """
        Stanzas leave in the order in which they were sent.
        """
        ids = [f"m{number}" for number in range(20)]
        self.assertEqual([True] * 20, [self.outlet.send(message(id)) for id in ids])
        self.assertEqual(ids, self.left())

    def test_departures(self) -> None:
        """
        What somebody keeps leaves like everything else, in order.
        """
        told: list[Fate] = []
        for id in ("m1", "m2"):
            element = message(id)
            element["from"] = DOMAIN
            outbound = OutboundStanza(sendable(element, DOMAIN, 10_000), "message", 1e9, 0.0)
            self.assertTrue(self.outlet.depart(outbound, told.append))
        self.outlet.send(message("m3"))
        self.assertEqual(["m1", "m2", "m3"], self.left())
        self.assertTrue(set(told) <= {"confirmed"})

    def test_not_crowded(self) -> None:
        """
        An outlet that nothing waits in is not crowded, and nobody has to wait for that.
        """
        self.assertFalse(self.outlet.crowded)
        self.successResultOf(self.outlet.when_clear())

    def test_nothing_waits(self) -> None:
        """
        Nobody has to wait until all has left where nothing waits to leave, nor when something has just left.
        """
        self.successResultOf(self.outlet.when_sent())
        self.outlet.send(message("m1"))
        self.successResultOf(self.outlet.when_sent())


class CrowdPromises(OutletPromises):
    """What an outlet promises that knows how much waits in it."""

    def crowd(self) -> None:
        """Make it crowded, but not full."""
        raise NotImplementedError

    def fill(self) -> None:
        """Make it full."""
        raise NotImplementedError

    def clear(self) -> None:
        """Let everything leave."""
        raise NotImplementedError

    def test_full(self) -> None:
        """
        A full outlet says so, and what it has refused never leaves.
        """
        self.fill()
        self.assertFalse(self.outlet.send(message("refused")))
        self.clear()
        self.assertTrue(self.outlet.send(message("later")))
        self.assertNotIn("refused", self.left())
        self.assertEqual("later", self.left()[-1])

    def test_crowded_takes_more(self) -> None:
        """
        A crowded outlet takes more all the same, behind what waits.
        """
        self.crowd()
        self.assertTrue(self.outlet.crowded)
        self.assertEqual([True, True], [self.outlet.send(message(id)) for id in ("a", "b")])
        self.clear()
        self.assertEqual(["a", "b"], self.left()[-2:])

    def test_clear(self) -> None:
        """
        All who wait for the end of the crowd are told, in the order in which they came.
        """
        self.crowd()
        told: list[int] = []

        def tell(_: None, who: int) -> None:
            told.append(who)

        waiters = [self.outlet.when_clear().addCallback(tell, who) for who in range(3)]
        for waiter in waiters:
            self.assertNoResult(waiter)
        self.clear()
        self.assertFalse(self.outlet.crowded)
        self.assertEqual([0, 1, 2], told)
        self.successResultOf(self.outlet.when_clear())

    def test_cancelled_wait(self) -> None:
        """
        One who waits no longer is forgotten; the others hear of the end of the crowd.
        """
        self.crowd()
        gone, stays = self.outlet.when_clear(), self.outlet.when_clear()
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.clear()
        self.successResultOf(stays)

    def test_sent(self) -> None:
        """
        Who waits until all has left is told when the last one has, and not before.
        """
        self.crowd()
        self.outlet.send(message("last"))
        waiter = self.outlet.when_sent().addCallback(lambda _: self.left()[-1])
        self.assertNoResult(waiter)
        self.clear()
        self.assertEqual("last", self.successResultOf(waiter))
        self.successResultOf(self.outlet.when_sent())

    def test_cancelled_wait_for_the_last(self) -> None:
        """
        One who waits no longer until all has left is forgotten; the others are told.
        """
        self.crowd()
        gone, stays = self.outlet.when_sent(), self.outlet.when_sent()
        gone.cancel()
        self.failureResultOf(gone, CancelledError)
        self.clear()
        self.successResultOf(stays)


class ValvePromises:
    """
    What every valve promises.

    Attributes:
        valve: It.
    """

    valve: Valve

    def reading(self) -> bool:
        """Whether stanzas come in."""
        raise NotImplementedError

    def test_open(self) -> None:
        """
        However often a valve was closed, whoever opens it has it open.
        """
        self.valve.pause()
        self.valve.pause()
        self.valve.resume()
        self.assertTrue(self.reading())

    def test_open_already(self) -> None:
        """
        A valve that nobody has closed is open, and may be opened.
        """
        self.assertTrue(self.reading())
        self.valve.resume()
        self.assertTrue(self.reading())


class ClosingPromises(ValvePromises):
    """What a valve promises that can be closed at all."""

    def test_closed(self) -> None:
        """
        A closed valve lets nothing in, also when it was open before and when it is closed twice.
        """
        for _ in range(2):
            self.valve.pause()
            self.assertFalse(self.reading())
            self.valve.pause()
            self.assertFalse(self.reading())
            self.valve.resume()


class RecordingValveTests(ClosingPromises, SynchronousTestCase):
    """The stand-in."""

    def setUp(self) -> None:
        self.valve: RecordingValve = RecordingValve()

    def reading(self) -> bool:
        return not self.valve.paused


class RecordingOutletTests(CrowdPromises, SynchronousTestCase):
    """The stand-in."""

    def setUp(self) -> None:
        self.outlet: RecordingOutlet = RecordingOutlet()

    def left(self) -> list[str]:
        return [element["id"] for element in self.outlet.sent]

    def crowd(self) -> None:
        self.outlet.crowded = True

    def fill(self) -> None:
        self.outlet.full = True

    def clear(self) -> None:
        self.outlet.full = self.outlet.crowded = False


class ComponentStreamTests(CrowdPromises, ClosingPromises, SynchronousTestCase):
    """Our own stream, over a connection in memory."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.transport = StringTransport()
        self.valve = self.outlet = ComponentStream(
            self,  # the endpoint
            DOMAIN,
            "s3cret",
            limits=Limits(),
            observer=Counters(),
            clock=self.clock,
            random=Random(),
            confirm=False,
        )
        self.outlet.startService()

    async def connect(self, factory):
        """Be the server, and let it in."""
        protocol = factory.buildProtocol(None)
        protocol.makeConnection(self.transport)
        protocol.dataReceived(
            b"<stream:stream xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams' id='s1'>"
            b"<handshake/>"
        )
        self.transport.clear()
        return protocol

    def left(self) -> list[str]:
        return ids_of(self.transport.value().decode())

    def crowd(self) -> None:
        self.send_while_held(CROWDED_STANZAS)

    def fill(self) -> None:
        self.send_while_held(MAX_STANZAS)

    def clear(self) -> None:
        self.transport.producer.resumeProducing()

    def reading(self) -> bool:
        return self.transport.producerState == "producing"

    def send_while_held(self, count: int) -> None:
        self.transport.producer.pauseProducing()
        for number in range(count):
            self.outlet.send(message(f"x{number}"))

    def test_never_closed_for_long(self) -> None:
        """
        A valve that is closed again and again is open when five seconds have gone by since the first time.
        """
        for _ in range(5):
            self.valve.pause()
            self.clock.advance(MAX_PAUSE / 5)
        self.assertTrue(self.reading())

    def test_stop(self) -> None:
        """
        Who waits until all has left is told as well when the stream is stopped.
        """
        self.crowd()
        waiter = self.outlet.when_sent()
        self.outlet.stopService()
        self.transport.producer.connectionLost()
        self.successResultOf(waiter)


class BorrowedStreamTests(OutletPromises, ValvePromises, SynchronousTestCase):
    """A stream of somebody else's, of whose crowds nothing is known, and which is always read."""

    def setUp(self) -> None:
        bootstraps = BootstrapMixin()
        manager = StreamManager(bootstraps, Clock())
        stream = EventDispatcher()
        self.sent: list[str] = []
        stream.send = self.sent.append
        bootstraps.installBootstraps(stream)
        stream.dispatch(stream, STREAM_CONNECTED_EVENT)
        stream.dispatch(stream, STREAM_AUTHD_EVENT)
        self.valve = self.outlet = BorrowedStream(manager, DOMAIN, Limits(), Counters())

    def left(self) -> list[str]:
        return ids_of("".join(self.sent))

    def reading(self) -> bool:
        return True
