"""Why a delivery has not ended, and how the gateway tells another program."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from component_http.contract.conditions import error_of_status
from component_http.contract.explanation import Explanation
from component_http.contract.reply import Response
from component_http.delivery.loop_brake import LoopBrake
from component_http.errors import ConnectionFailed
from component_http.spool.facts import (
    MOST_EXPLAINED,
    Trouble,
    answer,
    facts_of_webhook,
    question,
    read_answer,
    read_trouble,
)
from tests.unit.test_delivery import DeliveryTestCase, a_stanza


class RelayTests(DeliveryTestCase):
    """The relay's answer for each thing that can hold a delivery."""

    def test_running_and_behind(self) -> None:
        """
        One delivery is POSTed, the next of its conversation waits behind it, and one of others waits for a place.
        """
        relay = self.a_relay([Deferred()], max_running=1)
        for id_ in ("m1", "m2"):
            relay.accept(a_stanza(id_=id_))
        relay.accept(a_stanza(sender="bob@example.org"))
        self.assertEqual(Explanation("running"), relay.explain("d1"))
        self.assertEqual(Explanation("conversation", behind="d1"), relay.explain("d2"))
        self.assertEqual(Explanation("turn"), relay.explain("d3"))
        self.assertIsNone(relay.explain("d4"))

    def test_backing_off(self) -> None:
        """
        A delivery that failed backs off, with the reason and the time until its next attempt.
        """
        relay = self.a_relay([ConnectionFailed("refused"), Deferred()])
        relay.accept(a_stanza())
        found = relay.explain("d1")
        assert found is not None and found.next_attempt is not None
        self.assertEqual(("backing_off", "refused"), (found.held_by, found.last_failure))
        self.clock.advance(found.next_attempt)
        self.assertEqual(Explanation("running", last_failure="refused"), relay.explain("d1"))

    def test_asked_to_wait(self) -> None:
        """
        The webhook's own Retry-After is told, for the delivery that heard it and for the others.
        """
        relay = self.a_relay([Response(503, {"retry-after": "7"})])
        relay.accept(a_stanza())
        relay.accept(a_stanza(sender="bob@example.org"))
        self.clock.advance(2)
        self.assertEqual(
            [("retry_after", 5.0, "HTTP status 503"), ("retry_after", 5.0, None)],
            [(one.held_by, one.next_attempt, one.last_failure) for one in map(relay.explain, ("d1", "d2")) if one],
        )

    def test_away(self) -> None:
        """
        While nothing succeeds the time of the next probe is told, and during a probe that there is one.
        """
        relay = self.a_relay([*[ConnectionFailed("refused")] * 5, Deferred(), Deferred()])
        for number in range(6):
            relay.accept(a_stanza(sender=f"u{number}@example.org"))
        self.assertEqual(Explanation("webhook_away", next_attempt=2.0), relay.explain("d6"))
        self.clock.pump([0.1] * 61)
        held = {found.held_by for number in range(1, 7) if (found := relay.explain(f"d{number}"))}
        self.assertEqual({"running", "webhook_probed"}, held)

    def test_open_iq(self) -> None:
        """
        An iq that the webhook answers later waits for that.
        """
        relay = self.a_relay([Response(202)], link=lambda delivery: "/link")
        relay.accept(a_stanza("iq", "get"))
        self.assertEqual(Explanation("open_iq"), relay.explain("d1"))

    def test_gone(self) -> None:
        """
        What is left of a webhook that is gone says so.
        """
        relay = self.a_relay([Response(410), Deferred()], on_gone=error_of_status(410, {}), max_running=1)
        relay.accept(a_stanza())
        self.assertIsNone(relay.explain("d1"))

    def test_crowded(self) -> None:
        """
        While too many answers wait for the server, no POST begins.
        """
        self.outlet.crowded = True
        relay = self.a_relay()
        relay.accept(a_stanza())
        self.assertEqual(Explanation("outbox_full"), relay.explain("d1"))

    def test_loop(self) -> None:
        """
        A delivery of a loop that is slowed down names the loop.
        """
        relay = self.a_relay([Response(204)] * 40, loop_brake=LoopBrake())
        for number in range(20):
            text = "You said: " * number + "hello"
            relay.accept(a_stanza(body=text))
            element = a_stanza(body="You said: " + text).element
            element["to"], element["from"] = "alice@example.org", "bot@bot.example.org"
            relay.loops.said([element])
        [found] = {each.held_by for number in range(1, 21) if (each := relay.explain(f"d{number}"))} - {"conversation"}
        self.assertEqual("loop_brake", found)


class FactsTests(SynchronousTestCase):
    """Facts for other programs."""

    def test_healthy(self) -> None:
        """
        Of a webhook that works nothing is written that changes.
        """
        self.assertEqual(
            {"webhook": "closed", "webhook_trouble": ""}, facts_of_webhook("closed", None, "old reason", 0.0, 100.0)
        )

    def test_failing(self) -> None:
        """
        Since when it fails, why, and when it is asked next are facts that do not change from second to second.
        """
        found = [facts_of_webhook("open", 10.0 + n, "refused", 2.0 - n, 100.1 + n) for n in (0.0, 1.0)]
        self.assertEqual(found[0], found[1])
        self.assertEqual(Trouble(90.0, "refused", 102.0), read_trouble(found[0]["webhook_trouble"]))

    def test_now_or_unknown(self) -> None:
        """
        A webhook that may be asked now, and one that is probed, are told apart.
        """
        self.assertEqual(
            [Trouble(90.0, None, 0.0), Trouble(90.0, None, None)],
            [read_trouble(facts_of_webhook("open", 10.0, None, at, 100.0)["webhook_trouble"]) for at in (0.0, None)],
        )

    def test_pause(self) -> None:
        """
        A webhook that works and wants a pause has no failure, but a next attempt.
        """
        found = facts_of_webhook("closed", None, "old reason", 40.0, 100.0)
        self.assertEqual(Trouble(None, None, 140.0), read_trouble(found["webhook_trouble"]))

    def test_answer(self) -> None:
        """
        What the gateway answers arrives as it was, with times of the wall clock.
        """
        explanations = {"a": Explanation("backing_off", None, 5.0, "refused"), "b": Explanation("conversation", "a")}
        text = answer([(3, question(["a", "b", "c"])), (4, "junk")], explanations.get, connected=True, now=100.0)
        found = read_answer(text)
        assert found is not None
        self.assertEqual(([3, 4], True), (found.commands, found.connected))
        self.assertEqual(
            {"a": Explanation("backing_off", None, 105.0, "refused"), "b": Explanation("conversation", "a")},
            found.deliveries,
        )

    def test_limit(self) -> None:
        """
        However many are asked about, the answer is about so many at most.
        """
        ids = [str(number) for number in range(3 * MOST_EXPLAINED)]
        long = Explanation("running", last_failure="x" * 10_000)
        self.assertEqual(MOST_EXPLAINED, len(json.loads(question(ids))))
        text = answer([(1, json.dumps(ids))], lambda _: long, connected=True, now=0.0)
        found = read_answer(text)
        assert found is not None
        self.assertEqual(MOST_EXPLAINED, len(found.deliveries))
        self.assertLess(len(text), 150_000)

    @given(st.text() | st.recursive(st.none() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
    def test_junk(self, value: object) -> None:
        """
        Whatever stands in the file, reading it fails with nothing but "unknown".
        """
        for text in (value, json.dumps(value), json.dumps({"commands": [1], "deliveries": {"a": value}})):
            read_trouble(text)
            read_answer(text)
