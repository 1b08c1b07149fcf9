"""
Messages that the API and hooks send into the chat rooms of real servers.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from tests.integration.api_gateway import HOOK, ApiGateway
from tests.integration.processes import NO_REPLY, Answer, Request, ScriptedWebhook
from tests.integration.servers import ROOMS, SERVERS, USERS, Server, free_port
from tests.integration.user import User
from tests.integration.waiting import eventually

BOT = "bot@bot.localhost"
ALERT = {
    "version": "4",
    "alerts": [
        {
            "status": "firing",
            "labels": {"alertname": "InstanceDown", "instance": "db1", "severity": "critical"},
            "annotations": {"summary": "db1 is down"},
        }
    ],
}
OWNER = "http://jabber.org/protocol/muc#owner"
ADMIN = "http://jabber.org/protocol/muc#admin"


def nothing(request: Request) -> Answer:
    """A webhook that has nothing to say."""
    return NO_REPLY


class World:
    """One server and one webhook."""

    def __init__(self, server: str, stack: ExitStack) -> None:
        self.server: Server = stack.enter_context(SERVERS[server]())
        self.webhook = stack.enter_context(ScriptedWebhook(nothing))


@pytest.fixture(scope="module", params=sorted(SERVERS, reverse=True))
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(request.param, stack)


@pytest.fixture
def room(request: pytest.FixtureRequest) -> str:
    """A room of the test's own."""
    return re.sub(r"\W+", "-", request.node.originalname) + f"@{ROOMS}"


@pytest.fixture
def alice(world: World) -> Iterator[User]:
    with User("alice@localhost", USERS["alice"], world.server.client_port) as user:
        user.log_in()
        world.webhook.take()
        yield user


@pytest.fixture
def start(world: World, room: str) -> Iterator[Callable[..., ApiGateway]]:
    """Starts gateways with a hook into the room; they are stopped, and seen to be sound, when the test is over."""
    started: list[ApiGateway] = []
    with ExitStack() as stack:

        def start(endpoint: str | None = None, **sections: Any) -> ApiGateway:
            hook = {
                "name": "alerts",
                "secret_file": "hook-secret",
                "to": room,
                "type": "groupchat",
                "template": "alertmanager",
            }
            gateway = ApiGateway(
                domain="bot.localhost",
                server=endpoint or world.server.endpoint,
                secret=world.server.domains["bot.localhost"],
                post_url=world.webhook.url,
                sections=sections,
                api={"hook": [hook]},
            )
            stack.enter_context(gateway)
            if endpoint is None:
                gateway.wait_until_authenticated()
            gateway.wait_until_open()
            started.append(gateway)
            return gateway

        yield start
        for gateway in started:
            if gateway.running:
                gateway.stop()


def said(text: str) -> Callable[[Any], bool]:
    return lambda one: text in one["body"]


def push(gateway: ApiGateway, room: str, text: str, **more: object) -> tuple[int, Any]:
    """Push a message into a room, and wait for what becomes of it."""
    told = gateway.api.post("/v1/messages?wait=sent", {"to": room, "type": "groupchat", "body": text, **more})
    return told.status, told.json


def configure(alice: User, room: str, **fields: str) -> None:
    """Set fields of a room's configuration, of which alice is the owner."""
    given = {"FORM_TYPE": "http://jabber.org/protocol/muc#roomconfig"}
    given |= {f"muc#roomconfig_{name}": value for name, value in fields.items()}
    inside = "".join(f"<field var='{name}'><value>{value}</value></field>" for name, value in given.items())
    form = f"<query xmlns='{OWNER}'><x xmlns='jabber:x:data' type='submit'>{inside}</x></query>"
    assert alice.ask(room, form, "set").get("type") == "result"


def test_alert(start: Callable[..., ApiGateway], world: World, alice: User, room: str) -> None:
    """
    The hook of the documentation: who stands in the room sees the alert, and a second one; nothing of what is said in
    the room comes to the webhook.
    """
    gateway = start(component={"component_post_stanzas": ["message", "presence"]})
    alice.join(room, "alice")
    for _ in range(2):
        told = gateway.api.post(f"/hooks/{HOOK}", ALERT)
        assert (told.status, told.body) == (200, b"ok"), told
    alert = alice.heard(said("InstanceDown on db1"), "the alert")
    assert str(alert["from"]) == f"{room}/bot"
    alice.say(room, "I look after it", "groupchat")
    alice.say(f"{room}/bot", "thank you")
    eventually(
        lambda: [one.json["body"] for one in world.webhook.requests if "body" in one.json] == ["thank you"], "it"
    )
    assert [one.json["from"] for one in world.webhook.take()] == [f"{room}/alice"]


def test_no_room(start: Callable[..., ApiGateway], alice: User, room: str) -> None:
    """
    A room that does not exist is not made by a message, unless the settings say so.
    """
    gateway = start()
    for _ in range(2):
        told = gateway.api.post(f"/hooks/{HOOK}", ALERT)
        assert told.status == 404, told
        assert f"there is no room {room}" in told.json["detail"]
        assert alice.ask(room, "<query xmlns='http://jabber.org/protocol/disco#info'/>").get("type") == "error"
    gateway.stop()
    gateway = start(component={"create_rooms": True, "nick": "watch"})
    assert push(gateway, room, "first!")[0] == 200
    alice.join(room, "alice")
    assert push(gateway, room, "second!")[0] == 200
    assert str(alice.heard(said("second!"), "the message")["from"]) == f"{room}/watch"


def test_taken_nick(start: Callable[..., ApiGateway], alice: User, room: str) -> None:
    """
    Where somebody has the nick, another one is taken.
    """
    gateway = start(component={"nick": "alice"})
    alice.join(room, "alice")
    assert push(gateway, room, "hello")[0] == 200
    assert str(alice.heard(said("hello"), "the message")["from"]) == f"{room}/alice-2"


def test_closed_rooms(start: Callable[..., ApiGateway], alice: User, room: str) -> None:
    """
    Rooms with a password, for members only, or that have banned the sender say what helps; the log says it, too.
    """
    gateway = start()
    password, members, banned = (f"{name}-{room}" for name in ("password", "members", "banned"))
    for each in (password, members, banned):
        alice.join(each, "alice")
    configure(alice, password, passwordprotectedroom="1", roomsecret="sesame")
    configure(alice, members, membersonly="1")
    ban = f"<query xmlns='{ADMIN}'><item affiliation='outcast' jid='bot.localhost'/></query>"
    assert alice.ask(banned, ban, "set").get("type") == "result"
    for each, word in ((password, "password"), (members, "members only"), (banned, "banned")):
        status, problem = push(gateway, each, "hello")
        assert (status, each in problem["detail"]) == (403, True), problem
        assert word in problem["detail"]
        gateway.wait_for_log(f"the room {each} does not let us in")
    assert push(gateway, f"room@nowhere.{ROOMS}", "hello")[0] == 404
    # By the webhook's own presence it works.
    join = (
        f"<presence from='bot.localhost' to='{password}/bot'><x xmlns='http://jabber.org/protocol/muc'>"
        "<password>sesame</password></x></presence>"
    )
    told = gateway.api.ask("POST", "/v1/stanzas", join.encode(), headers={"Content-Type": "application/xmpp+xml"})
    assert told.status == 202
    assert push(gateway, password, "hello")[0] == 200
    alice.heard(said("hello"), "the message")


def test_no_voice(start: Callable[..., ApiGateway], alice: User, room: str) -> None:
    """
    A room may let us in and take nothing from us: whoever waits hears it, and the message is a dead letter.
    """
    gateway = start()
    alice.join(room, "alice")
    configure(alice, room, moderatedroom="1", membersonly="0")
    mute = f"<query xmlns='{ADMIN}'><item role='visitor' nick='bot'/></query>"
    assert push(gateway, room, "hello")[0] in (200, 502)
    alice.ask(room, mute, "set")
    status, problem = push(gateway, room, "hello?")
    assert (status, problem["condition"]) == (502, "forbidden"), problem
    gateway.wait_for_log("a message that was pushed came back: forbidden")
    gateway.stop()
    with closing(sqlite3.connect(gateway.folder / "component-http.sqlite3")) as spool:
        letters = spool.execute("SELECT outcome, sender, note FROM letters").fetchall()
    assert letters[-1][:2] == ("reply_bounced", room)
    assert letters[-1][2].startswith("it came back: forbidden")


def test_nobody(start: Callable[..., ApiGateway]) -> None:
    """
    A message to somebody who does not exist comes back, and is not told as sent.
    """
    gateway = start()
    told = gateway.api.post("/v1/messages?wait=sent", {"to": "nobody@localhost", "body": "hello"})
    assert (told.status, told.json["condition"]) == (502, "service-unavailable"), told


def test_kicked(start: Callable[..., ApiGateway], alice: User, room: str) -> None:
    """
    Whoever was kicked out enters again for the next message; a stop says goodbye.
    """
    gateway = start()
    alice.join(room, "alice")
    assert push(gateway, room, "one")[0] == 200
    kick = f"<query xmlns='{ADMIN}'><item role='none' nick='bot'/></query>"
    assert alice.ask(room, kick, "set").get("type") == "result"
    gateway.wait_for_log("we are kicked out of it")
    alice.forget()
    assert push(gateway, room, "two")[0] == 200
    alice.heard(said("two"), "the message")
    gateway.stop()
    alice.saw(f"{room}/bot", "unavailable")


def test_server_restarts(start: Callable[..., ApiGateway], world: World, alice: User, room: str) -> None:
    """
    After a restart of the server the room is entered again, so that the next message arrives at once.
    """
    gateway = start()
    alice.join(room, "alice")
    configure(alice, room, persistentroom="1", membersonly="0")
    assert push(gateway, room, "one")[0] == 200
    world.server.restart()
    gateway.wait_for_log("entered the room", times=2, seconds=90)
    with User("bob@localhost", USERS["bob"], world.server.client_port) as bob:
        bob.log_in()
        bob.join(room, "bob")
        bob.saw(f"{room}/bot", "available")
        assert push(gateway, room, "two")[0] == 200
        bob.heard(said("two"), "the message")


def test_spool(start: Callable[..., ApiGateway], alice: User, room: str, tmp_path: Path) -> None:
    """
    A message that waits for the server in the spool enters the room when the gateway is started again.
    """
    path = str(tmp_path / "spool.sqlite3")
    alice.join(room, "alice")
    away = start(
        endpoint=f"tcp:127.0.0.1:{free_port()}",
        spool={"kind": "sqlite", "path": path},
        delivery={"drain_timeout": 0.5},
    )
    assert away.api.post(f"/hooks/{HOOK}", ALERT).body.startswith(b"ok, but the XMPP server has not confirmed it")
    away.stop()
    start(spool={"kind": "sqlite", "path": path})
    alice.heard(said("InstanceDown on db1"), "the alert")
