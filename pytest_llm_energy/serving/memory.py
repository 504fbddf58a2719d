"""How many requests a device takes at once: what its memory holds beside the weights."""

from typing import Any

from pytest_llm_energy.serving.models import Model
from pytest_llm_energy.serving.scenario import Scenario
from pytest_llm_energy.serving.ways import Beam

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
    routers = hidden * experts if experts > 1 else 0
    embeddings = config["vocab_size"] * hidden * (1 if config.get("tie_word_embeddings") else 2)
    return int(embeddings + config["num_hidden_layers"] * (attention + routers) + feed_forward_parameters(model))


def feed_forward_parameters(model: Model) -> int:
    """Parameters of its gated feed-forward layers, of all experts where it has some."""
    config = model.config
    of_layer = 3 * config["hidden_size"] * config["intermediate_size"] * config.get("num_experts", 1)
    return int(config["num_hidden_layers"] * of_layer)


def cache_bytes_per_token(model: Model, dtype: str) -> int:
    """Keys and values of one token, over all layers."""
    config = model.config
    heads = config["num_attention_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    key_value_heads = config.get("num_key_value_heads", heads)
    return int(2 * config["num_hidden_layers"] * key_value_heads * head * DTYPE_BYTES[dtype])


def most_requests(scenario: Scenario, memory_gib: float, *, share: float = SHARE) -> int:
    """How many of a scenario's requests its devices take at once; 0 where not even its weights fit.

    Reckoned, not tried: a batch that is tried and does not fit costs an engine start. vLLM works a prefill off in
    parts; transformers holds the activations of the whole batch's prompts.

    Args:
        scenario: its models, engine, devices and lengths; the batch size is not looked at.
        memory_gib: of each device, as sold.
        share: of that, what the engine may fill.
    """
    models = [scenario.preset, *([scenario.speculation.preset] if scenario.speculation else [])]
    room = share * memory_gib * 2**30 * scenario.tensor_parallel_size
    room -= sum(parameters(model) for model in models) * DTYPE_BYTES[scenario.dtype]
    sequence = sum(cache_bytes_per_token(model, scenario.dtype) for model in models)
    sequence *= scenario.input_tokens + scenario.output_tokens
    if scenario.engine == "transformers":
        sequence += _activation_bytes_per_token(scenario.preset.config, scenario.dtype) * scenario.input_tokens
    beams = scenario.decoding.width if isinstance(scenario.decoding, Beam) else 1
    return max(0, int(room / (sequence * beams)))


def largest_batch(scenario: Scenario, memory_gib: float) -> int:
    """The largest power of two of a scenario's requests that its devices take, the paper's at most; 0 for none."""
    fit = min(MOST_REQUESTS, most_requests(scenario, memory_gib))
    return 1 << (fit.bit_length() - 1) if fit > 0 else 0


def what_fits(scenario: Scenario, memory_gib: float) -> str | None:
    """Of a scenario whose batch is too large, what would fit; None where it is not, or nothing is reckoned."""
    if scenario.feed_forward is not None:  # it holds no keys and values
        return None
    try:
        most = most_requests(scenario, memory_gib)
    except KeyError:  # a model of the user's own, of another shape
        return None
    if scenario.batch_size <= most:
        return None
    count = scenario.tensor_parallel_size
    devices = f"{memory_gib:g} GiB" if count == 1 else f"{count} devices of {memory_gib:g} GiB"
    return (
        f"a batch of {scenario.batch_size} does not fit: by weights, keys and values {devices} hold {most} "
        f"requests of {scenario.input_tokens} + {scenario.output_tokens} tokens on engine {scenario.engine!r}"
    )


def _activation_bytes_per_token(config: dict[str, Any], dtype: str) -> int:
    """Of one layer: its input, its output and the attention's, and the three of the feed-forward layer."""
    return int((4 * config["hidden_size"] + 3 * config["intermediate_size"]) * DTYPE_BYTES[dtype])
