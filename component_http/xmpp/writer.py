"""Writes stanzas over one connection after the other: checked, in order, until the server is known to have them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.words.xish.domish import Element

from component_http.contract.outbound import Fate, OutboundStanza, Refused
from component_http.contract.outgoing import delayed
from component_http.contract.xml import Limits
from component_http.interfaces import Observer
from component_http.log import Logger
from component_http.throttle import LOG_INTERVAL, Throttle
from component_http.xmpp.barrier import Barrier
from component_http.xmpp.connection import Connection, cancel_after
from component_http.xmpp.outgoing_check import OutgoingCheck
from component_http.xmpp.own_stanzas import OwnStanzas
from component_http.xmpp.write_queue import Loss, Tell, WriteQueue

CONFIRM_TIMEOUT = 2.0
"""Seconds that `when_sent` gives the server to confirm what was written."""

LATE = 30.0
"""Seconds after which a stanza says when it was made (XEP-0203)."""

CROWDED = "much waits for a stream, or for a server that does not read: reading and POSTs pause until less does"
FULL = "dropping what is sent: too much waits for a stream, or for a server that does not read"


class Writer:
    """
    Writes stanzas as soon as there is a stream and its transport takes them; until then they wait in one queue.

    A stanza that a handler sends is kept here until the server has it; another's owner is told its fate.

    Args:
        crowd: Called with True when it begins to be crowded, with False when it is not any more.
        dead: Called with the reason when the server is not there any more.
        took: Told the seconds from the writing of each stanza until a barrier confirms it; None where nobody asks.

    The others are those of `ComponentStream`.
    """

    _log = Logger()

    def __init__(
        self,
        domain: str,
        limits: Limits,
        observer: Observer,
        *,
        clock: IReactorTime,
        now: Callable[[], float],
        crowd: Callable[[bool], object],
        dead: Callable[[str], None],
        sent: Callable[[OutboundStanza], object],
        max_waiting: int,
        most_unconfirmed: int,
        confirm: bool,
        fallback: str | None,
        lifetimes: Mapping[str, float],
        took: Callable[[float], object] | None = None,
    ) -> None:
        self._domain = domain
        self._limits = limits
        self._observer = observer
        self._clock = clock
        self._now = now
        self._tell_crowd = crowd
        self._connection: Connection | None = None
        self._throttle = Throttle(LOG_INTERVAL)
        self._check = OutgoingCheck(domain, limits, observer, sent, clock.seconds, lifetimes)
        self.queue = WriteQueue(observer, max_waiting, most_unconfirmed)
        self.barrier = Barrier(
            domain,
            self.queue,
            self,
            dead=dead,
            observer=observer,
            clock=clock,
            on=confirm,
            fallback=fallback,
        )
        self._own = OwnStanzas()
        self._took = took

    # -- what is sent --

    def send(self, obj: Any) -> bool:
        """Send an element, or XML text of some, that nobody else keeps; False if one was not taken."""
        taken = [self._send_own(outbound) for outbound in self._check.passed(obj)]
        return bool(taken) and all(taken)

    def depart(self, outbound: OutboundStanza, tell: Tell) -> bool:
        """See `component_http.interfaces.Outlet.depart`."""
        if not self._pass_on(outbound, tell):
            return False
        self._check.sent(outbound)
        return True

    @property
    def on_trial(self) -> bool:
        """Nothing is written until the server, which returns barriers, returns the next."""
        return self.barrier.working and self.queue.on_trial

    def _pass_on(self, outbound: OutboundStanza, tell: Tell) -> bool:
        connection = self._connection
        if connection is None or not connection.ready or connection.held or self.queue or self._on_trial(outbound):
            kept = self._queue_up(outbound, tell)
            if self.queue.on_trial:
                self.barrier.wrote()
            return kept
        self._write(connection, outbound, tell)
        self.barrier.wrote()
        return True

    def _on_trial(self, outbound: OutboundStanza) -> bool:
        """A suspect has to wait for a barrier, of a server that returns them."""
        return self.barrier.working and not self.queue.may_write(outbound)

    def _queue_up(self, outbound: OutboundStanza, tell: Tell, *, again: bool = False) -> bool:
        was_crowded = self.queue.crowded
        if not self.queue.add(outbound, tell, again=again):
            self._observer.count("outgoing_full")
            self._warn_now_and_then(FULL)
            return False
        if self.queue.crowded and not was_crowded:
            self._warn_now_and_then(CROWDED)
            self._tell_crowd(True)
        return True

    def _warn_now_and_then(self, complaint: str) -> None:
        """Log what is wrong with what waits; with a slow server crowds come and go all the time."""
        if self._throttle.may_tell(complaint, self._clock.seconds()):
            self._log.warn("{domain}: {complaint}", domain=self._domain, complaint=complaint)

    def _write(self, connection: Connection, outbound: OutboundStanza, tell: Tell) -> None:
        xml = outbound.xml
        if not outbound.verbatim and outbound.kind != "iq":
            age = self._clock.seconds() - outbound.stored
            if age > LATE:
                stamp = datetime.fromtimestamp(self._now() - age, UTC)
                xml = delayed(xml, self._domain, stamp, self._limits.max_bytes)
        connection.write(xml)
        if not self.barrier.working:
            tell("confirmed")
        elif self._took is None or not outbound.again:
            self.queue.note(outbound, tell)
        else:
            self.queue.note(outbound, partial(self._timed, self._took, self._clock.seconds(), tell))

    def _timed(self, took: Callable[[float], object], since: float, tell: Tell, fate: Fate) -> None:
        if fate == "confirmed" and self.barrier.working:  # else nobody knows
            took(self._clock.seconds() - since)
        tell(fate)

    def write_now(self, xml: str) -> None:
        """Write a barrier."""
        if self._connection is not None and self._connection.ready:
            self._connection.write(xml.encode())

    # -- what handlers have sent --

    def _send_own(self, outbound: OutboundStanza) -> bool:
        number = self._own.keep(outbound)
        # What waits has limits of its own.
        for _ in range(self._own.make_room(len(self.queue), self.queue.waiting_bytes)):
            self._observer.count("unconfirmed_forgotten")
        taken = self._pass_on(outbound, partial(self._own_ended, number))
        if not taken:
            self._own.let_go(number)
        return taken

    def _own_ended(self, number: int, fate: Fate) -> None:
        outbound = self._own.let_go(number)
        if outbound is None:
            return  # it was forgotten
        if isinstance(fate, Refused):
            self._observer.count("outgoing_refused")
            self._log.error(
                "{domain}: the server closes the stream over a stanza of {size} bytes, which is dropped: {reason};"
                " {remedy}",
                domain=self._domain,
                size=len(outbound.xml),
                reason=fate.reason,
                remedy=fate.remedy,
            )
        elif fate in ("lost", "suspected"):
            if fate == "suspected":
                outbound = evolve(outbound, suspect=True)
            self._queue_up(outbound, partial(self._own_ended, self._own.keep(outbound)), again=True)
        elif fate == "stopped":
            self._observer.count("outgoing_lost")

    # -- the stream --

    def connected(self, connection: Connection, first: Iterable[Element | OutboundStanza]) -> None:
        """A stream is ready: write what comes first on each, as far as it may be sent, then what waits."""
        self._connection = connection
        if self.queue:
            self._log.info("sending the stanzas that waited for the stream: {count}", count=len(self.queue))
        self.barrier.connected()
        for each in first:
            if isinstance(each, OutboundStanza):
                self._check.sent(each)
                connection.write(each.xml)
            else:
                for outbound in self._check.passed(each):
                    connection.write(outbound.xml)
        self.drain()

    def lost(self, why: Refused | None, *, certain: bool, for_good: bool) -> Loss:
        """The stream is gone (see `WriteQueue.lost`); if there is no next one, what waits is given up."""
        self._connection = None
        self.barrier.lost()
        if for_good:
            self.stop()
            return Loss(0)
        loss = self.queue.lost(why, certain=certain)
        if loss.suspected:
            self._log.warn(
                "{domain}: the server may have closed the stream because of a stanza, so the unconfirmed ones will be"
                " written again one by one: {count}",
                domain=self._domain,
                count=loss.again,
            )
        elif loss.again:
            self._log.info("writing stanzas again that the server may not have: {count}", count=loss.again)
        return loss

    def drain(self) -> None:
        """
        Write what waits as far as the transport takes it; if we leave, close after the last.

        A transport takes 64 KiB before it holds us, and TLS some 64,000 bytes more, so nobody else waits for long.
        """
        connection = self._connection
        if connection is None or not connection.ready:
            return
        now = self._clock.seconds()
        while self.queue and not connection.held and not self.on_trial:
            taken = self.queue.take(now)
            if taken is not None:
                self._write(connection, *taken)
        self.barrier.wrote()
        was_crowded = self.queue.crowded
        self.queue.settle()  # whoever is told may send, or stop us
        if was_crowded and not self.queue.crowded:
            self._tell_crowd(False)
        if connection.leaving and not self.queue:
            connection.close()

    def confirmed(self) -> None:
        """Write what waited for a barrier that has returned."""
        self.drain()
        self.queue.settle()

    def give_back(self) -> None:
        """See `component_http.interfaces.Outlet.give_back`."""
        self.queue.give_back()
        self.queue.settle()

    def stop(self) -> None:
        """Give up what waits."""
        kept = len(self._own)
        self.queue.drop()
        lost = kept - len(self._own)
        self._own.clear()
        if lost:
            self._log.warn("stanzas lost at the stop, because they still waited to be sent: {count}", count=lost)
        self.queue.settle()

    def when_sent(self) -> Deferred[None]:
        """See `component_http.interfaces.Outlet.when_sent`; it fires when the stream is stopped, too."""
        sent = self.queue.when_sent()
        if not sent.called:
            self.barrier.wrote()
            self._be_patient(sent)
        return sent

    def _be_patient(self, sent: Deferred[None]) -> None:
        patience = self._clock.callLater(CONFIRM_TIMEOUT, self._excuse, self.queue.written, sent)
        sent.addBoth(cancel_after, patience)

    def _excuse(self, written: int, sent: Deferred[None]) -> None:
        """Nobody waits any longer to hear of what was written by then; of what was not, as long as need be."""
        self.queue.excuse(written)
        self.queue.settle()
        if not sent.called:
            self._be_patient(sent)
