"""
What the API promises of a real gateway process: what was answered 202 is not lost, does not come twice, and takes its
turn, whatever ends the process and whoever floods it.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.client import HTTPException
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import pytest

from tests.integration.api_gateway import ApiGateway, Told
from tests.integration.probe import Peer, ScriptedServer, child
from tests.integration.processes import ScriptedWebhook, reply
from tests.integration.waiting import PATIENCE, eventually

DOMAIN = "bot.example.org"
ALICE = "alice@example.org/x"


class Bench:
    """
    A gateway with its API and a spool, beside a server that comes and goes.

    Args:
        stack: Ends all of it.
        folder: Where the spool is; None for one in memory.
    """

    def __init__(self, stack: ExitStack, folder: Path | None) -> None:
        self.path = None if folder is None else folder / "spool.sqlite3"
        self.server = stack.enter_context(ScriptedServer())
        self.webhook = stack.enter_context(ScriptedWebhook(lambda request: reply(body=request.json["body"])))
        self._stack = stack
        self._port: int | None = None

    def start(self) -> ApiGateway:
        """A gateway whose API is open; nobody has accepted its connection yet."""
        spool = {"kind": "memory"} if self.path is None else {"kind": "sqlite", "path": str(self.path)}
        gateway = self._stack.enter_context(
            ApiGateway(
                domain=DOMAIN,
                server=self.server.endpoint,
                secret=self.server.secret,
                post_url=self.webhook.url,
                port=self._port,
                sections={"spool": spool},
            )
        )
        self._port = gateway.port
        gateway.wait_until_open()
        return gateway

    def ask_file(self, query: str) -> list[tuple[Any, ...]]:
        """What another program sees in the spool."""
        assert self.path is not None
        with closing(sqlite3.connect(self.path, timeout=10)) as connection:
            return connection.execute(query).fetchall()

    def assert_kept(self, count: int) -> None:
        """So many stanzas wait in a file that is sound."""
        assert self.ask_file("PRAGMA integrity_check") == [("ok",)]
        assert self.ask_file("SELECT count(*) FROM departures") == [(count,)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(stack, tmp_path)


def text_of(element: Element) -> str | None:
    """The body of a message."""
    body = child(element, "body")
    return None if body is None else body.text


def texts(peer: Peer) -> list[str]:
    """The bodies of all messages that came, in order."""
    return [text for text in map(text_of, list(peer.elements)) if text is not None]


def wait_for_texts(peer: Peer, count: int, seconds: float = PATIENCE) -> list[str]:
    """Wait until so many messages have come."""
    peer.wait(lambda: len(texts(peer)) >= count, f"{count} messages", seconds)
    return texts(peer)


def is_settled(gateway: ApiGateway, peer: Peer) -> None:
    """All that was sent before is there, and the stream is well."""
    told = gateway.api.post("/v1/messages?wait=sent", {"to": ALICE, "body": "fence"})
    assert (told.status, told.json["sent"]) == (200, True)
    peer.wait(lambda: "fence" in texts(peer), "the fence")
    gateway.assert_sound()
    assert not peer.gone and peer.broken is None


# ------------------------------------------------------------------------------------- kill -9


def test_killed_while_the_server_is_away(bench: Bench) -> None:
    """
    What was pushed while there was no server arrives after a kill -9, once and in order, whoever asks again.

    The kill comes in the middle of a request; its client cannot know whether that was kept, and makes it again.
    """
    gateway, mute = bench.start(), bench.server.accept()
    told: list[Told] = []

    def push(number: int, to: ApiGateway) -> Told:
        # Each is a message and an array by turns.
        message: dict[str, object] = {"to": ALICE, "body": str(2 * number)}
        more = {"to": ALICE, "body": str(2 * number + 1)}
        return to.api.post("/v1/messages", [message, more], Idempotency_Key=f"key-{number}")

    def push_all() -> None:
        try:
            while True:
                told.append(push(len(told), gateway))
        except (OSError, HTTPException):
            pass  # killed

    client = threading.Thread(target=push_all)
    client.start()
    eventually(lambda: len(told) >= 50, "50 answers", detail=gateway.log)
    gateway.kill()
    client.join(PATIENCE)
    mute.close()
    assert {one.status for one in told} == {202}
    count = len(told)
    assert bench.ask_file("SELECT count(*) FROM departures")[0][0] in (2 * count, 2 * count + 2)

    gateway, peer = bench.start(), bench.server.accept()
    again = [push(number, gateway) for number in range(count + 1)]
    assert [one.json for one in again[:count]] == [one.json for one in told]
    bench.assert_kept(2 * count + 2)
    bench.server.authenticate(peer)
    is_settled(gateway, peer)
    assert texts(peer) == [*map(str, range(2 * count + 2)), "fence"]
    ids = [element.get("id") for element in peer.elements if text_of(element) != "fence"]
    assert ids == [id for one in again for id in one.json["ids"]]
    # And when the server has them nothing is sent again either.
    assert [push(number, gateway).json for number in range(3)] == [one.json for one in again[:3]]
    is_settled(gateway, peer)
    assert texts(peer) == [*map(str, range(2 * count + 2)), "fence", "fence"]
    gateway.stop()


def test_killed_while_the_server_does_not_read(bench: Bench) -> None:
    """
    What was pushed to a server that did not read arrives after a kill -9, all of it and in order.
    """
    gateway = bench.start()
    peer = bench.server.connected()
    with peer.not_reading():
        for number in range(60):
            gateway.api.say(ALICE, f"{number} {'x' * 200_000}")
        assert len(texts(peer)) <= 1
        bench.assert_kept(60)
        gateway.kill()
    gateway = bench.start()
    peer = bench.server.connected()
    is_settled(gateway, peer)
    assert [text.partition(" ")[0] for text in texts(peer)] == [*map(str, range(60)), "fence"]
    gateway.stop()


def test_sent_waits_for_the_barrier(bench: Bench) -> None:
    """
    With wait=sent the answer is 200 when the server has read it; 202 with sent false when that takes too long, and
    the message still arrives; with the same key the request can be made again to go on waiting.
    """
    gateway = bench.start()
    peer = bench.server.connected()
    told: list[Told] = []

    def wait(seconds: int, body: str, **headers: str) -> Told:
        path = f"/v1/messages?wait=sent&timeout={seconds}"
        return gateway.api.post(path, {"to": ALICE, "body": body}, **headers)

    with peer.not_reading():
        gateway.api.say(ALICE, "the piece that is still read")
        wait_for_texts(peer, 1)
        patient = threading.Thread(target=lambda: told.append(wait(20, "patient")))
        patient.start()
        eventually(lambda: bench.ask_file("SELECT count(*) FROM departures")[0][0] >= 2, "the patient one's message")
        hasty = wait(2, "hasty", Idempotency_Key="k1")
        assert (hasty.status, hasty.json["sent"]) == (202, False)
        assert told == []
    patient.join(PATIENCE)
    assert [(one.status, one.json["sent"]) for one in told] == [(200, True)]
    again = wait(20, "hasty", Idempotency_Key="k1")
    assert (again.status, again.json) == (200, {"ids": hasty.json["ids"], "sent": True})
    assert texts(peer) == ["the piece that is still read", "patient", "hasty"]
    gateway.stop()


def test_sent_while_the_server_is_away(bench: Bench) -> None:
    """
    Without a server wait=sent ends with 202, and after a kill the same request again is answered when it has come.
    """
    gateway, mute = bench.start(), bench.server.accept()
    path, message = "/v1/messages?wait=sent&timeout=1", {"to": ALICE, "body": "later"}
    told = gateway.api.post(path, message, Idempotency_Key="k1")
    assert (told.status, told.json["sent"]) == (202, False)
    gateway.kill()
    mute.close()
    gateway = bench.start()
    peer = bench.server.connected()
    again = gateway.api.post("/v1/messages?wait=sent", message, Idempotency_Key="k1")
    assert (again.status, again.json) == (200, {"ids": told.json["ids"], "sent": True})
    assert texts(peer) == ["later"]
    gateway.stop()


# ------------------------------------------------------------------------------------- floods

FLOOD = 5000
AT_ONCE = 50
CLIENTS = 4
MEMORY_KIB = 64 * 1024


def test_a_flood_beside_answers(bench: Bench) -> None:
    """
    While programs push thousands of messages to somebody and the server does not read, the webhook is still asked, and
    all leaves in the order in which it was kept: an answer waits for what was before it, and for nothing else.
    """
    gateway = bench.start()
    peer = bench.server.connected(routes=False)  # so that all of it stays in the spool, to be compared
    before = gateway.resident_kib()
    told: list[Told] = []

    def flood(client: int) -> None:
        for number in range(FLOOD // AT_ONCE // CLIENTS):
            body = f"push {client} {number} {'x' * 2000}"
            told.append(gateway.api.post("/v1/messages", [{"to": "flood@example.org", "body": body}] * AT_ONCE))

    clients = [threading.Thread(target=flood, args=(client,)) for client in range(CLIENTS)]
    with peer.not_reading():
        for client in clients:
            client.start()
        eventually(lambda: len(told) >= 90, "most of the flood")
        for number in range(20):
            peer.send(
                f"<message from='user{number % 5}@example.org/x' to='bot@{DOMAIN}' type='chat' id='m{number}'>"
                f"<body>echo {number}</body></message>"
            )
        bench.webhook.wait_for(20)
        for client in clients:
            client.join(60.0)
        assert [one.status for one in told] == [202] * (FLOOD // AT_ONCE)
        assert len(texts(peer)) < FLOOD // 2
    came = wait_for_texts(peer, FLOOD + 20, 60.0)
    gateway.assert_sound()
    assert gateway.peak_kib() < before + MEMORY_KIB

    kept = [re.search(rb"\bid=['\"]([^'\"]+)", xml) for (xml,) in bench.ask_file("SELECT xml FROM departures")]
    ids = [element.get("id") for element in peer.elements if text_of(element) is not None]
    assert ids == [found[1].decode() for found in kept if found is not None]
    for user in range(5):
        mine = [f"echo {number}" for number in range(20) if number % 5 == user]
        assert [text for text in came if text in mine] == mine
    for which in range(CLIENTS):
        numbers = [int(text.split()[2]) for text in came if text.startswith(f"push {which} ")]
        assert numbers == sorted(numbers)


def test_full(tmp_path: Path) -> None:
    """
    Where there is no room for more a push is 503 with Retry-After, all of it; what was answered 202 arrives, and then
    there is room again.
    """
    with ExitStack() as stack:
        bench = Bench(stack, None)
        gateway, peer = bench.start(), bench.server.accept()
        taken = []
        for number in range(100):
            told = gateway.api.post("/v1/messages", [{"to": ALICE, "body": str(number)}] * 300)
            if told.status != 202:
                break
            taken += [str(number)] * 300
        assert told.status == 503 and int(told.headers["retry-after"]) > 0
        assert "no room" in told.json["detail"]
        assert taken
        bench.server.authenticate(peer)
        assert wait_for_texts(peer, len(taken)) == taken
        is_settled(gateway, peer)
        assert texts(peer) == [*taken, "fence"]
        gateway.stop()
