import math

import pytest

from pytest_llm_energy.verdicts import statistics
from pytest_llm_energy.verdicts.noise import ASSUMED, Component
from pytest_llm_energy.verdicts.rows import PATIENT_LOOKS, in_reach
from pytest_llm_energy.verdicts.statistics import TELLING, Interval

BUDGET = 0.03


def around(value: float, half: float, *, fixed: float = 0.005) -> Interval:
    return Interval(value, value - half, value + half, fixed)


@pytest.mark.parametrize("value", [0.0, 0.016, 0.03, 0.036, 0.06])
def test_three_runs_that_happen_to_lie_near_the_budget_do_not_put_a_level_out_of_reach(value: float) -> None:
    assert in_reach(around(value, 0.15), BUDGET, runs=3, looks=PATIENT_LOOKS - 1)


def test_a_level_on_its_budget_is_out_of_reach_of_one_more_look() -> None:
    assert in_reach(around(0.0, 0.04), BUDGET, runs=24, looks=1)
    assert not in_reach(around(0.028, 0.04), BUDGET, runs=24, looks=1)
    assert in_reach(around(0.028, 0.04), BUDGET, runs=24, looks=2)


def test_what_engine_starts_leave_open_no_further_run_decides() -> None:
    assert not in_reach(around(0.03, 0.04, fixed=0.035), BUDGET, runs=3, looks=PATIENT_LOOKS - 1)
    assert not in_reach(Interval(0.03, -math.inf, math.inf), BUDGET, runs=1, looks=2)


@pytest.mark.parametrize("others", [0.0005, 0.1])
def test_pairs_enough_tell_by_themselves_how_windows_scatter(others: float) -> None:
    pairs = [(math.exp(0.01 * (-1) ** i), 1.0) for i in range(TELLING + 1)]
    window = Component(sd=others, freedom=4.0)

    def width(count: int, window: Component | None) -> float:
        return statistics.ratio([pairs[:count]], shifted=2, noise=ASSUMED, window=window).half_width

    assert width(TELLING + 1, window) == width(TELLING + 1, None)
    assert width(TELLING, window) != width(TELLING, None)
