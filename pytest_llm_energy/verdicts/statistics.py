"""Intervals of relative changes, on the log scale, with the engine start as the unit of replication."""

import math
import statistics
from collections.abc import Sequence

import msgspec

ALPHA = 0.01
"""Chance, per bound, that a bound excludes the truth; intervals therefore hold 98 % of the time."""

WINDOW_SD = 0.0034
"""Between windows of an engine start, where little is known of an arm: amid 33 scenarios and stacks on H200s, whose
windows of 2.5 s and more spread by 0.12-2.2 % (2026-11-21, vLLM 0.20.2 and 0.25.1, transformers 5.17)."""

WINDOW_FREEDOM = 1.5
"""How many degrees of freedom that is worth, against what an arm's own windows show: a scaled F distribution fitted
to those 33 variances has 1.6. Few, since arms differ that much."""

START_SD = 0.002
"""Between engine starts on one board: starts' means had an sd of 0.11-0.22 % on an H200."""

SESSION_SD = 0.0065
"""Between sessions on one board, where a baseline has one session alone: 0.65 % over four loads of Llama-3.1-8B in
three sessions within a quarter of an hour on one H200 (2026-11-21, vLLM 0.25.1)."""

SESSION_FREEDOM = 10.0
"""How many sessions' worth of evidence that is, against what those of a baseline show themselves."""

BOARD_SD = 0.04
"""Between boards of one model, where nothing else is known of a level: Llama-3.1-8B on two H200s differed by 8.4 %
at batch 1, and by 0.9 % at batch 128, where the power limit levels them (2026-11-21, vLLM 0.25.1)."""

BOARD_FREEDOM = 5.0
"""How many boards' worth of evidence that is, against what the sessions of a baseline show themselves."""

KNOWN = math.inf
"""Degrees of freedom of a variance that is given, not estimated."""


class Interval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An estimate with one-sided bounds at ALPHA each, or at a share of it for one of several looks.

    Attributes:
        value: the estimate.
        low: lower bound.
        high: upper bound.
        fixed: what the half width would come down to with runs without number: starts, sessions and boards.
    """

    value: float
    low: float
    high: float
    fixed: float = 0.0

    @property
    def half_width(self) -> float:
        """Half of the interval: the smallest change that it could tell from none."""
        return (self.high - self.low) / 2


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """Joules per token of one side of a comparison.

    Attributes:
        starts: runs by engine start.
        relative_uncertainty: standard deviation of the metering of one run, relative.
        sessions: sessions the starts come from.
        boards: hashes of the boards they ran on, empty for a processor.
        by_board: of a reference, the levels in its sessions on each of its sets of boards.
    """

    starts: tuple[tuple[float, ...], ...]
    relative_uncertainty: float
    sessions: int = 1
    boards: frozenset[str] = frozenset()
    by_board: tuple[tuple[float, ...], ...] = ()

    @property
    def runs(self) -> int:
        """Number of runs over all starts."""
        return sum(map(len, self.starts))

    def log_mean(self) -> float:
        """Mean of the starts' means, on the log scale."""
        return statistics.fmean(statistics.fmean(map(math.log, start)) for start in self.starts)


def change(now: Sample, reference: Sample, *, alpha: float = ALPHA) -> Interval:
    """Relative change of the level from the reference to now.

    The variance has a part per run and per start on either side, and one per session and board where the two
    sides differ in them.

    Args:
        now: what was measured.
        reference: what it is compared with.
        alpha: chance, per bound, that it excludes the truth.
    """
    parts = [*_side(now), *_side(reference), _between_sessions(reference)]
    if now.boards != reference.boards:
        variance, freedom = _between_boards(reference)
        parts.append((variance * (1 + 1 / max(1, len(reference.by_board))), freedom))
    return _relative(now.log_mean() - reference.log_mean(), parts, alpha)


def _between_sessions(reference: Sample) -> tuple[float, float]:
    """Variance between this session and the reference's, from what those show and what is known of others."""
    logs = [[math.log(level) for level in levels] for levels in reference.by_board]
    seen = sum(len(levels) - 1 for levels in logs)
    squares = sum((x - statistics.fmean(levels)) ** 2 for levels in logs for x in levels)
    variance = (SESSION_FREEDOM * SESSION_SD**2 + squares) / (SESSION_FREEDOM + seen)
    return variance * (1 + 1 / reference.sessions), SESSION_FREEDOM + seen


def _between_boards(reference: Sample) -> tuple[float, float]:
    """Variance between boards, and its degrees of freedom: from those of the reference and all others known."""
    logs = [statistics.fmean(map(math.log, levels)) for levels in reference.by_board]
    seen = len(logs) - 1 if len(logs) > 1 else 0
    squares = statistics.variance(logs) * seen if seen else 0.0
    return (BOARD_FREEDOM * BOARD_SD**2 + squares) / (BOARD_FREEDOM + seen), BOARD_FREEDOM + seen


def above(now: Sample, figure: float, *, alpha: float = ALPHA) -> Interval:
    """How far a level lies above a figure that is known exactly, relative to it.

    What metering is off by is the same in all its runs, so it stands beside what more runs would lessen.

    Args:
        now: what was measured.
        figure: in the same unit.
        alpha: chance, per bound, that it excludes the truth.
    """
    parts = [*_side(now), (now.relative_uncertainty**2, KNOWN)]
    return _relative(now.log_mean() - math.log(figure), parts, alpha)


def ratio(
    blocks: Sequence[Sequence[tuple[float, float]]],
    *,
    starts_differ: bool,
    window_sd: float | None = None,
    alpha: float = ALPHA,
) -> Interval:
    """Relative difference of the first from the second over interleaved pairs: a t interval on log ratios.

    Args:
        blocks: levels of the two arms, a pair per round; pairs of one block share their engine starts.
        starts_differ: whether the arms ran on engine starts of their own.
        window_sd: relative standard deviation of one window as other arms have it, which counts as
            ``WINDOW_FREEDOM`` degrees of freedom beside what the pairs show; None to go by the pairs alone.
        alpha: chance, per bound, that it excludes the truth.
    """
    logs = [[math.log(a / b) for a, b in block] for block in blocks if block]
    means = [statistics.fmean(block) for block in logs]
    parts = [_within(logs, 2 * window_sd**2 if window_sd is not None else None)]
    if starts_differ:
        parts.append(_between_starts(means, 2 * START_SD**2, within=parts[0]))
    return _relative(statistics.fmean(means), parts, alpha)


def _within(logs: Sequence[Sequence[float]], elsewhere: float | None) -> tuple[float, float]:
    """Variance of a mean of blocks' means that comes from within blocks, and its degrees of freedom.

    Where the variance of one pair elsewhere is given, the two are weighed by their degrees of freedom: three pairs
    alone have two, and an interval of theirs is seven standard errors wide to either side.
    """
    freedom: float = sum(map(len, logs)) - len(logs)
    if not freedom:  # one value a block: what is within cannot be told from what is between
        means = [block[0] for block in logs]
        return _variance_of_mean(means), len(means) - 1
    spread = sum((x - statistics.fmean(block)) ** 2 for block in logs for x in block)
    if elsewhere is not None:
        spread += WINDOW_FREEDOM * elsewhere
        freedom += WINDOW_FREEDOM
    return spread / freedom * sum(1 / len(block) for block in logs) / len(logs) ** 2, freedom


def _between_starts(means: Sequence[float], known: float, *, within: tuple[float, float]) -> tuple[float, float]:
    """Variance of their mean that comes from starts: what is known, or what is seen where that is plainly more."""
    freedom = len(means) - 1
    if freedom:
        expected = known + within[0] * len(means)
        if statistics.variance(means) > expected * _chi_squared_quantile(1 - ALPHA, freedom) / freedom:
            return statistics.variance(means) / len(means), freedom
    return known / len(means), KNOWN


def mean_interval(values: Sequence[float], *, alpha: float = ALPHA) -> Interval:
    """Mean with a t interval; unbounded for a single value."""
    mean = statistics.fmean(values)
    return _around(mean, [(_variance_of_mean(values), len(values) - 1)], alpha)


def runs_to_tell(interval: Interval, border: float, *, runs: int) -> int | None:
    """About how many runs would put a border outside an interval that holds it now; None where no number would.

    Args:
        interval: from so many runs, at whose present value it would stay.
        border: what is to be told from it.
        runs: behind it.
    """
    distance = abs(interval.value - border)
    if distance <= interval.fixed or not math.isfinite(interval.half_width):
        return None
    shrinking = max(0.0, interval.half_width**2 - interval.fixed**2)
    return max(runs + 1, math.ceil(runs * shrinking / (distance**2 - interval.fixed**2)))


def exponent(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Slope of log y over log x: 1 for proportional growth, 0 for none."""
    return statistics.linear_regression([math.log(x) for x in xs], [math.log(y) for y in ys]).slope


def _side(sample: Sample) -> list[tuple[float, float]]:
    logs = [[math.log(value) for value in start] for start in sample.starts]
    spread = sum((x - statistics.fmean(start)) ** 2 for start in logs for x in start)
    freedom = sample.runs - len(logs)
    pooled = spread / freedom if freedom else math.inf
    floor = sample.relative_uncertainty**2
    window = (floor, KNOWN) if pooled <= floor else (pooled, float(freedom))
    share = sum(1 / len(start) for start in logs) / len(logs) ** 2  # of a mean of the starts' means
    return [(window[0] * share, window[1]), (START_SD**2 / len(logs), KNOWN)]


def _variance_of_mean(values: Sequence[float]) -> float:
    return statistics.variance(values) / len(values) if len(values) > 1 else math.inf


def _relative(log_value: float, parts: Sequence[tuple[float, float]], alpha: float) -> Interval:
    logs = _around(log_value, parts, alpha)
    return Interval(*(_expm1(x) for x in (logs.value, logs.low, logs.high, logs.fixed)))


def _around(value: float, parts: Sequence[tuple[float, float]], alpha: float) -> Interval:
    """The interval of a sum of variances, with Satterthwaite's degrees of freedom.

    Args:
        value: its middle.
        parts: variances and their degrees of freedom, first the one that more runs would lessen.
        alpha: chance, per bound, that it excludes the truth.
    """
    variance = sum(part for part, _ in parts)
    if not math.isfinite(variance):
        return Interval(value, -math.inf, math.inf)
    shrunk = sum(part**2 / freedom for part, freedom in parts if freedom)
    freedom = variance**2 / shrunk if shrunk > 0 else KNOWN
    half = _t_quantile(1 - alpha, freedom) * math.sqrt(variance)
    fixed = _t_quantile(1 - alpha, KNOWN) * math.sqrt(sum(part for part, _ in parts[1:]))
    return Interval(value, value - half, value + half, fixed)


def _t_quantile(probability: float, freedom: float) -> float:
    from scipy import special  # half a second to import, and only judging needs it

    if math.isinf(freedom):
        return float(special.ndtri(probability))
    return float(special.stdtrit(freedom, probability))


def _chi_squared_quantile(probability: float, freedom: float) -> float:
    from scipy import special

    return float(2 * special.gammaincinv(freedom / 2, probability))


def _expm1(x: float) -> float:
    return math.inf if x > 700 else math.expm1(x)
