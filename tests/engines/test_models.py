"""The presets have the sizes that their makers publish; built without memory, on torch's meta device."""

import json
import subprocess
import sys

import pytest

from pytest_llm_energy import MODELS

COUNT = """
import json, sys
import torch, transformers
counts = {}
for name, (model_type, config) in json.load(sys.stdin).items():
    with torch.device("meta"):
        config_object = transformers.AutoConfig.for_model(model_type, **config)
        made = transformers.AutoModelForCausalLM.from_config(config_object)
    sizes = {key: value.numel() for key, value in made.named_parameters()}
    experts = sum(size for key, size in sizes.items() if ".experts." in key)
    share = config["num_experts_per_tok"] / config["num_experts"] if experts else 0
    extra = sum(size for key, size in sizes.items() if ".gate." in key or "norm" in key)
    total = sum(sizes.values())
    counts[name] = [total, total - experts + experts * share, extra]
print(json.dumps(counts))
"""


@pytest.fixture(scope="module")
def counts() -> dict[str, tuple[int, float, int]]:
    """Parameters in all, active per token, and those of routers and norms, by model."""
    wanted = {name: (model.model_type, model.config) for name, model in MODELS.items()}
    done = subprocess.run(
        [sys.executable, "-c", COUNT], input=json.dumps(wanted), capture_output=True, text=True, check=True
    )
    return {name: tuple(found) for name, found in json.loads(done.stdout).items()}


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("Llama-3.1-8B", 8.03),
        ("Llama-3.2-1B", 1.24),
        ("Qwen1.5-32B", 32.5),
        ("DeepSeek-R1-Distill-Qwen-32B", 32.8),
        ("DeepSeek-R1-ReDistill-Qwen-1.5B", 1.78),
        ("OLMo-1B", 1.18),
        ("OLMo-7B", 6.89),
        ("OLMoE-1B-7B", 6.92),
        ("SmolLM2-135M", 0.135),
    ],
)
def test_a_preset_has_its_published_size(
    counts: dict[str, tuple[int, float, int]], name: str, billions: float
) -> None:
    assert counts[name][0] / 1e9 == pytest.approx(billions, rel=0.005)


def test_the_tiny_mixture_activates_what_the_tiny_dense_model_has(
    counts: dict[str, tuple[int, float, int]],
) -> None:
    dense_total, dense_active, _ = counts["tiny-olmo"]
    total, active, routers_and_norms = counts["tiny-olmoe"]
    assert dense_active == dense_total
    assert active - routers_and_norms == dense_active
    assert routers_and_norms < 0.01 * active
    assert total > 5 * active


def test_every_preset_has_a_tiny_sibling_of_its_family() -> None:
    for model in MODELS.values():
        if model.sibling:
            assert MODELS[model.sibling].model_type == model.model_type
