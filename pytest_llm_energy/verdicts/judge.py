"""From what was measured to verdicts; the same for a live run and for a journal."""

import math
import statistics as stats
from collections.abc import Mapping

import msgspec

from pytest_llm_energy.errors import EnergyError, MeasurementError
from pytest_llm_energy.hardware.fingerprint import Fingerprint
from pytest_llm_energy.serving.scenario import Identity, differences
from pytest_llm_energy.verdicts import statistics
from pytest_llm_energy.verdicts.baselines import Baseline, Published, Session
from pytest_llm_energy.verdicts.causes import Cause
from pytest_llm_energy.verdicts.claims import paired
from pytest_llm_energy.verdicts.journal import Journal
from pytest_llm_energy.verdicts.measured import Arm, CaseKey, Measured
from pytest_llm_energy.verdicts.phases import Phases, phases, series_of
from pytest_llm_energy.verdicts.quantities import JOULES, SECONDS, WATTS, Quantity, samples_of
from pytest_llm_energy.verdicts.records import Checked
from pytest_llm_energy.verdicts.rows import Change, LevelRow, LevelVerdict, Row
from pytest_llm_energy.verdicts.statements import judge_claim, published_figure
from pytest_llm_energy.verdicts.statistics import ALPHA, Interval, Sample, runs_to_tell

DEFAULT_BUDGET = 0.03
"""Relative increase that passes where nobody has set another: small against what upgrades cost, and above what
sessions on one board can resolve. Boards differ by more (``statistics.BOARD_SD``)."""

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
    rows: list[Row] = [_judge_level(arm, check, measured, conditions) for arm in measured.arms]
    if check.claim is not None:
        figure = published_figure(check, conditions.published)
        rows += judge_claim(check.claim, measured, figure, alpha=ALPHA / check.looks)
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


def _judge_level(arm: Arm, check: Checked, measured: Measured, conditions: Conditions) -> LevelRow:
    key = measured.key
    budget = _budget(check, conditions)
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
    gated = key.gpu != "cpu" and not arm.estimated
    if arm.against:
        # How windows of a GPU spread is known; those of a CPU spread as its other tenants have it.
        window_sd = statistics.WINDOW_SD if gated else None
        change: Change | None = _change_against(arm, conditions, window_sd=window_sd, alpha=ALPHA / check.looks)
    else:
        sessions, reason, note = _reference(arm, key, conditions)
        change = _change(arm, key, sessions, conditions, ALPHA / check.looks) if sessions else None
    if not gated:
        says = "joules are estimated: shown, never gated" if arm.estimated else "a CPU's levels are not gated"
        note = f"{says}; {note}" if note else says
        return msgspec.structs.replace(row, verdict="shown", change=change, reason=reason or "not-gated", note=note)
    if change is None:
        return msgspec.structs.replace(row, reason=reason, note=note)
    verdict, reason, note = decide(change.joules, budget)
    if verdict in ("regressed", "improved"):
        change = msgspec.structs.replace(change, phases=_phases(arm, change, measured, conditions))
    needs = None
    if verdict == "inconclusive":
        needs = runs_needed(change.joules, budget, runs=row.runs)
        told = f"about {needs} runs would tell" if needs else "no number of runs would tell: more engine starts may"
        note = f"{note}; {told}"
    if verdict == "inconclusive" and change.other_board:
        note = (
            f"{note}: this board is none of the baseline's, and boards differ; bless a session of this one, or "
            "measure both stacks on it (--energy-against)"
        )
    return msgspec.structs.replace(row, verdict=verdict, change=change, reason=reason, note=note, needs=needs)


def runs_needed(change: Interval, budget: float, *, runs: int) -> int | None:
    """About how many runs would decide a level that so many leave open; None where no number would."""
    border = min((budget, -IMPROVEMENT), key=lambda border: abs(change.value - border))
    return runs_to_tell(change, border, runs=runs)


def decide(change: Interval, budget: float) -> tuple[LevelVerdict, str | None, str | None]:
    """The verdict on a level that has changed so much, with reason code and note where it decides nothing."""
    if change.low > budget:
        return "regressed", None, None
    if change.high < -IMPROVEMENT:
        return "improved", None, None
    if change.high < budget:
        return "ok", None, None
    if change.half_width > budget:
        return "inconclusive", "too-noisy", f"the interval is wider than the budget of {budget:.3g}"
    return "inconclusive", "near-budget", "the budget lies within the interval"


def _reference(arm: Arm, key: CaseKey, conditions: Conditions) -> tuple[list[Session], str | None, str | None]:
    """Blessed sessions the arm may be compared with, or why there are none."""
    baseline = conditions.baseline
    case = baseline.cases.get(key.case) if baseline else None
    if baseline is None or case is None or arm.name not in case.arms:
        return [], "no-baseline", f"no baseline of {key.finding} {key.case} {arm.name} on {key.gpu}"
    if differs := differences(case.arms[arm.name], arm_identity(arm)):
        return [], "scenario-differs", "the baseline served something else: " + "; ".join(differs)
    sessions = [session for session in baseline.sessions if samples_of(session, key.case, arm.name)]
    if not sessions:
        return [], "no-baseline", f"no blessed session has samples of {key.case} {arm.name}"
    now = conditions.fingerprint.identity
    matching = [session for session in sessions if session.fingerprint.identity == now]
    if not matching:
        differs = differences(sessions[-1].fingerprint.identity, now)
        return [], "hardware-differs", "the baseline is of other hardware: " + "; ".join(differs)
    methods = {run.reading.method for run in arm.runs}
    alike = [session for session in matching if {session.method} == methods]
    if not alike:
        then = ", ".join(sorted({session.method for session in matching}))
        says = (
            f"the baseline was metered by {then}, and this by {', '.join(sorted(methods))}: choose --energy-meter"
        )
        return [], "method-differs", says
    # Boards differ by more than the sessions of one board do: this board's own are the reference, where it has any.
    own = [session for session in alike if set(session.fingerprint.boards) == set(conditions.fingerprint.boards)]
    return own or alike, None, None


def _change(arm: Arm, key: CaseKey, sessions: list[Session], conditions: Conditions, alpha: float) -> Change:
    # Metered by the same method (_reference sees to that), the same arm is known equally well on both sides.
    metering = relative_uncertainty(arm)
    boards = conditions.fingerprint.boards

    def sides(of: Quantity, uncertainty: float) -> tuple[Sample, Sample]:
        return (
            of.now(arm, boards=boards, relative_uncertainty=uncertainty),
            of.then(sessions, key.case, arm.name, relative_uncertainty=uncertainty),
        )

    now, reference = sides(JOULES, metering)
    joules = statistics.change(now, reference, alpha=alpha)
    seconds = statistics.change(*sides(SECONDS, 0.0), alpha=alpha)
    watts = statistics.change(*sides(WATTS, metering), alpha=alpha)
    first, last = sessions[0], sessions[-1]
    other_board = now.boards != reference.boards
    where = " on other boards" if other_board else " on this board" if reference.boards else ""
    count = "1 session" if len(sessions) == 1 else f"{len(sessions)} sessions"
    return Change(
        joules=joules,
        cause=Cause.of(joules, seconds, watts),
        reference_joules=math.exp(reference.log_mean()),
        reference=f"baseline, {count}{where} since {first.when[:10]} ({first.reason})",
        other_board=other_board,
        stack=_changed_since(last, conditions),
    )


def _changed_since(session: Session, conditions: Conditions) -> tuple[str, ...]:
    """What serves otherwise than in a session, and what the host runs otherwise, as far as both recorded it."""
    then, now = session.fingerprint.state, conditions.fingerprint.state
    recorded = then.keys() & now.keys()
    return tuple(
        differences(
            {**{name: then[name] for name in recorded}, **session.stack},
            {**{name: now[name] for name in recorded}, **conditions.stack},
        )
    )


def _change_against(arm: Arm, conditions: Conditions, *, window_sd: float | None, alpha: float) -> Change:
    """The level against the other stack, from runs that were interleaved on one board."""
    others = {run.round: run for run in arm.against}
    pairs = [(run, others[run.round]) for run in arm.runs if run.round in others]
    if not pairs:
        raise MeasurementError(f"arm {arm.name!r} has no round with a valid run on both stacks")
    joules, seconds, watts = (
        paired(pairs, quantity.of_run, window_sd=window_sd, alpha=alpha) for quantity in (JOULES, SECONDS, WATTS)
    )
    return Change(
        joules=joules,
        cause=Cause.of(joules, seconds, watts),
        reference_joules=math.exp(stats.fmean(math.log(other.joules_per_unit) for _, other in pairs)),
        reference=conditions.against_says,
        stack=tuple(differences(conditions.against, conditions.stack)),
        side_by_side=True,
    )


def _phases(arm: Arm, change: Change, measured: Measured, conditions: Conditions) -> Phases | None:
    """Whether a change lies in prefill or in decode, where the case serves several output lengths."""
    series = series_of(arm, measured.arms)
    if not series:
        return None
    metering = relative_uncertainty(arm)
    side = JOULES.now(arm, boards=conditions.fingerprint.boards, relative_uncertainty=metering)
    now = {length: list(JOULES.by_start(other.runs).values()) for length, other in series.items()}
    if change.side_by_side:
        then = {length: list(JOULES.by_start(other.against).values()) for length, other in series.items()}
        return phases(change.joules, now, then, (side, side))
    case = measured.key.case
    compared = [_reference(other, measured.key, conditions)[0] for other in series.values()]
    sessions = [
        session
        for session in compared[0]
        if all(session in others for others in compared)
        and len({len(samples_of(session, case, other.name)) for other in series.values()}) == 1
    ]
    if not sessions:
        return None
    reference = JOULES.then(sessions, case, arm.name, relative_uncertainty=metering)
    blessed = {length: JOULES.starts_then(sessions, case, other.name) for length, other in series.items()}
    return phases(change.joules, now, blessed, (side, reference))


def by_start(arm: Arm) -> dict[str, list[float]]:
    """Joules per token of an arm's runs by engine start."""
    return JOULES.by_start(arm.runs)


def relative_uncertainty(arm: Arm) -> float:
    """Relative standard deviation of the metering of one of its runs."""
    return stats.fmean(run.reading.uncertainty_joules / run.reading.joules for run in arm.runs)


def arm_identity(arm: Arm) -> Identity:
    """What must match before two levels of an arm are compared."""
    return arm.identity if arm.identity is not None else {"callable": arm.name}


def _budget(check: Checked, conditions: Conditions) -> float:
    case = conditions.baseline.cases.get(check.key.case) if conditions.baseline else None
    stated = (conditions.budget, check.budget, case.budget if case else None)
    return next((budget for budget in stated if budget is not None), conditions.default_budget)
