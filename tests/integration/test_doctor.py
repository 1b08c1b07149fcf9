"""`component-http doctor` in worlds that are well, and in broken ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.integration.processes import Answer, GatewayProcess, ScriptedWebhook, reply, toml
from tests.integration.servers import SERVERS, free_port

DOMAIN, SECRET = "bot.localhost", "a secret for the bot"
MAX_STANZA = 100_000


class World:
    """Settings in a folder, and what `doctor` finds with them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.settings: dict[str, Any] = {
            "component": {
                "domain": DOMAIN,
                "server": f"tcp:127.0.0.1:{free_port()}",
                "secret_file": "secret",
                "component_post_url": f"http://127.0.0.1:{free_port()}/",
                "max_stanza_bytes": MAX_STANZA,
            },
            "spool": {"path": str(folder / "spool.sqlite3")},
        }
        (folder / "secret").write_text(SECRET)
        (folder / "secret").chmod(0o600)

    @property
    def component(self) -> dict[str, Any]:
        found: dict[str, Any] = self.settings["component"]
        return found

    def server(self, name: str = "prosody", **options: Any) -> None:
        self.component["server"] = self.stack.enter_context(SERVERS[name]({DOMAIN: SECRET}, **options)).endpoint

    def webhook(self, answer: Answer | None = None) -> ScriptedWebhook:
        found = self.stack.enter_context(ScriptedWebhook(lambda request: answer or reply(body="pong")))
        self.component["component_post_url"] = found.url
        return found

    def save(self) -> Path:
        """Write the settings file."""
        path = self.folder / "bot.toml"
        path.write_text(toml(self.settings))
        return path

    def doctor(self, *arguments: str) -> tuple[int, list[dict[str, str]]]:
        """Returns the exit status, and the findings."""
        path = self.save()
        ran = subprocess.run(
            [sys.executable, "-m", "component_http", "doctor", str(path), "--json", *arguments],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            env={key: value for key, value in os.environ.items() if key != "COMPONENT_HTTP_SECRET"},
        )
        assert ran.stderr == "", ran.stderr
        return ran.returncode, json.loads(ran.stdout)

    def errors(self, *arguments: str) -> list[str]:
        status, found = self.doctor(*arguments)
        errors = [each["sentence"] for each in found if each["level"] == "error"]
        assert status == bool(errors)
        return errors


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(tmp_path, stack)


@pytest.mark.parametrize("name", ["prosody", "ejabberd"])
def test_all_is_well(world: World, name: str) -> None:
    """On a server and with a webhook that work it finds nothing to do, and says which server that is."""
    world.server(name)
    webhook = world.webhook()
    status, found = world.doctor()
    assert status == 0, found
    assert not [each for each in found if each["level"] in ("error", "warning")], found
    said = " ".join(each["sentence"] for each in found)
    for words in ("lets it in", name, "confirms what it has got", f"takes stanzas of {MAX_STANZA - 1000} bytes"):
        assert words.lower() in said.lower(), said
    [request] = webhook.requests
    assert request.json["from"] == f"component-http-doctor@{DOMAIN}"


def test_wrong_secret(world: World) -> None:
    """A secret that is not the server's is said in the server's word."""
    world.server()
    (world.folder / "secret").write_text("another one")
    [error] = world.errors("--no-post")
    assert error.startswith("not-authorized")


def test_unknown_domain(world: World) -> None:
    """So is a domain that the server does not have."""
    world.server()
    world.component["domain"] = "other.localhost"
    [error] = world.errors("--no-post")
    assert error.startswith(("host-unknown", "not-authorized")), error


def test_nobody_listens(world: World) -> None:
    """A server and a webhook that are down are named, with the addresses."""
    server, webhook = world.errors()
    assert "cannot connect to 127.0.0.1:" in server
    assert "refused" in webhook


def test_stanza_limit(world: World) -> None:
    """A server that takes smaller stanzas than max_stanza_bytes allows is found out."""
    world.server(stanza_limit=20_000)
    [error] = world.errors("--no-post")
    assert "component_stanza_size_limit" in error


def test_answer_that_cannot_be_used(world: World) -> None:
    """An answer that the contract does not allow is said, as in the log."""
    world.webhook(Answer(body="{"))
    [error] = world.errors("--no-connect")
    assert "JSON" in error


def test_status_of_the_webhook(world: World) -> None:
    """A webhook that answers with an error, or redirects, is found out."""
    world.webhook(Answer(500))
    [error] = world.errors("--no-connect")
    assert "status 500" in error


def test_no_folder(world: World) -> None:
    """A spool whose folder is not there is an error."""
    world.settings["spool"]["path"] = str(world.folder / "nowhere" / "spool.sqlite3")
    world.webhook()
    [error] = world.errors("--no-connect")
    assert "cannot be written to" in error


def test_gateway_is_running(world: World) -> None:
    """While a gateway has the stream it is left alone."""
    world.server()
    with GatewayProcess(
        domain=DOMAIN,
        server=world.component["server"],
        secret=SECRET,
        post_url=world.webhook().url,
        sections={"spool": {"path": world.settings["spool"]["path"]}},
    ) as gateway:
        gateway.wait_until_authenticated()
        status, found = world.doctor()
        assert status == 0, found
        assert [each for each in found if "a gateway is running" in each["sentence"]], found
        assert "stream_lost" not in gateway.log()
        gateway.stop()
