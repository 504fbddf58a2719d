"""A mixture of experts costs more than a dense model of the same active parameters.

OLMoE-1B-7B activates as many parameters for a token as OLMo-1B has, but the tokens of a batch choose different
experts, so nearly all 7B are read: the larger the batch, the more. A dense model of 7B takes more than either.
"""

import pytest

from energy_tests.scenarios import NOISY, at_batch_sizes
from pytest_llm_energy import Arms, Scenario, Series, costs, rises, saves
from pytest_llm_energy.energy_meter import EnergyMeter

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
    gpu=at_batch_sizes(lambda n: FULL_SIZE.at(batch_size=n), usual=(1, 8, 32)),
)
def test_experts_cost_more_than_a_dense_model(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(energy_meter.compare(arms), costs.bearing(NOISY), published="costs-more-than-dense")


SMALL_AND_LARGE = Series.of([arm.replace(batch_size=n) for n in (1, 32) for arm in FULL_SIZE.values()]).named(
    "1-32"
)


@pytest.mark.energy_cases("both", gpu=[SMALL_AND_LARGE])
def test_experts_cost_more_at_larger_batches(energy_meter: EnergyMeter, both: Series) -> None:
    beside_dense = rises("batch_size", between="model", control="OLMo-1B", what="what a mixture takes beside dense")
    energy_meter.check(energy_meter.measure(*both), beside_dense, published="overhead-grows-with-batch")


BESIDE_7B = Arms(**FULL_SIZE, dense_7b=FULL_SIZE["dense"].replace(model="OLMo-7B"))


@pytest.mark.energy_cases("arms", gpu=at_batch_sizes(lambda n: BESIDE_7B.at(batch_size=n), usual=(8,)))
def test_both_take_less_than_a_dense_model_of_seven_billion(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(energy_meter.compare(arms), saves, published="below-the-dense-7b")
