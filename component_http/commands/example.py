"""The command `component-http example`: write the examples that come with the gateway."""

from __future__ import annotations

import argparse
from importlib.resources import files
from pathlib import Path
from typing import Any

from component_http.commands.printing import NOTHING, complain

EXAMPLES = {
    "python": ("echo_bot.py", "a bot in Python"),
    "php": ("echo.php", "the same bot in PHP"),
    "node": ("echo_bot.mjs", "the same bot in JavaScript, for Node"),
    "settings": ("component-http.toml", "a settings file with everything"),
    "systemd": ("component-http@.service", "a template unit for systemd"),
    "tac": ("component_http.tac", "a Twisted application file"),
}
"""The examples: by name, the file and what it is."""


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "example",
        help="write an example: a bot, a settings file, a unit for systemd",
        description="Write examples that come with the gateway; without a name, list them.",
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="one of the list, or the name of its file")
    parser.add_argument("--into", metavar="DIR", default=".", help="the folder to write to (default: the current one)")
    parser.add_argument("--force", action="store_true", help="replace a file that is there")
    parser.set_defaults(main=main)


def main(chosen: argparse.Namespace) -> int:
    """Write what was chosen; nothing of it if anything is wrong. Returns the exit status."""
    if not chosen.names:
        for name, (file, about) in EXAMPLES.items():
            print(f"{name:<9} {file:<23} {about}")
        return 0
    by_name = {name: file for name, (file, _) in EXAMPLES.items()}
    wanted = [by_name.get(name, name) for name in chosen.names]
    problems = [
        f"there is no example {name}: component-http example lists them"
        for name in wanted
        if name not in by_name.values()
    ]
    paths = {name: Path(chosen.into, name) for name in wanted}
    if not chosen.force:
        problems += [f"{path} is there already: --force replaces it" for path in paths.values() if path.exists()]
    for problem in problems:
        complain(problem)
    if problems:
        return NOTHING
    for name, path in paths.items():
        content = files("component_http").joinpath("examples", name).read_bytes()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb" if chosen.force else "xb") as written:
                written.write(content)
        except OSError as error:
            complain(f"{path} cannot be written: {error.strerror}")
            return NOTHING
        print(f"wrote {path}")
    return 0
