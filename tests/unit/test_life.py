"""The stages of a delivery and of a stop, and who may come in."""

from __future__ import annotations

import weakref

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.words.xish.domish import Element

from component_http.contract.address import Address
from component_http.contract.conditions import StanzaError
from component_http.contract.delivery import Delivery
from component_http.contract.reply import Response
from component_http.contract.stanza import Stanza
from component_http.contract.xml import NS_COMPONENT
from component_http.delivery.admission import MAX_STORING_BYTES, PAUSE_STORING, Admission, closed
from component_http.delivery.alarm import Alarm
from component_http.delivery.back_off import BackOffs
from component_http.delivery.backlog import Backlog, BacklogLimits
from component_http.delivery.bans import MAX_BANS, Bans
from component_http.delivery.breaker import Breaker
from component_http.delivery.health import Health
from component_http.delivery.life import ENDING, FOLLOWS, OPEN, READY, STORING, Attempt, Lives, Wait
from component_http.delivery.load import Load
from component_http.delivery.slices import SLICE
from component_http.operations.metrics import Counters


def a_delivery(number: int = 1, size: int = 10) -> Delivery:
    stanza = Stanza(
        "message",
        "chat",
        "m1",
        Address.parse(f"user{number}@example.org/phone"),
        Address.parse("bot@bot.example.org"),
        False,
        Element((NS_COMPONENT, "message")),
    )
    return Delivery(f"d{number}", stanza, size, 900.0)


class LifeTests(SynchronousTestCase):
    """One stage at a time."""

    def setUp(self) -> None:
        self.lives = Lives()

    def test_from_the_beginning_to_the_end(self) -> None:
        """
        A delivery goes from stage to stage, and nothing is left of it at the end.
        """
        delivery = a_delivery()
        self.lives.begin(delivery, STORING)
        self.assertEqual(["d1"], [*self.lives.at("storing")])
        running = Attempt(delivery, 0.0, None, 0, self.fail)
        wait = Wait("backing_off", 1.0, 0)
        for stage in (READY, running, wait, READY, ENDING):
            self.lives.move(delivery, stage)
            self.assertEqual((stage.name, 1), (delivery.stage.name, len(self.lives)))
        self.lives.end(delivery)
        self.assertEqual((0, "over"), (len(self.lives), delivery.stage.name))
        self.assertFalse(any(self.lives.at(stage) for stage in FOLLOWS.keys() - {"new", "ready", "over"}))

    def test_what_may_not_follow(self) -> None:
        """
        A stage that the table does not have after another one is a bug, which changes nothing.
        """
        delivery = a_delivery()
        self.lives.begin(delivery, READY)
        with self.assertRaisesRegex(ValueError, "d1 cannot be open after it was ready"):
            self.lives.move(delivery, OPEN)
        self.assertEqual((READY, False, True), (delivery.stage, *(self.lives.may(delivery, s) for s in (OPEN, ENDING))))

    def test_every_stage_leads_on(self) -> None:
        """
        From each stage but the last ones there is a way to the end.
        """
        for stage in FOLLOWS.keys() - {"over", "left"}:
            reached, left = set(), [stage]
            while left:
                for following in FOLLOWS[left.pop()]:
                    if following not in reached:
                        reached.add(following)
                        left.append(following)
            self.assertIn("over", reached, stage)

    def test_cancelled(self) -> None:
        """
        What goes on at a stage is cancelled with it: a POST is cut off.
        """
        post: Deferred[None] = Deferred()
        posted = a_delivery(1)
        attempt = Attempt(posted, 0.0, None, 0, self.fail)
        attempt.waits_for = post
        self.lives.begin(posted, READY)
        self.lives.move(posted, attempt)
        self.lives.stop(posted, ENDING)
        self.failureResultOf(post, CancelledError)

    def test_taken_in_charge_by_another(self) -> None:
        """
        A delivery that an earlier gateway has left is new to the next one.
        """
        delivery = a_delivery()
        self.lives.begin(delivery, READY)
        after = Lives()
        after.begin(delivery, READY)
        self.assertEqual((1, READY), (len(after), delivery.stage))


class WaitTests(SynchronousTestCase):
    """Many deliveries wait for their next attempt."""

    def setUp(self) -> None:
        self.clock, self.lives, self.rings = Clock(), Lives(), 0
        limits = BacklogLimits(max_pending=10_000)
        self.backlog = Backlog(limits, 10_000)
        health = Health(Counters(), Load(32, learns=True), Breaker(), self.clock)
        self.back_offs = BackOffs(self.lives, self.backlog, health, self.clock, self.ring)

    def ring(self) -> None:
        self.rings += 1

    def wait(self, number: int, seconds: float) -> Delivery:
        """Let a delivery of its own conversation wait."""
        delivery = a_delivery(number)
        delivery.conversation = f"u{number}@example.org", "bot@bot.example.org", False
        self.lives.begin(delivery, READY)
        self.backlog.add(delivery.id, delivery.conversation, 1)
        self.assertEqual(delivery.id, self.backlog.next())
        self.lives.move(delivery, Attempt(delivery, 0.0, None, 0, self.fail))
        self.back_offs.begin(delivery, seconds)
        return delivery

    def test_one_timer(self) -> None:
        """
        All have one timer; waits that end at once end in their order, and others have a turn after some of them.
        """
        for number in range(5 * SLICE):
            self.wait(number, 7.0)
        self.wait(5 * SLICE, 3.0)
        self.assertEqual(1, len(self.clock.getDelayedCalls()))
        self.clock.advance(3.0)
        self.assertEqual(f"d{5 * SLICE}", self.backlog.next())
        seen: list[int] = []
        self.clock.callLater(4.0, lambda: seen.append(len(self.lives.at("backing_off"))))
        self.clock.advance(4.0)
        self.assertEqual([4 * SLICE], seen)
        self.assertEqual([f"d{number}" for number in range(5 * SLICE)], [self.backlog.next() for _ in range(5 * SLICE)])
        self.assertEqual(([], 6), (self.clock.getDelayedCalls(), self.rings))

    def test_ended_before(self) -> None:
        """
        Deliveries that end before their waits are over are kept by nobody, and none of them is ready again.
        """
        gone = []
        for number in range(5 * SLICE):
            delivery = self.wait(number, 600.0)
            self.lives.stop(delivery, ENDING)
            self.lives.end(delivery)
            self.backlog.remove(delivery.id)
            gone.append(weakref.ref(delivery.stanza.element))
            del delivery
        self.assertLess(sum(each() is not None for each in gone), 2 * SLICE)
        self.clock.advance(600.0)
        self.assertEqual((0, None), (self.rings, self.backlog.next()))

    def test_another_wait(self) -> None:
        """
        A delivery whose wait ended before, and that waits again, waits as long as the second one.
        """
        delivery = self.wait(1, 1.0)
        self.lives.stop(delivery, READY)
        self.backlog.ready_again(delivery.id)
        self.backlog.next()
        self.lives.move(delivery, Attempt(delivery, 0.0, None, 0, self.fail))
        self.back_offs.begin(delivery, 5.0)
        self.clock.advance(1.0)
        self.assertEqual("backing_off", delivery.stage.name)
        self.clock.advance(4.0)
        self.assertEqual("ready", delivery.stage.name)


class AdmissionTests(SynchronousTestCase):
    """Who may come in."""

    def setUp(self) -> None:
        self.backlog = Backlog(BacklogLimits(max_pending=2000, max_pending_bytes=2**30), 4)
        self.admission = Admission(self.backlog)

    def refusal(self, delivery: Delivery) -> str | None:
        refused = self.admission.refusal(delivery.conversation, delivery.size)
        return None if refused is None else refused.event

    def test_closed(self) -> None:
        """
        Nothing comes in while the gateway stops, and when the webhook is gone; senders hear which.
        """
        gone = StanzaError("cancel", "gone")
        self.assertIsNone(closed(stopping=False, gone=None))
        for stopping, event in ((True, "refused_stopping"), (False, "refused_gone")):
            refused = closed(stopping=stopping, gone=gone)
            self.assertEqual(event, refused and refused.event)

    def test_what_is_stored_counts(self) -> None:
        """
        What is on its way into the spool counts for the limits, until it is stored or cannot be.
        """
        backlog = Backlog(BacklogLimits(max_pending=1), 4)
        self.admission = Admission(backlog)
        self.admission.begin(a_delivery(1))
        self.assertEqual("refused_full", self.refusal(a_delivery(2)))
        self.admission.not_stored(a_delivery(1))
        self.assertIsNone(self.refusal(a_delivery(2)))

    def test_too_many_bytes_to_store(self) -> None:
        """
        Of what waits to be stored there are so many bytes in memory; a single large one always gets in.
        """
        large = a_delivery(1, MAX_STORING_BYTES + 1)
        self.assertIsNone(self.refusal(large))
        self.admission.begin(large)
        self.assertEqual("refused_unstored", self.refusal(a_delivery(2)))

    def test_pause(self) -> None:
        """
        When much waits to be stored reading pauses until none of it does.
        """
        deliveries = [a_delivery(number) for number in range(PAUSE_STORING + 1)]
        for delivery in deliveries:
            self.admission.begin(delivery)
        for delivery in deliveries:
            self.assertTrue(self.admission.much_to_store)
            self.admission.not_stored(delivery)
        self.assertFalse(self.admission.much_to_store)


class BansTests(SynchronousTestCase):
    """Conversations that are left alone."""

    def test_until(self) -> None:
        """
        A conversation is left alone until the time that the webhook has named, and it is known how it said so.
        """
        bans, delivery = Bans(), a_delivery()
        delivery.failure = Response(429, {}, b"not kept")
        bans.add(delivery, 10.0)
        ban = bans.of(delivery.conversation, 9.9)
        self.assertEqual((10.0, Response(429)), ban and (ban.until, ban.response))
        self.assertIsNone(bans.of(delivery.conversation, 10.0))

    def test_so_many(self) -> None:
        """
        Beyond so many the oldest are forgotten.
        """
        bans = Bans()
        for number in range(MAX_BANS + 1):
            bans.add(a_delivery(number), 10.0)
        self.assertIsNone(bans.of(a_delivery(0).conversation, 0.0))
        self.assertIsNotNone(bans.of(a_delivery(1).conversation, 0.0))


class AlarmTests(SynchronousTestCase):
    """A timer for the earliest of several times."""

    def test_earliest(self) -> None:
        """
        It rings once, at the earliest time, and then when it is set again.
        """
        clock, rung = Clock(), []
        alarm = Alarm(clock, lambda: rung.append(clock.seconds()))
        for wait in (5.0, 3.0, 4.0, float("inf")):
            alarm.set(wait)
        clock.pump([1.0] * 6)
        self.assertEqual(([3.0], False), (rung, alarm.is_set))
        alarm.set(-1.0)
        clock.advance(0)
        self.assertEqual([3.0, 6.0], rung)

    def test_cancelled(self) -> None:
        """
        One that is cancelled does not ring.
        """
        clock = Clock()
        alarm = Alarm(clock, self.fail)
        alarm.set(1.0)
        alarm.cancel()
        alarm.cancel()
        self.assertEqual([], clock.getDelayedCalls())
