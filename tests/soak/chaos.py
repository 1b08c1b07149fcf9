"""What is done to a gateway, its server and its webhook at random: faults that begin and end by themselves."""

from __future__ import annotations

import heapq
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from random import Random
from typing import Any

from attrs import define, field, frozen

from tests.soak.disk import SmallDisk
from tests.soak.kept import Kept, left_behind
from tests.soak.rig import Rig

__all__ = ["Chaos", "Fault"]


@frozen
class Fault:
    """
    Something that was done.

    Attributes:
        kind: The name of the method of `Chaos`; for the webhook its way of failing.
        began: When, by this machine's monotonic clock.
        ended: When all was as before.
    """

    kind: str
    began: float
    ended: float

    def overlap(self, since: float, until: float) -> float:
        """Seconds of a time in which it was there."""
        return max(0.0, min(until, self.ended) - max(since, self.began))


WEBHOOK_FAULTS: dict[str, dict[str, Any]] = {
    "busy": {"busy": 0.3},
    "stalls": {"stall": 0.05, "stall_seconds": 30.0},
    "hung": {"stall": 1.0, "stall_seconds": 30.0},
    "half failing": {"error": 0.2, "busy": 0.2, "reset": 0.1},
    "rate limit": {"per_second": 30},
}
"""The ways in which the webhook fails, but for being away (`tests.soak.webhook.Faults`)."""


@define
class Chaos:
    """
    Does its worst to a rig for a time: to the gateway and its server one thing after another, and to the webhook beside
    that. Each kind comes once before any comes again.

    Attributes:
        rig: Whom it is done to.
        random: Draws what, when, and for how long.
        scale: Of all times: 1 in full.
        disk: Where the spool is, if it can be filled.
        latency: Of the webhook when it is well.
        done: What was done.
        found: In the file after each end of a gateway; when that was.
    """

    rig: Rig
    random: Random
    scale: float = 1.0
    disk: SmallDisk | None = None
    latency: float = 0.02
    done: list[Fault] = field(factory=list)
    found: list[tuple[float, Kept]] = field(factory=list)
    _due: list[tuple[float, int, Callable[[], None]]] = field(factory=list, init=False)
    _numbers: Iterator[int] = field(factory=count, init=False)
    _until: float = field(default=0.0, init=False)

    def run(self, seconds: float) -> None:
        """Begin new faults for so long, and wait for the end of the last."""
        self._until = time.monotonic() + seconds
        self._later(0.5, self._next_of_gateway, self._shuffled(self._gateway_faults()))
        self._later(0.2, self._next_of_webhook, self._shuffled(["away", "resetting", *WEBHOOK_FAULTS]))
        while self._due:
            at, _, act = heapq.heappop(self._due)
            time.sleep(max(0.0, at - time.monotonic()))
            act()

    def kinds(self) -> dict[str, int]:
        """How often each kind came."""
        kinds = [fault.kind for fault in self.done]
        return {kind: kinds.count(kind) for kind in sorted(set(kinds))}

    def _later(self, seconds: float, act: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), lambda: act(*arguments)))

    def _seconds(self, least: float, most: float) -> float:
        return self.random.uniform(least, most) * self.scale

    def _shuffled(self, kinds: list[Any]) -> Iterator[Any]:
        """All of them in one random order after another."""
        while True:
            yield from self.random.sample(kinds, len(kinds))

    # -- the gateway, and its server --

    def _gateway_faults(self) -> list[Callable[[], float]]:
        faults = [self.kill, self.terminate, self.cut, self.close, self.deaf, self.stop, self.lock]
        return faults if self.disk is None else [*faults, self.fill]

    def _next_of_gateway(self, kinds: Iterator[Callable[[], float]]) -> None:
        if time.monotonic() < self._until:
            fault = next(kinds)
            seconds = fault()
            if fault != self.stop and self.random.random() < 0.3:
                seconds *= self.random.random()  # The next comes before this one is over.
            else:
                seconds += self._seconds(1.0, 6.0)
            self._later(seconds, self._next_of_gateway, kinds)

    def kill(self) -> float:
        """End the gateway by kill -9, and start the next a moment later."""
        began = time.monotonic()
        self.rig.kill_gateway()
        return self._start_again("kill", began)

    def terminate(self) -> float:
        """End it by SIGTERM, and start the next."""
        began = time.monotonic()
        self.rig.gateway.terminate(40.0)
        return self._start_again("terminate", began)

    def _start_again(self, kind: str, began: float) -> float:
        self.found.append((time.monotonic(), left_behind(self.rig.spool)))
        time.sleep(self._seconds(0.0, 1.0))
        self.rig.start_gateway(wait=False)
        self.done.append(Fault(kind, began, time.monotonic()))
        return 0.0

    def cut(self) -> float:
        """The server is killed, and back soon or after a while."""
        return self._server_away("cut", polite=False)

    def close(self) -> float:
        """The server closes the stream, and is back likewise."""
        return self._server_away("close", polite=True)

    def _server_away(self, kind: str, polite: bool) -> float:
        self.rig.load.ask("cut", polite=polite)
        seconds = self._seconds(*self.random.choice([(0.0, 1.0), (4.0, 10.0)]))
        return self._ends(kind, seconds, lambda: self.rig.load.ask("open"))

    def deaf(self) -> float:
        """The server does not read for a while."""
        self.rig.load.ask("read", on=False)
        return self._ends("deaf", self._seconds(1.0, 6.0), lambda: self.rig.load.ask("read", on=True))

    def stop(self) -> float:
        """The gateway stands still (SIGSTOP)."""
        pid = self.rig.gateway.pid
        os.kill(pid, signal.SIGSTOP)
        return self._ends("stop", self._seconds(0.5, 3.0), lambda: os.kill(pid, signal.SIGCONT))

    def lock(self) -> float:
        """Another program keeps the spool's file to itself."""
        connection = sqlite3.connect(self.rig.spool, timeout=5.0, isolation_level=None)
        with suppress(sqlite3.OperationalError):
            connection.execute("BEGIN IMMEDIATE")
        return self._ends("lock", self._seconds(0.5, 8.0), connection.close)

    def fill(self) -> float:
        """The disk is full."""
        assert self.disk is not None
        self.disk.fill()
        return self._ends("fill", self._seconds(2.0, 8.0), self.disk.free)

    # -- the webhook --

    def _next_of_webhook(self, kinds: Iterator[str]) -> None:
        if time.monotonic() >= self._until:
            return
        kind, webhook = next(kinds), self.rig.webhook
        if kind in WEBHOOK_FAULTS:
            webhook.ask("fault", latency=self.latency, **WEBHOOK_FAULTS[kind])
            seconds = self._seconds(10.0, 30.0) if kind in ("half failing", "rate limit") else self._seconds(2.0, 10.0)
        else:
            webhook.ask("away", resetting=kind == "resetting")
            seconds = self._seconds(2.0, 8.0)
        self._ends(kind, seconds, self._webhook_well)
        self._later(seconds + self._seconds(1.0, 5.0), self._next_of_webhook, kinds)

    def _webhook_well(self) -> None:
        self.rig.webhook.ask("fault", latency=self.latency)
        self.rig.webhook.ask("listen")

    def _ends(self, kind: str, seconds: float, end: Callable[[], Any]) -> float:
        """Let a fault end after so many seconds; returns them."""
        began = time.monotonic()

        def act() -> None:
            end()
            self.done.append(Fault(kind, began, time.monotonic()))

        self._later(seconds, act)
        return seconds
