"""The log of deliveries of a spool on disk: the reactor's side of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import astuple, define
from twisted.internet.defer import Deferred

from component_http.contract.ended import EndedAttempt, EndedDelivery, WhichEnded
from component_http.spool.journal import Journal
from component_http.spool.rows import json_of
from component_http.spool.session import Session


def attempt_row(attempt: EndedAttempt) -> list[object]:
    """An attempt as `Journal` writes it."""
    times = [
        each if each is None else int(each * 1e6) for each in (attempt.seconds, attempt.connecting, attempt.first_byte)
    ]
    return [attempt.number, int(attempt.began * 1e3), *times, *astuple(attempt)[5:9], None]


@define(eq=False)
class SqliteLog:
    """
    A `DeliveryLog` in a spool's file; `component_http.interfaces.spools.DeliveryLog` describes its methods.

    Args:
        tracer: Collects what is written.
        call: Has the spool's thread call a method of the session.
    """

    tracer: Journal
    _call: Callable[..., Deferred[Any]]

    def newest(
        self, which: WhichEnded, before: int | None, limit: int
    ) -> Deferred[tuple[list[EndedDelivery], int | None]]:
        return self._call(Session.ended, which, before, limit)

    def one(self, number: int) -> Deferred[EndedDelivery | None]:
        return self._call(Session.ended_one, number)

    def body(self, number: int) -> Deferred[bytes | None]:
        return self._call(Session.ended_body, number)

    def record(self, replay: EndedDelivery) -> Deferred[int]:
        attempts = json_of([attempt_row(each) for each in replay.attempts])
        stanzas = json_of([astuple(each)[:6] for each in replay.stanzas])
        return self._call(Session.record_replay, replay, attempts, stanzas, size=len(attempts) + len(stanzas))
