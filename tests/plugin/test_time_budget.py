"""What is chosen in a given time, what is said of the rest, and that nothing else is touched."""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from pytest_llm_energy.verdicts.journal import read_journal
from pytest_llm_energy.verdicts.records import Ended, Ran
from tests.journals import SimulatedSession
from tests.plugin.conftest import PLAIN
from tests.unit.measurements import arm

ROOT = Path(__file__).parents[2]

SUITE = """
import time
import pytest
from pytest_llm_energy.planning import durations

durations.WINDOW_OVERHEAD_SECONDS = 0.6  # whatever newer sessions make of it

@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_sum(energy_meter, size):
    result = energy_meter.compare(half=lambda: time.sleep(0.01), whole=lambda: time.sleep(0.02))
    energy_meter.check(result)

def test_of_something_else():
    pass
"""

OTHER_FINDING = """
def test_it(energy_meter):
    energy_meter.check(energy_meter.compare(one=lambda: None, two=lambda: None))
"""

SCENARIOS = """
import pytest
from pytest_llm_energy import Arms, Scenario
from pytest_llm_energy.planning import durations

durations.GPU_START_SECONDS["vllm"] = 60.0  # whatever newer sessions make of it
durations.WINDOW_OVERHEAD_SECONDS = 0.6

PLAIN = Scenario(model="tiny-llama", engine="vllm", input_tokens=8, output_tokens=4)

ARMS = [Arms(many=PLAIN.replace(batch_size=n), one=PLAIN).named(str(n)) for n in (2, 4)]

@pytest.mark.parametrize("arms", ARMS, ids=str)
def test_batches(energy_meter, arms): pass
"""

QUICK = ("-p", "tests.simulated_host", "--energy-runs=2", "--energy-window=0.05", "--energy-gate=off")
"""A case of two functions is expected to take 2.6 s so, nearly all of it between windows."""

WINDOWS = "--energy-window=2.5"
"""Of the suite of scenarios, three an arm: a case is expected to take 15 s in windows."""

TWO_OF_FOUR = "time budget 6s: 2 of 4 cases on h200, about 5.2s (windows 0.4s)"
LEFT_OUT = "left out: 2 cases: sums 2, 3"


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """Four cases, on a host with two simulated H200s."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("LLM_ENERGY_LEASES", str(pytester.path / "leases"))
    monkeypatch.setenv("SIMULATED_LOG", str(pytester.path / "windows.jsonl"))
    monkeypatch.setenv("SIMULATED_DEVICES", "2")
    pytester.makepyfile(test_sums=SUITE)
    pytester.makeini("[pytest]\n")
    return pytester


def collected(pytester: pytest.Pytester, *options: str) -> list[str]:
    result = pytester.runpytest_subprocess("--collect-only", "-q", *options)
    return [line.partition("::")[2] for line in result.outlines if "::" in line]


def test_a_run_says_what_it_chose_and_what_it_left_out_everywhere(suite: pytest.Pytester) -> None:
    result = suite.runpytest_subprocess(
        *QUICK, "--energy-time-budget=6s", "--energy-journal=run.jsonl", "--energy-report=report.md"
    )
    result.stdout.fnmatch_lines(
        [
            "collected 5 items / 2 deselected / 3 selected",
            TWO_OF_FOUR,
            LEFT_OUT,
            "*= energy: NVIDIA H200 * =*",
            TWO_OF_FOUR,
            LEFT_OUT,
            "energy: judged 0 of 2 (*2 left out)",
        ]
    )
    journal = read_journal(suite.path / "run.jsonl")
    assert {key.case for key in journal.seconds} == {"sum[1]", "sum[4]"}
    assert [key.case for key in journal.opened.left_out] == ["sum[2]", "sum[3]"]
    report = (suite.path / "report.md").read_text()
    assert TWO_OF_FOUR in report
    table = report.partition("### Left out by the time budget of 6s")[2]
    assert re.findall(r"\| sums +\| (\d) ", table) == ["2"]
    assert re.findall(r"\| +\| (\d) ", table) == ["3"]


def test_a_case_that_was_left_out_is_named_so_when_the_journal_is_judged(suite: pytest.Pytester) -> None:
    suite.runpytest_subprocess(*QUICK, "--energy-time-budget=6s", "--energy-journal=run.jsonl")
    replayed = suite.runpytest_subprocess("--energy-replay=run.jsonl", "--energy-gate=off")
    replayed.stdout.fnmatch_lines(
        [
            "not judged here, left out by the time budget of its run:",
            "  sums: sum[[]2, 3[]]",
            "energy: judged 0 of 4*",
        ]
    )


def test_workers_choose_alike_and_the_controller_says_so(suite: pytest.Pytester) -> None:
    result = suite.runpytest_subprocess(*QUICK, "--energy-time-budget=6s", "--energy-journal=run.jsonl", "-n2")
    result.stdout.fnmatch_lines(
        ["2 workers [[]3 items[]]", TWO_OF_FOUR, LEFT_OUT, "energy: judged 0 of 2 (*2 left out)"]
    )
    assert {key.case for key in read_journal(suite.path / "run.jsonl").seconds} == {"sum[1]", "sum[4]"}


def test_it_chooses_of_what_is_selected_and_leaves_other_tests_alone(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_other=OTHER_FINDING)
    options = (*QUICK, "--energy-time-budget=6s")
    assert collected(suite, *options) == ["test_it[h200]", "test_sum[h200-1]", "test_of_something_else"]
    assert collected(suite, *options, "-k", "not it and not 200-1 and not else") == [
        "test_sum[h200-2]",
        "test_sum[h200-4]",
    ]
    assert len(collected(suite, *options, "-k", "something")) == 1
    assert len(collected(suite, *QUICK, "--energy-time-budget=1h")) == 6


def test_each_shard_has_the_budget(suite: pytest.Pytester) -> None:
    parts = [collected(suite, *QUICK, "--energy-time-budget=3s", f"--energy-shard={n}/2") for n in (1, 2)]
    assert [sum("test_sum" in name for name in part) for part in parts] == [1, 1]
    assert not set(parts[0]) & set(parts[1])
    whole = [collected(suite, *QUICK, "--energy-time-budget=6s", f"--energy-shard={n}/2") for n in (1, 2)]
    assert sum("test_sum" in name for part in whole for name in part) == 4


def test_what_was_finished_costs_nothing_when_a_run_goes_on(suite: pytest.Pytester) -> None:
    options = (*QUICK, "--energy-time-budget=6s")
    suite.runpytest_subprocess(*options, "--energy-journal=one.jsonl")
    resumed = suite.runpytest_subprocess(*options, "--energy-resume=one.jsonl", "--energy-journal=two.jsonl")
    resumed.stdout.fnmatch_lines(
        [
            "time budget 6s: 2 of 2 cases on h200, about 5.2s (windows 0.4s); 2 cases more, measured before or *",
            "resumed: 2 of 4 cases from one.jsonl",
        ]
    )
    assert len(read_journal(suite.path / "two.jsonl").finished) == 4


def test_a_budget_in_which_nothing_fits_says_what_the_cheapest_case_takes(suite: pytest.Pytester) -> None:
    message = (
        "*--energy-time-budget=2s: none of 4 cases fits; the cheapest, sums sum[[]1[]] on h200, takes about 2.6s "
        "(windows 0.2s)"
    )
    result = suite.runpytest_subprocess(*QUICK, "--energy-time-budget=2s")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])
    spread = suite.runpytest_subprocess(*QUICK, "--energy-time-budget=2s", "-n2")
    assert spread.ret == pytest.ExitCode.USAGE_ERROR
    spread.stdout.fnmatch_lines([message])
    assert not (suite.path / "windows.jsonl").exists()


@pytest.mark.parametrize("text", ["15", "0", "0m", "-5m", "1.5h", "15 m", "m", "15min", ""])
def test_what_is_no_time_is_refused_with_the_forms_there_are(pytester: pytest.Pytester, text: str) -> None:
    result = pytester.runpytest_subprocess(f"--energy-time-budget={text}")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*'{text}' is no time budget: write 90s, 15m or 1h30m"])


@pytest.mark.parametrize("other", ["--energy-replay=run.jsonl", "--energy-self-test"])
def test_options_that_choose_nothing_to_measure_are_refused(pytester: pytest.Pytester, other: str) -> None:
    result = pytester.runpytest_subprocess("--energy-time-budget=15m", other)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*--energy-time-budget chooses what to measure, and {other.partition('=')[0]} *"])


def test_recorded_times_count_for_as_many_windows_as_there_will_be(suite: pytest.Pytester) -> None:
    session = SimulatedSession(suite.path / "earlier.jsonl")
    for size in range(1, 5):
        levels = {"half": (PLAIN, 1.0), "whole": (PLAIN.replace(batch_size=2), 1.0)}
        session.case("sums", f"sum[{size}]", levels, seconds=300.0 if size == 1 else 60.0)
    options = ("-p", "tests.simulated_host", "--energy-costs=earlier.jsonl", "-k", "not else")
    assert collected(suite, *options, "--energy-time-budget=2m") == ["test_sum[h200-2]", "test_sum[h200-4]"]
    assert collected(suite, *options, "--energy-time-budget=2m", "--energy-runs=6") == ["test_sum[h200-4]"]


def test_arms_that_were_metered_more_often_than_others_count_no_more(suite: pytest.Pytester) -> None:
    session = SimulatedSession(suite.path / "earlier.jsonl")
    runs = {"half": arm("half", [1.0] * 12, seconds=1.0).runs, "whole": arm("whole", [1.0] * 3, seconds=20.0).runs}
    records = [
        partial(lambda key, name, run: Ran(key=key, series=0, arm=name, identity=None, run=run), name=name, run=run)
        for name, of_arm in runs.items()
        for run in of_arm
    ]
    session.other("sums", "sum[1]", *records, lambda key: Ended(key=key, seconds=75.0))
    options = ("-p", "tests.simulated_host", "--energy-costs=earlier.jsonl", "--energy-runs=2", "--energy-window=1")
    case = "test_sums.py::test_sum[h200-1]"
    result = suite.runpytest_subprocess(case, "--collect-only", "-q", "--energy-time-budget=5m", *options)
    result.stdout.fnmatch_lines(["time budget 5m: 1 of 1 case on h200, about 43s (windows 42s)"])


def test_both_stacks_and_every_start_are_counted(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_sums=SCENARIOS)
    line = re.compile(r"time budget 1h: 2 of 2 cases on h200, about (\S+) \((.*)\)")

    def stated(*options: str, serves: str = "--energy-python=vllm=python") -> str:
        options = ("-p", "tests.simulated_host", WINDOWS, serves, *options)
        result = suite.runpytest_subprocess("--collect-only", "-q", "--energy-time-budget=1h", *options)
        (found,) = filter(None, map(line.match, result.outlines))
        return found[2]

    assert stated() == "1 engine start 1m, windows 30s"
    assert stated("--energy-against=vllm=other") == "2 engine starts 2m, windows 1m"
    assert stated("--energy-against=transformers=other") == "1 engine start 1m, windows 30s"
    # The second case finds the engines that the first one's second start left, and starts them once more.
    assert stated("--energy-starts=2") == "3 engine starts 3m, windows 30s"
    assert stated("--energy-endpoint-gpus=0", serves="--energy-endpoint=http://localhost:1/v1") == "windows 30s"


def test_metering_on_where_verdicts_are_open_stays_within_the_budget(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_sums=SCENARIOS)
    suite.makeconftest(
        """
from pytest_llm_energy.fixtures import SESSION

def pytest_sessionstart(session):
    session.config.pluginmanager.register(Says())

class Says:
    def pytest_report_collectionfinish(self, config):
        return f"settles for {config.stash[SESSION].patience.seconds:.0f} s"

def pytest_runtestloop(session):
    return True
"""
    )
    options = ("-p", "tests.simulated_host", WINDOWS, "--energy-python=vllm=python", "--energy-against=vllm=other")
    for budget, settles in (("1h", 300), ("4m", 45)):
        result = suite.runpytest_subprocess(*options, f"--energy-time-budget={budget}")
        result.stdout.fnmatch_lines([f"settles for {settles} s"])
    result = suite.runpytest_subprocess(*options, "--energy-time-budget=10m", "--energy-settle=580")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*; 9m40s are kept for --energy-settle"])


def test_collecting_states_what_each_case_costs(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_sums=SCENARIOS)
    options = ("-p", "tests.simulated_host", WINDOWS, "--energy-python=vllm=python", "--collect-only")
    stated = suite.runpytest_subprocess(*options, "-v")
    stated.stdout.fnmatch_lines(
        [
            "finding    case      engine starts    starting    windows    in all",
            "sums       2                     1          1m        15s     1m20s",
            "           4                                          15s       19s",
            "2 cases on h200, about 1m40s (1 engine start 1m, windows 30s)",
        ]
    )
    budgeted = suite.runpytest_subprocess(*options, "--energy-time-budget=90s")
    budgeted.stdout.fnmatch_lines(["left out:", "sums       4 *15s       19s", "time budget 1m30s: 1 of 2 *"])
    assert not any("windows" in line for line in suite.runpytest_subprocess(*options, "-q").outlines)


def test_a_host_without_the_gpu_plans_for_one_and_measures_nothing(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_sums=SCENARIOS)
    options = ("-m", "h200", "--energy-time-budget=90s", WINDOWS)
    planned = suite.runpytest_subprocess(*options, "--collect-only", "-q")
    planned.stdout.fnmatch_lines(["time budget 1m30s: 1 of 2 cases on h200, about 1m20s (*"])
    run = suite.runpytest_subprocess(*options, "--energy-gate=off")
    run.assert_outcomes(skipped=2)


def paper(budget: str) -> set[str]:
    """Findings of the suite that have a case within a budget on an H200."""
    engines = [f"--energy-python={engine}=python" for engine in ("vllm", "transformers")]
    options = ["-m", "h200 and tp1", f"--energy-time-budget={budget}", "--collect-only", "-q", "-pno:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "energy_tests", *options, *engines],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return {line.partition("::")[0] for line in done.stdout.splitlines() if "::" in line}


def test_twenty_minutes_have_a_case_of_every_finding_and_less_has_fewer() -> None:
    found = [paper(budget) for budget in ("2m", "5m", "10m", "20m", "2h")]
    assert [len(findings) for findings in found] == sorted(len(findings) for findings in found)
    assert 0 < len(found[0]) < len(found[3])
    assert found[3] == found[4]


def test_a_gpu_model_that_nobody_has_catalogued_is_planned_for_too(suite: pytest.Pytester) -> None:
    suite.makepyfile(test_sums=SCENARIOS)
    suite.makeconftest(
        "from pytest_llm_energy import session\n"
        "from pytest_llm_energy.hardware.catalogue import identify\n"
        "from pytest_llm_energy.hardware.detection import Device, Host\n"
        "board = Device(index=0, uuid='GPU-simulated-0', name='NVIDIA RTX 9090')\n"
        "session.detect = lambda: Host(spec=identify(board.name), devices=(board,), driver='simulated')\n"
    )
    options = ("--collect-only", "-q", "--energy-time-budget=1h", "--energy-python=vllm=python")
    result = suite.runpytest_subprocess(*options)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["time budget 1h: 2 of 2 cases on *rtx_9090*"])
