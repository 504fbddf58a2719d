"""Ways of serving that journals hold, with what requests of which lengths take in each."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pytest_llm_energy.serving.scenario import Identity
from pytest_llm_energy.verdicts.journal import Journal
from pytest_llm_energy.verdicts.measured import Run, metering_sd
from pytest_llm_energy.verdicts.noise import ASSUMED, Noise
from pytest_llm_energy.verdicts.served_bins import Shape, bins_of, but_for_shape, serves_batches, shape_of
from pytest_llm_energy.workloads.estimate import MeasuredBin

PLAIN = {"weights", "dtype", "seed", "engine", "model"}
"""Fields that a configuration's name tells anyhow, or that change little of its energy."""

UNTOLD = (None, {"strategy": "greedy"})
"""Values that need no telling, beside those that are off and one device."""


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """What was measured of one way of serving: a model on an engine of a stack.

    Attributes:
        name: engine with its version, model, and what else is not the default.
        gpu: key of the GPU model.
        model: name of the model.
        bins: energies by bin and batch size.
        shared_sd: relative standard deviation that all of them have in common.
    """

    name: str
    gpu: str
    model: str
    bins: tuple[MeasuredBin, ...]
    shared_sd: float


def configurations(journals: Sequence[Journal], *, noises: Mapping[str, Noise] = {}) -> list[Configuration]:
    """What journals hold of static batches, a configuration each, in the order in which they were first measured.

    Online serving is left out, and so are layers alone: what they take is not that of a batch of a bin.

    Args:
        journals: what was measured.
        noises: how levels scatter, by GPU model; assumed on others.
    """
    runs: dict[str, dict[Shape, list[Run]]] = {}
    ways: dict[str, tuple[str, Identity, Mapping[str, str]]] = {}
    for journal in journals:
        for gpu, identity, stack, run in _runs(journal):
            rest = but_for_shape(identity)
            key = json.dumps([gpu, rest, stack], sort_keys=True)
            ways.setdefault(key, (gpu, rest, stack))
            runs.setdefault(key, {}).setdefault(shape_of(identity), []).append(run)
    return [
        _configuration(*ways[key], by_shape, noise=noises.get(ways[key][0], ASSUMED))
        for key, by_shape in runs.items()
    ]


def _runs(journal: Journal) -> Iterator[tuple[str, Identity, Mapping[str, str], Run]]:
    """Valid runs with what they served, also those of a case that was cut: each is a bin's energy by itself."""
    for ran in journal.counted:
        if ran.identity is None or not serves_batches(ran.identity):
            continue
        stack = journal.starts[ran.run.start].stack
        yield ran.key.gpu, ran.identity, {k: v for k, v in stack.items() if not k.startswith("env ")}, ran.run


def _configuration(
    gpu: str,
    rest: Identity,
    stack: Mapping[str, str],
    by_shape: Mapping[Shape, Sequence[Run]],
    *,
    noise: Noise,
) -> Configuration:
    runs = [run for each in by_shape.values() for run in each]
    return Configuration(
        name=_name(rest, stack),
        gpu=gpu,
        model=rest["model"] if isinstance(rest["model"], str) else rest["model"]["name"],
        bins=bins_of(by_shape, noise=noise),
        shared_sd=math.hypot(metering_sd(runs), noise.start.sd),
    )


def _name(rest: Identity, stack: Mapping[str, str]) -> str:
    """Such as ``vllm 0.25.1, Llama-3.1-8B, enforce_eager``."""
    engine = rest["engine"]
    version = next((stack[name] for name in (engine, f"{engine}-cpu") if name in stack), "")
    model = rest["model"] if isinstance(rest["model"], str) else rest["model"]["name"]
    parts = [f"{engine} {version}".strip(), model]
    for name, value in sorted(rest.items()):
        if name in PLAIN or value is False or value in UNTOLD or (name, value) == ("tensor_parallel_size", 1):
            continue
        parts.append(name if value is True else f"{name} {_short(value)}")
    arguments = {name.removeprefix("argument "): value for name, value in stack.items() if "argument " in name}
    return ", ".join([*parts, *(f"{name}={value}" for name, value in sorted(arguments.items()))])


def _short(value: object) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name}={_short(each)}" for name, each in value.items())
    return str(value)
