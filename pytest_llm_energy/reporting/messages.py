"""The message of a failed test: what got hungrier, by how much, how surely, why, and what to do."""

from collections.abc import Iterator, Sequence

from pytest_llm_energy.reporting import words
from pytest_llm_energy.verdicts.rows import ClaimRow, LevelRow, Row
from pytest_llm_energy.verdicts.statistics import ALPHA


def failure(rows: Sequence[Row]) -> str:
    """One screen about the rows that fail a test, worst first."""
    parts = ["\n".join(_level(row) if isinstance(row, LevelRow) else _claim(row)) for row in rows]
    return "\n\n".join(parts)


def headline(row: Row) -> str:
    """One line about a row, for annotations and summaries."""
    if isinstance(row, ClaimRow):
        return f"{row.key}: {row.verdict}: {row.says}; measured {words.measured(row)}"
    if row.change is None:
        return f"{row.key}, {row.arm}: {words.verdict(row)}: {row.note}"
    return (
        f"{row.key}, {row.arm}: {words.verdict(row)}: {words.change(row.change.joules)} J/{row.unit}, "
        f"budget {words.percent(row.budget)}"
    )


def _level(row: LevelRow) -> Iterator[str]:
    yield f"{row.key}: arm {row.arm!r} {words.verdict(row)}"
    change = row.change
    if change is None:
        yield f"  {row.note}"
        yield "  to do:    measure it on this GPU model, then: llm-energy bless JOURNAL --reason ..."
        return
    now, then = words.joules(row.joules), words.joules(change.reference_joules)
    yield f"  what:     {now} per {row.unit}, where the reference has {then}"
    yield f"            ({change.reference})"
    yield (
        f"  how much: {words.percent(change.joules.value)} energy per {row.unit}, "
        f"where {words.percent(row.budget)} is allowed"
    )
    yield (
        f"  how sure: between {words.percent(change.joules.low)} and {words.percent(change.joules.high)}, "
        f"each bound wrong at most {ALPHA:.0%} of the time; {row.runs} runs of {row.starts} engine start(s)"
    )
    if change.drift:
        yield (
            f"  creep:    {words.change(change.drift.joules)} since the first blessed session, "
            f"{change.drift.since[:10]}"
        )
    yield f"  why:      {_why(change.watts, change.seconds)}"
    yield f"  changed:  {', '.join(change.stack) or 'nothing in the recorded stack'}"
    if row.verdict == "regressed" and change.side_by_side:
        yield "  to do:    stay on the other stack, or find what among the changes did it"
    elif row.verdict == "regressed":
        yield (
            "  to do:    find the change that did it; if it is meant, bless the new level: "
            "llm-energy bless JOURNAL --allow-raise --reason ..."
        )
    else:
        yield f"  to do:    {row.note}; raise --energy-runs"


def _why(watts: float, seconds: float) -> str:
    longer = "longer" if seconds >= 0 else "shorter"
    power = "more" if watts >= 0 else "less"
    return (
        f"a token takes {abs(seconds):.1%} {longer} and draws {abs(watts):.1%} {power} power meanwhile "
        "(energy = power x time)"
    )


def _claim(row: ClaimRow) -> Iterator[str]:
    yield f"{row.key}: {words.verdict(row)}: {row.says}"
    yield f"  measured: {words.measured(row)}, each bound wrong at most {ALPHA:.0%} of the time"
    if row.paper:
        yield f"  paper:    {row.paper}"
    if row.verdict == "contradicts":
        yield "  to do:    the arms are not what they were: see the levels; or the finding does not hold here:"
        yield f"            llm-energy absent JOURNAL '{row.key}: {row.says}' --reason ..."
    else:
        yield "  to do:    the runs scatter too much to tell; raise --energy-runs or --energy-window"
