"""How many requests a device takes at once: what its memory holds beside the weights."""

from typing import Any

from pytest_llm_energy.serving.models import Model
from pytest_llm_energy.serving.scenario import Scenario

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}

SHARE = 0.8
"""Of a device's memory; the rest is for the engine itself, and for what allocators leave unused."""

MOST_REQUESTS = 1024
"""The paper's largest batch."""


def parameters(model: Model) -> int:
    """Parameters of a decoder with gated feed-forward layers, dense or of experts, but for those of norms."""
    config = model.config
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    attention = 2 * hidden * head * (heads + config.get("num_key_value_heads", heads))
    experts = config.get("num_experts", 1)
    feed_forward = 3 * hidden * config["intermediate_size"] * experts + (hidden * experts if experts > 1 else 0)
    embeddings = config["vocab_size"] * hidden * (1 if config.get("tie_word_embeddings") else 2)
    return int(embeddings + config["num_hidden_layers"] * (attention + feed_forward))


def cache_bytes_per_token(model: Model, dtype: str) -> int:
    """Keys and values of one token, over all layers."""
    config = model.config
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    key_value_heads = config.get("num_key_value_heads", heads)
    return int(2 * config["num_hidden_layers"] * key_value_heads * head * DTYPE_BYTES[dtype])


def largest_batch(scenario: Scenario, memory_gib: float) -> int:
    """The largest power of two of a scenario's requests that one device of so much memory takes; 0 for none.

    Reckoned, not tried: a batch that is tried and does not fit costs an engine start. vLLM works a prefill off in
    parts; transformers holds the activations of the whole batch's prompts.

    Args:
        scenario: its model, engine and lengths; the batch size is not looked at.
        memory_gib: of the device, as sold.
    """
    model = scenario.preset
    room = SHARE * memory_gib * 2**30 - parameters(model) * DTYPE_BYTES[scenario.dtype]
    request = cache_bytes_per_token(model, scenario.dtype) * (scenario.input_tokens + scenario.output_tokens)
    if scenario.engine == "transformers":
        request += _activation_bytes_per_token(model.config, scenario.dtype) * scenario.input_tokens
    fit = min(MOST_REQUESTS, int(room / request))
    return 1 << (fit.bit_length() - 1) if fit > 0 else 0


def _activation_bytes_per_token(config: dict[str, Any], dtype: str) -> int:
    """Of one layer: its input, its output and the attention's, and the three of the feed-forward layer."""
    return int((4 * config["hidden_size"] + 3 * config["intermediate_size"]) * DTYPE_BYTES[dtype])
