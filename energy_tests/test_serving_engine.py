"""A serving engine uses less energy than a plain loop over the same model, request for request."""

import pytest

from energy_tests.scenarios import LLAMA, NOISY, TINY, at_batch_sizes
from pytest_llm_energy import Arms, Scenario, saves
from pytest_llm_energy.energy_meter import EnergyMeter


def served(plain: Scenario) -> Arms:
    return Arms(vllm=plain.replace(engine="vllm"), transformers=plain)


@pytest.mark.energy_cases(
    "arms",
    cpu=[served(TINY).at(batch_size=n) for n in (1, 8)],
    gpu=at_batch_sizes(lambda n: served(LLAMA).at(batch_size=n), usual=(1, 32), most=256),
)
def test_vllm_saves_against_transformers(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(energy_meter.compare(arms), saves.bearing(NOISY), published="saves-against-transformers")
