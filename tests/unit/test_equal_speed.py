import math
import random
from collections.abc import Sequence

import msgspec
import pytest

from pytest_llm_energy.verdicts.causes import Cause
from pytest_llm_energy.verdicts.equal_speed import LEAST_FREEDOM, at_equal_speed
from pytest_llm_energy.verdicts.estimates import paired
from pytest_llm_energy.verdicts.measured import Run
from pytest_llm_energy.verdicts.noise import ASSUMED, Component
from pytest_llm_energy.verdicts.statistics import ALPHA, Interval
from tests.unit.measurements import PLAIN, arm

TOKENS = PLAIN.output_tokens * PLAIN.batch_size
WORK_JOULES = 1.9
WAITING_WATTS = 126.0
SECONDS = 0.013
ALIKE_STARTS = msgspec.structs.replace(ASSUMED, start=Component(sd=1e-9, freedom=1e9))

Pairs = list[tuple[Run, Run]]


class Host:
    """Windows of two stacks, in turn, where a host's speed scatters by a tenth."""

    def __init__(self, seed: int, *, noise: float = 0.01, start: float = 0.0, scatter: float = 0.1) -> None:
        self._random = random.Random(seed)
        self._noise = noise
        self._start = start
        self._scatter = scatter

    def pairs(
        self, count: int, *, starts: int = 1, work: float = 1.0, time: float = 1.0, watts: float = WAITING_WATTS
    ) -> Pairs:
        """Pairs whose present side has so many times the work and time, and waits at so many watts."""
        found = []
        for start in range(starts):
            shifts = [math.exp(self._random.gauss(0, self._start)) for _ in range(2)]
            for _ in range(count // starts):
                now = self._window(f"new-{start}", WORK_JOULES * work, SECONDS * time, watts, shifts[0])
                then = self._window(f"old-{start}", WORK_JOULES, SECONDS, WAITING_WATTS, shifts[1])
                found.append((now, then))
        return found

    def _window(self, start: str, work: float, seconds: float, watts: float, shift: float) -> Run:
        seconds *= math.exp(self._random.gauss(0, self._scatter))
        joules = (work + watts * seconds) * shift * math.exp(self._random.gauss(0, self._noise))
        (run,) = arm("any", [joules], seconds=seconds * TOKENS).runs
        return msgspec.structs.replace(run, start=start)


def told(pairs: Pairs, *, alpha: float = ALPHA) -> Interval:
    found = at_equal_speed(pairs, noise=ASSUMED, alpha=alpha)
    assert found is not None
    return found


def level(runs: Sequence[Run]) -> float:
    return math.exp(math.fsum(math.log(run.joules_per_unit) for run in runs) / len(runs))


@pytest.mark.parametrize("starts", [1, 3])
def test_work_is_told_exactly_from_waiting_where_nothing_else_scatters(starts: int) -> None:
    pairs = Host(1, noise=0.0).pairs(24, starts=starts, work=1.1, time=1.05)
    assert told(pairs).value == pytest.approx(0.1 * WORK_JOULES / level([other for _, other in pairs]))


def test_stacks_that_wait_at_unlike_power_are_compared_at_the_mean_of_their_speeds() -> None:
    pairs = Host(2, noise=0.0).pairs(24, watts=WAITING_WATTS + 30, time=0.95)
    seconds = math.fsum(run.seconds_per_unit for pair in pairs for run in pair) / 48
    assert told(pairs).value == pytest.approx(30 * seconds / level([other for _, other in pairs]))


def test_what_a_host_scatters_hides_a_change_of_work_only_until_speed_is_allowed_for() -> None:
    pairs = Host(3).pairs(12, work=1.06)
    whole, known = paired(pairs, noise=ASSUMED), told(pairs)
    assert whole.low < 0 < known.low
    assert known.half_width < whole.half_width / 3
    assert told(pairs, alpha=ALPHA / 3).half_width > known.half_width


def test_what_engine_starts_may_shift_is_in_the_doubt_as_it_is_in_that_of_the_whole_change() -> None:
    pairs = Host(4).pairs(12)
    assert told(pairs).fixed == pytest.approx(paired(pairs, noise=ASSUMED).fixed, rel=0.02)


@pytest.mark.parametrize(
    ("count", "starts", "time"), [(6, 1, 1.0), (12, 1, 1.0), (12, 1, 1.1), (12, 3, 1.05), (24, 1, 1.2)]
)
def test_bounds_are_wrong_as_often_as_they_say(count: int, starts: int, time: float) -> None:
    host = Host(count + starts)
    found = [at_equal_speed(host.pairs(count, starts=starts, time=time), noise=ALIKE_STARTS) for _ in range(2500)]
    known = [interval for interval in found if interval]
    assert len(known) > len(found) / 2
    most = ALPHA + 4 * math.sqrt(ALPHA / len(known))
    for wrong in (sum(interval.low > 0 for interval in known), sum(interval.high < 0 for interval in known)):
        assert ALPHA / 10 < wrong / len(known) < most  # less often where pairs that show little are left out


def test_starts_that_plainly_differ_are_in_the_doubt_of_a_slower_stack_too() -> None:
    host = Host(5, start=0.03)
    found = [at_equal_speed(host.pairs(24, starts=3, time=1.1), noise=ASSUMED) for _ in range(600)]
    known = [interval for interval in found if interval]
    assert len(known) > 300
    wrong = sum(not interval.low < 0 < interval.high for interval in known)
    paired_wrong = 0
    still = Host(5, start=0.03, scatter=0.0, noise=0.01)
    for _ in range(600):
        whole = paired(still.pairs(24, starts=3), noise=ASSUMED)
        paired_wrong += not whole.low < 0 < whole.high
    assert wrong / len(known) < paired_wrong / 600 + 0.03  # as sure as where nothing but starts differs


@pytest.mark.parametrize("noise", [0.1, 0.05])
def test_where_speed_does_not_tell_it_is_hardly_ever_shown(noise: float) -> None:
    host = Host(6, noise=noise, scatter=0.02)
    shown = sum(at_equal_speed(host.pairs(12), noise=ASSUMED) is not None for _ in range(500))
    assert shown <= 0.02 * 500


def test_at_the_power_limit_energy_is_in_proportion_to_time_and_no_work_is_left_to_compare() -> None:
    host, watts = Host(7), random.Random(7)

    def capped(run: Run) -> Run:
        joules = run.reading.seconds * watts.gauss(690, 7)
        return msgspec.structs.replace(run, reading=msgspec.structs.replace(run.reading, joules=joules))

    shown = [
        at_equal_speed([(capped(one), capped(other)) for one, other in host.pairs(12, time=1.05)], noise=ASSUMED)
        for _ in range(200)
    ]
    assert sum(found is not None for found in shown) <= 0.02 * 200


def test_it_is_not_told_beyond_the_speeds_that_were_measured() -> None:
    host, steady = Host(8, noise=0.0), Host(8, noise=0.0, scatter=0.02)
    assert at_equal_speed(host.pairs(24, time=3.0), noise=ASSUMED) is None
    of_either = zip(steady.pairs(24, time=0.7), host.pairs(24), strict=True)
    assert at_equal_speed([(now, then) for (now, _), (_, then) in of_either], noise=ASSUMED) is None


def test_too_few_pairs_and_pairs_that_are_equally_fast_make_no_line() -> None:
    assert at_equal_speed(Host(9, noise=0.0).pairs(LEAST_FREEDOM + 2), noise=ASSUMED) is None
    assert at_equal_speed(Host(9, noise=0.0).pairs(LEAST_FREEDOM + 3), noise=ASSUMED) is not None
    assert at_equal_speed(Host(9, scatter=0.0).pairs(12), noise=ASSUMED) is None


def test_it_is_said_only_where_it_tells_more_than_the_whole_change() -> None:
    whole, less_sure, surer = Interval(0.02, -0.05, 0.09), Interval(0.02, -0.06, 0.1), Interval(0.01, 0.0, 0.02)
    assert Cause.of(whole, whole, whole, at_equal_speed=less_sure).at_equal_speed is None
    assert Cause.of(whole, whole, whole, at_equal_speed=surer).at_equal_speed == surer
    assert Cause.of(whole, whole, whole).at_equal_speed is None
