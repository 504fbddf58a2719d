"""What a change would be if both stacks had been equally fast: it tells a stack from the host it waits for."""

import math
import statistics as stats

from pytest_llm_energy.verdicts.covariance import Pairs, through
from pytest_llm_energy.verdicts.noise import Component, Noise
from pytest_llm_energy.verdicts.scatter import Spread, weighed
from pytest_llm_energy.verdicts.statistics import ALPHA, Interval, chi_squared_quantile

LEAST_FREEDOM = 3
"""Pairs beyond those that the lines need; with fewer they say next to nothing."""

BESIDE = Component(sd=0.01, freedom=4.0)
"""How windows scatter beside their line, weighed in with what the pairs show: those of works on H200s did by 0.4 to
1.4 % (docs/h200.md). Else the few pairs that lie on a line by luck would be the ones that are believed."""

PLAINLY = 2 / 3
"""Beside the lines the pairs must scatter by less than this part of what they do without, beyond doubt."""

LEAST_WORK = 0.1
"""Part of a level that must not be in proportion to time. At its power limit a GPU takes all of it so: what is
slower there is dearer by as much, and at equal speed no work could differ."""


def at_equal_speed(pairs: Pairs, *, noise: Noise, alpha: float = ALPHA) -> Interval | None:
    """Relative difference of joules per unit, had the two runs of each pair taken the same seconds per unit.

    What waits for its host takes so many joules for its work, and so many watts for as long as it waits. Windows
    lie on that line wherever the host lets them, a tenth and more apart, while beside it they differ by a
    hundredth. Each stack has a line of its own, and they are compared at the mean of all seconds per unit.

    Args:
        pairs: the run of this stack and that of the other, in each round.
        noise: how levels scatter, as far as these do not tell.
        alpha: chance, per bound, that it excludes the truth.

    Returns:
        None where speed does not tell: too few pairs, speeds that do not differ within a start, a mean of them that
        one stack did not have, pairs that scatter beside the lines too, or energy in proportion to time.
    """
    pairs = list(pairs)
    if not pairs:
        return None
    level = math.exp(stats.fmean(math.log(other.joules_per_unit) for _, other in pairs))
    seconds = stats.fmean(run.seconds_per_unit for pair in pairs for run in pair)
    lines = through(
        pairs,
        lambda run: run.joules_per_unit / level,
        over=lambda run: run.seconds_per_unit / seconds,
        freedom=LEAST_FREEDOM,
    )
    if lines is None:
        return None
    beside = weighed(Spread(2 * BESIDE.sd**2, BESIDE.freedom), lines.beside)
    most = beside.variance * beside.freedom / chi_squared_quantile(ALPHA, beside.freedom)
    if most > PLAINLY**2 * lines.without or max(lines.slopes) > 1 - LEAST_WORK:
        return None
    return lines.change(beside, start=noise.start.spread, alpha=alpha)
