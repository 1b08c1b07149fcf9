"""
The API of a real gateway on Prosody and ejabberd, with people's clients, and with the HTTP clients of others.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.integration.api_gateway import HOOK, JSON, TOKEN, ApiGateway, Told
from tests.integration.counterparts import need, unusable
from tests.integration.probe import stanza_error
from tests.integration.processes import NO_REPLY, Answer, Request, ScriptedWebhook
from tests.integration.servers import ROOMS, SERVERS, USERS, Server
from tests.integration.user import User
from tests.integration.waiting import PATIENCE, eventually

DOMAIN = "all.localhost"
BOT = f"bot@{DOMAIN}"
ALICE = "alice@localhost"
PHONE = f"{ALICE}/phone"
LATER = Answer(status=202, content_type=None)
IQ_DEADLINE = 3.0
XMPP_XML = "application/xmpp+xml"

WEATHER = "<weather xmlns='urn:example:weather'/>"
RAIN = "<iq type='result'><weather xmlns='urn:example:weather'><rain/></weather></iq>"

ALERT = {
    "version": "4",
    "groupKey": '{}:{alertname="InstanceDown"}',
    "truncatedAlerts": 0,
    "status": "firing",
    "receiver": "xmpp",
    "groupLabels": {"alertname": "InstanceDown"},
    "commonLabels": {"alertname": "InstanceDown", "severity": "critical"},
    "commonAnnotations": {},
    "externalURL": "http://alertmanager.example.org:9093",
    "alerts": [
        {
            "status": "firing",
            "labels": {"alertname": "InstanceDown", "instance": "db1.example.org:9100", "severity": "critical"},
            "annotations": {"summary": "db1 is down", "description": "db1 <has> been down & out for 5 minutes."},
            "startsAt": "2024-05-01T10:00:00.000Z",
            "endsAt": "0001-01-01T00:00:00Z",
            "generatorURL": "http://prometheus.example.org:9090/graph?g0.expr=up+%3D%3D+0",
            "fingerprint": "c0ffee0123456789",
        },
        {
            "status": "resolved",
            "labels": {"alertname": "InstanceDown", "instance": "db2.example.org:9100", "severity": "critical"},
            "annotations": {"summary": "db2 is down"},
            "startsAt": "2024-05-01T09:00:00.000Z",
            "endsAt": "2024-05-01T10:00:00.000Z",
            "generatorURL": "http://prometheus.example.org:9090/graph?g0.expr=up+%3D%3D+0",
            "fingerprint": "c0ffee9876543210",
        },
    ],
}
"""
What Alertmanager posts.

Source: Prometheus, Alertmanager configuration, `<webhook_config>`.
"""


class World:
    """One server, a webhook, and a gateway with its API, started again as a test likes."""

    def __init__(self, server: str, stack: ExitStack, folder: Path) -> None:
        self.server: Server = stack.enter_context(SERVERS[server]())
        self.webhook = stack.enter_context(ScriptedWebhook())
        self._stack = stack
        self._spool = folder / "spool.sqlite3"
        self._port: int | None = None
        self.gateway = self.start()

    def start(self) -> ApiGateway:
        self.gateway = self._stack.enter_context(
            ApiGateway(
                domain=DOMAIN,
                server=self.server.endpoint,
                secret=self.server.domains[DOMAIN],
                post_url=self.webhook.url,
                port=self._port,
                sections={
                    "component": {"component_post_stanzas": ["message", "iq"]},
                    "delivery": {"iq_deadline": IQ_DEADLINE},
                    "spool": {"kind": "sqlite", "path": str(self._spool)},
                },
                api={
                    "hook": [{"name": "alerts", "secret_file": "hook-secret", "to": ALICE, "template": "alertmanager"}]
                },
            )
        )
        self._port = self.gateway.port
        self.gateway.wait_until_authenticated()
        self.gateway.wait_until_open()
        return self.gateway

    def link(self, request: Request) -> Callable[..., Told]:
        """Replies by the link that a request carries."""
        url = request.headers["webhook-reply-url"]
        base = f"http://127.0.0.1:{self.gateway.port}"
        assert url.startswith(f"{base}/v1/deliveries/{request.headers['webhook-id']}/reply?"), url
        return lambda body, **headers: self.gateway.api.post(url.removeprefix(base), body, **headers)


@pytest.fixture(scope="module", params=sorted(SERVERS, reverse=True))
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with ExitStack() as stack:
        built = World(request.param, stack, tmp_path_factory.mktemp("spool"))
        yield built
        built.gateway.stop()


@pytest.fixture
def alice(world: World) -> Iterator[User]:
    with User(ALICE, USERS["alice"], world.server.client_port) as user:
        user.log_in()
        world.webhook.answer = lambda _: NO_REPLY
        world.webhook.take()
        yield user


def came(user: User, body: str) -> Any:
    """Wait for a message with this text."""
    return user.heard(lambda one: one["body"] == body, f"{body!r}")


# ------------------------------------------------------------------------------------- pushed


def test_a_message_arrives(world: World, alice: User) -> None:
    """
    A message that a program pushes arrives at a person who is online, as it was given.
    """
    id = world.gateway.api.say(ALICE, "hello <&> \N{GRINNING FACE}", **{"from": BOT, "subject": "news"})
    message = came(alice, "hello <&> \N{GRINNING FACE}")
    assert (message["id"], str(message["from"]), message["type"], message["subject"]) == (id, BOT, "chat", "news")


def test_a_message_waits_for_who_is_offline(world: World, alice: User) -> None:
    """
    Messages to a person who is offline wait at the server, and arrive in their order when she comes.
    """
    alice.log_out()
    told = world.gateway.api.post("/v1/messages?wait=sent", [{"to": ALICE, "body": f"offline {n}"} for n in range(3)])
    assert (told.status, told.json["sent"]) == (200, True)
    alice.log_in()
    came(alice, "offline 2")
    assert [one["body"] for one in alice.messages] == ["offline 0", "offline 1", "offline 2"]


def test_sent_means_that_the_server_has_it(world: World, alice: User) -> None:
    """
    With wait=sent the answer is 200 once the real server has confirmed it, and the message is there.
    """
    told = world.gateway.api.post("/v1/messages?wait=sent", {"to": ALICE, "body": "confirmed"})
    assert (told.status, told.json["sent"]) == (200, True)
    assert came(alice, "confirmed")["id"] == told.json["ids"][0]


def test_a_bot_in_a_room(world: World, alice: User) -> None:
    """
    A bot enters a room and says something there by the API: whoever is in the room sees both, the webhook neither.
    """
    room = f"api-{world.server.name}@{ROOMS}"
    alice.join(room, "alice")
    join = f"<presence from='{BOT}' to='{room}/helper'><x xmlns='http://jabber.org/protocol/muc'/></presence>"
    told = world.gateway.api.post("/v1/stanzas", join.encode(), Content_Type=XMPP_XML)
    assert told.status == 202
    alice.saw(f"{room}/helper", "available")
    id = world.gateway.api.say(room, "Coffee?", type="groupchat", **{"from": BOT})
    message = came(alice, "Coffee?")
    assert (str(message["from"]), message["type"], message["id"]) == (f"{room}/helper", "groupchat", id)
    # The room has sent the bot its own message back before it sends what is said next.
    alice.say(room, "Tea!", "groupchat")
    world.webhook.wait_for(1)
    eventually(lambda: said(world.webhook.requests), "what a person said, at the webhook")
    assert said(world.webhook.take()) == ["Tea!"]


def said(requests: list[Request]) -> list[str]:
    """The texts among them."""
    return [one.json["body"] for one in requests if "body" in one.json]


# ------------------------------------------------------------------------------------- asked


def test_the_shortcuts(world: World, alice: User) -> None:
    """
    A real client and a real server answer ping, disco, items and version.
    """
    api = world.gateway.api
    pong = api.get(f"/v1/ping/{PHONE}?from={BOT}")
    assert (pong.status, pong.json["type"], pong.json["from"], pong.json["to"]) == (200, "result", PHONE, BOT)
    assert 0 < pong.json["seconds"] < PATIENCE
    assert api.get("/v1/ping/localhost").status == 200
    client = api.get(f"/v1/disco/{PHONE}").json["disco"]
    assert {"category": "client", "type": "bot"}.items() <= client["identities"][0].items()
    assert "urn:xmpp:ping" in client["features"]
    server = api.get("/v1/disco/localhost").json["disco"]
    assert "server" in [one["category"] for one in server["identities"]]
    assert ROOMS in [one["jid"] for one in api.get("/v1/items/localhost").json["items"]]
    version = api.get(f"/v1/version/{PHONE}").json["version"]
    assert version["name"] == "Slixmpp"
    name = api.get("/v1/version/localhost").json["version"]["name"]
    assert name.lower() == world.server.name
    assert world.webhook.requests == []


def test_any_question(world: World, alice: User) -> None:
    """
    POST /v1/iq gets the answer of a real client, as JSON and as XML; what that refuses is 502 with the condition.
    """
    ask = {"to": PHONE, "from": BOT, "stanza": "<iq type='get' id='q1'><ping xmlns='urn:xmpp:ping'/></iq>"}
    told = world.gateway.api.post("/v1/iq", ask)
    assert (told.status, told.json["id"], told.json["type"], told.json["kind"]) == (200, "q1", "result", "iq")
    told = world.gateway.api.post("/v1/iq", ask, Accept=XMPP_XML)
    assert (told.status, told.headers["content-type"]) == (200, XMPP_XML) and b"type='result'" in told.body
    unknown = {"to": PHONE, "stanza": "<iq type='get'><unheard xmlns='urn:example:unheard'/></iq>"}
    told = world.gateway.api.post("/v1/iq", unknown)
    assert (told.status, told.headers["content-type"]) == (502, "application/problem+json")
    assert told.json["condition"] in ("feature-not-implemented", "service-unavailable")
    nobody = world.gateway.api.get("/v1/ping/alice@localhost/nowhere")
    assert (nobody.status, nobody.json["condition"]) == (502, "service-unavailable")
    assert world.webhook.requests == []


# ------------------------------------------------------------------------------------- replied later


def test_replies_to_a_message_come_later(world: World, alice: User) -> None:
    """
    A webhook that said 202 replies later, several times, and after a restart of the gateway too.
    """
    world.webhook.answer = lambda _: LATER
    alice.say(BOT, "think about it")
    [request] = world.webhook.wait_for(1)
    answer = world.link(request)
    assert answer({"body": "first"}).status == 202
    assert answer([{"state": "composing"}, {"body": "second"}]).status == 202
    message = came(alice, "second")
    assert (str(message["from"]), str(message["to"]), message["type"]) == (BOT, PHONE, "chat")
    assert [one["body"] for one in alice.messages if one["body"]] == ["first", "second"]
    once = answer({"body": "once"}, Idempotency_Key="k1")
    assert once.status == 202

    world.gateway.kill()
    world.start()
    assert answer({"body": "once"}, Idempotency_Key="k1").json == once.json
    assert answer({"body": "after the restart"}).status == 202
    came(alice, "after the restart")
    # What was not confirmed before the kill is sent again; nothing else is.
    bodies = [one["body"] for one in alice.messages if one["body"]]
    assert list(dict.fromkeys(bodies)) == ["first", "second", "once", "after the restart"]
    assert len({one["id"] for one in alice.messages if one["body"] == "once"}) == 1


def test_an_iq_is_answered_later(world: World, alice: User) -> None:
    """
    An iq that a webhook answered 202 gets one answer later, and a second one is 410.
    """
    told: list[Told] = []
    threads: list[threading.Thread] = []

    def later(request: Request) -> Answer:
        def think() -> None:
            # The header came with the request; whether the 202 is in by now does not matter.
            told.append(world.link(request)({"stanza": RAIN}, Idempotency_Key="k2"))
            told.append(world.link(request)({"stanza": RAIN}, Idempotency_Key="k2"))
            told.append(world.link(request)({"stanza": RAIN}))

        threads.append(threading.Timer(0.3, think))
        threads[-1].start()
        return LATER

    world.webhook.answer = later
    answer = alice.ask(BOT, WEATHER)
    assert (answer.get("type"), answer.get("from")) == ("result", BOT)
    assert answer.find("{urn:example:weather}weather/{urn:example:weather}rain") is not None
    for thread in threads:
        thread.join(PATIENCE)
    assert [one.status for one in told] == [202, 202, 410]
    assert told[0].json == told[1].json


def test_an_iq_that_nobody_answers(world: World, alice: User) -> None:
    """
    After its deadline the asker has an error, and the link is 410.
    """
    world.webhook.answer = lambda _: LATER
    answer = alice.ask(BOT, WEATHER)
    assert answer.get("type") == "error"
    assert stanza_error(answer)[1] in ("remote-server-timeout", "service-unavailable")
    [request] = world.webhook.wait_for(1)
    eventually(lambda: world.link(request)({"stanza": RAIN}).status == 410, "the end of the link")


def test_a_forged_link(world: World, alice: User) -> None:
    """
    A link in which anything was changed is 404, and nothing arrives.
    """
    world.webhook.answer = lambda _: LATER
    alice.say(BOT, "to me only")
    [request] = world.webhook.wait_for(1)
    path = re.sub(r"^http://[^/]+", "", request.headers["webhook-reply-url"])
    id, seal = request.headers["webhook-id"], path.partition("seal=")[2]
    facts, _, mac = seal.partition(".")
    other = "A" if facts[10] != "A" else "B"
    for forged in (
        path.replace(id, f"{id[:-1]}{'0' if id[-1] != '0' else '1'}"),
        path.replace(facts, f"{facts[:10]}{other}{facts[11:]}"),
        path.replace(mac, f"{mac[:5]}{'A' if mac[5] != 'A' else 'B'}{mac[6:]}"),
        path.replace(f".{mac}", ""),
        path.partition("?")[0],
    ):
        assert forged != path
        told = world.gateway.api.post(forged, {"body": "forged"})
        assert (told.status, told.headers["content-type"]) == (404, "application/problem+json"), forged
    assert world.gateway.api.post(path, {"body": "genuine"}).status == 202
    came(alice, "genuine")
    assert "forged" not in [one["body"] for one in alice.messages]


# ------------------------------------------------------------------------------------- programs of others


def run(world: World, *command: str) -> str:
    """
    Let a program send something to where URL and HOOK say, with TOKEN.

    Returns:
        What it printed.
    """
    base = f"http://127.0.0.1:{world.gateway.port}"
    environment = {
        **os.environ,
        "URL": f"{base}/v1/messages",
        "HOOK": f"{base}/hooks/{HOOK}",
        "TOKEN": TOKEN,
        "no_proxy": "*",
    }
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_curl(world: World, alice: User) -> None:
    """
    A line of curl is a message.
    """
    curl = f"{need('curl', 'curl')} -sS $URL -u ops:$TOKEN -H 'Content-Type: {JSON}'"
    told = run(world, "sh", "-c", f"""{curl} -d '{{"to": "{ALICE}", "body": "h\u00e9llo from curl"}}'""")
    message = came(alice, "h\u00e9llo from curl")
    assert json.loads(told) == {"ids": [message["id"]]}


def test_requests(world: World, alice: User) -> None:
    """
    Python's requests sends one.
    """
    if find_spec("requests") is None:
        unusable("requests is not installed (pip install requests)")
    program = (
        "import os, requests\n"
        f"message = {{'to': '{ALICE}', 'body': 'h\u00e9llo from requests'}}\n"
        "print(requests.post(os.environ['URL'], json=message, auth=('ops', os.environ['TOKEN'])).status_code)"
    )
    assert run(world, sys.executable, "-c", program) == "202"
    came(alice, "h\u00e9llo from requests")


def test_fetch(world: World, alice: User) -> None:
    """
    Node's fetch sends one.
    """
    program = (
        "fetch(process.env.URL, {method: 'POST',"
        f" body: JSON.stringify({{to: '{ALICE}', body: 'h\u00e9llo from fetch'}}),"
        " headers: {'Content-Type': 'application/json', Authorization: `Bearer ${process.env.TOKEN}`}})"
        ".then(response => console.log(response.status))"
    )
    assert run(world, need("node", "nodejs"), "-e", program) == "202"
    came(alice, "h\u00e9llo from fetch")


def test_alertmanager(world: World, alice: User) -> None:
    """
    What Alertmanager posts arrives as a text that a person can read.
    """
    curl = f"{need('curl', 'curl')} -sS $HOOK -H 'Content-Type: {JSON}' -d '{json.dumps(ALERT)}'"
    assert run(world, "sh", "-c", curl) == "ok"
    message = alice.heard(lambda one: "InstanceDown" in one["body"], "the alert")
    lines = message["body"].splitlines()
    assert lines[0].startswith("CRITICAL: InstanceDown on db1.example.org:9100"), lines
    assert "db1 is down" in lines and any("RESOLVED" in line.upper() and "db2" in line for line in lines), lines
    assert not set("{}[]") & set(message["body"]), lines
