"""Counts the floating-point operations of forward passes of a model, without weights and without computing any.

The source of ``python -c``: a process of its own, which imports nothing of this package. Torch's own counter counts
matrix multiplications, two operations a multiply-accumulate, on the meta device, whose tensors have shapes alone.
"""

import contextlib
import json
import sys
from typing import Any

import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

EXPERTS_WRITTEN_OUT = {"experts_implementation": "batched_mm"}
"""The one implementation whose products do not depend on the routing, which the meta device cannot know, and which
the counter knows: those of the experts chosen for each token."""


def build(model: dict[str, Any], **changes: Any) -> Any:
    """The model of a configuration on the meta device.

    Attention is written out as matrix products: fused kernels are counted or not depending on the device.

    Args:
        model: model_type and config.
        **changes: to the configuration.

    Raises:
        RuntimeError: it is a mixture of experts, and this version of transformers has one way alone to route them.
    """
    automatic: Any = transformers.AutoModelForCausalLM
    config: Any = transformers.AutoConfig.for_model(model["model_type"], **model["config"] | changes)
    mixture = "num_experts_per_tok" in model["config"]
    if mixture and int(transformers.__version__.split(".")[0]) < 5:
        raise RuntimeError(f"experts are counted by transformers 5.0 or later, not {transformers.__version__}")
    options = EXPERTS_WRITTEN_OUT if mixture else {}
    with torch.device("meta"):
        made = automatic.from_config(config, dtype=torch.bfloat16, attn_implementation="eager", **options)
    return made.eval()


def forward_flops(made: Any, *, tokens: int, past: int) -> int:
    """Operations of one forward pass over so many tokens, after so many whose keys and values are cached.

    Logits are those of the last token alone, as in serving.
    """
    cache: Any = transformers.DynamicCache(config=made.config)
    options = {"past_key_values": cache, "use_cache": True, "logits_to_keep": 1}
    with torch.no_grad(), torch.device("meta"):
        if past:
            made(input_ids=torch.zeros(1, past, dtype=torch.long), **options)
        with FlopCounterMode(display=False) as counter:
            made(input_ids=torch.zeros(1, tokens, dtype=torch.long), **options)
    return int(counter.get_total_flops())


def require_experts_count(made: Any, model: dict[str, Any]) -> None:
    """See to it that the experts of a mixture are counted, which other versions may multiply in other ways.

    Raises:
        RuntimeError: another number of active experts makes no difference.
    """
    active = model["config"].get("num_experts_per_tok")
    if active is None:
        return
    other = build(model, num_experts_per_tok=active - 1 if active > 1 else 2)
    if forward_flops(other, tokens=1, past=0) == forward_flops(made, tokens=1, past=0):
        raise RuntimeError(f"torch {torch.__version__} does not count the experts of {model['name']}")


def main(wanted: dict[str, Any]) -> None:
    """Print one line of JSON: operations of prefills by input length, and of decode steps by context length."""
    made = build(wanted["model"])
    require_experts_count(made, wanted["model"])
    prefill = {n: forward_flops(made, tokens=n, past=0) for n in wanted["inputs"]}
    decode = {n: forward_flops(made, tokens=1, past=n - 1) for n in wanted["contexts"]}
    print(json.dumps({"prefill": prefill, "decode": decode}))


if __name__ == "__main__":
    # Version 4 turns autocasting off, device by device, and the meta device has none that could be turned off.
    torch.autocast = lambda *_, **__: contextlib.nullcontext()
    transformers.logging.set_verbosity_error()
    main(json.loads(sys.argv[1]))
