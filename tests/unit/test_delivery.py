"""From an accepted stanza to what its sender sees."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable, Sequence
from itertools import count, cycle
from types import MappingProxyType
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.xish.domish import Element

from component_http.contract.conditions import error_of_status
from component_http.contract.delivery import DeadLetter, Delivery
from component_http.contract.outbound import Fate, OutboundStanza
from component_http.contract.reply import Response
from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_COMPONENT, NS_MUC_USER
from component_http.delivery.admission import MAX_STORING_BYTES, PAUSE_STORING_BYTES
from component_http.delivery.attempts import SPOOL_BACK_OFF
from component_http.delivery.backlog import BacklogLimits
from component_http.delivery.breaker import Breaker
from component_http.delivery.drain import FLUSH
from component_http.delivery.endings import MAX_RESPONSE_BYTES
from component_http.delivery.forwarder import PROBE_SECONDS
from component_http.delivery.loop_brake import LoopBrake
from component_http.delivery.loop_guard import LoopGuard
from component_http.delivery.relay import Relay
from component_http.delivery.returning import MAX_RETURNING
from component_http.delivery.slices import SLICE
from component_http.errors import (
    CertificateInvalid,
    CertificateRefused,
    ConnectionCut,
    ConnectionFailed,
    SpoolError,
    TimedOut,
    WebhookError,
)
from component_http.log import set_level
from component_http.operations.metrics import Counters
from component_http.spool.memory import MemorySpool
from component_http.testing import KeepingSpool, RecordingOutlet, RecordingValve, ScriptedWebhook, json_response
from component_http.throttle import LOG_INTERVAL
from tests.relay_world import DOMAIN, relay_world

ENDS = ("replied", "silent", "bounced", "expired", "refused_reply")


def a_stanza(kind="message", type_="chat", id_="m1", body="hello", sender="alice@example.org/phone", to="bot"):
    element = Element((NS_COMPONENT, kind))
    element["from"] = sender
    element["to"] = f"{to}@{DOMAIN}"
    if type_:
        element["type"] = type_
    element["id"] = id_
    if kind == "message":
        element.addElement("body", content=body)
    elif kind == "iq":
        element.addElement(("urn:example", "query"))
    return Stanza.from_element(element)


class DeliveryTestCase(SynchronousTestCase):
    """A relay with all that belongs to it, and a clock that the test moves."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_700_000_000)
        self.numbers = count(1)
        self.counters = Counters()
        self.outlet = RecordingOutlet()
        self.valve = RecordingValve()

    def a_relay(self, script=(), *, answer=None, webhook=None, has_webhook=True, **options):
        """A relay of `relay_world`, with a webhook that gives these answers."""
        self.webhook = webhook or ScriptedWebhook(script, answer=answer)
        world = relay_world(
            self.webhook if has_webhook else None,
            self.clock,
            counters=self.counters,
            outlet=self.outlet,
            valve=self.valve,
            new_id=lambda: f"d{next(self.numbers)}",
            **options,
        )
        return world.relay

    def sent(self):
        """Name, type and error condition of each stanza that left."""
        return [
            (element.name, element.getAttribute("type"), element.error and element.error.firstChildElement().name)
            for element in self.outlet.sent
        ]

    def posted(self):
        """The ids of the stanzas that were POSTed, in order."""
        return [json.loads(body)["id"] for body, _ in self.webhook.posts]

    def attempts(self):
        """`webhook-attempt` of each POST, in order."""
        return [headers["webhook-attempt"] for _, headers in self.webhook.posts]

    def stop(self, relay, timeout=5.0):
        drained = Deferred.fromCoroutine(relay.drain(timeout))
        self.clock.advance(timeout)
        self.clock.pump([0.01] * 10)
        self.successResultOf(drained)
        self.assertEqual([], self.clock.getDelayedCalls())

    def assert_accounts(self, relay):
        """What was accepted or restored is the sum of the ways a delivery can end and what is pending."""
        ended = sum(self.counters[end] for end in ENDS)
        self.assertEqual(self.counters["accepted"] + self.counters["restored"], ended + relay.pending)


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
        relay = self.a_relay(failures, max_attempts=1)
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
            [json_response('{"body": "x"}'), json_response("{}"), json_response('"no"'), Response(404), Deferred()]
        )
        for _ in range(5):
            relay.accept(a_stanza())
        self.assertEqual([1, 1, 1, 0, 1], [self.counters[end] for end in ENDS])
        self.assertEqual(1, relay.pending)
        self.assert_accounts(relay)

    def test_lost_reply_is_counted(self) -> None:
        """
        A reply that neither the spool nor the stream can take is not forgotten silently.
        """
        self.outlet.full = True
        spool = KeepingSpool()
        self.a_relay([Deferred(), json_response('{"body": "pong"}')], spool=spool).accept(a_stanza())
        self.assertEqual(0, self.counters["reply_lost"])


class LogTests(DeliveryTestCase):
    """The lines that the author of a bot reads in the log."""

    def setUp(self) -> None:
        super().setUp()
        set_level("debug")
        self.addCleanup(set_level, "info")

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
            self.clock.advance(LOG_INTERVAL)
            relay.accept(a_stanza())
        self.assertEqual(2, len(self.warnings(logs)))
        self.assertIn("text/html", self.warnings(logs)[0])
        self.assertEqual(4, self.counters["body_ignored"])

    def test_what_is_ignored_is_seen_each_time_at_debug_level(self) -> None:
        """
        Who looks closely sees each answer that is ignored: by its status, its properties, and for an iq that is open.
        """
        script = [
            json_response('{"body": "x"}', 201),
            json_response('{"text": "x"}'),
            json_response('{"body": "x"}', 202),
        ]
        relay = self.a_relay(script, link=lambda delivery: "/link")
        with capturedLogs() as logs:
            relay.accept(a_stanza())
            relay.accept(a_stanza())
            relay.accept(a_stanza(kind="iq", type_="get"))
        levels = [(event["log_level"], event["note"].partition(":")[0]) for event in logs if "note" in event]
        self.assertEqual(
            [
                (LogLevel.warn, "ignored 13 bytes of application/json with status 201"),
                (LogLevel.debug, "a message needs `body`, and `text` is not read; to send nothing, answer {} or 204"),
                (LogLevel.debug, "ignored 13 bytes of application/json with status 202"),
            ],
            levels,
        )
        self.assertEqual(3, self.counters["body_ignored"])

    def test_refused_answer_is_one_line(self) -> None:
        """
        A refused answer is one warning with the reason and without the body.
        """
        with capturedLogs() as logs:
            self.a_relay([json_response('{"kind": "secret-body"}')]).accept(a_stanza())
        [note] = self.warnings(logs)
        self.assertIn("kind", note)

    def test_why_an_attempt_failed(self) -> None:
        """
        Who reads at night why nothing gets through finds the reason beside each attempt, without what was answered.
        """
        failures = [ConnectionFailed("refused"), Response(503, {}, b"secret-body")] + [ConnectionFailed("refused")] * 5
        relay = self.a_relay(failures)
        with capturedLogs() as logs:
            for number in range(7):
                relay.accept(a_stanza(sender=f"u{number}@example.org"))
            self.clock.pump([1.0] * 90)
        lines = [formatEvent(event) for event in logs]
        attempts = [line for line in lines if "failed, the next in" in line]
        self.assertTrue(attempts[0].endswith(": refused"), attempts)
        self.assertTrue(attempts[1].endswith(": HTTP status 503"), attempts)
        self.assertEqual(1, len([line for line in lines if line.startswith("the webhook fails (refused): ")]), lines)
        self.assertNotIn("secret-body", "".join(lines))

    def test_redirect_says_that_the_url_is_wrong(self) -> None:
        """
        A redirect is an error line that names the URL as the mistake.
        """
        with capturedLogs() as logs:
            self.a_relay([Response(303, {"location": "http://elsewhere.example/"})]).accept(a_stanza())
        [note] = self.warnings(logs, LogLevel.error)
        self.assertIn("URL", note)


class SpoolTests(DeliveryTestCase):
    """A spool that takes its time."""

    def test_in_trouble(self) -> None:
        """
        That the spool stores nothing is an obstacle as long as it says so.
        """
        spool = KeepingSpool(self.clock, 0.01, durable=False)
        relay = self.a_relay([], spool=spool)
        spool.trouble = "the spool's disk is full"
        self.assertEqual(("the spool's disk is full",), relay.status().obstacles)
        spool.trouble = None
        self.assertEqual((), relay.status().obstacles)

    def test_accepted_when_stored(self) -> None:
        """
        A stanza is accepted when the spool has it, and a reply leaves when the spool has noted it.
        """
        relay = self.a_relay([json_response('{"body": "pong"}')], spool=KeepingSpool(self.clock, 0.01, durable=False))
        relay.accept(a_stanza())
        self.assertEqual((0, []), (self.counters["accepted"], self.webhook.posts))
        self.clock.advance(0.01)
        self.assertEqual((1, []), (self.counters["accepted"], self.webhook.posts))
        self.clock.advance(0.01)
        self.assertEqual((1, []), (len(self.webhook.posts), self.sent()))
        self.clock.advance(0.01)
        self.assertEqual([("message", "chat", None)], self.sent())

    def test_what_is_being_stored_counts(self) -> None:
        """
        While the spool takes its time, what it is to store counts for each limit, and for none any more if it fails.
        """
        spool = KeepingSpool(self.clock, 10.0, durable=False)
        limits = BacklogLimits(max_pending=20, max_per_conversation=3)
        relay = self.a_relay([Deferred() for _ in range(50)], spool=spool, limits=limits)
        for sender in ("alice", "bob", "carol"):
            for _ in range(4):
                relay.accept(a_stanza(sender=f"{sender}@example.org"))
        self.assertEqual(3, self.counters["refused_conversation_full"])
        for number in range(3):
            relay.accept(a_stanza(sender="alice@example.org", to=f"bot{number}"))
        self.assertEqual(2, self.counters["refused_unfair"])
        spool.broken = SpoolError("disk I/O error")
        relay.accept(a_stanza(sender="dave@example.org"))
        spool.broken = None
        self.clock.advance(10.0)
        self.assertEqual((10, 1), (self.counters["accepted"], self.counters["refused_unstored"]))
        self.assertEqual(10, relay.pending)

    def test_spool_that_does_not_keep_up(self) -> None:
        """
        Much that is to be stored pauses reading until it is stored, and more than that is refused.
        """
        relay = self.a_relay([Deferred() for _ in range(50)], spool=KeepingSpool(self.clock, 10.0, durable=False))
        large = "x" * (PAUSE_STORING_BYTES // 4)  # which is in the request twice
        for number in range(2):
            relay.accept(a_stanza(sender=f"u{number}@example.org", body=large))
        self.assertTrue(self.valve.paused)
        for number in range(2, 10):
            relay.accept(a_stanza(sender=f"u{number}@example.org", body=large))
        refused = 10 - MAX_STORING_BYTES // (2 * len(large)) + 1
        self.assertEqual(refused, self.counters["refused_unstored"])
        self.clock.advance(10.0)
        self.assertEqual((10 - refused, False), (self.counters["accepted"], self.valve.paused))

    def test_not_stored(self) -> None:
        """
        What cannot be kept is refused, and an iq hears so.
        """
        spool = KeepingSpool(self.clock, 0.01, durable=False)
        spool.broken = OSError("no disk")
        relay = self.a_relay(spool=spool)
        relay.accept(a_stanza("iq", "get"))
        self.clock.advance(0.01)
        self.assertEqual([("iq", "error", "internal-server-error")], self.sent())
        self.assertEqual((0, 1), (self.counters["accepted"], self.counters["refused_unstored"]))
        self.assertEqual(1, len(self.flushLoggedErrors(OSError)))

    def test_disk_full(self) -> None:
        """
        With a full disk senders are asked to wait, and the log says why once a minute, as of no mistake of ours.
        """
        spool = KeepingSpool(self.clock, 0.01, durable=False)
        spool.broken = SpoolError("database or disk is full")
        relay = self.a_relay(spool=spool)
        with capturedLogs() as logs:
            for second in range(3):
                relay.accept(a_stanza("iq", "get", id_=str(second)))
                self.clock.advance(0.01)
            self.clock.advance(60)
            relay.accept(a_stanza())
            self.clock.advance(0.01)
        self.assertEqual([("iq", "error", "resource-constraint")] * 3, self.sent()[:3])
        self.assertEqual(("message", "error", "resource-constraint"), self.sent()[3])
        self.assertEqual("wait", self.outlet.sent[3].error["type"])
        self.assertEqual((0, 4), (self.counters["accepted"], self.counters["refused_unstored"]))
        self.assertEqual([LogLevel.warn] * 2, [event["log_level"] for event in logs])
        self.assertEqual("the spool cannot keep them: database or disk is full", logs[0]["reason"])

    def test_drain_does_not_wait_for_what_was_not_stored(self) -> None:
        """
        A stanza that came just before the stop, and could not be kept, does not hold it up.
        """
        spool = KeepingSpool(self.clock, 0.01, durable=False)
        spool.broken = SpoolError("database or disk is full")
        relay = self.a_relay(spool=spool)
        relay.accept(a_stanza())
        drained = Deferred.fromCoroutine(relay.drain(20.0))
        self.clock.advance(0.01)
        self.successResultOf(drained)

    def test_unread(self) -> None:
        """
        While the spool cannot be read a delivery waits, and costs no attempt.
        """
        spool = KeepingSpool(self.clock, 0.01, durable=False)
        relay = self.a_relay(spool=spool)
        relay.accept(a_stanza())
        spool.broken = SpoolError("disk I/O error")
        with capturedLogs() as logs:
            self.clock.pump([0.01] + [1.0] * 20)
        self.assertEqual([LogLevel.error], [event["log_level"] for event in logs if "effect" in event])
        self.assertEqual((0, 1), (len(self.webhook.posts), relay.pending))
        spool.broken = None
        self.clock.pump([1.0] * 10)
        self.assertEqual((1, 1), (len(self.webhook.posts), self.counters["silent"]))
        self.assert_accounts(relay)

    def test_end_not_noted(self) -> None:
        """
        A reply leaves even if the spool cannot note it; the log says what that means.
        """
        spool = KeepingSpool(self.clock, 0.01, durable=False)
        relay = self.a_relay([json_response('{"body": "pong"}')], spool=spool)
        relay.accept(a_stanza())
        self.clock.pump([0.01])
        with capturedLogs() as logs:
            self.clock.advance(0.005)
            spool.broken = SpoolError("disk I/O error")
            self.clock.advance(0.005)
            self.clock.advance(0.01)
        self.assertEqual([("message", "chat", None)], self.sent())
        self.assertEqual([LogLevel.error], [event["log_level"] for event in logs if "effect" in event])
        self.assertEqual(1, self.counters["spool_failed"])
        self.assert_accounts(relay)

    def test_notes_each_attempt(self) -> None:
        """
        The spool learns that an attempt begins, and that it failed.
        """
        spool = KeepingSpool(self.clock, 0.01, durable=False)
        relay = self.a_relay([Response(500), Response(204)], spool=spool)
        relay.accept(a_stanza())
        self.clock.pump([0.01] * 200)
        self.assertEqual([("d1", 1, 0), ("d1", 1, 1), ("d1", 2, 1)], spool.noted)

    def test_what_is_being_stored_takes_room(self) -> None:
        """
        A spool that takes long cannot make the gateway take more than max_pending.
        """
        spool = KeepingSpool(self.clock, 10.0, durable=False)
        relay = self.a_relay([Deferred() for _ in range(3)], spool=spool, limits=BacklogLimits(max_pending=3))
        for number in range(5):
            relay.accept(a_stanza("iq", "get", id_=str(number), sender=f"u{number}@example.org"))
        self.assertEqual(2, self.counters["refused_full"])
        self.clock.advance(10.0)
        self.assertEqual(3, relay.pending)

    def test_drain_waits_for_what_is_being_stored(self) -> None:
        """
        A stanza that came just before the stop is delivered.
        """
        relay = self.a_relay([json_response('{"body": "pong"}')], spool=KeepingSpool(self.clock, 0.01, durable=False))
        relay.accept(a_stanza())
        drained = Deferred.fromCoroutine(relay.drain(20.0))
        self.assertNoResult(drained)
        self.clock.pump([0.01] * 3)
        self.successResultOf(drained)
        self.assertEqual([("message", "chat", None)], self.sent())

    def test_one_probe(self) -> None:
        """
        While bodies are fetched no second delivery probes.
        """
        relay = self.a_relay([ConnectionFailed("refused")] * 6, spool=KeepingSpool(self.clock, 0.01, durable=False))
        for number in range(20):
            relay.accept(a_stanza(id_=str(number), sender=f"u{number}@example.org"))
        self.clock.pump([0.01] * 1000)
        self.assertEqual((20, 0), (self.counters["silent"], self.counters["bounced"]))


class RestartTests(DeliveryTestCase):
    """What a spool on disk keeps from one run to the next."""

    def test_left_for_the_next_start(self) -> None:
        """
        At a stop messages stay in the spool, whatever they are at, and nobody hears an error; iqs are answered.
        """
        spool = KeepingSpool(self.clock)
        relay = self.a_relay([Response(429), *(Deferred() for _ in range(9))], spool=spool, max_running=3)
        relay.accept(a_stanza(id_="resting", sender="a@example.org"))
        self.clock.pump([0.01] * 3)
        for sender in "abcd":
            relay.accept(a_stanza(id_=f"m-{sender}", sender=f"{sender}@example.org"))
        relay.accept(a_stanza("presence", "", id_="p", sender="e@example.org"))
        relay.accept(a_stanza("iq", "get", id_="i1"))
        self.clock.pump([0.01] * 3)
        self.stop(relay)
        self.assertEqual([("iq", "error", "service-unavailable")], self.sent())
        self.assertEqual("wait", self.outlet.sent[0].error["type"])
        self.assertEqual(["resting", "m-a", "m-b", "m-c", "m-d", "p"], [each.stanza.id for each in spool.kept.values()])
        self.assertEqual((6, 1), (relay.pending, self.counters["bounced"]))
        self.assert_accounts(relay)

    def test_no_webhook_any_more(self) -> None:
        """
        What the spool has kept for a webhook that is not set any more is not asked of anybody: its senders are told,
        and it becomes dead letters.
        """
        spool = KeepingSpool(self.clock)
        relay = self.a_relay([Deferred(), Deferred()], spool=spool)
        for sender in "ab":
            relay.accept(a_stanza(id_=f"m-{sender}", sender=f"{sender}@example.org"))
        self.clock.pump([0.01] * 3)
        self.stop(relay, 0)
        kept = list(spool.kept.values())
        relay = self.a_relay(spool=spool, has_webhook=False)
        self.assertEqual("none", relay.status().webhook)
        relay.restore(kept)
        self.clock.pump([0.01] * 3)
        self.assertEqual([("message", "error", "service-unavailable")] * 2, self.sent())
        self.assertEqual({"cancel"}, {element.error["type"] for element in self.outlet.sent})
        self.assertEqual(([], {}, 2), (self.webhook.posts, spool.kept, self.counters["bounced"]))
        self.stop(relay)

    def test_left_while_being_stored(self) -> None:
        """
        What is being stored when the time is over stays too, and is waited for.
        """
        spool = KeepingSpool(self.clock, 1.0)
        relay = self.a_relay(spool=spool)
        relay.accept(a_stanza())
        drained = Deferred.fromCoroutine(relay.drain(0.5))
        self.clock.pump([0.5, 0.0])
        self.assertNoResult(drained)
        self.clock.pump([0.5, 0.0])
        self.successResultOf(drained)
        self.assertEqual((["d1"], []), (list(spool.kept), self.sent()))
        self.assert_accounts(relay)

    def test_ends_within_the_drain(self) -> None:
        """
        What ends in time is answered and does not stay.
        """
        spool = KeepingSpool(self.clock)
        relay = self.a_relay([json_response('{"body": "pong"}')], spool=spool)
        relay.accept(a_stanza())
        drained = Deferred.fromCoroutine(relay.drain(5.0))
        self.clock.pump([0.01] * 5)
        self.successResultOf(drained)
        self.assertEqual(({}, [("message", "chat", None)]), (spool.kept, self.sent()))

    def test_kept_until_the_answer_is_there(self) -> None:
        """
        If the spool cannot keep an answer, it has the delivery until the server has the answer.
        """
        spool = KeepingSpool(self.clock)
        relay = self.a_relay([Response(404)], spool=spool)
        relay.accept(a_stanza())
        self.clock.advance(0.01)
        spool.broken = SpoolError("the file is busy")
        self.clock.pump([0.01] * 2)
        self.assertEqual([("message", "error", "item-not-found")], self.sent())
        spool.broken = None
        self.assertEqual(["d1"], [*spool.kept])
        self.outlet.end("confirmed")
        self.clock.advance(0.01)
        self.assertEqual(({}, ["d1"]), (spool.kept, [id_ for id_, _ in spool.letters]))
        self.assert_accounts(relay)

    def test_restored(self) -> None:
        """
        What was kept is POSTed in its order, before what comes new, and counted as what it is.
        """
        spool = KeepingSpool(self.clock)
        first = self.a_relay([Deferred() for _ in range(2)], spool=spool)
        for id_ in ("m1", "m2", "m3"):
            first.accept(a_stanza(id_=id_))
        first.accept(a_stanza(id_="m4", sender="bob@example.org"))
        self.clock.pump([0.01] * 3)
        self.stop(first)
        self.counters = Counters()
        relay = self.a_relay(spool=spool)
        relay.restore(list(spool.kept.values()))
        relay.accept(a_stanza(id_="m5"))
        self.clock.pump([0.01] * 30)
        alices = [id_ for id_ in self.posted() if id_ != "m4"]
        self.assertEqual((["m1", "m2", "m3", "m5"], 5), (alices, len(self.posted())))
        self.assertEqual(["2", "2", "1", "1", "1"], sorted(self.attempts(), reverse=True))
        self.assertEqual((4, 1, 5), tuple(self.counters[name] for name in ("restored", "accepted", "silent")))
        self.assert_accounts(relay)

    def test_retried(self) -> None:
        """
        What somebody retries comes in when nothing of its conversation is pending and little waits; its time begins
        then, and what is live is not refused for it.
        """
        spool = KeepingSpool(self.clock)
        waits = [Deferred() for _ in range(40)]
        relay = self.a_relay(waits, spool=spool, max_running=3)
        for number in range(4):
            relay.accept(a_stanza(id_=f"m{number}", sender=f"u{number}@example.org"))
        self.clock.pump([0.01] * 5)
        letters = []
        for number in range(8):
            sender = f"u{number % 4 if number < 4 else 9}@example.org"
            stanza = Stanza.from_element(a_stanza(sender=sender).element).facts()
            letters.append(Delivery(f"old{number}", stanza, 13, 0.0))
            spool.store(letters[-1], b'{"id": "old"}')
        relay.take_back(letters)
        self.assertEqual((5, MAX_RETURNING - 7), (relay.pending, relay.room_to_return))
        for number in range(3):
            waits[number].callback(Response(204))
        self.clock.pump([0.01] * 20)
        self.assertEqual((5, MAX_RETURNING - 4), (relay.pending, relay.room_to_return))
        self.clock.advance(500.0)
        self.assertEqual(0, self.counters["expired"])
        relay.drop(["old7"])
        self.assertEqual((MAX_RETURNING - 3, 4), (relay.room_to_return, self.counters["restored"]))
        self.assert_accounts(relay)
        self.stop(relay)

    def test_dropped(self) -> None:
        """
        What somebody drops ends whatever it is at, without a dead letter; only who asked an iq hears of it.
        """
        spool = KeepingSpool(self.clock)
        relay = self.a_relay([Deferred() for _ in range(3)], spool=spool)
        for id_ in ("m1", "m2"):
            relay.accept(a_stanza(id_=id_))
        relay.accept(a_stanza("iq", "get"))
        self.clock.pump([0.01] * 3)
        relay.drop([*spool.kept])
        self.clock.pump([0.01] * 3)
        self.assertEqual([("iq", "error", "service-unavailable")], self.sent())
        self.assertEqual(({}, [], 0, 3), (spool.kept, spool.letters, relay.pending, self.counters["bounced"]))

    def test_restored_in_its_thread(self) -> None:
        """
        A reply is in the thread of its message, and by the link a late one too, also where a restart came between.
        """
        threaded = a_stanza(id_="m2")
        threaded.element.addElement("thread", content="t1")
        spool = KeepingSpool(self.clock)
        first = self.a_relay([Deferred()], spool=spool)
        first.accept(a_stanza())
        first.accept(threaded)
        self.clock.pump([0.01] * 3)
        self.stop(first)
        linked = []
        answers = [json_response('{"body": "pong"}') for _ in range(3)]
        relay = self.a_relay(answers, spool=spool, link=lambda delivery: linked.append(delivery.stanza.thread))
        relay.restore([evolve(kept, stanza=kept.stanza.facts()) for kept in spool.kept.values()])
        relay.accept(threaded)
        self.clock.pump([0.01] * 30)
        self.assertEqual([None, "t1", "t1"], linked)
        threads = [element.thread and str(element.thread) for element in self.outlet.sent]
        self.assertEqual([None, "t1", "t1"], threads)

    def test_restored_too_late(self) -> None:
        """
        What is restored after its time ends at once, and its sender hears so.
        """
        spool = KeepingSpool(self.clock)
        first = self.a_relay([Deferred()], spool=spool)
        first.accept(a_stanza())
        self.clock.pump([0.01])
        self.stop(first)
        [delivery] = spool.kept.values()
        delivery.deadline = self.clock.seconds()
        relay = self.a_relay([Deferred()], spool=spool)
        relay.restore([delivery])
        self.clock.pump([0.0, 0.01])
        self.assertEqual([("message", "error", "remote-server-timeout")], self.sent())
        self.assertEqual((0, 1), (relay.pending, self.counters["expired"]))


class OnceTests(DeliveryTestCase):
    """With a spool on disk, and one attempt only."""

    def setUp(self) -> None:
        super().setUp()
        self.spool = KeepingSpool(self.clock)

    def start(self, *answers: Any) -> Any:
        """A gateway; a later one has the webhook of the first."""
        webhook = ScriptedWebhook(answers) if answers else self.webhook
        return self.a_relay(webhook=webhook, spool=self.spool, max_attempts=1, once=True, grace=86_400.0)

    def assert_ended_without(self, relay: Relay) -> None:
        """Nothing more was POSTed, the sender has heard so, and there is a dead letter."""
        self.clock.pump([0.01] * 5)
        self.assertEqual(["m1"], self.posted())
        self.assertEqual([("message", "error", "remote-server-timeout")], self.sent())
        [(_, letter)] = self.spool.letters
        self.assertEqual(("bounced", 1), (letter.outcome, letter.tries))
        self.assertIn("max_attempts is 1", letter.note)
        self.assertEqual((0, {}), (relay.pending, self.spool.kept))

    def test_noted_before(self) -> None:
        """
        What is POSTed was noted before.
        """
        relay = self.start(Response(204))
        relay.accept(a_stanza(id_="m1"))
        self.clock.pump([0.01] * 2)
        self.assertEqual([("d1", 1, 0)], self.spool.noted)
        self.assertEqual([], self.posted())
        self.clock.pump([0.01] * 3)
        self.assertEqual((["m1"], 1), (self.posted(), self.counters["silent"]))
        self.assert_accounts(relay)

    def test_noted_before_where_the_body_is_at_hand(self) -> None:
        """
        It is noted as the first POST also where its body is still in memory.
        """
        self.spool = KeepingSpool()
        relay = self.start(Deferred())
        relay.accept(a_stanza(id_="m1"))
        self.assertEqual((["m1"], [("d1", 1, 0)]), (self.posted(), self.spool.noted))

    def test_spool_that_cannot_note_it(self) -> None:
        """
        What cannot be noted is not POSTed until it can be, and then once.
        """
        relay = self.start(Response(204))
        relay.accept(a_stanza(id_="m1"))
        self.clock.advance(0.01)
        self.spool.broken = SpoolError("the file is busy")
        self.clock.pump([0.01] * 3)
        self.assertEqual([], self.posted())
        self.spool.broken = None
        self.clock.pump([SPOOL_BACK_OFF, *[0.01] * 5])
        self.assertEqual((["m1"], ["1"]), (self.posted(), self.attempts()))

    def test_body_that_cannot_be_read(self) -> None:
        """
        What was not POSTed, because its body could not be read, is not noted as if it were.
        """
        relay = self.start(Response(204))
        relay.accept(a_stanza(id_="m1"))
        self.spool.broken = SpoolError("disk I/O error")
        self.clock.pump([0.01] * 4)
        self.spool.broken = None
        self.assertEqual(([], 0), (self.posted(), max((tries for _, tries, _ in self.spool.noted), default=0)))
        self.clock.pump([SPOOL_BACK_OFF, *[0.01] * 5])
        self.assertEqual((["m1"], ["1"]), (self.posted(), self.attempts()))

    def test_after_a_kill(self) -> None:
        """
        What was POSTed when the process was killed is not POSTed again; what was not is.
        """
        relay = self.start(Deferred())
        relay.accept(a_stanza(id_="m1"))
        self.clock.pump([0.01] * 3)
        [killed] = self.spool.kept.values()
        self.assertEqual(1, killed.tries)
        again = self.start()
        again.restore([evolve(killed)])
        self.assert_ended_without(again)
        again.accept(a_stanza(id_="m2"))
        self.clock.pump([0.01] * 4)
        self.assertEqual("m2", self.posted()[-1])

    def test_after_a_stop(self) -> None:
        """
        What is at the webhook when the drain is over ends then, for it cannot be POSTed again.
        """
        relay = self.start(Deferred())
        relay.accept(a_stanza(id_="m1"))
        self.clock.pump([0.01] * 3)
        self.stop(relay)
        self.assert_ended_without(relay)

    def test_late(self) -> None:
        """
        A message whose time was over before its turn came is POSTed once, too, and says when it came.
        """
        stopped = self.start(Deferred(), json_response('{"body": "pong"}'))
        stopped.accept(a_stanza(id_="m1"))
        stopped.accept(a_stanza(id_="m2"))
        self.clock.pump([0.01] * 4)
        self.stop(stopped)
        self.clock.advance(1000.0)
        [late] = self.spool.kept.values()
        self.assertLess(late.deadline, self.clock.seconds())
        relay = self.start()
        relay.restore([evolve(late)])
        self.clock.pump([0.01] * 10)
        self.assertEqual(["m1", "m2"], self.posted())
        self.assertIn("delay", json.loads(self.webhook.posts[1][0]))
        self.assertEqual((1, 1, {}), (self.attempts().count("1") - 1, self.counters["replied"], self.spool.kept))
        self.clock.advance(1000.0)
        self.assertEqual(2, len(self.webhook.posts))

    def test_late_and_killed(self) -> None:
        """
        One that was POSTed late when the process was killed is not POSTed again.
        """
        relay = self.start(Deferred(), Deferred())
        for id_ in ("m1", "m2"):
            relay.accept(a_stanza(id_=id_))
        self.clock.pump([0.01] * 4)
        self.clock.advance(900.0)
        self.clock.pump([0.01] * 6)
        self.assertEqual(["m1", "m2"], self.posted())
        [late] = self.spool.kept.values()
        self.assertEqual(1, late.tries)
        again = self.start()
        again.restore([evolve(late)])
        self.clock.pump([0.01] * 10)
        self.assertEqual((["m1", "m2"], {}), (self.posted(), self.spool.kept))


class OrderTests(DeliveryTestCase):
    """Whose turn it is."""

    def test_one_at_a_time_in_a_conversation(self) -> None:
        """
        The next stanza of a conversation is POSTed when the one before it has ended, and replies leave in that order.
        """
        answers = [Deferred(), Deferred()]
        relay = self.a_relay(answers)
        relay.accept(a_stanza(id_="m1"))
        relay.accept(a_stanza(id_="m2"))
        self.assertEqual(["m1"], self.posted())
        answers[0].callback(json_response('{"body": "one"}'))
        self.assertEqual(["m1", "m2"], self.posted())
        answers[1].callback(json_response('{"body": "two"}'))
        self.assertEqual(["one", "two"], [str(element.body) for element in self.outlet.sent])

    def test_conversations_run_side_by_side(self) -> None:
        """
        Two senders, two bots, or an iq and a message do not wait for each other.
        """
        relay = self.a_relay([Deferred() for _ in range(4)])
        relay.accept(a_stanza(id_="m1"))
        relay.accept(a_stanza(id_="m2", sender="bob@example.org"))
        relay.accept(a_stanza(id_="m3", to="other"))
        relay.accept(a_stanza("iq", "get", id_="i1"))
        relay.accept(a_stanza(id_="m4", sender="alice@example.org/laptop"))
        self.assertEqual(["m1", "m2", "m3", "i1"], self.posted())

    def test_no_more_than_so_many_at_once(self) -> None:
        """
        Beyond the connections there are, conversations wait for their turn.
        """
        answers = [Deferred() for _ in range(3)]
        relay = self.a_relay(answers, max_running=2)
        for sender in "abc":
            relay.accept(a_stanza(id_=sender, sender=f"{sender}@example.org"))
        self.assertEqual(["a", "b"], self.posted())
        answers[0].callback(Response(204))
        self.assertEqual(["a", "b", "c"], self.posted())

    def test_a_rest_holds_no_place(self) -> None:
        """
        A conversation that waits for its next attempt keeps its own order and stalls no other.
        """
        relay = self.a_relay([Response(503)], max_running=1)
        relay.accept(a_stanza(id_="m1"))
        relay.accept(a_stanza(id_="m2"))
        relay.accept(a_stanza(id_="b1", sender="bob@example.org"))
        self.assertEqual(["m1", "b1"], self.posted())
        self.clock.advance(1)
        self.assertEqual(["m1", "b1", "m1", "m2"], self.posted())

    def test_long_queue(self) -> None:
        """
        A thousand deliveries that all end at once nest no deeper than one.
        """
        first = Deferred()
        relay = self.a_relay([first])
        for number in range(1000):
            relay.accept(a_stanza(id_=str(number)))
        first.callback(Response(204))
        self.assertEqual([str(number) for number in range(1000)], self.posted())
        self.assertEqual(0, relay.pending)


class RetryTests(DeliveryTestCase):
    """Trying again."""

    def test_same_id_and_bytes(self) -> None:
        """
        Every attempt has the same id and the same bytes, its own number and its own time.
        """
        self.a_relay([Response(503), Response(500)]).accept(a_stanza())
        self.clock.pump([1, 1])
        posts = self.webhook.posts
        self.assertEqual({(posts[0][0], "d1")}, {(body, headers["webhook-id"]) for body, headers in posts})
        self.assertEqual(["1", "2", "3"], self.attempts())
        self.assertEqual(
            ["1700000000", "1700000001", "1700000002"], [headers["webhook-timestamp"] for _, headers in posts]
        )

    def test_a_later_answer_is_the_reply(self) -> None:
        """
        A webhook that answers at the second attempt has answered, and nobody hears of the first.
        """
        self.a_relay([TimedOut("60 s"), json_response('{"body": "pong"}')]).accept(a_stanza())
        self.assertEqual([], self.sent())
        self.clock.advance(1)
        self.assertEqual([("message", "chat", None)], self.sent())
        self.assertEqual(1, self.counters["retried"])

    def test_last_counted_attempt(self) -> None:
        """
        After max_attempts that failed by its fault the sender gets one error, that of the last.
        """
        relay = self.a_relay([Response(500)] * 3 + [Response(507)], max_attempts=4)
        relay.accept(a_stanza())
        self.clock.pump([60] * 10)
        self.assertEqual(["1", "2", "3", "4"], self.attempts())
        self.assertEqual([("message", "error", "resource-constraint")], self.sent())
        self.assertEqual(1, self.counters["bounced"])

    def test_busy_is_not_counted(self) -> None:
        """
        A webhook that is away or busy is asked until the deadline, and then the sender hears why.
        """
        relay = self.a_relay([Response(503)] * 1000, max_attempts=2)
        relay.accept(a_stanza())
        self.clock.pump([1] * 899)
        self.assertEqual(1, relay.pending)
        self.assertGreater(len(self.webhook.posts), 10)
        self.clock.advance(1)
        self.assertEqual([("message", "error", "remote-server-timeout")], self.sent())
        self.assertEqual(1, self.counters["expired"])

    def test_stale_connection(self) -> None:
        """
        A kept connection that turns out to be dead is no failure: the same attempt goes out on a new one at once.
        """
        self.a_relay([ConnectionCut("closed", reused=True), json_response('{"body": "pong"}')]).accept(a_stanza())
        self.assertEqual([("message", "chat", None)], self.sent())
        self.assertEqual(["1", "1"], self.attempts())
        self.assertEqual([False, True], self.webhook.fresh)
        self.assertEqual((1, 0), (self.counters["retried_stale"], self.counters["retried"]))

    def test_one_attempt_is_one_post(self) -> None:
        """
        With max_attempts = 1 there is one POST whatever happens, and no breaker.
        """
        failures = [ConnectionCut("closed", reused=True), ConnectionFailed("refused"), Response(503), Response(500)]
        breaker = Breaker(in_a_row=2**31, requests=2**31)
        relay = self.a_relay(failures * 5, max_attempts=1, breaker=breaker)
        for _ in range(20):
            relay.accept(a_stanza())
        self.assertEqual(["1"] * 20, self.attempts())
        self.assertEqual(20, self.counters["bounced"])

    def test_retry_after(self) -> None:
        """
        A conversation waits as long as the webhook asks, others do not.
        """
        relay = self.a_relay([Response(429, {"retry-after": "7"})])
        relay.accept(a_stanza(id_="m1"))
        relay.accept(a_stanza(id_="b1", sender="bob@example.org"))
        self.clock.advance(6.9)
        self.assertEqual(["m1", "b1"], self.posted())
        self.clock.advance(0.1)
        self.assertEqual(["m1", "b1", "m1"], self.posted())

    def test_retry_after_of_a_503(self) -> None:
        """
        A 503 that says how long pauses all of the webhook.
        """
        relay = self.a_relay([Response(503, {"retry-after": "7"})])
        relay.accept(a_stanza(id_="m1"))
        relay.accept(a_stanza(id_="b1", sender="bob@example.org"))
        self.clock.advance(6.9)
        self.assertEqual(["m1"], self.posted())
        self.clock.advance(0.1)
        self.assertEqual({"m1", "b1"}, set(self.posted()[1:]))
        self.assertEqual(1, self.counters["webhook_paused"])

    def test_retry_after_beyond_the_deadline(self) -> None:
        """
        A webhook that wants to be asked after the deadline is not waited for.
        """
        self.a_relay([Response(429, {"retry-after": "26"})]).accept(a_stanza("iq", "get"))
        self.assertEqual([("iq", "error", "resource-constraint")], self.sent())
        self.assertEqual(1, self.counters["expired"])

    def test_retry_after_holds_the_conversation(self) -> None:
        """
        What the webhook wants only after its deadline is told at once, also to those behind it; others are POSTed.
        """
        hold: Deferred[Response] = Deferred()
        relay = self.a_relay([hold])
        for number in range(3):
            relay.accept(a_stanza(id_=f"m{number}"))
        hold.callback(Response(429, {"retry-after": "1000"}))
        relay.accept(a_stanza(id_="b1", sender="bob@example.org"))
        relay.accept(a_stanza(id_="m3"))
        self.assertEqual((["m0", "b1"], 0), (self.posted(), relay.pending))
        self.assertEqual([("message", "error", "resource-constraint")] * 4, self.sent())
        self.assertEqual(4, self.counters["expired"])
        self.clock.advance(101)
        relay.accept(a_stanza(id_="later"))
        self.assertEqual((["m0", "b1"], 1), (self.posted(), relay.pending))
        self.clock.advance(899)
        self.assertEqual(["m0", "b1", "later"], self.posted())

    def test_retry_after_in_a_long_conversation(self) -> None:
        """
        However many wait behind it, all are told, and others have their turn in between.
        """
        relay = self.a_relay([Response(429, {"retry-after": "5"}), Response(429, {"retry-after": "3600"})])
        for number in range(5 * SLICE):
            relay.accept(a_stanza(id_=str(number)))
        self.clock.pump([5.0] + [0.0] * 6)
        self.assertEqual((0, 2, 5 * SLICE), (relay.pending, len(self.webhook.posts), self.counters["expired"]))

    def test_error_of_ones_own(self) -> None:
        """
        A webhook of an application may fail by an error class of its own.
        """

        class Odd(WebhookError):
            def __init__(self, number: int, word: str) -> None:
                super().__init__(f"{word} {number}")

        self.a_relay([Odd(1, "odd"), json_response('{"body": "pong"}')]).accept(a_stanza())
        self.clock.advance(1)
        self.assertEqual([("message", "chat", None)], self.sent())

    def test_certificate(self) -> None:
        """
        A certificate that is not valid is said once, is an obstacle, and is tried again slowly until it is mended.
        """
        relay = self.a_relay([CertificateInvalid("expired")] * 2)
        with capturedLogs() as logs:
            relay.accept(a_stanza())
            self.assertEqual(("the webhook's certificate cannot be trusted",), relay.status().obstacles)
            self.clock.advance(44)
            self.assertEqual(1, len(self.webhook.posts))
            self.clock.pump([1] * 60)
        self.assertEqual((3, ()), (len(self.webhook.posts), relay.status().obstacles))
        self.assertEqual(1, len([event for event in logs if event["log_level"] is LogLevel.error]))

    def test_each_reason_is_told(self) -> None:
        """
        Each thing that is wrong with a certificate is an error in the log, the gateway's own included.
        """
        relay = self.a_relay(
            [CertificateInvalid("expired"), CertificateInvalid("wrong name"), CertificateRefused("ours")]
        )
        with capturedLogs() as logs:
            relay.accept(a_stanza())
            self.clock.pump([1] * 200)
        told = [str(event["reason"]) for event in logs if event["log_level"] is LogLevel.error]
        self.assertEqual(["expired", "wrong name", "ours"], told)

    def test_first_attempts_wait_for_no_retry(self) -> None:
        """
        However many deliveries fail and come again, a new conversation is POSTed at once.
        """
        relay = self.a_relay([Response(429)] * 30, draw=lambda: 1.0)
        for number in range(30):
            relay.accept(a_stanza(id_=str(number), sender=f"u{number}@example.org"))
        self.clock.advance(0.1)
        relay.accept(a_stanza(id_="new", sender="new@example.org"))
        self.assertEqual("new", self.posted()[-1])
        self.clock.advance(0.5)
        self.assertEqual((31, 0), (self.counters["silent"], relay.pending))

    def test_what_rests_keeps_no_answer(self) -> None:
        """
        The body of a failed answer is not held for the time until the next attempt.
        """

        class Headers(dict[str, str]):
            """A dict that can be watched."""

        headers = Headers()
        gone = weakref.ref(headers)
        relay = self.a_relay([Response(500, headers, b"x" * 60_000)])
        relay.accept(a_stanza())
        del headers
        gc.collect()
        self.assertEqual(1, relay.pending)
        self.assertIsNone(gone())


class BreakerTests(DeliveryTestCase):
    """A webhook that is gone."""

    def test_waits_instead_of_failing(self) -> None:
        """
        After five failures in a row one delivery at a time probes and the others wait; all arrive when it is back.
        """
        relay = self.a_relay([ConnectionFailed("refused")] * 8)
        for number in range(50):
            relay.accept(a_stanza(id_=str(number), sender=f"u{number}@example.org"))
        self.assertEqual(5, len(self.webhook.posts))
        self.assertEqual("open", relay.status().webhook)
        self.clock.pump([0.1] * 59)
        self.assertEqual(7, len(self.webhook.posts))
        self.clock.pump([0.1] * 100)
        self.assertEqual((50, 0), (self.counters["silent"], relay.pending))
        self.assertEqual("closed", relay.status().webhook)
        self.assertEqual((1, 1), (self.counters["breaker_opened"], self.counters["breaker_closed"]))

    def test_iqs_meet_their_deadline(self) -> None:
        """
        While the webhook is gone an iq is answered at its deadline, asked or not.
        """
        relay = self.a_relay([ConnectionFailed("refused")] * 100)
        for number in range(10):
            relay.accept(a_stanza("iq", "get", id_=f"i{number}", sender=f"u{number}@example.org"))
        self.clock.pump([0.1] * 251)
        self.assertEqual([("iq", "error", "remote-server-timeout")] * 10, self.sent())
        self.assertEqual(0, relay.pending)

    def test_hanging_probe(self) -> None:
        """
        Beside a probe that hangs another begins, which is cut off after some seconds and makes place for the next.
        """
        failures = [ConnectionFailed("refused")] * 5
        relay = self.a_relay([*failures, Deferred(), Deferred()])
        for number in range(8):
            relay.accept(a_stanza(id_=str(number), sender=f"u{number}@example.org"))
        self.clock.pump([0.1] * 21)
        self.assertEqual(("half_open", 6), (relay.status().webhook, len(self.webhook.posts)))
        self.clock.pump([0.1] * 22)
        self.assertEqual((7, 2), (len(self.webhook.posts), self.webhook.under_way))
        self.clock.pump([0.1] * int(10 * PROBE_SECONDS + 20))
        self.assertEqual(("closed", 1), (relay.status().webhook, self.webhook.under_way))
        self.assertEqual((7, 1), (self.counters["silent"], relay.pending))

    def test_probe_that_is_cut_off_is_not_counted(self) -> None:
        """
        A bot that needs longer than a short probe has does not lose the stanza for it.
        """
        hanging: list[Deferred[Response]] = []

        def answer(body, headers):
            hanging.append(Deferred())
            return hanging[-1] if relay.status().webhook != "closed" else Response(204)

        relay = self.a_relay([ConnectionFailed("refused")] * 5, answer=answer, max_attempts=2)
        for number in range(8):
            relay.accept(a_stanza(id_=str(number), sender=f"u{number}@example.org"))
        self.clock.pump([0.5] * 120)
        self.assertEqual((0, 8), (self.counters["bounced"], relay.pending))
        self.assertGreater(self.counters["attempt_timed_out"], 5)
        hanging[0].callback(Response(204))
        self.clock.pump([0.1] * 100)
        self.assertEqual((8, "closed"), (self.counters["silent"], relay.status().webhook))

    def test_all_rest(self) -> None:
        """
        A webhook that is away is asked every two seconds, whatever each delivery waits for; then all wake.
        """
        broken = [TimedOut("60 s")] * 5
        spool = MemorySpool()
        relay = self.a_relay(broken, draw=lambda: 1.0, spool=spool)
        for number in range(5):
            delivery = Delivery(f"r{number}", a_stanza(sender=f"u{number}@example.org").facts(), 2, 1e10, tries=9)
            spool.store(delivery, b"{}")
            relay.restore([delivery])
        self.assertEqual((5, "open"), (len(self.webhook.posts), relay.status().webhook))
        self.clock.advance(1.9)
        self.assertEqual(5, len(self.webhook.posts))
        self.clock.pump([0.1] * 10)
        self.assertEqual((10, 0), (len(self.webhook.posts), relay.pending))

    def test_alone(self) -> None:
        """
        A stanza that the webhook always fails on, and that is alone, is tried as often as it may be, by its own waits.
        """
        relay = self.a_relay([Response(500)] * 50, draw=lambda: 1.0)
        relay.accept(a_stanza(id_="poison"))
        relay.accept(a_stanza(id_="good"))
        self.clock.pump([0.5] * 2)
        self.assertEqual(["poison", "poison"], self.posted())
        self.clock.pump([0.5] * 600)
        self.assertEqual(["poison"] * 10, self.posted()[:10])
        self.assertEqual(("good", 1), (self.posted()[10], self.counters["bounced"]))
        self.assertEqual(0, self.counters["breaker_opened"])

    def test_counted_on_probes(self) -> None:
        """
        While the webhook fails at everything each failure counts, also a probe's, so that nothing is tried for ever.
        """
        relay = self.a_relay([Response(500)] * 50)
        for number in range(5):
            relay.accept(a_stanza(id_=str(number), sender=f"u{number}@example.org"))
        self.clock.pump([0.5] * 600)
        self.assertEqual((50, 5), (len(self.webhook.posts), self.counters["bounced"]))
        self.assertEqual({10}, {self.posted().count(str(number)) for number in range(5)})

    def test_half_of_it_fails(self) -> None:
        """
        A webhook that fails every second time is asked for everything.
        """
        relay = self.a_relay([Response(500), Response(204)] * 500)
        for number in range(300):
            relay.accept(a_stanza(sender=f"u{number}@example.org"))
            self.clock.advance(0.1)
        self.assertEqual((0, 0), (self.counters["breaker_opened"], self.counters["bounced"]))

    def test_wake(self) -> None:
        """
        Who knows that the webhook is back has it asked at once, whatever it had asked for itself.
        """
        busy = Response(503, {"retry-after": "50"})
        relay = self.a_relay([Response(429, {"retry-after": "800"}), busy])
        relay.accept(a_stanza(id_="m1"))
        relay.accept(a_stanza(id_="m2", sender="bob@example.org"))
        relay.accept(a_stanza(id_="m3", sender="carol@example.org"))
        self.clock.advance(1)
        self.assertEqual(["m1", "m2"], self.posted())
        self.assertEqual(49.0, relay.status().next_attempt)
        relay.wake()
        self.clock.pump([0.1] * 10)
        self.assertEqual((5, 0), (len(self.webhook.posts), relay.pending))

    def test_wake_in_vain(self) -> None:
        """
        If it is still away only one asks, and the others go on waiting.
        """
        relay = self.a_relay([ConnectionFailed("refused")] * 7)
        for number in range(20):
            relay.accept(a_stanza(id_=str(number), sender=f"u{number}@example.org"))
        self.clock.advance(1)
        relay.wake()
        self.clock.advance(0)
        self.assertEqual((6, "open"), (len(self.webhook.posts), relay.status().webhook))
        self.clock.advance(1.9)
        self.assertEqual(6, len(self.webhook.posts))

    def test_bounded_pace(self) -> None:
        """
        A webhook that is back is not run over by all that has waited.
        """
        relay = self.a_relay([ConnectionFailed("refused")] * 5)
        for number in range(500):
            relay.accept(a_stanza(id_=str(number), sender=f"u{number}@example.org"))
        self.clock.pump([0.01] * 290)
        self.assertLess(len(self.webhook.posts), 60)
        self.clock.pump([0.01] * 500)
        self.assertEqual((500, 0), (self.counters["silent"], relay.pending))

    def test_facts(self) -> None:
        """
        It can be seen since when the webhook fails, how, and when it is asked next.
        """
        relay = self.a_relay([Response(500)] * 5)
        self.assertEqual((None, None, 0.0), self.facts(relay))
        for number in range(6):
            relay.accept(a_stanza(id_=str(number), sender=f"u{number}@example.org"))
        self.clock.advance(0.5)
        self.assertEqual((0.5, "HTTP status 500", 1.5), self.facts(relay))
        self.clock.pump([0.1] * 20)
        self.assertEqual((None, "HTTP status 500", 0.0), self.facts(relay))

    def facts(self, relay):
        status = relay.status()
        return status.failing_for, status.last_failure, status.next_attempt

    def test_webhook_that_hangs_on_iqs(self) -> None:
        """
        POSTs that are cut off by the deadline of their iq are failures like any timeout.
        """
        relay = self.a_relay([Deferred() for _ in range(10)])
        for number in range(5):
            relay.accept(a_stanza("iq", "get", id_=str(number), sender=f"u{number}@example.org"))
        self.clock.advance(25)
        self.assertEqual(("open", 5), (relay.status().webhook, self.counters["attempt_timed_out"]))

    def test_asked_too_late(self) -> None:
        """
        A webhook that was asked shortly before a deadline had no chance, and is not to blame.
        """
        first = [Deferred() for _ in range(5)]
        relay = self.a_relay([*first, *(Deferred() for _ in range(5))])
        for number in range(10):
            relay.accept(a_stanza("iq", "get", id_=str(number), sender=f"u{number % 5}@example.org"))
        self.clock.advance(20)
        for answer in first:
            answer.callback(json_response("{}"))
        self.clock.advance(5)
        self.assertEqual((5, "closed"), (self.counters["expired"], relay.status().webhook))

    def test_log(self) -> None:
        """
        One warning says that the webhook fails, one line that it answers again.
        """
        relay = self.a_relay([ConnectionFailed("refused")] * 6)
        with capturedLogs() as logs:
            for number in range(20):
                relay.accept(a_stanza(id_=str(number), sender=f"u{number}@example.org"))
            self.clock.pump([1] * 20)
        self.assertEqual(1, len([event for event in logs if event["log_level"] is LogLevel.warn]))
        self.assertEqual(1, len([event for event in logs if "answers again" in event["log_format"]]))


class GoneTests(DeliveryTestCase):
    """A webhook that says 410."""

    def test_one_stanza(self) -> None:
        """
        By default it is an error for the one stanza.
        """
        relay = self.a_relay([Response(410)])
        relay.accept(a_stanza())
        relay.accept(a_stanza())
        self.assertEqual([("message", "error", "gone")], self.sent())
        self.assertEqual(2, len(self.webhook.posts))

    def test_disabled(self) -> None:
        """
        With on_gone = "disable" nothing is POSTed any more, and everybody is told that the webhook is gone.
        """
        gone = Deferred()
        relay = self.a_relay([gone], on_gone=error_of_status(410))
        for _ in range(3):
            relay.accept(a_stanza())
        gone.callback(Response(410))
        self.clock.advance(0)
        relay.accept(a_stanza("iq", "get"))
        self.assertEqual([("message", "error", "gone")] * 3 + [("iq", "error", "gone")], self.sent())
        self.assertEqual(1, len(self.webhook.posts))
        self.assertEqual((3, 1), (self.counters["bounced"], self.counters["refused_gone"]))
        self.assertEqual("gone", relay.status().webhook)
        self.assert_accounts(relay)

    def test_what_is_under_way_may_end(self) -> None:
        """
        A POST that the webhook may be working on when it says that it is gone keeps its answer; it is not repeated.
        """
        gone, answer, failure = Deferred(), Deferred(), Deferred()
        relay = self.a_relay([gone, answer, failure], on_gone=error_of_status(410))
        for sender in "abc":
            relay.accept(a_stanza(sender=f"{sender}@example.org"))
        gone.callback(Response(410))
        self.clock.advance(0)
        answer.callback(json_response('{"body": "pong"}'))
        failure.callback(Response(503))
        self.assertEqual(
            [("message", "error", "gone"), ("message", "chat", None), ("message", "error", "gone")], self.sent()
        )
        self.assertEqual((3, 0), (len(self.webhook.posts), relay.pending))


class DeadlineTests(DeliveryTestCase):
    """No delivery takes longer than it may."""

    def test_iq_under_way(self) -> None:
        """
        A webhook that thinks too long about an iq is cut off at the iq's deadline.
        """
        cancelled = []
        self.a_relay([Deferred(cancelled.append)]).accept(a_stanza("iq", "set"))
        self.clock.advance(24.9)
        self.assertEqual([], self.sent())
        self.clock.advance(0.1)
        self.assertEqual([("iq", "error", "remote-server-timeout")], self.sent())
        self.assertEqual(1, len(cancelled))

    def test_iqs_that_wait(self) -> None:
        """
        Iqs behind a slow one of the same sender are answered at their deadline, too.
        """
        relay = self.a_relay([Deferred(), Deferred()])
        for number in range(3):
            relay.accept(a_stanza("iq", "get", id_=f"i{number}"))
        self.clock.advance(25)
        self.assertEqual([("iq", "error", "remote-server-timeout")] * 3, self.sent())
        self.assertEqual((3, 0), (self.counters["expired"], relay.pending))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_note(self) -> None:
        """
        The log tells an iq that the webhook was slow with from one that never had its turn.
        """
        relay = self.a_relay([Deferred()])
        with capturedLogs() as logs:
            relay.accept(a_stanza("iq", "get", id_="i1"))
            relay.accept(a_stanza("iq", "get", id_="i2"))
            self.clock.advance(25)
        self.assertEqual(
            ["the webhook did not answer in time", "never tried: its turn did not come in time"],
            [event["note"] for event in logs if event["log_level"] is LogLevel.warn],
        )

    def test_cancelling_one_ends_another(self) -> None:
        """
        A webhook that ends one POST when another is cancelled confuses nobody.
        """
        other: Deferred[Response] = Deferred()
        first: Deferred[Response] = Deferred(lambda _: other.callback(json_response("{}")))
        relay = self.a_relay([first, other])
        relay.accept(a_stanza("iq", "get", id_="i1"))
        relay.accept(a_stanza("iq", "get", id_="i2", sender="bob@example.org"))
        self.clock.advance(25)
        self.assertEqual([("iq", "error", "remote-server-timeout"), ("iq", "result", None)], sorted(self.sent()))
        relay.accept(a_stanza(id_="later"))
        self.assertEqual("later", self.posted()[-1])

    def test_kinds(self) -> None:
        """
        A message has 15 minutes and a presence one; nobody is told of the presence.
        """
        relay = self.a_relay([Deferred(), Deferred()])
        relay.accept(a_stanza())
        relay.accept(a_stanza("presence", None))
        self.clock.advance(60)
        self.assertEqual((1, 1), (self.counters["expired"], relay.pending))
        self.clock.advance(840)
        self.assertEqual((2, 0), (self.counters["expired"], relay.pending))
        self.assertEqual([("message", "error", "remote-server-timeout")], self.sent())


class GraceTests(DeliveryTestCase):
    """Each message reaches the webhook at least once, however long it was away."""

    def test_queue_behind_an_outage(self) -> None:
        """
        What could not be tried before its deadline is POSTed when the webhook is back, and says when it came.
        """
        relay = self.a_relay(answer=self.answer, grace=86_400.0)
        self.away = True
        for number in range(20):
            relay.accept(a_stanza(id_=f"m{number}", sender=f"u{number % 4}@example.org"))
        self.clock.pump([10.0] * 360)
        self.assertEqual((0, 20, 0), (self.counters["expired"], relay.pending, len(self.sent())))
        self.away = False
        self.webhook.posts.clear()
        self.clock.pump([0.1] * 100)
        self.assertEqual((20, 20, 0), (self.counters["silent"], len(self.webhook.posts), relay.pending))
        self.assertEqual({"2023-11-14T22:13:20Z"}, {json.loads(body)["delay"] for body, _ in self.webhook.posts})
        self.assertEqual({"1"}, set(self.attempts()))

    def test_same_bytes(self) -> None:
        """
        With the time in it the request has the same bytes on each attempt.
        """
        relay = self.a_relay(answer=self.answer, grace=86_400.0)
        self.away = True
        relay.accept(a_stanza())
        self.clock.pump([10.0] * 100)
        self.away, self.failing = False, True
        self.webhook.posts.clear()
        self.clock.pump([0.5] * 20)
        self.failing = False
        self.clock.pump([0.5] * 60)
        self.assertEqual((1, 1), (self.counters["silent"], len({body for body, _ in self.webhook.posts})))
        self.assertGreater(len(self.webhook.posts), 1)
        self.assertIn("delay", json.loads(self.webhook.posts[0][0]))

    def test_in_time(self) -> None:
        """
        What is POSTed before its deadline says nothing of that.
        """
        relay = self.a_relay([ConnectionFailed("refused")], grace=86_400.0)
        relay.accept(a_stanza())
        self.clock.advance(3)
        self.assertNotIn("delay", json.loads(self.webhook.posts[-1][0]))

    def test_behind_a_slow_one(self) -> None:
        """
        A message that waited behind others for longer than it has is POSTed when its turn comes.
        """
        answers = [Deferred(), Deferred()]
        relay = self.a_relay(answers, grace=86_400.0)
        relay.accept(a_stanza(id_="m1"))
        relay.accept(a_stanza(id_="m2"))
        self.clock.advance(900)
        self.assertEqual((["m1", "m2"], 1), (self.posted(), self.counters["expired"]))
        answers[1].callback(json_response('{"body": "pong"}'))
        self.assertEqual(1, self.counters["replied"])

    def test_seen_and_late(self) -> None:
        """
        What the webhook has seen and not answered by the deadline is given up as ever.
        """
        relay = self.a_relay([Response(503)] * 2000, grace=86_400.0)
        relay.accept(a_stanza())
        self.clock.pump([1.0] * 901)
        self.assertEqual((1, 0), (self.counters["expired"], relay.pending))

    def test_beyond_the_grace(self) -> None:
        """
        What the webhook could not be asked about at all becomes a dead letter that says so, and its sender is told.
        """
        spool = KeepingSpool(self.clock)
        relay = self.a_relay(answer=self.answer, grace=3600.0, spool=spool)
        self.away = True
        for number in range(7):
            relay.accept(a_stanza(id_=f"m{number}", sender=f"u{number % 5}@example.org"))
        self.clock.pump([1.0] * 3602)
        self.assertEqual((7, 0), (self.counters["expired"], relay.pending))
        self.assertEqual({0}, {letter.tries for _, letter in spool.letters})
        notes = [letter.note for _, letter in spool.letters]
        self.assertTrue(all(note.startswith("never tried: ") for note in notes), notes)
        texts = {str(element.error.text) for element in self.outlet.sent}
        self.assertEqual({"Never tried", "Connection failure"}, texts)

    def test_iqs_keep_their_deadline(self) -> None:
        """
        Nobody waits for the answer to an iq for a day.
        """
        relay = self.a_relay(answer=self.answer, grace=86_400.0)
        self.away = True
        relay.accept(a_stanza("iq", "get"))
        relay.accept(a_stanza("presence", None))
        self.clock.pump([1.0] * 61)
        self.assertEqual((2, 0), (self.counters["expired"], relay.pending))

    def test_after_a_restart(self) -> None:
        """
        A body that cannot be changed in the spool is POSTed as it is, so that a restart does not change it.
        """
        spool = KeepingSpool(self.clock)
        relay = self.a_relay(answer=self.answer, grace=86_400.0, spool=spool)
        self.away = spool.unchanging = True
        relay.accept(a_stanza())
        self.clock.pump([1.0] * 1000)
        self.away = False
        self.webhook.posts.clear()
        self.clock.pump([0.1] * 50)
        [(body, _)] = self.webhook.posts
        self.assertNotIn("delay", json.loads(body))

    def test_none(self) -> None:
        """
        Without a grace a message waits no longer than its deadline.
        """
        relay = self.a_relay(answer=self.answer)
        self.away = True
        relay.accept(a_stanza())
        self.clock.pump([1.0] * 901)
        self.assertEqual((1, 0), (self.counters["expired"], relay.pending))

    away = failing = False

    def answer(self, body, headers):
        if self.away:
            return ConnectionFailed("refused")
        return Response(500) if self.failing else Response(204)


class DeadlineFloodTests(DeliveryTestCase):
    """Many that end at the same time."""

    def test_slices(self) -> None:
        """
        However many deadlines come at once, others have a turn after some of them; none of them is POSTed.
        """
        relay = self.a_relay([Deferred() for _ in range(100)])
        for number in range(5 * SLICE):
            relay.accept(a_stanza("iq", "get", id_=str(number), sender=f"u{number}@example.org"))
        began = len(self.webhook.posts)
        expired: list[int] = []
        self.clock.callLater(25.0, lambda: expired.append(self.counters["expired"]))
        self.clock.advance(25.0)
        self.assertEqual([SLICE], expired)
        self.assertEqual((5 * SLICE, 0, began), (self.counters["expired"], relay.pending, len(self.webhook.posts)))


class LimitTests(DeliveryTestCase):
    """How much is held at once."""

    def test_full(self) -> None:
        """
        Beyond max_pending a stanza is refused with a wait error and not accepted.
        """
        relay = self.a_relay([Deferred() for _ in range(2)], limits=BacklogLimits(max_pending=2))
        for sender in "abc":
            relay.accept(a_stanza(sender=f"{sender}@example.org"))
        self.assertEqual([("message", "error", "resource-constraint")], self.sent())
        self.assertEqual((2, 1), (self.counters["accepted"], self.counters["refused_full"]))

    def test_full_of_bytes(self) -> None:
        """
        A few large stanzas fill the gateway as many small ones do, and room that is freed can be used again.
        """
        answers = [Deferred(), Deferred()]
        relay = self.a_relay(answers, limits=BacklogLimits(max_pending_bytes=10_000, fair_share=1.0))
        relay.accept(a_stanza(body="x" * 4_000))
        relay.accept(a_stanza(body="x" * 4_000))
        self.assertEqual(1, self.counters["refused_full"])
        answers[0].callback(Response(204))
        relay.accept(a_stanza(body="x" * 4_000))
        self.assertEqual(2, self.counters["accepted"])

    def test_full_conversation(self) -> None:
        """
        One conversation has its own limit, which is nobody else's.
        """
        relay = self.a_relay([Deferred(), Deferred()], limits=BacklogLimits(max_per_conversation=2))
        for _ in range(3):
            relay.accept(a_stanza())
        relay.accept(a_stanza(sender="bob@example.org"))
        self.assertEqual((3, 1), (self.counters["accepted"], self.counters["refused_conversation_full"]))

    def test_unfair_share(self) -> None:
        """
        Above half of the limit a sender with more than a tenth of it is refused, and others are not.
        """
        relay = self.a_relay([Deferred()] * 60, limits=BacklogLimits(max_pending=100), max_running=1)
        for number in range(60):
            relay.accept(a_stanza(to=f"bot{number}"))
        relay.accept(a_stanza(sender="bob@example.org"))
        self.assertEqual((51, 10), (self.counters["accepted"], self.counters["refused_unfair"]))

    def test_refusals_are_not_echoed(self) -> None:
        """
        A sender is told once a second that there is no room, the rest is counted; each iq is answered.
        """
        relay = self.a_relay([Deferred()], limits=BacklogLimits(max_pending=1))
        relay.accept(a_stanza())
        for _ in range(10):
            relay.accept(a_stanza())
            relay.accept(a_stanza("iq", "get"))
        told = [kind for kind, _, _ in self.sent()]
        self.assertEqual((1, 10), (told.count("message"), told.count("iq")))
        self.assertEqual(9, self.counters["refusals_untold"])
        self.clock.advance(1)
        relay.accept(a_stanza())
        self.assertEqual(12, len(self.sent()))

    def test_refusals_spare_rooms(self) -> None:
        """
        Nobody is told where an error would throw the bot out of a room.
        """
        relay = self.a_relay([Deferred()], limits=BacklogLimits(max_pending=1))
        relay.accept(a_stanza())
        relay.accept(a_stanza(type_="groupchat", sender="room@rooms.example.org/alice"))
        private = a_stanza().element
        private.addElement((NS_MUC_USER, "x"))
        relay.accept(Stanza.from_element(private))
        self.assertEqual([], self.sent())
        self.assertEqual(2, self.counters["refusals_untold"])

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
        The valve is closed above three quarters of a limit and opened at half of it.
        """
        answers = [Deferred() for _ in range(76)]
        relay = self.a_relay(answers, limits=BacklogLimits(max_pending=100), max_running=100)
        for number in range(75):
            relay.accept(a_stanza(sender=f"u{number}@example.org"))
        self.assertFalse(self.valve.paused)
        relay.accept(a_stanza(sender="u75@example.org"))
        self.assertTrue(self.valve.paused)
        for answer in answers[:25]:
            answer.callback(Response(204))
        self.assertTrue(self.valve.paused)
        answers[25].callback(Response(204))
        self.assertFalse(self.valve.paused)

    def test_the_webhook_does_not_wait_for_the_disk(self) -> None:
        """
        As soon as one is answered another is POSTed, though the disk has not kept the answer; its own followers wait.
        """
        answers = [Deferred() for _ in range(3)]
        relay = self.a_relay(answers, spool=KeepingSpool(self.clock, 1.0), max_running=1)
        for sender in ("alice", "alice", "bob"):
            relay.accept(a_stanza(sender=f"{sender}@example.org"))
        self.clock.advance(1.0)
        self.clock.advance(1.0)
        self.assertEqual(1, len(self.webhook.posts))
        answers[0].callback(json_response('{"body": "pong"}'))
        self.assertEqual((1, 0), (relay.status().running, len(self.outlet.sent)))
        answered = sorted(relay.explain(f"d{number}").held_by for number in (1, 2, 3))
        self.assertEqual(["conversation", "ending", "running"], answered)
        self.clock.advance(1.0)
        self.clock.advance(1.0)
        self.assertEqual(1, len(self.outlet.sent))

    def test_reading_goes_on_while_the_webhook_is_silent(self) -> None:
        """
        Nothing is held back at the server for a webhook that takes requests and answers none; one answer changes that.
        """
        answers = [Deferred() for _ in range(4)]
        relay = self.a_relay(answers, limits=BacklogLimits(max_pending=20), max_running=4)
        for number in range(4):
            relay.accept(a_stanza(sender=f"u{number}@example.org"))
        self.clock.advance(5.1)
        for number in range(4, 17):
            relay.accept(a_stanza(sender=f"u{number}@example.org"))
        self.assertFalse(self.valve.paused)
        answers[0].callback(Response(204))
        relay.accept(a_stanza(sender="u17@example.org"))
        self.assertTrue(self.valve.paused)

    def test_reading_goes_on_when_all_is_stored(self) -> None:
        """
        While the webhook is silent reading pauses for the disk only: it goes on as soon as that has everything.
        """
        limits = BacklogLimits(max_pending=10_000, max_waiting=100)
        relay = self.a_relay([Deferred()] * 4, spool=KeepingSpool(self.clock, 1.0), limits=limits, max_running=4)
        relay.accept(a_stanza())
        self.clock.advance(1.0)
        self.clock.advance(6.0)
        for number in range(1001):
            relay.accept(a_stanza(sender=f"u{number}@d{number % 20}.example"))
        self.assertTrue(self.valve.paused)
        self.clock.advance(1.0)
        self.assertEqual((1002, False), (relay.pending, self.valve.paused))

    def test_reading_pauses_before_a_large_limit(self) -> None:
        """
        While the webhook answers, no more wait for it than help anybody, however many might be pending.
        """
        limits = BacklogLimits(max_pending=1000, max_waiting=8)
        relay = self.a_relay([Deferred()] * 9, limits=limits)
        for number in range(6):
            relay.accept(a_stanza(sender=f"u{number}@example.org"))
        self.assertFalse(self.valve.paused)
        relay.accept(a_stanza(sender="u6@example.org"))
        self.assertTrue(self.valve.paused)

    def test_nearly_full_is_not_ready(self) -> None:
        """
        Above eighty percent of a limit no more should be sent here.
        """
        relay = self.a_relay([Deferred()] * 9, limits=BacklogLimits(max_pending=10))
        for number in range(8):
            relay.accept(a_stanza(sender=f"u{number}@example.org"))
        self.assertEqual((), relay.status().obstacles)
        relay.accept(a_stanza(sender="u8@example.org"))
        self.assertEqual(("too many stanzas wait for the webhook",), relay.status().obstacles)

    def test_reading_goes_on_while_the_webhook_is_gone(self) -> None:
        """
        Nothing is held back at the server for a webhook that is not there: who cannot get in is told.
        """
        relay = self.a_relay([ConnectionFailed("refused")] * 5, limits=BacklogLimits(max_pending=20))
        for number in range(25):
            relay.accept(a_stanza(sender=f"u{number}@example.org"))
        self.assertFalse(self.valve.paused)
        self.assertEqual(5, self.counters["refused_full"])

    def test_nothing_begins_while_the_outlet_is_crowded(self) -> None:
        """
        As long as replies cannot leave, no more of them are asked for.
        """
        relay = self.a_relay()
        self.outlet.crowded = True
        relay.accept(a_stanza())
        relay.accept(a_stanza())
        self.assertEqual([], self.posted())
        self.outlet.crowded = False
        self.assertEqual(2, len(self.posted()))


class LoopGuardTests(DeliveryTestCase):
    """Two bots that answer each other."""

    def test_dies_out(self) -> None:
        """
        Beyond so many replies in a conversation the webhook's answer is not sent.
        """
        relay = self.a_relay([json_response('{"body": "and you?"}')] * 10, loop_guard=LoopGuard(3, 10.0))
        for _ in range(5):
            relay.accept(a_stanza())
        self.assertEqual(3, len(self.outlet.sent))
        self.assertEqual((3, 2, 2), tuple(self.counters[name] for name in ("replied", "refused_reply", "loop_guarded")))
        self.clock.advance(10)
        relay.accept(a_stanza())
        self.assertEqual(4, len(self.outlet.sent))

    def test_spares_iqs(self) -> None:
        """
        An iq is answered however many there are.
        """
        relay = self.a_relay([json_response("{}")] * 5, loop_guard=LoopGuard(1, 10.0))
        for number in range(5):
            relay.accept(a_stanza("iq", "get", id_=str(number)))
        self.assertEqual([("iq", "result", None)] * 5, self.sent())


def echo(request):
    return {"body": request["body"]}


class LoopBrakeTests(DeliveryTestCase):
    """Two bots of the component that echo, with nothing between them but the server."""

    def setUp(self) -> None:
        super().setUp()
        self.relay = self.a_relay(
            webhook=ScriptedWebhook(answer=lambda body, headers: json_response(json.dumps(echo(json.loads(body))))),
            loop_brake=LoopBrake(),
        )
        self.carried = 0

    def carry(self, most: int = 1000) -> None:
        """Bring each of them what the other one says, until there is no more for now."""
        while self.carried < min(most, len(self.outlet.sent)):
            self.relay.accept(Stanza.from_element(self.outlet.sent[self.carried]))
            self.carried += 1

    def pass_time(self, seconds: int) -> None:
        """So many seconds, in which they go on."""
        for _ in range(seconds * 10):
            self.clock.advance(0.1)
            self.carry(100_000)

    def begin(self) -> None:
        """One of them says something, and so on until one has to wait."""
        self.relay.accept(a_stanza(sender="a@bot.example.org", to="b"))
        self.carry()

    def test_slowed_down(self) -> None:
        """
        After some rounds each of them gets one request a second, nothing is lost, and it is said once.
        """
        with capturedLogs() as logs:
            self.begin()
            begun = len(self.webhook.posts)
            self.assertTrue(begun < 60, begun)
            self.pass_time(20)
        self.assertTrue(30 <= len(self.webhook.posts) - begun <= 42, len(self.webhook.posts) - begun)
        self.assertEqual(len(self.webhook.posts), self.counters["replied"])
        self.assertTrue(self.counters["loop_slowed"] > 10)
        said = [event for event in logs if "answer each other" in formatEvent(event)]
        self.assertEqual(1, len(said))

    def test_others_are_as_fast_as_ever(self) -> None:
        """
        Who talks to one of them meanwhile waits for nothing.
        """
        self.begin()
        self.relay.accept(a_stanza(sender="carol@example.org", id_="carol"))
        self.assertEqual("carol", self.posted()[-1])

    def test_pushed_replies(self) -> None:
        """
        Replies that are pushed without a request are noted like others.
        """
        brake = LoopBrake()
        relay = self.a_relay([Response(204)] * 40, loop_brake=brake)
        for number in range(20):
            text = "You said: " * number + "hello"
            relay.accept(a_stanza(body=text))
            element = a_stanza(body="You said: " + text).element
            element["to"], element["from"] = "alice@example.org", "bot@bot.example.org"
            relay.loops.said([element])
        self.assertTrue(relay.pending)
        self.clock.advance(5)
        self.assertEqual(0, relay.pending)

    def test_whoever_does_not_wait_is_no_loop(self) -> None:
        """
        Where the sender of a delivery that was held goes on without our reply, both go on at once.
        """
        relay = self.a_relay(
            webhook=ScriptedWebhook(answer=lambda body, headers: json_response(json.dumps({"body": "hello"}))),
            loop_brake=LoopBrake(),
        )
        accepted = 0
        while not relay.pending:
            relay.accept(a_stanza(body="hello"))
            accepted += 1
            self.assertTrue(accepted < 1000)
        relay.accept(a_stanza(body="hello"))
        self.clock.advance(0)
        self.assertEqual((0, accepted + 1), (relay.pending, len(self.outlet.sent)))
        self.assertEqual(0, self.counters["loop_slowed"])

    def test_webhook_is_back(self) -> None:
        """
        Somebody's word that the webhook is back does not hurry a loop.
        """
        self.begin()
        begun = len(self.webhook.posts)
        for _ in range(100):
            self.relay.wake()
            self.carry()
        self.assertEqual((begun, 0), (len(self.webhook.posts), self.counters["loop_slowed"]))
        self.pass_time(5)
        self.assertTrue(begun < len(self.webhook.posts) <= begun + 12)

    def test_ended_while_it_waits(self) -> None:
        """
        A drain that has no time gives up what waits, and no timer is left.
        """
        self.begin()
        drained = Deferred.fromCoroutine(self.relay.drain(0))
        self.clock.pump([0, 0, 2])
        self.successResultOf(drained)
        self.assertEqual([], self.clock.getDelayedCalls())


class DrainTests(DeliveryTestCase):
    """Stopping calmly."""

    def a_drain(self, relay, timeout=20.0):
        return Deferred.fromCoroutine(relay.drain(timeout))

    def test_idle(self) -> None:
        """
        With nothing under way a drain is over at once.
        """
        self.successResultOf(self.a_drain(self.a_relay()))

    def test_waits_for_what_is_under_way(self) -> None:
        """
        A delivery in flight gets its answer before the drain ends.
        """
        answer = Deferred()
        relay = self.a_relay([answer])
        relay.accept(a_stanza())
        drained = self.a_drain(relay)
        self.clock.advance(19)
        self.assertNoResult(drained)
        answer.callback(json_response('{"body": "pong"}'))
        self.successResultOf(drained)
        self.assertEqual([("message", "chat", None)], self.sent())
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_delivers_what_waits(self) -> None:
        """
        What was accepted before is still POSTed, also what rests before another attempt.
        """
        relay = self.a_relay([Response(503)])
        relay.accept(a_stanza(id_="m1"))
        relay.accept(a_stanza(id_="m2"))
        drained = self.a_drain(relay)
        self.clock.advance(1)
        self.successResultOf(drained)
        self.assertEqual(["m1", "m1", "m2"], self.posted())
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_gives_up_in_time(self) -> None:
        """
        What has not ended by the timeout is answered with a wait error: under way, at rest or in the queue.
        """
        relay = self.a_relay([Deferred(), Deferred(), Response(429, {"retry-after": "60"})])
        relay.accept(a_stanza())
        relay.accept(a_stanza("iq", "set"))
        relay.accept(a_stanza(sender="bob@example.org"))
        relay.accept(a_stanza())
        drained = self.a_drain(relay)
        self.clock.pump([20, 0])
        self.successResultOf(drained)
        self.assertEqual(["message", "iq", "message", "message"], [kind for kind, _, _ in self.sent()])
        self.assertEqual({"service-unavailable"}, {condition for _, _, condition in self.sent()})
        self.assertEqual((0, 4), (relay.pending, self.counters["bounced"]))
        self.assertEqual(3, len(self.webhook.posts))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_waits_until_all_has_left(self) -> None:
        """
        A drain is not over while replies wait for the stream, unless its time is.
        """
        for waits in (5.0, 20.0):
            relay = self.a_relay([json_response('{"body": "pong"}')])
            relay.accept(a_stanza())
            self.outlet.crowded = True
            drained = self.a_drain(relay)
            self.clock.advance(5.0)
            self.assertNoResult(drained)
            if waits == 5.0:
                self.outlet.crowded = False
            else:
                self.clock.advance(15.0)
            self.successResultOf(drained)
            self.assertEqual([], self.clock.getDelayedCalls())
            self.outlet.crowded = False

    def test_gives_up_many(self) -> None:
        """
        However many are left, each is answered.
        """
        relay = self.a_relay([Deferred()])
        for number in range(5 * SLICE):
            relay.accept(a_stanza("iq", "get", id_=str(number)))
        drained = self.a_drain(relay, 0.0)
        self.clock.pump([0] * 6)
        self.successResultOf(drained)
        self.assertEqual(5 * SLICE, len(self.outlet.sent))

    def test_while_nothing_can_begin(self) -> None:
        """
        Whatever keeps attempts from beginning, a drain ends in time and leaves nothing behind.
        """
        for script in ([Response(503, {"retry-after": "50"})], [ConnectionFailed("refused")] * 50):
            for crowded in (False, True):
                relay = self.a_relay(script)
                for number in range(10):
                    relay.accept(a_stanza("iq", "get", id_=str(number), sender=f"u{number}@example.org"))
                self.outlet.crowded = crowded
                drained = self.a_drain(relay, 30.0)
                self.clock.pump([0.5] * 61)
                self.successResultOf(drained)
                self.assertEqual((0, []), (relay.pending, self.clock.getDelayedCalls()))
                self.outlet.crowded = False
        gc.collect()

    def test_outlet_that_breaks(self) -> None:
        """
        A stream of an application that raises is asked again later, and costs the drain no more than a moment.
        """

        class Broken(RecordingOutlet):
            def depart(self, outbound: OutboundStanza, tell: Callable[[Fate], None]) -> bool:
                raise RuntimeError("no stream")

        self.outlet = Broken()
        relay = self.a_relay([Deferred()])
        relay.accept(a_stanza())
        drained = self.a_drain(relay, 1.0)
        self.clock.pump([1, 0])
        self.assertNoResult(drained)
        self.clock.advance(FLUSH)
        self.successResultOf(drained)
        self.assertEqual((0, 2), (self.counters["reply_lost"], len(self.flushLoggedErrors(RuntimeError))))

    def test_a_moment_to_leave(self) -> None:
        """
        What is answered when the time is over has a moment to leave, and no more.
        """
        relay = self.a_relay([Deferred()])
        relay.accept(a_stanza("iq", "get"))
        drained = self.a_drain(relay, 1.0)
        self.outlet.crowded = True
        self.clock.pump([1, 0])
        self.assertNoResult(drained)
        self.clock.advance(FLUSH)
        self.successResultOf(drained)

    def test_second_drain_ends_the_first(self) -> None:
        """
        Who cannot wait any longer drains again with no time, and both are over.
        """
        relay = self.a_relay([Deferred()])
        relay.accept(a_stanza())
        first, second = self.a_drain(relay), self.a_drain(relay, 0.0)
        self.clock.pump([0, 0])
        self.successResultOf(first)
        self.successResultOf(second)
        self.assertEqual([("message", "error", "service-unavailable")], self.sent())

    def test_second_drain_prolongs_nothing(self) -> None:
        """
        A later end than the first does not count.
        """
        relay = self.a_relay([Deferred()])
        relay.accept(a_stanza())
        first, second = self.a_drain(relay, 1.0), self.a_drain(relay)
        self.clock.pump([1, 0])
        self.successResultOf(first)
        self.successResultOf(second)

    def test_accepts_nothing_more(self) -> None:
        """
        A stanza that arrives during the drain is refused with a wait error.
        """
        relay = self.a_relay()
        self.successResultOf(self.a_drain(relay))
        relay.accept(a_stanza("iq", "get"))
        self.assertEqual([("iq", "error", "service-unavailable")], self.sent())
        self.assertEqual([], self.webhook.posts)
        self.assertIn("the gateway is stopping", relay.status().obstacles)


OUTCOMES: MappingProxyType[str, Response | WebhookError] = MappingProxyType(
    {
        "reply": json_response('{"body": "pong"}'),
        "nothing": Response(204),
        "rubbish": json_response("]"),
        "unknown": Response(404),
        "error": Response(500),
        "busy": Response(503),
        "later": Response(503, {"retry-after": "3"}),
        "refused": ConnectionFailed("refused"),
        "cut": ConnectionCut("cut", reused=False, started=True),
        "stale": ConnectionCut("closed", reused=True),
        "late": TimedOut("60 s"),
        "untrusted": CertificateInvalid("expired"),
    }
)
"""Everything that can come of a POST, by a word for it."""


class _Random:
    """A `Webhook` that does what a schedule says, and looks that no promise of order is broken."""

    def __init__(self, next_outcome: Callable[[], str], clock: Clock) -> None:
        self._next_outcome = next_outcome
        self._clock = clock
        self._under_way: set[tuple[str, str, bool]] = set()
        self.bodies: dict[str, bytes] = {}
        self.first_posts: dict[tuple[str, str, bool], list[str]] = {}
        self.most_at_once = 0

    async def post(self, body, headers, *, fresh=False):
        stanza = json.loads(body)
        conversation = (stanza["from"].partition("/")[0], stanza["to"], stanza["kind"] == "iq")
        assert conversation not in self._under_way, "two of one conversation at once"
        assert self.bodies.setdefault(headers["webhook-id"], body) == body, "other bytes"
        order = self.first_posts.setdefault(conversation, [])
        if stanza["id"] not in order:
            order.append(stanza["id"])
        assert order[-1] == stanza["id"], "out of order"
        self._under_way.add(conversation)
        self.most_at_once = max(self.most_at_once, len(self._under_way))
        try:
            seconds, _, word = self._next_outcome().rpartition(" ")
            if seconds:
                waiting: Deferred[None] = Deferred()
                call = self._clock.callLater(float(seconds), waiting.callback, None)
                try:
                    await waiting
                finally:
                    if call.active():
                        call.cancel()
            outcome = OUTCOMES[word]
        finally:
            self._under_way.discard(conversation)
        if isinstance(outcome, WebhookError):
            raise outcome
        return outcome


STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("stanza"),
            st.sampled_from(
                [
                    ("message", "chat"),
                    ("message", "chat"),
                    ("message", "error"),
                    ("message", "groupchat"),
                    ("iq", "get"),
                    ("iq", "set"),
                    ("iq", "result"),
                    ("presence", None),
                ]
            ),
            st.sampled_from(["alice", "bob", "carol"]),
            st.sampled_from(["bot", "other"]),
        ),
        st.tuples(st.just("advance"), st.sampled_from([0.0, 0.1, 1.0, 5.0, 30.0])),
        st.tuples(st.just("crowded"), st.booleans()),
    ),
    max_size=60,
)
WORDS = st.tuples(st.sampled_from(["", "0.5 ", "20 ", "100 "]), st.sampled_from(sorted(OUTCOMES))).map("".join)


class AccountingTests(DeliveryTestCase):
    """Nothing is lost, whatever happens."""

    @given(
        STEPS,
        st.lists(WORDS, min_size=1, max_size=20),
        st.integers(1, 4),
        st.sampled_from([1, 2, 10]),
        st.sampled_from([None, 0.0, 5.0]),
        st.floats(0.5, 1, exclude_max=True),
        st.sampled_from(["memory", "slow", "durable"]),
    )
    @settings(deadline=None)
    def test_random_schedules(self, steps, words, max_running, max_attempts, drain, draw, keeping) -> None:
        """
        At every moment what was accepted has ended in one way or is pending; each iq is answered once, in time; a
        conversation keeps its order; no more than so many POSTs run at once. At a stop nothing but iqs ends unless it
        was to, if the spool is durable.
        """
        self.setUp()
        spools = {
            "memory": KeepingSpool(durable=False),
            "slow": KeepingSpool(self.clock, 0.01, durable=False),
            "durable": KeepingSpool(self.clock),
        }
        spool = spools[keeping]
        script = cycle(words)
        webhook = _Random(lambda: next(script), self.clock)
        breaker = Breaker() if max_attempts > 1 else Breaker(in_a_row=2**31, requests=2**31)
        relay = self.a_relay(
            webhook=webhook,
            breaker=breaker,
            max_attempts=max_attempts,
            max_running=max_running,
            limits=BacklogLimits(max_pending=20, max_per_conversation=8),
            draw=lambda: draw,
            spool=spool,
        )
        asked: dict[str, float] = {}
        for number, step in enumerate(steps):
            if step[0] == "stanza":
                _, (kind, type_), sender, to = step
                if type_ in ("get", "set"):
                    asked[str(number)] = self.clock.seconds()
                relay.accept(a_stanza(kind, type_, id_=str(number), sender=f"{sender}@example.org/r", to=to))
            elif step[0] == "advance":
                self.advance(step[1])
            else:
                self.outlet.crowded = step[1]
            self.assert_accounts(relay)
            self.assertLessEqual(relay.pending, 20)
            self.assert_iqs_in_time(asked, spool)
        if drain is None:
            self.outlet.crowded = False
            for _ in range(91):
                self.advance(10.0)
                self.assert_iqs_in_time(asked, spool)
            self.assertEqual(asked.keys(), {*self.answered(), *self.decided(spool)})
        else:
            drained = Deferred.fromCoroutine(relay.drain(drain))
            self.advance(drain)
            self.clock.pump([0.01] * 10 + [FLUSH])
            self.successResultOf(drained)
            self.assertEqual([], self.clock.getDelayedCalls())
        kept = [each.stanza.kind for each in spool.kept.values()] if keeping == "durable" else []
        self.assertNotIn("iq", kept)
        self.assertEqual(len(kept) if drain is not None else 0, relay.pending)
        self.assert_accounts(relay)
        self.assertEqual(len(set(self.answered())), len(self.answered()))
        self.assertEqual(asked.keys(), {*self.answered(), *self.decided(spool)})
        self.assertLessEqual(webhook.most_at_once, max_running)
        if max_attempts == 1:
            self.assertEqual(len(webhook.bodies), self.counters["attempted"])

    def advance(self, seconds: float) -> None:
        """Move on in steps that are short enough for every timer to fire at about its time."""
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            self.clock.advance(min(0.5, end - self.clock.seconds()))
        self.clock.advance(0)

    def answered(self) -> list[str]:
        """The ids of the iqs whose answers have left."""
        return [element["id"] for element in self.outlet.sent if element.name == "iq"]

    def decided(self, spool: KeepingSpool) -> list[str | None]:
        """The ids of those whose answers the spool has: while the outlet is crowded they wait there, and expire."""
        kept = (*spool.outbound.values(), *(outbound for outbound, _ in spool.dead.values()))
        return [each.head.id for each in kept if each.kind == "iq"]

    def assert_iqs_in_time(self, asked: dict[str, float], spool: KeepingSpool) -> None:
        answered = {*self.answered(), *self.decided(spool)}
        late = [id_ for id_, at in asked.items() if id_ not in answered and self.clock.seconds() > at + 25.1]
        self.assertEqual([], late)


class DeadLetterTests(DeliveryTestCase):
    """What is kept of what was given up."""

    def letters(self, script: Sequence[Any], *stanzas: Stanza, **options: Any) -> list[tuple[str, DeadLetter]]:
        spool = KeepingSpool(self.clock)
        relay = self.a_relay(script, spool=spool, **options)
        for stanza in stanzas or [a_stanza()]:
            relay.accept(stanza)
        self.clock.pump([0.01] * 10)
        return spool.letters

    def test_none(self) -> None:
        """
        What was answered, with or without a reply, leaves none.
        """
        self.assertEqual([], self.letters([json_response('{"body": "x"}'), Response(204)], a_stanza(), a_stanza()))

    def test_refused_reply(self) -> None:
        """
        An answer that cannot be used is kept with the reason.
        """
        [(id_, letter)] = self.letters([json_response('{"kind": "x"}')])
        self.assertEqual(("d1", "refused_reply", 1, 200), (id_, letter.outcome, letter.tries, letter.status))
        self.assertEqual(("application/json", b'{"kind": "x"}'), (letter.media_type, letter.response))
        self.assertIn("kind", letter.note)

    def test_bounced(self) -> None:
        """
        A final error is kept with what the webhook said, of which the beginning is enough.
        """
        [(_, letter)] = self.letters([Response(403, {}, b"x" * (MAX_RESPONSE_BYTES + 1))])
        self.assertEqual(
            ("bounced", 403, MAX_RESPONSE_BYTES), (letter.outcome, letter.status, len(letter.response or b""))
        )

    def test_no_response(self) -> None:
        """
        Where no response came there is the reason alone.
        """
        [(_, letter)] = self.letters([ConnectionFailed("refused")], max_attempts=1)
        self.assertEqual(("bounced", None, None), (letter.outcome, letter.status, letter.response))
        self.assertIn("refused", letter.note)

    def test_not_told(self) -> None:
        """
        What its sender may not be told of, as in a room, is kept all the same.
        """
        [(_, letter)] = self.letters([Response(404)], a_stanza(type_="groupchat"))
        self.assertEqual(([], "bounced"), (self.sent(), letter.outcome))

    def test_held_back(self) -> None:
        """
        What the loop guard holds back is kept, and why.
        """
        answers = [json_response('{"body": "x"}')] * 2
        [(_, letter)] = self.letters(answers, a_stanza(), a_stanza(), loop_guard=LoopGuard(1, 10.0))
        self.assertEqual(("refused_reply", True), (letter.outcome, "loop_guard" in letter.note))

    def test_expired(self) -> None:
        """
        One whose time is over is kept with what came last.
        """
        spool = KeepingSpool(self.clock)
        self.a_relay([Response(503)] * 2000, spool=spool).accept(a_stanza())
        self.clock.pump([1.0] * 901)
        [(_, letter)] = spool.letters
        self.assertEqual(("expired", 503), (letter.outcome, letter.status))

    def test_not_taken_while_stopping(self) -> None:
        """
        A letter that is tried again while its gateway stops waits in the spool for the next start.
        """
        spool = KeepingSpool(self.clock)
        relay = self.a_relay(spool=spool)
        self.successResultOf(Deferred.fromCoroutine(relay.drain(5.0)))
        delivery = Delivery("d1", a_stanza().facts(), 2, self.clock.seconds() + 900.0)
        relay.restore([delivery])
        self.clock.pump([0.01] * 5)
        self.assertEqual((0, 0, 0), (len(self.webhook.posts), relay.pending, self.counters["restored"]))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_taken_again(self) -> None:
        """
        A letter that is tried again while its gateway runs is a delivery again, and the same twice is one.
        """
        spool = KeepingSpool(self.clock)
        relay = self.a_relay([Response(404), json_response('{"body": "x"}')], spool=spool)
        relay.accept(a_stanza())
        self.clock.pump([0.01] * 5)
        delivery = Delivery("d1", a_stanza().facts(), 2, self.clock.seconds() + 900.0)
        spool.store(delivery, b'{"id": "m1"}')
        self.clock.advance(0.01)
        relay.restore([delivery])
        relay.restore([delivery])
        self.clock.pump([0.01] * 5)
        self.assertEqual((1, 1, 1), (self.counters["bounced"], self.counters["restored"], self.counters["replied"]))
        self.assert_accounts(relay)
