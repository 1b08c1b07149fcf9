"""The port for those who watch a gateway."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from attrs import evolve
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.protocols.jabber.xmlstream import STREAM_AUTHD_EVENT
from twisted.words.xish.utility import EventDispatcher
from twisted.words.xish.xmlstream import STREAM_CONNECTED_EVENT, BootstrapMixin
from wokkel.subprotocols import StreamManager

from component_http.contract.reply import Outcome, Response
from component_http.contract.xml import Limits, parse_stanzas
from component_http.errors import SettingsError
from component_http.gateway import Gateway
from component_http.operations.catch_up import CatchUp
from component_http.operations.events import EVENTS, OUTCOMES
from component_http.operations.exposition import Exposition
from component_http.operations.lag import INTERVAL, Lag
from component_http.operations.metrics import Counters, Durations, Histogram
from component_http.operations.view import View
from component_http.operations_service import PER_SECOND
from component_http.settings import OperationsSettings, Settings
from component_http.settings.reloading import Changes
from component_http.sizing import OPERATIONS_CONNECTIONS
from component_http.testing import ScriptedWebhook, json_response
from tests.certificates import by_itself
from tests.unit.test_docs import DOCS, table

LOCAL = "tcp:9347:interface=127.0.0.1"
TOKEN = "0123456789abcdef"
PONG = json_response('{"body": "pong"}')


def some_settings(operations: Mapping[str, object], **delivery: object) -> Settings:
    return Settings.from_mapping(
        {
            "component": {"domain": "bot.example.org", "component_post_url": "http://user:pass@127.0.0.1:8080/x"},
            "delivery": delivery,
            "spool": {"kind": "memory"},
            "operations": operations,
        },
        env={"COMPONENT_HTTP_SECRET": "a-secret-canary"},
    )


HOSTILE = (
    b"GET /metrics\0 HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\n" + b"X: y\r\n" * 100 + b"\r\n",
    b"GET /..%2f..%2fetc/passwd%0d%0aX:%20y HTTP/1.1\r\nHost: h\r\n\r\n",
    b"POST /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: 999999999999\r\n\r\n" + b"x" * 5000,
    b"GET /metrics HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nHost: h\r\nAuthorization: \x1b[2J\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
)
"""Requests that nobody sends who means well."""


class Wire(StringTransport):
    """A connection that can be closed in one direction."""

    def loseWriteConnection(self) -> None:
        self.loseConnection()


class WatchedTestCase(SynchronousTestCase):
    """A test with a gateway on a stream that is only pretended, and with a port that somebody watches."""

    operations: Mapping[str, object] = {"listen": LOCAL}

    def a_gateway(self, script: list[Any], **delivery: object) -> Gateway:
        self.reactor, self.webhook = MemoryReactorClock(), ScriptedWebhook(script)
        bootstraps, self.stream, self.sent = BootstrapMixin(), EventDispatcher(), []
        self.stream.send = self.sent.append
        manager = StreamManager(bootstraps, self.reactor)
        bootstraps.installBootstraps(self.stream)
        settings = some_settings(self.operations, **delivery)
        gateway = Gateway(settings, self.reactor, manager=manager, webhook=self.webhook)
        gateway.startService()
        self.addCleanup(self.stop, gateway)
        self.stream.dispatch(self.stream, STREAM_CONNECTED_EVENT)
        self.stream.dispatch(self.stream, STREAM_AUTHD_EVENT)
        return gateway

    def stop(self, gateway: Gateway) -> None:
        stopped = gateway.stopService()
        gateway.drain(0)
        self.reactor.pump([0, 0])
        self.successResultOf(stopped)
        self.assertEqual([], self.reactor.getDelayedCalls())

    def say(self, *senders: str) -> None:
        for sender in senders:
            xml = f"<message from='{sender}@example.org/x' to='bot@bot.example.org' id='1'><body>hi</body></message>"
            [element] = parse_stanzas(xml, Limits())
            self.stream.dispatch(element)

    def connect(self) -> tuple[Any, Wire]:
        _, factory, *_ = self.reactor.tcpServers[-1]
        protocol, wire = factory.buildProtocol(None), Wire()
        if protocol is not None:
            protocol.makeConnection(wire)
        return protocol, wire

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str]:
        """Ask on a connection of its own, a moment after the last; returns the status and the body."""
        self.reactor.advance(1 / PER_SECOND)
        protocol, wire = self.connect()
        fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        protocol.dataReceived(f"{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{fields}\r\n".encode())
        self.reactor.advance(0)
        protocol.connectionLost(Failure(ConnectionError()))
        head, _, body = wire.value().partition(b"\r\n\r\n")
        return int(head.split()[1]), body.decode()

    def metrics(self) -> dict[str, float]:
        """The samples of the metrics, by their names and labels."""
        self.reactor.advance(1)
        status, text = self.ask("/metrics")
        self.assertEqual(200, status)
        return {
            sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


class PagesTests(WatchedTestCase):
    """The pages and what they say."""

    def test_alive_and_ready(self) -> None:
        """
        A gateway that works is alive and ready.
        """
        self.a_gateway([])
        self.assertEqual((200, "alive\n"), self.ask("/healthz"))
        self.assertEqual((200, "ready\n"), self.ask("/readyz"))

    def test_not_ready(self) -> None:
        """
        A gateway that stops is alive, but not ready, and says why.
        """
        gateway = self.a_gateway([])
        gateway.drain(0)
        self.assertEqual((503, "the gateway is stopping\n"), self.ask("/readyz"))
        self.assertEqual((200, "alive\n"), self.ask("/healthz"))

    def test_status(self) -> None:
        """
        The status says of each webhook how it is and why it failed last, and holds no secret.
        """
        self.a_gateway([Response(500)] * 9, max_attempts=5)
        self.say("alice")
        self.reactor.advance(0.1)
        status, text = self.ask("/status")
        found = json.loads(text)
        self.assertEqual((200, True, 0), (status, found["ready"], found["reloads"]))
        component = found["components"]["bot.example.org"]
        self.assertEqual((1, True, "closed"), (component["pending"], component["connected"], component["webhook"]))
        self.assertIn("500", component["webhooks"][""]["last_failure"])
        self.assertEqual(1, found["counters"]["accepted"])
        for secret in ("canary", "pass", "alice"):
            self.assertNotIn(secret, text)

    def test_other_requests(self) -> None:
        """
        Any other path is not found, and nothing can be changed here.
        """
        self.a_gateway([])
        self.assertEqual(404, self.ask("/")[0])
        self.assertEqual(404, self.ask("/metrics/")[0])
        self.assertEqual(405, self.ask("/metrics", "POST")[0])
        self.assertEqual((200, ""), self.ask("/metrics", "HEAD"))

    def test_hostile_requests(self) -> None:
        """
        A request that nobody sends who means well is refused, in few words, and nothing else comes of it.
        """
        self.a_gateway([])
        for data in HOSTILE:
            self.reactor.advance(1)
            protocol, wire = self.connect()
            protocol.dataReceived(data)
            self.reactor.pump([0.1] * 10)
            self.assertRegex(wire.value(), b"^HTTP/1.1 4[0-9][0-9] ")
            self.assertLess(len(wire.value()), 500)
            protocol.connectionLost(Failure(ConnectionError()))
        self.assertEqual((200, "alive\n"), self.ask("/healthz"))

    def test_idle_connections(self) -> None:
        """
        Idle connections, however many there are, keep nobody from asking.
        """
        self.a_gateway([])
        idle = []
        for _ in range(200):
            self.reactor.advance(1 / PER_SECOND)
            idle.append(self.connect()[0])
        self.reactor.advance(1)
        self.assertEqual((200, "alive\n"), self.ask("/healthz"))
        evicted = self.metrics()["component_http_events_total api_evicted"]
        self.assertGreaterEqual(evicted, 200 - OPERATIONS_CONNECTIONS)
        for protocol in idle:
            protocol.connectionLost(Failure(ConnectionError()))

    def test_too_many_at_once(self) -> None:
        """
        Connections that are too many in a second are closed, which is counted and logged once; then there is room.
        """
        gateway = self.a_gateway([])
        with capturedLogs() as logs:
            came = [self.connect()[0] for _ in range(1000)]
        kept = [protocol for protocol in came if protocol is not None]
        self.assertEqual(4 * PER_SECOND, len(kept))
        self.assertEqual(1000 - 4 * PER_SECOND, gateway.counters["api_busy"])
        self.assertEqual(1, len([event for event in logs if "closed at once" in formatEvent(event)]))
        for protocol in kept:
            protocol.connectionLost(Failure(ConnectionError()))
        self.reactor.advance(1)
        self.assertEqual((200, "alive\n"), self.ask("/healthz"))

    def test_too_many_requests(self) -> None:
        """
        Requests on a connection that stays are answered one after the other, and no more than some in a second.
        """
        self.a_gateway([])
        protocol, wire = self.connect()
        protocol.dataReceived(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n" * 100)
        self.reactor.pump([0.01] * 100)
        answers = wire.value().count(b"HTTP/1.1 200 OK\r\n")
        self.assertTrue(PER_SECOND <= answers <= PER_SECOND + 1, answers)
        protocol.connectionLost(Failure(ConnectionError()))


class TokenTests(WatchedTestCase):
    """A port with a token."""

    def setUp(self) -> None:
        file = Path(self.mktemp())
        file.write_text(TOKEN)
        file.chmod(0o600)
        self.operations = {"listen": LOCAL, "token_file": str(file)}

    def test_needed(self) -> None:
        """
        Without the token, or with another one, nothing is told but that the gateway is alive.
        """
        gateway = self.a_gateway([])
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
            for path in ("/metrics", "/readyz", "/status", "/other"):
                self.assertEqual(401, self.ask(path, **given)[0])
        self.assertEqual(200, self.ask("/healthz")[0])
        self.assertEqual(12, gateway.counters["api_unauthorized"])

    def test_guesses(self) -> None:
        """
        Somebody who guesses tokens is told nothing else, and fills no log.
        """
        gateway = self.a_gateway([])
        with capturedLogs() as logs:
            for guess in ("", "Bearer", "Bearer é", "Bearer " + "x" * 9999, "Basic !", f"Bearer {TOKEN}x", TOKEN):
                self.assertEqual(401, self.ask("/status", Authorization=guess)[0])
        told = [formatEvent(event) for event in logs if event["log_level"] is LogLevel.warn]
        self.assertEqual(["the port for operations was asked without its token, so nothing is told"], told)
        self.assertEqual(7, gateway.counters["api_unauthorized"])

    def test_given(self) -> None:
        """
        With the token everything is told.
        """
        self.a_gateway([])
        for path in ("/metrics", "/readyz", "/status"):
            self.assertEqual(200, self.ask(path, Authorization=f"Bearer {TOKEN}")[0])


class MetricsTests(WatchedTestCase):
    """The metrics."""

    def test_deliveries(self) -> None:
        """
        Deliveries are counted by their ends, and each is in the histograms once.
        """
        self.a_gateway([PONG, Response(404)])
        self.say("alice", "bob")
        self.reactor.advance(0.1)
        found = self.metrics()
        self.assertEqual(2, found["component_http_events_total accepted"])
        self.assertEqual(1, found["component_http_events_total replied"])
        self.assertEqual(1, found["component_http_events_total bounced"])
        for histogram in ("attempt", "delivery", "queue_wait"):
            self.assertEqual(2, found[f"component_http_{histogram}_seconds_count"], histogram)
            self.assertEqual(2, found[f"component_http_{histogram}_seconds_bucket +Inf"], histogram)
        self.assertEqual(0, found["component_http_unaccounted_deliveries"])

    def test_pending(self) -> None:
        """
        What is pending, and for how long, can be seen, and so can it that a webhook fails.
        """
        self.a_gateway([Response(500)] * 50, max_attempts=50)
        self.say("alice")
        self.reactor.pump([1] * 30)
        found = self.metrics()
        self.assertEqual(1, found["component_http_pending_deliveries"])
        self.assertGreaterEqual(found["component_http_oldest_pending_seconds"], 30)
        self.assertGreater(found["component_http_webhook_failing_seconds"], 10)
        self.assertEqual(0, found["component_http_unaccounted_deliveries"])
        self.assertEqual(1, sum(value for name, value in found.items() if name.startswith("component_http_webhooks")))

    def test_every_event(self) -> None:
        """
        An event that never happened is told as 0, so that its first time can be noticed.
        """
        self.a_gateway([])
        found = self.metrics()
        for event in EVENTS:
            self.assertIn(f"component_http_events_total {event}", found)

    def test_once_a_second(self) -> None:
        """
        The metrics are made at most once a second, whoever asks.
        """
        clock, made = MemoryReactorClock(), []

        def view() -> View:
            made.append(clock.seconds())
            return View({}, Counters(), None, None, 0.0, {})

        exposition = Exposition(view, Durations(), Lag(clock, Histogram([1.0])), clock.seconds)
        for _ in range(100):
            exposition.text()
            clock.advance(0.1)
        self.assertLessEqual(len(made), 11)

    def test_no_names_of_users(self) -> None:
        """
        No address and no URL is in the metrics.
        """
        self.a_gateway([Response(500)] * 9, max_attempts=2)
        self.say("alice")
        self.reactor.pump([1] * 5)
        _, text = self.ask("/metrics")
        for word in ("alice", "example.org", "127.0.0.1", "http://"):
            self.assertNotIn(word, text)

    def test_hostile_names(self) -> None:
        """
        Nothing that a peer sends becomes a metric or a label: not an address, an event, a header, or a path.
        """
        self.a_gateway([Response(200, b'{"body": 1, "x\\n{y}": "z"}', "application/json")] * 9)
        before = set(self.metrics())
        evil = "evil&quot;}&#10;component_http_ready{a=&quot;"
        for sender in ("a@example.org/" + evil, "bot.example.org", "e" * 2000 + "@example.org"):
            for name in ("message", "presence", "iq"):
                xml = (
                    f"<{name} from='{sender}' to='bot@bot.example.org' id='{evil}' type='get'>"
                    f"<body>{evil}</body><q xmlns='{evil}'/></{name}>"
                )
                [element] = parse_stanzas(xml, Limits())
                self.stream.dispatch(element)
        self.reactor.advance(1)
        self.ask('/metrics?evil="}%0aevil', Evil='evil"}')
        self.ask("/evil%0a{}")
        found = self.metrics()
        self.assertEqual(before, set(found))
        self.assertGreater(found["component_http_events_total accepted"], 0)
        self.assertNotIn("evil", self.ask("/metrics")[1])
        self.flushLoggedErrors()

    def test_catch_up(self) -> None:
        """
        How long it takes until all is through is told as soon as something ends, and 0 if nothing is pending.
        """
        self.a_gateway([PONG, PONG, Response(500)] + [Response(500)] * 50, max_attempts=50)
        self.assertEqual(0, self.metrics()["component_http_catch_up_seconds"])
        self.say("alice", "bob", "carol")
        self.reactor.advance(2)
        self.assertTrue(0 < self.metrics()["component_http_catch_up_seconds"] < 5)
        self.assertTrue(0 < json.loads(self.ask("/status")[1])["catch_up"] < 5)
        self.reactor.pump([1] * 90)
        self.assertNotIn("component_http_catch_up_seconds", self.metrics())
        self.assertIsNone(json.loads(self.ask("/status")[1])["catch_up"])

    def test_lag(self) -> None:
        """
        A reactor that is held up is noticed.
        """
        clock, histogram = MemoryReactorClock(), Histogram([0.1, 1.0])
        lag = Lag(clock, histogram)
        lag.start()
        clock.advance(INTERVAL)
        clock.advance(INTERVAL + 0.5)
        lag.stop()
        self.assertEqual([1, 1, 0], histogram.counts)
        self.assertEqual(0.5, lag.last)
        self.assertEqual([], clock.getDelayedCalls())

    def test_off(self) -> None:
        """
        A gateway that nobody watches has no port, and measures nothing.
        """
        self.operations = {}
        self.a_gateway([PONG])
        self.say("alice")
        self.assertEqual([], self.reactor.tcpServers)


class CatchUpTests(SynchronousTestCase):
    """The estimate how long it takes until all is through that is pending."""

    def setUp(self) -> None:
        self.clock, self.ended = Clock(), 0
        self.catch_up = CatchUp(self.clock, lambda: self.ended)
        self.catch_up.start()

    def tearDown(self) -> None:
        self.catch_up.stop()
        self.assertEqual([], self.clock.getDelayedCalls())

    def go_on(self, seconds: int, per_second: int) -> None:
        for _ in range(seconds):
            self.ended += per_second
            self.clock.advance(1)

    def test_steady(self) -> None:
        """
        A thousand that are pending, of which ten end per second, take a hundred seconds.
        """
        self.go_on(300, 10)
        self.assertEqual(100, self.catch_up.seconds_left(1000))
        self.assertEqual(0, self.catch_up.seconds_left(0))

    def test_after_an_outage(self) -> None:
        """
        The time of an outage does not count: as soon as it is over the estimate is about right.
        """
        self.go_on(3600, 0)
        self.assertIsNone(self.catch_up.seconds_left(1000))
        self.go_on(4, 100)
        left = self.catch_up.seconds_left(1000)
        assert left is not None
        self.assertTrue(10 <= left <= 20, left)

    def test_another_pace(self) -> None:
        """
        After a minute at another pace only that one counts; where nothing ends any more, nobody knows.
        """
        self.go_on(600, 100)
        self.go_on(60, 1)
        left = self.catch_up.seconds_left(100)
        assert left is not None
        self.assertTrue(90 <= left <= 110, left)
        self.go_on(64, 0)
        self.assertIsNone(self.catch_up.seconds_left(100))


class HistogramTests(SynchronousTestCase):
    """The histograms."""

    def test_buckets(self) -> None:
        """
        Each bucket has what took as long as its upper end, and less.
        """
        histogram = Histogram([1.0, 2.0])
        for seconds in (0.5, 1.0, 1.5, 2.0, 99.0):
            histogram.add(seconds)
        self.assertEqual([2, 2, 1], histogram.counts)
        self.assertEqual(104.0, histogram.total)


class EventsTests(SynchronousTestCase):
    """The list of events."""

    def test_documented(self) -> None:
        """
        The list has the names that the table of counters explains.
        """
        documented = [name for name, _, _ in table(DOCS / "architecture.md", "name", "what happened", "counted by")]
        self.assertEqual(sorted(documented), sorted(EVENTS))

    def test_outcomes(self) -> None:
        """
        The identity counts each way in which a delivery can end.
        """
        self.assertEqual(set(get_args(Outcome)), set(OUTCOMES))


class SettingsTests(SynchronousTestCase):
    """The table [operations]."""

    def test_others_need_a_token(self) -> None:
        """
        Where others on the network can ask, a token is needed.
        """
        for listen in (LOCAL, "unix:operations.sock", "tcp6:9347:interface=\\:\\:1", None):
            self.assertIsNone(OperationsSettings(listen=listen).token)
        for listen in ("tcp:9347", "tcp:9347:interface=192.0.2.1", "tcp6:9347", "tcp:9347:interface=0.0.0.0"):
            error = self.assertRaises(SettingsError, OperationsSettings, listen=listen)
            self.assertIn("operations.token_file", str(error))
            self.assertIn("operations.client_ca_file", str(error))
            self.assertEqual(TOKEN, OperationsSettings(listen=listen, token=TOKEN).token)

    def test_certificates_in_the_place_of_a_token(self) -> None:
        """
        Where clients have to show a certificate no token is needed, but only a port with TLS can ask for one.
        """
        own, asked = self.mktemp(), {"client_ca_file": "clients.pem"}
        Path(own).write_bytes(by_itself("localhost"))
        listen = f"ssl:9347:privateKey={own}:certKey={own}"
        self.assertIsNone(OperationsSettings(listen=listen, **asked).token)
        error = self.assertRaises(SettingsError, OperationsSettings, listen="tcp:9347", **asked)
        self.assertIn("operations.client_ca_file asks no client for a certificate at this", str(error))

    def test_token_in_the_open(self) -> None:
        """
        A warning says where others on the network can read the token.
        """
        for listen, told in (("tcp:9347", True), ("tcp6:9347", True), (LOCAL, False)):
            operations = OperationsSettings(listen=listen, token=TOKEN)
            warnings = evolve(some_settings({}), operations=operations).warnings()
            found = any(f'operations.listen is "{listen}", where others' in each for each in warnings)
            self.assertEqual(told, found, listen)

    def test_needs_a_restart(self) -> None:
        """
        Another port applies by a new start in the same process.
        """
        running, given = some_settings({}), some_settings({"listen": LOCAL})
        changes = Changes.between(running, given)
        self.assertEqual(["operations.listen"], list(changes.left))
        self.assertIsNone(changes.settings.operations.listen)
