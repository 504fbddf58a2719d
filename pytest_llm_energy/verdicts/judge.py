"""From what was measured to verdicts; the same for a live run and for a journal."""

import math
import statistics as stats
from collections.abc import Mapping

import msgspec

from pytest_llm_energy.errors import EnergyError, MeasurementError
from pytest_llm_energy.hardware.fingerprint import Fingerprint
from pytest_llm_energy.serving.scenario import differences
from pytest_llm_energy.verdicts.baselines import Absent, Baseline, Figure, Published
from pytest_llm_energy.verdicts.budgets import DEFAULT_BUDGET, budget_of
from pytest_llm_energy.verdicts.claims import Claim, Statement, paired
from pytest_llm_energy.verdicts.journal import Journal
from pytest_llm_energy.verdicts.measured import Arm, CaseKey, Measured
from pytest_llm_energy.verdicts.records import Checked
from pytest_llm_energy.verdicts.reference import Reference, change_since, drift_of, gated, log_seconds, reference_of
from pytest_llm_energy.verdicts.rows import Change, ClaimRow, ClaimVerdict, LevelRow, LevelVerdict, Row
from pytest_llm_energy.verdicts.statistics import Interval

IMPROVEMENT = 0.01
"""A level counts as improved when it is lower than its reference by this much, beyond doubt."""


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """What a measurement is judged under.

    Attributes:
        fingerprint: of the hardware it was measured on.
        stack: what served it, by name: versions, environment, arguments.
        against: the same of the other stack, where it was measured side by side with one.
        against_says: what the other stack is, in words.
        baseline: blessed sessions of the finding on this GPU model, None where there are none.
        published: the paper's figures of the finding, None where it has none.
        budget: overrides every other budget, None to leave them.
        default_budget: where neither test nor baseline have one.
    """

    fingerprint: Fingerprint
    stack: Mapping[str, str]
    against: Mapping[str, str] = {}
    against_says: str = "the other stack"
    baseline: Baseline | None = None
    published: Published | None = None
    budget: float | None = None
    default_budget: float = DEFAULT_BUDGET


def judge(check: Checked, measured: Measured, conditions: Conditions) -> list[Row]:
    """Judge every level against its reference, and the claim against the paper.

    Raises:
        MeasurementError: an arm has no valid run, or the claim is about something that was not measured.
        BaselineError: the check names a published figure that does not exist.
    """
    for arm in measured.arms:
        if not arm.runs:
            raise MeasurementError(f"{measured.key}: arm {arm.name!r} has no valid run")
    rows: list[Row] = [_judge_level(arm, check, measured.key, conditions) for arm in measured.arms]
    if check.claim is not None:
        figure = _figure(check, conditions.published)
        case = conditions.baseline.cases.get(check.key.case) if conditions.baseline else None
        rows += _judge_claim(check.claim, measured, figure, case.absent if case else {})
    return rows


def judge_recorded(
    journal: Journal,
    key: CaseKey,
    *,
    baseline: Baseline | None,
    published: Published | None,
    budget: float | None,
    default_budget: float = DEFAULT_BUDGET,
) -> list[Row]:
    """Judge every check that a journal holds of a case.

    Raises:
        EnergyError: the case ended in an error when it was measured, or was cut.
        MeasurementError: an arm has no valid run.
    """
    if key in journal.troubles:
        raise EnergyError(f"when it was measured: {journal.troubles[key]}")
    if key in journal.cut:
        raise EnergyError(
            "the run was cut while this case was measured: go on with --energy-resume, or measure it anew"
        )
    rows: list[Row] = []
    for check in journal.checks_of(key):
        measured = journal.measured(check)
        for arm in measured.arms:
            if not arm.runs:
                why = journal.why_invalid(check, arm.name)
                raise MeasurementError(f"{key}: arm {arm.name!r} has no valid run: {why}")
        conditions = Conditions(
            fingerprint=journal.opened_for(key).fingerprint,
            stack=journal.stack(measured),
            against=journal.stack(measured, side="against"),
            against_says=journal.opened_for(key).against or "the other stack",
            baseline=baseline,
            published=published,
            budget=budget,
            default_budget=default_budget,
        )
        rows += judge(check, measured, conditions)
    return rows


def _judge_level(arm: Arm, check: Checked, key: CaseKey, conditions: Conditions) -> LevelRow:
    baseline = conditions.baseline
    budget, loosened = budget_of(
        baseline.cases.get(key.case) if baseline else None,
        overriding=conditions.budget,
        stated=check.budget,
        default=conditions.default_budget,
    )
    values = [run.joules_per_unit for run in arm.runs]
    row = LevelRow(
        key=key,
        arm=arm.name,
        unit=arm.unit,
        joules=arm.joules_per_token,
        spread=stats.stdev(values) / stats.fmean(values) if len(values) > 1 else None,
        runs=len(values),
        starts=len({run.start for run in arm.runs}),
        budget=budget,
        verdict="incomparable",
        estimated=arm.estimated,
    )
    reason = note = None
    if arm.against:
        change: Change | None = _change_against(arm, conditions)
    else:
        reference = reference_of(arm, key, baseline, conditions.fingerprint)
        reason, note = reference.reason, reference.note
        change = _change_since(arm, key, reference, conditions) if reference.sessions else None
    if not gated(arm, key):
        says = "joules are estimated: shown, never gated" if arm.estimated else "a CPU's levels are not gated"
        note = f"{says}; {note}" if note else says
        return msgspec.structs.replace(row, verdict="shown", change=change, reason=reason or "not-gated", note=note)
    row = msgspec.structs.replace(row, loosened=loosened)
    if change is None:
        return msgspec.structs.replace(row, reason=reason, note=note)
    verdict, reason, note = _decide(change.joules, budget)
    if verdict == "inconclusive" and change.other_board:
        note = (
            f"{note}: this board is none of the baseline's, and boards differ; bless a session of this one, or "
            "measure both stacks on it (--energy-against)"
        )
    return msgspec.structs.replace(row, verdict=verdict, change=change, reason=reason, note=note)


def _decide(change: Interval, budget: float) -> tuple[LevelVerdict, str | None, str | None]:
    if change.low > budget:
        return "regressed", None, None
    if change.high < -IMPROVEMENT:
        return "improved", None, None
    if change.high < budget:
        return "ok", None, None
    if change.half_width > budget:
        return "inconclusive", "too-noisy", f"the interval is wider than the budget of {budget:.3g}"
    return "inconclusive", "near-budget", "the budget lies within the interval; more runs would tell"


def _change_since(arm: Arm, key: CaseKey, reference: Reference, conditions: Conditions) -> Change:
    """The level against blessed sessions, and where it is gated, how far it is from the first of all."""
    here = conditions.fingerprint
    change = change_since(arm, key, reference.sessions, here=here, stack=conditions.stack)
    if not gated(arm, key):
        return change
    return msgspec.structs.replace(change, drift=drift_of(arm, key, reference, here))


def _change_against(arm: Arm, conditions: Conditions) -> Change:
    """The level against the other stack, from runs that were interleaved on one board."""
    others = {run.round: run for run in arm.against}
    pairs = [(run, others[run.round]) for run in arm.runs if run.round in others]
    if not pairs:
        raise MeasurementError(f"arm {arm.name!r} has no round with a valid run on both stacks")
    joules = paired(pairs)
    seconds = math.expm1(log_seconds(run for run, _ in pairs) - log_seconds(other for _, other in pairs))
    return Change(
        joules=joules,
        seconds=seconds,
        watts=(1 + joules.value) / (1 + seconds) - 1,
        reference_joules=math.exp(stats.fmean(math.log(other.joules_per_unit) for _, other in pairs)),
        reference=conditions.against_says,
        stack=tuple(differences(conditions.against, conditions.stack)),
        side_by_side=True,
    )


def _figure(check: Checked, published: Published | None) -> Figure | None:
    """The published figure of a claim: the one for this GPU model, or else the first."""
    if not check.figures:
        return None
    if published is None:
        raise MeasurementError(
            f"{check.key}: figure {check.figures[0]!r} is named, but nothing is published about {check.key.finding}"
        )
    figures = [published.figure(name) for name in check.figures]
    return next((figure for figure in figures if figure.gpu == check.key.gpu), figures[0])


def _judge_claim(
    claim: Claim, measured: Measured, figure: Figure | None, absent: Mapping[str, Absent]
) -> list[Row]:
    rows = [_judge_statement(s, measured.key, figure) for s in claim.statements(measured)]
    return [_known_absent(row, absent[row.says]) if row.says in absent else row for row in rows]


def _known_absent(row: ClaimRow, known: Absent) -> ClaimRow:
    """The verdict on a claim that is known not to hold here; that it holds again is told, not failed."""
    recorded = f"{known.reason}, {known.when[:10]}"
    if row.verdict == "contradicts":
        note = f"known not to hold here: {recorded}"
        return msgspec.structs.replace(row, verdict="absent", note=note)
    if row.verdict in ("confirms", "new"):
        note = f"holds again, where it was known not to: {recorded}; to forget that: llm-energy trim --only"
        return msgspec.structs.replace(row, note=note)
    return row


def _judge_statement(statement: Statement, key: CaseKey, figure: Figure | None) -> ClaimRow:
    """The direction counts on every GPU model; the size where it was published for this one, with a tolerance."""
    verdicts: dict[str, ClaimVerdict] = {
        "holds": "confirms" if figure else "new",
        "fails": "contradicts",
        "open": "inconclusive",
    }
    verdict = verdicts[statement.outcome]
    reason = "no-difference-shown" if statement.outcome == "open" else None
    if verdict == "confirms" and figure is not None and _size_differs(statement, key, figure):
        verdict, reason = "contradicts", "size-differs"
    return ClaimRow(
        key=key,
        says=statement.says,
        interval=statement.interval,
        kind=statement.kind,
        verdict=verdict,
        paper=_paper(figure) if figure else None,
        reason=reason,
    )


def _size_differs(statement: Statement, key: CaseKey, figure: Figure) -> bool:
    """Whether the effect lies beyond doubt outside what was published for this GPU model."""
    published = figure.value if figure.unit == "fraction" and statement.kind == "effect" else None
    if published is None or figure.tolerance is None or figure.gpu != key.gpu:
        return False
    interval = statement.interval
    return interval.high < published - figure.tolerance or interval.low > published + figure.tolerance


def _paper(figure: Figure) -> str:
    where = f" ({figure.gpu})" if figure.gpu else ""
    if figure.value is None:
        return f"stated{where}"
    amount = f"{figure.value * 100:+.2f} %" if figure.unit == "fraction" else f"{figure.value:g} {figure.unit}"
    return f"{'up to ' if figure.relation == 'at_most' else ''}{amount}{where}"
