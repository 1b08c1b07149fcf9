"""Who loses first when a table is full: whoever holds most of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from operator import itemgetter
from typing import TypeVar

__all__ = ["fairest_first"]

T = TypeVar("T")


def fairest_first(items: Iterable[T], *owners: Callable[[T], Hashable]) -> list[T]:
    """
    Sort what is in a full table, so that cutting off the end takes from those who hold most.

    Every owner's first item comes before every owner's second one, and so on. So an owner loses nothing as long as
    another one has more.

    Args:
        items: In the order in which those of one owner are to be kept.
        owners: Say whose an item is; the next one decides where the one before makes no difference.
    """
    ranked: list[tuple[tuple[int, ...], T]] = [((), item) for item in items]
    for owner in owners:
        held: Counter[Hashable] = Counter()
        for index, (ranks, item) in enumerate(ranked):
            name = owner(item)
            held[name] += 1
            ranked[index] = (*ranks, held[name]), item
        ranked.sort(key=itemgetter(0))
    return [item for _, item in ranked]
