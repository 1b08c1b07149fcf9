"""The file of a spool: who may use it, and what is done with one that cannot be used."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from unittest import skipIf

from twisted.trial.unittest import SynchronousTestCase

from component_http.errors import SettingsError, SpoolError, SpoolUnusable
from component_http.spool.database import lock, opened, prepare, quarantine
from component_http.spool.schema import SCHEMA

ROW = (
    "INSERT INTO deliveries (id, kind, type, sender, recipient, through_room, uri, accepted, deadline, tries, attempts,"
    " size, body) VALUES (?, 'message', '', 'a@b', 'c@d', 0, 'u', 0, 0, 0, 0, 0, ?)"
)


class FileCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.enterContext(TemporaryDirectory()))
        self.path = self.folder / "spool.sqlite3"

    def refusal(self, error: type[SettingsError] = SettingsError) -> str:
        return str(self.assertRaises(error, prepare, self.path))

    def change(self, *statements: str) -> None:
        """Let another program change the file."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            for statement in statements:
                connection.execute(statement)

    def look(self, query: str) -> list[object]:
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(query).fetchall()


class LockTests(FileCase):
    """One gateway at a time."""

    def test_second_instance(self) -> None:
        """
        A second one is refused with the process that has it, until that lets go.
        """
        held = lock(self.path)
        self.assertEqual(
            f"the spool {self.path} is in use by another gateway (process {os.getpid()}): stop that one, or give this"
            " one a spool.path of its own",
            str(self.assertRaises(SettingsError, lock, self.path)),
        )
        held.release()
        lock(self.path).release()

    def test_survives_a_fork(self) -> None:
        """
        What a process that goes into the background inherits is the lock; it notes its own number then.
        """
        held = lock(self.path)
        ready, told = os.pipe()
        over, end = os.pipe()
        child = os.fork()
        if not child:
            try:
                held.note_process()
                os.write(told, b".")
                os.read(over, 1)
            finally:
                os._exit(0)
        held.release()
        os.read(ready, 1)
        sentence = str(self.assertRaises(SettingsError, lock, self.path))
        os.write(end, b".")
        os.waitpid(child, 0)
        for each in (ready, told, over, end):
            os.close(each)
        self.assertIn(f"(process {child})", sentence)
        lock(self.path).release()

    def test_private(self) -> None:
        """
        Nobody else can take the lock, and so keep a gateway from its spool.
        """
        self.addCleanup(lock(self.path).release)
        self.assertEqual(0o600, stat.S_IMODE(Path(f"{self.path}.lock").stat().st_mode))

    def test_unknown_holder(self) -> None:
        """
        A lock without a number in it is told without one.
        """
        with open(f"{self.path}.lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            self.assertIn("by another gateway:", str(self.assertRaises(SettingsError, lock, self.path)))

    def test_somebody_looks(self) -> None:
        """
        Who only looks whether there is a lock does not keep a gateway from starting.
        """
        file = self.enterContext(open(f"{self.path}.lock", "w"))
        fcntl.flock(file, fcntl.LOCK_SH)
        timer = Timer(0.01, fcntl.flock, [file, fcntl.LOCK_UN])
        timer.start()
        self.addCleanup(timer.join)
        lock(self.path).release()

    def test_no_folder(self) -> None:
        """
        A folder that is not there is told by name, with what to do.
        """
        path = self.folder / "none" / "spool.sqlite3"
        self.assertEqual(
            f"spool.path is {path}, but there is no folder {self.folder / 'none'}: make it, or name another file",
            str(self.assertRaises(SettingsError, lock, path)),
        )

    def test_folder_of_somebody_else(self) -> None:
        """
        A folder that cannot be written to is told by name, with what to do.
        """
        if os.geteuid() == 0:
            # Root may write anywhere but where nobody may.
            path = Path("/proc/spool.sqlite3")
        else:
            self.folder.chmod(0o500)
            self.addCleanup(self.folder.chmod, 0o700)
            path = self.path
        self.assertIn(f"spool.path is {path}, but ", str(self.assertRaises(SettingsError, lock, path)))


class PrepareTests(FileCase):
    """What a file must be like."""

    def test_made_private(self) -> None:
        """
        A new file can be read by its owner only, whatever the process's mask.
        """
        before = os.umask(0)
        self.addCleanup(os.umask, before)
        prepare(self.path)
        self.assertEqual(0o600, stat.S_IMODE(self.path.stat().st_mode))
        with closing(opened(self.path)) as connection:
            connection.execute(ROW, ("d1", b""))
            modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in self.folder.iterdir()}
        self.assertEqual({0o600}, set(modes.values()), modes)
        self.assertEqual(3, len(modes))

    @skipIf(os.geteuid() == 0, "root may read anything")
    def test_beside_it_of_somebody_else(self) -> None:
        """
        What SQLite left beside the file, and the ballast, must be the gateway's too; the one that is not is named.
        """
        prepare(self.path)
        for end in ("-wal", "-shm", ".ballast"):
            companion = Path(f"{self.path}{end}")
            companion.touch()
            companion.chmod(0)
            self.assertEqual(
                f"spool.path is {self.path}, but {companion} cannot be read and written: give it to the user that the"
                " gateway runs as, like the file itself",
                self.refusal(),
            )
            companion.unlink()
        prepare(self.path)

    def test_prepared_again(self) -> None:
        """
        A file that is in order stays as it is, with what it holds.
        """
        prepare(self.path)
        with closing(opened(self.path)) as connection:
            connection.execute(ROW, ("d1", b""))
        prepare(self.path)
        self.assertEqual([("d1",)], self.look("SELECT id FROM deliveries"))

    def test_empty_file(self) -> None:
        """
        An empty file becomes a spool.
        """
        self.path.touch()
        prepare(self.path)
        self.assertEqual([], self.look("SELECT * FROM deliveries"))

    def test_no_database(self) -> None:
        """
        A file of another kind is refused, with the flag that helps, and not touched.
        """
        self.path.write_text("# my notes\n" * 100)
        self.assertEqual(
            f"the spool {self.path} is damaged, or is no spool (file is not a database): start with --quarantine-spool"
            " to set it aside and begin with an empty one",
            self.refusal(SpoolUnusable),
        )
        self.assertEqual("# my notes\n" * 100, self.path.read_text())

    def test_damaged(self) -> None:
        """
        A spool with bytes of somebody else in it is refused, wherever they are, and not touched.
        """
        prepare(self.path)
        with closing(opened(self.path)) as connection:
            for number in range(200):
                connection.execute(ROW, (f"d{number}", b"x" * 2000))
        whole = self.path.read_bytes()
        for page in range(1, len(whole) // 4096, 7):
            damaged = whole[: page * 4096] + b"\xff" * 4096 + whole[(page + 1) * 4096 :]
            self.path.write_bytes(damaged)
            self.assertIn("--quarantine-spool", self.refusal(SpoolUnusable))
            self.assertEqual(damaged, self.path.read_bytes())

    def test_cut_off(self) -> None:
        """
        A spool that lacks its end is refused.
        """
        prepare(self.path)
        with closing(opened(self.path)) as connection:
            for number in range(50):
                connection.execute(ROW, (f"d{number}", b"x" * 2000))
        os.truncate(self.path, 40_000)
        self.assertIn("is damaged", self.refusal(SpoolUnusable))

    def test_another_programs_database(self) -> None:
        """
        A database of another program is refused, and not touched.
        """
        self.change("CREATE TABLE prosody (host TEXT)")
        before = self.path.read_bytes()
        self.assertIn("is a database of another program: name another file as spool.path", self.refusal(SpoolUnusable))
        self.assertEqual(before, self.path.read_bytes())

    def test_later_version(self) -> None:
        """
        A file of a later version is refused, with what to do.
        """
        prepare(self.path)
        self.change(f"PRAGMA user_version = {max(SCHEMA) + 1}")
        sentence = self.refusal(SpoolUnusable)
        self.assertIn("was written by a later version of component-http: start that version again", sentence)
        self.assertIn("--quarantine-spool", sentence)

    def test_upgrade(self) -> None:
        """
        A file of an older version gets what came since, and keeps what it holds; one that is cut short by the end of
        the process is an older file still.
        """
        later = {
            **SCHEMA,
            max(SCHEMA) + 1: ("ALTER TABLE deliveries ADD COLUMN colour TEXT NOT NULL DEFAULT 'blue'",),
            max(SCHEMA) + 2: ("CREATE TABLE replies (number INTEGER)", "UPDATE deliveries SET colour = 'red'"),
        }
        prepare(self.path)
        with closing(opened(self.path)) as connection:
            connection.execute(ROW, ("d1", b""))
        broken = {**later, max(later): (*later[max(later)], "no statement")}
        self.assertRaises(SpoolError, lambda: opened(self.path, schema=broken).close())
        self.assertEqual([(max(SCHEMA) + 1,)], self.look("PRAGMA user_version"))
        self.assertEqual([("d1", "blue")], self.look("SELECT id, colour FROM deliveries"))
        prepare(self.path, schema=later)
        self.assertEqual([(max(SCHEMA) + 2,)], self.look("PRAGMA user_version"))
        self.assertEqual([("d1", "red")], self.look("SELECT id, colour FROM deliveries"))

    def test_first_version(self) -> None:
        """
        A file as the first version made it, statement by statement, is brought up to date with all it holds.
        """
        self.change(
            "PRAGMA application_id = 1665692784",
            "CREATE TABLE deliveries (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,"
            " kind TEXT NOT NULL, type TEXT NOT NULL, stanza_id TEXT, sender TEXT NOT NULL, recipient TEXT NOT NULL,"
            " through_room INTEGER NOT NULL, uri TEXT NOT NULL, accepted REAL NOT NULL, deadline REAL NOT NULL,"
            " tries INTEGER NOT NULL, attempts INTEGER NOT NULL, size INTEGER NOT NULL, body BLOB NOT NULL)",
            ROW.replace("?, 'message'", "'d1', 'message'").replace("?", "'x'"),
            "PRAGMA user_version = 1",
        )
        prepare(self.path)
        self.assertEqual([(max(SCHEMA),)], self.look("PRAGMA user_version"))
        self.assertEqual([("d1",)], self.look("SELECT id FROM deliveries"))

    def test_old_sqlite(self) -> None:
        """
        An SQLite that cannot do what is asked of it is told before anything is written.
        """
        error = self.assertRaises(SettingsError, prepare, self.path, sqlite=(3, 31, 1))
        self.assertEqual(
            'spool.kind is "sqlite", but that needs SQLite 3.33 or later, and this Python has 3.31.1: take another'
            ' Python, or "memory"',
            str(error),
        )
        self.assertFalse(self.path.exists())

    def test_folder_in_its_place(self) -> None:
        """
        A folder is no file.
        """
        self.path.mkdir()
        self.assertIn("that is not a file", self.refusal())

    def test_odd_name(self) -> None:
        """
        A file may have any name.
        """
        path = self.folder / "a b?mode=ro#%20ä.sqlite3"
        prepare(path)
        self.assertEqual([path.name], [each.name for each in self.folder.iterdir()])


class QuarantineTests(FileCase):
    """Setting a file aside."""

    def test_all_of_it(self) -> None:
        """
        The file and its companions get new names that still belong together, and never that of an earlier one.
        """
        for content in ("one", "two"):
            for end in ("", "-wal", "-shm"):
                Path(f"{self.path}{end}").write_text(f"{content}{end}")
            aside = quarantine(self.path, datetime(2026, 11, 22, 12, 30, 45, tzinfo=UTC))
            self.assertEqual(
                [content, f"{content}-wal", f"{content}-shm"],
                [Path(f"{aside}{end}").read_text() for end in ("", "-wal", "-shm")],
            )
        self.assertEqual(
            {f"spool.sqlite3.quarantined-20261122T123045{more}" for more in ("", "-wal", "-shm")},
            {each.name for each in self.folder.iterdir() if "45-2" not in each.name},
        )
        self.assertEqual(6, len(list(self.folder.iterdir())))

    def test_empty_one_in_its_place(self) -> None:
        """
        Afterwards a new file can be made.
        """
        self.path.write_text("x" * 5000)
        quarantine(self.path)
        prepare(self.path)
        self.assertEqual([], self.look("SELECT * FROM deliveries"))
