"""What a change is where the host's processors were as fast for one stack as for the other."""

import math
from collections.abc import Callable

from pytest_llm_energy.metering.host_speed import Host
from pytest_llm_energy.verdicts.covariance import Lines, Pairs, through
from pytest_llm_energy.verdicts.measured import Run
from pytest_llm_energy.verdicts.noise import Component, Noise
from pytest_llm_energy.verdicts.scatter import Spread, summed, within
from pytest_llm_energy.verdicts.statistics import ALPHA, TELLING, Interval, mean_interval, relative

PROCESSES = Component(sd=0.0158, freedom=18.0)
"""How engine starts of one stack differ in the time that the host's part of their work takes on processors as fast.
Pairs of them on hosts of H200s differ by 2.2 %, 95 % sure of 1.6 to 3.1 (docs/h200.md): about so many degrees."""

SHARED = math.log(2)
"""By how much, as a log, a core may be slower while the other half of it is busy: hosts of H200s lose a factor of
1.8 (docs/h200.md)."""

VARIES = 0.03
"""By how much, as a standard deviation of logs, the host's speed must scatter from window to window to be allowed
for. Probes of windows of 2 s and more tell it to a percent (odd ones against even ones, H200 host, 2026-11-23);
where it hardly differs nothing tells what follows it."""


def varies(pairs: Pairs) -> bool:
    """Whether the host was probed beside every window, and was not as fast beside all of an engine start."""
    loops: dict[str, list[float]] = {}
    for pair in pairs:
        for run in pair:
            if run.host is None:
                return False
            loops.setdefault(run.start, []).append(math.log(run.host.loop_seconds))
    spread = within(loops.values())
    return spread.freedom > 0 and spread.variance >= VARIES**2


def needs_pairs(starts: int) -> int:
    """Pairs of windows that tell by themselves how windows scatter, beside what the lines need.

    Args:
        starts: pairs of engine starts that they are of.
    """
    return TELLING + starts


def may_tell(pairs: Pairs) -> bool:
    """Whether more pairs like these would be judged at equal speed of the host, and these are not yet."""
    pairs = list(pairs)
    blocks = {(one.start, other.start) for one, other in pairs}
    return len(pairs) < needs_pairs(len(blocks)) and varies(pairs)


def at_equal_host(
    pairs: Pairs, of: Callable[[Run], float], *, noise: Noise, alpha: float = ALPHA
) -> Interval | None:
    """Relative difference of a value, had the processors been equally fast for the two runs of each pair.

    How fast they are is probed beside each window, by something that no stack serves with (``HostSpeed``). So
    unlike the seconds that a window takes it tells of the host, and a stack that keeps its GPU waiting for
    longer is as much hungrier here as in the whole change.

    Engine starts differ too: a process may take some percent longer than another for the same work, all its life.
    What waits for the host is dearer by the part of it that the line tells.

    A stack may slow its own cores, by threads that are busy on the other halves of them. On so many cores it is
    taken to be by no more than what one stack keeps more of them busy than the other, which is known well; it is in
    the interval.

    Whether the host is allowed for depends on how many windows there are and on what was probed beside them, and on
    nothing that was metered: of two answers the better one would be wrong more often than it says.

    Args:
        pairs: the run of this stack and that of the other, in each round.
        of: the value of a run.
        noise: how levels of engine starts scatter where the host is not waited for.
        alpha: chance, per bound, that it excludes the truth.

    Returns:
        None where it cannot be told: a window without a probe, too few pairs, or a host that is always about as
        fast, or never as fast for the one stack as for the other.
    """
    pairs = list(pairs)
    if not varies(pairs):
        return None
    lines = through(
        pairs,
        lambda run: math.log(of(run)),
        over=lambda run: math.log(_host(run).loop_seconds),
        freedom=TELLING - 2,
    )
    if lines is None:
        return None
    own = _own_doing(lines, [(_host(one), _host(other)) for one, other in pairs], alpha)
    waits = Spread((_steepest(lines) * PROCESSES.sd) ** 2, PROCESSES.freedom)
    logs = lines.change(lines.beside, start=summed([noise.start.spread, waits]), alpha=alpha)
    return relative(Interval(logs.value, logs.low - own, logs.high + own, logs.fixed + own, own))


def _own_doing(lines: Lines, hosts: list[tuple[Host, Host]], alpha: float) -> float:
    """By how much, as a log, what the stacks do to their own cores may move the difference."""
    more = mean_interval([one.busy_cores - other.busy_cores for one, other in hosts], alpha=alpha)
    cores = min(host.cores for pair in hosts for host in pair)
    share = max(abs(more.low), abs(more.high)) / max(1, cores - 1)  # that a core's other half is busy with that
    return _steepest(lines) * SHARED * min(1.0, share)


def _steepest(lines: Lines) -> float:
    """Neither time nor power can follow the host's speed more than in proportion."""
    return min(1.0, max(map(abs, lines.slopes)))


def _host(run: Run) -> Host:
    assert run.host is not None
    return run.host
