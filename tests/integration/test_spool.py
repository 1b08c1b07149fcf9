"""
What a spool on disk promises of a real gateway process: nothing that was accepted is lost, whatever ends the process.
"""

from __future__ import annotations

import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from xml.etree.ElementTree import Element

import pytest

from tests.disks import NoSmallDisk, SmallDisk
from tests.integration.counterparts import unusable
from tests.integration.probe import Peer, ScriptedServer, stanza_error
from tests.integration.processes import Answer, GatewayProcess, Request, ScriptedWebhook, reply, twistd
from tests.integration.test_doors import environment
from tests.integration.waiting import PATIENCE, eventually

DOMAIN = "bot.example.org"

SENDERS = ("alice", "bob", "carol")


def down(_: Request) -> Answer:
    """The answer of a proxy whose bot is away."""
    return Answer(status=503, content_type=None)


def echo(request: Request) -> Answer:
    return reply(body=request.json["body"])


class Bench:
    """
    A gateway with a spool on disk between a server and a webhook, ended and started again as the test likes.

    Attributes:
        path: The spool's file.
        drain_timeout: That of the gateways that are started from now on.

    Args:
        stack: Ends all of it.
        folder: Where the file is; None for a new one.
    """

    def __init__(self, stack: ExitStack, folder: Path | None = None) -> None:
        folder = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self.path = folder / "spool.sqlite3"
        self.server = stack.enter_context(ScriptedServer())
        self.webhook = stack.enter_context(ScriptedWebhook(down))
        self.drain_timeout = 0.5
        self._stack = stack

    def start(self, *arguments: str) -> GatewayProcess:
        gateway = GatewayProcess(
            domain=DOMAIN,
            server=self.server.endpoint,
            secret=self.server.secret,
            post_url=self.webhook.url,
            arguments=arguments,
            sections={
                "component": {"component_post_stanzas": ["message", "iq"]},
                "delivery": {"max_attempts": 10, "retry_cap": 1.0, "drain_timeout": self.drain_timeout},
                "spool": {"kind": "sqlite", "path": str(self.path)},
            },
        )
        return self._stack.enter_context(gateway)

    def running(self, *arguments: str) -> tuple[GatewayProcess, Peer]:
        """One more gateway, and the server's side of its stream."""
        gateway = self.start(*arguments)
        peer = self.server.connected()
        gateway.wait_until_authenticated()
        return gateway, peer

    def kept(self) -> int:
        """Deliveries in the file."""
        return len(self.kept_ids())

    def kept_ids(self) -> set[str]:
        """Their ids."""
        with closing(sqlite3.connect(self.path, timeout=10)) as connection:
            return {row[0] for row in connection.execute("SELECT id FROM deliveries")}

    def sound(self) -> bool:
        """The file is as SQLite wants it."""
        with closing(sqlite3.connect(self.path, timeout=10)) as connection:
            return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


@pytest.fixture
def bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        yield Bench(stack)


@pytest.fixture(params=[(6, None), (16, 1024)], ids=["tmpfs-6M", "ext4-16M"])
def disk(request: pytest.FixtureRequest) -> Iterator[SmallDisk]:
    mib, block = request.param
    try:
        with SmallDisk(mib * 1024, block) as disk:
            yield disk
    except NoSmallDisk as error:
        unusable(str(error))


def say(peer: Peer, numbers: range) -> None:
    """Let each sender say each number."""
    for number in numbers:
        for sender in SENDERS:
            peer.send(
                f"<message from='{sender}@example.org/x' to='bot@{DOMAIN}' type='chat' id='{sender}-{number}'>"
                f"<body>{number}</body></message>"
            )


def said(requests: list[Request], sender: str) -> list[int]:
    """The numbers of one sender, in the order in which they were first POSTed."""
    mine = [int(one.json["body"]) for one in requests if one.json["from"].startswith(f"{sender}@")]
    return list(dict.fromkeys(mine))


def in_round(numbers: list[int], round_: int) -> int:
    """How many of a hundred numbers there are."""
    return sum(number // 100 == round_ for number in numbers)


def test_kill_and_start_again(bench: Bench) -> None:
    """
    What was accepted while the webhook was down is POSTed after a kill -9, all of it, each sender's in order.
    """
    gateway, peer = bench.running()
    say(peer, range(100))
    eventually(lambda: bench.kept() == 300, "300 deliveries in the spool", detail=gateway.log)
    gateway.assert_sound()
    gateway.kill()
    assert bench.sound()

    before = {one.headers["webhook-id"]: one.body for one in bench.webhook.take()}
    bench.webhook.answer = echo
    gateway, peer = bench.running()
    peer.wait(lambda: len(peer.elements) >= 300, "300 replies")
    requests = bench.webhook.take()
    for sender in SENDERS:
        assert said(requests, sender) == list(range(100))
    after = {one.headers["webhook-id"]: one.body for one in requests}
    assert before.items() <= after.items(), "another id or other bytes than before the kill"
    assert len(after) == 300
    eventually(lambda: bench.kept() == 0, "an empty spool", detail=gateway.log)
    gateway.stop()
    assert "restored 300" in gateway.log()
    assert not Path(f"{bench.path}-wal").exists()


def test_kill_under_load(bench: Bench) -> None:
    """
    After each of several kills under load all that the spool had is POSTed, and each sender's order has no gap.
    """
    bench.webhook.answer = echo
    asked: list[Request] = []
    kept: set[str] = set()
    for round_ in range(4):
        gateway, peer = bench.running()
        say(peer, range(100 * round_, 100 * round_ + 100))
        bench.webhook.wait_for(20 + 60 * round_, settled=False)
        gateway.kill()
        assert bench.sound()
        kept |= bench.kept_ids()
        asked += bench.webhook.take()
    gateway, peer = bench.running()
    eventually(lambda: bench.kept() == 0, f"the end of {bench.kept()} deliveries", detail=gateway.log)
    gateway.stop()
    asked += bench.webhook.take()
    assert kept
    assert kept <= {one.headers["webhook-id"] for one in asked}
    bodies: dict[str, bytes] = {}
    for one in asked:
        assert bodies.setdefault(one.headers["webhook-id"], one.body) == one.body
    for sender in SENDERS:
        numbers = said(asked, sender)
        # What a kill found in the socket was never accepted: the last of a round, but none before them.
        assert numbers == [
            number for round_ in range(4) for number in range(100 * round_, 100 * round_ + in_round(numbers, round_))
        ]


def test_second_instance(bench: Bench) -> None:
    """
    A second gateway on the same spool ends with status 78 and says which process has it.
    """
    first, peer = bench.running()
    second = bench.start()
    assert second.wait() == 78
    assert f"the spool {bench.path} is in use by another gateway (process {first.pid}): " in second.log()
    assert second.log().count("\n") == 1
    say(peer, range(1))
    bench.webhook.wait_for(1)
    first.stop()
    third, _ = bench.running()
    third.stop()


def test_lock_in_the_background(bench: Bench) -> None:
    """
    A gateway that went into the background has the lock still, under its own number.
    """
    helper, _ = bench.running()  # for its folder with settings
    helper.stop()
    folder = helper.folder
    ended = subprocess.run(
        [*twistd(), "component-http", "--config", "gateway.toml"], cwd=folder, env=environment(), capture_output=True
    )
    assert ended.returncode == 0, ended.stderr
    pid = int((folder / "twistd.pid").read_text())
    try:
        second = bench.start()
        assert second.wait() == 78
        assert f"(process {pid})" in second.log()
    finally:
        subprocess.run(["kill", str(pid)], check=True)
        eventually(lambda: not (folder / "twistd.pid").exists(), "the end of the one in the background")


def test_stop_leaves_the_rest(bench: Bench) -> None:
    """
    After SIGTERM messages that could not be delivered stay without a word to their senders; an iq is answered.
    """
    gateway, peer = bench.running()
    say(peer, range(10))
    eventually(lambda: bench.kept() == 30, "30 deliveries in the spool", detail=gateway.log)
    peer.send(f"<iq from='alice@example.org/x' to='bot@{DOMAIN}' type='get' id='i1'><query xmlns='urn:example'/></iq>")
    eventually(lambda: bench.kept() == 31, "the iq in the spool", detail=gateway.log)
    gateway.stop()
    assert [(one.get("id"), stanza_error(one)) for one in peer.elements] == [("i1", ("wait", "service-unavailable"))]
    assert bench.kept() == 30
    bench.webhook.take()
    bench.webhook.answer = echo
    gateway, peer = bench.running()
    peer.wait(lambda: len(peer.elements) >= 30, "30 replies")
    for sender in SENDERS:
        assert said(bench.webhook.requests, sender) == list(range(10))
    gateway.stop()


def test_stop_while_another_program_writes(bench: Bench) -> None:
    """
    SIGTERM ends it in its time though another program holds the file, and nothing that was accepted is lost.
    """
    gateway, peer = bench.running()
    say(peer, range(5))
    eventually(lambda: bench.kept() == 15, "15 deliveries in the spool", detail=gateway.log)
    with closing(sqlite3.connect(bench.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        say(peer, range(5, 10))
        gateway.terminate(PATIENCE)
        gateway.assert_ended_in_order()
    assert bench.kept() == 15
    assert bench.sound()


def test_damaged(bench: Bench) -> None:
    """
    A damaged spool is refused with status 78 and not touched; with --quarantine-spool it is set aside.
    """
    bench.path.write_bytes(b"no spool" * 1000)
    gateway = bench.start()
    assert gateway.wait() == 78
    assert "--quarantine-spool" in gateway.log()
    assert gateway.log().count("\n") == 1
    assert bench.path.read_bytes() == b"no spool" * 1000
    gateway, _ = bench.running("--quarantine-spool")
    [aside] = bench.path.parent.glob("*.quarantined-*")
    assert aside.read_bytes() == b"no spool" * 1000
    assert str(aside) in gateway.log()
    gateway.stop()
    gateway, _ = bench.running("--quarantine-spool")
    gateway.stop()
    assert len(list(bench.path.parent.glob("*.quarantined-*"))) == 1


REFUSED = ("wait", "resource-constraint")


NO_ERROR = (None, None)


def ids(elements: list[Element], error: tuple[str | None, str | None]) -> set[str]:
    """The ids of those that have this error."""
    return {one.attrib["id"] for one in elements if stanza_error(one) == error}


def test_full_disk(disk: SmallDisk) -> None:
    """
    While the disk is full senders are told to wait and what was accepted is answered; when there is room again
    stanzas are accepted again, and none that was accepted is lost.
    """
    with ExitStack() as stack:
        bench = Bench(stack, disk.folder)
        gateway, peer = bench.running()
        said: list[str] = []

        def ask(count: int) -> None:
            """One iq after the other: each is answered, at once if it is refused."""
            for _ in range(count):
                said.append(f"q{len(said)}")
                peer.send(
                    f"<iq from='user{len(said)}@example.org/x' to='bot@{DOMAIN}' type='set' id='{said[-1]}'>"
                    f"<query xmlns='urn:example'>{'x' * 2000}</query></iq>"
                )

        def asked_until(error: tuple[str | None, str | None], count: int) -> None:
            """Ask on until so many of what is asked from now on get this answer."""
            before = set(said)

            def look() -> bool:
                ask(1)
                return len(ids(peer.elements, error) - before) >= count

            eventually(look, f"{count} answers with {error}", detail=gateway.log)

        for _ in range(3):
            bench.webhook.answer = down
            ask(30)
            eventually(lambda: bench.kept() >= 30, "30 iqs in the spool", detail=gateway.log)
            disk.fill()
            asked_until(REFUSED, 20)
            gateway.assert_sound()
            assert f"the disk of {bench.path} is full" in gateway.log()
            # What is in goes on, though the disk is full.
            bench.webhook.answer = lambda _: reply({})
            eventually(lambda: bench.kept() == 0, "the end of what was accepted", detail=gateway.log)
            disk.clear()
            asked_until(NO_ERROR, 1)
        eventually(lambda: len(peer.elements) >= len(said), "an answer to each", detail=gateway.log)
        answers = [one.attrib["id"] for one in peer.elements]
        assert len(answers) == len(set(answers))
        # Each was either refused, and never POSTed, or accepted, POSTed and answered.
        refused = ids(peer.elements, REFUSED)
        posted = {one.json["id"] for one in bench.webhook.take()}
        assert refused | ids(peer.elements, NO_ERROR) == set(said)
        assert posted == set(said) - refused
        gateway.stop()
        assert (
            f"refusing stanzas: the spool cannot keep them: the disk of {bench.path} is full: make room"
            in gateway.log()
        )
        assert f"there is room again on the disk of {bench.path}: stanzas are accepted again" in gateway.log()
        assert bench.sound()


def test_started_on_a_full_disk(disk: SmallDisk) -> None:
    """
    A gateway that starts on a full disk waits for room, says so, and then goes on with all it had.
    """
    with ExitStack() as stack:
        bench = Bench(stack, disk.folder)
        gateway, peer = bench.running()
        say(peer, range(20))
        eventually(lambda: bench.kept() == 60, "60 deliveries in the spool", detail=gateway.log)
        gateway.kill()
        Path(f"{bench.path}.ballast").unlink()
        disk.fill()
        bench.webhook.answer = echo
        gateway = bench.start()
        gateway.wait_for_log(
            f"nothing is served until the spool can be read: the disk of {bench.path} is full: make room"
        )
        gateway.assert_sound()
        disk.clear()
        peer = bench.server.connected()
        peer.wait(lambda: len(peer.elements) >= 60, "60 replies")
        eventually(lambda: bench.kept() == 0, "an empty spool", detail=gateway.log)
        gateway.stop()
        assert bench.sound()
