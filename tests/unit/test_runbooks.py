"""The runbooks of docs/operations.md, carried out word for word."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase

from component_http import __version__
from component_http.cli import main
from component_http.errors import SettingsError
from component_http.spool.database import SpoolLock, lock, prepare
from component_http.spool.schema import SCHEMA, Schema
from tests.unit.dead_letters import add, changing, look, new_spool
from tests.unit.test_docs import DOCS, blocks

NEWER: Schema = {**SCHEMA, max(SCHEMA) + 1: ("CREATE TABLE made_later (number INTEGER)",)}
"""The schema of a later version."""

UNIT = "component-http@bot"

SETTINGS = """
[component]
domain = "bot.example.org"
component_post_url = "http://127.0.0.1:8080/"
[spool]
path = "/var/lib/component-http/bot/component-http.sqlite3"
"""


def of_any_run(text: str) -> str:
    """Text without what differs from one run to the next."""
    for pattern, instead in (
        (r"[0-9.]+ (KiB|MiB|B)\b", "N KiB"),
        (r"[0-9]{8}T[0-9]{6}", "THEN"),
        (r"process [0-9]+", "process N"),
    ):
        text = re.sub(pattern, instead, text)
    return text


class Host:
    """
    A machine in a folder. Its gateway does with the spool what a start does: it takes the lock, and reads the file.

    Attributes:
        installed: The schema of the version that is installed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.installed = SCHEMA
        self._lock: SpoolLock | None = None
        self.spool = self.place("/var/lib/component-http/bot/component-http.sqlite3")

    def place(self, path: str) -> Path:
        return Path(self.here(path))

    def here(self, text: str) -> str:
        """The text with this machine's folder in front of its paths."""
        return re.sub(r"(?<![\w/.:])/(?=(?:etc|var|root|opt)/)", f"{self.folder}/", text)

    def without_folder(self, text: str) -> str:
        return text.replace(str(self.folder), "")

    def start(self) -> None:
        self._lock = lock(self.spool)
        try:
            prepare(self.spool, schema=self.installed)
        except SettingsError:
            self.stop()
            raise

    def stop(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def systemctl(self, verb: str, *words: str) -> None:
        assert words[-1] == UNIT, words
        if verb in ("stop", "disable", "restart"):
            self.stop()
        if verb in ("start", "enable", "restart"):
            self.start()

    def pip(self, *words: str) -> None:
        assert words[0] == "install", words
        newer, older = ["-U", "component-http"], [f"component-http=={__version__}"]
        self.installed = {tuple(newer): NEWER, tuple(older): SCHEMA}[words[1:]]


class RunbookTests(SynchronousTestCase):
    """The commands do what the page says, and print what it shows."""

    def setUp(self) -> None:
        self.folder = Path(self.enterContext(TemporaryDirectory()))
        self.host = self.new_host("old")
        for name in ("/etc/component-http", "/var/lib/component-http/bot", "/var/backups"):
            self.host.place(name).mkdir(parents=True)
        self.host.place("/etc/component-http/bot.toml").write_text(SETTINGS)
        self.host.place("/etc/component-http/bot.secret").write_text("change-me\n")
        new_spool(self.host.spool)
        add(self.host.spool, "d1")
        self.run_command(self.host, "component-http letters retry d1 --config /etc/component-http/bot.toml")
        self.host.start()

    def new_host(self, name: str) -> Host:
        host = Host(self.folder / name)
        self.addCleanup(host.stop)
        (host.folder / "root").mkdir(parents=True)
        return host

    def pending(self, host: Host) -> list[str]:
        return [row[0] for row in look(host.spool, "SELECT id FROM deliveries")]

    def run_command(self, host: Host, command: str) -> tuple[int, str]:
        """Carry a command out; returns its status, and what it has printed."""
        # The settings name paths, too.
        settings = host.place("/etc/component-http/bot.toml")
        if settings.exists():
            settings.write_text(host.here(self.host.without_folder(settings.read_text())))
        program, *words = shlex.split(host.here(command))
        status, output = 0, StringIO()
        if program == "component-http":
            with redirect_stdout(output), redirect_stderr(output):
                try:
                    status = main(words)
                except SystemExit as ended:
                    status = int(str(ended.code))
        elif program == "systemctl":
            host.systemctl(*words)
        elif program == host.here("/opt/component-http/bin/pip"):
            host.pip(*words)
        elif program == "scp":
            *names, target = words
            for name in names:
                shutil.copy(name, self.folder / target.replace(":", "/"))
        else:
            self.assertIn(program, ("mkdir", "mv"))
            subprocess.run([program, *words], check=True)
        return status, host.without_folder(output.getvalue())

    def carry_out(self, name: str, **hosts: Host) -> None:
        """Carry a runbook out; its commands begin with `#`, or with the name of a host and `#`."""
        found = [block for block in blocks("console", DOCS / "operations.md") if block.label == f"runbook: {name}"]
        self.assertNotEqual([], found)
        for block in found:
            for prompt, command, shown in re.findall(r"(?m)^(\w*)# (.*)\n((?:(?!\w*# ).*\n)*)", block.text):
                status, printed = self.run_command(hosts[prompt] if prompt else self.host, command)
                if shown:
                    self.assertEqual(of_any_run(shown), of_any_run(printed))
                self.assertEqual(78 if shown.startswith("component-http: ") else 0, status, printed)

    def test_back_up_and_restore(self) -> None:
        """
        A backup is made while the gateway runs; nothing is restored while it does; then a delivery that has ended
        since is there again.
        """
        self.carry_out("back up")
        self.assertEqual(0o600, self.host.place("/var/backups/bot.sqlite3").stat().st_mode & 0o777)
        with changing(self.host.spool) as connection:
            connection.execute("DELETE FROM deliveries")
        self.carry_out("restore in use")
        self.assertEqual([], self.pending(self.host))
        self.carry_out("restore")
        self.assertEqual(["d1"], self.pending(self.host))

    def test_move(self) -> None:
        """
        What waits on one host waits on another.
        """
        new = self.new_host("new")
        self.carry_out("move", old=self.host, new=new)
        self.assertEqual(["d1"], self.pending(new))
        self.host.start()  # it is not in use any more

    def test_upgrade_and_downgrade(self) -> None:
        """
        After an upgrade the older version says why it cannot start, and goes on with the backup; the later version can
        go on with what it had.
        """
        self.carry_out("upgrade")
        self.assertEqual([(max(NEWER),)], look(self.host.spool, "PRAGMA user_version"))
        self.host.stop()
        self.host.installed = SCHEMA
        refused = self.assertRaises(SettingsError, self.host.start)
        [sentence] = [block.text for block in blocks("text", DOCS / "operations.md") if "older version" in block.label]
        self.assertEqual(sentence, self.host.without_folder(f"{refused}\n"))
        self.host.installed = NEWER
        self.host.start()
        self.carry_out("downgrade")
        self.assertEqual([(max(SCHEMA),)], look(self.host.spool, "PRAGMA user_version"))
        self.assertEqual(["d1"], self.pending(self.host))
        self.host.stop()
        [aside] = self.host.spool.parent.glob("*.replaced-*")
        prepare(aside, schema=NEWER)
        self.assertEqual(["d1"], [row[0] for row in look(aside, "SELECT id FROM deliveries")])
