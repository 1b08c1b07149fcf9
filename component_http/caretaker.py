"""Look after a spool on disk once a second, and carry out what other programs have asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from component_http.delivery.outbox import Outbox
from component_http.delivery.relay import Relay
from component_http.errors import SpoolError
from component_http.interfaces import Found, Spool
from component_http.log import Logger
from component_http.spool.facts import answer, facts_of_webhook

INTERVAL = 1.0
"""Seconds between two looks: whoever retries a dead letter does not want to wait."""


class Caretaker:
    """
    Looks after a spool that other programs use too, from its making until `stop`.

    Args:
        spool: The spool; all of it was read.
        relay: Takes deliveries that somebody retries or drops, and says why others wait.
        outbox: Takes stanzas that somebody retries or drops.
        connected: Says whether there is a stream to the XMPP server.
        wake: Has the webhook asked at once.
    """

    _log = Logger()

    def __init__(
        self,
        spool: Spool,
        relay: Relay,
        outbox: Outbox,
        *,
        connected: Callable[[], bool],
        wake: Callable[[], object],
        clock: IReactorTime,
    ) -> None:
        self._spool = spool
        self._relay = relay
        self._outbox = outbox
        self._connected = connected
        self._wake = wake
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock
        self._looking.start(INTERVAL)

    def stop(self) -> None:
        if self._looking.running:
            self._looking.stop()

    def _look(self) -> Deferred[Any]:
        return self._look_and_tell({}).addErrback(self._not_looked)

    def _look_and_tell(self, more: dict[str, str]) -> Deferred[Any]:
        """Look once, and leave facts: those about the webhook, and more."""
        status = self._relay.status()
        facts = facts_of_webhook(
            status.webhook, status.failing_for, status.last_failure, status.next_attempt, time.time()
        )
        return self._spool.look({**facts, **more}, self._relay.room_to_return).addCallback(self._found)

    def _found(self, found: Found) -> Deferred[Any] | None:
        self._relay.take_back(found.deliveries)
        self._relay.drop(found.dropped_deliveries)
        if found.dropped_outbound:
            self._outbox.dropped(found.dropped_outbound)
        if found.outbound_stanzas:
            self._outbox.read_all()
        if found.wake:
            self._wake()
        if not found.questions:
            return None
        # Whoever asked waits for the answer, so it does not wait for the next look.
        connected, now = self._connected(), time.time()
        return self._look_and_tell(
            {"pending": answer(found.questions, self._relay.explain, connected=connected, now=now)}
        )

    def _not_looked(self, failure: Failure) -> None:
        """Leave what a full disk prevents for a later look; the relay says what comes of it."""
        if not failure.check(SpoolError):
            self._log.failure("cannot look after the spool", failure=failure)
