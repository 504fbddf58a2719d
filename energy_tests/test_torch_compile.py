"""A compiled model saves: it launches fewer, larger kernels and spends less of its time on Python.

On a CPU this pays where Python and small operators take much of the time: a small model, a small batch.
"""

import shutil

import pytest

from energy_tests.scenarios import LLAMA, NOISY, TINY, at_batch_sizes
from pytest_llm_energy import Arms, Scenario, saves
from pytest_llm_energy.energy_meter import EnergyMeter


def compiled(eager: Scenario) -> Arms:
    return Arms(compiled=eager.replace(torch_compile=True), eager=eager)


@pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))),
    reason="torch.compile needs a C++ compiler, and there is none here",
)
@pytest.mark.energy_cases(
    "arms",
    cpu=[compiled(TINY).at(batch_size=1)],
    gpu=at_batch_sizes(lambda n: compiled(LLAMA).at(batch_size=n), usual=(1,), most=256),
)
def test_compiling_saves_energy(energy_meter: EnergyMeter, arms: Arms) -> None:
    # The paper does not say of which batch its sizes are, and compiling saves less the larger it is.
    sizes = ["saves-on-a100", "saves-on-rtx6000ada", "saves-on-a6000"] if arms.batch_size == 1 else []
    energy_meter.check(energy_meter.compare(arms), saves.bearing(NOISY), published=sizes)
