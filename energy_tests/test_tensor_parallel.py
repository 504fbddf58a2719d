"""Splitting a model over devices makes a batch faster and costs energy: more devices, and talk between them."""

import pytest

from energy_tests.scenarios import SERVED_LLAMA
from pytest_llm_energy import Arms, costs
from pytest_llm_energy.fixtures import EnergyMeter


def split(degree: int) -> Arms:
    return Arms(split=SERVED_LLAMA.replace(tensor_parallel_size=degree), whole=SERVED_LLAMA)


@pytest.mark.tp(degree=2)
@pytest.mark.energy_cases("arms", gpu=[split(2).at(batch_size=n) for n in (1, 32)])
def test_two_devices_cost_more_than_one(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(energy_meter.compare(arms), costs, published="energy-rises-at-tp2")


@pytest.mark.tp(degree=4)
@pytest.mark.energy_cases("arms", gpu=[split(4).at(batch_size=n) for n in (1, 32)])
def test_four_devices_cost_more_than_one(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(energy_meter.compare(arms), costs, published="energy-rises-at-tp4")
