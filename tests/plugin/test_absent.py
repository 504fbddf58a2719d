"""llm-energy absent: findings that are known not to hold on a GPU model."""

from pathlib import Path

import pytest

from pytest_llm_energy import costs, saves
from pytest_llm_energy.cli import main
from tests.plugin.conftest import PLAIN, Project

CLAIM = "batching falls[8] on h200: batched costs more than alone"


def absent(project: Project, journal: Path, claim: str = CLAIM, *options: str) -> int:
    folder = str(project.path / "baselines")
    command = ["absent", str(journal), claim, "--reason", "the power limit levels them", "--baselines", folder]
    return main([*command, *options])


def test_a_contradicted_claim_says_how_to_record_that_it_does_not_hold(project: Project) -> None:
    result = project.replay(project.journal("now.jsonl", claim=costs))
    result.stdout.fnmatch_lines([f"*llm-energy absent JOURNAL '{CLAIM.replace('[', '[[]')}' --reason ..."])


def test_a_claim_that_is_known_not_to_hold_does_not_fail_and_says_why(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = project.journal("now.jsonl", claim=costs)
    assert absent(project, journal.path) == 0
    assert "batching falls[8] on h200: known not to hold: batched costs more" in capsys.readouterr().out
    result = project.replay(journal, "--energy-report=report.md", "-k", "8")
    assert result.ret == 0
    note = "batched costs more than alone: known not to hold here: the power limit levels them, 20"
    result.stdout.fnmatch_lines(["*test_batching.py a*", f"  batching falls*: {note}*"])
    result.stdout.fnmatch_lines(["energy: judged 1 of 1 (1 absent, 2 ok)"])
    assert note in (project.path / "report.md").read_text()


def test_other_cases_still_fail(project: Project) -> None:
    journal = project.journal("now.jsonl", claim=costs)
    assert absent(project, journal.path) == 0
    result = project.replay(journal)
    assert result.ret == 1
    result.assert_outcomes(passed=1, failed=2)


def test_the_strict_gate_does_not_fail_what_is_known(project: Project) -> None:
    journal = project.journal("now.jsonl", claim=costs)
    absent(project, journal.path)
    assert project.replay(journal, "--energy-gate=strict", "-k", "8").ret == 0


def test_a_claim_that_holds_again_is_reported_and_passes(project: Project) -> None:
    absent(project, project.journal("now.jsonl", claim=costs).path)
    back = project.journal("back.jsonl", claim=costs, factors={(8, "alone"): 0.1})
    result = project.replay(back, "-k", "8")
    assert result.ret == 0
    note = "holds again, where it was known not to: the power limit levels them, 20"
    result.stdout.fnmatch_lines([f"  batching falls* on h200: batched costs more than alone: {note}*"])
    result.stdout.no_fnmatch_line("*contradicts*")


def test_what_the_journal_does_not_contradict_is_not_recorded(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = project.journal("now.jsonl", claim=saves)
    assert absent(project, journal.path, "batching falls[8]: batched saves against alone") == 2
    assert "does not contradict it: batching falls[8] on h200: new: batched saves" in capsys.readouterr().err
    assert absent(project, journal.path, "batching falls[8]: batched save against alone") == 2
    assert "near: batching falls[8] on h200: batched saves against alone" in capsys.readouterr().err


def test_a_case_in_error_beside_it_hinders_nothing(project: Project) -> None:
    journal = project.journal("now.jsonl", claim=costs)
    arms = {"one": (PLAIN, 1.0), "two": (PLAIN, 1.0)}
    journal.case("batching", "falls[32]", arms, claim=costs, invalid=True)
    assert absent(project, journal.path) == 0


def test_the_line_of_the_failure_names_the_claim_too(project: Project) -> None:
    journal = project.journal("now.jsonl", claim=costs)
    assert absent(project, journal.path, CLAIM.replace(": b", ": contradicts the claim: b")) == 0
    assert absent(project, journal.path) == 2


def test_a_case_without_a_baseline_is_blessed_first(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    journal = project.journal("now.jsonl", claim=costs, gpu="a100_pcie")
    assert absent(project, journal.path, CLAIM.replace("h200", "a100_pcie")) == 2
    assert "has no baseline to record that in: llm-energy bless" in capsys.readouterr().err
