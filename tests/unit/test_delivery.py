"""From an accepted stanza to what its sender sees."""

from __future__ import annotations

import gc
import json
import weakref
from functools import partial
from itertools import count

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.xish.domish import Element

from component_http.contract import reply
from component_http.contract.reply import Response
from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_COMPONENT, Limits
from component_http.delivery.forwarder import IGNORED_BODY_LOG_INTERVAL, Forwarder
from component_http.delivery.relay import CROWDED, Relay
from component_http.errors import CertificateInvalid, ConnectionFailed, TimedOut
from component_http.operations.metrics import Counters
from component_http.testing import RecordingOutlet, RecordingValve, ScriptedWebhook, json_response


def a_stanza(kind="message", type_="chat", id_="m1", body="hello"):
    element = Element((NS_COMPONENT, kind))
    element["from"] = "alice@example.org/phone"
    element["to"] = "bot@bot.example.org"
    element["type"] = type_
    element["id"] = id_
    if kind == "message":
        element.addElement("body", content=body)
    else:
        element.addElement(("urn:example", "query"))
    return Stanza.from_element(element)


class DeliveryTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.counters = Counters()
        self.outlet = RecordingOutlet()
        self.valve = RecordingValve()

    def a_relay(self, script=(), *, max_pending=10_000, max_pending_bytes=1_000_000):
        self.webhook = ScriptedWebhook(script)
        ids = (f"d{number}" for number in count(1))
        judge = partial(reply.judge, domain="bot.example.org", limits=Limits(), new_id=lambda: "fresh")
        return Relay(
            Forwarder(self.webhook, judge, self.counters, self.clock.seconds),
            self.outlet,
            self.valve,
            self.counters,
            clock=self.clock,
            new_id=lambda: next(ids),
            max_pending=max_pending,
            max_pending_bytes=max_pending_bytes,
        )

    def sent(self):
        """Name, type and error condition of each stanza that left."""
        return [
            (element.name, element.getAttribute("type"), element.error and element.error.firstChildElement().name)
            for element in self.outlet.sent
        ]


class AnswerTests(DeliveryTestCase):
    """What becomes of a delivery."""

    def test_reply(self) -> None:
        """
        The webhook's answer is sent as the reply.
        """
        self.a_relay([json_response('{"body": "pong"}')]).accept(a_stanza())
        self.assertEqual([("message", "chat", None)], self.sent())
        self.assertEqual(1, self.counters["replied"])

    def test_request_headers(self) -> None:
        """
        A webhook learns the delivery's id, the time and the attempt.
        """
        self.a_relay().accept(a_stanza())
        [(body, headers)] = self.webhook.posts
        self.assertEqual("hello", json.loads(body)["body"])
        self.assertEqual(
            {"webhook-id": "d1", "webhook-timestamp": "1700000000", "webhook-attempt": "1"},
            headers,
        )

    def test_failures_are_bounced(self) -> None:
        """
        A webhook that cannot be reached or takes too long becomes a stanza error of type wait.
        """
        failures = [ConnectionFailed("refused"), TimedOut("60 s"), CertificateInvalid("expired")]
        relay = self.a_relay(failures)
        for _ in failures:
            relay.accept(a_stanza())
        self.assertEqual([("message", "error", "remote-server-timeout")] * 3, self.sent())
        self.assertEqual(3, self.counters["bounced"])

    def test_our_own_mistake_is_no_silence(self) -> None:
        """
        A bug of ours is logged as one, and an iq is answered all the same.
        """
        self.a_relay([ZeroDivisionError()]).accept(a_stanza("iq", "get"))
        self.assertEqual([("iq", "error", "internal-server-error")], self.sent())
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_every_delivery_ends_in_one_way(self) -> None:
        """
        What was accepted is the sum of the ways a delivery can end and what is under way.
        """
        relay = self.a_relay(
            [json_response('{"body": "x"}'), json_response("{}"), json_response('"no"'), Response(500), Deferred()]
        )
        for _ in range(5):
            relay.accept(a_stanza())
        ends = {end: self.counters[end] for end in ("replied", "silent", "refused_reply", "bounced")}
        self.assertEqual({"replied": 1, "silent": 1, "refused_reply": 1, "bounced": 1}, ends)
        self.assertEqual(self.counters["accepted"], sum(ends.values()) + relay.pending)

    def test_lost_reply_is_counted(self) -> None:
        """
        A reply that the stream cannot take is not forgotten silently.
        """
        self.outlet.full = True
        self.a_relay([json_response('{"body": "pong"}')]).accept(a_stanza())
        self.assertEqual(1, self.counters["reply_lost"])


class LogTests(DeliveryTestCase):
    """What the author of a bot reads in the log."""

    def warnings(self, logs, level=LogLevel.warn):
        return [event.get("note") for event in logs if event["log_level"] is level]

    def test_ignored_body_is_logged_once_a_minute(self) -> None:
        """
        HTML with status 200 is the mistake people make: one line a minute says what was ignored.
        """
        html = Response(200, {"content-type": "text/html"}, b"<html>oops</html>")
        relay = self.a_relay([html] * 4)
        with capturedLogs() as logs:
            for _ in range(3):
                relay.accept(a_stanza())
            self.clock.advance(IGNORED_BODY_LOG_INTERVAL)
            relay.accept(a_stanza())
        self.assertEqual(2, len(self.warnings(logs)))
        self.assertIn("text/html", self.warnings(logs)[0])
        self.assertEqual(4, self.counters["body_ignored"])

    def test_refused_answer_is_one_line(self) -> None:
        """
        A refused answer is one warning with the reason and without the body.
        """
        with capturedLogs() as logs:
            self.a_relay([json_response('{"kind": "secret-body"}')]).accept(a_stanza())
        [note] = self.warnings(logs)
        self.assertIn("kind", note)

    def test_redirect_says_that_the_url_is_wrong(self) -> None:
        """
        A redirect is an error line that names the URL as the mistake.
        """
        with capturedLogs() as logs:
            self.a_relay([Response(303, {"location": "http://elsewhere.example/"})]).accept(a_stanza())
        [note] = self.warnings(logs, LogLevel.error)
        self.assertIn("URL", note)


class LimitTests(DeliveryTestCase):
    """How much is held at once."""

    def test_full(self) -> None:
        """
        Beyond max_pending a stanza is refused with a wait error and not accepted.
        """
        relay = self.a_relay([Deferred(), Deferred()], max_pending=2)
        for _ in range(3):
            relay.accept(a_stanza())
        self.assertEqual([("message", "error", "resource-constraint")], self.sent())
        self.assertEqual(2, self.counters["accepted"])
        self.assertEqual(1, self.counters["refused_full"])

    def test_full_of_bytes(self) -> None:
        """
        A few large stanzas fill the gateway as many small ones do, and room that is freed can be used again.
        """
        answers = [Deferred(), Deferred()]
        relay = self.a_relay(answers, max_pending_bytes=10_000)
        relay.accept(a_stanza(body="x" * 4_000))
        relay.accept(a_stanza(body="x" * 4_000))
        self.assertEqual(1, self.counters["refused_full"])
        answers[0].callback(Response(204))
        relay.accept(a_stanza(body="x" * 4_000))
        self.assertEqual(2, self.counters["accepted"])

    def test_what_waits_holds_no_tree(self) -> None:
        """
        A stanza of ten thousand elements costs its bytes while it waits, and not a hundred times as much.
        """
        element = a_stanza().element
        for _ in range(9_000):
            element.addElement("a")
        gone = weakref.ref(element)
        relay = self.a_relay([Deferred()])
        relay.accept(Stanza.from_element(element))
        del element
        gc.collect()
        self.assertEqual(1, relay.pending)
        self.assertIsNone(gone())

    def test_reading_pauses_while_crowded(self) -> None:
        """
        The valve is closed above the mark and opened when half of it is done.
        """
        answers = [Deferred() for _ in range(CROWDED + 1)]
        relay = self.a_relay(answers)
        for _ in range(CROWDED):
            relay.accept(a_stanza())
        self.assertFalse(self.valve.paused)
        relay.accept(a_stanza())
        self.assertTrue(self.valve.paused)
        for answer in answers[: CROWDED // 2]:
            answer.callback(Response(204))
        self.assertTrue(self.valve.paused)
        answers[CROWDED // 2].callback(Response(204))
        self.assertFalse(self.valve.paused)


class DrainTests(DeliveryTestCase):
    """Stopping calmly."""

    def test_idle(self) -> None:
        """
        With nothing under way a drain is over at once.
        """
        self.successResultOf(Deferred.fromCoroutine(self.a_relay().drain(20)))

    def test_waits_for_what_is_under_way(self) -> None:
        """
        A delivery in flight gets its answer before the drain ends.
        """
        answer = Deferred()
        relay = self.a_relay([answer])
        relay.accept(a_stanza())
        drained = Deferred.fromCoroutine(relay.drain(20))
        self.clock.advance(19)
        self.assertNoResult(drained)
        answer.callback(json_response('{"body": "pong"}'))
        self.successResultOf(drained)
        self.assertEqual([("message", "chat", None)], self.sent())
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_gives_up_in_time(self) -> None:
        """
        What has not ended by the timeout is answered with a wait error.
        """
        relay = self.a_relay([Deferred(), Deferred()])
        relay.accept(a_stanza())
        relay.accept(a_stanza("iq", "set"))
        drained = Deferred.fromCoroutine(relay.drain(20))
        self.clock.advance(20)
        self.successResultOf(drained)
        self.assertEqual(
            [("message", "error", "service-unavailable"), ("iq", "error", "service-unavailable")], self.sent()
        )
        self.assertEqual(0, relay.pending)

    def test_accepts_nothing_more(self) -> None:
        """
        A stanza that arrives during the drain is refused with a wait error.
        """
        relay = self.a_relay()
        self.successResultOf(Deferred.fromCoroutine(relay.drain(20)))
        relay.accept(a_stanza("iq", "get"))
        self.assertEqual([("iq", "error", "service-unavailable")], self.sent())
        self.assertEqual([], self.webhook.posts)
