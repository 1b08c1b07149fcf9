"""Two programs that answer each other are slowed down, and nobody else."""

from __future__ import annotations

from itertools import count

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.xish.domish import Element

from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_COMPONENT
from component_http.delivery.loop_brake import CREDIT, ENOUGH, PACE, PAUSE, STRONG, LoopBrake

BOT = "bot@bot.example.org"
NS_RECEIPTS = "urn:xmpp:receipts"


class Peer:
    """
    Somebody who talks to the bot.

    Attributes:
        now: The clock.
        waited: How long each delivery had to wait that did.
        reply: What the bot said last.
        last_id: The id of that.
    """

    def __init__(self, brake: LoopBrake, address: str = "alice@example.org/phone") -> None:
        self.brake = brake
        self.address = address
        self.now = 1000.0
        self.ids = count(1)
        self.waited: list[float] = []
        self.reply = "hello"
        self.last_id = "first"
        self.bare = address.partition("/")[0]

    def says(self, text: str | None, *, naming: str | None = None, id_: str | None = None, type_: str = "chat") -> str:
        """A message arrives; returns its delivery's id."""
        delivery = f"d{next(self.ids)}"
        element = Element((NS_COMPONENT, "message"))
        element.attributes.update({"from": self.address, "to": BOT, "id": id_ or f"m{delivery}", "type": type_})
        if text is not None:
            element.addElement("body", content=text)
        if naming is not None:
            element.addElement((NS_RECEIPTS, "received"))["id"] = naming
        self.innocent = self.brake.heard(Stanza.from_element(element), delivery, self.now)
        return delivery

    def is_held(self, delivery: str) -> bool:
        """It is a delivery's turn; if it has to wait, it waits."""
        hold = self.brake.hold((self.bare, BOT, False), delivery, self.now)
        if hold is not None:
            self.now += hold.seconds
            self.waited.append(hold.seconds)
        return hold is not None

    def is_told(self, text: str, answers: str | None = None) -> None:
        """The bot says something."""
        self.reply, self.last_id = text, f"r{next(self.ids)}"
        self.brake.said((self.bare, BOT, False), text, self.last_id, self.now, answers=answers)

    def talks(self, rounds: int, peer=lambda reply: reply, bot=lambda text: text, gap: float = 0.01, with_id="") -> int:
        """
        Whoever is there answers each reply, and the bot answers each message.

        Args:
            rounds: How often.
            peer: Makes a text of a reply, or None.
            bot: Makes a reply of a text.
            gap: Seconds that the peer takes.
            with_id: The argument of `says` that is the id of the bot's last reply.

        Returns:
            The number of the first round that was held, or 0.
        """
        first = 0
        for number in range(1, rounds + 1):
            self.now += gap
            text = peer(self.reply)
            delivery = self.says(text, **({with_id: self.last_id} if with_id else {}))
            if self.is_held(delivery):
                first = first or number
            self.is_told(bot(text), delivery)
        return first


class LoopTests(SynchronousTestCase):
    """What is a loop."""

    def setUp(self) -> None:
        self.brake = LoopBrake()
        self.peer = Peer(self.brake)

    def test_bot_that_quotes(self) -> None:
        """
        A bot that says again what was said, with some words more, is slowed down after a dozen rounds.
        """
        first = self.peer.talks(40, bot=lambda text: f"You said: {text}")
        self.assertTrue(0 < first <= ENOUGH // STRONG + 3, first)

    def test_peer_that_quotes(self) -> None:
        """
        It is the same when it is the other one who quotes.
        """
        first = self.peer.talks(40, peer=lambda reply: f"> {reply}\nwhat?", bot=lambda text: f"I do not know {text}")
        self.assertTrue(0 < first <= ENOUGH // STRONG + 3, first)

    def test_two_components(self) -> None:
        """
        Two components whose bots repeat each other's text are slowed down after a dozen rounds.
        """
        first = Peer(self.brake, "echo@echo.example.net").talks(40)
        self.assertTrue(0 < first <= ENOUGH // STRONG + 3, first)

    def test_named_id(self) -> None:
        """
        A program that confirms each message, and gets a message for each confirmation, is slowed down.
        """
        first = self.peer.talks(40, peer=lambda reply: None, bot=lambda text: "thanks for that", with_id="naming")
        self.assertTrue(0 < first <= ENOUGH // STRONG + 3, first)

    def test_same_id_back(self) -> None:
        """
        A program that sends our own stanza back, with its id, is slowed down as soon.
        """
        self.assertTrue(0 < self.peer.talks(40, with_id="id_") <= ENOUGH // STRONG + 3)

    def test_clients_echo(self) -> None:
        """
        A client's echo bot could be a script; so that it is a loop takes ten times as many rounds.
        """
        first = self.peer.talks(ENOUGH + 10)
        self.assertTrue(ENOUGH <= first <= ENOUGH + 3, first)

    def test_pace(self) -> None:
        """
        From then on there is one request a second, and it stays so as long as they go on.
        """
        self.peer.talks(20, bot=lambda text: f"You said: {text}")
        self.peer.waited.clear()
        begin = self.peer.now
        self.peer.talks(50, bot=lambda text: f"You said: {text}")
        self.assertAlmostEqual(50 * PACE, self.peer.now - begin, delta=1.5)

    def test_slowed_by_the_other_side(self) -> None:
        """
        Where the other side answers once a second, because it has a guard as well, nothing more is to be done, and
        it is still a loop when that guard goes.
        """
        self.peer.talks(20, bot=lambda text: f"You said: {text}")
        self.peer.waited.clear()
        self.peer.talks(20, bot=lambda text: f"You said: {text}", gap=PACE)
        self.assertEqual([], [wait for wait in self.peer.waited if wait > 0.02])
        self.assertEqual(1, self.peer.talks(1, bot=lambda text: f"You said: {text}"))

    def test_pushed(self) -> None:
        """
        It is a loop, too, when the webhook replies through the API.
        """
        for _ in range(20):
            self.peer.now += 0.01
            held = self.peer.is_held(self.peer.says(self.peer.reply))
            self.peer.is_told(f"You said: {self.peer.reply}")
        self.assertTrue(held)

    def test_number(self) -> None:
        """
        The first delivery that waits is the first of its conversation, and the next the second.
        """
        self.peer.talks(11, bot=lambda text: f"You said: {text}")
        numbers = []
        for _ in range(20):
            delivery = self.peer.says(self.peer.reply)
            hold = self.brake.hold((self.peer.bare, BOT, False), delivery, self.peer.now)
            numbers += [hold.number] if hold else []
            self.peer.is_told(f"You said: {self.peer.reply}", delivery)
        self.assertEqual([1, 2, 3], numbers[:3])


class NoLoopTests(SynchronousTestCase):
    """What is none."""

    def setUp(self) -> None:
        self.brake = LoopBrake()
        self.peer = Peer(self.brake)

    def test_a_hundred_pings(self) -> None:
        """
        A script that sends "ping" a hundred times, each as soon as the echo of the one before is there, never waits.
        """
        self.assertEqual(0, self.peer.talks(100, peer=lambda reply: "ping"))

    def test_a_person(self) -> None:
        """
        Somebody who says the same every six seconds to a bot that echoes never waits, however long.
        """
        self.assertEqual(0, self.peer.talks(500, peer=lambda reply: "still there?", gap=PAUSE + 1))

    def test_numbered(self) -> None:
        """
        A load of numbered texts that waits for each echo never waits for anything else, however long it goes on.
        """
        for address in "alice@example.org/phone", "load.example.org":
            texts = (f"message {number}" for number in count())
            self.assertEqual(0, Peer(self.brake, address).talks(1000, peer=lambda reply, texts=texts: next(texts)))

    def test_short_replies(self) -> None:
        """
        A bot that says "ok" to texts that happen to contain it makes no loop.
        """
        texts = (f"token {number}" for number in count())
        self.assertEqual(0, self.peer.talks(1000, peer=lambda reply: next(texts), bot=lambda text: "ok"))

    def test_another_answer(self) -> None:
        """
        A bot that answers something else to the same text makes no loop.
        """
        self.assertEqual(0, self.peer.talks(1000, peer=lambda reply: "ping", bot=lambda text: "pong"))

    def test_window(self) -> None:
        """
        A load of one text, of which two or more are always unanswered, never waits.
        """
        for window in 2, 3, 10:
            peer = Peer(self.brake, f"load-{window}@example.org")
            waiting = [peer.says("hello") for _ in range(window)]
            for _ in range(1000):
                delivery = waiting.pop(0)
                self.assertFalse(peer.is_held(delivery))
                peer.is_told("hello", delivery)
                peer.now += 0.003
                waiting.append(peer.says("hello"))

    def test_confirmed_by_a_client(self) -> None:
        """
        A client that confirms each reply before its user says something new makes no loop.
        """
        for number in range(1000):
            self.peer.now += 0.01
            self.peer.says(None, naming=self.peer.last_id)
            delivery = self.peer.says(f"what is {number} times two?")
            self.assertFalse(self.peer.is_held(delivery))
            self.peer.is_told(str(number * 2), delivery)

    def test_fixed_rate(self) -> None:
        """
        A load of one text at a fixed rate, always answered before the next, waits for its next message at most once
        in a thousand.
        """
        waits = 0
        delivery = self.peer.says("hello")
        for _ in range(5000):
            hold = self.brake.hold((self.peer.bare, BOT, False), delivery, self.peer.now)
            answered = hold is None
            if answered:
                self.peer.is_told("hello", delivery)
            else:
                waits += 1
                self.assertEqual(1, hold.number)
            self.peer.now += 0.003
            following = self.peer.says("hello")
            self.assertEqual(not answered, self.peer.innocent)
            if not answered:
                self.peer.is_told("hello", delivery)
            delivery = following
        self.assertTrue(0 < waits <= 5000 // CREDIT + 1, waits)

    def test_errors(self) -> None:
        """
        Our own replies that come back as errors are no loop: nobody answers them.
        """
        for _ in range(40):
            self.peer.is_told("hello, this is the bot")
            self.assertFalse(self.peer.is_held(self.peer.says("hello, this is the bot", type_="error")))

    def test_somebody_interrupts(self) -> None:
        """
        Something else in the conversation is no part of the loop, and does not wait.
        """
        self.peer.talks(20, bot=lambda text: f"You said: {text}")
        self.assertFalse(self.peer.is_held(self.peer.says("stop it")))


class MemoryTests(SynchronousTestCase):
    """What is remembered."""

    def test_silent_conversations_are_forgotten(self) -> None:
        """
        A conversation that is silent for longer than a pause takes no memory once another one begins.
        """
        brake = LoopBrake()
        for number in range(100):
            brake.said((f"user{number}@example.org", BOT, False), "hello", "x", 0.0)
        brake.said(("alice@example.org", BOT, False), "hello", "x", PAUSE + 1)
        self.assertEqual(1, len(brake))

    @given(st.lists(st.integers(0, 30), max_size=100), st.integers(1, 10))
    def test_bounded(self, users, most) -> None:
        """
        Never are more conversations remembered than there may be.
        """
        brake = LoopBrake(most)
        for user in users:
            brake.said((f"user{user}@example.org", BOT, False), "hello", "x", 0.0)
            self.assertGreaterEqual(most, len(brake))
