"""llm-energy trim: baselines without what no test collects."""

import json
import sys

import pytest

from pytest_llm_energy import costs
from pytest_llm_energy.cli import main
from pytest_llm_energy.verdicts.baselines import Baseline, read_baseline
from tests.plugin.conftest import PLAIN, TEST_FILE, Project

ARMS_AS_PARAMETERS = """
import pytest
from pytest_llm_energy import Arms, Scenario

PLAIN = Scenario(model="Llama-3.1-8B", input_tokens=512, output_tokens=64)

@pytest.mark.parametrize("arms", [Arms(one=PLAIN, two=PLAIN.replace(batch_size=2)).named("2")], ids=str)
def test_with(energy_meter, arms):
    pass
"""


def trim(project: Project, *options: str) -> pytest.RunResult:
    return project.pytester.run(sys.executable, "-m", "pytest_llm_energy.cli", "trim", *options)


def baseline(project: Project, finding: str = "batching") -> Baseline:
    read = read_baseline(project.path / "baselines", "h200", finding)
    assert read is not None
    return read


def drop_16(project: Project) -> None:
    project.pytester.makepyfile(test_batching=TEST_FILE.replace("[4, 8, 16]", "[4, 8]"))


def test_nothing_is_removed_without_a_reason_but_it_is_listed(project: Project) -> None:
    before = baseline(project)
    drop_16(project)
    result = trim(project, ".")
    assert result.ret == 2
    result.stdout.fnmatch_lines(["to remove: batching falls[[]16[]] on h200"])
    result.stderr.fnmatch_lines(["llm-energy: trimming needs a reason: --reason *"])
    assert baseline(project) == before


def test_a_case_that_no_test_collects_is_removed_and_the_reason_kept(project: Project) -> None:
    drop_16(project)
    result = trim(project, ".", "--reason", "nobody serves such batches")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["to remove: batching falls[[]16[]] on h200", "written: *batching.json"])
    left = baseline(project)
    assert left.cases.keys() == {"falls[4]", "falls[8]"}
    assert [session.when for session in left.sessions] == ["2026-01-01T00:00:00+00:00"]
    assert {case for start in left.sessions[0].starts for case in start} == {"falls[4]", "falls[8]"}
    assert [(gone.what, gone.reason) for gone in left.trimmed] == [("falls[16]", "nobody serves such batches")]


def test_what_was_trimmed_is_still_recorded_after_the_next_blessing(project: Project) -> None:
    drop_16(project)
    trim(project, ".", "--reason", "x")
    project.journal("now.jsonl").bless(project.path / "baselines")
    assert [gone.what for gone in baseline(project).trimmed] == ["falls[16]"]


def test_nothing_goes_while_every_case_is_collected(project: Project) -> None:
    result = trim(project, ".", "--reason", "x")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["nothing to remove: *"])


def test_cases_that_a_run_leaves_out_are_collected_all_the_same(project: Project) -> None:
    project.pytester.makepyfile(test_batching=TEST_FILE.replace("@pytest", "@pytest.mark.full\n@pytest", 1))
    project.pytester.makeini("[pytest]\naddopts = -k 4\n")
    trim(project, ".", "--reason", "x").stdout.fnmatch_lines(["nothing to remove: *"])


def test_a_project_whose_warnings_are_errors_is_collected(project: Project) -> None:
    project.pytester.makeini("[pytest]\nfilterwarnings = error\n")
    trim(project, ".", "--reason", "x").stdout.fnmatch_lines(["nothing to remove: *"])


def test_an_arm_that_its_case_has_no_more_is_removed(project: Project) -> None:
    journal = project.journal("now.jsonl")
    arms = {"one": (PLAIN, 1.0), "two": (PLAIN.replace(batch_size=2), 1.0), "three": (PLAIN, 1.0)}
    journal.case("arms", "with[2]", arms).bless(project.path / "baselines")
    project.pytester.makepyfile(test_arms=ARMS_AS_PARAMETERS)
    result = trim(project, ".", "--reason", "x")
    result.stdout.fnmatch_lines(["to remove: arms with[[]2[]] on h200: three"])
    assert baseline(project, "arms").cases["with[2]"].arms.keys() == {"one", "two"}
    assert baseline(project, "arms").sessions[0].starts[0]["with[2]"].keys() == {"one", "two"}


def test_a_file_alone_says_nothing_of_other_findings(project: Project) -> None:
    project.pytester.makepyfile(test_arms=ARMS_AS_PARAMETERS)
    trim(project, "test_arms.py", "--reason", "x").stdout.fnmatch_lines(["nothing to remove: *"])


def test_tests_that_cannot_be_collected_remove_nothing(project: Project) -> None:
    before = baseline(project)
    project.pytester.makepyfile(test_batching="import nonsense_that_is_not_there")
    result = trim(project, ".", "--reason", "x")
    assert result.ret == 2
    result.stderr.fnmatch_lines(["llm-energy: . cannot be collected:*", "*nonsense_that_is_not_there*"])
    project.pytester.makepyfile(test_batching="def test_other():\n    pass")
    result = trim(project, ".", "--reason", "x")
    result.stderr.fnmatch_lines(["llm-energy: no energy test under ."])
    assert baseline(project) == before


def test_of_a_module_that_is_skipped_here_nothing_is_removed(project: Project) -> None:
    before = baseline(project)
    skipping = 'import pytest\npytest.importorskip("nonsense_that_is_not_there")\n'
    project.pytester.makepyfile(test_batching=skipping + TEST_FILE, test_arms=ARMS_AS_PARAMETERS)
    result = trim(project, ".", "--reason", "x")
    assert result.ret == 2
    result.stderr.fnmatch_lines(["*: what is skipped here may hold energy tests:", "  test_batching.py: *"])
    assert baseline(project) == before


def test_what_the_user_names_is_removed(project: Project) -> None:
    result = trim(project, "--only", "batching falls[8] on h200: alone", "--reason", "x")
    assert result.ret == 0
    assert baseline(project).cases["falls[8]"].arms.keys() == {"batched"}
    assert trim(project, "--only", "batching falls[8] on h200: batched", "--reason", "x").ret == 0
    assert "falls[8]" not in baseline(project).cases
    result = trim(project, "--only", "batching falls[8] on h200", "--reason", "x")
    assert result.ret == 2
    result.stderr.fnmatch_lines(["llm-energy: no baseline holds 'batching falls[[]8[]] on h200'; near: *"])


def test_what_is_recorded_of_a_case_outlives_its_last_arm(project: Project) -> None:
    folder = str(project.path / "baselines")
    case = "batching falls[8] on h200"
    assert main(["budget", case, "1%", "--reason", "it is steady", "--baselines", folder]) == 0
    arms = ("--only", f"{case}: alone", "--only", f"{case}: batched")
    assert trim(project, *arms, "--reason", "they serve another model now").ret == 0
    left = baseline(project).cases["falls[8]"]
    assert (left.arms, left.budget, len(left.budget_changes)) == ({}, 0.01, 1)
    project.journal("now.jsonl").bless(project.path / "baselines")
    assert baseline(project).cases["falls[8]"].arms.keys() == {"batched", "alone"}
    assert baseline(project).cases["falls[8]"].budget == 0.01
    assert trim(project, "--only", case, "--reason", "nobody wants it").ret == 0
    assert "falls[8]" not in baseline(project).cases


@pytest.mark.parametrize("last", [0, 1, 2])
def test_a_case_of_which_nothing_is_left_is_gone(project: Project, last: int) -> None:
    case = "batching falls[8] on h200"
    claim = f"{case}: batched costs more than alone"
    journal = project.journal("now.jsonl", claim=costs)
    folder = str(project.path / "baselines")
    assert main(["absent", str(journal.path), claim, "--reason", "x", "--baselines", folder]) == 0
    parts = [f"{case}: alone", f"{case}: batched", claim]
    for part in parts[last + 1 :] + parts[: last + 1]:
        assert "falls[8]" in baseline(project).cases
        assert trim(project, "--only", part, "--reason", "x").ret == 0
    assert "falls[8]" not in baseline(project).cases


def test_what_is_named_twice_or_with_what_holds_it_is_removed_once(project: Project) -> None:
    case = "batching falls[8] on h200"
    result = trim(project, "--only", case, "--only", f"{case}: alone", "--only", case, "--reason", "x")
    assert result.ret == 0
    assert result.outlines[:2] == [f"to remove: {case}", f"to remove: {case}: alone"]
    assert baseline(project).cases.keys() == {"falls[4]", "falls[16]"}


def test_what_was_taken_out_by_mistake_can_be_blessed_again_from_its_journal(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    again = ["bless", "first.jsonl", "--reason", "it was right", "--baselines", "baselines"]
    assert trim(project, "--only", "batching falls[8] on h200: alone", "--reason", "x").ret == 0
    assert main(again) == 0
    table = capsys.readouterr().out
    assert "falls[8]" in table
    assert "batched" not in table  # what was left is blessed as it was
    first, second = baseline(project).sessions
    assert second.when == first.when
    assert [list(start) for start in second.starts] == [["falls[8]"]]
    assert second.starts[0]["falls[8]"].keys() == {"alone"}
    assert main(again) == 2
    assert "is blessed already" in capsys.readouterr().err


def test_a_record_that_a_finding_does_not_hold_can_be_taken_back(project: Project) -> None:
    claim = "batching falls[8] on h200: batched costs more than alone"
    journal = project.journal("now.jsonl", claim=costs)
    command = [sys.executable, "-m", "pytest_llm_energy.cli", "absent", str(journal.path), claim, "--reason", "x"]
    assert project.pytester.run(*command).ret == 0
    assert trim(project, "--only", claim, "--reason", "it does, since 2.4").ret == 0
    assert project.replay(journal, "-k", "8").ret == 1


def test_ci_trims_nothing_unless_told(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    drop_16(project)
    monkeypatch.setenv("CI", "true")
    assert trim(project, ".", "--reason", "x").ret == 2
    assert trim(project, ".", "--reason", "x", "--in-ci").ret == 0
    assert "trimmed" in json.loads((project.path / "baselines" / "h200" / "batching.json").read_text())
