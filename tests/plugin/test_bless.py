"""llm-energy bless, as a user types it."""

import pytest

from pytest_llm_energy.cli import main
from pytest_llm_energy.verdicts.baselines import Baseline, read_baseline
from tests.journals import SimulatedSession
from tests.plugin.conftest import PLAIN, Project

SECOND = "2026-02-02T00:00:00+00:00"
THIRD = "2026-03-03T00:00:00+00:00"
HUNGRIER = {(8, "batched"): 1.2}


def baseline(project: Project) -> Baseline:
    read = read_baseline(project.path / "baselines", "h200", "batching")
    assert read is not None
    return read


def bless(project: Project, journal: SimulatedSession, *options: str) -> int:
    folder = str(project.path / "baselines")
    return main(["bless", str(journal.path), "--reason", "a known cost", "--baselines", folder, *options])


def test_a_session_that_agrees_is_added_once(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    journal = project.journal("now.jsonl")
    assert bless(project, journal) == 0
    assert baseline(project).sessions[1].when == SECOND
    assert bless(project, journal) == 2
    assert "is blessed already" in capsys.readouterr().err


def test_a_table_says_what_blessing_does_to_each_level(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = project.journal("now.jsonl", factors={**HUNGRIER, (4, "alone"): 0.8})
    journal.case("batching", "grows[1]", {"batched": (PLAIN, 0.3), "alone": (PLAIN, 0.3)})
    assert bless(project, journal, "--allow-raise") == 0
    told = capsys.readouterr().out
    lines = [" ".join(line.split()) for line in told.splitlines()]
    assert lines[0] == "finding case arm kind blessed J/token change"
    assert any(line.startswith("falls[8] batched raise 400 mJ 480 mJ +20.0 % [+") for line in lines)
    assert any(line.startswith("alone lower 2 J 1.6 J -20.0 % [-") for line in lines)
    assert any(line.startswith("falls[16] batched keep 400 mJ 400 mJ ") for line in lines)
    assert "grows[1] batched create 300 mJ" in lines[-3]
    assert lines[-1] == f"written: {project.path / 'baselines' / 'h200' / 'batching.json'}"


def test_a_raise_must_be_asked_for_and_else_nothing_is_blessed(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    before = baseline(project)
    assert bless(project, project.journal("now.jsonl", factors={**HUNGRIER, (4, "alone"): 0.8})) == 2
    told = capsys.readouterr().err
    assert "levels that this would raise: 1; nothing was blessed" in told
    assert "--allow-raise" in told
    assert "batching falls[8] on h200, batched: between +" in told
    assert "falls[4]" not in told
    assert baseline(project) == before


def test_a_lower_level_needs_no_permission_and_is_the_reference_from_then_on(project: Project) -> None:
    leaner = {(8, "batched"): 0.8}
    assert bless(project, project.journal("now.jsonl", factors=leaner)) == 0
    assert baseline(project).sessions[1].moved == {"falls[8]": ("batched",)}
    result = project.replay(project.journal("back.jsonl", when=THIRD))
    result.stdout.fnmatch_lines(["*falls[[]8[]] on h200: arm 'batched' regressed"])


def test_a_blessed_raise_is_compared_with_the_sessions_since(project: Project) -> None:
    assert bless(project, project.journal("now.jsonl", factors=HUNGRIER), "--allow-raise") == 0
    result = project.replay(project.journal("same.jsonl", when=THIRD, factors=HUNGRIER))
    assert result.ret == 0
    result.stdout.fnmatch_lines(["energy: judged 3 of 3 (3 new, 6 ok)"])
    hungrier = project.journal("more.jsonl", when=THIRD, factors={(8, "batched"): 1.2 * 1.07})
    result = project.replay(hungrier)
    result.stdout.fnmatch_lines(
        ["            (baseline, 1 session on this board since 2026-02-02 (a known cost))", "  how much: +7.0 % *"]
    )


def test_other_levels_keep_all_their_sessions_when_one_is_raised(project: Project) -> None:
    bless(project, project.journal("now.jsonl", factors=HUNGRIER), "--allow-raise")
    result = project.replay(project.journal("more.jsonl", when=THIRD, factors={(4, "batched"): 1.2}))
    result.stdout.fnmatch_lines(["            (baseline, 2 sessions on this board since 2026-01-01 *"])


def test_a_session_of_another_board_is_said_to_hide_a_raise(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    other = SimulatedSession(project.path / "other.jsonl", when=SECOND, board="another")
    arms = {"batched": (PLAIN.replace(batch_size=8), 0.42), "alone": (PLAIN, 2.1)}
    other.case("batching", "falls[8]", arms)
    assert bless(project, other) == 0
    assert capsys.readouterr().out.count("no blessed session is of this board, and boards differ") == 1
    assert not baseline(project).sessions[1].moved


def hungrier_board(project: Project, *, when: str = SECOND) -> SimulatedSession:
    journal = SimulatedSession(project.path / f"board-{when[:10]}.jsonl", when=when, board="hungry")
    arms = {"batched": (PLAIN.replace(batch_size=8), 1.2), "alone": (PLAIN, 2.0)}
    return journal.case("batching", "falls[8]", arms)


def test_a_board_that_takes_more_is_added_on_request_and_moves_nothing(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bless(project, hungrier_board(project)) == 2
    told = capsys.readouterr().err
    assert "levels that this would raise: 1; nothing was blessed" in told
    assert "No blessed session is of this board" in told
    assert "--add-board" in told
    assert bless(project, hungrier_board(project), "--add-board") == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if " board " in line)
    assert "+200.0 %" in row
    assert not baseline(project).sessions[1].moved
    first_board = project.replay(project.journal("first.jsonl", when=THIRD, factors={(8, "batched"): 1.2}))
    first_board.stdout.fnmatch_lines(["            (baseline, 1 session on this board since 2026-01-01 *"])
    assert project.replay(hungrier_board(project, when=THIRD)).ret == 0


def test_a_raise_on_a_blessed_board_is_one_whatever_is_said_of_boards(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bless(project, project.journal("now.jsonl", factors=HUNGRIER), "--add-board") == 2
    told = capsys.readouterr().err
    assert "levels that this would raise: 1; nothing was blessed" in told
    assert "No blessed session is of this board" not in told


def test_creep_since_the_first_session_is_shown_in_the_table_and_in_the_failure(project: Project) -> None:
    first = project.replay(project.journal("zero.jsonl", factors=HUNGRIER))
    first.stdout.no_fnmatch_line("*since first*")
    assert bless(project, project.journal("now.jsonl", factors=HUNGRIER), "--allow-raise") == 0
    same = project.replay(project.journal("same.jsonl", when=THIRD, factors=HUNGRIER))
    same.stdout.fnmatch_lines(["finding*since first*", "*batched*+20.0 % [[]+*"])
    more = project.replay(project.journal("more.jsonl", when=THIRD, factors={(8, "batched"): 1.3}))
    more.stdout.fnmatch_lines(["  creep:    +30.0 % [[]+*, +*[]] since the first blessed session, 2026-01-01"])


def test_a_level_that_stayed_where_it_was_shows_no_creep(project: Project) -> None:
    assert bless(project, project.journal("now.jsonl")) == 0
    result = project.replay(project.journal("same.jsonl", when=THIRD))
    result.stdout.no_fnmatch_line("*since first*")


def test_ci_does_not_bless_unless_told(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI", "true")
    command = ["bless", str(project.journal("now.jsonl").path), "--reason", "x", "--baselines", str(project.path)]
    assert main(command) == 2
    assert "a baseline is changed by a person, or with --in-ci" in capsys.readouterr().err
    assert main([*command, "--in-ci"]) == 0


def test_a_folder_that_cannot_be_written_is_said(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    (project.path / "file").touch()
    journal = project.journal("now.jsonl")
    assert main(["bless", str(journal.path), "--reason", "x", "--baselines", str(project.path / "file")]) == 2
    assert "cannot write" in capsys.readouterr().err
