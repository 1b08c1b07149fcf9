"""Reads the user's lines: from a terminal with editing and history, or from a pipe, a file or nothing."""

from __future__ import annotations

import codecs
import os
import re
import select
import shutil
import signal
import termios
import tty
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from component_http.operations.terminal import printable, width
from component_http.playground.screen import Screen

MAX_LINE_BYTES = 100_000
"""A longer line of input counts as several; it leaves room for escaping within the largest stanza."""

MAX_HISTORY = 500
"""Lines that the arrow keys bring back."""


class Source(Protocol):
    """A source of the user's lines."""

    async def next(self) -> str | None:
        """Return the next line, without its end; None if there is no more."""
        ...  # pragma: no cover


class Lines:
    """
    Reads one line at a time from a terminal, a pipe, a file or nothing.

    A thread reads, and only when a line is asked for: Twisted's own `StandardIO` cannot watch a regular file.

    Args:
        reactor: The reactor, in whose thread the lines are returned.
    """

    def __init__(self, descriptor: int, reactor: Any) -> None:
        self._descriptor = descriptor
        self._reactor = reactor
        self._buffer = bytearray()
        self._ended = False

    async def next(self) -> str | None:
        """Return the next line, without its end; None if there is no more."""
        while not self._ended and b"\n" not in self._buffer and len(self._buffer) < MAX_LINE_BYTES:
            data = await _read(self._descriptor, self._reactor)
            self._buffer += data
            self._ended = not data
        if not self._buffer:
            return None
        end = self._buffer.find(b"\n", 0, MAX_LINE_BYTES)
        size = end + 1 if end >= 0 else min(len(self._buffer), MAX_LINE_BYTES)
        line = self._buffer[:size].decode("utf-8", "replace")
        del self._buffer[:size]
        return line.removesuffix("\n").removesuffix("\r")


def _read(descriptor: int, reactor: Any) -> Deferred[bytes]:
    """Wait until there are bytes to read, and fire with them; with none at the end."""
    arrived: Deferred[bytes] = Deferred()

    def read() -> None:
        data = _read_some(descriptor)
        reactor.callFromThread(arrived.callback, data)

    # A daemon, because it may still wait for the user when the process ends.
    Thread(target=read, daemon=True).start()
    return arrived


def _read_some(descriptor: int) -> bytes:
    try:
        try:
            return os.read(descriptor, 65536)
        except BlockingIOError:
            # Another program at the same terminal has set it to non-blocking.
            select.select([descriptor], [], [])
            return os.read(descriptor, 65536)
    except OSError:
        return b""


class PlainLines:
    """
    Lines that are shown as they came, or that a terminal without a movable cursor lets the user type.

    Args:
        is_typed: Whether the user types them, and so sees them already.
    """

    def __init__(self, lines: Lines, screen: Screen, prompt: Callable[[], str], *, is_typed: bool) -> None:
        self._lines = lines
        self._screen = screen
        self._prompt = prompt
        self._is_typed = is_typed

    async def next(self) -> str | None:
        if self._is_typed:
            self._screen.prompt(self._prompt())
        line = await self._lines.next()
        if self._is_typed and line is None:
            self._screen.show()
        elif not self._is_typed and line and line.strip():
            self._screen.show(f"{self._prompt()}{line.strip()}", "bold", whole=True)
        return line


# Editing a line.

_KEY = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*[@-~]|O[@-~]|[^\x1b\[O])|[^\x1b]", re.DOTALL)
"""One key, or one character of a text that was pasted."""

_BEGUN = re.compile(r"\x1b(?:\[[0-9;?]*[ -/]*|O)?")
"""The beginning of a key, whose rest is still to come."""

_WORD_LEFT = re.compile(r"\S+\s*\Z")
_WORD_RIGHT = re.compile(r"\s*\S*")


class LineEditor:
    """
    Edits the line that is being typed, and remembers the lines before it.

    Attributes:
        text: The line so far.
        cursor: The place of the next character, counted in characters.
    """

    def __init__(self) -> None:
        self.text = ""
        self.cursor = 0
        self._keys = ""
        self._history: deque[str] = deque(maxlen=MAX_HISTORY)
        # How many lines back in the history the user is, and the line that was typed before.
        self._back = 0
        self._unfinished = ""
        self._actions: dict[str, Callable[[], None]] = {
            **dict.fromkeys(("\x7f", "\x08"), self._erase),
            **dict.fromkeys(("\x01", "\x1b[H", "\x1bOH", "\x1b[1~", "\x1b[7~"), lambda: self._go(0)),
            **dict.fromkeys(("\x05", "\x1b[F", "\x1bOF", "\x1b[4~", "\x1b[8~"), lambda: self._go(len(self.text))),
            **dict.fromkeys(("\x02", "\x1b[D", "\x1bOD"), lambda: self._go(self.cursor - 1)),
            **dict.fromkeys(("\x06", "\x1b[C", "\x1bOC"), lambda: self._go(self.cursor + 1)),
            **dict.fromkeys(("\x1bb", "\x1b[1;5D", "\x1b[1;3D"), lambda: self._go(self._word_left())),
            **dict.fromkeys(("\x1bf", "\x1b[1;5C", "\x1b[1;3C"), lambda: self._go(self._word_right())),
            **dict.fromkeys(("\x10", "\x1b[A", "\x1bOA"), lambda: self._recall(self._back + 1)),
            **dict.fromkeys(("\x0e", "\x1b[B", "\x1bOB"), lambda: self._recall(self._back - 1)),
            **dict.fromkeys(("\x17", "\x1b\x7f", "\x1b\x08"), lambda: self._cut(self._word_left(), self.cursor)),
            "\x1bd": lambda: self._cut(self.cursor, self._word_right()),
            "\x0b": lambda: self._cut(self.cursor, len(self.text)),
            "\x15": lambda: self._cut(0, self.cursor),
            "\x1b[3~": lambda: self._cut(self.cursor, self.cursor + 1),
        }

    def press(self, keys: str) -> Iterator[str | None]:
        """
        Take the characters that the terminal sends for keys, or a text that was pasted.

        Yields:
            Each line as it is finished, and None for Ctrl-D in an empty line. A caller that stops the iteration gets
            the rest with the next `press`.
        """
        self._keys += keys
        while self._keys and not _BEGUN.fullmatch(self._keys):
            key = _KEY.match(self._keys)
            end = key.end() if key else 1
            pressed, self._keys = self._keys[:end], self._keys[end:]
            if len(self.text) >= MAX_LINE_BYTES // 4 and pressed.isprintable():
                self._keys = pressed + self._keys
                yield self._finish()
            elif pressed in "\r\n":
                yield self._finish()
            elif pressed == "\x04" and not self.text:
                yield None
            elif pressed == "\x04":
                self._cut(self.cursor, self.cursor + 1)
            elif pressed in self._actions:
                self._actions[pressed]()
            elif len(pressed) == 1 and (pressed == "\t" or printable(pressed) == pressed):
                self.text = self.text[: self.cursor] + pressed.replace("\t", " ") + self.text[self.cursor :]
                self.cursor += 1

    def visible(self, columns: int) -> tuple[str, int]:
        """
        Return the part of the line around the cursor that fits.

        Args:
            columns: The columns of the terminal for it; the cursor may stand behind the last.

        Returns:
            That part, and the number of its columns behind the cursor.
        """
        start = end = self.cursor
        room = columns
        while start > 0 and width(self.text[start - 1]) <= room:
            start -= 1
            room -= width(self.text[start])
        while end < len(self.text) and width(self.text[end]) <= room:
            room -= width(self.text[end])
            end += 1
        return self.text[start:end], width(self.text[self.cursor : end])

    def _finish(self) -> str:
        line, self.text, self.cursor, self._back = self.text, "", 0, 0
        if line.strip() and (not self._history or self._history[-1] != line):
            self._history.append(line)
        return line

    def _go(self, where: int) -> None:
        self.cursor = max(0, min(where, len(self.text)))

    def _cut(self, start: int, end: int) -> None:
        self.text = self.text[:start] + self.text[end:]
        self.cursor = start

    def _erase(self) -> None:
        if self.cursor:
            self._cut(self.cursor - 1, self.cursor)

    def _word_left(self) -> int:
        word = _WORD_LEFT.search(self.text, 0, self.cursor)
        return word.start() if word else 0

    def _word_right(self) -> int:
        word = _WORD_RIGHT.match(self.text, self.cursor)
        return word.end() if word else self.cursor

    def _recall(self, back: int) -> None:
        if not 0 <= back <= len(self._history):
            return
        if self._back == 0:
            self._unfinished = self.text
        self._back = back
        self.text = self._history[-back] if back else self._unfinished
        self.cursor = len(self.text)


class EditedLines:
    """
    Lines that the user types at a terminal, with editing and history.

    Between two calls of `next` nothing is read: keys that are typed meanwhile are kept for the next line, and do not
    show up among the playground's output.

    Args:
        reactor: The reactor, in whose thread the lines are returned.
        prompt: Returns the text before the next line.
    """

    def __init__(self, descriptor: int, reactor: Any, screen: Screen, prompt: Callable[[], str]) -> None:
        self._descriptor = descriptor
        self._reactor = reactor
        self._screen = screen
        self._prompt = prompt
        self._editor = LineEditor()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._is_asking = False
        self._finished: Iterator[str | None] = iter(())

    @contextmanager
    def in_charge(self) -> Iterator[None]:
        """Let the terminal send each key at once, as long as the context lasts; Ctrl-C and Ctrl-Z work as ever."""
        before = termios.tcgetattr(self._descriptor)
        signal.signal(signal.SIGCONT, lambda *_: self._reactor.callFromThread(self._take_charge))
        self._take_charge()
        try:
            yield
        finally:
            signal.signal(signal.SIGCONT, signal.SIG_DFL)
            with suppress(termios.error):  # the terminal may be gone
                termios.tcsetattr(self._descriptor, termios.TCSADRAIN, before)

    def _take_charge(self) -> None:
        """Set the terminal, at the start and when the user comes back after Ctrl-Z."""
        tty.setcbreak(self._descriptor, termios.TCSADRAIN)
        if self._is_asking:
            self._draw()

    async def next(self) -> str | None:
        self._is_asking = True
        try:
            line = await self._typed()
        finally:
            self._is_asking = False
            self._screen.keep_last("")
        self._screen.show(f"{self._prompt()}{line or ''}".rstrip(), "bold", whole=True)
        return line

    async def _typed(self) -> str | None:
        while True:
            for line in self._finished:
                return line
            self._draw()
            data = await _read(self._descriptor, self._reactor)
            if not data:
                return None
            self._finished = self._editor.press(self._decoder.decode(data))

    def _draw(self) -> None:
        prompt = self._prompt()
        # One column stays free: a terminal may begin a new row when the last one is written to.
        room = shutil.get_terminal_size().columns - width(prompt) - 1
        text, behind = self._editor.visible(max(1, room))
        back = f"\x1b[{behind}D" if behind else ""
        self._screen.keep_last(f"{self._screen.styled(prompt, 'bold')}{text}{back}")
