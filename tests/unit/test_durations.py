"""What cases are expected to take beside what they took on H200s."""

import statistics

import msgspec
import pytest

from docs.h200 import SESSIONS, expected_serving
from docs.journals import MEASUREMENTS
from pytest_llm_energy.measuring import Plan
from pytest_llm_energy.planning.durations import (
    ENGINE_START_SECONDS,
    GPU_START_SECONDS,
    WARM_UP_BATCHES,
    arm_serving,
    start_seconds,
)
from pytest_llm_energy.verdicts.journal import Journal, read_journal

RECORDED = sorted((MEASUREMENTS / "h200").glob("*.jsonl.gz"))


def journal(name: str) -> Journal:
    return read_journal(MEASUREMENTS / "h200" / f"{name}.jsonl.gz")


@pytest.mark.parametrize("name", [name for name in SESSIONS if journal(name).seconds])
def test_estimates_of_recorded_sessions_are_near_what_they_took(name: str) -> None:
    recorded = journal(name)
    expected = sum(expected_serving(recorded, key).seconds for key in recorded.seconds)
    ratio = expected / sum(recorded.seconds.values())
    assert 0.7 < ratio < 1.1, ratio


def test_engine_starts_are_the_means_of_the_recorded_ones() -> None:
    found: dict[float, list[float]] = {}
    for path in RECORDED:
        for start in read_journal(path).starts.values():
            found.setdefault(start_seconds(start.engine, "h200"), []).append(start.seconds)
    assert found.keys() == set(GPU_START_SECONDS.values())
    for estimate, seconds in found.items():
        assert estimate == pytest.approx(statistics.fmean(seconds), rel=0.1)


def test_an_engine_that_nobody_recorded_takes_the_general_estimate() -> None:
    key = msgspec.json.encode({"engine": "transformers", "tensor_parallel_size": 1}).decode()
    assert start_seconds(key, "h200") == GPU_START_SECONDS["transformers"]
    assert start_seconds(key, "cpu") == ENGINE_START_SECONDS


def test_an_arm_takes_whole_batches_and_warms_up_on_each_start() -> None:
    plan = Plan(runs=4, starts=2, window_seconds=2.5)
    serving = arm_serving(2.0, plan, 0.5)
    assert serving.metered_seconds == 4 * 4.0
    assert serving.seconds == 2 * WARM_UP_BATCHES * 2.0 + 4 * 4.5
