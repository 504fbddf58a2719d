"""llm-energy budget, and how loud every report is about a loosened one."""

import pytest

from pytest_llm_energy.cli import main
from tests.plugin.conftest import Project

NO_LINE = "*LOOSENED*"


def budget(project: Project, case: str, percent: str, *options: str) -> int:
    folder = str(project.path / "baselines")
    return main(
        ["budget", case, percent, "--reason", "a slower kernel, mended soon", "--baselines", folder, *options]
    )


def test_the_default_budget_is_not_shouted_about(project: Project) -> None:
    project.replay(project.journal("now.jsonl")).stdout.no_fnmatch_line(NO_LINE)


def test_a_budget_that_was_loosened_in_a_baseline_is_shouted_in_every_report(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert budget(project, "batching falls[8] on h200", "8%") == 0
    told = capsys.readouterr().out
    assert "batching falls[8] on h200: may take +8 % (was +3 %): a slower kernel, mended soon" in told
    journal = project.journal("now.jsonl", factors={(8, "batched"): 1.05})
    result = project.replay(journal, "--energy-report=report.md")
    assert result.ret == 0
    line = "LOOSENED: batching falls[[]8[]] on h200 may take +8 % (was +3 %): a slower kernel, mended soon, 20??-*"
    result.stdout.fnmatch_lines([line])
    assert "**LOOSENED: batching falls[8] on h200 may take +8 %" in (project.path / "report.md").read_text()


def test_a_budget_below_the_default_that_was_tighter_once_is_loosened_too(project: Project) -> None:
    assert budget(project, "batching falls[8]", "1%") == 0
    project.replay(project.journal("tight.jsonl")).stdout.no_fnmatch_line(NO_LINE)
    assert budget(project, "batching falls[8]", "2.5%") == 0
    result = project.replay(project.journal("now.jsonl"))
    result.stdout.fnmatch_lines(["LOOSENED: * may take +2.5 % (was +1 %): a slower kernel, mended soon, *"])


def test_a_budget_that_is_back_where_it_was_is_not_shouted_about(project: Project) -> None:
    assert budget(project, "batching falls[8]", "8%") == 0
    assert budget(project, "batching falls[8]", "3%") == 0
    project.replay(project.journal("now.jsonl")).stdout.no_fnmatch_line(NO_LINE)


def test_a_session_that_is_blessed_leaves_budgets_as_they_are(project: Project) -> None:
    assert budget(project, "batching falls[8]", "8%") == 0
    project.journal("second.jsonl").bless(project.path / "baselines")
    result = project.replay(project.journal("now.jsonl", when="2026-03-03T00:00:00+00:00"))
    result.stdout.fnmatch_lines(["LOOSENED: batching falls[[]8[]] on h200 may take +8 % *"])


@pytest.mark.parametrize("where", ["option", "ini", "test"])
def test_a_loose_budget_from_elsewhere_is_shouted_once(project: Project, where: str) -> None:
    says = {
        "option": "LOOSENED: every level may take +30 % (was +3 %): the command line",
        "ini": "LOOSENED: every level without a budget of its own may take +30 % (was +3 %): the ini file's *",
        "test": "LOOSENED: batching falls[[]8[]] on h200 may take +30 % (was +3 %): the test says so",
    }
    journal = project.journal("now.jsonl", budget=0.3 if where == "test" else None)
    if where == "ini":
        project.pytester.makeini("[pytest]\nenergy_budget = 30%\n")
    result = project.replay(journal, *(["--energy-budget=30%"] if where == "option" else []))
    result.stdout.fnmatch_lines([says[where]])
    assert result.stdout.str().count("LOOSENED") == (3 if where == "test" else 1)


@pytest.mark.parametrize(
    "case", ["batching falls[8] on h200", "batching falls[8]", "batching 8", "batching 8 on h200"]
)
def test_a_case_is_named_as_messages_or_tables_write_it(
    project: Project, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    assert budget(project, case, "8%") == 0
    assert "batching falls[8] on h200: may take +8 % (was +3 %)" in capsys.readouterr().out


def test_a_case_that_no_baseline_has_is_refused_with_those_near_it(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert budget(project, "batching fals[8]", "8%") == 2
    told = capsys.readouterr().err
    assert "no baseline has the case 'batching fals[8]'; near: batching falls[8] on h200" in told


def test_a_case_on_two_gpu_models_must_say_which(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.journal("a100.jsonl", gpu="a100_pcie").bless(project.path / "baselines")
    assert budget(project, "batching falls[8]", "8%") == 2
    assert "falls[8] on a100_pcie, batching falls[8] on h200" in capsys.readouterr().err
    assert budget(project, "batching falls[8] on h200", "8%") == 0


def test_ci_sets_no_budget_unless_told(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    assert budget(project, "batching falls[8]", "8%") == 2
    assert budget(project, "batching falls[8]", "8%", "--in-ci") == 0
