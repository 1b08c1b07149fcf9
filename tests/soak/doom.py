"""A gateway that kills itself at a named point: what a kill -9 leaves behind there is then no matter of luck."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Mapping
from typing import Any

from component_http.contract.reply import Response
from component_http.operations.metrics import Counters
from component_http.webhook.client import WebhookClient

__all__ = ["DOOM", "POINTS", "Doom", "DoomedWebhook"]

DOOM = "SOAK_DOOM"
"""The environment variable with a point and a number, such as `accepted 100`."""

POINTS: Mapping[str, str] = {
    "connected": "the stream is there, and nothing was written to it",
    "committed": "the file has a transaction, and nobody has heard of it",
    "accepted": "a delivery is stored, and waits for its turn",
    "attempted": "a POST is about to begin",
    "answered": "the webhook's answer was read, and nothing was made of it",
    "replied": "a delivery has ended in the file, and its reply has not left",
    "barrier_sent": "replies were written, and a barrier is about to be",
    "barrier_returned": "a barrier came back, and what it confirms is not noted",
    "restored": "some of what the file had was taken in charge again",
}
"""Where a gateway can be told to end, before and after each change of state; most are counted by the gateway."""


class Doom:
    """
    Ends the process when a point is passed for the so-manieth time.

    Args:
        point: One of `POINTS`.
        times: 1 for the first time.
    """

    def __init__(self, point: str, times: int) -> None:
        assert point in POINTS, point
        self._point = point
        self._left = times

    @classmethod
    def from_order(cls, order: str) -> Doom:
        """Read what `DOOM` says."""
        point, _, times = order.partition(" ")
        return cls(point, int(times))

    def passed(self, point: str) -> None:
        """Note that a point is passed; this may be the last that the process does."""
        if point == self._point:
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, counters: Counters, reactor: Any) -> None:
        """Be told of what is counted, and of each transaction: the spool's thread speaks of it to the reactor."""
        count, call = counters.count, reactor.callFromThread

        def counted(event: str) -> None:
            self.passed(event)
            count(event)

        def called(function: Any, *arguments: Any, **named: Any) -> None:
            if threading.current_thread().name == "spool":
                self.passed("committed")
            call(function, *arguments, **named)

        counters.count = counted  # type: ignore[method-assign]
        reactor.callFromThread = called


class DoomedWebhook:
    """
    A `Webhook` of which each answer is a point.

    Args:
        client: Makes the requests.
        doom: Told `answered`.
    """

    def __init__(self, client: WebhookClient, doom: Doom) -> None:
        self._client = client
        self._doom = doom

    async def post(self, body: bytes, headers: Mapping[str, str], *, fresh: bool = False) -> Response:
        """See `component_http.interfaces.Webhook.post`."""
        response = await self._client.post(body, headers, fresh=fresh)
        self._doom.passed("answered")
        return response
