"""What a run left open beside another stack is metered on by a run that goes on with it."""

import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from pytest_llm_energy.cli import main
from pytest_llm_energy.verdicts.journal import Journal, read_journal
from pytest_llm_energy.verdicts.records import Began
from tests.plugin.conftest import SCATTERING

# A level 2.3 % above the other stack's, which windows tell almost exactly, and engine starts do not.
NEAR_ITS_BUDGET = re.sub(
    r"joules = itertools\.chain\(.*\)", "joules = itertools.cycle([1.023, 1.0, 1.0, 1.023])", SCATTERING
)

DIES = """
import os, pathlib, signal
metered = itertools.count(1)
close = Meter.close
def dying(self, started, ended):
    if next(metered) > 6 and pathlib.Path("dies").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return close(self, started, ended)
Meter.close = dying
"""

SERVING = """
from pytest_llm_energy import Scenario

def test_serving(energy_meter):
    with open("bodies.txt", "a") as file:
        file.write("one more")
    energy_meter.check(energy_meter.measure(Scenario(model="tiny-llama", input_tokens=8, output_tokens=8)))
"""

OPTIONS = ("--energy-runs=12", "--energy-window=0.01", f"--energy-against=transformers={sys.executable}")


@pytest.fixture
def left_open(pytester: pytest.Pytester) -> Path:
    """The journal of a run that had no time to settle its level."""
    pytester.makeconftest(NEAR_ITS_BUDGET + DIES)
    pytester.makepyfile(test_serving=SERVING)
    result = pytester.runpytest_subprocess(*OPTIONS, "--energy-settle=0", "--energy-journal=open.jsonl")
    result.stdout.fnmatch_lines(
        [
            "engines: 2 starts in *",
            "to meter on what is open: --energy-resume open.jsonl --energy-settle SECONDS",
            "energy: judged 0 of 1 (1 inconclusive)*",
        ]
    )
    return pytester.path / "open.jsonl"


def gone_on(pytester: pytest.Pytester, of: str, to: str, *options: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess(
        *OPTIONS, "--energy-settle=600", f"--energy-resume={of}", f"--energy-journal={to}", *options
    )


def runs_by_start(journal: Journal) -> list[tuple[int, ...]]:
    """Of each side, how many runs of each engine start its one level is judged by."""
    (check,) = journal.checks
    (arm,) = journal.measured(check).arms
    return [tuple(Counter(run.start for run in runs).values()) for runs in (arm.runs, arm.against)]


def test_it_is_judged_by_the_windows_of_both_runs(pytester: pytest.Pytester, left_open: Path) -> None:
    result = gone_on(pytester, "open.jsonl", "whole.jsonl")
    judged = ["* 24 * ok", "energy: judged 1 of 1 (1 ok)"]
    further = "resumed: 0 of 1 cases from open.jsonl; open there, and metered on: 1"
    result.stdout.fnmatch_lines([further, "engines: 2 starts in *", *judged])
    whole = read_journal(pytester.path / "whole.jsonl")
    assert runs_by_start(read_journal(left_open)) == [(12,), (12,)]
    assert runs_by_start(whole) == [(12, 12), (12, 12)]
    (before,), (check,) = read_journal(left_open).checks, whole.checks
    assert check.looks == before.looks + 5  # each may be wrong by chance
    replayed = pytester.runpytest_subprocess("--energy-replay=whole.jsonl")
    replayed.stdout.fnmatch_lines(judged)
    assert main(["bless", str(whole.path), "--reason", "x", "--baselines", str(pytester.path / "baselines")]) == 2

    settled = gone_on(pytester, "whole.jsonl", "third.jsonl")
    settled.stdout.fnmatch_lines(["resumed: 1 of 1 cases from whole.jsonl", judged[-1]])
    assert (pytester.path / "bodies.txt").read_text() == 2 * "one more"


def test_without_time_for_it_nothing_is_metered_on(pytester: pytest.Pytester, left_open: Path) -> None:
    result = pytester.runpytest_subprocess(*OPTIONS, "--energy-resume=open.jsonl", "--energy-journal=same.jsonl")
    result.stdout.fnmatch_lines(["resumed: 1 of 1 cases from open.jsonl", "energy: judged 0 of 1 *"])
    assert (pytester.path / "bodies.txt").read_text() == "one more"


def test_a_run_that_is_killed_meanwhile_leaves_what_was_known_and_can_be_gone_on_with(
    pytester: pytest.Pytester, left_open: Path
) -> None:
    (pytester.path / "dies").touch()
    assert gone_on(pytester, "open.jsonl", "cut.jsonl").ret == -9
    (pytester.path / "dies").unlink()
    cut = read_journal(pytester.path / "cut.jsonl")
    assert [record.further for record in cut.records if isinstance(record, Began)] == [False, True]
    assert len(list(cut.ran())) == 24 < len([line for line in cut.records if type(line).__name__ == "Ran"])
    assert runs_by_start(cut) == [(12,), (12,)]
    replayed = pytester.runpytest_subprocess("--energy-replay=cut.jsonl")
    replayed.stdout.fnmatch_lines(["energy: judged 0 of 1 (1 inconclusive)*"])

    assert gone_on(pytester, "cut.jsonl", "whole.jsonl").ret == 0
    assert runs_by_start(read_journal(pytester.path / "whole.jsonl")) == [(12, 12), (12, 12)]


def test_a_case_that_serves_something_else_now_is_an_error_and_its_verdict_stands(
    pytester: pytest.Pytester, left_open: Path
) -> None:
    pytester.makepyfile(test_serving=SERVING.replace("input_tokens=8", "input_tokens=9"))
    result = gone_on(pytester, "open.jsonl", "other.jsonl")
    result.stdout.fnmatch_lines(
        ["MeasurementError: *serves something else now than in *open.jsonl*without --energy-resume*"]
    )
    assert runs_by_start(read_journal(pytester.path / "other.jsonl")) == [(12,), (12,)]
