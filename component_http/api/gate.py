"""The gate of a port: how fast it accepts connections."""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IDelayedCall, IPushProducer

from component_http.api.connection import Site
from component_http.api.rate import Rate
from component_http.log import Logger
from component_http.throttle import Folded

PAUSE = 1.0
"""
Seconds for which no connection is accepted after one too many. Meanwhile they wait in the system's queue, which costs
nothing; to accept and close each of them takes half as much as an answer.
"""


class Gate:
    """
    Closes connections that are too many in a short time, so that a flood of them holds nobody up.

    Args:
        per_second: The connections that may come in within a second, and four times as many once in a while.

    Attributes:
        port: The open port; None while there is none.
    """

    _log = Logger()

    def __init__(self, site: Site, per_second: int) -> None:
        self.port: Any = None
        self._site = site
        self._rate = Rate(4 * per_second, 4.0)
        self._lines = Folded(site.clock.seconds)
        self._opening: IDelayedCall | None = None

    def lets_in(self) -> bool:
        """Say whether the connection that has just come may stay."""
        if not self._rate.wait(self._site.clock.seconds()):
            return True
        self._site.observer.count("api_busy")
        self._lines.write(
            "rate",
            self._log.warn,
            "too many connections to {name} come in a short time, so some are closed at once",
            name=self._site.name,
        )
        if self._opening is None and IPushProducer.providedBy(self.port):
            self.port.pauseProducing()
            self._opening = self._site.clock.callLater(PAUSE, self._open)
        return False

    def _open(self) -> None:
        self._opening = None
        self.port.resumeProducing()

    def close(self) -> None:
        """Leave the port alone from now on."""
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        self.port = None
