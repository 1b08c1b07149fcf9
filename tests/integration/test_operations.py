"""A process whose log is read and whose metrics are scraped, by other processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_components import staged

PATIENCE = 60.0


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


@pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")
def test_scraped_by_prometheus(tmp_path: Path, running: list[Gateway]) -> None:
    """Prometheus scrapes the gateway, and tells the alert that there is no stream to the server."""
    gateway = Gateway(tmp_path, 'level = "error"')
    running.append(gateway)
    eventually(gateway.is_alive, "alive")
    rules = (Path(__file__).parents[2] / "docs" / "monitoring" / "alerts.yml").read_text()
    (tmp_path / "alerts.yml").write_text(rules.replace("for: 5m", "for: 1s"))
    target, where = f"127.0.0.1:{gateway.port}", f"127.0.0.1:{free_port()}"
    job = {"job_name": "component-http", "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}
    config = {"global": {"evaluation_interval": "1s"}, "rule_files": ["alerts.yml"], "scrape_configs": [job]}
    (tmp_path / "prometheus.yml").write_text(json.dumps(config))
    prometheus = subprocess.Popen(
        [
            "prometheus",
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            f"--web.listen-address={where}",
        ],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )

    def firing() -> bool:
        try:
            with urllib.request.urlopen(f"http://{where}/api/v1/alerts", timeout=PATIENCE) as answer:
                alerts = json.load(answer)["data"]["alerts"]
        except OSError:
            return False
        states = {alert["labels"]["alertname"]: alert["state"] for alert in alerts}
        return states.get("ComponentHttpNotConnected") == "firing"

    try:
        eventually(firing, "the alert")
    finally:
        prometheus.terminate()
        prometheus.wait()
    gateway.stop()


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
