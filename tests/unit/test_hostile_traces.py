"""Files that are no traces, or are damaged: an error that says what is wrong, or rows excluded with a reason."""

import contextlib
import gzip
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import polars as pl
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from pytest_llm_energy.cli import main
from pytest_llm_energy.errors import EnergyError, TraceError
from pytest_llm_energy.workloads import trace_csv, trace_files
from pytest_llm_energy.workloads.trace_text import Block, LongLine, Read, blocks
from pytest_llm_energy.workloads.traces import Trace, read_trace

ROOT = Path(__file__).parents[2]
HEADER = b"TIMESTAMP,ContextTokens,GeneratedTokens\n"
JSON = b'{"input_length": 5, "output_length": 7}\n'


@pytest.fixture
def read(tmp_path: Path) -> Callable[[bytes], Trace]:
    def write_and_read(data: bytes) -> Trace:
        path = tmp_path / "trace"
        path.write_bytes(data)
        return read_trace([path])

    return write_and_read


Reading = Callable[[bytes], Trace]

CELLS = {
    "twelve": "not a number",
    "12abc": "not a number",
    "1_000": "not a number",
    "0x10": "not a number",
    "nan": "not a number",
    "\x00": "not a number",
    "": "missing or empty",
    "   ": "missing or empty",
    "-1": "negative",
    "-inf": "negative",
    "-99999999999999999999": "negative",
    "2.5": "not a whole number",
    "16777217": "over 16777216 tokens",
    "2147483649": "over 16777216 tokens",
    "99999999999999999999": "over 16777216 tokens",
    "inf": "over 16777216 tokens",
    "1e300": "over 16777216 tokens",
}


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("side", ["input", "output"])
def test_a_cell_that_is_no_count_excludes_its_row(read: Reading, cell: str, side: str) -> None:
    row = f"x,{cell},5\n" if side == "input" else f"x,5,{cell}\n"
    trace = read(HEADER + b"x,5,5\n" + row.encode() + b"x,6,6\n")
    assert trace.histogram.excluded == {CELLS[cell]: 1}
    assert (trace.histogram.requests, trace.histogram.rows) == (2, 3)
    assert [bad.row for bad in trace.unreadable] == [3]


@pytest.mark.parametrize("cell", ["12", " 12 ", "+12", "12.0", "1.2e1", "012"])
def test_a_cell_that_is_a_count_in_another_spelling_is_read(read: Reading, cell: str) -> None:
    trace = read(HEADER + f"x,{cell},{cell}\n".encode())
    assert trace.histogram.counts == ((32, 16, 1),)


def test_a_row_with_other_fields_than_the_header_is_excluded(read: Reading) -> None:
    for quote in (b"", b'"t",1,1\n'):
        trace = read(HEADER + b"x,1,024,5\nx,5,1,024\nx,5,\nx,5\nx\n\nx,5,5,\n" + quote)
        assert trace.histogram.excluded == {"more fields than the header": 2, "missing or empty": 4}
        assert trace.histogram.requests == 1 + bool(quote)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"no JSON", "no JSON object"),
        (b"[5, 7]", "no JSON object"),
        (b"17", "no JSON object"),
        (b'{"input_length": 5, "output_length": 7', "no JSON object"),
        (b'{"input_length": 5, "output_length": 7} {}', "no JSON object"),
        (b"", "missing or empty"),
        (b"{}", "missing or empty"),
        (b'{"input_length": null, "output_length": 7}', "missing or empty"),
        (b'{"input_length": 5}', "missing or empty"),
        (b'{"input_length": true, "output_length": 7}', "not a number"),
        (b'{"input_length": [5], "output_length": 7}', "not a number"),
        (b'{"input_length": "five", "output_length": 7}', "not a number"),
        (b'{"input_length": -5, "output_length": 7}', "negative"),
        (b'{"input_length": 5.5, "output_length": 7}', "not a whole number"),
        (b'{"input_length": 5, "output_length": 4294967296}', "over 16777216 tokens"),
        (b'{"input_length": 5, "output_length": 1' + b"0" * 400 + b"}", "over 16777216 tokens"),
        (b"\xff\xfe\x00", "no JSON object"),
    ],
)
def test_a_line_that_is_no_request_is_excluded(read: Reading, line: bytes, reason: str) -> None:
    trace = read(JSON + line + b"\n" + JSON)
    assert trace.histogram.excluded == {reason: 1}
    assert trace.histogram.requests == 2
    assert trace.unreadable[0].row == 2


def test_other_encodings_in_other_columns_do_not_matter(read: Reading) -> None:
    assert read(HEADER + "caf\xe9,5,7\n".encode("latin-1")).histogram.requests == 1
    assert read(HEADER + '"caf\xe9",5,7\n'.encode("latin-1")).histogram.requests == 1
    assert read(HEADER + "caf\xe9,5,7\ncaf\xe9,5,7\n".encode("latin-1")[:-5] + b"\xe9,5,7").histogram.rows == 2
    assert read(b'{"text": "caf\xe9", "input_length": 5, "output_length": 7}\n').histogram.requests == 1
    wide_within = HEADER + b"x,5,7\n" + "x,5,7\n".encode("utf-16-le")
    assert read(wide_within).histogram.requests == 1
    assert read(wide_within).histogram.excluded == {"not a number": 1, "missing or empty": 1}


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "is empty"),
        (HEADER, "there are no requests"),
        (HEADER.strip(), "there are no requests"),
        (b"\n\n\n", "no columns with token counts"),
        (b"x,5,7\nx,6,8\n", r"it has 'x', '5', '7'"),
        (b"\x7fELF\x02\x01\x00\x00junk", "is binary"),
        (HEADER.decode().encode("utf-16-le"), "is binary.*byte-order mark"),
        (random.Random(1).randbytes(5000), "is binary|no columns"),
        (gzip.compress(gzip.compress(HEADER)), "packs a packed file"),
        (gzip.compress(b"PAR1"), "packs Parquet"),
        (gzip.compress(b""), "is empty"),
        (b"\x1f\x8b", "cut off or damaged"),
        (b"\x1f\x8bjunk that is no gzip", "cut off or damaged"),
        (b"\x28\xb5\x2f\xfdjunk that is no zstd", "cut off or damaged"),
        (b"BZhjunk", "cut off or damaged|cannot be read"),
        (b"PAR1", "is damaged, or no Parquet"),
        (b"PAR1" + b"x" * 100 + b"PAR1", "is damaged, or no Parquet"),
        (b"[\n" + JSON.strip() + b",\n]", "no line of it is an object"),
        (b'{\n  "input_length": 5\n}', "no line of it is an object"),
        (b'{"a": 1}\n', r"no columns with token counts that are known; it has 'a'"),
    ],
    ids=lambda value: ascii(value)[:30] + str(len(value)),
)
def test_what_is_no_trace_is_refused(
    read: Reading, data: bytes, error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TraceError, match=error) as caught:
        read(data)
    assert str(tmp_path / "trace") in str(caught.value)
    assert main(["bins", str(tmp_path / "trace")]) == 2
    assert capsys.readouterr().err.startswith("llm-energy: ")


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress], ids=["gzip", "zstd"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.9999])
def test_a_packed_file_that_is_cut_off_is_refused(
    read: Reading, pack: Callable[[bytes], bytes], share: float
) -> None:
    generator = random.Random(3)
    rows = "".join(f"{generator.random()},{generator.randint(1, 9000)},7\n" for _ in range(50_000))
    packed = pack(HEADER + rows.encode())
    with pytest.raises(TraceError, match=r"is cut off or damaged.*copy it anew"):
        read(packed[: int(len(packed) * share)])


def test_parquet_that_is_cut_off_or_overwritten_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    pl.DataFrame({"ContextTokens": range(100_000), "GeneratedTokens": range(100_000)}).write_parquet(path)
    data = path.read_bytes()
    for damaged in (data[: len(data) // 2], data[:5000] + os.urandom(5000) + data[10000:]):
        path.write_bytes(damaged)
        with pytest.raises(TraceError, match="is damaged, or no Parquet"):
            read_trace([path])


@pytest.mark.parametrize("stray", [b'"never closed,5,7\n', b'x,5,"7\n', b'"ab"c,5,7\n'])
def test_quotes_that_do_not_pair_are_refused_with_their_line(read: Reading, stray: bytes) -> None:
    with pytest.raises(TraceError, match="quotes do not pair"):
        read(HEADER + b"x,5,7\n" * 10 + stray + b"x,5,7\n" * 10)


def test_a_quote_that_never_closes_is_given_up_on(read: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_csv, "LONGEST_QUOTED", 500)
    with pytest.raises(TraceError, match=r"line .*field larger than field limit"):
        read(HEADER + b'"x,5,7\n' + b"x,5,7\n" * 1000)


@pytest.mark.parametrize("begin", [HEADER, JSON])
def test_a_line_too_long_is_excluded(read: Reading, monkeypatch: pytest.MonkeyPatch, begin: bytes) -> None:
    def short(read: Read) -> Iterator[Block | LongLine]:
        return blocks(read, block=64, longest=200)

    monkeypatch.setattr(trace_files, "blocks", short)
    row = b"x,5,7\n" if begin == HEADER else JSON
    trace = read(begin + row + b"z" * 1000 + b"\n" + row + b"z" * 300)
    assert trace.histogram.requests == 2 + (begin == JSON)
    assert trace.histogram.excluded == {"line of more than 256 MiB": 2}
    assert [bad.row for bad in trace.unreadable] == [3, 5]
    if begin == HEADER:
        with pytest.raises(TraceError, match="line 3: a line of more than 256 MiB, where rows may span lines"):
            read(begin + row + b'"' + b"z" * 1000 + b"\n" + row)
    with pytest.raises(TraceError, match="begins with a line of more than"):
        read(b"z" * 1000)


@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"x,5,7", b"x,0,7", b'"', b",", b"\r", b'{"', b"5"])))
def test_junk_below_a_header_never_loses_a_row(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]
) -> None:
    body = b"\n".join([*lines, b"x,5,7"])
    path = tmp_path_factory.getbasetemp() / "junk"
    path.write_bytes(HEADER + body)
    if b'"' in body:
        with contextlib.suppress(TraceError):
            assert read_trace([path]).histogram.rows > 0
        return
    trace = read_trace([path])
    assert trace.histogram.rows == body.count(b"\n") + 1
    assert trace.histogram.requests + sum(trace.histogram.excluded.values()) == trace.histogram.rows


@given(st.binary(max_size=200), st.sampled_from([b"", b"PAR1", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"{", HEADER]))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, junk: bytes, begin: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "junk"
    path.write_bytes(begin + junk)
    try:
        trace = read_trace([path])
    except EnergyError:
        return
    assert trace.histogram.rows > 0


def test_files_that_cannot_be_opened_are_named(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.symlink_to(path)
    with pytest.raises(EnergyError, match="trace"):
        read_trace([path])


def test_memory_is_bounded_where_files_unpack_to_much(tmp_path: Path) -> None:
    row = b"2023-11-16 18:15:46.6805900,374,44\n"
    path = tmp_path / "trace"
    with path.open("wb") as file:
        file.write(gzip.compress(HEADER))
        part = gzip.compress(row * 1_000_000)
        for _ in range(12):
            file.write(part)
        file.write(gzip.compress(b"z" * 50 * 2**20 + b"\n"))
    code = (
        "import re, sys\n"
        "from pathlib import Path\n"
        "from pytest_llm_energy.workloads.traces import read_trace\n"
        "trace = read_trace([sys.argv[1]])\n"
        # Not ru_maxrss, which a process inherits from the one that started it.
        "peak = re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1]\n"
        "print(trace.histogram.rows, trace.histogram.requests, peak)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    rows, requests, kibibytes = map(int, done.stdout.split())
    assert (rows, requests) == (12_000_001, 12_000_000)
    assert kibibytes < 600 * 1024
