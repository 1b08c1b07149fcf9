"""
Questions of our own to other entities, and their answers.

Source: RFC 6120 section 8.2.3 (an iq of type get or set gets exactly one answer, with its id).
"""

from __future__ import annotations

from secrets import token_hex

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure
from twisted.words.xish.domish import Element
from wokkel.subprotocols import XMPPHandler

from component_http.contract.address import Address, NotAnAddress
from component_http.errors import Offline, Unanswered
from component_http.interfaces import Outlet
from component_http.xmpp.intake import FIRST

__all__ = ["MAX_QUESTIONS", "Asking"]

MAX_QUESTIONS = 1000
"""Answers that are waited for at once; each holds a request of the API open."""


@define(eq=False)
class _Question:
    asked: Address
    answered: Deferred[Element]
    timer: IDelayedCall


class Asking(XMPPHandler):
    """
    Sends an iq, and takes its answer before anybody else sees it.

    An answer counts that has the id of the question and comes from the address that was asked; nobody else knows the
    id. What comes too late is nobody's answer any more, and goes the way of every iq.

    Args:
        outlet: Where questions leave.
        clock: Runs the limits.
    """

    def __init__(self, outlet: Outlet, clock: IReactorTime) -> None:
        super().__init__()
        self._outlet = outlet
        self._clock = clock
        self._questions: dict[str, _Question] = {}

    async def ask(self, iq: Element, timeout: float) -> Element:
        """See `component_http.interfaces.Sender.ask`."""
        if self.xmlstream is None:
            raise Offline("the stream is away")
        if self._outlet.crowded or len(self._questions) >= MAX_QUESTIONS:
            raise Offline("too much is under way")
        id_ = iq["id"] = token_hex(16)
        answered: Deferred[Element] = Deferred(lambda _: self._forget(id_))
        timer = self._clock.callLater(timeout, self._give_up, id_, f"no answer within {timeout:g} s")
        self._questions[id_] = _Question(Address.parse(iq["to"]), answered, timer)
        if not self._outlet.send(iq):
            self._give_up(id_, "it cannot be sent", Offline)
        return await answered

    def connectionInitialized(self) -> None:
        for type_ in ("result", "error"):
            self.xmlstream.addObserver(f"/iq[@type='{type_}']", self._arrived, FIRST)

    def connectionLost(self, reason: Failure) -> None:
        super().connectionLost(reason)
        for id_ in list(self._questions):
            self._give_up(id_, "the stream was lost")

    def _arrived(self, element: Element) -> None:
        id_ = element.getAttribute("id", "")
        question = self._questions.get(id_)
        if question is None:
            return
        try:
            if Address.parse(element.getAttribute("from", "")) != question.asked:
                return
        except NotAnAddress:
            return
        element.handled = True  # type: ignore[attr-defined]  # wokkel's own flag
        self._forget(id_)
        question.answered.callback(element)

    def _give_up(self, id_: str, why: str, error: type[Offline | Unanswered] = Unanswered) -> None:
        question = self._questions[id_]
        self._forget(id_)
        question.answered.errback(error(why))

    def _forget(self, id_: str) -> None:
        timer = self._questions.pop(id_).timer
        if timer.active():
            timer.cancel()
