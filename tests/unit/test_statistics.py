import math
import random

import msgspec
import pytest

from pytest_llm_energy.verdicts import statistics
from pytest_llm_energy.verdicts.noise import ASSUMED
from pytest_llm_energy.verdicts.statistics import ALPHA, Sample


def sample(*starts: tuple[float, ...], boards: str = "one", sessions: int = 1) -> Sample:
    of = frozenset(boards.split())
    return Sample(starts=starts, relative_uncertainty=0.001, boards=of, session_share=1 / sessions)


def test_a_ratio_of_pairs_is_exact_without_noise() -> None:
    interval = statistics.ratio([[(1.2, 1.0)] * 3], shifted=0, noise=ASSUMED)
    assert interval.value == pytest.approx(0.2)
    assert interval.half_width == pytest.approx(0.0, abs=1e-12)


def test_a_single_pair_bounds_nothing() -> None:
    interval = statistics.ratio([[(1.2, 1.0)]], shifted=2, noise=ASSUMED)
    assert interval.low == -1.0
    assert interval.high == math.inf


def test_a_change_is_as_sure_as_sessions_and_boards_allow() -> None:
    now = sample((1.0, 1.001, 0.999))
    same_board = statistics.change(now, sample((1.0, 1.001, 0.999)), noise=ASSUMED)
    other_board = statistics.change(now, sample((1.0, 1.001, 0.999), boards="two"), noise=ASSUMED)
    more_sessions = statistics.change(now, sample((1.0, 1.001, 0.999), (1.0, 1.0, 1.0), sessions=2), noise=ASSUMED)
    assert more_sessions.half_width < same_board.half_width < other_board.half_width
    assert other_board.half_width > ASSUMED.board.sd


def test_a_second_window_of_one_start_does_not_hide_what_the_starts_tell() -> None:
    then = sample((1.0, 1.002, 0.999), (1.001, 1.0, 0.998))
    of_three = statistics.change(sample((1.0,), (1.003,), (0.998,)), then, noise=ASSUMED)
    and_one_more = statistics.change(sample((1.0, 1.004), (1.003,), (0.998,)), then, noise=ASSUMED)
    assert and_one_more.half_width < 1.5 * of_three.half_width


@pytest.mark.parametrize("pairs", [3, 5, 8])
def test_bounds_of_a_ratio_are_wrong_as_often_as_they_say(pairs: int) -> None:
    generator = random.Random(pairs)
    trials, low_wrong, high_wrong = 4000, 0, 0
    for _ in range(trials):
        interval = statistics.ratio(
            [[(1.1 * math.exp(generator.gauss(0, 0.02)), 1.0) for _ in range(pairs)]],
            shifted=0,
            noise=ASSUMED,
        )
        low_wrong += interval.low > 0.1
        high_wrong += interval.high < 0.1
    error = 4 * math.sqrt(ALPHA / trials)
    assert low_wrong / trials == pytest.approx(ALPHA, abs=error)
    assert high_wrong / trials == pytest.approx(ALPHA, abs=error)


@pytest.mark.parametrize("pairs", [3, 6])
def test_what_other_arms_show_narrows_a_ratio_and_keeps_its_bounds_honest(pairs: int) -> None:
    generator = random.Random(pairs)
    trials, wrong, alone, weighed = 4000, 0, 0.0, 0.0
    for _ in range(trials):
        # Arms differ in how their windows spread, as much as so few degrees of freedom say.
        evidence = generator.gammavariate(ASSUMED.window.freedom / 2, 2) / ASSUMED.window.freedom
        window_sd = ASSUMED.window.sd / math.sqrt(evidence)
        if window_sd > 0.1:
            continue
        block = [
            (math.exp(generator.gauss(0, window_sd)), math.exp(generator.gauss(0, window_sd))) for _ in range(pairs)
        ]
        interval = statistics.ratio([block], shifted=0, noise=ASSUMED, window=ASSUMED.window)
        wrong += not interval.low <= 0 <= interval.high
        weighed += math.log1p(interval.half_width)
        alone += math.log1p(statistics.ratio([block], shifted=0, noise=ASSUMED).half_width)
    assert wrong / trials == pytest.approx(2 * ALPHA, abs=4 * math.sqrt(2 * ALPHA / trials))
    assert weighed < alone


def test_a_single_pair_bounds_nothing_whatever_other_arms_show() -> None:
    assert statistics.ratio([[(1.2, 1.0)]], shifted=2, noise=ASSUMED, window=ASSUMED.window).high == math.inf


@pytest.mark.parametrize("start_sd", [0.0, ASSUMED.start.sd, 10 * ASSUMED.start.sd])
def test_bounds_over_starts_hold_for_starts_as_they_are_known_and_widen_where_they_scatter_more(
    start_sd: float,
) -> None:
    generator = random.Random(7)
    trials, wrong, widths = 3000, 0, []
    for _ in range(trials):
        blocks = []
        for _ in range(3):
            level = generator.gauss(0, start_sd) + generator.gauss(0, start_sd)
            blocks.append([(math.exp(level + generator.gauss(0, 0.004)), 1.0) for _ in range(4)])
        interval = statistics.ratio(blocks, shifted=2, noise=ASSUMED)
        wrong += interval.low > 0
        widths.append(interval.half_width)
    if start_sd <= ASSUMED.start.sd:
        assert wrong / trials <= ALPHA + 4 * math.sqrt(ALPHA / trials)
        assert sum(widths) / trials < 0.0075  # a change of 1 % is seen
    else:
        assert wrong / trials < 0.06  # what scatters ten times as much as known is noticed four times in five
        assert sum(widths) / trials > 0.05


def test_a_level_that_has_begun_to_wait_for_its_host_is_judged_as_one_that_did_not() -> None:
    now = sample((1.3, 1.301, 1.299))
    loaded, waiting = (
        msgspec.structs.replace(sample((1.0, 1.001, 0.999), boards="two"), load=load) for load in (0.7, 0.3)
    )
    assert statistics.change(now, loaded, noise=ASSUMED).low > 0.03
    assert statistics.change(now, waiting, noise=ASSUMED).low < 0


def test_a_side_whose_windows_scatter_is_on_a_host_that_differs() -> None:
    loaded = msgspec.structs.replace(sample((1.0, 1.001, 0.999), boards="two"), load=0.7)
    quiet, busy = (sample((1.0 + spread, 1.0 - spread) * 2000, boards="one") for spread in (0.001, 0.1))
    beside = statistics.change(busy, sample((1.0, 1.001, 0.999)), noise=ASSUMED)
    assert beside.half_width < 0.03  # so many windows tell the mean
    widths = [statistics.change(side, loaded, noise=ASSUMED).half_width for side in (quiet, busy)]
    assert widths[1] > 2 * widths[0]


def test_boards_that_are_a_little_farther_apart_than_known_do_not_undo_what_they_tell() -> None:
    known = math.sqrt(2) * ASSUMED.board.sd  # of an effect: both of its levels are shifted

    def half_width(apart: float) -> float:
        sides = []
        for effect in (0.7, 1.0):
            boards = tuple((effect * math.exp(sign * apart / math.sqrt(2)),) for sign in (-1, 1))
            control = msgspec.structs.replace(sample((1.0, 1.001, 0.999)), by_board=((1.0,), (1.0,)))
            arm = msgspec.structs.replace(control, starts=((effect,) * 3,), by_board=boards)
            sides.append(statistics.Contrast(arm=arm, control=control, noise=ASSUMED))
        return statistics.apart(*sides).half_width

    assert half_width(0.9 * known) < half_width(1.1 * known) < 1.3 * half_width(0.9 * known)


def test_bounds_of_a_change_hold_under_start_session_and_board_noise() -> None:
    generator = random.Random(1)
    trials, wrong = 3000, 0
    for _ in range(trials):
        sides = []
        # How much boards differ is itself known from so many only.
        evidence = generator.gammavariate(ASSUMED.board.freedom / 2, 2) / ASSUMED.board.freedom
        board_sd = ASSUMED.board.sd / math.sqrt(evidence)
        for board in "one", "two":
            level = math.exp(
                generator.gauss(0, board_sd)
                + generator.gauss(0, ASSUMED.session.sd)
                + generator.gauss(0, ASSUMED.start.sd)
            )
            runs = tuple(level * math.exp(generator.gauss(0, 0.004)) for _ in range(3))
            sides.append(sample(runs, boards=board))
        interval = statistics.change(sides[0], sides[1], noise=ASSUMED)
        wrong += not interval.low <= 0 <= interval.high
    assert wrong / trials == pytest.approx(2 * ALPHA, abs=4 * math.sqrt(2 * ALPHA / trials))


def test_boards_of_a_baseline_tell_how_much_boards_differ() -> None:
    now = sample((1.0, 1.001, 0.999), boards="here")
    starts = [(1.0, 1.001, 0.999)] * 6

    def seen_with(*levels: float) -> float:
        reference = Sample(
            starts=tuple(starts),
            relative_uncertainty=0.001,
            session_share=1 / 6,
            boards=frozenset(f"board {number}" for number in range(len(levels))),
            board_share=1 / len(levels),
            by_board=tuple((level,) for level in levels),
        )
        return statistics.change(now, reference, noise=ASSUMED).half_width

    assert seen_with(*[1.0] * 6) < seen_with(1.0) < seen_with(1.0, 1.3)
    near, nearer = (1.0, 1.005), (1.0, 1.0)
    assert seen_with(*near) == pytest.approx(seen_with(*nearer))  # that two agree says little of the next
    assert seen_with(*near * 3) > seen_with(*nearer * 3)


def test_starts_of_unequal_length_weigh_alike() -> None:
    noisy = (0.98, 1.02, 0.99, 1.01, 0.98, 1.02, 0.99, 1.01, 1.0)
    reference = sample((1.0, 1.001, 0.999))
    unequal = statistics.change(sample((1.0,), noisy), reference, noise=ASSUMED)
    equal = statistics.change(
        sample((0.98, 1.02, 0.99, 1.01, 1.0), (0.98, 1.02, 0.99, 1.01, 1.0)), reference, noise=ASSUMED
    )
    assert unequal.half_width > equal.half_width


def test_one_window_a_start_is_judged_by_how_starts_scatter() -> None:
    starts = ((1.0,), (1.004,), (0.996,))
    doubled = statistics.change(
        sample(*(tuple(2 * x for x in start) for start in starts)), sample(*starts), noise=ASSUMED
    )
    assert 0.9 < doubled.low < 1.0 < doubled.high < 1.1
    assert statistics.change(sample((1.0,)), sample(*starts), noise=ASSUMED).high == math.inf


def test_boards_that_tell_scatter_and_are_not_in_the_mean_do_not_narrow_it() -> None:
    now = sample((1.0, 1.001, 0.999), boards="here")
    boards = tuple((level,) for level in (1.0, 1.01, 0.99, 1.0, 1.01, 0.99))
    first = Sample(
        starts=((1.0, 1.001, 0.999),), relative_uncertainty=0.001, boards=frozenset({"first"}), by_board=boards
    )
    alike = msgspec.structs.replace(first, board_share=1 / 6)
    assert (
        statistics.change(now, first, noise=ASSUMED).half_width
        > statistics.change(now, alike, noise=ASSUMED).half_width
    )


def test_what_more_runs_cannot_narrow_is_told_as_wide_as_it_is() -> None:
    def now(runs: int) -> Sample:
        return sample(tuple(1.2 * (1 + 0.001 * (number % 2)) for number in range(runs)), boards="here")

    reference = sample((1.0, 1.001, 0.999), boards="there")
    few, many = (statistics.change(now(runs), reference, noise=ASSUMED) for runs in (3, 3000))
    assert math.log1p(few.fixed) == pytest.approx(math.log1p(many.high) - math.log1p(many.value), rel=0.05)
    assert statistics.runs_to_tell(few, 0.15, runs=3) is None


def test_growth_exponents_are_those_of_power_laws() -> None:
    xs = [1.0, 2.0, 4.0, 8.0]
    assert statistics.exponent(xs, [3 * x for x in xs]) == pytest.approx(1)
    assert statistics.exponent(xs, [7.0] * 4) == pytest.approx(0)


def test_one_of_several_looks_has_its_share_of_the_chance_of_an_error() -> None:
    rnd = random.Random(3)
    outside = 0
    for _ in range(2000):
        logs = [rnd.gauss(0, 0.01) for _ in range(12)]
        looks = [
            statistics.ratio([[(math.exp(x), 1.0) for x in logs[:n]]], shifted=0, noise=ASSUMED, alpha=0.05 / 3)
            for n in (3, 6, 12)
        ]
        outside += any(look.low > 0 for look in looks)
    assert outside / 2000 < 0.05


def test_the_runs_that_would_tell_are_those_that_the_interval_still_lacks() -> None:
    tight, wide = ((1.0, 1.004, 0.996), (1.0, 1.04, 0.96))
    change = statistics.change(sample(wide), sample(tight, tight, tight, tight, tight), noise=ASSUMED)
    needed = statistics.runs_to_tell(change, 0.05, runs=3)
    assert needed is not None
    assert needed > 3
    more = statistics.change(
        sample(wide * (needed // 3 + 1)), sample(tight, tight, tight, tight, tight), noise=ASSUMED
    )
    assert more.high < 0.05 < change.high
    assert statistics.runs_to_tell(change, 0.5 * change.fixed, runs=3) is None
    assert (
        statistics.runs_to_tell(statistics.change(sample((1.0,)), sample(tight), noise=ASSUMED), 0.05, runs=1)
        is None
    )


@pytest.mark.parametrize("bound", [299.0, 301.0, 800.0])
def test_bounds_beyond_all_measure_can_still_be_squared(bound: float) -> None:
    wide = statistics.relative(statistics.Interval(0.0, -bound, bound, bound, 0.0))
    assert wide.low == -1.0
    assert wide.high**2 >= 1e250
