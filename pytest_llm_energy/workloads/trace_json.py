"""Traces of one JSON object a line: a request, or a result of vLLM's benchmark with arrays over its requests."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Annotated, Any

import msgspec
import numpy as np

from pytest_llm_energy.errors import TraceError
from pytest_llm_energy.workloads.tally import LONGEST, MISSING, Tally
from pytest_llm_energy.workloads.trace_columns import VLLM_BENCHMARK, Columns, columns_of
from pytest_llm_energy.workloads.trace_rows import count_values, line_count
from pytest_llm_energy.workloads.trace_text import TOO_LONG, Block, LongLine

NO_OBJECT = "no JSON object"


class JsonText:
    """A file of JSON lines whose first block was read."""

    def __init__(self, file: str, first: Block, wanted: Columns | None, tally: Tally) -> None:
        self.columns = columns_of(file, _keys(file, first.data), wanted)
        self._first = first
        self._file = file
        self._tally = tally
        number = Annotated[int, msgspec.Meta(ge=0, le=LONGEST)]
        names = {"input": self.columns.input, "output": self.columns.output}
        sound = msgspec.defstruct("Sound", [("input", number), ("output", number)], rename=names)
        anything = msgspec.defstruct("Row", [("input", Any, None), ("output", Any, None)], rename=names)
        self._sound: msgspec.json.Decoder[Any] = msgspec.json.Decoder(sound)
        self._any: msgspec.json.Decoder[Any] = msgspec.json.Decoder(anything)

    def count(self, pieces: Iterable[Block | LongLine], say: Callable[[], None]) -> None:
        """Count the first block, and these."""
        count = self._count_results if self.columns == VLLM_BENCHMARK else self._count_requests
        for piece in itertools.chain([self._first], pieces):
            if isinstance(piece, LongLine):
                self._tally.refuse(self._file, piece.line, TOO_LONG)
            else:
                count(piece)
            say()

    def _count_requests(self, block: Block) -> None:
        try:
            rows = self._sound.decode_lines(block.data)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            rows = []
        if len(rows) != line_count(block.data):
            return self._count_one_by_one(block)
        inputs = np.fromiter((row.input for row in rows), np.int64, len(rows))
        return self._tally.count(inputs, np.fromiter((row.output for row in rows), np.int64, len(rows)))

    def _count_one_by_one(self, block: Block) -> None:
        found = []
        for number, line in _lines(block):
            try:
                row = self._any.decode(line.decode(errors="replace"))
            except msgspec.MsgspecError:
                reason = NO_OBJECT if line.strip() else MISSING
                self._tally.refuse(self._file, number, reason, partial(_shown, line))
            else:
                found.append((number, row.input, row.output))
        count_values(found, self._tally, self._file)

    def _count_results(self, block: Block) -> None:
        for number, line in _lines(block):
            if not line.strip():
                continue
            try:
                result = msgspec.json.decode(line, type=_BenchmarkResult)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise TraceError(f"{self._file}, line {number}: no detailed benchmark result: {error}") from error
            if len(result.input_lens) != len(result.output_lens):
                raise TraceError(f"{self._file}, line {number}: input_lens and output_lens differ in length")
            numbers = itertools.count(1)
            count_values(zip(numbers, result.input_lens, result.output_lens, strict=False), self._tally, self._file)


class _BenchmarkResult(msgspec.Struct):
    input_lens: list[Any]
    output_lens: list[Any]


def _keys(file: str, data: bytes) -> list[str]:
    """Names in the first line that is an object."""
    for line in data.split(b"\n"):
        try:
            return list(msgspec.json.decode(line, type=dict[str, msgspec.Raw]))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
    raise TraceError(
        f"{file} begins like JSON, but no line of it is an object: one request a line is read, not an array, nor "
        "an object over several lines"
    )


def _shown(line: bytes) -> str:
    return line[:200].decode(errors="replace")


def _lines(block: Block) -> Iterator[tuple[int, bytes]]:
    lines = block.data.split(b"\n")
    return enumerate(lines[:-1] if block.data.endswith(b"\n") else lines, block.line)
