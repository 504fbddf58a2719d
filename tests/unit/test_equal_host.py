import math
import random

import msgspec
import pytest

from pytest_llm_energy.verdicts.equal_host import NEEDS_PAIRS, at_equal_host
from pytest_llm_energy.verdicts.estimates import paired
from pytest_llm_energy.verdicts.measured import Run
from pytest_llm_energy.verdicts.noise import ASSUMED, Component
from pytest_llm_energy.verdicts.statistics import ALPHA, Interval
from tests.unit.measurements import PLAIN, arm

TOKENS = PLAIN.output_tokens * PLAIN.batch_size
WORK_JOULES = 1.9
WAITING_WATTS = 126.0
SECONDS = 0.013
LOOP_SECONDS = 1e-4
ALIKE_STARTS = msgspec.structs.replace(ASSUMED, start=Component(sd=1e-9, freedom=1e9))

Pairs = list[tuple[Run, Run]]


class Host:
    """Windows of two stacks, in turn, on cores that a stranger slows for some of the time."""

    def __init__(self, seed: int, *, noise: float = 0.01, probing: float = 0.0, waits: float = 1.0) -> None:
        self._random = random.Random(seed)
        self._noise = noise
        self._probing = probing
        self._waits = waits

    def pairs(self, count: int, *, starts: int = 1, time: float = 1.0, takes_cores: float = 1.0) -> Pairs:
        """Pairs whose present side has the host at work for so many times as long, and slows it as much."""
        found = []
        for start in range(starts):
            for _ in range(count // starts):
                now = self._window(f"new-{start}", SECONDS * time, takes_cores)
                then = self._window(f"old-{start}", SECONDS, 1.0)
                found.append((now, then))
        return found

    def _window(self, start: str, seconds: float, slowed: float) -> Run:
        slow = (1 + 0.8 * self._random.random()) * slowed
        seconds *= 1 + self._waits * (slow - 1)
        joules = (WORK_JOULES + WAITING_WATTS * seconds) * math.exp(self._random.gauss(0, self._noise))
        probed = LOOP_SECONDS * slow * math.exp(self._random.gauss(0, self._probing))
        (run,) = arm("any", [joules], seconds=seconds * TOKENS).runs
        return msgspec.structs.replace(run, start=start, host_seconds=probed)


def told(pairs: Pairs, *, alpha: float = ALPHA) -> Interval:
    found = at_equal_host(pairs, noise=ASSUMED, alpha=alpha)
    assert found is not None
    return found


@pytest.mark.parametrize("starts", [1, 3])
def test_a_slower_stack_is_as_much_hungrier_as_if_the_host_had_been_the_same_for_both(starts: int) -> None:
    pairs = Host(1, noise=0.0).pairs(24, starts=starts, time=1.1)
    loop = math.exp(math.fsum(math.log(run.host_seconds or 0) for pair in pairs for run in pair) / 48)
    waiting = WAITING_WATTS * SECONDS * loop / LOOP_SECONDS
    assert told(pairs).value == pytest.approx(0.1 * waiting / (WORK_JOULES + waiting), abs=0.002)


def test_what_strangers_scatter_hides_a_change_only_until_the_host_is_allowed_for() -> None:
    pairs = Host(2, probing=0.03).pairs(12, time=1.08)
    whole, known = paired(pairs, noise=ASSUMED), told(pairs)
    assert whole.low < 0 < known.low
    assert known.half_width < whole.half_width / 2
    assert told(pairs, alpha=ALPHA / 3).half_width > known.half_width


@pytest.mark.parametrize(
    ("count", "starts", "time"), [(12, 1, 1.0), (12, 1, 1.1), (24, 3, 1.05), (48, 1, 1.2), (24, 1, 0.9)]
)
@pytest.mark.parametrize("probing", [0.0, 0.1])
def test_bounds_are_wrong_as_often_as_they_say(count: int, starts: int, time: float, probing: float) -> None:
    # The mean log of 1 + 0.8 x over x from 0 to 1 is that of a core so slow.
    waiting = WAITING_WATTS * SECONDS * math.exp((1.8 * math.log(1.8) - 0.8) / 0.8)
    change = (time - 1) * waiting / (WORK_JOULES + waiting)
    host = Host(count + starts, probing=probing)
    found = [at_equal_host(host.pairs(count, starts=starts, time=time), noise=ALIKE_STARTS) for _ in range(1500)]
    known = [interval for interval in found if interval]
    assert len(known) > 0.9 * len(found)
    most = ALPHA + 4 * math.sqrt(ALPHA / len(known))
    assert sum(interval.low > change for interval in known) / len(known) < most
    assert sum(interval.high < change for interval in known) / len(known) < most


def test_what_does_not_wait_for_the_host_is_known_about_as_well_as_without() -> None:
    host = Host(3, noise=0.003, waits=0.0)
    widths = []
    for _ in range(200):
        pairs = host.pairs(12)
        if known := at_equal_host(pairs, noise=ASSUMED):
            widths.append(known.half_width / paired(pairs, noise=ASSUMED).half_width)
    assert len(widths) > 150
    assert 0.9 < math.fsum(widths) / len(widths) < 1.25


def test_nothing_is_told_where_a_stack_plainly_slows_the_cores_itself() -> None:
    host = Host(4)
    told_all_the_same = sum(
        at_equal_host(host.pairs(48, takes_cores=1.3), noise=ASSUMED) is not None for _ in range(200)
    )
    assert told_all_the_same < 0.05 * 200


def test_it_takes_pairs_enough_and_a_probe_beside_each() -> None:
    pairs = Host(5).pairs(NEEDS_PAIRS)
    assert at_equal_host(pairs, noise=ASSUMED) is not None
    assert at_equal_host(pairs[1:], noise=ASSUMED) is None
    now, then = pairs[3]
    unprobed = msgspec.structs.replace(then, host_seconds=None)
    assert at_equal_host([*pairs[:3], (now, unprobed), *pairs[4:]], noise=ASSUMED) is None


def test_hosts_that_are_always_as_fast_tell_nothing() -> None:
    pairs = [
        (msgspec.structs.replace(now, host_seconds=1e-4), msgspec.structs.replace(then, host_seconds=1e-4))
        for now, then in Host(6).pairs(12)
    ]
    assert at_equal_host(pairs, noise=ASSUMED) is None
