from pathlib import Path

import msgspec
import pytest

from pytest_llm_energy import Scenario, saves
from pytest_llm_energy.errors import JournalError
from pytest_llm_energy.verdicts.baselines import read_baseline
from pytest_llm_energy.verdicts.blessing import bless
from pytest_llm_energy.verdicts.journal import Journal, read_journal
from pytest_llm_energy.verdicts.judge import judge_recorded
from pytest_llm_energy.verdicts.measured import CaseKey
from pytest_llm_energy.verdicts.pieces import carry, read_journals
from pytest_llm_energy.verdicts.records import Began, Checked, Ran
from pytest_llm_energy.verdicts.rows import LevelRow
from pytest_llm_energy.verdicts.segments import join_segments, segments_folder
from tests.journals import SimulatedSession

PLAIN = Scenario(model="Llama-3.1-8B", input_tokens=512, output_tokens=64)
LEVELS = {"batched": (PLAIN.replace(batch_size=8), 0.4), "alone": (PLAIN, 2.0)}
FIRST, SECOND = "2026-01-01T00:00:00+00:00", "2026-02-02T00:00:00+00:00"
ROOT = Path(__file__).parents[2]


def case(number: int) -> CaseKey:
    return CaseKey(gpu="h200", finding="batching", case=f"falls[{number}]")


@pytest.fixture
def whole(tmp_path: Path) -> Journal:
    """A journal of two pieces on two boards: case 1 was measured in the first, and 2, cut there, in the second."""
    cut = SimulatedSession(tmp_path / "cut.jsonl", when=FIRST, board="one")
    cut.case("batching", "falls[1]", LEVELS, claim=saves).case("batching", "falls[2]", LEVELS, cut=True)
    path = tmp_path / "whole.jsonl"
    main = SimulatedSession(segments_folder(path) / "main.jsonl", when=SECOND, board="other")
    main.case("batching", "falls[2]", LEVELS, claim=saves)
    carry(read_journal(cut.path), path)
    join_segments(path)
    return read_journal(path)


def test_only_what_was_finished_is_carried(whole: Journal) -> None:
    assert whole.finished == {case(1), case(2)}
    assert [record.key for record in whole.records if isinstance(record, Checked)] == [case(1), case(2)]
    assert sum(isinstance(record, Ran) for record in whole.records) == 2 * 6


def test_a_case_keeps_the_conditions_it_was_measured_under(whole: Journal) -> None:
    assert whole.opened_for(case(1)).fingerprint.boards == ("one",)
    assert whole.opened_for(case(2)).fingerprint.boards == ("other",)
    assert (whole.opened_for(case(1)).when, whole.opened_for(case(2)).when) == (FIRST, SECOND)


def test_another_board_than_the_baselines_widens_the_interval_of_its_own_piece_alone(
    whole: Journal, tmp_path: Path
) -> None:
    first = SimulatedSession(tmp_path / "first.jsonl", when="2025-12-12T00:00:00+00:00", board="one")
    first.case("batching", "falls[1]", LEVELS).case("batching", "falls[2]", LEVELS).bless(tmp_path)
    widths = []
    for number in (1, 2):
        baseline = read_baseline(tmp_path, "h200", "batching")
        rows = judge_recorded(whole, case(number), baseline=baseline, published=None, budget=None)
        (level,) = [row for row in rows if isinstance(row, LevelRow) and row.arm == "alone"]
        assert level.change is not None
        widths.append(level.change.joules.half_width)
    assert widths[1] > 1.2 * widths[0]


def test_each_piece_is_a_session_and_one_that_is_blessed_already_stays(whole: Journal, tmp_path: Path) -> None:
    carried = Journal(tmp_path / "cut.jsonl", read_journal(tmp_path / "cut.jsonl").records[:11], torn=0)
    (of_case,) = {level.key.case for level in bless(carried, tmp_path, reason="the first piece")}
    assert of_case == "falls[1]"
    bless(whole, tmp_path, reason="the whole")
    baseline = read_baseline(tmp_path, "h200", "batching")
    assert baseline is not None
    assert [(s.when, s.reason, s.fingerprint.boards) for s in baseline.sessions] == [
        (FIRST, "the first piece", ("one",)),
        (SECOND, "the whole", ("other",)),
    ]
    assert [{name for start in s.starts for name in start} for s in baseline.sessions] == [
        {"falls[1]"},
        {"falls[2]"},
    ]


def test_a_case_that_began_again_counts_from_there(tmp_path: Path) -> None:
    session = SimulatedSession(tmp_path / "j.jsonl").case("batching", "falls[1]", LEVELS, runs=5, cut=True)
    journal = read_journal(session.case("batching", "falls[1]", LEVELS, runs=3).path)
    (check,) = journal.checks_of(case(1))
    assert [len(arm.runs) for arm in journal.measured(check).arms] == [3, 3]
    assert len(journal.readings_of(case(1))) == 6


def test_a_case_under_conditions_that_nobody_recorded_is_refused(tmp_path: Path) -> None:
    path = SimulatedSession(tmp_path / "j.jsonl").path
    with path.open("ab") as file:
        file.write(msgspec.json.encode(Began(key=case(1), opening="elsewhere")) + b"\n")
    with pytest.raises(JournalError, match=r"falls\[1\] on h200 began under 'elsewhere', and no record"):
        read_journal(path)


def test_journals_of_schema_1_are_read_one_by_one(tmp_path: Path) -> None:
    committed = ROOT / "docs" / "measurements" / "h200" / "first-session.jsonl.gz"
    journal = read_journal(committed)
    assert journal.opened.schema == 1
    assert not journal.finished
    assert {journal.opened_for(key).when for key in journal.cases} == {journal.opened.when}
    assert read_journals([committed]).cases == journal.cases
    with pytest.raises(JournalError, match="cannot be judged together: both hold"):
        read_journals([committed, committed])
