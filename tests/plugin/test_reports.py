"""The tables as Markdown, in GitHub's summary, and as an annotation."""

import pytest

from tests.plugin.conftest import Project
from tests.plugin.test_gate import BOTH_ARMS


def test_markdown_holds_the_same_tables(project: Project) -> None:
    project.replay(project.journal("now.jsonl", factors=BOTH_ARMS), "--energy-report=energy.md")
    text = (project.path / "energy.md").read_text()
    assert "energy: judged 3 of 3 (2 regressed, 3 new, 4 ok)" in text
    assert "### Levels: joules per output token" in text
    assert "| batching  | 4" in text
    assert "- batching falls[8] on h200, " in text


def test_github_gets_a_summary_and_one_error_for_the_worst(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = project.path / "step.md"
    step.write_text("before\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(step))
    factors = {**BOTH_ARMS, (16, "batched"): 1.5}
    result = project.replay(project.journal("now.jsonl", factors=factors))
    errors = [line for line in result.outlines if line.startswith("::error")]
    assert len(errors) == 1
    assert errors[0].startswith("::error title=Energy regressed::batching falls[16] on h200, batched: regressed")
    assert errors[0].endswith("; more power (and 2 more)")
    assert "%" not in errors[0].replace("%25", "")
    assert step.read_text().startswith("before\n## Energy\n")


def test_a_report_that_cannot_be_written_is_said(project: Project) -> None:
    (project.path / "file").touch()
    result = project.replay(project.journal("now.jsonl"), "--energy-report=file/energy.md")
    result.stdout.fnmatch_lines(["energy: cannot write *energy.md: *"])
    assert result.ret == 0


def test_levels_and_claims_stand_apart_in_the_terminal(project: Project) -> None:
    result = project.replay(project.journal("now.jsonl"))
    result.stdout.fnmatch_lines(
        [
            "*= energy: NVIDIA H200*, replayed, simulated =*",
            "metered by: simulated sensor",
            "Levels: joules per output token",
            "finding *case *arm *J/token *spread *runs *reference *change *budget *sees *verdict",
            "batching *4 *batched *mJ *3 *mJ *+3 % *ok",
            "Claims",
            "batching *4 *batched saves against alone *-8?.? % [[]-*, -*[]] *new",
        ]
    )
