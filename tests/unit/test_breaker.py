"""A webhook that is out of order is asked now and then, not by everybody."""

from __future__ import annotations

import pickle
from math import inf

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from component_http.contract.reply import Response
from component_http.delivery.breaker import Breaker, is_failure
from component_http.errors import CertificateInvalid, ConnectionCut, ConnectionFailed, TimedOut

FAILING = {500, 502, 503, 504, 507, *range(520, 600)}


def attempt(breaker: Breaker, failed: bool | None, now: float) -> None:
    """Make an attempt that takes no time."""
    breaker.end(failed, now, probe=breaker.begin(now))


def an_open_breaker() -> Breaker:
    """One that opened at 0, so its first probe is at 2."""
    breaker = Breaker()
    for _ in range(5):
        attempt(breaker, True, 0.0)
    return breaker


class FailureTests(SynchronousTestCase):
    """What says that a webhook is out of order."""

    def test_every_status(self) -> None:
        """
        Some of the 5xx are failures, and every other answer is a sign of life.
        """
        self.assertEqual(FAILING, {status for status in range(100, 1000) if is_failure(Response(status))})

    def test_no_answer(self) -> None:
        """
        No connection, no trust, no answer in time and half an answer are failures.
        """
        for error in (
            ConnectionFailed("refused"),
            CertificateInvalid("expired"),
            TimedOut("60 s"),
            ConnectionCut("cut"),
            ConnectionCut("cut", started=True),
        ):
            self.assertEqual(True, is_failure(error))


class OpeningTests(SynchronousTestCase):
    """When it opens."""

    def test_five_in_a_row(self) -> None:
        """
        It opens with the fifth failure in a row, however long they took.
        """
        breaker = Breaker()
        for now in (0.0, 100.0, 200.0, 300.0):
            attempt(breaker, True, now)
            self.assertEqual("closed", breaker.state)
        attempt(breaker, True, 400.0)
        self.assertEqual("open", breaker.state)

    def test_row_is_interrupted(self) -> None:
        """
        A sign of life between the failures begins a new row.
        """
        breaker = Breaker()
        for failed in (True, True, True, True, False, True, True, True, True):
            attempt(breaker, failed, 0.0)
        self.assertEqual("closed", breaker.state)

    def test_half_of_twenty(self) -> None:
        """
        It opens with the failure that makes at least ten of at least twenty results, not before.
        """
        breaker = Breaker()
        for failed in [False, True] * 9 + [False]:
            attempt(breaker, failed, 0.0)
            self.assertEqual("closed", breaker.state)
        attempt(breaker, True, 0.0)
        self.assertEqual("open", breaker.state)

    def test_less_than_half(self) -> None:
        """
        Two failures in each five results are borne for ever.
        """
        breaker = Breaker()
        for turn in range(1000):
            for failed in (False, True, False, True, False):
                attempt(breaker, failed, turn / 10)
        self.assertEqual("closed", breaker.state)

    def test_sign_of_life_does_not_open(self) -> None:
        """
        It takes a failure to open it, also where a success is the twentieth result.
        """
        breaker = Breaker()
        for failed in [True, False] * 10:
            attempt(breaker, failed, 0.0)
        self.assertEqual("closed", breaker.state)
        attempt(breaker, True, 0.0)
        self.assertEqual("open", breaker.state)

    def test_old_results(self) -> None:
        """
        What is more than ten seconds ago counts no more.
        """
        for last, state in ((9.8, "open"), (10.1, "closed")):
            breaker = Breaker()
            for failed in [False, True] * 9 + [False]:
                attempt(breaker, failed, 0.0)
            attempt(breaker, True, last)
            self.assertEqual(state, breaker.state)

    @given(st.lists(st.tuples(st.integers(0, 40), st.booleans()), max_size=80))
    def test_window(self, results: list[tuple[int, bool]]) -> None:
        """
        It opens with the first failure at which enough results of the window, and half of them, are failures.
        """
        breaker = Breaker(in_a_row=1000, requests=6, window=12.5)
        seen: list[tuple[float, bool]] = []
        now = 0.0
        for eighths, failed in results:
            now += eighths / 8
            seen.append((now, failed))
            recent = [each for then, each in seen if now - then < 12.5]
            attempt(breaker, failed, now)
            opens = failed and len(recent) >= 6 and 2 * sum(recent) >= len(recent)
            self.assertEqual("open" if opens else "closed", breaker.state)
            if opens:
                break

    def test_cancelled_attempts(self) -> None:
        """
        An attempt that was cancelled says nothing.
        """
        breaker = Breaker()
        for failed in (True, True, None, True, True, None):
            attempt(breaker, failed, 0.0)
        self.assertEqual("closed", breaker.state)
        attempt(breaker, True, 0.0)
        self.assertEqual("open", breaker.state)

    def test_memory(self) -> None:
        """
        A day at any rate takes no more memory than a minute.
        """
        sizes = []
        for seconds in (60, 86_400):
            breaker = Breaker()
            for tenth in range(seconds * 10):
                breaker.end(False, tenth / 10, probe=False)
            sizes.append(len(pickle.dumps(breaker)))
        self.assertTrue(sizes[1] < 1.2 * sizes[0] < 10_000, sizes)

    @given(st.lists(st.tuples(st.floats(0, 30), st.sampled_from([False, None]))))
    def test_closed_never_delays(self, results: list[tuple[float, bool | None]]) -> None:
        """
        As long as nothing fails nobody waits.
        """
        breaker = Breaker()
        now = 0.0
        for pause, failed in results:
            now += pause
            self.assertEqual((0.0, False), (breaker.wait(now), breaker.begin(now)))
            breaker.end(failed, now, probe=False)
        self.assertEqual((0.0, "closed"), (breaker.wait(now), breaker.state))


class ProbeTests(SynchronousTestCase):
    """How it closes again."""

    def test_nobody_begins(self) -> None:
        """
        Open, the first attempt begins after two seconds.
        """
        breaker = an_open_breaker()
        self.assertEqual([2.0, 0.5, 0.0, 0.0], [breaker.wait(now) for now in (0.0, 1.5, 2.0, 100.0)])
        with self.assertRaises(RuntimeError):
            breaker.begin(1.5)

    def test_one_at_a_time(self) -> None:
        """
        While a probe is under way nobody else begins.
        """
        breaker = an_open_breaker()
        self.assertEqual((True, "half_open"), (breaker.begin(2.0), breaker.state))
        self.assertEqual(inf, breaker.wait(50.0))

    def test_success(self) -> None:
        """
        A probe that gets an answer closes it, and what was before is forgotten.
        """
        breaker = an_open_breaker()
        attempt(breaker, False, 2.0)
        for _ in range(4):
            attempt(breaker, True, 2.0)
        self.assertEqual(("closed", 0.0), (breaker.state, breaker.wait(2.0)))

    def test_window_is_forgotten(self) -> None:
        """
        Once closed it takes twenty new results to find half of them failed.
        """
        breaker = Breaker(in_a_row=100)
        for _ in range(20):
            attempt(breaker, True, 0.0)
        self.assertEqual("open", breaker.state)
        attempt(breaker, False, 2.0)
        for _ in range(19):
            attempt(breaker, True, 2.0)
        self.assertEqual("closed", breaker.state)

    def test_failure(self) -> None:
        """
        After a probe that failed the next one begins two seconds later.
        """
        breaker = an_open_breaker()
        probe = breaker.begin(2.0)
        breaker.end(True, 7.0, probe=probe)
        self.assertEqual(("open", 2.0), (breaker.state, breaker.wait(7.0)))

    def test_cancelled(self) -> None:
        """
        A probe that was cancelled makes place for the next, but still one in two seconds.
        """
        for end, wait in ((2.5, 1.5), (4.0, 0.0), (60.0, 0.0)):
            breaker = an_open_breaker()
            probe = breaker.begin(2.0)
            breaker.end(None, end, probe=probe)
            self.assertEqual(("open", wait), (breaker.state, breaker.wait(end)))

    def test_earlier_attempts_that_fail(self) -> None:
        """
        What began before it opened and fails changes nothing.
        """
        breaker = an_open_breaker()
        breaker.end(True, 1.0, probe=False)
        self.assertEqual(("open", 1.0), (breaker.state, breaker.wait(1.0)))
        breaker.begin(2.0)
        breaker.end(True, 3.0, probe=False)
        self.assertEqual(("half_open", inf), (breaker.state, breaker.wait(3.0)))

    def test_earlier_attempts_that_succeed(self) -> None:
        """
        What began before it opened and gets an answer closes it, also while a probe is under way.
        """
        for probing in (False, True):
            breaker = an_open_breaker()
            if probing:
                breaker.begin(2.0)
            breaker.end(False, 2.0, probe=False)
            self.assertEqual(("closed", 0.0), (breaker.state, breaker.wait(2.0)))

    def test_overtaken_probe(self) -> None:
        """
        A probe that an earlier attempt's answer overtook is the only one also after the breaker opened again.
        """
        breaker = an_open_breaker()
        probe = breaker.begin(2.0)
        breaker.end(False, 3.0, probe=False)
        for _ in range(5):
            attempt(breaker, True, 3.0)
        self.assertEqual(("half_open", inf), (breaker.state, breaker.wait(10.0)))
        breaker.end(True, 10.0, probe=probe)
        self.assertEqual(("open", 2.0), (breaker.state, breaker.wait(10.0)))

    @given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from("bbbsfffc"), st.integers(0, 100)), min_size=30))
    def test_any_schedule(self, steps: list[tuple[float, str, int]]) -> None:
        """
        Whatever happens, there are never two probes at once, nor two that begin within two seconds.
        """
        breaker = Breaker()
        now, last_probe = 0.0, -inf
        running: list[bool] = []
        for pause, what, index in steps:
            now += pause
            self.assertTrue(breaker.wait(now) >= 0)
            if what == "b":
                if breaker.wait(now) == 0 and breaker.begin(now):
                    self.assertNotIn(True, running)
                    self.assertTrue(now - last_probe >= 2 - 1e-9)
                    last_probe = now
                    running.append(True)
                elif breaker.state == "closed":
                    running.append(False)
            elif running:
                probe = running.pop(index % len(running))
                breaker.end({"s": False, "f": True, "c": None}[what], now, probe=probe)
            self.assertEqual(breaker.state == "half_open", breaker.state != "closed" and True in running)
        for probe in running:
            breaker.end(None, now, probe=probe)
        self.assertTrue(breaker.wait(now) <= 2 + 1e-9)


class HoldTests(SynchronousTestCase):
    """A webhook that asks for rest gets it."""

    def test_closed(self) -> None:
        """
        Nobody begins until the time is over.
        """
        breaker = Breaker()
        breaker.hold(7.0, 10.0)
        self.assertEqual([7.0, 1.0, 0.0], [breaker.wait(now) for now in (10.0, 16.0, 17.0)])
        self.assertEqual("closed", breaker.state)

    def test_longest(self) -> None:
        """
        Of several wishes the one that reaches furthest counts, and none is no wish.
        """
        breaker = Breaker()
        for seconds, now in ((0.0, 0.0), (7.0, 0.0), (1.0, 1.0), (0.0, 2.0)):
            breaker.hold(seconds, now)
        self.assertEqual(5.0, breaker.wait(2.0))
        breaker.hold(6.0, 2.0)
        self.assertEqual(6.0, breaker.wait(2.0))

    def test_no_wish(self) -> None:
        """
        To rest for no time is not to rest.
        """
        breaker = Breaker()
        breaker.hold(0.0, 5.0)
        self.assertEqual(0.0, breaker.wait(5.0))

    def test_open(self) -> None:
        """
        The probe waits as well.
        """
        breaker = an_open_breaker()
        breaker.hold(7.0, 0.0)
        self.assertEqual([7.0, 0.0], [breaker.wait(now) for now in (0.0, 7.0)])
        self.assertEqual("open", breaker.state)

    def test_half_open(self) -> None:
        """
        A wish that comes with the probe's answer holds after it.
        """
        breaker = an_open_breaker()
        probe = breaker.begin(2.0)
        breaker.hold(7.0, 3.0)
        self.assertEqual(inf, breaker.wait(3.0))
        breaker.end(True, 3.0, probe=probe)
        self.assertEqual(7.0, breaker.wait(3.0))

    def test_sign_of_life(self) -> None:
        """
        An answer closes it, but the rest that was asked for is kept.
        """
        breaker = an_open_breaker()
        breaker.hold(7.0, 0.0)
        breaker.end(False, 1.0, probe=False)
        self.assertEqual(("closed", 6.0), (breaker.state, breaker.wait(1.0)))
