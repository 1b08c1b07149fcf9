"""Outbound stanzas that the spool could not keep."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import count
from math import inf

from attrs import define

from component_http.contract.outbound import OutboundStanza


@define(eq=False)
class Group:
    """
    Stanzas that were to leave together.

    Attributes:
        left: How many of them the server may still get.
        gone: Called when there are none.
    """

    left: int
    gone: Callable[[], object]

    def one_is_gone(self) -> None:
        """The server has one of them, or it expired."""
        self.left -= 1
        if not self.left:
            self.gone()


Unkept = tuple[float, int, OutboundStanza, Group]
"""
The spool's number behind which a stanza belongs, infinite while that is not known; its place among those of the same
number; the stanza; its group.
"""


class UnkeptStanzas:
    """The unkept stanzas that wait to be handed over, in their order."""

    def __init__(self) -> None:
        self._heap: list[Unkept] = []
        self._turns = count()

    def add(self, stanzas: Sequence[OutboundStanza], behind: float, gone: Callable[[], object]) -> None:
        """Add stanzas that leave together, behind a number of the spool."""
        group = Group(len(stanzas), gone)
        for outbound in stanzas:
            heappush(self._heap, (behind, next(self._turns), outbound, group))

    def put_back(self, unkept: Unkept) -> None:
        """Add one that was taken and has to leave again, at its place."""
        heappush(self._heap, unkept)

    def know(self, number: int) -> None:
        """Give all those the number whose number was not known."""
        self._heap = [(number if behind == inf else behind, *rest) for behind, *rest in self._heap]  # type: ignore[misc]

    def take(self, before: float) -> Iterator[Unkept]:
        """Take those that belong before a number, one by one."""
        while self._heap and self._heap[0][0] < before:
            yield heappop(self._heap)
