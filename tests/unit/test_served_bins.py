import pytest

from pytest_llm_energy import Scenario
from pytest_llm_energy.verdicts.noise import ASSUMED
from pytest_llm_energy.verdicts.served_bins import bins_of
from tests.unit.measurements import arm

QUIET, NOISY = (Scenario(model="tiny-llama", input_tokens=length, output_tokens=8) for length in (8, 64))


def test_a_shape_that_scatters_and_is_metered_more_often_makes_the_others_no_less_sure() -> None:
    quiet = arm("quiet", [1.0, 1.001, 0.999], QUIET).runs
    noisy = [0.9, 1.0, 1.1]
    few, many = (
        bins_of({(8, 8, 1): quiet, (64, 8, 1): arm("noisy", noisy * times, NOISY).runs}, noise=ASSUMED)
        for times in (1, 4)
    )
    assert many[0].relative_sd == pytest.approx(few[0].relative_sd, rel=0.15)
    assert many[1].relative_sd == pytest.approx(few[1].relative_sd / 2, rel=0.15)
