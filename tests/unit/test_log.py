"""The level of the log, and what a line below it costs."""

from __future__ import annotations

from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from component_http.cli import main
from component_http.gateway import Gateway
from component_http.log import LEVELS, Logger, hide_addresses, set_level
from component_http.settings import ComponentSettings, LogSettings, Settings, SpoolSettings
from tests.unit.work import calls


class Speaker:
    """Logs a line of each level."""

    log = Logger()

    def speak(self) -> None:
        """Log them."""
        for level in LEVELS:
            self.log.emit(LogLevel.levelWithName(level), "a line of {said}", said=level)


class LevelTests(SynchronousTestCase):
    """The lines that are logged."""

    def setUp(self) -> None:
        self.addCleanup(set_level, "info")

    def levels(self) -> list[str]:
        """The levels of the lines that are logged."""
        with capturedLogs() as events:
            Speaker().speak()
        return [event["said"] for event in events]

    def test_below_the_level(self) -> None:
        """
        Lines below the level that was set are left out, and all others are written.
        """
        for number, level in enumerate(LEVELS):
            set_level(level)
            self.assertEqual(list(LEVELS[number:]), self.levels())

    def test_usual(self) -> None:
        """
        Without a setting there are no debug lines.
        """
        self.assertEqual(["info", "warn", "error"], self.levels())

    def test_of_a_gateway(self) -> None:
        """
        A gateway sets the level of its settings, also in an application that embeds it.
        """
        settings = Settings(
            component=ComponentSettings(domain="bot", secret="s", component_post_url="http://127.0.0.1/"),
            spool=SpoolSettings(kind="memory"),
            log=LogSettings(level="debug"),
        )
        Gateway(settings, MemoryReactorClock())
        self.assertEqual(list(LEVELS), self.levels())

    def test_addresses_of_a_gateway(self) -> None:
        """
        A gateway hides addresses if its settings say so, by the names that `component-http hash` tells.
        """
        self.addCleanup(hide_addresses, None)
        folder = Path(self.mktemp())
        folder.mkdir()
        (folder / "secret").touch(mode=0o600)
        (folder / "secret").write_text("s3cret\n")
        (file := folder / "bot.toml").write_text(
            '[component]\ndomain = "bot.example.org"\nsecret_file = "secret"\n'
            'component_post_url = "http://127.0.0.1/"\n[log]\nhash_addresses = true\n[spool]\nkind = "memory"\n'
        )
        Gateway(Settings.from_toml(file), MemoryReactorClock())
        with capturedLogs() as events:
            Speaker.log.warn("{who}", who="juliet@example.org")
        with redirect_stdout(printed := StringIO()):
            self.assertEqual(0, main(["hash", str(file), "juliet@example.org", "bot@bot.example.org/x"]))
        juliet, bot = printed.getvalue().splitlines()
        self.assertEqual(juliet, events[0]["who"])
        self.assertRegex(bot, r"^<[a-z2-7]{10}>@bot\.example\.org/<[a-z2-7]{6}>$")

    def test_mistake_is_always_told(self) -> None:
        """
        An internal error is logged at any level.
        """
        set_level("error")
        Speaker.log.failure("an internal error", failure=_failure())
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_named_after_its_class(self) -> None:
        """
        A line says which class it is from.
        """
        with capturedLogs() as events:
            Speaker().speak()
        self.assertEqual({"tests.unit.test_log.Speaker"}, {event["log_namespace"] for event in events})

    def test_left_out_costs_little(self) -> None:
        """
        A line that is left out costs three calls of functions, so a line for each stanza may stand anywhere.
        """
        speaker = Speaker()

        def speak() -> None:
            speaker.log.debug("{id}: a line", id="x")

        self.assertEqual(3, calls(speak) - calls(lambda: None))


def _failure() -> Failure:
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        return Failure()
