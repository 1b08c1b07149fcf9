"""The command `component-http`: what is done around a gateway without running one."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from component_http import spool_commands
from component_http._version import __version__
from component_http.settings import Settings
from component_http.tap import exit_on_settings_error

__all__ = ["command_line", "main"]


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
    parser = command_line()
    chosen = parser.parse_args(arguments)
    if chosen.command == "check":
        return _check(chosen.file)
    if chosen.command == "playground":
        from component_http.playground import console

        return console.main(chosen)
    if chosen.command in ("letters", "spool", "wake"):
        return spool_commands.main(chosen)
    parser.print_help()
    return 0


def command_line() -> argparse.ArgumentParser:
    """What reads the command line."""
    parser = argparse.ArgumentParser(
        prog="component-http",
        description="Tools around the gateway. The gateway itself runs with: twistd component-http --config FILE",
    )
    parser.add_argument("--version", action="version", version=f"component-http {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    check = commands.add_parser(
        "check",
        help="say whether a settings file can be used",
        description="Read a settings file as the gateway would; say what it serves, or in one sentence what is wrong.",
    )
    check.add_argument("file", metavar="FILE", help="a settings file (TOML)")
    playground = commands.add_parser(
        "playground",
        help="talk to a bot in the terminal, without an XMPP server",
        description="Talk to a bot in the terminal, without an XMPP server: each line you type is a message to it.",
    )
    playground.add_argument("--post-url", metavar="URL", required=True, help="the bot's webhook")
    playground.add_argument(
        "--stanzas",
        metavar="KINDS",
        type=lambda text: tuple(kind.strip() for kind in text.split(",")),
        help="kinds of stanza to POST, with commas between them (default: message)",
    )
    playground.add_argument("--domain", default="bot.localhost", help="the component's domain (default: %(default)s)")
    spool_commands.add_commands(commands)
    return parser


def _check(file: str) -> int:
    from component_http.api_service import api_hooks

    with exit_on_settings_error():
        settings = Settings.from_toml(file)
        api_hooks(settings)
    component = settings.component
    kinds = ", ".join(component.component_post_stanzas)
    api = f", the API at {settings.api.listen}" if settings.api.listen else ""
    print(f"{file}: ok: {component.domain} at {component.server}, {kinds} to {component.displayed_url}{api}")
    for warning in settings.warnings():
        print(f"{file}: warning: {warning}")
    spool = settings.spool.file()
    if spool is not None and not spool.parent.is_dir():
        print(
            f"{file}: warning: spool.path is {spool}, but there is no folder {spool.parent}: make it before the start"
        )
    return 0
