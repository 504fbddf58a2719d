"""Online serving saves against static batches where batches are large, and costs where they are small.

Online, a request takes the place of one that has finished, and prompts are worked off beside the decoding of others
(continuous batching); offline, a batch is served to its end before the next. Both are metered with as many requests
at once, online while the batch is full.
"""

import pytest

from energy_tests.scenarios import SERVED_LLAMA, at_batch_sizes
from pytest_llm_energy import Arms, Online, Scenario, costs, saves
from pytest_llm_energy.energy_meter import EnergyMeter


def served(scenario: Scenario) -> Arms:
    return Arms(online=scenario.replace(online=Online()), offline=scenario)


@pytest.mark.energy_cases(
    "arms",
    cpu="the paper's 5 % are less than what joules estimated on a CPU scatter by",
    gpu=at_batch_sizes(lambda n: served(SERVED_LLAMA).at(batch_size=n), usual=(128,)),
)
def test_online_serving_saves_at_large_batches(energy_meter: EnergyMeter, arms: Arms) -> None:
    result = energy_meter.compare(arms)
    if arms.batch_size == 1:
        energy_meter.check(result, costs, published="costs-at-small-batch")
    else:
        energy_meter.check(result, saves, published="saves-at-large-batch")
