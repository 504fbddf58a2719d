"""Intervals of relative changes, on the log scale, with the engine start as the unit of replication."""

import math
import statistics
from collections.abc import Sequence

import msgspec

from pytest_llm_energy.verdicts.noise import BOARDS_WORTH, Component, Noise
from pytest_llm_energy.verdicts.scatter import Spread, weighed, within

ALPHA = 0.01
"""Chance, per bound, that a bound excludes the truth; intervals therefore hold 98 % of the time."""

LUCK = 1 / 3
"""Part of a half width that is about a standard error."""

TELLING = 10
"""Degrees of freedom from which on pairs tell by themselves how windows scatter. By then what is known of others
does not make an interval narrower, and it is of other hosts, and of windows of other lengths."""

KNOWN = math.inf
"""Degrees of freedom of a variance that is given, not estimated."""


class Interval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An estimate with one-sided bounds at ALPHA each, or at a share of it for one of several looks.

    Attributes:
        value: the estimate.
        low: lower bound.
        high: upper bound.
        fixed: what the half width would come down to with runs without number: starts, sessions and boards.
        floor: the same with engine starts without number too, of two stacks side by side.
    """

    value: float
    low: float
    high: float
    fixed: float = 0.0
    floor: float = 0.0

    @property
    def half_width(self) -> float:
        """Half of the interval: the smallest change that it could tell from none."""
        return (self.high - self.low) / 2


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """Joules per token of one side of a comparison.

    Attributes:
        starts: runs by engine start.
        relative_uncertainty: standard deviation of the metering of one run, relative.
        session_share: part of the variance between sessions that is left in the mean of the starts: the sum of
            squared weights of their sessions, 1 for one, a half for two alike.
        boards: hashes of the boards they ran on, empty for a processor.
        board_share: the same of the sets of boards.
        by_board: of a reference, the levels that tell how sessions and boards scatter: those in sessions on each
            set of boards.
        load: of a reference, mean power per board as a share of the power limit; None where that is not known.
    """

    starts: tuple[tuple[float, ...], ...]
    relative_uncertainty: float
    session_share: float = 1.0
    boards: frozenset[str] = frozenset()
    board_share: float = 1.0
    by_board: tuple[tuple[float, ...], ...] = ()
    load: float | None = None

    @property
    def runs(self) -> int:
        """Number of runs over all starts."""
        return sum(map(len, self.starts))

    def log_mean(self) -> float:
        """Mean of the starts' means, on the log scale."""
        return statistics.fmean(statistics.fmean(map(math.log, start)) for start in self.starts)


class Contrast(msgspec.Struct, frozen=True, kw_only=True):
    """Levels of an arm and of its control in the same sessions.

    Attributes:
        arm: the arm's.
        control: the control's.
        noise: how levels scatter on their GPU model.
    """

    arm: Sample
    control: Sample
    noise: Noise

    def by_board(self) -> list[float]:
        """Log ratio of the two on each set of boards."""
        return [
            statistics.fmean(map(math.log, arm)) - statistics.fmean(map(math.log, control))
            for arm, control in zip(self.arm.by_board, self.control.by_board, strict=True)
        ]

    @property
    def effect(self) -> float:
        """Relative difference of the arm from its control, each set of boards counted once."""
        return _expm1(statistics.fmean(self.by_board()))


def change(now: Sample, reference: Sample, *, noise: Noise, alpha: float = ALPHA) -> Interval:
    """Relative change of the level from the reference to now.

    The variance has a part per run and per start on either side, and one per session and board where the two
    sides differ in them.

    Args:
        now: what was measured.
        reference: what it is compared with.
        noise: how levels scatter, as far as these do not tell.
        alpha: chance, per bound, that it excludes the truth.
    """
    session = _between_sessions(reference, noise.session)
    parts = [*_side(now, noise), *_side(reference, noise)]
    parts.append((session.variance * (now.session_share + reference.session_share), session.freedom))
    if now.boards != reference.boards:
        # What the host slows differs from host to host, and scatters on one where others use it too.
        windows = max(_windows(now), _windows(reference), key=_or_nothing)
        # By the reference's load: what has begun to wait for its host shall not be excused by doing so.
        board = _between_boards(reference, noise.boards_of(windows, reference.load))
        parts.append((board.variance * (now.board_share + reference.board_share), board.freedom))
    return _relative(now.log_mean() - reference.log_mean(), parts, alpha)


def _between_sessions(reference: Sample, others: Component) -> Spread:
    """Variance between sessions: from those of the reference, and what other levels show."""
    return weighed(others.spread, within([math.log(level) for level in levels] for levels in reference.by_board))


def _between_boards(reference: Sample, others: Spread) -> Spread:
    """Variance between boards: from those of the reference, and what other levels show.

    That few boards agree says little of the next one: less than of other levels is not believed until there are as
    many differences as the assumption counts for.
    """
    own = within([[statistics.fmean(map(math.log, levels)) for levels in reference.by_board]])
    if own.freedom < BOARDS_WORTH and own.variance < others.variance:
        return others
    return weighed(others, own)


def _or_nothing(spread: Spread) -> float:
    return spread.variance if spread.freedom else 0.0


def _windows(sample: Sample) -> Spread:
    """Variance between the windows of an engine start, over all starts."""
    return within([math.log(value) for value in start] for start in sample.starts)


def above(now: Sample, figure: float, *, noise: Noise, alpha: float = ALPHA) -> Interval:
    """How far a level lies above a figure that is known exactly, relative to it.

    What metering is off by is the same in all its runs, so it stands beside what more runs would lessen.

    Args:
        now: what was measured.
        figure: in the same unit.
        noise: how levels scatter, as far as it does not tell.
        alpha: chance, per bound, that it excludes the truth.
    """
    parts = [*_side(now, noise), (now.relative_uncertainty**2, KNOWN)]
    return _relative(now.log_mean() - math.log(figure), parts, alpha)


def ratio(
    blocks: Sequence[Sequence[tuple[float, float]]],
    *,
    shifted: float,
    noise: Noise,
    window: Component | None = None,
    alpha: float = ALPHA,
) -> Interval:
    """Relative difference of the first from the second over interleaved pairs: a t interval on log ratios.

    Args:
        blocks: levels of the two arms, a pair per round; pairs of one block share their engine starts.
        shifted: how many levels within a pair an engine start of their own shifts each: 2 for two arms, 4 for the
            ratio of two effects, 0 where all ran on one start.
        noise: how levels scatter, as far as these do not tell.
        window: how one window does as other arms have it, to be weighed in; None to go by the pairs alone.
        alpha: chance, per bound, that it excludes the truth.
    """
    logs = [[math.log(a / b) for a, b in block] for block in blocks if block]
    means = [statistics.fmean(block) for block in logs]
    parts = [_within(logs, window)]
    if shifted:
        parts.append(between_starts(means, noise.start.spread, shifted=shifted, windows=parts[0]))
    return _relative(statistics.fmean(means), parts, alpha)


def _within(logs: Sequence[Sequence[float]], window: Component | None) -> Spread:
    """Variance of a mean of blocks' means that comes from within blocks.

    Where that of a window elsewhere is given, and pairs are few, the two are weighed by their degrees of freedom:
    three pairs alone have two, and an interval of theirs is seven standard errors wide to either side.
    """
    seen = within(logs)
    if not seen.freedom:  # one value a block: what is within cannot be told from what is between
        means = [block[0] for block in logs]
        return Spread(_variance_of_mean(means), len(means) - 1)
    if window is not None and seen.freedom < TELLING:
        seen = weighed(_of_pair(window), seen)
    return Spread(seen.variance * sum(1 / len(block) for block in logs) / len(logs) ** 2, seen.freedom)


def between_starts(means: Sequence[float], start: Spread, *, shifted: float, windows: Spread) -> Spread:
    """Variance of their mean that comes from starts: what is known, or what is seen where that is plainly more."""
    known = Spread(shifted * start.variance, start.freedom)
    freedom = len(means) - 1
    if freedom:
        expected = known.variance + windows.variance * len(means)
        if statistics.variance(means) > expected * chi_squared_quantile(1 - ALPHA, freedom) / freedom:
            return Spread(statistics.variance(means) / len(means), freedom)
    return Spread(known.variance / len(means), known.freedom)


def _of_pair(component: Component) -> Spread:
    """Of the difference between two."""
    return Spread(2 * component.spread.variance, component.freedom)


def apart(one: Contrast, other: Contrast, *, alpha: float = ALPHA) -> Interval:
    """How far an effect on one GPU model is from the same effect on another: their ratio, less one.

    What is said of GPU models must hold for their boards, which shift an arm and its control each in its own way.
    So the boards are what is counted: how far the effect differs between those of either GPU model, weighed with
    what is known of levels there, and by itself where it is more. Metering that is off by as much in all runs of a
    board cancels.

    Args:
        one: on the first GPU model.
        other: on the second.
        alpha: chance, per bound, that it excludes the truth.
    """
    parts = []
    for side in (one, other):
        session = _of_pair(side.noise.session)
        parts += [*_side(side.arm, side.noise), *_side(side.control, side.noise)]
        parts.append((session.variance * side.arm.session_share, session.freedom))
    means = [one.by_board(), other.by_board()]
    known = max((_boards_of_both(side) for side in (one, other)), key=lambda boards: boards.variance)
    seen = within(means)
    board = weighed(known, seen)
    if seen.freedom and seen.variance > known.variance:
        board = Spread(seen.variance, board.freedom)
    parts.append((board.variance * sum(1 / len(of) for of in means), board.freedom))
    return _relative(statistics.fmean(means[0]) - statistics.fmean(means[1]), parts, alpha)


def _boards_of_both(side: Contrast) -> Spread:
    """Variance between boards of the difference of two levels, each of which they shift in its own way."""
    arm, control = (side.noise.boards_of(_windows(each), each.load) for each in (side.arm, side.control))
    return Spread(arm.variance + control.variance, arm.freedom)


def mean_interval(values: Sequence[float], *, beside: Sequence[Spread] = (), alpha: float = ALPHA) -> Interval:
    """Mean with a t interval; unbounded for a single value.

    Args:
        values: independent of each other but for what stands beside them.
        beside: variances of the mean that they do not show.
        alpha: chance, per bound, that it excludes the truth.
    """
    mean = statistics.fmean(values)
    return around(mean, [(_variance_of_mean(values), len(values) - 1), *beside], alpha)


def runs_to_tell(interval: Interval, border: float, *, runs: int) -> int | None:
    """About how many runs would put a border outside a relative change that holds it now; None where none would.

    Args:
        interval: from so many runs, at whose present value it would stay.
        border: what is to be told from it.
        runs: behind it.
    """
    floor = math.log1p(interval.floor)
    distance = abs(math.log1p(interval.value) - math.log1p(border)) - floor
    fixed = math.log1p(interval.fixed) - floor
    if distance <= fixed or not math.isfinite(interval.half_width) or interval.low <= -1:
        return None
    half = (math.log1p(interval.high) - math.log1p(interval.low)) / 2 - floor
    return max(runs + 1, math.ceil(runs * max(0.0, half**2 - fixed**2) / (distance**2 - fixed**2)))


def with_luck(interval: Interval, border: float) -> Interval:
    """The same where the truth is about a standard error farther from a border than the estimate."""
    half = (math.log1p(interval.high) - math.log1p(interval.low)) / 2 if interval.low > -1 else math.inf
    if not math.isfinite(half):
        return interval
    luck = (half - math.log1p(interval.floor)) * LUCK
    factor = math.exp(luck if interval.value > border else -luck)
    value, low, high = ((1 + x) * factor - 1 for x in (interval.value, interval.low, interval.high))
    return Interval(value, low, high, interval.fixed, interval.floor)


def exponent(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Slope of log y over log x: 1 for proportional growth, 0 for none."""
    return statistics.linear_regression([math.log(x) for x in xs], [math.log(y) for y in ys]).slope


def _side(sample: Sample, noise: Noise) -> list[tuple[float, float]]:
    logs = [[math.log(value) for value in start] for start in sample.starts]
    seen = within(logs)
    floor = sample.relative_uncertainty**2
    share = sum(1 / len(start) for start in logs) / len(logs) ** 2  # of a mean of the starts' means
    window = Spread(seen.variance * share, seen.freedom)
    if seen.freedom < len(logs) - 1:  # hardly two windows a start: the starts tell more, with what is within them
        window = Spread(_variance_of_mean([statistics.fmean(start) for start in logs]), len(logs) - 1)
    if window.variance <= floor * share:
        window = Spread(floor * share, KNOWN)
    start = noise.start.spread
    return [window, (start.variance / len(logs), start.freedom)]


def _variance_of_mean(values: Sequence[float]) -> float:
    return statistics.variance(values) / len(values) if len(values) > 1 else math.inf


def _relative(log_value: float, parts: Sequence[tuple[float, float]], alpha: float) -> Interval:
    return relative(around(log_value, parts, alpha))


def relative(logs: Interval) -> Interval:
    """The relative difference that a difference of logs is."""
    return Interval(*(_expm1(x) for x in (logs.value, logs.low, logs.high, logs.fixed, logs.floor)))


def around(value: float, parts: Sequence[tuple[float, float]], alpha: float) -> Interval:
    """The interval of a sum of variances, with Satterthwaite's degrees of freedom.

    Those say too much where a part of fewer than two outweighs the others, so the interval is no narrower than that
    of such a part alone.

    Args:
        value: its middle.
        parts: variances and their degrees of freedom, first the one that more runs would lessen.
        alpha: chance, per bound, that it excludes the truth.
    """
    variance = sum(part for part, _ in parts)
    if not math.isfinite(variance):
        return Interval(value, -math.inf, math.inf)
    half = _half_width(parts, alpha)
    return Interval(value, value - half, value + half, _half_width(parts[1:], alpha))


def _half_width(parts: Sequence[tuple[float, float]], alpha: float) -> float:
    variance = sum(part for part, _ in parts)
    shrunk = sum(part**2 / freedom for part, freedom in parts if freedom)
    freedom = variance**2 / shrunk if shrunk > 0 else KNOWN
    few = [part for part in parts if 0 < part[1] < 2]
    return max(_t_quantile(1 - alpha, f) * math.sqrt(v) for v, f in [(variance, freedom), *few])


def _t_quantile(probability: float, freedom: float) -> float:
    from scipy import special  # half a second to import, and only judging needs it

    if math.isinf(freedom):
        return float(special.ndtri(probability))
    return float(special.stdtrit(freedom, probability))


def chi_squared_quantile(probability: float, freedom: float) -> float:
    """What a chi-squared value of so many degrees of freedom is below with this probability."""
    from scipy import special

    return float(2 * special.gammaincinv(freedom / 2, probability))


def _expm1(x: float) -> float:
    """Infinite where the square of it would be."""
    return math.inf if x > 300 else math.expm1(x)
