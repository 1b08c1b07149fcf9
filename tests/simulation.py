"""
Hours of a webhook in trouble, in seconds: the real relay, a webhook that is a rule, and a clock that jumps.

`python -m tests.simulation [SECONDS]` prints tables of many webhooks; `tests/unit/test_simulation.py` asserts the main
ones.
"""

from __future__ import annotations

import heapq
import sys
from bisect import insort
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from random import Random
from typing import Any

from attrs import define, field
from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.words.xish.domish import Element

from component_http.contract.reply import Response
from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_COMPONENT
from component_http.delivery.relay import Relay
from component_http.errors import ConnectionCut, TimedOut, WebhookError
from component_http.operations.metrics import Counters
from component_http.testing import RecordingOutlet
from tests.relay_world import DOMAIN, relay_world

Verdict = Response | WebhookError
Rule = Callable[["World", str], "tuple[float, Verdict]"]
"""Says of a request, given the world and the `webhook-id`, how many seconds it takes and what comes of it."""


class SortedClock(Clock):
    """A `Clock` that is not slow with thousands of timers: it sorts them only where one was reset."""

    def __init__(self) -> None:
        super().__init__()
        self._mixed = False

    def callLater(self, delay: float, callable: Any, *args: object, **kw: object) -> DelayedCall:
        at = self.seconds() + delay
        call = DelayedCall(at, callable, args, kw, self.calls.remove, self._reset, self.seconds)
        insort(self.calls, call, key=DelayedCall.getTime)
        return call

    def _reset(self, _: DelayedCall) -> None:
        self._mixed = True

    def _sortCalls(self) -> None:
        if self._mixed:
            super()._sortCalls()
            self._mixed = False


@define
class World:
    """
    A gateway between users and a webhook, and what happened in it.

    Attributes:
        rule: What the webhook does.
        users: The number of users; they write by turns.
        posts: When each POST began, and of which delivery it was.
        answered: When each delivery was answered with success.
    """

    rule: Rule
    users: int = 1000
    seed: int = 1
    connections: int = 32
    timeout: float = 60.0
    grace: float = 0.0
    max_attempts: int = 10
    random: Random = field(init=False)
    clock: Clock = field(factory=SortedClock)
    counters: Counters = field(factory=Counters)
    posts: list[tuple[float, str]] = field(factory=list)
    answered: list[float] = field(factory=list)
    under_way: int = 0
    most_pending: int = 0
    accepted_at: dict[str, float] = field(factory=dict)
    iq_waits: list[float] = field(factory=list)
    relay: Relay = field(init=False)
    _numbers: Iterator[int] = field(factory=count)

    def __attrs_post_init__(self) -> None:
        self.random = Random(self.seed)
        self.clock.advance(1_000_000.0)
        ids = count()
        self.relay = relay_world(
            self,
            self.clock,
            counters=self.counters,
            outlet=_Sink(),
            max_running=self.connections,
            max_attempts=self.max_attempts,
            draw=self.random.random,
            grace=self.grace,
            new_id=lambda: f"d{next(ids)}",
        ).relay

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self.clock.seconds() - 1_000_000.0

    async def post(self, body: bytes, headers: Mapping[str, str], *, fresh: bool = False) -> Response:
        """See `component_http.interfaces.Webhook.post`."""
        self.posts.append((self.now, headers["webhook-id"]))
        seconds, outcome = self.rule(self, headers["webhook-id"])
        self.under_way += 1
        try:
            if seconds >= self.timeout:
                seconds, outcome = self.timeout, TimedOut("60 s")
            await self._after(seconds)
        finally:
            self.under_way -= 1
        if isinstance(outcome, WebhookError):
            raise outcome
        if outcome.status < 300:
            self.answered.append(self.now)
        return outcome

    async def _after(self, seconds: float) -> None:
        done: Deferred[None] = Deferred()
        call = self.clock.callLater(seconds, done.callback, None)
        try:
            await done
        finally:
            if call.active():
                call.cancel()

    def say(self, sender: str, kind: str = "message") -> None:
        """Let somebody write."""
        element = Element((NS_COMPONENT, kind))
        element["from"], element["to"], element["id"] = (
            f"{sender}@example.org/r",
            f"bot@{DOMAIN}",
            str(next(self._numbers)),
        )
        element["type"] = "chat" if kind == "message" else "get"
        self.relay.accept(Stanza.from_element(element))
        self.most_pending = max(self.most_pending, self.relay.pending)

    def say_many(self, number: int, per_second: float = float("inf"), kind: str = "message") -> None:
        """Let the users write so many messages, by turns, from now on."""
        began = self.clock.seconds()

        def one(index: int) -> None:
            while index < number:
                at = began + index / per_second
                if at > self.clock.seconds():
                    self.clock.callLater(at - self.clock.seconds(), one, index)
                    return
                self.say(f"u{index % self.users}", kind)
                index += 1

        one(0)

    def run(self, seconds: float) -> None:
        """Let so much time pass, timer by timer."""
        end = self.clock.seconds() + seconds
        while True:
            self.clock.advance(0.0)
            at = self.clock.calls[0].getTime() if self.clock.calls else end
            if at >= end:
                break
            self.clock.advance(max(0.0, at - self.clock.seconds()))
        self.clock.advance(end - self.clock.seconds())

    def ended(self) -> int:
        """Deliveries that were answered or bounced."""
        return sum(self.counters[name] for name in ("replied", "silent", "bounced", "refused_reply"))


class _Sink(RecordingOutlet):
    def send(self, element: Element) -> bool:
        return True

    def depart(self, *_: Any, **__: Any) -> bool:
        return True


OK = Response(204)

SHARES = (0.10, 0.25, 0.33, 0.50, 0.75)


def at_random(share: float, failure: Callable[[], Verdict], seconds: float = 0.005) -> Rule:
    """A webhook that fails so large a share of the requests, whatever is asked of it."""

    def rule(world: World, _: str) -> tuple[float, Verdict]:
        return seconds, failure() if world.random.random() < share else OK

    return rule


def rejection(status: int = 429, retry_after: str | None = None) -> Response:
    """What a webhook says that gets too much."""
    return Response(status, {} if retry_after is None else {"retry-after": retry_after})


def bucket(
    per_second: float | Callable[[float], float], size: float | None = None, seconds: float = 0.005, **said: Any
) -> Rule:
    """A webhook that takes so many requests per second (or, by a function, at a time), and more at first."""
    rate = per_second if callable(per_second) else lambda now: per_second
    state = {"tokens": rate(0.0) if size is None else size, "at": 0.0}

    def rule(world: World, _: str) -> tuple[float, Verdict]:
        most = rate(world.now) if size is None else size
        state["tokens"] = min(most, state["tokens"] + rate(world.now) * (world.now - state["at"]))
        state["at"] = world.now
        if state["tokens"] < 1:
            return 0.005, rejection(**said)
        state["tokens"] -= 1
        return seconds, OK

    return rule


def windows(number: int, length: float, seconds: float = 0.005, phase: float = 0.0, **said: Any) -> Rule:
    """A webhook that takes so many requests in each period of so many seconds."""
    state = {"period": -1, "left": 0}

    def rule(world: World, _: str) -> tuple[float, Verdict]:
        period = int((world.now + phase) // length)
        if period != state["period"]:
            state["period"], state["left"] = period, number
        if state["left"] < 1:
            return 0.005, rejection(**said)
        state["left"] -= 1
        return seconds, OK

    return rule


WIRE = 0.001
"""Seconds from the moment that a worker is free to the arrival of what follows its answer."""


def workers(number: int, seconds: Callable[[Random], float], **said: Any) -> Rule:
    """A webhook with so many workers, which rejects what comes while all of them are busy."""
    busy: list[float] = []

    def rule(world: World, _: str) -> tuple[float, Verdict]:
        while busy and busy[0] <= world.now:
            heapq.heappop(busy)
        if len(busy) >= number:
            return 0.002, rejection(503, **said)
        takes = seconds(world.random)
        heapq.heappush(busy, world.now + takes)
        return takes + WIRE, OK

    return rule


def _failures(seconds: float) -> None:
    print(f"100 messages per second of 3000 users for {seconds:g} s, of which a share fails at random")
    print("fails      ended    refused  expired  bounced  requests per success  unavoidable  pending  breaker opened")
    for word, failure in (
        ("429", rejection),
        ("503", lambda: rejection(503)),
        ("500", lambda: Response(500)),
        ("cut", lambda: ConnectionCut("cut")),
    ):
        for share in SHARES:
            world = World(at_random(share, failure), users=3000)
            world.say_many(int(100 * seconds), 100)
            world.run(seconds)
            counters = world.counters
            refused = counters["refused_full"] + counters["refused_conversation_full"] + counters["refused_unfair"]
            print(
                f"{word} {share:4.0%}  {world.ended():7}  {refused:7}  {counters['expired']:7}"
                f"  {counters['bounced']:7}  {len(world.posts) / max(1, len(world.answered)):20.2f}"
                f"  {1 / (1 - share):11.2f}  {world.most_pending:7}  {counters['breaker_opened']:14}",
                flush=True,
            )


def _limits() -> None:
    print("a backlog of 9000 meets a webhook with a limit")
    print(f"{'webhook':<44}  accepted, in parts of the limit, per 10 s    requests each  breaker opened")
    for status, retry_after in ((429, None), (429, "1"), (503, None), (503, "1")):
        said = {"status": status, "retry_after": retry_after}
        name = f"{status}{' Retry-After: 1' if retry_after else ''}"
        for rate in (10, 100, 1000):
            _row(f"{rate} per second, {name}", bucket(rate, **said), rate)
            _row(f"{rate} per second, few at once, {name}", bucket(rate, rate / 10 + 1, **said), rate)
            _row(f"{rate} in 1 s, {name}", windows(rate, 1.0, phase=0.5, **said), rate)
            _row(f"{10 * rate} in 10 s, {name}", windows(10 * rate, 10.0, phase=6.0, **said), rate)
    for rate in (10, 100):
        for latency in (0.05, 0.3, 2.0):
            _row(f"{rate} per second, 429, {latency:g} s each", bucket(rate, seconds=latency), min(rate, 28 / latency))
    for number, latency in ((4, 0.05), (8, 0.5), (8, 2.0), (16, 0.2)):
        best = number / latency
        _row(f"{number} workers, 503, {latency:g} s each", workers(number, lambda _, s=latency: s), best)
        some = workers(number, lambda random, s=latency: random.expovariate(1 / s))
        _row(f"{number} workers, 503, {latency:g} s on average", some, best)
    for after in (20.0, 300.0):
        rule = bucket(lambda now, after=after: 100.0 if now < 20 else after, 20)
        _row(f"100 per second, and {after:g} from 20 s on", rule, 100.0)


def _row(name: str, rule: Rule, best: float) -> None:
    world = World(rule, users=100_000)
    world.say_many(9000)
    shares = []
    while len(shares) < 6 and len(world.answered) < 8000:
        before = len(world.answered)
        world.run(10)
        shares.append(f"{(len(world.answered) - before) / 10 / best:4.0%}")
    requests = len(world.posts) / max(1, len(world.answered))
    print(f"{name:<44}  {' '.join(shares):<44}  {requests:13.2f}  {world.counters['breaker_opened']:14}", flush=True)


if __name__ == "__main__":
    _failures(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0)
    _limits()
