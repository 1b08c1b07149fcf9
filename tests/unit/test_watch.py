"""Those who watch conversations while the gateway serves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from component_http.api.connection import BEAT_TIME, UNREAD_TIME
from component_http.commands.watch import in_words
from component_http.contract.address import Address
from component_http.contract.delivery import Delivery
from component_http.contract.explanation import Explanation
from component_http.contract.outbound import Head, OutboundStanza
from component_http.contract.reply import Response
from component_http.interfaces.tracer import AttemptReport, Settlement, Tracers
from component_http.operations.watch import LOOK_EVERY, MOST_CHARACTERS, MOST_EXPLAINED, MOST_FOLLOWED, Watch, Which
from component_http.sizing import WATCHERS
from tests.unit.test_delivery import a_stanza
from tests.unit.test_operations import LOCAL, PONG, TOKEN, WatchedTestCase, Wire

BEARER = {"Authorization": f"Bearer {TOKEN}"}


SHARED = "tcp:9347:interface=127.0.0.1"

NOT_PRIVATE = "every user of this machine could read it: name a token by operations.token_file, or listen at unix:"


class WithoutTokenTests(WatchedTestCase):
    """The port for operations on this machine, where no token is asked for."""

    def test_shared_machine(self) -> None:
        """
        On TCP every user of the machine could read what others write, so nobody may, and is told what to do.
        """
        self.a_gateway([])
        status, why = self.ask("/watch")
        self.assertEqual((403, True), (status, NOT_PRIVATE in why))
        self.assertEqual(200, self.ask("/status")[0])


class PortTests(WatchedTestCase):
    """The port for operations, for those who watch."""

    def setUp(self) -> None:
        (file := Path(self.mktemp())).touch(mode=0o600)
        file.write_text(TOKEN)
        self.operations = {"listen": LOCAL, "token_file": str(file)}

    def watch(self, query: str = "") -> tuple[Any, Wire]:
        """Begin to watch."""
        self.reactor.advance(1)
        protocol, wire = self.connect()
        request = f"GET /watch?{query} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
        protocol.dataReceived(request.encode())
        self.reactor.advance(0)
        self.addCleanup(protocol.connectionLost, Failure(ConnectionError()))
        return protocol, wire

    def seen(self, wire: Wire) -> list[dict[str, Any]]:
        """The steps that were told, without the first line."""
        head, _, body = wire.value().partition(b"\r\n\r\n")
        self.assertIn(b"200 OK", head)
        first, *steps = [json.loads(line) for line in body.splitlines() if line]
        self.assertEqual("watching", first["step"])
        return steps

    def test_conversation_and_pushes(self) -> None:
        """
        A watcher is told the life of what matches, also what is pushed to the same user, and nothing of others.
        """
        gateway = self.a_gateway([PONG, PONG, PONG])
        _, wire = self.watch("from=juliet%40example.org&to=bot.example.org")
        self.say("romeo", "juliet")
        pushed = Deferred.fromCoroutine(gateway.push({"to": "juliet@example.org", "body": "psst"}))
        self.successResultOf(pushed)
        self.successResultOf(Deferred.fromCoroutine(gateway.push({"to": "romeo@example.org", "body": "no"})))
        steps = self.seen(wire)
        life = ["arrived", "posted", "attempted", "ended", "settled", "pushed", "settled"]
        self.assertEqual(life, [step["step"] for step in steps])
        self.assertEqual({"juliet@example.org/x"}, {step["from"] for step in steps[:4]})
        self.assertNotIn("headers", steps[1])
        self.assertEqual(("replied", "juliet@example.org/x"), (steps[3]["outcome"], steps[3]["replies"][0]["to"]))
        self.assertNotIn("romeo", wire.value().decode())

    def test_raw(self) -> None:
        """
        With raw there are the stanza, the request and the response; a header that may be a secret shows its name only.
        """
        self.a_gateway([Response(200, {"set-cookie": "canary", "content-type": "application/json"}, PONG.body)])
        _, wire = self.watch("raw=1")
        self.say("juliet")
        _, posted, attempted, ended, *_ = self.seen(wire)
        self.assertIn("<body>hi</body>", json.loads(posted["body"])["stanza"])
        self.assertIn("webhook-id", dict(posted["headers"]))
        self.assertEqual((b'{"body": "pong"}'.decode(), "(hidden)"), (attempted["body"], attempted["headers"][0][1]))
        self.assertIn("pong", ended["replies"][0]["xml"])
        self.assertNotIn("canary", wire.value().decode())

    def test_names(self) -> None:
        """
        With hash there is no address of a user, but the same name in all of a conversation; raw does not go with it.
        """
        self.a_gateway([PONG, PONG])
        _, wire = self.watch("hash=1")
        self.say("juliet", "juliet")
        arrived = [step["from"] for step in self.seen(wire) if step["step"] == "arrived"]
        self.assertEqual((2, 1), (len(arrived), len(set(arrived))))
        self.assertNotIn("juliet", wire.value().decode())
        self.assertIn("@bot.example.org", wire.value().decode())
        self.assertEqual(400, self.ask("/watch?hash=1&raw=1", **BEARER)[0])

    def test_watcher_that_does_not_read(self) -> None:
        """
        Steps are counted for a watcher that does not read, and it is told how many; after ten minutes it is cut off.
        """
        self.a_gateway([PONG] * 3)
        protocol, wire = self.watch()
        self.say("juliet")
        before = len(wire.value())
        protocol.pauseProducing()
        self.say("juliet", "juliet")
        self.assertEqual(before, len(wire.value()))
        protocol.resumeProducing()
        missed = self.seen(wire)[-1]
        self.assertEqual(("missed", True), (missed["step"], missed["steps"] >= 8))
        self.assertIn(f"{missed['steps']} steps were not shown", next(in_words(missed)))
        self.reactor.advance(BEAT_TIME)
        self.assertTrue(wire.value().endswith(b"\n\n"))
        protocol.pauseProducing()
        self.reactor.advance(UNREAD_TIME)
        self.assertTrue(wire.disconnected)

    def test_few_at_once(self) -> None:
        """
        Four may watch, one too many is told so, and a place is free when its watcher goes; the stop ends all.
        """
        gateway = self.a_gateway([])
        watching = [self.watch() for _ in range(WATCHERS)]
        status, why = self.ask("/watch", **BEARER)
        self.assertEqual((503, "4 programs watch already, as many as may: end one of them\n"), (status, why))
        gone, _ = watching.pop()
        gone.readConnectionLost()
        gone.connectionLost(Failure(ConnectionError()))
        watching.append(self.watch())
        self.assertEqual(200, self.ask("/healthz")[0])
        gateway.stopService()
        gateway.drain(0)
        self.reactor.pump([0, 0])
        self.assertEqual([True] * WATCHERS, [wire.disconnecting for _, wire in watching])

    def test_who_may_watch(self) -> None:
        """
        Nobody watches without the token, nor with a query that cannot be read.
        """
        self.a_gateway([])
        self.assertEqual(401, self.ask("/watch")[0])
        self.assertEqual(404, self.ask("/watch", "HEAD", **BEARER)[0])
        for query in ("from=a%40", "to=%1b%5b2J%40x", "from=a&from=b", "from=%ff"):
            status, why = self.ask(f"/watch?{query}", **BEARER)
            self.assertEqual((400, True), (status, why.isprintable() or why.endswith("\n")), query)


class Client:
    """A client that watches, and reads everything."""

    def __init__(self, watch: Watch, which: Which, *, raw: bool = False) -> None:
        watcher = watch.enter(which, raw=raw, show=None)
        assert watcher is not None
        self.watcher = watcher
        self.lines: list[dict[str, Any]] = []
        watcher.begin(lambda line: self.lines.append(json.loads(line)))

    @property
    def steps(self) -> list[str]:
        return [line["step"] for line in self.lines][1:]


def outbound(number: int) -> OutboundStanza:
    return OutboundStanza(b"<message/>", "message", 9.0, 0.0, Head(None, "r", "bot@bot.example.org", f"u{number}@e"))


def a_delivery(number: int) -> Delivery:
    return Delivery(f"d{number}", a_stanza(), 100, 60.0)


class WatchTests(SynchronousTestCase):
    """Watchers, told by the seam."""

    def setUp(self) -> None:
        self.clock, self.tracers = Clock(), Tracers()
        self.reasons: dict[str, Explanation] = {}
        self.asked: list[str] = []
        self.watch = Watch(self.tracers, self.explain, self.clock, lambda: 1e9, 2)

    def explain(self, delivery_id: str) -> Explanation | None:
        self.asked.append(delivery_id)
        return self.reasons.get(delivery_id)

    def test_nobody(self) -> None:
        """
        Nothing is told, and no timer runs, before the first watcher has come and after the last has gone.
        """
        self.assertIsNone(self.tracers.told)
        one, other = Client(self.watch, Which()), Client(self.watch, Which())
        self.assertIsNone(self.watch.enter(Which(), raw=False, show=None))
        one.watcher.stop()
        one.watcher.stop()
        self.assertIs(self.watch, self.tracers.told)
        other.watcher.stop()
        self.assertEqual((None, []), (self.tracers.told, self.clock.getDelayedCalls()))

    def test_matching(self) -> None:
        """
        A bare address matches all its resources, or the occupants of a room; a full one only itself; a domain all of
        its addresses.
        """
        for wanted, address, fits in (
            (None, "a@b/c", True),
            ("a@b", "a@b", True),
            ("a@b", "a@b/c", True),
            ("a@b", "aa@b/c", False),
            ("a@b/c", "a@b/c", True),
            ("a@b/c", "a@b", False),
            ("b", "a@b/c", True),
            ("b", "b", True),
            ("b", "b/c", True),
            ("b", "a@bb", False),
            ("b", "x@b.c", False),
            ("b", "x@y/a@b", False),
            ("room@muc.b", "room@muc.b/nick", True),
        ):
            which = Which(None if wanted is None else Address.parse(wanted))
            self.assertEqual(fits, which.fits(address, "bot"), (wanted, address))
            self.assertEqual(fits, evolve(Which(), recipient=which.sender).fits("u", address), (wanted, address))

    def test_waiting(self) -> None:
        """
        A watcher is told why a delivery waits, once for each reason, and not what a step has said already.
        """
        client = Client(self.watch, Which())
        one = a_delivery(1)
        self.watch.accepted(one, restored=True)
        self.reasons["d1"] = Explanation("pace")
        self.clock.pump([LOOK_EVERY] * 3)
        self.reasons["d1"] = Explanation("conversation", "d0", 4.0, "refused")
        self.clock.pump([LOOK_EVERY] * 3)
        self.watch.posted(one, b"{}", [])
        self.reasons["d1"] = Explanation("backing_off", None, 1.0)
        self.clock.advance(LOOK_EVERY)
        report = AttemptReport(1, 0.0, 0.1, None, None, None, "refused", b"", "retry", 5.0)
        self.watch.attempted(one, report, None)
        self.clock.advance(LOOK_EVERY)
        self.watch.ended(one, "expired", "too late", [])
        self.clock.advance(LOOK_EVERY)
        self.assertEqual(["restored", "waits", "waits", "posted", "attempted", "ended"], client.steps)
        words = [next(in_words(line)).partition(" d1 ")[2] for line in client.lines[1:]]
        self.assertEqual("waits: the webhook takes only so many requests per second", words[1])
        told = "waits: it waits behind d0 of the same conversation; next try in 4 s; last failure: refused"
        self.assertEqual(told, words[2])
        self.assertEqual("attempt 1: failed: refused (100.0 ms); the next attempt in 5.0 s", words[4])
        self.assertEqual("ended, expired: too late", words[5])

    def test_many(self) -> None:
        """
        Of a flood the latest are followed, and few are asked about at a time.
        """
        client = Client(self.watch, Which(recipient=Address.parse("bot@bot.example.org")))
        for number in range(MOST_FOLLOWED + 5):
            self.watch.pushed(number, outbound(number))
        for number in (0, MOST_FOLLOWED):
            self.watch.settled(number, None, "confirmed")
        self.assertEqual(["pushed"] * (MOST_FOLLOWED + 5) + ["settled"], client.steps)
        for number in range(MOST_EXPLAINED + 5):
            self.watch.accepted(a_delivery(number), restored=False)
        self.clock.advance(LOOK_EVERY)
        self.assertEqual(MOST_EXPLAINED, len(self.asked))

    def test_huge_texts(self) -> None:
        """
        A huge body is cut off, with its size behind; what is no text is shown all the same.
        """
        client = Client(self.watch, Which(), raw=True)
        self.watch.posted(a_delivery(1), "é".encode() * 1_000_000, [])
        self.watch.posted(a_delivery(1), b"\xff\x00", [])
        huge, odd = (line["body"] for line in client.lines[1:])
        self.assertEqual("é" * MOST_CHARACTERS + "… (2000000 bytes)", huge)
        self.assertEqual("\ufffd\0", odd)

    def test_stanza_that_leaves_again(self) -> None:
        """
        A reply that was lost with its stream is told again when the server has it.
        """
        client = Client(self.watch, Which())
        self.watch.ended(a_delivery(1), "replied", None, [outbound(1)])
        settlements: list[Settlement] = ["lost", "confirmed", "confirmed"]
        for settlement in settlements:
            self.watch.settled(7, "d1", settlement)
        self.assertEqual(["ended", "settled", "settled"], client.steps)
        words = [next(in_words(line)).partition(" d1 ")[2] for line in client.lines[2:]]
        lost = "a stanza of it did not get to the XMPP server: lost"
        self.assertEqual([lost, "the XMPP server has a stanza of it"], words)

    def test_step_of_another_version(self) -> None:
        """
        A step that the command does not know is shown as it is.
        """
        [line] = in_words({"time": "2026-11-26T12:00:00.000Z", "step": "new", "what": 1})
        self.assertIn('"what": 1', line)
