"""Tables of a limited size: the latest entries, and who loses first when a table is full."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable
from operator import itemgetter
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Latest(OrderedDict[K, V]):
    """A table of the entries that were set last; the oldest is forgotten when there are more than the limit."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def __setitem__(self, key: K, value: V) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self._limit:
            self.popitem(last=False)


def fairest_first(items: Iterable[V], *owners: Callable[[V], Hashable]) -> list[V]:
    """
    Sort the items of a full table, so that cutting off the end takes from the owners who hold most.

    Every owner's first item comes before every owner's second one, and so on. So an owner loses nothing as long as
    another one has more.

    Args:
        items: In the order in which those of one owner are to be kept.
        owners: Each says whose an item is; the next one decides where the one before makes no difference.
    """
    ranked: list[tuple[tuple[int, ...], V]] = [((), item) for item in items]
    for owner in owners:
        held: Counter[Hashable] = Counter()
        for index, (ranks, item) in enumerate(ranked):
            name = owner(item)
            held[name] += 1
            ranked[index] = (*ranks, held[name]), item
        ranked.sort(key=itemgetter(0))
    return [item for _, item in ranked]
