"""Traces of fields between separators, below a header."""

import csv
import io
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import polars as pl

from pytest_llm_energy.errors import TraceError
from pytest_llm_energy.workloads.tally import Tally, shortened
from pytest_llm_energy.workloads.trace_columns import VLLM_LOG, Columns, columns_of
from pytest_llm_energy.workloads.trace_rows import agree, count_frame, line_count
from pytest_llm_energy.workloads.trace_text import TOO_LONG, Block, LongLine

if TYPE_CHECKING:
    from _csv import Reader

QUOTED_ROWS = 50_000
"""Rows that are counted at once where there are quotes."""

LONGEST_QUOTED = 16 * 2**20
"""Characters after which a field is taken for one that never ends: no model reads so long a prompt."""

CELLS = {"row": pl.Int64, "input": pl.String, "output": pl.String, "extra": pl.String}


class CsvText:
    """A CSV file whose header was read."""

    def __init__(self, file: str, first: Block, wanted: Columns | None, tally: Tally) -> None:
        line, _, self._rest = first.data.partition(b"\n")
        self.separator = max(",;\t", key=lambda mark: line.count(mark.encode()))
        try:
            header = [name.strip() for name in next(csv.reader([_decoded(line)], delimiter=self.separator), [])]
            self.columns = columns_of(file, header, wanted)
        except csv.Error as error:
            raise TraceError(f"{file}: its first line is no header of columns: {error}") from error
        except TraceError as error:
            log = b"Received request " in first.data or b"Generated response " in first.data
            raise TraceError(f"{file}: {VLLM_LOG}") if log else error from None
        self._places = [header.index(self.columns.input), header.index(self.columns.output)]
        self._width = len(header)
        self._file = file
        self._tally = tally

    def count(self, pieces: Iterable[Block | LongLine], say: Callable[[], None]) -> None:
        """Count the rest of the first block, and these.

        Up to the first quote a line is a row, and polars parses them; from there on rows may span lines, which the
        standard library tells.
        """
        left = itertools.chain([Block(data=self._rest, line=2)] if self._rest else [], pieces)
        for piece in left:
            if piece.quoted if isinstance(piece, LongLine) else b'"' in piece.data:
                return self._count_quoted(itertools.chain([piece], left), say)
            if isinstance(piece, LongLine):
                self._tally.refuse(self._file, piece.line, TOO_LONG)
            else:
                self._count_plain(piece)
            say()
        return None

    def _count_plain(self, block: Block) -> None:
        # The field after the last is read too: a row that has one may have its values in wrong columns.
        header = self.separator.join(str(n) for n in range(self._width + 1))
        names = [str(n) for n in (*self._places, self._width)]
        try:
            cells = pl.read_csv(
                header.encode() + b"\n" + block.data,
                columns=names,
                separator=self.separator,
                infer_schema=False,
                quote_char=None,
                truncate_ragged_lines=True,
                encoding="utf8-lossy",
            )
        except pl.exceptions.PolarsError as error:
            where = f"{self._file}, from line {block.line} on"
            raise TraceError(f"{where}: {shortened(str(error), 200)}") from error
        agree(self._file, cells.height, line_count(block.data))
        frame = cells.select(input=names[0], output=names[1], extra=names[2])
        count_frame(frame, self._tally, self._file, first=block.line)

    def _count_quoted(self, pieces: Iterator[Block | LongLine], say: Callable[[], None]) -> None:
        begin = next(pieces)
        rows = csv.reader(self._lines(itertools.chain([begin], pieces)), delimiter=self.separator, strict=True)
        limit = csv.field_size_limit(LONGEST_QUOTED)
        try:
            cells = self._cells(rows, begin.line)
            while batch := list(itertools.islice(cells, QUOTED_ROWS)):
                frame = pl.DataFrame(batch, schema=CELLS, orient="row")
                count_frame(frame, self._tally, self._file, first=begin.line)
                say()
        except csv.Error as error:
            raise TraceError(
                f"{self._file}, line {begin.line + rows.line_num - 1}: {error}: the quotes do not pair, so where "
                "rows end cannot be said"
            ) from error
        finally:
            csv.field_size_limit(limit)

    def _cells(self, rows: "Reader", first: int) -> Iterator[tuple[int, str | None, str | None, str | None]]:
        """Line, input, output and what follows the last column, of each row."""
        line = first
        for fields in rows:
            given, made, extra = (
                fields[place] if place < len(fields) else None for place in (*self._places, self._width)
            )
            yield line, given, made, extra or None
            line = first + rows.line_num

    def _lines(self, pieces: Iterable[Block | LongLine]) -> Iterator[str]:
        for piece in pieces:
            if isinstance(piece, LongLine):
                raise TraceError(f"{self._file}, line {piece.line}: a {TOO_LONG}, where rows may span lines")
            for number, line in enumerate(io.BytesIO(piece.data), piece.line):
                if len(line) > LONGEST_QUOTED:
                    what = f"a line of more than {LONGEST_QUOTED // 2**20} MiB, where rows may span lines"
                    raise TraceError(f"{self._file}, line {number}: {what}")
                yield _decoded(line)


def _decoded(data: bytes) -> str:
    return data.decode(errors="replace")
