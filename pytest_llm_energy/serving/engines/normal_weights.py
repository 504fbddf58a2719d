"""Writes normally distributed weights of a model into the working directory, in Hugging Face layout.

The source of ``python -c``: a process of its own, which imports nothing of this package. Transformers itself
initialises, so norms are ones and biases zeros, and what a model has not (OLMo's norms) is not made up.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

STANDARD_DEVIATION = 0.02
"""Of the published ``initializer_range`` of Llama, Qwen and OLMo."""

SHARD_SIZE = "4GB"

SPARE = 2
"""Times the weights' size that a GPU must have free: mixtures of experts are taken apart when they are saved."""

NO_ROOM = 3


def write(folder: Path, model: dict[str, Any], *, dtype: str, seed: int) -> None:
    """Initialise a model and save it.

    Raises:
        SystemExit: with NO_ROOM, after a line that says how much is missing.
    """
    automatic: Any = transformers.AutoModelForCausalLM
    config: Any = transformers.AutoConfig.for_model(model["model_type"], **model["config"])
    config.initializer_range = STANDARD_DEVIATION
    options = {"dtype": getattr(torch, dtype)}
    with torch.device("meta"):
        parameters = automatic.from_config(config, **options).parameters()
    needed = sum(each.numel() * each.element_size() for each in parameters)
    free = shutil.disk_usage(folder).free
    what = f"normal weights of {model['name']}"
    if needed > free:
        print(f"{what} need {needed} bytes in {folder.parent}, and {free} are available", flush=True)
        raise SystemExit(NO_ROOM)
    print(f"writing {needed / 1e9:.1f} GB of {what} to {folder.parent}, once", flush=True)
    with torch.device(_device(needed)):
        torch.manual_seed(seed)
        made = automatic.from_config(config, **options)
    made.save_pretrained(folder, max_shard_size=SHARD_SIZE)


def _device(needed: int) -> str:
    """The GPU where the weights fit, which is far faster; else the CPU."""
    if torch.cuda.is_available() and torch.cuda.mem_get_info()[0] > SPARE * needed:
        return "cuda"
    return "cpu"


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    wanted = json.loads(sys.argv[1])
    write(Path.cwd(), wanted["model"], dtype=wanted["dtype"], seed=wanted["seed"])
