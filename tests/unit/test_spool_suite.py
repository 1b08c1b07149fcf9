"""What every spool promises, and what the one on disk promises beside it; with real files, threads and a reactor."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.words.xish.domish import Element

from component_http.contract.address import Address
from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_COMPONENT
from component_http.delivery.delivery import Delivery
from component_http.errors import SpoolError, TimedOut
from component_http.spool.database import prepare
from component_http.spool.memory import MemorySpool
from component_http.spool.sqlite import GRACE, MAX_GROUP, SqliteSpool

reactor: Any = _reactor

DEADLINES = {"message": 900.0, "iq": 25.0, "presence": 60.0}


def a_delivery(
    delivery_id: str, kind: str = "message", *, size: int = 2, left: float = 900.0, clock: Any = reactor, **facts: Any
) -> Delivery:
    """A delivery that has so many seconds left."""
    stanza = Stanza(
        kind=kind,
        type=facts.get("type_", "chat"),
        id=facts.get("stanza_id", "m1"),
        sender=Address.parse(facts.get("sender", "alice@example.org/phone")),
        recipient=Address.parse("bot@bot.example.org"),
        through_room=facts.get("through_room", False),
        element=Element((NS_COMPONENT, kind)),
    )
    return Delivery(delivery_id, stanza, size, clock.seconds() + left)


class SpoolSuite:
    """The promises of `component_http.interfaces.Spool`."""

    timeout = 30

    def a_spool(self) -> Any:
        raise NotImplementedError

    def setUp(self) -> None:
        self.spool = self.a_spool()

    def tearDown(self) -> Deferred[None]:
        closed: Deferred[None] = self.spool.close()
        return closed

    async def test_keeps_the_bytes(self) -> None:
        """
        A request body comes back as it went in, as often as it is asked for.
        """
        body = bytes(range(256))
        await self.spool.store(a_delivery("d1"), body)
        self.assertEqual(body, await self.spool.body("d1"))
        self.assertEqual(body, await self.spool.body("d1"))
        await self.spool.end("d1", ())

    async def test_fires_in_order(self) -> None:
        """
        What was asked first is told first, whatever it was.
        """
        told = []
        asked = []
        for number in range(50):
            asked.append(self.spool.store(a_delivery(f"d{number}"), b"{}"))
            asked[-1].addCallback(lambda _, number=number: told.append(f"stored {number}"))
        await gatherResults(asked)
        asked = []
        for number in range(50):
            asked.append(self.spool.end(f"d{number}", ()))
            asked[-1].addCallback(lambda _, number=number: told.append(f"ended {number}"))
            asked.append(self.spool.store(a_delivery(f"e{number}"), b"{}"))
            asked[-1].addCallback(lambda _, number=number: told.append(f"stored again {number}"))
        await gatherResults(asked)
        again = [f"{what} {number}" for number in range(50) for what in ("ended", "stored again")]
        self.assertEqual([f"stored {number}" for number in range(50)] + again, told)

    async def test_notes_at_any_time(self) -> None:
        """
        A note is taken before and after the end of a delivery, and nobody waits for it.
        """
        delivery = a_delivery("d1")
        await self.spool.store(delivery, b"{}")
        self.assertIsNone(self.spool.note(delivery))
        await self.spool.end("d1", ())
        self.assertIsNone(self.spool.note(delivery))

    async def test_begins_empty(self) -> None:
        """
        A new spool has nothing to restore.
        """
        self.assertEqual([], await self.spool.restore())

    async def test_used_again_after_close(self) -> None:
        """
        A closed spool can be used again, and closed twice.
        """
        await self.spool.close()
        await self.spool.store(a_delivery("d1"), b"{}")
        await self.spool.end("d1", ())
        await gatherResults([self.spool.close(), self.spool.close()])


class MemorySpoolTests(SpoolSuite, TestCase):
    """The spool in memory."""

    def a_spool(self) -> MemorySpool:
        return MemorySpool()

    def test_not_durable(self) -> None:
        """
        It says that it forgets.
        """
        self.assertFalse(self.spool.durable)


class SqliteCase(TestCase):
    """Spools in files of their own, closed at the end."""

    timeout = 30

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.spools: list[SqliteSpool] = []

    def tearDown(self) -> Any:
        return gatherResults([spool.close() for spool in self.spools])

    def open(self, path: Path | None = None, **how: Any) -> SqliteSpool:
        """A spool in this file."""
        prepare(path or self.path)
        how.setdefault("ballast_bytes", 256 * 1024)
        spool = SqliteSpool(path or self.path, reactor, deadlines=DEADLINES, **how)
        self.spools.append(spool)
        return spool

    def look(self, query: str) -> list[Any]:
        """What another program sees of the file."""
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(query).fetchall()

    def crash(self) -> SqliteSpool:
        """A spool from what is on the disk now, as if the process had been killed."""
        copy = self.path.with_name(f"{self.path.name}-after-{len(self.spools)}")
        for end in ("", "-wal"):
            if Path(f"{self.path}{end}").exists():
                shutil.copy(f"{self.path}{end}", f"{copy}{end}")
        return self.open(copy)


class SqliteSpoolTests(SpoolSuite, SqliteCase):
    """The spool on disk, held to the same."""

    def a_spool(self) -> SqliteSpool:
        SqliteCase.setUp(self)
        return self.open()

    def tearDown(self) -> Any:
        return SqliteCase.tearDown(self)

    def test_durable(self) -> None:
        """
        It says that it keeps.
        """
        self.assertTrue(self.spool.durable)


class GroupCommitTests(SqliteCase):
    """Many deliveries share one wait for the disk."""

    def held_up(self) -> sqlite3.Connection:
        """Another program that writes, so that the spool's thread waits for it."""
        other = sqlite3.connect(self.path, isolation_level=None)
        self.addCleanup(other.close)
        other.execute("BEGIN IMMEDIATE")
        return other

    async def test_what_comes_meanwhile_is_one_transaction(self) -> None:
        """
        While a commit is under way others gather, and all of them are committed at once.
        """
        spool = self.open()
        await spool.store(a_delivery("first"), b"{}")
        other = self.held_up()
        stored = [spool.store(a_delivery(f"d{number}"), b"{}") for number in range(300)]
        ended = spool.end("first", ())
        other.execute("COMMIT")
        await gatherResults([*stored, ended])
        self.assertLessEqual(spool.commits, 3)
        self.assertEqual([f"d{n}" for n in range(300)], [delivery.id for delivery in await spool.restore()])

    async def test_a_group_has_an_end(self) -> None:
        """
        No transaction has more than so many operations.
        """
        spool = self.open()
        other = self.held_up()
        stored = [spool.store(a_delivery(f"d{number}"), b"{}") for number in range(3 * MAX_GROUP)]
        other.execute("COMMIT")
        await gatherResults(stored)
        self.assertTrue(3 <= spool.commits <= 4, spool.commits)

    async def test_idle_means_at_once(self) -> None:
        """
        Without load each operation is a transaction, and reading is none.
        """
        spool = self.open(window=0)
        await spool.store(a_delivery("d1"), b"{}")
        await spool.body("d1")
        await spool.restore()
        await spool.end("d1", ())
        self.assertEqual(2, spool.commits)

    async def test_begun_attempt_is_no_transaction(self) -> None:
        """
        That an attempt began is written with what comes next; that one failed is written at once.
        """
        spool = self.open()
        delivery = a_delivery("d1")
        await spool.store(delivery, b"{}")
        delivery.tries = 1
        spool.note(delivery)
        await deferToThread(lambda: None)
        self.assertEqual([(0, 0)], self.look("SELECT tries, attempts FROM deliveries"))
        delivery.attempts, delivery.failure = 1, TimedOut("60 s")
        spool.note(delivery)
        await spool.restore()
        self.assertEqual([(1, 1)], self.look("SELECT tries, attempts FROM deliveries"))

    async def test_close_writes_what_was_asked(self) -> None:
        """
        What was asked before closing is done by then, notes included, and nothing is left in a log.
        """
        spool = self.open()
        delivery = a_delivery("d1")
        stored = spool.store(delivery, b"{}")
        delivery.tries = 1
        spool.note(delivery)
        closed = spool.close()
        await self.assertFailure(spool.store(a_delivery("d2"), b"{}"), SpoolError)
        await closed
        await stored
        self.assertEqual([("d1", 1)], self.look("SELECT id, tries FROM deliveries"))
        self.assertFalse(Path(f"{self.path}-wal").exists())


class WindowTests(SqliteCase):
    """Not all bodies are in memory."""

    async def test_beyond_the_window(self) -> None:
        """
        Bodies beyond the window, by number or by bytes, come from the file.
        """
        for window in ({"window": 2}, {"window_bytes": 20}):
            spool = self.open(**window)
            bodies = {f"d{number}": b"%010d" % number for number in range(10)}
            await gatherResults([spool.store(a_delivery(name), body) for name, body in bodies.items()])
            at_once = [name for name in bodies if spool.body(name).called]
            self.assertEqual(["d0", "d1"], at_once)
            for name, body in bodies.items():
                self.assertEqual(body, await spool.body(name))
            await spool.end("d0", ())
            await spool.store(a_delivery("d10"), b"%010d" % 10)
            self.assertTrue(spool.body("d10").called)
            await gatherResults([spool.end(delivery.id, ()) for delivery in await spool.restore()])

    async def test_none_there(self) -> None:
        """
        A body that nobody stored is a mistake.
        """
        await self.assertFailure(self.open().body("d1"), KeyError)


class RestoreTests(SqliteCase):
    """What is there after a restart."""

    async def test_after_a_crash(self) -> None:
        """
        What had fired is there after a kill, in order, with all its facts and its body.
        """
        spool = self.open()
        first = a_delivery("d1", type_="", stanza_id=None, through_room=True, size=7)
        second = a_delivery("d2", "iq", type_="get", left=20.0)
        await gatherResults([spool.store(first, b"1"), spool.store(second, b"2"), spool.store(a_delivery("d3"), b"3")])
        first.tries, first.attempts, first.failure = 3, 2, TimedOut("60 s")
        spool.note(first)
        await spool.end("d3", ())
        after = self.crash()
        found = await after.restore()
        self.assertEqual(["d1", "d2"], [delivery.id for delivery in found])
        self.assertEqual([first.stanza, second.stanza], [delivery.stanza for delivery in found])
        self.assertEqual(
            [(NS_COMPONENT, "message"), (NS_COMPONENT, "iq")],
            [(delivery.stanza.element.uri, delivery.stanza.element.name) for delivery in found],
        )
        self.assertEqual([(3, 2, 7), (0, 0, 2)], [(each.tries, each.attempts, each.size) for each in found])
        self.assertEqual([b"1", b"2"], [await after.body("d1"), await after.body("d2")])

    async def test_time_left(self) -> None:
        """
        The time a gateway was away counts; a message never tried gets one more try, and a clock that was set back gives
        nobody more than its kind may have.
        """
        clock = Clock()
        clock.callFromThread = reactor.callFromThread
        wall = [1_000_000.0]
        prepare(self.path)

        def a_spool() -> SqliteSpool:
            spool = SqliteSpool(self.path, clock, deadlines=DEADLINES, now=lambda: wall[0], ballast_bytes=4096)
            self.spools.append(spool)
            return spool

        spool = a_spool()
        tried = a_delivery("tried", clock=clock)
        tried.tries = 1
        for delivery in (
            tried,
            a_delivery("untried", clock=clock),
            a_delivery("iq", "iq", left=25.0, clock=clock),
            a_delivery("presence", "presence", left=60.0, clock=clock),
        ):
            await spool.store(delivery, b"{}")
        await spool.close()

        async def left() -> dict[str, float]:
            spool = a_spool()
            found = {each.id: each.deadline - clock.seconds() for each in await spool.restore()}
            await spool.close()
            return found

        clock.advance(77.0)
        for away, expected in (
            (10.0, {"tried": 890.0, "untried": 890.0, "iq": 15.0, "presence": 50.0}),
            (880.0, {"tried": 20.0, "untried": GRACE, "iq": 0.0, "presence": 0.0}),
            (5000.0, {"tried": 0.0, "untried": GRACE, "iq": 0.0, "presence": 0.0}),
            (-3600.0, {"tried": 900.0, "untried": 900.0, "iq": 25.0, "presence": 60.0}),
        ):
            wall[0] = 1_000_000.0 + away
            self.assertEqual(expected, {name: round(value, 3) for name, value in (await left()).items()})

    async def test_unreadable_row(self) -> None:
        """
        What a later version cannot read stays in the file, and does not keep the others from being served.
        """
        spool = self.open()
        await gatherResults([spool.store(a_delivery(name), b"{}") for name in ("d1", "d2")])
        await spool.close()
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("UPDATE deliveries SET sender = '@' WHERE id = 'd1'")
        self.assertEqual(["d2"], [delivery.id for delivery in await self.open().restore()])
        self.assertEqual([("d1",), ("d2",)], self.look("SELECT id FROM deliveries"))


class FailureTests(SqliteCase):
    """A file that cannot be used for a while."""

    async def test_thread_survives(self) -> None:
        """
        While another program holds the file, all that is asked for fails; afterwards it works again, and what ended
        meanwhile is gone too.
        """
        spool = self.open()
        await gatherResults([spool.store(a_delivery(name), b"{}") for name in ("d1", "d2")])
        away = self.path.with_name("away")
        await spool.close()
        self.path.rename(away)
        for asked in (spool.store(a_delivery("d3"), b"{}"), spool.end("d1", ()), spool.restore()):
            await self.assertFailure(asked, SpoolError)
        self.assertFalse(self.path.exists())
        away.rename(self.path)
        await spool.store(a_delivery("d4"), b"{}")
        self.assertEqual(["d2", "d4"], [each.id for each in await spool.restore()])

    async def test_one_that_cannot_be_written(self) -> None:
        """
        A mistake in one of a group is not the others' failure.
        """
        spool = self.open()
        asked = [spool.store(a_delivery(name), b"{}") for name in ("d1", "d1", "d2", "d3")]
        await self.assertFailure(asked.pop(1), sqlite3.IntegrityError)
        await gatherResults(asked)
        self.assertEqual(["d1", "d2", "d3"], [each.id for each in await spool.restore()])


class ModeTests(SqliteCase):
    """Nobody else reads it."""

    async def test_private(self) -> None:
        """
        The file and those beside it can be read by their owner only.
        """
        spool = self.open()
        await spool.store(a_delivery("d1"), b"{}")
        modes = {end: stat.S_IMODE(Path(f"{self.path}{end}").stat().st_mode) for end in ("", "-wal", "-shm")}
        self.assertEqual({"": 0o600, "-wal": 0o600, "-shm": 0o600}, modes)


class Inline:
    """A reactor whose thread is that of the test: it calls back when the test says so."""

    def __init__(self) -> None:
        from queue import SimpleQueue

        self._calls: SimpleQueue[Any] = SimpleQueue()

    def seconds(self) -> float:
        return 0.0

    def callFromThread(self, function: Any, *arguments: Any) -> None:
        self._calls.put((function, arguments))

    def until(self, done: Deferred[Any]) -> None:
        while not done.called:
            function, arguments = self._calls.get(timeout=20)
            function(*arguments)


class ModelTests(SynchronousTestCase):
    """Any sequence of operations, against a dict."""

    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("store"), st.binary(max_size=60)),
                st.tuples(st.just("end"), st.integers(0, 100)),
                st.tuples(st.just("note"), st.integers(0, 100)),
                st.tuples(st.just("body"), st.integers(0, 100)),
                st.tuples(st.just("wait"), st.none()),
                st.tuples(st.just("close"), st.none()),
                st.tuples(st.just("crash"), st.none()),
            ),
            max_size=40,
        )
    )
    @settings(deadline=None, max_examples=50)
    def test_random_operations(self, steps: list[tuple[str, Any]]) -> None:
        """
        What was stored and not ended is there, in order, with its notes, after any close and any crash.
        """
        reactor = Inline()
        path = Path(self.mktemp()).absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        prepare(path)

        def a_spool() -> SqliteSpool:
            how = {"window": 3, "window_bytes": 100, "ballast_bytes": 256 * 1024}
            return SqliteSpool(path, reactor, deadlines=DEADLINES, now=lambda: 1e6, **how)

        def wait(asked: list[Deferred[Any]]) -> list[Any]:
            together = gatherResults(asked, consumeErrors=True)
            reactor.until(together)
            return self.successResultOf(together)

        def restored(spool: SqliteSpool) -> list[tuple[str, int]]:
            [found] = wait([spool.restore()])
            return [(each.id, each.tries) for each in found]

        spool, old = a_spool(), []
        model: dict[str, tuple[Delivery, bytes]] = {}
        asked: list[Deferred[Any]] = []
        for number, (word, value) in enumerate(steps):
            chosen = list(model)[value % len(model)] if model and isinstance(value, int) else None
            if word == "store":
                delivery = a_delivery(f"d{number}", clock=reactor)
                model[delivery.id] = delivery, value
                asked.append(spool.store(delivery, value))
            elif word in ("wait", "close", "crash"):
                wait(asked)
                asked = []
                if word == "close":
                    wait([spool.close()])
                elif word == "crash":
                    # A note that nothing came after may be lost, so something does.
                    [_] = wait([spool.store(a_delivery(f"e{number}", clock=reactor), b"")])
                    model[f"e{number}"] = a_delivery(f"e{number}", clock=reactor), b""
                    copy = path.with_name(f"{path.name}-{number}")
                    for end in ("", "-wal"):
                        if Path(f"{path}{end}").exists():
                            shutil.copy(f"{path}{end}", f"{copy}{end}")
                    old.append(spool)
                    path = copy
                    spool = a_spool()
                    self.assertEqual([(name, each.tries) for name, (each, _) in model.items()], restored(spool))
            elif chosen is not None:
                wait(asked)
                asked = []
                if word == "end":
                    del model[chosen]
                    asked.append(spool.end(chosen, ()))
                elif word == "note":
                    model[chosen][0].tries += 1
                    spool.note(model[chosen][0])
                else:
                    self.assertEqual([model[chosen][1]], wait([spool.body(chosen)]))
        wait(asked)
        wait([spool.close()])
        self.assertEqual([(name, each.tries) for name, (each, _) in model.items()], restored(spool))
        wait([each.close() for each in (*old, spool)])
