"""
Settings that are read again by SIGHUP, as the real process does it, without touching the stream.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import requests

from tests.integration.exchange import says
from tests.integration.probe import Peer, ScriptedServer
from tests.integration.processes import (
    Answer,
    GatewayProcess,
    Request,
    ScriptedWebhook,
    from_checkout,
    gateway_folder,
    reply,
)

DOMAIN = "bot.localhost"
PATIENCE = 20.0

TOLD = " the settings "
"""What a line of the log has that says how a reload ended."""


class Stage:
    """A gateway, its scripted server, and two webhooks, of which it has the first."""

    def __init__(self, stack: ExitStack, **more: Any) -> None:
        self.release = threading.Event()
        self.server = stack.enter_context(ScriptedServer())
        self.first = stack.enter_context(ScriptedWebhook(self._first))
        self.second = stack.enter_context(ScriptedWebhook(lambda request: reply(body="second")))
        self.gateway = stack.enter_context(
            GatewayProcess(
                domain=DOMAIN,
                server=self.server.endpoint,
                secret=self.server.secret,
                post_url=self.first.url,
                **more,
            )
        )
        stack.callback(self.release.set)
        self.peer: Peer = self.server.connected()
        self.gateway.wait_until_authenticated()
        self.file = self.gateway.folder / "gateway.toml"

    def _first(self, request: Request) -> Answer:
        if request.json["body"] == "slow":
            self.release.wait(PATIENCE)
        return reply(body="first")

    def say(self, user: str, body: str = "ping") -> None:
        self.peer.send(
            f"<message from='{user}@localhost/x' to='bot@{DOMAIN}' type='chat' id='1'><body>{body}</body></message>"
        )

    def answers(self, text: str) -> None:
        self.peer.wait_for(lambda element: says(element, text), f"the reply {text}")
        self.peer.take()

    def reload(self, text: str) -> None:
        """Let it read other settings, and wait until it has."""
        self.file.write_text(text)
        times = self.gateway.log().count(TOLD)
        os.kill(self.gateway.pid, signal.SIGHUP)
        self.gateway.wait_for_log(TOLD, times=times + 1)


@contextmanager
def staged(**more: Any) -> Iterator[Stage]:
    with ExitStack() as stack:
        stage = Stage(stack, **more)
        yield stage
        stage.gateway.stop()


def test_the_webhook_moves() -> None:
    """
    After SIGHUP new requests go to the new webhook on the same stream; one under way is answered by the old one.
    """
    with staged() as stage:
        stage.say("slow", "slow")
        stage.first.wait_for(1, settled=False)
        stage.reload(stage.file.read_text().replace(stage.first.url, stage.second.url))
        stage.say("alice")
        stage.answers("second")
        stage.release.set()
        stage.answers("first")
        assert not stage.gateway.warnings()


def test_a_broken_file_changes_nothing() -> None:
    """
    A file that cannot be used is told in the words of `check`, and all goes on as before.
    """
    with staged() as stage:
        good = stage.file.read_text()
        stage.reload(good.replace("[component]", "[component]\ncolour = 1\n"))
        (line,) = stage.gateway.warnings()
        assert "the settings stay as they were" in line and "colour" in line
        stage.say("alice")
        stage.answers("first")
        stage.reload(good.replace(stage.first.url, stage.second.url))
        stage.say("alice")
        stage.answers("second")


def test_what_needs_another_gateway() -> None:
    """
    What cannot change while a gateway runs ends it politely, and another one begins in the same process; what the first
    had not delivered by then is delivered by the second.
    """
    with staged(sections={"delivery": {"drain_timeout": 0.2, "max_attempts": 5}}) as stage:
        stage.say("slow", "slow")
        stage.first.wait_for(1, settled=False)
        changed = stage.file.read_text().replace(stage.first.url, stage.second.url)
        stage.file.write_text(changed + "\n[spool]\nmax_letters = 7\n")
        os.kill(stage.gateway.pid, signal.SIGHUP)
        stage.peer.wait(lambda: stage.peer.stream_closed, "the end of the first stream")
        stage.peer = stage.server.connected()
        stage.answers("second")
        assert "starting anew, because of changes: spool.max_letters" in stage.gateway.log()
        stage.say("alice")
        stage.answers("second")


def test_another_gateway_that_cannot_start() -> None:
    """
    If the other gateway cannot begin, the first one goes on.
    """
    with staged() as stage:
        good = stage.file.read_text()
        stage.file.write_text(good + '\n[spool]\npath = "nowhere/spool.sqlite3"\n')
        os.kill(stage.gateway.pid, signal.SIGHUP)
        stage.peer = stage.server.connected()
        stage.gateway.wait_for_log("the settings stay as they were: ")
        stage.say("alice")
        stage.answers("first")
        stage.reload(good)


def test_a_token_is_replaced() -> None:
    """
    A token whose file has another one is let in with that, and with the old one no more.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    api = {"listen": f"tcp:{port}:interface=127.0.0.1", "token": [{"name": "ops", "token_file": "ops"}]}
    old, new = "the-old-token-of-ops", "the-new-token-of-ops"
    with staged(sections={"api": api}, secrets={"ops": old}) as stage:

        def status(token: str) -> int:
            return requests.post(
                f"http://127.0.0.1:{port}/v1/messages",
                json={"to": "alice@localhost", "body": "hello"},
                headers={"Authorization": f"Bearer {token}"},
                timeout=PATIENCE,
            ).status_code

        assert (status(old), status(new)) == (202, 401)
        (stage.gateway.folder / "ops").write_text(new)
        stage.reload(stage.file.read_text())
        assert (status(old), status(new)) == (401, 202)


def test_the_terminal_goes() -> None:
    """
    In a terminal SIGHUP says that this has gone, and the gateway stops politely, as users of a shell expect.
    """
    with ScriptedServer() as server:
        settings = {
            "component": {
                "domain": DOMAIN,
                "server": server.endpoint,
                "secret_file": "secret",
                "component_post_url": "http://127.0.0.1:9/",
            },
            "spool": {"kind": "memory"},
        }
        folder = gateway_folder(server.secret, settings)
        ours, theirs = pty.openpty()
        try:
            gateway = subprocess.Popen(
                [sys.executable, "-m", "component_http", "run", "gateway.toml"],
                cwd=folder,
                env={**os.environ, **from_checkout()},
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=_take_terminal,
            )
            os.close(theirs)
            peer = server.connected()
        finally:
            os.close(ours)
        peer.wait(lambda: peer.stream_closed, "the end of the stream")
        assert gateway.wait(PATIENCE) in (0, -signal.SIGTERM)
        shutil.rmtree(folder)


def _take_terminal() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may ignore it
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_the_service_manager_hears_of_it() -> None:
    """
    With Type=notify it hears when the gateway is ready, reloads, is ready again, and stops.
    """
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        path = str(Path(folder, "notify"))
        manager.bind(path)
        manager.settimeout(PATIENCE)

        def told() -> bytes:
            """What it hears next, but for the sentences about the state."""
            return next(said for said in iter(lambda: manager.recv(1000), None) if not said.startswith(b"STATUS="))

        with staged(environment={"NOTIFY_SOCKET": path}) as stage:
            assert told() == b"READY=1"
            stage.reload(stage.file.read_text())
            assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", told())
            assert told() == b"READY=1"
        assert told() == b"STOPPING=1"
