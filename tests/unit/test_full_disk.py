"""What a spool does on a disk that is full: real small file systems, filled to the last byte."""

from __future__ import annotations

import os
import stat
from contextlib import closing
from itertools import count
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from component_http.contract.delivery import DeadLetter
from component_http.contract.outbound import OutboundStanza
from component_http.errors import DiskFull, SettingsError, SpoolError
from component_http.operations.metrics import Counters
from component_http.spool.database import lock, opened, prepare
from component_http.spool.dead_letters import Letters
from component_http.spool.room import Ballast
from component_http.spool.sqlite import SqliteSpool
from tests.disks import NoSmallDisk, SmallDisk
from tests.integration.counterparts import MISSING
from tests.unit.test_spool_suite import DEADLINES, Inline, a_delivery

KIB = 1024

NUMBERS = count()


class DiskCase(SynchronousTestCase):
    """Spools on small disks; the test's thread is the reactor's."""

    def disk(self, kib: int, block: int | None = None) -> SmallDisk:
        """A disk until the end of the test."""
        try:
            return self.enterContext(SmallDisk(kib, block))
        except NoSmallDisk as error:
            if os.environ.get("COMPONENT_HTTP_REQUIRE_SERVERS") == "1":
                self.fail(f"{MISSING}: {error}")
            raise SkipTest(f"{MISSING}: {error}") from error

    def on(self, disk: SmallDisk, **how: Any) -> Bench:
        """A spool on it."""
        bench = Bench(disk, **how)
        self.addCleanup(bench.close)
        return bench


class Bench:
    """
    A spool on a small disk.

    Attributes:
        stored: Ids of what was accepted and has not ended.
        ended: Those of what has.
    """

    def __init__(self, disk: SmallDisk, **how: Any) -> None:
        self.disk = disk
        self.path = disk.folder / "spool"
        self.counters = Counters()
        self._reactor = Inline()
        prepare(self.path)
        self.spool = SqliteSpool(
            self.path,
            self._reactor,
            allowance=lambda domain: (DEADLINES, 0.0),
            now=lambda: 1e6,
            window=1,
            observer=self.counters,
            **how,
        )
        self.stored: list[str] = []
        self.ended: set[str] = set()

    def wait(self, done: Deferred[Any]) -> Any:
        """What it fires with, which may be an exception."""
        done.addErrback(lambda failure: failure.value)
        self._reactor.until(done)
        return done.result

    def store(self, *sizes: int) -> list[SpoolError]:
        """Store so many at once; returns what kept some of them from it."""
        asked = []
        for size in sizes:
            name = f"d{next(NUMBERS)}"
            asked.append((name, self.spool.store(a_delivery(name, clock=self._reactor), b"x" * size)))
        errors = []
        for name, done in asked:
            error = self.wait(done)
            if error is None:
                self.stored.append(name)
            else:
                errors.append(error)
        return errors

    def store_until_full(self, size: int = 20 * KIB) -> DiskFull:
        """Store one after the other until one is refused."""
        while True:
            for error in self.store(size):
                assert isinstance(error, DiskFull), error
                return error

    def end(self, position: int = 0, outbound_stanzas: int = 0, letter: DeadLetter | None = None) -> Any:
        """End one, as a relay whose server has at once what the spool cannot keep; the numbers, or the error."""
        name = self.stored.pop(position)
        self.ended.add(name)
        leaving = [
            OutboundStanza(xml=b"<message/>", kind="message", expires=9.0, stored=0.0, delivery_id=name)
        ] * outbound_stanzas
        result = self.wait(self.spool.end(name, leaving, letter))
        if leaving and isinstance(result, SpoolError):
            self.wait(self.spool.end(name, (), letter))
        return result

    def look(self) -> None:
        """What the gateway does once a second."""
        self.wait(self.spool.look({}, 500))

    def restored(self) -> list[str]:
        """What is in the file."""
        ids: list[str] = []
        while found := self.wait(self.spool.restore()):
            assert isinstance(found, list), found
            ids += [delivery.id for delivery in found]
        return ids

    def close(self) -> None:
        self.wait(self.spool.close())

    def sound(self) -> bool:
        with closing(opened(self.path)) as connection:
            return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


class BallastTests(DiskCase):
    """What is kept for when the disk is full."""

    def test_small_disk(self) -> None:
        """
        It takes a quarter of a small disk, all of it real and nobody else's to read.
        """
        disk = self.disk(8192)
        free = disk.free()
        ballast = Ballast(disk.folder / "spool")
        self.assertTrue(ballast.hold())
        self.assertEqual(free // 4, ballast.held())
        self.assertTrue(free * 3 // 4 - 64 * KIB <= disk.free() <= free * 3 // 4)
        self.assertEqual(0o600, stat.S_IMODE(ballast.path.stat().st_mode))

    def test_large_disk(self) -> None:
        """
        It is no larger than it was told to be.
        """
        ballast = Ballast(self.disk(16384).folder / "spool", 1024 * KIB)
        self.assertTrue(ballast.hold())
        self.assertEqual(1024 * KIB, ballast.held())

    def test_kept(self) -> None:
        """
        What an earlier process made is taken over, however full the disk is by now.
        """
        disk = self.disk(8192)
        Ballast(disk.folder / "spool").hold()
        disk.fill()
        self.assertTrue(Ballast(disk.folder / "spool").hold())

    def test_not_made_again_from_its_own_room(self) -> None:
        """
        After it was released it is made again when twice its room is free, and not before.
        """
        disk = self.disk(8192)
        ballast = Ballast(disk.folder / "spool")
        ballast.hold()
        disk.fill()
        size = ballast.release()
        self.assertTrue(size <= disk.free() < size + 64 * KIB)
        self.assertFalse(ballast.hold())
        disk.clear()
        disk.fill(leave=2 * size)
        self.assertTrue(ballast.hold())
        self.assertEqual(size, ballast.held())

    def test_no_room(self) -> None:
        """
        A disk that is full already has no room for it.
        """
        disk = self.disk(4096)
        disk.fill(leave=400 * KIB)
        self.assertFalse(Ballast(disk.folder / "spool").hold())

    def test_room(self) -> None:
        """
        It says whether there is room beside it, and is as large as before then.
        """
        disk = self.disk(8192)
        ballast = Ballast(disk.folder / "spool")
        ballast.hold()
        size, free = ballast.held(), disk.free()
        self.assertTrue(ballast.has_room(free - 64 * KIB))
        self.assertFalse(ballast.has_room(free + 64 * KIB))
        self.assertEqual((size, free), (ballast.held(), disk.free()))


class FullDiskTests(DiskCase):
    """Nothing is stored, what is in goes on, and it is over when there is room."""

    def test_full(self) -> None:
        """
        On a full disk nothing is accepted, what is there can be read and ended, and who is refused is told why.
        """
        bench = self.on(self.disk(8192))
        self.assertEqual([], bench.store(*[20 * KIB] * 20))
        bench.disk.fill()
        error = bench.store_until_full()
        self.assertEqual(f"the disk of {bench.path} is full: make room", str(error))
        self.assertEqual("the spool's disk is full", bench.spool.trouble)
        self.assertEqual(b"x" * 20 * KIB, bench.wait(bench.spool.body(bench.stored[3])))
        self.assertEqual([1, 2], list(bench.end(outbound_stanzas=2)))
        self.assertEqual([1, 2], [each.number for each in bench.wait(bench.spool.outbound_stanzas(0))])
        bench.spool.confirmed(1)
        bench.end(letter=DeadLetter("bounced", "no answer", 3))
        bench.look()
        self.assertEqual(bench.stored, bench.restored())
        self.assertEqual([2], [each.number for each in bench.wait(bench.spool.outbound_stanzas(0))])
        self.assertEqual(1, bench.counters["disk_full"])
        self.assertEqual(1, len(bench.store(10)))

    def test_over_when_there_is_room(self) -> None:
        """
        The first look that finds room ends it; what the ballast gave is not enough for that.
        """
        bench = self.on(self.disk(8192))
        bench.store(10)
        bench.disk.fill()
        bench.store_until_full()
        bench.look()
        self.assertEqual(1, len(bench.store(10)))
        bench.disk.clear()
        self.assertEqual(1, len(bench.store(10)))
        bench.look()
        self.assertIsNone(bench.spool.trouble)
        self.assertEqual([], bench.store(10))
        self.assertEqual(bench.stored, bench.restored())

    def test_subscribers(self) -> None:
        """
        Subscribers that there is no room for keep nothing else from being done, and are known when there is room.
        """
        bench = self.on(self.disk(8192))
        bench.store(10)
        bench.disk.fill()
        bench.store_until_full()
        bench.disk.fill()
        for number in range(3000):
            bench.spool.subscribe("bot@bot.example.org", f"{'x' * 200}{number}@example.org")
        bench.look()
        self.assertEqual(b"x" * 10, bench.wait(bench.spool.body(bench.stored[0])))
        bench.disk.clear()
        bench.look()
        bench.look()
        self.assertEqual(3000, len(bench.wait(bench.spool.subscribers())))

    def test_filled_by_itself(self) -> None:
        """
        A spool that has filled its disk alone is smaller again when what it held has ended, and accepts.
        """
        for block in (None, 1024, 4096):
            bench = self.on(self.disk(8192, block))
            bench.store_until_full()
            before = bench.path.stat().st_size
            while bench.stored:
                bench.end()
            bench.look()
            self.assertIsNone(bench.spool.trouble)
            self.assertLess(bench.path.stat().st_size, before // 4)
            self.assertEqual([], bench.store(20 * KIB))

    def test_last_byte(self) -> None:
        """
        When even the room of the ballast is gone, what ends is written later, and once.
        """
        bench = self.on(self.disk(8192))
        bench.store(*[20 * KIB] * 20)
        bench.disk.fill()
        bench.store_until_full()
        bench.disk.fill()
        response = DeadLetter("bounced", "500", 1, 500, "text/plain", b"y" * 60_000)
        self.assertIsInstance([bench.end(letter=response) for _ in range(15)][-1], DiskFull)
        self.assertEqual(b"x" * 20 * KIB, bench.wait(bench.spool.body(bench.stored[0])))
        bench.disk.clear()
        bench.look()
        self.assertEqual(bench.stored, bench.restored())
        self.assertEqual([], bench.store(10))
        with Letters(bench.path) as letters:
            self.assertEqual([response.response] * 15, [each.response for each in letters.read(letters.ids())])

    def test_opened_when_full(self) -> None:
        """
        A gateway that starts on a full disk has the ballast of the last one, and all that was accepted.
        """
        disk = self.disk(8192)
        bench = Bench(disk)
        bench.store(*[KIB] * 20)
        bench.close()
        disk.fill()
        again = self.on(disk)
        self.assertEqual(bench.stored, again.restored())
        again.stored = bench.stored
        again.store_until_full()
        again.end()
        self.assertEqual(again.stored, again.restored())

    def test_opened_without_room(self) -> None:
        """
        Without any room the file cannot even be read, which is told, and can be when there is some.
        """
        disk = self.disk(8192)
        bench = Bench(disk)
        bench.store(*[KIB] * 20)
        bench.close()
        Ballast(bench.path).release()
        disk.fill()
        again = self.on(disk)
        self.assertIsInstance(again.wait(again.spool.restore()), DiskFull)
        disk.clear()
        self.assertEqual(bench.stored, again.restored())
        again.look()
        self.assertEqual([], again.store(10))

    def test_prepared_when_full(self) -> None:
        """
        That a disk is full is no reason not to start, and the lock of the spool can be had as well.
        """
        disk = self.disk(4096)
        path = disk.folder / "spool"
        disk.fill()
        held = lock(path)
        self.assertIn("is in use by another gateway", str(self.assertRaises(SettingsError, lock, path)))
        prepare(path)
        held.release()
        self.assertEqual(0, path.stat().st_size)

    def test_made_when_full(self) -> None:
        """
        A new spool on a full disk is made when there is room.
        """
        disk = self.disk(4096)
        disk.fill()
        bench = self.on(disk)
        self.assertIsInstance(bench.wait(bench.spool.restore()), DiskFull)
        disk.clear()
        self.assertEqual([], bench.restored())
        bench.look()
        self.assertEqual([], bench.store(10))

    def test_blocks_smaller_than_pages(self) -> None:
        """
        Where a file system's blocks are smaller than memory's pages, a full disk does not end the process either.

        Without care SQLite's index of its log ends it by SIGBUS at one of these levels.
        """
        disk = self.disk(12 * KIB, 1024)
        pid = os.fork()
        if not pid:
            status = 1
            try:
                for level in range(40):
                    bench = Bench(disk)
                    bench.restored()
                    disk.fill(leave=level * KIB)
                    while not bench.store(10):
                        pass
                    assert bench.spool.trouble
                    bench.close()
                    for file in disk.folder.glob("spool*"):
                        file.unlink()
                    disk.clear()
                status = 0
            finally:
                os._exit(status)
        self.assertEqual(0, os.waitpid(pid, 0)[1])

    @given(
        kib=st.sampled_from([4096, 6000, 10000]),
        begin=st.sampled_from([None, None, 0, 20_000, 300_000]),
        steps=st.lists(
            st.one_of(
                st.tuples(st.just("store"), st.lists(st.sampled_from([10, 3000, 40_000]), min_size=1, max_size=30)),
                st.tuples(st.just("store"), st.lists(st.sampled_from([10, 3000]), min_size=1, max_size=5)),
                st.tuples(st.just("end"), st.integers(0, 1000)),
                st.tuples(st.just("letter"), st.integers(0, 60_000)),
                st.tuples(st.just("fill"), st.sampled_from([0, 0, 500, 9000, 30_000, 200_000])),
                st.tuples(st.just("clear"), st.none()),
                st.tuples(st.just("look"), st.none()),
            ),
            max_size=40,
        ),
    )
    @settings(deadline=None, max_examples=25)
    def test_any_level(self, kib: int, begin: int | None, steps: list[tuple[str, Any]]) -> None:
        """
        However full the disk is and becomes, what was accepted is there, and what was not is not.
        """
        try:
            with SmallDisk(kib) as disk:
                self._live_on(disk, begin, steps)
        except NoSmallDisk as error:
            raise SkipTest(f"{MISSING}: {error}") from error

    def _live_on(self, disk: SmallDisk, begin: int | None, steps: list[tuple[str, Any]]) -> None:
        if begin is not None:
            disk.fill(leave=begin)
        bench = Bench(disk)
        for word, value in steps:
            if word == "store":
                bench.store(*value)
            elif word == "end" and bench.stored:
                bench.end(value % len(bench.stored), outbound_stanzas=value % 3)
            elif word == "letter" and bench.stored:
                bench.end(letter=DeadLetter("bounced", "500", 1, 500, "text/plain", b"y" * value))
            elif word == "fill":
                disk.fill(leave=value)
            elif word == "clear":
                disk.clear()
            elif word == "look":
                bench.look()
        found = bench.wait(bench.spool.restore())
        if isinstance(found, list):
            there = {delivery.id for delivery in found}
            self.assertLessEqual(set(bench.stored), there)
            self.assertLessEqual(there - set(bench.stored), bench.ended)
            if found:
                self.assertEqual([], bench.wait(bench.spool.restore()))
        else:
            self.assertIsInstance(found, DiskFull)
        disk.clear()
        bench.look()
        self.assertEqual(bench.stored, bench.restored())
        bench.close()
        self.assertTrue(bench.sound())


class LogTests(SynchronousTestCase):
    """The write-ahead log has an end."""

    def a_bench(self, **how: Any) -> Bench:
        folder = Path(self.mktemp()).absolute()
        folder.mkdir(parents=True)

        class Folder:
            pass

        place: Any = Folder()
        place.folder = folder
        bench = Bench(place, ballast_bytes=512 * KIB, **how)
        self.addCleanup(bench.close)
        return bench

    def log(self, bench: Bench) -> int:
        return Path(f"{bench.path}-wal").stat().st_size

    def test_flat(self) -> None:
        """
        It does not grow with what goes through it, also while others read now and then.
        """
        bench = self.a_bench(synchronous="NORMAL")
        for number in range(400):
            bench.store(*[5 * KIB] * 5)
            for _ in range(5):
                bench.end()
            if number % 10 == 0:
                with closing(opened(bench.path)) as reader:
                    reader.execute("SELECT count(*) FROM deliveries").fetchall()
        self.assertLess(self.log(bench), 1024 * KIB)

    def test_somebody_goes_on_reading(self) -> None:
        """
        While another program goes on reading all is stored, and afterwards the log is written from its beginning again.
        """
        bench = self.a_bench()
        bench.store(*[20 * KIB] * 20)
        with closing(opened(bench.path)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM deliveries").fetchall()
            for _ in range(5):
                self.assertEqual([], bench.store(*[20 * KIB] * 20))
                bench.look()
        long = self.log(bench)
        self.assertGreater(long, 2000 * KIB)
        for _ in range(10):
            self.assertEqual([], bench.store(*[20 * KIB] * 20))
        self.assertLess(self.log(bench), long + 500 * KIB)
        self.assertEqual(bench.stored, bench.restored())
