"""Bins, histograms, and the lengths of a workload against numpy and the standard library."""

import statistics
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llm_energy.cli import main
from pytest_llm_energy.errors import TraceError, UsageError
from pytest_llm_energy.workloads.bins import PAPER, Bins, Histogram, merged
from pytest_llm_energy.workloads.packaged import packaged, packaged_names, read_histogram, written
from pytest_llm_energy.workloads.tally import LONGEST, Tally, lengths, tokens

TOKENS = st.integers(0, 20_000)
EDGES = st.lists(st.integers(1, 10_000), min_size=1, max_size=9, unique=True).map(
    lambda edges: tuple(sorted(edges))
)
BINS = st.builds(lambda i, o: Bins(input_tokens=i, output_tokens=o), EDGES, EDGES)


def tallied(requests: list[tuple[int, int]], bins: Bins = PAPER) -> Histogram:
    tally = Tally(bins)
    rows = np.array(requests, np.int64).reshape(-1, 2)
    tally.count(rows[:, 0], rows[:, 1])
    return tally.histogram("some")


def test_a_request_as_long_as_an_edge_is_in_its_bin_and_one_longer_in_the_next() -> None:
    assert PAPER.of(32, 8) == (32, 8)
    assert PAPER.of(33, 9) == (128, 16)
    assert PAPER.of(1, 1) == (32, 8)
    assert PAPER.of(8192, 512) == (8192, 512)


@pytest.mark.parametrize("request_", [(8193, 8), (32, 513), (0, 8), (32, 0), (-1, 8)])
def test_a_request_without_tokens_or_longer_than_the_bins_is_in_none(request_: tuple[int, int]) -> None:
    assert PAPER.of(*request_) is None


@pytest.mark.parametrize("edges", [(), (0, 1), (2, 1), (1, 1), (-5,)])
def test_edges_grow_from_one_on(edges: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="whole numbers that grow"):
        Bins(input_tokens=edges, output_tokens=(1,))


@given(bins=BINS, input_tokens=TOKENS, output_tokens=TOKENS)
def test_the_bin_is_the_smallest_that_holds_the_request(bins: Bins, input_tokens: int, output_tokens: int) -> None:
    fitting = [(i, o) for i, o in bins if input_tokens <= i and output_tokens <= o]
    sound = min(input_tokens, output_tokens) > 0
    assert bins.of(input_tokens, output_tokens) == (min(fitting) if fitting and sound else None)


@given(bins=BINS, requests=st.lists(st.tuples(TOKENS, TOKENS)))
def test_a_tally_counts_each_request_in_its_bin(bins: Bins, requests: list[tuple[int, int]]) -> None:
    histogram = tallied(requests, bins)
    found = [bins.of(*request) for request in requests]
    assert {(i, o): count for i, o, count in histogram.counts} == {
        place: found.count(place) for place in found if place is not None
    }
    assert histogram.rows == len(requests)
    assert sum(histogram.excluded.values()) == found.count(None)
    no_input = sum(request[0] == 0 for request in requests)
    assert histogram.excluded.get("no input tokens", 0) == no_input
    assert histogram.excluded.get("no output tokens", 0) == sum(i > 0 == o for i, o in requests)


@given(st.lists(TOKENS, min_size=1, max_size=300))
def test_lengths_are_those_of_numpy_and_the_standard_library(values: list[int]) -> None:
    found = lengths(np.bincount(values))
    assert found is not None
    assert found.mean == pytest.approx(statistics.fmean(values))
    assert found.std == pytest.approx(statistics.stdev(values) if len(values) > 1 else 0.0)
    assert found.median == statistics.median(values)
    assert found.p99 == pytest.approx(float(np.percentile(values, 99)))
    assert (found.min, found.max) == (min(values), max(values))


def test_lengths_of_many_long_requests_do_not_overflow() -> None:
    counts = np.zeros(LONGEST + 1, np.int64)
    counts[[0, LONGEST]] = 10**10
    found = lengths(counts)
    assert found is not None
    assert found.mean == LONGEST / 2
    assert found.std == pytest.approx(LONGEST / 2)


def test_no_requests_have_no_lengths() -> None:
    assert tallied([]).input is None


@given(st.lists(st.lists(st.tuples(TOKENS, TOKENS)), min_size=1, max_size=5))
def test_parts_of_a_workload_merge_to_the_whole(parts: list[list[tuple[int, int]]]) -> None:
    whole = tallied([request for part in parts for request in part])
    found = merged([tallied(part) for part in parts], name="whole")
    assert (found.counts, found.rows, found.excluded) == (whole.counts, whole.rows, whole.excluded)


def test_histograms_of_other_bins_do_not_merge() -> None:
    with pytest.raises(UsageError, match="same bins"):
        merged([tallied([(1, 1)]), tallied([(1, 1)], Bins(input_tokens=(5,), output_tokens=(5,)))], name="it")


@given(st.integers() | st.floats() | st.text(max_size=8) | st.none() | st.booleans() | st.lists(st.integers()))
def test_a_cell_is_a_count_of_tokens_or_has_a_reason(value: object) -> None:
    found = tokens(value)
    if isinstance(found, int):
        assert not isinstance(value, (bool, list))
        assert 0 <= found <= LONGEST
        assert found == float(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", packaged_names())
def test_packaged_histograms_are_whole_and_name_source_and_licence(name: str) -> None:
    histogram = packaged(name)
    assert histogram.name == name
    assert histogram.bins == PAPER
    assert histogram.source is not None
    assert histogram.source.startswith("https://")
    assert histogram.license
    assert histogram.input is not None
    assert list(histogram.counts) == sorted(histogram.counts)


def test_an_unknown_packaged_histogram_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UsageError, match="'azure'; there are azure_2023_code, azure_2023_conv, mooncake"):
        packaged("azure")


def test_a_histogram_is_read_as_it_was_written(tmp_path: Path) -> None:
    histogram = packaged("azure_2023_code")
    path = tmp_path / "histogram.json"
    path.write_bytes(written(histogram))
    assert read_histogram(path) == histogram
    damaged = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode({**damaged, "rows": 3}))
    with pytest.raises((TraceError, UsageError), match="are not"):
        read_histogram(path)


def test_a_part_counts_once_and_parts_may_be_named_by_their_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [tmp_path / "parts" / f"{number}.json" for number in range(2)]
    parts[0].parent.mkdir()
    for part in parts:
        part.write_bytes(written(tallied([(10, 20), (30, 40)])))
    assert main(["bins", str(parts[0]), str(parts[0])]) == 2
    assert "is named twice: its requests would count twice" in capsys.readouterr().err
    for name in (parts[0].parent, parts[0].parent / "*.json"):
        assert main(["bins", str(name)]) == 0
        assert "2 parts: 4 rows in 2 files (histograms)" in capsys.readouterr().out


def test_a_histogram_is_written_over_no_other_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, other = tmp_path / "a.csv", tmp_path / "b.csv"
    for path in (trace, other):
        path.write_text("ContextTokens,GeneratedTokens\n10,20\n")
    before = trace.read_bytes()
    assert main(["bins", "--json", str(trace), str(other)]) == 2
    assert f"--json writes over no other file: {trace} is no histogram" in capsys.readouterr().err
    assert trace.read_bytes() == before
    for _ in range(2):  # over one of its own
        assert main(["bins", "--json", str(tmp_path / "b.json"), str(other)]) == 0


def test_a_large_trace_is_not_read_whole_to_see_whether_it_is_a_histogram(tmp_path: Path) -> None:
    large = tmp_path / "large.json"
    with large.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(TraceError, match="is no histogram: it has more than"):
        read_histogram(large)
