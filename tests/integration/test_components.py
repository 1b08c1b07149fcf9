"""
Several components in one process: each with a server and a webhook of its own, one spool, and one API.
"""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import requests

from tests.integration.exchange import says
from tests.integration.probe import Peer, ScriptedServer
from tests.integration.processes import Answer, GatewayProcess, Request, ScriptedWebhook, reply, toml
from tests.integration.servers import SERVERS, USERS
from tests.integration.user import User
from tests.integration.waiting import eventually

PATIENCE = 20.0
READ_AGAIN = "the settings were read again: "


class Bot:
    """A component: its server, its webhook, which answers with its name and what it was told, and its stream."""

    def __init__(self, stack: ExitStack, name: str) -> None:
        self.name = name
        self.domain = f"{name}.localhost"
        self.hangs = threading.Event()
        self.release = threading.Event()
        stack.callback(self.release.set)
        self.server = stack.enter_context(ScriptedServer(f"secret of {name}"))
        self.webhook = stack.enter_context(ScriptedWebhook(self._answer))
        self.table: dict[str, Any] = {
            "domain": self.domain,
            "server": self.server.endpoint,
            "secret_file": f"secret-{name}",
            "component_post_url": self.webhook.url,
        }
        self.peer: Peer

    def _answer(self, request: Request) -> Answer:
        if self.hangs.is_set():
            self.release.wait(PATIENCE)
        return reply(body=f"{self.name}: {request.json['body']}")

    def connect(self) -> None:
        self.peer = self.server.connected()

    def say(self, user: str, body: str, count: int = 1) -> None:
        self.peer.send(
            f"<message from='{user}@localhost/x' to='bot@{self.domain}' type='chat'><body>{body}</body></message>"
            * count
        )

    def answers(self, body: str) -> None:
        text = f"{self.name}: {body}"
        self.peer.wait_for(lambda element: says(element, text), f"the reply {text}")

    def heard(self) -> list[str]:
        return [request.json["body"] for request in self.webhook.requests]


class Stage:
    """A gateway with some bots."""

    def __init__(self, stack: ExitStack, *names: str, **sections: Any) -> None:
        self.stack = stack
        self.bots = {name: Bot(stack, name) for name in names}
        self.path = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "spool.sqlite3"
        self.sections = {
            "delivery": {"max_attempts": 5, "drain_timeout": 0.5},
            "spool": {"path": str(self.path)},
            "log": {"level": "debug"},
            **sections,
        }
        self.start()

    def start(self) -> None:
        """Start a gateway, and wait for the stream of each bot."""
        secrets = {f"secret-{name}": bot.server.secret for name, bot in self.bots.items()}
        gateway = GatewayProcess(
            domain="",
            server="",
            secret="",
            post_url="",
            sections={**self.sections, "component": self.tables()},
            secrets={**secrets, "ops": "o" * 20, "red": "r" * 20},
        )
        self.gateway = self.stack.enter_context(gateway)
        for bot in self.bots.values():
            bot.connect()
        for bot in self.bots.values():
            self.gateway.wait_for_log(f"authenticated as {bot.domain}")

    def kept(self) -> int:
        """The deliveries in the spool's file."""
        with closing(sqlite3.connect(self.path, timeout=10)) as connection:
            [[number]] = connection.execute("SELECT count(*) FROM deliveries").fetchall()
        return int(number)

    def tables(self) -> list[dict[str, Any]]:
        return [bot.table for bot in self.bots.values()]

    def add(self, name: str) -> Bot:
        bot = self.bots[name] = Bot(self.stack, name)
        (self.gateway.folder / f"secret-{name}").write_text(bot.server.secret)
        (self.gateway.folder / f"secret-{name}").chmod(0o600)
        return bot

    def reload(self) -> None:
        """Let it read its settings as they are now, and wait until it has."""
        (self.gateway.folder / "gateway.toml").write_text(toml({**self.sections, "component": self.tables()}))
        times = self.gateway.log().count(READ_AGAIN)
        os.kill(self.gateway.pid, signal.SIGHUP)
        self.gateway.wait_for_log(READ_AGAIN, times=times + 1)


@contextmanager
def staged(*names: str, **sections: Any) -> Iterator[Stage]:
    with ExitStack() as stack:
        stage = Stage(stack, *names, **sections)
        yield stage
        if stage.gateway.running:
            stage.gateway.stop()
        else:
            stage.gateway.assert_ended_in_order()


def test_each_has_its_own() -> None:
    """
    What is said to a component comes to its own webhook, and the answer leaves on its own stream.
    """
    with staged("red", "green", "blue") as stage:
        for bot in stage.bots.values():
            bot.say("alice", "hello")
        for bot in stage.bots.values():
            bot.answers("hello")
            assert bot.heard() == ["hello"]
        assert not stage.gateway.warnings()


def test_one_does_not_disturb_another() -> None:
    """
    While one is flooded and another one's webhook hangs, the third answers as ever.
    """
    with staged("flooded", "hanging", "calm", spool={"kind": "memory"}) as stage:
        flooded, hanging, calm = stage.bots.values()
        flooded.hangs.set()
        hanging.hangs.set()
        for number in range(40):
            hanging.say(f"user{number}", "hello", 20)
            flooded.say(f"user{number}", "x" * 500, 200)
        for number in range(20):
            calm.say("alice", str(number))
            calm.answers(str(number))
        flooded.release.set()
        hanging.release.set()


def test_after_a_kill() -> None:
    """
    What waits for two components in the one spool comes to each of them after a kill -9, and nothing to the other.
    """
    with staged("red", "blue") as stage:
        red, blue = stage.bots.values()
        for bot in (red, blue):
            bot.hangs.set()
            bot.say("alice", f"one of {bot.name}")
            bot.say("alice", f"two of {bot.name}")
            bot.webhook.wait_for(1, settled=False)
        eventually(lambda: stage.kept() == 4, "four deliveries in the spool")
        stage.gateway.kill()
        for bot in (red, blue):
            bot.hangs.clear()
            bot.release.set()
        stage.start()
        for bot in (red, blue):
            bot.answers(f"one of {bot.name}")
            bot.answers(f"two of {bot.name}")
            assert all(body.endswith(bot.name) for body in bot.heard())


def test_they_come_and_go() -> None:
    """
    A reload serves one more component and leaves the stream of another alone; one that goes ends its stream politely,
    and what had waited for it is a dead letter that names its domain.
    """
    with staged("red", "blue") as stage:
        red, blue = stage.bots.values()
        red.hangs.set()
        red.say("alice", "stays behind")
        red.webhook.wait_for(1, settled=False)
        green = stage.add("green")
        del stage.bots["red"]
        stage.reload()
        green.connect()
        green.say("alice", "hello")
        green.answers("hello")
        red.peer.wait(lambda: red.peer.stream_closed, "the end of the stream")
        stage.gateway.wait_for_log("red.localhost is not served any more, so what was kept for it becomes dead letters")
        blue.say("alice", "still there")
        blue.answers("still there")
        red.release.set()


def test_stopped_while_one_changes() -> None:
    """
    A stop that comes while a component drains, because it is to have another stream, ends all of them in order; another
    change of the settings meanwhile counts as well.
    """
    with staged("red", "blue", delivery={"max_attempts": 5, "drain_timeout": 1.0}) as stage:
        red, blue = stage.bots.values()
        red.hangs.set()
        red.say("alice", "waits")
        red.webhook.wait_for(1, settled=False)
        red.table["nick"] = "other"
        stage.reload()
        stage.gateway.wait_for_log("red.localhost drains, and then has another stream")
        blue.table["component_post_url"] = red.webhook.url
        stage.reload()
        red.hangs.clear()
        blue.say("alice", "moved")
        blue.peer.wait_for(lambda element: says(element, "red: moved"), "the answer of the other webhook")
        red.hangs.set()
        red.table["nick"] = "another"
        stage.reload()
        stage.gateway.terminate()
        for bot in (red, blue):
            bot.peer.wait(lambda bot=bot: bot.peer.gone, "the end of the connection")
        red.release.set()
        assert not stage.gateway.lines("Traceback")
        assert stage.kept() == 1


def test_gone_with_a_thousand_waiting() -> None:
    """
    What waits for a component that goes is kept as dead letters, all of it, and the log says so in one line.
    """
    with staged("red", "blue", delivery={"max_attempts": 5, "drain_timeout": 0.1}) as stage:
        red, blue = stage.bots.values()
        red.hangs.set()
        for number in range(100):
            red.say(f"user{number}", "waits", 10)
        eventually(lambda: stage.kept() == 1000, "a thousand deliveries in the spool")
        del stage.bots["red"]
        stage.reload()
        stage.gateway.wait_for_log("red.localhost is not served any more, so what was kept")
        eventually(lambda: stage.kept() == 0, "an empty spool")
        [line] = stage.gateway.lines("is not served any more, so")
        assert line.endswith("becomes dead letters: 1000")
        with closing(sqlite3.connect(stage.path, timeout=10)) as connection:
            dead = connection.execute("SELECT DISTINCT note, count(*) FROM letters").fetchall()
        assert dead == [("red.localhost is not served any more", 1000)]
        blue.say("alice", "still there")
        blue.answers("still there")
        red.release.set()


def test_domains_are_swapped() -> None:
    """
    Two components that swap their domains, and so their servers and secrets, drain and connect anew; what waits for a
    domain stays with it.
    """
    with staged("red", "blue") as stage:
        red, blue = stage.bots.values()
        red.hangs.set()
        red.say("alice", "for red")
        red.webhook.wait_for(1, settled=False)
        for key in ("component_post_url", "secret_file"):
            red.table[key], blue.table[key] = blue.table[key], red.table[key]
        red.server.secret, blue.server.secret = blue.server.secret, red.server.secret
        stage.reload()
        for bot in (red, blue):
            bot.peer.wait(lambda bot=bot: bot.peer.stream_closed, "the end of the stream")
            bot.connect()
        red.peer.wait_for(lambda element: says(element, "blue: for red"), "the answer of the other webhook")
        red.hangs.clear()
        red.release.set()


def test_an_empty_secret() -> None:
    """
    A secret that is empty when the settings are read again changes nothing, and one line says so.
    """
    with staged("red", "blue") as stage:
        red, blue = stage.bots.values()
        (stage.gateway.folder / "secret-red").write_text("\n")
        os.kill(stage.gateway.pid, signal.SIGHUP)
        stage.gateway.wait_for_log("the settings stay as they were")
        [line] = stage.gateway.warnings()
        assert "[[component]] red.localhost: component.secret_file" in line and "is empty" in line
        for bot in (red, blue):
            bot.say("alice", "hello")
            bot.answers("hello")


def test_one_reconnects_alone() -> None:
    """
    With another secret a component drains and connects anew, and the others notice nothing; what waited for it is
    delivered on the new stream.
    """
    with staged("red", "blue") as stage:
        red, blue = stage.bots.values()
        red.hangs.set()
        red.say("alice", "waits")
        red.webhook.wait_for(1, settled=False)
        red.table["nick"] = "other"
        stage.reload()
        blue.say("alice", "meanwhile")
        blue.answers("meanwhile")
        red.peer.wait(lambda: red.peer.stream_closed, "the end of the stream")
        red.hangs.clear()
        red.release.set()
        red.connect()
        red.answers("waits")
        red.say("alice", "again")
        red.answers("again")
        assert stage.gateway.log().count("authenticated as blue.localhost") == 1


def test_the_api_sends_for_each() -> None:
    """
    The sender decides which component sends; a token may be for one of them only.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    tokens = [
        {"name": "ops", "token_file": "ops"},
        {"name": "red", "token_file": "red", "components": ["red.localhost"]},
    ]
    with staged("red", "blue", api={"listen": f"tcp:{port}:interface=127.0.0.1", "token": tokens}) as stage:
        red, blue = stage.bots.values()

        def push(token: str, **what: str) -> tuple[int, Any]:
            told = requests.post(
                f"http://127.0.0.1:{port}/v1/messages",
                json={"to": "alice@localhost", "body": "pushed", **what},
                headers={"Authorization": f"Bearer {token}"},
                timeout=PATIENCE,
            )
            return told.status_code, told.json()

        eventually(lambda: "the API listens" in stage.gateway.log(), "the API", detail=stage.gateway.log)
        assert push("o" * 20, **{"from": "bot@blue.localhost"})[0] == 202
        blue.peer.wait_for(lambda element: says(element, "pushed"), "what was pushed")
        assert push("r" * 20)[0] == 202
        red.peer.wait_for(lambda element: says(element, "pushed"), "what was pushed")
        status, problem = push("o" * 20)
        assert status == 422 and "red.localhost, blue.localhost" in problem["detail"]
        assert push("r" * 20, **{"from": "bot@blue.localhost"})[0] == 403


def test_routes() -> None:
    """
    A route takes what it is for to a webhook of its own, another one answers by itself, and one drops; a route whose
    webhook is down keeps nothing else from being answered. A reload changes them without touching the stream, and what
    waits is routed anew, also by another process.
    """
    with ExitStack() as stack:
        weather = stack.enter_context(ScriptedWebhook(lambda request: reply(body=f"rain: {request.json['body']}")))
        stage = Stage(stack, "red")
        red = stage.bots["red"]
        own = dict(red.table)
        routes: list[dict[str, Any]] = [
            {"name": "weather", "body": "/weather", "url": "http://127.0.0.1:9/", "webhook": {"connect_timeout": 1.0}},
            {"name": "moved", "to": ["old@red.localhost"], "reply": {"body": "I have moved"}},
            {"name": "spam", "from": ["*@spam.localhost"], "drop": True},
        ]
        red.table["route"] = routes
        stage.reload()
        red.say("alice", "/weather now")
        red.say("bob", "hello")
        red.answers("hello")
        red.peer.send("<message from='bob@localhost/x' to='old@red.localhost' type='chat'><body>hi</body></message>")
        red.peer.wait_for(lambda element: says(element, "I have moved"), "the fixed reply")
        red.peer.send("<message from='x@spam.localhost/x' to='bot@red.localhost' type='chat'><body>hi</body></message>")
        routes[0]["url"] = weather.url
        stage.reload()
        red.peer.wait_for(lambda element: says(element, "rain: /weather now"), "the answer of the route")
        routes[0]["url"] = "http://127.0.0.1:9/"
        stage.reload()
        red.say("alice", "/weather tomorrow")
        red.say("alice", "behind it")
        eventually(lambda: stage.kept() == 2, "two deliveries in the spool")
        stage.gateway.kill()
        red.table = own
        stage.start()
        red.answers("/weather tomorrow")
        red.answers("behind it")
        assert red.heard() == ["hello", "/weather tomorrow", "behind it"]
        assert len(weather.requests) == 1
        stage.gateway.stop()


def test_three_on_two_real_servers() -> None:
    """
    Three components of one process, two on Prosody and one on ejabberd, answer a real client on each; while all of them
    have load, a reload moves one to another webhook, and no answer is lost, repeated, or out of order.
    """
    with ExitStack() as stack:
        prosody, ejabberd = (
            stack.enter_context(SERVERS[name](dict.fromkeys(domains, "a secret for all")))
            for name, domains in (("prosody", ["red.localhost", "blue.localhost"]), ("ejabberd", ["green.localhost"]))
        )
        webhooks = {
            name: stack.enter_context(ScriptedWebhook(lambda request: reply(body=request.json["body"])))
            for name in ("red", "blue", "green", "other")
        }
        tables = [
            {
                "domain": f"{name}.localhost",
                "server": server.endpoint,
                "secret_file": "secret",
                "component_post_url": webhooks[name].url,
            }
            for name, server in (("red", prosody), ("blue", prosody), ("green", ejabberd))
        ]
        gateway = stack.enter_context(
            GatewayProcess(domain="", server="", secret="a secret for all", post_url="", sections={"component": tables})
        )
        users = {}
        for server in (prosody, ejabberd):
            users[server] = stack.enter_context(User("alice@localhost", USERS["alice"], server.client_port))
            users[server].log_in()
        for table in tables:
            gateway.wait_for_log(f"authenticated as {table['domain']}")
        bots = {"red": users[prosody], "blue": users[prosody], "green": users[ejabberd]}
        number = 60
        for each in range(number):
            for name, alice in bots.items():
                alice.say(f"bot@{name}.localhost", f"{name} {each}")
            if each == number // 2:
                eventually(lambda: webhooks["red"].requests, "the first requests", detail=gateway.log)
                tables[0]["component_post_url"] = webhooks["other"].url
                text = (gateway.folder / "gateway.toml").read_text()
                (gateway.folder / "gateway.toml").write_text(text.replace(webhooks["red"].url, webhooks["other"].url))
                os.kill(gateway.pid, signal.SIGHUP)
                gateway.wait_for_log(READ_AGAIN)

        def answers(name: str) -> list[str]:
            return [
                str(message["body"])
                for message in bots[name].messages
                if message["from"].bare == f"bot@{name}.localhost"
            ]

        for name in bots:
            eventually(lambda name=name: len(answers(name)) >= number, f"the answers of {name}", detail=gateway.log)
            assert answers(name) == [f"{name} {each}" for each in range(number)]
        assert webhooks["red"].requests and webhooks["other"].requests
        assert len(webhooks["red"].requests) + len(webhooks["other"].requests) == number
        assert [gateway.log().count(f"authenticated as {table['domain']}") for table in tables] == [1, 1, 1]
        gateway.stop()
