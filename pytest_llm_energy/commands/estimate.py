"""The command ``llm-energy estimate``: what the requests of a trace cost, on each stack that was measured."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_llm_energy.commands.bins import add_trace_options, trace_of
from pytest_llm_energy.commands.progress import clear, print_lines, say
from pytest_llm_energy.errors import EngineError, ScenarioError, UsageError
from pytest_llm_energy.hardware.catalogue import gpu_spec
from pytest_llm_energy.options import intensity, price, pue
from pytest_llm_energy.reporting.carbon import CarbonIntensity, carbon_intensity
from pytest_llm_energy.reporting.workloads import Costed, estimate_lines, workload_lines
from pytest_llm_energy.serving.flops import request_flops
from pytest_llm_energy.serving.models import model_named
from pytest_llm_energy.verdicts.configurations import Configuration, configurations
from pytest_llm_energy.verdicts.journal import Journal, read_journal
from pytest_llm_energy.verdicts.noise import Noise, read_gpu_baselines
from pytest_llm_energy.workloads.bins import Histogram
from pytest_llm_energy.workloads.estimate import estimate
from pytest_llm_energy.workloads.ideal import ideal_joules

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_commands(commands: "Subparsers") -> None:
    """Add the subcommand."""
    parser = commands.add_parser("estimate", help="say what the requests of a trace cost, by a journal")
    add_trace_options(parser)
    parser.add_argument(
        "--journal", type=Path, action="append", required=True, metavar="FILE", help="what was measured; repeatable"
    )
    parser.add_argument(
        "--baselines",
        type=Path,
        default=Path("baselines"),
        metavar="DIR",
        help="folder of the baselines that tell how levels scatter (default: baselines)",
    )
    parser.add_argument("--gpu", metavar="KEY", help="on this GPU model (default: the one that was measured)")
    parser.add_argument("--exact", action="store_true", help="refuse bins that were not measured in full batches")
    parser.add_argument("--price", type=price, metavar="PER_KWH", help="add what the energy costs")
    parser.add_argument("--country", metavar="ISO3", help="add grams of CO2e, by this country's electricity")
    parser.add_argument(
        "--intensity", type=intensity, metavar="G_PER_KWH", help="add grams of CO2e, by this intensity"
    )
    parser.add_argument("--pue", type=pue, default=1.0, help="energy of the building per energy of the devices")
    parser.add_argument(
        "--ideal-python",
        type=shlex.split,
        default=[sys.executable],
        metavar="COMMAND",
        help="a Python with torch and transformers, which counts operations (default: this one)",
    )
    parser.set_defaults(run=_estimate)


def _estimate(arguments: argparse.Namespace) -> None:
    carbon = _carbon(arguments)
    histogram = trace_of(arguments).histogram
    journals = [read_journal(path) for path in arguments.journal]
    measured = [c for c in configurations(journals, noises=_noises(journals, arguments.baselines)) if c.bins]
    gpu = _gpu(arguments.gpu, measured)
    rows: list[Costed] = []
    notes: list[str] = []
    ideal = Ideal(histogram, gpu, python=arguments.ideal_python)
    for each in (c for c in measured if c.gpu == gpu):
        try:
            found = estimate(histogram, each.bins, shared_sd=each.shared_sd, exact=arguments.exact)
        except UsageError as error:
            notes.append(f"{each.name}: {error}")
        else:
            rows.append(Costed(name=each.name, estimate=found, ideal_joules=ideal.joules(each.model)))
    clear()
    if not rows:
        raise UsageError("\n".join(notes))
    print_lines([*workload_lines(histogram), ""])
    print_lines(estimate_lines(rows, carbon=carbon, price_per_kwh=arguments.price))
    print_lines([*(f"left out: {note}" for note in notes), *ideal.notes])


def _noises(journals: Sequence[Journal], baselines: Path) -> dict[str, Noise]:
    """How levels scatter on the GPU models of journals."""
    return {
        opened.gpu: read_gpu_baselines(baselines, opened.gpu).noise(
            method=opened.method, simulated=opened.simulated
        )
        for opened in (journal.opened for journal in journals)
    }


def _gpu(wanted: str | None, measured: Sequence[Configuration]) -> str:
    """The GPU model to estimate for.

    Raises:
        UsageError: nothing was measured on it, or several were measured and none is named.
    """
    there = list(dict.fromkeys(c.gpu for c in measured))
    if wanted is not None and wanted not in there:
        gpu_spec(wanted)
        raise UsageError(f"nothing was measured on {wanted}; measured: {', '.join(there) or 'nothing'}")
    if not there:
        raise UsageError("the journal holds no static batches, which an estimate is made from")
    if wanted is None and len(there) > 1:
        raise UsageError(f"--gpu KEY says which of these is meant: {', '.join(there)}")
    return wanted or there[0]


class Ideal:
    """What the arithmetic of a workload alone would take on a GPU model, by model; where nothing tells, a note."""

    def __init__(self, histogram: Histogram, gpu: str, *, python: Sequence[str]) -> None:
        self._histogram = histogram
        self._gpu = gpu
        self._python = python
        self._joules: dict[str, float | None] = {}
        self.notes: list[str] = []

    def joules(self, model: str) -> float | None:
        """The ideal energy with a model, None where it cannot be told."""
        if model not in self._joules:
            self._joules[model] = self._counted(model)
        return self._joules[model]

    def _counted(self, model: str) -> float | None:
        say(f"counting the operations of {model}")
        lengths = [(i, o) for i, o, _ in self._histogram.counts]
        try:
            flops = request_flops(
                model_named(model), lengths, python=self._python, named_by="--ideal-python COMMAND"
            )
            return ideal_joules(self._histogram, {key: of.total for key, of in flops.items()}, gpu_spec(self._gpu))
        except (EngineError, ScenarioError, UsageError) as error:
            self.notes.append(f"no ideal for {model}: {error}")
            return None


def _carbon(arguments: argparse.Namespace) -> CarbonIntensity | None:
    """What the arguments say about grams.

    Raises:
        UsageError: they contradict each other, or say nothing to multiply with.
    """
    found = carbon_intensity(
        arguments.country, arguments.intensity, pue=arguments.pue, options="--country and --intensity"
    )
    if found is None and arguments.pue != 1:
        raise UsageError("--pue enters grams of CO2e alone: give --country or --intensity too")
    return found
