"""A mixture of experts costs more than a dense model of the same active parameters.

OLMoE-1B-7B activates as many parameters for a token as OLMo-1B has, but the tokens of a batch choose different
experts, so nearly all 7B are read: the larger the batch, the more. A dense model of 7B takes more than either.

Part of it is the kernel that computes the chosen experts, slower than the dense product of as many parameters; that
of choosing them is small.
"""

import pytest

from energy_tests.scenarios import NOISY, at_batch_sizes
from pytest_llm_energy import Arms, FeedForward, Scenario, Series, costs, differs, rises, saves, slower
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
    gpu=at_batch_sizes(lambda n: FULL_SIZE.at(batch_size=n), usual=(8,)),
)
def test_experts_cost_more_than_a_dense_model(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(energy_meter.compare(arms), costs.bearing(NOISY), published="costs-more-than-dense")


def small_and_large(arms: Arms) -> Series:
    return Series.of([arm.replace(batch_size=n) for n in (1, 32) for arm in arms.values()]).named("1-32")


@pytest.mark.energy_cases("both", cpu=[small_and_large(TINY)], gpu=[small_and_large(FULL_SIZE)])
def test_experts_cost_more_at_larger_batches(energy_meter: EnergyMeter, both: Series) -> None:
    dense = both[-1].preset.name
    beside_dense = rises("batch_size", between="model", control=dense, what="what a mixture takes beside dense")
    energy_meter.check(energy_meter.measure(*both), beside_dense, published="overhead-grows-with-batch")


BESIDE_7B = Arms(**FULL_SIZE, dense_7b=FULL_SIZE["dense"].replace(model="OLMo-7B"))


@pytest.mark.energy_cases(
    "arms",
    cpu="7 billion parameters take two cores too long",
    gpu=at_batch_sizes(lambda n: BESIDE_7B.at(batch_size=n), usual=()),
)
def test_both_take_less_than_a_dense_model_of_seven_billion(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(energy_meter.compare(arms), saves, published="below-the-dense-7b")


EXPERTS = Scenario(
    model="OLMoE-1B-7B", engine="vllm", input_tokens=1, output_tokens=64, feed_forward=FeedForward(routing=False)
)
KERNELS = Arms(experts=EXPERTS, dense=EXPERTS.replace(model="OLMo-1B"))
"""The feed-forward layers alone: 8 of 64 experts of width 1,024, and one layer of width 8,192."""

GPU_KERNELS = "vLLM's fused kernels for experts are GPU kernels"

PAPERS_BATCHES = {1: "kernel-slower-at-batch-1", 8: "kernel-slower-at-batch-8"}


@pytest.mark.energy_cases(
    "arms", cpu=GPU_KERNELS, gpu=at_batch_sizes(lambda n: KERNELS.at(batch_size=n), usual=PAPERS_BATCHES)
)
def test_the_fused_expert_kernel_is_slower_than_a_dense_product(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(energy_meter.compare(arms), slower, published=PAPERS_BATCHES.get(arms.batch_size, ()))


ROUTING = Arms(routed=EXPERTS.replace(feed_forward=FeedForward(routing=True)), experts=EXPERTS)


@pytest.mark.energy_cases(
    "arms", cpu=GPU_KERNELS, gpu=at_batch_sizes(lambda n: ROUTING.at(batch_size=n), usual=(8,))
)
def test_routing_costs_little(energy_meter: EnergyMeter, arms: Arms) -> None:
    kernel_at_batch_1 = 0.197
    energy_meter.check(
        energy_meter.compare(arms),
        differs(at_most=kernel_at_batch_1, of="latency"),
        published="routing-costs-little",
    )
