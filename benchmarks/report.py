"""Tables in Markdown, pictures in SVG, and the page of the documents that shows them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"

BLUE, GREY = "#2b6cb0", "#a0aec0"
_COLOURS = (BLUE, "#c05621", "#2f855a")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in (header, *rows)]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])


def publish(name: str, text: str, page: Path = PAGE) -> None:
    """
    Put a text into the documents, in the place of the one that an earlier run put there.

    Args:
        name: The page has the comments `<!-- NAME -->` and `<!-- end -->` around the place.
    """
    written, places = re.subn(
        rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)",
        lambda found: f"{found[1]}{text.strip()}\n{found[2]}",
        page.read_text("utf-8"),
        flags=re.S,
    )
    if places != 1:
        raise ValueError(f"{page} has {places} places for {name}")
    page.write_text(written, "utf-8")


def bars(title: str, values: Mapping[str, float], *, marked: str) -> str:
    """
    A picture of some values as bars, from top to bottom.

    Args:
        marked: The bars whose names begin so have a colour.
    """
    widest, step = max(values.values()), 34
    rows = []
    for at, (name, value) in enumerate(values.items()):
        y, width = 40 + at * step, max(2.0, 420 * value / widest)
        colour = BLUE if name.startswith(marked) else GREY
        rows.append(
            f'<text x="150" y="{y + 15}" text-anchor="end">{escape(name)}</text>'
            f'<rect x="160" y="{y}" width="{width:.0f}" height="22" fill="{colour}"/>'
            f'<text x="{168 + width:.0f}" y="{y + 15}">{value:.3f}</text>'
        )
    return _picture(title, 50 + len(values) * step, rows)


def lines(title: str, series: Mapping[str, Mapping[str, float]]) -> str:
    """
    A picture of some series, each a line from its first to its last value, which stand at equal distances.

    Args:
        series: By the name of each, its values by what they were measured with. The vertical axis begins at 0.
    """
    top, bottom, left, right = 50, 290, 70, 640
    highest = 1.15 * max(value for values in series.values() for value in values.values())
    drawn = [f'<line x1="{left}" y1="{bottom}" x2="{right}" y2="{bottom}" stroke="{GREY}"/>']
    for number, (name, values) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        apart = (right - left - 100) / max(1, len(values) - 1)
        points = [
            (left + 50 + apart * at, bottom - (bottom - top) * value / highest, key, value)
            for at, (key, value) in enumerate(values.items())
        ]
        path = " ".join(f"{x:.0f},{y:.0f}" for x, y, _, _ in points)
        drawn.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y, key, value in points:
            drawn.append(
                f'<circle cx="{x:.0f}" cy="{y:.0f}" r="3" fill="{colour}"/>'
                f'<text x="{x:.0f}" y="{y - 8:.0f}" text-anchor="middle">{value:.0f}</text>'
                f'<text x="{x:.0f}" y="{bottom + 18 + 16 * number}" text-anchor="middle" fill="{colour}">{key}</text>'
            )
        y = bottom + 18 + 16 * len(series) + 20 * number
        drawn.append(f'<text x="{left}" y="{y}" fill="{colour}">{escape(name)}</text>')
    return _picture(title, bottom + 30 + 36 * len(series), drawn)


def _picture(title: str, height: int, drawn: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 {height}" font-family="sans-serif" font-size="13">'
        f'<rect width="680" height="{height}" fill="#ffffff"/>'
        f'<text x="10" y="22" font-size="15">{escape(title)}</text>' + "".join(drawn) + "</svg>\n"
    )
