"""How fast the processors of a busy host were, and how much of what scatters there that is."""

import csv
import gzip
import math
import statistics
from bisect import bisect
from collections.abc import Callable, Iterable
from typing import NamedTuple

from tabulate import tabulate

from docs.journals import MEASUREMENTS, fenced, read
from pytest_llm_energy.verdicts.measured import Run

LEAST_WINDOWS = 24
"""Of fewer windows a correlation says little."""


class Look(NamedTuple):
    """Half a second of a host.

    Attributes:
        at: its end, on the clock of the journal.
        engine_core: where the thread that ran most was last, None when none ran.
        microseconds: what a fixed loop took on each core, where it was run there.
    """

    at: float
    engine_core: int | None
    microseconds: dict[int, int]


def looks(name: str) -> list[Look]:
    """What was seen beside a journal, in order."""
    with gzip.open(MEASUREMENTS / f"{name}-processors.tsv.gz", "rt") as file:
        _, *lines = csv.reader(file, delimiter="\t")
    return [
        Look(
            at=float(at),
            engine_core=int(core) if core else None,
            microseconds={number: int(took) for number, took in enumerate(each) if took},
        )
        for at, core, *each in lines
    ]


def processors(name: str) -> str:
    """How long a fixed loop took on the cores of a host, and how windows of the journal follow that."""
    seen = looks(name)
    moments = [look.at for look in seen]

    def core(run: Run) -> float | None:
        of_window = seen[bisect(moments, run.served.started) : bisect(moments, run.served.ended) + 1]
        found = [
            look.microseconds[look.engine_core]
            for look in of_window
            if look.engine_core is not None and look.engine_core in look.microseconds
        ]
        return statistics.harmonic_mean(found) if found else None

    return fenced(
        [
            f"a fixed loop on one of {len(seen[0].microseconds)} cores, processor time: "
            + _range(one for look in seen for one in look.microseconds.values()),
            "",
            _followed([name], core),
        ]
    )


def probes(*names: str) -> str:
    """How windows of journals follow what was probed beside each."""

    def loop(run: Run) -> float | None:
        return run.host.loop_seconds if run.host else None

    runs = (ran.run for name in names for ran in read(name).counted)
    took = [seconds * 1e6 for run in runs if (seconds := loop(run))]
    return fenced([f"the loop beside {len(took)} windows: {_range(took)}", "", _followed(names, loop)])


def _range(microseconds: Iterable[float]) -> str:
    took = sorted(microseconds)
    low, median, high = (took[len(took) * share // 100] for share in (10, 50, 90))
    return f"{median:.0f} us at the median, 10 % below {low:.0f} us, 10 % above {high:.0f} us"


def _followed(names: Iterable[str], loop_of: Callable[[Run], float | None]) -> str:
    """How joules per token of each arm's windows follow how long a loop took, where that was seen in enough."""
    rows = []
    for name in names:
        journal = read(name)
        for check in journal.measurements:
            for arm in journal.measured(check).arms:
                windows = [
                    (math.log(loop), math.log(run.joules_per_unit))
                    for run in (*arm.runs, *arm.against)
                    if (loop := loop_of(run))
                ]
                if len(windows) < LEAST_WINDOWS:
                    continue
                loops, joules = zip(*windows, strict=True)
                line = statistics.linear_regression(loops, joules)
                beside = [j - line.slope * loop for loop, j in windows]
                rows.append(
                    [
                        check.key.finding,
                        check.key.case.partition("[")[0].replace("_", " "),
                        arm.name,
                        len(windows),
                        f"{statistics.stdev(joules):.1%}",
                        f"{statistics.correlation(loops, joules):.2f}",
                        f"{statistics.stdev(beside):.1%}",
                    ]
                )
    headers = ["finding", "case", "arm", "windows", "J/token scatters", "correlation", "beside a line"]
    return str(tabulate(rows, headers, disable_numparse=True))
