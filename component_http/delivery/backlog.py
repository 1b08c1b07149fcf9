"""Order and limits of what waits for the webhook: whose turn it is, and whether there is room for more."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from attrs import frozen

from component_http.delivery.rounds import Conversation, ConversationQueue, Domain, Round, Sender

Refusal = Literal["refused_full", "refused_conversation_full", "refused_unfair"]
"""Why there is no room, by the name of what to count."""


@frozen
class BacklogLimits:
    """
    The limits of what may be pending, and the marks at which reading pauses and goes on.

    The fractions, 0 to 1, are of `max_pending` and of `max_pending_bytes` alike.

    Attributes:
        max_pending: Deliveries in all. It bounds memory while the webhook is slow or away.
        max_pending_bytes: Bytes of their request bodies in all; the same when the stanzas are large.
        max_per_conversation: Deliveries of one conversation. It goes one by one, and nobody waits for the thousandth
            answer.
        fair_above: How much is used before a sender's share is looked at: as long as there is room, it is anybody's.
        fair_share: What one bare sender may hold from then on, so that a flood takes no room from others. As much is
            kept for other domains (`kept_for_others`), so that the many accounts of one domain take no room from them.
        max_waiting: Deliveries that should wait for a webhook that answers, if `max_pending` is not less: more of them
            would only wait longer, and cost memory and time.
        pause_above: How much of `max_waiting`, or of the bytes, is used when no more should be read: what waits at the
            server needs no refusal.
        resume_below: How much is used, at most, when reading should go on; well below, so that it does not flutter.
    """

    max_pending: int = 10_000
    max_pending_bytes: int = 67_108_864
    max_per_conversation: int = 1000
    fair_above: float = 0.5
    fair_share: float = 0.1
    max_waiting: int = 10_000
    pause_above: float = 0.75
    resume_below: float = 0.5

    @property
    def kept_for_others(self) -> float:
        """The fraction that one domain leaves to others; 0 with a `fair_share` of 1, which switches fairness off."""
        return min(self.fair_share, 1 - self.fair_share)

    @property
    def most_pending(self) -> int:
        """Deliveries in all, with those of domains that hold little and may exceed `max_pending`."""
        return math.ceil(self.max_pending * (1 + self.kept_for_others))


MESSAGE_SHARE = 8
"""
One of so many places is kept for iqs, and one of so many turns is a message's: iqs have seconds, messages minutes, but
neither may have to wait for the end of the others.
"""


class Budget:
    """
    The room that the backlogs of several components share, so that none takes it from the others.

    A backlog may use half of what the others leave: one that is flooded at most half of the room, and two of them a
    third each. So there is always room for another. However much the others use, it may use its part of half the room.

    Args:
        max_pending: Deliveries of all of them together.
        max_pending_bytes: Bytes of their request bodies.

    Attributes:
        is_shared: More than one backlog has joined.
    """

    def __init__(self, max_pending: int, max_pending_bytes: int) -> None:
        self._most = max_pending
        self._most_bytes = max_pending_bytes
        self._backlogs: list[Backlog] = []
        self.is_shared = False

    def use(self, max_pending: int, max_pending_bytes: int) -> None:
        """Share other room from now on."""
        self._most, self._most_bytes = max_pending, max_pending_bytes

    def join(self, backlog: Backlog) -> None:
        self._backlogs.append(backlog)
        self.is_shared = len(self._backlogs) > 1

    def leave(self, backlog: Backlog) -> None:
        self._backlogs.remove(backlog)
        self.is_shared = len(self._backlogs) > 1

    @property
    def pending(self) -> int:
        """Deliveries of all of them."""
        return sum([backlog.pending for backlog in self._backlogs])

    def room(self, backlog: Backlog, limits: BacklogLimits) -> tuple[float, float]:
        """Say how many deliveries, and bytes, a backlog may have; never more than its own limits."""
        number = len(self._backlogs)
        free, free_bytes = self._most, self._most_bytes
        for other in self._backlogs:
            if other is not backlog:
                free -= other.pending
                free_bytes -= other.pending_bytes
        return (
            min(limits.max_pending, max(free, self._most / number) / 2),
            min(limits.max_pending_bytes, max(free_bytes, self._most_bytes / number) / 2),
        )


class Backlog:
    """
    The deliveries that are pending: accepted, and not ended.

    One delivery of a conversation is under way at a time, running or backing off between two attempts, and its
    followers wait behind it in the order they came. Conversations whose first delivery is ready take turns: by the
    sender's domain, within a domain by sender, and within a sender by conversation. A domain, sender and conversation
    that was served goes to the end of its round. So a domain that is ready waits for at most one turn of each other
    domain, however many senders they have, and a sender for at most one turn of each other sender of its domain.

    A domain is what stands behind the @, as it is written: subdomains are domains of their own, because no rule tells
    which of them belong to one owner.

    Iqs go before messages and presences, but for one turn in eight. Of more than two places an eighth, at least one,
    is kept for them. Both take turns apart from each other.

    Each operation takes the same time however much is pending, but for iterating. A sender with nothing pending leaves
    no trace.

    Ids are the caller's: one that is not pending raises KeyError, one in another state than the call is for
    ValueError. Both are bugs.

    Args:
        limits: What `refusal`, `crowded` and `relieved` go by.
        max_running: Deliveries that run at once, 1 or more; one that backs off is not running.
        budget: The room that it shares with others; None for none.
    """

    def __init__(self, limits: BacklogLimits, max_running: int, budget: Budget | None = None) -> None:
        self._limits = limits
        self._budget = budget
        if budget is not None:
            budget.join(self)
        self._max_running = max_running
        self._running = 0
        self._pending_bytes = 0
        self._queue_of: dict[str, ConversationQueue] = {}
        self._queues: dict[Conversation, ConversationQueue] = {}
        self._senders: dict[str, Sender] = {}
        self._domains: dict[str, Domain] = {}
        # The ready conversations, those of iqs apart; the iqs that run, and those that went before a message.
        self._iqs = Round(of_iqs=True)
        self._others = Round(of_iqs=False)
        self._running_iqs = 0
        self._passed = 0
        # What has room without a turn; it counts for the limits.
        self._reserved = 0
        self._reserved_bytes = 0
        self._reserved_of: dict[Conversation, int] = {}

    def close(self) -> None:
        """Give back the room that it shares with others: it is not used any more."""
        if self._budget is not None:
            self._budget.leave(self)

    def use(self, limits: BacklogLimits, max_running: int) -> None:
        """Go by other limits from now on; those that run, and all that is pending, go on."""
        self._limits, self._max_running = limits, max_running

    @property
    def pending(self) -> int:
        """Deliveries in all."""
        return len(self._queue_of)

    @property
    def pending_bytes(self) -> int:
        """Their sizes in all."""
        return self._pending_bytes

    @property
    def running(self) -> int:
        """Deliveries that run, never more than `max_running`."""
        return self._running

    @property
    def used(self) -> float:
        """The used part of the overall limit that is used most: 0 to 1, and more after a restart."""
        most, most_bytes = self._room()
        return max(self.pending / most, self._pending_bytes / most_bytes)

    def _room(self) -> tuple[float, float]:
        """The overall limits: deliveries, and bytes."""
        limits = self._limits
        if self._budget is None or not self._budget.is_shared:
            return limits.max_pending, limits.max_pending_bytes
        return self._budget.room(self, limits)

    @property
    def crowded(self) -> bool:
        """So much waits that reading should pause, if the webhook answers."""
        return self._waiting_part > self._limits.pause_above

    @property
    def relieved(self) -> bool:
        """So little waits that reading should go on."""
        return self._waiting_part <= self._limits.resume_below

    @property
    def _waiting_part(self) -> float:
        most, most_bytes = self._room()
        return max(self.pending / min(most, self._limits.max_waiting), self._pending_bytes / most_bytes)

    def __contains__(self, delivery_id: object) -> bool:
        return delivery_id in self._queue_of

    def __iter__(self) -> Iterator[str]:
        """The ids of all that was pending when it began, in order of arrival; they may be removed meanwhile."""
        return iter(list(self._queue_of))

    def refusal(self, conversation: Conversation, size: int) -> Refusal | None:
        """
        Say why there is no room for a delivery.

        Args:
            conversation: The one it belongs to.
            size: Bytes of its request body.

        Returns:
            None if there is room, or the name of what to count: `refused_full` if it would exceed an overall limit,
            `refused_conversation_full` if its conversation is full, `refused_unfair` if with it more than `fair_above`
            of an overall limit were used, and either its bare sender held more than `fair_share` of the same limit, or
            other domains have something pending and its own left less than `kept_for_others` to them. A sender with
            nothing pending never holds more than `fair_share`, however small that is.

            A domain that holds at most `kept_for_others` may exceed an overall limit by as much: another one, which was
            alone before, may have used all of it.
        """
        limits, (most, most_bytes) = self._limits, self._room()
        pending = len(self._queue_of) + self._reserved
        pending_bytes = self._pending_bytes + self._reserved_bytes
        queue = self._queues.get(conversation)
        in_conversation = self._reserved_of.get(conversation, 0) + (0 if queue is None else len(queue))
        full = in_conversation >= limits.max_per_conversation
        if pending + 1 <= limits.fair_above * most and pending_bytes + size <= limits.fair_above * most_bytes:
            return "refused_conversation_full" if full else None
        sender, domain = self._senders.get(conversation[0]), self._domains.get(_domain_of(conversation[0]))
        others = pending != (domain.pending if domain else 0)
        unfair = False
        for used, of_sender, of_domain, limit in (
            (
                pending + 1,
                sender.pending + 1 if sender else 0,
                domain.pending + 1 if domain else 0,
                most,
            ),
            (
                pending_bytes + size,
                sender.pending_bytes + size if sender else 0,
                domain.pending_bytes + size if domain else 0,
                most_bytes,
            ),
        ):
            kept = limits.kept_for_others * limit if others else 0
            if used > limit + kept or (used > limit and of_domain > kept):
                return "refused_full"
            if used > limits.fair_above * limit and (of_sender > limits.fair_share * limit or of_domain > limit - kept):
                unfair = True
        if full:
            return "refused_conversation_full"
        return "refused_unfair" if unfair else None

    def reserve(self, conversation: Conversation, size: int) -> None:
        """Count a delivery that has no turn yet, or has one no more, as if it were pending."""
        self._hold(self._sender(conversation[0]), 1, size)
        self._reserve(conversation, 1, size)

    def release(self, conversation: Conversation, size: int) -> None:
        """Count a delivery no longer for which there is a `reserve`."""
        self._reserve(conversation, -1, -size)
        self._hold(self._senders[conversation[0]], -1, -size)

    def has_room_to_spare(self, conversation: Conversation) -> bool:
        """
        Tell whether a delivery that may wait can be added, so that what comes live hardly waits for it.

        Nothing else of its conversation is pending or reserved, no more than run at once wait beside those that run,
        and of neither limit so much is used that shares are looked at.
        """
        return (
            conversation not in self._queues
            and conversation not in self._reserved_of
            and len(self._queue_of) + self._reserved < 2 * self._max_running
            and self.used < self._limits.fair_above
        )

    def add(self, delivery_id: str, conversation: Conversation, size: int, *, reserved: bool = False) -> None:
        """
        Take a delivery in, behind all others of its conversation.

        This does not ask `refusal`: what a spool kept over a restart was accepted before, and may exceed the limits.

        Args:
            delivery_id: Not pending yet, else ValueError.
            conversation: The one it belongs to.
            size: Bytes of its request body.
            reserved: There is a `reserve` for it, which ends by this.
        """
        if delivery_id in self._queue_of:
            raise ValueError(f"{delivery_id} is pending already")
        queue = self._queues.get(conversation)
        if queue is None:
            queue = ConversationQueue(conversation, self._sender(conversation[0]), delivery_id, size)
            self._queues[conversation] = queue
            self._round_of(queue).enter(queue)
        else:
            queue.append(delivery_id, size)
        self._queue_of[delivery_id] = queue
        self._pending_bytes += size
        if reserved:
            self._reserve(conversation, -1, -size)
        else:
            self._hold(queue.sender, 1, size)

    @property
    def conversations(self) -> int:
        """Conversations of which something is pending."""
        return len(self._queues)

    def waiting(self, conversation: Conversation) -> list[str]:
        """The ids of what is pending of a conversation, in order of arrival."""
        queue = self._queues.get(conversation)
        return [] if queue is None else [queue.first, *(queue.behind or ())]

    def leader(self, conversation: Conversation) -> str | None:
        """The id of the delivery that the others of a conversation wait behind; None if nothing of it is pending."""
        queue = self._queues.get(conversation)
        return None if queue is None else queue.first

    @property
    def ready(self) -> bool:
        """Some delivery waits for nothing but its turn."""
        return bool(self._iqs.domains or self._others.domains)

    def next(self, most: int | None = None) -> str | None:
        """
        Say whose turn it is: that delivery is running from now on.

        Args:
            most: Deliveries that should run at once now, instead of `max_running`; not more than these. Only iqs may
                be more, by the places that are kept for them.

        Returns:
            Its id; None if no delivery is ready, or as many are running as may be.
        """
        places = self._max_running if most is None else most
        kept = max(1, self._max_running // MESSAGE_SHARE) if self._max_running > 2 else 0
        if self._running >= min(self._max_running, places + kept):
            return None
        messages = self._running - self._running_iqs
        may_be_message = bool(self._others.domains) and self._running < places and messages < self._max_running - kept
        if self._iqs.domains and not (may_be_message and self._passed >= MESSAGE_SHARE - 1):
            self._passed += may_be_message
            queue = self._iqs.next()
            self._running_iqs += 1
        elif may_be_message:
            self._passed = 0
            queue = self._others.next()
        else:
            return None
        queue.head = "running"
        self._running += 1
        return queue.first

    @property
    def has_place(self) -> bool:
        """One more delivery may run."""
        return self._running < self._max_running

    def backs_off(self, delivery_id: str) -> bool:
        """Tell whether a delivery backs off."""
        queue = self._queue_of[delivery_id]
        return queue.first == delivery_id and queue.head == "backing_off"

    def run(self, delivery_id: str) -> None:
        """A delivery that backs off is running from now on, without another turn."""
        queue = self._queue_led_by(delivery_id, "backing_off")
        queue.head = "running"
        self._running += 1
        self._running_iqs += queue.is_iq

    def back_off(self, delivery_id: str) -> None:
        """A running delivery waits for another attempt: its place is free, its own conversation waits with it."""
        queue = self._queue_led_by(delivery_id, "running")
        self._stop_running(queue)
        queue.head = "backing_off"

    def ready_again(self, delivery_id: str) -> None:
        """A delivery that backs off is ready again; its conversation gets to the end of the round."""
        self._enter_round(self._queue_led_by(delivery_id, "backing_off"))

    def remove(self, delivery_id: str) -> None:
        """
        A delivery has ended, in whatever state it was; the next of its conversation becomes ready.

        If it was ready, the next takes its place in the round.
        """
        queue = self._queue_of.pop(delivery_id)
        led = queue.first == delivery_id
        if led and queue.head == "running":
            self._stop_running(queue)
        if queue.behind is None:
            size = queue.size
            del self._queues[queue.conversation]
            if queue.head == "ready":
                self._round_of(queue).leave(queue)
        else:
            size = queue.remove(delivery_id)
            if led and queue.head != "ready":
                self._enter_round(queue)
        self._pending_bytes -= size
        self._hold(queue.sender, -1, -size)

    def _sender(self, name: str) -> Sender:
        sender = self._senders.get(name)
        if sender is None:
            domain_name = _domain_of(name)
            domain = self._domains.get(domain_name)
            if domain is None:
                domain = self._domains[domain_name] = Domain(domain_name)
            sender = self._senders[name] = Sender(name, domain)
        return sender

    def _reserve(self, conversation: Conversation, number: int, size: int) -> None:
        """So much more is reserved, or less."""
        self._reserved += number
        self._reserved_bytes += size
        left = self._reserved_of.get(conversation, 0) + number
        if left:
            self._reserved_of[conversation] = left
        else:
            del self._reserved_of[conversation]

    def _hold(self, sender: Sender, number: int, size: int) -> None:
        """A sender holds so much more, or less; one that holds nothing is forgotten."""
        domain = sender.domain
        sender.pending += number
        sender.pending_bytes += size
        domain.pending += number
        domain.pending_bytes += size
        if not sender.pending:
            del self._senders[sender.name]
            if not domain.pending:
                del self._domains[domain.name]

    def _queue_led_by(self, delivery_id: str, state: Literal["running", "backing_off"]) -> ConversationQueue:
        queue = self._queue_of[delivery_id]
        if queue.head != state or queue.first != delivery_id:
            raise ValueError(f"{delivery_id} is not {state.replace('_', ' ')}")
        return queue

    def _stop_running(self, queue: ConversationQueue) -> None:
        self._running -= 1
        self._running_iqs -= queue.is_iq

    def _enter_round(self, queue: ConversationQueue) -> None:
        queue.head = "ready"
        self._round_of(queue).enter(queue)

    def _round_of(self, queue: ConversationQueue) -> Round:
        return self._iqs if queue.is_iq else self._others


def _domain_of(bare: str) -> str:
    return bare.rpartition("@")[2]
