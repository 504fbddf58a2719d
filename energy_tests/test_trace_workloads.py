"""On real request traces vLLM saves against transformers: what all requests of a day take, not one batch.

A grid of lengths is measured on both, in full batches; a model of prefill and decode says what the trace's other
lengths take (``llm-energy estimate``). The paper's traces of Azure are of 2024, those packaged here of 2023. A CPU
has no cases: two cores serve no such batches.
"""

import pytest

from energy_tests.scenarios import LLAMA
from pytest_llm_energy import Scenario, Series, saves_on
from pytest_llm_energy.fixtures import EnergyMeter
from pytest_llm_energy.workloads.packaged import packaged

LENGTHS = [*((i, o) for i in (32, 512, 2048) for o in (8, 128)), (2048, 32), (512, 512)]
"""Short and long ones of each kind, which tell prefill from decode; the longest output is one of a conversation."""


def grid(plain: Scenario) -> Series:
    lengths = [plain.replace(input_tokens=i, output_tokens=o, batch_size=32) for i, o in LENGTHS]
    return Series.of([each.replace(engine=engine) for engine in ("vllm", "transformers") for each in lengths])


@pytest.mark.energy_cases("served", gpu=[grid(LLAMA).named("conversation")])
def test_vllm_saves_on_conversations(energy_meter: EnergyMeter, served: Series) -> None:
    claim = saves_on(packaged("azure_2023_conv"), over="engine", control="transformers")
    energy_meter.check(energy_meter.measure(*served), claim, published="saves-on-azure-conversation")


@pytest.mark.full
@pytest.mark.energy_cases("served", gpu=[grid(LLAMA).named("code")])
def test_vllm_saves_on_code(energy_meter: EnergyMeter, served: Series) -> None:
    claim = saves_on(packaged("azure_2023_code"), over="engine", control="transformers")
    energy_meter.check(energy_meter.measure(*served), claim, published="saves-on-azure-code")
