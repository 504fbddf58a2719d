import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llm_energy.verdicts import statistics
from pytest_llm_energy.verdicts.causes import Cause
from pytest_llm_energy.verdicts.further import (
    LEAST_ROUNDS,
    PATIENT_LOOKS,
    halving,
    in_reach,
    unsettled,
    wanting_starts,
)
from pytest_llm_energy.verdicts.noise import ASSUMED, Component
from pytest_llm_energy.verdicts.rows import Change, LevelRow
from pytest_llm_energy.verdicts.statistics import TELLING, Interval
from tests.unit.measurements import KEY

BUDGET = 0.03


def level(value: float, half: float, fixed: float) -> LevelRow:
    joules = around(value, half, fixed=fixed)
    change = Change(
        joules=joules,
        cause=Cause.of(joules, joules, joules),
        reference_joules=1.0,
        reference="the other stack",
        side_by_side=True,
    )
    return LevelRow(
        key=KEY,
        arm="only",
        unit="token",
        joules=1.0,
        spread=0.1,
        runs=12,
        starts=1,
        budget=BUDGET,
        verdict="inconclusive",
        change=change,
    )


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


def test_what_engine_starts_leave_open_more_of_them_may_decide() -> None:
    left_open = around(0.02, 0.02, fixed=0.018)
    assert in_reach(left_open, BUDGET, runs=12, looks=2, startable=True)
    assert not in_reach(left_open, BUDGET, runs=12, looks=2)
    assert not in_reach(around(0.029, 0.02, fixed=0.018), BUDGET, runs=12, looks=1, startable=True)


@pytest.mark.parametrize(("fixed", "wanted"), [(0.012, False), (0.018, True)])
def test_new_engine_starts_are_wanted_where_they_scatter_more_than_windows_do(fixed: float, wanted: bool) -> None:
    row = level(0.02, 0.02, fixed)
    assert wanting_starts([row], {"only"}) == ({"only"} if wanted else set())
    assert wanting_starts([msgspec.structs.replace(row, starts=2)], {"only"})  # or one of them would have most runs
    assert not wanting_starts([row], {"another"})
    assert not wanting_starts([msgspec.structs.replace(row, verdict="ok")], {"only"})
    assert row.change
    since = msgspec.structs.replace(row.change, side_by_side=False)  # what its baseline's starts scatter by stays
    assert not wanting_starts([msgspec.structs.replace(row, change=since)], {"only"})


def test_what_neither_runs_nor_engine_starts_lessen_is_no_reason_for_either() -> None:
    own_doing = Interval(0.0, -0.06, 0.06, 0.055, 0.05)
    assert not in_reach(own_doing, BUDGET, runs=12, looks=4, startable=True)
    row = level(0.0, 0.06, 0.055)
    assert row.change
    change = msgspec.structs.replace(row.change, joules=own_doing)
    assert not wanting_starts([msgspec.structs.replace(row, change=change)], {"only"})


def test_engine_starts_too_few_to_tell_how_they_scatter_are_a_reason_for_more_of_them() -> None:
    disagreeing = msgspec.structs.replace(level(0.01, 20.0, 19.0), starts=2)
    assert unsettled([disagreeing], {"only"}, looks=1, startable=True) == {"only"}
    assert wanting_starts([disagreeing], {"only"}) == {"only"}
    assert not unsettled([disagreeing], {"only"}, looks=1)
    assert not unsettled([disagreeing], {"only"}, looks=0, startable=True)
    enough = msgspec.structs.replace(disagreeing, starts=4)
    assert not unsettled([enough], {"only"}, looks=1, startable=True)
    on_its_budget = msgspec.structs.replace(level(0.029, 0.02, 0.018), starts=2)  # scatters as others do
    assert not unsettled([on_its_budget], {"only"}, looks=1, startable=True)


@given(
    of_starts=st.floats(1e-3, 0.05),
    of_runs=st.floats(1e-3, 0.05),
    starts=st.integers(1, 8),
    each=st.integers(LEAST_ROUNDS, 24),
    cost=st.floats(0.5, 50.0),
)
def test_the_variance_of_a_level_is_halved_in_less_time_than_by_twice_as_many_starts_alike(
    of_starts: float, of_runs: float, starts: int, each: int, cost: float
) -> None:
    row = level(0.01, math.hypot(of_starts, of_runs), of_starts)
    more = halving(msgspec.structs.replace(row, runs=starts * each, starts=starts), cost)
    assert more is not None
    new, rounds = more
    assert rounds >= LEAST_ROUNDS
    assert new * (cost + rounds) <= starts * (cost + each + 1)  # a round more for what is lost in rounding
    a_start, a_run = of_starts**2 * starts, of_runs**2 * starts * each
    after = a_start / (starts + new) + a_run * (starts / each + new / rounds) / (starts + new) ** 2
    assert after <= (of_starts**2 + of_runs**2) / 2 * (1 + 1e-9)


def test_what_halves_the_variance_of_a_level_is_not_told_of_starts_that_tell_nothing() -> None:
    assert halving(msgspec.structs.replace(level(0.01, 20.0, 19.0), starts=2), 10.0) is None
    assert halving(level(0.01, math.inf, 0.01), 10.0) is None
    assert halving(level(0.01, 0.02, 0.0), 10.0) is None
    assert halving(msgspec.structs.replace(level(0.01, 0.02, 0.01), verdict="ok"), 10.0) is None


@pytest.mark.parametrize("others", [0.0005, 0.1])
def test_pairs_enough_tell_by_themselves_how_windows_scatter(others: float) -> None:
    pairs = [(math.exp(0.01 * (-1) ** i), 1.0) for i in range(TELLING + 1)]
    window = Component(sd=others, freedom=4.0)

    def width(count: int, window: Component | None) -> float:
        return statistics.ratio([pairs[:count]], shifted=2, noise=ASSUMED, window=window).half_width

    assert width(TELLING + 1, window) == width(TELLING + 1, None)
    assert width(TELLING, window) != width(TELLING, None)
