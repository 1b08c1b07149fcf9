"""Find conversations in which two programs answer each other without end, and slow those down."""

from __future__ import annotations

from collections import OrderedDict

from attrs import define, frozen

from component_http.contract.stanza import Stanza

ENOUGH = 120
"""
Points of evidence at which a conversation is slowed down.

A round is one reply of ours, one message that repeats it or names its id, and our reply to that. It gives one point,
or ten where a program that does not read our replies could not have caused it.
"""

STRONG = 10
"""Points of such a round."""

PACE = 1.0
"""Seconds between our reply and the next request, in a conversation that is slowed down."""

PAUSE = 5.0
"""
Seconds without an answer to our reply after which a conversation starts anew.

More than `PACE`, because the other side may have a guard like this one.
"""

CREDIT = 10 * ENOUGH
"""Points taken from a conversation whose sender did not wait for the first reply that was held back."""

MAX_TALKS = 4096
"""Conversations that are watched, the latest; 3 MiB at most."""

_TEXT = 256
"""Characters of a reply that are compared."""

_CONTAINED = 16
"""Characters of a reply that prove something when another text contains it: nearly every text contains "ok"."""


@frozen
class Hold:
    """
    A delivery of a loop that is to wait.

    Attributes:
        seconds: How long.
        number: Which one of its conversation this is, from 1. The first one is a trial: a sender that does not wait for
            our reply goes on, and is no loop.
    """

    seconds: float
    number: int


@define(eq=False)
class _Talk:
    """
    The last messages of a conversation, and the evidence for a loop.

    Attributes:
        said: The text of our last reply, or its beginning.
        said_id: Its id; None if the sender may know it from elsewhere.
        said_at: When that was.
        heard: The hash of the text that came last, or None.
        heard_id: The id of its stanza.
        latest: The id of its delivery.
        bodies: Texts that came since our reply.
        repeats: A message since our reply repeats it or names its id.
        points: The points of the next round.
        evidence: Points of all rounds in a row.
        holds: Deliveries that had to wait.
    """

    said: str = ""
    said_id: str | None = None
    said_at: float = 0.0
    heard: int | None = None
    heard_id: str | None = None
    latest: str | None = None
    bodies: int = 0
    repeats: bool = False
    points: int = 1
    evidence: int = 0
    holds: int = 0


class LoopBrake:
    """
    Watches what is said in each conversation, for two programs that answer each other.

    A loop is many rounds in a row. In a round the other side sends one message after our reply, within `PAUSE`, which
    has the same text as our reply, contains it, or names its id; and we reply to that. No other message comes
    meanwhile, because a program that answers us waits for us.

    This is also true of a script that sends one text again and again, waits for the answer each time, and talks to a
    bot that echoes. So a round counts tenfold only if the text is another one than before, if our id was named, or if
    the sender has no resource as every client has; else there must be `ENOUGH` rounds.

    It is also true, by chance, of a program that sends one text at fixed intervals to a bot that echoes. So the first
    time a delivery has to wait is a trial: if another message comes meanwhile, the sender does not wait for our
    replies, and has `CREDIT`.

    Conversations are forgotten after a pause, and the longest silent one if there are more than `max_talks`. A loop is
    not silent for long, so it is among the last to go.

    Args:
        max_talks: As `MAX_TALKS`.
    """

    def __init__(self, max_talks: int = MAX_TALKS) -> None:
        self._max_talks = max_talks
        self._talks: OrderedDict[tuple[str, str, bool], _Talk] = OrderedDict()  # the latest reply is last

    def __len__(self) -> int:
        return len(self._talks)

    def heard(self, stanza: Stanza, delivery_id: str, now: float) -> bool:
        """
        Note a message that was accepted.

        Args:
            stanza: With its content.
            delivery_id: The delivery that it has become.
            now: Seconds on a clock that never goes back.

        Returns:
            Its conversation is no loop, though it was held as one: nothing of it should wait any longer.
        """
        talk = self._talks.get(stanza.conversation)
        if talk is None or stanza.type == "error":
            return False
        if now - talk.said_at > PAUSE:
            del self._talks[stanza.conversation]
            return False
        element = stanza.element
        body = None
        names_id = talk.said_id is not None and stanza.id == talk.said_id
        for child in element.children:
            if not isinstance(child, str):
                if body is None and child.name == "body" and child.uri == element.uri:
                    body = child
                if talk.said_id is not None and child.attributes.get("id") == talk.said_id:
                    names_id = True
        if body is not None:
            text = str(body).strip()
            last, talk.heard = talk.heard, hash(text)
            talk.heard_id, talk.latest = stanza.id, delivery_id
            talk.bodies += 1
            talk.repeats = names_id or (
                bool(talk.said) and (text == talk.said or (len(talk.said) >= _CONTAINED and talk.said in text))
            )
            changed = last not in (None, talk.heard)
            talk.points = STRONG if names_id or changed or stanza.sender.resource is None else 1
        elif names_id and not talk.bodies:
            # A client confirms by itself that it has our reply; that is a loop only if nothing else comes.
            talk.latest, talk.repeats, talk.points = delivery_id, True, STRONG
        if talk.holds and talk.bodies > 1:
            talk.evidence, talk.holds = (-CREDIT, 0) if talk.holds == 1 else (0, talk.holds)
            return True
        return False

    def said(
        self,
        conversation: tuple[str, str, bool],
        text: str,
        stanza_id: str | None,
        now: float,
        *,
        answers: str | None = None,
    ) -> None:
        """
        Note a message that is sent.

        Args:
            conversation: That of what its recipient would answer (`Stanza.conversation`).
            text: Its body.
            stanza_id: Its id.
            now: As for `heard`.
            answers: The delivery that it is a reply to; None if nobody knows.
        """
        talk = self._talks.get(conversation)
        if talk is None:
            self._forget_silent(now)
            talk = self._talks[conversation] = _Talk()
        else:
            self._talks.move_to_end(conversation)
            if talk.repeats and talk.bodies <= 1 and answers in (None, talk.latest):
                talk.evidence += talk.points
            else:
                talk.evidence = min(talk.evidence, 0)
        talk.said, talk.said_at = text.strip()[:_TEXT], now
        talk.said_id = stanza_id if stanza_id != talk.heard_id else None
        talk.bodies, talk.repeats, talk.points = 0, False, 1

    def hold(self, conversation: tuple[str, str, bool], delivery_id: str, now: float) -> Hold | None:
        """
        Say whether a delivery has to wait before its next attempt, and note that it does.

        Args:
            conversation: Its conversation.
            delivery_id: The delivery that is about to be POSTed.
            now: As for `heard`.
        """
        talk = self._talks.get(conversation)
        if talk is None or talk.evidence < ENOUGH or not talk.repeats or talk.bodies > 1 or talk.latest != delivery_id:
            return None
        seconds = talk.said_at + PACE - now
        if seconds <= 0:
            return None
        talk.holds += 1
        return Hold(seconds, talk.holds)

    def _forget_silent(self, now: float) -> None:
        """Make room for one more: those go that are silent for too long, and the longest silent one if need be."""
        while self._talks:
            oldest = next(iter(self._talks.values()))
            if now - oldest.said_at <= PAUSE and len(self._talks) < self._max_talks:
                return
            self._talks.popitem(last=False)
