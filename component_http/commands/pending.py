"""The command `component-http pending`: look at what waits for the webhook or the XMPP server, and drop some of it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import evolve

from component_http.commands.arguments import add_json, add_place, add_verb, limit, number
from component_http.commands.letters import LISTED
from component_http.commands.on_spool import Site, move
from component_http.commands.printing import NOTHING, complain, note, say, say_json, stamp
from component_http.commands.spool import failing
from component_http.errors import SpoolError
from component_http.operations.reasons import Reason
from component_http.operations.terminal import age, moment, on_one_line, printable, size, table
from component_http.spool.facts import Answer
from component_http.spool.pending import Pending, Waiting
from component_http.spool.visit import holder, status

_LIMITS = (20, 6, 10, 9, 22, 22)
"""Columns of the terminal for each column of the list, except the last."""

_INDENT = " " * 8
"""Begins the line with the reason, below the line of what waits."""


def add(commands: Any) -> None:
    pending = commands.add_parser(
        "pending",
        help="look at what waits for the webhook or for the XMPP server, drop some of it",
        description="Deliveries wait for the webhook (d1, d2 and so on), and stanzas wait for the XMPP server (s1, s2"
        " and so on). A gateway may be running meanwhile, and says why each waits.",
        allow_abbrev=False,
    )
    verbs = pending.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, about in (
        ("list", "list everything that waits and why, deliveries first, oldest first"),
        ("show", "show one with its content, and why it waits"),
        ("drop", "delete some; nobody is told, except a user who waits for the answer to an iq"),
    ):
        parser = add_verb(verbs, verb, about)
        if verb == "list":
            told = f"the oldest N of each sort, 0 for all (default: {LISTED})"
            parser.add_argument("--limit", metavar="N", type=limit, default=LISTED, help=told)
        else:
            count = 1 if verb == "show" else "+"
            parser.add_argument(
                "names", metavar="NUMBER", nargs=count, type=number, help="as listed, such as d12 or s7"
            )
        add_place(parser)
        add_json(parser)
        parser.set_defaults(carry_out=_pending)


def _pending(site: Site, chosen: argparse.Namespace) -> int:
    with Pending(site.path, **site.options) as pending:
        if chosen.verb == "list":
            return _list(pending, site, chosen)
        if chosen.verb == "drop":
            names = list(dict.fromkeys(chosen.names))
            _, all_done = move(names, pending.drop, "dropped", site, key="number", shown={}, as_json=chosen.json)
            return 0 if all_done else NOTHING
        return _show(pending, site, chosen)


def _list(pending: Pending, site: Site, chosen: argparse.Namespace) -> int:
    names = pending.names()
    sorts = [[name for name in names if name[0] == sort] for sort in "ds"]
    shown = [name for some in sorts for name in (some[: chosen.limit] if chosen.limit else some)]
    found = [evolve(one, content=b"") for one in pending.read(shown)]  # there may be many
    why = reasons(site, pending, found)
    if chosen.json:
        say_json([_as_json(one, why[one.name]) for one in found])
    elif found:
        stands = status(site.path, **site.options)
        trouble = failing(stands.trouble, site.now())
        known = None if trouble is None or stands.trouble is None else stands.trouble.reason
        say(("" if trouble is None else f"webhook {trouble}\n") + _table(found, why, site.now(), known))
    else:
        note("nothing waits")
    if len(names) > len(shown):
        note(f"{len(shown)} of {len(names)}; --limit 0 for all")
    return 0


def _table(found: Sequence[Waiting], why: Mapping[str, Reason], now: float, known: str | None) -> str:
    """Lay out the list; a reason that all have in common stands below it, once, and the failure `known` nowhere."""
    rows = [
        (
            one.name,
            "" if one.since is None else age(now - one.since),
            _state(one),
            size(one.size),
            one.sender,
            one.recipient,
            f"<{' '.join(filter(None, (one.kind, one.type)))}/>",
        )
        for one in found
    ]
    text = table(("NUMBER", "AGE", "STATE", "SIZE", "FROM", "TO", "KIND"), rows, _LIMITS)
    told = [on_one_line(why[one.name].in_a_list(now, known)) for one in found]
    if len(told) > 1 and len(set(told)) == 1:
        return f"{text}all of it: {told[0]}\n"
    header, *lines = text.splitlines(keepends=True)
    return header + "".join(f"{line}{_INDENT}{each}\n" for line, each in zip(lines, told, strict=True))


def _state(one: Waiting) -> str:
    if one.tries is None:
        return "suspect" if one.suspect else "waits"
    return f"{one.tries} POSTs" if one.tries else "waits"


def _show(pending: Pending, site: Site, chosen: argparse.Namespace) -> int:
    found = list(pending.read(chosen.names))
    if not found:
        complain(f"there is nothing pending with the number {chosen.names[0]}")
        return NOTHING
    why = reasons(site, pending, found)
    for one in found:
        if chosen.json:
            say_json(_as_json(one, why[one.name], whole=True))
        else:
            say("".join(_in_words(one, why[one.name], site.now())))
    return 0


def _as_json(one: Waiting, reason: Reason, *, whole: bool = False) -> dict[str, Any]:
    described: dict[str, Any] = {
        "number": one.name,
        "waits_for": "server" if one.tries is None else "webhook",
        "delivery_id": one.id,
        "kind": one.kind,
        "type": one.type or None,
        "from": one.sender,
        "to": one.recipient,
        "since": stamp(one.since),
        "bytes": one.size,
        "tries": one.tries,
        "suspect": one.suspect,
        "held_by": reason.held_by,
        "behind": reason.behind,
        "next_try": stamp(reason.next_attempt),
        "last_failure": reason.last_failure,
    }
    if whole:
        described["content"] = one.content.decode("utf-8", "replace")
    return described


def _in_words(one: Waiting, reason: Reason, now: float) -> Iterator[str]:
    facts = {
        "number": one.name,
        "waits for": "the XMPP server" if one.tries is None else "the webhook",
        "delivery": one.id or "",
        "stanza": " ".join(filter(None, (one.kind, one.type and f"of type {one.type}"))),
        "from": one.sender,
        "to": one.recipient,
        "since": "" if one.since is None else f"{moment(one.since)}, {age(now - one.since)} ago",
        "POSTs": "" if one.tries is None else f"{one.tries} reached the webhook",
        "suspect": "the server may have closed the stream because of it" if one.suspect else "",
        "why": reason.sentence(now),
        "failure": reason.last_failure or "",
    }
    for name, fact in facts.items():
        if fact:
            yield f"{name:<9} {on_one_line(fact)}\n"
    yield f"\n{size(one.size)}:\n{printable(one.content.decode('utf-8', 'replace'))}\n"


# Why things wait.


def reasons(site: Site, pending: Pending, found: Sequence[Waiting]) -> dict[str, Reason]:
    """Find out why things wait, by asking the gateway that runs: a reason for each, by its name."""
    if not found:
        return {}
    if holder(site.path).running is False:
        return {one.name: Reason("no_gateway") for one in found}
    ids = [one.id for one in found if one.tries is not None and one.id is not None]
    try:
        answer = pending.explain(ids, site.pause)
    except SpoolError as error:
        complain(f"the gateway cannot be asked why: {error}")
        answer = None
    names = {one.id: one.name for one in found if one.tries is not None}
    return {one.name: _reason(one, answer, names, pending) for one in found}


def _reason(one: Waiting, answer: Answer | None, names: dict[str | None, str], pending: Pending) -> Reason:
    if answer is None:
        return Reason("not_known")
    if one.tries is None:
        return Reason("stream_away" if not answer.connected else "suspect" if one.suspect else "server")
    told = answer.deliveries.get(one.id or "")
    if told is None:
        return Reason("not_known")
    behind = told.behind
    if behind is not None:
        behind = names.get(behind) or pending.name_of(behind) or behind
    return Reason(told.held_by, behind, told.next_attempt, told.last_failure)
