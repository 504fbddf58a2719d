"""The committed journals: what several documents read of them."""

from collections.abc import Iterable
from functools import cache
from pathlib import Path

from pytest_llm_energy.verdicts.baselines import read_published
from pytest_llm_energy.verdicts.journal import Journal, read_journal
from pytest_llm_energy.verdicts.judge import judge_recorded
from pytest_llm_energy.verdicts.measured import CaseKey
from pytest_llm_energy.verdicts.noise import GpuBaselines, Noise, read_gpu_baselines
from pytest_llm_energy.verdicts.rows import Row

ROOT = Path(__file__).parents[1]
BASELINES = ROOT / "baselines"
MEASUREMENTS = ROOT / "docs" / "measurements"


@cache
def read(name: str) -> Journal:
    """A committed journal, such as ``h200/first-session``."""
    return read_journal(MEASUREMENTS / f"{name}.jsonl.gz")


@cache
def rows(name: str, key: CaseKey) -> tuple[Row, ...]:
    """Verdicts without a baseline: claims against the paper, levels against another stack where there is one."""
    return tuple(
        judge_recorded(
            read(name),
            key,
            baseline=None,
            published=read_published(BASELINES, key.finding),
            budget=None,
            gpu_baselines=blessed(key.gpu),
        )
    )


def all_rows(name: str) -> list[Row]:
    """The same of every case of a journal."""
    return [row for key in sorted({check.key for check in read(name).checks}) for row in rows(name, key)]


def noise(name: str, key: CaseKey) -> Noise:
    """How levels scatter, as far as judging a case of a journal assumes it."""
    opened = read(name).opened_for(key)
    return blessed(key.gpu).noise(method=opened.method, simulated=opened.simulated, of=key)


@cache
def blessed(gpu: str) -> GpuBaselines:
    """All blessed sessions of a GPU model."""
    return read_gpu_baselines(BASELINES, gpu)


def session(name: str) -> str:
    """What tables call the session that a journal is of: ``first`` of ``first-session-prefill``."""
    return name.rpartition("/")[2].partition("-session")[0]


def fenced(lines: Iterable[str]) -> str:
    """Lines as a block of text."""
    return "\n".join(["```text", *(line.rstrip() for line in "\n".join(lines).rstrip().splitlines()), "```"])
