"""CUDA graphs save: a decode step is launched at once, not kernel by kernel, most of all for small batches."""

import pytest

from energy_tests.scenarios import SERVED_LLAMA
from pytest_llm_energy import Arms, saves
from pytest_llm_energy.fixtures import EnergyMeter

ARMS = Arms(graphs=SERVED_LLAMA, eager=SERVED_LLAMA.replace(enforce_eager=True))


@pytest.mark.energy_cases("arms", gpu=[ARMS.at(batch_size=n) for n in (1, 8, 32, 128)])
def test_graphs_save_energy(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(energy_meter.compare(arms), saves, published=["saves-on-a100", "saves-on-a6000"])
