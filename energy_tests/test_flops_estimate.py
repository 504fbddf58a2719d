"""Serving takes more energy than its arithmetic would at the device's peak rate; an engine comes nearer to that.

The ideal is board power over the peak rate, times the operations of a request. The paper sums it over traces; here
the requests are of the bins that the traces' means fall into. The paper's ideal on its RTX A6000 takes the sparse
rate; this one takes the dense rate, since the model is dense, and is twice as high.
"""

from collections.abc import Sequence
from typing import Any

import pytest

from energy_tests.scenarios import LLAMA
from pytest_llm_energy import Arms, above
from pytest_llm_energy.energy_meter import EnergyMeter
from pytest_llm_energy.errors import UsageError
from pytest_llm_energy.serving.flops import request_flops
from pytest_llm_energy.stack_options import stacks
from pytest_llm_energy.workloads.ideal import ideal_joules

MEANS_OF_TRACES = {"BurstGPT": (512, 64), "Azure-code": (4096, 32), "Azure-conversation": (2048, 128)}
"""Bins at or above the mean lengths of the paper's tables 1 and 2."""

ARMS = Arms(vllm=LLAMA.replace(engine="vllm"), transformers=LLAMA).at(batch_size=16)


def of_traces() -> list[Any]:
    """A gate runs the conversations; the others are in the full grid."""
    cases = {name: ARMS.at(input_tokens=i, output_tokens=o).named(name) for name, (i, o) in MEANS_OF_TRACES.items()}
    usual = "Azure-conversation"
    return [arms if name == usual else pytest.param(arms, marks=pytest.mark.full) for name, arms in cases.items()]


@pytest.fixture
def python(pytestconfig: pytest.Config) -> Sequence[str]:
    """The Python that serves with transformers counts operations too."""
    return stacks(pytestconfig)[0].python("transformers")


@pytest.mark.energy_cases(
    "arms",
    cpu="no vendor states a peak rate for it, and its joules are estimated from a power that is itself assumed",
    gpu=of_traces(),
)
def test_serving_takes_more_than_the_ideal(energy_meter: EnergyMeter, arms: Arms, python: Sequence[str]) -> None:
    served = arms[arms.control]
    lengths = (served.input_tokens, served.output_tokens)
    option = "--energy-python transformers=COMMAND"
    flops = request_flops(served.preset, [lengths], python=python, named_by=option)
    try:
        ideal = ideal_joules({lengths: 1}, {lengths: flops[lengths].total}, energy_meter.gpu_model.spec)
    except UsageError as error:
        pytest.skip(str(error))
    energy_meter.check(
        energy_meter.compare(arms),
        above(ideal, what="the ideal", nearest="vllm"),
        published="energy-above-ideal",
    )
