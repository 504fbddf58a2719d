"""How often the gate is right: false alarms, detection and coverage, beside other rules on the same draws.

    python benchmarks/gate_power.py [--suites 2000] [--json FILE] [--plot FILE.png]
    python benchmarks/gate_power.py --read FILE [--plot FILE.png]

Suites of 50 cases are drawn from the noise that the journals in docs/measurements/h200 recorded: each case is one
of their works, with windows, engine starts, sessions and boards that scatter as recorded. The verdicts are the
package's own: its intervals, with what the committed baselines of H200s tell of the noise, and its decision on
them. A true change multiplies every run of the present side, which shifts an interval on the log scale and leaves
its width alone; so an interval is made once and shifted for each change. How sessions and boards shift levels is
drawn once for all cases of a suite: on the boards recorded, the one that draws more does so in every work.
"Independent" draws it anew per case, which no record shows.
"""

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import NormalDist, fmean
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks.power_report import OURS, Calls, Outcome, Report, conditions, goal_lines, plot, read, text_lines
from benchmarks.recorded_noise import Recorded, WorkNoise, known, recorded
from benchmarks.recorded_noise import text_lines as noise_lines
from pytest_llm_energy.measuring import GPU_PLAN
from pytest_llm_energy.reporting import words
from pytest_llm_energy.serving.scenario import Identity
from pytest_llm_energy.verdicts import statistics
from pytest_llm_energy.verdicts.budgets import DEFAULT_BUDGET
from pytest_llm_energy.verdicts.further import in_reach
from pytest_llm_energy.verdicts.judge import decide
from pytest_llm_energy.verdicts.noise import Noise, work_of
from pytest_llm_energy.verdicts.scatter import Spread
from pytest_llm_energy.verdicts.statistics import Interval, Sample

EFFECTS = tuple(percent / 100 for percent in range(11))
LOOKS = ((3,), (6,), (12,), (3, 6, 12))
"""Windows a side: fixed, and with what is open looked at again."""

PATIENT = (3, 6, 12, 24, 48)
"""The same where much time is given: of two stacks side by side, which differ by nothing but windows and starts."""

CASES = 50
QUIET = 0.01
NORMAL = NormalDist()
FIXED = 0.03
"""Of the rules that call what exceeds a fixed percentage."""

WORK: Identity = {}
"""What is served, where nothing but its noise matters."""

Floats = NDArray[np.float64]


class Reference(NamedTuple):
    """What a level is judged against.

    Attributes:
        name: in words.
        session: whether it is of another session.
        board: whether it is of another board.
        shared: whether session and board shift all cases of a suite alike.
    """

    name: str
    session: bool
    board: bool
    shared: bool = True


REFERENCES = (
    Reference("other stack", session=False, board=False),
    Reference("baseline, same board", session=True, board=False),
    Reference("baseline, other board", session=True, board=True),
    Reference("baseline, other board, independent", session=True, board=True, shared=False),
)


class Draw(NamedTuple):
    """Logs of joules per token without any change: suites x cases x runs, and the work of each case.

    Also the variance of its windows as baselines have it, and the degrees of freedom of that: those of the windows
    recorded of it here.
    """

    works: NDArray[np.int64]
    now: Floats
    then: Floats
    known: Floats
    freedom: Floats


def main() -> None:
    """Simulate and print; or print and plot what was simulated before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--read", type=Path, help="print and plot an earlier result")
    parser.add_argument("--suites", type=int, default=2000, help="per reference and number of runs (default: 2000)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    report = read(options.read) if options.read else _simulate(recorded(), options.suites, options.seed)
    print(conditions(report))
    print()
    for lines in (noise_lines(report.noise), [report.judged_with], text_lines(report), goal_lines(report)):
        print("\n".join(lines))
        print()
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    if options.plot:
        plot(report, options.plot)


def _simulate(noise: Recorded, suites: int, seed: int) -> Report:
    generator = np.random.default_rng(seed)
    outcomes = []
    judged_with = known()
    for reference in REFERENCES:
        for looks in LOOKS if reference.session else (*LOOKS, PATIENT):
            print(f"against {reference.name}, runs: {looks}", file=sys.stderr, flush=True)
            runs = looks[-1] * (2 if confirms(reference, looks) else 1)
            drawn = draw(reference, noise, suites, runs, generator)
            outcomes.append(outcome(reference, drawn, noise, judged_with, looks=looks))
    return Report(
        when=datetime.now(UTC).date().isoformat(),
        suites=suites,
        cases=CASES,
        budget=DEFAULT_BUDGET,
        effects=EFFECTS,
        quiet=QUIET,
        quiet_works=sum(work.window_sd <= QUIET for work in noise.works),
        noise=noise,
        judged_with=words.noise("h200", judged_with),
        outcomes=tuple(outcomes),
    )


def confirms(reference: Reference, looks: tuple[int, ...]) -> bool:
    """Whether what would fail is metered as often again first, as it is where it is not settled."""
    return reference.session and len(looks) == 1


def draw(reference: Reference, noise: Recorded, suites: int, runs: int, generator: np.random.Generator) -> Draw:
    """Suites whose level never changed, with one engine start a side."""
    works = generator.integers(len(noise.works), size=(suites, CASES))
    window_sd = np.array([work.window_sd for work in noise.works])[works]
    board_sd = np.array([work.board_sd for work in noise.works])[works]

    def side() -> Floats:
        shared = (suites, 1 if reference.shared else CASES)
        level = generator.normal(0, noise.start_sd, works.shape)
        if reference.session:
            level = level + noise.session_sd * generator.normal(size=shared)
        if reference.board:
            level = level + board_sd * generator.normal(size=shared)
        windows: Floats = level[..., None] + window_sd[..., None] * generator.normal(size=(*works.shape, runs))
        return windows

    freedom = np.array([work.windows - work.starts for work in noise.works], dtype=float)[works]
    known = window_sd**2 * generator.chisquare(np.maximum(freedom, 1)) / np.maximum(freedom, 1)
    return Draw(works, side(), side(), known, freedom)


def outcome(
    reference: Reference, drawn: Draw, noise: Recorded, judged_with: Noise, *, looks: tuple[int, ...]
) -> Outcome:
    """Every rule on the same suites; other rules take all runs at once, but for those that confirm a failure."""
    shape = drawn.works.shape
    confirmed = confirms(reference, looks)
    now, then = (np.exp(logs).reshape(-1, logs.shape[-1]) for logs in (drawn.now, drawn.then))
    works = drawn.works.ravel()
    of_works = [noise.works[number] for number in works]
    intervals = [
        [
            _interval(reference, work, told, tuple(a[:runs]), tuple(b[:runs]), looks=len(looks))
            for told in [_knowing(judged_with, own)]
            for runs in looks
        ]
        for work, a, b, *own in zip(
            of_works, now.tolist(), then.tolist(), drawn.known.ravel(), drawn.freedom.ravel(), strict=True
        )
    ]
    last = np.array([[settled(found, effect, looks) for effect in EFFECTS] for found in intervals])
    mean_runs = np.array(looks)[last].mean(axis=0)
    verdicts = np.array(
        [
            [decide(shifted(found[n], effect), DEFAULT_BUDGET)[0] for n, effect in zip(ends, EFFECTS, strict=True)]
            for found, ends in zip(intervals, last.tolist(), strict=True)
        ]
    )
    called = verdicts == "regressed"
    ends = [found[n] for found, n in zip(intervals, last[:, 0].tolist(), strict=True)]
    if confirmed:
        for number in np.flatnonzero(called.any(axis=1)):
            own = drawn.known.ravel()[number], drawn.freedom.ravel()[number]
            again = _interval(
                reference,
                of_works[number],
                _knowing(judged_with, own),
                tuple(now[number].tolist()),
                tuple(then[number, : looks[-1]].tolist()),
                looks=1,
            )
            stays = [decide(shifted(again, effect), DEFAULT_BUDGET)[0] == "regressed" for effect in EFFECTS]
            if called[number, 0]:
                ends[number] = again
            mean_runs += looks[-1] * called[number] / len(called)
            verdicts[number, called[number] & ~np.array(stays)] = "inconclusive"
        called = verdicts == "regressed"
    now, then = now[:, : looks[-1]], then[:, : looks[-1]]
    held = np.array([interval.low <= 0 <= interval.high for interval in ends])
    quiet = np.array([work.window_sd <= QUIET for work in of_works])
    rules = {OURS: called}
    rules |= {
        name: np.stack([rule(now * (1 + effect), then) for effect in EFFECTS], axis=1)
        for name, rule in RULES.items()
    }
    return Outcome(
        reference=reference.name,
        looks=looks,
        confirmed=confirmed,
        default=looks == ((GPU_PLAN.runs,) if reference.session else LOOKS[-1]),
        mean_runs=tuple(mean_runs.tolist()),
        coverage=float(held.mean()),
        coverage_by_work=min(float(held[works == number].mean()) for number in np.unique(works)),
        undecided=_shares(verdicts == "inconclusive"),
        called_of_quiet=_shares(called[quiet]),
        called_at_best=tuple(
            fmean(known_spread_power(reference, work, noise, now.shape[1], effect) for work in noise.works)
            for effect in EFFECTS
        ),
        rules={
            name: Calls(suites_alarmed=float(calls[:, 0].reshape(shape).any(axis=1).mean()), called=_shares(calls))
            for name, calls in rules.items()
        },
    )


def _knowing(noise: Noise, own: Sequence[float]) -> Noise:
    """The noise of a GPU model whose baselines hold the work: variance of its windows, and degrees of freedom."""
    return msgspec.structs.replace(noise, by_work={work_of(WORK): Spread(*map(float, own))})


def settled(intervals: list[Interval], effect: float, looks: tuple[int, ...]) -> int:
    """At which look a case ends: decided, or with more runs out of reach, or at the last."""
    for number, (interval, runs) in enumerate(zip(intervals, looks, strict=True)):
        change = shifted(interval, effect)
        if decide(change, DEFAULT_BUDGET)[0] != "inconclusive":
            return number
        if not in_reach(change, DEFAULT_BUDGET, runs=runs, looks=len(looks) - 1 - number):
            return number
    return len(looks) - 1


def known_spread_power(reference: Reference, work: WorkNoise, noise: Recorded, runs: int, effect: float) -> float:
    """Share of cases that a bound of the same certainty would call, were the spread of the work known exactly."""
    variance = work.window_sd**2 / runs + noise.start_sd**2
    variance += noise.session_sd**2 * reference.session + work.board_sd**2 * reference.board
    excess = math.log((1 + effect) / (1 + DEFAULT_BUDGET)) / math.sqrt(2 * variance)
    return NORMAL.cdf(excess - NORMAL.inv_cdf(1 - statistics.ALPHA))


def shifted(interval: Interval, effect: float) -> Interval:
    """The interval if every run of the present side had been dearer by the effect."""
    low, value, high = ((1 + x) * (1 + effect) - 1 for x in (interval.low, interval.value, interval.high))
    return Interval(value, low, high, interval.fixed)


def _interval(
    reference: Reference,
    work: WorkNoise,
    noise: Noise,
    now: tuple[float, ...],
    then: tuple[float, ...],
    *,
    looks: int,
) -> Interval:
    """The package's own interval, of sides as the judge makes them."""
    alpha = statistics.ALPHA / looks
    if not reference.session:
        pairs = list(zip(now, then, strict=True))
        window = noise.windows_of(WORK)
        return statistics.ratio([pairs], shifted=2, noise=noise, window=window, alpha=alpha)
    here, there = frozenset({"here"}), frozenset({"there" if reference.board else "here"})
    level = math.exp(sum(map(math.log, then)) / len(then))
    alike = Sample(starts=(now,), relative_uncertainty=work.uncertainty, boards=here, load=work.load)
    stored = msgspec.structs.replace(alike, starts=(then,), boards=there, by_board=((level,),))
    return statistics.change(alike, stored, noise=noise, alpha=alpha)


def _one_run(now: Floats, then: Floats) -> NDArray[np.bool_]:
    exceeds: NDArray[np.bool_] = now[:, 0] / then[:, 0] - 1 > FIXED
    return exceeds


def _mean_of_three(now: Floats, then: Floats) -> NDArray[np.bool_]:
    exceeds: NDArray[np.bool_] = now[:, :3].mean(axis=1) / then[:, :3].mean(axis=1) - 1 > FIXED
    return exceeds


def _mann_whitney(now: Floats, then: Floats) -> NDArray[np.bool_]:
    from scipy import stats

    significant: NDArray[np.bool_] = stats.mannwhitneyu(now, then, axis=1).pvalue < 0.05
    worse: NDArray[np.bool_] = now.mean(axis=1) > then.mean(axis=1)
    return np.logical_and(significant, worse)


RULES: dict[str, Callable[[Floats, Floats], NDArray[np.bool_]]] = {
    "one run > 3 %": _one_run,
    "mean of three > 3 %": _mean_of_three,
    "Mann-Whitney p < 0.05": _mann_whitney,
}


def _shares(calls: NDArray[np.bool_]) -> tuple[float, ...]:
    return tuple(float(share) for share in calls.mean(axis=0))


if __name__ == "__main__":
    main()
