"""Kinds of accelerator by key, with the specification each vendor publishes."""

import difflib
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from types import MappingProxyType

import msgspec

from pytest_llm_energy.errors import UsageError


class GpuSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Published specification of one kind of board.

    Attributes:
        key: mark, baseline folder and id of this kind, such as ``a100`` or ``a100_pcie``.
        family: key shared by the boards of one chip; ``-m a100`` selects the whole family.
        name: marketing name.
        nvml_names: regular expressions; one fully matches what NVML calls the board.
        architecture: chip, such as ``Hopper GH100``.
        memory_gib: device memory as sold.
        memory_gb_per_second: peak rate of that memory; None where boards of this kind differ in it.
        tdp_watts: default power limit of the board.
        bf16_dense_tflops: peak dense bf16 tensor rate; None where bf16 is not supported.
        bf16_sparse_tflops: the same with 2:4 sparsity.
        fp32_tflops: peak fp32 rate outside tensor cores.
        source: the document the figures come from.
    """

    key: str
    family: str
    name: str
    nvml_names: tuple[str, ...] = ()
    architecture: str | None = None
    memory_gib: float | None = None
    memory_gb_per_second: float | None = None
    tdp_watts: float | None = None
    bf16_dense_tflops: float | None = None
    bf16_sparse_tflops: float | None = None
    fp32_tflops: float | None = None
    source: str | None = None


class _Catalogue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: int
    gpus: tuple[GpuSpec, ...]


CPU = GpuSpec(key="cpu", family="cpu", name="no GPU")


@cache
def catalogue() -> Mapping[str, GpuSpec]:
    """Every known kind by key, ``cpu`` first."""
    text = resources.files(__package__).joinpath("catalogue.json").read_bytes()
    gpus = msgspec.json.decode(text, type=_Catalogue).gpus
    return MappingProxyType({spec.key: spec for spec in (CPU, *gpus)})


def gpu_spec(key: str) -> GpuSpec:
    """The specification behind a key.

    Raises:
        UsageError: the key is unknown; the message lists the known ones.
    """
    try:
        return catalogue()[key]
    except KeyError:
        raise UsageError(unknown_gpu_message(key)) from None


def unknown_gpu_message(key: str) -> str:
    """One sentence for an unknown key: what was meant, perhaps, and what is known."""
    close = difflib.get_close_matches(key, catalogue(), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{key!r} is no GPU model key{hint} Known: {', '.join(catalogue())}"


def identify(nvml_name: str) -> GpuSpec:
    """The kind of board that NVML names; a kind of its own when the catalogue does not know it."""
    for spec in catalogue().values():
        if any(re.fullmatch(pattern, nvml_name) for pattern in spec.nvml_names):
            return spec
    words = re.sub(r"\b(nvidia|geforce|tesla|quadro|generation|graphics|gpu)\b", " ", nvml_name.lower())
    key = "_".join(re.findall(r"[a-z0-9]+", words)) or "unknown_gpu"
    return GpuSpec(key=key, family=key, name=nvml_name, source="not in the catalogue")
