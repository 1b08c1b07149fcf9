"""How Sphinx builds these pages: `sphinx-build -W docs OUTPUT`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).parent.parent))

from component_http import __version__

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
myst_heading_anchors = 4


def unreleased_changes() -> str:
    """The fragments of `docs/changes/`, which become a section of their own with the next release."""
    fragments = sorted((Path(__file__).parent / "changes").glob("*.*.md"), key=lambda fragment: fragment.stem)
    items = (f"- {indent(fragment.read_text('utf-8').strip(), '  ').strip()}" for fragment in fragments)
    return "\n".join(items) or "Nothing yet."


def contents(text: str) -> str:
    """The pages that a page links to, in its order, as the contents from which Sphinx makes its side bar."""
    pages = dict.fromkeys(re.findall(r"\]\(([\w/-]+)\.md\)", text))
    return "\n".join(["", "```{toctree}", ":hidden:", *pages, "```", ""])


def fill_in(_app: Sphinx, page: str, source: list[str]) -> None:
    """Give Sphinx what the page cannot say in the Markdown that a forge shows, too."""
    if page == "changes":
        text, replaced = re.subn(
            "<!-- unreleased changes -->.*?<!-- end -->", lambda _: unreleased_changes(), source[0], flags=re.S
        )
        if not replaced:
            raise ValueError("docs/changes.md has lost the place for the unreleased changes")
        source[0] = text
    elif page in ("index", "decisions/index"):
        source[0] += contents(source[0])


def setup(app: Sphinx) -> None:
    app.connect("source-read", fill_in)
    # The fragments may have changed where the page has not.
    app.connect("env-get-outdated", lambda *_: ["changes"])
