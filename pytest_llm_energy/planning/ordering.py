"""In which order tests run, so that engines start seldom."""

from collections.abc import Collection, Hashable, Sequence
from itertools import combinations, pairwise
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
    order = _searched(list(groups))
    positions = iter([position for engines in order for position in groups[engines]])
    return [next(positions) if engines else position for position, engines in enumerate(tests)]


MOST_TRIES = 300_000
"""Moves that are looked at before the best order so far is taken: about half a second."""


def _searched(groups: list[frozenset[Engine]]) -> list[frozenset[Engine]]:
    """The groups with stretches of them moved or turned round, as long as that saves starts and tries are left."""
    order = [frozenset[Engine](), *groups]  # before the first test nothing is alive
    tries = 0
    improved = True
    while improved and tries < MOST_TRIES:
        improved = False
        for low, high in combinations(range(1, len(order) + 1), 2):
            stretch, rest = order[low:high], order[:low] + order[high:]
            tries += 2 * len(rest)
            if tries > MOST_TRIES:
                break
            saved = _starts(order[low - 1], stretch, order[high : high + 1]) - _starts(
                order[low - 1], [], order[high : high + 1]
            )
            for place in range(1, len(rest) + 1):
                before, after = rest[place - 1], rest[place : place + 1]
                gap = _starts(before, [], after)
                for moved in (stretch, stretch[::-1]):
                    if _starts(before, moved, after) - gap < saved:
                        order = [*rest[:place], *moved, *rest[place:]]
                        improved = True
                        break
                if improved:
                    break
            if improved:
                break
    return order[1:]


def _starts(before: frozenset[Engine], groups: list[frozenset[Engine]], after: list[frozenset[Engine]]) -> int:
    """Engine starts of groups between what runs before and, if anything does, after them."""
    return sum(len(later - earlier) for earlier, later in pairwise([before, *groups, *after]))
