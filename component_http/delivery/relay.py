"""Accept stanzas, have them carried to the webhook, send what comes back, and stop calmly."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from component_http.contract import conditions, reply
from component_http.contract.reply import Verdict
from component_http.contract.request import request_body
from component_http.contract.stanza import Stanza
from component_http.delivery.forwarder import Delivery, Forwarder
from component_http.interfaces import Observer, Outlet, Valve

__all__ = ["Relay"]

CROWDED = 1000
"""Deliveries under way above which reading from the stream pauses: enough to keep any webhook busy, small in memory."""


class Relay:
    """
    The owner of every running delivery.

    Args:
        forwarder: Carries one delivery.
        outlet: Where replies and errors go.
        valve: Where stanzas come from; closed while more than `CROWDED` deliveries are under way.
        observer: Told `accepted`, then one of `replied`, `silent`, `bounced`, `refused_reply` for each; or
            `refused_full` or `refused_stopping` instead of `accepted`.
        clock: For the time a drain may take.
        new_id: Makes delivery ids.
        max_pending: Deliveries held in memory at most; more are refused with a wait error.
        max_pending_bytes: The same in bytes of request bodies.
    """

    _log = Logger()

    def __init__(
        self,
        forwarder: Forwarder,
        outlet: Outlet,
        valve: Valve,
        observer: Observer,
        *,
        clock: IReactorTime,
        new_id: Callable[[], str],
        max_pending: int,
        max_pending_bytes: int,
    ) -> None:
        self._forwarder = forwarder
        self._outlet = outlet
        self._valve = valve
        self._observer = observer
        self._clock = clock
        self._new_id = new_id
        self._max_pending = max_pending
        self._max_pending_bytes = max_pending_bytes
        self._running: dict[str, Deferred[None]] = {}
        self._pending_bytes = 0
        self._stopping = False
        self._drained: Deferred[None] | None = None

    @property
    def pending(self) -> int:
        """Deliveries accepted and not ended."""
        return len(self._running)

    def accept(self, stanza: Stanza) -> None:
        """
        Take a stanza in charge, or refuse it visibly.

        An accepted stanza ends in one of the ways the observer counts; its replies leave through the outlet.
        """
        if self._stopping:
            self._refuse(stanza, conditions.STOPPING, "refused_stopping")
            return
        body = request_body(stanza)
        if len(self._running) >= self._max_pending or self._pending_bytes + len(body) > self._max_pending_bytes:
            self._refuse(stanza, conditions.FULL, "refused_full")
            return
        delivery = Delivery(self._new_id(), stanza.facts(), body)
        self._observer.count("accepted")
        self._pending_bytes += len(body)
        running = Deferred.fromCoroutine(self._carry(delivery))
        self._running[delivery.id] = running
        running.addBoth(self._ended, delivery)
        if len(self._running) > CROWDED:
            self._valve.pause()

    async def drain(self, timeout: float) -> None:
        """
        Accept nothing more, let what is under way end, and give up what has not ended by then.

        Args:
            timeout: Seconds to wait; what is left is answered with a wait error.
        """
        self._stopping = True
        if self._running:
            self._log.info(
                "waiting for {pending} deliveries, at most {timeout} s", pending=self.pending, timeout=timeout
            )
            self._drained = Deferred()
            strike = self._clock.callLater(timeout, self._give_up_all)
            await self._drained
            if strike.active():
                strike.cancel()

    def _give_up_all(self) -> None:
        self._log.warn("gave up {pending} deliveries, for the gateway is stopping", pending=self.pending)
        for running in list(self._running.values()):
            running.cancel()

    def _refuse(self, stanza: Stanza, error: conditions.StanzaError, event: str) -> None:
        self._observer.count(event)
        for element in reply.give_up(stanza, error, event).stanzas:
            self._outlet.send(element)

    async def _carry(self, delivery: Delivery) -> None:
        try:
            verdict = await self._forwarder.forward(delivery)
        except CancelledError:
            verdict = reply.give_up(delivery.stanza, conditions.STOPPING, "the gateway is stopping")
        except Exception:
            self._log.failure("{id}: our own mistake", id=delivery.id)
            verdict = reply.give_up(delivery.stanza, conditions.INTERNAL, "our own mistake")
        self._answer(delivery, verdict)

    def _answer(self, delivery: Delivery, verdict: Verdict) -> None:
        self._observer.count(verdict.outcome)
        for element in verdict.stanzas:
            if not self._outlet.send(element):
                self._observer.count("reply_lost")

    def _ended(self, result: object, delivery: Delivery) -> None:
        if isinstance(result, Failure):
            self._log.failure("{id}: our own mistake", failure=result, id=delivery.id)
        del self._running[delivery.id]
        self._pending_bytes -= len(delivery.body)
        if len(self._running) <= CROWDED // 2:
            self._valve.resume()
        if self._drained is not None and not self._running:
            drained, self._drained = self._drained, None
            drained.callback(None)
