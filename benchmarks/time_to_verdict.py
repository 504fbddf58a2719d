"""GPU-seconds until a 3 % regression is called in 95 of 100 cases, with one false alarm in 100.

    python benchmarks/time_to_verdict.py [--draws 10000] [--json FILE]
    python benchmarks/time_to_verdict.py --read FILE

Two stacks on one board, one engine start a side, per work that the journals in docs/measurements/h200 recorded,
with its noise and its durations. Ours is the package's own interval over interleaved windows, with the time
around them as recorded; it knows the noise of a work from those windows and the committed baselines. The others
call what exceeds a threshold, on the mean of n readings a side, and the threshold is set as if the noise were
known: windows read by us, by Zeus and by CodeCarbon, as long as is best for them, the latter two with no time
between them; and the paper's protocol, 1,024 samples a run and three runs, with no warming up. Longer readings
average the noise of windows. What Zeus and CodeCarbon always lose of a window is taken to cancel; how that
scattered in meter_accuracy is their noise.
"""

import argparse
import math
import statistics as stats
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
from tabulate import tabulate

from benchmarks import accuracy_report
from benchmarks.recorded_noise import Recorded, WorkNoise, known, recorded, seconds_around_windows
from pytest_llm_energy.verdicts import statistics
from pytest_llm_energy.verdicts.noise import Noise

METER_ACCURACY = Path(__file__).parents[1] / "docs" / "measurements" / "meter-accuracy-h200.json"
EFFECT = 0.03
POWER = 0.95
SAMPLES = 1024
PUBLISHED_RUNS = 3
SHORTEST = 0.25
"""From this length on, in seconds, what these meters lose of a window does not depend on the window."""
STRETCHES = (1, 2, 4, 8, 16)
MANY = 48
OURS = "pytest-llm-energy"
THRESHOLD = "ours, threshold"
PAPER = "paper, three runs"
FEWEST = "paper, fewest runs"
Z_ALARM = stats.NormalDist().inv_cdf(1 - statistics.ALPHA)
Z_POWER = stats.NormalDist().inv_cdf(POWER)


class Cost(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a method takes for a work.

    Attributes:
        runs: readings a side.
        run_seconds: length of one.
        metering: seconds of both sides without engine starts.
        total: seconds with them.
        power: share of regressions called.
        false_alarms: share of cases without any change called.
    """

    runs: int
    run_seconds: float
    metering: float
    total: float
    power: float
    false_alarms: float = statistics.ALPHA


class WorkCosts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All methods on one work; None where no number of readings is enough."""

    work: str
    window_sd: float
    batch_size: int
    costs: dict[str, Cost | None]


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One estimate.

    Attributes:
        when: date it was made.
        between_windows: mean seconds between our windows.
        warm_up: mean seconds a side besides windows and what lies between them.
        scatter_seconds: standard deviation of what a meter loses of a window, by meter.
        works: per work.
    """

    when: str
    between_windows: float
    warm_up: float
    scatter_seconds: dict[str, float]
    works: tuple[WorkCosts, ...]


def main() -> None:
    """Estimate and print; or print what was estimated before."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--read", type=Path, help="print an earlier result")
    parser.add_argument("--draws", type=int, default=10000, help="comparisons simulated per number of runs")
    options = parser.parse_args()
    report = read(options.read) if options.read else _estimate(options.draws)
    print("\n".join(text_lines(report)))
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")


def read(path: Path) -> Report:
    """A report that was written as JSON."""
    return msgspec.json.decode(path.read_bytes(), type=Report)


def _estimate(draws: int) -> Report:
    noise, judged_with = recorded(), known()
    between, warm_up = seconds_around_windows()
    scatter = {meter: scatter_seconds(meter) for meter in ("Zeus", "CodeCarbon")}
    works = []
    for number, work in enumerate(noise.works, start=1):
        print(f"work {number} of {len(noise.works)}: {work.name}", file=sys.stderr, flush=True)
        costs = {OURS: _ours(work, noise, judged_with, draws, between, warm_up)}
        costs |= {THRESHOLD: _best_windows(work, noise.start_sd, scatter=0.0, between=between, warm_up=warm_up)}
        costs |= {
            meter: _best_windows(work, noise.start_sd, scatter=lost, between=0.0, warm_up=warm_up)
            for meter, lost in scatter.items()
        }
        costs |= {
            PAPER: _paper(work, noise.start_sd, scatter["CodeCarbon"], lambda power: PUBLISHED_RUNS),
            FEWEST: _paper(work, noise.start_sd, scatter["CodeCarbon"], fewest),
        }
        works.append(WorkCosts(work=work.name, window_sd=work.window_sd, batch_size=work.batch_size, costs=costs))
    return Report(
        when=datetime.now(UTC).date().isoformat(),
        between_windows=between,
        warm_up=warm_up,
        scatter_seconds=scatter,
        works=tuple(works),
    )


def scatter_seconds(meter: str) -> float:
    """Standard deviation of the seconds of work that a meter loses in a window, over windows of any length."""
    passes = [each for each in accuracy_report.read(METER_ACCURACY).passes if each.seconds >= SHORTEST]
    return stats.stdev(-error * each.seconds for each in passes for error in each.errors(meter))


def power_of(runs: int, run_sd: float, start_sd: float) -> float:
    """Share of +3 % called by a mean of so many runs a side beyond a threshold with one false alarm in 100."""
    sd = math.sqrt(2 * (run_sd**2 / runs + start_sd**2))
    return 1 - stats.NormalDist().cdf(Z_ALARM - math.log1p(EFFECT) / sd)


def fewest(power: Callable[[int], float]) -> int | None:
    """The fewest runs with the power asked for; None where ``MANY`` are not enough."""
    return next((runs for runs in range(1, MANY + 1) if power(runs) >= POWER), None)


def _ours(
    work: WorkNoise, noise: Recorded, judged_with: Noise, draws: int, between: float, warm_up: float
) -> Cost | None:
    """As few windows as the package's own bound needs."""
    generator = np.random.default_rng(work.windows)

    def called(runs: int, effect: float = EFFECT) -> float:
        return share_called(work, noise.start_sd, judged_with, runs, effect, draws, generator) if runs > 1 else 0.0

    runs = fewest(called)
    if runs is None:
        return None
    metering = 2 * (runs * (work.window_seconds + between) + warm_up)
    return _cost(work, runs, work.window_seconds, metering, called(runs), false_alarms=called(runs, 0.0))


def share_called(
    work: WorkNoise,
    start_sd: float,
    judged_with: Noise,
    runs: int,
    effect: float,
    draws: int,
    generator: np.random.Generator,
) -> float:
    """Share of comparisons for which the package's lower bound of the change lies above none."""
    shape = (draws, runs)
    starts = generator.normal(0, start_sd * math.sqrt(2), (draws, 1))
    windows = generator.normal(0, work.window_sd, shape) - generator.normal(0, work.window_sd, shape)
    ratios = ((1 + effect) * np.exp(starts + windows)).tolist()
    called = 0
    for of_draw in ratios:
        pairs = [(ratio, 1.0) for ratio in of_draw]
        called += statistics.ratio([pairs], shifted=2, noise=judged_with, window=judged_with.window).low > 0
    return called / draws


def _best_windows(
    work: WorkNoise, start_sd: float, *, scatter: float, between: float, warm_up: float
) -> Cost | None:
    """The number and length of windows that take a meter the least time."""
    costs = []
    for stretch in STRETCHES:
        seconds = stretch * work.window_seconds
        power = partial(power_of, run_sd=_run_sd(work, seconds, scatter), start_sd=start_sd)
        if runs := fewest(power):
            costs.append(_cost(work, runs, seconds, 2 * (runs * (seconds + between) + warm_up), power(runs)))
    return min(costs, key=lambda cost: cost.total, default=None)


def _paper(
    work: WorkNoise, start_sd: float, scatter: float, choose: Callable[[Callable[[int], float]], int | None]
) -> Cost | None:
    seconds = math.ceil(SAMPLES / work.batch_size) * work.batch_seconds
    run_sd = _run_sd(work, seconds, scatter)
    runs = choose(lambda runs: power_of(runs, run_sd, start_sd))
    if runs is None:
        return None
    return _cost(work, runs, seconds, 2 * runs * seconds, power_of(runs, run_sd, start_sd))


def _run_sd(work: WorkNoise, seconds: float, scatter: float) -> float:
    """Relative noise of a reading: that of windows, averaged over its length, and that of the meter."""
    return math.sqrt(work.window_sd**2 * work.window_seconds / seconds + (scatter / seconds) ** 2)


def _cost(
    work: WorkNoise,
    runs: int,
    run_seconds: float,
    metering: float,
    power: float,
    *,
    false_alarms: float = statistics.ALPHA,
) -> Cost:
    return Cost(
        runs=runs,
        run_seconds=run_seconds,
        metering=metering,
        total=metering + 2 * work.start_seconds,
        power=power,
        false_alarms=false_alarms,
    )


def text_lines(report: Report, *, style: str = "simple") -> Iterator[str]:
    """A row per work, and how much shorter ours is than the paper's protocol."""
    methods = list(report.works[0].costs)
    rows = []
    for work in sorted(report.works, key=lambda each: (each.batch_size, each.window_sd)):
        rows.append([work.work, f"{work.window_sd:.2%}", *(_cell(work.costs[method]) for method in methods)])
    headers = ["work", "window sd", *methods]
    yield "GPU-seconds without engine starts, and runs a side x seconds"
    yield ""
    yield from tabulate(rows, headers, tablefmt=style, disable_numparse=True).splitlines()
    yield ""
    totals = []
    for name in methods[1:]:
        both = [(ours, cost) for work in report.works if (ours := work.costs[OURS]) and (cost := work.costs[name])]
        metering = sum(cost.metering for _, cost in both) / sum(ours.metering for ours, _ in both)
        total = sum(cost.total for _, cost in both) / sum(ours.total for ours, _ in both)
        shorter = sum(cost.metering >= 5 * ours.metering for ours, cost in both)
        totals.append(
            [
                name,
                f"{metering:.1f}",
                f"{total:.1f}",
                f"{shorter} of {len(report.works)}",
                f"{min(cost.power for _, cost in both):.0%}",
            ]
        )
    headers = ["", "times ours, all works", "with engine starts", "works with 5 times ours or more", "least power"]
    yield from tabulate(totals, headers, tablefmt=style, disable_numparse=True).splitlines()
    yield ""
    alarms = [cost.false_alarms for work in report.works if (cost := work.costs[OURS])]
    yield f"False alarms of ours: {stats.fmean(alarms):.1%} on average, {max(alarms):.1%} for the worst work"
    lost = ", ".join(f"{meter} {seconds * 1000:.0f} ms" for meter, seconds in report.scatter_seconds.items())
    yield (
        f"{report.when}: between our windows {report.between_windows:.2f} s, warming up and the like "
        f"{report.warm_up:.1f} s a side; what a window loses scatters by (sd) {lost}"
    )


def _cell(cost: Cost | None) -> str:
    return f"{cost.metering:.0f} ({cost.runs} x {cost.run_seconds:.3g})" if cost else "never"


if __name__ == "__main__":
    main()
