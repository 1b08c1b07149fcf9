"""Replays: a delivery that has ended is POSTed once more, for somebody who wants to see what the webhook answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from attrs import evolve
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorTime

from component_http.contract.address import NotAnAddress
from component_http.contract.composing import Composed
from component_http.contract.delivery import Delivery
from component_http.contract.ended import EndedAttempt, EndedDelivery, EndedStanza, ReplayResult
from component_http.contract.outbound import OutboundStanza
from component_http.contract.reply import Response, Verdict
from component_http.contract.request import thread_of
from component_http.delivery.outbox import Outbox
from component_http.delivery.relay import Relay
from component_http.delivery.reports import report_of
from component_http.errors import SpoolError, WebhookError
from component_http.interfaces import Observer
from component_http.interfaces.spools import DeliveryLog
from component_http.interfaces.tracer import ANSWER_BYTES, AttemptReport

MOST_WAITING = 100
"""Replays that may wait for their turn; each may take as long as the webhook."""

NO_BODY = 'its request body was not kept: only deliveries that end while spool.keep_ended is "bodies" can be replayed'


class Component(Protocol):
    """A component that is served."""

    relay: Relay
    outbox: Outbox


class Replays:
    """
    Replays deliveries, one after the other, beside all that is pending.

    A replay has the id of the delivery, a fresh timestamp and so a new signature. It is one attempt, which counts for
    no limit and for no breaker. The stanzas that the webhook answers are shown and recorded, and sent only if they are
    asked for; never to who has asked an iq, for that has one answer.

    Args:
        log: Has the deliveries, and the replays.
        served: Each component by its domain.
        observer: Told `replayed`.
        wall: The wall clock.
    """

    def __init__(
        self,
        log: DeliveryLog,
        served: Mapping[str, Component],
        observer: Observer,
        clock: IReactorTime,
        wall: Callable[[], float],
    ) -> None:
        self._log = log
        self._served = served
        self._observer = observer
        self._clock = clock
        self._wall = wall
        self._turns = DeferredLock()
        self._asked: dict[Deferred[ReplayResult], None] = {}  # in their order
        self._stopped = False

    def replay(self, number: int, send: bool) -> Deferred[ReplayResult]:
        """
        Replay a delivery when it is its turn; cancelling it ends the POST.

        Args:
            number: Its number in the log.
            send: Send the stanzas that the webhook answers.

        Returns:
            It fails with `SpoolError` where the log cannot be read.
        """
        asked = self._turns.run(lambda: Deferred.fromCoroutine(self._replayed(number, send)))
        if len(self._asked) >= MOST_WAITING:
            asked.addErrback(lambda _: ReplayResult("too many replays wait: try again later"))
            asked.cancel()
            return asked
        self._asked[asked] = None

        def over(result: object) -> object:
            self._asked.pop(asked, None)
            return result

        asked.addBoth(over)
        return asked

    def stop(self) -> None:
        """Cut off what is under way, and replay nothing more."""
        self._stopped = True
        for asked in list(self._asked):
            asked.cancel()

    async def _replayed(self, number: int, send: bool) -> ReplayResult:
        kept = await self._log.one(number)
        if kept is None:
            return ReplayResult("it is not in the log any more")
        component = self._served.get(kept.recipient.partition("/")[0].rpartition("@")[2])
        if component is None:
            return ReplayResult("its component is not served now")
        if self._stopped or component.relay.is_stopping:
            return ReplayResult("the gateway is stopping")
        body = await self._log.body(number)
        if body is None:
            return ReplayResult(NO_BODY)
        try:
            stanza = evolve(kept.stanza, thread=thread_of(body))
        except NotAnAddress:
            return ReplayResult("its addresses cannot be read")
        delivery = Delivery(kept.id, stanza, kept.size, 0.0, kept.tries, route=kept.route)
        return await self._made(kept, delivery, body, component, send)

    async def _made(
        self, kept: EndedDelivery, delivery: Delivery, body: bytes, component: Component, send: bool
    ) -> ReplayResult:
        routing = component.relay.routing
        if routing.lacks(delivery):
            routing.find_again(delivery, body)
        forwarder = routing.lanes[delivery.route].forwarder
        began, begin = self._wall(), self._clock.seconds()
        post = forwarder.replay(delivery, body)
        if post is None:
            return ReplayResult("there is no webhook")
        self._observer.count("replayed")
        result: Response | WebhookError
        try:
            result = await post
        except WebhookError as error:
            result = error
        seconds = self._clock.seconds() - begin
        verdict = forwarder.outcomes.judge(delivery, result) if isinstance(result, Response) else Verdict("silent")
        outcome = verdict.outcome if isinstance(result, Response) else "failed"
        marks = getattr(post, "marks", None)
        report = report_of(kept.tries + 1, begin, seconds, marks, result, verdict.outcome)
        stanzas = component.outbox.maker.make(
            verdict.stanzas, verdict.xml, verbatim=verdict.verbatim, delivery_id=delivery.id
        )
        first, note = None, verdict.note
        if send and outcome == "replied" and delivery.stanza.kind != "iq" and not component.relay.is_stopping:
            component.relay.loops.said(verdict.stanzas, delivery.id)
            try:
                composed = Composed(verdict.stanzas, verdict.verbatim, xml=verdict.xml)
                [first, *_] = await component.outbox.push(composed, delivery_id=delivery.id)
            except SpoolError as error:
                note = f"the answer could not be sent: {error}"
        replay = evolve(
            kept,
            replay=True,
            outcome=outcome,
            note=note,
            route=delivery.route,
            accepted=began,
            ended=self._wall(),
            tries=1,
            has_body=False,
            attempts=[_attempt(report, began, outcome)],
            stanzas=[_stanza(each, None if first is None else first + place) for place, each in enumerate(stanzas)],
        )
        try:
            number = await self._log.record(replay)
        except SpoolError as error:
            came = report.failure or f"status {report.status}"
            return ReplayResult(f"it was POSTed, which had this result: {came}; but that cannot be recorded: {error}")
        return ReplayResult(None, evolve(replay, number=number), first is not None)


def _attempt(report: AttemptReport, began: float, outcome: str) -> EndedAttempt:
    """The attempt, which began then by the wall clock."""
    return EndedAttempt(
        report.number,
        began,
        report.seconds,
        report.connecting,
        report.first_byte,
        report.status,
        report.failure,
        report.answer.decode("utf-8", "replace"),
        outcome,
        None,
    )


def _stanza(outbound: OutboundStanza, number: int | None) -> EndedStanza:
    head, xml = outbound.head, outbound.xml
    shown = xml[:ANSWER_BYTES].decode("utf-8", "replace")
    return EndedStanza(outbound.kind, head.type, head.id, head.recipient, len(xml), shown, number)
