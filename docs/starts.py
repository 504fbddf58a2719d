"""How much longer one engine start than another takes for what waits for its host, where their stacks are alike."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tabulate import tabulate

from docs.journals import fenced, read
from pytest_llm_energy.verdicts.covariance import through
from pytest_llm_energy.verdicts.measured import Arm, Run
from pytest_llm_energy.verdicts.scatter import Group, Spread, likeliest
from pytest_llm_energy.verdicts.statistics import TELLING

LEAST_PAIRS = 6
"""Fewer pairs of windows say little of the two starts that they are of."""

WAITS = 0.05
"""What waits for its host has pairs of windows whose seconds per token scatter by so much at least."""

STEPS = 400
"""Standard deviations that are tried, up to a tenth."""

DROP = 1.92
"""By how much the log likelihood may fall within 95 % of certainty."""


class Found(NamedTuple):
    """How much longer the first of two engine starts took for the same work of the host.

    Attributes:
        value: as a log.
        variance: by windows.
        pairs: windows of each behind it.
        probed: whether at equal speed of the processors, and of the part of the time that follows it.
    """

    value: float
    variance: float
    pairs: int
    probed: bool


def host_starts(*names: str) -> str:
    """By how much pairs of engine starts differ in the time of work that waits for its host, and how surely."""
    found = list(_starts(names))
    groups = [Group(Spread(one.value**2, 1), Spread(one.variance, one.pairs - 1)) for _, one in found]
    sd = math.sqrt(likeliest(groups))
    low, high = _range([one for _, one in found])
    weights = [1 / (one.variance + sd**2) for _, one in found]
    longer = statistics.fmean([one.value for _, one in found], weights)
    plainest = sorted(found, key=lambda each: -abs(each[1].value) / math.sqrt(each[1].variance))[:5]
    rows = [
        [
            name,
            one.pairs,
            f"{math.expm1(one.value):+.1%}",
            f"{math.sqrt(one.variance):.1%}",
            "equal host" if one.probed else "as metered",
        ]
        for name, one in plainest
    ]
    return fenced(
        [
            f"{len(found)} pairs of engine starts, alike: one takes longer or shorter than the other by {sd:.1%} "
            f"({low:.1%} to {high:.1%})",
            f"this side's longer or shorter than the other's in the mean: {longer:+.1%} "
            f"(standard error {math.fsum(weights) ** -0.5:.1%})",
            "the plainest of them:",
            "",
            tabulate(rows, ["journal", "windows", "time", "+-", "at"], disable_numparse=True),
        ]
    )


def _starts(names: Sequence[str]) -> Iterator[tuple[str, Found]]:
    """Each pair of engine starts with the first of the journals that have windows of it."""
    of_starts: dict[tuple[str, str], list[Found]] = defaultdict(list)
    first: dict[tuple[str, str], str] = {}
    for name, arm in ((each, arm) for each in names for arm in _arms(each)):
        others = {run.round: run for run in arm.against}
        pairs: dict[tuple[str, str], list[tuple[Run, Run]]] = defaultdict(list)
        for run in arm.runs:
            if run.round in others:
                pairs[run.start, others[run.round].start].append((run, others[run.round]))
        for starts, windows in pairs.items():
            if (one := _found(windows)) is not None:
                of_starts[starts].append(one)
                first.setdefault(starts, name.rpartition("/")[2])
    for starts, found in of_starts.items():
        weights = [1 / one.variance for one in found]
        yield (
            first[starts],
            Found(
                value=statistics.fmean([one.value for one in found], weights),
                variance=1 / math.fsum(weights),
                pairs=sum(one.pairs for one in found),
                probed=all(one.probed for one in found),
            ),
        )


def _arms(name: str) -> Iterator[Arm]:
    journal = read(name)
    for check in journal.measurements:
        yield from journal.measured(check).arms


def _found(windows: list[tuple[Run, Run]]) -> Found | None:
    """None where there are too few of them, or they do not wait for their host."""
    logs = [_seconds(one) - _seconds(other) for one, other in windows]
    if len(logs) < LEAST_PAIRS or statistics.stdev(logs) < WAITS:
        return None
    if len(logs) > TELLING and all(run.host for pair in windows for run in pair):
        lines = through(windows, _seconds, over=_loop, freedom=TELLING - 2)
        if lines is not None:
            follows = statistics.fmean(lines.slopes)
            return Found(
                value=lines.differences[0] / follows,
                variance=lines.beside.variance * lines.share / follows**2,
                pairs=len(logs),
                probed=True,
            )
    return Found(statistics.fmean(logs), statistics.variance(logs) / len(logs), len(logs), probed=False)


def _seconds(run: Run) -> float:
    return math.log(run.seconds_per_unit)


def _loop(run: Run) -> float:
    assert run.host
    return math.log(run.host.loop_seconds)


def _range(found: list[Found]) -> tuple[float, float]:
    """Standard deviations between starts that go with what was found, 95 % sure."""

    def unlikelihood(sd: float) -> float:
        variances = [one.variance + sd**2 for one in found]
        squares = (one.value**2 / variance for one, variance in zip(found, variances, strict=True))
        return (math.fsum(map(math.log, variances)) + math.fsum(squares)) / 2

    tried = [0.1 * step / STEPS for step in range(STEPS + 1)]
    told = [unlikelihood(sd) for sd in tried]
    within = [sd for sd, value in zip(tried, told, strict=True) if value < min(told) + DROP]
    return within[0], within[-1]
