"""The best configuration saves on each task: vLLM with CUDA graphs against transformers as it comes.

A task is its lengths: the mean input of its data set, and its output (``workloads/tasks.py``). A CPU has no cases:
it has no CUDA graphs, and serving-engine compares the two engines there.
"""

import pytest

from energy_tests.scenarios import LLAMA
from pytest_llm_energy import Arms, saves
from pytest_llm_energy.fixtures import EnergyMeter
from pytest_llm_energy.workloads.tasks import CLASSIFICATION, GENERATION, SUMMARISATION, TRANSLATION, Task

ARMS = Arms(vllm=LLAMA.replace(engine="vllm"), transformers=LLAMA)


def of_task(task: Task) -> list[Arms]:
    return [ARMS.at(**task.lengths, batch_size=n).named(str(n)) for n in (1, 8, 128)]


@pytest.mark.energy_cases("arms", gpu=of_task(CLASSIFICATION))
def test_classification(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(energy_meter.compare(arms), saves, published="saves-on-classification")


@pytest.mark.energy_cases("arms", gpu=of_task(TRANSLATION))
def test_translation(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(energy_meter.compare(arms), saves, published="saves-on-translation")


@pytest.mark.energy_cases("arms", gpu=of_task(SUMMARISATION))
def test_summarisation(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(energy_meter.compare(arms), saves, published="saves-on-summarisation")


@pytest.mark.energy_cases("arms", gpu=of_task(GENERATION))
def test_generation(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(energy_meter.compare(arms), saves, published="saves-on-generation")
