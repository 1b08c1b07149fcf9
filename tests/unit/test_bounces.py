"""Pushed stanzas that come back as errors, and messages that a room shows."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from component_http.contract.outbound import outbound_stanza
from component_http.contract.stanza import Stanza
from component_http.contract.xml import Limits, parse_stanzas
from component_http.delivery.bounces import MAX_BYTES, MAX_PUSHED, Bounces
from component_http.delivery.fates import Fates
from component_http.errors import Bounced
from component_http.operations.metrics import Counters
from component_http.testing import KeepingSpool
from component_http.throttle import LOG_INTERVAL

OURS = "alerts@bot.example.org"
ALICE = "alice@example.org"
ROOM = "oncall@rooms.example.org"


class BouncesCase(SynchronousTestCase):
    """Bounces, with a clock and a spool of the test's."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.spool = KeepingSpool()
        self.counters = Counters()
        self.fates = Fates()
        self.bounces = Bounces(self.spool, self.counters, self.clock.seconds, self.fates)

    def push(self, number: int, xml: str) -> None:
        [element] = parse_stanzas(xml, Limits())
        self.bounces.pushed(number, outbound_stanza(element, xml.encode(), 0.0))

    def say(self, number: int, id: str, to: str = ALICE, type_: str = "chat") -> None:
        self.push(number, f"<message from='{OURS}' to='{to}' type='{type_}' id='{id}'><body>hi</body></message>")

    def comes_back(self, id: str, sender: str = ALICE, to: str = OURS, kind: str = "message") -> None:
        [element] = parse_stanzas(
            f"<{kind} from='{sender}' to='{to}' type='error' id='{id}'><error type='cancel'>"
            "<item-not-found xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'/>"
            f"<text xmlns='urn:ietf:params:xml:ns:xmpp-stanzas'>No such\nuser</text></error></{kind}>",
            Limits(),
        )
        self.bounces.returned(Stanza.from_element(element))

    def shows(self, id: str) -> None:
        [element] = parse_stanzas(f"<message from='{ROOM}/alerts' to='{OURS}' type='groupchat' id='{id}'/>", Limits())
        self.bounces.shown(Stanza.from_element(element))


class ReturnedTests(BouncesCase):
    """What an error that arrives is taken for."""

    def test_dead_letter(self) -> None:
        """
        A message that comes back is counted, and becomes a dead letter with the condition and the text.
        """
        self.say(7, "a")
        self.comes_back("a")
        [(number, outbound, note)] = self.spool.bounces
        self.assertEqual((7, "it came back: item-not-found (No such user)"), (number, note))
        self.assertIn(b"<body>hi</body>", outbound.xml)
        self.assertEqual(1, self.counters["push_bounced"])

    def test_presence(self) -> None:
        """
        Presence that was pushed may come back, too.
        """
        self.push(1, f"<presence from='{OURS}' to='{ROOM}/bot' id='p'/>")
        self.comes_back("p", sender=f"{ROOM}/bot", kind="presence")
        self.assertEqual(1, len(self.spool.bounces))

    def test_once(self) -> None:
        """
        A second error about the same message is nothing new.
        """
        self.say(1, "a")
        self.comes_back("a")
        self.comes_back("a")
        self.assertEqual(1, self.counters["push_bounced"])

    def test_only_whom_it_was_sent_to(self) -> None:
        """
        Nobody else than whom a message was sent to can say that it has not arrived.
        """
        self.say(1, "a")
        self.comes_back("a", sender="mallory@example.org")
        self.comes_back("a", to="bot@bot.example.org")
        self.comes_back("b")
        self.comes_back("a", kind="presence")
        self.assertEqual([], self.spool.bounces)

    def test_iqs_and_errors(self) -> None:
        """
        The error that answers an iq is no bounce, and an error that was pushed does not come back.
        """
        self.push(1, f"<iq from='{OURS}' to='{ALICE}' type='get' id='q'/>")
        self.push(2, f"<message from='{OURS}' to='{ALICE}' type='error' id='e'/>")
        self.push(3, f"<message from='{OURS}' to='{ALICE}'/>")
        self.comes_back("e")
        self.comes_back("")
        self.assertEqual([], self.spool.bounces)

    def test_bounded(self) -> None:
        """
        The latest are remembered, by number and by bytes.
        """
        for number in range(MAX_PUSHED + 1):
            self.say(number, f"m{number}")
        self.comes_back("m0")
        self.comes_back("m1")
        self.assertEqual([1], [number for number, _, _ in self.spool.bounces])
        [big] = parse_stanzas(f"<message from='{OURS}' to='{ALICE}' id='big'/>", Limits())
        self.bounces.pushed(0, outbound_stanza(big, b"x" * (MAX_BYTES - 200), 0.0))
        self.comes_back(f"m{MAX_PUSHED - 10}")
        self.assertEqual(1, len(self.spool.bounces))
        self.comes_back("big")
        self.assertEqual(2, len(self.spool.bounces))


class LogTests(BouncesCase):
    """What the operator reads."""

    def test_folded(self) -> None:
        """
        Many that come back for the same reason are one line in a minute, and the next one says how many they were.
        """
        with capturedLogs() as logs:
            for number in range(5):
                self.say(number, f"m{number}")
                self.comes_back(f"m{number}")
            self.clock.advance(LOG_INTERVAL)
            self.say(9, "m9")
            self.comes_back("m9")
        lines = [formatEvent(event) for event in logs]
        self.assertEqual(2, len(lines))
        self.assertIn("departure.0: a message that was pushed came back: item-not-found (No such user)", lines[0])
        self.assertIn("4 more left out before", lines[1])


class WaitingTests(BouncesCase):
    """Whoever waits for what becomes of a message."""

    def test_shown(self) -> None:
        """
        A message has arrived in a room as soon as the room shows it.
        """
        self.say(1, "a", ROOM, "groupchat")
        self.say(2, "b", ROOM, "groupchat")
        waiting, all_that_was_sent = self.bounces.when_shown([1, 2]), self.fates.wait([1, 2])
        self.shows("a")
        self.assertNoResult(waiting)
        self.shows("b")
        self.successResultOf(waiting)
        self.successResultOf(all_that_was_sent)
        self.successResultOf(self.bounces.when_shown([2, 1]))

    def test_not_to_a_room(self) -> None:
        """
        What did not go to a room is not waited for here.
        """
        self.say(1, "a")
        self.successResultOf(self.bounces.when_shown([1]))

    def test_bounced(self) -> None:
        """
        If one of several comes back, whoever waits for them hears it at once, and whoever asks later as well.
        """
        self.say(1, "a", ROOM, "groupchat")
        self.say(2, "b")
        waiting = self.fates.wait([1, 2])
        self.comes_back("b")
        bounced = self.failureResultOf(waiting, Bounced).value
        self.assertEqual(
            ("item-not-found", "cancel", "No such user"), (bounced.condition, bounced.error_type, bounced.text)
        )
        self.failureResultOf(self.fates.wait([2]), Bounced)
        self.shows("a")

    def test_refused_by_the_room_before_it_is_asked(self) -> None:
        """
        A message that a room refuses before somebody waits for the room is not told as sent.
        """
        self.say(1, "a", ROOM, "groupchat")
        self.comes_back("a", ROOM)
        self.failureResultOf(self.bounces.when_shown([1]), Bounced)

    def test_cancelled(self) -> None:
        """
        Whoever waits no longer is forgotten.
        """
        self.say(1, "a")
        waiting = self.fates.wait([1])
        waiting.addErrback(lambda _: None)
        waiting.cancel()
        self.comes_back("a")
        self.assertEqual(1, len(self.spool.bounces))
