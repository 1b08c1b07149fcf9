"""The command `component-http`."""

from __future__ import annotations

import io
import os
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import evolve, frozen
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from twisted.trial.unittest import SynchronousTestCase

from component_http import __version__
from component_http.cli import main
from tests.certificates import Authority

ROOT = Path(__file__).parents[2]
PLACES = ("examples", "docs/examples")


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


def without_note(ended: Ended) -> Ended:
    """The same without what is only said to root."""
    lines = ended.output.splitlines(keepends=True)
    return evolve(ended, output="".join(line for line in lines if ": note: root" not in line))


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
            without_note(run("check", str(self.file))),
        )

    def test_files_with_certificates(self) -> None:
        """
        A file for TLS that cannot be used, with which no gateway would start, is told; of a certificate of ours the
        days that are left.
        """
        own, other = self.file.parent / "own.pem", self.file.parent / "other.pem"
        for file in (own, other):
            file.write_bytes(Authority().certified("bot.example.org"))
            file.chmod(0o600)
        locked = load_pem_private_key(own.read_bytes(), None).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hunter2")
        )
        (self.file.parent / "locked.pem").write_bytes(locked)
        for more, words in (
            (
                '[webhook]\nclient_certificate = "own.pem"\nclient_key = "locked.pem"',
                'the key in "{0}/locked.pem", for webhook.client_certificate, has a passphrase',
            ),
            (
                '[api]\nlisten = "ssl:8443:privateKey=locked.pem:certKey=own.pem"',
                'the key in "{0}/locked.pem", for api.listen, has a passphrase',
            ),
            ('[webhook]\nca_file = "none.pem"', 'webhook.ca_file "{0}/none.pem" cannot be read: No such file'),
            (
                '[webhook]\nclient_certificate = "own.pem"\nclient_key = "other.pem"',
                'webhook.client_certificate "{0}/own.pem" and the key in "{0}/other.pem" do not fit each other',
            ),
            (
                '[api]\nlisten = "ssl:8443:privateKey=other.pem:certKey=own.pem"',
                'the certificate in "{0}/own.pem" and the key in "{0}/other.pem", which api.listen names, do not fit',
            ),
            (
                '[api]\nlisten = "ssl:8443:own.pem:own.pem"\nclient_ca_file = "none.pem"',
                'api.client_ca_file "{0}/none.pem" cannot be read',
            ),
            (
                '[operations]\nlisten = "ssl:9347:own.pem:own.pem"\nclient_ca_file = "none.pem"',
                'operations.client_ca_file "{0}/none.pem" cannot be read',
            ),
            (
                '[api]\nlisten = "tcp:8347:interface=127.0.0.1"\nclient_ca_file = "own.pem"',
                "api.client_ca_file asks no client for a certificate at this api.listen",
            ),
        ):
            self.write("https://bot.example.org/", more=more.replace("[api]", '[api]\nurl = "https://h"'))
            for command in ("check", "doctor"):
                ended = run(command, str(self.file))
                self.assertEqual(78, ended.status, ended)
                self.assertIn(words.format(self.file.parent), ended.error)
        self.write("https://bot.example.org/", more='[webhook]\nclient_certificate = "own.pem"')
        ended = run("check", str(self.file))
        self.assertIn(f'ok: the certificate in webhook.client_certificate "{own}" ends in 1 days\n', ended.output)

    def test_same_flags_as_the_gateway(self) -> None:
        """
        check takes the flags of the gateway, before the file or behind it, or without any file.
        """
        self.write()
        ready = "x.example.org at tcp:127.0.0.1:5347, message to http://127.0.0.1"
        secret = str(self.file.parent / "secret")
        flags = ("--domain", "x.example.org", f"--secret-file={secret}")
        for arguments in (
            (*flags, str(self.file)),
            (str(self.file), *flags),
            (*flags, "--config", str(self.file)),
            ("-c", str(self.file), *flags),
        ):
            self.assertEqual(
                Ended(0, f"{self.file}: ok: {ready}\n", ""), without_note(run("check", *arguments)), arguments
            )
        ended = run("check", *flags, "--post-url=http://127.0.0.1/")
        self.assertTrue(ended.output.startswith(f"ok: {ready}\n"), ended)

    def test_wrong_command_line(self) -> None:
        """
        What is wrong on the command line is told like what is wrong in the file, all of it.
        """
        self.write()
        ended = run("check", str(self.file), "--webhook-timeot=5", "--domian", "x", "--secret-file")
        self.assertEqual(78, ended.status)
        self.assertEqual(
            [
                "component-http: --webhook-timeot is not a flag; did you mean --webhook-timeout?",
                "component-http: --domian is not a flag; did you mean --domain?",
                "component-http: --secret-file needs a value behind it",
            ],
            [line for line in ended.error.splitlines() if "--" in line],
        )
        for arguments, expected in (
            ((str(self.file), "other.toml"), '"other.toml" is one word too many'),
            ((str(self.file), "--config=other.toml"), "is named twice"),
            ((str(self.file), "--user=no-such-user"), 'is "no-such-user", but this machine has no such user'),
        ):
            ended = run("check", *arguments)
            self.assertEqual(78, ended.status)
            self.assertIn(expected, ended.error)

    def test_all_at_once(self) -> None:
        """
        All that is wrong with the files is told, a line each, with status 78.
        """
        (self.file.parent / "secret").unlink()
        self.write(
            more='[webhook]\nbearer_token_file = "bearer"\n[[api.token]]\nname = "ops"\ntoken_file = "ops-token"\n'
        )
        ended = run("check", str(self.file))
        self.assertEqual(78, ended.status)
        self.assertEqual(
            3,
            ended.error.count("cannot be read: No such file or directory; make the file, or correct its path\n"),
            ended.error,
        )

    def test_own_user(self) -> None:
        """
        Everybody may check for himself.
        """
        self.write()
        self.assertEqual(0, run("check", str(self.file), f"--user={os.getuid()}").status)
        missing = self.file.parent / "none"
        ended = run("check", str(self.file), f"--user={os.getuid()}", f"--spool-path={missing}/spool")
        self.assertIn(f"there is no folder {missing}", ended.output)

    def test_no_webhook(self) -> None:
        """
        A gateway that only sends is told to have no webhook.
        """
        self.write(more='[api]\nlisten = "tcp:8347:interface=127.0.0.1"\n')
        self.file.write_text(self.file.read_text().replace("component_post_url", "#"))
        ended = run("check", str(self.file))
        self.assertIn("5347, no webhook, the API at tcp:8347:interface=127.0.0.1\n", ended.output)

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
        self.write(more='[api]\nlisten = "tcp:8347:interface=127.0.0.1"\n[spool]\npath = "none/spool"\n')
        ended = run("check", str(self.file))
        self.assertEqual(0, ended.status)
        self.assertIn(", message to http://127.0.0.1, the API at tcp:8347:interface=127.0.0.1\n", ended.output)
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

    def test_neither_webhook_nor_api(self) -> None:
        """
        A gateway needs the URL of a webhook, or an API.
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
        self.assertEqual(
            f"component-http: {self.file} cannot be read: No such file or directory; make the file, or correct its"
            " path\n",
            ended.error,
        )


class CommandTests(SynchronousTestCase):
    """What there is beside check."""

    def test_version(self) -> None:
        """
        --version prints the same as twistd component-http --version.
        """
        self.assertEqual(Ended(0, f"component-http {__version__}\n", ""), run("--version"))

    def test_nothing(self) -> None:
        """
        Without a command there is help, which says how the gateway is run.
        """
        ended = run()
        self.assertEqual(0, ended.status)
        self.assertIn("run the gateway in the foreground", ended.output)
        for command in ("run", "check", "example", "playground", "letters", "spool"):
            self.assertRegex(ended.output, rf"\n    {command}\s")

    def test_playground_needs_a_bot(self) -> None:
        """
        The playground asks for the bot's URL, or for a settings file that has it.
        """
        ended = run("playground")
        self.assertEqual(78, ended.status)
        self.assertIn("--post-url is missing: add --post-url=http://127.0.0.1:8080/, or --config=FILE", ended.error)

    def test_help_of_run_and_check(self) -> None:
        """
        Both show how they are called, with every flag.
        """
        for command in ("run", "check"):
            ended = run(command, "--help")
            self.assertEqual(0, ended.status)
            self.assertIn(f"Usage: component-http {command} [FILE] [options]", ended.output)
            self.assertIn("--webhook-timeout=", ended.output)

    def test_run_refuses_wrong_settings(self) -> None:
        """
        run ends with status 78 and the same sentences as check.
        """
        ended = run("run", "none.toml")
        sentence = "none.toml cannot be read: No such file or directory; make the file, or correct its path"
        self.assertEqual(Ended(78, "", f"component-http: {sentence}\n"), ended)


class ExampleTests(SynchronousTestCase):
    """`component-http example`."""

    def setUp(self) -> None:
        self.folder = Path(self.enterContext(TemporaryDirectory()))

    def test_list(self) -> None:
        """
        Without a name there is a list, and each example of it is written by its name or by that of its file.
        """
        listed = [line.split()[:2] for line in run("example").output.splitlines()]
        self.assertEqual(["python", "php", "node", "settings", "systemd", "tac"], [name for name, _ in listed])
        for number, names in enumerate(zip(*listed, strict=True)):
            into = self.folder / str(number)
            self.assertEqual(0, run("example", *names, "--into", str(into)).status)
            self.assertEqual({file for _, file in listed}, {path.name for path in into.iterdir()})

    def test_same_as_in_the_source_tree(self) -> None:
        """
        What is written is what the source tree and the documents show.
        """
        names = [line.split()[0] for line in run("example").output.splitlines()]
        run("example", *names, "--into", str(self.folder))
        for path in self.folder.iterdir():
            [source] = [ROOT / place / path.name for place in PLACES if (ROOT / place / path.name).exists()]
            self.assertEqual(source.read_bytes(), path.read_bytes())

    def test_nothing_is_overwritten(self) -> None:
        """
        A file that is there stays as it is, and nothing else is written either, unless --force is given.
        """
        bot = self.folder / "echo_bot.py"
        bot.write_text("mine")
        ended = run("example", "php", "python", "--into", str(self.folder))
        self.assertEqual(
            Ended(1, "", f"component-http: {bot} is there already: --force replaces it\n"),
            ended,
        )
        self.assertEqual(([bot], "mine"), (list(self.folder.iterdir()), bot.read_text()))
        self.assertEqual(0, run("example", "python", "--into", str(self.folder), "--force").status)
        self.assertIn("An echo bot", bot.read_text())

    def test_what_cannot_be_written(self) -> None:
        """
        A name that is none, and a folder that cannot be used, are told.
        """
        self.assertIn("there is no example ruby", run("example", "ruby").error)
        file = self.folder / "file"
        file.write_text("")
        ended = run("example", "php", "--into", str(file))
        self.assertEqual(1, ended.status)
        self.assertIn("cannot be written: ", ended.error)
