"""The places for connections to the API: which connection has one, and which one makes room."""

from __future__ import annotations

from component_http.api.connection import Connection, Site
from component_http.log import Logger
from component_http.throttle import Folded


class Places:
    """
    The places for connections, so that strangers cannot keep clients with a token out.

    Attributes:
        taken: The connections that have a place, the oldest first.
        turned_away: The connections that have none and are told 503; at most as many as there are places.
        closing: Set it to True, and no request is begun any more.
    """

    _log = Logger()

    def __init__(self, site: Site, size: int) -> None:
        self.taken: dict[Connection, None] = {}
        self.turned_away: set[Connection] = set()
        self.closing = False
        self._site = site
        self._size = size
        self._lines = Folded(site.clock.seconds)

    def enter(self) -> Connection | None:
        """
        Accept a connection.

        When all places are taken, clients with a token must get in all the same. So a new connection gets the place of
        the oldest whose client has shown no token and has no request under way, or else of the oldest with no request
        under way. One that has sent something and waits for its turn stays before others, for it may show a token. The
        connection that loses its place is told 503; where all places are needed, the new one is.

        Returns:
            None if even the connections that are told 503 are too many.
        """
        if len(self.taken) < self._size:
            return self._placed()
        self._lines.write(
            "busy",
            self._log.warn,
            "{name} has {places} connections, as many as it may have: new ones take the places of idle ones, and some"
            " are told 503",
            name=self._site.name,
            places=self._size,
        )
        idle = (one for one in self.taken if not one.under_way)
        evicted = min(idle, key=lambda one: (one.has_token, one.waits_for_turn), default=None)
        if evicted is not None:
            self._evict(evicted)
            return self._placed()
        self._site.observer.count("api_busy")
        if len(self.turned_away) >= self._size:
            return None
        connection = Connection(self._site, self, has_place=False)
        self.turned_away.add(connection)
        return connection

    def _placed(self) -> Connection:
        connection = Connection(self._site, self, has_place=True)
        self.taken[connection] = None
        return connection

    def bound_arriving(self) -> None:
        """
        Let requests that come without a token have no more than half of the places while their bodies come in.

        Without this, a client that knows the URL of one hook could take all places by bodies that never end.
        """
        arriving = [one for one in self.taken if one.arrives_by_url]
        if len(arriving) > max(1, self._size // 2):
            self._evict(arriving[0])

    def _evict(self, connection: Connection) -> None:
        self._site.observer.count("api_evicted")
        del self.taken[connection]
        if len(self.turned_away) >= self._size:
            connection.drop()
        else:
            self.turned_away.add(connection)
            connection.turn_away()

    def leave(self, connection: Connection) -> None:
        """Forget a connection that is closed."""
        self.taken.pop(connection, None)
        self.turned_away.discard(connection)

    def close(self) -> None:
        """Close all connections."""
        for connection in (*self.taken, *self.turned_away):
            connection.stop()
