"""The limit for replies in one conversation within a time, which ends the talk of two bots."""

from __future__ import annotations

from collections import OrderedDict, deque

from attrs import Factory, define

MAX_REMEMBERED = 16_384
"""Answers remembered over all conversations: some MiB, where addresses have the usual length."""


@define
class _Answers:
    """
    The replies in one conversation within the window.

    Attributes:
        noted: When, and how many replies it had, of each answer.
        replies: All of these replies.
    """

    noted: deque[tuple[float, int]] = Factory(deque)
    replies: int = 0


class LoopGuard:
    """
    Says of each answer whether it keeps within the rate; of one that does not, nothing is to be sent.

    Not for iqs: each of them must be answered, and nobody answers an answer. Who asks leaves them out.

    Beyond `max_remembered` the conversation that has been silent longest is forgotten whole, and starts anew. A loop is
    not silent for long, so it is among the last to go.

    Args:
        replies: Stanzas that may be sent in one conversation within the window.
        seconds: The window; it slides.
        max_remembered: Answers remembered over all conversations; those of the latest one always are.

    Attributes:
        remembered: Answers that are remembered now.
    """

    def __init__(self, replies: int, seconds: float, max_remembered: int = MAX_REMEMBERED) -> None:
        self._replies = replies
        self._seconds = seconds
        self._max_remembered = max_remembered
        self._conversations: OrderedDict[tuple[str, str, bool], _Answers] = OrderedDict()  # the latest is last
        self.remembered = 0

    def allows(self, conversation: tuple[str, str, bool], replies: int, now: float) -> bool:
        """
        Decide on one answer, and note it if it may be sent.

        Args:
            conversation: `Stanza.conversation` of what is answered. In a room these are the room and the bot.
            replies: Stanzas in the answer; all of them may go, or none.
            now: Seconds on a clock that never goes back.
        """
        self._forget_silent(now)
        answers = self._conversations.get(conversation) or _Answers()
        while answers.noted and self._is_over(answers.noted[0], now):
            answers.replies -= answers.noted.popleft()[1]
            self.remembered -= 1
        if answers.replies + replies > self._replies:
            return False
        if replies:
            answers.noted.append((now, replies))
            answers.replies += replies
            self.remembered += 1
            self._conversations[conversation] = answers
            self._conversations.move_to_end(conversation)
            while self.remembered > self._max_remembered and len(self._conversations) > 1:
                self._forget_oldest()
        return True

    def _forget_silent(self, now: float) -> None:
        """Forget the conversations whose last answer is over; the earliest of the last answers is first."""
        while self._conversations:
            answers = next(iter(self._conversations.values()))
            if not self._is_over(answers.noted[-1], now):
                return
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        _, answers = self._conversations.popitem(last=False)
        self.remembered -= len(answers.noted)

    def _is_over(self, answer: tuple[float, int], now: float) -> bool:
        return now - answer[0] >= self._seconds
