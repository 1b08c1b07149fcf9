"""What the service manager is told."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import evolve
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from component_http.delivery.status import Status
from component_http.operations.service_manager import (
    LOOK,
    MAX_CHARACTERS,
    ServiceManager,
    notify,
    sentence,
    watchdog_interval,
)
from component_http.operations.view import ComponentView

WELL = ComponentView(Status(0, 0, 0, "closed", ()), True, 0, {})


def failing(failure: str, *obstacles: str) -> ComponentView:
    return evolve(WELL, status=Status(3, 0, 0, "open", obstacles, failing_for=4.0, last_failure=failure))


class SentenceTests(SynchronousTestCase):
    """The state in a sentence."""

    def test_well(self) -> None:
        """
        Where all is well, it says what is served.
        """
        self.assertEqual("serving bot.example.org", sentence({"bot.example.org": WELL}))
        self.assertEqual("serving 2 components", sentence({"a.example.org": WELL, "b.example.org": WELL}))
        self.assertEqual("serving 0 components", sentence({}))

    def test_troubles(self) -> None:
        """
        It says all that is wrong, and of several components with which.
        """
        away = evolve(failing("HTTP status 503", "the disk is full"), connected=False)
        troubles = "there is no stream to the XMPP server; the webhook fails (HTTP status 503); the disk is full"
        self.assertEqual(f"serving a.example.org; {troubles}", sentence({"a.example.org": away}))
        self.assertEqual(
            f"serving 2 components; b.example.org: {troubles}",
            sentence({"a.example.org": WELL, "b.example.org": away}),
        )
        self.assertIn("the gateway is not running", sentence({"a.example.org": evolve(WELL, status=None)}))

    def test_hostile_text(self) -> None:
        """
        Nobody can tell the service manager something of his own, and a long text is cut.
        """
        text = sentence({"bot.example.org": failing("\x1b[2J\nMAINPID=1\r\nREADY=1" + "x" * 1000)})
        self.assertTrue(text.isprintable())
        self.assertEqual(MAX_CHARACTERS, len(text))


class WatchdogTests(SynchronousTestCase):
    """Signs of life."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.told: list[str] = []
        self.state = "serving bot.example.org"
        self.answers: list[Deferred[None]] = []

    def start(self, interval: float | None = 10.0, *, answers: bool = True) -> None:
        def answer() -> Deferred[None]:
            self.answers.append(succeed(None) if answers else Deferred())
            return self.answers[-1]

        ServiceManager(self.clock, lambda: self.state, answer, interval, self.told.append)

    def test_state(self) -> None:
        """
        The state is told at first, and again when it has changed.
        """
        self.start(None)
        self.clock.pump([LOOK] * 5)
        self.state = "serving nobody"
        self.clock.pump([LOOK] * 5)
        self.assertEqual(["STATUS=serving bot.example.org", "STATUS=serving nobody"], self.told)
        self.assertEqual([], self.answers)

    def test_alive(self) -> None:
        """
        While the spool answers, the watchdog gets a sign of life at each interval.
        """
        self.start()
        self.clock.pump([1.0] * 30)
        self.assertEqual(4, self.told.count("WATCHDOG=1"))

    def test_spool_that_hangs(self) -> None:
        """
        While the spool does not answer there is none, and nothing piles up; it answers late, and they go on.
        """
        self.start(answers=False)
        self.clock.pump([1.0] * 35)
        self.assertNotIn("WATCHDOG=1", self.told)
        [asked] = self.answers
        asked.callback(None)
        self.assertEqual(1, self.told.count("WATCHDOG=1"))
        self.clock.advance(5.0)
        self.assertEqual(2, len(self.answers))

    def test_interval(self) -> None:
        """
        There are signs at half of the time that systemd names, if it means this process.
        """
        self.assertEqual(30.0, watchdog_interval({"WATCHDOG_USEC": "60000000"}, 7))
        self.assertEqual(30.0, watchdog_interval({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, 7))
        self.assertIsNone(watchdog_interval({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"}, 7))
        for wrong in ("", "0", "-1", "x", "1.5", "9" * 400):
            self.assertIsNone(watchdog_interval({"WATCHDOG_USEC": wrong}, 7), wrong)
        self.assertIsNone(watchdog_interval({}, 7))


class NotifyTests(SynchronousTestCase):
    """The socket of the service manager."""

    def setUp(self) -> None:
        self.path = Path(self.enterContext(TemporaryDirectory())) / "notify"

    @contextmanager
    def named(self, name: str) -> Iterator[None]:
        before = os.environ.get("NOTIFY_SOCKET")
        os.environ["NOTIFY_SOCKET"] = name
        try:
            yield
        finally:
            del os.environ["NOTIFY_SOCKET"]
            if before is not None:
                os.environ["NOTIFY_SOCKET"] = before

    def test_told(self) -> None:
        """
        A state reaches the socket, also an abstract one; what is no UTF-8 is told all the same.
        """
        for name, address in ((str(self.path), str(self.path)), ("@component-http-test", "\0component-http-test")):
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, self.named(name):
                manager.bind(address)
                notify("STATUS=\ud800")
                self.assertEqual(b"STATUS=?", manager.recv(100))

    def test_nobody_there(self) -> None:
        """
        A socket that is wrong, gone, or read by nobody, hinders nothing.
        """
        for name in ("", "no path", str(self.path), f"/{'x' * 200}", "/", "@"):
            with self.named(name):
                notify("READY=1")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, self.named(str(self.path)):
            manager.bind(str(self.path))
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
                other.setblocking(False)
                with self.assertRaises(BlockingIOError):
                    while other.sendto(b"x", str(self.path)):
                        pass
            notify("READY=1")
