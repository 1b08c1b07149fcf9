"""The gateway as a service: what it tells systemd, its unit, and what becomes of it where its log cannot be written."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from threading import Event

import pytest

from component_http.cli import main
from tests.disks import NoSmallDisk, SmallDisk
from tests.integration.counterparts import need, unusable
from tests.integration.probe import ScriptedServer, child
from tests.integration.processes import (
    Answer,
    GatewayProcess,
    Request,
    ScriptedWebhook,
    from_checkout,
    gateway_folder,
    reply,
)
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


def test_log_pipe_closed(server: ScriptedServer, webhook: ScriptedWebhook) -> None:
    """
    When the reader of the log has gone (`component-http run | head -1`), that is told on the standard error, and the
    gateway goes on with everything until it is stopped.
    """
    component = {"domain": DOMAIN, "server": server.endpoint, "secret_file": "secret"}
    settings = {"component": {**component, "component_post_url": webhook.url}, "log": {"level": "debug"}}
    folder = gateway_folder(server.secret, settings)
    command = [sys.executable, "-m", "component_http", "run", "gateway.toml"]
    # Nor does it mind a service manager that is not there.
    environment = {**os.environ, **from_checkout(), "NOTIFY_SOCKET": str(folder / "nobody"), "WATCHDOG_USEC": "100000"}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as gateway:
        try:
            assert gateway.stdout is not None and "starting up" in gateway.stdout.readline()
            gateway.stdout.close()
            peer = server.connected()
            for number in range(100):
                peer.send(message(f"m{number}"))
            peer.wait(lambda: len([one for one in peer.elements if child(one, "body") is not None]) == 100, "answers")
            gateway.terminate()
            assert gateway.wait(60) == -signal.SIGTERM
            assert gateway.stderr is not None
            told = gateway.stderr.read()
            assert told == "component-http: the log cannot be written: Broken pipe; the gateway goes on without\n"
        finally:
            gateway.kill()
            shutil.rmtree(folder)


def test_backup_and_restore(tmp_path: Path, server: ScriptedServer, webhook: ScriptedWebhook) -> None:
    """
    A backup of a gateway that runs holds what waits; after a restore that is delivered once more, with its id, and what
    came later is in the file that was set aside.
    """
    copy, waits = tmp_path / "copy", Event()

    def answer(request: Request) -> Answer:
        waits.wait(60.0)
        return reply(body="hello")

    webhook.answer = answer
    sections = {"spool": {"path": str(tmp_path / "spool")}, "delivery": {"max_attempts": 5}}

    def running() -> GatewayProcess:
        return GatewayProcess(
            domain=DOMAIN, server=server.endpoint, secret=server.secret, post_url=webhook.url, sections=sections
        )

    def command(*words: str) -> tuple[int | str | None, str]:
        output = StringIO()
        with redirect_stdout(output), redirect_stderr(output):
            try:
                return main([*words, "--spool", str(tmp_path / "spool")]), output.getvalue()
            except SystemExit as ended:
                return ended.code, output.getvalue()

    with running() as gateway:
        peer = server.connected()
        peer.send(message("m1"))
        [first] = webhook.wait_for(1, settled=False)
        assert command("spool", "backup", str(copy))[0] == 0
        status, told = command("spool", "restore", str(copy))
        assert status == 78 and f"is in use by a gateway (process {gateway.pid})" in told
        waits.set()
        peer.send(message("m2"))
        peer.wait(lambda: len([one for one in peer.elements if child(one, "body") is not None]) == 2, "answers")
        gateway.stop()
    webhook.take()
    assert command("spool", "restore", str(copy))[0] == 0
    with running() as gateway:
        peer = server.connected()
        [again] = webhook.wait_for(1)
        assert (again.headers["webhook-id"], again.body) == (first.headers["webhook-id"], first.body)
        peer.wait_for(lambda one: child(one, "body") is not None, "the answer")
        gateway.stop()
