"""Stanzas that were pushed and came back as errors, and those that a room has shown to everybody in it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from attrs import Factory, define, frozen
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.words.xish.domish import Element

from component_http.contract.address import Address
from component_http.contract.conditions import read_error
from component_http.contract.outbound import OutboundStanza
from component_http.contract.stanza import Stanza
from component_http.errors import Bounced
from component_http.interfaces import Observer, OutboundSpool
from component_http.throttle import Folded

__all__ = ["MAX_BYTES", "MAX_PUSHED", "Bounces"]

MAX_PUSHED = 10_000
MAX_BYTES = 16 * 1024 * 1024
"""
The latest stanzas that were pushed and can be recognised when they come back, and the bytes of them. An error of the
own server comes back within milliseconds, one of a server that cannot be reached within minutes.
"""

MAX_FATES = 10_000
"""Stanzas that came back, or were shown by a room, and are remembered for whoever asks late."""

_Key = tuple[str, str, str]


@frozen
class _Pushed:
    """A stanza that was pushed, and its number in the spool."""

    number: int
    outbound: OutboundStanza


@define(eq=False)
class _Wait:
    """Somebody waits until rooms have shown the stanzas with these numbers."""

    left: set[int]
    over: Deferred[None] = Factory(Deferred)


class Bounces:
    """
    Recognises the errors that pushed stanzas come back as.

    Such an error has the id of the stanza, comes from the address that it was sent to, and goes to the address that it
    was sent from. The stanza becomes a dead letter, and whoever waits for it is told.

    Args:
        spool: Keeps the dead letters.
        observer: Told `push_bounced`.
        seconds: A clock that does not go back.

    Source: RFC 6120 section 8.3.1 (an error has the id of what it is about); XEP-0045 section 7.4 (a room sends a
    message to its author, too).
    """

    _log = Logger()

    def __init__(self, spool: OutboundSpool, observer: Observer, seconds: Callable[[], float]) -> None:
        self._spool = spool
        self._observer = observer
        self._lines = Folded(seconds)
        self._pushed: OrderedDict[_Key, _Pushed] = OrderedDict()
        self._bytes = 0
        # The numbers of those that a room is to show.
        self._for_rooms: set[int] = set()
        # None for a stanza that its room has shown.
        self._fates: OrderedDict[int, Bounced | None] = OrderedDict()
        self._waiting: dict[int, list[_Wait]] = {}

    def pushed(self, number: int, outbound: OutboundStanza, element: Element) -> None:
        """
        Remember a stanza that is about to leave.

        Args:
            number: Its number in the spool.
            departure: What the spool keeps of it.
            element: The stanza.
        """
        id = element.getAttribute("id")
        type_ = element.getAttribute("type")
        if element.name == "iq" or type_ == "error" or not id:
            return  # the answer to an iq is no bounce, and errors are not answered
        key = id, str(Address.parse(element["from"])), str(Address.parse(element["to"]))
        self._forget(key)
        self._pushed[key] = _Pushed(number, outbound)
        if element.name == "message" and type_ == "groupchat":
            self._for_rooms.add(number)
        self._bytes += len(outbound.xml)
        while len(self._pushed) > MAX_PUSHED or self._bytes > MAX_BYTES:
            self._forget(next(iter(self._pushed)))

    def returned(self, error: Stanza) -> None:
        """Look at a message or a presence of type error that arrived: it may be a stanza that comes back."""
        pushed = self._forget((error.id or "", str(error.recipient), str(error.sender)))
        if pushed is None or pushed.outbound.kind != error.kind:
            return
        found = read_error(error)
        bounced = Bounced(found.condition, found.type, found.text or "")
        self._observer.count("push_bounced")
        self._spool.bounced(pushed.number, pushed.outbound, f"it came back: {bounced}")
        self._lines.write(
            bounced.condition,
            self._log.warn,
            "{id}: a {kind} that was pushed came back: {reason}",
            id=f"{pushed.outbound.delivery_id or 'departure'}.{pushed.number}",
            kind=error.kind,
            reason=str(bounced),
        )
        self._tell(pushed.number, bounced)

    def shown(self, message: Stanza) -> None:
        """A room has sent a message of ours to everybody in it, so it has arrived."""
        key = message.id or "", str(message.recipient), str(message.sender.bare)
        pushed = self._pushed.get(key)
        if pushed is not None and pushed.number in self._for_rooms:
            self._forget(key)
            self._tell(pushed.number, None)

    def awaits_rooms(self, numbers: Sequence[int]) -> bool:
        """Some of these went to rooms that have not shown them."""
        return not self._for_rooms.isdisjoint(numbers)

    def when_shown(self, numbers: Sequence[int]) -> Deferred[None]:
        """
        Wait until rooms have shown all of these, which never happens for what did not go to a room.

        Returns:
            It fails with `Bounced` as soon as one of them came back. Cancelling it ends the waiting only.
        """
        for number in numbers:
            bounced = self._fates.get(number)
            if bounced is not None:
                failed: Deferred[None] = Deferred()
                failed.errback(bounced)
                return failed
        wait = _Wait(
            {number for number in numbers if number not in self._fates},
            Deferred(lambda _: self._wait_no_longer(wait)),
        )
        if not wait.left:
            return succeed(None)
        for number in wait.left:
            self._waiting.setdefault(number, []).append(wait)
        return wait.over

    def _wait_no_longer(self, wait: _Wait) -> None:
        for number in wait.left:
            waiting = self._waiting.get(number, [])
            if wait in waiting:
                waiting.remove(wait)
                if not waiting:
                    del self._waiting[number]

    def _tell(self, number: int, bounced: Bounced | None) -> None:
        self._fates[number] = bounced
        if len(self._fates) > MAX_FATES:
            self._fates.popitem(last=False)
        for wait in list(self._waiting.get(number, ())):
            if bounced is not None:
                self._wait_no_longer(wait)
                wait.over.errback(bounced)
                continue
            wait.left.discard(number)
            if not wait.left:
                wait.over.callback(None)
        self._waiting.pop(number, None)

    def _forget(self, key: _Key) -> _Pushed | None:
        pushed = self._pushed.pop(key, None)
        if pushed is not None:
            self._bytes -= len(pushed.outbound.xml)
            self._for_rooms.discard(pushed.number)
        return pushed
