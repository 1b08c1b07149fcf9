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

TRUSTED_SECONDS = 60.0
"""
Seconds after its handshake from which on a connection over TLS is not kept any more: certificates are looked at only in
a handshake, and the other side's may have ended or been revoked since, or the files with ours may have changed.
"""


class Pool:
    """
    At most so many connections to one origin; the idle ones are kept for a while.

    Attributes:
        clock: An `IReactorTime`.
        secure: The connections run over TLS: the handshake counts as part of connecting.
        body_limit: The bytes of body to read at most, given the status.
        where: The origin, for sentences.
        closed: No connection is kept any more.
        freed: Called when a connection is idle, and when there is one less.
        limits: The time limits of the idle connections, and those of the requests beside them.
    """

    def __init__(
        self,
        endpoint: Any,
        clock: Any,
        *,
        where: str,
        secure: bool,
        connect_timeout: float,
        max_connections: int,
        body_limit: Callable[[int], int],
    ) -> None:
        """
        Args:
            endpoint: An `IStreamClientEndpoint`: connects to the origin; with TLS around it where `secure`.
            connect_timeout: Seconds that connecting and the TLS handshake may take.
            max_connections: Connections at once, idle and closing ones included.
        """
        self.clock = clock
        self.where = where
        self.secure = secure
        self.body_limit = body_limit
        self.closed = False
        self.freed: Callable[[], None] = lambda: None
        self.limits = TimeLimits(clock)
        self._endpoint = endpoint
        self._connect_timeout = connect_timeout
        self._max_connections = max_connections
        # In the order in which they became idle.
        self._idle: dict[Connection, None] = {}
        # By each, the time at which it came about.
        self._connections: dict[Connection, float] = {}
        self._connecting = 0

    def take(self) -> Connection | None:
        """Take the connection that became idle last; None if there is none. Its time limit is for the caller to end."""
        while self._idle:
            connection, _ = self._idle.popitem()
            if not connection.stale():
                return connection
            self.limits.end(connection)
            connection.leave()
        return None

    def has_room(self) -> bool:
        """Tell whether one more connection may be opened."""
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
        return opened.addTimeout(
            self._connect_timeout, self.clock, lambda _, seconds: Failure(self.no_connection(seconds))
        )

    async def close(self) -> None:
        """Drop the idle connections, and wait until all are gone that have been told to close."""
        for connection in tuple(self._idle):
            self._dismiss(connection)
        for connection in [each for each in self._connections if each.leaving]:
            await connection.when_gone()

    def park(self, connection: Connection, seconds: float) -> None:
        """Keep a connection whose response is complete for another request, for so long at most."""
        if self.closed or (self.secure and self.clock.seconds() - self._connections[connection] >= TRUSTED_SECONDS):
            connection.leave()
            return
        self._idle[connection] = None
        self.limits.begin(connection, seconds, self._dismiss)
        self.freed()

    def gone(self, connection: Connection) -> None:
        """Forget a connection, because its socket is closed."""
        self._idle.pop(connection, None)
        self.limits.end(connection)
        self._connections.pop(connection, None)
        self.freed()

    def _dismiss(self, connection: Connection) -> None:
        self._idle.pop(connection)
        self.limits.end(connection)
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
            failure = tls_failure(error, self.where)
            if failure is None and connection is not None:
                failure = ConnectionFailed(
                    f"{self.where} closed the connection in the TLS handshake: check that the port is one for TLS"
                )
            raise failure or ConnectionFailed(str(error).rstrip(".") or type(error).__name__) from error
        return connection

    async def _connected(self) -> Connection:
        factory = Factory.forProtocol(lambda: Connection(self))
        factory.noisy = False
        try:
            connection: Connection = await self._endpoint.connect(factory)
        except Exception:
            self._connecting -= 1
            self.freed()
            raise
        self._connecting -= 1
        self._connections[connection] = self.clock.seconds()
        return connection

    def no_connection(self, seconds: float) -> ConnectionFailed:
        """Make the error for a connection that did not come about in time."""
        tls = ", TLS included" if self.secure else ""
        return ConnectionFailed(
            f"no connection to {self.where} within {seconds:g} s{tls}: check that it answers, and what lies between"
        )
