"""One connection to the API: it takes one request at a time, and gives each a limited time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import define
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol, INegotiated, IPushProducer, ITCPTransport
from twisted.internet.protocol import Protocol
from zope.interface import implementer

from component_http.api.exchange import Admitted, Answer, Call, Live, Problem, problem_json
from component_http.api.http1 import CONTINUE, Head, RequestReader, live_head, response
from component_http.api.stages import Answering, Feeding, Leaving, Receiving
from component_http.chunks import BodyTooLarge
from component_http.interfaces import Observer
from component_http.log import Logger
from component_http.turns import Turns
from component_http.waiters import Ongoing

if TYPE_CHECKING:
    from component_http.api.places import Places

BUSY_TIME = 2.0
"""Seconds in which a connection without a place can send a request and read the answer 503."""

CLOSE_TIME = 5.0
"""Seconds in which a client that got its last answer has to stop sending."""

PROBE_TIME = 2.0
"""Seconds between two checks whether a client that has stopped sending is still there."""

BEAT_TIME = 30.0
"""Seconds between two empty lines in a response that goes on. Without them no lost client would be noticed."""

UNREAD_TIME = 600.0
"""Seconds after which a client that does not read such a response is taken for gone."""

READ_AHEAD = 16_384
"""Bytes of later requests that are read while one is answered. Without reading, no lost client would be noticed."""

_BUSY = problem_json(Problem(503, "too many connections: try again later", headers={"Retry-After": "1"}))
_STOPPING = problem_json(Problem(503, "the gateway is stopping: try again later", headers={"Retry-After": "5"}))
_LATE = problem_json(Problem(408, "the request did not arrive in time"))
_INCOMPLETE = problem_json(Problem(400, "the client stopped sending before the end of the request"))


@define
class Site:
    """
    The parts and limits that all connections share.

    Attributes:
        admit: Judges a request before its body is in (`Api.admit`).
        turns: Lets one request be read in each turn of the reactor.
        max_body_bytes: The largest body of a request that is read.
        request_timeout: Seconds that a request may take to come in, and that a connection may be idle.
        name: Names the server in the log.
    """

    admit: Callable[[Call], Admitted | Answer | Live]
    observer: Observer
    clock: Any
    turns: Turns
    ongoing: Ongoing
    max_body_bytes: int
    request_timeout: float
    name: str = "the API"


@implementer(IPushProducer, IHalfCloseableProtocol)
class Connection(Protocol):
    """
    Takes one request at a time, and none while the client does not read its answers.

    A request has to be in within a time that no single byte prolongs, and the client has as long to read an answer.

    Args:
        has_place: Whether this connection has a place, and so is served.

    Attributes:
        has_token: Whether its client has shown a token.
        waits_for_turn: Whether it has sent something that was not read yet.
    """

    _log = Logger()

    def __init__(self, site: Site, places: Places, *, has_place: bool) -> None:
        self.has_token = False
        self.waits_for_turn = False
        self._site = site
        self._places = places
        self._reader = RequestReader(site.max_body_bytes)
        self._stage: Receiving | Answering | Feeding | Leaving = Receiving() if has_place else Leaving.TURNED_AWAY
        self._running: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None
        self._ended = False
        self._blocked = False
        self._paused = False

    @property
    def under_way(self) -> bool:
        """Tell whether a request with a secret of ours is coming in or being answered."""
        if isinstance(self._stage, Receiving):
            return self._stage.request is not None
        return isinstance(self._stage, Feeding) or (isinstance(self._stage, Answering) and self._stage.known)

    @property
    def arrives_by_url(self) -> bool:
        """Tell whether such a request is still coming in, from a client that has shown no token."""
        return self.under_way and not self.has_token and isinstance(self._stage, Receiving)

    @property
    def _wire(self) -> Any:
        return self.transport

    def connectionMade(self) -> None:
        if ITCPTransport.providedBy(self.transport):
            self._wire.setTcpNoDelay(True)
        self._wire.registerProducer(self, True)
        self._wait(BUSY_TIME if self._stage is Leaving.TURNED_AWAY else self._site.request_timeout)

    # -- requests --

    def dataReceived(self, data: bytes) -> None:
        if self._stage is Leaving.TURNED_AWAY:
            self._close(_BUSY)
        elif isinstance(self._stage, Receiving | Answering):
            self._reader.feed(data)
            if isinstance(self._stage, Receiving):
                self._begin(self._stage)
            self._balance()

    def _begin(self, stage: Receiving) -> None:
        """Give a request its time, counted from its first byte, and have it read when it is its turn."""
        if not stage.begun:
            stage.begun = True
            self._wait(self._site.request_timeout)
        self._ask_turn()

    def _ask_turn(self) -> None:
        if not self.waits_for_turn and not self._blocked:
            self.waits_for_turn = True
            self._site.turns.ask(self._take_turn)

    def _take_turn(self) -> bool:
        """Read one request, or as much of it as is in, and begin to answer it; False if there was nothing to do."""
        self.waits_for_turn = False
        due = False
        if isinstance(self._stage, Receiving) and not self._blocked:
            due = True
            try:
                self._step(self._stage)
            except Problem as problem:
                self._refuse(problem_json(problem))
        self._close_if_done()
        self._balance()
        return due

    def _step(self, stage: Receiving) -> None:
        is_new = stage.request is None
        if stage.request is None:
            head = self._reader.head()
            if head is None:
                return
            admitted = self._admit(head)
            if isinstance(admitted, Live):
                self._go_live(admitted)
                return
            if isinstance(admitted, Answer):
                self._answer(head, admitted, body_is_read=self._reader.skip())
                return
            if not admitted.known:
                # No body is read from a stranger.
                self._run(head, admitted, b"", body_is_read=self._reader.skip())
                return
            stage.request = head, admitted
            self.has_token = self.has_token or not admitted.by_url
        head, admitted = stage.request
        try:
            body = self._reader.body()
        except BodyTooLarge:
            self._run(head, admitted, None, body_is_read=False)
            return
        if body is not None:
            self._run(head, admitted, body, body_is_read=True)
        elif is_new:
            if head.expects_continue:
                self._wire.write(CONTINUE)
            if not self.has_token:
                self._places.bound_arriving()

    def _admit(self, head: Head) -> Admitted | Answer | Live:
        if self._places.closing:
            return _STOPPING
        return self._site.admit(Call(head.method, head.path, head.query, head.headers))

    # -- answers --

    def _run(self, head: Head, admitted: Admitted, body: bytes | None, *, body_is_read: bool) -> None:
        answering = self._stage = Answering(admitted.known, head.takes_interim)
        self._wait(PROBE_TIME if self._ended else None)

        async def run() -> None:
            try:
                answer = await admitted.carry_out(body)
            except CancelledError:
                return
            if self._stage is answering:
                self._answer(head, answer, body_is_read=body_is_read)

        running = Deferred.fromCoroutine(run())
        if not running.called:
            self._running = running
        running.addErrback(lambda failure: self._log.failure("a request to the API failed", failure=failure))
        self._site.ongoing.own(running)

    def _answer(self, head: Head, answer: Answer, *, body_is_read: bool) -> None:
        self._running = None
        is_last = self._ended and not self._reader.waiting
        if not (head.keep and body_is_read) or is_last or self._places.closing:
            self._close(answer, head.method, may_send_more=not body_is_read)
            return
        self._wire.write(response(answer, head.method, close=False))
        self._stage = Receiving()
        self._wait(self._site.request_timeout)
        if self._reader.waiting:
            self._begin(self._stage)
        self._balance()

    def _go_live(self, live: Live) -> None:
        self._stage = Feeding(live.feed)
        self.has_token = True
        self._reader = RequestReader(0)
        self._wait(BEAT_TIME)
        self._wire.write(live_head(live))
        live.feed.begin(self._wire.write)

    def _refuse(self, answer: Answer) -> None:
        """Close the connection, because what the client sent is no request."""
        self._site.observer.count("api_refused")
        self._close(answer)

    def _close(self, answer: Answer | None, method: str = "", *, may_send_more: bool = True) -> None:
        """
        Close the connection.

        Args:
            answer: The last answer; None for none.
            may_send_more: Whether the client may be sending. Then only our direction is closed, and what comes is
                thrown away for a while: a closed socket would answer it by a reset, which takes the answer away from
                the client (RFC 9112 section 9.6).
        """
        if isinstance(self._stage, Feeding):
            self._stage.feed.stop()
        self._stage = Leaving.CLOSING
        may_send_more = may_send_more and not self._ended
        self.has_token = False
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

    # -- flow control, called by the transport --

    def pauseProducing(self) -> None:
        """Take no more requests: the client does not read the answers."""
        self._blocked = True
        if isinstance(self._stage, Feeding):
            self._stage.feed.pause()
            self._wait(UNREAD_TIME)
        self._balance()

    def resumeProducing(self) -> None:
        """Go on: the client has read all answers."""
        self._blocked = False
        if isinstance(self._stage, Feeding):
            self._wait(BEAT_TIME)
            self._stage.feed.resume()
        elif isinstance(self._stage, Receiving) and self._reader.waiting:
            self._ask_turn()
        self._balance()

    def stopProducing(self) -> None:
        """Do nothing: the connection is lost."""

    def _balance(self) -> None:
        """Read from the connection exactly as long as what comes can be used soon."""
        if self._ended:
            # A transport that is told to read again would report the end again.
            return
        if isinstance(self._stage, Receiving):
            pause = self._blocked or self.waits_for_turn
        else:
            pause = isinstance(self._stage, Answering) and self._reader.waiting > READ_AHEAD
        if pause != self._paused and self._stage is not Leaving.CLOSED:
            self._paused = pause
            if pause:
                self._wire.pauseProducing()
            else:
                self._wire.resumeProducing()

    # -- the end --

    def readConnectionLost(self) -> None:
        # The client gets the answers to what it has sent. One that has closed its socket looks the same.
        self._ended = True
        if isinstance(self._stage, Answering):
            self._wait(PROBE_TIME)
        elif isinstance(self._stage, Receiving):
            self._close_if_done()
        else:
            self._wire.loseConnection()

    def writeConnectionLost(self) -> None:
        """Do nothing: it was closed here."""

    def _close_if_done(self) -> None:
        """Close it if the client sends nothing more and all that it has sent is answered."""
        waits = self.waits_for_turn or (self._blocked and self._reader.waiting)
        if not self._ended or not isinstance(self._stage, Receiving) or waits:
            return
        if self.under_way or self._reader.waiting:
            self._refuse(_INCOMPLETE)
        else:
            self._close(None)

    def _wait(self, seconds: float | None) -> None:
        """Set the time limit of what the connection waits for now, instead of the one before."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self._site.clock.callLater(seconds, self._time_over)

    def _time_over(self) -> None:
        self._timer = None
        match self._stage:
            case Answering(may_probe=may_probe):
                # Only a write shows that the client is gone (RFC 9110 section 15.2).
                if may_probe and not self._blocked:
                    self._wire.write(CONTINUE)
                self._wait(PROBE_TIME)
            case Feeding() if not self._blocked:
                self._wait(BEAT_TIME)
                self._wire.write(b"\n")
            case Receiving(begun=True) if not self._blocked:
                self._refuse(_LATE)
            case Receiving() if not self._blocked:
                self._close(None)
            case _:
                self._wire.abortConnection()

    def turn_away(self) -> None:
        """Give its place to another connection; it is told 503, as if it had never had a place."""
        if self._stage is Leaving.CLOSING:
            return
        begun = isinstance(self._stage, Answering) or (isinstance(self._stage, Receiving) and self._stage.begun)
        self._stage = Leaving.TURNED_AWAY
        self._wait(BUSY_TIME)
        if begun:
            self._close(_BUSY)
        self._balance()

    def drop(self) -> None:
        """Close it without an answer, and without waiting for a client that does not read."""
        if self._blocked or self._stage is Leaving.CLOSING:
            self._wire.abortConnection()
        else:
            self._close(None)

    def stop(self) -> None:
        """Close it because the server stops."""
        if self._stage is Leaving.CLOSING:
            self._wire.loseConnection()
        else:
            self._close(None)

    def connectionLost(self, reason: Any = None) -> None:
        if isinstance(self._stage, Feeding):
            self._stage.feed.stop()
        self._stage = Leaving.CLOSED
        self._wait(None)
        self._places.leave(self)
        if self._running is not None:
            self._running.cancel()
