"""A mixture of experts costs more than a dense model of the same active parameters.

OLMoE-1B-7B activates as many parameters for a token as OLMo-1B has, but the tokens of a batch choose different
experts, so nearly all 7B are read.
"""

import pytest

from energy_tests.scenarios import NOISY
from pytest_llm_energy import Arms, Scenario, costs
from pytest_llm_energy.fixtures import EnergyMeter

TINY = Arms(
    mixture=Scenario(model="tiny-olmoe", input_tokens=32, output_tokens=16),
    dense=Scenario(model="tiny-olmo", input_tokens=32, output_tokens=16),
)
FULL_SIZE = Arms(
    mixture=Scenario(model="OLMoE-1B-7B", engine="vllm", input_tokens=512, output_tokens=64),
    dense=Scenario(model="OLMo-1B", engine="vllm", input_tokens=512, output_tokens=64),
)


@pytest.mark.energy_cases(
    "arms",
    cpu=[TINY.at(batch_size=n) for n in (1, 8, 32)],
    gpu=[FULL_SIZE.at(batch_size=n) for n in (1, 8, 32)],
)
def test_experts_cost_more_than_a_dense_model(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(energy_meter.compare(arms), costs.bearing(NOISY), published="costs-more-than-dense")
