"""Many deliveries that end at the same time, some in each turn of the reactor."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from component_http.contract.delivery import Delivery

SLICE = 100
"""Deliveries that end at once; after that others get a turn."""


def by_slices(clock: IReactorTime, deliveries: list[Delivery], end: Callable[[Delivery], object]) -> None:
    """End some deliveries at once and the others in later turns; `end` is also told those that have ended meanwhile."""
    for delivery in deliveries[:SLICE]:
        end(delivery)
    if len(deliveries) > SLICE:
        clock.callLater(0, by_slices, clock, deliveries[SLICE:], end)
