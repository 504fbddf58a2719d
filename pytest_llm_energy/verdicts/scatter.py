"""Estimates of how much things scatter: from few of each, by what else is known, and without what explains it."""

import math
import statistics
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple


class Spread(NamedTuple):
    """A variance that was estimated.

    Attributes:
        variance: of logs, so of relative differences.
        freedom: degrees of freedom behind it.
    """

    variance: float
    freedom: float


class Group(NamedTuple):
    """Means that differ by what is looked for, and by what is known of each.

    Attributes:
        between: variance of the means, with one degree of freedom less than there are means.
        explained: what is known to be within each of them.
    """

    between: Spread
    explained: Spread


def within(groups: Iterable[Sequence[float]]) -> Spread:
    """Pooled variance within groups; NaN where no group has two values."""
    groups = [group for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in groups)
    squares = math.fsum((x - statistics.fmean(group)) ** 2 for group in groups for x in group)
    return Spread(squares / freedom if freedom else math.nan, freedom)


def weighed(assumed: Spread, seen: Spread) -> Spread:
    """An assumption and evidence, by their degrees of freedom."""
    if not seen.freedom:
        return assumed
    freedom = assumed.freedom + seen.freedom
    return Spread((assumed.freedom * assumed.variance + seen.freedom * seen.variance) / freedom, freedom)


def summed(spreads: Sequence[Spread]) -> Spread:
    """Of a sum of independent things, with Satterthwaite's degrees of freedom."""
    variance = math.fsum(spread.variance for spread in spreads)
    shrunk = math.fsum(spread.variance**2 / spread.freedom for spread in spreads)
    return Spread(variance, variance**2 / shrunk if shrunk > 0 else math.inf)


def typical(variances: Sequence[Spread], assumed: Spread, *, worth: float) -> Spread:
    """The variance of one more group, and the degrees of freedom that knowing the others is worth.

    A scaled F distribution is fitted to the variances by the first two moments of their logs (G. K. Smyth, Linear
    models and empirical Bayes methods, 2004, section 6.2): the more they differ beyond what so few values each
    explain, the fewer degrees of freedom they are worth.

    Args:
        variances: of groups like it.
        assumed: what holds where there are none.
        worth: how many variances the assumption counts for beside them.
    """
    from scipy.special import digamma, polygamma  # half a second to import, and only judging needs it

    def of_log(freedom: float) -> float:
        """Mean log of a variance estimated with so many degrees of freedom, of a true one of 1."""
        return float(digamma(freedom / 2)) - math.log(freedom / 2)

    logs = [math.log(spread.variance) - of_log(spread.freedom) for spread in variances]
    mean = math.log(assumed.variance) - of_log(assumed.freedom)
    excess = float(polygamma(1, assumed.freedom / 2))
    if logs:
        noise = statistics.fmean(float(polygamma(1, spread.freedom / 2)) for spread in variances)
        seen = max(0.0, statistics.variance(logs) - noise) if len(logs) > 1 else excess
        share = len(logs) / (worth + len(logs))
        mean += share * (statistics.fmean(logs) - mean)
        excess += share * (seen - excess)
    freedom = 2 * _inverse(lambda x: float(polygamma(1, x)), excess)
    return Spread(math.exp(mean + of_log(freedom)), freedom)


def usual(variances: Sequence[Spread], assumed: Spread, *, worth: float, counting: float) -> Spread:
    """The same by moments of the variances themselves, for groups of which none scatters without bound.

    The true ones are taken to be scaled inverse chi-squared. Their logs would tell another story where some groups
    hardly scatter: what is far below the others in logs has others be as far above.

    Args:
        variances: of groups like it.
        assumed: what holds where there are none, with more than four degrees of freedom.
        worth: how many variances the assumption counts for beside them.
        counting: how many they count for themselves: fewer than they are where several tell the same.
    """
    mean = assumed.variance * assumed.freedom / (assumed.freedom - 2)
    excess = 2 / (assumed.freedom - 4)
    if variances:
        freedom = math.fsum(spread.freedom for spread in variances)
        seen = math.fsum(spread.freedom * spread.variance for spread in variances) / freedom
        # Squares of relative deviations, of which so few differences each explain the second part.
        squares = math.fsum(spread.freedom * (spread.variance / seen - 1) ** 2 for spread in variances) / freedom
        noise = 2 * len(variances) / freedom
        share = counting / (worth + counting)
        mean += share * (seen - mean)
        excess += share * (max(0.0, squares - noise) / (1 + noise) - excess)
    freedom = 4 + 2 / max(excess, 1 / MOST_FREEDOM)
    return Spread(mean * (freedom - 2) / freedom, freedom)


def likeliest(groups: Sequence[Group]) -> float:
    """The variance between means, without what explains some of it, that makes them likeliest; 0 without any.

    The variance of each group's means, over what it should be, follows an F distribution: a group whose means are
    known only roughly says little.
    """
    from scipy.optimize import minimize_scalar

    if not groups:
        return 0.0

    def unlikelihood(sd: float) -> float:
        return -math.fsum(_log_likelihood(group, sd**2) for group in groups)

    most = math.sqrt(max(group.between.variance for group in groups))
    found = minimize_scalar(unlikelihood, bounds=(0.0, most), method="bounded", options={"xatol": 1e-7})
    return float(found.x) ** 2 if unlikelihood(found.x) < unlikelihood(0.0) else 0.0


def _log_likelihood(group: Group, variance: float) -> float:
    """Of a group whose means differ by a variance, but for a constant.

    What their variance should be is known with Satterthwaite's degrees of freedom.
    """
    between, explained = group
    expected = explained.variance + variance
    freedom = min(MOST_FREEDOM, explained.freedom * (expected / explained.variance) ** 2)
    odds = between.freedom * between.variance / (freedom * expected)
    both = between.freedom + freedom
    return (
        math.lgamma(both / 2)
        - math.lgamma(freedom / 2)
        - between.freedom / 2 * math.log(freedom * expected)
        - both / 2 * math.log1p(odds)
    )


MOST_FREEDOM = 1e6
"""From here on an F distribution is a chi-squared one, and sums of large logs lose digits."""


def distinct_differences(groups: Iterable[Iterable[Hashable]]) -> int:
    """How many differences between things are known on their own, where groups of them were compared.

    Two levels on the same three boards tell two differences, not four: the boards shift both.
    """
    known: dict[Hashable, Hashable] = {}

    def root(thing: Hashable) -> Hashable:
        while (above := known.setdefault(thing, thing)) != thing:
            thing = above
        return thing

    merged = 0
    for group in groups:
        first, *others = map(root, group)
        for other in others:
            if root(other) != root(first):
                known[root(other)] = root(first)
                merged += 1
    return merged


def _inverse(falling: Callable[[float], float], value: float) -> float:
    """Where a function that falls from infinity to 0 over the positive numbers has a value, by halving."""
    low, high = 1e-6, 1e6
    while high > low * (1 + 1e-9):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if falling(middle) > value else (low, middle)
    return low
