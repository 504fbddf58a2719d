from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest

from pytest_llm_energy.arm_runs import ArmRuns
from pytest_llm_energy.errors import EngineError
from pytest_llm_energy.measuring import Plan
from pytest_llm_energy.options import EnergyConfig
from pytest_llm_energy.patience import Patience
from pytest_llm_energy.session import EnergySession
from pytest_llm_energy.settling import metered_on
from pytest_llm_energy.verdicts.records import Looked
from pytest_llm_energy.verdicts.rows import ClaimRow, LevelRow, Row
from pytest_llm_energy.verdicts.statistics import Interval
from tests.unit.measurements import KEY
from tests.unit.test_arm_runs import arm_runs
from tests.unit.test_measuring import Steps
from tests.unit.test_settling import level

STARTING_SECONDS = 100.0
WINDOWS_LEAVE, STARTS_LEAVE, SETTLED = (0.015, 0.02, 0.005), (0.015, 0.02, 0.018), (0.0, 0.01, 0.005)
"""Intervals over the budget for how windows, and how engine starts, scatter; and one below it."""


class Session:
    plan = Plan(runs=4, window_seconds=1.0)

    def __init__(self, seconds: float) -> None:
        options = cast(EnergyConfig, SimpleNamespace(settle_seconds=seconds))
        self.patience = Patience(options, side_by_side=lambda: True, spare_seconds=lambda: 0.0)


class Failing(Steps):
    """Work whose engine starts once."""

    def begin(self) -> None:
        if self.starts > 1:
            raise EngineError("no memory is left")
        super().begin()


def series_of(kind: type[Steps] = Steps, *, starting: float = STARTING_SECONDS) -> ArmRuns:
    works = [kind(name, [0.5], [], side=side) for name in "ab" for side in ("present", "against")]
    for work in works:
        work.starting_seconds = starting
    return arm_runs(works, Session.plan)


def rows(a: tuple[float, float, float], b: tuple[float, float, float]) -> list[LevelRow]:
    return [
        msgspec.structs.replace(level(*of), arm=name, runs=4, verdict="ok" if of == SETTLED else "inconclusive")
        for name, of in (("a", a), ("b", b))
    ]


def metered(series: ArmRuns, found: Sequence[Row], *, seconds: float) -> bool:
    session = cast(EnergySession, Session(seconds))
    return metered_on(series, found, arms={"a", "b"}, looks=2, session=session, say=lambda what: None)


def runs(series: ArmRuns) -> dict[str, list[int]]:
    """Runs of each engine start, by arm."""
    return {arm.name: list(Counter(run.start for run in arm.runs).values()) for arm in series.measured().arms}


def test_what_engine_starts_leave_open_is_metered_on_new_ones_and_the_rest_on_those_that_are_there() -> None:
    series = series_of()
    assert metered(series, rows(STARTS_LEAVE, WINDOWS_LEAVE), seconds=3 * STARTING_SECONDS)
    assert runs(series) == {"a": [4, 4], "b": [8]}


def test_an_open_claim_is_metered_on_in_rounds_that_all_of_its_arms_have() -> None:
    claim = ClaimRow(
        key=KEY, says="a saves", interval=Interval(0.0, -0.1, 0.1), kind="effect", verdict="inconclusive"
    )
    series = series_of()
    assert metered(series, [*rows(STARTS_LEAVE, WINDOWS_LEAVE), claim], seconds=5 * STARTING_SECONDS)
    assert runs(series) == {"a": [4, 4], "b": [4, 4]}
    assert len(series.measured().rounds()) == 8
    unlike = series_of()
    assert metered(unlike, rows(SETTLED, WINDOWS_LEAVE), seconds=STARTING_SECONDS)
    assert metered(unlike, [*rows(SETTLED, WINDOWS_LEAVE), claim], seconds=STARTING_SECONDS)
    assert runs(unlike) == {"a": [8], "b": [12]}
    assert len(unlike.measured().rounds()) == 8


def test_arms_that_have_been_metered_unlike_often_are_doubled_each() -> None:
    series = series_of()
    assert metered(series, rows(STARTS_LEAVE, WINDOWS_LEAVE), seconds=3 * STARTING_SECONDS)
    both = [
        msgspec.structs.replace(row, runs=8, starts=starts)
        for row, starts in zip(rows(STARTS_LEAVE, STARTS_LEAVE), (2, 1), strict=True)
    ]
    assert metered(series, both, seconds=20 * STARTING_SECONDS)
    assert runs(series) == {"a": [4, 4, 4, 4], "b": [8, 8]}


def test_where_starts_are_cheap_and_scatter_most_there_are_more_of_them_with_fewer_windows_each() -> None:
    series = series_of(starting=0.0)
    open_ = [msgspec.structs.replace(row, runs=24) for row in rows(STARTS_LEAVE, SETTLED)]
    assert metered(series, open_, seconds=3 * STARTING_SECONDS)
    assert runs(series) == {"a": [4, 5, 5], "b": [4]}


def test_where_there_is_no_time_for_new_engine_starts_windows_decide_what_they_may() -> None:
    series = series_of()
    assert metered(series, rows((0.006, 0.03, 0.022), WINDOWS_LEAVE), seconds=STARTING_SECONDS)
    assert runs(series) == {"a": [8], "b": [8]}
    nothing = series_of()
    assert not metered(nothing, rows((0.029, 0.03, 0.028), (0.029, 0.03, 0.028)), seconds=STARTING_SECONDS)
    assert runs(nothing) == {"a": [4], "b": [4]}


def test_what_was_metered_stands_where_new_engines_do_not_start() -> None:
    series = series_of(Failing)
    with pytest.warns(UserWarning, match="could not be metered on new engine starts: no memory is left"):
        assert not metered(series, rows(STARTS_LEAVE, STARTS_LEAVE), seconds=1000)
    assert runs(series) == {"a": [4], "b": [4]}
    assert not metered(series, rows(STARTS_LEAVE, WINDOWS_LEAVE), seconds=1000)


def test_of_an_earlier_run_only_what_stands_beside_another_stack_is_metered_on() -> None:
    claim = ClaimRow(
        key=KEY, says="a saves", interval=Interval(0.0, -0.1, 0.1), kind="effect", verdict="inconclusive"
    )
    series = series_of()
    series.before = Looked(rounds=4, looks=3)
    assert metered(series, [*rows(SETTLED, WINDOWS_LEAVE), claim], seconds=5 * STARTING_SECONDS)
    assert runs(series) == {"a": [4], "b": [8]}
    assert not metered(series, [*rows(SETTLED, SETTLED), claim], seconds=5 * STARTING_SECONDS)
