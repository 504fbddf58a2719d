"""llm-energy bless, as a user types it."""

import pytest

from pytest_llm_energy.cli import main
from tests.plugin.conftest import Project


def test_a_new_session_is_added_to_the_baseline(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    journal = project.journal("now.jsonl", factors={(8, "batched"): 1.2})
    folder = str(project.path / "baselines")
    assert main(["bless", str(journal.path), "--reason", "a known cost", "--baselines", folder]) == 0
    assert "batching.json: falls[8]: session 2 added" in capsys.readouterr().out
    assert main(["bless", str(journal.path), "--reason", "again", "--baselines", folder]) == 2
    assert "is blessed already" in capsys.readouterr().err


def test_ci_does_not_bless_unless_told(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI", "true")
    command = ["bless", str(project.journal("now.jsonl").path), "--reason", "x", "--baselines", str(project.path)]
    assert main(command) == 2
    assert "a baseline is blessed by a person, or with --in-ci" in capsys.readouterr().err
    assert main([*command, "--in-ci"]) == 0


def test_a_folder_that_cannot_be_written_is_said(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    (project.path / "file").touch()
    journal = project.journal("now.jsonl")
    assert main(["bless", str(journal.path), "--reason", "x", "--baselines", str(project.path / "file")]) == 2
    assert "cannot write" in capsys.readouterr().err
