"""That what is set is what is done: from a setting to what a sender or a webhook sees of it."""

from __future__ import annotations

import json
import resource
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, capturedLogs, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase, TestCase
from twisted.words.protocols.jabber.xmlstream import STREAM_AUTHD_EVENT
from twisted.words.xish.utility import EventDispatcher
from twisted.words.xish.xmlstream import STREAM_CONNECTED_EVENT, BootstrapMixin
from wokkel.subprotocols import StreamManager

from component_http import __version__
from component_http.contract.reply import Response
from component_http.contract.xml import Limits, parse_stanzas
from component_http.delivery.backlog import BacklogLimits
from component_http.errors import CertificateInvalid, ConnectionFailed, SettingsError
from component_http.gateway import Gateway
from component_http.settings import (
    ApiSettings,
    ComponentSettings,
    DeliverySettings,
    Settings,
    SpoolSettings,
    WebhookSettings,
)
from component_http.sizing import FILES_BESIDE, backlog_limits
from component_http.spool.database import lock
from component_http.testing import ScriptedWebhook, json_response

reactor: Any = _reactor

PONG = json_response('{"body": "pong"}')


def some_settings(**tables: Any) -> Settings:
    """Settings that are good enough to be looked at."""
    url = "http://127.0.0.1:8080/"
    component = ComponentSettings(domain="bot.example.org", secret="not used", component_post_url=url)
    return Settings(component=component, **tables)


class SettingsAtWorkTests(SynchronousTestCase):
    """Each setting of [delivery], with another value than its default."""

    def a_gateway(
        self, script: Iterable[Any], *, webhook: Mapping[str, object] = MappingProxyType({}), **delivery: object
    ) -> Gateway:
        """A gateway on a stream that is only pretended, with a clock that the test moves."""
        settings = Settings.from_mapping(
            {
                "component": {
                    "domain": "bot.example.org",
                    "component_post_url": "http://127.0.0.1:8080/",
                    "component_post_stanzas": ["message", "presence", "iq"],
                },
                "webhook": webhook,
                "delivery": delivery,
                "spool": {"kind": "memory"},
            },
            env={"COMPONENT_HTTP_SECRET": "not used"},
        )
        self.reactor, self.webhook = MemoryReactorClock(), ScriptedWebhook(script)
        bootstraps, self.stream, self.sent = BootstrapMixin(), EventDispatcher(), []
        self.stream.send = self.sent.append
        manager = StreamManager(bootstraps, self.reactor)
        bootstraps.installBootstraps(self.stream)
        gateway = Gateway(settings, self.reactor, manager=manager, webhook=self.webhook)
        gateway.startService()
        self.addCleanup(self.stop, gateway, self.reactor)
        self.stream.dispatch(self.stream, STREAM_CONNECTED_EVENT)
        self.stream.dispatch(self.stream, STREAM_AUTHD_EVENT)
        return gateway

    def stop(self, gateway: Gateway, reactor: MemoryReactorClock) -> None:
        stopped = gateway.stopService()
        gateway.drain(0)
        reactor.pump([0, 0])
        self.successResultOf(stopped)

    def say(self, *senders: str, kind: str = "message", type_: str = "chat", size: int = 1) -> None:
        """Let each of them send one stanza."""
        for sender in senders:
            body = f"<body>{'x' * size}</body>" if kind == "message" else ""
            type_of = f"type='{type_}'" if type_ else ""
            xml = f"<{kind} from='{sender}@example.org/x' to='bot@bot.example.org' id='1' {type_of}>{body}</{kind}>"
            [element] = parse_stanzas(xml, Limits())
            self.stream.dispatch(element)

    def test_max_attempts(self) -> None:
        """
        max_attempts is how often a webhook may fail at one stanza.
        """
        self.a_gateway([Response(500)] * 9, max_attempts=3)
        self.say("alice")
        self.reactor.pump([1] * 20)
        self.assertEqual(3, len(self.webhook.posts))

    def test_one_attempt(self) -> None:
        """
        With max_attempts = 1 each stanza is POSTed once, and no number of failures opens a breaker.
        """
        gateway = self.a_gateway([Response(500)] * 200, max_attempts=1)
        for _ in range(200):
            self.say("alice")
        self.assertEqual((200, 0), (len(self.webhook.posts), gateway.counters["retried"]))
        self.assertEqual(0, gateway.counters["breaker_opened"])

    def test_deadlines(self) -> None:
        """
        Each kind of stanza has its own deadline.
        """
        gateway = self.a_gateway(
            [Deferred() for _ in range(3)], message_deadline=30, iq_deadline=10, presence_deadline=20
        )
        self.say("alice")
        self.say("alice", kind="iq", type_="get")
        self.say("bob", kind="presence", type_="")
        for expired in (1, 2, 3):
            self.reactor.pump([9.9])
            self.assertEqual(expired - 1, gateway.counters["expired"])
            self.reactor.pump([0.1])
            self.assertEqual(expired, gateway.counters["expired"])

    def test_waits(self) -> None:
        """
        retry_cap is the longest wait before any attempt.
        """
        self.a_gateway([Response(429)] * 200, retry_cap=0.2)
        self.say("alice")
        self.reactor.pump([0.01] * 100)
        self.assertGreaterEqual(len(self.webhook.posts), 100 // 21)

    def test_old_settings(self) -> None:
        """
        A settings file that still sets a retry budget starts, and the log says that it is not used.
        """
        with capturedLogs() as logs:
            self.a_gateway([], retry_budget_percent=20, retry_budget_per_second="many")
        warnings = [event["warning"] for event in logs if "warning" in event]
        self.assertEqual(
            [
                f"delivery.retry_budget_{name} is not used any more, because there is no retry budget: remove it"
                for name in ("percent", "per_second")
            ],
            warnings,
        )

    def test_outage_grace(self) -> None:
        """
        outage_grace is how long a message waits for a webhook that is away.
        """
        gateway = self.a_gateway([ConnectionFailed("refused")] * 200, outage_grace=100, message_deadline=10)
        self.say("alice")
        self.reactor.pump([1.0] * 99)
        self.assertEqual(0, gateway.counters["expired"])
        self.reactor.pump([1.0] * 2)
        self.assertEqual(1, gateway.counters["expired"])

    def test_longest_pause(self) -> None:
        """
        A 503 can stop all POSTs for a minute.
        """
        self.a_gateway([Response(503, {"retry-after": "3600"})])
        self.say("alice", "bob")
        self.reactor.pump([59.9])
        self.assertEqual(1, len(self.webhook.posts))
        self.reactor.pump([0.1])
        self.assertEqual(2, len(self.webhook.posts))

    def test_breaker(self) -> None:
        """
        Failures of five conversations in a row stop all POSTs but a probe every two seconds.
        """
        gateway = self.a_gateway([ConnectionFailed("refused")] * 50)
        self.say("a", "b", "c", "d", "e", "f")
        self.assertEqual((5, "open"), (len(self.webhook.posts), gateway.status().webhook))
        self.reactor.pump([1.9])
        self.assertEqual(5, len(self.webhook.posts))
        self.reactor.pump([0.1])
        self.assertEqual(6, len(self.webhook.posts))

    def test_rate(self) -> None:
        """
        webhook.rate lets so many POSTs begin in a time; the others wait, iqs go first, and nothing counts as failed.
        """
        gateway = self.a_gateway([PONG, PONG, json_response("{}"), PONG, PONG], webhook={"rate": "2/1s"})
        self.say("a", "b", "c", "d")
        self.say("e", kind="iq", type_="get")
        self.assertEqual(2, len(self.webhook.posts))
        self.reactor.pump([0.99])
        self.assertEqual((2, "closed"), (len(self.webhook.posts), gateway.status().webhook))
        self.reactor.pump([0.01])
        self.assertEqual(
            ["message", "message", "iq", "message"], [json.loads(body)["kind"] for body, _ in self.webhook.posts]
        )
        self.reactor.pump([1.0])
        self.assertEqual((5, 0), (gateway.counters["replied"], gateway.counters["attempt_failed"]))

    def test_on_gone(self) -> None:
        """
        on_gone says whether a 410 is about one stanza or about all.
        """
        for on_gone, posts in (("bounce", 2), ("disable", 1)):
            self.a_gateway([Response(410)], on_gone=on_gone)
            self.say("alice", "bob")
            self.assertEqual(posts, len(self.webhook.posts))

    def test_loop_guard(self) -> None:
        """
        loop_guard is how many replies there are in a conversation.
        """
        gateway = self.a_gateway([PONG] * 9, loop_guard="2/10s")
        self.say(*["alice"] * 5)
        self.assertEqual((2, 3), (len(self.sent), gateway.counters["loop_guarded"]))

    def test_loop_brake(self) -> None:
        """
        Unless loop_guard is set, or off, whoever only repeats the bot has to wait at some time.
        """
        for settings, waits in ({}, True), ({"loop_guard": "off"}, False), ({"loop_guard": "10000/1s"}, False):
            gateway = self.a_gateway([json_response('{"body": "x"}')] * 200, **settings)
            self.say(*["alice"] * 200)
            self.assertEqual(waits, gateway.status().pending > 0, settings)

    def test_limits(self) -> None:
        """
        Every limit of the backlog is one that was set.
        """
        limits = DeliverySettings(
            max_pending=11,
            max_pending_bytes=2_000_000,
            max_per_conversation=3,
            fair_share_percent=2,
        )
        settings = some_settings(delivery=limits)
        self.assertEqual(BacklogLimits(11, 2_000_000, 3, fair_share=0.02), backlog_limits(settings))
        gateway = self.a_gateway([Deferred() for _ in range(9)], max_per_conversation=2)
        self.say(*["alice"] * 3)
        self.assertEqual(1, gateway.counters["refused_conversation_full"])

    def test_room(self) -> None:
        """
        A file has room for more than memory has, unless it is set.
        """
        for kind, most, most_bytes in (("sqlite", 140_000, 1 << 30), ("memory", 10_000, 1 << 26)):
            limits = backlog_limits(some_settings(spool=SpoolSettings(kind=kind)))
            self.assertEqual((most, most_bytes), (limits.max_pending, limits.max_pending_bytes))

    def test_status(self) -> None:
        """
        An application can ask how things stand, while it runs.
        """
        gateway = self.a_gateway([CertificateInvalid("expired"), Deferred()])
        self.say("alice", "bob")
        status = gateway.status()
        self.assertEqual((2, 1, "closed"), (status.pending, status.running, status.webhook))
        self.assertEqual(("the webhook's certificate cannot be trusted",), status.obstacles)
        gateway.drain(0)
        self.reactor.pump([0, 0])
        self.assertIn("the gateway is stopping", gateway.status().obstacles)
        self.stop(gateway, self.reactor)
        self.assertIsNone(gateway.status())


class RestoringTests(TestCase):
    """The time before a spool on disk has been read."""

    timeout = 120

    async def test_told(self) -> None:
        """
        Until then the gateway says why nothing should be sent to it.
        """
        settings = some_settings(spool=SpoolSettings(path=Path(self.mktemp()).absolute()))
        Path(settings.spool.path).parent.mkdir(parents=True, exist_ok=True)
        gateway = Gateway(
            settings, reactor, manager=StreamManager(BootstrapMixin(), reactor), webhook=ScriptedWebhook()
        )
        gateway.startService()
        self.addCleanup(gateway.stopService)
        self.assertEqual(("the spool has not been read yet",), gateway.status().obstacles)
        while not gateway.running:
            await deferLater(reactor, 0.01)
        self.assertEqual((), gateway.status().obstacles)


class OpenFilesTests(SynchronousTestCase):
    """A process that may open few files."""

    def warnings_with(self, files: int, **api: object) -> list[str]:
        """What a gateway with a thousand connections warns of, in a process that may open so many files."""
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, before[1]))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, before)
        events: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(events.append)
        self.addCleanup(globalLogPublisher.removeObserver, events.append)
        settings = Settings.from_mapping(
            {
                "component": {"domain": "bot.example.org", "component_post_url": "http://127.0.0.1:8080/"},
                "webhook": {"max_connections": 1000},
                "spool": {"kind": "memory"},
                "api": api,
            },
            env={"COMPONENT_HTTP_SECRET": "not used"},
        )
        reactor = MemoryReactorClock()
        gateway = Gateway(settings, reactor, manager=StreamManager(BootstrapMixin(), reactor))
        gateway.startService()
        stopped = gateway.stopService()
        reactor.pump([0, 0])
        self.successResultOf(stopped)
        return [formatEvent(event) for event in events if event["log_level"] is LogLevel.warn]

    def test_too_few(self) -> None:
        """
        What max_connections asks for and the process may not have is said once, with where to change that.
        """
        [warning] = self.warnings_with(500)
        self.assertEqual(
            "webhook.max_connections is 1000, but this process may have 500 files open (ulimit -n, or LimitNOFILE of"
            f" its unit): there are at most {500 - FILES_BESIDE} connections at once",
            warning,
        )

    def test_enough(self) -> None:
        """
        With the usual 1024 files each number that can be set is fine.
        """
        self.assertEqual([], self.warnings_with(1024))

    def test_api(self) -> None:
        """
        Clients of the API, as many as may come, leave files for the webhook and for the stream.
        """
        listen = "tcp:18347:interface=127.0.0.1"
        warnings = self.warnings_with(424, listen=listen, max_connections=5000)
        self.assertEqual(
            ["webhook.max_connections is 1000, but", "api.max_connections is 5000, but"],
            [warning.partition(" this")[0] for warning in warnings],
        )
        self.assertEqual(
            ["at most 200 connections at once", "at most 100 connections at once"],
            [w[w.index("at most") :] for w in warnings],
        )


class PrepareTests(SynchronousTestCase):
    """What an operator is told before anything is served."""

    def setUp(self) -> None:
        self.folder = Path(self.enterContext(TemporaryDirectory()))

    def a_gateway(self, listen: str) -> Gateway:
        reactor = MemoryReactorClock()
        settings = some_settings(api=ApiSettings(listen=listen), spool=SpoolSettings(path=str(self.folder / "spool")))
        return Gateway(settings, reactor, manager=StreamManager(BootstrapMixin(), reactor))

    def refusal(self, listen: str) -> str:
        return str(self.assertRaises(SettingsError, self.a_gateway(listen).prepare))

    def test_port_in_use(self) -> None:
        """
        A port that something else has is told with what to do; the spool is free for the next try.
        """
        with socket.create_server(("127.0.0.1", 0)) as other:
            listen = f"tcp:{other.getsockname()[1]}:interface=127.0.0.1"
            for _ in range(2):
                self.assertEqual(
                    f"api.listen is {listen}, but that cannot be opened: Address already in use; stop what listens"
                    " there, or name another port",
                    self.refusal(listen),
                )

    def test_no_such_interface(self) -> None:
        """
        For an address that is not this machine's no other port is recommended.
        """
        self.assertIn(
            "; name an interface by an address that this machine has", self.refusal("tcp:8347:interface=192.0.2.1")
        )

    def test_socket_without_folder(self) -> None:
        """
        A unix socket needs a folder, which is told by name.
        """
        self.assertIn(f"there is no folder {self.folder / 'none'}, ", self.refusal(f"unix:{self.folder}/none/socket"))

    def test_second_instance(self) -> None:
        """
        Who starts a gateway twice reads that it runs already, and not that its own port is in use.
        """
        with socket.create_server(("127.0.0.1", 0)) as other:
            held = lock(self.folder / "spool")
            self.addCleanup(held.release)
            self.assertIn("in use by another gateway", self.refusal(f"tcp:{other.getsockname()[1]}"))


class AnswerFunctionTests(SynchronousTestCase):
    """A function of the application in the place of the webhook."""

    def a_gateway(self, **more: Any) -> Gateway:
        """A gateway without a URL, on a stream that is only pretended."""
        component = ComponentSettings(domain="bot.example.org", secret="not used", sender=more.pop("sender", None))
        settings = Settings(component=component, spool=SpoolSettings(kind="memory"), **more.pop("tables", {}))
        self.reactor, bootstraps = MemoryReactorClock(), BootstrapMixin()
        gateway = Gateway(settings, self.reactor, manager=StreamManager(bootstraps, self.reactor), **more)
        gateway.startService()
        self.addCleanup(gateway.stopService)
        stream: Any = EventDispatcher()
        self.sent: list[str] = []
        stream.send = self.sent.append
        bootstraps.installBootstraps(stream)
        stream.dispatch(stream, STREAM_CONNECTED_EVENT)
        stream.dispatch(stream, STREAM_AUTHD_EVENT)
        xml = "<message from='alice@example.org/x' to='bot@bot.example.org' type='chat'><body>hello</body></message>"
        stream.dispatch(*parse_stanzas(xml, Limits()))
        return gateway

    def test_sender(self) -> None:
        """
        What is pushed without a sender comes from component.sender, or else from the bare domain.
        """

        async def answer(request: dict[str, Any]) -> None:
            return None

        for sender, expected in ((None, "bot.example.org"), ("bot@bot.example.org", "bot@bot.example.org")):
            gateway = self.a_gateway(answer=answer, sender=sender)
            pushed = gateway.push({"to": "alice@example.org", "body": "hello"})
            self.successResultOf(Deferred.fromCoroutine(pushed))
            self.assertIn(f"from='{expected}'", self.sent[0])

    def test_retries(self) -> None:
        """
        A call that fails is made again, as a POST would be, and the sender gets the reply of a later one.
        """
        calls: list[str] = []

        async def answer(request: dict[str, Any]) -> dict[str, str]:
            calls.append(request["body"])
            if len(calls) == 1:
                raise ConnectionFailed("the database is away")
            if len(calls) == 2:
                raise ValueError("oops")
            return {"body": "pong"}

        gateway = self.a_gateway(answer=answer)
        self.reactor.pump([1] * 60)
        self.assertEqual(["hello"] * 3, calls)
        self.assertEqual((1, 2), (gateway.counters["replied"], gateway.counters["retried"]))
        self.assertIn("<body>pong</body>", self.sent[0])
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_time_limit(self) -> None:
        """
        webhook.timeout limits a call, and the delivery ends by its deadline.
        """

        async def answer(request: dict[str, Any]) -> None:
            await Deferred()

        tables = {"webhook": WebhookSettings(timeout=5), "delivery": DeliverySettings(message_deadline=12)}
        gateway = self.a_gateway(answer=answer, tables=tables)
        self.reactor.pump([0.1] * 55)
        self.assertEqual(1, gateway.counters["attempt_timed_out"])
        self.reactor.pump([0.1] * 100)
        self.assertEqual(1, gateway.counters["expired"])
        self.assertIn("remote-server-timeout", self.sent[0])

    def test_one_of_them(self) -> None:
        """
        A gateway that has nothing to answer deliveries, or two things, cannot be made.
        """

        async def answer(request: dict[str, Any]) -> None:
            return None

        error = self.assertRaises(SettingsError, self.a_gateway)
        self.assertIn("component.component_post_url is missing", str(error))
        self.assertRaises(TypeError, self.a_gateway, answer=answer, webhook=ScriptedWebhook())


class StartTests(SynchronousTestCase):
    """The top of the log."""

    def test_what_is_served(self) -> None:
        """
        The first line of a gateway says what it serves and where its spool is, without what is secret in the URL.
        """
        component = ComponentSettings(
            domain="bot.example.org", secret="hunter2", component_post_url="http://user:hunter2@h/hunter2?token=hunter2"
        )
        settings = Settings(component=component, spool=SpoolSettings(kind="memory"))
        reactor = MemoryReactorClock()
        gateway = Gateway(settings, reactor, manager=StreamManager(BootstrapMixin(), reactor))
        with capturedLogs() as logs:
            gateway.startService()
        self.addCleanup(gateway.stopService)
        lines = [formatEvent(event) for event in logs if event["log_level"] is LogLevel.info]
        self.assertEqual(
            f"component-http {__version__} serves bot.example.org: message to http://h; the spool is in memory",
            lines[0],
        )

    def test_no_webhook(self) -> None:
        """
        A gateway that only sends says so.
        """
        component = ComponentSettings(domain="bot.example.org", secret="x")
        api = ApiSettings(listen="tcp:18347:interface=127.0.0.1")
        settings = Settings(component=component, api=api, spool=SpoolSettings(kind="memory"))
        reactor = MemoryReactorClock()
        gateway = Gateway(settings, reactor, manager=StreamManager(BootstrapMixin(), reactor))
        with capturedLogs() as logs:
            gateway.startService()
        self.addCleanup(gateway.stopService)
        line = next(formatEvent(event) for event in logs if event["log_level"] is LogLevel.info)
        self.assertEqual(
            f"component-http {__version__} serves bot.example.org: no webhook; the spool is in memory", line
        )
        status = gateway.status()
        assert status is not None
        self.assertEqual("none", status.webhook)


class WebhookTests(SynchronousTestCase):
    """Where stanzas go, or do not."""

    def test_nothing_to_do(self) -> None:
        """
        Without a webhook, by its URL or by an object, and without an API there is nothing to do, which an application
        is told at once.
        """
        settings = Settings(component=ComponentSettings(domain="bot.example.org", secret="x"))
        reactor = MemoryReactorClock()
        error = self.assertRaises(SettingsError, Gateway, settings, reactor)
        self.assertIn("there is nothing to do", str(error))
        Gateway(settings, reactor, webhook=ScriptedWebhook())
