"""The command `component-http`."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from component_http import __version__
from component_http.cli import main


@frozen
class Ended:
    """How a command ended, and what it printed where."""

    status: object
    output: str
    error: str


def run(*arguments: str) -> Ended:
    output, error = io.StringIO(), io.StringIO()
    with redirect_stdout(output), redirect_stderr(error):
        try:
            status: object = main(arguments)
        except SystemExit as ended:
            status = ended.code
    return Ended(status, output.getvalue(), error.getvalue())


class CheckTests(SynchronousTestCase):
    """`component-http check FILE`."""

    def setUp(self) -> None:
        folder = Path(self.enterContext(TemporaryDirectory()))
        (folder / "secret").write_text("hunter2")
        (folder / "secret").chmod(0o600)
        self.file = folder / "bot.toml"

    def write(self, url: str = "http://127.0.0.1/", more: str = "") -> None:
        self.file.write_text(
            f'[component]\ndomain = "Bot.example.org"\nsecret_file = "secret"\ncomponent_post_url = "{url}"\n{more}'
        )

    def test_template_that_is_none(self) -> None:
        """
        A template that cannot be used is told with its line.
        """
        (self.file.parent / "own.j2").write_text("{{ payload")
        (self.file.parent / "hook").write_text("0123456789abcdef")
        self.write(more='[[api.hook]]\nname = "own"\nsecret_file = "hook"\nto = "a@b"\ntemplate_file = "own.j2"\n')
        ended = run("check", str(self.file))
        self.assertEqual(78, ended.status)
        self.assertIn("the template of api.hook own, line 1: not a Jinja2 template", ended.error)

    def test_good(self) -> None:
        """
        A file that can be used is told with what it serves, and the status is 0.
        """
        self.write()
        self.assertEqual(
            Ended(0, f"{self.file}: ok: bot.example.org at tcp:127.0.0.1:5347, message to http://127.0.0.1\n", ""),
            run("check", str(self.file)),
        )

    def test_warnings_and_no_secrets(self) -> None:
        """
        What should be better is told too; no more of the URL is shown than scheme, host and port.
        """
        self.write("https://user:hunter2@h/hunter2?token=hunter2")
        ended = run("check", str(self.file))
        self.assertEqual(0, ended.status)
        self.assertIn("message to https://h\n", ended.output)
        self.assertIn(f"\n{self.file}: warning: component.component_post_url", ended.output)
        self.assertNotIn("hunter2", ended.output)

    def test_api_and_spool(self) -> None:
        """
        Where the API listens is told too, and a folder for the spool that still has to be made.
        """
        self.write(more='[api]\nlisten = "tcp:5280:interface=127.0.0.1"\n[spool]\npath = "none/spool"\n')
        ended = run("check", str(self.file))
        self.assertEqual(0, ended.status)
        self.assertIn(", message to http://127.0.0.1, the API at tcp:5280:interface=127.0.0.1\n", ended.output)
        self.assertIn(f"but there is no folder {self.file.parent / 'none'}: make it before the start\n", ended.output)

    def test_bad(self) -> None:
        """
        A file that cannot be used gets its sentence on standard error, and the status is 78.
        """
        self.write(more="[webhook]\ntimeout = 0\n")
        self.assertEqual(
            Ended(
                78,
                "",
                f"component-http: {self.file}: webhook.timeout is 0, but must be a number from 0.1 to 3600 (seconds)\n",
            ),
            run("check", str(self.file)),
        )

    def test_no_webhook(self) -> None:
        """
        A gateway needs the URL of a webhook.
        """
        self.file.write_text('[component]\ndomain = "bot.example.org"\nsecret_file = "secret"\n')
        ended = run("check", str(self.file))
        self.assertEqual(78, ended.status)
        self.assertIn(f"{self.file}: component.component_post_url is missing: add", ended.error)

    def test_not_there(self) -> None:
        """
        A file that is not there is told by name, and the status is 78.
        """
        ended = run("check", str(self.file))
        self.assertEqual(78, ended.status)
        self.assertIn(f"{self.file} cannot be read: No such file or directory\n", ended.error)


class CommandTests(SynchronousTestCase):
    """What there is beside check."""

    def test_version(self) -> None:
        """
        --version prints the same as twistd component-http --version.
        """
        self.assertEqual(Ended(0, f"component-http {__version__}\n", ""), run("--version"))

    def test_nothing(self) -> None:
        """
        Without a command there is help, which says how the gateway itself is run.
        """
        ended = run()
        self.assertEqual(0, ended.status)
        self.assertIn("twistd component-http", ended.output)
        for command in ("check", "playground", "letters", "spool"):
            self.assertRegex(ended.output, rf"\n    {command}\s")

    def test_playground_needs_a_bot(self) -> None:
        """
        The playground asks for the bot's URL, or for a settings file that has it.
        """
        ended = run("playground")
        self.assertEqual(78, ended.status)
        self.assertIn("--post-url is missing: add --post-url=http://127.0.0.1:8080/, or --config=FILE", ended.error)
