"""
Orders: the work that the reactor's thread asks the spool's thread for.

The orders of a group are written together, in few statements, so those that insert rows are values. All others are
calls of a method of `session.Session`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, frozen
from twisted.internet.defer import Deferred

from component_http.contract.delivery import DeadLetter
from component_http.contract.idempotency import IdempotencyRecord
from component_http.spool.rows import Row


@define(eq=False)
class Order:
    """
    A piece of work.

    Attributes:
        done: Fires in the reactor's thread with the result; None where nobody waits.
        size: Bytes that are written for it, roughly.
    """

    done: Deferred[Any] | None
    size: int

    @property
    def is_new(self) -> bool:
        """Say whether the order takes room without ending anything that was accepted."""
        return True


@define(eq=False)
class Store(Order):
    """Insert a delivery: a row of `delivery_rows.row_of`."""

    row: Row


@define(eq=False)
class Push(Order):
    """Insert rows of `outbound_rows.rows_of`, and keep a record with their numbers; asked at `seconds`."""

    rows: Sequence[Row]
    record: IdempotencyRecord | None
    seconds: float


@define(eq=False)
class End(Push):
    """Do the same at the end of a delivery, which is `now` by the wall clock."""

    delivery_id: str
    dead_letter: DeadLetter | None
    now: float

    @property
    def is_new(self) -> bool:
        """Say no: the order ends a delivery."""
        return False


@define(eq=False)
class Call(Order):
    """Call a method of the session, with the transaction and these arguments."""

    method: Callable[..., object]
    arguments: tuple[Any, ...] = ()

    @property
    def is_new(self) -> bool:
        """Say whether the order takes room."""
        return self.size > 0


@frozen
class Result:
    """The value of an order that was carried out, or the error of one that was not."""

    order: Order
    value: object = None
    error: Exception | None = None
