"""The operators in the chat: what they are told, and their commands."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from attrs import evolve
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.xish.domish import Element

from component_http.contract.reply import Response
from component_http.contract.xml import Limits, parse_stanzas, serialize
from component_http.delivery.status import Status
from component_http.errors import SettingsError
from component_http.log import set_level
from component_http.operations.alarms import CONDITIONS, LONG_QUIET, QUIET, Alarms
from component_http.operations.metrics import Counters
from component_http.operations.view import ComponentView, View, WebhookView
from component_http.settings import Settings
from component_http.settings.operations import OperationsSettings
from component_http.xmpp.ad_hoc import MAX_SESSIONS, NS_COMMANDS, SESSION_SECONDS
from tests.unit.test_monitoring import ALERTS, RULES
from tests.unit.test_operations import WatchedTestCase

ADMIN = "admin@example.org"
AFTER = 300.0
PONG = Response(200, {"content-type": "application/json"}, b'{"body": "pong"}')
FORM = "<x xmlns='jabber:x:data' type='submit'>{}</x>"


def a_view(*, oldest: float | None = None, connected: bool = True, failing: float | None = None, **events: int) -> View:
    """A gateway with one component."""
    status = Status(1, 10, 0, "closed", (), oldest=oldest)
    webhook = WebhookView("closed", failing, None if failing is None else "HTTP status 500")
    component = ComponentView(status, connected, 0, {"": webhook})
    counters = Counters({"accepted": 1, **events})
    return View({"bot.example.org": component}, counters, 1, 10**10, 1.0, {"version": "1"})


class AlarmTests(SynchronousTestCase):
    """What is wrong, and when it is told."""

    def setUp(self) -> None:
        self.alarms, self.now = Alarms(), 1000.0
        self.told: list[str] = []

    def go_on(self, seconds: float, view: Callable[[], View] | View, step: float = 5.0) -> list[str]:
        """Look again and again, and tell what is to be told; returns that."""
        told, end = [], self.now + seconds
        while self.now < end:
            self.now += step
            for trouble in self.alarms.look(view if isinstance(view, View) else view(), self.now, 1e9, AFTER):
                told.append(trouble.sentence(self.now))
                self.alarms.done(trouble, self.now)
        return told

    def test_same_names(self) -> None:
        """
        Each trouble is one of the alerts for Prometheus, and the others are those that only Prometheus can know.
        """
        left = {f"ComponentHttp{name}" for name in ("Down", "ServerSlow", "HeldUp")}
        self.assertEqual([name for name in ALERTS if name not in left], list(CONDITIONS))

    def test_same_thresholds(self) -> None:
        """
        A trouble is one from the threshold on that the rule for Prometheus has, and none below it.
        """
        day = 86_400
        views: dict[str, Callable[[float], View]] = {
            "StreamUnsteady": lambda limit: a_view(stream_lost=int(limit)),
            "OldPending": lambda limit: a_view(oldest=limit),
            "DiskFills": lambda limit: evolve(a_view(), disk_free_bytes=int(limit)),
            "OwnCertificateEnds": lambda limit: evolve(a_view(), certificates={"api.listen": 1e9 + limit}),
            "CatchesUpSlowly": lambda limit: evolve(a_view(), catch_up=limit),
        }
        for name, view in views.items():
            rule = re.search(rf"ComponentHttp{name}\n +expr: .* ([<>]) ([0-9e]+)( \* {day})?\n", RULES)
            assert rule is not None, name
            limit = float(rule[2]) * (day if rule[3] else 1)
            beyond, within = (limit + 10, limit - 10) if rule[1] == ">" else (limit - 10, limit + 10)
            if name == "StreamUnsteady":
                beyond, within = limit + 1, limit
            for value, expected in ((beyond, 1), (within, 0)):
                with self.subTest(name=name, value=value):
                    self.alarms = Alarms()
                    self.go_on(20, a_view(stream_lost=0))
                    told = self.go_on(AFTER + 20, view(value))
                    self.assertEqual(expected, len([line for line in told if f"ComponentHttp{name}" in line]), told)

    def test_once_and_resolved(self) -> None:
        """
        A trouble that lasts is told once, and its end once, with its length; one that passes soon is told to nobody.
        """
        self.assertEqual([], self.go_on(200, a_view(connected=False)))
        self.assertEqual([], self.go_on(600, a_view()))
        told = self.go_on(3000, a_view(connected=False))
        self.assertEqual(1, len(told), told)
        self.assertRegex(
            told[0], r"\AALERT ComponentHttpNotConnected \(bot.example.org\): there is no stream to its XMPP"
        )
        self.assertEqual(
            ["RESOLVED ComponentHttpNotConnected (bot.example.org): it lasted 49 min"], self.go_on(600, a_view())
        )

    def test_flapping(self) -> None:
        """
        A trouble that comes and goes every minute or two is one trouble, after it has come back for the first time.
        """
        told: list[str] = []
        for _ in range(30):
            told += self.go_on(30, a_view(failing=400))
            told += self.go_on(QUIET * AFTER + 30, a_view())
        self.assertEqual(["ALERT", "RESOLVED", "ALERT"], [line.split()[0] for line in told])
        self.assertIn("again", told[2])
        self.assertEqual(1, len(self.go_on(LONG_QUIET * AFTER + 10, a_view())))

    def test_not_told_in_time(self) -> None:
        """
        What could not be told while it lasted is told when it can be: as there, or as past.
        """
        for _ in range(100):
            self.now += 5
            [due] = self.alarms.look(a_view(failing=400), self.now, 1e9, AFTER)
        self.assertIn("ALERT", due.sentence(self.now))
        self.now += QUIET * AFTER
        [due] = self.alarms.look(a_view(), self.now, 1e9, AFTER)
        self.assertRegex(due.sentence(self.now), r"\ARESOLVED .* it lasted 8 min, and could not be told: nothing but")

    def test_counters(self) -> None:
        """
        What counters tell is there while they have risen lately.
        """
        for name, events in {
            "ComponentHttpStreamUnsteady": {"stream_lost": 6},
            "ComponentHttpRefuses": {"refused_full": 1},
            "ComponentHttpSpoolFails": {"disk_full": 1},
            "ComponentHttpReloadRefused": {"reload_refused": 1},
        }.items():
            with self.subTest(name=name):
                self.alarms = Alarms()
                self.assertEqual([], self.go_on(60, a_view(spool_failed=0)))
                told = self.go_on(3000, a_view(**events))
                self.assertEqual(["ALERT", "RESOLVED"], [line.split()[0] for line in told])
                self.assertIn(name, told[0])

    def test_certificates(self) -> None:
        """
        The end of a certificate is told at once, whoever shows it: the webhook, the server, or the gateway.
        """
        soon, view = 1e9 + 5 * 86_400, a_view()
        component = view.components["bot.example.org"]
        assert component.status is not None
        for whose, changed in (
            ("a webhook", evolve(component, status=evolve(component.status, certificate_ends=soon))),
            ("the XMPP server", evolve(component, server_certificate_ends=soon)),
        ):
            self.alarms = Alarms()
            told = self.go_on(60, evolve(view, components={"bot.example.org": changed}))
            self.assertEqual(1, len(told), told)
            self.assertIn(f"the certificate of {whose} ends in 5 days", told[0])
        self.alarms = Alarms()
        [told_once] = self.go_on(60, evolve(view, certificates={"api.listen": soon}))
        self.assertIn("the certificate that api.listen names ends in 5 days", told_once)

    def test_many_given_up(self) -> None:
        """
        One delivery in ten that is given up is a trouble, one in a hundred is none.
        """
        for given_up, expected in ((10, 1), (1, 0)):
            self.alarms, ended = Alarms(), 0

            def more(given_up: int = given_up) -> View:
                nonlocal ended
                ended += 1
                counters = {"replied": ended * (100 - given_up), "bounced": ended * given_up}
                return a_view(**{**counters, "accepted": ended * 100 + 1})

            told = [line for line in self.go_on(1000, more) if "GivesUp" in line]
            self.assertEqual(expected, len(told), told)


class OperatorTestCase(WatchedTestCase):
    """A gateway with an operator."""

    operations = {"admin_jids": [ADMIN], "alert_after": 60}

    def iq(self, payload: str, sender: str = f"{ADMIN}/phone", type: str = "set", to: str = "bot.example.org") -> Any:
        """Ask, and return the answer; None if there is none yet."""
        xml = f"<iq type='{type}' from='{sender}' to='{to}' id='i'>{payload}</iq>"
        [element] = parse_stanzas(xml, Limits())
        self.sent.clear()
        self.stream.dispatch(element)
        self.reactor.advance(0)
        answers = [each for each in self.sent if isinstance(each, Element) and each.name == "iq"]
        return answers[-1] if answers else None

    def command(self, node: str, content: str = "", sender: str = f"{ADMIN}/phone", **attributes: str) -> Any:
        more = "".join(f" {name}='{value}'" for name, value in attributes.items())
        payload = f"<command xmlns='{NS_COMMANDS}' node='component-http#{node}'{more}>{content}</command>"
        return self.iq(payload, sender)

    def fill_in(self, node: str, session: str, **values: str) -> Any:
        fields = "".join(f"<field var='{name}'><value>{value}</value></field>" for name, value in values.items())
        return self.command(node, FORM.format(fields), sessionid=session)

    def told(self) -> list[str]:
        """The messages to the operator."""
        sent = [each if isinstance(each, str) else serialize(each) for each in self.sent]
        found = [re.sub("<.*?>", "", each) for each in sent if re.match(f"<message[^>]* to=['\"]{ADMIN}", each)]
        self.sent.clear()
        return found


class AlertTests(OperatorTestCase):
    """Messages to the operator."""

    def test_webhook_fails(self) -> None:
        """
        The operator is told that the webhook fails, although nothing gets through to it, and that it is back.
        """
        gateway = self.a_gateway([Response(500)] * 20 + [PONG] * 60, max_attempts=100)
        self.say("alice", "bob")
        self.reactor.pump([1] * 80)
        told = self.told()
        self.assertEqual(1, len(told), told)
        self.assertRegex(told[0], r"\AALERT ComponentHttpWebhookFails \(bot.example.org\): nothing but .* status 500")
        self.reactor.pump([1] * 300)
        told = [line for line in self.told() if "WebhookFails" in line]
        self.assertEqual(["RESOLVED"], [line.split()[0] for line in told])
        self.assertEqual(2, gateway.counters["operator_told"])

    def test_no_operator(self) -> None:
        """
        Without an operator nobody looks, and nobody has commands.
        """
        self.operations = {}
        self.a_gateway([])
        self.assertEqual("forbidden", self.command("status").error.firstChildElement().name)
        self.assertFalse([call for call in self.reactor.getDelayedCalls() if "_look" in str(call)])


class CommandTests(OperatorTestCase):
    """Commands of the operator."""

    def failed(self, answer: Any) -> list[str]:
        self.assertEqual("error", answer["type"])
        return [child.name for child in answer.error.elements()]

    def test_found(self) -> None:
        """
        The operator finds the commands, at the component's own domain; nobody else does.
        """
        self.a_gateway([])
        info, items = "http://jabber.org/protocol/disco#info", "http://jabber.org/protocol/disco#items"
        question = f"<query xmlns='{items}' node='{NS_COMMANDS}'/>"
        found = [item["node"].partition("#")[2] for item in self.iq(question, type="get").query.elements()]
        self.assertEqual(["status", "pending", "letters", "pause", "wake", "log"], found)
        for sender, to in (
            ("eve@example.org/x", "bot.example.org"),
            (f"{ADMIN}/x", "bot@bot.example.org"),
            ("room@rooms.example.org/admin@example.org", "bot.example.org"),
            ("example.org/admin@example.org", "bot.example.org"),
        ):
            with self.subTest(sender=sender, to=to):
                self.assertEqual("error", self.iq(question, sender, "get", to)["type"])
                features = serialize(self.iq(f"<query xmlns='{info}'/>", sender, "get", to))
                self.assertNotIn(NS_COMMANDS, features)
        self.assertIn(NS_COMMANDS, serialize(self.iq(f"<query xmlns='{info}'/>", type="get")))
        node = self.iq(f"<query xmlns='{info}' node='component-http#wake'/>", type="get")
        self.assertIn("command-node", serialize(node))

    def test_others_are_refused(self) -> None:
        """
        Whoever is no operator is refused, which is counted and logged once.
        """
        gateway = self.a_gateway([])
        with capturedLogs() as logs:
            for sender in (
                "eve@example.org/x",
                "room@rooms.example.org/admin",
                "example.org",
                "admin@example.org.evil",
            ):
                self.assertEqual(["forbidden"], self.failed(self.command("status", sender=sender)))
        self.assertEqual(4, gateway.counters["operator_refused"])
        self.assertEqual(1, len([each for each in logs if "admin_jids" in formatEvent(each)]))

    def test_same_address(self) -> None:
        """
        An operator is known by the bare address, however it is written.
        """
        self.a_gateway([])
        self.assertEqual("completed", self.command("status", sender="ADMIN@Example.ORG/other").command["status"])

    def test_messages_are_the_bots(self) -> None:
        """
        What an operator writes to the bot is POSTed as anybody's.
        """
        self.a_gateway([PONG])
        self.say("admin")
        self.reactor.advance(0)
        self.assertEqual(1, len(self.webhook.posts))

    def test_status_and_pending(self) -> None:
        """
        Status and pending say how the gateway is and what waits, and hostile text stays in its line.
        """
        self.a_gateway([Response(500)] * 9, max_attempts=9)
        nothing = self.command("pending")
        self.assertEqual("nothing is pending", str(nothing.command.note))
        self.say("alice", "bob")
        self.reactor.advance(0.1)
        lines = [str(value) for value in self.command("pending").command.x.field.elements()]
        self.assertEqual(2, len(lines), lines)
        self.assertRegex(lines[0], r"alice@example.org/x to bot@bot.example.org: .*; last failure: HTTP status 500")
        status = [str(value) for value in self.command("status").command.x.field.elements()]
        self.assertRegex(
            "\n".join(status), r"bot.example.org is connected(.|\n)*pending: 2(.|\n)*webhook: closed, fails"
        )

    def test_pause_and_wake(self) -> None:
        """
        While the webhook is paused nothing is POSTed, and everybody can see why; wake ends it, and so does its time.
        """
        gateway = self.a_gateway([PONG] * 9)
        for minutes in ("", "5"):
            with self.subTest(minutes=minutes):
                asked = self.command("pause").command
                self.assertEqual("executing", asked["status"])
                paused = self.fill_in("pause", asked["sessionid"], minutes=minutes).command
                self.assertEqual("completed", paused["status"])
                posted = len(self.webhook.posts)
                self.say("alice")
                self.reactor.advance(1)
                self.assertEqual(posted, len(self.webhook.posts))
                status = gateway.status()
                assert status is not None
                self.assertEqual(("an operator has paused the webhook",), status.obstacles)
                self.assertEqual("paused", status.webhook)
                lines = [str(value) for value in self.command("pending").command.elements()]
                self.assertIn("an operator has paused the webhook", "".join(lines))
                if minutes:
                    self.reactor.pump([1] * 300)
                else:
                    self.reactor.pump([1] * 600)
                    self.assertEqual(posted, len(self.webhook.posts))
                    self.assertEqual("completed", self.command("wake").command["status"])
                self.reactor.advance(1)
                self.assertEqual(posted + 1, len(self.webhook.posts))
                self.assertEqual((), gateway.status().obstacles)

    def test_pause_again(self) -> None:
        """
        A pause with an end takes the place of one without, so nothing waits when nobody sees a pause any more.
        """
        gateway = self.a_gateway([PONG] * 9)
        for minutes in ("", "5"):
            session = self.command("pause").command["sessionid"]
            self.fill_in("pause", session, minutes=minutes)
            self.say("alice" + minutes)
        self.reactor.pump([1] * 301)
        status = gateway.status()
        assert status is not None
        self.assertEqual(((), 2), (status.obstacles, len(self.webhook.posts)))

    def test_wrong_values(self) -> None:
        """
        A form with a wrong value comes back with a sentence, and can be corrected.
        """
        self.a_gateway([])
        session = self.command("pause").command["sessionid"]
        for wrong in ("soon", "-1", "0", "1e9", "9" * 20, "٣", "000000001" + "9" * 9, "000000001" + "0" * 5000):
            answer = self.fill_in("pause", session, minutes=wrong).command
            self.assertEqual(("executing", "error"), (answer["status"], answer.note["type"]))
        self.assertEqual("completed", self.fill_in("pause", session, minutes="1").command["status"])

    def test_log_level(self) -> None:
        """
        Another level of the log is there for ten minutes; a reload sets that of the settings at once.
        """
        self.addCleanup(set_level, "info")
        gateway = self.a_gateway([PONG] * 9)

        def debug_lines() -> int:
            with capturedLogs() as logs:
                self.say("alice")
                self.reactor.advance(0)
            return len([each for each in logs if each["log_level"] is LogLevel.debug])

        before = debug_lines()
        for reload in (False, True):
            session = self.command("log").command["sessionid"]
            self.assertEqual("completed", self.fill_in("log", session, level="debug").command["status"])
            self.assertGreater(debug_lines(), before)
            if reload:
                gateway.reload(gateway._settings)
            else:
                self.reactor.pump([60] * 10)
            self.assertEqual(before, debug_lines())

    def test_memory_has_no_letters(self) -> None:
        """
        With a spool in memory the command says that there are no dead letters, and why.
        """
        self.a_gateway([])
        self.assertIn("memory", str(self.command("letters").command.note))

    def test_malformed(self) -> None:
        """
        Malformed commands are answered with the errors of XEP-0050, and one that was cancelled is over.
        """
        self.a_gateway([])
        bad = "bad-request"
        self.assertEqual([bad, "malformed-action"], self.failed(self.command("pause", action="jump")))
        self.assertEqual([bad, "bad-action"], self.failed(self.command("pause", action="complete")))
        self.assertEqual([bad, "bad-sessionid"], self.failed(self.command("pause", sessionid="0")))
        session = self.command("pause").command["sessionid"]
        again = {"sessionid": session}
        self.assertEqual([bad, "bad-sessionid"], self.failed(self.command("pause", sender=f"{ADMIN}/x", **again)))
        self.assertEqual([bad, "bad-sessionid"], self.failed(self.command("log", **again)))
        self.assertEqual([bad, "bad-action"], self.failed(self.command("pause", action="prev", **again)))
        field = "<field var='a'><value>1</value></field>"
        for content in (
            "",
            FORM.format("") * 2,
            "<x xmlns='jabber:x:data' type='form'/>",
            FORM.format(field * 2),
            FORM.format("".join(f"<field var='f{n}'/>" for n in range(51))),
            FORM.format(f"<field var='a'>{'<value/>' * 201}</field>"),
        ):
            with self.subTest(content=content[:60]):
                names = self.failed(self.command("pause", content, **again))
                self.assertEqual([bad, "bad-payload"], [name for name in names if name != "text"])
        self.assertEqual("canceled", self.command("pause", action="cancel", **again).command["status"])
        self.assertEqual([bad, "bad-sessionid"], self.failed(self.command("pause", **again)))
        get = f"<command xmlns='{NS_COMMANDS}' node='component-http#wake'/>"
        self.assertEqual([bad], self.failed(self.iq(get, type="get")))

    def test_sessions_end(self) -> None:
        """
        A thousand forms that nobody fills in take no room for ever, and one that is too old says so.
        """
        self.a_gateway([])
        first = self.command("pause").command["sessionid"]
        self.reactor.advance(SESSION_SECONDS)
        self.assertEqual(["not-allowed", "session-expired"], self.failed(self.fill_in("pause", first)))
        sessions = [self.command("pause").command["sessionid"] for _ in range(1000)]
        self.assertEqual(
            ["bad-request", "bad-sessionid"], self.failed(self.fill_in("pause", sessions[-MAX_SESSIONS - 1]))
        )
        self.assertEqual("completed", self.fill_in("pause", sessions[-MAX_SESSIONS]).command["status"])

    def test_other_commands(self) -> None:
        """
        Commands with other names, and those to a bot's own address, are the bot's.
        """
        self.a_gateway([])
        other = f"<command xmlns='{NS_COMMANDS}' node='weather'/>"
        self.assertEqual(["service-unavailable"], self.failed(self.iq(other)))
        ours = f"<command xmlns='{NS_COMMANDS}' node='component-http#wake'/>"
        self.assertEqual(["service-unavailable"], self.failed(self.iq(ours, to="bot@bot.example.org")))


class SettingsTests(SynchronousTestCase):
    """Who the operators are."""

    def test_wrong_operators(self) -> None:
        """
        An operator is the bare address of a user, and none of the component's own.
        """
        self.assertEqual((ADMIN,), OperationsSettings(admin_jids=["Admin@Example.org", ADMIN]).admin_jids)
        for wrong in (ADMIN, ["example.org"], [f"{ADMIN}/x"], ["*@example.org"], [1], {"a@b": 1}):
            with self.subTest(wrong=wrong):
                error = self.assertRaises(SettingsError, OperationsSettings, admin_jids=wrong)
                self.assertIn("operations.admin_jids", str(error))
        mapping = {
            "component": {"domain": "bot.example.org", "component_post_url": "http://127.0.0.1/"},
            "operations": {"admin_jids": ["me@bot.example.org"]},
        }
        error = self.assertRaises(SettingsError, Settings.from_mapping, mapping, env={"COMPONENT_HTTP_SECRET": "s"})
        self.assertIn("an address of the component itself", str(error))
