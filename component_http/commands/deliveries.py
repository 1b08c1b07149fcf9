"""The command `component-http deliveries`: look at deliveries that have ended, follow them, replay them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from component_http.commands.arguments import (
    add_json,
    add_place,
    add_verb,
    address,
    identifier,
    limit,
    names_among,
)
from component_http.commands.arguments import (
    since as moment_since,
)
from component_http.commands.letters import LISTED
from component_http.commands.on_spool import Site
from component_http.commands.printing import NOTHING, complain, note, say, say_json
from component_http.contract.ended import (
    OUTCOMES,
    EndedAttempt,
    EndedDelivery,
    EndedStanza,
    ReplayResult,
    WhichEnded,
    as_json,
    result_as_json,
    stamp,
)
from component_http.contract.stanza import STANZA_KINDS
from component_http.operations.reasons import attempt_in_words, duration
from component_http.operations.terminal import on_one_line, printable, size, table
from component_http.spool.ended import Ended
from component_http.spool.visit import holder

INTERRUPTED = 130
"""Exit status after Ctrl-C, as a shell has it."""

LOOK_AGAIN = 0.5
"""Seconds between two looks of `tail`."""

TAIL = 10
"""Deliveries that have ended before, and that `tail` begins with."""

AT_ONCE = 100
"""Rows that are laid out together; the columns of the next ones may be wider."""

_HEADER = ("ENDED", "ID", "OUTCOME", "HTTP", "TRIES", "TOOK", "FROM", "TO", "WHY")
_LIMITS = (24, 32, 16, 4, 5, 9, 26, 22)
"""Columns of the terminal for each column of the list, except the last."""

_COLUMNS = 160

NO_LOG = 'the log of deliveries is empty: set spool.keep_ended to "facts", or to "bodies" to replay deliveries, too'


def add(commands: Any) -> None:
    deliveries = commands.add_parser(
        "deliveries",
        help="look at deliveries that have ended, follow them, POST them again",
        description="The log of deliveries has each that has ended, if spool.keep_ended is set. A gateway may be"
        " running meanwhile.",
        allow_abbrev=False,
    )
    verbs = deliveries.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, about, carry_out in (
        ("list", "list them, oldest first", _list),
        ("show", "show the whole life of one, a line for each step", _show),
        ("tail", "list the newest ten, and those that end from now on, until it is interrupted", _tail),
        ("replay", "POST them once more, one after the other, and show what the webhook answers", _replay),
    ):
        parser = add_verb(verbs, verb, about)
        if verb == "show":
            parser.add_argument("id", metavar="ID", type=identifier, help="the delivery's id, or the beginning of it")
        else:
            _add_filters(parser, verb)
        add_place(parser)
        add_json(parser)
        parser.set_defaults(carry_out=_with(carry_out), refuse=parser.error)


def _add_filters(parser: argparse.ArgumentParser, verb: str) -> None:
    add = parser.add_argument
    if verb == "replay":
        add("id", metavar="ID", nargs="?", type=identifier, help="the delivery's id, or the beginning of it")
    told = "the address of the user: a bare one with all its resources, or a full one"
    add("--from", dest="sender", metavar="ADDRESS", type=address, help=told)
    told = "the address of the component that it was for, likewise; with --from it names a conversation"
    add("--to", dest="recipient", metavar="ADDRESS", type=address, help=told)
    add("--outcome", metavar="NAMES", type=names_among(*OUTCOMES), default=(), help=", ".join(OUTCOMES))
    add("--kind", metavar="NAMES", type=names_among(*STANZA_KINDS), default=(), help=", ".join(STANZA_KINDS))
    if verb != "tail":
        told = "accepted since then: 14:00, 2026-11-26T14:00, or 2h for two hours ago"
        add("--since", metavar="TIME", type=moment_since, help=told)
        add("--until", metavar="TIME", type=moment_since, help="accepted before then, likewise")
    if verb == "list":
        add("--limit", metavar="N", type=limit, default=LISTED, help=f"the newest N, 0 for all (default: {LISTED})")
    if verb == "replay":
        told = "send the stanzas that the webhook answers, too; never the answer to an iq, for that has one"
        add("--send", action="store_true", help=told)


def _with(carry_out: Any) -> Any:
    """Open the log for one of the verbs."""

    def opened(site: Site, chosen: argparse.Namespace) -> int:
        with Ended(site.path, **site.options) as ended:
            status: int = carry_out(ended, site, chosen)
            for sentence in ended.unreadable:
                complain(sentence)
            return status or (NOTHING if ended.unreadable else 0)

    return opened


def _which(chosen: argparse.Namespace, site: Site, **more: Any) -> WhichEnded:
    now = site.now()
    since, until = (getattr(chosen, name, None) for name in ("since", "until"))
    return WhichEnded(
        outcomes=chosen.outcome,
        kinds=chosen.kind,
        sender=chosen.sender,
        recipient=chosen.recipient,
        since=None if since is None else since(now),
        until=None if until is None else until(now),
        **more,
    )


# -- list and tail --


def _list(ended: Ended, site: Site, chosen: argparse.Namespace) -> int:
    found = ended.read(_which(chosen, site), newest=chosen.limit)
    listed = 0
    if chosen.json:
        listed = _say_array(as_json(each, whole=False) for each in found)
    else:
        while rows := [_row(each) for each in islice(found, AT_ONCE)]:
            say(_table(rows, header=not listed))
            listed += len(rows)
    if not listed:
        complain("there is no such delivery in the log" if ended.last_number() else NO_LOG)
        return NOTHING
    if listed == chosen.limit:
        note(f"the newest {listed}; --limit 0 for all")
    return 0


def _say_array(found: Iterable[dict[str, Any]]) -> int:
    """Write a JSON array part by part, so that it may be long; returns the number of items."""
    number, items = 0, iter(found)
    while some := [json.dumps(each) for each in islice(items, AT_ONCE)]:
        say((",\n" if number else "[\n") + ",\n".join(some))
        number += len(some)
    say("\n]\n" if number else "[]\n")
    return number


def _table(rows: Sequence[Sequence[str]], *, header: bool) -> str:
    text = table(_HEADER, rows, _LIMITS, _COLUMNS)
    return text if header else text.split("\n", 1)[1]


def _row(ended: EndedDelivery) -> tuple[str, ...]:
    last = ended.last
    why = ended.note or (last.failure if last is not None else None) or ""
    return (
        _moment(ended.ended),
        ended.id,
        f"{ended.outcome}{' (replay)' if ended.replay else ''}",
        "" if last is None or last.status is None else str(last.status),
        str(ended.tries),
        duration(ended.ended - ended.accepted),
        ended.sender,
        ended.recipient,
        why,
    )


def _tail(ended: Ended, site: Site, chosen: argparse.Namespace) -> int:
    which = _which(chosen, site)
    last = ended.start_of_newest(which, TAIL)
    if holder(site.path).running is False:
        note("no gateway has this spool now; this waits for one")
    first = True
    try:
        while True:
            # Beyond those that fit, too, so that no row is looked at twice.
            newest = ended.last_number()
            found = [each for each in ended.read(which, after=last) if each.number <= newest]
            last = max(last, newest)
            if chosen.json:
                for each in found:
                    say_json(as_json(each), indent=None)
            elif found:
                say(_table([_row(each) for each in found], header=first))
                first = False
            sys.stdout.flush()
            site.pause(LOOK_AGAIN)
    except KeyboardInterrupt:
        return 0


# -- show --


def _show(ended: Ended, site: Site, chosen: argparse.Namespace) -> int:
    numbers = _named(ended, WhichEnded(id=chosen.id), chosen.id)
    whole = [each for each in map(ended.one, numbers) if each is not None]
    if chosen.json:
        if whole:
            say_json([{**as_json(each), "request": _request(ended, each)} for each in whole])
        return 0 if whole else NOTHING
    for each in whole:
        say("".join(f"{on_one_line(line)}\n" for line in _life(each)))
        body = ended.body(each.number) if each.has_body else None
        if body is not None:
            say(f"request, {size(len(body))}:\n{printable(body.decode('utf-8', 'replace'))}\n")
    return 0 if whole else NOTHING


def _named(ended: Ended, which: WhichEnded, beginning: str) -> list[int]:
    """The numbers of the deliveries that fit a filter; none where the beginning of an id may mean several."""
    numbers: dict[str, list[int]] = {}
    for each in ended.read(which):
        numbers.setdefault(each.id, []).append(each.number)
    if not numbers:
        complain("there is no such delivery in the log" if ended.last_number() else NO_LOG)
    if not beginning:
        return sorted(number for some in numbers.values() for number in some)
    if beginning not in numbers and len(numbers) > 1:
        complain(f"{on_one_line(beginning)[:40]} may mean {len(numbers)} deliveries: name more of it")
        return []
    return numbers.get(beginning) or [number for some in numbers.values() for number in some]


def _request(ended: Ended, one: EndedDelivery) -> Any:
    body = ended.body(one.number) if one.has_body else None
    if body is None:
        return None
    text = body.decode("utf-8", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _life(one: EndedDelivery) -> Iterator[str]:
    """The life of a delivery, a line for each step; whoever prints it puts each on one line of the terminal."""
    kind = " ".join(filter(None, (one.kind, one.type and f"of type {one.type}")))
    named = f" with id {one.stanza_id}" if one.stanza_id else ""
    way = f", by the route {one.route}" if one.route else ""
    if one.replay:
        yield f"{_moment(one.accepted)} {one.id} was replayed: the {kind} from {one.sender} to {one.recipient}{way}"
    else:
        yield f"{_moment(one.accepted)} {one.id} was accepted: {kind}{named} from {one.sender} to {one.recipient}{way}"
    if one.attempts and not one.replay:
        yield f"{_moment(one.attempts[0].began)} its turn came after {duration(one.attempts[0].began - one.accepted)}"
    for attempt in one.attempts:
        yield _attempt(attempt)
    if not one.replay and one.tries > len(one.attempts):
        yield f"{_moment(one.ended)} {one.tries} POSTs were made in all, of which the log has some"
    why = f": {one.note}" if one.note else ""
    yield f"{_moment(one.ended)} it ended after {duration(one.ended - one.accepted)}: {one.outcome}{why}"
    for stanza in one.stanzas:
        yield _stanza(stanza, one)


def _attempt(one: EndedAttempt) -> str:
    answer = f"; answer: {one.answer}" if one.answer else ""
    facts = (one.number, one.status, one.failure, one.seconds, one.connecting, one.first_byte, one.follows, one.again)
    return f"{_moment(one.began)} {attempt_in_words(*facts)}{answer}"


def _stanza(stanza: EndedStanza, one: EndedDelivery) -> str:
    kind = " ".join(filter(None, (stanza.kind, stanza.type and f"of type {stanza.type}")))
    about = f"the {kind} to {stanza.recipient}, {size(stanza.size)}"
    xml = f": {stanza.xml}" if stanza.xml else ""
    if stanza.number is None:
        return f"{_moment(one.ended)} not sent: {about}{xml}"
    if stanza.fate is None or stanza.at is None:
        return f"{_moment(one.ended)} sent, and not known to be with the server: {about}{xml}"
    why = f": {stanza.why}" if stanza.why else ""
    told = "the server has" if stanza.fate == "confirmed" else f"{stanza.fate}:"
    return f"{_moment(stanza.at)} {told} {about}, {duration(stanza.at - one.ended)} later{why}{xml}"


# -- replay --


def _replay(ended: Ended, site: Site, chosen: argparse.Namespace) -> int:
    narrowed = any((chosen.sender, chosen.recipient, chosen.outcome, chosen.kind, chosen.since, chosen.until))
    if bool(chosen.id) == narrowed:
        chosen.refuse("either name the id of one delivery, or several by --from, --to, --since and the other flags")
    numbers = _named(ended, _which(chosen, site, id=chosen.id or "", replays=False), chosen.id or "")
    good = 0
    try:
        for number, result in ended.replay(numbers, send=chosen.send, pause=site.pause):
            good += _told(ended, number, result, chosen)
    except KeyboardInterrupt:
        complain("interrupted: one that has begun goes on, and is in the log; the others are not replayed")
        return INTERRUPTED
    return 0 if good and good == len(numbers) else NOTHING


def _told(ended: Ended, number: int, result: ReplayResult, chosen: argparse.Namespace) -> bool:
    """Say what came of a replay; returns whether the webhook's answer could be used."""
    replay = result.delivery
    if chosen.json:
        say_json({"of": number, **result_as_json(result)}, indent=None)
    elif replay is None:
        one = ended.one(number)
        complain(f"{number if one is None else one.id} is not replayed: {result.refused}")
    else:
        say("".join(f"{on_one_line(line)}\n" for line in _life(replay)))
    return replay is not None and replay.outcome in ("replied", "silent")


def _moment(seconds: float) -> str:
    return stamp(seconds) or "an impossible time"
