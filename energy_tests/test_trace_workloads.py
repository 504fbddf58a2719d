"""On real request traces vLLM saves against transformers: what all requests of a day take, not one batch.

A grid of lengths is measured on both, in full batches; a model of prefill and decode says what the trace's other
lengths take (``llm-energy estimate``). The paper's traces of Azure are of 2024, those packaged here of 2023.
"""

import pytest

from energy_tests.scenarios import LLAMA
from pytest_llm_energy import Scenario, Series, saves_on
from pytest_llm_energy.energy_meter import EnergyMeter
from pytest_llm_energy.hardware.catalogue import catalogue
from pytest_llm_energy.serving.memory import largest_batch
from pytest_llm_energy.workloads.packaged import packaged

TOO_LONG = "a day's prompts of thousands of tokens, in batches of 32, take two cores hours"

LENGTHS = [(32, 8), (32, 32), (512, 8), (512, 64), (512, 256), (1024, 16), (2048, 8), (2048, 32)]
"""Short and long ones of each kind, which tell prefill from decode; the longest output is one of a conversation.

Few of them are long: a plain loop over 256 tokens takes a batch of 32 ten seconds, and each is served six times.
"""


def grid(plain: Scenario) -> Series:
    lengths = [plain.replace(input_tokens=i, output_tokens=o, batch_size=32) for i, o in LENGTHS]
    return Series.of([each.replace(engine=engine) for engine in ("vllm", "transformers") for each in lengths])


@pytest.mark.energy_cases("served", cpu=TOO_LONG, gpu=[grid(LLAMA).named("conversation")])
def test_vllm_saves_on_conversations(energy_meter: EnergyMeter, served: Series) -> None:
    claim = saves_on(packaged("azure_2023_conv"), over="engine", control="transformers")
    energy_meter.check(energy_meter.measure(*served), claim, published="saves-on-azure-conversation")


@pytest.mark.full
@pytest.mark.energy_cases("served", cpu=TOO_LONG, gpu=[grid(LLAMA).named("code")])
def test_vllm_saves_on_code(energy_meter: EnergyMeter, served: Series) -> None:
    claim = saves_on(packaged("azure_2023_code"), over="engine", control="transformers")
    energy_meter.check(energy_meter.measure(*served), claim, published="saves-on-azure-code")


def in_largest_batches(plain: Scenario, memory_gib: float) -> Series | None:
    """Each engine in batches as large as a device takes, as the paper has them; None where it takes none."""
    lengths = [plain.replace(input_tokens=i, output_tokens=o) for i, o in LENGTHS]
    served = [each.replace(engine=engine) for engine in ("vllm", "transformers") for each in lengths]
    sizes = [largest_batch(each, memory_gib) for each in served]
    if not all(sizes):
        return None
    return Series.of([each.replace(batch_size=size) for each, size in zip(served, sizes, strict=True)])


LARGEST = {
    key: [series.named("conversation")]
    for key, spec in catalogue().items()
    if spec.memory_gib and (series := in_largest_batches(LLAMA, spec.memory_gib))
}


@pytest.mark.full
@pytest.mark.energy_cases("served", cpu=TOO_LONG, **LARGEST)
def test_vllm_saves_on_conversations_in_the_largest_batches(energy_meter: EnergyMeter, served: Series) -> None:
    claim = saves_on(packaged("azure_2023_conv"), over="engine", control="transformers")
    energy_meter.check(energy_meter.measure(*served), claim, published="saves-on-azure-conversation")
