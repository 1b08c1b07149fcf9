"""The log of deliveries for clients with `admin = true`: list it, show a delivery, replay it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred

from component_http.api.exchange import Answer, Call, Problem, json_answer
from component_http.contract.address import Address, NotAnAddress
from component_http.contract.ended import (
    OUTCOMES,
    EndedDelivery,
    ReplayResult,
    WhichEnded,
    as_json,
    result_as_json,
)
from component_http.contract.stanza import STANZA_KINDS
from component_http.errors import SpoolError
from component_http.interfaces.spools import DeliveryLog

LISTED = 100
MOST_LISTED = 1000
"""Deliveries in one answer, unless the request says otherwise, and at most."""

MOST_REPLAYS = 1000
"""Entries of one id that are looked at: a delivery, and the replays of it."""

T = TypeVar("T")


@frozen
class Deliveries:
    """
    Carries out requests about deliveries that have ended.

    Args:
        log: The log; None where none is kept.
        replay: Replays a delivery by its number, and sends what the webhook answers or not.
    """

    log: DeliveryLog | None = None
    replay: Callable[[int, bool], Deferred[ReplayResult]] | None = None

    async def list(self, call: Call) -> Answer:
        """Carry out `GET /v1/deliveries`: the newest first."""
        which = WhichEnded(
            sender=_address(call, "from"),
            recipient=_address(call, "to"),
            outcomes=_names(call, "outcome", OUTCOMES),
            kinds=_names(call, "kind", STANZA_KINDS),
            since=_moment(call, "since"),
            until=_moment(call, "until"),
        )
        limit = _whole(call, "limit", MOST_LISTED) or LISTED
        found, before = await self._newest(which, _whole(call, "before", 1 << 62), limit)
        listed = [as_json(each, whole=False) for each in found]
        return json_answer(200, {"deliveries": listed, "before": before})

    async def show(self, call: Call, delivery_id: str) -> Answer:
        """Carry out `GET /v1/deliveries/{id}`: the delivery, and the replays of it, oldest first."""
        found, _ = await self._newest(WhichEnded(id=delivery_id), None, MOST_REPLAYS)
        log = self._kept_log()
        lives = [await _now(log.one(each.number)) for each in reversed(found) if each.id == delivery_id]
        if not lives:
            raise Problem(404, "there is no such delivery in the log")
        return json_answer(200, {"deliveries": [as_json(each) for each in lives if each is not None]})

    async def post_again(self, call: Call, delivery_id: str) -> Answer:
        """Carry out `POST /v1/deliveries/{id}/replay`."""
        send = call.argument("send") or "false"
        if send not in ("true", "false"):
            raise Problem(400, "send: it is true or false")
        found, _ = await self._newest(WhichEnded(id=delivery_id, replays=False), None, MOST_REPLAYS)
        mine = [each for each in found if each.id == delivery_id]
        if not mine or self.replay is None:
            raise Problem(404, "there is no such delivery in the log")
        result = await _now(self.replay(mine[0].number, send == "true"))
        if result.refused is not None:
            raise Problem(409, f"it is not replayed: {result.refused}")
        return json_answer(200, result_as_json(result))

    def _kept_log(self) -> DeliveryLog:
        if self.log is None:
            raise Problem(404, "the gateway keeps no log of deliveries: see spool.keep_ended")
        return self.log

    async def _newest(
        self, which: WhichEnded, before: int | None, limit: int
    ) -> tuple[Sequence[EndedDelivery], int | None]:
        """Find the newest deliveries that fit a filter, and the number to go on with; a long log is read in parts."""
        log, found = self._kept_log(), list[EndedDelivery]()
        while True:
            some, before = await _now(log.newest(which, before, limit - len(found)))
            found += some
            if before is None or len(found) >= limit:
                return found, before


NO_LOG = Deliveries()
"""Where no log is kept."""


async def _now(asked: Deferred[T]) -> T:
    """Wait for the spool."""
    try:
        return await asked
    except SpoolError as error:
        raise Problem(503, f"the spool cannot do it now: {error}", headers={"Retry-After": "5"}) from None


def _address(call: Call, name: str) -> Address | None:
    text = call.argument(name)
    try:
        return None if text is None else Address.parse(text)
    except NotAnAddress as error:
        raise Problem(400, f"{name}: it is not an address: {error}") from None


def _names(call: Call, name: str, allowed: Sequence[str]) -> tuple[str, ...]:
    text = call.argument(name)
    found = () if text is None else tuple(each.strip() for each in text.split(","))
    if not all(each in allowed for each in found):
        raise Problem(400, f"{name}: it takes {', '.join(allowed)}, with commas between them")
    return found


def _whole(call: Call, name: str, most: int) -> int | None:
    text = call.argument(name)
    if text is None:
        return None
    if not re.fullmatch("[0-9]{1,19}", text) or not 1 <= int(text) <= most:
        raise Problem(400, f"{name}: it is a number from 1 to {most}")
    return int(text)


def _moment(call: Call, name: str) -> float | None:
    text = call.argument(name)
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
        return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise Problem(400, f"{name}: it is not a time such as 2026-11-26T14:00:00Z") from None
