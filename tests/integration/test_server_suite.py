"""
What the server of a component promises, asked of Prosody and of the stand-in that applications test with; and what the
stand-in does on request that no server should.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from random import Random
from typing import Any

import pytest
from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from twisted.words.xish.domish import Element

from component_http.contract.xml import Limits
from component_http.operations.metrics import Counters
from component_http.testing import ComponentServer
from component_http.xmpp.stream import ComponentStream
from tests.certificates import Authority
from tests.integration.component_server import ComponentServerProcess
from tests.integration.exchange import says
from tests.integration.probe import COMPONENT, STREAM_ERRORS, STREAMS, Peer, Probe, child
from tests.integration.servers import Prosody
from tests.integration.waiting import PATIENCE

INSIDE, OUTSIDE = "bot.localhost", "probe.localhost"
"""The component that a test is about, and one that the same server routes to and from."""


@frozen
class Served:
    """
    A server, and how its components get in.

    Attributes:
        ports: Of each component; a real server has one for all.
        secrets: Of each component.
    """

    ports: dict[str, int]
    secrets: dict[str, str]

    def probe(self, domain: str = INSIDE) -> Probe:
        """Connect as a component."""
        return Probe(self.ports[domain], domain, self.secrets[domain])

    def refusal(self, secret: str) -> str:
        """
        Try to connect as a component.

        Returns:
            The condition of the stream error, when the server has closed stream and connection.
        """
        with Peer(socket.create_connection(("127.0.0.1", self.ports[INSIDE]), PATIENCE)) as peer:
            peer.send(f"<stream:stream xmlns='{COMPONENT}' xmlns:stream='{STREAMS}' to='{INSIDE}'>")
            peer.wait(lambda: peer.header is not None, "the server's stream header")
            assert peer.header is not None
            peer.send(f"<handshake>{sha1((peer.header['id'] + secret).encode()).hexdigest()}</handshake>")
            error = peer.wait_for(lambda element: element.tag == f"{{{STREAMS}}}error", "the stream error")
            peer.wait_until_gone()
            assert peer.stream_closed
            return error[0].tag.removeprefix(f"{{{STREAM_ERRORS}}}")


@contextmanager
def stand_in() -> Iterator[Served]:
    with ComponentServerProcess(INSIDE, OUTSIDE) as server:
        yield Served(server.ports, server.secrets)


@contextmanager
def prosody() -> Iterator[Served]:
    with Prosody() as server:
        yield Served(dict.fromkeys(server.domains, server.component_port), server.domains)


@pytest.fixture(scope="module", params=[stand_in, prosody], ids=["stand-in", "prosody"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    with request.param() as served:
        yield served


def message(sender: str, recipient: str, words: str) -> str:
    return f"<message from='a@{sender}' to='b@{recipient}' type='chat'><body>{words}</body></message>"


# What both promise.


def test_the_right_secret(served: Served) -> None:
    """
    A component that knows the secret is told that it is in.
    """
    with served.probe() as component:
        assert component.header is not None and component.header["from"] == INSIDE


def test_a_wrong_secret(served: Served) -> None:
    """
    A component that does not know the secret is refused with not-authorized, and may try again.
    """
    assert served.refusal("a guess") == "not-authorized"
    served.probe().close()


def test_a_second_connection(served: Served) -> None:
    """
    A second component for the same domain is refused with conflict; the first one goes on.
    """
    with served.probe() as component, served.probe(OUTSIDE) as outside:
        assert served.refusal(served.secrets[INSIDE]) == "conflict"
        outside.send(message(OUTSIDE, INSIDE, "still there?"))
        component.wait_for(lambda element: says(element, "still there?"), "the message")


def test_the_domain_is_free_again(served: Served) -> None:
    """
    When a component has left, another may come in its place.
    """
    for _ in range(3):
        with served.probe() as component:
            component.send("</stream:stream>")
            component.wait_until_gone()


def test_what_is_sent_to_the_component_arrives(served: Served) -> None:
    """
    Stanzas for the component reach it as they were sent, in order.
    """
    with served.probe() as component, served.probe(OUTSIDE) as outside:
        for number in range(100):
            outside.send(message(OUTSIDE, INSIDE, f"{number} &lt;\u20ac\U0001f600"))
        component.wait(lambda: len(component.elements) >= 100, "a hundred messages")
        arrived = component.take()
        assert [words(element) for element in arrived] == [f"{number} <\u20ac\U0001f600" for number in range(100)]
        assert {element.tag for element in arrived} == {f"{{{COMPONENT}}}message"}
        assert {(one.get("from"), one.get("to"), one.get("type")) for one in arrived} == {
            (f"a@{OUTSIDE}", f"b@{INSIDE}", "chat")
        }


def test_what_the_component_sends_arrives(served: Served) -> None:
    """
    Stanzas of the component reach those that they are for, in order, however their bytes are cut.
    """
    with served.probe() as component, served.probe(OUTSIDE) as outside:
        sizes = Random(1)
        all_of_them = "".join(message(INSIDE, OUTSIDE, f"{number} \u20ac") for number in range(100))
        component.send_in_pieces(all_of_them, iter(lambda: sizes.randint(1, 200), 0))
        outside.wait(lambda: len(outside.elements) >= 100, "a hundred messages")
        assert [words(element) for element in outside.take()] == [f"{number} \u20ac" for number in range(100)]


def test_the_closing_tag_is_answered(served: Served) -> None:
    """
    A component that closes its stream gets the server's closing tag, after all that was sent to it, and the end.
    """
    with served.probe() as component, served.probe(OUTSIDE) as outside:
        outside.send(message(OUTSIDE, INSIDE, "last words"))
        component.wait_for(lambda element: says(element, "last words"), "the message")
        component.send("</stream:stream>")
        component.wait_until_gone()
        assert component.stream_closed


def words(element: Any) -> str | None:
    body = child(element, "body")
    return None if body is None else body.text


# What the stand-in does on request.


def a_message(id: str, body: str = "") -> Element:
    element = Element((None, "message"))
    element.attributes.update(to="a@localhost", id=id)
    element.addElement("body", content=body)
    return element


class MisbehaviourTests(TestCase):
    """A server that does to a gateway's stream what an application wants to be tested against."""

    timeout = PATIENCE

    def setUp(self) -> None:
        from twisted.internet import reactor

        self.reactor: Any = reactor
        self.arrived: list[Element] = []
        self.server = ComponentServer(INSIDE, reactor, self.arrived.append)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.server.close()))
        self.counters = Counters()
        self.stream = self.stream_to(TCP4ClientEndpoint(reactor, "127.0.0.1", self.server.listen()))

    def stream_to(self, endpoint: IStreamClientEndpoint) -> ComponentStream:
        stream = ComponentStream(
            endpoint,
            INSIDE,
            self.server.secret,
            limits=Limits(),
            observer=self.counters,
            clock=self.reactor,
            random=Random(),
        )
        self.addCleanup(stream.stopService)
        return stream

    async def counted(self, event: str) -> None:
        """Wait until the stream has told this of itself."""
        while not self.counters[event]:
            await deferLater(self.reactor, 0.01)

    async def test_cut(self) -> None:
        """
        A connection that was cut is gone at once, and when the component is back it is another one.
        """
        self.stream.startService()
        await self.counted("connected")
        self.server.cut()
        with self.assertRaises(ConnectionLost):
            self.server.cut()
        await self.counted("stream_lost")
        await self.server.connected()

    async def test_cut_while_waiting(self) -> None:
        """
        Who waits for a round trip hears that the component is gone.
        """
        self.stream.startService()
        await self.server.connected()
        waiting = Deferred.fromCoroutine(self.server.round_trip())
        self.server.cut()
        self.failureResultOf(waiting, ConnectionLost)

    async def test_refusal(self) -> None:
        """
        With a refusal nobody gets in, whatever secret they know; without one the next attempt is good.
        """
        self.server.refusal = "system-shutdown"
        self.stream.startService()
        await self.counted("connection_failed")
        self.assertEqual(0, self.counters["connected"])
        self.server.refusal = None
        await self.server.connected()

    async def test_pause(self) -> None:
        """
        What the component sends to a server that does not read waits, and arrives in order when it reads again.
        """
        await self.outlast_a_pause(self.stream)

    async def test_pause_over_tls(self) -> None:
        """
        The same is true where TLS lies between the two.
        """
        authority = Authority()
        port = self.reactor.listenSSL(0, self.server.factory(), authority.context("127.0.0.1"), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        endpoint = TCP4ClientEndpoint(self.reactor, "127.0.0.1", port.getHost().port)
        trusting = optionsForClientTLS("127.0.0.1", authority.trust_root)
        await self.outlast_a_pause(self.stream_to(wrapClientTLS(trusting, endpoint)))

    async def outlast_a_pause(self, stream: ComponentStream) -> None:
        """Send to a server that does not read until it is crowded, and again when that is over."""
        stream.startService()
        await self.server.connected()
        self.server.pause()
        ids: list[str] = []
        while not stream.crowded:
            ids.append(f"m{len(ids)}")
            stream.send(a_message(ids[-1], "x" * 60_000))
            await deferLater(self.reactor, 0)
        self.assertEqual([], self.arrived)
        self.server.resume()
        await stream.when_clear()
        stream.send(a_message("last"))
        while not self.arrived or self.arrived[-1]["id"] != "last":
            await deferLater(self.reactor, 0.01)
        self.assertEqual([*ids, "last"], [element["id"] for element in self.arrived])
