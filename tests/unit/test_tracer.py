"""The life of deliveries, as those are told who follow them."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from component_http.contract.delivery import Delivery
from component_http.contract.outbound import OutboundStanza, Refused
from component_http.contract.reply import Response
from component_http.errors import ConnectionFailed
from component_http.interfaces.tracer import AttemptReport, Headers, Settlement, Tracers
from component_http.testing import RecordingOutlet, ScriptedWebhook, json_response
from tests.relay_world import relay_world
from tests.unit.test_delivery import a_stanza


@define
class Notebook:
    """A tracer that writes everything down."""

    said: list[str] = field(factory=list)
    reports: list[AttemptReport] = field(factory=list)

    def accepted(self, delivery: Delivery, *, restored: bool) -> None:
        self.said.append(f"{delivery.id} {'restored' if restored else 'accepted'}")

    def posted(self, delivery: Delivery, body: bytes, headers: Headers) -> None:
        self.said.append(f"{delivery.id} posted {len(body) == delivery.size}")

    def attempted(self, delivery: Delivery, report: AttemptReport, response: Response | None) -> None:
        self.said.append(f"{delivery.id} {report.status or report.failure}: {report.follows}")
        self.reports.append(report)

    def ended(self, delivery: Delivery, outcome: str, note: str | None, stanzas: Sequence[OutboundStanza]) -> None:
        self.said.append(f"{delivery.id} {outcome} {note} {len(stanzas)}")

    def pushed(self, number: int, outbound: OutboundStanza) -> None:
        self.said.append(f"pushed {number}")

    def settled(self, number: int, delivery_id: str | None, settlement: Settlement, why: str | None = None) -> None:
        self.said.append(f"{delivery_id} {number} {settlement} {why}")


class TracerTests(SynchronousTestCase):
    """Whoever follows deliveries hears their whole lives."""

    def test_whole_life_is_told(self) -> None:
        """
        A delivery that is retried and answered is told from its acceptance to the fate of its reply, in order.
        """
        clock, outlet, tracers, notebook = Clock(), RecordingOutlet(), Tracers(), Notebook()
        webhook = ScriptedWebhook([Response(503, {}, b"x" * 2000), json_response('{"body": "hi"}')])
        world = relay_world(webhook, clock, outlet=outlet, tracers=tracers)
        tracers.add(notebook)
        world.relay.accept(a_stanza())
        clock.pump([1.0] * 5)
        outlet.end("confirmed")
        tracers.remove(notebook)
        world.relay.accept(a_stanza())
        self.assertEqual(
            [
                "d1 accepted",
                "d1 posted True",
                "d1 503: retry",
                "d1 posted True",
                "d1 200: replied",
                "d1 replied None 1",
                "d1 1 confirmed None",
            ],
            notebook.said,
        )
        first, second = notebook.reports
        self.assertEqual((1, 1024, True), (first.number, len(first.answer), bool(first.again)))
        self.assertEqual((2, b'{"body": "hi"}', None), (second.number, second.answer, second.again))

    def test_failures_are_told(self) -> None:
        """
        An attempt without an answer, one that the stop cuts off, and a reply that the server refuses are told as such.
        """
        clock, outlet, tracers, notebook, other = Clock(), RecordingOutlet(), Tracers(), Notebook(), Notebook()
        webhook = ScriptedWebhook([ConnectionFailed("refused"), json_response('{"body": "hi"}')])
        world = relay_world(webhook, clock, outlet=outlet, tracers=tracers, max_attempts=1)
        tracers.add(notebook)
        tracers.add(other)
        world.relay.accept(a_stanza())
        world.relay.accept(a_stanza())
        outlet.end(Refused("not-well-formed", "look at it"))
        webhook.paused = True
        world.relay.accept(a_stanza())
        drained = Deferred.fromCoroutine(world.relay.drain(1.0))
        clock.pump([0.5] * 10)
        self.successResultOf(drained)
        for line in (
            "d1 refused: bounced",
            "d2 2 refused not-well-formed",
            "d3 it was cut off: cut_off",
        ):
            self.assertIn(line, notebook.said)
        self.assertEqual(notebook.said, other.said)
