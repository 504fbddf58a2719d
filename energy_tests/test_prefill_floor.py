"""Prefill has a floor: below some input length its energy is constant; above, it grows linearly with the input.

The paper finds the floor at about 128 tokens on an A6000, and the same growth for every batch size. A CPU has
less arithmetic to spare for each byte of weights it reads, so its floor is lower: 8 tokens at least.
"""

import pytest

from energy_tests.scenarios import SERVED_LLAMA, SMALL_TALK, at_batch_sizes
from pytest_llm_energy import Scenario, Series, flat_below, same_rate, slope
from pytest_llm_energy.energy_meter import EnergyMeter

FLOOR = {"cpu": 8}
PAPERS_FLOOR = 128

# One output token: generating it takes the prefill and nothing else.
CPU_PREFILL = SMALL_TALK.replace(output_tokens=1)
GPU_PREFILL = SERVED_LLAMA.replace(output_tokens=1)


@pytest.mark.energy_cases(
    "inputs",
    cpu=[Series.over(CPU_PREFILL, input_tokens=(1, 2, 4, 8))],
    gpu=[
        Series.over(GPU_PREFILL, input_tokens=(16, 32, 64, 128)),
        pytest.param(
            Series.over(GPU_PREFILL, input_tokens=tuple(2**n for n in range(4, 16))).named("to-32k"),
            marks=pytest.mark.full,
        ),
    ],
)
def test_prefill_is_flat_for_short_inputs(energy_meter: EnergyMeter, inputs: Series) -> None:
    floor = FLOOR.get(energy_meter.gpu_model.key, PAPERS_FLOOR)
    energy_meter.check(
        energy_meter.measure(*inputs),
        flat_below("input_tokens", floor),
        published="flat-below-128-tokens",
    )


@pytest.mark.energy_cases(
    "inputs",
    cpu=[Series.over(CPU_PREFILL.replace(batch_size=n), input_tokens=(128, 256, 512)) for n in (1, 2, 4)],
    gpu=at_batch_sizes(
        lambda n: Series.over(GPU_PREFILL.replace(batch_size=n), input_tokens=(500, 1000, 2000)),
        usual=(4,),  # the smallest and the largest are measured below
        most=32,
    ),
)
def test_prefill_grows_linearly_at_every_batch_size(energy_meter: EnergyMeter, inputs: Series) -> None:
    energy_meter.check(
        energy_meter.measure(*inputs),
        slope("input_tokens", exponent=1.0, tolerance=0.4),  # the floor is still in the shortest of them
        published="linear-above-128-tokens",
    )


TOLERANCE = {"cpu": 0.5}
"""On two cores the rates were recorded a fifth apart, by joules that scatter as widely."""


def batches(prefill: Scenario, *, input_tokens: tuple[int, int], sizes: tuple[int, int]) -> Series:
    grid = [prefill.replace(batch_size=n, input_tokens=i) for n in sizes for i in input_tokens]
    return Series.of(grid).named("-".join(map(str, sizes)))


@pytest.mark.energy_cases(
    "both",
    cpu=[batches(CPU_PREFILL, input_tokens=(128, 512), sizes=(1, 4))],
    gpu=[batches(GPU_PREFILL, input_tokens=(500, 2000), sizes=(1, 16))],
)
def test_prefill_grows_at_the_same_rate_for_every_batch_size(energy_meter: EnergyMeter, both: Series) -> None:
    tolerance = TOLERANCE.get(energy_meter.gpu_model.key, 0.25)
    energy_meter.check(
        energy_meter.measure(*both),
        same_rate("input_tokens", across="batch_size", tolerance=tolerance),
        published="same-rate-for-every-batch-size",
    )
