"""The command `component-http wake`: the webhook is back, so the gateway need not wait."""

from __future__ import annotations

import argparse
from typing import Any

from component_http.commands.arguments import add_place, add_verb
from component_http.commands.on_spool import Site
from component_http.commands.printing import NOTHING, complain, say
from component_http.spool.visit import holder, wake


def add(commands: Any) -> None:
    """Describe the command to `argparse`."""
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
