"""The webhook client without sockets: turns, connections, limits, URLs and headers."""

from __future__ import annotations

import gc
import re
import tracemalloc
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost, ConnectionRefusedError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from component_http.contract.url import WebhookUrl
from component_http.errors import ConnectionCut, ConnectionFailed, TimedOut, WebhookError
from component_http.webhook.agent import AT_ONCE_BYTES, PooledAgent
from component_http.webhook.client import WebhookClient
from component_http.webhook.connection import FAREWELL_SECONDS, READ_BYTES, Connection
from component_http.webhook.pool import TRUSTED_SECONDS, Pool
from component_http.webhook.response import (
    IDLE_SECONDS,
    MAX_HEAD_BYTES,
    MAX_HEAD_LINES,
    MAX_IDLE_SECONDS,
    MAX_INTERIM_RESPONSES,
    WholeResponse,
)
from tests.unit.work import Reactor

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Wire(StringTransport):
    """The server's end of a connection, which is driven by hand."""

    def __init__(self, clock: Clock, connection: Any, deaf: bool) -> None:
        super().__init__(lenient=True)
        self.connection = connection
        self.open = True
        self.aborted = False
        self._clock = clock
        self._deaf = deaf

    def loseConnection(self) -> None:
        self.disconnecting = True
        if not self._deaf:
            self._clock.callLater(0, self.lose, ConnectionDone())

    def abortConnection(self) -> None:
        self.aborted = True
        self._clock.callLater(0, self.lose, ConnectionLost())

    def lose(self, reason: Exception) -> None:
        """Tell the connection that it has ended."""
        if self.open:
            self.open = False
            self.connection.connectionLost(Failure(reason))

    def say(self, *pieces: bytes) -> None:
        """Send some bytes, each as a TCP segment of its own."""
        for piece in pieces:
            if self.open and not self.aborted:
                self.connection.dataReceived(piece)

    def asked(self) -> list[bytes]:
        """Paths of the requests that arrived since this was last called."""
        paths = re.findall(rb"POST (\S+) HTTP/1.1\r\n", self.value())
        self.clear()
        return paths


@implementer(IStreamClientEndpoint)
class Origin:
    """Where connections are asked for; a test accepts or refuses them."""

    def __init__(self, clock: Clock, *, deaf: bool = False) -> None:
        self.wires: list[Wire] = []
        self.asked = 0
        self._clock = clock
        self._deaf = deaf
        self.closed = False
        self._pending: list[tuple[Any, Deferred[Any]]] = []

    def connect(self, factory: Any) -> Deferred[Any]:
        self.asked += 1
        connected: Deferred[Any] = Deferred(lambda _: self._pending.remove((factory, connected)))
        self._pending.append((factory, connected))
        if self.closed:
            self.refuse()
        return connected

    @property
    def sockets(self) -> int:
        """Connections that are open, closing or coming about."""
        return self.pending + sum(wire.open for wire in self.wires)

    @property
    def pending(self) -> int:
        """Connections that were asked for and neither accepted nor refused."""
        return len(self._pending)

    def accept(self) -> Wire:
        """Let the connection that was asked for first come about."""
        factory, connected = self._pending.pop(0)
        connection = factory.buildProtocol(None)
        wire = Wire(self._clock, connection, self._deaf)
        self.wires.append(wire)
        connection.makeConnection(wire)
        connected.callback(connection)
        return wire

    def refuse(self) -> None:
        """Refuse the connection that was asked for first."""
        _, connected = self._pending.pop(0)
        connected.errback(ConnectionRefusedError())


class BytesProducer:
    """A request body in memory, written at once."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def startProducing(self, consumer: Any) -> Deferred[None]:
        consumer.write(self.body)
        return succeed(None)


class AgentCase(SynchronousTestCase):
    """What the tests of the agent share: one origin, one clock."""

    answers: tuple[Deferred[Any], ...] = ()

    def setUp(self) -> None:
        self.clock = Clock()
        self.origin = Origin(self.clock)

    def tearDown(self) -> None:
        # An answer that a test did not look at is no error that nobody looked at.
        for answer in self.answers:
            answer.addErrback(lambda _: None)
            answer.cancel()

    def agent(
        self, *, max_connections: int = 1, secure: bool = False, timeout: float = 60.0, body_limit: int = 1000
    ) -> PooledAgent:
        return PooledAgent(b"http://bot", b"bot", self.pool(max_connections, secure, body_limit), timeout)

    def pool(self, max_connections: int = 1, secure: bool = False, body_limit: int = 1000) -> Pool:
        """A pool without connections."""
        return Pool(
            self.origin,
            self.clock,
            where="http://bot",
            secure=secure,
            connect_timeout=5.0,
            max_connections=max_connections,
            body_limit=lambda status: body_limit if status == 200 else 100,
        )

    def post(
        self, agent: PooledAgent, path: bytes = b"/", body: bytes = b"{}", *, fresh: bool = False
    ) -> Deferred[Any]:
        answer = agent.request(b"POST", b"http://bot" + path, None, BytesProducer(body), fresh=fresh)
        self.answers += (answer,)
        return answer

    def connected(self, **settings: Any) -> tuple[PooledAgent, Wire, Deferred[Any]]:
        """An agent with one request, sent over the one connection."""
        agent = self.agent(**settings)
        answer = self.post(agent)
        return agent, self.origin.accept(), answer

    def used(self, response: bytes = OK) -> tuple[PooledAgent, Wire]:
        """An agent that has had this response over its first connection."""
        agent, wire, answer = self.connected()
        wire.say(response)
        self.successResultOf(answer)
        wire.clear()
        return agent, wire

    def cut(self, answer: Deferred[Any]) -> ConnectionCut:
        """The error of an answer that was cut."""
        error = self.failureResultOf(answer, ConnectionCut).value
        assert isinstance(error, ConnectionCut)
        return error


class TurnTests(AgentCase):
    """Waiting for one of the connections."""

    def test_requests_wait_in_the_order_they_were_made(self) -> None:
        """
        With one connection, five requests go out one after another, first come first served.
        """
        agent = self.agent()
        for number in range(5):
            self.post(agent, b"/%d" % number)
        wire = self.origin.accept()
        order = []
        for _ in range(5):
            order += wire.asked()
            wire.say(OK)
        self.assertEqual([b"/0", b"/1", b"/2", b"/3", b"/4"], order)
        self.assertEqual(1, self.origin.asked)

    def test_never_more_connections_than_allowed(self) -> None:
        """
        Ten requests over at most three connections ask for three connections.
        """
        agent = self.agent(max_connections=3)
        for _ in range(10):
            self.post(agent)
        self.assertEqual(3, self.origin.asked)

    def test_cancelled_while_waiting(self) -> None:
        """
        A request that is cancelled while it waits leaves the queue, and the one behind it is next.
        """
        agent = self.agent()
        first, second, third = (self.post(agent, path) for path in (b"/1", b"/2", b"/3"))
        wire = self.origin.accept()
        second.cancel()
        self.failureResultOf(second)
        wire.say(OK)
        self.successResultOf(first)
        self.assertEqual([b"/1", b"/3"], wire.asked())
        wire.say(OK)
        self.successResultOf(third)

    def test_cancelled_while_connecting(self) -> None:
        """
        A request that is cancelled while it connects makes room for the next.
        """
        agent = self.agent()
        first, second = self.post(agent), self.post(agent, b"/2")
        first.cancel()
        self.failureResultOf(first)
        self.assertEqual(2, self.origin.asked)
        self.assertNoResult(second)

    def test_cancelled_while_the_answer_arrives(self) -> None:
        """
        A request that is cancelled in the middle of its answer gives up its connection, and the next gets a new one.
        """
        for answered in (b"", OK[:20], OK[:-1]):
            self.setUp()
            agent, wire, first = self.connected()
            second = self.post(agent)
            wire.say(answered)
            first.cancel()
            self.failureResultOf(first)
            self.assertTrue(wire.aborted)
            self.assertEqual(1, self.origin.asked)
            self.clock.advance(0)
            self.origin.accept().say(OK)
            self.successResultOf(second)

    def test_refused_connection_passes_the_turn_on(self) -> None:
        """
        When a connection is refused, the request fails and the next one may try.
        """
        agent = self.agent()
        first, second = self.post(agent), self.post(agent)
        self.origin.refuse()
        self.failureResultOf(first, ConnectionFailed)
        self.origin.accept().say(OK)
        self.successResultOf(second)

    def test_long_queue_at_a_closed_door(self) -> None:
        """
        Five thousand waiting requests that are all refused at once each get their error.
        """
        agent, wire, _ = self.connected()
        answers = [self.post(agent) for _ in range(5000)]
        self.origin.closed = True
        wire.lose(ConnectionLost())
        for answer in answers:
            self.failureResultOf(answer, ConnectionFailed)

    def test_closing(self) -> None:
        """
        After close(), what waits and what comes later fails, and what runs ends without leaving a connection.
        """
        agent, wire, running = self.connected()
        waiting = self.post(agent)
        self.successResultOf(Deferred.fromCoroutine(agent.close()))
        self.failureResultOf(waiting, ConnectionFailed)
        self.failureResultOf(self.post(agent), ConnectionFailed)
        wire.say(OK)
        self.successResultOf(running)
        self.clock.advance(0)
        self.assertFalse(wire.open)

    def test_closing_waits_for_idle_connections(self) -> None:
        """
        close() ends when the idle connections are gone.
        """
        agent, wire = self.used()
        closing = Deferred.fromCoroutine(agent.close())
        self.assertNoResult(closing)
        self.clock.advance(0)
        self.successResultOf(closing)
        self.assertFalse(wire.open)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_another_origin(self) -> None:
        """
        An agent does not talk to a host that only begins like its own.
        """
        agent = self.agent()
        answer = agent.request(b"POST", b"http://bot.example/", None, BytesProducer(b""))
        self.failureResultOf(answer, ValueError)


class Socket(Wire):
    """A transport with a socket, which takes so many bytes at once."""

    takes: int | Exception = 1_000_000

    def writeSomeData(self, data: bytes) -> int | Exception:
        if isinstance(self.takes, Exception):
            return self.takes
        taken = data[: self.takes]
        super().write(taken)
        return len(taken)

    def write(self, data: bytes) -> None:
        super().write(b"<later>" + data)


class TreqTests(AgentCase):
    """treq over this agent."""

    def test_treq(self) -> None:
        """
        treq's own client makes a request through the agent and reads the response.
        """
        client = HTTPClient(self.agent(), data_to_body_producer=BytesProducer)
        answer = client.post("http://bot/path", data=b"hello", allow_redirects=False)
        wire = self.origin.accept()
        self.assertTrue(wire.value().startswith(b"POST /path HTTP/1.1\r\nHost: bot\r\n"))
        self.assertTrue(wire.value().endswith(b"Content-Length: 5\r\n\r\nhello"))
        wire.say(OK)
        self.assertEqual("{}", self.successResultOf(self.successResultOf(answer).text()))


class WriteTests(AgentCase):
    """The way of a request into a socket."""

    def written(self, takes: int | Exception) -> tuple[bytes, bytes]:
        """Two requests of one connection as they are written, the first to a socket that takes so many bytes."""
        connection = Connection(self.pool())
        socket = Socket(self.clock, connection, deaf=False)
        connection.makeConnection(socket)
        socket.takes = takes
        connection.exchange(b"0123456789", lambda outcome: None)
        first = socket.value()
        socket.clear()
        socket.say(OK)
        socket.takes = 1_000_000
        connection.exchange(b"next", lambda outcome: None)
        return first, socket.value()

    def test_at_once(self) -> None:
        """
        A request is written to the socket at once, without a turn of the reactor, if the socket takes it.
        """
        self.assertEqual((b"0123456789", b"next"), self.written(1_000_000))

    def test_in_part(self) -> None:
        """
        The remainder of a request that the socket does not take at once follows, and nothing overtakes it.
        """
        self.assertEqual((b"0123<later>456789", b"<later>next"), self.written(4))
        self.assertEqual((b"<later>0123456789", b"<later>next"), self.written(0))

    def test_lost(self) -> None:
        """
        A connection that is lost while a request is written is found out by the transport.
        """
        self.assertEqual((b"<later>0123456789", b"<later>next"), self.written(ConnectionLost()))


class KeptConnectionTests(AgentCase):
    """What happens to a connection after its response."""

    def assertKept(self, wire: Wire, agent: PooledAgent) -> None:
        self.post(agent, b"/next")
        self.assertEqual([b"/next"], wire.asked())

    def assertNotKept(self, wire: Wire, agent: PooledAgent) -> None:
        self.clock.advance(0)
        self.assertFalse(wire.open)
        before = self.origin.asked
        self.post(agent)
        self.assertEqual(before + 1, self.origin.asked)

    def test_used_again(self) -> None:
        """
        The next request goes over the same connection.
        """
        agent, wire = self.used()
        self.assertKept(wire, agent)

    def test_used_again_at_once(self) -> None:
        """
        Whoever posts again the moment an answer is there gets the same connection, though more are allowed.
        """
        agent = self.agent(max_connections=9)

        def again(_response: object) -> None:
            self.post(agent, b"/again")

        self.post(agent).addCallback(again)
        wire = self.origin.accept()
        wire.clear()
        wire.say(OK)
        self.assertEqual([b"/again"], wire.asked())
        self.assertEqual(1, self.origin.asked)

    def test_last_used_first(self) -> None:
        """
        Of several idle connections the one used last goes first, so that the others can end.
        """
        agent = self.agent(max_connections=2)
        self.post(agent)
        self.post(agent)
        one, two = self.origin.accept(), self.origin.accept()
        two.say(OK)
        one.say(OK)
        one.clear()
        self.assertKept(one, agent)

    def test_closed_by_the_server(self) -> None:
        """
        A kept connection that the server closes is never used again.
        """
        agent, wire = self.used()
        wire.lose(ConnectionDone())
        self.assertNotKept(wire, agent)

    def test_idle_for_long(self) -> None:
        """
        A kept connection is closed before the usual server would close it.
        """
        agent, wire = self.used()
        self.clock.advance(IDLE_SECONDS)
        self.assertNotKept(wire, agent)

    def test_tls_is_renewed(self) -> None:
        """
        A connection over TLS that is always busy ends after some time, so that certificates are checked again.
        """
        agent, wire, answer = self.connected(secure=True)
        wire.connection.handshakeCompleted()
        for _ in range(int(TRUSTED_SECONDS)):
            wire.say(OK)
            self.clock.advance(0)
            self.assertEqual(200, self.successResultOf(answer).code)
            self.assertTrue(wire.open)
            self.clock.advance(1)
            answer = self.post(agent)
        wire.say(OK)
        self.clock.advance(0)
        self.assertEqual(200, self.successResultOf(answer).code)
        self.assertNotKept(wire, agent)

    def test_server_says_how_long(self) -> None:
        """
        A server that announces how long it keeps connections is taken at its word, with a second to spare.
        """
        for announced, kept in ((9, 8.0), (100_000, MAX_IDLE_SECONDS)):
            self.setUp()
            agent, wire = self.used(OK.replace(b"\r\n\r\n", b"\r\nKeep-Alive: max=5, timeout=%d\r\n\r\n" % announced))
            self.clock.advance(kept - 0.1)
            self.assertTrue(wire.open)
            self.clock.advance(0.2)
            self.assertNotKept(wire, agent)

    def test_server_keeps_for_a_moment(self) -> None:
        """
        A connection that the server keeps for a second only is not kept.
        """
        agent, wire = self.used(OK.replace(b"\r\n\r\n", b"\r\nKeep-Alive: timeout=1\r\n\r\n"))
        self.assertNotKept(wire, agent)

    def test_close_in_any_spelling(self) -> None:
        """
        A server that says it will close is believed however it writes that.
        """
        for line in (b"Connection: close", b"connection:Close", b"CONNECTION: foo, close"):
            self.setUp()
            agent, wire = self.used(OK.replace(b"\r\n\r\n", b"\r\n" + line + b"\r\n\r\n"))
            self.assertNotKept(wire, agent)

    def test_http_1_0(self) -> None:
        """
        A server of HTTP/1.0 closes after each response, so its connections are not kept.
        """
        agent, wire = self.used(OK.replace(b"1.1", b"1.0"))
        self.assertNotKept(wire, agent)

    def test_more_than_the_response(self) -> None:
        """
        When more bytes come than the response has, the response counts and the connection is not kept.
        """
        no_content = b"HTTP/1.1 204 No Content\r\n\r\n"
        for response in (OK, no_content, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"):
            for surplus in (b"x", b"\r\n", OK):
                self.setUp()
                agent, wire = self.used(response + surplus)
                self.assertNotKept(wire, agent)

    def test_unasked_bytes(self) -> None:
        """
        Bytes that come over an idle connection end it.
        """
        agent, wire = self.used()
        wire.say(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        self.assertNotKept(wire, agent)

    def test_server_that_never_says_goodbye(self) -> None:
        """
        A server that does not close with us holds the socket, and so the place of another, for a second at most.
        """
        self.origin = Origin(self.clock, deaf=True)
        agent, wire = self.used(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        self.post(agent)
        self.assertEqual(1, self.origin.asked)
        self.clock.advance(FAREWELL_SECONDS)
        self.clock.advance(0)
        self.assertFalse(wire.open)
        self.assertEqual(2, self.origin.asked)

    def test_error_on_a_used_connection(self) -> None:
        """
        Whoever retries learns whether the connection was new, and whether any of the response had come.
        """
        agent, wire = self.used()
        answer = self.post(agent)
        wire.lose(ConnectionDone())
        error = self.cut(answer)
        self.assertEqual((True, False), (error.reused, error.started))

    def test_error_on_a_new_connection(self) -> None:
        """
        A connection that breaks in its first response was not used before.
        """
        _, wire, answer = self.connected()
        wire.say(b"HTTP/1.1 200")
        wire.lose(ConnectionLost())
        error = self.cut(answer)
        self.assertEqual((False, True), (error.reused, error.started))


class FreshConnectionTests(AgentCase):
    """Requests that want a connection which has carried no request before."""

    def idle(self, number: int) -> tuple[PooledAgent, list[Wire]]:
        """An agent that may have so many connections and has them, all idle, the first one longest."""
        agent = self.agent(max_connections=number)
        for _ in range(number):
            self.post(agent)
        wires = [self.origin.accept() for _ in range(number)]
        for wire in wires:
            wire.say(OK)
            wire.clear()
        return agent, wires

    def test_idle_connection_is_left_alone(self) -> None:
        """
        While more connections are allowed, a fresh request opens one, and the idle one stays for the next request.
        """
        agent = self.agent(max_connections=2)
        self.post(agent)
        used = self.origin.accept()
        used.say(OK)
        used.clear()
        self.post(agent, b"/fresh", fresh=True)
        self.post(agent, b"/next")
        self.assertEqual([b"/fresh"], self.origin.accept().asked())
        self.assertEqual([b"/next"], used.asked())

    def test_idle_connection_makes_room(self) -> None:
        """
        With one connection, which is idle, that one is closed, and only when it is gone another one is opened.
        """
        agent, wire = self.used()
        answer = self.post(agent, b"/fresh", fresh=True)
        self.assertTrue(wire.disconnecting)
        self.assertEqual(1, self.origin.asked)
        self.clock.advance(0)
        opened = self.origin.accept()
        self.assertEqual([b"/fresh"], opened.asked())
        opened.say(OK)
        self.assertEqual(200, self.successResultOf(answer).code)

    def test_longest_idle_connection_makes_room(self) -> None:
        """
        Of several idle connections the one that has been idle longest is closed, and no other.
        """
        agent, wires = self.idle(3)
        self.post(agent, fresh=True)
        self.clock.advance(0)
        self.assertEqual([False, True, True], [wire.open for wire in wires])

    def test_server_that_never_says_goodbye(self) -> None:
        """
        A connection that makes room and does not close holds the fresh request up for a second at most, and no other
        idle connection is closed for it.
        """
        self.origin = Origin(self.clock, deaf=True)
        agent, wires = self.idle(2)
        waiting = [self.post(agent, fresh=True) for _ in range(2)]
        self.assertEqual([True, False], [wire.disconnecting for wire in wires])
        self.clock.advance(FAREWELL_SECONDS)
        self.clock.advance(0)
        self.assertEqual(3, self.origin.asked)
        self.origin.accept().say(OK)
        self.successResultOf(waiting[0])

    def test_closing_connection_is_room_enough(self) -> None:
        """
        When a connection is closing already, a fresh request takes its place and closes no other.
        """
        agent = self.agent(max_connections=2)
        for _ in range(2):
            self.post(agent)
        closing, kept = self.origin.accept(), self.origin.accept()
        kept.say(OK)
        closing.say(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        self.post(agent, fresh=True)
        self.clock.advance(0)
        self.assertEqual((3, True), (self.origin.asked, kept.open))

    def test_busy_connections(self) -> None:
        """
        When every connection is busy, a fresh request waits for the first that is not, and has that one closed.
        """
        agent, wire, running = self.connected()
        self.post(agent, b"/fresh", fresh=True)
        wire.clear()
        wire.say(OK)
        self.successResultOf(running)
        self.assertEqual([], wire.asked())
        self.clock.advance(0)
        self.assertEqual([b"/fresh"], self.origin.accept().asked())

    def test_waits_its_turn(self) -> None:
        """
        A fresh request behind others waits until they had their turns.
        """
        agent, wire, _ = self.connected()
        for path, fresh in ((b"/1", False), (b"/fresh", True), (b"/2", False)):
            self.post(agent, path, fresh=fresh)
        wire.clear()
        wire.say(OK)
        self.assertEqual([b"/1"], wire.asked())
        wire.say(OK)
        self.clock.advance(0)
        opened = self.origin.accept()
        self.assertEqual([b"/fresh"], opened.asked())
        opened.say(OK)
        self.assertEqual([b"/2"], opened.asked())

    def test_connection_is_kept_for_others(self) -> None:
        """
        After a fresh request its connection serves usual ones, but no other fresh one.
        """
        agent, wire, _ = self.connected()
        wire.say(OK)
        for path in (b"/fresh", b"/again"):
            self.post(agent, path, fresh=True)
            self.clock.advance(0)
            opened = self.origin.accept()
            self.assertEqual([path], opened.asked())
            opened.say(OK)
        self.post(agent, b"/usual")
        self.assertEqual([b"/usual"], opened.asked())

    def test_cancelled_while_room_is_made(self) -> None:
        """
        A fresh request that is cancelled while a connection closes for it leaves the place to the next request.
        """
        agent, _ = self.used()
        cancelled = self.post(agent, b"/fresh", fresh=True)
        self.post(agent, b"/next")
        cancelled.cancel()
        self.failureResultOf(cancelled)
        self.clock.advance(0)
        self.assertEqual([b"/next"], self.origin.accept().asked())

    def test_cancelled_in_front_of_others(self) -> None:
        """
        When a fresh request that waits for room is cancelled, the next one takes an idle connection at once.
        """
        agent, wires = self.idle(2)
        cancelled = self.post(agent, b"/fresh", fresh=True)
        self.post(agent, b"/next")
        self.assertEqual([], wires[1].asked())
        cancelled.cancel()
        self.failureResultOf(cancelled)
        self.assertEqual([b"/next"], wires[1].asked())

    def test_closing_the_agent(self) -> None:
        """
        A fresh request that waits for room fails when the agent is closed, and nothing is opened for it.
        """
        agent, wire = self.used()
        waiting = self.post(agent, fresh=True)
        closing = Deferred.fromCoroutine(agent.close())
        self.failureResultOf(waiting, ConnectionFailed)
        self.clock.advance(0)
        self.successResultOf(closing)
        self.assertEqual((1, False), (self.origin.asked, wire.open))


STEPS = st.sampled_from(["post", "fresh", "accept", "refuse", "say", "lose", "cancel", "pass"])


class PoolTests(AgentCase):
    """Whatever happens in whatever order."""

    @given(st.integers(1, 3), st.booleans(), st.lists(st.tuples(STEPS, st.integers(0, 9)), max_size=60))
    def test_any_order_of_events(self, most: int, deaf: bool, steps: list[tuple[str, int]]) -> None:
        """
        There are never more sockets than allowed, a fresh request is the first on its connection, and in the end every
        request has its answer or an error.
        """
        self.setUp()
        self.origin = Origin(self.clock, deaf=deaf)
        agent = self.agent(max_connections=most)
        answers: list[Deferred[Any]] = []
        ends: list[object] = []
        carried: dict[Wire, list[bytes]] = {}

        def do(step: str, number: int) -> None:
            wires = [wire for wire in self.origin.wires if wire.open]
            if step in ("post", "fresh"):
                answers.append(self.post(agent, b"/" + step.encode(), fresh=step == "fresh"))
                answers[-1].addBoth(ends.append)
            elif step == "accept" and self.origin.pending:
                self.origin.accept()
            elif step == "refuse" and self.origin.pending:
                self.origin.refuse()
            elif step == "say" and wires:
                wires[number % len(wires)].say(OK)
            elif step == "lose" and wires:
                wires[number % len(wires)].lose(ConnectionDone())
            elif step == "cancel" and answers:
                answers[number % len(answers)].cancel()
            elif step == "pass":
                self.clock.pump([FAREWELL_SECONDS, 0])
            self.assertLessEqual(self.origin.sockets, most)
            for wire in self.origin.wires:
                carried.setdefault(wire, []).extend(wire.asked())

        for step, number in steps:
            do(step, number)
        for _ in range(2 * len(answers)):
            for step, number in (("accept", 0), ("say", 0), ("say", 1), ("say", 2), ("pass", 0)):
                do(step, number)
        self.assertEqual(len(answers), len(ends))
        self.assertNotIn(b"/fresh", [path for paths in carried.values() for path in paths[1:]])


class TimeLimitTests(AgentCase):
    """How long a request may take."""

    def test_connecting(self) -> None:
        """
        A connection that does not come about in five seconds is given up.
        """
        answer = self.post(self.agent())
        self.clock.advance(4.9)
        self.assertNoResult(answer)
        self.clock.advance(0.1)
        self.failureResultOf(answer, ConnectionFailed)

    def test_handshake_belongs_to_connecting(self) -> None:
        """
        A server that accepts and then never finishes the TLS handshake counts as not connected.
        """
        _, wire, answer = self.connected(secure=True)
        self.assertEqual([], wire.asked())
        self.clock.advance(5)
        self.failureResultOf(answer, ConnectionFailed)
        self.assertTrue(wire.aborted)

    def test_request_waits_for_the_handshake(self) -> None:
        """
        Nothing is sent before the TLS handshake is done.
        """
        _, wire, _ = self.connected(secure=True)
        self.assertEqual([], wire.asked())
        wire.connection.handshakeCompleted()
        self.assertEqual([b"/"], wire.asked())

    def test_answer_over_tls(self) -> None:
        """
        An answer over TLS is given once the goodbye that may have come with it would be known.
        """
        agent, wire, answer = self.connected(secure=True)
        wire.connection.handshakeCompleted()
        wire.say(OK)
        self.assertNoResult(answer)
        self.clock.advance(0)
        self.assertEqual(b"{}", self.successResultOf(answer).body)
        self.post(agent, b"/next")
        self.assertEqual([b"/", b"/next"], wire.asked())

    def test_more_than_the_response_over_tls(self) -> None:
        """
        Bytes that follow a response over TLS end the connection, however late they come.
        """
        for late in (False, True):
            self.setUp()
            _, wire, answer = self.connected(secure=True)
            wire.connection.handshakeCompleted()
            wire.say(*[OK, b"x"] if late else [OK + b"x"])
            self.clock.pump([0, 0])
            self.assertEqual(b"{}", self.successResultOf(answer).body)
            self.assertFalse(wire.open)

    def test_short_limit(self) -> None:
        """
        A limit shorter than that for connecting holds for connecting too.
        """
        answer = self.post(self.agent(timeout=1.0))
        self.clock.advance(1)
        self.failureResultOf(answer, ConnectionFailed)

    def test_one_limit_from_connecting_to_the_last_byte(self) -> None:
        """
        Time spent on connecting and on headers is taken from the time for the body.
        """
        agent = self.agent(timeout=10.0)
        answer = self.post(agent)
        self.clock.advance(3)
        wire = self.origin.accept()
        self.clock.advance(3)
        wire.say(OK[:-1])
        self.clock.advance(3.9)
        self.assertNoResult(answer)
        self.clock.advance(0.1)
        self.failureResultOf(answer, TimedOut)
        self.assertTrue(wire.aborted)

    def test_waiting_for_a_turn_is_free(self) -> None:
        """
        The limit of a request starts when it has its turn.
        """
        agent, wire, first = self.connected(timeout=10.0)
        second = self.post(agent)
        self.clock.advance(9)
        wire.say(OK)
        self.successResultOf(first)
        self.clock.advance(9)
        wire.say(OK)
        self.successResultOf(second)

    def test_place_is_free_afterwards(self) -> None:
        """
        When the limit strikes, the next request gets its turn.
        """
        agent, _, first = self.connected(timeout=10.0)
        second = self.post(agent)
        self.clock.advance(10)
        self.clock.advance(0)
        self.failureResultOf(first, TimedOut)
        self.origin.accept().say(OK)
        self.successResultOf(second)

    def test_beside_one_that_hangs(self) -> None:
        """
        Nothing is kept of requests that were answered while an older one hangs.
        """
        agent = self.agent(max_connections=2)
        hanging = self.post(agent)
        self.origin.accept()
        self.post(agent)
        wire = self.origin.accept()
        wire.say(OK)
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        for _ in range(100):
            self.post(agent, body=bytes(100_000))
            wire.clear()
            wire.say(OK)
            self.answers = ()
        self.assertLess(tracemalloc.get_traced_memory()[0], 1_000_000)
        self.assertNoResult(hanging)

    def test_no_timer_is_left(self) -> None:
        """
        After an answer only the idle connection's timer runs, and none after that.
        """
        self.used()
        self.assertEqual(1, len(self.clock.getDelayedCalls()))
        self.clock.pump([IDLE_SECONDS, 0])
        self.assertEqual([], self.clock.getDelayedCalls())


class LimitTests(AgentCase):
    """How much a server may say."""

    def headers_of(self, size: int) -> bytes:
        """A response without a body whose status line and headers have this many bytes."""
        lines = b"HTTP/1.1 204 No Content\r\n" + b"X-A: %s\r\n" % (b"a" * 993) * 65
        return lines + b"X-B: %s\r\n\r\n" % (b"b" * (size - len(lines) - 9))

    def test_headers_up_to_the_limit(self) -> None:
        """
        Headers that just fit are read.
        """
        _, wire, answer = self.connected()
        wire.say(self.headers_of(MAX_HEAD_BYTES))
        self.assertEqual(204, self.successResultOf(answer).code)

    def test_headers_over_the_limit(self) -> None:
        """
        One byte of headers more and the request ends.
        """
        _, wire, answer = self.connected()
        wire.say(self.headers_of(MAX_HEAD_BYTES + 1))
        self.assertIn("65536 bytes of headers", str(self.cut(answer)))
        self.assertTrue(wire.aborted)

    def test_too_many_headers(self) -> None:
        """
        Thousands of tiny headers, which cost more than a few long ones, end the request, in however many pieces.
        """
        for lines in (MAX_HEAD_LINES, MAX_HEAD_LINES + 1):
            self.setUp()
            _, wire, answer = self.connected()
            head = b"HTTP/1.1 204 No Content\r\n" + b"A:b\r\n" * (lines - 2) + b"\r\n"
            wire.say(head[:1000], head[1000:])
            if lines > MAX_HEAD_LINES:
                self.assertIn("1000 lines of headers", str(self.cut(answer)))
            else:
                self.assertEqual(204, self.successResultOf(answer).code)

    def test_little_is_read_at_once(self) -> None:
        """
        Not much is read from a connection before all else had its turn, be it under TLS or not.
        """
        _, wire, _ = self.connected()
        self.assertEqual(READ_BYTES, wire.bufferSize)

    def test_long_answers_take_turns(self) -> None:
        """
        Of many long answers that come at once, one is handed over in each turn of the reactor; short ones are at once.
        """
        reactor = self.clock = Reactor()
        self.origin = Origin(reactor)
        agent = self.agent(max_connections=4, body_limit=2 * AT_ONCE_BYTES)
        answers = [self.post(agent) for _ in range(4)]
        wires = [self.origin.accept() for _ in range(4)]
        for wire, size in zip(wires, [AT_ONCE_BYTES + 1] * 3 + [AT_ONCE_BYTES], strict=True):
            wire.say(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size, b" " * size)
        done = [[answer.called for answer in answers]]
        answers[1].cancel()
        self.failureResultOf(answers[1], CancelledError)
        reactor.turn()
        done.append([answer.called for answer in answers])
        self.assertEqual([[True, False, False, True], [True, True, True, True]], done)

    def test_one_endless_header(self) -> None:
        """
        A single header line without an end is given up, also towards a peer that does not close with us.
        """
        self.origin = Origin(self.clock, deaf=True)
        _, wire, answer = self.connected()
        wire.say(b"HTTP/1.1 200 OK\r\nX-A: ", *[b"a" * 10_000] * 7)
        self.cut(answer)
        self.assertTrue(wire.aborted)

    def test_one_long_header(self) -> None:
        """
        One header line may take all the room that there is for headers.
        """
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: "
        for surplus in (0, 1):
            self.setUp()
            _, wire, answer = self.connected()
            long = b"a" * (MAX_HEAD_BYTES - len(head + b"\r\n\r\n") + surplus)
            wire.say(head + long[:30_000], long[30_000:] + b"\r\n\r\n{}")
            if surplus:
                self.assertIn("bytes of headers", str(self.cut(answer)))
            else:
                self.assertEqual([long], self.successResultOf(answer).headers.getRawHeaders(b"x-a"))

    def test_interim_responses(self) -> None:
        """
        A few 1xx responses before the real one are passed over.
        """
        _, wire, answer = self.connected()
        wire.say(b"HTTP/1.1 100 Continue\r\n\r\n" * MAX_INTERIM_RESPONSES + OK)
        self.assertEqual(b"{}", self.successResultOf(answer).body)

    def test_endless_interim_responses(self) -> None:
        """
        A server that only ever says 100 Continue is given up.
        """
        _, wire, answer = self.connected()
        wire.say(*[b"HTTP/1.1 100 Continue\r\n\r\n"] * (MAX_INTERIM_RESPONSES + 2))
        self.assertIn("interim", str(self.cut(answer)))

    def test_close_said_in_an_interim_response(self) -> None:
        """
        Only the headers of the real response say whether the connection stays.
        """
        agent, wire = self.used(b"HTTP/1.1 102 Processing\r\nConnection: close\r\n\r\n" + OK)
        self.post(agent)
        self.assertEqual([b"/"], wire.asked())

    def test_body_up_to_the_limit(self) -> None:
        """
        A body that just fits is read.
        """
        _, wire, answer = self.connected()
        wire.say(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"x" * 1000)
        response: WholeResponse = self.successResultOf(answer)
        self.assertEqual((True, 1000), (response.whole, len(response.body)))

    def test_body_over_the_limit(self) -> None:
        """
        A larger body is not read, whether its length was told or not; the status and headers are there.
        """
        for start, body in (
            (b"Content-Length: 1001\r\n\r\n", b""),
            (b"\r\n", b"x" * 1001),
            (b"Transfer-Encoding: chunked\r\n\r\n", b"3e9\r\n" + b"x" * 1001),
        ):
            self.setUp()
            _, wire, answer = self.connected()
            wire.say(b"HTTP/1.1 200 OK\r\nX-Kept: yes\r\n" + start + body)
            response: WholeResponse = self.successResultOf(answer)
            self.assertEqual((False, b"", 200), (response.whole, response.body, response.code))
            self.assertTrue(wire.aborted)

    def test_limit_depends_on_the_status(self) -> None:
        """
        The body of a response whose body nobody reads has a limit of its own.
        """
        _, wire, answer = self.connected()
        wire.say(b"HTTP/1.1 500 Oops\r\nContent-Length: 101\r\n\r\n")
        self.assertFalse(self.successResultOf(answer).whole)


class BrokenResponseTests(AgentCase):
    """Responses that are not quite HTTP."""

    def test_not_http(self) -> None:
        """
        An answer that is not HTTP/1 cuts the request, without a word in the log.
        """
        for garbage in (
            b"SSH-2.0-OpenSSH_9.2\r\n",
            b"\r\n\r\n",
            b"\x15\x03\x01\x00\x02\x02\x16\n",
            b"HTTP/1.1 abc Oops\r\n\r\n",
            b"HTTP/1.1 -5 Oops\r\n\r\n",
            b"HTTP/1.1 99999 Oops\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"FTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nBad Name: x\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nxx",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nnot a length\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxyz",
        ):
            self.setUp()
            agent, wire, answer = self.connected()
            wire.say(garbage)
            self.assertTrue(self.cut(answer).started, garbage)
            self.clock.advance(0)
            self.assertFalse(wire.open)
            del agent, wire, answer
            gc.collect()
            self.assertEqual([], self.flushLoggedErrors())

    def test_body_shorter_than_its_length(self) -> None:
        """
        A body that ends before its announced length is a cut, not an answer.
        """
        _, wire, answer = self.connected()
        wire.say(OK[:-1])
        wire.lose(ConnectionDone())
        self.cut(answer)

    def test_chunked_body_without_its_end(self) -> None:
        """
        A chunked body without its last chunk is a cut.
        """
        _, wire, answer = self.connected()
        wire.say(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n")
        wire.lose(ConnectionDone())
        self.cut(answer)

    def test_body_that_ends_by_close(self) -> None:
        """
        A body without a length is complete when the connection is closed properly.
        """
        _, wire, answer = self.connected()
        wire.say(b"HTTP/1.1 200 OK\r\n\r\n{", b"}")
        wire.lose(ConnectionDone())
        self.assertEqual(b"{}", self.successResultOf(answer).body)

    def test_body_that_ends_by_a_break(self) -> None:
        """
        A body without a length is not complete when the connection breaks.
        """
        _, wire, answer = self.connected()
        wire.say(b"HTTP/1.1 200 OK\r\n\r\n{}")
        wire.lose(ConnectionLost())
        self.cut(answer)

    def test_answer_before_the_question(self) -> None:
        """
        What a server says before it was asked anything ends the connection.
        """
        connection = Connection(self.pool())
        wire = Wire(self.clock, connection, deaf=False)
        connection.makeConnection(wire)
        wire.say(OK)
        self.assertTrue(wire.aborted)
        self.successResultOf(connection.ready)


RESPONSES = st.sampled_from(
    [
        OK,
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
        b"HTTP/1.1 200 OK\nContent-Length: 4\nX-Fold: a\n b\n\n\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\n{}\r\n3\r\n\r\n\n\r\n0\r\nTrailer: 1\r\n\r\n",
    ]
)


class SegmentTests(AgentCase):
    """How the network cuts a response into pieces does not matter."""

    @given(RESPONSES, st.lists(st.integers(0, 150), max_size=8), st.booleans())
    def test_any_cut(self, response: bytes, cuts: list[int], surplus: bool) -> None:
        """
        A response cut anywhere is the same response, and what follows it is seen, or not there.
        """
        self.setUp()
        _, wire, answer = self.connected()
        wire.say(response)
        expected = self.successResultOf(answer)

        self.setUp()
        _, wire, answer = self.connected()
        data = response + b"x" * surplus
        places = sorted({min(place, len(data)) for place in [0, *cuts, len(data)]})
        wire.say(*[data[start:end] for start, end in pairwise(places)])
        got = self.successResultOf(answer)
        self.assertEqual((expected.code, expected.body, expected.headers), (got.code, got.body, got.headers))
        self.clock.advance(0)
        self.assertEqual(not surplus, wire.open)

    @given(st.lists(st.binary(max_size=60) | st.sampled_from([b"HTTP/1.1 ", b"\r\n", b"\n\n", OK, b": "]), max_size=9))
    def test_any_bytes(self, pieces: list[bytes]) -> None:
        """
        Whatever a server says, the end is a response or one of our errors, and the connection goes with it.
        """
        self.setUp()
        _, wire, answer = self.connected()
        wire.say(*pieces)
        wire.lose(ConnectionDone())
        outcome: list[object] = []
        answer.addBoth(outcome.append)
        self.assertIsInstance(getattr(outcome[0], "value", outcome[0]), (WholeResponse, WebhookError))


class UrlTests(SynchronousTestCase):
    """Which URLs can be POSTed to, and what is sent for them."""

    def test_parts(self) -> None:
        """
        Host, port and path are sent as HTTP wants them.
        """
        for text, host_header, target in (
            ("http://bot.example", b"bot.example", b"/"),
            ("http://bot.example:80/a", b"bot.example", b"/a"),
            ("HTTPS://Bot.Example:443?q", b"bot.example", b"/?q"),
            ("http://127.0.0.1:8080/a?b#c", b"127.0.0.1:8080", b"/a?b"),
            ("http://[2001:DB8::1]/", b"[2001:db8::1]", b"/"),
            ("https://[::1]:8443/", b"[::1]:8443", b"/"),
            ("http://b\u00fccher.example/", b"xn--bcher-kva.example", b"/"),
            ("http://my_bot:8000/", b"my_bot:8000", b"/"),
            ("http://bot.example/?", b"bot.example", b"/?"),
        ):
            url = WebhookUrl.parse(text)
            self.assertEqual((host_header, target), (url.host_header, url.target))

    @given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#\\")))
    def test_path_and_query_are_not_touched(self, text: str) -> None:
        """
        Path and query reach the server byte for byte: no escape is added, removed or changed.
        """
        self.assertEqual(b"/" + text.encode(), WebhookUrl.parse(f"http://bot/{text}#fragment").target)

    def test_path_that_is_not_ascii(self) -> None:
        """
        What is not ASCII in a path is sent as percent-encoded UTF-8.
        """
        self.assertEqual(b"/%C3%BC%2F?%C3%A4", WebhookUrl.parse("http://bot/\u00fc%2F?\u00e4").target)

    def test_refused(self) -> None:
        """
        What is no URL, or not one of HTTP, is refused in a sentence that shows no password.
        """
        for text in (
            "",
            "bot.example/",
            "//bot.example/",
            "ftp://bot.example/",
            "http:///path",
            "http://user:hunter2@/",
            "http://user:hunter2@bot:99999/",
            "http://bot:0/",
            "http://bot:x/",
            "http://user:hunter2@bot.example/a b",
            "http://bot.example/a\r\nX: y",
            "http://bot.example\\@evil.example/",
            "http://[::1/",
            "http://[1.2.3.4]/",
            "http://a..b/",
            "http://" + "a" * 64 + "/",
            "http://a%62c/",
            "http://a,b/",
            "http://us%3Aer:hunter2@bot/",
        ):
            error = self.assertRaises(ValueError, WebhookUrl.parse, text)
            self.assertNotIn("hunter2", str(error))

    def test_credentials(self) -> None:
        """
        User and password of the URL become Basic auth, percent-decoded, as UTF-8.
        """
        for text, authorization in (
            ("http://Aladdin:open%20sesame@bot/", b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            ("http://test:123%C2%A3@bot/", b"Basic dGVzdDoxMjPCow=="),
            ("http://test:123\u00a3@bot/", b"Basic dGVzdDoxMjPCow=="),
            ("http://user@bot/", b"Basic dXNlcjo="),
            ("http://bot/", None),
            ("http://@bot/", None),
        ):
            self.assertEqual(authorization, WebhookUrl.parse(text).authorization)

    def test_not_shown(self) -> None:
        """
        A URL shows neither its credentials nor its path and query, where tokens may stand.
        """
        shown = repr(WebhookUrl.parse("http://user:hunter2@bot/T0KEN?key=T0KEN"))
        self.assertNotIn("hunter2", shown)
        self.assertNotIn("T0KEN", shown)


class ClientSettingsTests(SynchronousTestCase):
    """What a webhook client accepts, before it connects to anything."""

    def client(self, url: str = "http://bot/", **settings: Any) -> WebhookClient:
        return WebhookClient(url, reactor=MemoryReactorClock(), **settings)

    def test_opens_nothing(self) -> None:
        """
        Making a client opens no connection and starts no timer.
        """
        reactor = MemoryReactorClock()
        WebhookClient("https://bot.example/", reactor=reactor)
        self.assertEqual(([], []), (reactor.tcpClients, reactor.getDelayedCalls()))

    def test_headers_that_are_not_ours_to_give(self) -> None:
        """
        Headers that HTTP or the contract decides, malformed ones and double ones are refused.
        """
        for headers in (
            {"Host": "x"},
            {"content-length": "1"},
            {"Transfer-Encoding": "chunked"},
            {"Connection": "close"},
            {"Content-Type": "text/plain"},
            {"Accept-Encoding": "gzip"},
            {"Bad Name": "x"},
            {"": "x"},
            {"X-Key": "a\r\nX-Other: b"},
            {"X-Key": "\u00e4"},
            {"X-Key": "a", "x-key": "b"},
        ):
            self.assertRaises(ValueError, self.client, headers=headers)

    def test_one_way_to_authorize(self) -> None:
        """
        Two of URL, token and header cannot both set the Authorization header.
        """
        self.assertRaises(ValueError, self.client, "http://user:password@bot/", bearer_token="token")
        self.assertRaises(ValueError, self.client, bearer_token="token", headers={"authorization": "x"})
        self.assertRaises(ValueError, self.client, "http://user@bot/", headers={"Authorization": "x"})
        self.assertRaises(ValueError, self.client, bearer_token="two\r\nlines")

    def test_name_without_certificates(self) -> None:
        """
        A name that no certificate can be for is refused before the first connection.
        """
        self.assertRaises(ValueError, self.client, "https://my_bot/")

    def test_not_shown(self) -> None:
        """
        A client shows where it posts to, and no secret.
        """
        client = self.client("http://user:hunter2@bot:81/T0KEN?T0KEN")
        self.assertEqual("<WebhookClient http://bot:81>", repr(client))
