"""After one attempt: again, and when, or not."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from math import inf, nextafter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from component_http.contract.reply import Response
from component_http.delivery.retry import AttemptResult, GiveUp, Retry, RetryPolicy, outcome_class
from component_http.errors import CertificateInvalid, ConnectionCut, ConnectionFailed, TimedOut

NOW = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)

ALMOST_ONE = nextafter(1.0, 0.0)

FAILED = ConnectionFailed("refused")
CUT = ConnectionCut("cut")
STALE = ConnectionCut("cut", reused=True)
UNTRUSTED = CertificateInvalid("expired")

STATUS_TABLE = {
    "uncounted": "429 502 503 504",
    "counted": "408 421 423 425 500 507 520-599",
    "final": "100-407 409-420 422 424 426-428 430-499 501 505-506 508-519 600-999",
}

NO_ANSWERS = st.one_of(
    st.sampled_from([FAILED, UNTRUSTED, TimedOut("60 s")]),
    st.builds(ConnectionCut, st.just("cut"), reused=st.booleans(), started=st.booleans()),
)

DATES = st.datetimes(timezones=st.just(UTC)).map(lambda date: format_datetime(date, usegmt=True))

RETRY_AFTERS = st.one_of(
    st.from_regex(r"[0-9]{1,4}", fullmatch=True),
    DATES,
    st.text(st.characters(max_codepoint=255)),
    st.lists(
        st.sampled_from(
            [
                "Sun",
                "Sunday,",
                "06",
                "06-Nov-94",
                "Nov",
                "1994",
                "9999",
                "08:49:37",
                "8:²",
                "-",
                "+9999999999999",
                "GMT",
            ]
        )
    ).map(" ".join),
)

STATUSES = st.one_of(st.integers(100, 599), st.sampled_from([408, 429, 500, 502, 503, 520]))

RESULTS = st.one_of(
    NO_ANSWERS,
    st.builds(Response, STATUSES),
    st.builds(Response, STATUSES, RETRY_AFTERS.map(lambda value: {"retry-after": value})),
)

CASES = st.fixed_dictionaries(
    {
        "result": RESULTS,
        "attempts": st.integers(0, 20),
        "tries": st.integers(1, 10_000),
        "fresh": st.booleans(),
        "cut_short": st.booleans(),
        "left": st.one_of(st.floats(-10, 10_000), st.just(inf)),
        "draw": st.floats(0, 1, exclude_max=True),
        "now": st.just(NOW),
    }
)


def statuses(ranges: str) -> Iterator[int]:
    for each in ranges.split():
        first, _, last = each.partition("-")
        yield from range(int(first), int(last or first) + 1)


def after(result: AttemptResult, policy: RetryPolicy | None = None, **given: Any) -> Retry | GiveUp:
    """Ask about a first attempt with 900 s left and the longest draw, but for what is given."""
    facts: dict[str, Any] = {
        "attempts": 0,
        "tries": 1,
        "fresh": False,
        "left": 900.0,
        "now": NOW,
        "draw": ALMOST_ONE,
    }
    return (policy or RetryPolicy()).after(result, **facts | given)


def seconds_of(decision: Retry | GiveUp) -> float:
    assert isinstance(decision, Retry)
    return decision.seconds


class TableTests(SynchronousTestCase):
    """What an outcome means for trying again."""

    def test_every_status(self) -> None:
        """
        Each status there can be is in its row of the table.
        """
        expected = {status: row for row, ranges in STATUS_TABLE.items() for status in statuses(ranges)}
        self.assertEqual(
            {status: expected[status] for status in range(100, 1000)},
            {status: outcome_class(Response(status)) for status in range(100, 1000)},
        )

    def test_no_connection(self) -> None:
        """
        A webhook that nobody reaches says nothing about the stanza.
        """
        self.assertEqual("uncounted", outcome_class(FAILED))

    def test_no_answer_in_time(self) -> None:
        """
        A webhook may hang on this very stanza.
        """
        self.assertEqual("counted", outcome_class(TimedOut("60 s")))

    def test_cut(self) -> None:
        """
        A connection that broke is stale only if it was used before and not a byte of the answer came.
        """
        for reused, started, row in (
            (True, False, "stale"),
            (True, True, "counted"),
            (False, False, "counted"),
            (False, True, "counted"),
        ):
            self.assertEqual(row, outcome_class(ConnectionCut("cut", reused=reused, started=started)))

    def test_certificate(self) -> None:
        """
        A certificate is mended by a person, so slowly.
        """
        self.assertEqual("slow", outcome_class(UNTRUSTED))


class DecisionTests(SynchronousTestCase):
    """Again or not."""

    def test_final_answers(self) -> None:
        """
        A success, a redirect, "gone" and a refusal end a delivery, whatever else there is to know.
        """
        for status in (200, 204, 301, 400, 404, 410, 501):
            response = Response(status, {"retry-after": "7"})
            self.assertEqual(GiveUp("final"), after(response, RetryPolicy(max_attempts=1), left=-1.0))

    def test_last_attempt(self) -> None:
        """
        After as many counted failures as there are attempts it is over.
        """
        self.assertEqual(Retry(0.0, counted=True), after(Response(500), attempts=8, draw=0.0))
        self.assertEqual(GiveUp("attempts"), after(Response(500), attempts=9, draw=0.0))

    def test_uncounted_failures_go_on(self) -> None:
        """
        A webhook that is not there uses up no attempts.
        """
        for result in (FAILED, Response(429), Response(502), Response(503), Response(504)):
            self.assertEqual(Retry(0.0, counted=False), after(result, attempts=9, tries=500, draw=0.0))

    def test_cut_short(self) -> None:
        """
        Who had less time than there is uses up no attempt by being too slow, but by any other failure.
        """
        self.assertEqual(Retry(0.0, counted=False), after(TimedOut("5 s"), attempts=9, cut_short=True, draw=0.0))
        for result in (Response(500), CUT):
            self.assertEqual(GiveUp("attempts"), after(result, attempts=9, cut_short=True))

    def test_stale_connection(self) -> None:
        """
        After a stale connection comes a fresh one at once, also on what would be the last attempt.
        """
        self.assertEqual(Retry(0.0, counted=False, fresh=True), after(STALE, attempts=9, left=0.1))
        self.assertEqual(GiveUp("deadline"), after(STALE, left=0.0))

    def test_stale_only_once(self) -> None:
        """
        A connection that was to be new and broke is an ordinary failure.
        """
        self.assertEqual(Retry(0.0, counted=True), after(STALE, fresh=True, draw=0.0))
        self.assertEqual(GiveUp("attempts"), after(STALE, fresh=True, attempts=9))

    @given(RESULTS, st.booleans(), st.booleans())
    def test_exactly_one_post(self, result: AttemptResult, fresh: bool, cut_short: bool) -> None:
        """
        With one attempt there is exactly one POST whatever happens, and no ban afterwards.
        """
        decision = after(result, RetryPolicy(max_attempts=1), fresh=fresh, cut_short=cut_short)
        self.assertIn(decision, (GiveUp("final"), GiveUp("attempts")))

    @given(CASES)
    def test_counted_failures_end(self, case: dict[str, Any]) -> None:
        """
        Whatever happens, no attempt is counted beyond those that are allowed.
        """
        decision = RetryPolicy().after(**case)
        if isinstance(decision, Retry) and decision.counted:
            self.assertTrue(case["attempts"] + 1 < 10)

    def test_senseless_numbers(self) -> None:
        """
        A policy that never tries, or never waits, is refused.
        """
        for wrong in ({"max_attempts": 0}, {"base": 0.0}, {"cap": 0.0}, {"away": 0.0}, {"longest_pause": -1.0}):
            with self.assertRaises(ValueError):
                RetryPolicy(**wrong)


class WaitTests(SynchronousTestCase):
    """How long until the next attempt."""

    def test_doubling(self) -> None:
        """
        The longest wait doubles from half a second to a minute.
        """
        longest = [seconds_of(after(CUT, tries=tries)) for tries in range(1, 11)]
        self.assertEqual([0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60], [round(seconds, 9) for seconds in longest])

    def test_full_jitter(self) -> None:
        """
        Any wait from none to the longest is as likely.
        """
        waits = [seconds_of(after(CUT, tries=4, draw=draw)) for draw in (0.0, 0.25, 0.5)]
        self.assertEqual([0.0, 1.0, 2.0], waits)

    def test_away(self) -> None:
        """
        A webhook that is not there, as it or a proxy before it says, is asked again within two seconds.
        """
        for result in (FAILED, Response(502), Response(503), Response(504)):
            longest = [seconds_of(after(result, tries=tries)) for tries in (1, 2, 3, 4, 100)]
            self.assertEqual([0.5, 1, 2, 2, 2], [round(seconds, 9) for seconds in longest])

    def test_rejected(self) -> None:
        """
        What a webhook has rejected without saying for how long comes again within ten seconds.
        """
        longest = [seconds_of(after(Response(429), tries=tries)) for tries in (1, 5, 6, 100)]
        self.assertEqual([0.5, 8, 10, 10], [round(seconds, 9) for seconds in longest])

    def test_many_tries(self) -> None:
        """
        However often it was tried, the wait is a number.
        """
        for tries in (1_024, 10**6, 10**400):
            self.assertEqual(30.0, seconds_of(after(CUT, tries=tries, draw=0.5)))

    def test_near_the_deadline(self) -> None:
        """
        Shortly before the deadline the wait gets shorter, and with less than half a second left there is none.
        """
        self.assertEqual(1.5, seconds_of(after(CUT, tries=20, left=3.0, draw=0.5)))
        self.assertEqual(0.25, seconds_of(after(CUT, tries=20, left=0.5, draw=0.5)))
        self.assertEqual(GiveUp("deadline"), after(FAILED, left=0.499, draw=0.0))

    def test_certificate(self) -> None:
        """
        With a bad certificate it is tried every 30 to 60 seconds from the start, uncounted, as long as there is time.
        """
        self.assertEqual(Retry(30.0, counted=False, firm=True), after(UNTRUSTED, attempts=9, draw=0.0))
        self.assertEqual(Retry(45.0, counted=False, firm=True), after(UNTRUSTED, draw=0.5))
        self.assertEqual(GiveUp("deadline"), after(UNTRUSTED, draw=0.5, left=45.0))

    @given(CASES)
    def test_before_the_deadline(self, case: dict[str, Any]) -> None:
        """
        Whatever happens, the next attempt is neither in the past nor past the deadline.
        """
        decision = RetryPolicy().after(**case)
        if isinstance(decision, Retry):
            self.assertTrue(0 <= decision.seconds < case["left"])

    @given(CASES)
    def test_rest_is_short(self, case: dict[str, Any]) -> None:
        """
        Whatever happens, only a 503 lets all POSTs pause, and for a minute at most.
        """
        pause = RetryPolicy().after(**case).pause
        is_busy = isinstance(case["result"], Response) and case["result"].status == 503
        self.assertTrue(0 <= pause <= 60 if is_busy else pause == 0)


class RetryAfterTests(SynchronousTestCase):
    """Waiting as long as the webhook asks."""

    def asked(self, value: str, now: datetime = NOW) -> float:
        """The seconds that a 429 is waited for, with a draw of none, nearly for ever to go."""
        return seconds_of(after(Response(429, {"retry-after": value}), left=1e12, now=now, draw=0.0))

    def test_floor(self) -> None:
        """
        The next attempt is not before the time asked for, nor before the one drawn.
        """
        for status in (408, 429, 500, 502, 503, 504, 520):
            busy = Response(status, {"retry-after": "7"})
            self.assertEqual(7.0, seconds_of(after(busy, tries=4)))
        for status in (408, 500, 520):
            busy = Response(status, {"retry-after": "7"})
            self.assertEqual(8.0, seconds_of(after(busy, tries=6, draw=0.5)))

    def test_firm(self) -> None:
        """
        What the webhook has asked for is kept also when it is known to be back; our own waits are not.
        """
        for result, firm in ((Response(429, {"retry-after": "7"}), True), (Response(429), False), (FAILED, False)):
            decision = after(result)
            assert isinstance(decision, Retry)
            self.assertEqual(firm, decision.firm)

    def test_dates(self) -> None:
        """
        A date is understood in each of the three forms of HTTP.
        """
        now = datetime(1994, 11, 6, 8, 49, 0, tzinfo=UTC)
        for date in (
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ):
            self.assertEqual(37.0, self.asked(date, now))
            self.assertEqual(37.0, self.asked(date, now.astimezone(timezone(timedelta(hours=-5)))))

    def test_date_in_the_past(self) -> None:
        """
        A time that has passed asks for no wait.
        """
        past = {"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}
        self.assertEqual(Retry(0.0, counted=False), after(Response(503, past), draw=0.0))

    def test_repeated(self) -> None:
        """
        Of a field that came more than once the first one counts.
        """
        now = datetime(1994, 11, 6, 8, 49, 0, tzinfo=UTC)
        for value in (
            "37, 120",
            "37,Sun, 06 Nov 1994 08:50:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT, 120",
            "Sun, 06 Nov 1994 08:49:37 GMT, Sun, 06 Nov 1994 08:50:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT, Sunday, 06-Nov-94 08:50:37 GMT",
            "Sun Nov  6 08:49:37 1994, Sun Nov  6 08:50:37 1994",
        ):
            self.assertEqual(37.0, self.asked(value, now), value)

    def test_rubbish(self) -> None:
        """
        What is neither a number nor a date is as if it were not there.
        """
        for value in (
            *(
                "",
                " ",
                ",",
                "soon",
                "-5",
                "+5",
                "5.5",
                "1e5",
                "0x10",
                "5s",
                "5;5",
                "inf",
                "nan",
                "\xb2",
                "\u0663",
                "\0",
            ),
            *("Sun, 06 Nov 2030", "Sun, 31 Feb 2030 08:49:37 GMT", "2030-01-01T00:00:00Z", "tomorrow, 08:00"),
            "Sun, 06 Nov " + "9" * 5000 + " 08:49:37 GMT",
            "Sun, 06 Nov 2030 08:49:37 +" + "9" * 4000,
        ):
            self.assertEqual(0.0, self.asked(value), value)

    def test_endless_numbers(self) -> None:
        """
        A number of any length is beyond the deadline, or a small one with zeros before it.
        """
        for digits in (400, 5_000, 1_000_000):
            self.assertEqual(GiveUp("deadline", ban=86400.0), after(Response(429, {"retry-after": "9" * digits})))
            self.assertEqual(7.0, self.asked("7".zfill(digits)))

    def test_ends_of_time(self) -> None:
        """
        The first and the last date there are can be asked for.
        """
        self.assertEqual(0.0, self.asked("Mon, 01 Jan 0001 00:00:00 +1400"))
        last = Response(429, {"retry-after": "Fri, 31 Dec 9999 23:59:59 -1200"})
        self.assertEqual(GiveUp("deadline", ban=86400.0), after(last))

    def test_beyond_the_deadline(self) -> None:
        """
        Who is asked to wait until the deadline or longer gives up at once, and leaves the wait to those behind.
        """
        for status in (429, 500, 502):
            late = after(Response(status, {"retry-after": "25"}), left=25.0)
            self.assertEqual(GiveUp("deadline", ban=25.0), late)
        self.assertEqual(24.0, seconds_of(after(Response(429, {"retry-after": "24"}), left=25.0)))

    def test_busy_webhook_is_spared(self) -> None:
        """
        With a 503 everybody waits, up to a minute, while the conversation itself waits as long as was asked.
        """
        for asked, pause in ((7, 7.0), (90, 60.0)):
            busy = Response(503, {"retry-after": str(asked)})
            self.assertEqual(Retry(float(asked), counted=False, pause=pause, firm=True), after(busy))
        self.assertEqual(Retry(0.0, counted=False), after(Response(503), draw=0.0))

    def test_rest_of_what_is_given_up(self) -> None:
        """
        A 503 lets all POSTs pause also where its own delivery cannot wait so long.
        """
        busy = Response(503, {"retry-after": "90"})
        self.assertEqual(GiveUp("deadline", pause=60.0, ban=90.0), after(busy, left=25.0))
        self.assertEqual(GiveUp("deadline", pause=60.0, ban=90.0), after(busy, left=0.1))
        self.assertEqual(GiveUp("deadline"), after(Response(503), left=0.1))

    def test_last_attempt_leaves_the_wait(self) -> None:
        """
        Also where no more attempts are allowed those behind wait as long as was asked; with one attempt nobody does.
        """
        tired = Response(500, {"retry-after": "7"})
        self.assertEqual(GiveUp("attempts", ban=7.0), after(tired, attempts=9))
        self.assertEqual(GiveUp("attempts"), after(tired, policy=RetryPolicy(max_attempts=1)))

    def test_nobody_else_can_ask(self) -> None:
        """
        Only a 503 lets the whole webhook rest.
        """
        self.assertEqual(Retry(7.0, counted=False, firm=True), after(Response(429, {"retry-after": "7"})))
