"""From runs to energies of bins: what requests of which lengths take."""

import math
import statistics
from collections.abc import Mapping, Sequence

from pytest_llm_energy.serving.scenario import Identity
from pytest_llm_energy.verdicts.measured import Run
from pytest_llm_energy.verdicts.statistics import WINDOW_SD
from pytest_llm_energy.workloads.estimate import MeasuredBin

Shape = tuple[int, int, int]
"""Input tokens, output tokens, batch size."""


def bins_of(by_shape: Mapping[Shape, Sequence[Run]]) -> tuple[MeasuredBin, ...]:
    """Energies of bins from runs by shape; how windows scatter is pooled over the shapes."""
    logs = {shape: [math.log(run.joules_per_request) for run in runs] for shape, runs in by_shape.items()}
    freedom = sum(len(each) - 1 for each in logs.values())
    squares = sum((x - statistics.fmean(each)) ** 2 for each in logs.values() for x in each)
    window_sd = math.sqrt(squares / freedom) if freedom else WINDOW_SD
    return tuple(
        MeasuredBin(
            input_tokens=shape[0],
            output_tokens=shape[1],
            batch_size=shape[2],
            joules_per_request=math.exp(statistics.fmean(each)),
            relative_sd=window_sd / math.sqrt(len(each)),
        )
        for shape, each in sorted(logs.items())
    )


def shape_of(identity: Identity) -> Shape:
    """How much a scenario serves: input tokens, output tokens, batch size."""
    return identity["input_tokens"], identity["output_tokens"], identity["batch_size"]
