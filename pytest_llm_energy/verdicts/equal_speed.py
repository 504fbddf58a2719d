"""What a change would be if both stacks had been equally fast: it tells a stack from the host it waits for."""

import math
import statistics as stats
from collections.abc import Iterable

from pytest_llm_energy.verdicts.measured import Run
from pytest_llm_energy.verdicts.noise import Component, Noise
from pytest_llm_energy.verdicts.scatter import Spread, weighed, within
from pytest_llm_energy.verdicts.statistics import ALPHA, Interval, around, between_starts, chi_squared_quantile

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


def at_equal_speed(pairs: Iterable[tuple[Run, Run]], *, noise: Noise, alpha: float = ALPHA) -> Interval | None:
    """Relative difference of joules per unit, had the two runs of each pair taken the same seconds per unit.

    What waits for its host takes so many joules for its work, and so many watts for as long as it waits. Windows
    lie on that line wherever the host lets them, a tenth and more apart, while beside it they differ by a
    hundredth. Each stack has a line of its own, the same for all its engine starts, and they are compared at the
    mean of all seconds per unit: an analysis of covariance of the differences of pairs.

    Args:
        pairs: the run of this stack and that of the other, in each round.
        noise: how levels scatter, as far as these do not tell.
        alpha: chance, per bound, that it excludes the truth.

    Returns:
        None where speed does not tell: too few pairs, speeds that do not differ within a start, a mean of them that
        one stack did not have, pairs that scatter beside the lines too, or energy in proportion to time.
    """
    import numpy as np  # only judging needs it

    blocks: dict[tuple[str, str], list[tuple[Run, Run]]] = {}
    for one, other in pairs:
        blocks.setdefault((one.start, other.start), []).append((one, other))
    every = [pair for block in blocks.values() for pair in block]
    freedom = len(every) - len(blocks) - 2
    if freedom < LEAST_FREEDOM:
        return None
    times = np.array([[one.seconds_per_unit, other.seconds_per_unit] for one, other in every])
    if not times.min(axis=0).max() < times.mean() < times.max(axis=0).min():
        return None
    level = math.exp(stats.fmean(math.log(other.joules_per_unit) for _, other in every))
    dearer = np.array([one.joules_per_unit - other.joules_per_unit for one, other in every]) / level
    of_start = np.repeat(np.eye(len(blocks)), [len(block) for block in blocks.values()], axis=0)
    lines = np.hstack([of_start, (times / times.mean() - 1) * (1, -1)])
    if np.linalg.matrix_rank(lines) < lines.shape[1]:
        return None
    found, squares, *_ = np.linalg.lstsq(lines, dearer, rcond=None)
    starts, slopes = found[:-2], found[-2:]
    beside = weighed(Spread(2 * BESIDE.sd**2, BESIDE.freedom), Spread(float(squares[0]) / freedom, freedom))
    without = within([dearer[column > 0].tolist() for column in of_start.T]).variance
    most = beside.variance * beside.freedom / chi_squared_quantile(ALPHA, beside.freedom)
    if most > PLAINLY**2 * without:
        return None
    if slopes.max() > 1 - LEAST_WORK:
        return None
    mean = np.append(np.full(len(blocks), 1 / len(blocks)), (0, 0))
    of_mean = beside.variance * float(mean @ np.linalg.inv(lines.T @ lines) @ mean)
    in_each = beside.variance * math.fsum(1 / len(block) for block in blocks.values()) / len(blocks) ** 2
    between = between_starts(starts.tolist(), noise.start, shifted=2, windows=Spread(in_each, beside.freedom))
    return around(float(starts.mean()), [Spread(of_mean, beside.freedom), between], alpha)
