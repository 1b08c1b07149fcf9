"""
The command `component-http`: the gateway in the foreground, and tools around it.

The tools are imported where one of them is wanted, for `run` keeps what it imports in memory.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from component_http._version import __version__
from component_http.tap import RunOptions

_USUAL = {"deliveries": "list", "letters": "list", "pending": "list", "spool": "status"}
"""The usual verb of each of these commands, for a command line without one."""


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run one command; returns the exit status.

    Raises:
        SystemExit: For `--help`, a wrong command line (2), and settings or a spool that cannot be used (78).
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        try:
            return _carry_out(given)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        # The reader has had enough, and Python would complain once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _carry_out(given: list[str]) -> int:
    if given[:1] == ["run"]:
        return _run(given[1:])
    if given[:1] == ["check"]:
        from component_http.commands import check

        return check.main(given[1:])
    if given and given[0] in _USUAL and (len(given) == 1 or (given[1] not in ("-h", "--help") and given[1][0] == "-")):
        given = [given[0], _USUAL[given[0]], *given[1:]]
    parser = command_line()
    chosen = parser.parse_args(given)
    if chosen.command is None:
        parser.print_help()
        return 0
    status: int = chosen.main(chosen)
    return status


def _run(arguments: Sequence[str]) -> int:
    """Run the gateway as `twistd -n --pidfile=` does: with the same log, signals and exit statuses."""
    from twisted.scripts.twistd import ServerOptions, runApp  # type: ignore[attr-defined]

    options = RunOptions()
    options.parseOptions(arguments)
    twistd = ServerOptions()
    twistd.parseOptions(["-n", "--pidfile=", "component-http", *options.for_twistd()])
    runApp(twistd)
    return 0


def command_line() -> argparse.ArgumentParser:
    """
    Make the parser of the command line, except for `run` and `check`, which read the flags of twistd's plugin.

    Each command sets `main`, which carries it out; commands on a spool's file have `on_spool.main` for it.
    """
    from component_http.commands import (
        deliveries,
        doctor,
        example,
        hash,
        init,
        letters,
        on_spool,
        pending,
        playground,
        route,
        secret,
        spool,
        watch,
    )

    parser = argparse.ArgumentParser(
        prog="component-http", description="The gateway between an XMPP component and a webhook, and tools around it."
    )
    parser.add_argument("--version", action="version", version=f"component-http {__version__}")
    parser.set_defaults(main=on_spool.main)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("run", help="run the gateway in the foreground")
    commands.add_parser("check", help="say whether settings can be used")
    for command in (
        *(init, doctor, example, playground, route, secret),
        *(deliveries, watch, hash, letters, pending, spool),
    ):
        command.add(commands)
    return parser
