"""Batching saves: the weights are read once for all requests of a batch, so a token costs less in company.

That is of decoding. A prompt long enough to keep the device busy gains nothing from company: a batch takes energy
in proportion to its size to prefill, and each of its requests as much as alone. This is what it comes to where
batching does not save that, as the paper says, the intercepts of its lines differ as the batch sizes do (Fig. 1).
"""

import pytest

from energy_tests.scenarios import NOISY, SERVED_LLAMA, SMALL_TALK, at_batch_sizes
from pytest_llm_energy import Arms, Scenario, differs, saves
from pytest_llm_energy.energy_meter import EnergyMeter


def batched(alone: Scenario, size: int) -> Arms:
    return Arms(batched=alone.replace(batch_size=size), alone=alone).named(str(size))


@pytest.mark.energy_cases(
    "arms",
    cpu=[batched(SMALL_TALK, n) for n in (2, 4, 8, 16)],
    gpu=at_batch_sizes(lambda n: batched(SERVED_LLAMA, n), usual=(64,), least=2),
)
def test_energy_per_token_falls_as_the_batch_grows(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(
        energy_meter.compare(arms), saves.bearing(NOISY), published="energy-per-token-falls-with-batch"
    )


def prefilled(alone: Scenario, size: int, *, input_tokens: int) -> Arms:
    return batched(alone.replace(input_tokens=input_tokens, output_tokens=1), size)


@pytest.mark.energy_cases(
    "arms",
    cpu=[prefilled(SMALL_TALK, 4, input_tokens=512)],
    gpu=[prefilled(SERVED_LLAMA, 16, input_tokens=2000)],
)
def test_prefill_of_a_batch_costs_in_proportion_to_its_size(energy_meter: EnergyMeter, arms: Arms) -> None:
    in_proportion = differs(at_most=0.25)  # of a request, as for the rates of prefill-floor
    energy_meter.check(energy_meter.compare(arms), in_proportion, published="intercepts-in-proportion-to-batch")
