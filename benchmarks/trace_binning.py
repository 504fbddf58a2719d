"""How fast a trace is binned, and in how much memory, beside pandas, duckdb and pyarrow.

    python -m benchmarks.trace_binning [--rounds 3] [--json FILE]
    python -m benchmarks.trace_binning --read FILE

Traces are synthetic, with Azure's columns and lengths spread like its: Parquet of 1, 10 and 50 million requests,
and CSV of 27 million. Each tool bins each in a process of its own, from its start to its end, imports included;
files are in the page cache. Tools take turns; seconds are medians over rounds, memory is the most that the process
ever had resident. All must agree on every bin and every statistic. Needs pandas, duckdb and pyarrow.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec
from tabulate import tabulate

from benchmarks.trace_binners import TOOLS
from pytest_llm_energy.hardware.fingerprint import processor

ROOT = Path(__file__).parents[1]
MILLION = 1_000_000
PARQUET = (1, 10, 50)
CSV = 27
"""Millions of requests, as many as the 2024 trace of Azure's conversations has."""
PARTS = 64
AGREED = 1e-9
"""Relative difference of statistics that is left to rounding."""


class Taken(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a tool took for a trace, in its process.

    Attributes:
        tool: its name.
        trace: name of the trace.
        requests: how many it holds.
        seconds: from start to end, the median of the rounds.
        cpu_seconds: of all its threads, the median of the rounds.
        peak_bytes: most memory resident, the median of the rounds.
    """

    tool: str
    trace: str
    requests: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int


class Report(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run of this benchmark."""

    when: str
    processor: str
    cores: int
    versions: dict[str, str]
    rounds: int
    bytes: dict[str, int]
    taken: tuple[Taken, ...]


def main() -> None:
    """Measure, or read what was measured, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there")
    parser.add_argument("--read", type=Path, metavar="FILE", help="print this report instead")
    parser.add_argument("--small", action="store_true", help="a hundredth of the requests, to try the script")
    arguments = parser.parse_args()
    if arguments.read:
        report = read(arguments.read)
    else:
        with tempfile.TemporaryDirectory() as folder:
            report = measured(Path(folder), arguments.rounds, MILLION // 100 if arguments.small else MILLION)
    for line in text_lines(report):
        print(line)
    if arguments.json:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def read(path: Path) -> Report:
    return msgspec.json.decode(path.read_bytes(), type=Report)


def measured(folder: Path, rounds: int, million: int) -> Report:
    """Make the traces and have every tool bin them."""
    traces = {f"{n}M Parquet": (n * million, [folder / f"{n}.parquet"]) for n in PARQUET}
    traces[f"{CSV}M CSV"] = (CSV * million, [folder / f"{CSV}.csv"])
    traces[f"{CSV}M CSV, {PARTS} files"] = (CSV * million, [folder / f"part-{n}.csv" for n in range(PARTS)])
    for name, (requests, paths) in traces.items():
        _say(f"making {name}")
        command = [sys.executable, "-m", "benchmarks.trace_making", str(requests), *map(str, paths)]
        subprocess.run(command, cwd=ROOT, check=True)
    runs: dict[tuple[str, str], list[tuple[float, float, int]]] = {}
    answers: dict[int, tuple[str, dict[str, Any]]] = {}
    for number in range(rounds):
        for name, (requests, paths) in traces.items():
            for tool in TOOLS:
                _say(f"round {number + 1} of {rounds}: {name}, {tool}")
                seconds, found = _run(tool, paths)
                taken = seconds, found.pop("cpu_seconds"), found.pop("peak_bytes")
                runs.setdefault((tool, name), []).append(taken)
                first = answers.setdefault(requests, (tool, found))
                _agree(name, first, (tool, found))
    facts = processor()
    return Report(
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        processor=str(facts["processor"]),
        cores=len(os.sched_getaffinity(0)),
        versions={
            "python": sys.version.split()[0],
            **{name: metadata.version(name) for name in ("polars", "numpy", "pandas", "duckdb", "pyarrow")},
        },
        rounds=rounds,
        bytes={name: sum(path.stat().st_size for path in paths) for name, (_, paths) in traces.items()},
        taken=tuple(
            Taken(
                tool=tool,
                trace=name,
                requests=traces[name][0],
                seconds=round(statistics.median(run[0] for run in taken_by), 3),
                cpu_seconds=round(statistics.median(run[1] for run in taken_by), 3),
                peak_bytes=int(statistics.median(run[2] for run in taken_by)),
            )
            for (tool, name), taken_by in runs.items()
        ),
    )


def text_lines(report: Report) -> Iterator[str]:
    """The report for a person."""
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    yield f"{report.when[:10]}, {report.processor}, {report.cores} cores; {versions}; median of {report.rounds}"
    yield ""
    taken = {(row.tool, row.trace): row for row in report.taken}
    traces = list(dict.fromkeys(row.trace for row in report.taken))
    tools = list(dict.fromkeys(row.tool for row in report.taken))
    yield "Seconds"
    rows = [
        [f"{name} ({report.bytes[name] / 1e6:.0f} MB)", *(f"{taken[tool, name].seconds:.2f}" for tool in tools)]
        for name in traces
    ]
    yield from _table(rows, ["trace", *tools])
    yield ""
    yield "Processor seconds, of all threads"
    rows = [[name, *(f"{taken[tool, name].cpu_seconds:.2f}" for tool in tools)] for name in traces]
    yield from _table(rows, ["trace", *tools])
    yield ""
    yield "Peak memory, MB"
    rows = [[name, *(f"{taken[tool, name].peak_bytes / 1e6:.0f}" for tool in tools)] for name in traces]
    small, large = traces[0], traces[len(PARQUET) - 1]
    growth = [f"{taken[tool, large].peak_bytes / taken[tool, small].peak_bytes:.2f}" for tool in tools]
    yield from _table([*rows, [f"growth, {small.split()[0]} to {large.split()[0]}", *growth]], ["trace", *tools])
    yield ""
    yield "All agree on every bin and every statistic."


def _run(tool: str, paths: list[Path]) -> tuple[float, dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks.trace_binners", tool, *map(str, paths)]
    started = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - started, json.loads(done.stdout)


def _agree(trace: str, first: tuple[str, dict[str, Any]], other: tuple[str, dict[str, Any]]) -> None:
    (one, expected), (two, found) = first, other
    if expected["counts"] != found["counts"]:
        raise SystemExit(f"{trace}: {one} and {two} count differently")
    for side in ("input", "output"):
        for then, now in zip(expected[side], found[side], strict=True):
            if abs(now - then) > AGREED * abs(then):
                raise SystemExit(f"{trace}: {one} and {two} have other statistics of {side}: {then}, {now}")


def _table(rows: list[list[str]], headers: list[str]) -> list[str]:
    align = ["left", *["right"] * (len(headers) - 1)]
    return str(tabulate(rows, headers, disable_numparse=True, colalign=align)).splitlines()


def _say(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{what} ...", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
