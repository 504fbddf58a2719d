"""What every report shouts: levels that may take more than they might."""

from collections.abc import Iterator, Sequence

from pytest_llm_energy.reporting import words
from pytest_llm_energy.verdicts.rows import LevelRow, Row

SUITE_WIDE = {
    "command line": ("every level", "the command line"),
    "ini file": ("every level without a budget of its own", "the ini file's energy_budget"),
}
"""Whom a budget is for that no single case has, and who says so."""


def loosened_lines(rows: Sequence[Row]) -> Iterator[str]:
    """A line for each budget that is looser than it was: whose, how much, since when and why."""
    yield from dict.fromkeys(_line(row) for row in rows if isinstance(row, LevelRow) and row.loosened)


def _line(row: LevelRow) -> str:
    assert row.loosened is not None
    loosened = row.loosened
    who, why = SUITE_WIDE.get(loosened.by, (str(row.key), _why(row)))
    return f"LOOSENED: {who} may take {words.budget(row.budget)} (was {words.budget(loosened.was)}): {why}"


def _why(row: LevelRow) -> str:
    assert row.loosened is not None
    if row.loosened.by == "test":
        return "the test says so"
    if row.loosened.when is None:
        return "its baseline says so, without a reason"
    return f"{row.loosened.reason}, {row.loosened.when[:10]}"
