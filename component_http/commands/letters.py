"""The command `component-http letters`: look at dead letters, deliver them again, drop them."""

from __future__ import annotations

import argparse
import base64
import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from component_http.commands.arguments import (
    add_json,
    add_place,
    add_verb,
    address,
    identifier,
    limit,
    names_among,
    seconds,
)
from component_http.commands.on_spool import Site, move
from component_http.commands.printing import NOTHING, complain, note, say, say_json, some, stamp
from component_http.contract.stanza import STANZA_KINDS
from component_http.operations.terminal import age, cut, moment, on_one_line, printable, size, table
from component_http.spool.dead_letters import OUTCOMES, KeptDeadLetter, Letters, Which
from component_http.spool.visit import holder

LISTED = 100
"""Entries of a list, unless another number is asked for."""

LEAST_ID = 8
"""Characters of an id that is shown, if they are enough to tell it from others."""

_ANY = {"outcome": (), "kind": (), "limit": 0, **dict.fromkeys(("sender", "recipient", "newer_than", "older_than"))}
"""The filters that let every letter through."""

_LIMITS = (36, 6, 16, 4, 22, 14)
"""Columns of the terminal for each column of the list, except the last."""


def add(commands: Any) -> None:
    letters = commands.add_parser(
        "letters",
        help="look at dead letters, deliver them again, drop them",
        description="Dead letters are deliveries and stanzas that were given up. A gateway may be running meanwhile.",
        allow_abbrev=False,
    )
    verbs = letters.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, about in (
        ("list", "list them, oldest first"),
        ("show", "show one with all that was kept of it"),
        ("retry", "deliver them again; each keeps its id, and goes to the end of its conversation"),
        ("drop", "delete them"),
        ("export", "write them out with all that was kept of them, a JSON object in each line"),
    ):
        parser = add_verb(verbs, verb, about)
        if verb == "show":
            told = "the letter's id, or the beginning of it"
            parser.add_argument("ids", metavar="ID", nargs=1, type=identifier, help=told)
            parser.set_defaults(**_ANY)
        else:
            _add_filters(parser, verb)
        add_place(parser)
        if verb != "export":
            add_json(parser)
        parser.set_defaults(carry_out=_letters, refuse=parser.error)


def _add_filters(parser: argparse.ArgumentParser, verb: str) -> None:
    add = parser.add_argument
    add("ids", metavar="ID", nargs="*", type=identifier, help="ids, or the beginnings of ids")
    add("--outcome", metavar="NAMES", type=names_among(*OUTCOMES), default=(), help=", ".join(OUTCOMES))
    add("--kind", metavar="NAMES", type=names_among(*STANZA_KINDS), default=(), help=", ".join(STANZA_KINDS))
    told = "the address of the user: a bare one with all its resources, or a full one"
    add("--from", dest="sender", metavar="ADDRESS", type=address, help=told)
    told = "the address of the component that it was for, likewise"
    add("--to", dest="recipient", metavar="ADDRESS", type=address, help=told)
    add("--newer-than", metavar="TIME", type=seconds, help="given up since then, such as 2h for two hours ago")
    add("--older-than", metavar="TIME", type=seconds, help="given up before then, such as 7d for seven days ago")
    default = LISTED if verb == "list" else 0
    told = f"the newest N of them, 0 for all (default: {default or 'all'})"
    add("--limit", metavar="N", type=limit, default=default, help=told)
    if verb in ("retry", "drop"):
        add("--all", action="store_true", help="all that fit the filters, instead of ids")


def _letters(site: Site, chosen: argparse.Namespace) -> int:
    if chosen.verb in ("retry", "drop") and bool(chosen.ids) == chosen.all:
        chosen.refuse("either name ids, or give --all, which can be narrowed by the other flags")
    with Letters(site.path, now=site.now, **site.options) as letters:
        return _serve(letters, site, chosen)


def _serve(letters: Letters, site: Site, chosen: argparse.Namespace) -> int:
    now = site.now()
    named, complaints = _named(letters, chosen.ids)
    ids: list[str] = []
    if named or not chosen.ids:
        ids = letters.ids(_which(chosen, named, now))
        if not ids:
            complaints.append("there is no such letter" if letters.ids() else "there are no dead letters")
    for complaint in complaints:
        complain(complaint)
    total, ids = len(ids), ids[-chosen.limit :] if chosen.limit else ids
    if chosen.verb == "list":
        _list(letters, ids, total, chosen, now)
    elif chosen.verb == "show":
        for letter in letters.read(ids):
            if chosen.json:
                say_json(as_json(letter))
            else:
                say("".join(_described(letter, now)))
    elif chosen.verb == "export":
        for letter in letters.read(ids):
            say_json(as_json(letter), indent=None)
    elif not _move(letters, ids, site, chosen):
        return NOTHING
    for sentence in letters.set_aside:
        complain(sentence)
    return NOTHING if complaints or letters.set_aside else 0


def _move(letters: Letters, ids: Sequence[str], site: Site, chosen: argparse.Namespace) -> bool:
    """Retry or drop letters, and say what came of it; returns whether it was done to all of them."""
    retries = chosen.verb == "retry"
    done, all_done = move(
        ids,
        letters.retry if retries else letters.drop,
        "retried" if retries else "dropped",
        site,
        key="id",
        shown=shortest(letters.ids()),
        as_json=chosen.json,
    )
    if done and retries and not chosen.json and holder(site.path).running is False:
        say("no gateway has this spool now; the next one that starts takes them\n")
    return all_done


def _named(letters: Letters, beginnings: Sequence[str]) -> tuple[list[str], list[str]]:
    """The ids that begin so; and a sentence for each beginning that means none, or several."""
    ids: list[str] = []
    complaints: list[str] = []
    for beginning in beginnings:
        found = letters.named(beginning)
        if len(found) == 1:
            ids += found
        elif found:
            complaints.append(f"{cut(beginning, 40)} may mean {len(found)} letters: {some(found)}")
        else:
            complaints.append(f"there is no letter {cut(beginning, 40)}")
    return ids, complaints


def _which(chosen: argparse.Namespace, ids: Sequence[str], now: float) -> Which:
    return Which(
        ids=ids,
        outcomes=chosen.outcome,
        kinds=chosen.kind,
        sender=chosen.sender,
        recipient=chosen.recipient,
        since=None if chosen.newer_than is None else now - chosen.newer_than,
        until=None if chosen.older_than is None else now - chosen.older_than,
    )


def shortest(ids: Sequence[str], least: int = LEAST_ID) -> dict[str, str]:
    """
    Find beginnings that tell ids from each other.

    Returns by each id the beginning, of `least` characters or more, that it shares with no other; or the whole id, if
    another one begins with it.
    """
    ordered = sorted(ids)
    shared = [_shared(*pair) for pair in pairwise(ordered)]
    return {
        one: one[: max(least, before + 1, after + 1)]
        for one, before, after in zip(ordered, [0, *shared], [*shared, 0], strict=False)
    }


def _shared(one: str, other: str) -> int:
    """Count the characters that both begin with."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _list(letters: Letters, ids: Sequence[str], total: int, chosen: argparse.Namespace, now: float) -> None:
    found = letters.read(ids)
    if chosen.json:
        say_json([as_json(letter, whole=False) for letter in found])
    elif ids:
        shown = shortest(letters.ids())
        rows = [
            (
                shown.get(letter.id, letter.id),
                age(now - letter.ended),
                letter.outcome,
                "" if letter.status is None else str(letter.status),
                letter.sender,
                letter.recipient,
                _gist(letter),
            )
            for letter in found
        ]
        say(table(("ID", "AGE", "OUTCOME", "HTTP", "FROM", "TO", "TEXT"), rows, _LIMITS))
    if total > len(ids):
        note(f"the newest {len(ids)} of {total}; --limit 0 for all")


def _gist(letter: KeptDeadLetter) -> str:
    """The text of the stanza; its kind and type if it has none."""
    request = _request(letter)
    text = request.get("body") if isinstance(request, dict) else None
    if isinstance(text, str) and text.strip():
        return text
    return f"<{' '.join(filter(None, (letter.kind, letter.type)))}/>"


def _request(letter: KeptDeadLetter) -> Any:
    """The request as an object; as text if it is no JSON."""
    if letter.body is None:
        return None
    text = letter.body.decode("utf-8", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def as_json(letter: KeptDeadLetter, *, whole: bool = True) -> dict[str, Any]:
    """
    Describe a letter for another program; a whole one with the request, the response and the stanza that did not leave.
    """
    described = {
        "id": letter.id,
        "outcome": letter.outcome,
        "note": letter.note,
        "kind": letter.kind,
        "type": letter.type or None,
        "stanza_id": letter.stanza_id,
        "from": letter.sender,
        "to": letter.recipient,
        "accepted": stamp(letter.accepted),
        "ended": stamp(letter.ended),
        "tries": letter.tries,
        "bytes": letter.size,
        "status": letter.status,
        "media_type": letter.media_type,
    }
    if whole:
        described["request"] = _request(letter)
        described["reply"] = None if letter.reply is None else letter.reply.decode("utf-8", "replace")
        described["response"] = described["response_base64"] = None
        if letter.response is not None:
            try:
                described["response"] = letter.response.decode("utf-8")
            except UnicodeDecodeError:
                described["response_base64"] = base64.b64encode(letter.response).decode("ascii")
    return described


def _described(letter: KeptDeadLetter, now: float) -> Iterator[str]:
    stanza = [letter.kind, letter.type and f"of type {letter.type}", letter.stanza_id and f"with id {letter.stanza_id}"]
    facts = {
        "id": letter.id,
        "outcome": f"{letter.outcome}: {letter.note}" if letter.note else letter.outcome,
        "stanza": " ".join(filter(None, stanza)),
        "from": letter.sender,
        "to": letter.recipient,
        "accepted": f"{moment(letter.accepted)}, {age(now - letter.accepted)} ago",
        "given up": f"{moment(letter.ended)}, {age(now - letter.ended)} ago",
    }
    if letter.body is not None:
        facts["POSTs"] = f"{letter.tries} reached the webhook"
    for name, fact in facts.items():
        yield f"{name:<9} {on_one_line(fact)}\n"
    if letter.body is not None:
        request = _request(letter)
        text = request if isinstance(request, str) else json.dumps(request, indent=2, ensure_ascii=False)
        yield f"\nrequest, {size(len(letter.body))}:\n{printable(text)}\n"
    if letter.status is not None or letter.response is not None:
        head = " ".join(filter(None, (str(letter.status or ""), letter.media_type)))
        body = letter.response or b""
        text = body.decode("utf-8", "replace")
        yield f"\nresponse, {on_one_line(head)}, {size(len(body))}:\n{printable(text)}\n"
    if letter.reply is not None:
        yield f"\nstanza, {size(len(letter.reply))}:\n{printable(letter.reply.decode('utf-8', 'replace'))}\n"
