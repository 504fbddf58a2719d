"""The faster the GPU, the more an optimisation gains that spares the host, for there the host is more of the time.

Nothing is served for this: the baselines of two GPU models say what each gains, in the smallest batch that both
have measured. The faster one is the one that the paper ranks higher, or else the one with the faster memory. By how
much an effect differs from board to board of one GPU model is in the interval.
"""

import pytest

from pytest_llm_energy.energy_baselines import EnergyBaselines
from pytest_llm_energy.verdicts.gains import COMPILE, GRAPHS, SPECULATION, Optimisation


@pytest.mark.energy_cases(
    "optimisation", cpu="its joules are estimated, and it is no GPU to rank", gpu=[COMPILE, GRAPHS, SPECULATION]
)
def test_faster_gpus_gain_more(energy_baselines: EnergyBaselines, optimisation: Optimisation) -> None:
    energy_baselines.check_gains(optimisation)
