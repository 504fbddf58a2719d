"""Feed-forward layers alone, as vLLM's kernels compute them: the fused ones of experts, and plain products.

Runs inside a worker, as ``vllm`` does. A step is a decode step without attention: every layer of the model once,
each on the same tokens, so that all weights that a token takes are read from memory. On a GPU it is a CUDA graph,
as it is when vLLM serves.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import vllm
from vllm.model_executor.layers import fused_moe
from vllm.platforms import current_platform

from ..worker import RefusedError, Say
from . import vllm as offline

WARM_UP_STEPS = 3
"""Kernels are compiled and chosen in the first, which a graph must not hold."""

WEIGHTS_SD = 0.02
"""Of normal weights, those of ``serving/engines/normal_weights.py`` too."""


@dataclass(frozen=True, kw_only=True)
class Layer:
    """Weights of a gated feed-forward layer, or of one of experts, which has a first dimension more.

    Attributes:
        into: gate and up, (2 x inner, hidden).
        out: (hidden, inner).
        router: (experts, hidden); None where there is nothing to choose.
    """

    into: Any
    out: Any
    router: Any = None


class Engine:
    """The feed-forward layers of one model on one device."""

    packages = offline.Engine.packages

    def __init__(self, request: dict[str, Any], say: Say) -> None:
        """Make the layers.

        Args:
            request: the scenario (``identity``), and its ``model`` by name and config.
            say: reports a stage that takes long.

        Raises:
            RefusedError: this vLLM has no fused kernels for experts, here or at all.
        """
        identity, model = request["identity"], request["model"]
        config = model["config"]
        self._on_gpu = current_platform.is_cuda_alike()
        self._seed = int(identity["seed"])
        self._hidden = int(config["hidden_size"])
        self._active = config.get("num_experts_per_tok")
        if self._active is not None:
            _require_fused_kernels(on_gpu=self._on_gpu)
        say(f"feed-forward layers of {model['name']}, vLLM {vllm.__version__}")
        torch.manual_seed(self._seed)
        self._make = {
            "device": current_platform.device_type,
            "dtype": getattr(torch, identity["dtype"]),
        }
        self._layers = [self._layer(config) for _ in range(config["num_hidden_layers"])]
        self._steps: dict[str, Callable[[], Any]] = {}
        self._work: dict[str, Any] = {}

    def _layer(self, config: dict[str, Any]) -> Layer:
        inner = int(config["intermediate_size"])
        if self._active is None:
            return Layer(into=self._normal(2 * inner, self._hidden), out=self._normal(self._hidden, inner))
        experts = int(config["num_experts"])
        return Layer(
            into=self._normal(experts, 2 * inner, self._hidden),
            out=self._normal(experts, self._hidden, inner),
            router=self._normal(experts, self._hidden),
        )

    def _normal(self, *shape: int) -> Any:
        return torch.empty(shape, **self._make).normal_(std=WEIGHTS_SD)

    def prepare(self, work: dict[str, Any]) -> None:
        """Take the batch that the following runs serve."""
        self._work = work
        key = f"{work['batch_size']} {work['feed_forward']}"
        if key not in self._steps:
            self._steps[key] = self._made(work)
        self._step = self._steps[key]

    def run(self, batches: int) -> dict[str, Any]:
        """Take the steps of the prepared batch ``batches`` times; the device is done when the clock stops."""
        tokens = self._work["output_tokens"]
        self._synchronise()
        started = time.monotonic()
        for _ in range(batches):
            for _ in range(tokens):
                self._step()
            self._synchronise()
        ended = time.monotonic()
        requests = batches * self._work["batch_size"]
        return {
            "started": started,
            "ended": ended,
            "requests": requests,
            "input_tokens": requests * self._work["input_tokens"],
            "output_tokens": requests * tokens,
        }

    def _made(self, work: dict[str, Any]) -> Callable[[], Any]:
        """A step over all layers for so many tokens."""
        torch.manual_seed(self._seed)
        tokens = torch.randn(work["batch_size"], self._hidden, **self._make)
        calls: list[Callable[[], Any]]
        if self._active is None:
            calls = [partial(dense, tokens, layer) for layer in self._layers]
        elif work["feed_forward"]["routing"]:
            calls = [partial(self._routed, tokens, layer) for layer in self._layers]
        else:  # those that the router would choose
            calls = [partial(experts, tokens, layer, *self._route(tokens, layer)) for layer in self._layers]

        def step() -> None:
            for call in calls:
                call()

        return captured(step) if self._on_gpu else step

    def _routed(self, tokens: Any, layer: Layer) -> Any:
        return experts(tokens, layer, *self._route(tokens, layer))

    def _route(self, tokens: Any, layer: Layer) -> tuple[Any, Any]:
        """Weights and numbers of each token's experts, (tokens, active experts) each."""
        logits = torch.nn.functional.linear(tokens, layer.router)
        weights, numbers, *_ = fused_moe.fused_topk(tokens, logits, self._active, renormalize=False)
        return weights, numbers

    def _synchronise(self) -> None:
        if self._on_gpu:
            torch.cuda.synchronize()


def experts(tokens: Any, layer: Layer, weights: Any, numbers: Any) -> Any:
    """A layer of experts: vLLM's fused kernel."""
    return fused_moe.fused_experts(tokens, layer.into, layer.out, weights, numbers)


def dense(tokens: Any, layer: Layer) -> Any:
    """A gated layer: two products, and vLLM's own activation between them where it has a kernel for the device."""
    both = torch.nn.functional.linear(tokens, layer.into)
    if both.is_cuda:
        inner = torch.empty_like(both[:, : both.shape[1] // 2])
        torch.ops._C.silu_and_mul(inner, both)
    else:
        gate, up = both.chunk(2, dim=-1)
        inner = torch.nn.functional.silu(gate) * up
    return torch.nn.functional.linear(inner, layer.out)


def captured(step: Callable[[], None]) -> Callable[[], None]:
    """A step as a CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_STEPS):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph: Any = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    replay: Callable[[], None] = graph.replay
    return replay


def _require_fused_kernels(*, on_gpu: bool) -> None:
    """See to it that vLLM has them.

    Raises:
        RefusedError: it has not.
    """
    if not on_gpu:
        raise RefusedError("vLLM's fused kernels for experts are GPU kernels: there are none for this CPU")
    missing = [name for name in ("fused_experts", "fused_topk") if not hasattr(fused_moe, name)]
    if missing:
        raise RefusedError(f"vLLM {vllm.__version__} has no {' and no '.join(missing)} in its layers.fused_moe")
