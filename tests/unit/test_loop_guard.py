"""The end of two bots that answer each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from component_http.delivery.loop_guard import LoopGuard

ALICE = ("alice@example.org", "bot@bot.example.org", False)
BOB = ("bob@example.org", "bot@bot.example.org", False)

answers = st.lists(
    st.tuples(
        st.sampled_from([ALICE, BOB, ("room@rooms.example.org", "bot@bot.example.org", False)]),
        st.integers(0, 4),
        st.one_of(st.just(0.0), st.floats(0, 6, allow_subnormal=False)),
    ),
    max_size=60,
)
"""Whom, how many replies, and seconds since the answer before."""


class LoopGuardTests(SynchronousTestCase):
    """So many replies in a conversation within a time."""

    def test_beyond_the_rate_nothing_goes(self) -> None:
        """
        Of three quick answers only two are sent where two are allowed.
        """
        guard = LoopGuard(2, 10.0)
        self.assertEqual([True, True, False], [guard.allows(ALICE, 1, now) for now in (0.0, 1.0, 2.0)])

    def test_the_window_slides(self) -> None:
        """
        As soon as the oldest reply is ten seconds old there is room for one more, and no sooner.
        """
        guard = LoopGuard(2, 10.0)
        for now in (0.0, 5.0):
            guard.allows(ALICE, 1, now)
        self.assertEqual([False, True, False], [guard.allows(ALICE, 1, now) for now in (9.9, 10.0, 10.1)])

    def test_what_was_held_back_does_not_count(self) -> None:
        """
        Who was held back is served again after the window, however often it tried meanwhile.
        """
        guard = LoopGuard(1, 10.0)
        guard.allows(ALICE, 1, 0.0)
        for now in range(1, 10):
            guard.allows(ALICE, 1, float(now))
        self.assertTrue(guard.allows(ALICE, 1, 10.0))

    def test_an_answer_of_several_goes_whole_or_not(self) -> None:
        """
        An answer of three replies is held back where there is room for two.
        """
        guard = LoopGuard(3, 10.0)
        guard.allows(ALICE, 1, 0.0)
        self.assertEqual((False, True), (guard.allows(ALICE, 3, 1.0), guard.allows(ALICE, 2, 1.0)))

    def test_conversations_are_apart(self) -> None:
        """
        One person's loop takes nothing from another.
        """
        guard = LoopGuard(1, 10.0)
        guard.allows(ALICE, 1, 0.0)
        self.assertTrue(guard.allows(BOB, 1, 0.0))

    def test_silent_conversations_are_forgotten(self) -> None:
        """
        A conversation whose last answer is older than the window takes no memory.
        """
        guard = LoopGuard(5, 10.0)
        for number in range(100):
            guard.allows((f"user{number}@example.org", "bot@bot.example.org", False), 1, 0.0)
        guard.allows(ALICE, 1, 10.0)
        self.assertEqual(1, guard.remembered)

    def test_when_full_the_longest_silent_is_forgotten(self) -> None:
        """
        With memory for two answers, the third conversation takes the place of the one that spoke first.
        """
        guard = LoopGuard(1, 10.0, max_remembered=2)
        for number, conversation in enumerate((ALICE, BOB, ("carol@example.org", "bot@bot.example.org", False))):
            guard.allows(conversation, 1, float(number))
        self.assertEqual((True, 2), (guard.allows(ALICE, 1, 3.0), guard.remembered))

    @given(answers, st.integers(1, 8), st.floats(1, 10))
    def test_no_window_has_more(self, asked, replies, seconds) -> None:
        """
        Whatever is asked, no window of any conversation has more replies than allowed.
        """
        guard = LoopGuard(replies, seconds)
        sent: list[tuple[tuple[str, str, bool], int, float]] = []
        now = 0.0
        for conversation, count, gap in asked:
            now += gap
            if guard.allows(conversation, count, now):
                sent.append((conversation, count, now))
            window = [number for whom, number, when in sent if whom == conversation and now - when < seconds]
            self.assertGreaterEqual(replies, sum(window))

    @given(st.integers(1, 8), st.floats(1, 10), st.integers(1, 60), answers)
    def test_below_the_rate_nothing_is_held_back(self, replies, seconds, length, others) -> None:
        """
        Who answers as often as is allowed, in bursts, is never held back, whatever happens in other conversations.
        """
        guard = LoopGuard(replies, seconds)
        for number in range(length):
            now = (number // replies) * seconds * 1.001
            for conversation, count, _ in others[number : number + 1]:
                guard.allows((f"not {conversation}", *conversation[1:]), count, now)
            self.assertTrue(guard.allows(ALICE, 1, now))

    @given(answers, st.integers(1, 8), st.integers(1, 10))
    def test_memory_is_bounded(self, asked, replies, max_remembered) -> None:
        """
        Never is more remembered than the limit, or than one conversation may have.
        """
        guard = LoopGuard(replies, 10.0, max_remembered=max_remembered)
        now = 0.0
        for number, (conversation, count, gap) in enumerate(asked):
            now += gap
            guard.allows((f"{number % 20} {conversation[0]}", *conversation[1:]), count, now)
            self.assertGreaterEqual(max(max_remembered, replies), guard.remembered)
