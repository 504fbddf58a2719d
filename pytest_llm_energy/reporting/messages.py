"""The message of a failed test: what got hungrier, by how much, how surely, why, and what to do."""

from collections.abc import Iterator, Sequence

import msgspec

from pytest_llm_energy.reporting import why, words
from pytest_llm_energy.reporting.layout import LABEL, WIDTH, clipped, continued, labelled, wrapped
from pytest_llm_energy.verdicts.measured import CaseKey
from pytest_llm_energy.verdicts.rows import Change, ClaimRow, LevelRow, Row
from pytest_llm_energy.verdicts.statistics import ALPHA

SURE = f"each bound wrong at most {ALPHA * 100:g} % of the time"
ALLOW = "allow it: --energy-budget, or llm-energy budget for this case alone"
BLESS = "llm-energy bless JOURNAL --reason ..."
RAISE = "llm-energy bless JOURNAL --allow-raise --reason ..."
BOARD = "llm-energy bless JOURNAL --add-board --reason ..."
INDENT = 4
MOST_CASE = 120
MOST_ARM = 60
MOST_REFERENCE = 190
MOST_NOTE = 300
"""Longest texts that others give names by; with them all a regression still fits one screen."""

SCREEN_LINES = 36
"""Of a screen of 40 lines, those that a message may take."""

MOST_SHORT = 8


def failure(rows: Sequence[Row]) -> str:
    """One screen about the rows that fail a test, worst first: in full while they fit, the others a line each."""
    lines: list[str] = []
    for number, row in enumerate(rows):
        full = list(_level(row) if isinstance(row, LevelRow) else _claim(row))
        after = min(len(rows) - number - 1, MOST_SHORT + 1)
        if lines and len(lines) + 1 + len(full) + (2 + after if after else 0) > SCREEN_LINES:
            return "\n".join([*lines, "", *_short(rows[number:])])
        lines += ["", *full] if lines else full
    return "\n".join(lines)


def _short(rows: Sequence[Row]) -> Iterator[str]:
    """A line for each row, and how many more there are."""
    yield "and:"
    for row in rows[:MOST_SHORT]:
        yield f"  {clipped(_in_short(row), WIDTH - 2)}"
    if len(rows) > MOST_SHORT:
        yield f"  {len(rows) - MOST_SHORT} more, in the table"


def _in_short(row: Row) -> str:
    if isinstance(row, ClaimRow):
        return f"{words.towards_claim(row)}: {row.says}; measured {words.measured(row)}"
    moved = f": {words.change(row.change.joules)} J/{row.unit}; {why.short(row.change)}" if row.change else ""
    return f"arm {clipped(row.arm, MOST_ARM)!r} {words.verdict(row)}{moved}"


def headline(row: Row) -> str:
    """One line about a row, for annotations and summaries."""
    if isinstance(row, ClaimRow):
        return f"{row.key}: {words.towards_claim(row)}: {row.says}; measured {words.measured(row)}"
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
    now, then = words.joules(row.joules), words.joules(change.reference_joules, like=row.joules)
    other = "the other stack, measured in turn," if change.side_by_side else "the reference"
    yield from labelled("what", f"{now} per {row.unit}, where {other} has {then}")
    yield from continued(f"({clipped(change.reference, MOST_REFERENCE)})")
    yield from labelled(
        "how much",
        f"{words.percent(change.joules.value)} energy per {row.unit}, where {words.percent(row.budget)} is allowed",
    )
    yield from labelled(
        "how sure",
        f"between {words.percent(change.joules.low)} and {words.percent(change.joules.high)}, {SURE}; "
        f"{words.counted(row.runs, 'run')} of {words.counted(row.starts, 'engine start')}",
    )
    if change.as_metered:
        yield from continued(
            f"at equal speed of the host's processors; as metered {words.change(change.as_metered)}"
        )
    if change.drift:
        drift, since = words.change(change.drift.joules), change.drift.since[:10]
        yield from labelled("creep", f"{drift} since the first blessed session, {since}")
    yield from labelled("why", why.says(change, row.unit))
    yield from continued(f"({why.figures(change.cause, row.unit)})")
    if known := change.cause.at_equal_speed:
        yield from continued(f"at equal speed {words.change(known)}: {why.equal_speed(known)}")
    if change.phases and (where := why.where(change.phases, change)):
        yield from labelled("where", where)
    direction = " (other stack -> this one)" if change.side_by_side and change.stack else ""
    yield from labelled("changed", f"{why.changed(change.stack)}{direction}")
    yield from labelled("to do", _to_do(row, change))


def _to_do(row: LevelRow, change: Change) -> str:
    if row.verdict != "regressed":
        return clipped(row.note or "", MOST_NOTE)
    if change.other_board:
        return (
            f"boards differ, and so do their hosts: measure both stacks on this one ({row.option_against}); if "
            "the old one takes less here too, find the change that did it; if not, it is the board or its host: "
            f"{BOARD}"
        )
    if not change.stack:
        accept = ALLOW if change.side_by_side else f"bless it: {RAISE}"
        starts = "over fresh engine starts (--energy-runs 6 --energy-starts 3)"
        again = "once the server has been started anew" if row.server else starts
        return (
            f"measure again {again}; if it stays, look for what is not recorded (cooling, other load), or {accept}"
        )
    if change.side_by_side:
        find = "undo that change" if len(change.stack) == 1 else "find which of the changes did it"
        return f"stay on the other stack, or {find}; if it is meant, {ALLOW}"
    return f"find the change that did it; if it is meant: {RAISE}"


def _claim(row: ClaimRow) -> Iterator[str]:
    yield from wrapped(
        f"{_name(row.key)}: {words.towards_claim(row)}: {clipped(row.says, MOST_REFERENCE)}", indent=INDENT
    )
    yield from labelled("measured", f"{words.spelt(row)}, {SURE}")
    if row.paper:
        differs = ": the direction is as claimed, the size is not" if row.reason == "size-differs" else ""
        yield from labelled("paper", f"{row.paper}{differs}")
    of_baselines = row.judged_by == "baselines"
    if of_baselines and row.note:
        yield from labelled("judged", clipped(row.note, MOST_NOTE))
    yield from labelled("to do", _to_do_of_claim(row))
    if row.verdict == "contradicts":
        # On one line, since it is there to be copied; where that is too long, the help says how to find the rest.
        absent = "llm-energy absent" if of_baselines else "llm-energy absent JOURNAL"
        command = f"{absent} '{row.key}: {row.says}' --reason ..."
        fits = len(command) <= WIDTH - LABEL
        yield from continued(command if fits else f"{absent} 'CASE: CLAIM' --reason ... (see its --help)")


def _to_do_of_claim(row: ClaimRow) -> str:
    if row.judged_by == "baselines":
        if row.verdict == "contradicts":
            return "look for what else differs (host, stack); if these GPU models are like that, record it:"
        return "boards of one GPU model differ too much to tell; bless sessions on more boards of either"
    if row.verdict == "contradicts":
        return "look in the table for the arm whose level changed; if this GPU model is like that, record it:"
    return "the runs scatter too much to tell; raise --energy-runs or --energy-window"


def _name(key: CaseKey) -> str:
    return str(msgspec.structs.replace(key, case=clipped(key.case, MOST_CASE)))
