"""Scenarios that several findings share, so that their tests share engine starts."""

from collections.abc import Callable, Collection
from typing import Any

import pytest

from pytest_llm_energy import Scenario

SMALL_TALK = Scenario(model="SmolLM2-135M", weights="packaged", input_tokens=16, output_tokens=16)
"""A real model with its real weights, prompts and tokenizer, small enough for two cores."""

LLAMA = Scenario(model="Llama-3.1-8B", input_tokens=512, output_tokens=64)
"""The paper's model, with random weights: no download, and within 1 % of real ones for a dense model."""

SERVED_LLAMA = LLAMA.replace(engine="vllm")
"""The same on the engine that users run, with CUDA graphs."""

TINY = Scenario(model="tiny-llama", input_tokens=32, output_tokens=32)
"""A model that two cores serve on every engine."""

NOISY = 0.05
"""What a claim about a shared CPU bears: joules estimated from process times scatter by a few percent."""

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Those of the paper."""


def at_batch_sizes(
    case: Callable[[int], Any], *, usual: Collection[int], least: int = 1, most: int = 1024
) -> list[Any]:
    """A case per batch size of the paper; a gate runs the usual ones, and ``-m full`` the others too."""
    sizes = [n for n in BATCH_SIZES if least <= n <= most]
    return [case(n) if n in usual else pytest.param(case(n), marks=pytest.mark.full) for n in sizes]
