"""How levels scatter on a GPU model, pooled from its baselines."""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import msgspec
import pytest

from pytest_llm_energy.serving.scenario import Identity
from pytest_llm_energy.verdicts import statistics
from pytest_llm_energy.verdicts.baselines import Baseline, BaselineCase, Session, write_baseline
from pytest_llm_energy.verdicts.boards import BOARDS_BY_WINDOWS
from pytest_llm_energy.verdicts.measured import CaseKey
from pytest_llm_energy.verdicts.noise import (
    ASSUMED,
    OWN_WORTH,
    UNMEASURED,
    Component,
    Noise,
    pooled,
    read_gpu_baselines,
)
from pytest_llm_energy.verdicts.quantities import JOULES
from pytest_llm_energy.verdicts.scatter import Spread, distinct_differences
from pytest_llm_energy.verdicts.statistics import Sample
from tests.unit.blessed import METHOD, session
from tests.unit.measurements import PLAIN


def identity(number: int) -> Identity:
    """Works that share no engine."""
    return {**PLAIN.identity(), "model": f"model {number}"}


def baseline(*sessions: Session, finding: str = "finding", gpu: str = "h200") -> Baseline:
    arms = sorted({arm for each in sessions for start in each.starts for arm in start["case"]})
    works = {arm: identity(number) for number, arm in enumerate(arms)}
    case = BaselineCase(tp=1, arms=works)
    return Baseline(schema=1, finding=finding, gpu=gpu, cases={"case": case}, sessions=sessions)


def drawn(
    generator: random.Random,
    *,
    arms: int = 20,
    boards: int = 1,
    sessions: int = 1,
    starts: int = 1,
    windows: int = 4,
    window: float = 0.004,
    start: float = 0.002,
    between_sessions: float = 0.006,
    board: float = 0.04,
) -> Baseline:
    """Sessions that scatter so much: boards and sessions shift all arms alike, starts each arm."""
    made = []
    for number in range(boards):
        of_board = generator.gauss(0, board)
        for nth in range(sessions):
            level = of_board + generator.gauss(0, between_sessions)
            means = [{f"arm {a}": level + generator.gauss(0, start) for a in range(arms)} for _ in range(starts)]
            of_starts: list[dict[str, Sequence[float]]] = [
                {arm: [mean + generator.gauss(0, window) for _ in range(windows)] for arm, mean in each.items()}
                for each in means
            ]
            made.append(session(of_starts, when=f"{number}-{nth}", board=f"board {number}"))
    return baseline(*made)


def noise(*baselines: Baseline, of: CaseKey | None = None) -> Noise:
    return pooled(baselines, method=METHOD, of=of)


def test_what_was_measured_replaces_an_assumption_and_the_others_stay() -> None:
    assert noise() == ASSUMED
    one = noise(drawn(random.Random(1)))
    assert one.window.measured
    assert msgspec.structs.replace(one, window=ASSUMED.window, by_work={}) == ASSUMED


def identity_of(made: Baseline, arm: str) -> Identity:
    (case,) = made.cases.values()
    return case.arms[arm]


def test_windows_of_a_work_are_known_from_its_own_sessions_or_where_these_are_few_amid_those_of_all() -> None:
    logs: dict[str, Sequence[float]] = {f"quiet {number}": [0.0, 0.001, -0.001] for number in range(30)}
    logs["wild"] = [0.0, 0.1, -0.1] * 4
    logs["two"] = [0.0, 0.1]
    made = baseline(session([logs]))
    found = noise(made)
    assert found.window.sd < 0.01
    wild = found.windows_of(identity_of(made, "wild"))
    assert 0.05 < wild.sd < 0.1
    assert wild.freedom == OWN_WORTH  # of eleven
    assert found.windows_of(identity_of(made, "two")).freedom == found.window.freedom + 1
    assert found.windows_of(identity_of(made, "quiet 0")).sd < 0.002
    assert found.windows_of({"never": "measured"}) == found.windows_of(None) == found.window


def test_windows_are_as_wide_as_they_were_drawn_and_worth_more_the_more_alike_arms_are() -> None:
    alike = noise(drawn(random.Random(1), arms=200, window=0.01)).window
    assert alike.sd == pytest.approx(0.01, rel=0.15)
    generator = random.Random(1)
    logs: dict[str, Sequence[float]] = {}
    for number in range(200):
        sd = 0.01 / math.sqrt(generator.gammavariate(1.5, 2) / 3)
        logs[f"arm {number}"] = [generator.gauss(0, sd) for _ in range(4)]
    apart = noise(baseline(session([logs]))).window
    assert apart.sd == pytest.approx(0.01, rel=0.25)
    assert 2 < apart.freedom < 5 < alike.freedom


def test_few_arms_say_little_of_windows() -> None:
    few = noise(drawn(random.Random(1), arms=2, window=0.02)).window
    many = noise(drawn(random.Random(1), arms=100, window=0.02)).window
    assert ASSUMED.window.sd < few.sd < 0.7 * many.sd


def test_equal_work_in_several_cases_tells_once_how_windows_scatter() -> None:
    once = drawn(random.Random(1), arms=5)
    again = msgspec.structs.replace(once, finding="other")
    assert noise(once, again).window.seen == noise(once).window.seen == 5


def test_starts_are_told_from_windows_once_there_are_enough() -> None:
    found = [
        noise(drawn(random.Random(seed), arms=40, starts=4, window=0.01, start=0.005)).start for seed in range(8)
    ]
    assert {(start.measured, start.seen) for start in found} == {(True, 120)}
    seen = [(start.sd**2 * 150 - 30 * ASSUMED.start.sd**2) / 120 for start in found]
    assert math.sqrt(fmean(seen)) == pytest.approx(0.005, rel=0.15)
    assert max(seen) < 2.5 * min(seen)


@pytest.mark.parametrize(("arms", "measured"), [(29, False), (30, True)])
def test_starts_are_not_believed_to_scatter_less_than_assumed_until_there_are_enough(
    arms: int, measured: bool
) -> None:
    start = noise(drawn(random.Random(1), arms=arms, starts=2, start=0.0, window=0.001)).start
    assert start.measured is measured
    assert (start.sd < ASSUMED.start.sd) is measured
    assert start.seen == arms


def test_few_starts_that_scatter_more_widen_what_is_assumed() -> None:
    start = noise(drawn(random.Random(1), arms=5, starts=2, start=0.01, window=0.001)).start
    assert start.measured
    assert ASSUMED.start.sd < start.sd < 0.01


def test_arms_of_one_engine_tell_of_its_starts_together() -> None:
    apart = drawn(random.Random(1), arms=8, starts=2)
    works = {f"arm {number}": {**PLAIN.identity(), "batch_size": 2**number} for number in range(8)}
    together = msgspec.structs.replace(apart, cases={"case": BaselineCase(tp=1, arms=works)})
    assert (noise(apart).start.seen, noise(together).start.seen) == (8, 1)


def test_sessions_are_told_from_windows_and_starts() -> None:
    found = [
        noise(drawn(random.Random(seed), boards=10, sessions=6, window=0.01, between_sessions=0.02)).session
        for seed in range(4)
    ]
    for component in found:
        assert (component.seen, component.boards, component.freedom) == (60, 10, ASSUMED.session.freedom)
        seen = (component.sd**2 * 60 - 10 * ASSUMED.session.sd**2) / 50
        assert math.sqrt(seen) == pytest.approx(0.02, rel=0.25)
    quiet = noise(drawn(random.Random(1), boards=10, sessions=6, window=0.01, between_sessions=0.0)).session
    assert quiet.sd < 0.6 * ASSUMED.session.sd


def test_a_session_counts_once_however_many_arms_it_has() -> None:
    generator = random.Random(1)
    shifts = [generator.gauss(0, 0.05) for _ in range(3)]
    few, many = (
        noise(baseline(*(session([{f"arm {a}": [x, x] for a in range(n)}], when=str(x)) for x in shifts))).session
        for n in (1, 40)
    )
    assert few.measured
    assert few.sd == pytest.approx(many.sd, rel=0.05)


def test_one_session_a_board_tells_nothing_of_sessions_and_one_board_nothing_of_boards() -> None:
    boards = noise(drawn(random.Random(1), boards=5))
    assert boards.session == ASSUMED.session
    assert boards.board.measured
    sessions = noise(drawn(random.Random(1), sessions=5, between_sessions=0.02))
    assert sessions.session.measured
    assert sessions.board == ASSUMED.board


def test_sessions_are_not_believed_to_be_nearer_than_assumed_until_there_are_enough() -> None:
    enough = noise(drawn(random.Random(1), boards=5, sessions=3, between_sessions=0.001)).session
    assert enough.sd < ASSUMED.session.sd
    two = noise(drawn(random.Random(1), boards=2, sessions=3, between_sessions=0.001)).session
    assert two == msgspec.structs.replace(ASSUMED.session, seen=6, boards=2)


def test_boards_are_as_far_apart_as_they_were_drawn() -> None:
    for seed in range(4):
        found = noise(drawn(random.Random(seed), boards=200, arms=12, window=0.004, board=0.1))
        assert found.board.seen == 200
        drawn_with = found.boards_of(Spread(0.004**2, 1e9))
        assert math.sqrt(drawn_with.variance) == pytest.approx(0.1, rel=0.15)
        assert found.board.freedom > 10 * ASSUMED.board.freedom  # all levels shift alike


def test_what_scatters_from_window_to_window_is_expected_to_differ_more_between_boards() -> None:
    typical = ASSUMED.window.sd
    quiet, usual, wild = (ASSUMED.boards_of(Spread(sd**2, 1000)) for sd in (typical / 3, typical, 9 * typical))
    assert quiet == usual == ASSUMED.board.spread  # decoding at batch 1 repeats well, and boards lie far apart
    assert wild.variance / usual.variance == pytest.approx(81**BOARDS_BY_WINDOWS, rel=0.01)
    assert ASSUMED.boards_of(Spread(math.nan, 0)) == ASSUMED.board.spread  # nothing is known of its windows


def test_however_alike_levels_are_what_they_show_of_boards_is_worth_no_more_than_the_assumption() -> None:
    found = noise(drawn(random.Random(1), boards=200, arms=12, board=0.1))
    assert found.board.freedom > found.boards_of(Spread(0.004**2, 12)).freedom == ASSUMED.board.freedom


def test_levels_that_differ_in_how_far_boards_shift_them_are_worth_few_degrees() -> None:
    def of(shifts: Sequence[float]) -> float:
        generator = random.Random(1)
        boards = [generator.gauss(0, 1) for _ in range(20)]
        sessions = [
            session([{f"arm {a}": [shift * board] for a, shift in enumerate(shifts)}], when=str(n), board=str(n))
            for n, board in enumerate(boards)
        ]
        return noise(baseline(*sessions)).board.freedom

    assert of([0.001, 0.01, 0.1] * 4) < ASSUMED.board.freedom < 2 * ASSUMED.board.freedom < of([0.01] * 12)


def test_two_boards_are_hardly_evidence_however_many_arms_ran_on_them() -> None:
    generator = random.Random(1)
    shift = [generator.gauss(0, 0.1) for _ in range(2)]
    by_arms = []
    for arms in ([f"arm {number}" for number in range(count)] for count in (2, 40)):
        sessions = [session([{a: [x] for a in arms}], when=str(n), board=str(n)) for n, x in enumerate(shift)]
        by_arms.append(noise(baseline(*sessions)).board)
    assert by_arms[0].sd == pytest.approx(by_arms[1].sd)
    assert by_arms[1].freedom < 1.5 * ASSUMED.board.freedom


def test_levels_on_other_boards_tell_of_as_many_differences_as_they_connect() -> None:
    assert distinct_differences([]) == 0
    assert distinct_differences(["ab", "ab", "ba"]) == 1
    assert distinct_differences(["ab", "bc", "ac"]) == 2
    assert distinct_differences(["ab", "cd"]) == 2
    assert distinct_differences(["ab", "cd", "bc", "abcd"]) == 3


def test_a_level_that_was_moved_on_purpose_is_no_noise() -> None:
    def of(moved: Sequence[str]) -> Noise:
        before, after = (
            [session([{"arm": [level] * 3}], when=f"{level}-{n}", moved=m) for n, m in ((1, first), (2, ()))]
            for level, first in ((0.0, ()), (0.2, moved))
        )
        elsewhere = session([{"arm": [0.2] * 3}], when="3", board="two")
        return noise(baseline(*before, *after, elsewhere))

    meant, not_meant = of(["arm"]), of([])
    assert meant.session.sd == ASSUMED.session.sd < not_meant.session.sd
    assert meant.board.sd < ASSUMED.board.sd < not_meant.board.sd
    assert (meant.session.seen, not_meant.session.seen) == (2, 4)


def test_only_sessions_that_were_metered_alike_on_alike_hardware_belong_together() -> None:
    first = session([{"arm": [0.0, 0.001]}], when="1")
    for other in (
        session([{"arm": [0.5, 0.6]}], when="2", method="codecarbon"),
        session([{"arm": [0.5, 0.6]}], when="2", simulated=True),
    ):
        assert noise(baseline(first, other)) == noise(baseline(first))
    lower = session([{"arm": [0.5, 0.501]}], when="2", power_limit_watts=500.0)
    assert noise(baseline(first, lower)).session == ASSUMED.session


def test_neither_the_order_of_files_nor_that_of_sessions_matters() -> None:
    findings = [
        msgspec.structs.replace(drawn(random.Random(n), boards=3, sessions=3, starts=2), finding=f"finding {n}")
        for n in range(3)
    ]
    shuffled = [
        msgspec.structs.replace(
            each,
            sessions=tuple(random.Random(7).sample(each.sessions, len(each.sessions))),
            cases={name: each.cases[name] for name in reversed(each.cases)},
        )
        for each in reversed(findings)
    ]
    one, other = noise(*findings), noise(*shuffled)
    for name in ("window", "start", "session", "board"):
        first, second = getattr(one, name), getattr(other, name)
        assert isinstance(first, Component)
        assert (first.seen, first.boards) == (second.seen, second.boards)
        assert (first.sd, first.freedom) == pytest.approx((second.sd, second.freedom), rel=1e-4)


def width(found: Noise, *, by_board: Sequence[Sequence[float]] = ((1.0,),), other_board: bool = False) -> float:
    now = Sample(starts=((1.0, 1.001, 0.999),), relative_uncertainty=0.001, boards=frozenset({"here"}))
    reference = Sample(
        starts=((1.0, 1.001, 0.999),),
        relative_uncertainty=0.001,
        boards=frozenset({"there" if other_board else "here"}),
        by_board=tuple(map(tuple, by_board)),
    )
    return statistics.change(now, reference, noise=found).half_width


def test_intervals_are_wider_on_a_noisier_gpu_model() -> None:
    quiet = noise(drawn(random.Random(1), boards=6, sessions=4, between_sessions=0.001, board=0.001))
    noisy = noise(drawn(random.Random(1), boards=6, sessions=4, between_sessions=0.02, board=0.20))
    assert width(quiet) < width(ASSUMED) < width(noisy)
    assert width(quiet, other_board=True) < width(ASSUMED, other_board=True) < width(noisy, other_board=True)
    windows = [noise(drawn(random.Random(1), arms=40, window=sd)) for sd in (0.001, 0.02)]
    pairs = [[(1.0, 1.001), (1.002, 1.0), (1.0, 1.0)]]
    ratios = [statistics.ratio(pairs, shifted=2, noise=each, window=each.window) for each in windows]
    assert ratios[0].half_width < ratios[1].half_width


def test_sessions_and_boards_of_a_level_are_not_counted_twice() -> None:
    key = CaseKey(gpu="h200", finding="finding", case="case")
    own = drawn(random.Random(1), boards=4, sessions=4, board=0.10, between_sessions=0.03)
    alone = noise(own, of=key)  # what it shows itself is weighed in where it is judged
    assert (alone.session, alone.board) == (ASSUMED.session, ASSUMED.board)
    assert noise(own).session.measured
    assert noise(own).board.measured
    other = msgspec.structs.replace(drawn(random.Random(2), boards=4, sessions=4), finding="other")
    beside = noise(own, other, of=key)
    assert beside.board.sd == pytest.approx(noise(other).board.sd, rel=0.01)
    assert beside.session.sd == pytest.approx(noise(other).session.sd, rel=0.01)
    assert width(alone, by_board=[[1.0], [1.2]], other_board=True) > width(alone, other_board=True)
    assert width(alone, by_board=[[1.0, 1.1]]) > width(alone)


@pytest.mark.parametrize("sessions", [1, 2, 4])
def test_bounds_hold_as_often_as_they_say_whatever_the_noise(sessions: int) -> None:
    generator = random.Random(sessions)
    wrong, trials = 0, 600
    for _ in range(trials):
        # A GPU model's sessions scatter as much as is known of others.
        evidence = generator.gammavariate(ASSUMED.session.freedom / 2, 2) / ASSUMED.session.freedom
        sd = ASSUMED.session.sd / math.sqrt(evidence)
        blessed = drawn(generator, arms=3, sessions=sessions, between_sessions=sd, board=0.0)
        now = drawn(generator, arms=3, between_sessions=sd, board=0.0)
        sides = [JOULES.then(made.sessions, "case", "arm 0", relative_uncertainty=0.001) for made in (now, blessed)]
        others = msgspec.structs.replace(blessed, finding="other")
        known = noise(blessed, others, of=CaseKey(gpu="h200", finding="finding", case="case"))
        change = statistics.change(sides[0], sides[1], noise=known)
        wrong += not change.low <= 0 <= change.high
    assert wrong / trials <= 2 * statistics.ALPHA + 4 * math.sqrt(2 * statistics.ALPHA / trials)


def test_a_file_that_cannot_be_read_leaves_the_others_and_is_named(tmp_path: Path) -> None:
    kept = msgspec.structs.replace(drawn(random.Random(1), boards=3), finding="kept")
    lost = msgspec.structs.replace(drawn(random.Random(2), boards=3), finding="lost")
    for each in (kept, lost):
        write_baseline(tmp_path, each)
    both = read_gpu_baselines(tmp_path, "h200").noise(method=METHOD, simulated=False)
    assert both.unread == ()
    (tmp_path / "h200" / "lost.json").unlink()
    without = read_gpu_baselines(tmp_path, "h200").noise(method=METHOD, simulated=False)
    assert without.board != both.board
    (tmp_path / "h200" / "lost.json").write_text("{")
    found = read_gpu_baselines(tmp_path, "h200").noise(method=METHOD, simulated=False)
    assert found == msgspec.structs.replace(without, unread=("lost",))
    assert read_gpu_baselines(tmp_path, "a100") == UNMEASURED


def test_a_cpu_keeps_what_is_assumed(tmp_path: Path) -> None:
    made = drawn(random.Random(1), sessions=4)
    write_baseline(tmp_path, msgspec.structs.replace(made, gpu="cpu"))
    found = read_gpu_baselines(tmp_path, "cpu").noise(method=METHOD, simulated=False)
    assert found == ASSUMED
