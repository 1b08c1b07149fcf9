"""Webhooks in trouble, over minutes: the real relay by a clock that jumps."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from twisted.trial.unittest import SynchronousTestCase

from component_http.contract.reply import Response
from component_http.errors import ConnectionCut, ConnectionFailed
from tests.simulation import OK, Rule, Verdict, World, at_random, bucket, rejection, windows, workers


class RandomFailureTests(SynchronousTestCase):
    """A webhook that fails a share of all requests, whatever it is asked for."""

    def world(self, share: float, failure: Callable[[], Verdict]) -> World:
        world = World(at_random(share, failure), users=3000)
        world.say_many(3000, per_second=100)
        world.run(40)
        return world

    def test_goodput(self) -> None:
        """
        Up to half of all may fail, in any way: everything gets through, without more requests than there must be.
        """
        failures: tuple[Callable[[], Verdict], ...] = (
            rejection,
            lambda: rejection(503),
            lambda: Response(500),
            lambda: ConnectionCut("cut"),
        )
        for failure in failures:
            for share in (0.1, 0.33, 0.5):
                with self.subTest(share=share, failure=failure()):
                    world = self.world(share, failure)
                    self.assertGreater(world.ended(), 2900)
                    self.assertLess(len(world.posts) / len(world.answered), 1.25 / (1 - share))
                    self.assertLess(world.most_pending, 500)
                    self.assertEqual(0, world.counters["refused_full"] + world.counters["expired"])


class LimitTests(SynchronousTestCase):
    """A webhook that takes so much and no more."""

    def share(self, rule: Rule, rate: float, *, settle: float = 10.0, seconds: float = 20.0) -> float:
        """What part of its limit a webhook takes of a backlog, once there was time to find the limit."""
        world = World(rule, users=10_000)
        world.say_many(min(9000, int(rate * (settle + seconds) * 1.5)))
        world.run(settle)
        before = len(world.answered)
        world.run(seconds)
        return (len(world.answered) - before) / seconds / rate

    def test_rates(self) -> None:
        """
        A limit of requests per second is found within ten seconds, whatever its shape and the way it is told.
        """
        for status, retry_after in ((429, None), (429, "1"), (503, None), (503, "1")):
            said = {"status": status, "retry_after": retry_after}
            for name, rule, rate in (
                ("100 per second", bucket(100, **said), 100.0),
                ("10 per second, few at once", bucket(10, 3, **said), 10.0),
                ("100 in each second", windows(100, 1.0, phase=0.5, **said), 100.0),
            ):
                with self.subTest(name, **said):
                    self.assertGreater(self.share(rule, rate), 0.9)

    def test_long_windows(self) -> None:
        """
        A limit per ten seconds is found when the first of them are over.
        """
        share = self.share(windows(200, 10.0), 20.0, settle=10.0, seconds=40.0)
        self.assertGreater(share, 0.9)

    def test_workers(self) -> None:
        """
        A webhook that answers 503 when all its workers are busy is asked by as many as there are.
        """
        for number, seconds in ((4, 0.05), (8, 0.5), (8, 2.0)):
            for retry_after in (None, "1"):
                with self.subTest(number=number, seconds=seconds, retry_after=retry_after):
                    rule = workers(number, lambda _, seconds=seconds: seconds, retry_after=retry_after)
                    self.assertGreater(self.share(rule, number / seconds), 0.85)

    def test_workers_of_random_speed(self) -> None:
        """
        It is so however long each request takes.
        """
        for number, seconds in ((4, 0.05), (8, 0.5), (16, 0.2)):
            with self.subTest(number=number, seconds=seconds):
                rule = workers(number, lambda random, seconds=seconds: random.expovariate(1 / seconds))
                self.assertGreater(self.share(rule, number / seconds), 0.85)

    def test_pauses_are_no_time(self) -> None:
        """
        A webhook that takes 1000 per second, and says 503 for a second beyond that, is known after three seconds.
        """
        said = {"status": 503, "retry_after": "1"}
        self.assertGreater(self.share(bucket(1000, 101, **said), 1000.0, settle=3.0, seconds=5.0), 0.9)

    def test_backlog_of_a_thousand(self) -> None:
        """
        A webhook that takes 100 per second, and says 429 beyond that, has a thousand within twelve seconds.
        """
        world = World(bucket(100, retry_after="1"))
        world.say_many(1000)
        world.run(12)
        self.assertEqual(1000, len(world.answered))
        self.assertLess(len(world.posts), 1250)

    def test_changes(self) -> None:
        """
        A limit that falls is found again within ten seconds, and so is one that rises, even tenfold.
        """
        for after, wait in ((20.0, 10.0), (300.0, 10.0), (1000.0, 10.0)):
            world = World(bucket(lambda now, after=after: 100.0 if now < 20 else after, 20), users=10_000)
            world.say_many(9900)
            world.run(20 + wait)
            before = len(world.answered)
            world.run(3)
            self.assertGreater((len(world.answered) - before) / 3 / after, 0.9)


class OutageTests(SynchronousTestCase):
    """A webhook that is away, and back."""

    def test_found_soon(self) -> None:
        """
        A webhook that is back after 12 seconds is asked within two, whether one waits for it or many.
        """
        for number in (1, 3, 200):
            world = World(lambda world, _: (0.001, ConnectionFailed("refused")) if world.now < 12 else (0.005, OK))
            world.say_many(number)
            world.run(30)
            self.assertTrue(12 <= min(world.answered) <= 14.1)
            self.assertEqual(number, len(world.answered))

    def test_one_probe_in_two_seconds(self) -> None:
        """
        While it is away it is asked once in two seconds, by all in turn.
        """
        world = World(lambda world, _: (0.001, ConnectionFailed("refused")))
        world.say_many(50)
        world.run(100)
        late = [post for post in world.posts if post[0] > 1]
        self.assertGreaterEqual(min(after - before for (before, _), (after, _) in pairwise(late)), 1.999)
        self.assertGreater(len({delivery for _, delivery in late}), 25)

    def test_hung(self) -> None:
        """
        A webhook that hung for 100 seconds, and lost all that it was asked by then, is asked within eight.
        """

        def rule(world: World, _: str) -> tuple[float, Verdict]:
            return (1e9, OK) if world.now < 100 else (0.005, OK)

        world = World(rule)
        world.say_many(200)
        world.run(130)
        self.assertTrue(100 <= min(world.answered) <= 108, min(world.answered))

    def test_slow_bots_are_back(self) -> None:
        """
        Bots that think for 20 seconds are found to be back, too.
        """
        world = World(lambda world, _: (0.001, ConnectionFailed("refused")) if world.now < 12 else (20.0, OK))
        world.say_many(200)
        world.run(60)
        self.assertTrue(32 <= min(world.answered) <= 36, min(world.answered))
        self.assertGreater(world.under_way, 20)

    def test_long_outage(self) -> None:
        """
        After an hour away each of thousands is POSTed.
        """
        world = World(
            lambda world, _: (0.001, ConnectionFailed("refused")) if world.now < 3600 else (0.005, OK), grace=86_400.0
        )
        world.say_many(3000, per_second=1)
        world.run(3700)
        self.assertEqual((3000, 0), (len(world.answered), world.counters["expired"]))

    def test_comes_back_too_late(self) -> None:
        """
        If a webhook says once to come again in an hour, what cannot wait so long is told so at once, and what can is
        POSTed then.
        """
        world = World(lambda world, _: (0.005, OK if world.posts[1:] else rejection(429, "3600")))
        for _ in range(170):
            world.say("room")
            world.run(15)
            self.assertEqual(0, world.relay.pending)
        self.assertEqual(170, world.counters["expired"])
        world.run(600)
        world.say("room")
        world.run(500)
        self.assertEqual(1, len(world.answered))

    def test_poison(self) -> None:
        """
        A message that is always answered 500 gets ten POSTs, and the next one of its user comes after it.
        """
        world = World(lambda _, delivery: (0.005, Response(500) if delivery == "d0" else OK))
        world.say("alice")
        world.run(1)
        world.say("alice")
        world.run(300)
        self.assertEqual([10, 1], [[each for _, each in world.posts].count(name) for name in ("d0", "d1")])
        self.assertEqual((1, 0), (world.counters["bounced"], world.counters["breaker_opened"]))


class IqTests(SynchronousTestCase):
    """Iqs have seconds."""

    def test_beside_slow_messages(self) -> None:
        """
        With messages of 20 seconds on nearly all connections an iq is POSTed at once.
        """
        iqs: set[str] = set()
        world = World(lambda _, delivery: (0.005 if delivery in iqs else 20.0, OK))
        world.say_many(64)
        for number in range(64, 70):
            world.run(3)
            iqs.add(f"d{number}")
            world.say(f"asker{number}", "iq")
        world.run(1)
        self.assertEqual(0, world.counters["expired"])
        self.assertEqual(iqs, iqs & {delivery for _, delivery in world.posts})
