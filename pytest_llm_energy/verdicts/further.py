"""What further runs and engine starts would tell of a level that is open, and what they take."""

import math
from collections.abc import Collection, Iterable, Sequence

import msgspec

from pytest_llm_energy.verdicts.equal_host import needs_pairs
from pytest_llm_energy.verdicts.rows import Change, ClaimRow, LevelRow, Row
from pytest_llm_energy.verdicts.statistics import Interval, runs_to_tell, with_luck

LOOKS = 3
"""How often a check is judged at most where there is time to settle it; the runs are doubled from look to look."""

PATIENT_LOOKS = 5
"""The same where more time was given for that than there is by default."""

ROUGHLY = 2
"""How many times more runs than there will be a level may seem to need: three runs tell their own spread so roughly
that a sharper rule gave up on one regression of 6 % in twenty (``benchmarks/gate_power.py``)."""

ENOUGH_STARTS = 4
"""Of fewer engine starts that scatter by more than others are known to, an interval is tens to hundreds of standard
errors wide; what more of them would tell cannot be read from it."""

LEAST_ROUNDS = 3
"""Of an engine start: two may both be of an ill moment."""

MOST_STARTS = 30
"""More engine starts a side than these are neither taken nor advised."""

BEYOND_KNOWN = 0.1
"""Engine starts that scatter as is known make no interval so wide."""


def in_reach(change: Interval, budget: float, *, runs: int, looks: int, startable: bool = False) -> bool:
    """Whether further looks may well decide a level, each with twice the runs of the one before.

    Args:
        change: of the level, which leaves it open.
        budget: relative increase that passes.
        runs: behind it.
        looks: how many are left.
        startable: whether they may be on engine starts of their own, which would then be twice as many, too.
    """
    lucky = with_luck(change, budget)
    if startable:
        lucky = msgspec.structs.replace(lucky, fixed=lucky.floor)
    needs = runs_to_tell(lucky, budget, runs=runs)
    return needs is not None and needs <= ROUGHLY * runs * 2**looks


def limited_by_starts(change: Change) -> bool:
    """Whether the interval is as wide as it is for how engine starts scatter, rather than their windows."""
    starts = change.joules.fixed - change.joules.floor
    return change.side_by_side and 2 * starts**2 > (change.joules.half_width - change.joules.floor) ** 2


def told_by_few_starts(change: Change, starts: int) -> bool:
    """Whether so many engine starts scatter by more than is known of others, too few to tell how much."""
    beyond = change.joules.fixed - change.joules.floor > BEYOND_KNOWN
    return beyond and limited_by_starts(change) and 1 < starts < ENOUGH_STARTS


def halving(row: LevelRow, cost: float) -> tuple[int, int] | None:
    """New engine starts, and rounds on each, that would halve the variance of an open level in the least time.

    Starts count alike, however many rounds each has.

    Args:
        row: a level beside another stack's.
        cost: time that a start takes, in rounds.

    Returns:
        None where that cannot be told: nothing is open, or runs or engine starts say nothing of how they scatter.
    """
    if row.verdict != "inconclusive" or not row.change or told_by_few_starts(row.change, row.starts):
        return None
    joules, had = row.change.joules, row.starts
    of_starts = (joules.fixed - joules.floor) ** 2
    of_rounds = (joules.half_width - joules.floor) ** 2 - of_starts
    if not math.isfinite(of_rounds) or of_starts <= 0 or of_rounds < 0:
        return None
    ways = []
    for starts in range(1, MOST_STARTS + 1):
        of_all = (had + starts) ** 2
        left = of_all * (of_starts + of_rounds) / 2 - of_starts * had * (had + starts) - of_rounds * had**2
        if left > 0:
            rounds = max(LEAST_ROUNDS, math.ceil(of_rounds * row.runs * starts / left))
            ways.append((starts * (cost + rounds), starts, rounds))
    return min(ways)[1:] if ways else None


def wanting_starts(rows: Iterable[Row], arms: Collection[str]) -> frozenset[str]:
    """Those of the arms that engine starts leave open, or that have been on several: windows alone tell less."""
    return frozenset(
        row.arm
        for row in rows
        if isinstance(row, LevelRow)
        and row.verdict == "inconclusive"
        and row.arm in arms
        and row.side_by_side
        and row.change
        and (row.starts > 1 or limited_by_starts(row.change))
    )


def unsettled(rows: Sequence[Row], arms: Collection[str], *, looks: int, startable: bool = False) -> frozenset[str]:
    """Those of the arms of a check by whose runs more of them may well decide what its rows leave open.

    A level beside another stack's is a matter of those two alone. A claim is one of all arms, and so is a level
    that a baseline judges: its runs come between those of the other arms, as the baseline's did.

    Args:
        rows: what is known so far.
        arms: of the check.
        looks: how many are left.
        startable: whether engines may be started again for them.
    """
    found = set[str]()
    for row in rows:
        if row.verdict != "inconclusive":
            continue
        if isinstance(row, ClaimRow):
            return frozenset(arms)
        if not row.change:
            continue
        to_probe = row.change.to_probe and row.runs * 2**looks >= needs_pairs(row.starts)
        if to_probe or (startable and looks and told_by_few_starts(row.change, row.starts)):
            found.add(row.arm)
        elif in_reach(
            row.change.joules,
            row.budget,
            runs=row.runs,
            looks=looks,
            startable=startable and row.change.side_by_side,
        ):
            found |= {row.arm} if row.change.side_by_side else set(arms)
    return frozenset(found)
