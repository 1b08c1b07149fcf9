"""Conversations of two programs that answer each other: what is held back, and what has to wait."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import define
from twisted.internet.interfaces import IReactorTime
from twisted.words.xish.domish import Element

from component_http.contract.delivery import Delivery
from component_http.contract.reply import Verdict
from component_http.contract.stanza import Stanza
from component_http.delivery.loop_brake import LoopBrake
from component_http.delivery.loop_guard import LoopGuard
from component_http.interfaces import Observer
from component_http.log import Logger


@define(eq=False)
class Loops:
    """
    Asks a guard, which ends a loop, and a brake, which slows it down; mostly there is one of them.

    Args:
        guard: Ends the talk of two bots; None for none.
        brake: Slows it down; None for none.
        observer: Told `loop_guarded` and `loop_slowed`.
        clock: Says when something was said.
    """

    _log = Logger()

    _guard: LoopGuard | None
    _brake: LoopBrake | None
    _observer: Observer
    _clock: IReactorTime

    def use(self, guard: LoopGuard | None, brake: LoopBrake | None) -> None:
        """Ask these from now on."""
        self._guard, self._brake = guard, brake

    def heard(self, stanza: Stanza, delivery_id: str) -> bool:
        """Note what has come; returns whether its conversation was held as a loop and turns out to be none."""
        brake = self._brake
        if brake is None or stanza.kind != "message":
            return False
        return brake.heard(stanza, delivery_id, self._clock.seconds())

    def said(self, stanzas: Iterable[Element], delivery_id: str | None = None) -> None:
        """
        Note what is said to others, be it a reply or not, to know a loop by it.

        Args:
            stanzas: Complete and checked.
            delivery_id: The delivery that they answer, or None.
        """
        brake = self._brake
        if brake is None:
            return
        for stanza in stanzas:
            body = _body_of(stanza) if stanza.name == "message" else None
            if body is not None:
                given = stanza.attributes
                conversation = given["to"].partition("/")[0], given["from"].partition("/")[0], False
                brake.said(conversation, str(body), given.get("id"), self._clock.seconds(), answers=delivery_id)

    def hold(self, delivery: Delivery) -> float:
        """Seconds that a delivery has to wait before it is POSTed, because its conversation is a loop."""
        if self._brake is None:
            return 0.0
        hold = self._brake.hold(delivery.conversation, delivery.id, self._clock.seconds())
        if hold is None:
            return 0.0
        if hold.number > 1:
            self._observer.count("loop_slowed")
        if hold.number == 2:
            self._log.warn(
                "{id}: its sender and the webhook answer each other; this conversation is slowed down to one request a"
                " second",
                id=delivery.id,
            )
        return hold.seconds

    def guarded(self, delivery: Delivery, verdict: Verdict) -> Verdict:
        """Hold an answer back where two bots talk to each other; an iq is always answered, and starts no such talk."""
        if self._guard is None or verdict.outcome != "replied" or delivery.stanza.kind == "iq":
            return verdict
        if self._guard.allows(delivery.conversation, len(verdict.stanzas), self._clock.seconds()):
            return verdict
        self._observer.count("loop_guarded")
        note = "more replies than loop_guard allows"
        self._log.warn("{id}: the webhook's answer was held back: {note}", id=delivery.id, note=note)
        return Verdict("refused_reply", note=note)


def _body_of(message: Element) -> Element | None:
    for child in message.children:
        if isinstance(child, Element) and child.name == "body" and child.uri == message.uri:
            return child
    return None
