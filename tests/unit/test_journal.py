import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from pytest_llm_energy import Scenario, above, costs, saves
from pytest_llm_energy.errors import BaselineError, JournalError
from pytest_llm_energy.verdicts.baselines import read_baseline
from pytest_llm_energy.verdicts.blessing import bless
from pytest_llm_energy.verdicts.journal import Journal, read_journal
from pytest_llm_energy.verdicts.judge import judge_recorded
from pytest_llm_energy.verdicts.records import SCHEMA, Checked, Troubled
from pytest_llm_energy.verdicts.rows import ClaimRow, LevelRow, Row
from pytest_llm_energy.verdicts.segments import join_segments, segments_folder
from tests.journals import SimulatedSession

PLAIN = Scenario(model="Llama-3.1-8B", input_tokens=512, output_tokens=64)
LEVELS = {"batched": (PLAIN.replace(batch_size=8), 0.4), "alone": (PLAIN, 2.0)}


def recorded(path: Path, when: str = "2026-01-01T00:00:00+00:00", case: str = "falls[8]") -> SimulatedSession:
    return SimulatedSession(path, when=when).case("batching", case, LEVELS, claim=saves)


def test_a_journal_holds_everything_a_verdict_needs(tmp_path: Path) -> None:
    journal = read_journal(recorded(tmp_path / "j.jsonl").path)
    (check,) = journal.checks
    measured = journal.measured(check)
    assert check.claim == saves
    assert measured.control == "alone"
    assert [len(arm.runs) for arm in measured.arms] == [3, 3]
    assert measured.effect("batched") == pytest.approx(-0.8, abs=0.02)
    assert journal.opened.simulated


def test_what_is_checked_twice_was_measured_once(tmp_path: Path) -> None:
    once = read_journal(recorded(tmp_path / "j.jsonl").path)
    (check,) = once.checks
    once.checks.append(msgspec.structs.replace(check, claim=costs, levels=False))
    assert once.measurements == [check]
    first, second = (judged_by(once, [each]) for each in list(once.checks))
    assert [type(row) for row in first] == [LevelRow, LevelRow, ClaimRow]
    assert [type(row) for row in second] == [ClaimRow]


def judged_by(journal: Journal, checks: list[Checked]) -> list[Row]:
    journal.checks = checks
    return judge_recorded(journal, checks[0].key, baseline=None, published=None, budget=None)


def test_a_claim_about_a_computed_figure_is_judged_from_the_journal_alone(tmp_path: Path) -> None:
    levels = {"vllm": (PLAIN, 0.2), "transformers": (PLAIN, 0.4)}  # 12.8 and 25.6 J/request
    claim = above(5.84, what="the ideal", nearest="vllm")
    path = SimulatedSession(tmp_path / "j.jsonl").case("flops-estimate", "more[1]", levels, claim=claim).path
    journal = read_journal(path)
    (check,) = journal.checks
    assert check.claim == claim
    rows = judge_recorded(journal, check.key, baseline=None, published=None, budget=None)
    claims = [row for row in rows if isinstance(row, ClaimRow)]
    assert [row.verdict for row in claims] == ["new"] * 3
    assert claims[0].says == "vllm takes more than the ideal of 5.84 J/request"
    assert claims[0].interval.value == pytest.approx(12.8 / 5.84 - 1, rel=0.01)


def test_segments_are_joined_and_also_read_where_nobody_joined_them(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    recorded(segments_folder(path) / "gw0.jsonl")
    recorded(segments_folder(path) / "gw1.jsonl", case="falls[16]")
    assert len(read_journal(path).checks) == 2
    join_segments(path)
    assert not segments_folder(path).exists()
    assert len(read_journal(path).checks) == 2


def test_a_torn_segment_does_not_spoil_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    for worker in ("gw0", "gw1"):
        segment = recorded(segments_folder(path) / f"{worker}.jsonl", case=f"falls on {worker}").path
        with segment.open("a") as file:
            file.write('{"record":"ran","key":{"gp')
    join_segments(path)
    journal = read_journal(path)
    assert len(journal.checks) == 2
    assert journal.torn == 0


def test_a_run_that_measured_nothing_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    segments_folder(path).mkdir()
    join_segments(path)
    assert list(tmp_path.iterdir()) == []


def test_a_line_cut_off_by_a_crash_is_left_out_and_counted(tmp_path: Path) -> None:
    path = recorded(tmp_path / "j.jsonl").path
    with path.open("a") as file:
        file.write('{"record":"ran","key":{"gp')
    journal = read_journal(path)
    assert journal.torn == 1
    assert len(journal.checks) == 1


def test_a_corrupt_line_is_refused_with_its_number(tmp_path: Path) -> None:
    path = recorded(tmp_path / "j.jsonl").path
    lines = path.read_text().splitlines()
    lines[3] = lines[3].replace('"joules":', '"jewels":')
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(JournalError, match=r"j\.jsonl, line 4 is corrupt: .*jewels"):
        read_journal(path)


def test_a_newer_journal_a_missing_one_and_one_without_conditions_are_refused(tmp_path: Path) -> None:
    path = recorded(tmp_path / "j.jsonl").path
    path.write_text(path.read_text().replace(f'"schema":{SCHEMA}', '"schema":7'))
    with pytest.raises(JournalError, match="line 1: schema 7; this version reads up to 2"):
        read_journal(path)
    with pytest.raises(JournalError, match="no journal at"):
        read_journal(tmp_path / "missing.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(JournalError, match="no record 'opened'"):
        read_journal(tmp_path / "empty.jsonl")


def test_a_full_disk_keeps_the_records_before_it_readable(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from tests.unit.test_journal import recorded, LEVELS\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (12000, 12000))\n"
        f"session = recorded(Path({str(tmp_path / 'j.jsonl')!r}))\n"
        "for n in range(100): session.case('batching', f'falls[{n}]', LEVELS)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=False)
    assert "JournalError: cannot append to the journal" in done.stderr
    assert "the records before this one are intact" in done.stderr
    journal = read_journal(tmp_path / "j.jsonl")
    assert journal.torn == 0
    assert len(journal.checks) >= 1


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(JournalError, match="name another place with --energy-journal"):
        SimulatedSession(tmp_path / "file" / "j.jsonl")


def test_blessing_adds_sessions_and_keeps_the_first(tmp_path: Path) -> None:
    recorded(tmp_path / "one.jsonl").bless(tmp_path, "first measurement")
    recorded(tmp_path / "two.jsonl", "2026-02-02T00:00:00+00:00").bless(tmp_path, "after the driver update")
    baseline = read_baseline(tmp_path, "h200", "batching")
    assert baseline is not None
    assert [session.reason for session in baseline.sessions] == ["first measurement", "after the driver update"]
    assert all(session.simulated for session in baseline.sessions)
    with pytest.raises(BaselineError, match="is blessed already"):
        recorded(tmp_path / "three.jsonl").bless(tmp_path)


def test_a_case_is_judged_and_blessed_by_the_boards_it_was_measured_on(tmp_path: Path) -> None:
    """As when a run goes on with other devices, and when xdist workers run on devices of their own."""
    path = tmp_path / "j.jsonl"
    two = SimulatedSession(segments_folder(path) / "gw0.jsonl").case("batching", "on one", LEVELS)
    two.opened(when="2026-01-01T00:05:00+00:00", boards=("other", "simulated-board"))
    two.case("batching", "on two", LEVELS)
    two.opened(when="2026-01-01T00:07:00+00:00", boards=("simulated-board",)).case(
        "batching", "on one again", LEVELS
    )
    another = SimulatedSession(segments_folder(path) / "gw1.jsonl")
    another.opened(when="2026-01-01T00:00:01+00:00", boards=("another",)).case("batching", "elsewhere", LEVELS)
    boards = {
        "on one": ("simulated-board",),
        "on two": ("other", "simulated-board"),
        "on one again": ("simulated-board",),
        "elsewhere": ("another",),
    }
    for join in (lambda _: None, join_segments):
        join(path)
        journal = read_journal(path)
        assert {k.case: journal.opened_for(k).fingerprint.boards for k in journal.cases} == boards
    bless(journal, tmp_path / "baselines", reason="first measurement")
    baseline = read_baseline(tmp_path / "baselines", "h200", "batching")
    assert baseline is not None
    assert {
        case: session.fingerprint.boards
        for session in baseline.sessions
        for start in session.starts
        for case in start
    } == boards
    assert len(baseline.sessions) == 3
    widths = set()
    for key in journal.cases:
        row = judge_recorded(journal, key, baseline=baseline, published=None, budget=None)[0]
        assert isinstance(row, LevelRow)
        assert row.change is not None
        widths.add(row.change.joules.half_width)
    assert len(widths) == 1, "the same samples on the boards of the baseline are known equally well"
    with pytest.raises(BaselineError, match="is blessed already"):
        bless(journal, tmp_path / "baselines", reason="again")


def test_a_case_that_failed_after_a_check_is_not_blessed(tmp_path: Path) -> None:
    session = recorded(tmp_path / "one.jsonl")
    session.other("batching", "falls[8]", lambda key: Troubled(key=key, says="the engine died"))
    with pytest.raises(BaselineError, match="holds no checked case that ran to its end"):
        bless(read_journal(session.path), tmp_path, reason="first")


def test_a_check_is_judged_by_the_rounds_that_it_was_judged_by(tmp_path: Path) -> None:
    journal = read_journal(recorded(tmp_path / "one.jsonl").path)
    (check,) = journal.checks
    assert [len(arm.runs) for arm in journal.measured(msgspec.structs.replace(check, rounds=2)).arms] == [2, 2]
    assert [len(arm.runs) for arm in journal.measured(check).arms] == [3, 3]
    assert journal.measurements == [check]


def test_blessing_needs_a_reason_something_to_bless_and_the_same_work(tmp_path: Path) -> None:
    path = recorded(tmp_path / "one.jsonl").path
    with pytest.raises(BaselineError, match="needs a reason"):
        bless(read_journal(path), tmp_path, reason=" ")
    empty = SimulatedSession(tmp_path / "empty.jsonl").path
    with pytest.raises(BaselineError, match="nothing to bless"):
        bless(read_journal(empty), tmp_path, reason="why not")
    bless(read_journal(path), tmp_path, reason="first")
    other = SimulatedSession(tmp_path / "two.jsonl", when="2026-03-03T00:00:00+00:00").case(
        "batching", "falls[8]", {**LEVELS, "alone": (PLAIN.replace(dtype="float16"), 2.0)}
    )
    says = r"now serves something else in alone; .*: llm-energy trim --only 'batching falls\[8\] on h200: alone' --"
    with pytest.raises(BaselineError, match=says):
        other.bless(tmp_path)
