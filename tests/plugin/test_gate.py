"""What fails, what passes, and with which exit status: a journal of a simulated GPU, judged."""

import xml.etree.ElementTree as ET

import pytest

from pytest_llm_energy import costs
from tests.plugin.conftest import Project

HUNGRIER = {(8, "batched"): 1.2}
BOTH_ARMS = {(8, "batched"): 1.1, (8, "alone"): 1.1}
LEANER_CONTROL = {(8, "alone"): 0.8}


def test_an_unchanged_stack_passes(project: Project) -> None:
    result = project.replay(project.journal("now.jsonl"))
    assert result.ret == 0
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["energy: judged 3 of 3 (3 new, 6 ok)"])


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_hungrier_level_is_one_failed_test_that_says_what_how_much_and_how_surely(
    project: Project, workers: str
) -> None:
    journal = project.journal("now.jsonl", factors=HUNGRIER)
    result = project.replay(journal, f"-n{workers}", "--junitxml=junit.xml")
    assert result.ret == 1
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*test_falls[[]h200-8[]]*",
            "batching falls[[]8[]] on h200: arm 'batched' regressed",
            "  what:     * per token, where the reference has *",
            "            (baseline, 1 session on this board since 2026-01-01 (first measurement))",
            "  how much: +?*.? % energy per token, where +3.0 % is allowed",
            "  how sure: between +* % and +* %, each bound wrong at most 1 % of the time; 3 runs of 1 *",
            "  why:      the same speed at more power",
            "            (energy = power x time per token: time +0.0 % [[]-*, +*[]], power +2?.? % [[]+*, +*[]])",
            "  changed:  transformers: 5.0 -> 5.1",
            "  to do: *",
            "energy: judged 3 of 3 (1 regressed, 3 new, 5 ok)",
        ]
    )
    cases = list(ET.parse(project.path / "junit.xml").getroot().iter("testcase"))
    verdicts = [
        p.get("value") for case in cases for p in case.iter("property") if p.get("name") == "energy_verdict"
    ]
    assert sorted(filter(None, verdicts)) == ["new", "new", "regressed"]
    failures = {case.get("name"): case.find("failure") for case in cases if case.find("failure") is not None}
    assert list(failures) == ["test_falls[h200-8]"]
    assert "arm 'batched' regressed" in str(failures["test_falls[h200-8]"].get("message"))  # type: ignore[union-attr]


def test_ten_percent_in_both_arms_regresses_both(project: Project) -> None:
    result = project.replay(project.journal("now.jsonl", factors=BOTH_ARMS))
    assert result.ret == 1
    result.stdout.fnmatch_lines_random(["*arm 'batched' regressed", "*arm 'alone' regressed"])
    result.stdout.fnmatch_lines(["energy: judged 3 of 3 (2 regressed, 3 new, 4 ok)"])


def test_a_leaner_control_alone_regresses_nothing(project: Project) -> None:
    result = project.replay(project.journal("now.jsonl", factors=LEANER_CONTROL))
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*2 passed, 1 improved*", "energy: judged 3 of 3 (1 improved, 3 new, 5 ok)"])


def test_the_table_says_why_only_where_a_level_changed(project: Project) -> None:
    changed = project.replay(project.journal("now.jsonl", factors={**HUNGRIER, (4, "alone"): 0.8}))
    changed.stdout.fnmatch_lines(
        [
            "finding *change *sees *why *verdict",
            "batching *4 *batched *% *ok",
            "* alone *% *less power *improved",
            "* 8 *batched *% *more power *regressed",
        ]
    )
    same = project.replay(project.journal("same.jsonl"))
    same.stdout.no_fnmatch_line("finding *why*verdict")


def test_a_contradicted_claim_fails(project: Project) -> None:
    result = project.replay(project.journal("now.jsonl", claim=costs))
    assert result.ret == 1
    line = "*batching falls[[]4[]] on h200: contradicts the claim: batched costs more than alone"
    result.stdout.fnmatch_lines([line])


def test_the_gate_can_be_off(project: Project) -> None:
    result = project.replay(project.journal("now.jsonl", factors=BOTH_ARMS), "--energy-gate=off")
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*2 passed, 1 regressed*", "energy: judged 3 of 3 (2 regressed, 3 new, 4 ok)"])


def test_verdicts_have_letters_and_words_of_their_own(project: Project) -> None:
    journal = project.journal("now.jsonl", factors={**HUNGRIER, (4, "alone"): 0.8})
    project.replay(journal).stdout.fnmatch_lines(["*test_batching.py IRn*"])
    project.replay(journal, "-v").stdout.fnmatch_lines(
        ["*h200-4* IMPROVED*", "*h200-8* REGRESSED*", "*h200-16* NEW*"]
    )


def test_the_strict_gate_fails_what_is_not_decided(project: Project) -> None:
    noisy = project.journal("noisy.jsonl", noise=0.15, claim=None)
    assert project.replay(noisy, "--energy-gate=strict").ret == 1


@pytest.mark.parametrize("invalid", [True, False], ids=["invalid", "too-noisy"])
def test_a_gate_that_decided_nothing_does_not_pass(project: Project, invalid: bool) -> None:
    result = project.replay(project.journal("now.jsonl", noise=0.15, invalid=invalid, claim=None))
    assert result.ret == (1 if invalid else 5)
    result.stdout.fnmatch_lines(["energy: judged 0 of 3 *; a gate that decided nothing does not pass *"])
    if invalid:
        result.stdout.fnmatch_lines(["*no valid run: the counter stood still: is the driver alive?"])


def test_nor_does_one_without_a_baseline(project: Project) -> None:
    result = project.replay(project.journal("now.jsonl", claim=None), "--energy-baselines=elsewhere")
    assert result.ret == 5
    result.stdout.fnmatch_lines(["*3 incomparable*", "energy: judged 0 of 3 (6 incomparable)*does not pass*"])


def test_a_budget_on_the_command_line_judges_a_journal_again(project: Project) -> None:
    journal = project.journal("now.jsonl", factors=HUNGRIER)
    assert project.replay(journal, "--energy-budget=30%").ret == 0
    result = project.replay(journal, "--energy-budget=300")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*'300' is no budget: write a percentage such as 3%"])


def test_the_ini_file_sets_what_a_project_fixes(project: Project) -> None:
    journal = project.journal("now.jsonl", factors=HUNGRIER)
    project.pytester.makeini("[pytest]\nenergy_budget = 30%\n")
    assert project.replay(journal).ret == 0
    project.pytester.makeini("[pytest]\nenergy_gate = sometimes\n")
    result = project.replay(journal)
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*energy_gate: 'sometimes'; known: on, strict, off"])


def test_only_what_failed_is_judged_again(project: Project) -> None:
    journal = project.journal("now.jsonl", factors=HUNGRIER)
    project.replay(journal)
    result = project.replay(journal, "--lf")
    assert result.ret == 1
    result.assert_outcomes(failed=1)


def test_the_first_failure_can_stop_the_run(project: Project) -> None:
    result = project.replay(project.journal("now.jsonl", factors={(4, "batched"): 1.2}), "-x")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["energy: judged 1 of 3 (1 regressed, 1 new, 1 ok, 2 not reached)"])


def test_a_corrupt_baseline_is_an_error_of_its_cases_and_the_others_run(project: Project) -> None:
    project.pytester.makepyfile(
        test_other="def test_nothing_to_do_with_energy():\n    pass",
    )
    path = project.path / "baselines" / "h200" / "batching.json"
    path.write_text(path.read_text()[:300])
    result = project.replay(project.journal("now.jsonl"))
    assert result.ret == 1
    result.assert_outcomes(errors=3, passed=1)
    result.stdout.fnmatch_lines([f"BaselineError: {path} is corrupt: *line*"])
    result.stdout.fnmatch_lines(["energy: judged 0 of 3 (3 errored)*"])


def test_a_journal_that_is_none_is_refused(project: Project) -> None:
    (project.path / "none.jsonl").write_text("not a journal\n")
    result = project.pytester.runpytest_subprocess("--energy-replay=none.jsonl")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*none.jsonl, line 1 is corrupt*"])


def test_an_expected_regression_is_an_expected_failure(project: Project) -> None:
    path = project.path / "test_batching.py"
    path.write_text(path.read_text().replace("@pytest", "@pytest.mark.xfail(reason='known')\n@pytest", 1))
    result = project.replay(project.journal("now.jsonl", factors=dict.fromkeys(BATCHED, 1.2)))
    assert result.ret == 0
    result.assert_outcomes(xfailed=3)


BATCHED = tuple((size, "batched") for size in (4, 8, 16))


def test_two_modules_of_one_name_cannot_share_a_case(project: Project) -> None:
    text = (project.path / "test_batching.py").read_text()
    for folder in ("a", "b"):
        (project.path / folder).mkdir()
        (project.path / folder / "__init__.py").touch()
        (project.path / folder / "test_api.py").write_text(text)
    result = project.replay(project.journal("now.jsonl"))
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: a/test_api.py* and b/test_api.py* are both the case api falls*rename one*"]
    )


def test_a_journal_of_a_gpu_the_catalogue_does_not_know_is_judged(project: Project) -> None:
    journal = project.journal("now.jsonl", gpu="rtx_9090")
    result = project.replay(journal)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["*test_batching.py ~~~*", "energy: judged 3 of 3 (6 incomparable, 3 new)"])
