"""Baselines of several GPU models that are not here, in which an optimisation gains so much."""

from collections.abc import Sequence
from pathlib import Path

from pytest_llm_energy import Scenario
from pytest_llm_energy.verdicts.blessing import bless
from pytest_llm_energy.verdicts.journal import read_journal
from tests.journals import SimulatedSession

EAGER = Scenario(model="Llama-3.1-8B", engine="vllm", input_tokens=512, output_tokens=64, enforce_eager=True)


def bless_graphs(
    folder: Path,
    gpu: str,
    effects: Sequence[float],
    *,
    case: str = "graphs_save_energy[1]",
    eager: Scenario = EAGER,
    first_board: int = 1,
) -> None:
    """Make sessions of cuda-graphs a baseline: one per effect, each on a board of its own."""
    for number, effect in enumerate(effects, start=first_board):
        path = folder.parent / f"{gpu}-{number}-{case}.jsonl"
        session = SimulatedSession(path, gpu=gpu, when=_when(case, number), board=f"{gpu}-board-{number}")
        levels = {"graphs": (eager.replace(enforce_eager=False), 20.0 * (1 + effect)), "eager": (eager, 20.0)}
        session.case("cuda-graphs", case, levels)
        bless(read_journal(path), folder, reason="simulated", add_board=True)


def _when(case: str, number: int) -> str:
    """A time of its own: sessions of one time and board are one, and blessed once."""
    return f"2026-01-{number:02}T{sum(map(ord, case)) % 24:02}:00:00+00:00"
