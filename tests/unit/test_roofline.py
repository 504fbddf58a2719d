"""Batches that nobody recorded: their estimates, beside what recorded ones took."""

import statistics

import msgspec
import pytest

from docs.journals import BASELINES
from pytest_llm_energy import Scenario
from pytest_llm_energy.hardware.catalogue import GpuSpec, gpu_spec
from pytest_llm_energy.planning.durations import recorded_batches
from pytest_llm_energy.planning.roofline import batch_seconds
from pytest_llm_energy.serving.models import model_named
from pytest_llm_energy.serving.ways import Decoding
from pytest_llm_energy.verdicts.baselines import read_baseline

H200 = gpu_spec("h200")
SHAPE = ("model", "input_tokens", "output_tokens", "batch_size", "engine", "tensor_parallel_size")
KNOWN = {*SHAPE, "enforce_eager", "torch_compile", "weights", "dtype", "decoding", "seed"}
LLAMA = Scenario(model="Llama-3.1-8B", input_tokens=512, output_tokens=64, engine="vllm")


def estimate(scenario: Scenario, gpu: GpuSpec = H200) -> float:
    seconds = batch_seconds(scenario, gpu)
    assert seconds is not None
    return seconds


def recorded() -> dict[Scenario, list[float]]:
    """Seconds of batches of the committed baselines, of scenarios that are told by a shape."""
    found: dict[Scenario, list[float]] = {}
    for path in sorted((BASELINES / "h200").glob("*.json")):
        baseline = read_baseline(BASELINES, "h200", path.stem)
        assert baseline is not None
        for case in baseline.cases:
            for identity, seconds in recorded_batches(baseline, case):
                if seconds and identity.keys() <= KNOWN:
                    ways = {name: identity.get(name, False) for name in ("enforce_eager", "torch_compile")}
                    ways["decoding"] = msgspec.convert(identity["decoding"], type=Decoding)
                    scenario = Scenario(**{name: identity[name] for name in SHAPE}, **ways)
                    found.setdefault(scenario, []).append(seconds)
    return found


def test_estimates_are_near_what_recorded_batches_took() -> None:
    ratios = {
        (scenario.engine, str(scenario)): estimate(scenario) / statistics.median(seconds)
        for scenario, seconds in recorded().items()
    }
    assert len(ratios) > 70
    assert {scenario: ratio for scenario, ratio in ratios.items() if not 0.45 < ratio < 1.8} == {}
    assert statistics.median(ratios.values()) == pytest.approx(1.0, rel=0.1)


def test_a_gpu_of_half_the_rates_takes_twice_as_long_where_the_host_does_not_decide() -> None:
    assert estimate(LLAMA.replace(batch_size=64), gpu_spec("a100")) > 2 * estimate(LLAMA.replace(batch_size=64))
    eager = LLAMA.replace(engine="transformers")
    assert estimate(eager, gpu_spec("h100")) == pytest.approx(estimate(eager))


def test_several_devices_share_the_work() -> None:
    large = LLAMA.replace(batch_size=256, input_tokens=2048)
    assert estimate(large.replace(tensor_parallel_size=4)) == pytest.approx(estimate(large) / 4)


def test_of_experts_those_that_a_batch_is_routed_to_count() -> None:
    mixture = LLAMA.replace(model="OLMoE-1B-7B", input_tokens=8, output_tokens=256)
    assert estimate(mixture.replace(batch_size=32)) > 2 * estimate(mixture)


def test_what_is_too_little_known_has_no_estimate() -> None:
    unknown = GpuSpec(key="new", family="new", name="New", nvml_names=())
    assert batch_seconds(LLAMA, unknown) is None
    own = msgspec.structs.replace(model_named("Llama-3.1-8B"), config={"num_key_value_heads": None})
    assert batch_seconds(LLAMA.replace(model=own), H200) is None
