"""
Bots in the chat rooms of real servers, and bots that answer each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.integration.between import MarkEater
from tests.integration.processes import NO_REPLY, Answer, GatewayProcess, Request, ScriptedWebhook, reply
from tests.integration.servers import ROOMS, SERVERS, USERS, Server
from tests.integration.user import User
from tests.integration.waiting import eventually

BOT = "bot@bot.localhost"
EAGER_BOT = "bot@all.localhost"
NICK = "echo"
JOIN = "<presence to='{}'><x xmlns='http://jabber.org/protocol/muc'/></presence>"


def bot(request: Request) -> Answer:
    """An echo bot that enters the room it is told to enter."""
    asked = request.json
    if asked["kind"] == "presence":
        invited = "room for you" in asked.get("status", "")
        return reply(stanza=JOIN.format(asked["status"].split()[-1])) if invited else NO_REPLY
    if "<invite from=" in asked["stanza"]:
        return reply(stanza=JOIN.format(f"{asked['from']}/{NICK}"))
    text = asked.get("body")
    if text is None or asked.get("type") == "error":
        return NO_REPLY
    if text.startswith("join "):
        return reply([{"stanza": JOIN.format(text.split()[-1])}])
    return Answer(status=500) if text == "break" else reply(body=f"You said: {text}")


def said_in(room: str, requests: list[Request]) -> list[str]:
    """The texts that a webhook got from a room."""
    return [one.json["body"] for one in requests if one.json["from"].startswith(room) and "body" in one.json]


class World:
    """One server, and gateways that share a webhook as the test needs them."""

    def __init__(self, server: str, stack: ExitStack) -> None:
        self.server: Server = stack.enter_context(SERVERS[server]())
        self.webhook = stack.enter_context(ScriptedWebhook(bot))

    def gateway(
        self, stack: ExitStack, domain: str, *, endpoint: str | None = None, **settings: dict[str, object]
    ) -> GatewayProcess:
        """Start a gateway, and wait until it is connected, to this endpoint instead of the server's."""
        gateway = GatewayProcess(
            domain=domain,
            server=endpoint or self.server.endpoint,
            secret=self.server.domains[domain],
            post_url=self.webhook.url,
            sections=settings,
        )
        stack.enter_context(gateway)
        gateway.wait_until_authenticated()
        return gateway


@pytest.fixture(scope="module", params=sorted(SERVERS, reverse=True))
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(request.param, stack)


@pytest.fixture
def start(world: World) -> Iterator[Callable[..., GatewayProcess]]:
    """Starts gateways that are stopped, and seen to be sound, when the test is over."""
    started: list[GatewayProcess] = []
    with ExitStack() as stack:

        def start(domain: str, **settings: dict[str, object]) -> GatewayProcess:
            started.append(world.gateway(stack, domain, **settings))
            return started[-1]

        yield start
        for gateway in started:
            gateway.stop()


@pytest.fixture
def alice(world: World) -> Iterator[User]:
    with User("alice@localhost", USERS["alice"], world.server.client_port) as user:
        user.log_in()
        world.webhook.take()
        yield user


@pytest.fixture
def room(request: pytest.FixtureRequest) -> str:
    """A room of the test's own."""
    return re.sub(r"\W+", "-", request.node.originalname) + f"@{ROOMS}"


def bring(alice: User, room: str) -> None:
    """Tell the bot to enter a room, and wait until it is seen there."""
    alice.say(BOT, f"join {room}/{NICK}")
    alice.saw(f"{room}/{NICK}", "available")


def ask(alice: User, room: str, text: str) -> None:
    """Say something in a room, and wait for the echo."""
    alice.say(room, text, "groupchat")
    answer = alice.heard(lambda one: one["body"] == f"You said: {text}", "the echo in the room")
    assert (str(answer["from"]), answer["type"]) == (f"{room}/{NICK}", "groupchat")


def test_a_bot_in_a_room_answers_once_and_never_itself(
    world: World, start: Callable[..., GatewayProcess], alice: User, room: str
) -> None:
    """
    An echo bot in a room answers each message of a person once, and its own ones never.

    What the room sent back of the first answer had come to the bot before the second question.
    """
    start("bot.localhost")
    alice.join(room, "alice")
    bring(alice, room)
    ask(alice, room, "one")
    ask(alice, room, "two")
    assert said_in(room, world.webhook.take()) == ["one", "two"]
    echoes = [one["body"] for one in alice.messages if one["from"] == f"{room}/{NICK}"]
    assert echoes == ["You said: one", "You said: two"]


def test_what_was_said_before_is_not_answered(
    world: World, start: Callable[..., GatewayProcess], alice: User, room: str
) -> None:
    """
    A bot that enters a room in which people talk answers only what they say from then on.
    """
    start("bot.localhost")
    alice.join(room, "alice")
    alice.say(room, "long ago", "groupchat")
    alice.heard(lambda one: one["body"] == "long ago", "what was said")
    bring(alice, room)
    ask(alice, room, "now")
    assert said_in(room, world.webhook.take()) == ["now"]


def test_what_was_said_before_can_be_asked_for(
    world: World, start: Callable[..., GatewayProcess], alice: User, room: str
) -> None:
    """
    With forward_history a bot gets what was said before it came, with the time of it.
    """
    start("bot.localhost", component={"forward_history": True})
    alice.join(room, "alice")
    alice.say(room, "long ago", "groupchat")
    alice.heard(lambda one: one["body"] == "long ago", "what was said")
    bring(alice, room)
    alice.heard(lambda one: one["body"] == "You said: long ago", "an answer to the past")
    (request,) = [one for one in world.webhook.take() if one.json.get("body") == "long ago"]
    assert request.json["delay"].startswith("20")


def test_a_bot_that_gets_presence_enters_and_answers_once(
    world: World, start: Callable[..., GatewayProcess], alice: User, room: str
) -> None:
    """
    With presence forwarded a bot may enter a room in answer to presence, and then does not hear itself either.
    """
    start("all.localhost", component={"component_post_stanzas": ["message", "presence"]})
    alice.join(room, "alice")
    alice.show(EAGER_BOT, f"room for you: {room}/{NICK}")
    alice.saw(f"{room}/{NICK}", "available")
    ask(alice, room, "one")
    ask(alice, room, "two")
    requests = world.webhook.take()
    assert said_in(room, requests) == ["one", "two"]
    seen = {one.json["from"] for one in requests if one.json["kind"] == "presence"}
    assert f"{room}/{NICK}" in seen


def test_a_bot_that_answers_presence_with_words_does_not_talk_to_itself(
    world: World, start: Callable[..., GatewayProcess], alice: User, room: str
) -> None:
    """
    A bot that says something to whoever comes into the room, itself included, does not hear what it told itself.
    """
    start("all.localhost", component={"component_post_stanzas": ["message", "presence"]})
    alice.join(room, "alice")

    def polite(request: Request) -> Answer:
        asked = request.json
        came = asked["kind"] == "presence" and asked["from"].startswith(f"{room}/") and "type" not in asked
        return reply(body="Welcome!") if came else bot(request)

    world.webhook.answer = polite
    try:
        alice.show(EAGER_BOT, f"room for you: {room}/{NICK}")
        alice.heard(lambda one: one["body"] == "Welcome!" and one["type"] == "chat", "a private welcome")
        ask(alice, room, "one")
        ask(alice, room, "two")
        assert said_in(room, world.webhook.take()) == ["one", "two"]
    finally:
        world.webhook.answer = bot


def test_an_invitation_brings_a_bot_into_a_room(
    world: World, start: Callable[..., GatewayProcess], alice: User, room: str
) -> None:
    """
    A room's invitation reaches the webhook as a message of the room, with a body for people, and the bot enters.
    """
    start("bot.localhost")
    alice.join(room, "alice")
    alice.invite(room, BOT)
    alice.saw(f"{room}/{NICK}", "available")
    # What the room says to somebody who is in, its subject for instance, may have come by now as well.
    from_room = [one.json for one in world.webhook.take() if one.json["from"] == room]
    [invitation] = [one for one in from_room if "<invite " in one["stanza"]]
    assert room in invitation["body"]
    ask(alice, room, "hello")


def test_a_failing_webhook_does_not_get_the_bot_thrown_out(
    world: World, start: Callable[..., GatewayProcess], alice: User, room: str
) -> None:
    """
    A message that the webhook failed on is not answered, and the bot stays in the room.
    """
    start("bot.localhost")
    alice.join(room, "alice")
    bring(alice, room)
    alice.say(room, "break", "groupchat")
    ask(alice, room, "one")
    assert said_in(room, world.webhook.take()) == ["break", "one"]


def test_a_private_message_is_not_answered_by_an_error(world: World, alice: User, room: str) -> None:
    """
    A private message without a mark that the webhook failed on is not answered, and the bot stays in the room: after
    it has entered, after a restart of the gateway, and where the message is too large.
    """
    occupant = f"{room}/{NICK}"
    with MarkEater(world.server.component_port) as between:
        for bodies in (("break", "x" * 262_200), ("break",)):
            with ExitStack() as stack:
                gateway = world.gateway(stack, "bot.localhost", endpoint=between.endpoint)
                if len(bodies) > 1:
                    alice.join(room, "alice")
                    bring(alice, room)
                ask(alice, room, f"{len(bodies)}")
                for body in bodies:
                    alice.say(occupant, body)
                alice.say(occupant, "psst")
                answer = alice.heard(lambda one: one["body"] == "You said: psst", "the private answer")
                assert (str(answer["from"]), answer["type"]) == (occupant, "chat")
                ask(alice, room, f"{len(bodies)} again")
                gateway.stop()
                alice.messages.remove(answer)
        assert between.eaten >= 4
    said = [one.json["body"] for one in world.webhook.take() if one.json["from"] == f"{room}/alice"]
    assert said == ["2", "break", "psst", "2 again", "1", "break", "psst", "1 again"]
    assert [one["from"] for one in alice.messages if one["type"] == "error"] == []
    assert [one["from"] for one in alice.presences if one["type"] == "unavailable"] == []


def test_another_nick_than_asked_for(
    world: World, start: Callable[..., GatewayProcess], alice: User, room: str
) -> None:
    """
    A bot that was refused a person's nick hears that person afterwards, and not itself.
    """
    start("bot.localhost")
    alice.join(room, "alice")
    alice.say(BOT, f"join {room}/alice")
    bring(alice, room)
    ask(alice, room, "one")
    ask(alice, room, "two")
    assert said_in(room, world.webhook.take()) == ["one", "two"]


def test_two_bots_that_answer_each_other_come_to_an_end(
    world: World, start: Callable[..., GatewayProcess], alice: User
) -> None:
    """
    With loop_guard two bots fall silent after five answers each, and people are answered as before.
    """
    guarded = {"loop_guard": "5/600s"}
    start("bot.localhost", delivery=guarded)
    other = start("all.localhost", delivery=guarded)

    def talkative(request: Request) -> Answer:
        if request.json["body"] == "begin":
            return reply(to=EAGER_BOT, body="hello")
        return reply(body=f"re: {request.json['body']}"[:100])

    world.webhook.answer = talkative
    try:
        alice.say(BOT, "begin")
        other.wait_for_log("held back")
        for address in (BOT, EAGER_BOT):
            alice.say(address, "still there?")
            alice.heard(lambda one, who=address: one["from"] == who, f"the answer of {address}")
        between = [one.json for one in world.webhook.take() if one.json["from"] in (BOT, EAGER_BOT)]
    finally:
        world.webhook.answer = bot
    assert [one["to"] for one in between] == [EAGER_BOT, BOT] * 5 + [EAGER_BOT]


def test_two_echo_bots_are_slowed_down(world: World, start: Callable[..., GatewayProcess], alice: User) -> None:
    """
    Without any setting two gateways whose bots repeat each other soon slow down, and people are answered as before.
    """
    both = [start("bot.localhost"), start("all.localhost")]

    def echo(request: Request) -> Answer:
        if request.json["body"] == "begin":
            return reply(to=EAGER_BOT, body="hello")
        return reply(body=request.json["body"])

    world.webhook.answer = echo
    try:
        alice.say(BOT, "begin")
        # One of them is enough: where the other side waits already, there is nothing left to slow down.
        eventually(lambda: any("answer each other" in each.log() for each in both), "a loop in one of the logs")
        world.webhook.take()
        for address in (BOT, EAGER_BOT):
            alice.say(address, "still there?")
            alice.heard(lambda one, who=address: one["from"] == who, f"the answer of {address}")
    finally:
        world.webhook.answer = bot
