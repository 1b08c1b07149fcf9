"""
Renews the parts of the documents that are made from other files: `make reference`, or `python docs/reference.py`.

Such a part stands between two comments, so that a forge shows it and Sphinx needs no directive for it.
The first comment names what it is made from: the settings, or a file whose text is copied.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from component_http.settings import Setting, reference

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


def main() -> None:
    """Write each page whose parts have changed, and print its name."""
    for path in (ROOT / "README.md", *sorted(DOCS.rglob("*.md"))):
        text = path.read_text("utf-8")
        new = renewed(text)
        if new != text:
            path.write_text(new, "utf-8")
            print(f"renewed {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
