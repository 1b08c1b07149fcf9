"""A gateway's own sender, held to what every sender promises, and the iqs that a webhook answers late."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.xish.domish import Element

from component_http.contract.address import Address
from component_http.contract.composing import Composed
from component_http.contract.conditions import StanzaError, error_child
from component_http.contract.reply import Response
from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_COMPONENT
from component_http.delivery.backlog import BacklogLimits
from component_http.delivery.bounces import Bounces
from component_http.delivery.dispatch import GRACE, Dispatch
from component_http.delivery.drain import FLUSH
from component_http.delivery.fates import Fates
from component_http.delivery.loop_brake import LoopBrake
from component_http.errors import Bounced, DeliveryEnded, RoomRefused, SpoolError
from component_http.operations.metrics import Counters
from component_http.testing import KeepingSpool, RecordingOutlet, RecordingValve, ScriptedWebhook
from component_http.xmpp.iq_requests import IqRequests
from tests.relay_world import DOMAIN, relay_world
from tests.unit.test_sender_suite import SenderPromises, an_iq, message


class World:
    """
    A relay, what leaves, a stream that is only pretended, and the sender over all of it.

    Attributes:
        now: The wall clock.
    """

    def __init__(
        self,
        limits: BacklogLimits | None = None,
        first: Sequence[Response] = (),
        loop_brake: LoopBrake | None = None,
    ) -> None:
        self.now = 0.0
        self.clock = Clock()
        self.clock.advance(1_000.0)
        self.counters = Counters()
        self.outlet = RecordingOutlet()
        self.valve = RecordingValve()
        self.spool = KeepingSpool(now=lambda: self.now)
        self.webhook = ScriptedWebhook(first, answer=lambda body, headers: Response(202))
        ids = iter(("open", "d2", "d3", "d4"))
        fates = Fates()
        bounces = Bounces(self.spool, self.counters, self.clock.seconds, fates)
        world = relay_world(
            self.webhook,
            self.clock,
            counters=self.counters,
            outlet=self.outlet,
            valve=self.valve,
            spool=self.spool,
            limits=limits,
            loop_brake=loop_brake,
            new_id=lambda: next(ids),
            link=lambda delivery: f"https://gateway.example.org/{delivery.id}",
            fates=fates,
            pushed=bounces.pushed,
        )
        self.relay = world.relay
        ids_asked = (f"asked{number}" for number in count())
        self.asking = IqRequests(self.outlet, self.clock, lambda: next(ids_asked))
        self.asking.xmlstream = Stream()
        self.asking.connectionInitialized()
        self.bounces = bounces
        # Why the room that somebody wants to enter lets nobody in.
        self.closed: dict[str, RoomRefused] = {}
        self.entered: list[str] = []
        self.sender = Dispatch(
            self.spool,
            world.outbox,
            self.relay,
            bounces,
            ask=self.asking.ask,
            enter=self.enter,
            when_sent=self.outlet.when_sent,
            clock=self.clock,
        )

    async def enter(self, ours: Address, room: Address) -> None:
        if str(room) in self.closed:
            raise self.closed[str(room)]
        self.entered.append(str(room))

    def accept_iq(self, id_: str = "q1", sender: str = "alice@example.org/phone") -> None:
        """Somebody asks."""
        element = Element((NS_COMPONENT, "iq"))
        element.attributes.update({"type": "get", "id": id_, "from": sender, "to": f"bot@{DOMAIN}"})
        element.addElement(("urn:example", "query"))
        self.relay.accept(Stanza.from_element(element))

    def sent(self) -> list[str]:
        """The ids of what has left."""
        return [element["id"] for element in self.outlet.sent]

    def comes_back(self, element: Element, bounced: Bounced) -> None:
        """Let a message that has left come back."""
        error = Element((NS_COMPONENT, "message"))
        error.attributes.update({"type": "error", "id": element["id"], "from": element["to"], "to": element["from"]})
        error.addChild(error_child(StanzaError(bounced.error_type, bounced.condition, bounced.text)))
        self.bounces.returned(Stanza.from_element(error))


class Stream:
    """Where somebody listens."""

    def __init__(self) -> None:
        self.observers: list[Callable[[Element], None]] = []

    def addObserver(self, path: str, observer: Callable[[Element], None], priority: float) -> None:
        self.observers.append(observer)

    def dispatch(self, element: Element) -> None:
        self.observers[0](element)


class DispatchTests(SenderPromises, SynchronousTestCase):
    """The gateway's own, with a spool that is at once."""

    def setUp(self) -> None:
        self.world = World()
        self.sender = self.world.sender
        self.world.accept_iq()
        self.world.outlet.sent.clear()

    @property
    def now(self) -> float:
        return self.world.now

    @now.setter
    def now(self, now: float) -> None:
        self.world.now = now

    def kept(self) -> list[str]:
        # The open iq may have run out of time meanwhile.
        return [element["id"] for element in self.world.outlet.sent if element.getAttribute("type") != "error"]

    def hold(self) -> None:
        """Nothing is confirmed before the test says so."""

    def confirm(self, fate: bool | Bounced = True) -> None:
        if isinstance(fate, Bounced):
            for element in self.world.outlet.sent:
                self.world.comes_back(element, fate)
        self.world.outlet.end("confirmed" if fate else "expired")

    def close(self, refused: RoomRefused) -> None:
        self.world.closed[refused.room] = refused

    def fill(self) -> None:
        self.world.spool.broken = SpoolError("database or disk is full")

    def disconnect(self) -> None:
        self.world.asking.connectionLost(None)

    def answering(self, answer: Callable[[Element], Element | None]) -> None:
        outlet = self.world.outlet
        send = outlet.send

        def answered(element: Element) -> bool:
            # Whoever is asked answers when the question has left, or never.
            sent = send(element)
            given = answer(element)
            if given is None:
                self.world.clock.callLater(0, self.world.clock.advance, 30)
            else:
                self.world.asking.xmlstream.dispatch(given)
            return sent

        outlet.send = answered  # type: ignore[method-assign]

    def of(self, coroutine):
        found = Deferred.fromCoroutine(coroutine)
        self.world.clock.advance(0)
        return self.successResultOf(found)

    def refusal_of(self, coroutine, kind) -> None:
        found = Deferred.fromCoroutine(coroutine)
        self.world.clock.advance(0)
        self.world.clock.advance(31)
        self.failureResultOf(found, kind)


class RoomTests(SynchronousTestCase):
    """Messages that are pushed into a room."""

    def setUp(self) -> None:
        self.world = World()

    def said(self, id: str = "a") -> Element:
        element = message(id)
        element.attributes.update({"to": "room@rooms.example.org", "type": "groupchat"})
        return element

    def push(self, *stanzas: Element, delivery_id: str | None = None) -> tuple[int, ...]:
        pushed = self.world.sender.push(Composed(stanzas), delivery_id=delivery_id)
        return self.successResultOf(Deferred.fromCoroutine(pushed))

    def waiting(self, numbers: tuple[int, ...]) -> Deferred[bool]:
        return Deferred.fromCoroutine(self.world.sender.sent(numbers))

    def shown(self, id: str = "a") -> None:
        """The room shows a message to everybody."""
        element = self.said(id)
        element.attributes.update({"from": "room@rooms.example.org/bot", "to": "bot.example.org"})
        self.world.bounces.shown(Stanza.from_element(element))

    def test_entered_before(self) -> None:
        """
        Each room is entered once for all that is said there; for what is said to a person none is.
        """
        self.push(self.said("a"), message("b"), self.said("c"))
        self.assertEqual((["room@rooms.example.org"], ["a", "b", "c"]), (self.world.entered, self.world.sent()))

    def test_late_reply(self) -> None:
        """
        What the webhook replies late into a room enters none, as its answers do not.
        """
        self.push(self.said(), delivery_id="long ago")
        self.assertEqual(([], ["a"]), (self.world.entered, self.world.sent()))

    def test_shown(self) -> None:
        """
        It is sent as soon as the room shows it, whenever the server confirms it.
        """
        waiting = self.waiting(self.push(self.said()))
        self.assertNoResult(waiting)
        self.shown()
        self.successResultOf(waiting)

    def test_room_answers_after_the_server(self) -> None:
        """
        A room may refuse it a moment after the server has confirmed it.
        """
        waiting = self.waiting(self.push(self.said()))
        self.world.outlet.end("confirmed")
        self.assertNoResult(waiting)
        self.world.comes_back(self.world.outlet.sent[-1], Bounced("forbidden", "auth", "no voice"))
        self.assertEqual("forbidden", self.failureResultOf(waiting, Bounced).value.condition)

    def test_room_that_shows_nothing(self) -> None:
        """
        A room that does not show messages to their authors is not waited for for long.
        """
        waiting = self.waiting(self.push(self.said()))
        self.world.outlet.end("confirmed")
        self.world.clock.advance(GRACE)
        self.successResultOf(waiting)


class Listening(LoopBrake):
    """A loop brake that remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def said(self, conversation: Any, text: str, *arguments: Any, **options: Any) -> None:
        self.texts.append(text)
        super().said(conversation, text, *arguments, **options)


class LoopEvidenceTests(SynchronousTestCase):
    """What of a push counts where somebody answers it."""

    def test_not_kept(self) -> None:
        """
        What the spool could not keep was never said, so nobody can have answered it.
        """
        brake = Listening()
        world = World(loop_brake=brake)
        said = message("a")
        said.addElement("body", content="are you there?")
        world.spool.broken = SpoolError("database or disk is full")
        self.failureResultOf(Deferred.fromCoroutine(world.sender.push(Composed((said,)))), SpoolError)
        self.assertEqual([], brake.texts)
        world.spool.broken = None
        self.successResultOf(Deferred.fromCoroutine(world.sender.push(Composed((said,)))))
        self.assertEqual(1, len(brake.texts))


class OpenIqTests(SynchronousTestCase):
    """An iq that the webhook has taken on by 202."""

    def setUp(self) -> None:
        self.world = World()

    def answer(self, id_: str = "late") -> Composed:
        element = an_iq("result")
        element["id"] = id_
        return Composed((element,), answers=True)

    def push(self, given: Composed, delivery_id: str | None = None) -> Deferred[tuple[int, ...]]:
        return Deferred.fromCoroutine(self.world.sender.push(given, delivery_id=delivery_id))

    def test_link(self) -> None:
        """
        Each request says by which link it can be replied to later.
        """
        self.world.accept_iq()
        [(_, headers)] = self.world.webhook.posts
        self.assertEqual("https://gateway.example.org/open", headers["webhook-reply-url"])

    def test_stays_open(self) -> None:
        """
        It is neither answered nor POSTed again until the answer comes, and nobody waits behind it.
        """
        self.world.accept_iq("q1")
        self.world.accept_iq("q2")
        self.assertEqual(([], 2, 2), (self.world.sent(), len(self.world.webhook.posts), self.world.relay.pending))
        self.world.clock.advance(20)
        self.successResultOf(self.push(self.answer(), "open"))
        self.assertEqual((["late"], 2, 1), (self.world.sent(), len(self.world.webhook.posts), self.world.relay.pending))
        self.assertEqual((2, 1), (self.world.counters["left_open"], self.world.counters["replied"]))

    def test_internal_error(self) -> None:
        """
        Whoever has sent the answer is told also when an internal error ends the delivery.
        """

        def count(event: str) -> None:
            raise ZeroDivisionError(event)

        self.world.accept_iq()
        self.world.counters.count = count  # type: ignore[method-assign]
        self.successResultOf(self.push(self.answer(), "open"))
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_deadline(self) -> None:
        """
        Without an answer its deadline ends it with an error, and what comes then is too late.
        """
        self.world.accept_iq()
        self.world.clock.advance(25)
        [error] = self.world.outlet.sent
        self.assertEqual(("error", "q1"), (error["type"], error["id"]))
        self.failureResultOf(self.push(self.answer(), "open"), DeliveryEnded)
        self.assertEqual((0, 1), (self.world.relay.pending, self.world.counters["expired"]))

    def test_message(self) -> None:
        """
        To a message 202 is no reply, as ever.
        """
        element = Element((NS_COMPONENT, "message"))
        element.attributes.update({"type": "chat", "from": "alice@example.org/phone", "to": f"bot@{DOMAIN}"})
        self.world.relay.accept(Stanza.from_element(element))
        self.assertEqual((0, 1), (self.world.relay.pending, self.world.counters["silent"]))

    def test_drain(self) -> None:
        """
        A drain waits for it, and answers it when the time is over.
        """
        self.world.accept_iq()
        drained = Deferred.fromCoroutine(self.world.relay.drain(5.0))
        self.world.clock.advance(4.9)
        self.assertNoResult(drained)
        self.world.clock.pump([0.1, 0, FLUSH])
        self.successResultOf(drained)
        [error] = self.world.outlet.sent
        self.assertEqual(("error", 0), (error["type"], self.world.relay.pending))

    def test_takes_room(self) -> None:
        """
        It takes room as everything does that is pending.
        """
        self.world.accept_iq()
        self.assertEqual(1, self.world.relay.status().pending)

    def test_takes_room_of_its_sender(self) -> None:
        """
        Whoever has many of them open takes no room from others.
        """
        world = World(BacklogLimits(max_pending=4))
        for number in range(3):
            world.accept_iq(f"q{number}")
        world.accept_iq("q3", sender="bob@example.org/phone")
        self.assertEqual((3, 1), (world.counters["left_open"], world.counters["refused_unfair"]))
        world.clock.advance(25)
        world.accept_iq("q4")
        self.assertEqual(1, world.counters["refused_unfair"])

    def test_reading_goes_on(self) -> None:
        """
        Reading that rested because much waited for the webhook goes on when that has taken it on.
        """
        world = World(BacklogLimits(max_pending=2, pause_above=0.4, resume_below=0.2))
        world.webhook.pause()
        world.accept_iq()
        self.assertTrue(world.valve.paused)
        world.webhook.resume()
        self.assertFalse(world.valve.paused)

    def test_earlier_failure(self) -> None:
        """
        An iq that was taken on after a failure, and never answered, has timed out, whatever the failure was.
        """
        world = World(first=[Response(500)])
        world.accept_iq()
        world.clock.pump([1.0] * 26)
        [error] = world.outlet.sent
        self.assertEqual((1, "remote-server-timeout"), (world.counters["left_open"], _condition(error)))


def _condition(error: Element) -> str:
    [condition, *_] = error.error.elements()
    return str(condition.name)
