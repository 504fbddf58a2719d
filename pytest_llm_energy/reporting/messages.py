"""The message of a failed test: what got hungrier, by how much, how surely, why, and what to do."""

from collections.abc import Iterator, Sequence

import msgspec

from pytest_llm_energy.reporting import why, words
from pytest_llm_energy.reporting.layout import LABEL, WIDTH, clipped, continued, labelled, wrapped
from pytest_llm_energy.verdicts.measured import CaseKey
from pytest_llm_energy.verdicts.rows import Change, ClaimRow, LevelRow, Row
from pytest_llm_energy.verdicts.statistics import ALPHA

BLESS = "llm-energy bless JOURNAL --reason ..."
RAISE = "llm-energy bless JOURNAL --allow-raise --reason ..."
INDENT = 4
MOST_CASE = 120
MOST_ARM = 60
MOST_REFERENCE = 190
MOST_NOTE = 300
"""Longest texts that others give names by; with them all a regression still fits one screen."""


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
        f"budget {words.percent(row.budget)}; {why.short(row.change)}"
    )


def _level(row: LevelRow) -> Iterator[str]:
    arm = clipped(row.arm, MOST_ARM)
    yield from wrapped(f"{_name(row.key)}: arm {arm!r} {words.verdict(row)}", indent=INDENT)
    change = row.change
    if change is None:
        yield from wrapped(f"  {clipped(row.note or '', MOST_NOTE)}", indent=INDENT)
        yield from labelled("to do", f"measure it on this GPU model, then: {BLESS}")
        return
    now, then = words.joules(row.joules), words.joules(change.reference_joules)
    yield from labelled("what", f"{now} per {row.unit}, where the reference has {then}")
    yield from continued(f"({clipped(change.reference, MOST_REFERENCE)})")
    yield from labelled(
        "how much",
        f"{words.percent(change.joules.value)} energy per {row.unit}, where {words.percent(row.budget)} is allowed",
    )
    yield from labelled(
        "how sure",
        f"between {words.percent(change.joules.low)} and {words.percent(change.joules.high)}, "
        f"each bound wrong at most {ALPHA:.0%} of the time; {row.runs} runs of {row.starts} engine start(s)",
    )
    if change.drift:
        drift, since = words.change(change.drift.joules), change.drift.since[:10]
        yield from labelled("creep", f"{drift} since the first blessed session, {since}")
    yield from labelled("why", why.says(change, row.unit))
    yield from continued(f"({why.figures(change.cause, row.unit)})")
    if change.phases and (where := why.where(change.phases, change)):
        yield from labelled("where", where)
    yield from labelled("changed", why.changed(change.stack))
    yield from labelled("to do", _to_do(row, change))


def _to_do(row: LevelRow, change: Change) -> str:
    if row.verdict != "regressed":
        return f"{clipped(row.note or '', MOST_NOTE)}; raise --energy-runs"
    if not change.stack:
        return (
            "measure again over fresh engine starts (--energy-runs 6 --energy-starts 3); if it stays, look for "
            f"what is not recorded (cooling, other load), or bless it: {RAISE}"
        )
    if change.side_by_side:
        return "stay on the other stack, or find what among the changes did it"
    return f"find the change that did it; if it is meant: {RAISE}"


def _claim(row: ClaimRow) -> Iterator[str]:
    yield from wrapped(
        f"{_name(row.key)}: {words.verdict(row)}: {clipped(row.says, MOST_REFERENCE)}", indent=INDENT
    )
    yield from labelled("measured", f"{words.measured(row)}, each bound wrong at most {ALPHA:.0%} of the time")
    if row.paper:
        yield from labelled("paper", row.paper)
    if row.verdict == "contradicts":
        says = "the arms are not what they were: see the levels; or the finding does not hold here:"
    else:
        says = "the runs scatter too much to tell; raise --energy-runs or --energy-window"
    yield from labelled("to do", says)
    if row.verdict == "contradicts":
        # On one line, since it is there to be copied; where that is too long, the help says how to find the rest.
        command = f"llm-energy absent JOURNAL '{row.key}: {row.says}' --reason ..."
        fits = len(command) <= WIDTH - LABEL
        yield from continued(
            command if fits else "llm-energy absent JOURNAL 'CASE: CLAIM' --reason ... (see its --help)"
        )


def _name(key: CaseKey) -> str:
    return str(msgspec.structs.replace(key, case=clipped(key.case, MOST_CASE)))
