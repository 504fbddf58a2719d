"""Traces of requests as histograms: which files are a trace, and what was read of them.

Read are CSV, JSON lines and Parquet, as they are or packed by gzip, zstd, bzip2 or xz, told by content; the formats
of published traces are known by their columns (``trace_columns``). Memory does not grow with the requests.
"""

import glob
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from pytest_llm_energy.errors import TraceError, UsageError
from pytest_llm_energy.workloads.bins import PAPER, Bins, Histogram
from pytest_llm_energy.workloads.packaged import packaged_names

if TYPE_CHECKING:
    from pytest_llm_energy.workloads.tally import Tally


class UnreadableRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row that is no request.

    Attributes:
        file: that holds it.
        row: its number in the file, from 1: the line of a text file, the row of another.
        reason: why it cannot be read.
        text: what stands there, shortened.
    """

    file: str
    row: int
    reason: str
    text: str


class Trace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A trace that was read.

    Attributes:
        histogram: its requests by bin.
        files: how many files it is.
        formats: names of their formats.
        unreadable: the first rows that are no requests; the histogram has how many there are.
    """

    histogram: Histogram
    files: int
    formats: tuple[str, ...]
    unreadable: tuple[UnreadableRow, ...] = ()


def read_trace(
    sources: Sequence[str | Path],
    bins: Bins = PAPER,
    *,
    name: str | None = None,
    input_column: str | None = None,
    output_column: str | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Trace:
    """Read files as one trace.

    Args:
        sources: files, folders (every file below, but hidden ones) and patterns such as ``logs/*.csv``.
        bins: the bins to count in.
        name: of the histogram; by default the file's.
        input_column: name of the column with input tokens, where the files' format is none of the known.
        output_column: name of the column with output tokens.
        say: told of progress.

    Raises:
        TraceError: a file cannot be read, lacks columns with token counts, or there are no rows.
        UsageError: the sources or columns mean nothing, or polars is not installed.
    """
    if (input_column is None) != (output_column is None) or (input_column and input_column == output_column):
        raise UsageError("name two columns, --input-column and --output-column, or none")
    try:
        from pytest_llm_energy.workloads import tally as counting
        from pytest_llm_energy.workloads.trace_columns import Columns
        from pytest_llm_energy.workloads.trace_files import read_file
    except ModuleNotFoundError as error:
        raise UsageError(f"reading traces needs {error.name}: pip install 'pytest-llm-energy[traces]'") from error
    wanted = Columns(input_column, output_column) if input_column and output_column else None
    paths = files(sources)
    tally = counting.Tally(bins)
    formats = []
    for number, path in enumerate(paths, 1):
        place = f"{path.name}, file {number} of {len(paths)}" if len(paths) > 1 else path.name
        formats.append(read_file(path, wanted, tally, partial(_tell, say, place, tally)))
    if not tally.rows:
        raise TraceError(f"{' '.join(str(source) for source in sources)}: there are no requests, only headers")
    histogram = tally.histogram(name or (_stem(paths[0]) if len(paths) == 1 else f"{len(paths)} files"))
    return Trace(
        histogram=histogram,
        files=len(paths),
        formats=tuple(sorted(set(formats))),
        unreadable=tuple(tally.unreadable),
    )


def files(sources: Sequence[str | Path]) -> tuple[Path, ...]:
    """The files that sources name, in order, each once.

    Raises:
        UsageError: a source names no file, or two name the same one.
    """
    found: dict[Path, Path] = {}
    for source in sources:
        path = Path(source)
        if path.is_dir():
            below = (p for p in sorted(path.rglob("*")) if not p.is_dir() and not _hidden(p.relative_to(path)))
            named = list(below)
        elif path.exists():
            named = [path]
        else:
            matched = glob.glob(str(source), recursive=True)  # noqa: PTH207, Path.glob takes no absolute patterns
            named = [Path(match) for match in sorted(matched) if not Path(match).is_dir()]
        if not named:
            raise UsageError(f"{source}: no such file, nor a packaged histogram: {', '.join(packaged_names())}")
        for file in named:
            try:
                place = file.resolve()
            except (OSError, RuntimeError) as error:
                raise TraceError(f"{file} cannot be read: {error}") from error
            if place in found:
                raise UsageError(f"{file} is named twice: its requests would count twice")
            found[place] = file
    return tuple(found.values())


def _tell(say: Callable[[str], None], place: str, tally: "Tally") -> None:
    say(f"{place}: {tally.rows:,} rows")


def _hidden(path: Path) -> bool:
    """Whether a part begins with a dot, or an underscore as the marks that Spark leaves."""
    return any(part.startswith((".", "_")) for part in path.parts)


def _stem(path: Path) -> str:
    return path.name.split(".")[0] or path.name
