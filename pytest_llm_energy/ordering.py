"""In which order tests run, so that engines start seldom."""

from collections.abc import Collection, Hashable, Sequence
from itertools import pairwise
from typing import TypeVar

Engine = TypeVar("Engine", bound=Hashable)


def engine_order(tests: Sequence[Collection[Engine]]) -> list[int]:
    """Positions of the tests in an order with few engine starts; those without engines keep their places.

    An engine lives from one test to the next as long as the next one wants it too. Tests of equal engines stay
    together, in the order given; whole groups of them are then moved as long as that saves a start.

    Args:
        tests: engines that each test runs on.
    """
    groups: dict[frozenset[Engine], list[int]] = {}
    for position, engines in enumerate(tests):
        if engines:
            groups.setdefault(frozenset(engines), []).append(position)
    order = list(groups)
    while (better := _one_move_better(order)) is not None:
        order = better
    positions = iter([position for engines in order for position in groups[engines]])
    return [next(positions) if engines else position for position, engines in enumerate(tests)]


def engine_starts(order: Sequence[frozenset[Engine]]) -> int:
    """Engine starts of tests run in this order."""
    return sum(len(later - earlier) for earlier, later in pairwise([frozenset[Engine](), *order]))


def _one_move_better(order: list[frozenset[Engine]]) -> list[frozenset[Engine]] | None:
    """The order with one stretch of groups moved or turned round that saves most starts; None when none does."""
    least = engine_starts(order)
    best = None
    for low in range(len(order)):
        for high in range(low + 1, len(order) + 1):
            stretch, rest = order[low:high], order[:low] + order[high:]
            for place in range(len(rest) + 1):
                for moved in (stretch, stretch[::-1]):
                    tried = [*rest[:place], *moved, *rest[place:]]
                    if (starts := engine_starts(tried)) < least:
                        best, least = tried, starts
        if best is not None:
            return best
    return best
