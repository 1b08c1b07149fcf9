"""Look after a spool on disk once a second, and carry out what other programs have asked for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from component_http.contract.delivery import by_domain
from component_http.contract.ended import ReplayResult
from component_http.contract.explanation import Explanation
from component_http.delivery.outbox import Outbox
from component_http.delivery.relay import Relay
from component_http.delivery.replays import NO_BODY, Replays
from component_http.delivery.status import STATES, Status
from component_http.errors import SpoolError
from component_http.interfaces import Found, Spool
from component_http.log import Logger
from component_http.spool.facts import answer, facts_of_each, facts_of_webhook, read_replay_argument, replay_result

INTERVAL = 1.0
"""Seconds between two looks: whoever retries a dead letter does not want to wait."""


RESULTS = 50
"""Results of replays that are told; the commands that asked look several times in a second."""


class Served(Protocol):
    """A component that is served; `connected`: there is a stream to its XMPP server."""

    relay: Relay
    outbox: Outbox

    @property
    def connected(self) -> bool: ...  # pragma: no cover


class Caretaker:
    """
    Looks after a spool that other programs use too, from its making until `stop`.

    Args:
        spool: The spool; all of it was read.
        served: Each component by its domain; it changes when components come and go.
        wake: Has all webhooks asked at once.
        replays: Replays deliveries; None where no log of them is kept.
    """

    _log = Logger()

    def __init__(
        self,
        spool: Spool,
        served: Mapping[str, Served],
        *,
        wake: Callable[[], object],
        clock: IReactorTime,
        replays: Replays | None = None,
    ) -> None:
        self._spool = spool
        self._served = served
        self._wake = wake
        self._replays = replays
        # The last results of replays, by the numbers of the commands.
        self._results: dict[str, list[object]] = {}
        self._looking = LoopingCall(self._look)
        self._looking.clock = clock
        self._looking.start(INTERVAL)

    def stop(self) -> None:
        if self._looking.running:
            self._looking.stop()

    def _look(self) -> Deferred[Any]:
        return self._look_and_tell({}).addErrback(self._not_looked)

    def _look_and_tell(self, more: dict[str, str]) -> Deferred[Any]:
        """Look once, and leave facts: those about the webhook that is least well, and more."""
        states = {domain: serving.relay.status() for domain, serving in self._served.items()}
        of_each = {domain: _facts_of(status) for domain, status in states.items()}
        facts: dict[str, str] = {}
        if states:
            facts = of_each[min(states, key=lambda domain: STATES.index(states[domain].webhook))]
        # Where one is left of several, nothing is to be told of the others any more.
        facts = {**facts, **(facts_of_each(of_each) if len(states) > 1 else {"webhooks": ""})}
        # A component without room keeps retried deliveries of the others waiting for a moment.
        room = min((serving.relay.room_to_return for serving in self._served.values()), default=0)
        return self._spool.look({**facts, **more}, room).addCallback(self._found)

    def _found(self, found: Found) -> Deferred[Any] | None:
        served = [*self._served.values()]
        for domain, deliveries in by_domain(found.deliveries).items():
            if domain in self._served:  # else the next start finds it
                self._served[domain].relay.take_back(deliveries)
        for delivery_id in found.dropped_deliveries if served else ():
            # What is in the spool only is anybody's to drop.
            owner = next((each for each in served if each.relay.explain(delivery_id) is not None), served[0])
            owner.relay.drop([delivery_id])
        for each in served:
            if found.dropped_outbound:
                each.outbox.dropped(found.dropped_outbound)
            if found.outbound_stanzas:
                each.outbox.read_all()
        if found.wake:
            self._wake()
        for number, argument in found.replays:
            self._replay(number, argument)
        if not found.questions:
            return None
        # Whoever asked waits for the answer, so it does not wait for the next look.
        connected, now = all(serving.connected for serving in self._served.values()), time.time()
        return self._look_and_tell({"pending": answer(found.questions, self._explain, connected=connected, now=now)})

    def _replay(self, command: int, argument: str) -> None:
        asked = read_replay_argument(argument)
        if asked is None:
            return
        number, send = asked
        replays = self._replays
        replayed = succeed(ReplayResult(NO_BODY)) if replays is None else replays.replay(number, send)
        replayed.addCallbacks(self._replayed, self._not_replayed, (command,), errbackArgs=(command,))
        replayed.addErrback(self._not_looked)

    def _replayed(self, result: ReplayResult, command: int) -> Deferred[Any]:
        """Tell whoever waits for it at once."""
        number = None if result.delivery is None else result.delivery.number
        self._results[str(command)] = replay_result(number, result.refused, sent=result.sent)
        while len(self._results) > RESULTS:
            del self._results[next(iter(self._results))]
        return self._look_and_tell({"replays": json.dumps(self._results)})

    def _not_replayed(self, failure: Failure, command: int) -> Deferred[Any] | None:
        if failure.check(CancelledError):
            return None  # it is cut off by the stop, which whoever waits sees
        if not failure.check(SpoolError):
            self._log.failure("cannot replay a delivery", failure=failure)
            return self._replayed(ReplayResult("an internal error: the log of the gateway has it"), command)
        return self._replayed(ReplayResult(f"the spool cannot do it now: {failure.getErrorMessage()}"), command)

    def _explain(self, delivery_id: str) -> Explanation | None:
        found = (serving.relay.explain(delivery_id) for serving in self._served.values())
        return next((each for each in found if each is not None), None)

    def _not_looked(self, failure: Failure) -> None:
        """Leave what a full disk prevents for a later look; the relay says what comes of it."""
        if not failure.check(SpoolError):
            self._log.failure("cannot look after the spool", failure=failure)


def _facts_of(status: Status) -> dict[str, str]:
    return facts_of_webhook(status.webhook, status.failing_for, status.last_failure, status.next_attempt, time.time())
