"""What pytest knows of expected failures applies to a verdict as to any other failure."""

import pytest

from pytest_llm_energy.verdicts.journal import read_journal
from tests.plugin.conftest import Project

REGRESSED = {(size, "batched"): 1.2 for size in (4, 8, 16)}


def marked(project: Project, *marks: str) -> None:
    """Put marks on the project's test."""
    path = project.path / "test_batching.py"
    lines = "\n".join(f"@pytest.mark.{mark}" for mark in marks)
    path.write_text(path.read_text().replace("@pytest", f"{lines}\n@pytest", 1))


@pytest.mark.parametrize("mark", ["xfail(False, reason='elsewhere')", "xfail(raises=OSError, reason='io')"])
def test_a_regression_fails_where_its_mark_does_not_apply(project: Project, mark: str) -> None:
    marked(project, mark)
    result = project.replay(project.journal("now.jsonl", factors=REGRESSED))
    assert result.ret == 1
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(["batching falls?4? on h200: arm 'batched' regressed"])


def test_a_regression_fails_where_marks_are_not_heeded(project: Project) -> None:
    marked(project, "xfail(reason='known')")
    result = project.replay(project.journal("now.jsonl", factors=REGRESSED), "--runxfail")
    assert result.ret == 1
    result.assert_outcomes(failed=3)


@pytest.mark.parametrize("mark", ["xfail(strict=True, reason='known')", "xfail(raises=AssertionError)"])
def test_a_regression_that_a_mark_expects_passes(project: Project, mark: str) -> None:
    marked(project, mark)
    result = project.replay(project.journal("now.jsonl", factors=REGRESSED))
    assert result.ret == 0
    result.assert_outcomes(xfailed=3)
    assert "judged 3 of 3 (3 regressed" in result.stdout.str()


def test_a_level_that_was_to_fail_and_does_not_is_judged_and_unexpected(project: Project) -> None:
    marked(project, "xfail(reason='known')")
    result = project.replay(project.journal("now.jsonl"))
    assert result.ret == 0
    result.assert_outcomes(xpassed=3)
    assert "judged 3 of 3" in result.stdout.str()


LIVE = """
import time
import pytest
from pytest_llm_energy import saves

@pytest.mark.xfail({arguments})
def test_sleeps(energy_meter):
    arms = energy_meter.compare(short=lambda: time.sleep(0.01), long=lambda: time.sleep(0.05))
    energy_meter.check(arms, saves)
    {last}
"""


def test_what_strictly_must_fail_and_does_not_fails_and_has_ended(host: pytest.Pytester) -> None:
    host.makepyfile(test_live=LIVE.format(arguments="strict=True, reason='known'", last=""))
    result = host.runpytest_subprocess("--energy-journal=j.jsonl")
    assert result.ret == 1
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*XPASS(strict)*known*", "energy: judged 1 of 1 (*1 new)"])
    journal = read_journal(host.path / "j.jsonl")
    assert not journal.troubles
    assert [key.case for key in journal.finished] == ["sleeps"]


def test_a_body_that_raises_as_expected_is_named_by_its_reason(host: pytest.Pytester) -> None:
    host.makepyfile(test_live=LIVE.format(arguments="reason='known'", last="raise ValueError('the fan stands')"))
    result = host.runpytest_subprocess("--energy-journal=j.jsonl")
    result.assert_outcomes(xfailed=1)
    result.stdout.fnmatch_lines(["not judged here, expected to fail: known:"])
    assert "Traceback" not in result.stdout.str()
    assert "the fan stands" not in result.stdout.str()
    assert list(read_journal(host.path / "j.jsonl").troubles.values()) == ["the fan stands"]


def test_a_body_that_pytest_fails_without_an_exception_leaves_its_words_in_the_journal(
    host: pytest.Pytester,
) -> None:
    host.makeconftest(
        """
import pytest

@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call":
        report.outcome, report.longrepr = "failed", "a part of it failed"
    return report
"""
    )
    host.makepyfile(test_live=LIVE.format(arguments="False, reason='elsewhere'", last=""))
    result = host.runpytest_subprocess("--energy-journal=j.jsonl")
    result.assert_outcomes(failed=1)
    assert list(read_journal(host.path / "j.jsonl").troubles.values()) == ["a part of it failed"]
