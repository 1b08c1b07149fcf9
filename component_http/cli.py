"""The command `component-http`: the gateway in the foreground, and what is done around it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from component_http import check, spool_commands
from component_http._version import __version__
from component_http.tap import RunOptions

__all__ = ["command_line", "main"]

EXAMPLES = {
    "python": ("echo_bot.py", "a bot in Python"),
    "php": ("echo.php", "the same bot in PHP"),
    "node": ("echo_bot.mjs", "the same bot in JavaScript, for Node"),
    "settings": ("component-http.toml", "a settings file with everything"),
    "systemd": ("component-http.service", "a unit for systemd"),
    "tac": ("component_http.tac", "a Twisted application file"),
}
"""The examples that come along: by name, the file and what it is."""

NOT_WRITTEN = 1
"""Exit status: an example was not written."""


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
    # These two take the flags of twistd's plugin.
    if given[:1] == ["run"]:
        return _run(given[1:])
    if given[:1] == ["check"]:
        return check.main(given[1:])
    parser = command_line()
    chosen = parser.parse_args(given)
    if chosen.command == "playground":
        from component_http.playground import console

        return console.main(chosen)
    if chosen.command in ("letters", "pending", "spool", "wake"):
        return spool_commands.main(chosen)
    if chosen.command == "example":
        return _example(chosen.names, chosen.into, force=chosen.force)
    parser.print_help()
    return 0


def command_line() -> argparse.ArgumentParser:
    """What reads the command line, but for that of `run` and `check`."""
    parser = argparse.ArgumentParser(
        prog="component-http", description="The gateway between an XMPP component and a webhook, and tools around it."
    )
    parser.add_argument("--version", action="version", version=f"component-http {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("run", help="run the gateway in the foreground")
    commands.add_parser("check", help="say whether settings can be used")
    example = commands.add_parser(
        "example",
        help="write an example: a bot, a settings file, a unit for systemd",
        description="Write examples that come with the gateway; without a name, list them.",
    )
    example.add_argument("names", metavar="NAME", nargs="*", help="one of the list, or the name of its file")
    example.add_argument("--into", metavar="DIR", default=".", help="the folder to write to (default: the current one)")
    example.add_argument("--force", action="store_true", help="replace a file that is there")
    playground = commands.add_parser(
        "playground",
        help="talk to a bot in the terminal, without an XMPP server",
        description="Talk to a bot in the terminal, without an XMPP server: each line you type is a message to it.",
    )
    playground.add_argument("--post-url", metavar="URL", help="the bot's webhook")
    playground.add_argument(
        "--config",
        metavar="FILE",
        help="a settings file (TOML) for the webhook, the kinds, the conditions and the API; it needs no secret",
    )
    playground.add_argument(
        "--stanzas",
        metavar="KINDS",
        type=lambda text: tuple(kind.strip() for kind in text.split(",")),
        help="kinds of stanza to POST, with commas between them (default: message)",
    )
    playground.add_argument("--domain", help="the component's domain (default: bot.localhost)")
    spool_commands.add_commands(commands)
    return parser


def _run(arguments: Sequence[str]) -> int:
    """Run the gateway as `twistd -n --pidfile=` does: the same log, signals and exit statuses."""
    from twisted.scripts.twistd import ServerOptions, runApp  # type: ignore[attr-defined]

    options = RunOptions()
    options.parseOptions(arguments)
    twistd = ServerOptions()
    twistd.parseOptions(["-n", "--pidfile=", "component-http", *options.for_twistd()])
    runApp(twistd)
    return 0


def _example(names: Sequence[str], into: str, *, force: bool) -> int:
    if not names:
        for name, (file, about) in EXAMPLES.items():
            print(f"{name:<9} {file:<23} {about}")
        return 0
    by_name = {name: file for name, (file, _) in EXAMPLES.items()}
    chosen = [by_name.get(name, name) for name in names]
    problems = [
        f"there is no example {name}: component-http example lists them"
        for name in chosen
        if name not in by_name.values()
    ]
    paths = {name: Path(into, name) for name in chosen}
    if not force:
        problems += [f"{path} is there already: --force replaces it" for path in paths.values() if path.exists()]
    for problem in problems:
        print(f"component-http: {problem}", file=sys.stderr)
    if problems:
        return NOT_WRITTEN
    for name, path in paths.items():
        content = files("component_http").joinpath("examples", name).read_bytes()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb" if force else "xb") as written:
                written.write(content)
        except OSError as error:
            print(f"component-http: {path} cannot be written: {error.strerror}", file=sys.stderr)
            return NOT_WRITTEN
        print(f"wrote {path}")
    return 0
