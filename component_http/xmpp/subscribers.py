"""The users who are told that the component is there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator

from component_http.interfaces import SubscriberSpool
from component_http.shares import fairest_first

MAX_SUBSCRIBERS = 10_000
"""Pairs that are remembered; at 50 per second all of them are told within 200 seconds."""

MAX_LENGTH = 512
"""Characters of both addresses of a pair; longer ones exist only where somebody tries to fill our memory."""


class Subscribers:
    """
    Pairs of an address of the component and a user's, both bare, in the order in which we last heard of them.

    Beyond `MAX_SUBSCRIBERS` a sixteenth of them is forgotten. Those lose first that hold most: users by the number of
    their pairs; where these are equal, domains; and where those are, the pairs that we have not heard of for the
    longest time. So whoever subscribes to ten thousand addresses pushes out nobody but himself, and the many accounts
    of a domain push out nobody of a smaller one.

    Args:
        most: Instead of `MAX_SUBSCRIBERS`.
    """

    def __init__(self, domain: str, most: int = MAX_SUBSCRIBERS) -> None:
        self._domain = domain
        self._most = most
        self._pairs: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._spool: SubscriberSpool | None = None

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._pairs)

    def __contains__(self, pair: tuple[str, str]) -> bool:
        return pair in self._pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def restore(self, pairs: Iterable[tuple[str, str]], spool: SubscriberSpool) -> None:
        """Begin with the pairs that a spool has, oldest first, and those known already; tell it of changes."""
        known, self._pairs = self._pairs, OrderedDict.fromkeys(pairs)
        self._spool = spool
        for component, user in [pair for pair in self._pairs if not self._is_ours(pair[0])]:
            self.remove(component, user)  # the component had another domain then
        self._make_room()
        for component, user in known:
            self.add(component, user)

    def add(self, component: str, user: str) -> None:
        """We have heard of this pair."""
        pair = component, user
        if pair in self._pairs:
            self._pairs.move_to_end(pair)
        elif len(component) + len(user) <= MAX_LENGTH:
            self._pairs[pair] = None
            if self._spool is not None:
                self._spool.subscribe(component, user)
            self._make_room()

    def remove(self, component: str, user: str) -> None:
        """Forget a user who is not interested any more, or does not exist."""
        pair = component, user
        if pair in self._pairs:
            del self._pairs[pair]
            if self._spool is not None:
                self._spool.unsubscribe(component, user)

    def _is_ours(self, component: str) -> bool:
        return component.rpartition("@")[2] == self._domain

    def _make_room(self) -> None:
        """Forget more than one pair at a time, because all have to be looked at for it."""
        if len(self._pairs) > self._most:
            fairest = fairest_first(reversed(self._pairs), _user, _domain)
            for component, user in fairest[self._most - self._most // 16 :]:
                self.remove(component, user)


def _user(pair: tuple[str, str]) -> str:
    return pair[1]


def _domain(pair: tuple[str, str]) -> str:
    return pair[1].rpartition("@")[2]
