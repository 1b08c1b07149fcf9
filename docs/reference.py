"""
Renews what is made from other files in the documents: `make reference`, or `python docs/reference.py`.

A part of a page stands between two comments, so that a forge shows it and Sphinx needs no directive for it.
The first comment names what it is made from: the settings, or a file whose text is copied.
The manual pages in docs/man are made from the command line's parsers and from the settings.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap

sys.path.insert(0, str(Path(__file__).parent.parent))

from component_http import __version__
from component_http.cli import command_line
from component_http.commands.check import CheckOptions
from component_http.settings import Setting, reference
from component_http.tap import Options, RunOptions

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent

_PART = re.compile(r"(?P<begin><!-- make reference: (?P<source>[^\n]+) -->\n).*?(?P<end><!-- end -->)", re.S)

_LANGUAGES = {".py": "python", ".tac": "python", ".toml": "toml", ".service": "ini"}

_TABLES = {
    "component": "The XMPP side: the component, its server, and which of its stanzas the webhook gets.",
    "component.route": "The routes, which take some stanzas to other webhooks: any number of these; see"
    " [Routes](operations.md#routes).",
    "webhook": "The HTTP side.",
    "delivery": "How stanzas are delivered to the webhook.",
    "spool": "The spool, which keeps accepted stanzas until they are done.",
    "api": "The HTTP API, by which other programs send; see [The API](api.md).",
    "api.token": "The users of the API, and what each may do: any number of these.",
    "api.hook": "URLs for programs that know nothing of XMPP: any number of these.",
    "operations": "The port for those who watch the gateway; see [Monitoring](monitoring.md).",
    "log": "The log of the gateway's own lines; those of Twisted itself are always written.",
    "": "The stanza errors of HTTP statuses.",
}


def renewed(text: str) -> str:
    """
    A page with all such parts made anew.

    Args:
        text: The page as it is.
    """
    return _PART.sub(lambda part: f"{part['begin']}{_made_from(part['source'])}{part['end']}", text)


def _made_from(source: str) -> str:
    if source == "the settings":
        return f"\n{settings_reference()}\n"
    path = ROOT / source
    return f"```{_LANGUAGES[path.suffix]}\n{path.read_text('utf-8')}```\n"


def settings_reference() -> str:
    """All settings as Markdown, made from the rules by which the code checks them."""
    rows = reference()
    parts = []
    for table, about in _TABLES.items():
        heading = f"[[{table}]]" if "." in table else f"[{table or 'conditions'}]"
        parts.append(f"### `{heading}`\n\n{about}\n")
        parts.extend(_setting(row) for row in rows if row.table == table)
    return "\n".join(parts)


def _setting(row: Setting) -> str:
    heading = f"#### `{row.key}`\n" if row.table else "Each line of the table is a status.\n"
    about = row.about
    lines = [heading, f"{about.help[0].upper()}{about.help[1:]}.\n"]
    lines.append(f"- Allowed: {about.value_type.allowed}.")
    if row.default == "required":
        lines.append("- It must be given.")
    else:
        lines.append("- Default: none." if row.default == "none" else f"- Default: `{row.default}`.")
    if row.example != row.default:
        lines.append(f"- Example: `{_example(row)}`.")
    if row.flags:
        lines.append(f"- Flag: {' or '.join(f'`{flag}`' for flag in row.flags)}.")
    else:
        lines.append("- No flag; only in a settings file.")
    when = {
        "at once": "at once, when the settings are read again",
        "reconnect": "when the settings are read again, by another stream after a drain",
        "restart": "when the settings are read again, by a new start in the same process",
    }[row.applies]
    lines.append(f"- A change applies: {when}.")
    if about.why:
        lines.append(f"- Why: {about.why}.")
    return "\n".join(lines) + "\n"


def _example(row: Setting) -> str:
    if not row.table:
        return row.example
    # A table inside a table is written on one line.
    inner = row.key == "headers"
    return f"{row.key} = {{ {row.example} }}" if inner else f"{row.key} = {row.example}"


# The manual pages.


def manual_pages() -> dict[str, str]:
    """The manual pages by their file names."""
    return {
        "component-http.1": "\n".join(
            (
                *_head("component-http", 1, command_line().description or ""),
                *_commands(),
                *_see("component-http.toml", 5),
            )
        ),
        "component-http.toml.5": "\n".join(
            (
                *_head("component-http.toml", 5, "The settings file of component-http."),
                *_from_markdown(settings_reference()),
                *_see("component-http", 1),
            )
        ),
    }


def _roff(text: str) -> str:
    """Write a text such that roff shows it as it is, with hyphens that can be copied to a command line."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    text = "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in text)
    return f"\\&{text}" if text.startswith((".", "'")) else text


def _prose(text: str) -> list[str]:
    """Write a text in lines that are not too long."""
    return [_roff(line) for line in wrap(text, 70, break_long_words=False, break_on_hyphens=False)]


def _head(name: str, section: int, about: str) -> list[str]:
    return [
        '.\\" Made by docs/reference.py.',
        f'.TH "{_roff(name.upper())}" {section} "" "component\\-http {__version__}"',
        ".SH NAME",
        f"{_roff(name)} \\-",
        *_prose(about.removesuffix(".")),
    ]


def _see(name: str, section: int) -> list[str]:
    return [".SH SEE ALSO", f".BR {_roff(name)} ({section})", ""]


def _commands() -> Iterator[str]:
    """Describe each command, from the parser that also writes its help."""
    parser = command_line()
    yield from (".SH SYNOPSIS", *_synopsis(_usage(parser)), ".SH OPTIONS", *_actions(parser), ".SH COMMANDS")
    for options in (RunOptions, CheckOptions):
        yield from _of_twisted(options)
    for name, command in _subparsers(parser).items():
        if name not in ("run", "check"):
            yield from _command(command)


def _command(parser: argparse.ArgumentParser) -> Iterator[str]:
    if _subparsers(parser):
        for verb in _subparsers(parser).values():
            yield from _command(verb)
        return
    yield from (f".SS {_roff(parser.prog)}", *_synopsis(_usage(parser)), *_paragraph(parser.description or ""))
    yield from _actions(parser)


def _usage(parser: argparse.ArgumentParser) -> str:
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=10_000)
    return parser.format_usage().removeprefix("usage: ").strip()


def _synopsis(usage: str) -> list[str]:
    return [".nf", _roff(usage), ".fi"]


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    # argparse has no other way to what it knows.
    found = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found[0]) if found else {}


def _actions(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)):
            continue
        value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
        names = [f"{name} {value}".strip() for name in action.option_strings] or [value]
        yield from _item(", ".join(names), action.help or "")


def _of_twisted(options: type[Options]) -> Iterator[str]:
    """Describe a command that reads the flags of twistd's plugin; those of settings are on the other page."""
    usage = options.synopsis.removeprefix("Usage: ")
    yield from (f".SS {_roff(' '.join(usage.split()[:2]))}", *_synopsis(usage), *_paragraph(options.longdesc))
    of_settings = {flag.removeprefix("--") for row in reference() for flag in row.flags}
    tables = [vars(each) for each in reversed(options.__mro__)]
    for name, short, _, about in (row for table in tables for row in table.get("optParameters", [])):
        if name not in of_settings:
            yield from _item(f"-{short} FILE, --{name}=FILE" if short else f"--{name}=VALUE", about)
    for name, _, about in (row for table in tables for row in table.get("optFlags", [])):
        yield from _item(f"--{name}", about)


def _item(term: str, about: str) -> tuple[str, ...]:
    return ".TP", f"\\fB{_roff(term)}\\fR", *_prose(about)


def _paragraph(text: str) -> tuple[str, ...]:
    return (".PP", *_prose(text)) if text else ()


def _from_markdown(text: str) -> Iterator[str]:
    """Write what `settings_reference` makes as roff."""
    below_heading = False
    for line in text.splitlines():
        mark, _, rest = re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", line).replace("`", "").partition(" ")
        if mark in ("###", "####"):
            yield f"{'.SH' if mark == '###' else '.SS'} {_roff(rest)}"
        elif mark == "-":
            yield from (".br", *_prose(rest))
        elif line:
            yield from _paragraph(f"{mark} {rest}")[below_heading:]
        if line:
            below_heading = mark in ("###", "####")


def main() -> None:
    """Write each page that has changed, and print its name."""
    for path in (ROOT / "README.md", *sorted(DOCS.rglob("*.md"))):
        text = path.read_text("utf-8")
        new = renewed(text)
        if new != text:
            path.write_text(new, "utf-8")
            print(f"renewed {path.relative_to(ROOT)}")
    for name, page in manual_pages().items():
        path = DOCS / "man" / name
        if not path.exists() or page != path.read_text("utf-8"):
            path.write_text(page, "utf-8")
            print(f"renewed {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
