"""Conversations that are ready take turns: by domain, by sender, and one by one."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from attrs import define

Conversation = tuple[str, str, bool]
"""A conversation keeps its order: bare sender, bare recipient, and whether it is of iqs (`Stanza.conversation`)."""


@define(eq=False, weakref_slot=False)
class Domain:
    """The deliveries that the addresses of one domain have pending or reserved."""

    name: str
    pending: int = 0
    pending_bytes: int = 0


@define(eq=False, weakref_slot=False)
class Sender:
    """
    The deliveries that one bare address has pending or reserved.

    Attributes:
        next_iq: Of its ready conversations of iqs the one whose turn is next; None where there are none.
        next_other: The same of all others.
    """

    name: str
    domain: Domain
    pending: int = 0
    pending_bytes: int = 0
    next_iq: ConversationQueue | None = None
    next_other: ConversationQueue | None = None


@define(eq=False, weakref_slot=False)
class ConversationQueue:
    """
    The deliveries of one conversation.

    Attributes:
        first: The id of the first; the others wait for it.
        size: The size of the first.
        behind: The sizes of the others, by id, in order of arrival; None where there are none, as mostly. A linked
            list, unlike dict, so that the next of many is found at once whatever was removed before it.
        head: The state of the first.
        before: While it is ready: the conversation of the same sender that has its turn before it, in a ring.
        after: The one that has its turn after it.
        sender_before: While it is the next of its sender: that of the sender of the same domain before it, in a ring.
        sender_after: That of the sender after it.
    """

    conversation: Conversation
    sender: Sender
    first: str
    size: int
    behind: OrderedDict[str, int] | None = None
    head: Literal["ready", "running", "backing_off"] = "ready"
    before: ConversationQueue | None = None
    after: ConversationQueue | None = None
    sender_before: ConversationQueue | None = None
    sender_after: ConversationQueue | None = None

    def __len__(self) -> int:
        return 1 if self.behind is None else 1 + len(self.behind)

    @property
    def is_iq(self) -> bool:
        return self.conversation[2]

    def append(self, delivery_id: str, size: int) -> None:
        """Put one at the end."""
        if self.behind is None:
            self.behind = OrderedDict()
        self.behind[delivery_id] = size

    def remove(self, delivery_id: str) -> int:
        """Take one out that is not the only one; returns its size."""
        assert self.behind is not None
        if delivery_id == self.first:
            size = self.size
            self.first, self.size = self.behind.popitem(last=False)
        else:
            size = self.behind.pop(delivery_id)
        if not self.behind:
            self.behind = None
        return size


class Round:
    """
    The ready conversations: they take turns by domain, within it by sender, and within that by conversation.

    Most senders have one conversation, and there may be very many, so both rings are links in the conversations.

    Args:
        of_iqs: It is the round of the iqs; else that of all others.

    Attributes:
        domains: Of each domain with a ready conversation, that whose turn is next: of the sender whose turn it is.
    """

    def __init__(self, *, of_iqs: bool) -> None:
        self._of_iqs = of_iqs
        self.domains: OrderedDict[Domain, ConversationQueue] = OrderedDict()

    def enter(self, queue: ConversationQueue) -> None:
        """Put a conversation at the end of its sender's; a sender or domain that is there already keeps its place."""
        sender = queue.sender
        following = sender.next_iq if self._of_iqs else sender.next_other
        if following is not None:
            before = following.before
            assert before is not None
            queue.before, queue.after = before, following
            before.after = following.before = queue
            return
        queue.before = queue.after = queue
        self._lead(sender, queue)
        first = self.domains.setdefault(sender.domain, queue)
        last = first.sender_before or first
        queue.sender_before, queue.sender_after = last, first
        last.sender_after = first.sender_before = queue

    def leave(self, queue: ConversationQueue) -> None:
        """Take a conversation out."""
        before, after = queue.before, queue.after
        assert before is not None and after is not None
        before.after, after.before = after, before
        queue.before = queue.after = None
        if queue.sender_after is not None:
            self._lead_no_longer(queue, after if after is not queue else None)

    def next(self) -> ConversationQueue:
        """Take out the conversation whose turn it is; its sender and domain go to the end. There has to be one."""
        domain, queue = next(iter(self.domains.items()))
        sender = queue.sender
        self.leave(queue)
        lead = sender.next_iq if self._of_iqs else sender.next_other
        if lead is not None and lead.sender_after is not None:
            self.domains[domain] = lead.sender_after
        if domain in self.domains:
            self.domains.move_to_end(domain)
        return queue

    def _lead(self, sender: Sender, queue: ConversationQueue | None) -> None:
        """Make a conversation the next one of its sender; None if there is none."""
        if self._of_iqs:
            sender.next_iq = queue
        else:
            sender.next_other = queue

    def _lead_no_longer(self, queue: ConversationQueue, lead: ConversationQueue | None) -> None:
        """Let another conversation of the same sender take the place of the next one, or none."""
        sender, before, after = queue.sender, queue.sender_before, queue.sender_after
        assert before is not None and after is not None
        queue.sender_before = queue.sender_after = None
        self._lead(sender, lead)
        if lead is None:
            before.sender_after, after.sender_before = after, before
            if after is queue:
                queue.sender_before = queue.sender_after = None
                del self.domains[sender.domain]
                return
            lead = after
        elif after is queue:
            lead.sender_before = lead.sender_after = lead
        else:
            lead.sender_before, lead.sender_after = before, after
            before.sender_after = after.sender_before = lead
        if self.domains[sender.domain] is queue:
            self.domains[sender.domain] = lead
