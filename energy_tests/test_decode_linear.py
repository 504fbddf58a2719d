"""Decoding costs the same for every token: its energy grows linearly with the output, whatever the batch.

Prompts are short there: the energy of a request holds that of its prefill too, which does not grow with the
output. Beside a longer prompt, a decoded token costs more than a prefilled one, and decoding more than prefill: a
request of one token is prefilled and no more, and what a longer one takes beyond that is decoding.
"""

import pytest

from energy_tests.scenarios import SERVED_LLAMA, SMALL_TALK, at_batch_sizes
from pytest_llm_energy import Series, decode_costs_more, decode_dominates, slope
from pytest_llm_energy.energy_meter import EnergyMeter

SHORT_PROMPTS = SERVED_LLAMA.replace(input_tokens=16)


@pytest.mark.energy_cases(
    "outputs",
    cpu=[Series.over(SMALL_TALK.replace(batch_size=n), output_tokens=(8, 16, 32)) for n in (1, 4)],
    gpu=[
        *at_batch_sizes(
            lambda n: Series.over(SHORT_PROMPTS.replace(batch_size=n), output_tokens=(32, 64, 128, 256)),
            usual=(1, 64),
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
        slope("output_tokens", exponent=1.0, tolerance=0.25),  # with prefill and a growing context in it
        published="linear-in-output-length",
    )


@pytest.mark.energy_cases(
    "outputs",
    cpu=[Series.over(SMALL_TALK.replace(input_tokens=64), output_tokens=(1, 32))],
    gpu=at_batch_sizes(
        lambda n: Series.over(SERVED_LLAMA.replace(batch_size=n), output_tokens=(1, 256)), usual=(8,), most=256
    ),
)
def test_decode_costs_more_than_prefill(energy_meter: EnergyMeter, outputs: Series) -> None:
    result = energy_meter.measure(*outputs)
    energy_meter.check(result, decode_costs_more, published="decode-costs-more-per-token-than-prefill")
    energy_meter.check(result, decode_dominates, published="decode-dominates")
