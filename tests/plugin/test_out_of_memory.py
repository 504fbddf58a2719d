"""An engine that runs out of its device's memory, simulated: what the message says would fit."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FULL_DEVICE = """
import pytest
from pytest_llm_energy.errors import OutOfMemoryError
from pytest_llm_energy.serving.pool import EnginePool

def refuse(self, scenario, devices, say, *, stack=None):
    raise OutOfMemoryError(f"engine {scenario.engine} with {scenario.preset.name} ran out of memory")

@pytest.fixture(autouse=True)
def full_device(monkeypatch):
    monkeypatch.setattr(EnginePool, "engine", refuse)
"""

SUITE = """
from pytest_llm_energy import Arms, Scenario

PLAIN = Scenario(model="Llama-3.1-8B", input_tokens=2048, output_tokens=128)

def test_crowd(energy_meter):
    energy_meter.compare(Arms(vllm=PLAIN.replace(engine="vllm"), transformers=PLAIN).at(batch_size=300))

def test_few(energy_meter):
    energy_meter.measure(PLAIN)
"""


def test_the_largest_batch_that_fits_is_named(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("LLM_ENERGY_LEASES", str(pytester.path / "leases"))
    monkeypatch.setenv("SIMULATED_LOG", str(pytester.path / "windows.jsonl"))
    monkeypatch.setenv("SIMULATED_DEVICES", "1")
    pytester.makeconftest(FULL_DEVICE)
    pytester.makepyfile(test_memory=SUITE)
    result = pytester.runpytest_subprocess("-p", "tests.simulated_host", "-v")
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(
        [
            "OutOfMemoryError: engine vllm with Llama-3.1-8B ran out of memory",
            "transformers: a batch of 300 does not fit: by weights, keys and values 141 GiB hold 198 requests of "
            "2048 + 128 tokens on engine 'transformers'",
            "OutOfMemoryError: engine transformers with Llama-3.1-8B ran out of memory",
        ]
    )
    result.stdout.no_fnmatch_line("vllm: a batch*")
