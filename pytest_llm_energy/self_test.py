"""The gate tested on this host: one stack twice, and an increase of a known size, with the real meter and engine.

The first must be ``ok`` and the second ``regressed``. The increase is work that nobody counts: of 18 batches that
are served, 17 are counted, so a token of theirs took 6 % more than one.
"""

import math
from collections.abc import Iterator

import msgspec

from pytest_llm_energy.errors import EnergyError
from pytest_llm_energy.reporting import words
from pytest_llm_energy.verdicts.judge import decide
from pytest_llm_energy.verdicts.measured import CaseKey
from pytest_llm_energy.verdicts.rows import ClaimRow, LevelRow, Row
from pytest_llm_energy.verdicts.statistics import Interval
from pytest_llm_energy.works import EngineWork, MeteredWindow

UNCHANGED, PLANTED = "unchanged", "planted"

EXPECTED = {UNCHANGED: "ok", PLANTED: "regressed"}

CPU_BUDGET = 0.25
"""On a shared CPU, where joules are estimated, a smaller one could not be defended."""

FINDING = "self-test"

NEEDS = "--energy-self-test needs a scenario of static batches among the test's parameters"
"""Why a test is skipped that measures nothing, or something else."""


def key_of(key: CaseKey) -> CaseKey:
    """The case as one of the self-test: what is measured in it must not be taken for the case's own."""
    return msgspec.structs.replace(key, finding=FINDING, case=f"{key.finding} {key.case}")


def increase_for(budget: float) -> float:
    """Relative increase that must be caught: as much above the budget as that is above nothing."""
    return 2 * budget


class Planted(EngineWork):
    """A scenario of whose batches some are served and not counted."""

    increase = 0.0

    def metered(self, batches: int, window_seconds: float) -> MeteredWindow:
        """Meter more batches than are counted, in the proportion that is planted.

        Raises:
            EngineError: the engine failed.
            MeterError: the devices cannot be read.
        """
        counted = max(batches, math.ceil(1 / self.increase))
        extra = max(1, round(counted * self.increase))
        counted = max(1, round(extra / self.increase))
        window = super().metered(counted + extra, window_seconds)
        served = window.served
        share = counted / (counted + extra)
        fewer = msgspec.structs.replace(
            served,
            requests=round(served.requests * share),
            input_tokens=round(served.input_tokens * share),
            output_tokens=round(served.output_tokens * share),
        )
        return window._replace(served=fewer)


def statements(levels: list[Row], budget: float) -> Iterator[tuple[ClaimRow, str | None]]:
    """What should be found and what was, with the reason code where that is something else."""
    for row in levels:
        assert isinstance(row, LevelRow)
        assert row.change is not None, "measured on both sides"
        verdict, _, _ = decide(row.change.joules, budget)
        right = verdict == EXPECTED[row.arm]
        yield _claim(row, row.change.joules, budget, right=right), None if right else verdict


def _claim(row: LevelRow, change: Interval, budget: float, *, right: bool) -> ClaimRow:
    what = "the same stack twice" if row.arm == UNCHANGED else f"{words.budget(increase_for(budget))} planted"
    return ClaimRow(
        key=row.key,
        says=f"{what} is {EXPECTED[row.arm]} (budget {words.budget(budget)})",
        interval=change,
        kind="effect",
        verdict="new" if right else "inconclusive",
    )


def fault(row: ClaimRow, found: str) -> EnergyError:
    """The error about a gate that is not to be trusted here."""
    return EnergyError(
        f"the gate is not to be trusted on this host: {row.says}, and it was {found}: "
        f"{words.change(row.interval)}. llm-energy doctor says what budget this host can defend; more and longer "
        "windows tell finer differences (--energy-runs, --energy-window)"
    )
