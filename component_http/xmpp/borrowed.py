"""The stream of an application that has one already."""

from __future__ import annotations

import time
from collections.abc import Callable

from twisted.internet.defer import Deferred, succeed
from twisted.words.xish.domish import Element
from wokkel.subprotocols import StreamManager

from component_http.contract.outbound import Fate, OutboundStanza
from component_http.contract.xml import Limits
from component_http.interfaces import Observer
from component_http.xmpp.outgoing_check import OutgoingCheck


class BorrowedStream:
    """
    The stream of a StreamManager that somebody else owns, as an `Outlet` and a `Valve`.

    What we send there is checked and escaped as on our own stream. Everything else is up to the owner: reading is not
    paused, sending while offline is queued as the owner queues, and nothing is known of a crowd.

    Args:
        manager: Has, or will have, a component's stream.
        observer: Told `unsendable` and `unanswered`.
        sent: Told each stanza that we send (`Rooms.sent`).
    """

    def __init__(
        self,
        manager: StreamManager,
        domain: str,
        limits: Limits,
        observer: Observer,
        sent: Callable[[OutboundStanza], object] = lambda outbound: None,
    ) -> None:
        self._manager = manager
        self._check = OutgoingCheck(domain, limits, observer, sent, time.monotonic)

    def send(self, element: Element) -> bool:
        """Send one stanza, as the owner's stream sends; False if it may not be sent."""
        passed = self._check.passed(element)
        for outbound in passed:
            self._manager.send(outbound.xml.decode("utf-8"))
        return bool(passed)

    def depart(self, outbound: OutboundStanza, tell: Callable[[Fate], None]) -> bool:
        """Send it, as the owner's stream sends; that counts as confirmed, for nothing more is known of it."""
        self._manager.send(outbound.xml.decode("utf-8"))
        self._check.sent(outbound)
        tell("confirmed")
        return True

    def give_back(self) -> None:
        """Do nothing: what waits is the owner's."""

    @property
    def connected(self) -> bool:
        """There is a stream, as far as that is known."""
        return self._manager.xmlstream is not None

    @property
    def certificate_ends(self) -> float | None:
        """None: how the stream is protected is the owner's business."""
        return None

    @property
    def unsent(self) -> int:
        """None, as far as that is known."""
        return 0

    @property
    def crowded(self) -> bool:
        """Never: how much waits is the owner's to know."""
        return False

    def when_clear(self) -> Deferred[None]:
        """Fire at once."""
        return succeed(None)

    def when_sent(self) -> Deferred[None]:
        """Fire at once."""
        return succeed(None)

    def pause(self) -> None:
        """Do nothing: reading is the owner's."""

    def resume(self) -> None:
        """Do nothing: reading is the owner's."""
