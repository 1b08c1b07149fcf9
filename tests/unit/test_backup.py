"""Backups of a spool, and their way back."""

from __future__ import annotations

import os
import resource
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

from twisted.trial.unittest import SynchronousTestCase

from component_http.errors import SettingsError, SpoolError, SpoolUnusable
from component_http.spool.backup import back_up, restore
from component_http.spool.database import lock, prepare
from component_http.spool.schema import SCHEMA
from tests.disks import NoSmallDisk, SmallDisk
from tests.integration.counterparts import unusable
from tests.unit.dead_letters import add, changing, look, new_spool
from tests.unit.test_cli import Ended, run


class BackupCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(TemporaryDirectory()))
        self.path = new_spool(self.folder / "spool.sqlite3")
        self.copy = self.folder / "copy"
        add(self.path, "d1")

    def letters(self, path: Path) -> list[str]:
        return [row[0] for row in look(path, "SELECT id FROM letters ORDER BY number")]

    def names(self) -> set[str]:
        return {path.name for path in self.folder.iterdir()}


class BackupTests(BackupCase):
    """`component-http spool backup`."""

    def test_whole(self) -> None:
        """
        A copy is one file, private to its user, a spool of the same version, and has no trace of what was deleted.
        """
        add(self.path, "d2", body=b"a secret" * 1000)
        with changing(self.path) as connection:
            connection.execute("DELETE FROM letters WHERE id = 'd2'")
        old = os.umask(0)
        self.addCleanup(os.umask, old)
        written = back_up(self.path, self.copy)
        self.assertEqual(written, self.copy.stat().st_size)
        self.assertEqual(0o600, stat.S_IMODE(self.copy.stat().st_mode))
        self.assertNotIn(b"a secret", self.copy.read_bytes())
        self.assertEqual(["d1"], self.letters(self.copy))
        self.assertEqual(["ok"], [row[0] for row in look(self.copy, "PRAGMA integrity_check")])
        prepare(self.copy)

    def test_beside_a_writer(self) -> None:
        """
        A gateway in the middle of a transaction is not waited for, and its transaction is in the copy or is not.
        """
        with changing(self.path) as writer:
            writer.execute("BEGIN IMMEDIATE")
            writer.execute("UPDATE letters SET id = 'd9'")
            back_up(self.path, self.copy, patience=0.0)
            writer.execute("COMMIT")
        self.assertEqual(["d1"], self.letters(self.copy))
        self.assertEqual(["d9"], self.letters(self.path))

    def test_replaces_nothing(self) -> None:
        """
        What has the name already, were it a link to nothing, is not touched.
        """
        (self.folder / "link").symlink_to(self.folder / "nothing")
        (self.folder / "file").write_text("precious")
        for name in ("link", "file", "spool.sqlite3", "."):
            refused = self.assertRaises(SettingsError, back_up, self.path, self.folder / name)
            self.assertIn("is there already, and a backup replaces nothing: name another file", str(refused))
        self.assertEqual("precious", (self.folder / "file").read_text())
        self.assertEqual({"link", "file", "spool.sqlite3"}, self.names() - {"spool.sqlite3-wal", "spool.sqlite3-shm"})

    def test_command(self) -> None:
        """
        The command says what it wrote, or why not, in one line each.
        """
        place = ["--spool", str(self.path)]
        ended = run("spool", "backup", str(self.copy), *place)
        self.assertEqual((0, ""), (ended.status, ended.error))
        self.assertRegex(ended.output, rf"^wrote {self.copy}, [0-9.]+ KiB\n$")
        nowhere = self.folder / "no" / "copy"
        self.assertEqual(
            Ended(78, "", f"component-http: {nowhere} cannot be written: No such file or directory\n"),
            run("spool", "backup", str(nowhere), *place),
        )
        gone = self.folder / "gone"
        self.assertEqual(78, run("spool", "backup", str(gone), "--spool", str(gone)).status)

    def test_full_disk(self) -> None:
        """
        Without room for a copy a sentence says so, and nothing is left of it.
        """
        add(self.path, "d2", body=os.urandom(2_000_000))
        try:
            with SmallDisk(4096) as disk:
                disk.fill(leave=1_000_000)
                refused = self.assertRaises(SpoolError, back_up, self.path, disk.folder / "copy")
                self.assertRegex(str(refused), "cannot be written: it may take [0-9]+ bytes, and its disk has room for")
                self.assertEqual([], [path.name for path in disk.folder.iterdir() if "copy" in path.name])
        except NoSmallDisk as error:
            unusable(str(error))

    def test_fails_in_the_middle(self) -> None:
        """
        Where the copy cannot be written to its end, a sentence says so, and nothing is left of it.
        """
        add(self.path, "d2", body=os.urandom(2_000_000))
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, limits[1]))
        try:
            refused = self.assertRaises(SpoolError, back_up, self.path, self.copy)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        self.assertIn(f"{self.copy} cannot be written: ", str(refused))
        self.assertEqual([], [name for name in self.names() if "copy" in name])


class RestoreTests(BackupCase):
    """`component-http spool restore`."""

    def setUp(self) -> None:
        super().setUp()
        back_up(self.path, self.copy)
        add(self.path, "d2")

    def refusal(self, source: Path, **arguments: object) -> str:
        """The sentence of a restore that is refused, and that changes nothing."""
        refused = self.assertRaises(SettingsError, restore, source, self.path, **arguments)
        self.assertEqual(["d1", "d2"], self.letters(self.path))
        self.assertEqual([], [name for name in self.names() if name.startswith(".") or "replaced" in name])
        return str(refused)

    def test_replaced(self) -> None:
        """
        What was there is renamed, with all that belongs to it, and can be used under its new name.
        """
        with closing(sqlite3.connect(self.path)) as reader:  # so that the log stays
            reader.execute("SELECT count(*) FROM letters").fetchall()
            add(self.path, "d3")
            self.assertIn("spool.sqlite3-wal", self.names())
            aside = restore(self.copy, self.path)
        assert aside is not None
        self.assertEqual(["d1"], self.letters(self.path))
        self.assertEqual(["d1", "d2", "d3"], self.letters(aside))
        self.assertEqual(0o600, stat.S_IMODE(self.path.stat().st_mode))
        self.assertIsNone(restore(self.copy, self.folder / "new"))
        self.assertEqual(["d1"], self.letters(self.folder / "new"))

    def test_in_use(self) -> None:
        """
        While a gateway has the spool it stays as it is, and the sentence names the process.
        """
        held = lock(self.path)
        self.addCleanup(held.release)
        self.assertEqual(
            f"the spool {self.path} is in use by a gateway (process {os.getpid()}): stop that one, and then restore",
            self.refusal(self.copy),
        )

    def test_no_backup(self) -> None:
        """
        Whatever is no backup of a spool, or is damaged, is refused.
        """
        other, cut, rubbish = self.folder / "other", self.folder / "cut", self.folder / "rubbish"
        with changing(other) as connection:
            connection.execute("CREATE TABLE other (number INTEGER)")
        cut.write_bytes(self.copy.read_bytes()[:20_000])
        rubbish.write_bytes(b"rubbish" * 1000)
        (self.folder / "empty").touch()
        self.assertIn("is damaged, or is no spool", self.refusal(cut))
        self.assertIn("is damaged, or is no spool", self.refusal(rubbish))
        self.assertIn("is empty, and no backup of a spool", self.refusal(self.folder / "empty"))
        self.assertIn("is a database of another program", self.refusal(other))
        self.assertIn("cannot be read: No such file or directory", self.refusal(self.folder / "missing"))
        self.assertIn("cannot be read: Is a directory", self.refusal(self.folder))

    def test_versions(self) -> None:
        """
        A backup of a later version is refused, and one of an earlier version restored; a backup is made of any.
        """
        earlier = {number: SCHEMA[number] for number in SCHEMA if number < max(SCHEMA)}
        self.assertIn("was written by a later version", self.refusal(self.copy, schema=earlier))
        with changing(self.path) as connection:
            for version in (max(SCHEMA) + 1, max(SCHEMA) - 1):
                connection.execute(f"PRAGMA user_version = {version}")
                back_up(self.path, self.folder / f"of-{version}")
        restore(self.folder / f"of-{max(SCHEMA) - 1}", self.path)
        self.assertEqual([(max(SCHEMA) - 1,)], look(self.path, "PRAGMA user_version"))
        self.assertRaises(SpoolUnusable, restore, self.folder / f"of-{max(SCHEMA) + 1}", self.path)

    def test_owner(self) -> None:
        """
        Root gives the copy to the user of the spool that was there, or to that of the folder.
        """
        if os.geteuid() != 0:
            self.skipTest("only root can give files to others")
        os.chown(self.path, 12345, -1)
        restore(self.copy, self.path)
        self.assertEqual(12345, self.path.stat().st_uid)
        state = self.folder / "state"
        state.mkdir()
        os.chown(state, 12346, -1)
        restore(self.copy, state / "spool")
        self.assertEqual({12346}, {path.stat().st_uid for path in state.iterdir()})

    def test_command(self) -> None:
        """
        The command says what it has done, and what follows.
        """
        ended = run("spool", "restore", str(self.copy), "--spool", str(self.path))
        self.assertEqual((0, ""), (ended.status, ended.error))
        self.assertRegex(
            ended.output,
            rf"^restored {self.path} from {self.copy}\n"
            rf"the spool that was there is {self.path}\.replaced-[0-9T]+ now\n"
            "what has ended since that copy was made is delivered again\n$",
        )
