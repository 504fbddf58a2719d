"""Speculative decoding saves at small batches and costs at large ones, where verifying is no longer free.

A draft model proposes four tokens and the model verifies them in one pass. At batch 1 that pass costs hardly more
than one for a single token; at batch 128 the arithmetic of rejected tokens is paid for. Random weights agree on
next to nothing, so the engine makes acceptance up: three tokens per verification on average, as a good draft has.
"""

from typing import Any

import msgspec
import pytest

from energy_tests.scenarios import SERVED_LLAMA
from pytest_llm_energy import MODELS, Arms, Scenario, Speculation, costs, saves
from pytest_llm_energy.energy_meter import EnergyMeter
from pytest_llm_energy.serving.models import Model


def drafted(plain: Scenario, draft: str | Model) -> Arms:
    speculation = Speculation(draft=draft, lookahead=4, acceptance_length=3.0)
    return Arms(speculative=plain.replace(speculation=speculation), plain=plain)


def widened(draft: Model, model: Model) -> Model:
    """A draft whose vocabulary is as long as the model's, for engines want them alike.

    Both have the same tokenizer, whose tokens the two pad to different lengths: 128 rows of the draft's embedding,
    of 152,000.
    """
    return msgspec.structs.replace(
        draft, name=f"{draft.name}-widened", config={**draft.config, "vocab_size": model.config["vocab_size"]}
    )


OF_8B = drafted(SERVED_LLAMA, "Llama-3.2-1B")

DISTILLED = MODELS["DeepSeek-R1-Distill-Qwen-32B"]
OF_32B = drafted(
    SERVED_LLAMA.replace(model=DISTILLED), widened(MODELS["DeepSeek-R1-ReDistill-Qwen-1.5B"], DISTILLED)
)


NOT_ACCEPTED = "vLLM makes acceptance up on GPUs only, and random weights agree on next to nothing"


def at(*batch_sizes: int, full: tuple[int, ...]) -> list[Any]:
    """Both of the paper's pairs; a gate runs the smaller one at some batch sizes."""
    usual = [OF_8B.at(batch_size=n) for n in batch_sizes]
    others = [OF_8B.at(batch_size=n) for n in full]
    larger = [OF_32B.at(batch_size=n).named(f"32B-{n}") for n in sorted((*batch_sizes, *full))]
    return [*usual, *(pytest.param(arms, marks=pytest.mark.full) for arms in (*others, *larger))]


@pytest.mark.energy_cases("arms", cpu=NOT_ACCEPTED, gpu=at(1, full=(2, 4, 8)))
def test_speculation_saves_at_small_batches(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(energy_meter.compare(arms), saves, published="saves-at-small-batch")


@pytest.mark.energy_cases("arms", cpu=NOT_ACCEPTED, gpu=at(128, full=(64, 256)))
def test_speculation_costs_at_large_batches(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(energy_meter.compare(arms), costs, published="costs-at-large-batch")


@pytest.mark.energy_cases("arms", cpu=NOT_ACCEPTED, gpu=at(full=(16, 32)))
def test_in_between_levels_alone_are_judged(energy_meter: EnergyMeter, arms: Arms) -> None:
    energy_meter.check(energy_meter.compare(arms))
