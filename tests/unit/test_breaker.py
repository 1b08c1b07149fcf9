"""A webhook that is out of order is asked now and then, not by everybody."""

from __future__ import annotations

import pickle
from math import inf
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from component_http.contract.reply import Response
from component_http.delivery.breaker import Breaker, Probe, is_failure
from component_http.errors import CertificateInvalid, ConnectionCut, ConnectionFailed, TimedOut

FAILING = {500, 502, 503, 504, 507, *range(520, 600)}


def attempt(breaker: Breaker, failed: bool | None, now: float, conversation: object = None) -> None:
    """Make an attempt that takes no time, of a conversation of its own unless one is given."""
    began = breaker.begin(now)
    breaker.end(failed, now, conversation=object() if conversation is None else conversation, began=now, probe=began)


def ended(breaker: Breaker, failed: bool | None, now: float, probe: Probe | None = None, began: float = 0.0) -> None:
    """An attempt that began at 0 ends."""
    breaker.end(failed, now, conversation=object(), began=began, probe=probe)


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
    """When it opens: if nothing succeeds any more."""

    def test_five_in_a_row(self) -> None:
        """
        It opens with the fifth failure in a row of as many conversations, however long they took.
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

    def test_one_conversation(self) -> None:
        """
        What fails again and again is no sign that the webhook is away, if it is one conversation alone.
        """
        breaker = Breaker()
        for tenth in range(1000):
            attempt(breaker, True, tenth / 10, "alice")
        self.assertEqual("closed", breaker.state)

    def test_all_of_ten_seconds(self) -> None:
        """
        It opens too if twenty results of ten seconds, of more than one conversation, are failures without exception.
        """
        for last, state in ((0.0, "open"), (9.8, "open"), (10.1, "closed")):
            breaker = Breaker()
            for index in range(19):
                attempt(breaker, True, 0.0, index % 2)
                self.assertEqual("closed", breaker.state)
            attempt(breaker, True, last, 0)
            self.assertEqual(state, breaker.state)

    def test_a_share(self) -> None:
        """
        Where a share is set it is enough that so many of the results are failures.
        """
        breaker = Breaker(in_a_row=1000, share=0.5)
        for failed in [False] * 10 + [True] * 9:
            attempt(breaker, failed, 0.0)
        self.assertEqual("closed", breaker.state)
        attempt(breaker, True, 0.0)
        self.assertEqual("open", breaker.state)

    def test_some_fail(self) -> None:
        """
        A webhook that answers some requests is asked as usual, however many others fail.
        """
        for share in (0.1, 0.33, 0.5, 0.75):
            for seed in range(5):
                breaker, random = Breaker(), Random(seed)
                for index in range(3000):
                    regular = int((index + 1) * share) > int(index * share)
                    attempt(breaker, regular if index < 1000 else random.random() < share, index / 100)
                    self.assertEqual("closed", breaker.state)

    def test_soon_where_all_was_well(self) -> None:
        """
        A webhook that answered everything and then nothing is found out by five.
        """
        breaker = Breaker()
        for index in range(1000):
            attempt(breaker, False, index / 100)
        for _ in range(5):
            attempt(breaker, True, 10.0)
        self.assertEqual("open", breaker.state)

    def test_rejections_that_may_pass(self) -> None:
        """
        A webhook that took something a moment ago, and now says that it is too much, is not away.
        """
        for now, state in ((1.9, "closed"), (2.0, "open")):
            breaker = Breaker()
            attempt(breaker, False, 0.0)
            for _ in range(30):
                breaker.end(True, now, conversation=object(), began=0.0, rejected=True)
            self.assertEqual(state, breaker.state)

    def test_begun_before(self) -> None:
        """
        What began before the last sign of life, and fails after it, is of the past.
        """
        breaker = Breaker()
        attempt(breaker, False, 5.0)
        for _ in range(19):
            ended(breaker, True, 6.0, began=4.0)
        self.assertEqual("closed", breaker.state)

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
        A day at any rate takes no more memory than a minute, whatever comes.
        """
        for failed in (True, False):
            sizes = []
            for seconds in (200, 6000):
                breaker = Breaker(in_a_row=2**31, requests=2**31)
                for tenth in range(seconds * 10):
                    breaker.end(failed, tenth / 10, conversation=str(tenth), began=tenth / 10)
                sizes.append(len(pickle.dumps(breaker)))
            self.assertTrue(sizes[1] < 1.2 * sizes[0] < 30_000, sizes)

    @given(st.lists(st.tuples(st.floats(0, 30), st.sampled_from([False, None]))))
    def test_closed_never_delays(self, results: list[tuple[float, bool | None]]) -> None:
        """
        As long as nothing fails nobody waits.
        """
        breaker = Breaker()
        now = 0.0
        for pause, failed in results:
            now += pause
            self.assertEqual((0.0, None), (breaker.wait(now), breaker.begin(now)))
            ended(breaker, failed, now)
        self.assertEqual((0.0, "closed"), (breaker.wait(now), breaker.state))

    def test_failing_since(self) -> None:
        """
        It says since when nothing but failures came.
        """
        breaker = Breaker()
        self.assertIsNone(breaker.failing_since)
        for now in (3.0, 4.0):
            attempt(breaker, True, now)
            self.assertEqual(3.0, breaker.failing_since)
        attempt(breaker, False, 5.0)
        self.assertIsNone(breaker.failing_since)


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

    def test_beside_one_that_hangs(self) -> None:
        """
        Two seconds after the first probe a second one may begin, which should be short, and no third.
        """
        breaker = an_open_breaker()
        self.assertEqual(("patient", "half_open"), (breaker.begin(2.0), breaker.state))
        self.assertEqual([1.0, 0.0], [breaker.wait(now) for now in (3.0, 4.0)])
        self.assertEqual("short", breaker.begin(4.0))
        self.assertEqual(inf, breaker.wait(50.0))

    def test_after_the_short_one(self) -> None:
        """
        When the short one was cut off the next begins, short again, as long as the patient one hangs.
        """
        breaker = an_open_breaker()
        breaker.begin(2.0)
        ended(breaker, True, 9.0, breaker.begin(4.0))
        self.assertEqual((0.0, "short"), (breaker.wait(9.0), breaker.begin(9.0)))
        ended(breaker, True, 62.0, "patient")
        self.assertEqual("patient", breaker.begin(62.0))

    def test_success(self) -> None:
        """
        A probe that gets an answer closes it, and what was before is forgotten.
        """
        breaker = an_open_breaker()
        attempt(breaker, False, 2.0)
        for _ in range(4):
            attempt(breaker, True, 2.0)
        self.assertEqual(("closed", 0.0), (breaker.state, breaker.wait(2.0)))

    def test_failure(self) -> None:
        """
        After a probe that failed at once the next one begins two seconds after it.
        """
        breaker = an_open_breaker()
        ended(breaker, True, 2.1, breaker.begin(2.0))
        self.assertEqual("open", breaker.state)
        self.assertEqual([1.5, 0.0], [breaker.wait(now) for now in (2.5, 4.0)])

    def test_cancelled(self) -> None:
        """
        A probe that was cancelled makes place for the next, but still one in two seconds.
        """
        for end, wait in ((2.5, 1.5), (4.0, 0.0), (60.0, 0.0)):
            breaker = an_open_breaker()
            ended(breaker, None, end, breaker.begin(2.0))
            self.assertEqual(("open", wait), (breaker.state, breaker.wait(end)))

    def test_earlier_attempts_that_fail(self) -> None:
        """
        What began before it opened and fails changes nothing.
        """
        breaker = an_open_breaker()
        ended(breaker, True, 1.0)
        self.assertEqual(("open", 1.0), (breaker.state, breaker.wait(1.0)))
        breaker.begin(2.0)
        ended(breaker, True, 3.0)
        self.assertEqual(("half_open", 1.0), (breaker.state, breaker.wait(3.0)))

    def test_earlier_attempts_that_succeed(self) -> None:
        """
        What began before it opened and gets an answer closes it, also while a probe is under way.
        """
        for probing in (False, True):
            breaker = an_open_breaker()
            if probing:
                breaker.begin(2.0)
            ended(breaker, False, 2.0)
            self.assertEqual(("closed", 0.0), (breaker.state, breaker.wait(2.0)))

    def test_asked_to(self) -> None:
        """
        Who knows that the webhook is back need not wait for the next probe, nor for what the webhook asked for.
        """
        breaker = an_open_breaker()
        breaker.hold(50.0, 0.0)
        breaker.ask_now()
        self.assertEqual((0.0, "patient", 2.0), (breaker.wait(0.0), breaker.begin(0.0), breaker.wait(0.0)))

    @given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from("bbbsfffc"), st.integers(0, 100)), min_size=30))
    def test_any_schedule(self, steps: list[tuple[float, str, int]]) -> None:
        """
        Whatever happens, there are at most a patient and a short probe, and none begins within two seconds of another.
        """
        breaker = Breaker()
        now, last_probe = 0.0, -inf
        running: list[Probe | None] = []
        for pause, what, index in steps:
            now += pause
            self.assertTrue(breaker.wait(now) >= 0)
            if what == "b":
                if breaker.wait(now) == 0 and (probe := breaker.begin(now)) is not None:
                    self.assertNotIn(probe, running)
                    self.assertTrue(now - last_probe >= 2 - 1e-9)
                    last_probe = now
                    running.append(probe)
                elif breaker.state == "closed":
                    running.append(None)
            elif running:
                probe = running.pop(index % len(running))
                ended(breaker, {"s": False, "f": True, "c": None}[what], now, probe, now)
            probing = any(each is not None for each in running)
            self.assertEqual(breaker.state == "half_open", breaker.state != "closed" and probing)
        for each in running:
            ended(breaker, None, now, each)
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
        ended(breaker, True, 3.0, probe)
        self.assertEqual(7.0, breaker.wait(3.0))

    def test_sign_of_life(self) -> None:
        """
        An answer closes it, but the rest that was asked for is kept.
        """
        breaker = an_open_breaker()
        breaker.hold(7.0, 0.0)
        ended(breaker, False, 1.0)
        self.assertEqual(("closed", 6.0), (breaker.state, breaker.wait(1.0)))
