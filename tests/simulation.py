"""
Hours of a webhook in trouble, in seconds: the real relay, a webhook that is a rule, and a clock that jumps.

`python -m tests.simulation` prints a table of many webhooks; `tests/unit/test_simulation.py` asserts the main ones.
"""

from __future__ import annotations

import heapq
import time
from bisect import insort
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import count
from random import Random
from typing import Any

from attrs import define, field
from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.words.xish.domish import Element

from component_http.contract import reply
from component_http.contract.reply import Response
from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_COMPONENT, Limits
from component_http.delivery.backlog import Backlog, BacklogLimits
from component_http.delivery.breaker import Breaker
from component_http.delivery.departures import Departures
from component_http.delivery.forwarder import Forwarder
from component_http.delivery.load import Load
from component_http.delivery.relay import Relay
from component_http.delivery.retry import RetryPolicy
from component_http.errors import ConnectionCut, ConnectionFailed, TimedOut, WebhookError
from component_http.operations.metrics import Counters
from component_http.spool.memory import MemorySpool
from component_http.testing import RecordingOutlet, RecordingValve

DOMAIN = "bot.example.org"

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
        forwarder = Forwarder(
            self,
            partial(reply.judge, domain=DOMAIN, limits=Limits(), new_id=lambda: "fresh"),
            self.counters,
            policy=RetryPolicy(max_attempts=self.max_attempts),
            load=Load(self.connections, learns=self.max_attempts > 1),
            breaker=Breaker(),
            on_gone=None,
            clock=self.clock,
            now=self.clock.seconds,
            draw=self.random.random,
        )
        spool, outlet, ids = MemorySpool(), _Sink(), count()
        self.relay = Relay(
            forwarder,
            spool,
            Backlog(BacklogLimits(), self.connections),
            outlet,
            Departures(spool, outlet, self.counters, clock=self.clock, domain=DOMAIN, limits=Limits()),
            RecordingValve(),
            self.counters,
            clock=self.clock,
            new_id=lambda: f"d{next(ids)}",
            wall=self.clock.seconds,
            deadlines={"message": 900.0, "iq": 25.0, "presence": 60.0},
            grace=self.grace,
            loop_guard=None,
        )

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
        element["from"], element["to"], element["id"] = f"{sender}@example.org/r", f"bot@{DOMAIN}", str(next(self._numbers))
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

    def depart(self, *_: Any) -> bool:
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
        return takes, OK

    return rule


def _failures(seconds: float) -> None:
    print(f"100 messages per second for {seconds:g} s, of which a share fails at random:")
    for word, failure in (
        ("429", lambda: rejection()),
        ("503", lambda: rejection(503)),
        ("500", lambda: Response(500)),
        ("cut", lambda: ConnectionCut("cut")),
    ):
        for share in SHARES:
            began = time.perf_counter()
            world = World(at_random(share, failure), users=3000)
            world.say_many(int(100 * seconds), 100)
            world.run(seconds)
            ended = world.ended()
            goodput = ended / seconds
            refused = sum(world.counters[name] for name in world.counters if name.startswith("refused_f") or name.startswith("refused_c") or name.startswith("refused_u"))
            print(
                f"  {word} {share:4.0%}: ended {ended} of {int(100 * seconds)} ({goodput:5.1f}/s), {refused} refused,"
                f" expired {world.counters['expired']}, bounced {world.counters['bounced']},"
                f" requests per success {len(world.posts) / max(1, len(world.answered)):.2f} (at best {1 / (1 - share):.2f}),"
                f" at most {world.most_pending} pending, breaker opened {world.counters['breaker_opened']}"
                f" [{time.perf_counter() - began:.0f} s]",
                flush=True,
            )


def _limits() -> None:
    print("a backlog meets a webhook with a limit: seconds for the first so many, then accepted per second")

    def row(name: str, rule: Rule, best: float, *, users: int = 100_000, number: int = 9000, seconds: float = 60.0, **more: Any) -> None:
        began = time.perf_counter()
        world = World(rule, users=users, **more)
        world.say_many(number)
        world.run(seconds)
        answered = world.answered
        last = answered[-1] if len(answered) == number else seconds
        late = [at for at in answered if at >= 10]
        span = last - 10
        steady = f"{len(late) / span / best:5.0%}" if span > 5 else "  all"
        print(
            f"  {name:<58} {len(answered):5} in {last:5.1f} s ({len(answered) / last / best:4.0%} of the limit; after 10 s"
            f" {steady}), {len(world.posts) / max(1, len(answered)):.2f} requests each,"
            f" breaker {world.counters['breaker_opened']} [{time.perf_counter() - began:.0f} s]",
            flush=True,
        )

    for status in (429, 503):
        for retry_after in (None, "1"):
            said = {"status": status, "retry_after": retry_after}
            name = f"{status}{'' if retry_after is None else ' Retry-After: 1'}"
            for rate in (10, 100, 1000):
                row(f"bucket {rate}/s, {name}", bucket(rate, **said), rate, seconds=60 if rate < 1000 else 9)
                row(f"bucket {rate}/s, small, {name}", bucket(rate, rate / 10 + 1, **said), rate, seconds=60 if rate < 1000 else 9)
                row(f"{rate} in 1 s, {name}", windows(rate, 1.0, phase=0.5, **said), rate, seconds=60 if rate < 1000 else 9)
                row(f"{10 * rate} in 10 s, {name}", windows(10 * rate, 10.0, phase=0.0, **said), rate, seconds=80 if rate < 1000 else 9)
                row(f"{10 * rate} in 10 s, met in the middle, {name}", windows(10 * rate, 10.0, phase=6.0, **said), rate, seconds=80 if rate < 1000 else 9)
    for latency in (0.05, 0.3, 2.0):
        best = min(100.0, 32 / latency)
        row(f"bucket 100/s, 429, latency {latency:g} s", bucket(100, seconds=latency), best)
        best = min(10.0, 32 / latency)
        row(f"bucket 10/s, 429, latency {latency:g} s", bucket(10, seconds=latency), best)
    for number, latency in ((4, 0.05), (8, 0.5), (8, 2.0), (16, 0.2)):
        best = number / latency
        row(f"{number} workers of {latency:g} s, 503", workers(number, lambda _, s=latency: s), best)
        row(f"{number} workers of {latency:g} s, 503 Retry-After: 1", workers(number, lambda _, s=latency: s, retry_after="1"), best)
        row(f"{number} workers of {latency:g} s on average, 503", workers(number, lambda r, s=latency: r.expovariate(1 / s)), best)
    print("a limit of 100/s that changes after 30 s: accepted per second in the 30 s from 10 s after that")
    for name, after in (("falls to 20/s", 20.0), ("rises to 300/s", 300.0), ("ends", 1e9)):
        world = World(bucket(lambda now, after=after: 100.0 if now < 30 else after, 20), users=100_000)
        world.say_many(9900)
        world.run(30)
        world.say_many(9000 - 300)
        world.run(10)
        before = len(world.answered)
        world.run(5)
        print(f"  {name}: {(len(world.answered) - before) / 5:.1f}/s", flush=True)


if __name__ == "__main__":
    import sys

    if "failures" in sys.argv or len(sys.argv) == 1:
        _failures(600.0 if "long" in sys.argv else 60.0)
    if "limits" in sys.argv or len(sys.argv) == 1:
        _limits()
