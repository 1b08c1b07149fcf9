"""How Sphinx builds these pages: `sphinx-build -W docs OUTPUT`."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent.parent))

from component_http import __version__
from component_http.settings import ReferenceRow, reference

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "component-http"
author = "the component-http authors"
copyright = author  # Sphinx reads this name
version = release = __version__

extensions = ["myst_parser"]
exclude_patterns = ["_build", "examples", "changes"]
html_theme = "furo"
html_title = f"component-http {release}"
html_show_copyright = False
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

_TABLES = {
    "component": "The XMPP side: which component, on which server, and what of it the webhook gets.",
    "webhook": "The HTTP side.",
    "delivery": "How stanzas are carried to the webhook.",
    "spool": "Where accepted stanzas are kept until they are done.",
    "api": "The HTTP API, by which others send, see [](api.md).",
    "api.token": "Who may use the API, and what for: any number of these.",
    "api.hook": "URLs for programs that know nothing of XMPP: any number of these.",
    "": "The stanza error of an HTTP status, where it should be another than the contract's.",
}


def settings_reference() -> str:
    """All settings as MyST text, made from what the code itself checks them by."""
    rows = reference()
    parts = []
    for table, about in _TABLES.items():
        heading = f"[[{table}]]" if "." in table else f"[{table or 'conditions'}]"
        parts.append(f"### `{heading}`\n\n{about}\n")
        parts.extend(_setting(row) for row in rows if row.table == table)
    return "\n".join(parts)


def _setting(row: ReferenceRow) -> str:
    heading = f"#### `{row.key}`\n" if row.table else "Each line of the table is a status.\n"
    lines = [heading, f"{row.help[0].upper()}{row.help[1:]}.\n"]
    lines.append(f"- Allowed: {row.allowed}.")
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
    if row.reason:
        lines.append(f"- Why: {row.reason}.")
    return "\n".join(lines) + "\n"


def _example(row: ReferenceRow) -> str:
    if not row.table:
        return row.example
    # That of a table inside a table is one line of it.
    inner = row.key == "headers"
    return f"{row.key} = {{ {row.example} }}" if inner else f"{row.key} = {row.example}"


def unreleased_changes() -> str:
    """The fragments of `docs/changes/`, which become a section of their own with the next release."""
    fragments = sorted((Path(__file__).parent / "changes").glob("*.*.md"), key=lambda fragment: fragment.stem)
    items = (f"- {indent(fragment.read_text('utf-8').strip(), '  ').strip()}" for fragment in fragments)
    return "\n".join(items) or "Nothing yet."


_GENERATED = {
    "configuration": ("<!-- settings reference -->", settings_reference),
    "changes": ("<!-- unreleased changes -->", unreleased_changes),
}


def fill_in(_app: Sphinx, page: str, source: list[str]) -> None:
    """Put what is made from the code in the place that the page keeps for it."""
    if page in _GENERATED:
        mark, text = _GENERATED[page]
        if mark not in source[0]:
            raise ValueError(f"docs/{page}.md has lost its line {mark}")
        source[0] = source[0].replace(mark, text())


def setup(app: Sphinx) -> None:
    app.connect("source-read", fill_in)
    # What they are made from may have changed where they have not.
    app.connect("env-get-outdated", lambda *_: list(_GENERATED))
