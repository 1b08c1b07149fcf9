"""What leaves for the server, kept by the spool until the server has it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import Any

from attrs import Factory, define, evolve
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.words.xish.domish import Element

from component_http.contract.conditions import REPLY_NOT_SENT, error_stanza
from component_http.contract.idempotency import IdempotencyRecord
from component_http.contract.outbound import LIFETIMES, Fate, OutboundStanza, Refused, is_request, lifetime
from component_http.contract.outgoing import fitted
from component_http.contract.reply import Composed
from component_http.contract.stanza import Stanza
from component_http.contract.xml import Limits, parse_stanzas
from component_http.errors import AnswerRefused, NotSent, SpoolError, XmlRefused
from component_http.interfaces import Observer, OutboundSpool, Outlet
from component_http.throttle import LOG_INTERVAL, Folded, Throttle
from component_http.waiters import Waiters

__all__ = ["Leaving", "Outbox"]

MAX_FATES = 10_000
"""Stanzas whose fate is remembered for who asks late; the oldest are forgotten beyond it."""

CROWD = 10_000
"""Answers of deliveries that wait on disk when it begins to be crowded; it is so until half of them are left."""

AGAIN = 5.0
"""Seconds after which a spool is read again that could not be read, or an outlet asked again that took nothing."""

SURELY_TAKEN = 10_000
"""Bytes that every server takes in one stanza (RFC 6120 section 13.12)."""

TOO_LARGE_FOR = 3600.0
"""
Seconds for which no stanza is sent that is as large as one that the server closed the stream over.

Each would cost everybody two streams. After that, or when the operator retries a dead letter, the next one is tried.
"""

_REASONS = {
    "reply_expired": "it could not be sent in its time",
    "reply_unsendable": "the server would not take it",
}
"""Why a stanza was not sent, by how it ended, for whoever waits for it."""

Leaving = Sequence[tuple[OutboundStanza, Element]]
"""Stanzas that are to leave, each with its element."""


_Facts = tuple[str, int, str | None, Stanza | None]
"""What is remembered of a stanza that the outlet has: its kind, its bytes, its delivery, and who asked."""


@define(eq=False)
class _Unkept:
    """
    A stanza that the spool could not keep, until the server has it.

    Attributes:
        behind: The spool's number behind which it belongs, infinite as long as that is not known.
        turn: Its place among those of the same.
        group: The end of which delivery it is of.
    """

    behind: float
    turn: int
    outbound: OutboundStanza
    element: Element
    group: _Group

    def __lt__(self, other: _Unkept) -> bool:
        return (self.behind, self.turn) < (other.behind, other.turn)


@define(eq=False)
class _Group:
    """Stanzas that were to leave together: so many are left, and who is told when there are none."""

    left: int
    gone: Callable[[], object]


def _tell_nobody(number: int, outbound: OutboundStanza, element: Element) -> None:
    """Nobody wants to know of what is pushed."""


@define(eq=False)
class _Wait:
    """Somebody waits for the fates of these numbers; `over` fires when all are sent, and fails when one never is."""

    left: set[int]
    over: Deferred[None] = Factory(Deferred)


class Outbox:
    """
    Hands what leaves to the outlet, in the order of the spool's numbers, and lets the spool know when it is gone.

    With a spool that is durable what waits is on disk, and only so much of it is with the outlet that this is not
    crowded. Where more waits, after a start and after a lost stream, it is read from the spool; what comes meanwhile
    is behind it there. What such a spool could not keep is kept here, in its place among the others. A spool in memory
    keeps nothing of it: then the outlet does.

    Args:
        spool: Keeps what leaves, and gives it numbers.
        outlet: Where it leaves.
        observer: Told `reply_lost`, `unsendable`, `unanswered`, `outgoing_expired`, `outgoing_refused` and
            `spool_failed`.
        clock: Runs the waits, and says how old a departure is.
        domain: The component's own domain, normalised.
        limits: For one stanza.
        lifetimes: Seconds for which a stanza is of use, by its kind.
        pushed: Told each stanza that ends no delivery before it is handed over, with its number; where it is read from
            the spool, also answers to what may not be answered with an error.
    """

    _log = Logger()

    def __init__(
        self,
        spool: OutboundSpool,
        outlet: Outlet,
        observer: Observer,
        *,
        clock: IReactorTime,
        domain: str,
        limits: Limits,
        lifetimes: Mapping[str, float] = LIFETIMES,
        pushed: Callable[[int, OutboundStanza, Element], object] = _tell_nobody,
    ) -> None:
        self._spool = spool
        self._outlet = outlet
        self._observer = observer
        self._clock = clock
        self._domain = domain
        self._limits = limits
        self._lifetimes = lifetimes
        self._tell_pushed = pushed
        self._throttle = Throttle(LOG_INTERVAL)
        self._lines = Folded(clock.seconds)
        # The last number that was handed over, and the last that the spool gave, as far as that is known.
        self._cursor = 0
        self._highest: int | None = None
        self._behind = False
        self._crowded = False
        self._answers = 0
        self._reading: Deferred[None] | None = None
        self._until_clear = Waiters()
        self._caught_up = Waiters()
        self._stopped = False
        # What the spool does not have and the outlet has not yet: a heap.
        self._unkept: list[_Unkept] = []
        self._turns = count()
        # Why the last stanzas with a fate were not sent, None for those that were, and who waits for others; by number.
        self._fates: OrderedDict[int, str | None] = OrderedDict()
        self._waiting: dict[int, list[_Wait]] = {}
        # The bytes of the smallest stanza that the server refused for its size; the refusal; until when that counts.
        self._too_large: tuple[int, Refused, float] | None = None

    @property
    def crowded(self) -> bool:
        """
        So much waits to leave that whoever makes more of it should rest.

        What waits on disk takes no memory, so with a spool that is durable that is far more than the outlet takes; and
        only answers of deliveries count, for what somebody pushes should not keep others from being answered.
        """
        return self._crowded if self._spool.durable else self._outlet.crowded

    def when_clear(self) -> Deferred[None]:
        """Fire as soon as it is not crowded; at once if it is not now. Cancelling it forgets it."""
        if not self._spool.durable:
            return self._outlet.when_clear()
        return self._until_clear.one_more() if self._crowded else succeed(None)

    def when_sent(self) -> Deferred[None]:
        """Fire as soon as nothing waits to leave; at once if nothing does. Cancelling it forgets it."""
        if not self._behind:
            return self._outlet.when_sent()
        return self._caught_up.one_more().addCallback(lambda _: self._outlet.when_sent())

    def leaving(
        self,
        elements: Iterable[Element],
        *,
        verbatim: Collection[int] = (),
        delivery_id: str | None = None,
        deadline: float | None = None,
        asked: Stanza | None = None,
    ) -> Leaving:
        """
        Make what is to leave.

        Args:
            elements: The stanzas.
            verbatim: Which of them somebody else wrote as XML, counted from 0.
            delivery_id: The delivery that they answer; None if they answer none.
            deadline: Until when the answer to an iq is waited for, in seconds of the clock; None where nobody waits.
            asked: The stanza of that delivery, whose sender is told if the server refuses one of these; None where
                nobody may be told.

        Returns:
            Those that may be sent, errors and answers to iqs made smaller where they have to be; the others are counted
            as `unsendable` or `unanswered`, and logged.
        """
        now = self._clock.seconds()
        made = []
        for position, given in enumerate(elements):
            checked = self._checked(given)
            if checked is None:
                continue
            element, xml = checked
            expires = now + lifetime(element, self._lifetimes)
            if deadline is not None and element.name == "iq" and not is_request(element):
                # What comes of a deadline comes a moment after it.
                expires = max(deadline, now + 1.0)
            outbound = OutboundStanza(
                xml=xml,
                kind=element.name,
                expires=expires,
                stored=now,
                verbatim=position in verbatim,
                again=not is_request(element),
                delivery_id=delivery_id,
                asked=None if element.getAttribute("type") == "error" else asked,
            )
            made.append((outbound, element))
        return made

    def push(
        self, composed: Composed, *, delivery_id: str | None = None, record: IdempotencyRecord | None = None
    ) -> Deferred[Sequence[int]]:
        """
        Keep stanzas that end no delivery, and let them leave.

        Args:
            composed: The stanzas.
            delivery_id: The delivery that they answer late; None if they answer none.
            memo: To be remembered with them.

        Returns:
            Their numbers, when they are kept. It fails with `SpoolError` if they cannot be kept now.
        """
        if not self._spool.durable and self._outlet.crowded:
            # All of it is refused before any of it leaves; a spool on disk has limits of its own.
            return fail(SpoolError("too much waits to leave"))
        leaving = self.leaving(composed.stanzas, verbatim=composed.verbatim, delivery_id=delivery_id)
        pushed: Deferred[Any] = self._spool.push([outbound for outbound, _ in leaving], record)
        return pushed.addCallback(self._pushed, leaving)

    def _pushed(self, numbers: Sequence[int], leaving: Leaving) -> Sequence[int]:
        for number, (outbound, element) in zip(numbers, leaving, strict=True):
            self._tell_if_pushed(number, outbound, element)
        if not self.depart(leaving, numbers):
            raise SpoolError("too much waits for the stream")
        return numbers

    def _tell_if_pushed(self, number: int, outbound: OutboundStanza, element: Element) -> None:
        """
        Tell of a stanza that was pushed, or that is a late reply.

        The spool does not say which answers are late. It says whose sender would be told of a refusal, and a late one
        has none.
        """
        if outbound.asked is None:
            self._tell_pushed(number, outbound, element)

    async def sent(self, numbers: Sequence[int]) -> None:
        """
        Wait until the server has stanzas that were kept; cancelling it ends the waiting only.

        Args:
            numbers: The numbers of the stanzas.

        Raises:
            NotSent: One of them will never be with the server, which is told as soon as it is known.
            SpoolError: It cannot be found out now.
        """
        unknown = [number for number in numbers if number not in self._fates]
        asked = [number for number in unknown if number not in self._waiting]
        # A number no longer in the spool was sent or became a dead letter; without a fate any more, assume sent.
        kept = await self._spool.still_kept(asked) if asked else ()
        for number in numbers:
            reason = self._fates.get(number)
            if reason is not None:
                raise NotSent(reason)
        left = {n for n in unknown if n not in self._fates and (n in kept or n in self._waiting)}
        if left:
            wait = _Wait(left)
            for number in left:
                self._waiting.setdefault(number, []).append(wait)
            try:
                await wait.over
            finally:
                for number in wait.left:
                    self._wait_no_longer(number, wait)

    def _wait_no_longer(self, number: int, wait: _Wait) -> None:
        waiting = self._waiting.get(number, [])
        if wait in waiting:
            waiting.remove(wait)
            if not waiting:
                del self._waiting[number]

    def depart(self, leaving: Leaving, numbers: Sequence[int]) -> bool:
        """
        Let stanzas leave that the spool has kept.

        Args:
            leaving: They, in order.
            numbers: Their numbers in the spool.

        Returns:
            False if one of them is lost, which is counted: neither the spool nor the outlet has it.
        """
        if not self._spool.durable:
            taken = [self._hand_to_outlet(*each) for each in zip(leaving, numbers, strict=True)]
            return all(taken)
        if numbers:
            self._know_highest(numbers[0] - 1)
            self._highest = numbers[-1]
        if self._behind:
            self._answers += sum(outbound.delivery_id is not None for outbound, _ in leaving)
            self._see_crowd()
            return True
        for (outbound, element), number in zip(leaving, numbers, strict=True):
            if self._outlet.crowded or not self._hand_over(outbound, element, number):
                self.read_from(number - 1)
                break
        return True

    def _hand_to_outlet(self, leaving: tuple[OutboundStanza, Element], number: int) -> bool:
        """Let the outlet have a stanza of a spool in memory, which does not keep it."""
        if self._is_too_large(leaving[0], number):
            return True
        taken = self._taken(*leaving, self._ending(number, leaving[0]), kept=False)
        if not taken:
            self._observer.count("reply_lost")
            self._fail(number, "reply_unsendable")
        return taken

    def depart_unkept(self, leaving: Leaving, gone: Callable[[], object]) -> None:
        """
        Let stanzas leave that the spool could not keep, in their place behind what it has.

        Args:
            leaving: They, in order.
            gone: Called when none of them is wanted any more: the server has them, or their time is over. Not called
                where one was lost, which is counted, or the stop came before.
        """
        group = _Group(len(leaving), gone)
        behind = inf if self._highest is None else self._highest
        for outbound, element in leaving:
            heappush(self._unkept, _Unkept(behind, next(self._turns), outbound, element, group))
        if not self._behind:
            self._know_highest(self._cursor)
            self._hand_over_unkept()

    def read_from(self, number: int) -> None:
        """Hand over all that the spool has beyond a number; nothing for a spool that is not durable."""
        if not self._spool.durable:
            return
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
        self._too_large = None
        self.read_from(self._cursor)

    def dropped(self, numbers: Sequence[int]) -> None:
        """The spool keeps these no longer, for somebody has dropped them: do not send them either."""
        for number in numbers:
            if number not in self._fates:
                self._tell(number, "it was dropped by the operator")
        self._outlet.give_back()

    def stop(self) -> None:
        """Hand nothing more over."""
        self._stopped = True
        if self._reading is not None:
            self._reading.cancel()

    # -- from the spool --

    async def _read(self) -> None:
        # Not before all that was lost with a stream has been told.
        await deferLater(self._clock, 0)
        while True:
            await self._outlet.when_clear()
            cursor, highest = self._cursor, self._highest
            try:
                page = await self._spool.outbound_stanzas(cursor)
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
            self._answers = max(0, self._answers - 1)
        if outbound.expires <= self._clock.seconds():
            self._observer.count("outgoing_expired")
            self._cursor = number
            self._fail(number, "reply_expired")
            return True
        try:
            [element] = parse_stanzas(outbound.xml, self._limits)
        except (XmlRefused, ValueError):
            element = None
        checked = None if element is None else self._checked(element)
        if checked is None:
            self._cursor = number
            self._fail(number, "reply_unsendable")
            return True
        element, xml = checked
        self._tell_if_pushed(number, outbound, element)
        return self._hand_over(evolve(outbound, xml=xml, again=not is_request(element)), element, number)

    def _hand_over(self, outbound: OutboundStanza, element: Element, number: int) -> bool:
        if not self._is_too_large(outbound, number) and not self._taken(
            outbound, element, self._ending(number, outbound)
        ):
            return False
        self._cursor = max(self._cursor, number)
        return True

    def _ending(self, number: int, outbound: OutboundStanza) -> Callable[[Fate], None]:
        """For the outlet: without the XML, which it need not remember when it is written."""
        return partial(self._ended, number, _facts(outbound))

    def _is_too_large(self, outbound: OutboundStanza, number: int) -> bool:
        """Refuse a stanza at once that is as large as one that the server refused."""
        if self._too_large is None:
            return False
        size, refused, until = self._too_large
        if self._clock.seconds() >= until:
            self._too_large = None
            return False
        if _size(outbound) < size:
            return False
        reason = f"so it did over one of {size} bytes: {refused.reason}"
        self._ended(number, _facts(outbound), Refused(reason, refused.remedy))
        return True

    def _taken(
        self, outbound: OutboundStanza, element: Element, tell: Callable[[Fate], None], *, kept: bool = True
    ) -> bool:
        try:
            return self._outlet.depart(outbound, element, tell, kept=kept)
        except Exception:
            self._log.failure("cannot send a {kind}", kind=outbound.kind)
            return False

    def _ended(self, number: int, facts: _Facts, fate: Fate) -> None:
        if fate == "confirmed":
            self._spool.confirmed(number)
            self._tell(number, None)
        elif fate == "expired":
            self._fail(number, "reply_expired")
        elif isinstance(fate, Refused):
            why = f"the server closes the stream over it: {fate.reason}"
            self._spool.failed(number, "reply_refused", why)
            self._refused(fate, *facts, letter=f".{number}")
            self._tell(number, why)
        else:
            if fate == "suspected":
                self._spool.suspect(number)
            self.read_from(number - 1)

    def _refused(
        self, fate: Refused, kind: str, size: int, delivery_id: str | None, asked: Stanza | None, letter: str = ""
    ) -> None:
        """Tell the operator, and whoever waits for an answer."""
        self._observer.count("outgoing_refused")
        if fate.for_size and size > SURELY_TAKEN and (self._too_large is None or size < self._too_large[0]):
            self._too_large = size, fate, self._clock.seconds() + TOO_LARGE_FOR
        if self._throttle.may_tell(fate.reason, self._clock.seconds()):
            self._log.error(
                "{id}: the server closes the stream over this {kind} of {size} bytes, so it is not sent: {reason};"
                " {remedy}",
                id=f"{delivery_id or 'departure'}{letter}",
                kind=kind,
                size=size,
                reason=fate.reason,
                remedy=fate.remedy,
            )
        if asked is not None:
            leaving = self.leaving([error_stanza(asked, REPLY_NOT_SENT)])
            pushed: Deferred[Any] = self._spool.push([outbound for outbound, _ in leaving])
            pushed.addCallbacks(partial(self.depart, leaving), lambda _: self.depart_unkept(leaving, lambda: None))
            pushed.addErrback(lambda failure: self._log.failure("cannot tell a sender", failure=failure))

    def _fail(self, number: int, outcome: str) -> None:
        self._spool.failed(number, outcome)
        self._tell(number, _REASONS[outcome])

    def _tell(self, number: int, reason: str | None) -> None:
        """Remember the fate of a stanza: None for sent, else why it never will be."""
        self._fates[number] = reason
        if len(self._fates) > MAX_FATES:
            self._fates.popitem(last=False)
        for wait in self._waiting.pop(number, ()):
            wait.left.discard(number)
            if wait.over.called:
                continue
            if reason is not None:
                wait.over.errback(NotSent(reason))
            elif not wait.left:
                wait.over.callback(None)

    # -- what the spool does not have --

    def _know_highest(self, number: int) -> None:
        """This was the last number that the spool had given; nothing new where one is known."""
        if self._highest is None:
            self._highest = number
            for unkept in self._unkept:
                unkept.behind = number

    def _hand_over_unkept(self, before: float = inf) -> None:
        """Hand over what belongs before a number."""
        while self._unkept and self._unkept[0].behind < before:
            unkept = heappop(self._unkept)
            if not self._taken(unkept.outbound, unkept.element, partial(self._unkept_ended, unkept)):
                self._observer.count("reply_lost")

    def _unkept_ended(self, unkept: _Unkept, fate: Fate) -> None:
        outbound = unkept.outbound
        if isinstance(fate, Refused):
            self._refused(fate, *_facts(outbound))
        elif fate in ("lost", "suspected"):
            if fate == "suspected":
                unkept.outbound = evolve(outbound, suspect=True)
            # Behind what is read again, as before.
            heappush(self._unkept, unkept)
            self.read_all()
            return
        group = unkept.group
        group.left -= 1
        if not group.left:
            group.gone()

    # -- the rest --

    def _checked(self, element: Element) -> tuple[Element, str] | None:
        try:
            return fitted(element, self._domain, self._limits.max_bytes)
        except XmlRefused as error:
            self._observer.count("unanswered" if isinstance(error, AnswerRefused) else "unsendable")
            dropped = "dropped a stanza that the server would not take: {reason}"
            self._lines.write("unsendable", self._log.warn, dropped, reason=str(error))
            return None

    def _see_crowd(self) -> None:
        if not self._behind:
            self._answers = 0
        if self._answers > CROWD:
            self._crowded = True
        elif self._crowded and self._answers <= CROWD // 2:
            self._crowded = False
            self._until_clear.tell(lambda: not self._crowded)


def _facts(outbound: OutboundStanza) -> _Facts:
    return outbound.kind, _size(outbound), outbound.delivery_id, outbound.asked


def _size(outbound: OutboundStanza) -> int:
    """Its bytes; most are ASCII, which is known without looking."""
    return len(outbound.xml) if outbound.xml.isascii() else len(outbound.xml.encode("utf-8"))
