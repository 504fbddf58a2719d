import math
from dataclasses import replace

import pytest

from pytest_llm_energy.options import EnergyConfig
from pytest_llm_energy.patience import Patience


@pytest.mark.parametrize(
    ("settle_seconds", "side_by_side", "spare_seconds", "seconds", "looks", "confirms"),
    [
        pytest.param(None, False, math.inf, 0.0, 1, True, id="against baselines"),
        pytest.param(None, True, math.inf, 300.0, 3, False, id="beside another stack"),
        pytest.param(None, True, 100.0, 100.0, 3, False, id="within a time budget"),
        pytest.param(None, True, 0.0, 0.0, 1, True, id="a time budget leaves nothing over"),
        pytest.param(0.0, True, math.inf, 0.0, 1, False, id="told not to"),
        pytest.param(1200.0, False, math.inf, 1200.0, 5, False, id="told to"),
    ],
)
def test_what_may_be_settled_is_not_metered_once_more_when_it_would_fail(
    request: pytest.FixtureRequest,
    settle_seconds: float | None,
    side_by_side: bool,
    spare_seconds: float,
    seconds: float,
    looks: int,
    confirms: bool,
) -> None:
    options = replace(EnergyConfig.from_pytest_config(request.config), settle_seconds=settle_seconds, gate="on")
    patience = Patience(options, side_by_side=lambda: side_by_side, spare_seconds=lambda: spare_seconds)
    assert (patience.seconds, patience.looks, patience.confirms) == (seconds, looks, confirms)
    unheeded = Patience(
        replace(options, gate="off"), side_by_side=lambda: side_by_side, spare_seconds=lambda: spare_seconds
    )
    assert not unheeded.confirms


def test_time_that_was_taken_is_gone(request: pytest.FixtureRequest) -> None:
    options = replace(EnergyConfig.from_pytest_config(request.config), settle_seconds=1.0)
    patience = Patience(options, side_by_side=lambda: True, spare_seconds=lambda: 0.0)
    assert patience.allows(1.0)
    with patience.taken():
        pass
    assert not patience.allows(1.0)
