"""The command `component-http playground`: talk to a bot in the terminal."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    about = "talk to a bot in the terminal, without an XMPP server"
    parser = commands.add_parser(
        "playground", help=about, description=f"{about[0].upper()}{about[1:]}: each line you type is a message to it."
    )
    parser.add_argument("--post-url", metavar="URL", help="the bot's webhook")
    parser.add_argument(
        "--config",
        metavar="FILE",
        help="a settings file (TOML) for the webhook, the kinds, the conditions and the API; it needs no secret",
    )
    parser.add_argument(
        "--stanzas",
        metavar="KINDS",
        type=lambda text: tuple(kind.strip() for kind in text.split(",")),
        help="kinds of stanza to POST, with commas between them (default: message)",
    )
    parser.add_argument("--domain", help="the component's domain (default: bot.localhost)")
    parser.set_defaults(main=_main)


def _main(chosen: argparse.Namespace) -> int:
    from component_http.playground import console

    return console.main(chosen)
