"""The command `component-http`: the gateway in the foreground, and tools around it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from component_http._version import __version__
from component_http.commands import check, example, letters, on_spool, pending, playground, run, spool, wake

_WITH_FLAGS_OF_TWISTD = {"run": run.main, "check": check.main}
"""The commands that take the flags of twistd's plugin, and read them on their own."""


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run one command.

    Args:
        arguments: The command line without the program's name; None for that of the process.

    Returns:
        The exit status.

    Raises:
        SystemExit: For `--help`, a wrong command line (2), and settings or a spool that cannot be used (78).
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in _WITH_FLAGS_OF_TWISTD:
        return _WITH_FLAGS_OF_TWISTD[given[0]](given[1:])
    parser = command_line()
    chosen = parser.parse_args(given)
    if chosen.command is None:
        parser.print_help()
        return 0
    status: int = chosen.main(chosen)
    return status


def command_line() -> argparse.ArgumentParser:
    """
    Make the parser of the command line, except for the flags of `run` and `check`.

    Each command sets `main`, which carries it out; commands on a spool's file have `on_spool.main` for it.
    """
    parser = argparse.ArgumentParser(
        prog="component-http", description="The gateway between an XMPP component and a webhook, and tools around it."
    )
    parser.add_argument("--version", action="version", version=f"component-http {__version__}")
    parser.set_defaults(main=on_spool.main)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("run", help="run the gateway in the foreground")
    commands.add_parser("check", help="say whether settings can be used")
    for command in (example, playground, letters, pending, spool, wake):
        command.add(commands)
    return parser
