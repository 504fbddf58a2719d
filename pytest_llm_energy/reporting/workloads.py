"""What workloads cost, as text."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tabulate import tabulate

from pytest_llm_energy.reporting import words
from pytest_llm_energy.reporting.carbon import JOULES_PER_KWH, CarbonIntensity
from pytest_llm_energy.verdicts.statistics import Interval
from pytest_llm_energy.workloads.bins import Histogram
from pytest_llm_energy.workloads.estimate import COVERAGE_Z, Estimate
from pytest_llm_energy.workloads.ideal import above_ideal


@dataclass(frozen=True, kw_only=True)
class Costed:
    """A row of the table: a way of serving and what the workload costs with it.

    Attributes:
        name: of the way of serving.
        estimate: its energy.
        ideal_joules: what the arithmetic alone would take, None where nobody counted.
    """

    name: str
    estimate: Estimate
    ideal_joules: float | None = None


def workload_lines(histogram: Histogram) -> Iterator[str]:
    """How many requests there are, and what became of them."""
    says = f"{histogram.name}: {histogram.rows:,} requests, {histogram.requests:,} in {len(histogram.counts)} bins"
    excluded = ", ".join(f"{count:,} {reason}" for reason, count in histogram.excluded.items())
    yield says + (f"; left out: {excluded}" if excluded else "")
    if histogram.source:
        yield f"source: {histogram.source}" + (f" ({histogram.license})" if histogram.license else "")


def estimate_lines(
    rows: Sequence[Costed], *, carbon: CarbonIntensity | None = None, price_per_kwh: float | None = None
) -> Iterator[str]:
    """The table, the hungriest way of serving first, and what its intervals hold."""
    ordered = sorted(rows, key=lambda row: -row.estimate.joules)
    first = ordered[0].estimate
    table = [
        {
            "served by": row.name,
            "bins": _bins(row.estimate),
            "kWh": _with_bounds(row.estimate),
            "J/request": words.joules(row.estimate.joules_per_request),
            **({"CO2e": words.grams(carbon.grams(row.estimate.joules))} if carbon else {}),
            **({"cost": f"{row.estimate.joules / JOULES_PER_KWH * price_per_kwh:,.2f}"} if price_per_kwh else {}),
            **({"above the ideal": _above(row)} if any(each.ideal_joules for each in rows) else {}),
            **({"against the first": _against(row.estimate, first)} if len(rows) > 1 else {}),
        }
        for row in ordered
    ]
    yield tabulate(table, headers="keys", disable_numparse=True)
    for row in ordered:
        if (fit := row.estimate.fit) is not None:
            yield f"{row.name}:"
            yield (
                f"  {row.estimate.filled_share:.0%} of the energy is from a model of prefill and decode, off by "
                f"{fit.relative_error:.1%} (at worst {fit.worst_error:+.1%}) on bins left out of it"
            )
            if row.estimate.beyond_share:
                beyond = f"{row.estimate.beyond_share:.0%}"
                yield f"  {beyond} is of bins longer than any measured: how far off it is there, nothing tells"
    if carbon:
        yield carbon.says
    yield "Static full batches on the boards that were measured; others differ, and so does serving that waits."


def _bins(estimate: Estimate) -> str:
    filled = f" + {estimate.filled_bins} filled in" if estimate.filled_bins else ""
    return f"{estimate.measured_bins} measured{filled}"


def _with_bounds(estimate: Estimate) -> str:
    value, low, high = (words.significant(x / JOULES_PER_KWH) for x in (estimate.joules, *estimate.bounds))
    return f"{value} [{low}, {high}]"


def _above(row: Costed) -> str:
    return words.percent(above_ideal(row.estimate.joules, row.ideal_joules)) if row.ideal_joules else ""


def _against(estimate: Estimate, first: Estimate) -> str:
    """Relative difference with bounds; the two were measured apart."""
    if estimate is first:
        return ""
    ratio = estimate.joules / first.joules
    half = COVERAGE_Z * math.hypot(estimate.relative_sd, first.relative_sd)
    return words.change(Interval(ratio - 1, ratio / math.exp(half) - 1, ratio * math.exp(half) - 1))
