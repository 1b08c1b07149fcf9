"""The outbox: outbound stanzas, kept by the spool until the server has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from typing import Any

from attrs import define, evolve, field
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from component_http.contract.composing import Composed
from component_http.contract.conditions import REPLY_NOT_SENT, error_stanza
from component_http.contract.idempotency import IdempotencyRecord
from component_http.contract.outbound import Fate, OutboundStanza, Refused
from component_http.contract.stanza import Stanza
from component_http.delivery.fates import Fates
from component_http.delivery.handing_over import HandingOver
from component_http.delivery.stanza_maker import StanzaMaker
from component_http.delivery.unkept import Group, UnkeptStanzas
from component_http.errors import NotSent, SpoolError
from component_http.interfaces import Observer, OutboundSpool, Outlet
from component_http.interfaces.tracer import Tracers
from component_http.log import Logger
from component_http.throttle import LOG_INTERVAL, Throttle
from component_http.waiters import Waiters, abandon

AGAIN = 5.0
"""Seconds after which a spool is read again that could not be read, or an outlet asked again that took nothing."""


@define(eq=False)
class _Crowd:
    """Answers of deliveries that wait in the spool, and whether they are so many that no more should be made."""

    most: int
    answers: int = 0
    is_one: bool = False
    until_clear: Waiters = field(factory=Waiters)

    def look(self) -> None:
        """See whether they are, after their number has changed."""
        if self.answers > self.most:
            self.is_one = True
        elif self.is_one and self.answers <= self.most // 2:
            self.is_one = False
            self.until_clear.tell(lambda: not self.is_one)


class Outbox:
    """
    Hands outbound stanzas to the outlet, in the order of the spool's numbers, and tells the spool their fates.

    What waits is in the spool, and only so much of it is with the outlet that this is not crowded. Where more waits,
    after a start and after a lost stream, it is read from the spool; what comes meanwhile is behind it there. What the
    spool could not keep is kept here, in its place among the others.

    Args:
        spool: Keeps the outbound stanzas, and gives them numbers.
        outlet: Where it leaves.
        observer: Told `reply_lost`, `outgoing_expired`, `outgoing_refused` and `spool_failed`, and at the end
            `outgoing_lost`.
        clock: Runs the waits, and says how old a stanza is.
        domain: The domain of the component: the spool may have outbound stanzas of others.
        maker: Makes outbound stanzas.
        fates: Told which stanzas the server has, and which it will never have; None where nobody waits for that.
        pushed: Told each stanza that ends no delivery before it is handed over, with its number; where it is read from
            the spool, also answers to what may not be answered with an error. None to tell nobody.
        tracers: Told what is pushed, and how stanzas end.

    Attributes:
        maker: As above, for whoever has something to send.
    """

    _log = Logger()

    def __init__(
        self,
        spool: OutboundSpool,
        outlet: Outlet,
        observer: Observer,
        *,
        clock: IReactorTime,
        domain: str | None = None,
        maker: StanzaMaker,
        fates: Fates | None = None,
        pushed: Callable[[int, OutboundStanza], object] | None = None,
        tracers: Tracers | None = None,
    ) -> None:
        self._tracers = tracers = Tracers() if tracers is None else tracers
        self._spool = spool
        self._outlet = outlet
        self._observer = observer
        self._clock = clock
        self._domain = domain
        self.maker = maker
        self._fates = Fates() if fates is None else fates
        self._tell_pushed = pushed
        self._throttle = Throttle(LOG_INTERVAL)
        self._handing_over = HandingOver(
            spool,
            outlet,
            observer,
            clock,
            self._fates,
            again=self.read_from,
            apologise=self._apologise,
            tracers=tracers,
        )
        # The last number that was handed over, and the last that the spool gave, as far as that is known.
        self._cursor = 0
        self._highest: int | None = None
        self._behind = False
        self._crowd = _Crowd(spool.crowd)
        self._reading: Deferred[None] | None = None
        self._caught_up = Waiters()
        self._stopped = False
        self._unkept = UnkeptStanzas()

    @property
    def crowded(self) -> bool:
        """
        So many answers wait that no more should be made.

        Only answers of deliveries count, for what somebody pushes should not keep others from being answered; and where
        the spool bears some of them (`Spool.crowd`), an outlet that is crowded is none.
        """
        return self._crowd.is_one or (not self._spool.crowd and self._outlet.crowded)

    @property
    def waiting(self) -> int:
        """Answers that wait in the spool to be handed over, as far as that is known."""
        return self._crowd.answers

    def when_clear(self) -> Deferred[None]:
        """Fire when it may not be crowded any more; at once if it is not now. Cancelling it forgets it."""
        if self._crowd.is_one:
            return self._crowd.until_clear.one_more()
        return self._outlet.when_clear() if self.crowded else succeed(None)

    def when_sent(self) -> Deferred[None]:
        """Fire as soon as nothing waits to leave; at once if nothing does. Cancelling it forgets it."""
        if not self._behind:
            return self._outlet.when_sent()
        return self._caught_up.one_more().addCallback(lambda _: self._outlet.when_sent())

    def push(
        self, composed: Composed, *, delivery_id: str | None = None, record: IdempotencyRecord | None = None
    ) -> Deferred[Sequence[int]]:
        """
        Keep stanzas that end no delivery, and let them leave.

        Args:
            composed: The stanzas.
            delivery_id: The delivery that they answer late; None if they answer none.
            record: To be remembered with them.

        Returns:
            Their numbers, when they are kept. It fails with `SpoolError` if they cannot be kept now.
        """
        stanzas = self.maker.make(composed.stanzas, composed.xml, verbatim=composed.verbatim, delivery_id=delivery_id)
        return self._spool.push(stanzas, record).addCallback(self._pushed, stanzas)

    def _pushed(self, numbers: Sequence[int], stanzas: Sequence[OutboundStanza]) -> Sequence[int]:
        for number, outbound in zip(numbers, stanzas, strict=True):
            if self._tracers.told is not None:
                self._tracers.told.pushed(number, outbound)
            self._tell_if_pushed(number, outbound)
        self.depart(stanzas, numbers)
        return numbers

    def _tell_if_pushed(self, number: int, outbound: OutboundStanza) -> None:
        """
        Tell of a stanza that was pushed, or that is a late reply.

        The spool does not say which answers are late. It says whose sender would be told of a refusal, and a late one
        has none.
        """
        if outbound.asked is None and self._tell_pushed is not None:
            self._tell_pushed(number, outbound)

    async def sent(self, numbers: Sequence[int]) -> None:
        """
        Wait until the server has stanzas that were kept; cancelling it ends the waiting only.

        Args:
            numbers: The numbers of the stanzas.

        Raises:
            NotSent: One of them will never be with the server, which is told as soon as it is known.
            SpoolError: It cannot be found out now.
        """
        waiting = self._fates.wait(numbers)
        try:
            if not waiting.called:
                # One that the spool does not keep was sent or became a dead letter; without a fate, assume sent.
                kept = await self._spool.still_kept(numbers)
                for number in numbers:
                    if number not in kept:
                        self._fates.arrived(number)
            await waiting
        finally:
            abandon(waiting)

    def depart(self, stanzas: Sequence[OutboundStanza], numbers: Sequence[int]) -> None:
        """
        Let stanzas leave that the spool has kept.

        Args:
            stanzas: The stanzas, in order.
            numbers: Their numbers in the spool.
        """
        if numbers:
            self._know_highest(numbers[0] - 1)
            self._highest = numbers[-1]
        if self._behind:
            self._crowd.answers += sum(outbound.delivery_id is not None for outbound in stanzas)
            self._see_crowd()
            return
        for outbound, number in zip(stanzas, numbers, strict=True):
            if self._outlet.crowded or not self._hand_over(outbound, number):
                self.read_from(number - 1)
                break

    def depart_unkept(self, stanzas: Sequence[OutboundStanza], gone: Callable[[], object]) -> None:
        """
        Let stanzas leave that the spool could not keep, in their place behind what it has.

        Args:
            stanzas: The stanzas, in order.
            gone: Called when none of them is wanted any more: the server has them, or they expired. Not called
                where one was lost, which is counted, or the stop came before.
        """
        self._unkept.add(stanzas, inf if self._highest is None else self._highest, gone)
        if not self._behind:
            self._know_highest(self._cursor)
            self._hand_over_unkept()

    def read_from(self, number: int) -> None:
        """Hand over all that the spool has beyond a number."""
        self._cursor = min(self._cursor, number) if self._behind else number
        if self._behind:
            return
        self._behind = True
        if self._stopped:
            return  # the next start reads it, and what is kept from now on behind it
        self._reading = Deferred.fromCoroutine(self._read())
        self._reading.addErrback(self._not_read)

    def read_all(self) -> None:
        """Hand over all that the spool has and that was not handed over, whoever put it there."""
        self._handing_over.try_large_ones()
        self.read_from(self._cursor)

    def dropped(self, numbers: Sequence[int]) -> None:
        """The spool keeps these no longer, for somebody has dropped them: do not send them either."""
        for number in numbers:
            if self._tracers.told is not None:
                self._tracers.told.settled(number, None, "dropped", "it was dropped by the operator")
            if not self._fates.has_failed(number):
                self._fates.failed(number, NotSent("it was dropped by the operator"))
        self._outlet.give_back()

    def stop(self) -> None:
        """Hand nothing more over."""
        self._stopped = True
        if self._reading is not None:
            self._reading.cancel()

    async def count_lost(self) -> None:
        """Count the stanzas that were not written, where the spool forgets them; after the outlet has stopped."""
        lost = 0
        page = [] if self._spool.durable else await self._spool.outbound_stanzas(self._cursor, self._domain)
        while page:
            for _ in page:
                self._observer.count("outgoing_lost")
            lost += len(page)
            page = await self._spool.outbound_stanzas(page[-1].number or 0, self._domain)
        if lost:
            self._log.warn("stanzas lost at the stop, because they still waited to be sent: {count}", count=lost)

    # -- from the spool --

    async def _read(self) -> None:
        # Not before all that was lost with a stream has been told.
        await deferLater(self._clock, 0)
        while True:
            await self._outlet.when_clear()
            cursor, highest = self._cursor, self._highest
            try:
                page = await self._spool.outbound_stanzas(cursor, self._domain)
            except SpoolError as error:
                self._observer.count("spool_failed")
                if self._throttle.may_tell("read", self._clock.seconds()):
                    self._log.error("the spool cannot be read, so nothing leaves: {reason}", reason=str(error))
                await deferLater(self._clock, AGAIN)
                continue
            if not page and highest == self._highest and cursor == self._cursor:
                break
            for outbound in page:
                if self._outlet.crowded or cursor != self._cursor:
                    break
                self._hand_over_unkept(outbound.number or 0)
                if not self._hand_over_again(outbound):
                    await deferLater(self._clock, AGAIN)
                    break
                cursor = self._cursor
            self._see_crowd()
        self._catch_up()

    def _not_read(self, failure: Failure) -> None:
        if failure.check(CancelledError):
            return  # after the stop all that is kept stays behind what was not read
        self._log.failure("nothing leaves any more that was kept: internal error", failure=failure)
        self._catch_up()

    def _catch_up(self) -> None:
        self._behind = False
        self._see_crowd()
        self._know_highest(self._cursor)
        self._hand_over_unkept()
        self._caught_up.tell()

    def _hand_over_again(self, outbound: OutboundStanza) -> bool:
        """Hand over what the spool kept; what a later start may not send any more is a dead letter."""
        number = outbound.number
        assert number is not None
        if outbound.delivery_id is not None:
            self._crowd.answers = max(0, self._crowd.answers - 1)
        if outbound.expires <= self._clock.seconds():
            self._observer.count("outgoing_expired")
            self._handing_over.fail(number, outbound.delivery_id, "reply_expired")
        elif not self.maker.still_fits(outbound):
            self._handing_over.fail(number, outbound.delivery_id, "reply_unsendable")
        else:
            self._tell_if_pushed(number, outbound)
            return self._hand_over(outbound, number)
        self._cursor = number
        return True

    def _hand_over(self, outbound: OutboundStanza, number: int) -> bool:
        if not self._handing_over.hand_over(outbound, number):
            return False
        self._cursor = max(self._cursor, number)
        return True

    def _apologise(self, asked: Stanza) -> None:
        """Tell whoever asked that the server refuses the answer."""
        stanzas = self.maker.make([error_stanza(asked, REPLY_NOT_SENT)])
        pushed: Deferred[Any] = self._spool.push(stanzas)
        pushed.addCallbacks(partial(self.depart, stanzas), lambda _: self.depart_unkept(stanzas, lambda: None))
        pushed.addErrback(lambda failure: self._log.failure("cannot tell a sender", failure=failure))

    # -- what the spool does not have --

    def _know_highest(self, number: int) -> None:
        """Note the last number that the spool had given, unless one is known."""
        if self._highest is None:
            self._highest = number
            self._unkept.know(number)

    def _hand_over_unkept(self, before: float = inf) -> None:
        """Hand over what belongs before a number."""
        for unkept in self._unkept.take(before):
            if not self._handing_over.offer(unkept[2], partial(self._unkept_ended, *unkept)):
                self._observer.count("reply_lost")

    def _unkept_ended(self, behind: float, turn: int, outbound: OutboundStanza, group: Group, fate: Fate) -> None:
        if isinstance(fate, Refused):
            self._handing_over.refused(fate, outbound)
        elif fate in ("lost", "suspected", "stopped"):
            # Behind what is read again, as before.
            suspect = outbound.suspect or fate == "suspected"
            self._unkept.put_back((behind, turn, evolve(outbound, suspect=suspect), group))
            self.read_all()
            return
        elif self._tracers.told is not None:
            self._tracers.told.settled(0, outbound.delivery_id, "expired" if fate == "expired" else "confirmed")
        group.one_is_gone()

    def _see_crowd(self) -> None:
        if not self._behind:
            self._crowd.answers = 0
        self._crowd.look()
