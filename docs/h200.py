"""The figures of docs/h200.md, from the committed journals."""

import dataclasses
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Sequence

from tabulate import tabulate

from docs.journals import BASELINES, all_rows, fenced, read, session
from pytest_llm_energy.measuring import GPU_PLAN
from pytest_llm_energy.planning.durations import Serving, arm_serving, recorded_batches, start_seconds
from pytest_llm_energy.reporting import words
from pytest_llm_energy.reporting.tables import level_table, natural, short_cases, split
from pytest_llm_energy.verdicts.baselines import read_baseline
from pytest_llm_energy.verdicts.journal import Journal
from pytest_llm_energy.verdicts.measured import Arm, CaseKey
from pytest_llm_energy.verdicts.records import Ran
from pytest_llm_energy.verdicts.reference import by_start
from pytest_llm_energy.verdicts.rows import LevelRow

SESSIONS = (
    "first-session",
    "second-session",
    "third-session",
    "fourth-session-tensor-parallel",
    "fourth-session-prefill",
    "fourth-session-online",
    "fifth-session",
    "sixth-session",
    "seventh-session-engines",
    "seventh-session-compile",
    "eighth-session",
    "ninth-session",
    "tenth-session",
    "tenth-session-two-devices",
    "tenth-session-four-devices",
    "eleventh-session-experts-and-traces",
    "eleventh-session-graphs-and-drafts",
)
"""Journals, named by when they were measured; those of one session ran side by side on one host."""

SAME_STACK = (
    *(f"h200/same-stack-{name}" for name in ("twice", "three-starts", "graphs-and-drafts")),
    *(f"h200-busy-host/same-stack-{number}" for number in (*range(1, 17), 19, *range(21, 26))),
)
"""Journals of a stack measured beside itself; of what a later run metered on, that of both runs alone."""

UPGRADE = (
    "",
    "-kernels",
    "-speculation",
    "-graphs-and-lengths",
    "-mixture-and-online",
    "-tasks-and-drafts",
    "-conversations",
    "-batches-and-engines",
    "-two-devices",
)
"""Ends of the names of the journals that measure vLLM 0.20.2 against 0.25.1, each of a part of the suite."""


def conditions() -> str:
    """When, where and with what each session was measured."""
    rows = []
    for name in SESSIONS:
        journal = read(f"h200/{name}")
        opened, stack = journal.opened, {k: v for s in journal.starts.values() for k, v in s.stack.items()}
        rows.append(
            {
                "session": session(name),
                "findings": "\n".join(sorted({check.key.finding for check in journal.checks})),
                "when (UTC)": opened.when[:16].replace("T", " "),
                "boards": "\n".join(sorted({b for o in journal.openings for b in o.fingerprint.boards})),
                "driver": opened.fingerprint.state["driver"],
                **{package: stack.get(package, "") for package in ("vllm", "torch", "transformers")},
                "starts": len(journal.starts),
            }
        )
    return fenced([tabulate(rows, headers="keys", disable_numparse=True)])


def expected_serving(journal: Journal, key: CaseKey) -> Serving:
    """What a case of a journal would be expected to take, by the baseline and windows as short as the journal's."""
    # Not the very shortest: batches may be faster than those by which a window was sized.
    shortest = statistics.quantiles(
        (ran.run.reading.seconds for ran in journal.records if isinstance(ran, Ran)), n=10
    )[0]
    plan = dataclasses.replace(GPU_PLAN, window_seconds=shortest)
    baseline = read_baseline(BASELINES, key.gpu, key.finding)
    batches = list(recorded_batches(baseline, key.case)) if baseline else []
    runs = [ran for ran in journal.records if isinstance(ran, Ran) and ran.key == key]
    arms, served = {(ran.series, ran.arm) for ran in runs}, [ran.identity for ran in runs]
    known = [(bool(each.get("torch_compile")), seconds) for each, seconds in batches if each in served]
    return sum(
        (
            arm_serving(seconds, plan, compiled=compiled)
            for compiled, seconds in known or [(False, 0.0)] * len(arms)
        ),
        start=Serving(),
    )


def costs() -> str:
    """What each session was expected to take beside what it took, without and with engine starts."""
    rows = []
    for name in SESSIONS:
        journal = read(f"h200/{name}")
        if not journal.seconds:
            continue
        expected = sum(expected_serving(journal, key).seconds for key in journal.seconds)
        took = math.fsum(journal.seconds.values())
        starts = journal.starts.values()
        expected_starts = sum(start_seconds(start.engine, journal.opened.gpu) for start in starts)
        starting = math.fsum(start.seconds for start in starts)
        rows.append(
            {
                "session": session(name),
                "cases": len(journal.seconds),
                "expected": f"{expected:.0f} s",
                "took": f"{took:.0f} s",
                "ratio": f"{expected / took:.2f}",
                "starts": len(starts),
                "starts expected": f"{expected_starts:.0f} s",
                "starts took": f"{starting:.0f} s",
                "ratio in all": f"{(expected + expected_starts) / (took + starting):.2f}",
                "took in all": f"{(took + starting) / 60:.1f} min",
            }
        )
    return fenced([tabulate(rows, headers="keys", disable_numparse=True)])


def spread() -> str:
    """How levels scatter: from window to window of a start, from session to session, and from board to board."""
    arms: dict[tuple[CaseKey, str], dict[str, list[Arm]]] = {}
    for name in SESSIONS:
        journal = read(f"h200/{name}")
        for check in journal.measurements:
            for arm in journal.measured(check).arms:
                board = ", ".join(journal.opened_for(check.key).fingerprint.boards)
                arms.setdefault((check.key, arm.name), {}).setdefault(board, []).append(arm)
    rows = []
    cases = short_cases(key for key, _ in arms)
    for (key, name), by_board in sorted(arms.items(), key=lambda item: (natural(item[0][0]), item[0][1])):
        levels = [[arm.joules_per_token for arm in sessions] for sessions in by_board.values()]
        within = [
            statistics.variance([math.log(joules) for joules in joules_of_start])
            for arm in itertools.chain(*by_board.values())
            for joules_of_start in by_start(arm).values()
        ]
        rows.append(
            {
                "finding": key.finding,
                "case": cases[key],
                "arm": name,
                "J/token by board": ", ".join(" / ".join(map(words.joules, sessions)) for sessions in levels),
                "within a start": f"{math.sqrt(statistics.fmean(within)) * 100:.2f} %",
                "sessions apart": _apart(max(levels, key=len), digits=2),
                "boards apart": _apart([statistics.geometric_mean(sessions) for sessions in levels], digits=1),
            }
        )
    return fenced([tabulate(rows, headers="keys", disable_numparse=True)])


def waiting(*names: str, folder: str) -> str:
    """What host-limited levels take by how fast they were: a line through windows of both sides."""
    rows = []
    for name in names:
        journal = read(f"{folder}/{name}")
        for check in journal.measurements:
            for arm in journal.measured(check).arms:
                runs = [*arm.runs, *arm.against]
                joules = [run.joules_per_unit for run in runs]
                seconds = [run.seconds_per_unit for run in runs]
                if statistics.stdev(map(math.log, joules)) < WAITS:
                    continue
                line = statistics.linear_regression(seconds, joules)
                beside = [j / (line.intercept + line.slope * s) for j, s in zip(joules, seconds, strict=True)]
                rows.append(
                    [
                        check.key.finding,
                        check.key.case.partition("[")[2].removesuffix("]"),
                        arm.name,
                        len(runs),
                        f"{1 / max(seconds):.0f} to {1 / min(seconds):.0f}",
                        f"{statistics.stdev(map(math.log, joules)):.1%}",
                        f"{words.joules(line.intercept)} + {line.slope:.0f} W x s/token",
                        f"{statistics.stdev(map(math.log, beside)):.1%}",
                    ]
                )
    headers = ["finding", "case", "arm", "windows", "tokens/s", "J/token scatters", "J/token", "beside that"]
    return fenced([tabulate(rows, headers, disable_numparse=True)])


def _beside(*names: str) -> list[LevelRow]:
    """Levels of journals that were measured beside another stack; an engine of which none was given has none."""
    levels, _ = split([row for name in names for row in all_rows(name)])
    return [row for row in levels if row.change]


def at_equal_speed(*names: str) -> str:
    """Of a stack against itself: its verdicts, how much surer they are at equal speed, and whether that is so."""
    rows = _beside(*names)
    changes = [row.change for row in rows if row.change]
    verdicts = ", ".join(
        f"{count} {verdict}" for verdict, count in Counter(row.verdict for row in rows).most_common()
    )
    known = [(change.joules, speed) for change in changes if (speed := change.cause.at_equal_speed)]
    holds = sum(speed.low <= 0 <= speed.high for _, speed in known)
    wide, narrow = (
        statistics.median(interval.half_width for interval in intervals) for intervals in zip(*known, strict=True)
    )
    return fenced(
        [
            f"levels of a stack against itself: {len(changes)} ({verdicts})",
            f"those of which speed tells: {len(known)}",
            f"of the {len(known)} intervals at equal speed, {holds} hold zero",
            f"their half width at the median: {wide:.1%} for the whole change, {narrow:.1%} at equal speed",
        ]
    )


WAITS = 0.02
"""Windows of what waits for the host scatter by more than this."""


def _apart(levels: Sequence[float], *, digits: int) -> str:
    """The highest above the lowest, in percent; nothing of one alone."""
    return f"{math.log(max(levels) / min(levels)) * 100:.{digits}f} %" if len(levels) > 1 else ""


def starts() -> str:
    """How long engines took to start, by session."""
    rows = []
    for name in SESSIONS:
        of_engine: dict[str, list[float]] = {}
        for start in read(f"h200/{name}").starts.values():
            of_engine.setdefault("vllm" if "vllm" in start.stack else "transformers", []).append(start.seconds)
        for engine, seconds in sorted(of_engine.items()):
            row = [session(name), engine, len(seconds)]
            rows.append([*row, *(f"{of(seconds):.0f} s" for of in (min, statistics.median, max))])
    headers = ["session", "engine", "starts", "shortest", "median", "longest"]
    return fenced([tabulate(rows, headers, disable_numparse=True)])


def against(*names: str, folder: str = "h200", finding: str | None = None) -> str:
    """Two stacks side by side, in one run or several: who is measured against whom, and the levels of both."""
    levels = [row for row in _beside(*(f"{folder}/{name}" for name in names)) if finding in (None, row.key.finding)]
    (reference,) = {row.change.reference for row in levels if row.change}
    differs = dict.fromkeys(part for row in levels if row.change for part in row.change.stack)
    boards: dict[str, set[str]] = {}
    for opened in (opened for name in names for opened in read(f"{folder}/{name}").openings):
        boards.setdefault(opened.when[:10], set()).update(opened.fingerprint.boards)
    lines = [
        *(f"measured {day} on {', '.join(sorted(found))}" for day, found in sorted(boards.items())),
        f"against {reference}",
        f"which differs in: {', '.join(differs) or 'nothing that is recorded'}",
        "",
        level_table(levels, style="simple"),
    ]
    return fenced(lines)
