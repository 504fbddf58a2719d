"""Which of two GPU models is the faster one."""

from collections.abc import Iterable

from pytest_llm_energy.errors import BaselineError
from pytest_llm_energy.hardware.catalogue import catalogue
from pytest_llm_energy.verdicts.baselines import Figure

ABOUT_AS_FAST = 0.1
"""Relative difference of memory rates up to which GPU models count as equally fast: data sheets round."""


def faster_first(one: str, other: str, figure: Figure | None) -> tuple[str, str]:
    """Two GPU models, the faster one first: as the paper ranks their families, or else by their memory's rate.

    Decoding a small batch reads all weights for each token, so how long a GPU takes for one is told by the rate of
    its memory and not by that of its arithmetic, by which an L40S would be faster than an A100. What was published
    is checked as it was published; the paper ranks its three GPUs as their memories do.

    Args:
        one: key of a GPU model.
        other: key of another.
        figure: what was published, with the order of GPU models that it is about; None for memory alone.

    Raises:
        BaselineError: neither is the faster one, or that is not known.
    """
    specs = [catalogue().get(gpu) for gpu in (one, other)]
    here, there = (_rank(spec.family, figure) if spec else None for spec in specs)
    if here is not None and there is not None and here != there:
        return (one, other) if here < there else (other, one)
    rates = {
        gpu: spec.memory_gb_per_second if spec else None for gpu, spec in zip((one, other), specs, strict=True)
    }
    if unknown := [gpu for gpu, rate in rates.items() if rate is None]:
        raise BaselineError(f"how fast the memory of {' and '.join(unknown)} is, is not known")
    slower, faster = sorted(rates, key=lambda gpu: rates[gpu] or 0.0)
    low, high = (rates[gpu] or 0.0 for gpu in (slower, faster))
    if high <= low * (1 + ABOUT_AS_FAST):
        raise BaselineError(f"they are about as fast (memory of {rates[one]:g} and {rates[other]:g} GB/s)")
    if here is not None and here == there:
        raise BaselineError("the paper ranks neither above the other")
    return faster, slower


def _rank(family: str, figure: Figure | None) -> int | None:
    """The place of a family of GPUs in what was published, 0 for the fastest; None where it has none."""
    if figure is None or "gpus" not in figure.where:
        return None
    for place, level in enumerate(figure.where["gpus"].split(" > ")):
        if family in _families(level.split(", ")):
            return place
    return None


def _families(gpus: Iterable[str]) -> set[str]:
    return {catalogue()[gpu].family for gpu in gpus if gpu in catalogue()}
