"""The best configuration saves on each task: vLLM with CUDA graphs against transformers as it comes.

A task is its lengths: the mean input of its data set, and its output (``workloads/tasks.py``).
"""

from typing import Any

import pytest

from energy_tests.scenarios import LLAMA
from pytest_llm_energy import Arms, saves
from pytest_llm_energy.energy_meter import EnergyMeter
from pytest_llm_energy.workloads.tasks import CLASSIFICATION, GENERATION, SUMMARISATION, TRANSLATION, Task

NO_GRAPHS = "the best configuration has CUDA graphs; serving-engine compares the two engines on a CPU"

ARMS = Arms(vllm=LLAMA.replace(engine="vllm"), transformers=LLAMA)


USUAL_BATCH = 8
"""Of the paper's batch sizes the one that a gate runs; the others are in the full grid."""


def of_task(task: Task) -> list[Any]:
    cases = {n: ARMS.at(**task.lengths, batch_size=n).named(str(n)) for n in (1, USUAL_BATCH, 128)}
    return [arms if n == USUAL_BATCH else pytest.param(arms, marks=pytest.mark.full) for n, arms in cases.items()]


@pytest.mark.energy_cases("arms", cpu=NO_GRAPHS, gpu=of_task(CLASSIFICATION))
def test_classification(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(energy_meter.compare(arms), saves, published="saves-on-classification")


@pytest.mark.energy_cases("arms", cpu=NO_GRAPHS, gpu=of_task(TRANSLATION))
def test_translation(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(energy_meter.compare(arms), saves, published="saves-on-translation")


@pytest.mark.energy_cases("arms", cpu=NO_GRAPHS, gpu=of_task(SUMMARISATION))
def test_summarisation(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(energy_meter.compare(arms), saves, published="saves-on-summarisation")


@pytest.mark.energy_cases("arms", cpu=NO_GRAPHS, gpu=of_task(GENERATION))
def test_generation(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(energy_meter.compare(arms), saves, published="saves-on-generation")
