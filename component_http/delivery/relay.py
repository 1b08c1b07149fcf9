"""Accept stanzas, have them carried to the webhook in turn, send what comes back, and stop calmly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from types import MappingProxyType

from attrs import evolve
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from component_http.contract import conditions, reply
from component_http.contract.composing import Composed
from component_http.contract.delivery import Delivery
from component_http.contract.explanation import Explanation
from component_http.contract.idempotency import IdempotencyRecord
from component_http.contract.reply import Verdict
from component_http.contract.routes import Routes
from component_http.contract.stanza import Stanza
from component_http.delivery.acceptance import Acceptance
from component_http.delivery.admission import Admission, Refused, closed
from component_http.delivery.attempts import Attempts
from component_http.delivery.backlog import Backlog
from component_http.delivery.deadlines import Times
from component_http.delivery.drain import Drain
from component_http.delivery.endings import Endings
from component_http.delivery.expiry import Expiry
from component_http.delivery.explanations import Explanations
from component_http.delivery.forwarder import Forwarder, Later
from component_http.delivery.giving_up import GivingUp
from component_http.delivery.health import NoMore
from component_http.delivery.lanes import Lane
from component_http.delivery.life import ENDING, LEFT, OPEN, READY, STORING, Lives
from component_http.delivery.loops import Loops
from component_http.delivery.outbox import Outbox
from component_http.delivery.refusals import Refusals
from component_http.delivery.retry import Retry
from component_http.delivery.returning import Returning
from component_http.delivery.routing import Routing
from component_http.delivery.starts import RoutedStarts, Starts
from component_http.delivery.status import Status
from component_http.errors import DeliveryEnded, SpoolError
from component_http.interfaces import DeliverySpool, Observer, Outlet, Valve
from component_http.interfaces.tracer import Tracers
from component_http.log import Logger

NOT_READY_ABOVE = 0.8
"""How full the backlog is, as a part of its limits, when no more should be sent here."""

NO_ROUTES = Routes()

STOPPED = NoMore(conditions.STOPPING, "the gateway is stopping")


class Relay:
    """
    The owner of every delivery, from its acceptance to its end.

    A delivery waits in the backlog for its turn, makes an attempt, and either ends or backs off before the next one.
    Its deadline ends it in whatever state it is. `delivery.life` has the stages of this.

    Args:
        forwarder: Makes the attempts at the component's own webhook.
        spool: Keeps accepted deliveries.
        backlog: Whose turn it is, and how much there may be; empty.
        outlet: Where those are told that are refused.
        outbox: Where replies and errors of deliveries go; while it is crowded no attempt begins.
        valve: Where stanzas come from; closed while the backlog is crowded.
        observer: Told `accepted` or `restored`, then one of `replied`, `silent`, `bounced`, `expired`, `refused_reply`
            for each; or `refused_full`, `refused_conversation_full`, `refused_unfair`, `refused_gone`,
            `refused_stopping` or `refused_unstored` instead of `accepted`, and `refusals_untold` where its sender was
            not told; `reply_lost`, `spool_failed`.
        loops: Conversations of two programs that answer each other.
        clock: Runs the waits and deadlines.
        new_id: Makes delivery ids.
        wall: The wall clock, seconds since the epoch.
        times: How long deliveries may take.
        once: No delivery is POSTed twice, not even where a process ended before its answer was known.
        routes: Those that may take a stanza to another webhook.
        forwarders: Make the attempts at these, by the names of the routes.
        took: Told the seconds from the acceptance of each delivery to its end; None where nobody wants to know.
        tracers: Told which deliveries are accepted and restored, and how they end.

    Attributes:
        routing: The ways to the webhooks.
        times: As above.
        loops: To be told what is said to others beside the replies to deliveries.
    """

    _log = Logger()

    def __init__(
        self,
        forwarder: Forwarder,
        spool: DeliverySpool,
        backlog: Backlog,
        outlet: Outlet,
        outbox: Outbox,
        valve: Valve,
        observer: Observer,
        loops: Loops,
        *,
        clock: IReactorTime,
        new_id: Callable[[], str],
        wall: Callable[[], float],
        times: Times,
        once: bool = False,
        routes: Routes = NO_ROUTES,
        forwarders: Mapping[str, Forwarder] = MappingProxyType({}),
        took: Callable[[float], object] | None = None,
        tracers: Tracers | None = None,
    ) -> None:
        self._tracers = tracers = Tracers() if tracers is None else tracers
        self._spool = spool
        self._backlog = backlog
        self._clock = clock
        self._observer = observer
        self.loops = loops
        self.times = times
        self._deliveries = lives = Lives()
        self._expiry = Expiry(clock, self._expire)
        self._endings = Endings(
            lives, backlog, self._expiry, spool, outbox, loops, observer, clock, self._start, self._ended, tracers, took
        )
        self.routing = Routing(lives, backlog, spool, clock, self._start, forwarder, routes, forwarders)
        self._attempts = Attempts(
            lives,
            self.lanes,
            spool,
            self._endings,
            self._expiry,
            loops,
            times=times,
            clock=clock,
            wall=wall,
            once=once,
            attempted=self._attempted,
        )
        self._outbox = outbox
        self._starts = self._new_starts()
        self._drain = Drain(
            clock,
            under_way=self._under_way,
            outbox=outbox,
            hurry=spool.hurry,
            give_up=self._give_up_pending,
            over=self._stop,
        )
        self._giving_up = GivingUp(lives, self._endings, self._expiry, clock, once=once, when_left=self._drain.look)
        self._returning = Returning(backlog, times, clock, self._returned, self._start)
        self._explanations = Explanations(lives, backlog, self._returning, self.lanes, outbox, clock)
        self._acceptance = Acceptance(
            lives,
            Admission(backlog),
            spool,
            Refusals(outlet, observer, clock),
            valve,
            answers=lambda: self.routing.answers,
            closed=self._closed,
            new_delivery=lambda stanza, size: self._new_delivery(new_id(), stanza, size),
            heard=self._attempts.heard,
            take=self._accepted,
            when_not_stored=self._drain.look,
            failed=self._endings.failed,
        )
        self._see_no_more()

    # -- routes --

    @property
    def lanes(self) -> Mapping[str | None, Lane]:
        """The way to each webhook, by the names of the routes; None is the component's own."""
        return self.routing.lanes

    def _new_starts(self) -> Starts:
        lanes, deliveries = self.routing.lanes, self._deliveries
        if not self.routing:
            return Starts(self._backlog, lanes[None], self._outbox, self._clock, self._begin)
        return RoutedStarts(self._backlog, lanes, self._outbox, self._clock, self._begin, deliveries.get_known)

    def _new_delivery(self, delivery_id: str, stanza: Stanza, size: int) -> Delivery:
        delivery = self.times.begin(delivery_id, stanza, size, self._clock.seconds())
        delivery.route = self.routing.way(stanza)
        return delivery

    def use_routes(self, routes: Routes, forwarders: Mapping[str, Forwarder]) -> None:
        """Go by other routes from now on; see `Routing.use`."""
        self.routing.use(routes, forwarders)
        self._starts.forget()
        self._starts = self._new_starts()
        self.routing.find_lost()

    @property
    def is_stopping(self) -> bool:
        """A drain has begun."""
        return self._drain.begun

    @property
    def pending(self) -> int:
        """Deliveries accepted and not ended, with those that the spool keeps for the next start."""
        return len(self._deliveries) - len(self._deliveries.at("storing"))

    def status(self) -> Status:
        """The present state."""
        health, backlog = self.routing.health, self._backlog
        found = {
            "the gateway is stopping": self._drain.begun,
            "the webhook said that it is gone": health.gone is not None,
            "the webhook's certificate cannot be trusted": health.untrusted,
            "an operator has paused the webhook": self.routing.paused,
            "too many stanzas wait for the webhook": backlog.used > NOT_READY_ABOVE,
        }
        obstacles = [phrase for phrase, is_so in found.items() if is_so]
        if self._spool.trouble is not None:
            obstacles.append(self._spool.trouble)
        return Status(
            pending=self.pending,
            oldest=self._oldest(),
            pending_bytes=backlog.pending_bytes,
            running=len(self._deliveries.at("running")),
            webhook=health.state,
            obstacles=tuple(obstacles),
            failing_for=health.failing_for,
            last_failure=health.last_failure,
            next_attempt=None if math.isinf(wait := health.away()) else wait,
        )

    def _oldest(self) -> float | None:
        first = next(iter(self._deliveries), None)
        return None if first is None or first.accepted is None else self._clock.seconds() - first.accepted

    def explain(self, delivery_id: str) -> Explanation | None:
        """Say why a delivery has not ended; None if it is not stored yet, or not here."""
        return self._explanations.explain(delivery_id)

    # -- in --

    def accept(self, stanza: Stanza) -> None:
        """
        Take a stanza in charge, or refuse it visibly.

        An accepted stanza ends in one of the ways the observer counts; its replies leave through the outbox.
        """
        self._acceptance.accept(stanza)

    def _closed(self) -> Refused | None:
        if not self._drain.begun and self.routing.no_more is None:
            return None  # as nearly always
        return closed(stopping=self._drain.begun, gone=self.routing.health.gone)

    def restore(self, deliveries: Iterable[Delivery]) -> None:
        """
        Take in charge again what the spool has kept.

        Args:
            deliveries: As `Spool.restore` gives them; those that are pending are left alone, and all of them where the
                gateway is stopping, for the next start.
        """
        if self._drain.begun:
            return
        for delivery in deliveries:
            if delivery.id not in self._deliveries:
                self._take_restored(delivery)
                self._giving_up.end_restored(delivery)
        self._start()

    @property
    def room_to_return(self) -> int:
        """Deliveries that `take_back` may be given."""
        return self._returning.room

    def take_back(self, deliveries: Iterable[Delivery]) -> None:
        """
        Take in charge what somebody retries, as there is room beside what comes live.

        Args:
            deliveries: As `Spool.look` gives them; where the gateway is stopping the next start finds them.
        """
        self._returning.add(delivery for delivery in deliveries if delivery.id not in self._deliveries)

    def _take_restored(self, delivery: Delivery) -> None:
        self._take(delivery)
        self._observer.count("restored")
        if self._tracers.told is not None:
            self._tracers.told.accepted(delivery, restored=True)

    def _returned(self, delivery: Delivery) -> None:
        self._take_restored(delivery)
        if self._giving_up.begun:
            self._giving_up.end(delivery)

    def _accepted(self, delivery: Delivery) -> bool:
        """The spool has a delivery; returns whether it may go on."""
        self._take(delivery, reserved=delivery.stage is STORING)
        self._observer.count("accepted")
        if self._tracers.told is not None:
            self._tracers.told.accepted(delivery, restored=False)
        if self._giving_up.begun:
            self._giving_up.end(delivery)
            return False
        if not self._attempts.end_if_banned(delivery):
            self._start()
        return True

    def _take(self, delivery: Delivery, *, reserved: bool = False) -> None:
        if reserved:
            self._deliveries.move(delivery, READY)
        else:
            self._deliveries.begin(delivery, READY)
        self._backlog.add(delivery.id, delivery.conversation, delivery.size, reserved=reserved)
        self._expiry.add(delivery, delivery.stanza.kind, delivery.deadline)

    # -- attempts --

    def _start(self) -> None:
        self._starts.go()

    def _begin(self, delivery_id: str) -> bool:
        """A delivery's turn has come; returns False if it ends by that."""
        delivery = self._deliveries.get(delivery_id)
        assert delivery is not None
        return delivery.stage is not READY or self._attempts.begin(delivery)  # it may be ending

    def _attempted(self, delivery: Delivery, following: Verdict | Retry | Later, ban: float) -> None:
        """An attempt has ended, and the delivery has not."""
        self._see_no_more()
        if isinstance(following, Later):
            self._leave_open(delivery)
        elif not isinstance(following, Retry):
            if ban:
                self._attempts.ban(delivery, ban)
            self._endings.end(delivery, following)
            if ban:
                self._attempts.end_banned(self._backlog.waiting(delivery.conversation))
        elif self._giving_up.begun:
            self._giving_up.end(delivery)
        else:
            self._attempts.retry(delivery, following)
            self._start()

    def _leave_open(self, delivery: Delivery) -> None:
        """Wait for the answer to an iq that comes later; its deadline ends it, and nobody waits behind it."""
        self._spool.note(delivery)
        self._deliveries.move(delivery, OPEN)
        self._backlog.reserve(delivery.conversation, delivery.size)
        self._backlog.remove(delivery.id)
        if self._giving_up.begun:
            self._giving_up.end(delivery)
        self._acceptance.read_again()
        self._start()

    def adapt(self) -> None:
        """Go on with a webhook, or with settings, that its parts have been given."""
        self._acceptance.read_again()
        self._start()

    def wake(self) -> None:
        """Ask the webhook at once, whatever was to be waited for: somebody knows that it is back."""
        self._attempts.wake()
        self._start()

    def hold(self, seconds: float) -> None:
        """POST nothing more for so many seconds, infinite for until `wake`: an operator says so. What waits, waits."""
        for lane in self.lanes.values():
            lane.forwarder.health.hold(seconds)
        self._start()

    def oldest(self, most: int) -> list[tuple[Delivery, Explanation]]:
        """Say of those that are pending longest why they have not ended."""
        found = ((each, self.explain(each.id)) for each in self._deliveries)
        return list(islice(((each, why) for each, why in found if why is not None), most))

    # -- out --

    def drop(self, delivery_ids: Iterable[str]) -> None:
        """End deliveries, pending or in the spool only, and keep no dead letters; only who asked an iq is told."""
        for delivery_id in delivery_ids:
            self._returning.drop(delivery_id)
            delivery = self._deliveries.get(delivery_id)
            if delivery is None or delivery.stage is LEFT:
                self._spool.end(delivery_id, ()).addErrback(_forget_failure)
            else:
                verdict = reply.give_up(delivery.stanza, conditions.SERVICE_UNAVAILABLE, "dropped by the operator")
                stanzas = verdict.stanzas if delivery.stanza.is_request else ()
                self._endings.end(delivery, evolve(verdict, stanzas=stanzas), keep=False)

    def answer_late(
        self, delivery_id: str, composed: Composed, record: IdempotencyRecord | None = None
    ) -> Deferred[Sequence[int]]:
        """
        Answer an iq that is open, or under way.

        Args:
            delivery_id: The delivery of the iq.
            composed: The answer, and what else is to leave with it.
            record: To be remembered with it.

        Returns:
            Their numbers in the spool, when it has them. It fails with `DeliveryEnded` if there is no such iq any more.
        """
        delivery = self._deliveries.get(delivery_id)
        if delivery is None or not self._deliveries.may(delivery, ENDING):
            return fail(DeliveryEnded())
        numbers: Deferred[Sequence[int]] = Deferred()
        verdict = Verdict("replied", composed.stanzas, verbatim=composed.verbatim, xml=composed.xml)
        self._endings.end(delivery, verdict, record, told=numbers)
        return numbers

    def _expire(self, delivery_ids: list[str], now: float, are_all: bool) -> None:
        # None of these is to begin because another of them makes room.
        with self._starts.held_back():
            for delivery_id in delivery_ids:
                delivery = self._deliveries.get(delivery_id)
                if delivery is None or not self._deliveries.may(delivery, ENDING):
                    continue
                if delivery.ends > now:
                    self._expiry.add(delivery, "last", delivery.ends)  # The webhook has not seen it.
                else:
                    self._endings.end(delivery, self.lanes[delivery.route].forwarder.outcomes.expired(delivery))
        if are_all:
            self._start()

    def _ended(self) -> None:
        """There is room again."""
        self._acceptance.read_again()
        self._start()
        self._drain.look()

    # -- stop --

    async def drain(self, timeout: float) -> None:
        """
        Accept nothing more, let what is accepted end and its replies leave, and give up what has not ended by then.

        Args:
            timeout: Seconds to wait; what is left is answered with a wait error, or stays in a spool that is durable,
                but for iqs. A second drain can end the first one earlier, not later.
        """
        self._returning.stop()
        if self._under_way():
            self._log.info(
                "waiting at most {timeout} s for pending deliveries: {pending}", pending=self.pending, timeout=timeout
            )
        await self._drain.begin(timeout)

    def _under_way(self) -> int:
        return len(self._deliveries) - len(self._deliveries.at("left"))

    def _give_up_pending(self) -> None:
        """Stop: the drain has ended."""
        if self._spool.durable:
            self._log.info("deliveries that stay in the spool, iqs excepted: {pending}", pending=self.pending)
        else:
            self._log.warn("deliveries given up because the gateway is stopping: {pending}", pending=self.pending)
        self._starts.stop()
        self._giving_up.begin(STOPPED, cut_off=True, leave=self._spool.durable)

    def _see_no_more(self) -> None:
        """Begin nothing more if there is no webhook, or it is gone; attempts under way may still end."""
        no_more = self.routing.no_more
        if no_more is not None and not self._giving_up.begun:
            self._starts.stop()
            self._giving_up.begin(no_more)

    def _stop(self) -> None:
        """All is over."""
        self._expiry.stop()
        self._starts.forget()
        self.routing.stop()
        self._acceptance.open_valve()


def _forget_failure(failure: Failure) -> None:
    """Ignore that the spool could not drop a delivery: it stays there, and the operator sees it."""
    failure.trap(SpoolError)
