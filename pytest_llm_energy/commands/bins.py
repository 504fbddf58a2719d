"""The command ``llm-energy bins``: how many requests of a trace are in each bin."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tabulate import tabulate

from pytest_llm_energy.commands.progress import clear, print_lines, say
from pytest_llm_energy.errors import EnergyError, TraceError, UsageError
from pytest_llm_energy.workloads.bins import PAPER, Bins, Histogram, Lengths, merged
from pytest_llm_energy.workloads.packaged import packaged, packaged_names, read_histogram, written
from pytest_llm_energy.workloads.traces import Trace, files, read_trace

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]


def add_commands(commands: "Subparsers") -> None:
    """Add the subcommands about workloads."""
    binning = commands.add_parser("bins", help="count the requests of a trace by input and output length")
    add_trace_options(binning)
    binning.add_argument("--json", type=Path, metavar="FILE", help="write the histogram there")
    binning.set_defaults(run=_bins)


def add_trace_options(parser: argparse.ArgumentParser) -> None:
    """What every command has that reads a trace; ``trace_of`` reads it."""
    parser.add_argument(
        "trace",
        nargs="+",
        help="files, folders or patterns that are one trace: CSV, JSON lines or Parquet, packed or not; what "
        "--json wrote of its parts; or one of "
        f"the packaged histograms: {', '.join(packaged_names())}",
    )
    parser.add_argument("--input-column", metavar="NAME", help="column with input tokens, if no known format's")
    parser.add_argument("--output-column", metavar="NAME", help="column with output tokens")
    for side, edges in (("input", PAPER.input_tokens), ("output", PAPER.output_tokens)):
        listed = ",".join(map(str, edges))
        parser.add_argument(
            f"--bins-{side}", type=_edges, default=edges, metavar="N,N,...", help=f"longest {side}s; {listed}"
        )


def trace_of(arguments: argparse.Namespace) -> Trace:
    """The trace that a command's arguments name.

    Raises:
        EnergyError: it cannot be read, or the arguments contradict each other.
    """
    bins = Bins(input_tokens=arguments.bins_input, output_tokens=arguments.bins_output)
    shipped = [name for name in arguments.trace if name in packaged_names() and not Path(name).exists()]
    if parts := _histograms(arguments.trace):
        whole = merged(parts, name=f"{len(parts)} parts") if len(parts) > 1 else parts[0]
        if bins not in (whole.bins, PAPER):
            raise UsageError("what was binned cannot be binned anew: for other bins name the trace itself")
        return Trace(histogram=whole, files=len(parts), formats=("histograms",))
    if not shipped:
        try:
            return read_trace(
                arguments.trace,
                bins,
                input_column=arguments.input_column,
                output_column=arguments.output_column,
                say=say,
            )
        finally:
            clear()
    if len(arguments.trace) > 1:
        raise UsageError(f"{shipped[0]} is a packaged histogram, which is one trace alone: name nothing beside it")
    histogram = packaged(shipped[0])
    if bins != histogram.bins:
        raise UsageError(f"{shipped[0]} is packaged as counts in the paper's bins: for other bins name its trace")
    return Trace(histogram=histogram, files=0, formats=("packaged histogram",))


def _histograms(sources: Sequence[str]) -> list[Histogram]:
    """What ``--json`` wrote of parts of a trace, where all sources are that; none otherwise."""
    found = []
    if any(source in packaged_names() and not Path(source).exists() for source in sources):
        return []
    for path in files(sources):
        if path.suffix != ".json" or not path.is_file():
            return []
        try:
            found.append(read_histogram(path))
        except TraceError:
            return []
    return found


def _edges(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(edge) for edge in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of whole numbers such as 32,128,512") from None


def _bins(arguments: argparse.Namespace) -> None:
    if arguments.json and arguments.json.is_file() and arguments.json.stat().st_size:
        try:
            read_histogram(arguments.json)
        except TraceError as error:
            raise UsageError(f"--json writes over no other file: {error}") from error
    trace = trace_of(arguments)
    print_lines(trace_lines(trace))
    if arguments.json:
        try:
            arguments.json.write_bytes(written(trace.histogram))
        except OSError as error:
            raise EnergyError(f"{arguments.json} cannot be written: {error.strerror}") from error
        print(f"written: {arguments.json}")


def trace_lines(trace: Trace) -> Iterator[str]:
    """A trace for a person: counts by bin, what is in none and why, and the lengths."""
    histogram = trace.histogram
    files = f" in {trace.files} files" if trace.files > 1 else ""
    yield f"{histogram.name}: {histogram.rows:,} rows{files} ({', '.join(trace.formats)})"
    if histogram.source:
        yield f"source: {histogram.source}; licence: {histogram.license}"
    yield ""
    yield f"Requests by bin: {histogram.requests:,} of {histogram.rows:,}"
    yield from counts_table(histogram).splitlines()
    if histogram.excluded:
        yield ""
        yield f"In no bin: {sum(histogram.excluded.values()):,}"
        yield from excluded_table(histogram).splitlines()
    if trace.unreadable:
        yield ""
        yield "Rows that cannot be read begin with"
        for row in trace.unreadable:
            yield f"  {row.file}:{row.row}: {row.reason}{f': {row.text}' if row.text else ''}"
    if histogram.input and histogram.output:
        yield ""
        yield "Lengths in tokens, of all requests that can be read"
        yield from lengths_table([("input", histogram.input), ("output", histogram.output)]).splitlines()


def counts_table(histogram: Histogram) -> str:
    """Requests by bin: inputs are rows, outputs columns."""
    counts = {(i, o): count for i, o, count in histogram.counts}
    outputs = histogram.bins.output_tokens
    rows = [[f"<= {i}", *(_count(counts.get((i, o), 0)) for o in outputs)] for i in histogram.bins.input_tokens]
    headers = ["input \\ output", *(f"<= {o}" for o in outputs)]
    return _table(rows, headers, ["right"] * len(headers))


def excluded_table(histogram: Histogram) -> str:
    """Requests in no bin, by reason, the most frequent first."""
    by_count = sorted(histogram.excluded.items(), key=lambda item: (-item[1], item[0]))
    rows = [[reason, _count(count), f"{count / histogram.rows:.2%}"] for reason, count in by_count]
    return _table(rows, ["reason", "rows", "share"], ["left", "right", "right"])


def lengths_table(rows: Sequence[tuple[str, Lengths]]) -> str:
    """Statistics as the paper's Tables 1 and 2 have them, with the extremes."""
    cells = [
        [name, f"{of.mean:.2f} ± {of.std:.2f}", f"{of.median:g}", f"{of.p99:.10g}", str(of.min), str(of.max)]
        for name, of in rows
    ]
    return _table(cells, ["", "mean ± std", "median", "99th", "min", "max"], ["left", *["right"] * 5])


def _table(rows: list[list[str]], headers: list[str], align: list[str]) -> str:
    return str(tabulate(rows, headers, disable_numparse=True, colalign=align))


def _count(count: int) -> str:
    return f"{count:,}" if count else "."
