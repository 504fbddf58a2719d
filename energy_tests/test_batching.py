"""Batching saves: the weights are read once for all requests of a batch, so a token costs less in company."""

import pytest

from energy_tests.scenarios import NOISY, SERVED_LLAMA, SMALL_TALK, at_batch_sizes
from pytest_llm_energy import Arms, Scenario, saves
from pytest_llm_energy.energy_meter import EnergyMeter


def batched(alone: Scenario, size: int) -> Arms:
    return Arms(batched=alone.replace(batch_size=size), alone=alone).named(str(size))


@pytest.mark.energy_cases(
    "arms",
    cpu=[batched(SMALL_TALK, n) for n in (2, 4, 8, 16)],
    gpu=at_batch_sizes(lambda n: batched(SERVED_LLAMA, n), usual=(4, 16, 64), least=2),
)
def test_energy_per_token_falls_as_the_batch_grows(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(
        energy_meter.compare(arms), saves.bearing(NOISY), published="energy-per-token-falls-with-batch"
    )
