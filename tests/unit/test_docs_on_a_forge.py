"""The documents read well on a forge, which shows the Markdown files as they are."""

from __future__ import annotations

import re
import runpy
import subprocess
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from pathlib import Path

from attrs import frozen
from markdown_it import MarkdownIt
from markdown_it.token import Token
from twisted.trial.unittest import SynchronousTestCase

from component_http.settings import reference
from tests.integration.counterparts import need

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FRAGMENTS = sorted((DOCS / "changes").glob("*.md"))
PAGES = sorted({*ROOT.glob("*.md"), *DOCS.rglob("*.md")} - set(FRAGMENTS))


@frozen
class Link:
    """
    One link or image.

    Attributes:
        text: The words that a reader sees, with those of code.
        target: A URL, or a path with an optional anchor.
    """

    text: str
    target: str


@frozen
class Page:
    """
    A page as plain Markdown with GitHub's tables.

    Attributes:
        blocks: Its block tokens; those with text have inline tokens as children.
    """

    lines: list[str]
    blocks: list[Token]

    @classmethod
    def parsed(cls, text: str) -> Page:
        return cls(text.splitlines(), MarkdownIt("commonmark").enable("table").parse(text))

    def texts(self) -> Iterator[list[Token]]:
        """The inline tokens of each paragraph, heading and cell."""
        return (block.children or [] for block in self.blocks if block.type == "inline")

    def headings(self, *levels: str) -> list[str]:
        """The text of each heading of these levels ("h1" to "h6"), or of all."""
        return [
            words(text.children or [])
            for opening, text in pairwise(self.blocks)
            if opening.type == "heading_open" and (not levels or opening.tag in levels)
        ]

    def anchors(self) -> set[str]:
        """The anchors that GitHub gives to the headings."""
        found: dict[str, int] = {}
        anchors = set()
        for heading in self.headings():
            slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
            repeats = found[slug] = found.get(slug, -1) + 1
            anchors.add(f"{slug}-{repeats}" if repeats else slug)
        return anchors

    def links(self) -> list[Link]:
        links = []
        for tokens in self.texts():
            for number, token in enumerate(tokens):
                if token.type == "link_open":
                    end = next(later for later in range(number, len(tokens)) if tokens[later].type == "link_close")
                    links.append(Link(words(tokens[number:end]), str(token.attrs["href"])))
                elif token.type == "image":
                    links.append(Link(token.content, str(token.attrs["src"])))
        return links

    def open_fences(self) -> list[str]:
        """The first line of each code block that nothing closes."""
        return [
            self.lines[block.map[0]]
            for block in self.blocks
            if block.type == "fence" and block.map and not self._closed(*block.map)
        ]

    def _closed(self, first: int, behind: int) -> bool:
        return behind - 1 > first and re.fullmatch(r"[`~]{3,}", self.lines[behind - 1].strip("> ")) is not None

    def uneven_rows(self) -> list[str]:
        """The rows of tables with more or fewer cells than the head, which a forge cuts or fills up silently."""
        uneven: list[str] = []
        for block in self.blocks:
            if block.type == "table_open" and block.map:
                rows = self.lines[slice(*block.map)]
                cells = [len(re.findall(r"(?<!\\)\|", row.strip())) for row in rows]
                uneven += [row for row, number in zip(rows, cells, strict=True) if number != cells[0]]
        return uneven

    def only_sphinx(self) -> list[str]:
        """The pieces that mean something to Sphinx and MyST only, and that a forge shows as they are."""
        found = [block.info for block in self.blocks if block.type == "fence" and block.info.startswith("{")]
        for tokens in self.texts():
            for token, after in pairwise([*tokens, None]):
                if token is None or token.type != "text":
                    continue
                role = after is not None and after.type == "code_inline" and re.search(r"\{[\w:-]+\}$", token.content)
                if role or re.match(r":{3,}|\([\w-]+\)=$|%|:[\w-]+:|\+{3}|\{[\w-]+\}|\[\^", token.content):
                    found.append(token.content)
        return found

    def html(self) -> list[str]:
        """HTML that is no comment: a forge drops it, or takes it for a tag of its own."""
        pieces = [*self.blocks, *(token for tokens in self.texts() for token in tokens)]
        tags = [piece.content.strip() for piece in pieces if piece.type in ("html_block", "html_inline")]
        return [tag for tag in tags if not re.fullmatch(r"<!--.*?-->", tag, re.S)]


def words(tokens: list[Token]) -> str:
    return "".join(token.content if token.type != "softbreak" else " " for token in tokens)


@cache
def page(path: Path) -> Page:
    return Page.parsed(path.read_text("utf-8"))


class ForgeTests(SynchronousTestCase):
    """Reading the pages where the source is kept, without building them."""

    def test_links_have_a_text(self) -> None:
        """
        Each link has words to click on.
        """
        for path in [*PAGES, *FRAGMENTS]:
            with self.subTest(page=path.name):
                self.assertEqual([], [link.target for link in page(path).links() if not link.text.strip()])

    def test_links_lead_somewhere(self) -> None:
        """
        Each link leads to a file that is there, and to a heading that is in it.
        """
        for path in [*PAGES, *FRAGMENTS]:
            # The fragments of the next release become part of docs/changes.md.
            folder = DOCS if path in FRAGMENTS else path.parent
            for link in page(path).links():
                if re.match(r"(https?|mailto|xmpp):", link.target):
                    continue
                with self.subTest(page=path.name, target=link.target):
                    name, _, anchor = link.target.partition("#")
                    target = (folder / name).resolve() if name else path
                    self.assertTrue(target.exists() and target.is_relative_to(ROOT))
                    if anchor:
                        self.assertIn(anchor, page(target).anchors())

    def test_nothing_for_sphinx_only(self) -> None:
        """
        No directive, role or target of Sphinx stands in a page as text.
        """
        for path in [*PAGES, *FRAGMENTS]:
            with self.subTest(page=path.name):
                self.assertEqual([], page(path).only_sphinx())

    def test_html(self) -> None:
        """
        No piece of XML outside a code block gets lost as a tag of HTML.
        """
        for path in [*PAGES, *FRAGMENTS]:
            with self.subTest(page=path.name):
                self.assertEqual([], page(path).html())

    def test_one_title(self) -> None:
        """
        Each page has one title, and begins with it.
        """
        for path in PAGES:
            with self.subTest(page=path.name):
                self.assertEqual(page(path).headings("h1"), page(path).headings()[:1])
                self.assertEqual("heading_open", page(path).blocks[0].type)

    def test_code_blocks_end(self) -> None:
        """
        Each code block is closed.
        """
        for path in [*PAGES, *FRAGMENTS]:
            with self.subTest(page=path.name):
                self.assertEqual([], page(path).open_fences())

    def test_tables(self) -> None:
        """
        Each row of a table has as many cells as its head.
        """
        for path in PAGES:
            with self.subTest(page=path.name):
                self.assertEqual([], page(path).uneven_rows())

    def test_faults_are_found(self) -> None:
        """
        These tests see what a forge would show wrongly.
        """
        wrong = Page.parsed(
            "# One\n\n# Two\n\n## `[[api.token]]`\n\n## The `a` & b\n\n## Two\n\n[](api.md) [`x`](#y)\n\n"
            ":::{note}\n\n(label)=\n\n{doc}`api` is `{fine}`\n\na <message/> <!-- kept out -->\n\n"
            "| a | b |\n|---|---|\n| `1|2` | 3 |\n\n```{include} x\n"
        )
        self.assertEqual(["One", "Two"], wrong.headings("h1"))
        self.assertEqual({"one", "two", "apitoken", "the-a--b", "two-1"}, wrong.anchors())
        self.assertEqual([Link("", "api.md"), Link("x", "#y")], wrong.links())
        self.assertEqual(["{include} x", ":::{note}", "(label)=", "{doc}"], wrong.only_sphinx())
        self.assertEqual(["<message/>"], wrong.html())
        self.assertEqual(["| `1|2` | 3 |"], wrong.uneven_rows())
        self.assertEqual(["```{include} x"], wrong.open_fences())


class CopiedPartsTests(SynchronousTestCase):
    """What stands in the pages and is made from other files."""

    def test_up_to_date(self) -> None:
        """
        The settings reference and the copied examples are those of the code.
        """
        renewed = runpy.run_path(str(DOCS / "reference.py"))["renewed"]
        sources = set()
        for path in PAGES:
            text = path.read_text("utf-8")
            sources.update(re.findall(r"<!-- make reference: ([^\n]+) -->(?:(?!<!-- make).)*?<!-- end -->", text, re.S))
            if renewed(text) != text:
                self.fail(f"{path.relative_to(ROOT)} is out of date: run `make reference`, or python docs/reference.py")
        examples = {f"docs/examples/component{name}" for name in ("-http.toml", "-http@.service", "_http.tac")}
        self.assertLessEqual({"the settings", "examples/echo_bot.py"} | examples, sources)


class ManualPagesTests(SynchronousTestCase):
    """The manual pages."""

    def test_up_to_date(self) -> None:
        """
        They are those of the command line and of the settings, and have every command and every setting.
        """
        pages = runpy.run_path(str(DOCS / "reference.py"))["manual_pages"]()
        for name, page in pages.items():
            if page != (DOCS / "man" / name).read_text("utf-8"):
                self.fail(f"docs/man/{name} is out of date: run `make reference`, or python docs/reference.py")
        commands = re.findall(r"(?m)^\.SS (.*)$", pages["component-http.1"].replace("\\", ""))
        for command in ("run", "check", "doctor", "letters retry", "spool backup", "spool restore", "wake"):
            self.assertIn(f"component-http {command}", commands)
        keys = re.findall(r"(?m)^\.SS (.*)$", pages["component-http.toml.5"])
        self.assertEqual([row.key for row in reference() if row.table], keys)

    def test_groff(self) -> None:
        """
        groff formats them without a warning.
        """
        program = need("groff", "groff-base")
        for path in sorted((DOCS / "man").iterdir()):
            command = [program, "-man", "-Tutf8", "-ww", str(path)]
            ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
            self.assertEqual("", ended.stderr)
            self.assertIn("component-http", ended.stdout)
