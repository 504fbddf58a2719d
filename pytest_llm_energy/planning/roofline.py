"""How long a batch takes that nobody has recorded: by what its arithmetic and its memory traffic take on a GPU."""

from pytest_llm_energy.hardware.catalogue import GpuSpec
from pytest_llm_energy.serving.memory import DTYPE_BYTES, cache_bytes_per_token, feed_forward_parameters, parameters
from pytest_llm_energy.serving.models import Model
from pytest_llm_energy.serving.scenario import Scenario
from pytest_llm_energy.serving.ways import Beam

COMPUTE_SHARE = 0.65
"""Of a GPU's peak bf16 rate, what prefill reaches: 0.7 on vLLM 0.25.1 and 0.6 on transformers 5.17.0 (8B, H200)."""

MEMORY_SHARE = 0.7
"""Of its memory bandwidth, what decoding reaches."""

STEP_SECONDS = {"vllm": 0.002, "vllm eager": 0.013, "transformers": 0.022, "transformers compiled": 0.011}
"""A step takes no less, however small: the host's part of it (H200, 2026-11-22)."""

OTHER_STEP_SECONDS = 0.002
"""On other engines, which are servers."""


def batch_seconds(scenario: Scenario, gpu: GpuSpec) -> float | None:
    """Seconds of a batch, to a factor of two; None where GPU model or model are too little known.

    A roofline: prefill takes two operations a parameter and token, a step of decoding reads weights, keys and
    values. Speculation is left out: what a draft costs it saves elsewhere.
    """
    model, count = scenario.preset, scenario.tensor_parallel_size
    if gpu.bf16_dense_tflops is None or gpu.memory_gb_per_second is None or scenario.feed_forward is not None:
        return None
    try:
        cache = cache_bytes_per_token(model, scenario.dtype)
        active, read = (_used(model, tokens) for tokens in (1, scenario.batch_size))
    except (KeyError, TypeError):  # a model of the user's own, of another shape
        return None
    least = STEP_SECONDS.get(_kind(scenario), OTHER_STEP_SECONDS)
    rate = COMPUTE_SHARE * gpu.bf16_dense_tflops * 1e12 * count
    bandwidth = MEMORY_SHARE * gpu.memory_gb_per_second * 1e9 * count
    weights = read * DTYPE_BYTES[scenario.dtype] / bandwidth
    sequences = scenario.batch_size * (scenario.decoding.width if isinstance(scenario.decoding, Beam) else 1)
    prefill = max(2 * active * sequences * scenario.input_tokens / rate, weights, least)
    held = sequences * (scenario.input_tokens + scenario.output_tokens / 2)
    step = max(weights + held * cache / bandwidth, least)
    return prefill + (scenario.output_tokens - 1) * step


def _kind(scenario: Scenario) -> str:
    if scenario.torch_compile:
        return f"{scenario.engine} compiled"
    return f"{scenario.engine} eager" if scenario.enforce_eager else scenario.engine


def _used(model: Model, tokens: int) -> float:
    """Parameters that a step of so many tokens uses: of experts those chosen, were they chosen at random."""
    experts: int = model.config.get("num_experts", 1)
    chosen: int = model.config.get("num_experts_per_tok", experts)
    left_out = (1 - chosen / experts) ** tokens
    return parameters(model) - left_out * feed_forward_parameters(model)
