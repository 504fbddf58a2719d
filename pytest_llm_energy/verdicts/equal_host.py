"""What a change is where the host's processors were as fast for one stack as for the other."""

import math

from pytest_llm_energy.verdicts.covariance import Pairs, through
from pytest_llm_energy.verdicts.measured import Run
from pytest_llm_energy.verdicts.noise import Noise
from pytest_llm_energy.verdicts.statistics import ALPHA, TELLING, Interval, mean_interval, relative

NEEDS_PAIRS = TELLING + 1
"""Of one engine start a side, and one more for each further: so many pairs beside what the lines need tell by
themselves how windows scatter."""


def at_equal_host(pairs: Pairs, *, noise: Noise, alpha: float = ALPHA) -> Interval | None:
    """Relative difference of joules per unit, had the processors been equally fast for the two runs of each pair.

    How fast they are is probed beside each window, by something that no stack serves with (``HostSpeed``). So
    unlike the seconds that a window takes it tells of the host, and a stack that keeps its GPU waiting for
    longer is as much hungrier here as in the whole change.

    It is told and not judged by. That the probes differ between the stacks by no more than chance does not show
    that neither of them slows the cores: a tenth goes unseen in twelve pairs, and is taken for the host's.

    Args:
        pairs: the run of this stack and that of the other, in each round.
        noise: how levels scatter, as far as these do not tell.
        alpha: chance, per bound, that it excludes the truth.

    Returns:
        None where it cannot be told: a window without a probe, too few pairs, speeds that do not differ, or that
        differ between the stacks beyond doubt. Then it may be the stack that slows them: by threads of its own,
        which share the cores.
    """
    pairs = list(pairs)
    if len(pairs) < NEEDS_PAIRS or not all(run.host_seconds for pair in pairs for run in pair):
        return None
    apart = mean_interval([math.log(_host_seconds(one) / _host_seconds(other)) for one, other in pairs])
    if not apart.low <= 0 <= apart.high:
        return None
    lines = through(
        pairs,
        lambda run: math.log(run.joules_per_unit),
        over=lambda run: math.log(_host_seconds(run)),
        freedom=TELLING - 2,
    )
    return relative(lines.change(lines.beside, noise=noise, alpha=alpha)) if lines else None


def _host_seconds(run: Run) -> float:
    assert run.host_seconds is not None
    return run.host_seconds
