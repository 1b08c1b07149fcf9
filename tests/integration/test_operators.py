"""An operator with a real client, on a real server: commands, alerts, and the same alert in a real Prometheus."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from slixmpp.exceptions import IqError

from tests.integration.processes import Answer, GatewayProcess, Request, ScriptedWebhook, reply
from tests.integration.servers import DOMAINS, SERVERS, USERS, free_port
from tests.integration.test_operations import Prometheus
from tests.integration.user import User
from tests.integration.waiting import eventually

DOMAIN = "bot.localhost"
BOT = f"bot@{DOMAIN}"


class World:
    """A server, an operator, somebody else, and a bot whose webhook can be broken."""

    def __init__(self, stack: ExitStack, server: str) -> None:
        self.broken = threading.Event()
        self.refuses = threading.Event()
        self.port = free_port()
        self.server = stack.enter_context(SERVERS[server](DOMAINS))
        self.webhook = stack.enter_context(ScriptedWebhook(self._answer))
        self.gateway = stack.enter_context(
            GatewayProcess(
                domain=DOMAIN,
                server=self.server.endpoint,
                secret=self.server.domains[DOMAIN],
                post_url=self.webhook.url,
                sections={
                    "delivery": {"max_attempts": 50, "retry_cap": 1.0},
                    "spool": {"path": "spool.sqlite3"},
                    "operations": {
                        "admin_jids": ["alice@localhost"],
                        "alert_after": 5.0,
                        "listen": f"tcp:{self.port}:interface=127.0.0.1",
                    },
                },
            )
        )
        self.gateway.wait_until_authenticated()
        self.alice, self.bob = (
            stack.enter_context(User(f"{name}@localhost", USERS[name], self.server.client_port))
            for name in ("alice", "bob")
        )
        self.alice.log_in()
        self.bob.log_in()

    def _answer(self, request: Request) -> Answer:
        if self.broken.is_set():
            return Answer(status=500)
        return Answer(status=404) if self.refuses.is_set() else reply(body=f"bot: {request.json['body']}")

    def use(self, command: str, **values: Any) -> str:
        """Use a command as the operator; returns all that its answer says."""
        answer = self.alice.command(DOMAIN, f"component-http#{command}", **values)
        assert answer["status"] == "completed", answer
        return " ".join("".join(answer.xml.itertext()).split())

    def answered(self, text: str) -> None:
        self.bob.heard(lambda message: message["body"] == f"bot: {text}", f"the answer to {text}")

    def told(self, beginning: str) -> str:
        message = self.alice.heard(lambda message: message["body"].startswith(beginning), beginning)
        return str(message["body"])


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with ExitStack() as stack:
        built = World(stack, request.param)
        yield built
        built.gateway.stop()


@pytest.mark.parametrize("world", ["ejabberd"], indirect=True)
def test_commands(world: World) -> None:
    """
    An operator finds the commands, looks, pauses and wakes the webhook, and retries a dead letter; nobody else does.
    """
    found = world.alice.commands(DOMAIN)
    assert set(found) == {f"component-http#{name}" for name in ("status", "pending", "letters", "pause", "wake", "log")}
    with pytest.raises(IqError, match="forbidden"):
        world.bob.command(DOMAIN, "component-http#status")
    with pytest.raises(IqError):
        world.bob.commands(DOMAIN)
    assert f"{DOMAIN} is connected" in world.use("status")
    assert "no dead letters" in world.use("letters")

    world.refuses.set()
    world.bob.say(BOT, "lost")
    world.bob.heard(lambda message: message["type"] == "error", "the error")
    world.refuses.clear()
    assert "level of the log is debug" in world.use("log", level="debug")
    session = world.alice.ask(
        DOMAIN, "<command xmlns='http://jabber.org/protocol/commands' node='component-http#letters'/>", "set"
    )
    [letter] = [
        option.findtext("{jabber:x:data}value")
        for field in session.iter("{jabber:x:data}field")
        if field.get("var") == "letters"
        for option in field.iter("{jabber:x:data}option")
    ]
    assert letter is not None
    assert world.use("letters", letters=[letter], do="retry") == "retried: 1"
    world.answered("lost")

    assert "is paused until" in world.use("pause", minutes="")
    world.bob.say(BOT, "held")
    eventually(lambda: "an operator has paused the webhook" in world.use("pending"), "the reason why it waits")
    assert "is asked at once" in world.use("wake")
    world.answered("held")
    world.alice.say(BOT, "hello")
    world.alice.heard(lambda message: message["body"] == "bot: hello", "the bot's answer to the operator")


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
@pytest.mark.parametrize("world", ["prosody"], indirect=True)
def test_alert(world: World, tmp_path: Path) -> None:
    """
    The webhook fails: an alert fires in Prometheus and is told in the chat; it is mended: both are resolved.
    """
    prometheus = Prometheus(tmp_path, {"static_configs": [{"targets": [f"127.0.0.1:{world.port}"]}]})
    try:
        world.broken.set()
        for number in range(3):
            world.bob.say(f"bot{number}@{DOMAIN}", f"hello {number}")
        assert "HTTP status 500" in world.told("ALERT ComponentHttpWebhookFails (bot.localhost)")
        eventually(lambda: prometheus.fires("ComponentHttpWebhookFails"), "the alert")
        world.broken.clear()
        for number in range(3):
            world.answered(f"hello {number}")
        eventually(lambda: not prometheus.fires("ComponentHttpWebhookFails"), "its end")
        world.told("RESOLVED ComponentHttpWebhookFails (bot.localhost)")
    finally:
        prometheus.stop()
