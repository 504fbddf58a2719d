"""One file of a trace into a tally, block by block, whatever its format."""

from collections.abc import Callable
from pathlib import Path

import polars as pl

from pytest_llm_energy.errors import TraceError
from pytest_llm_energy.workloads.tally import Tally, shortened
from pytest_llm_energy.workloads.trace_columns import Columns, columns_of
from pytest_llm_energy.workloads.trace_csv import CsvText
from pytest_llm_energy.workloads.trace_json import JsonText
from pytest_llm_energy.workloads.trace_rows import agree, count_frame
from pytest_llm_energy.workloads.trace_text import TOO_LONG, LongLine, blocks, opened

SLICES = 256
"""Slices that Parquet is read in: within a large row group each decodes anew what is before it."""

SLICE_ROWS = (2**18, 2**22)
"""Fewest and most rows of one: few stay in the processor's caches and are counted twice as fast as 2**20."""


def read_file(path: Path, wanted: Columns | None, tally: Tally, say: Callable[[], None]) -> str:
    """Count a file's requests; the name of its format.

    Args:
        path: the file.
        wanted: where token counts stand; None to tell by the names of the columns.
        tally: what counts them.
        say: called after every block.

    Raises:
        TraceError: the file cannot be read, or has no such columns.
    """
    with opened(path) as read:
        if read is None:
            return _parquet(path, wanted, tally, say)
        pieces = blocks(read)
        first = next(pieces)
        if isinstance(first, LongLine):
            raise TraceError(f"{path} begins with a {TOO_LONG}")
        kind = JsonText if first.data.lstrip()[:1] in (b"{", b"[") else CsvText
        text = kind(str(path), first, wanted, tally)
        text.count(pieces, say)
        return text.columns.format


def _parquet(path: Path, wanted: Columns | None, tally: Tally, say: Callable[[], None]) -> str:
    try:
        rows = pl.scan_parquet(path, glob=False)
        schema = rows.collect_schema()
        columns = columns_of(path, schema.names(), wanted)
        for name in columns[:2]:
            kind = schema[name]
            if not (kind.is_numeric() or kind in (pl.String, pl.Null)):
                raise TraceError(f"{path}: column {name!r} is of type {kind}, not of numbers")
        expected = rows.select(pl.len()).collect(engine="streaming").item()
        counted = 0
        cells = rows.select(input=pl.col(columns.input), output=pl.col(columns.output))
        fewest, most = SLICE_ROWS
        size = min(max(fewest, expected // SLICES), most)
        for begin in range(0, expected, size):
            frame = cells.slice(begin, size).collect(engine="streaming")
            count_frame(frame, tally, str(path), first=begin + 1)
            counted += frame.height
            say()
    except pl.exceptions.PolarsError as error:
        raise TraceError(f"{path} is damaged, or no Parquet: {shortened(str(error), 200)}") from error
    agree(str(path), counted, expected)
    return columns.format
