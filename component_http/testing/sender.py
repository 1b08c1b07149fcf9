"""A sender that sends nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from secrets import token_hex
from typing import Any

from attrs import evolve
from twisted.words.xish.domish import Element

from component_http.contract import idempotency
from component_http.contract.composing import Composed
from component_http.contract.idempotency import IdempotencyRecord
from component_http.contract.stanza import Stanza
from component_http.errors import Bounced, DeliveryEnded, NotSent, Offline, RoomRefused, SpoolError, Unanswered
from component_http.waiters import Waiters


class RecordingSender:
    """
    A `Sender` that keeps the stanzas it is given, and sends nothing.

    Args:
        answer: Called with an iq for its answer: an element, an error to raise, either of them later, or None for no
            answer at all. Without it each iq is answered by an empty result.
        now: The time, in seconds, by which it forgets idempotency records.

    Attributes:
        pushed: The stanzas, in order.
        deliveries: For each stanza, the delivery that it answers, or None.
        asked: The iqs.
        open: The iqs that may be answered late, by their delivery's id; None for any.
        full: Set it to True, and nothing more is kept.
        offline: Set it to True, and no iq can be asked.
        closed: The refusals of rooms that let nobody in, by the rooms' addresses.
        confirming: Set it to False, and the server does not have the pushed stanzas until `confirm` is called.
    """

    def __init__(
        self,
        *,
        answer: Callable[[Element], Element | Exception | Awaitable[Element | Exception] | None] | None = None,
        now: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.pushed: list[Element] = []
        self.deliveries: list[str | None] = []
        self.asked: list[Element] = []
        self.open: set[str] | None = None
        self.full = False
        self.offline = False
        self.closed: dict[str, RoomRefused] = {}
        self.confirming = True
        self._answer = answer
        self._now = now
        self._records: dict[tuple[str, str], tuple[IdempotencyRecord, float]] = {}
        self._fates: dict[int, bool | Bounced] = {}
        self._waiting = Waiters()

    async def push(
        self, composed: Composed, *, delivery_id: str | None = None, record: IdempotencyRecord | None = None
    ) -> tuple[int, ...]:
        if self.full:
            raise SpoolError("it is full")
        if composed.answers and self.open is not None:
            if delivery_id not in self.open:
                raise DeliveryEnded
            self.open.discard(delivery_id)
        for stanza in composed.stanzas:
            if stanza.getAttribute("type") == "groupchat" and stanza["to"] in self.closed:
                raise self.closed[stanza["to"]]
        first = len(self.pushed) + 1
        self.pushed.extend(composed.stanzas)
        self.deliveries.extend([delivery_id] * len(composed.stanzas))
        numbers = tuple(range(first, len(self.pushed) + 1))
        if record is not None:
            self._records[record.owner, record.key] = (evolve(record, numbers=numbers), self._now())
        if self.confirming:
            self._fates.update(dict.fromkeys(numbers, True))
        return numbers

    async def recall(self, owner: str, key: str) -> IdempotencyRecord | None:
        found, since = self._records.get((owner, key), (None, 0.0))
        return found if self._now() - since < idempotency.LIFETIME else None

    async def sent(self, numbers: Sequence[int]) -> None:
        while True:
            fates = [self._fates.get(number) for number in numbers]
            for fate in fates:
                if isinstance(fate, Bounced):
                    raise fate
            if False in fates:
                raise NotSent("the test says so")
            if None not in fates:
                return
            await self._waiting.one_more()

    def confirm(self, fate: bool | Bounced = True, numbers: Iterable[int] | None = None) -> None:
        """
        Let the server have the stanzas that were pushed so far.

        Args:
            fate: False if the server never gets them, or the error that they come back with.
            numbers: The numbers of these stanzas; None for all.
        """
        for number in range(1, len(self.pushed) + 1) if numbers is None else numbers:
            self._fates.setdefault(number, fate)
        self._waiting.tell()

    async def ask(self, iq: Element, timeout: float) -> Element:
        if self.offline:
            raise Offline
        iq["id"] = token_hex(16)
        self.asked.append(iq)
        if self._answer is None:
            return Stanza.from_element(iq).response("result")
        answer: Any = self._answer(iq)
        if isinstance(answer, Awaitable):
            answer = await answer
        if answer is None:
            raise Unanswered
        if isinstance(answer, Exception):
            raise answer
        element: Element = answer
        return element
