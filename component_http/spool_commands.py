"""The commands `component-http letters`, `pending`, `spool` and `wake`: what an operator does with a spool's file."""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from component_http.contract.address import Address, NotAnAddress
from component_http.contract.stanza import STANZA_KINDS
from component_http.errors import SettingsError, SpoolError
from component_http.operations.terminal import age, cut, moment, on_one_line, printable, size, table
from component_http.settings import SpoolSettings, spool_from_toml
from component_http.spool.dead_letters import AT_ONCE, OUTCOMES, KeptDeadLetter, Letters, Moved, Which
from component_http.spool.pending import NAME, Pending, Waiting
from component_http.spool.private import located
from component_http.spool.visit import Holder, Kept, SpoolStatus, holder, status, wake
from component_http.tap import exit_on_settings_error

__all__ = ["NOTHING", "TRY_AGAIN", "add_commands", "as_json", "main", "seconds", "shortest"]

NOTHING = 1
"""Exit status: there is no such letter, or it was not done to all that were meant."""

TRY_AGAIN = os.EX_TEMPFAIL
"""Exit status: the spool is busy, or the disk is full."""

LISTED = 100
"""Letters that a list has, unless another number is asked for."""

TOLD = 10
"""Ids in the sentence about what was done."""

LEAST_ID = 8
"""Characters of an id that is shown, if they are enough to tell it from others."""

BREATH = 0.02
"""Seconds between two transactions, so that a gateway gets its turn."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

_ANY = {
    "outcome": (),
    "kind": (),
    "sender": None,
    "recipient": None,
    "newer_than": None,
    "older_than": None,
    "limit": 0,
}
"""The filters that let every letter through."""

_LIMITS = (36, 6, 16, 4, 22, 14)
"""Columns of the terminal for the list's, but the last."""

_PENDING_LIMITS = (20, 6, 10, 9, 22, 22)
"""The same for the list of what waits."""


# The command line.


def seconds(text: str) -> float:
    """
    Read a duration: `90s`, `15m`, `2h`, `7d`, `1.5w`.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    parts = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smhdw])", text)
    if parts is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration such as 90s, 15m, 2h, 7d or 1w")
    return float(parts[1]) * _UNITS[parts[2]]


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except NotAnAddress as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not an address: {error}") from None


def _id(text: str) -> str:
    # An empty variable of a shell must not mean the only letter there is.
    if not text.strip():
        raise argparse.ArgumentTypeError("an id must not be empty")
    return text


def _limit(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,9}", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of letters")
    return int(text)


def _name(text: str) -> str:
    if NAME.fullmatch(text) is None:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not the number of something that waits: a delivery is d12, a stanza for the server s7"
        )
    return f"{text[0].lower()}{int(text[1:])}"


def _some_of(*names: str) -> Callable[[str], tuple[str, ...]]:
    def read(text: str) -> tuple[str, ...]:
        found = tuple(name.strip() for name in text.split(","))
        for name in found:
            if name not in names:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(names)}")
        return found

    return read


def add_commands(commands: Any) -> None:
    """
    Describe the commands.

    Args:
        commands: What `argparse` made for the commands of a program.
    """
    letters = commands.add_parser(
        "letters",
        help="look at dead letters, deliver them again, drop them",
        description="Dead letters: what was given up. A gateway may be running meanwhile.",
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
        parser = verbs.add_parser(verb, help=about, description=f"{about[0].upper()}{about[1:]}.", allow_abbrev=False)
        if verb == "show":
            parser.add_argument("ids", metavar="ID", nargs=1, type=_id, help="the letter's id, or the beginning of it")
            parser.set_defaults(**_ANY)
        else:
            _add_filters(parser, verb)
        _add_place(parser)
        if verb != "export":
            parser.add_argument("--json", action="store_true", help="write JSON, for another program")
        parser.set_defaults(refuse=parser.error)
    pending = commands.add_parser(
        "pending",
        help="look at what waits for the webhook or for the XMPP server, drop some of it",
        description="What waits: deliveries for the webhook (d1, d2 and so on), then stanzas for the XMPP server (s1,"
        " s2 and so on). A gateway may be running meanwhile.",
        allow_abbrev=False,
    )
    verbs = pending.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, about in (
        ("list", "list it, deliveries first, oldest first"),
        ("show", "show one with its content"),
        ("drop", "delete it; nobody is told, but whoever waits for the answer to an iq"),
    ):
        parser = verbs.add_parser(verb, help=about, description=f"{about[0].upper()}{about[1:]}.", allow_abbrev=False)
        if verb == "list":
            told = f"the oldest N of each sort, 0 for all (default: {LISTED})"
            parser.add_argument("--limit", metavar="N", type=_limit, default=LISTED, help=told)
        else:
            count = 1 if verb == "show" else "+"
            parser.add_argument("names", metavar="NUMBER", nargs=count, type=_name, help="as listed, such as d12 or s7")
        _add_place(parser)
        parser.add_argument("--json", action="store_true", help="write JSON, for another program")
    spool = commands.add_parser(
        "spool",
        help="say how things stand with a spool's file",
        description="A spool's file, with or without a gateway that runs.",
        allow_abbrev=False,
    )
    subjects = spool.add_subparsers(dest="verb", metavar="VERB", required=True)
    about = "say who has it, how much is in it, and how the webhook is"
    parser = subjects.add_parser("status", help=about, description=f"{about.capitalize()}.", allow_abbrev=False)
    _add_place(parser)
    parser.add_argument("--json", action="store_true", help="write JSON, for another program")
    about = "have the gateway that runs ask its webhook at once, because it is back"
    parser = commands.add_parser("wake", help=about, description=f"{about.capitalize()}.", allow_abbrev=False)
    _add_place(parser)


def _add_place(parser: argparse.ArgumentParser) -> None:
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--config", metavar="FILE", help="the gateway's settings file; only its [spool] counts")
    place.add_argument(
        "--spool",
        metavar="FILE",
        help="the spool's file itself (default: that of a gateway whose settings do not name one)",
    )


def _add_filters(parser: argparse.ArgumentParser, verb: str) -> None:
    parser.add_argument("ids", metavar="ID", nargs="*", type=_id, help="ids, or the beginnings of ids")
    parser.add_argument("--outcome", metavar="NAMES", type=_some_of(*OUTCOMES), default=(), help=", ".join(OUTCOMES))
    parser.add_argument(
        "--kind", metavar="NAMES", type=_some_of(*STANZA_KINDS), default=(), help=", ".join(STANZA_KINDS)
    )
    parser.add_argument(
        "--from",
        dest="sender",
        metavar="ADDRESS",
        type=_address,
        help="who wrote it: a bare address with all its resources, or a full one",
    )
    parser.add_argument(
        "--to", dest="recipient", metavar="ADDRESS", type=_address, help="to whom in the component, likewise"
    )
    parser.add_argument("--newer-than", metavar="TIME", type=seconds, help="given up since then, such as 2h ago")
    parser.add_argument("--older-than", metavar="TIME", type=seconds, help="given up before then, such as 7d ago")
    default = LISTED if verb == "list" else 0
    told = f"default: {default}" if default else "default: all"
    parser.add_argument(
        "--limit", metavar="N", type=_limit, default=default, help=f"the newest N of them, 0 for all ({told})"
    )
    if verb in ("retry", "drop"):
        parser.add_argument("--all", action="store_true", help="all that fit, without an id")


# What they do.


def main(
    chosen: argparse.Namespace,
    *,
    now: Callable[[], float] = time.time,
    pause: Callable[[float], None] = time.sleep,
    patience: float | None = None,
) -> int:
    """
    Run one of the commands.

    Args:
        chosen: The command line, as read by the parsers of `add_commands`.
        now: The wall clock.
        pause: Waits so many seconds.
        patience: Seconds to wait for another program that writes to the spool; None for some.

    Returns:
        The exit status.

    Raises:
        SystemExit: The settings or the file cannot be used (78), or the command line is wrong (2).
    """
    if chosen.command == "letters" and chosen.verb in ("retry", "drop") and bool(chosen.ids) == chosen.all:
        chosen.refuse("either name ids, or give --all, which can be narrowed by the other flags")
    options: dict[str, Any] = {"warn": _complain} if patience is None else {"warn": _complain, "patience": patience}
    try:
        with exit_on_settings_error():
            path = located(_place(chosen))
            if chosen.command == "spool":
                return _status(path, chosen, now, options)
            if chosen.command == "wake":
                return _wake(path, options)
            if chosen.command == "pending":
                with Pending(path, **options) as pending:
                    return _serve_pending(path, pending, chosen, now, pause)
            with Letters(path, now=now, **options) as letters:
                return _serve(path, letters, chosen, now, pause)
    except SpoolError as error:
        _complain(str(error))
        return TRY_AGAIN
    except BrokenPipeError:
        # Whoever read has had enough; Python would complain once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _place(chosen: argparse.Namespace) -> Path:
    if chosen.spool is not None:
        return Path(chosen.spool).absolute()
    spool = SpoolSettings(kind="sqlite") if chosen.config is None else spool_from_toml(chosen.config)
    path = spool.file()
    if path is None and chosen.command == "wake":
        raise SettingsError(
            f'{chosen.config}: spool.kind is "memory", so a gateway cannot be told by its file: POST /v1/webhook/wake'
            " to its API, with a token that has admin = true"
        )
    if path is None:
        raise SettingsError(f'{chosen.config}: spool.kind is "memory", so there is no file, and no dead letter is kept')
    return path


def _say(text: str) -> None:
    """Write to standard output, whatever characters it knows."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()


def _complain(text: str) -> None:
    print(f"component-http: {on_one_line(text)}", file=sys.stderr)


def _serve(
    path: Path, letters: Letters, chosen: argparse.Namespace, now: Callable[[], float], pause: Callable[[float], None]
) -> int:
    """Do what is asked of letters; the exit status."""
    named, complaints = _named(letters, chosen.ids)
    ids: list[str] = []
    if named or not chosen.ids:
        ids = letters.ids(_which(chosen, named, now()))
        if not ids:
            complaints.append("there is no such letter" if letters.ids() else "there are no dead letters")
    for complaint in complaints:
        _complain(complaint)
    total, ids = len(ids), ids[-chosen.limit :] if chosen.limit else ids
    if chosen.verb == "list":
        _list(letters, ids, total, chosen, now())
    elif chosen.verb == "show":
        _show(letters, ids, chosen, now())
    elif chosen.verb == "export":
        for letter in letters.read(ids):
            _say(json.dumps(as_json(letter)) + "\n")
    elif not _move(letters, ids, path, chosen, pause):
        return NOTHING
    for sentence in letters.set_aside:
        _complain(sentence)
    return NOTHING if complaints or letters.set_aside else 0


def _named(letters: Letters, beginnings: Sequence[str]) -> tuple[list[str], list[str]]:
    """The ids that are meant by their beginnings; and a sentence for each that means none, or several."""
    ids: list[str] = []
    complaints: list[str] = []
    for beginning in beginnings:
        found = letters.named(beginning)
        if len(found) == 1:
            ids += found
        elif found:
            complaints.append(f"{cut(beginning, 40)} may mean {len(found)} letters: {_some(found)}")
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

    Args:
        ids: All that there are, each once.
        least: Characters of a beginning, where the id has so many.

    Returns:
        By each id, the beginning of it that no other has too; or all of it, where it is the beginning of another.
    """
    ordered = sorted(ids)
    shared = [_shared(*pair) for pair in pairwise(ordered)]
    return {
        one: one[: max(least, before + 1, after + 1)]
        for one, before, after in zip(ordered, [0, *shared], [*shared, 0], strict=False)
    }


def _shared(one: str, other: str) -> int:
    """Characters that both begin with."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _some(ids: Sequence[str], shown: dict[str, str] | None = None) -> str:
    """Ids for a sentence, not too many of them."""
    told = ", ".join((shown or {}).get(one, one) for one in ids[:TOLD])
    return f"{told} and {len(ids) - TOLD} more" if len(ids) > TOLD else told


# Lists.


def _list(letters: Letters, ids: Sequence[str], total: int, chosen: argparse.Namespace, now: float) -> None:
    found = letters.read(ids)
    if chosen.json:
        _say(json.dumps([as_json(letter, whole=False) for letter in found], indent=2) + "\n")
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
        _say(table(("ID", "AGE", "OUTCOME", "HTTP", "FROM", "TO", "TEXT"), rows, _LIMITS))
    if total > len(ids):
        print(f"the newest {len(ids)} of {total}; --limit 0 for all", file=sys.stderr)


def _gist(letter: KeptDeadLetter) -> str:
    """What a letter is about, in a few words that somebody wrote, or else in XML's."""
    request = _request(letter)
    text = request.get("body") if isinstance(request, dict) else None
    if isinstance(text, str) and text.strip():
        return text
    return f"<{' '.join(filter(None, (letter.kind, letter.type)))}/>"


def _request(letter: KeptDeadLetter) -> Any:
    """The request as it was before it was written as JSON; its text if it is none."""
    if letter.body is None:
        return None
    text = letter.body.decode("utf-8", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def as_json(letter: KeptDeadLetter, *, whole: bool = True) -> dict[str, Any]:
    """
    A letter for another program.

    Args:
        letter: The dead letter.
        whole: With the request, the response and the stanza that did not leave.
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
        "accepted": _stamp(letter.accepted),
        "ended": _stamp(letter.ended),
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


def _stamp(seconds: float) -> str:
    return moment(seconds).replace(" ", "T", 1).replace(" UTC", "Z")


def _show(letters: Letters, ids: Sequence[str], chosen: argparse.Namespace, now: float) -> None:
    for letter in letters.read(ids):
        if chosen.json:
            _say(json.dumps(as_json(letter), indent=2) + "\n")
        else:
            _say("".join(_described(letter, now)))


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
        facts["POSTs"] = str(letter.tries)
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


# What changes something.


def _move(
    letters: Letters, ids: Sequence[str], path: Path, chosen: argparse.Namespace, pause: Callable[[float], None]
) -> bool:
    """Retry or drop letters, and say what came of it; whether it was done to all of them."""
    shown = shortest(letters.ids())
    parts: list[Moved] = []
    try:
        for begin in range(0, len(ids), AT_ONCE):
            if begin:
                pause(BREATH)
            part = ids[begin : begin + AT_ONCE]
            parts.append(letters.retry(part) if chosen.verb == "retry" else letters.drop(part))
    finally:  # what was done before something failed is told too
        done = [one for part in parts for one in part.done]
        refused = [one for part in parts for one in part.refused]
        past = "retried" if chosen.verb == "retry" else "dropped"
        if chosen.json:
            reasons = [{"id": one.id, "reason": one.reason} for one in refused]
            _say(json.dumps({past: done, "refused": reasons}, indent=2) + "\n")
        else:
            for one in refused:
                _complain(f"{shown.get(one.id, one.id)} is not {past}: {one.reason}")
            if done:
                _say(f"{past} {len(done)}: {on_one_line(_some(done, shown))}\n")
                if chosen.verb == "retry" and holder(path).running is False:
                    _say("no gateway has this spool now; the next one that starts takes them\n")
    return not refused


# What waits.


def _serve_pending(
    path: Path, pending: Pending, chosen: argparse.Namespace, now: Callable[[], float], pause: Callable[[float], None]
) -> int:
    """Do what is asked of what waits; the exit status."""
    if chosen.verb == "list":
        names = pending.names()
        sorts = [[name for name in names if name[0] == sort] for sort in "ds"]
        shown = [name for some in sorts for name in (some[: chosen.limit] if chosen.limit else some)]
        _list_pending(pending, shown, chosen, now())
        if len(names) > len(shown):
            print(f"{len(shown)} of {len(names)}; --limit 0 for all", file=sys.stderr)
        return 0
    if chosen.verb == "drop":
        return _drop_pending(path, pending, chosen, pause)
    found = list(pending.read(chosen.names))
    if not found:
        _complain(f"{chosen.names[0]} does not wait, or not any more")
        return NOTHING
    for one in found:
        if chosen.json:
            _say(json.dumps(_waiting_as_json(one, whole=True), indent=2) + "\n")
        else:
            _say("".join(_waiting_in_words(one, now())))
    return 0


def _list_pending(pending: Pending, names: Sequence[str], chosen: argparse.Namespace, now: float) -> None:
    found = pending.read(names)
    if chosen.json:
        _say(json.dumps([_waiting_as_json(one) for one in found], indent=2) + "\n")
    elif names:
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
        _say(table(("NUMBER", "AGE", "STATE", "SIZE", "FROM", "TO", "KIND"), rows, _PENDING_LIMITS))


def _state(one: Waiting) -> str:
    if one.tries is None:
        return "suspect" if one.suspect else "waits"
    return f"{one.tries} POSTs" if one.tries else "waits"


def _waiting_as_json(one: Waiting, *, whole: bool = False) -> dict[str, Any]:
    described: dict[str, Any] = {
        "number": one.name,
        "waits_for": "server" if one.tries is None else "webhook",
        "delivery_id": one.id,
        "kind": one.kind,
        "type": one.type or None,
        "from": one.sender,
        "to": one.recipient,
        "since": None if one.since is None else _stamp(one.since),
        "bytes": one.size,
        "tries": one.tries,
        "suspect": one.suspect,
    }
    if whole:
        described["content"] = one.content.decode("utf-8", "replace")
    return described


def _waiting_in_words(one: Waiting, now: float) -> Iterator[str]:
    facts = {
        "number": one.name,
        "waits for": "the XMPP server" if one.tries is None else "the webhook",
        "delivery": one.id or "",
        "stanza": " ".join(filter(None, (one.kind, one.type and f"of type {one.type}"))),
        "from": one.sender,
        "to": one.recipient,
        "since": "" if one.since is None else f"{moment(one.since)}, {age(now - one.since)} ago",
        "POSTs": "" if one.tries is None else str(one.tries),
        "suspect": "the server may have closed the stream because of it" if one.suspect else "",
    }
    for name, fact in facts.items():
        if fact:
            yield f"{name:<9} {on_one_line(fact)}\n"
    yield f"\n{size(one.size)}:\n{printable(one.content.decode('utf-8', 'replace'))}\n"


def _drop_pending(path: Path, pending: Pending, chosen: argparse.Namespace, pause: Callable[[float], None]) -> int:
    names = list(dict.fromkeys(chosen.names))
    parts: list[Moved] = []
    for begin in range(0, len(names), AT_ONCE):
        if begin:
            pause(BREATH)
        parts.append(pending.drop(names[begin : begin + AT_ONCE]))
    done = [name for part in parts for name in part.done]
    refused = [one for part in parts for one in part.refused]
    if chosen.json:
        reasons = [{"number": one.id, "reason": one.reason} for one in refused]
        _say(json.dumps({"dropped": done, "refused": reasons}, indent=2) + "\n")
    else:
        for one in refused:
            _complain(f"{one.id} is not dropped: {one.reason}")
        if done:
            _say(f"dropped {len(done)}: {on_one_line(_some(done))}\n")
    return NOTHING if refused else 0


# The spool itself.


def _wake(path: Path, options: dict[str, Any]) -> int:
    if holder(path).running is False:
        _complain("no gateway has this spool now; one that starts asks its webhook at once")
        return NOTHING
    wake(path, **options)
    _say("the gateway asks its webhook within a second\n")
    return 0


def _status(path: Path, chosen: argparse.Namespace, now: Callable[[], Any], options: dict[str, Any]) -> int:
    found = status(path, **options)
    if chosen.json:
        _say(json.dumps(_status_as_json(path, found, now()), indent=2) + "\n")
    else:
        _say("".join(f"{name:<11} {on_one_line(fact)}\n" for name, fact in _status_in_words(path, found, now())))
    return 0


_WEBHOOKS = {
    "closed": "healthy",
    "open": "failing, so deliveries wait",
    "half_open": "failing, and probed now",
    "gone": "gone: it answered 410",
    "none": "no webhook",
}
"""The states of `delivery.relay.Status.webhook`, for people: to them a closed breaker reads like a broken one."""


def _status_in_words(path: Path, found: SpoolStatus, now: float) -> Iterator[tuple[str, str]]:
    yield "spool", f"{path}, schema {found.schema}"
    yield "gateway", _holder_in_words(found.holder)
    if found.webhook is not None:
        webhook = _WEBHOOKS.get(found.webhook, found.webhook)
        yield "webhook", webhook if found.holder.running else f"{webhook}, when a gateway ran last"
    for name, kept in _sorts(found).items():
        if not kept.count and name == "set_aside":
            continue
        if kept.oldest is None:
            yield name, str(kept.count)
        else:
            yield name.replace("_", " "), f"{kept.count}, {size(kept.size)}, the oldest {age(now - kept.oldest)} ago"
    ballast = "none" if found.ballast_bytes is None else size(found.ballast_bytes)
    yield "disk", f"file {size(found.file_bytes)}, log {size(found.log_bytes)}, ballast {ballast}"


def _holder_in_words(found: Holder) -> str:
    if found.running is None:
        return "not known: the lock cannot be looked at"
    if not found.running:
        return "none is running"
    return "running" if found.process is None else f"running, process {found.process}"


def _sorts(found: SpoolStatus) -> dict[str, Kept]:
    return {
        "deliveries": found.deliveries,
        "departures": found.outbound_stanzas,
        "letters": found.letters,
        "set_aside": found.set_aside,
    }


def _status_as_json(path: Path, found: SpoolStatus, now: float) -> dict[str, Any]:
    return {
        "path": str(path),
        "schema": found.schema,
        "running": found.holder.running,
        "process": found.holder.process,
        "webhook": found.webhook,
        **{
            name: {
                "count": kept.count,
                "bytes": kept.size,
                "oldest": None if kept.oldest is None else _stamp(kept.oldest),
                "oldest_age": None if kept.oldest is None else round(now - kept.oldest, 3),
            }
            for name, kept in _sorts(found).items()
        },
        "file_bytes": found.file_bytes,
        "log_bytes": found.log_bytes,
        "ballast_bytes": found.ballast_bytes,
    }
