"""Begin the attempt of a delivery whose turn it is, let it wait, or end it because there is no time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from component_http.contract import reply
from component_http.contract.delivery import Delivery
from component_http.contract.reply import Verdict
from component_http.contract.request import delayed_body
from component_http.contract.stanza import Stanza
from component_http.delivery.bans import Bans
from component_http.delivery.deadlines import Times
from component_http.delivery.endings import Endings
from component_http.delivery.expiry import Expiry
from component_http.delivery.forwarder import Later
from component_http.delivery.lanes import Lane
from component_http.delivery.life import ENDING, Attempt, Lives
from component_http.delivery.loops import Loops
from component_http.delivery.retry import Retry
from component_http.delivery.slices import by_slices
from component_http.errors import SpoolError
from component_http.interfaces import DeliverySpool
from component_http.waiters import follow

SPOOL_BACK_OFF = 5.0
"""Seconds for which a delivery backs off whose request body the spool could not read."""


@define(eq=False)
class Attempts:
    """
    Makes the attempts of deliveries.

    Args:
        deliveries: At which stage each of them is.
        lanes: Make one attempt each, by route, and let a delivery wait that may not be POSTed yet.
        spool: Has the request bodies.
        endings: Ends a delivery whose deadline has come.
        expiry: Knows the deadlines.
        loops: Knows whether it has to wait because its conversation is a loop.
        times: How long deliveries may take.
        clock: The reactor's clock.
        wall: The wall clock, seconds since the epoch.
        once: The spool has to know of a POST before it is made.
        attempted: Called with a delivery that has not ended meanwhile, what follows its attempt, and the ban.
    """

    _deliveries: Lives
    _lanes: Mapping[str | None, Lane]
    _spool: DeliverySpool
    _endings: Endings
    _expiry: Expiry
    _loops: Loops
    _times: Times
    _clock: IReactorTime
    _wall: Callable[[], float]
    _once: bool
    _attempted: Callable[[Delivery, Verdict | Retry | Later, float], object]
    _bans: Bans = field(init=False, factory=Bans)

    def begin(self, delivery: Delivery) -> bool:
        """Begin an attempt, or back off; or end the delivery and return False, because it cannot be done in time."""
        now, lane = self._clock.seconds(), self._lanes[delivery.route]
        forwarder = lane.forwarder
        no_more = forwarder.health.no_more
        if no_more is not None:
            self._endings.end(delivery, reply.give_up(delivery.stanza, no_more.error, no_more.note))
            return False
        ban = self._bans.of(delivery.conversation, now)
        if ban is not None:
            if self.end_if_banned(delivery):
                return False
            lane.back_offs.begin(delivery, ban.until - now, "asleep")
            return True
        if delivery.ends <= now:
            self._endings.end(delivery, forwarder.outcomes.expired(delivery))
            return False
        hold = self._loops.hold(delivery)
        if hold:
            lane.back_offs.begin(delivery, hold, "held")
            return True
        late = False
        if self._times.needs_more(delivery, now):
            late = self._times.is_late(delivery, now)
            self._times.give_more(delivery, now)
            self._expiry.remove(delivery)
            self._expiry.add(delivery, "late", delivery.deadline)
        attempt = forwarder.begin(delivery, self._over)
        self._deliveries.move(delivery, attempt)
        if late or self._once:
            body = Deferred.fromCoroutine(self._body(delivery, late=late))
        else:
            body = self._spool.body(delivery.id)
        if not self._once:
            self._spool.note(delivery)
        attempt.waits_for = body
        follow(body, forwarder.post, forwarder.no_body, forwarder.broken, attempt)
        return True

    def heard(self, stanza: Stanza, delivery_id: str) -> None:
        """Let the loop brake know what comes; a conversation that turns out to be no loop is held no longer."""
        if self._loops.heard(stanza, delivery_id):
            for lane in self._lanes.values():
                lane.back_offs.let_go(stanza.conversation)

    def retry(self, delivery: Delivery, retry: Retry) -> None:
        """Let a delivery back off before its next attempt."""
        self._spool.note(delivery)
        self._lanes[delivery.route].back_offs.begin(delivery, retry.seconds, "asleep" if retry.firm else "backing_off")

    def ban(self, delivery: Delivery, seconds: float) -> None:
        """Leave a conversation alone for as long as the webhook has asked for in answer to a delivery that ends now."""
        self._bans.add(delivery, self._clock.seconds() + seconds)

    def end_banned(self, delivery_ids: Iterable[str]) -> None:
        """Of some deliveries of one conversation, give up those that have to end before it may be POSTed again."""
        pending = [self._deliveries.get(delivery_id) for delivery_id in delivery_ids]
        by_slices(self._clock, [each for each in pending if each is not None], self.end_if_banned)

    def wake(self) -> None:
        """Leave nobody alone, and let nobody sleep: somebody knows that the webhook is back."""
        self._bans.clear()
        for lane in self._lanes.values():
            lane.forwarder.health.ask_now()
            lane.back_offs.wake()

    def end_if_banned(self, delivery: Delivery) -> bool:
        """Give a delivery up whose deadline is before the time from which the webhook wants its conversation again."""
        ban = self._bans.of(delivery.conversation, self._clock.seconds())
        if ban is None or delivery.deadline > ban.until:
            return False
        if self._deliveries.may(delivery, ENDING):
            delivery.failure = ban.response
            self._endings.end(delivery, self._lanes[delivery.route].forwarder.outcomes.expired(delivery))
        return True

    async def _body(self, delivery: Delivery, *, late: bool) -> bytes:
        """
        The request body, when the spool knows what has to be known before the POST.

        Args:
            delivery: The delivery to be POSTed.
            late: The time of its acceptance is put into the body, and the spool has that from now on.
        """
        body = await self._spool.body(delivery.id)
        if late and delivery.accepted is not None:
            delayed = delayed_body(body, self._wall() - (self._clock.seconds() - delivery.accepted))
            try:
                await self._spool.amend(delivery.id, delayed)
            except SpoolError:
                pass  # The bytes have to be the same on every attempt, also after a restart.
            else:
                body = delayed
        if self._once:
            await self._spool.begun(delivery)
        return body

    def _over(self, attempt: Attempt, following: Verdict | Retry | Later | Failure, ban: float) -> None:
        delivery = attempt.delivery
        if delivery.stage is not attempt:
            return  # it was ended meanwhile, and this is what is left of a cancelled attempt
        try:
            if not isinstance(following, Failure):
                self._attempted(delivery, following, ban)
            elif following.check(SpoolError):
                self._endings.spool_failed(following, "it cannot read what is to be POSTed, so that waits")
                self._attempted(delivery, Retry(SPOOL_BACK_OFF, counted=False), 0.0)
            else:
                self._endings.failed(following, delivery)
        except Exception:
            self._endings.failed(Failure(), delivery)
