"""The gateway as a service: what it tells systemd, its unit, and what becomes of it where its log cannot be written."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.disks import NoSmallDisk, SmallDisk
from tests.integration.counterparts import need, unusable
from tests.integration.probe import ScriptedServer
from tests.integration.processes import Answer, GatewayProcess, ScriptedWebhook, reply
from tests.integration.waiting import eventually

ROOT = Path(__file__).parents[2]

DOMAIN = "bot.localhost"

WORST = 1.5
"""The exposure, as systemd rates it from 0 to 10, that the unit stays below."""


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def webhook() -> Iterator[ScriptedWebhook]:
    with ScriptedWebhook(lambda request: reply(body="hello")) as webhook:
        yield webhook


class Manager:
    """The socket of a service manager, at a path."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))

    def told(self, seconds: float) -> str | None:
        """What it is told next; None if that is nothing within so many seconds."""
        self._socket.settimeout(seconds)
        try:
            return self._socket.recv(10_000).decode()
        except TimeoutError:
            return None

    def wait_for(self, *parts: str) -> None:
        """Wait until it is told something with each of these parts."""
        for _ in range(500):
            told = self.told(60.0)
            if told is None or all(part in told for part in parts):
                break
        assert told is not None, f"it was not told {parts}"

    def close(self) -> None:
        self._socket.close()


@contextmanager
def managing(path: Path) -> Iterator[Manager]:
    manager = Manager(path)
    try:
        yield manager
    finally:
        manager.close()


@contextmanager
def frozen(folder: Path) -> Iterator[None]:
    """Let whoever writes to a file system hang, in the kernel, until the end of the `with`."""
    program = need("fsfreeze", "util-linux")
    subprocess.run([program, "--freeze", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run([program, "--unfreeze", str(folder)], check=True)


def message(stanza_id: str) -> str:
    addresses = f"from='alice@localhost/x' to='bot@{DOMAIN}'"
    return f"<message {addresses} type='chat' id='{stanza_id}'><body>hello</body></message>"


def test_watchdog(tmp_path: Path, server: ScriptedServer, webhook: ScriptedWebhook) -> None:
    """
    systemd is told how things stand, and restarts a gateway whose spool hangs, but not one whose webhook is down or
    whose disk is full.
    """
    try:
        disk = SmallDisk(16 * 1024, 4096)
        with disk, managing(tmp_path / "notify") as manager:
            gateway = GatewayProcess(
                domain=DOMAIN,
                server=server.endpoint,
                secret=server.secret,
                post_url=webhook.url,
                sections={
                    "spool": {"path": str(disk.folder / "spool")},
                    "delivery": {"max_attempts": 20, "drain_timeout": 0.1},
                },
                environment={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "100000"},
            )
            with gateway:
                manager.wait_for("READY=1")
                peer = server.connected()
                manager.wait_for("WATCHDOG=1")
                manager.wait_for(f"STATUS=serving {DOMAIN}")
                webhook.answer = lambda request: Answer(status=503)
                for number in range(6):
                    peer.send(message(f"m{number}").replace("alice", f"user{number}"))
                disk.fill()
                peer.send(message("full"))
                manager.wait_for("STATUS=", "the webhook fails (HTTP status 503)", "is full")
                manager.wait_for("WATCHDOG=1")
                with frozen(disk.folder):
                    peer.send(message("frozen"))
                    eventually(lambda: not any("WATCHDOG" in str(manager.told(0.3)) for _ in range(2)), "silence")
                    peer.close()
                    # The reactor turns, and tells the rest.
                    manager.wait_for("STATUS=", "there is no stream")
                manager.wait_for("WATCHDOG=1")
                gateway.assert_sound()
                gateway.kill()
    except NoSmallDisk as error:
        unusable(str(error))


def test_unit(tmp_path: Path) -> None:
    """
    systemd accepts the template unit without a word, and rates its exposure below 1.5.
    """
    program = need("systemd-analyze", "systemd")
    text = (ROOT / "docs" / "examples" / "component-http@.service").read_text()
    unit = tmp_path / "component-http@.service"
    unit.write_text(text.replace("/opt/component-http/bin/component-http", "/bin/true"))
    verified = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True, timeout=60, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    rated = subprocess.run(
        [program, "security", "--offline=yes", str(unit)], capture_output=True, text=True, timeout=60, check=True
    )
    [exposure] = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", rated.stdout)
    assert float(exposure) < WORST, rated.stdout
