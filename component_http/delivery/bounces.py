"""Stanzas that were pushed and came back as errors, and those that a room has shown to everybody in it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred

from component_http.contract.address import Address
from component_http.contract.conditions import read_error
from component_http.contract.outbound import OutboundStanza
from component_http.contract.stanza import Stanza
from component_http.delivery.fates import Fates
from component_http.errors import Bounced
from component_http.interfaces import Observer, OutboundSpool
from component_http.interfaces.tracer import Tracers
from component_http.log import Logger
from component_http.throttle import Folded

MAX_PUSHED = 10_000
MAX_BYTES = 16 * 1024 * 1024
"""
The latest stanzas that were pushed and can be recognised when they come back, and the bytes of them. An error of the
own server comes back within milliseconds, one of a server that cannot be reached within minutes.
"""

_Key = tuple[str, str, str]


_Pushed = tuple[int, OutboundStanza]
"""A stanza that was pushed, behind its number in the spool."""


class Bounces:
    """
    Recognises the errors that pushed stanzas come back as.

    Such an error has the id of the stanza, comes from the address that it was sent to, and goes to the address that it
    was sent from. The stanza becomes a dead letter, and whoever waits for it is told.

    Args:
        spool: Keeps the dead letters.
        observer: Told `push_bounced`.
        seconds: A clock that does not go back.
        fates: Told which stanzas have arrived in rooms, and which came back.
        tracers: Told which came back.

    Source: RFC 6120 section 8.3.1 (an error has the id of what it is about); XEP-0045 section 7.4 (a room sends a
    message to its author, too).
    """

    _log = Logger()

    def __init__(
        self,
        spool: OutboundSpool,
        observer: Observer,
        seconds: Callable[[], float],
        fates: Fates,
        tracers: Tracers | None = None,
    ) -> None:
        self._spool = spool
        self._tracers = Tracers() if tracers is None else tracers
        self._fates = fates
        self._observer = observer
        self._lines = Folded(seconds)
        self._pushed: OrderedDict[_Key, _Pushed] = OrderedDict()
        self._bytes = 0
        # The numbers of those that a room is to show.
        self._for_rooms: set[int] = set()

    def pushed(self, number: int, outbound: OutboundStanza) -> None:
        """
        Remember a stanza that is about to leave.

        Args:
            number: Its number in the spool.
            outbound: The stanza.
        """
        head = outbound.head
        if outbound.kind == "iq" or head.type == "error" or not head.id:
            return  # the answer to an iq is no bounce, and errors are not answered
        key = head.id, str(Address.parse(head.sender)), str(Address.parse(head.recipient))
        self._forget(key)
        self._pushed[key] = number, outbound
        if outbound.kind == "message" and head.type == "groupchat":
            self._for_rooms.add(number)
        self._bytes += len(outbound.xml)
        while len(self._pushed) > MAX_PUSHED or self._bytes > MAX_BYTES:
            self._forget(next(iter(self._pushed)))

    def returned(self, error: Stanza) -> None:
        """Look at a message or a presence of type error that arrived: it may be a stanza that comes back."""
        pushed = self._forget((error.id or "", str(error.recipient), str(error.sender)))
        if pushed is None or pushed[1].kind != error.kind:
            return
        number, outbound = pushed
        found = read_error(error)
        bounced = Bounced(found.condition, found.type, found.text or "")
        self._observer.count("push_bounced")
        self._spool.bounced(number, outbound, f"it came back: {bounced}")
        if self._tracers.told is not None:
            self._tracers.told.settled(number, outbound.delivery_id, "bounced", str(bounced))
        self._lines.write(
            bounced.condition,
            self._log.warn,
            "{id}: a {kind} that was pushed came back: {reason}",
            id=f"{outbound.delivery_id or 'departure'}.{number}",
            kind=error.kind,
            reason=str(bounced),
        )
        self._fates.failed(number, bounced)

    def shown(self, message: Stanza) -> None:
        """A room has sent a message of ours to everybody in it, so it has arrived."""
        key = message.id or "", str(message.recipient), str(message.sender.bare)
        pushed = self._pushed.get(key)
        if pushed is not None and pushed[0] in self._for_rooms:
            self._forget(key)
            self._fates.arrived(pushed[0])

    def when_shown(self, numbers: Sequence[int]) -> Deferred[None]:
        """
        Wait until rooms have shown those of these that went to rooms.

        Returns:
            It fails with `NotSent` as soon as one of them comes back, also if that was before. Cancelling it ends the
            waiting only.
        """
        # One that came back before this is asked is for no room any more.
        return self._fates.wait(each for each in numbers if each in self._for_rooms or self._fates.has_failed(each))

    def _forget(self, key: _Key) -> _Pushed | None:
        pushed = self._pushed.pop(key, None)
        if pushed is not None:
            self._bytes -= len(pushed[1].xml)
            self._for_rooms.discard(pushed[0])
        return pushed
