"""What a `Sender` promises, asked of each that there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.xish.domish import Element

from component_http.contract.composing import Composed
from component_http.contract.idempotency import LIFETIME, IdempotencyRecord
from component_http.contract.xml import NS_COMPONENT
from component_http.errors import Bounced, DeliveryEnded, NotSent, Offline, RoomRefused, SpoolError, Unanswered
from component_http.interfaces import Sender
from component_http.testing import RecordingSender


def message(id: str) -> Element:
    element = Element((NS_COMPONENT, "message"))
    element.attributes.update({"to": "alice@example.org", "from": "bot.example.org", "id": id})
    return element


def an_iq(kind: str = "get") -> Element:
    element = Element((NS_COMPONENT, "iq"))
    element.attributes.update({"to": "alice@example.org/phone", "from": "bot.example.org", "type": kind})
    element.addElement(("urn:xmpp:ping", "ping"))
    return element


def composed(*ids: str) -> Composed:
    return Composed(tuple(map(message, ids)))


class SenderPromises:
    """
    What every sender promises.

    Attributes:
        sender: It; an iq of delivery `open` can be answered late, and nobody has been asked anything.
        now: The time by which it forgets.
    """

    sender: Sender
    now: float

    def kept(self) -> list[str]:
        """The ids of what it was given to keep, in the order of leaving."""
        raise NotImplementedError

    def hold(self) -> None:
        """Let the server not have what is pushed from now on, until `confirm`."""
        raise NotImplementedError

    def confirm(self, fate: bool | Bounced = True) -> None:
        """Let the server have all; or let it be known that it will never have it, or let all come back."""
        raise NotImplementedError

    def close(self, refused: RoomRefused) -> None:
        """Let a room let nobody in."""
        raise NotImplementedError

    def fill(self) -> None:
        """Leave no room for anything more."""
        raise NotImplementedError

    def disconnect(self) -> None:
        """Let the stream be away."""
        raise NotImplementedError

    def answering(self, answer: Callable[[Element], Element | None]) -> None:
        """Let whoever is asked answer by this function; None is silence for ever."""
        raise NotImplementedError

    def of(self, coroutine: Any) -> Any:
        """What a coroutine gives at once."""
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def refusal_of(self, coroutine: Any, kind: type[Exception]) -> None:
        self.failureResultOf(Deferred.fromCoroutine(coroutine), kind)

    def test_order(self) -> None:
        """
        What is pushed leaves in the order of pushing, and each stanza has a higher number than all before it.
        """
        numbers = [*self.of(self.sender.push(composed("a", "b"))), *self.of(self.sender.push(composed("c")))]
        self.assertEqual(["a", "b", "c"], self.kept())
        self.assertEqual(sorted(set(numbers)), numbers)

    def test_full(self) -> None:
        """
        Where there is no room nothing is kept, and nothing remembered of it.
        """
        self.fill()
        self.refusal_of(self.sender.push(composed("a"), record=IdempotencyRecord("ops", "k1", "f", b"{}")), SpoolError)
        self.assertEqual([], self.kept())
        self.assertIsNone(self.of(self.sender.recall("ops", "k1")))

    def test_memo(self) -> None:
        """
        What was pushed with a key is remembered by that key, with its numbers.
        """
        numbers = self.of(self.sender.push(composed("a", "b"), record=IdempotencyRecord("ops", "k1", "f", b"{}")))
        self.assertEqual(IdempotencyRecord("ops", "k1", "f", b"{}", numbers), self.of(self.sender.recall("ops", "k1")))

    def test_keys_are_their_owners(self) -> None:
        """
        Nobody sees what another one's key stands for.
        """
        self.of(self.sender.push(composed("a"), record=IdempotencyRecord("ops", "k1", "f", b"{}")))
        self.assertIsNone(self.of(self.sender.recall("other", "k1")))
        self.assertIsNone(self.of(self.sender.recall("ops", "k2")))

    def test_memo_is_forgotten(self) -> None:
        """
        After a day a key is free again.
        """
        self.of(self.sender.push(composed("a"), record=IdempotencyRecord("ops", "k1", "f", b"{}")))
        self.now += LIFETIME - 1
        self.assertIsNotNone(self.of(self.sender.recall("ops", "k1")))
        self.now += 1
        self.assertIsNone(self.of(self.sender.recall("ops", "k1")))

    def test_sent(self) -> None:
        """
        Who waits for what was pushed is told when the server has all of it, and later at once.
        """
        self.hold()
        numbers = self.of(self.sender.push(composed("a", "b")))
        waiting = Deferred.fromCoroutine(self.sender.sent(numbers))
        self.assertNoResult(waiting)
        self.confirm()
        self.successResultOf(waiting)
        self.of(self.sender.sent(numbers))

    def test_never_sent(self) -> None:
        """
        Who waits for what will never be with the server is told so.
        """
        self.hold()
        numbers = self.of(self.sender.push(composed("a")))
        waiting = Deferred.fromCoroutine(self.sender.sent(numbers))
        self.confirm(False)
        self.failureResultOf(waiting, NotSent)
        self.refusal_of(self.sender.sent(numbers), NotSent)

    def test_bounced(self) -> None:
        """
        Whoever waits for what comes back is told what it came back with, and so is whoever asks later.
        """
        self.hold()
        numbers = self.of(self.sender.push(composed("a")))
        waiting = Deferred.fromCoroutine(self.sender.sent(numbers))
        self.confirm(Bounced("item-not-found", "cancel", "no such user"))
        self.assertEqual("no such user", self.failureResultOf(waiting, Bounced).value.text)
        self.refusal_of(self.sender.sent(numbers), Bounced)

    def test_closed_room(self) -> None:
        """
        If a room does not let the sender in, nothing of the request is kept.
        """
        self.close(RoomRefused("room@rooms.example.org", "bot.example.org", "forbidden"))
        said = message("b")
        said.attributes.update({"to": "room@rooms.example.org", "type": "groupchat"})
        self.refusal_of(self.sender.push(Composed((message("a"), said))), RoomRefused)
        self.assertEqual([], self.kept())

    def test_sent_cancelled(self) -> None:
        """
        Who waits no longer changes nothing for what waits.
        """
        self.hold()
        waiting = Deferred.fromCoroutine(self.sender.sent(self.of(self.sender.push(composed("a")))))
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        self.confirm()
        self.assertEqual(["a"], self.kept())

    def test_late_answer(self) -> None:
        """
        An iq that is open can be answered late, once.
        """
        element = an_iq("result")
        element["id"] = "late"
        late = Composed((element,), answers=True)
        self.of(self.sender.push(late, delivery_id="open"))
        self.refusal_of(self.sender.push(late, delivery_id="open"), DeliveryEnded)
        self.refusal_of(self.sender.push(late, delivery_id="other"), DeliveryEnded)
        self.assertEqual(["late"], self.kept())

    def test_late_reply(self) -> None:
        """
        Late replies that answer no iq are kept, whatever delivery they are of, as often as there are some.
        """
        for id in ("a", "b"):
            self.of(self.sender.push(composed(id), delivery_id="long ago"))
        self.assertEqual(["a", "b"], self.kept())

    def test_ask(self) -> None:
        """
        The answer to an iq is what comes back; its id is one that nobody has chosen, and never the same twice.
        """
        seen = []

        def answer(iq: Element) -> Element:
            seen.append(iq["id"])
            result = Element((NS_COMPONENT, "iq"))
            result.attributes.update({"to": iq["from"], "from": iq["to"], "type": "result", "id": iq["id"]})
            return result

        self.answering(answer)
        given = an_iq()
        given["id"] = "mine"
        self.assertEqual("result", self.of(self.sender.ask(given, 30))["type"])
        self.assertEqual("result", self.of(self.sender.ask(an_iq(), 30))["type"])
        self.assertEqual(2, len({*seen, "mine"} - {"mine"}))

    def test_unanswered(self) -> None:
        """
        Who asks and gets no answer in time is told so.
        """
        self.answering(lambda iq: None)
        self.refusal_of(self.sender.ask(an_iq(), 30), Unanswered)

    def test_offline(self) -> None:
        """
        While the stream is away nobody can be asked.
        """
        self.disconnect()
        self.refusal_of(self.sender.ask(an_iq(), 30), Offline)


class RecordingSenderTests(SenderPromises, SynchronousTestCase):
    """The stand-in that tests use."""

    def setUp(self) -> None:
        self.now = 0.0
        self.answer: Callable[[Element], Element | None] = lambda iq: None
        self.sender = RecordingSender(answer=lambda iq: self.answer(iq), now=lambda: self.now)
        self.sender.open = {"open"}

    def kept(self) -> list[str]:
        return [element["id"] for element in self.sender.pushed]

    def hold(self) -> None:
        self.sender.confirming = False

    def confirm(self, fate: bool | Bounced = True) -> None:
        self.sender.confirm(fate)

    def close(self, refused: RoomRefused) -> None:
        self.sender.closed[refused.room] = refused

    def fill(self) -> None:
        self.sender.full = True

    def disconnect(self) -> None:
        self.sender.offline = True

    def answering(self, answer: Callable[[Element], Element | None]) -> None:
        self.answer = answer
