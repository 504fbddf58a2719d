"""A serving engine uses less energy than a plain loop over the same model, request for request."""

import pytest

from energy_tests.scenarios import LLAMA, NOISY, TINY, at_batch_sizes
from pytest_llm_energy import Arms, Scenario, saves
from pytest_llm_energy.energy_meter import EnergyMeter
from pytest_llm_energy.errors import OutOfMemoryError
from pytest_llm_energy.hardware.catalogue import catalogue
from pytest_llm_energy.serving.memory import most_requests


def served(plain: Scenario) -> Arms:
    return Arms(vllm=plain.replace(engine="vllm"), transformers=plain)


@pytest.mark.energy_cases(
    "arms",
    cpu=[served(TINY).at(batch_size=n) for n in (1, 8)],
    gpu=at_batch_sizes(lambda n: served(LLAMA).at(batch_size=n), usual=(1, 32), most=256),
)
def test_vllm_saves_against_transformers(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(energy_meter.compare(arms), saves.bearing(NOISY), published="saves-against-transformers")


LONG_PROMPTS = LLAMA.replace(input_tokens=2048, output_tokens=8)
"""A loop holds what a whole batch of prompts comes to in a layer, nearly as much again as their keys and values."""


def crowded(memory_gib: float) -> list[Arms]:
    """The largest batch that vLLM takes, where a plain loop needs more for it than the device has."""
    size = min(1024, most_requests(LONG_PROMPTS.replace(engine="vllm"), memory_gib))
    too_many = size > most_requests(LONG_PROMPTS, memory_gib, share=1)
    return [served(LONG_PROMPTS).at(batch_size=size).named("long-prompts")] if size and too_many else []


@pytest.mark.full
@pytest.mark.energy_cases(
    "arms",
    cpu="a host pages to its disk what exceeds its memory, and refuses nothing",
    **{key: crowded(spec.memory_gib) for key, spec in catalogue().items() if spec.memory_gib},
)
def test_vllm_serves_batches_that_transformers_has_no_memory_for(energy_meter: EnergyMeter, arms: Arms) -> None:
    with pytest.raises(OutOfMemoryError):
        energy_meter.measure(arms["transformers"])
    energy_meter.check(energy_meter.measure(arms["vllm"]))
