"""CUDA graphs save: a decode step is launched at once, not kernel by kernel, most of all for small batches."""

import pytest

from energy_tests.scenarios import SERVED_LLAMA, at_batch_sizes
from pytest_llm_energy import Arms, Series, rises, saves
from pytest_llm_energy.energy_meter import EnergyMeter

NO_GRAPHS = "CUDA graphs are of GPUs"

ARMS = Arms(graphs=SERVED_LLAMA, eager=SERVED_LLAMA.replace(enforce_eager=True))


@pytest.mark.energy_cases("arms", cpu=NO_GRAPHS, gpu=at_batch_sizes(lambda n: ARMS.at(batch_size=n), usual=(1,)))
def test_graphs_save_energy(energy_meter: EnergyMeter, arms: Arms) -> None:
    # The paper does not say of which batch its sizes are, and graphs save less the larger it is.
    sizes = ["saves-on-a100", "saves-on-a6000"] if arms.batch_size == 1 else []
    energy_meter.check(energy_meter.compare(arms), saves, published=sizes)


SMALL_AND_LARGE = Series.of([arm.replace(batch_size=n) for n in (1, 128) for arm in ARMS.values()]).named("1-128")


@pytest.mark.energy_cases("both", cpu=NO_GRAPHS, gpu=[SMALL_AND_LARGE])
def test_graphs_save_most_at_small_batches(energy_meter: EnergyMeter, both: Series) -> None:
    beside_eager = rises("batch_size", between="enforce_eager", control=True, what="what graphs take beside eager")
    energy_meter.check(energy_meter.measure(*both), beside_eager, published="saves-more-at-small-batch")
