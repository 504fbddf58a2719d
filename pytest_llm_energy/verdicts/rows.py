"""Verdicts as values: a row per level and a row per effect, and what they decide."""

from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from pytest_llm_energy.verdicts.causes import Cause
from pytest_llm_energy.verdicts.measured import CaseKey
from pytest_llm_energy.verdicts.phases import Phases
from pytest_llm_energy.verdicts.statistics import Interval

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
        server: whether a server that ran already served it, which is one engine start however often it is asked.
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
    server: bool = False
    needs: int | None = None
    loosened: Loosened | None = None

    @property
    def side_by_side(self) -> bool:
        """Whether it is judged beside another stack's."""
        return self.change is not None and self.change.side_by_side

    @property
    def option_against(self) -> str:
        """The option that names another stack to judge it beside."""
        return "--energy-against-endpoint" if self.server else "--energy-against"


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
