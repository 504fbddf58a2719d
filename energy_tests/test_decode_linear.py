"""Decoding costs the same for every token: its energy grows linearly with the output, whatever the batch.

Prompts are short: the energy of a request holds that of its prefill too, which does not grow with the output.
"""

import pytest

from energy_tests.scenarios import SERVED_LLAMA, SMALL_TALK, at_batch_sizes
from pytest_llm_energy import Series, slope
from pytest_llm_energy.energy_meter import EnergyMeter

SHORT_PROMPTS = SERVED_LLAMA.replace(input_tokens=16)


@pytest.mark.energy_cases(
    "outputs",
    cpu=[Series.over(SMALL_TALK.replace(batch_size=n), output_tokens=(8, 16, 32)) for n in (1, 4)],
    gpu=[
        *at_batch_sizes(
            lambda n: Series.over(SHORT_PROMPTS.replace(batch_size=n), output_tokens=(32, 64, 128, 256)),
            usual=(1, 8, 64),
        ),
        pytest.param(
            Series.over(SHORT_PROMPTS, output_tokens=tuple(2**n for n in range(5, 13))).named("to-4k"),
            marks=pytest.mark.full,
        ),
    ],
)
def test_decode_grows_linearly_whatever_the_batch(energy_meter: EnergyMeter, outputs: Series) -> None:
    energy_meter.check(
        energy_meter.measure(*outputs),
        slope("output_tokens", exponent=1.0, tolerance=0.25),
        published="linear-in-output-length",
    )
