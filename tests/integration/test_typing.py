"""What mypy says to somebody who embeds the gateway."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.unit.test_docs import DOCS, blocks

SURFACE = """
from typing import Any, assert_type

from component_http import Gateway, Settings
from component_http.errors import ConnectionFailed
from component_http.interfaces import Observer, Outlet, Response, Stream, Webhook
from component_http.settings import ComponentSettings, SpoolSettings
from component_http.testing import ComponentServer, RecordingOutlet, RecordingSender, ScriptedWebhook, json_response


class Status:
    async def post(self, body: bytes, headers: Any, *, fresh: bool = False) -> Response:
        return Response(204)


async def use(gateway: Gateway, observer: Observer) -> None:
    assert_type(gateway.stream, Stream)
    assert_type(gateway.outlet, Outlet)
    assert_type(await gateway.push({"to": "alice@example.org", "body": "hello"}), list[str])
    assert_type(gateway.counters["replied"], int)
    await gateway.drain(0)
    status = gateway.status()
    if status is not None:
        assert_type(status.pending, int)
    observer.count("seen")


def make(reactor: Any) -> Gateway:
    component = ComponentSettings(domain="bot.example.org", secret="s", component_post_stanzas=("message", "iq"))
    settings = Settings(component=component, spool=SpoolSettings(kind="memory"))
    scripted: Webhook = ScriptedWebhook([json_response("{}"), ConnectionFailed("away")])
    assert_type(ComponentServer("bot.example.org", reactor, print).listen(), int)
    outlet: Outlet = RecordingOutlet()
    RecordingSender()
    return Gateway(settings, reactor, webhook=Status() if outlet.crowded else scripted)
"""
"""What embedders use beside the examples."""

MISTAKES = {
    "gateway.stream.addHandlr(None)": 'has no attribute "addHandlr"',
    "gateway.push(42)": 'Argument 1 to "push"',
    "gateway.counters.replied": 'has no attribute "replied"',
    "Gateway(gateway, None)": 'Argument 1 to "Gateway"',
    "Gateway(gateway.nothing, None, answer=len)": 'Argument "answer" to "Gateway"',
}
"""Statements, and what is wrong with them."""


def checked(folder: Path, **modules: str) -> str:
    """What mypy prints for some modules; Twisted itself is typed only in parts, so calling it has to be allowed."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
    flags = ["--strict", "--allow-untyped-calls", "--config-file="]
    ended = subprocess.run(
        [sys.executable, "-m", "mypy", *flags, *(f"{name}.py" for name in modules)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert ended.stderr == ""
    return ended.stdout


def test_what_an_application_writes(tmp_path: Path) -> None:
    """
    `mypy --strict` has nothing against the examples of the page, nor against the other things that embedders use.
    """
    examples = [block.text for block in blocks("python", DOCS / "embedding.md") if block.label == "typed"]
    assert len(examples) >= 4
    modules = {f"example{number}": text for number, text in enumerate(examples)}
    said = checked(tmp_path, surface=SURFACE, **modules)
    assert said.startswith("Success: no issues found in"), said


def test_mistakes_are_seen(tmp_path: Path) -> None:
    """
    It sees what an application gets wrong: nothing of the surface is `Any`.
    """
    lines = ["from component_http import Gateway", "def use(gateway: Gateway) -> None:", *MISTAKES]
    said = checked(tmp_path, wrong="\n    ".join(lines).replace("    def", "def", 1))
    for number, complaint in enumerate(MISTAKES.values(), 3):
        found = [line for line in said.splitlines() if line.startswith(f"wrong.py:{number}: ")]
        assert any(complaint in line for line in found), said
