"""
The commands `component-http spool`: how things stand with a spool's file, and copies of it; and `wake`: its webhook is
back.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from component_http.commands.arguments import add_json, add_place, add_verb
from component_http.commands.on_spool import Site
from component_http.commands.printing import NOTHING, complain, say, say_json, stamp
from component_http.operations.reasons import next_try
from component_http.operations.terminal import age, moment, on_one_line, size
from component_http.spool.backup import back_up, restore
from component_http.spool.facts import Trouble
from component_http.spool.visit import Holder, Kept, SpoolStatus, holder, status, wake

_WEBHOOKS = {
    "closed": "healthy",
    "open": "failing, so deliveries wait",
    "half_open": "failing, and probed now",
    "paused": "paused by an operator",
    "gone": "gone: it answered 410",
    "none": "no webhook",
}
"""Words for the states of `delivery.status.Status.webhook`: to people a closed breaker sounds like a broken one."""

_RECENT = 12 * 3600
"""Seconds for which the time of day says when something was; before that the date is told, too."""


def add(commands: Any) -> None:
    spool = commands.add_parser(
        "spool",
        help="say how things stand with a spool's file; back it up, and restore it",
        description="Says how things stand with a spool's file, whether a gateway runs or not; copies it.",
        allow_abbrev=False,
    )
    verbs = spool.add_subparsers(dest="verb", metavar="VERB", required=True)
    parser = add_verb(verbs, "status", "say who has it, how much is in it, and how the webhook is")
    add_place(parser)
    add_json(parser)
    parser.set_defaults(carry_out=_status)
    parser = add_verb(verbs, "backup", "copy the spool as it is now, while a gateway uses it")
    parser.add_argument("file", metavar="FILE", help="the copy, which must not be there yet; only its user can read it")
    add_place(parser)
    parser.set_defaults(carry_out=_backup)
    parser = add_verb(verbs, "restore", "put a copy into the place of the spool, while no gateway uses it")
    parser.add_argument("file", metavar="FILE", help="the copy; the spool that was there is renamed")
    add_place(parser)
    parser.set_defaults(carry_out=_restore, may_be_missing=True)
    parser = add_verb(commands, "wake", "have the gateway that runs ask its webhook at once, because it is back")
    add_place(parser)
    parser.set_defaults(carry_out=_wake)


def _wake(site: Site, chosen: argparse.Namespace) -> int:
    if holder(site.path).running is False:
        complain("no gateway has this spool now; one that starts asks its webhook at once")
        return NOTHING
    wake(site.path, **site.options)
    say("the gateway asks its webhook within a second\n")
    return 0


def _status(site: Site, chosen: argparse.Namespace) -> int:
    found, now = status(site.path, **site.options), site.now()
    if chosen.json:
        say_json(_as_json(site.path, found, now))
    else:
        say("".join(f"{name:<11} {on_one_line(fact)}\n" for name, fact in _in_words(site.path, found, now)))
    return 0


def _backup(site: Site, chosen: argparse.Namespace) -> int:
    target = Path(chosen.file).absolute()
    written = back_up(site.path, target, **site.options)
    say(f"wrote {on_one_line(str(target))}, {size(written)}\n")
    return 0


def _restore(site: Site, chosen: argparse.Namespace) -> int:
    source = Path(chosen.file).absolute()
    aside = restore(source, site.path, warn=complain)
    say(f"restored {on_one_line(str(site.path))} from {on_one_line(str(source))}\n")
    if aside is not None:
        say(f"the spool that was there is {on_one_line(str(aside))} now\n")
    say("what has ended since that copy was made is delivered again\n")
    return 0


def _in_words(path: Path, found: SpoolStatus, now: float) -> Iterator[tuple[str, str]]:
    yield "spool", f"{path}, schema {found.schema}"
    yield "gateway", _holder_in_words(found.holder)
    for domain, (state, its) in found.of_each.items():
        yield "webhook", f"{domain}: {_webhook_in_words(state, its, found, now)}"
    if found.webhook is not None and not found.of_each:
        yield "webhook", _webhook_in_words(found.webhook, found.trouble, found, now)
    for name, kept in _sorts(found).items():
        if not kept.count and name == "set_aside":
            continue
        if kept.oldest is None:
            yield name, str(kept.count)
        else:
            yield name.replace("_", " "), f"{kept.count}, {size(kept.size)}, the oldest {age(now - kept.oldest)} ago"
    ballast = "none" if found.ballast_bytes is None else size(found.ballast_bytes)
    yield "disk", f"file {size(found.file_bytes)}, log {size(found.log_bytes)}, ballast {ballast}"


def _webhook_in_words(state: str, trouble: Trouble | None, found: SpoolStatus, now: float) -> str:
    """Say how a webhook is; if no gateway runs, how it was."""
    words = failing(trouble, now) or _WEBHOOKS.get(state, state)
    if found.holder.running is False:
        return f"{words}, when a gateway ran last"
    return words if trouble is None else f"{words}; {_what_follows(state, trouble, now)}"


def failing(trouble: Trouble | None, now: float) -> str | None:
    """Say since when a webhook fails, and why; None if it does not."""
    if trouble is None or trouble.since is None:
        return None
    return f"failing since {_since(trouble.since, now)}: {trouble.reason or 'nobody knows why'}"


def _what_follows(webhook: str | None, trouble: Trouble, now: float) -> str:
    if webhook == "half_open":
        return "it is probed now"
    if webhook == "closed":
        if trouble.next_attempt is None or trouble.next_attempt <= now:
            return "POSTs go on"
        return f"it has asked for a pause, {next_try(trouble.next_attempt, now)}"
    return next_try(trouble.next_attempt, now)


def _since(began: float, now: float) -> str:
    words = moment(began)
    return f"{words if now - began > _RECENT else words[11:16] + ' UTC'} ({age(now - began)})"


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


def _as_json(path: Path, found: SpoolStatus, now: float) -> dict[str, Any]:
    at = None if found.trouble is None else found.trouble.next_attempt
    return {
        "path": str(path),
        "schema": found.schema,
        "running": found.holder.running,
        "process": found.holder.process,
        "webhook": found.webhook,
        **({"webhooks": {domain: state for domain, (state, _) in found.of_each.items()}} if found.of_each else {}),
        "webhook_failing_since": stamp(None if found.trouble is None else found.trouble.since),
        "webhook_last_failure": None if found.trouble is None else found.trouble.reason,
        "webhook_next_try": stamp(None if at is None else max(at, now)),
        **{
            name: {
                "count": kept.count,
                "bytes": kept.size,
                "oldest": stamp(kept.oldest),
                "oldest_age": None if kept.oldest is None else round(now - kept.oldest, 3),
            }
            for name, kept in _sorts(found).items()
        },
        "file_bytes": found.file_bytes,
        "log_bytes": found.log_bytes,
        "ballast_bytes": found.ballast_bytes,
    }
