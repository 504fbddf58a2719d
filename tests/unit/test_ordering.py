import itertools
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pytest_llm_energy.planning.ordering import engine_order

SUITE = [
    "graphs",
    "graphs eager",
    "plain",
    "plain one",
    "plain two",
    "graphs drafted",
    "graphs plain",
    "experts dense",
]
"""Findings by the engines they run on, in the order of their names."""


def engine_starts(order: Sequence[frozenset[Any]]) -> int:
    """Engine starts of tests run in this order."""
    return sum(len(later - earlier) for earlier, later in itertools.pairwise([frozenset[Any](), *order]))


def starts(tests: list[frozenset[str]], order: list[int]) -> int:
    return engine_starts([tests[position] for position in order if tests[position]])


def test_each_engine_of_a_suite_starts_once() -> None:
    tests = [frozenset(words.split()) for words in SUITE]
    order = engine_order(tests)
    assert starts(tests, order) == len(frozenset().union(*tests))
    assert starts(tests, list(range(len(tests)))) > starts(tests, order)


@given(st.lists(st.frozensets(st.sampled_from("abcd"), max_size=3), max_size=6))
def test_an_order_is_never_worse_keeps_what_has_no_engine_and_what_is_equal_in_place(
    tests: list[frozenset[str]],
) -> None:
    order = engine_order(tests)
    assert sorted(order) == list(range(len(tests)))
    assert all(order[position] == position for position, engines in enumerate(tests) if not engines)
    for engines in set(tests):
        alike = [position for position in order if tests[position] == engines]
        assert alike == sorted(alike)
    assert starts(tests, order) <= starts(tests, list(range(len(tests))))


@given(st.lists(st.frozensets(st.sampled_from("abcde"), min_size=1, max_size=2), max_size=5, unique=True))
def test_small_suites_come_within_one_start_of_the_best_order(tests: list[frozenset[str]]) -> None:
    best = min(starts(tests, list(order)) for order in itertools.permutations(range(len(tests))))
    assert starts(tests, engine_order(tests)) <= best + 1
