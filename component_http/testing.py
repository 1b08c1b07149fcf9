"""
Stand-ins for the seams of `component_http.interfaces` and for the XMPP server, for tests of this package and of those
who embed it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from secrets import token_hex
from typing import Any, TypeVar

from attrs import evolve
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IReactorTime
from twisted.words.protocols.jabber import xmlstream
from twisted.words.protocols.jabber.component import ListenComponentAuthenticator
from twisted.words.protocols.jabber.error import StreamError
from twisted.words.xish.domish import Element

from component_http.contract import idempotency
from component_http.contract.composing import Composed
from component_http.contract.delivery import DeadLetter, Delivery
from component_http.contract.idempotency import IdempotencyRecord
from component_http.contract.outbound import Fate, OutboundStanza
from component_http.contract.reply import Response
from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_COMPONENT, NS_PING, Limits, StreamParser, parse_stanzas, serialize
from component_http.errors import Bounced, DeliveryEnded, NotSent, Offline, RoomRefused, SpoolError, Unanswered
from component_http.spool.memory import MAX_RECORDS, MAX_RECORDS_BYTES, MemorySpool
from component_http.waiters import Waiters

__all__ = [
    "Answer",
    "ComponentServer",
    "KeepingSpool",
    "RecordingOutlet",
    "RecordingSender",
    "RecordingValve",
    "ScriptedWebhook",
    "json_response",
]


def json_response(body: str, status: int = 200) -> Response:
    """A response as a well-behaved webhook gives it."""
    return Response(status, {"content-type": "application/json"}, body.encode())


Answer = Response | Exception | Awaitable[Response | Exception]
"""
What a `ScriptedWebhook` can be told to answer: a response, an error to raise (one of the `WebhookError`s of
`component_http.errors`, as any webhook's), or either of them later. A `Deferred` or coroutine is the answer to one
POST; give each its own.
"""


class ScriptedWebhook:
    """
    A `Webhook` that gives the answers it was told to give, and counts.

    The script has one answer for each POST, in the order in which they are answered. After that a function is asked
    or, if there is none, every POST is answered 204.

    Cancelling a POST cancels the `Deferred` or coroutine that it waits for. One that is cancelled while the webhook is
    paused takes no answer from the script.

    Attributes:
        posts: Body and headers of each POST so far.
        fresh: For each of them, whether it asked for a connection that carried no request before.
        under_way: POSTs that have begun and not ended.
        most_under_way: The most that ever were under way at once.
        paused: POSTs are held back now.
    """

    def __init__(
        self, script: Iterable[Answer] = (), *, answer: Callable[[bytes, Mapping[str, str]], Answer] | None = None
    ) -> None:
        """
        Args:
            script: Answers, each given once.
            answer: Called with body and headers for an answer when the script is used up.
        """
        self.posts: list[tuple[bytes, dict[str, str]]] = []
        self.fresh: list[bool] = []
        self.under_way = 0
        self.most_under_way = 0
        self.paused = False
        self._script = deque(script)
        self._answer = answer
        self._held: list[Deferred[None]] = []

    async def post(self, body: bytes, headers: Mapping[str, str], *, fresh: bool = False) -> Response:
        """See `component_http.interfaces.Webhook.post`."""
        self.posts.append((body, dict(headers)))
        self.fresh.append(fresh)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            if self.paused or self._held:
                held: Deferred[None] = Deferred(self._held.remove)
                self._held.append(held)
                await held
            answer = self._next_answer(body, headers)
            if isinstance(answer, Awaitable):
                answer = await answer
        finally:
            self.under_way -= 1
        if isinstance(answer, Exception):
            raise answer
        return evolve(answer, headers={name.lower(): value for name, value in answer.headers.items()})

    def pause(self) -> None:
        """Hold every POST back that comes from now on; those under way are answered as usual."""
        self.paused = True

    def resume(self) -> None:
        """Answer the POSTs that were held back, in the order they came, and later ones at once."""
        self.paused = False
        while self._held and not self.paused:
            self._held.pop(0).callback(None)

    def _next_answer(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        if self._script:
            return self._script.popleft()
        return Response(204) if self._answer is None else self._answer(body, headers)


class RecordingOutlet:
    """
    An `Outlet` that keeps what is sent.

    Attributes:
        sent: The stanzas, in order.
        departed: Those of them that somebody keeps until he is told their fate.
        full: Set it to True and nothing more is taken.
        crowded: Set it to True and who makes more should rest; set it to False and those who wait are told.
    """

    def __init__(self) -> None:
        self.sent: list[Element] = []
        self.departed: list[OutboundStanza] = []
        self.full = False
        self._untold: list[Callable[[Fate], None]] = []
        self._crowded = False
        self._waiting = Waiters()

    @property
    def crowded(self) -> bool:
        """See `component_http.interfaces.Outlet`."""
        return self._crowded

    @crowded.setter
    def crowded(self, crowded: bool) -> None:
        self._crowded = crowded
        self._waiting.tell(lambda: not self._crowded)

    def give_back(self) -> None:
        """See `component_http.interfaces.Outlet.give_back`; nothing waits."""

    def when_clear(self) -> Deferred[None]:
        """See `component_http.interfaces.Outlet.when_clear`."""
        if not self._crowded:
            return succeed(None)
        return self._waiting.one_more()

    def when_sent(self) -> Deferred[None]:
        """See `component_http.interfaces.Outlet.when_sent`; something waits to leave while it is crowded."""
        return self.when_clear()

    def send(self, element: Element) -> bool:
        """See `component_http.interfaces.Outlet.send`."""
        if not self.full:
            self.sent.append(element)
        return not self.full

    def depart(self, outbound: OutboundStanza, tell: Callable[[Fate], None]) -> bool:
        """See `component_http.interfaces.Outlet.depart`; nobody is told before `end`."""
        if self.full:
            return False
        self.sent += parse_stanzas(outbound.xml.decode("utf-8"), Limits())
        self.departed.append(outbound)
        self._untold.append(tell)
        return True

    def end(self, fate: Fate) -> None:
        """Let all stanzas that somebody keeps and that had no fate so far have this one."""
        untold, self._untold = self._untold, []
        for tell in untold:
            tell(fate)


T = TypeVar("T")


class KeepingSpool(MemorySpool):
    """
    A `Spool` that keeps what it has over a restart of the gateway, as one on disk does, and shows it.

    What it is asked for it does at once; it can take a moment to say so, and it can fail.

    Args:
        clock: Runs the moments; None to answer at once.
        seconds: How long each of them is.
        now: The time, in seconds, by which it forgets idempotency records.
        durable: False for a spool that forgets with the process, and only takes its time.
        max_records: As for `MemorySpool`.
        max_records_bytes: As for `MemorySpool`.

    Attributes:
        kept: The deliveries, by id.
        bodies: Their request bodies.
        noted: Each note of a delivery: its id, its tries, its attempts.
        letters: The dead letters of deliveries, each with the delivery's id.
        crowd: As in `component_http.interfaces.Spool`.
        failures: The number and the outcome of each of them that failed, in order.
        dead: Those of them, by number, each with the note about it.
        bounces: Those that came back, with number and note.
        page: How many outbound stanzas it gives at a time.
        held: Set it to a list, and each reading of outbound stanzas waits in it until the test fires what is there.
        broken: Set it to an error, and all that it is asked to store or to read fails with that; nothing is stored.
        unchanging: Set it to True, and no request body can be replaced.
    """

    def __init__(
        self,
        clock: IReactorTime | None = None,
        seconds: float = 0.01,
        *,
        now: Callable[[], float] = lambda: 0.0,
        durable: bool = True,
        max_records: int = MAX_RECORDS,
        max_records_bytes: int = MAX_RECORDS_BYTES,
    ) -> None:
        super().__init__(now, max_records=max_records, max_records_bytes=max_records_bytes)
        self.durable = durable
        self.crowd = 10_000 if durable else 0
        self.kept: dict[str, Delivery] = {}
        self.bodies: dict[str, bytes] = {}
        self.noted: list[tuple[str, int, int]] = []
        self.letters: list[tuple[str, DeadLetter]] = []
        self.failures: list[tuple[int, str]] = []
        self.dead: dict[int, tuple[OutboundStanza, str | None]] = {}
        self.bounces: list[tuple[int, OutboundStanza, str]] = []
        self.page = 3
        self.held: list[Deferred[None]] | None = None
        self.broken: Exception | None = None
        self.unchanging = False
        self._clock = clock
        self._seconds = seconds
        self._restored = False
        self._subscribers: dict[tuple[str, str], None] = {}

    def store(self, delivery: Delivery, body: bytes) -> Deferred[None]:
        """See `component_http.interfaces.Spool.store`."""

        def store() -> None:
            self.kept[delivery.id] = delivery
            self.bodies[delivery.id] = body

        return self._do(store)

    def note(self, delivery: Delivery) -> None:
        """See `component_http.interfaces.Spool.note`; the delivery itself is what is kept."""
        self.noted.append((delivery.id, delivery.tries, delivery.attempts))

    def begun(self, delivery: Delivery) -> Deferred[None]:
        """See `component_http.interfaces.Spool.begun`; the delivery itself is what is kept."""
        self.note(delivery)
        return self._do(lambda: None)

    def body(self, delivery_id: str) -> Deferred[bytes]:
        """See `component_http.interfaces.Spool.body`."""
        return self._do(lambda: self.bodies[delivery_id])

    def amend(self, delivery_id: str, body: bytes) -> Deferred[None]:
        """See `component_http.interfaces.Spool.amend`."""

        def amend() -> None:
            if self.unchanging:
                raise SpoolError("disk I/O error")
            self.bodies[delivery_id] = body

        return self._do(amend)

    def end(
        self,
        delivery_id: str,
        outbound_stanzas: Sequence[OutboundStanza],
        letter: DeadLetter | None = None,
        record: IdempotencyRecord | None = None,
    ) -> Deferred[Sequence[int]]:
        """See `component_http.interfaces.Spool.end`."""

        def end() -> Sequence[int]:
            del self.kept[delivery_id], self.bodies[delivery_id]
            if letter is not None:
                self.letters.append((delivery_id, letter))
            return self._keep(outbound_stanzas, record)

        return self._do(end)

    def push(
        self, outbound_stanzas: Sequence[OutboundStanza], record: IdempotencyRecord | None = None
    ) -> Deferred[Sequence[int]]:
        """See `component_http.interfaces.Spool.push`."""
        return self._do(lambda: self._keep(outbound_stanzas, record))

    def still_kept(self, numbers: Collection[int]) -> Deferred[set[int]]:
        """See `component_http.interfaces.Spool.still_kept`."""
        return self._do(lambda: self.outbound.keys() & numbers)

    def outbound_stanzas(self, after: int) -> Deferred[list[OutboundStanza]]:
        """See `component_http.interfaces.Spool.outbound_stanzas`."""
        found: list[OutboundStanza] = []
        super().outbound_stanzas(after).addCallback(found.extend)
        page = self._do(lambda: found[: self.page])
        if self.held is None:
            return page
        held: Deferred[None] = Deferred()
        self.held.append(held)
        return held.addCallback(lambda _: page)

    def failed(self, number: int, outcome: str, note: str | None = None) -> None:
        """See `component_http.interfaces.Spool.failed`."""
        self.failures.append((number, outcome))
        self.dead[number] = self.outbound[number], note
        super().failed(number, outcome, note)

    def bounced(self, number: int, outbound: OutboundStanza, note: str) -> None:
        """See `component_http.interfaces.Spool.bounced`."""
        self.confirmed(number)
        self.bounces.append((number, outbound, note))

    def subscribe(self, component: str, user: str) -> None:
        """See `component_http.interfaces.Spool.subscribe`."""
        self._subscribers[component, user] = None

    def unsubscribe(self, component: str, user: str) -> None:
        """See `component_http.interfaces.Spool.unsubscribe`."""
        self._subscribers.pop((component, user), None)

    def subscribers(self) -> Deferred[list[tuple[str, str]]]:
        """See `component_http.interfaces.Spool.subscribers`."""
        return self._do(lambda: [*self._subscribers])

    def restore(self) -> Deferred[list[Delivery]]:
        """See `component_http.interfaces.Spool.restore`; all at once."""

        def restore() -> list[Delivery]:
            self._restored = not self._restored and bool(self.kept)
            return [*self.kept.values()] if self._restored else []

        return self._do(restore)

    def _do(self, work: Callable[[], T]) -> Deferred[T]:
        """Do something, and say a moment later what came of it."""
        try:
            done = succeed(work()) if self.broken is None else fail(self.broken)
        except SpoolError:
            done = fail()
        if self._clock is None:
            return done
        later: Deferred[T] = Deferred()
        self._clock.callLater(self._seconds, done.addCallbacks, later.callback, later.errback)
        return later


class RecordingValve:
    """
    A `Valve` that knows whether it is closed, and unlike a stream's stays so until somebody opens it.

    Attributes:
        paused: Reading is held back now.
    """

    def __init__(self) -> None:
        self.paused = False

    def pause(self) -> None:
        """See `component_http.interfaces.Valve.pause`."""
        self.paused = True

    def resume(self) -> None:
        """See `component_http.interfaces.Valve.resume`."""
        self.paused = False


class RecordingSender:
    """
    A `Sender` that keeps what it is given, and sends nothing.

    Args:
        answer: Asked for the answer to an iq: an element, an error to raise, either of them later, or None for no
            answer at all. Without it each iq is answered by an empty result.
        now: The time, in seconds, by which it forgets.

    Attributes:
        pushed: The stanzas, in order.
        deliveries: For each of them, the delivery that it answers, or None.
        asked: The iqs.
        open: The iqs that may be answered late, by their delivery's id; None for any.
        full: Set it to True and nothing more is kept.
        offline: Set it to True and nobody can be asked.
        closed: Why rooms let nobody in, by their addresses.
        confirming: Set it to False, and what is pushed is not with the server until `confirm` says so.
    """

    def __init__(
        self,
        *,
        answer: Callable[[Element], Element | Exception | Awaitable[Element | Exception] | None] | None = None,
        now: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.pushed: list[Element] = []
        self.deliveries: list[str | None] = []
        self.asked: list[Element] = []
        self.open: set[str] | None = None
        self.full = False
        self.offline = False
        self.closed: dict[str, RoomRefused] = {}
        self.confirming = True
        self._answer = answer
        self._now = now
        self._records: dict[tuple[str, str], tuple[IdempotencyRecord, float]] = {}
        self._fates: dict[int, bool | Bounced] = {}
        self._waiting = Waiters()

    async def push(
        self, composed: Composed, *, delivery_id: str | None = None, record: IdempotencyRecord | None = None
    ) -> tuple[int, ...]:
        """See `component_http.interfaces.Sender.push`."""
        if self.full:
            raise SpoolError("it is full")
        if composed.answers and self.open is not None:
            if delivery_id not in self.open:
                raise DeliveryEnded
            self.open.discard(delivery_id)
        for stanza in composed.stanzas:
            if stanza.getAttribute("type") == "groupchat" and stanza["to"] in self.closed:
                raise self.closed[stanza["to"]]
        first = len(self.pushed) + 1
        self.pushed.extend(composed.stanzas)
        self.deliveries.extend([delivery_id] * len(composed.stanzas))
        numbers = tuple(range(first, len(self.pushed) + 1))
        if record is not None:
            self._records[record.owner, record.key] = (evolve(record, numbers=numbers), self._now())
        if self.confirming:
            self._fates.update(dict.fromkeys(numbers, True))
        return numbers

    async def recall(self, owner: str, key: str) -> IdempotencyRecord | None:
        """See `component_http.interfaces.Sender.recall`."""
        found, since = self._records.get((owner, key), (None, 0.0))
        return found if self._now() - since < idempotency.LIFETIME else None

    async def sent(self, numbers: Sequence[int]) -> None:
        """See `component_http.interfaces.Sender.sent`."""
        while True:
            fates = [self._fates.get(number) for number in numbers]
            for fate in fates:
                if isinstance(fate, Bounced):
                    raise fate
            if False in fates:
                raise NotSent("the test says so")
            if None not in fates:
                return
            await self._waiting.one_more()

    def confirm(self, fate: bool | Bounced = True, numbers: Iterable[int] | None = None) -> None:
        """
        Let the server have all that was pushed so far.

        Args:
            fate: False to let it never have what it has not yet; or what that comes back with.
            numbers: Only these of it; None for all.
        """
        for number in range(1, len(self.pushed) + 1) if numbers is None else numbers:
            self._fates.setdefault(number, fate)
        self._waiting.tell()

    async def ask(self, iq: Element, timeout: float) -> Element:
        """See `component_http.interfaces.Sender.ask`."""
        if self.offline:
            raise Offline
        iq["id"] = token_hex(16)
        self.asked.append(iq)
        if self._answer is None:
            return Stanza.from_element(iq).response("result")
        answer: Any = self._answer(iq)
        if isinstance(answer, Awaitable):
            answer = await answer
        if answer is None:
            raise Unanswered
        if isinstance(answer, Exception):
            raise answer
        element: Element = answer
        return element


_HOST = "localhost"
"""What the component's server calls itself."""


class ComponentServer:
    """
    The server's side of XEP-0114 without a server, for an application with a real gateway in it.

    It lets one component in and does for it what a server does: it routes between the component and the test, and
    nothing else. On request it does what a server should not.

    Args:
        domain: The component's.
        reactor: Listens.
        arrived: Called with each stanza that the component sends, in order.

    Attributes:
        secret: The component's, made up anew each time: the port is open to everyone on this machine.
        refusal: Whoever comes is refused with this condition of a stream error (RFC 6120 section 4.9.3), such as
            `conflict`; None to let in who knows the secret.
    """

    def __init__(self, domain: str, reactor: Any, arrived: Callable[[Element], object]) -> None:
        self.secret = token_hex(16)
        self.refusal: str | None = None
        self._domain = domain
        self._reactor = reactor
        self._arrived = arrived
        self._port: Any = None
        self._component: Any = None
        self._open: dict[Any, Deferred[None]] = {}
        self._waiting: list[Deferred[None]] = []
        self._pings: dict[str, Deferred[None]] = {}

    def listen(self) -> int:
        """Take connections from this machine, and say at which port."""
        self._port = self._reactor.listenTCP(0, self.factory(), interface="127.0.0.1")
        port: int = self._port.getHost().port
        return port

    def factory(self) -> xmlstream.XmlStreamServerFactory:
        """What makes the connections; for those who listen themselves."""
        factory = xmlstream.XmlStreamServerFactory(lambda: _Authenticator(self.secret, self._objection))
        factory.protocol = _Connection
        factory.noisy = False
        factory.addBootstrap(xmlstream.STREAM_CONNECTED_EVENT, self._opened)
        factory.addBootstrap(xmlstream.STREAM_AUTHD_EVENT, self._authenticated)
        return factory

    async def connected(self) -> None:
        """Wait until the component is there."""
        if self._component is None:
            waiting: Deferred[None] = Deferred()
            self._waiting.append(waiting)
            await waiting

    def send(self, element: Element) -> None:
        """
        Send one stanza to the component, as the server of its sender does.

        Raises:
            ConnectionLost: The component is not there.
        """
        self._connection().send(serialize(element))

    async def round_trip(self) -> None:
        """
        Wait until the component has dealt with all that was sent to it, and all it sent meanwhile has arrived.

        This is a ping from the server itself (XEP-0199), for a stream keeps its order. A POST that is under way is not
        waited for.

        Raises:
            ConnectionLost: The component went away.
        """
        ping = Element((NS_COMPONENT, "iq"))
        ping.attributes.update(type="get", id=token_hex(8), to=self._domain)
        ping["from"] = _HOST
        ping.addElement((NS_PING, "ping"))
        answered: Deferred[None] = Deferred()
        self._pings[ping["id"]] = answered
        try:
            self.send(ping)
            await answered
        finally:
            self._pings.pop(ping["id"], None)

    def pause(self) -> None:
        """
        Read nothing more from the component that is there now.

        Until it reads again the server may not notice that the component has gone: then `connected` still fires at
        once, and a component that comes again is refused with `conflict`.

        Raises:
            ConnectionLost: There is none.
        """
        self._connection().transport.pauseProducing()

    def resume(self) -> None:
        """
        Read again.

        Raises:
            ConnectionLost: The component is not there any more.
        """
        self._connection().transport.resumeProducing()

    def cut(self) -> None:
        """
        Break the connection without a word, as a dying server or network does; the component may come again.

        Raises:
            ConnectionLost: There is none.
        """
        connection = self._connection()
        self._forget(connection)
        connection.transport.abortConnection()

    async def close(self) -> None:
        """Take no more connections, end those there are, and wait until they are gone."""
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)
        for connection, gone in list(self._open.items()):
            connection.transport.abortConnection()
            await gone

    def _connection(self) -> Any:
        if self._component is None:
            raise ConnectionLost("the component is not connected")
        return self._component

    def _objection(self, domain: str, knows_the_secret: bool) -> str | None:
        """The condition to refuse a component with, or None."""
        if self.refusal is not None:
            return self.refusal
        if domain != self._domain:
            return "host-unknown"
        if not knows_the_secret:
            return "not-authorized"
        return "conflict" if self._component is not None else None

    def _opened(self, connection: Any) -> None:
        self._open[connection] = Deferred()
        connection.addObserver(xmlstream.STREAM_END_EVENT, lambda reason: self._ended(connection))

    def _ended(self, connection: Any) -> None:
        self._forget(connection)
        self._open.pop(connection).callback(None)

    def _authenticated(self, connection: Any) -> None:
        self._component = connection
        connection.addObserver("/*", self._received)
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    def _forget(self, connection: Any) -> None:
        if self._component is connection:
            self._component = None
            for deferred in list(self._pings.values()):
                deferred.errback(ConnectionLost("the component went away"))

    def _received(self, element: Element) -> None:
        if element.name == "iq" and element.getAttribute("to") == _HOST:
            answered = self._pings.pop(element.getAttribute("id", ""), None)
            if answered is not None:
                answered.callback(None)
                return
        if element.getAttribute("to") == self._domain:
            self.send(element)  # to itself
        else:
            self._arrived(element)


class _Connection(xmlstream.XmlStream):
    """A component's connection, read by the project's own parser."""

    def _initializeStream(self) -> None:
        self.stream = StreamParser(Limits(), lambda start, reason: None)
        self.stream.DocumentStartEvent = self.onDocumentStart
        self.stream.ElementEvent = self.onElement
        self.stream.DocumentEndEvent = self.onDocumentEnd

    def onDocumentEnd(self) -> None:
        self.sendFooter()
        super().onDocumentEnd()


class _Authenticator(ListenComponentAuthenticator):
    """Lets a component in, unless there is an objection."""

    def __init__(self, secret: str, objection: Callable[[str, bool], str | None]) -> None:
        super().__init__(secret)
        self._objection = objection

    def onHandshake(self, handshake: str) -> None:
        stream: Any = self.xmlstream
        expected = xmlstream.hashPassword(stream.sid, self.secret)
        condition = self._objection(stream.thisEntity.full(), handshake == expected)
        if condition is None:
            super().onHandshake(handshake)
        else:
            stream.sendStreamError(StreamError(condition))
