"""The log of deliveries: what is kept, how much of it, and how it is shown."""

from __future__ import annotations

import json
import tracemalloc
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from component_http.api.deliveries import Deliveries
from component_http.cli import main
from component_http.contract.ended import EndedDelivery, ReplayResult, WhichEnded
from component_http.contract.outbound import OutboundStanza
from component_http.delivery.replays import NO_BODY, Replays
from component_http.errors import SettingsError, SpoolError
from component_http.interfaces.tracer import AttemptReport
from component_http.operations.metrics import Counters
from component_http.settings import SpoolSettings
from component_http.spool.database import prepare
from component_http.spool.ended import Ended
from component_http.spool.ended_rows import Log
from component_http.spool.sqlite import SqliteSpool
from component_http.testing import RecordingOutlet, ScriptedWebhook, json_response
from tests.relay_world import relay_world
from tests.unit.api_world import NARROW, ApiTestCase
from tests.unit.dead_letters import changing
from tests.unit.test_delivery import a_stanza
from tests.unit.test_full_disk import DiskCase
from tests.unit.test_spool_suite import DEADLINES, Inline, a_delivery

ROW = {
    "id": "d1",
    "bytes": 100,
    "ended": 1010.0,
    "accepted": 1000.0,
    "outcome": "replied",
    "kind": "message",
    "type": "chat",
    "stanza_id": "m1",
    "sender": "alice@example.org/x",
    "recipient": "bot@bot.example.org",
    "through_room": 0,
    "uri": "jabber:component:accept",
    "route": None,
    "tries": 1,
    "first": 7,
    "note": None,
    "attempts": json.dumps([[1, 1_000_000, 5000, 100, 4000, 200, None, "{}", "replied", None]]),
    "stanzas": json.dumps([["message", "chat", "r1", "alice@example.org/x", 90]]),
    "size": 2,
    "body": b"{}",
}


def insert(path: Path, **columns: Any) -> None:
    row = {**ROW, **columns}
    with changing(path) as connection:
        connection.execute(
            f"INSERT INTO ended ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})", list(row.values())
        )


def command(path: Path, *arguments: str) -> tuple[int, str, str]:
    """What `component-http deliveries` ends with, and what it prints."""
    printed, complaints = StringIO(), StringIO()
    with redirect_stdout(printed), redirect_stderr(complaints):
        status = main(["deliveries", *arguments, "--spool", str(path)])
    return status, printed.getvalue(), complaints.getvalue()


class FileCase(SynchronousTestCase):
    """A spool's file."""

    def setUp(self) -> None:
        self.path = Path(self.enterContext(TemporaryDirectory())) / "spool.sqlite3"
        prepare(self.path)

    def read(self, **which: Any) -> list[EndedDelivery]:
        with Ended(self.path) as ended:
            return list(ended.read(WhichEnded(**which)))


class KeepingTests(FileCase):
    """What the spool keeps of a delivery that ends."""

    def spool(self, log: Log) -> SqliteSpool:
        self.reactor = Inline()
        self.counters = Counters()
        self.wall = 1e6
        spool = SqliteSpool(
            self.path,
            self.reactor,
            allowance=lambda domain: (DEADLINES, 0.0),
            now=lambda: self.wall,
            observer=self.counters,
            log=log,
        )
        self.addCleanup(lambda: self.wait(spool.close()))
        return spool

    def wait(self, done: Deferred[Any]) -> Any:
        self.reactor.until(done)
        return self.successResultOf(done)

    def end(self, spool: SqliteSpool, name: str, stanzas: int = 0) -> list[int]:
        """Let a delivery end after two attempts."""
        delivery = a_delivery(name, clock=self.reactor)
        self.wait(spool.store(delivery, b"{}"))
        assert spool.log is not None
        tracer = spool.log.tracer
        began = self.reactor.seconds()
        tracer.attempted(delivery, AttemptReport(1, began, 0.01, 0.002, None, None, "refused", b"", "retry", 1.5), None)
        tracer.attempted(delivery, AttemptReport(2, began, 0.25, None, 0.2, 200, None, b"\xff{}", "replied"), None)
        leaving = [
            OutboundStanza(xml=b"<message/>", kind="message", expires=9.0, stored=0.0, delivery_id=name)
        ] * stanzas
        tracer.ended(delivery, "replied", None, leaving)
        return list(self.wait(spool.end(name, leaving)))

    def test_life_and_fates(self) -> None:
        """
        A delivery is kept with its attempts, and each of its stanzas with what became of it, also after a restart.
        """
        spool = self.spool(Log(100, 1 << 20, 1.0, bodies=True))
        numbers = self.end(spool, "d1", stanzas=3)
        assert spool.log is not None
        spool.log.tracer.settled(numbers[0], "d1", "confirmed")
        spool.log.tracer.settled(numbers[1], "d1", "refused", "too large")
        self.wait(spool.close())
        spool = self.spool(Log(100, 1 << 20, 1.0, bodies=True))
        assert spool.log is not None
        [found], more = self.wait(spool.log.newest(WhichEnded(), None, 10))
        self.assertEqual((None, "d1", True), (more, found.id, found.has_body))
        life = self.wait(spool.log.one(found.number))
        self.assertEqual([None, 200], [each.status for each in life.attempts])
        self.assertEqual([0.002, None], [each.connecting for each in life.attempts])
        self.assertEqual("\N{REPLACEMENT CHARACTER}{}", life.attempts[1].answer)
        self.assertEqual(
            [("confirmed", None), ("refused", "too large"), (None, None)],
            [(each.fate, each.why) for each in life.stanzas],
        )
        self.assertEqual(b"{}", self.wait(spool.log.body(found.number)))

    def test_limits(self) -> None:
        """
        What is too old, too many or too large goes, oldest first; with the log turned off all of it does.
        """
        spool = self.spool(Log(3, 1 << 20, 1.0))
        for number in range(5):
            self.end(spool, f"d{number}", stanzas=1)
        self.wait(spool.look({}, 500))
        self.assertEqual(["d2", "d3", "d4"], [each.id for each in self.read()])
        self.assertFalse(self.read()[0].has_body)
        self.wall += 86_401
        self.end(spool, "d5")
        self.wait(spool.look({}, 500))
        self.assertEqual(["d5"], [each.id for each in self.read()])
        self.wait(spool.close())
        small = self.spool(Log(100, 1000, 1.0))
        for number in range(6, 10):
            self.end(small, f"d{number}")
        self.wait(small.look({}, 500))
        self.assertEqual(["d8", "d9"], [each.id for each in self.read()])
        self.wait(small.close())
        off = SqliteSpool(self.path, self.reactor, allowance=lambda domain: (DEADLINES, 0.0))
        self.wait(off.look({}, 500))
        self.assertEqual([], self.read())
        self.wait(off.close())

    def test_memory(self) -> None:
        """
        A spool in memory keeps no log, and says so.
        """
        with self.assertRaises(SettingsError) as caught:
            SpoolSettings(kind="memory", keep_ended="facts")
        self.assertIn("spool.keep_ended", str(caught.exception))


class FullDiskTests(DiskCase):
    """The log while the disk is full."""

    def test_log_gives_way(self) -> None:
        """
        On a full disk deliveries end as ever, and are counted as not in the log.
        """
        bench = self.on(self.disk(1024), ballast_bytes=256 * 1024, log=Log(1000, 1 << 30, 1.0, bodies=True))
        bench.store_until_full()
        assert bench.spool.log is not None
        tracer = bench.spool.log.tracer
        before = len(bench.stored)
        for name in list(bench.stored):
            tracer.ended(a_delivery(name), "replied", None, [])
            self.assertEqual([], list(bench.end()))
        self.assertEqual([], bench.restored())
        bench.look()
        with Ended(bench.path) as ended:
            kept = len(list(ended.read(WhichEnded())))
        self.assertEqual(before, kept + bench.counters["unlogged"])
        self.assertGreater(bench.counters["unlogged"], 0)


class ShowingTests(FileCase):
    """`component-http deliveries`."""

    def test_hostile_text(self) -> None:
        """
        No text of a stranger controls the terminal, or looks like another step.
        """
        hostile = "\x1b[2J\x07\u202e\nit ended: replied\r\u2028\x9b1m"
        attempts = json.dumps([[1, 1000, 5, None, None, None, hostile, hostile, hostile, None]])
        stanzas = json.dumps([[hostile, hostile, hostile, hostile, 90, hostile]])
        texts = dict.fromkeys(("sender", "recipient", "outcome", "type", "kind", "stanza_id", "route", "note"), hostile)
        insert(self.path, attempts=attempts, stanzas=stanzas, body=hostile.encode(), **texts)
        with changing(self.path) as connection:
            connection.execute("INSERT INTO fates VALUES (7, 1011.0, ?, ?)", (hostile, hostile))
        for arguments, lines in (("list",), 2), (("show", "d1"), 5):
            status, printed, _ = command(self.path, *arguments)
            shown = printed.partition("request,")[0]
            self.assertEqual((0, lines), (status, len(shown.splitlines())), shown)
            self.assertEqual("", "".join(char for char in printed if char != "\n" and not char.isprintable()))
        for words in "list", "show d1":
            self.assertEqual("d1", json.loads(command(self.path, *words.split(), "--json")[1])[0]["id"])

    def test_many_rows(self) -> None:
        """
        A hundred thousand deliveries are read by pages, so a list of them needs little memory.
        """
        insert(self.path, note="x" * 100)
        with changing(self.path) as connection:
            columns = ", ".join(ROW)
            for _ in range(17):
                connection.execute(f"INSERT INTO ended ({columns}) SELECT {columns} FROM ended LIMIT 100000")
        tracemalloc.start()
        try:
            with Ended(self.path) as ended:
                found = ended.read(WhichEnded())
                for _ in range(2000):
                    next(found)
                self.assertGreater(ended.last_number(), 100_000)
            self.assertLess(tracemalloc.get_traced_memory()[1], 8 * 1024 * 1024)
        finally:
            tracemalloc.stop()
        status, printed, note = command(self.path, "list", "--limit", "3")
        self.assertEqual((0, 4), (status, len(printed.splitlines())))
        self.assertIn("the newest 3", note)

    def test_filters(self) -> None:
        """
        A conversation, an outcome and a time narrow the list; what does not fit is said.
        """
        insert(self.path)
        insert(self.path, id="d2", sender="bob@example.org", accepted=2000.0, outcome="bounced")
        for arguments, ids in (
            ((), ["d1", "d2"]),
            (("--from", "alice@example.org", "--to", "bot@bot.example.org"), ["d1"]),
            (("--outcome", "bounced,expired"), ["d2"]),
            (("--since", "1970-01-01T00:20:00Z"), ["d2"]),
            (("--until", "1970-01-01T00:20:00+00:00", "--kind", "message"), ["d1"]),
        ):
            _, printed, _ = command(self.path, "list", "--json", *arguments)
            self.assertEqual(ids, [each["id"] for each in json.loads(printed)], arguments)
        status, _, complaint = command(self.path, "list", "--since", "23:59:59", "--from", "eve@example.org")
        self.assertEqual((1, True), (status, "no such delivery" in complaint))
        for wrong in "25:00", "tomorrow":
            with self.assertRaises(SystemExit):
                command(self.path, "list", "--since", wrong)

    def test_damaged_row(self) -> None:
        """
        A row that cannot be read is named, and the others are shown.
        """
        insert(self.path, attempts="[[")
        insert(self.path, id="d2", tries="many")
        insert(self.path, id="d3")
        insert(self.path, id="d4", ended="x", first="y", bytes="z")
        status, printed, complaint = command(self.path, "list", "--json")
        self.assertEqual((1, ["d3"]), (status, [each["id"] for each in json.loads(printed)]))
        self.assertEqual(3, complaint.count("cannot be read"))
        with changing(self.path) as connection:
            for most in 3, 1, 0:
                log = Log(most, 1 << 20, 1.0)
                log.prune(connection, lambda: None, 0.0)
        self.assertEqual([], self.read())


class MemoryLog:
    """A `DeliveryLog` with one delivery."""

    def __init__(self, *, body: bytes | None = b'{"body": "hello"}', kind: str = "message") -> None:
        self.kept = EndedDelivery(
            *(1, "d1", False, "replied", None, kind, "chat" if kind == "message" else "get", "m1"),
            *("alice@example.org/x", "bot@bot.example.org", False, "jabber:component:accept", None),
            *(1000.0, 1010.0, 1, 20, True),
        )
        self.given = body
        self.recorded: list[EndedDelivery] = []
        self.trouble: SpoolError | None = None

    tracer: Any = None

    def newest(self, which: WhichEnded, before: int | None, limit: int) -> Deferred[tuple[list[EndedDelivery], None]]:
        if self.trouble is not None:
            return fail(self.trouble)
        found = [self.kept] if self.kept.id.startswith(which.id) else []
        return succeed(([*reversed(self.recorded), *found] if which.replays else found, None))

    def one(self, number: int) -> Deferred[EndedDelivery | None]:
        return succeed(next((each for each in [self.kept, *self.recorded] if each.number == number), None))

    def body(self, number: int) -> Deferred[bytes | None]:
        return succeed(self.given)

    def record(self, replay: EndedDelivery) -> Deferred[int]:
        self.recorded.append(replay)
        return succeed(2)


class ReplayTests(SynchronousTestCase):
    """Replaying a delivery that has ended."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.outlet = RecordingOutlet()

    def replays(self, webhook: ScriptedWebhook, log: MemoryLog) -> Replays:
        self.world = relay_world(webhook, self.clock, outlet=self.outlet)
        self.webhook = webhook
        return Replays(log, {"bot.example.org": self.world}, self.world.counters, self.clock, lambda: 5000.0)

    def test_replay(self) -> None:
        """
        The same id and body are POSTed; the answer is recorded, sent only if asked for, and is no attempt.
        """
        log = MemoryLog()
        replays = self.replays(ScriptedWebhook(answer=lambda *_: json_response('{"body": "hi"}')), log)
        result = self.successResultOf(replays.replay(1, False))
        assert result.delivery is not None
        self.assertEqual(("replied", False, []), (result.delivery.outcome, result.sent, self.outlet.sent))
        self.assertIn("hi", result.delivery.stanzas[0].xml or "")
        self.assertTrue(self.successResultOf(replays.replay(1, True)).sent)
        self.assertEqual(["hi"], [str(each.body) for each in self.outlet.sent])
        bodies = {body for body, _ in self.webhook.posts}
        headers = [(given["webhook-id"], given["webhook-attempt"]) for _, given in self.webhook.posts]
        self.assertEqual(({log.given}, [("d1", "2")] * 2), (bodies, headers))
        self.assertEqual((2, 0), (self.world.counters["replayed"], self.world.counters["attempted"]))
        self.assertEqual([True, True], [each.replay for each in log.recorded])

    def test_iq_is_not_answered_twice(self) -> None:
        """
        The answer to an iq is shown, and never sent again.
        """
        log = MemoryLog(kind="iq")
        replays = self.replays(ScriptedWebhook([json_response("{}")]), log)
        result = self.successResultOf(replays.replay(1, True))
        self.assertEqual((False, []), (result.sent, self.outlet.sent))

    def test_refused(self) -> None:
        """
        What cannot be replayed is refused with the reason: no body, another component, a gateway that stops.
        """
        replays = self.replays(ScriptedWebhook(), MemoryLog(body=None))
        self.assertEqual(NO_BODY, self.successResultOf(replays.replay(1, False)).refused)
        self.assertIn("any more", str(self.successResultOf(replays.replay(5, False)).refused))
        elsewhere = Replays(MemoryLog(), {}, Counters(), self.clock, lambda: 0.0)
        self.assertIn("not served", str(self.successResultOf(elsewhere.replay(1, False)).refused))
        replays.stop()
        self.assertIn("stopping", str(self.successResultOf(replays.replay(1, False)).refused))

    def test_one_after_the_other(self) -> None:
        """
        Replays take turns, only so many wait, and a stop cuts them all off.
        """
        webhook = ScriptedWebhook()
        webhook.paused = True
        replays = self.replays(webhook, MemoryLog())
        asked = [replays.replay(1, False) for _ in range(101)]
        self.assertEqual(1, webhook.under_way)
        self.assertIn("too many", str(self.successResultOf(asked.pop()).refused))
        replays.stop()
        self.assertEqual(0, webhook.under_way)
        told = [each.addErrback(lambda failure: failure.trap(CancelledError) and None) for each in asked]
        self.assertIsNone(self.successResultOf(told[0]))
        self.assertIn("stopping", str(self.successResultOf(told[1]).refused))
        self.assertEqual(1, len(webhook.posts))

    def test_replay_beside_a_live_stanza(self) -> None:
        """
        A replay that hangs keeps no live stanza from the webhook.
        """
        webhook = ScriptedWebhook([Deferred(), json_response('{"body": "live"}')])
        replays = self.replays(webhook, MemoryLog())
        hanging = replays.replay(1, False)
        self.world.relay.accept(a_stanza())
        self.assertEqual(["live"], [str(each.body) for each in self.outlet.sent])
        replays.stop()
        self.failureResultOf(hanging)


class ApiTests(ApiTestCase):
    """The log of deliveries in the API."""

    def use(self, log: MemoryLog | None, result: ReplayResult | None = None) -> None:
        self.asked: list[tuple[int, bool]] = []

        def replay(number: int, send: bool) -> Deferred[ReplayResult]:
            self.asked.append((number, send))
            return succeed(result or ReplayResult("the gateway is stopping"))

        self.api = self.an_api(deliveries=Deliveries(log, replay))

    def test_list_and_show(self) -> None:
        """
        An administrator lists deliveries and sees the life of one.
        """
        self.use(MemoryLog())
        listed = json.loads(self.answer_to("GET", "/v1/deliveries?from=alice@example.org&limit=5").body)
        self.assertEqual((["d1"], None), ([each["id"] for each in listed["deliveries"]], listed["before"]))
        shown = json.loads(self.answer_to("GET", "/v1/deliveries/d1").body)
        self.assertEqual([], shown["deliveries"][0]["attempts"])
        self.refused(404, self.answer_to("GET", "/v1/deliveries/d"))

    def test_replay(self) -> None:
        """
        A replay is answered with what came of it, or 409 with the reason.
        """
        log = MemoryLog()
        self.use(log, ReplayResult(None, log.kept, sent=True))
        answer = self.post("/v1/deliveries/d1/replay?send=true", b"")
        self.assertEqual((200, [(1, True)]), (answer.status, self.asked))
        self.use(log)
        self.assertIn("stopping", self.refused(409, self.post("/v1/deliveries/d1/replay", b"")))
        self.refused(404, self.post("/v1/deliveries/d2/replay", b""))

    def test_refused(self) -> None:
        """
        Others than administrators, wrong arguments, no log and a spool in trouble are told as such.
        """
        log = MemoryLog()
        self.use(log)
        self.refused(403, self.answer_to("GET", "/v1/deliveries", token=NARROW))
        for wrong in ("limit=0", "limit=9999", "before=x", "since=now", "outcome=bad", "from=%20", "kind=x"):
            self.refused(400, self.answer_to("GET", f"/v1/deliveries?{wrong}"))
        self.refused(400, self.post("/v1/deliveries/d1/replay?send=maybe", b""))
        log.trouble = SpoolError("busy")
        self.refused(503, self.answer_to("GET", "/v1/deliveries"))
        self.use(None)
        self.assertIn("keep_ended", self.refused(404, self.answer_to("GET", "/v1/deliveries")))
