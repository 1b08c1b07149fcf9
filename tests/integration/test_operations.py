"""A process whose log is read and whose metrics are scraped, by other processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest
import requests
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.trial.unittest import TestCase
from wokkel.subprotocols import XMPPHandler

from component_http.certificates import client_endpoint
from component_http.contract.xml import Limits
from component_http.operations.metrics import Counters
from component_http.xmpp.stream import ComponentStream
from tests.certificates import Authority
from tests.integration.test_components import staged

reactor: Any = _reactor

PATIENCE = 60.0

MONITORING = Path(__file__).parents[2] / "docs" / "monitoring"

RATE = "10s"
"""In the place of what Grafana puts into a query."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def eventually(look: object, what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not look():  # type: ignore[operator]
        assert time.monotonic() < end, f"not within {PATIENCE:g} s: {what}"
        time.sleep(0.05)


class ServerCertificateTests(TestCase):
    """The certificate of an XMPP server, for those who watch the gateway."""

    async def test_end(self) -> None:
        """
        The end of the certificate is known while there is a stream over TLS.
        """
        authority, folder = Authority(), Path(self.mktemp())
        folder.mkdir()
        (folder / "ca.pem").write_bytes(authority.pem)
        port = reactor.listenSSL(0, Factory.forProtocol(Server), authority.context("localhost"), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        connected: Deferred[None] = Deferred()
        stream = ComponentStream(
            client_endpoint(reactor, f"tls:localhost:{port.getHost().port}:trustRoots={folder / 'ca.pem'}"),
            "bot.example.org",
            "s",
            limits=Limits(),
            observer=Counters(),
            clock=reactor,
            random=Random(),
        )
        stream.addHandler(Told(connected))
        self.assertIsNone(stream.certificate_ends)
        stream.startService()
        self.addCleanup(stream.stopService)
        await connected
        assert stream.certificate_ends is not None
        self.assertLess(abs(stream.certificate_ends - time.time() - 86_400), 600)


class Server(Protocol):
    """An XMPP server that lets everybody in."""

    def dataReceived(self, data: bytes) -> None:
        if b"<stream:stream" in data:
            namespaces = b"xmlns='jabber:component:accept' xmlns:stream='http://etherx.jabber.org/streams'"
            self.transport.write(b"<stream:stream %s from='bot.example.org' id='1'>" % namespaces)
        elif b"<handshake" in data:
            self.transport.write(b"<handshake/>")
        elif b"</stream:stream>" in data:
            self.transport.write(b"</stream:stream>")
            self.transport.loseConnection()


class Told(XMPPHandler):
    """Fires when there is a stream."""

    def __init__(self, connected: Deferred[None]) -> None:
        super().__init__()
        self.connected = connected

    def connectionInitialized(self) -> None:
        self.connected.callback(None)


class Gateway:
    """`component-http run` with a port for operations, and without a server to connect to."""

    def __init__(self, folder: Path, log: str, **popen: object) -> None:
        self.folder, self.port = folder, free_port()
        settings = folder / "bot.toml"
        settings.write_text(
            f'[component]\ndomain = "bot.example.org"\nserver = "tcp:127.0.0.1:{free_port()}"\n'
            f'component_post_url = "http://127.0.0.1:{free_port()}/"\n'
            f'[operations]\nlisten = "tcp:{self.port}:interface=127.0.0.1"\n'
            f'[spool]\npath = "spool.sqlite3"\n[log]\n{log}\n'
        )
        self.process = subprocess.Popen(
            [sys.executable, "-m", "component_http", "run", str(settings)],
            cwd=folder,
            env={**os.environ, "COMPONENT_HTTP_SECRET": "s"},
            **popen,  # type: ignore[call-overload]
        )

    def ask(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def is_alive(self) -> bool:
        assert self.process.poll() is None, "it has ended"
        try:
            return self.ask("/healthz") == (200, "alive\n")
        except OSError:
            return False

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(PATIENCE) in (0, -signal.SIGTERM)


@pytest.fixture
def running() -> Iterator[list[Gateway]]:
    gateways: list[Gateway] = []
    yield gateways
    for gateway in gateways:
        gateway.process.kill()
        gateway.process.wait()


def test_log_file_is_moved(tmp_path: Path, running: list[Gateway]) -> None:
    """logrotate moves the log's file and sends SIGUSR1: the gateway writes a new one, each line a JSON object."""
    gateway = Gateway(tmp_path, 'format = "json"\nfile = "the.log"')
    running.append(gateway)
    eventually(gateway.is_alive, "alive")
    log, moved = tmp_path / "the.log", tmp_path / "the.log.1"
    log.rename(moved)
    gateway.process.send_signal(signal.SIGUSR1)
    eventually(log.exists, "a new file")
    gateway.stop()
    before = [json.loads(line) for line in moved.read_text().splitlines()]
    after = [json.loads(line) for line in log.read_text().splitlines()]
    assert any("serves bot.example.org" in line["message"] for line in before)
    assert any("stopped; in all" in line["message"] for line in after)
    assert not any(line["level"] == "critical" for line in (*before, *after))


def test_pipe_of_the_log_is_closed(tmp_path: Path, running: list[Gateway]) -> None:
    """Whoever reads the log goes away: the gateway goes on, and stops in order."""
    gateway = Gateway(tmp_path, 'level = "debug"', stdout=subprocess.PIPE)
    running.append(gateway)
    eventually(gateway.is_alive, "alive")
    gateway.process.stdout.close()
    gateway.process.send_signal(signal.SIGHUP)
    eventually(lambda: json.loads(gateway.ask("/status")[1])["reloads"] == 1, "a reload, which is logged")
    assert gateway.is_alive()
    gateway.stop()


class Prometheus:
    """A real Prometheus that scrapes one gateway, and evaluates its alerts, once a second; some wait less long."""

    def __init__(self, folder: Path, job: dict[str, object]) -> None:
        rules = (MONITORING / "alerts.yml").read_text()
        for patience, less in (("for: 5m", "for: 1s"), ("for: 1m", "for: 0s"), ("seconds > 300", "seconds > 5")):
            rules = rules.replace(patience, less)
        (folder / "alerts.yml").write_text(rules)
        job = {"job_name": "component-http", "scrape_interval": "1s", **job}
        config = {"global": {"evaluation_interval": "1s"}, "rule_files": ["alerts.yml"], "scrape_configs": [job]}
        (folder / "prometheus.yml").write_text(json.dumps(config))
        self.where = f"127.0.0.1:{free_port()}"
        self.process = subprocess.Popen(
            [
                *("prometheus", "--config.file=prometheus.yml", "--storage.tsdb.path=data"),
                f"--web.listen-address={self.where}",
            ],
            cwd=folder,
            stderr=subprocess.DEVNULL,
        )

    def ask(self, path: str, **parameters: str) -> dict[str, Any]:
        try:
            answer = requests.get(f"http://{self.where}/api/v1/{path}", parameters, timeout=PATIENCE)
        except requests.ConnectionError:
            return {"result": [], "alerts": []}  # it has just begun
        assert answer.status_code == 200, (parameters, answer.text)
        found: dict[str, Any] = answer.json()["data"]
        return found

    def value(self, query: str) -> float | None:
        """The value of the first series of a query; None if there is none."""
        result = self.ask("query", query=query)["result"]
        return float(result[0]["value"][1]) if result else None

    def fires(self, alert: str) -> bool:
        states = {each["labels"]["alertname"]: each["state"] for each in self.ask("alerts")["alerts"]}
        return states.get(alert) == "firing"

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_scraped_by_prometheus(tmp_path: Path) -> None:
    """
    Prometheus scrapes the gateway over TLS with a certificate of its own, without which nobody is answered; each query
    of the dashboard finds something, and when the stream is lost, an alert is told.
    """
    authority, port = Authority(), free_port()
    own, client, ca = tmp_path / "own.pem", tmp_path / "client.pem", tmp_path / "ca.pem"
    own.write_bytes(authority.certified("localhost"))
    client.write_bytes(authority.certified("prometheus.example"))
    ca.write_bytes(authority.pem)
    own.chmod(0o600)
    operations = {"listen": f"ssl:{port}:privateKey={own}:certKey={own}", "client_ca_file": str(ca)}
    tls = {"ca_file": str(ca), "cert_file": str(client), "key_file": str(client)}
    scrape = {"scheme": "https", "tls_config": tls, "static_configs": [{"targets": [f"localhost:{port}"]}]}
    prometheus = Prometheus(tmp_path, scrape)
    try:
        with staged("red", operations=operations) as stage:
            [red] = stage.bots.values()
            url = f"https://localhost:{port}/status"
            with pytest.raises(requests.ConnectionError):
                requests.get(url, verify=str(ca), timeout=PATIENCE)
            status = requests.get(url, verify=str(ca), cert=str(client), timeout=PATIENCE).json()
            assert abs(status["certificates"]["operations.listen"] - time.time() - 86_400) < 600, status

            def confirmed() -> bool:
                red.say("alice", "hello")
                red.answers("hello")
                return (prometheus.value("component_http_confirm_seconds_count") or 0) > 1

            eventually(confirmed, "what the server is known to have")
            eventually(lambda: prometheus.value(f"count_over_time(up[{RATE}]) > 2"), "three scrapes")
            for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
                for target in panel["targets"]:
                    query = target["expr"].replace("$__rate_interval", RATE).replace("$instance", ".*")
                    # Only a webhook at https:// shows one, and a server at tls:.
                    if not re.search("(webhook|server)_certificate", query):
                        assert prometheus.value(query) is not None, query
            assert prometheus.value("component_http_unaccounted_deliveries") == 0
            red.server.close()
            red.peer.close()
            eventually(lambda: prometheus.fires("ComponentHttpNotConnected"), "the alert")
    finally:
        prometheus.stop()


def test_strangers() -> None:
    """
    A thousand connections that ask at once without a token, and two hundred that say nothing: the deliveries go on, who
    has the token is answered soon after, and the log has one line about each.
    """
    port = free_port()
    operations = {"listen": f"tcp:{port}:interface=127.0.0.1", "token_file": "ops"}
    right, wrong = {"Authorization": f"Bearer {'o' * 20}"}, {"Authorization": f"Bearer {'0' * 20}"}

    def ask(path: str, headers: dict[str, str]) -> requests.Response | None:
        try:
            return requests.get(f"http://127.0.0.1:{port}{path}", headers=headers, timeout=PATIENCE)
        except requests.ConnectionError:
            return None  # one of those that were closed at once

    def events() -> dict[str, float]:
        answer = ask("/metrics", right)
        found = re.findall(r'_events_total{event="(\w+)"} (\S+)', "" if answer is None else answer.text)
        return {name: float(value) for name, value in found}

    def is_refused(answer: requests.Response | None) -> bool:
        return answer is not None and answer.status_code == 401

    seen: dict[str, float] = {}
    request = b"GET /metrics HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer no\r\n\r\n"

    def come(stack: ExitStack) -> socket.socket:
        stranger = stack.enter_context(socket.socket())
        stranger.setblocking(False)
        stranger.connect_ex(("127.0.0.1", port))
        return stranger

    with staged("red", operations=operations) as stage, ExitStack() as silent:
        [red] = stage.bots.values()
        for number in range(10):
            with ExitStack() as crowd:
                for stranger in [come(crowd) for _ in range(100)]:
                    with contextlib.suppress(OSError):
                        stranger.send(request)
                red.say("alice", f"while {number}")
                red.answers(f"while {number}")
        for _ in range(200):
            come(silent)
        eventually(events, "an answer to who has the token")
        eventually(lambda: is_refused(ask("/status", wrong)), "401")
        red.say("alice", "still there")
        red.answers("still there")
        eventually(lambda: seen.update(events()) or seen, "an answer to who has the token")
        assert seen["api_unauthorized"] >= 1
        assert seen["connected"] == 1
        for line in ("too many connections to the port for operations", "was asked without its token"):
            assert len(stage.gateway.lines(line)) == 1, stage.gateway.log()


def test_nothing_is_unaccounted() -> None:
    """Whatever a reload does with a component that has deliveries pending, each delivery is somewhere at any time."""
    port = free_port()
    operations = {"listen": f"tcp:{port}:interface=127.0.0.1"}
    delivery = {"max_attempts": 5, "drain_timeout": 0.2}
    seen: list[int] = []

    def status() -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=PATIENCE) as answer:
            found: dict[str, Any] = json.load(answer)
        seen.append(found["unaccounted"])
        return found

    with staged("red", "blue", operations=operations, delivery=delivery) as stage:
        red, blue = stage.bots.values()
        red.hangs.set()
        for number in range(50):
            red.say(f"user{number}", "waits")
            blue.say(f"user{number}", "hello")
        eventually(lambda: status()["components"][red.domain]["pending"] == 50, "50 that wait")
        red.table["nick"] = "other"
        stage.reload()
        eventually(lambda: status()["counters"].get("left") == 50, "50 that are left")
        red.connect()
        eventually(lambda: status()["counters"].get("restored") == 50, "50 that are restored")
        del stage.bots["red"]
        stage.reload()
        eventually(lambda: status()["counters"].get("not_served") == 50, "50 dead letters")
        red.release.set()
        eventually(lambda: list(status()["components"]) == [blue.domain], "the one that is left")
    assert set(seen) == {0}
