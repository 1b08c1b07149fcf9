"""The output: the terminal, or the file or pipe in its place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TextIO

from component_http.operations.terminal import printable

MAX_SHOWN = 8_000
"""The most characters of one request, response or reply that are shown: some screens full."""

CLEAR = "\r\x1b[J"
"""Go to the start of the row, and clear it and what is below."""


class Screen:
    """
    Writes to the terminal, or to the file or pipe in its place.

    Args:
        out: The file to write to; it is no error if nobody reads it any more.
        colour: Whether it understands colours.
    """

    STYLES: Mapping[str, str] = {"plain": "", "bot": "1;32", "quiet": "2", "bad": "31", "warning": "33", "bold": "1"}

    def __init__(self, out: TextIO, *, colour: bool = False) -> None:
        self._out = out
        self._colour = colour
        self._last_row = ""

    def show(self, text: str = "", style: str = "plain", *, first: str = "", whole: bool = False) -> None:
        """
        Show some text, which may hold any characters.

        Args:
            text: One or several lines; a text that is too long is cut.
            style: One of `STYLES`.
            first: The text before the first line, likewise; the other lines are indented as far.
            whole: Whether a long text is shown whole.
        """
        first = printable(first)
        if len(text) > MAX_SHOWN and not whole:
            text = f"{text[:MAX_SHOWN]}\n... and {len(text) - MAX_SHOWN} more characters"
        lines = printable(text).rstrip("\n").split("\n")
        shown = []
        for number, line in enumerate(lines):
            row = ((first if number == 0 else " " * len(first)) + line).rstrip()
            shown.append(self.styled(row, style) + "\n")
        if self._last_row:
            self._write(f"{CLEAR}{''.join(shown)}{self._last_row}")
        else:
            self._write("".join(shown))

    def prompt(self, text: str) -> None:
        """Ask for a line that the terminal itself lets the user type."""
        self._write(self.styled(text, "bold"))

    def keep_last(self, row: str) -> None:
        """
        Show a row, and keep it below all that is shown from now on.

        Args:
            row: The text, shorter than the terminal is wide; empty to take the row away.
        """
        self._last_row = row
        self._write(f"{CLEAR}{row}")

    def styled(self, text: str, style: str) -> str:
        """Colour a text in a style, if the screen has colours."""
        code = self.STYLES[style]
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour and code and text else text

    def _write(self, text: str) -> None:
        try:
            self._out.write(text)
            self._out.flush()
        except OSError:
            # Python would complain again when it flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())
