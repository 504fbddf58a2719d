"""Normally distributed weights from a local checkpoint, on both engines."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pytest_llm_energy import Model, Scenario, Speculation
from pytest_llm_energy.errors import EngineError
from pytest_llm_energy.serving.lasting import MODELS
from pytest_llm_energy.serving.pool import EnginePool
from tests.engines.test_vllm import PYTHON, VLLM, needs_vllm

PACKAGE = Path(__file__).parents[2] / "pytest_llm_energy"

NORMAL = Scenario(model="tiny-llama", weights="normal", dtype="float32", input_tokens=8, output_tokens=6)

PROMPT = [5, 17, 1203, 99, 640, 7, 2000, 321]

TRANSFORMERS_TOKENS = """
import json, sys
import torch
from serving.engines.transformers import Engine
request, prompt = json.load(sys.stdin)
model = Engine(request, lambda stage: None)._model
made = model.generate(torch.tensor([prompt]), do_sample=False, min_new_tokens=16, max_new_tokens=16)
logits = model(torch.tensor([prompt])).logits[0, -1]
print("result", json.dumps([made[0, len(prompt):].tolist(), logits.tolist()]))
"""

VLLM_TOKENS = """
import json, sys
from serving.engines.vllm import Engine, vllm
request, prompt = json.load(sys.stdin)
sampling = vllm.SamplingParams(temperature=0.0, max_tokens=16, ignore_eos=True, detokenize=False)
llm = Engine(request, lambda stage: None)._llm
made = llm.generate([{"prompt_token_ids": prompt}], sampling, use_tqdm=False)
print("result", json.dumps([list(made[0].outputs[0].token_ids), []]))
"""

STATISTICS = """
import json, pathlib, sys
import safetensors.torch
found = {}
for file in pathlib.Path(sys.argv[1]).glob("*.safetensors"):
    for name, value in safetensors.torch.load_file(file).items():
        found[name] = [float(value.float().mean()), float(value.float().std()), str(value.dtype)]
print("result", json.dumps(found))
"""


def ignore(stage: str) -> None:
    """Nobody watches."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLM_ENERGY_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def pool() -> Iterator[EnginePool]:
    made = EnginePool(name="test", deadline=600, on_start=lambda engine, scenario: None)
    yield made
    made.close()


def checkpoints(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if path.is_dir() and path.name != MODELS)


def result(python: Path | str, script: str, *arguments: str, stdin: str = "") -> Any:
    """What a script printed after the word ``result``."""
    environment = {**os.environ, "PYTHONPATH": os.fspath(PACKAGE)}
    command = [os.fspath(python), "-P", "-c", script, *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("result "))
    return json.loads(line.removeprefix("result "))


def tokens_and_logits(scenario: Scenario) -> tuple[list[int], list[float]]:
    """Greedy tokens after PROMPT; from transformers also the logits of the first."""
    request = {
        "identity": scenario.identity(),
        "model": msgspec.to_builtins(scenario.preset),
        "draft": None,
        "limits": msgspec.to_builtins(scenario.limits),
    }
    python, script = (PYTHON, VLLM_TOKENS) if scenario.engine == "vllm" else (sys.executable, TRANSFORMERS_TOKENS)
    tokens, logits = result(python, script, stdin=json.dumps([request, PROMPT]))
    return tokens, logits


def test_weights_are_written_once_and_decided_by_the_seed(cache: Path) -> None:
    first = tokens_and_logits(NORMAL)
    (folder,) = checkpoints(cache)
    written = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert {"config.json", "llm-energy.json", "model.safetensors"} <= {file.name for file in written}
    assert tokens_and_logits(NORMAL) == first
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == written
    shutil.rmtree(folder)
    assert tokens_and_logits(NORMAL) == first
    other = tokens_and_logits(NORMAL.replace(seed=1))
    assert other[1] != first[1]
    assert len(checkpoints(cache)) == 2


@pytest.mark.parametrize("model", ["tiny-llama", "tiny-qwen", "tiny-olmo", "tiny-olmoe"])
def test_matrices_are_normal_norms_are_ones_and_the_model_serves(pool: EnginePool, cache: Path, model: str) -> None:
    scenario = NORMAL.replace(model=model, dtype="bfloat16")
    assert pool.engine(scenario, (), ignore).run(scenario, 1, ignore).output_tokens == 6
    (folder,) = checkpoints(cache)
    values = result(sys.executable, STATISTICS, os.fspath(folder))
    assert any("experts.63.down_proj.weight" in name for name in values) == (model == "tiny-olmoe")
    for name, (mean, deviation, dtype) in values.items():
        assert dtype == "torch.bfloat16"
        if "norm" in name:
            assert (mean, deviation) == (1, 0), name
        elif name.endswith("bias"):
            assert (mean, deviation) == (0, 0), name
        else:
            assert mean == pytest.approx(0, abs=1e-3), name
            assert deviation == pytest.approx(0.02, rel=0.03), name


def test_a_missing_shard_is_noticed_and_the_checkpoint_written_again(pool: EnginePool, cache: Path) -> None:
    pool.engine(NORMAL, (), ignore)
    (folder,) = checkpoints(cache)
    (folder / "model.safetensors").unlink()
    pool.retain(())
    said: list[str] = []
    assert pool.engine(NORMAL, (), said.append).run(NORMAL, 1, ignore).output_tokens == 6
    assert f"{folder} lacks model.safetensors: writing it again" in said
    assert any(line.startswith("writing 0.0 GB of normal weights of tiny-llama") for line in said)


def test_a_disk_without_room_is_refused_in_bytes(pool: EnginePool, cache: Path) -> None:
    config = {**NORMAL.preset.config, "vocab_size": 2**40}
    huge = Model(name="huge", model_type="llama", config=config)
    needed = rf"normal weights of huge need 1125\d{{12}} bytes in {cache}, and \d+ are available; make room, or"
    with pytest.raises(EngineError, match=needed):
        pool.engine(NORMAL.replace(model=huge), (), ignore)
    assert checkpoints(cache) == []


@needs_vllm
def test_both_engines_load_the_same_weights(cache: Path) -> None:
    # With tied embeddings the likeliest token after a token is soon that token.
    untied = Model(name="untied", model_type="llama", config={**NORMAL.preset.config, "tie_word_embeddings": False})
    scenario = NORMAL.replace(model=untied)
    tokens, _ = tokens_and_logits(scenario.replace(engine="vllm", enforce_eager=True))
    (folder,) = checkpoints(cache)
    written = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert tokens_and_logits(scenario)[0] == tokens
    assert len(set(tokens)) > 4
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == written


@needs_vllm
def test_vllm_serves_a_mixture_of_experts_with_a_draft_of_normal_weights(pool: EnginePool, cache: Path) -> None:
    speculation = Speculation(draft="tiny-llama", lookahead=2)
    scenario = NORMAL.replace(engine="vllm", model="tiny-olmoe", enforce_eager=True, speculation=speculation)
    served = pool.engine(scenario, (), ignore, stack=VLLM).run(scenario, 1, ignore)
    assert served.output_tokens == 6
    assert served.acceptance_length is not None
    llama, olmoe = checkpoints(cache)
    assert llama.name.startswith("tiny-llama-")
    assert olmoe.name.startswith("tiny-olmoe-")
