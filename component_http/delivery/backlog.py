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


@define(eq=False)
class _Sender:
    """
    What one bare address has pending.

    Attributes:
        pending: Its deliveries, and the places that are kept for more.
        pending_bytes: Their sizes.
        round: Its ready conversations, the next one first.
    """

    name: str
    pending: int = 0
    pending_bytes: int = 0
    round: list[_ConversationQueue] = Factory(list)


@define(eq=False)
class _ConversationQueue:
    """
    The deliveries of one conversation.

    Attributes:
        deliveries: Their ids, in order of arrival; never empty for long. Most conversations have one, for which a list
            is the smallest thing, and it is fast enough for the thousand that one may have.
        head: The state of the first; the others wait for it.
    """

    conversation: Conversation
    sender: _Sender
    deliveries: list[str] = Factory(list)
    head: Literal["ready", "running", "resting"] = "ready"

    @property
    def first(self) -> str:
        return self.deliveries[0]


class Backlog:
    """
    The deliveries that are pending: accepted, and not ended.

    One delivery of a conversation is under way at a time, running or resting between two attempts, and its followers
    wait behind it in the order they came. Conversations whose first delivery is ready take turns: by sender, and
    within a sender by conversation. Whoever was served goes to the end of both rounds, so that a sender who is ready
    waits for at most one turn of each other sender, however much they have.

    An operation takes longer only with what one conversation or one sender has, and that little. A sender with nothing
    pending leaves no trace.

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
        # Places that are kept, in all and by conversation; their bytes are among the others.
        self._places = 0
        self._places_of: dict[Conversation, int] = {}
        self._entries: dict[str, tuple[_ConversationQueue, int]] = {}  # by id, with its size
        self._queues: dict[Conversation, _ConversationQueue] = {}
        self._senders: dict[str, _Sender] = {}
        self._round: OrderedDict[_Sender, None] = OrderedDict()

    @property
    def pending(self) -> int:
        """Deliveries in all."""
        return len(self._entries)

    @property
    def places(self) -> int:
        """Places that are kept for deliveries to come."""
        return self._places

    @property
    def pending_bytes(self) -> int:
        """The sizes in all of both."""
        return self._pending_bytes

    @property
    def running(self) -> int:
        """Deliveries that run, never more than `max_running`."""
        return self._running

    @property
    def used(self) -> float:
        """How much of the overall limits is used, of that which is used more: 0 to 1, and more after a restart."""
        limits = self._limits
        return max((self.pending + self._places) / limits.max_pending, self._pending_bytes / limits.max_pending_bytes)

    @property
    def crowded(self) -> bool:
        """More than `pause_above` of either overall limit is used: reading should pause."""
        return self.used > self._limits.pause_above

    @property
    def relieved(self) -> bool:
        """At most `resume_below` of both overall limits is used: reading should go on."""
        return self.used <= self._limits.resume_below

    def __contains__(self, delivery_id: object) -> bool:
        return delivery_id in self._entries

    def __iter__(self) -> Iterator[str]:
        """The ids of all that was pending when it began, in order of arrival; they may be removed on the way."""
        return iter(list(self._entries))

    def refusal(self, conversation: Conversation, size: int, others: int = 0) -> Refusal | None:
        """
        Say why there is no room for a delivery.

        Args:
            conversation: The one it belongs to.
            size: Bytes of its request body.
            others: Deliveries that count, too, and are not here.

        Returns:
            None if there is room, or the name of what to count: `refused_full` if it would exceed an overall limit,
            `refused_conversation_full` if its conversation is full, `refused_unfair` if with it more than `fair_above`
            of an overall limit were used and its bare sender held more than `fair_share` of the same limit. A sender
            with nothing pending is never unfair, however small the share.
        """
        limits = self._limits
        pending, pending_bytes = self.pending + self._places + others + 1, self._pending_bytes + size
        if pending > limits.max_pending or pending_bytes > limits.max_pending_bytes:
            return "refused_full"
        queue = self._queues.get(conversation)
        held = self._places_of.get(conversation, 0) + (0 if queue is None else len(queue.deliveries))
        if held >= limits.max_per_conversation:
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

    def has_room_to_spare(self, conversation: Conversation) -> bool:
        """
        Whether a delivery that may wait can be added, so that what comes live hardly waits for it.

        Nothing else of its conversation is pending, no more than run at once wait beside those that run, and of neither
        limit so much is used that a sender's share is looked at.
        """
        return (
            conversation not in self._queues
            and conversation not in self._places_of
            and self.pending + self._places < 2 * self._max_running
            and self.used < self._limits.fair_above
        )

    def keep_place(self, conversation: Conversation, size: int) -> None:
        """Count a delivery that is to be added before long, until it is, or is not to be any more: `give_up_place`."""
        self._count(self._sender_of(conversation), 1, size)
        self._places += 1
        self._places_of[conversation] = self._places_of.get(conversation, 0) + 1

    def give_up_place(self, conversation: Conversation, size: int) -> None:
        """Count it no longer."""
        left = self._places_of.pop(conversation) - 1
        if left:
            self._places_of[conversation] = left
        self._places -= 1
        self._count(self._senders[conversation[0]], -1, -size)

    def add(self, delivery_id: str, conversation: Conversation, size: int) -> None:
        """
        Take a delivery in, behind all others of its conversation.

        This does not ask `refusal`: what a spool kept over a restart was accepted before, and may exceed the limits.

        Args:
            delivery_id: Not pending yet, else ValueError.
            conversation: The one it belongs to.
            size: Bytes of its request body.
        """
        if delivery_id in self._entries:
            raise ValueError(f"{delivery_id} is pending already")
        queue = self._queues.get(conversation)
        if queue is None:
            queue = self._queues[conversation] = _ConversationQueue(conversation, self._sender_of(conversation))
            self._enter_round(queue)
        queue.deliveries.append(delivery_id)
        self._entries[delivery_id] = queue, size
        self._count(queue.sender, 1, size)

    def next(self) -> str | None:
        """
        Say whose turn it is: that delivery is running from now on.

        Returns:
            Its id; None if no delivery is ready, or `max_running` are running.
        """
        if self._running >= self._max_running or not self._round:
            return None
        sender = next(iter(self._round))
        queue = sender.round.pop(0)
        if sender.round:
            self._round.move_to_end(sender)
        else:
            del self._round[sender]
        queue.head = "running"
        self._running += 1
        return queue.first

    def rest(self, delivery_id: str) -> None:
        """A running delivery waits for another attempt: its place is free, its own conversation waits with it."""
        self._queue_led_by(delivery_id, "running").head = "resting"
        self._running -= 1

    def rise(self, delivery_id: str) -> None:
        """A resting delivery is ready again; its conversation gets to the end of the round."""
        self._enter_round(self._queue_led_by(delivery_id, "resting"))

    def remove(self, delivery_id: str) -> None:
        """
        A delivery has ended, in whatever state it was; the next of its conversation becomes ready.

        If it was ready, the next takes its place in the round.
        """
        queue, size = self._entries.pop(delivery_id)
        sender = queue.sender
        led = queue.first == delivery_id
        queue.deliveries.remove(delivery_id)
        if led and queue.head == "running":
            self._running -= 1
        if not queue.deliveries:
            del self._queues[queue.conversation]
            if queue.head == "ready":
                self._leave_round(queue)
        elif led and queue.head != "ready":
            self._enter_round(queue)
        self._count(sender, -1, -size)

    def _sender_of(self, conversation: Conversation) -> _Sender:
        name = conversation[0]
        sender = self._senders.get(name)
        if sender is None:
            sender = self._senders[name] = _Sender(name)
        return sender

    def _count(self, sender: _Sender, deliveries: int, size: int) -> None:
        sender.pending += deliveries
        sender.pending_bytes += size
        self._pending_bytes += size
        if not sender.pending:
            del self._senders[sender.name]

    def _queue_led_by(self, delivery_id: str, state: Literal["running", "resting"]) -> _ConversationQueue:
        queue, _ = self._entries[delivery_id]
        if queue.head != state or queue.first != delivery_id:
            raise ValueError(f"{delivery_id} is not {state}")
        return queue

    def _enter_round(self, queue: _ConversationQueue) -> None:
        queue.head = "ready"
        queue.sender.round.append(queue)
        # Where the sender is in the round already, this keeps its place.
        self._round[queue.sender] = None

    def _leave_round(self, queue: _ConversationQueue) -> None:
        queue.sender.round.remove(queue)
        if not queue.sender.round:
            del self._round[queue.sender]
