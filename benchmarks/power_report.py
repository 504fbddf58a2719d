"""Results of ``gate_power``: how often each rule calls a change, and the tables and the plot made of it."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
from tabulate import tabulate

from benchmarks.recorded_noise import Recorded
from pytest_llm_energy.verdicts.statistics import ALPHA

OURS = "pytest-llm-energy"

STATED_COVERAGE = 1 - 2 * ALPHA

BEYOND = 0.03
"""So far above the budget a change should be caught."""


class Calls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one rule said.

    Attributes:
        suites_alarmed: share of suites without any change in which a case was called regressed.
        called: share of cases called regressed, by effect.
    """

    suites_alarmed: float
    called: tuple[float, ...]


class Outcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All rules on the same draws.

    Attributes:
        reference: what a level is judged against.
        looks: windows a side at each look, where what is open is looked at again.
        confirmed: whether what would fail is metered as often again first; the stored side stays as it is.
        default: whether this is what a run does unless it is told otherwise.
        mean_runs: windows a side that were taken, on average, by effect.
        coverage: share of our intervals that hold the true change.
        coverage_by_work: the lowest of any work.
        undecided: share of our verdicts that are ``inconclusive``, by effect.
        called_of_quiet: our calls by effect, of works whose windows spread by up to ``Report.quiet`` alone.
        called_at_best: what a bound of the same certainty would call if it knew each work's spread exactly.
        rules: calls by rule.
    """

    reference: str
    looks: tuple[int, ...]
    confirmed: bool
    default: bool
    mean_runs: tuple[float, ...]
    coverage: float
    coverage_by_work: float
    undecided: tuple[float, ...]
    called_of_quiet: tuple[float, ...]
    called_at_best: tuple[float, ...]
    rules: dict[str, Calls]

    @property
    def runs(self) -> str:
        """Windows a side, in words."""
        return ", ".join(map(str, self.looks)) + (f", {2 * self.looks[-1]} to fail" if self.confirmed else "")


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One simulation.

    Attributes:
        when: date it was made.
        suites: how many were drawn per reference and number of runs.
        cases: of each suite.
        budget: increase that passes.
        effects: true changes, relative.
        quiet: up to this spread of its windows a work counts as quiet.
        quiet_works: how many of the works do.
        noise: what was drawn from.
        judged_with: what the gate knew of it, in words.
        outcomes: one per reference and number of runs.
    """

    when: str
    suites: int
    cases: int
    budget: float
    effects: tuple[float, ...]
    quiet: float
    quiet_works: int
    noise: Recorded
    judged_with: str
    outcomes: tuple[Outcome, ...]


def read(path: Path) -> Report:
    """A report that was written as JSON."""
    return msgspec.json.decode(path.read_bytes(), type=Report)


def conditions(report: Report) -> str:
    """How much was simulated, and from what."""
    return (
        f"{report.when}: {report.suites} suites of {report.cases} cases a row, drawn from the noise of "
        f"{len(report.noise.works)} works on H200s; budget {report.budget:.0%}"
    )


def text_lines(report: Report, *, style: str = "simple") -> Iterator[str]:
    """False alarms, detection and coverage: a row per reference, number of runs and rule."""
    shown = [effect for effect in report.effects if effect > report.budget and round(effect * 100) % 2 == 0]
    headers = ["against", "runs", "rule", "suites with an alarm"]
    headers += [f"+{effect:.0%} called" for effect in shown] + ["intervals that hold"]
    rows = []
    for outcome in report.outcomes:
        for rule, calls in outcome.rules.items():
            ours = rule == OURS
            rows.append(
                [
                    outcome.reference if ours else "",
                    outcome.runs if ours else "",
                    rule,
                    f"{calls.suites_alarmed:.1%}",
                    *(f"{_at(report, calls.called, effect):.1%}" for effect in shown),
                    f"{outcome.coverage:.1%}" if ours else "",
                ]
            )
    yield from tabulate(rows, headers, tablefmt=style, disable_numparse=True).splitlines()
    yield ""
    sure = report.budget + BEYOND
    headers = [
        "against",
        "runs",
        "runs taken",
        "undecided",
        f"called, {report.quiet_works} quiet works",
        "if spreads were known",
    ]
    headers += ["intervals that hold, worst work"]
    rows = [
        [
            outcome.reference,
            outcome.runs,
            f"{_at(report, outcome.mean_runs, sure):.1f}",
            f"{_at(report, outcome.undecided, sure):.1%}",
            f"{_at(report, outcome.called_of_quiet, sure):.1%}",
            f"{_at(report, outcome.called_at_best, sure):.1%}",
            f"{outcome.coverage_by_work:.1%}",
        ]
        for outcome in report.outcomes
    ]
    yield f"Of {sure:+.0%}; quiet works have windows that spread by up to {report.quiet:.0%}"
    yield ""
    yield from tabulate(rows, headers, tablefmt=style, disable_numparse=True).splitlines()


def goal_lines(report: Report) -> Iterator[str]:
    """What was aimed at beside what came out."""
    sure = report.budget + BEYOND
    for outcome in report.outcomes:
        if not outcome.default:
            continue
        ours = outcome.rules[OURS]
        yield f"{outcome.reference}, {outcome.runs} runs:"
        yield _goal("suites with an alarm", ours.suites_alarmed, ours.suites_alarmed <= 0.01, "at most 1 %")
        caught = _at(report, ours.called, sure)
        goal = "at least 95 %" if outcome.reference == "other stack" else "no goal"
        yield _goal(f"{sure:+.0%} called", caught, caught >= 0.95 or goal == "no goal", goal)
        held = abs(outcome.coverage - STATED_COVERAGE) <= 0.02 + 1e-9  # all of them is two points above
        yield _goal("intervals that hold", outcome.coverage, held, f"{STATED_COVERAGE:.0%} within 2 points")


def plot(report: Report, path: Path) -> None:
    """Share of cases called over the true change, a panel per reference at the default number of runs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    outcomes = [outcome for outcome in report.outcomes if outcome.default]
    figure, axes = pyplot.subplots(1, len(outcomes), figsize=(5 * len(outcomes), 4.5), sharey=True, squeeze=False)
    percent = [effect * 100 for effect in report.effects]
    for axis, outcome in zip(axes[0], outcomes, strict=True):
        for rule, calls in outcome.rules.items():
            alarmed = f"{rule} ({calls.suites_alarmed:.1%} of suites without a change alarmed)"
            width = 2.5 if rule == OURS else 1.2
            axis.plot(percent, [x * 100 for x in calls.called], marker="o", linewidth=width, label=alarmed)
        axis.axvline(report.budget * 100, color="grey", linestyle=":")
        axis.set(title=f"against {outcome.reference}, {outcome.runs} runs", xlabel="true change, %")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7, loc="upper left")
        axis.set_ylim(-3, 140)
    axes[0][0].set_ylabel("cases called regressed, %")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def _at(report: Report, values: tuple[float, ...], effect: float) -> float:
    return next(v for e, v in zip(report.effects, values, strict=True) if abs(e - effect) < 1e-9)


def _goal(what: str, value: float, met: bool, goal: str) -> str:
    return (
        f"  {what}: {value:.1%} (goal: {goal}) {'' if goal == 'no goal' else 'met' if met else 'MISSED'}".rstrip()
    )
