"""The two tables: levels and claims."""

import re
from collections.abc import Iterable, Sequence

from pytest_llm_energy.reporting import why, words
from pytest_llm_energy.reporting.carbon import CarbonIntensity
from pytest_llm_energy.verdicts.blessing import Blessed
from pytest_llm_energy.verdicts.measured import CaseKey
from pytest_llm_energy.verdicts.rows import ClaimRow, LevelRow, Row


def level_table(rows: Sequence[LevelRow], *, style: str, carbon: CarbonIntensity | None = None) -> str:
    """Joules per token of every arm against its reference; columns nobody needs are left out.

    Args:
        rows: levels in the order to show.
        style: one of tabulate's formats.
        carbon: adds a column of grams of CO2e per million output tokens, None for none.
    """
    cases = short_cases(row.key for row in rows)
    mixed = len({row.change.side_by_side for row in rows if row.change}) > 1
    records = [
        {
            "finding": row.key.finding,
            "case": cases[row.key],
            "arm": row.arm,
            "J/token": f"{words.joules(row.joules)}{'/call' if row.unit == 'call' else ''}",
            GRAMS: _grams(row, carbon) if carbon else "",
            "spread": words.spread(row),
            "runs": str(row.runs),
            "against": _against(row) if mixed else "",
            "reference": words.joules(row.change.reference_joules) if row.change else "",
            "change": words.change(row.change.joules) if row.change else "",
            "as metered": _as_metered(row),
            "since first": words.change(row.change.drift.joules) if row.change and row.change.drift else "",
            "at equal speed": _at_equal_speed(row),
            "budget": words.budget(row.budget) if row.verdict != "shown" else "",
            "sees": f">= {row.change.joules.half_width * 100:.1f} %" if row.change else "",
            "why": why.short(row.change) if row.change and row.verdict in CHANGED else "",
            "verdict": words.verdict(row),
        }
        for row in rows
    ]
    return table(records, right=("J/token", GRAMS, "spread", "runs", "reference"), style=style)


CHANGED = frozenset({"regressed", "improved"})
"""Verdicts about a level that is said to have changed, and so has a why."""


GRAMS = "gCO2e/Mtok"
"""Heading of the column of grams per million output tokens (per million calls, where a row says so)."""


def _at_equal_speed(row: LevelRow) -> str:
    known = row.change.cause.at_equal_speed if row.change else None
    return words.change(known) if known else ""


def _as_metered(row: LevelRow) -> str:
    return words.change(row.change.as_metered) if row.change and row.change.as_metered else ""


def _against(row: LevelRow) -> str:
    if row.change is None:
        return ""
    return "other stack" if row.change.side_by_side else "baseline"


def _grams(row: LevelRow, carbon: CarbonIntensity) -> str:
    return f"{words.significant(carbon.grams(row.joules * 1e6))}{'/Mcall' if row.unit == 'call' else ''}"


def claim_table(rows: Sequence[ClaimRow], *, style: str) -> str:
    """What each finding asserts, what was measured, and what the paper says."""
    cases = short_cases(row.key for row in rows)
    records = [
        {
            "finding": row.key.finding,
            "case": cases[row.key],
            "claim": row.says,
            "measured": words.measured(row),
            "paper": row.paper or "",
            "verdict": words.verdict(row),
        }
        for row in rows
    ]
    return table(records, right=(), style=style)


def blessing_table(levels: Sequence[Blessed]) -> str:
    """What blessing does to every level, in words that ``Blessed`` explains."""
    levels = sorted(levels, key=lambda level: natural(level.key))
    cases = short_cases(level.key for level in levels)
    records = [
        {
            "finding": level.key.finding,
            "case": cases[level.key],
            "arm": level.arm,
            "kind": level.kind,
            "blessed": words.joules(level.reference_joules) if level.reference_joules else "",
            "J/token": f"{words.joules(level.joules)}{'/call' if level.unit == 'call' else ''}",
            "change": words.change(level.change) if level.change else "",
        }
        for level in levels
    ]
    return table(records, right=("blessed", "J/token"), style="simple")


def short_cases(of: Iterable[CaseKey]) -> dict[CaseKey, str]:
    """What tables call each case: its parameters alone where its finding has one test, else all of it."""
    keys = set(of)
    tests: dict[str, set[str]] = {}
    for key in keys:
        tests.setdefault(key.finding, set()).add(key.case.partition("[")[0])
    return {
        key: key.case.partition("[")[2].removesuffix("]") or key.case.replace("_", " ")
        if len(tests[key.finding]) == 1
        else key.case.replace("_", " ")
        for key in keys
    }


def natural(key: CaseKey) -> tuple[str, list[tuple[int, str]]]:
    """Sort key that puts 8 before 16."""
    parts = re.findall(r"\d+|\D+", key.case)
    return key.finding, [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def split(rows: Sequence[Row]) -> tuple[list[LevelRow], list[ClaimRow]]:
    """Level rows and claim rows, each in order of finding and case."""
    levels = [row for row in rows if isinstance(row, LevelRow)]
    claims = [row for row in rows if isinstance(row, ClaimRow)]
    return sorted(levels, key=lambda row: natural(row.key)), sorted(claims, key=lambda row: natural(row.key))


def table(records: list[dict[str, str]], *, right: Sequence[str], style: str) -> str:
    """Records as a table, without the columns in which nothing stands; ``right`` are aligned to the right."""
    from tabulate import tabulate  # only a run with something to show needs it

    columns = [name for name in (records[0] if records else {}) if any(r[name] for r in records)]
    cells = [[_unrepeated(records, i, name) for name in columns] for i in range(len(records))]
    alignment = ["right" if name in right else "left" for name in columns]
    return str(tabulate(cells, columns, tablefmt=style, colalign=alignment, disable_numparse=True))


def _unrepeated(records: list[dict[str, str]], index: int, name: str) -> str:
    """A finding or case is written once for the rows it spans."""
    spanning = {"finding": ("finding",), "case": ("finding", "case")}.get(name)
    previous = records[index - 1] if index else None
    if spanning and previous and all(previous[n] == records[index][n] for n in spanning):
        return ""
    return records[index][name]
