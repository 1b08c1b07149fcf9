"""The lines of the log, wherever they go."""

from __future__ import annotations

import errno
import json
import socket
import struct
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import LogLevel, LogPublisher, globalLogPublisher
from twisted.python import log as old_log
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from component_http.errors import SettingsError
from component_http.log import Logger
from component_http.operations.log_lines import MAX_CHARACTERS, escaped
from component_http.operations.log_output import REPEATED_FOR, LogFile, Output, observer
from component_http.settings import LogSettings
from component_http.tap import Options


def an_event(
    text: str = "a line of {said}", *, time: float = 0.0, level: str = "info", **fields: Any
) -> dict[str, Any]:
    fields.setdefault("said", "nothing")
    return {
        "log_format": text,
        "log_time": time,
        "log_level": LogLevel.levelWithName(level),
        "log_namespace": "component_http.xmpp.stream",
        **fields,
    }


def a_failure(text: str = "no") -> Failure:
    try:
        raise ValueError(text)
    except ValueError:
        return Failure()


class OutputTestCase(SynchronousTestCase):
    """A test with an output whose standard output is in memory."""

    def setUp(self) -> None:
        self.stdout = BytesIO()
        self.output = Output(self.stdout)

    @property
    def text(self) -> str:
        return self.stdout.getvalue().decode()

    @property
    def lines(self) -> list[str]:
        """The lines, without the time in front."""
        return [line.partition(" ")[2] for line in self.text.splitlines()]


class TextTests(OutputTestCase):
    """Lines for a person."""

    def test_line(self) -> None:
        """
        A line has its time, the part of the program, its level and its text.
        """
        self.output(an_event(said="Alice"))
        time, _, rest = self.text.partition(" ")
        self.assertRegex(time, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}$")
        self.assertEqual("[component_http.xmpp.stream#info] a line of Alice\n", rest)

    def test_hostile_text(self) -> None:
        """
        Nobody can write a line of his own, or control the terminal of whoever reads the log.
        """
        self.output(an_event(said="x\r\n2026-11-26T00:00:00+0000 [-] all is well\x1b[2J\u202e\x00"))
        [line] = self.lines
        self.assertEqual(
            "[component_http.xmpp.stream#info] a line of"
            r" x\r\n2026-11-26T00:00:00+0000 [-] all is well\x1b[2J\u202e\x00",
            line,
        )

    @given(st.text())
    def test_any_text(self, text: str) -> None:
        """
        Whatever text comes, it is one line without control characters.
        """
        found = escaped(text)
        self.assertLessEqual(len(found.splitlines()), 1)
        self.assertFalse([char for char in found if ord(char) < 32 or 127 <= ord(char) < 160])

    def test_traceback(self) -> None:
        """
        An internal error has its traceback, moved to the right; a hostile text in it begins no line.
        """
        self.output(
            an_event("internal error", level="critical", log_failure=a_failure("x\n2026 [-] all is well\x1b[2J"))
        )
        first, *rest = self.text.splitlines()
        self.assertTrue(first.endswith("#critical] internal error"))
        self.assertIn("\tTraceback (most recent call last):", rest)
        self.assertTrue(all(line.startswith("\t") for line in rest), rest)
        self.assertNotIn("\x1b", self.text)

    def test_long_text(self) -> None:
        """
        A text that is far too long is cut off.
        """
        self.output(an_event(said="x" * 10 * MAX_CHARACTERS))
        self.assertLess(len(self.text), 2 * MAX_CHARACTERS)

    def test_old_events(self) -> None:
        """
        Lines of Twisted's old log are written too, also its errors.
        """
        publisher = LogPublisher(self.output)
        globalLogPublisher.addObserver(publisher)
        self.addCleanup(globalLogPublisher.removeObserver, publisher)
        old_log.msg("an old line")
        old_log.err(a_failure(), "why it failed")
        self.flushLoggedErrors(ValueError)
        self.assertIn("[-] an old line\n", self.text)
        self.assertIn("why it failed\n\tTraceback", self.text)

    def test_no_text(self) -> None:
        """
        An event without any text is no line.
        """
        self.output({"log_time": 0.0})
        self.assertEqual("", self.text)


class JsonTests(OutputTestCase):
    """Lines for a program."""

    def setUp(self) -> None:
        super().setUp()
        self.output.use("json")

    def test_line(self) -> None:
        """
        A line is one JSON object, with the delivery's id and what differs from line to line.
        """
        self.output(
            an_event("{id}: gave up after {attempts}", level="warn", id="d1", attempts=3, error=ValueError("\n"))
        )
        [line] = self.text.splitlines()
        self.assertEqual(
            {
                "time": "1970-01-01T00:00:00.000+00:00",
                "level": "warn",
                "logger": "component_http.xmpp.stream",
                "message": "d1: gave up after 3",
                "delivery": "d1",
                "template": "{id}: gave up after {attempts}",
                "fields": {"attempts": 3, "error": "\n", "said": "nothing"},
            },
            json.loads(line),
        )

    def test_traceback(self) -> None:
        """
        A traceback is in the same line.
        """
        self.output(an_event("internal error", level="critical", log_failure=a_failure()))
        [line] = self.text.splitlines()
        self.assertIn("ValueError: no", json.loads(line)["traceback"])

    def test_hostile_text(self) -> None:
        """
        A hostile text is one line too, and ASCII.
        """
        self.output(an_event(said="\r\n\x1b[2J\u2028\ud800"))
        [line] = self.stdout.getvalue().splitlines()
        self.assertEqual("a line of \r\n\x1b[2J\u2028\ud800", json.loads(line)["message"])
        self.assertTrue(line.isascii())


class RepeatedTests(OutputTestCase):
    """Lines that repeat."""

    def test_folded(self) -> None:
        """
        A line that repeats is written once, and then with the number of times before the next one.
        """
        for _ in range(1000):
            self.output(an_event())
        self.output(an_event(said="more"))
        self.assertEqual(["a line of nothing", "a line of nothing (999 more times)", "a line of more"], self.texts)

    def test_goes_on(self) -> None:
        """
        One that repeats for ever is told again each minute.
        """
        for second in range(int(2.5 * REPEATED_FOR)):
            self.output(an_event(time=second))
        again = ["a line of nothing (59 more times)", "a line of nothing"]
        self.assertEqual(["a line of nothing", *again, *again], self.texts)

    def test_twice(self) -> None:
        """
        Lines that differ in a field, or in their level, are no repetition.
        """
        for said in ("a", "b", "a"):
            self.output(an_event(said=said))
        self.output(an_event(said="a", level="warn"))
        self.assertEqual(4, len(self.lines))

    @property
    def texts(self) -> list[str]:
        return [line.partition("] ")[2] for line in self.lines]


class Broken(BytesIO):
    """An output that takes nothing while it is broken."""

    broken = False

    def write(self, content: Any) -> int:
        if self.broken:
            raise BrokenPipeError(errno.EPIPE, "Broken pipe")
        return super().write(content)


class LostTests(SynchronousTestCase):
    """An output that takes nothing."""

    def test_told_later(self) -> None:
        """
        While the log cannot be written nothing fails, the standard error is told once, and afterwards the log says how
        much is missing.
        """
        stdout, stderr = Broken(), BytesIO()
        output = Output(stdout, stderr)
        stdout.broken = True
        for number in range(7):
            output(an_event(said=str(number)))
        self.assertEqual(
            b"component-http: the log cannot be written: Broken pipe; the gateway goes on without\n", stderr.getvalue()
        )
        stdout.broken = False
        output(an_event(said="the end"))
        lost, last = stdout.getvalue().decode().splitlines()
        self.assertIn("lines of the log that could not be written: 7", lost)
        self.assertIn("a line of the end", last)

    def test_nobody_to_tell(self) -> None:
        """
        If the standard error has gone too, nothing fails; one that is well is told once a minute at most.
        """
        stdout, stderr = Broken(), Broken()
        output = Output(stdout, stderr)
        for second in range(120):
            stdout.broken = second % 2 == 0
            stderr.broken = second < 30
            output(an_event(said=str(second), time=float(second)))
        self.assertEqual(1, stderr.getvalue().count(b"\n"))


class FileTests(OutputTestCase):
    """A log in a file."""

    def setUp(self) -> None:
        super().setUp()
        self.folder = Path(self.enterContext(tempfile.TemporaryDirectory()))
        self.file = self.folder / "the.log"

    def test_reopened(self) -> None:
        """
        A file that was moved is written until the log is opened again, and a new one from then on.
        """
        self.output.use("text", str(self.file))
        self.output(an_event(said="1"))
        moved = self.file.rename(self.folder / "the.log.1")
        self.output(an_event(said="2"))
        self.output.reopen()
        self.output(an_event(said="3"))
        self.assertEqual(2, len(moved.read_text().splitlines()))
        self.assertIn("a line of 3", self.file.read_text())
        self.assertEqual(0o640, self.file.stat().st_mode & 0o777)
        self.output.use("text")

    def test_cannot_be_reopened(self) -> None:
        """
        If it cannot be opened again, the former one is written.
        """
        file = self.folder / "folder" / "the.log"
        file.parent.mkdir()
        self.output.use("text", str(file))
        kept = file.rename(self.folder / "kept")
        file.parent.rmdir()
        self.assertRaises(OSError, self.output.reopen)
        self.output(an_event())
        self.assertIn("a line of nothing", kept.read_text())
        self.output.use("text")

    def test_cannot_be_opened(self) -> None:
        """
        If another file cannot be opened, the log goes on where it was.
        """
        self.assertRaises(OSError, self.output.use, "json", str(self.folder / "nowhere" / "the.log"))
        self.output(an_event())
        self.assertEqual(1, len(self.lines))

    def test_others_write_too(self) -> None:
        """
        What is written goes to the end of the file, also if somebody else has cut it short.
        """
        log = LogFile(str(self.file))
        log.write(b"one\n")
        self.file.write_bytes(b"")
        log.write(b"two\n")
        self.assertEqual(b"two\n", self.file.read_bytes())
        log.close()


class JournalTests(OutputTestCase):
    """A log in systemd's journal."""

    def setUp(self) -> None:
        super().setUp()
        self.path = str(Path(self.enterContext(tempfile.TemporaryDirectory()), "socket"))
        self.journal = self.a_journal()

    def a_journal(self) -> socket.socket:
        found = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(found.close)
        found.bind(self.path)
        found.setblocking(False)
        return found

    def test_line(self) -> None:
        """
        A line is a datagram of fields, with its priority and the delivery's id.
        """
        self.output.use("journald", journal=self.path)
        self.output(an_event("{id}: refused", level="warn", id="d1"))
        self.assertEqual(
            b"MESSAGE=d1: refused\nPRIORITY=4\nSYSLOG_IDENTIFIER=component-http\n"
            b"COMPONENT_HTTP_LOGGER=component_http.xmpp.stream\nCOMPONENT_HTTP_DELIVERY=d1\n",
            self.journal.recv(10_000),
        )
        self.output.use("text")

    def test_hostile_text(self) -> None:
        """
        A text is escaped, so it makes no field and journalctl shows it; a traceback has its length in front.
        """
        self.output.use("journald", journal=self.path)
        self.output(an_event(said="x\nPRIORITY=0\x1b[2J"))
        self.assertIn(b"MESSAGE=a line of x\\nPRIORITY=0\\x1b[2J\nPRIORITY=6\n", self.journal.recv(10_000))
        self.output(an_event(said="y", log_failure=Failure(ValueError("\x1b[2J"))))
        told = self.journal.recv(10_000)
        self.assertTrue(told.startswith(b"MESSAGE\n"), told)
        [size] = struct.unpack("<Q", told[8:16])
        self.assertEqual(b"\nPRIORITY=6", told[16 + size :][:11])
        self.assertIn(b"ValueError: \\x1b[2J", told[16 : 16 + size])
        self.output.use("text")

    def test_started_again(self) -> None:
        """
        A journal that is started again gets the lines from then on.
        """
        self.output.use("journald", journal=self.path)
        self.journal.close()
        self.output(an_event(said="1"))
        Path(self.path).unlink()
        journal = self.a_journal()
        self.output(an_event(said="2"))
        self.assertIn(b"could not be written: 1", journal.recv(10_000))
        self.assertIn(b"a line of 2", journal.recv(10_000))
        self.output.use("text")

    def test_not_there(self) -> None:
        """
        Without a journal it is an error.
        """
        self.assertRaises(OSError, self.output.use, "journald", journal=f"{self.path}.not")

    def test_full(self) -> None:
        """
        A journal that takes no more holds nobody up.
        """
        self.output.use("journald", journal=self.path)
        for number in range(10_000):
            self.output(an_event(said=str(number)))
        self.output.use("text")


class SettingsTests(SynchronousTestCase):
    """The table [log], and who writes the log."""

    def test_no_file_in_the_journal(self) -> None:
        """
        A log in the journal has no file.
        """
        error = self.assertRaises(SettingsError, LogSettings, format="journald", file="x.log")
        self.assertIn("log.file does not go with", str(error))

    def test_who_writes(self) -> None:
        """
        In the foreground the gateway writes the log, unless twistd was told who does.
        """
        for twistd, ours in (
            ({"nodaemon": True}, True),
            ({"nodaemon": True, "logfile": "-"}, True),
            ({"nodaemon": True, "logfile": "x.log"}, False),
            ({"nodaemon": True, "syslog": True}, False),
            ({"nodaemon": True, "logger": print}, False),
            ({"nodaemon": False}, False),
        ):
            options: Any = Options()
            options.parent = twistd
            options.postOptions()
            self.assertEqual(ours, twistd.get("logger") == f"{observer.__module__}.observer", twistd)

    def test_level_of_a_gateway(self) -> None:
        """
        What the gateway logs has what a line needs.
        """
        stdout = BytesIO()
        output = Output(stdout)
        log = Logger(observer=output)
        log.warn("{id}: a line", id="d1")
        self.assertIn(b"#warn] d1: a line\n", stdout.getvalue())
