"""The command `component-http doctor`: look at the machine, the servers and the webhooks, and say what to do."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from attrs import asdict

from component_http.commands.arguments import add_json
from component_http.commands.printing import NOTHING, say, say_json
from component_http.operations.terminal import on_one_line
from component_http.tap import exit_on_settings_error


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor",
        help="look at the machine, the XMPP servers and the webhooks, and say what to do",
        description="Looks once at what a gateway with these settings needs: the disk and the machine, each XMPP"
        " server, by a stream of its own, and each webhook, by one POST of a message from component-http-doctor."
        " It tries no server while a gateway may be running, for the server has one stream for each component.",
        allow_abbrev=False,
    )
    parser.add_argument("config", metavar="FILE", help="the settings file")
    parser.add_argument("--no-post", action="store_true", help="POST nothing to the webhooks")
    server = parser.add_mutually_exclusive_group()
    server.add_argument("--no-connect", action="store_true", help="connect to no XMPP server")
    server.add_argument(
        "--connect",
        action="store_true",
        help="connect also where nobody can know whether a gateway is running, as with a spool in memory",
    )
    add_json(parser)
    parser.set_defaults(main=main)


def main(chosen: argparse.Namespace) -> int:
    """Print what was found; returns 1 if something has to be done."""
    from twisted.internet import reactor
    from twisted.internet.defer import Deferred
    from twisted.internet.task import react
    from twisted.logger import LogPublisher, globalLogBeginner

    from component_http.commands.check import require_startable
    from component_http.commands.examination import Examination, Finding
    from component_http.settings import Settings

    with exit_on_settings_error():
        settings = Settings.from_toml(chosen.config)
        require_startable(settings)
    found: list[Finding] = []

    def examine(reactor: Any) -> Any:
        examination = Examination(settings, reactor)
        connect = "never" if chosen.no_connect else "always" if chosen.connect else "unless it runs"
        done = Deferred.fromCoroutine(examination.all(connect=connect, post=not chosen.no_post))
        return done.addCallbacks(found.extend, _told)

    # What is worth telling is among the findings.
    globalLogBeginner.beginLoggingTo([LogPublisher()], redirectStandardIO=False, discardBuffer=True)
    try:
        react(examine, _reactor=reactor)
    except SystemExit as end:
        if end.code:
            return NOTHING
    report(found, as_json=chosen.json)
    return NOTHING if any(each.level == "error" for each in found) else 0


def _told(failure: Any) -> Any:
    """Show an internal error, which nobody logs here."""
    failure.printTraceback(sys.stderr)
    return failure


def report(found: Sequence[Any], *, as_json: bool) -> None:
    """Print the findings, one a line, or as a JSON array."""
    if as_json:
        say_json([asdict(each) for each in found])
        return
    for each in found:
        say(f"{each.level:<8} {on_one_line(each.about)}: {on_one_line(each.sentence)}\n")
