"""How Sphinx builds these pages: `sphinx-build -W docs OUTPUT`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

import attrs

sys.path.insert(0, str(Path(__file__).parent.parent))

from component_http import __version__

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "component-http"
author = "the component-http authors"
copyright = author  # Sphinx reads this name
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "examples", "changes"]
# Docstrings put code between single backticks.
default_role = "code"
autodoc_default_options = {"member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False
autodoc_preserve_defaults = True
autodoc_type_aliases = {name: f"component_http.interfaces.{name}" for name in ("AnswerFunction", "ReplyObjects")}
python_use_unqualified_type_names = True
napoleon_use_ivar = True
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


def from_docstrings(page: str) -> str:
    """
    The page with directives of autodoc in the place of its comments.

    `<!-- autodoc: class NAME -->` is a class with its public methods, or with those that follow behind a colon;
    `signature` is the class without them, and `module` all that a module has in its `__all__`.
    """

    def directive(comment: re.Match[str]) -> str:
        what, name, chosen = comment.groups()
        options = "   :no-members:" if what == "signature" else f"   :members: {chosen or ''}"
        return f"```{{eval-rst}}\n.. auto{'module' if what == 'module' else 'class'}:: {name}\n{options}\n```"

    return re.sub(r"^<!-- autodoc: (class|signature|module) ([\w.]+)(?:: ([\w, ]+))? -->$", directive, page, flags=re.M)


def short_signature(
    _app: Sphinx, what: str, _name: str, documented: Any, _options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None] | None:
    """The arguments of an attrs class as somebody writes them, and none for a class that nobody makes."""
    if signature is not None:
        signature = re.sub(r"(?:TypeAliasForwardRef\('|<InterfaceClass )(?:\w+\.)*(\w+)(?:'\)|>)", r"\1", signature)
        signature = re.sub(r"lambda[ \w]*: [^,)]+", "...", signature)
    if what != "class":
        return signature, returns
    if getattr(documented, "_is_protocol", False):
        return "", returns
    if not attrs.has(documented):
        return signature, returns
    fields = [field for field in attrs.fields(documented) if field.init]
    arguments = ["*"] if fields and fields[0].kw_only else []
    for field in fields:
        made = isinstance(field.default, attrs.Factory)  # type: ignore[arg-type]
        default = "" if field.default is attrs.NOTHING else "=..." if made else f"={field.default!r}"
        arguments.append(f"{field.alias}{default}")
    return f"({', '.join(arguments)})", returns


def colons_are_text(_app: Sphinx, what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Keep napoleon from taking the words before a colon for a type."""
    if what not in ("module", "class", "exception", "function", "method"):
        lines[:] = ["\\ ", *"\n".join(lines).strip("\n").split("\n")]


def fill_in(_app: Sphinx, page: str, source: list[str]) -> None:
    """Give Sphinx what the page cannot say in the Markdown that a forge shows, too."""
    if page == "changes":
        text, replaced = re.subn(
            "<!-- unreleased changes -->.*?<!-- end -->", lambda _: unreleased_changes(), source[0], flags=re.S
        )
        if not replaced:
            raise ValueError("docs/changes.md has lost the place for the unreleased changes")
        source[0] = text
    elif page == "python-api":
        source[0] = from_docstrings(source[0])
    elif page in ("index", "decisions/index"):
        source[0] += contents(source[0])


def setup(app: Sphinx) -> None:
    app.connect("source-read", fill_in)
    app.connect("autodoc-process-signature", short_signature)
    app.connect("autodoc-process-docstring", colons_are_text, priority=400)
    # The fragments and the docstrings may have changed where the page has not.
    app.connect("env-get-outdated", lambda *_: ["changes", "python-api"])
