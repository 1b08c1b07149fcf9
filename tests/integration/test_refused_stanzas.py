"""
A server with a lower limit for one stanza than ours, and answers that are over it.

Every promise is kept on Prosody and on ejabberd.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.integration.api_gateway import ApiGateway
from tests.integration.processes import Answer, Request, ScriptedWebhook, reply
from tests.integration.servers import DOMAINS, SERVERS, USERS, Server
from tests.integration.user import User
from tests.integration.waiting import eventually

BOT = "bot@bot.localhost"
LIMIT = 128 * 1024
LARGE = "x" * (196 * 1024)
CONDITIONS = {"ejabberd": "policy-violation", "prosody": "not-well-formed"}
"""What they say of a stanza that is too large."""


def bot(request: Request) -> Answer:
    body = request.json["body"]
    return reply(body=LARGE if body == "big" else f"You said: {body}")


@pytest.fixture(scope="module", params=sorted(SERVERS))
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with SERVERS[request.param](stanza_limit=LIMIT) as server:
        yield server


class Stage:
    """A gateway on a server, with a bot and two users."""

    def __init__(self, server: Server, stack: ExitStack, spool: Path | None = None) -> None:
        self.server = server
        self.spool = spool
        self._stack = stack
        self.webhook = stack.enter_context(ScriptedWebhook(bot))
        self.gateway = self.start()
        self.alice, self.bob = (
            stack.enter_context(User(f"{name}@localhost", USERS[name], server.client_port)) for name in ("alice", "bob")
        )
        self.alice.log_in()
        self.bob.log_in()

    def start(self) -> ApiGateway:
        sections: dict[str, dict[str, object]] = {"component": {"max_stanza_bytes": 400_000}}
        if self.spool is not None:
            sections["spool"] = {"kind": "sqlite", "path": str(self.spool)}
        gateway = self._stack.enter_context(
            ApiGateway(
                domain="bot.localhost",
                server=self.server.endpoint,
                secret=DOMAINS["bot.localhost"],
                post_url=self.webhook.url,
                sections=sections,
                api={"max_body_bytes": 1_000_000},
            )
        )
        gateway.wait_until_authenticated()
        gateway.wait_until_open()
        return gateway

    def lost(self) -> int:
        """Streams that this gateway has lost so far."""
        return self.gateway.log().count("connected and authenticated") - 1

    def look(self, query: str) -> list[Any]:
        """What is in the spool."""
        assert self.spool is not None
        with closing(sqlite3.connect(self.spool, timeout=10)) as connection:
            return connection.execute(query).fetchall()

    def converses(self, user: User, *words: str) -> None:
        """A user is answered."""
        for word in words:
            user.say(BOT, word)
        for word in words:
            user.heard(lambda one, word=word: one["body"] == f"You said: {word}", f"the answer to {word}")


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_an_answer_that_the_server_refuses(server: Server, kind: str, tmp_path: Path) -> None:
    """
    It costs two streams, its user is told, everybody else is answered, and the next one like it costs nothing.
    """
    with ExitStack() as stack:
        stage = Stage(server, stack, tmp_path / "spool.sqlite3" if kind == "sqlite" else None)
        alice, bob, gateway = stage.alice, stage.bob, stage.gateway
        bob.say(BOT, "before")
        asked = alice.say(BOT, "big")
        error = alice.heard(lambda one: one["type"] == "error", "the error")
        assert (error["id"], error["error"]["condition"]) == (asked, "internal-server-error")
        bob.heard(lambda one: one["body"] == "You said: before", "what he was answered before")
        stage.converses(bob, *map(str, range(10)))
        again = alice.say(BOT, "big")
        alice.heard(lambda one: one["id"] == again and one["type"] == "error", "the second error")
        stage.converses(alice, "hello")
        assert stage.lost() == 2
        [line, *_] = [line for line in gateway.warnings() if "#error" in line]
        condition = CONDITIONS[server.name]
        assert condition in line and "max_stanza_size" in line and "component_stanza_size_limit" in line
        gateway.stop()
        if kind == "sqlite":
            letters = stage.look("SELECT outcome, note FROM letters")
            assert [(outcome, condition in note) for outcome, note in letters] == [("reply_refused", True)] * 2
            assert stage.look("SELECT * FROM departures") == []


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_a_push_that_the_server_refuses(server: Server, kind: str, tmp_path: Path) -> None:
    """
    Whoever pushes it and waits is told the server's own word.
    """
    with ExitStack() as stack:
        stage = Stage(server, stack, tmp_path / "spool.sqlite3" if kind == "sqlite" else None)
        told = stage.gateway.api.post("/v1/messages?wait=sent", {"to": "alice@localhost", "body": LARGE})
        assert told.status == 502, told
        assert CONDITIONS[server.name].encode() in told.body
        stage.gateway.wait_until_authenticated(times=3)
        stage.converses(stage.bob, "hello")
        assert stage.lost() == 2
        stage.gateway.stop()


def test_a_kill_in_between(server: Server, tmp_path: Path) -> None:
    """
    What was found out before a kill -9 is known after it: one more stream is lost, and no more.
    """
    with ExitStack() as stack:
        stage = Stage(server, stack, tmp_path / "spool.sqlite3")
        stage.bob.say(BOT, "before")
        stage.alice.say(BOT, "big")
        eventually(
            lambda: stage.look("SELECT 1 FROM departures WHERE suspect UNION SELECT 1 FROM letters"),
            "a suspect in the spool",
            detail=stage.gateway.log,
        )
        stage.gateway.kill()
        stage.gateway = stage.start()
        stage.alice.heard(lambda one: one["type"] == "error", "the error")
        stage.converses(stage.bob, "hello")
        assert stage.lost() <= 1
        assert [outcome for (outcome,) in stage.look("SELECT outcome FROM letters")] == ["reply_refused"]
        stage.gateway.stop()
