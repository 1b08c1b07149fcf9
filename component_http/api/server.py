"""
The API on a socket, with a bound for all that a stranger can do to it.

A request becomes a `Call`, which `routes.Api` admits and carries out, and what comes of it an `Answer`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Any

from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IListeningPort,
    INegotiated,
    IProtocolNegotiationFactory,
    IPushProducer,
    IStreamServerEndpoint,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from component_http.api.exchange import Admitted, Answer, Call, Problem, problem_json
from component_http.api.http1 import CONTINUE, Head, RequestReader, response
from component_http.chunks import BodyTooLarge
from component_http.interfaces import Observer
from component_http.throttle import LOG_INTERVAL, Throttle
from component_http.turns import Turns

__all__ = ["ApiServer"]

BUSY_TIME = 2.0
"""Seconds that a connection without a place has to say something, and to read that there is none for it."""

CLOSE_TIME = 5.0
"""Seconds that requests under way get to end when the server stops, and that a client gets to stop sending."""

PROBE_TIME = 2.0
"""Seconds between two looks whether a client that has stopped sending is still there."""

READ_AHEAD = 16_384
"""Bytes of later requests that are read while one is answered; it is read at all to notice a client that goes."""

_Admit = Callable[[Call], Admitted | Answer]

_BUSY = problem_json(Problem(503, "too many connections: try again later", headers={"Retry-After": "1"}))
_STOPPING = problem_json(Problem(503, "the gateway is stopping: try again later", headers={"Retry-After": "5"}))
_LATE = problem_json(Problem(408, "the request did not arrive in time"))
_INCOMPLETE = problem_json(Problem(400, "the client stopped sending before the end of the request"))


class _Stage(Enum):
    """What a connection is about."""

    RECEIVING = auto()
    """It waits for a request, or for the rest of one."""

    ANSWERING = auto()
    """A request is in, and its answer is being made."""

    TURNED_AWAY = auto()
    """It has no place, and is told so as soon as it says something."""

    CLOSING = auto()
    """It has its last answer; what still comes is thrown away until the client closes, or too much time has passed."""

    CLOSED = auto()


@implementer(IPushProducer, IHalfCloseableProtocol)
class _Connection(Protocol):
    """
    One connection: takes one request at a time, and none while the client does not read its answers.

    A request has to be in within a time that no single byte prolongs, and the client has as long to read an answer.

    Attributes:
        has_token: Whether its client has shown a token.
        under_way: Whether a request with a secret of ours is coming in or being answered.
        waits_for_turn: Whether it has said something that was not looked at yet.
        arrives_by_url: Whether such a request is still coming in, from a client that has shown no token.
    """

    def __init__(self, site: ApiServer, *, has_place: bool) -> None:
        self.has_token = False
        self._site = site
        self._reader = RequestReader(site.max_body_bytes)
        self._stage = _Stage.RECEIVING if has_place else _Stage.TURNED_AWAY
        self._request: tuple[Head, Admitted] | None = None
        self._running: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None
        self._begun = False
        self._ended = False
        self._may_probe = False
        self._queued = False
        self._blocked = False
        self._paused = False

    @property
    def under_way(self) -> bool:
        return self._request is not None

    @property
    def waits_for_turn(self) -> bool:
        return self._queued

    @property
    def arrives_by_url(self) -> bool:
        return self.under_way and not self.has_token and self._stage is _Stage.RECEIVING

    @property
    def _wire(self) -> Any:
        return self.transport

    def connectionMade(self) -> None:
        if ITCPTransport.providedBy(self.transport):
            self._wire.setTcpNoDelay(True)
        self._wire.registerProducer(self, True)
        self._wait(self._site.request_timeout if self._stage is _Stage.RECEIVING else BUSY_TIME)

    # -- what comes in --

    def dataReceived(self, data: bytes) -> None:
        if self._stage is _Stage.TURNED_AWAY:
            self._close(_BUSY)
        elif self._stage in (_Stage.RECEIVING, _Stage.ANSWERING):
            self._reader.feed(data)
            if self._stage is _Stage.RECEIVING:
                self._begin()
                self._ask_turn()
            self._balance()

    def _begin(self) -> None:
        """Give a request its time, counted from its first byte."""
        if not self._begun:
            self._begun = True
            self._wait(self._site.request_timeout)

    def _ask_turn(self) -> None:
        if not self._queued and not self._blocked:
            self._queued = True
            self._site.turns.ask(self.take_turn)

    def take_turn(self) -> bool:
        """
        Go on by one step: read one request, or as much of it as is in, and begin to answer it.

        Returns:
            Whether there was something to do.
        """
        self._queued = False
        due = self._stage is _Stage.RECEIVING and not self._blocked
        if due:
            try:
                self._step()
            except Problem as problem:
                self._site.observer.count("api_refused")
                self._close(problem_json(problem))
        self._close_if_done()
        self._balance()
        return due

    def _step(self) -> None:
        if self._request is None:
            head = self._reader.head()
            if head is None:
                return
            admitted = self._admit(head)
            if isinstance(admitted, Answer):
                self._answer(head, admitted, body_is_read=self._reader.skip())
                return
            if not admitted.known:
                # No body is read from a stranger.
                self._run(head, admitted.carry_out(b""), body_is_read=self._reader.skip())
                return
            self._request = head, admitted
            self.has_token = self.has_token or not admitted.by_url
            is_new = True
        else:
            head, admitted = self._request
            is_new = False
        try:
            body = self._reader.body()
        except BodyTooLarge:
            self._run(head, admitted.carry_out(None), body_is_read=False)
            return
        if body is not None:
            self._run(head, admitted.carry_out(body), body_is_read=True)
        elif is_new:
            if head.expects_continue:
                self._wire.write(CONTINUE)
            if not self.has_token:
                self._site.bound_arriving()

    def _admit(self, head: Head) -> Admitted | Answer:
        if self._site.stopping:
            return _STOPPING
        return self._site.admit(Call(head.method, head.path, head.query, head.headers))

    # -- what goes out --

    def _run(self, head: Head, answering: Awaitable[Answer], *, body_is_read: bool) -> None:
        self._stage = _Stage.ANSWERING
        self._may_probe = head.takes_interim
        self._wait(PROBE_TIME if self._ended else None)

        async def run() -> None:
            try:
                answer = await answering
            except CancelledError:
                return
            if self._stage is _Stage.ANSWERING:
                self._answer(head, answer, body_is_read=body_is_read)

        running = Deferred.fromCoroutine(run())
        if not running.called:
            self._running = running
        self._site.own(running)

    def _answer(self, head: Head, answer: Answer, *, body_is_read: bool) -> None:
        self._request = self._running = None
        is_last = self._ended and not self._reader.waiting
        if not (head.keep and body_is_read) or is_last or self._site.stopping:
            self._close(answer, head.method, may_send_more=not body_is_read)
            return
        self._wire.write(response(answer, head.method, close=False))
        self._stage = _Stage.RECEIVING
        self._begun = False
        self._wait(self._site.request_timeout)
        if self._reader.waiting:
            self._begin()
            self._ask_turn()
        self._balance()

    def _close(self, answer: Answer | None, method: str = "", *, may_send_more: bool = True) -> None:
        """
        Close the connection.

        Args:
            answer: The last answer; None for none.
            method: The method of the request that it answers.
            may_send_more: Whether the client may be sending. Then only our direction is closed, and what comes is
                thrown away for a while: a closed socket would answer it by a reset, which takes the answer away from
                the client (RFC 9112 section 9.6).
        """
        self._stage = _Stage.CLOSING
        may_send_more = may_send_more and not self._ended
        self.has_token = False
        self._request = None
        self._reader = RequestReader(0)
        self._wait(CLOSE_TIME if may_send_more or answer is None else self._site.request_timeout)
        if answer is not None:
            self._wire.write(response(answer, method, close=True))
        self._wire.unregisterProducer()
        self._blocked = False
        if may_send_more and answer is not None and not INegotiated.providedBy(self.transport):
            self._wire.loseWriteConnection()
        else:
            # TLS has no half-closed connection; it waits for the other side's end by itself.
            self._wire.loseConnection()
        self._balance()

    def pauseProducing(self) -> None:
        """Take no more requests: the client does not read the answers. Called by the transport."""
        self._blocked = True
        self._balance()

    def resumeProducing(self) -> None:
        """Go on: the client has read all answers. Called by the transport."""
        self._blocked = False
        if self._stage is _Stage.RECEIVING and self._reader.waiting:
            self._ask_turn()
        self._balance()

    def stopProducing(self) -> None:
        """Nothing: the connection is lost. Called by the transport."""

    def _balance(self) -> None:
        """Read from the connection exactly as long as what comes can be used soon."""
        if self._ended:
            # A transport that is told to read again would report the end again.
            return
        if self._stage is _Stage.RECEIVING:
            pause = self._blocked or self._queued
        else:
            pause = self._stage is _Stage.ANSWERING and self._reader.waiting > READ_AHEAD
        if pause != self._paused and self._stage is not _Stage.CLOSED:
            self._paused = pause
            if pause:
                self._wire.pauseProducing()
            else:
                self._wire.resumeProducing()

    # -- how it ends --

    def readConnectionLost(self) -> None:
        """
        Go on: the client sends nothing more, but it gets the answers to what it has sent. Called by the transport.

        A client that has closed its socket looks the same, until something is written to it.
        """
        self._ended = True
        if self._stage is _Stage.ANSWERING:
            self._wait(PROBE_TIME)
        elif self._stage is _Stage.RECEIVING:
            self._close_if_done()
        else:
            self._wire.loseConnection()

    def writeConnectionLost(self) -> None:
        """Nothing: it was closed here. Called by the transport."""

    def _close_if_done(self) -> None:
        """Close it if the client sends nothing more and all that it has sent is answered."""
        waits = self._queued or (self._blocked and self._reader.waiting)
        if not self._ended or self._stage is not _Stage.RECEIVING or waits:
            return
        if self.under_way or self._reader.waiting:
            self._site.observer.count("api_refused")
            self._close(_INCOMPLETE)
        else:
            self._close(None)

    def _probe(self) -> None:
        """Write an interim answer, for only a write shows that the client is gone (RFC 9110 section 15.2)."""
        if self._may_probe and not self._blocked:
            self._wire.write(CONTINUE)
        self._wait(PROBE_TIME)

    def _wait(self, seconds: float | None) -> None:
        """Run the time of what is waited for now, instead of what was before."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self._site.clock.callLater(seconds, self._time_over)

    def _time_over(self) -> None:
        self._timer = None
        if self._stage is _Stage.ANSWERING:
            self._probe()
        elif self._stage is _Stage.RECEIVING and not self._blocked:
            if self._begun:
                self._site.observer.count("api_refused")
            self._close(_LATE if self._begun else None)
        else:
            self._wire.abortConnection()

    def turn_away(self) -> None:
        """Give its place to another connection; it is told as if it had never had one."""
        if self._stage is _Stage.CLOSING:
            return
        self._stage = _Stage.TURNED_AWAY
        self._wait(BUSY_TIME)
        if self._begun:
            self._close(_BUSY)
        self._balance()

    def drop(self) -> None:
        """Close it without a word, and without waiting for a client that does not read."""
        if self._blocked or self._stage is _Stage.CLOSING:
            self._wire.abortConnection()
        else:
            self._close(None)

    def stop(self) -> None:
        """Close it because the server stops."""
        if self._stage is _Stage.CLOSING:
            self._wire.loseConnection()
        else:
            self._close(None)

    def connectionLost(self, reason: Any = None) -> None:
        self._stage = _Stage.CLOSED
        self._wait(None)
        self._site.lost(self)
        if self._running is not None:
            self._running.cancel()


@implementer(IProtocolNegotiationFactory)
class _Factory(Factory):
    """Makes the connections, as many as there may be."""

    noisy = False

    def __init__(self, site: ApiServer) -> None:
        self._site = site

    def buildProtocol(self, address: Any) -> Any:
        return self._site.connected()

    def acceptableProtocols(self) -> list[bytes]:
        """What TLS may agree on with a client that names protocols; with none to agree on Twisted refuses it."""
        return [b"http/1.1", b"http/1.0"]

    def logPrefix(self) -> str:
        """How Twisted calls it in the log, where it says that the port is open."""
        return "the API"


class ApiServer(Service):
    """
    Serves the API.

    Args:
        admit: Judges a request before its body is in (`Api.admit`).
        finish: Waits until all is kept that was begun to be kept (`Desk.finish`).
        endpoint: Where.
        observer: Told `api_busy`, `api_evicted`, and `api_refused` for what is no HTTP.
        clock: Runs the time limits and the turns.
        max_connections: At once.
        max_body_bytes: Of a request that are read.
        request_timeout: Seconds that a request has to come in, and that a connection may be idle.

    Attributes:
        turns: Whose turn it is.
        channels: The connections that have a place, the oldest first.
        turned_away: The connections that have none and are told so, as many at most.
        listening: Fires with the port when it is open, or with None if it cannot be opened. None before the start.
        stopping: It stops or has stopped, so that no request is begun any more.
    """

    _log = Logger()

    def __init__(
        self,
        admit: _Admit,
        finish: Callable[[], Awaitable[None]],
        endpoint: IStreamServerEndpoint,
        observer: Observer,
        *,
        clock: Any,
        max_connections: int,
        max_body_bytes: int,
        request_timeout: float,
    ) -> None:
        self.admit = admit
        self.observer = observer
        self.clock = clock
        self.max_connections = max_connections
        self.max_body_bytes = max_body_bytes
        self.request_timeout = request_timeout
        self.turns = Turns(clock)
        self.channels: dict[_Connection, None] = {}
        self.turned_away: set[_Connection] = set()
        self.listening: Deferred[IListeningPort | None] | None = None
        self.stopping = False
        self._finish = finish
        self._endpoint = endpoint
        self._throttle = Throttle(LOG_INTERVAL)
        self._under_way: set[Deferred[None]] = set()
        self._port: IListeningPort | None = None
        self._idle: list[Deferred[None]] = []

    def factory(self) -> Factory:
        """What makes the connections; for those who listen themselves."""
        return _Factory(self)

    def startService(self) -> None:
        """Open the port; that it could not be opened is logged, and the gateway goes on without."""
        super().startService()
        self.stopping = False
        self.listening = Deferred()
        self._endpoint.listen(self.factory()).addCallbacks(self._opened, self._not_opened)

    def _opened(self, port: IListeningPort) -> None:
        self._port = port
        address = port.getHost()
        where = f"{address.host}:{address.port}" if isinstance(address, IPv4Address | IPv6Address) else str(address)
        self._log.info("the API listens on {where}", where=where)
        assert self.listening is not None
        self.listening.callback(port)

    def _not_opened(self, failure: Failure) -> None:
        self._log.critical("the API cannot listen: {reason}", reason=failure.getErrorMessage())
        assert self.listening is not None
        self.listening.callback(None)

    def connected(self) -> _Connection | None:
        """
        Accept a connection.

        When all places are taken, clients with a token must get in all the same. So a new connection gets the place of
        the oldest whose client has shown no token and has no request under way, or else of the oldest with no request
        under way. One that has said something and waits for its turn stays before others, for it may show a token. The
        connection that loses its place is told 503; where all places are needed, the new one is.

        Returns:
            None where even those that are told 503 are too many.
        """
        if len(self.channels) < self.max_connections:
            return self._placed()
        if self._throttle.may_tell("api_busy", self.clock.seconds()):
            self._log.warn(
                "the API has {places} connections, as many as max_connections allows: new ones take the places of idle"
                " ones, and some are told 503",
                places=self.max_connections,
            )
        idle = (one for one in self.channels if not one.under_way)
        evicted = min(idle, key=lambda one: (one.has_token, one.waits_for_turn), default=None)
        if evicted is None:
            self.observer.count("api_busy")
            if len(self.turned_away) >= self.max_connections:
                return None
            connection = _Connection(self, has_place=False)
            self.turned_away.add(connection)
            return connection
        self._evict(evicted)
        return self._placed()

    def bound_arriving(self) -> None:
        """
        Let requests that come without a token have no more than half of the places while their bodies come in.

        Whoever knows the URL of one hook could else take all places by bodies that never end.
        """
        arriving = [one for one in self.channels if one.arrives_by_url]
        if len(arriving) > max(1, self.max_connections // 2):
            self._evict(arriving[0])

    def _evict(self, connection: _Connection) -> None:
        self.observer.count("api_evicted")
        del self.channels[connection]
        if len(self.turned_away) >= self.max_connections:
            connection.drop()
        else:
            self.turned_away.add(connection)
            connection.turn_away()

    def _placed(self) -> _Connection:
        connection = _Connection(self, has_place=True)
        self.channels[connection] = None
        return connection

    def lost(self, connection: _Connection) -> None:
        """Forget a connection that is closed."""
        self.channels.pop(connection, None)
        self.turned_away.discard(connection)

    def own(self, running: Deferred[None]) -> None:
        """Own a request until it has ended, and log it if it fails."""
        self._under_way.add(running)

        def ended(result: Any) -> None:
            self._under_way.discard(running)
            if isinstance(result, Failure):
                self._log.failure("a request to the API failed", failure=result)
            if not self._under_way:
                idle, self._idle = self._idle, []
                for waiting in idle:
                    waiting.callback(None)

        running.addBoth(ended)

    def stopService(self) -> Deferred[None]:
        """Take no more, give what is under way a moment to end, and close what is left."""
        super().stopService()
        self.stopping = True
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            await (port.stopListening() or succeed(None))
        if self._under_way:
            waiting: Deferred[None] = Deferred()
            self._idle.append(waiting)
            end = self.clock.callLater(CLOSE_TIME, self._cut_short)
            await waiting
            if end.active():
                end.cancel()
        await self._finish()
        for connection in (*self.channels, *self.turned_away):
            connection.stop()

    def _cut_short(self) -> None:
        for running in list(self._under_way):
            running.cancel()
