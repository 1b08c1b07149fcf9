"""What an `Outlet` promises, asked of each that there is: the streams, and the stand-in that tests use for them."""

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

from component_http.contract.xml import Limits
from component_http.interfaces import Outlet
from component_http.operations.metrics import Counters
from component_http.testing import RecordingOutlet
from component_http.xmpp.stream import CROWDED_STANZAS, MAX_WAITING_STANZAS, BorrowedStream, ComponentStream

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

    def test_not_crowded(self) -> None:
        """
        An outlet that nothing waits in is not crowded, and nobody has to wait for that.
        """
        self.assertFalse(self.outlet.crowded)
        self.successResultOf(self.outlet.when_clear())


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


class ComponentStreamTests(CrowdPromises, SynchronousTestCase):
    """Our own stream, over a connection in memory."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.transport = StringTransport()
        self.outlet: ComponentStream = ComponentStream(
            self,  # the endpoint
            DOMAIN,
            "s3cret",
            limits=Limits(),
            observer=Counters(),
            clock=self.clock,
            random=Random(),
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
        self.send_while_held(MAX_WAITING_STANZAS)

    def clear(self) -> None:
        self.transport.producer.resumeProducing()
        self.clock.advance(0)

    def send_while_held(self, count: int) -> None:
        self.transport.producer.pauseProducing()
        for number in range(count):
            self.outlet.send(message(f"x{number}"))


class BorrowedStreamTests(OutletPromises, SynchronousTestCase):
    """A stream of somebody else's, of whose crowds nothing is known."""

    def setUp(self) -> None:
        bootstraps = BootstrapMixin()
        manager = StreamManager(bootstraps, Clock())
        stream = EventDispatcher()
        self.sent: list[str] = []
        stream.send = self.sent.append
        bootstraps.installBootstraps(stream)
        stream.dispatch(stream, STREAM_CONNECTED_EVENT)
        stream.dispatch(stream, STREAM_AUTHD_EVENT)
        self.outlet = BorrowedStream(manager, DOMAIN, Limits(), Counters())

    def left(self) -> list[str]:
        return ids_of("".join(self.sent))
