"""From runs to energies of bins: what requests of which lengths take."""

import math
import statistics
from collections.abc import Mapping, Sequence

from pytest_llm_energy.serving.scenario import SHAPE_FIELDS, Identity
from pytest_llm_energy.verdicts.measured import Run
from pytest_llm_energy.verdicts.noise import Noise
from pytest_llm_energy.workloads.estimate import MeasuredBin

Shape = tuple[int, int, int]
"""Input tokens, output tokens, batch size."""

NOT_BINS = ("online", "feed_forward")
"""Fields of scenarios whose energy is not that of a batch of requests: they are served one by one, or in part."""


def bins_of(by_shape: Mapping[Shape, Sequence[Run]], *, noise: Noise) -> tuple[MeasuredBin, ...]:
    """Energies of bins from runs by shape; how windows scatter is pooled over the shapes, where they tell.

    Each shape counts alike there: those that scatter most may have been metered more often.
    """
    logs = {shape: [math.log(run.joules_per_request) for run in runs] for shape, runs in by_shape.items()}
    variances = [statistics.variance(each) for each in logs.values() if len(each) > 1]
    window_sd = math.sqrt(statistics.fmean(variances)) if variances else noise.window.sd
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


def serves_batches(identity: Identity) -> bool:
    """Whether a scenario's energy is that of a batch of requests."""
    return identity.keys().isdisjoint(NOT_BINS)


def but_for_shape(identity: Identity) -> Identity:
    """How it is served, whatever its lengths and batch size."""
    return {name: value for name, value in identity.items() if name not in SHAPE_FIELDS}


def shape_of(identity: Identity) -> Shape:
    """How much a scenario serves: input tokens, output tokens, batch size."""
    return identity["input_tokens"], identity["output_tokens"], identity["batch_size"]
