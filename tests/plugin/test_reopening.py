"""What a run left open beside another stack is metered on by a run that goes on with it."""

import hashlib
import json
import re
import sys
from collections import Counter
from pathlib import Path

import pytest

from pytest_llm_energy.cli import main
from pytest_llm_energy.verdicts.baselines import read_baseline
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


def blessed(pytester: pytest.Pytester, journal: str) -> list[int]:
    """Runs of each engine start that a journal's one level is blessed by."""
    folder = pytester.path / "blessed"
    assert main(["bless", str(pytester.path / journal), "--reason", "first", "--baselines", str(folder)]) == 0
    baseline = read_baseline(folder, "h200", "serving")
    assert baseline is not None
    levels = [level for start in baseline.sessions[0].starts for arms in start.values() for level in arms.values()]
    return [len(level.joules_per_token) for level in levels]


def test_it_is_judged_by_the_windows_of_both_runs(pytester: pytest.Pytester, left_open: Path) -> None:
    result = gone_on(pytester, "open.jsonl", "whole.jsonl")
    judged = ["* 24 * ok", "energy: judged 1 of 1 (1 ok)"]
    further = "resumed: 0 of 1 cases from open.jsonl; open there, and metered on: 1"
    result.stdout.fnmatch_lines([further, "engines: 2 starts in *", *judged])
    whole = read_journal(pytester.path / "whole.jsonl")
    assert runs_by_start(read_journal(left_open)) == [(12,), (12,)]
    assert runs_by_start(whole) == [(12, 12), (12, 12)]
    (before,), (check,) = read_journal(left_open).checks, whole.checks
    assert (before.looks, check.looks) == (1, 10)  # five, of half as many errors as the first had
    replayed = pytester.runpytest_subprocess("--energy-replay=whole.jsonl")
    replayed.stdout.fnmatch_lines(judged)

    settled = gone_on(pytester, "whole.jsonl", "third.jsonl")
    settled.stdout.fnmatch_lines(["resumed: 1 of 1 cases from whole.jsonl", judged[-1]])
    assert blessed(pytester, "third.jsonl") == [12]  # a session is of one run
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
    assert blessed(pytester, "cut.jsonl") == [12]
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


TWO_ARMS = """
from pytest_llm_energy import Scenario

def test_serving(energy_meter):
    plain = Scenario(model="tiny-llama", input_tokens=8, output_tokens=8)
    energy_meter.check(energy_meter.measure(plain, plain.replace(output_tokens=16)))
"""


def test_what_was_decided_stays_so_though_another_level_was_open(pytester: pytest.Pytester) -> None:
    # In turn: this stack and the other of one arm, and of the other arm; then all of them backwards.
    joules = "itertools.cycle([1.0374, 1.0, 1.023, 1.0, 1.0, 1.023, 1.0, 1.0374])"
    pytester.makeconftest(re.sub(r"joules = itertools\.chain\(.*\)", f"joules = {joules}", SCATTERING))
    pytester.makepyfile(test_serving=TWO_ARMS)
    first = pytester.runpytest_subprocess(*OPTIONS, "--energy-settle=0", "--energy-journal=open.jsonl")
    judged = [
        "* +3.7 % * regressed",
        "* +2.3 % * inconclusive*",
        "energy: judged 1 of 1 (1 regressed, 1 inconclusive)",
    ]
    first.stdout.fnmatch_lines(judged)
    later = gone_on(pytester, "open.jsonl", "later.jsonl", "--energy-settle=1")  # too little time for anything
    later.stdout.fnmatch_lines(["resumed: 1 of 1 cases from open.jsonl", *judged])
    assert read_journal(pytester.path / "later.jsonl").checks == read_journal(pytester.path / "open.jsonl").checks

    joules = joules.replace("1.0374, 1.0, ", "").replace(", 1.0, 1.0374", "")
    pytester.makeconftest(re.sub(r"joules = itertools\.chain\(.*\)", f"joules = {joules}", SCATTERING))
    settled = gone_on(pytester, "later.jsonl", "settled.jsonl")
    settled.stdout.fnmatch_lines(["*; open there, and metered on: 1", "* 12 * regressed", "* 24 * ok"])
    replayed = pytester.runpytest_subprocess("--energy-replay=settled.jsonl")
    replayed.stdout.fnmatch_lines(["* 12 * regressed", "* 24 * ok"])
    assert (replayed.ret, settled.ret) == (1, 1)


def test_another_stack_is_an_error_and_what_was_known_stands(pytester: pytest.Pytester, left_open: Path) -> None:
    left_open.write_text(re.sub(r'"transformers":"[^"]+"', '"transformers":"4.0"', left_open.read_text()))
    result = gone_on(pytester, "open.jsonl", "other.jsonl")
    result.stdout.fnmatch_lines(["ServedOtherwiseError: * transformers: 4.0 -> *; measure the case anew*"])
    assert runs_by_start(read_journal(pytester.path / "other.jsonl")) == [(12,), (12,)]
    replayed = pytester.runpytest_subprocess("--energy-replay=other.jsonl")
    replayed.stdout.fnmatch_lines(["energy: judged 0 of 1 (1 inconclusive)*"])


SERVING_AND_CALLING = """
import time
from pytest_llm_energy import Scenario

def call():
    time.sleep(0.02)

def test_serving(energy_meter):
    served = energy_meter.measure(Scenario(model="tiny-llama", input_tokens=8, output_tokens=8))
    called = energy_meter.compare(new=call, old=call)
    energy_meter.check(served)
    energy_meter.check(called)
"""


def on_another_board(journal: Path, board: str) -> Path:
    """A journal as if it were of a board that takes a tenth less for the callables."""
    records = [json.loads(line) for line in journal.read_text().splitlines()]
    for record in records:
        if record["record"] == "opened":
            record["when"] = "2026-01-01T00:00:00+00:00"
            record["fingerprint"]["boards"] = [hashlib.sha256(board.encode()).hexdigest()[:12]]
        elif record["record"] == "ran" and record["series"] == 1:
            record["run"]["reading"]["joules"] /= 1.1
    other = journal.with_name("other-board.jsonl")
    other.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return other


def test_what_a_baseline_judges_keeps_the_board_that_it_ran_on(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(NEAR_ITS_BUDGET)
    pytester.makepyfile(test_serving=SERVING_AND_CALLING)
    pytester.runpytest_subprocess(*OPTIONS, "--energy-settle=0", "--energy-journal=first.jsonl")
    first = pytester.path / "first.jsonl"
    for journal in (on_another_board(first, "GPU-simulated-1"), first):
        bless = ["bless", str(journal), "--reason", "first", "--baselines", str(pytester.path / "baselines")]
        assert main([*bless, "--allow-raise"]) == 0
    judged = ["* new * +0.0 % * ok", "* old * +0.0 % * ok"]
    left_open = pytester.runpytest_subprocess("--energy-replay=first.jsonl")
    left_open.stdout.fnmatch_lines([*judged, "energy: judged 1 of 1 (1 inconclusive, 2 ok)"])

    pytester.makeconftest(NEAR_ITS_BUDGET.replace("GPU-simulated-0", "GPU-simulated-1"))
    result = gone_on(pytester, "first.jsonl", "whole.jsonl")
    result.stdout.fnmatch_lines(["* 24 * ok", *judged, "energy: judged 1 of 1 (3 ok)"])
    replayed = pytester.runpytest_subprocess("--energy-replay=whole.jsonl")
    replayed.stdout.fnmatch_lines(["* 24 * ok", *judged, "energy: judged 1 of 1 (3 ok)"])
