import math
import random

import msgspec
import pytest

from pytest_llm_energy.verdicts.causes import Cause
from pytest_llm_energy.verdicts.equal_speed import LEAST_FREEDOM, at_equal_speed
from pytest_llm_energy.verdicts.estimates import paired
from pytest_llm_energy.verdicts.measured import Run
from pytest_llm_energy.verdicts.noise import ASSUMED
from pytest_llm_energy.verdicts.statistics import ALPHA, Interval
from tests.unit.measurements import PLAIN, arm

TOKENS = PLAIN.output_tokens * PLAIN.batch_size
WORK_JOULES = 1.9
WAITING_WATTS = 126.0
SECONDS = 0.013


def window(work: float, seconds: float, *, start: str = "main-1") -> Run:
    """A window of what waits for its host: so many joules a token for its work, and watts while it waits."""
    (run,) = arm("any", [work + WAITING_WATTS * seconds], seconds=seconds * TOKENS).runs
    return msgspec.structs.replace(run, start=start)


def pairs_on_a_host(
    generator: random.Random,
    *,
    count: int,
    work: float = 1.0,
    time: float = 1.0,
    starts: int = 1,
    noise: float = 0.01,
) -> list[tuple[Run, Run]]:
    """Windows of both stacks where a host's speed scatters by a tenth; work and time are the present one's."""
    found = []
    for start in range(starts):
        shifts = [math.exp(generator.gauss(0, ASSUMED.start.sd)) for _ in range(2)] if starts > 1 else [1.0, 1.0]
        for _ in range(count // starts):
            one, other = (
                window(
                    WORK_JOULES * factor * shift * math.exp(generator.gauss(0, noise)),
                    SECONDS * slower * math.exp(generator.gauss(0, 0.1)),
                    start=f"{side}-{start}",
                )
                for side, factor, slower, shift in (("new", work, time, shifts[0]), ("old", 1.0, 1.0, shifts[1]))
            )
            found.append((one, other))
    return found


def test_work_is_told_exactly_from_waiting_where_nothing_else_scatters() -> None:
    pairs = pairs_on_a_host(random.Random(1), count=12, work=1.1, time=1.3, noise=0.0)
    found = at_equal_speed(pairs, noise=ASSUMED)
    assert found is not None
    level = math.exp(math.fsum(math.log(other.joules_per_unit) for _, other in pairs) / len(pairs))
    assert found.value == pytest.approx(0.1 * WORK_JOULES / level)


def test_what_a_host_scatters_hides_a_change_of_work_only_until_speed_is_allowed_for() -> None:
    pairs = pairs_on_a_host(random.Random(2), count=12, work=1.1)
    whole, known = paired(pairs, noise=ASSUMED), at_equal_speed(pairs, noise=ASSUMED)
    assert known is not None
    assert whole.low < 0 < known.low
    assert known.half_width < whole.half_width / 3


@pytest.mark.parametrize(("count", "starts", "time"), [(6, 1, 1.0), (12, 1, 1.0), (12, 3, 1.2), (24, 1, 1.4)])
def test_bounds_are_wrong_as_often_as_they_say_however_much_slower_a_stack_is(
    count: int, starts: int, time: float
) -> None:
    generator = random.Random(count + starts)
    trials, low_wrong, high_wrong, slower_is_dearer = 1500, 0, 0, 0
    for _ in range(trials):
        pairs = pairs_on_a_host(generator, count=count, time=time, starts=starts)
        known = at_equal_speed(pairs, noise=ASSUMED)
        assert known is not None
        low_wrong += known.low > 0
        high_wrong += known.high < 0
        slower_is_dearer += paired(pairs, noise=ASSUMED).low > 0
    most = ALPHA + 4 * math.sqrt(ALPHA / trials)
    assert low_wrong / trials < most
    assert high_wrong / trials < most
    assert (slower_is_dearer > trials / 2) == (time > 1.0)


def test_too_few_pairs_and_pairs_that_are_equally_fast_make_no_line() -> None:
    few = pairs_on_a_host(random.Random(4), count=LEAST_FREEDOM + 1)
    assert at_equal_speed(few, noise=ASSUMED) is None
    alike = [(window(WORK_JOULES, SECONDS), window(WORK_JOULES, SECONDS))] * 12
    assert at_equal_speed(alike, noise=ASSUMED) is None


def test_it_is_said_only_where_it_tells_more_than_the_whole_change() -> None:
    whole, as_sure, surer = Interval(0.02, -0.05, 0.09), Interval(0.02, -0.04, 0.08), Interval(0.01, 0.0, 0.02)
    assert Cause.of(whole, whole, whole, at_equal_speed=as_sure).at_equal_speed is None
    assert Cause.of(whole, whole, whole, at_equal_speed=surer).at_equal_speed == surer
    assert Cause.of(whole, whole, whole).at_equal_speed is None
