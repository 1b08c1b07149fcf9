"""The iq requests that we send, until they are answered."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.words.xish.domish import Element
from wokkel.subprotocols import XMPPHandler

from component_http.contract.stanza import Stanza
from component_http.errors import MalformedStanza, Offline, Unanswered
from component_http.interfaces import Outlet
from component_http.shares import Latest
from component_http.xmpp.intake import FIRST

MAX_WAITING = 1000
"""Iq requests without an answer at once; each is a client of the API that waits too."""

MAX_LATE = 1000
"""Iq requests that nobody waits for any more, and whose answer is still known as one."""


class IqRequests(XMPPHandler):
    """
    Asks, and takes the answers out of the stream before anybody else sees them.

    An answer is known by its id, which nobody can guess, and by the address that it is from: only who was asked can
    answer. It may come on another stream than the request left on. One that comes too late is taken too, and
    thrown away: nobody else knows what it answers.

    Args:
        new_id: Makes ids that cannot be guessed.

    Source: RFC 6120 sections 8.1.2.1 and 8.1.3.
    """

    def __init__(self, outlet: Outlet, clock: IReactorTime, new_id: Callable[[], str]) -> None:
        super().__init__()
        self._outlet = outlet
        self._clock = clock
        self._new_id = new_id
        self._connected = False
        self._waiting: dict[tuple[str, str], Deferred[Element]] = {}
        self._late: Latest[tuple[str, str], None] = Latest(MAX_LATE)

    async def ask(self, iq: Element, timeout: float) -> Element:
        """See `component_http.interfaces.Sender.ask`."""
        if not self._connected or self._outlet.crowded or len(self._waiting) >= MAX_WAITING:
            raise Offline
        iq["id"] = self._new_id()
        question = iq["id"], iq["to"]
        answered: Deferred[Element] = Deferred()
        self._waiting[question] = answered
        try:
            if not self._outlet.send(iq):
                raise Offline
            return await answered.addTimeout(timeout, self._clock)
        except TimeoutError:
            raise Unanswered from None
        finally:
            if self._waiting.pop(question, None) is not None:
                self._late[question] = None

    def connectionInitialized(self) -> None:
        self._connected = True
        self.xmlstream.addObserver("/iq", self._arrived, FIRST)

    def connectionLost(self, reason: object) -> None:
        self._connected = False
        super().connectionLost(reason)

    def _arrived(self, element: Element) -> None:
        if element.getAttribute("type") not in ("result", "error") or vars(element).get("handled", False):
            return
        try:
            stanza = Stanza.from_element(element)
        except MalformedStanza:
            return
        question = (stanza.id or "", str(stanza.sender))
        answered = self._waiting.pop(question, None)
        if answered is not None:
            element.handled = True  # type: ignore[attr-defined]  # wokkel's own flag
            answered.callback(element)
        elif question in self._late:
            del self._late[question]
            element.handled = True  # type: ignore[attr-defined]
