"""Rows of a trace, cells of any kind, into a tally: polars tells the sound ones, the others are looked at each."""

from collections.abc import Iterable
from functools import partial

import numpy as np
import polars as pl

from pytest_llm_energy.errors import TraceError
from pytest_llm_energy.workloads.tally import LONGEST, Tally, tokens

TOO_MANY_FIELDS = "more fields than the header"


def count_frame(frame: pl.DataFrame, tally: Tally, file: str, *, first: int) -> None:
    """Count rows.

    Args:
        frame: columns ``input`` and ``output``; where given, ``row`` with the rows' numbers, and ``extra``, null
            for rows that have no more fields than they should.
        tally: what counts them.
        file: their file.
        first: number of the first row, where there is no column ``row``.
    """
    lengths = frame.select(_whole(frame, "input"), _whole(frame, "output"))
    sound = lengths.select(pl.all_horizontal(pl.all().is_between(0, LONGEST).fill_null(value=False))).to_series()
    if "extra" in frame.columns:
        sound &= frame["extra"].is_null()
    if not sound.all():
        lengths = lengths.filter(sound)
        numbered = frame if "row" in frame.columns else frame.with_row_index("row", offset=first)
        others = numbered.filter(~sound)
        if "extra" in others.columns:
            wide = others.filter(pl.col("extra").is_not_null())
            for row, given, made in wide.select("row", "input", "output").iter_rows():
                tally.refuse(file, row, TOO_MANY_FIELDS, partial(_shown, given, made))
            others = others.filter(pl.col("extra").is_null())
        count_values(others.select("row", "input", "output").iter_rows(), tally, file)
    tally.count(lengths["input"].to_numpy(), lengths["output"].to_numpy())


def count_values(rows: Iterable[tuple[int, object, object]], tally: Tally, file: str) -> None:
    """Count rows one by one: number, input and output, which may be anything."""
    inputs, outputs = [], []
    for row, given, made in rows:
        input_tokens, output_tokens = tokens(given), tokens(made)
        if isinstance(input_tokens, int) and isinstance(output_tokens, int):
            inputs.append(input_tokens)
            outputs.append(output_tokens)
        else:
            reason = input_tokens if isinstance(input_tokens, str) else str(output_tokens)
            tally.refuse(file, row, reason, partial(_shown, given, made))
    tally.count(np.array(inputs, np.int64), np.array(outputs, np.int64))


def agree(file: str, counted: int, expected: int) -> None:
    """Refuse a file of which the parser made another number of rows than there are."""
    if counted != expected:
        raise TraceError(f"{file}: {counted} rows were parsed of {expected}; please report this, with the file")


def line_count(data: bytes) -> int:
    """Lines, one that lacks its end included."""
    return data.count(b"\n") + (not data.endswith(b"\n"))


def _whole(frame: pl.DataFrame, name: str) -> pl.Expr:
    """A column as whole numbers; null where it has none."""
    column, kind = pl.col(name), frame.schema[name]
    if kind == pl.String:
        return column.str.strip_chars().cast(pl.Int64, strict=False)
    if kind.is_integer() or kind == pl.Null:
        return column.cast(pl.Int64, strict=False)
    number = column.cast(pl.Float64, strict=False)
    return pl.when(number == number.floor()).then(number.cast(pl.Int64, strict=False)).alias(name)


def _shown(given: object, made: object) -> str:
    return f"input {given!r}, output {made!r}"
