import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pytest_llm_energy.options import duration
from pytest_llm_energy.reporting import words
from pytest_llm_energy.reporting.selection import Selection, StatedCost, selection_lines
from pytest_llm_energy.reporting.summary import Summary, last_line, markdown, text_lines
from pytest_llm_energy.verdicts.measured import CaseKey


def cost(finding: str, case: str, *, starts: int = 0) -> StatedCost:
    return StatedCost(
        key=CaseKey(gpu="h200", finding=finding, case=case),
        starts=starts,
        start_seconds=60.0 * starts,
        metered_seconds=15.0,
        seconds=60.0 * starts + 20.0,
    )


SELECTION = Selection(
    gpu="h200",
    budget_seconds=120.0,
    kept=(cost("batching", "falls[4]", starts=1), cost("speculation", "saves[1]")),
    left_out=(
        cost("speculation", "saves[16]"),
        cost("speculation", "costs[128]", starts=1),
        cost("speculation", "saves[8]"),
        cost("batching", "falls[16]"),
    ),
)


def test_what_is_left_out_is_named_by_test_where_its_finding_has_several() -> None:
    assert list(selection_lines(SELECTION)) == [
        "time budget 2m: 2 of 6 cases on h200, about 1m40s (1 engine start 1m, windows 30s)",
        "left out: 4 cases: batching 16; speculation costs[128], saves[8, 16]",
    ]
    assert SELECTION.spare_seconds == 20.0


def test_every_report_says_it_and_only_where_there_was_a_choice() -> None:
    summary = Summary(outcomes={}, expected=2, gate="on", selection=SELECTION)
    for line in selection_lines(SELECTION):
        assert line in list(text_lines(summary))
        assert line in markdown(summary)
    assert "### Left out by the time budget of 2m" in markdown(summary)
    assert "4 left out" in last_line(summary)
    assert "left out" not in markdown(Summary(outcomes={}, expected=2, gate="on"))


@given(st.integers(1, 10**6))
def test_a_time_is_written_as_it_is_read(seconds: int) -> None:
    assert duration(words.duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        (0.0, "0.0s"),
        (2.64, "2.6s"),
        (9.96, "10s"),
        (59.6, "1m"),
        (94.0, "1m30s"),
        (599.0, "10m"),
        (5370.0, "1h30m"),
    ],
)
def test_an_expected_time_is_written_as_roughly_as_it_is_known(seconds: float, says: str) -> None:
    assert words.about(seconds) == says


@pytest.mark.parametrize("text", ["0s", "15", "h", "1m1h"])
def test_what_is_no_time_is_no_budget(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="write 90s, 15m or 1h30m"):
        duration(text)
