"""Verdicts as values: a row per level and a row per effect, and what they decide."""

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

import msgspec

from pytest_llm_energy.verdicts.causes import Cause
from pytest_llm_energy.verdicts.equal_host import needs_pairs
from pytest_llm_energy.verdicts.measured import CaseKey
from pytest_llm_energy.verdicts.phases import Phases
from pytest_llm_energy.verdicts.statistics import Interval, runs_to_tell, with_luck

LevelVerdict = Literal["ok", "improved", "regressed", "inconclusive", "incomparable", "shown"]
ClaimVerdict = Literal["confirms", "contradicts", "absent", "new", "inconclusive"]
Verdict = LevelVerdict | ClaimVerdict
LevelReason = Literal[
    "near-budget",
    "too-noisy",
    "no-baseline",
    "scenario-differs",
    "hardware-differs",
    "method-differs",
    "not-gated",
]
ClaimReason = Literal["no-difference-shown", "size-differs"]
Gate = Literal["on", "strict", "off"]


class Drift(msgspec.Struct, frozen=True, kw_only=True):
    """How far a level is from the first blessed session, beyond doubt.

    Attributes:
        joules: relative change of joules per token since then.
        since: when that session was measured (ISO 8601).
    """

    joules: Interval
    since: str


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A level against its reference.

    Attributes:
        joules: relative change of joules per token, where that can be told at equal speed of the host's processors.
        cause: the same split into time and power.
        reference_joules: joules per token of the reference.
        reference: what the reference is, in words.
        stack: parts of the stack, and of the state of the host, that changed since, as ``package: old -> new``.
        other_board: whether the reference was measured on other boards of this model.
        side_by_side: whether the reference is another stack, measured in turn with this one.
        phases: whether it lies in prefill or in decode; None where that cannot be told, or nothing changed.
        drift: how far the level is from the first blessed session; None where that says nothing more.
        as_metered: the relative change with the host as it was; None where ``joules`` is that.
        to_probe: whether it would be at equal speed of the host if there were more pairs.
    """

    joules: Interval
    cause: Cause
    reference_joules: float
    reference: str
    stack: tuple[str, ...] = ()
    other_board: bool = False
    side_by_side: bool = False
    phases: Phases | None = None
    drift: Drift | None = None
    as_metered: Interval | None = None
    to_probe: bool = False

    @property
    def whole(self) -> Interval:
        """The relative change with the host as it was."""
        return self.as_metered or self.joules


class Loosened(msgspec.Struct, frozen=True, kw_only=True):
    """In which way the budget of a level is looser than it was.

    Attributes:
        was: the default budget, or the tightest that its baseline ever had.
        by: who says what it is now.
        reason: why, as its baseline records it.
        when: since when (ISO 8601), as its baseline records it.
    """

    was: float
    by: Literal["command line", "ini file", "test", "baseline"]
    reason: str | None = None
    when: str | None = None


class LevelRow(msgspec.Struct, frozen=True, kw_only=True, tag_field="row", tag="level"):
    """Joules per token of one arm, judged against its reference.

    Attributes:
        key: the case.
        arm: the arm.
        unit: ``token`` or ``call``.
        joules: level now, per unit.
        spread: relative standard deviation of its runs.
        runs: valid runs behind it.
        starts: engine starts behind it.
        budget: allowed relative increase.
        change: the level against the reference; None where nothing can be compared.
        verdict: what was decided.
        reason: reason code of a verdict that decides nothing.
        note: the reason in words.
        estimated: whether the joules are modelled.
        needs: about how many runs would decide an inconclusive level; None where no number would.
        loosened: in which way the budget is looser than it was; None where it is not, or gates nothing.
    """

    key: CaseKey
    arm: str
    unit: str
    joules: float
    spread: float | None
    runs: int
    starts: int
    budget: float
    verdict: LevelVerdict
    change: Change | None = None
    reason: LevelReason | None = None
    note: str | None = None
    estimated: bool = False
    needs: int | None = None
    loosened: Loosened | None = None

    @property
    def side_by_side(self) -> bool:
        """Whether it is judged beside another stack's."""
        return self.change is not None and self.change.side_by_side


class ClaimRow(msgspec.Struct, frozen=True, kw_only=True, tag_field="row", tag="claim"):
    """One statement of a claim, judged against what was measured.

    Attributes:
        key: the case.
        says: the statement.
        interval: the effect, or growth exponent, measured.
        kind: which of the two.
        paper: the published figure in words, None where nothing was published.
        verdict: what was decided.
        reason: reason code of a verdict that decides nothing.
        note: what its baseline records of it, or what it was judged by, in words.
        judged_by: whether runs were judged, or baselines of several GPU models.
    """

    key: CaseKey
    says: str
    interval: Interval
    kind: Literal["effect", "exponent"]
    verdict: ClaimVerdict
    paper: str | None = None
    reason: ClaimReason | None = None
    note: str | None = None
    judged_by: Literal["runs", "baselines"] = "runs"


Row = LevelRow | ClaimRow

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

DECIDED = frozenset({"ok", "improved", "regressed", "confirms", "contradicts", "absent", "new"})
FAILING = {
    "off": frozenset[str](),
    "on": frozenset({"regressed", "contradicts"}),
    "strict": frozenset({"regressed", "contradicts", "inconclusive", "incomparable"}),
}
WORST_FIRST: tuple[Verdict, ...] = (
    "regressed",
    "contradicts",
    "inconclusive",
    "incomparable",
    "absent",
    "improved",
    "new",
    "confirms",
    "ok",
    "shown",
)


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


def open_beside(rows: Iterable[Row]) -> bool:
    """Whether a level beside another stack's is open."""
    return any(isinstance(row, LevelRow) and row.side_by_side and row.verdict == "inconclusive" for row in rows)


def decided(rows: Sequence[Row]) -> bool:
    """Whether the rows decide anything: a level judged, or a claim checked."""
    return any(row.verdict in DECIDED for row in rows)


def levels_judged(rows: Sequence[Row]) -> bool:
    """Whether a level among the rows was judged against a reference, and not only shown."""
    return any(isinstance(row, LevelRow) and row.change is not None and row.verdict != "shown" for row in rows)


def failing(rows: Sequence[Row], gate: Gate) -> list[Row]:
    """The rows that fail the test, worst first."""
    return by_severity(row for row in rows if row.verdict in FAILING[gate])


def worst(rows: Sequence[Row]) -> Verdict:
    """The verdict that stands for a test with these rows."""
    return min((row.verdict for row in rows), key=WORST_FIRST.index)


def by_severity(rows: Iterable[Row]) -> list[Row]:
    """Rows ordered worst first: by verdict, then by how far beyond doubt they exceed."""
    return sorted(rows, key=lambda row: (WORST_FIRST.index(row.verdict), -_excess(row)))


def _excess(row: Row) -> float:
    if isinstance(row, LevelRow):
        return row.change.joules.low - row.budget if row.change else 0.0
    return abs(row.interval.value)
