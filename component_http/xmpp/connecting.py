"""Keeps connecting to the server until it is told to stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from random import Random

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from component_http.log import Logger
from component_http.waiters import Waiters

FIRST_RETRY, LAST_RETRY = 1.0, 60.0
"""Shortest and longest wait between two connections, in seconds."""


@define(eq=False)
class ConnectLoop:
    """
    Connects again after each connection, with a back-off; it is made for one run of the service.

    Args:
        connect: Connects, and returns when the connection has ended.

    Attributes:
        failures: Connections in a row that were not good.
        stopping: There is no next connection.
        stopped: Those who wait for the end.
    """

    _log = Logger()

    _connect: Callable[[], Awaitable[None]]
    _clock: IReactorTime
    _random: Random
    _running: Deferred[None] | None = field(init=False, default=None)
    _ended: Deferred[None] = field(init=False, factory=Deferred)
    failures: int = field(init=False, default=0)
    stopping: bool = field(init=False, default=False)
    stopped: Waiters = field(init=False, factory=Waiters)

    def begin(self) -> None:
        """Connect for the first time."""
        self._running = Deferred.fromCoroutine(self._stay_connected())
        self._running.addErrback(self._broken).chainDeferred(self._ended)

    def stop(self, close: Callable[[], bool], closed: Callable[[], object]) -> None:
        """Connect no more; `close` says whether there is a connection, and closes it, `closed` is called then."""
        self.stopping = True
        if not close() and self._running is not None:
            self._running.cancel()
        self._ended.addCallback(lambda _: closed())

    def _broken(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("the stream gave up: internal error", failure=failure)

    async def _stay_connected(self) -> None:
        while not self.stopping:
            await self._connect()
            if self.stopping:
                return
            self.failures += 1
            longest = min(LAST_RETRY, FIRST_RETRY * 2.0 ** min(self.failures, 10))
            delay = self._random.uniform(FIRST_RETRY, longest)
            self._log.debug("connecting again in {delay:.1f} s", delay=delay)
            await deferLater(self._clock, delay)
