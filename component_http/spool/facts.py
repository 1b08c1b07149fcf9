"""
Facts that a gateway leaves in the spool's file for the commands that look at it, by rows of the table `facts`.

| name | value | when it is written |
|---|---|---|
| `webhook` | the state, as in `component_http.delivery.status.Status` | when it changes |
| `webhook_trouble` | a `Trouble` as JSON, or nothing | when the webhook begins to fail, is probed, and is well again |
| `webhooks` | the domains of several components as JSON; of each there are two facts more | when they come and go |
| `pending` | an `Answer` as JSON | when a command has asked by a row `explain` of the table `commands` |
| `replays` | the last results of rows `replay` of that table, by their numbers, as JSON | when one is known |

Of several components `webhook` and `webhook_trouble` are those of the webhook that is least well; those of each have
its domain behind their names, as in `webhook bot.example.org`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, get_args

from attrs import asdict, frozen

from component_http.contract.explanation import Explanation, HeldBy
from component_http.spool.rows import UNREADABLE, count, number, or_none, text

MOST_EXPLAINED = 300
"""Deliveries that one command may ask about: the answer stays below 100 KB and takes the gateway a few milliseconds."""

MOST_CHARACTERS = 200
"""Characters of the reason for a failure; the rest is cut off."""


@frozen
class Trouble:
    """
    The trouble with a webhook.

    Attributes:
        since: When it began to fail, in seconds since the epoch; None if it only asked for a pause.
        reason: Why the last attempt failed.
        next_attempt: When it is asked next, in seconds since the epoch; a time in the past means now. None if a probe
            is under way.
    """

    since: float | None
    reason: str | None
    next_attempt: float | None


@frozen
class Answer:
    """
    The answer of the gateway to a question why something waits.

    Attributes:
        commands: The numbers of the commands that asked.
        connected: The gateway has a stream to the XMPP server.
        deliveries: Explanations by delivery id, with `next_attempt` in seconds since the epoch.
    """

    commands: Sequence[int]
    connected: bool
    deliveries: Mapping[str, Explanation]


def facts_of_webhook(
    state: str, failing_for: float | None, reason: str | None, next_attempt: float | None, now: float
) -> dict[str, str]:
    """
    Make the facts about the webhook; they stay the same from second to second as long as nothing happens.

    Args:
        state: As in `Status.webhook`; `failing_for` and `next_attempt` are seconds, as there, too.
        now: The wall clock.
    """
    trouble = ""
    if state in ("closed", "open", "half_open") and (failing_for is not None or (state == "closed" and next_attempt)):
        found = Trouble(
            since=None if failing_for is None else float(round(now - failing_for)),
            reason=None if failing_for is None or reason is None else reason[:MOST_CHARACTERS],
            next_attempt=float(round(now + next_attempt)) if next_attempt else next_attempt,
        )
        trouble = json.dumps(asdict(found))
    return {"webhook": state, "webhook_trouble": trouble}


def facts_of_each(facts: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Make the facts of several components, from `facts_of_webhook` of each by its domain."""
    of_each = {f"{name} {domain}": value for domain, its in facts.items() for name, value in its.items()}
    return {"webhooks": json.dumps(list(facts)), **of_each}


def read_each(facts: Mapping[str, object]) -> dict[str, tuple[str, Trouble | None]]:
    """Read the state and the trouble of each webhook by the domain of its component; nothing if there is one only."""
    try:
        domains = list(map(text, json.loads(text(facts["webhooks"]))))
        return {
            domain: (text(facts[f"webhook {domain}"]), read_trouble(facts.get(f"webhook_trouble {domain}")))
            for domain in domains
        }
    except (KeyError, *UNREADABLE):
        return {}


def read_trouble(value: object) -> Trouble | None:
    """Read the fact `webhook_trouble`; None if there is no trouble, or none that can be read."""
    try:
        found = json.loads(text(value))
        since, next_attempt = or_none(number, found["since"]), or_none(number, found["next_attempt"])
        return Trouble(since, or_none(text, found["reason"]), next_attempt)
    except UNREADABLE:
        return None


def question(delivery_ids: Sequence[str]) -> str:
    return json.dumps(delivery_ids[:MOST_EXPLAINED])


def answer(
    questions: Sequence[tuple[int, str]], explain: Callable[[str], Explanation | None], *, connected: bool, now: float
) -> str:
    """
    Write the fact `pending`.

    Args:
        questions: The numbers of the commands `explain`, and their arguments.
        explain: Explains a delivery by its id.
        connected: The gateway has a stream to the XMPP server.
        now: The wall clock.
    """
    deliveries: dict[str, dict[str, Any]] = {}
    for _, argument in questions:
        ids: list[str] = []
        with suppress(*UNREADABLE):  # somebody else has asked
            ids = list(map(text, json.loads(argument)))
        for delivery_id in ids:
            found = explain(delivery_id)
            if found is not None and len(deliveries) < MOST_EXPLAINED:
                described = asdict(found)
                if found.next_attempt is not None:
                    described["next_attempt"] = round(now + found.next_attempt, 3)
                if found.last_failure is not None:
                    described["last_failure"] = found.last_failure[:MOST_CHARACTERS]
                deliveries[delivery_id] = described
    commands = [number for number, _ in questions]
    return json.dumps({"commands": commands, "connected": connected, "deliveries": deliveries})


def replay_argument(number: int, *, send: bool) -> str:
    """The argument of a command `replay`: the delivery's number in the log, and whether its answer is to be sent."""
    return json.dumps([number, send])


def read_replay_argument(argument: str) -> tuple[int, bool] | None:
    """Read it; None if somebody else has written it."""
    with suppress(*UNREADABLE):
        found, send = json.loads(argument)
        return count(found), bool(send)
    return None


def replay_result(number: int | None, refused: str | None, *, sent: bool) -> list[object]:
    """One of the fact `replays`: the replay's number in the log, why there is none, whether its answer was sent."""
    return [number, refused, sent]


def read_replay_result(value: object, command: int) -> tuple[int | None, str | None, bool] | None:
    """Read it, by the number of the command; None while it is not there."""
    with suppress(*UNREADABLE):
        number, refused, sent = json.loads(text(value))[str(command)]
        return or_none(count, number), or_none(text, refused), bool(sent)
    return None


def answer_for_others(value: str, number: int | None) -> str | None:
    """Take a command out of an answer, because who gave it has read that; None if nobody else waits for it."""
    found = json.loads(value)
    found["commands"] = [each for each in found["commands"] if each != number]
    return json.dumps(found) if found["commands"] else None


def read_answer(value: object) -> Answer | None:
    """Read the fact `pending`; None if it cannot be read."""
    try:
        found = json.loads(text(value))
        return Answer(
            list(found["commands"]),
            found["connected"],
            {
                delivery_id: Explanation(**one)
                for delivery_id, one in found["deliveries"].items()
                if one["held_by"] in get_args(HeldBy)
            },
        )
    except UNREADABLE:
        return None
