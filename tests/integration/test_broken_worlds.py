"""What `doctor` says of broken worlds, in the words of the page that shows it, and what `init` leads to."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.processes import Answer, Process, ScriptedWebhook, from_checkout, reply
from tests.integration.servers import USERS, Ejabberd, Prosody, free_port
from tests.integration.test_doctor import SECRET, World
from tests.integration.user import User
from tests.unit.test_docs import DOCS, table

UNKNOWN, TYPED, SLOTS = 2, 6, 7
"""Worlds with a domain that Prosody does not have, and with those that ejabberd balances, by their numbers."""

DOCTOR = """
import json, sys
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react
from twisted.logger import LogPublisher, globalLogBeginner
from component_http.commands.examination import Examination
from component_http.settings import Settings

def examine(reactor, *files):
    looks = [Examination(Settings.from_toml(file), reactor).all(connect="always", post=True) for file in files]
    return gatherResults(map(Deferred.fromCoroutine, looks)).addCallback(tell)

def tell(found):
    bad = [[each.sentence for each in findings if each.level in ("error", "warning")] for findings in found]
    print(json.dumps(bad))

globalLogBeginner.beginLoggingTo([LogPublisher()], redirectStandardIO=False, discardBuffer=True)
react(examine, sys.argv[1:])
"""
"""Examines several worlds at once, which takes as long as the slowest of them."""


class Worlds:
    """A Prosody, an ejabberd, and worlds with them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.prosody = stack.enter_context(Prosody({f"world-{n}.localhost": SECRET for n in range(20) if n != UNKNOWN}))
        self.ejabberd = Ejabberd({f"world-{n}.localhost": SECRET for n in range(20)}, stanza_limit=30_000)
        self.ejabberd.options["domain_balancing"] = {
            f"world-{TYPED}.localhost": {"type": "random"},
            f"world-{SLOTS}.localhost": {"type": "bare_destination", "component_number": 3},
        }
        stack.enter_context(self.ejabberd)
        self.found: dict[str, World] = {}

    def world(self, broken: str, server: str | None = None) -> World:
        """A world with a domain of its own, in which nothing is broken but what is told."""
        name = f"world-{len(self.found)}"
        folder = self.folder / name
        folder.mkdir()
        world = self.found[broken] = World(folder, self.stack)
        world.component.update(domain=f"{name}.localhost", server=server or self.prosody.endpoint)
        world.webhook()
        return world

    def errors(self) -> dict[str, list[str]]:
        """What is found in each world, with the usual names and ports."""
        files = [world.save() for world in self.found.values()]
        ran = subprocess.run(
            [sys.executable, "-c", DOCTOR, *map(str, files)], capture_output=True, text=True, timeout=100, check=False
        )
        assert ran.returncode == 0, ran.stderr
        lists: list[list[str]] = json.loads(ran.stdout)
        return {
            broken: [self._usual(sentence, world) for sentence in sentences]
            for (broken, world), sentences in zip(self.found.items(), lists, strict=True)
        }

    def _usual(self, sentence: str, world: World) -> str:
        for name, usual in (
            (world.component["domain"], "bot.example.org"),
            (str(self.prosody.client_port), "5222"),
            (str(world.component["server"]).rpartition(":")[2], "5347"),
            (re.split("[:/]", world.component["component_post_url"])[4], "8080"),
        ):
            sentence = sentence.replace(name, usual)
        return re.sub("^[0-9]+ of 20 small", "7 of 20 small", sentence)


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Worlds]:
    with ExitStack() as stack:
        yield Worlds(tmp_path, stack)


def test_page_of_broken_worlds(worlds: Worlds) -> None:
    """
    What the page shows for each broken world is what doctor says there, on real servers, and all that it says.
    """
    ejabberd = worlds.ejabberd.endpoint
    worlds.world("the XMPP server is down", f"tcp:127.0.0.1:{free_port()}")
    worlds.world("`server` names Prosody's port for clients", f"tcp:127.0.0.1:{worlds.prosody.client_port}")
    worlds.world("Prosody has no such component")
    (worlds.world("Prosody has another secret").folder / "secret").write_text("another")
    taken = worlds.world("another process serves the domain in Prosody").component["domain"]
    worlds.stack.enter_context(worlds.prosody.probe(taken))
    wrong = worlds.world("ejabberd has another secret, or not this host", ejabberd)
    (wrong.folder / "secret").write_text("another")
    worlds.world("ejabberd has `domain_balancing` with a `type` alone", ejabberd)
    worlds.world("ejabberd has `component_number: 3` and one process", ejabberd)
    worlds.world("ejabberd takes smaller stanzas than the gateway", ejabberd)
    down = worlds.world("the webhook is down")
    down.component["component_post_url"] = f"http://127.0.0.1:{free_port()}/"
    worlds.world("the webhook wants a token").webhook(Answer(401))
    worlds.world("the webhook answers with a page").webhook(Answer(body="<h1>Hello</h1>", content_type="text/html"))
    rows = {row[0]: row[1] for row in table(DOCS / "operations.md", "what is broken", "what doctor says")}
    found = {broken.replace("`", ""): " ".join(said) for broken, said in worlds.errors().items()}
    assert found == rows


def init(folder: Path, *arguments: str) -> tuple[int, str, str]:
    ran = subprocess.run(
        [sys.executable, "-m", "component_http", "init", *arguments],
        cwd=folder,
        env=from_checkout(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ran.returncode, ran.stdout, ran.stderr


def test_from_init_to_an_answer(tmp_path: Path) -> None:
    """
    The lines that init prints for Prosody, and the files that it writes, are all that a bot needs to answer.
    """
    with ExitStack() as stack:
        webhook = stack.enter_context(ScriptedWebhook(lambda request: reply(body=f"bot: {request.json['body']}")))
        server = Prosody({})
        endpoint = f"tcp:127.0.0.1:{server.component_port}"
        status, out, err = init(tmp_path, "bot.localhost", "--post-url", webhook.url, "--server", endpoint)
        assert (status, err) == (0, ""), err
        lines = out.partition("prosody.cfg.lua:\n")[2].partition("ejabberd, below")[0]
        server.more = "\n".join(line for line in lines.splitlines() if "component_ports" not in line)
        stack.enter_context(server)
        secret = tmp_path / "component-secret"
        assert secret.stat().st_mode & 0o777 == 0o600
        assert out.count(secret.read_text().strip()) == 2
        command = [sys.executable, "-m", "component_http"]
        for check in ("check", "doctor"):
            looked = subprocess.run(
                [*command, check, "component-http.toml"],
                cwd=tmp_path,
                env=from_checkout(),
                capture_output=True,
                text=True,
            )
            assert looked.returncode == 0 and "warning" not in looked.stdout, looked.stdout + looked.stderr
        with Process([*command, "run", "component-http.toml"], tmp_path, from_checkout()) as gateway:
            gateway.wait_for_log("authenticated as bot.localhost")
            with User("alice@localhost", USERS["alice"], server.client_port) as alice:
                alice.log_in()
                alice.say("me@bot.localhost", "hello")
                alice.heard(lambda message: message["body"] == "bot: hello", "the answer")
            gateway.terminate()


def test_init_replaces_nothing(tmp_path: Path) -> None:
    """
    Where a file is there already, or an argument is wrong, init writes nothing, and says in one sentence why.
    """
    (tmp_path / "component-http.toml").write_text("mine")
    status, out, err = init(tmp_path, "bot.example.org")
    assert (status, out) == (1, "") and "component-http.toml is there already" in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["component-http.toml"]
    for wrong, named in (
        (("a b",), "--domain"),
        (("bot@example.org",), "--domain"),
        (("bot.example.org", "--post-url", "ftp://x/"), "--post-url"),
        (("bot.example.org", "--post-url", "http://u:p@x/"), "--post-url"),
        (("bot.example.org", "--server", "nowhere"), "--server"),
    ):
        status, out, err = init(tmp_path, *wrong, "--into", "new")
        assert (status, out, err.count("\n")) == (78, "", 1) and named in err, err
    assert not (tmp_path / "new").exists()
    status, out, _ = init(tmp_path, "bücher.example", "--into", "new", "--server", "tcp:xmpp.example.org:5275")
    assert status == 0 and "component_ports = { 5275 }" in out and 'ip: "0.0.0.0"' in out
    assert 'domain = "bücher.example"' in (tmp_path / "new" / "component-http.toml").read_text("utf-8")
