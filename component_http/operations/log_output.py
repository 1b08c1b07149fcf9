"""The output of the log: where its lines go, and what becomes of those that repeat or cannot be written."""

from __future__ import annotations

import math
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from typing import IO, Any, Protocol

from attrs import evolve
from twisted.logger import ILogObserver
from zope.interface import implementer

from component_http.operations.log_lines import WRITERS, Line

REPEATED_FOR = 60.0
"""Seconds after which a line is written again that was repeated all the time."""

JOURNAL = "/run/systemd/journal/socket"

_MODE = 0o640


class Destination(Protocol):
    """A place for lines. Each method raises `OSError` where it cannot be done."""

    def write(self, content: bytes) -> None: ...  # pragma: no cover

    def reopen(self) -> None: ...  # pragma: no cover

    def close(self) -> None: ...  # pragma: no cover


class Stream:
    """The standard output, or another open file; it is never closed."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, content: bytes) -> None:
        self._file.write(content)
        self._file.flush()

    def reopen(self) -> None:
        """Do nothing: it has no name."""

    def close(self) -> None:
        """Do nothing: it is somebody else's."""


class LogFile:
    """A file that is written at its end, whoever else writes there, and that is opened again when it was moved."""

    def __init__(self, path: str) -> None:
        # twistd may go to another folder.
        self._path = os.path.abspath(path)
        self._file = self._opened()

    def _opened(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)

    def write(self, content: bytes) -> None:
        while content:
            content = content[os.write(self._file, content) :]

    def reopen(self) -> None:
        before, self._file = self._file, self._opened()
        os.close(before)

    def close(self) -> None:
        os.close(self._file)


class Journal:
    """journald, which is not waited for: what it does not take at once is lost, and counted."""

    def __init__(self, path: str = JOURNAL) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._socket.setblocking(False)
        self._path = path
        try:
            self._socket.connect(path)
        except OSError:
            self._socket.close()
            raise

    def write(self, content: bytes) -> None:
        try:
            self._socket.send(content)
        except BlockingIOError:
            raise
        except OSError:
            # It was started again.
            self._socket.connect(self._path)
            self._socket.send(content)

    def reopen(self) -> None:
        """Do nothing: journald keeps its own files."""

    def close(self) -> None:
        self._socket.close()


@implementer(ILogObserver)
class Output:
    """
    Writes the log.

    A line that repeats the one before it is counted instead, and told with its number when another line comes, or after
    a minute. Lines that cannot be written are lost: the standard error is told at the first, and the log is told their
    number when one can be written again.

    Args:
        stdout: The standard output; None for that of the process. So is `stderr`.

    Attributes:
        in_use: It was asked for; else somebody else writes the log.
    """

    def __init__(self, stdout: IO[bytes] | None = None, stderr: IO[bytes] | None = None) -> None:
        self._destination: Destination = Stream(_binary(sys.__stdout__) if stdout is None else stdout)
        self._stderr = _binary(sys.__stderr__) if stderr is None else stderr
        self._stdout = self._destination
        self._write: Callable[[Line], bytes] = WRITERS["text"]
        self._last: Line | None = None
        self._more = 0
        self._lost = 0
        self._complained = -math.inf
        self.in_use = False

    def use(self, format: str, path: str | None = None, *, journal: str = JOURNAL) -> None:
        """
        Write the lines that follow in this format, to this file; without one to the standard output or to journald.

        Raises:
            OSError: The file, or the socket of journald, cannot be opened; then nothing has changed.
        """
        if format == "journald":
            destination: Destination = Journal(journal)
        else:
            destination = self._stdout if path is None else LogFile(path)
        self._flush()
        self._destination.close()
        self._destination, self._write = destination, WRITERS[format]

    def reopen(self) -> None:
        """Open the log's file again, for somebody has moved it. Raises `OSError`; then the former one is written."""
        self._flush()
        self._destination.reopen()

    def __call__(self, event: dict[str, Any]) -> None:
        line = Line.of(event)
        if line is None:
            return
        last = self._last
        if last is not None and last.same == line.same and 0 <= line.time - last.time < REPEATED_FOR:
            self._more += 1
            return
        self._flush()
        self._last = line
        self._put(line)

    def _flush(self) -> None:
        """Tell how often the last line was repeated."""
        last, more = self._last, self._more
        self._last, self._more = None, 0
        if last is not None and more:
            self._put(evolve(last, text=f"{last.text} ({more} more times)", traceback=""))

    def _put(self, line: Line) -> None:
        try:
            if self._lost:
                lost = f"lines of the log that could not be written: {self._lost}"
                self._destination.write(
                    self._write(Line(line.time, "error", f"{__name__}#error", lost, "", None, "", {"lost": self._lost}))
                )
                self._lost = 0
            self._destination.write(self._write(line))
        except (OSError, ValueError) as error:  # a closed file of Python's raises the latter
            self._lost += 1
            if self._lost == 1 and not 0 <= line.time - self._complained < REPEATED_FOR:
                self._complained = line.time
                self._complain(getattr(error, "strerror", None) or str(error))

    def _complain(self, reason: str) -> None:
        """Tell the standard error, which may be somewhere else than the log."""
        sentence = f"component-http: the log cannot be written: {reason}; the gateway goes on without\n"
        with suppress(OSError, ValueError):
            self._stderr.write(sentence.encode())
            self._stderr.flush()


def _binary(file: IO[str] | None) -> IO[bytes]:
    found: IO[bytes] = getattr(file, "buffer", None) or BytesIO()
    return found


OUTPUT = Output()
"""The output of this process."""


def observer() -> Output:
    """Return the output of this process, for `twistd --logger=component_http.operations.log_output.observer`."""
    OUTPUT.in_use = True
    return OUTPUT
