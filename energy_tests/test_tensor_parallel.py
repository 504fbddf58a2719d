"""Splitting a model over devices makes a batch faster and costs energy: more devices, and talk between them.

Each device draws less than one alone does, but there are more of them than they are faster.
"""

from typing import Any

import pytest

from energy_tests.scenarios import SERVED_LLAMA
from pytest_llm_energy import Arms, costs, draws_less, faster
from pytest_llm_energy.energy_meter import EnergyMeter

ONE_PROCESSOR = "there is nothing to split a model over"

SERVED_QWEN = SERVED_LLAMA.replace(model="Qwen1.5-32B")


def split(degree: int) -> list[Any]:
    """Both of the paper's models; a gate runs the smaller one."""
    eight, thirty_two = (
        Arms(split=whole.replace(tensor_parallel_size=degree), whole=whole) for whole in (SERVED_LLAMA, SERVED_QWEN)
    )
    larger = [thirty_two.at(batch_size=n).named(f"32B-{n}") for n in (1, 32)]
    return [
        *(eight.at(batch_size=n) for n in (1, 32)),
        *(pytest.param(arms, marks=pytest.mark.full) for arms in larger),
    ]


@pytest.mark.tp(degree=2)
@pytest.mark.energy_cases("arms", cpu=ONE_PROCESSOR, gpu=split(2))
def test_two_devices_cost_more_than_one(energy_meter: EnergyMeter, arms: Arms) -> None:
    result = energy_meter.compare(arms)
    energy_meter.check(result, costs, published="energy-rises-at-tp2")
    energy_meter.check(result, faster, published="latency-falls-at-tp2")
    energy_meter.check(result, draws_less, published="power-per-device-falls")


@pytest.mark.tp(degree=4)
@pytest.mark.energy_cases("arms", cpu=ONE_PROCESSOR, gpu=split(4))
def test_four_devices_cost_more_than_one(energy_meter: EnergyMeter, arms: Arms) -> None:
    result = energy_meter.compare(arms)
    energy_meter.check(result, costs, published="energy-rises-at-tp4")
    energy_meter.check(result, faster, published="latency-falls-at-tp4")
    energy_meter.check(result, draws_less, published="power-per-device-falls")
