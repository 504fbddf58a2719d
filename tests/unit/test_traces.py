"""Traces as files: every format, packed or not, one file or many."""

import bz2
import csv
import gzip
import io
import json
import lzma
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import polars as pl
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from pytest_llm_energy.cli import main
from pytest_llm_energy.errors import TraceError, UsageError
from pytest_llm_energy.workloads import trace_files
from pytest_llm_energy.workloads.bins import Bins, Histogram
from pytest_llm_energy.workloads.packaged import packaged, read_histogram
from pytest_llm_energy.workloads.trace_text import LongLine, blocks
from pytest_llm_energy.workloads.traces import read_trace

ROOT = Path(__file__).parents[2]

REQUESTS = [(374, 44), (4808, 10), (1, 1), (8192, 512), (8193, 5), (20, 0), (0, 7)]
COUNTS = {(512, 64): 1, (8192, 16): 1, (32, 8): 1, (8192, 512): 1}
EXCLUDED = {"longer than the bins": 1, "no output tokens": 1, "no input tokens": 1}


def csv_text(header: str, row: str) -> bytes:
    lines = [header, *(row.format(i=i, o=o, t=i + o) for i, o in REQUESTS)]
    return ("\n".join(lines) + "\n").encode()


def json_lines(*, input_key: str, output_key: str, **others: object) -> bytes:
    rows = [{"timestamp": 27, input_key: i, output_key: o, **others} for i, o in REQUESTS]
    return ("\n".join(json.dumps(row) for row in rows) + "\n").encode()


AZURE = csv_text("TIMESTAMP,ContextTokens,GeneratedTokens", "2023-11-16 18:15:46.6805900,{i},{o}")

BENCHMARK = {
    "date": "20260101-120000",
    "backend": "vllm",
    "total_input_tokens": 5,
    "request_throughput": 1.5,
    "input_lens": [i for i, _ in REQUESTS],
    "output_lens": [o for _, o in REQUESTS],
    "itls": [[0.1]] * len(REQUESTS),
    "generated_texts": ['a "text"\n'] * len(REQUESTS),
}

FORMATS = {
    "Azure LLM inference trace": AZURE,
    "BurstGPT": csv_text(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
        "5,ChatGPT,{i},{o},{t},Conversation log",
    ),
    "Mooncake": json_lines(input_key="input_length", output_key="output_length", hash_ids=[0, 1]),
    "Qwen-Bailian": json_lines(
        input_key="input_length", output_key="output_length", chat_id=1, parent_chat_id=-1, type="text", turn=1
    ),
    "Vidur": csv_text("num_prefill_tokens,num_decode_tokens,pd_ratio", "{i},{o},1.5"),
    "vLLM benchmark": json.dumps(BENCHMARK).encode(),
}


PACKERS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd.compress}


def histogram_of(path: Path, data: bytes) -> Histogram:
    path.write_bytes(data)
    return read_trace([path]).histogram


def counts_of(histogram: Histogram) -> dict[tuple[int, int], int]:
    return {(i, o): count for i, o, count in histogram.counts}


def whole(histogram: Histogram) -> bool:
    return counts_of(histogram) == COUNTS and histogram.excluded == EXCLUDED and histogram.rows == len(REQUESTS)


@pytest.mark.parametrize("name", FORMATS)
def test_formats_are_told_by_their_columns(tmp_path: Path, name: str) -> None:
    path = tmp_path / "trace"
    path.write_bytes(FORMATS[name])
    trace = read_trace([path])
    assert trace.formats == (name,)
    assert whole(trace.histogram)
    assert not trace.unreadable
    assert trace.histogram.input is not None
    inputs = [i for i, _ in REQUESTS]
    assert trace.histogram.input.mean == pytest.approx(statistics.fmean(inputs))
    assert trace.histogram.input.std == pytest.approx(statistics.stdev(inputs))
    assert trace.histogram.input.median == 374
    assert trace.histogram.input.p99 == pytest.approx(8192.94)
    assert (trace.histogram.input.min, trace.histogram.input.max) == (0, 8193)


def test_columns_with_other_names_are_named(tmp_path: Path) -> None:
    fields = csv_text("id;prompt;completion", "a;{i};{o}")
    lines = json_lines(input_key="prompt", output_key="completion")
    for data in (fields, lines):
        path = tmp_path / "trace"
        path.write_bytes(data)
        assert whole(read_trace([path], input_column="prompt", output_column="completion").histogram)


@pytest.mark.parametrize("kind", [pl.Int64, pl.UInt16, pl.Float64, pl.String, pl.Decimal(10, 2)], ids=str)
def test_parquet_is_read_whatever_its_numbers_are(tmp_path: Path, kind: pl.DataType) -> None:
    path = tmp_path / "trace"
    rows = pl.DataFrame(REQUESTS, schema=["ContextTokens", "GeneratedTokens"], orient="row")
    rows.cast(kind).write_parquet(path)
    assert whole(read_trace([path]).histogram)


@pytest.mark.parametrize("kind", [pl.List(pl.Int64), pl.Boolean, pl.Datetime], ids=str)
def test_parquet_columns_that_hold_no_numbers_are_refused(tmp_path: Path, kind: pl.DataType) -> None:
    path = tmp_path / "trace"
    pl.DataFrame(schema={"ContextTokens": kind, "GeneratedTokens": pl.Int64}).write_parquet(path)
    with pytest.raises(TraceError, match="column 'ContextTokens' is of type"):
        read_trace([path])


def test_parquet_rows_that_hold_no_count_are_excluded_with_their_number(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    given_tokens = [1.0, None, float("nan"), -1.0, 2.5, 1e12, float("inf"), 7.0]
    columns = {"ContextTokens": given_tokens, "GeneratedTokens": [5] * 8}
    pl.DataFrame(columns).write_parquet(path)
    trace = read_trace([path])
    assert trace.histogram.requests == 2
    assert trace.histogram.excluded == {
        "missing or empty": 1,
        "not a number": 1,
        "negative": 1,
        "not a whole number": 1,
        "over 16777216 tokens": 2,
    }
    assert [row.row for row in trace.unreadable] == [2, 3, 4, 5, 6]


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
@pytest.mark.parametrize("name", ["Azure LLM inference trace", "Mooncake", "vLLM benchmark"])
def test_packed_files_are_told_by_content(tmp_path: Path, pack: Callable[[bytes], bytes], name: str) -> None:
    assert whole(histogram_of(tmp_path / "trace.csv", pack(FORMATS[name])))


def test_a_file_of_several_packed_parts_is_read_to_its_end(tmp_path: Path) -> None:
    begin, end = AZURE[:100], AZURE[100:]
    for pack in (gzip.compress, zstd.compress):
        assert whole(histogram_of(tmp_path / "trace", pack(begin) + pack(end)))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["Azure LLM inference trace", "Mooncake"])
def test_byte_order_marks_say_the_encoding(tmp_path: Path, encoding: str, name: str) -> None:
    assert whole(histogram_of(tmp_path / "trace", FORMATS[name].decode().encode(encoding)))


def test_ends_of_lines_and_quotes_do_not_matter(tmp_path: Path) -> None:
    quoted = csv_text('"ContextTokens",text,"GeneratedTokens"', '"{i}","so, ""he"" said,\n5,6,7","{o}"')
    for data in (AZURE, quoted, FORMATS["Mooncake"]):
        assert whole(histogram_of(tmp_path / "trace", data.replace(b"\n", b"\r\n")))
        assert whole(histogram_of(tmp_path / "trace", data.rstrip(b"\n")))


@pytest.mark.parametrize(
    "text", ['"a, b"', '5" screen', "it's", '"two\nlines"', '""', "", '"caf\u00e9, \U0001f525"']
)
def test_text_in_other_columns_moves_nothing(tmp_path: Path, text: str) -> None:
    data = csv_text("text,ContextTokens,GeneratedTokens", text + ",{i},{o}")
    assert whole(histogram_of(tmp_path / "trace", data))


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=6)


@given(rows=st.lists(st.tuples(TEXTS, st.integers(-3, 600))), data=st.data())
def test_rows_are_those_that_the_standard_library_wrote(rows: list[tuple[str, int]], data: st.DataObject) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=data.draw(st.sampled_from(["\n", "\r\n"])))
    writer.writerow(["text", "ContextTokens", "GeneratedTokens"])
    writer.writerows([text, tokens, 5] for text, tokens in rows)
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(text.getvalue().encode())
        if not rows:
            with pytest.raises(TraceError, match="there are no requests"):
                read_trace([file.name])
            return
        histogram = read_trace([file.name]).histogram
    assert histogram.rows == len(rows)
    assert histogram.excluded.get("negative", 0) == sum(tokens < 0 for _, tokens in rows)
    assert histogram.requests == sum(tokens > 0 for _, tokens in rows)


@given(
    lines=st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"")), max_size=20),
    block=st.integers(1, 30),
    end=st.sampled_from([b"", b"\n"]),
)
def test_blocks_are_whole_lines_and_long_ones_are_named(lines: list[bytes], block: int, end: bytes) -> None:
    text = b"\n".join(lines) + (end if lines else b"")
    place = 0

    def read(size: int) -> bytes:
        nonlocal place
        place += size
        return text[place - size : place]

    longest = 8
    pieces = list(blocks(read, block=block, longest=longest))
    split = text.split(b"\n")
    expected = split[:-1] if split[-1] == b"" else split
    found: dict[int, bytes | None] = {}
    for piece in pieces:
        if isinstance(piece, LongLine):
            found[piece.line] = None
        else:
            inside = piece.data.split(b"\n")
            for number, line in enumerate(inside[:-1] if piece.data.endswith(b"\n") else inside, piece.line):
                found[number] = line
    assert sorted(found) == list(range(1, len(expected) + 1))
    for number, held in found.items():
        assert held == expected[number - 1] or (held is None and len(expected[number - 1]) > longest)


def test_blocks_of_any_size_count_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quoted = csv_text("ContextTokens,text,GeneratedTokens", '{i},"a\nb",{o}')
    for data in (AZURE, quoted, FORMATS["Mooncake"]):
        for size in (90, 150, 301):
            monkeypatch.setattr(trace_files, "blocks", lambda read, size=size: blocks(read, block=size))
            assert whole(histogram_of(tmp_path / "trace", data))


def test_many_files_are_one_trace(tmp_path: Path) -> None:
    generator = random.Random(5)
    requests = [(generator.randint(0, 9000), generator.randint(0, 600)) for _ in range(3000)]
    header = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    rows = [f"2023,{i},{o}\n" for i, o in requests]
    (tmp_path / "one.csv").write_text(header + "".join(rows))
    folder = tmp_path / "many" / "below"
    folder.mkdir(parents=True)
    for part in range(60):
        text = header + "".join(rows[part * 50 : part * 50 + 50])
        if part % 2:
            (folder / f"{part}.csv").write_text(text)
        else:
            (folder / f"{part}.csv.gz").write_bytes(gzip.compress(text.encode()))
    (folder / "header-only.csv").write_text(header)
    (folder / ".hidden").write_text("no trace")
    (folder / "_SUCCESS").write_text("")
    one = read_trace([tmp_path / "one.csv"], name="some")
    by_folder = read_trace([tmp_path / "many"], name="some")
    by_pattern = read_trace([str(folder / "*.csv"), str(folder / "*.gz")], name="some")
    assert by_folder.files == by_pattern.files == 61
    assert one.histogram == by_folder.histogram == by_pattern.histogram


def test_a_file_named_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_bytes(AZURE)
    with pytest.raises(UsageError, match="named twice"):
        read_trace([tmp_path, tmp_path / "trace.csv"])


def test_sources_that_name_no_file_are_refused(tmp_path: Path) -> None:
    for source in (tmp_path / "none", tmp_path / "*.csv", tmp_path):
        with pytest.raises(UsageError, match="no such file"):
            read_trace([source])


@pytest.mark.parametrize("columns", [("a", None), (None, "a"), ("a", "a")])
def test_columns_are_two_or_none(columns: tuple[str | None, str | None]) -> None:
    with pytest.raises(UsageError, match="name two columns"):
        read_trace(["trace"], input_column=columns[0], output_column=columns[1])


def test_missing_columns_are_refused_with_those_there_are(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_bytes(b"prompt,completion\n1,2\n")
    with pytest.raises(TraceError, match=r"has 'prompt', 'completion'.*--input-column.*Known are 'ContextTokens'"):
        read_trace([path])
    with pytest.raises(TraceError, match="has no column 'answer'; it has 'prompt', 'completion'"):
        read_trace([path], input_column="prompt", output_column="answer")
    path.write_bytes(b"ContextTokens,GeneratedTokens,ContextTokens\n1,2,3\n")
    with pytest.raises(TraceError, match="more than one column 'ContextTokens'"):
        read_trace([path])
    path.write_bytes(b"ContextTokens,GeneratedTokens,input_length,output_length\n1,2,3,4\n")
    with pytest.raises(TraceError, match="name two with --input-column"):
        read_trace([path])


def test_logs_of_vllm_are_refused_with_what_they_lack(tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    path.write_text("INFO [request_logger.py:64] Received request cmpl-1: params: SamplingParams(n=1), ...\n")
    with pytest.raises(TraceError, match=r"hold no token counts of a request.*--save-detailed"):
        read_trace([path])
    path.write_text(json.dumps({k: v for k, v in BENCHMARK.items() if not k.endswith("_lens")}))
    with pytest.raises(TraceError, match="run it with --save-detailed"):
        read_trace([path])


def test_results_of_vllm_benchmarks_that_were_appended_are_all_read(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    path.write_text(f"{json.dumps(BENCHMARK)}\n{json.dumps(BENCHMARK)}")
    assert read_trace([path]).histogram.rows == 2 * len(REQUESTS)
    path.write_text(f"{json.dumps(BENCHMARK)}\n{json.dumps({**BENCHMARK, 'input_lens': [1]})}")
    with pytest.raises(TraceError, match="line 2: input_lens and output_lens differ in length"):
        read_trace([path])


PUBLISHED = {
    "azure_2023_code": "AzureLLMInferenceTrace_code.csv.gz",
    "azure_2023_conv": "AzureLLMInferenceTrace_conv.csv.gz",
    "mooncake_conversation": "mooncake_conversation_trace.jsonl.gz",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_traces_give_the_packaged_histograms(name: str) -> None:
    folders = (ROOT.parent / "shared" / "workloads", ROOT / "shared" / "workloads")
    path = next((found for folder in folders if (found := folder / PUBLISHED[name]).exists()), None)
    if path is None:
        pytest.skip(f"{PUBLISHED[name]} is not beside the repository")
    read, known = read_trace([path]).histogram, packaged(name)
    assert (read.counts, read.rows, read.excluded) == (known.counts, known.rows, known.excluded)
    for now, then in ((read.input, known.input), (read.output, known.output)):
        assert msgspec.to_builtins(now) == pytest.approx(msgspec.to_builtins(then), abs=1e-4)


def test_the_command_prints_bins_exclusions_and_lengths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(AZURE + b"x,twelve,5\nx,-3,5\n")
    written = tmp_path / "bins.json"
    assert (
        main(["bins", str(path), "--bins-input", "100,9000", "--bins-output", "600", "--json", str(written)]) == 0
    )
    said = capsys.readouterr().out
    assert "trace: 9 rows (Azure LLM inference trace)" in said
    assert "Requests by bin: 5 of 9" in said
    assert f"{path}:9: not a number: input 'twelve', output '5'" in said
    assert f"{path}:10: negative: input '-3', output '5'" in said
    assert "mean ± std" in said
    histogram = read_histogram(written)
    assert histogram.counts == ((100, 600, 1), (9000, 600, 4))
    assert histogram.bins == Bins(input_tokens=(100, 9000), output_tokens=(600,))


def test_parts_that_were_binned_apart_are_one_trace(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = []
    for number in range(2):
        trace, part = tmp_path / f"{number}.csv", tmp_path / f"{number}.json"
        trace.write_bytes(AZURE + b"x,twelve,5\n")
        assert main(["bins", str(trace), "--json", str(part)]) == 0
        written.append(str(part))
    capsys.readouterr()
    assert main(["bins", *written]) == 0
    said = capsys.readouterr().out
    one = read_histogram(Path(written[0]))
    assert f"2 parts: {2 * one.rows} rows in 2 files (histograms)" in said
    assert f"Requests by bin: {2 * one.requests} of {2 * one.rows}" in said
    assert main(["bins", *written, "--bins-input", "7"]) == 2
    assert "cannot be binned anew" in capsys.readouterr().err


def test_the_command_shows_packaged_histograms(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bins", "azure_2023_conv"]) == 0
    said = capsys.readouterr().out
    assert "azure_2023_conv: 19,366 rows" in said
    assert "CC-BY-4.0" in said
    assert "1154.70 ± 1108.82" in said
    assert main(["bins", "azure_2023_conv", "--bins-input", "5"]) == 2
    assert "for other bins name its trace" in capsys.readouterr().err
    assert main(["bins", "azure_2023_conv", "azure_2023_code"]) == 2
    assert "one trace alone" in capsys.readouterr().err
    assert main(["bins", "azure"]) == 2
    assert "azure_2023_code, azure_2023_conv" in capsys.readouterr().err


def test_without_polars_the_command_says_what_to_install(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(AZURE)
    code = (
        "import sys; sys.modules['polars'] = None\n"
        "from pytest_llm_energy.cli import main\n"
        f"sys.exit(main(['bins', {str(path)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install 'pytest-llm-energy[traces]'" in done.stderr
