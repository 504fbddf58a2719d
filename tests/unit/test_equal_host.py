import math
import random

import msgspec
import pytest

from pytest_llm_energy.metering.host_speed import Host
from pytest_llm_energy.verdicts.equal_host import PROCESSES, at_equal_host, may_tell, needs_pairs
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
CORES = 16
LOST = 0.8
"""Part of its speed by which a core is slower while the other half of it is busy."""
LITTLE_LOST = 0.2
"""The same on a host that is hardly less steady than one that is not allowed for."""
ALIKE_STARTS = msgspec.structs.replace(ASSUMED, start=Component(sd=1e-9, freedom=1e9))

Pairs = list[tuple[Run, Run]]


class Loaded:
    """Windows of two stacks, in turn, on cores that a stranger slows for some of the time."""

    def __init__(
        self,
        seed: int,
        *,
        noise: float = 0.01,
        probing: float = 0.0,
        waits: float = 1.0,
        processes: float = 0.0,
        lost: float = LOST,
    ) -> None:
        self._random = random.Random(seed)
        self._noise = noise
        self._probing = probing
        self._waits = waits
        self._processes = processes
        self._lost = lost

    def pairs(self, count: int, *, starts: int = 1, time: float = 1.0, busy: float = 0.0) -> Pairs:
        """Pairs whose present side has the host at work for so many times as long, and as many more cores busy."""
        found = []
        for start in range(starts):
            slower, other = (math.exp(self._random.gauss(0, self._processes)) for _ in range(2))
            for _ in range(count // starts):
                now = self._window(f"new-{start}", SECONDS * time * slower, busy)
                then = self._window(f"old-{start}", SECONDS * other, 0.0)
                found.append((now, then))
        return found

    def _window(self, start: str, seconds: float, busy: float) -> Run:
        slow = (1 + self._lost * self._random.random()) * (1 + LOST * busy / (CORES - 1))
        seconds *= 1 + self._waits * (slow - 1)
        joules = (WORK_JOULES + WAITING_WATTS * seconds) * math.exp(self._random.gauss(0, self._noise))
        probed = LOOP_SECONDS * slow * math.exp(self._random.gauss(0, self._probing))
        (run,) = arm("any", [joules], seconds=seconds * TOKENS).runs
        cores = 1.2 + busy + self._random.gauss(0, 0.02)
        return msgspec.structs.replace(
            run, start=start, host=Host(loop_seconds=probed, busy_cores=cores, cores=CORES)
        )


def joules(run: Run) -> float:
    return run.joules_per_unit


SAME = Host(loop_seconds=1e-4, busy_cores=1.0, cores=CORES)


def told(pairs: Pairs, *, alpha: float = ALPHA) -> Interval:
    found = at_equal_host(pairs, joules, noise=ASSUMED, alpha=alpha)
    assert found is not None
    return found


@pytest.mark.parametrize("starts", [1, 3])
def test_a_slower_stack_is_as_much_hungrier_as_if_the_host_had_been_the_same_for_both(starts: int) -> None:
    pairs = Loaded(1, noise=0.0).pairs(24, starts=starts, time=1.1)
    loop = math.exp(
        math.fsum(math.log(run.host.loop_seconds if run.host else 0) for pair in pairs for run in pair) / 48
    )
    waiting = WAITING_WATTS * SECONDS * loop / LOOP_SECONDS
    assert told(pairs).value == pytest.approx(0.1 * waiting / (WORK_JOULES + waiting), abs=0.002)


def test_what_strangers_scatter_hides_a_change_only_until_the_host_is_allowed_for() -> None:
    pairs = Loaded(8, probing=0.03).pairs(24, starts=4, time=1.08)
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
    host = Loaded(count + starts, probing=probing)
    known = [
        at_equal_host(host.pairs(count, starts=starts, time=time), joules, noise=ALIKE_STARTS) for _ in range(1500)
    ]
    most = ALPHA + 3 * math.sqrt(ALPHA / len(known))
    assert sum(interval is not None and interval.low > change for interval in known) / len(known) < most
    assert sum(interval is not None and interval.high < change for interval in known) / len(known) < most
    assert None not in known  # what is told by luck alone would be wrong more often


@pytest.mark.parametrize(("count", "starts"), [(48, 1), (48, 2), (48, 6)])
@pytest.mark.parametrize(("lost", "probing"), [(LOST, 0.02), (LITTLE_LOST, 0.01)])
def test_processes_that_are_slower_all_their_life_are_not_taken_for_a_change(
    count: int, starts: int, lost: float, probing: float
) -> None:
    host = Loaded(count + starts, processes=PROCESSES.sd, lost=lost, probing=probing)
    known = [told(host.pairs(count, starts=starts)) for _ in range(800)]
    most = ALPHA + 3 * math.sqrt(ALPHA / len(known))
    assert sum(interval.low > 0 for interval in known) / len(known) < most
    assert sum(interval.high < 0 for interval in known) / len(known) < most


def test_more_engine_starts_tell_what_more_windows_of_one_do_not() -> None:
    host = Loaded(7, processes=PROCESSES.sd)
    one, six = (told(host.pairs(96, starts=starts)) for starts in (1, 6))
    assert six.fixed < one.fixed / 2
    assert six.half_width < 0.7 * one.half_width


@pytest.mark.parametrize("lost", [LOST, LITTLE_LOST])
def test_what_does_not_wait_for_the_host_is_known_about_as_well_as_without(lost: float) -> None:
    host = Loaded(3, noise=0.003, waits=0.0, lost=lost, probing=0.01)
    widths = []
    for _ in range(200):
        pairs = host.pairs(12)
        widths.append(told(pairs).half_width / paired(pairs, noise=ASSUMED).half_width)
    assert 0.9 < math.fsum(widths) / len(widths) < 1.25


@pytest.mark.parametrize(("busy", "count"), [(2.0, 12), (2.0, 48), (4.0, 24)])
def test_a_stack_that_slows_the_cores_by_keeping_more_of_them_busy_is_not_excused_for_it(
    busy: float, count: int
) -> None:
    waiting = WAITING_WATTS * SECONDS * math.exp((1.8 * math.log(1.8) - 0.8) / 0.8)
    change = LOST * busy / (CORES - 1) * waiting / (WORK_JOULES + waiting)
    host = Loaded(4)
    known = [told(host.pairs(count, busy=busy)) for _ in range(300)]
    assert sum(interval.high < change for interval in known) <= 0.02 * len(known)
    assert sum(interval.low > 0 for interval in known) <= 0.02 * len(known)  # nor blamed for the host's doing


def test_it_takes_pairs_enough_and_a_probe_beside_each() -> None:
    pairs = Loaded(5).pairs(needs_pairs(1))
    assert at_equal_host(pairs, joules, noise=ASSUMED) is not None
    assert at_equal_host(pairs[1:], joules, noise=ASSUMED) is None
    now, then = pairs[3]
    unprobed = msgspec.structs.replace(then, host=None)
    assert at_equal_host([*pairs[:3], (now, unprobed), *pairs[4:]], joules, noise=ASSUMED) is None


@pytest.mark.parametrize("lost", [0.003, 0.01, 0.05])
def test_a_host_that_is_always_about_as_fast_is_not_allowed_for(lost: float) -> None:
    pairs = Loaded(9, lost=lost, probing=0.01, noise=0.003).pairs(24)
    assert at_equal_host(pairs, joules, noise=ASSUMED) is None
    assert not may_tell(pairs[:6])
    assert may_tell(Loaded(9).pairs(6))
    assert not may_tell(Loaded(9).pairs(24))


def test_a_host_that_is_as_fast_during_all_of_an_engine_start_is_not_allowed_for() -> None:
    def later(run: Run) -> Run:
        assert run.host
        slower = msgspec.structs.replace(run.host, loop_seconds=1.2 * run.host.loop_seconds)
        return msgspec.structs.replace(run, start=f"{run.start} later", host=slower)

    first, second = (Loaded(seed, lost=0.01).pairs(12) for seed in range(2))
    pairs = [*first, *((later(now), later(then)) for now, then in second)]
    assert at_equal_host(pairs, joules, noise=ASSUMED) is None


def test_hosts_that_are_always_as_fast_tell_nothing() -> None:
    pairs = [
        (msgspec.structs.replace(now, host=SAME), msgspec.structs.replace(then, host=SAME))
        for now, then in Loaded(6).pairs(12)
    ]
    assert at_equal_host(pairs, joules, noise=ASSUMED) is None
