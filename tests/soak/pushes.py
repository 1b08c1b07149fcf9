"""The clients of the gateway's API in a run: each pushes one message after another, each until it is taken."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPException
from itertools import count

from tests.integration.api_gateway import ApiClient

__all__ = ["Pushers"]


class Pushers:
    """
    Some clients in threads, with some recipients each.

    Args:
        port: Where the API listens.
        clients: How many there are.
        rate: Pushes per second of all of them together.

    Attributes:
        taken: The numbers of pushes that were told 202, in each client's order.
        told: How often each status was told; 0 for no answer.
    """

    RECIPIENTS = 5
    """Of each client."""

    def __init__(self, port: int, clients: int, rate: float) -> None:
        self._api = ApiClient(port)
        self._rest = clients / rate
        self._numbers = count()
        self._done = threading.Event()
        self._given_up = threading.Event()
        self.taken: list[int] = []
        self.told: Counter[int] = Counter()
        self._threads = [
            threading.Thread(target=self._push_on, args=(client,), daemon=True) for client in range(clients)
        ]
        for thread in self._threads:
            thread.start()

    def _push_on(self, client: int) -> None:
        turn = 0
        while not self._done.wait(self._rest):
            number = next(self._numbers)
            turn += 1
            while not self._given_up.is_set():
                status = self._push(number, f"p{client}-{turn % self.RECIPIENTS}@load.localhost")
                self.told[status] += 1
                if status == 202:
                    self.taken.append(number)
                    break
                time.sleep(0.2)

    def _push(self, number: int, to: str) -> int:
        with suppress(OSError, HTTPException):
            body = {"to": to, "from": "bot@bot.localhost", "body": f"P{number}"}
            headers = {"Idempotency-Key": f"push-{number}"}
            return self._api.ask("POST", "/v1/messages", body, headers=headers, seconds=15.0).status
        return 0

    def stop(self, seconds: float) -> bool:
        """Push nothing more; returns whether all that was begun was taken within so many seconds."""
        self._done.set()
        until = time.monotonic() + seconds
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        all_taken = not any(thread.is_alive() for thread in self._threads)
        self._given_up.set()
        return all_taken

    @staticmethod
    def strange(told: Counter[int], expected: Sequence[int] = (0, 202, 409, 503)) -> list[int]:
        """Statuses that there is no reason for."""
        return sorted(set(told) - set(expected))
