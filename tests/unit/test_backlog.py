"""Whose turn it is, and when there is no room for more."""

from __future__ import annotations

import weakref

from attrs import evolve
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from twisted.trial.unittest import SynchronousTestCase

from component_http.delivery.backlog import Backlog, BacklogLimits, Budget

ALICE, BOB, MALLORY = "alice@example.org", "bob@example.org", "mallory@example.org"
BOT, OTHER_BOT = "bot@bot.localhost", "other@bot.localhost"

WIDE = BacklogLimits(max_pending=1000, max_pending_bytes=1_000_000)


def a_chat(sender=ALICE, recipient=BOT):
    return (sender, recipient, False)


def a_backlog(*arrivals, limits=WIDE, max_running=1, size=10):
    """What is pending after deliveries of these conversations came, in this order; their ids are 0, 1, 2..."""
    backlog = Backlog(limits, max_running)
    for number, conversation in enumerate(arrivals):
        backlog.add(str(number), conversation, size)
    return backlog


def turns(backlog, number=1000):
    """The ids of up to so many turns, where each delivery ends at once."""
    ids = []
    while len(ids) < number and (delivery_id := backlog.next()) is not None:
        ids.append(delivery_id)
        backlog.remove(delivery_id)
    return ids


class OrderTests(SynchronousTestCase):
    """A conversation goes one by one, in the order it came; one that is stuck stalls no other."""

    def test_order_of_arrival(self) -> None:
        """
        Deliveries of one conversation run in the order they came.
        """
        self.assertEqual(["0", "1", "2"], turns(a_backlog(a_chat(), a_chat(), a_chat())))

    def test_one_at_a_time(self) -> None:
        """
        While a delivery runs, the next of its conversation does not.
        """
        backlog = a_backlog(a_chat(), a_chat(), max_running=2)
        self.assertEqual(("0", None), (backlog.next(), backlog.next()))

    def test_next_after_the_end(self) -> None:
        """
        As soon as a delivery has ended, it is the turn of the next of its conversation.
        """
        backlog = a_backlog(a_chat(), a_chat())
        backlog.remove(backlog.next())
        self.assertEqual("1", backlog.next())

    def test_conversations_run_side_by_side(self) -> None:
        """
        Other recipients, other senders and iqs are other conversations, and do not wait.
        """
        backlog = a_backlog(a_chat(), a_chat(ALICE, OTHER_BOT), a_chat(BOB), (ALICE, BOT, True), max_running=10)
        self.assertEqual({"0", "1", "2", "3"}, {backlog.next() for _ in range(4)})

    def test_backing_off_keeps_followers_back(self) -> None:
        """
        While a delivery waits for another attempt, the next of its conversation stays behind it.
        """
        backlog = a_backlog(a_chat(), a_chat())
        backlog.back_off(backlog.next())
        self.assertIsNone(backlog.next())

    def test_backing_off_frees_its_place(self) -> None:
        """
        While a delivery waits for another attempt, another conversation runs in its place.
        """
        backlog = a_backlog(a_chat(ALICE), a_chat(BOB))
        backlog.back_off(backlog.next())
        self.assertEqual("1", backlog.next())

    def test_risen_before_its_followers(self) -> None:
        """
        A delivery that has waited for its next attempt runs before those that came after it.
        """
        backlog = a_backlog(a_chat(), a_chat())
        backlog.back_off(backlog.next())
        backlog.ready_again("0")
        self.assertEqual(["0", "1"], turns(backlog))

    def test_risen_goes_to_the_end(self) -> None:
        """
        A delivery that has waited for its next attempt does not overtake who became ready before.
        """
        backlog = a_backlog(a_chat(ALICE), a_chat(BOB), a_chat(MALLORY))
        backlog.back_off(backlog.next())
        backlog.ready_again("0")
        self.assertEqual(["1", "2", "0"], turns(backlog))

    def test_ended_while_backing_off(self) -> None:
        """
        If a delivery ends while it waits for another attempt, the next of its conversation is ready.
        """
        backlog = a_backlog(a_chat(), a_chat())
        backlog.back_off(backlog.next())
        backlog.remove("0")
        self.assertEqual("1", backlog.next())

    def test_ended_in_the_middle(self) -> None:
        """
        A delivery that ends in the middle of its conversation is left out.
        """
        backlog = a_backlog(a_chat(), a_chat(), a_chat())
        backlog.remove("1")
        self.assertEqual(["0", "2"], turns(backlog))

    def test_ended_behind_a_running_one(self) -> None:
        """
        The end of one that waits lets nobody overtake the one that runs.
        """
        backlog = a_backlog(a_chat(), a_chat(), a_chat(), max_running=2)
        backlog.next()
        backlog.remove("1")
        self.assertEqual((1, None), (backlog.running, backlog.next()))

    def test_ended_before_its_turn(self) -> None:
        """
        If a ready delivery ends, the next of its conversation has its place in the round.
        """
        backlog = a_backlog(a_chat(ALICE), a_chat(BOB), a_chat(ALICE))
        backlog.remove("0")
        self.assertEqual(["2", "1"], turns(backlog))

    def test_last_one_ended_before_its_turn(self) -> None:
        """
        A conversation whose only delivery has ended has no turn any more.
        """
        backlog = a_backlog(a_chat(ALICE), a_chat(ALICE, OTHER_BOT), a_chat(BOB))
        backlog.remove("0")
        backlog.remove("2")
        self.assertEqual(["1"], turns(backlog))

    def test_running_at_most(self) -> None:
        """
        No more than `max_running` run at once; the end of one is the turn of another.
        """
        backlog = a_backlog(a_chat(ALICE), a_chat(BOB), a_chat(MALLORY), max_running=2)
        self.assertEqual(["0", "1", None], [backlog.next() for _ in range(3)])
        backlog.remove("0")
        self.assertEqual("2", backlog.next())


class RoundTests(SynchronousTestCase):
    """Turns go round by domain, sender and conversation, so that nobody suffers from the flood of another."""

    def test_many_senders_of_one_domain(self) -> None:
        """
        With one stanza of each of twelve thousand accounts of a domain waiting, somebody from elsewhere waits for one
        of them at most, and so does everybody of a domain that is as busy as theirs is calm.
        """
        backlog = a_backlog(*(a_chat(f"bot-{number}@flood.example") for number in range(12_000)))
        turns(backlog, 7)
        for number in range(3):
            backlog.add(f"calm-{number}", a_chat(f"user-{number}@example.org"), 10)
        self.assertEqual(
            ["calm-0", "calm-1", "calm-2"], [name for name in turns(backlog, 6) if name.startswith("calm")]
        )

    def test_a_room_is_of_its_service(self) -> None:
        """
        An address without a local part is of the domain that it is itself.
        """
        backlog = a_backlog(*[a_chat(f"room-{n}@rooms.example.org") for n in range(3)], a_chat("rooms.example.org"))
        self.assertEqual(["0", "1", "2", "3"], turns(backlog))

    def test_flood_delays_by_one_turn(self) -> None:
        """
        With a thousand stanzas of one sender waiting, in one conversation or in many, another sender's first one
        waits for one of them at most.
        """
        for recipients in (1, 100, 1000):
            flood = [a_chat(MALLORY, f"bot-{number % recipients}@bot.localhost") for number in range(1000)]
            backlog = a_backlog(*flood)
            turns(backlog, 7)
            backlog.add("calm", a_chat(ALICE), 10)
            self.assertIn("calm", turns(backlog, 2))

    def test_senders_take_turns(self) -> None:
        """
        A sender with many conversations has one turn for each of another sender, not one for each conversation.
        """
        backlog = a_backlog(a_chat(ALICE, BOT), a_chat(ALICE, OTHER_BOT), a_chat(ALICE, "third"), a_chat(BOB, BOT))
        self.assertEqual(["0", "3", "1", "2"], turns(backlog))

    def test_conversations_take_turns(self) -> None:
        """
        Within a sender, a long conversation has one turn for each of a short one.
        """
        backlog = a_backlog(a_chat(), a_chat(), a_chat(), a_chat(ALICE, OTHER_BOT))
        self.assertEqual(["0", "3", "1", "2"], turns(backlog))

    def test_new_conversation_does_not_overtake(self) -> None:
        """
        A sender who was just served does not come first again by starting another conversation.
        """
        backlog = a_backlog(a_chat(ALICE), a_chat(BOB), max_running=2)
        backlog.next()
        backlog.add("new", a_chat(ALICE, OTHER_BOT), 10)
        self.assertEqual("1", backlog.next())

    def test_new_conversation_keeps_the_place(self) -> None:
        """
        A sender who is waiting for a turn does not lose it by starting another conversation.
        """
        backlog = a_backlog(a_chat(ALICE), a_chat(BOB), a_chat(ALICE, OTHER_BOT))
        self.assertEqual("0", backlog.next())


class RefusalTests(SynchronousTestCase):
    """Memory is bounded, and who floods is refused first."""

    LIMITS = BacklogLimits(max_pending=100, max_pending_bytes=1000, max_per_conversation=100)

    def a_crowd(self, number, size=1, limits=LIMITS):
        """So many pending, each of another sender."""
        return a_backlog(*(a_chat(f"guest-{n}@example.org") for n in range(number)), limits=limits, size=size)

    def test_room(self) -> None:
        """
        The last one that fits is not refused.
        """
        self.assertIsNone(self.a_crowd(99).refusal(a_chat(), 1))

    def test_full(self) -> None:
        """
        One that would be more than `max_pending` is refused.
        """
        self.assertEqual("refused_full", self.a_crowd(100).refusal(a_chat(), 1))

    def test_full_of_bytes(self) -> None:
        """
        One that would make more than `max_pending_bytes` is refused, one that just fits is not.
        """
        backlog = self.a_crowd(9, size=100)
        self.assertEqual([None, "refused_full"], [backlog.refusal(a_chat(), size) for size in (100, 101)])

    def test_conversation_full(self) -> None:
        """
        One that would be more than `max_per_conversation` in its conversation is refused; one of another is not.
        """
        limits = evolve(self.LIMITS, max_per_conversation=3)
        backlog = a_backlog(*[a_chat()] * 3, limits=limits)
        self.assertEqual("refused_conversation_full", backlog.refusal(a_chat(), 1))
        self.assertIsNone(backlog.refusal(a_chat(ALICE, OTHER_BOT), 1))

    def test_share_does_not_matter_while_there_is_room(self) -> None:
        """
        Up to half of the limit one sender may hold it all, and not more.
        """
        backlog = a_backlog(*[a_chat()] * 49, limits=self.LIMITS, size=1)
        self.assertIsNone(backlog.refusal(a_chat(), 1))
        backlog.add("fiftieth", a_chat(), 1)
        self.assertEqual("refused_unfair", backlog.refusal(a_chat(), 1))

    def test_share_above_half(self) -> None:
        """
        Above half, a sender may hold a tenth of the limit, over all its conversations.
        """
        backlog = self.a_crowd(60)
        for number in range(9):
            backlog.add(f"alice-{number}", a_chat(ALICE, f"bot-{number}@bot.localhost"), 1)
        self.assertIsNone(backlog.refusal(a_chat(), 1))
        backlog.add("tenth", a_chat(), 1)
        self.assertEqual("refused_unfair", backlog.refusal(a_chat(), 1))

    def test_share_of_bytes(self) -> None:
        """
        Above half of the bytes, a sender may hold a tenth of the bytes.
        """
        backlog = self.a_crowd(6, size=100)
        backlog.add("alice", a_chat(), 60)
        self.assertEqual([None, "refused_unfair"], [backlog.refusal(a_chat(), size) for size in (40, 41)])

    def test_limits_are_looked_at_apart(self) -> None:
        """
        A sender with a large share of the bytes is not refused while only the number of deliveries is above half.
        """
        backlog = self.a_crowd(60)
        backlog.add("alice", a_chat(), 200)
        self.assertIsNone(backlog.refusal(a_chat(), 200))

    def test_flood_leaves_room(self) -> None:
        """
        While one sender's flood is refused, another sender has room.
        """
        backlog = a_backlog(*[a_chat(MALLORY)] * 50, limits=self.LIMITS, size=1)
        self.assertEqual(["refused_unfair", None], [backlog.refusal(a_chat(sender), 1) for sender in (MALLORY, ALICE)])

    def test_first_is_never_unfair(self) -> None:
        """
        A sender with nothing pending may send one that is larger than its share.
        """
        self.assertIsNone(self.a_crowd(6, size=100).refusal(a_chat(), 300))

    def test_room_again(self) -> None:
        """
        What has ended makes room, for all and for its sender.
        """
        backlog = a_backlog(*[a_chat()] * 50, limits=self.LIMITS, size=1)
        backlog.remove("25")
        self.assertIsNone(backlog.refusal(a_chat(), 1))

    def test_restored_beyond_the_limits(self) -> None:
        """
        What was accepted before a restart is taken, even if the limits are lower now.
        """
        backlog = self.a_crowd(120)
        self.assertEqual((120, "refused_full"), (backlog.pending, backlog.refusal(a_chat(), 1)))

    DOMAIN = BacklogLimits(max_pending=100, max_pending_bytes=1000, fair_share=0.2)

    def test_alone_a_domain_may_hold_all(self) -> None:
        """
        Where all users are of one domain, it may use the whole limit, and no more.
        """
        backlog = self.a_crowd(99, limits=self.DOMAIN)
        self.assertIsNone(backlog.refusal(a_chat(), 1))
        backlog.add("last", a_chat(), 1)
        self.assertEqual("refused_full", backlog.refusal(a_chat(BOB), 1))

    def test_a_domain_leaves_room_to_others(self) -> None:
        """
        While another domain has something pending, one domain may hold all but a sender's share of the limit.
        """
        backlog = self.a_crowd(79, limits=self.DOMAIN)
        backlog.add("other", a_chat("carol@example.net"), 1)
        self.assertIsNone(backlog.refusal(a_chat(), 1))
        backlog.add("eightieth", a_chat(), 1)
        self.assertEqual("refused_unfair", backlog.refusal(a_chat("guest-0@example.org"), 1))
        self.assertIsNone(backlog.refusal(a_chat("dave@example.net"), 1))
        backlog.remove("other")
        self.assertIsNone(backlog.refusal(a_chat("guest-0@example.org"), 1))

    def test_a_domain_leaves_bytes_to_others(self) -> None:
        """
        The same is true of bytes.
        """
        backlog = self.a_crowd(1, 700, limits=self.DOMAIN)
        backlog.add("other", a_chat("carol@example.net"), 1)
        self.assertEqual([None, "refused_unfair"], [backlog.refusal(a_chat(), size) for size in (100, 101)])

    def test_a_domain_that_came_first_shuts_nobody_out(self) -> None:
        """
        Where one domain has used the whole limit alone, others have their room beyond it, and that has an end, too.
        """
        backlog = self.a_crowd(100, limits=self.DOMAIN)
        for number in range(20):
            sender = a_chat(f"user-{number}@elsewhere.example")
            self.assertIsNone(backlog.refusal(sender, 1))
            backlog.add(f"new-{number}", sender, 1)
        for sender in "user-x@elsewhere.example", "carol@example.net":
            self.assertEqual("refused_full", backlog.refusal(a_chat(sender), 1))

    def test_fairness_can_be_off(self) -> None:
        """
        With a share of the whole limit for each, a domain may hold it all, whoever else waits.
        """
        backlog = self.a_crowd(98, limits=evolve(self.DOMAIN, fair_share=1.0))
        backlog.add("other", a_chat("carol@example.net"), 1)
        self.assertIsNone(backlog.refusal(a_chat(), 1))
        backlog.add("last", a_chat(), 1)
        self.assertEqual("refused_full", backlog.refusal(a_chat("carol@example.net"), 1))

    def test_reserved(self) -> None:
        """
        What is being stored, or waits for a late answer, counts for its sender and for all until it has ended.
        """
        backlog = a_backlog(limits=self.LIMITS)
        for _ in range(50):
            backlog.reserve(a_chat(MALLORY), 1)
        self.assertEqual(["refused_unfair", None], [backlog.refusal(a_chat(sender), 1) for sender in (MALLORY, ALICE)])
        self.assertEqual((0, None), (backlog.pending, backlog.next()))
        backlog.add("stored", a_chat(MALLORY), 1, reserved=True)
        self.assertEqual("refused_unfair", backlog.refusal(a_chat(MALLORY), 1))
        backlog.release(a_chat(MALLORY), 1)
        self.assertEqual(("stored", None), (backlog.next(), backlog.refusal(a_chat(MALLORY), 1)))


class BudgetTests(SynchronousTestCase):
    """Backlogs of several components that share room for 120."""

    def setUp(self) -> None:
        self.budget = Budget(120, 1_000_000)
        limits = BacklogLimits(max_pending=1000, fair_share=1.0)
        self.backlogs = [Backlog(limits, 10, self.budget) for _ in range(3)]

    def fill(self, backlog: Backlog) -> int:
        """Add deliveries until one is refused; returns how many it has."""
        while backlog.refusal(a_chat(f"user-{backlog.pending}@example.org"), 1) is None:
            backlog.add(f"{id(backlog)}-{backlog.pending}", a_chat(f"user-{backlog.pending}@example.org"), 1)
        return backlog.pending

    def test_a_flood_leaves_room(self) -> None:
        """
        One that is flooded takes half of the room; there is always some for another, and never more than all of it.
        """
        self.assertEqual([60, 30, 20], [self.fill(backlog) for backlog in self.backlogs])
        self.assertLessEqual(self.budget.pending, 120)

    def test_what_is_free_is_anybodys(self) -> None:
        """
        When the others have ended there is more room, and alone a component has all that its own limits allow.
        """
        one, two, three = self.backlogs
        self.fill(one)
        for delivery_id in list(one):
            one.remove(delivery_id)
        self.assertEqual(60, self.fill(two))
        one.close()
        three.close()
        self.assertEqual(1000, self.fill(two))

    def test_reading_pauses_before(self) -> None:
        """
        Reading pauses at three quarters of what a component may have.
        """
        one = self.backlogs[0]
        while not one.crowded:
            one.add(f"d{one.pending}", a_chat(), 1)
        self.assertEqual(46, one.pending)


class SpareRoomTests(SynchronousTestCase):
    """What may wait comes in only where what is live hardly waits for it."""

    LIMITS = BacklogLimits(max_pending=100, max_pending_bytes=1000)

    def test_conversation(self) -> None:
        """
        There is no room for it beside anything of its own conversation, be that only expected.
        """
        backlog = a_backlog(a_chat(), limits=self.LIMITS)
        self.assertEqual([False, True], [backlog.has_room_to_spare(a_chat(sender)) for sender in (ALICE, MALLORY)])
        backlog.reserve(a_chat(MALLORY), 1)
        self.assertFalse(backlog.has_room_to_spare(a_chat(MALLORY)))

    def test_busy(self) -> None:
        """
        There is none where as many wait as run at once, or half of a limit is used.
        """
        for number, size, room in ((5, 1, True), (6, 1, False), (1, 499, True), (1, 500, False)):
            crowd = [a_chat(f"guest-{n}@example.org") for n in range(number)]
            backlog = a_backlog(*crowd, limits=self.LIMITS, max_running=3, size=size)
            self.assertEqual(room, backlog.has_room_to_spare(a_chat()), (number, size))


class CrowdedTests(SynchronousTestCase):
    """Reading pauses at a high mark and goes on at a low one."""

    LIMITS = BacklogLimits(max_pending=100, max_pending_bytes=1000)

    def marks(self, number, size):
        backlog = a_backlog(*[a_chat()] * number, limits=self.LIMITS, size=size)
        return backlog.crowded, backlog.relieved

    def test_calm(self) -> None:
        """
        Up to half of both limits it is relieved.
        """
        self.assertEqual((False, True), self.marks(50, 10))

    def test_between(self) -> None:
        """
        From half to three quarters of a limit it is neither.
        """
        self.assertEqual([(False, False)] * 4, [self.marks(*x) for x in ((51, 1), (75, 1), (1, 501), (1, 750))])

    def test_crowded(self) -> None:
        """
        Above three quarters of either limit it is crowded.
        """
        self.assertEqual([(True, False)] * 2, [self.marks(76, 1), self.marks(1, 751)])


class IqTests(SynchronousTestCase):
    """Iqs have seconds, messages minutes."""

    def test_places_for_iqs(self) -> None:
        """
        Messages never take all places: an eighth, at least one, is kept for iqs.
        """
        for max_running, messages in ((32, 28), (8, 7), (3, 2), (2, 2), (1, 1)):
            backlog = a_backlog(*(a_chat(f"u{number}@x") for number in range(50)), max_running=max_running)
            self.assertEqual(messages, len(list(iter(backlog.next, None))))
            for number in range(50):
                backlog.add(f"i{number}", (f"u{number}@x", BOT, True), 1)
            self.assertEqual(max_running - messages, len(list(iter(backlog.next, None))))

    def test_next_free_place(self) -> None:
        """
        With one place an iq takes the next that is free, whoever waited before it.
        """
        backlog = a_backlog(a_chat(ALICE), a_chat(BOB), max_running=1)
        backlog.next()
        backlog.add("iq", (MALLORY, BOT, True), 1)
        backlog.remove("0")
        self.assertEqual("iq", backlog.next())

    def test_flood_of_iqs(self) -> None:
        """
        However many iqs there are, one turn of eight is a message's.
        """
        backlog = a_backlog(*((f"u{number}@x", BOT, True) for number in range(100)), a_chat(ALICE), a_chat(BOB))
        order = turns(backlog)
        self.assertEqual([7, 15], [order.index("100"), order.index("101")])

    def test_fewer_places(self) -> None:
        """
        Where a webhook takes fewer at once, iqs may be more by the places that are kept for them.
        """
        backlog = a_backlog(*(a_chat(f"u{number}@x") for number in range(50)), max_running=32)
        self.assertEqual(8, len(list(iter(lambda: backlog.next(8), None))))
        for number in range(50):
            backlog.add(f"i{number}", (f"u{number}@x", BOT, True), 1)
        self.assertEqual(4, len(list(iter(lambda: backlog.next(8), None))))

    def test_waiting(self) -> None:
        """
        All that is pending of a conversation is known, in the order it came.
        """
        backlog = a_backlog(a_chat(ALICE), a_chat(BOB), a_chat(ALICE))
        self.assertEqual((["0", "2"], []), (backlog.waiting(a_chat(ALICE)), backlog.waiting(a_chat(MALLORY))))
        self.assertEqual((2, True), (backlog.conversations, backlog.ready))


class BooksTests(SynchronousTestCase):
    """What is pending is known exactly, and what has ended is forgotten."""

    def test_counts(self) -> None:
        """
        What runs, backs off or waits is pending; only what runs is running.
        """
        backlog = a_backlog(a_chat(ALICE), a_chat(BOB), a_chat(BOB), max_running=2, size=10)
        backlog.next()
        backlog.next()
        backlog.back_off("0")
        self.assertEqual((3, 30, 1), (backlog.pending, backlog.pending_bytes, backlog.running))

    def test_all_that_is_pending(self) -> None:
        """
        All that is pending is listed in the order it came, whatever its state.
        """
        backlog = a_backlog(a_chat(BOB), a_chat(ALICE), a_chat(BOB), a_chat(ALICE))
        backlog.back_off(backlog.next())
        backlog.next()
        backlog.remove("2")
        self.assertEqual(["0", "1", "3"], list(backlog))

    def test_ended_while_listed(self) -> None:
        """
        A drain may end each delivery as it is listed.
        """
        backlog = a_backlog(a_chat(), a_chat(), a_chat())
        for delivery_id in backlog:
            backlog.remove(delivery_id)
        self.assertEqual((0, 0, 0), (backlog.pending, backlog.pending_bytes, backlog.running))

    def test_known(self) -> None:
        """
        A delivery is known from its arrival to its end.
        """
        backlog = a_backlog(a_chat(), a_chat())
        backlog.remove("0")
        self.assertEqual([False, True], ["0" in backlog, "1" in backlog])

    def test_known_id_again(self) -> None:
        """
        An id that is pending cannot come again.
        """
        with self.assertRaisesRegex(ValueError, "0 is pending already"):
            a_backlog(a_chat()).add("0", a_chat(BOB), 1)

    def test_unknown_id(self) -> None:
        """
        An id that is not pending can neither back off, be ready again nor end.
        """
        backlog = a_backlog(a_chat())
        for change in (backlog.back_off, backlog.ready_again, backlog.remove):
            with self.assertRaises(KeyError):
                change("stranger")

    def test_wrong_state(self) -> None:
        """
        Only what runs can back off, only what backs off can be ready again.
        """
        backlog = a_backlog(a_chat(ALICE), a_chat(BOB), a_chat(MALLORY), a_chat(ALICE), a_chat(BOB), max_running=2)
        backlog.back_off(backlog.next())
        backlog.next()
        for delivery_id in "0", "2", "3", "4":
            with self.assertRaisesRegex(ValueError, f"{delivery_id} is not running"):
                backlog.back_off(delivery_id)
        for delivery_id in "1", "2", "3", "4":
            with self.assertRaisesRegex(ValueError, f"{delivery_id} is not backing off"):
                backlog.ready_again(delivery_id)
        self.assertEqual((5, 1), (backlog.pending, backlog.running))


SENDERS = ("a@example.org", "b@example.org", "c@example.net", "example.net")


def domain_of(sender):
    return sender.split("@")[-1]


class Watched(str):
    """A string that can be seen to be forgotten."""

    __slots__ = ("__weakref__",)


def remembered(watched):
    """Which of these somebody still has, given weak references to them."""
    return [name for name in (reference() for reference in watched) if name is not None]


class BacklogMachine(RuleBasedStateMachine):
    """
    Anything that can happen to a backlog, next to one that only keeps lists.

    It also counts turns, of iqs and of others apart: between becoming ready and its own turn, a domain sees at most one
    turn of any other, and so does a sender within its domain, and a conversation within its sender. The names it gives
    to the backlog it does not keep, to see who does.
    """

    LIMITS = BacklogLimits(max_pending=12, max_pending_bytes=40, max_per_conversation=4, fair_share=0.25)
    MAX_RUNNING = 3

    def __init__(self) -> None:
        super().__init__()
        self.backlog = Backlog(self.LIMITS, self.MAX_RUNNING)
        self.arrived = 0
        self.pending = {}
        self.running = set()
        self.backing_off = set()
        self.reserved = []
        self.iqs_in_a_row = 0
        # Whose turns each domain, sender and conversation saw since it became ready.
        self.seen = {}
        self.watched = []

    def ready(self):
        """The first delivery of each conversation that has none running or backing off."""
        first = {}
        for delivery_id, (conversation, _) in self.pending.items():
            first.setdefault(conversation, delivery_id)
        return {conversation: d for conversation, d in first.items() if d not in self.running | self.backing_off}

    def note_who_is_ready(self) -> None:
        ready = {name for conversation in self.ready() for name in self.ranks(conversation)}
        self.seen = {name: self.seen.get(name, set()) for name in ready}

    def ranks(self, conversation):
        """The domain, the sender and the conversation, each as what comes before it and its own name; iqs apart."""
        sender, _, is_iq = conversation
        domain = domain_of(sender)
        return ((is_iq,), domain), ((is_iq, domain), sender), ((is_iq, domain, sender), conversation)

    def one_of(self, deliveries, data):
        return data.draw(st.sampled_from(sorted(deliveries)))

    @rule(
        sender=st.sampled_from(SENDERS),
        recipient=st.sampled_from("xy"),
        is_iq=st.booleans(),
        size=st.integers(0, 9),
        restored=st.booleans(),
    )
    def arrives(self, sender, recipient, is_iq, size, restored) -> None:
        conversation = (sender, recipient, is_iq)
        refusal = self.backlog.refusal(conversation, size)
        assert self.expected_refusal(conversation, size) == refusal
        if refusal is None or restored:
            delivery_id = f"d{self.arrived}"
            self.arrived += 1
            names = Watched(delivery_id), Watched(sender), Watched(recipient)
            self.backlog.add(names[0], (*names[1:], is_iq), size)
            self.watched += map(weakref.ref, names)
            self.pending[delivery_id] = (conversation, size)
            self.note_who_is_ready()

    @rule(sender=st.sampled_from(SENDERS), size=st.integers(0, 9))
    def is_reserved(self, sender, size) -> None:
        name = Watched(sender)
        self.backlog.reserve((name, "x", False), size)
        self.watched.append(weakref.ref(name))
        self.reserved.append((sender, size))

    @precondition(lambda self: self.reserved)
    @rule(data=st.data())
    def is_released(self, data) -> None:
        sender, size = data.draw(st.sampled_from(self.reserved))
        self.backlog.release((sender, "x", False), size)
        self.reserved.remove((sender, size))

    def expected_refusal(self, conversation, size):
        """As `BacklogLimits` says for `LIMITS`, with a quarter of 12 and of 40 kept for other domains."""
        held = self.reserved + [(c[0], s) for c, s in self.pending.values()]
        sender, domain = conversation[0], domain_of(conversation[0])
        of_domain = [(name, s) for name, s in held if domain_of(name) == domain]
        of_sender = [(name, s) for name, s in held if name == sender]
        alone = of_domain == held
        full = unfair = False
        for measure, limit in ((lambda s: 1), 12), ((lambda s: s), 40):
            used, by_domain, by_sender = (
                sum(measure(s) for _, s in some) + measure(size) for some in (held, of_domain, of_sender)
            )
            kept = 0 if alone else limit / 4
            small = not alone and (not of_domain or by_domain <= kept)
            full |= used > (limit + kept if small else limit)
            if used > limit / 2:
                unfair |= bool(of_sender) and by_sender > limit / 4
                unfair |= bool(of_domain) and by_domain > limit - kept
        if full:
            return "refused_full"
        together = [c for c, _ in self.pending.values()] + [(sender, "x", False) for sender, _ in self.reserved]
        if together.count(conversation) >= self.LIMITS.max_per_conversation:
            return "refused_conversation_full"
        return "refused_unfair" if unfair else None

    @rule()
    def turn(self) -> None:
        turn = self.backlog.next()
        ready = self.ready()
        messages = sum(not self.pending[each][0][2] for each in self.running)
        may_be_message = messages < self.MAX_RUNNING - 1 and any(not is_iq for _, _, is_iq in ready)
        may_be_iq = any(is_iq for _, _, is_iq in ready)
        if turn is None:
            assert len(self.running) == self.MAX_RUNNING or not (may_be_message or may_be_iq)
            return
        delivery_id = str(turn)
        assert len(self.running) < self.MAX_RUNNING
        conversation = self.pending[delivery_id][0]
        assert ready[conversation] == delivery_id
        is_iq = conversation[2]
        assert is_iq or may_be_message
        assert is_iq or not may_be_iq or self.iqs_in_a_row == 7, "an iq waited for a message"
        self.iqs_in_a_row = self.iqs_in_a_row + may_be_message if is_iq else 0
        assert self.iqs_in_a_row < 8, "a message waited for more than seven iqs"
        for rank in self.ranks(conversation):
            for other in self.seen.keys() - {rank}:
                if other[0] == rank[0]:
                    assert rank not in self.seen[other], f"{other} waited for two turns of {rank}"
                    self.seen[other].add(rank)
            del self.seen[rank]
        self.running.add(delivery_id)
        self.note_who_is_ready()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def backs_off(self, data) -> None:
        delivery_id = self.one_of(self.running, data)
        self.backlog.back_off(delivery_id)
        self.running.remove(delivery_id)
        self.backing_off.add(delivery_id)

    @precondition(lambda self: self.backing_off)
    @rule(data=st.data())
    def rises(self, data) -> None:
        delivery_id = self.one_of(self.backing_off, data)
        self.backlog.ready_again(delivery_id)
        self.backing_off.remove(delivery_id)
        self.note_who_is_ready()

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def ends(self, data) -> None:
        self.end(self.one_of(self.pending, data))

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def answered(self, data) -> None:
        self.end(self.one_of(self.running, data))

    def end(self, delivery_id) -> None:
        self.backlog.remove(delivery_id)
        del self.pending[delivery_id]
        self.running.discard(delivery_id)
        self.backing_off.discard(delivery_id)
        self.note_who_is_ready()

    @precondition(lambda self: len(self.pending) > self.LIMITS.max_pending)
    @rule()
    def all_end(self) -> None:
        for delivery_id in self.backlog:
            self.end(str(delivery_id))
        assert self.backlog.pending == 0

    @invariant()
    def books_are_right(self) -> None:
        backlog = self.backlog
        size = sum(size for _, size in self.pending.values())
        assert list(self.pending) == list(backlog)
        assert (len(self.pending), size, len(self.running)) == (backlog.pending, backlog.pending_bytes, backlog.running)
        assert (len(self.pending) > 9 or size > 30) == backlog.crowded
        assert (len(self.pending) <= 6 and size <= 20) == backlog.relieved

    @invariant()
    def the_rest_is_forgotten(self) -> None:
        pending = set(self.pending).union(*(conversation for conversation, _ in self.pending.values()))
        senders = {c[0] for c, _ in self.pending.values()}.union(sender for sender, _ in self.reserved)
        pending |= senders | {domain_of(sender) for sender in senders}
        self.watched = [reference for reference in self.watched if reference() is not None]
        assert pending.issuperset(remembered(self.watched))


class ScheduleTests(BacklogMachine.TestCase):  # type: ignore[valid-type]
    """
    Whatever happens in whatever order: at most `max_running` run, one delivery of a conversation runs or backs off, its
    order is kept, nobody starves, nothing is lost, the counts are exact, and what has ended leaves no trace.
    """

    settings = settings(deadline=None, stateful_step_count=100)
