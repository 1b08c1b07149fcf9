"""What every spool promises, and what the one on disk promises beside it; with real files, threads and a reactor."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThread
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.words.xish.domish import Element

from component_http.contract.address import Address
from component_http.contract.delivery import DeadLetter, Delivery
from component_http.contract.idempotency import LIFETIME, IdempotencyRecord
from component_http.contract.link import KEY_BYTES
from component_http.contract.outbound import Head, OutboundStanza
from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_COMPONENT, Limits, parse_stanzas
from component_http.errors import SpoolError, TimedOut
from component_http.interfaces import Found
from component_http.spool.database import prepare
from component_http.spool.dead_letters import KeptDeadLetter, Letters
from component_http.spool.delivery_rows import GRACE, RESTORED_AT_ONCE
from component_http.spool.memory import MemorySpool
from component_http.spool.outbound_rows import PAGE, PAGE_BYTES
from component_http.spool.pending import Pending, Waiting
from component_http.spool.sqlite import SqliteSpool
from component_http.spool.transaction import BUSY_SLICE
from component_http.spool.visit import status, wake
from component_http.spool.writer import MAX_GROUP
from component_http.testing import KeepingSpool
from tests.unit.outbound import outbound

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


def standing_clock() -> Any:
    """A reactor whose time is the test's, and whose turns and threads are the real one's."""
    clock: Any = Clock()
    clock.callLater, clock.callFromThread = reactor.callLater, reactor.callFromThread
    return clock


class SpoolSuite:
    """The promises of `component_http.interfaces.Spool`."""

    timeout = 120

    def a_spool(self, **limits: int) -> Any:
        """A spool by the wall clock `self.now`."""
        raise NotImplementedError

    def setUp(self) -> None:
        self.now = 1_000_000.0
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

    async def test_amended(self) -> None:
        """
        A request body that is replaced comes back as it was replaced; of a delivery that has ended nothing comes back.
        """
        await self.spool.store(a_delivery("d1"), b"before")
        await self.spool.amend("d1", b"after all")
        self.assertEqual(b"after all", await self.spool.body("d1"))
        await self.spool.end("d1", ())

    async def test_of_each_component(self) -> None:
        """
        Each component finds its own outbound stanzas, and those of a component that nobody serves are found, too.
        """
        red, blue = (evolve(a_departure(), head=Head(sender=f"bot@{name}.example.org/x")) for name in ("red", "blue"))
        numbers = await self.spool.push([red, blue, red])
        for domain, its in {"red": [numbers[0], numbers[2]], "blue": [numbers[1]], "green": []}.items():
            found = await self.spool.outbound_stanzas(0, f"{domain}.example.org")
            self.assertEqual(its, [each.number for each in found])
        self.assertEqual(3, len(await self.spool.outbound_stanzas(0)))
        self.assertEqual(
            [(numbers[1], "blue.example.org")], await self.spool.foreign({"red.example.org", "green.example.org"})
        )

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

    async def test_numbers(self) -> None:
        """
        What is to leave gets a number each, larger than any before, in the order of asking.
        """
        await gatherResults([self.spool.store(a_delivery(name), b"{}") for name in ("d1", "d2", "d3")])
        ended = [self.spool.end(name, [a_departure()] * count) for name, count in (("d1", 2), ("d2", 0), ("d3", 3))]
        numbers = [[*each] for each in await gatherResults(ended)]
        self.assertEqual([2, 0, 3], list(map(len, numbers)))
        together = [number for some in numbers for number in some]
        self.assertEqual(sorted(set(together)), together)
        for number in together:
            self.spool.confirmed(number)
        self.assertEqual([], await self.spool.outbound_stanzas(0))

    async def test_kept(self) -> None:
        """
        What is confirmed or has failed is not kept any more; the rest is.
        """
        numbers = [*await self.spool.push([a_departure()] * 70)]
        self.assertEqual(set(numbers), await self.spool.still_kept([*numbers, 10_000]))
        self.spool.confirmed(numbers[0])
        self.spool.failed(numbers[1], "reply_expired")
        self.assertEqual(set(numbers[2:]), await self.spool.still_kept(numbers))
        self.assertEqual(set(), await self.spool.still_kept([]))

    async def test_pushes(self) -> None:
        """
        What is pushed gets its numbers between those of answers, in the order of asking.
        """
        await gatherResults([self.spool.store(a_delivery(name), b"{}") for name in ("d1", "d2")])
        asked = [
            self.spool.push([a_departure()]),
            self.spool.end("d1", [a_departure()] * 2),
            self.spool.push([a_departure()] * 3),
            self.spool.push([]),
            self.spool.end("d2", [a_departure()]),
            self.spool.push([a_departure()]),
        ]
        numbers = [[*each] for each in await gatherResults(asked)]
        self.assertEqual([1, 2, 3, 0, 1, 1], list(map(len, numbers)))
        together = [number for some in numbers for number in some]
        self.assertEqual(sorted(set(together)), together)

    async def test_remembers(self) -> None:
        """
        What is remembered with a push, or with an end, comes back with the numbers of that, to its owner only.
        """
        await self.spool.store(a_delivery("d1"), b"{}")
        pushed = await self.spool.push([a_departure()] * 2, a_memo("k1", body=b'["a","b"]'))
        ended = await self.spool.end("d1", [a_departure()], record=a_memo("k2"))
        self.assertEqual(a_memo("k1", body=b'["a","b"]', numbers=tuple(pushed)), await self.spool.recall("ops", "k1"))
        self.assertEqual(a_memo("k2", numbers=tuple(ended)), await self.spool.recall("ops", "k2"))
        for owner, key in (("ops", "k3"), ("other", "k1")):
            self.assertIsNone(await self.spool.recall(owner, key))

    async def test_forgets_after_a_day(self) -> None:
        """
        It is remembered for a day, and then anew, with what is pushed then.
        """
        await self.spool.push([a_departure()], a_memo("k1"))
        self.now += LIFETIME - 1
        self.assertIsNotNone(await self.spool.recall("ops", "k1"))
        self.now += 1
        self.assertIsNone(await self.spool.recall("ops", "k1"))
        numbers = await self.spool.push([a_departure()], a_memo("k1", body=b"new"))
        self.now += LIFETIME - 1
        self.assertEqual(a_memo("k1", body=b"new", numbers=tuple(numbers)), await self.spool.recall("ops", "k1"))

    async def remembered(self, spool: Any, *sizes: int) -> list[str]:
        """Which of several keys with so large answers are still known."""
        for number, size in enumerate(sizes):
            await spool.push([a_departure()], a_memo(f"k{number}", body=b"x" * size))
            await spool.look({}, 500)
        found = [await spool.recall("ops", f"k{number}") for number in range(len(sizes))]
        await spool.close()
        return [record.key for record in found if record is not None]

    async def test_remembers_so_many(self) -> None:
        """
        The oldest are forgotten when there are too many.
        """
        self.assertEqual(["k2", "k3", "k4"], await self.remembered(self.a_spool(max_records=3), 9, 9, 9, 9, 9))

    async def test_remembers_so_much(self) -> None:
        """
        The oldest are forgotten when they are too large together, a single one too.
        """
        self.assertEqual(
            ["k2", "k3"], await self.remembered(self.a_spool(max_records_bytes=10_000), 900, 9000, 4000, 4000)
        )
        self.assertEqual([], await self.remembered(self.a_spool(max_records_bytes=10_000), 9000, 11_000))

    async def test_who_has_most_keys_loses_first(self) -> None:
        """
        However much one owner has remembered, in number or in bytes, the others' keys stay known.
        """
        for limits, size in ({"max_records": 10}, 9), ({"max_records_bytes": 20_000}, 5000):
            spool = self.a_spool(**limits)
            for number in range(2):
                await spool.push([a_departure()], evolve(a_memo(f"k{number}"), owner="calm"))
            for number in range(50):
                await spool.push([a_departure()], a_memo(f"k{number}", body=b"x" * size))
                await spool.look({}, 500)
            for owner, key, known in (
                ("calm", "k0", True),
                ("calm", "k1", True),
                ("ops", "k0", False),
                ("ops", "k49", True),
            ):
                self.assertEqual(known, await spool.recall(owner, key) is not None, (owner, key, limits))
            await spool.close()

    async def test_one_key(self) -> None:
        """
        The key of a spool is one that nobody has guessed.
        """
        key = await self.spool.key()
        self.assertEqual((KEY_BYTES, key), (len(key), await self.spool.key()))
        other = self.a_spool()
        self.assertNotEqual(key, await other.key())
        await other.close()

    async def test_looks(self) -> None:
        """
        Where nobody has put anything in, nothing is found.
        """
        self.assertEqual(Found([], False), await self.spool.look({"webhook": "closed"}, 500))

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
        self.assertEqual([], await self.spool.subscribers())

    async def test_subscribers_at_any_time(self) -> None:
        """
        Subscribers come and go, known or not, and nobody waits for it.
        """
        for change in (self.spool.subscribe, self.spool.subscribe, self.spool.unsubscribe, self.spool.unsubscribe):
            self.assertIsNone(change("bot@bot.example.org", "alice@example.org"))
        self.assertEqual([], await self.spool.subscribers())

    async def test_used_again_after_close(self) -> None:
        """
        A closed spool can be used again, and closed twice.
        """
        await self.spool.close()
        await self.spool.store(a_delivery("d1"), b"{}")
        await self.spool.end("d1", ())
        await gatherResults([self.spool.close(), self.spool.close()])


class DurableSuite(SpoolSuite):
    """The promises of one that is durable; `close` and what follows is a restart."""

    async def test_durable(self) -> None:
        """
        It says that it keeps.
        """
        self.assertTrue(self.spool.durable)

    async def test_restores(self) -> None:
        """
        Deliveries that have not ended are there after a restart, in their order, with their bodies, once.
        """
        for number in range(3):
            await self.spool.store(a_delivery(f"d{number}"), b"%d" % number)
        await self.spool.end("d1", ())
        for _ in range(2):
            await self.spool.close()
            self.assertEqual(["d0", "d2"], [delivery.id for delivery in await self.spool.restore()])
            self.assertEqual([], await self.spool.restore())
        self.assertEqual(b"2", await self.spool.body("d2"))

    async def test_outbound_stanzas(self) -> None:
        """
        What is neither confirmed nor failed is there after a restart, in its order, with its marks.
        """
        await self.spool.store(a_delivery("d1"), b"{}")
        one, two, three = await self.spool.end("d1", [a_departure("a"), a_departure("b"), a_departure("c")])
        [four] = await self.spool.push([a_departure("d")])
        self.spool.confirmed(one)
        self.spool.failed(two, "reply_expired")
        self.spool.suspect(four)
        await self.spool.close()
        found = await self.spool.outbound_stanzas(one)
        self.assertEqual([(three, False), (four, True)], [(each.number, each.suspect) for each in found])
        self.assertEqual([four], [each.number for each in await self.spool.outbound_stanzas(three)])
        self.assertEqual([], await self.spool.outbound_stanzas(four))

    async def test_subscribers(self) -> None:
        """
        Subscribers are there after a restart, oldest first, each once.
        """
        for user in ("bob@example.org", "alice@example.org", "bob@example.org", "eve@example.org"):
            self.spool.subscribe("bot@bot.example.org", user)
        self.spool.unsubscribe("bot@bot.example.org", "eve@example.org")
        await self.spool.close()
        found = [user for _, user in await self.spool.subscribers()]
        self.assertEqual(["bob@example.org", "alice@example.org"], found)


class MemorySpoolTests(SpoolSuite, TestCase):
    """The spool in memory."""

    def a_spool(self, **limits: int) -> MemorySpool:
        return MemorySpool(lambda: self.now, **limits)

    def test_not_durable(self) -> None:
        """
        It says that it forgets.
        """
        self.assertFalse(self.spool.durable)


class KeepingSpoolTests(DurableSuite, TestCase):
    """The spool of the tests."""

    def a_spool(self, **limits: int) -> KeepingSpool:
        return KeepingSpool(now=lambda: self.now, **limits)


class SqliteCase(TestCase):
    """Spools in files of their own, closed at the end."""

    timeout = 120

    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.spools: list[SqliteSpool] = []

    def tearDown(self) -> Any:
        return gatherResults([spool.close() for spool in self.spools])

    def open(self, path: Path | None = None, *, clock: Any = reactor, **how: Any) -> SqliteSpool:
        """A spool in this file."""
        prepare(path or self.path)
        how.setdefault("ballast_bytes", 256 * 1024)
        spool = SqliteSpool(path or self.path, clock, allowance=lambda domain: (DEADLINES, 0.0), **how)
        self.spools.append(spool)
        return spool

    def dead(self) -> list[KeptDeadLetter]:
        """The dead letters that another program sees."""
        with Letters(self.path) as letters:
            return list(letters.read(letters.ids()))

    def waiting(self) -> list[Waiting]:
        """The deliveries and outbound stanzas that another program sees."""
        with Pending(self.path) as pending:
            return list(pending.read(pending.names()))

    async def tries(self) -> list[tuple[int, int]]:
        """`tries` and `attempts` of the deliveries that a gateway finds after a kill."""
        return [(each.tries, each.attempts) for each in await self.crash().restore()]

    def look(self, query: str) -> list[Any]:
        """Rows of the file, where its format is what a test is about."""
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(query).fetchall()

    def crash(self) -> SqliteSpool:
        """A spool from what is on the disk now, as if the process had been killed."""
        copy = self.path.with_name(f"{self.path.name}-after-{len(self.spools)}")
        for end in ("", "-wal"):
            if Path(f"{self.path}{end}").exists():
                shutil.copy(f"{self.path}{end}", f"{copy}{end}")
        return self.open(copy)


class SqliteSpoolTests(DurableSuite, SqliteCase):
    """The spool on disk, held to the same."""

    def setUp(self) -> None:
        SqliteCase.setUp(self)
        SpoolSuite.setUp(self)

    def a_spool(self, **limits: int) -> SqliteSpool:
        clock = standing_clock()
        clock.seconds = lambda: self.now
        return self.open(self.path.with_name(f"spool-{len(self.spools)}"), clock=clock, **limits)

    def tearDown(self) -> Any:
        return SqliteCase.tearDown(self)


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

    async def test_one_turn_is_one_transaction(self) -> None:
        """
        What is asked for at once is written at once, though nothing is under way.
        """
        spool = self.open()
        await gatherResults([spool.store(a_delivery(f"d{number}"), b"{}") for number in range(20)])
        self.assertEqual(1, spool.commits)

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
        That a first attempt began is written at the next look; that one failed is written at once.
        """
        spool = self.open()
        delivery = a_delivery("d1")
        await spool.store(delivery, b"{}")
        delivery.tries = 1
        spool.note(delivery)
        await spool.restore()
        self.assertEqual([(0, 0)], await self.tries())
        await spool.look({}, 500)
        self.assertEqual([(1, 0)], await self.tries())
        delivery.attempts, delivery.failure = 1, TimedOut("60 s")
        spool.note(delivery)
        await spool.restore()
        self.assertEqual([(1, 1)], await self.tries())

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
        self.assertFalse(Path(f"{self.path}-wal").exists())
        self.assertEqual([("d1", 1)], [(each.id, each.tries) for each in self.waiting()])

    async def test_close_writes_what_came_after_a_close(self) -> None:
        """
        What was noted since the spool was closed is written when it is closed again.
        """
        spool = self.open()
        delivery = a_delivery("d1")
        await spool.store(delivery, b"{}")
        await spool.close()
        delivery.tries = 1
        spool.note(delivery)
        spool.subscribe("bot@bot.example.org", "alice@example.org")
        await spool.close()
        self.assertEqual([("d1", 1)], [(each.id, each.tries) for each in self.waiting()])
        self.assertEqual(["alice@example.org"], [user for _, user in await spool.subscribers()])

    async def test_close_writes_all_of_it(self) -> None:
        """
        However much was confirmed at the end, none of it leaves again after the restart.
        """
        spool = self.open()
        numbers = await spool.push([a_departure(str(number)) for number in range(3 * MAX_GROUP)])
        for number in numbers:
            spool.confirmed(number)
        await spool.close()
        self.assertEqual([], self.waiting())


def a_departure(id_: str = "m1", *, left: float = 100.0, age: float = 0.0, clock: Any = reactor) -> OutboundStanza:
    """A message that has so many seconds left, and is so old."""
    made = outbound(f"<message from='bot@bot.example.org' to='alice@example.org/phone' id='{id_}' type='chat'/>")
    now = clock.seconds()
    return evolve(made, expires=now + left, stored=now - age, delivery_id="d1")


def a_memo(key: str, *, body: bytes = b"{}", numbers: tuple[int, ...] = ()) -> IdempotencyRecord:
    return IdempotencyRecord("ops", key, "fingerprint", body, numbers)


class PushTests(SqliteCase):
    """What is pushed, and what is remembered with it, over the end of the process."""

    async def test_after_a_crash(self) -> None:
        """
        What is pushed is there after a kill, with the answer that is remembered and its numbers; the key is the same.
        """
        spool = self.open()
        key = await spool.key()
        await spool.push([a_departure("a")])
        numbers = await spool.push([a_departure("b"), a_departure("c")], a_memo("k1"))
        after = self.crash()
        self.assertEqual(["a", "b", "c"], [element_of(each)["id"] for each in await after.outbound_stanzas(0)])
        self.assertEqual(a_memo("k1", numbers=tuple(numbers)), await after.recall("ops", "k1"))
        self.assertEqual(key, await after.key())
        [later] = await after.push([a_departure("d")])
        self.assertGreater(later, numbers[-1])

    async def test_failed_push(self) -> None:
        """
        Of a push that fails nothing is kept or remembered.
        """
        spool = self.open()
        await spool.key()
        await spool.close()
        away = self.path.with_name("away")
        self.path.rename(away)
        await self.assertFailure(spool.push([a_departure()], a_memo("k1")), SpoolError)
        await self.assertFailure(spool.recall("ops", "k1"), SpoolError)
        away.rename(self.path)
        self.assertEqual((None, []), (await spool.recall("ops", "k1"), await spool.outbound_stanzas(0)))

    async def test_too_much_waits(self) -> None:
        """
        Where so much waits for the server nothing more is pushed or remembered, but deliveries end with what they
        answer; once the server has some of it there is room again.
        """
        spool = self.open(max_outbound=3)
        await spool.store(a_delivery("d1"), b"{}")
        numbers = await spool.push([a_departure()] * 3)
        await self.assertFailure(spool.push([a_departure()], a_memo("k1")), SpoolError)
        self.assertIsNone(await spool.recall("ops", "k1"))
        self.assertEqual(1, len(await spool.end("d1", [a_departure()], record=a_memo("k2"))))
        self.assertIsNotNone(await spool.recall("ops", "k2"))
        for number in numbers[:2]:
            spool.confirmed(number)
        self.assertEqual(1, len(await spool.push([a_departure()], a_memo("k1"))))
        self.assertIsNotNone(await spool.recall("ops", "k1"))

    async def test_full_of_one_component(self) -> None:
        """
        While so much of one component waits that it may push no more, another one still may, and that has an end too.
        """
        spool = self.open(max_outbound=8)
        red, blue = (evolve(a_departure(), head=Head(sender=f"{name}.example.org")) for name in ("red", "blue"))
        await spool.push([red] * 8)
        await self.assertFailure(spool.push([red]), SpoolError)
        await spool.push([blue])
        await self.assertFailure(spool.push([red]), SpoolError)

    async def test_from_before_there_were_several(self) -> None:
        """
        What a gateway has kept that served one component only is found by that one, by the sender of the stanza.
        """
        spool = self.open()
        [number] = await spool.push([a_departure()])
        await spool.close()
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute("UPDATE departures SET domain = NULL")
            connection.commit()
        self.assertEqual([number], [each.number for each in await spool.outbound_stanzas(0, "bot.example.org")])
        self.assertEqual([], await spool.outbound_stanzas(0, "other.example.org"))
        self.assertEqual([(number, "bot.example.org")], await spool.foreign({"other.example.org"}))

    async def test_old_memos_leave_the_file(self) -> None:
        """
        What nobody may ask for any more is deleted.
        """
        clock = standing_clock()
        spool = self.open(clock=clock)
        await spool.push([a_departure()], a_memo("k1"))
        clock.advance(LIFETIME / 2)
        await spool.push([a_departure()], a_memo("k2"))
        clock.advance(LIFETIME / 2)
        await spool.look({}, 500)
        self.assertEqual([("k2",)], self.look("SELECT key FROM memos"))


class OutboundTests(SqliteCase):
    """What is to leave, until the server has it."""

    async def test_in_the_same_transaction(self) -> None:
        """
        A delivery ends and its answer is kept with one commit; the numbers ascend, also over restarts.
        """
        spool = self.open()
        await gatherResults([spool.store(a_delivery(name), b"{}") for name in ("d1", "d2")])
        before = spool.commits
        first = await spool.end("d1", [a_departure("a"), a_departure("b")])
        self.assertEqual(before + 1, spool.commits)
        after = self.crash()
        self.assertEqual(["d2"], [each.id for each in await after.restore()])
        self.assertEqual(["a", "b"], [element_of(each)["id"] for each in await after.outbound_stanzas(0)])
        for number in first:
            spool.confirmed(number)
        await spool.close()
        spool = self.open()
        [second] = await spool.end("d2", [a_departure("c")])
        self.assertGreater(second, first[-1])
        self.assertEqual([second], [each.number for each in await spool.outbound_stanzas(0)])
        self.assertEqual([], await spool.outbound_stanzas(second))

    async def test_confirmed(self) -> None:
        """
        What the server has is not given again; that is written with what comes next.
        """
        spool = self.open()
        await spool.store(a_delivery("d1"), b"{}")
        numbers = await spool.end("d1", [a_departure(str(number)) for number in range(200)])
        commits = spool.commits
        for number in numbers[:-1]:
            spool.confirmed(number)
        self.assertEqual([numbers[-1]], [each.number for each in await spool.outbound_stanzas(0)])
        self.assertEqual((commits + 1, 1), (spool.commits, status(self.path).outbound_stanzas.count))

    async def test_pages(self) -> None:
        """
        Much is given in pieces, by number and by bytes, and none is missing.
        """
        spool = self.open()
        await spool.store(a_delivery("d1"), b"{}")
        large = OutboundStanza(b"<message>" + b"x" * (PAGE_BYTES // 2) + b"</message>", "message", 1e12, 0.0)
        numbers = await spool.end("d1", [*(a_departure(str(number)) for number in range(PAGE + 1)), *[large] * 5])
        found: list[int] = []
        sizes = []
        while page := await spool.outbound_stanzas(found[-1] if found else 0):
            found += [each.number or 0 for each in page]
            sizes.append(len(page))
        self.assertEqual((list(numbers), PAGE), (found, sizes[0]))
        self.assertGreater(len(sizes), 3)

    async def test_times(self) -> None:
        """
        Times are the reactor's again after a restart, and a clock that was set back gives nothing more time.
        """
        clock = standing_clock()
        clock.advance(500.0)
        wall = [1_000_000.0]
        spool = self.open(clock=clock, now=lambda: wall[0])
        await spool.push([a_departure(left=100.0, age=20.0, clock=clock)])
        await spool.close()
        for passed, left, age in (
            (0.0, 100.0, 20.0),
            (50.0, 50.0, 70.0),
            (200.0, -100.0, 220.0),
            (-3600.0, 120.0, 0.0),
        ):
            wall[0] = 1_000_000.0 + passed
            spool = self.open(clock=clock, now=lambda: wall[0])
            [found] = await spool.outbound_stanzas(0)
            await spool.close()
            self.assertEqual((left, age), (round(found.expires - 500.0, 3), round(500.0 - found.stored, 3)))

    async def test_wall_clock_that_is_set(self) -> None:
        """
        Whoever sets the wall clock while a gateway runs takes and gives no time, neither then nor at the next start.
        """
        clock = standing_clock()
        wall = [1_000_000.0]
        spool = self.open(clock=clock, now=lambda: wall[0])
        await spool.push([a_departure(left=100.0, clock=clock)], a_memo("k1"))
        await spool.store(a_delivery("d1", left=100.0, clock=clock), b"{}")
        since = clock.seconds()

        async def assert_left(spool: SqliteSpool, passed: float) -> None:
            [leaving] = await spool.outbound_stanzas(0)
            [delivery] = await spool.restore()
            self.assertEqual([], await spool.restore())
            left = [leaving.expires, leaving.stored + 100.0, delivery.deadline]
            self.assertEqual([100.0 - passed] * 3, [round(each - clock.seconds(), 2) for each in left])
            self.assertIsNotNone(await spool.recall("ops", "k1"))

        for jump in (25 * 3600.0, -50 * 3600.0):
            wall[0] += jump
            clock.advance(10.0)
            wall[0] += 10.0
            await assert_left(spool, clock.seconds() - since)
            await spool.look({}, 500)
            await spool.close()
            clock.advance(10.0)
            wall[0] += 10.0
            spool = self.open(clock=clock, now=lambda: wall[0])
            await assert_left(spool, clock.seconds() - since)
        await spool.store(a_delivery("d2", clock=clock), b"{}")
        await spool.end("d2", (), DeadLetter("bounced", "", 1))
        self.assertEqual([(wall[0], wall[0])], [(each.accepted, each.ended) for each in self.dead()])
        with Letters(self.path, now=lambda: wall[0]) as letters:
            letters.retry(["d2"])
        found = (await spool.look({}, 500)).deliveries
        self.assertEqual([900.0], [each.deadline - clock.seconds() for each in found])
        kept = status(self.path)
        oldest = (kept.deliveries.oldest, kept.outbound_stanzas.oldest)
        self.assertEqual([40, 40], [round(wall[0] - (since or 0.0)) for since in oldest])

    async def test_failed(self) -> None:
        """
        What could not leave becomes a dead letter, with what it was.
        """
        spool = self.open()
        await spool.store(a_delivery("d1"), b"{}")
        [number, other] = await spool.end("d1", [a_departure("late"), a_departure()])
        spool.failed(number, "reply_expired")
        self.assertEqual([other], [each.number for each in await spool.outbound_stanzas(0)])
        [dead] = self.dead()
        self.assertEqual((f"d1.{number}", "reply_expired", "late"), (dead.id, dead.outcome, dead.stanza_id))
        self.assertEqual(("message", "chat", None), (dead.kind, dead.type, dead.body))
        self.assertEqual(("alice@example.org/phone", "bot@bot.example.org"), (dead.sender, dead.recipient))
        self.assertIn(b"id='late'", dead.reply or b"")

    async def test_bounced(self) -> None:
        """
        What came back becomes a dead letter, before the server has confirmed it or long after, and leaves no more.
        """
        spool = self.open()
        outbound_stanzas = [a_departure("early"), a_departure("late"), a_departure()]
        early, late, other = await spool.push(outbound_stanzas)
        spool.bounced(early, outbound_stanzas[0], "it came back: forbidden")
        spool.confirmed(early)
        spool.confirmed(late)
        self.assertEqual([other], [each.number for each in await spool.outbound_stanzas(0)])
        spool.bounced(late, outbound_stanzas[1], "it came back: item-not-found")
        await spool.look({}, 500)
        self.assertEqual(
            [
                (f"d1.{early}", "reply_bounced", "it came back: forbidden", "early"),
                (f"d1.{late}", "reply_bounced", "it came back: item-not-found", "late"),
            ],
            [(each.id, each.outcome, each.note, each.stanza_id) for each in self.dead()],
        )

    async def test_refused(self) -> None:
        """
        The dead letter of what the server refuses has the server's own word.
        """
        spool = self.open()
        [number] = await spool.push([a_departure()])
        spool.failed(number, "reply_refused", "policy-violation")
        self.assertEqual([], await spool.outbound_stanzas(0))
        self.assertEqual([("reply_refused", "policy-violation")], [(each.outcome, each.note) for each in self.dead()])

    async def test_suspects_after_a_crash(self) -> None:
        """
        What is suspect is so at once, is written without anybody asking, and is so after a kill; so is who asked.
        """
        asked = a_delivery("d1", stanza_id=None).stanza
        spool = self.open()
        first, second = await spool.push([evolve(a_departure(), asked=asked), a_departure()])
        spool.suspect(first)
        [known, other] = await spool.outbound_stanzas(0)
        self.assertEqual((True, False, asked, None), (known.suspect, other.suspect, known.asked, other.asked))
        spool.suspect(second)
        await spool.look({}, 500)
        found = await self.crash().outbound_stanzas(0)
        self.assertEqual([(True, asked), (True, None)], [(each.suspect, each.asked) for each in found])

    async def test_not_kept_when_it_fails(self) -> None:
        """
        Where the end of a delivery cannot be written it stays, for its answer is nowhere else, until it is ended
        without one; where nothing is to leave it is gone later on. Its dead letter is written then.
        """
        spool = self.open()
        await gatherResults([spool.store(a_delivery(name), b"{}") for name in ("d1", "d2")])
        await spool.close()
        away = self.path.with_name("away")
        self.path.rename(away)
        letter = DeadLetter("bounced", "why", 1)
        await self.assertFailure(spool.end("d1", [a_departure()], letter), SpoolError)
        away.rename(self.path)
        await spool.store(a_delivery("d3"), b"{}")
        self.assertEqual(["d1", "d2", "d3"], [each.id for each in await spool.restore()])
        await spool.close()
        self.path.rename(away)
        await self.assertFailure(spool.end("d1", (), letter), SpoolError)
        away.rename(self.path)
        await spool.store(a_delivery("d4"), b"{}")
        self.assertEqual(["d2", "d3", "d4"], [each.id for each in await spool.restore()])
        self.assertEqual((["d1"], []), ([each.id for each in self.dead()], await spool.outbound_stanzas(0)))


def element_of(outbound: OutboundStanza) -> Element:
    [element] = parse_stanzas(outbound.xml.decode(), Limits())
    return element


class LettersTests(SqliteCase):
    """Dead letters: what was given up."""

    async def test_kept(self) -> None:
        """
        A delivery that was given up leaves its request, what came last, and the times.
        """
        spool = self.open(clock=standing_clock(), now=lambda: 1_000_000.0)
        await gatherResults([spool.store(a_delivery(name), b'{"body":"hi"}') for name in ("d1", "d2")])
        await spool.end("d1", (), DeadLetter("refused_reply", "kind: unknown", 3, 200, "application/json", b"{1}"))
        await spool.end("d2", ())
        [dead] = self.dead()
        self.assertEqual(("d1", "refused_reply", "kind: unknown"), (dead.id, dead.outcome, dead.note))
        self.assertEqual((3, b'{"body":"hi"}'), (dead.tries, dead.body))
        self.assertEqual((200, "application/json", b"{1}"), (dead.status, dead.media_type, dead.response))
        self.assertEqual((1_000_000.0, 1_000_000.0), (dead.accepted, dead.ended))
        self.assertEqual([], await spool.restore())

    async def test_too_many(self) -> None:
        """
        The oldest go when there are too many, and those that are too old.
        """
        clock = standing_clock()
        spool = self.open(max_letters=3, letter_days=1.0, clock=clock, now=lambda: 1_000_000.0 + clock.seconds())
        for number in range(5):
            await spool.store(a_delivery(f"d{number}"), b"{}")
            await spool.end(f"d{number}", (), DeadLetter("bounced", "", 1))
        await spool.look({}, 500)
        self.assertEqual(["d2", "d3", "d4"], [each.id for each in self.dead()])
        clock.advance(86_400.0 / 2)
        await spool.store(a_delivery("d5"), b"{}")
        await spool.end("d5", (), DeadLetter("bounced", "", 1))
        clock.advance(86_400.0 / 2 + 1)
        await spool.look({}, 500)
        self.assertEqual(["d5"], [each.id for each in self.dead()])

    async def letters_of(self, *senders: str, most: int) -> list[str]:
        """Whose letters are kept, of these that came in this order."""
        spool = self.open(max_letters=most)
        for number, sender in enumerate(senders):
            await spool.store(a_delivery(f"d{number}", sender=sender), b"{}")
            await spool.end(f"d{number}", (), DeadLetter("bounced", "", 1))
        await spool.look({}, 500)
        return [each.sender for each in self.dead()]

    async def test_who_has_most_letters_loses_first(self) -> None:
        """
        However many dead letters one sender causes, from whatever resource, those of others are kept.
        """
        calm = [f"user{number}@example.org/phone" for number in range(5)]
        flood = [f"mallory@evil.example/{number}" for number in range(100)]
        self.assertEqual([*calm, *flood[-5:]], await self.letters_of(*calm, *flood, most=10))

    async def test_domain_that_has_most_letters_loses_first(self) -> None:
        """
        However many senders one domain has, those of domains with fewer letters are kept.
        """
        calm = [f"user{number}@example.org/phone" for number in range(4)]
        flood = [f"mallory{number}@evil.example/x" for number in range(100)]
        self.assertEqual([*calm, *flood[-6:]], await self.letters_of(*calm, *flood, most=10))

    async def test_too_large(self) -> None:
        """
        The oldest go when they are too large together.
        """
        spool = self.open(max_letters_bytes=4000)
        for number in range(5):
            await spool.store(a_delivery(f"d{number}"), b"x" * 1001)
            await spool.end(f"d{number}", (), DeadLetter("bounced", "", 1))
        await spool.look({}, 500)
        self.assertEqual(["d2", "d3", "d4"], [each.id for each in self.dead()])

    async def test_given_up_again(self) -> None:
        """
        A letter that was tried again and given up again is one letter, with what came last.
        """
        spool = self.open()
        for note in ("first", "second"):
            await spool.store(a_delivery("d1"), b"{}")
            await spool.end("d1", (), DeadLetter("bounced", note, 1))
        self.assertEqual([("d1", "second")], [(each.id, each.note) for each in self.dead()])


class BusyTests(SqliteCase):
    """Another program that writes to the file, and does not end."""

    async def test_wait(self) -> None:
        """
        It is waited for, and what was asked for is done when it has ended.
        """
        spool = self.open()
        await spool.store(a_delivery("d1"), b"{}")
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            asked = [spool.store(a_delivery("d2"), b"{}"), spool.push([a_departure()])]
            await deferLater(reactor, 2 * BUSY_SLICE)
            self.assertEqual([False, False], [each.called for each in asked])
            other.execute("COMMIT")
            await gatherResults(asked)

    async def test_close(self) -> None:
        """
        At the end nobody waits for it: what could not be written is told, and the file is let go of.
        """
        spool = self.open()
        await spool.store(a_delivery("d1"), b"{}")
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            asked = spool.store(a_delivery("d2"), b"{}")
            await deferLater(reactor, 2 * BUSY_SLICE)
            spool.confirmed(1)
            closed = spool.close()
            await self.assertFailure(asked, SpoolError)
            await closed
        self.assertEqual(["d1"], [each.id for each in await self.open().restore()])

    async def test_hurry(self) -> None:
        """
        So it is from when the process is about to end.
        """
        spool = self.open()
        await spool.store(a_delivery("d1"), b"{}")
        with closing(sqlite3.connect(self.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            spool.hurry()
            await self.assertFailure(spool.end("d1", [a_departure()]), SpoolError)


class LookTests(SqliteCase):
    """What other programs leave in the file, and find there."""

    async def test_commands(self) -> None:
        """
        What another program has put into the file is found once, and the next start finds it anyway.
        """
        spool = self.open()
        await gatherResults([spool.store(a_delivery(name), b"{}") for name in ("d1", "d2")])
        self.assertEqual(Found([], False), await spool.look({}, 500))
        commands = (
            "INSERT INTO commands (verb, argument) VALUES ('deliver', 'd2'), ('deliver', 'gone'), ('depart', '1')"
        )
        for _ in range(2):
            with closing(sqlite3.connect(self.path)) as connection, connection:
                connection.execute(commands)
            found = await spool.look({}, 500)
            self.assertEqual((["d2"], True), ([each.id for each in found.deliveries], found.outbound_stanzas))
            self.assertEqual(Found([], False), await spool.look({}, 500))
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(commands)
        self.assertEqual(["d1"], [each.id for each in await spool.restore()])
        found = await spool.look({}, 500)
        self.assertEqual((["d2"], False), ([each.id for each in found.deliveries], found.outbound_stanzas))

    async def test_begun(self) -> None:
        """
        What is told to be noted is, and survives a kill.
        """
        spool = self.open()
        delivery = a_delivery("d1")
        await spool.store(delivery, b"{}")
        delivery.tries = 1
        await spool.begun(delivery)
        [found] = await self.crash().restore()
        self.assertEqual(1, found.tries)

    async def test_many_to_be_delivered(self) -> None:
        """
        Of very many that are retried so many are found as there is room for, in order, also over a restart.
        """
        spool = self.open()
        await gatherResults([spool.store(a_delivery(f"d{number}"), b"{}") for number in range(6)])
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(
                "INSERT INTO commands (verb, argument) SELECT 'deliver', id FROM deliveries WHERE number > 1"
            )
            connection.execute("INSERT INTO commands (verb, argument) VALUES ('depart', '7')")
        found = await spool.look({}, 2)
        self.assertEqual((["d1", "d2"], True), ([each.id for each in found.deliveries], found.outbound_stanzas))
        self.assertEqual([], (await spool.look({}, 0)).deliveries)
        await spool.close()
        spool = self.open()
        self.assertEqual(["d0", "d1", "d2"], [each.id for each in await spool.restore()])
        found = await spool.look({}, 500)
        self.assertEqual(["d3", "d4", "d5"], [each.id for each in found.deliveries])

    async def test_drops(self) -> None:
        """
        What somebody drops is found once: a stanza is gone then, a delivery is for the gateway to end.
        """
        spool = self.open()
        await gatherResults([spool.store(a_delivery(name), b"{}") for name in ("d1", "d2")])
        numbers = await spool.push([a_departure()] * 2)
        for _ in range(2):
            with closing(sqlite3.connect(self.path)) as connection, connection:
                connection.execute(
                    "INSERT INTO commands (verb, argument)"
                    f" VALUES ('drop_delivery', 'd1'), ('drop_departure', '{numbers[0]}'), ('drop_departure', x'ff'),"
                    " ('drop_departure', '9223372036854775808')"
                )
            self.assertEqual(Found([], False, ["d1"], [numbers[0]]), await spool.look({}, 500))
            self.assertEqual([numbers[1]], [each.number for each in await spool.outbound_stanzas(0)])
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("INSERT INTO commands (verb, argument) VALUES ('drop_delivery', 'd1')")
        self.assertEqual(["d2"], [each.id for each in await spool.restore()])

    async def test_restored_in_pages(self) -> None:
        """
        Very many deliveries are restored some at a time, in order, and none that came meanwhile.
        """
        spool = self.open()
        ids = [f"d{number}" for number in range(2 * RESTORED_AT_ONCE + 1)]
        await gatherResults([spool.store(a_delivery(name), b"{}") for name in ids])
        found: list[str] = []
        sizes = []
        while page := await spool.restore():
            await spool.store(a_delivery(f"new{len(sizes)}"), b"{}")
            found += [each.id for each in page]
            sizes.append(len(page))
        self.assertEqual((ids, [RESTORED_AT_ONCE, RESTORED_AT_ONCE, 1]), (found, sizes))

    async def test_wake(self) -> None:
        """
        Somebody else's word that the webhook is back is heard once, and is nothing to a gateway that starts.
        """
        spool = self.open()
        await spool.look({}, 500)
        wake(self.path)
        self.assertEqual([True, False], [(await spool.look({}, 500)).wake for _ in range(2)])
        wake(self.path)
        self.assertEqual([], await spool.restore())
        self.assertFalse((await spool.look({}, 500)).wake)

    async def test_facts(self) -> None:
        """
        A fact is written when it has changed, and then alone.
        """
        spool = self.open()
        await spool.look({"webhook": "closed"}, 500)
        commits = spool.commits
        await spool.look({"webhook": "closed"}, 500)
        self.assertEqual(commits, spool.commits)
        await spool.look({"webhook": "open"}, 500)
        self.assertEqual("open", status(self.path).webhook)


class SubscriberTests(SqliteCase):
    """Who is to be told that the component is there."""

    def subscribe(self, spool: SqliteSpool, *users: str) -> None:
        for user in users:
            spool.subscribe("bot@bot.example.org", f"{user}@example.org")

    async def users(self, spool: SqliteSpool) -> list[str]:
        return [user.partition("@")[0] for _, user in await spool.subscribers()]

    async def test_after_a_crash(self) -> None:
        """
        Subscribers are there after a kill, in the order in which they came, with the addresses that they know.
        """
        spool = self.open()
        self.subscribe(spool, "alice", "bob", "carol", "alice")
        spool.subscribe("bot.example.org", "alice@example.org")
        spool.unsubscribe("bot@bot.example.org", "bob@example.org")
        spool.unsubscribe("other@bot.example.org", "carol@example.org")
        await spool.look({}, 500)
        after = self.crash()
        self.assertEqual(
            [
                ("bot@bot.example.org", "alice@example.org"),
                ("bot@bot.example.org", "carol@example.org"),
                ("bot.example.org", "alice@example.org"),
            ],
            await after.subscribers(),
        )

    async def test_the_last_word_counts(self) -> None:
        """
        Whoever comes and goes between two transactions is kept, or not, as he ended.
        """
        spool = self.open()
        self.subscribe(spool, "alice", "bob")
        await spool.look({}, 500)
        spool.unsubscribe("bot@bot.example.org", "alice@example.org")
        self.subscribe(spool, "alice", "carol")
        spool.unsubscribe("bot@bot.example.org", "carol@example.org")
        self.assertEqual(["alice", "bob"], await self.users(spool))

    async def test_no_transaction_of_its_own(self) -> None:
        """
        A subscriber is written with what comes next, and many are one transaction.
        """
        spool = self.open()
        await spool.store(a_delivery("d1"), b"{}")
        self.subscribe(spool, *(f"u{number}" for number in range(1000)))
        await deferToThread(lambda: None)
        self.assertEqual((1, 0), (spool.commits, len(await self.crash().subscribers())))
        await spool.end("d1", ())
        self.assertEqual((2, 1000), (spool.commits, len(await self.crash().subscribers())))

    async def test_close_writes_them(self) -> None:
        """
        Who came just before the spool was closed is in the file.
        """
        spool = self.open()
        await spool.subscribers()
        self.subscribe(spool, "alice")
        await spool.close()
        self.assertEqual(["alice"], await self.users(spool))


class WindowTests(SqliteCase):
    """Not all bodies are in memory."""

    async def test_beyond_the_window(self) -> None:
        """
        Bodies beyond the window, by number or by bytes, come from the file: the oldest, and what is asked for again.
        """
        for window in ({"window": 2}, {"window_bytes": 20}):
            spool = self.open(**window)
            bodies = {f"d{number}": b"%010d" % number for number in range(10)}
            await gatherResults([spool.store(a_delivery(name), body) for name, body in bodies.items()])
            at_once = [name for name in bodies if spool.body(name).called]
            self.assertEqual(["d8", "d9"], at_once)
            for name, body in bodies.items():
                self.assertEqual(body, await spool.body(name))
            await spool.store(a_delivery("d10"), b"%010d" % 10)
            self.assertTrue(spool.body("d10").called)
            self.assertFalse(spool.body("d10").called)
            await gatherResults([spool.end(delivery.id, ()) for delivery in await spool.restore()])

    async def test_a_large_one(self) -> None:
        """
        A body that is larger than all that may be in memory comes from the file.
        """
        spool = self.open(window_bytes=20)
        await gatherResults([spool.store(a_delivery("d1"), b"1"), spool.store(a_delivery("d2"), b"2" * 21)])
        self.assertEqual([b"1", b"2" * 21], await gatherResults([spool.body("d1"), spool.body("d2")]))
        await spool.store(a_delivery("d3"), b"3")
        self.assertTrue(spool.body("d3").called)

    async def test_after_the_first_attempt(self) -> None:
        """
        A delivery whose body was read once leaves its place in memory to the next, and is read from the file then.
        """
        spool = self.open(window=1)
        for name in ("d1", "d2"):
            await spool.store(a_delivery(name), name.encode())
            self.assertTrue(spool.body(name).called)
        again = spool.body("d1")
        self.assertFalse(again.called)
        self.assertEqual(b"d1", await again)

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

    async def test_amended_before_a_crash(self) -> None:
        """
        A request body that was replaced is the new one after a kill, too.
        """
        spool = self.open()
        await spool.store(a_delivery("d1"), b"before")
        await spool.amend("d1", b"after all")
        after = self.crash()
        [found] = await after.restore()
        self.assertEqual((b"after all", 9), (await after.body("d1"), found.size))

    async def test_grace(self) -> None:
        """
        A message that the webhook has not seen waits as long as its grace; one that it has seen, or an iq, does not.
        """
        clock, wall = standing_clock(), [1_000_000.0]
        prepare(self.path)

        def a_spool() -> SqliteSpool:
            spool = SqliteSpool(
                self.path, clock, allowance=lambda domain: (DEADLINES, 3600.0), now=lambda: wall[0], ballast_bytes=4096
            )
            self.spools.append(spool)
            return spool

        spool = a_spool()
        seen = a_delivery("seen", clock=clock)
        seen.tries = 1
        for delivery in (seen, a_delivery("unseen", clock=clock), a_delivery("iq", "iq", left=25.0, clock=clock)):
            await spool.store(delivery, b"{}")
        await spool.close()
        for away, expected in (
            (1000.0, {"seen": (0, 0, -1000), "unseen": (0, 2600, -1000), "iq": (0, 0, -1000)}),
            (5000.0, {"seen": (0, 0, -5000), "unseen": (GRACE, GRACE, -5000), "iq": (0, 0, -5000)}),
        ):
            wall[0] = 1_000_000.0 + away
            spool = a_spool()
            found = {
                each.id: tuple(round((at or 0.0) - clock.seconds()) for at in (each.deadline, each.ends, each.accepted))
                for each in await spool.restore()
            }
            await spool.close()
            self.assertEqual(expected, found)

    async def test_time_left(self) -> None:
        """
        The time a gateway was away counts; a message never tried gets one more try, and a clock that was set back gives
        nobody more than its kind may have.
        """
        clock = standing_clock()
        wall = [1_000_000.0]
        prepare(self.path)

        def a_spool() -> SqliteSpool:
            spool = SqliteSpool(
                self.path, clock, allowance=lambda domain: (DEADLINES, 0.0), now=lambda: wall[0], ballast_bytes=4096
            )
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
        again = self.open()
        self.assertEqual(["d2"], [delivery.id for delivery in await again.restore()])
        await again.close()
        found = status(self.path)
        self.assertEqual((1, 1), (found.deliveries.count, found.set_aside.count))


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

    async def test_letter_that_cannot_be_written(self) -> None:
        """
        A mistake in a dead letter is not the failure of all that comes after it.
        """
        spool = self.open()
        await gatherResults([spool.store(a_delivery(name), b"{}") for name in ("d1", "d2")])
        await self.assertFailure(spool.end("d1", (), DeadLetter("bounced", "\ud800", 1)), UnicodeEncodeError)
        await spool.store(a_delivery("d3"), b"{}")
        self.assertEqual(["d2", "d3"], [each.id for each in await spool.restore()])


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

    def callLater(self, seconds: float, function: Any) -> None:
        self._calls.put((function, ()))

    def until(self, done: Deferred[Any]) -> None:
        while not done.called:
            function, arguments = self._calls.get(timeout=60)
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
            return SqliteSpool(path, reactor, allowance=lambda domain: (DEADLINES, 0.0), now=lambda: 1e6, **how)

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
                    wait([spool.look({}, 500)])
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


DAMAGE = {
    "deliveries": {
        **dict.fromkeys(("id", "kind", "type", "stanza_id", "sender", "recipient", "uri"), (b"x", b"\xff")),
        "deadline": ("soon", b"x", float("inf")),
        **dict.fromkeys(("tries", "attempts", "size"), ("soon", b"x", -1, 1.5)),
        "body": ("text", 7),
    },
    "departures": {
        **dict.fromkeys(("kind", "delivery_id"), (b"x",)),
        **dict.fromkeys(("stored", "expires"), ("soon", b"x", float("inf"))),
        "xml": ("text", 7),
    },
    "subscribers": {"component": (b"x",), "user": (b"x",)},
    "memos": {"fingerprint": (b"x",), "body": ("text", 7), "numbers": ("{", "[1, null]", b"[", "[" * 100_000)},
    "facts": {"value": ("zz", b"x", "00")},
}
"""By table and column, values that no gateway writes there."""


class DamagedRowTests(SqliteCase):
    """Rows that hold what no gateway has written."""

    async def fill(self, spool: SqliteSpool) -> None:
        """Two rows in each table, but one in `facts`."""
        await gatherResults([spool.store(a_delivery(name), b"{}") for name in ("d1", "d2")])
        for key in ("k1", "k2"):
            await spool.push([a_departure(key)], a_memo(key))
        spool.subscribe("bot@bot.example.org", "alice@example.org")
        spool.subscribe("bot@bot.example.org", "bob@example.org")
        await spool.key()
        await spool.look({}, 500)

    async def read(self, spool: SqliteSpool) -> dict[str, int]:
        """How many rows can be read of each table."""
        keys = [await spool.recall("ops", key) for key in ("k1", "k2")]
        return {
            "deliveries": len(await spool.restore()),
            "departures": len(await spool.outbound_stanzas(0)),
            "subscribers": len(await spool.subscribers()),
            "memos": sum(record is not None for record in keys),
            "facts": len(await spool.key()) // KEY_BYTES,
        }

    async def test_set_aside(self) -> None:
        """
        Whatever stands in whichever column, all other rows are served, and the row is set aside and named in the log.
        """
        await self.fill(whole := self.open())
        sound = await self.read(whole)
        await whole.close()
        begin = self.path.read_bytes()
        for table, columns in DAMAGE.items():
            for column, values in columns.items():
                for value in values:
                    with self.subTest(table=table, column=column, value=str(value)[:20]):
                        self.path.write_bytes(begin)
                        self.harm(table, column, value)
                        with capturedLogs() as logs:
                            found = await self.read(spool := self.open())
                            await spool.look({}, 500)
                            await spool.close()
                        self.assertEqual(sound | {table: 1}, found)
                        self.assertEqual([(table, 1)], self.look("SELECT source, count(*) FROM set_aside"))
                        [line] = [each for each in logs if each["log_level"] is LogLevel.error]
                        self.assertEqual([(line["table"], line["row"])], self.look("SELECT source, row FROM set_aside"))
                        self.assertEqual(sound | {table: 1}, await self.read(again := self.open()))
                        await again.close()

    def harm(self, table: str, column: str, value: object) -> None:
        """Put a value into a column of the first row."""
        row = "SELECT rowid FROM facts WHERE name = 'key'" if table == "facts" else f"SELECT min(rowid) FROM {table}"
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ({row})", (value,))

    async def test_text_that_is_not_utf8(self) -> None:
        """
        Text of other bytes than UTF-8, which SQLite hands on as it is, stops nothing either.
        """
        await self.fill(spool := self.open())
        await spool.close()
        with closing(sqlite3.connect(self.path)) as connection, connection:
            connection.execute("UPDATE deliveries SET stanza_id = CAST(x'ff41' AS TEXT) WHERE number = 1")
        with capturedLogs():
            found = await self.read(spool := self.open())
            await spool.close()
        self.assertEqual(1, found["deliveries"])
        self.assertEqual([(1,)], self.look("SELECT count(*) FROM set_aside"))

    async def test_who_asked(self) -> None:
        """
        An answer leaves though it cannot be read who is to be told if the server refuses it.
        """
        spool = self.open()
        await spool.push([evolve(a_departure(), asked=a_delivery("d1").stanza)])
        for damage in ("{", "[" * 100_000, "[1, 2, 3, 4, 5, 6]", '["message"]', "7"):
            with closing(sqlite3.connect(self.path)) as connection, connection:
                connection.execute("UPDATE departures SET asked = ?", (damage,))
            [found] = await spool.outbound_stanzas(0)
            self.assertIsNone(found.asked)

    async def test_facts(self) -> None:
        """
        Where the facts of a stanza cannot be read, or an older gateway has not kept them, its XML has them; without
        that it has neither sender nor recipient.
        """
        spool = self.open()
        await spool.push([kept := a_departure()])
        for damage in (None, b"x", "{", "[" * 100_000, "[1, 2, 3, 4, 5]", '["chat"]', "7"):
            with closing(sqlite3.connect(self.path)) as connection, connection:
                connection.execute("UPDATE departures SET head = ?", (damage,))
            [found] = await spool.outbound_stanzas(0)
            self.assertEqual(kept.head, found.head)
        for xml in (b"<message", b"\xff", b"<message/>", b""):
            with closing(sqlite3.connect(self.path)) as connection, connection:
                connection.execute("UPDATE departures SET xml = ?", (xml,))
            [found] = await spool.outbound_stanzas(0)
            self.assertEqual(Head(), found.head)
