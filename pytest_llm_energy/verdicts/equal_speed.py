"""What a change would be if both stacks had been equally fast: it tells a stack from the host it waits for."""

import math
import statistics as stats
from collections.abc import Iterable

from pytest_llm_energy.verdicts.measured import Run
from pytest_llm_energy.verdicts.noise import Noise
from pytest_llm_energy.verdicts.scatter import Spread
from pytest_llm_energy.verdicts.statistics import ALPHA, Interval, around, between_starts

LEAST_FREEDOM = 4
"""Pairs beyond those that a line needs; a line through fewer says next to nothing."""


def at_equal_speed(pairs: Iterable[tuple[Run, Run]], *, noise: Noise, alpha: float = ALPHA) -> Interval | None:
    """Relative difference of joules per unit, had the two runs of each pair taken the same seconds per unit.

    What waits for its host takes so many joules for its work, and so many watts for as long as it waits. Windows
    lie on that line wherever the host lets them, a tenth and more apart, while beside the line they differ by a
    hundredth. The slope is fitted to the differences of the pairs, and is the same for all engine starts.

    Args:
        pairs: the run of this stack and that of the other, in each round.
        noise: how levels scatter, as far as these do not tell.
        alpha: chance, per bound, that it excludes the truth.

    Returns:
        None where there are too few pairs, or all of them are equally fast.
    """
    pairs = list(pairs)
    level = math.exp(stats.fmean(math.log(other.joules_per_unit) for _, other in pairs))
    blocks: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for one, other in pairs:
        slower = one.seconds_per_unit - other.seconds_per_unit
        dearer = (one.joules_per_unit - other.joules_per_unit) / level
        blocks.setdefault((one.start, other.start), []).append((slower, dearer))
    middles = [(stats.fmean(x for x, _ in block), stats.fmean(y for _, y in block)) for block in blocks.values()]
    beside = [
        (x - middle[0], y - middle[1])
        for middle, block in zip(middles, blocks.values(), strict=True)
        for x, y in block
    ]
    freedom = len(pairs) - len(blocks) - 1
    width = math.fsum(x * x for x, _ in beside)
    if freedom < LEAST_FREEDOM or not width:
        return None
    slope = math.fsum(x * y for x, y in beside) / width
    variance = math.fsum((y - slope * x) ** 2 for x, y in beside) / freedom
    share = math.fsum(1 / len(block) for block in blocks.values()) / len(blocks) ** 2
    farther = stats.fmean(x for x, _ in middles) ** 2 / width  # equal speed lies off the middle of the line
    windows = Spread(variance * (share + farther), freedom)
    means = [y - slope * x for x, y in middles]
    return around(
        stats.fmean(means), [windows, between_starts(means, noise.start, shifted=2, windows=windows)], alpha
    )
