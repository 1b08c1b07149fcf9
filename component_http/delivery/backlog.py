"""Order and limits of what waits for the webhook: whose turn it is, and whether there is room for more."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Literal

from attrs import Factory, define, frozen

__all__ = ["Backlog", "BacklogLimits", "Conversation", "Refusal"]

Conversation = tuple[str, str, bool]
"""What keeps its order: the bare sender, the bare recipient, and whether it is an iq (`Stanza.conversation`)."""

Refusal = Literal["refused_full", "refused_conversation_full", "refused_unfair"]
"""Why there is no room, by the name of what to count."""


@frozen
class BacklogLimits:
    """
    How much may be pending, and when less is better.

    The fractions, 0 to 1, are of `max_pending` and of `max_pending_bytes` alike.

    Attributes:
        max_pending: Deliveries in all. It bounds memory while the webhook is slow or away.
        max_pending_bytes: Bytes of their request bodies in all; the same when the stanzas are large.
        max_per_conversation: Deliveries of one conversation. It goes one by one, and nobody waits for the thousandth
            answer.
        fair_above: How much is used before a sender's share is looked at: as long as there is room, it is anybody's.
        fair_share: What one bare sender may hold from then on, so that a flood takes no room from others.
        pause_above: How much is used when no more should be read: what waits at the server needs no refusal.
        resume_below: How much is used, at most, when reading should go on; well below, so that it does not flutter.
    """

    max_pending: int = 10_000
    max_pending_bytes: int = 67_108_864
    max_per_conversation: int = 1000
    fair_above: float = 0.5
    fair_share: float = 0.1
    pause_above: float = 0.75
    resume_below: float = 0.5


MESSAGE_SHARE = 8
"""
One of so many places is kept for iqs, and one of so many turns is a message's: iqs have seconds, messages minutes, but
neither may have to wait for the end of the others.
"""


@define(eq=False)
class _Sender:
    """What one bare address has pending."""

    name: str
    pending: int = 0
    pending_bytes: int = 0


@define(eq=False)
class _ConversationQueue:
    """
    The deliveries of one conversation.

    Attributes:
        deliveries: The size of each, by id, in order of arrival; never empty for long. A linked list, unlike dict, so
            that the first of many is found at once whatever was removed before it.
        head: The state of the first; the others wait for it.
    """

    conversation: Conversation
    sender: _Sender
    deliveries: OrderedDict[str, int] = Factory(OrderedDict)
    head: Literal["ready", "running", "resting"] = "ready"

    @property
    def first(self) -> str:
        return next(iter(self.deliveries))

    @property
    def is_iq(self) -> bool:
        return self.conversation[2]


class _Round:
    """The ready conversations: they take turns by sender, and within a sender by conversation."""

    def __init__(self) -> None:
        self._senders: OrderedDict[_Sender, OrderedDict[_ConversationQueue, None]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._senders)

    def enter(self, queue: _ConversationQueue) -> None:
        """Put a conversation at the end of its sender's; a sender who is in the round already keeps the place."""
        queues = self._senders.get(queue.sender)
        if queues is None:
            queues = self._senders[queue.sender] = OrderedDict()
        queues[queue] = None

    def leave(self, queue: _ConversationQueue) -> None:
        """Take a conversation out."""
        queues = self._senders[queue.sender]
        del queues[queue]
        if not queues:
            del self._senders[queue.sender]

    def next(self) -> _ConversationQueue:
        """Take out the conversation whose turn it is, and let its sender go to the end; there has to be one."""
        sender, queues = next(iter(self._senders.items()))
        queue, _ = queues.popitem(last=False)
        if queues:
            self._senders.move_to_end(sender)
        else:
            del self._senders[sender]
        return queue


class Backlog:
    """
    The deliveries that are pending: accepted, and not ended.

    One delivery of a conversation is under way at a time, running or resting between two attempts, and its followers
    wait behind it in the order they came. Conversations whose first delivery is ready take turns: by sender, and
    within a sender by conversation. Whoever was served goes to the end of both rounds, so that a sender who is ready
    waits for at most one turn of each other sender, however much they have.

    Iqs go before messages and presences, but for one turn in eight. Of more than two places an eighth, at least one,
    is kept for them.

    Each operation takes the same time however much is pending, but for iterating. A sender with nothing pending leaves
    no trace.

    Ids are the caller's: one that is not pending raises KeyError, one in another state than the call is for
    ValueError. Both are bugs.

    Args:
        limits: What `refusal`, `crowded` and `relieved` go by.
        max_running: Deliveries that run at once, 1 or more; a resting one is not running.
    """

    def __init__(self, limits: BacklogLimits, max_running: int) -> None:
        self._limits = limits
        self._max_running = max_running
        self._running = 0
        self._pending_bytes = 0
        self._queue_of: dict[str, _ConversationQueue] = {}
        self._queues: dict[Conversation, _ConversationQueue] = {}
        self._senders: dict[str, _Sender] = {}
        # The ready conversations, those of iqs apart; the iqs that run, and those that went before a message.
        self._iqs = _Round()
        self._others = _Round()
        self._running_iqs = 0
        self._passed = 0

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
        """How much of the overall limits is used, of that which is used more: 0 to 1, and more after a restart."""
        limits = self._limits
        return max(self.pending / limits.max_pending, self._pending_bytes / limits.max_pending_bytes)

    @property
    def crowded(self) -> bool:
        """More than `pause_above` of either overall limit is used: reading should pause."""
        return self.used > self._limits.pause_above

    @property
    def relieved(self) -> bool:
        """At most `resume_below` of both overall limits is used: reading should go on."""
        return self.used <= self._limits.resume_below

    def __contains__(self, delivery_id: object) -> bool:
        return delivery_id in self._queue_of

    def __iter__(self) -> Iterator[str]:
        """The ids of all that was pending when it began, in order of arrival; they may be removed on the way."""
        return iter(list(self._queue_of))

    def refusal(self, conversation: Conversation, size: int, others: int = 0, other_bytes: int = 0) -> Refusal | None:
        """
        Say why there is no room for a delivery.

        Args:
            conversation: The one it belongs to.
            size: Bytes of its request body.
            others: Deliveries that are to be added before it.
            other_bytes: Their sizes in all.

        Returns:
            None if there is room, or the name of what to count: `refused_full` if it would exceed an overall limit,
            `refused_conversation_full` if its conversation is full, `refused_unfair` if with it more than `fair_above`
            of an overall limit were used and its bare sender held more than `fair_share` of the same limit. A sender
            with nothing pending is never unfair, however small the share.
        """
        limits = self._limits
        pending, pending_bytes = self.pending + others + 1, self._pending_bytes + other_bytes + size
        if pending > limits.max_pending or pending_bytes > limits.max_pending_bytes:
            return "refused_full"
        queue = self._queues.get(conversation)
        if queue is not None and len(queue.deliveries) >= limits.max_per_conversation:
            return "refused_conversation_full"
        sender = self._senders.get(conversation[0])
        if sender is not None:
            for used, held, limit in (
                (pending, sender.pending + 1, limits.max_pending),
                (pending_bytes, sender.pending_bytes + size, limits.max_pending_bytes),
            ):
                if used > limits.fair_above * limit and held > limits.fair_share * limit:
                    return "refused_unfair"
        return None

    def add(self, delivery_id: str, conversation: Conversation, size: int) -> None:
        """
        Take a delivery in, behind all others of its conversation.

        This does not ask `refusal`: what a spool kept over a restart was accepted before, and may exceed the limits.

        Args:
            delivery_id: Not pending yet, else ValueError.
            conversation: The one it belongs to.
            size: Bytes of its request body.
        """
        if delivery_id in self._queue_of:
            raise ValueError(f"{delivery_id} is pending already")
        queue = self._queues.get(conversation)
        if queue is None:
            name = conversation[0]
            sender = self._senders.get(name)
            if sender is None:
                sender = self._senders[name] = _Sender(name)
            queue = self._queues[conversation] = _ConversationQueue(conversation, sender)
            self._enter_round(queue)
        queue.deliveries[delivery_id] = size
        self._queue_of[delivery_id] = queue
        queue.sender.pending += 1
        queue.sender.pending_bytes += size
        self._pending_bytes += size

    @property
    def conversations(self) -> int:
        """Conversations of which something is pending."""
        return len(self._queues)

    def waiting(self, conversation: Conversation) -> list[str]:
        """The ids of what is pending of a conversation, in order of arrival."""
        queue = self._queues.get(conversation)
        return [] if queue is None else list(queue.deliveries)

    @property
    def ready(self) -> bool:
        """Some delivery waits for nothing but its turn."""
        return bool(self._iqs or self._others)

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
        may_be_message = bool(self._others) and self._running < places and messages < self._max_running - kept
        if self._iqs and not (may_be_message and self._passed >= MESSAGE_SHARE - 1):
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

    def rest(self, delivery_id: str) -> None:
        """A running delivery waits for another attempt: its place is free, its own conversation waits with it."""
        queue = self._queue_led_by(delivery_id, "running")
        self._stop_running(queue)
        queue.head = "resting"

    def rise(self, delivery_id: str) -> None:
        """A resting delivery is ready again; its conversation gets to the end of the round."""
        self._enter_round(self._queue_led_by(delivery_id, "resting"))

    def remove(self, delivery_id: str) -> None:
        """
        A delivery has ended, in whatever state it was; the next of its conversation becomes ready.

        If it was ready, the next takes its place in the round.
        """
        queue = self._queue_of[delivery_id]
        sender = queue.sender
        led = queue.first == delivery_id
        del self._queue_of[delivery_id]
        size = queue.deliveries.pop(delivery_id)
        self._pending_bytes -= size
        sender.pending -= 1
        sender.pending_bytes -= size
        if led and queue.head == "running":
            self._stop_running(queue)
        if not queue.deliveries:
            del self._queues[queue.conversation]
            if queue.head == "ready":
                self._leave_round(queue)
        elif led and queue.head != "ready":
            self._enter_round(queue)
        if not sender.pending:
            del self._senders[sender.name]

    def _queue_led_by(self, delivery_id: str, state: Literal["running", "resting"]) -> _ConversationQueue:
        queue = self._queue_of[delivery_id]
        if queue.head != state or queue.first != delivery_id:
            raise ValueError(f"{delivery_id} is not {state}")
        return queue

    def _stop_running(self, queue: _ConversationQueue) -> None:
        self._running -= 1
        self._running_iqs -= queue.is_iq

    def _enter_round(self, queue: _ConversationQueue) -> None:
        queue.head = "ready"
        self._round_of(queue).enter(queue)

    def _leave_round(self, queue: _ConversationQueue) -> None:
        self._round_of(queue).leave(queue)

    def _round_of(self, queue: _ConversationQueue) -> _Round:
        return self._iqs if queue.is_iq else self._others
