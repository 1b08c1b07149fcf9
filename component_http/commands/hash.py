"""The command `component-http hash`: the names that addresses have in the log."""

from __future__ import annotations

import argparse
from typing import Any

from component_http.commands.arguments import address
from component_http.commands.printing import say
from component_http.settings import Settings
from component_http.tap import exit_on_settings_error


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "hash",
        help="print the names that addresses have in the log",
        description="Prints the name that stands for each address in the log, with log.hash_addresses.",
        allow_abbrev=False,
    )
    parser.add_argument("config", metavar="FILE", help="the gateway's settings file")
    parser.add_argument("addresses", metavar="ADDRESS", nargs="+", type=address, help="as juliet@example.org")
    parser.set_defaults(main=main)


def main(chosen: argparse.Namespace) -> int:
    with exit_on_settings_error():
        pseudonyms = Settings.from_toml(chosen.config).pseudonyms()
    for each in chosen.addresses:
        say(f"{pseudonyms.of(each)}\n")
    return 0
