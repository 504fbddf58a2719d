from dataclasses import replace
from pathlib import Path

import pytest

from pytest_llm_energy import Scenario
from pytest_llm_energy.errors import ServedOtherwiseError
from pytest_llm_energy.options import EnergyConfig
from pytest_llm_energy.reopening import Reopening
from pytest_llm_energy.serving.stack import Stack
from pytest_llm_energy.verdicts.journal import read_journal
from pytest_llm_energy.verdicts.measured import CaseKey
from pytest_llm_energy.verdicts.noise import UNMEASURED
from tests.journals import SimulatedSession

PLAIN = Scenario(model="Llama-3.1-8B", input_tokens=512, output_tokens=64)
OPEN, SETTLED = (CaseKey(gpu="h200", finding="batching", case=name) for name in ("open", "settled"))


@pytest.fixture
def reopening(tmp_path: Path, request: pytest.FixtureRequest) -> Reopening:
    """What was open in a run of two cases, of which one is 2.9 % above the other stack."""
    session = SimulatedSession(tmp_path / "run.jsonl", noise=0.01, against="the old one")
    session.case("batching", "open", {"alone": (PLAIN, 2.0)}, against={"alone": 2.0 / 1.029}, runs=12)
    session.case("batching", "settled", {"alone": (PLAIN, 2.0)}, against={"alone": 2.0}, runs=12)
    options = replace(EnergyConfig.from_pytest_config(request.config), settle_seconds=60.0, baselines=tmp_path)
    return Reopening(read_journal(session.path), options, lambda gpu: UNMEASURED)


def test_what_is_open_is_metered_on(reopening: Reopening) -> None:
    assert reopening.cases == {OPEN}
    assert OPEN in reopening
    assert SETTLED not in reopening


def test_only_what_serves_alike_meters_on(reopening: Reopening) -> None:
    reopening.assert_served_alike(OPEN, "alone", "present", {"transformers": "5.0"})
    reopening.assert_served_alike(SETTLED, "alone", "present", {"transformers": "5.1"})  # is not metered on
    says = r"alone on the other stack is served otherwise than in \S+: transformers: 4.0 -> 4.1; measure"
    with pytest.raises(ServedOtherwiseError, match=says):
        reopening.assert_served_alike(OPEN, "alone", "against", {"transformers": "4.1"})


def test_a_server_is_one_engine_start_and_its_cases_stay_open(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    session = SimulatedSession(tmp_path / "run.jsonl", noise=0.01, against="the old one")
    session.case("batching", "open", {"alone": (PLAIN, 2.0)}, against={"alone": 2.0 / 1.029}, runs=12)
    options = replace(
        EnergyConfig.from_pytest_config(request.config),
        settle_seconds=60.0,
        baselines=tmp_path,
        stacks=(Stack(endpoint="http://localhost:1"),),
    )
    assert not Reopening(read_journal(session.path), options, lambda gpu: UNMEASURED).cases


def test_what_starts_took_is_about_what_further_ones_will(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    session = SimulatedSession(tmp_path / "run.jsonl", against="the old one", engine=PLAIN.engine_key)
    options = replace(EnergyConfig.from_pytest_config(request.config), settle_seconds=60.0, baselines=tmp_path)
    reopening = Reopening(read_journal(session.path), options, lambda gpu: UNMEASURED)
    assert reopening.start_seconds(PLAIN) == 1.0
    assert reopening.start_seconds(PLAIN.replace(model="OLMo-1B")) is None
