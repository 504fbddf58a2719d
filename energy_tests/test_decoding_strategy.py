"""How the next token is chosen matters little, but beam search keeps several continuations and pays for them."""

from typing import Any

import pytest

from energy_tests.scenarios import LLAMA, NOISY, SMALL_TALK, at_batch_sizes
from pytest_llm_energy import Arms, Beam, Sample, Scenario, costs, differs
from pytest_llm_energy.energy_meter import EnergyMeter


def beam(greedy: Scenario) -> Arms:
    return Arms(beam=greedy.replace(decoding=Beam(4)), greedy=greedy)


def sampled(greedy: Scenario) -> list[Arms]:
    hot = greedy.replace(decoding=Sample(temperature=0.7))
    nucleus = greedy.replace(decoding=Sample(top_p=0.9))
    return [
        Arms(temperature=hot, greedy=greedy).named("temperature"),
        Arms(top_p=nucleus, greedy=greedy).named("top_p"),
    ]


def by_temperature_alone(cases: list[Arms]) -> list[Any]:
    """A gate runs the first; both draw from the same probabilities."""
    return [cases[0], *(pytest.param(arms, marks=pytest.mark.full) for arms in cases[1:])]


@pytest.mark.energy_cases(
    "arms",
    cpu=[beam(SMALL_TALK).at(batch_size=n) for n in (4, 8)],
    gpu=at_batch_sizes(lambda n: beam(LLAMA).at(batch_size=n), usual=(8,), most=64),
)
def test_greedy_is_cheaper_than_beam_search(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(energy_meter.compare(arms), costs.bearing(NOISY), published="greedy-cheaper-than-beam")


@pytest.mark.energy_cases("arms", cpu=sampled(SMALL_TALK), gpu=by_temperature_alone(sampled(LLAMA)))
def test_sampling_differs_less_than_speculation_does(energy_meter: EnergyMeter, arms: Arms) -> None:
    speculation = 0.2914
    energy_meter.check(
        energy_meter.compare(arms),
        differs(at_most=speculation),
        published="strategies-differ-less-than-speculation",
    )
