"""What leaves, from the end of its delivery until the server has it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.xish.domish import Element

from component_http.contract.composing import Composed
from component_http.contract.conditions import StanzaError, error_child
from component_http.contract.idempotency import IdempotencyRecord
from component_http.contract.outbound import LIFETIMES, Head, OutboundStanza, Refused
from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_COMPONENT, Limits, parse_stanzas
from component_http.delivery.handing_over import TOO_LARGE_FOR
from component_http.delivery.outbox import AGAIN, Outbox
from component_http.delivery.stanza_maker import StanzaMaker
from component_http.errors import NotSent, SpoolError
from component_http.operations.metrics import Counters
from component_http.spool.memory import MemorySpool
from component_http.testing import KeepingSpool, RecordingOutlet

DOMAIN = "bot.example.org"


def a_stanza(id_: str = "m1", kind: str = "message", *, sender: str = f"bot@{DOMAIN}", **attributes: str) -> Element:
    element = Element((NS_COMPONENT, kind))
    element.attributes.update({"from": sender, "to": "alice@example.org/phone", "id": id_, **attributes})
    return element


def a_question(id_: str) -> Stanza:
    """What somebody wrote to the component, as the relay knows it."""
    element = a_stanza(id_, sender="alice@example.org/phone", to=f"bot@{DOMAIN}")
    return Stanza.from_element(element).facts()


class OutboxCase(SynchronousTestCase):
    """Departures with a spool, an outlet and a clock of the test's."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.outlet = RecordingOutlet()
        self.counters = Counters()
        self.spool = KeepingSpool()
        self.outbox = self.an_outbox(self.spool)

    def an_outbox(self, spool: MemorySpool, **options: Any) -> Outbox:
        maker = StanzaMaker(
            self.counters,
            self.clock,
            options.pop("domain", DOMAIN),
            options.pop("limits", Limits()),
            options.pop("lifetimes", LIFETIMES),
        )
        return Outbox(spool, self.outlet, self.counters, clock=self.clock, maker=maker, **options)

    def push(self, *ids: str, key: str | None = None) -> Deferred[Sequence[int]]:
        """Let stanzas leave that answer nothing, as the API does."""
        record = None if key is None else IdempotencyRecord("ops", key, "fingerprint", b"[]")
        return self.outbox.push(Composed(tuple(map(a_stanza, ids))), record=record)

    def leave(self, *ids: str) -> None:
        """Let stanzas leave as the relay does."""
        leaving = self.outbox.maker.make([a_stanza(id_) for id_ in ids], delivery_id="d1")
        self.outbox.depart(leaving, self.keep(leaving))

    def answer(self, id_: str, asked: Stanza | None, size: int = 0) -> None:
        """Let the answer to a delivery leave, as the relay does."""
        element = a_stanza(id_)
        element.addElement("body", content="x" * size)
        leaving = self.outbox.maker.make([element], delivery_id="d1", asked=asked)
        self.outbox.depart(leaving, self.keep(leaving))

    def keep(self, leaving: Sequence[OutboundStanza]) -> Sequence[int]:
        """Let the spool keep what is to leave, as at the end of a delivery."""
        return self.successResultOf(self.spool.push(leaving))

    def errors(self) -> list[str]:
        """The ids of what was answered with an error."""
        return [element["id"] for element in self.outlet.sent if element.getAttribute("type") == "error"]

    def read(self) -> None:
        """Let reading begin, as far as there is something to read."""
        self.clock.advance(0)

    def sent(self) -> list[str]:
        return [element["id"] for element in self.outlet.sent]


class LeavingTests(OutboxCase):
    """What is made of an answer."""

    def test_times(self) -> None:
        """
        A message is of use for a day, presence for a minute, the answer to an iq until the iq's deadline.
        """
        made = self.outbox.maker.make(
            [a_stanza(), a_stanza(kind="presence"), a_stanza(kind="iq", type="result")], deadline=1010.0
        )
        self.assertEqual([86_400.0, 60.0, 10.0], [outbound.expires - 1000.0 for outbound in made])
        self.assertEqual([1000.0] * 3, [outbound.stored for outbound in made])

    def test_answer_at_the_deadline(self) -> None:
        """
        The error that an iq gets because its time is over may still leave.
        """
        [outbound] = self.outbox.maker.make([a_stanza(kind="iq", type="error")], deadline=1000.0)
        self.assertGreater(outbound.expires, self.clock.seconds())

    def test_questions(self) -> None:
        """
        An iq that asks is not written twice; all else may be.
        """
        made = self.outbox.maker.make([a_stanza(kind="iq", type="get"), a_stanza()])
        self.assertEqual([False, True], [outbound.again for outbound in made])

    def test_verbatim(self) -> None:
        """
        It is remembered which stanzas a webhook wrote itself.
        """
        made = self.outbox.maker.make([a_stanza(), a_stanza()], verbatim={1})
        self.assertEqual([False, True], [outbound.verbatim for outbound in made])

    def test_unsendable(self) -> None:
        """
        What the server would close the stream over is left out, counted and logged.
        """
        with capturedLogs() as logs:
            made = self.outbox.maker.make([a_stanza(sender="a@elsewhere.example"), a_stanza("ok")])
        self.assertEqual(["ok"], [outbound.head.id for outbound in made])
        self.assertEqual((1, [LogLevel.warn]), (self.counters["unsendable"], [each["log_level"] for each in logs]))

    def test_answers_that_are_too_large(self) -> None:
        """
        An error that is too large for an iq loses its text; one whose id leaves no room for it is counted.
        """
        made = []
        for id_, text in (("q1", "x" * 300_000), ("i" * 262_100, "no")):
            error = a_stanza(id_, kind="iq", type="error")
            error.addChild(error_child(StanzaError("cancel", "gone", text)))
            made.extend(self.outbox.maker.make([error]))
        [outbound] = made
        [element] = parse_stanzas(outbound.xml.decode(), Limits())
        self.assertEqual(("q1", 1), (element["id"], self.counters["unanswered"]))
        self.assertEqual(["gone"], [child.name for child in element.error.elements()])
        self.assertLess(len(outbound.xml), 300)


class DurableTests(OutboxCase):
    """With a spool on disk."""

    def test_confirmed(self) -> None:
        """
        A stanza is kept until the server has it.
        """
        self.leave("a", "b")
        self.assertEqual((["a", "b"], 2), (self.sent(), len(self.spool.outbound)))
        self.outlet.end("confirmed")
        self.assertEqual({}, self.spool.outbound)

    def test_expired(self) -> None:
        """
        One whose time is over becomes a dead letter.
        """
        self.leave("a")
        self.outlet.end("expired")
        self.assertEqual(([(1, "reply_expired")], {}), (self.spool.failures, self.spool.outbound))

    def test_lost(self) -> None:
        """
        What the server may not have leaves again, in order, before what comes then.
        """
        self.leave("a", "b", "c", "d", "e")
        self.outlet.end("lost")
        self.leave("f")
        self.read()
        self.assertEqual(["a", "b", "c", "d", "e", "a", "b", "c", "d", "e", "f"], self.sent())
        self.outlet.end("confirmed")
        self.assertEqual({}, self.spool.outbound)

    def test_confirmed_is_not_brought_again(self) -> None:
        """
        What was confirmed before the stream was lost does not leave again.
        """
        self.leave("a", "b")
        self.outlet.end("confirmed")
        self.leave("c")
        self.outlet.end("lost")
        self.read()
        self.assertEqual(["a", "b", "c", "c"], self.sent())

    def test_after_a_restart(self) -> None:
        """
        What an earlier process left leaves first, and what comes meanwhile behind it.
        """
        earlier = self.outbox.maker.make([a_stanza(str(number)) for number in range(7)])
        self.keep(earlier)
        self.spool.held = []
        self.outbox.read_all()
        self.leave("x")
        self.read()
        while self.spool.held:
            self.spool.held.pop(0).callback(None)
        self.assertEqual([*"0123456", "x"], self.sent())
        self.leave("y")
        self.assertEqual("y", self.sent()[-1])

    def test_crowded(self) -> None:
        """
        A crowded outlet gets no more than it has; the rest waits on disk and leaves in order when it can.
        """
        self.leave("a")
        self.outlet.crowded = True
        self.leave("b", "c")
        self.leave("d")
        self.assertEqual(["a"], self.sent())
        sent = self.outbox.when_sent()
        self.read()
        self.assertEqual(["a"], self.sent())
        self.outlet.crowded = False
        self.assertEqual(["a", "b", "c", "d"], self.sent())
        self.successResultOf(sent)

    def test_very_many(self) -> None:
        """
        What waits on disk keeps nobody from working until it is very many answers, and then until half of them have
        left; what is pushed does not count.
        """
        self.outlet.crowded = True
        self.spool.crowd = 100
        self.outbox = self.an_outbox(self.spool)
        self.leave("begin")
        self.leave(*(f"m{number}" for number in range(100)))
        for number in range(9):
            self.push(f"p{number}")
        self.assertFalse(self.outbox.crowded)
        self.successResultOf(self.outbox.when_clear())
        self.leave("one", "more")
        self.assertTrue(self.outbox.crowded)
        clear = self.outbox.when_clear()
        self.read()
        self.assertNoResult(clear)
        self.outlet.crowded = False
        self.successResultOf(clear)
        self.assertFalse(self.outbox.crowded)
        self.assertEqual("more", self.sent()[-1])

    def test_dropped(self) -> None:
        """
        What somebody drops is not sent, who waits for it is told so, and the others leave.
        """
        numbers = self.successResultOf(self.push("a", "b"))
        waiting = Deferred.fromCoroutine(self.outbox.sent(numbers))
        del self.spool.outbound[numbers[0]]
        self.outbox.dropped(numbers[:1])
        self.outlet.end("lost")
        self.read()
        self.assertIn("dropped", str(self.failureResultOf(waiting, NotSent).value))
        self.assertEqual(["a", "b", "b"], self.sent())

    def test_what_cannot_be_sent_any_more(self) -> None:
        """
        What the spool kept and another setting forbids now is a dead letter, and does not hold up the others.
        """
        leaving = self.outbox.maker.make([a_stanza("a"), a_stanza("b"), a_stanza("c")])
        self.keep(leaving)
        foreign = Head(sender="bot@old.example.org", recipient="alice@example.org")
        self.spool.outbound[1] = evolve(self.spool.outbound[1], head=foreign)
        self.spool.outbound[2] = evolve(self.spool.outbound[2], head=Head())
        self.outbox.read_all()
        self.read()
        self.assertEqual(["c"], self.sent())
        self.assertEqual([(1, "reply_unsendable"), (2, "reply_unsendable")], self.spool.failures)

    def test_late_reply_when_read(self) -> None:
        """
        A late reply can be recognised when it comes back, also if it leaves after a restart.
        """
        told: list[str | None] = []

        def tell(number: int, outbound: OutboundStanza) -> None:
            told.append(outbound.head.id)

        self.outbox = self.an_outbox(self.spool, pushed=tell)
        self.outbox.push(Composed((a_stanza("late"),)), delivery_id="d1")
        self.answer("answer", asked=a_question("m1"))
        self.assertEqual(["late"], told)
        self.an_outbox(self.spool, pushed=tell).read_all()
        self.clock.advance(0)
        self.assertEqual(["late", "late"], told)

    def test_too_late_when_read(self) -> None:
        """
        What the spool kept and is of no use any more does not leave, also where the stream takes everything at once.
        """
        leaving = self.outbox.maker.make([a_stanza("a", kind="presence"), a_stanza("b")])
        self.keep(leaving)
        self.clock.advance(60.0)
        self.outbox.read_all()
        self.read()
        self.assertEqual((["b"], [(1, "reply_expired")]), (self.sent(), self.spool.failures))
        self.assertEqual(1, self.counters["outgoing_expired"])

    def test_spool_that_cannot_be_read(self) -> None:
        """
        Reading is tried again until it works, and the log says once what is wrong.
        """
        self.keep(self.outbox.maker.make([a_stanza("a")]))
        self.spool.broken = SpoolError("disk I/O error")
        with capturedLogs() as logs:
            self.outbox.read_all()
            self.clock.pump([0, *[AGAIN] * 3])
        self.assertEqual(([LogLevel.error], 4), ([each["log_level"] for each in logs], self.counters["spool_failed"]))
        self.spool.broken = None
        self.clock.advance(AGAIN)
        self.assertEqual(["a"], self.sent())

    def test_outlet_that_takes_nothing(self) -> None:
        """
        What an outlet does not take is offered again.
        """
        self.outlet.full = True
        self.leave("a", "b")
        self.read()
        self.outlet.full = False
        self.assertEqual([], self.sent())
        self.clock.advance(AGAIN)
        self.assertEqual((["a", "b"], 0), (self.sent(), self.counters["reply_lost"]))

    def leave_unkept(self, *ids: str) -> list[str]:
        """Let stanzas leave that the spool could not keep; returns where it is noted that they are gone."""
        gone: list[str] = []
        self.outbox.depart_unkept(self.outbox.maker.make([a_stanza(id_) for id_ in ids]), lambda: gone.append("gone"))
        return gone

    def test_spool_that_did_not_keep_it(self) -> None:
        """
        What could not be stored leaves all the same, and it is known when the server has all of it.
        """
        gone = self.leave_unkept("a", "b")
        self.assertEqual((["a", "b"], []), (self.sent(), gone))
        self.outlet.end("confirmed")
        self.assertEqual(["gone"], gone)

    def test_unkept_and_lost(self) -> None:
        """
        With a stream that is lost it leaves again, in its place among what the spool has.
        """
        self.leave("a")
        gone = self.leave_unkept("b", "c")
        self.leave("d")
        self.outlet.end("lost")
        also = self.leave_unkept("e")
        self.leave("f")
        self.assertEqual([*"abcd"], self.sent())
        self.read()
        self.assertEqual([*"abcdabcdef"], self.sent())
        self.outlet.end("confirmed")
        self.assertEqual((["gone"], ["gone"], {}), (gone, also, self.spool.outbound))

    def test_unkept_and_nothing_kept(self) -> None:
        """
        It is the same where the spool has nothing at all.
        """
        gone = self.leave_unkept("a")
        self.outlet.end("lost")
        self.read()
        self.outlet.end("expired")
        self.assertEqual((["a", "a"], ["gone"]), (self.sent(), gone))

    def test_unkept_and_not_taken(self) -> None:
        """
        What an outlet does not take is counted as lost, and not as gone.
        """
        self.outlet.full = True
        gone = self.leave_unkept("a", "b")
        self.assertEqual(([], 2), (gone, self.counters["reply_lost"]))

    def test_stop(self) -> None:
        """
        After the stop nothing is handed over, and what was lost stays on disk.
        """
        self.leave("a")
        self.outlet.crowded = True
        self.leave("b")
        self.outbox.stop()
        self.outlet.crowded = False
        self.outlet.end("lost")
        self.assertEqual((["a"], 2), (self.sent(), len(self.spool.outbound)))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_nothing_overtakes_after_the_stop(self) -> None:
        """
        What is kept after the stop waits on disk, where something before it does: the next start sends all in order.
        """
        self.leave("a")
        self.outlet.crowded = True
        self.leave("b")
        self.outbox.stop()
        self.outlet.crowded = False
        self.leave("c")
        self.assertEqual((["a"], 3), (self.sent(), len(self.spool.outbound)))

    def test_nothing_overtakes_what_was_lost_after_the_stop(self) -> None:
        """
        It is the same where the stream is lost after the stop.
        """
        self.leave("a")
        self.outbox.stop()
        self.outlet.end("lost")
        self.leave("b")
        self.assertEqual((["a"], 2), (self.sent(), len(self.spool.outbound)))

    def test_mistake(self) -> None:
        """
        An internal error while what is kept is read leaves nobody waiting for the end of it.
        """
        self.spool.held = []
        self.keep(self.outbox.maker.make([a_stanza("a")]))
        self.outbox.read_all()
        clear = self.outbox.when_clear()
        self.read()
        self.spool.held.pop().errback(ZeroDivisionError())
        self.successResultOf(clear)
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    @given(
        st.lists(
            st.one_of(
                st.tuples(st.just("leave"), st.integers(1, 5)),
                st.tuples(st.just("unkept"), st.integers(1, 3)),
                st.tuples(st.just("end"), st.sampled_from(["confirmed", "lost"])),
                st.tuples(st.just("crowded"), st.booleans()),
                st.tuples(st.just("slow"), st.booleans()),
                st.tuples(st.just("come"), st.none()),
                st.tuples(st.just("restart"), st.none()),
            ),
            max_size=40,
        )
    )
    def test_any_sequence(self, steps: list[tuple[str, Any]]) -> None:
        """
        Whatever happens, everything is confirmed in the end, and each time in order.
        """
        self.setUp()
        made = 0
        groups: list[tuple[range, list[str]]] = []
        unkept: set[int] = set()
        for word, value in steps:
            if word == "leave":
                self.leave(*(str(number) for number in range(made, made + value)))
                made += value
            elif word == "unkept":
                ids = range(made, made + value)
                groups.append((ids, self.leave_unkept(*map(str, ids))))
                made += value
            elif word == "end":
                self.outlet.end(value)
            elif word == "crowded":
                self.outlet.crowded = value
            elif word == "slow" and (value or not self.spool.held):
                self.spool.held = [] if value and self.spool.held is None else self.spool.held if value else None
            elif word == "come" and self.spool.held:
                self.spool.held.pop(0).callback(None)
            elif word == "restart":
                # What the spool did not keep comes with its delivery again, which is not this test's.
                unkept |= {id_ for ids, gone in groups if not gone for id_ in ids}
                self.outbox.stop()
                self.outlet = RecordingOutlet()
                self.spool.held = None
                self.outbox = self.an_outbox(self.spool)
                self.outbox.read_all()
            self.read()
            self.assert_in_order(unkept)
        self.outlet.crowded = False
        while self.spool.held:
            self.spool.held.pop(0).callback(None)
        self.outlet.end("lost")
        self.read()
        while self.spool.held:
            self.spool.held.pop(0).callback(None)
        self.assert_in_order(unkept)
        self.outlet.end("confirmed")
        self.assertEqual({}, self.spool.outbound)
        self.assertTrue(all(gone or unkept.issuperset(ids) for ids, gone in groups))

    def assert_in_order(self, missing: set[int]) -> None:
        """Each stanza comes after the one before it, or everything begins again from an earlier one."""
        numbers = [int(id_) for id_ in self.sent()]
        for before, after in pairwise(numbers):
            self.assertLessEqual(set(range(before + 1, after)), missing, numbers)


REFUSED = Refused("policy-violation", "raise the limit", for_size=True)


class RefusalTests(OutboxCase):
    """Stanzas that the server refuses, with a spool on disk."""

    def test_who_asked_is_told(self) -> None:
        """
        Who wrote gets an error for what he wrote, and the log has one line with the server's word and the remedy.
        """
        self.answer("r1", asked=a_question("q1"))
        with capturedLogs() as logs:
            self.outlet.end(REFUSED)
        self.assertEqual(["q1"], self.errors())
        [line] = [formatEvent(event) for event in logs if event["log_level"] is LogLevel.error]
        for word in ("d1.1", "policy-violation", "raise the limit"):
            self.assertIn(word, line)
        self.assertEqual(1, self.counters["outgoing_refused"])

    def test_nobody_is_told(self) -> None:
        """
        Nobody is told by an error of an error, nor where he may not be.
        """
        leaving = self.outbox.maker.make([a_stanza("r1", type="error")], delivery_id="d1", asked=a_question("q1"))
        self.outbox.depart(leaving, self.keep(leaving))
        self.answer("r2", asked=None)
        self.outlet.end(REFUSED)
        self.assertEqual(["r1"], self.errors())

    def test_who_waits_is_told(self) -> None:
        """
        Who waits until it is sent is told that it never is, and why; and so is who asks later.
        """
        numbers = self.successResultOf(self.push("a", "b"))
        waiting = Deferred.fromCoroutine(self.outbox.sent(numbers))
        self.outlet.end(REFUSED)
        for told in (waiting, Deferred.fromCoroutine(self.outbox.sent(numbers))):
            self.assertIn("policy-violation", str(self.failureResultOf(told, NotSent).value))

    def test_as_large(self) -> None:
        """
        What is as large as a stanza that was refused is not written any more for an hour, what is smaller is.
        """
        self.answer("large", asked=None, size=20_000)
        self.outlet.end(REFUSED)
        self.answer("larger", asked=a_question("q2"), size=20_001)
        self.answer("smaller", asked=None, size=19_000)
        self.assertEqual((["large", "q2", "smaller"], 2), (self.sent(), self.counters["outgoing_refused"]))
        self.clock.advance(TOO_LARGE_FOR)
        self.answer("later", asked=None, size=20_001)
        self.assertEqual("later", self.sent()[-1])

    def test_not_for_its_size(self) -> None:
        """
        What was refused for another reason, or is so small that every server takes it, says nothing about others.
        """
        self.answer("bad", asked=None, size=20_000)
        self.outlet.end(Refused("invalid-xml", "write it otherwise"))
        self.answer("small", asked=None, size=100)
        self.outlet.end(REFUSED)
        self.answer("large", asked=None, size=20_000)
        self.assertEqual(["bad", "small", "large"], self.sent())


class SuspectTests(OutboxCase):
    """What a spool on disk knows of them beside that."""

    def test_dead_letter(self) -> None:
        """
        It becomes a dead letter with the server's own word, and never leaves again.
        """
        self.answer("r1", asked=None)
        self.outlet.end(REFUSED)
        self.assertEqual([(1, "reply_refused")], self.spool.failures)
        self.assertIn("policy-violation", self.spool.dead[1][1] or "")
        self.outbox.read_from(0)
        self.read()
        self.assertEqual(["r1"], self.sent())

    def test_suspects(self) -> None:
        """
        What the server may have refused is known as such when it leaves again, also after a restart.
        """
        self.leave("a", "b")
        self.outlet.end("suspected")
        self.leave("c")
        self.read()
        self.assertEqual([False, False, True, True, False], [each.suspect for each in self.outlet.departed])
        self.outbox.stop()
        self.outbox = self.an_outbox(self.spool)
        self.outbox.read_all()
        self.read()
        self.assertEqual([True, True, False], [each.suspect for each in self.outlet.departed[-3:]])

    def test_unkept(self) -> None:
        """
        What the spool could not keep is held to the same.
        """
        gone: list[str] = []
        leaving = self.outbox.maker.make([a_stanza("a")], delivery_id="d1", asked=a_question("q1"))
        self.outbox.depart_unkept(leaving, lambda: gone.append("gone"))
        self.outlet.end("suspected")
        self.read()
        self.assertTrue(self.outlet.departed[-1].suspect)
        self.outlet.end(REFUSED)
        self.assertEqual((["gone"], ["q1"]), (gone, self.errors()))

    def test_retried(self) -> None:
        """
        When somebody retries dead letters, a large stanza is tried again at once.
        """
        self.answer("large", asked=None, size=20_000)
        self.outlet.end(REFUSED)
        leaving = self.outbox.maker.make([a_stanza("again")])
        self.keep(leaving)
        self.outbox.read_all()
        self.answer("larger", asked=None, size=20_001)
        self.read()
        self.assertEqual(["large", "again", "larger"], self.sent())


class MemoryRefusalTests(RefusalTests):
    """The same with a spool in memory."""

    def setUp(self) -> None:
        super().setUp()
        self.memory = MemorySpool()
        self.outbox = self.an_outbox(self.memory)

    def keep(self, leaving: Sequence[OutboundStanza]) -> Sequence[int]:
        return self.successResultOf(self.memory.push(leaving))


class MemoryTests(OutboxCase):
    """With a spool in memory, which forgets with the process."""

    def setUp(self) -> None:
        super().setUp()
        self.memory = MemorySpool()
        self.outbox = self.an_outbox(self.memory)

    def keep(self, leaving: Sequence[OutboundStanza]) -> Sequence[int]:
        return self.successResultOf(self.memory.push(leaving))

    def test_lost(self) -> None:
        """
        What the server may not have leaves again, in order, before what comes then; what it has does not.
        """
        self.leave("a")
        self.outlet.end("confirmed")
        self.leave("b", "c")
        self.outlet.end("suspected")
        self.leave("d")
        self.read()
        self.assertEqual([*"abcbcd"], self.sent())
        self.assertEqual([True, True, False], [each.suspect for each in self.outlet.departed[-3:]])
        self.outlet.end("confirmed")
        self.assertEqual({}, self.memory.outbound)

    def test_not_taken(self) -> None:
        """
        What the outlet does not take is offered again.
        """
        self.outlet.full = True
        self.leave("a", "b")
        self.read()
        self.outlet.full = False
        self.clock.advance(AGAIN)
        self.assertEqual((["a", "b"], 0), (self.sent(), self.counters["reply_lost"]))

    def test_crowded(self) -> None:
        """
        As long as the outlet is crowded, or an answer waits behind, no more should be made.
        """
        self.outlet.crowded = True
        self.assertTrue(self.outbox.crowded)
        clear = self.outbox.when_clear()
        self.leave("a")
        self.assertEqual([], self.sent())
        self.read()
        self.outlet.crowded = False
        self.successResultOf(clear)
        self.assertEqual((["a"], False), (self.sent(), self.outbox.crowded))
        self.successResultOf(self.outbox.when_clear())

    def test_no_room(self) -> None:
        """
        What is pushed when the spool is full is refused in whole, and its key forgotten; an answer is not refused.
        """
        self.memory = MemorySpool(max_outbound=1)
        self.outbox = self.an_outbox(self.memory)
        self.successResultOf(self.push("a", "b"))
        self.failureResultOf(self.push("c", "d", key="k"), SpoolError)
        self.assertIsNone(self.successResultOf(self.memory.recall("ops", "k")))
        self.assertEqual(["a", "b"], self.sent())
        self.outlet.end("confirmed")
        self.successResultOf(self.push("e"))

    def test_stop(self) -> None:
        """
        What was not written when the gateway has stopped is counted as lost; with a spool on disk nothing is.
        """
        self.leave("a")
        self.outlet.end("confirmed")
        self.leave("b", "c")
        self.outlet.crowded = True
        self.leave("d")
        self.outbox.stop()
        self.outlet.end("stopped")
        self.successResultOf(Deferred.fromCoroutine(self.outbox.count_lost()))
        self.assertEqual(3, self.counters["outgoing_lost"])
        kept = self.an_outbox(self.spool)
        self.successResultOf(self.spool.push(kept.maker.make([a_stanza("e")])))
        self.successResultOf(Deferred.fromCoroutine(kept.count_lost()))
        self.assertEqual(3, self.counters["outgoing_lost"])
