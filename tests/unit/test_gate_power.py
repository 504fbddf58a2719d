"""Pure parts of the benchmarks of the gate: recorded noise, draws, and the power of a mean beyond a threshold."""

import math
import random

import msgspec
import numpy as np
import pytest

from benchmarks.gate_power import REFERENCES, Reference, draw, known_spread_power, outcome, shifted
from benchmarks.power_report import OURS
from benchmarks.recorded_noise import Level, Recorded, noise_of, recorded
from benchmarks.time_to_verdict import fewest, power_of
from pytest_llm_energy.verdicts import statistics
from pytest_llm_energy.verdicts.noise import ASSUMED

AGAINST, SAME_BOARD, OTHER_BOARD, _ = REFERENCES


def level(*logs: float, board: str = "b", session: str = "s", start: str = "1") -> Level:
    return Level(
        name="work",
        board=board,
        session=session,
        start=start,
        when="2026-01-01",
        logs=logs,
        uncertainty=0.0025,
        window_seconds=2.5,
        batch_size=1,
        batch_seconds=0.5,
        start_seconds=40.0,
        load=0.7,
    )


def noise(*, window_sd: float, board_sd: float = 0.01, start_sd: float = 0.002) -> Recorded:
    half = window_sd / math.sqrt(2)
    work = noise_of([[level(-half, half)]]).works[0]
    works = (msgspec.structs.replace(work, board_sd=board_sd),)
    return Recorded(works=works, start_sd=start_sd, session_sd=0.0065, says=())


def test_windows_starts_sessions_and_boards_are_told_apart() -> None:
    generator = random.Random(2)
    works = []
    for _ in range(40):
        levels = []
        for board in "ab":
            on_board = generator.gauss(0, 0.05)
            for session in "mn":
                in_session = on_board + generator.gauss(0, 0.02)
                for start in "12":
                    mean = in_session + generator.gauss(0, 0.008)
                    logs = [mean + generator.gauss(0, 0.003) for _ in range(12)]
                    levels.append(level(*logs, board=board, session=board + session, start=board + session + start))
        works.append(levels)
    found = noise_of(works)
    assert np.mean([work.window_sd for work in found.works]) == pytest.approx(0.003, rel=0.1)
    assert found.start_sd == pytest.approx(0.008, rel=0.2)
    assert found.session_sd == pytest.approx(0.02, rel=0.3)
    assert np.mean([work.board_sd for work in found.works]) == pytest.approx(0.04, rel=0.3)


def test_what_no_journal_tells_is_assumed_and_said() -> None:
    found = noise_of([[level(0.0, 0.01, -0.01)]])
    assert (found.start_sd, found.session_sd) == (ASSUMED.start.sd, ASSUMED.session.sd)
    assert found.works[0].board_sd == ASSUMED.board.sd
    assert "none recorded twice; 0.20% is assumed" in " ".join(found.says)


def test_the_committed_journals_tell_the_noise_of_every_work() -> None:
    found = recorded()
    assert len(found.works) > 30
    assert all(0 < work.window_sd < 0.2 for work in found.works)  # transformers on a busy host: 0.14
    assert any(work.boards == 3 for work in found.works)


def test_a_shifted_interval_is_the_interval_of_dearer_runs() -> None:
    then = (1.0, 1.01, 0.99)
    now = (1.002, 1.004, 0.997)
    pairs = list(zip(now, then, strict=True))
    dearer = [(joules * 1.05, other) for joules, other in pairs]
    plain = statistics.ratio([pairs], shifted=2, noise=ASSUMED, window=ASSUMED.window)
    anew = statistics.ratio([dearer], shifted=2, noise=ASSUMED, window=ASSUMED.window)
    moved = shifted(plain, 0.05)
    assert (moved.low, moved.value, moved.high) == pytest.approx((anew.low, anew.value, anew.high))


def test_boards_shift_all_cases_of_a_suite_alike_and_another_stack_on_the_board_none() -> None:
    quiet = noise(window_sd=1e-6, board_sd=0.05, start_sd=1e-6)
    generator = np.random.default_rng(1)
    apart = draw(OTHER_BOARD, quiet, 20, 3, generator)
    shifts = (apart.now - apart.then).mean(axis=2)
    assert np.ptp(shifts, axis=1).max() < 1e-4
    assert shifts.std() > 0.02
    together = draw(AGAINST, quiet, 20, 3, generator)
    assert np.abs(together.now - together.then).max() < 1e-4


def test_verdicts_are_sure_where_noise_is_small() -> None:
    small = noise(window_sd=0.001, board_sd=0.001)
    drawn = draw(AGAINST, small, 4, 6, np.random.default_rng(3))
    found = outcome(AGAINST, drawn, small, ASSUMED, looks=(3, 6))
    assert found.rules[OURS].suites_alarmed == 0
    assert found.rules[OURS].called[0] == 0
    assert found.rules[OURS].called[-1] == 1
    assert found.coverage > 0.9
    assert found.mean_runs[0] == 3  # what is decided is not looked at again


def test_what_a_known_spread_could_tell_grows_with_runs_and_shrinks_with_what_is_not_shared() -> None:
    typical = noise(window_sd=0.02)

    def power(reference: Reference, runs: int) -> float:
        return known_spread_power(reference, typical.works[0], typical, runs, 0.06)

    assert power(AGAINST, 12) > power(AGAINST, 3)
    assert power(AGAINST, 3) > power(SAME_BOARD, 3) > power(OTHER_BOARD, 3)


def test_the_fewest_runs_reach_the_power_and_one_fewer_does_not() -> None:
    def power(runs: int) -> float:
        return power_of(runs, run_sd=0.01, start_sd=0.002)

    runs = fewest(power)
    assert runs is not None
    assert power(runs) >= 0.95 > power(runs - 1)
    assert fewest(lambda runs: power_of(runs, run_sd=0.01, start_sd=0.02)) is None
