"""Interleaved pairs of two stacks, with something allowed for that each window had more or less of."""

import math
import statistics as stats
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pytest_llm_energy.verdicts.measured import Run
from pytest_llm_energy.verdicts.scatter import Spread, within
from pytest_llm_energy.verdicts.statistics import Interval, around, between_starts

Pairs = Iterable[tuple[Run, Run]]


@dataclass(frozen=True, kw_only=True)
class Lines:
    """A value of windows over a covariate: a line for each stack, the same for all its engine starts.

    Attributes:
        differences: between the stacks at the mean of the covariate, by pair of engine starts.
        slopes: of this stack's line and of the other's.
        beside: how pairs scatter beside the lines.
        without: variance of pairs where nothing is allowed for.
        counts: pairs of each pair of starts.
        share: part of a pair's variance that the mean of the differences has by the lines and windows together.
    """

    differences: tuple[float, ...]
    slopes: tuple[float, float]
    beside: Spread
    without: float
    counts: tuple[int, ...]
    share: float

    def change(self, beside: Spread, *, start: Spread, alpha: float) -> Interval:
        """Difference of the two stacks at the mean of the covariate.

        Args:
            beside: how pairs scatter beside the lines.
            start: how engine starts do, as far as these do not tell.
            alpha: chance, per bound, that it excludes the truth.
        """
        in_each = beside.variance * math.fsum(1 / count for count in self.counts) / len(self.counts) ** 2
        windows = Spread(in_each, beside.freedom)
        between = between_starts(self.differences, start, shifted=2, windows=windows)
        of_mean = Spread(beside.variance * self.share, beside.freedom)
        return around(stats.fmean(self.differences), [of_mean, between], alpha)


def through(
    pairs: Pairs, of: Callable[[Run], float], *, over: Callable[[Run], float], freedom: int
) -> Lines | None:
    """The lines through windows of two stacks: an analysis of covariance of the differences of pairs.

    Args:
        pairs: the run of this stack and that of the other, in each round.
        of: the value of a run.
        over: its covariate.
        freedom: how many more pairs there must be at least than the lines need.

    Returns:
        None where they cannot be told: too few pairs, a covariate that does not differ within a start, or a mean of
        it that one of the stacks did not have.
    """
    import numpy as np  # only judging needs it

    blocks: dict[tuple[str, str], list[tuple[Run, Run]]] = {}
    for one, other in pairs:
        blocks.setdefault((one.start, other.start), []).append((one, other))
    every = [pair for block in blocks.values() for pair in block]
    left = len(every) - len(blocks) - 2
    if left < freedom:
        return None
    had = np.array([[over(one), over(other)] for one, other in every])
    if not had.min(axis=0).max() < had.mean() < had.max(axis=0).min():
        return None
    differences = np.array([of(one) - of(other) for one, other in every])
    of_start = np.repeat(np.eye(len(blocks)), [len(block) for block in blocks.values()], axis=0)
    lines = np.hstack([of_start, (had - had.mean()) * (1, -1)])
    if np.linalg.matrix_rank(lines) < lines.shape[1]:
        return None
    found, squares, *_ = np.linalg.lstsq(lines, differences, rcond=None)
    mean = np.append(np.full(len(blocks), 1 / len(blocks)), (0, 0))
    return Lines(
        differences=tuple(found[:-2].tolist()),
        slopes=(float(found[-2]), float(found[-1])),
        beside=Spread(float(squares[0]) / left, left),
        without=within([differences[column > 0].tolist() for column in of_start.T]).variance,
        counts=tuple(map(len, blocks.values())),
        share=float(mean @ np.linalg.inv(lines.T @ lines) @ mean),
    )
