"""Speculative decoding saves at small batches and costs at large ones, where verifying is no longer free.

A draft model proposes four tokens and the model verifies them in one pass. At batch 1 that pass costs hardly more
than one for a single token; at batch 128 the arithmetic of rejected tokens is paid for. Random weights agree on
next to nothing, so the engine makes acceptance up: three tokens per verification on average, as a good draft has.
"""

import pytest

from energy_tests.scenarios import SERVED_LLAMA
from pytest_llm_energy import Arms, Speculation, costs, saves
from pytest_llm_energy.fixtures import EnergyMeter

DRAFTED = SERVED_LLAMA.replace(speculation=Speculation(draft="Llama-3.2-1B", lookahead=4, acceptance_length=3.0))
ARMS = Arms(speculative=DRAFTED, plain=SERVED_LLAMA)


@pytest.mark.energy_cases("arms", gpu=[ARMS.at(batch_size=n) for n in (1, 4)])
def test_speculation_saves_at_small_batches(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(energy_meter.compare(arms), saves, published="saves-at-small-batch")


@pytest.mark.energy_cases("arms", gpu=[ARMS.at(batch_size=n) for n in (64, 128)])
def test_speculation_costs_at_large_batches(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(energy_meter.compare(arms), costs, published="costs-at-large-batch")


@pytest.mark.energy_cases("arms", gpu=[ARMS.at(batch_size=16)])
def test_in_between_levels_alone_are_judged(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(energy_meter.compare(arms))
