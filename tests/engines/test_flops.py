"""Operations counted by torch, against a closed form that knows nothing of torch."""

import sys
from pathlib import Path

import pytest

from pytest_llm_energy import MODELS, Model, above
from pytest_llm_energy.errors import EngineError, ScenarioError
from pytest_llm_energy.hardware.catalogue import gpu_spec
from pytest_llm_energy.serving.flops import RequestFlops, request_flops
from pytest_llm_energy.verdicts.estimates import excess
from pytest_llm_energy.verdicts.journal import read_journal
from pytest_llm_energy.verdicts.noise import ASSUMED
from pytest_llm_energy.workloads.ideal import ideal_joules

ROOT = Path(__file__).parents[2]

LENGTHS = [(1, 1), (32, 8), (512, 64), (1900, 100)]


def closed_form(model: Model, input_tokens: int, output_tokens: int) -> RequestFlops:
    """Two operations a multiply-accumulate, of every matrix product of a decoder with grouped queries."""
    c: dict[str, int] = model.config
    hidden, heads = c["hidden_size"], c["num_attention_heads"]
    width = c.get("head_dim", hidden // heads)
    queries, keys = heads * width, c["num_key_value_heads"] * width
    projections = hidden * queries + 2 * hidden * keys + queries * hidden
    experts = c.get("num_experts_per_tok", 1)
    router = hidden * c.get("num_experts", 0)
    a_layer = projections + experts * 3 * hidden * c["intermediate_size"] + router

    def forward(tokens: int, context: int) -> int:
        scores_and_values = 2 * tokens * context * queries
        return 2 * (c["num_hidden_layers"] * (tokens * a_layer + scores_and_values) + hidden * c["vocab_size"])

    steps = range(input_tokens + 1, input_tokens + output_tokens)
    return RequestFlops(
        prefill=forward(input_tokens, input_tokens), decode=sum(forward(1, context) for context in steps)
    )


@pytest.mark.parametrize(
    "name", ["tiny-llama", "tiny-qwen", "Llama-3.1-8B", "Llama-3.2-1B", "OLMo-1B", "OLMoE-1B-7B"]
)
def test_operations_are_those_of_the_closed_form(name: str) -> None:
    counted = request_flops(MODELS[name], LENGTHS)
    assert counted == {lengths: closed_form(MODELS[name], *lengths) for lengths in LENGTHS}


def test_no_prefill_recorded_on_an_h200_came_as_near_to_the_ideal_as_the_longest() -> None:
    flops = request_flops(MODELS["Llama-3.1-8B"], [(500, 1), (1000, 1), (2000, 1)])
    journal = read_journal(ROOT / "docs" / "measurements" / "h200" / "fourth-session-prefill.jsonl.gz")
    above_it = {}
    for check in journal.checks:
        for arm in journal.measured(check).arms:
            assert arm.identity is not None
            length = arm.identity["input_tokens"]
            if length >= 500:
                ideal = ideal_joules({(length, 1): 1}, {(length, 1): flops[length, 1].total}, gpu_spec("h200"))
                above_it[length, arm.identity["batch_size"]] = excess(arm, ideal, noise=ASSUMED)
    assert min(above_it, key=lambda case: above_it[case].value) == (2000, 16)
    assert above_it[2000, 16].value == pytest.approx(0.57, abs=0.005)
    assert all(interval.low > 0 for interval in above_it.values())


def test_runs_recorded_on_an_h200_lie_above_the_ideal_and_vllms_are_nearer() -> None:
    lengths = (512, 64)
    flops = request_flops(MODELS["Llama-3.1-8B"], [lengths])[lengths].total
    ideal = ideal_joules({lengths: 1}, {lengths: flops}, gpu_spec("h200"))
    claim = above(ideal, what="the ideal", nearest="vllm")
    journal = read_journal(ROOT / "docs" / "measurements" / "h200-busy-host" / "same-stack-3.jsonl.gz")
    checks = [check for check in journal.checks if check.key.finding == "serving-engine"]
    assert len(checks) == 3
    for check in checks:
        statements = claim.statements(journal.measured(check))
        assert [statement.outcome for statement in statements] == ["holds"] * 3


def test_steps_that_look_back_through_a_window_are_not_summed() -> None:
    config = MODELS["tiny-llama"].config | {"sliding_window": 16}
    windowed = Model(name="tiny-mistral", model_type="mistral", config=config)
    with pytest.raises(EngineError, match=r"FLOPs of tiny-mistral cannot be summed: decode steps .* on a line"):
        request_flops(windowed, [(8, 32)])


def test_one_output_token_takes_no_decode_step() -> None:
    assert request_flops(MODELS["tiny-llama"], [(8, 1)])[8, 1].decode == 0
    assert request_flops(MODELS["tiny-llama"], []) == {}
    with pytest.raises(ScenarioError, match="one token or more"):
        request_flops(MODELS["tiny-llama"], [(8, 0)])


def test_a_python_without_torch_says_what_it_needs(tmp_path: Path) -> None:
    python = [sys.executable, "-S", "-I"]  # no site-packages
    with pytest.raises(EngineError, match=r"cannot count the FLOPs of tiny-llama: ModuleNotFoundError: .*torch"):
        request_flops(MODELS["tiny-llama"], [(8, 8)], python=python)
    with pytest.raises(EngineError, match="pip install 'pytest-llm-energy\\[transformers\\]'"):
        request_flops(MODELS["tiny-llama"], [(8, 8)], python=python)
    with pytest.raises(EngineError, match=r"cannot start .*absent"):
        request_flops(MODELS["tiny-llama"], [(8, 8)], python=[str(tmp_path / "absent")])


def test_a_python_that_does_not_answer_is_ended() -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(EngineError, match=r"in 0\.5 s"):
        request_flops(MODELS["tiny-llama"], [(8, 8)], python=sleeper, deadline_seconds=0.5)
    with pytest.raises(EngineError, match="answered no count"):
        request_flops(MODELS["tiny-llama"], [(8, 8)], python=[sys.executable, "-c", "print('hello')"])
