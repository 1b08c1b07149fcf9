"""The files of a spool belong to one user, whatever other users put in their places."""

from __future__ import annotations

import os
import stat
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import skipUnless

from twisted.trial.unittest import SynchronousTestCase

from component_http.errors import SettingsError
from component_http.spool.database import lock, opened, prepare, quarantine
from component_http.spool.room import Ballast
from component_http.spool.visit import Holder, Visit, holder
from tests.users import refusal_as

NOBODY = 65534
BESIDE = ("-wal", "-shm", "-journal", ".ballast")
only_root = skipUnless(os.geteuid() == 0, "only root can give files away")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class PrivateCase(SynchronousTestCase):
    """
    A spool's file in a folder, a file that is none of the spool's business, and what was warned of.
    """

    def setUp(self) -> None:
        self.folder = Path(self.enterContext(TemporaryDirectory()))
        self.path = self.folder / "spool"
        self.other = self.folder / "other"
        self.other.write_text("precious")
        self.warnings: list[str] = []

    def start(self, path: Path | None = None, user: int | None = None) -> Path:
        """Take and prepare the spool as a gateway does; where it is."""
        held = lock(path or self.path, user=user, warn=self.warnings.append)
        try:
            prepare(held.path, user=user, warn=self.warnings.append)
        finally:
            held.release()
        return held.path

    def refusals(self) -> list[str]:
        """The sentences of a gateway that starts and of another program, which touch nothing."""
        sentences = [str(self.assertRaises(SettingsError, each)) for each in (self.start, lambda: Visit(self.path))]
        self.assertEqual("precious", self.other.read_text())
        return sentences

    def beside(self, end: str) -> Path:
        return Path(f"{self.path}{end}")


class LinkTests(PrivateCase):
    """Symbolic links and other odd things."""

    def test_links_beside_it(self) -> None:
        """
        A symbolic link in the place of the lock, or of another file beside the spool, is refused by its name, and what
        it leads to stays as it is.
        """
        self.start()
        for end in (".lock", *BESIDE):
            for target in (self.other, self.folder / "none"):
                self.beside(end).unlink(missing_ok=True)
                self.beside(end).symlink_to(target)
                for sentence in self.refusals():
                    self.assertIn(f"{self.beside(end)} is a symbolic link", sentence)
                    self.assertIn("remove it", sentence)
            self.assertFalse((self.folder / "none").exists())
            self.beside(end).unlink()
        self.start()

    def test_lock_with_a_second_name(self) -> None:
        """
        A hard link to another file of ours in the place of the lock is refused, for the lock is written to.
        """
        self.beside(".lock").hardlink_to(self.other)
        self.assertIn("second name", str(self.assertRaises(SettingsError, lock, self.path)))
        self.assertEqual("precious", self.other.read_text())

    def test_no_files(self) -> None:
        """
        A pipe or a folder in the place of a file is refused, and nobody waits for it.
        """
        self.start()
        for end in (".lock", *BESIDE):
            self.beside(end).unlink(missing_ok=True)
            os.mkfifo(self.beside(end))
            for sentence in self.refusals():
                self.assertIn(f"{self.beside(end)} is not a file", sentence)
            self.beside(end).unlink()
            self.beside(end).mkdir()
            for sentence in self.refusals():
                self.assertIn(str(self.beside(end)), sentence)
            self.beside(end).rmdir()

    def test_holder(self) -> None:
        """
        Whoever looks who has the lock does not follow a link, and does not wait for a pipe.
        """
        self.beside(".lock").symlink_to(self.other)
        self.assertEqual(Holder(None), holder(self.path))
        self.beside(".lock").unlink()
        os.mkfifo(self.beside(".lock"))
        self.assertNotEqual(True, holder(self.path).running)

    def test_ballast_while_it_runs(self) -> None:
        """
        What takes the place of the ballast while a gateway runs is not emptied.
        """
        ballast = Ballast(self.path)
        for put in (ballast.path.symlink_to, ballast.path.hardlink_to):
            put(self.other)
            self.assertEqual(0, ballast.release())
            ballast.hold()
            self.assertEqual("precious", self.other.read_text())
            ballast.path.unlink()

    def test_file_on_another_disk(self) -> None:
        """
        The file itself, or its folder, may be a symbolic link of the operator's, before the first start too; all names
        of one file have one lock, and all that belongs to it lies beside the file itself.
        """
        disk = self.folder / "disk"
        disk.mkdir()
        self.path.symlink_to(disk / "spool")
        linked = self.folder / "linked"
        linked.symlink_to(disk)
        for path in (self.path, linked / "spool", disk / "spool"):
            self.assertEqual(disk.resolve() / "spool", self.start(path))
            with Visit(path):
                pass
        held = lock(self.path)
        self.addCleanup(held.release)
        self.assertIn("in use by another gateway", str(self.assertRaises(SettingsError, lock, disk / "spool")))
        self.assertEqual(
            {"disk", "linked", "other", "spool"},
            {each.name for each in self.folder.iterdir()},
        )

    def test_quarantine_of_a_linked_file(self) -> None:
        """
        A file behind a link is set aside itself, and the link stays.
        """
        disk = self.folder / "disk"
        disk.mkdir()
        self.path.symlink_to(disk / "spool")
        found = self.start()
        aside = quarantine(found)
        self.assertEqual(disk.resolve(), aside.parent)
        self.assertEqual(found, self.start())

    def test_links_in_a_circle(self) -> None:
        """
        A link that leads to itself is no file.
        """
        self.path.symlink_to(self.path)
        self.assertIn("is not a file", " ".join(map(str, [self.assertRaises(SettingsError, self.start)])))
        self.assertIn("cannot be looked at", str(self.assertRaises(SettingsError, Visit, self.path)))

    @only_root
    def test_link_of_another_user(self) -> None:
        """
        A link that another user made is not followed.
        """
        (self.folder / "disk").mkdir()
        self.path.symlink_to(self.folder / "disk" / "spool")
        os.chown(self.path, NOBODY, -1, follow_symlinks=False)
        self.assertIn(f"{self.path} is a symbolic link of the user ", self.refusals()[0])
        self.assertEqual([], list((self.folder / "disk").iterdir()))


class OwnerTests(PrivateCase):
    """Files of other users."""

    @only_root
    def test_another_user(self) -> None:
        """
        The spool of another user is refused by its name, with both users, and so is what lies beside it.
        """
        self.start()
        for end in ("", ".lock", *BESIDE):
            self.beside(end).touch()
            os.chown(self.beside(end), NOBODY, -1)
            sentence = str(self.assertRaises(SettingsError, self.start))
            self.assertIn(f"{self.beside(end)} belongs to the user ", sentence)
            self.assertIn("but must belong to root: give it to that user with chown", sentence)
            if end:
                self.assertIn(f"{self.beside(end)} belongs to", str(self.assertRaises(SettingsError, Visit, self.path)))
            os.chown(self.beside(end), 0, -1)

    @only_root
    def test_root_visits(self) -> None:
        """
        Root may look into the spool of the gateway's user; another user may not, whatever its mode is.
        """
        self.start()
        for end in ("", ".lock"):
            os.chown(self.beside(end), NOBODY, -1)
        with Visit(self.path) as found:
            found.connection.execute("SELECT * FROM letters").fetchall()
        self.path.chmod(0o666)
        self.folder.chmod(0o777)
        self.assertIn(
            "it belongs to another user; do this as the user that the gateway runs as",
            refusal_as(NOBODY - 1, lambda: Visit(self.path)),
        )

    @only_root
    def test_becomes_another_user(self) -> None:
        """
        What root prepares for `twistd --uid` belongs to the user that the gateway is to run as.
        """
        os.chown(self.folder, NOBODY, -1)
        self.start(user=NOBODY)
        with closing(opened(self.path)) as connection:
            connection.execute("DELETE FROM facts")
            owners = {each.name: each.stat().st_uid for each in self.folder.glob("spool*")}
        self.assertEqual(dict.fromkeys(("spool", "spool.lock", "spool-wal", "spool-shm"), NOBODY), owners)
        self.start(user=NOBODY)
        self.assertEqual([], self.warnings)

    def test_of_nobody_here(self) -> None:
        """
        A file that does not belong to the user it must belong to is refused, by number where that user has no name.
        """
        self.start()
        sentence = str(self.assertRaises(SettingsError, prepare, self.path, user=4_000_000))
        self.assertIn("but must belong to 4000000: ", sentence)


class ModeTests(PrivateCase):
    """Files that other users may read or write."""

    def test_made_private(self) -> None:
        """
        A file that others could read or write becomes private, and a line says so; the next start says nothing.
        """
        self.start()
        with closing(opened(self.path)):
            for wrong in (0o666, 0o660, 0o640, 0o604):
                for end in ("", ".lock", *BESIDE):
                    self.beside(end).touch()
                    self.beside(end).chmod(wrong)
                    self.warnings.clear()
                    self.start()
                    [warning] = self.warnings
                    self.assertEqual(
                        f"other users could use the spool's file {self.beside(end)}, whose mode was {wrong:04o}; it is"
                        " 0600 now",
                        warning,
                    )
                    self.assertEqual(0o600, mode(self.beside(end)))
        self.warnings.clear()
        self.start()
        self.assertEqual([], self.warnings)

    def test_another_program(self) -> None:
        """
        The commands make it private as well, with the same sentence.
        """
        self.start()
        self.path.chmod(0o666)
        with Visit(self.path, warn=self.warnings.append):
            pass
        self.assertIn(f"the spool's file {self.path}, whose mode was 0666; it is 0600 now", self.warnings[0])
        self.assertEqual(0o600, mode(self.path))

    def test_folder(self) -> None:
        """
        A folder in which everybody can replace files is warned of, but taken: containers have such. With the sticky bit
        nobody can, and a group is the operator's own choice.
        """
        for bits, warned in ((0o777, 1), (0o1777, 0), (0o775, 0), (0o755, 0)):
            with self.subTest(mode=oct(bits)):
                self.warnings.clear()
                self.folder.chmod(bits)
                self.start()
                self.assertEqual(warned, len(self.warnings), self.warnings)
        self.folder.chmod(0o777)
        self.start()
        self.assertIn(f"in the spool's folder {self.folder}: chmod o-w it", self.warnings[0])

    @only_root
    def test_folder_of_another_user(self) -> None:
        """
        A folder of another user is warned of by that user's name.
        """
        os.chown(self.folder, NOBODY, -1)
        self.start()
        self.assertIn(f"the spool's folder {self.folder} belongs to the user ", self.warnings[0])
