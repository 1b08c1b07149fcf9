"""The API's HTTP: what a stranger on a connection can do, and what not."""

from __future__ import annotations

import json
from typing import Any

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from component_http.api.connection import BUSY_TIME, CLOSE_TIME, PROBE_TIME, READ_AHEAD
from component_http.api.exchange import Admitted, Answer, Call, json_answer
from component_http.api.gate import PAUSE
from component_http.api.http1 import MAX_HEADERS
from component_http.api.server import ApiServer
from component_http.operations.metrics import Counters
from tests.unit.work import Reactor

LIMIT = 100
TIMEOUT = 30.0


class Wire(StringTransport):
    """
    A connection that knows whether it was closed or cut.

    Attributes:
        half_closed: Only our direction is closed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.aborted = False
        self.half_closed = False

    @property
    def closed(self) -> bool:
        """Whether nothing more is written to it."""
        return self.disconnecting or self.half_closed

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def abortConnection(self) -> None:
        super().abortConnection()
        self.aborted = True


@implementer(IPushProducer)
class Port:
    """
    An open port.

    Attributes:
        paused: It accepts no connections for now.
    """

    def __init__(self) -> None:
        self.open = True
        self.paused = False

    def pauseProducing(self) -> None:
        self.paused = True

    def resumeProducing(self) -> None:
        self.paused = False

    def stopProducing(self) -> None:
        """Never called."""

    def getHost(self) -> str:
        return "here"

    def stopListening(self) -> None:
        self.open = False


class Endpoint:
    """An endpoint that opens a port, or cannot."""

    def __init__(self, error: Exception | None = None) -> None:
        self.port = Port()
        self.error = error

    def listen(self, factory: Any) -> Any:
        return succeed(self.port) if self.error is None else fail(self.error)


class ServerTestCase(SynchronousTestCase):
    """
    A test with a server, and connections to it that are none.

    Attributes:
        calls: The requests that came through.
        answer: What is answered; or a Deferred of it.
        refusal: What is answered before the body is read, or None.
        known: Whether a client counts as one who has a token.
        by_url: Whether it counts as one who knows a URL instead.
    """

    def setUp(self) -> None:
        self.clock = Reactor()
        self.counters = Counters()
        self.calls: list[Call] = []
        self.refusal: Answer | None = None
        self.known = True
        self.by_url = False
        self.answer: Any = json_answer(200, {"ok": True})
        self.keeping: Deferred[None] | None = None
        self.endpoint = Endpoint()
        self.server = self.a_server()
        self.factory = self.server.factory()
        self.connections: list[tuple[Any, Wire]] = []

    def a_server(self, max_connections: int = 3, per_second: int | None = None) -> ApiServer:
        return ApiServer(
            self.admit,
            self.finish,
            self.endpoint,
            self.counters,
            clock=self.clock,
            max_connections=max_connections,
            max_body_bytes=LIMIT,
            request_timeout=TIMEOUT,
            per_second=per_second,
        )

    def tearDown(self) -> None:
        for protocol, _ in self.connections:
            protocol.connectionLost(Failure(ConnectionError()))
        self.clock.turn(20)
        self.assertEqual([], self.clock.getDelayedCalls())

    async def finish(self) -> None:
        if self.keeping is not None:
            await self.keeping

    def admit(self, call: Call) -> Admitted | Answer:
        if self.refusal is not None:
            return self.refusal

        async def carry_out(body: bytes | None) -> Answer:
            self.calls.append(evolve(call, body=body))
            answer: Answer = await self.answer if isinstance(self.answer, Deferred) else self.answer
            return answer

        return Admitted(carry_out, self.known, self.by_url)

    def connect(self) -> tuple[Any, Wire]:
        protocol: Any = self.factory.buildProtocol(None)
        wire = Wire()
        protocol.makeConnection(wire)
        self.connections.append((protocol, wire))
        return protocol, wire

    def say(self, text: str | bytes, pieces: int = 1) -> Wire:
        """Send a request on a connection of its own, in some pieces, and give what came back."""
        data = text.encode() if isinstance(text, str) else text
        protocol, wire = self.connect()
        size = max(1, len(data) // pieces)
        for start in range(0, len(data), size):
            if not wire.disconnecting:
                protocol.dataReceived(data[start : start + size])
                self.clock.turn(2)
        return wire

    def status_of(self, wire: Wire) -> int:
        first = wire.value().split(b"\r\n", 1)[0]
        return int(first.split()[1]) if first else 0


def post(body: str = "{}", *headers: str) -> str:
    lines = ["POST /v1/messages?wait=sent HTTP/1.1", "Host: h", f"Content-Length: {len(body.encode())}", *headers]
    return "\r\n".join([*lines, "", body])


class RequestTests(ServerTestCase):
    """From bytes to a request and back."""

    def test_request(self) -> None:
        """
        A request comes through with all that it has, in however many pieces.
        """
        wire = self.say(post('{"a":1}', "Content-Type: application/json", "X-A: 1", "x-a: 2"), pieces=40)
        [call] = self.calls
        self.assertEqual(
            ("POST", "/v1/messages", "wait=sent", b'{"a":1}'), (call.method, call.path, call.query, call.body)
        )
        self.assertEqual(("application/json", "1, 2"), (call.headers["content-type"], call.headers["x-a"]))
        head, _, body = wire.value().partition(b"\r\n\r\n")
        self.assertIn(b"HTTP/1.1 200 OK\r\n", head)
        self.assertIn(b"Content-Length: 11", head)
        self.assertIn(b"Content-Type: application/json", head)
        self.assertEqual({"ok": True}, json.loads(body))

    def test_status_in_words(self) -> None:
        """
        Who looks at the first line of an answer finds the status in words, also a rare one.
        """
        for status, words in ((422, "Unprocessable"), (429, "Too Many Requests"), (504, "Gateway Timeout")):
            self.answer = json_answer(status, {})
            wire = self.say(post())
            self.assertTrue(wire.value().startswith(f"HTTP/1.1 {status} {words}".encode()), wire.value())
            self.connections.pop()[0].connectionLost(Failure(ConnectionError()))

    def test_chunked(self) -> None:
        """
        A body may come in chunks of unknown number.
        """
        self.say("POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", 9)
        self.assertEqual(b"abcde", self.calls[0].body)

    def test_form_is_left_alone(self) -> None:
        """
        Nobody takes a form apart before it is known what is wanted.
        """
        self.say(post("a=%00&b", "Content-Type: application/x-www-form-urlencoded"))
        self.say(post("--x", "Content-Type: multipart/form-data; boundary=x"))
        self.assertEqual([b"a=%00&b", b"--x"], [call.body for call in self.calls])

    def test_head(self) -> None:
        """
        The answer to HEAD has the headers of GET and no body.
        """
        wire = self.say("HEAD /x HTTP/1.1\r\nHost: h\r\n\r\n")
        self.assertIn(b"Content-Length: 11\r\n", wire.value())
        self.assertTrue(wire.value().endswith(b"\r\n\r\n"))

    def test_no_body(self) -> None:
        """
        An answer without a body says so, but for 204, which has none ever.
        """
        self.answer = Answer(202)
        self.assertIn(b"Content-Length: 0\r\n", self.say(post()).value())
        self.answer = Answer(204, headers={"Allow": "GET"})
        value = self.say(post()).value()
        self.assertNotIn(b"Content-Length", value)
        self.assertIn(b"Allow: GET\r\n", value)

    def test_kept_connection(self) -> None:
        """
        A connection is used again, also when the next request comes before the answer to the first.
        """
        protocol, wire = self.connect()
        protocol.dataReceived((post() + post()).encode())
        protocol.dataReceived(post().encode())
        self.clock.turn(20)
        self.assertEqual((3, 3), (len(self.calls), wire.value().count(b"HTTP/1.1 200")))
        self.assertFalse(wire.disconnecting)

    def test_connection_that_wants_to_close(self) -> None:
        """
        Who says close, or speaks HTTP/1.0, is closed after the answer.
        """
        self.assertTrue(self.say(post("{}", "Connection: close")).disconnecting)
        self.assertTrue(self.say("GET /x HTTP/1.0\r\n\r\n").disconnecting)


class LimitTests(ServerTestCase):
    """The bounds."""

    def test_large_body_that_asks_first(self) -> None:
        """
        A client that asks before it sends is answered at once if the body is too large, and else told to go on.
        """
        self.answer = json_answer(413, {})
        head = "POST /x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n"
        wire = self.say(head.format(LIMIT + 1))
        self.assertEqual((413, True), (self.status_of(wire), wire.closed))
        wire = self.say(head.format(LIMIT))
        self.assertEqual(b"HTTP/1.1 100 Continue\r\n\r\n", wire.value())
        self.connections[-1][0].dataReceived(b"x" * LIMIT)
        self.clock.turn(20)
        self.assertIn(b"HTTP/1.1 413 ", wire.value())

    def test_large_body(self) -> None:
        """
        A body over the limit is not read: the answer comes as soon as its size is known, and then the end.
        """
        self.say(post("x" * LIMIT))
        announced = self.say(post("x" * (LIMIT + 1)).partition("xx")[0])
        chunks = f"40\r\n{'x' * 64}\r\n40\r\n"
        growing = self.say(f"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}", pieces=9)
        self.assertEqual([b"x" * LIMIT, None, None], [call.body for call in self.calls])
        self.assertEqual((True, True), (announced.closed, growing.closed))

    def test_refused_before_the_body(self) -> None:
        """
        A request that is refused for its head is answered before its body, which is thrown away, and the end follows.
        """
        self.refusal = json_answer(401, {})
        head = "POST /x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n"
        for length in ("Content-Length: 50", f"Content-Length: {LIMIT + 1}", "Transfer-Encoding: chunked"):
            wire = self.say(f"{head}{length}\r\n\r\n")
            self.assertEqual((401, True, False), (self.status_of(wire), wire.closed, wire.disconnecting), length)
            told = wire.value()
            self.connections[-1][0].dataReceived(b"2\r\naa\r\n" * 10_000)
            self.clock.turn(20)
            self.assertEqual((told, "producing"), (wire.value(), wire.producerState))
            self.clock.advance(CLOSE_TIME)
            self.assertTrue(wire.aborted)
            self.connections.pop()[0].connectionLost(Failure(ConnectionError()))
        self.assertEqual([], self.calls)

    def test_body_of_a_stranger(self) -> None:
        """
        What is open to all is answered without the body, so that a stranger cannot fill the memory with one.
        """
        self.known = False
        wire = self.say("GET /x HTTP/1.1\r\nHost: h\r\nContent-Length: 50\r\n\r\n")
        self.assertEqual((200, True), (self.status_of(wire), wire.closed))
        self.assertEqual([b""], [call.body for call in self.calls])

    def test_refused_with_the_body(self) -> None:
        """
        A connection goes on after a refused request whose body came along.
        """
        self.refusal = json_answer(429, {})
        protocol, wire = self.connect()
        protocol.dataReceived((post("x" * 50) + post("x" * 50)).encode())
        self.clock.turn(20)
        self.assertEqual((2, False), (wire.value().count(b"HTTP/1.1 429 "), wire.closed))

    def test_headers(self) -> None:
        """
        Too many headers, too long ones and what is no header end the connection with a status that says so.
        """
        many = [f"X-{number}: 1" for number in range(MAX_HEADERS + 1)]
        for status, headers in (
            (431, many),
            (431, ["X: " + "x" * 20_000]),
            (431, ["X: " + "x" * 10_000] * 2),
            (400, ["no header"]),
            (400, ["Content-Length: 5"]),
            (400, ["A\0: 1"]),
        ):
            wire = self.say(post("{}", *headers))
            self.assertEqual((status, True), (self.status_of(wire), wire.closed))
            self.assertIn(b"application/problem+json", wire.value())
            self.connections.pop()[0].connectionLost(Failure(ConnectionError()))
        self.assertEqual([], self.calls)

    def test_slow_request(self) -> None:
        """
        A request that trickles in is cut off, however often a byte comes.
        """
        protocol, wire = self.connect()
        for byte in post("x" * 50).encode()[:60]:
            if wire.closed:
                break
            protocol.dataReceived(bytes([byte]))
            self.clock.advance(1.0)
        self.assertEqual((408, True), (self.status_of(wire), wire.closed))
        self.assertEqual(TIMEOUT, self.clock.seconds())
        self.assertEqual([], self.calls)

    def test_silence(self) -> None:
        """
        A connection that says nothing is closed, at its beginning and after a request.
        """
        _, silent = self.connect()
        protocol, wire = self.connect()
        self.clock.advance(TIMEOUT - 1)
        protocol.dataReceived(post().encode())
        self.clock.advance(1)
        self.assertEqual((True, False), (silent.disconnecting, wire.disconnecting))
        self.clock.advance(TIMEOUT)
        self.assertTrue(wire.disconnecting)

    def test_time_of_a_second_request(self) -> None:
        """
        Each request has the whole time, also on a connection that was kept.
        """
        protocol, wire = self.connect()
        protocol.dataReceived(post().encode())
        self.clock.advance(TIMEOUT - 1)
        half, rest = post()[:30], post()[30:]
        protocol.dataReceived(half.encode())
        self.clock.advance(TIMEOUT - 1)
        protocol.dataReceived(rest.encode())
        self.assertEqual(2, len(self.calls))
        self.assertFalse(wire.disconnecting)

    def test_slow_answer(self) -> None:
        """
        While the answer is being made nobody is cut off.
        """
        self.answer = Deferred()
        wire = self.say(post())
        self.clock.advance(10 * TIMEOUT)
        self.assertFalse(wire.disconnecting)
        self.answer.callback(json_answer(200, {}))
        self.assertEqual(200, self.status_of(wire))

    def test_client_that_never_goes(self) -> None:
        """
        Who does not close when he is told to is cut.
        """
        _, wire = self.connect()
        self.clock.advance(TIMEOUT)
        self.clock.advance(CLOSE_TIME)
        self.assertTrue(wire.aborted)

    @given(st.binary(max_size=200), st.integers(1, 20))
    def test_whatever_comes(self, data: bytes, pieces: int) -> None:
        """
        Whatever bytes come, nothing of ours fails.
        """
        self.say(data, pieces)
        for protocol, _ in self.connections:
            protocol.connectionLost(Failure(ConnectionError()))
        self.connections.clear()


class PlaceTests(ServerTestCase):
    """More connections than there are places."""

    def test_stranger_makes_room(self) -> None:
        """
        When all places are taken, a client gets that of the oldest connection that has shown no token, however busy.
        """
        silent, half = self.connect(), self.connect()
        half[0].dataReceived(post().encode()[:50])
        self.known = False
        open_to_all = self.say(post())
        self.known = True
        for wire in (silent[1], half[1], open_to_all):
            served = self.say(post())
            self.assertEqual((200, False), (self.status_of(served), served.closed))
            self.clock.advance(BUSY_TIME)
            self.assertTrue(wire.closed or wire.aborted)
        self.assertEqual((3, 0), (self.counters["api_evicted"], self.counters["api_busy"]))

    def test_stranger_is_told(self) -> None:
        """
        A connection that loses its place is told 503: at once if its request has begun, or else when it begins.
        """
        half, silent = self.connect(), self.connect()
        half[0].dataReceived(b"POST /v1")
        self.connect()
        for _ in range(2):
            self.connect()
        silent[0].dataReceived(post().encode())
        for _, wire in (half, silent):
            self.assertEqual((503, True), (self.status_of(wire), wire.closed))
            self.assertIn(b"Retry-After: 1\r\n", wire.value())
            self.assertIn(b"too many connections", wire.value())
        self.assertEqual([], self.calls)

    def test_idle_client_makes_room(self) -> None:
        """
        Where everybody has shown a token, the oldest connection that is idle makes room.
        """
        self.answer = Deferred()
        busy = self.say(post())
        answering, self.answer = self.answer, json_answer(200, {})
        idle, other = self.say(post()), self.say(post())
        self.say(post())
        self.clock.advance(BUSY_TIME)
        self.assertEqual((False, True, False), (busy.aborted, idle.aborted, other.aborted))
        answering.callback(json_answer(200, {}))
        self.assertEqual(200, self.status_of(busy))

    def test_client_that_waits_for_its_turn(self) -> None:
        """
        A connection whose request is in, but was not looked at yet, stays, and a silent one makes room.
        """
        first, waiting, silent = self.connect(), self.connect(), self.connect()
        first[0].dataReceived(post().encode())
        waiting[0].dataReceived(post().encode())
        self.connect()
        self.clock.turn(2)
        self.assertEqual(200, self.status_of(waiting[1]))
        self.clock.advance(BUSY_TIME)
        self.assertTrue(silent[1].aborted)

    def test_hooks_that_never_end(self) -> None:
        """
        Requests to a hook whose bodies do not come take half of the places at most: beyond, the oldest is told 503.
        """
        self.server = self.a_server(max_connections=4)
        self.factory = self.server.factory()
        self.by_url = True
        held = [self.say(post("x" * 50)[:-50]) for _ in range(6)]
        self.assertEqual([503] * 4 + [0] * 2, [self.status_of(wire) for wire in held])
        self.assertEqual(4, self.counters["api_evicted"])
        self.connections[-1][0].dataReceived(b"x" * 50)
        self.clock.turn(20)
        self.assertEqual(200, self.status_of(held[-1]))

    def test_idle_client_of_a_hook(self) -> None:
        """
        Who has used a hook and is idle makes room before any client with a token.
        """
        with_token = self.say(post())
        self.by_url = True
        with_url = self.say(post())
        self.by_url = False
        self.say(post())
        self.say(post())
        self.clock.advance(BUSY_TIME)
        self.assertEqual((False, True), (with_token.aborted, with_url.aborted))

    def test_clients_under_way_stay(self) -> None:
        """
        Requests with a token keep their places, whether they come in or are answered: then the newest is told 503.
        """
        for _ in range(2):
            self.answer = Deferred()
            self.say(post())
        coming = self.connect()
        coming[0].dataReceived(post("x" * 50).encode()[:120])
        wire = self.say(post())
        self.assertEqual((503, True), (self.status_of(wire), wire.closed))
        self.assertIn(b"Retry-After: 1\r\n", wire.value())
        self.assertEqual((1, 0), (self.counters["api_busy"], self.counters["api_evicted"]))
        self.assertEqual([False] * 3, [wire.closed for _, wire in self.connections[:3]])
        for protocol, _ in self.connections[2:]:
            protocol.connectionLost(Failure(ConnectionError()))
        del self.connections[2:]
        self.answer = json_answer(200, {})
        self.assertEqual(200, self.status_of(self.say(post())))

    def test_those_who_are_told(self) -> None:
        """
        Connections that are to be told 503 are bounded too, and do not stay.
        """
        for _ in range(3):
            self.answer = Deferred()
            self.say(post())
        for _ in range(3):
            self.connect()
        self.assertIsNone(self.factory.buildProtocol(None))
        self.clock.advance(BUSY_TIME)
        self.assertEqual([False] * 3 + [True] * 3, [wire.aborted for _, wire in self.connections])

    def test_flood(self) -> None:
        """
        A flood of connections leaves no more of them than there are places, twice.
        """
        for _ in range(50):
            self.connect()
        self.assertEqual((3, 3), (len(self.server.places.taken), len(self.server.places.turned_away)))
        self.assertEqual(44, sum(wire.closed for _, wire in self.connections))


class GateTests(ServerTestCase):
    """A server that accepts only so many connections in a second."""

    def a_server(self, max_connections: int = 9, per_second: int | None = 3) -> ApiServer:
        return super().a_server(max_connections, per_second)

    def come(self, count: int) -> int:
        """Let so many connections come and go again; returns how many of them were accepted."""
        accepted = [protocol for protocol in (self.factory.buildProtocol(None) for _ in range(count)) if protocol]
        for protocol in accepted:
            protocol.makeConnection(Wire())
            protocol.connectionLost(Failure(ConnectionError()))
        return len(accepted)

    def test_pause(self) -> None:
        """
        After a connection too many the port is left alone for a moment, and others wait; then they are accepted.
        """
        self.server.startService()
        self.assertEqual(12, self.come(12))
        self.assertFalse(self.endpoint.port.paused)
        self.assertEqual(0, self.come(2))
        self.assertTrue(self.endpoint.port.paused)
        self.assertEqual(2, self.counters["api_busy"])
        self.clock.advance(PAUSE)
        self.assertFalse(self.endpoint.port.paused)
        self.assertEqual(3, self.come(9))
        self.clock.advance(PAUSE)

    def test_stop_meanwhile(self) -> None:
        """
        A server that is stopped in such a moment leaves nothing behind, and can be started again.
        """
        self.server.startService()
        self.come(13)
        self.successResultOf(self.server.stopService())
        self.assertEqual([], self.clock.getDelayedCalls())
        self.endpoint.port = Port()
        self.server.startService()
        self.clock.advance(1)
        self.assertEqual(3, self.come(4))
        self.assertTrue(self.endpoint.port.paused)
        self.clock.advance(PAUSE)


class TurnTests(ServerTestCase):
    """Many requests at once: nobody has to wait for all that another has sent."""

    def test_requests_of_one_connection(self) -> None:
        """
        Of many requests that come at once one is carried out in each turn of the reactor.
        """
        protocol, wire = self.connect()
        protocol.dataReceived(post().encode() * 10)
        for count in range(1, 11):
            self.assertEqual(count, len(self.calls))
            self.clock.turn()
        self.assertEqual(10, wire.value().count(b"HTTP/1.1 200 "))

    def test_connections_by_turns(self) -> None:
        """
        Connections take turns, so that the last one need not wait until the first has no more to ask.
        """
        first, second = self.connect(), self.connect()
        first[0].dataReceived(post("first").encode() * 5)
        second[0].dataReceived(post("second").encode() * 2)
        self.clock.turn(3)
        self.assertEqual([b"first", b"first", b"second", b"first"], [call.body for call in self.calls])
        self.clock.turn(20)
        self.assertEqual(7, len(self.calls))

    def test_nothing_is_read_before_its_turn(self) -> None:
        """
        While requests of a connection wait for their turn, no more is read from it.
        """
        protocol, wire = self.connect()
        protocol.dataReceived(post().encode() * 5)
        self.assertEqual("paused", wire.producerState)
        self.clock.turn(20)
        self.assertEqual("producing", wire.producerState)

    def test_answers_that_are_not_read(self) -> None:
        """
        A client that does not read its answers gets no more of them made, and is cut off after a while.
        """
        protocol, wire = self.connect()
        protocol.dataReceived(post().encode() * 10)
        protocol.pauseProducing()
        self.clock.turn(20)
        self.assertEqual((1, "paused"), (len(self.calls), wire.producerState))
        self.clock.advance(TIMEOUT - 1)
        protocol.resumeProducing()
        self.clock.turn(20)
        self.assertEqual((10, "producing"), (len(self.calls), wire.producerState))
        protocol.dataReceived(post().encode())
        protocol.pauseProducing()
        self.clock.advance(TIMEOUT)
        self.assertTrue(wire.aborted)

    def test_requests_while_one_is_answered(self) -> None:
        """
        Only so much of later requests is read while one is answered, and all of it is carried out after.
        """
        answering = self.answer = Deferred()
        protocol, wire = self.connect()
        protocol.dataReceived(post().encode())
        self.answer = json_answer(200, {})
        later = post().encode() * (READ_AHEAD // len(post()) + 1)
        protocol.dataReceived(later[:READ_AHEAD])
        self.assertEqual("producing", wire.producerState)
        protocol.dataReceived(later[READ_AHEAD:])
        self.assertEqual(("paused", 1), (wire.producerState, len(self.calls)))
        answering.callback(json_answer(200, {}))
        self.clock.turn(len(later))
        self.assertEqual("producing", wire.producerState)
        self.assertEqual(1 + len(later) // len(post()), len(self.calls))


class LifeTests(ServerTestCase):
    """Start, stop, and clients that go."""

    def test_start_and_stop(self) -> None:
        """
        The port is open from the start to the stop.
        """
        self.server.startService()
        assert self.server.listening is not None
        self.assertIs(self.endpoint.port, self.successResultOf(self.server.listening))
        self.successResultOf(self.server.stopService())
        self.assertFalse(self.endpoint.port.open)

    def test_port_that_cannot_be_opened(self) -> None:
        """
        A port that is taken is told, and nothing else happens.
        """
        self.endpoint.error = CannotListenError("127.0.0.1", 8347, OSError("in use"))
        self.server.startService()
        self.successResultOf(self.server.stopService())

    def test_stop_waits(self) -> None:
        """
        A request that is under way gets its answer before the connections are closed.
        """
        self.server.startService()
        self.answer = Deferred()
        wire = self.say(post())
        _, idle = self.connect()
        stopped = self.server.stopService()
        self.assertNoResult(stopped)
        self.answer.callback(json_answer(200, {}))
        self.successResultOf(stopped)
        self.assertEqual((200, True, True), (self.status_of(wire), wire.disconnecting, idle.disconnecting))

    def test_request_while_it_stops(self) -> None:
        """
        Who asks on a kept connection while the server stops is told so, and nothing is begun for it.
        """
        self.server.startService()
        self.answer = Deferred()
        self.say(post())
        protocol, wire = self.connect()
        stopped = self.server.stopService()
        protocol.dataReceived(post().encode())
        self.assertEqual((503, 1, True), (self.status_of(wire), len(self.calls), wire.closed))
        self.assertIn(b"Retry-After: ", wire.value())
        self.answer.callback(json_answer(200, {}))
        self.successResultOf(stopped)
        self.answer = json_answer(200, {})
        self.server.startService()
        self.assertEqual(200, self.status_of(self.say(post())))

    def test_stop_waits_so_long(self) -> None:
        """
        A request that takes for ever does not keep the server from stopping.
        """
        self.server.startService()
        self.answer = Deferred()
        wire = self.say(post())
        stopped = self.server.stopService()
        self.clock.advance(CLOSE_TIME)
        self.successResultOf(stopped)
        self.assertTrue(wire.disconnecting)

    def test_stop_waits_for_the_spool(self) -> None:
        """
        What is being kept is kept before the server has stopped, whatever became of who sent it.
        """
        self.server.startService()
        self.keeping = Deferred()
        stopped = self.server.stopService()
        self.assertNoResult(stopped)
        self.keeping.callback(None)
        self.successResultOf(stopped)

    def test_client_that_goes(self) -> None:
        """
        When the client goes before the answer, the making of it is cancelled and nobody minds.
        """
        cancelled: list[object] = []
        self.answer = Deferred(cancelled.append)
        self.say(post())
        self.connections.pop()[0].connectionLost(Failure(ConnectionError()))
        self.assertEqual([self.answer], cancelled)


class HalfClosedTests(ServerTestCase):
    """Clients that close their sending side after the request, as `nc -N` does."""

    def end(self, connection: tuple[Any, Wire]) -> Wire:
        """Send nothing more on a connection."""
        protocol, wire = connection
        IHalfCloseableProtocol(protocol).readConnectionLost()
        self.clock.turn(5)
        return wire

    def test_answer(self) -> None:
        """
        It gets the answer, whether that is ready at once or later, and then the connection closes.
        """
        later: Deferred[Answer] = Deferred()
        for answer in (json_answer(200, {"ok": True}), later):
            self.answer = answer
            connection = self.connect()
            connection[0].dataReceived(post().encode())
            wire = self.end(connection)
            if answer is later:
                self.assertFalse(wire.disconnecting)
                later.callback(json_answer(200, {"ok": True}))
                self.assertIn(b"Connection: close", wire.value())
            self.assertEqual((200, True), (self.status_of(wire), wire.disconnecting))

    def test_end_comes_before_the_turn(self) -> None:
        """
        The end may come while the request waits for its turn.
        """
        connection = self.connect()
        connection[0].dataReceived(post().encode())
        IHalfCloseableProtocol(connection[0]).readConnectionLost()
        self.clock.turn(5)
        self.assertEqual((200, True), (self.status_of(connection[1]), connection[1].disconnecting))

    def test_several_requests(self) -> None:
        """
        All requests that it has sent are answered, also those that waited until it read the answers.
        """
        connection = self.connect()
        protocol, wire = connection
        self.answer = later = Deferred()
        protocol.dataReceived((post() * 3).encode())
        self.clock.turn(2)
        self.end(connection)
        self.answer = json_answer(200, {})
        protocol.pauseProducing()
        later.callback(self.answer)
        self.clock.turn(5)
        self.assertEqual((1, False), (wire.value().count(b"HTTP/1.1 200"), wire.disconnecting))
        protocol.resumeProducing()
        self.clock.turn(5)
        self.assertEqual((3, True), (wire.value().count(b"HTTP/1.1 200"), wire.disconnecting))

    def test_nothing_more_is_read(self) -> None:
        """
        The transport is not told to read again, for it would report the end again and again.
        """
        connection = self.connect()
        self.answer = Deferred()
        connection[0].dataReceived((post() + "x" * (READ_AHEAD + 1)).encode())
        self.clock.turn(2)
        self.assertEqual("paused", connection[1].producerState)
        self.end(connection)
        self.answer.callback(json_answer(200, {}))
        self.clock.turn(5)
        self.assertEqual("paused", connection[1].producerState)

    def test_incomplete(self) -> None:
        """
        A request that ends too early is told so; without any, the connection closes without a word.
        """
        for sent, status in ((post()[:-1], 400), (post()[:9], 400), ("", 0), ("\r\n", 0)):
            connection = self.connect()
            if sent:
                connection[0].dataReceived(sent.encode())
                self.clock.turn(2)
            wire = self.end(connection)
            self.assertEqual((status, True), (self.status_of(wire), wire.disconnecting), sent)
            self.connections.pop()[0].connectionLost(Failure(ConnectionError()))
        self.assertEqual([], self.calls)

    def test_refused(self) -> None:
        """
        A client that was refused and stops sending then is closed at once.
        """
        connection = self.connect()
        connection[0].dataReceived(b"nonsense\r\n\r\n")
        self.clock.turn(2)
        self.assertFalse(connection[1].disconnecting)
        self.assertEqual((400, True), (self.status_of(self.end(connection)), connection[1].disconnecting))

    def test_client_that_is_gone(self) -> None:
        """
        While the answer is made, something is written now and then, by which a client that is gone shows.

        HTTP/1.0 has no interim answers, so that such a client is sent nothing.
        """
        for request, probe in ((post(), b"HTTP/1.1 100 Continue\r\n\r\n"), ("GET /x HTTP/1.0\r\n\r\n", b"")):
            cancelled: list[object] = []
            self.answer = Deferred(cancelled.append)
            connection = self.connect()
            connection[0].dataReceived(request.encode())
            self.clock.turn(2)
            wire = self.end(connection)
            self.assertEqual(b"", wire.value())
            for _ in range(2):
                self.clock.advance(PROBE_TIME)
            self.assertEqual(probe * 2, wire.value())
            self.connections.pop()[0].connectionLost(Failure(ConnectionError()))
            self.assertEqual([self.answer], cancelled)
