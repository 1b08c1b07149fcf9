"""Iqs that we send, and their answers."""

from __future__ import annotations

from itertools import count
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.protocols.jabber.xmlstream import STREAM_AUTHD_EVENT
from twisted.words.xish.domish import Element
from twisted.words.xish.utility import EventDispatcher
from twisted.words.xish.xmlstream import STREAM_CONNECTED_EVENT, STREAM_END_EVENT, BootstrapMixin
from wokkel.subprotocols import StreamManager

from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_COMPONENT
from component_http.errors import Offline, Unanswered
from component_http.operations.metrics import Counters
from component_http.testing import RecordingOutlet
from component_http.xmpp.intake import StanzaIntake
from component_http.xmpp.iq_requests import MAX_LATE, MAX_WAITING, IqRequests

DOMAIN = "bot.example.org"


def an_iq(to: str = "alice@example.org/phone") -> Element:
    element = Element((NS_COMPONENT, "iq"))
    element.attributes.update({"to": to, "from": DOMAIN, "type": "get", "id": "mine"})
    element.addElement(("urn:xmpp:ping", "ping"))
    return element


class IqRequestsTests(SynchronousTestCase):
    """
    Asking on a stream.

    Attributes:
        forwarded: What the webhook would get.
    """

    def setUp(self) -> None:
        ids = count(1)
        self.clock = Clock()
        self.outlet = RecordingOutlet()
        self.questions = IqRequests(self.outlet, self.clock, lambda: f"q{next(ids)}")
        self.bootstraps = BootstrapMixin()
        manager = StreamManager(self.bootstraps, self.clock)
        self.forwarded: list[Stanza] = []
        self.questions.setHandlerParent(manager)
        intake = StanzaIntake(self.forwarded.append, domain=DOMAIN, kinds=["iq"], observer=Counters())
        intake.setHandlerParent(manager)
        self.stream = self.connect()

    def connect(self) -> Any:
        stream: Any = EventDispatcher()
        stream.send = lambda _: None
        self.bootstraps.installBootstraps(stream)
        stream.dispatch(stream, STREAM_CONNECTED_EVENT)
        stream.dispatch(stream, STREAM_AUTHD_EVENT)
        return stream

    def ask(self, timeout: float = 30.0, **changes: Any) -> Deferred[Element]:
        return Deferred.fromCoroutine(self.questions.ask(an_iq(**changes), timeout))

    def answer(self, id: str, stanza_type: str = "result", sender: str = "alice@example.org/phone") -> Element:
        element = Element((NS_COMPONENT, "iq"))
        element.attributes.update({"to": DOMAIN, "from": sender, "type": stanza_type, "id": id})
        self.stream.dispatch(element)
        return element

    def test_answer(self) -> None:
        """
        Who asks gets the result or the error, and the webhook gets nothing.
        """
        for number, stanza_type in enumerate(("result", "error"), 1):
            waiting = self.ask()
            answer = self.answer(f"q{number}", stanza_type)
            self.assertIs(answer, self.successResultOf(waiting))
        self.assertEqual([], self.forwarded)
        self.assertEqual(["q1", "q2"], [element["id"] for element in self.outlet.sent])

    def test_others_cannot_answer(self) -> None:
        """
        Neither another address nor another id answers a question.
        """
        waiting = self.ask()
        for sender in ("alice@example.org", "alice@example.org/other", "eve@example.org/phone", "example.org"):
            self.answer("q1", sender=sender)
        self.answer("mine")
        self.assertNoResult(waiting)
        self.answer("q1")
        self.successResultOf(waiting)
        self.assertEqual(5, len(self.forwarded))

    def test_each_its_own(self) -> None:
        """
        Answers find their questions in whatever order they come.
        """
        first, second = self.ask(), self.ask(to="bob@example.org")
        self.answer("q2", sender="bob@example.org")
        self.assertNoResult(first)
        self.successResultOf(second)
        self.answer("q1")
        self.successResultOf(first)

    def test_time_out(self) -> None:
        """
        Who waits in vain is told so, and an answer that comes then goes to nobody.
        """
        waiting = self.ask(7.0)
        self.clock.advance(6.9)
        self.assertNoResult(waiting)
        self.clock.advance(0.1)
        self.failureResultOf(waiting, Unanswered)
        self.answer("q1")
        self.assertEqual([], self.forwarded)
        self.answer("q1")
        self.assertEqual(1, len(self.forwarded))

    def test_cancelled(self) -> None:
        """
        The same holds for who does not want to wait any more.
        """
        waiting = self.ask()
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.answer("q1")
        self.assertEqual([], self.forwarded)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_late_ones_are_bounded(self) -> None:
        """
        Of those that nobody waits for only so many are remembered.
        """
        for _ in range(MAX_LATE + 1):
            waiting = self.ask()
            waiting.cancel()
            self.failureResultOf(waiting, CancelledError)
        self.answer("q1")
        self.answer("q2")
        self.assertEqual(["q1"], [stanza.id for stanza in self.forwarded])

    def test_offline(self) -> None:
        """
        Without a stream nobody is asked, and nothing kept for later.
        """
        self.stream.dispatch(None, STREAM_END_EVENT)
        self.failureResultOf(self.ask(), Offline)
        self.assertEqual([], self.outlet.sent)

    def test_new_stream(self) -> None:
        """
        An answer may come on the next stream.
        """
        waiting = self.ask()
        self.stream.dispatch(None, STREAM_END_EVENT)
        self.stream = self.connect()
        self.answer("q1")
        self.successResultOf(waiting)

    def test_not_sent(self) -> None:
        """
        Who cannot be asked, because nothing more leaves, is not waited for.
        """
        self.outlet.full = True
        self.failureResultOf(self.ask(), Offline)

    def test_crowded(self) -> None:
        """
        While much waits to leave nobody is asked, for the question would wait too.
        """
        self.outlet.crowded = True
        self.failureResultOf(self.ask(), Offline)
        self.assertEqual([], self.outlet.sent)

    def test_too_many(self) -> None:
        """
        There is a limit to how many are waited for.
        """
        waiting = [self.ask() for _ in range(MAX_WAITING)]
        self.failureResultOf(self.ask(), Offline)
        self.answer("q1")
        self.successResultOf(waiting[0])
        self.assertNoResult(self.ask())

    def test_what_is_no_answer(self) -> None:
        """
        A question with the id of ours is a question.
        """
        waiting = self.ask()
        self.answer("q1", "get")
        self.assertNoResult(waiting)
        self.assertEqual(["get"], [stanza.type for stanza in self.forwarded])
