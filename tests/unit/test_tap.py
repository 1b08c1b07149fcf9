"""The command line of `twistd component-http`, without running one."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase

from component_http import Settings, __version__
from component_http.errors import SettingsError
from component_http.settings import reference
from component_http.tap import Options, RunOptions, exit_on_settings_error, makeService


def parsed(*arguments: str) -> Options:
    options = Options()
    options.parseOptions(arguments)
    return options


class OptionsTests(SynchronousTestCase):
    """Flags become settings."""

    def setUp(self) -> None:
        folder = Path(self.enterContext(TemporaryDirectory()))
        self.secret = folder / "secret"
        self.secret.write_text("s")
        self.config = folder / "bot.toml"
        self.config.write_text(
            '[component]\ndomain = "bot.example.org"\nsecret_file = "secret"\ncomponent_post_url = "http://h/"\n'
        )

    def refusal(self, *arguments: str) -> str:
        """What a command line that cannot be used prints, after it has ended with status 78."""
        error = io.StringIO()
        with redirect_stderr(error):
            ended = self.assertRaises(SystemExit, parsed, *arguments)
        self.assertEqual(78, ended.code)
        return error.getvalue()

    def test_flags_alone(self) -> None:
        """
        Domain, secret's file and URL are enough to run, with = or a blank between name and value.
        """
        options = parsed("--domain=bot.example.org", "--secret-file", str(self.secret), "--post-url=http://h/")
        self.assertEqual("bot.example.org", options.settings().component.domain)

    def test_file(self) -> None:
        """
        --config, or -c, names a settings file that other flags override.
        """
        self.assertEqual(Settings.from_toml(self.config), parsed("-c", str(self.config)).settings())
        options = parsed(f"--config={self.config}", "--webhook-timeout=7", "--domain", "other.example.org")
        self.assertEqual(7.0, options.settings().webhook.timeout)
        self.assertEqual("other.example.org", options.settings().component.domain)

    def test_every_flag_of_the_reference(self) -> None:
        """
        Each flag that the configuration reference has is a flag.
        """
        for row in reference():
            for flag in row.flags:
                self.assertEqual("x", parsed(f"{flag}=x")[flag.removeprefix("--")])

    def test_retired_flags(self) -> None:
        """
        A flag of an earlier version is taken, with = or a blank before its value, and passed on to twistd; --help does
        not list it.
        """
        arguments = ["--delivery-breaker-window=9", "-c", str(self.config), "--profile", "mod_component_http"]
        run = RunOptions()
        run.parseOptions(arguments)
        for options in (parsed(*arguments), run, parsed(*run.for_twistd())):
            self.assertEqual(
                ["component.profile", "delivery.breaker_window"],
                [warning.partition(" ")[0] for warning in options.settings().warnings() if "not used" in warning],
            )

    def test_values_that_look_like_flags(self) -> None:
        """
        A value that begins with -- is a value.
        """
        self.assertEqual("--secret", parsed("--domain", "--secret")["domain"])

    def test_unknown_flag(self) -> None:
        """
        A misspelt flag ends with one line that has the nearest name, and with status 78.
        """
        self.assertEqual(
            "component-http: --webhook-timeot is not a flag; did you mean --webhook-timeout?\n",
            self.refusal("--webhook-timeot=5"),
        )
        self.assertEqual(
            "component-http: --confg is not a flag; did you mean --config?\n", self.refusal("--confg", "bot.toml")
        )
        self.assertEqual("component-http: --qqq is not a flag; --help lists them all\n", self.refusal("--qqq"))

    def test_no_abbreviations(self) -> None:
        """
        The start of a flag is no flag: the next version may have another one that starts so.
        """
        self.assertEqual("component-http: --dom is not a flag; did you mean --domain?\n", self.refusal("--dom=x"))

    def test_no_flag_for_the_secret(self) -> None:
        """
        --secret is not the start of --secret-file: it is refused, and its value is not repeated.
        """
        for arguments in [("--secret", "hunter2"), ("--secret=hunter2",)]:
            line = self.refusal(*arguments)
            self.assertIn("use --secret-file or the environment variable COMPONENT_HTTP_SECRET", line)
            self.assertNotIn("hunter2", line)

    def test_other_mistakes(self) -> None:
        """
        A flag without its value, a word without a flag, an unknown letter: one line and status 78 each.
        """
        for arguments in [("--domain",), ("bot.toml",), ("-x",), ("--help=yes",), ("--", "bot.toml")]:
            line = self.refusal(*arguments)
            self.assertRegex(line, "^component-http: .*\n$")

    def test_help(self) -> None:
        """
        --help lists each flag with what it is for and its default, and says where the secret comes from.
        """
        output = io.StringIO()
        with redirect_stdout(output):
            self.assertEqual(0, self.assertRaises(SystemExit, parsed, "--help").code)
        text = " ".join(output.getvalue().split())
        for row in reference():
            for flag in row.flags:
                self.assertIn(f"{flag}=", text)
        self.assertIn("(default 60.0)", text)
        self.assertIn("(default tcp:127.0.0.1:5347)", text)
        self.assertIn("(default message; several with commas between them)", text)
        self.assertIn("COMPONENT_HTTP_SECRET", text)

    def test_version(self) -> None:
        """
        --version prints name and version, and ends well.
        """
        output = io.StringIO()
        with redirect_stdout(output):
            self.assertEqual(0, self.assertRaises(SystemExit, parsed, "--version").code)
        self.assertEqual(f"component-http {__version__}\n", output.getvalue())

    def test_make_service_checks(self) -> None:
        """
        Settings that cannot be used end in makeService: before twistd goes into the background.
        """
        self.secret.unlink()
        options = parsed("--config", str(self.config))
        error = io.StringIO()
        with redirect_stderr(error):
            ended = self.assertRaises(SystemExit, makeService, options)
        self.assertEqual(78, ended.code)
        self.assertIn("component.secret_file", error.getvalue())
        self.assertEqual(1, error.getvalue().count("\n"))


class ExitTests(SynchronousTestCase):
    """What a `.tac` uses to end as twistd does."""

    def test_one_sentence(self) -> None:
        """
        Settings that cannot be used become one line on standard error and status 78.
        """
        error = io.StringIO()
        with redirect_stderr(error), self.assertRaises(SystemExit) as ended, exit_on_settings_error():
            raise SettingsError("x is y, but must be z")
        self.assertEqual(78, ended.exception.code)
        self.assertEqual("component-http: x is y, but must be z\n", error.getvalue())

    def test_other_errors_pass(self) -> None:
        """
        Any other error is a bug, and stays a traceback.
        """
        with self.assertRaises(ZeroDivisionError), exit_on_settings_error():
            raise ZeroDivisionError
