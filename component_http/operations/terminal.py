"""Text for a terminal. A stranger's text must not control the terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime

LEAST = 12
"""The fewest columns of the last cell of a row."""

GAP = "  "


def printable(text: str) -> str:
    """Escape all characters that would move the cursor, hide others or recolour the terminal."""
    return "".join(
        char
        if char.isprintable() or char in "\n\t\u200c\u200d" or unicodedata.category(char) == "Zs"
        else char.encode("unicode_escape").decode()
        for char in text
    )


def on_one_line(text: str) -> str:
    """Escape a text, and put it into one line, with one blank between words."""
    return printable(" ".join(text.split()))


def width(text: str) -> int:
    """Count the columns of a terminal that a text takes, as far as that can be known."""
    return sum(_width(char) for char in text)


def _width(char: str) -> int:
    if unicodedata.combining(char) or char in "\u200c\u200d":
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, columns: int) -> str:
    """Cut a text to so many columns (1 or more), the last of which is a mark that there is more."""
    if width(text) <= columns:
        return text
    taken, room = "", columns - 1
    for char in text:
        room -= _width(char)
        if room < 0:
            break
        taken += char
    return f"{taken}…"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], limits: Sequence[int], columns: int = 100) -> str:
    """
    Lay out a table.

    Args:
        limits: The width of each column but the last, in columns of the terminal.
        columns: The width of the table. The last column takes the rest, or `LEAST`.

    Returns:
        Lines, each with its end.
    """
    lines = [[on_one_line(cell) for cell in row] for row in (header, *rows)]
    widths = [min(limit, max(width(line[at]) for line in lines)) for at, limit in enumerate(limits)]
    widths.append(max(LEAST, columns - sum(widths) - len(GAP) * len(widths)))
    return "".join(
        GAP.join(_padded(cell, columns) for cell, columns in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in lines
    )


def _padded(cell: str, columns: int) -> str:
    fitting = cut(cell, columns)
    return fitting + " " * (columns - width(fitting))


def age(seconds: float) -> str:
    """Write a time as roughly as a person would: `3 min`."""
    for unit, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{int(seconds // unit)} {name}"
    return f"{max(0, int(seconds))} s"


def moment(seconds: float) -> str:
    """Write a moment, given in seconds since the epoch: `2026-11-22 12:30:45 UTC`."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def size(count: float) -> str:
    """Write a number of bytes: `34.5 KiB`."""
    units = iter(("KiB", "MiB", "GiB"))
    unit = "B"
    while count >= 1024 and unit != "GiB":
        count, unit = count / 1024, next(units)
    return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
