"""The connections to one origin: how many there are, and which of them are idle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from component_http.errors import ConnectionFailed
from component_http.tls import tls_failure
from component_http.webhook.connection import Connection
from component_http.webhook.time_limits import TimeLimits


class Pool:
    """
    At most so many connections to one origin; the idle ones are kept for a while.

    Attributes:
        clock, secure, body_limit: See `component_http.webhook.connection.Pool`.
        closed: No connection is kept any more.
    """

    def __init__(
        self,
        endpoint: Any,
        clock: Any,
        limits: TimeLimits,
        freed: Callable[[], None],
        *,
        secure: bool,
        connect_timeout: float,
        max_connections: int,
        body_limit: Callable[[int], int],
    ) -> None:
        """
        Args:
            limits: The time limits of idle connections are among these.
            freed: Called when a connection is idle, and when there is one less.

        The other arguments are those of `component_http.webhook.agent.PooledAgent`.
        """
        self.clock = clock
        self.secure = secure
        self.body_limit = body_limit
        self.closed = False
        self._endpoint = endpoint
        self._limits = limits
        self._freed = freed
        self._connect_timeout = connect_timeout
        self._max_connections = max_connections
        # In the order in which they became idle.
        self._idle: dict[Connection, None] = {}
        self._connections: set[Connection] = set()
        self._connecting = 0

    def take(self) -> Connection | None:
        """Take the connection that became idle last; None if there is none. Its time limit is for the caller to end."""
        while self._idle:
            connection, _ = self._idle.popitem()
            if not connection.stale():
                return connection
            self._limits.end(connection)
            connection.leave()
        return None

    def has_room(self) -> bool:
        """Whether one more connection may be opened."""
        return len(self._connections) + self._connecting < self._max_connections

    def make_room(self) -> bool:
        """Close the connection that has been idle longest, unless another closes already; False if none was closed."""
        if not self._idle or any(connection.leaving for connection in self._connections):
            return False
        self._dismiss(next(iter(self._idle)))
        return True

    def open(self) -> Deferred[Connection]:
        """
        Open a connection that requests may be sent over; cancelling ends it.

        Returns:
            Fires with the connection, or fails with a `WebhookError`.
        """
        self._connecting += 1
        opened = Deferred.fromCoroutine(self._opened())
        return opened.addTimeout(self._connect_timeout, self.clock, lambda _, seconds: Failure(no_connection(seconds)))

    async def close(self) -> None:
        """Drop the idle connections, and wait until all are gone that have been told to close."""
        for connection in tuple(self._idle):
            self._dismiss(connection)
        for connection in [each for each in self._connections if each.leaving]:
            await connection.when_gone()

    def park(self, connection: Connection, seconds: float) -> None:
        """See `component_http.webhook.connection.Pool.park`."""
        if self.closed:
            connection.leave()
            return
        self._idle[connection] = None
        self._limits.begin(connection, seconds, self._dismiss)
        self._freed()

    def gone(self, connection: Connection) -> None:
        """See `component_http.webhook.connection.Pool.gone`."""
        self._idle.pop(connection, None)
        self._limits.end(connection)
        self._connections.discard(connection)
        self._freed()

    def _dismiss(self, connection: Connection) -> None:
        self._idle.pop(connection)
        self._limits.end(connection)
        connection.leave()

    async def _opened(self) -> Connection:
        connection = None
        try:
            connection = await self._connected()
            await connection.ready
        except CancelledError:
            if connection is not None:
                connection.abort()
            raise
        except Exception as error:
            raise tls_failure(error) or ConnectionFailed(str(error).rstrip(".") or type(error).__name__) from error
        return connection

    async def _connected(self) -> Connection:
        factory = Factory.forProtocol(lambda: Connection(self))
        factory.noisy = False
        try:
            connection = await _endpoint_connected(self._endpoint, factory)
        except Exception:
            self._connecting -= 1
            self._freed()
            raise
        self._connecting -= 1
        self._connections.add(connection)
        return connection


def no_connection(seconds: float) -> ConnectionFailed:
    """Make the error for a connection that did not come about in time."""
    return ConnectionFailed(f"no connection within {seconds:g} s")


def _endpoint_connected(endpoint: Any, factory: Factory[Any]) -> Deferred[Connection]:
    """Connect; unlike the endpoint's own Deferred, which may say that DNS failed, a cancelled one says so."""
    cancelled = False

    def cancel(_opened: Deferred[Connection]) -> None:
        nonlocal cancelled
        cancelled = True
        connecting.cancel()

    def connected(connection: Any) -> None:
        opened.callback(connection)

    def failed(reason: Any) -> None:
        if not cancelled:
            opened.errback(reason)

    opened: Deferred[Connection] = Deferred(cancel)
    connecting = endpoint.connect(factory)
    connecting.addCallbacks(connected, failed)
    return opened
