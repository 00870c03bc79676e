"""Dividing a set so that each of its kinds gives its share."""

import random
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

Item = TypeVar("Item")


def stratified(
    items: Iterable[Item], stratum: Callable[[Item], Any], count: int, rng: random.Random
) -> tuple[list[Item], list[Item]]:
    """Divide `items` so that each stratum gives its share.

    Systematic sampling (Madow 1949): items are shuffled within their stratum, strata stand side
    by side in order, and every n/`count`-th of the n items is taken from a random start. So the
    share is exact for the whole, and to one item for every stratum and every run of neighbouring
    strata.

    Args:
        items: in an order that does not depend on the listing.
        stratum: what to spread evenly; sortable.
        count: how many the first part gets.
        rng: the source of chance.

    Returns:
        The two parts, each in the order of `items`.

    >>> a, b = stratified(range(10), lambda i: i % 2, 4, random.Random(0))
    >>> len(a), len(b), sum(i % 2 for i in a)
    (4, 6, 2)
    """
    items = list(items)
    order = list(range(len(items)))
    rng.shuffle(order)
    order.sort(key=lambda i: stratum(items[i]))
    total = len(items)
    start = rng.randrange(total) if total else 0
    taken = {
        item
        for place, item in enumerate(order)
        if (start + (place + 1) * count) // total > (start + place * count) // total
    }
    return (
        [item for i, item in enumerate(items) if i in taken],
        [item for i, item in enumerate(items) if i not in taken],
    )
