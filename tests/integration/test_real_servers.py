"""
A person with a real client, a real server, the real gateway process and somebody's webhook.

Every promise is kept on Prosody and on ejabberd.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.integration.between import PingEater
from tests.integration.probe import stanza_error
from tests.integration.processes import Answer, GatewayProcess, Request, ScriptedWebhook, reply
from tests.integration.servers import DOMAINS, SERVERS, USERS, Server
from tests.integration.user import User
from tests.integration.waiting import eventually

BOT = "bot@bot.localhost"
ONLINE = f"{BOT}/default"
ALICE = "alice@localhost/phone"

WELLKNOWN = {"urn:xmpp:ping", "jabber:iq:version", "jabber:iq:last", "urn:xmpp:time"}


def bot(request: Request) -> Answer:
    """The webhook of this module: an echo bot with a few more words."""
    asked = request.json
    if asked["kind"] == "iq":
        if "urn:example:weather" in asked["stanza"]:
            weather = "<weather xmlns='urn:example:weather'><rain/></weather>"
            return reply(stanza=f"<iq type='result'>{weather}</iq>")
        if "urn:example:nothing" in asked["stanza"]:
            return Answer(status=204, content_type=None)
        return Answer(status=404)
    if "body" not in asked:
        return Answer(status=204, content_type=None)
    if asked["body"] == "break":
        return Answer(status=500, content_type="text/html", body="<h1>Oops</h1>")
    if asked["body"] == "twice":
        return reply([{"body": "one"}, {"body": "two", "type": "normal"}])
    return reply(body=f"You said: {asked['body']}")


class World:
    """One server, a bot as the README starts one, a second component that is asked everything, and one webhook."""

    def __init__(self, server: str, stack: ExitStack) -> None:
        self.server: Server = stack.enter_context(
            SERVERS[server]({**DOMAINS, "spare.localhost": "secret of the spare one"})
        )
        self.webhook = stack.enter_context(ScriptedWebhook(bot))
        self.stack = stack
        self.gateway = self.start_gateway("bot.localhost")
        self.forwards_all = self.start_gateway("all.localhost", "--stanzas", "message,presence,iq")
        self.gateway.wait_until_authenticated()
        self.forwards_all.wait_until_authenticated()

    def start_gateway(
        self,
        domain: str,
        *arguments: str,
        secret: str | None = None,
        server: str | None = None,
        sections: Mapping[str, Mapping[str, object]] | None = None,
    ) -> GatewayProcess:
        """Start one more gateway; it ends with the module at the latest."""
        return self.stack.enter_context(
            GatewayProcess(
                domain=domain,
                server=server or self.server.endpoint,
                secret=self.server.domains[domain] if secret is None else secret,
                post_url=self.webhook.url,
                arguments=arguments,
                sections=sections,
            )
        )


@pytest.fixture(scope="module", params=sorted(SERVERS, reverse=True))
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with ExitStack() as stack:
        built = World(request.param, stack)
        yield built
        for gateway in (built.gateway, built.forwards_all):
            gateway.stop()


@pytest.fixture
def alice(world: World) -> Iterator[User]:
    with User("alice@localhost", USERS["alice"], world.server.client_port) as user:
        user.log_in()
        yield user


def test_adding_the_bot_shows_it_online(alice: User) -> None:
    """
    A person who adds the bot has it in the contact list at once, accepted and online.
    """
    alice.presence(BOT, "subscribe")
    alice.saw(ONLINE, "available")
    eventually(lambda: alice.subscription(BOT) == "to", "the bot's consent in the roster")


def test_the_bot_is_online_again_after_the_next_login(alice: User) -> None:
    """
    A person who logs out and in again sees the bot online again.
    """
    alice.presence(BOT, "subscribe")
    alice.saw(ONLINE, "available")
    alice.log_out()
    alice.log_in()
    alice.saw(ONLINE, "available")


def test_removing_the_bot_shows_it_offline(alice: User) -> None:
    """
    A person who removes the bot sees it go.
    """
    alice.presence("other@bot.localhost", "subscribe")
    alice.saw("other@bot.localhost/default", "available")
    alice.presence("other@bot.localhost", "unsubscribe")
    alice.saw("other@bot.localhost/default", "unavailable")
    eventually(lambda: alice.subscription("other@bot.localhost") == "none", "the end of the subscription")


def test_the_component_itself_can_be_added(alice: User) -> None:
    """
    A person who adds the bare domain, as a gateway's users do, sees that online too.
    """
    alice.presence("bot.localhost", "subscribe")
    alice.saw("bot.localhost/default", "available")


def test_chat_is_answered_from_the_address_that_was_asked(world: World, alice: User) -> None:
    """
    A chat message gets its reply as chat, from the bot to the very client that asked.
    """
    world.webhook.take()
    id = alice.say(BOT, "hello <&> 😀")
    answer = alice.heard(lambda one: one["body"] == "You said: hello <&> 😀", "the reply")
    assert (answer["type"], str(answer["from"]), str(answer["to"])) == ("chat", BOT, ALICE)
    assert answer["id"] not in ("", id)
    (request,) = [one.json for one in world.webhook.take()]
    facts = {name: request[name] for name in ("to", "from", "kind", "body", "type", "id")}
    assert facts == {"to": BOT, "from": ALICE, "kind": "message", "body": "hello <&> 😀", "type": "chat", "id": id}


def test_several_replies_come_in_order(alice: User) -> None:
    """
    A bot that gives two replies is heard twice, in its order, each of the type it chose.
    """
    alice.say(BOT, "twice")
    alice.heard(lambda one: one["body"] == "two", "the second reply")
    assert [(one["body"], one["type"]) for one in alice.messages] == [("one", "chat"), ("two", "normal")]


def test_any_name_at_the_domain_is_the_bot(alice: User) -> None:
    """
    A message to any address of the component is answered from there.
    """
    for address in ("bot.localhost", "somebody@bot.localhost", "somebody@bot.localhost/somewhere"):
        alice.say(address, f"to {address}")
        answer = alice.heard(lambda one, text=f"You said: to {address}": one["body"] == text, "the reply")
        assert str(answer["from"]) == address


def test_a_failing_webhook_is_a_stanza_error(alice: User) -> None:
    """
    A person whose message the webhook answers with 500 is told so, about that message.
    """
    id = alice.say(BOT, "break")
    answer = alice.heard(lambda one: one["type"] == "error", "the error")
    assert (answer["id"], str(answer["from"]), str(answer["to"])) == (id, BOT, ALICE)
    assert stanza_error(answer.xml) == ("cancel", "internal-server-error")


def test_disco_tells_the_component_from_its_bots(alice: User) -> None:
    """
    Service discovery shows the domain as a component and an address in it as a bot, with what they can.
    """
    identities, features = alice.disco("bot.localhost")
    assert {category for category, _ in identities} == {"component"}
    assert features >= WELLKNOWN
    identities, features = alice.disco(BOT)
    assert identities == {("client", "bot")}
    assert features >= WELLKNOWN


def test_a_giant_question_is_answered(alice: User) -> None:
    """
    A question that is almost as large as a stanza may be gets its error, and the bot goes on.
    """
    for node in ("x" * 261_900, "&amp;" * 52_380):
        for to in ("bot.localhost", "all.localhost"):
            query = f"<query xmlns='http://jabber.org/protocol/disco#info' node='{node}'/>"
            assert stanza_error(alice.ask(to, query)) == ("cancel", "item-not-found")
        other = f"<other xmlns='urn:example:other' of='{node}'/>"
        assert stanza_error(alice.ask("bot.localhost", other)) == ("cancel", "service-unavailable")
        assert stanza_error(alice.ask("all.localhost", other)) == ("cancel", "item-not-found")
    alice.ping("bot.localhost")


def test_disco_items_are_answered(alice: User) -> None:
    """
    A client that looks through the server finds no dead end at the component.
    """
    answer = alice.ask("bot.localhost", "<query xmlns='http://jabber.org/protocol/disco#items'/>")
    assert answer.get("type") == "result"


@pytest.mark.parametrize("address", ["bot.localhost", BOT, ONLINE, "bot@all.localhost"])
def test_a_ping_comes_back(alice: User, address: str) -> None:
    """
    A client's ping is answered at every address of the component, also where iqs go to the webhook.
    """
    alice.ping(address)


def test_the_version_is_told(alice: User) -> None:
    """
    A client that asks what software this is learns its name and version.
    """
    name, version = alice.version("bot.localhost")
    assert name == "component-http"
    assert version


@pytest.mark.parametrize(
    ("payload", "name"),
    [
        ("<query xmlns='jabber:iq:last'/>", "{jabber:iq:last}query"),
        ("<time xmlns='urn:xmpp:time'/>", "{urn:xmpp:time}time"),
    ],
)
def test_last_activity_and_time_are_told(alice: User, payload: str, name: str) -> None:
    """
    A client that asks for last activity or the time gets an answer of that kind.
    """
    answer = alice.ask(BOT, payload)
    assert answer.get("type") == "result"
    assert answer.find(name) is not None


def test_an_unknown_iq_is_refused_where_iqs_are_not_forwarded(alice: User) -> None:
    """
    A client that asks the default gateway something unknown is told that there is no such service, not left waiting.
    """
    answer = alice.ask(BOT, "<weather xmlns='urn:example:weather'/>")
    assert (answer.get("type"), stanza_error(answer)) == ("error", ("cancel", "service-unavailable"))


def test_an_iq_is_answered_by_the_webhook(world: World, alice: User) -> None:
    """
    With iq forwarded a client's own protocol reaches the webhook, and its answer the client.
    """
    world.webhook.take()
    answer = alice.ask("bot@all.localhost", "<weather xmlns='urn:example:weather'/>")
    assert (answer.get("type"), answer.get("from")) == ("result", "bot@all.localhost")
    weather = answer.find("{urn:example:weather}weather")
    assert weather is not None and weather.find("{urn:example:weather}rain") is not None
    (request,) = world.webhook.take()
    assert (request.json["kind"], request.json["type"], request.json["from"]) == ("iq", "get", ALICE)


def test_an_iq_without_content_is_an_empty_result(alice: User) -> None:
    """
    A webhook that has nothing to say to an iq has still answered it.
    """
    answer = alice.ask("bot@all.localhost", "<nothing xmlns='urn:example:nothing'/>", "set")
    assert (answer.get("type"), len(answer)) == ("result", 0)


def test_an_iq_that_the_webhook_does_not_know_is_an_error(alice: User) -> None:
    """
    A webhook's 404 is an error to the client that asked.
    """
    answer = alice.ask("bot@all.localhost", "<other xmlns='urn:example:other'/>")
    assert (answer.get("type"), stanza_error(answer)) == ("error", ("cancel", "item-not-found"))


def test_after_a_restart_of_the_server_all_is_as_before(world: World) -> None:
    """
    When the server was restarted the gateway is back by itself: the bot is online and answers.
    """
    seen = world.gateway.log().count("authenticated as bot.localhost")
    with User("alice@localhost", USERS["alice"], world.server.client_port) as user:
        user.log_in()
        user.presence(BOT, "subscribe")
        user.saw(ONLINE, "available")
    world.server.restart()
    world.gateway.wait_until_authenticated(times=seen + 1, seconds=90.0)
    world.forwards_all.wait_until_authenticated(times=seen + 1, seconds=90.0)
    with User("alice@localhost", USERS["alice"], world.server.client_port) as user:
        user.log_in()
        user.saw(ONLINE, "available")
        user.say(BOT, "still there?")
        user.heard(lambda one: one["body"] == "You said: still there?", "the reply")
    world.gateway.assert_sound()


def test_the_server_says_what_it_has(world: World, alice: User) -> None:
    """
    A gateway's ping to itself comes back through the server, so it knows that its replies were received.
    """
    gateway = world.start_gateway("spare.localhost")
    gateway.wait_until_authenticated()
    alice.say("bot@spare.localhost", "hello")
    alice.heard(lambda one: one["body"] == "You said: hello", "the reply")
    gateway.stop()
    [summary] = gateway.lines("stopped; in all")
    assert "barrier_returned" in summary and "barrier_ignored" not in summary and "outgoing_lost" not in summary
    assert gateway.warnings() == []


def test_the_server_itself_says_what_it_has(world: World, alice: User) -> None:
    """
    Where the ping to itself does not come back, the server's own domain answers one, and nothing is sent twice.
    """
    with PingEater(world.server.component_port, "spare.localhost") as between:
        gateway = world.start_gateway("spare.localhost", server=between.endpoint)
        gateway.wait_until_authenticated()
        alice.say("bot@spare.localhost", "hello")
        alice.heard(lambda one: one["body"] == "You said: hello", "the reply")
        gateway.wait_for_log("pings to localhost confirm delivery")
        assert between.eaten == 1
        between.cut()
        gateway.wait_until_authenticated(times=2)
        alice.say("bot@spare.localhost", "hello again")
        alice.heard(lambda one: one["body"] == "You said: hello again", "the reply")
        assert [one["body"] for one in alice.messages] == ["You said: hello", "You said: hello again"]
        gateway.stop()
        assert between.eaten == 1, "the address that has answered was not remembered"
    [summary] = gateway.lines("stopped; in all")
    assert "barrier_returned" in summary and "barrier_ignored" not in summary and "outgoing_lost" not in summary


def test_the_bot_is_online_again_after_a_kill(world: World, alice: User, tmp_path: Path) -> None:
    """
    When the gateway was killed and started again, a person who has the bot sees it online, and need not ask.
    """
    path = tmp_path / "spool.sqlite3"
    spool = {"spool": {"kind": "sqlite", "path": str(path)}}

    def kept() -> int:
        with closing(sqlite3.connect(path, timeout=10)) as connection:
            return len(connection.execute("SELECT * FROM subscribers").fetchall())

    gateway = world.start_gateway("spare.localhost", sections=spool)
    gateway.wait_until_authenticated()
    for address in ("bot@spare.localhost", "gone@spare.localhost"):
        alice.presence(address, "subscribe")
        alice.saw(f"{address}/default", "available")
    alice.presence("gone@spare.localhost", "unsubscribe")
    alice.saw("gone@spare.localhost/default", "unavailable")
    eventually(lambda: kept() == 1, "one subscriber in the spool", detail=gateway.log)
    gateway.kill()
    alice.forget()

    gateway = world.start_gateway("spare.localhost", sections=spool)
    alice.saw("bot@spare.localhost/default", "available")
    gateway.stop()
    [summary] = gateway.lines("stopped; in all")
    assert "announced 1" in summary
    assert [str(one["from"]) for one in alice.presences] == ["bot@spare.localhost/default"]


def turned_away(world: World, domain: str, secret: str) -> GatewayProcess:
    """
    Returns:
        A gateway that the server has turned away again and again.
    """
    before = world.server.component_connections()
    gateway = world.start_gateway(domain, secret=secret)
    eventually(
        lambda: world.server.component_connections() >= before + 3,
        "the gateway's third connection",
        seconds=90.0,
        detail=gateway.log,
    )
    gateway.assert_sound()
    return gateway


def test_a_wrong_secret_is_said_once_with_what_to_do(world: World) -> None:
    """
    An operator who mistyped the secret reads so once, with where to look, while the gateway keeps trying.
    """
    gateway = turned_away(world, "spare.localhost", "mistyped")
    (line,) = gateway.warnings()
    assert "not-authorized" in line and "secret" in line and "spare.localhost" in line
    assert "mistyped" not in gateway.log()
    gateway.stop()


def test_an_unknown_domain_is_said_once_with_what_to_do(world: World) -> None:
    """
    An operator whose server does not know the component reads so once, with what to add to which configuration.

    ejabberd calls that not-authorized, as it calls a wrong secret.
    """
    gateway = turned_away(world, "nowhere.localhost", "whatever")
    (line,) = gateway.warnings()
    word, remedy = {
        "prosody": ("host-unknown", 'add Component "nowhere.localhost" at the end of prosody.cfg.lua'),
        "ejabberd": ("not-authorized", "needs nowhere.localhost: below hosts:"),
    }[world.server.name]
    assert word in line and remedy in line
    gateway.stop()


def test_a_taken_domain_is_said_once_with_what_to_do(world: World) -> None:
    """
    An operator who runs a second gateway, or takes the name of the users' own domain, reads so once.

    Prosody refuses the second of two components; ejabberd shares a domain among several, but not its own.
    """
    if world.server.name == "prosody":
        with world.server.probe("spare.localhost") as holder:
            gateway = turned_away(world, "spare.localhost", world.server.domains["spare.localhost"])
            assert not holder.gone
        gateway.wait_until_authenticated(seconds=90.0)
    else:
        gateway = turned_away(world, "localhost", "whatever")
    (line,) = gateway.warnings()
    assert "conflict" in line
    gateway.stop()


def test_replies_of_the_last_moment_are_sent_before_the_end(world: World, alice: User) -> None:
    """
    A message that is at the webhook when the gateway is told to stop is still answered.
    """
    gateway = world.start_gateway("spare.localhost")
    gateway.wait_until_authenticated()
    world.webhook.take()
    arrived, go_on = threading.Event(), threading.Event()

    def slow(request: Request) -> Answer:
        arrived.set()
        go_on.wait(10.0)
        return reply(body="just in time")

    world.webhook.answer = slow
    try:
        alice.say("bot@spare.localhost", "hurry")
        assert arrived.wait(10.0)
        os.kill(gateway.pid, signal.SIGTERM)
        gateway.wait_for_log("for pending deliveries: 1")
        go_on.set()
        alice.heard(lambda one: one["body"] == "just in time", "the last reply")
    finally:
        go_on.set()
        world.webhook.answer = bot
    assert gateway.wait() in (0, -signal.SIGTERM)
