"""From what was measured to verdicts; the same for a live run and for a journal."""

import math
import statistics as stats
from collections.abc import Mapping, Sequence

import msgspec

from pytest_llm_energy.errors import EnergyError, MeasurementError
from pytest_llm_energy.hardware.fingerprint import Fingerprint
from pytest_llm_energy.serving.scenario import SERVER, differences
from pytest_llm_energy.verdicts.baselines import Baseline, Published, samples_of
from pytest_llm_energy.verdicts.budgets import DEFAULT_BUDGET, budget_of
from pytest_llm_energy.verdicts.causes import Cause
from pytest_llm_energy.verdicts.equal_host import at_equal_host, may_tell, needs_pairs
from pytest_llm_energy.verdicts.equal_speed import at_equal_speed
from pytest_llm_energy.verdicts.estimates import paired
from pytest_llm_energy.verdicts.further import ENOUGH_STARTS, MOST_STARTS, limited_by_starts, told_by_few_starts
from pytest_llm_energy.verdicts.journal import Journal
from pytest_llm_energy.verdicts.measured import Arm, CaseKey, Measured, in_common_rounds, metering_sd, stack_of
from pytest_llm_energy.verdicts.noise import ASSUMED, UNMEASURED, Component, GpuBaselines, Noise
from pytest_llm_energy.verdicts.phases import Phases, interleaved_phases, phases, series_of
from pytest_llm_energy.verdicts.quantities import JOULES, SECONDS, WATTS
from pytest_llm_energy.verdicts.records import Checked
from pytest_llm_energy.verdicts.reference import (
    Reference,
    change_since,
    drift_of,
    gated,
    reference_of,
)
from pytest_llm_energy.verdicts.rows import Change, LevelReason, LevelRow, LevelVerdict, Row
from pytest_llm_energy.verdicts.statements import judge_claim, published_figure
from pytest_llm_energy.verdicts.statistics import ALPHA, Interval, runs_to_tell

IMPROVEMENT = 0.01
"""A level counts as improved when it is lower than its reference by this much, beyond doubt."""


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """What a measurement is judged under.

    Attributes:
        fingerprint: of the hardware it was measured on.
        stacks: what served it, by engine start: versions, environment, arguments, by name.
        against_says: what the other stack is, in words.
        baseline: blessed sessions of the finding on this GPU model, None where there are none.
        published: the paper's figures of the finding, None where it has none.
        noise: how levels scatter on this GPU model.
        budget: overrides every other budget, None to leave them.
        default_budget: where neither test nor baseline have one.
    """

    fingerprint: Fingerprint
    stacks: Mapping[str, Mapping[str, str]]
    against_says: str = "the other stack"
    baseline: Baseline | None = None
    published: Published | None = None
    noise: Noise = ASSUMED
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
    rows: list[Row] = []
    if check.levels:
        rows += [_judge_level(arm, check, measured, conditions) for arm in measured.arms]
    if check.claim is not None:
        figure = published_figure(check, conditions.published)
        case = conditions.baseline.cases.get(check.key.case) if conditions.baseline else None
        absent = case.absent if case else {}
        rows += judge_claim(
            check.claim, measured, figure, absent=absent, noise=conditions.noise, alpha=_alpha(check, measured.arms)
        )
    return rows


def judge_recorded(
    journal: Journal,
    key: CaseKey,
    *,
    baseline: Baseline | None,
    published: Published | None,
    budget: float | None,
    default_budget: float = DEFAULT_BUDGET,
    gpu_baselines: GpuBaselines = UNMEASURED,
) -> list[Row]:
    """Judge every check that a journal holds of a case.

    Args:
        journal: what was measured.
        key: the case.
        baseline: blessed sessions of its finding.
        published: the paper's figures of that.
        budget: overrides every other budget, None to leave them.
        default_budget: where neither test nor baseline have one.
        gpu_baselines: all blessed sessions of its GPU model, which tell how levels scatter.

    Raises:
        EnergyError: the case ended in an error when it was measured, or was cut.
        MeasurementError: an arm has no valid run.
    """
    if key in journal.unfinished:
        raise EnergyError(journal.unfinished[key])
    rows: list[Row] = []
    for check in journal.checks_of(key):
        measured = journal.measured(check)
        for arm in measured.arms:
            if not arm.runs:
                why = journal.why_invalid(check, arm.name)
                raise MeasurementError(f"{key}: arm {arm.name!r} has no valid run: {why}")
        opened = journal.opened_for(key)
        conditions = Conditions(
            fingerprint=opened.fingerprint,
            stacks=journal.stacks,
            against_says=opened.against or "the other stack",
            baseline=baseline,
            published=published,
            noise=gpu_baselines.noise(method=opened.method, simulated=opened.simulated, of=key),
            budget=budget,
            default_budget=default_budget,
        )
        rows += judge(check, measured, conditions)
    return rows


def _alpha(check: Checked, arms: Sequence[Arm]) -> float:
    """Chance per bound that it excludes the truth, of what is judged by the runs of these arms together."""
    reached = min(max(run.round for run in arm.runs) for arm in arms)
    looks, before = check.looks, check.before
    while before is not None and reached < before.rounds:  # a later run added nothing to them
        looks, before = before.looks, before.before
    return ALPHA / looks


def _judge_level(arm: Arm, check: Checked, measured: Measured, conditions: Conditions) -> LevelRow:
    key = measured.key
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
        server=(arm.identity or {}).get("engine") == SERVER,
    )
    reason = note = None
    judged = gated(arm, key)
    alpha = _alpha(check, [arm])
    if arm.against:
        # How windows of a GPU spread is known; those of a CPU spread as its other tenants have it.
        window = conditions.noise.windows_of(arm.identity) if judged else None
        change: Change | None = _change_against(arm, conditions, window=window, alpha=alpha)
    else:
        reference = reference_of(arm, key, baseline, conditions.fingerprint)
        reason, note = reference.reason, reference.note
        change = _change_since(arm, measured, reference, conditions, alpha) if reference.sessions else None
    if not judged:
        says = "joules are estimated: shown, never gated" if arm.estimated else "a CPU's levels are not gated"
        note = f"{says}; {note}" if note else says
        return msgspec.structs.replace(row, verdict="shown", change=change, reason=reason or "not-gated", note=note)
    row = msgspec.structs.replace(row, loosened=loosened)
    if change is None:
        return msgspec.structs.replace(row, reason=reason, note=note)
    verdict, reason, note = decide(change.joules, budget)
    if verdict in ("regressed", "improved"):
        change = msgspec.structs.replace(change, phases=_phases(arm, change, measured, conditions, alpha))
    needs = None
    if verdict == "inconclusive":
        needs = runs_to_tell(change.joules, budget, runs=row.runs)
        note = f"{note}; {_what_would_tell(row, change, needs)}"
    if verdict == "inconclusive" and change.other_board:
        note = (
            f"{note}: this board is none of the baseline's, and boards differ; bless a session of this one, or "
            f"measure both stacks on it ({row.option_against})"
        )
    return msgspec.structs.replace(row, verdict=verdict, change=change, reason=reason, note=note, needs=needs)


def _what_would_tell(row: LevelRow, change: Change, runs: int | None) -> str:
    by_runs = f"about {runs} runs would tell (--energy-runs {runs})" if runs else "no number of runs would tell"
    if not math.isfinite(change.joules.half_width):
        return "so few runs say nothing of their noise (--energy-runs 3)"
    if row.server:
        return by_runs if runs else f"{by_runs}, and a server that runs is one engine start"
    if not change.side_by_side:
        return by_runs if runs else f"{by_runs}: more engine starts may (--energy-starts 3 --energy-runs 6)"
    if runs and not limited_by_starts(change):
        return by_runs
    if told_by_few_starts(change, row.starts):
        runs = max(row.runs, needs_pairs(ENOUGH_STARTS))
        more = f"more would (--energy-starts {ENOUGH_STARTS} --energy-runs {runs})"
        return f"{row.starts} engine starts hardly tell how they scatter: {more}"
    return _starts_that_would_tell(row, change) or by_runs


def _starts_that_would_tell(row: LevelRow, change: Change) -> str | None:
    """Advice to take so many engine starts and runs that either has half of the variance that would tell."""
    joules = change.joules
    distance = abs(joules.value - row.budget) - joules.floor
    if distance <= 0:
        return None
    of_starts = (joules.fixed - joules.floor) ** 2
    of_windows = max(0.0, (joules.half_width - joules.floor) ** 2 - of_starts)
    starts = math.ceil(2 * row.starts * of_starts / distance**2)
    runs = max(math.ceil(2 * row.runs * of_windows / distance**2), needs_pairs(starts))
    if starts > MOST_STARTS:
        return f"more than {MOST_STARTS} engine starts would have to tell"
    return f"about {starts} engine starts would tell (--energy-starts {starts} --energy-runs {runs})"


def decide(change: Interval, budget: float) -> tuple[LevelVerdict, LevelReason | None, str | None]:
    """The verdict on a level that has changed so much, with reason code and note where it decides nothing."""
    if change.low > budget:
        return "regressed", None, None
    if change.high < -IMPROVEMENT:
        return "improved", None, None
    if change.high < budget:
        return "ok", None, None
    if change.half_width > budget:
        return "inconclusive", "too-noisy", f"the interval is wider than the budget of {budget * 100:.3g} %"
    return "inconclusive", "near-budget", f"the budget of {budget * 100:.3g} % lies within the interval"


def _change_since(
    arm: Arm, measured: Measured, reference: Reference, conditions: Conditions, alpha: float
) -> Change:
    """The level against blessed sessions, and where it is gated, how far it is from the first of all."""
    key, here, noise = measured.key, conditions.fingerprint, conditions.noise
    stack = stack_of(measured.runs, conditions.stacks)  # a session's is that of all its cases
    change = change_since(arm, key, reference.sessions, here=here, stack=stack, noise=noise, alpha=alpha)
    if not gated(arm, key):
        return change
    return msgspec.structs.replace(change, drift=drift_of(arm, key, reference, here, noise=noise, alpha=alpha))


def _change_against(arm: Arm, conditions: Conditions, *, window: Component | None, alpha: float) -> Change:
    """The level against the other stack, from runs that were interleaved on one board."""
    others = {run.round: run for run in arm.against}
    pairs = [(run, others[run.round]) for run in arm.runs if run.round in others]
    if not pairs:
        raise MeasurementError(f"arm {arm.name!r} has no round with a valid run on both stacks")
    quantities = (JOULES, SECONDS, WATTS)
    whole = [paired(pairs, of.of_run, noise=conditions.noise, window=window, alpha=alpha) for of in quantities]
    # Joules that are modelled follow the time by which they are.
    equal = [at_equal_host(pairs, of.of_run, noise=conditions.noise, alpha=alpha) for of in quantities]
    allowed = all(equal) and not arm.estimated
    joules, seconds, watts = [one or other for one, other in zip(equal, whole, strict=True)] if allowed else whole
    equally_fast = None if arm.estimated else at_equal_speed(pairs, noise=conditions.noise, alpha=alpha)
    return Change(
        joules=joules,
        as_metered=whole[0] if allowed else None,
        to_probe=not allowed and not arm.estimated and may_tell(pairs),
        cause=Cause.of(joules, seconds, watts, at_equal_speed=equally_fast),
        reference_joules=math.exp(stats.fmean(math.log(other.joules_per_unit) for _, other in pairs)),
        reference=conditions.against_says,
        stack=tuple(differences(*(stack_of(runs, conditions.stacks) for runs in (arm.against, arm.runs)))),
        side_by_side=True,
    )


def _phases(arm: Arm, change: Change, measured: Measured, conditions: Conditions, alpha: float) -> Phases | None:
    """Whether a change lies in prefill or in decode, where the case serves several output lengths."""
    series = series_of(arm, measured.arms)
    if not series:
        return None
    if series.keys() == {1}:  # its first token comes out of the prefill
        return Phases(prefill=change.whole, decode=None, lengths=1)
    noise = conditions.noise
    series = dict(zip(series, in_common_rounds(tuple(series.values())), strict=True))
    now = {length: list(JOULES.by_start(other.runs).values()) for length, other in series.items()}
    if change.side_by_side:
        then = {length: list(JOULES.by_start(other.against).values()) for length, other in series.items()}
        window = noise.windows_of(arm.identity)
        return interleaved_phases(change.whole, now, then, noise=noise, window=window, alpha=alpha)
    metering = metering_sd(arm.runs)
    side = JOULES.now(arm, boards=conditions.fingerprint.boards, relative_uncertainty=metering)
    case = measured.key.case
    compared = [
        reference_of(other, measured.key, conditions.baseline, conditions.fingerprint).sessions
        for other in series.values()
    ]
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
    return phases(change.joules, now, blessed, (side, reference), noise=noise, alpha=alpha)
