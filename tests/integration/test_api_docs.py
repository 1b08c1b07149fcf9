"""The curl lines of docs/api.md, against the API on a real port, with a stand-in for who sends."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from twisted.internet import reactor as _reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase
from twisted.words.xish.domish import Element

from component_http.api_service import api_hooks, api_server
from component_http.contract.address import Address
from component_http.contract.conditions import SERVICE_UNAVAILABLE, error_stanza
from component_http.contract.link import KEY_BYTES, link_path
from component_http.contract.stanza import Stanza
from component_http.contract.xml import Limits
from component_http.interfaces import Origin
from component_http.operations.metrics import Counters
from component_http.settings import Settings
from component_http.testing import RecordingSender
from tests.integration.counterparts import need
from tests.unit.test_docs import DOCS, Block, blocks
from tests.unit.test_link import a_stanza

reactor: Any = _reactor

PAGE = DOCS / "api.md"
KEY = bytes(KEY_BYTES)
SECRETS = {"TOKEN": "ops-token", "BUILDS": "builds-secret", "ALERTS": "alerts-secret", "OTHER": "other-secret"}


def answer(iq: Element) -> Element:
    """What the users and servers of the page answer."""
    stanza = Stanza.from_element(iq)
    if stanza.recipient.local == "nobody":
        return error_stanza(stanza, SERVICE_UNAVAILABLE)
    result = stanza.response("result")
    question = next(iq.elements())
    if question.name == "ping":
        return result
    payload = result.addElement((question.uri, question.name))
    if question.uri.endswith("#info"):
        payload.addElement("identity").attributes.update(category="client", type="phone")
        payload.addElement("feature")["var"] = "urn:xmpp:ping"
    elif question.uri.endswith("#items"):
        payload.addElement("item").attributes.update(jid="room@rooms.example.org", name="Room")
    else:
        contents = {"tzo": "+02:00", "utc": "2024-05-01T10:00:00Z"}
        if question.name == "query":
            contents = {"name": "Prosody", "version": "0.12.3"}
        for name, text in contents.items():
            payload.addElement(name, content=text)
    return result


def normalised(output: str) -> str:
    """Without what is different each time: fresh ids, and how long a ping took."""
    output = re.sub(r"\b[0-9a-f]{32}\b", "ID", output.strip())
    return re.sub(r'"seconds":[0-9.e-]+', '"seconds":0', output)


def commands(block: Block) -> list[tuple[str, str]]:
    """Each command of a block, and what the page shows below it."""
    return [
        (command, "\n".join(output))
        for command, *output in (part.rstrip("\n").split("\n") for part in block.text.split("$ ", 1)[1].split("\n$ "))
    ]


class ApiPageTests(TestCase):
    """What a reader of the page types."""

    timeout = 120

    def setUp(self) -> None:
        need("curl", "curl")
        folder = Path(self.enterContext(TemporaryDirectory()))
        for name in (*SECRETS.values(), "secret"):
            (folder / name).write_text(f"{name}-0123456789abcdef\n")
        [template] = [block for block in blocks("jinja", PAGE) if block.label == "template"]
        (folder / "other.j2").write_text(template.text)
        # The page shows one settings file in three pieces, and another one.
        first, *others = [block.text for block in blocks("toml", PAGE)]
        text = first + "".join(other[other.index("[[api.hook]]") :] for other in others if "[[api.hook]]" in other)
        (folder / "bot.toml").write_text(text)
        self.settings = Settings.from_toml(folder / "bot.toml", {})
        self.sender = RecordingSender(answer=answer)
        _, self.server = api_server(
            self.settings,
            reactor,
            {"bot.example.org": Origin(self.sender, Address.parse("bot.example.org"), Limits())},
            Counters(),
            api_hooks(self.settings),
            KEY,
            lambda: {"webhook": "closed"},
            new_id=lambda: uuid4().hex,
            endpoint="tcp:0:interface=127.0.0.1",
        )

    async def start(self) -> str:
        """Where the API is."""
        self.server.startService()
        self.addCleanup(self.server.stopService)
        assert self.server.listening is not None
        port: Any = await self.server.listening
        return f"http://127.0.0.1:{port.getHost().port}"

    async def test_curl(self) -> None:
        """
        Each command of the page gives what the page shows.
        """
        base = await self.start()
        path = link_path(KEY, "d1", a_stanza(), reactor.seconds() + 10**10)
        environment = {
            "PATH": os.environ["PATH"],
            "REPLY_URL": f"{base}{path}",
            **{variable: f"{name}-0123456789abcdef" for variable, name in SECRETS.items()},
        }
        found = [block for block in blocks("console", PAGE) if block.label == "run"]
        self.assertGreater(len(found), 10)
        for block in found:
            for command, shown in commands(block):
                with self.subTest(line=block.line, command=command):
                    self.assertTrue(command.startswith("curl "))
                    command = command.replace("http://127.0.0.1:8347", base).replace("curl ", "curl -sS --max-time 20 ")
                    ended = await deferToThread(
                        subprocess.run,
                        ["sh", "-c", command],
                        env=environment,
                        capture_output=True,
                        text=True,
                        check=False,
                    )
                    self.assertEqual(normalised(shown), normalised(ended.stdout), ended.stderr)
        bodies = [str(element.body) for element in self.sender.pushed if element.body is not None]
        self.assertIn("ci: Build 7 (https://ci.example.org/7) has failed.", bodies)
        self.assertIn("bot: build 7 has failed\nhttps://ci.example.org/7", bodies)
        self.assertIn("CRITICAL: InstanceDown on db1\ndb1 is down", bodies)
        self.assertEqual(1, bodies.count("The backup is done."))
