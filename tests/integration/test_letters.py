"""
Dead letters of a real gateway process: what a webhook failed at is listed, and delivered again by another process.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import pytest

from component_http.cli import main
from component_http.spool.dead_letters import Letters
from tests.integration.probe import Peer, ScriptedServer, child, stanza_error
from tests.integration.processes import Answer, GatewayProcess, Request, ScriptedWebhook, reply
from tests.integration.test_doors import environment
from tests.integration.waiting import PATIENCE, eventually
from tests.unit.dead_letters import add

DOMAIN = "bot.example.org"

USER = "alice@example.org/x"

COMMAND = (sys.executable, "-c", "from component_http.cli import main; raise SystemExit(main())")
"""`component-http`, of what is tested."""


def missing(_: Request) -> Answer:
    """The answer of a webhook that was deployed wrongly."""
    return Answer(status=404, content_type="text/plain", body="no such bot")


def echo(request: Request) -> Answer:
    return reply(body=request.json["body"])


class Bench:
    """A gateway with a spool on disk between a server and a webhook, and its operator."""

    def __init__(self, stack: ExitStack, spool: Mapping[str, object] | None = None, **delivery: object) -> None:
        self._spool = spool or {}
        self._delivery = {"drain_timeout": 0.5, **delivery}
        self.server = stack.enter_context(ScriptedServer())
        self.webhook = stack.enter_context(ScriptedWebhook(missing))
        self._stack = stack
        self.first, self.peer = self.running()
        self.path = self.first.folder / "spool.sqlite3"

    def running(self, path: str = "spool.sqlite3") -> tuple[GatewayProcess, Peer]:
        """One more gateway, and the server's side of its stream."""
        gateway = self._stack.enter_context(
            GatewayProcess(
                domain=DOMAIN,
                server=self.server.endpoint,
                secret=self.server.secret,
                post_url=self.webhook.url,
                sections={
                    "component": {"component_post_stanzas": ["message", "iq"]},
                    "delivery": self._delivery,
                    "spool": {"kind": "sqlite", "path": path, **self._spool},
                },
            )
        )
        peer = self.server.connected()
        gateway.wait_until_authenticated()
        return gateway, peer

    def command(self, *arguments: str, status: int = 0) -> str:
        """What `component-http` prints for these arguments and the first gateway's settings, run in this process."""
        printed, complaints = StringIO(), StringIO()
        with redirect_stdout(printed), redirect_stderr(complaints):
            ended = main([*arguments, "--config", str(self.first.folder / "gateway.toml")])
        assert ended == status, printed.getvalue() + complaints.getvalue()
        return printed.getvalue()

    def letters(self) -> list[dict[str, Any]]:
        """The dead letters that there are."""
        ended = self.command("letters", "list", "--json", status=0 if self.count() else 1)
        found = json.loads(ended)
        assert isinstance(found, list)
        return found

    def count(self) -> int:
        """How many there are."""
        return int(self.status()["letters"]["count"])

    def status(self) -> dict[str, Any]:
        found = json.loads(self.command("spool", "status", "--json"))
        assert isinstance(found, dict)
        return found

    def fail(self, *ids: str) -> None:
        """Let the user write messages that the webhook fails at, and be told so."""
        for number, stanza_id in enumerate(ids):
            self.peer.send(
                f"<message from='{USER}' to='echo@{DOMAIN}' type='chat' id='{stanza_id}'>"
                f"<body>{number}</body></message>"
            )
            error = self.peer.wait_for(lambda one, id=stanza_id: one.get("id") == id, "the error")
            assert stanza_error(error) == ("cancel", "item-not-found")
        eventually(lambda: self.count() == len(ids), "the dead letters", detail=self.first.log)


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(stack)


def said(peer: Peer, text: str) -> None:
    """Wait until the user was sent a message with this text."""

    def is_it(one: Any) -> bool:
        body = child(one, "body")
        return one.get("to") == USER and body is not None and body.text == text

    peer.wait_for(is_it, f"the message {text!r}")


def test_retry(bench: Bench) -> None:
    """
    A letter is listed with why; retried, it is POSTed again with its id and its bytes, and the user
    gets the answer.
    """
    bench.fail("m1")
    [failed] = bench.webhook.take()
    [letter] = bench.letters()
    assert letter["id"] == failed.headers["webhook-id"]
    assert (letter["outcome"], letter["status"], letter["from"], letter["stanza_id"]) == ("bounced", 404, USER, "m1")
    shown = json.loads(bench.command("letters", "show", letter["id"][:6], "--json"))
    assert shown["request"] == failed.json
    assert shown["response"] == "no such bot"

    bench.webhook.answer = echo
    assert bench.command("letters", "retry", letter["id"][:6]) == f"retried 1: {letter['id'][:8]}\n"
    [again] = bench.webhook.wait_for(1)
    assert again.headers["webhook-id"] == failed.headers["webhook-id"]
    assert again.body == failed.body
    said(bench.peer, "0")
    eventually(lambda: bench.status()["deliveries"]["count"] == 0, "the end of the delivery")
    assert bench.letters() == []
    bench.first.stop()


def test_fails_again(bench: Bench) -> None:
    """
    A letter that is retried in vain is a letter again, with the same id.
    """
    bench.fail("m1")
    [before] = bench.letters()
    bench.command("letters", "retry", "--all")
    bench.webhook.wait_for(2)
    eventually(lambda: bench.count() == 1, "the letter", detail=bench.first.log)
    [after] = bench.letters()
    assert after["id"] == before["id"]
    assert after["ended"] >= before["ended"]
    bench.first.stop()


def test_order(bench: Bench) -> None:
    """
    What is retried goes to the webhook in the order in which it was given up.
    """
    bench.fail("m1", "m2", "m3")
    failed = [one.headers["webhook-id"] for one in bench.webhook.take()]
    bench.webhook.answer = echo
    bench.command("letters", "retry", *reversed(failed))
    again = bench.webhook.wait_for(3)
    assert [one.headers["webhook-id"] for one in again] == failed
    bench.first.stop()


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_retry_while_none_runs(bench: Bench, end: str) -> None:
    """
    After a stop and after a kill -9 letters can be retried too; the next gateway delivers them.
    """
    bench.fail("m1", "m2")
    failed = {one.headers["webhook-id"] for one in bench.webhook.take()}
    assert bench.status()["process"] == bench.first.pid
    if end == "stop":
        bench.first.stop()
    else:
        bench.first.kill()
    assert bench.status()["running"] is False
    assert "the next one that starts takes them" in bench.command("letters", "retry", "--all")
    assert bench.status()["deliveries"]["count"] == 2
    bench.webhook.answer = echo
    gateway, peer = bench.running(str(bench.path))
    said(peer, "0")
    said(peer, "1")
    assert {one.headers["webhook-id"] for one in bench.webhook.requests} == failed
    eventually(lambda: bench.status()["deliveries"]["count"] == 0, "the end of the deliveries")
    gateway.stop()


def test_iq(bench: Bench) -> None:
    """
    An iq that failed is a letter, which can be looked at and dropped, but not retried.
    """
    bench.peer.send(f"<iq from='{USER}' to='echo@{DOMAIN}' type='get' id='i1'><query xmlns='urn:example'/></iq>")
    bench.peer.wait_for(lambda one: one.get("id") == "i1", "the error")
    eventually(lambda: bench.count() == 1, "the letter", detail=bench.first.log)
    bench.command("letters", "retry", "--all", status=1)
    [letter] = bench.letters()
    assert letter["kind"] == "iq"
    bench.command("letters", "drop", letter["id"])
    assert bench.letters() == []
    assert len(bench.webhook.requests) == 1
    bench.first.stop()


def test_stanza_that_did_not_leave(bench: Bench) -> None:
    """
    A stanza that did not leave in time leaves when it is retried, also where an answer leaves before the gateway knows.
    """
    bench.webhook.answer = echo
    unsent = f"<message to='{USER}' from='echo@{DOMAIN}' type='chat' id='late'><body>late</body></message>"
    add(bench.path, "departure.7", unsent=True, outcome="reply_expired", reply=unsent.encode())
    with Letters(bench.path) as letters:
        letters.retry(["departure.7"])
    bench.peer.send(f"<message from='{USER}' to='echo@{DOMAIN}' type='chat' id='m1'><body>now</body></message>")
    said(bench.peer, "now")
    said(bench.peer, "late")
    eventually(lambda: bench.status()["departures"]["count"] == 0, "the end of what leaves", detail=bench.first.log)
    assert [one.get("id") for one in bench.peer.elements].count("late") == 1
    bench.first.stop()


def test_under_load(bench: Bench) -> None:
    """
    The commands and a gateway that writes all the time get along.
    """
    bench.fail("m1")
    bench.webhook.answer = echo
    for number in range(500):
        bench.peer.send(
            f"<message from='u{number}@example.org/x' to='echo@{DOMAIN}' type='chat' id='l{number}'>"
            f"<body>{number}</body></message>"
        )
    assert bench.command("letters", "export").count("\n") == 1
    bench.command("letters", "retry", "--all")
    said(bench.peer, "0")
    bench.webhook.wait_for(502)
    bench.first.stop()


def test_reader_that_leaves(bench: Bench) -> None:
    """
    Whoever has read enough of an export may close the pipe.
    """
    bench.fail("m1")
    ended = subprocess.run(
        ["sh", "-c", 'exec "$@" | exec true', "sh", *COMMAND, "letters", "export", "--spool", str(bench.path)],
        env=environment(),
        capture_output=True,
        timeout=PATIENCE,
    )
    assert ended.stderr == b""
    bench.first.stop()
