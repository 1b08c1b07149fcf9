"""The spool's thread: it takes orders and notes, makes transactions of them, and answers."""

from __future__ import annotations

import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from component_http.errors import ComponentHttpError, SpoolError
from component_http.spool.database import is_damage, opened
from component_http.spool.orders import Call, End, Order
from component_http.spool.room import allocate_index
from component_http.spool.rows import text_of
from component_http.spool.session import Session, Setup
from component_http.spool.transaction import BUSY_SLICE

MAX_GROUP = 1000
"""Orders of one transaction at most: the first should not wait for all that came after it."""

MANY = 16
GATHER = 0.002
"""
Orders of a transaction from which on much is going on; and seconds for which the next one then gathers more of them.

Each transaction waits for the disk, and each of its statements for Python's lock, so fewer of them cost less.
"""

_PASSING = (sqlite3.OperationalError, ComponentHttpError, OSError)
"""The errors that are due to the file or to its disk, and not to an order."""


class Writer:
    """
    The spool's thread, from the first order to the end.

    Args:
        setup: The file, and the state that outlives the thread.
        call: Calls a function in the reactor's thread, where `answer` gets each group, and `ended` is the last call.
        committed: Called, in the spool's thread, after each transaction that wrote something, with the seconds that it
            took.
    """

    def __init__(
        self,
        setup: Setup,
        *,
        call: Callable[..., Any],
        answer: Callable[[Sequence[Order]], None],
        committed: Callable[[float], None],
        ended: Callable[[], None],
    ) -> None:
        self._setup = setup
        self._call = call
        self._answer = answer
        self._committed = committed
        self._ended = ended
        self._queue: SimpleQueue[Sequence[Order | None]] = SimpleQueue()
        # Orders that were taken from the queue and are in no group yet; None ends the thread.
        self._to_do: deque[Order | None] = deque()
        self._session: Session | None = None
        self._busy = False
        self._thread = Thread(target=self._run, name="spool", daemon=True)
        self._thread.start()

    # -- in the reactor's thread --

    def put(self, asked: Sequence[Order | None]) -> None:
        """Carry out orders, in one transaction if it can be; after None the thread ends."""
        self._queue.put(asked)

    def join(self) -> None:
        """Wait for the thread, whose last deed is to call `ended`."""
        self._thread.join()

    # -- in the spool's thread --

    def _run(self) -> None:
        ends = False
        while not ends:
            group, ends = self._next_group()
            self._busy = len(group) >= MANY
            self._do(group)
            if group:
                self._call(self._answer, group)
        self._write_arrears()
        if self._session is not None:
            self._session.close()
        self._call(self._ended)

    def _next_group(self) -> tuple[list[Order], bool]:
        """Wait for an order; those that are there by then are done with it. And whether the group is the last."""
        group: list[Order] = []
        size = 0
        while not group or (len(group) < MAX_GROUP and size < self._setup.emergency.group_bytes):
            if not self._to_do:
                try:
                    self._to_do.extend(self._queue.get(block=not group))
                    if not group and self._busy:
                        with suppress(OSError):  # a clock that is set meanwhile
                            time.sleep(GATHER)
                except Empty:
                    break
            order = self._to_do.popleft()
            if order is None:
                return group, True
            group.append(order)
            size += order.size
        return group, False

    def _do(self, group: Sequence[Order]) -> None:
        """Carry out a group. Where one order cannot be carried out, the others are."""
        emergency = self._setup.emergency
        looks = any(isinstance(order, Call) and order.method is Session.look for order in group)
        if looks:
            emergency.look(self._connection())
        if not emergency.going_on:
            try:
                self._carry_out(group)
            except Exception as error:
                if emergency.is_full(error):
                    emergency.begin(self._connection())
                elif len(group) > 1 and not isinstance(error, _PASSING):
                    self._do_one_by_one(group)
                    return
                else:
                    self._failed(group, error)
                    return
            else:
                return
        self._do_on_full_disk(group)
        if looks:
            self._write_arrears()

    def _do_on_full_disk(self, group: Sequence[Order]) -> None:
        """Refuse new orders, and carry out the others as far as there is room: all at once, or else one by one."""
        refusal = self._setup.emergency.refusal()
        others = []
        for order in group:
            if order.is_new:
                order.error = refusal
            else:
                others.append(order)
        try:
            self._carry_out(others, 0)
        except Exception as error:
            if self._setup.emergency.is_full(error):
                self._setup.emergency.empty_log(self._connection())
                self._do_one_by_one(others, 0)
            else:
                self._failed(others, error)

    def _do_one_by_one(self, group: Sequence[Order], arrears: int = MAX_GROUP) -> None:
        for order in group:
            order.error = None
            try:
                self._carry_out([order], arrears)
            except Exception as error:
                self._failed([order], error)

    def _carry_out(self, group: Sequence[Order], arrears: int = MAX_GROUP) -> None:
        session = self._session or self._open()
        began = time.monotonic()
        if session.carry_out(group, arrears):
            self._committed(time.monotonic() - began)

    def _write_arrears(self) -> None:
        """Write the arrears, or as much of them as there is room for."""
        size = MAX_GROUP
        while size and self._setup.arrears:
            try:
                self._carry_out((), size)
            except Exception as error:
                if not self._setup.emergency.is_full(error):
                    return
                size //= 8
                self._setup.emergency.empty_log(self._connection())

    def _failed(self, group: Sequence[Order], error: Exception) -> None:
        """Tell that orders were not carried out; a delivery that ends without outbound stanzas ends later."""
        passing = isinstance(error, _PASSING) or is_damage(error)
        for order in group:
            if isinstance(order, End) and not order.rows:
                # A dead letter that is itself the reason would keep everything after it from being written.
                self._setup.arrears.postpone(order, order.dead_letter if passing else None)
        if self._setup.emergency.is_full(error):
            error = self._setup.emergency.refusal()
            self._setup.emergency.empty_log(self._connection())
        elif passing:
            error = SpoolError(str(error))
        for order in group:
            order.error = error

    def _connection(self) -> sqlite3.Connection | None:
        return None if self._session is None else self._session.connection

    def _open(self) -> Session:
        path, emergency = self._setup.path, self._setup.emergency
        emergency.before_opening()
        connection = opened(path, synchronous=self._setup.synchronous)
        try:
            connection.text_factory = text_of
            connection.execute(f"PRAGMA busy_timeout = {BUSY_SLICE * 1000:.0f}")
            session = Session(connection, self._setup)
            if not allocate_index(path):
                raise emergency.refusal()
            emergency.opened(connection)
        except BaseException:
            connection.close()
            raise
        self._session = session
        return session
