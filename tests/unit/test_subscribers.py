"""Who is told that the component is there, and when."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.protocols.jabber.xmlstream import STREAM_AUTHD_EVENT
from twisted.words.xish.domish import Element
from twisted.words.xish.utility import EventDispatcher
from twisted.words.xish.xmlstream import STREAM_CONNECTED_EVENT, STREAM_END_EVENT, BootstrapMixin
from wokkel.subprotocols import StreamManager

from component_http.contract.xml import Limits, parse_stanzas
from component_http.gateway import Gateway
from component_http.operations.metrics import Counters
from component_http.settings import Settings
from component_http.spool.memory import MemorySpool
from component_http.testing import RecordingOutlet, ScriptedWebhook
from component_http.xmpp.presence import CROWDED_WAIT, PER_SECOND, AlwaysAvailable
from component_http.xmpp.subscribers import MAX_LENGTH, Subscribers

BOT = "bot@bot.example.org"


class Line:
    """A StreamManager whose stream comes and goes as the test says."""

    def __init__(self, clock):
        self.sent = []
        self._stream = None
        self._bootstraps = BootstrapMixin()
        self.manager = StreamManager(self._bootstraps, clock)

    def connect(self):
        self._stream = EventDispatcher()
        self._stream.send = self.sent.append
        self._bootstraps.installBootstraps(self._stream)
        self._stream.dispatch(self._stream, STREAM_CONNECTED_EVENT)
        self._stream.dispatch(self._stream, STREAM_AUTHD_EVENT)

    def lose(self):
        self._stream.dispatch(Failure(ConnectionDone()), STREAM_END_EVENT)

    def receive(self, type_, sender="alice@example.org", to=BOT, inside=""):
        xml = f"<presence from='{sender}' to='{to}' type='{type_}'>{inside}</presence>"
        [element] = parse_stanzas(xml, Limits())
        self._stream.dispatch(element)

    def told(self):
        """Who was told what since the last call."""
        sent, self.sent[:] = list(self.sent), []
        elements = [
            element for one in sent for element in ([one] if isinstance(one, Element) else parse_stanzas(one, Limits()))
        ]
        return [(element.getAttribute("type"), element["from"], element["to"]) for element in elements]


class RecordingSpool(MemorySpool):
    """A spool that writes down who comes and goes."""

    def __init__(self):
        super().__init__()
        self.changes = []

    def subscribe(self, component, user):
        self.changes.append(("+", component, user))

    def unsubscribe(self, component, user):
        self.changes.append(("-", component, user))


class SubscribersTests(SynchronousTestCase):
    """What is remembered, and what of it the spool hears."""

    def setUp(self) -> None:
        self.spool = RecordingSpool()

    def some(self, *users: str, most: int = 10) -> Subscribers:
        """Subscribers that were there at the start."""
        subscribers = Subscribers("bot.example.org", most)
        subscribers.restore([(BOT, user) for user in users], self.spool)
        return subscribers

    def users(self, subscribers: Subscribers) -> Sequence[str]:
        return [user for _, user in subscribers]

    def test_come_and_go(self) -> None:
        """
        The spool is told once who came, and who went.
        """
        subscribers = self.some("a")
        for user in ("a", "b", "b"):
            subscribers.add(BOT, user)
        subscribers.remove(BOT, "a")
        subscribers.remove(BOT, "c")
        self.assertEqual([("+", BOT, "b"), ("-", BOT, "a")], self.spool.changes)
        self.assertEqual([(BOT, "b")], list(subscribers))

    def test_full(self) -> None:
        """
        When there are too many, the one that was not heard of for the longest time is forgotten.
        """
        subscribers = self.some("a", "b", "c", most=3)
        subscribers.add(BOT, "a")
        subscribers.add(BOT, "d")
        self.assertEqual(["c", "a", "d"], self.users(subscribers))
        self.assertEqual([("+", BOT, "d"), ("-", BOT, "b")], self.spool.changes)

    def test_too_many_in_the_spool(self) -> None:
        """
        Of more than there may be the oldest are forgotten, in the spool too.
        """
        subscribers = self.some("a", "b", "c", "d", most=2)
        self.assertEqual(["c", "d"], self.users(subscribers))
        self.assertEqual({("-", BOT, "a"), ("-", BOT, "b")}, set(self.spool.changes))

    def test_whoever_holds_most_loses_first(self) -> None:
        """
        One account that subscribes to every address there is pushes out nobody but itself, also over a restart.
        """
        subscribers = self.some(*(f"user{number}@example.org" for number in range(50)), most=100)
        for number in range(1000):
            subscribers.add(f"{number}@bot.example.org", "mallory@evil.example")
        self.assertTrue(90 < len(subscribers) <= 100, len(subscribers))
        self.assertEqual(50, sum(user.endswith("@example.org") for user in self.users(subscribers)))
        self.assertIn(("999@bot.example.org", "mallory@evil.example"), subscribers)

        pairs, spool = list(subscribers), RecordingSpool()
        smaller = Subscribers("bot.example.org", 60)
        smaller.restore(pairs, spool)
        self.assertEqual(50, sum(user.endswith("@example.org") for user in self.users(smaller)))
        self.assertEqual(len(pairs) - len(smaller), len(spool.changes))

    def test_domain_that_holds_most_loses_first(self) -> None:
        """
        A thousand accounts of one domain push out nobody of a domain that has fewer.
        """
        ours = [f"user{number}@example.org" for number in range(20)]
        friends = [f"user{number}@example.net" for number in range(20)]
        subscribers = self.some(*ours, *friends, most=100)
        for number in range(1000):
            subscribers.add(BOT, f"mallory{number}@evil.example")
        self.assertEqual({*ours, *friends}, {user for user in self.users(subscribers) if "evil" not in user})

    def test_two_pairs_each(self) -> None:
        """
        Many accounts with two pairs each take nothing from those that have one.
        """
        subscribers = self.some(*(f"user{number}@example.org" for number in range(40)), most=100)
        for number in range(500):
            for bot in BOT, "bot.example.org":
                subscribers.add(bot, f"mallory{number}@evil.example")
        kept = self.users(subscribers)
        self.assertEqual(40, sum(user.endswith("@example.org") for user in kept))

    @given(
        st.lists(st.tuples(st.sampled_from("123456789"), st.sampled_from("abcdef"), st.sampled_from("xyz"))),
        st.integers(1, 40),
    )
    def test_fairness(self, arrivals, most) -> None:
        """
        Whatever comes, there are never too many, and nobody is forgotten who held less than the others keep.
        """
        subscribers = Subscribers("bot.example.org", most)
        subscribers.restore((), MemorySpool())
        for bot, user, domain in arrivals:
            before = set(subscribers) | {(f"{bot}@bot.example.org", f"{user}@{domain}.example")}
            subscribers.add(f"{bot}@bot.example.org", f"{user}@{domain}.example")
            after = set(subscribers)
            self.assertGreaterEqual(most, len(after))
            kept = Counter(user for _, user in after)
            for loser in {user for _, user in before - after}:
                self.assertGreaterEqual(kept[loser] + 1, max(kept.values()))

    def test_long_addresses(self) -> None:
        """
        Nobody can fill the memory by long addresses.
        """
        subscribers = self.some()
        subscribers.add(BOT, "x" * (MAX_LENGTH - len(BOT)))
        subscribers.add(BOT, "y" * (MAX_LENGTH - len(BOT) + 1))
        self.assertEqual(1, len(subscribers))

    def test_another_domain(self) -> None:
        """
        Who had subscribed to a domain that the component has no more is forgotten.
        """
        subscribers = Subscribers("bot.example.org")
        subscribers.restore([("bot@old.example.org", "a"), ("bot.example.org", "b"), (BOT, "c")], self.spool)
        self.assertEqual(["b", "c"], self.users(subscribers))
        self.assertEqual([("-", "bot@old.example.org", "a")], self.spool.changes)

    def test_begun_again(self) -> None:
        """
        What is known stays known when there is another spool, which hears of what it has not.
        """
        subscribers = self.some("a", "b")
        spool = RecordingSpool()
        subscribers.restore([(BOT, "b"), (BOT, "c")], spool)
        self.assertEqual(["c", "a", "b"], self.users(subscribers))
        self.assertEqual([("+", BOT, "a")], spool.changes)


class TellingTests(SynchronousTestCase):
    """After each connect, everyone hears that we are there."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.counters = Counters()
        self.outlet = RecordingOutlet()
        self.line = Line(self.clock)
        self.subscribers = Subscribers("bot.example.org")
        self.handler = AlwaysAvailable(
            "bot.example.org", self.subscribers, outlet=self.outlet, observer=self.counters, clock=self.clock
        )
        self.handler.setHandlerParent(self.line.manager)

    def add(self, count: int) -> None:
        for number in range(count):
            self.subscribers.add(BOT, f"u{number}@example.org")

    def pass_time(self, seconds: float) -> None:
        self.clock.pump([0.001] * round(seconds * 1000))

    def assert_told(self, *users: str) -> None:
        """These, and nobody else, were told that the bot is there."""
        self.assertEqual([(None, f"{BOT}/default", f"{user}@example.org") for user in users], self.line.told())

    def test_after_connecting(self) -> None:
        """
        Each subscriber is told by the address that he knows, in order, and that is counted.
        """
        self.add(2)
        self.subscribers.add("bot.example.org", "carol@example.org")
        self.assert_told()
        self.line.connect()
        self.pass_time(1)
        self.assertEqual(
            [
                (None, f"{BOT}/default", "u0@example.org"),
                (None, f"{BOT}/default", "u1@example.org"),
                (None, "bot.example.org/default", "carol@example.org"),
            ],
            self.line.told(),
        )
        self.assertEqual(3, self.counters["announced"])
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_nobody(self) -> None:
        """
        Without subscribers there is nothing to do.
        """
        self.line.connect()
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_not_all_at_once(self) -> None:
        """
        Fifty are told in a second, no more.
        """
        self.add(3 * PER_SECOND)
        self.line.connect()
        for _ in range(3):
            self.pass_time(1.001)
            told = len(self.line.told())
            self.assertTrue(PER_SECOND * 0.9 <= told <= PER_SECOND, told)

    def test_who_comes(self) -> None:
        """
        Whoever subscribes or asks is told from the next stream on; he has his answer already.
        """
        self.line.connect()
        self.line.receive("subscribe", "alice@example.org")
        self.line.receive("probe", "bob@example.org/phone")
        for type_ in ("unavailable", "subscribed", "unsubscribed"):
            self.line.receive(type_, "carol@example.org")
        self.line.told()
        self.pass_time(1)
        self.assert_told()
        self.line.lose()
        self.line.connect()
        self.pass_time(1)
        self.assert_told("alice", "bob")

    def test_who_goes(self) -> None:
        """
        Whoever unsubscribes is told no more, be it that he does so in the middle of it.
        """
        self.add(3)
        self.line.connect()
        self.pass_time(0.025)
        self.line.receive("unsubscribe", "u1@example.org/phone")
        self.line.receive("unsubscribe", "u2@example.org", to=f"{BOT}/default")
        self.line.told()
        self.pass_time(1)
        self.assert_told()
        self.line.lose()
        self.line.connect()
        self.pass_time(1)
        self.assert_told("u0")

    def test_who_is_gone(self) -> None:
        """
        A user of whom his server says that there is none is forgotten; one whose server cannot be reached is not.
        """

        def error(type_: str, condition: str) -> str:
            return f"<error type='{type_}'><{condition} xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/></error>"

        self.add(5)
        self.line.connect()
        self.line.receive("error", "u0@example.org", inside=error("cancel", "item-not-found"))
        self.line.receive("error", "u1@example.org")
        self.line.receive("error", "u2@example.org", inside=error("cancel", "remote-server-not-found"))
        self.line.receive("error", "u3@example.org", inside=error("wait", "resource-constraint"))
        self.line.receive("error", "u4@example.org/phone", inside=error("cancel", "service-unavailable"))
        self.pass_time(1)
        self.assert_told("u2", "u3", "u4")

    def test_lost_stream(self) -> None:
        """
        A lost stream ends the round, and the next one begins it anew.
        """
        self.add(3)
        self.line.connect()
        self.pass_time(0.045)
        self.assert_told("u0", "u1")
        self.line.lose()
        self.assertEqual([], self.clock.getDelayedCalls())
        self.line.connect()
        self.pass_time(1)
        self.assert_told("u0", "u1", "u2")

    def test_crowded(self) -> None:
        """
        While much waits to leave nobody is told; it goes on when that is over.
        """
        self.add(2)
        self.outlet.crowded = True
        self.line.connect()
        self.pass_time(5)
        self.assert_told()
        self.outlet.crowded = False
        self.pass_time(CROWDED_WAIT + 1)
        self.assert_told("u0", "u1")

    def test_about_to_stop(self) -> None:
        """
        A gateway that is about to stop tells nobody any more that it is there, on no stream.
        """
        self.add(2)
        self.line.connect()
        self.handler.pause()
        self.assertEqual([], self.clock.getDelayedCalls())
        self.line.lose()
        self.line.connect()
        self.pass_time(1)
        self.assert_told()

    def test_taken_off(self) -> None:
        """
        Taken off a stream that goes on, nothing is left behind.
        """
        self.add(2)
        self.line.connect()
        self.handler.disownHandlerParent(self.line.manager)
        self.assertEqual([], self.clock.getDelayedCalls())


class GatewayTests(SynchronousTestCase):
    """The whole gateway, with a stream that is only pretended."""

    def setUp(self) -> None:
        self.reactor = MemoryReactorClock()
        self.line = Line(self.reactor)

    def a_gateway(self, *kinds: str) -> Gateway:
        settings = Settings.from_mapping(
            {
                "component": {
                    "domain": "bot.example.org",
                    "component_post_url": "http://127.0.0.1:8080/",
                    "component_post_stanzas": list(kinds),
                },
                "spool": {"kind": "memory"},
            },
            env={"COMPONENT_HTTP_SECRET": "not used"},
        )
        return Gateway(settings, self.reactor, manager=self.line.manager, webhook=ScriptedWebhook())

    def stop(self, gateway: Gateway) -> None:
        stopped = gateway.stopService()
        gateway.drain(0)
        self.reactor.pump([0, 0])
        self.successResultOf(stopped)

    def test_stop_and_start(self) -> None:
        """
        Who subscribed before a stop is told after the next start of the same process.
        """
        gateway = self.a_gateway("message")
        gateway.startService()
        self.line.connect()
        self.line.receive("subscribe")
        self.stop(gateway)
        self.line.told()
        gateway.startService()
        self.reactor.pump([0.1] * 10)
        self.assertEqual([(None, f"{BOT}/default", "alice@example.org")], self.line.told())
        self.assertEqual(1, gateway.counters["announced"])
        self.stop(gateway)

    def test_forwarded_presence(self) -> None:
        """
        Where presence is the webhook's, nobody is told anything by the gateway.
        """
        gateway = self.a_gateway("message", "presence")
        gateway.startService()
        self.line.connect()
        self.line.receive("unavailable")
        self.line.lose()
        self.line.connect()
        self.reactor.pump([0.1] * 10)
        self.assertEqual([], self.line.told())
        self.stop(gateway)
