"""Accept stanzas, have them carried to the webhook in turn, send what comes back, and stop calmly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from attrs import evolve, frozen
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.words.xish.domish import Element

from component_http.contract import conditions, reply
from component_http.contract.composing import Composed
from component_http.contract.delivery import DeadLetter, Delivery
from component_http.contract.idempotency import IdempotencyRecord
from component_http.contract.outbound import OutboundStanza
from component_http.contract.reply import Response, Verdict
from component_http.contract.request import delayed_body, request_body
from component_http.contract.stanza import Stanza
from component_http.delivery.backlog import Backlog, Conversation
from component_http.delivery.deadlines import Deadlines
from component_http.delivery.forwarder import Attempted, Forwarder, Later
from component_http.delivery.loop_brake import LoopBrake
from component_http.delivery.loop_guard import LoopGuard
from component_http.delivery.outbox import Outbox
from component_http.delivery.retry import Retry
from component_http.errors import DeliveryEnded, SpoolError, WebhookError
from component_http.interfaces import Observer, Outlet, Spool, Valve
from component_http.throttle import LOG_INTERVAL, Throttle

__all__ = ["LATE_SECONDS", "Relay", "Status"]

REFUSALS = {
    "refused_full": "max_pending or max_pending_bytes is reached",
    "refused_conversation_full": "max_per_conversation is reached",
    "refused_unfair": "there is little room, and one sender holds more than fair_share_percent of it, or one domain"
    " all but that",
    "refused_gone": "the webhook is gone",
    "refused_stopping": "the gateway is stopping",
    "refused_unstored": "the spool cannot keep them",
}
"""Why a stanza is refused, in words for the log."""

TOO_SLOW = "it does not keep up with what comes"
"""Why the spool cannot keep a stanza, where it is not its file that says so."""

REFUSAL_INTERVAL = 1.0
"""Seconds between two errors to one sender because of these; an iq is always answered."""

NOT_READY_ABOVE = 0.8
"""How full the backlog is, as a part of its limits, when no more should be sent here."""

MAX_RESTS = 10_000
"""Conversations that are known to want a rest beyond the delivery that was told so; the oldest are forgotten."""

SPOOL_REST = 5.0
"""Seconds that a delivery rests whose request body the spool could not read."""

MAX_STORING_BYTES = 16 * 1024 * 1024
"""Bytes of request bodies that wait to be stored, in memory, beyond which no more are accepted."""

PAUSE_STORING = 1000
PAUSE_STORING_BYTES = 4 * 1024 * 1024
"""Deliveries that wait to be stored, and their bytes, above which reading pauses until all of them are."""

MAX_RETURNING = 500
"""Deliveries that somebody retries and that wait, in memory, until there is room to spare; more wait in the spool."""

RETURN_INTERVAL = 0.1
"""Seconds between two looks whether there is."""

MAX_LETTER_BYTES = 64 * 1024
"""Bytes of a response that are kept in a dead letter: enough to see what was wrong with it."""

FLUSH = 1.0
"""Seconds that what is answered at the very end of a drain has to leave, and to be confirmed."""

SLICE = 100
"""Deliveries that end at once; after that others get a turn."""

LATE_SECONDS = 60.0
"""Seconds that a message gets for its attempts which the webhook has not seen when its time is over, or nearly."""


@frozen
class _Rest:
    """
    The wait of a delivery for its next attempt.

    Attributes:
        call: Ends it.
        awakenings: Those of the forwarder when it began.
    """

    call: IDelayedCall
    awakenings: int


@frozen
class _Ban:
    """
    The webhook wants nothing of a conversation for a while.

    Attributes:
        until: When it may be asked again.
        response: How it said so.
    """

    until: float
    response: Response | WebhookError | None


@frozen
class Status:
    """
    How things stand.

    Attributes:
        pending: Deliveries accepted and not ended.
        pending_bytes: Bytes of their request bodies.
        running: Those of them with a POST under way.
        webhook: `closed`: it is asked as usual. `open`: it failed, so deliveries wait. `half_open`: some of them
            probe it. `gone`: it said 410 and is not asked any more. `none`: there is none.
        obstacles: Why no more should be sent here now, a phrase each; none means that all is well.
        failing_for: Seconds for which nothing but failures came from the webhook; None while it is well.
        last_failure: Why the last attempt that failed did; None if none did.
        next_attempt: Seconds until the webhook may be asked, 0.0 for now; None while that depends on what is under way.
    """

    pending: int
    pending_bytes: int
    running: int
    webhook: str
    obstacles: tuple[str, ...]
    failing_for: float | None = None
    last_failure: str | None = None
    next_attempt: float | None = None


class Relay:
    """
    The owner of every delivery, from its acceptance to its end.

    A delivery waits in the backlog for its turn, makes an attempt, and either ends or rests before the next one. Its
    deadline ends it in whatever state it is.

    Args:
        forwarder: Makes one attempt at a time.
        spool: Keeps accepted deliveries.
        backlog: Whose turn it is, and how much there may be; empty.
        outlet: Where those are told that are refused.
        outbox: Where replies and errors of deliveries go; while it is crowded no attempt begins.
        valve: Where stanzas come from; closed while the backlog is crowded.
        observer: Told `accepted` or `restored`, then one of `replied`, `silent`, `bounced`, `expired`, `refused_reply`
            for each; or `refused_full`, `refused_conversation_full`, `refused_unfair`, `refused_gone`,
            `refused_stopping` or `refused_unstored` instead of `accepted`, and `refusals_untold` where its sender was
            not told; `loop_guarded`, `loop_slowed`, `reply_lost`, `spool_failed`.
        clock: Runs the waits and deadlines.
        new_id: Makes delivery ids.
        wall: The wall clock, seconds since the epoch.
        deadlines: Seconds a delivery may take, by the kind of its stanza.
        grace: Seconds since its acceptance for which a message waits that the webhook could not be asked about before
            its deadline; 0.0: no longer than that.
        late_seconds: As `LATE_SECONDS`.
        loop_guard: Ends the talk of two bots; None for none.
        loop_brake: Slows the talk of two bots down; None for none.
        has_webhook: False where there is none, so that what the spool has kept is given up.
        once: No delivery is POSTed twice, not even where a process ended before its answer was known.
    """

    _log = Logger()

    def __init__(
        self,
        forwarder: Forwarder,
        spool: Spool,
        backlog: Backlog,
        outlet: Outlet,
        outbox: Outbox,
        valve: Valve,
        observer: Observer,
        *,
        clock: IReactorTime,
        new_id: Callable[[], str],
        wall: Callable[[], float],
        deadlines: Mapping[str, float],
        grace: float = 0.0,
        late_seconds: float = LATE_SECONDS,
        loop_guard: LoopGuard | None,
        loop_brake: LoopBrake | None = None,
        has_webhook: bool = True,
        once: bool = False,
    ) -> None:
        self._forwarder = forwarder
        self._spool = spool
        self._backlog = backlog
        self._outlet = outlet
        self._outbox = outbox
        self._valve = valve
        self._observer = observer
        self._clock = clock
        self._new_id = new_id
        self._wall = wall
        self._seconds = deadlines
        self._grace = grace
        self._late_seconds = late_seconds
        self._loop_guard = loop_guard
        self._once = once
        self._loop_brake = loop_brake
        self._has_webhook = has_webhook
        self._throttle = Throttle(REFUSAL_INTERVAL)
        self._log_throttle = Throttle(LOG_INTERVAL)
        # What is to be pending, and its bytes in all; the backlog reserves room for it.
        self._storing: set[str] = set()
        self._storing_bytes = 0
        self._much_to_store = False
        # What somebody retries, until there is room to spare.
        self._returning: dict[str, Delivery] = {}
        # What is pending, by delivery id; then what each of them is at, where it is not just waiting for its turn.
        self._deliveries: dict[str, Delivery] = {}
        self._ending: set[str] = set()
        self._deadlines = Deadlines()
        self._attempts: dict[str, Deferred[None]] = {}
        # Those that rest, oldest first; apart from them those that must not be woken, for the webhook has asked for it.
        self._resting: dict[str, _Rest] = {}
        self._sleeping: dict[str, _Rest] = {}
        self._open: set[str] = set()
        self._bans: dict[Conversation, _Ban] = {}
        self._held: dict[Conversation, str] = {}
        # The timers of the relay itself, and what it waits for.
        self._next_deadline: IDelayedCall | None = None
        self._next_start: IDelayedCall | None = None
        self._next_return: IDelayedCall | None = None
        self._clear: Deferred[None] | None = None
        self._starting = False
        self._stopping = False
        self._given_up: tuple[conditions.StanzaError, str] | None = None
        if not has_webhook:
            self._given_up = conditions.SERVICE_UNAVAILABLE, "there is no webhook"
        self._leaving = False
        self._end_of_drain: IDelayedCall | None = None
        self._drain_is_over = False
        self._sent: Deferred[None] | None = None
        self._drained: list[Deferred[None]] = []

    @property
    def pending(self) -> int:
        """Deliveries accepted and not ended."""
        return self._backlog.pending + len(self._open)

    def status(self) -> Status:
        """How things stand now."""
        forwarder, backlog = self._forwarder, self._backlog
        found = {
            "the gateway is stopping": self._stopping,
            "the webhook said that it is gone": forwarder.gone is not None,
            "the webhook's certificate cannot be trusted": forwarder.untrusted,
            "too many stanzas wait for the webhook": backlog.used > NOT_READY_ABOVE,
        }
        obstacles = [phrase for phrase, is_so in found.items() if is_so]
        if self._spool.trouble is not None:
            obstacles.append(self._spool.trouble)
        return Status(
            pending=self.pending,
            pending_bytes=backlog.pending_bytes,
            running=len(self._attempts),
            webhook="none" if not self._has_webhook else "gone" if forwarder.gone else forwarder.breaker_state,
            obstacles=tuple(obstacles),
            failing_for=None if forwarder.failing_since is None else self._clock.seconds() - forwarder.failing_since,
            last_failure=forwarder.last_failure,
            next_attempt=None if math.isinf(wait := forwarder.away()) else wait,
        )

    # -- in --

    def accept(self, stanza: Stanza) -> None:
        """
        Take a stanza in charge, or refuse it visibly.

        An accepted stanza ends in one of the ways the observer counts; its replies leave through the outlet.
        """
        if self._stopping:
            self._refuse(stanza, conditions.STOPPING, "refused_stopping")
        elif self._forwarder.gone is not None:
            self._refuse(stanza, self._forwarder.gone, "refused_gone")
        else:
            conversation = stanza.conversation
            # It is asked first without the size, because a body that is refused need not be written.
            refusal = self._backlog.refusal(conversation, 0)
            if refusal is None:
                body = request_body(stanza)
                refusal = self._backlog.refusal(conversation, len(body))
            if refusal is not None:
                self._refuse(stanza, conditions.FULL, refusal)
            elif self._storing_bytes + len(body) > MAX_STORING_BYTES and self._storing:
                self._refuse(stanza, conditions.FULL, "refused_unstored", TOO_SLOW)
            else:
                self._store(stanza, body)

    def restore(self, deliveries: Iterable[Delivery]) -> None:
        """
        Take in charge again what the spool has kept.

        Args:
            deliveries: As `Spool.restore` gives them; those that are pending are left alone, and all of them where the
                gateway is stopping, for the next start.
        """
        if self._stopping:
            return
        for delivery in deliveries:
            if delivery.id in self._deliveries or delivery.id in self._storing:
                continue
            self._take(delivery)
            self._observer.count("restored")
            if self._once and delivery.tries:
                self._end(delivery, _cut_off(delivery))
            elif self._given_up is not None:
                self._give_up(delivery)
        self._watch_deadlines()
        self._start()

    @property
    def room_to_return(self) -> int:
        """Deliveries that `take_back` may be given."""
        return 0 if self._stopping else MAX_RETURNING - len(self._returning)

    def take_back(self, deliveries: Iterable[Delivery]) -> None:
        """
        Take in charge what somebody retries, as there is room beside what comes live.

        Args:
            deliveries: As `Spool.look` gives them; where the gateway is stopping the next start finds them.
        """
        for delivery in deliveries:
            if delivery.id not in self._deliveries and delivery.id not in self._storing:
                self._returning[delivery.id] = delivery
        if self._returning and self._next_return is None and not self._stopping:
            self._let_back_in()

    def _let_back_in(self) -> None:
        self._next_return = None
        now = self._clock.seconds()
        for delivery in list(self._returning.values()):
            if self._backlog.has_room_to_spare(delivery.conversation):
                del self._returning[delivery.id]
                delivery.deadline = now + self._seconds[delivery.stanza.kind]
                delivery.last = max(delivery.last, delivery.deadline)
                self._take(delivery)
                self._observer.count("restored")
                if self._given_up is not None:
                    self._give_up(delivery)
        if self._returning and not self._stopping:
            self._next_return = self._clock.callLater(RETURN_INTERVAL, self._let_back_in)
        self._watch_deadlines()
        self._start()

    def _store(self, stanza: Stanza, body: bytes) -> None:
        now = self._clock.seconds()
        deadline = now + self._seconds[stanza.kind]
        last = now + self._grace if stanza.kind == "message" else deadline
        delivery = Delivery(self._new_id(), stanza.facts(), len(body), deadline, last=last, accepted=now)
        self._listen(stanza, delivery.id)
        self._storing.add(delivery.id)
        self._storing_bytes += delivery.size
        self._backlog.reserve(delivery.conversation, delivery.size)
        if len(self._storing) > PAUSE_STORING or self._storing_bytes > PAUSE_STORING_BYTES:
            self._much_to_store = True
            self._valve.pause()
        stored = self._spool.store(delivery, body)
        stored.addCallbacks(self._stored, self._not_stored, callbackArgs=(delivery,), errbackArgs=(delivery,))
        stored.addErrback(self._failed_inside, delivery)

    def _store_no_longer(self, delivery: Delivery) -> None:
        self._storing.discard(delivery.id)
        self._storing_bytes -= delivery.size

    def _stored(self, _: None, delivery: Delivery) -> None:
        self._store_no_longer(delivery)
        self._take(delivery, reserved=True)
        self._observer.count("accepted")
        if self._given_up is not None:
            self._give_up(delivery)
            return
        if not self._give_up_if_banned(delivery):
            self._watch_deadlines()
            self._start()
        # While the webhook answers, what is held back now gets in later; else it should be told that there is no room.
        if self._backlog.crowded and not self._forwarder.away():
            self._valve.pause()
        elif self._much_to_store and not self._storing:
            self._much_to_store = False
            self._read_again()

    def _read_again(self) -> None:
        if self._backlog.relieved and not self._much_to_store:
            self._valve.resume()

    def _take(self, delivery: Delivery, *, reserved: bool = False) -> None:
        self._deliveries[delivery.id] = delivery
        self._backlog.add(delivery.id, delivery.conversation, delivery.size, reserved=reserved)
        self._deadlines.add(delivery.id, delivery.stanza.kind, delivery.deadline)

    def _not_stored(self, failure: Failure, delivery: Delivery) -> None:
        self._store_no_longer(delivery)
        self._backlog.release(delivery.conversation, delivery.size)
        if failure.check(SpoolError):
            self._refuse(delivery.stanza, conditions.FULL, "refused_unstored", failure.getErrorMessage())
        else:
            self._log_internal_error(failure, delivery)
            self._refuse(delivery.stanza, conditions.INTERNAL, "refused_unstored")
        if not self._storing:
            self._much_to_store = False
        self._look_whether_drained()

    def _refuse(self, stanza: Stanza, error: conditions.StanzaError, event: str, why: str = "") -> None:
        self._observer.count(event)
        now = self._clock.seconds()
        if self._log_throttle.may_tell(event, now):
            self._log.warn("refusing stanzas: {reason}", reason=": ".join(filter(None, (REFUSALS[event], why))))
        sender = stanza.conversation[0]
        if stanza.is_request or (stanza.bounceable and self._throttle.may_tell(sender, now)):
            self._send(conditions.error_stanza(stanza, error))
        else:
            self._observer.count("refusals_untold")

    # -- attempts --

    def _start(self) -> None:
        """Begin as many attempts as may begin now."""
        # What begins may end at once and call this again: a loop, because a long queue would nest too deep.
        if self._starting:
            return
        self._starting = True
        ended = 0
        try:
            while self._may_start():
                if ended == SLICE:
                    self._next_start = self._not_later(self._next_start, 0.0, self._start_after_wait)
                    break
                delivery_id = self._backlog.next(self._forwarder.places)
                if delivery_id is None:
                    if not self._wake_one():
                        break
                elif delivery_id not in self._ending:
                    ended += not self._attempt(self._deliveries[delivery_id])
        finally:
            self._starting = False

    def _may_start(self) -> bool:
        if self._given_up is not None or not self._backlog.pending:
            return False
        if self._outbox.crowded:
            if self._clear is None:
                self._clear = self._outbox.when_clear()
                self._clear.addCallbacks(self._cleared, _forget)
            return False
        wait = self._forwarder.wait()
        if wait:
            self._next_start = self._not_later(self._next_start, wait, self._start_after_wait)
        return not wait

    def _cleared(self, _: None) -> None:
        self._clear = None
        self._start()

    def _start_after_wait(self) -> None:
        self._next_start = None
        self._start()

    def _attempt(self, delivery: Delivery) -> bool:
        """Begin an attempt, or rest; or end the delivery and return False, because it cannot be done in time."""
        now = self._clock.seconds()
        if self._give_up_if_banned(delivery):
            return False
        ban = self._bans.get(delivery.conversation)
        if ban is not None:
            self._rest(delivery, ban.until - now, firm=True)
            return True
        if delivery.ends <= now:
            self._end(delivery, self._forwarder.expire(delivery))
            return False
        hold = self._hold_of(delivery)
        if hold:
            self._rest(delivery, hold, firm=True)
            return True
        late = False
        if not delivery.tries and delivery.last > delivery.deadline < now + self._late_seconds:
            late = delivery.accepted is not None and delivery.accepted + self._seconds[delivery.stanza.kind] <= now
            self._deadlines.remove(delivery.id)
            delivery.deadline = max(delivery.deadline, min(delivery.last, now + self._late_seconds))
            self._deadlines.add(delivery.id, "late", delivery.deadline)
            self._watch_deadlines()
        body = self._body(delivery, late=late) if late or self._once else self._spool.body(delivery.id)
        attempt: Deferred[Any] = Deferred.fromCoroutine(self._forwarder.attempt(delivery, body))
        self._attempts[delivery.id] = attempt
        if not self._once:
            self._spool.note(delivery)
        attempt.addBoth(self._attempted, delivery).addErrback(self._failed_inside, delivery)
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

    def _attempted(self, result: Attempted | Failure, delivery: Delivery) -> None:
        if self._attempts.pop(delivery.id, None) is None:
            return  # it was ended meanwhile, and this is what is left of a cancelled attempt
        if isinstance(result, Failure):
            if not result.check(SpoolError):
                self._failed_inside(result, delivery)
                return
            self._spool_failed(result, "it cannot read what is to be POSTed, so that waits")
            result = Attempted(Retry(SPOOL_REST, counted=False))
        if self._forwarder.gone is not None and self._given_up is None:
            self._give_up_all(self._forwarder.gone, "the webhook is gone")
        if isinstance(result.next, Later):
            self._leave_open(delivery)
        elif not isinstance(result.next, Retry):
            if result.rest:
                self._ban(delivery, result.rest)
            self._end(delivery, result.next)
            if result.rest:
                self._end_banned(delivery.conversation)
        elif self._given_up is not None:
            self._give_up(delivery)
        else:
            self._spool.note(delivery)
            self._rest(delivery, result.next.seconds, firm=result.next.firm)
            self._start()

    def _leave_open(self, delivery: Delivery) -> None:
        """Wait for the answer to an iq that comes later; its deadline ends it, and nobody waits behind it."""
        self._spool.note(delivery)
        self._open.add(delivery.id)
        self._backlog.reserve(delivery.conversation, delivery.size)
        self._backlog.remove(delivery.id)
        if self._given_up is not None:
            self._give_up(delivery)
        self._read_again()
        self._start()

    def _ban(self, delivery: Delivery, seconds: float) -> None:
        """Leave a conversation alone for as long as the webhook has asked for; the delivery that heard so ends."""
        conversation, failure = delivery.conversation, delivery.failure
        self._bans.pop(conversation, None)
        response = Response(failure.status) if isinstance(failure, Response) else failure
        self._bans[conversation] = _Ban(self._clock.seconds() + seconds, response)
        if len(self._bans) > MAX_RESTS:
            del self._bans[next(iter(self._bans))]

    def _end_banned(self, conversation: Conversation) -> None:
        """Give up all that has to end before the webhook wants the conversation again, and do not wait for that."""
        waiting = [self._deliveries[each] for each in self._backlog.waiting(conversation) if each in self._deliveries]
        self._by_slices(waiting, self._give_up_if_banned)

    def _give_up_if_banned(self, delivery: Delivery) -> bool:
        """Give a delivery up whose deadline is before the time from which the webhook wants its conversation again."""
        ban = self._bans.get(delivery.conversation)
        if ban is None:
            return False
        if ban.until <= self._clock.seconds():
            del self._bans[delivery.conversation]
            return False
        if delivery.deadline > ban.until:
            return False
        if delivery.id not in self._ending:
            delivery.failure = ban.response
            self._end(delivery, self._forwarder.expire(delivery))
        return True

    def _hold_of(self, delivery: Delivery) -> float:
        """Seconds that a delivery has to wait because its conversation is a loop."""
        if self._loop_brake is None:
            return 0.0
        hold = self._loop_brake.hold(delivery.conversation, delivery.id, self._clock.seconds())
        if hold is None:
            return 0.0
        self._held[delivery.conversation] = delivery.id
        if hold.number > 1:
            self._observer.count("loop_slowed")
        if hold.number == 2:
            self._log.warn(
                "{id}: its sender and the webhook answer each other; this conversation is slowed down to one request a"
                " second",
                id=delivery.id,
            )
        return hold.seconds

    def _rest(self, delivery: Delivery, seconds: float, *, firm: bool) -> None:
        self._backlog.rest(delivery.id)
        call = self._clock.callLater(seconds, self._rested, delivery.id)
        resting = self._sleeping if firm else self._resting
        resting[delivery.id] = _Rest(call, self._forwarder.awakenings)

    def _rested(self, delivery_id: str) -> None:
        if self._resting.pop(delivery_id, None) is None:
            del self._sleeping[delivery_id]
            self._held.pop(self._deliveries[delivery_id].conversation, None)
        self._backlog.rise(delivery_id)
        self._start()

    def _wake_one(self) -> bool:
        """
        Let the delivery that rests longest have its turn, if nothing else is ready.

        That is right while the webhook is probed, whatever each delivery waits for; one that is alone may itself be
        what the webhook fails on. And it is right for all that rested before the webhook was back.
        """
        delivery_id, rest = next(iter(self._resting.items()), (None, None))
        if delivery_id is None or rest is None or self._backlog.ready:
            return False
        probing = self._forwarder.breaker_state != "closed" and self._backlog.conversations > 1
        if not probing and rest.awakenings == self._forwarder.awakenings:
            return False
        del self._resting[delivery_id]
        rest.call.cancel()
        self._backlog.rise(delivery_id)
        return True

    def wake(self) -> None:
        """Ask the webhook at once, whatever was to be waited for: somebody knows that it is back."""
        self._forwarder.ask_now()
        self._bans.clear()
        held = set(self._held.values())
        for delivery_id in self._sleeping.keys() - held:
            self._resting[delivery_id] = self._sleeping.pop(delivery_id)
        self._start()

    # -- loops --

    def _listen(self, stanza: Stanza, delivery_id: str) -> None:
        """Let the brake know what comes; a conversation that turns out to be no loop waits no longer."""
        brake = self._loop_brake
        if brake is None or stanza.kind != "message" or not brake.heard(stanza, delivery_id, self._clock.seconds()):
            return
        held = self._held.pop(stanza.conversation, None)
        if held is not None and held in self._sleeping:
            self._sleeping[held].call.reset(0)

    def note_said(self, stanzas: Iterable[Element], delivery_id: str | None = None) -> None:
        """
        Note what is said to others, be it a reply or not, to know a loop by it.

        Args:
            stanzas: Complete and checked.
            delivery_id: The delivery that they answer, or None.
        """
        brake = self._loop_brake
        if brake is None:
            return
        for stanza in stanzas:
            body = next(stanza.elements(stanza.uri, "body"), None) if stanza.name == "message" else None
            if body is not None:
                conversation = stanza["to"].partition("/")[0], stanza["from"].partition("/")[0], False
                now = self._clock.seconds()
                brake.said(conversation, str(body), stanza.getAttribute("id"), now, answers=delivery_id)

    # -- out --

    def drop(self, delivery_ids: Iterable[str]) -> None:
        """End deliveries, pending or in the spool only, and keep no dead letters; only who asked an iq is told."""
        for delivery_id in delivery_ids:
            self._returning.pop(delivery_id, None)
            delivery = self._deliveries.get(delivery_id)
            if delivery is None:
                if delivery_id not in self._storing:
                    self._spool.end(delivery_id, ()).addErrback(_forget_failure)
            else:
                verdict = reply.give_up(delivery.stanza, conditions.SERVICE_UNAVAILABLE, "dropped by the operator")
                stanzas = verdict.stanzas if delivery.stanza.is_request else ()
                self._end(delivery, evolve(verdict, stanzas=stanzas), keep_letter=False)

    def answer_late(
        self, delivery_id: str, composed: Composed, record: IdempotencyRecord | None = None
    ) -> Deferred[Sequence[int]]:
        """
        Answer an iq that is open, or under way.

        Args:
            delivery_id: The delivery of the iq.
            composed: The answer, and what else is to leave with it.
            memo: To be remembered with it.

        Returns:
            Their numbers in the spool, when it has them. It fails with `DeliveryEnded` if there is no such iq any more.
        """
        delivery = self._deliveries.get(delivery_id)
        if delivery is None or delivery_id in self._ending:
            return fail(DeliveryEnded())
        numbers: Deferred[Sequence[int]] = Deferred()
        verdict = Verdict("replied", composed.stanzas, verbatim=composed.verbatim, xml=composed.xml)
        self._end(delivery, verdict, record, told=numbers)
        return numbers

    def _end(
        self,
        delivery: Delivery,
        verdict: Verdict,
        record: IdempotencyRecord | None = None,
        *,
        told: Deferred[Sequence[int]] | None = None,
        keep_letter: bool = True,
    ) -> None:
        """End a delivery, whatever it is at; its replies leave once the spool has noted that. Only the first counts."""
        if delivery.id in self._ending:
            return
        self._ending.add(delivery.id)
        self._let_go(delivery)
        verdict = self._guarded(delivery, verdict)
        if verdict.outcome == "replied":
            self.note_said(verdict.stanzas, delivery.id)
        leaving = self._outbox.leaving(
            verdict.stanzas,
            verdict.xml,
            verbatim=verdict.verbatim,
            delivery_id=delivery.id,
            deadline=delivery.deadline,
            asked=delivery.stanza if delivery.stanza.bounceable else None,
        )
        letter = _letter(delivery, verdict) if keep_letter else None
        ended: Deferred[Any] = self._spool.end(delivery.id, leaving, letter, record)
        ended.addErrback(self._not_noted, delivery)
        ended.addCallback(self._ended, delivery, verdict, leaving, letter).addErrback(
            self._log_internal_error, delivery
        )
        if told is not None:
            ended.addCallback(lambda numbers: told.callback(numbers or ()))

    def _let_go(self, delivery: Delivery) -> None:
        """Stop whatever a delivery is at."""
        self._deadlines.remove(delivery.id)
        if self._held.get(delivery.conversation) == delivery.id:
            del self._held[delivery.conversation]
        if rest := self._resting.pop(delivery.id, None) or self._sleeping.pop(delivery.id, None):
            rest.call.cancel()
        if attempt := self._attempts.pop(delivery.id, None):
            attempt.cancel()

    def _not_noted(self, failure: Failure, delivery: Delivery) -> None:
        """What has ended has ended; if the spool does not learn of it in time, it is delivered again."""
        if failure.check(SpoolError):
            self._spool_failed(failure, "what ends now may be delivered again after a restart")
        else:
            self._log_internal_error(failure, delivery)

    def _spool_failed(self, failure: Failure, effect: str) -> None:
        self._observer.count("spool_failed")
        if self._log_throttle.may_tell(effect, self._clock.seconds()):
            self._log.error("the spool fails: {effect}: {reason}", effect=effect, reason=failure.getErrorMessage())

    def _ended(
        self,
        numbers: Sequence[int] | None,
        delivery: Delivery,
        verdict: Verdict,
        leaving: Sequence[OutboundStanza],
        letter: DeadLetter | None,
    ) -> Sequence[int] | None:
        del self._deliveries[delivery.id]
        self._ending.discard(delivery.id)
        if delivery.id in self._open:
            self._open.discard(delivery.id)
            self._backlog.release(delivery.conversation, delivery.size)
        else:
            self._backlog.remove(delivery.id)
        self._observer.count(verdict.outcome)
        if numbers is not None:
            self._outbox.depart(leaving, numbers)
        else:
            self._outbox.depart_unkept(leaving, partial(self._gone_at_last, delivery, letter))
        self._read_again()
        self._start()
        self._look_whether_drained()
        return numbers

    def _gone_at_last(self, delivery: Delivery, letter: DeadLetter | None) -> None:
        """The server has what the spool could not keep; before, the delivery had to be in the spool for a restart."""
        self._spool.end(delivery.id, (), letter).addErrback(self._not_noted, delivery)

    def _guarded(self, delivery: Delivery, verdict: Verdict) -> Verdict:
        """Send nothing where two bots talk to each other; an iq is always answered, and never starts such a talk."""
        guard = self._loop_guard
        if guard is None or verdict.outcome != "replied" or delivery.stanza.kind == "iq":
            return verdict
        if guard.allows(delivery.conversation, len(verdict.stanzas), self._clock.seconds()):
            return verdict
        self._observer.count("loop_guarded")
        note = "more replies than loop_guard allows"
        self._log.warn("{id}: the webhook's answer was held back: {note}", id=delivery.id, note=note)
        return Verdict("refused_reply", note=note)

    def _send(self, element: Element) -> None:
        try:
            sent = self._outlet.send(element)
        except Exception:
            self._log.failure("cannot send a {kind}", kind=element.name)
            sent = False
        if not sent:
            self._observer.count("reply_lost")

    def _failed_inside(self, failure: Failure, delivery: Delivery) -> None:
        """A bug of ours is not silence for whoever waits for an answer."""
        self._log_internal_error(failure, delivery)
        if delivery.id in self._deliveries:
            self._end(delivery, reply.give_up(delivery.stanza, conditions.INTERNAL, "an internal error"))

    def _log_internal_error(self, failure: Failure, delivery: Delivery) -> None:
        self._log.failure("{id}: internal error", failure=failure, id=delivery.id)

    # -- deadlines --

    def _watch_deadlines(self) -> None:
        earliest = self._deadlines.next()
        if earliest is not None:
            wait = max(0.0, earliest - self._clock.seconds())
            self._next_deadline = self._not_later(self._next_deadline, wait, self._deadline_came)

    def _deadline_came(self) -> None:
        self._next_deadline = None
        now = self._clock.seconds()
        due = self._deadlines.due(now, SLICE)
        # None of these is to begin because another of them makes room.
        starting, self._starting = self._starting, True
        try:
            for delivery_id in due:
                delivery = self._deliveries.get(delivery_id)
                if delivery is None or delivery_id in self._ending:
                    continue
                if delivery.ends > now:
                    self._deadlines.add(delivery_id, "last", delivery.ends)  # The webhook has not seen it.
                else:
                    self._end(delivery, self._forwarder.expire(delivery))
        finally:
            self._starting = starting
        self._watch_deadlines()
        if len(due) < SLICE:
            self._start()

    def _by_slices(self, deliveries: list[Delivery], end: Callable[[Delivery], object]) -> None:
        """End many deliveries, those that are still there, and let others have a turn in between."""
        for delivery in deliveries[:SLICE]:
            if delivery.id in self._deliveries:
                end(delivery)
        del deliveries[:SLICE]
        if deliveries:
            self._clock.callLater(0, self._by_slices, deliveries, end)

    def _not_later(self, call: IDelayedCall | None, wait: float, function: Callable[[], None]) -> IDelayedCall | None:
        """Have `function` called after `wait` seconds; `call` is when it would be called already."""
        if math.isinf(wait):
            return call
        if call is None:
            return self._clock.callLater(wait, function)
        if self._clock.seconds() + wait < call.getTime():
            call.reset(wait)
        return call

    # -- stop --

    async def drain(self, timeout: float) -> None:
        """
        Accept nothing more, let what is accepted end and its replies leave, and give up what has not ended by then.

        Args:
            timeout: Seconds to wait; what is left is answered with a wait error, or stays in a spool that is durable,
                but for iqs. A second drain can end the first one earlier, not later.
        """
        self._stopping = True
        drained: Deferred[None] = Deferred()
        self._drained.append(drained)
        self._end_of_drain = self._not_later(self._end_of_drain, max(0.0, timeout), self._drain_over)
        if self._under_way:
            self._log.info(
                "waiting for {pending} deliveries, at most {timeout} s", pending=self.pending, timeout=timeout
            )
        self._look_whether_drained()
        await drained

    @property
    def _under_way(self) -> int:
        return len(self._deliveries) + len(self._storing)

    def _look_whether_drained(self) -> None:
        """When all has ended, wait for what is still to leave, as long as the drain may take and a moment at least."""
        if not self._drained or self._under_way or self._sent is not None:
            return
        self._sent = self._outbox.when_sent()
        self._sent.addCallbacks(self._all_over, _forget)
        if self._end_of_drain is None and self._sent is not None:
            self._end_of_drain = self._clock.callLater(FLUSH, self._drain_over)

    def _drain_over(self) -> None:
        self._end_of_drain = None
        self._drain_is_over = True
        self._spool.hurry()
        if self._under_way:
            if self._spool.durable:
                self._log.info("{pending} deliveries stay in the spool, iqs excepted", pending=self.pending)
            else:
                self._log.warn("gave up {pending} deliveries, for the gateway is stopping", pending=self.pending)
            self._give_up_all(conditions.STOPPING, "the gateway is stopping")
        else:
            self._all_over(None)

    def _give_up_all(self, error: conditions.StanzaError, note: str) -> None:
        """
        Begin nothing more, and answer all that is pending with an error.

        If the webhook is gone, attempts under way may still end; if the time is over, they are cut off, and what a
        durable spool has is left there.
        """
        self._given_up = error, note
        cut_off = self._stopping and self._drain_is_over
        self._leaving = cut_off and self._spool.durable
        left = [delivery for delivery in self._deliveries.values() if cut_off or delivery.id not in self._attempts]
        self._clock.callLater(0, self._by_slices, left, self._give_up)

    def _give_up(self, delivery: Delivery) -> None:
        assert self._given_up is not None
        error, note = self._given_up
        if self._leaving and self._once and delivery.tries:
            self._end(delivery, _cut_off(delivery))
        elif self._leaving and delivery.stanza.kind != "iq":
            self._leave(delivery)
        else:
            self._end(delivery, reply.give_up(delivery.stanza, error, note))

    def _leave(self, delivery: Delivery) -> None:
        """Do nothing more about a delivery that the spool keeps for the next start; it stays pending."""
        if delivery.id in self._ending:
            return
        self._let_go(delivery)
        self._open.discard(delivery.id)
        del self._deliveries[delivery.id]
        self._look_whether_drained()

    def _all_over(self, _: None) -> None:
        for call in (self._end_of_drain, self._next_deadline, self._next_start, self._next_return):
            if call is not None:
                call.cancel()
        self._end_of_drain = self._next_deadline = self._next_start = self._next_return = None
        for waiting in (self._clear, self._sent):
            if waiting is not None:
                waiting.cancel()
        self._clear = self._sent = None
        self._outbox.stop()
        self._valve.resume()
        drained, self._drained = self._drained, []
        for each in drained:
            each.callback(None)


def _cut_off(delivery: Delivery) -> Verdict:
    """The end of a delivery that was POSTed by a process that has ended, or ends now, and must not be POSTed again."""
    note = "the gateway stopped before the answer came, and max_attempts is 1"
    return reply.give_up(delivery.stanza, conditions.CONNECTION_FAILURE, note)


def _letter(delivery: Delivery, verdict: Verdict) -> DeadLetter | None:
    """What is to be kept of a delivery that was given up."""
    if verdict.outcome in ("replied", "silent"):
        return None
    note, failure = verdict.note or "", delivery.failure
    if not isinstance(failure, Response):
        return DeadLetter(verdict.outcome, note, delivery.tries)
    media_type = failure.headers.get("content-type")
    body = None if failure.body is None else failure.body[:MAX_LETTER_BYTES]
    return DeadLetter(verdict.outcome, note, delivery.tries, failure.status, media_type, body)


def _forget_failure(failure: Failure) -> None:
    """It stays in the spool, and whoever dropped it sees so."""
    failure.trap(SpoolError)


def _forget(failure: Failure) -> None:
    """Nobody waits for it any more."""
    failure.trap(CancelledError)
