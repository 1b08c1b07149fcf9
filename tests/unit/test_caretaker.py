"""What the gateway does once a second for other programs that use its spool."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from component_http.caretaker import INTERVAL, Caretaker
from component_http.contract.explanation import Explanation
from component_http.errors import SpoolError
from component_http.interfaces import Found
from component_http.spool.facts import question, read_answer, read_each
from component_http.spool.memory import MemorySpool
from tests.unit.test_delivery import DeliveryTestCase, a_stanza


class VisitedSpool(MemorySpool):
    """A spool that another program has left word in."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Found | Failure] = []
        self.facts: list[Mapping[str, str]] = []

    def look(self, facts: Mapping[str, str], room: int) -> Deferred[Found]:
        self.facts.append(facts)
        found = self.found.pop(0) if self.found else Found()
        return fail(found) if isinstance(found, Failure) else succeed(found)


class CaretakerTests(DeliveryTestCase):
    """A caretaker beside a relay with one POST under way."""

    def setUp(self) -> None:
        super().setUp()
        self.spool, self.woken = VisitedSpool(), 0
        relay = self.a_relay([Deferred()], spool=self.spool)
        relay.accept(a_stanza())

        def wake() -> None:
            self.woken += 1

        served: Any = SimpleNamespace(relay=relay, outbox=None, connected=True)
        self.served: dict[str, Any] = {"bot.example.org": served}
        caretaker = Caretaker(self.spool, self.served, wake=wake, clock=self.clock)
        self.addCleanup(caretaker.stop)

    def test_nobody_asks(self) -> None:
        """
        While nobody asks the facts are about the webhook only, and the same each second.
        """
        self.clock.pump([INTERVAL] * 3)
        self.assertEqual([{"webhook": "closed", "webhook_trouble": "", "webhooks": ""}] * 4, self.spool.facts)

    def test_several_components(self) -> None:
        """
        Of several components there are the facts of each, and those of the webhook that is least well.
        """
        gone = self.a_relay([], has_webhook=False)
        self.served["other.example.org"] = SimpleNamespace(relay=gone, outbox=None, connected=True)
        self.clock.advance(INTERVAL)
        facts = self.spool.facts[-1]
        self.assertEqual("closed", facts["webhook"])
        self.assertEqual({"bot.example.org": ("closed", None), "other.example.org": ("none", None)}, read_each(facts))

    def test_question(self) -> None:
        """
        Whoever asks why something waits is answered in the same second, once.
        """
        self.spool.found = [Found(questions=[(7, question(["d1", "d2"]))])]
        self.clock.advance(INTERVAL)
        self.assertEqual(3, len(self.spool.facts))
        answer = read_answer(self.spool.facts[-1]["pending"])
        assert answer is not None
        self.assertEqual(([7], True), (answer.commands, answer.connected))
        self.assertEqual({"d1": Explanation("running")}, answer.deliveries)
        self.clock.advance(INTERVAL)
        self.assertNotIn("pending", self.spool.facts[-1])

    def test_wake(self) -> None:
        """
        Whoever says that the webhook is back has it asked at once.
        """
        self.spool.found = [Found(wake=True)]
        self.clock.advance(INTERVAL)
        self.assertEqual(1, self.woken)

    def test_full_disk(self) -> None:
        """
        What cannot be done now is done a second later; only what is no such failure is logged.
        """
        self.spool.found = [Failure(SpoolError("full")), Failure(ZeroDivisionError()), Found(wake=True)]
        self.clock.pump([INTERVAL] * 3)
        self.assertEqual(1, self.woken)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
