"""How much a webhook is asked for, learned from what it rejects."""

from __future__ import annotations

from itertools import pairwise
from math import inf
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from component_http.delivery.limit import Limit
from component_http.delivery.load import Load, Quota
from component_http.delivery.pace import Pace
from component_http.delivery.window import Window
from tests.examples import examples


class WindowTests(SynchronousTestCase):
    """Counts of the last seconds."""

    @given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=80))
    def test_any_schedule(self, results: list[tuple[int, bool]]) -> None:
        """
        It counts what came within its time, and nothing older.
        """
        window = Window(12.5)
        seen: list[tuple[float, bool]] = []
        now = 0.0
        for eighths, failed in results:
            now += eighths / 8
            seen.append((now, failed))
            window.add(failed, now)
            recent = [each for then, each in seen if now - then < 12.5]
            self.assertEqual((len(recent), sum(recent)), (window.results, window.failures))

    def test_old(self) -> None:
        """
        What is too old is forgotten, also if nothing new comes.
        """
        window = Window(10.0)
        window.add(True, 0.0)
        window.advance(10.1)
        self.assertEqual((0, 0), (window.results, window.failures))


class LimitTests(SynchronousTestCase):
    """How many at once."""

    def meet(self, limit: Limit, workers: int, now: float, number: int = 32) -> int:
        """Begin as many requests as may begin, of which so many are accepted; returns how many began."""
        began = [limit.begin() for _ in range(min(number, limit.value(now)))]
        for others in began[workers:]:
            limit.end(others, False, now)
        for others in began[:workers]:
            limit.end(others, True, now)
        return len(began)

    def test_nothing_known(self) -> None:
        """
        As many may be under way as there are connections, as long as nothing is rejected.
        """
        limit = Limit(32)
        for second in range(100):
            self.assertEqual(32, self.meet(limit, 32, float(second)))

    @given(st.integers(1, 28))
    def test_workers(self, workers: int) -> None:
        """
        A webhook that rejects what is beyond its workers gets as many requests as it has.
        """
        limit = Limit(32)
        for second in range(3):
            self.meet(limit, workers, float(second))
        self.assertTrue(workers <= limit.value(2.0) <= workers + 2, limit.value(2.0))

    def test_more_workers(self) -> None:
        """
        Ten seconds later it is asked for a little more, and within some seconds for all that it takes.
        """
        limit = Limit(32)
        for second in range(3):
            self.meet(limit, 8, float(second))
        low = limit.value(3.0)
        self.assertLessEqual(low, 9)
        self.assertEqual(low, limit.value(9.0))
        for tenth in range(100, 200):
            self.meet(limit, 32, tenth / 10)
        self.assertEqual(32, limit.value(20.0))

    @given(st.floats(0.1, 0.8), st.integers(0, 2**32))
    @examples(50, same=False)
    def test_at_random(self, share: float, seed: int) -> None:
        """
        What is rejected at random is not about the number: connections stay in use.
        """
        limit, random = Limit(32), Random(seed)
        values = []
        for second in range(60):
            for others in [limit.begin() for _ in range(limit.value(float(second)))]:
                limit.end(others, random.random() >= share, float(second))
            values.append(limit.value(float(second)))
        self.assertGreater(sum(values) / len(values), 8)

    def test_one_at_a_time(self) -> None:
        """
        What is rejected alone is not about the number.
        """
        limit = Limit(32)
        for second in range(100):
            self.assertFalse(limit.end(limit.begin(), False, float(second)))
        self.assertEqual(32, limit.value(100.0))

    def test_unknown(self) -> None:
        """
        What broke or was cancelled says nothing, and is not under way any more.
        """
        limit = Limit(2)
        for _ in range(100):
            limit.end(limit.begin(), None, 0.0)
        self.assertEqual((0, 2), (limit.begin(), limit.value(0.0)))


class PaceTests(SynchronousTestCase):
    """How fast; what it achieves with real webhooks is in `test_simulation`."""

    def test_nothing_known(self) -> None:
        """
        As long as nothing is rejected nobody waits.
        """
        pace = Pace()
        for index in range(1000):
            now = index / 1000
            self.assertEqual(0.0, pace.wait(now))
            pace.begin(now)
            pace.end(True, now, now + 0.005)
        self.assertEqual(inf, pace.rate(1.0))

    def test_some_are_rejected(self) -> None:
        """
        Rejections that are few change nothing.
        """
        pace = Pace()
        for index in range(10_000):
            now = index / 100
            pace.begin(now)
            pace.end(index % 30 != 0, now, now)
        self.assertEqual(inf, pace.rate(100.0))

    def test_all_are_rejected(self) -> None:
        """
        A webhook that takes nothing is asked more and more seldom, but twice in four seconds at least.
        """
        pace = Pace()
        now, begun = 0.0, []
        while now < 600:
            now += max(0.005, pace.wait(now))
            pace.begin(now)
            begun.append(now)
            pace.end(False, now, now)
        self.assertLess(len(begun), 700)
        self.assertLessEqual(max(after - before for before, after in pairwise(begun)), 2.1)

    def test_back_after_long(self) -> None:
        """
        Once it takes something after a long time it is asked slowly at first, and soon as fast as it can.
        """
        pace = Pace()
        now = 0.0
        while now < 60:
            now += max(0.005, pace.wait(now))
            pace.begin(now)
            pace.end(False, now, now)
        pace.end(True, now, now)
        self.assertEqual(20.0, pace.rate(now))
        self.assertEqual([40.0, 160.0, inf], [pace.rate(now + seconds) for seconds in (1, 3, 8)])

    def test_forgotten(self) -> None:
        """
        A pace that nobody needed for a minute is forgotten.
        """
        pace = Pace()
        now = 0.0
        for index in range(3000):
            now += max(0.001, pace.wait(now))
            pace.begin(now)
            pace.end(index % 100 < 20, now, now)
            if pace.rate(now) < inf:
                break
        self.assertLess(pace.rate(now), inf)
        pace.end(True, now, now)
        pace.begin(now + 61)
        self.assertEqual(inf, pace.rate(now + 61))

    @given(st.lists(st.tuples(st.floats(0, 2), st.sampled_from("bbbarr"), st.floats(0, 3)), max_size=300))
    def test_any_schedule(self, steps: list[tuple[float, str, float]]) -> None:
        """
        Whatever comes, nobody waits for longer than two seconds and a little.
        """
        pace = Pace()
        now, under_way = 0.0, []
        for passed, what, _ in steps:
            now += passed
            if what == "b":
                now += pace.wait(now)
                pace.begin(now)
                under_way.append(now)
            elif under_way:
                pace.end(what == "a", under_way.pop(0), now)
            self.assertTrue(0.0 <= pace.wait(now) <= 2.0 + 1e-6)
            self.assertGreaterEqual(pace.rate(now), 0.5)


class QuotaTests(SynchronousTestCase):
    """A limit that the operator has set."""

    @given(st.integers(1, 5), st.integers(1, 40), st.lists(st.integers(0, 20), max_size=60))
    def test_any_schedule(self, requests: int, eighths: int, gaps: list[int]) -> None:
        """
        Within any time of its length no more requests begin, and none waits longer than for that.
        """
        length = eighths / 8
        quota = Quota(requests, length)
        begun: list[float] = []
        now = 0.0
        for gap in gaps:
            now += gap / 8
            wait = quota.wait(now)
            recent = [each for each in begun if now - each < length]
            self.assertEqual(len(recent) >= requests, wait > 0)
            now += wait
            self.assertEqual(0.0, quota.wait(now))
            quota.begin(now)
            begun.append(now)
            self.assertLessEqual(sum(now - each < length for each in begun), requests)

    def test_with_the_others(self) -> None:
        """
        It holds requests back beside what is learned, also where nothing is.
        """
        for learns in (False, True):
            load = Load(4, learns=learns, quota=Quota(2, 1.0))
            for _ in range(2):
                self.assertEqual(0.0, load.wait(5.0))
                load.end(load.begin(5.0), True, 5.0, 5.0)
            self.assertEqual((0.75, 0.75, 0.0), (load.wait(5.25), load.quota_wait(5.25), load.wait(6.0)))


class LoadTests(SynchronousTestCase):
    """Both together."""

    def test_learns_nothing(self) -> None:
        """
        Where each stanza is POSTed once, whatever happens, nothing is held back.
        """
        load = Load(4, learns=False)
        for index in range(1000):
            now = index / 100
            self.assertEqual((0.0, 4), (load.wait(now), load.places(now)))
            load.end(load.begin(now), False, now, now)
        load.restart(10.0)
        self.assertEqual(0.0, load.wait(10.0))

    def test_restart(self) -> None:
        """
        A webhook that is back is asked some twenty times in the first second.
        """
        load = Load(32)
        load.restart(0.0)
        begun, now = 0, 0.0
        while now < 1.0:
            load.end(load.begin(now), True, now, now)
            begun += 1
            now += load.wait(now)
        self.assertTrue(20 <= begun <= 32, begun)
