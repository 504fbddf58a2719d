"""The ideal energy of a workload: what it would take if the device did nothing but multiply, at its peak rate.

Source: Fernandez et al. 2025, section 2.1 (arXiv 2504.17674): E = TDP / FLOPS * sum of N(I,O) * FLOPs(I,O) over
bins.
"""

from collections.abc import Mapping
from typing import Literal

from pytest_llm_energy.errors import UsageError
from pytest_llm_energy.hardware.catalogue import GpuSpec
from pytest_llm_energy.workloads.bins import Histogram

Rate = Literal["dense", "sparse"]
"""Which peak bf16 rate of tensor cores. Vendors like to print the sparse one, which holds where half of all weights
are zeros in a 2:4 pattern and is twice the other; the models here are dense."""


def joules_per_flop(gpu: GpuSpec, *, rate: Rate = "dense") -> float:
    """Board power over peak rate: the least energy of one operation, were the board at its limit and never idle.

    Raises:
        UsageError: the GPU has no such rate, or its power is not known.
    """
    teraflops = gpu.bf16_dense_tflops if rate == "dense" else gpu.bf16_sparse_tflops
    if teraflops is None or gpu.tdp_watts is None:
        lacking = f"{rate} bf16 rate" if teraflops is None else "board power"
        raise UsageError(f"no ideal energy is known on {gpu.key} ({gpu.name}): the catalogue has no {lacking}")
    return gpu.tdp_watts / (teraflops * 1e12)


def ideal_joules(
    requests: Histogram | Mapping[tuple[int, int], int],
    flops: Mapping[tuple[int, int], int],
    gpu: GpuSpec,
    *,
    rate: Rate = "dense",
) -> float:
    """Ideal energy of a workload, of its requests that are in bins.

    Args:
        requests: a workload, or how many requests there are by input and output length.
        flops: floating-point operations of one request, by input and output length; more lengths do no harm.
        gpu: the specification of what serves it.
        rate: which peak rate.

    Raises:
        UsageError: the GPU has no such rate, or a length has no operations.
    """
    if isinstance(requests, Histogram):
        requests = {(i, o): count for i, o, count in requests.counts}
    if missing := [pair for pair, count in requests.items() if count and pair not in flops]:
        raise UsageError(f"FLOPs of requests of {missing[0][0]} + {missing[0][1]} tokens are wanted and not there")
    operations = sum(count * flops[pair] for pair, count in requests.items() if count)
    return joules_per_flop(gpu, rate=rate) * operations


def above_ideal(joules: float, ideal: float) -> float:
    """How far energy lies above the ideal, as a fraction of the ideal."""
    return joules / ideal - 1
